//! What must hold for any bytes: shared by the fuzzing targets here and by `tests/images/fuzz_corpus.rs`.
//!
//! Each function takes bytes from outside through one entrance of the library and panics if a promise is broken. It
//! returns whether the bytes got past the entrance, so that a caller sees that its inputs reach anything. Nothing here
//! looks inside the library.

use std::collections::BTreeMap;
use std::time::Duration;

use giemsa_core::event::{Notice, Trigger, TriggerEvent, parse_event};
use giemsa_core::object::{slide_name, slide_of_key};
use giemsa_image::{DecodeLimits, decode};
use giemsa_model::{GraphFacts, LoadLimits, Metadata, OnnxFile};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// Small, so that a run is short and a size that is not checked is soon seen by the memory limit of the process.
pub const LIMITS: DecodeLimits = DecodeLimits {
    max_width_px: 20_000,
    max_height_px: 20_000,
    max_pixels: 40_000,
    max_decoded_bytes: 480_000,
};

/// A file of any content gives a whole picture within the limits, or an error with a code and a sentence.
pub fn check_decode(bytes: &[u8]) -> bool {
    match decode(bytes, &LIMITS) {
        Ok(decoded) => {
            let (width, height) = (decoded.pixels.width_px, decoded.pixels.height_px);
            let pixels = u64::from(width) * u64::from(height);
            assert!(width > 0 && height > 0 && pixels <= LIMITS.max_pixels, "{width} x {height}");
            assert_eq!(decoded.pixels.rgb.len() as u64, pixels * 3);
            true
        }
        Err(error) => {
            let codes = ["empty", "not_an_image", "unsupported_format", "too_large", "corrupt"];
            assert!(codes.contains(&error.code()), "{}", error.code());
            let message = error.to_string();
            assert!((20..400).contains(&message.len()), "{message}");
            false
        }
    }
}

/// JSON of any content is an event whose parts can be acted on, or an error; and any key comes back as it was.
pub fn check_event(bytes: &[u8]) -> bool {
    if let Ok(key) = std::str::from_utf8(bytes) {
        check_key(key);
    }
    let Ok(event) = serde_json::from_slice::<Value>(bytes) else { return false };
    match parse_event(&event) {
        Ok(event) => {
            check_parts(&event);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

fn check_parts(event: &TriggerEvent) {
    if event.trigger == Trigger::Asynchronous {
        assert!(event.deliveries.iter().all(|delivery| delivery.notices.is_ok()), "{event:?}");
    }
    for delivery in &event.deliveries {
        match &delivery.notices {
            Ok(notices) => notices.iter().for_each(check_notice),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn check_notice(notice: &Notice) {
    match notice {
        Notice::Created(object) => {
            assert!(!object.bucket.is_empty() && !object.key.is_empty(), "{object:?}");
            let slide = slide_of_key(&object.key);
            assert_eq!(slide_name(&slide), slide, "{object:?}");
        }
        Notice::Ignored { event_name } => assert!(!event_name.is_empty()),
    }
}

/// A key as S3 writes it into a notification, and as EventBridge does, is read as what it was.
fn check_key(key: &str) {
    if key.is_empty() {
        return;
    }
    let encoded = utf8_percent_encode(key, NON_ALPHANUMERIC).to_string().replace("%20", "+");
    let record = json!({
        "eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
        "eventTime": "2026-11-22T10:00:00.000Z", "userIdentity": {}, "requestParameters": {}, "responseElements": {},
        "s3": {"bucket": {"name": "b"}, "object": {"key": encoded, "sequencer": "01"}},
    });
    let bridged = json!({
        "version": "0", "id": "1", "detail-type": "Object Created", "source": "aws.s3", "account": "1",
        "time": "2026-11-22T10:00:00Z", "region": "eu-central-1", "resources": [],
        "detail": {"bucket": {"name": "b"}, "object": {"key": key, "sequencer": "01"}},
    });
    for event in [json!({"Records": [record]}), bridged] {
        let parsed = parse_event(&event).unwrap_or_else(|error| panic!("{error}: {event}"));
        let notices = parsed.deliveries[0].notices.as_ref().expect("asynchronous events are read whole");
        let [Notice::Created(object)] = &notices[..] else { panic!("{notices:?}") };
        assert_eq!(object.key, key);
    }
}

/// Bytes of any content are an ONNX file whose metadata is read, or an error; and so is any text as metadata.
///
/// Text is one property a line, `key=value`.
pub fn check_metadata(bytes: &[u8]) -> bool {
    let limits =
        LoadLimits { model_bytes: 32 << 20, run_bytes: 8 << 20, image_timeout: Duration::from_secs(5) };
    if let Ok(text) = std::str::from_utf8(bytes)
        && text.contains("giemsa.")
    {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let properties = lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let shapes = [
            vec![None, Some(3), Some(64), Some(64)],
            vec![Some(1), None, None, Some(1)],
            vec![Some(usize::MAX), Some(3), Some(usize::MAX), Some(1)],
            Vec::new(),
        ];
        let mut read = false;
        for (input_shape, flag) in shapes.into_iter().zip([true, false].into_iter().cycle()) {
            read |= check_properties(
                &properties,
                &GraphFacts {
                    input_shape,
                    ends_in_softmax: flag,
                    has_outlier_output: flag,
                    ..GraphFacts::default()
                },
            );
        }
        return read;
    }
    match OnnxFile::parse_within(bytes, &limits) {
        Ok(file) => {
            assert!(!file.operators().contains_key("\0"));
            check_properties(&file.properties(), &file.graph_facts());
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 4_000);
            false
        }
    }
}

fn check_properties(properties: &BTreeMap<String, String>, graph: &GraphFacts) -> bool {
    match Metadata::parse(properties, graph) {
        Ok(metadata) => {
            assert!(metadata.labels.len() >= 2 && metadata.temperature > 0.0, "{metadata:?}");
            assert!(metadata.positive.iter().all(|label| metadata.labels.contains(label)));
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("giemsa."), "{error}");
            false
        }
    }
}
