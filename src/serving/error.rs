//! Why there is no model to serve.

use std::time::Duration;

use giemsa_model::too_large;
use giemsa_store::BucketError;

/// Why there is no model to serve.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Nobody copied a model yet.
    #[error("there is no model at {location}; copy one there: aws s3 cp model.onnx {location}")]
    Absent {
        /// S3 URI.
        location: String,
    },
    /// The file is larger than is allowed.
    #[error("the model at {location} is refused: {}", too_large(*size_bytes, *limit_bytes))]
    TooLarge {
        /// S3 URI.
        location: String,
        /// Size of the object, bytes.
        size_bytes: u64,
        /// The limit, bytes.
        limit_bytes: u64,
    },
    /// The file is not a usable model.
    #[error("the model at {location} (sha256 {sha256}) is refused: {detail}")]
    Refused {
        /// S3 URI.
        location: String,
        /// Digest of the refused file.
        sha256: String,
        /// What is wrong with it and how to mend it.
        detail: String,
    },
    /// The file is a model that the stage may not serve: its golden report is missing or failing.
    #[error("the model at {location} (sha256 {sha256}) is not accepted: {detail}")]
    NotAccepted {
        /// S3 URI.
        location: String,
        /// Digest of the file.
        sha256: String,
        /// What is missing and how to mend it.
        detail: String,
    },
    /// The file is being loaded, and takes long.
    #[error(
        "the model at {location} (sha256 {sha256}) is still being loaded after {} s; if it never ends, make the \
         network smaller", elapsed.as_secs()
    )]
    StillLoading {
        /// S3 URI.
        location: String,
        /// Digest of the file.
        sha256: String,
        /// Since when.
        elapsed: Duration,
    },
    /// The file was refused before, and has not changed since.
    #[error("{earlier}")]
    StillRefused {
        /// The message of then.
        earlier: String,
    },
    /// The bucket or the table could not be asked.
    #[error("the model at {location} cannot be read: {detail}")]
    Unreachable {
        /// S3 URI.
        location: String,
        /// What S3, the table or the network says.
        detail: String,
    },
}

impl RegistryError {
    /// Whether there is a file, and it is refused: then the model that served last may go on.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::TooLarge { .. }
            | Self::Refused { .. }
            | Self::NotAccepted { .. }
            | Self::StillRefused { .. } => true,
            Self::Absent { .. } | Self::StillLoading { .. } | Self::Unreachable { .. } => false,
        }
    }
}

impl From<BucketError> for RegistryError {
    fn from(BucketError { location, detail, .. }: BucketError) -> Self {
        Self::Unreachable { location, detail }
    }
}
