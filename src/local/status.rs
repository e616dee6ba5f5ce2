//! The status page of the embedded stack: what serves, what waits, what needs a look.
//!
//! Reads only, answers only requests made to the loopback address itself (a page of another site that a
//! browser has open cannot ask, because its `Host` differs). Invariant: every text from outside is escaped.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::{Json, Router, routing::get};
use chrono::{Days, Utc};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::queue::{Queue, dead_letter_queue};
use crate::classification::Record;
use crate::handler::Handler;
use crate::html::escape;
use crate::slide::SlideFigure;
use crate::store::{LabelOrRejected, LabelQuery, LedgerEntry, TableReader};

/// Records of each list on the page.
const LIST_LENGTH: usize = 50;

/// How far back rejected images are listed.
const REJECTED_DAYS: u64 = 7;

/// Where the page's facts come from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub table: TableReader,
    pub queue: Queue,
    /// Production first.
    pub stages: Vec<StageSource>,
    pub gate_queue: String,
    pub address: SocketAddr,
}

/// Where the facts of one stage come from.
#[derive(Debug, Clone)]
pub(super) struct StageSource {
    pub stage: String,
    pub queue_name: String,
    /// What answers for it, if anything does.
    pub handler: Option<Arc<Handler>>,
}

impl Source {
    /// The stage whose answers count.
    fn production(&self) -> &str {
        self.stages.first().map_or("", |source| &source.stage)
    }
}

/// What `GET /api/status` answers: production's figures, then those of every stage.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    production: StageStatus,
    stages: Vec<StageStatus>,
    gate: QueueStatus,
}

/// What serves in a stage, and what it has not answered.
#[derive(Debug, Clone, Serialize)]
struct StageStatus {
    stage: String,
    model: Option<LedgerEntry>,
    /// Why the file in the place of its model does not serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(flatten)]
    queue: QueueStatus,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct QueueStatus {
    unanswered: u64,
    oldest_unanswered_seconds: Option<u64>,
    dead_letters: u64,
}

#[derive(Debug, Deserialize)]
struct SlideQuery {
    name: String,
}

/// What `GET /api/slide?name=…` answers.
#[derive(Debug, Serialize)]
struct SlideAnswer {
    slide: String,
    figure: SlideFigure,
    parasitemia_percent: Option<f64>,
    parasitemia_interval_percent: Option<(f64, f64)>,
    records: Vec<Record>,
}

/// A problem as `application/problem+json` (RFC 9457).
#[derive(Debug)]
struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "status": self.0.as_u16(), "title": self.0.canonical_reason(), "detail": self.1 });
        (self.0, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}

impl<E: std::error::Error> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

/// The page and its API.
pub(super) fn router(source: Source) -> Router {
    let address = source.address;
    Router::new()
        .route("/", get(page))
        .route("/api/status", get(status))
        .route("/api/slide", get(slide))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            only_this_host(address, request, next)
        }))
        .with_state(source)
}

/// Serves until `stop` turns true.
pub(super) async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        // An error means that the other side is gone, which is as good a reason to stop.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    // Not gracefully: a browser that keeps its connection open would hold up the end.
    tokio::select! {
        served = axum::serve(listener, router).into_future() => {
            if let Err(error) = served {
                tracing::error!(%error, "status page stopped");
            }
        }
        () = stopped => {}
    }
}

async fn only_this_host(address: SocketAddr, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if host == address.to_string() || host == format!("localhost:{}", address.port()) {
        let mut response = next.run(request).await;
        let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy.parse().expect("plain ASCII"));
        response
    } else {
        let detail = format!("this page answers for {address} only, the request was for {host:?}");
        Problem(StatusCode::MISDIRECTED_REQUEST, detail).into_response()
    }
}

async fn queue_status(source: &Source, name: &str) -> Result<QueueStatus, Problem> {
    let now = Utc::now();
    let waiting = source.queue.depth(name, now).await?;
    let dead = source.queue.depth(&dead_letter_queue(name), now).await?;
    Ok(QueueStatus {
        unanswered: waiting.total(),
        oldest_unanswered_seconds: waiting.oldest_age.map(|age| age.as_secs()),
        dead_letters: dead.total(),
    })
}

async fn current_status(source: &Source) -> Result<Status, Problem> {
    let mut stages = Vec::new();
    for StageSource { stage, queue_name, handler } in &source.stages {
        stages.push(StageStatus {
            stage: stage.clone(),
            model: source.table.model_at(stage, Utc::now()).await?,
            refused: handler.as_ref().and_then(|handler| handler.model_refusal()),
            queue: queue_status(source, queue_name).await?,
        });
    }
    let production = stages.first().cloned().expect("there is always production");
    Ok(Status { production, stages, gate: queue_status(source, &source.gate_queue).await? })
}

async fn status(State(source): State<Source>) -> Result<Json<Status>, Problem> {
    current_status(&source).await.map(Json)
}

async fn slide(
    State(source): State<Source>,
    query: Result<Query<SlideQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<SlideAnswer>, Problem> {
    let expected = "expected ?name=<folder of the images>, e.g. /api/slide?name=slide-001";
    let Query(SlideQuery { name }) =
        query.map_err(|_| Problem(StatusCode::BAD_REQUEST, expected.to_owned()))?;
    let records = source.table.whole_slide(source.production(), &name).await?;
    if records.is_empty() {
        let detail = format!("no image of the slide {name:?} is answered yet; {expected}");
        return Err(Problem(StatusCode::NOT_FOUND, detail));
    }
    let figure = SlideFigure::of(&records);
    Ok(Json(SlideAnswer {
        slide: name,
        parasitemia_percent: figure.parasitemia_percent(),
        parasitemia_interval_percent: figure.parasitemia_interval_percent(),
        figure,
        records,
    }))
}

async fn page(State(source): State<Source>) -> Result<Html<String>, Problem> {
    let status = current_status(&source).await?;
    let now = Utc::now();
    let suspicious = source.table.review_queue(source.production(), LIST_LENGTH).await?;
    let rejected = LabelQuery {
        stage: source.production().to_owned(),
        which: LabelOrRejected::Rejected,
        from: now.checked_sub_days(Days::new(REJECTED_DAYS)).unwrap_or(now),
        until: now + chrono::Duration::days(1),
        limit: LIST_LENGTH,
    };
    let rejected = source.table.by_label(&rejected).await?;
    Ok(Html(render(&status, &suspicious, &rejected)))
}

fn render(status: &Status, suspicious: &[Record], rejected: &[Record]) -> String {
    let mut html = String::from(HEAD);
    html.push_str("<table><tr><th>Stage<th>Model<th>Unanswered uploads<th>Given up after all retries</tr>");
    for stage in &status.stages {
        let model = stage.model.as_ref().map_or_else(
            || "none has answered an image yet".to_owned(),
            |entry| {
                let since = entry.released_at.format("%Y-%m-%d %H:%M UTC");
                let model = &entry.model;
                format!("{} {} ({}…), since {since}", model.name, model.version, &model.sha256[..12])
            },
        );
        let waiting = stage.queue.unanswered;
        let oldest = stage.queue.oldest_unanswered_seconds;
        let oldest = oldest.map_or_else(String::new, |s| format!(", the oldest for {s} s"));
        // Writing to a String cannot fail.
        let _ = write!(
            html,
            "<tr><td>{}<td>{}<td>{waiting}{oldest}<td>{}</tr>",
            escape(&stage.stage),
            escape(&model),
            stage.queue.dead_letters
        );
        if let Some(refused) = &stage.refused {
            let _ = write!(html, "<tr><td><td colspan=3>Not serving: {}</tr>", escape(refused));
        }
    }
    html.push_str("</table>");
    if status.gate.unanswered > 0 {
        html.push_str("<p>The gate is looking at what was copied to the model bucket.</p>");
    }
    let _ = write!(html, "<h2>Needs a human look, most suspicious first (production)</h2>");
    table(
        &mut html,
        ["Image", "Answer", "Confidence", "Why"],
        suspicious,
        "Nothing needs a look.",
        |record| {
            let label = record.label.as_deref().unwrap_or_default();
            let confidence = record.confidence.unwrap_or_default();
            [
                label.to_owned(),
                format!("{:.1} %", 100.0 * confidence),
                record.review_reason.clone().unwrap_or_default(),
            ]
        },
    );
    let _ = write!(html, "<h2>Rejected in the last {REJECTED_DAYS} days, newest first</h2>");
    table(&mut html, ["Image", "Code", "Why"], rejected, "Nothing was rejected.", |record| {
        let (code, message) =
            record.reject.as_ref().map_or(("", ""), |reject| (reject.code.as_str(), reject.message.as_str()));
        [code.to_owned(), message.to_owned()]
    });
    html.push_str("</main></html>");
    html
}

/// A table whose first column is the image; of `N` headings, `M` are of the other columns.
fn table<const N: usize, const M: usize>(
    html: &mut String,
    headings: [&str; N],
    records: &[Record],
    empty: &str,
    cells: impl Fn(&Record) -> [String; M],
) {
    if records.is_empty() {
        let _ = write!(html, "<p>{empty}</p>");
        return;
    }
    html.push_str("<table><tr>");
    for heading in headings {
        let _ = write!(html, "<th>{heading}");
    }
    html.push_str("</tr>");
    for record in records {
        let _ = write!(html, "<tr><td>{}", escape(&record.image.key));
        for cell in cells(record) {
            let _ = write!(html, "<td>{}", escape(&cell));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table>");
}

const HEAD: &str = r#"<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width"><title>Giemsa</title>
<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { color: #7b3fa0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; } dt { opacity: .7; } dd { margin: 0; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; opacity: .7; font-weight: normal; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
td:first-child, td:last-child { overflow-wrap: anywhere; } td:not(:first-child):not(:last-child) { white-space: nowrap; }
</style><main><h1>Giemsa</h1>
"#;
