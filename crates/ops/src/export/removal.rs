//! Deletes the result objects that a day's compacted files hold.
//!
//! It never deletes an object that was listed with another ETag than its row has. What it deletes was read back from S3
//! in a file before.

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures::TryStreamExt;

use super::ExportError;
use super::day::{Day, ResultsBucket};
use super::part::{MergedRows, Part};

/// Objects that S3 deletes at once.
const BATCH: usize = 1_000;

impl ResultsBucket {
    /// Deletes, and returns how many; `seen` is told of each batch.
    pub(super) async fn delete_json(
        &self,
        day: &Day,
        parts: &[Part],
        mut seen: impl FnMut(u64),
    ) -> Result<u64, ExportError> {
        let mut rows = MergedRows::of(self, parts).await?;
        // Listed anew: what arrived or changed since it was read stays.
        let mut listed = std::pin::pin!(self.objects(self.json_folder(day)));
        let mut batch = Vec::new();
        let mut deleted = 0;
        while let Some(object) = listed.try_next().await? {
            while rows.next_key().is_some_and(|key| *key < *object.key) {
                rows.next().await?;
            }
            if rows.next_key() != Some(&object.key) {
                continue;
            }
            let is_same = rows.next().await?.is_some_and(|row| row.object.etag == object.etag);
            match is_same {
                true if object.key.chars().any(char::is_control) => {
                    // A request that names several is XML, which cannot hold such characters.
                    let delete = self.s3.delete_object().bucket(&self.name).key(&object.key);
                    delete.send().await.map_err(|e| self.failed("DeleteObject", &object.key, &e))?;
                    deleted += 1;
                }
                true => batch.push(object.key),
                false => {}
            }
            if batch.len() == BATCH {
                deleted += self.delete_batch(std::mem::take(&mut batch)).await?;
                seen(deleted);
            }
        }
        if !batch.is_empty() {
            deleted += self.delete_batch(batch).await?;
            seen(deleted);
        }
        Ok(deleted)
    }

    async fn delete_batch(&self, keys: Vec<String>) -> Result<u64, ExportError> {
        let count = keys.len() as u64;
        let first = keys.first().cloned().unwrap_or_default();
        let objects = keys.into_iter().map(|key| ObjectIdentifier::builder().key(key).build());
        let objects = objects.collect::<Result<_, _>>().expect("each has its key");
        let delete =
            Delete::builder().set_objects(Some(objects)).quiet(true).build().expect("it has objects");
        let answer = self.s3.delete_objects().bucket(&self.name).delete(delete).send().await;
        let answer = answer.map_err(|e| self.failed("DeleteObjects", &first, &e))?;
        match answer.errors().first() {
            None => Ok(count),
            Some(error) => Err(self.failed_with(
                "DeleteObjects",
                error.key().unwrap_or_default(),
                format!("{} {}", error.code().unwrap_or_default(), error.message().unwrap_or_default()),
            )),
        }
    }
}
