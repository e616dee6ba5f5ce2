//! Keys of the table: a stage's classifier touches only its own, and items of before are moved to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use crate::common::events::{self, Upload};
use crate::common::faults::{Fault, faulty};
use crate::common::{INPUT, Lab, TABLE, config, file, sample_model};
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::Utc;
use giemsa_config::DEFAULT_STAGES;
use giemsa_store::{
    ImageKey, NotedUpload, ResultQuery, StoreError, TableWriter, Verdict, create_table, leading_keys,
};
use serde_json::Value;

type Item = HashMap<String, AttributeValue>;

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
    let cell = crate::common::uninfected_cell();
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

async fn items(lab: &Lab) -> BTreeMap<(String, String), Item> {
    let mut items = BTreeMap::new();
    let mut start = None;
    loop {
        let request = lab.clients.dynamodb.scan().table_name(TABLE).set_exclusive_start_key(start);
        let page = request.consistent_read(true).send().await.unwrap();
        for item in page.items.unwrap_or_default() {
            let [pk, sk] = ["pk", "sk"].map(|name| item[name].as_s().unwrap().clone());
            items.insert((pk, sk), item);
        }
        start = page.last_evaluated_key;
        if start.is_none() {
            return items;
        }
    }
}

/// Partition and sort key of before, of an item that was moved since.
fn old_keys(pk: &str, sk: &str) -> Option<(String, String)> {
    let (stage, image) = pk.strip_prefix("result#")?.split_once('#').unwrap();
    let sk = match sk.strip_prefix("failure#") {
        Some(version) => format!("failure#{stage}#{version}"),
        None => format!("{sk}#{stage}"),
    };
    Some((format!("image#{image}"), sk[..sk.len().min(1_024)].to_owned()))
}

/// Puts all items back to where the version before wrote them.
async fn as_before(lab: &Lab) {
    let dynamodb = &lab.clients.dynamodb;
    for ((pk, sk), mut item) in items(lab).await {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let old = old_keys(&pk, &sk);
        if old.is_some() || pk == "layout" {
            let delete = dynamodb.delete_item().table_name(TABLE).key("pk", text(&pk)).key("sk", text(&sk));
            delete.send().await.unwrap();
        }
        if let Some((pk, sk)) = old {
            item.extend([("pk".to_owned(), text(&pk)), ("sk".to_owned(), text(&sk))]);
            dynamodb.put_item().table_name(TABLE).set_item(Some(item)).send().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_before_are_moved_whenever_that_is_ended() {
    let lab = Lab::start().await;
    lab.put_model("dev", &sample_model()).await;
    let keys = ["s/a.png", "s/b #1.png", "no-folder.png"];
    let mut bodies = Vec::new();
    for key in keys {
        let cell = file("sample-images/slide-002-falciparum/cell-04.png");
        let etag = lab.put(key, &cell).await;
        bodies.push(events::s3(&Upload::new(key, &etag, cell.len())).to_string());
    }
    let writer = TableWriter::new(lab.clients.dynamodb.clone(), TABLE);
    // Cut where the sort key of before had room for it, and now has more.
    let long = "v".repeat(1_100);
    for stage in DEFAULT_STAGES {
        let event = events::sqs(bodies.clone());
        lab.handler_of(config(stage), lab.clients.clone()).handle(&event, None).await.unwrap();
        for object_version in ["v1", &long] {
            let upload = NotedUpload { bucket: INPUT, key: "s/late.png", stage, object_version };
            writer.note_failure(upload, "reset", Utc::now()).await.unwrap();
        }
    }
    let reviewed = lab.result("s/a.png").await.unwrap();
    let verdict = Verdict {
        label: "uninfected".into(),
        object_version: reviewed.image.object_version().into(),
        reviewer: "ada".into(),
        reviewed_at: Utc::now(),
    };
    let image = ImageKey { bucket: INPUT.into(), key: "s/a.png".into() };
    writer.put_verdict(&image, &verdict, &DEFAULT_STAGES).await.unwrap();
    let mut expected = items(&lab).await;
    let moved: Vec<_> = expected.keys().filter(|(pk, sk)| old_keys(pk, sk).is_some()).cloned().collect();
    assert_eq!(moved.len(), 2 * (keys.len() + 2));

    as_before(&lab).await;
    let before = items(&lab).await;
    assert!(moved.iter().all(|key| !before.contains_key(key)), "{:?}", before.keys());
    assert!(lab.table().image(INPUT, "s/a.png", &DEFAULT_STAGES).await.unwrap().results.is_empty());

    // Ended after items were written under their new keys, and before they were taken from the old ones.
    let cut = faulty(&lab.clients, |seen| (seen.operation == "DeleteItem").then_some(Fault::Break));
    let ended = create_table(&cut.dynamodb, TABLE).await;
    assert!(matches!(ended, Err(StoreError::Table { .. })), "{ended:?}");
    let between = items(&lab).await;
    let is_double = |(pk, sk): &&(String, String)| {
        between.contains_key(&(pk.clone(), sk.clone())) && between.contains_key(&old_keys(pk, sk).unwrap())
    };
    assert!(moved.iter().any(|key| is_double(&key)), "{:?}", between.keys());
    assert!(before.keys().all(|key| between.contains_key(key)), "nothing is lost");

    // What is under a new key by then is newer.
    let newer_key = (format!("result#prod#{INPUT}/s/b #1.png"), "result".to_owned());
    let newer = expected.get_mut(&newer_key).unwrap();
    newer.insert("software".to_owned(), AttributeValue::S("giemsa 9.9.9".to_owned()));
    let put = lab.clients.dynamodb.put_item().table_name(TABLE).set_item(Some(newer.clone()));
    put.send().await.unwrap();

    create_table(&lab.clients.dynamodb, TABLE).await.unwrap();
    let after = items(&lab).await;
    assert_eq!(after.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, item) in &expected {
        assert_eq!(after[key], *item, "as this version wrote it");
    }
    let table = lab.table();
    for stage in DEFAULT_STAGES {
        assert_eq!(table.results(&ResultQuery::of_stage(stage), None).await.unwrap().results.len(), 3);
        assert_eq!(table.failures_listed(stage, 9).await.unwrap().len(), 2);
    }
    let history = table.image(INPUT, "s/a.png", &DEFAULT_STAGES).await.unwrap();
    assert_eq!((history.results.len(), history.verdict.unwrap().reviewer.as_str()), (2, "ada"));

    // At the next start nothing is read but the note that all is done.
    let at_start = Arc::new(Mutex::new(Vec::new()));
    let noted = at_start.clone();
    let recorded = faulty(&lab.clients, move |seen| {
        noted.lock().unwrap().push(seen.operation.to_owned());
        None
    });
    create_table(&recorded.dynamodb, TABLE).await.unwrap();
    assert_eq!(*at_start.lock().unwrap(), ["CreateTable", "DescribeTable", "GetItem"]);
}
