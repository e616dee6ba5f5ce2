//! An upload as S3 would notify of it, for a queue that feeds the classifier.
//!
//! It never makes up a sequencer: the order among uploads of a key then comes from what is read. The event parser reads
//! from it the very upload that was given.

use chrono::SecondsFormat;
use serde_json::json;

use giemsa_store::{Upload, form_encoded};

/// Body of a queue message that announces `upload` to `bucket`.
pub fn notification_of(bucket: &str, upload: &Upload) -> String {
    let mut object = json!({
        "key": form_encoded(&upload.key),
        "size": upload.size_bytes,
        "eTag": upload.etag,
    });
    if let Some(version_id) = upload.version_id() {
        object["versionId"] = version_id.into();
    }
    let record = json!({
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventTime": upload.uploaded_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "eventName": "ObjectCreated:Put",
        "userIdentity": {"principalId": "giemsa"},
        "requestParameters": {},
        "responseElements": {},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "giemsa-reconcile",
            "bucket": {"name": bucket, "arn": format!("arn:aws:s3:::{bucket}")},
            "object": object,
        },
    });
    json!({ "Records": [record] }).to_string()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;
    use giemsa_core::event::{Notice, parse_event};
    use giemsa_store::UploadVersion;

    proptest! {
        #[test]
        fn the_event_parser_reads_the_upload_that_was_given(
            key in "\\PC{1,20}|[ +%=&?#\"\\n\\r\\t/é漢]{1,20}",
            version in proptest::option::of("[A-Za-z0-9._-]{1,20}"),
            size_bytes in 0_u64..1 << 40,
        ) {
            let upload = Upload {
                key,
                version: version.map_or(UploadVersion::Null, UploadVersion::Id),
                etag: "9b2cf535f27731c974343645a3985328-2".to_owned(),
                size_bytes,
                uploaded_at: DateTime::from_timestamp_millis(1_795_000_000_123).unwrap(),
                is_latest: true,
            };
            let message: serde_json::Value =
                serde_json::from_str(&notification_of("in", &upload)).unwrap();
            let event = parse_event(&message).unwrap();
            let notices = event.deliveries[0].notices.as_ref().unwrap();
            let [Notice::Created(object)] = notices.as_slice() else { panic!("{notices:?}") };
            prop_assert_eq!((&object.bucket, &object.key), (&"in".to_owned(), &upload.key));
            prop_assert_eq!(object.version_id.as_deref(), upload.version_id());
            prop_assert_eq!(object.etag.as_deref(), Some(upload.etag.as_str()));
            prop_assert_eq!(object.size_bytes, Some(upload.size_bytes));
            prop_assert_eq!(object.event_time, Some(upload.uploaded_at));
            prop_assert_eq!(&object.sequencer, &None);
        }
    }
}
