//! What the trigger is told when S3, DynamoDB, the network or the clock fails; nothing is lost or done twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use giemsa_core::record::Status;
use giemsa_tests::lab::events::{self, Upload};
use giemsa_tests::lab::faults::{Fault, Seen, faulty};
use giemsa_tests::lab::{Lab, uninfected_cell};
use serde_json::{Value, json};

const IMAGES: usize = 4;

/// Uploads some images, and returns their SQS event.
async fn batch(lab: &Lab) -> Value {
    let cell = uninfected_cell();
    let mut bodies = Vec::new();
    for i in 0..IMAGES {
        let key = format!("slide/{i}.png");
        let etag = lab.put(&key, &cell).await;
        bodies.push(events::s3(&Upload::new(&key, &etag, cell.len())).to_string());
    }
    events::sqs(bodies)
}

fn failed(answer: &Value) -> BTreeSet<String> {
    let failures =
        answer["batchItemFailures"].as_array().expect("an SQS answer is a list, also if all failed");
    failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned()).collect()
}

fn messages(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(|i| format!("message-{i}")).collect()
}

fn concerns(seen: &Seen<'_>, image: usize) -> bool {
    seen.uri.contains(&format!("slide/{image}.png"))
}

/// Everything is answered once the faults are over, exactly once.
async fn assert_recovers(lab: &Lab, event: &Value) {
    let answer = lab.handler().handle(event, None).await.unwrap();
    assert_eq!(failed(&answer), messages([]));
    for i in 0..IMAGES {
        assert_eq!(lab.result(&format!("slide/{i}.png")).await.unwrap().status, Status::Classified);
    }
    assert_eq!(lab.result_objects().await.len(), IMAGES);
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_images_that_failed_are_handed_back() {
    let lab = Lab::start().await;
    let event = batch(&lab).await;
    type Rule = fn(&Seen<'_>) -> Option<Fault>;
    let cases: [(&str, Rule, &[usize]); 6] = [
        (
            "downloads of one image throttled",
            |s| (s.method == "GET" && concerns(s, 1)).then_some(Fault::SLOW_DOWN),
            &[1],
        ),
        (
            "downloads of one image forbidden",
            |s| (s.method == "GET" && concerns(s, 2)).then_some(Fault::ACCESS_DENIED),
            &[2],
        ),
        (
            "connections of one image reset",
            |s| (s.method == "GET" && concerns(s, 3)).then_some(Fault::Break),
            &[3],
        ),
        (
            "results of two images not taken",
            |s| (s.method == "PUT" && (concerns(s, 0) || concerns(s, 3))).then_some(Fault::SLOW_DOWN),
            &[0, 3],
        ),
        (
            "the table throttled",
            |s| (s.operation == "PutItem").then_some(Fault::THROUGHPUT_EXCEEDED),
            &[0, 1, 2, 3],
        ),
        (
            "the model bucket unreachable",
            |s| s.uri.contains("model.onnx").then_some(Fault::Break),
            &[0, 1, 2, 3],
        ),
    ];
    for (name, rule, expected) in cases {
        let handler = lab.handler_of(lab.config.clone(), faulty(&lab.clients, rule));
        let answer = handler.handle(&event, None).await.unwrap();
        assert_eq!(failed(&answer), messages(expected.iter().copied()), "{name}");
        for i in 0..IMAGES {
            let record = lab.result(&format!("slide/{i}.png")).await;
            assert!(
                record.is_none_or(|record| record.status == Status::Classified),
                "{name}: image {i} is rejected"
            );
        }
    }
    assert_recovers(&lab, &event).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kth_failing_request_costs_at_most_one_retry_by_the_sdk() {
    let lab = Lab::start().await;
    let event = batch(&lab).await;
    let faults = [Fault::Break, Fault::LoseAnswer, Fault::SLOW_DOWN];
    let cases = (0..12_usize).flat_map(|k| faults.iter().map(move |fault| (k, fault.clone())));
    // At once, because most of the time goes into the SDK's waiting between two attempts.
    let cases = cases.map(|(k, fault)| {
        let shown = format!("{fault:?} at request {k}");
        let clients = faulty(&lab.clients, move |seen| (seen.number == k).then(|| fault.clone()));
        let handler = lab.handler_of(lab.config.clone(), clients);
        let event = &event;
        async move { assert_eq!(failed(&handler.handle(event, None).await.unwrap()), messages([]), "{shown}") }
    });
    futures::stream::iter(cases.collect::<Vec<_>>()).for_each_concurrent(12, |case| case).await;
    assert_recovers(&lab, &event).await;
}

/// An upload of a client that sends no checksum: only the ETag tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_image_is_never_answered() {
    let lab = Lab::start().await;
    let bare = lab.clients.s3.config().to_builder();
    let bare =
        bare.request_checksum_calculation(aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired);
    let bare = aws_sdk_s3::Client::from_conf(bare.build());
    let cell = uninfected_cell();
    let put = bare.put_object().bucket(giemsa_tests::lab::INPUT).key("slide/0.png").body(cell.clone().into());
    let etag = put.send().await.unwrap().e_tag.unwrap();
    let event =
        events::sqs(
            [events::s3(&Upload::new("slide/0.png", etag.trim_matches('"'), cell.len())).to_string()],
        );
    let clients = faulty(&lab.clients, |s| (s.method == "GET" && concerns(s, 0)).then_some(Fault::Damage));
    let answer = lab.handler_of(lab.config.clone(), clients).handle(&event, None).await.unwrap();
    assert_eq!(failed(&answer), messages([0]));
    let notes = lab.table().failures(giemsa_tests::lab::INPUT, "slide/0.png", "prod").await.unwrap();
    assert!(notes[0].reason.contains("arrived damaged"), "{notes:?}");
    assert!(lab.result("slide/0.png").await.is_none());
    assert_eq!(failed(&lab.handler().handle(&event, None).await.unwrap()), messages([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_the_table_is_no_second_result() {
    let lab = Lab::start().await;
    let event = batch(&lab).await;
    let clients = faulty(&lab.clients, |s| (s.operation == "PutItem").then_some(Fault::LoseAnswer));
    let answer = lab.handler_of(lab.config.clone(), clients).handle(&event, None).await.unwrap();
    assert_eq!(failed(&answer), messages(0..IMAGES));
    let before = lab.result_objects().await;
    assert_recovers(&lab, &event).await;
    assert_eq!(lab.result_objects().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_trigger_gets_an_error_only_if_something_is_to_be_retried() {
    let lab = Lab::start().await;
    let cell = uninfected_cell();
    let etag = lab.put("slide/0.png", &cell).await;
    let event = events::s3(&Upload::new("slide/0.png", &etag, cell.len()));
    let clients = faulty(&lab.clients, |s| (s.operation == "PutItem").then_some(Fault::THROUGHPUT_EXCEEDED));
    let error = lab.handler_of(lab.config.clone(), clients).handle(&event, None).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("1 of 1 objects") && message.contains("slide/0.png"), "{message}");
    let answer = lab.handler().handle(&event, None).await.unwrap();
    assert_eq!((&answer["classified"], &answer["retried"]), (&json!(1), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_operations_are_told_that_the_failure_is_temporary() {
    let lab = Lab::start().await;
    let cell = uninfected_cell();
    let etag = lab.put("slide/0.png", &cell).await;
    let upload = Upload::new("slide/0.png", &etag, cell.len());
    let clients = faulty(&lab.clients, |s| (s.method == "GET" && concerns(s, 0)).then_some(Fault::SLOW_DOWN));
    let handler = lab.handler_of(lab.config.clone(), clients);
    for (event, version) in [(events::s3_batch_1(&upload), "1.0"), (events::s3_batch_2(&upload), "2.0")] {
        let answer = handler.handle(&event, None).await.unwrap();
        assert_eq!(answer["invocationSchemaVersion"], version);
        assert_eq!(answer["invocationId"], event["invocationId"]);
        let task = &answer["results"][0];
        assert_eq!(task["taskId"], event["tasks"][0]["taskId"]);
        assert_eq!(task["resultCode"], "TemporaryFailure");
        assert!(task["resultString"].as_str().unwrap().contains("SlowDown"), "{task}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_deadline_is_handed_back_in_time() {
    let lab = Lab::start().await;
    let event = batch(&lab).await;
    // One download hangs for longer than the invocation has. The margin is so wide that a busy machine does not use it up.
    let clients = faulty(&lab.clients, |s| {
        (s.method == "GET" && concerns(s, 2)).then_some(Fault::Delay(Duration::from_secs(600)))
    });
    let mut config = lab.config.clone();
    config.limits.deadline_margin = Duration::from_secs(40);
    let handler = lab.handler_of(config, clients.clone());
    handler.handle(&json!({"Records": []}), None).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(52);
    let answer = handler.handle(&event, Some(deadline)).await.unwrap();
    assert!(Instant::now() < deadline, "the answer came after the deadline");
    assert_eq!(failed(&answer), messages([2]));

    let over = lab.handler().handle(&event, Some(Instant::now())).await.unwrap();
    assert_eq!(failed(&over), messages(0..IMAGES), "nothing is started without time");
    assert_recovers(&lab, &event).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_model_serves_while_the_model_bucket_is_down() {
    let lab = Lab::start().await;
    let event = batch(&lab).await;
    let down = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = down.clone();
    let clients = faulty(&lab.clients, move |s| {
        let is_down = switch.load(std::sync::atomic::Ordering::SeqCst);
        (is_down && s.uri.contains("model.onnx")).then_some(Fault::SLOW_DOWN)
    });
    let handler = lab.handler_of(lab.config.clone(), clients);
    assert_eq!(failed(&handler.handle(&event, None).await.unwrap()), messages([]));
    down.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(failed(&handler.handle(&event, None).await.unwrap()), messages([]));
}
