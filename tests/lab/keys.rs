//! Keys of the table: a stage's classifier touches only its own, and items of before are moved to them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use giemsa_store::leading_keys;
use giemsa_tests::lab::events::{self, Upload};
use giemsa_tests::lab::faults::{Fault, faulty};
use giemsa_tests::lab::{INPUT, Lab, config, file, sample_model};
use serde_json::Value;

/// Operation, index if there is one, and partition key of each item of a request.
type Touched = (String, Option<String>, String);

/// What a request touches; an operation that is not known here has to be thought of.
fn touched(operation: &str, request: &Value) -> Vec<Touched> {
    let index = request["IndexName"].as_str().map(str::to_owned);
    let pk = match operation {
        "PutItem" => &request["Item"]["pk"],
        "GetItem" | "UpdateItem" | "DeleteItem" => &request["Key"]["pk"],
        "Query" => &request["ExpressionAttributeValues"][":pk"],
        other => panic!("the classifier sends {other}: {request}"),
    };
    vec![(operation.to_owned(), index, pk["S"].as_str().unwrap().to_owned())]
}

/// As IAM's `StringLike`, for patterns with no more than one `*`, at their end.
fn is_like(text: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => {
            assert_eq!(end, "", "{pattern}");
            text.starts_with(start)
        }
        None => text == pattern,
    }
}

/// Has the real handler of `stage` answer uploads that end in every way, and returns what it touched in the table.
async fn answer_all(lab: &Lab, stage: &str) -> Vec<Touched> {
    let seen: Arc<Mutex<Vec<Touched>>> = Arc::default();
    let is_broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let clients = {
        let (seen, is_broken) = (seen.clone(), is_broken.clone());
        faulty(&lab.clients, move |request| {
            if !request.operation.is_empty() {
                let body = serde_json::from_str(request.body).unwrap();
                seen.lock().unwrap().extend(touched(request.operation, &body));
            }
            let fails = request.uri.contains("later.png") && request.method == "GET";
            (fails && is_broken.load(std::sync::atomic::Ordering::SeqCst)).then_some(Fault::ACCESS_DENIED)
        })
    };
    let handler = lab.handler_of(config(stage), clients);
    let cell = giemsa_tests::lab::uninfected_cell();
    let mut bodies = Vec::new();
    for (key, bytes) in [("s/cell.png", &cell[..]), ("later.png", &cell[..]), ("s/no-image.png", b"text")] {
        let etag = lab.put(key, bytes).await;
        bodies.push(events::s3(&Upload::new(key, &etag, bytes.len())).to_string());
    }
    let gone = Upload::new("s/gone.png", "0123456789abcdef0123456789abcdef", 9);
    bodies.push(events::s3(&gone).to_string());
    let event = events::sqs(bodies);
    let failed = handler.handle(&event, None).await.unwrap()["batchItemFailures"].as_array().unwrap().len();
    assert_eq!(failed, 1, "one fails, and is noted");
    assert_eq!(lab.table().failures(INPUT, "later.png", stage).await.unwrap().len(), 1);
    is_broken.store(false, std::sync::atomic::Ordering::SeqCst);
    let mut again = event.clone();
    for message in again["Records"].as_array_mut().unwrap() {
        message["attributes"]["ApproximateReceiveCount"] = "2".into();
    }
    let answer = handler.handle(&again, None).await.unwrap();
    assert_eq!(answer["batchItemFailures"], serde_json::json!([]));
    assert!(lab.table().failures(INPUT, "later.png", stage).await.unwrap().is_empty(), "answered by now");

    // Replaced, and the earlier event once more: which one counts is asked.
    let other = file("sample-images/slide-002-falciparum/cell-04.png");
    let etag = lab.put("s/cell.png", &other).await;
    for sequencer in ["0055AED6DCD90281E6", "0055AED6DCD90281E5", ""] {
        let upload = Upload { sequencer, ..Upload::new("s/cell.png", &etag, other.len()) };
        let answer = handler.handle(&events::sqs([events::s3(&upload).to_string()]), None).await.unwrap();
        assert_eq!(answer["batchItemFailures"], serde_json::json!([]));
    }
    drop(handler);
    std::mem::take(&mut *seen.lock().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_touches_only_its_own_keys() {
    let lab = Lab::start().await;
    lab.put_model("dev", &sample_model()).await;
    for (stage, other) in [("dev", "prod"), ("prod", "dev")] {
        let (own, others) = (leading_keys(stage), leading_keys(other));
        let mut used = BTreeSet::new();
        let mut operations = BTreeSet::new();
        for (operation, index, pk) in answer_all(&lab, stage).await {
            if let Some(index) = index {
                assert!(pk.starts_with(&format!("{stage}#")), "{stage}: {operation} of {pk} in {index}");
                continue;
            }
            let pattern = own.iter().find(|pattern| is_like(&pk, pattern));
            used.insert(pattern.unwrap_or_else(|| panic!("{stage}: {operation} of {pk}; expected {own:?}")));
            assert!(!others.iter().any(|pattern| is_like(&pk, pattern)), "{operation} of {pk} is {other}'s");
            operations.insert(operation);
        }
        assert_eq!(used.len(), own.len(), "{stage} needs no more than {used:?}");
        let written = ["PutItem", "UpdateItem", "DeleteItem"];
        assert!(written.iter().all(|operation| operations.contains(*operation)), "{operations:?}");
    }
}
