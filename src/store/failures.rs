//! Why an image has no answer yet: the last failure of each upload, kept until a later try answers it.
//!
//! It never decides anything, and a note that cannot be written costs no image. Invariant: a note counts the tries of
//! one upload in one stage; an upload that is answered on a later try has none.

use aws_sdk_dynamodb::error::DisplayErrorContext;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::merged::{Merged, Range};
use super::queries::text;
use super::schema::{
    FAILURE_SK_START, LISTING_INDEX, SHARDS, failure_listing, failure_sk, failures_pk, result_pk, time_text,
};
use super::table::number;
use super::{QueryError, StoreError, TableReader, TableWriter};

/// Longest reason that is kept, characters.
const MAX_REASON_CHARS: usize = 1000;

/// Why an upload was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureNote {
    /// Bucket name.
    pub bucket: String,
    /// Object key.
    pub key: String,
    /// The stage.
    pub stage: String,
    /// Version, or else ETag, of the upload as its event names it; empty if the event names neither.
    pub object_version: String,
    /// What went wrong the last time, a sentence.
    pub reason: String,
    /// Tries that failed.
    pub tries: u64,
    /// When the first of them failed.
    pub first_failed_at: DateTime<Utc>,
    /// When the last of them failed.
    pub last_failed_at: DateTime<Utc>,
}

/// One upload in one stage, as a note is filed.
#[derive(Debug, Clone, Copy)]
pub struct NotedUpload<'a> {
    /// Bucket name.
    pub bucket: &'a str,
    /// Object key.
    pub key: &'a str,
    /// The stage.
    pub stage: &'a str,
    /// Version, or else ETag, as the event names it.
    pub object_version: &'a str,
}

impl TableWriter {
    /// Notes one more failed try of an upload.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn note_failure(
        &self,
        upload: NotedUpload<'_>,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
        let (listing_pk, listing_sk) = failure_listing(upload.stage, upload.key, upload.object_version, now);
        let request = self.dynamodb.update_item().table_name(&self.table);
        let sent = request
            .key("pk", text(result_pk(upload.stage, upload.bucket, upload.key)))
            .key("sk", text(failure_sk(upload.object_version)))
            .update_expression(
                "SET #bucket = :bucket, #key = :key, stage = :stage, object_version = :version, reason = :reason, \
                 first_failed_at = if_not_exists(first_failed_at, :now), last_failed_at = :now, \
                 listing_pk = :listing_pk, listing_sk = :listing_sk ADD tries :one",
            )
            .expression_attribute_names("#bucket", "bucket")
            .expression_attribute_names("#key", "key")
            .expression_attribute_values(":bucket", text(upload.bucket.to_owned()))
            .expression_attribute_values(":key", text(upload.key.to_owned()))
            .expression_attribute_values(":stage", text(upload.stage.to_owned()))
            .expression_attribute_values(":version", text(upload.object_version.to_owned()))
            .expression_attribute_values(":reason", text(reason))
            .expression_attribute_values(":now", text(time_text(now)))
            .expression_attribute_values(":listing_pk", text(listing_pk))
            .expression_attribute_values(":listing_sk", text(listing_sk))
            .expression_attribute_values(":one", number(1))
            .send()
            .await;
        sent.map(drop).map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }

    /// Takes the note of an upload away, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn forget_failure(&self, upload: NotedUpload<'_>) -> Result<(), StoreError> {
        let request = self.dynamodb.delete_item().table_name(&self.table);
        let sent = request
            .key("pk", text(result_pk(upload.stage, upload.bucket, upload.key)))
            .key("sk", text(failure_sk(upload.object_version)))
            .send()
            .await;
        sent.map(drop).map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }
}

impl TableReader {
    /// The failures of a key's uploads in a stage that no later try has answered.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn failures(
        &self,
        bucket: &str,
        key: &str,
        stage: &str,
    ) -> Result<Vec<FailureNote>, QueryError> {
        let query = self
            .query(None, "pk = :pk AND begins_with(sk, :sk)")
            .expression_attribute_values(":pk", text(result_pk(stage, bucket, key)))
            .expression_attribute_values(":sk", text(FAILURE_SK_START.to_owned()));
        self.all_items(query).await?.into_iter().map(|item| self.read_item(item)).collect()
    }

    /// What fails in a stage and is not answered yet, last failure first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn failures_listed(&self, stage: &str, limit: usize) -> Result<Vec<FailureNote>, QueryError> {
        let pks = SHARDS.chars().map(|shard| failures_pk(stage, shard.encode_utf8(&mut [0; 4]))).collect();
        let mut rows = Merged::new(self, LISTING_INDEX, pks, Range::default(), limit);
        let mut notes = Vec::new();
        while notes.len() < limit
            && let Some(row) = rows.next().await?
        {
            notes.push(self.read_item(row.item)?);
        }
        Ok(notes)
    }
}
