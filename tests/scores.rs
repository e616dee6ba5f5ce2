//! Scores equal those of onnxruntime on the arrays that `tests/golden/make_golden.py` wrote.
//!
//! Tolerance: 0.01 on raw scores (of a size of about 3), 0.002 on probabilities and on the outlier score. The engines agree to about
//! 1e-6; the rest is resampling, which may differ from Pillow's by one level of 255.

use giemsa::classification::decide;
use giemsa::image::{DecodeLimits, decode, preprocess};
use giemsa::model::Model;
use serde_json::Value;

const SCORE_TOLERANCE: f64 = 1e-2;
const PROBABILITY_TOLERANCE: f64 = 2e-3;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

#[test]
fn scores_and_probabilities_equal_onnxruntime_on_a_non_square_image() {
    let cases: Vec<Value> = serde_json::from_slice(&file("scores.json")).unwrap();
    assert!(cases.len() >= 2, "both layouts are covered");
    assert!(cases.iter().any(|case| case["outlier"].is_number()), "an outlier score is covered");
    for case in cases {
        let name = case["model"].as_str().unwrap();
        let model = Model::load(&file(name)).unwrap();
        let bytes = file(case["image"].as_str().unwrap());
        let limits = DecodeLimits {
            max_width_px: 1000,
            max_height_px: 1000,
            max_pixels: 1_000_000,
            max_decoded_bytes: 12_000_000,
        };
        let pixels = decode(&bytes, &limits).unwrap().pixels;
        assert_ne!(pixels.width_px, pixels.height_px);
        let scores = model.network.run(preprocess(&pixels, &model.metadata.input)).unwrap();
        for (found, expected) in scores.labels.iter().zip(case["raw"].as_array().unwrap()) {
            let difference = (f64::from(*found) - expected.as_f64().unwrap()).abs();
            assert!(
                difference < SCORE_TOLERANCE,
                "{name}: score {found} differs by {difference} from {expected}"
            );
        }
        let decision = decide(&scores, &model.metadata);
        assert_eq!(scores.outlier.is_some(), case["outlier"].is_number(), "{name}");
        if let (Some(found), Some(expected)) = (scores.outlier, case["outlier"].as_f64()) {
            let difference = (f64::from(found) - expected).abs();
            assert!(
                difference < PROBABILITY_TOLERANCE,
                "{name}: outlier score {found} differs by {difference} from {expected}"
            );
            assert!((decision.outlier_score.unwrap() - f64::from(found)).abs() < 1e-6);
            assert_eq!(decision.outlier, Some(false), "a field full of cells is no blank one");
        }
        let labels = case["labels"].as_array().unwrap();
        for (label, expected) in labels.iter().zip(case["probabilities"].as_array().unwrap()) {
            let found = decision.probabilities[label.as_str().unwrap()];
            let difference = (found - expected.as_f64().unwrap()).abs();
            assert!(
                difference < PROBABILITY_TOLERANCE,
                "{name}: {label} {found} differs by {difference} from {expected}"
            );
        }
    }
}
