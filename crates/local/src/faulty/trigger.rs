//! Faults of the trigger: messages that come twice, late, in another order, in batches of any size, or to two workers.
//!
//! Never loses a message: what is held back is in the queue again before it is taken out. A notification comes three
//! times at most from here, and is held back no more often than the limit says.

use chrono::{TimeDelta, Utc};
use serde_json::Value;

use crate::queue::{Message, Queue, QueueError};
use giemsa_faults::{Faults, Kind, fraction};

/// What goes wrong between a queue and a function.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FaultyTrigger<'a>(pub(crate) &'a Faults);

impl FaultyTrigger<'_> {
    /// Messages to receive for the next event of a queue that would be given `default`.
    ///
    /// Small and large batches are as frequent: each order of magnitude has the same share.
    pub(crate) fn batch_size(&self, queue_name: &str, default: usize) -> usize {
        let Some(range) = &self.0.spec().batch else {
            return default;
        };
        let number = self.0.count(&format!("batch {queue_name}"));
        let (low, high) = (*range.start() as f64, (*range.end() + 1) as f64);
        let drawn = low * (high / low).powf(fraction(self.0.hash("batch", queue_name, number)));
        (drawn as usize).clamp(*range.start(), *range.end())
    }

    /// The messages of an event after the trigger's faults: those that are left, in the order in which they come.
    ///
    /// # Errors
    /// [`QueueError`] if the queue's file fails.
    pub(crate) async fn disturb(
        &self,
        queue: &Queue,
        queue_name: &str,
        messages: Vec<Message>,
    ) -> Result<Vec<Message>, QueueError> {
        let mut left = Vec::with_capacity(messages.len());
        for message in messages {
            let subject = format!("{queue_name} {}", notification_name(&message.body));
            // Once for each notification, and not for its copies.
            if let Some(strike) = self.0.decide_within(1, &[Kind::Duplicate], &format!("copies {subject}"))
                && self.0.record(&strike)
            {
                for copy in 0..=strike.draw % 2 {
                    let delay = strike.duration.mul_f64(fraction(self.0.hash("copy", &subject, copy as u32)));
                    self.send_late(queue, queue_name, &message, delay).await?;
                }
            }
            // Only what comes for the first time: the message that takes its place begins to count anew.
            let held = match message.receive_count {
                1 => self
                    .0
                    .strike(&[Kind::Late, Kind::Delay, Kind::Reorder], &format!("notification {subject}")),
                _ => None,
            };
            if let Some(strike) = held {
                let delay = match strike.kind {
                    Kind::Late => strike.duration,
                    _ => strike.part_of_duration(),
                };
                self.send_late(queue, queue_name, &message, delay).await?;
                queue.delete(&message.receipt_handle).await?;
                continue;
            }
            if let Some(strike) = self.0.strike(&[Kind::Expire], &format!("visibility {subject}")) {
                queue.change_visibility(&message.receipt_handle, strike.duration, Utc::now()).await?;
            }
            left.push(message);
        }
        if self.0.spec().rates.contains_key(&Kind::Reorder) {
            left.sort_by_cached_key(|message| self.0.hash("order", &message.id, 0));
        }
        Ok(left)
    }

    /// Whether the function has no concurrency left for these messages, which then come again.
    pub(crate) fn throttles(&self, queue_name: &str, messages: &[Message]) -> bool {
        let Some(first) = messages.first() else { return false };
        let subject = format!("invocation {queue_name} {}", notification_name(&first.body));
        self.0.strike(&[Kind::Throttle], &subject).is_some()
    }

    async fn send_late(
        &self,
        queue: &Queue,
        queue_name: &str,
        message: &Message,
        delay: std::time::Duration,
    ) -> Result<(), QueueError> {
        let delay = TimeDelta::from_std(delay).unwrap_or(TimeDelta::zero());
        queue.send(queue_name, &message.body, Utc::now() + delay).await.map(drop)
    }
}

/// Key and ETag of a notification of one object, which two runs of the same uploads have in common.
fn notification_name(body: &str) -> String {
    let event: Value = serde_json::from_str(body).unwrap_or_default();
    let object = &event["Records"][0]["s3"]["object"];
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    format!("{} {}", text("key"), text("eTag"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::queue::QueueSettings;

    const QUEUE: &str = "classify-prod";

    async fn queue(folder: &Path, notifications: usize) -> Queue {
        let queue = Queue::open(&folder.join("queue.sqlite")).unwrap();
        let settings = QueueSettings { visibility_timeout: Duration::from_secs(60), max_receive_count: 10 };
        queue.declare(QUEUE, settings).await.unwrap();
        for number in 0..notifications {
            let object = json!({"key": format!("k{number}"), "eTag": "e"});
            let body = json!({"Records": [{"s3": {"object": object}}]}).to_string();
            queue.send(QUEUE, &body, Utc::now()).await.unwrap();
        }
        queue
    }

    fn faults(folder: &Path, spec: &str) -> Faults {
        let faults = Faults::open(spec.parse().unwrap(), folder).unwrap();
        faults.arm();
        faults
    }

    /// Works until the queue is empty, an hour later with each event; how often each notification came, and the order.
    async fn deliveries(faults: &Faults, queue: &Queue) -> (BTreeMap<String, usize>, Vec<String>) {
        let (mut counts, mut order) = (BTreeMap::new(), Vec::new());
        for hour in 0..1_000 {
            let now = Utc::now() + TimeDelta::hours(hour);
            let received =
                queue.receive(QUEUE, FaultyTrigger(faults).batch_size(QUEUE, 10), now).await.unwrap();
            if received.is_empty() && queue.depth(QUEUE, now).await.unwrap().total() == 0 {
                break;
            }
            for message in FaultyTrigger(faults).disturb(queue, QUEUE, received).await.unwrap() {
                let name = notification_name(&message.body);
                *counts.entry(name.clone()).or_default() += 1;
                order.push(name);
                queue.delete(&message.receipt_handle).await.unwrap();
            }
        }
        (counts, order)
    }

    #[tokio::test]
    async fn notifications_come_one_to_three_times_and_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let queue = queue(folder.path(), 100).await;
        let spec = "duplicate=0.5,reorder=0.5,delay=0.2,late=0.1,batch=1..20";
        let faults = faults(folder.path(), spec);
        let (counts, order) = deliveries(&faults, &queue).await;
        assert_eq!(counts.len(), 100);
        assert!(counts.values().all(|count| (1..=3).contains(count)), "{counts:?}");
        assert_eq!(
            counts.values().filter(|count| **count > 1).count() as u64,
            faults.counts()[&Kind::Duplicate]
        );
        let sent: Vec<String> = (0..100).map(|number| format!("k{number} e")).collect();
        let mut first = order.clone();
        first.retain(|name| counts[name] == 1);
        assert!(!sent.iter().filter(|name| counts[*name] == 1).eq(&first), "nothing overtook anything");
    }

    #[tokio::test]
    async fn an_expired_message_goes_to_another_worker_while_the_first_works() {
        let folder = tempfile::tempdir().unwrap();
        let queue = queue(folder.path(), 1).await;
        let faults = faults(folder.path(), "expire=1:20ms,limit=1");
        let now = Utc::now();
        let received = queue.receive(QUEUE, 10, now).await.unwrap();
        let first = FaultyTrigger(&faults).disturb(&queue, QUEUE, received).await.unwrap();
        let later = Utc::now() + TimeDelta::milliseconds(20);
        let received = queue.receive(QUEUE, 10, later).await.unwrap();
        let second = FaultyTrigger(&faults).disturb(&queue, QUEUE, received).await.unwrap();
        assert_eq!((first.len(), second.len(), first[0].id == second[0].id), (1, 1, true));
        assert!(
            !queue.delete(&first[0].receipt_handle).await.unwrap(),
            "the first worker's receipt is stale"
        );
        assert!(queue.delete(&second[0].receipt_handle).await.unwrap());
    }

    #[test]
    fn batches_have_every_order_of_magnitude() {
        let folder = tempfile::tempdir().unwrap();
        let faults = faults(folder.path(), "batch=1..10000");
        let sizes: Vec<usize> = (0..1_000).map(|_| FaultyTrigger(&faults).batch_size(QUEUE, 10)).collect();
        assert!(sizes.iter().all(|size| (1..=10_000).contains(size)));
        for decade in 0..4 {
            let range = 10_usize.pow(decade)..10_usize.pow(decade + 1);
            let count = sizes.iter().filter(|size| range.contains(*size)).count();
            assert!((180..320).contains(&count), "{count} batches in {range:?}");
        }
    }
}
