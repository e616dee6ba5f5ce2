//! Models: what serves in each stage and did before, gate reports, and two stages compared.
//!
//! It never releases anything; `giemsa model` does. What serves is what the ledger says, not what file lies in the
//! place of the model.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Dashboard;
use crate::request::parameters::{Limit, Nothing, Query, Sha256, Stage, wrong};
use crate::request::problem::Problem;
use giemsa_core::gate_report::{GateReport, report_key};
use giemsa_core::record::ModelInfo;
use giemsa_store::shadow::{Comparison, ComparisonQuery, compare};
use giemsa_store::{LedgerEntry, StoredFile};

/// Entries of the ledger that are shown of each stage, the newest.
const LEDGER_ENTRIES: usize = 50;

/// Reports that are shown, the newest.
const SHOWN_REPORTS: usize = 50;

/// Reports that are read at once.
const READ_AT_ONCE: usize = 8;

/// Longest that a comparison may take; a gateway waits no longer than 30 s.
const COMPARISON_TIME: Duration = Duration::from_secs(20);

/// Days that are compared unless it is asked otherwise.
const DEFAULT_DAYS: u32 = 7;

/// Most days that are compared.
const MAX_DAYS: u32 = 366;

#[derive(Debug, Serialize)]
struct StageModel {
    stage: String,
    model: Option<ModelInfo>,
    since: Option<DateTime<Utc>>,
    refused: Option<String>,
}

#[derive(Debug, Serialize)]
struct ReportRow {
    sha256: String,
    name: Option<String>,
    version: Option<String>,
    passed: bool,
    waived: bool,
    checked_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
struct ModelsAnswer {
    stages: Vec<StageModel>,
    ledger: Vec<LedgerEntry>,
    reports: Vec<ReportRow>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportQuery {
    /// The model.
    sha256: Sha256,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ComparisonParameters {
    /// Uploads of so many days back.
    #[serde(default)]
    days: Limit<DEFAULT_DAYS, MAX_DAYS>,
    /// The stage whose model may become the next; the second one unless it is given.
    candidate: Option<Stage>,
    /// The stage that it is held against; the first unless it is given.
    reference: Option<Stage>,
}

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new()
        .route("/api/models", get(models))
        .route("/api/models/report", get(report))
        .route("/api/models/compare", get(comparison))
}

async fn models(
    State(dashboard): State<Arc<Dashboard>>,
    _: Query<Nothing>,
) -> Result<Json<ModelsAnswer>, Problem> {
    let (mut stages, mut ledger) = (Vec::new(), Vec::new());
    for stage in &dashboard.stages {
        let entry = dashboard.table.model_at(stage, Utc::now()).await?;
        stages.push(StageModel {
            stage: stage.clone(),
            since: entry.as_ref().map(|entry| entry.released_at),
            model: entry.map(|entry| entry.model),
            refused: dashboard.operations.refused(stage),
        });
        ledger.extend(dashboard.table.ledger_newest(stage, LEDGER_ENTRIES).await?);
    }
    ledger.sort_by_key(|entry| std::cmp::Reverse(entry.released_at));
    Ok(Json(ModelsAnswer { stages, ledger, reports: dashboard.reports().await? }))
}

impl Dashboard {
    /// The newest reports of the gate.
    async fn reports(&self) -> Result<Vec<ReportRow>, Problem> {
        let files = self.model_files();
        let mut listed = files.list("reports/").await?;
        listed.retain(|file| file.key.ends_with(".json"));
        listed.sort_by_key(|file| std::cmp::Reverse(file.modified_at));
        listed.truncate(SHOWN_REPORTS);
        let reads: Vec<_> = listed.iter().map(|file| files.get(&file.key)).collect();
        let found: Vec<Option<StoredFile>> = stream::iter(reads).buffered(READ_AT_ONCE).try_collect().await?;
        // One may be gone by now, or of a later version: then it is not listed, and can still be opened.
        let read = |file: StoredFile| serde_json::from_slice(&file.bytes).ok().map(row_of);
        Ok(found.into_iter().flatten().filter_map(read).collect())
    }
}

fn row_of(report: GateReport) -> ReportRow {
    ReportRow {
        sha256: report.model.sha256,
        name: report.model.name,
        version: report.model.version,
        passed: report.passed,
        waived: report.waiver.is_some(),
        checked_at: report.made_at,
    }
}

async fn report(
    State(dashboard): State<Arc<Dashboard>>,
    Query(ReportQuery { sha256 }): Query<ReportQuery>,
) -> Result<Json<Value>, Problem> {
    let files = dashboard.model_files();
    let key = report_key(&sha256.0);
    let Some(file) = files.get(&key).await? else {
        let detail = format!(
            "there is no report {}: the gate has not looked at a model of this digest; copy the model to \
             <stage>/model.onnx of the model bucket, and it will",
            files.location(&key)
        );
        return Err(Problem::not_found(detail));
    };
    serde_json::from_slice(&file.bytes).map(Json).map_err(|error| {
        let detail = format!("the report {} is not a JSON: {error}", files.location(&key));
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    })
}

async fn comparison(
    State(dashboard): State<Arc<Dashboard>>,
    Query(ComparisonParameters { days, candidate, reference }): Query<ComparisonParameters>,
) -> Result<Json<Comparison>, Problem> {
    let days = days.get();
    let reference = dashboard.stage("reference", reference)?;
    let candidate =
        candidate.or_else(|| dashboard.stages.iter().find(|stage| **stage != reference).cloned().map(Stage));
    let Some(candidate) = candidate else {
        let detail = format!("there is no second stage to compare {reference} with");
        return Err(Problem::not_found(detail));
    };
    let candidate = dashboard.stage("candidate", Some(candidate))?;
    if candidate == reference {
        return Err(wrong("candidate", &candidate, "another stage than `reference`"));
    }
    let query = ComparisonQuery {
        candidate: dashboard.serving(candidate).await?,
        reference: dashboard.serving(reference).await?,
        since: Utc::now().checked_sub_signed(TimeDelta::days(days as i64)),
        slide: None,
    };
    let compared = tokio::time::timeout(COMPARISON_TIME, compare(&dashboard.table, &query, |_| ())).await;
    let Ok(compared) = compared else {
        let detail = format!(
            "comparing the images of {days} days takes longer than {} s; ask for fewer days, or use `giemsa model compare`",
            COMPARISON_TIME.as_secs()
        );
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    Ok(Json(compared?))
}

impl Dashboard {
    /// A stage and the model that it serves.
    async fn serving(&self, stage: String) -> Result<(String, ModelInfo), Problem> {
        match self.table.model_at(&stage, Utc::now()).await? {
            Some(entry) => Ok((stage, entry.model)),
            None => Err(Problem::not_found(format!("no model has answered an image in {stage} yet"))),
        }
    }
}
