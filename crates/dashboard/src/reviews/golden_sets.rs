//! Reviewed images as a golden set, in one click: copied inside S3 to `golden-sets/<name>/<label>/<image>`.
//!
//! It never touches `golden/`, which a person replaces by the command that is answered, and never reads an image's
//! bytes. Each copy is of the version that the reviewer looked at; what cannot be copied is named with its reason; a
//! set that has its `reviews.json` is complete.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::TaggingDirective;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::Dashboard;
use crate::pictures::{NoPicture, Source, failed};
use crate::request::parameters::{JsonBody, wrong};
use crate::request::problem::Problem;
use giemsa_core::object::{MAX_KEY_BYTES, is_system_file};
use giemsa_store::Review;

/// Folder of the model bucket that holds the sets.
const GOLDEN_SETS_PREFIX: &str = "golden-sets";

/// Most images of a set; more would outlive the request.
const MAX_IMAGES: usize = 5_000;

/// Copies at once.
const CONCURRENCY: usize = 8;

/// Images that are named with the reason why they are not in the set.
const MAX_SKIPPED: usize = 100;

/// What the source of a copy may hold as it is.
const IN_COPY_SOURCE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/golden-sets", post(export))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSet {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    from: Option<DateTime<Utc>>,
    #[serde(default)]
    until: Option<DateTime<Utc>>,
}

/// What was copied.
#[derive(Debug, Serialize)]
struct CreatedGoldenSet {
    prefix: String,
    images: u64,
    labels: BTreeMap<String, u64>,
    /// Reviewed images that are not in the set.
    skipped: u64,
    /// The first of them.
    skipped_images: Vec<Skipped>,
    /// Puts the set in the place of `golden/`, by hand.
    command: String,
}

#[derive(Debug, Serialize)]
struct Skipped {
    key: String,
    reason: String,
}

async fn export(
    State(dashboard): State<Arc<Dashboard>>,
    JsonBody(NewSet { name, from, until }): JsonBody<NewSet>,
) -> Result<Json<CreatedGoldenSet>, Problem> {
    let name = match name {
        Some(name) => checked_name(name)?,
        None => Utc::now().format("%Y%m%dT%H%M%SZ").to_string(),
    };
    let until = until.unwrap_or_else(|| Utc::now() + TimeDelta::minutes(1));
    let reviewed = dashboard.reviewed(from.unwrap_or(DateTime::UNIX_EPOCH), until, |_| true).await?;
    if reviewed.is_empty() || reviewed.len() > MAX_IMAGES {
        let detail = format!(
            "{} images were reviewed in this range; expected 1 to {MAX_IMAGES}: review images, or choose another `from` \
             and `until`",
            reviewed.len()
        );
        return Err(Problem::bad_parameter("from", detail));
    }
    let prefix = format!("{GOLDEN_SETS_PREFIX}/{name}/");
    dashboard.require_unused(&prefix).await?;

    let copies = stream::iter(reviewed).map(|review| {
        let (dashboard, prefix) = (dashboard.clone(), prefix.clone());
        async move {
            match dashboard.copy_reviewed(&review, &prefix).await {
                Ok(()) => Ok(Ok(review)),
                Err(NoPicture::Of(reason)) => Ok(Err(Skipped { key: review.key, reason })),
                Err(NoPicture::Failed(problem)) => Err(problem),
            }
        }
    });
    let copies: Vec<Result<Review, Skipped>> = copies.buffered(CONCURRENCY).try_collect().await?;
    let (mut labels, mut skipped, mut in_set) = (BTreeMap::new(), Vec::new(), Vec::new());
    for copy in copies {
        match copy {
            Ok(review) => {
                *labels.entry(review.label.clone()).or_default() += 1;
                in_set.push(review);
            }
            Err(reason) => skipped.push(reason),
        }
    }
    dashboard.write_reviews(&prefix, &in_set).await?;
    let bucket = &dashboard.buckets.models;
    let command =
        format!("aws s3 sync --delete --exclude gate.json s3://{bucket}/{prefix} s3://{bucket}/golden/");
    let (images, skipped_count) = (in_set.len() as u64, skipped.len() as u64);
    skipped.truncate(MAX_SKIPPED);
    Ok(Json(CreatedGoldenSet {
        prefix,
        images,
        labels,
        skipped: skipped_count,
        skipped_images: skipped,
        command,
    }))
}

/// A name that is one folder and needs no quotes in a shell.
fn checked_name(name: String) -> Result<String, Problem> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=64).contains(&name.len()) && name.bytes().all(is_plain) && !name.starts_with(['.', '-']) {
        return Ok(name);
    }
    let expected =
        "1 to 64 letters, digits, hyphens, underscores and dots, beginning with none of the last three";
    Err(wrong("name", &name, expected))
}

impl Dashboard {
    async fn require_unused(&self, prefix: &str) -> Result<(), Problem> {
        let listed =
            self.s3.list_objects_v2().bucket(&self.buckets.models).prefix(prefix).max_keys(1).send().await;
        let listed = listed.map_err(|error| Problem::from(failed(&DisplayErrorContext(&error))))?;
        if listed.contents().is_empty() {
            return Ok(());
        }
        let detail = format!("there is a golden set {prefix} already; expected another name");
        Err(Problem { status: StatusCode::CONFLICT, detail, parameter: Some("name".to_owned()) })
    }

    /// Copies the version of an image that was looked at.
    async fn copy_reviewed(&self, review: &Review, prefix: &str) -> Result<(), NoPicture> {
        let target = format!("{prefix}{}/{}", review.label, review.key);
        let file = review.key.rsplit('/').next().unwrap_or_default();
        if target.len() > MAX_KEY_BYTES {
            let detail =
                format!("its key in the set would have {} bytes; S3 takes {MAX_KEY_BYTES}", target.len());
            return Err(NoPicture::Of(detail));
        }
        if file.starts_with('.')
            || is_system_file(&review.key)
            || review.label.is_empty()
            || review.label.contains('/')
        {
            let detail = "the gate would not take it: its name begins with a dot or is one that systems use, or its label is not a folder name";
            return Err(NoPicture::Of(detail.to_owned()));
        }
        let source = self.find_reviewed(review).await?;
        let mut from = utf8_percent_encode(&format!("{}/{}", self.buckets.input, source.key), IN_COPY_SOURCE)
            .to_string();
        if let Some(version_id) = &source.version_id {
            from.push_str("?versionId=");
            from.extend(utf8_percent_encode(version_id, IN_COPY_SOURCE));
        }
        let copy = self.s3.copy_object().bucket(&self.buckets.models).key(&target).copy_source(from);
        // Tags of the image, if somebody gave it any, would ask for rights of their own.
        let copy = copy.tagging_directive(TaggingDirective::Replace);
        match copy.copy_source_if_match(&source.etag).send().await {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(error.code(), Some("NoSuchKey" | "NoSuchVersion" | "PreconditionFailed")) =>
            {
                Err(NoPicture::Of("the image that was reviewed was replaced or deleted".to_owned()))
            }
            Err(error) => Err(failed(&DisplayErrorContext(&error))),
        }
    }

    /// The image that was looked at: what is there now, or the version of that name.
    async fn find_reviewed(&self, review: &Review) -> Result<Source, NoPicture> {
        let wanted = review.object_version.as_str();
        let gone = || NoPicture::Of("the image that was reviewed was replaced or deleted".to_owned());
        match self.find_image(&review.key, None).await {
            Ok(source) if source.version_id.as_deref().unwrap_or(&source.etag) == wanted => {
                return Ok(source);
            }
            Err(NoPicture::Failed(problem)) => return Err(NoPicture::Failed(problem)),
            Ok(_) | Err(NoPicture::Of(_)) => {}
        }
        match self.find_image(&review.key, Some(wanted)).await {
            Err(NoPicture::Of(_)) => Err(gone()),
            found => found,
        }
    }

    /// Who said so: the last object of a set. Directly under `golden/` it is not an image to the gate.
    async fn write_reviews(&self, prefix: &str, reviews: &[Review]) -> Result<(), Problem> {
        let json = serde_json::to_vec_pretty(reviews).expect("texts and times are JSON");
        let put = self.s3.put_object().bucket(&self.buckets.models).key(format!("{prefix}reviews.json"));
        let put = put.content_type("application/json").body(ByteStream::from(json)).send().await;
        put.map(drop).map_err(|error| failed(&DisplayErrorContext(&error)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_folder() {
        for name in ["2026-11", "v1.2_b", "a"] {
            assert!(checked_name(name.to_owned()).is_ok(), "{name}");
        }
        for name in ["", "..", ".x", "-x", "a/b", "a b", "$(id)", "é", &"x".repeat(65)] {
            assert!(checked_name(name.to_owned()).is_err(), "{name}");
        }
    }
}
