//! What of an event is needed: a bucket and a key, and what says which form it is of. Nothing else decides.

use giemsa_core::event::{Notice, TriggerEvent, parse_event};
use giemsa_tests::lab::INPUT;
use giemsa_tests::lab::events::{self, Upload};
use serde_json::{Map, Value, json};

const KEY: &str = "slide 1/cell+é.png";

/// JSON pointers of fields without which the upload cannot be known. Fields inside of these belong to them.
const NEEDED: &[&str] = &[
    "/Records",
    "/Records/0/s3",
    "/Records/0/s3/bucket",
    "/Records/0/s3/bucket/name",
    "/Records/0/s3/object",
    "/Records/0/s3/object/key",
    "/Records/0/body",
    "/Records/0/Sns",
    "/Records/0/Sns/Message",
    "/Message",
    "/detail-type",
    "/detail",
    "/detail/bucket",
    "/detail/bucket/name",
    "/detail/object",
    "/detail/object/key",
    "/tasks",
    "/tasks/0/s3Key",
    "/tasks/0/s3Bucket",
    "/tasks/0/s3BucketArn",
];

/// Pointers of all fields of objects below `value`.
fn fields_of(value: &Value, at: &str, found: &mut Vec<String>) {
    let fields: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), field)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, each)| (index.to_string(), each)).collect()
        }
        _ => return,
    };
    for (name, field) in fields {
        let pointer = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        if value.is_object() {
            found.push(pointer.clone());
        }
        fields_of(field, &pointer, found);
    }
}

fn parent<'a>(event: &'a mut Value, pointer: &str) -> (&'a mut Map<String, Value>, String) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = event.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    (parent, name.replace("~1", "/").replace("~0", "~"))
}

/// The event once for each of its fields, without it and with `null` or a number in its place; those inside of messages
/// that are JSON texts themselves, too.
fn variants(event: &Value) -> Vec<(String, Value)> {
    let mut pointers = Vec::new();
    fields_of(event, "", &mut pointers);
    let mut variants = Vec::new();
    for pointer in pointers {
        for replacement in [None, Some(Value::Null), Some(json!(-7))] {
            let mut changed = event.clone();
            let (fields, name) = parent(&mut changed, &pointer);
            match replacement {
                None => fields.remove(&name),
                Some(value) => fields.insert(name, value),
            };
            variants.push((pointer.clone(), changed));
        }
        let inner =
            event.pointer(&pointer).and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
        if let Some(inner @ Value::Object(_)) = inner {
            for (within, changed) in self::variants(&inner) {
                let mut outer = event.clone();
                let (fields, name) = parent(&mut outer, &pointer);
                fields.insert(name, json!(changed.to_string()));
                variants.push((within, outer));
            }
        }
    }
    variants
}

/// Bucket and key of each upload of an event; `None` where something in it could not be read.
fn uploads(event: &TriggerEvent) -> Option<Vec<(&str, &str)>> {
    let mut uploads = Vec::new();
    for delivery in &event.deliveries {
        for notice in delivery.notices.as_ref().ok()? {
            if let Notice::Created(object) = notice {
                uploads.push((object.bucket.as_str(), object.key.as_str()));
            }
        }
    }
    Some(uploads)
}

#[test]
fn only_bucket_and_key_are_needed_and_what_lacks_them_is_never_acknowledged() {
    let upload = Upload::new(KEY, "d41d8cd98f00b204e9800998ecf8427e", 7);
    let mut needed_seen = std::collections::BTreeSet::new();
    for (form, event) in events::all_forms(&upload) {
        let whole = parse_event(&event).unwrap();
        let mut tried = 0;
        for (pointer, changed) in variants(&event) {
            tried += 1;
            let parsed = parse_event(&changed);
            if let Some(needed) = NEEDED.iter().find(|needed| **needed == pointer) {
                needed_seen.insert(*needed);
                let found = parsed.as_ref().ok().and_then(uploads);
                // A removed list of records is not an event; any other is handed back.
                assert_eq!(found, None, "{form} without {pointer}: {parsed:?}");
                continue;
            }
            let parsed = parsed.unwrap_or_else(|error| panic!("{form} without {pointer}: {error}"));
            assert_eq!(uploads(&parsed), Some(vec![(INPUT, KEY)]), "{form} without {pointer}");
            if !pointer.ends_with("messageId") && !pointer.ends_with("taskId") {
                assert_eq!(parsed.deliveries[0].id, whole.deliveries[0].id, "{form} without {pointer}");
            }
        }
        assert!(tried > 10, "{form}: {tried}");
    }
    assert_eq!(needed_seen.len(), NEEDED.len(), "{needed_seen:?}");
}

#[test]
fn the_least_that_names_an_upload_is_enough() {
    let s3 = json!({"s3": {"bucket": {"name": "b"}, "object": {"key": "a+b.png"}}});
    let s3 = json!({"Records": [s3]});
    let eventbridge = json!({"detail-type": "Object Created", "detail": {"bucket": {"name": "b"}, "object": {"key": "a b.png"}}});
    for event in [
        s3.clone(),
        eventbridge.clone(),
        json!({"Records": [{"body": s3.to_string()}]}),
        json!({"Records": [{"body": eventbridge.to_string()}]}),
        json!({"Records": [{"Sns": {"Message": s3.to_string()}}]}),
        json!({"tasks": [{"s3Bucket": "b", "s3Key": "a+b.png"}]}),
    ] {
        let parsed = parse_event(&event).unwrap_or_else(|error| panic!("{event}: {error}"));
        assert_eq!(uploads(&parsed), Some(vec![("b", "a b.png")]), "{event}");
    }
}

#[test]
fn other_stores_names_of_events_are_understood() {
    for (name, is_upload) in [
        ("ObjectCreated:Put", true),
        ("s3:ObjectCreated:CompleteMultipartUpload", true),
        ("ObjectRemoved:Delete", false),
        ("s3:ObjectRemoved:Delete", false),
    ] {
        let mut event = events::s3(&Upload::new(KEY, "e", 7));
        event["Records"][0]["eventName"] = json!(name);
        let parsed = parse_event(&event).unwrap();
        assert_eq!(uploads(&parsed).unwrap().len(), usize::from(is_upload), "{name}");
    }
}
