//! Counts that are kept of slides and days, and that are old once an image of them is answered.
//!
//! Nothing is counted here: what was counted before is marked as old.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

use chrono::{DateTime, Utc};
use futures::future::{BoxFuture, FutureExt};
use futures::{StreamExt, stream};
use tokio::time::timeout_at;

use crate::TableWriter;

/// Counts that are marked at once.
const CONCURRENCY: usize = 16;

/// What images are counted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Images of a slide.
    Slide(String),
    /// Images of an upload day: `YYYY-MM-DD`, or `unknown`.
    Day(String),
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slide(slide) => write!(f, "slide {slide:?}"),
            Self::Day(day) => write!(f, "day {day}"),
        }
    }
}

impl TableWriter {
    /// Marks the counts of `counters` as old, after the records are stored that changed them. Returns what went wrong with
    /// those that are not marked, also because `stop_at` came first.
    pub async fn invalidate(
        &self,
        stage: &str,
        counters: BTreeSet<Counter>,
        stop_at: Option<Instant>,
    ) -> BTreeMap<Counter, String> {
        let now = Utc::now();
        let writes = counters.into_iter().map(|counter| async move {
            let error = self.invalidate_one(stage, &counter, now, stop_at).await.err()?;
            Some((counter, error))
        });
        // Boxed, because the compiler loses the lifetimes of a stream of closures otherwise.
        let writes: Vec<BoxFuture<'_, Option<(Counter, String)>>> = writes.map(FutureExt::boxed).collect();
        let failed: Vec<_> = stream::iter(writes).buffered(CONCURRENCY).collect().await;
        failed.into_iter().flatten().collect()
    }

    async fn invalidate_one(
        &self,
        stage: &str,
        counter: &Counter,
        now: DateTime<Utc>,
        stop_at: Option<Instant>,
    ) -> Result<(), String> {
        let write = async {
            match counter {
                Counter::Slide(slide) => self.invalidate_slide(stage, slide, now).await,
                Counter::Day(day) => self.invalidate_day(stage, day, now).await,
            }
        };
        let written = match stop_at {
            Some(stop_at) => timeout_at(stop_at.into(), write)
                .await
                .map_err(|_| "no time is left in this invocation".to_owned())?,
            None => write.await,
        };
        written.map_err(|error| error.to_string())
    }
}
