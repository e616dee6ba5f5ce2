//! The current model of a stage: looks for a new file, loads it beside the old one, swaps, keeps the last good.
//!
//! It never lets a file serve that did not pass [`Model::load`], and does not load a refused file again until
//! the object changes. Invariant: at most two models are in memory, and a batch that holds a [`Release`]
//! keeps it whatever is swapped meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

use super::{Model, panic_message};
use crate::config::Config;
use crate::digest::sha256_hex;

/// A model and since when its file is in the bucket.
#[derive(Debug, Clone)]
pub struct Release {
    /// The model.
    pub model: Arc<Model>,
    /// Last-Modified of the object it was read from: the same for every function that serves it.
    pub released_at: DateTime<Utc>,
}

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
    #[error(
        "the model at {location} has {size_bytes} bytes, more than the {limit_bytes} allowed \
         (GIEMSA_MAX_MODEL_BYTES); quantise it, or raise the limit and the function's memory"
    )]
    TooLarge {
        /// S3 URI.
        location: String,
        /// Size of the object, bytes.
        size_bytes: u64,
        /// The limit, bytes.
        limit_bytes: u64,
    },
    /// The file is no usable model.
    #[error("the model at {location} (sha256 {sha256}) is refused: {detail}")]
    Refused {
        /// S3 URI.
        location: String,
        /// Digest of the refused file.
        sha256: String,
        /// What is wrong with it and how to mend it.
        detail: String,
    },
    /// The file was refused before, and has not changed since.
    #[error("{earlier}")]
    StillRefused {
        /// The message of then.
        earlier: String,
    },
    /// The bucket could not be asked.
    #[error("the model at {location} cannot be read: {detail}")]
    Unreachable {
        /// S3 URI.
        location: String,
        /// What S3 or the network says.
        detail: String,
    },
}

/// Holds the model that a stage serves.
#[derive(Debug)]
pub struct Registry {
    s3: Client,
    bucket: String,
    key: String,
    max_model_bytes: u64,
    check_interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last good model.
    serving: Option<Release>,
    /// ETag of the file that was looked at last, good or refused.
    seen_etag: Option<String>,
    /// Why that file was refused, if it was.
    refusal: Option<String>,
    /// When the bucket was last asked successfully.
    checked_at: Option<Instant>,
}

impl Registry {
    /// Makes a registry that has not looked yet.
    pub fn new(s3: Client, config: &Config) -> Self {
        Self {
            s3,
            bucket: config.model_bucket.clone(),
            key: config.model_key(),
            max_model_bytes: config.limits.max_model_bytes,
            check_interval: config.limits.model_check_interval,
            state: Mutex::default(),
        }
    }

    /// Looks for a new model, unless one looked less than the interval ago, and returns the one to serve now.
    ///
    /// One conditional request; only a changed file is downloaded. Whatever is wrong with the new file or
    /// with the bucket, the last good model goes on serving.
    ///
    /// # Errors
    /// [`RegistryError`] only if there is no last good model.
    pub async fn refresh(&self) -> Result<Release, RegistryError> {
        let mut state = self.state.lock().await;
        let is_fresh = state.checked_at.is_some_and(|at| at.elapsed() < self.check_interval);
        if let (true, Some(serving)) = (is_fresh, &state.serving) {
            return Ok(serving.clone());
        }
        match self.look(&mut state).await {
            Ok(release) => Ok(release),
            Err(error) => match &state.serving {
                Some(last_good) => {
                    log_kept(&error, last_good);
                    Ok(last_good.clone())
                }
                None => Err(error),
            },
        }
    }

    async fn look(&self, state: &mut State) -> Result<Release, RegistryError> {
        let request = self.s3.get_object().bucket(&self.bucket).key(&self.key);
        let found = match request.set_if_none_match(state.seen_etag.clone()).send().await {
            Ok(found) => found,
            Err(error) if is_not_modified(&error) => {
                state.checked_at = Some(Instant::now());
                return match (&state.refusal, &state.serving) {
                    (None, Some(serving)) => Ok(serving.clone()),
                    (refusal, _) => {
                        Err(RegistryError::StillRefused { earlier: refusal.clone().unwrap_or_default() })
                    }
                };
            }
            Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => {
                *state = State { serving: state.serving.take(), ..State::default() };
                return Err(RegistryError::Absent { location: self.location() });
            }
            Err(error) => {
                return Err(self.unreachable(format!("{}", DisplayErrorContext(&error))));
            }
        };
        let etag = found.e_tag().map(str::to_owned);
        match self.load(found, state.serving.as_ref()).await {
            Ok(release) => {
                tracing::info!(model = %release.model.metadata.name, version = %release.model.metadata.version,
                    sha256 = %release.model.sha256, location = %self.location(), "model loaded");
                *state = State {
                    serving: Some(release.clone()),
                    seen_etag: etag,
                    refusal: None,
                    checked_at: Some(Instant::now()),
                };
                Ok(release)
            }
            Err(error @ RegistryError::Unreachable { .. }) => Err(error),
            Err(error) => {
                state.seen_etag = etag;
                state.refusal = Some(error.to_string());
                state.checked_at = Some(Instant::now());
                Err(error)
            }
        }
    }

    async fn load(
        &self,
        found: GetObjectOutput,
        serving: Option<&Release>,
    ) -> Result<Release, RegistryError> {
        let size_bytes = found.content_length().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        if size_bytes > self.max_model_bytes {
            return Err(RegistryError::TooLarge {
                location: self.location(),
                size_bytes,
                limit_bytes: self.max_model_bytes,
            });
        }
        let released_at = found
            .last_modified()
            .and_then(|at| DateTime::from_timestamp(at.secs(), at.subsec_nanos()))
            .unwrap_or_default();
        let bytes = found.body.collect().await.map_err(|e| self.unreachable(e.to_string()))?.into_bytes();
        if bytes.len() as u64 != size_bytes {
            return Err(self.unreachable(format!("{} of {size_bytes} bytes arrived", bytes.len())));
        }
        let sha256 = sha256_hex(&bytes);
        if let Some(serving) = serving.filter(|serving| serving.model.sha256 == sha256) {
            return Ok(Release { model: serving.model.clone(), released_at });
        }
        let loaded = tokio::task::spawn_blocking(move || Model::load(&bytes)).await;
        let refused = |detail: String| RegistryError::Refused { location: self.location(), sha256, detail };
        let model = match loaded {
            Ok(Ok(model)) => model,
            Ok(Err(error)) => return Err(refused(error.to_string())),
            Err(panic) => {
                let message = panic.try_into_panic().map(|p| panic_message(&*p)).unwrap_or_default();
                return Err(refused(format!("loading it panicked: {message}")));
            }
        };
        Ok(Release { model, released_at })
    }

    fn location(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }

    fn unreachable(&self, detail: String) -> RegistryError {
        RegistryError::Unreachable { location: self.location(), detail }
    }
}

/// S3 answers 304, which the SDK reports as an error without a code of its own.
fn is_not_modified<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.raw_response().is_some_and(|response| response.status().as_u16() == 304)
}

fn log_kept(error: &RegistryError, last_good: &Release) {
    let serving = &last_good.model.sha256;
    match error {
        // Said once, when it was refused.
        RegistryError::StillRefused { .. } => {}
        RegistryError::Unreachable { .. } => {
            tracing::warn!(%error, %serving, "model bucket not reached, the last good model serves");
        }
        RegistryError::Absent { .. } | RegistryError::TooLarge { .. } | RegistryError::Refused { .. } => {
            tracing::error!(%error, %serving, "model refused, the last good model serves");
        }
    }
}
