//! Going through the messages of a dead-letter queue once: each is looked at, and then sent to its queue or left.
//!
//! It never deletes a message that its queue does not have again. Every message that was received is held back until
//! [`DeadLetters::release_all`], so that none is seen twice in one pass; it becomes visible again by itself if this
//! process ends before. In memory are one page of messages and the receipts of those held.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageAttributeValue,
    MessageSystemAttributeName, QueueAttributeName,
};
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use serde_json::Value;
use tokio::time::Instant;

use super::{MAX_ENTRIES, MAX_TRIES, OutgoingMessage, QueueClient, QueueClientError, batches};

/// How long a message stays hidden from others at a time; renewed while the pass goes on.
const HELD_SECONDS: i32 = 300;

/// A message that would become visible within this time is held anew.
const RENEW_BEFORE: Duration = Duration::from_secs(150);

/// Receipts that are kept at most; SQS itself allows 120,000 messages in flight.
const MAX_HELD: usize = 100_000;

/// How long SQS looks for messages, seconds: above zero it asks all its servers, so that no answer means no message.
const WAIT_SECONDS: i32 = 1;

/// Batches of receipts on the way at once.
const RELEASE_CONCURRENCY: usize = 8;

/// Prefix of the message attributes in which the embedded stack tells more than SQS does.
const OWN_ATTRIBUTES: &str = "giemsa.";

/// Message attribute in which EventBridge says why it could not put an event into its queue.
const EVENTBRIDGE_ERROR: &str = "ERROR_MESSAGE";

/// A message that was given up after too many tries.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Id of the message.
    pub message_id: String,
    /// What was sent.
    pub body: String,
    /// Tries that failed before it was set aside; on AWS what the redrive policy allows, if it was set aside by that.
    pub tries: Option<u32>,
    /// How often the process died with it; only the embedded stack knows.
    pub process_deaths: Option<u32>,
    /// What the worker of the embedded stack said that gave it back last, or EventBridge that could not deliver it.
    pub last_failure: Option<String>,
    /// When it was sent.
    pub sent_at: Option<DateTime<Utc>>,
    /// Since when it is a dead letter; only the embedded stack knows.
    pub dead_since: Option<DateTime<Utc>>,
    receipt: String,
    attributes: HashMap<String, MessageAttributeValue>,
}

/// A message that is hidden from others.
#[derive(Debug)]
struct HiddenMessage {
    receipt: String,
    until: Instant,
}

/// One pass through a dead-letter queue.
#[derive(Debug)]
pub struct DeadLetters {
    main: QueueClient,
    dead: QueueClient,
    /// Tries before SQS sets a message of the main queue aside.
    max_receive_count: Option<u32>,
    /// In the order in which they become visible.
    held: VecDeque<HiddenMessage>,
}

impl DeadLetters {
    pub(super) async fn of(main: &QueueClient) -> Result<Self, QueueClientError> {
        let attributes = main.attributes(&[QueueAttributeName::RedrivePolicy]).await?;
        let text = attributes.get(&QueueAttributeName::RedrivePolicy).map(String::as_str).unwrap_or_default();
        let policy: Value = serde_json::from_str(text).unwrap_or_default();
        // AWS writes it as a number or as text, as it was set.
        let count = &policy["maxReceiveCount"];
        let max_receive_count =
            count.as_u64().or_else(|| count.as_str().and_then(|count| count.parse().ok()));
        let dead = match &main.dead_letter_url {
            Some(url) => QueueClient::new(main.sqs.clone(), url),
            None => {
                let name = policy["deadLetterTargetArn"].as_str().and_then(|arn| arn.rsplit(':').next());
                let name = name.ok_or_else(|| QueueClientError::NoDeadLetterQueue {
                    queue: main.url.clone(),
                    found: text.to_owned(),
                })?;
                QueueClient::find(main.sqs.clone(), name).await?
            }
        };
        let max_receive_count = max_receive_count.and_then(|count| u32::try_from(count).ok());
        Ok(Self { main: main.clone(), dead, max_receive_count, held: VecDeque::new() })
    }

    /// The dead-letter queue.
    #[must_use]
    pub fn queue(&self) -> &QueueClient {
        &self.dead
    }

    /// Up to ten messages that this pass has not seen; none at the end.
    ///
    /// # Errors
    /// [`QueueClientError::Request`], and [`QueueClientError::TooManyHeld`] from 100,000 messages on that stay.
    pub async fn next_page(&mut self) -> Result<Vec<DeadLetter>, QueueClientError> {
        if self.held.len() >= MAX_HELD {
            return Err(QueueClientError::TooManyHeld { queue: self.dead.url.clone(), most: MAX_HELD });
        }
        self.renew().await?;
        let until = Instant::now() + Duration::from_secs(HELD_SECONDS.unsigned_abs().into());
        let request = self.dead.sqs.receive_message().queue_url(&self.dead.url);
        let answer = request
            .max_number_of_messages(10)
            .wait_time_seconds(WAIT_SECONDS)
            .visibility_timeout(HELD_SECONDS)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await
            .map_err(|error| self.dead.failed("receiving", DisplayErrorContext(&error).to_string()))?;
        let messages = answer.messages.unwrap_or_default().into_iter().map(|message| self.message(message));
        let messages: Vec<DeadLetter> = messages.collect();
        let held = messages.iter().map(|message| HiddenMessage { receipt: message.receipt.clone(), until });
        self.held.extend(held);
        Ok(messages)
    }

    /// Sends messages to their queue and then deletes them here, in this order.
    ///
    /// # Errors
    /// [`QueueClientError::NotSent`] for messages that stay, [`QueueClientError::NotDeleted`] for those that are in both
    /// queues now.
    pub async fn redrive(&mut self, messages: &[DeadLetter]) -> Result<(), QueueClientError> {
        let mut sent_before = 0;
        for batch in batches(messages, |message| message.body.len()) {
            let drafts: Vec<OutgoingMessage<'_>> = batch
                .iter()
                .map(|message| OutgoingMessage {
                    body: &message.body,
                    attributes: Some(&message.attributes).filter(|attributes| !attributes.is_empty()),
                })
                .collect();
            let done = self.main.send_few(&drafts).await;
            let sent = batch.iter().zip(&done.taken).filter(|(_, taken)| **taken).map(|(message, _)| message);
            let sent: Vec<&DeadLetter> = sent.collect();
            self.delete(&sent).await?;
            sent_before += sent.len();
            if sent.len() < batch.len() {
                return Err(self.main.not_sent(messages.len(), sent_before, done.detail));
            }
        }
        Ok(())
    }

    /// Makes one message visible to others at once.
    ///
    /// # Errors
    /// [`QueueClientError::Request`]; it becomes visible within five minutes then.
    pub async fn release(&mut self, message: &DeadLetter) -> Result<(), QueueClientError> {
        self.forget(&message.receipt);
        self.dead.hide(vec![message.receipt.clone()], 0).await
    }

    /// Makes all messages of this pass that are still here visible to others at once.
    ///
    /// # Errors
    /// [`QueueClientError::Request`]; they become visible within five minutes then.
    pub async fn release_all(&mut self) -> Result<(), QueueClientError> {
        let receipts: Vec<String> = self.held.drain(..).map(|held| held.receipt).collect();
        let dead = &self.dead;
        let batches = receipts.chunks(MAX_ENTRIES).map(|receipts| dead.hide(receipts.to_vec(), 0));
        let batches: Vec<_> = batches.collect();
        let done: Vec<_> = stream::iter(batches).buffered(RELEASE_CONCURRENCY).collect().await;
        done.into_iter().collect()
    }

    /// Holds those messages for longer that would soon be visible.
    async fn renew(&mut self) -> Result<(), QueueClientError> {
        let soon = Instant::now() + RENEW_BEFORE;
        while self.held.front().is_some_and(|held| held.until < soon) {
            let count = self.held.iter().take(MAX_ENTRIES).take_while(|held| held.until < soon).count();
            let receipts: Vec<String> = self.held.drain(..count).map(|held| held.receipt).collect();
            let until = Instant::now() + Duration::from_secs(HELD_SECONDS.unsigned_abs().into());
            self.held
                .extend(receipts.iter().map(|receipt| HiddenMessage { receipt: receipt.clone(), until }));
            self.dead.hide(receipts, HELD_SECONDS).await?;
        }
        Ok(())
    }

    async fn delete(&mut self, messages: &[&DeadLetter]) -> Result<(), QueueClientError> {
        let mut open: Vec<&DeadLetter> = messages.to_vec();
        let mut detail = String::new();
        for _ in 0..MAX_TRIES {
            if open.is_empty() {
                return Ok(());
            }
            let entries = open.iter().enumerate().map(|(index, message)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                entry.receipt_handle(&message.receipt).build().expect("id and receipt are set")
            });
            let request = self.dead.sqs.delete_message_batch().queue_url(&self.dead.url);
            match request.set_entries(Some(entries.collect())).send().await {
                Ok(answer) => {
                    for done in &answer.successful {
                        if let Some(message) = super::index_of(&done.id).and_then(|index| open.get(index)) {
                            let receipt = message.receipt.clone();
                            self.forget(&receipt);
                        }
                    }
                    let failed = |index: usize| answer.failed.iter().any(|f| f.id == index.to_string());
                    open = open.into_iter().enumerate().filter(|(i, _)| failed(*i)).map(|(_, l)| l).collect();
                    if let Some(failed) = answer.failed.first() {
                        detail =
                            format!("{}: {}", failed.code, failed.message.as_deref().unwrap_or_default());
                    }
                }
                Err(error) => detail = DisplayErrorContext(&error).to_string(),
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        Err(QueueClientError::NotDeleted { queue: self.dead.url.clone(), count: open.len(), detail })
    }

    /// Takes a receipt out of those held; messages are worked on as they come, so that it is among the last.
    fn forget(&mut self, receipt: &str) {
        if let Some(index) = self.held.iter().rposition(|held| held.receipt == receipt) {
            self.held.remove(index);
        }
    }

    fn message(&self, message: Message) -> DeadLetter {
        let system = message.attributes.unwrap_or_default();
        let (own, attributes): (HashMap<_, _>, HashMap<_, _>) = message
            .message_attributes
            .unwrap_or_default()
            .into_iter()
            .partition(|(name, _)| name.starts_with(OWN_ATTRIBUTES));
        let own = |name: &str| own.get(&format!("{OWN_ATTRIBUTES}{name}"))?.string_value.clone();
        let undelivered = attributes.get(EVENTBRIDGE_ERROR).and_then(|error| error.string_value.as_ref());
        let undelivered =
            undelivered.map(|error| format!("EventBridge could not put it into its queue: {error}"));
        let number = |text: String| text.parse::<u32>().ok();
        let time = |text: &str| DateTime::from_timestamp_millis(text.parse().ok()?);
        let receives = system.get(&MessageSystemAttributeName::ApproximateReceiveCount).cloned();
        let receives = receives.and_then(number);
        // SQS counts looks into this queue as well, which would make it more with each.
        let counted =
            receives.map(|receives| self.max_receive_count.map_or(receives, |most| receives.min(most)));
        // What somebody sent to this queue directly was never tried.
        let was_set_aside = system.contains_key(&MessageSystemAttributeName::DeadLetterQueueSourceArn);
        DeadLetter {
            message_id: message.message_id.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
            tries: own("failed_receives").and_then(number).or(counted.filter(|_| was_set_aside)),
            process_deaths: own("process_deaths").and_then(number),
            last_failure: own("last_failure").or(undelivered),
            sent_at: system.get(&MessageSystemAttributeName::SentTimestamp).and_then(|text| time(text)),
            dead_since: own("dead_since").and_then(|text| time(&text)),
            receipt: message.receipt_handle.unwrap_or_default(),
            attributes,
        }
    }
}

impl QueueClient {
    /// Hides up to ten messages for so long, or shows them at once; what somebody else holds by now is left to them.
    async fn hide(&self, receipts: Vec<String>, seconds: i32) -> Result<(), QueueClientError> {
        let entries = receipts.into_iter().enumerate().map(|(index, receipt)| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(receipt)
                .visibility_timeout(seconds)
                .build()
                .expect("id and receipt are set")
        });
        let request = self.sqs.change_message_visibility_batch().queue_url(&self.url);
        let action = if seconds == 0 { "giving messages back" } else { "holding messages back" };
        let answer = request.set_entries(Some(entries.collect())).send().await;
        let answer = answer.map_err(|error| self.failed(action, DisplayErrorContext(&error).to_string()))?;
        match answer.failed.iter().find(|failed| !failed.sender_fault) {
            None => Ok(()),
            Some(failed) => Err(self.failed(
                action,
                format!("{}: {}", failed.code, failed.message.as_deref().unwrap_or_default()),
            )),
        }
    }
}
