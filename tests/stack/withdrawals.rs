//! Withdrawing images by command and by the API, against `giemsa up`: figures, lists, files, and images that were deleted.

use std::collections::BTreeMap;
use std::process::Output;

use aws_sdk_s3::primitives::ByteStream;
use giemsa_core::record::Record;
use giemsa_local::INPUT_BUCKET;
use serde_json::{Value, json};

use giemsa_tests::raw_http::ask;
use giemsa_tests::running_stack::{RunningStack, giemsa, project};

const SLIDE: &str = "slide 7 é";

/// Runs a command as Ada.
fn run(stack: &RunningStack, arguments: &[&str]) -> Output {
    giemsa().args(arguments).envs(stack.exports()).env("GIEMSA_USER", "ada").output().unwrap()
}

fn stdout(stack: &RunningStack, arguments: &[&str]) -> String {
    let output = run(stack, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn listed(stack: &RunningStack, more: &[&str]) -> Vec<Record> {
    let text = stdout(stack, &[&["results", "list", "--format", "json"], more].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn keys(records: &[Record]) -> Vec<&str> {
    let mut keys: Vec<&str> = records.iter().map(|record| record.image.key.as_str()).collect();
    keys.sort_unstable();
    keys
}

fn figure(stack: &RunningStack, stage: &str, slide: &str) -> Value {
    let text = stdout(stack, &["results", "--stage", stage, "slide", slide, "--format", "json"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    document["figure"].clone()
}

async fn post(stack: &RunningStack, path: &str, body: &Value) -> (u16, Value) {
    let url = format!("http://{}", stack.dashboard_address());
    let headers = [("Content-Type", "application/json"), ("Origin", url.as_str())];
    let answer = ask("POST", &format!("{url}{path}"), &headers, body.to_string().as_bytes()).await;
    (answer.status, serde_json::from_str(&answer.text()).unwrap())
}

/// Uploads images and waits until all stages have answered them.
async fn seed(stack: &RunningStack) {
    let s3 = stack.clients().s3;
    for (key, file) in [
        ("slide 7 é/a.png", "slide-003-mixed-forms/cell-01.png"),
        ("slide 7 é/b.png", "slide-001-healthy/cell-01.png"),
        ("slide 7 é/b (1).png", "slide-001-healthy/cell-01.png"),
        ("slide 7 é/part/c.png", "slide-001-healthy/cell-02.png"),
        ("slide 70/d.png", "slide-001-healthy/cell-03.png"),
        ("without-folder.png", "slide-001-healthy/cell-04.png"),
    ] {
        let body = ByteStream::from_path(project("sample-images").join(file)).await.unwrap();
        s3.put_object().bucket(INPUT_BUCKET).key(key).body(body).send().await.unwrap();
    }
    stack.wait_until_answered();
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_and_deleted_images_are_taken_out_of_what_counts_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &[]);
    seed(&stack).await;
    one_image(&stack);
    below_a_prefix(&stack);
    by_the_api(&stack).await;
    deleted(&stack).await;
}

fn one_image(stack: &RunningStack) {
    let before = figure(stack, "prod", SLIDE);
    assert_eq!((&before["cells"], &before["positives"]), (&json!(3), &json!(1)));
    assert_eq!((&before["duplicates"], &before["withdrawn"]), (&json!(1), &json!(0)));
    let table = stdout(stack, &["results", "slide", SLIDE]);
    assert!(table.contains("1 is the same bytes as another"), "{table}");
    let same = table.lines().find(|line| line.starts_with("the same bytes: ")).unwrap();
    assert!(same.contains("b.png") && same.contains("b (1).png") && !same.contains("a.png"), "{same}");

    let key = "slide 7 é/a.png";
    // Nobody says yes.
    let asked = run(stack, &["results", "withdraw", key, "--reason", "moved"]);
    let said = String::from_utf8(asked.stderr).unwrap();
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(said.contains("1 image will no longer count") && said.contains("prod and dev"), "{said}");
    assert!(said.contains("not confirmed: nothing was changed"), "{said}");
    assert_eq!(figure(stack, "prod", SLIDE), before);

    let done = stdout(stack, &["results", "withdraw", key, "--reason", "moved to slide 8", "--yes"]);
    assert!(done.starts_with("1 image withdrawn"), "{done}");
    let again = stdout(stack, &["results", "withdraw", key, "--reason", "once more", "--yes", "--json"]);
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again, json!({ "changed": 0, "unchanged": 1, "failed": [] }));
    for stage in ["prod", "dev"] {
        let now = figure(stack, stage, SLIDE);
        assert_eq!((&now["cells"], &now["positives"], &now["withdrawn"]), (&json!(2), &json!(0), &json!(1)));
        assert_eq!(now["parasitemia_percent"], 0.0);
    }
    assert!(!keys(&listed(stack, &[])).contains(&key));
    let withdrawn = listed(stack, &["--withdrawn"]);
    assert_eq!(keys(&withdrawn), [key]);
    let mark = withdrawn[0].withdrawn.as_ref().unwrap();
    assert_eq!((mark.by.as_str(), mark.reason.as_str()), ("ada", "moved to slide 8"));
    let shown = stdout(stack, &["results", "show", key]);
    assert!(shown.contains("withdrawn by ada: moved to slide 8"), "{shown}");
    let table = stdout(stack, &["results", "slide", SLIDE]);
    assert!(table.contains("1 withdrawn, 1 is the same bytes as another"), "{table}");
    let (_, below) = table.split_once("withdrawn, not counted:").unwrap();
    assert!(below.contains(key), "{table}");
    let slides = stdout(stack, &["results", "slides", "--format", "csv", "--search", "slide 7 é"]);
    let mut reader = csv::Reader::from_reader(slides.as_bytes());
    let rows: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    let row = rows.iter().find(|row| row["slide"] == SLIDE).unwrap();
    assert_eq!(
        (row["cells"].as_str(), row["withdrawn"].as_str(), row["duplicates"].as_str()),
        ("2", "1", "1")
    );

    let export = |more: &[&str]| stdout(stack, &[&["results", "export", "--format", "csv"], more].concat());
    assert!(!export(&[]).contains("a.png"));
    let file = export(&["--withdrawn"]);
    let mut reader = csv::Reader::from_reader(file.as_bytes());
    let rows: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0]["key"].as_str(), rows[0]["withdrawn"].as_str()), (key, "true"));
    assert_eq!(rows[0]["withdrawn_reason"], "moved to slide 8");

    stdout(stack, &["results", "restore", key, "--reason", "was here after all", "--yes"]);
    assert_eq!(figure(stack, "prod", SLIDE), before);
    let not = run(stack, &["results", "restore", key, "--reason", "x", "--yes"]);
    assert_eq!(not.status.code(), Some(1));
    assert!(String::from_utf8(not.stderr).unwrap().contains("is not withdrawn"));
}

fn below_a_prefix(stack: &RunningStack) {
    // A key is never taken for a prefix, nor a prefix for a key.
    for (arguments, code, said) in [
        (&["slide 7 é/b", "--reason", "x"][..], 1, "has no result"),
        (&["slide 7 é/nothing/", "--reason", "x"], 1, "no image whose key begins with"),
        (&["slide 7 é/a.png"], 2, "--reason"),
        (&["slide 7 é/a.png", "--reason", " "], 2, "expected a sentence"),
        (&["s3://elsewhere/a.png", "--reason", "x"], 2, "is not the input bucket"),
    ] {
        let output = run(stack, &[&["results", "withdraw", "--yes"], arguments].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(said), "{arguments:?}: {message}");
    }
    let all = keys(&listed(stack, &[])).len();
    let output = run(stack, &["results", "withdraw", "slide 7 é/", "--reason", "not stained", "--yes"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("4 images") && said.contains("slide 7 é: 3 images"), "{said}");
    assert!(said.contains("slide 7 é/part: 1 image"), "{said}");
    assert_eq!(keys(&listed(stack, &[])), ["slide 70/d.png", "without-folder.png"]);
    assert_eq!(listed(stack, &["--withdrawn"]).len(), 4);
    assert_eq!(figure(stack, "prod", SLIDE)["cells"], 0);
    stdout(stack, &["results", "restore", "slide 7 é/b", "--prefix", "--reason", "stained", "--yes"]);
    assert_eq!(figure(stack, "prod", SLIDE)["cells"], 2);
    stdout(stack, &["results", "restore", "s3://giemsa-input/slide 7 é/", "--reason", "stained", "--yes"]);
    assert_eq!(keys(&listed(stack, &[])).len(), all);
    assert_eq!(listed(stack, &["--withdrawn"]), []);
}

async fn by_the_api(stack: &RunningStack) {
    let key = "slide 70/d.png";
    let path = "/api/image?key=slide%2070%2Fd.png";
    let image = stack.get_json(path);
    let record =
        image["results"].as_array().unwrap().iter().find(|record| record["stage"] == "prod").unwrap();
    let new = json!({
        "key": key, "stage": "prod", "result_id": record["result_id"], "reason": " out of focus ",
        "reviewer": "Bea",
    });
    for (name, value, status) in [
        ("result_id", "0123456789abcdef", 409),
        ("reason", "", 400),
        ("reason", "two\nlines", 400),
        ("reviewer", "", 400),
        ("stage", "nowhere", 400),
        ("key", "none.png", 404),
        ("by", "Bea", 400),
    ] {
        let mut wrong = new.clone();
        wrong[name] = json!(value);
        let (answered, problem) = post(stack, "/api/withdrawals", &wrong).await;
        assert_eq!(answered, status, "{name}={value:?}: {problem}");
    }
    let (status, answer) = post(stack, "/api/withdrawals", &new).await;
    assert_eq!(status, 200, "{answer}");
    let withdrawal = &answer["withdrawal"];
    assert_eq!((&withdrawal["by"], &withdrawal["reason"]), (&json!("Bea"), &json!("out of focus")));
    assert_eq!(post(stack, "/api/withdrawals", &new).await, (200, answer.clone()), "the first one stays");
    let image = stack.get_json(path);
    assert_eq!(image["withdrawals"], json!([withdrawal]));
    for record in image["results"].as_array().unwrap() {
        assert_eq!(record["withdrawn"]["by"], "Bea", "of every stage: {record}");
    }
    let slide = stack.get_json("/api/slide?slide=slide%2070");
    assert_eq!((&slide["figure"]["cells"], &slide["figure"]["withdrawn"]), (&json!(0), &json!(1)));
    assert_eq!(slide["not_in_bucket"], 0);
    let cells = stack.get_json("/api/slide/cells?slide=slide%2070");
    assert_eq!(cells["cells"][0]["withdrawn"], true);
    assert_eq!(stack.get_json("/api/results?slide=slide%2070")["results"], json!([]));
    let withdrawn = stack.get_json("/api/results?withdrawn=true");
    assert_eq!(withdrawn["results"][0]["image"]["key"], key);

    let restoration = json!({ "key": key, "reason": "sharp enough", "reviewer": "Ada" });
    let (status, answer) = post(stack, "/api/withdrawals/restore", &restoration).await;
    assert_eq!((status, &answer["withdrawal"]["action"]), (200, &json!("restore")));
    assert_eq!(post(stack, "/api/withdrawals/restore", &restoration).await.0, 409);
    assert_eq!(stack.get_json("/api/slide?slide=slide%2070")["figure"]["cells"], 1);
    let same = stack.get_json("/api/image?key=slide%207%20%C3%A9%2Fb.png");
    assert_eq!(same["same_bytes"], json!(["slide 7 é/b (1).png"]));
}

async fn deleted(stack: &RunningStack) {
    let key = "slide 7 é/a.png";
    stack.clients().s3.delete_object().bucket(INPUT_BUCKET).key(key).send().await.unwrap();
    let reconciled = |more: &[&str]| -> Value {
        let text = stdout(stack, &[&["reconcile", "--json"], more].concat());
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    };
    let summary = reconciled(&[]);
    assert_eq!((&summary["complete"], &summary["deleted"]), (&json!(true), &json!(1)), "{summary}");
    let text = stdout(stack, &["reconcile"]);
    assert!(text.contains("1 of these results count although their image was deleted"), "{text}");
    let path = "/api/slide?slide=slide%207%20%C3%A9";
    assert_eq!(stack.get_json(path)["not_in_bucket"], 1);

    stdout(stack, &["results", "withdraw", key, "--reason", "deleted", "--yes"]);
    let summary = reconciled(&[]);
    assert_eq!((&summary["complete"], &summary["deleted"]), (&json!(true), &json!(0)), "{summary}");
    let slide = stack.get_json(path);
    assert_eq!((&slide["not_in_bucket"], &slide["figure"]["withdrawn"]), (&json!(0), &json!(1)));

    // The same bytes again under the same key are another upload, which counts.
    let body =
        ByteStream::from_path(project("sample-images/slide-003-mixed-forms/cell-01.png")).await.unwrap();
    stack.clients().s3.put_object().bucket(INPUT_BUCKET).key(key).body(body).send().await.unwrap();
    stack.wait_until_answered();
    let now = figure(stack, "prod", SLIDE);
    assert_eq!((&now["cells"], &now["positives"], &now["withdrawn"]), (&json!(3), &json!(1), &json!(0)));
}
