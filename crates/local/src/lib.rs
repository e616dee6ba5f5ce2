//! The local stack: S3, DynamoDB and a queue on this machine, so that the same code runs here as in the cloud.
//!
//! ```text
//! aws client, SDK ──HTTP──▶ listener ─▶ s3 ──bytes──▶ <data>/s3
//!                                       └─rows + notification, one transaction─▶ <data>/queue.sqlite ─▶ queue ─▶ worker
//!                 ──HTTP──▶ sqs ─▶ queue
//!                 ──HTTP──▶ dynamodb ─▶ dynoxide ─▶ <data>/dynamodb.sqlite
//! ```
//!
//! With `giemsa up --faults`, `faulty` stands in front of both servers and beside the worker.
//!
//! The pipeline reaches it through the real AWS SDKs over HTTP and does not know that it is local.
//! Never listens on other addresses than 127.0.0.1. Invariant: killed at any moment and started again, it goes on with
//! what was uploaded and not answered.

mod cloudwatch;
mod dashboard;
mod faulty;
pub mod lock;
mod process;
pub mod queue;
pub mod s3;
mod seed;
mod servers;
mod sign_in;
pub mod sqs;
mod stack;
mod state;
mod worker;

pub use giemsa_config::local::{INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET, TABLE};
pub use lock::{DataDirLock, LockError};
pub use process::{DutiesError, run_duties};
pub use s3::{LOCAL_ACCESS_KEY_ID, LOCAL_SECRET_ACCESS_KEY};
pub use servers::{LocalError, ServerSettings, Servers, Subscription, credentials};
pub use servers::{dynamodb, listener};
pub use stack::{Stack, StackError, StackSettings, sample_model};
pub use state::StateError;
