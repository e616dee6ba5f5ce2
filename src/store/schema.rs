//! The table: its keys, its indexes, and the text of every key.
//!
//! One table holds the current result of each image and stage, reviewers' verdicts and the model ledger.
//! Invariant: every question of the design is one key or index range; nothing scans.
//!
//! | question | key |
//! |---|---|
//! | this image, all stages, its reviews | `pk = image#<bucket>/<key>`, `sk = result#<stage>` or `review#<time>#<reviewer>` |
//! | why this upload has no answer yet | same `pk`, `sk = failure#<stage>#<object version>`; gone when it is answered |
//! | this slide, in order | index `slide`: `slide_pk = <stage>#<slide>`, `slide_sk = <key>` |
//! | this label or status in this time range | index `label`: `label_pk = <stage>#<label>#<day>#<shard>`, `label_sk = <upload time>#<result id>` |
//! | what needs a human look, most suspicious first | sparse index `review`: `review_pk = <stage>#<shard>`, `review_sk = <suspicion>#<result id>` |
//! | which images a model answered | index `model`: `model_pk = <stage>#<digest>#<shard>`, `model_sk = <upload time>#<result id>` |
//! | which model served at time t | `pk = model#<stage>`, `sk = <released at>#<digest>` |
//! | who released what, and why | `pk = release#<stage>`, `sk = <started at>#<digest>` |
//!
//! `<suspicion>` is [`Record::suspicion`](crate::classification::Record::suspicion) as it was when the record was
//! written, 0 to 1 with six digits.
//!
//! `<shard>` is the first digit of the result id: sixteen partitions, so that a label that most images have
//! takes 16,000 writes a second before a partition's 1,000 are reached.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, CreateGlobalSecondaryIndexAction, GlobalSecondaryIndex,
    GlobalSecondaryIndexUpdate, KeySchemaElement, KeyType, Projection, ProjectionType, ScalarAttributeType,
};
use chrono::{DateTime, SecondsFormat, Utc};

use super::StoreError;

/// Name of the index that answers for slides.
pub const SLIDE_INDEX: &str = "slide";
/// Name of the index that answers for labels and times.
pub const LABEL_INDEX: &str = "label";
/// Name of the sparse index of what needs a human look.
pub const REVIEW_INDEX: &str = "review";

/// Name of the index that answers which images a model answered; it holds keys only.
pub const MODEL_INDEX: &str = "model";

/// Longest sort key, bytes.
pub(super) const MAX_SORT_KEY_BYTES: usize = 1024;

/// Digits that spread a busy index key over partitions.
pub const SHARDS: &str = "0123456789abcdef";

/// What the label index is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelOrRejected {
    /// Images with this label.
    Label(String),
    /// Images that were rejected.
    Rejected,
}

impl LabelOrRejected {
    /// Text in the index key. A rejected image stands under a name that no label can have.
    fn key_text(&self) -> String {
        match self {
            Self::Label(label) => format!("={}", label.replace('%', "%25").replace('#', "%23")),
            Self::Rejected => "!rejected".to_owned(),
        }
    }
}

pub(super) fn image_pk(bucket: &str, key: &str) -> String {
    format!("image#{bucket}/{key}")
}

pub(super) fn result_sk(stage: &str) -> String {
    format!("result#{stage}")
}

/// One note for each upload of a key: the version is cut where it would exceed the 1,024 bytes of a sort key.
pub(super) fn failure_sk(stage: &str, object_version: &str) -> String {
    let head = format!("failure#{stage}#");
    let room = MAX_SORT_KEY_BYTES - head.len();
    format!("{head}{}", &object_version[..object_version.floor_char_boundary(room)])
}

pub(super) fn slide_pk(stage: &str, slide: &str) -> String {
    format!("{stage}#{slide}")
}

pub(super) fn label_pk(stage: &str, which: &LabelOrRejected, day: &str, shard: &str) -> String {
    format!("{stage}#{}#{day}#{shard}", which.key_text())
}

pub(super) fn review_pk(stage: &str, shard: &str) -> String {
    format!("{stage}#{shard}")
}

pub(super) fn model_index_pk(stage: &str, sha256: &str, shard: &str) -> String {
    format!("{stage}#{sha256}#{shard}")
}

pub(super) fn release_pk(stage: &str) -> String {
    format!("release#{stage}")
}

pub(super) fn model_pk(stage: &str) -> String {
    format!("model#{stage}")
}

/// Time as it sorts: UTC with milliseconds.
pub(super) fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Creates the table, on demand, unless it is there; one of an earlier version gets the index it lacks.
///
/// The embedded stack and the tests use it; on AWS the template does the same.
///
/// # Errors
/// [`StoreError::Table`] if DynamoDB does not create it.
pub async fn create_table(dynamodb: &Client, table: &str) -> Result<(), StoreError> {
    let names = [
        "pk",
        "sk",
        "slide_pk",
        "slide_sk",
        "label_pk",
        "label_sk",
        "review_pk",
        "review_sk",
        "model_pk",
        "model_sk",
    ];
    let created = dynamodb
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(Some(names.map(text_attribute).to_vec()))
        .set_key_schema(Some(key_schema("pk", "sk")))
        .global_secondary_indexes(index(SLIDE_INDEX, ProjectionType::All))
        .global_secondary_indexes(index(LABEL_INDEX, ProjectionType::All))
        .global_secondary_indexes(index(REVIEW_INDEX, ProjectionType::All))
        .global_secondary_indexes(index(MODEL_INDEX, ProjectionType::KeysOnly))
        .send()
        .await;
    match created {
        Ok(_) => Ok(()),
        Err(error) if error.as_service_error().is_some_and(|e| e.is_resource_in_use_exception()) => {
            add_model_index(dynamodb, table).await
        }
        Err(error) => Err(failed(table, DisplayErrorContext(&error).to_string())),
    }
}

/// Adds the index that tables had not from the first.
async fn add_model_index(dynamodb: &Client, table: &str) -> Result<(), StoreError> {
    let described = dynamodb.describe_table().table_name(table).send().await;
    let described = described.map_err(|e| failed(table, DisplayErrorContext(&e).to_string()))?;
    let has_index = described
        .table()
        .is_some_and(|t| t.global_secondary_indexes().iter().any(|i| i.index_name() == Some(MODEL_INDEX)));
    if has_index {
        return Ok(());
    }
    let wanted = index(MODEL_INDEX, ProjectionType::KeysOnly);
    let create = CreateGlobalSecondaryIndexAction::builder()
        .index_name(MODEL_INDEX)
        .set_key_schema(Some(wanted.key_schema().to_vec()))
        .set_projection(wanted.projection().cloned())
        .build()
        .expect("name, keys and projection are set");
    let updated = dynamodb
        .update_table()
        .table_name(table)
        .set_attribute_definitions(Some(["model_pk", "model_sk"].map(text_attribute).to_vec()))
        .global_secondary_index_updates(GlobalSecondaryIndexUpdate::builder().create(create).build())
        .send()
        .await;
    updated.map(drop).map_err(|e| failed(table, DisplayErrorContext(&e).to_string()))
}

fn failed(table: &str, detail: String) -> StoreError {
    StoreError::Table { table: table.to_owned(), detail }
}

fn text_attribute(name: &str) -> AttributeDefinition {
    AttributeDefinition::builder()
        .attribute_name(name)
        .attribute_type(ScalarAttributeType::S)
        .build()
        .expect("name and type are set")
}

fn index(name: &str, projection: ProjectionType) -> GlobalSecondaryIndex {
    GlobalSecondaryIndex::builder()
        .index_name(name)
        .set_key_schema(Some(key_schema(&format!("{name}_pk"), &format!("{name}_sk"))))
        .projection(Projection::builder().projection_type(projection).build())
        .build()
        .expect("name, keys and projection are set")
}

fn key_schema(partition: &str, sort: &str) -> Vec<KeySchemaElement> {
    [(partition, KeyType::Hash), (sort, KeyType::Range)]
        .map(|(name, key_type)| {
            KeySchemaElement::builder()
                .attribute_name(name)
                .key_type(key_type)
                .build()
                .expect("name and type are set")
        })
        .to_vec()
}
