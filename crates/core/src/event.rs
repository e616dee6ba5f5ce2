//! Every form of trigger to deliveries of object references, and back to the trigger's answer format.
//!
//! The forms: S3 notification, SQS(S3), SNS(S3), SQS(SNS(S3)), EventBridge, SQS(EventBridge) and
//! S3 Batch Operations (schema 1.0 and 2.0). This file never decides what happens to an object.
//! Invariant: a key is decoded once, here, by the rule of its source, every record of an event is in exactly one
//! delivery, and only a bucket and a key are needed: what is missing or odd beside them decides nothing.

use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
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
            let deliveries = list(event, "Records").map(delivery_of_message).collect();
            Ok(TriggerEvent { trigger: Trigger::Sqs, deliveries })
        }
        Some(Form::S3Batch) => {
            let trigger = Trigger::S3Batch {
                invocation_schema_version: text(event, "/invocationSchemaVersion")
                    .unwrap_or("1.0")
                    .to_owned(),
                invocation_id: text(event, "/invocationId").unwrap_or_default().to_owned(),
            };
            Ok(TriggerEvent { trigger, deliveries: list(event, "tasks").map(delivery_of_task).collect() })
        }
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
    if event.get("tasks").is_some_and(Value::is_array) {
        return Some(Form::S3Batch);
    }
    if event.get("detail-type").is_some() && event.get("detail").is_some() {
        return Some(Form::EventBridge);
    }
    if text(event, "/Event") == Some("s3:TestEvent") {
        return Some(Form::S3Test);
    }
    if event.get("Message").is_some() && (event.get("Type").is_some() || event.get("TopicArn").is_some()) {
        return Some(Form::SnsEnvelope);
    }
    // An empty list of records says nothing of its source; as an S3 event it is answered with success.
    let Some(first) = event.get("Records")?.as_array()?.first() else { return Some(Form::S3) };
    match text(first, "/eventSource").or_else(|| text(first, "/EventSource")) {
        Some("aws:sqs") => Some(Form::Sqs),
        Some("aws:sns") => Some(Form::SnsEvent),
        Some("aws:s3") => Some(Form::S3),
        _ if first.get("s3").is_some() => Some(Form::S3),
        None if first.get("Sns").is_some() => Some(Form::SnsEvent),
        None if first.get("body").is_some() => Some(Form::Sqs),
        _ => None,
    }
}

fn delivery_of_message(message: &Value) -> Delivery {
    let times_received =
        text(message, "/attributes/ApproximateReceiveCount").and_then(|c| c.parse::<u64>().ok());
    Delivery {
        id: text(message, "/messageId").unwrap_or_default().to_owned(),
        is_redelivery: times_received.is_some_and(|count| count > 1),
        trace_id: text(message, "/attributes/AWSTraceHeader").and_then(trace_root),
        notices: needed(message, "SQS", "/body").and_then(parse_message_body),
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
        Some(Form::S3) => list(event, "Records").map(notice_of_s3_record).collect(),
        Some(Form::S3Test) => Ok(vec![Notice::Ignored { event_name: "s3:TestEvent".to_owned() }]),
        Some(Form::SnsEvent) => {
            let mut notices = Vec::new();
            for record in list(event, "Records") {
                notices.extend(parse_sns_message(needed(record, "SNS", "/Sns/Message")?)?);
            }
            Ok(notices)
        }
        Some(Form::SnsEnvelope) => parse_sns_message(needed(event, "SNS", "/Message")?),
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

/// What is not said to be something else may be an upload, and is not acknowledged unread.
fn notice_of_s3_record(record: &Value) -> Result<Notice, EventError> {
    if let Some(event_name) = text(record, "/eventName") {
        // Other stores that speak S3 put `s3:` before it.
        if !event_name.trim_start_matches("s3:").starts_with("ObjectCreated") {
            return Ok(Notice::Ignored { event_name: event_name.to_owned() });
        }
    }
    Ok(Notice::Created(ObjectRef {
        bucket: needed(record, "S3", "/s3/bucket/name")?.to_owned(),
        key: decode_form_encoded_key(needed(record, "S3", "/s3/object/key")?)?,
        version_id: real_version(text(record, "/s3/object/versionId")),
        etag: text(record, "/s3/object/eTag").map(unquoted),
        size_bytes: record.pointer("/s3/object/size").and_then(Value::as_u64),
        sequencer: text(record, "/s3/object/sequencer").and_then(Sequencer::parse),
        event_time: time(record, "/eventTime"),
    }))
}

/// EventBridge carries keys as they are: `%2B` is three characters of the key.
fn notice_of_eventbridge(event: &Value) -> Result<Notice, EventError> {
    let detail_type = needed(event, "EventBridge", "/detail-type")?;
    if detail_type != "Object Created" {
        return Ok(Notice::Ignored { event_name: detail_type.to_owned() });
    }
    Ok(Notice::Created(ObjectRef {
        bucket: needed(event, "EventBridge", "/detail/bucket/name")?.to_owned(),
        key: needed(event, "EventBridge", "/detail/object/key")?.to_owned(),
        version_id: real_version(text(event, "/detail/object/version-id")),
        etag: text(event, "/detail/object/etag").map(unquoted),
        size_bytes: event.pointer("/detail/object/size").and_then(Value::as_u64),
        sequencer: text(event, "/detail/object/sequencer").and_then(Sequencer::parse),
        event_time: time(event, "/time"),
    }))
}

fn delivery_of_task(task: &Value) -> Delivery {
    Delivery {
        id: text(task, "/taskId").unwrap_or_default().to_owned(),
        is_redelivery: false,
        trace_id: None,
        notices: notice_of_task(task).map(|notice| vec![notice]),
    }
}

/// Schema 1.0 names the bucket by ARN (`s3BucketArn`), 2.0 by name (`s3Bucket`).
fn notice_of_task(task: &Value) -> Result<Notice, EventError> {
    const FORM: &str = "S3 Batch Operations";
    let from_arn = || text(task, "/s3BucketArn").and_then(|arn| arn.rsplit(':').next());
    let missing = || missing(FORM, "s3Bucket (2.0) or s3BucketArn (1.0) of a task");
    let bucket = text(task, "/s3Bucket").or_else(from_arn).ok_or_else(missing)?;
    let mut object = ObjectRef::new(bucket, decode_form_encoded_key(needed(task, FORM, "/s3Key")?)?);
    object.version_id = real_version(text(task, "/s3VersionId"));
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

/// The entries of a list, or none.
fn list<'a>(event: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    event.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// A text at a JSON pointer, unless it is empty.
fn text<'a>(event: &'a Value, pointer: &str) -> Option<&'a str> {
    event.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// A text that has to be there.
fn needed<'a>(event: &'a Value, form: &'static str, pointer: &str) -> Result<&'a str, EventError> {
    text(event, pointer).ok_or_else(|| missing(form, &pointer[1..].replace('/', ".")))
}

fn missing(form: &'static str, field: &str) -> EventError {
    EventError::Malformed { form, detail: format!("{field} is missing; expected a text") }
}

fn time(event: &Value, pointer: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text(event, pointer)?).ok()?;
    Some(time.to_utc())
}

/// A bucket without versions reports none, an empty text or `null`.
fn real_version(version_id: Option<&str>) -> Option<String> {
    version_id.filter(|version| *version != "null").map(str::to_owned)
}

fn unquoted(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
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
