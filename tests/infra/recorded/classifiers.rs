//! The life of the functions that answer images: no model, a refused one, a good one; uploads that end in every way.
//!
//! Both stages live through the same, by queue and by job.

use chrono::Utc;
use giemsa_core::digest::sha256_hex;
use giemsa_core::record::ModelInfo;
use giemsa_store::{LedgerEntry, TableWriter};
use serde_json::{Value, json};

use super::cloud::{Cloud, Function};
use giemsa_tests::lab::events::{Upload, eventbridge, s3_batch_2, sqs};
use giemsa_tests::lab::{INPUT, TABLE, file, sample_model, uninfected_cell};

/// What asks for images to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Queue,
    Job,
}

/// A function that answers images.
pub struct Classifier {
    pub function: Function,
    stage: String,
    trigger: Trigger,
}

/// An upload as an event tells of it.
#[derive(Clone)]
struct Told {
    key: String,
    etag: String,
    version_id: Option<String>,
    /// Its place in the order of its key.
    sequencer: Option<&'static str>,
}

impl Classifier {
    async fn start(cloud: &Cloud, prefix: &str, stage: &str, trigger: Trigger) -> Self {
        let kind = if trigger == Trigger::Queue { "Classifier" } else { "Backfill" };
        let function = Function::start(cloud, &format!("{prefix}{kind}")).await;
        Self { function, stage: stage.to_owned(), trigger }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.function.name)
    }

    async fn upload(&self, cloud: &Cloud, name: &str, bytes: Vec<u8>) -> Told {
        let key = self.key(name);
        let (etag, version_id) = cloud.upload(&key, bytes).await;
        Told { key, etag, version_id: Some(version_id), sequencer: Some("0055AED6DCD90281E5") }
    }

    /// Delivers an upload, and returns whether it is answered.
    async fn deliver(&mut self, told: &Told, tries_before: u32) -> bool {
        let mut upload = Upload::new(&told.key, &told.etag, 1);
        upload.sequencer = told.sequencer.unwrap_or_default();
        let event = match self.trigger {
            Trigger::Queue => {
                let mut event = eventbridge(&upload);
                let object = event["detail"]["object"].as_object_mut().unwrap();
                object.remove("size");
                if let Some(version_id) = &told.version_id {
                    object.insert("version-id".to_owned(), json!(version_id));
                }
                if told.sequencer.is_none() {
                    object.remove("sequencer");
                }
                let mut event = sqs([event.to_string()]);
                let count = (tries_before + 1).to_string();
                event["Records"][0]["attributes"]["ApproximateReceiveCount"] = count.into();
                event
            }
            Trigger::Job => {
                let mut event = s3_batch_2(&upload);
                event["tasks"][0]["s3VersionId"] = json!(told.version_id);
                event
            }
        };
        let answer = self.function.invoke(&event).await;
        match self.trigger {
            Trigger::Queue => answer["batchItemFailures"] == json!([]),
            Trigger::Job => answer["results"][0]["resultCode"] != "TemporaryFailure",
        }
    }

    async fn answered(&mut self, told: &Told) {
        assert!(self.deliver(told, 0).await, "{}: {}\n{}", self.function.name, told.key, self.function.log());
    }

    /// The status, or the code of the rejection, that the table holds.
    async fn found(&self, cloud: &Cloud, key: &str) -> Value {
        let history = cloud.lab.table().image(INPUT, key, &[&self.stage]).await.unwrap();
        let record = history.results.first().unwrap_or_else(|| panic!("{key}: {}", self.function.log()));
        assert!(history.failures.is_empty(), "{key}: {:?}", history.failures);
        record.reject.as_ref().map_or_else(|| json!(record.status), |reject| json!(reject.code))
    }

    async fn with_a_good_model(&mut self, cloud: &Cloud) {
        let blank = self.upload(cloud, "blank.png", file("sample-images/not-a-cell/blank.png")).await;
        self.answered(&blank).await;
        self.answered(&blank).await;
        assert_eq!(self.found(cloud, &blank.key).await, "classified");
        let text = self.upload(cloud, "text.png", b"no image".to_vec()).await;
        self.answered(&text).await;
        assert_eq!(self.found(cloud, &text.key).await, "not_an_image");
        // As a bucket that keeps no versions tells of it.
        let unversioned = self.upload(cloud, "unversioned.png", uninfected_cell()).await;
        self.answered(&Told { version_id: None, ..unversioned }).await;

        // Another upload of the key, whose place in the order nobody tells: S3 is asked.
        let first = self.upload(cloud, "twice.png", uninfected_cell()).await;
        self.answered(&first).await;
        let second = self.upload(cloud, "twice.png", b"no image".to_vec()).await;
        self.answered(&Told { sequencer: None, ..second.clone() }).await;
        assert_eq!(self.found(cloud, &second.key).await, "not_an_image");

        // A version that is gone, another that is answered, and the first once more: its answer is read, not replaced.
        let gone = self.upload(cloud, "gone.png", uninfected_cell()).await;
        let delete = cloud.lab.clients.s3.delete_object().bucket(INPUT).key(&gone.key);
        delete.set_version_id(gone.version_id.clone()).send().await.unwrap();
        self.answered(&gone).await;
        assert_eq!(self.found(cloud, &gone.key).await, "not_found");
        let there = self.upload(cloud, "gone.png", uninfected_cell()).await;
        self.answered(&Told { sequencer: Some("0055AED6DCD90281E6"), ..there }).await;
        self.answered(&gone).await;
        assert_eq!(self.found(cloud, &gone.key).await, "classified");
    }

    /// Answers an upload that is there, for the first time or once more.
    pub async fn answer(&mut self, cloud: &Cloud, key: &str) {
        let key = key.to_owned();
        let head = cloud.lab.clients.s3.head_object().bucket(INPUT).key(&key).send().await.unwrap();
        let etag = head.e_tag().unwrap().trim_matches('"').to_owned();
        let version_id = head.version_id().map(str::to_owned);
        self.answered(&Told { key, etag, version_id, sequencer: Some("0055AED6DCD90281E5") }).await;
    }
}

/// Has the classifier and the backfill of a stage live through everything. The sample model, which is in the archive, is the
/// one that the stage served last.
pub async fn live(cloud: &Cloud, prefix: &str, stage: &str) -> [Classifier; 2] {
    let model = sample_model();
    let served = ModelInfo { name: "sample".into(), version: "1".into(), sha256: sha256_hex(&model) };
    let entry = LedgerEntry { stage: stage.to_owned(), released_at: Utc::now(), model: served };
    TableWriter::new(cloud.lab.clients.dynamodb.clone(), TABLE).put_ledger(&entry).await.unwrap();
    let place = format!("{stage}/model.onnx");
    let mut both = [
        Classifier::start(cloud, prefix, stage, Trigger::Queue).await,
        Classifier::start(cloud, prefix, stage, Trigger::Job).await,
    ];
    // Step by step for both: they share the stage's model.
    let mut early = Vec::new();
    for classifier in &mut both {
        let cell = classifier.upload(cloud, "cell.png", uninfected_cell()).await;
        assert!(!classifier.deliver(&cell, 0).await, "{}: there is no model", classifier.function.name);
        early.push(cell);
    }
    cloud.put_model(&place, b"<html>no model</html>".to_vec()).await;
    for (classifier, cell) in both.iter_mut().zip(&early) {
        let is_answered = classifier.deliver(cell, 1).await;
        assert!(is_answered, "the archived model answers: {}", classifier.function.log());
        assert_eq!(classifier.found(cloud, &cell.key).await, "classified");
    }
    cloud.put_model(&place, model).await;
    for classifier in &mut both {
        classifier.with_a_good_model(cloud).await;
    }
    both
}

/// Uploads an image and delivers it by a queue, and returns whether it is answered.
pub async fn answer_one(cloud: &Cloud, function: &mut Function, key: &str) -> bool {
    let (etag, _) = cloud.upload(key, uninfected_cell()).await;
    let event = sqs([eventbridge(&Upload::new(key, &etag, uninfected_cell().len())).to_string()]);
    function.invoke(&event).await["batchItemFailures"] == json!([])
}
