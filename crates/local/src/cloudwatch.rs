//! What CloudWatch would know of SQS, Lambda and DynamoDB, for `giemsa up --metrics`.
//!
//! Names of queues are their dimension `QueueName` and, for who works on them, `FunctionName`. Every event is counted
//! in exactly one period, and a period in which nothing is and nothing was is not written, which alarms read as no
//! data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::sync::watch;

use super::queue::{Queue, QueueError};
use giemsa_store::metrics::write_service;

/// What is a minute in CloudWatch, so that tests of alarms do not take hours: 300 times as fast.
pub const METRICS_PERIOD: Duration = Duration::from_millis(200);

/// Something that AWS counts by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServiceEvent {
    /// A function was invoked, with messages of the queue.
    Invocation { queue: String },
    /// An invocation failed as a whole: error, panic, or the end of its process.
    InvocationFailed { queue: String },
    /// A function was not invoked because it has no concurrency left.
    Throttle { queue: String },
    /// A request to a table was refused for its rate.
    ThrottledRequest { table: String, operation: String },
}

/// Namespace, dimensions and name of a metric.
type Counted<'a> = (&'static str, Vec<(&'static str, &'a str)>, &'static str);

impl ServiceEvent {
    fn counted(&self) -> Counted<'_> {
        fn function<'a>(queue: &'a str, name: &'static str) -> Counted<'a> {
            ("AWS/Lambda", vec![("FunctionName", queue)], name)
        }
        match self {
            Self::Invocation { queue } => function(queue, "Invocations"),
            Self::InvocationFailed { queue } => function(queue, "Errors"),
            Self::Throttle { queue } => function(queue, "Throttles"),
            Self::ThrottledRequest { table, operation } => (
                "AWS/DynamoDB",
                vec![("TableName", table.as_str()), ("Operation", operation.as_str())],
                "ThrottledRequests",
            ),
        }
    }
}

/// Events since the last period.
#[derive(Debug, Default)]
pub(crate) struct ServiceCounts(Mutex<BTreeMap<ServiceEvent, u64>>);

impl ServiceCounts {
    pub(crate) fn add(&self, event: ServiceEvent) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(event).or_default() += 1;
    }

    fn take(&self) -> BTreeMap<ServiceEvent, u64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes a period after the other until `stop` turns true, and the last one then.
///
/// # Errors
/// [`QueueError`] if the queue's file fails.
pub(crate) async fn watch(
    queue: Queue,
    queues: Vec<String>,
    counts: &ServiceCounts,
    mut stop: watch::Receiver<bool>,
) -> Result<(), QueueError> {
    let mut sent = BTreeMap::new();
    let mut busy = BTreeSet::new();
    loop {
        for (event, count) in counts.take() {
            let (namespace, dimensions, name) = event.counted();
            write_service(namespace, &dimensions, &[(name, "Count", count as f64)]);
        }
        for name in &queues {
            let (depth, total) = (queue.depth(name, Utc::now()).await?, queue.sent(name).await?);
            // What was sent before the first period was counted before, or never: nobody watched.
            let new = total - sent.insert(name.clone(), total).unwrap_or(total);
            let is_busy = depth.total() + new > 0;
            let was_busy = if is_busy { !busy.insert(name.clone()) } else { busy.remove(name) };
            if is_busy || was_busy {
                let age_s = depth.oldest_age.unwrap_or_default().as_secs_f64();
                write_service(
                    "AWS/SQS",
                    &[("QueueName", name)],
                    &[
                        ("ApproximateAgeOfOldestMessage", "Seconds", age_s),
                        ("ApproximateNumberOfMessagesVisible", "Count", depth.visible as f64),
                        ("ApproximateNumberOfMessagesNotVisible", "Count", depth.in_flight as f64),
                        ("NumberOfMessagesSent", "Count", new as f64),
                    ],
                );
            }
        }
        if *stop.borrow() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(METRICS_PERIOD) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}
