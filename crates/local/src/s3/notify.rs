//! A finished write → the S3 event notification that AWS would send to SQS.
//!
//! Pure: never sends anything. The key is form-encoded exactly as AWS encodes it, and sequencers of one key compare
//! like the order in which its writes took effect.

use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::s3::LOCAL_ACCESS_KEY_ID;

/// The region the local stack pretends to be in.
pub(crate) const REGION: &str = "us-east-1";

/// How an object came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Creation {
    Put,
    Copy,
    CompleteMultipartUpload,
}

impl Creation {
    fn event_name(self) -> &'static str {
        match self {
            Self::Put => "ObjectCreated:Put",
            Self::Copy => "ObjectCreated:Copy",
            Self::CompleteMultipartUpload => "ObjectCreated:CompleteMultipartUpload",
        }
    }
}

/// What a notification says of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Created<'a> {
    pub(crate) creation: Creation,
    pub(crate) bucket: &'a str,
    /// The key as the user knows it, not encoded.
    pub(crate) key: &'a str,
    /// Only in a bucket with versioning enabled.
    pub(crate) version_id: Option<&'a str>,
    pub(crate) size_bytes: u64,
    /// Without quotes.
    pub(crate) etag: &'a str,
    /// Rises with every write of the stack.
    pub(crate) sequencer: i64,
    pub(crate) at: DateTime<Utc>,
}

/// The notification as JSON text.
pub(crate) fn notification(created: &Created<'_>) -> String {
    let Created { creation, bucket, key, version_id, size_bytes, etag, sequencer, at } = *created;
    let request_id = format!("{sequencer:016X}");
    let mut object = json!({
        "key": encode_key(key),
        "size": size_bytes,
        "eTag": etag,
        // Fixed width, so that comparing texts compares numbers.
        "sequencer": format!("{sequencer:018X}"),
    });
    if let Some(version_id) = version_id {
        object["versionId"] = version_id.into();
    }
    json!({"Records": [{
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": REGION,
        "eventTime": at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "eventName": creation.event_name(),
        "userIdentity": {"principalId": LOCAL_ACCESS_KEY_ID},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": request_id, "x-amz-id-2": request_id},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "giemsa-local",
            "bucket": {
                "name": bucket,
                "ownerIdentity": {"principalId": LOCAL_ACCESS_KEY_ID},
                "arn": format!("arn:aws:s3:::{bucket}"),
            },
            "object": object,
        },
    }]})
    .to_string()
}

/// What stays as it is in an encoded key.
const KEPT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/').remove(b' ');

/// Form-encodes a key as AWS does in notifications and listings: a space is `+`, `/` stays, the rest is percent-encoded.
pub(crate) fn encode_key(key: &str) -> String {
    utf8_percent_encode(key, KEPT).to_string().replace(' ', "+")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_encoded_as_aws_does() {
        let table = [
            ("slide-01/cell_2.png", "slide-01/cell_2.png"),
            ("happy face.jpg", "happy+face.jpg"),
            ("a+b%c.png", "a%2Bb%25c.png"),
            ("é", "%C3%A9"),
            ("(3)~'!*", "%283%29%7E%27%21*"),
            ("//x/../", "//x/../"),
        ];
        for (key, encoded) in table {
            assert_eq!(encode_key(key), encoded);
        }
    }

    proptest! {
        #[test]
        fn encoding_round_trips(key in "\\PC{0,80}|[\\x00-\\x7f]{0,80}") {
            let encoded = encode_key(&key);
            prop_assert!(encoded.is_ascii());
            let spaces = encoded.replace('+', " ");
            let decoded = percent_encoding::percent_decode_str(&spaces).decode_utf8().unwrap();
            prop_assert_eq!(decoded, key);
        }

        #[test]
        fn sequencers_compare_as_text(a in 0..i64::MAX, b in 0..i64::MAX) {
            let text = |sequencer| {
                let created = Created {
                    creation: Creation::Put, bucket: "b", key: "k", version_id: None, size_bytes: 1, etag: "e", sequencer,
                    at: DateTime::UNIX_EPOCH,
                };
                let event: serde_json::Value = serde_json::from_str(&notification(&created)).unwrap();
                event["Records"][0]["s3"]["object"]["sequencer"].as_str().unwrap().to_owned()
            };
            prop_assert_eq!(text(a).cmp(&text(b)), a.cmp(&b));
        }
    }
}
