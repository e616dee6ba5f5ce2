//! The current model of a stage: looks for a new file, loads it beside the old one, swaps, keeps the last good.
//!
//! What may follow on what is in `state.rs`. Invariant: a refused file is not loaded again until the object or its report
//! changes; a batch that holds a [`Release`] keeps it whatever is swapped meanwhile.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

use super::acceptance::{self, NotAccepted};
use super::state::{File, Seen, Serving, State};
use super::{RegistryError, Release};
use giemsa_config::{Config, GatePolicy};
use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::archive_key;
use giemsa_model::{LoadCheck, LoadError, Loader, Watch};
use giemsa_store::metrics::{self, Metric};
use giemsa_store::{BoundedFile, FileFacts, ModelBucket};

/// Longest that batches wait for a new file to be loaded while another model could serve them; it is loaded on beside.
const LONGEST_WAIT_BESIDE: Duration = Duration::from_secs(10);

/// Longest that a batch waits for the first model before its events are handed back.
const LONGEST_WAIT_FOR_FIRST: Duration = Duration::from_secs(60);

/// Holds the model that a stage serves.
#[derive(Debug)]
pub struct Registry {
    bucket: ModelBucket,
    key: String,
    stage: String,
    policy: GatePolicy,
    check_interval: Duration,
    loader: Loader,
    state: Mutex<State>,
}

impl Registry {
    /// Makes a registry that has not looked yet.
    pub fn new(s3: Client, config: &Config) -> Self {
        Self {
            bucket: ModelBucket::new(s3, &config.model_bucket),
            key: config.model_key(),
            stage: config.stage.clone(),
            policy: config.gate,
            check_interval: config.limits.model_check_interval,
            loader: Loader::new(&config.limits),
            state: Mutex::default(),
        }
    }

    /// The same registry, which asks `check` before it loads a model.
    #[must_use]
    pub fn checked_by(self, check: Arc<dyn LoadCheck>) -> Self {
        Self { loader: self.loader.checked_by(check), ..self }
    }

    /// The same registry, which notifies `watch` of each load.
    #[must_use]
    pub fn watched_by(self, watch: Watch) -> Self {
        Self { loader: self.loader.watched_by(watch), ..self }
    }

    /// Why the file in the stage's place does not serve, if it is refused; `None` also while it is being looked at.
    pub fn refusal(&self) -> Option<String> {
        self.state.try_lock().ok()?.refusal().map(str::to_owned)
    }

    /// Whether a model serves; `true` also while a file is being looked at.
    pub fn serves(&self) -> bool {
        self.state.try_lock().map_or(true, |state| state.release().is_some())
    }

    /// Lets the model of the digest `sha256` serve no longer, for the reason `why`, until there is another file.
    pub async fn withdraw(&self, sha256: &str, why: &str) {
        let mut state = self.state.lock().await;
        let error = self.refused(&self.location(), sha256, why.to_owned());
        if state.withdraw(sha256, error.to_string()) {
            self.log_trouble(&error, &mut state);
        }
    }

    /// Looks for a new model, unless one looked less than the interval ago, and returns the one to serve now.
    ///
    /// One request of the object's facts; only a changed file is downloaded. Whatever is wrong with the new file or
    /// with the bucket, the last good model goes on serving.
    ///
    /// # Errors
    /// [`RegistryError`] only if there is no last good model.
    pub async fn refresh(&self) -> Result<Release, RegistryError> {
        let mut state = self.state.lock().await;
        if !matches!(state.file, File::Loading { .. }) {
            let is_fresh = state.checked_at.is_some_and(|at| at.elapsed() < self.check_interval);
            match state.release().cloned() {
                Some(serving) if is_fresh || !state.may_load() => return Ok(serving),
                None if !state.may_load() => return state.settled(),
                _ => {}
            }
        }
        match self.look(&mut state).await {
            Ok(release) => Ok(release),
            Err(error) => {
                self.log_trouble(&error, &mut state);
                state.release().cloned().ok_or(error)
            }
        }
    }

    /// Serves the model of the digest `sha256`, which the stage has served since `released_at`, until the file of the
    /// stage is accepted. Without an archive of it, the stage's own file serves if it is that model: one that served
    /// before its stage asked for reports.
    ///
    /// # Errors
    /// [`RegistryError`] if it is neither, does not load, or is still being loaded; one that does not load is not loaded
    /// again.
    pub async fn fall_back(
        &self,
        sha256: &str,
        released_at: DateTime<Utc>,
    ) -> Result<Release, RegistryError> {
        let mut state = self.state.lock().await;
        if let Some(serving) = state.release() {
            return Ok(serving.clone());
        }
        if matches!(state.serving, Serving::Nothing) {
            let known = state.refused_fall_backs.get(sha256).cloned();
            if known.is_some() || !state.may_load() {
                return Err(RegistryError::StillRefused { earlier: known.unwrap_or_default() });
            }
            let (location, bytes) = self.read_fall_back(&state, sha256).await?;
            let found = sha256_hex(&bytes);
            let checked = if found == sha256 {
                self.check(&location, sha256).await
            } else {
                Err(self.refused(&location, sha256, format!("its sha256 is {found}; expected {sha256}")))
            };
            if let Err(error) = checked {
                if error.is_refusal() {
                    tracing::error!(%error, stage = %self.stage, "a model that served before is refused");
                    state.refused_fall_backs.insert(sha256.to_owned(), error.to_string());
                }
                return Err(error);
            }
            let loading = self.loader.start(sha256, bytes);
            state.serving = Serving::FallingBack { location, released_at, loading };
        }
        self.finish_fall_back(&mut state).await
    }

    async fn read_fall_back(&self, state: &State, sha256: &str) -> Result<(String, Bytes), RegistryError> {
        let archive = archive_key(sha256);
        let mut keys = vec![&archive];
        if matches!(&state.file, File::AwaitsReport { sha256: waiting, .. } if waiting == sha256) {
            keys.push(&self.key);
        }
        for key in keys {
            match self.bucket.get_within(key, None, self.loader.max_bytes()).await? {
                Some(BoundedFile::Whole(file)) => return Ok((self.bucket.location(key), file.bytes)),
                Some(BoundedFile::TooLarge(facts)) => return Err(self.too_large(&facts)),
                None => {}
            }
        }
        Err(RegistryError::Absent { location: self.bucket.location(&archive) })
    }

    async fn finish_fall_back(&self, state: &mut State) -> Result<Release, RegistryError> {
        let Serving::FallingBack { location, loading, .. } = &mut state.serving else {
            return state.settled();
        };
        let (location, sha256) = (location.clone(), loading.sha256.clone());
        let Some(loaded) = loading.wait(LONGEST_WAIT_FOR_FIRST).await else {
            return Err(RegistryError::StillLoading { location, sha256, elapsed: loading.elapsed() });
        };
        let (stage, refusal) = (&self.stage, state.refusal().unwrap_or_default());
        match loaded {
            Ok(model) => {
                tracing::error!(%stage, serving = %sha256, %location, %refusal,
                    "the model of the stage is refused; the one that served last is loaded from {location} and serves");
                state.end_fall_back(Ok(model));
                state.release().cloned().ok_or(RegistryError::Absent { location })
            }
            Err(error) => {
                let error = self.refused(&location, &sha256, error.to_string());
                tracing::error!(%error, %stage, "a model that served before is refused");
                state.end_fall_back(Err(error.to_string()));
                Err(error)
            }
        }
    }

    async fn look(&self, state: &mut State) -> Result<Release, RegistryError> {
        if !matches!(state.file, File::Loading { .. }) {
            metrics::count(Metric::ModelChecks, &self.stage);
            let Some(facts) = self.bucket.facts(&self.key).await? else { return Err(self.absent(state)) };
            let seen = Seen::of(&facts);
            if state.has_seen(&seen) {
                state.checked_at = Some(std::time::Instant::now());
                let File::AwaitsReport { sha256, .. } = &state.file else { return state.settled() };
                // Only when its report is there is the file read again, to be loaded.
                let sha256 = sha256.clone();
                self.admit(state, &seen, &sha256).await?;
            }
            if let Some(release) = self.begin(state).await? {
                return Ok(release);
            }
        }
        self.finish_loading(state).await
    }

    /// Reads the stage's file and begins to load it, unless it has the bytes of the model that serves. A file that is
    /// refused without being loaded is remembered.
    async fn begin(&self, state: &mut State) -> Result<Option<Release>, RegistryError> {
        let location = self.location();
        let file = match self.bucket.get_within(&self.key, None, self.loader.max_bytes()).await? {
            Some(BoundedFile::Whole(file)) => file,
            Some(BoundedFile::TooLarge(facts)) => {
                let error = self.too_large(&facts);
                state.refuse(Seen::of(&facts), error.to_string());
                return Err(error);
            }
            None => return Err(self.absent(state)),
        };
        let (seen, sha256) = (Seen::of(&file.facts), sha256_hex(&file.bytes));
        if let Some(release) = state.take_same_bytes(&seen, &sha256) {
            return Ok(Some(release));
        }
        if let Err(error) = self.check(&location, &sha256).await {
            if error.is_refusal() {
                state.refuse(seen, error.to_string());
            }
            return Err(error);
        }
        let reported_at = self.admit(state, &seen, &sha256).await?;
        let released_at = reported_at.map_or(seen.modified_at, |at| at.max(seen.modified_at));
        state.begin(seen, released_at, self.loader.start(&sha256, file.bytes));
        Ok(None)
    }

    /// Refuses a file that the stage may not serve, before it is loaded; the log has each reason once. Returns since when
    /// it may serve, where that is asked.
    async fn admit(
        &self,
        state: &mut State,
        seen: &Seen,
        sha256: &str,
    ) -> Result<Option<DateTime<Utc>>, RegistryError> {
        match acceptance::check(&self.bucket, &self.stage, self.policy, sha256).await {
            Ok(reported_at) => Ok(reported_at),
            Err(NotAccepted::Refused(detail)) => {
                let (location, digest) = (self.location(), sha256.to_owned());
                let error = RegistryError::NotAccepted { location, sha256: digest, detail };
                let is_known = state.await_report(seen.clone(), sha256, Some(error.to_string()));
                Err(if is_known { RegistryError::StillRefused { earlier: error.to_string() } } else { error })
            }
            Err(NotAccepted::Unreachable(error)) => {
                state.await_report(seen.clone(), sha256, None);
                let (location, detail) = (self.location(), format!("its golden report: {error}"));
                Err(RegistryError::Unreachable { location, detail })
            }
        }
    }

    /// Asks whether the model must not be loaded, whatever the file says of itself.
    async fn check(&self, location: &str, sha256: &str) -> Result<(), RegistryError> {
        self.loader.check(sha256).await.map_err(|error| match error {
            LoadError::Unchecked(detail) => {
                RegistryError::Unreachable { location: location.to_owned(), detail }
            }
            refused => self.refused(location, sha256, refused.to_string()),
        })
    }

    /// Waits for the file that is being loaded, and swaps or refuses.
    async fn finish_loading(&self, state: &mut State) -> Result<Release, RegistryError> {
        let is_served = state.release().is_some();
        let File::Loading { loading, .. } = &mut state.file else { return state.settled() };
        let (location, sha256) = (self.location(), loading.sha256.clone());
        let wait = if is_served {
            LONGEST_WAIT_BESIDE.saturating_sub(loading.elapsed())
        } else {
            LONGEST_WAIT_FOR_FIRST
        };
        match loading.wait(wait).await {
            None => Err(RegistryError::StillLoading { location, sha256, elapsed: loading.elapsed() }),
            Some(Ok(model)) => {
                metrics::count(Metric::ModelReleased, &self.stage);
                tracing::info!(model = %model.metadata.name, version = %model.metadata.version, %sha256,
                    stage = %self.stage, %location, "model loaded");
                state.end_load(Ok(model));
                state.settled()
            }
            Some(Err(error)) => {
                let error = self.refused(&location, &sha256, error.to_string());
                state.end_load(Err(error.to_string()));
                Err(error)
            }
        }
    }

    fn location(&self) -> String {
        self.bucket.location(&self.key)
    }

    fn absent(&self, state: &mut State) -> RegistryError {
        state.set_absent();
        RegistryError::Absent { location: self.location() }
    }

    fn too_large(&self, facts: &FileFacts) -> RegistryError {
        RegistryError::TooLarge {
            location: self.bucket.location(&facts.key),
            size_bytes: facts.size_bytes,
            limit_bytes: self.loader.max_bytes(),
        }
    }

    fn refused(&self, location: &str, sha256: &str, detail: String) -> RegistryError {
        RegistryError::Refused { location: location.to_owned(), sha256: sha256.to_owned(), detail }
    }

    /// Says what someone has to mend, once for each file; and counts what is refused.
    fn log_trouble(&self, error: &RegistryError, state: &mut State) {
        let stage = &self.stage;
        let (serving, so) = match state.release() {
            Some(release) => (release.model.sha256.clone(), "the last good model serves"),
            None => ("none".to_owned(), "no model serves and events are retried"),
        };
        match error {
            // Said when it was refused.
            RegistryError::StillRefused { .. } => {}
            RegistryError::Unreachable { .. } => {
                tracing::warn!(%error, %stage, %serving, "model bucket not reached, {so}");
            }
            RegistryError::Absent { .. } => {
                if !std::mem::replace(&mut state.said, true) {
                    tracing::error!(%error, %stage, %serving, "model is missing, {so}");
                }
            }
            RegistryError::StillLoading { .. } => {
                if !std::mem::replace(&mut state.said, true) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use giemsa_local::credentials;
    use giemsa_model::Loading;
    use giemsa_model::Model;
    use giemsa_store::aws::Clients;

    fn toy(name: &str) -> Arc<Model> {
        let path = format!("{}/tests/data/golden/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
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
        let mut loading = Loading::of(&new.sha256, move || {
            finished.recv().unwrap();
            Ok(loaded)
        });
        loading.began_earlier(LONGEST_WAIT_BESIDE);
        let released_at = DateTime::default();
        let facts =
            FileFacts { key: String::new(), etag: String::new(), size_bytes: 0, modified_at: released_at };
        {
            let mut state = registry.state.lock().await;
            state.serving = Serving::Model(Release { model: good.clone(), released_at });
            state.begin(Seen::of(&facts), released_at, loading);
        }
        for _ in 0..2 {
            assert_eq!(registry.refresh().await.unwrap().model.sha256, good.sha256);
        }
        assert!(registry.state.lock().await.said);
        drop(good);
        finish.send(()).unwrap();
        while registry.refresh().await.unwrap().model.sha256 != new.sha256 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
