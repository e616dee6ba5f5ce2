//! Which uploads of a slide have no answer yet: the folder in the input bucket against the current results.
//!
//! It never trusts a count: two numbers can be equal while an image is missing. An upload counts as answered only if
//! the current result of its key is of this very content.

use aws_sdk_s3::types::EncodingType;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::Dashboard;
use crate::request::problem::Problem;
use giemsa_core::object::{ObjectRef, key_prefixes_of_slide, slide_of_key};
use giemsa_store::{BATCH_KEYS, CurrentResult, listed_key};

/// Unanswered images that are named; all are counted.
const NAMED_IMAGES: usize = 100;

/// Requests to the table at once.
const CONCURRENCY: usize = 4;

/// What is open of a slide.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Unanswered {
    /// Images in the slide's folder.
    pub uploads: u64,
    /// Those of them without an answer of the stage.
    pub unanswered: u64,
    /// Those that count in the figure of the slide, be it by the answer to an earlier upload of their key.
    pub counted: u64,
    /// The first 100 of those without an answer, by key.
    pub unanswered_images: Vec<UnansweredImage>,
}

/// An upload without an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UnansweredImage {
    key: String,
    uploaded_at: Option<DateTime<Utc>>,
    size_bytes: u64,
    /// What went wrong at the last try; absent if it was not tried, or is being tried for the first time.
    reason: Option<String>,
}

struct Listed {
    key: String,
    etag: String,
    size_bytes: u64,
    uploaded_at: Option<DateTime<Utc>>,
}

/// Uploads of a batch without an answer, and how many of all count.
struct Open<'a> {
    images: Vec<&'a Listed>,
    counted: u64,
}

impl Listed {
    /// Whether `result` answers the upload that is listed. A listing names no versions: the same bytes uploaded again are
    /// another version with the same ETag, and a later time.
    fn is_answered_by(&self, result: &CurrentResult) -> bool {
        let is_earlier_version = result.version_id.is_some()
            && self.uploaded_at.is_some_and(|at| result.uploaded_at.timestamp() < at.timestamp());
        result.etag.as_deref() == Some(&self.etag) && !is_earlier_version && !result.is_gone()
    }
}

impl Dashboard {
    /// What is open of a slide in a stage; images are named only `with_names`.
    ///
    /// # Errors
    /// 503 if S3 or the table do not answer.
    pub(crate) async fn unanswered(
        &self,
        stage: &str,
        slide: &str,
        with_names: bool,
    ) -> Result<Unanswered, Problem> {
        let mut found = Unanswered::default();
        for prefix in key_prefixes_of_slide(slide) {
            self.add_open_below(&mut found, &prefix, stage, slide, with_names).await?;
        }
        let keys = found.unanswered_images.iter().map(|image| image.key.clone());
        let reasons: Vec<_> = keys.map(|key| self.last_failure(stage, key)).collect();
        let reasons: Vec<Option<String>> = stream::iter(reasons).buffered(CONCURRENCY).try_collect().await?;
        for (image, reason) in found.unanswered_images.iter_mut().zip(reasons) {
            image.reason = reason;
        }
        Ok(found)
    }

    /// Adds what is open of a slide below one of the prefixes that its keys may have.
    async fn add_open_below(
        &self,
        found: &mut Unanswered,
        prefix: &str,
        stage: &str,
        slide: &str,
        with_names: bool,
    ) -> Result<(), Problem> {
        let delimiter = if prefix.ends_with('\\') { "\\" } else { "/" };
        let request =
            self.s3.list_objects_v2().bucket(&self.buckets.input).prefix(prefix).delimiter(delimiter);
        let mut pages = request.encoding_type(EncodingType::Url).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.listing_failed(prefix, &error))?;
            let listed: Vec<Listed> = page
                .contents()
                .iter()
                .filter_map(|object| self.listed(page.encoding_type(), object, slide))
                .collect();
            found.uploads += listed.len() as u64;
            let batches: Vec<_> = listed.chunks(BATCH_KEYS).map(|batch| self.open_of(stage, batch)).collect();
            let open: Vec<Open<'_>> = stream::iter(batches).buffered(CONCURRENCY).try_collect().await?;
            found.counted += open.iter().map(|open| open.counted).sum::<u64>();
            for listed in open.into_iter().flat_map(|open| open.images) {
                found.unanswered += 1;
                if with_names && found.unanswered_images.len() < NAMED_IMAGES {
                    found.unanswered_images.push(UnansweredImage {
                        key: listed.key.clone(),
                        uploaded_at: listed.uploaded_at,
                        size_bytes: listed.size_bytes,
                        reason: None,
                    });
                }
            }
        }
        Ok(())
    }

    /// Why the last try of a key failed.
    async fn last_failure(&self, stage: &str, key: String) -> Result<Option<String>, Problem> {
        let notes = self.table.failures(&self.buckets.input, &key, stage).await?;
        Ok(notes.into_iter().max_by_key(|note| note.last_failed_at).map(|note| note.reason))
    }

    /// Those of a batch that have no answer.
    async fn open_of<'a>(&self, stage: &str, batch: &'a [Listed]) -> Result<Open<'a>, Problem> {
        let keys: Vec<&str> = batch.iter().map(|listed| listed.key.as_str()).collect();
        let results = self.table.current_results(&self.buckets.input, &keys, stage).await?;
        let is_open =
            |listed: &&Listed| results.get(&listed.key).is_none_or(|result| !listed.is_answered_by(result));
        Ok(Open {
            images: batch.iter().filter(is_open).collect(),
            counted: results.values().filter(|result| !result.is_withdrawn).count() as u64,
        })
    }

    fn listed(
        &self,
        encoding: Option<&EncodingType>,
        object: &aws_sdk_s3::types::Object,
        slide: &str,
    ) -> Option<Listed> {
        let key = listed_key(encoding, object.key()?);
        let size_bytes = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let is_upload = ObjectRef::new(&self.buckets.input, &key).skip_reason(Some(size_bytes)).is_none();
        // `a//` lies in the folder `a/`, whose name differs from that of `a`.
        (is_upload && slide_of_key(&key) == slide).then(|| Listed {
            key,
            etag: object.e_tag().unwrap_or_default().trim_matches('"').to_owned(),
            size_bytes,
            uploaded_at: object
                .last_modified()
                .and_then(|time| DateTime::from_timestamp(time.secs(), time.subsec_nanos())),
        })
    }

    fn listing_failed(&self, folder: &str, error: &dyn std::error::Error) -> Problem {
        let detail = format!(
            "s3://{}/{folder} cannot be listed: {}; the permission needed is s3:ListBucket on the bucket",
            self.buckets.input,
            aws_sdk_s3::error::DisplayErrorContext(error)
        );
        Problem::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use giemsa_core::record::GONE_CODE;

    #[test]
    fn only_a_result_of_the_upload_that_is_there_is_an_answer() {
        let at = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let listed =
            Listed { key: "k".to_owned(), etag: "e".to_owned(), size_bytes: 1, uploaded_at: Some(at) };
        let result = |version_id: Option<&str>, uploaded_at, reject_code: Option<&str>| CurrentResult {
            version_id: version_id.map(str::to_owned),
            etag: Some("e".to_owned()),
            uploaded_at,
            reject_code: reject_code.map(str::to_owned),
            model_sha256: "m1".to_owned(),
            is_withdrawn: false,
        };
        let earlier = at - TimeDelta::seconds(1);
        for (result, expected) in [
            (result(None, at, None), true),
            (result(Some("v2"), at, Some("corrupt")), true),
            (result(Some("v2"), at, Some(GONE_CODE)), false),
            (result(Some("v1"), earlier, None), false),
            (CurrentResult { etag: Some("other".to_owned()), ..result(None, at, None) }, false),
        ] {
            assert_eq!(listed.is_answered_by(&result), expected, "{result:?}");
        }
    }
}
