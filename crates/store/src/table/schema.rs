//! The table: its keys, its indexes, and the text of every key.
//!
//! One table holds the current result of each image and stage, reviewers' verdicts and the model ledger. Every question
//! of the design is one key or index range of each stage that is asked for; nothing scans. All that a stage's
//! classifier writes has the stage first in its partition key, so that one condition of a role ([`leading_keys`]) keeps
//! a stage from the items of another.
//!
//! | question | key |
//! |---|---|
//! | this image in a stage | `pk = result#<stage>#<bucket>/<key>`, `sk = result`; all stages: one question for each |
//! | why this upload has no answer of the stage yet | same `pk`, `sk = failure#<object version>`; gone when it is answered |
//! | the reviews of this image | `pk = image#<bucket>/<key>`, `sk = review#<time>#<reviewer>` |
//! | this slide, in order | index `slide`: `slide_pk = <stage>#<slide>`, `slide_sk = <key>` |
//! | this label or status in this time range | index `label`: `label_pk = <stage>#<label>#<day>#<shard>`, `label_sk = <upload time>#<result id>` |
//! | what needs a human look, most suspicious first | sparse index `review`: `review_pk = <stage>#<shard>`, `review_sk = <suspicion>#<result id>` |
//! | which images a model answered | index `model`: `model_pk = <stage>#<digest>#<shard>`, `model_sk = <upload time>#<result id>` |
//! | this slide, newest upload first | index `arrival`: `arrival_pk = <stage>#<slide>`, `arrival_sk = <upload time>#<result id>` |
//! | this slide, most suspicious first, in compact rows | index `suspect`: `suspect_pk = <stage>#<slide>`, `suspect_sk = <suspicion>#<content>#<result id>` |
//! | everything, newest upload first; a day's counts | index `recent`: `recent_pk = <stage>#<day>#<shard>`, `recent_sk = <upload time>#<result id>` |
//! | a slide's last activity and its figure | `pk = slide#<stage>#<slide>`, `sk = activity` |
//! | which slides there are, last activity first | index `listing`: `listing_pk = slides#<stage>#<shard>`, `listing_sk = <last activity>#<slide>` |
//! | which days there are, and their counts | `pk = days#<stage>`, `sk = <day>` |
//! | the verdict of an image that is in force | `pk` of its reviews, `sk = verdict` |
//! | those of a slide | index `listing`: `listing_pk = verdicts#<slide>`, `listing_sk = <key>` |
//! | who withdrew this image and who brought it back | `pk` of its reviews, `sk = withdrawal#<time>#<name>` |
//! | the withdrawal of an image that is in force | `pk` of its reviews, `sk = withdrawn` |
//! | those of a slide | index `listing`: `listing_pk = withdrawn#<slide>`, `listing_sk = <key>` |
//! | the withdrawn images of a slide, of a stage | indexes `suspect` and `arrival`: `!withdrawn#<stage>#<slide>`; index `recent`: `!withdrawn#<stage>#<shard>` |
//! | who reviewed what, newest first | index `listing`: `listing_pk = reviews#<month>`, `listing_sk = <time>#<digest of key and reviewer>` |
//! | what fails, newest failure first | index `listing`: `listing_pk = failures#<stage>#<shard>`, `listing_sk = <last failure>#<digest of key and version>` |
//! | which model served at time t | `pk = model#<stage>`, `sk = <released at>#<digest>` |
//! | how often a model ended its process | same `pk`, `sk = crash#<digest>` |
//! | who released what, and why | `pk = release#<stage>`, `sk = <started at>#<digest>` |
//! | whether this version wrote all items | `pk = layout`, `sk = keys`; of the embedded stack |
//!
//! `<suspicion>` is [`Record::suspicion`](giemsa_core::record::Record::suspicion) as it was when the record was
//! written, 0 to 1 with six digits; in the index `suspect` a rejected image counts as a toss-up, as an outlier does.
//! `<content>` is the first 16 digits of the file's SHA-256, so that a slide's figure knows which images are the same
//! bytes; it is left out with its `#` where the file was not read, and by versions before this one.
//!
//! A withdrawn image has no place in the other indexes of results. So it is out of every figure, list and queue without
//! any of them having to ask.
//!
//! `<shard>` is the first digit of the result id: sixteen partitions. An entry that holds the whole record is above 1 KB,
//! two write units, so that a label that most images have takes about 8,000 images a second before a partition's 1,000
//! units are reached; `giemsa cost --rates` reckons all of these limits.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType,
};
use chrono::{DateTime, SecondsFormat, Utc};

use crate::StoreError;
use giemsa_core::digest::short_id;

/// Name of the index that answers for slides.
pub const SLIDE_INDEX: &str = "slide";
/// Name of the index that answers for labels and times.
pub const LABEL_INDEX: &str = "label";
/// Name of the sparse index of what needs a human look.
pub const REVIEW_INDEX: &str = "review";

/// Name of the index that answers which images a model answered; it holds keys only.
pub const MODEL_INDEX: &str = "model";

/// Name of the index of what is not a result of an image: slides, verdicts, reviews, failures.
pub const LISTING_INDEX: &str = "listing";
/// Name of the index that answers for days.
pub const RECENT_INDEX: &str = "recent";
/// Name of the index of a slide's images, most suspicious first.
pub const SUSPECT_INDEX: &str = "suspect";
/// Name of the index of a slide's images, newest first; it holds keys only.
pub const ARRIVAL_INDEX: &str = "arrival";

/// What the rows of the index `suspect` hold beside their keys.
pub const SUSPECT_ATTRIBUTES: &[&str] = &[
    "status",
    "label",
    "confidence",
    "positive",
    "outlier",
    "needs_review",
    "result_id",
    "object_version",
    "uploaded_ms",
];
/// What the rows of the index `recent` hold beside their keys.
pub const RECENT_ATTRIBUTES: &[&str] = &["status", "label", "needs_review"];

/// Longest sort key, bytes.
pub(crate) const MAX_SORT_KEY_BYTES: usize = 1024;

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

/// Partition of what reviewers say of an image, of whatever stage.
pub(crate) fn image_pk(bucket: &str, key: &str) -> String {
    format!("image#{bucket}/{key}")
}

/// Sort key of the withdrawal that is in force.
pub(crate) const WITHDRAWN_SK: &str = "withdrawn";

/// How the sort keys of withdrawals and restorations begin, as they were appended.
pub(crate) const WITHDRAWAL_SK_START: &str = "withdrawal#";

/// Partition of what a stage says of an image: its current result, and notes of failures.
pub(crate) fn result_pk(stage: &str, bucket: &str, key: &str) -> String {
    format!("result#{stage}#{bucket}/{key}")
}

/// Bucket and key of an image, of the partition key of either kind.
pub(crate) fn image_of_pk(pk: &str) -> Option<(&str, &str)> {
    // No stage has a `#` in its name, and no bucket a slash.
    let of_stage =
        || pk.strip_prefix("result#").and_then(|rest| rest.split_once('#')).map(|(_, image)| image);
    pk.strip_prefix("image#").or_else(of_stage)?.split_once('/')
}

/// Sort key of the current result.
pub(crate) const RESULT_SK: &str = "result";

/// How the sort keys of notes of failures begin.
pub(crate) const FAILURE_SK_START: &str = "failure#";

/// One note for each upload of a key: the version is cut where it would exceed the 1,024 bytes of a sort key.
pub(crate) fn failure_sk(object_version: &str) -> String {
    let room = MAX_SORT_KEY_BYTES - FAILURE_SK_START.len();
    format!("{FAILURE_SK_START}{}", &object_version[..object_version.floor_char_boundary(room)])
}

/// Patterns (`*` is any text) of the partition keys of all items that the classifier of `stage` writes or reads, as
/// a role's condition on `dynamodb:LeadingKeys` names them. No pattern fits a key of another stage.
pub fn leading_keys(stage: &str) -> Vec<String> {
    vec![format!("result#{stage}#*"), activity_pk(stage, "*"), days_pk(stage), model_pk(stage)]
}

pub(crate) fn slide_pk(stage: &str, slide: &str) -> String {
    format!("{stage}#{slide}")
}

/// Partition of the withdrawn images of a slide; no stage has a `!` in its name.
pub(crate) fn withdrawn_slide_pk(stage: &str, slide: &str) -> String {
    format!("{WITHDRAWN_PK_START}{stage}#{slide}")
}

/// Partition of the withdrawn images of a stage.
pub(crate) fn withdrawn_pk(stage: &str, shard: &str) -> String {
    format!("{WITHDRAWN_PK_START}{stage}#{shard}")
}

/// How the index partitions of withdrawn images begin.
pub(crate) const WITHDRAWN_PK_START: &str = "!withdrawn#";

/// Where the withdrawals in force of a slide are listed.
pub(crate) fn withdrawals_pk(slide: &str) -> String {
    format!("withdrawn#{slide}")
}

pub(crate) fn label_pk(stage: &str, which: &LabelOrRejected, day: &str, shard: &str) -> String {
    format!("{stage}#{}#{day}#{shard}", which.key_text())
}

pub(crate) fn review_pk(stage: &str, shard: &str) -> String {
    format!("{stage}#{shard}")
}

pub(crate) fn model_index_pk(stage: &str, sha256: &str, shard: &str) -> String {
    format!("{stage}#{sha256}#{shard}")
}

pub(crate) fn recent_pk(stage: &str, day: &str, shard: &str) -> String {
    format!("{stage}#{day}#{shard}")
}

/// Key of the item that tells of a slide's last activity.
pub(crate) fn activity_pk(stage: &str, slide: &str) -> String {
    format!("slide#{stage}#{slide}")
}

/// Sort key of the item of a slide's activity.
pub(crate) const ACTIVITY_SK: &str = "activity";

/// Sort key of the verdict in force.
pub(crate) const VERDICT_SK: &str = "verdict";

pub(crate) fn days_pk(stage: &str) -> String {
    format!("days#{stage}")
}

pub(crate) fn slides_pk(stage: &str, shard: &str) -> String {
    format!("slides#{stage}#{shard}")
}

/// Where a slide is listed: partition and sort key.
pub(crate) fn slide_listing(stage: &str, slide: &str, last_activity_at: DateTime<Utc>) -> (String, String) {
    let digest = short_id(&[stage, slide]);
    let mut sk = format!("{}#{slide}", time_text(last_activity_at));
    if sk.len() > MAX_SORT_KEY_BYTES {
        // Names that are cut stay different.
        sk.truncate(sk.floor_char_boundary(MAX_SORT_KEY_BYTES - digest.len() - 1));
        sk = format!("{sk}#{digest}");
    }
    (slides_pk(stage, &digest[..1]), sk)
}

pub(crate) fn failures_pk(stage: &str, shard: &str) -> String {
    format!("failures#{stage}#{shard}")
}

/// Where a failure is listed: partition and sort key.
pub(crate) fn failure_listing(
    stage: &str,
    key: &str,
    object_version: &str,
    failed_at: DateTime<Utc>,
) -> (String, String) {
    let digest = short_id(&[key, object_version]);
    (failures_pk(stage, &digest[..1]), format!("{}#{digest}", time_text(failed_at)))
}

pub(crate) fn verdicts_pk(slide: &str) -> String {
    format!("verdicts#{slide}")
}

pub(crate) fn reviews_pk(month: &str) -> String {
    format!("reviews#{month}")
}

pub(crate) fn release_pk(stage: &str) -> String {
    format!("release#{stage}")
}

pub(crate) fn model_pk(stage: &str) -> String {
    format!("model#{stage}")
}

/// After the sort keys of all releases, which begin with a digit, and before those of crashes.
pub(crate) const RELEASES_END: &str = ":";

/// Sort key of what is known of a model's crashes, in the partition of its stage's releases.
pub(crate) fn crash_sk(sha256: &str) -> String {
    format!("crash#{sha256}")
}

/// Time as it sorts: UTC with milliseconds.
pub(crate) fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Creates the table, on demand, unless it exists.
///
/// The embedded stack and the tests use it; on AWS the template does the same.
///
/// # Errors
/// [`StoreError::Table`] if DynamoDB does not create it.
pub async fn create_table(dynamodb: &Client, table: &str) -> Result<(), StoreError> {
    let names = INDEXES.iter().flat_map(|index| [index.partition_key(), index.sort_key()]);
    let names = ["pk".to_owned(), "sk".to_owned()].into_iter().chain(names);
    let created = dynamodb
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(Some(names.map(|name| text_attribute(&name)).collect()))
        .set_key_schema(Some(key_schema("pk", "sk")))
        .set_global_secondary_indexes(Some(INDEXES.iter().map(Index::definition).collect()))
        .send()
        .await;
    match created {
        Ok(_) => Ok(()),
        Err(error) if error.as_service_error().is_some_and(|e| e.is_resource_in_use_exception()) => Ok(()),
        Err(error) => {
            let detail = DisplayErrorContext(&error).to_string();
            Err(StoreError::Table { table: table.to_owned(), detail })
        }
    }
}

fn text_attribute(name: &str) -> AttributeDefinition {
    AttributeDefinition::builder()
        .attribute_name(name)
        .attribute_type(ScalarAttributeType::S)
        .build()
        .expect("name and type are set")
}

/// An index of the table, as it is made.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) name: &'static str,
    pub(crate) projection: ProjectionType,
    pub(crate) attributes: &'static [&'static str],
}

/// All indexes.
pub(crate) const INDEXES: &[Index] = &[
    Index { name: SLIDE_INDEX, projection: ProjectionType::All, attributes: &[] },
    Index { name: LABEL_INDEX, projection: ProjectionType::All, attributes: &[] },
    Index { name: REVIEW_INDEX, projection: ProjectionType::All, attributes: &[] },
    Index { name: MODEL_INDEX, projection: ProjectionType::KeysOnly, attributes: &[] },
    Index { name: LISTING_INDEX, projection: ProjectionType::All, attributes: &[] },
    Index { name: RECENT_INDEX, projection: ProjectionType::Include, attributes: RECENT_ATTRIBUTES },
    Index { name: SUSPECT_INDEX, projection: ProjectionType::Include, attributes: SUSPECT_ATTRIBUTES },
    Index { name: ARRIVAL_INDEX, projection: ProjectionType::KeysOnly, attributes: &[] },
];

impl Index {
    pub(crate) fn partition_key(&self) -> String {
        format!("{}_pk", self.name)
    }

    pub(crate) fn sort_key(&self) -> String {
        format!("{}_sk", self.name)
    }

    fn definition(&self) -> GlobalSecondaryIndex {
        let attributes = self.attributes.iter().map(|name| (*name).to_owned());
        let attributes = (!self.attributes.is_empty()).then(|| attributes.collect());
        let projection = Projection::builder().projection_type(self.projection.clone());
        GlobalSecondaryIndex::builder()
            .index_name(self.name)
            .set_key_schema(Some(key_schema(&self.partition_key(), &self.sort_key())))
            .projection(projection.set_non_key_attributes(attributes).build())
            .build()
            .expect("name, keys and projection are set")
    }
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
