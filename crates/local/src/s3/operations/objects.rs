//! Writes of whole objects: put and copy, on top of the blobs and the index.
//!
//! A put goes: write and sync a blob → commit (row and notification in one transaction). A copy is the commit alone:
//! its row refers to the blob of its source.
//!
//! A write that fails leaves neither a version nor a blob.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use chrono::Utc;
use futures::{Stream, StreamExt};
use rusqlite::{OptionalExtension, Transaction};
use s3s::dto::{
    Checksum, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, ETag, MetadataDirective,
    PutObjectInput, PutObjectOutput, StorageClass, StreamingBlob, Timestamp,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::Subscription;
use crate::queue::Queue;
use crate::s3::StoreError;
use crate::s3::bytes::blobs::{Blobs, Stored};
use crate::s3::bytes::digests::Digests;
use crate::s3::notify::Creation;
use crate::s3::operations::conditions::{ReadConditions, WriteConditions};
use crate::s3::rows::about::{About, move_checksums, move_headers};
use crate::s3::rows::buckets;
use crate::s3::rows::changes::{self, Committed, NewObject};
use crate::s3::rows::versions::{self, Wanted};
use crate::state::{StateFile, Survives};

/// In the folder of blobs: the id of the index that belongs to them.
const INDEX_ID_FILE: &str = ".giemsa-index-id";

/// The S3 of the local stack.
#[derive(Debug)]
pub(crate) struct LocalS3 {
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) state: StateFile,
    subscriptions: Arc<[Subscription]>,
}

impl LocalS3 {
    /// Opens or creates the folder of blobs, and removes what an earlier process left half done.
    ///
    /// # Errors
    /// [`StoreError`] if the folder cannot be used or does not belong to the index in `queue`'s file.
    pub(crate) async fn open(
        root: &Path,
        queue: &Queue,
        subscriptions: &[Subscription],
    ) -> Result<Self, StoreError> {
        let state = queue.state().clone();
        let file_error = |source| StoreError::File { path: root.to_owned(), source };
        std::fs::create_dir_all(root).map_err(file_error)?;
        pair_with_index(root, &state).await?;
        let in_use = state.read(changes::blobs_in_use).await?;
        let blobs = Arc::new(Blobs::open(root, &in_use).map_err(file_error)?);
        Ok(Self { blobs, state, subscriptions: subscriptions.into() })
    }

    pub(crate) async fn put(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let S3Request { mut input, trailing_headers, .. } = request;
        check_storage_class(input.storage_class.as_ref())?;
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let conditions = WriteConditions { if_match: input.if_match, if_none_match: input.if_none_match };
        let (to, of, judged) = (bucket.clone(), key.clone(), conditions.clone());
        // The commit decides; here it spares the client from sending the body.
        self.state.read(move |connection| changes::judge(connection, &to, &of, &judged).map(drop)).await?;
        let mut announced = Checksum::default();
        move_checksums!(input, announced);
        let (md5, algorithm) = (input.content_md5, input.checksum_algorithm);
        let digests = Digests::new(announced, md5, algorithm.as_ref(), trailing_headers)?;
        let mut stored = self.blobs.store(received(input.body)?, digests).await?;
        let mut output =
            PutObjectOutput { e_tag: Some(ETag::Strong(stored.md5.clone())), ..Default::default() };
        let mut about = About::default();
        move_headers!(input, about);
        let mut checksum = stored.checksum.clone();
        move_checksums!(checksum, output);
        move_checksums!(stored.checksum, about);
        let Stored { blob, size_bytes, md5: etag, .. } = stored;
        let about = about.to_json()?;
        let new =
            NewObject { creation: Creation::Put, bucket, key, blob, size_bytes, etag, about, conditions };
        output.version_id = self.commit(new, |_| Ok(Vec::new())).await?.version_id;
        Ok(S3Response::new(output))
    }

    pub(crate) async fn copy(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let mut input = request.input;
        let (from_bucket, from_key, wanted) = source_of(&input.copy_source)?;
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let replaces_headers = input
            .metadata_directive
            .as_ref()
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        if (&from_bucket, &from_key) == (&bucket, &key)
            // Copying an older version onto its key is how it is brought back.
            && wanted == Wanted::Latest
            && !replaces_headers
            && input.storage_class.is_none()
        {
            return Err(s3_error!(
                InvalidRequest,
                "this copies an object onto itself without changing anything: replace its metadata (--metadata-directive REPLACE) \
                 to have it stored and notified again"
            ));
        }
        check_storage_class(input.storage_class.as_ref())?;
        let read_conditions = ReadConditions {
            if_match: input.copy_source_if_match.take(),
            if_none_match: input.copy_source_if_none_match.take(),
            if_modified_since: input.copy_source_if_modified_since.take(),
            if_unmodified_since: input.copy_source_if_unmodified_since.take(),
        };
        let mut replaced = replaces_headers.then(About::default);
        if let Some(about) = &mut replaced {
            move_headers!(input, about);
        }
        let subscriptions = Arc::clone(&self.subscriptions);
        let (etag, source_version, committed) = self
            .state
            .write_and_wake(Survives::PowerLoss, move |tx| {
                let source = versions::find_source(tx, &from_bucket, &from_key, wanted, &read_conditions)?;
                let object = source.object;
                let about = match replaced {
                    None => object.about,
                    Some(mut about) => {
                        let mut of_source = About::from_json(&object.about)?;
                        move_checksums!(of_source, about);
                        about.to_json()?
                    }
                };
                let new = NewObject {
                    creation: Creation::Copy,
                    bucket,
                    key,
                    blob: object.blob,
                    size_bytes: object.size_bytes,
                    etag: object.etag.clone(),
                    about,
                    conditions: WriteConditions::default(),
                };
                let committed = changes::commit(tx, &new, &subscriptions, Utc::now())?;
                Ok::<_, StoreError>((object.etag, source.version_id, committed))
            })
            .await?;
        self.blobs.remove(committed.unused).await;
        let result = CopyObjectResult {
            e_tag: Some(ETag::Strong(etag)),
            last_modified: Some(timestamp(committed.modified_s)),
            ..Default::default()
        };
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            version_id: committed.version_id,
            copy_source_version_id: source_version,
            ..Default::default()
        }))
    }

    /// Commits a stored blob with its notification, and what `also` does, which returns blobs that it makes unused.
    pub(crate) async fn commit(
        &self,
        new: NewObject,
        also: impl FnOnce(&Transaction<'_>) -> Result<Vec<i64>, StoreError> + Send + 'static,
    ) -> Result<Committed, StoreError> {
        let (blob, subscriptions) = (new.blob, Arc::clone(&self.subscriptions));
        let committed = self.state.write_and_wake(Survives::PowerLoss, move |tx| {
            let unused = also(tx)?;
            let mut committed = changes::commit(tx, &new, &subscriptions, Utc::now())?;
            committed.unused.extend(unused);
            Ok::<_, StoreError>(committed)
        });
        let mut committed = committed.await;
        let unused = match &mut committed {
            Ok(committed) => std::mem::take(&mut committed.unused),
            Err(StoreError::Refused(_)) => vec![blob],
            // Whether the row is there is not known when the disk fails; the next start looks.
            Err(_) => Vec::new(),
        };
        self.blobs.remove(unused).await;
        committed
    }
}

/// Makes sure that blobs and index belong together, so that no object is taken for unused or silently missing.
async fn pair_with_index(root: &Path, state: &StateFile) -> Result<(), StoreError> {
    let id_path = root.join(INDEX_ID_FILE);
    let file_error = |source| StoreError::File { path: root.to_owned(), source };
    let of_folder = match std::fs::read_to_string(&id_path) {
        Ok(id) => Some(id),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(file_error(error)),
    };
    let (of_index, index_in_use): (Option<String>, bool) = state
        .read(|connection| {
            let id = connection
                .query_row("SELECT value FROM setting WHERE name = 'index_id'", [], |row| row.get(0))
                .optional()?;
            Ok::<_, StoreError>((id, !buckets::all(connection)?.is_empty()))
        })
        .await?;
    if of_folder.is_some() && of_folder == of_index {
        return Ok(());
    }
    if index_in_use || Blobs::is_in_use(root).map_err(file_error)? {
        let found = match (&of_folder, &of_index) {
            (_, None) => "the index is new",
            (None, _) => "the folder is new",
            _ => "each has the mark of another",
        };
        return Err(StoreError::ForeignIndex { root: root.to_owned(), found });
    }
    let id = uuid::Uuid::new_v4().to_string();
    let value = id.clone();
    state
        .write(Survives::PowerLoss, move |tx| {
            tx.execute("INSERT OR REPLACE INTO setting VALUES ('index_id', ?1)", [value])?;
            Ok::<_, StoreError>(())
        })
        .await?;
    let mut mark = std::fs::File::create(&id_path).map_err(file_error)?;
    mark.write_all(id.as_bytes()).and_then(|()| mark.sync_all()).map_err(file_error)
}

/// The body of an upload; that it ends early or is damaged on the way is its sender's error.
pub(crate) fn received(body: Option<StreamingBlob>) -> S3Result<impl Stream<Item = S3Result<Bytes>>> {
    let body = body.ok_or_else(|| s3_error!(IncompleteBody))?;
    Ok(body.map(|chunk| {
        chunk.map_err(|error| s3_error!(IncompleteBody, "the body did not arrive as it was sent: {error}"))
    }))
}

/// Takes a storage class that makes no difference to who reads the object: the local stack has one disk.
///
/// What S3 archives cannot be read before somebody restores it, so that a classifier on AWS could not answer it either.
pub(crate) fn check_storage_class(class: Option<&StorageClass>) -> S3Result<()> {
    match class.map(StorageClass::as_str) {
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
pub(crate) fn source_of(source: &CopySource) -> S3Result<(String, String, Wanted)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            Ok((bucket.to_string(), key.to_string(), Wanted::of(key, version_id.as_deref())?))
        }
        _ => {
            Err(s3_error!(NotImplemented, "the local stack copies from buckets only, given as `bucket/key`"))
        }
    }
}

pub(crate) fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
