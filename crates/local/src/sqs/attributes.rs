//! The attributes of a received message, and the digests by which clients check what they got.
//!
//! Digests are those that SQS defines, so that a client that checks them accepts the message.

use std::collections::BTreeMap;

use md5::{Digest, Md5};
use serde::Serialize;

use super::super::queue::Message;
use super::queues::source_arn;

/// System attributes that a local message can have, and those of SQS that it never has.
pub(super) const SYSTEM_ATTRIBUTES: [&str; 10] = [
    "All",
    "SenderId",
    "SentTimestamp",
    "ApproximateReceiveCount",
    "ApproximateFirstReceiveTimestamp",
    "DeadLetterQueueSourceArn",
    "SequenceNumber",
    "MessageDeduplicationId",
    "MessageGroupId",
    "AWSTraceHeader",
];

/// A message attribute; the local stack's own are all text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MessageAttribute {
    string_value: String,
    data_type: &'static str,
}

/// The system attributes of a message that were asked for.
pub(super) fn system_attributes(
    queue: &str,
    message: &Message,
    asked: &[String],
) -> BTreeMap<&'static str, String> {
    let ms = |time: chrono::DateTime<chrono::Utc>| time.timestamp_millis().to_string();
    let mut all = BTreeMap::from([
        ("SenderId", "giemsa-local".to_owned()),
        ("SentTimestamp", ms(message.sent_at)),
        ("ApproximateReceiveCount", message.receive_count.to_string()),
        ("ApproximateFirstReceiveTimestamp", ms(message.first_received_at)),
    ]);
    if message.death.is_some()
        && let Some(arn) = source_arn(queue)
    {
        all.insert("DeadLetterQueueSourceArn", arn);
    }
    all.retain(|name, _| asked.iter().any(|asked| asked == "All" || asked == name));
    all
}

/// What the local stack knows of a dead letter beyond what SQS does, as far as it was asked for.
pub(super) fn message_attributes(
    message: &Message,
    asked: &[String],
) -> BTreeMap<&'static str, MessageAttribute> {
    let mut all = BTreeMap::new();
    if let Some(death) = &message.death {
        let mut put = |name, data_type, value: String| {
            all.insert(name, MessageAttribute { string_value: value, data_type });
        };
        put(DEAD_SINCE, "Number", death.dead_at.timestamp_millis().to_string());
        put(FAILED_RECEIVES, "Number", message.receive_count.to_string());
        put(PROCESS_DEATHS, "Number", death.interrupted_count.to_string());
        // SQS allows no empty value.
        if let Some(reason) = death.last_failure.as_ref().filter(|reason| !reason.is_empty()) {
            put(LAST_FAILURE, "String", reason.clone());
        }
    }
    all.retain(|name, _| asked.iter().any(|asked| is_named(name, asked)));
    all
}

/// When a message was set aside, milliseconds since 1970.
const DEAD_SINCE: &str = "giemsa.dead_since";
/// How many receives failed.
const FAILED_RECEIVES: &str = "giemsa.failed_receives";
/// How many times the process died with the message in flight.
const PROCESS_DEATHS: &str = "giemsa.process_deaths";
/// What the last receiver said that gave it back.
const LAST_FAILURE: &str = "giemsa.last_failure";

/// `All`, `.*`, a prefix such as `giemsa.*`, or the name itself.
fn is_named(name: &str, asked: &str) -> bool {
    match asked.strip_suffix(".*") {
        Some(prefix) => {
            prefix.is_empty() || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
        }
        None => asked == "All" || asked == name,
    }
}

/// MD5 of a body, hexadecimal.
pub(super) fn md5_of_body(body: &str) -> String {
    hex(&Md5::digest(body))
}

/// MD5 of message attributes, hexadecimal: of each, in the order of names, name, type and value, with their lengths.
pub(super) fn md5_of_attributes(attributes: &BTreeMap<&'static str, MessageAttribute>) -> Option<String> {
    const STRING_VALUE: [u8; 1] = [1];
    if attributes.is_empty() {
        return None;
    }
    let mut digest = Md5::new();
    let mut add = |text: &str, kind: &[u8]| {
        let length = u32::try_from(text.len()).expect("far below the limit of a message");
        digest.update(kind);
        digest.update(length.to_be_bytes());
        digest.update(text);
    };
    for (name, attribute) in attributes {
        add(name, &[]);
        add(attribute.data_type, &[]);
        add(&attribute.string_value, &STRING_VALUE);
    }
    Some(hex(&digest.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sqs() {
        assert_eq!(md5_of_body("This is a test message"), "fafb00f5732ab283681e124bf8747ed1");
        let attribute =
            |data_type, value: &str| MessageAttribute { string_value: value.to_owned(), data_type };
        let attributes = BTreeMap::from([("a", attribute("String", "x")), ("n", attribute("Number", "7"))]);
        // Computed apart from this code, with Python's hashlib and struct.
        assert_eq!(md5_of_attributes(&attributes).unwrap(), EXPECTED);
        assert_eq!(md5_of_attributes(&BTreeMap::new()), None);
    }

    const EXPECTED: &str = "dd77bb1a7f5f13add45b75f309413154";

    #[test]
    fn attributes_are_asked_for_by_name_prefix_or_all() {
        for asked in ["All", ".*", "giemsa.*", "giemsa.dead_since"] {
            assert!(is_named(DEAD_SINCE, asked), "{asked}");
        }
        for asked in ["giemsa", "gie.*", "dead_since", ""] {
            assert!(!is_named(DEAD_SINCE, asked), "{asked}");
        }
    }
}
