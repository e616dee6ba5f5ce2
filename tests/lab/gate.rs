//! The golden gate and what it guards, against S3 and DynamoDB in this process: reports, acceptance, cold starts.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use giemsa::crashes::CrashNotes;
use giemsa::gate_handler::{GateHandler, Gated};
use giemsa::serving::Registry;
use giemsa_config::{Config, GateConfig, GatePolicy};
use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::{GateReport, archive_key, report_key, report_page_key};
use giemsa_core::object::ObjectRef;
use giemsa_model::Loader;
use giemsa_model::{Watch, Work};
use giemsa_ops::release::{Author, Releaser};
use giemsa_store::metrics::{self, Metric};
use giemsa_store::{ModelBucket, TableReader, TableWriter};
use giemsa_tests::lab::events::{self, Upload, all_forms};
use giemsa_tests::lab::faults::{Fault, faulty};
use giemsa_tests::lab::{Lab, MODELS, file, sample_model, sample_model_with, uninfected_cell};
use serde_json::{Value, json};

async fn put_golden(lab: &Lab) {
    for image in golden_files() {
        lab.put_in_models(&format!("golden/{image}"), &file(&format!("models/golden/{image}"))).await;
    }
}

/// Two images of each label, by whatever names they have.
fn golden_files() -> Vec<String> {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("models/golden");
    let of_label = |label: &str| {
        let mut names: Vec<String> = std::fs::read_dir(root.join(label))
            .unwrap()
            .map(|entry| format!("{label}/{}", entry.unwrap().file_name().to_str().unwrap()))
            .collect();
        names.sort();
        let middle = names.len() / 2;
        names[middle..middle + 2].to_vec()
    };
    [of_label("parasitized"), of_label("uninfected")].concat()
}

fn gate_of(lab: &Lab, change: impl FnOnce(&mut GateConfig)) -> GateHandler {
    let mut config = GateConfig { model_bucket: MODELS.to_owned(), limits: lab.config.limits.clone() };
    change(&mut config);
    GateHandler::new(config, lab.clients.s3.clone())
}

/// Copies a model to `dev/`, lets the gate see the event, and returns the report.
async fn report_of(lab: &Lab, model: &[u8]) -> GateReport {
    lab.put_model("dev", model).await;
    gate_of(lab, |_| ()).handle(&copied("dev/model.onnx"), None).await.unwrap();
    stored_report(lab, model).await
}

async fn stored_report(lab: &Lab, model: &[u8]) -> GateReport {
    let json = lab.model_object(&report_key(&sha256_hex(model))).await.expect("a report");
    let value: Value = serde_json::from_slice(&json).unwrap();
    assert_valid(&value);
    let page = lab.model_object(&report_page_key(&sha256_hex(model))).await.expect("a page");
    assert!(String::from_utf8(page).unwrap().starts_with("<!DOCTYPE html>"));
    serde_json::from_value(value).unwrap()
}

fn assert_valid(report: &Value) {
    let schema: Value = serde_json::from_slice(&file("docs/report.schema.json")).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(report).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?} in {report:#}");
}

/// The event of a copy in the model bucket, through SQS.
fn copied(key: &str) -> Value {
    events::sqs([notification(MODELS, key).to_string()])
}

fn notification(bucket: &str, key: &str) -> Value {
    let mut event = events::s3(&Upload::new(key, "e", 1));
    event["Records"][0]["s3"]["bucket"]["name"] = json!(bucket);
    event
}

fn gated(stage: &str) -> Config {
    Config { gate: GatePolicy::Required, ..giemsa_tests::lab::config(stage) }
}

/// Uploads an image anew, and returns the digest of the model that `handler` answered with, or `None` if it handed the
/// event back.
async fn answering_model(lab: &Lab, handler: &giemsa::handler::Handler, stage: &str) -> Option<String> {
    let cell = uninfected_cell();
    let etag = lab.put("s/c.png", &cell).await;
    let event = events::s3(&Upload::new("s/c.png", &etag, cell.len()));
    handler.handle(&event, None).await.ok()?;
    let history = lab.table().image(giemsa_tests::lab::INPUT, "s/c.png", &[stage]).await.unwrap();
    history.results.into_iter().find(|record| record.stage == stage).map(|record| record.model.sha256)
}

async fn modified_at(lab: &Lab, key: &str) -> DateTime<Utc> {
    let head = lab.clients.s3.head_object().bucket(giemsa_tests::lab::MODELS).key(key).send().await.unwrap();
    DateTime::from_timestamp(head.last_modified().unwrap().secs(), 0).unwrap()
}

fn assert_failed(report: &GateReport, parts: &[&str]) {
    assert!(!report.passed, "{report:?}");
    let is_said = |failure: &&String| parts.iter().all(|part| failure.contains(part));
    assert!(report.failures.iter().any(|failure| is_said(&failure)), "{parts:?} in {:?}", report.failures);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_passes_on_dev_and_serves_in_production_only_with_its_report() {
    const STAGE: &str = "guarded";
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    let (first, second) = (sample_model(), sample_model_with("giemsa.version", "2"));
    let report = report_of(&lab, &first).await;
    assert!(report.passed, "{:?}", report.failures);
    assert_eq!(report.accuracy.map(|a| (a.count, a.of)), Some((4, 4)));
    assert_eq!(lab.model_object(&archive_key(&sha256_hex(&first))).await.as_deref(), Some(&first[..]));
    let dev = lab.handler_of(giemsa_tests::lab::config("dev"), lab.clients.clone());
    assert_eq!(answering_model(&lab, &dev, "dev").await, Some(sha256_hex(&first)));

    lab.put_model(STAGE, &first).await;
    let guarded = lab.handler_of(gated(STAGE), lab.clients.clone());
    assert_eq!(answering_model(&lab, &guarded, STAGE).await, Some(sha256_hex(&first)));

    // Planted without a report: the last good serves on, counted once however many batches come.
    let refused = metrics::total(Metric::ModelRefused, STAGE);
    lab.put_model(STAGE, &second).await;
    for _ in 0..3 {
        assert_eq!(answering_model(&lab, &guarded, STAGE).await, Some(sha256_hex(&first)));
    }
    assert_eq!(metrics::total(Metric::ModelRefused, STAGE), refused + 1);

    // The report appears later, in a later second of S3's clock: the file serves without being copied again.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(report_of(&lab, &second).await.passed);
    assert_eq!(answering_model(&lab, &guarded, STAGE).await, Some(sha256_hex(&second)));
    // Until then production had the first one, and the ledger does not say otherwise.
    let reported = modified_at(&lab, &report_key(&sha256_hex(&second))).await;
    assert!(reported > modified_at(&lab, &format!("{STAGE}/model.onnx")).await);
    for (time, model) in [(reported - TimeDelta::seconds(1), &first), (reported, &second)] {
        let entry = lab.table().model_at(STAGE, time).await.unwrap().expect("a model served");
        assert_eq!(entry.model.sha256, sha256_hex(model), "at {time}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_report_refuses_until_a_person_decides_otherwise() {
    const STAGE: &str = "failing";
    let lab = Lab::start().await;
    put_golden(&lab).await;
    let (good, swapped) =
        (sample_model(), sample_model_with("giemsa.labels", r#"["parasitized","uninfected"]"#));
    let swapped = if report_of(&lab, &swapped).await.passed {
        sample_model_with("giemsa.labels", r#"["uninfected","parasitized"]"#)
    } else {
        swapped
    };
    let failed = metrics::total(Metric::GateFailed, "dev");
    let mut report = report_of(&lab, &swapped).await;
    let again =
        gate_of(&lab, |_| ()).handle(&json!({"gate": {"stage": "dev", "again": true}}), None).await.unwrap();
    assert_eq!(again["models"][0]["passed"], json!(false));
    assert!(metrics::total(Metric::GateFailed, "dev") > failed);
    assert_failed(&report, &["accuracy is 0 of 4", "90.0 %", "accuracy_at_least"]);
    assert_eq!(report.wrong.len(), 4);
    assert!(
        lab.model_object(&archive_key(&sha256_hex(&swapped))).await.is_none(),
        "only what passed is archived"
    );
    let production = report.production.clone().expect("the sample model is in production");
    assert_eq!(production.sha256, sha256_hex(&good));
    assert_eq!((production.accuracy.map(|a| a.count), production.differences.len()), (Some(4), 4));

    assert!(report_of(&lab, &good).await.passed);
    lab.put_model(STAGE, &good).await;
    let guarded = lab.handler_of(gated(STAGE), lab.clients.clone());
    assert_eq!(answering_model(&lab, &guarded, STAGE).await, Some(sha256_hex(&good)));
    lab.put_model(STAGE, &swapped).await;
    assert_eq!(answering_model(&lab, &guarded, STAGE).await, Some(sha256_hex(&good)));

    report.waiver = Some(giemsa_core::gate_report::Waiver {
        by: "head of the laboratory".to_owned(),
        reason: "to compare labels".to_owned(),
        at: report.made_at,
    });
    lab.put_in_models(&report_key(&sha256_hex(&swapped)), &serde_json::to_vec(&report).unwrap()).await;
    assert_eq!(answering_model(&lab, &guarded, STAGE).await, Some(sha256_hex(&swapped)));
    // Tried again, the decision stands.
    lab.put_model("dev", &swapped).await;
    gate_of(&lab, |_| ()).handle(&json!({"gate": {"stage": "dev", "again": true}}), None).await.unwrap();
    assert_eq!(stored_report(&lab, &swapped).await.waiver, report.waiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_damaged_or_of_another_model_is_no_report() {
    const STAGE: &str = "damaged";
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    let (first, second) = (sample_model(), sample_model_with("giemsa.version", "2"));
    let report = report_of(&lab, &first).await;
    lab.put_model(STAGE, &second).await;
    let guarded = lab.handler_of(gated(STAGE), lab.clients.clone());
    let key = report_key(&sha256_hex(&second));
    for planted in [&b"{\"passed\": true}"[..], b"", &serde_json::to_vec(&report).unwrap()] {
        lab.put_in_models(&key, planted).await;
        assert_eq!(answering_model(&lab, &guarded, STAGE).await, None);
    }
    assert!(report_of(&lab, &second).await.passed, "the gate replaces what it cannot read");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_golden_set_is_said_plainly_and_passes_by_setting() {
    let lab = Lab::without_model().await;
    lab.put_in_models("golden/README.md", b"nothing yet").await;
    let report = report_of(&lab, &sample_model()).await;
    assert_failed(&report, &["golden set is empty", "\"empty_golden_set\": \"pass\"", "golden/gate.json"]);
    lab.put_in_models("golden/gate.json", br#"{"empty_golden_set": "pass"}"#).await;
    let report = report_of(&lab, &sample_model()).await;
    assert!(report.passed, "{:?}", report.failures);
    assert!(report.notes.iter().any(|note| note.contains("nothing was measured")), "{:?}", report.notes);
    let page = lab.model_object(&report_page_key(&sha256_hex(&sample_model()))).await.unwrap();
    assert!(String::from_utf8(page).unwrap().contains("nothing was measured"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_cannot_be_read_fail_every_model_and_name_the_key() {
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    lab.put_in_models("golden/gate.json", br#"{"sensitivity_at_least": {"parasitized": 95}}"#).await;
    let report = report_of(&lab, &sample_model()).await;
    assert_failed(
        &report,
        &["golden/gate.json", "sensitivity_at_least.parasitized is 95", "0 to 1", "copy the model"],
    );
    assert_eq!(report.accuracy.map(|a| a.count), Some(4), "the figures are measured all the same");
    // The mended rules are another golden set: the same copy is tried again.
    lab.put_in_models("golden/gate.json", br#"{"sensitivity_at_least": {"parasitized": 0.95}}"#).await;
    assert!(report_of(&lab, &sample_model()).await.passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_proof_or_with_one_that_does_not_hold_fails() {
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    lab.put_in_models("golden/gate.json", br#"{"accuracy_at_least": 0, "proof": "required"}"#).await;
    let toy = giemsa_tests::onnx::OnnxModel::toy(0.0).bytes();
    assert_failed(&report_of(&lab, &toy).await, &["no giemsa.proof", "golden/gate.json", "--proof"]);

    let report = report_of(&lab, &sample_model()).await;
    assert!(report.passed, "{:?}", report.failures);
    let proof = report.model.proof.unwrap();
    assert!((proof.inputs, proof.bound) == (4, 1e-3) && proof.greatest_difference < 1e-4, "{proof:?}");

    // Other pixels than those of the training: not even loaded.
    let input = r#"{"layout":"nchw","resize":"fit","mean":[0.485,0.456,0.406],"std":[0.229,0.224,0.225]}"#;
    let other = sample_model_with("giemsa.input", input);
    let parts = ["cannot be loaded", "of giemsa.proof the network gave", "they differ by", "more than 0.001"];
    assert_failed(&report_of(&lab, &other).await, &parts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mislabelled_image_is_listed_and_an_unreadable_one_fails() {
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    let cell = uninfected_cell();
    lab.put_in_models("golden/parasitized/mislabelled.png", &cell).await;
    lab.put_in_models("golden/gate.json", br#"{"accuracy_at_least": 0.8}"#).await;
    let report = report_of(&lab, &sample_model()).await;
    assert!(report.passed, "4 of 5 reach 0.8: {:?}", report.failures);
    let [wrong] = &report.wrong[..] else { panic!("{:?}", report.wrong) };
    assert_eq!(wrong.key, "golden/parasitized/mislabelled.png");
    assert_eq!((wrong.expected.as_str(), wrong.answered.as_str()), ("parasitized", "uninfected"));
    assert_eq!(report.confusion["parasitized"]["uninfected"], 1);

    for (name, bytes, code) in [
        ("text.png", &b"this is not an image at all"[..], "not_an_image"),
        ("cut.png", &cell[..cell.len() / 2], "corrupt"),
    ] {
        lab.put_in_models(&format!("golden/uninfected/{name}"), bytes).await;
        let report = report_of(&lab, &sample_model()).await;
        assert_failed(&report, &["could not be answered"]);
        let found = report.unreadable.iter().find(|image| image.key.ends_with(name)).expect("it is listed");
        assert_eq!(found.code, code);
        assert!(found.message.len() > 20, "{:?} explains nothing", found.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_or_is_too_large_has_a_report_that_says_why() {
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    let good = sample_model();
    for broken in [&good[..good.len() / 2], b"no model", b""] {
        let report = report_of(&lab, broken).await;
        assert_failed(&report, &["cannot be loaded"]);
        assert_eq!((report.model.size_bytes, report.model.name), (broken.len() as u64, None));
    }
    let small = gate_of(&lab, |config| config.limits.max_model_bytes = 1000);
    lab.put_model("dev", &good).await;
    small.handle(&copied("dev/model.onnx"), None).await.unwrap();
    let report = stored_report(&lab, &good).await;
    assert_failed(&report, &["GIEMSA_MAX_MODEL_BYTES", "1000", &good.len().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_on_the_same_golden_set_is_tried_once() {
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    let model = sample_model();
    let first = report_of(&lab, &model).await;
    let upload = Upload::new("dev/model.onnx", "e", 1);
    let gate = gate_of(&lab, |_| ());
    for (form, mut event) in all_forms(&upload) {
        // The fixtures name the bucket of uploads.
        event = serde_json::from_str(&event.to_string().replace(giemsa_tests::lab::INPUT, MODELS)).unwrap();
        gate.handle(&event, None).await.unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(stored_report(&lab, &model).await, first, "{form}");
    }
    let object = ObjectRef::new(MODELS, "dev/model.onnx");
    assert!(matches!(gate.gate(&object, false, None).await.unwrap(), Gated::Unchanged(_)));
    let Gated::Reported(again) = gate.gate(&object, true, None).await.unwrap() else {
        panic!("it was asked for")
    };
    assert!(again.made_at > first.made_at);
    lab.put_in_models("golden/uninfected/one-more.png", &uninfected_cell()).await;
    let other = report_of(&lab, &model).await;
    assert_ne!(other.golden.digest, first.golden.digest);
    assert_eq!(other.golden.images["uninfected"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_model_of_a_stage_is_acknowledged_and_what_fails_comes_again() {
    let lab = Lab::start().await;
    put_golden(&lab).await;
    let gate = gate_of(&lab, |_| ());
    let done = json!({"batchItemFailures": []});
    for key in [
        "prod/model.onnx",
        "archive/model.onnx",
        "a/b/model.onnx",
        "dev/other.onnx",
        "model.onnx",
        "gone/model.onnx",
    ] {
        assert_eq!(gate.handle(&copied(key), None).await.unwrap(), done, "{key}");
    }
    assert_eq!(
        gate.handle(&events::sqs([notification("elsewhere", "dev/model.onnx").to_string()]), None)
            .await
            .unwrap(),
        done
    );
    assert!(lab.model_object(&report_key(&sha256_hex(&sample_model()))).await.is_none());

    let missing = gate_of(&lab, |config| config.model_bucket = "no-such-bucket".to_owned());
    let event = notification("no-such-bucket", "dev/model.onnx");
    let answer = missing.handle(&events::sqs([event.to_string()]), None).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": [{"itemIdentifier": "message-0"}]}));
    let error = missing.handle(&event, None).await.unwrap_err().to_string();
    assert!(error.contains("dev/model.onnx") && error.contains("no-such-bucket"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_there_is_no_time_to_begin_is_handed_back() {
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    lab.put_model("dev", &sample_model()).await;
    let is_over = Some(Instant::now());
    let gate = gate_of(&lab, |_| ());
    let answer = gate.handle(&copied("dev/model.onnx"), is_over).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": [{"itemIdentifier": "message-0"}]}));
    let key = report_key(&sha256_hex(&sample_model()));
    assert_eq!(lab.model_object(&key).await, None, "it has not failed");
    let error = gate.handle(&notification(MODELS, "dev/model.onnx"), is_over).await.unwrap_err().to_string();
    assert!(error.starts_with("1 of 1 models") && error.contains("handed back"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_time_to_finish_fails_a_model_only_if_it_had_the_time_to_itself() {
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    let (first, second) = (sample_model(), sample_model_with("giemsa.version", "2"));
    lab.put_model("dev", &first).await;
    lab.put_model("test", &second).await;
    let crashes = Arc::new(crash_notes(&lab));
    // The network of the second model begins when the time is over.
    let gate_at = |deadline: Instant, slow: String| {
        let watch = Watch::new(move |work| {
            if matches!(work, Work::Infer { sha256, .. } if sha256 == slow) {
                tokio::task::block_in_place(|| {
                    std::thread::sleep(deadline.saturating_duration_since(Instant::now()))
                });
            }
        });
        gate_of(&lab, |config| config.limits.deadline_margin = Duration::ZERO)
            .guarded_by(crashes.clone(), watch)
    };
    let both =
        events::sqs(["dev", "test"].map(|s| notification(MODELS, &format!("{s}/model.onnx")).to_string()));
    let deadline = Instant::now() + Duration::from_secs(30);
    let answer = gate_at(deadline, sha256_hex(&second)).handle(&both, Some(deadline)).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": [{"itemIdentifier": "message-1"}]}));
    assert!(stored_report(&lab, &first).await.passed);
    assert_eq!(lab.model_object(&report_key(&sha256_hex(&second))).await, None);

    let deadline = Instant::now() + Duration::from_secs(5);
    let alone = copied("test/model.onnx");
    let answer = gate_at(deadline, sha256_hex(&second)).handle(&alone, Some(deadline)).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": []}));
    assert_failed(&stored_report(&lab, &second).await, &["not finished in the time", "more time"]);
}

fn crash_notes(lab: &Lab) -> CrashNotes {
    let writer = TableWriter::new(lab.clients.dynamodb.clone(), giemsa_tests::lab::TABLE);
    CrashNotes::new(lab.table(), writer, "dev", "s3://lab-models/dev/model.onnx".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_waiver_that_is_given_while_the_gate_tries_the_model_survives() {
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    lab.put_model("dev", &sample_model()).await;
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let watch = Watch::new(move |work| {
        if matches!(work, Work::Infer { .. }) {
            begun.send(()).unwrap();
            tokio::task::block_in_place(|| may_go_on.lock().unwrap().recv().unwrap());
        }
    });
    let gate = gate_of(&lab, |_| ()).guarded_by(Arc::new(crash_notes(&lab)), watch);
    let trial = tokio::spawn(async move { gate.handle(&copied("dev/model.onnx"), None).await.map(drop) });
    tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
    let releaser = Releaser::new(
        ModelBucket::new(lab.clients.s3.clone(), MODELS),
        lab.table(),
        TableWriter::new(lab.clients.dynamodb.clone(), giemsa_tests::lab::TABLE),
        Loader::new(&lab.config.limits),
    );
    let author = Author { who: "ada".to_owned(), why: Some("an outbreak".to_owned()), force: true };
    releaser.promote("dev", "prod", &author).await.unwrap();
    go_on.send(()).unwrap();
    trial.await.unwrap().unwrap();
    let report = stored_report(&lab, &sample_model()).await;
    assert!(report.accuracy.is_some(), "it is the gate's");
    assert_eq!(report.waiver.map(|waiver| waiver.reason).as_deref(), Some("an outbreak"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_asked_for_refuses_nothing() {
    const STAGE: &str = "unasked";
    let lab = Lab::without_model().await;
    lab.put_model(STAGE, &sample_model()).await;
    let clients =
        faulty(&lab.clients, |request| request.uri.contains("reports/").then_some(Fault::ACCESS_DENIED));
    let registry = Registry::new(clients.s3, &gated(STAGE));
    for _ in 0..2 {
        let error = registry.refresh().await.unwrap_err();
        assert!(!error.is_refusal() && error.to_string().contains("its golden report"), "{error}");
        assert_eq!(registry.refusal(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_on_a_refused_file_serves_what_served_last() {
    const STAGE: &str = "cold";
    let lab = Lab::without_model().await;
    put_golden(&lab).await;
    let (first, second) = (sample_model(), sample_model_with("giemsa.version", "2"));
    lab.put_model(STAGE, b"no model").await;
    let cold = || lab.handler_of(gated(STAGE), lab.clients.clone());
    assert_eq!(
        answering_model(&lab, &cold(), STAGE).await,
        None,
        "a stage that never served has nothing to fall back on"
    );

    report_of(&lab, &first).await;
    lab.put_model(STAGE, &first).await;
    assert_eq!(answering_model(&lab, &cold(), STAGE).await, Some(sha256_hex(&first)));
    // S3 tells the time of a file by the second, and the ledger orders by it.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    for refused in [&b"no model"[..], &second] {
        lab.put_model(STAGE, refused).await;
        let handler = cold();
        for _ in 0..2 {
            assert_eq!(answering_model(&lab, &handler, STAGE).await, Some(sha256_hex(&first)));
        }
    }
    let ledger = TableReader::new(lab.clients.dynamodb.clone(), giemsa_tests::lab::TABLE);
    let entry = ledger.model_at(STAGE, chrono::Utc::now()).await.unwrap().unwrap();
    assert_eq!(entry.model.sha256, sha256_hex(&first), "the ledger tells of no other model");
    // A handler that fell back takes the stage's file as soon as it may.
    let handler = cold();
    assert_eq!(answering_model(&lab, &handler, STAGE).await, Some(sha256_hex(&first)));
    report_of(&lab, &second).await;
    assert_eq!(answering_model(&lab, &handler, STAGE).await, Some(sha256_hex(&second)));

    // A changed archive is not a fall back.
    lab.put_model(STAGE, b"no model").await;
    lab.put_in_models(&archive_key(&sha256_hex(&second)), &first).await;
    assert_eq!(answering_model(&lab, &cold(), STAGE).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_served_before_reports_were_asked_for_serves_on() {
    const STAGE: &str = "upgraded";
    let lab = Lab::without_model().await;
    lab.put_model(STAGE, &sample_model()).await;
    let before = lab.handler_of(giemsa_tests::lab::config(STAGE), lab.clients.clone());
    assert_eq!(answering_model(&lab, &before, STAGE).await, Some(sha256_hex(&sample_model())));
    let upgraded = lab.handler_of(gated(STAGE), lab.clients.clone());
    assert_eq!(answering_model(&lab, &upgraded, STAGE).await, Some(sha256_hex(&sample_model())));
    // But not another file without a report.
    lab.put_model(STAGE, &sample_model_with("giemsa.version", "2")).await;
    assert_eq!(answering_model(&lab, &upgraded, STAGE).await, Some(sha256_hex(&sample_model())));
    let cold = lab.handler_of(gated(STAGE), lab.clients.clone());
    assert_eq!(answering_model(&lab, &cold, STAGE).await, None);
}
