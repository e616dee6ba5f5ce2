//! Lists what was uploaded.
//!
//! A page ends with a marker that continues exactly after it, and keys are listed as S3 names them, whatever characters
//! they hold.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::primitives::DateTime as SdkTime;
use aws_sdk_s3::types::{EncodingType, Object, ObjectVersion};
use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::CurrentResult;

/// Characters that stay as they are in a form-encoded key, as S3 encodes them.
const KEPT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/').remove(b' ');

/// What tells an upload from others of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadVersion {
    /// The version that S3 gave it.
    Id(String),
    /// The version `null`: of a bucket without versions, or from before it had them. The ETag tells uploads apart.
    Null,
    /// Not said by the listing; the ETag tells uploads apart.
    Unknown,
}

impl UploadVersion {
    /// Reads a version as S3 writes it: `null` and an empty text are no version of its own.
    pub fn of_text(text: &str) -> Self {
        if text.is_empty() || text == "null" { Self::Null } else { Self::Id(text.to_owned()) }
    }
}

/// One image that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Object key.
    pub key: String,
    /// Which of the uploads of this key.
    pub version: UploadVersion,
    /// ETag without quotes.
    pub etag: String,
    /// Size, bytes.
    pub size_bytes: u64,
    /// When it was uploaded.
    pub uploaded_at: DateTime<Utc>,
    /// Whether S3 shows it under its key: no newer upload and no delete marker is above it.
    pub is_latest: bool,
}

impl Upload {
    /// The S3 version, if it has one of its own.
    pub fn version_id(&self) -> Option<&str> {
        match &self.version {
            UploadVersion::Id(version_id) => Some(version_id),
            UploadVersion::Null | UploadVersion::Unknown => None,
        }
    }

    /// What tells it from other uploads of its key, as in [`ImageInfo`](giemsa_core::record::ImageInfo): the version,
    /// or else the ETag.
    pub fn object_version(&self) -> &str {
        self.version_id().unwrap_or(&self.etag)
    }

    /// Whether `result` answers this upload, which is there: that it was gone is not an answer to it.
    pub fn is_answered_by(&self, result: &CurrentResult) -> bool {
        self.is_image(result.version_id.as_deref(), result.etag.as_deref()) && !result.is_gone()
    }

    /// Whether a record is of this upload.
    pub fn is_image(&self, version_id: Option<&str>, etag: Option<&str>) -> bool {
        match &self.version {
            UploadVersion::Id(own) => version_id == Some(own),
            UploadVersion::Null => version_id.is_none() && etag == Some(&self.etag),
            UploadVersion::Unknown => etag == Some(&self.etag),
        }
    }
}

/// Where a page of a listing ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadMarker {
    /// The last key.
    pub key: String,
    /// The last version of it, where versions are listed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version_id: Option<String>,
}

/// Why uploads or their result objects could not be read.
#[derive(Debug, thiserror::Error)]
pub enum UploadsError {
    /// S3 or the network failed.
    #[error("{what} failed on s3://{bucket}/{key}: {detail}; the permissions needed: {permissions}")]
    Request {
        /// The operation.
        what: &'static str,
        /// The bucket.
        bucket: String,
        /// Key or prefix.
        key: String,
        /// What S3 or the network says.
        detail: String,
        /// The actions that a policy has to allow.
        permissions: &'static str,
    },
    /// A listing lacks what S3 always says.
    #[error(
        "the listing of s3://{bucket}/{prefix} has an entry without its {field}; expected a listing as S3 gives it"
    )]
    Incomplete {
        /// The bucket.
        bucket: String,
        /// The prefix.
        prefix: String,
        /// What is missing.
        field: &'static str,
    },
}

/// The uploads of a bucket, page by page in the order of keys, newest version first.
#[derive(Debug, Clone)]
pub struct UploadListing {
    s3: Client,
    bucket: String,
    prefix: String,
    is_versioned: bool,
}

impl UploadListing {
    /// Asks whether the bucket keeps versions, or ever did, which decides how it is listed.
    ///
    /// # Errors
    /// [`UploadsError::Request`] if S3 does not say.
    pub async fn open(
        s3: Client,
        bucket: impl Into<String>,
        prefix: impl Into<String>,
    ) -> Result<Self, UploadsError> {
        let (bucket, prefix) = (bucket.into(), prefix.into());
        let asked = s3.get_bucket_versioning().bucket(&bucket).send().await;
        let asked = asked.map_err(|e| failed("GetBucketVersioning", &bucket, "", &e))?;
        let is_versioned = asked.status().is_some();
        Ok(Self { s3, bucket, prefix, is_versioned })
    }

    /// The client that it asks.
    pub fn client(&self) -> Client {
        self.s3.clone()
    }

    /// Whether versions are listed.
    pub fn is_versioned(&self) -> bool {
        self.is_versioned
    }

    /// The page after `after`, at most 1,000 uploads, and where the next one starts if there is one. A page can be empty
    /// before the end: delete markers are not uploads.
    ///
    /// # Errors
    /// [`UploadsError`].
    pub async fn page(
        &self,
        after: Option<&UploadMarker>,
    ) -> Result<(Vec<Upload>, Option<UploadMarker>), UploadsError> {
        if self.is_versioned { self.page_of_versions(after).await } else { self.page_of_objects(after).await }
    }

    async fn page_of_objects(
        &self,
        after: Option<&UploadMarker>,
    ) -> Result<(Vec<Upload>, Option<UploadMarker>), UploadsError> {
        let request = self.s3.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix);
        let page = request
            // A key can hold characters that XML cannot.
            .encoding_type(EncodingType::Url)
            // By key and not by token: a token may be worthless tomorrow, when a run is taken up again.
            .set_start_after(after.map(|marker| marker.key.clone()))
            .send()
            .await
            .map_err(|e| failed("ListObjectsV2", &self.bucket, &self.prefix, &e))?;
        let uploads: Vec<Upload> = page
            .contents()
            .iter()
            .map(|object| self.upload_of_object(page.encoding_type(), object))
            .collect::<Result<_, _>>()?;
        let more = page.is_truncated() == Some(true);
        let last = uploads.last().filter(|_| more);
        let next = last.map(|upload| UploadMarker { key: upload.key.clone(), version_id: None });
        Ok((uploads, next))
    }

    async fn page_of_versions(
        &self,
        after: Option<&UploadMarker>,
    ) -> Result<(Vec<Upload>, Option<UploadMarker>), UploadsError> {
        let request = self.s3.list_object_versions().bucket(&self.bucket).prefix(&self.prefix);
        let page = request
            .encoding_type(EncodingType::Url)
            .set_key_marker(after.map(|marker| marker.key.clone()))
            .set_version_id_marker(after.and_then(|marker| marker.version_id.clone()))
            .send()
            .await
            .map_err(|e| failed("ListObjectVersions", &self.bucket, &self.prefix, &e))?;
        let uploads =
            page.versions().iter().map(|version| self.upload_of_version(page.encoding_type(), version));
        let uploads: Vec<Upload> = uploads.collect::<Result<_, _>>()?;
        let next = match (page.is_truncated(), page.next_key_marker()) {
            (Some(true), Some(key)) => Some(UploadMarker {
                key: listed_key(page.encoding_type(), key),
                version_id: page.next_version_id_marker().map(str::to_owned),
            }),
            (Some(true), None) => return Err(self.incomplete("next key marker")),
            _ => None,
        };
        Ok((uploads, next))
    }

    fn upload_of_object(
        &self,
        encoding: Option<&EncodingType>,
        object: &Object,
    ) -> Result<Upload, UploadsError> {
        Ok(Upload {
            key: listed_key(encoding, object.key().ok_or_else(|| self.incomplete("key"))?),
            version: UploadVersion::Null,
            etag: unquoted(object.e_tag().ok_or_else(|| self.incomplete("ETag"))?),
            size_bytes: self.size(object.size())?,
            uploaded_at: self.time(object.last_modified())?,
            is_latest: true,
        })
    }

    fn upload_of_version(
        &self,
        encoding: Option<&EncodingType>,
        version: &ObjectVersion,
    ) -> Result<Upload, UploadsError> {
        Ok(Upload {
            key: listed_key(encoding, version.key().ok_or_else(|| self.incomplete("key"))?),
            version: UploadVersion::of_text(version.version_id().unwrap_or_default()),
            etag: unquoted(version.e_tag().ok_or_else(|| self.incomplete("ETag"))?),
            size_bytes: self.size(version.size())?,
            uploaded_at: self.time(version.last_modified())?,
            is_latest: version.is_latest() == Some(true),
        })
    }

    fn size(&self, size: Option<i64>) -> Result<u64, UploadsError> {
        size.and_then(|size| u64::try_from(size).ok()).ok_or_else(|| self.incomplete("size"))
    }

    fn time(&self, time: Option<&SdkTime>) -> Result<DateTime<Utc>, UploadsError> {
        time.and_then(utc).ok_or_else(|| self.incomplete("time of upload"))
    }

    fn incomplete(&self, field: &'static str) -> UploadsError {
        UploadsError::Incomplete { bucket: self.bucket.clone(), prefix: self.prefix.clone(), field }
    }

    /// What S3 has now of an upload that was listed: its own version, or else what is under its key; `None` if it is
    /// gone.
    ///
    /// # Errors
    /// [`UploadsError`].
    pub async fn look(&self, upload: &Upload) -> Result<Option<Upload>, UploadsError> {
        self.head(&upload.key, upload.version_id(), upload.is_latest).await
    }

    /// What S3 shows under a key now; `None` if nothing.
    ///
    /// # Errors
    /// [`UploadsError`].
    pub async fn newest(&self, key: &str) -> Result<Option<Upload>, UploadsError> {
        self.head(key, None, true).await
    }

    async fn head(
        &self,
        key: &str,
        version_id: Option<&str>,
        is_latest: bool,
    ) -> Result<Option<Upload>, UploadsError> {
        let request = self.s3.head_object().bucket(&self.bucket).key(key);
        let found = match request.set_version_id(version_id.map(str::to_owned)).send().await {
            Ok(found) => found,
            // 405 is a delete marker, asked for by its version.
            Err(e) if matches!(e.raw_response().map(|r| r.status().as_u16()), Some(404 | 405)) => {
                return Ok(None);
            }
            Err(e) => return Err(failed("HeadObject", &self.bucket, key, &e)),
        };
        Ok(Some(Upload {
            key: key.to_owned(),
            version: UploadVersion::of_text(found.version_id().unwrap_or_default()),
            etag: unquoted(found.e_tag().ok_or_else(|| self.incomplete("ETag"))?),
            size_bytes: self.size(found.content_length())?,
            uploaded_at: self.time(found.last_modified())?,
            is_latest,
        }))
    }
}

/// A key as S3 notifications, URL-encoded listings and inventories in CSV carry it.
pub fn form_encoded(key: &str) -> String {
    utf8_percent_encode(key, KEPT).to_string().replace(' ', "+")
}

/// A key of a listing for which encoded keys were asked; `encoding` is what the answer says of its keys.
///
/// Servers other than AWS may list keys as they are and then say nothing: decoded, `a+b` would be another key.
pub fn listed_key(encoding: Option<&EncodingType>, key: &str) -> String {
    match encoding {
        Some(EncodingType::Url) => form_decoded(key),
        _ => key.to_owned(),
    }
}

/// The key of its form-encoded text.
pub fn form_decoded(encoded: &str) -> String {
    // S3 keys are UTF-8, and so is what they are decoded to.
    percent_decode_str(&encoded.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn unquoted(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

fn utc(time: &SdkTime) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.secs(), time.subsec_nanos())
}

pub(crate) fn permissions(what: &str) -> &'static str {
    match what {
        "GetBucketVersioning" => "s3:GetBucketVersioning on the input bucket",
        "ListObjectVersions" => "s3:ListBucketVersions on the bucket",
        "ListObjectsV2" => "s3:ListBucket on the bucket",
        _ => "s3:GetObject and s3:GetObjectVersion on the objects, s3:ListBucket on the bucket",
    }
}

pub(crate) fn failed<E>(what: &'static str, bucket: &str, key: &str, error: &SdkError<E>) -> UploadsError
where
    E: std::error::Error + 'static,
{
    UploadsError::Request {
        what,
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        detail: DisplayErrorContext(error).to_string(),
        permissions: permissions(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_key_is_decoded_only_if_the_answer_says_that_it_is_encoded() {
        assert_eq!(listed_key(Some(&EncodingType::Url), "a+b%2B100%25.png"), "a b+100%.png");
        assert_eq!(listed_key(None, "a+b%2B100%25.png"), "a+b%2B100%25.png");
    }
}
