//! The order of the steps, and the bounds on them: fetch, analyse, store, one outcome for each object.
//!
//! It never knows who triggered it. Invariant: every object given in comes out with exactly one outcome, by
//! the deadline, and all objects of one call are classified by one model.

mod batch;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::{StreamExt, stream};
use tokio::sync::Mutex;
use tokio::time::timeout_at;
use tracing::{Instrument, debug_span};

use self::batch::Answered;
pub use self::batch::Batch;
use crate::analysis::elapsed_ms;
use crate::cpu_pool::CpuPool;
use crate::crashes::{CrashNotes, RunNotes};
use crate::notes::NoteKeeper;
use crate::outcome::{Disposition, Failure, Outcome, StoredResult};
use crate::serving::{Registry, RegistryError, Release};
use giemsa_config::{Config, GatePolicy};
use giemsa_core::object::{ObjectRef, SkipReason};
use giemsa_core::price::{Architecture, batch_cost};
use giemsa_core::record::{DECODER_FAILED_CODE, Finding, ImageInfo, Record, Reject, TimingsMs};
use giemsa_model::{LoadCheck, Model, Watch};
use giemsa_store::aws::Clients;
use giemsa_store::metrics::{self, Metric};
use giemsa_store::{
    FetchError, FetchedObject, ImageKey, LedgerEntry, Placement, QueryError, StoreError, TableReader,
    TableWriter, fetch_object, place, write_result,
};

/// Releases that are looked through for a model that can serve in the stead of a refused one.
const MAX_FALL_BACKS: usize = 5;

/// Takes objects through all steps.
#[derive(Debug)]
pub struct Pipeline {
    config: Config,
    s3: aws_sdk_s3::Client,
    registry: Registry,
    crashes: CrashNotes,
    table: TableWriter,
    reader: TableReader,
    cpu_pool: CpuPool,
    /// Model and time of the ledger entry that this process wrote last.
    ledger_entry: Mutex<Option<(String, DateTime<Utc>)>>,
}

impl Pipeline {
    /// Makes a pipeline on the given clients.
    pub fn new(config: Config, clients: Clients) -> Self {
        let Clients { s3, dynamodb } = clients;
        let table = TableWriter::new(dynamodb.clone(), &config.table);
        let reader = TableReader::new(dynamodb, &config.table);
        let crashes = CrashNotes::new(
            reader.clone(),
            table.clone(),
            &config.stage,
            format!("s3://{}/{}", config.model_bucket, config.model_key()),
        );
        Self {
            registry: Registry::new(s3.clone(), &config).checked_by(Arc::new(crashes.clone())),
            crashes,
            table,
            reader,
            cpu_pool: CpuPool::new(&config.limits),
            ledger_entry: Mutex::default(),
            s3,
            config,
        }
    }

    /// The same pipeline, which tells `watch` what it is about to load, decode and run.
    #[must_use]
    pub fn watched_by(mut self, watch: Watch) -> Self {
        self.registry = self.registry.watched_by(watch.clone());
        self.cpu_pool.set_watch(watch);
        self
    }

    /// Loads the model ahead of the first event. Failing is not an error here: the first batch looks again, and the
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

    /// Whether there is a model to answer with.
    pub fn has_model(&self) -> bool {
        self.registry.serves()
    }

    /// Answers `objects`, in their order. Work that would not end before `deadline` less the margin is handed
    /// back as [`Outcome::Retry`].
    pub async fn run(&self, objects: &[ObjectRef], deadline: Option<Instant>) -> Batch {
        let margin = self.config.limits.deadline_margin;
        let stop_before = |deadline: Instant, margin: Duration| {
            let now = Instant::now();
            deadline.checked_sub(margin).map_or(now, |at| at.max(now))
        };
        let stop_at = deadline.map(|deadline| stop_before(deadline, margin));
        let release = self.release().boxed().shared();
        let in_flight: NonZeroUsize = self.config.limits.fetch_concurrency;
        // Made one by one as there is room for them: ten thousand that wait would take more memory than their images.
        let answer = |index: usize| {
            let release = release.clone();
            let span = debug_span!("image", key = %objects[index].key);
            async move { (index, self.answer_by(&objects[index], release, stop_at).await) }
                .instrument(span)
                .boxed()
        };
        let mut answered: Vec<(usize, Answered)> =
            stream::iter((0..objects.len()).map(answer)).buffer_unordered(in_flight.get()).collect().await;
        answered.sort_unstable_by_key(|(index, _)| *index);
        let mut answered: Vec<Answered> = answered.into_iter().map(|(_, answered)| answered).collect();
        // Most of the margin may be needed by many slides; the rest is left for the answer.
        let stop_counting_at = deadline.map(|deadline| stop_before(deadline, margin / 4));
        self.invalidate_counts(&mut answered, stop_counting_at).instrument(debug_span!("count")).await;
        answered.into_iter().collect()
    }

    /// Marks the counts that the batch changed as old. An image whose counts are not marked is handed back: it is answered
    /// again, which changes nothing.
    async fn invalidate_counts(&self, answered: &mut [Answered], stop_at: Option<Instant>) {
        let counters = answered.iter().flat_map(|answered| answered.counters.iter().cloned()).collect();
        for (counter, detail) in self.table.invalidate(&self.config.stage, counters, stop_at).await {
            let place = counter.to_string();
            let images = answered.iter().filter(|answered| answered.counters.contains(&counter)).count();
            tracing::warn!(images, %place, %detail, "cannot invalidate counts; images are handed back");
            for answered in answered.iter_mut().filter(|answered| answered.counters.contains(&counter)) {
                let failure = Failure::ActivityNotNoted { place: place.clone(), detail: detail.clone() };
                answered.outcome = Outcome::Retry(failure);
            }
        }
    }

    /// Whether an analysis does not end any more; the process should, so that a new one has all its processors.
    pub fn is_stuck(&self) -> bool {
        self.cpu_pool.is_stuck()
    }

    /// The stage whose model answers.
    pub fn stage(&self) -> &str {
        &self.config.stage
    }

    /// What an invocation that takes `duration` and stores `answered` results costs, US dollars; `None` outside Lambda.
    pub fn cost_dollars(&self, duration: Duration, answered: u64) -> Option<f64> {
        let architecture =
            if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::X86_64 };
        self.config.memory_mb.map(|memory_mb| batch_cost(architecture, memory_mb, duration, answered))
    }

    /// Notes runs of this pipeline's model.
    pub fn run_notes(&self) -> RunNotes {
        RunNotes::new(self.table.clone(), self.crashes.clone(), &self.config.stage)
    }

    /// Lets the model of the digest `sha256` serve no longer, for the reason `why`.
    pub async fn withdraw(&self, sha256: &str, why: &str) {
        self.registry.withdraw(sha256, why).await;
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
    ///
    /// In production one that ended its processes is passed over for those before it; a stage where models are tried
    /// waits for another file.
    async fn fall_back(&self, refusal: RegistryError) -> Result<Release, RegistryError> {
        let stage = &self.config.stage;
        let candidates = if self.config.gate == GatePolicy::Required { MAX_FALL_BACKS } else { 1 };
        let ledger = match self.reader.ledger_newest(stage, candidates).await {
            Ok(ledger) => ledger,
            Err(error) => {
                tracing::warn!(%error, %stage, "model ledger not read, no model to fall back on");
                return Err(refusal);
            }
        };
        for last in ledger {
            let sha256 = &last.model.sha256;
            // What cannot be asked is asked again before it is loaded.
            if candidates > 1 && matches!(self.crashes.refusal(sha256).await, Ok(Some(_))) {
                continue;
            }
            return self.registry.fall_back(sha256, last.released_at).await.map_err(|error| {
                tracing::warn!(%error, %stage, "no earlier model to fall back on");
                refusal
            });
        }
        Err(refusal)
    }

    /// Notes in the ledger, once for each release and process, that this stage serves it.
    async fn record_release(&self, release: &Release) {
        let (sha256, released_at) = (&release.model.sha256, release.released_at);
        let mut written = self.ledger_entry.lock().await;
        if written.as_ref().is_some_and(|(model, at)| model == sha256 && *at == released_at) {
            return;
        }
        let entry = LedgerEntry {
            stage: self.config.stage.clone(),
            released_at: release.released_at,
            model: release.model.info(),
        };
        match self.table.put_ledger(&entry).await {
            Ok(()) => *written = Some((sha256.clone(), released_at)),
            // Not worth an image: the next batch tries again, and every result names its model anyway.
            Err(error) => tracing::warn!(%error, "model ledger not written"),
        }
    }

    async fn answer_by<'a>(
        &'a self,
        object: &'a ObjectRef,
        release: SharedRelease<'a>,
        stop_at: Option<Instant>,
    ) -> Answered {
        let no_time_left = || Outcome::Retry(Failure::NoTimeLeft).into();
        let answered = match stop_at {
            Some(stop_at) if Instant::now() >= stop_at => no_time_left(),
            Some(stop_at) => timeout_at(stop_at.into(), self.answer(object, release, Some(stop_at)))
                .await
                .unwrap_or_else(|_| no_time_left()),
            None => self.answer(object, release, None).await,
        };
        log_outcome(object, &answered.outcome);
        answered
    }

    async fn answer(
        &self,
        object: &ObjectRef,
        release: SharedRelease<'_>,
        stop_at: Option<Instant>,
    ) -> Answered {
        if self.config.is_own_output(&object.bucket, &object.key) {
            return Outcome::Skipped(SkipReason::OwnOutput).into();
        }
        if let Some(reason) = object.skip_reason(object.size_bytes) {
            return Outcome::Skipped(reason).into();
        }
        if object.bucket != self.config.input_bucket {
            return Outcome::Retry(Failure::ForeignBucket {
                bucket: object.bucket.clone(),
                expected: self.config.input_bucket.clone(),
            })
            .into();
        }
        let started = Instant::now();
        let fetched = fetch_object(&self.s3, object, self.config.limits.max_object_bytes);
        let (fetched, release) = tokio::join!(fetched.instrument(debug_span!("fetch")), release);
        let fetch_ms = elapsed_ms(started);
        let model = match release {
            Ok(release) => release.model,
            Err(error) => return Outcome::Retry(error.into()).into(),
        };
        let read_bytes = fetched.as_ref().ok().map(|fetched| fetched.bytes.len() as u64);
        if let Some(reason) = object.skip_reason(read_bytes) {
            return Outcome::Skipped(reason).into();
        }
        let fetched = match fetched {
            Err(error @ FetchError::NotFound { .. }) => match self.answer_before(object).await {
                Ok(Some(record)) => {
                    let placement = Placement::current(&record, None);
                    return Answered::of(record, placement, None);
                }
                Ok(None) => Err(error),
                Err(error) => return Outcome::Retry(error.into()).into(),
            },
            fetched => fetched,
        };
        let record = match self.record_of(object, fetched, fetch_ms, &model, stop_at).await {
            Ok(record) => record,
            Err(failure) => return Outcome::Retry(failure).into(),
        };
        let (started, times) = (Instant::now(), record.timings_ms);
        match self.store(record, object).instrument(debug_span!("store")).await {
            Ok((record, placement)) => Answered::of(record, placement, times.zip(Some(elapsed_ms(started)))),
            Err(error) => Outcome::Retry(error.into()).into(),
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
        stop_at: Option<Instant>,
    ) -> Result<Record, Failure> {
        let (mut image, analysis) = match fetched {
            Ok(FetchedObject { bytes, image }) => {
                let analysis = self.cpu_pool.analyse(&object.key, bytes, model.clone(), stop_at).await;
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
                if matches!(&analysis.finding, Finding::Rejected(reject) if reject.code == DECODER_FAILED_CODE)
                {
                    metrics::count(Metric::DecoderFailed, &self.config.stage);
                }
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
        let mut record = Record::new(image, &self.config.stage, model.info(), finding);
        record.timings_ms = Some(timings_ms);
        record.classified_at = Some(Utc::now());
        Ok(record)
    }

    /// Stores a record in the results prefix and then in the table.
    ///
    /// The table comes last: what it names exists.
    async fn store(&self, record: Record, object: &ObjectRef) -> Result<(Record, Placement), StoreError> {
        let Config { results_bucket, results_prefix, .. } = &self.config;
        let record = write_result(&self.s3, results_bucket, results_prefix, record).await?;
        // The place of a write in the order of its key is not a place of another write that was read in its stead.
        let is_its_own = record.is_gone() || record.image.is_announced_by(object);
        let sequencer = object.sequencer.as_ref().filter(|_| is_its_own);
        let placement = place(&self.s3, &self.table, &record, sequencer).await?;
        Ok((record, placement))
    }
}

/// One look for a model, shared by all objects of a batch.
type SharedRelease<'a> = Shared<BoxFuture<'a, Result<Release, Arc<RegistryError>>>>;

fn log_outcome(object: &ObjectRef, outcome: &Outcome) {
    match outcome {
        Outcome::Answered(StoredResult { reject: Some((code, message)), result_id, .. }) => {
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
