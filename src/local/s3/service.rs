//! The operations of S3 that the local stack answers, each in terms of the index, s3s-fs and the modules beside this one.
//!
//! Never implements an operation halfway: what is not here is answered with `NotImplemented` by s3s.
//! Invariant: every key in an answer is the user's key, never the name of a file.

use async_trait::async_trait;
use chrono::Utc;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket, CommonPrefix,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput,
    CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteBucketInput, DeleteBucketOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, DeletedObject, ETag, EncodingType, Error, GetBucketLocationInput,
    GetBucketLocationOutput, GetBucketVersioningInput, GetBucketVersioningOutput, GetObjectInput,
    GetObjectOutput, GetObjectTaggingInput, GetObjectTaggingOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output,
    ListPartsInput, ListPartsOutput, Object, ObjectStorageClass, Owner, PutObjectInput, PutObjectOutput,
    UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::LOCAL_ACCESS_KEY_ID;
use super::conditions::WriteConditions;
use super::index;
use super::listing::{self, Entry, Listing, MAX_PAGE_ENTRIES, Page, Resume};
use super::notify::encode_key;
use super::objects::{LocalS3, explain, timestamp};
use crate::local::state::Survives;

#[async_trait]
impl S3 for LocalS3 {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let bucket = request.input.bucket.clone();
        match self.files.create_bucket(request).await {
            // Creating one's own bucket again is no error in us-east-1, and scripts count on it.
            Err(error) if *error.code() != S3ErrorCode::BucketAlreadyExists => {
                return Err(explain(error));
            }
            _ => {}
        }
        let location = Some(format!("/{bucket}"));
        self.state.write(Survives::PowerLoss, move |tx| index::add_bucket(tx, &bucket, Utc::now())).await?;
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let bucket = request.input.bucket.clone();
        self.state.write(Survives::PowerLoss, move |tx| index::remove_bucket(tx, &bucket)).await?;
        self.files.delete_bucket(request).await.map_err(explain)
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.require_bucket(&request.input.bucket).await?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.require_bucket(&request.input.bucket).await?;
        // No location means us-east-1.
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        self.require_bucket(&request.input.bucket).await?;
        // No status means that versioning was never turned on.
        Ok(S3Response::new(GetBucketVersioningOutput::default()))
    }

    async fn list_buckets(
        &self,
        _request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let buckets = self.state.read(index::buckets).await?.into_iter().map(|(name, created_s)| Bucket {
            name: Some(name),
            creation_date: Some(timestamp(created_s)),
            bucket_region: None,
        });
        let buckets = Some(buckets.collect());
        Ok(S3Response::new(ListBucketsOutput { buckets, owner: Some(owner()), ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let encoding = Encoding::of(input.encoding_type.as_ref());
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let resume = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => Some(Resume::from_token(token).ok_or_else(|| {
                s3_error!(
                    InvalidArgument,
                    "the continuation token is not one that a listing of this stack gave out"
                )
            })?),
            (None, Some(key)) => Some(Resume::after(key, &prefix, delimiter.as_deref())),
            (None, None) => None,
        };
        let page = self.page(&input.bucket, prefix, delimiter, resume, input.max_keys).await?;
        let key_count = i32::try_from(page.entries.len()).ok();
        let next_continuation_token = page.next.as_ref().map(Resume::to_token);
        let (contents, common_prefixes) = encoding.lines(page, input.fetch_owner.unwrap_or(false));
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| encoding.apply(&prefix)),
            delimiter: input.delimiter.map(|delimiter| encoding.apply(&delimiter)),
            start_after: input.start_after.map(|key| encoding.apply(&key)),
            max_keys: Some(max_keys(input.max_keys)),
            encoding_type: input.encoding_type,
            continuation_token: input.continuation_token,
            is_truncated: Some(next_continuation_token.is_some()),
            next_continuation_token,
            key_count,
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            ..Default::default()
        }))
    }

    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = request.input;
        let encoding = Encoding::of(input.encoding_type.as_ref());
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let marker = input.marker.as_deref().filter(|marker| !marker.is_empty());
        let resume = marker.map(|marker| Resume::after(marker, &prefix, delimiter.as_deref()));
        let page = self.page(&input.bucket, prefix, delimiter, resume, input.max_keys).await?;
        let next_marker = page.next.as_ref().map(|next| match next {
            Resume::AfterKey(last) | Resume::AfterPrefix(last) => encoding.apply(last),
        });
        let (contents, common_prefixes) = encoding.lines(page, true);
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| encoding.apply(&prefix)),
            delimiter: input.delimiter.map(|delimiter| encoding.apply(&delimiter)),
            marker: Some(encoding.apply(input.marker.as_deref().unwrap_or(""))),
            max_keys: Some(max_keys(input.max_keys)),
            encoding_type: input.encoding_type,
            is_truncated: Some(next_marker.is_some()),
            next_marker,
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            ..Default::default()
        }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.put(request).await
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        self.copy(request).await
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.get(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.head(request).await
    }

    async fn get_object_tagging(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        // Nothing can be tagged here; clients ask before they copy a large object.
        self.find(&request.input.bucket, &request.input.key).await?;
        Ok(S3Response::new(GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let DeleteObjectInput { bucket, key, if_match, .. } = request.input;
        self.delete(&bucket, &key, WriteConditions { if_match, if_none_match: None }).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = request.input;
        self.require_bucket(&bucket).await?;
        let quiet = delete.quiet.unwrap_or(false);
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in delete.objects {
            match self.delete(&bucket, &object.key, WriteConditions::default()).await {
                Ok(()) if quiet => {}
                Ok(()) => deleted.push(DeletedObject { key: Some(object.key), ..Default::default() }),
                Err(error) => errors.push(Error {
                    key: Some(object.key),
                    message: Some(error.to_string()),
                    code: Some("InternalError".to_owned()),
                    version_id: None,
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            errors: Some(errors),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.create_upload(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.receive_part(request).await
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        self.copy_part(request).await
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.list_upload_parts(request).await
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        self.list_uploads(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.complete_upload(request).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.abort_upload(request).await
    }
}

impl LocalS3 {
    async fn require_bucket(&self, bucket: &str) -> S3Result<()> {
        let bucket = bucket.to_owned();
        Ok(self.state.read(move |connection| index::require_bucket(connection, &bucket)).await?)
    }

    async fn page(
        &self,
        bucket: &str,
        prefix: String,
        delimiter: Option<String>,
        resume: Option<Resume>,
        asked: Option<i32>,
    ) -> S3Result<Page> {
        if asked.is_some_and(|asked| asked < 0) {
            return Err(s3_error!(InvalidArgument, "max-keys must be 0 or more"));
        }
        self.require_bucket(bucket).await?;
        let max_entries = usize::try_from(max_keys(asked)).unwrap_or(0);
        let listing = Listing { bucket: bucket.to_owned(), prefix, delimiter, resume, max_entries };
        let page = self.state.read(move |connection| listing::page(connection, &listing)).await;
        Ok(page.map_err(super::StoreError::from)?)
    }
}

/// How keys are written in a listing: XML cannot carry every character, so clients ask for encoded ones.
#[derive(Debug, Clone, Copy)]
struct Encoding {
    url: bool,
}

impl Encoding {
    fn of(asked: Option<&EncodingType>) -> Self {
        Self { url: asked.is_some_and(|kind| kind.as_str() == EncodingType::URL) }
    }

    fn apply(self, text: &str) -> String {
        if self.url { encode_key(text) } else { text.to_owned() }
    }

    fn lines(self, page: Page, with_owner: bool) -> (Vec<Object>, Vec<CommonPrefix>) {
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for entry in page.entries {
            match entry {
                Entry::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(self.apply(&prefix)) }),
                Entry::Object(object) => objects.push(Object {
                    key: Some(self.apply(&object.key)),
                    size: i64::try_from(object.size_bytes).ok(),
                    e_tag: Some(ETag::Strong(object.etag)),
                    last_modified: Some(timestamp(object.modified_s)),
                    storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                    owner: with_owner.then(owner),
                    ..Default::default()
                }),
            }
        }
        (objects, prefixes)
    }
}

fn max_keys(asked: Option<i32>) -> i32 {
    let most = i32::try_from(MAX_PAGE_ENTRIES).unwrap_or(i32::MAX);
    asked.unwrap_or(most).min(most)
}

fn owner() -> Owner {
    Owner { display_name: None, id: Some(LOCAL_ACCESS_KEY_ID.to_owned()) }
}
