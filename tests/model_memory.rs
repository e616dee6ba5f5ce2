//! What loading a model really takes, against what the configuration reserves for it. Alone in its process, whose memory
//! it measures.

use giemsa_config::Limits;
use giemsa_model::{LoadLimits, Model, ModelError};
use giemsa_tests::onnx::{FLOAT, OnnxModel, floats, node, value};

/// Pixels of the image, times colours.
const INPUTS: i64 = 3 * 64 * 64;
const HIDDEN: i64 = 1024;

/// A network of 50 MB of weights.
fn large_model() -> Vec<u8> {
    let mut model = OnnxModel::toy(0.0).with("giemsa.input", r#"{"layout":"nchw","resize":"stretch"}"#);
    model.inputs = vec![value("image", FLOAT, &[0, 3, 64, 64])];
    model.nodes = vec![
        node("Flatten", &["image"], "flat", &[]),
        node("MatMul", &["flat", "first"], "hidden", &[]),
        node("Relu", &["hidden"], "kept", &[]),
        node("MatMul", &["kept", "last"], "scores", &[]),
    ];
    let values = |count: i64| (0..count).map(|i| (i % 7) as f32 * 1e-4).collect::<Vec<f32>>();
    model.weights = vec![
        floats("first", &[INPUTS, HIDDEN], &values(INPUTS * HIDDEN)),
        floats("last", &[HIDDEN, 2], &values(HIDDEN * 2)),
    ];
    model.bytes()
}

fn status_bytes(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

#[test]
fn a_model_takes_no_more_than_is_reserved_for_it() {
    const SLACK_BYTES: u64 = 8 << 20;
    let limits = Limits { max_model_bytes: 52 << 20, ..Limits::default() };
    let reserved = limits.model_memory_bytes();
    let file = large_model();
    let file_bytes = file.len() as u64;
    assert!(file_bytes > 48 << 20 && file_bytes < limits.max_model_bytes);
    // The file is part of what is reserved.
    let before = status_bytes("VmRSS:") - file_bytes;
    let model = Model::load_within(file, &LoadLimits::from(&limits)).unwrap();
    let (peak, held) = (status_bytes("VmHWM:") - before, status_bytes("VmRSS:") - before);
    let need = model.network.memory_need();
    eprintln!("file {file_bytes}, peak {peak}, held {held}, reserved {reserved}, {need:?}");
    assert!(peak <= reserved + SLACK_BYTES, "loading took {peak} bytes of {reserved}");
    assert!(need.weights_bytes >= file_bytes - 10_000, "{need:?}");
    assert!(held <= 2 * need.weights_bytes + need.run_bytes + SLACK_BYTES, "{held} bytes stay");
    drop(model);

    // The same model in a function that is too small for it.
    let small = Limits { max_model_bytes: 30 << 20, ..limits };
    let error = Model::load_within(large_model(), &LoadLimits::from(&small)).unwrap_err();
    assert!(matches!(error, ModelError::TooLarge { .. } | ModelError::TooMuchMemory { .. }), "{error}");
}
