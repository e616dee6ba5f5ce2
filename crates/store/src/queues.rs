//! Queues as commands use them: send, count, empty, and go through the dead letters.
//!
//! It never deletes a dead letter before its queue has it again, and never keeps one from others for longer than it
//! looks. Ended at any moment, nothing is lost: what was received becomes visible again by itself, and what was sent
//! and not yet deleted is answered twice, which writes the same result.

mod dead_letters;

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry};

use crate::aws::{sqs_client_at, sqs_client_from_env};
use giemsa_config::{ConfigError, QueueNames};

pub use dead_letters::{DeadLetter, DeadLetters};

/// Most entries of a batch.
const MAX_ENTRIES: usize = 10;

/// Bodies of one batch together, bytes: what every version of SQS takes.
const MAX_BATCH_BYTES: usize = 256 << 10;

/// Tries of an entry that SQS does not take for reasons of its own.
const MAX_TRIES: u32 = 5;

/// Wait before the second try of entries, doubled with each.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Why a queue could not be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueClientError {
    /// The environment does not say which queue.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// SQS or the network failed.
    #[error("queue {queue:?}: {action} failed: {detail}")]
    Request {
        /// URL or name of the queue.
        queue: String,
        /// What was to be done.
        action: &'static str,
        /// What SQS or the network says.
        detail: String,
    },
    /// Not all messages were taken.
    #[error(
        "queue {queue:?} did not take {not_sent} of {asked} messages ({detail}); sending all of them again is safe"
    )]
    NotSent {
        /// URL of the queue.
        queue: String,
        /// Messages that were to be sent.
        asked: usize,
        /// Messages that were not, or of which nobody knows.
        not_sent: usize,
        /// What SQS or the network says.
        detail: String,
    },
    /// The queue keeps no dead letters.
    #[error(
        "queue {queue:?} has no dead-letter queue in its redrive policy (found {found:?}): set GIEMSA_DLQ_URL to the \
         URL of the one to use"
    )]
    NoDeadLetterQueue {
        /// URL of the queue.
        queue: String,
        /// The redrive policy, empty if there is none.
        found: String,
    },
    /// Letters were sent to their queue, but are still in the dead-letter queue.
    #[error(
        "{count} messages were sent to their queue, but not deleted from {queue:?} ({detail}); they would be answered \
         twice, with the same result"
    )]
    NotDeleted {
        /// URL of the dead-letter queue.
        queue: String,
        /// Letters that are in both queues.
        count: usize,
        /// What SQS or the network says.
        detail: String,
    },
    /// More messages than can be held back at once.
    #[error(
        "queue {queue:?} holds more than {most} messages that are to stay where they are: redrive some of them first"
    )]
    TooManyHeld {
        /// URL of the dead-letter queue.
        queue: String,
        /// Letters that can be held back.
        most: usize,
    },
}

/// How many messages a queue holds, by state; approximate on AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth {
    /// Ready to be received.
    pub visible: u64,
    /// Held by a receiver.
    pub in_flight: u64,
    /// Waiting for their time.
    pub delayed: u64,
}

impl QueueDepth {
    /// Messages in any state.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

/// One queue of SQS, on AWS or of the embedded stack.
#[derive(Debug, Clone)]
pub struct QueueClient {
    sqs: Client,
    url: String,
    /// Where its dead letters are, if the environment says so.
    dead_letter_url: Option<String>,
}

/// A message to be sent, with what it carries beside its body.
#[derive(Debug, Clone, Copy)]
struct OutgoingMessage<'a> {
    body: &'a str,
    attributes: Option<&'a HashMap<String, MessageAttributeValue>>,
}

/// What became of a few messages.
struct SentBatch {
    /// Of each message whether the queue has it.
    taken: Vec<bool>,
    /// Why one is not taken, if one is not.
    detail: String,
}

impl QueueClient {
    /// The queue at `url`.
    #[must_use]
    pub fn new(sqs: Client, url: impl Into<String>) -> Self {
        Self { sqs, url: url.into(), dead_letter_url: None }
    }

    /// The main queue of a stage's classifier, as the environment names it: `GIEMSA_QUEUE_URL`, or `classify-<stage>`
    /// of the embedded stack.
    ///
    /// # Errors
    /// [`QueueClientError`] if the environment names none, or it does not exist.
    pub async fn of_stage(stage: &str) -> Result<Self, QueueClientError> {
        let names = QueueNames::for_command(stage)?;
        let sqs = sqs_client_from_env().await;
        let mut queue = match names.queue_url {
            Some(url) => Self::new(sqs, url),
            None => Self::find(sqs, &names.queue_name).await?,
        };
        queue.dead_letter_url = names.dead_letter_url;
        Ok(queue)
    }

    /// The queue of this name in the account and region of the environment, or of the embedded stack.
    ///
    /// # Errors
    /// [`QueueClientError::Request`] if it does not exist.
    pub async fn named(name: &str) -> Result<Self, QueueClientError> {
        Self::find(sqs_client_from_env().await, name).await
    }

    /// The queue of this name at the server `endpoint_url`, with the given credentials.
    ///
    /// # Errors
    /// [`QueueClientError::Request`] if it does not exist.
    pub async fn at(
        endpoint_url: &str,
        credentials: aws_sdk_sqs::config::Credentials,
        name: &str,
    ) -> Result<Self, QueueClientError> {
        Self::find(sqs_client_at(endpoint_url, credentials), name).await
    }

    async fn find(sqs: Client, name: &str) -> Result<Self, QueueClientError> {
        let found = sqs.get_queue_url().queue_name(name).send().await;
        let failed =
            |detail| QueueClientError::Request { queue: name.to_owned(), action: "looking it up", detail };
        let found = found.map_err(|error| failed(DisplayErrorContext(&error).to_string()))?;
        let url = found.queue_url.ok_or_else(|| failed("the answer has no URL".to_owned()))?;
        Ok(Self::new(sqs, url))
    }

    /// The queue's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The queue's name, the last part of its URL.
    #[must_use]
    pub fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(&self.url)
    }

    /// Sends messages, any number of them, in batches; what the queue does not take is tried again.
    ///
    /// # Errors
    /// [`QueueClientError::NotSent`] says how many were not sent; those before them were.
    pub async fn send_batch(&self, bodies: &[String]) -> Result<(), QueueClientError> {
        let mut sent = 0;
        for batch in batches(bodies, String::len) {
            let messages: Vec<OutgoingMessage<'_>> =
                batch.iter().map(|body| OutgoingMessage { body, attributes: None }).collect();
            let done = self.send_few(&messages).await;
            if done.taken.contains(&false) {
                let taken = sent + done.taken.iter().filter(|taken| **taken).count();
                return Err(self.not_sent(bodies.len(), taken, done.detail));
            }
            sent += batch.len();
        }
        Ok(())
    }

    /// How many messages it holds.
    ///
    /// # Errors
    /// [`QueueClientError::Request`].
    pub async fn depth(&self) -> Result<QueueDepth, QueueClientError> {
        use QueueAttributeName::{
            ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed,
            ApproximateNumberOfMessagesNotVisible,
        };
        let names = [
            ApproximateNumberOfMessages,
            ApproximateNumberOfMessagesNotVisible,
            ApproximateNumberOfMessagesDelayed,
        ];
        let attributes = self.attributes(&names).await?;
        let [visible, in_flight, delayed] = names.map(|name| {
            let found = attributes.get(&name).map(String::as_str).unwrap_or_default();
            let number = found.parse();
            number.map_err(|_| self.failed("counting", format!("{name} is {found:?}, expected a number")))
        });
        Ok(QueueDepth { visible: visible?, in_flight: in_flight?, delayed: delayed? })
    }

    /// Deletes all its messages.
    ///
    /// # Errors
    /// [`QueueClientError::Request`].
    pub async fn purge(&self) -> Result<(), QueueClientError> {
        let purged = self.sqs.purge_queue().queue_url(&self.url).send().await;
        purged.map(drop).map_err(|error| self.failed("emptying", DisplayErrorContext(&error).to_string()))
    }

    /// Its dead letters, to go through them once.
    ///
    /// # Errors
    /// [`QueueClientError`] if there is no dead-letter queue.
    pub async fn dead_letters(&self) -> Result<DeadLetters, QueueClientError> {
        DeadLetters::of(self).await
    }

    async fn attributes(
        &self,
        names: &[QueueAttributeName],
    ) -> Result<HashMap<QueueAttributeName, String>, QueueClientError> {
        let request = self.sqs.get_queue_attributes().queue_url(&self.url);
        let answer = request.set_attribute_names(Some(names.to_vec())).send().await;
        let answer = answer.map_err(|error| {
            self.failed("reading its attributes", DisplayErrorContext(&error).to_string())
        })?;
        Ok(answer.attributes.unwrap_or_default())
    }

    /// Sends up to ten messages. Never fails as a whole: of what is not known to be taken it says so.
    async fn send_few(&self, messages: &[OutgoingMessage<'_>]) -> SentBatch {
        let mut done = SentBatch { taken: vec![false; messages.len()], detail: String::new() };
        let mut wait = FIRST_WAIT;
        for round in 1..=MAX_TRIES {
            let open = done.taken.iter().enumerate().filter(|(_, taken)| !**taken).map(|(index, _)| index);
            let entries = open.map(|index| {
                SendMessageBatchRequestEntry::builder()
                    .id(index.to_string())
                    .message_body(messages[index].body)
                    .set_message_attributes(messages[index].attributes.cloned())
                    .build()
                    .expect("id and body are set")
            });
            let request = self.sqs.send_message_batch().queue_url(&self.url);
            let answer = match request.set_entries(Some(entries.collect())).send().await {
                Ok(answer) => answer,
                // The SDK has tried it several times already.
                Err(error) => {
                    done.detail = DisplayErrorContext(&error).to_string();
                    return done;
                }
            };
            for sent in &answer.successful {
                if let Some(taken) = index_of(&sent.id).and_then(|index| done.taken.get_mut(index)) {
                    *taken = true;
                }
            }
            if !done.taken.contains(&false) {
                return done;
            }
            if let Some(failed) = answer.failed.first() {
                let message = failed.message.as_deref().unwrap_or("no reason given");
                done.detail = format!("{}: {message}", failed.code);
            }
            if answer.failed.iter().any(|failed| failed.sender_fault) || round == MAX_TRIES {
                return done;
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        done
    }

    fn not_sent(&self, asked: usize, taken: usize, detail: String) -> QueueClientError {
        QueueClientError::NotSent { queue: self.url.clone(), asked, not_sent: asked - taken, detail }
    }

    fn failed(&self, action: &'static str, detail: String) -> QueueClientError {
        QueueClientError::Request { queue: self.url.clone(), action, detail }
    }
}

/// The index that an entry's id stands for.
fn index_of(id: &str) -> Option<usize> {
    id.parse().ok()
}

/// Cuts messages into batches that SQS takes, in order.
fn batches<T>(messages: &[T], size_bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(MAX_ENTRIES).take_while(|message| {
            bytes += size_bytes(message);
            bytes <= MAX_BATCH_BYTES
        });
        // One that is too long by itself goes alone, and SQS says what is wrong with it.
        let count = fits.count().max(1).min(rest.len());
        let (batch, more) = rest.split_at(count);
        rest = more;
        (!batch.is_empty()).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_ten_messages_and_what_sqs_takes() {
        let lengths = |sizes: &[usize]| batches(sizes, |size| *size).map(<[usize]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[1; 23]), [10, 10, 3]);
        assert_eq!(lengths(&[100 << 10; 5]), [2, 2, 1]);
        assert_eq!(lengths(&[1, 300 << 10, 1]), [1, 1, 1], "too long goes alone");
        assert!(lengths(&[]).is_empty());
    }
}
