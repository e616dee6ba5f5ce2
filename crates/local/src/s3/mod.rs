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
//! A write is answered with "200" when bytes, index and notification are on disk.

mod browsers;
mod bytes;
mod forms;
mod notify;
mod operations;
mod rows;

use std::path::PathBuf;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode};
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::S3ServiceBuilder;
use s3s::{Body, HttpError, S3Error, S3ErrorCode, S3Result, s3_error};
use thiserror::Error;

pub(crate) use browsers::{BrowserOrigins, allow};
pub(crate) use operations::objects::LocalS3;

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
    /// What S3 answers to a request that cannot be done.
    #[error(transparent)]
    Refused(#[from] S3Error),
}

impl From<StoreError> for S3Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(answer) => answer,
            failure => {
                tracing::error!(error = &failure as &dyn std::error::Error, "local s3 failed");
                Self::with_message(S3ErrorCode::InternalError, failure.to_string())
            }
        }
    }
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
pub(crate) fn service(
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
