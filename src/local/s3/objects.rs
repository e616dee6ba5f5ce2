//! Writes of whole objects: put and copy, on top of s3s-fs and the index.
//!
//! A write goes: name a file (index) → let s3s-fs fill it → sync it → commit (index and notification).
//!
//! Never changes a file that is visible. Invariant: a write that fails leaves neither a version nor a file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use chrono::Utc;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, ETag, MetadataDirective, PutObjectInput,
    PutObjectOutput, StorageClass, Timestamp,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use super::conditions::{ReadConditions, WriteConditions};
use super::index::{self, Committed, NewObject};
use super::notify::Creation;
use super::versions::Wanted;
use super::{StoreError, leftovers};
use crate::local::Subscription;
use crate::local::state::{StateFile, Survives};

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
        take_storage_class(&mut request.input.storage_class)?;
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let conditions = WriteConditions {
            if_match: request.input.if_match.take(),
            if_none_match: request.input.if_none_match.take(),
        };
        let file = self.begin(&bucket, &key, &conditions).await?;
        request.input.key.clone_from(&file);
        let mut answer = match self.files.put_object(request).await {
            Ok(answer) => answer,
            Err(error) => {
                self.discard(&bucket, &file).await;
                return Err(explain(error));
            }
        };
        let etag = etag_value(answer.output.e_tag.as_ref())?;
        let new = NewObject { creation: Creation::Put, bucket, key, file, size_bytes: 0, etag, conditions };
        answer.output.version_id = self.finish(new).await?.version_id;
        Ok(answer)
    }

    pub(super) async fn copy(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let (from_bucket, from_key, wanted) = source_of(&request.input.copy_source)?;
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let replaces_metadata = request
            .input
            .metadata_directive
            .as_ref()
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        if (&from_bucket, &from_key) == (&bucket, &key)
            // Copying an older version onto its key is how it is brought back.
            && wanted == Wanted::Latest
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
            let source = self.find_source(&from_bucket, &from_key, wanted, &conditions).await?;
            let file = self.begin(&bucket, &key, &WriteConditions::default()).await?;
            let mut inner = request.clone();
            take_storage_class(&mut inner.input.storage_class)?;
            inner.input.key.clone_from(&file);
            inner.input.copy_source = copy_source(&from_bucket, &source.object.file);
            inner.input.copy_source_if_match = None;
            inner.input.copy_source_if_none_match = None;
            inner.input.copy_source_if_modified_since = None;
            inner.input.copy_source_if_unmodified_since = None;
            let copied = self.files.copy_object(inner).await;
            if !self.is_still_there(&from_bucket, &source.object).await? {
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
            let committed = self.finish(new).await?;
            let result = CopyObjectResult { last_modified: Some(timestamp(committed.modified_s)), ..result };
            return Ok(S3Response::new(CopyObjectOutput {
                copy_object_result: Some(result),
                version_id: committed.version_id,
                copy_source_version_id: source.version_id,
                ..Default::default()
            }));
        }
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

    /// Syncs a filled file and commits it with its notification.
    ///
    /// The size in `new` is filled in here.
    pub(super) async fn finish(&self, mut new: NewObject) -> Result<Committed, StoreError> {
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
                if let Some(replaced) = &committed.replaced {
                    self.discard(&bucket, replaced).await;
                }
                Ok(committed)
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

    /// Removes a file that no version points to; what cannot be removed now is tried again at the next start.
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

/// Takes a storage class that makes no difference to who reads the object: the local stack has one disk.
///
/// What S3 archives cannot be read before somebody restores it, so that a classifier on AWS could not answer it either.
pub(super) fn take_storage_class(class: &mut Option<StorageClass>) -> S3Result<()> {
    match class.take().as_ref().map(StorageClass::as_str) {
        None
        | Some(
            StorageClass::STANDARD
            | StorageClass::REDUCED_REDUNDANCY
            | StorageClass::STANDARD_IA
            | StorageClass::ONEZONE_IA
            | StorageClass::INTELLIGENT_TIERING
            | StorageClass::GLACIER_IR,
        ) => Ok(()),
        Some(archived @ (StorageClass::GLACIER | StorageClass::DEEP_ARCHIVE)) => Err(s3_error!(
            NotImplemented,
            "the local stack does not archive: objects of the storage class {archived} cannot be read before they are \
             restored, nor classified; upload to GLACIER_IR or another class that is read at once"
        )),
        Some(other) => Err(s3_error!(
            InvalidStorageClass,
            "the local stack does not know the storage class {other}; expected STANDARD, STANDARD_IA, ONEZONE_IA, \
             INTELLIGENT_TIERING, GLACIER_IR or REDUCED_REDUNDANCY"
        )),
    }
}

/// Bucket, key and version of the source of a copy.
pub(super) fn source_of(source: &CopySource) -> S3Result<(String, String, Wanted)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            Ok((bucket.to_string(), key.to_string(), Wanted::of(key, version_id.as_deref())?))
        }
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

/// Gives an internal error of s3s-fs a message and a log line: it has the cause, and tells it to nobody.
pub(super) fn explain(mut error: S3Error) -> S3Error {
    if *error.code() == S3ErrorCode::InternalError {
        let cause = error.source().map_or_else(|| "no cause given".to_owned(), ToString::to_string);
        tracing::error!(cause, "local s3 failed");
        error.set_message(format!("the data folder of the local stack failed: {cause}"));
    }
    error
}
