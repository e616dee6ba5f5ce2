//! Scores equal those of onnxruntime on the arrays that `tests/py/make_golden.py` wrote, are what the file says of
//! them, and fit into a record.
//!
//! Tolerance: 0.01 on raw scores (of a size of about 3), 0.002 on probabilities and on the outlier score. The engines agree to about
//! 1e-6; the rest is resampling, which may differ from Pillow's by one level of 255.

use std::sync::Arc;

use giemsa_core::object::ObjectRef;
use giemsa_core::record::{Finding, ImageInfo, Record};
use giemsa_image::{DecodeLimits, decode, preprocess};
use giemsa_model::decide;
use giemsa_model::{GraphFacts, Metadata, Model, Scores};
use giemsa_store::stored_bytes;
use giemsa_tests::onnx::{FLOAT, Message, OnnxModel, floats, int_attribute, ints, node, value};
use serde_json::Value;

const SCORE_TOLERANCE: f64 = 1e-2;
const PROBABILITY_TOLERANCE: f64 = 2e-3;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(
        std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/data/golden").join(name),
    )
    .unwrap()
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
            assert_eq!(decision.outlier, Some(false), "a field full of cells is not a blank one");
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

fn load(model: &OnnxModel) -> Result<Arc<Model>, String> {
    Model::load(&model.bytes()).map_err(|error| error.to_string())
}

/// The toy with `nodes` behind its scores, which they call `scores`; theirs are `answer`.
fn ending_in(kind: &str, nodes: Vec<Message>, weights: Vec<Message>) -> OnnxModel {
    let mut model = OnnxModel::toy(0.0).with("giemsa.output", kind);
    model.nodes.extend(nodes);
    model.weights.extend(weights);
    model.outputs = vec![value("answer", FLOAT, &[])];
    model
}

/// The toy with one score for two labels.
fn single(kind: &str, ending: Option<&str>) -> OnnxModel {
    let mut model = OnnxModel::toy(0.0).with("giemsa.output", kind);
    model.weights = vec![floats("weights", &[3, 1], &[4.0, -2.0, 1.0]), floats("bias", &[1], &[-1.0])];
    model.outputs = vec![value(if ending.is_some() { "answer" } else { "scores" }, FLOAT, &[0, 1])];
    model.nodes.extend(ending.map(|operator| node(operator, &["scores"], "answer", &[])));
    model
}

fn seeing(operators: &[(&str, &[&str])], weights: Vec<Message>) -> OnnxModel {
    let last = operators.len() - 1;
    let name = |index: usize| if index == last { "seen".to_owned() } else { format!("step{index}") };
    let nodes = operators.iter().enumerate().map(|(index, (operator, others))| {
        let before = if index == 0 { "image".to_owned() } else { name(index - 1) };
        let inputs: Vec<&str> = std::iter::once(before.as_str()).chain(others.iter().copied()).collect();
        node(operator, &inputs, &name(index), &[])
    });
    OnnxModel::toy_seeing(nodes.collect(), weights)
}

#[test]
fn scores_that_are_not_what_they_are_said_to_be_are_refused_with_the_way_out() {
    let number = |name: &str, number: f32| floats(name, &[1], &[number]);
    let softmax = || vec![node("Softmax", &["scores"], "answer", &[])];
    let sigmoid = || vec![node("Sigmoid", &["scores"], "answer", &[])];
    // A softmax that no operator's name gives away.
    let shares = vec![
        node("Exp", &["scores"], "exp", &[]),
        node("ReduceSum", &["exp", "axis"], "sum", &[int_attribute("keepdims", 1)]),
        node("Div", &["exp", "sum"], "answer", &[]),
    ];
    let wrong_axis = vec![
        node("Reshape", &["scores", "shape"], "shaped", &[]),
        node("Softmax", &["shaped"], "answer", &[int_attribute("axis", -1)]),
    ];
    let to_four = || vec![ints("shape", &[1, 2, 1, 1])];
    let hidden_softmax = vec![
        node("Softmax", &["scores"], "p", &[]),
        node("Reshape", &["p", "shape"], "shaped", &[]),
        node("Identity", &["shaped"], "answer", &[]),
    ];
    let cases: [(&str, OnnxModel, &[&str]); 12] = [
        (
            "logits said to be probabilities",
            OnnxModel::toy(0.0).with("giemsa.output", "probabilities"),
            &["giemsa.output is probabilities", "look like logits", "pixel value 128", "--scores logits"],
        ),
        (
            "a softmax said to be logits",
            ending_in("logits", softmax(), vec![]),
            &["giemsa.output is logits", "ends in a Softmax", "--scores probabilities"],
        ),
        (
            "a softmax behind operators that only move it",
            ending_in("logits", hidden_softmax, to_four()),
            &["ends in a Softmax", "--scores probabilities"],
        ),
        (
            "a softmax made of other operators",
            ending_in("logits", shares, vec![ints("axis", &[1])]),
            &["[0.5000, 0.5000]", "a second softmax would flatten them", "--scores probabilities"],
        ),
        (
            "independent sigmoids",
            ending_in("probabilities", sigmoid(), vec![]),
            &["sum to ", "independent sigmoids", "with a softmax over the labels"],
        ),
        (
            "independent sigmoids said to be logits",
            ending_in("logits", sigmoid(), vec![]),
            &["ends in a Sigmoid", "independent sigmoids"],
        ),
        (
            "a softmax over the wrong axis",
            ending_in("probabilities", wrong_axis, to_four()),
            &["each of the 2 scores is 1", "axis of length 1", "axis=1"],
        ),
        (
            "the same whatever it sees",
            seeing(&[("Mul", &["zero"])], vec![number("zero", 0.0)]),
            &["[0.0000, 0.0000] whatever it sees", "noise", "scale, mean and std"],
        ),
        ("one sigmoid said to be a logit", single("logits", Some("Sigmoid")), &["--scores probabilities"]),
        ("one logit said to be a probability", single("probabilities", None), &["look like logits"]),
        (
            "one logit for three labels",
            single("logits", None).with("giemsa.labels", r#"["ring","trophozoite","uninfected"]"#),
            &["names 3 labels", "[1, 1]"],
        ),
        (
            "the logarithm of black",
            seeing(&[("Log", &[])], vec![]),
            &["on a uniform image of pixel value 0", "expected finite"],
        ),
    ];
    for (what, model, parts) in cases {
        let message = load(&model).expect_err(what);
        for part in parts {
            assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
        }
    }
}

#[test]
fn networks_that_are_finite_on_images_are_accepted() {
    // Optical density: the logarithm of what pixels of 0 to 255 give, and of nothing below.
    let density =
        seeing(&[("Add", &["little"]), ("Log", &[]), ("Neg", &[])], vec![floats("little", &[1], &[1e-3])]);
    load(&density).unwrap();
    load(&seeing(&[("Sqrt", &[])], vec![])).unwrap();
    // Sure of itself on every probe: it may be right, and a person is told.
    let mut sure = OnnxModel::toy(1000.0).with("giemsa.output", "probabilities");
    sure.nodes.push(node("Softmax", &["scores"], "answer", &[]));
    sure.outputs = vec![value("answer", FLOAT, &[0, 2])];
    let notes = load(&sure).unwrap().notes.join("\n");
    assert!(notes.contains("[1.0, 0.0] on every probe"), "{notes}");
    assert!(load(&OnnxModel::toy(1.0)).unwrap().notes.is_empty());
}

#[test]
fn one_score_for_two_labels_is_that_of_the_second() {
    let pixels = giemsa_image::Pixels { width_px: 8, height_px: 8, rgb: [200, 40, 90].repeat(64) };
    let logit = (4.0 * 200.0 - 2.0 * 40.0 + 90.0) / 255.0 - 1.0;
    for (kind, ending, temperature) in
        [("logits", None, 1.0), ("logits", None, 2.5), ("probabilities", Some("Sigmoid"), 1.0)]
    {
        let model = load(&single(kind, ending).with("giemsa.temperature", &temperature.to_string())).unwrap();
        let scores = model.network.run(preprocess(&pixels, &model.metadata.input)).unwrap();
        let decision = decide(&scores, &model.metadata);
        let expected = 1.0 / (1.0 + f64::exp(-logit / temperature));
        let found = decision.probabilities["uninfected"];
        assert!((found - expected).abs() < 2e-6, "{kind} at {temperature}: {found}, expected {expected}");
        assert!((decision.probabilities["parasitized"] + found - 1.0).abs() < 2e-6);
        assert_eq!(decision.label, "uninfected");
    }
}

#[test]
fn every_record_of_an_accepted_model_can_be_stored() {
    // What DynamoDB says of an item.
    const MOST_BYTES: u64 = 400 * 1024;
    let graph = GraphFacts { input_shape: vec![Some(1), Some(3), Some(8), Some(8)], ..GraphFacts::default() };
    for label_bytes in [1_usize, 12, 500] {
        let labels_of =
            |count: usize| -> Vec<String> { (0..count).map(|i| format!("{i:#>label_bytes$}")).collect() };
        let parse = |count: usize| {
            let labels = labels_of(count);
            let properties = [
                ("giemsa.labels", serde_json::to_string(&labels).unwrap()),
                ("giemsa.output", "logits".to_owned()),
                ("giemsa.input", r#"{"resize":"fit"}"#.to_owned()),
                ("giemsa.name", "n".repeat(100)),
            ];
            Metadata::parse(&properties.map(|(key, text)| (key.to_owned(), text)).into(), &graph)
        };
        // The greatest number of labels that is accepted, by halving.
        let (mut accepted, mut refused) = (2, 100_000);
        while refused - accepted > 1 {
            let middle = (accepted + refused) / 2;
            match parse(middle) {
                Ok(_) => accepted = middle,
                Err(_) => refused = middle,
            }
        }
        let message = parse(refused).unwrap_err().to_string();
        assert!(message.contains("more than the 409600 that an item of DynamoDB"), "{message}");

        let model = Model {
            metadata: parse(accepted).unwrap(),
            ..Model::clone(&load(&OnnxModel::toy(0.0)).unwrap())
        };
        let count = accepted as f32;
        let scores =
            Scores { labels: (0..accepted).map(|i| (i as f32 / count).sin()).collect(), outlier: None };
        let finding = Finding::Classified(decide(&scores, &model.metadata));
        // The longest key of S3, in one folder.
        let key = format!("{}/x", "é".repeat(511));
        let mut object = ObjectRef::new("b".repeat(63), key);
        object.version_id = Some("v".repeat(1024));
        object.etag = Some("e".repeat(64));
        let record = Record::new(
            ImageInfo::of_object(&object),
            "production-of-the-northern-labs",
            model.info(),
            finding,
        );
        let bytes = stored_bytes(&record).unwrap().table as u64;
        assert!(bytes <= MOST_BYTES, "{accepted} labels of {label_bytes} bytes: an item of {bytes} bytes");
        // And the bound is not far off.
        assert!(bytes > MOST_BYTES / 2, "{accepted} labels of {label_bytes} bytes: only {bytes} bytes");
    }
}
