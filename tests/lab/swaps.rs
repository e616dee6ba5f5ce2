//! A model is replaced by copying a file: while images are being classified, while a batch still holds the one before,
//! while the new one is still being loaded, and when the file is deleted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use giemsa::analysis::analyse_image;
use giemsa::serving::Registry;
use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::archive_key;
use giemsa_core::record::Finding;
use giemsa_image::DecodeLimits;
use giemsa_model::{Model, Watch, Work};
use giemsa_store::metrics::{Metric, total};
use giemsa_tests::lab::events::{self, Upload};
use giemsa_tests::lab::faults::{Fault, faulty};
use giemsa_tests::lab::log::Log;
use giemsa_tests::lab::{Lab, MODELS, config, file};
use giemsa_tests::onnx::{OnnxModel, floats, ints, node};
use serde_json::json;

fn toy(number: usize) -> Vec<u8> {
    OnnxModel::toy(number as f32 / 64.0).bytes()
}

/// A laboratory of its own stage, because counts are kept by stage.
async fn lab_of(stage: &str) -> Lab {
    let mut lab = Lab::without_model().await;
    lab.config = config(stage);
    lab
}

fn registry(lab: &Lab) -> Registry {
    Registry::new(lab.clients.s3.clone(), &lab.config)
}

async fn serves(registry: &Registry) -> String {
    registry.refresh().await.unwrap().model.sha256.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_model_is_not_loaded_while_a_batch_holds_the_first() {
    const STAGE: &str = "two-models";
    let lab = lab_of(STAGE).await;
    let registry = registry(&lab);
    lab.put_model(STAGE, &toy(1)).await;
    let batch = registry.refresh().await.unwrap();
    let first = Arc::downgrade(&batch.model);
    lab.put_model(STAGE, &toy(2)).await;
    let second = Arc::downgrade(&registry.refresh().await.unwrap().model);
    assert_eq!(second.upgrade().unwrap().sha256, sha256_hex(&toy(2)));
    assert_eq!(batch.model.sha256, sha256_hex(&toy(1)), "a batch keeps its model");

    // Two are in memory: the third file is not even asked for.
    lab.put_model(STAGE, &toy(3)).await;
    let checks = total(Metric::ModelChecks, STAGE);
    for _ in 0..3 {
        assert_eq!(serves(&registry).await, sha256_hex(&toy(2)));
    }
    assert_eq!(total(Metric::ModelChecks, STAGE), checks);

    drop(batch);
    assert_eq!(first.strong_count(), 0, "the first is freed with the batch");
    assert_eq!(serves(&registry).await, sha256_hex(&toy(3)));
    assert_eq!(second.strong_count(), 0, "the second is freed by the swap");
    assert_eq!(total(Metric::ModelReleased, STAGE), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_is_said_once_and_the_last_good_model_serves_on() {
    const STAGE: &str = "deleted";
    let log = Log::of_this_process();
    let lab = lab_of(STAGE).await;
    let registry = registry(&lab);
    lab.put_model(STAGE, &toy(1)).await;
    assert_eq!(serves(&registry).await, sha256_hex(&toy(1)));
    let delete = async || {
        let key = format!("{STAGE}/model.onnx");
        lab.clients.s3.delete_object().bucket(MODELS).key(key).send().await.unwrap();
    };
    for round in 1..=2 {
        delete().await;
        for _ in 0..3 {
            assert_eq!(serves(&registry).await, sha256_hex(&toy(1)));
        }
        let errors = log.errors(STAGE);
        assert_eq!(errors.len(), round, "{errors:#?}");
        let message = errors[round - 1]["error"].as_str().unwrap();
        assert!(message.contains("there is no model at s3://lab-models/deleted/model.onnx"), "{message}");
        // The same file again is not a new model; deleted again, it is said again.
        lab.put_model(STAGE, &toy(1)).await;
        assert_eq!(serves(&registry).await, sha256_hex(&toy(1)));
    }
    assert_eq!((total(Metric::ModelReleased, STAGE), total(Metric::ModelRefused, STAGE)), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interval_between_two_looks_can_be_set() {
    const STAGE: &str = "interval";
    let mut lab = lab_of(STAGE).await;
    lab.config.limits.model_check_interval = Duration::from_secs(3600);
    let registry = registry(&lab);
    lab.put_model(STAGE, &toy(1)).await;
    serves(&registry).await;
    lab.put_model(STAGE, &toy(2)).await;
    for _ in 0..3 {
        assert_eq!(serves(&registry).await, sha256_hex(&toy(1)));
    }
    assert_eq!(total(Metric::ModelChecks, STAGE), 1);
}

/// A network that takes a second or so to probe: large products.
fn slow_model() -> Vec<u8> {
    const PRODUCTS: [&str; 13] =
        ["tiled", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11", "p12"];
    let mut nodes = vec![node("Tile", &["image", "times"], "tiled", &[])];
    nodes.extend(PRODUCTS.windows(2).map(|pair| node("MatMul", &[pair[0], "square"], pair[1], &[])));
    nodes.push(node("Relu", &["p12"], "seen", &[]));
    let weights =
        vec![ints("times", &[1, 1, 64, 64]), floats("square", &[512, 512], &vec![1.0 / 512.0; 512 * 512])];
    OnnxModel::toy_seeing(nodes, weights).bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_that_ends_first_leaves_the_file_to_be_loaded_once() {
    const STAGE: &str = "cancelled";
    let lab = lab_of(STAGE).await;
    let registry = registry(&lab);
    lab.put_model(STAGE, &slow_model()).await;
    let mut cut = 0;
    let release = loop {
        match tokio::time::timeout(Duration::from_millis(50), registry.refresh()).await {
            Ok(release) => break release.unwrap(),
            Err(_) => cut += 1,
        }
    };
    assert!(cut >= 2, "the model was loaded within 100 ms: this test shows nothing");
    assert_eq!(release.model.sha256, sha256_hex(&slow_model()));
    assert_eq!(total(Metric::ModelReleased, STAGE), 1);
    // A request that was cut off itself is asked again; one whose file is being loaded is not.
    let checks = total(Metric::ModelChecks, STAGE);
    assert!(checks < cut, "{checks} requests in {cut} invocations");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_look_for_a_new_model_runs_beside_the_downloads() {
    const STAGE: &str = "beside";
    const DELAY: Duration = Duration::from_secs(6);
    let lab = lab_of(STAGE).await;
    lab.put_model(STAGE, &toy(1)).await;
    let image = file("tests/data/golden/field.png");
    let etag = lab.put("s/field.png", &image).await;
    let event = events::s3(&Upload::new("s/field.png", &etag, image.len()));
    let is_slow = Arc::new(AtomicBool::new(false));
    let seen: Arc<Mutex<BTreeMap<&str, Instant>>> = Arc::default();
    let (slow, times) = (is_slow.clone(), seen.clone());
    let clients = faulty(&lab.clients, move |request| {
        if !["GET", "HEAD"].contains(&request.method) || !slow.load(Ordering::SeqCst) {
            return None;
        }
        let what = if request.uri.contains("model.onnx") { "model" } else { "image" };
        times.lock().unwrap().entry(what).or_insert_with(Instant::now);
        Some(Fault::Delay(DELAY))
    });
    let handler = lab.handler_of(lab.config.clone(), clients);
    handler.handle(&event, None).await.unwrap();
    is_slow.store(true, Ordering::SeqCst);
    let answer = handler.handle(&event, None).await.unwrap();
    assert_eq!(answer["classified"], 1);
    let seen = seen.lock().unwrap();
    let (model, image) = (seen["model"], seen["image"]);
    let apart = model.max(image) - model.min(image);
    assert!(apart < DELAY / 2, "one of two requests that take {DELAY:?} began {apart:?} after the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fall_back_that_nobody_waits_for_is_loaded_once() {
    const STAGE: &str = "cancelled-fall-back";
    let lab = lab_of(STAGE).await;
    lab.put_model(STAGE, b"not a model").await;
    let sha256 = sha256_hex(&slow_model());
    lab.put_in_models(&archive_key(&sha256), &slow_model()).await;
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = loads.clone();
    let (wanted, released_at) = (sha256.clone(), DateTime::from_timestamp(1_700_000_000, 0).unwrap());
    let registry = registry(&lab).watched_by(Watch::new(move |work| {
        if let Work::Load { sha256 } = work
            && sha256 == wanted
        {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let mut cut = 0;
    let release = loop {
        assert!(registry.refresh().await.unwrap_err().is_refusal());
        match tokio::time::timeout(Duration::from_millis(100), registry.fall_back(&sha256, released_at)).await
        {
            Ok(release) => break release.unwrap(),
            Err(_) => cut += 1,
        }
    };
    assert!(cut >= 1, "the model was loaded at once: this test shows nothing");
    assert_eq!((&release.model.sha256, release.released_at), (&sha256, released_at));
    assert_eq!(loads.load(Ordering::SeqCst), 1, "it was loaded beside itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_to_the_model_that_a_function_holds_is_in_the_ledger() {
    const STAGE: &str = "returned";
    let lab = lab_of(STAGE).await;
    let serving = async || {
        let entry = lab.table().model_at(STAGE, Utc::now()).await.unwrap();
        entry.expect("a model served").model.sha256
    };
    let image = file("tests/data/golden/field.png");
    let etag = lab.put("s/field.png", &image).await;
    let event = events::s3(&Upload::new("s/field.png", &etag, image.len()));
    let (one, other) = [(), ()].map(|()| lab.handler_of(lab.config.clone(), lab.clients.clone())).into();
    for (handler, number) in [(&one, 1), (&other, 2), (&one, 1)] {
        lab.put_model(STAGE, &toy(number)).await;
        handler.handle(&event, None).await.unwrap();
        assert_eq!(serving().await, sha256_hex(&toy(number)));
        // S3 gives the time of a file in seconds, and the ledger orders by it.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
}

/// What a model answers offline, by the code that nothing else is running in.
fn offline(model: &[u8], image: &[u8]) -> BTreeMap<String, f64> {
    let model = Model::load(model).unwrap();
    let analysis = analyse_image(image, &model, &DecodeLimits::of(&config("offline").limits)).unwrap();
    let Finding::Classified(decision) = analysis.finding else { panic!("{:?}", analysis.finding) };
    decision.probabilities
}

/// As many as `GIEMSA_TEST_SWAPS` says; 1,000 take minutes, because every result is stored and read again.
#[expect(clippy::disallowed_methods, reason = "a longer run is asked for by the environment")]
#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_lose_no_image_and_every_result_is_its_model_s() {
    const STAGE: &str = "swapped";
    const WORKERS: usize = 3;
    let swaps: usize = std::env::var("GIEMSA_TEST_SWAPS").map_or(25, |text| text.parse().unwrap());
    let lab = lab_of(STAGE).await;
    let image = Arc::new(file("tests/data/golden/field.png"));
    let files: BTreeMap<String, Vec<u8>> = (0..=swaps).map(|n| (sha256_hex(&toy(n)), toy(n))).collect();
    lab.put_model(STAGE, &toy(0)).await;

    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let clients = faulty(&lab.clients, move |request| {
        if request.uri.contains("model.onnx") {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        None
    });
    let handler = lab.handler_of(lab.config.clone(), clients);
    let is_over = AtomicBool::new(false);
    let invocations = AtomicUsize::new(0);

    let work = async |worker: usize| {
        let mut answered = BTreeMap::<String, usize>::new();
        let key = format!("slide/{worker}.png");
        let etag = lab.put(&key, &image).await;
        let event = events::sqs([events::s3(&Upload::new(&key, &etag, image.len())).to_string()]);
        while !is_over.load(Ordering::SeqCst) {
            invocations.fetch_add(1, Ordering::SeqCst);
            let answer = handler.handle(&event, None).await.unwrap();
            assert_eq!(answer, json!({"batchItemFailures": []}));
            let record = lab.result(&key).await.unwrap();
            let model = &files[&record.model.sha256];
            assert_eq!(record.probabilities, Some(offline(model, &image)), "{}", record.model.sha256);
            *answered.entry(record.model.sha256.clone()).or_default() += 1;
        }
        answered
    };
    let swap = async {
        for number in 0..=swaps {
            lab.put_model(STAGE, &toy(number)).await;
            while total(Metric::ModelReleased, STAGE) < number as u64 + 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        is_over.store(true, Ordering::SeqCst);
    };
    let workers = futures::future::join3(work(0), work(1), work(2));
    let limit = Duration::from_secs(60 + 10 * swaps as u64);
    let (answered, ()) =
        tokio::time::timeout(limit, futures::future::join(workers, swap)).await.expect("a swap is not seen");
    assert_eq!(WORKERS, [&answered.0, &answered.1, &answered.2].iter().filter(|own| !own.is_empty()).count());

    assert_eq!(total(Metric::ModelReleased, STAGE), swaps as u64 + 1);
    assert_eq!(total(Metric::ModelRefused, STAGE), 0);
    let (requests, invocations) = (requests.load(Ordering::SeqCst), invocations.load(Ordering::SeqCst));
    // One for each look, and one for each new file.
    assert!(
        requests <= invocations + swaps + 1,
        "{requests} requests to the model bucket in {invocations} invocations"
    );
    eprintln!("{swaps} swaps, {invocations} invocations, {requests} requests to the model bucket");
}
