//! Loads models: asks before, within the configured limits, on a thread of its own, watched while it goes on.
//!
//! No model is loaded that somebody remembers as one not to load, and a load that nobody waits for any more can be
//! waited for again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{LoadLimits, Model, ModelError, Watch, Work, panic_message};
use giemsa_config::Limits;

/// What is known of a model before it is loaded, by whoever remembers more than this process.
#[async_trait]
pub trait LoadCheck: std::fmt::Debug + Send + Sync {
    /// Why the model of the digest `sha256` must not be loaded, and what to do, if it must not.
    ///
    /// # Errors
    /// What went wrong, if it is not known.
    async fn refusal(&self, sha256: &str) -> Result<Option<String>, String>;
}

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Whether it may be loaded is not known; trying again may help.
    #[error("whether the model ended its process before is not known: {0}")]
    Unchecked(String),
    /// It must not be loaded.
    #[error("{0}")]
    Refused(String),
    /// It is not a usable model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The code panicked on it.
    #[error("loading it panicked: {0}")]
    Panicked(String),
}

/// Loads models within the limits of one configuration.
#[derive(Debug, Clone)]
pub struct Loader {
    limits: LoadLimits,
    check: Option<Arc<dyn LoadCheck>>,
    watch: Watch,
}

/// A model on its way into memory. Whoever waits may stop; the load goes on and can be waited for again.
#[derive(Debug)]
pub struct Loading {
    /// Digest of the file that is being loaded.
    pub sha256: String,
    task: JoinHandle<Result<Arc<Model>, ModelError>>,
    started: Instant,
}

impl Loader {
    /// Loads what fits `limits`.
    pub fn new(limits: &Limits) -> Self {
        Self { limits: LoadLimits::from(limits), check: None, watch: Watch::default() }
    }

    /// The same loader, which asks `check` before it loads a model.
    #[must_use]
    pub fn checked_by(self, check: Arc<dyn LoadCheck>) -> Self {
        Self { check: Some(check), ..self }
    }

    /// The same loader, which notifies `watch` of each load.
    #[must_use]
    pub fn watched_by(self, watch: Watch) -> Self {
        Self { watch, ..self }
    }

    /// Largest model file that is loaded, bytes.
    pub fn max_bytes(&self) -> u64 {
        self.limits.file_bytes()
    }

    /// Loads a model whose digest is `sha256`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, sha256: &str, bytes: Bytes) -> Result<Arc<Model>, LoadError> {
        self.check(sha256).await?;
        loaded(self.start(sha256, bytes).task.await)
    }

    /// Asks whether the model must not be loaded, whatever its file says.
    pub async fn check(&self, sha256: &str) -> Result<(), LoadError> {
        let Some(check) = &self.check else { return Ok(()) };
        match check.refusal(sha256).await {
            Ok(None) => Ok(()),
            Ok(Some(why)) => Err(LoadError::Refused(why)),
            Err(detail) => Err(LoadError::Unchecked(detail)),
        }
    }

    /// Begins to load a model whose digest is `sha256`; ask [`Loader::check`] first.
    pub fn start(&self, sha256: &str, bytes: Bytes) -> Loading {
        let (limits, watch, digest) = (self.limits.clone(), self.watch.clone(), sha256.to_owned());
        Loading::of(sha256, move || {
            let _watched = watch.until_dropped();
            watch.notify(Work::Load { sha256: &digest });
            Model::load_within(bytes, &limits)
        })
    }
}

impl Loading {
    /// Runs `load` on a thread of its own.
    pub fn of(sha256: &str, load: impl FnOnce() -> Result<Arc<Model>, ModelError> + Send + 'static) -> Self {
        let (task, started) = (tokio::task::spawn_blocking(load), Instant::now());
        Self { sha256: sha256.to_owned(), task, started }
    }

    /// How long it has been loading.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for at most `limit`; `None` if it is still being loaded then.
    pub async fn wait(&mut self, limit: Duration) -> Option<Result<Arc<Model>, LoadError>> {
        timeout(limit, &mut self.task).await.ok().map(loaded)
    }

    /// As if it had begun earlier, by `time`; for tests of limits of time.
    #[doc(hidden)]
    pub fn began_earlier(&mut self, time: Duration) {
        self.started -= time;
    }

    /// Whether the load is over.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

fn loaded(
    joined: Result<Result<Arc<Model>, ModelError>, tokio::task::JoinError>,
) -> Result<Arc<Model>, LoadError> {
    match joined {
        Ok(loaded) => Ok(loaded?),
        Err(error) => Err(LoadError::Panicked(match error.try_into_panic() {
            Ok(panic) => panic_message(&*panic),
            Err(error) => error.to_string(),
        })),
    }
}
