//! Operations on messages: send, receive, delete, hide.
//!
//! It never says that a message is sent before it is on disk. Of a batch each entry is answered by its id, and what is
//! wrong with one leaves the others alone.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::Sqs;
use super::attributes::{
    MessageAttribute, SYSTEM_ATTRIBUTES, md5_of_attributes, md5_of_body, message_attributes,
    system_attributes,
};
use super::error::SqsError;
use super::queues::Empty;
use crate::queue::{Message, NewMessage};

/// Greatest size of a message, and of all messages of a batch together, bytes.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Most entries of a batch, and messages of a receive.
const MAX_ENTRIES: usize = 10;

/// Longest visibility timeout: 12 hours.
const MAX_HIDDEN_SECONDS: i64 = 43_200;

/// Longest delay of a message: 15 minutes.
const MAX_DELAY_SECONDS: i64 = 900;

/// Longest wait for a message.
const MAX_WAIT_SECONDS: i64 = 20;

/// What stands between queue and UUID in a receipt handle.
const RECEIPT_SEPARATOR: char = '#';

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SendMessage {
    queue_url: Option<String>,
    #[serde(flatten)]
    message: DraftFields,
}

/// What a single message and an entry of a batch have in common.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DraftFields {
    message_body: Option<String>,
    delay_seconds: Option<i64>,
    #[serde(default)]
    message_attributes: BTreeMap<String, Value>,
}

#[derive(Debug, Serialize)]
pub(super) struct Sent {
    #[serde(rename = "MessageId")]
    message_id: String,
    #[serde(rename = "MD5OfMessageBody")]
    md5_of_message_body: String,
}

/// A batch request; `T` is its kind of entry.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Batch<T> {
    queue_url: Option<String>,
    #[serde(default = "Vec::new")]
    entries: Vec<Entry<T>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<T> {
    id: String,
    #[serde(flatten)]
    fields: T,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchAnswer<T> {
    successful: Vec<Done<T>>,
    failed: Vec<FailedEntry>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Done<T> {
    id: String,
    #[serde(flatten)]
    answer: T,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct FailedEntry {
    id: String,
    sender_fault: bool,
    code: &'static str,
    message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReceiveMessage {
    queue_url: Option<String>,
    max_number_of_messages: Option<i64>,
    visibility_timeout: Option<i64>,
    wait_time_seconds: Option<i64>,
    /// The older name of the next field.
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Received {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<ReceivedMessage>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReceivedMessage {
    message_id: String,
    receipt_handle: String,
    #[serde(rename = "MD5OfBody")]
    md5_of_body: String,
    body: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    message_attributes: BTreeMap<&'static str, MessageAttribute>,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    md5_of_message_attributes: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteMessage {
    queue_url: Option<String>,
    #[serde(flatten)]
    receipt: ReceiptFields,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReceiptFields {
    receipt_handle: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChangeVisibility {
    queue_url: Option<String>,
    #[serde(flatten)]
    change: VisibilityFields,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VisibilityFields {
    receipt_handle: Option<String>,
    visibility_timeout: Option<i64>,
}

impl Sqs {
    pub(super) async fn send_message(&self, request: SendMessage) -> Result<Sent, SqsError> {
        let queue = self.existing(request.queue_url).await?;
        let message = checked_draft(request.message)?;
        let md5 = md5_of_body(&message.body);
        let mut ids = self.queue.send_all(&queue, vec![message], Utc::now()).await?;
        let message_id = ids.pop().expect("one id for one message");
        Ok(Sent { message_id, md5_of_message_body: md5 })
    }

    pub(super) async fn send_message_batch(
        &self,
        request: Batch<DraftFields>,
    ) -> Result<BatchAnswer<Sent>, SqsError> {
        let queue = self.existing(request.queue_url).await?;
        check_entries(&request.entries)?;
        let bodies = request.entries.iter().filter_map(|entry| entry.fields.message_body.as_deref());
        let found = bodies.map(str::len).sum();
        if found > MAX_MESSAGE_BYTES {
            return Err(SqsError::BatchTooLong { found, most: MAX_MESSAGE_BYTES });
        }
        let mut answer = BatchAnswer { successful: Vec::new(), failed: Vec::new() };
        let (mut messages, mut ids) = (Vec::new(), Vec::new());
        for Entry { id, fields } in request.entries {
            match checked_draft(fields) {
                Ok(message) => {
                    ids.push((id, md5_of_body(&message.body)));
                    messages.push(message);
                }
                Err(error) => answer.failed.push(failed_entry(id, &error)),
            }
        }
        let message_ids = self.queue.send_all(&queue, messages, Utc::now()).await?;
        for ((id, md5_of_message_body), message_id) in ids.into_iter().zip(message_ids) {
            answer.successful.push(Done { id, answer: Sent { message_id, md5_of_message_body } });
        }
        Ok(answer)
    }

    /// Waits, if the client wants that, until there is a message, the time is over or the server stops.
    pub(super) async fn receive_message(&self, request: ReceiveMessage) -> Result<Received, SqsError> {
        let queue = self.existing(request.queue_url).await?;
        let most =
            in_range("MaxNumberOfMessages", request.max_number_of_messages, 1, 10, "between 1 and 10")?;
        let most = usize::try_from(most.unwrap_or(1)).expect("between 1 and 10");
        let wait =
            in_range("WaitTimeSeconds", request.wait_time_seconds, 0, MAX_WAIT_SECONDS, "between 0 and 20")?;
        let hidden = request.visibility_timeout.map(|seconds| checked_hidden(Some(seconds))).transpose()?;
        let mut system = request.message_system_attribute_names;
        system.extend(request.attribute_names);
        if let Some(unknown) = system.iter().find(|name| !SYSTEM_ATTRIBUTES.contains(&name.as_str())) {
            return Err(SqsError::Invalid {
                parameter: "MessageSystemAttributeNames",
                found: unknown.clone(),
                expected: "the name of a message system attribute, such as ApproximateReceiveCount, or All",
            });
        }
        let end = Instant::now() + seconds(wait.unwrap_or(0));
        let mut stopped = self.stopped.clone();
        let messages = loop {
            let messages = self.queue.receive_hidden(&queue, most, hidden, Utc::now()).await?;
            if !messages.is_empty() || Instant::now() >= end || *stopped.borrow() {
                break messages;
            }
            tokio::select! {
                waited = self.queue.wait(&queue) => waited?,
                () = tokio::time::sleep_until(end) => {}
                // An error means that the other side is gone, which is as good a reason to stop.
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        };
        let shown = |message: &Message| {
            let own = message_attributes(message, &request.message_attribute_names);
            ReceivedMessage {
                message_id: message.id.clone(),
                receipt_handle: format!("{queue}{RECEIPT_SEPARATOR}{}", message.receipt_handle),
                md5_of_body: md5_of_body(&message.body),
                body: message.body.clone(),
                attributes: system_attributes(&queue, message, &system),
                md5_of_message_attributes: md5_of_attributes(&own),
                message_attributes: own,
            }
        };
        Ok(Received { messages: messages.iter().map(shown).collect() })
    }

    pub(super) async fn delete_message(&self, request: DeleteMessage) -> Result<Empty, SqsError> {
        let queue = self.existing(request.queue_url).await?;
        self.delete(&queue, &request.receipt).await
    }

    pub(super) async fn delete_message_batch(
        &self,
        request: Batch<ReceiptFields>,
    ) -> Result<BatchAnswer<Empty>, SqsError> {
        let queue = self.existing(request.queue_url).await?;
        check_entries(&request.entries)?;
        let mut answer = BatchAnswer { successful: Vec::new(), failed: Vec::new() };
        for Entry { id, fields } in request.entries {
            answer.add(id, self.delete(&queue, &fields).await);
        }
        Ok(answer)
    }

    pub(super) async fn change_visibility(&self, request: ChangeVisibility) -> Result<Empty, SqsError> {
        let queue = self.existing(request.queue_url).await?;
        self.hide(&queue, &request.change).await
    }

    pub(super) async fn change_visibility_batch(
        &self,
        request: Batch<VisibilityFields>,
    ) -> Result<BatchAnswer<Empty>, SqsError> {
        let queue = self.existing(request.queue_url).await?;
        check_entries(&request.entries)?;
        let mut answer = BatchAnswer { successful: Vec::new(), failed: Vec::new() };
        for Entry { id, fields } in request.entries {
            answer.add(id, self.hide(&queue, &fields).await);
        }
        Ok(answer)
    }

    /// As on AWS, to delete by a receipt that is stale succeeds and deletes nothing: whoever received the message
    /// since is at work on it.
    async fn delete(&self, queue: &str, fields: &ReceiptFields) -> Result<Empty, SqsError> {
        let receipt = receipt_of(queue, fields.receipt_handle.as_deref())?;
        if !self.queue.delete(receipt).await? {
            tracing::debug!(queue, "message not deleted: its receipt is stale");
        }
        Ok(Empty {})
    }

    async fn hide(&self, queue: &str, fields: &VisibilityFields) -> Result<Empty, SqsError> {
        let receipt = receipt_of(queue, fields.receipt_handle.as_deref())?;
        let hidden = checked_hidden(fields.visibility_timeout)?;
        let is_held = self.queue.change_visibility(receipt, hidden, Utc::now()).await?;
        if is_held { Ok(Empty {}) } else { Err(SqsError::NotInFlight) }
    }
}

impl<T> BatchAnswer<T> {
    fn add(&mut self, id: String, done: Result<T, SqsError>) {
        match done {
            Ok(answer) => self.successful.push(Done { id, answer }),
            Err(error) => self.failed.push(failed_entry(id, &error)),
        }
    }
}

fn failed_entry(id: String, error: &SqsError) -> FailedEntry {
    let code = error.code();
    FailedEntry {
        id,
        sender_fault: code.status.is_client_error(),
        code: code.query,
        message: error.to_string(),
    }
}

fn check_entries<T>(entries: &[Entry<T>]) -> Result<(), SqsError> {
    match entries.len() {
        0 => return Err(SqsError::EmptyBatch),
        1..=MAX_ENTRIES => {}
        found => return Err(SqsError::TooManyEntries { found }),
    }
    let mut seen = HashSet::new();
    for Entry { id, .. } in entries {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if id.is_empty() || id.len() > 80 || !id.bytes().all(is_plain) {
            return Err(SqsError::EntryId { id: id.clone() });
        }
        if !seen.insert(id) {
            return Err(SqsError::RepeatedId { id: id.clone() });
        }
    }
    Ok(())
}

fn checked_draft(fields: DraftFields) -> Result<NewMessage, SqsError> {
    let body = fields.message_body.ok_or(SqsError::Missing { parameter: "MessageBody" })?;
    let invalid = |parameter, found, expected| Err(SqsError::Invalid { parameter, found, expected });
    if body.is_empty() || body.len() > MAX_MESSAGE_BYTES {
        let found = format!("of {} bytes", body.len());
        return invalid("MessageBody", found, "between 1 and 1048576 bytes long");
    }
    // What XML 1.0 cannot hold, SQS does not take.
    let is_refused = |c: &char| matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if let Some(character) = body.chars().find(is_refused) {
        return Err(SqsError::Character { character: character.into() });
    }
    if let Some((name, _)) = fields.message_attributes.first_key_value() {
        // Better refused than dropped.
        return invalid("MessageAttributes", name.clone(), "empty: the local stack keeps bodies only");
    }
    let delay = in_range("DelaySeconds", fields.delay_seconds, 0, MAX_DELAY_SECONDS, "between 0 and 900")?;
    Ok(NewMessage { body, delay: seconds(delay.unwrap_or(0)) })
}

fn checked_hidden(found: Option<i64>) -> Result<Duration, SqsError> {
    let expected = "between 0 and 43200 seconds";
    let hidden = in_range("VisibilityTimeout", found, 0, MAX_HIDDEN_SECONDS, expected)?;
    hidden.map(seconds).ok_or(SqsError::Missing { parameter: "VisibilityTimeout" })
}

fn in_range(
    parameter: &'static str,
    found: Option<i64>,
    least: i64,
    most: i64,
    expected: &'static str,
) -> Result<Option<i64>, SqsError> {
    match found {
        Some(value) if !(least..=most).contains(&value) => {
            Err(SqsError::Invalid { parameter, found: value.to_string(), expected })
        }
        _ => Ok(found),
    }
}

fn seconds(checked: i64) -> Duration {
    Duration::from_secs(checked.unsigned_abs())
}

/// The queue's own receipt in a receipt handle.
fn receipt_of<'a>(queue: &str, handle: Option<&'a str>) -> Result<&'a str, SqsError> {
    let handle = handle.ok_or(SqsError::Missing { parameter: "ReceiptHandle" })?;
    let receipt =
        handle.split_once(RECEIPT_SEPARATOR).filter(|(of, _)| *of == queue).map(|(_, receipt)| receipt);
    receipt
        .filter(|receipt| Uuid::try_parse(receipt).is_ok())
        .ok_or_else(|| SqsError::Receipt { queue: queue.to_owned(), handle: handle.to_owned() })
}
