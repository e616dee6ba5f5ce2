//! Why a model was not released, and the way out.
//!
//! Whatever error a release ends with, the stage serves what it served before, or the history tells.

use super::MIN_DIGEST_DIGITS;
use giemsa_model::LoadError;
use giemsa_model::too_large;
use giemsa_store::{BucketError, QueryError, StoreError};

/// Why a model was not released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// There is no model to release.
    #[error("there is no model at {location}; put one there: giemsa model push model.onnx")]
    Absent {
        /// S3 URI.
        location: String,
    },
    /// The model cannot serve.
    #[error("the model at {location} (sha256 {sha256}) cannot serve")]
    Unusable {
        /// S3 URI.
        location: String,
        /// Its digest.
        sha256: String,
        /// Why.
        #[source]
        source: Box<LoadError>,
    },
    /// The model is larger than the functions load.
    #[error("the model at {location} cannot serve: {}", too_large(*size_bytes, *limit_bytes))]
    TooLarge {
        /// S3 URI.
        location: String,
        /// Its size, bytes.
        size_bytes: u64,
        /// The limit, bytes.
        limit_bytes: u64,
    },
    /// The file is not the one that its name says.
    #[error("{location} has the sha256 {found}, which is not that of its name; put the right file there")]
    Damaged {
        /// S3 URI.
        location: String,
        /// Its digest.
        found: String,
    },
    /// The golden set was not run on the model.
    #[error(
        "sha256 {sha256} has no report of the golden set ({location}): wait for the gate, which runs when the model is \
         put into dev, or see what it would say with giemsa model check; to release it anyway: \
         --force --reason \"…\""
    )]
    NoReport {
        /// Digest of the model.
        sha256: String,
        /// S3 URI of the report.
        location: String,
    },
    /// The golden set refuses the model.
    #[error(
        "sha256 {sha256} failed the golden set ({location}): {}; to release it anyway: --force --reason \"…\"",
        reasons.join("; ")
    )]
    FailedReport {
        /// Digest of the model.
        sha256: String,
        /// S3 URI of the report.
        location: String,
        /// Why.
        reasons: Vec<String>,
    },
    /// The report cannot be read.
    #[error(
        "{location} is not a report of the golden set: {detail}; delete it, and put the model into dev again"
    )]
    BadReport {
        /// S3 URI.
        location: String,
        /// What the reader says.
        detail: String,
    },
    /// A forced release without a reason.
    #[error("--force needs a --reason, which stays in the history")]
    NoReason,
    /// Nothing to go back to.
    #[error(
        "the history of {stage} names no model before the one that it serves; name one: giemsa model rollback DIGEST \
         (giemsa model list shows the archive)"
    )]
    NothingBefore {
        /// The stage.
        stage: String,
    },
    /// A digest names no archived model, or several.
    #[error(
        "{digest:?} names {} of the archive; expected at least {MIN_DIGEST_DIGITS} digits of the sha256 of one \
         (giemsa model list)",
        if found.is_empty() { "no model".to_owned() } else { format!("{} models ({})", found.len(), found.join(", ")) }
    )]
    Digest {
        /// What was given.
        digest: String,
        /// Digests that begin so.
        found: Vec<String>,
    },
    /// Somebody else released at the same time and won.
    #[error(
        "somebody else released to {stage} at the same moment: it serves sha256 {winner} now, and {sha256} was not \
         released; look at giemsa model history, and release again if you still want to"
    )]
    Lost {
        /// The stage.
        stage: String,
        /// Digest of the model that was not released.
        sha256: String,
        /// Digest of the model that was.
        winner: String,
    },
    /// The model bucket failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The table could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table could not be read.
    #[error(transparent)]
    Query(#[from] QueryError),
}
