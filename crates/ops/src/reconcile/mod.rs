//! Compares what was uploaded with what is answered, page by page.
//!
//! It never holds more than two pages and never changes anything. Every upload of a page comes out in exactly one
//! state, and in one that is fine only if a terminal result of it was found, or it was found to exist no more.

mod notice;
mod source;
mod state;

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use crate::inventory::InventoryError;
use giemsa_config::Config;
use giemsa_core::object::ObjectRef;
use giemsa_store::{
    BATCH_KEYS, CurrentResult, FailureNote, QueryError, ResultFinder, TableReader, Upload, UploadListing,
    UploadVersion, UploadsError,
};

pub use notice::notification_of;
pub use source::{Position, Source, SourcePage};
pub use state::{Counts, Finding, State};
use state::{Judgement, judge};

/// Batches of the table in flight at once.
const TABLE_CONCURRENCY: usize = 4;

/// Single uploads that are looked into at once.
const LOOK_CONCURRENCY: usize = 16;

/// Which uploads are looked at, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// The stage.
    pub stage: String,
    /// Keys begin with this.
    pub prefix: String,
    /// First upload time.
    pub since: Option<DateTime<Utc>>,
    /// An upload younger than this may still be in the queue.
    pub grace: TimeDelta,
    /// Whether the listing may be old, so that S3 is asked before an upload is called unanswered.
    pub is_old_listing: bool,
}

/// Why uploads could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// S3 failed.
    #[error(transparent)]
    Uploads(#[from] UploadsError),
    /// The table failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The inventory cannot be read.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
}

/// What became of one page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckedPage {
    /// Each upload in scope, in the order of the listing.
    pub findings: Vec<Finding>,
    /// Folder markers and own output, which the classifier leaves out as well.
    pub left_out: u64,
}

/// Compares uploads with results.
#[derive(Debug)]
pub struct Reconciler {
    config: Config,
    scope: Scope,
    listing: UploadListing,
    table: TableReader,
    results: ResultFinder,
}

impl Reconciler {
    /// Compares the uploads of `listing`'s bucket, which has to be the input bucket of `config`.
    pub fn new(config: &Config, scope: Scope, listing: UploadListing, table: TableReader) -> Self {
        let results = ResultFinder::new(listing.client(), &config.results_bucket, &config.results_prefix);
        Self { config: config.clone(), scope, listing, table, results }
    }

    /// Finds the state of each upload of a page; uploads out of scope are passed over.
    ///
    /// `now` decides which uploads are young enough to be waiting.
    ///
    /// # Errors
    /// [`ReconcileError`] if anything could not be looked up; then nothing is said of the page.
    pub async fn check(
        &self,
        uploads: Vec<Upload>,
        now: DateTime<Utc>,
    ) -> Result<CheckedPage, ReconcileError> {
        let in_scope = |upload: &Upload| {
            upload.key.starts_with(&self.scope.prefix)
                && self.scope.since.is_none_or(|since| upload.uploaded_at >= since)
        };
        let shown: BTreeSet<String> =
            uploads.iter().filter(|upload| upload.is_latest).map(|upload| upload.key.clone()).collect();
        let first = uploads.first().map(|upload| upload.key.clone());
        let (mut left_out, mut wanted) = (0, Vec::new());
        for upload in uploads.into_iter().filter(in_scope) {
            if self.is_left_out(&upload) { left_out += 1 } else { wanted.push(upload) }
        }
        let current = self.current_results(&wanted).await?;
        for result in current.values() {
            self.results.learn_model(&result.model_sha256);
        }
        let current = &current;
        let looks: Vec<_> = wanted
            .into_iter()
            .map(|upload| {
                let result = current.get(&upload.key);
                self.state_of(upload, result, now)
            })
            .collect();
        // In the order of the listing, so that what is printed can be compared with it.
        let mut findings: Vec<Finding> = stream::iter(looks).buffered(LOOK_CONCURRENCY).try_collect().await?;
        self.explain(&mut findings).await?;
        for finding in
            findings.iter_mut().filter(|finding| !self.scope.is_old_listing && !finding.upload.is_latest)
        {
            let key = finding.upload.key.as_str();
            let counts = current.get(key).is_some_and(|result| !result.is_withdrawn);
            if counts && matches!(finding.state, State::Answered | State::Rejected) && !shown.contains(key) {
                // A newer upload of the first key may be on the page before.
                let may_be_before = first.as_deref() == Some(key);
                finding.is_deleted = !may_be_before || self.listing.newest(key).await?.is_none();
            }
        }
        Ok(CheckedPage { findings, left_out })
    }

    fn is_left_out(&self, upload: &Upload) -> bool {
        let bucket = &self.config.input_bucket;
        ObjectRef::new(bucket, &upload.key).skip_reason(Some(upload.size_bytes)).is_some()
            || self.config.is_own_output(bucket, &upload.key)
    }

    async fn current_results(
        &self,
        uploads: &[Upload],
    ) -> Result<HashMap<String, CurrentResult>, ReconcileError> {
        // Several versions of a key are one question.
        let keys: BTreeSet<&str> = uploads.iter().map(|upload| upload.key.as_str()).collect();
        let keys: Vec<&str> = keys.into_iter().collect();
        let batches: Vec<_> = keys
            .chunks(BATCH_KEYS)
            .map(|batch| self.table.current_results(&self.config.input_bucket, batch, &self.scope.stage))
            .collect();
        let mut answers = stream::iter(batches).buffer_unordered(TABLE_CONCURRENCY);
        let mut current = HashMap::with_capacity(keys.len());
        while let Some(answer) = answers.try_next().await? {
            current.extend(answer);
        }
        Ok(current)
    }

    async fn state_of(
        &self,
        upload: Upload,
        current: Option<&CurrentResult>,
        now: DateTime<Utc>,
    ) -> Result<Finding, ReconcileError> {
        let judgement = match judge(&upload, current) {
            Judgement::Open { .. } | Judgement::LookAgain if self.scope.is_old_listing => {
                Judgement::LookAgain
            }
            judgement => judgement,
        };
        match judgement {
            Judgement::Fine { state, reject_code } => Ok(Finding::new(upload, state).rejected(reject_code)),
            Judgement::Replaced => self.replaced(upload, now).await,
            Judgement::Open { is_outdated } => Ok(self.open(upload, is_outdated, current, now)),
            Judgement::LookAgain | Judgement::CalledGone => self.look_again(upload, current, now).await,
        }
    }

    /// An upload that S3 no longer shows under its key, and that the table does not show either.
    async fn replaced(&self, upload: Upload, now: DateTime<Utc>) -> Result<Finding, ReconcileError> {
        let bucket = &self.config.input_bucket;
        if self.results.has_result(bucket, &self.scope.stage, &upload).await? {
            return Ok(Finding::new(upload, State::Replaced));
        }
        if self.scope.is_old_listing && self.listing.look(&upload).await?.is_none() {
            return Ok(Finding::new(upload, State::Gone));
        }
        Ok(self.open(upload, false, None, now))
    }

    /// Asks S3 what there is now, where listing and table cannot say which of two uploads is the newer one.
    async fn look_again(
        &self,
        upload: Upload,
        current: Option<&CurrentResult>,
        now: DateTime<Utc>,
    ) -> Result<Finding, ReconcileError> {
        let newest = self.listing.newest(&upload.key).await?;
        if upload.version_id().is_some() {
            return self.look_at_version(upload, newest, current, now).await;
        }
        let Some(newest) = newest else {
            return Ok(Finding::new(upload, State::Gone));
        };
        if upload.version == UploadVersion::Null && newest.version != UploadVersion::Null {
            // The bucket keeps versions since, and this upload as one of them.
            return self.replaced(Upload { is_latest: false, ..upload }, now).await;
        }
        let is_same = upload.etag == newest.etag;
        match judge(&newest, current) {
            Judgement::Fine { state, reject_code } if is_same => {
                Ok(Finding::new(newest, state).rejected(reject_code))
            }
            // Overwritten since it was listed, and what took its place is answered.
            Judgement::Fine { .. } => Ok(Finding::new(upload, State::Replaced)),
            Judgement::CalledGone => Ok(self.back(newest, now)),
            Judgement::Open { is_outdated } => Ok(self.open(newest, is_outdated, current, now)),
            // S3 has just said which is the newest, and the table's record is not of it.
            Judgement::LookAgain | Judgement::Replaced => Ok(self.open(newest, true, current, now)),
        }
    }

    async fn look_at_version(
        &self,
        upload: Upload,
        newest: Option<Upload>,
        current: Option<&CurrentResult>,
        now: DateTime<Utc>,
    ) -> Result<Finding, ReconcileError> {
        let is_newest = newest.is_some_and(|newest| newest.version == upload.version);
        if judge(&upload, current) == Judgement::CalledGone {
            let is_there = is_newest || self.listing.look(&upload).await?.is_some();
            return Ok(if is_there { self.back(upload, now) } else { Finding::new(upload, State::Gone) });
        }
        if is_newest {
            return Ok(self.open(upload, current.is_some(), current, now));
        }
        self.replaced(Upload { is_latest: false, ..upload }, now).await
    }

    /// An upload that the table calls gone, and that is there.
    fn back(&self, upload: Upload, now: DateTime<Utc>) -> Finding {
        Finding { is_back: true, ..self.open(upload, false, None, now) }
    }

    fn open(
        &self,
        upload: Upload,
        is_outdated: bool,
        current: Option<&CurrentResult>,
        now: DateTime<Utc>,
    ) -> Finding {
        let state = if now - upload.uploaded_at < self.scope.grace {
            State::Waiting
        } else if is_outdated {
            State::Outdated
        } else {
            State::Unanswered
        };
        let mut finding = Finding::new(upload, state);
        finding.shown_instead = current.filter(|_| is_outdated).map(|result| result.uploaded_at);
        finding
    }

    /// Adds what the classifier noted of its failures.
    async fn explain(&self, findings: &mut [Finding]) -> Result<(), ReconcileError> {
        let open: Vec<(String, String)> = findings
            .iter()
            .filter(|finding| !finding.state.is_fine())
            .map(|finding| (finding.upload.key.clone(), finding.upload.object_version().to_owned()))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut reasons: HashMap<(String, String), FailureNote> = HashMap::new();
        for batch in open.chunks(BATCH_KEYS) {
            let pairs: Vec<(&str, &str)> = batch.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let bucket = &self.config.input_bucket;
            reasons.extend(self.table.failures_of(bucket, &pairs, &self.scope.stage).await?);
        }
        for finding in findings.iter_mut().filter(|finding| !finding.state.is_fine()) {
            let upload = &finding.upload;
            let name = (upload.key.clone(), upload.object_version().to_owned());
            finding.failure = reasons.get(&name).cloned();
        }
        Ok(())
    }
}
