//! Models and processes that end: whatever happens to the one stage, the other one, the queues and the dashboard go on.
//!
//! The model that aborts is a real one, which the process of its stage is told to abort for. What was uploaded is
//! answered in the end.

use std::collections::BTreeSet;
use std::path::Path;

use aws_sdk_s3::primitives::ByteStream;
use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::{GateReport, report_key};
use giemsa_local::{INPUT_BUCKET, MODEL_BUCKET, TABLE};
use giemsa_store::TableReader;
use giemsa_store::aws::Clients;

use giemsa_tests::lab::{sample_model, sample_model_with, uninfected_cell};
use giemsa_tests::running_stack::{RunningStack, send_signal, wait_for};

/// More than a batch.
const UPLOADS: usize = 14;

async fn put(clients: &Clients, bucket: &str, key: &str, bytes: Vec<u8>) {
    clients.s3.put_object().bucket(bucket).key(key).body(ByteStream::from(bytes)).send().await.unwrap();
}

async fn upload(clients: &Clients) -> Vec<String> {
    let keys: Vec<String> = (0..UPLOADS).map(|number| format!("s/{number}.png")).collect();
    for key in &keys {
        put(clients, INPUT_BUCKET, key, uninfected_cell()).await;
    }
    keys
}

/// Waits until a stage has answered all, and returns by which models.
async fn wait_until_answered(stack: &RunningStack, stage: &str, keys: &[String]) -> BTreeSet<String> {
    let clients = stack.clients();
    let table = TableReader::new(clients.dynamodb.clone(), TABLE);
    let mut models = BTreeSet::new();
    for key in keys {
        let asked = async {
            loop {
                let image = table.image(INPUT_BUCKET, key, &[stage]).await.unwrap();
                if let Some(record) = image.results.first() {
                    return record.model.sha256.clone();
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let answered = tokio::time::timeout(giemsa_tests::running_stack::PATIENCE, asked).await;
        models.insert(answered.unwrap_or_else(|_| panic!("{stage}: {key} waits\n{}", stack.stderr())));
    }
    models
}

/// Ids of the processes that a stack started, with what they work for.
fn processes(stack_id: u32) -> Vec<(u32, String)> {
    let read = |entry: &Path, name: &str| std::fs::read_to_string(entry.join(name)).ok();
    let of_entry = |entry: &Path| {
        let id: u32 = entry.file_name()?.to_str()?.parse().ok()?;
        let status = read(entry, "status")?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim();
        let arguments = read(entry, "cmdline")?;
        let mut arguments = arguments.split('\0').skip_while(|word| *word != "classifier-process");
        let role = arguments.nth(1)?.to_owned();
        (parent == stack_id.to_string()).then_some((id, role))
    };
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| of_entry(&entry.unwrap().path())).collect()
}

fn process_of(stack: &RunningStack, role: &str) -> Option<u32> {
    processes(stack.process_id()).into_iter().find(|(_, of)| of == role).map(|(id, _)| id)
}

fn refusal(stack: &RunningStack, stage: &str) -> Option<String> {
    stack.model(stage)["refused"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_aborts_ends_its_own_process_twice_and_is_refused_while_all_else_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let bad = sample_model_with("giemsa.version", "aborts");
    let fault = format!("abort-model={}", &sha256_hex(&bad)[..12]);
    let sentence = "this model ended its process twice (the last time by SIGABRT, at ";
    let keys = {
        let stack = RunningStack::start(folder.path(), &["--faults", &fault]);
        let clients = stack.clients();
        put(&clients, MODEL_BUCKET, "dev/model.onnx", bad.clone()).await;
        let keys = upload(&clients).await;
        let by = wait_until_answered(&stack, "prod", &keys).await;
        assert_eq!(by, BTreeSet::from([sha256_hex(&sample_model())]));
        let refused = wait_for("the model to be refused", || refusal(&stack, "dev"));
        assert!(refused.contains(sentence), "{refused}");
        assert!(
            refused.ends_with(
                "it is refused until another model file is copied to s3://giemsa-models/dev/model.onnx"
            ),
            "{refused}"
        );
        assert!(stack.stderr().matches("the process of dev was ended by SIGABRT").count() >= 2);
        // The gate tried it, too, and says the same.
        wait_for("a report", || stack.stderr().contains("model failed the golden gate").then_some(()));
        let got = clients.s3.get_object().bucket(MODEL_BUCKET).key(report_key(&sha256_hex(&bad)));
        let json = got.send().await.unwrap().body.collect().await.unwrap().into_bytes();
        let report: GateReport = serde_json::from_slice(&json).unwrap();
        assert!(!report.passed && report.failures[0].contains(sentence), "{:?}", report.failures);
        // Each upload waits or has waited, and says why.
        let table = TableReader::new(clients.dynamodb.clone(), TABLE);
        let notes = table.failures_listed("dev", UPLOADS).await.unwrap();
        assert!(!notes.is_empty());
        for note in &notes {
            assert!(note.reason.contains("SIGABRT"), "{note:?}");
        }
        assert!(refusal(&stack, "prod").is_none());
        assert_eq!(stack.stop("TERM").0.code(), Some(0));
        keys
    };
    // A restart changes nothing, and neither does another copy of the same bytes.
    let stack = RunningStack::start(folder.path(), &["--faults", &fault]);
    let clients = stack.clients();
    put(&clients, MODEL_BUCKET, "dev/model.onnx", bad).await;
    put(&clients, INPUT_BUCKET, "s/late.png", uninfected_cell()).await;
    let late = ["s/late.png".to_owned()];
    wait_until_answered(&stack, "prod", &late).await;
    wait_for("the model to be refused again", || refusal(&stack, "dev").filter(|why| why.contains(sentence)));
    assert!(!stack.stderr().contains("was ended by"), "{}", stack.stderr());
    // Another file answers what waited; nothing was given up meanwhile.
    let good = sample_model_with("giemsa.version", "good");
    put(&clients, MODEL_BUCKET, "dev/model.onnx", good.clone()).await;
    for keys in [&keys[..], &late] {
        let by = wait_until_answered(&stack, "dev", keys).await;
        assert!(by.contains(&sha256_hex(&good)), "{by:?}");
    }
    assert!(refusal(&stack, "dev").is_none());
    let health = stack.get_json("/api/health");
    for stage in health["stages"].as_array().unwrap() {
        assert_eq!(stage["queue"]["dead_letters"], 0, "{health}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_is_started_again_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &[]);
    let keys = upload(&stack.clients()).await;
    let first = process_of(&stack, "prod").expect("production has a process");
    send_signal(first, "KILL");
    let by = wait_until_answered(&stack, "prod", &keys).await;
    assert_eq!(by, BTreeSet::from([sha256_hex(&sample_model())]));
    put(&stack.clients(), INPUT_BUCKET, "s/after.png", uninfected_cell()).await;
    wait_until_answered(&stack, "prod", &["s/after.png".to_owned()]).await;
    let second = process_of(&stack, "prod").expect("it was started again");
    assert_ne!(first, second);
    assert!(refusal(&stack, "prod").is_none());
    stack.wait_until_answered();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_outlives_the_stack() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &[]);
    wait_for("both stages", || process_of(&stack, "prod").zip(process_of(&stack, "dev")));
    let of_stack = processes(stack.process_id());
    send_signal(stack.process_id(), "KILL");
    for (id, role) in of_stack {
        wait_for(&format!("the process of {role} to end"), || {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // Gone, or waiting for somebody to ask how it ended.
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }
}
