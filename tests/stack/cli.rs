//! The `giemsa` command as its users meet it: a process with arguments, output and an exit code.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Output, Stdio};

use aws_sdk_s3::primitives::ByteStream;
use giemsa_core::record::{Record, Status};
use giemsa_local::{INPUT_BUCKET, RESULTS_BUCKET, TABLE};
use giemsa_store::TableReader;
use giemsa_store::aws::Clients;
use giemsa_tests::running_stack::{
    PATIENCE, RunningStack, collect, files_below, giemsa, project, send_signal, up, wait_for, wait_for_exit,
};

const HEALTHY: &str = "sample-images/slide-001-healthy";
const TROUBLE: &str = "sample-images/slide-005-trouble";

fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Output {
    giemsa().current_dir(project(".")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Asserts an exit code and what the message has to say.
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

fn one_cell() -> Vec<u8> {
    std::fs::read(project(HEALTHY).join("cell-01.png")).unwrap()
}

#[test]
fn classify_json_is_one_record_a_line_and_rejected_is_an_answer() {
    let output = run(["classify", "--format", "json", TROUBLE, HEALTHY]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let records: Vec<Record> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let expected: Vec<String> = [TROUBLE, HEALTHY]
        .iter()
        .flat_map(|folder| {
            files_below(&project(folder)).into_iter().map(move |file| format!("{folder}/{file}"))
        })
        .collect();
    let keys: Vec<&str> = records.iter().map(|record| record.image.key.as_str()).collect();
    assert_eq!(keys, expected, "every file once, in the order of the arguments");
    let rejected = records.iter().filter(|record| record.status == Status::Rejected).count();
    assert!(rejected > 3 && rejected < records.len(), "{rejected} rejected");
}

#[test]
fn classify_table_has_a_line_for_each_file_and_fits_a_terminal() {
    let output = run(["classify", HEALTHY, TROUBLE]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for folder in [HEALTHY, TROUBLE] {
        for file in files_below(&project(folder)) {
            assert!(stdout(&output).contains(&file), "{file} is not in\n{}", stdout(&output));
        }
    }
    let widest = stdout(&output).lines().max_by_key(|line| line.chars().count()).unwrap();
    assert!(widest.chars().count() <= 100, "{widest}");
    let slides = stdout(&output).split("parasitemia").nth(1).expect("the table of slides");
    assert!(slides.contains("slide-001-healthy") && slides.contains("0.0 %"), "{slides}");
}

#[test]
fn classify_csv_starts_no_formula() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("=cmd().png"), one_cell()).unwrap();
    std::fs::create_dir(folder.path().join("+slide")).unwrap();
    std::fs::write(folder.path().join("+slide/@cell, \"1\".png"), one_cell()).unwrap();
    let output = giemsa()
        .current_dir(folder.path())
        .args(["classify", "--format", "csv", "=cmd().png", "+slide"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let mut reader = csv::Reader::from_reader(stdout(&output).as_bytes());
    let column = |name: &str, header: &csv::StringRecord| header.iter().position(|h| h == name).unwrap();
    let header = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let keys: Vec<&str> = rows.iter().map(|row| &row[column("key", &header)]).collect();
    assert_eq!(keys, ["'=cmd().png", "'+slide/@cell, \"1\".png"]);
    assert_eq!(&rows[1][column("slide", &header)], "'+slide");
    assert!(
        rows.iter().flatten().all(|cell| !cell.starts_with(['=', '+', '-', '@', '\t', '\r'])),
        "{rows:?}"
    );
}

#[test]
fn classify_shows_outliers_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let blank = folder.path().join("blank.png");
    image::RgbImage::from_pixel(30, 25, image::Rgb([230, 205, 214])).save(&blank).unwrap();
    let classify = |model: &str, format: &str, image: &Path| {
        let model = format!("tests/data/golden/{model}.onnx");
        let arguments = ["classify", "--model", &model, "--format", format].map(OsStr::new);
        run(arguments.into_iter().chain([image.as_os_str(), "tests/data/golden/field.png".as_ref()]))
    };
    let reason = "does not look like the images the model was trained on (outlier score 0.982014, limit 0.5)";

    let json = classify("toy_outlier", "json", &blank);
    let records: Vec<Record> =
        stdout(&json).lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(records[0].review_reason.as_ref().unwrap().starts_with(reason), "{:?}", records[0]);
    assert_eq!((records[0].outlier_score, records[0].outlier), (Some(0.982014), Some(true)));
    assert_eq!((records[1].outlier, records[1].needs_review), (Some(false), false));

    let csv = classify("toy_outlier", "csv", &blank);
    let mut reader = csv::Reader::from_reader(stdout(&csv).as_bytes());
    let rows: Vec<std::collections::BTreeMap<String, String>> =
        reader.deserialize().map(Result::unwrap).collect();
    assert_eq!((rows[0]["outlier_score"].as_str(), rows[0]["outlier"].as_str()), ("0.982014", "true"));
    assert!(rows[0]["review_reason"].starts_with(reason), "{rows:?}");
    assert_eq!(rows[1]["outlier"], "false");
    let csv = classify("toy_nchw", "csv", &blank);
    let mut reader = csv::Reader::from_reader(stdout(&csv).as_bytes());
    let silent: std::collections::BTreeMap<String, String> = reader.deserialize().next().unwrap().unwrap();
    assert_eq!((silent["outlier_score"].as_str(), silent["outlier"].as_str()), ("", ""));

    let table = classify("toy_outlier", "table", &blank);
    assert!(stdout(&table).contains("review: does not look like the images"), "{}", stdout(&table));

    // A network that fails on one image answers the others, and that is said.
    let green = folder.path().join("green.png");
    image::RgbImage::from_pixel(8, 8, image::Rgb([0, 77, 0])).save(&green).unwrap();
    let failed = classify("toy_gaps", "json", &green);
    assert_fails(&failed, 1, &["green.png cannot be classified", "the outlier score NaN", "1 of 2 files"]);
}

#[test]
fn wrong_usage_ends_with_2_and_says_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap();
    assert_fails(&run(["classify", "no-such-folder"]), 2, &["no-such-folder", "does not exist", "expected"]);
    assert_fails(&run(["classify"]), 2, &["PATH"]);
    assert_fails(&run(["classify", "--colour", HEALTHY]), 2, &["--colour"]);
    assert_fails(&run(["classify", "--format", "xml", HEALTHY]), 2, &["xml", "table", "json", "csv"]);
    assert_fails(&run(["classify", "/dev/null"]), 2, &["/dev/null", "neither a file nor a folder"]);
    assert_fails(&run(["classify", empty]), 2, &["no files"]);
    assert_fails(
        &run(["classify", "--model", "no.onnx", HEALTHY]),
        2,
        &["--model no.onnx", "cannot be read"],
    );
    assert_fails(&run(["classify", "--model", empty, HEALTHY]), 2, &["--model", empty, "cannot be read"]);
    assert_fails(
        &run(["classify", "--model", "Cargo.toml", HEALTHY]),
        2,
        &["--model Cargo.toml", "cannot be used", "ONNX"],
    );
    assert_fails(&run(["up", "--s3-port", "65536"]), 2, &["65536", "--s3-port"]);
    assert_fails(
        &run(["up", "--data-dir", empty, "--s3-port", "7001", "--http-port", "7001"]),
        2,
        &["--s3-port and --http-port", "7001"],
    );
    assert_fails(&run(["frobnicate"]), 2, &["frobnicate"]);
}

#[test]
fn limits_of_the_environment_hold_for_files_too() {
    let with = |value| {
        let arguments = ["classify", "--format", "json", HEALTHY];
        giemsa().current_dir(project(".")).env("GIEMSA_MAX_WIDTH_PX", value).args(arguments).output().unwrap()
    };
    let output = with("10");
    assert_eq!(output.status.code(), Some(0));
    let record: Record = serde_json::from_str(stdout(&output).lines().next().unwrap()).unwrap();
    assert_eq!(record.reject.expect("over the limit").code, "too_large");
    assert_fails(&with("many"), 2, &["GIEMSA_MAX_WIDTH_PX", "many"]);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    for format in ["table", "json", "csv"] {
        let mut child = giemsa()
            .current_dir(project("."))
            .args(["classify", "--format", format, HEALTHY, HEALTHY, HEALTHY])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let (messages, reader) = collect(child.stderr.take().unwrap());
        let status = wait_for_exit(&mut child);
        reader.join().unwrap();
        assert!(status.success(), "{format}: {status}");
        assert_eq!(*messages.lock().unwrap(), "", "{format}");
    }
}

#[test]
fn odd_names_and_unreadable_entries_stop_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a b+%2B.png", "esc\u{1b}[31m\u{7}.png", "line\nbreak.png", "é 赤.png", ".hidden.png"] {
        std::fs::write(path(name), one_cell()).unwrap();
    }
    std::os::unix::fs::symlink("nowhere", path("broken\u{1b}[1m.png")).unwrap();
    std::fs::create_dir(path("loop")).unwrap();
    std::os::unix::fs::symlink("..", path("loop/up")).unwrap();
    let mut answered = 4;
    if cfg!(target_os = "linux") {
        // Other systems have no such names.
        std::fs::write(folder.path().join(OsStr::from_bytes(b"latin-\xe9.png")), one_cell()).unwrap();
        answered += 1;
    }
    for format in ["table", "json", "csv"] {
        let output =
            run([OsStr::new("classify"), "--format".as_ref(), format.as_ref(), folder.path().as_ref()]);
        // One entry has no answer, and that is said; the loop hides nothing.
        assert_fails(&output, 1, &["broken", "cannot be read", "1 of "]);
        for text in [stdout(&output), stderr(&output)] {
            assert!(!text.contains(['\u{1b}', '\u{7}']), "{format}: {text:?}");
        }
        let names = ["a b+%2B.png", "esc", "break.png", "é 赤.png"];
        assert!(names.iter().all(|name| stdout(&output).contains(name)), "{format}: {}", stdout(&output));
        assert!(!stdout(&output).contains(".hidden"), "{format}");
        if format == "json" {
            let records: Vec<Record> =
                stdout(&output).lines().map(|line| serde_json::from_str(line).expect(line)).collect();
            assert_eq!(records.len(), answered);
            assert!(records.iter().all(|record| record.status == Status::Classified), "{records:?}");
        }
    }
}

/// A copy of the folder of bad images with its part of `expected.csv`, each line changed by `change`.
fn samples_copy(change: impl Fn(&str) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let slide = "slide-005-trouble";
    std::fs::create_dir(folder.path().join(slide)).unwrap();
    for file in files_below(&project(TROUBLE)) {
        std::fs::copy(project(TROUBLE).join(&file), folder.path().join(slide).join(&file)).unwrap();
    }
    let expected = std::fs::read_to_string(project("sample-images/expected.csv")).unwrap();
    let lines: Vec<String> = expected
        .lines()
        .filter(|line| ["path,", "expected.csv,", slide].iter().any(|start| line.starts_with(start)))
        .map(change)
        .collect();
    assert!(lines.len() > 4);
    std::fs::write(folder.path().join("expected.csv"), lines.join("\n")).unwrap();
    folder
}

fn demo(samples: &Path) -> Output {
    run([OsStr::new("demo"), "--samples".as_ref(), samples.as_ref()])
}

#[test]
fn demo_answers_all_sample_images_as_expected() {
    let output = run(["demo"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let files = files_below(&project("sample-images")).into_iter().filter(|name| !name.contains("/."));
    assert!(stdout(&output).contains(&format!("All {} files ended as expected", files.count())));
    assert!(stdout(&output).contains("parasitemia"));
}

#[test]
fn demo_fails_on_another_answer_and_names_the_file() {
    let wrong = samples_copy(|line| {
        line.replace("notes.txt,rejected,,not_an_image", "notes.txt,classified,uninfected,")
    });
    let expected = "slide-005-trouble/notes.txt: expected uninfected, found rejected: not_an_image";
    assert_fails(&demo(wrong.path()), 1, &[expected, "1 of "]);

    let missing = samples_copy(str::to_owned);
    std::fs::remove_file(missing.path().join("slide-005-trouble/notes.txt")).unwrap();
    assert_fails(&demo(missing.path()), 1, &["notes.txt", "cannot be read"]);
}

#[test]
fn demo_checks_whether_review_is_asked_for_where_the_row_says_so() {
    let cell = "slide-005-trouble/cell-01.png";
    let with_review = |label: &str, review: &str| {
        samples_copy(|line| match line.starts_with(cell) {
            true => format!("{cell},classified,{label},,{review}"),
            false => line.to_owned(),
        })
    };
    let (yes, no) = (demo(with_review("", "yes").path()), demo(with_review("", "no").path()));
    // Which of the two it is, is the model's affair; it cannot be both.
    let (failed, expected, found) = match yes.status.success() {
        true => (&no, "any label, not to be reviewed", ", to be reviewed"),
        false => (&yes, "any label, to be reviewed", ", not to be reviewed"),
    };
    assert_ne!(yes.status.success(), no.status.success());
    assert_fails(failed, 1, &[&format!("{cell}: expected {expected}, found uninfected{found}"), "1 of "]);
    assert!(demo(with_review("uninfected", "").path()).status.success());
    assert_fails(&demo(with_review("parasitized", "").path()), 1, &[cell, "expected parasitized, found"]);
    assert_fails(
        &demo(with_review("", "maybe").path()),
        2,
        &["expected.csv", "needs_review (yes, no or empty)"],
    );
}

#[test]
fn demo_needs_an_expected_csv_for_every_file_but_hidden_ones() {
    let folder = tempfile::tempdir().unwrap();
    assert_fails(&demo(folder.path()), 2, &["expected.csv", "--samples"]);
    std::fs::write(folder.path().join("expected.csv"), "path,status,label,reject_code\n").unwrap();
    assert_fails(&demo(folder.path()), 2, &["expected.csv", "lists no file"]);
    std::fs::write(folder.path().join("expected.csv"), "file,answer\na.png,ok\n").unwrap();
    assert_fails(&demo(folder.path()), 2, &["expected.csv", "path,status,label,reject_code"]);

    let samples = samples_copy(str::to_owned);
    std::fs::write(samples.path().join("slide-005-trouble/.DS_Store"), "").unwrap();
    assert!(demo(samples.path()).status.success());
    std::fs::write(samples.path().join("slide-005-trouble/new.png"), one_cell()).unwrap();
    assert_fails(&demo(samples.path()), 2, &["no line for", "slide-005-trouble/new.png"]);
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (flag, others) in [
        ("--s3-port", ["--dynamodb-port", "--sqs-port", "--http-port"]),
        ("--dynamodb-port", ["--s3-port", "--sqs-port", "--http-port"]),
        ("--sqs-port", ["--s3-port", "--dynamodb-port", "--http-port"]),
        ("--http-port", ["--s3-port", "--dynamodb-port", "--sqs-port"]),
    ] {
        let output = giemsa()
            .args(["up", "--data-dir"])
            .arg(folder.path())
            .args([flag, &port, others[0], "0", others[1], "0", others[2], "0"])
            .output()
            .unwrap();
        assert_fails(&output, 1, &[&port, flag, "in use"]);
    }
}

#[test]
fn one_data_folder_has_one_stack() {
    let folder = tempfile::tempdir().unwrap();
    let _first = RunningStack::start(folder.path(), &["--no-worker"]);
    let second = up(folder.path(), &[]).output().unwrap();
    assert_fails(&second, 1, &[folder.path().to_str().unwrap(), "in use by another `giemsa up`"]);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_fails(&up(&file, &[]).output().unwrap(), 1, &[file.to_str().unwrap(), "must be a folder"]);
}

#[test]
fn ctrl_c_and_sigterm_end_it_with_success() {
    let folder = tempfile::tempdir().unwrap();
    for signal in ["INT", "TERM"] {
        let stack = RunningStack::start(folder.path(), &[]);
        // Without this the aws client of version 1 has no region, and DynamoDB no answer.
        assert!(stack.exports().contains(&("AWS_DEFAULT_REGION".to_owned(), "us-east-1".to_owned())));
        assert_eq!(
            stack.model("prod")["model"]["version"],
            "2",
            "the model is named before it answers anything"
        );
        let (status, messages) = stack.stop(signal);
        assert_eq!(status.code(), Some(0), "{signal}: {messages}");
        assert!(messages.contains("Stopping"), "{messages}");
        assert!(!messages.contains('\u{1b}'), "colours belong on terminals only: {messages:?}");
    }
}

#[test]
fn up_serves_although_nobody_reads_what_it_prints() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = up(folder.path(), &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let (messages, reader) = collect(child.stderr.take().unwrap());
    wait_for("the model", || messages.lock().unwrap().contains("model loaded").then_some(()));
    assert_eq!(child.try_wait().unwrap(), None);
    send_signal(child.id(), "TERM");
    let status = wait_for_exit(&mut child);
    reader.join().unwrap();
    let messages = messages.lock().unwrap().clone();
    assert_eq!(status.code(), Some(0), "{messages}");
    assert!(!messages.contains("panicked"), "{messages}");
}

async fn upload_samples(clients: &Clients, folder: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for file in files_below(&project("sample-images")) {
        let key = format!("{folder}/{file}");
        let body = ByteStream::from_path(project("sample-images").join(&file)).await.unwrap();
        clients.s3.put_object().bucket(INPUT_BUCKET).key(&key).body(body).send().await.unwrap();
        keys.insert(key);
    }
    keys
}

/// Results of production.
const RESULTS_PREFIX: &str = "results/stage=prod/";

async fn results(clients: &Clients) -> Vec<Record> {
    let mut records = Vec::new();
    let list = clients.s3.list_objects_v2().bucket(RESULTS_BUCKET).prefix(RESULTS_PREFIX);
    let mut pages = list.into_paginator().send();
    while let Some(page) = pages.next().await {
        for object in page.unwrap().contents() {
            let object = clients.s3.get_object().bucket(RESULTS_BUCKET).key(object.key().unwrap());
            let bytes = object.send().await.unwrap().body.collect().await.unwrap().to_vec();
            records.push(serde_json::from_slice(&bytes).unwrap());
        }
    }
    records
}

async fn some_result_is_there(clients: &Clients) -> bool {
    let list = clients.s3.list_objects_v2().bucket(RESULTS_BUCKET).prefix(RESULTS_PREFIX);
    let page = list.max_keys(1).send().await.unwrap();
    !page.contents().is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_every_upload_is_answered_once_and_results_persist() {
    let folder = tempfile::tempdir().unwrap();

    // A backlog first, so that the kill comes while there is work.
    let servers_only = RunningStack::start(folder.path(), &["--no-worker"]);
    let clients = servers_only.clients();
    let mut keys = upload_samples(&clients, "first").await;
    keys.extend(upload_samples(&clients, "second").await);
    assert_eq!(servers_only.unanswered().0, keys.len() as u64);
    assert!(!some_result_is_there(&clients).await);
    assert_eq!(servers_only.stop("TERM").0.code(), Some(0));

    let killed = RunningStack::start(folder.path(), &[]);
    wait_for("the number of what waits", || {
        killed.stdout().contains(&format!("Continuing with {} uploads", keys.len())).then_some(())
    });
    let clients = killed.clients();
    let first_result = async {
        while !some_result_is_there(&clients).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, first_result).await.expect("a first result");
    killed.stop("KILL");

    let again = RunningStack::start(folder.path(), &[]);
    wait_for("what was not answered", || again.stdout().contains("Continuing with").then_some(()));
    again.wait_until_answered();
    let clients = again.clients();
    let records = results(&clients).await;
    let answered: BTreeSet<String> = records.iter().map(|record| record.image.key.clone()).collect();
    assert_eq!(answered, keys);
    assert_eq!(records.len(), keys.len(), "one result for each image, whatever was done twice");
    again.stop("INT");

    let later = RunningStack::start(folder.path(), &["--no-worker"]);
    assert_eq!(later.unanswered().0, 0);
    assert!(!later.stdout().contains("Continuing"), "{}", later.stdout());
    let clients = later.clients();
    assert_eq!(results(&clients).await, records);
    let table = TableReader::new(clients.dynamodb.clone(), TABLE);
    for record in &records {
        let mut stored = table
            .image(INPUT_BUCKET, &record.image.key, &giemsa_config::DEFAULT_STAGES)
            .await
            .unwrap()
            .results;
        stored.retain(|record| record.stage == "prod");
        assert_eq!(stored.len(), 1, "{}", record.image.key);
        assert_eq!(stored[0].without_times(), *record);
    }
}
