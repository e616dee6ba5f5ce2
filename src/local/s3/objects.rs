//! Whole objects: put, copy, get, head, delete, on top of s3s-fs and the index.
//!
//! A write goes: name a file (index) → let s3s-fs fill it → sync it → commit (index and notification). A read goes:
//! look up the file → let s3s-fs read it → look again, and start over if the key moved on meanwhile.
//!
//! Never changes a file that is visible. Invariant: what a reader gets (bytes, ETag, type, metadata) is of one version.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use chrono::Utc;
use hyper::StatusCode;
use hyper::header::{ETAG, HeaderMap, HeaderValue, LAST_MODIFIED};
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, ETag, GetObjectInput, GetObjectOutput,
    HeadObjectInput, HeadObjectOutput, MetadataDirective, PutObjectInput, PutObjectOutput, Range, Timestamp,
    TimestampFormat,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use super::conditions::{ReadConditions, Verdict, WriteConditions};
use super::index::{self, NewObject, ObjectRow};
use super::notify::Creation;
use super::{StoreError, leftovers};
use crate::local::Subscription;
use crate::local::state::{StateFile, Survives};

/// What S3 answers for objects that were stored without a type.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// The S3 of the local stack.
#[derive(Debug)]
pub(in crate::local) struct LocalS3 {
    pub(super) files: FileSystem,
    pub(super) root: PathBuf,
    pub(super) state: StateFile,
    pub(super) subscriptions: Arc<[Subscription]>,
}

impl LocalS3 {
    pub(super) async fn put(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let conditions = WriteConditions {
            if_match: request.input.if_match.take(),
            if_none_match: request.input.if_none_match.take(),
        };
        let file = self.begin(&bucket, &key, &conditions).await?;
        request.input.key.clone_from(&file);
        let answer = match self.files.put_object(request).await {
            Ok(answer) => answer,
            Err(error) => {
                self.discard(&bucket, &file).await;
                return Err(explain(error));
            }
        };
        let etag = etag_value(answer.output.e_tag.as_ref())?;
        let new = NewObject { creation: Creation::Put, bucket, key, file, size_bytes: 0, etag, conditions };
        self.finish(new).await?;
        Ok(answer)
    }

    pub(super) async fn copy(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let (from_bucket, from_key) = source_of(&request.input.copy_source)?;
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let replaces_metadata = request
            .input
            .metadata_directive
            .as_ref()
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        if (&from_bucket, &from_key) == (&bucket, &key)
            && !replaces_metadata
            && request.input.storage_class.is_none()
        {
            return Err(s3_error!(
                InvalidRequest,
                "this copies an object onto itself without changing anything: replace its metadata (--metadata-directive REPLACE) \
                 to have it stored and notified again"
            ));
        }
        let conditions = ReadConditions {
            if_match: request.input.copy_source_if_match.clone(),
            if_none_match: request.input.copy_source_if_none_match.clone(),
            if_modified_since: request.input.copy_source_if_modified_since.clone(),
            if_unmodified_since: request.input.copy_source_if_unmodified_since.clone(),
        };
        loop {
            let source = self.find_source(&from_bucket, &from_key, &conditions).await?;
            let file = self.begin(&bucket, &key, &WriteConditions::default()).await?;
            let mut inner = request.clone();
            inner.input.key.clone_from(&file);
            inner.input.copy_source = copy_source(&from_bucket, &source.file);
            inner.input.copy_source_if_match = None;
            inner.input.copy_source_if_none_match = None;
            inner.input.copy_source_if_modified_since = None;
            inner.input.copy_source_if_unmodified_since = None;
            let copied = self.files.copy_object(inner).await;
            if !self.is_current(&from_bucket, &source).await? {
                self.discard(&bucket, &file).await;
                continue;
            }
            let answer = match copied {
                Ok(answer) => answer,
                Err(error) => {
                    self.discard(&bucket, &file).await;
                    return Err(explain(error));
                }
            };
            let result = answer.output.copy_object_result.unwrap_or_default();
            let etag = etag_value(result.e_tag.as_ref())?;
            let conditions = WriteConditions::default();
            let new =
                NewObject { creation: Creation::Copy, bucket, key, file, size_bytes: 0, etag, conditions };
            let modified_s = self.finish(new).await?;
            let result = CopyObjectResult { last_modified: Some(timestamp(modified_s)), ..result };
            return Ok(S3Response::new(CopyObjectOutput {
                copy_object_result: Some(result),
                ..Default::default()
            }));
        }
    }

    pub(super) async fn get(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput {
            bucket,
            key,
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
            ..
        } = request.input.clone();
        let conditions = ReadConditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
        loop {
            let object = self.find_if(&bucket, &key, &conditions).await?;
            let (e_tag, last_modified) =
                (Some(ETag::Strong(object.etag.clone())), Some(timestamp(object.modified_s)));
            let mut inner = request.clone();
            inner.input.key.clone_from(&object.file);
            inner.input.range =
                request.input.range.map(|range| within(range, object.size_bytes)).transpose()?;
            let answer = self.files.get_object(inner).await;
            if !self.is_current(&bucket, &object).await? {
                continue;
            }
            let mut answer = answer.map_err(explain)?;
            answer.output.e_tag = e_tag;
            answer.output.last_modified = last_modified;
            answer.output.accept_ranges = Some("bytes".to_owned());
            answer.output.content_type.get_or_insert_with(|| DEFAULT_CONTENT_TYPE.to_owned());
            return Ok(answer);
        }
    }

    pub(super) async fn head(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let HeadObjectInput {
            bucket,
            key,
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
            ..
        } = request.input.clone();
        let conditions = ReadConditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
        loop {
            let object = self.find_if(&bucket, &key, &conditions).await?;
            let (e_tag, last_modified) =
                (Some(ETag::Strong(object.etag.clone())), Some(timestamp(object.modified_s)));
            let mut inner = request.clone();
            inner.input.key.clone_from(&object.file);
            let answer = self.files.head_object(inner).await;
            if !self.is_current(&bucket, &object).await? {
                continue;
            }
            let mut answer = answer.map_err(explain)?;
            answer.output.e_tag = e_tag;
            answer.output.last_modified = last_modified;
            answer.output.accept_ranges = Some("bytes".to_owned());
            answer.output.content_type.get_or_insert_with(|| DEFAULT_CONTENT_TYPE.to_owned());
            return Ok(answer);
        }
    }

    /// Deletes a key; it is no error if there is none.
    pub(super) async fn delete(
        &self,
        bucket: &str,
        key: &str,
        conditions: WriteConditions,
    ) -> Result<(), StoreError> {
        let (in_bucket, of_key) = (bucket.to_owned(), key.to_owned());
        let removed = self
            .state
            .write(Survives::PowerLoss, move |tx| index::remove(tx, &in_bucket, &of_key, &conditions))
            .await?;
        if let Some(file) = removed {
            self.discard(bucket, &file).await;
        }
        Ok(())
    }

    pub(super) async fn find(&self, bucket: &str, key: &str) -> Result<ObjectRow, StoreError> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.state.read(move |connection| index::find(connection, &bucket, &key)).await
    }

    /// Finds an object for a read; conditions that do not hold are "not modified" or an error.
    async fn find_if(&self, bucket: &str, key: &str, conditions: &ReadConditions) -> S3Result<ObjectRow> {
        let object = self.find(bucket, key).await?;
        match conditions.judge(&object.etag, &timestamp(object.modified_s)) {
            Verdict::Proceed => Ok(object),
            Verdict::NotModified => Err(not_modified(&object)),
            Verdict::Failed => Err(StoreError::ConditionFailed { key: key.to_owned() }.into()),
        }
    }

    /// Finds the source of a copy; conditions that do not hold are one error, whichever way.
    pub(super) async fn find_source(
        &self,
        bucket: &str,
        key: &str,
        conditions: &ReadConditions,
    ) -> Result<ObjectRow, StoreError> {
        let source = self.find(bucket, key).await?;
        match conditions.judge(&source.etag, &timestamp(source.modified_s)) {
            Verdict::Proceed => Ok(source),
            Verdict::NotModified | Verdict::Failed => {
                Err(StoreError::ConditionFailed { key: key.to_owned() })
            }
        }
    }

    /// Whether the key still points to this version, so that its files were there all the time.
    pub(super) async fn is_current(&self, bucket: &str, object: &ObjectRow) -> Result<bool, StoreError> {
        let (bucket, key) = (bucket.to_owned(), object.key.clone());
        let now = self.state.read(move |connection| index::existing(connection, &bucket, &key)).await?;
        Ok(now.is_some_and(|now| now.file == object.file))
    }

    async fn begin(
        &self,
        bucket: &str,
        key: &str,
        conditions: &WriteConditions,
    ) -> Result<String, StoreError> {
        let (bucket, key, conditions) = (bucket.to_owned(), key.to_owned(), conditions.clone());
        self.state
            .write(Survives::Kill, move |tx| index::begin_write(tx, &bucket, &key, &conditions, Utc::now()))
            .await
    }

    /// Syncs a filled file, commits it with its notification, and returns the time of the change in seconds since 1970.
    ///
    /// The size in `new` is filled in here.
    pub(super) async fn finish(&self, mut new: NewObject) -> Result<i64, StoreError> {
        let (bucket, file) = (new.bucket.clone(), new.file.clone());
        let committed = async {
            new.size_bytes = self.sync(&bucket, &file).await?;
            let subscriptions = Arc::clone(&self.subscriptions);
            self.state
                .write_and_wake(Survives::PowerLoss, move |tx| {
                    index::commit(tx, &new, &subscriptions, Utc::now())
                })
                .await
        }
        .await;
        match committed {
            Ok(committed) => {
                if let Some(replaced) = committed.replaced {
                    self.discard(&bucket, &replaced).await;
                }
                Ok(committed.modified_s)
            }
            Err(error) => {
                self.discard(&bucket, &file).await;
                Err(error)
            }
        }
    }

    async fn sync(&self, bucket: &str, file: &str) -> Result<u64, StoreError> {
        let path = self.root.join(bucket).join(file);
        let (root, bucket, file) = (self.root.clone(), bucket.to_owned(), file.to_owned());
        self.on_disk(path, move || leftovers::sync_object(&root, &bucket, &file)).await
    }

    /// Removes a file that no key points to; what cannot be removed now is tried again at the next start.
    pub(super) async fn discard(&self, bucket: &str, file: &str) {
        let path = self.root.join(bucket).join(file);
        let (root, of_bucket, of_file) = (self.root.clone(), bucket.to_owned(), file.to_owned());
        let removed = self.on_disk(path, move || leftovers::remove_object(&root, &of_bucket, &of_file)).await;
        let forgotten = match removed {
            Ok(()) => {
                let (bucket, file) = (bucket.to_owned(), file.to_owned());
                let forget =
                    move |tx: &rusqlite::Transaction<'_>| Ok(index::remove_leftover(tx, &bucket, &file)?);
                self.state.write(Survives::Kill, forget).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            tracing::warn!(
                bucket,
                file,
                error = &error as &dyn std::error::Error,
                "leftover file not removed"
            );
        }
    }

    /// Runs file system work on the blocking pool.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        path: PathBuf,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done =
            tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|source| StoreError::File { path, source })
    }
}

/// Bucket and key of the source of a copy.
pub(super) fn source_of(source: &CopySource) -> S3Result<(String, String)> {
    match source {
        CopySource::Bucket { bucket, key, .. } => Ok((bucket.to_string(), key.to_string())),
        _ => {
            Err(s3_error!(NotImplemented, "the local stack copies from buckets only, given as `bucket/key`"))
        }
    }
}

pub(super) fn copy_source(bucket: &str, file: &str) -> CopySource {
    CopySource::Bucket { bucket: bucket.into(), key: file.into(), version_id: None }
}

pub(super) fn etag_value(etag: Option<&ETag>) -> S3Result<String> {
    etag.map(|etag| etag.value().to_owned())
        .ok_or_else(|| s3_error!(InternalError, "s3s-fs answered without an ETag"))
}

pub(super) fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The answer to a reader that has this version already; it repeats the headers by which the reader knows.
fn not_modified(object: &ObjectRow) -> S3Error {
    let mut date = Vec::new();
    let formatted = timestamp(object.modified_s).format(TimestampFormat::HttpDate, &mut date);
    let mut headers = HeaderMap::new();
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", object.etag)) {
        headers.insert(ETAG, etag);
    }
    if let (Ok(()), Ok(date)) = (formatted, HeaderValue::from_bytes(&date)) {
        headers.insert(LAST_MODIFIED, date);
    }
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    error.set_status_code(StatusCode::NOT_MODIFIED);
    error.set_headers(headers);
    error
}

/// The range in absolute positions: s3s-fs fails on a suffix longer than the object.
fn within(range: Range, size_bytes: u64) -> S3Result<Range> {
    match range {
        Range::Suffix { length } if length == 0 || size_bytes == 0 => Err(s3_error!(InvalidRange)),
        Range::Suffix { length } => {
            Ok(Range::Int { first: size_bytes.saturating_sub(length), last: Some(size_bytes - 1) })
        }
        Range::Int { .. } => Ok(range),
    }
}

/// Gives an internal error of s3s-fs a message and a log line: it has the cause, and tells it to nobody.
pub(super) fn explain(mut error: S3Error) -> S3Error {
    if *error.code() == S3ErrorCode::InternalError {
        let cause = error.source().map_or_else(|| "no cause given".to_owned(), ToString::to_string);
        tracing::error!(cause, "local s3 failed");
        error.set_message(format!("the data folder of the local stack failed: {cause}"));
    }
    error
}
