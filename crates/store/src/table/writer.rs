//! Writes the current result of each image, and the model ledger, to DynamoDB.
//!
//! It never replaces a result without a condition on what is there; `current.rs` decides which. Writing the same record
//! again leaves the same item.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::results::{UNKNOWN_DAY, upload_day};
use crate::table::schema::{
    LabelOrRejected, MAX_SORT_KEY_BYTES, RESULT_SK, label_pk, model_index_pk, model_pk, recent_pk, result_pk,
    review_pk, slide_pk, time_text, withdrawn_pk, withdrawn_slide_pk,
};
use giemsa_core::object::Sequencer;
use giemsa_core::record::{ModelInfo, Record, Status, Withdrawn};

/// A DynamoDB item.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// Writes to the table.
#[derive(Debug, Clone)]
pub struct TableWriter {
    pub(crate) dynamodb: Client,
    pub(crate) table: String,
}

/// What a record may be put in the place of; nothing at all is always allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Over<'a> {
    /// A result of the same upload, or of one that its sequencer shows to be earlier.
    SameOrEarlier,
    /// A result of an upload that its sequencer shows to be earlier.
    Earlier,
    /// This very result.
    Held(&'a HeldResult),
    /// A withdrawn result of the same upload; what is written is withdrawn as well.
    Withdrawn,
}

/// What the table holds as the current result of an image and stage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeldResult {
    pub(crate) record: Record,
    pub(crate) sequencer: Option<Sequencer>,
}

impl HeldResult {
    /// The withdrawal that a result of the same upload keeps.
    pub(crate) fn withdrawal_of(&self, record: &Record) -> Option<&Withdrawn> {
        let is_same = self.record.image.object_version() == record.image.object_version();
        self.record.withdrawn.as_ref().filter(|_| is_same)
    }
}

/// What became of a record.
#[derive(Debug)]
pub(crate) enum PutResult {
    /// The table holds it; with the upload day of the result that was there, if there was one.
    Written(Option<String>),
    /// The table holds what may not be replaced.
    Taken(Box<HeldResult>),
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

    /// Puts `record` in the place of the current result of its image and stage, if `over` allows it for what is there.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it, or holds something there that no record is.
    pub(crate) async fn put_result(
        &self,
        record: &Record,
        sequencer: Option<&Sequencer>,
        over: Over<'_>,
    ) -> Result<PutResult, StoreError> {
        let request = self.dynamodb.put_item().table_name(&self.table);
        let request = request.set_item(Some(item_of(record, sequencer)?));
        let sent = over
            .restrict(request, record, sequencer)
            .return_values(ReturnValue::AllOld)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let error = match sent {
            Ok(put) => {
                let replaced = put.attributes.and_then(|item| day_of(&item));
                return Ok(PutResult::Written(replaced));
            }
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(refused)) => {
                let item = refused.item().cloned().unwrap_or_default();
                let sequencer = sequencer_of(&item);
                let record = serde_dynamo::from_item(item).map_err(|e| {
                    self.failed(format!("the result of {:?} that is there: {e}", record.image.key))
                })?;
                Ok(PutResult::Taken(Box::new(HeldResult { record, sequencer })))
            }
            _ => Err(self.failed(DisplayErrorContext(&error).to_string())),
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

    pub(crate) fn failed(&self, detail: String) -> StoreError {
        StoreError::Table { table: self.table.clone(), detail }
    }
}

impl Over<'_> {
    fn restrict(
        &self,
        request: PutItemFluentBuilder,
        record: &Record,
        sequencer: Option<&Sequencer>,
    ) -> PutItemFluentBuilder {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let position = |request: PutItemFluentBuilder, sequencer: &Sequencer| {
            request.expression_attribute_values(":sequencer", text(sequencer.as_str()))
        };
        // A withdrawal is of one upload, and holds however often that is answered.
        let counts = |request: PutItemFluentBuilder, condition: String| {
            request
                .condition_expression(format!(
                    "({condition}) AND (attribute_not_exists(withdrawn) OR object_version <> :own_version)"
                ))
                .expression_attribute_values(":own_version", text(record.image.object_version()))
        };
        match (self, sequencer) {
            (Self::Held(held), _) => request
                .condition_expression("result_id = :held")
                .expression_attribute_values(":held", text(&held.record.result_id)),
            (Self::Withdrawn, _) => request
                .condition_expression("attribute_exists(withdrawn) AND object_version = :own_version")
                .expression_attribute_values(":own_version", text(record.image.object_version())),
            (Self::Earlier, Some(sequencer)) => counts(
                position(request, sequencer),
                "attribute_not_exists(pk) OR sequencer < :sequencer".to_owned(),
            ),
            (Self::Earlier, None) => request.condition_expression("attribute_not_exists(pk)"),
            (Self::SameOrEarlier, _) => {
                let (same, version) = match &record.image.version_id {
                    Some(version_id) => ("#image.version_id = :version", version_id.as_str()),
                    None => (
                        "attribute_not_exists(#image.version_id) AND #image.etag = :version",
                        record.image.etag.as_deref().unwrap_or_default(),
                    ),
                };
                let request = request
                    .expression_attribute_names("#image", "image")
                    .expression_attribute_values(":version", text(version));
                match sequencer {
                    Some(sequencer) => counts(
                        position(request, sequencer),
                        format!(
                            "attribute_not_exists(pk) OR sequencer <= :sequencer \
                             OR (attribute_not_exists(sequencer) AND {same})"
                        ),
                    ),
                    None => counts(request, format!("attribute_not_exists(pk) OR ({same})")),
                }
            }
        }
    }
}

/// Upload day of a result of any version of this software, by its place in the label index.
fn day_of(item: &Item) -> Option<String> {
    let label_pk = item.get("label_pk")?.as_s().ok()?;
    label_pk.rsplit('#').nth(1).map(str::to_owned)
}

pub(crate) fn sequencer_of(item: &Item) -> Option<Sequencer> {
    item.get("sequencer").and_then(|s| s.as_s().ok()).and_then(|s| Sequencer::parse(s))
}

/// The attributes of an item that say where its record is found, beside its own.
pub(crate) fn key_attributes(record: &Record) -> Vec<(&'static str, String)> {
    let key = &record.image.key;
    let shard = &record.result_id[..1];
    let which = match (record.status, &record.label) {
        (Status::Classified, Some(label)) => LabelOrRejected::Label(label.clone()),
        _ => LabelOrRejected::Rejected,
    };
    let uploaded = record.image.uploaded_at.map_or_else(|| UNKNOWN_DAY.to_owned(), time_text);
    let by_time = format!("{uploaded}#{}", record.result_id);
    let of_slide = slide_pk(&record.stage, &record.slide);
    let day = upload_day(record);
    let by_suspicion = format!("{}{}", suspicion_start(record), record.result_id);
    let object_version = ("object_version", record.image.object_version().to_owned());
    if record.withdrawn.is_some() {
        let of_slide = withdrawn_slide_pk(&record.stage, &record.slide);
        return vec![
            ("recent_pk", withdrawn_pk(&record.stage, shard)),
            ("recent_sk", by_time.clone()),
            ("arrival_pk", of_slide.clone()),
            ("arrival_sk", by_time),
            ("suspect_pk", of_slide),
            ("suspect_sk", by_suspicion),
            object_version,
        ];
    }
    vec![
        ("slide_pk", of_slide.clone()),
        // An S3 key has at most as many bytes as a sort key may have.
        ("slide_sk", key[..key.floor_char_boundary(MAX_SORT_KEY_BYTES)].to_owned()),
        ("label_pk", label_pk(&record.stage, &which, &day, shard)),
        ("label_sk", by_time.clone()),
        ("model_pk", model_index_pk(&record.stage, &record.model.sha256, shard)),
        ("model_sk", by_time.clone()),
        ("recent_pk", recent_pk(&record.stage, &day, shard)),
        ("recent_sk", by_time.clone()),
        ("arrival_pk", of_slide.clone()),
        ("arrival_sk", by_time),
        ("suspect_pk", of_slide),
        ("suspect_sk", by_suspicion),
        object_version,
    ]
}

/// Places in indexes that a withdrawn record has not.
pub(crate) const PLACES_OF_COUNTED: [&str; 8] =
    ["slide_pk", "slide_sk", "label_pk", "label_sk", "model_pk", "model_sk", "review_pk", "review_sk"];

/// How the sort keys of the index `suspect` begin that images of the same answer and bytes share.
pub(crate) fn suspicion_start(record: &Record) -> String {
    let content = record.content().map(|digits| format!("{digits}#")).unwrap_or_default();
    format!("{:.6}#{content}", suspicion_on_slide(record))
}

/// Suspicion and content, as a sort key of the index `suspect` has them.
pub(crate) fn suspicion_and_content(sk: &str) -> (f64, Option<&str>) {
    let mut parts = sk.split('#');
    let suspicion = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    // The result id is last.
    let content = parts.next().filter(|_| parts.next().is_some());
    (suspicion, content)
}

/// Partition and sort key of a record in the review queue.
pub(crate) fn review_keys(record: &Record) -> (String, String) {
    let shard = &record.result_id[..1];
    (review_pk(&record.stage, shard), format!("{:.6}#{}", record.suspicion(), record.result_id))
}

/// Order of a record among those of its slide, 0 to 1: nothing is known of a rejected image, which so hides no positive.
fn suspicion_on_slide(record: &Record) -> f64 {
    match record.status {
        Status::Classified => record.suspicion(),
        Status::Rejected => 0.5,
    }
}

pub(crate) fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(crate) fn item_of(record: &Record, sequencer: Option<&Sequencer>) -> Result<Item, StoreError> {
    let key = &record.image.key;
    let uploaded_ms = record.image.uploaded_at.map_or(0, |at| at.timestamp_millis());
    let mut item: Item = serde_dynamo::to_item(record)
        .map_err(|e| StoreError::Item { key: key.clone(), detail: e.to_string() })?;
    let mut put = |name: &str, text: String| item.insert(name.to_owned(), AttributeValue::S(text));
    put("pk", result_pk(&record.stage, &record.image.bucket, key));
    put("sk", RESULT_SK.to_owned());
    for (name, value) in key_attributes(record) {
        put(name, value);
    }
    if record.needs_review && record.withdrawn.is_none() {
        let (pk, sk) = review_keys(record);
        put("review_pk", pk);
        put("review_sk", sk);
    }
    if let Some(sequencer) = sequencer {
        put("sequencer", sequencer.as_str().to_owned());
    }
    item.insert("uploaded_ms".to_owned(), AttributeValue::N(uploaded_ms.to_string()));
    Ok(item)
}
