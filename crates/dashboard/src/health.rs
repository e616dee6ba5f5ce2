//! Whether uploads are answered: queues, rates, speed, and what fails.
//!
//! It never says that all is well where it cannot know: what is unknown is absent. Counts are of keys in the table, at
//! most a few seconds old.

pub(crate) mod operations;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::try_join;
use serde::Serialize;

use crate::request::parameters::{Nothing, Query};
use crate::request::problem::Problem;
use crate::request::single_flight::SingleFlightCache;
use crate::{Dashboard, QueueFigures};
use giemsa_core::record::{Record, TimingsMs};
use giemsa_core::statistics::quantile;
use giemsa_store::{FailureNote, Order, ResultQuery};

/// Results whose times are looked at, the newest.
const SAMPLE: usize = 200;

/// Time over which the speed is counted.
const SPEED_WINDOW: TimeDelta = TimeDelta::minutes(1);

/// Uploads that are named of those that failed.
const NAMED_FAILURES: usize = 50;

/// How old the figures of the table may be: a page that polls does not make it count anew each time.
const AGE: Duration = Duration::from_secs(5);

/// The figures of each stage.
#[derive(Debug)]
struct Figures {
    rates: SingleFlightCache<Rates, Problem>,
    failing: SingleFlightCache<Vec<Failing>, Problem>,
}

/// What the table says of the last hour.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rates {
    /// Images uploaded within the last hour that have an answer.
    answered_last_hour: u64,
    /// Those of them that were rejected.
    rejected_last_hour: u64,
    /// Images answered within the last minute; absent if none of the last hour was.
    images_per_minute: Option<f64>,
    /// Medians over the newest results; absent without any.
    median_ms: Option<TimingsMs>,
}

#[derive(Debug, Clone, Serialize)]
struct Failing {
    key: String,
    reason: String,
    tries: u64,
    first_failed_at: DateTime<Utc>,
    last_failed_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
struct StageHealth {
    stage: String,
    queue: Option<QueueFigures>,
    answered_last_hour: Option<u64>,
    rejected_last_hour: Option<u64>,
    images_per_minute: Option<f64>,
    median_ms: Option<TimingsMs>,
    failing: Vec<Failing>,
}

#[derive(Debug, Serialize)]
struct HealthAnswer {
    stages: Vec<StageHealth>,
    gate: Option<QueueFigures>,
    /// What could not be read just now, one sentence each; its figures are null.
    unavailable: Vec<String>,
}

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    let figures = Figures { rates: SingleFlightCache::new(AGE), failing: SingleFlightCache::new(AGE) };
    Router::new().route("/api/health", get(health)).layer(Extension(Arc::new(figures)))
}

async fn health(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(figures): Extension<Arc<Figures>>,
    _: Query<Nothing>,
) -> Result<Json<HealthAnswer>, Problem> {
    // Whoever looks here does so because something fails: what still answers is shown.
    let mut unavailable = Vec::new();
    let mut stages = Vec::new();
    for stage in &dashboard.stages {
        let queue = dashboard.operations.queue(stage).await.map_err(Problem::from);
        let rates = known(
            &mut unavailable,
            figures.rates.answer(stage, dashboard.count_rates(stage, Utc::now())).await,
        );
        let failing = known(&mut unavailable, figures.failing.answer(stage, dashboard.failing(stage)).await);
        stages.push(StageHealth {
            stage: stage.clone(),
            queue: known(&mut unavailable, queue).flatten(),
            answered_last_hour: rates.map(|rates| rates.answered_last_hour),
            rejected_last_hour: rates.map(|rates| rates.rejected_last_hour),
            images_per_minute: rates.and_then(|rates| rates.images_per_minute),
            median_ms: rates.and_then(|rates| rates.median_ms),
            failing: failing.unwrap_or_default(),
        });
    }
    let gate = known(&mut unavailable, dashboard.operations.gate().await.map_err(Problem::from)).flatten();
    Ok(Json(HealthAnswer { stages, gate, unavailable }))
}

/// What was read; a failure is named in `unavailable` instead.
fn known<T>(unavailable: &mut Vec<String>, read: Result<T, Problem>) -> Option<T> {
    read.map_err(|problem| unavailable.push(problem.detail)).ok()
}

impl From<FailureNote> for Failing {
    fn from(note: FailureNote) -> Self {
        let FailureNote { key, reason, tries, first_failed_at, last_failed_at, .. } = note;
        Self { key, reason, tries, first_failed_at, last_failed_at }
    }
}

impl Dashboard {
    async fn failing(&self, stage: &str) -> Result<Vec<Failing>, Problem> {
        let listed = self.table.failures_listed(stage, NAMED_FAILURES).await?;
        Ok(listed.into_iter().map(Failing::from).collect())
    }

    async fn count_rates(&self, stage: &str, now: DateTime<Utc>) -> Result<Rates, Problem> {
        let hour_ago = now - TimeDelta::hours(1);
        let counts =
            try_join(self.table.count_recent(stage, hour_ago), self.table.count_rejected(stage, hour_ago));
        let (answered_last_hour, rejected_last_hour) = counts.await?;
        let newest = ResultQuery {
            from: Some(hour_ago),
            order: Order::Newest,
            limit: SAMPLE,
            ..ResultQuery::of_stage(stage)
        };
        let sample = self.table.results(&newest, None).await?.results;
        Ok(Rates {
            answered_last_hour,
            rejected_last_hour,
            images_per_minute: images_per_minute(&sample, now),
            median_ms: median_ms(&sample),
        })
    }
}

/// Images answered within the last minute, by the newest results. Where all of these are younger, they stand for the
/// minute.
fn images_per_minute(sample: &[Record], now: DateTime<Utc>) -> Option<f64> {
    let times = || sample.iter().filter_map(|record| record.classified_at);
    let in_window = times().filter(|at| now - *at < SPEED_WINDOW).count();
    let oldest = times().min()?;
    let window = if in_window == SAMPLE { now - oldest } else { SPEED_WINDOW };
    let seconds = window.num_milliseconds().max(1) as f64 / 1000.0;
    Some(in_window as f64 * 60.0 / seconds)
}

/// The median of each step over the results that have times.
fn median_ms(sample: &[Record]) -> Option<TimingsMs> {
    let timings: Vec<TimingsMs> = sample.iter().filter_map(|record| record.timings_ms).collect();
    let median = |of: fn(&TimingsMs) -> f64| {
        let mut values: Vec<f64> = timings.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        quantile(&values, 0.5)
    };
    Some(TimingsMs {
        fetch: median(|t| t.fetch)?,
        decode: median(|t| t.decode)?,
        preprocess: median(|t| t.preprocess)?,
        infer: median(|t| t.infer)?,
    })
}
