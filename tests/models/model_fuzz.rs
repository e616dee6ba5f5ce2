//! Mutated model files and metadata: whatever the bytes are, loading ends with a model or with a message, within the
//! memory that it may take, and in time.
//!
//! The runs are in a process of their own with a limit on its memory, so that nothing that ends a process is missed.
//! `GIEMSA_FUZZ_RUNS` sets how many files are tried (`make fuzz`), `GIEMSA_FUZZ_SEED` where they begin.

#![expect(clippy::disallowed_methods, reason = "a longer run is asked for by the environment")]

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::process::Command;
use std::time::{Duration, Instant};

use giemsa_model::{GraphFacts, LoadLimits, Metadata, Model};
use giemsa_tests::lab::file;
use giemsa_tests::onnx::{FLOAT, OnnxModel, floats, int_attribute, ints, ints_attribute, node, value};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Most memory of the process, KiB: what a model may take, and the process itself with its threads.
const MEMORY_KIB: u64 = 400 << 10;

/// Says to the process that it is the one that runs.
const CHILD: &str = "GIEMSA_FUZZ_CHILD";

fn number_from(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn mutated_models_neither_panic_nor_take_memory() {
    let exe = std::env::current_exe().unwrap();
    let script =
        format!("ulimit -v {MEMORY_KIB} && exec \"$0\" --exact model_fuzz::fuzz_child --ignored --nocapture");
    let child = Command::new("sh").args(["-c", &script]).arg(exe).env(CHILD, "1").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    let tail = |text: &str| text.lines().rev().take(5).map(str::to_owned).collect::<Vec<_>>();
    assert!(child.status.success(), "{}: {:?} {:?}", child.status, tail(&out), tail(&err));
    let summary = out.lines().find_map(|line| line.split("fuzzed: ").nth(1));
    let summary = summary.unwrap_or_else(|| panic!("nothing was run: {out}"));
    eprintln!("{summary}");
    let loaded: u64 = summary.split(' ').next().unwrap().parse().unwrap();
    assert!(loaded > 0, "no mutated file is a model still: the mutations reach nothing");
}

/// Small models of all kinds of operators.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = ["toy_outlier", "toy_nchw", "toy_nhwc", "toy_gaps"]
        .map(|name| file(&format!("tests/data/golden/{name}.onnx")))
        .to_vec();
    let window = [ints_attribute("kernel_shape", &[2, 2]), ints_attribute("pads", &[1, 1, 1, 1])];
    let shaped = vec![
        node("Shape", &["image"], "shape", &[]),
        node("ConstantOfShape", &["shape"], "zeros", &[]),
        node("Cast", &["zeros"], "zeros_float", &[int_attribute("to", FLOAT)]),
        node("Tile", &["image", "times"], "tiled", &[]),
        node("MaxPool", &["tiled"], "pooled_tiles", &window),
        node("Pad", &["pooled_tiles", "frame"], "framed", &[]),
        node("Resize", &["framed", "", "scales"], "resized", &[]),
        node("Slice", &["resized", "starts", "ends", "axes"], "cut", &[]),
        node("Expand", &["cut", "size"], "expanded", &[]),
        node(
            "ReduceMax",
            &["expanded"],
            "seen",
            &[ints_attribute("axes", &[2]), int_attribute("keepdims", 1)],
        ),
    ];
    let weights = vec![
        ints("times", &[1, 1, 2, 2]),
        ints("frame", &[0, 0, 1, 1, 0, 0, 1, 1]),
        floats("scales", &[4], &[1.0, 1.0, 2.0, 2.0]),
        ints("starts", &[0, 0]),
        ints("ends", &[4, 4]),
        ints("axes", &[2, 3]),
        ints("size", &[1, 3, 4, 4]),
    ];
    let mut shapes = OnnxModel::toy_seeing(shaped, weights);
    shapes.inputs = vec![value("image", FLOAT, &[0, 3, 8, 8])];
    let shapes = shapes.bytes();
    Model::load(&shapes).expect("the seed is a model");
    seeds.push(shapes);
    seeds.push(OnnxModel::toy(0.5).bytes());
    seeds
}

/// Numbers that are at an edge of something.
const EDGES: [&[u8]; 6] = [
    &[0x00],
    &[0x7f],
    &[0xff; 4],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x80, 0x80, 0x80, 0x10],
];

fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.random_range(0..bytes.len());
        let end = (at + rng.random_range(1..=32)).min(bytes.len());
        match rng.random_range(0..8) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes[at] = bytes[at].wrapping_add(if rng.random() { 1 } else { 0xff }),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                let edge = EDGES.choose(rng).unwrap();
                let end = (at + edge.len()).min(bytes.len());
                bytes.splice(at..end, edge.iter().copied());
            }
            6 => bytes.truncate(at),
            _ => {
                let other = others.choose(rng).unwrap();
                let from = rng.random_range(0..other.len());
                let to = (from + rng.random_range(1..=64)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
}

/// The numbers that networks are made of, set to other ones where they stand: shapes, attributes, weights.
fn mutate_numbers(bytes: &mut [u8], rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..=3) {
        let at = rng.random_range(0..bytes.len());
        if bytes[at] < 0x20 {
            bytes[at] = rng.random_range(0..0x80);
        }
    }
}

#[test]
#[ignore = "run by mutated_models_neither_panic_nor_take_memory, in a process with limited memory"]
fn fuzz_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let runs = number_from("GIEMSA_FUZZ_RUNS", 2_000);
    let first = number_from("GIEMSA_FUZZ_SEED", 0);
    // What is caught is not a failure, and would be most of the output.
    std::panic::set_hook(Box::new(|_| {}));
    let limits =
        LoadLimits { model_bytes: 48 << 20, run_bytes: 32 << 20, image_timeout: Duration::from_secs(5) };
    let seeds = seeds();
    let (mut loaded, mut slowest) = (0, Duration::ZERO);
    for number in first..first + runs {
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        let mut bytes = seeds.choose(&mut rng).unwrap().clone();
        if rng.random() {
            mutate(&mut bytes, &seeds, &mut rng);
        } else {
            mutate_numbers(&mut bytes, &mut rng);
        }
        // Flushed by line: the last line is the file that ended the process.
        println!("file {number}");
        let started = Instant::now();
        let result = catch_unwind(|| Model::load_within(&bytes, &limits));
        let took = started.elapsed();
        slowest = slowest.max(took);
        // A process that is stuck or dead is a fault of this test's subject, and so is a panic.
        assert!(took < Duration::from_secs(60), "file {number} took {took:?}");
        match result {
            Ok(Ok(_)) => loaded += 1,
            Ok(Err(error)) => {
                let message = error.to_string();
                if message.len() >= 4_000 {
                    println!("file {number} got a message of {} bytes: {message:.300}", message.len());
                    std::process::exit(4);
                }
            }
            Err(_) => {
                println!("file {number} panicked");
                std::process::exit(3);
            }
        }
    }
    println!("fuzzed: {loaded} of {runs} mutated files are models still; the slowest took {slowest:?}");
}

const KEYS: [&str; 8] = [
    "giemsa.name",
    "giemsa.version",
    "giemsa.labels",
    "giemsa.input",
    "giemsa.output",
    "giemsa.temperature",
    "giemsa.review",
    "giemsa.positive",
];

const VALUES: [&str; 12] = [
    r#"["parasitized","uninfected"]"#,
    r#"{"layout":"nchw","width":64,"height":64,"color":"rgb","resize":"fit","mean":[0.5,0.5,0.5],"std":[0.25,0.25,0.25]}"#,
    r#"{"confidence_below":0.9,"label_above":{"parasitized":0.1}}"#,
    r#"{"outlier_above":1e308}"#,
    r#"{"width":4294967295,"height":4294967295,"resize":"crop","scale":1e-45}"#,
    "logits",
    "1e-40",
    "NaN",
    "[[[[[[[[",
    "\u{0}\u{202e}é日本",
    "-0",
    "",
];

#[test]
fn mutated_metadata_is_read_or_refused() {
    let runs = number_from("GIEMSA_FUZZ_RUNS", 20_000);
    let shapes: [&[Option<usize>]; 5] = [
        &[None, Some(3), Some(64), Some(64)],
        &[Some(1), None, None, Some(1)],
        &[None, None, None, None],
        &[Some(usize::MAX), Some(3), Some(usize::MAX), Some(1)],
        &[],
    ];
    let seeds: Vec<Vec<u8>> =
        VALUES.iter().map(|value| value.as_bytes().to_vec()).filter(|v| !v.is_empty()).collect();
    let mut read = 0;
    for number in 0..runs {
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        let mut properties = BTreeMap::from([
            (KEYS[2].to_owned(), VALUES[0].to_owned()),
            (KEYS[3].to_owned(), VALUES[1].to_owned()),
            (KEYS[4].to_owned(), "logits".to_owned()),
        ]);
        for _ in 0..rng.random_range(0..3) {
            let mut bytes = VALUES.choose(&mut rng).unwrap().as_bytes().to_vec();
            if rng.random() {
                mutate(&mut bytes, &seeds, &mut rng);
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            properties.insert((*KEYS.choose(&mut rng).unwrap()).to_owned(), text);
        }
        let graph = GraphFacts {
            input_shape: shapes.choose(&mut rng).unwrap().to_vec(),
            ends_in_softmax: rng.random(),
            has_outlier_output: rng.random(),
            ..GraphFacts::default()
        };
        match Metadata::parse(&properties, &graph) {
            Ok(metadata) => {
                assert!(metadata.labels.len() >= 2 && metadata.temperature > 0.0, "{metadata:?}");
                assert!(metadata.positive.iter().all(|label| metadata.labels.contains(label)));
                read += 1;
            }
            Err(error) => assert!(error.to_string().contains("giemsa."), "{error}"),
        }
    }
    assert!(read > runs / 100, "only {read} of {runs} were read: the mutations reach nothing");
}
