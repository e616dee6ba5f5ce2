//! The operations of S3 that the local stack answers: a table of them, and those of buckets.
//!
//! What is not here, s3s answers with `NotImplemented`.

use async_trait::async_trait;
use chrono::Utc;
use s3s::dto::{self, Bucket, BucketVersioningStatus, MFADelete, VersioningConfiguration};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use crate::s3::operations::list_answers::owner;
use crate::s3::operations::objects::{LocalS3, timestamp};
use crate::s3::rows::buckets::{self, Versioning};
use crate::s3::rows::versions::Wanted;
use crate::state::Survives;

/// Implements each operation of s3s, by the name of its messages, with a method of [`LocalS3`].
macro_rules! operations {
    ($($operation:ident: $input:ident => $output:ident by $method:ident;)+) => {
        #[async_trait]
        impl S3 for LocalS3 {
            $(
                async fn $operation(
                    &self,
                    request: S3Request<dto::$input>,
                ) -> S3Result<S3Response<dto::$output>> {
                    self.$method(request).await
                }
            )+
        }
    };
}

operations! {
    create_bucket: CreateBucketInput => CreateBucketOutput by make_bucket;
    delete_bucket: DeleteBucketInput => DeleteBucketOutput by remove_bucket;
    head_bucket: HeadBucketInput => HeadBucketOutput by find_bucket;
    get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput by locate_bucket;
    get_bucket_versioning: GetBucketVersioningInput => GetBucketVersioningOutput by read_versioning;
    put_bucket_versioning: PutBucketVersioningInput => PutBucketVersioningOutput by set_versioning;
    list_buckets: ListBucketsInput => ListBucketsOutput by all_buckets;
    list_objects_v2: ListObjectsV2Input => ListObjectsV2Output by list_by_token;
    list_objects: ListObjectsInput => ListObjectsOutput by list_by_marker;
    list_object_versions: ListObjectVersionsInput => ListObjectVersionsOutput by list_versions;
    put_object: PutObjectInput => PutObjectOutput by put;
    copy_object: CopyObjectInput => CopyObjectOutput by copy;
    get_object: GetObjectInput => GetObjectOutput by get;
    head_object: HeadObjectInput => HeadObjectOutput by head;
    get_object_tagging: GetObjectTaggingInput => GetObjectTaggingOutput by find_tags;
    delete_object: DeleteObjectInput => DeleteObjectOutput by delete_one;
    delete_objects: DeleteObjectsInput => DeleteObjectsOutput by delete_all;
    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput by create_upload;
    upload_part: UploadPartInput => UploadPartOutput by receive_part;
    upload_part_copy: UploadPartCopyInput => UploadPartCopyOutput by copy_part;
    list_parts: ListPartsInput => ListPartsOutput by list_upload_parts;
    list_multipart_uploads: ListMultipartUploadsInput => ListMultipartUploadsOutput by list_uploads;
    complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput by complete_upload;
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput by abort_upload;
}

impl LocalS3 {
    async fn make_bucket(
        &self,
        request: S3Request<dto::CreateBucketInput>,
    ) -> S3Result<S3Response<dto::CreateBucketOutput>> {
        let bucket = request.input.bucket;
        // Creating one's own bucket again is not an error in us-east-1, and scripts count on it.
        let location = Some(format!("/{bucket}"));
        self.state.write(Survives::PowerLoss, move |tx| buckets::add(tx, &bucket, Utc::now())).await?;
        Ok(S3Response::new(dto::CreateBucketOutput { location }))
    }

    async fn remove_bucket(
        &self,
        request: S3Request<dto::DeleteBucketInput>,
    ) -> S3Result<S3Response<dto::DeleteBucketOutput>> {
        let bucket = request.input.bucket;
        self.state.write(Survives::PowerLoss, move |tx| buckets::remove(tx, &bucket)).await?;
        Ok(S3Response::new(dto::DeleteBucketOutput {}))
    }

    async fn find_bucket(
        &self,
        request: S3Request<dto::HeadBucketInput>,
    ) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        self.require_bucket(&request.input.bucket).await?;
        Ok(S3Response::new(dto::HeadBucketOutput::default()))
    }

    async fn locate_bucket(
        &self,
        request: S3Request<dto::GetBucketLocationInput>,
    ) -> S3Result<S3Response<dto::GetBucketLocationOutput>> {
        self.require_bucket(&request.input.bucket).await?;
        // No location means us-east-1.
        Ok(S3Response::new(dto::GetBucketLocationOutput::default()))
    }

    async fn read_versioning(
        &self,
        request: S3Request<dto::GetBucketVersioningInput>,
    ) -> S3Result<S3Response<dto::GetBucketVersioningOutput>> {
        let status = self.require_bucket(&request.input.bucket).await?.status();
        let status = status.map(BucketVersioningStatus::from_static);
        Ok(S3Response::new(dto::GetBucketVersioningOutput { status, mfa_delete: None }))
    }

    async fn set_versioning(
        &self,
        request: S3Request<dto::PutBucketVersioningInput>,
    ) -> S3Result<S3Response<dto::PutBucketVersioningOutput>> {
        let dto::PutBucketVersioningInput { bucket, versioning_configuration, .. } = request.input;
        let VersioningConfiguration { status, mfa_delete } = versioning_configuration;
        if mfa_delete.is_some_and(|mfa| mfa.as_str() == MFADelete::ENABLED) {
            return Err(s3_error!(NotImplemented, "the local stack has no devices for MFA delete"));
        }
        let versioning = status.as_ref().and_then(Versioning::of_status).ok_or_else(|| {
            s3_error!(IllegalVersioningConfigurationException, "the status must be Enabled or Suspended")
        })?;
        self.state
            .write(Survives::PowerLoss, move |tx| buckets::set_versioning(tx, &bucket, versioning))
            .await?;
        Ok(S3Response::new(dto::PutBucketVersioningOutput {}))
    }

    async fn all_buckets(
        &self,
        _request: S3Request<dto::ListBucketsInput>,
    ) -> S3Result<S3Response<dto::ListBucketsOutput>> {
        let buckets = self.state.read(buckets::all).await?.into_iter().map(|(name, created_s)| Bucket {
            name: Some(name),
            creation_date: Some(timestamp(created_s)),
            bucket_region: None,
        });
        let buckets = Some(buckets.collect());
        Ok(S3Response::new(dto::ListBucketsOutput { buckets, owner: Some(owner()), ..Default::default() }))
    }

    async fn find_tags(
        &self,
        request: S3Request<dto::GetObjectTaggingInput>,
    ) -> S3Result<S3Response<dto::GetObjectTaggingOutput>> {
        // Nothing can be tagged here; clients ask before they copy a large object.
        let dto::GetObjectTaggingInput { bucket, key, version_id, .. } = request.input;
        let found = self.find(&bucket, &key, Wanted::of(&key, version_id.as_deref())?).await?;
        Ok(S3Response::new(dto::GetObjectTaggingOutput { tag_set: Vec::new(), version_id: found.version_id }))
    }

    pub(crate) async fn require_bucket(&self, bucket: &str) -> S3Result<Versioning> {
        let bucket = bucket.to_owned();
        Ok(self.state.read(move |connection| buckets::require(connection, &bucket)).await?)
    }
}
