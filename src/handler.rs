//! Trigger event in, trigger's answer out; the same for Lambda, the embedded stack and the tests.
//!
//! Invariant: whatever is not answered is named in the answer, so that the trigger delivers it again; nothing is
//! acknowledged that has no terminal state.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use chrono::Utc;
use serde_json::{Value, json};
use tracing::{Instrument, debug_span};

use crate::crashes::{EarlierRun, RunNotes};
use crate::notes::{Note, NoteKeeper};
use crate::outcome::{Failure, Outcome, StoredResult};
use crate::pipeline::{Batch, Pipeline};
use giemsa_core::event::{Delivery, EventError, Notice, Trigger, TriggerEvent, parse_event};
use giemsa_core::object::ObjectRef;
use giemsa_store::metrics::{BatchFigures, StepTimes, record_batch};

/// Longest text that is given back to S3 Batch Operations, characters; it goes into a job's report.
const MAX_RESULT_STRING: usize = 500;

/// Answers trigger events.
#[derive(Debug)]
pub struct Handler {
    pipeline: Pipeline,
    note_keeper: NoteKeeper,
    run_notes: Option<RunNotes>,
}

/// Why an invocation fails as a whole, which makes an asynchronous trigger deliver it again.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The event cannot be read.
    #[error(transparent)]
    Event(#[from] EventError),
    /// Some objects have no terminal state yet.
    #[error(
        "{unanswered} of {total} objects are not answered and have to be delivered again; the first: {first}"
    )]
    Unanswered {
        /// Objects to deliver again.
        unanswered: usize,
        /// Objects of the event.
        total: usize,
        /// Key and reason of the first.
        first: String,
    },
}

/// What became of all objects of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
struct DeliveryCounts {
    classified: usize,
    rejected: usize,
    skipped: usize,
    ignored_events: usize,
    unreadable_deliveries: usize,
    retried: usize,
}

impl Handler {
    /// Answers by `pipeline`.
    pub fn new(pipeline: Pipeline) -> Self {
        Self { note_keeper: pipeline.note_keeper(), run_notes: None, pipeline }
    }

    /// The same handler in a process that nobody outlives: it notes runs on what was delivered before, so that a model
    /// which ends the process is known afterwards.
    #[must_use]
    pub fn noting_runs(self) -> Self {
        Self { run_notes: Some(self.pipeline.run_notes()), ..self }
    }

    /// Why the file in the place of the stage's model does not serve, if it is refused.
    pub fn model_refusal(&self) -> Option<String> {
        self.pipeline.model_refusal()
    }

    /// Whether there is a model to answer with.
    pub fn has_model(&self) -> bool {
        self.pipeline.has_model()
    }

    /// Whether an analysis does not end any more; the process should, so that a new one has all its processors.
    pub fn is_stuck(&self) -> bool {
        self.pipeline.is_stuck()
    }

    /// Handles one event; `deadline` is when the invocation is ended by force.
    ///
    /// Returns `{"batchItemFailures": […]}` for SQS, the results by task for S3 Batch Operations, and counts
    /// for the rest.
    ///
    /// # Errors
    /// [`HandlerError`] if the event cannot be read, or, for asynchronous triggers, if anything in it has to
    /// be delivered again. SQS and S3 Batch Operations are told which parts instead.
    pub async fn handle(&self, event: &Value, deadline: Option<Instant>) -> Result<Value, HandlerError> {
        self.answer(event, deadline).instrument(debug_span!("batch")).await
    }

    async fn answer(&self, event: &Value, deadline: Option<Instant>) -> Result<Value, HandlerError> {
        let started = Instant::now();
        let event = debug_span!("receive").in_scope(|| receive(event))?;
        // One object can come several times in a batch; it is answered once.
        let mut objects: Vec<ObjectRef> = Vec::new();
        let mut index_of: HashMap<ObjectRef, usize> = HashMap::new();
        let mut redelivered: HashSet<ObjectRef> = HashSet::new();
        for (object, is_redelivery) in created_objects(&event) {
            if is_redelivery {
                redelivered.insert(object.clone());
            }
            index_of.entry(object.clone()).or_insert_with(|| {
                objects.push(object.clone());
                objects.len() - 1
            });
        }
        let Batch { outcomes, step_times } = match &self.run_notes {
            Some(run_notes) if event.trigger == Trigger::Sqs && !redelivered.is_empty() => {
                self.run_noted(run_notes, &objects, &redelivered, deadline).await
            }
            _ => self.pipeline.run(&objects, deadline).await,
        };
        let outcome_of = |object: &ObjectRef| &outcomes[index_of[object]];

        if event.trigger == Trigger::Sqs {
            let notes = objects.iter().zip(&outcomes).map(|(object, outcome)| Note {
                object,
                outcome,
                is_redelivery: redelivered.contains(object),
            });
            self.note_keeper.keep(notes.collect(), deadline).await;
        }
        let counts = count(&event, &outcomes);
        if !event.deliveries.is_empty() {
            let answered = step_times.store.len() as u64;
            let mut figures = figures(&event, &objects, step_times, counts);
            figures.cost_dollars = self.pipeline.cost_dollars(started.elapsed(), answered);
            record_batch(self.pipeline.stage(), &figures);
        }
        tracing::info!(
            classified = counts.classified,
            rejected = counts.rejected,
            skipped = counts.skipped,
            ignored_events = counts.ignored_events,
            unreadable_deliveries = counts.unreadable_deliveries,
            retried = counts.retried,
            duration_ms = started.elapsed().as_millis() as u64,
            "batch answered"
        );
        match &event.trigger {
            Trigger::Sqs => Ok(answer_sqs(&event, outcome_of)),
            Trigger::S3Batch { invocation_schema_version, invocation_id } => {
                Ok(answer_s3_batch(&event, invocation_schema_version, invocation_id, outcome_of))
            }
            Trigger::Asynchronous => answer_asynchronous(&objects, &outcomes, counts),
        }
    }
}

impl Handler {
    /// Answers what comes for the first time, then the rest one by one, each noted before; at the very end that with which
    /// a process ended before, so that it takes no others with it.
    async fn run_noted(
        &self,
        run_notes: &RunNotes,
        objects: &[ObjectRef],
        redelivered: &HashSet<ObjectRef>,
        deadline: Option<Instant>,
    ) -> Batch {
        let (mut again, first): (Vec<usize>, Vec<usize>) =
            (0..objects.len()).partition(|index| redelivered.contains(&objects[*index]));
        let of_first: Vec<ObjectRef> = first.iter().map(|index| objects[*index].clone()).collect();
        let Batch { outcomes, mut step_times } = self.pipeline.run(&of_first, deadline).await;
        let mut outcomes: Vec<(usize, Outcome)> = first.into_iter().zip(outcomes).collect();
        for is_last in [false, true] {
            for index in std::mem::take(&mut again) {
                let object = &objects[index];
                // Without a model there is no run; the pipeline says why.
                let sha256 = self.pipeline.model_digest().await.ok();
                let earlier = match &sha256 {
                    Some(sha256) => run_notes.begin(object, sha256).await,
                    None => Ok(EarlierRun::Ended),
                };
                match earlier {
                    Ok(EarlierRun::Ended) => {}
                    Ok(EarlierRun::Crashed { refusal }) => {
                        if let Some((sha256, why)) = refusal {
                            self.pipeline.withdraw(&sha256, &why).await;
                        }
                        if !is_last {
                            again.push(index);
                            continue;
                        }
                    }
                    Err(error) => tracing::warn!(key = %object.key, %error, "cannot note the start of a run"),
                }
                let ran = self.pipeline.run(std::slice::from_ref(object), deadline).await;
                if matches!(ran.outcomes.as_slice(), [Outcome::Retry(Failure::NoTimeLeft)])
                    && sha256.is_some()
                {
                    run_notes.end(object).await;
                }
                step_times.append(ran.step_times);
                outcomes.extend(ran.outcomes.into_iter().map(|outcome| (index, outcome)));
            }
        }
        outcomes.sort_unstable_by_key(|(index, _)| *index);
        Batch { outcomes: outcomes.into_iter().map(|(_, outcome)| outcome).collect(), step_times }
    }
}

/// Takes an event apart; each message that belongs to the trace of its upload says so in ours.
fn receive(event: &Value) -> Result<TriggerEvent, EventError> {
    let event = parse_event(event)?;
    for delivery in &event.deliveries {
        if let Some(upload_trace) = &delivery.trace_id {
            let _ = debug_span!("message", delivery = %delivery.id, %upload_trace).entered();
        }
    }
    Ok(event)
}

/// All objects of an event, and whether each was delivered before.
fn created_objects(event: &TriggerEvent) -> impl Iterator<Item = (&ObjectRef, bool)> {
    event.deliveries.iter().flat_map(|delivery| {
        delivery.notices.iter().flatten().filter_map(|notice| match notice {
            Notice::Created(object) => Some((object, delivery.is_redelivery)),
            Notice::Ignored { .. } => None,
        })
    })
}

fn count(event: &TriggerEvent, outcomes: &[Outcome]) -> DeliveryCounts {
    let mut counts = DeliveryCounts::default();
    for delivery in &event.deliveries {
        match &delivery.notices {
            Ok(notices) => {
                let ignored = notices.iter().filter(|notice| matches!(notice, Notice::Ignored { .. }));
                counts.ignored_events += ignored.count();
            }
            Err(error) => {
                tracing::error!(delivery = %delivery.id, %error, "delivery cannot be read, handed back");
                counts.unreadable_deliveries += 1;
            }
        }
    }
    for outcome in outcomes {
        match outcome {
            Outcome::Answered(StoredResult { reject: Some(_), .. }) => counts.rejected += 1,
            Outcome::Answered(_) => counts.classified += 1,
            Outcome::Skipped(_) => counts.skipped += 1,
            Outcome::Retry(_) => counts.retried += 1,
        }
    }
    counts
}

/// What CloudWatch is told of a batch.
fn figures(
    event: &TriggerEvent,
    objects: &[ObjectRef],
    step_times: StepTimes,
    counts: DeliveryCounts,
) -> BatchFigures {
    let retries = counts.retried + counts.unreadable_deliveries;
    let images = vec![
        ("classified", counts.classified),
        ("rejected", counts.rejected),
        ("skipped", counts.skipped),
        ("retried", retries),
    ];
    // Nobody waits for what a backfill answers.
    let is_live = !matches!(event.trigger, Trigger::S3Batch { .. });
    let oldest = objects.iter().filter_map(|object| object.event_time).min().filter(|_| is_live);
    let oldest_upload_age_s = oldest.map(|at| (Utc::now() - at).num_milliseconds().max(0) as f64 / 1e3);
    BatchFigures { images, retries, oldest_upload_age_s, step_times, cost_dollars: None }
}

/// Exactly the messages that could not be read or hold something to retry.
fn answer_sqs<'a>(event: &TriggerEvent, outcome_of: impl Fn(&ObjectRef) -> &'a Outcome) -> Value {
    let has_to_come_again = |delivery: &&Delivery| match &delivery.notices {
        Err(_) => true,
        Ok(notices) => notices.iter().any(|notice| match notice {
            Notice::Created(object) => matches!(outcome_of(object), Outcome::Retry(_)),
            Notice::Ignored { .. } => false,
        }),
    };
    let failures = event.deliveries.iter().filter(has_to_come_again);
    let failures: Vec<Value> = failures.map(|delivery| json!({"itemIdentifier": delivery.id})).collect();
    json!({"batchItemFailures": failures})
}

fn answer_s3_batch<'a>(
    event: &TriggerEvent,
    schema_version: &str,
    invocation_id: &str,
    outcome_of: impl Fn(&ObjectRef) -> &'a Outcome,
) -> Value {
    let results = event.deliveries.iter().map(|task| {
        let (code, text) = match task.notices.as_deref() {
            Err(error) => ("PermanentFailure", error.to_string()),
            Ok([Notice::Created(object)]) => task_result(outcome_of(object)),
            Ok(_) => ("Succeeded", "nothing to do".to_owned()),
        };
        let text: String = text.chars().take(MAX_RESULT_STRING).collect();
        json!({"taskId": task.id, "resultCode": code, "resultString": text})
    });
    json!({
        "invocationSchemaVersion": schema_version,
        "treatMissingKeysAs": "PermanentFailure",
        "invocationId": invocation_id,
        "results": results.collect::<Vec<_>>(),
    })
}

fn task_result(outcome: &Outcome) -> (&'static str, String) {
    match outcome {
        Outcome::Answered(StoredResult { reject: Some((code, message)), .. }) => {
            ("PermanentFailure", format!("rejected ({code}): {message}"))
        }
        Outcome::Answered(StoredResult { label, result_id, .. }) => {
            ("Succeeded", format!("{} {result_id}", label.as_deref().unwrap_or("classified")))
        }
        Outcome::Skipped(reason) => ("Succeeded", format!("skipped: {}", reason.as_str())),
        Outcome::Retry(failure) => ("TemporaryFailure", failure.to_string()),
    }
}

fn answer_asynchronous(
    objects: &[ObjectRef],
    outcomes: &[Outcome],
    counts: DeliveryCounts,
) -> Result<Value, HandlerError> {
    let first = objects.iter().zip(outcomes).find_map(|(object, outcome)| match outcome {
        Outcome::Retry(failure) => Some(format!("{object}: {failure}")),
        _ => None,
    });
    match first {
        Some(first) => {
            Err(HandlerError::Unanswered { unanswered: counts.retried, total: outcomes.len(), first })
        }
        None => Ok(json!(counts)),
    }
}
