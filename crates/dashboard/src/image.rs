//! One image: what each stage says of it now, what was said of its earlier versions and by other models, its reviews.
//!
//! The history is of this very key, and what is still to be answered is named with its reason.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::pictures::pyramids::DeepZoom;
use crate::request::parameters::{Key, Query, shown};
use crate::request::problem::Problem;
use crate::{Buckets, Dashboard};
use giemsa_core::record::{ModelInfo, Record, Status};
use giemsa_store::{FailureNote, ResultFinder, Review, Upload, UploadListing, Withdrawal};

/// Uploads of a key whose results are looked for, the newest.
const MAX_UPLOADS: usize = 20;

/// Results of one upload and stage that are read: more would be twenty models in turn.
const MAX_RESULTS_OF_UPLOAD: usize = 20;

/// Uploads whose results are looked for at once.
const CONCURRENCY: usize = 8;

/// One result of the past or the present.
#[derive(Debug, Serialize)]
struct PastResult {
    stage: String,
    version_id: Option<String>,
    uploaded_at: Option<DateTime<Utc>>,
    result_id: String,
    status: Status,
    label: Option<String>,
    confidence: Option<f64>,
    model: ModelInfo,
}

#[derive(Debug, Serialize)]
struct ImageAnswer {
    bucket: String,
    key: String,
    results: Vec<Record>,
    history: Vec<PastResult>,
    reviews: Vec<Review>,
    verdict: Option<Review>,
    withdrawals: Vec<Withdrawal>,
    /// Keys of other images of the slide that are the same bytes.
    same_bytes: Vec<String>,
    failing: Vec<FailureNote>,
    deep_zoom: Option<DeepZoom>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageQuery {
    key: Key,
}

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/image", get(image))
}

async fn image(
    State(dashboard): State<Arc<Dashboard>>,
    Query(ImageQuery { key }): Query<ImageQuery>,
) -> Result<Json<ImageAnswer>, Problem> {
    let key = key.0.as_str();
    let bucket = &dashboard.buckets.input;
    let known = dashboard.table.image(bucket, key, &dashboard.stages);
    let (known, uploads) = tokio::join!(known, dashboard.uploads_of(key));
    let (known, uploads) = (known?, uploads?);
    if known.results.is_empty() && known.reviews.is_empty() && uploads.is_empty() {
        let detail =
            format!("there is no image {:?}: it was neither uploaded to {bucket} nor answered", shown(key));
        return Err(Problem::not_found(detail));
    }
    let history = dashboard.history(&uploads).await?;
    let newest = known.results.iter().max_by_key(|record| record.image.uploaded_at);
    let same_bytes = match known.results.iter().find(|record| record.stage == dashboard.stages[0]) {
        Some(record) => dashboard.table.same_content(record).await?,
        None => Vec::new(),
    };
    Ok(Json(ImageAnswer {
        bucket: bucket.clone(),
        key: key.to_owned(),
        deep_zoom: newest.and_then(|record| {
            let image = &record.image;
            DeepZoom::of(image.width_px?, image.height_px?, image.format.as_deref()?)
        }),
        results: known.results,
        history,
        reviews: known.reviews,
        verdict: known.verdict,
        withdrawals: known.withdrawals,
        same_bytes,
        failing: known.failures,
    }))
}

impl Dashboard {
    /// The uploads of a key, newest first, at most [`MAX_UPLOADS`].
    async fn uploads_of(&self, key: &str) -> Result<Vec<Upload>, Problem> {
        let listing = UploadListing::open(self.s3.clone(), &self.buckets.input, key).await?;
        // A key comes before all longer ones, so it is on the first page or nowhere.
        let (mut uploads, _) = listing.page(None).await?;
        uploads.retain(|upload| upload.key == key);
        uploads.sort_by_key(|upload| std::cmp::Reverse((upload.is_latest, upload.uploaded_at)));
        uploads.truncate(MAX_UPLOADS);
        Ok(uploads)
    }

    /// All results of these uploads that the results prefix holds, newest upload first.
    async fn history(&self, uploads: &[Upload]) -> Result<Vec<PastResult>, Problem> {
        let Buckets { results, results_prefix, .. } = &self.buckets;
        let finder = &ResultFinder::new(self.s3.clone(), results, results_prefix);
        let mut looks = Vec::with_capacity(uploads.len() * self.stages.len());
        for upload in uploads {
            for stage in &self.stages {
                looks.push(finder.records_of(stage, upload, MAX_RESULTS_OF_UPLOAD));
            }
        }
        let found: Vec<Vec<Record>> = stream::iter(looks).buffered(CONCURRENCY).try_collect().await?;
        let past = |record: Record| PastResult {
            stage: record.stage,
            version_id: record.image.version_id,
            uploaded_at: record.image.uploaded_at,
            result_id: record.result_id,
            status: record.status,
            label: record.label,
            confidence: record.confidence,
            model: record.model,
        };
        Ok(found.into_iter().flatten().map(past).collect())
    }
}
