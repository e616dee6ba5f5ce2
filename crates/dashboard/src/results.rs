//! Results by slide, label, status, model, time and review, page by page.
//!
//! A page goes on exactly where the one before ended, whatever was stored meanwhile.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::Dashboard;
use crate::request::cursor::Filters;
use crate::request::parameters::{Cursor, Limit, Query, Sha256, Slide, Stage, Text, Time, wrong};
use crate::request::problem::Problem;
use giemsa_core::record::{Record, Status};
use giemsa_store::{Order, ResultQuery};

/// Longest label, bytes.
const MAX_LABEL_BYTES: usize = 256;

/// A page of records.
#[derive(Debug, Serialize)]
pub(crate) struct ResultsAnswer {
    pub results: Vec<Record>,
    pub next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ResultsQuery {
    stage: Option<Stage>,
    slide: Option<Slide>,
    /// The label that the model gave.
    label: Option<Text<1, MAX_LABEL_BYTES>>,
    /// How it ended.
    #[cfg_attr(test, schemars(with = "Option<crate::page::openapi::tests::StatusWords>"))]
    status: Option<Status>,
    /// The model that answered.
    model: Option<Sha256>,
    /// Whether a person should look, and nobody has.
    needs_review: Option<bool>,
    /// The withdrawn images instead of those that count.
    #[serde(default)]
    withdrawn: bool,
    /// First upload time.
    from: Option<Time>,
    /// Upload times before this one.
    until: Option<Time>,
    /// `suspicion` is known of a slide, and of what needs review.
    #[cfg_attr(test, schemars(with = "Option<crate::page::openapi::tests::OrderWords>"))]
    order: Option<Order>,
    #[serde(default)]
    limit: Limit,
    cursor: Option<Cursor>,
}

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/results", get(results))
}

async fn results(
    State(dashboard): State<Arc<Dashboard>>,
    Query(given): Query<ResultsQuery>,
) -> Result<Json<ResultsAnswer>, Problem> {
    let mut query = ResultQuery {
        stage: dashboard.stage("stage", given.stage)?,
        slide: given.slide.map(|Slide(slide)| slide),
        label: given.label.map(|Text(label)| label),
        status: given.status,
        model_sha256: given.model.map(|Sha256(model)| model),
        needs_review: given.needs_review,
        withdrawn: given.withdrawn,
        from: given.from.map(|Time(from)| from),
        until: given.until.map(|Time(until)| until),
        order: given.order.unwrap_or(Order::Newest),
        limit: 0,
    };
    if let (Some(from), Some(until)) = (query.from, query.until)
        && from >= until
    {
        let expected = "a time after `from`; images of that very time are not included";
        return Err(wrong("until", &until.to_rfc3339(), expected));
    }
    // Pages may be of different lengths.
    let filters = Filters::of("results", &[Some(&format!("{query:?}"))]);
    let after = filters.position(given.cursor)?;
    query.limit = given.limit.get();
    let page = dashboard.table.results(&query, after.as_deref()).await?;
    let next = page.next.map(|position| filters.cursor(&position));
    Ok(Json(ResultsAnswer { results: page.results, next }))
}
