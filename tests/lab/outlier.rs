//! What is like nothing a model was trained on: flagged with the reason wherever a record is kept, and never
//! lost where a network fails on it.

use giemsa_core::object::ObjectRef;
use giemsa_core::record::{Finding, ImageInfo, Record, Status};
use giemsa_core::slide::SlideFigure;
use giemsa_model::decide;
use giemsa_model::{Model, Scores};
use giemsa_store::{TableWriter, make_current};
use giemsa_tests::lab::events::{self, Upload};
use giemsa_tests::lab::{Lab, file};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

const REASON: &str =
    "does not look like the images the model was trained on (outlier score 0.982014, limit 0.5)";

/// A picture of one colour, as a PNG file.
fn plain(color: [u8; 3]) -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    RgbImage::from_pixel(30, 25, Rgb(color)).write_to(&mut png, ImageFormat::Png).unwrap();
    png.into_inner()
}

async fn put_all(lab: &Lab, images: &[(&str, Vec<u8>)]) -> Value {
    let mut bodies = Vec::new();
    for (key, bytes) in images {
        let etag = lab.put(key, bytes).await;
        bodies.push(events::s3(&Upload::new(key, &etag, bytes.len())).to_string());
    }
    events::sqs(bodies)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_field_needs_review_in_the_results_and_in_the_table() {
    let lab = Lab::without_model().await;
    lab.put_model("prod", &file("tests/data/golden/toy_outlier.onnx")).await;
    let images =
        [("s/blank.png", plain([230, 205, 214])), ("s/field.png", file("tests/data/golden/field.png"))];
    let event = put_all(&lab, &images).await;
    let answer = lab.handler().handle(&event, None).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": []}));

    let blank = lab.result("s/blank.png").await.unwrap();
    assert_eq!((blank.status, blank.needs_review), (Status::Classified, true));
    assert_eq!((blank.outlier_score, blank.outlier), (Some(0.982014), Some(true)));
    let reason = blank.review_reason.clone().unwrap();
    assert!(reason.starts_with(REASON), "{reason}");
    let field = lab.result("s/field.png").await.unwrap();
    assert_eq!((field.outlier, field.needs_review), (Some(false), false), "{field:?}");

    let schema: Value = serde_json::from_slice(&file("docs/record.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let objects = lab.result_objects().await;
    let stored: Vec<Record> = objects
        .values()
        .map(|bytes| {
            let json: Value = serde_json::from_slice(bytes).unwrap();
            assert!(schema.is_valid(&json), "{json:#}");
            serde_json::from_value(json).unwrap()
        })
        .collect();
    assert_eq!(stored, [blank.without_times(), field.without_times()]);
    let figure = SlideFigure::of([&blank, &field]);
    assert_eq!(
        (figure.cells, figure.outliers, figure.cells_with_sign),
        (1, 1, u64::from(field.positive.is_some()))
    );
    assert_eq!(lab.table().review_queue("prod", 10).await.unwrap(), [blank]);

    // Delivered again, nothing changes.
    lab.handler().handle(&event, None).await.unwrap();
    assert_eq!(lab.result_objects().await, objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_keeps_scores_of_any_size() {
    let lab = Lab::without_model().await;
    let model = Model::load(&file("tests/data/golden/toy_outlier.onnx")).unwrap();
    let table = TableWriter::new(lab.clients.dynamodb.clone(), giemsa_tests::lab::TABLE);
    for (i, score) in [f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-40, 0.0, -0.0].into_iter().enumerate() {
        let scores = Scores { labels: vec![1.0, 0.0], outlier: Some(score) };
        let key = format!("s/{i}.png");
        let image = ImageInfo::of_object(&ObjectRef::new(giemsa_tests::lab::INPUT, &key));
        let decision = decide(&scores, &model.metadata);
        let record = Record::new(image, "prod", model.info(), Finding::Classified(decision));
        make_current(&lab.clients.s3, &table, &record, None).await.unwrap();
        assert_eq!(lab.result(&key).await.unwrap().outlier_score, record.outlier_score, "{score:e}");
        assert!((record.outlier_score.unwrap() - f64::from(score)).abs() <= 1e-5 * f64::from(score.abs()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_on_which_the_network_fails_is_handed_back_alone_and_answered_by_a_mended_model() {
    let lab = Lab::without_model().await;
    lab.put_model("prod", &file("tests/data/golden/toy_gaps.onnx")).await;
    // No score, no outlier score, an error of the engine; and one image that is well.
    let images = [
        ("s/red.png", plain([77, 0, 0])),
        ("s/green.png", plain([0, 77, 0])),
        ("s/blue.png", plain([0, 0, 77])),
        ("s/black.png", plain([0, 0, 0])),
    ];
    let event = put_all(&lab, &images).await;
    let answer = lab.handler().handle(&event, None).await.unwrap();
    let failed: Vec<&str> = answer["batchItemFailures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| failure["itemIdentifier"].as_str().unwrap())
        .collect();
    assert_eq!(failed, ["message-0", "message-1", "message-2"]);
    for (key, _) in &images[..3] {
        assert!(lab.result(key).await.is_none(), "{key} has a result");
    }
    assert_eq!(lab.result("s/black.png").await.unwrap().status, Status::Classified);

    // The model was at fault, not the images: another one answers them.
    lab.put_model("prod", &file("tests/data/golden/toy_outlier.onnx")).await;
    let answer = lab.handler().handle(&event, None).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": []}));
    for (key, _) in &images {
        assert_eq!(lab.result(key).await.unwrap().outlier, Some(true), "{key}");
    }
}
