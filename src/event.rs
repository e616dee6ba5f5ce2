//! Every form of trigger to deliveries of object references, and back to the trigger's answer format.
//!
//! The forms: S3 notification, SQS(S3), SNS(S3), SQS(SNS(S3)), EventBridge, SQS(EventBridge) and
//! S3 Batch Operations (schema 1.0 and 2.0). This file never decides what happens to an object.
//! Invariant: a key is decoded once, here, by the rule of its source, and every record of an event
//! is in exactly one delivery.

use aws_lambda_events::event::eventbridge::EventBridgeEvent;
use aws_lambda_events::event::s3::S3Event;
use aws_lambda_events::event::s3::batch_job::{S3BatchJobEvent, S3BatchJobTask};
use aws_lambda_events::event::sns::SnsEvent;
use aws_lambda_events::event::sqs::SqsEvent;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::Value;

use crate::object::{ObjectRef, Sequencer};

/// Who called, which decides the form of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// An SQS event source mapping: answered with the messages that failed.
    Sqs,
    /// S3 Batch Operations: answered task by task.
    S3Batch {
        /// `1.0` or `2.0`, repeated in the answer.
        invocation_schema_version: String,
        /// Repeated in the answer.
        invocation_id: String,
    },
    /// S3, SNS or EventBridge, which invoke asynchronously: answered with success or an error.
    Asynchronous,
}

/// A trigger event, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct TriggerEvent {
    /// Who called.
    pub trigger: Trigger,
    /// What was delivered, in the order of the event.
    pub deliveries: Vec<Delivery>,
}

/// The smallest part of an event that the trigger can retry by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// SQS message id or S3 Batch task id; empty for asynchronous invocations, which retry whole.
    pub id: String,
    /// Whether the queue has delivered it before, as far as the trigger tells.
    pub is_redelivery: bool,
    /// X-Ray's id of the trace that the upload began, if the message carries one.
    pub trace_id: Option<String>,
    /// The notices in it, or why it could not be read. An unreadable delivery is never dropped.
    pub notices: Result<Vec<Notice>, EventError>,
}

/// What one record of an event tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// An object was created.
    Created(ObjectRef),
    /// Something else, which is acknowledged and counted.
    Ignored {
        /// What it was, e.g. `s3:TestEvent` or `ObjectRemoved:Delete`.
        event_name: String,
    },
}

/// Why an event or a delivery could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The JSON is of none of the seven forms.
    #[error(
        "the event is of no known form (found {found}); expected an S3 notification, SQS, SNS, EventBridge \
         \"Object Created\" or S3 Batch Operations event"
    )]
    UnknownForm {
        /// The top-level keys, or the JSON type.
        found: String,
    },
    /// The form is known, but a field is missing or wrong.
    #[error("the {form} event cannot be read: {detail}")]
    Malformed {
        /// The form that was recognised.
        form: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A key is not UTF-8 after decoding, which no S3 key is.
    #[error("the object key {key:?} is not UTF-8 after decoding")]
    KeyNotUtf8 {
        /// The key as it came.
        key: String,
    },
}

/// Takes any trigger's event apart.
///
/// # Errors
/// [`EventError`] if the event as a whole cannot be read. What is wrong with one SQS message or one
/// S3 Batch task is reported in its delivery instead, and leaves its neighbours alone.
pub fn parse_event(event: &Value) -> Result<TriggerEvent, EventError> {
    match form_of(event) {
        Some(Form::Sqs) => {
            let event: SqsEvent = read("SQS", event)?;
            let deliveries = event
                .records
                .into_iter()
                .map(|message| Delivery {
                    is_redelivery: message
                        .attributes
                        .get("ApproximateReceiveCount")
                        .is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count > 1)),
                    trace_id: message.attributes.get("AWSTraceHeader").and_then(|header| trace_root(header)),
                    id: message.message_id.unwrap_or_default(),
                    notices: parse_message_body(message.body.as_deref().unwrap_or_default()),
                })
                .collect();
            Ok(TriggerEvent { trigger: Trigger::Sqs, deliveries })
        }
        Some(Form::S3Batch) => parse_batch(event),
        Some(_) => Ok(TriggerEvent {
            trigger: Trigger::Asynchronous,
            deliveries: vec![Delivery {
                id: String::new(),
                is_redelivery: false,
                trace_id: None,
                notices: Ok(parse_notices(event)?),
            }],
        }),
        None => Err(unknown_form(event)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Sqs,
    S3,
    S3Test,
    SnsEvent,
    SnsEnvelope,
    EventBridge,
    S3Batch,
}

fn form_of(event: &Value) -> Option<Form> {
    if event.get("tasks").is_some() && event.get("job").is_some() {
        return Some(Form::S3Batch);
    }
    if event.get("detail-type").is_some() && event.get("detail").is_some() {
        return Some(Form::EventBridge);
    }
    if event.get("Event").and_then(Value::as_str) == Some("s3:TestEvent") {
        return Some(Form::S3Test);
    }
    if event.get("Type").is_some() && event.get("TopicArn").is_some() {
        return Some(Form::SnsEnvelope);
    }
    // An empty list of records says nothing of its source; as an S3 event it is answered with success.
    let Some(first) = event.get("Records")?.as_array()?.first() else { return Some(Form::S3) };
    let source = first.get("eventSource").or_else(|| first.get("EventSource"));
    match source.and_then(Value::as_str) {
        Some("aws:sqs") => Some(Form::Sqs),
        Some("aws:sns") => Some(Form::SnsEvent),
        Some("aws:s3") => Some(Form::S3),
        _ if first.get("s3").is_some() => Some(Form::S3),
        _ => None,
    }
}

/// Reads the body of an SQS message: an S3 notification, an SNS envelope or an EventBridge event.
fn parse_message_body(body: &str) -> Result<Vec<Notice>, EventError> {
    let event: Value = serde_json::from_str(body).map_err(|e| EventError::Malformed {
        form: "SQS message",
        detail: format!("body is not JSON: {e}"),
    })?;
    parse_notices(&event)
}

/// Reads every form that holds notices directly or in an SNS envelope.
fn parse_notices(event: &Value) -> Result<Vec<Notice>, EventError> {
    match form_of(event) {
        Some(Form::S3) => {
            let event: S3Event = read("S3", event)?;
            event.records.into_iter().map(notice_of_s3_record).collect()
        }
        Some(Form::S3Test) => Ok(vec![Notice::Ignored { event_name: "s3:TestEvent".to_owned() }]),
        Some(Form::SnsEvent) => {
            let event: SnsEvent = read("SNS", event)?;
            let mut notices = Vec::new();
            for record in event.records {
                notices.extend(parse_sns_message(&record.sns.message)?);
            }
            Ok(notices)
        }
        Some(Form::SnsEnvelope) => match event.get("Message").and_then(Value::as_str) {
            Some(message) => parse_sns_message(message),
            None => Err(EventError::Malformed { form: "SNS", detail: "it has no Message text".to_owned() }),
        },
        Some(Form::EventBridge) => Ok(vec![notice_of_eventbridge(event)?]),
        // A queue holds no SQS event and no batch job: nesting ends here.
        Some(Form::Sqs | Form::S3Batch) | None => Err(unknown_form(event)),
    }
}

fn parse_sns_message(message: &str) -> Result<Vec<Notice>, EventError> {
    let event: Value = serde_json::from_str(message)
        .map_err(|e| EventError::Malformed { form: "SNS", detail: format!("Message is not JSON: {e}") })?;
    match form_of(&event) {
        Some(Form::S3 | Form::S3Test | Form::EventBridge) => parse_notices(&event),
        _ => Err(unknown_form(&event)),
    }
}

fn notice_of_s3_record(record: aws_lambda_events::event::s3::S3EventRecord) -> Result<Notice, EventError> {
    let present = |value, field| present(value, "S3", field);
    // What is not said to be something else may be an upload, and is not acknowledged.
    let event_name = present(record.event_name, "eventName")?;
    if !event_name.starts_with("ObjectCreated:") {
        return Ok(Notice::Ignored { event_name });
    }
    let object = record.s3.object;
    Ok(Notice::Created(ObjectRef {
        bucket: present(record.s3.bucket.name, "s3.bucket.name")?,
        key: decode_form_encoded_key(&present(object.key, "s3.object.key")?)?,
        version_id: real_version(object.version_id),
        etag: object.e_tag.map(unquoted),
        size_bytes: object.size.and_then(|size| u64::try_from(size).ok()),
        sequencer: object.sequencer.as_deref().and_then(Sequencer::parse),
        event_time: Some(record.event_time),
    }))
}

#[derive(Debug, Clone, Default, Deserialize, serde::Serialize)]
struct ObjectCreatedDetail {
    bucket: EventBridgeBucket,
    object: EventBridgeObject,
}

#[derive(Debug, Clone, Default, Deserialize, serde::Serialize)]
struct EventBridgeBucket {
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct EventBridgeObject {
    key: String,
    size: Option<u64>,
    etag: Option<String>,
    version_id: Option<String>,
    sequencer: Option<String>,
}

/// EventBridge carries keys as they are: `%2B` is three characters of the key.
fn notice_of_eventbridge(event: &Value) -> Result<Notice, EventError> {
    let event: EventBridgeEvent<Value> = read("EventBridge", event)?;
    if event.detail_type != "Object Created" {
        return Ok(Notice::Ignored { event_name: event.detail_type });
    }
    let detail: ObjectCreatedDetail = read("EventBridge", &event.detail)?;
    let present = |value, field| present(Some(value), "EventBridge", field);
    Ok(Notice::Created(ObjectRef {
        bucket: present(detail.bucket.name, "detail.bucket.name")?,
        key: present(detail.object.key, "detail.object.key")?,
        version_id: real_version(detail.object.version_id),
        etag: detail.object.etag.map(unquoted),
        size_bytes: detail.object.size,
        sequencer: detail.object.sequencer.as_deref().and_then(Sequencer::parse),
        event_time: event.time,
    }))
}

fn parse_batch(event: &Value) -> Result<TriggerEvent, EventError> {
    let event: S3BatchJobEvent = read("S3 Batch Operations", event)?;
    let trigger = Trigger::S3Batch {
        invocation_schema_version: event.invocation_schema_version.unwrap_or_else(|| "1.0".to_owned()),
        invocation_id: event.invocation_id.unwrap_or_default(),
    };
    let deliveries = event
        .tasks
        .into_iter()
        .map(|task| Delivery {
            id: task.task_id.clone().unwrap_or_default(),
            is_redelivery: false,
            trace_id: None,
            notices: notice_of_task(task).map(|notice| vec![notice]),
        })
        .collect();
    Ok(TriggerEvent { trigger, deliveries })
}

/// Schema 1.0 names the bucket by ARN (`s3BucketArn`), 2.0 by name (`s3Bucket`).
fn notice_of_task(task: S3BatchJobTask) -> Result<Notice, EventError> {
    let present = |value, field| present(value, "S3 Batch Operations", field);
    let named = task.other.get("s3Bucket").and_then(Value::as_str).map(str::to_owned);
    let from_arn = || task.s3_bucket_arn.as_deref().and_then(|arn| arn.rsplit(':').next()).map(str::to_owned);
    let bucket = present(named.or_else(from_arn), "s3Bucket (2.0) or s3BucketArn (1.0) of a task")?;
    let key = present(task.s3_key, "s3Key of a task")?;
    let mut object = ObjectRef::new(bucket, decode_form_encoded_key(&key)?);
    object.version_id = real_version(task.s3_version_id);
    Ok(Notice::Created(object))
}

/// The trace of a header such as `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`.
fn trace_root(header: &str) -> Option<String> {
    header.split(';').find_map(|part| part.trim().strip_prefix("Root=")).map(str::to_owned)
}

/// Decodes a key as S3 notifications and S3 Batch manifests carry it: `+` is a space, then percent-decoding.
fn decode_form_encoded_key(encoded: &str) -> Result<String, EventError> {
    percent_decode_str(&encoded.replace('+', " "))
        .decode_utf8()
        .map(|key| key.into_owned())
        .map_err(|_| EventError::KeyNotUtf8 { key: encoded.to_owned() })
}

/// A text that has to be there, and is never empty.
fn present(value: Option<String>, form: &'static str, field: &str) -> Result<String, EventError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| EventError::Malformed { form, detail: format!("{field} is missing") })
}

/// A bucket without versions reports none, an empty text or `null`.
fn real_version(version_id: Option<String>) -> Option<String> {
    version_id.filter(|version| !version.is_empty() && version != "null")
}

fn unquoted(etag: String) -> String {
    etag.trim_matches('"').to_owned()
}

fn read<T: serde::de::DeserializeOwned>(form: &'static str, event: &Value) -> Result<T, EventError> {
    T::deserialize(event).map_err(|e| EventError::Malformed { form, detail: e.to_string() })
}

fn unknown_form(event: &Value) -> EventError {
    let found = match event {
        Value::Object(fields) if fields.is_empty() => "an empty object".to_owned(),
        Value::Object(fields) => {
            let keys: Vec<&str> = fields.keys().take(8).map(String::as_str).collect();
            format!("an object with the keys {}", keys.join(", "))
        }
        Value::Array(_) => "a list".to_owned(),
        _ => "a single value".to_owned(),
    };
    EventError::UnknownForm { found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_decoded_as_forms_once() {
        for (encoded, key) in [
            ("a+b", "a b"),
            ("a%2Bb", "a+b"),
            ("a%252Bb", "a%2Bb"),
            ("caf%C3%A9", "café"),
            ("%281%29", "(1)"),
            ("a//b", "a//b"),
            ("a%3Db", "a=b"),
            ("100%", "100%"),
        ] {
            assert_eq!(decode_form_encoded_key(encoded).unwrap(), key, "{encoded}");
        }
        assert!(matches!(decode_form_encoded_key("%FF"), Err(EventError::KeyNotUtf8 { .. })));
    }

    #[test]
    fn one_unreadable_message_leaves_its_neighbours_alone() {
        let good = json!({"Event": "s3:TestEvent", "Bucket": "b"}).to_string();
        let event = json!({"Records": [
            {"messageId": "1", "eventSource": "aws:sqs", "body": "no json"},
            {"messageId": "2", "eventSource": "aws:sqs", "body": good},
            {"messageId": "3", "eventSource": "aws:sqs", "body": "{\"hello\": 1}"},
        ]});
        let parsed = parse_event(&event).unwrap();
        assert_eq!(parsed.trigger, Trigger::Sqs);
        let readable: Vec<bool> = parsed.deliveries.iter().map(|d| d.notices.is_ok()).collect();
        assert_eq!(readable, [false, true, false]);
    }

    #[test]
    fn events_other_than_creation_are_ignored_by_name() {
        let event = json!({"detail-type": "Object Deleted", "source": "aws.s3", "detail": {"anything": 1}});
        let parsed = parse_event(&event).unwrap();
        let ignored = Notice::Ignored { event_name: "Object Deleted".to_owned() };
        assert_eq!(parsed.deliveries[0].notices, Ok(vec![ignored]));
    }

    #[test]
    fn what_is_no_event_is_named() {
        for (event, found) in [
            (json!({}), "an empty object"),
            (json!([1]), "a list"),
            (json!("x"), "a single value"),
            (json!({"Records": [{"eventSource": "aws:kinesis"}]}), "an object with the keys Records"),
        ] {
            let error = parse_event(&event).unwrap_err();
            assert!(error.to_string().contains(found), "{error}");
        }
    }
}
