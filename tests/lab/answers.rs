//! What each trigger is told in every case of failure, exactly: poison is named, its neighbours are answered.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use giemsa::analysis::Step;
use giemsa::handler::{Handler, HandlerError};
use giemsa::pipeline::Pipeline;
use giemsa_core::record::Status;
use giemsa_model::{Watch, Work};
use giemsa_store::FailureNote;
use giemsa_tests::lab::events::{self, Upload, form_encoded};
use giemsa_tests::lab::faults::{Fault, Seen, faulty};
use giemsa_tests::lab::{INPUT, Lab, TABLE, uninfected_cell};
use serde_json::{Value, json};

/// The image that something is wrong with; two neighbours are fine.
const POISON: &str = "slide/1 poison.png";
const KEYS: [&str; 3] = ["slide/0.png", POISON, "slide/2.png"];

type Rule = fn(&Seen<'_>) -> Option<Fault>;

fn is_poison(seen: &Seen<'_>) -> bool {
    seen.uri.contains("poison") || seen.body.contains("poison")
}

/// Everything that can go wrong with one image outside of this program, and a word of the reason that is given.
const CASES: [(&str, Rule, &str); 9] = [
    ("download throttled", |s| (s.method == "GET" && is_poison(s)).then_some(Fault::SLOW_DOWN), "SlowDown"),
    (
        "download forbidden",
        |s| (s.method == "GET" && is_poison(s)).then_some(Fault::ACCESS_DENIED),
        "AccessDenied",
    ),
    ("download reset", |s| (s.method == "GET" && is_poison(s)).then_some(Fault::Break), "reset"),
    (
        "no time for the download",
        |s| (s.method == "GET" && is_poison(s)).then_some(Fault::Delay(Duration::from_secs(600))),
        "no time is left",
    ),
    (
        "result not taken",
        |s| (s.method == "PUT" && is_poison(s)).then_some(Fault::SLOW_DOWN),
        "cannot be written to s3://",
    ),
    (
        "answer of the results bucket lost",
        |s| (s.method == "PUT" && is_poison(s)).then_some(Fault::LoseAnswer),
        "reset",
    ),
    (
        "table throttled",
        |s| (s.operation == "PutItem" && is_poison(s)).then_some(Fault::THROUGHPUT_EXCEEDED),
        "ProvisionedThroughputExceeded",
    ),
    (
        "item in another transaction",
        |s| (s.operation == "PutItem" && is_poison(s)).then_some(Fault::TRANSACTION_CONFLICT),
        "TransactionConflict",
    ),
    (
        "answer of the table lost",
        |s| (s.operation == "PutItem" && is_poison(s)).then_some(Fault::LoseAnswer),
        "reset",
    ),
];

async fn upload_all(lab: &Lab) -> Vec<(String, usize)> {
    let cell = uninfected_cell();
    let mut uploads = Vec::new();
    for key in KEYS {
        uploads.push((lab.put(key, &cell).await, cell.len()));
    }
    uploads
}

fn uploads(stored: &[(String, usize)]) -> Vec<Upload<'_>> {
    KEYS.iter().zip(stored).map(|(key, (etag, size))| Upload::new(key, etag, *size)).collect()
}

/// One S3 Batch Operations event with a task for each upload.
fn batch_event(uploads: &[Upload<'_>]) -> Value {
    let mut event = events::s3_batch_2(&uploads[0]);
    let template = event["tasks"][0].clone();
    let tasks = uploads.iter().enumerate().map(|(index, upload)| {
        let mut task = template.clone();
        task["taskId"] = json!(format!("task-{index}"));
        task["s3Key"] = json!(form_encoded(upload.key));
        task
    });
    event["tasks"] = tasks.collect();
    event
}

/// One S3 notification with a record for each upload.
fn notification(uploads: &[Upload<'_>]) -> Value {
    let records: Vec<Value> = uploads.iter().map(|upload| events::s3(upload)["Records"][0].clone()).collect();
    json!({ "Records": records })
}

async fn assert_neighbours_are_answered(lab: &Lab, name: &str) {
    for key in [KEYS[0], KEYS[2]] {
        let record = lab.result(key).await.unwrap_or_else(|| panic!("{name}: {key} has no result"));
        assert_eq!(record.status, Status::Classified, "{name}");
    }
    let poison = lab.result(POISON).await;
    assert!(poison.is_none_or(|record| record.status == Status::Classified), "{name}: poison is rejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_trigger_is_told_exactly_what_failed_and_why() {
    let lab = Lab::start().await;
    let stored = upload_all(&lab).await;
    let uploads = uploads(&stored);
    let mut config = lab.config.clone();
    // Time to tell the slide of the neighbours, after the one that waits; a busy machine does not use it up.
    config.limits.deadline_margin = Duration::from_secs(20);
    for (name, rule, reason) in CASES {
        let handler = lab.handler_of(config.clone(), faulty(&lab.clients, rule));
        pipeline_is_warm(&handler).await;
        // Only one of the cases waits for it.
        let deadline = || Some(Instant::now() + Duration::from_secs(30));

        let sqs = events::sqs(uploads.iter().map(|upload| events::s3(upload).to_string()));
        let answer = handler.handle(&sqs, deadline()).await.unwrap();
        assert_eq!(answer, json!({"batchItemFailures": [{"itemIdentifier": "message-1"}]}), "{name}");
        assert_neighbours_are_answered(&lab, name).await;

        let answer = handler.handle(&batch_event(&uploads), deadline()).await.unwrap();
        let codes: Vec<&str> = answer["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|task| task["resultCode"].as_str().unwrap())
            .collect();
        assert_eq!(codes, ["Succeeded", "TemporaryFailure", "Succeeded"], "{name}");
        let text = answer["results"][1]["resultString"].as_str().unwrap();
        assert!(text.contains(reason), "{name}: {text}");

        let error = handler.handle(&notification(&uploads), deadline()).await.unwrap_err();
        let HandlerError::Unanswered { unanswered: 1, total: 3, first } = &error else {
            panic!("{name}: {error}")
        };
        assert!(first.contains(POISON) && first.contains(reason), "{name}: {first}");
    }
    let healthy = lab.handler();
    let answer = healthy.handle(&notification(&uploads), None).await.unwrap();
    assert_eq!((&answer["classified"], &answer["retried"]), (&json!(3), &json!(0)));
    assert_eq!(lab.result_objects().await.len(), 3);
}

/// Loads the model, so that the time of a test goes to what it is about.
async fn pipeline_is_warm(handler: &giemsa::handler::Handler) {
    assert_eq!(handler.handle(&json!({"Records": []}), None).await.unwrap()["retried"], 0);
}

/// What goes wrong on the processor costs the image one retry, and its neighbours nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_or_a_freeze_costs_one_image_one_retry() {
    let lab = Lab::start().await;
    let stored = upload_all(&lab).await;
    let uploads = uploads(&stored);
    let mut config = lab.config.clone();
    config.limits.image_timeout = Duration::from_secs(5);
    let frozen = Duration::from_secs(12);
    let cases: [(&str, Step, Option<Duration>, &str); 4] = [
        ("panic in decoding", Step::Decode, None, "panicked: on purpose"),
        ("panic in the network", Step::Infer, None, "panicked: on purpose"),
        ("decoding hangs", Step::Decode, Some(frozen), "was not classified within 5000 ms"),
        ("the network hangs", Step::Infer, Some(frozen), "was not classified within 5000 ms"),
    ];
    for (name, at, freeze, reason) in cases {
        // Each trigger meets it once.
        for trigger in ["SQS", "S3 Batch Operations", "S3"] {
            let is_over = AtomicBool::new(false);
            let fault = Watch::new(move |work| {
                let (step, key) = match work {
                    Work::Decode { key } => (Step::Decode, key),
                    Work::Infer { key, .. } => (Step::Infer, key),
                    Work::Load { .. } | Work::Nothing => return,
                };
                if step != at || key != POISON || is_over.swap(true, Ordering::SeqCst) {
                    return;
                }
                match freeze {
                    Some(freeze) => std::thread::sleep(freeze),
                    None => panic!("on purpose"),
                }
            });
            let pipeline = Pipeline::new(config.clone(), lab.clients.clone()).watched_by(fault);
            let handler = Handler::new(pipeline);
            pipeline_is_warm(&handler).await;
            let event = match trigger {
                "SQS" => events::sqs(uploads.iter().map(|upload| events::s3(upload).to_string())),
                "S3" => notification(&uploads),
                _ => batch_event(&uploads),
            };
            let answer = handler.handle(&event, None).await;
            let is_told = match (&answer, trigger) {
                (Ok(answer), "SQS") => {
                    *answer == json!({"batchItemFailures": [{"itemIdentifier": "message-1"}]})
                }
                (Ok(answer), _) => {
                    let codes = answer["results"].as_array().unwrap().iter().map(|task| &task["resultCode"]);
                    let text = answer["results"][1]["resultString"].as_str().unwrap();
                    codes.eq(&["Succeeded", "TemporaryFailure", "Succeeded"]) && text.contains(reason)
                }
                (Err(HandlerError::Unanswered { unanswered: 1, total: 3, first }), "S3") => {
                    first.contains(reason)
                }
                _ => false,
            };
            assert!(is_told, "{name}: {trigger} was told {answer:?}");
            // The next delivery is answered, by the same process.
            let answer = handler.handle(&notification(&uploads), None).await.unwrap();
            assert_eq!(
                (&answer["classified"], &answer["retried"]),
                (&json!(3), &json!(0)),
                "{name}: {trigger}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_named_alone() {
    let lab = Lab::start().await;
    let stored = upload_all(&lab).await;
    let uploads = uploads(&stored);
    let handler = lab.handler();
    let good = |index: usize| events::s3(&uploads[index]).to_string();
    let mut key_no_text = events::s3(&uploads[1]);
    key_no_text["Records"][0]["s3"]["object"]["key"] = json!("slide/%FF.png");
    let mut foreign = events::s3(&uploads[1]);
    foreign["Records"][0]["s3"]["bucket"]["name"] = json!("somebody-elses");
    for poison in ["no json".to_owned(), "{}".to_owned(), key_no_text.to_string(), foreign.to_string()] {
        let answer = handler.handle(&events::sqs([good(0), poison.clone(), good(2)]), None).await.unwrap();
        assert_eq!(answer, json!({"batchItemFailures": [{"itemIdentifier": "message-1"}]}), "{poison:.60}");
        assert_neighbours_are_answered(&lab, &poison).await;
    }

    // A task whose key is not a text would fail for ever; one without a bucket as well.
    let mut event = batch_event(&uploads);
    event["tasks"][1]["s3Key"] = json!("slide/%FF.png");
    let answer = handler.handle(&event, None).await.unwrap();
    assert_eq!(answer["results"][1]["resultCode"], "PermanentFailure");
    assert_eq!(answer["results"][2]["resultCode"], "Succeeded");
}

async fn notes(lab: &Lab) -> Vec<FailureNote> {
    lab.table().failures(INPUT, POISON, "prod").await.unwrap()
}

/// Notes of the keys' uploads that are in the table, whatever readers make of them.
async fn stored_notes(lab: &Lab, keys: &[String]) -> usize {
    let scanned = lab.clients.dynamodb.scan().table_name(TABLE).send().await.unwrap();
    let is_note = |item: &HashMap<String, AttributeValue>| {
        item.contains_key("tries") && keys.iter().any(|key| item["key"].as_s() == Ok(key))
    };
    scanned.items().iter().filter(|item| is_note(item)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_says_why_an_image_waits_until_it_is_answered() {
    let lab = Lab::start().await;
    let stored = upload_all(&lab).await;
    let uploads = uploads(&stored);
    let delivery = |count: u32| {
        let mut event = events::sqs([events::s3(&uploads[1]).to_string()]);
        event["Records"][0]["attributes"]["ApproximateReceiveCount"] = json!(count.to_string());
        event
    };
    let clients =
        faulty(&lab.clients, |s| (s.method == "GET" && is_poison(s)).then_some(Fault::ACCESS_DENIED));
    let broken = lab.handler_of(lab.config.clone(), clients);
    for tries in 1..=3 {
        broken.handle(&delivery(tries), None).await.unwrap();
        let notes = notes(&lab).await;
        let [note] = &notes[..] else { panic!("{notes:?}") };
        assert_eq!((note.tries, note.object_version.as_str()), (u64::from(tries), uploads[1].etag));
        assert!(note.reason.contains("AccessDenied"), "{}", note.reason);
        assert!(note.first_failed_at <= note.last_failed_at);
    }
    lab.handler().handle(&delivery(4), None).await.unwrap();
    assert_eq!(stored_notes(&lab, &[POISON.to_owned()]).await, 0, "a redelivery takes the note away");
    // What `dlq redrive`, `reconcile --fix`, a backfill or S3 Batch sends seems to come for the first time.
    let cell = uninfected_cell();
    let forms = [
        |upload: &Upload<'_>| events::sqs([events::s3(upload).to_string()]),
        |upload: &Upload<'_>| events::s3(upload),
        |upload: &Upload<'_>| batch_event(std::slice::from_ref(upload)),
    ];
    for (index, form) in forms.into_iter().enumerate() {
        let keys = [format!("again/poison-{index}.png"), format!("again/poison-{index}-waits.png")];
        let mut etags = Vec::new();
        for key in &keys {
            let etag = lab.put(key, &cell).await;
            let first = events::s3(&Upload::new(key, &etag, cell.len())).to_string();
            broken.handle(&events::sqs([first]), None).await.unwrap();
            etags.push(etag);
        }
        assert_eq!(stored_notes(&lab, &keys).await, 2);
        lab.handler().handle(&form(&Upload::new(&keys[0], &etags[0], cell.len())), None).await.unwrap();
        let listed = lab.table().failures_listed("prod", 9).await.unwrap();
        let waiting: Vec<&str> = listed.iter().map(|note| note.key.as_str()).collect();
        assert_eq!(waiting[0], keys[1], "{waiting:?}");
        assert_eq!(waiting.len(), index + 1, "{waiting:?}");
        assert_eq!(stored_notes(&lab, &keys).await, 1, "the note of what is answered is not kept either");
    }
    let history = lab.table().image(INPUT, POISON, &giemsa_config::DEFAULT_STAGES).await.unwrap();
    assert_eq!((history.results.len(), history.reviews.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_records_are_handed_back_in_time() {
    const RECORDS: usize = 10_000;
    let lab = Lab::start().await;
    let cell = uninfected_cell();
    let mut bodies = Vec::new();
    for key in 0..20 {
        let key = format!("slide/{key}.png");
        let etag = lab.put(&key, &cell).await;
        let sequencers: Vec<String> = (0..RECORDS / 20).map(|n| format!("{n:06X}")).collect();
        for sequencer in &sequencers {
            // Uploads of their own, as far as the trigger tells: nothing of the work is saved.
            let upload = Upload { sequencer, ..Upload::new(&key, &etag, cell.len()) };
            bodies.push(events::s3(&upload).to_string());
        }
    }
    let event = events::sqs(bodies);
    let mut config = lab.config.clone();
    // The default is two seconds; the wider margin is one that a busy machine does not use up.
    config.limits.deadline_margin = Duration::from_secs(30);
    let handler = lab.handler_of(config, lab.clients.clone());
    pipeline_is_warm(&handler).await;
    let started = Instant::now();
    let deadline = started + Duration::from_secs(38);
    let answer = handler.handle(&event, Some(deadline)).await.unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(38), "the invocation would have been ended by force: {took:?}");
    let failures = answer["batchItemFailures"].as_array().unwrap();
    let handed_back: BTreeSet<&str> =
        failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap()).collect();
    let done = RECORDS - handed_back.len();
    eprintln!("{done} of {RECORDS} records answered and {} handed back in {took:?}", handed_back.len());
    assert!(done > 0 && !handed_back.is_empty(), "{done} of {RECORDS}");
    assert_eq!(handed_back.len(), failures.len(), "each is named once");
}
