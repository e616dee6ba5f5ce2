//! What a page has to know before it can ask anything: stages, labels, limits.
//!
//! Labels come from the models that serve, those of the first stage first.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use chrono::Utc;
use serde::Serialize;

use crate::access::sign_in::Caller;
use crate::request::parameters::{Nothing, Query};
use crate::request::problem::Problem;
use crate::{Dashboard, SOFTWARE, uploads};
use giemsa_core::gate_report::{GateReport, report_key};
use giemsa_image::ImageFormat;

/// What `GET /api/settings` answers.
#[derive(Debug, Serialize)]
struct Settings<'a> {
    stages: &'a [String],
    labels: Vec<String>,
    positive_labels: Vec<String>,
    max_object_bytes: u64,
    /// As records name them.
    formats: [&'static str; ImageFormat::ALL.len()],
    /// Endings of the names that are taken, with their dots.
    extensions: Vec<String>,
    s3_origin: &'a str,
    input_bucket: &'a str,
    software: &'static str,
    /// The name that the request's token gives; a page asks for one where there is none.
    reviewer: Option<String>,
    /// Whom the token is of, whatever the name: issuer and subject.
    reviewer_id: Option<String>,
}

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/settings", get(settings))
}

async fn settings(
    State(dashboard): State<Arc<Dashboard>>,
    caller: Option<Extension<Caller>>,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let (labels, positive_labels) = dashboard.labels().await?;
    let (reviewer, reviewer_id) = caller.map(|Extension(Caller { id, name })| (name, id)).unzip();
    let settings = Settings {
        stages: &dashboard.stages,
        labels,
        positive_labels,
        max_object_bytes: dashboard.limits.max_object_bytes,
        formats: ImageFormat::ALL.map(ImageFormat::as_str),
        extensions: uploads::extensions().collect(),
        s3_origin: dashboard.access.s3_origin(),
        input_bucket: &dashboard.buckets.input,
        software: SOFTWARE,
        reviewer,
        reviewer_id,
    };
    Ok(Json(settings).into_response())
}

impl Dashboard {
    /// Labels, and those that count as positive, of the models that serve.
    pub(crate) async fn labels(&self) -> Result<(Vec<String>, Vec<String>), Problem> {
        let mut labels: Vec<String> = Vec::new();
        let mut positive_labels: Vec<String> = Vec::new();
        let files = self.model_files();
        for stage in &self.stages {
            let Some(entry) = self.table.model_at(stage, Utc::now()).await? else { continue };
            let Some(file) = files.get(&report_key(&entry.model.sha256)).await? else { continue };
            // A report that this version cannot read is shown where reports are; here it only has no labels.
            let Ok(report) = serde_json::from_slice::<GateReport>(&file.bytes) else { continue };
            add_missing(&mut labels, report.model.labels);
            add_missing(&mut positive_labels, report.model.positive);
        }
        Ok((labels, positive_labels))
    }
}

fn add_missing(list: &mut Vec<String>, more: Vec<String>) {
    for name in more {
        if !list.contains(&name) {
            list.push(name);
        }
    }
}
