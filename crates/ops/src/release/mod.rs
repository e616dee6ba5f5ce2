//! Promotion and rollback: one stage's model file replaced by another, recorded before and after.
//!
//! It never puts a file in its place that cannot serve, or that production would refuse. The one conditional write of
//! the stage's file decides who of several wins; everything else only tells of it.

mod error;
mod history;

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;

pub use error::ReleaseError;
pub use history::{Event, History, HistoryEntry};

use giemsa_config::model_key;
use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::{GateModel, GateReport, GoldenSummary, Waiver, archive_key, report_key};
use giemsa_core::record::ModelInfo;
use giemsa_model::{Loader, Trial, render_report};
use giemsa_store::{
    BoundedFile, FoundReport, ModelBucket, QueryError, ReleaseEntry, ReleaseKind, ReleaseState, StoredFile,
    TableReader, TableWriter,
};

/// Fewest digits by which a model can be named.
const MIN_DIGEST_DIGITS: usize = 6;

/// Releases models.
#[derive(Debug, Clone)]
pub struct Releaser {
    bucket: ModelBucket,
    reader: TableReader,
    writer: TableWriter,
    loader: Loader,
}

/// Who releases, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// Name of the person or machine.
    pub who: String,
    /// The reason.
    pub why: Option<String>,
    /// Whether to release a model without a passing report; needs a reason.
    pub force: bool,
}

/// What the golden set said of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportState {
    /// The report passed.
    Passed,
    /// It failed, and a person decided to let the model serve.
    Waived,
    /// The report failed, for these reasons.
    Failed(Vec<String>),
    /// There is no report.
    Missing,
}

/// How a release ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Released {
    /// The stage.
    pub stage: String,
    /// The model that it serves now.
    pub model: ModelInfo,
    /// Digest of the model before it, if there was one.
    pub previous_sha256: Option<String>,
    /// Since when its file is there; `None` if it had been there before.
    pub released_at: Option<DateTime<Utc>>,
    /// What was done; `None` if there was nothing to do.
    pub kind: Option<ReleaseKind>,
}

impl Releaser {
    /// Releases in `bucket` what `loader` loads, recorded in the table.
    pub fn new(bucket: ModelBucket, reader: TableReader, writer: TableWriter, loader: Loader) -> Self {
        Self { bucket, reader, writer, loader }
    }

    /// All that happened to a stage.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn history(&self, stage: &str) -> Result<History, QueryError> {
        Ok(History::merge(&self.reader.ledger(stage).await?, &self.reader.releases(stage).await?))
    }

    /// What the golden set said of a model.
    ///
    /// # Errors
    /// [`ReleaseError::BadReport`], or if the bucket cannot be read.
    pub async fn report_state(&self, sha256: &str) -> Result<ReportState, ReleaseError> {
        let Some((found, _)) = self.bucket.read_report(sha256).await? else {
            return Ok(ReportState::Missing);
        };
        let report = self.readable(sha256, found)?;
        Ok(match report.waiver {
            _ if report.passed => ReportState::Passed,
            Some(_) => ReportState::Waived,
            None => ReportState::Failed(report.failures),
        })
    }

    /// Copies the model of stage `from` to stage `to`, and keeps both the new and the replaced one in the archive.
    ///
    /// # Errors
    /// [`ReleaseError`]; the stage is unchanged then.
    pub async fn promote(&self, from: &str, to: &str, author: &Author) -> Result<Released, ReleaseError> {
        let key = model_key(from);
        let bytes = self.model_at(&key).await?;
        let bytes = bytes.ok_or_else(|| ReleaseError::Absent { location: self.bucket.location(&key) })?;
        self.release(to, &key, bytes, ReleaseKind::Promote, author).await
    }

    /// Puts an archived model back: the one whose SHA-256 begins with `digest`, or else the one before the present.
    ///
    /// # Errors
    /// [`ReleaseError`]; the stage is unchanged then.
    pub async fn rollback(
        &self,
        stage: &str,
        digest: Option<&str>,
        author: &Author,
    ) -> Result<Released, ReleaseError> {
        let sha256 = match digest {
            Some(digest) => self.archived(digest).await?,
            None => self.before_current(stage).await?,
        };
        let key = archive_key(&sha256);
        let bytes = self.model_at(&key).await?;
        let bytes =
            bytes.ok_or_else(|| ReleaseError::Digest { digest: sha256.clone(), found: Vec::new() })?;
        let found = sha256_hex(&bytes);
        if found != sha256 {
            return Err(ReleaseError::Damaged { location: self.bucket.location(&key), found });
        }
        self.release(stage, &key, bytes, ReleaseKind::Rollback, author).await
    }

    async fn before_current(&self, stage: &str) -> Result<String, ReleaseError> {
        let key = model_key(stage);
        let current = self.bucket.get(&key).await?;
        let current = current.map(|file| sha256_hex(&file.bytes)).unwrap_or_default();
        let history = self.history(stage).await?;
        let before = history.before(&current).map(|model| model.sha256.clone());
        before.ok_or_else(|| ReleaseError::NothingBefore { stage: stage.to_owned() })
    }

    /// The whole digest of the one archived model that begins with `digest`.
    async fn archived(&self, digest: &str) -> Result<String, ReleaseError> {
        let digest = digest.to_ascii_lowercase();
        let mut found = Vec::new();
        if digest.len() >= MIN_DIGEST_DIGITS && digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            let files = self.bucket.list(&format!("archive/{digest}")).await?;
            let names =
                files.iter().filter_map(|file| file.key.strip_prefix("archive/")?.strip_suffix(".onnx"));
            found = names.map(str::to_owned).collect();
        }
        match &found[..] {
            [one] => Ok(one.clone()),
            _ => Err(ReleaseError::Digest { digest, found }),
        }
    }

    /// The one way in which a command changes what a stage serves.
    async fn release(
        &self,
        stage: &str,
        from_key: &str,
        bytes: Bytes,
        kind: ReleaseKind,
        author: &Author,
    ) -> Result<Released, ReleaseError> {
        let info = self.load(from_key, &bytes).await?;
        let key = model_key(stage);
        // From here on the stage's file must not change until it is written.
        let current = self.bucket.get(&key).await?;
        let previous_sha256 = current.as_ref().map(|file| sha256_hex(&file.bytes));
        let started_at = Utc::now().trunc_subsecs(3);
        if previous_sha256.as_ref() == Some(&info.sha256) {
            let stage = stage.to_owned();
            return Ok(Released { stage, model: info, previous_sha256, released_at: None, kind: None });
        }
        let report = self.report_state(&info.sha256).await?;
        let kind = self.permit(&info.sha256, report, kind, author)?;
        self.bucket.archive(&info.sha256, bytes.clone()).await?;
        if let (Some(file), Some(sha256)) = (&current, &previous_sha256) {
            self.bucket.archive(sha256, file.bytes.clone()).await?;
        }
        let mut entry = ReleaseEntry {
            stage: stage.to_owned(),
            started_at,
            released_at: None,
            kind,
            state: ReleaseState::Started,
            model: info.clone(),
            previous_sha256: previous_sha256.clone(),
            who: author.who.clone(),
            why: author.why.clone(),
        };
        self.writer.begin_release(&mut entry).await?;
        if kind == ReleaseKind::Force {
            self.waive(&entry, bytes.len() as u64).await?;
        }
        self.replace(&mut entry, &key, bytes, current.as_ref()).await?;
        Ok(Released {
            stage: stage.to_owned(),
            model: info,
            previous_sha256,
            released_at: entry.released_at,
            kind: Some(kind),
        })
    }

    /// What this release is: as asked with a passing report, forced without one, or refused.
    fn permit(
        &self,
        sha256: &str,
        report: ReportState,
        kind: ReleaseKind,
        author: &Author,
    ) -> Result<ReleaseKind, ReleaseError> {
        let location = self.bucket.location(&report_key(sha256));
        let sha256 = sha256.to_owned();
        match report {
            ReportState::Passed | ReportState::Waived => Ok(kind),
            _ if author.force && author.why.is_none() => Err(ReleaseError::NoReason),
            _ if author.force => Ok(ReleaseKind::Force),
            ReportState::Missing => Err(ReleaseError::NoReport { sha256, location }),
            ReportState::Failed(reasons) => Err(ReleaseError::FailedReport { sha256, location, reasons }),
        }
    }

    /// The write that decides, and the record of how it ended.
    async fn replace(
        &self,
        entry: &mut ReleaseEntry,
        key: &str,
        bytes: Bytes,
        current: Option<&StoredFile>,
    ) -> Result<(), ReleaseError> {
        let expected = current.map(|file| file.facts.etag.as_str());
        let written = self.bucket.put_if(key, bytes, expected).await;
        if !matches!(written, Ok(true)) {
            // The answer may be lost, or somebody may have released the same model: what counts is what is there.
            // Where that cannot be seen, the release stays recorded as started, and the ledger will tell.
            let now = self.bucket.get(key).await?.map(|file| sha256_hex(&file.bytes)).unwrap_or_default();
            if now != entry.model.sha256 {
                let is_lost = written.is_ok();
                entry.state = if is_lost { ReleaseState::Lost } else { ReleaseState::Failed };
                self.writer.end_release(entry).await?;
                let (stage, sha256) = (entry.stage.clone(), entry.model.sha256.clone());
                return Err(match written {
                    Err(error) => error.into(),
                    Ok(_) => ReleaseError::Lost { stage, sha256, winner: now },
                });
            }
        }
        let facts = self.bucket.facts(key).await?;
        entry.released_at =
            Some(facts.map_or_else(|| Utc::now().trunc_subsecs(0), |facts| facts.modified_at));
        entry.state = ReleaseState::Released;
        Ok(self.writer.end_release(entry).await?)
    }

    /// The file of a model, if it is there and not too large to be loaded.
    async fn model_at(&self, key: &str) -> Result<Option<Bytes>, ReleaseError> {
        let max_bytes = self.loader.max_bytes();
        match self.bucket.get_within(key, None, max_bytes).await? {
            None => Ok(None),
            Some(BoundedFile::Whole(file)) => Ok(Some(file.bytes)),
            Some(BoundedFile::TooLarge(facts)) => Err(ReleaseError::TooLarge {
                location: self.bucket.location(key),
                size_bytes: facts.size_bytes,
                limit_bytes: max_bytes,
            }),
        }
    }

    async fn load(&self, key: &str, bytes: &Bytes) -> Result<ModelInfo, ReleaseError> {
        let sha256 = sha256_hex(bytes);
        match self.loader.load(&sha256, bytes.clone()).await {
            Ok(model) => Ok(model.info()),
            Err(error) => {
                let (location, source) = (self.bucket.location(key), Box::new(error));
                Err(ReleaseError::Unusable { location, sha256, source })
            }
        }
    }

    /// Writes into the report of a model that a person lets it serve all the same; production reads it there.
    async fn waive(&self, entry: &ReleaseEntry, size_bytes: u64) -> Result<(), ReleaseError> {
        let sha256 = &entry.model.sha256;
        let why = entry.why.clone().unwrap_or_default();
        let waiver = Waiver { by: entry.who.clone(), reason: why, at: entry.started_at };
        let waived = |found: Option<FoundReport>| {
            let report = match found {
                Some(found) => self.readable(sha256, found)?,
                None => untried(entry, size_bytes).judge(),
            };
            Ok::<_, ReleaseError>(GateReport { waiver: Some(waiver.clone()), ..report })
        };
        self.bucket.publish_report(sha256, waived, render_report).await.map(drop)
    }

    fn readable(&self, sha256: &str, found: FoundReport) -> Result<GateReport, ReleaseError> {
        let location = self.bucket.location(&report_key(sha256));
        found.map_err(|detail| ReleaseError::BadReport { location, detail })
    }
}

/// What is known of a model that the gate did not try.
fn untried(entry: &ReleaseEntry, size_bytes: u64) -> Trial {
    let model = GateModel {
        name: Some(entry.model.name.clone()),
        version: Some(entry.model.version.clone()),
        sha256: entry.model.sha256.clone(),
        size_bytes,
        labels: Vec::new(),
        positive: Vec::new(),
        proof: None,
    };
    let mut trial = Trial::new(model, GoldenSummary::default(), entry.started_at);
    trial.problems.push("the golden set was not run before this model was released by force".to_owned());
    trial
}
