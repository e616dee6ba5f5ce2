//! Images of the input bucket as the page shows them: which one it is, and work on its pixels within bounds.
//!
//! It never reads another bucket than the input bucket, whatever a key says. At most as many images are in memory at
//! once as there are processors, each for at most the time of one image a step; a picture that two requests want is
//! made once.

pub(crate) mod links;
pub(crate) mod pyramids;
pub(crate) mod signing;
pub(crate) mod thumbnails;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_sdk_s3::primitives::ByteStream;
use axum::http::StatusCode;
use bytes::Bytes;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::Dashboard;
use crate::request::parameters::shown;
use crate::request::problem::Problem;
use giemsa_config::Limits;
use giemsa_core::digest::sha256_of_parts;
use giemsa_core::object::ObjectRef;
use giemsa_image::{DecodeError, DecodeLimits, PEEK_BYTES, Peek, Pixels, decode_until, peek};
use giemsa_model::panic_message;
use giemsa_store::{FetchError, fetch_object, is_gone};

/// Files that cannot be shown, remembered so that a gallery does not try them at every look.
const REMEMBERED: usize = 10_000;

/// Until a file that took too long is tried again: a hostile one would else keep a processor busy.
const TRIED_AGAIN_AFTER: Duration = Duration::from_mins(10);

/// Processors for pictures, and what is known of those that are being made.
#[derive(Debug, Clone)]
pub struct Pictures(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    permits: Arc<Semaphore>,
    /// Who makes a picture, by its name; the others wait.
    turns: Mutex<HashMap<String, Weak<Turn<()>>>>,
    /// Why a file has no picture, by the picture's name, and until when that counts.
    unshown: Mutex<HashMap<String, (String, Option<Instant>)>>,
}

/// One version of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub key: String,
    /// Absent where the bucket keeps no versions.
    pub version_id: Option<String>,
    /// Without quotes.
    pub etag: String,
}

/// Why there is no picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoPicture {
    /// This image has none, and why.
    Of(String),
    /// Something behind the dashboard failed; the same request may work later.
    Failed(Problem),
}

/// Why a file cannot be decoded, and until when that counts: for ever, unless a time is given.
struct Undecodable {
    detail: String,
    until: Option<Instant>,
}

impl From<NoPicture> for Problem {
    fn from(none: NoPicture) -> Self {
        match none {
            NoPicture::Of(detail) => Self::not_found(detail),
            NoPicture::Failed(problem) => problem,
        }
    }
}

impl Source {
    /// A name for what is made of it: another bucket, key, version or content has another.
    pub fn picture_name(&self, bucket: &str) -> String {
        sha256_of_parts([bucket, &self.key, self.version_id.as_deref().unwrap_or_default(), &self.etag])
    }

    fn of(key: &str, version_id: Option<&str>, etag: Option<&str>) -> Self {
        Self {
            key: key.to_owned(),
            version_id: version_id.filter(|version| *version != "null").map(str::to_owned),
            etag: etag.unwrap_or_default().trim_matches('"').to_owned(),
        }
    }
}

impl Pictures {
    /// For as many images at once as the limits allow processors.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Inner {
            permits: Arc::new(Semaphore::new(limits.cpus.get())),
            turns: Mutex::default(),
            unshown: Mutex::default(),
        }))
    }

    /// Waits until nobody else makes the picture `name`.
    pub(crate) async fn turn(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(name).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(name.to_owned(), Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }

    /// Why the picture `name` cannot be made, if that is known.
    pub(crate) fn unshown(&self, name: &str) -> Option<String> {
        let unshown = self.0.unshown.lock().unwrap_or_else(PoisonError::into_inner);
        let (detail, until) = unshown.get(name)?;
        until.is_none_or(|until| Instant::now() < until).then(|| detail.clone())
    }

    /// Remembers that the picture `name` took too long, for a while: the machine may only have been busy.
    pub(crate) fn remember_for_now(&self, name: &str, detail: &str) {
        self.remember(name, detail, Some(Instant::now() + TRIED_AGAIN_AFTER));
    }

    fn remember(&self, name: &str, detail: &str, until: Option<Instant>) {
        let mut unshown = self.0.unshown.lock().unwrap_or_else(PoisonError::into_inner);
        if unshown.len() >= REMEMBERED {
            unshown.clear();
        }
        unshown.insert(name.to_owned(), (detail.to_owned(), until));
    }
}

impl Dashboard {
    /// The version of an image that is asked for, or else the one that is there now.
    pub(crate) async fn find_image(&self, key: &str, version_id: Option<&str>) -> Result<Source, NoPicture> {
        // Not HEAD, whose answer does not say why there is nothing.
        self.read_start(key, version_id, 1).await.map(|(source, _)| source)
    }

    /// As [`find_image`](Self::find_image), with what its first bytes say: `None` if it is not an image that is read.
    pub(crate) async fn peek_image(
        &self,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<(Source, Option<Peek>), NoPicture> {
        let (source, start) = self.read_start(key, version_id, PEEK_BYTES).await?;
        Ok((source, peek(&start)))
    }

    async fn read_start(
        &self,
        key: &str,
        version_id: Option<&str>,
        count: u64,
    ) -> Result<(Source, Bytes), NoPicture> {
        let get = self.s3.get_object().bucket(&self.buckets.input).key(key);
        let get = get.set_version_id(version_id.map(str::to_owned));
        let found = match get.range(format!("bytes=0-{}", count - 1)).send().await {
            Ok(found) => found,
            Err(error) if error.code() == Some("InvalidRange") => {
                return Err(NoPicture::Of(format!("{:?} is empty, it has no picture", shown(key))));
            }
            Err(error)
                if is_gone(&error)
                    || is_no_name(&error)
                    || matches!(code_of(&error), Some("NoSuchKey" | "NoSuchVersion")) =>
            {
                return Err(NoPicture::Of(not_there(key, version_id)));
            }
            Err(error) => return Err(failed(&DisplayErrorContext(&error))),
        };
        let source = Source::of(key, found.version_id(), found.e_tag());
        let start = found.body.collect().await.map_err(|error| failed(&DisplayErrorContext(&error)))?;
        Ok((source, start.into_bytes()))
    }

    /// Reads an image and lets `work` have its pixels, on a processor; `work` looks at the time by itself.
    ///
    /// `name` is what is made of it: that it cannot be decoded is remembered.
    pub(crate) async fn with_pixels<T: Send + 'static>(
        &self,
        source: &Source,
        name: &str,
        work: impl FnOnce(Pixels) -> T + Send + 'static,
    ) -> Result<T, NoPicture> {
        // Before the download, so that waiting images take no memory.
        let permit = self.pictures.0.permits.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let bytes = self.fetch(source).await?;
        let made = self.on_a_processor(bytes, permit, work).await;
        made.map_err(|Undecodable { detail, until }| {
            self.pictures.remember(name, &detail, until);
            NoPicture::Of(detail)
        })
    }

    async fn fetch(&self, source: &Source) -> Result<Bytes, NoPicture> {
        let mut object = ObjectRef::new(self.buckets.input.clone(), source.key.clone());
        object.version_id.clone_from(&source.version_id);
        match fetch_object(&self.s3, &object, self.limits.max_object_bytes).await {
            Ok(fetched) if fetched.image.etag.as_deref() == Some(source.etag.as_str()) => Ok(fetched.bytes),
            Ok(_) => {
                let detail = format!("{:?} was replaced while it was read; ask again", shown(&source.key));
                Err(NoPicture::Failed(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)))
            }
            Err(error @ (FetchError::NotFound { .. } | FetchError::TooLarge { .. })) => {
                Err(NoPicture::Of(error.to_string()))
            }
            Err(
                error @ (FetchError::Request { .. }
                | FetchError::Incomplete { .. }
                | FetchError::Damaged { .. }),
            ) => Err(failed(&error)),
        }
    }

    async fn on_a_processor<T: Send + 'static>(
        &self,
        bytes: Bytes,
        permit: OwnedSemaphorePermit,
        work: impl FnOnce(Pixels) -> T + Send + 'static,
    ) -> Result<T, Undecodable> {
        let (limits, deadline) = (DecodeLimits::of(&self.limits), Instant::now() + self.limits.image_timeout);
        let worked = tokio::task::spawn_blocking(move || {
            // Released when the work ends, not when somebody stops waiting for it.
            let _permit = permit;
            let decoded = decode_until(&bytes, &limits, Some(deadline))?;
            drop(bytes);
            Ok::<T, DecodeError>(work(decoded.pixels))
        });
        match worked.await {
            Ok(Ok(made)) => Ok(made),
            Ok(Err(error)) => {
                // The machine may only have been busy; everything else is in the bytes.
                let is_for_now = matches!(error, DecodeError::OutOfTime);
                let until = is_for_now.then(|| Instant::now() + TRIED_AGAIN_AFTER);
                Err(Undecodable { detail: error.to_string(), until })
            }
            // What panics on one image does so again, and must not take the page with it.
            Err(error) => {
                let message = error.try_into_panic().map(|panic| panic_message(&*panic)).unwrap_or_default();
                tracing::error!(%message, "a picture could not be made: the work on it panicked");
                Err(Undecodable { detail: "no picture can be made of this file".to_owned(), until: None })
            }
        }
    }

    /// Whether a picture is there already.
    pub(crate) async fn is_made(&self, key: &str) -> Result<bool, NoPicture> {
        match self.s3.head_object().bucket(&self.buckets.results).key(key).send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(HeadObjectError::is_not_found) => Ok(false),
            Err(error) => Err(failed(&DisplayErrorContext(&error))),
        }
    }

    /// Keeps something that was made in the results bucket.
    pub(crate) async fn keep(&self, key: &str, media_type: &str, bytes: Vec<u8>) -> Result<(), NoPicture> {
        let put = self.s3.put_object().bucket(&self.buckets.results).key(key).content_type(media_type);
        let put = put.body(ByteStream::from(bytes)).send().await;
        put.map(drop).map_err(|error| failed(&DisplayErrorContext(&error)))
    }
}

pub(crate) fn failed(detail: &dyn std::fmt::Display) -> NoPicture {
    let detail = format!("S3 does not answer: {detail}; try again");
    NoPicture::Failed(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}

/// Whether S3 could not have given this key or version, whatever is wrong with it; what is wrong with credentials is 400 too.
fn is_no_name(error: &SdkError<GetObjectError>) -> bool {
    let is_bad_request = error.raw_response().is_some_and(|raw| raw.status().as_u16() == 400);
    is_bad_request && !matches!(code_of(error), None | Some("ExpiredToken" | "InvalidToken"))
}

/// S3's code, also of an answer that repeats a key with characters which XML cannot hold, and which no parser takes.
fn code_of(error: &SdkError<GetObjectError>) -> Option<&str> {
    error.code().or_else(|| {
        let body = std::str::from_utf8(error.raw_response()?.body().bytes()?).ok()?;
        let (code, _) = body.split_once("<Code>")?.1.split_once("</Code>")?;
        Some(code)
    })
}

fn not_there(key: &str, version_id: Option<&str>) -> String {
    match version_id {
        None => format!("there is no image {:?} in the input bucket", shown(key)),
        Some(version) => {
            format!("there is no version {:?} of {:?} in the input bucket", shown(version), shown(key))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_image_has_another_name() {
        let source = |key: &str, version: Option<&str>, etag: &str| Source::of(key, version, Some(etag));
        let first = source("a/b.png", Some("1"), "\"e\"").picture_name("in");
        assert_eq!(first.len(), 64);
        assert_eq!(first, source("a/b.png", Some("1"), "e").picture_name("in"));
        for (bucket, other) in [
            ("in", source("a/b.png", Some("2"), "e")),
            ("in", source("a/b.png", None, "e")),
            ("in", source("a/c.png", Some("1"), "e")),
            ("in", source("a/b.png", Some("1"), "f")),
            ("out", source("a/b.png", Some("1"), "e")),
        ] {
            assert_ne!(first, other.picture_name(bucket), "{other:?}");
        }
        let unversioned = source("k", Some("null"), "e");
        assert_eq!(unversioned.version_id, None);
    }

    #[test]
    fn a_file_that_took_too_long_is_tried_again() {
        let pictures = Pictures::new(&Limits::default());
        pictures.remember("cut", "incomplete", None);
        pictures.remember("slow", "took too long", Some(Instant::now() + Duration::from_secs(60)));
        pictures.remember("was slow", "took too long", Some(Instant::now()));
        assert_eq!(pictures.unshown("cut").as_deref(), Some("incomplete"));
        assert_eq!(pictures.unshown("slow").as_deref(), Some("took too long"));
        assert_eq!(pictures.unshown("was slow"), None);
    }

    #[tokio::test]
    async fn one_picture_is_made_at_a_time_and_nothing_is_kept_of_it() {
        let pictures = Pictures::new(&Limits::default());
        let first = pictures.turn("a").await;
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), pictures.turn("a")).await;
        assert!(waits.is_err());
        let _other = pictures.turn("b").await;
        drop(first);
        let again = pictures.turn("a").await;
        drop(again);
        drop(_other);
        let _last = pictures.turn("c").await;
        assert_eq!(pictures.0.turns.lock().unwrap().len(), 1);
    }
}
