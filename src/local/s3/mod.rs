//! The S3 of the local stack: s3s speaks the protocol, this module keeps the objects.
//!
//! | file | what it does |
//! |---|---|
//! | `service.rs` | the operations of S3, each in a few lines, in terms of the rest |
//! | `objects.rs`, `reads.rs` | writes that take effect at once or not at all, reads that never see half an object |
//! | `blobs.rs`, `digests.rs`, `about.rs` | the bytes of objects, what they are checked by, and what is known of them |
//! | `deletes.rs` | deletions, which in a versioned bucket keep what was there |
//! | `multipart.rs` | uploads in parts, checked before they are completed |
//! | `versions.rs`, `index.rs` | which blob holds which version of a key; how writes and deletions change that |
//! | `buckets.rs`, `uploads.rs` | which buckets there are, and which are versioned; which uploads are open |
//! | `listing.rs`, `list_answers.rs` | pages of a listing, for any key, in S3's order; what S3 says of them |
//! | `browsers.rs` | which pages may use it, and that a presigned link does nothing else |
//! | `forms.rs` | `${filename}` in the fields of an HTML form |
//! | `conditions.rs` | `If-Match` and its relatives |
//! | `notify.rs` | the event notification of a write |
//!
//! The bytes of each upload are a blob, a file whose name is a number that is used once; everything else is a row. One
//! transaction makes the blob the latest version of its key and queues its notification. Killed before it, the upload
//! never happened and its blob is removed at the next start; killed after it, nothing is missing. In a bucket with
//! versioning the blob of the previous version stays; in any other it goes.
//!
//! Invariant: a write is answered with "200" when bytes, index and notification are on disk.

mod about;
mod blobs;
mod browsers;
mod buckets;
mod conditions;
mod deletes;
mod digests;
mod forms;
mod index;
mod list_answers;
mod listing;
mod multipart;
mod notify;
mod objects;
mod reads;
mod service;
mod uploads;
mod versions;

use std::path::PathBuf;

use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue, LAST_MODIFIED};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode};
use s3s::auth::{S3Auth, SecretKey};
use s3s::header::{X_AMZ_DELETE_MARKER, X_AMZ_VERSION_ID};
use s3s::service::S3ServiceBuilder;
use s3s::{Body, HttpError, S3Error, S3ErrorCode, S3Result, s3_error};
use thiserror::Error;

pub(super) use browsers::{BrowserOrigins, allow};
pub(super) use objects::LocalS3;

use super::queue::QueueError;

/// The access key that the local S3 accepts.
pub const LOCAL_ACCESS_KEY_ID: &str = "giemsa";

/// The secret key that goes with [`LOCAL_ACCESS_KEY_ID`]; no secret, the server listens on this machine only.
pub const LOCAL_SECRET_ACCESS_KEY: &str = "giemsa-local";

/// Why the local S3 could not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The index failed.
    #[error("the index of the local S3 failed")]
    Index {
        /// What SQLite said.
        #[from]
        source: rusqlite::Error,
    },
    /// The notification could not be queued.
    #[error("the notification of an upload could not be queued")]
    Queue {
        /// What the queue said.
        #[from]
        source: QueueError,
    },
    /// What is known of an object cannot be written or read.
    #[error("the index of the local S3 does not say what an object is")]
    About {
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A file or folder of the data folder failed.
    #[error("cannot use `{}` in the data folder", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: std::io::Error,
    },
    /// The objects and the index do not belong together.
    #[error(
        "the objects in `{}` and the index in the queue file beside it do not belong together ({found}): put back the \
         file that was there before, or move the folder away and upload the images again",
        root.display()
    )]
    ForeignIndex {
        /// The folder of objects.
        root: PathBuf,
        /// What does not fit.
        found: &'static str,
    },
    /// The bucket does not exist.
    #[error("there is no bucket `{bucket}`")]
    NoSuchBucket {
        /// The bucket asked for.
        bucket: String,
    },
    /// The bucket still holds something.
    #[error("bucket `{bucket}` holds objects, versions, delete markers or open uploads: delete them first")]
    BucketNotEmpty {
        /// The bucket.
        bucket: String,
    },
    /// The object does not exist.
    #[error("there is no object `{key}`")]
    NoSuchKey {
        /// The key asked for.
        key: String,
    },
    /// The version does not exist.
    #[error("there is no version `{version_id}` of `{key}`")]
    NoSuchVersion {
        /// The key asked for.
        key: String,
        /// The version asked for.
        version_id: String,
    },
    /// The object is deleted: the latest version of its key is a delete marker.
    #[error("there is no object `{key}`: it is deleted, by the delete marker `{version_id}`")]
    Deleted {
        /// The key asked for.
        key: String,
        /// The marker's version.
        version_id: String,
    },
    /// A delete marker was asked for as if it had content.
    #[error(
        "version `{version_id}` of `{key}` is a delete marker: it has no content and can only be deleted"
    )]
    DeleteMarker {
        /// The key asked for.
        key: String,
        /// The marker's version.
        version_id: String,
        /// When the object was deleted, seconds since 1970.
        modified_s: i64,
    },
    /// The source of a copy is a delete marker.
    #[error("the source of a copy is a delete marker: name a version with content")]
    SourceIsMarker,
    /// The upload does not exist, or not for this key, or is completed or aborted.
    #[error("there is no open upload `{id}` for this key")]
    NoSuchUpload {
        /// The id asked for.
        id: String,
    },
    /// `If-Match` or one of its relatives does not hold.
    #[error("the condition of the request does not hold for `{key}`")]
    ConditionFailed {
        /// The key.
        key: String,
    },
    /// The list of parts does not fit what was uploaded.
    #[error("{message}")]
    InvalidPart {
        /// What does not fit.
        message: String,
    },
    /// The list of parts is not in ascending order.
    #[error("part {number} is listed after part {after}; expected the parts in ascending order")]
    PartOrder {
        /// The part that is out of order.
        number: i32,
        /// The one listed before it.
        after: i32,
    },
    /// A part other than the last is too small.
    #[error("part {number} has {size_bytes} bytes, every part but the last needs at least {min_bytes}")]
    PartTooSmall {
        /// The part.
        number: i32,
        /// Its size.
        size_bytes: u64,
        /// The least size.
        min_bytes: u64,
    },
}

impl From<StoreError> for S3Error {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Index { .. }
            | StoreError::Queue { .. }
            | StoreError::About { .. }
            | StoreError::File { .. }
            | StoreError::ForeignIndex { .. } => {
                tracing::error!(error = &error as &dyn std::error::Error, "local s3 failed");
                S3ErrorCode::InternalError
            }
            StoreError::NoSuchBucket { .. } => S3ErrorCode::NoSuchBucket,
            StoreError::BucketNotEmpty { .. } => S3ErrorCode::BucketNotEmpty,
            StoreError::NoSuchKey { .. } | StoreError::Deleted { .. } => S3ErrorCode::NoSuchKey,
            StoreError::NoSuchVersion { .. } => S3ErrorCode::NoSuchVersion,
            StoreError::DeleteMarker { .. } => S3ErrorCode::MethodNotAllowed,
            StoreError::SourceIsMarker => S3ErrorCode::InvalidRequest,
            StoreError::NoSuchUpload { .. } => S3ErrorCode::NoSuchUpload,
            StoreError::ConditionFailed { .. } => S3ErrorCode::PreconditionFailed,
            StoreError::InvalidPart { .. } => S3ErrorCode::InvalidPart,
            StoreError::PartOrder { .. } => S3ErrorCode::InvalidPartOrder,
            StoreError::PartTooSmall { .. } => S3ErrorCode::EntityTooSmall,
        };
        let mut answer = Self::with_message(code, error.to_string());
        match &error {
            StoreError::Deleted { version_id, .. } => answer.set_headers(marker_headers(version_id)),
            StoreError::DeleteMarker { version_id, modified_s, .. } => {
                let mut headers = marker_headers(version_id);
                headers.insert(ALLOW, HeaderValue::from_static("DELETE"));
                if let Some(date) = reads::http_date(*modified_s) {
                    headers.insert(LAST_MODIFIED, date);
                }
                answer.set_headers(headers);
            }
            _ => {}
        }
        answer
    }
}

/// By these headers a reader sees that there is a delete marker and not nothing; they replace all others of s3s.
fn marker_headers(version_id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    headers.insert(X_AMZ_DELETE_MARKER, HeaderValue::from_static("true"));
    if let Ok(id) = HeaderValue::try_from(version_id) {
        headers.insert(X_AMZ_VERSION_ID, id);
    }
    headers
}

/// Accepts the one pair of keys that belongs to this machine.
struct LocalKeys;

#[async_trait::async_trait]
impl S3Auth for LocalKeys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == LOCAL_ACCESS_KEY_ID {
            return Ok(SecretKey::from(LOCAL_SECRET_ACCESS_KEY));
        }
        Err(s3_error!(
            InvalidAccessKeyId,
            "the local stack does not know the access key `{access_key}`: set AWS_ACCESS_KEY_ID={LOCAL_ACCESS_KEY_ID} \
             and AWS_SECRET_ACCESS_KEY={LOCAL_SECRET_ACCESS_KEY}"
        ))
    }
}

/// The HTTP service in front of `store`; pages of `origins` may use it.
pub(super) fn service(
    store: LocalS3,
    origins: BrowserOrigins,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = HttpError,
    Future = impl Future<Output = Result<Response<Body>, HttpError>> + Send + 'static,
> + Clone
+ Send
+ 'static {
    let mut builder = S3ServiceBuilder::new(store);
    builder.set_auth(LocalKeys);
    let service = builder.build();
    service_fn(move |request: Request<Incoming>| {
        let (service, origins) = (service.clone(), origins.clone());
        async move {
            if let Some(answer) = origins.answer_preflight(&request) {
                return Ok(answer);
            }
            let origin = origins.of(request.headers());
            let waits_for_continue = request.headers().contains_key(EXPECT);
            let has_no_body = request.body().is_end_stream();
            let mut answer = match browsers::refuse_unsigned(&request) {
                Some(refusal) => refusal,
                None => {
                    let request = forms::fill_in_file_name(request).await;
                    service.call(request.map_err(|error| HttpError::new(Box::new(error)))?).await?
                }
            };
            if let Some(origin) = origin {
                allow(&origin, answer.headers_mut());
            }
            // s3s writes an XML body to every error, and the length of one to this answer, which must have none.
            if answer.status() == StatusCode::NOT_MODIFIED {
                *answer.body_mut() = Body::empty();
            }
            // A client that waits for "100 Continue" and is answered at once may misread the next answer on this
            // connection: botocore does, and then waits a minute for it. S3 closes the connection too.
            if waits_for_continue && (has_no_body || !answer.status().is_success()) {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer)
        }
    })
}
