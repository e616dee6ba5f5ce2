//! What was uploaded on each day, and how it was answered.
//!
//! Days are of UTC, newest first, and only those with images.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Json, Router};
use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::Dashboard;
use crate::request::parameters::{Date, Query, Stage, wrong};
use crate::request::problem::Problem;
use crate::request::single_flight::SingleFlightCache;
use giemsa_store::DaySummary;

/// Days that are answered unless it is asked otherwise.
const DEFAULT_DAYS: u64 = 30;

/// How old an answer may be, which says itself when it was counted.
const AGE: Duration = Duration::from_secs(2);

/// Most days of one answer.
const MAX_DAYS: i64 = 366;

#[derive(Debug, Clone, Serialize)]
struct DayAnswer {
    date: NaiveDate,
    labels: BTreeMap<String, u64>,
    rejected: u64,
    needs_review: u64,
    computed_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
struct SummaryAnswer {
    days: Vec<DayAnswer>,
}

impl From<DaySummary> for DayAnswer {
    fn from(day: DaySummary) -> Self {
        let DaySummary { date, labels, rejected, needs_review, computed_at } = day;
        Self { date, labels, rejected, needs_review, computed_at }
    }
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct SummaryQuery {
    stage: Option<Stage>,
    /// First day, UTC; thirty days before `until` unless it is given.
    from: Option<Date>,
    /// The day after the last; at most 366 days after `from`.
    until: Option<Date>,
}

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    let days = Arc::new(SingleFlightCache::<Vec<DayAnswer>, Problem>::new(AGE));
    Router::new().route("/api/summary", get(summary)).layer(Extension(days))
}

async fn summary(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(recent): Extension<Arc<SingleFlightCache<Vec<DayAnswer>, Problem>>>,
    Query(SummaryQuery { stage, from, until }): Query<SummaryQuery>,
) -> Result<Json<SummaryAnswer>, Problem> {
    let stage = dashboard.stage("stage", stage)?;
    let tomorrow = Utc::now().date_naive() + Days::new(1);
    let until = until.map_or(tomorrow, |Date(until)| until);
    let from = match from {
        Some(Date(from)) => from,
        None => until.checked_sub_days(Days::new(DEFAULT_DAYS)).unwrap_or(until),
    };
    if !(1..=MAX_DAYS).contains(&(until - from).num_days()) {
        let expected =
            format!("1 to {MAX_DAYS} days from `from` ({from}) to `until` ({until}), which is not included");
        return Err(wrong("from", &from.to_string(), &expected));
    }
    let count = async {
        let days = dashboard.table.days(&stage, from, until).await?;
        Ok(days.into_iter().map(DayAnswer::from).collect())
    };
    let days = recent.answer(&format!("{from} {until} {stage}"), count).await?;
    Ok(Json(SummaryAnswer { days }))
}
