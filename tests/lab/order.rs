//! Which upload of a key is the current one: with sequencers, without, within one second, replaced, deleted.

use giemsa_core::object::{ObjectRef, Sequencer};
use giemsa_core::record::{Finding, ImageInfo, Record, Reject, Status};
use giemsa_model::Model;
use giemsa_store::{ImageKey, TableWriter, make_current};
use giemsa_tests::lab::events::{self, Upload};
use giemsa_tests::lab::faults::{Fault, faulty};
use giemsa_tests::lab::{INPUT, Lab, file, uninfected_cell};
use serde_json::{Value, json};

const KEY: &str = "slide/cell.png";

/// Another image than `uninfected_cell`, of the same kind.
fn other_cell() -> Vec<u8> {
    file("sample-images/slide-001-healthy/cell-02.png")
}

/// A record as the pipeline makes it of what S3 holds now.
async fn record_of(lab: &Lab, model: &Model, key: &str) -> Record {
    let head = lab.clients.s3.head_object().bucket(INPUT).key(key).send().await.unwrap();
    let mut image = ImageInfo::of_object(&ObjectRef::new(INPUT, key));
    image.etag = head.e_tag().map(|etag| etag.trim_matches('"').to_owned());
    let at = head.last_modified().unwrap();
    image.uploaded_at = chrono::DateTime::from_timestamp(at.secs(), 0);
    let reject = Reject { code: "corrupt".into(), message: "a test".into() };
    Record::new(image, "prod", model.info(), Finding::Rejected(reject))
}

async fn current_etag(lab: &Lab, key: &str) -> Option<String> {
    lab.result(key).await.unwrap().image.etag
}

async fn answer(lab: &Lab, event: &Value) -> Value {
    lab.handler().handle(event, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sequencers_decide_in_any_order_of_arrival() {
    let lab = Lab::start().await;
    let model = Model::load(&giemsa_tests::lab::sample_model()).unwrap();
    let table = TableWriter::new(lab.clients.dynamodb.clone(), giemsa_tests::lab::TABLE);
    // Of unequal length, oldest first; upload times say nothing within a second.
    let sequencers = ["0055AED6DCD90281E5", "0055AED6DCD90281E6", "0055AED7", "0055AED7F"];
    let orders: [[usize; 4]; 5] = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2], [3, 0, 1, 2]];
    for (case, order) in orders.iter().enumerate() {
        let key = format!("order/{case}.png");
        lab.put(&key, b"any").await;
        let template = record_of(&lab, &model, &key).await;
        for &i in order {
            let mut image = template.image.clone();
            image.etag = Some(i.to_string());
            let reject = Reject { code: "corrupt".into(), message: "a test".into() };
            let record = Record::new(image, "prod", model.info(), Finding::Rejected(reject));
            let sequencer = Sequencer::parse(sequencers[i]);
            // And once more, late: it changes nothing.
            for _ in 0..2 {
                make_current(&lab.clients.s3, &table, &record, sequencer.as_ref()).await.unwrap();
            }
        }
        assert_eq!(current_etag(&lab, &key).await.as_deref(), Some("3"), "order {order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sequencers_the_newest_of_two_uploads_within_a_second_wins_in_any_order() {
    let lab = Lab::start().await;
    let model = Model::load(&giemsa_tests::lab::sample_model()).unwrap();
    let table = TableWriter::new(lab.clients.dynamodb.clone(), giemsa_tests::lab::TABLE);
    let s3 = &lab.clients.s3;
    for round in 0..6 {
        let key = format!("second/{round}.png");
        let mut records = Vec::new();
        for content in [b"first".as_slice(), b"second", b"third"] {
            lab.put(&key, content).await;
            let mut record = record_of(&lab, &model, &key).await;
            // The whole second says nothing, and a multipart upload may even have begun before the one it follows.
            let begun = chrono::DateTime::from_timestamp(1_700_000_000 - records.len() as i64, 0);
            record.image.uploaded_at = begun;
            records.push(record);
        }
        let newest = records[2].image.etag.clone();
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        for index in orders[round] {
            make_current(s3, &table, &records[index], None).await.unwrap();
        }
        assert_eq!(current_etag(&lab, &key).await, newest, "order {:?}", orders[round]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_with_a_sequencer_and_one_without_agree() {
    let lab = Lab::start().await;
    let (old, new) = (uninfected_cell(), other_cell());
    for backfill_first in [true, false] {
        let key = format!("mixed/{backfill_first}.png");
        let old_etag = lab.put(&key, &old).await;
        let old_upload = Upload { sequencer: "0A", ..Upload::new(&key, &old_etag, old.len()) };
        answer(&lab, &events::s3(&old_upload)).await;
        let new_etag = lab.put(&key, &new).await;
        let new_upload = Upload { sequencer: "0B", ..Upload::new(&key, &new_etag, new.len()) };
        let mut events = [events::s3_batch_1(&new_upload), events::s3(&new_upload), events::s3(&old_upload)];
        if !backfill_first {
            events.reverse();
        }
        for event in events {
            answer(&lab, &event).await;
            assert_eq!(current_etag(&lab, &key).await.as_ref(), Some(&new_etag));
        }
        let image = ImageKey { bucket: INPUT.into(), key };
        let (_, sequencer) = lab.table().current(&image, "prod").await.unwrap().unwrap();
        assert!(sequencer.is_none() || sequencer == Sequencer::parse("0B"), "{sequencer:?}");
    }
}

/// The event of the first upload reads the third image; then the second's, which was read long ago, is stored.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_replaced_the_announced_one_does_not_take_its_place_in_the_order() {
    let lab = Lab::start().await;
    let model = Model::load(&giemsa_tests::lab::sample_model()).unwrap();
    let table = TableWriter::new(lab.clients.dynamodb.clone(), giemsa_tests::lab::TABLE);
    let first = lab.put(KEY, b"first").await;
    lab.put(KEY, b"second").await;
    let second = record_of(&lab, &model, KEY).await;
    let cell = uninfected_cell();
    let third = lab.put(KEY, &cell).await;

    answer(&lab, &events::s3(&Upload { sequencer: "01", ..Upload::new(KEY, &first, 5) })).await;
    assert_eq!(current_etag(&lab, KEY).await.as_ref(), Some(&third));
    let is_current =
        make_current(&lab.clients.s3, &table, &second, Sequencer::parse("02").as_ref()).await.unwrap();
    assert!(!is_current);
    assert_eq!(current_etag(&lab, KEY).await.as_ref(), Some(&third));

    let own = Upload { sequencer: "03", ..Upload::new(KEY, &third, cell.len()) };
    answer(&lab, &events::s3(&own)).await;
    let image = ImageKey { bucket: INPUT.into(), key: KEY.into() };
    let (_, sequencer) = lab.table().current(&image, "prod").await.unwrap().unwrap();
    assert_eq!(sequencer, Sequencer::parse("03"), "its own event gives it its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_survives_the_image_and_a_late_delivery() {
    let lab = Lab::start().await;
    let cell = uninfected_cell();
    let etag = lab.put(KEY, &cell).await;
    let upload = Upload::new(KEY, &etag, cell.len());
    answer(&lab, &events::s3(&upload)).await;
    let (record, objects) = (lab.result(KEY).await.unwrap(), lab.result_objects().await);
    assert_eq!(record.status, Status::Classified);

    lab.delete(KEY).await;
    for (form, event) in events::all_forms(&upload) {
        answer(&lab, &event).await;
        assert_eq!(lab.result(KEY).await.unwrap(), record, "{form} came again when the image was gone");
        assert_eq!(lab.result_objects().await, objects, "{form} came again when the image was gone");
    }
}

/// Answered, but killed before the table was told; when the event comes again the image is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_object_is_not_replaced_by_the_word_that_the_image_is_gone() {
    let lab = Lab::start().await;
    let cell = uninfected_cell();
    let etag = lab.put(KEY, &cell).await;
    let event = events::s3(&Upload::new(KEY, &etag, cell.len()));
    let clients = faulty(&lab.clients, |seen| (seen.operation == "PutItem").then_some(Fault::Break));
    lab.handler_of(lab.config.clone(), clients).handle(&event, None).await.unwrap_err();
    let objects = lab.result_objects().await;
    assert_eq!(objects.len(), 1);
    lab.delete(KEY).await;
    // The event says when the object was created, and so on which day its result is filed.
    let mut event = event;
    let stored: Value = serde_json::from_slice(objects.values().next().unwrap()).unwrap();
    event["Records"][0]["eventTime"] = stored["image"]["uploaded_at"].clone();
    answer(&lab, &event).await;
    assert_eq!(lab.result_objects().await, objects);
    assert_eq!(lab.result(KEY).await.unwrap().status, Status::Classified, "the answer that was given stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_gone_replaces_only_what_came_before_it() {
    let lab = Lab::start().await;
    let cell = uninfected_cell();
    let etag = lab.put(KEY, &cell).await;
    answer(&lab, &events::s3(&Upload { sequencer: "0B", ..Upload::new(KEY, &etag, cell.len()) })).await;
    let answered = lab.result(KEY).await.unwrap();
    lab.delete(KEY).await;

    let earlier = Upload { sequencer: "0A", ..Upload::new(KEY, "an earlier etag", 9) };
    answer(&lab, &events::s3(&earlier)).await;
    assert_eq!(lab.result(KEY).await.unwrap(), answered);
    // Its own terminal state is in the results prefix all the same.
    let codes: Vec<Value> = lab
        .result_objects()
        .await
        .values()
        .map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap()["reject"]["code"].clone())
        .collect();
    assert!(codes.contains(&json!("not_found")) && codes.len() == 2, "{codes:?}");

    let later = Upload { sequencer: "0C", ..Upload::new(KEY, "a later etag", 9) };
    answer(&lab, &events::s3(&later)).await;
    assert_eq!(lab.result(KEY).await.unwrap().reject.unwrap().code, "not_found");
}
