//! The gate function: a model file that was copied to a stage is tried on the golden set, and its report is written.
//!
//! It never lets a model serve; the registry of a stage reads the report and decides. The same handler runs in Lambda, in
//! the embedded stack and in the tests. Invariant: whatever ends in no report is handed back to the trigger, and a report
//! that says `passed` is written after the archive and the page that it stands for.

use std::sync::Arc;
use std::time::Instant;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout_at;

use crate::config::{GateConfig, PRODUCTION_STAGE, model_key};
use crate::event::{EventError, Notice, Trigger, parse_event};
use crate::golden::{BucketError, GoldenSet, ModelBucket, ModelFile, answer_golden};
use crate::metrics::{self, Metric};
use crate::model::{
    GateModel, GateReport, GateRules, GoldenAnswer, LoadLimits, Model, Trial, archive_key, panic_message,
    render_report, report_key, report_page_key, too_large,
};
use crate::object::ObjectRef;

/// Folders of the model bucket that are no stages.
const NO_STAGES: [&str; 4] = ["archive", "golden", "golden-sets", "reports"];

/// Answers events of the model bucket.
#[derive(Debug)]
pub struct GateHandler {
    config: GateConfig,
    bucket: ModelBucket,
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
        let bucket = ModelBucket::new(s3, &config.model_bucket, config.limits.max_model_bytes);
        Self { config, bucket }
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
        let mut first = None;
        for delivery in &event.deliveries {
            let mut failed = false;
            match &delivery.notices {
                Err(error) => {
                    tracing::error!(delivery = %delivery.id, %error, "delivery cannot be read, handed back");
                    first.get_or_insert_with(|| error.to_string());
                    failed = true;
                }
                Ok(notices) => {
                    for object in notices.iter().filter_map(|notice| self.model_of(notice)) {
                        match self.gate(object, false, deadline).await {
                            Ok(gated) => answers.push(shown(object, &gated)),
                            Err(error) => {
                                tracing::warn!(key = %object.key, reason = %error, "model not tried, will be retried");
                                first.get_or_insert_with(|| format!("{}: {error}", object.key));
                                failed = true;
                            }
                        }
                    }
                }
            }
            if failed {
                to_deliver_again.push(delivery.id.clone());
            }
        }
        match (&event.trigger, first) {
            (Trigger::Sqs, _) => {
                let failures = to_deliver_again.iter().map(|id| json!({ "itemIdentifier": id }));
                Ok(json!({ "batchItemFailures": failures.collect::<Vec<_>>() }))
            }
            (_, Some(first)) => {
                let unreported = to_deliver_again.len();
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
    /// [`GateError`] if the model bucket failed; what is wrong with the model or the golden set is in the report.
    pub async fn gate(
        &self,
        object: &ObjectRef,
        again: bool,
        deadline: Option<Instant>,
    ) -> Result<Gated, GateError> {
        let file = self.bucket.read_model(object).await?;
        let (sha256, size_bytes) = match &file {
            ModelFile::Gone => {
                tracing::warn!(key = %object.key, "the model is gone, there is nothing to try");
                return Ok(Gated::Gone);
            }
            ModelFile::TooLarge { sha256, size_bytes } => (sha256.clone(), *size_bytes),
            ModelFile::Whole { sha256, bytes } => (sha256.clone(), bytes.len() as u64),
        };
        let set = GoldenSet::of(self.bucket.list_golden().await?);
        // A report under this name that is of another model counts for nothing.
        let earlier = self.bucket.read_report(&sha256).await?.filter(|report| report.model.sha256 == sha256);
        if let Some(earlier) = &earlier
            && !again
            && earlier.golden.digest == set.summary().digest
        {
            return Ok(Gated::Unchanged(Box::new(earlier.clone())));
        }
        let file_model = GateModel { sha256, size_bytes, ..GateModel::default() };
        let mut report = match &file {
            ModelFile::Whole { bytes, .. } => self.try_model(file_model, bytes, &set, deadline).await?,
            _ => self.refuse(file_model, &set, too_large(size_bytes, self.config.limits.max_model_bytes)),
        };
        // A person's decision stands until that person takes it back.
        report.waiver = earlier.and_then(|earlier| earlier.waiver);
        self.publish(object, &report, &file).await?;
        Ok(Gated::Reported(Box::new(report)))
    }

    async fn try_model(
        &self,
        mut file_model: GateModel,
        bytes: &Bytes,
        set: &GoldenSet,
        deadline: Option<Instant>,
    ) -> Result<GateReport, GateError> {
        let candidate = match self.load(bytes.clone()).await {
            Ok(candidate) => candidate,
            Err(detail) => {
                return Ok(self.refuse(file_model, set, format!("the model cannot be loaded: {detail}")));
            }
        };
        file_model.describe(&candidate);
        let mut trial = Trial::new(file_model, set.summary(), Utc::now());
        trial.notes.extend(candidate.notes.iter().cloned());
        if let Some(json) = self.bucket.read_rules().await? {
            match GateRules::parse(&json) {
                Ok(rules) => trial.rules = rules,
                Err(error) => trial.problems.push(error.to_string()),
            }
        }
        let production = self.production_model(&candidate, &mut trial.notes).await?;
        let models: Vec<Arc<Model>> =
            [candidate].into_iter().chain(production.iter().map(|(_, m)| m.clone())).collect();
        let work = answer_golden(
            &set.images,
            |image| self.bucket.read_golden(image.clone(), self.config.limits.max_object_bytes),
            &models,
            &self.config.limits,
        );
        let answers = match deadline {
            None => Some(work.await?),
            Some(deadline) => {
                let stop_at = deadline.checked_sub(self.config.limits.deadline_margin).unwrap_or(deadline);
                timeout_at(stop_at.into(), work).await.ok().transpose()?
            }
        };
        match answers {
            Some(by_model) => {
                let mut by_model: Vec<Vec<GoldenAnswer>> = by_model;
                let of_production = by_model.split_off(1).pop();
                trial.answers = by_model.pop().expect("the candidate is the first model");
                trial.production = production.map(|(info, _)| info).zip(of_production);
            }
            None => trial.problems.push(format!(
                "the {} golden images were not finished in the time of the gate function; give it more time or memory, \
                 or take images out of the golden set, and ask for it again",
                set.images.len()
            )),
        }
        Ok(GateReport::of(trial))
    }

    /// The model of production, to compare with; what stands in the way is noted.
    async fn production_model(
        &self,
        candidate: &Model,
        notes: &mut Vec<String>,
    ) -> Result<Option<(GateModel, Arc<Model>)>, GateError> {
        let key = model_key(PRODUCTION_STAGE);
        let object = ObjectRef::new(self.config.model_bucket.clone(), key.clone());
        let (sha256, bytes) = match self.bucket.read_model(&object).await? {
            ModelFile::Whole { sha256, bytes } => (sha256, bytes),
            ModelFile::Gone => {
                notes.push(format!("there is no model at {key} to compare with"));
                return Ok(None);
            }
            ModelFile::TooLarge { size_bytes, .. } => {
                notes.push(format!(
                    "not compared with {key}, which has {size_bytes} bytes, more than is allowed"
                ));
                return Ok(None);
            }
        };
        if sha256 == candidate.sha256 {
            notes.push(format!("this file is at {key}, so there is no other model to compare with"));
            return Ok(None);
        }
        let mut info = GateModel { sha256, size_bytes: bytes.len() as u64, ..GateModel::default() };
        match self.load(bytes).await {
            Ok(model) => {
                info.describe(&model);
                Ok(Some((info, model)))
            }
            Err(detail) => {
                notes.push(format!("not compared with {key}, which cannot be loaded: {detail}"));
                Ok(None)
            }
        }
    }

    async fn load(&self, bytes: Bytes) -> Result<Arc<Model>, String> {
        let limits = LoadLimits::from(&self.config.limits);
        match tokio::task::spawn_blocking(move || Model::load_within(bytes, &limits)).await {
            Ok(loaded) => loaded.map_err(|error| error.to_string()),
            Err(panic) => {
                let message = panic.try_into_panic().map(|p| panic_message(&*p)).unwrap_or_default();
                Err(format!("loading it panicked: {message}"))
            }
        }
    }

    /// The report of a model that was not tried.
    fn refuse(&self, model: GateModel, set: &GoldenSet, problem: String) -> GateReport {
        let mut trial = Trial::new(model, set.summary(), Utc::now());
        trial.problems.push(problem);
        GateReport::of(trial)
    }

    /// Writes archive, page and report, in this order: what the report stands for exists before it.
    async fn publish(
        &self,
        object: &ObjectRef,
        report: &GateReport,
        file: &ModelFile,
    ) -> Result<(), GateError> {
        let sha256 = &report.model.sha256;
        if let (true, ModelFile::Whole { bytes, .. }) = (report.passed, file) {
            self.bucket.write(&archive_key(sha256), "application/octet-stream", bytes.clone().into()).await?;
        }
        let page = ByteStream::from(render_report(report).into_bytes());
        self.bucket.write(&report_page_key(sha256), "text/html; charset=utf-8", page).await?;
        let json = serde_json::to_vec_pretty(report).expect("a report holds only text and finite numbers");
        self.bucket.write(&report_key(sha256), "application/json", json.into()).await?;

        let stage = object.key.split('/').next().unwrap_or_default();
        metrics::count(if report.passed { Metric::GatePassed } else { Metric::GateFailed }, stage);
        if report.passed {
            tracing::info!(key = %object.key, %sha256, "model passed the golden gate");
        } else {
            let reason = report.failures.join("; ");
            tracing::warn!(key = %object.key, %sha256, %reason, "model failed the golden gate");
        }
        Ok(())
    }
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
