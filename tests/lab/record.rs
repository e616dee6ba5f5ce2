//! What is written is what the published schema says, and nothing the schema forbids is written.

use giemsa_tests::lab::events::{self, Upload};
use giemsa_tests::lab::{Lab, uninfected_cell};
use serde_json::{Value, json};

fn validator() -> jsonschema::Validator {
    let schema: Value = serde_json::from_slice(&giemsa_tests::lab::file("docs/record.schema.json")).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_all_kinds_match_the_schema() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    let validator = validator();
    let uncertain = giemsa_tests::lab::file("sample-images/slide-003-mixed-forms/cell-05.tif");
    let files: [(&str, Vec<u8>); 4] = [
        ("s/cell.png", uninfected_cell()),
        ("s/uncertain.tif", uncertain),
        ("s/text.png", b"text".to_vec()),
        ("loose.png", Vec::new()),
    ];
    let mut reviewed = 0;
    for (key, bytes) in &files {
        let etag = lab.put(key, bytes).await;
        handler.handle(&events::s3(&Upload::new(key, &etag, bytes.len())), None).await.unwrap();
        let record = lab.result(key).await.unwrap();
        assert!(record.timings_ms.is_some() && record.classified_at.is_some(), "the table has the times");
        reviewed += usize::from(record.needs_review);
        assert_valid(&validator, &serde_json::to_value(&record).unwrap());
    }
    assert_eq!(reviewed, 1, "one of the samples asks for a review");
    let objects = lab.result_objects().await;
    assert_eq!(objects.len(), files.len());
    for (key, bytes) in objects {
        let stored: Value = serde_json::from_slice(&bytes).unwrap();
        assert_valid(&validator, &stored);
        assert!(stored.get("classified_at").is_none() && stored.get("timings_ms").is_none());
        let (image, id) = (stored["image"]["key"].as_str().unwrap(), stored["result_id"].as_str().unwrap());
        let day = &stored["image"]["uploaded_at"].as_str().unwrap()[..10];
        assert_eq!(key, format!("results/stage=prod/date={day}/{image}.{id}.json"));
    }
}

fn assert_valid(validator: &jsonschema::Validator, record: &Value) {
    let problems: Vec<String> =
        validator.iter_errors(record).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(problems.is_empty(), "{problems:#?} in {record:#}");
}

#[test]
fn the_schema_refuses_what_must_not_be_written() {
    let validator = validator();
    let good = json!({
        "schema": "giemsa.record/1", "result_id": "0123456789abcdef", "image": {"bucket": "b", "key": "s/k"},
        "slide": "s", "stage": "prod", "status": "rejected", "needs_review": false,
        "reject": {"code": "corrupt", "message": "cut off"},
        "model": {"name": "m", "version": "1", "sha256": "0".repeat(64)}, "software": "giemsa 0.1.0",
    });
    assert_valid(&validator, &good);
    for (pointer, value) in [
        ("/result_id", json!("short")),
        ("/status", json!("classified")),
        ("/status", json!("unknown")),
        ("/reject/code", json!("because")),
        ("/label", json!("parasitized")),
        ("/needs_review", json!(true)),
        ("/patient", json!("name")),
        ("/outlier_score", json!(0.1)),
        ("/outlier", json!(false)),
    ] {
        let mut bad = good.clone();
        match bad.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => bad[&pointer[1..]] = value.clone(),
        }
        assert!(!validator.is_valid(&bad), "{pointer} = {value} is accepted");
    }
}

#[test]
fn the_schema_knows_outliers() {
    let validator = validator();
    let good = json!({
        "schema": "giemsa.record/1", "result_id": "0123456789abcdef", "image": {"bucket": "b", "key": "s/k"},
        "slide": "s", "stage": "prod", "status": "classified",
        "label": "a", "confidence": 0.9, "probabilities": {"a": 0.9, "b": 0.1},
        "outlier_score": 12.5, "outlier": true, "needs_review": true, "review_reason": "odd",
        "model": {"name": "m", "version": "1", "sha256": "0".repeat(64)}, "software": "giemsa 0.1.0",
    });
    assert_valid(&validator, &good);
    let mut unknown = good.clone();
    for field in ["outlier_score", "outlier", "review_reason"] {
        unknown.as_object_mut().unwrap().remove(field);
    }
    unknown["needs_review"] = json!(false);
    assert_valid(&validator, &unknown);
    // One without the other, and an outlier that nobody looks at.
    for (field, value) in [("outlier_score", json!(0.1)), ("outlier", json!(false))] {
        let mut half = unknown.clone();
        half[field] = value;
        assert!(!validator.is_valid(&half), "{field} alone is accepted");
    }
    let mut unseen = unknown;
    (unseen["outlier_score"], unseen["outlier"]) = (json!(0.9), json!(true));
    assert!(!validator.is_valid(&unseen), "an outlier without a review is accepted");
}
