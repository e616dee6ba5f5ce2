//! `giemsa up` with its two stages: the same uploads, two models, one gate between them.

use std::path::Path;

use aws_sdk_s3::primitives::ByteStream;
use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::{GateReport, report_key};
use giemsa_core::record::Record;
use giemsa_local::{INPUT_BUCKET, MODEL_BUCKET, TABLE};
use giemsa_store::TableReader;
use giemsa_store::aws::Clients;
use giemsa_tests::lab::{file, sample_model, sample_model_with};
use giemsa_tests::running_stack::{PATIENCE, RunningStack, wait_for};

async fn put(clients: &Clients, bucket: &str, key: &str, bytes: Vec<u8>) {
    clients.s3.put_object().bucket(bucket).key(key).body(ByteStream::from(bytes)).send().await.unwrap();
}

async fn report(clients: &Clients, model: &[u8]) -> Option<GateReport> {
    let got =
        clients.s3.get_object().bucket(MODEL_BUCKET).key(report_key(&sha256_hex(model))).send().await.ok()?;
    Some(serde_json::from_slice(&got.body.collect().await.unwrap().into_bytes()).unwrap())
}

async fn wait_for_report(clients: &Clients, model: &[u8]) -> GateReport {
    let asked = async {
        loop {
            if let Some(report) = report(clients, model).await {
                return report;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("a golden report")
}

/// Uploads a cell and waits for the answers of `dev` and `prod`, in this order.
async fn answers(stack: &RunningStack, clients: &Clients, key: &str) -> [Record; 2] {
    put(clients, INPUT_BUCKET, key, giemsa_tests::lab::uninfected_cell()).await;
    let table = TableReader::new(clients.dynamodb.clone(), TABLE);
    let asked = async {
        loop {
            let results =
                table.image(INPUT_BUCKET, key, &giemsa_config::DEFAULT_STAGES).await.unwrap().results;
            if let Ok(both) = <[Record; 2]>::try_from(results) {
                return both;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let both = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{}", stack.stderr()));
    assert_eq!([both[0].stage.as_str(), both[1].stage.as_str()], ["dev", "prod"]);
    both
}

/// The model that the dashboard names for a stage.
fn shown_model(stack: &RunningStack, stage: &str) -> Option<String> {
    stack.model(stage)["model"]["sha256"].as_str().map(str::to_owned)
}

async fn delete_below(clients: &Clients, prefix: &str) -> usize {
    let listed = clients.s3.list_objects_v2().bucket(MODEL_BUCKET).prefix(prefix).send().await.unwrap();
    for object in listed.contents() {
        clients.s3.delete_object().bucket(MODEL_BUCKET).key(object.key().unwrap()).send().await.unwrap();
    }
    listed.contents().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_goes_from_dev_to_prod_by_copies_and_not_past_the_gate() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &[]);
    let clients = stack.clients();
    let (first, second) = (sample_model(), sample_model_with("giemsa.version", "2"));
    let first_report = report(&clients, &first).await.expect("prod serves at once, so its report is there");
    assert!(first_report.passed, "{:?}", first_report.failures);
    assert_eq!(first_report.golden.images.values().sum::<u64>(), golden_images());
    let both = answers(&stack, &clients, "s/1.png").await;
    assert_eq!([&both[0].model.sha256, &both[1].model.sha256], [&sha256_hex(&first); 2]);
    for stage in ["dev", "prod"] {
        assert_eq!(shown_model(&stack, stage), Some(sha256_hex(&first)), "{stage}");
    }

    put(&clients, MODEL_BUCKET, "dev/model.onnx", second.clone()).await;
    let second_report = wait_for_report(&clients, &second).await;
    assert!(second_report.passed, "{:?}", second_report.failures);
    let production = second_report.production.expect("it was compared");
    assert_eq!((production.sha256, production.differences.len()), (sha256_hex(&first), 0));
    let both = answers(&stack, &clients, "s/2.png").await;
    assert_eq!([&both[0].model.version, &both[1].model.sha256], ["2", &sha256_hex(&first)]);
    assert_eq!(shown_model(&stack, "dev"), Some(sha256_hex(&second)));
    assert_eq!(shown_model(&stack, "prod"), Some(sha256_hex(&first)));

    // Past the gate nothing comes.
    put(&clients, MODEL_BUCKET, "prod/model.onnx", sample_model_with("giemsa.version", "3")).await;
    let both = answers(&stack, &clients, "s/3.png").await;
    assert_eq!(both[1].model.sha256, sha256_hex(&first));
    // The classifier's process says so when the batch has ended, which is after its images are answered.
    let refused = wait_for("the refusal", || stack.model("prod")["refused"].as_str().map(ToOwned::to_owned));
    assert!(refused.contains("was not tried on the golden set"), "{refused}");
    assert!(stack.model("dev")["refused"].is_null());
    wait_for("the log to say so", || {
        stack.stderr().contains("was not tried on the golden set").then_some(())
    });

    put(&clients, MODEL_BUCKET, "prod/model.onnx", second.clone()).await;
    let both = answers(&stack, &clients, "s/4.png").await;
    assert_eq!(both[1].model.sha256, sha256_hex(&second));
    assert_eq!(stack.stop("INT").0.code(), Some(0));
}

fn golden_images() -> u64 {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("models/golden");
    let images = giemsa_tests::running_stack::files_below(&folder)
        .into_iter()
        .filter(|name| name.ends_with(".png"))
        .count();
    assert!(images >= 20, "{images} golden images");
    images as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_was_copied_while_no_worker_ran_is_tried_and_served() {
    let folder = tempfile::tempdir().unwrap();
    let own = sample_model_with("giemsa.version", "own");
    {
        let stack = RunningStack::start(folder.path(), &["--no-worker"]);
        let clients = stack.clients();
        put(&clients, MODEL_BUCKET, "prod/model.onnx", own.clone()).await;
        put(
            &clients,
            MODEL_BUCKET,
            "golden/uninfected/mine.png",
            file("sample-images/slide-001-healthy/cell-01.png"),
        )
        .await;
        for prefix in ["dev/", "reports/", "archive/"] {
            delete_below(&clients, prefix).await;
        }
        stack.stop("TERM");
    }
    let stack = RunningStack::start(folder.path(), &[]);
    let clients = stack.clients();
    let report = report(&clients, &own).await.expect("the model that was there is tried");
    assert!(report.passed, "{:?}", report.failures);
    assert_eq!(report.golden.images.values().sum::<u64>(), golden_images() + 1, "what is there stays");
    let both = answers(&stack, &clients, "s/1.png").await;
    assert_eq!([&both[0].model.version, &both[1].model.version], ["own", "own"]);
}
