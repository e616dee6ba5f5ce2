//! Files that are no usable model: each is refused with its own message while the last good model serves on, once in
//! the log and once in the metric, without being loaded again, and without the memory that it asks for.

use giemsa::serving::Registry;
use giemsa_core::digest::sha256_hex;
use giemsa_model::Model;
use giemsa_store::metrics::{Metric, total};
use giemsa_tests::lab::events::{self, Upload};
use giemsa_tests::lab::log::Log;
use giemsa_tests::lab::{Lab, config, file};
use giemsa_tests::onnx::{
    FLOAT, INT64, Message, OnnxModel, UINT8, external, floats, graph_attribute, int, int_attribute, ints,
    ints_attribute, node, raw_tensor, tensor_attribute, value,
};
use serde_json::{Value, json};

/// Largest model of the laboratory; three times that is what it may take in memory.
const MAX_MODEL_BYTES: u64 = 1 << 20;

/// A bad file, and parts of the message that it gets.
type Case = (&'static str, Vec<u8>, &'static [&'static str]);

/// Files that are damaged, or no models at all.
fn damaged() -> Vec<Case> {
    let good = OnnxModel::toy(0.0).bytes();
    let mut cut_inside = good.clone();
    cut_inside.truncate(good.len() / 2);
    let mut empty_nodes = Message::default();
    for _ in 0..12_000 {
        empty_nodes = empty_nodes.bytes(1, &[]);
    }
    let mut nested = OnnxModel::toy(0.0).graph();
    for _ in 0..40 {
        nested =
            Message::default().message(1, &node("Relu", &["x"], "y", &[graph_attribute("body", &nested)]));
    }
    let in_file = |graph: &Message| Message::default().int(1, 8).message(7, graph).0;
    let mut huge = OnnxModel::toy(0.0);
    huge.weights.push(floats("padding", &[300_000], &vec![0.0; 300_000]));
    vec![
        ("empty file", Vec::new(), &["(0 bytes)", "it is empty", "copy it again"]),
        ("upload cut at its end", good[..good.len() - 3].to_vec(), &["not a whole ONNX model", "it is cut"]),
        ("upload cut in the middle", cut_inside, &["not a whole ONNX model", "it is cut"]),
        ("image", file("tests/data/golden/field.png"), &["not a whole ONNX model", "export it as ONNX"]),
        (
            "error page",
            b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".to_vec(),
            &["not a whole ONNX model"],
        ),
        ("no graph", Message::default().int(1, 8).0, &["it holds no graph"]),
        ("bomb of empty nodes", in_file(&empty_nodes), &["12000 nodes", "5000 nodes allowed"]),
        ("graphs in graphs", in_file(&nested), &["nests more than 32 levels"]),
        ("file above the limit", huge.bytes(), &["more than the 1048576 allowed", "GIEMSA_MAX_MODEL_BYTES"]),
    ]
}

/// Graphs that are made of something else than a classifier of images.
fn other_graphs() -> Vec<Case> {
    let toy = || OnnxModel::toy(0.0);
    let changed = |change: fn(&mut OnnxModel)| {
        let mut model = OnnxModel::toy(0.0);
        change(&mut model);
        model.bytes()
    };
    let blur = node("Blur", &["image"], "seen", &[]).text(7, "com.example");
    let body = graph_attribute("body", &toy().graph());
    let endless = node("Loop", &["", "", "image"], "seen", std::slice::from_ref(&body));
    let branch = node("If", &["image"], "seen", &[graph_attribute("then_branch", &toy().graph())]);
    let noise = node("RandomNormalLike", &["image"], "seen", &[]);
    let constant = |tensor: Message| node("Constant", &[], "shift", &[tensor_attribute("value", &tensor)]);
    let shifted = |tensor: Message| {
        OnnxModel::toy_seeing(vec![constant(tensor), node("Add", &["image", "shift"], "seen", &[])], vec![])
    };
    let seeing = |nodes: Vec<Message>, weights| OnnxModel::toy_seeing(nodes, weights).bytes();
    let giving = |outputs: &[(&str, &[i64])]| {
        let mut model = OnnxModel::toy(0.0);
        model.outputs = outputs.iter().map(|(name, dims)| value(name, FLOAT, dims)).collect();
        model.bytes()
    };
    let mut unknown_opset = toy().bytes();
    let opset = unknown_opset.windows(4).rposition(|bytes| bytes == [0x42, 2, 0x10, 13]).unwrap();
    unknown_opset[opset + 3] = 99;
    let bytes_product = vec![
        node("Cast", &["image"], "bytes", &[int_attribute("to", 2)]),
        node("MatMulInteger", &["bytes", "bytes"], "product", &[]),
        node("Cast", &["product"], "seen", &[int_attribute("to", FLOAT)]),
    ];
    let whole_product = vec![
        node("Cast", &["image"], "whole", &[int_attribute("to", 6)]),
        node("MatMul", &["whole", "whole"], "product", &[]),
        node("Cast", &["product"], "seen", &[int_attribute("to", FLOAT)]),
    ];
    let enlarged =
        node("ConvTranspose", &["image", "filter"], "seen", &[ints_attribute("output_shape", &[16, 16])]);
    vec![
        (
            "opset of the future",
            unknown_opset,
            &["version 99 (opset)", "opset of 7 to 24", "convert_version"],
        ),
        (
            "product of bytes",
            seeing(bytes_product, vec![]),
            &["\"MatMulInteger\"", "8-bit integers", "QuantFormat.QDQ"],
        ),
        (
            "product of whole numbers",
            seeing(whole_product, vec![]),
            &["\"node_product\"", "multiplies whole numbers", "cast both to 32-bit floats"],
        ),
        (
            "operator that the engine computes otherwise",
            seeing(vec![node("GlobalLpPool", &["image"], "seen", &[])], vec![]),
            &["\"GlobalLpPool\"", "ReduceL2"],
        ),
        (
            "attribute that the engine reads otherwise",
            seeing(vec![enlarged], vec![floats("filter", &[3, 3, 2, 2], &[0.0; 36])]),
            &["\"ConvTranspose\"", "output_shape", "output_padding"],
        ),
        (
            "detector, by its names",
            giving(&[("scores", &[0, 2]), ("boxes", &[0, 4])]),
            &["a detector of objects", "scores, boxes", "classifier"],
        ),
        (
            "segmenter, by its second output",
            giving(&[("scores", &[0, 2]), ("flat", &[0, 32, 160, 160])]),
            &["a segmenter", "flat has the shape [?, 32, 160, 160]"],
        ),
        (
            "operator of another domain",
            OnnxModel::toy_seeing(vec![blur], vec![]).bytes(),
            &["\"com.example.Blur\"", "\"node_seen\"", "standard operators"],
        ),
        ("loop", OnnxModel::toy_seeing(vec![endless], vec![]).bytes(), &["\"Loop\"", "no bound", "onnxsim"]),
        ("branch", OnnxModel::toy_seeing(vec![branch], vec![]).bytes(), &["\"If\"", "loops and branches"]),
        (
            "noise",
            OnnxModel::toy_seeing(vec![noise], vec![]).bytes(),
            &["\"RandomNormalLike\"", "same answer each time", "model.eval()"],
        ),
        (
            "two inputs",
            changed(|model| model.inputs.push(value("mask", FLOAT, &[1, 1, 8, 8]))),
            &["has 2 inputs (image, mask)", "expected one", "several images"],
        ),
        (
            "inputs that an exporter left open",
            changed(|model| model.inputs.push(value("keras_learning_phase", FLOAT, &[1]))),
            &["has 2 inputs (image, keras_learning_phase)", "models/convert/from_keras.py"],
        ),
        ("no input", changed(|model| model.inputs.clear()), &["has 0 inputs", "expected one"]),
        (
            "three outputs",
            changed(|model| {
                model.outputs.extend([value("flat", FLOAT, &[0, 3]), value("pooled", FLOAT, &[0, 3, 1, 1])]);
            }),
            &["[\"scores\", \"flat\", \"pooled\"]", "del m.graph.output[1:]"],
        ),
        (
            "input of bytes",
            changed(|model| model.inputs = vec![value("image", UINT8, &[0, 3, 8, 8])]),
            &["\"image\" takes 8-bit whole numbers (uint8)", "expected 32-bit floats", "giemsa.input"],
        ),
        (
            "weights in another file",
            changed(|model| model.weights[0] = external("weights", &[3, 2])),
            &["the weights of \"weights\" are in another file", "save_as_external_data=False"],
        ),
        (
            "constant in another file",
            shifted(external("shift", &[1])).bytes(),
            &["the weights of \"shift\" are in another file"],
        ),
        (
            "output that nothing makes",
            changed(|model| model.outputs = vec![value("answer", FLOAT, &[0, 2])]),
            &["the network cannot be built", "shape [1, 3, 8, 8]"],
        ),
        (
            "node without its input",
            changed(|model| model.nodes[0] = node("GlobalAveragePool", &["picture"], "pooled", &[])),
            &["the network cannot be built", "picture"],
        ),
        (
            "graph that goes round",
            changed(|model| model.nodes[0] = node("Relu", &["scores"], "pooled", &[])),
            &["the network cannot be built"],
        ),
        (
            "shapes that do not fit",
            changed(|model| model.weights[0] = floats("weights", &[2, 3], &[0.0; 6])),
            &["the network cannot be built", "\"node_scores\""],
        ),
    ]
}

/// Networks that contradict what they say of themselves, or give no numbers.
fn contradictions() -> Vec<Case> {
    let toy = || OnnxModel::toy(0.0);
    let biased = |bias: f32| OnnxModel::toy(bias).bytes();
    let shaped = |dims: &[i64]| {
        let mut model = OnnxModel::toy(0.0);
        model.inputs = vec![value("image", FLOAT, dims)];
        model.bytes()
    };
    vec![
        (
            "no labels",
            toy().without("giemsa.labels").bytes(),
            &[
                "no metadata key giemsa.labels",
                "giemsa model pack model.onnx --output model.onnx --labels",
                "in Python",
            ],
        ),
        (
            "three labels for two scores",
            toy().with("giemsa.labels", r#"["ring","trophozoite","uninfected"]"#).bytes(),
            &["names 3 labels", "shape [1, 2]", "expected [1, 3]"],
        ),
        (
            "labels that are no list",
            toy().with("giemsa.labels", "ring").bytes(),
            &["giemsa.labels is \"ring\""],
        ),
        ("no resize", toy().with("giemsa.input", "{}").bytes(), &["giemsa.input", "resize"]),
        (
            "another width than the graph's",
            toy().with("giemsa.input", r#"{"width":64,"height":8,"resize":"stretch"}"#).bytes(),
            &["width is 64", "[?, 3, 8, 8] says 8"],
        ),
        ("two dimensions", shaped(&[0, 192]), &["shape [?, 192]", "expected four dimensions"]),
        ("four channels", shaped(&[0, 4, 8, 8]), &["[?, 4, 8, 8]", "1 or 3 channels"]),
        (
            "positive label that is none",
            toy().with("giemsa.positive", r#"["gametocyte"]"#).bytes(),
            &["giemsa.positive", "\"gametocyte\" is none of the labels"],
        ),
        (
            "outlier limit without its output",
            toy().with("giemsa.review", r#"{"outlier_above":0.5}"#).bytes(),
            &["outlier_above is 0.5", "no output named \"outlier\""],
        ),
        ("temperature 0", toy().with("giemsa.temperature", "0").bytes(), &["giemsa.temperature is \"0\""]),
        (
            "scores that are not numbers",
            biased(f32::NAN),
            &["the weights \"bias\"", "of 2 numbers 1 are NaN and 0 infinite", "place 0", "earlier epoch"],
        ),
        ("infinite scores", biased(f32::INFINITY), &["the weights \"bias\"", "0 are NaN and 1 infinite"]),
    ]
}

/// Networks that ask for more memory than there is.
fn bombs() -> Vec<Case> {
    let many = 100_000_i64;
    let shape_of = |dims: &[i64]| ints("shape", dims);
    let seeing = |nodes: Vec<Message>, weights: Vec<Message>| OnnxModel::toy_seeing(nodes, weights).bytes();
    let filled = |dims: &[i64]| {
        let nodes = vec![
            node("ConstantOfShape", &["shape"], "filled", &[]),
            node("ReduceMean", &["filled"], "mean", &[int_attribute("keepdims", 0)]),
            node("Add", &["image", "mean"], "seen", &[]),
        ];
        seeing(nodes, vec![shape_of(dims)])
    };
    let declared = |dims: &[i64], data: &[u8]| {
        seeing(
            vec![node("Add", &["image", "declared"], "seen", &[])],
            vec![raw_tensor("declared", FLOAT, dims, data)],
        )
    };
    let scalar_float = |name: &str| floats(name, &[], &[0.0]);
    let mean_of = |operator: Message, weights: Vec<Message>| {
        let nodes = vec![
            operator,
            node("Cast", &["big"], "cast", &[int_attribute("to", FLOAT)]),
            node("ReduceMean", &["cast"], "mean", &[int_attribute("keepdims", 0)]),
            node("Add", &["image", "mean"], "seen", &[]),
        ];
        seeing(nodes, weights)
    };
    let pool = node(
        "MaxPool",
        &["image"],
        "seen",
        &[ints_attribute("kernel_shape", &[many, many]), ints_attribute("pads", &[many; 4])],
    );
    let thousand = vec![0.0_f32; 50_000];
    vec![
        (
            "constant of 40 GB",
            filled(&[many, many]),
            &["would need", "\"node_filled\"", "set GIEMSA_MAX_MODEL_BYTES to "],
        ),
        ("constant beyond counting", filled(&[i64::MAX, 4]), &["\"node_filled\""]),
        (
            "constant too big for this function",
            filled(&[1000, 1000]),
            &["would need 16 MiB", "more than the 3 MiB allowed"],
        ),
        (
            "weights that are not there",
            declared(&[1_000_000, 1_000_000], &[0; 16]),
            &["[1000000, 1000000]", "holds 16 bytes", "damaged"],
        ),
        (
            "weights beyond counting",
            declared(&[1 << 32, 1 << 32], &[]),
            &["[4294967296, 4294967296]", "holds 0 numbers"],
        ),
        ("weights of a negative size", declared(&[-1, 4], &[0; 16]), &["[-1, 4]", "holds 16 bytes"]),
        (
            "image made 100 TB large",
            seeing(
                vec![node("Expand", &["image", "shape"], "seen", &[])],
                vec![shape_of(&[1_000_000, 3, 8, 1_000_000 * 8])],
            ),
            &["the network"],
        ),
        (
            "image tiled to 200 GB",
            seeing(
                vec![node("Tile", &["image", "shape"], "seen", &[])],
                vec![shape_of(&[1, 1, 16_384, 16_384])],
            ),
            &["would need", "\"node_seen\"", "set GIEMSA_MAX_PIXELS to "],
        ),
        (
            "image in a huge frame",
            seeing(
                vec![node("Pad", &["image", "shape"], "seen", &[])],
                vec![shape_of(&[0, 0, many, many, 0, 0, many, many])],
            ),
            &["would need", "\"node_seen\""],
        ),
        (
            "image enlarged 10,000 times",
            seeing(
                vec![node("Resize", &["image", "", "scales"], "seen", &[])],
                vec![floats("scales", &[4], &[1.0, 1.0, 1e4, 1e4])],
            ),
            &["would need", "\"node_seen\""],
        ),
        (
            "window of 40 GB",
            seeing(vec![pool], vec![]),
            &["\"MaxPool\"", "kernel_shape", "GlobalAveragePool"],
        ),
        (
            "numbers from 0 to 10 billion",
            mean_of(
                node("Range", &["start", "end", "step"], "big", &[]),
                vec![int("start", 0), int("end", 10_000_000_000), int("step", 1)],
            ),
            &["would need", "\"node_big\""],
        ),
        (
            "one hot of a billion",
            mean_of(
                node("OneHot", &["at", "depth", "on_off"], "big", &[]),
                vec![
                    ints("at", &[1, 2, 3]),
                    int("depth", 1_000_000_000),
                    floats("on_off", &[2], &[0.0, 1.0]),
                ],
            ),
            &["\"node_big\""],
        ),
        (
            "product of two long vectors",
            mean_of(
                node("MatMul", &["column", "row"], "big", &[]),
                vec![floats("column", &[50_000, 1], &thousand), floats("row", &[1, 50_000], &thousand)],
            ),
            &["would need 19", "\"node_big\""],
        ),
        (
            "number of positions that grows by itself",
            mean_of(
                node("NonZero", &["zero"], "big", &[]),
                vec![scalar_float("zero"), raw_tensor("unused", INT64, &[1], &[0; 8])],
            ),
            &["\"NonZero\""],
        ),
    ]
}

/// Most memory that this process ever had, bytes; `None` where the system does not say.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

/// Whether an event is handed back because there is no model.
async fn is_handed_back(lab: &Lab, event: &Value) -> bool {
    let answer = lab.handler().handle(event, None).await.unwrap();
    answer == json!({"batchItemFailures": [{"itemIdentifier": "message-0"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_file_is_refused_once_and_the_last_good_model_serves_on() {
    const STAGE: &str = "bad";
    let log = Log::of_this_process();
    let mut lab = Lab::without_model().await;
    lab.config = config(STAGE);
    lab.config.limits.max_model_bytes = MAX_MODEL_BYTES;
    let good = OnnxModel::toy(1.0).bytes();
    let good_sha256 = sha256_hex(&good);
    lab.put_model(STAGE, &good).await;
    let registry = Registry::new(lab.clients.s3.clone(), &lab.config);
    assert_eq!(registry.refresh().await.unwrap().model.sha256, good_sha256);
    assert_eq!(log.errors(STAGE), Vec::<Value>::new());
    let before = peak_memory_bytes();

    let cases = [damaged(), other_graphs(), contradictions(), bombs()].concat();
    assert!(cases.len() >= 14);
    for (name, bytes, expected) in &cases {
        let (refused, said) = (total(Metric::ModelRefused, STAGE), log.errors(STAGE).len());
        lab.put_model(STAGE, bytes).await;
        // Asked for again, it is neither loaded, nor said, nor counted again.
        for _ in 0..3 {
            assert_eq!(registry.refresh().await.unwrap().model.sha256, good_sha256, "{name}");
        }
        let errors = log.errors(STAGE).split_off(said);
        let [error] = &errors[..] else { panic!("{name}: {} errors in the log: {errors:#?}", errors.len()) };
        let message = error["error"].as_str().unwrap();
        for part in *expected {
            assert!(message.contains(part), "{name}: {part:?} is not in {message:?}");
        }
        let is_unread = bytes.len() as u64 > MAX_MODEL_BYTES;
        assert!(is_unread || message.contains(&sha256_hex(bytes)), "{name}: no digest in {message:?}");
        assert_eq!(error["serving"], json!(good_sha256), "{name}");
        assert_eq!(total(Metric::ModelRefused, STAGE), refused + 1, "{name}");
        // A function that starts now has no model.
        let cold = Registry::new(lab.clients.s3.clone(), &lab.config).refresh().await.unwrap_err();
        assert!(cold.to_string().contains(message), "{name}: {cold}");
    }
    assert_eq!(total(Metric::ModelReleased, STAGE), 1);
    if let (Some(before), Some(after)) = (before, peak_memory_bytes()) {
        let grown = (after - before) >> 20;
        assert!(grown < 128, "{grown} MiB more than before the bad files");
    }

    // Such a function hands its events back, and records nothing.
    let image = file("tests/data/golden/field.png");
    let etag = lab.put("s/field.png", &image).await;
    let event = events::sqs([events::s3(&Upload::new("s/field.png", &etag, image.len())).to_string()]);
    assert!(is_handed_back(&lab, &event).await);
    assert!(lab.result_objects().await.is_empty());
    assert!(
        lab.table()
            .image(giemsa_tests::lab::INPUT, "s/field.png", &giemsa_config::DEFAULT_STAGES)
            .await
            .unwrap()
            .results
            .is_empty()
    );

    // The next good file serves.
    let next = OnnxModel::toy(2.0).bytes();
    lab.put_model(STAGE, &next).await;
    assert_eq!(registry.refresh().await.unwrap().model.sha256, sha256_hex(&next));
    assert!(!is_handed_back(&lab, &event).await);
    assert_eq!(lab.result_objects().await.len(), 1);
}

/// As deep as a graph may be, on a thread with as little stack as those that load models.
#[expect(clippy::disallowed_methods, reason = "a longer run is asked for by the environment")]
#[test]
fn a_graph_that_is_one_long_chain_ends_no_process() {
    let chain = |length: usize| {
        let name = |i: usize| if i == 0 { "image".to_owned() } else { format!("t{i}") };
        let last = length - 1;
        let link = |i: usize| {
            let output = if i == last { "seen".to_owned() } else { name(i + 1) };
            node("Relu", &[&name(i)], &output, &[])
        };
        OnnxModel::toy_seeing((0..length).map(link).collect(), vec![]).bytes()
    };
    let load = |bytes: Vec<u8>| {
        let load = move || Model::load(&bytes).map(drop).map_err(|e| e.to_string());
        std::thread::Builder::new().stack_size(2 << 20).spawn(load).unwrap().join().unwrap()
    };
    let length = std::env::var("GIEMSA_TEST_CHAIN").map_or(500, |text| text.parse().unwrap());
    let started = std::time::Instant::now();
    assert_eq!(load(chain(length)), Ok(()));
    eprintln!("{length} nodes: {:?}", started.elapsed());
    let message = load(chain(20_000)).unwrap_err();
    assert!(message.contains("nodes allowed"), "{message}");
}
