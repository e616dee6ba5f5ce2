//! The order of the steps, and the bounds on them: fetch, analyse, store, one outcome for each object.
//!
//! It never knows who triggered it. Invariant: every object given in comes out with exactly one outcome, by
//! the deadline, and all objects of one call are classified by one model.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::{StreamExt, stream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{timeout, timeout_at};

#[cfg(feature = "local")]
pub use crate::analysis::Step;
use crate::analysis::{Analysis, AnalysisError, analyse_image_in_steps, elapsed_ms};
use crate::aws::Clients;
use crate::classification::{Finding, ImageInfo, ModelInfo, Record, Reject, TimingsMs};
use crate::config::Config;
use crate::model::{Model, Registry, RegistryError, Release, panic_message};
use crate::notes::NoteKeeper;
use crate::object::ObjectRef;
use crate::outcome::{Answer, Disposition, Failure, Outcome, SkipReason};
use crate::store::{
    FetchError, FetchedObject, ImageKey, LedgerEntry, QueryError, StoreError, TableReader, TableWriter,
    fetch_object, make_current, write_result,
};

/// Takes objects through all steps.
#[derive(Debug)]
pub struct Pipeline {
    config: Config,
    s3: aws_sdk_s3::Client,
    registry: Registry,
    table: TableWriter,
    reader: TableReader,
    cpu_permits: Arc<Semaphore>,
    /// Digest of the model whose ledger entry this process has written.
    ledger_digest: Mutex<Option<String>>,
    #[cfg(feature = "local")]
    fault_point: Option<FaultPoint>,
}

/// Where the embedded stack makes the work on an image fail on purpose; Lambda packages do not have it.
#[cfg(feature = "local")]
#[derive(Clone)]
pub struct FaultPoint(Arc<Fault>);

#[cfg(feature = "local")]
type Fault = dyn Fn(Step, &str) + Send + Sync;

#[cfg(feature = "local")]
impl FaultPoint {
    /// `fault` is called with the image's key before each step, on the thread that works on the image.
    pub fn new(fault: impl Fn(Step, &str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fault))
    }
}

#[cfg(feature = "local")]
impl std::fmt::Debug for FaultPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultPoint")
    }
}

impl Pipeline {
    /// Makes a pipeline on the given clients.
    pub fn new(config: Config, clients: Clients) -> Self {
        let Clients { s3, dynamodb } = clients;
        Self {
            registry: Registry::new(s3.clone(), &config),
            table: TableWriter::new(dynamodb.clone(), &config.table),
            reader: TableReader::new(dynamodb, &config.table),
            cpu_permits: Arc::new(Semaphore::new(config.limits.cpus.get())),
            ledger_digest: Mutex::default(),
            #[cfg(feature = "local")]
            fault_point: None,
            s3,
            config,
        }
    }

    /// The same pipeline with faults on purpose.
    #[cfg(feature = "local")]
    #[must_use]
    pub fn with_fault_point(mut self, fault_point: FaultPoint) -> Self {
        self.fault_point = Some(fault_point);
        self
    }

    /// Loads the model ahead of the first event. Failing is no error here: the first batch looks again, and the
    /// registry has said what is wrong with the model.
    pub async fn warm_up(&self) {
        if let Err(error) = self.release().await {
            tracing::warn!(%error, stage = %self.config.stage, "no model at start, events will be retried");
        }
    }

    /// Digest of the model that the next batch will be answered by.
    ///
    /// # Errors
    /// [`RegistryError`] if there is none.
    pub async fn model_digest(&self) -> Result<String, Arc<RegistryError>> {
        Ok(self.release().await?.model.sha256.clone())
    }

    /// Why the file in the place of the stage's model does not serve, if it is refused.
    pub fn model_refusal(&self) -> Option<String> {
        self.registry.refusal()
    }

    /// Answers `objects`, in their order. Work that would not end before `deadline` less the margin is handed
    /// back as [`Outcome::Retry`].
    pub async fn run(&self, objects: &[ObjectRef], deadline: Option<Instant>) -> Vec<Outcome> {
        let stop_at = deadline.map(|deadline| {
            let now = Instant::now();
            deadline.checked_sub(self.config.limits.deadline_margin).map_or(now, |at| at.max(now))
        });
        let release = self.release().boxed().shared();
        let in_flight: NonZeroUsize = self.config.limits.fetch_concurrency;
        // Made one by one as there is room for them: ten thousand that wait would take more memory than their images.
        let answer = |index: usize| {
            let release = release.clone();
            async move { (index, self.answer_by(&objects[index], release, stop_at).await) }.boxed()
        };
        let mut outcomes: Vec<(usize, Outcome)> =
            stream::iter((0..objects.len()).map(answer)).buffer_unordered(in_flight.get()).collect().await;
        outcomes.sort_unstable_by_key(|(index, _)| *index);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Keeps why images of this pipeline are not answered yet.
    pub fn note_keeper(&self) -> NoteKeeper {
        NoteKeeper::new(self.table.clone(), &self.config.stage)
    }

    /// The model of this batch. It is asked for beside the downloads, and only if an object needs it.
    async fn release(&self) -> Result<Release, Arc<RegistryError>> {
        let release = match self.registry.refresh().await {
            Ok(release) => release,
            Err(error) if error.is_refusal() => self.fall_back(error).await.map_err(Arc::new)?,
            Err(error) => return Err(Arc::new(error)),
        };
        self.record_release(&release).await;
        Ok(release)
    }

    /// The model that this stage served last, where its file is refused and nothing serves yet; else `refusal`.
    async fn fall_back(&self, refusal: RegistryError) -> Result<Release, RegistryError> {
        match self.reader.model_at(&self.config.stage, Utc::now()).await {
            Ok(Some(last)) => {
                self.registry.fall_back(&last.model.sha256, last.released_at).await.map_err(|error| {
                    tracing::warn!(%error, stage = %self.config.stage, "no model of before to fall back on");
                    refusal
                })
            }
            // The stage never served anything.
            Ok(None) => Err(refusal),
            Err(error) => {
                tracing::warn!(%error, stage = %self.config.stage, "model ledger not read, no model to fall back on");
                Err(refusal)
            }
        }
    }

    /// Notes in the ledger, once for each model and process, that this stage serves it.
    async fn record_release(&self, release: &Release) {
        let mut written = self.ledger_digest.lock().await;
        if written.as_ref() == Some(&release.model.sha256) {
            return;
        }
        let entry = LedgerEntry {
            stage: self.config.stage.clone(),
            released_at: release.released_at,
            model: ModelInfo::of(&release.model),
        };
        match self.table.put_ledger(&entry).await {
            Ok(()) => *written = Some(release.model.sha256.clone()),
            // Not worth an image: the next batch tries again, and every result names its model anyway.
            Err(error) => tracing::warn!(%error, "model ledger not written"),
        }
    }

    async fn answer_by<'a>(
        &'a self,
        object: &'a ObjectRef,
        release: SharedRelease<'a>,
        stop_at: Option<Instant>,
    ) -> Outcome {
        let outcome = match stop_at {
            Some(stop_at) if Instant::now() >= stop_at => Outcome::Retry(Failure::NoTimeLeft),
            Some(stop_at) => timeout_at(stop_at.into(), self.answer(object, release))
                .await
                .unwrap_or(Outcome::Retry(Failure::NoTimeLeft)),
            None => self.answer(object, release).await,
        };
        log_outcome(object, &outcome);
        outcome
    }

    async fn answer(&self, object: &ObjectRef, release: SharedRelease<'_>) -> Outcome {
        if self.config.is_own_output(&object.bucket, &object.key) {
            return Outcome::Skipped(SkipReason::OwnOutput);
        }
        if object.size_bytes.is_some_and(|size| object.is_folder_marker(size)) {
            return Outcome::Skipped(SkipReason::FolderMarker);
        }
        if object.bucket != self.config.input_bucket {
            return Outcome::Retry(Failure::ForeignBucket {
                bucket: object.bucket.clone(),
                expected: self.config.input_bucket.clone(),
            });
        }
        let started = Instant::now();
        let (fetched, release) =
            tokio::join!(fetch_object(&self.s3, object, self.config.limits.max_object_bytes), release);
        let fetch_ms = elapsed_ms(started);
        let model = match release {
            Ok(release) => release.model,
            Err(error) => return Outcome::Retry(error.into()),
        };
        let fetched = match fetched {
            Ok(fetched) if object.is_folder_marker(fetched.bytes.len() as u64) => {
                return Outcome::Skipped(SkipReason::FolderMarker);
            }
            Err(error @ FetchError::NotFound { .. }) => match self.answer_before(object).await {
                Ok(Some(record)) => return Outcome::Answered(answer_of(record, true)),
                Ok(None) => Err(error),
                Err(error) => return Outcome::Retry(error.into()),
            },
            fetched => fetched,
        };
        match self.record_of(object, fetched, fetch_ms, &model).await {
            Ok(record) => match self.store(record, object).await {
                Ok((record, is_current)) => Outcome::Answered(answer_of(record, is_current)),
                Err(error) => Outcome::Retry(error.into()),
            },
            Err(failure) => Outcome::Retry(failure),
        }
    }

    /// The answer that the upload of an object which is gone had before, if the table holds it.
    ///
    /// Where the event does not say which upload of the key it means, any answer of the key stands.
    async fn answer_before(&self, object: &ObjectRef) -> Result<Option<Record>, QueryError> {
        let image = ImageKey { bucket: object.bucket.clone(), key: object.key.clone() };
        let current = self.reader.current(&image, &self.config.stage).await?;
        let names_none = object.version_id.is_none() && object.etag.is_none();
        Ok(current
            .map(|(record, _)| record)
            .filter(|record| names_none || record.image.is_announced_by(object)))
    }

    /// The record of an object, or the failure for which it has to be delivered again.
    async fn record_of(
        &self,
        object: &ObjectRef,
        fetched: Result<FetchedObject, FetchError>,
        fetch_ms: f64,
        model: &Arc<Model>,
    ) -> Result<Record, Failure> {
        let (mut image, analysis) = match fetched {
            Ok(FetchedObject { bytes, image }) => {
                let analysis = self.analyse(&object.key, bytes, model.clone()).await;
                (image, analysis)
            }
            Err(FetchError::TooLarge { size_bytes, limit_bytes, image }) => {
                let seen = (*image).clone();
                (seen, Err(FetchError::TooLarge { size_bytes, limit_bytes, image }.into()))
            }
            Err(error) => (ImageInfo::of_object(object), Err(error.into())),
        };
        let (finding, mut timings_ms) = match analysis {
            Ok(analysis) => {
                analysis.describe(&mut image);
                (analysis.finding, analysis.timings_ms)
            }
            Err(failure) => match failure.disposition() {
                Disposition::Retry => return Err(failure),
                Disposition::Reject { code, message } => {
                    let reject = Reject { code: code.to_owned(), message };
                    (Finding::Rejected(reject), TimingsMs::default())
                }
            },
        };
        timings_ms.fetch = fetch_ms;
        let mut record = Record::new(image, &self.config.stage, model, finding);
        record.timings_ms = Some(timings_ms);
        record.classified_at = Some(Utc::now());
        Ok(record)
    }

    /// Analyses one image on the CPU pool; as many at once as there are permits.
    async fn analyse(&self, key: &str, bytes: bytes::Bytes, model: Arc<Model>) -> Result<Analysis, Failure> {
        let permit = self.cpu_permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let decode_limits = self.config.limits.decode();
        let limit: Duration = self.config.limits.image_timeout;
        let before_step = self.before_step(key);
        let work = tokio::task::spawn_blocking(move || {
            // Released when the work ends, not when somebody stops waiting for it.
            let _permit = permit;
            analyse_image_in_steps(&bytes, &model, &decode_limits, Some(Instant::now() + limit), before_step)
        });
        match timeout(limit, work).await {
            Err(_) | Ok(Ok(Err(AnalysisError::OutOfTime))) => Err(Failure::ImageTimeout { limit }),
            Ok(Ok(Err(AnalysisError::Model(error)))) => Err(error.into()),
            Ok(Ok(Ok(analysis))) => Ok(analysis),
            Ok(Err(join_error)) => {
                let message = match join_error.try_into_panic() {
                    Ok(panic) => panic_message(&*panic),
                    Err(error) => error.to_string(),
                };
                Err(Failure::Panicked { message })
            }
        }
    }

    /// What happens before each step of the work on an image: nothing, but for faults on purpose.
    #[cfg(feature = "local")]
    fn before_step(&self, key: &str) -> impl Fn(Step) + Send + 'static {
        let point = self.fault_point.clone().map(|point| (point, key.to_owned()));
        move |step| {
            if let Some((FaultPoint(fault), key)) = &point {
                fault(step, key);
            }
        }
    }

    #[cfg(not(feature = "local"))]
    fn before_step(&self, _key: &str) -> impl Fn(crate::analysis::Step) + Send + 'static {
        |_| {}
    }

    /// Stores a record in the results prefix and then in the table; returns it and whether it is the current one.
    ///
    /// The table comes last: what it names exists.
    async fn store(&self, record: Record, object: &ObjectRef) -> Result<(Record, bool), StoreError> {
        let Config { results_bucket, results_prefix, .. } = &self.config;
        let record = write_result(&self.s3, results_bucket, results_prefix, record).await?;
        // The place of a write in the order of its key is no place of another write that was read in its stead.
        let is_its_own = record.is_gone() || record.image.is_announced_by(object);
        let sequencer = object.sequencer.as_ref().filter(|_| is_its_own);
        let is_current = make_current(&self.s3, &self.table, &record, sequencer).await?;
        Ok((record, is_current))
    }
}

/// One look for a model, shared by all objects of a batch.
type SharedRelease<'a> = Shared<BoxFuture<'a, Result<Release, Arc<RegistryError>>>>;

fn answer_of(record: Record, is_current: bool) -> Answer {
    Answer {
        result_id: record.result_id,
        label: record.label,
        reject: record.reject.map(|reject| (reject.code, reject.message)),
        is_current,
    }
}

fn log_outcome(object: &ObjectRef, outcome: &Outcome) {
    match outcome {
        Outcome::Answered(Answer { reject: Some((code, message)), result_id, .. }) => {
            tracing::warn!(key = %object.key, %result_id, %code, reason = %message, "image rejected");
        }
        Outcome::Retry(failure @ Failure::ForeignBucket { .. }) => {
            tracing::error!(key = %object.key, reason = %failure, "image not answered, will be retried");
        }
        // Thousands at once, which the batch's line counts.
        Outcome::Retry(Failure::NoTimeLeft) => {
            tracing::debug!(key = %object.key, "image not started or not finished in time, will be retried");
        }
        Outcome::Retry(failure) => {
            tracing::warn!(key = %object.key, reason = %failure, "image not answered, will be retried");
        }
        Outcome::Answered(_) | Outcome::Skipped(_) => {}
    }
}
