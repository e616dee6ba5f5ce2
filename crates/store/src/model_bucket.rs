//! The model bucket: models in stages and in the archive, the golden set, and reports.
//!
//! Functions and commands all use this client. What is replaced is what was read before ([`ModelBucket::put_if`]), so
//! that of two writers one finds out; a body that does not have its whole length is an error.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime as S3DateTime};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::is_gone;
use giemsa_core::digest::Sha256Stream;
use giemsa_core::gate_report::{GateReport, archive_key, report_key, report_page_key};

/// Times that a report is read again because somebody else wrote it meanwhile.
const MAX_ATTEMPTS: u32 = 10;

/// Pause before the second attempt; each further one waits that much longer.
const PAUSE: Duration = Duration::from_millis(50);

/// Reads and writes the model bucket.
#[derive(Debug, Clone)]
pub struct ModelBucket {
    s3: Client,
    bucket: String,
}

/// What S3 knows of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Its key.
    pub key: String,
    /// Its ETag, as S3 writes it.
    pub etag: String,
    /// Size, bytes.
    pub size_bytes: u64,
    /// When it was put in its place; S3's headers have whole seconds.
    pub modified_at: DateTime<Utc>,
}

/// A file with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// What S3 knows of it.
    pub facts: FileFacts,
    /// Its content.
    pub bytes: Bytes,
}

/// A file of which not more than a limit is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundedFile {
    /// With its content.
    Whole(StoredFile),
    /// It is larger than is allowed, and was not read.
    TooLarge(FileFacts),
}

/// A golden-set report as it was found; what is wrong with one that this version cannot read.
pub type FoundReport = Result<GateReport, String>;

/// Why the model bucket could not be used; trying again may help.
#[derive(Debug, thiserror::Error)]
#[error("{location} cannot be {action}: {detail}")]
pub struct BucketError {
    /// S3 URI.
    pub location: String,
    /// `read`, `listed` or `written`.
    pub action: &'static str,
    /// What S3 or the network says.
    pub detail: String,
}

impl ModelBucket {
    /// The model bucket named `bucket`.
    pub fn new(s3: Client, bucket: impl Into<String>) -> Self {
        Self { s3, bucket: bucket.into() }
    }

    /// S3 URI of a key.
    pub fn location(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// Reads a file, if it is there.
    ///
    /// # Errors
    /// [`BucketError`] if it cannot be read to its end.
    pub async fn get(&self, key: &str) -> Result<Option<StoredFile>, BucketError> {
        let Some((facts, body)) = self.open(key, None, None).await? else { return Ok(None) };
        self.read(facts, body).await.map(Some)
    }

    /// Reads a file of at most `max_bytes`, if it is there: the version `version_id`, or else the one that is there now.
    ///
    /// # Errors
    /// [`BucketError`] if it cannot be read to its end.
    pub async fn get_within(
        &self,
        key: &str,
        version_id: Option<&str>,
        max_bytes: u64,
    ) -> Result<Option<BoundedFile>, BucketError> {
        Ok(match self.open(key, version_id, None).await? {
            None => None,
            Some((facts, _)) if facts.size_bytes > max_bytes => Some(BoundedFile::TooLarge(facts)),
            Some((facts, body)) => Some(BoundedFile::Whole(self.read(facts, body).await?)),
        })
    }

    /// The SHA-256 of a file that is too large to be held, in hexadecimal.
    ///
    /// # Errors
    /// [`BucketError`] if it cannot be read to its end, or is another file by now.
    pub async fn sha256_of(&self, file: &FileFacts, version_id: Option<&str>) -> Result<String, BucketError> {
        let failed = |detail: String| self.failed(&file.key, "read", detail);
        let opened = self.open(&file.key, version_id, Some(&file.etag)).await?;
        let (_, mut body) = opened.ok_or_else(|| failed("it was deleted meanwhile".to_owned()))?;
        let (mut digest, mut read_bytes) = (Sha256Stream::default(), 0);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| failed(error.to_string()))?;
            read_bytes += chunk.len() as u64;
            digest.update(&chunk);
        }
        if read_bytes != file.size_bytes {
            return Err(failed(format!("{read_bytes} of {} bytes arrived", file.size_bytes)));
        }
        Ok(digest.finish())
    }

    /// What S3 knows of a file, if it is there.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn facts(&self, key: &str) -> Result<Option<FileFacts>, BucketError> {
        match self.s3.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => Ok(Some(facts(key, found.e_tag(), found.content_length(), found.last_modified()))),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_not_found()) => Ok(None),
            Err(error) => Err(self.failed(key, "read", DisplayErrorContext(&error).to_string())),
        }
    }

    /// All files whose key starts with `prefix`, in the order of their keys.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<FileFacts>, BucketError> {
        let request = self.s3.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let mut pages = request.into_paginator().send();
        let mut files = Vec::new();
        while let Some(page) = pages.next().await {
            let page =
                page.map_err(|e| self.failed(prefix, "listed", DisplayErrorContext(&e).to_string()))?;
            files.extend(page.contents().iter().map(|object| {
                let key = object.key().unwrap_or_default();
                facts(key, object.e_tag(), object.size(), object.last_modified())
            }));
        }
        Ok(files)
    }

    /// Writes a file, whatever is there.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), BucketError> {
        let request = self.s3.put_object().bucket(&self.bucket).key(key).content_type(content_type(key));
        let sent = request.body(ByteStream::from(bytes)).send().await;
        sent.map(drop).map_err(|e| self.failed(key, "written", DisplayErrorContext(&e).to_string()))
    }

    /// Writes a file in the place of the one with the ETag `expected`, or where there is none.
    ///
    /// Returns `false` if it was not written because somebody else wrote first. The answer may also be `false` for what was
    /// written, if the first answer was lost and the request was sent again; so look at what is there.
    ///
    /// # Errors
    /// [`BucketError`]; the file may have been written all the same.
    pub async fn put_if(&self, key: &str, bytes: Bytes, expected: Option<&str>) -> Result<bool, BucketError> {
        let request = self.s3.put_object().bucket(&self.bucket).key(key).content_type(content_type(key));
        let request = match expected {
            Some(etag) => request.if_match(etag),
            None => request.if_none_match("*"),
        };
        match request.body(ByteStream::from(bytes)).send().await {
            Ok(_) => Ok(true),
            Err(error) if is_condition_failed(&error) => Ok(false),
            Err(error) => Err(self.failed(key, "written", DisplayErrorContext(&error).to_string())),
        }
    }

    /// Keeps a model under its digest. A file that is there already stays: its name is its content.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn archive(&self, sha256: &str, bytes: Bytes) -> Result<(), BucketError> {
        self.put_if(&archive_key(sha256), bytes, None).await.map(drop)
    }

    /// The report of the model of this digest, if there is one, and when it was written.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn read_report(
        &self,
        sha256: &str,
    ) -> Result<Option<(FoundReport, DateTime<Utc>)>, BucketError> {
        let file = self.get(&report_key(sha256)).await?;
        Ok(file.map(|file| (parsed(&file), file.facts.modified_at)))
    }

    /// Writes the report that `decide` makes of the one that is there, and before it the page that `render` makes of it.
    ///
    /// Where somebody else writes the report meanwhile, `decide` is asked again with what they wrote.
    ///
    /// # Errors
    /// What `decide` returns, or [`BucketError`].
    pub async fn publish_report<E: From<BucketError>>(
        &self,
        sha256: &str,
        decide: impl Fn(Option<FoundReport>) -> Result<GateReport, E>,
        render: impl Fn(&GateReport) -> String,
    ) -> Result<GateReport, E> {
        let key = report_key(sha256);
        for attempt in 0..MAX_ATTEMPTS {
            tokio::time::sleep(PAUSE * attempt).await;
            let found = self.get(&key).await?;
            let report = decide(found.as_ref().map(parsed))?;
            self.put(&report_page_key(sha256), render(&report).into()).await?;
            let json =
                serde_json::to_vec_pretty(&report).expect("a report holds only text and finite numbers");
            if self.put_if(&key, json.into(), found.as_ref().map(|file| file.facts.etag.as_str())).await? {
                return Ok(report);
            }
        }
        Err(self.failed(&key, "written", "others write it all the time".to_owned()).into())
    }

    async fn open(
        &self,
        key: &str,
        version_id: Option<&str>,
        etag: Option<&str>,
    ) -> Result<Option<(FileFacts, ByteStream)>, BucketError> {
        let request = self.s3.get_object().bucket(&self.bucket).key(key);
        let request =
            request.set_version_id(version_id.map(str::to_owned)).set_if_match(etag.map(str::to_owned));
        match request.send().await {
            Ok(found) => {
                let facts = facts(key, found.e_tag(), found.content_length(), found.last_modified());
                Ok(Some((facts, found.body)))
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(self.failed(key, "read", DisplayErrorContext(&error).to_string())),
        }
    }

    async fn read(&self, facts: FileFacts, body: ByteStream) -> Result<StoredFile, BucketError> {
        let failed = |detail: String| self.failed(&facts.key, "read", detail);
        let bytes = body.collect().await.map_err(|error| failed(error.to_string()))?.into_bytes();
        if bytes.len() as u64 != facts.size_bytes {
            return Err(failed(format!("{} of {} bytes arrived", bytes.len(), facts.size_bytes)));
        }
        Ok(StoredFile { facts, bytes })
    }

    fn failed(&self, key: &str, action: &'static str, detail: String) -> BucketError {
        BucketError { location: self.location(key), action, detail }
    }
}

fn parsed(file: &StoredFile) -> FoundReport {
    serde_json::from_slice(&file.bytes).map_err(|error| error.to_string())
}

fn content_type(key: &str) -> &'static str {
    match key.rsplit('.').next() {
        Some("json") => "application/json",
        Some("html") => "text/html; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// 412 if the file is another one, 409 if another write was under way, 404 if the file was deleted meanwhile
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>).
fn is_condition_failed<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let is_gone = error.as_service_error().and_then(|e| e.code()) == Some("NoSuchKey");
    let status = error.raw_response().map(|response| response.status().as_u16());
    is_gone || matches!(status, Some(409 | 412))
}

fn facts(key: &str, etag: Option<&str>, size: Option<i64>, modified: Option<&S3DateTime>) -> FileFacts {
    FileFacts {
        key: key.to_owned(),
        etag: etag.unwrap_or_default().to_owned(),
        size_bytes: size.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
        modified_at: modified
            .and_then(|at| DateTime::from_timestamp(at.secs(), at.subsec_nanos()))
            .unwrap_or_default(),
    }
}
