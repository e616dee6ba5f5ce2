//! Loads of models: asked for before, watched while they go on, and taken back.
//!
//! It never judges a file by what it holds. Invariant: no model is loaded that somebody remembers as one not to load.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{Registry, RegistryError, State};
use crate::model::{Model, ModelError, Watch, Work};

/// What is known of a model before it is loaded, by whoever remembers more than this process.
#[async_trait]
pub trait LoadCheck: std::fmt::Debug + Send + Sync {
    /// Why the model of the digest `sha256` must not be loaded, and what to do, if it must not.
    ///
    /// # Errors
    /// What went wrong, if it is not known.
    async fn refusal(&self, sha256: &str) -> Result<Option<String>, String>;
}

impl Registry {
    /// The same registry, which asks `check` before it loads a model.
    #[must_use]
    pub fn checked_by(mut self, check: Arc<dyn LoadCheck>) -> Self {
        self.load_check = Some(check);
        self
    }

    /// Tells `watch` of each load from now on.
    pub fn set_watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// Whether a model serves; `true` also while a file is being looked at.
    pub fn serves(&self) -> bool {
        self.state.try_lock().map_or(true, |state| state.serving.is_some())
    }

    /// Lets the model of the digest `sha256` serve no longer, for the reason `why`, until there is another file.
    pub async fn withdraw(&self, sha256: &str, why: &str) {
        let mut state = self.state.lock().await;
        if state.serving.take_if(|serving| serving.model.sha256 == sha256).is_some() {
            let error = self.refused(&self.location(), sha256, why.to_owned());
            self.log_trouble(&error, &mut state);
            // A file that is refused itself is in its place already, if another served in its stead.
            state.refusal.get_or_insert(error.to_string());
        }
    }

    /// Asks whether the model must not be loaded, whatever the file says of itself.
    pub(super) async fn check_load(&self, location: &str, sha256: &str) -> Result<(), RegistryError> {
        let Some(check) = &self.load_check else { return Ok(()) };
        match check.refusal(sha256).await {
            Ok(None) => Ok(()),
            Ok(Some(detail)) => Err(self.refused(location, sha256, detail)),
            Err(detail) => Err(RegistryError::Unreachable { location: location.to_owned(), detail }),
        }
    }

    pub(super) fn refused(&self, location: &str, sha256: &str, detail: String) -> RegistryError {
        RegistryError::Refused { location: location.to_owned(), sha256: sha256.to_owned(), detail }
    }

    pub(super) fn start_loading(
        &self,
        sha256: &str,
        bytes: Bytes,
    ) -> JoinHandle<Result<Arc<Model>, ModelError>> {
        let (limits, watch, sha256) = (self.load_limits.clone(), self.watch.clone(), sha256.to_owned());
        tokio::task::spawn_blocking(move || {
            let _watched = watch.until_dropped();
            watch.tell(Work::Load { sha256: &sha256 });
            Model::load_within(bytes, &limits)
        })
    }
}

impl State {
    /// Remembers a file that is refused without being loaded; one that could not be asked about is asked about again.
    pub(super) fn see_if_refused(&mut self, etag: Option<String>, error: RegistryError) -> RegistryError {
        if error.is_refusal() {
            self.see(etag, Some(error.to_string()));
        }
        error
    }
}

/// S3 answers 304, which the SDK reports as an error without a code of its own.
pub(super) fn is_not_modified<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.raw_response().is_some_and(|response| response.status().as_u16() == 304)
}
