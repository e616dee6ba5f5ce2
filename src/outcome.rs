//! What became of one object, and what a failure means: `Retry` or `Reject`.
//!
//! This file never acts on an outcome. Invariant: every failure that the pipeline can meet is in
//! [`Failure`], and [`Failure::disposition`] is one exhaustive match.

use std::time::Duration;

use crate::serving::RegistryError;
use giemsa_core::object::SkipReason;
use giemsa_core::record::GONE_CODE;
use giemsa_image::DecodeError;
use giemsa_model::ModelError;
use giemsa_store::{FetchError, QueryError, StoreError};

/// What became of one object of a delivery.
#[derive(Debug)]
pub enum Outcome {
    /// A record is stored: the image is classified, or rejected with a reason.
    Answered(StoredResult),
    /// Nothing had to be done, and why.
    Skipped(SkipReason),
    /// Nothing final is known: the trigger has to deliver it again.
    Retry(Failure),
}

/// The terminal state of an image, as it was stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredResult {
    /// Name of the stored result.
    pub result_id: String,
    /// The label, or `None` if the image was rejected.
    pub label: Option<String>,
    /// Code and sentence, if the image was rejected.
    pub reject: Option<(String, String)>,
}

/// Everything that can go wrong with one object.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The object could not be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The bytes are no image that can be classified.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The network failed on this image.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// There is no model to classify with.
    #[error("no model to classify with: {0}")]
    NoModel(String),
    /// Whether it was answered before could not be read.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The record could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The result is stored, but the figures that it belongs to do not know of it.
    #[error("the result is stored, but the counts of the {place} could not be invalidated: {detail}")]
    ActivityNotNoted {
        /// The slide or day.
        place: String,
        /// What the table says.
        detail: String,
    },
    /// The event names a bucket that this deployment does not serve.
    #[error(
        "the object is in bucket {bucket:?}, but GIEMSA_INPUT_BUCKET is {expected:?}; correct the trigger or the setting"
    )]
    ForeignBucket {
        /// Bucket of the event.
        bucket: String,
        /// Bucket of the configuration.
        expected: String,
    },
    /// The code panicked on this image.
    #[error("classifying the image panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The process ended while it answered the image.
    #[error("{reason}")]
    ProcessEnded {
        /// How, a sentence.
        reason: String,
    },
    /// The image took longer than is allowed.
    #[error("the image was not classified within {} ms (GIEMSA_IMAGE_TIMEOUT_MS)", limit.as_millis())]
    ImageTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The invocation has no time left to start or finish this image.
    #[error("no time is left in this invocation; the image is handed back")]
    NoTimeLeft,
}

/// What a failure means for the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// It may work another time: the trigger delivers it again.
    Retry,
    /// It would fail for ever: it is recorded, with a code for programs and a sentence for people.
    Reject {
        /// Stable, snake_case.
        code: &'static str,
        /// A sentence a technician understands.
        message: String,
    },
}

impl Failure {
    /// Whether to retry or to reject. Whatever is not certain to fail for ever is retried.
    pub fn disposition(&self) -> Disposition {
        let reject = |code| Disposition::Reject { code, message: self.to_string() };
        match self {
            Self::Fetch(FetchError::NotFound { .. }) => reject(GONE_CODE),
            Self::Fetch(FetchError::TooLarge { .. }) => reject("too_large"),
            Self::Fetch(
                FetchError::Incomplete { .. } | FetchError::Damaged { .. } | FetchError::Request { .. },
            ) => Disposition::Retry,
            // The only one that is not a property of the file.
            Self::Decode(DecodeError::OutOfTime) => Disposition::Retry,
            Self::Decode(error) => reject(error.code()),
            Self::Model(_)
            | Self::NoModel(_)
            | Self::Query(_)
            | Self::Store(_)
            | Self::ActivityNotNoted { .. }
            | Self::ForeignBucket { .. }
            | Self::Panicked { .. }
            | Self::ProcessEnded { .. }
            | Self::ImageTimeout { .. }
            | Self::NoTimeLeft => Disposition::Retry,
        }
    }
}

impl From<std::sync::Arc<RegistryError>> for Failure {
    fn from(error: std::sync::Arc<RegistryError>) -> Self {
        Self::NoModel(error.to_string())
    }
}
