//! Reads uploaded objects.
//!
//! It never reads more than the limit, and never takes a part for the whole. What is said of an object (version, ETag,
//! size, time) is what was read, not what the event claimed.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_sdk_s3::types::ServerSideEncryption;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use md5::{Digest, Md5};

use giemsa_core::digest::hex;
use giemsa_core::object::ObjectRef;
use giemsa_core::record::ImageInfo;

/// An object as it was read.
#[derive(Debug, Clone)]
pub struct FetchedObject {
    /// The whole content.
    pub bytes: Bytes,
    /// Bucket, key, version, ETag, size and time of what was read.
    pub image: ImageInfo,
}

/// Why an object was not read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It is not there, or no longer.
    #[error(
        "the image is no longer in the bucket: {object} was deleted or renamed after its upload; upload it again"
    )]
    NotFound {
        /// The object.
        object: String,
    },
    /// It is larger than is allowed.
    #[error(
        "the file has {size_bytes} bytes, more than the {limit_bytes} allowed; export it at a lower resolution or \
         compressed"
    )]
    TooLarge {
        /// Size, bytes.
        size_bytes: u64,
        /// The limit, bytes.
        limit_bytes: u64,
        /// The object as it was found.
        image: Box<ImageInfo>,
    },
    /// Fewer or more bytes arrived than S3 announced.
    #[error("{object} arrived incomplete: {found_bytes} of {expected_bytes} bytes")]
    Incomplete {
        /// The object.
        object: String,
        /// Announced size, bytes.
        expected_bytes: u64,
        /// Bytes that arrived.
        found_bytes: u64,
    },
    /// What arrived is not what was uploaded.
    #[error("{object} arrived damaged: its MD5 is {found}, but its ETag is {expected}")]
    Damaged {
        /// The object.
        object: String,
        /// The ETag.
        expected: String,
        /// MD5 of what arrived.
        found: String,
    },
    /// S3 or the network failed.
    #[error("{object} cannot be read: {detail}")]
    Request {
        /// The object.
        object: String,
        /// What S3 or the network says.
        detail: String,
    },
}

/// Reads an object: the version the event names, or else the one that is there now.
///
/// An unversioned object may have been replaced since the event; then the newer image is read, under its own
/// ETag, which is the result that its own event asks for as well.
///
/// # Errors
/// [`FetchError`]; an object larger than `max_bytes` is refused before its content is read.
pub async fn fetch_object(
    s3: &Client,
    object: &ObjectRef,
    max_bytes: u64,
) -> Result<FetchedObject, FetchError> {
    let request = s3.get_object().bucket(&object.bucket).key(&object.key);
    let mut found = request
        .set_version_id(object.version_id.clone())
        .send()
        .await
        .map_err(|error| fetch_error(object, &error))?;

    let size_bytes = found.content_length().and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
    let uploaded_at =
        found.last_modified().and_then(|at| DateTime::<Utc>::from_timestamp(at.secs(), at.subsec_nanos()));
    let image = ImageInfo {
        version_id: found.version_id().filter(|version| *version != "null").map(str::to_owned),
        etag: found.e_tag().map(|etag| etag.trim_matches('"').to_owned()),
        size_bytes: Some(size_bytes),
        uploaded_at: uploaded_at.or(object.event_time),
        ..ImageInfo::of_object(object)
    };
    if size_bytes > max_bytes {
        return Err(FetchError::TooLarge { size_bytes, limit_bytes: max_bytes, image: Box::new(image) });
    }

    let capacity =
        usize::try_from(size_bytes).expect("an object in memory is smaller than the address space");
    let mut bytes = BytesMut::with_capacity(capacity);
    let mut md5 = md5_to_check(&found).map(|expected| (expected, Md5::new()));
    let incomplete = |found_bytes: usize| FetchError::Incomplete {
        object: object.to_string(),
        expected_bytes: size_bytes,
        found_bytes: found_bytes as u64,
    };
    while let Some(chunk) = found.body.next().await {
        let chunk = chunk.map_err(|error| FetchError::Request {
            object: object.to_string(),
            detail: DisplayErrorContext(&error).to_string(),
        })?;
        if bytes.len() + chunk.len() > capacity {
            return Err(incomplete(bytes.len() + chunk.len()));
        }
        bytes.extend_from_slice(&chunk);
        if let Some((_, md5)) = &mut md5 {
            md5.update(&chunk);
        }
    }
    if bytes.len() != capacity {
        return Err(incomplete(bytes.len()));
    }
    if let Some((expected, md5)) = md5 {
        let found = hex(&md5.finalize());
        if found != expected {
            return Err(FetchError::Damaged { object: object.to_string(), expected, found });
        }
    }
    Ok(FetchedObject { bytes: bytes.freeze(), image })
}

/// The MD5 that the content must have, where nothing else protects it: an upload that was sent without a checksum.
///
/// The SDK checks the checksum of an object that has one. An ETag is the MD5 of an object that was uploaded at once and
/// is not encrypted by a key of KMS or of the customer
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html>).
fn md5_to_check(found: &GetObjectOutput) -> Option<String> {
    let is_of_all = |checksum: &str| !checksum.contains('-');
    let checksums = [
        found.checksum_crc32(),
        found.checksum_crc32_c(),
        found.checksum_crc64_nvme(),
        found.checksum_sha1(),
        found.checksum_sha256(),
    ];
    let is_checked = checksums.into_iter().flatten().any(is_of_all);
    let is_keyed = found.sse_customer_algorithm().is_some()
        || found.server_side_encryption().is_some_and(|by| *by != ServerSideEncryption::Aes256);
    let etag = found.e_tag()?.trim_matches('"');
    let is_md5 = etag.len() == 32 && etag.bytes().all(|b| b.is_ascii_hexdigit());
    (is_md5 && !is_checked && !is_keyed).then(|| etag.to_ascii_lowercase())
}

/// Version, or else ETag, of the object that is at a key now; `None` if there is none.
///
/// # Errors
/// [`FetchError::Request`] if S3 does not answer.
pub(crate) async fn newest_version(
    s3: &Client,
    bucket: &str,
    key: &str,
) -> Result<Option<String>, FetchError> {
    match s3.head_object().bucket(bucket).key(key).send().await {
        Ok(found) => {
            let version_id = found.version_id().filter(|version| *version != "null");
            Ok(version_id.or_else(|| found.e_tag().map(|etag| etag.trim_matches('"'))).map(str::to_owned))
        }
        Err(error) if error.as_service_error().is_some_and(HeadObjectError::is_not_found) => Ok(None),
        Err(error) => Err(FetchError::Request {
            object: ObjectRef::new(bucket, key).to_string(),
            detail: DisplayErrorContext(&error).to_string(),
        }),
    }
}

/// Whether an object, or the version that was asked for, is not there. A version that never existed is NoSuchVersion; a
/// delete marker is 405 MethodNotAllowed.
pub fn is_gone(error: &SdkError<GetObjectError>) -> bool {
    matches!(error.code(), Some("NoSuchKey" | "NoSuchVersion" | "MethodNotAllowed"))
}

fn fetch_error(object: &ObjectRef, error: &SdkError<GetObjectError>) -> FetchError {
    if is_gone(error) {
        FetchError::NotFound { object: object.to_string() }
    } else {
        FetchError::Request { object: object.to_string(), detail: DisplayErrorContext(error).to_string() }
    }
}
