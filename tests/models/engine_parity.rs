//! The engine gives the scores that onnxruntime gave, network by network: the fixed set of `make engine-parity`.
//!
//! `tests/py/parity/engine.py --fixed tests/data/engine` writes it, with onnxruntime's own optimiser off. Tolerance: 1e-3 of
//! a score, relative above 1.

use std::path::Path;

use giemsa_image::InputTensor;
use giemsa_model::Model;
use serde_json::Value;

const TOLERANCE: f64 = 1e-3;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/data/engine").join(name))
        .unwrap()
}

/// The picture that the fixed set was scored on.
fn picture(shape: [usize; 4]) -> InputTensor {
    let value = |i: usize| (i * 7919 % 1000) as f32 / 500.0 - 0.9993;
    InputTensor { shape, values: (0..shape.iter().product()).map(value).collect() }
}

#[test]
fn scores_equal_onnxruntime_s_operator_by_operator() {
    let cases: Vec<Value> = serde_json::from_slice(&file("scores.json")).unwrap();
    assert!(cases.len() > 30, "{} networks", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case["model"].as_str().unwrap();
        let model = match Model::load(&file(&format!("{name}.onnx"))) {
            Ok(model) => model,
            Err(error) => {
                wrong.push(format!("{name} is refused: {error}"));
                continue;
            }
        };
        let found = model.network.run(picture(model.metadata.input.shape())).unwrap().labels;
        let expected = case["scores"].as_array().unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        let differences = found.iter().zip(expected).map(|(found, expected)| {
            let expected = expected.as_f64().unwrap();
            (f64::from(*found) - expected).abs() / expected.abs().max(1.0)
        });
        let difference = differences.fold(0.0, f64::max);
        if difference.is_nan() || difference > TOLERANCE {
            wrong.push(format!("{name} differs by {difference}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
