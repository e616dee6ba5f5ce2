//! Why an image has no answer yet: the last failure of each upload, kept until a later try answers it.
//!
//! A note that cannot be written costs no image. A note counts the tries of one upload in one stage; no reader sees
//! that of an upload which was answered since, whatever delivered it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::ReturnValue;
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::table::merged::{Merged, Range};
use crate::table::reader::text;
use crate::table::schema::{
    FAILURE_SK_START, LISTING_INDEX, SHARDS, failure_listing, failure_sk, failures_pk, result_pk, time_text,
};
use crate::table::writer::number;
use crate::{BATCH_KEYS, CurrentResult, QueryError, StoreError, TableReader, TableWriter};
use giemsa_core::object::ObjectRef;

/// Longest reason that is kept, characters.
const MAX_REASON_CHARS: usize = 1000;

/// Notes of answered uploads that are passed over in one listing; they are forgotten, so that the next one passes others.
const MAX_LOOKED_AT: usize = 1000;

/// Notes that are forgotten at once.
const FORGOTTEN_AT_ONCE: usize = 16;

/// What is said of an earlier delivery that left no note.
const UNKNOWN_REASON: &str =
    "an earlier delivery ended without a word: out of time or memory, or with its process";

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

impl<'a> NotedUpload<'a> {
    /// The upload that an event announces.
    pub fn of(object: &'a ObjectRef, stage: &'a str) -> Self {
        let object_version = object.version_id.as_deref().or(object.etag.as_deref()).unwrap_or_default();
        Self { bucket: &object.bucket, key: &object.key, stage, object_version }
    }
}

/// A model at work on an upload.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Run {
    /// SHA-256 of the model file.
    #[serde(rename = "run_model")]
    pub model: String,
    /// A name of the process that is no other's.
    #[serde(rename = "run_process")]
    pub process: String,
    /// When it began.
    #[serde(rename = "run_began_at")]
    pub began_at: DateTime<Utc>,
}

impl<'a> NotedUpload<'a> {
    fn of_note(note: &'a FailureNote) -> Self {
        let FailureNote { bucket, key, stage, object_version, .. } = note;
        Self { bucket, key, stage, object_version }
    }
}

impl TableWriter {
    /// Notes that `run` begins on an upload that was delivered before, and returns the run that is noted as not ended.
    ///
    /// It ends with the note of the upload, or with the next one that it failed.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn begin_run(&self, upload: NotedUpload<'_>, run: &Run) -> Result<Option<Run>, StoreError> {
        let now = time_text(run.began_at);
        let (listing_pk, listing_sk) =
            failure_listing(upload.stage, upload.key, upload.object_version, run.began_at);
        let request = self.dynamodb.update_item().table_name(&self.table);
        let sent = request
            .key("pk", text(result_pk(upload.stage, upload.bucket, upload.key)))
            .key("sk", text(failure_sk(upload.object_version)))
            .update_expression(
                "SET #bucket = :bucket, #key = :key, stage = :stage, object_version = :version, \
                 reason = if_not_exists(reason, :reason), tries = if_not_exists(tries, :one), \
                 first_failed_at = if_not_exists(first_failed_at, :now), \
                 last_failed_at = if_not_exists(last_failed_at, :now), \
                 listing_pk = if_not_exists(listing_pk, :listing_pk), \
                 listing_sk = if_not_exists(listing_sk, :listing_sk), \
                 run_model = :model, run_process = :process, run_began_at = :began",
            )
            .expression_attribute_names("#bucket", "bucket")
            .expression_attribute_names("#key", "key")
            .expression_attribute_values(":bucket", text(upload.bucket.to_owned()))
            .expression_attribute_values(":key", text(upload.key.to_owned()))
            .expression_attribute_values(":stage", text(upload.stage.to_owned()))
            .expression_attribute_values(":version", text(upload.object_version.to_owned()))
            .expression_attribute_values(":reason", text(UNKNOWN_REASON.to_owned()))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":now", text(now))
            .expression_attribute_values(":listing_pk", text(listing_pk))
            .expression_attribute_values(":listing_sk", text(listing_sk))
            .expression_attribute_values(":model", text(run.model.clone()))
            .expression_attribute_values(":process", text(run.process.clone()))
            .expression_attribute_values(":began", text(run.began_at.to_rfc3339()))
            .return_values(ReturnValue::UpdatedOld)
            .send()
            .await;
        let before = sent.map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?.attributes;
        let before = before.filter(|before| before.contains_key("run_model"));
        before.map(serde_dynamo::from_item).transpose().map_err(|error| self.failed(error.to_string()))
    }

    /// Notes that a run of which nothing else is to be said has ended.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn end_run(&self, upload: NotedUpload<'_>) -> Result<(), StoreError> {
        let request = self.dynamodb.update_item().table_name(&self.table);
        let sent = request
            .key("pk", text(result_pk(upload.stage, upload.bucket, upload.key)))
            .key("sk", text(failure_sk(upload.object_version)))
            .update_expression("REMOVE run_model, run_process, run_began_at")
            .send()
            .await;
        sent.map(drop).map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }

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
                 listing_pk = :listing_pk, listing_sk = :listing_sk \
                 REMOVE run_model, run_process, run_began_at ADD tries :one",
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

impl FailureNote {
    /// Whether the current result of the key answers the upload, or a later one that replaced it.
    fn is_answered_by(&self, result: &CurrentResult) -> bool {
        let version = Some(self.object_version.as_str()).filter(|version| !version.is_empty());
        let is_of_it = version.is_some_and(|version| {
            [&result.version_id, &result.etag].iter().any(|own| own.as_deref() == Some(version))
        });
        is_of_it || result.uploaded_at > self.first_failed_at
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
        let notes = self.all_items(query).await?.into_iter().map(|item| self.read_item(item));
        self.unanswered(stage, notes.collect::<Result<_, _>>()?).await
    }

    /// Those of `notes` whose uploads are not answered; the others are forgotten.
    ///
    /// Whoever answers an upload looks for its note only if the trigger says that it came before; redriven, found by
    /// `reconcile` or given to a backfill, it seems to come for the first time.
    async fn unanswered(&self, stage: &str, notes: Vec<FailureNote>) -> Result<Vec<FailureNote>, QueryError> {
        let writer = TableWriter::new(self.dynamodb.clone(), &self.table);
        let mut by_bucket: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for note in &notes {
            by_bucket.entry(note.bucket.clone()).or_default().insert(note.key.clone());
        }
        let mut results = HashMap::new();
        for (bucket, keys) in &by_bucket {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            for keys in keys.chunks(BATCH_KEYS) {
                let found = self.current_results(bucket, keys, stage).await?;
                results.extend(found.into_iter().map(|(key, result)| ((bucket.clone(), key), result)));
            }
        }
        let (answered, open): (Vec<FailureNote>, Vec<FailureNote>) = notes.into_iter().partition(|note| {
            let result = results.get(&(note.bucket.clone(), note.key.clone()));
            result.is_some_and(|result| note.is_answered_by(result))
        });
        let forgotten = answered.iter().map(|note| writer.forget_failure(NotedUpload::of_note(note)));
        let forgotten: Vec<_> = forgotten.collect();
        stream::iter(forgotten)
            .buffer_unordered(FORGOTTEN_AT_ONCE)
            .for_each(async |forgotten| {
                if let Err(error) = forgotten {
                    tracing::debug!(%error, "cannot remove the note of an answered upload");
                }
            })
            .await;
        Ok(open)
    }

    /// What fails in a stage and is not answered yet, last failure first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn failures_listed(&self, stage: &str, limit: usize) -> Result<Vec<FailureNote>, QueryError> {
        let pks = SHARDS.chars().map(|shard| failures_pk(stage, shard.encode_utf8(&mut [0; 4]))).collect();
        let mut rows = Merged::new(self, LISTING_INDEX, pks, Range::default(), limit);
        let mut notes = Vec::new();
        let mut looked_at = 0;
        while notes.len() < limit && looked_at < MAX_LOOKED_AT {
            let mut found = Vec::new();
            while notes.len() + found.len() < limit
                && found.len() < BATCH_KEYS
                && let Some(row) = rows.next().await?
            {
                found.push(self.read_item(row.item)?);
            }
            if found.is_empty() {
                break;
            }
            looked_at += found.len();
            notes.append(&mut self.unanswered(stage, found).await?);
        }
        Ok(notes)
    }
}
