//! What systems do to names: files of their own, backslashes, decomposed characters. One slide stays one slide, and what
//! is not an image is not an image, for every command alike.

use std::process::Output;

use giemsa_core::record::Record;
use giemsa_local::INPUT_BUCKET;
use serde_json::{Value, json};

use giemsa_tests::running_stack::{RunningStack, giemsa, project};

/// One slide, as it comes from a Mac, from a PC and from a program on Windows.
const IMAGES: [&str; 3] = ["u/e\u{301}te\u{301}/mac.png", "u/été/pc.png", r"u\été\windows.png"];

const LEFT_BY_SYSTEMS: [&str; 6] = [
    "u/été/.DS_Store",
    "u/été/Thumbs.db",
    r"u\été\desktop.ini",
    "u/été/._mac.png",
    "__MACOSX/slide A/._mac.png",
    "__MACOSX/slide A/mac.png",
];

async fn put(stack: &RunningStack, key: &str, bytes: Vec<u8>) {
    let request = stack.clients().s3.put_object().bucket(INPUT_BUCKET).key(key);
    request.body(bytes.into()).send().await.unwrap();
}

fn run(stack: &RunningStack, arguments: &[&str]) -> Output {
    giemsa().args(arguments).envs(stack.exports()).output().unwrap()
}

fn text(stack: &RunningStack, arguments: &[&str]) -> String {
    let output = run(stack, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn documents(stack: &RunningStack, arguments: &[&str]) -> Vec<Value> {
    text(stack, arguments).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slide_is_one_and_what_systems_leave_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &[]);
    let cell = std::fs::read(project("sample-images/slide-001-healthy/cell-02.png")).unwrap();
    for key in IMAGES.into_iter().chain(LEFT_BY_SYSTEMS) {
        put(&stack, key, cell.clone()).await;
    }
    stack.wait_until_answered();

    let slides = documents(&stack, &["results", "slides", "--format", "json"]);
    assert_eq!(slides.len(), 1, "{slides:?}");
    assert_eq!(slides[0]["slide"], "u/été");
    let figure = &slides[0]["figure"];
    assert_eq!((&figure["cells"], &figure["rejected"]), (&json!(3), &json!(0)), "{figure}");

    for name in ["u/été", "u/e\u{301}te\u{301}", r"u\été", "u/été/"] {
        let slide = text(&stack, &["results", "slide", name, "--format", "json"]);
        let slide: Value = serde_json::from_str(&slide).unwrap();
        let mut keys: Vec<&str> = slide["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["image"]["key"].as_str().unwrap())
            .collect();
        keys.sort_unstable();
        let mut expected = IMAGES;
        expected.sort_unstable();
        assert_eq!(keys, expected, "{name:?}: keys stay as they are in the bucket");
    }
    let listed =
        documents(&stack, &["results", "list", "--slide", "u/e\u{301}te\u{301}", "--format", "json"]);
    assert_eq!(listed.len(), 3);
    assert_eq!(
        documents(&stack, &["results", "slides", "--search", "E\u{301}TE\u{301}", "--format", "json"]).len(),
        1
    );
    let csv = text(&stack, &["results", "list", "--format", "csv", "--separator", ";", "--bom"]);
    assert!(csv.starts_with("\u{feff}slide;key;status;") && csv.contains("\r\nu/été;"), "{csv}");
    assert!(csv.lines().skip(1).all(|row| row.split(';').nth(4).unwrap().starts_with("0,")), "{csv}");
    let wrong = run(&stack, &["results", "list", "--bom"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--format csv"), "{wrong:?}");

    // Percent-encoded: decomposed, and with a backslash.
    for name in ["u%2Fe%CC%81te%CC%81", "u%5C%C3%A9t%C3%A9"] {
        let slide = stack.get_json(&format!("/api/slide?slide={name}"));
        assert_eq!((&slide["slide"], &slide["uploads"]), (&json!("u/été"), &json!(3)), "{slide}");
        assert_eq!(slide["unanswered"], 0, "{slide}");
        let cells = stack.get_json(&format!("/api/slide/cells?slide={name}"));
        assert_eq!(cells["cells"].as_array().unwrap().len(), 3);
    }

    let reconciled = documents(&stack, &["reconcile", "--json", "--grace", "0m"]);
    let summary = reconciled.last().unwrap();
    assert_eq!((&summary["uploads"], &summary["left_out"]), (&json!(3), &json!(6)), "{summary}");
    let plan: Value = serde_json::from_str(&text(&stack, &["backfill", "--json", "--yes"])).unwrap();
    assert_eq!((&plan["images"], &plan["pending"]), (&json!(3), &json!(0)), "{plan}");
}

#[test]
fn classify_leaves_out_what_systems_leave() {
    let folder = tempfile::tempdir().unwrap();
    let cell = std::fs::read(project("sample-images/slide-001-healthy/cell-02.png")).unwrap();
    for path in
        ["a/cell.png", "a/Thumbs.db", "a/desktop.ini", "a/._cell.png", "a/.DS_Store", "__MACOSX/a/cell.png"]
    {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &cell).unwrap();
    }
    let classify = |path: &std::path::Path| -> Vec<Record> {
        let output = giemsa().args(["classify", "--format", "json"]).arg(path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let records = classify(folder.path());
    assert_eq!(records.len(), 1, "{records:?}");
    assert!(records[0].image.key.ends_with("a/cell.png"));
    // What is named is meant.
    assert_eq!(classify(&folder.path().join("a/._cell.png")).len(), 1);
}
