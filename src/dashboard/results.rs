//! Results by slide, label, status, model, time and review, page by page.
//!
//! It never filters itself. Invariant: a page goes on exactly where the one before ended, whatever was stored meanwhile.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::cursor::Filters;
use super::parameters::{RawQuery, wrong};
use super::problem::Problem;
use super::{DEFAULT_LIMIT, Dashboard, MAX_LIMIT};
use crate::classification::{Record, Status};
use crate::store::{Order, ResultQuery};

/// Longest label, bytes.
const MAX_LABEL_BYTES: usize = 256;

/// A page of records.
#[derive(Debug, Serialize)]
pub(super) struct ResultsAnswer {
    pub results: Vec<Record>,
    pub next: Option<String>,
}

const FILTERS: [&str; 10] =
    ["stage", "slide", "label", "status", "model", "needs_review", "withdrawn", "from", "until", "order"];

pub(super) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/results", get(results))
}

async fn results(
    State(dashboard): State<Arc<Dashboard>>,
    query: RawQuery,
) -> Result<Json<ResultsAnswer>, Problem> {
    let known: Vec<&str> = FILTERS.into_iter().chain(["limit", "cursor"]).collect();
    let parameters = query.parameters(&known)?;
    let label = parameters.optional("label")?;
    if let Some(text) = label.filter(|label| label.is_empty() || label.len() > MAX_LABEL_BYTES) {
        return Err(wrong(
            "label",
            text,
            &format!("a label of 1 to {MAX_LABEL_BYTES} bytes, as /api/settings lists"),
        ));
    }
    let status = [("classified", Status::Classified), ("rejected", Status::Rejected)];
    let order = [("newest", Order::Newest), ("suspicion", Order::Suspicion)];
    let query = ResultQuery {
        stage: parameters.stage(&dashboard.stages)?,
        slide: parameters.slide()?.map(str::to_owned),
        label: label.map(str::to_owned),
        status: parameters.choice("status", &status)?,
        model_sha256: parameters.sha256("model")?.map(str::to_owned),
        needs_review: parameters.flag("needs_review")?,
        withdrawn: parameters.flag("withdrawn")?.unwrap_or(false),
        from: parameters.time("from")?,
        until: parameters.time("until")?,
        order: parameters.choice("order", &order)?.unwrap_or(Order::Newest),
        limit: parameters.limit(DEFAULT_LIMIT, MAX_LIMIT)?,
    };
    if let (Some(from), Some(until)) = (query.from, query.until)
        && from >= until
    {
        let text = parameters.optional("until")?.unwrap_or_default();
        return Err(wrong("until", text, "a time after `from`; images of that very time are not included"));
    }
    let mut given = Vec::with_capacity(FILTERS.len());
    for name in FILTERS {
        given.push(parameters.optional(name)?);
    }
    let filters = Filters::of("results", &given);
    let after = filters.position(parameters.optional("cursor")?)?;
    let page = dashboard.table.results(&query, after.as_deref()).await?;
    let next = page.next.map(|position| filters.cursor(&position));
    Ok(Json(ResultsAnswer { results: page.results, next }))
}
