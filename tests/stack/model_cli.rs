//! `giemsa model …` and `giemsa reclassify` as their users meet them: processes against a running stack.

use std::path::Path;
use std::process::Output;

use aws_sdk_s3::primitives::ByteStream;
use giemsa_local::{INPUT_BUCKET, TABLE};
use giemsa_store::TableReader;
use giemsa_tests::running_stack::{RunningStack, giemsa, project, wait_for};
use serde_json::Value;

const SAMPLE: &str = "models/thin-smear.onnx";

/// The command in the environment that the stack tells its users to export.
fn run(stack: Option<&RunningStack>, arguments: &[&str]) -> Output {
    let mut command = giemsa();
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_PROFILE"] {
        command.env_remove(name);
    }
    for name in ["GIEMSA_INPUT_BUCKET", "GIEMSA_MODEL_BUCKET", "GIEMSA_RESULTS_BUCKET", "GIEMSA_TABLE"] {
        command.env_remove(name);
    }
    command.env("GIEMSA_USER", "ada").current_dir(project(".")).args(arguments);
    if let Some(stack) = stack {
        command.envs(stack.exports());
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn succeed(stack: Option<&RunningStack>, arguments: &[&str]) -> String {
    let output = run(stack, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

fn succeed_json(stack: Option<&RunningStack>, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let stdout = succeed(stack, &arguments);
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {stdout}"))
}

fn fail(stack: Option<&RunningStack>, arguments: &[&str], code: i32, part: &str) {
    let output = run(stack, arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(message.contains(part), "{part:?} is not in {message:?}");
    assert!(!message.contains("panicked"), "{message}");
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn files_are_inspected_packed_and_checked_without_any_stack() {
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("packed.onnx");
    let done = succeed_json(
        None,
        &[
            "model",
            "pack",
            SAMPLE,
            "-o",
            shown(&packed),
            "--version",
            "7",
            "--review-below",
            "0.95",
            "--review-above",
            "parasitized=0.2",
        ],
    );
    assert_eq!(done["model"]["version"], "7");
    let inspected = succeed_json(None, &["model", "inspect", shown(&packed)]);
    assert_eq!(inspected["sha256"], done["model"]["sha256"]);
    assert_eq!((&inspected["usable"], &inspected["metadata"]["giemsa.version"]), (&true.into(), &"7".into()));
    assert!(inspected["metadata"]["giemsa.review"].as_str().unwrap().contains("0.95"), "{inspected}");
    assert!(inspected["graph"]["operators"]["Conv"].as_u64().unwrap() > 0, "{inspected}");
    assert!(inspected["measured"]["run"]["median_ms"].as_f64().unwrap() > 0.0, "{inspected}");
    if cfg!(target_os = "linux") {
        let memory = inspected["measured"]["memory_bytes"].as_u64().unwrap();
        assert!(memory > inspected["size_bytes"].as_u64().unwrap() && memory < 1 << 30, "{memory}");
    }
    let table = succeed(None, &["model", "inspect", shown(&packed)]);
    for part in ["labels ", "parasitized, uninfected", "operators", "ms an image", "memory"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }

    let cut = folder.path().join("cut.onnx");
    std::fs::write(&cut, &std::fs::read(&packed).unwrap()[..5000]).unwrap();
    fail(None, &["model", "inspect", shown(&cut)], 1, "cannot serve");
    fail(None, &["model", "pack", shown(&cut), "-o", shown(&packed), "--name", "x"], 1, "was not packed");
    fail(
        None,
        &["model", "pack", SAMPLE, "-o", shown(&packed), "--labels", "one,two,three"],
        1,
        "would be refused",
    );
    fail(None, &["model", "pack", SAMPLE, "-o", shown(&packed)], 2, "nothing to write");
    fail(None, &["model", "list"], 2, "GIEMSA_MODEL_BUCKET is not set");

    let report = succeed_json(None, &["model", "check", SAMPLE, "--golden", "models/golden"]);
    assert_eq!(report["passed"], true, "{report}");
    assert!(report["golden"]["images"]["parasitized"].as_u64().unwrap() > 0, "{report}");
    // The same with the labels exchanged is wrong on all of them.
    let contrary = folder.path().join("contrary.onnx");
    succeed(None, &["model", "pack", SAMPLE, "-o", shown(&contrary), "--labels", "uninfected,parasitized"]);
    let page = folder.path().join("report.html");
    fail(
        None,
        &["model", "check", shown(&contrary), "--golden", "models/golden", "--html", shown(&page)],
        1,
        "it would fail",
    );
    assert!(std::fs::read_to_string(&page).unwrap().starts_with("<!"), "a page");
    fail(None, &["model", "check", SAMPLE, "--golden", "no-such-folder"], 2, "is not a folder");
}

#[test]
fn a_model_is_shipped_compared_and_rolled_back_against_a_running_stack() {
    let folder = tempfile::tempdir().unwrap();
    let running = RunningStack::start(&folder.path().join("data"), &[]);
    let stack = Some(&running);
    let (second, contrary) = (folder.path().join("2.onnx"), folder.path().join("contrary.onnx"));
    let model = succeed_json(None, &["model", "pack", SAMPLE, "-o", shown(&second), "--version", "2"]);
    let second_sha256 = model["model"]["sha256"].as_str().unwrap();
    succeed(None, &["model", "pack", SAMPLE, "-o", shown(&contrary), "--labels", "uninfected,parasitized"]);
    let first = succeed_json(None, &["model", "inspect", SAMPLE]);
    let first_sha256 = first["sha256"].as_str().unwrap();

    fail(stack, &["model", "push", SAMPLE, "--stage", "prod"], 2, "giemsa model promote");
    fail(stack, &["model", "push", "Cargo.toml"], 1, "cannot serve");
    let refused = run(stack, &["model", "push", shown(&contrary), "--wait"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    fail(stack, &["model", "promote"], 1, "failed the golden set");
    fail(stack, &["model", "promote", "--force"], 2, "--force needs a --reason");
    let pushed = succeed_json(stack, &["model", "push", shown(&second), "--wait"]);
    assert_eq!((&pushed["model"]["sha256"], &pushed["report"]), (&second_sha256.into(), &"passed".into()));

    upload(&running, "slide-001-healthy");
    let promoted = succeed_json(stack, &["model", "promote", "--reason", "finer stain"]);
    assert_eq!((&promoted["kind"], &promoted["previous_sha256"]), (&"promote".into(), &first_sha256.into()));
    let history = succeed_json(stack, &["model", "history"]);
    let newest = &history[0];
    assert_eq!(
        (&newest["event"], &newest["who"], &newest["why"]),
        (&"promote".into(), &"ada".into(), &"finer stain".into())
    );
    let now = newest["at"].as_str().unwrap();
    let at = succeed_json(stack, &["model", "at", now]);
    assert_eq!(
        (&at["release"]["model"]["sha256"], &at["results"]),
        (&second_sha256.into(), &0.into()),
        "{at}"
    );
    let before = succeed_json(stack, &["model", "at", "2000-01-01"]);
    assert_eq!(before["release"], Value::Null);

    let done = succeed_json(stack, &["reclassify", "--model-digest", first_sha256]);
    assert!(done["found"].as_u64().unwrap() > 0, "{done}");
    assert_eq!(
        (&done["classified"], &done["unanswered"]),
        (&done["found"], &Value::Array(Vec::new())),
        "{done}"
    );
    let at = succeed_json(stack, &["model", "at", now]);
    assert_eq!(at["results"], done["found"]);
    fail(stack, &["reclassify", "--model-digest", second_sha256], 1, "already serves this model");
    fail(stack, &["reclassify", "--model-digest", "abc"], 2, "64 hexadecimal digits");

    let compared = succeed_json(stack, &["model", "compare", "dev", "prod", "--since", "1d"]);
    assert_eq!(
        (&compared["images"], &compared["conclusion"]),
        (&done["found"], &"no_verdicts".into()),
        "{compared}"
    );
    assert!(
        succeed(stack, &["model", "compare", "dev", "prod"]).contains("no verdicts of reviewers"),
        "in words"
    );

    let listed = succeed_json(stack, &["model", "list"]);
    assert_eq!(
        (&listed[0]["model"]["sha256"], &listed[0]["report"]),
        (&second_sha256.into(), &"passed".into()),
        "{listed}"
    );
    assert_eq!(listed[0]["archived"], true);
    let back = succeed_json(stack, &["model", "rollback", "--reason", "too many false alarms"]);
    assert_eq!((&back["kind"], &back["model"]["sha256"]), (&"rollback".into(), &first_sha256.into()));
    let table = succeed(stack, &["model", "history"]);
    for part in ["rollback", "too many false alarms", "finer stain", "ada"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    fail(stack, &["model", "rollback"], 1, "names no model before");
    let again = succeed_json(stack, &["model", "rollback", &second_sha256[..10]]);
    assert_eq!(again["model"]["sha256"], second_sha256);
}

/// Uploads a slide of the sample images, and waits until both stages have answered it.
fn upload(stack: &RunningStack, slide: &str) {
    let clients = stack.clients();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let files: Vec<_> = std::fs::read_dir(project("sample-images").join(slide)).unwrap().collect();
    for entry in &files {
        let path = entry.as_ref().unwrap().path();
        let key = format!("{slide}/{}", path.file_name().unwrap().to_str().unwrap());
        let body = ByteStream::from(std::fs::read(path).unwrap());
        runtime.block_on(clients.s3.put_object().bucket(INPUT_BUCKET).key(key).body(body).send()).unwrap();
    }
    let table = TableReader::new(clients.dynamodb, TABLE);
    for stage in ["dev", "prod"] {
        wait_for("the slide to be answered", || {
            let records = runtime.block_on(table.whole_slide(stage, slide)).unwrap();
            (records.len() == files.len()).then_some(())
        });
    }
}

/// Pictures in `folder`, and the training framework's probabilities for them at temperature 1: those of the sample model's
/// own proof.
fn framework_answers(folder: &Path, proof: &Value) -> Vec<(String, [f64; 2])> {
    use base64::Engine as _;
    let inputs = proof["inputs"].as_array().unwrap().iter().enumerate();
    inputs
        .map(|(index, input)| {
            let name = format!("slide/cell {index}.png");
            std::fs::create_dir_all(folder.join("slide")).unwrap();
            let png =
                base64::engine::general_purpose::STANDARD.decode(input["png"].as_str().unwrap()).unwrap();
            std::fs::write(folder.join(&name), png).unwrap();
            let logit = |at: usize| input["scores"][at].as_f64().unwrap();
            let second = 1.0 / (1.0 + f64::exp(logit(0) - logit(1)));
            (name, [1.0 - second, second])
        })
        .collect()
}

#[test]
fn answers_are_held_against_those_of_the_training_framework() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("predictions.csv");
    let inspected = succeed_json(None, &["model", "inspect", SAMPLE]);
    assert!(inspected["proof"]["greatest_difference"].as_f64().unwrap() < 1e-4, "{inspected}");
    let text = inspected["metadata"]["giemsa.proof"].as_str().unwrap();
    let answers = framework_answers(folder.path(), &serde_json::from_str(text).unwrap());
    let write = |header: &str, rows: &dyn Fn(&str, [f64; 2]) -> String| {
        let rows: String = answers.iter().map(|(name, p)| rows(name, *p) + "\n").collect();
        std::fs::write(&csv, format!("{header}\n{rows}")).unwrap();
    };
    let check = ["model", "check", SAMPLE, "--expect", shown(&csv)];

    write("image,parasitized,uninfected", &|name, [a, b]| format!("{name},{a},{b}"));
    let found = succeed_json(None, &check);
    assert!(found["greatest_difference"].as_f64().unwrap() < 1e-4, "{found}");
    assert_eq!((&found["agrees"], &found["labels_differ"]), (&true.into(), &0.into()));
    // As a spreadsheet writes it in half of Europe.
    write("\u{feff}image;uninfected;parasitized", &|name, [a, b]| {
        format!(
            "{};{};{}",
            name.replace('/', "\\"),
            b.to_string().replace('.', ","),
            a.to_string().replace('.', ",")
        )
    });
    assert!(succeed(None, &check).contains("images       4, 0 of them with another label"));

    // The order of the labels.
    write("image,uninfected,parasitized", &|name, [a, b]| format!("{name},{a},{b}"));
    fail(None, &check, 1, "of 4 labels; usual causes, in this order: a different resize");
    let differs = text_of(&run(None, &check));
    assert!(differs.contains("ANOTHER LABEL") && differs.ends_with("DIFFERS\n"), "{differs}");
    // A little: within the tolerance, or not.
    write("image,parasitized,uninfected", &|name, [a, b]| format!("{name},{},{}", a * 0.98, b + a * 0.02));
    fail(None, &check, 1, "probabilities by up to 0.01");
    succeed(None, &[&check[..], &["--tolerance", "0.05"]].concat());
    // Labels alone.
    let label = |[a, b]: [f64; 2]| if a > b { "parasitized" } else { "uninfected" };
    write("image,label", &|name, p| format!("{name},{}", label(p)));
    succeed(None, &check);
    write("image,label", &|name, _| format!("{name},parasitized"));
    fail(None, &check, 1, "differ: 1 of 4 labels");

    for (csv_text, part) in [
        ("path,label\na,b\n", "expected one named \"image\""),
        ("image\nslide/cell 0.png\n", "a column of probabilities for each of the model's labels"),
        (
            "image,parasitized\nslide/cell 0.png,0.5\n",
            "a column of probabilities for each of the model's labels",
        ),
        ("image,label\nslide/cell 9.png,uninfected\n", "line 2: there is no image \"slide/cell 9.png\""),
        ("image,label\nslide/cell 0.png,healthy\n", "line 2: \"healthy\" is not one of the model's labels"),
        ("image,parasitized,uninfected\nslide/cell 0.png,2,-1\n", "expected a probability, 0 to 1"),
        ("image,label\n", "has no rows"),
    ] {
        std::fs::write(&csv, csv_text).unwrap();
        fail(None, &check, 2, part);
    }
    fail(None, &["model", "check", SAMPLE], 2, "--golden");
}

fn text_of(output: &Output) -> String {
    text(&output.stdout).to_owned()
}

#[test]
fn a_proof_is_packed_if_it_is_the_model_s() {
    let folder = tempfile::tempdir().unwrap();
    let (proof, packed) = (folder.path().join("proof.json"), folder.path().join("packed.onnx"));
    let inspected = succeed_json(None, &["model", "inspect", SAMPLE]);
    let text = inspected["metadata"]["giemsa.proof"].as_str().unwrap();
    // A model that carries none, and then the sample's own again.
    let with = |text: &str| {
        std::fs::write(&proof, text).unwrap();
        [
            "model",
            "pack",
            "tests/data/golden/toy_outlier.onnx",
            "-o",
            shown(&packed),
            "--proof",
            shown(&proof),
        ]
    };
    fail(None, &with(text), 1, "expected a PNG of the input's 24 x 20 px");
    assert!(!packed.exists(), "nothing is written that would be refused");
    fail(None, &with("{}"), 1, "missing field `by`");
    std::fs::write(&proof, format!("{text}\n")).unwrap();
    let done = succeed_json(None, &["model", "pack", SAMPLE, "-o", shown(&packed), "--proof", shown(&proof)]);
    assert_eq!((&done["proof"]["inputs"], &done["model"]["sha256"]), (&4.into(), &inspected["sha256"]));
    // Not with an input that is not that of the training.
    let other = ["model", "pack", SAMPLE, "-o", shown(&packed), "--mean", "0,0,0"];
    fail(None, &other, 1, "of giemsa.proof the network gave");
    fail(
        None,
        &["model", "pack", SAMPLE, "-o", shown(&packed), "--proof", "no.json"],
        2,
        "no.json cannot be read",
    );
}
