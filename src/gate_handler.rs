//! The gate function: a model file that was copied to a stage is tried on the golden set, and its report is written.
//!
//! It never lets a model serve; the registry of a stage reads the report and decides. The same handler runs in Lambda,
//! in the embedded stack and in the tests. Whatever ends in no report is handed back to the trigger, and a report that
//! says `passed` is written after the archive and the page that it stands for.

use std::sync::Arc;
use std::time::Instant;

use aws_sdk_s3::Client;
use bytes::Bytes;
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout_at;

use crate::golden::{GOLDEN_PREFIX, GoldenBytes, GoldenImage, GoldenSet, answer_golden};
use giemsa_config::{GateConfig, PRODUCTION_STAGE, model_key};
use giemsa_core::digest::sha256_hex;
use giemsa_core::event::{EventError, Notice, Trigger, parse_event};
use giemsa_core::gate_report::{GateModel, GateReport, report_key};
use giemsa_core::gate_rules::{GateRules, RULES_KEY};
use giemsa_core::object::ObjectRef;
use giemsa_model::{
    GoldenAnswer, LoadCheck, LoadError, Loader, Model, Trial, Unanswered, Watch, Work, render_report,
    too_large,
};
use giemsa_store::metrics::{self, Metric};
use giemsa_store::{BoundedFile, BucketError, FoundReport, ModelBucket};

/// Folders of the model bucket that are not stages.
const NO_STAGES: [&str; 4] = ["archive", "golden", "golden-sets", "reports"];

/// Answers events of the model bucket.
#[derive(Debug)]
pub struct GateHandler {
    config: GateConfig,
    bucket: ModelBucket,
    loader: Loader,
    watch: Watch,
}

/// Why a model has no report yet, so that its event has to come again.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The event cannot be read.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The model bucket failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// Whether the model may be loaded is not known.
    #[error(transparent)]
    Load(LoadError),
    /// The invocation has no time to try it, or other models took too much of it.
    #[error("no time is left in this invocation to try the model; it is handed back")]
    NoTimeLeft,
    /// The file was deleted or replaced while it was read.
    #[error("{key} changed while it was read")]
    Changed {
        /// Key of the file.
        key: String,
    },
    /// Some models have no report.
    #[error(
        "{unreported} of {total} models have no report and have to be delivered again; the first: {first}"
    )]
    Unreported {
        /// Models to deliver again.
        unreported: usize,
        /// Models of the event.
        total: usize,
        /// Key and reason of the first.
        first: String,
    },
}

/// What became of one model file.
#[derive(Debug, Clone, PartialEq)]
pub enum Gated {
    /// It was tried, and this is its report.
    Reported(Box<GateReport>),
    /// There is a report of this file on this golden set already.
    Unchanged(Box<GateReport>),
    /// It is gone.
    Gone,
}

/// A request to try the model of a stage, other than by copying it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GateRequest {
    /// The stage, e.g. `dev`.
    stage: String,
    /// Whether to try it again on a golden set that it was tried on.
    #[serde(default)]
    again: bool,
}

impl GateHandler {
    /// Gates the models of the bucket that `config` names.
    pub fn new(config: GateConfig, s3: Client) -> Self {
        let bucket = ModelBucket::new(s3, &config.model_bucket);
        Self { bucket, loader: Loader::new(&config.limits), watch: Watch::default(), config }
    }

    /// The same gate, which asks `check` before it loads a model and notifies `watch` of what it is about to load and run.
    #[must_use]
    pub fn guarded_by(self, check: Arc<dyn LoadCheck>, watch: Watch) -> Self {
        Self { loader: self.loader.checked_by(check).watched_by(watch.clone()), watch, ..self }
    }

    /// Handles one event; `deadline` is when the invocation is ended by force.
    ///
    /// Beside the forms of triggers it takes `{"gate": {"stage": "dev", "again": true}}`, by hand. Returns
    /// `{"batchItemFailures": […]}` for SQS, and otherwise what became of each model. Files that are no model of a stage
    /// other than production are acknowledged.
    ///
    /// # Errors
    /// [`GateError`] if the event cannot be read, or, other than for SQS, if a model has no report.
    pub async fn handle(&self, event: &Value, deadline: Option<Instant>) -> Result<Value, GateError> {
        if let Some(request) = event.get("gate") {
            let request = GateRequest::deserialize(request)
                .map_err(|e| EventError::Malformed { form: "gate", detail: e.to_string() })?;
            let object = ObjectRef::new(self.config.model_bucket.clone(), model_key(&request.stage));
            return Ok(
                json!({ "models": [shown(&object, &self.gate(&object, request.again, deadline).await?)] }),
            );
        }
        let event = parse_event(event)?;
        let mut answers = Vec::new();
        let mut to_deliver_again = Vec::new();
        let (mut unreported, mut tried, mut first) = (0, 0, None);
        for delivery in &event.deliveries {
            let before = unreported;
            match &delivery.notices {
                Err(error) => {
                    tracing::error!(delivery = %delivery.id, %error, "delivery cannot be read, handed back");
                    first.get_or_insert_with(|| error.to_string());
                    unreported += 1;
                }
                Ok(notices) => {
                    for object in notices.iter().filter_map(|notice| self.model_of(notice)) {
                        match Box::pin(self.gate_after(tried, object, false, deadline)).await {
                            Ok(gated) => {
                                tried += usize::from(matches!(gated, Gated::Reported(_)));
                                answers.push(shown(object, &gated));
                            }
                            Err(error) => {
                                tracing::warn!(key = %object.key, reason = %error, "model not tried, will be retried");
                                first.get_or_insert_with(|| format!("{}: {error}", object.key));
                                unreported += 1;
                            }
                        }
                    }
                }
            }
            if unreported > before {
                to_deliver_again.push(delivery.id.clone());
            }
        }
        match (&event.trigger, first) {
            (Trigger::Sqs, _) => {
                let failures = to_deliver_again.iter().map(|id| json!({ "itemIdentifier": id }));
                Ok(json!({ "batchItemFailures": failures.collect::<Vec<_>>() }))
            }
            (_, Some(first)) => {
                Err(GateError::Unreported { unreported, total: unreported + answers.len(), first })
            }
            (_, None) => Ok(json!({ "models": answers })),
        }
    }

    /// The object of a notice, if it is the model of a stage that is tried.
    fn model_of<'a>(&self, notice: &'a Notice) -> Option<&'a ObjectRef> {
        let Notice::Created(object) = notice else { return None };
        let stage = object.key.strip_suffix("/model.onnx")?;
        let is_tried = !stage.contains('/') && stage != PRODUCTION_STAGE && !NO_STAGES.contains(&stage);
        (object.bucket == self.config.model_bucket && is_tried).then_some(object)
    }

    /// Tries the model at `object` and writes its report, unless there is one of this file on this golden set; `again`
    /// asks for a new one.
    ///
    /// # Errors
    /// [`GateError`] if the model bucket failed or no time is left; what is wrong with the model or the golden set is in
    /// the report.
    pub async fn gate(
        &self,
        object: &ObjectRef,
        again: bool,
        deadline: Option<Instant>,
    ) -> Result<Gated, GateError> {
        Box::pin(self.gate_after(0, object, again, deadline)).await
    }

    /// Gates a model after `tried` others that took time of the same invocation.
    async fn gate_after(
        &self,
        tried: usize,
        object: &ObjectRef,
        again: bool,
        deadline: Option<Instant>,
    ) -> Result<Gated, GateError> {
        let (version_id, max_bytes) = (object.version_id.as_deref(), self.loader.max_bytes());
        let (sha256, size_bytes, bytes) =
            match self.bucket.get_within(&object.key, version_id, max_bytes).await? {
                None => {
                    tracing::warn!(key = %object.key, "the model was deleted; nothing to try");
                    return Ok(Gated::Gone);
                }
                // A file that is not held is still told apart from others, so that its report can be found.
                Some(BoundedFile::TooLarge(facts)) => {
                    (self.bucket.sha256_of(&facts, version_id).await?, facts.size_bytes, None)
                }
                Some(BoundedFile::Whole(file)) => {
                    (sha256_hex(&file.bytes), file.facts.size_bytes, Some(file.bytes))
                }
            };
        let listed = self.bucket.list(GOLDEN_PREFIX).await?;
        let set =
            GoldenSet::of(listed.into_iter().map(|file| (file.key, file.etag.trim_matches('"').to_owned())));
        // A report under this name that is of another model counts for nothing.
        let own = |found: Option<FoundReport>| {
            found.and_then(Result::ok).filter(|report| report.model.sha256 == sha256)
        };
        let earlier = own(self.bucket.read_report(&sha256).await?.map(|(report, _)| report));
        if let Some(earlier) = earlier
            && !again
            && earlier.golden.digest == set.summary().digest
        {
            return Ok(Gated::Unchanged(Box::new(earlier)));
        }
        let stop_at = deadline.map(|at| at.checked_sub(self.config.limits.deadline_margin).unwrap_or(at));
        if stop_at.is_some_and(|stop_at| stop_at <= Instant::now()) {
            return Err(GateError::NoTimeLeft);
        }
        let model = GateModel { sha256: sha256.clone(), size_bytes, ..GateModel::default() };
        let report = match &bytes {
            Some(bytes) => Box::pin(self.try_model(model, bytes, &set, stop_at, tried)).await?,
            None => refuse(model, &set, too_large(size_bytes, max_bytes)),
        };
        // What the report stands for exists before it.
        if let (true, Some(bytes)) = (report.passed, bytes) {
            self.bucket.archive(&sha256, bytes).await?;
        }
        // A person's decision stands until that person takes it back, also one that was made meanwhile.
        let with_waiver = |found| {
            let waiver = own(found).and_then(|found| found.waiver);
            Ok::<_, GateError>(GateReport { waiver, ..report.clone() })
        };
        let report = self.bucket.publish_report(&sha256, with_waiver, render_report).await?;
        let stage = object.key.split('/').next().unwrap_or_default();
        metrics::count(if report.passed { Metric::GatePassed } else { Metric::GateFailed }, stage);
        if report.passed {
            tracing::info!(key = %object.key, %sha256, "model passed the golden gate");
        } else {
            let reason = report.failures.join("; ");
            tracing::warn!(key = %object.key, %sha256, %reason, "model failed the golden gate");
        }
        Ok(Gated::Reported(Box::new(report)))
    }

    async fn try_model(
        &self,
        mut file_model: GateModel,
        bytes: &Bytes,
        set: &GoldenSet,
        stop_at: Option<Instant>,
        tried_before: usize,
    ) -> Result<GateReport, GateError> {
        let sha256 = file_model.sha256.clone();
        let candidate = match self.load(&sha256, bytes.clone()).await? {
            Ok(candidate) => candidate,
            Err(detail) => {
                return Ok(refuse(file_model, set, format!("the model cannot be loaded: {detail}")));
            }
        };
        candidate.describe(&mut file_model);
        let mut trial = Trial::new(file_model, set.summary(), Utc::now());
        trial.notes.extend(candidate.notes.iter().cloned());
        if let Some(rules) = self.bucket.get(RULES_KEY).await? {
            match GateRules::parse(&rules.bytes) {
                Ok(rules) => trial.rules = rules,
                Err(error) => trial.problems.push(error.to_string()),
            }
        }
        let production = self.production_model(&candidate, &mut trial.notes).await?;
        let models: Vec<Arc<Model>> =
            [candidate].into_iter().chain(production.iter().map(|(_, m)| m.clone())).collect();
        let _watched = self.watch.until_dropped();
        self.watch.notify(Work::Infer { key: GOLDEN_PREFIX, sha256: &sha256 });
        let work =
            answer_golden(&set.images, |image| self.read_golden(image.clone()), &models, &self.config.limits);
        let answers = match stop_at {
            None => Some(work.await?),
            Some(stop_at) => timeout_at(stop_at.into(), work).await.ok().transpose()?,
        };
        match answers {
            Some(by_model) => {
                let mut by_model: Vec<Vec<GoldenAnswer>> = by_model;
                let of_production = by_model.split_off(1).pop();
                trial.answers = by_model.pop().expect("the candidate is the first model");
                trial.production = production.map(|(info, _)| info).zip(of_production);
            }
            // The time of the function is too short for a model only if no other took of it.
            None if tried_before > 0 => return Err(GateError::NoTimeLeft),
            None => trial.problems.push(format!(
                "the {} golden images were not finished in the time of the gate function; give it more time or memory, \
                 or take images out of the golden set, and ask for it again",
                set.images.len()
            )),
        }
        Ok(trial.judge())
    }

    /// The model of production, to compare with; what stands in the way is noted.
    async fn production_model(
        &self,
        candidate: &Model,
        notes: &mut Vec<String>,
    ) -> Result<Option<(GateModel, Arc<Model>)>, GateError> {
        let key = model_key(PRODUCTION_STAGE);
        let bytes = match self.bucket.get_within(&key, None, self.loader.max_bytes()).await? {
            Some(BoundedFile::Whole(file)) => file.bytes,
            None => {
                notes.push(format!("there is no model at {key} to compare with"));
                return Ok(None);
            }
            Some(BoundedFile::TooLarge(facts)) => {
                let size_bytes = facts.size_bytes;
                notes.push(format!(
                    "not compared with {key}, which has {size_bytes} bytes, more than is allowed"
                ));
                return Ok(None);
            }
        };
        let sha256 = sha256_hex(&bytes);
        if sha256 == candidate.sha256 {
            notes.push(format!("this file is at {key}, so there is no other model to compare with"));
            return Ok(None);
        }
        let mut info = GateModel { sha256, size_bytes: bytes.len() as u64, ..GateModel::default() };
        match self.load(&info.sha256, bytes).await? {
            Ok(model) => {
                model.describe(&mut info);
                Ok(Some((info, model)))
            }
            Err(detail) => {
                notes.push(format!("not compared with {key}, which cannot be loaded: {detail}"));
                Ok(None)
            }
        }
    }

    /// The model, or why it is refused.
    async fn load(&self, sha256: &str, bytes: Bytes) -> Result<Result<Arc<Model>, String>, GateError> {
        match self.loader.load(sha256, bytes).await {
            Ok(model) => Ok(Ok(model)),
            Err(error @ LoadError::Unchecked(_)) => Err(GateError::Load(error)),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// A golden image; what is wrong with it for good is in the result.
    async fn read_golden(&self, image: GoldenImage) -> Result<GoldenBytes, GateError> {
        match self.bucket.get_within(&image.key, None, self.config.limits.max_object_bytes).await? {
            Some(BoundedFile::Whole(file)) => Ok(Ok(file.bytes)),
            Some(BoundedFile::TooLarge(facts)) => {
                let (size_bytes, limit_bytes) = (facts.size_bytes, self.config.limits.max_object_bytes);
                let message = format!("the file has {size_bytes} bytes, more than the {limit_bytes} allowed");
                Ok(Err(Unanswered { code: "too_large".to_owned(), message }))
            }
            // Gone since it was listed: the set is another one now, and is tried anew.
            None => Err(GateError::Changed { key: image.key }),
        }
    }
}

/// The report of a model that was not tried.
fn refuse(model: GateModel, set: &GoldenSet, problem: String) -> GateReport {
    let mut trial = Trial::new(model, set.summary(), Utc::now());
    trial.problems.push(problem);
    trial.judge()
}

fn shown(object: &ObjectRef, gated: &Gated) -> Value {
    match gated {
        Gated::Gone => json!({ "key": object.key, "gone": true }),
        Gated::Reported(report) | Gated::Unchanged(report) => json!({
            "key": object.key,
            "sha256": report.model.sha256,
            "passed": report.passed,
            "failures": report.failures,
            "report": report_key(&report.model.sha256),
            "was_tried_before": matches!(gated, Gated::Unchanged(_)),
        }),
    }
}
