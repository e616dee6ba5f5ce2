//! `giemsa backfill` against a running stack: what is in the bucket is answered, live uploads go first, and it can be
//! ended in any way.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use aws_sdk_s3::primitives::ByteStream;
use chrono::{DateTime, Utc};
use giemsa_config::BACKFILL_PREFIX;
use giemsa_core::digest::sha256_hex;
use giemsa_local::{INPUT_BUCKET, RESULTS_BUCKET, TABLE, credentials};
use giemsa_ops::backfill::{MarkState, RunMark};
use giemsa_store::aws::Clients;
use giemsa_store::queues::QueueClient;
use giemsa_store::{ImageKey, TableReader};
use giemsa_tests::lab::uninfected_cell;
use giemsa_tests::running_stack::{
    PATIENCE, RunningStack, giemsa, project, send_signal, wait_for, wait_for_exit,
};
use serde_json::Value;

/// The command in the environment that the stack tells its users to export.
fn command(stack: &RunningStack, arguments: &[&str]) -> Command {
    let mut command = giemsa();
    for name in ["AWS_ENDPOINT_URL", "AWS_PROFILE", "GIEMSA_BATCH_ROLE_ARN", "GIEMSA_BACKFILL_FUNCTION_ARN"] {
        command.env_remove(name);
    }
    command.current_dir(project(".")).arg("backfill").args(arguments).envs(stack.exports());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn run(stack: &RunningStack, arguments: &[&str], code: i32) -> Output {
    let output = command(stack, arguments).output().unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    output
}

fn run_json(stack: &RunningStack, arguments: &[&str], code: i32) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let output = run(stack, &arguments, code);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stdout)))
}

async fn queue(stack: &RunningStack, name: &str) -> QueueClient {
    let exports = stack.exports();
    let url = &exports.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL_SQS").unwrap().1;
    QueueClient::at(url, credentials(), name).await.unwrap()
}

async fn waiting(stack: &RunningStack, name: &str) -> u64 {
    queue(stack, name).await.depth().await.unwrap().total()
}

async fn put(clients: &Clients, key: &str, bytes: Vec<u8>) {
    let request = clients.s3.put_object().bucket(INPUT_BUCKET).key(key).body(ByteStream::from(bytes));
    request.send().await.unwrap();
}

/// A stack whose bucket holds images that nobody was told of, as one that was filled before it was watched.
async fn with_old_images(data_dir: &Path, keys: &[String], more: &[&str]) -> RunningStack {
    {
        let stack = RunningStack::start(data_dir, &["--no-worker"]);
        let clients = stack.clients();
        for key in keys {
            put(&clients, key, uninfected_cell()).await;
        }
        for name in ["classify-prod", "classify-dev"] {
            queue(&stack, name).await.purge().await.unwrap();
        }
        stack.stop("TERM");
    }
    RunningStack::start(data_dir, more)
}

fn keys(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{prefix}{index:04}.png")).collect()
}

/// When each image below a folder was answered in production.
async fn answered(stack: &RunningStack, folder: &str) -> BTreeMap<String, DateTime<Utc>> {
    let table = TableReader::new(stack.clients().dynamodb, TABLE);
    let records = table.whole_slide("prod", folder).await.unwrap();
    records.into_iter().map(|record| (record.image.key, record.classified_at.unwrap())).collect()
}

async fn wait_for_answers(stack: &RunningStack, folder: &str, count: usize) {
    let asked = async {
        while answered(stack, folder).await.len() < count {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{count}: {}", stack.stderr()));
}

/// Ends with the test, however the test ends.
struct Running(Child);

impl Running {
    fn start(stack: &RunningStack, arguments: &[&str]) -> Self {
        Self(command(stack, arguments).spawn().unwrap())
    }

    fn end(mut self) -> (Option<i32>, String, String) {
        wait_for_exit(&mut self.0);
        let read = |pipe: &mut dyn std::io::Read| {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        };
        let stdout = read(self.0.stdout.as_mut().unwrap());
        let stderr = read(self.0.stderr.as_mut().unwrap());
        (self.0.wait().unwrap().code(), stdout, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_was_told_of_is_counted_priced_and_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = keys("old/", 12);
    old.extend(["old/with space+plus,\"quotes\" é%20.png".to_owned(), "other/1.png".to_owned()]);
    let stack = with_old_images(folder.path(), &old, &[]).await;
    let clients = stack.clients();
    clients.s3.put_object().bucket(INPUT_BUCKET).key("old/").send().await.unwrap();
    put(&clients, "old/no-image.png", b"not an image".to_vec()).await;
    stack.wait_until_answered();
    assert_eq!(answered(&stack, "old").await.len(), 1, "the one that is new");

    let refused = run(&stack, &["--prefix", "old/"], 2);
    let stdout = text(&refused.stdout);
    for part in ["13 of 14 images of s3://giemsa-input/old/ have no result", "Price  0 USD", "Time   about"] {
        assert!(stdout.contains(part), "{part:?} is not in {stdout}");
    }
    assert!(text(&refused.stderr).contains("--yes"), "{}", text(&refused.stderr));
    let plan = run_json(&stack, &["--prefix", "old/"], 2);
    assert_eq!((&plan["pending"], &plan["images"], &plan["outcome"]), (&13.into(), &14.into(), &Value::Null));
    assert_eq!((&plan["way"], &plan["price"]["total_usd"]), (&"local".into(), &0.0.into()));
    assert_eq!(answered(&stack, "old").await.len(), 1, "nothing was started");

    let before = answered(&stack, "old").await;
    let done = run_json(&stack, &["--prefix", "old/", "--yes"], 0);
    assert_eq!(done["outcome"]["completed"], true, "{done}");
    assert_eq!(done["outcome"]["left"], 0, "{done}");
    let after = answered(&stack, "old").await;
    assert_eq!(after.len(), 14, "{after:?}");
    assert_eq!(after["old/no-image.png"], before["old/no-image.png"], "what has an answer keeps it");
    assert_eq!(answered(&stack, "other").await.len(), 0, "another prefix");
    let history = TableReader::new(clients.dynamodb.clone(), TABLE)
        .image(INPUT_BUCKET, "old/0000.png", &giemsa_config::DEFAULT_STAGES)
        .await;
    let stages: Vec<String> = history.unwrap().results.into_iter().map(|record| record.stage).collect();
    assert_eq!(stages, ["prod"], "the other stage was not asked for");
    let again = run(&stack, &["--prefix", "old/", "--yes"], 0);
    assert!(text(&again.stdout).contains("nothing to do"), "{}", text(&again.stdout));
    assert_eq!(answered(&stack, "old").await, after);

    let recent = run_json(&stack, &["--since", "1h"], 2);
    assert_eq!((&recent["pending"], &recent["images"]), (&1.into(), &15.into()), "{recent}");
    let future = run_json(&stack, &["--since", "2999-01-01"], 0);
    assert_eq!((&future["images"], &future["outcome"]["completed"]), (&0.into(), &true.into()), "{future}");

    // A new model, and all images by it.
    let second = giemsa_tests::lab::sample_model_with("giemsa.version", "2");
    let sha256 = sha256_hex(&second);
    let model = clients.s3.put_object().bucket("giemsa-models").body(ByteStream::from(second));
    model.key("dev/model.onnx").send().await.unwrap();
    let wrong = run(&stack, &["--model-digest", &sha256, "--yes"], 1);
    for part in
        ["prod serves the model", &sha256_hex(&giemsa_tests::lab::sample_model()), "promote", "--stage"]
    {
        assert!(text(&wrong.stderr).contains(part), "{part:?}: {}", text(&wrong.stderr));
    }
    assert!(text(&run(&stack, &["--model-digest", "abc"], 2).stderr).contains("64 hexadecimal digits"));
    let by_model = ["--stage", "dev", "--prefix", "old/", "--model-digest", &sha256];
    let done = run_json(&stack, &[&by_model[..], &["--yes"]].concat(), 0);
    assert_eq!((&done["pending"], &done["outcome"]["left"]), (&14.into(), &0.into()), "{done}");
    let table = TableReader::new(clients.dynamodb.clone(), TABLE);
    for key in old.iter().filter(|key| key.starts_with("old/")) {
        let image = ImageKey { bucket: INPUT_BUCKET.to_owned(), key: key.clone() };
        let (record, _) = table.current(&image, "dev").await.unwrap().unwrap();
        assert_eq!(record.model.sha256, sha256, "{key}");
    }
    assert_eq!(run_json(&stack, &by_model, 0)["pending"], 0);
    let left =
        clients.s3.list_objects_v2().bucket(RESULTS_BUCKET).prefix(format!("{BACKFILL_PREFIX}/")).send();
    assert_eq!(left.await.unwrap().contents().len(), 0, "the mark of the run is taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_upload_is_answered_long_before_the_backfill_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let old = keys("old/", 250);
    let stack = with_old_images(folder.path(), &old, &[]).await;
    let clients = stack.clients();
    let backfill = Running::start(&stack, &["--prefix", "old/", "--yes"]);
    wait_for_answers(&stack, "old", 10).await;
    let before = answered(&stack, "old").await.len();
    put(&clients, "live/1.png", uninfected_cell()).await;
    wait_for_answers(&stack, "live", 1).await;
    let live_at = answered(&stack, "live").await["live/1.png"];
    let (code, stdout, stderr) = backfill.end();
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("250 images answered; 0 left."), "{stdout}");

    let times = answered(&stack, "old").await;
    let earlier = times.values().filter(|at| **at <= live_at).count();
    // Some more while the upload itself was under way, by a machine that may be busy; in one queue it would be all 250.
    assert!(earlier - before <= 40, "{earlier} answered before the live upload, {before} before it was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_is_killed_goes_on_with_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let old = keys("old/", 420);
    let stack = with_old_images(folder.path(), &old, &[]).await;
    let mut backfill = Running::start(&stack, &["--prefix", "old/", "--yes"]);
    wait_for_answers(&stack, "old", 20).await;
    backfill.0.kill().unwrap();
    backfill.0.wait().unwrap();
    let sent = waiting(&stack, "backfill-prod").await as usize + answered(&stack, "old").await.len();
    assert!(sent < old.len(), "killed too late to show anything: {sent} were sent");
    // What was sent is answered by the stack, without the command.
    wait_for("the queue to be empty", || {
        let waiting = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(waiting(&stack, "backfill-prod"))
        });
        (waiting == 0).then_some(())
    });
    let first = answered(&stack, "old").await;
    assert!((20..old.len()).contains(&first.len()), "{}", first.len());

    let done = run_json(&stack, &["--prefix", "old/", "--yes"], 0);
    assert_eq!(done["pending"], old.len() - first.len(), "{done}");
    let all = answered(&stack, "old").await;
    assert_eq!(all.len(), old.len());
    for (key, at) in &first {
        assert_eq!(all[key], *at, "{key} was answered twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_is_stopped_and_live_uploads_stay() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing is answered, so that all that is sent stays to be seen.
    let stack = with_old_images(folder.path(), &keys("old/", 700), &["--no-worker"]).await;
    let clients = stack.clients();
    for index in 0..5 {
        put(&clients, &format!("live/{index}.png"), uninfected_cell()).await;
    }
    let live = waiting(&stack, "classify-prod").await;
    assert_eq!(live, 5);
    let feeding = || async {
        let asked = async {
            while waiting(&stack, "backfill-prod").await < 100 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap();
    };

    let by_command = Running::start(&stack, &["--prefix", "old/", "--yes"]);
    feeding().await;
    let stopped = run_json(&stack, &["--stop"], 0);
    assert!((100..=300).contains(&stopped["dropped"].as_u64().unwrap()), "few wait at once: {stopped}");
    let (code, _, stderr) = by_command.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("stopped after about 0 of 700 images"), "{stderr}");
    assert!(stderr.contains("run the same command again to continue"), "{stderr}");
    assert_eq!(waiting(&stack, "backfill-prod").await, 0);

    let by_signal = Running::start(&stack, &["--prefix", "old/", "--yes"]);
    feeding().await;
    send_signal(by_signal.0.id(), "INT");
    let (code, _, stderr) = by_signal.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!(waiting(&stack, "backfill-prod").await, 0);
    assert_eq!(waiting(&stack, "classify-prod").await, live, "live uploads still wait");
    assert_eq!(waiting(&stack, "backfill-dev").await, 0);
    let nothing = run(&stack, &["--stop", "--stage", "prod"], 0);
    assert!(text(&nothing.stdout).contains("0 waiting images were dropped"), "{}", text(&nothing.stdout));
    run(&stack, &["--stop", "job-1"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_of_a_run_is_its_own() {
    let lab = giemsa_tests::lab::Lab::without_model().await;
    let mark =
        |stage: &str, id: &str| RunMark::new(lab.clients.s3.clone(), giemsa_tests::lab::RESULTS, stage, id);
    let (first, second, dev) = (mark("prod", "1"), mark("prod", "2"), mark("dev", "3"));
    assert_eq!(first.state().await.unwrap(), MarkState::Gone);
    first.set().await.unwrap();
    assert_eq!(first.state().await.unwrap(), MarkState::Own);
    assert_eq!(dev.state().await.unwrap(), MarkState::Gone, "another stage");
    second.set().await.unwrap();
    let states = (first.state().await.unwrap(), second.state().await.unwrap());
    assert_eq!(states, (MarkState::OfAnother, MarkState::Own));
    // Whoever stops the stage knows neither.
    mark("prod", "4").clear().await.unwrap();
    assert_eq!(second.state().await.unwrap(), MarkState::Gone);
}

#[test]
fn without_queues_and_roles_the_way_is_named() {
    let mut command = giemsa();
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_SQS", "GIEMSA_BATCH_ROLE_ARN"] {
        command.env_remove(name);
    }
    for (name, value) in [
        ("GIEMSA_INPUT_BUCKET", "in"),
        ("GIEMSA_MODEL_BUCKET", "models"),
        ("GIEMSA_RESULTS_BUCKET", "out"),
        ("GIEMSA_TABLE", "t"),
        ("AWS_REGION", "us-east-1"),
    ] {
        command.env(name, value);
    }
    let output = command.args(["backfill", "--prefix", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    for part in ["GIEMSA_BATCH_ROLE_ARN", "GIEMSA_BACKFILL_FUNCTION_ARN", "AWS_ENDPOINT_URL_SQS"] {
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
    }
}
