//! A user's own network, by the lines of the guide, to the answers of `giemsa classify`, compared with the framework's.
//!
//! Needs Pythons in `GIEMSA_TEST_MODEL_PYTHON`, separated as in `PATH`: `make test-models` makes one with TensorFlow
//! (`models/convert/requirements-keras.txt`) and one with PyTorch (`models/requirements.txt`); they take several gigabytes,
//! so `make test` does without. Without them the comparison is skipped, which is said aloud; that CI runs
//! `make test-models` is a test of its own. Never uses the guide's lines in another form than they are printed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const GUIDE: &str = "models/README.md";
/// Of a probability, on the same pixels; the same as the scripts allow themselves.
const TOLERANCE: f64 = 1e-4;
/// Where an image is resampled, Giemsa and Pillow round some samples to neighbouring levels
/// (`crates/image/src/preprocess.rs`), and the toys react to that more strongly than trained networks.
const TOLERANCE_RESAMPLED: f64 = 3e-3;

/// Dropout that is never switched off.
const RANDOM_MODULE: &str = r#"
import sys
sys.path.append("any_onnx/models/convert")
import torch
from from_pytorch import convert
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(48, 2)
    def forward(self, image):
        return self.head(torch.nn.functional.dropout(image.flatten(1), 0.5, training=True))
convert(Net(), "random.onnx", width=4, height=4, labels=["a", "b"], output="logits", resize="fit", pixels="0-1")
"#;

/// Weights of 16 bits, and a division that the pixels stated do not go with.
const HALF_MODULE: &str = r#"
import sys
sys.path.append("any_onnx/models/convert")
import torch
from from_pytorch import convert
from refusal import Refused
torch.manual_seed(1)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2)
    def forward(self, image):
        return self.head(torch.relu(self.conv(image / 127.5 - 1)).mean((2, 3)))
def make(**more):
    convert(Net().half(), "half.onnx", width=8, height=8, labels=["a", "b"], output="logits", resize="fit", **more)
try:
    make(pixels="0-1")
except Refused as problem:
    print(problem)
make()
"#;

/// What the framework says, by image, by toy.
type Expected = BTreeMap<String, BTreeMap<String, Answer>>;

#[derive(serde::Deserialize)]
struct Answer {
    resampled: bool,
    /// In the order of the labels.
    probabilities: Vec<f64>,
}

fn project(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

#[allow(clippy::disallowed_methods, reason = "the path of Python is a setting of the machine that tests")]
fn pythons() -> Vec<PathBuf> {
    let paths = std::env::var_os("GIEMSA_TEST_MODEL_PYTHON");
    if paths.is_none() {
        eprintln!(
            "\n*** SKIPPED: GIEMSA_TEST_MODEL_PYTHON is not set; expected Pythons with \
             models/convert/requirements-keras.txt and models/requirements.txt: make test-models ***\n"
        );
    }
    paths.iter().flat_map(std::env::split_paths).collect()
}

/// A command that finds the guide's `python` and `giemsa`, and nothing of a user's own Python settings.
#[allow(clippy::disallowed_methods, reason = "a shell needs the machine's own PATH as well")]
fn command(program: impl AsRef<std::ffi::OsStr>, python: &Path, folder: &Path) -> Command {
    let giemsa = Path::new(giemsa_tests::binary("giemsa")).parent().unwrap().to_path_buf();
    let machine = std::env::var_os("PATH").unwrap_or_default();
    let own = [python.parent().unwrap().to_path_buf(), giemsa];
    let path: OsString =
        std::env::join_paths(own.into_iter().chain(std::env::split_paths(&machine))).unwrap();
    let mut command = Command::new(program);
    command.current_dir(folder).env("PATH", path).env_remove("RUST_LOG").env_remove("PYTHONHOME");
    command.env("PYTHONPATH", folder).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}: {}", output.status, both(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Code blocks of the guide by the name in the comment before them, with their language.
fn guide_blocks() -> BTreeMap<String, (String, String)> {
    let text = std::fs::read_to_string(project(GUIDE)).unwrap();
    let mut blocks = BTreeMap::new();
    let mut lines = text.lines();
    let mut name = None;
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let code: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            match (name.take(), language) {
                (Some(name), _) => {
                    let code = code.join("\n") + "\n";
                    assert!(
                        blocks.insert(name, (language.to_owned(), code)).is_none(),
                        "two blocks of one name"
                    );
                }
                (None, "sh" | "python") => panic!("a block of {GUIDE} is not tested: {code:?}"),
                (None, _) => {}
            }
        } else {
            name = line
                .strip_prefix("<!-- tested: ")
                .and_then(|rest| rest.strip_suffix(" -->"))
                .map(str::to_owned);
        }
    }
    blocks
}

/// Runs a block of the guide in the folder of a toy.
fn run_block(name: &str, python: &Path, folder: &Path) -> String {
    let blocks = guide_blocks();
    let (language, code) = blocks.get(name).unwrap_or_else(|| panic!("{GUIDE} has no block {name:?}"));
    let mut command = match language.as_str() {
        "sh" => command("sh", python, folder),
        "python" => command(python, python, folder),
        other => panic!("{GUIDE}: the block {name:?} is {other:?}; expected sh or python"),
    };
    command.args(if language == "sh" { ["-euc", code] } else { ["-c", code] });
    succeed(command)
}

/// Classifies the pictures of a toy with its `my-model.onnx` and compares.
fn compare(toy: &str, labels: &[&str], out: &Path, expected: &Expected) {
    let rows = &expected[toy];
    let mut command = Command::new(giemsa_tests::binary("giemsa"));
    command.args(["classify", "--format", "json", "--model"]).arg(out.join(toy).join("my-model.onnx"));
    command.args(rows.keys().map(|image| out.join(image))).env_remove("RUST_LOG");
    let records = succeed(command);
    assert_eq!(records.lines().count(), rows.len(), "{toy}");
    assert!(
        rows.values().any(|answer| !answer.resampled),
        "{toy}: no picture is compared on the same pixels"
    );
    let (mut worst, mut wrong) = ([0.0_f64; 2], Vec::new());
    for (record, (image, answer)) in records.lines().zip(rows) {
        let record: Value = serde_json::from_str(record).unwrap();
        let key = record["image"]["key"].as_str().unwrap();
        assert!(key.ends_with(image), "{key} is answered in the place of {image}");
        assert_eq!(answer.probabilities.len(), labels.len(), "{toy}");
        let tolerance = if answer.resampled { TOLERANCE_RESAMPLED } else { TOLERANCE };
        for (label, probability) in labels.iter().zip(&answer.probabilities) {
            let found = record["probabilities"][label].as_f64().unwrap_or_else(|| panic!("{toy}: {record}"));
            let difference = (found - probability).abs();
            if difference > tolerance {
                wrong.push(format!(
                    "{toy}, {image}: {label} is {found} of Giemsa, {probability} of the framework: {difference:.1e}"
                ));
            }
            let worst = &mut worst[usize::from(answer.resampled)];
            *worst = worst.max(difference);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{toy}: differs by {:.1e} at most, where resampled by {:.1e}", worst[0], worst[1]);
}

#[test]
fn the_lines_of_the_guide_give_the_scores_of_the_framework() {
    let pythons = pythons();
    if pythons.is_empty() {
        return;
    }
    let mut tested: BTreeSet<String> = BTreeSet::new();
    for python in pythons {
        tested.extend(lines_of_the_guide(&python));
    }
    let blocks: BTreeSet<String> = guide_blocks().into_keys().collect();
    assert_eq!(blocks, tested, "blocks of {GUIDE}");
}

/// Runs the blocks of the frameworks that a Python has; gives their names.
fn lines_of_the_guide(python: &Path) -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("toys");
    let mut toys = command(python, python, folder.path());
    toys.arg(project("tests/py/bring_your_own/make_toys.py")).arg(&out);
    // Larger and smaller than the inputs, of several formats; lossless, for decoders of JPEG may differ.
    for sample in [
        "slide-001-healthy/cell-02.png",
        "slide-002-falciparum/cell-05.png",
        "slide-003-mixed-forms/cell-06.bmp",
    ] {
        toys.arg(project("sample-images").join(sample));
    }
    succeed(toys);
    let expected: Expected =
        serde_json::from_str(&std::fs::read_to_string(out.join("expected.json")).unwrap()).unwrap();
    for toy in expected.keys() {
        std::os::unix::fs::symlink(project("models"), out.join(toy).join("models")).unwrap();
    }

    let two = ["parasitized", "uninfected"];
    let three = ["falciparum", "uninfected", "artefact"];
    let of_guide: [(&str, &str, &[&str]); 6] = [
        ("keras", "keras_functional", &three),
        ("tutorial", "tutorial_mobilenet", &two),
        ("architecture", "keras_sequential", &two),
        ("pytorch", "pytorch_module", &two),
        ("pt2", "pytorch_module", &two),
        ("onnx", "any_onnx", &two),
    ];
    let mut tested = BTreeSet::new();
    for (block, toy, labels) in of_guide.into_iter().filter(|(_, toy, _)| expected.contains_key(*toy)) {
        let _ = std::fs::remove_file(out.join(toy).join("my-model.onnx"));
        run_block(block, python, &out.join(toy));
        compare(toy, labels, &out, &expected);
        tested.insert(block.to_owned());
    }
    std::fs::copy(out.join("images/cell-0.png"), out.join("any_onnx/image.png")).unwrap();
    let table = run_block("classify", python, &out.join("any_onnx"));
    assert!(table.contains("image.png") && two.iter().any(|label| table.contains(label)), "{table}");
    tested.insert("classify".to_owned());

    // As the guide says of other files: the same lines, with what these networks leave open.
    let stored: &[&str] = &["architecture.json", "weights.h5"];
    type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let others: [Case<'_>; 6] = [
        ("keras2", stored, &three, &["--resize", "fit", "--pixels", "0-1"]),
        ("keras2_sequential", stored, &three, &["--resize", "fit", "--pixels", "0-1"]),
        ("keras2_preprocess", stored, &three, &["--resize", "fit"]),
        ("keras_sigmoid", stored, &two, &["--resize", "crop", "--pixels", "0-1"]),
        ("tutorial_resnet", &["model.keras"], &two, &["--resize", "stretch"]),
        ("tutorial_densenet", &["model.keras"], &two, &["--resize", "stretch"]),
    ];
    for (toy, files, labels, more) in others {
        if expected.contains_key(toy) {
            let mut convert = command(python, python, &out.join(toy));
            convert.arg("models/convert/from_keras.py").args(files).args([
                "--out",
                "my-model.onnx",
                "--labels",
            ]);
            convert.args(labels).args(more);
            succeed(convert);
            compare(toy, labels, &out, &expected);
        }
    }
    networks_that_do_not_fit_are_named(python, &out);
    other_forms_are_taken_or_named(python, &out);
    if expected.contains_key("pytorch_module") {
        modules_are_taken_or_named(python, &out);
    }
    tested
}

fn networks_that_do_not_fit_are_named(python: &Path, out: &Path) {
    let nothing: &[&str] = &[];
    let cases: [(&[&str], &[&str], &[&str]); 9] = [
        (&["keras_sequential/architecture.json"], nothing, &["expected its weights after it"]),
        (
            &["keras_sequential/architecture.json", "keras2/weights.h5"],
            nothing,
            &["do not fit the architecture"],
        ),
        (&["keras_sequential/weights.h5"], nothing, &["weights only", "model.to_json()"]),
        (&["refused/plain.keras"], nothing, &["nothing says what the network expects", "--pixels 0-1"]),
        // What is said of the pixels, and what the network does to them, are both named.
        (
            &["refused/rescaling.keras"],
            &["--pixels", "0-1"],
            &["scale 0.00392157", "begins with Mul", "say --pixels 0-255"],
        ),
        (&["refused/four_channels.keras"], nothing, &["4 channels", "train the network without it"]),
        (&["refused/two_heads.keras"], &["--pixels", "0-1"], &["2 outputs (kind, age)", "--outlier"]),
        (&["refused/two_heads.keras"], &["--pixels", "0-1", "--outlier"], &["outlier_above"]),
        (&["refused/lambda.keras"], nothing, &["Lambda layer", "from_keras.convert(model, ...)"]),
    ];
    for (files, more, expected) in cases {
        let options = [&["--labels", "a", "b", "--resize", "fit"], more].concat();
        fails(python, out, "from_keras.py", files, &options, expected);
    }
}

/// ONNX files of other tools, written by hand.
fn other_forms_are_taken_or_named(python: &Path, out: &Path) {
    let cases: [(&str, &[&str], &[&str]); 7] = [
        ("refused/detector.onnx", &[], &["is a detector", "[1, 6, 5]", "cut the cells out"]),
        ("refused/segmenter.onnx", &[], &["is a segmenter", "[1, 2, 8, 8]"]),
        ("refused/stray.onnx", &[], &["'Sub/y:0'", "tf2onnx", "from_keras.py"]),
        ("refused/uint8.onnx", &[], &["takes UINT8", "--pixels 0-255"]),
        ("refused/nan_outlier.onnx", &["--review", r#"{"outlier_above": 1}"#], &["outlier score of [nan]"]),
        ("refused/constant.onnx", &[], &["whatever it sees"]),
        ("refused/divided.onnx", &[], &["begins with Div", "say --pixels 0-255"]),
    ];
    for (file, more, expected) in cases {
        let options =
            [&["--labels", "a", "b", "--resize", "fit", "--output", "logits", "--pixels", "0-1"], more]
                .concat();
        fails(python, out, "giemsa_metadata.py", &[file], &options, expected);
    }
    for (file, kind) in [("batch_of_8", "logits"), ("half", "logits"), ("one_sigmoid", "probabilities")] {
        let mut convert = command(python, python, out);
        convert.arg(project("models/convert/giemsa_metadata.py")).arg(format!("refused/{file}.onnx"));
        convert.args(["--out", "taken.onnx", "--labels", "a", "b", "--resize", "fit", "--pixels=-1-1"]);
        convert.args(["--output", kind]);
        succeed(convert);
        let mut classify = command("giemsa", python, out);
        classify.args(["classify", "--format", "json", "--model", "taken.onnx", "images/ramp-0.png"]);
        assert!(succeed(classify).contains(r#""probabilities""#), "{file}");
    }
}

fn modules_are_taken_or_named(python: &Path, out: &Path) {
    for (file, expected) in [
        ("pytorch_module/weights_only.pt", &["use convert() in the script that has the class"][..]),
        ("pytorch_module/training.pt2", &["in training mode", "net.eval()"]),
    ] {
        let options = ["--labels", "a", "b", "--resize", "fit", "--output", "logits", "--pixels", "0-1"];
        fails(python, out, "from_pytorch.py", &[file], &options, expected);
    }
    // What gives other scores each time cannot be what was exported.
    let mut random = command(python, python, out);
    random.args(["-c", RANDOM_MODULE]);
    let output = random.output().unwrap();
    let message = both(&output);
    assert!(!output.status.success() && message.contains("other scores each time"), "{message}");
    assert!(!out.join("random.onnx").exists());

    let mut half = command(python, python, out);
    half.args(["-c", HALF_MODULE]);
    let said = succeed(half);
    assert!(said.contains("begins with Div, Sub") && said.contains("say --pixels 0-255"), "{said}");
    assert!(out.join("half.onnx").exists());
}

/// A script that has to fail, with all `expected` in its message, no trace, and no file written.
fn fails(python: &Path, folder: &Path, script: &str, files: &[&str], options: &[&str], expected: &[&str]) {
    let out = folder.join("refused.onnx");
    let mut command = command(python, python, folder);
    command.arg(project("models/convert").join(script)).args(files).arg("--out").arg(&out).args(options);
    let output = command.output().unwrap();
    let message = both(&output);
    assert!(!output.status.success(), "{options:?} is taken: {message}");
    for part in expected {
        assert!(message.contains(part), "{options:?}: {part:?} is not in {message}");
    }
    assert!(!message.contains("Traceback"), "{options:?}: {message}");
    assert!(!out.exists(), "{options:?} wrote a file");
}

#[test]
fn mistakes_are_named_with_what_is_expected() {
    let Some(python) = pythons().into_iter().next() else { return };
    let folder = tempfile::tempdir().unwrap();
    let logits = project("tests/data/golden/toy_nchw.onnx");
    let softmax = project("tests/data/golden/toy_nhwc.onnx");
    let (logits, softmax) = (logits.to_str().unwrap(), softmax.to_str().unwrap());
    let three: &[&str] = &["--labels", "a", "b", "c", "--resize", "fit", "--pixels", "0-1"];
    type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let cases: [Case; 12] = [
        (logits, &["--resize", "fit"], &[], &["required: --labels"]),
        (logits, &["--labels", "a", "b", "c"], &[], &["required: --resize"]),
        (logits, three, &[], &["output is missing", "logits"]),
        (
            logits,
            &["--labels", "a", "b", "--resize", "fit", "--pixels", "0-1"],
            &["--output", "logits"],
            &["2 labels", "gives 3 scores"],
        ),
        (logits, &["--labels", "a", "b", "b", "--resize", "fit"], &[], &["two or more different"]),
        (logits, three, &["--output", "probabilities"], &["expected numbers of 0 to 1", "say logits"]),
        (
            softmax,
            &["--labels", "a", "b", "--resize", "fit", "--pixels", "0-1"],
            &["--output", "logits"],
            &["second softmax"],
        ),
        (logits, three, &["--output", "logits", "--width", "41"], &["width is 41", "says 40"]),
        (logits, three, &["--output", "logits", "--mean", "0.5"], &["mean is [0.5]", "expected 3"]),
        (logits, three, &["--output", "logits", "--std", "1", "0", "1"], &["above 0"]),
        (logits, three, &["--output", "logits", "--positive", "d"], &["positive names 'd'"]),
        (
            logits,
            three,
            &["--output", "logits", "--review", r#"{"outlier_above": 3}"#],
            &["outlier_above", "if and only if"],
        ),
    ];
    for (model, options, more, expected) in cases {
        let options = [options, more].concat();
        fails(&python, folder.path(), "giemsa_metadata.py", &[model], &options, expected);
    }
}

#[test]
fn nothing_is_skipped_in_ci() {
    let steps = std::fs::read_to_string(project(".ci/run")).unwrap();
    let targets = steps.lines().find_map(|line| line.strip_prefix("for target in "));
    let targets = targets.and_then(|line| line.strip_suffix("; do")).expect("a loop over targets in .ci/run");
    assert!(targets.split(' ').any(|target| target == "test-models"), "expected test-models in {targets:?}");
}
