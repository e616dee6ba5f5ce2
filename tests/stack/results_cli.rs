//! `giemsa results` against `giemsa up`: forms, filters, hostile names, and live.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_s3::primitives::ByteStream;
use giemsa_core::record::{Record, Status};
use giemsa_local::INPUT_BUCKET;
use giemsa_tests::parquet_files::HOSTILE;
use giemsa_tests::running_stack::{
    RunningStack, collect, giemsa, project, send_signal, wait_for, wait_for_exit,
};
use serde_json::Value;

/// A slide whose name would be a formula.
const HOSTILE_SLIDE: &str = "=cmd()\u{1b}[2J<script>";

fn results(stack: &RunningStack, arguments: &[&str]) -> Command {
    let mut command = giemsa();
    command.arg("results").args(arguments).envs(stack.exports());
    command
}

fn output(stack: &RunningStack, arguments: &[&str]) -> Output {
    results(stack, arguments).output().unwrap()
}

/// What a command that has to succeed prints.
fn stdout(stack: &RunningStack, arguments: &[&str]) -> String {
    let output = output(stack, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn lines<T: serde::de::DeserializeOwned>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn list(stack: &RunningStack, filters: &[&str]) -> Vec<Record> {
    let arguments = [&["list", "--format", "json", "--limit", "1000"], filters].concat();
    lines(&stdout(stack, &arguments))
}

async fn upload(stack: &RunningStack, key: &str, file: &str) {
    let body = ByteStream::from_path(project("sample-images").join(file)).await.unwrap();
    let put = stack.clients().s3.put_object().bucket(INPUT_BUCKET).key(key).body(body);
    put.send().await.unwrap();
}

/// Uploads images of every kind, some under names that do harm, and returns their keys.
async fn seed(stack: &RunningStack) -> BTreeSet<String> {
    let mut uploads: Vec<(String, String)> = ["slide-003-mixed-forms", "slide-005-trouble", "not-a-cell"]
        .iter()
        .flat_map(|folder| {
            let files = std::fs::read_dir(project("sample-images").join(folder)).unwrap();
            files.map(move |file| format!("{folder}/{}", file.unwrap().file_name().to_str().unwrap()))
        })
        .map(|file| (file.clone(), file))
        .collect();
    for (name, file) in HOSTILE.iter().zip(["cell-01.png", "cell-03.jpg"].iter().cycle()) {
        uploads.push((format!("{HOSTILE_SLIDE}/{name}"), format!("slide-003-mixed-forms/{file}")));
    }
    uploads.push(("without-folder.png".to_owned(), "slide-003-mixed-forms/cell-01.png".to_owned()));
    let (first, second) = uploads.split_at(uploads.len() / 2);
    for (key, file) in first {
        upload(stack, key, file).await;
    }
    // S3 tells times in seconds; without a later one there would be nothing to filter by time.
    tokio::time::sleep(std::time::Duration::from_millis(1_000)).await;
    for (key, file) in second {
        upload(stack, key, file).await;
    }
    stack.wait_until_answered();
    uploads.into_iter().map(|(key, _)| key).collect()
}

fn assert_harmless(text: &str) {
    let harmful = |c: char| (c.is_control() && !"\r\n".contains(c)) || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.contains(harmful), "{text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_found_by_every_filter_and_shown_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &[]);
    assert!(String::from_utf8(output(&stack, &["list"]).stderr).unwrap().contains("No results."));
    let keys = seed(&stack).await;

    let all = list(&stack, &[]);
    assert_eq!(all.iter().map(|record| record.image.key.clone()).collect::<BTreeSet<_>>(), keys);
    assert_eq!(all.len(), keys.len(), "each once");
    assert!(all.is_sorted_by(|a, b| a.image.uploaded_at >= b.image.uploaded_at), "newest first");
    filters(&stack, &all);
    forms(&stack, &all);
    one_image_and_one_slide(&stack, &all);
    counts(&stack, &all);
}

fn filters(stack: &RunningStack, all: &[Record]) {
    let model = all[0].model.sha256.clone();
    // Times are seconds: of the newest one and of others there are some.
    let middle = all[0].image.uploaded_at.unwrap();
    let middle_text = middle.to_rfc3339();
    type Fits<'a> = &'a dyn Fn(&Record) -> bool;
    let cases: [(&[&str], Fits); 11] = [
        (&["--slide", "slide-005-trouble"], &|r| r.slide == "slide-005-trouble"),
        (&["--slide", ""], &|r| r.slide.is_empty()),
        (&["--slide", HOSTILE_SLIDE], &|r| r.slide == HOSTILE_SLIDE),
        (&["--label", "parasitized"], &|r| r.label.as_deref() == Some("parasitized")),
        (&["--status", "rejected"], &|r| r.status == Status::Rejected),
        (&["--status", "classified", "--slide", "slide-005-trouble"], &|r| {
            r.status == Status::Classified && r.slide == "slide-005-trouble"
        }),
        (&["--needs-review"], &|r| r.needs_review),
        (&["--needs-review=false", "--label", "uninfected"], &|r| {
            !r.needs_review && r.label.as_deref() == Some("uninfected")
        }),
        (&["--model", &model], &|_| true),
        (&["--since", &middle_text], &|r| r.image.uploaded_at.unwrap() >= middle),
        (&["--until", &middle_text], &|r| r.image.uploaded_at.unwrap() < middle),
    ];
    for (arguments, fits) in cases {
        let ids =
            |records: Vec<&Record>| records.iter().map(|r| r.result_id.clone()).collect::<BTreeSet<_>>();
        let expected = ids(all.iter().filter(|record| fits(record)).collect());
        assert!(!expected.is_empty(), "{arguments:?} tests nothing");
        let found = list(stack, arguments);
        assert_eq!(ids(found.iter().collect()), expected, "{arguments:?}");
        assert_eq!(found.len(), expected.len(), "{arguments:?}");
    }
    assert_eq!(list(stack, &["--label", "no such label"]), []);
    assert_eq!(list(stack, &["--stage", "dev"]).len(), all.len());

    let suspicious = list(stack, &["--needs-review", "--order", "suspicion"]);
    assert!(suspicious.len() > 3 && suspicious.is_sorted_by(|a, b| a.suspicion() >= b.suspicion()));
    let limited = stdout(stack, &["list", "--format", "json", "--limit", "3"]);
    assert_eq!(lines::<Record>(&limited), all[..3]);
    for (arguments, said) in [
        (&["list", "--order", "suspicion"][..], "ordered by suspicion of one slide"),
        (&["list", "--model", "5f2d"], "64 hexadecimal digits"),
        (&["list", "--status", "fine"], "expected classified or rejected"),
        (&["list", "--since", "yesterday"], "expected a time"),
        (&["compact"], "--date"),
        (&["compact", "--date", "22.11.2026"], "expected a date such as"),
    ] {
        let output = output(stack, arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(said) && output.stdout.is_empty(), "{arguments:?}: {message}");
    }
}

fn forms(stack: &RunningStack, all: &[Record]) {
    let table = stdout(stack, &["list", "--limit", "1000"]);
    assert_harmless(&table);
    assert!(table.contains("=cmd()\u{fffd}[2J<script>/"), "{table}");
    assert!(
        table.lines().any(|line| line.contains("cell-04.tif") && line.contains("parasitized")),
        "{table}"
    );
    assert!(table.lines().any(|line| line.contains("cut-short.jpg") && line.contains("rejected")), "{table}");

    let text = stdout(stack, &["list", "--limit", "1000", "--format", "csv"]);
    assert_harmless(&text);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len(), all.len());
    for (row, record) in rows.iter().zip(all) {
        let cell = |name: &str| row[name].as_str();
        assert!(row.values().all(|cell| !cell.starts_with(['=', '+', '@'])), "{row:?}");
        assert_eq!(cell("result_id"), record.result_id);
        assert_eq!(cell("status"), record.status.as_str());
        assert_eq!(cell("needs_review"), record.needs_review.to_string());
        if record.slide == HOSTILE_SLIDE {
            assert_eq!(cell("slide"), "'=cmd()\u{fffd}[2J<script>");
            assert!(cell("key").starts_with("'=cmd()"), "{}", cell("key"));
        }
    }
}

fn one_image_and_one_slide(stack: &RunningStack, all: &[Record]) {
    for record in all.iter().filter(|record| record.slide == HOSTILE_SLIDE) {
        let key = record.image.key.as_str();
        let shown: Value = serde_json::from_str(&stdout(stack, &["show", "--format", "json", key])).unwrap();
        assert_eq!(shown["key"], key);
        let stages: Vec<&str> =
            shown["results"].as_array().unwrap().iter().map(|r| r["stage"].as_str().unwrap()).collect();
        assert_eq!(stages, ["dev", "prod"]);
        assert_eq!(shown["results"][1], serde_json::to_value(record).unwrap());
    }
    let hostile = all.iter().find(|record| record.slide == HOSTILE_SLIDE).unwrap();
    let text = stdout(stack, &["show", &format!("s3://{INPUT_BUCKET}/{}", hostile.image.key)]);
    assert_harmless(&text);
    assert!(text.contains(&hostile.model.sha256) && text.contains("probabilities"), "{text}");
    let missing = output(stack, &["show", "nothing/here.png"]);
    let said = String::from_utf8(missing.stderr).unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(said.contains("s3://giemsa-input/nothing/here.png has no result"), "{said}");

    let slide = "slide-003-mixed-forms";
    let shown: Value = serde_json::from_str(&stdout(stack, &["slide", slide, "--format", "json"])).unwrap();
    assert_eq!((&shown["slide"], &shown["figure"]["cells"]), (&slide.into(), &20.into()));
    assert_eq!(shown["figure"]["positives"], 11);
    assert!((shown["figure"]["parasitemia_percent"].as_f64().unwrap() - 55.0).abs() < 1e-9);
    let records: Vec<Record> = serde_json::from_value(shown["results"].clone()).unwrap();
    assert_eq!(records.len(), 20);
    assert!(records.is_sorted_by(|a, b| a.suspicion() >= b.suspicion()), "most suspicious first");
    let table = stdout(stack, &["slide", "slide-003-mixed-forms/"]);
    assert!(
        table.contains("55.0 %") && table.contains("34.2–74.2 %") && table.contains("cell-20"),
        "{table}"
    );
    let missing = output(stack, &["slide", "no such slide"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("giemsa results slides"));
}

fn counts(stack: &RunningStack, all: &[Record]) {
    let slides: BTreeSet<&str> = all.iter().map(|record| record.slide.as_str()).collect();
    let listed: Vec<Value> = lines(&stdout(stack, &["slides", "--format", "json"]));
    let names: BTreeSet<&str> = listed.iter().map(|entry| entry["slide"].as_str().unwrap()).collect();
    assert_eq!(names, slides);
    let table = stdout(stack, &["slides"]);
    assert_harmless(&table);
    assert!(table.contains("(no folder)"), "{table}");
    let csv = stdout(stack, &["slides", "--format", "csv", "--search", "TROUBLE"]);
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let rows: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0]["cells"].as_str(), rows[0]["rejected"].as_str()), ("2", "8"));

    let days: Vec<Value> = lines(&stdout(stack, &["summary", "--format", "json"]));
    let rejected = all.iter().filter(|record| record.status == Status::Rejected).count() as u64;
    let sum = |of: &dyn Fn(&Value) -> u64| days.iter().map(of).sum::<u64>();
    assert_eq!(sum(&|day| day["rejected"].as_u64().unwrap()), rejected);
    let labels = |day: &Value| day["labels"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(sum(&labels) + rejected, all.len() as u64);
    let table = stdout(stack, &["summary", "--since", "2d"]);
    assert!(table.lines().next().unwrap().contains("uninfected"), "{table}");
    let csv = stdout(stack, &["summary", "--format", "csv"]);
    assert!(
        csv.starts_with("date,label:parasitized,label:uninfected,rejected,needs_review,total\r\n"),
        "{csv}"
    );
}

/// Passes connections on to a server, until it is told that the server is away.
struct Door {
    address: String,
    is_away: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Door {
    fn before(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (is_away, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (away, streams) = (Arc::clone(&is_away), Arc::clone(&open));
        std::thread::spawn(move || {
            for inside in listener.incoming() {
                let inside = inside.unwrap();
                if away.load(Ordering::SeqCst) {
                    continue;
                }
                let outside = TcpStream::connect(&server).unwrap();
                for (from, to) in [(&inside, &outside), (&outside, &inside)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    streams.lock().unwrap().push(to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let mut buffer = [0; 1 << 14];
                        while let Ok(read) = from.read(&mut buffer)
                            && read > 0
                            && to.write_all(&buffer[..read]).is_ok()
                        {}
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { address, is_away, open }
    }

    fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A running `giemsa results watch`.
struct Watch {
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

impl Watch {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, _) = collect(child.stdout.take().unwrap());
        let (stderr, _) = collect(child.stderr.take().unwrap());
        let watch = Self { child, stdout, stderr };
        watch.wait_for_message("Watching");
        watch
    }

    fn wait_for_message(&self, text: &str) {
        wait_for(text, || self.stderr.lock().unwrap().contains(text).then_some(()));
    }

    /// Waits until it has printed so many results, and returns their keys.
    fn wait_for_results(&self, count: usize) -> Vec<String> {
        wait_for("results", || (self.stdout.lock().unwrap().lines().count() >= count).then_some(()));
        let records: Vec<Record> = lines(&self.stdout.lock().unwrap());
        records.into_iter().map(|record| record.image.key).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_sees_uploads_also_after_the_server_was_away() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &[]);
    upload(&stack, "slide/before.png", "slide-003-mixed-forms/cell-01.png").await;
    stack.wait_until_answered();
    // Answers have the time of the worker's clock, to the millisecond.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;

    let url = stack.exports().into_iter().find(|(name, _)| name == "AWS_ENDPOINT_URL_DYNAMODB").unwrap().1;
    let door = Door::before(url.strip_prefix("http://").unwrap().to_owned());
    let mut command = results(&stack, &["watch", "--interval", "1", "--format", "json"]);
    command.env("AWS_ENDPOINT_URL_DYNAMODB", &door.address);
    let mut watch = Watch::start(command);
    let mut rejected =
        results(&stack, &["watch", "--interval", "1", "--format", "json", "--status", "rejected"]);
    rejected.env("AWS_ENDPOINT_URL_DYNAMODB", &door.address);
    let rejected = Watch::start(rejected);

    upload(&stack, "slide/one.png", "slide-003-mixed-forms/cell-01.png").await;
    assert_eq!(watch.wait_for_results(1), ["slide/one.png"]);

    door.set_away(true);
    watch.wait_for_message("retrying until it works");
    upload(&stack, "slide/two.png", "slide-003-mixed-forms/cell-03.jpg").await;
    upload(&stack, "other/three.txt", "slide-005-trouble/notes.txt").await;
    stack.wait_until_answered();
    door.set_away(false);
    let mut seen = watch.wait_for_results(3);
    seen.sort();
    assert_eq!(seen, ["other/three.txt", "slide/one.png", "slide/two.png"]);
    watch.wait_for_message("Reconnected");

    // The same key again is a new image, and a new result.
    upload(&stack, "slide/one.png", "slide-003-mixed-forms/cell-03.jpg").await;
    assert_eq!(watch.wait_for_results(4)[3], "slide/one.png");
    assert_eq!(rejected.wait_for_results(1), ["other/three.txt"]);

    send_signal(watch.child.id(), "INT");
    assert_eq!(wait_for_exit(&mut watch.child).code(), Some(0), "Ctrl-C is its success");
}
