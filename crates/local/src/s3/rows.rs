//! What is remembered of buckets, objects and open uploads: rows of the state file.

pub(crate) mod about;
pub(crate) mod buckets;
pub(crate) mod changes;
pub(crate) mod listing;
pub(crate) mod uploads;
pub(crate) mod versions;
