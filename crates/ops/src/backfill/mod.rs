//! Answers for images that are in the input bucket already: which ones, at what price, and by which way.
//!
//! ```text
//! input bucket ─scan─▶ pending images ─┬─manifest─▶ job of S3 Batch Operations ─▶ function `Backfill`
//!       table ──┘                      └─feeder──▶ queue `backfill-<stage>` ─▶ worker of the embedded stack
//! ```
//!
//! It never classifies anything, and never uses the queue of live uploads. It keeps no list of what is done: the table
//! says what is answered, so that a run that was ended goes on by being started again.

mod estimate;
mod feeder;
mod job;
mod manifest;
mod scan;

pub use estimate::{Plan, Way};
pub use feeder::{Fed, Feeder, MarkState, RunMark};
pub use job::{BatchJobs, JobState, control_client};
pub use manifest::{Manifest, ManifestWriter};
pub use scan::{Scan, ScannedPage, Selection, Totals};

use giemsa_store::queues::QueueClientError;
use giemsa_store::{QueryError, UploadsError};

/// Why a backfill cannot go on; what was answered stays answered.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// The input bucket cannot be listed.
    #[error(transparent)]
    Listing(#[from] UploadsError),
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] QueryError),
    /// The manifest cannot be written.
    #[error("the manifest {location} cannot be written: {detail}")]
    Manifest {
        /// S3 URI.
        location: String,
        /// What S3 or the network says.
        detail: String,
    },
    /// S3 Batch Operations does not do as asked.
    #[error("{what}: {detail}")]
    Job {
        /// What was asked.
        what: String,
        /// What S3 or the network says.
        detail: String,
    },
    /// A job that does something else.
    #[error(
        "job {job_id} is not a backfill of this stack: it invokes {found}, expected {expected} (GIEMSA_BACKFILL_FUNCTION_ARN)"
    )]
    ForeignJob {
        /// The job.
        job_id: String,
        /// What it invokes.
        found: String,
        /// The function of `GIEMSA_BACKFILL_FUNCTION_ARN`.
        expected: String,
    },
    /// The queue does not do as asked.
    #[error(transparent)]
    Queue(#[from] QueueClientError),
    /// The mark of a run cannot be read or written.
    #[error("the mark of this run, {location}, cannot be used: {detail}")]
    Mark {
        /// S3 URI.
        location: String,
        /// What S3 or the network says.
        detail: String,
    },
}
