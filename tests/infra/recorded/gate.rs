//! The life of the golden gate: its first model, the same again, one to compare with, one that is none, one that is gone.
//!
//! Afterwards the sample model is in the archive, and no stage has a model.

use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::archive_key;
use giemsa_core::gate_rules::RULES_KEY;
use serde_json::{Value, json};

use super::cloud::{Cloud, Function};
use giemsa_tests::lab::events::{Upload, eventbridge};
use giemsa_tests::lab::{MODELS, sample_model, sample_model_with};

/// What EventBridge tells of a version of development's model.
fn copied(version_id: &str) -> Value {
    let mut event = eventbridge(&Upload::new("dev/model.onnx", "e", 1));
    event["detail"]["bucket"]["name"] = json!(MODELS);
    event["detail"]["object"]["version-id"] = json!(version_id);
    event
}

pub async fn live(cloud: &Cloud) -> Function {
    let mut gate = Function::start(cloud, "Gate").await;
    cloud.put_golden_set().await;
    let model = sample_model();
    let first = copied(&cloud.put_model("dev/model.onnx", model.clone()).await);
    for was_tried_before in [false, true] {
        let answer = gate.invoke(&first).await["models"][0].clone();
        let expected = (json!(true), json!(was_tried_before));
        assert_eq!((answer["passed"].clone(), answer["was_tried_before"].clone()), expected, "{answer}");
    }
    assert_eq!(cloud.lab.model_object(&archive_key(&sha256_hex(&model))).await, Some(model));

    // By hand, with rules and another model of production to compare with.
    cloud.put_model(RULES_KEY, b"{\"accuracy_at_least\": 0.5}".to_vec()).await;
    cloud.put_model("prod/model.onnx", sample_model_with("giemsa.version", "2")).await;
    let again = gate.invoke(&json!({ "gate": { "stage": "dev", "again": true } })).await;
    assert_eq!(again["models"][0]["passed"], true, "{again}");

    let none = copied(&cloud.put_model("dev/model.onnx", b"<html>no model</html>".to_vec()).await);
    let failed = gate.invoke(&none).await;
    assert_eq!(failed["models"][0]["passed"], false, "{failed}");
    let s3 = &cloud.lab.clients.s3;
    for (key, version_id) in [
        ("dev/model.onnx", none["detail"]["object"]["version-id"].as_str()),
        ("dev/model.onnx", None),
        ("prod/model.onnx", None),
    ] {
        let delete = s3.delete_object().bucket(MODELS).key(key).set_version_id(version_id.map(str::to_owned));
        delete.send().await.unwrap();
    }
    let gone = gate.invoke(&none).await;
    assert_eq!(gone["models"][0]["gone"], true, "{gone}");
    gate
}
