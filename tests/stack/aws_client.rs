//! The real `aws` client against `giemsa up`, with nothing but the environment that it prints.
//!
//! Needs the client's path in `GIEMSA_TEST_AWS`; without it nothing is tested, which is said aloud, and is a
//! failure where `CI` is `true`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use chrono::Utc;
use giemsa_core::digest::sha256_hex;
use giemsa_core::record::{Record, Status};
use giemsa_local::{INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET, TABLE};
use giemsa_tests::running_stack::{RunningStack, files_below, project, wait_for};
use serde_json::Value;

/// What a shell on another machine would not have: settings of the one the tests run on.
const AMBIENT: [&str; 10] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];

#[allow(clippy::disallowed_methods, reason = "the client's path is a setting of the machine that tests")]
fn aws_path() -> Option<PathBuf> {
    let path = std::env::var_os("GIEMSA_TEST_AWS").map(PathBuf::from);
    if path.is_none() {
        let message = "GIEMSA_TEST_AWS is not set; expected the path of the aws client (pip install awscli)";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
        eprintln!("\n*** SKIPPED: {message} ***\n");
    }
    path
}

struct Aws<'a> {
    path: &'a Path,
    stack: &'a RunningStack,
    home: &'a Path,
}

impl Aws<'_> {
    fn output(&self, arguments: &[&str]) -> Output {
        self.prepared(Command::new(self.path)).args(arguments).output().unwrap()
    }

    /// The command with the settings that the stack prints, and none of the machine's own.
    fn prepared(&self, mut command: Command) -> Command {
        for name in AMBIENT {
            command.env_remove(name);
        }
        // No file of the machine's own may help or hinder.
        command.env("AWS_CONFIG_FILE", self.home.join("no-config"));
        command.env("AWS_SHARED_CREDENTIALS_FILE", self.home.join("no-credentials"));
        command.envs(self.stack.exports()).current_dir(project("."));
        // As in a shell where the client is installed.
        let folder = self.path.parent().expect("a program in a folder");
        command.env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
        command
    }

    /// Runs a command that has to succeed, and returns what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "aws {arguments:?}: {}: {messages}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Keys of a bucket, as `aws s3 ls` shows them.
    fn list(&self, bucket: &str) -> BTreeSet<String> {
        let url = format!("s3://{bucket}/");
        let listing = self.run(&["s3", "ls", "--recursive", &url]);
        // Date, time and size stand before the key, which may hold spaces itself.
        let key_of = |line: &str| {
            let mut rest = line;
            for _ in 0..3 {
                rest = rest.trim_start().split_once(' ').expect("four columns").1;
            }
            rest.to_owned()
        };
        listing.lines().map(key_of).collect()
    }

    /// The one record of a slide with one image.
    fn only_record(&self, slide: &str) -> Record {
        let answer = self.stack.get_json(&format!("/api/results?slide={slide}"));
        let records = answer["results"].as_array().unwrap();
        assert_eq!(records.len(), 1, "{answer}");
        serde_json::from_value(records[0].clone()).unwrap()
    }
}

#[test]
fn the_printed_lines_work_with_the_real_client() {
    let Some(path) = aws_path() else { return };
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(&folder.path().join("data"), &[]);
    let aws = Aws { path: &path, stack: &stack, home: folder.path() };

    let printed = "aws s3 cp --recursive sample-images s3://giemsa-input/first-upload/";
    assert!(stack.stdout().contains(printed), "{}", stack.stdout());
    let day_before = Utc::now().date_naive();
    aws.run(&printed.split(' ').skip(1).collect::<Vec<_>>());
    stack.wait_until_answered();
    let days = [day_before, Utc::now().date_naive()];

    every_file_has_a_result(&aws, &days.map(|day| day.to_string()));
    what_was_uploaded_comes_back_identical(&aws, folder.path());
    a_query_on_the_index_answers(&aws);
    a_multipart_upload_is_answered(&aws, folder.path());
    versions_are_kept_listed_read_and_deleted(&aws, folder.path());
    the_space_of_old_versions_is_freed_as_documented(&aws);
    a_model_is_replaced_by_a_copy(&aws, folder.path());
    a_dead_letter_is_handled_by_hand(&aws);
}

fn every_file_has_a_result(aws: &Aws<'_>, days: &[String]) {
    let files = files_below(&project("sample-images"));
    let mut keys = aws.list(RESULTS_BUCKET);
    keys.retain(|key| key.starts_with("results/stage=prod/"));
    assert_eq!(keys.len(), files.len(), "{keys:#?}");
    for file in &files {
        let is_its_result = |key: &&String| {
            days.iter().any(|day| {
                let head = format!("results/stage=prod/date={day}/first-upload/{file}.");
                key.strip_prefix(&head)
                    .and_then(|tail| tail.strip_suffix(".json"))
                    .is_some_and(|id| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
            })
        };
        assert_eq!(keys.iter().filter(is_its_result).count(), 1, "{file} in {keys:#?}");
    }
}

fn what_was_uploaded_comes_back_identical(aws: &Aws<'_>, folder: &Path) {
    let back = folder.join("back");
    let url = format!("s3://{INPUT_BUCKET}/first-upload/");
    aws.run(&["s3", "sync", &url, back.to_str().unwrap()]);
    let files = files_below(&project("sample-images"));
    assert_eq!(files_below(&back), files);
    for file in files {
        let sent = std::fs::read(project("sample-images").join(&file)).unwrap();
        assert!(std::fs::read(back.join(&file)).unwrap() == sent, "{file} differs");
    }
    // A second time nothing differs, neither in name, size nor time.
    assert_eq!(aws.run(&["s3", "sync", &url, back.to_str().unwrap()]), "");
}

fn a_query_on_the_index_answers(aws: &Aws<'_>) {
    let slide = "first-upload/slide 004 été +50%";
    let values = serde_json::json!({ ":slide": { "S": format!("prod#{slide}") } }).to_string();
    let query = ["dynamodb", "query", "--table-name", TABLE, "--index-name", "slide", "--output", "json"];
    let condition =
        ["--key-condition-expression", "slide_pk = :slide", "--expression-attribute-values", &values];
    let answer: Value = serde_json::from_str(&aws.run(&[&query[..], &condition[..]].concat())).unwrap();
    let keys: Vec<&str> = answer["Items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["image"]["M"]["key"]["S"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = files_below(&project("sample-images/slide 004 été +50%"))
        .into_iter()
        .map(|file| format!("{slide}/{file}"))
        .collect();
    assert_eq!(keys, expected, "all images of the slide, in order");
}

/// A plain BMP of 24 bits a pixel: large without being slow to make.
fn large_bitmap() -> Vec<u8> {
    const WIDTH: u32 = 2_000;
    const HEIGHT: u32 = 1_600;
    const HEADER_BYTES: u32 = 54;
    let pixel_bytes = WIDTH * HEIGHT * 3;
    let mut file = b"BM".to_vec();
    for field in
        [HEADER_BYTES + pixel_bytes, 0, HEADER_BYTES, 40, WIDTH, HEIGHT, 1 | (24 << 16), 0, pixel_bytes]
    {
        file.extend(field.to_le_bytes());
    }
    file.resize(HEADER_BYTES as usize, 0);
    file.resize((HEADER_BYTES + pixel_bytes) as usize, 0xd8);
    file
}

fn a_multipart_upload_is_answered(aws: &Aws<'_>, folder: &Path) {
    let bitmap = large_bitmap();
    assert!(bitmap.len() > 8 << 20, "the client sends smaller files in one part");
    let file = folder.join("field.bmp");
    std::fs::write(&file, &bitmap).unwrap();
    aws.run(&["s3", "cp", file.to_str().unwrap(), &format!("s3://{INPUT_BUCKET}/large/field.bmp")]);
    aws.stack.wait_until_answered();
    let record = aws.only_record("large");
    assert_eq!(record.status, Status::Classified, "{record:?}");
    assert!(record.image.etag.as_deref().is_some_and(|etag| etag.ends_with("-2")), "{record:?}");
    assert_eq!(record.image.sha256, Some(sha256_hex(&bitmap)));
    assert_eq!((record.image.width_px, record.image.height_px), (Some(2_000), Some(1_600)));
}

/// Versions and delete markers of a key, as `list-object-versions` shows them.
fn versions_of(aws: &Aws<'_>, key: &str) -> Value {
    let list =
        ["s3api", "list-object-versions", "--bucket", INPUT_BUCKET, "--prefix", key, "--output", "json"];
    serde_json::from_str(&aws.run(&list)).unwrap()
}

fn versions_are_kept_listed_read_and_deleted(aws: &Aws<'_>, folder: &Path) {
    let key = "twice/cell +1.png";
    let url = format!("s3://{INPUT_BUCKET}/{key}");
    let images =
        ["cell-01.png", "cell-02.png"].map(|name| project("sample-images/slide-001-healthy").join(name));
    for image in &images {
        aws.run(&["s3", "cp", image.to_str().unwrap(), &url]);
    }
    let listed = versions_of(aws, key);
    let versions = listed["Versions"].as_array().unwrap();
    let latest: Vec<bool> = versions.iter().map(|version| version["IsLatest"].as_bool().unwrap()).collect();
    assert_eq!(latest, [true, false], "newest first: {listed}");
    let ids: Vec<&str> = versions.iter().map(|version| version["VersionId"].as_str().unwrap()).collect();

    aws.run(&["s3", "rm", &url]);
    let listed = versions_of(aws, key);
    assert_eq!(listed["Versions"].as_array().unwrap().len(), 2, "{listed}");
    let marker = &listed["DeleteMarkers"][0];
    assert_eq!(marker["IsLatest"], true, "{listed}");
    assert!(!aws.list(INPUT_BUCKET).contains(key));
    let back = folder.join("back.png");
    let object = ["s3api", "get-object", "--bucket", INPUT_BUCKET, "--key", key];
    assert!(!aws.output(&[&object[..], &[back.to_str().unwrap()]].concat()).status.success());
    for (id, image) in ids.iter().zip(images.iter().rev()) {
        let answer = aws.run(&[&object[..], &["--version-id", id, back.to_str().unwrap()]].concat());
        assert!(answer.contains(id), "{answer}");
        assert!(std::fs::read(&back).unwrap() == std::fs::read(image).unwrap(), "version {id}");
    }
    aws.stack.wait_until_answered();

    let delete = |id: &str| {
        aws.run(&["s3api", "delete-object", "--bucket", INPUT_BUCKET, "--key", key, "--version-id", id])
    };
    assert!(delete(marker["VersionId"].as_str().unwrap()).contains("\"DeleteMarker\": true"));
    assert!(aws.list(INPUT_BUCKET).contains(key), "without its marker it is back");
    delete(ids[0]);
    let listed = versions_of(aws, key);
    let left: Vec<_> = listed["Versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["VersionId"], &one["IsLatest"]))
        .collect();
    assert_eq!(left, [(&Value::from(ids[1]), &Value::from(true))]);
}

/// Runs the lines of `docs/local-stack.md` as a shell does.
fn the_space_of_old_versions_is_freed_as_documented(aws: &Aws<'_>) {
    let page = std::fs::read_to_string(project("docs/local-stack.md")).unwrap();
    let from = page.find("aws s3api list-object-versions --bucket").expect("the command");
    let script = page[from..].split("\n```").next().unwrap();
    let image = project("sample-images/slide-001-healthy/cell-01.png");
    for key in ["old/replaced.png", "old/replaced.png", "old/deleted.png"] {
        aws.run(&["s3", "cp", image.to_str().unwrap(), &format!("s3://{INPUT_BUCKET}/{key}")]);
    }
    aws.run(&["s3", "rm", &format!("s3://{INPUT_BUCKET}/old/deleted.png")]);
    aws.stack.wait_until_answered();
    let before = aws.list(INPUT_BUCKET);
    let listed = versions_of(aws, "old/");
    let count = |what: &str| listed[what].as_array().map_or(0, Vec::len);
    assert_eq!((count("Versions"), count("DeleteMarkers")), (3, 1), "{listed}");

    let everything = versions_of(aws, "");
    let old =
        everything["Versions"].as_array().unwrap().iter().filter(|version| version["IsLatest"] == false);
    let expected = old.count() + everything["DeleteMarkers"].as_array().map_or(0, Vec::len);
    assert!(expected >= 3, "one replaced, one deleted and its marker: {everything}");

    let output = aws.prepared(Command::new("sh")).args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected.to_string(), "{script}");
    let listed = versions_of(aws, "");
    assert!(listed.get("DeleteMarkers").is_none(), "{listed}");
    let all_latest = listed["Versions"].as_array().unwrap().iter().all(|version| version["IsLatest"] == true);
    assert!(all_latest, "{listed}");
    assert_eq!(aws.list(INPUT_BUCKET), before, "what is there stays, what is deleted does not come back");
}

fn a_model_is_replaced_by_a_copy(aws: &Aws<'_>, folder: &Path) {
    // The same network under another digest: field 6 of ONNX's ModelProto is a comment.
    let mut model = std::fs::read(project("models/thin-smear.onnx")).unwrap();
    model.extend([0x32, 4]);
    model.extend(b"test");
    let file = folder.join("model.onnx");
    std::fs::write(&file, &model).unwrap();
    aws.run(&["s3", "cp", file.to_str().unwrap(), &format!("s3://{MODEL_BUCKET}/dev/model.onnx")]);
    let report = format!("reports/{}.json", sha256_hex(&model));
    wait_for("the golden report", || aws.list(MODEL_BUCKET).contains(&report).then_some(()));
    aws.run(&[
        "s3",
        "cp",
        &format!("s3://{MODEL_BUCKET}/dev/model.onnx"),
        &format!("s3://{MODEL_BUCKET}/prod/model.onnx"),
    ]);
    let image = "sample-images/slide-001-healthy/cell-01.png";
    aws.run(&["s3", "cp", image, &format!("s3://{INPUT_BUCKET}/after/cell.png")]);
    aws.stack.wait_until_answered();
    assert_eq!(aws.only_record("after").model.sha256, sha256_hex(&model));

    aws.run(&["s3", "cp", "models/thin-smear.onnx", &format!("s3://{MODEL_BUCKET}/prod/model.onnx")]);
    aws.run(&["s3", "cp", image, &format!("s3://{INPUT_BUCKET}/back/cell.png")]);
    aws.stack.wait_until_answered();
    let first = std::fs::read(project("models/thin-smear.onnx")).unwrap();
    assert_eq!(aws.only_record("back").model.sha256, sha256_hex(&first));
    wait_for("the dashboard to name the model", || {
        let serving = aws.stack.model("prod")["model"]["sha256"] == sha256_hex(&first).as_str();
        serving.then_some(())
    });

    // A broken model is refused, and the last good one goes on.
    aws.run(&["s3", "cp", "Cargo.toml", &format!("s3://{MODEL_BUCKET}/prod/model.onnx")]);
    aws.run(&["s3", "cp", image, &format!("s3://{INPUT_BUCKET}/broken/cell.png")]);
    aws.stack.wait_until_answered();
    assert_eq!(aws.only_record("broken").model.sha256, sha256_hex(&first));
}

fn a_dead_letter_is_handled_by_hand(aws: &Aws<'_>) {
    // Version 1 of the client goes to AWS with requests for SQS, whatever AWS_ENDPOINT_URL_SQS says.
    let exports = aws.stack.exports();
    let endpoint = exports.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL_SQS").expect("it is printed");
    let global = ["--output", "json", "--endpoint-url", endpoint.1.as_str(), "sqs"];
    let sqs = |arguments: &[&str]| aws.run(&[&global[..], arguments].concat());
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let urls = read(&sqs(&["list-queues", "--queue-name-prefix", "classify-prod"]));
    let urls: Vec<&str> =
        urls["QueueUrls"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
    let [main, dead] = urls[..] else { panic!("{urls:?}") };
    assert!(
        main.ends_with("/000000000000/classify-prod") && dead.ends_with("/000000000000/classify-prod-dlq")
    );
    assert_eq!(read(&sqs(&["get-queue-url", "--queue-name", "classify-prod-dlq"]))["QueueUrl"], dead);

    // The client checks the digests of what it sends and receives.
    let entries = r#"[{"Id":"a","MessageBody":"first \u00fc"},{"Id":"b","MessageBody":"second"}]"#;
    let sent = read(&sqs(&["send-message-batch", "--queue-url", dead, "--entries", entries]));
    assert_eq!(sent["Successful"].as_array().unwrap().len(), 2, "{sent}");
    let receive = ["receive-message", "--queue-url", dead, "--max-number-of-messages", "10"];
    let receive = [&receive[..], &["--attribute-names", "All", "--message-attribute-names", "All"]].concat();
    let received = read(&sqs(&receive));
    let messages = received["Messages"].as_array().unwrap();
    assert_eq!((messages[0]["Body"].as_str(), messages.len()), (Some("first ü"), 2), "{received}");
    assert_eq!(messages[0]["Attributes"]["ApproximateReceiveCount"], "1", "{received}");
    let counts = ["get-queue-attributes", "--queue-url", dead, "--attribute-names", "All"];
    assert_eq!(read(&sqs(&counts))["Attributes"]["ApproximateNumberOfMessagesNotVisible"], "2");

    let receipt = |index: usize| messages[index]["ReceiptHandle"].as_str().unwrap();
    sqs(&["delete-message", "--queue-url", dead, "--receipt-handle", receipt(0)]);
    let show = ["change-message-visibility", "--queue-url", dead, "--visibility-timeout", "0"];
    sqs(&[&show[..], &["--receipt-handle", receipt(1)]].concat());
    let attributes = read(&sqs(&counts));
    assert_eq!(attributes["Attributes"]["ApproximateNumberOfMessages"], "1", "{attributes}");
    sqs(&["purge-queue", "--queue-url", dead]);
    assert_eq!(read(&sqs(&counts))["Attributes"]["ApproximateNumberOfMessages"], "0");

    let output = aws.output(&[&global[..], &["get-queue-url", "--queue-name", "nobody"]].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("NonExistentQueue"), "{message}");
}
