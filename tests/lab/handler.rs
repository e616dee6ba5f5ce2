//! The handler against S3 and DynamoDB in this process: every trigger, every answer, every terminal state.

use std::collections::BTreeSet;

use giemsa::handler::HandlerError;
use giemsa_core::record::Status;
use giemsa_tests::lab::events::{self, Upload, all_forms};
use giemsa_tests::lab::{Lab, uninfected_cell};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Whether an answer tells the trigger that everything is done.
fn is_success(answer: &Value) -> bool {
    match (answer.get("batchItemFailures"), answer.get("results")) {
        (Some(failures), _) => failures == &json!([]),
        (_, Some(results)) => {
            results.as_array().unwrap().iter().all(|task| task["resultCode"] == "Succeeded")
        }
        _ => answer["retried"] == 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_and_every_key_end_in_one_result() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    let cell = uninfected_cell();
    let long = "k".repeat(1000);
    let keys = [
        "a b",
        "a+b",
        "%2B",
        "é",
        "=",
        "(1)",
        "slide//cell.png",
        "50%",
        "a&b=c",
        "日本/赤血球.png",
        "/",
        &long,
    ];
    for key in keys {
        let etag = lab.put(key, &cell).await;
        let upload = Upload::new(key, &etag, cell.len());
        let mut ids = BTreeSet::new();
        for (form, event) in all_forms(&upload) {
            let answer = handler.handle(&event, None).await.unwrap();
            assert!(is_success(&answer), "{form} of {key:?} answered {answer}");
            let record = lab.result(key).await.unwrap_or_else(|| panic!("{form} of {key:?} left no result"));
            assert_eq!(record.image.key, key);
            assert_eq!(record.status, Status::Classified);
            ids.insert(record.result_id);
        }
        assert_eq!(ids.len(), 1, "{key:?} has the result ids {ids:?}");
    }
    let objects = lab.result_objects().await;
    assert_eq!(objects.len(), keys.len(), "one result object for each image: {:?}", objects.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_twice_writes_the_same_bytes_once() {
    let lab = Lab::start().await;
    let cell = uninfected_cell();
    let etag = lab.put("s/c.png", &cell).await;
    let event = events::s3(&Upload::new("s/c.png", &etag, cell.len()));
    lab.handler().handle(&event, None).await.unwrap();
    let first = lab.result_objects().await;
    // A new process that knows nothing of the first.
    lab.handler().handle(&event, None).await.unwrap();
    assert_eq!(lab.result_objects().await, first);
    assert_eq!(first.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_twice_in_a_batch_is_answered_in_both_messages() {
    let lab = Lab::start().await;
    let cell = uninfected_cell();
    let etag = lab.put("s/c.png", &cell).await;
    let body = events::s3(&Upload::new("s/c.png", &etag, cell.len())).to_string();
    let answer = lab.handler().handle(&events::sqs([body.clone(), body]), None).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": []}));
    assert_eq!(lab.result_objects().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_classified_is_rejected_for_good() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    let cell = uninfected_cell();
    let cases: [(&str, &[u8], &str); 4] = [
        ("s/text.png", b"this is not an image at all", "not_an_image"),
        ("s/empty.png", b"", "empty"),
        ("s/cut.png", &cell[..cell.len() / 2], "corrupt"),
        ("s/report.png", b"%PDF-1.7\n%....", "unsupported_format"),
    ];
    for (key, bytes, code) in cases {
        let etag = lab.put(key, bytes).await;
        let upload = Upload::new(key, &etag, bytes.len());
        let answer = handler.handle(&events::sqs([events::s3(&upload).to_string()]), None).await.unwrap();
        assert!(is_success(&answer), "{key}: a rejected image is acknowledged, but the answer is {answer}");
        let record = lab.result(key).await.unwrap();
        let reject = record.reject.unwrap();
        assert_eq!((record.status, reject.code.as_str()), (Status::Rejected, code), "{key}");
        assert!(reject.message.len() > 20, "{key}: {:?} explains nothing", reject.message);

        let batch = handler.handle(&events::s3_batch_2(&upload), None).await.unwrap();
        assert_eq!(batch["results"][0]["resultCode"], "PermanentFailure", "{key}");
        assert!(batch["results"][0]["resultString"].as_str().unwrap().contains(code), "{batch}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_gone_is_rejected_as_not_found() {
    let lab = Lab::start().await;
    let etag = lab.put("s/gone.png", &uninfected_cell()).await;
    lab.delete("s/gone.png").await;
    let event = events::s3(&Upload::new("s/gone.png", &etag, 9));
    lab.handler().handle(&event, None).await.unwrap();
    let record = lab.result("s/gone.png").await.unwrap();
    assert_eq!(record.reject.unwrap().code, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_over_the_byte_limit_is_rejected_unread() {
    let lab = Lab::start().await;
    let mut config = lab.config.clone();
    config.limits.max_object_bytes = 1000;
    let etag = lab.put("s/large.png", &vec![0; 1001]).await;
    let event = events::s3(&Upload::new("s/large.png", &etag, 1001));
    lab.handler_of(config, lab.clients.clone()).handle(&event, None).await.unwrap();
    let record = lab.result("s/large.png").await.unwrap();
    assert_eq!(record.reject.unwrap().code, "too_large");
    assert_eq!((record.image.size_bytes, record.image.sha256), (Some(1001), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_upload_is_acknowledged_and_leaves_nothing() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    let etag = lab.put("s/", b"").await;
    let folder = Upload::new("s/", &etag, 0);
    for (form, event) in all_forms(&folder) {
        assert!(is_success(&handler.handle(&event, None).await.unwrap()), "{form}");
    }
    let mut deleted = events::s3(&Upload::new("s/c.png", "e", 1));
    deleted["Records"][0]["eventName"] = json!("ObjectRemoved:Delete");
    let answer = handler.handle(&deleted, None).await.unwrap();
    assert_eq!((&answer["ignored_events"], &answer["retried"]), (&json!(1), &json!(0)));
    let answer = handler.handle(&events::sqs([events::s3_test().to_string()]), None).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": []}));

    let mut own = events::s3(&Upload::new("results/stage=prod/date=2026-11-22/x.json", "e", 1));
    own["Records"][0]["s3"]["bucket"]["name"] = json!(giemsa_tests::lab::RESULTS);
    let answer = handler.handle(&own, None).await.unwrap();
    assert_eq!((&answer["skipped"], &answer["retried"]), (&json!(1), &json!(0)));
    assert!(lab.result_objects().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_bucket_is_handed_back_and_never_lost() {
    let lab = Lab::start().await;
    let mut event = events::s3(&Upload::new("s/c.png", "e", 1));
    event["Records"][0]["s3"]["bucket"]["name"] = json!("somebody-elses");
    let error = lab.handler().handle(&event, None).await.unwrap_err();
    assert!(error.to_string().contains("somebody-elses"), "{error}");
    let answer = lab.handler().handle(&events::sqs([event.to_string()]), None).await.unwrap();
    assert_eq!(answer, json!({"batchItemFailures": [{"itemIdentifier": "message-0"}]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_model_everything_is_retried_and_nothing_is_rejected() {
    let lab = Lab::without_model().await;
    let etag = lab.put("s/text.png", b"no image").await;
    let upload = Upload::new("s/text.png", &etag, 8);
    let handler = lab.handler();
    for bad_model in [None, Some(&b"not onnx"[..])] {
        if let Some(bytes) = bad_model {
            lab.put_model("prod", bytes).await;
        }
        for (form, event) in all_forms(&upload) {
            let answer = handler.handle(&event, None).await;
            let is_retried = match (&answer, form.starts_with("S3 Batch")) {
                (Err(HandlerError::Unanswered { .. }), _) => true,
                (Ok(answer), true) => answer["results"][0]["resultCode"] == "TemporaryFailure",
                (Ok(answer), false) => answer["batchItemFailures"][0]["itemIdentifier"] == "message-0",
                _ => false,
            };
            assert!(is_retried, "{form} answered {answer:?}");
        }
    }
    assert!(lab.result("s/text.png").await.is_none());
    lab.put_model("prod", &giemsa_tests::lab::sample_model()).await;
    handler.handle(&events::s3(&upload), None).await.unwrap();
    assert_eq!(lab.result("s/text.png").await.unwrap().status, Status::Rejected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_model_answers_the_next_batch_and_a_bad_one_never() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    let cell = uninfected_cell();
    let etag = lab.put("s/c.png", &cell).await;
    let event = events::s3(&Upload::new("s/c.png", &etag, cell.len()));
    handler.handle(&event, None).await.unwrap();
    let first = lab.result("s/c.png").await.unwrap();

    let good = giemsa_tests::lab::sample_model();
    for bad in [&good[..good.len() / 2], b"text", b""] {
        lab.put_model("prod", bad).await;
        handler.handle(&event, None).await.unwrap();
        assert_eq!(lab.result("s/c.png").await.unwrap().model, first.model);
    }
    let next = giemsa_tests::lab::sample_model_with("giemsa.version", "2");
    lab.put_model("prod", &next).await;
    handler.handle(&event, None).await.unwrap();
    let second = lab.result("s/c.png").await.unwrap();
    assert_eq!(second.model.version, "2");
    assert_ne!(second.result_id, first.result_id);
    assert_eq!(lab.result_objects().await.len(), 2, "the first model's result stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_do_not_touch_each_other() {
    let lab = Lab::start().await;
    lab.put_model("dev", &giemsa_tests::lab::sample_model()).await;
    let cell = uninfected_cell();
    let etag = lab.put("s/c.png", &cell).await;
    let event = events::s3(&Upload::new("s/c.png", &etag, cell.len()));
    lab.handler().handle(&event, None).await.unwrap();
    let prod = lab.result("s/c.png").await.unwrap();
    lab.handler_of(giemsa_tests::lab::config("dev"), lab.clients.clone()).handle(&event, None).await.unwrap();
    let history =
        lab.table().image(giemsa_tests::lab::INPUT, "s/c.png", &giemsa_config::DEFAULT_STAGES).await.unwrap();
    let stages: Vec<&str> = history.results.iter().map(|record| record.stage.as_str()).collect();
    assert_eq!(stages, ["dev", "prod"]);
    assert_eq!(history.results[1], prod);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_event_is_an_error_and_an_empty_one_is_not() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    assert!(handler.handle(&json!({"hello": "world"}), None).await.is_err());
    assert!(handler.handle(&json!({"Records": []}), None).await.is_ok());
}

proptest! {
    #[test]
    fn any_key_survives_every_form(key in "\\PC{1,60}|[ +%&=/?#\\\\~*'()é-]{1,40}") {
        let upload = Upload::new(&key, "etag", 1);
        for (form, event) in all_forms(&upload) {
            let parsed = giemsa_core::event::parse_event(&event).unwrap();
            let notices = parsed.deliveries[0].notices.clone().unwrap();
            let giemsa_core::event::Notice::Created(object) = &notices[0] else { panic!("{form}") };
            prop_assert_eq!(&object.key, &key, "{}", form);
            prop_assert_eq!(object.bucket.as_str(), giemsa_tests::lab::INPUT);
        }
    }
}
