//! Takes messages from a queue, hands them to a handler as SQS would, and obeys its answer.
//!
//! It never looks into a message. Invariant: a message is deleted only if the handler did not name it as failed.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::Utc;
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::faults::Faults;
use super::queue::{Message, Queue, QueueError, QueueSettings};
use crate::gate_handler::GateHandler;
use crate::handler::Handler;

/// What a worker does, as its function on AWS is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Duty {
    /// Who hands messages back, for the queue.
    name: &'static str,
    /// Messages of one event.
    batch_size: usize,
    /// Time an invocation has, as the template gives the function.
    invocation_timeout: Duration,
}

/// Classifies: ten messages at once, as an SQS event source mapping sends by default.
pub(super) const CLASSIFY: Duty =
    Duty { name: "the classifier", batch_size: 10, invocation_timeout: Duration::from_secs(30) };

/// Tries models: whole golden sets take their time.
pub(super) const GATE: Duty =
    Duty { name: "the gate", batch_size: 10, invocation_timeout: Duration::from_secs(900) };

impl Duty {
    /// A message is hidden for six times the invocation's time, as AWS recommends, and tried ten times, which with the
    /// growing waits is about five minutes.
    pub(super) fn queue_settings(&self) -> QueueSettings {
        QueueSettings { visibility_timeout: 6 * self.invocation_timeout, max_receive_count: 10 }
    }
}

/// Answers an event as SQS sends it.
#[async_trait]
pub(super) trait Answer: Send + Sync + 'static {
    /// The messages that failed, as SQS expects them.
    async fn answer(&self, event: &Value, deadline: Instant) -> Result<Value, String>;
}

#[async_trait]
impl Answer for Handler {
    async fn answer(&self, event: &Value, deadline: Instant) -> Result<Value, String> {
        self.handle(event, Some(deadline)).await.map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Answer for GateHandler {
    async fn answer(&self, event: &Value, deadline: Instant) -> Result<Value, String> {
        self.handle(event, Some(deadline)).await.map_err(|error| error.to_string())
    }
}

/// Longest wait before a message that failed is tried again.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Works on `queue_name` in a task of its own until `stop` turns true.
pub(super) fn spawn(
    queue: Queue,
    queue_name: &str,
    duty: Duty,
    handler: Arc<dyn Answer>,
    faults: Option<Arc<Faults>>,
    stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let queue_name = queue_name.to_owned();
    tokio::spawn(async move {
        if let Err(error) = work(queue, &queue_name, duty, &*handler, faults.as_deref(), stop).await {
            tracing::error!(%error, queue = %queue_name, "worker stopped; messages queue up until the next start");
        }
    })
}

/// Works on `queue_name` until `stop` turns true.
///
/// # Errors
/// [`QueueError`] if the queue's file fails, which nothing here can mend.
async fn work(
    queue: Queue,
    queue_name: &str,
    duty: Duty,
    handler: &dyn Answer,
    faults: Option<&Faults>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), QueueError> {
    while !*stop.borrow() {
        let batch_size =
            faults.map_or(duty.batch_size, |faults| faults.batch_size(queue_name, duty.batch_size));
        let mut messages = queue.receive(queue_name, batch_size, Utc::now()).await?;
        if messages.is_empty() {
            tokio::select! {
                waited = queue.wait(queue_name) => waited?,
                _ = stop.wait_for(|stop| *stop) => {}
            }
            continue;
        }
        if let Some(faults) = faults {
            messages = faults.disturb(&queue, queue_name, messages).await?;
            if messages.is_empty() {
                continue;
            }
        }
        let deadline = Instant::now() + duty.invocation_timeout;
        let event = sqs_event(queue_name, &messages);
        // As in Lambda, a panic costs one batch a retry, and not the worker.
        let answer = AssertUnwindSafe(handler.answer(&event, deadline)).catch_unwind().await;
        let all = || messages.iter().map(|message| message.id.as_str()).collect();
        let failed = match &answer {
            Ok(Ok(answer)) => failed_ids(answer),
            Ok(Err(error)) => {
                tracing::error!(%error, "batch not answered, will be retried");
                all()
            }
            Err(_) => {
                tracing::error!("batch not answered after a panic, will be retried");
                all()
            }
        };
        for message in &messages {
            if failed.contains(message.id.as_str()) {
                let reason = format!("{} handed it back; its log of the time names the reason", duty.name);
                queue
                    .fail(&message.receipt_handle, &reason, backoff(message.receive_count), Utc::now())
                    .await?;
            } else {
                queue.delete(&message.receipt_handle).await?;
            }
        }
    }
    Ok(())
}

/// The event as SQS sends it to a function.
fn sqs_event(queue_name: &str, messages: &[Message]) -> Value {
    let records: Vec<Value> = messages
        .iter()
        .map(|message| {
            json!({
                "messageId": message.id,
                "receiptHandle": message.receipt_handle,
                "body": message.body,
                "attributes": {
                    "ApproximateReceiveCount": message.receive_count.to_string(),
                    "SentTimestamp": message.sent_at.timestamp_millis().to_string(),
                    "SenderId": "giemsa-local",
                    "ApproximateFirstReceiveTimestamp": message.first_received_at.timestamp_millis().to_string(),
                },
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": format!("arn:aws:sqs:{}:000000000000:{queue_name}", crate::aws::LOCAL_REGION),
                "awsRegion": crate::aws::LOCAL_REGION,
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
