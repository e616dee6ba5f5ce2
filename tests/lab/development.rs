//! Whatever a model does in development, production's results stay as they are, byte for byte.

use std::collections::BTreeMap;
use std::time::Duration;

use giemsa_config::Config;
use giemsa_tests::lab::events::{self, Upload};
use giemsa_tests::lab::{Lab, file, sample_model};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

/// Pictures on which `toy_gaps.onnx` gives no score, no outlier score and a panic of the engine; and two that it
/// answers, one of them a cell.
fn images() -> [(&'static str, Vec<u8>); 5] {
    let plain = |color| {
        let mut png = std::io::Cursor::new(Vec::new());
        RgbImage::from_pixel(30, 25, Rgb(color)).write_to(&mut png, ImageFormat::Png).unwrap();
        png.into_inner()
    };
    [
        ("s/red.png", plain([77, 0, 0])),
        ("s/green.png", plain([0, 77, 0])),
        ("s/blue.png", plain([0, 0, 77])),
        ("s/black.png", plain([0, 0, 0])),
        ("s/cell.png", giemsa_tests::lab::uninfected_cell()),
    ]
}

async fn uploads(lab: &Lab) -> Value {
    let mut bodies = Vec::new();
    for (key, bytes) in images() {
        let etag = lab.put(key, &bytes).await;
        bodies.push(events::s3(&Upload::new(key, &etag, bytes.len())).to_string());
    }
    events::sqs(bodies)
}

async fn production_results(lab: &Lab) -> BTreeMap<String, String> {
    let objects = lab.result_objects().await.into_iter().filter(|(key, _)| key.contains("/stage=prod/"));
    objects.map(|(key, bytes)| (key, String::from_utf8(bytes).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_model_changes_no_byte_of_production() {
    let patient = giemsa_tests::lab::config("dev");
    let mut hasty = giemsa_tests::lab::config("dev");
    hasty.limits.image_timeout = Duration::from_micros(1);
    let sample = sample_model();
    let all = images().len();
    let cases: [(&str, Vec<u8>, Config, usize); 4] = [
        (
            "no score on an image, or a panic",
            file("tests/data/golden/toy_gaps.onnx"),
            patient.clone(),
            all - 2,
        ),
        // Longer than an image may take: every answer comes too late.
        ("hangs", sample.clone(), hasty, all),
        ("half a file", sample[..sample.len() / 2].to_vec(), patient.clone(), all),
        ("no model", b"<html>".to_vec(), patient, all),
    ];
    for (what, model, config, failed) in cases {
        let lab = Lab::without_model().await;
        lab.put_model("prod", &sample).await;
        let event = uploads(&lab).await;
        // What production says when nobody else is there, of the same uploads.
        assert_eq!(lab.handler().handle(&event, None).await.unwrap(), json!({"batchItemFailures": []}));
        let expected = production_results(&lab).await;
        assert_eq!(expected.len(), all);
        for key in expected.keys() {
            lab.clients.s3.delete_object().bucket(giemsa_tests::lab::RESULTS).key(key).send().await.unwrap();
        }

        lab.put_model("dev", &model).await;
        let (prod, dev) = (lab.handler(), lab.handler_of(config, lab.clients.clone()));
        let (prod, dev) = tokio::join!(prod.handle(&event, None), dev.handle(&event, None));
        assert_eq!(prod.unwrap(), json!({"batchItemFailures": []}), "{what}");
        // Development hands its failures back, and keeps nothing of them.
        let dev = dev.unwrap();
        assert_eq!(dev["batchItemFailures"].as_array().unwrap().len(), failed, "{what}: {dev}");
        assert_eq!(lab.result_objects().await.len(), all + all - failed, "{what}");
        assert_eq!(production_results(&lab).await, expected, "{what}");
    }
}
