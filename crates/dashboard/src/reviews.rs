//! The review queue, and what reviewers say: confirm, correct, take back.
//!
//! It never changes what a model said. A verdict is on the result that the reviewer saw; if there is another one by
//! now, the reviewer is told and nothing is written.

pub(crate) mod agreement;
pub(crate) mod golden_sets;
pub(crate) mod reviewed;
pub(crate) mod withdrawals;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Dashboard;
use crate::access::sign_in::Caller;
use crate::request::cursor::Filters;
use crate::request::parameters::{Cursor, JsonBody, Limit, Query, Slide, Stage, Time, shown, wrong};
use crate::request::problem::Problem;
use crate::results::ResultsAnswer;
use giemsa_core::record::Record;
use giemsa_store::{Review, ReviewAction, Reviewer, StoreError};

/// Longest name of a reviewer, bytes.
const MAX_REVIEWER_BYTES: usize = 200;

/// Longest label, bytes.
const MAX_LABEL_BYTES: usize = 256;

/// Longest note, bytes.
const MAX_NOTE_BYTES: usize = 4_000;

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new()
        .route("/api/review/queue", get(queue))
        .route("/api/reviews", get(reviews).post(append))
        .route("/api/reviews/undo", post(undo))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct NewReview {
    key: String,
    stage: String,
    /// The result that the reviewer looked at.
    result_id: String,
    action: NewAction,
    /// The right label; of a confirmation that of the result, if it is given.
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    note: Option<String>,
    /// Who says so; where people sign in the token does, whatever stands here.
    reviewer: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum NewAction {
    Confirm,
    Correct,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Undo {
    key: String,
    reviewer: String,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct QueueQuery {
    stage: Option<Stage>,
    slide: Option<Slide>,
    #[serde(default)]
    limit: Limit,
    cursor: Option<Cursor>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ReviewsQuery {
    /// Reviews from then on.
    from: Option<Time>,
    /// Reviews before then.
    until: Option<Time>,
    #[serde(default)]
    limit: Limit,
    cursor: Option<Cursor>,
}

async fn queue(
    State(dashboard): State<Arc<Dashboard>>,
    Query(query): Query<QueueQuery>,
) -> Result<Json<ResultsAnswer>, Problem> {
    let stage = dashboard.stage("stage", query.stage)?;
    let slide = query.slide.as_ref().map(|Slide(slide)| slide.as_str());
    let filters = Filters::of("review/queue", &[Some(&stage), slide]);
    let after = filters.position(query.cursor)?;
    let page = dashboard.table.review_queue_page(&stage, slide, after.as_deref(), query.limit.get()).await?;
    let next = page.next.map(|position| filters.cursor(&position));
    Ok(Json(ResultsAnswer { results: page.results, next }))
}

async fn reviews(
    State(dashboard): State<Arc<Dashboard>>,
    Query(query): Query<ReviewsQuery>,
) -> Result<Json<Value>, Problem> {
    let filters = Filters::of("reviews", &[Some(&format!("{:?} {:?}", query.from, query.until))]);
    let after = filters.position(query.cursor)?;
    // A little ahead: times of reviews are moved behind each other.
    let until = query.until.map_or_else(|| Utc::now() + TimeDelta::minutes(1), |Time(until)| until);
    let from = query.from.map_or(DateTime::UNIX_EPOCH, |Time(from)| from);
    if from >= until {
        return Err(wrong("from", &from.to_rfc3339(), "a time before `until`"));
    }
    let page = dashboard.table.reviews(from, until, after.as_deref(), query.limit.get()).await?;
    let next = page.next.map(|position| filters.cursor(&position));
    Ok(Json(json!({ "reviews": page.reviews, "next": next })))
}

async fn append(
    State(dashboard): State<Arc<Dashboard>>,
    caller: Option<Extension<Caller>>,
    JsonBody(new): JsonBody<NewReview>,
) -> Result<Json<Value>, Problem> {
    let reviewer = reviewer_of(caller, &new.reviewer)?;
    let note = checked_note(new.note.as_deref())?;
    if !dashboard.stages.contains(&new.stage) {
        return Err(wrong("stage", &new.stage, &format!("one of: {}", dashboard.stages.join(", "))));
    }
    let bucket = &dashboard.buckets.input;
    let known = dashboard.table.image(bucket, &new.key, &dashboard.stages).await?;
    let Some(record) = known.results.into_iter().find(|record| record.stage == new.stage) else {
        let detail = format!("the stage {} has no result of {:?}", new.stage, shown(&new.key));
        return Err(Problem::not_found(detail));
    };
    if record.result_id != new.result_id {
        return Err(other_result(&new.key, &new.result_id, Some(&record.result_id)));
    }
    let (action, label) = match new.action {
        NewAction::Confirm => (ReviewAction::Confirm, confirmed_label(&record, new.label.as_deref())?),
        NewAction::Correct => {
            (ReviewAction::Correct, dashboard.corrected_label(&record, new.label.as_deref()).await?)
        }
    };
    let review = Review {
        bucket: bucket.clone(),
        key: new.key,
        slide: record.slide.clone(),
        stage: Some(new.stage),
        action,
        label,
        note,
        reviewer: reviewer.name,
        reviewer_id: reviewer.id,
        reviewed_at: Utc::now(),
        object_version: record.image.object_version().to_owned(),
        result_id: Some(new.result_id),
        predicted: record.label,
        model: Some(record.model),
    };
    dashboard.writer.append_review(&review, &dashboard.stages).await.map_err(refused)?;
    Ok(Json(json!({ "review": review })))
}

async fn undo(
    State(dashboard): State<Arc<Dashboard>>,
    caller: Option<Extension<Caller>>,
    JsonBody(Undo { key, reviewer }): JsonBody<Undo>,
) -> Result<Json<Value>, Problem> {
    let reviewer = reviewer_of(caller, &reviewer)?;
    let Dashboard { writer, buckets, stages, .. } = dashboard.as_ref();
    let undone = writer.undo_review(&buckets.input, &key, &reviewer, Utc::now(), stages).await;
    Ok(Json(json!({ "verdict": undone.map_err(refused)? })))
}

impl Dashboard {
    /// The label that a reviewer names: one that a model knows, so that no typing error becomes a class of its own.
    async fn corrected_label(&self, record: &Record, label: Option<&str>) -> Result<String, Problem> {
        let expected = "the right label, as /api/settings lists them";
        let label = label.ok_or_else(|| {
            Problem::bad_parameter("label", format!("label is missing; expected {expected}"))
        })?;
        // It becomes the folder of a golden set.
        let is_name = !label.is_empty()
            && label.len() <= MAX_LABEL_BYTES
            && !label.chars().any(|c| c.is_control() || c == '/')
            && !matches!(label, "." | "..");
        if !is_name {
            return Err(wrong("label", label, expected));
        }
        if record.probabilities.as_ref().is_some_and(|known| known.contains_key(label)) {
            return Ok(label.to_owned());
        }
        let (mut known, _) = self.labels().await?;
        known.extend(record.probabilities.iter().flat_map(|known| known.keys().cloned()));
        known.sort_unstable();
        known.dedup();
        // Where no model says what it knows, any will do.
        if known.is_empty() || known.iter().any(|known| known == label) {
            return Ok(label.to_owned());
        }
        Err(wrong("label", label, &format!("one of: {}", known.join(", "))))
    }
}

fn confirmed_label(record: &Record, label: Option<&str>) -> Result<String, Problem> {
    let Some(predicted) = &record.label else {
        let detail = format!(
            "{:?} was rejected: there is no label to confirm; correct it to one",
            shown(&record.image.key)
        );
        return Err(Problem::bad_parameter("action", detail));
    };
    match label {
        Some(label) if label != predicted => Err(wrong(
            "label",
            label,
            &format!("{predicted:?}, which is confirmed, or none; `correct` names another"),
        )),
        _ => Ok(predicted.clone()),
    }
}

/// Who a verdict is from: whoever the token says, or, where nobody signs in, the name that was given.
pub(crate) fn reviewer_of(caller: Option<Extension<Caller>>, given: &str) -> Result<Reviewer, Problem> {
    match caller {
        Some(Extension(Caller { id, name })) => Ok(Reviewer { name, id: Some(id) }),
        None => Ok(Reviewer { name: checked_reviewer(given)?, id: None }),
    }
}

fn checked_reviewer(reviewer: &str) -> Result<String, Problem> {
    let name = reviewer.trim();
    if name.is_empty() || name.len() > MAX_REVIEWER_BYTES || name.chars().any(char::is_control) {
        let expected = format!("a name of 1 to {MAX_REVIEWER_BYTES} bytes without control characters");
        return Err(wrong("reviewer", reviewer, &expected));
    }
    Ok(name.to_owned())
}

fn checked_note(note: Option<&str>) -> Result<Option<String>, Problem> {
    let note = note.map(str::trim).filter(|note| !note.is_empty());
    let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r');
    match note {
        Some(note) if note.len() > MAX_NOTE_BYTES || note.chars().any(is_odd) => {
            let expected = format!("at most {MAX_NOTE_BYTES} bytes without control characters");
            Err(wrong("note", note, &expected))
        }
        note => Ok(note.map(str::to_owned)),
    }
}

/// What the table says to a review.
fn refused(error: StoreError) -> Problem {
    match &error {
        StoreError::OtherResult { key, expected, found, .. } => other_result(key, expected, found.as_deref()),
        StoreError::NothingToUndo { .. } => Problem::new(StatusCode::CONFLICT, error.to_string()),
        _ => error.into(),
    }
}

pub(crate) fn other_result(key: &str, expected: &str, found: Option<&str>) -> Problem {
    let now = found.map_or("none".to_owned(), |found| format!("{found:?}"));
    let detail = format!(
        "the result of {:?} that was looked at, {:?}, is not the current one any more, which is {now}: the image was \
         replaced or answered by another model; look at it again",
        shown(key),
        shown(expected)
    );
    Problem { status: StatusCode::CONFLICT, detail, parameter: Some("result_id".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_speaks_for_another_who_signed_in() {
        let ada = Caller { id: "https://id.example|7".to_owned(), name: "Ada".to_owned() };
        let expected = Reviewer { name: "Ada".to_owned(), id: Some("https://id.example|7".to_owned()) };
        for given in ["Bob", ""] {
            assert_eq!(reviewer_of(Some(Extension(ada.clone())), given).unwrap(), expected);
        }
        let bob = Reviewer { name: "Bob".to_owned(), id: None };
        assert_eq!(reviewer_of(None, " Bob ").unwrap(), bob);
        assert!(reviewer_of(None, "").is_err());
    }

    #[test]
    fn names_and_notes_are_text() {
        assert_eq!(checked_reviewer(" Ada Müller ").unwrap(), "Ada Müller");
        assert_eq!(checked_reviewer("=cmd()").unwrap(), "=cmd()");
        for wrong in ["", "  ", "a\r\nSet-Cookie: b", "a\0", &"x".repeat(201)] {
            assert_eq!(checked_reviewer(wrong).unwrap_err().parameter.as_deref(), Some("reviewer"));
        }
        assert_eq!(checked_note(Some(" <b>two\nlines</b> ")).unwrap().as_deref(), Some("<b>two\nlines</b>"));
        assert_eq!(checked_note(Some("  ")).unwrap(), None);
        assert!(checked_note(Some("\u{7}")).is_err());
        assert!(checked_note(Some(&"x".repeat(4_001))).is_err());
    }
}
