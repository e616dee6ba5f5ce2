//! What is remembered of an object beside its bytes: the headers that it was uploaded with, and its checksums.
//!
//! Kept as JSON in the row of a version or of an open upload.

use s3s::dto::{Metadata, Timestamp};
use serde::{Deserialize, Serialize};

use crate::s3::StoreError;

macro_rules! about {
    ($($field:ident: $of:ty),+ $(,)?) => {
        /// The headers and checksums of an object, by the names that S3's messages give them.
        #[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
        pub(crate) struct About {
            $(
                #[serde(skip_serializing_if = "Option::is_none")]
                pub(crate) $field: Option<$of>,
            )+
        }
    };
}

about! {
    cache_control: String,
    content_disposition: String,
    content_encoding: String,
    content_language: String,
    content_type: String,
    expires: Timestamp,
    metadata: Metadata,
    website_redirect_location: String,
    checksum_crc32: String,
    checksum_crc32c: String,
    checksum_crc64nvme: String,
    checksum_sha1: String,
    checksum_sha256: String,
}

impl About {
    /// Reads what [`to_json`](Self::to_json) wrote.
    pub(crate) fn from_json(text: &str) -> Result<Self, StoreError> {
        serde_json::from_str(text).map_err(|source| StoreError::About { source })
    }

    pub(crate) fn to_json(&self) -> Result<String, StoreError> {
        serde_json::to_string(self).map_err(|source| StoreError::About { source })
    }
}

/// Moves the checksums of one of S3's messages, or of an [`About`], to another.
macro_rules! move_checksums {
    ($from:expr, $to:expr) => {
        $to.checksum_crc32 = $from.checksum_crc32.take();
        $to.checksum_crc32c = $from.checksum_crc32c.take();
        $to.checksum_crc64nvme = $from.checksum_crc64nvme.take();
        $to.checksum_sha1 = $from.checksum_sha1.take();
        $to.checksum_sha256 = $from.checksum_sha256.take();
    };
}

/// Moves the headers of one of S3's messages, or of an [`About`], to another.
macro_rules! move_headers {
    ($from:expr, $to:expr) => {
        $to.cache_control = $from.cache_control.take();
        $to.content_disposition = $from.content_disposition.take();
        $to.content_encoding = $from.content_encoding.take();
        $to.content_language = $from.content_language.take();
        $to.content_type = $from.content_type.take();
        $to.expires = $from.expires.take();
        $to.metadata = $from.metadata.take();
        $to.website_redirect_location = $from.website_redirect_location.take();
    };
}

pub(crate) use {move_checksums, move_headers};
