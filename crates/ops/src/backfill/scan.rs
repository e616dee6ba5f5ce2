//! Which images of the input bucket have no answer, page by page.
//!
//! It never holds more than a page, and takes only the current version of each key. An image that the table says is
//! answered as asked is never given out; every other one is, once.

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::BackfillError;
use giemsa_config::Config;
use giemsa_core::object::ObjectRef;
use giemsa_store::{BATCH_KEYS, CurrentResult, TableReader, Upload, UploadListing, UploadMarker};

/// Questions to the table that are under way at once.
const TABLE_CONCURRENCY: usize = 4;

/// Images with a result that are named, of each question to the table.
const SHOWN_WITH_RESULT: usize = 20;

/// Which images are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// The stage whose answers count.
    pub stage: String,
    /// Input bucket.
    pub bucket: String,
    /// Key prefix; empty for the whole bucket.
    pub prefix: String,
    /// First upload time, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Last upload time, exclusive.
    #[serde(skip)]
    pub until: Option<DateTime<Utc>>,
    /// Lower-case hexadecimal SHA-256 of the model whose answers count; none for any model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
}

impl Selection {
    fn holds_time(&self, at: DateTime<Utc>) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }

    /// Whether the current result of a key answers its current upload as asked.
    fn is_answered(&self, upload: &Upload, result: Option<&CurrentResult>) -> bool {
        result.is_some_and(|result| {
            upload.is_answered_by(result)
                && self.model_sha256.as_ref().is_none_or(|model| *model == result.model_sha256)
        })
    }
}

/// One page of a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScannedPage {
    /// Images that are selected by key and time.
    pub images: u64,
    /// Those of them that have no answer as asked, in the order of keys.
    pub pending: Vec<Upload>,
    /// Some of those that have a result, for a look at how long they took.
    pub with_result: Vec<String>,
}

/// What a scan found so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Images that are selected by key and time.
    pub images: u64,
    /// Those of them that have no answer as asked.
    pub pending: u64,
}

impl Totals {
    /// Adds a page.
    pub fn add(&mut self, page: &ScannedPage) {
        self.images += page.images;
        self.pending += page.pending.len() as u64;
    }
}

/// A walk over the input bucket.
#[derive(Debug)]
pub struct Scan {
    listing: UploadListing,
    table: TableReader,
    config: Config,
    selection: Selection,
    /// Where the next page starts; none at the start.
    after: Option<UploadMarker>,
    is_over: bool,
}

impl Scan {
    /// Begins at the first key.
    ///
    /// # Errors
    /// [`BackfillError::Listing`] if the bucket does not say whether it keeps versions.
    pub async fn open(
        s3: aws_sdk_s3::Client,
        table: TableReader,
        config: Config,
        selection: Selection,
    ) -> Result<Self, BackfillError> {
        let listing = UploadListing::open(s3, &selection.bucket, &selection.prefix).await?;
        Ok(Self { listing, table, config, selection, after: None, is_over: false })
    }

    /// The bucket it walks over.
    pub fn bucket(&self) -> &str {
        &self.selection.bucket
    }

    /// The next page, or none after the last.
    ///
    /// # Errors
    /// [`BackfillError`] if the bucket cannot be listed or the table not be read; asked again, it tries the same page.
    pub async fn next_page(&mut self) -> Result<Option<ScannedPage>, BackfillError> {
        if self.is_over {
            return Ok(None);
        }
        let (uploads, next) = self.listing.page(self.after.as_ref()).await?;
        let uploads: Vec<Upload> = uploads.into_iter().filter(|upload| self.selects(upload)).collect();
        let answers = stream::iter(uploads.chunks(BATCH_KEYS).map(|chunk| self.look_up(chunk)));
        let pages: Vec<ScannedPage> = answers.buffered(TABLE_CONCURRENCY).try_collect().await?;
        let mut page = ScannedPage { images: uploads.len() as u64, ..ScannedPage::default() };
        for part in pages {
            page.pending.extend(part.pending);
            page.with_result.extend(part.with_result);
        }
        self.is_over = next.is_none();
        self.after = next;
        Ok(Some(page))
    }

    fn selects(&self, upload: &Upload) -> bool {
        let object = ObjectRef::new(&self.selection.bucket, &upload.key);
        upload.is_latest
            && self.selection.holds_time(upload.uploaded_at)
            && object.skip_reason(Some(upload.size_bytes)).is_none()
            && !self.config.is_own_output(&object.bucket, &object.key)
    }

    /// What of some uploads is not answered.
    async fn look_up(&self, uploads: &[Upload]) -> Result<ScannedPage, BackfillError> {
        let Selection { bucket, stage, .. } = &self.selection;
        let keys: Vec<&str> = uploads.iter().map(|upload| upload.key.as_str()).collect();
        let results = self.table.current_results(bucket, &keys, stage).await?;
        let pending = uploads
            .iter()
            .filter(|upload| !self.selection.is_answered(upload, results.get(&upload.key)))
            .cloned();
        let with_result = results.keys().take(SHOWN_WITH_RESULT).cloned().collect();
        Ok(ScannedPage { images: uploads.len() as u64, pending: pending.collect(), with_result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use giemsa_core::record::GONE_CODE;
    use giemsa_store::UploadVersion;

    #[test]
    fn only_a_result_of_this_version_and_model_is_an_answer() {
        let at = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let selection = |model: Option<&str>| Selection {
            stage: "prod".to_owned(),
            bucket: "b".to_owned(),
            prefix: String::new(),
            since: Some(at),
            until: None,
            model_sha256: model.map(str::to_owned),
        };
        let upload = |version: UploadVersion| Upload {
            key: "k".to_owned(),
            version,
            etag: "e".to_owned(),
            size_bytes: 1,
            uploaded_at: at,
            is_latest: true,
        };
        let result = |version_id: Option<&str>, etag: &str| CurrentResult {
            version_id: version_id.map(str::to_owned),
            etag: Some(etag.to_owned()),
            uploaded_at: at,
            reject_code: None,
            model_sha256: "m1".to_owned(),
            is_withdrawn: false,
        };
        let (versioned, plain) = (upload(UploadVersion::Id("v2".to_owned())), upload(UploadVersion::Null));
        for (upload, result, model, expected) in [
            (&versioned, Some(result(Some("v2"), "e")), None, true),
            (&versioned, Some(result(Some("v2"), "e")), Some("m1"), true),
            (&versioned, Some(result(Some("v2"), "e")), Some("m2"), false),
            (&versioned, Some(result(Some("v1"), "e")), None, false),
            (&versioned, None, None, false),
            (&plain, Some(result(None, "e")), None, true),
            (&plain, Some(result(None, "other")), None, false),
        ] {
            assert_eq!(
                selection(model).is_answered(upload, result.as_ref()),
                expected,
                "{result:?} {model:?}"
            );
        }
        let gone = CurrentResult { reject_code: Some(GONE_CODE.to_owned()), ..result(Some("v2"), "e") };
        assert!(!selection(None).is_answered(&versioned, Some(&gone)), "it is there");
        assert!(selection(None).holds_time(at));
        assert!(!selection(None).holds_time(at - chrono::TimeDelta::seconds(1)));
        assert!(!Selection { until: Some(at), ..selection(None) }.holds_time(at));
    }
}
