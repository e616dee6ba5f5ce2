//! Takes messages from a queue, hands them to a handler as SQS would, and obeys its answer.
//!
//! A message is deleted only if the handler did not name it as failed.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cloudwatch::{ServiceCounts, ServiceEvent};
use super::faulty::trigger::FaultyTrigger;
use super::queue::{Message, Queue, QueueError, QueueSettings};
use giemsa_faults::Faults;

/// What a worker does, as its function on AWS is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerConfig {
    /// Who hands messages back, for the queue.
    name: &'static str,
    /// Messages of one event.
    batch_size: usize,
    /// Time an invocation has, as the template gives the function.
    invocation_timeout: Duration,
}

/// Classifies: ten messages at once, as an SQS event source mapping sends by default.
pub(crate) const CLASSIFY: WorkerConfig =
    WorkerConfig { name: "the classifier", batch_size: 10, invocation_timeout: Duration::from_secs(30) };

/// Classifies what was in the bucket before: few at once, so that an upload which comes meanwhile waits for few.
pub(crate) const BACKFILL: WorkerConfig =
    WorkerConfig { name: "the backfill", batch_size: 4, invocation_timeout: Duration::from_secs(30) };

/// Tries models: whole golden sets take their time.
pub(crate) const GATE: WorkerConfig =
    WorkerConfig { name: "the gate", batch_size: 10, invocation_timeout: Duration::from_secs(900) };

impl WorkerConfig {
    /// A message is hidden for six times the invocation's time, as AWS recommends, and tried ten times, which with the
    /// growing waits is about five minutes.
    pub(crate) fn queue_settings(&self) -> QueueSettings {
        QueueSettings { visibility_timeout: 6 * self.invocation_timeout, max_receive_count: 10 }
    }
}

/// Answers an event as SQS sends it.
#[async_trait]
pub(crate) trait EventHandler: Send + Sync + 'static {
    /// Answers within `time`; `is_alone` keeps other events from the process meanwhile.
    async fn answer(&self, event: &Value, time: Duration, is_alone: bool) -> Result<Reply, AnswerError>;
}

/// An answer to an event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    /// The messages that failed, as SQS expects them.
    pub answer: Value,
    /// Whether there is a model to answer with.
    pub has_model: bool,
}

/// Why an event has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// It failed as a whole.
    #[error("{0}")]
    Failed(String),
    /// The process ended that was to answer it.
    #[error("{0}")]
    ProcessEnded(String),
}

/// Longest wait before a message that failed is tried again.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Time between two looks whether live work is done, for those who let it go first.
const YIELD_INTERVAL: Duration = Duration::from_millis(50);

/// Pause of a queue's workers where there is no model to answer with.
const MODEL_INTERVAL: Duration = Duration::from_secs(2);

/// How long a message is hidden that waits for a model.
const WAIT_FOR_MODEL: Duration = Duration::from_secs(5);

/// What workers know of each other's messages.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Ids of messages that were being answered when their process ended.
    suspects: Mutex<HashSet<String>>,
    /// Queues whose messages wait for a model.
    stuck: Mutex<HashSet<String>>,
}

/// What all workers of a stack share.
#[derive(Debug, Clone)]
pub(crate) struct WorkerContext {
    pub queue: Queue,
    /// What goes wrong on purpose.
    pub faults: Option<Arc<Faults>>,
    /// What AWS would count of them.
    pub counts: Arc<ServiceCounts>,
    /// What they know of each other's messages.
    pub memory: Arc<Memory>,
    /// Turns true when they have to stop.
    pub stop: watch::Receiver<bool>,
}

/// Works on `queue_name` in a task of its own until the stack stops.
pub(crate) fn spawn(
    context: &WorkerContext,
    queue_name: &str,
    config: WorkerConfig,
    handler: Arc<dyn EventHandler>,
) -> JoinHandle<()> {
    spawn_behind(Vec::new(), context, queue_name, config, handler)
}

/// As [`spawn`], but takes nothing while a message of one of the queues `first` could be received.
pub(crate) fn spawn_behind(
    first: Vec<String>,
    context: &WorkerContext,
    queue_name: &str,
    config: WorkerConfig,
    handler: Arc<dyn EventHandler>,
) -> JoinHandle<()> {
    let (context, queue_name) = (context.clone(), queue_name.to_owned());
    tokio::spawn(async move {
        if let Err(error) = work(&first, context, &queue_name, config, &*handler).await {
            tracing::error!(%error, queue = %queue_name, "worker stopped; messages queue up until the next start");
        }
    })
}

/// Works on `queue_name`, as long as nothing waits in the queues `first`, until `stop` turns true.
///
/// # Errors
/// [`QueueError`] if the queue's file fails, which nothing here can mend.
async fn work(
    first: &[String],
    mut context: WorkerContext,
    queue_name: &str,
    config: WorkerConfig,
    handler: &dyn EventHandler,
) -> Result<(), QueueError> {
    let faults = context.faults.clone();
    let faults = faults.as_deref().map(FaultyTrigger);
    while !*context.stop.borrow() {
        if context.has_visible(first).await? {
            context.pause(YIELD_INTERVAL).await;
            continue;
        }
        let batch_size =
            faults.map_or(config.batch_size, |faults| faults.batch_size(queue_name, config.batch_size));
        let received_at = Utc::now();
        let mut messages = context.queue.receive(queue_name, batch_size, received_at).await?;
        if messages.is_empty() {
            tokio::select! {
                waited = context.queue.wait(queue_name) => waited?,
                _ = context.stop.wait_for(|stop| *stop) => {}
            }
            continue;
        }
        if let Some(faults) = faults {
            messages = faults.disturb(&context.queue, queue_name, messages).await?;
            if messages.is_empty() {
                continue;
            }
            if faults.throttles(queue_name, &messages) {
                context.counts.add(ServiceEvent::Throttle { queue: queue_name.to_owned() });
                for message in &messages {
                    let reason = format!("{} was throttled and not invoked", config.name);
                    let wait = backoff(message.receive_count);
                    context.queue.fail(&message.receipt_handle, &reason, wait, Utc::now()).await?;
                }
                continue;
            }
        }
        let has_suspect = {
            let suspects = locked(&context.memory.suspects);
            messages.iter().any(|message| suspects.contains(&message.id))
        };
        let batches = if has_suspect { messages.chunks(1) } else { messages.chunks(messages.len()) };
        let mut has_model = true;
        for batch in batches {
            if *context.stop.borrow() {
                for message in batch {
                    context
                        .queue
                        .give_back(&message.receipt_handle, None, Duration::ZERO, Utc::now())
                        .await?;
                }
                continue;
            }
            let event = sqs_event(queue_name, batch, received_at);
            has_model = context.answer(queue_name, config, handler, batch, &event, has_suspect).await?;
        }
        if has_model {
            locked(&context.memory.stuck).remove(queue_name);
        } else {
            locked(&context.memory.stuck).insert(queue_name.to_owned());
            context.pause(MODEL_INTERVAL).await;
        }
    }
    Ok(())
}

impl WorkerContext {
    /// Has a batch answered, and deletes or hands back its messages; returns whether there is a model to answer with.
    async fn answer(
        &self,
        queue_name: &str,
        config: WorkerConfig,
        handler: &dyn EventHandler,
        batch: &[Message],
        event: &Value,
        is_alone: bool,
    ) -> Result<bool, QueueError> {
        let queue_label = || queue_name.to_owned();
        self.counts.add(ServiceEvent::Invocation { queue: queue_label() });
        // As in Lambda, a panic costs one batch a retry, and not the worker.
        let answering = AssertUnwindSafe(handler.answer(event, config.invocation_timeout, is_alone));
        let answer = answering
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(AnswerError::Failed("answering it panicked".to_owned())));
        let ids = || batch.iter().map(|message| message.id.as_str());
        let mut reason = format!("{} handed it back; its log of the time names the reason", config.name);
        let (failed, has_model) = match &answer {
            Ok(reply) => (failed_ids(&reply.answer), reply.has_model),
            Err(error) => {
                self.counts.add(ServiceEvent::InvocationFailed { queue: queue_label() });
                tracing::error!(%error, "batch not answered, will be retried");
                if let AnswerError::ProcessEnded(how) = error {
                    // Next time one by one, so that one image that ends the process takes no others with it.
                    locked(&self.memory.suspects).extend(ids().map(str::to_owned));
                    reason.clone_from(how);
                }
                (ids().collect(), true)
            }
        };
        for message in batch {
            let receipt = &message.receipt_handle;
            if !failed.contains(message.id.as_str()) {
                locked(&self.memory.suspects).remove(&message.id);
                self.queue.delete(receipt).await?;
            } else if has_model {
                self.queue.fail(receipt, &reason, backoff(message.receive_count), Utc::now()).await?;
            } else {
                // It was not tried, so it is none of its tries.
                let reason = "there is no model to classify with";
                self.queue.give_back(receipt, Some(reason), WAIT_FOR_MODEL, Utc::now()).await?;
            }
        }
        Ok(has_model)
    }

    /// Whether a message of one of the queues could be answered.
    async fn has_visible(&self, queues: &[String]) -> Result<bool, QueueError> {
        for name in queues {
            let is_stuck = locked(&self.memory.stuck).contains(name);
            if !is_stuck && self.queue.has_visible(name, Utc::now()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn pause(&mut self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// A panic elsewhere leaves what is still right.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The event as SQS sends it to a function.
fn sqs_event(queue_name: &str, messages: &[Message], received_at: DateTime<Utc>) -> Value {
    let records: Vec<Value> = messages
        .iter()
        .map(|message| {
            // All of them, as SQS counts: what was begun before a restart may have left something behind.
            let was_here = message.first_received_at.timestamp_millis() < received_at.timestamp_millis();
            let receives =
                (message.receive_count + message.interrupted_count).max(1 + u32::from(was_here));
            json!({
                "messageId": message.id,
                "receiptHandle": message.receipt_handle,
                "body": message.body,
                "attributes": {
                    "ApproximateReceiveCount": receives.to_string(),
                    "SentTimestamp": message.sent_at.timestamp_millis().to_string(),
                    "SenderId": "giemsa-local",
                    "ApproximateFirstReceiveTimestamp": message.first_received_at.timestamp_millis().to_string(),
                },
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": format!("arn:aws:sqs:{}:000000000000:{queue_name}", giemsa_store::aws::LOCAL_REGION),
                "awsRegion": giemsa_store::aws::LOCAL_REGION,
            })
        })
        .collect();
    json!({ "Records": records })
}

fn failed_ids(answer: &Value) -> HashSet<&str> {
    let failures = answer["batchItemFailures"].as_array().into_iter().flatten();
    failures.filter_map(|failure| failure["itemIdentifier"].as_str()).collect()
}

/// One second, doubled with each try, at most [`MAX_BACKOFF`].
fn backoff(receive_count: u32) -> Duration {
    let doublings = receive_count.saturating_sub(1).min(10);
    (Duration::from_secs(1) * (1 << doublings)).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers everything, and remembers from which queue it came, in order.
    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    #[async_trait]
    impl EventHandler for Log {
        async fn answer(&self, event: &Value, _: Duration, _: bool) -> Result<Reply, AnswerError> {
            let mut answered = self.0.lock().unwrap();
            for record in event["Records"].as_array().unwrap() {
                answered.push(record["body"].as_str().unwrap().to_owned());
            }
            Ok(Reply { answer: json!({"batchItemFailures": []}), has_model: true })
        }
    }

    async fn wait_until(queue: &Queue, name: &str, left: u64) {
        let asked = async {
            while queue.depth(name, Utc::now()).await.unwrap().total() != left {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asked)
            .await
            .unwrap_or_else(|_| panic!("{name}: {left} left"));
    }

    #[tokio::test]
    async fn a_backfill_takes_nothing_while_a_live_upload_waits_and_few_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(&folder.path().join("queue.sqlite")).unwrap();
        for name in ["live", "other", "backfill"] {
            queue.declare(name, BACKFILL.queue_settings()).await.unwrap();
        }
        for index in 0..40 {
            queue.send("backfill", &format!("old {index}"), Utc::now()).await.unwrap();
        }
        queue.send("live", "new", Utc::now()).await.unwrap();
        queue.send("other", "new, other stage", Utc::now()).await.unwrap();
        let log = Arc::new(Log::default());
        let (stop, stopped) = watch::channel(false);
        let first = vec!["live".to_owned(), "other".to_owned()];
        let (counts, memory) = Default::default();
        let context = WorkerContext { queue: queue.clone(), faults: None, counts, memory, stop: stopped };
        let behind = spawn_behind(first, &context, "backfill", BACKFILL, log.clone());
        // Longer than several looks: it had the time to take something.
        tokio::time::sleep(6 * YIELD_INTERVAL).await;
        assert_eq!(log.0.lock().unwrap().len(), 0);
        let live = spawn(&context, "live", CLASSIFY, log.clone());
        wait_until(&queue, "live", 0).await;
        tokio::time::sleep(6 * YIELD_INTERVAL).await;
        assert_eq!(*log.0.lock().unwrap(), ["new"], "the other stage's upload still waits");
        let other = spawn(&context, "other", CLASSIFY, log.clone());
        wait_until(&queue, "backfill", 0).await;
        let order = log.0.lock().unwrap().clone();
        // One batch may begin as soon as the last live message is received.
        assert!(order[..2 + BACKFILL.batch_size].contains(&"new, other stage".to_owned()), "{order:?}");
        assert_eq!(order.len(), 42);
        stop.send_replace(true);
        for task in [behind, live, other] {
            task.await.unwrap();
        }
    }

    #[test]
    fn waits_double_up_to_the_limit() {
        let seconds: Vec<u64> = (0..9).map(|count| backoff(count).as_secs()).collect();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(u32::MAX), MAX_BACKOFF);
    }

    #[test]
    fn only_named_messages_failed() {
        let answer = json!({"batchItemFailures": [{"itemIdentifier": "b"}]});
        assert_eq!(failed_ids(&answer), HashSet::from(["b"]));
        assert!(failed_ids(&json!({"batchItemFailures": []})).is_empty());
    }
}
