//! Writes the current result of each image, and the model ledger, to DynamoDB.
//!
//! It never replaces a newer image's result by an older one's. Invariant: writing the same record again
//! leaves the same item.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::results::upload_day;
use super::schema::{
    LabelOrRejected, image_pk, label_pk, model_index_pk, model_pk, result_sk, review_pk, slide_pk, time_text,
};
use crate::classification::{ModelInfo, Record, Status};
use crate::object::Sequencer;

/// A DynamoDB item.
pub(super) type Item = HashMap<String, AttributeValue>;

/// DynamoDB refuses index keys of more bytes; a sort key may have 1,024.
const MAX_SORT_KEY_BYTES: usize = 1024;

/// Writes to the table.
#[derive(Debug, Clone)]
pub struct TableWriter {
    pub(super) dynamodb: Client,
    pub(super) table: String,
}

/// One entry of the model ledger: which model a stage serves from when on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The stage.
    pub stage: String,
    /// When the model's file was put in its place, or was let serve by its report if that came later.
    pub released_at: DateTime<Utc>,
    /// The model.
    pub model: ModelInfo,
}

impl TableWriter {
    /// Writes to `table`.
    pub fn new(dynamodb: Client, table: impl Into<String>) -> Self {
        Self { dynamodb, table: table.into() }
    }

    /// Makes `record` the current result of its image and stage, unless a newer image's result is there.
    ///
    /// Newer is decided by the sequencers of the two writes if both are known, or else by the upload times.
    /// Returns whether the table holds this record now.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn put_current(
        &self,
        record: &Record,
        sequencer: Option<&Sequencer>,
    ) -> Result<bool, StoreError> {
        let uploaded_ms = record.image.uploaded_at.map_or(0, |at| at.timestamp_millis());
        let by_time = "uploaded_ms <= :uploaded_ms";
        let mut request = self.dynamodb.put_item();
        let condition = match sequencer {
            Some(sequencer) => {
                let text = AttributeValue::S(sequencer.as_str().to_owned());
                request = request.expression_attribute_values(":sequencer", text);
                format!(
                    "attribute_not_exists(pk) OR sequencer <= :sequencer \
                     OR (attribute_not_exists(sequencer) AND {by_time})"
                )
            }
            None => format!("attribute_not_exists(pk) OR {by_time}"),
        };
        let sent = request
            .table_name(&self.table)
            .set_item(Some(item_of(record, sequencer, uploaded_ms)?))
            .condition_expression(condition)
            .expression_attribute_values(":uploaded_ms", AttributeValue::N(uploaded_ms.to_string()))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(true),
            Err(error)
                if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                Ok(false)
            }
            Err(error) => Err(self.failed(DisplayErrorContext(&error).to_string())),
        }
    }

    /// Records that a stage serves a model; the same entry whoever writes it and however often.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn put_ledger(&self, entry: &LedgerEntry) -> Result<(), StoreError> {
        let mut item: Item = serde_dynamo::to_item(entry).map_err(|e| self.failed(e.to_string()))?;
        let sk = format!("{}#{}", time_text(entry.released_at), entry.model.sha256);
        item.insert("pk".to_owned(), AttributeValue::S(model_pk(&entry.stage)));
        item.insert("sk".to_owned(), AttributeValue::S(sk));
        let sent = self.dynamodb.put_item().table_name(&self.table).set_item(Some(item)).send().await;
        sent.map(drop).map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }

    pub(super) fn failed(&self, detail: String) -> StoreError {
        StoreError::Table { table: self.table.clone(), detail }
    }
}

fn item_of(record: &Record, sequencer: Option<&Sequencer>, uploaded_ms: i64) -> Result<Item, StoreError> {
    let key = &record.image.key;
    let mut item: Item = serde_dynamo::to_item(record)
        .map_err(|e| StoreError::Item { key: key.clone(), detail: e.to_string() })?;
    let mut put = |name: &str, text: String| item.insert(name.to_owned(), AttributeValue::S(text));
    let shard = &record.result_id[..1];
    let which = match (record.status, &record.label) {
        (Status::Classified, Some(label)) => LabelOrRejected::Label(label.clone()),
        _ => LabelOrRejected::Rejected,
    };
    let uploaded = record.image.uploaded_at.map_or_else(|| "unknown".to_owned(), time_text);
    put("pk", image_pk(&record.image.bucket, key));
    put("sk", result_sk(&record.stage));
    put("slide_pk", slide_pk(&record.stage, &record.slide));
    // An S3 key has at most as many bytes as a sort key may have.
    put("slide_sk", key[..key.floor_char_boundary(MAX_SORT_KEY_BYTES)].to_owned());
    put("label_pk", label_pk(&record.stage, &which, &upload_day(record), shard));
    put("label_sk", format!("{uploaded}#{}", record.result_id));
    put("model_pk", model_index_pk(&record.stage, &record.model.sha256, shard));
    put("model_sk", format!("{uploaded}#{}", record.result_id));
    if record.needs_review {
        put("review_pk", review_pk(&record.stage, shard));
        put("review_sk", format!("{:.6}#{}", record.suspicion(), record.result_id));
    }
    if let Some(sequencer) = sequencer {
        put("sequencer", sequencer.as_str().to_owned());
    }
    item.insert("uploaded_ms".to_owned(), AttributeValue::N(uploaded_ms.to_string()));
    Ok(item)
}
