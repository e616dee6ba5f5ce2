//! A cold start whose stage holds a file that is refused: serve what served last, from the archive.
//!
//! It never chooses the model; the caller knows from the ledger which one served last. Invariant: what is loaded has the
//! digest that was asked for, so a changed archive cannot serve.

use aws_sdk_s3::error::DisplayErrorContext;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::time::timeout;

use super::{LONGEST_WAIT_FOR_FIRST, Registry, RegistryError, Release};
use crate::digest::sha256_hex;
use crate::model::{Model, archive_key, panic_message};

impl RegistryError {
    /// Whether there is a file, and it is refused: then what served last may go on.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::TooLarge { .. }
            | Self::Refused { .. }
            | Self::NotAccepted { .. }
            | Self::StillRefused { .. } => true,
            Self::Absent { .. } | Self::StillLoading { .. } | Self::Unreachable { .. } => false,
        }
    }
}

impl Registry {
    /// Serves the model of the digest `sha256`, which the stage has served since `released_at`, until the file of the
    /// stage is accepted. Without an archive of it, the stage's own file serves if it is that model: one that served
    /// before its stage asked for reports.
    ///
    /// # Errors
    /// [`RegistryError`] if it is neither, or does not load; a file that does not is not loaded again.
    pub async fn fall_back(
        &self,
        sha256: &str,
        released_at: DateTime<Utc>,
    ) -> Result<Release, RegistryError> {
        let mut state = self.state.lock().await;
        if let Some(serving) = &state.serving {
            return Ok(serving.clone());
        }
        if let Some(earlier) = state.refused_fall_backs.get(sha256) {
            return Err(RegistryError::StillRefused { earlier: earlier.clone() });
        }
        let archive = archive_key(sha256);
        let (key, bytes) = match self.read(&archive).await? {
            Some(bytes) => (archive, bytes),
            None if state.awaiting_report.as_deref() == Some(sha256) => {
                let bytes =
                    self.read(&self.key).await?.ok_or(RegistryError::Absent { location: self.location() })?;
                (self.key.clone(), bytes)
            }
            None => {
                return Err(RegistryError::Absent { location: format!("s3://{}/{archive}", self.bucket) });
            }
        };
        let location = format!("s3://{}/{key}", self.bucket);
        let loaded = match self.check_load(&location, sha256).await {
            Ok(()) => {
                let loaded = self.load_exactly(sha256, bytes).await;
                loaded.map_err(|detail| self.refused(&location, sha256, detail))
            }
            Err(refused @ RegistryError::Refused { .. }) => Err(refused),
            Err(error) => return Err(error),
        };
        match loaded {
            Ok(model) => {
                let release = Release { model, released_at };
                let (stage, refusal) = (&self.stage, state.refusal.as_deref().unwrap_or_default());
                tracing::error!(%stage, serving = %sha256, %key, %refusal,
                    "the model of the stage is refused; the one that served last is loaded from {key} and serves");
                state.swap(release.clone());
                Ok(release)
            }
            Err(error) => {
                tracing::error!(%error, stage = %self.stage, "a model that served before is refused");
                state.refused_fall_backs.insert(sha256.to_owned(), error.to_string());
                Err(error)
            }
        }
    }

    async fn load_exactly(&self, sha256: &str, bytes: Bytes) -> Result<std::sync::Arc<Model>, String> {
        let found = sha256_hex(&bytes);
        if found != sha256 {
            return Err(format!("its sha256 is {found}; expected {sha256}"));
        }
        match timeout(LONGEST_WAIT_FOR_FIRST, self.start_loading(sha256, bytes)).await {
            Ok(Ok(loaded)) => loaded.map_err(|error| error.to_string()),
            Ok(Err(panic)) => {
                let message = panic.try_into_panic().map(|p| panic_message(&*p)).unwrap_or_default();
                Err(format!("loading it panicked: {message}"))
            }
            Err(_) => Err(format!("it is not loaded after {} s", LONGEST_WAIT_FOR_FIRST.as_secs())),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>, RegistryError> {
        let location = || format!("s3://{}/{key}", self.bucket);
        let unreachable = |detail: String| RegistryError::Unreachable { location: location(), detail };
        let found = match self.s3.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => found,
            Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => return Ok(None),
            Err(error) => return Err(unreachable(DisplayErrorContext(&error).to_string())),
        };
        let size_bytes = found.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        if size_bytes > self.max_model_bytes {
            let limit_bytes = self.max_model_bytes;
            return Err(RegistryError::TooLarge { location: location(), size_bytes, limit_bytes });
        }
        let bytes = found.body.collect().await.map_err(|error| unreachable(error.to_string()))?;
        // A part of a file has another digest.
        Ok(Some(bytes.into_bytes()))
    }
}
