//! Uploads in parts: s3s-fs keeps and joins the parts, the index knows which there are.
//!
//! Never asks s3s-fs to complete what it would refuse: it would have thrown the parts away by then.
//! Invariant: the joined file takes effect like every other write, by one commit with its notification.

use chrono::Utc;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput, MultipartUpload,
    Part, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::buckets;
use super::conditions::{ReadConditions, WriteConditions};
use super::index::NewObject;
use super::notify::Creation;
use super::objects::{LocalS3, copy_source, etag_value, explain, source_of, take_storage_class, timestamp};
use super::uploads::{self, PartRow, UploadRow};
use super::{StoreError, leftovers};
use crate::local::state::Survives;

impl LocalS3 {
    pub(super) async fn create_upload(
        &self,
        mut request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        take_storage_class(&mut request.input.storage_class)?;
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let (in_bucket, for_key) = (bucket.clone(), key.clone());
        let file = self
            .state
            .write(Survives::Kill, move |tx| uploads::begin(tx, &in_bucket, &for_key, Utc::now()))
            .await?;
        request.input.key.clone_from(&file);
        let mut answer = self.files.create_multipart_upload(request).await.map_err(explain)?;
        let id = answer.output.upload_id.clone().ok_or_else(|| s3_error!(InternalError))?;
        let upload = UploadRow { id, bucket, key: key.clone(), file, created_s: Utc::now().timestamp() };
        self.state.write(Survives::PowerLoss, move |tx| uploads::open(tx, &upload)).await?;
        answer.output.key = Some(key);
        Ok(answer)
    }

    pub(super) async fn receive_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let UploadPartInput { bucket, key, upload_id, part_number, .. } = &request.input;
        let number = checked_number(*part_number)?;
        let upload = self.find_upload(upload_id, bucket, key).await?;
        request.input.key.clone_from(&upload.file);
        let answer = self.files.upload_part(request).await.map_err(explain)?;
        self.record_part(upload, number, etag_value(answer.output.e_tag.as_ref())?).await?;
        Ok(answer)
    }

    pub(super) async fn copy_part(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = &request.input;
        let number = checked_number(input.part_number)?;
        let upload = self.find_upload(&input.upload_id, &input.bucket, &input.key).await?;
        let (from_bucket, from_key, wanted) = source_of(&input.copy_source)?;
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match.clone(),
            if_none_match: input.copy_source_if_none_match.clone(),
            if_modified_since: input.copy_source_if_modified_since.clone(),
            if_unmodified_since: input.copy_source_if_unmodified_since.clone(),
        };
        loop {
            let source = self.find_source(&from_bucket, &from_key, wanted, &conditions).await?;
            let mut inner = request.clone();
            inner.input.key.clone_from(&upload.file);
            inner.input.copy_source = copy_source(&from_bucket, &source.object.file);
            let copied = self.files.upload_part_copy(inner).await;
            if !self.is_still_there(&from_bucket, &source.object).await? {
                continue;
            }
            let mut answer = copied.map_err(explain)?;
            let mut result = answer.output.copy_part_result.take().unwrap_or_default();
            let modified_s = self.record_part(upload, number, etag_value(result.e_tag.as_ref())?).await?;
            result.last_modified = Some(timestamp(modified_s));
            answer.output.copy_part_result = Some(result);
            answer.output.copy_source_version_id = source.version_id;
            return Ok(answer);
        }
    }

    pub(super) async fn list_upload_parts(
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
    pub(super) async fn list_uploads(
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

    pub(super) async fn complete_upload(
        &self,
        mut request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let CompleteMultipartUploadInput { bucket, key, upload_id, .. } = &request.input;
        let (bucket, key) = (bucket.clone(), key.clone());
        let upload = self.find_upload(upload_id, &bucket, &key).await?;
        let conditions = WriteConditions {
            if_match: request.input.if_match.take(),
            if_none_match: request.input.if_none_match.take(),
        };
        let listed =
            request.input.multipart_upload.as_ref().and_then(|list| list.parts.clone()).unwrap_or_default();
        let numbers: Vec<i32> = listed.iter().filter_map(|part| part.part_number).collect();
        let started = upload.clone();
        self.state.write(Survives::Kill, move |tx| uploads::start_completing(tx, &started, &listed)).await?;

        request.input.key.clone_from(&upload.file);
        // s3s-fs joins only what is numbered from 1 without gaps.
        let parts = request.input.multipart_upload.iter_mut().flat_map(|list| &mut list.parts).flatten();
        for (number, part) in (1..).zip(parts) {
            part.part_number = Some(number);
        }
        let etag = async {
            let (root, id) = (self.root.clone(), upload.id.clone());
            self.on_disk(root.clone(), move || leftovers::close_gaps(&root, &id, &numbers)).await?;
            let mut output = self.files.complete_multipart_upload(request).await.map_err(explain)?.output;
            // s3s-fs has joined the parts by now and only hides the answer in a future.
            if let Some(future) = output.future.take() {
                output = future.await.map_err(explain)?;
            }
            etag_value(output.e_tag.as_ref())
        }
        .await;
        let finished = match etag {
            Ok(etag) => {
                let creation = Creation::CompleteMultipartUpload;
                let (bucket, key, file, etag) = (bucket.clone(), key.clone(), upload.file.clone(), etag);
                let new =
                    NewObject { creation, bucket, key, file, size_bytes: 0, etag: etag.clone(), conditions };
                self.finish(new).await.map(|committed| (etag, committed.version_id)).map_err(Into::into)
            }
            Err(error) => {
                self.discard(&upload.bucket, &upload.file).await;
                Err(error)
            }
        };
        // Parts that were uploaded and not listed, and on failure all of them.
        if let Err(error) = self.remove_upload_files(&upload).await {
            tracing::warn!(
                bucket,
                key,
                error = &error as &dyn std::error::Error,
                "parts of an upload not removed"
            );
        }
        let (etag, version_id) = finished?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            e_tag: Some(ETag::Strong(etag)),
            version_id,
            location: Some(format!("/{bucket}/{}", super::notify::encode_key(&key))),
            bucket: Some(bucket),
            key: Some(key),
            ..Default::default()
        }))
    }

    pub(super) async fn abort_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let AbortMultipartUploadInput { bucket, key, upload_id, .. } = &request.input;
        let upload = self.find_upload(upload_id, bucket, key).await?;
        self.remove_upload_files(&upload).await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    /// Removes what is left of an upload on disk, and then the upload from the index.
    pub(super) async fn remove_upload_files(&self, upload: &UploadRow) -> Result<(), StoreError> {
        let UploadRow { id, bucket, file, .. } = upload.clone();
        let of_upload = id.clone();
        let parts = self.state.read(move |connection| uploads::parts(connection, &of_upload)).await?;
        // Those of a closed gap, too.
        let numbers: Vec<i32> = (1..).zip(&parts).flat_map(|(place, part)| [place, part.number]).collect();
        let (root, of_upload) = (self.root.clone(), id.clone());
        let remove = move || leftovers::remove_upload(&root, &bucket, &file, &of_upload, &numbers);
        self.on_disk(self.root.clone(), remove).await?;
        self.state.write(Survives::Kill, move |tx| uploads::forget(tx, &id)).await
    }

    async fn find_upload(&self, id: &str, bucket: &str, key: &str) -> Result<UploadRow, StoreError> {
        let (id, bucket, key) = (id.to_owned(), bucket.to_owned(), key.to_owned());
        self.state.read(move |connection| uploads::find(connection, &id, &bucket, &key)).await
    }

    async fn record_part(&self, upload: UploadRow, number: i32, etag: String) -> Result<i64, StoreError> {
        let path = leftovers::part_path(&self.root, &upload.id, number);
        let of_part = path.clone();
        let size_bytes =
            self.on_disk(path.clone(), move || std::fs::metadata(of_part).map(|data| data.len())).await?;
        let modified_s = Utc::now().timestamp();
        let part = PartRow { number, etag, size_bytes, modified_s };
        let recorded =
            self.state.write(Survives::Kill, move |tx| uploads::record_part(tx, &upload, &part)).await;
        if recorded.is_err() {
            // The upload ended meanwhile and will not clean up after this part.
            let _ = std::fs::remove_file(path);
        }
        recorded.map(|()| modified_s)
    }
}

fn checked_number(number: i32) -> S3Result<i32> {
    if (1..=10_000).contains(&number) {
        return Ok(number);
    }
    Err(s3_error!(InvalidArgument, "the part number is {number}, it must be between 1 and 10000"))
}
