//! Trigger events in all seven forms, from the fixtures, for any object.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::INPUT;

/// What a trigger says of an upload.
#[derive(Clone)]
pub struct Upload<'a> {
    pub key: &'a str,
    pub etag: &'a str,
    pub size_bytes: usize,
    pub sequencer: &'a str,
}

impl<'a> Upload<'a> {
    pub fn new(key: &'a str, etag: &'a str, size_bytes: usize) -> Self {
        Self { key, etag, size_bytes, sequencer: "0055AED6DCD90281E5" }
    }
}

/// What AWS leaves as it is in the key of a notification.
const KEPT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b' ');

/// A key as S3 notifications and batch manifests carry it.
pub fn form_encoded(key: &str) -> String {
    utf8_percent_encode(key, KEPT).to_string().replace(' ', "+")
}

fn fixture(name: &str) -> Value {
    serde_json::from_slice(&super::file(&format!("tests/data/events/{name}.json"))).unwrap()
}

/// The S3 notification of an upload.
pub fn s3(upload: &Upload<'_>) -> Value {
    let mut event = fixture("s3");
    let entity = &mut event["Records"][0]["s3"];
    entity["bucket"]["name"] = json!(INPUT);
    entity["bucket"]["arn"] = json!(format!("arn:aws:s3:::{INPUT}"));
    entity["object"]["key"] = json!(form_encoded(upload.key));
    entity["object"]["size"] = json!(upload.size_bytes);
    entity["object"]["eTag"] = json!(upload.etag);
    entity["object"]["sequencer"] = json!(upload.sequencer);
    event
}

pub fn s3_test() -> Value {
    fixture("s3_test")
}

pub fn eventbridge(upload: &Upload<'_>) -> Value {
    let mut event = fixture("eventbridge");
    let detail = &mut event["detail"];
    detail["bucket"]["name"] = json!(INPUT);
    detail["object"]["key"] = json!(upload.key);
    detail["object"]["size"] = json!(upload.size_bytes);
    detail["object"]["etag"] = json!(upload.etag);
    detail["object"]["sequencer"] = json!(upload.sequencer);
    event
}

/// SQS messages, one for each body; their ids are `message-0`, `message-1`, …
pub fn sqs(bodies: impl IntoIterator<Item = String>) -> Value {
    let template = fixture("sqs")["Records"][0].clone();
    let records: Vec<Value> = bodies
        .into_iter()
        .enumerate()
        .map(|(index, body)| {
            let mut record = template.clone();
            record["messageId"] = json!(format!("message-{index}"));
            record["body"] = json!(body);
            record
        })
        .collect();
    json!({ "Records": records })
}

pub fn sns(message: &Value) -> Value {
    let mut event = fixture("sns");
    event["Records"][0]["Sns"]["Message"] = json!(message.to_string());
    event
}

fn sns_envelope(message: &Value) -> Value {
    let mut envelope = fixture("sns_envelope");
    envelope["Message"] = json!(message.to_string());
    envelope
}

pub fn s3_batch_1(upload: &Upload<'_>) -> Value {
    let mut event = fixture("s3_batch_1");
    event["tasks"][0]["s3Key"] = json!(form_encoded(upload.key));
    event["tasks"][0]["s3BucketArn"] = json!(format!("arn:aws:s3:::{INPUT}"));
    event
}

pub fn s3_batch_2(upload: &Upload<'_>) -> Value {
    let mut event = fixture("s3_batch_2");
    event["tasks"][0]["s3Key"] = json!(form_encoded(upload.key));
    event["tasks"][0]["s3Bucket"] = json!(INPUT);
    event
}

/// The upload in every form of trigger.
pub fn all_forms(upload: &Upload<'_>) -> Vec<(&'static str, Value)> {
    let s3 = s3(upload);
    let eventbridge = eventbridge(upload);
    vec![
        ("S3", s3.clone()),
        ("SQS(S3)", sqs([s3.to_string()])),
        ("SNS(S3)", sns(&s3)),
        ("SQS(SNS(S3))", sqs([sns_envelope(&s3).to_string()])),
        ("EventBridge", eventbridge.clone()),
        ("SQS(EventBridge)", sqs([eventbridge.to_string()])),
        ("S3 Batch 1.0", s3_batch_1(upload)),
        ("S3 Batch 2.0", s3_batch_2(upload)),
    ]
}
