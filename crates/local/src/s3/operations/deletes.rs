//! Deletions: of a key, of one version of it, and of many at once.
//!
//! In a versioned bucket a deletion is a delete marker, unless it names a version.

use chrono::Utc;
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, Error,
    ObjectIdentifier,
};
use s3s::{S3Request, S3Response, S3Result};

use crate::s3::operations::conditions::WriteConditions;
use crate::s3::operations::objects::LocalS3;
use crate::s3::rows::changes::{self, Deleted};
use crate::s3::rows::versions::Wanted;
use crate::state::Survives;

impl LocalS3 {
    pub(crate) async fn delete_one(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let DeleteObjectInput { bucket, key, version_id, if_match, .. } = request.input;
        let conditions = WriteConditions { if_match, if_none_match: None };
        let deleted = self.delete(&bucket, &key, version_id.as_deref(), conditions).await?;
        Ok(S3Response::new(DeleteObjectOutput {
            delete_marker: deleted.is_marker.then_some(true),
            version_id: deleted.version_id,
            ..Default::default()
        }))
    }

    pub(crate) async fn delete_all(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = request.input;
        self.require_bucket(&bucket).await?;
        let quiet = delete.quiet.unwrap_or(false);
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for ObjectIdentifier { key, version_id, .. } in delete.objects {
            match self.delete(&bucket, &key, version_id.as_deref(), WriteConditions::default()).await {
                Ok(_) if quiet => {}
                Ok(done) => deleted.push(DeletedObject {
                    key: Some(key),
                    delete_marker: done.is_marker.then_some(true),
                    delete_marker_version_id: done.version_id.filter(|_| done.is_marker),
                    // The version that was asked for, not the one that was made.
                    version_id,
                }),
                Err(error) => errors.push(Error {
                    key: Some(key),
                    message: error.message().map(str::to_owned),
                    code: Some(error.code().as_str().to_owned()),
                    version_id,
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            errors: Some(errors),
            ..Default::default()
        }))
    }

    /// Deletes a key or a version of it; it is not an error if there is none.
    async fn delete(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
        conditions: WriteConditions,
    ) -> S3Result<Deleted> {
        let wanted = Wanted::of(key, version_id)?;
        let (in_bucket, of_key) = (bucket.to_owned(), key.to_owned());
        let mut deleted = self
            .state
            .write(Survives::PowerLoss, move |tx| {
                changes::delete(tx, &in_bucket, &of_key, wanted, &conditions, Utc::now())
            })
            .await?;
        self.blobs.remove(std::mem::take(&mut deleted.unused)).await;
        Ok(deleted)
    }
}
