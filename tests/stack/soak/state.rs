//! All that a stack holds, and the same without what two runs of the same uploads may not have in common.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::AttributeValue;
use giemsa_local::{INPUT_BUCKET, RESULTS_BUCKET, TABLE};
use giemsa_store::aws::Clients;
use serde_json::{Map, Value, json};

/// Attributes and fields that hold times, or ids made of versions.
const OF_THE_RUN: &[&str] = &[
    "uploaded_at",
    "uploaded_ms",
    "classified_at",
    "released_at",
    "timings_ms",
    "version_id",
    "result_id",
    "sequencer",
    "label_sk",
    "model_sk",
    "recent_sk",
    "arrival_sk",
    "object_version",
    // Of slides and days: one change for each batch, and figures only where somebody looked.
    "changes",
    "changed_at",
    "last_activity_at",
    "listing_sk",
    "figure",
    "figure_changes",
    "counts",
    "counts_changes",
    "computed_at",
];

/// One version of an upload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub key: String,
    pub version_id: String,
    pub etag: String,
    pub is_latest: bool,
}

/// Everything, as it is.
pub struct State {
    /// Newest first for each key, as S3 lists them.
    pub versions: Vec<Version>,
    /// Items of the table.
    pub items: Vec<Value>,
    /// Result objects.
    pub results: BTreeMap<String, Value>,
    /// Uploads in parts that were not ended.
    pub open_uploads: usize,
}

impl State {
    pub async fn of(clients: &Clients) -> Self {
        let open = |bucket: &str| clients.s3.list_multipart_uploads().bucket(bucket).send();
        let (input, output) = tokio::join!(open(INPUT_BUCKET), open(RESULTS_BUCKET));
        Self {
            versions: versions(clients).await,
            items: items(clients).await,
            results: results(clients).await,
            open_uploads: input.unwrap().uploads().len() + output.unwrap().uploads().len(),
        }
    }

    /// Items of images, by kind: the part of the sort key before the first `#`.
    pub fn items_of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let is_of_kind =
            move |item: &&Value| item["sk"].as_str().is_some_and(|sk| sk.split('#').next() == Some(kind));
        self.items.iter().filter(is_of_kind)
    }

    /// The items as two runs have them in common, sorted; without notes of failures, which only the one has.
    pub fn comparable_items(&self) -> BTreeSet<String> {
        let is_note = |item: &&Value| item["sk"].as_str().is_some_and(|sk| sk.starts_with("failure#"));
        self.items.iter().filter(|item| !is_note(item)).map(|item| comparable(item).to_string()).collect()
    }

    /// The result objects as two runs have them in common, with their names. Two of one content are one here, because an
    /// upload whose answer was lost is sent again.
    pub fn comparable_results(&self) -> BTreeSet<String> {
        let results = self.results.iter();
        results.map(|(key, record)| format!("{} {}", comparable_key(key), comparable(record))).collect()
    }
}

async fn versions(clients: &Clients) -> Vec<Version> {
    let mut versions = Vec::new();
    let (mut key_marker, mut version_marker) = (None, None);
    loop {
        let page = clients.s3.list_object_versions().bucket(INPUT_BUCKET);
        let page =
            page.set_key_marker(key_marker).set_version_id_marker(version_marker).send().await.unwrap();
        assert!(page.delete_markers().is_empty(), "nothing was deleted");
        versions.extend(page.versions().iter().map(|version| Version {
            key: version.key().unwrap().to_owned(),
            version_id: version.version_id().unwrap().to_owned(),
            etag: version.e_tag().unwrap().trim_matches('"').to_owned(),
            is_latest: version.is_latest().unwrap(),
        }));
        if !page.is_truncated().unwrap_or(false) {
            return versions;
        }
        (key_marker, version_marker) = (page.next_key_marker, page.next_version_id_marker);
    }
}

async fn items(clients: &Clients) -> Vec<Value> {
    let mut items = Vec::new();
    let mut start = None;
    loop {
        let page =
            clients.dynamodb.scan().table_name(TABLE).set_exclusive_start_key(start).send().await.unwrap();
        items.extend(page.items().iter().map(|item| {
            let attributes = item.iter().map(|(name, value)| (name.clone(), plain(value)));
            Value::Object(attributes.collect())
        }));
        start = page.last_evaluated_key;
        if start.is_none() {
            return items;
        }
    }
}

fn plain(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => json!(text),
        AttributeValue::N(number) => json!(number),
        AttributeValue::Bool(truth) => json!(truth),
        AttributeValue::Null(_) => Value::Null,
        AttributeValue::L(list) => list.iter().map(plain).collect(),
        AttributeValue::M(map) => {
            Value::Object(map.iter().map(|(name, value)| (name.clone(), plain(value))).collect::<Map<_, _>>())
        }
        other => panic!("the table holds no {other:?}"),
    }
}

async fn results(clients: &Clients) -> BTreeMap<String, Value> {
    let mut results = BTreeMap::new();
    let mut pages = clients.s3.list_objects_v2().bucket(RESULTS_BUCKET).into_paginator().send();
    while let Some(page) = pages.next().await {
        for object in page.unwrap().contents() {
            let key = object.key().unwrap();
            let got = clients.s3.get_object().bucket(RESULTS_BUCKET).key(key).send().await.unwrap();
            let bytes = got.body.collect().await.unwrap().into_bytes();
            results.insert(key.to_owned(), serde_json::from_slice(&bytes).unwrap());
        }
    }
    results
}

/// Stage and image of a result's name, without the day and the id.
fn comparable_key(key: &str) -> String {
    let (stage, rest) = key.split_once("/date=").expect("a day in the name of a result");
    let (_, image) = rest.split_once('/').expect("a key after the day");
    let (image, _id) = image.strip_suffix(".json").unwrap().rsplit_once('.').expect("an id");
    format!("{stage}/{image}")
}

fn comparable(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !OF_THE_RUN.contains(&name.as_str()));
            let kept = kept.map(|(name, value)| {
                let value = match (name.as_str(), value.as_str()) {
                    // Day and shard, shard, id: made of times and versions.
                    ("label_pk" | "recent_pk", Some(text)) => json!(without_end(text, 2)),
                    ("model_pk" | "review_pk" | "review_sk" | "suspect_sk", Some(text)) => {
                        json!(without_end(text, 1))
                    }
                    ("sk", Some(text)) if is_day(text) => Value::Null,
                    ("sk", Some(text)) if is_time(text) => json!(text.split_once('#').map(|(_, rest)| rest)),
                    _ => comparable(value),
                };
                (name.clone(), value)
            });
            Value::Object(kept.collect())
        }
        Value::Array(list) => list.iter().map(comparable).collect(),
        other => other.clone(),
    }
}

fn without_end(text: &str, parts: usize) -> &str {
    text.rsplitn(parts + 1, '#').last().expect("there is always a first part")
}

fn is_day(text: &str) -> bool {
    text.starts_with("20") && text.len() == "2026-11-22".len()
}

fn is_time(text: &str) -> bool {
    text.starts_with("20") && text.as_bytes().get(10) == Some(&b'T')
}
