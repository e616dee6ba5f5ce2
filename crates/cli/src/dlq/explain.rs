//! Explains a dead letter: which uploads it is about, why they were given up, and whether that still matters.
//!
//! A message that cannot be read is shown with the reason, never left out.

use anyhow::Context;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use giemsa_core::event::{Notice, parse_event};
use giemsa_core::object::{MAX_KEY_BYTES, ObjectRef};
use giemsa_local::queue::MAX_INTERRUPTIONS;
use giemsa_store::queues::DeadLetter;
use giemsa_store::{FailureNote, ImageKey, TableReader};
use serde::Serialize;
use serde_json::json;

use super::super::model::Deployment;

/// Messages that are looked up at once: a page.
const CONCURRENCY: usize = 10;

/// Longest name of a bucket that S3 takes, bytes.
const MAX_BUCKET_BYTES: usize = 255;

/// A dead letter and what is known about it.
#[derive(Debug, Serialize)]
pub(super) struct Explained {
    message_id: String,
    /// The uploads it is about; none if it cannot be read or is about something else.
    pub uploads: Vec<ExplainedUpload>,
    /// Why it was given up, as far as anybody noted it.
    pub reason: Option<String>,
    /// The message itself, if it is not about an upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// Tries that failed; absent if it was sent here directly.
    pub tries: Option<u32>,
    /// How often the process died with it, if the queue knows.
    pub process_deaths: Option<u32>,
    /// When it was sent.
    pub sent_at: Option<DateTime<Utc>>,
    /// Since when it is a dead letter, if the queue knows.
    pub dead_since: Option<DateTime<Utc>>,
}

/// One upload of a message.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedUpload {
    pub bucket: String,
    pub key: String,
    /// Version, or else ETag, as the event names it.
    object_version: Option<String>,
    pub state: UploadState,
    /// Why the last try failed, as the classifier noted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureNote>,
}

/// What a dead letter means now for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum UploadState {
    /// It has its answer meanwhile; the message can be deleted or sent again, to the same effect.
    Answered,
    /// The current answer of its key is of another upload.
    OtherUploadAnswered,
    /// It has no answer.
    Unanswered,
    /// It is not in the bucket that this deployment classifies.
    OtherBucket,
}

impl UploadState {
    /// For the table.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::OtherUploadAnswered => "another upload answered",
            Self::Unanswered => "NOT ANSWERED",
            Self::OtherBucket => "other bucket",
        }
    }
}

impl Explained {
    /// Whether `text` is in the address of an upload, in the reason or in the message id.
    pub(super) fn matches(&self, text: &str) -> bool {
        let mut addresses = self.uploads.iter().map(ExplainedUpload::address);
        addresses.any(|address| address.contains(text))
            || self.reason.as_ref().is_some_and(|reason| reason.contains(text))
            || self.message_id.contains(text)
    }

    /// What stands in place of an image.
    pub(super) fn title(&self) -> String {
        format!("(message {})", self.message_id)
    }
}

impl ExplainedUpload {
    /// `s3://<bucket>/<key>`.
    pub(super) fn address(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }
}

/// Explains a page of messages, in their order.
pub(super) async fn explain_page(
    deployment: &Deployment,
    stage: &str,
    messages: &[DeadLetter],
) -> anyhow::Result<Vec<Explained>> {
    let explained: Vec<_> = messages.iter().map(|message| explain(deployment, stage, message)).collect();
    stream::iter(explained).buffered(CONCURRENCY).try_collect().await
}

async fn explain(deployment: &Deployment, stage: &str, message: &DeadLetter) -> anyhow::Result<Explained> {
    let (objects, of_body) = objects_of(message);
    let mut uploads = Vec::with_capacity(objects.len());
    for object in &objects {
        uploads.push(upload_of(deployment, stage, object).await?);
    }
    let noted = uploads.iter().find_map(|upload| upload.failure.as_ref().map(|note| note.reason.clone()));
    let deaths = message.process_deaths.filter(|deaths| *deaths >= MAX_INTERRUPTIONS);
    let died =
        deaths.map(|deaths| format!("the process died {deaths} times while it worked on this message"));
    Ok(Explained {
        message_id: message.message_id.clone(),
        reason: of_body.or(died).or(noted).or_else(|| message.last_failure.clone()),
        body: uploads.is_empty().then(|| message.body.clone()),
        uploads,
        tries: message.tries,
        process_deaths: message.process_deaths,
        sent_at: message.sent_at,
        dead_since: message.dead_since,
    })
}

/// The uploads of a message, and what is wrong with it if it has none.
fn objects_of(message: &DeadLetter) -> (Vec<ObjectRef>, Option<String>) {
    // As an event source mapping would deliver it, so that every form is read that the classifier reads.
    let record = json!({ "messageId": message.message_id, "eventSource": "aws:sqs", "body": message.body });
    let deliveries = match parse_event(&json!({ "Records": [record] })) {
        Ok(event) => event.deliveries,
        Err(error) => return (Vec::new(), Some(error.to_string())),
    };
    let (mut objects, mut others) = (Vec::new(), Vec::new());
    for delivery in deliveries {
        match delivery.notices {
            Ok(notices) => {
                for notice in notices {
                    match notice {
                        Notice::Created(object) => objects.push(object),
                        Notice::Ignored { event_name } => others.push(event_name),
                    }
                }
            }
            Err(error) => return (Vec::new(), Some(error.to_string())),
        }
    }
    let reason = objects.is_empty().then(|| format!("it is not about an upload: {}", others.join(", ")));
    (objects, reason)
}

async fn upload_of(
    deployment: &Deployment,
    stage: &str,
    object: &ObjectRef,
) -> anyhow::Result<ExplainedUpload> {
    let version = object.version_id.clone().or_else(|| object.etag.clone());
    let can_exist = object.key.len() <= MAX_KEY_BYTES && object.bucket.len() <= MAX_BUCKET_BYTES;
    let failure = match can_exist {
        true => failure_of(&deployment.table, stage, object, version.as_deref()).await?,
        false => None,
    };
    let state = if object.bucket != deployment.config.input_bucket {
        UploadState::OtherBucket
    } else if can_exist {
        state_of(&deployment.table, stage, object, version.as_deref()).await?
    } else {
        UploadState::Unanswered
    };
    let ObjectRef { bucket, key, .. } = object.clone();
    Ok(ExplainedUpload { bucket, key, object_version: version, state, failure })
}

async fn state_of(
    table: &TableReader,
    stage: &str,
    object: &ObjectRef,
    version: Option<&str>,
) -> anyhow::Result<UploadState> {
    let image = ImageKey { bucket: object.bucket.clone(), key: object.key.clone() };
    Ok(match table.current(&image, stage).await? {
        None => UploadState::Unanswered,
        Some((record, _)) if Some(record.image.object_version()) == version => UploadState::Answered,
        Some(_) => UploadState::OtherUploadAnswered,
    })
}

/// Why the upload has no answer, as the classifier noted it.
async fn failure_of(
    table: &TableReader,
    stage: &str,
    object: &ObjectRef,
    version: Option<&str>,
) -> anyhow::Result<Option<FailureNote>> {
    let notes = table.failures(&object.bucket, &object.key, stage).await;
    let notes = notes.context("the reason of a dead letter cannot be read")?;
    Ok(notes.into_iter().find(|note| note.object_version == version.unwrap_or_default()))
}
