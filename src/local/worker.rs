//! Takes messages from a queue, hands them to the handler as SQS would, and obeys its answer.
//!
//! It never looks into a message. Invariant: a message is deleted only if the handler did not name it as failed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::queue::{Message, Queue, QueueError, QueueSettings};
use crate::handler::Handler;

/// Messages of one event, as an SQS event source mapping sends by default.
const BATCH_SIZE: usize = 10;

/// Time an invocation has, as the template gives the function.
const INVOCATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait before a message that failed is tried again.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Settings of the classifier's queue: a message is hidden for six times the invocation's time, as AWS
/// recommends, and tried ten times, which with the growing waits is about five minutes.
pub(super) const QUEUE_SETTINGS: QueueSettings =
    QueueSettings { visibility_timeout: Duration::from_secs(180), max_receive_count: 10 };

/// Works on `queue_name` until `stop` turns true.
///
/// # Errors
/// [`QueueError`] if the queue's file fails, which nothing here can mend.
pub(super) async fn work(
    queue: Queue,
    queue_name: String,
    handler: Arc<Handler>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), QueueError> {
    while !*stop.borrow() {
        let messages = queue.receive(&queue_name, BATCH_SIZE, Utc::now()).await?;
        if messages.is_empty() {
            tokio::select! {
                waited = queue.wait(&queue_name) => waited?,
                _ = stop.wait_for(|stop| *stop) => {}
            }
            continue;
        }
        let deadline = Instant::now() + INVOCATION_TIMEOUT;
        let answer = handler.handle(&sqs_event(&queue_name, &messages), Some(deadline)).await;
        let failed = match &answer {
            Ok(answer) => failed_ids(answer),
            Err(error) => {
                tracing::error!(%error, "batch not answered, will be retried");
                messages.iter().map(|message| message.id.as_str()).collect()
            }
        };
        for message in &messages {
            if failed.contains(message.id.as_str()) {
                let reason = "the classifier handed it back; its log of the time names the reason";
                queue
                    .fail(&message.receipt_handle, reason, backoff(message.receive_count), Utc::now())
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
