//! Giemsa classifies microscope images as they are uploaded to S3.
//!
//! One type per arrow, ownership moves forward, no stage calls the next; only [`pipeline`] knows the order:
//!
//! ```text
//! trigger JSON ─event─▶ Delivery{id, notices} ─▶ ObjectRef ─fetch─▶ bytes ─decode─▶ pixels ─preprocess─▶ tensor
//!    ─model─▶ scores ─decide─▶ Record ─store─▶ results prefix + DynamoDB ─▶ Outcome ─▶ answer to the trigger
//! ```
//!
//! `ARCHITECTURE.md` maps the files.

pub mod analysis;
pub mod cpu_pool;
pub mod crashes;
pub mod gate_handler;
pub mod golden;
pub mod handler;
pub mod notes;
pub mod outcome;
pub mod pipeline;
pub mod reclassify;
pub mod serving;
