//! What people do with images that are in the bucket, and with models.

pub mod backfill;
pub mod cost;
pub mod export;
pub mod inventory;
pub mod reconcile;
pub mod release;
