//! Images that a person takes out of what counts, and brings back.
//!
//! It never deletes anything and never changes what a model said. What is withdrawn is the result that the person saw;
//! if there is another one by now, nothing is written.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Json, Router};
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Dashboard;
use crate::access::sign_in::Caller;
use crate::request::parameters::{JsonBody, shown, wrong};
use crate::request::problem::Problem;
use crate::reviews::{other_result, reviewer_of};
use giemsa_core::object::slide_of_key;
use giemsa_store::{Reviewer, StoreError, Withdrawal, WithdrawalAction};

/// Longest reason, bytes.
const MAX_REASON_BYTES: usize = 1_000;

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/withdrawals", post(withdraw)).route("/api/withdrawals/restore", post(restore))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct NewWithdrawal {
    key: String,
    stage: String,
    /// The result that the person looked at.
    result_id: String,
    reason: String,
    /// Who says so; where people sign in the token does, whatever stands here.
    reviewer: String,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Restoration {
    key: String,
    reason: String,
    reviewer: String,
}

async fn withdraw(
    State(dashboard): State<Arc<Dashboard>>,
    caller: Option<Extension<Caller>>,
    JsonBody(new): JsonBody<NewWithdrawal>,
) -> Result<Json<Value>, Problem> {
    let by = reviewer_of(caller, &new.reviewer)?;
    let reason = checked_reason(&new.reason)?;
    if !dashboard.stages.contains(&new.stage) {
        return Err(wrong("stage", &new.stage, &format!("one of: {}", dashboard.stages.join(", "))));
    }
    let known = dashboard.table.image(&dashboard.buckets.input, &new.key, &dashboard.stages).await?;
    let Some(record) = known.results.iter().find(|record| record.stage == new.stage) else {
        let detail = format!("the stage {} has no result of {:?}", new.stage, shown(&new.key));
        return Err(Problem::not_found(detail));
    };
    if record.result_id != new.result_id {
        return Err(other_result(&new.key, &new.result_id, Some(&record.result_id)));
    }
    let version = record.image.object_version().to_owned();
    let in_force = known.withdrawal.filter(|withdrawal| withdrawal.is_of(&version));
    let appended = dashboard.append(WithdrawalAction::Withdraw, new.key, version, reason, by).await?;
    Ok(Json(json!({ "withdrawal": appended.or(in_force) })))
}

async fn restore(
    State(dashboard): State<Arc<Dashboard>>,
    caller: Option<Extension<Caller>>,
    JsonBody(Restoration { key, reason, reviewer }): JsonBody<Restoration>,
) -> Result<Json<Value>, Problem> {
    let by = reviewer_of(caller, &reviewer)?;
    let reason = checked_reason(&reason)?;
    let known = dashboard.table.image(&dashboard.buckets.input, &key, &dashboard.stages).await?;
    let withdrawn = known.results.iter().find(|record| record.withdrawn.is_some());
    let Some(version) = withdrawn.map(|record| record.image.object_version().to_owned()) else {
        let detail = format!("{:?} is not withdrawn: there is nothing to bring back", shown(&key));
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    let restored = dashboard.append(WithdrawalAction::Restore, key, version, reason, by).await?;
    Ok(Json(json!({ "withdrawal": restored })))
}

impl Dashboard {
    /// Appends what a person did to an upload, and returns it unless it was so already.
    async fn append(
        &self,
        action: WithdrawalAction,
        key: String,
        object_version: String,
        reason: String,
        Reviewer { name: by, id: by_id }: Reviewer,
    ) -> Result<Option<Withdrawal>, Problem> {
        let bucket = self.buckets.input.clone();
        let slide = slide_of_key(&key);
        let new =
            Withdrawal { bucket, key, slide, action, reason, by, by_id, at: Utc::now(), object_version };
        let is_change = self.writer.append_withdrawal(&new, &self.stages).await;
        let is_change = is_change.map_err(|error| match &error {
            StoreError::NotCurrent { .. } => Problem::new(StatusCode::CONFLICT, error.to_string()),
            _ => error.into(),
        })?;
        Ok(is_change.then_some(new))
    }
}

fn checked_reason(reason: &str) -> Result<String, Problem> {
    let text = reason.trim();
    if text.is_empty() || text.len() > MAX_REASON_BYTES || text.chars().any(char::is_control) {
        let expected = format!("a sentence of 1 to {MAX_REASON_BYTES} bytes without control characters");
        return Err(wrong("reason", reason, &expected));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_text() {
        assert_eq!(checked_reason(" moved to slide 8 ").unwrap(), "moved to slide 8");
        for wrong in ["", "  ", "a\nb", "a\0", &"x".repeat(1_001)] {
            assert_eq!(checked_reason(wrong).unwrap_err().parameter.as_deref(), Some("reason"));
        }
    }
}
