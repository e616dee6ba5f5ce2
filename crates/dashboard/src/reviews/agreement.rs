//! How often reviewers agree with each model, with its interval and by label.
//!
//! It never counts what was taken back, nor a rejected image, of which the model said nothing. `reviewed` is the sum of
//! the matrix, `agreed` that of its diagonal.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::Dashboard;
use crate::request::parameters::{Query, Stage, Time, wrong};
use crate::request::problem::Problem;
use giemsa_core::record::ModelInfo;
use giemsa_core::statistics::wilson_interval;
use giemsa_store::Review;

/// Range unless it is asked otherwise.
const DEFAULT_DAYS: i64 = 30;

#[derive(Debug, Serialize)]
struct AgreementByModel {
    stage: String,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    models: Vec<Agreement>,
}

/// What reviewers said of one model's answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Agreement {
    model: ModelInfo,
    reviewed: u64,
    agreed: u64,
    agreement_percent: Option<f64>,
    /// 95 % Wilson interval.
    interval_percent: Option<(f64, f64)>,
    /// How many images by the model's label and then by the verdict.
    matrix: BTreeMap<String, BTreeMap<String, u64>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct AgreementQuery {
    stage: Option<Stage>,
    /// Reviews from then on.
    from: Option<Time>,
    /// Reviews before then.
    until: Option<Time>,
}

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/agreement", get(agreement))
}

async fn agreement(
    State(dashboard): State<Arc<Dashboard>>,
    Query(AgreementQuery { stage, from, until }): Query<AgreementQuery>,
) -> Result<Json<AgreementByModel>, Problem> {
    let stage = dashboard.stage("stage", stage)?;
    let until = until.map_or_else(Utc::now, |Time(until)| until);
    let from = from.map_or_else(|| until - TimeDelta::days(DEFAULT_DAYS), |Time(from)| from);
    if from >= until {
        return Err(wrong("from", &from.to_rfc3339(), "a time before `until`"));
    }
    let reviewed = dashboard.reviewed(from, until, |review| review.stage.as_deref() == Some(&stage)).await?;
    Ok(Json(AgreementByModel { stage, from, until, models: by_model(reviewed) }))
}

/// The agreement with each model, most reviewed first.
fn by_model(reviewed: Vec<Review>) -> Vec<Agreement> {
    let mut models: BTreeMap<String, Agreement> = BTreeMap::new();
    for Review { model, predicted, label, .. } in reviewed {
        let (Some(model), Some(predicted)) = (model, predicted) else { continue };
        let agreement = models.entry(model.sha256.clone()).or_insert_with(|| Agreement {
            model,
            reviewed: 0,
            agreed: 0,
            agreement_percent: None,
            interval_percent: None,
            matrix: BTreeMap::new(),
        });
        agreement.reviewed += 1;
        agreement.agreed += u64::from(predicted == label);
        *agreement.matrix.entry(predicted).or_default().entry(label).or_default() += 1;
    }
    let mut models: Vec<Agreement> = models.into_values().collect();
    for model in &mut models {
        model.agreement_percent = Some(100.0 * model.agreed as f64 / model.reviewed as f64);
        let interval = wilson_interval(model.agreed, model.reviewed);
        model.interval_percent = interval.map(|(low, high)| (100.0 * low, 100.0 * high));
    }
    models.sort_by_key(|model| std::cmp::Reverse(model.reviewed));
    models
}

#[cfg(test)]
mod tests {
    use super::*;
    use giemsa_store::ReviewAction;

    fn review(sha256: &str, predicted: Option<&str>, label: &str) -> Review {
        Review {
            bucket: "b".into(),
            key: "s/k".into(),
            slide: "s".into(),
            stage: Some("prod".into()),
            action: ReviewAction::Correct,
            label: label.into(),
            note: None,
            reviewer: "ada".into(),
            reviewer_id: None,
            reviewed_at: DateTime::UNIX_EPOCH,
            object_version: "1".into(),
            result_id: None,
            predicted: predicted.map(str::to_owned),
            model: Some(ModelInfo { name: "m".into(), version: "1".into(), sha256: sha256.into() }),
        }
    }

    #[test]
    fn each_model_has_its_own_agreement() {
        let mut reviews = vec![review("b", Some("x"), "x"), review("a", None, "x")];
        reviews.extend((0..81).map(|_| review("a", Some("x"), "x")));
        reviews.extend((81..263).map(|_| review("a", Some("x"), "y")));
        let models = by_model(reviews);
        assert_eq!(models.len(), 2);
        let first = &models[0];
        assert_eq!((first.model.sha256.as_str(), first.reviewed, first.agreed), ("a", 263, 81));
        assert_eq!(first.matrix["x"], [("x".to_owned(), 81), ("y".to_owned(), 182)].into());
        // Newcombe 1998, table I: 81 of 263.
        let (low, high) = first.interval_percent.unwrap();
        assert!((low - 25.53).abs() < 0.01 && (high - 36.62).abs() < 0.01, "{low} {high}");
        assert_eq!(models[1].agreement_percent, Some(100.0));
    }
}
