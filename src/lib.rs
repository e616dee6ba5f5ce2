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
pub mod aws;
#[cfg(feature = "local")]
pub mod backfill;
pub mod classification;
pub mod config;
#[cfg(feature = "local")]
pub mod cost;
pub mod cpu_pool;
pub mod crashes;
#[cfg(feature = "dashboard")]
pub mod dashboard;
pub mod digest;
pub mod event;
#[cfg(feature = "local")]
pub mod export;
pub mod gate_handler;
pub mod golden;
pub mod handler;
pub mod image;
#[cfg(feature = "local")]
pub mod inventory;
#[cfg(feature = "local")]
pub mod local;
pub mod metrics;
pub mod model;
pub mod notes;
pub mod object;
pub mod outcome;
pub mod pipeline;
pub mod price;
#[cfg(feature = "dashboard")]
pub mod queues;
pub mod reclassify;
#[cfg(feature = "local")]
pub mod reconcile;
pub mod release;
pub mod serving;
pub mod shadow;
pub mod slide;
pub mod statistics;
pub mod store;
pub mod xray;
