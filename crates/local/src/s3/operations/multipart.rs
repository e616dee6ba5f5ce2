//! Uploads in parts: each part is a blob, and completing joins them to one.
//!
//! The joined blob takes effect like every other write, by one commit with its notification, which also ends the
//! upload; an upload that cannot be completed stays open.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use rusqlite::Connection;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Checksum, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CopyPartResult, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    ETag, ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput,
    MultipartUpload, Part, Range, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use crate::s3::StoreError;
use crate::s3::bytes::blobs::{Stored, chunks};
use crate::s3::bytes::digests::{Digests, joined_etag};
use crate::s3::notify::Creation;
use crate::s3::operations::conditions::{ReadConditions, WriteConditions};
use crate::s3::operations::objects::{LocalS3, check_storage_class, received, source_of, timestamp};
use crate::s3::rows::about::{About, move_checksums, move_headers};
use crate::s3::rows::changes::NewObject;
use crate::s3::rows::uploads::{self, PartRow, UploadRow};
use crate::s3::rows::{buckets, versions};
use crate::state::Survives;

impl LocalS3 {
    pub(crate) async fn create_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let mut input = request.input;
        check_storage_class(input.storage_class.as_ref())?;
        let mut about = About::default();
        move_headers!(input, about);
        let (id, about) = (uuid::Uuid::new_v4().to_string(), about.to_json()?);
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let upload = UploadRow { id: id.clone(), bucket, key, about, created_s: Utc::now().timestamp() };
        self.state.write(Survives::PowerLoss, move |tx| uploads::open(tx, &upload)).await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    pub(crate) async fn receive_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let S3Request { mut input, trailing_headers, .. } = request;
        let number = checked_number(input.part_number)?;
        let upload = self.find_upload(&input.upload_id, &input.bucket, &input.key).await?;
        let mut announced = Checksum::default();
        move_checksums!(input, announced);
        let (md5, algorithm) = (input.content_md5, input.checksum_algorithm);
        let digests = Digests::new(announced, md5, algorithm.as_ref(), trailing_headers)?;
        let mut stored = self.blobs.store(received(input.body)?, digests).await?;
        let e_tag = Some(ETag::Strong(stored.md5.clone()));
        let mut output = UploadPartOutput { e_tag, ..Default::default() };
        move_checksums!(stored.checksum, output);
        self.record_part(upload, number, stored).await?;
        Ok(S3Response::new(output))
    }

    pub(crate) async fn copy_part(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = request.input;
        let number = checked_number(input.part_number)?;
        let upload = self.find_upload(&input.upload_id, &input.bucket, &input.key).await?;
        let (from_bucket, from_key, wanted) = source_of(&input.copy_source)?;
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        let find = move |connection: &Connection| {
            versions::find_source(connection, &from_bucket, &from_key, wanted, &conditions)
        };
        let (source, file) = self.open_found(find).await?;
        let size_bytes = source.object.size_bytes;
        let positions = match input.copy_source_range {
            None => 0..size_bytes,
            Some(range) => {
                let range = Range::parse(&range).map_err(|_| s3_error!(InvalidArgument))?;
                // As on S3, a range that ends behind the source is refused and not cut off.
                if matches!(range, Range::Int { last: Some(last), .. } if last >= size_bytes) {
                    return Err(s3_error!(InvalidRange));
                }
                range.check(size_bytes)?
            }
        };
        let body = chunks(file, positions).map_err(read_failed);
        let stored = self.blobs.store(body, Digests::default()).await?;
        let e_tag = Some(ETag::Strong(stored.md5.clone()));
        let modified_s = self.record_part(upload, number, stored).await?;
        let last_modified = Some(timestamp(modified_s));
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(CopyPartResult { e_tag, last_modified, ..Default::default() }),
            copy_source_version_id: source.version_id,
            ..Default::default()
        }))
    }

    pub(crate) async fn list_upload_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let ListPartsInput { bucket, key, upload_id, max_parts, part_number_marker, .. } = request.input;
        let upload = self.find_upload(&upload_id, &bucket, &key).await?;
        let mut parts = self.state.read(move |connection| uploads::parts(connection, &upload.id)).await?;
        parts.retain(|part| part.number > part_number_marker.unwrap_or(0));
        let max_parts = max_parts.unwrap_or(1_000).clamp(0, 1_000);
        let is_truncated = parts.len() > usize::try_from(max_parts).unwrap_or(0);
        parts.truncate(usize::try_from(max_parts).unwrap_or(0));
        let next_part_number_marker = parts.last().map(|part| part.number).filter(|_| is_truncated);
        let parts = parts.into_iter().map(|part| Part {
            part_number: Some(part.number),
            e_tag: Some(ETag::Strong(part.etag)),
            size: i64::try_from(part.size_bytes).ok(),
            last_modified: Some(timestamp(part.modified_s)),
            ..Default::default()
        });
        Ok(S3Response::new(ListPartsOutput {
            parts: Some(parts.collect()),
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(upload_id),
            max_parts: Some(max_parts),
            part_number_marker,
            is_truncated: Some(is_truncated),
            next_part_number_marker,
            ..Default::default()
        }))
    }

    /// Lists the open uploads of a bucket with a prefix, all in one page.
    pub(crate) async fn list_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let ListMultipartUploadsInput { bucket, prefix, .. } = request.input;
        let in_bucket = bucket.clone();
        let open = self
            .state
            .read(move |connection| {
                buckets::require(connection, &in_bucket)?;
                uploads::all_open(connection, &in_bucket)
            })
            .await?;
        let wanted =
            open.into_iter().filter(|upload| upload.key.starts_with(prefix.as_deref().unwrap_or("")));
        let uploads = wanted.map(|upload| MultipartUpload {
            key: Some(upload.key),
            upload_id: Some(upload.id),
            initiated: Some(timestamp(upload.created_s)),
            ..Default::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads: Some(uploads.collect()),
            bucket: Some(bucket),
            prefix,
            is_truncated: Some(false),
            ..Default::default()
        }))
    }

    pub(crate) async fn complete_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let CompleteMultipartUploadInput {
            bucket,
            key,
            upload_id,
            multipart_upload,
            if_match,
            if_none_match,
            ..
        } = request.input;
        let upload = self.find_upload(&upload_id, &bucket, &key).await?;
        let conditions = WriteConditions { if_match, if_none_match };
        let listed = multipart_upload.and_then(|list| list.parts).unwrap_or_default();
        let (id, of_list) = (upload_id.clone(), listed.clone());
        let parts = self.state.read(move |connection| uploads::chosen(connection, &id, &of_list)).await?;
        let etags: Vec<&str> = parts.iter().map(|part| part.etag.as_str()).collect();
        let etag = joined_etag(&etags).ok_or_else(|| s3_error!(InternalError))?;
        let Stored { blob, size_bytes, .. } =
            self.blobs.store(self.joined(&upload_id, parts.clone()), Digests::default()).await?;
        let new = NewObject {
            creation: Creation::CompleteMultipartUpload,
            bucket: bucket.clone(),
            key: key.clone(),
            blob,
            size_bytes,
            etag: etag.clone(),
            about: upload.about.clone(),
            conditions,
        };
        let end = move |tx: &rusqlite::Transaction<'_>| {
            // It may have been completed or aborted meanwhile, or a part of it replaced.
            let unused = uploads::close(tx, &upload)?;
            if parts.iter().any(|part| !unused.contains(&part.blob)) {
                return Err(s3_error!(
                    InvalidPart,
                    "a part was uploaded again while the upload was completed"
                )
                .into());
            }
            Ok(unused)
        };
        let committed = self.commit(new, end).await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            e_tag: Some(ETag::Strong(etag)),
            version_id: committed.version_id,
            location: Some(format!("/{bucket}/{}", crate::s3::notify::encode_key(&key))),
            bucket: Some(bucket),
            key: Some(key),
            ..Default::default()
        }))
    }

    pub(crate) async fn abort_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let AbortMultipartUploadInput { bucket, key, upload_id, .. } = request.input;
        let upload = self.find_upload(&upload_id, &bucket, &key).await?;
        let unused = self.state.write(Survives::PowerLoss, move |tx| uploads::close(tx, &upload)).await?;
        self.blobs.remove(unused).await;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    /// The bytes of parts, one after the other.
    fn joined(&self, upload_id: &str, parts: Vec<PartRow>) -> impl Stream<Item = S3Result<Bytes>> {
        let (blobs, id) = (Arc::clone(&self.blobs), upload_id.to_owned());
        let open = move |part: PartRow| match blobs.file(part.blob) {
            Ok(file) => Ok(chunks(file, 0..part.size_bytes).map_err(read_failed)),
            // A blob goes when its row has gone.
            Err(StoreError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(uploads::no_such_upload(&id))
            }
            Err(error) => Err(S3Error::from(error)),
        };
        stream::iter(parts).map(open).try_flatten()
    }

    async fn find_upload(&self, id: &str, bucket: &str, key: &str) -> Result<UploadRow, StoreError> {
        let (id, bucket, key) = (id.to_owned(), bucket.to_owned(), key.to_owned());
        self.state.read(move |connection| uploads::find(connection, &id, &bucket, &key)).await
    }

    /// Adds a stored part to its upload; returns when, in seconds since 1970.
    async fn record_part(&self, upload: UploadRow, number: i32, stored: Stored) -> Result<i64, StoreError> {
        let Stored { blob, size_bytes, md5: etag, .. } = stored;
        let modified_s = Utc::now().timestamp();
        let part = PartRow { number, blob, etag, size_bytes, modified_s };
        let record = move |tx: &rusqlite::Transaction<'_>| uploads::record_part(tx, &upload, &part);
        let recorded = self.state.write(Survives::PowerLoss, record).await;
        let unused = match &recorded {
            Ok(replaced) => *replaced,
            // The upload ended meanwhile.
            Err(StoreError::Refused(_)) => Some(blob),
            // Whether the row is there is not known when the disk fails; the next start looks.
            Err(_) => None,
        };
        self.blobs.remove(unused.into_iter().collect()).await;
        recorded.map(|_| modified_s)
    }
}

fn read_failed(error: io::Error) -> S3Error {
    tracing::error!(%error, "local s3 failed");
    S3Error::with_source(S3ErrorCode::InternalError, Box::new(error))
}

fn checked_number(number: i32) -> S3Result<i32> {
    if (1..=10_000).contains(&number) {
        return Ok(number);
    }
    Err(s3_error!(InvalidArgument, "the part number is {number}, it must be between 1 and 10000"))
}
