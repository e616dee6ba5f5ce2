//! The current model of a stage: looks for a new file, loads it beside the old one, swaps, keeps the last good.
//!
//! It never lets a file serve that did not pass [`Model::load_within`], and does not load a refused file again until
//! the object changes. Invariant: at most two models are in memory, counting one that is being loaded and one that a
//! batch still holds; a batch that holds a [`Release`] keeps it whatever is swapped meanwhile.

mod acceptance;
mod fall_back;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::acceptance::{Acceptance, NotAccepted};
use super::{LoadLimits, Model, ModelError, panic_message, too_large};
use crate::config::Config;
use crate::digest::sha256_hex;
use crate::metrics::{self, Metric};

/// Longest that batches wait for a new file to be loaded while another model could serve them; it is loaded on beside.
const LONGEST_WAIT_BESIDE: Duration = Duration::from_secs(10);

/// Longest that a batch waits for the first model before its events are handed back.
const LONGEST_WAIT_FOR_FIRST: Duration = Duration::from_secs(60);

/// A batch that holds a replaced model for longer than this is worth a warning: no new file is loaded meanwhile.
const LONGEST_HOLD: Duration = Duration::from_secs(120);

/// A model and since when its file is in the bucket.
#[derive(Debug, Clone)]
pub struct Release {
    /// The model.
    pub model: Arc<Model>,
    /// Last-Modified of the object it was read from, or of the report that let it serve if that came later: the same for
    /// every function that serves it.
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
    #[error("the model at {location} is refused: {}", too_large(*size_bytes, *limit_bytes))]
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
    stage: String,
    max_model_bytes: u64,
    load_limits: LoadLimits,
    check_interval: Duration,
    acceptance: Acceptance,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last good model.
    serving: Option<Release>,
    /// The model before it, as long as a batch holds it, and since when it is replaced.
    replaced: Option<Replaced>,
    /// A new file on its way into memory. It is kept here, not by who waits for it: an invocation that ends first
    /// must not leave it to be loaded a second time.
    loading: Option<Loading>,
    /// ETag of the file that was looked at last, good or refused.
    seen_etag: Option<String>,
    /// Why that file was refused, if it was.
    refusal: Option<String>,
    /// Digest of that file, if it was refused for its report, which may appear or change later.
    awaiting_report: Option<String>,
    /// A model that served last and cannot be loaded any more, and why.
    refused_fall_back: Option<(String, String)>,
    /// Whether the log says that there is no file.
    said_absent: bool,
    /// When the bucket was last asked successfully.
    checked_at: Option<Instant>,
}

#[derive(Debug)]
struct Replaced {
    model: Weak<Model>,
    at: Instant,
    said_held: bool,
}

#[derive(Debug)]
struct Loading {
    etag: Option<String>,
    released_at: DateTime<Utc>,
    sha256: String,
    task: JoinHandle<Result<Arc<Model>, ModelError>>,
    started: Instant,
    said_slow: bool,
}

/// What the bucket holds.
enum Found {
    /// The file that was looked at last.
    Unchanged,
    /// A new object with the bytes of the model that serves.
    SameBytes(Release),
    /// A new file.
    Changed(Loading),
}

impl Registry {
    /// Makes a registry that has not looked yet.
    pub fn new(s3: Client, config: &Config) -> Self {
        Self {
            bucket: config.model_bucket.clone(),
            key: config.model_key(),
            stage: config.stage.clone(),
            max_model_bytes: config.limits.max_model_bytes,
            load_limits: LoadLimits::from(&config.limits),
            check_interval: config.limits.model_check_interval,
            acceptance: Acceptance::new(s3.clone(), &config.model_bucket, &config.stage, config.gate),
            s3,
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
        if let (true, None, Some(serving)) = (is_fresh, &state.loading, &state.serving) {
            return Ok(serving.clone());
        }
        if let Some(serving) = state.serving.clone().filter(|_| state.a_replaced_model_is_held()) {
            return Ok(serving);
        }
        match self.look(&mut state).await {
            Ok(release) => Ok(release),
            Err(error) => {
                self.log_trouble(&error, &mut state);
                state.serving.clone().ok_or(error)
            }
        }
    }

    async fn look(&self, state: &mut State) -> Result<Release, RegistryError> {
        if state.loading.is_none() {
            let mut found = self.ask(state).await?;
            if let (Found::Unchanged, Some(sha256)) = (&found, state.awaiting_report.clone()) {
                self.admit(state, state.seen_etag.clone(), &sha256).await?;
                // Its report is there now: only now is the file read again, to be loaded.
                state.seen_etag = None;
                found = self.ask(state).await?;
            }
            match found {
                Found::Unchanged => {
                    state.checked_at = Some(Instant::now());
                    return match (&state.refusal, &state.serving) {
                        (None, Some(serving)) => Ok(serving.clone()),
                        (refusal, _) => {
                            Err(RegistryError::StillRefused { earlier: refusal.clone().unwrap_or_default() })
                        }
                    };
                }
                Found::SameBytes(release) => {
                    state.serving = Some(release.clone());
                    return Ok(release);
                }
                Found::Changed(loading) => state.loading = Some(loading),
            }
        }
        self.finish_loading(state).await
    }

    /// One conditional request. A file that is refused without being loaded is remembered as seen.
    async fn ask(&self, state: &mut State) -> Result<Found, RegistryError> {
        metrics::count(Metric::ModelChecks, &self.stage);
        let request = self.s3.get_object().bucket(&self.bucket).key(&self.key);
        let found = match request.set_if_none_match(state.seen_etag.clone()).send().await {
            Ok(found) => found,
            Err(error) if is_not_modified(&error) => return Ok(Found::Unchanged),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => {
                (state.seen_etag, state.refusal, state.checked_at) = (None, None, None);
                state.awaiting_report = None;
                return Err(RegistryError::Absent { location: self.location() });
            }
            Err(error) => {
                return Err(self.unreachable(format!("{}", DisplayErrorContext(&error))));
            }
        };
        state.said_absent = false;
        let etag = found.e_tag().map(str::to_owned);
        let size_bytes = found.content_length().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        if size_bytes > self.max_model_bytes {
            let (location, limit_bytes) = (self.location(), self.max_model_bytes);
            let error = RegistryError::TooLarge { location, size_bytes, limit_bytes };
            state.see(etag, Some(error.to_string()));
            return Err(error);
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
        if let Some(serving) = state.serving.as_ref().filter(|serving| serving.model.sha256 == sha256) {
            let model = serving.model.clone();
            state.see(etag, None);
            return Ok(Found::SameBytes(Release { model, released_at }));
        }
        let reported_at = self.admit(state, etag.clone(), &sha256).await?;
        let released_at = reported_at.map_or(released_at, |at| at.max(released_at));
        let limits = self.load_limits.clone();
        let task = tokio::task::spawn_blocking(move || Model::load_within(bytes, &limits));
        let started = Instant::now();
        Ok(Found::Changed(Loading { etag, released_at, sha256, task, started, said_slow: false }))
    }

    /// Refuses a file that the stage may not serve, before it is loaded. Said once for each reason. Tells since when it
    /// may serve, where that is asked.
    async fn admit(
        &self,
        state: &mut State,
        etag: Option<String>,
        sha256: &str,
    ) -> Result<Option<DateTime<Utc>>, RegistryError> {
        let error = match self.acceptance.check(sha256).await {
            Ok(reported_at) => return Ok(reported_at),
            Err(NotAccepted::Refused(detail)) => {
                RegistryError::NotAccepted { location: self.location(), sha256: sha256.to_owned(), detail }
            }
            Err(NotAccepted::Unreachable(detail)) => self.unreachable(detail),
        };
        let (message, earlier) = (error.to_string(), state.refusal.clone());
        let is_known = state.awaiting_report.as_deref() == Some(sha256) && earlier.as_ref() == Some(&message);
        state.see(etag, Some(message));
        state.awaiting_report = Some(sha256.to_owned());
        Err(if is_known {
            RegistryError::StillRefused { earlier: earlier.unwrap_or_default() }
        } else {
            error
        })
    }

    /// Waits for the file that is being loaded, and swaps or refuses.
    async fn finish_loading(&self, state: &mut State) -> Result<Release, RegistryError> {
        let loading = state.loading.as_mut().expect("look begins to load before it waits");
        let elapsed = loading.started.elapsed();
        let wait = match state.serving {
            Some(_) => LONGEST_WAIT_BESIDE.saturating_sub(elapsed),
            None => LONGEST_WAIT_FOR_FIRST,
        };
        let Ok(loaded) = timeout(wait, &mut loading.task).await else {
            let (location, sha256) = (self.location(), loading.sha256.clone());
            let elapsed = loading.started.elapsed();
            return Err(RegistryError::StillLoading { location, sha256, elapsed });
        };
        let Loading { etag, released_at, sha256, .. } = state.loading.take().expect("it was there");
        let detail = match loaded {
            Ok(Ok(model)) => {
                metrics::count(Metric::ModelReleased, &self.stage);
                tracing::info!(model = %model.metadata.name, version = %model.metadata.version, %sha256,
                    stage = %self.stage, location = %self.location(), "model loaded");
                let release = Release { model, released_at };
                state.swap(release.clone());
                state.see(etag, None);
                return Ok(release);
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => {
                let message = panic.try_into_panic().map(|p| panic_message(&*p)).unwrap_or_default();
                format!("loading it panicked: {message}")
            }
        };
        let error = RegistryError::Refused { location: self.location(), sha256, detail };
        state.see(etag, Some(error.to_string()));
        Err(error)
    }

    fn location(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }

    fn unreachable(&self, detail: String) -> RegistryError {
        RegistryError::Unreachable { location: self.location(), detail }
    }

    /// Says what someone has to mend, once for each file; and counts what is refused.
    fn log_trouble(&self, error: &RegistryError, state: &mut State) {
        let stage = &self.stage;
        let (serving, so) = match &state.serving {
            Some(release) => (release.model.sha256.as_str(), "the last good model serves"),
            None => ("none", "no model serves and events are retried"),
        };
        match error {
            // Said when it was refused.
            RegistryError::StillRefused { .. } => {}
            RegistryError::Unreachable { .. } => {
                tracing::warn!(%error, %stage, %serving, "model bucket not reached, {so}");
            }
            RegistryError::Absent { .. } => {
                if !std::mem::replace(&mut state.said_absent, true) {
                    tracing::error!(%error, %stage, %serving, "model is missing, {so}");
                }
            }
            RegistryError::StillLoading { .. } => {
                if let Some(loading) = &mut state.loading
                    && !std::mem::replace(&mut loading.said_slow, true)
                {
                    tracing::error!(%error, %stage, %serving, "model loads slowly, {so}");
                }
            }
            RegistryError::TooLarge { .. }
            | RegistryError::Refused { .. }
            | RegistryError::NotAccepted { .. } => {
                metrics::count(Metric::ModelRefused, stage);
                tracing::error!(%error, %stage, %serving, "model refused, {so}");
            }
        }
    }
}

impl State {
    /// Remembers which file was looked at, and whether it is refused.
    fn see(&mut self, etag: Option<String>, refusal: Option<String>) {
        self.seen_etag = etag;
        self.refusal = refusal;
        self.awaiting_report = None;
        self.checked_at = Some(Instant::now());
    }

    /// Lets `release` serve from now on.
    fn swap(&mut self, release: Release) {
        let before = self.serving.replace(release);
        self.replaced = before.map(|before| Replaced {
            model: Arc::downgrade(&before.model),
            at: Instant::now(),
            said_held: false,
        });
    }

    /// Whether a batch still holds the model before this one. A third is not loaded beside the two.
    fn a_replaced_model_is_held(&mut self) -> bool {
        let Some(replaced) = &mut self.replaced else { return false };
        if replaced.model.strong_count() == 0 {
            self.replaced = None;
            return false;
        }
        let held = replaced.at.elapsed();
        if held > LONGEST_HOLD && !std::mem::replace(&mut replaced.said_held, true) {
            tracing::warn!(
                held_s = held.as_secs(),
                "an image holds a replaced model; no new one is loaded meanwhile"
            );
        }
        true
    }
}

/// S3 answers 304, which the SDK reports as an error without a code of its own.
fn is_not_modified<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.raw_response().is_some_and(|response| response.status().as_u16() == 304)
}

#[cfg(feature = "local")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::Clients;
    use crate::local::credentials;

    fn toy(name: &str) -> Arc<Model> {
        let path = format!("{}/tests/golden/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
        Model::load(&std::fs::read(path).unwrap()).unwrap()
    }

    /// A registry of an address where nobody answers.
    fn registry() -> Registry {
        let config = Config::from_lookup(|name| match name {
            "GIEMSA_STAGE" => Some("slow".to_owned()),
            "GIEMSA_INPUT_BUCKET" => Some("in".to_owned()),
            _ => Some("own".to_owned()).filter(|_| name.ends_with("_BUCKET") || name == "GIEMSA_TABLE"),
        });
        let nowhere = "http://127.0.0.1:9";
        Registry::new(Clients::at(nowhere, nowhere, credentials()).s3, &config.unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_last_good_model_serves_while_another_is_loaded_for_too_long() {
        let registry = registry();
        let (good, new) = (toy("toy_nchw"), toy("toy_nhwc"));
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let loaded = new.clone();
        let task = tokio::task::spawn_blocking(move || {
            finished.recv().unwrap();
            Ok(loaded)
        });
        let started = Instant::now().checked_sub(LONGEST_WAIT_BESIDE).unwrap();
        let (released_at, sha256) = (DateTime::default(), new.sha256.clone());
        *registry.state.lock().await = State {
            serving: Some(Release { model: good.clone(), released_at }),
            loading: Some(Loading { etag: None, released_at, sha256, task, started, said_slow: false }),
            ..State::default()
        };
        for _ in 0..2 {
            assert_eq!(registry.refresh().await.unwrap().model.sha256, good.sha256);
        }
        assert!(registry.state.lock().await.loading.as_ref().unwrap().said_slow);
        drop(good);
        finish.send(()).unwrap();
        while registry.refresh().await.unwrap().model.sha256 != new.sha256 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
