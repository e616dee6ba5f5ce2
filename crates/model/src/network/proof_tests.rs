//! The proof of the sample model finds what else would serve: damage, and another input formula.

use std::sync::Arc;

use serde_json::{Value, json};
use tract_onnx::pb;

use super::{LoadLimits, ModelError, OnnxFile};
use crate::{Model, PROOF_KEY};

fn sample() -> pb::ModelProto {
    let bytes = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/thin-smear.onnx"));
    OnnxFile::parse(bytes).unwrap().proto
}

fn load(proto: pb::ModelProto) -> Result<Arc<Model>, ModelError> {
    Model::of_file(OnnxFile::of_proto(proto)?, String::new(), &LoadLimits::default())
}

fn refusal(proto: pb::ModelProto) -> String {
    load(proto).expect_err("it must not serve").to_string()
}

fn property<'a>(proto: &'a mut pb::ModelProto, key: &str) -> &'a mut String {
    &mut proto.metadata_props.iter_mut().find(|entry| entry.key == key).unwrap().value
}

fn with_json(key: &str, change: impl FnOnce(&mut Value)) -> pb::ModelProto {
    let mut proto = sample();
    let text = property(&mut proto, key);
    let mut json = serde_json::from_str(text).unwrap();
    change(&mut json);
    *text = json.to_string();
    proto
}

fn with_proof(change: impl FnOnce(&mut Value)) -> pb::ModelProto {
    with_json(PROOF_KEY, change)
}

/// Flips bits of the weights, at places that follow from `seed`.
fn flip_bits(proto: &mut pb::ModelProto, count: usize, seed: u64) {
    let weights = &mut proto.graph.as_mut().unwrap().initializer;
    let mut bytes: Vec<&mut u8> = weights.iter_mut().flat_map(|tensor| &mut tensor.raw_data).collect();
    let mut state = seed;
    for _ in 0..count {
        // Knuth's generator for 64 bits; its upper half is random enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 32) as usize;
        let byte = at / 8 % bytes.len();
        *bytes[byte] ^= 1 << (at % 8);
    }
}

#[test]
fn the_sample_model_proves_itself() {
    let model = load(sample()).unwrap();
    let proof = model.proof.as_ref().unwrap();
    assert_eq!((proof.inputs, proof.bound), (4, 1e-3));
    assert!(proof.greatest_difference < 1e-4, "{proof:?}");
    assert!(model.notes.is_empty(), "{:?}", model.notes);
}

#[test]
fn flipped_bits_of_the_weights_are_refused() {
    for seed in 0..12 {
        let mut damaged = sample();
        flip_bits(&mut damaged, 200, seed);
        refusal(damaged);
    }
    // Two per cent off in one layer: nothing but the proof sees it.
    let mut fewer = sample();
    let weights = &mut fewer.graph.as_mut().unwrap().initializer;
    let widest = weights.iter_mut().max_by_key(|tensor| tensor.raw_data.len()).unwrap();
    for number in widest.raw_data.as_chunks_mut::<4>().0 {
        *number = (f32::from_le_bytes(*number) * 1.02).to_le_bytes();
    }
    let message = refusal(fewer);
    for part in ["of giemsa.proof the network gave", "onnxruntime", "they differ by", "more than 0.001"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn another_input_than_that_of_the_training_is_refused() {
    let changes: [(&str, Value); 4] = [
        ("mean", json!([0.485, 0.456, 0.406])),
        ("std", json!([0.229, 0.224, 0.225])),
        ("scale", json!(1.0 / 127.5)),
        ("scale", json!(1.0)),
    ];
    for (key, value) in changes {
        let message = refusal(with_json("giemsa.input", |input| input[key] = value.clone()));
        assert!(message.contains("of giemsa.proof the network gave"), "{key} {value}: {message}");
    }
    // Trained on blue first, and given red first: the kernels of the first layer the other way round.
    let mut bgr = sample();
    let weights = &mut bgr.graph.as_mut().unwrap().initializer;
    let first = weights.iter_mut().find(|tensor| tensor.dims.len() == 4 && tensor.dims[1] == 3).unwrap();
    let plane = 4 * (first.dims[2] * first.dims[3]) as usize;
    for kernel in first.raw_data.chunks_exact_mut(3 * plane) {
        let (red, rest) = kernel.split_at_mut(plane);
        red.swap_with_slice(&mut rest[plane..]);
    }
    assert!(refusal(bgr).contains("of giemsa.proof the network gave"));
    // A dead outlier score is seen too.
    let dead = with_proof(|proof| proof["inputs"][3]["outlier"] = json!(0.0));
    assert!(refusal(dead).contains("on input 4 of giemsa.proof the network gave the outlier score 1.0"));
}

#[test]
fn a_proof_that_says_nothing_is_refused_with_what_is_expected() {
    let many = |proof: &mut Value| {
        let first = proof["inputs"][0].clone();
        proof["inputs"] = Value::Array(vec![first; 9]);
    };
    // 1 x 1 px, red.
    const DOT: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change, &str); 13] = [
        (&|proof| *proof = json!([]), "it cannot be read"),
        (&|proof| proof["bound"] = json!(1), "unknown field `bound`"),
        (&|proof| proof["by"] = json!(""), "by must name the framework"),
        (&|proof| proof["inputs"] = json!([]), "it has 0 inputs; expected 1 to 8"),
        (&many, "it has 9 inputs"),
        (
            &|proof| proof["tolerance"] = json!(0.01),
            "tolerance is 0.01; expected a number above 0 and at most 0.001",
        ),
        (&|proof| proof["tolerance"] = json!(0), "tolerance is 0;"),
        (&|proof| proof["inputs"][1]["png"] = json!("*"), "input 2 of giemsa.proof: png is not base64"),
        (&|proof| proof["inputs"][1]["png"] = json!("AAAA"), "input 2 of giemsa.proof: png cannot be read"),
        (
            &|proof| proof["inputs"][1]["png"] = json!(DOT),
            "png is a PNG of 1 x 1 px; expected a PNG of the input's 64 x 64",
        ),
        (
            &|proof| proof["inputs"][1]["scores"] = json!([1.0]),
            "input 2 of giemsa.proof has 1 scores; expected 2",
        ),
        (&|proof| proof["inputs"][1]["outlier"] = Value::Null, "input 2 of giemsa.proof: outlier is missing"),
        (&|proof| proof["by"] = json!("x".repeat(300_000)), "more than the 262144 that are read"),
    ];
    for (change, expected) in cases {
        let message = refusal(with_proof(change));
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert!(message.contains("giemsa.proof") && message.contains("--proof proof.json"), "{message:?}");
        assert!(message.len() < 2000, "{message:?}");
    }
}
