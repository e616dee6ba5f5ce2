//! Durable queues with at-least-once delivery: visibility timeout, receive count and dead-letter queue, like SQS.
//!
//! Never loses a message: it is there until it is deleted with the receipt of its latest receive, or sits in the
//! dead-letter queue `<name>-dlq` until it is redriven. [`Queue::wait`] sleeps until there is something to receive.
//! Time is passed in, except in `wait`, which has to sleep for real.
//!
//! Invariant: at most one receiver holds a message. A receipt is worth something only until the message is received
//! again.
//!
//! The dead-letter queue of a declared queue is one itself: its messages are received, hidden and deleted like any
//! message. To look at a message changes nothing of its story: it never moves on, and its counts stay as they were when
//! it was set aside.
//!
//! What a crash means: a message that was in flight when the process died is received again at once
//! ([`Queue::release_in_flight`], called at start). It does not count as a failed receive, because killing the
//! process is not a fault of the message; but after [`MAX_INTERRUPTIONS`] such deaths it goes to the dead-letter queue,
//! because an image that kills the process must not do so for ever. Who of a batch did it is not known, so after
//! [`SUSPECT_INTERRUPTIONS`] each is received alone: then the others come through.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, params};
use thiserror::Error;

pub(crate) use messages::insert;
use messages::{insert_delayed, later, receive, settings, time};

use super::state::{StateError, StateFile, Survives};

mod messages;
#[cfg(test)]
mod tests;

/// How many times the process may die with a message in flight before the message is set aside.
pub const MAX_INTERRUPTIONS: u32 = 10;

/// After how many such deaths a message is received alone, so that one that kills takes no others with it.
pub const SUSPECT_INTERRUPTIONS: u32 = 3;

/// What distinguishes one queue from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSettings {
    /// How long a received message stays hidden from other receivers, above zero.
    pub visibility_timeout: Duration,
    /// How many receives may fail before the message goes to the dead-letter queue, at least 1.
    pub max_receive_count: u32,
}

/// A message held by one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// UUID of the message, the same in every receive and in the dead-letter queue.
    pub id: String,
    /// Proof of this receive; needed to delete the message.
    pub receipt_handle: String,
    /// The text that was sent.
    pub body: String,
    /// How many times it has been received, this one included; receives cut short by a restart are not counted.
    pub receive_count: u32,
    /// How many receives were cut short by a restart.
    pub interrupted_count: u32,
    /// When it was sent.
    pub sent_at: DateTime<Utc>,
    /// When it was received for the first time.
    pub first_received_at: DateTime<Utc>,
    /// Why it is in a dead-letter queue; `None` elsewhere, and for what was sent to the dead-letter queue directly.
    pub death: Option<Death>,
}

/// How a message came into its dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// When it was set aside.
    pub dead_at: DateTime<Utc>,
    /// How many times the process died while it was in flight.
    pub interrupted_count: u32,
    /// The reason given by the last receiver that reported one.
    pub last_failure: Option<String>,
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The text.
    pub body: String,
    /// How long it stays hidden at first.
    pub delay: Duration,
}

/// A message that was set aside after too many failed receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadMessage {
    /// UUID of the message, as it was in its queue.
    pub id: String,
    /// The text that was sent.
    pub body: String,
    /// How many receives failed.
    pub receive_count: u32,
    /// How many times the process died while it was in flight.
    pub interrupted_count: u32,
    /// The reason given by the last receiver that reported one.
    pub last_failure: Option<String>,
    /// When it was sent.
    pub sent_at: DateTime<Utc>,
    /// When it was received for the first time.
    pub first_received_at: Option<DateTime<Utc>>,
    /// When it was set aside, or sent to the dead-letter queue directly.
    pub dead_at: DateTime<Utc>,
}

/// How many messages a queue holds, by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Ready to be received.
    pub visible: u64,
    /// Held by a receiver.
    pub in_flight: u64,
    /// Failed, and waiting for their next try.
    pub delayed: u64,
    /// Age of the oldest message in any state; `None` if the queue is empty.
    pub oldest_age: Option<Duration>,
}

impl Depth {
    /// Messages in any state.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

/// Why a queue could not do what was asked.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The file behind the queues could not be opened.
    #[error("cannot open the queues of the local stack")]
    Open {
        /// What is wrong with the file.
        #[from]
        source: StateError,
    },
    /// The file behind the queues failed.
    #[error("the queue file of the local stack failed")]
    Database {
        /// What SQLite said.
        #[from]
        source: rusqlite::Error,
    },
    /// A name that was never declared.
    #[error("no queue is named `{queue}`: declare it before it is used")]
    Undeclared {
        /// The name asked for.
        queue: String,
    },
    /// Settings that no queue can work with.
    #[error("queue `{queue}`: {setting} is {found}, it must be {expected}")]
    Settings {
        /// The queue.
        queue: String,
        /// The setting.
        setting: &'static str,
        /// The value given.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
}

/// The queues in one file, cheap to clone; all clones see the same messages.
#[derive(Debug, Clone)]
pub struct Queue {
    state: StateFile,
}

/// What a name of a dead-letter queue ends in.
const DEAD_LETTER_SUFFIX: &str = "-dlq";

/// How long a message that is received from a dead-letter queue stays hidden, unless the receiver says otherwise.
pub const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(30);

/// The name of the dead-letter queue of `queue`.
#[must_use]
pub fn dead_letter_queue(queue: &str) -> String {
    format!("{queue}{DEAD_LETTER_SUFFIX}")
}

/// The name of the queue whose dead-letter queue `queue` would be.
#[must_use]
pub fn source_of_dead_letters(queue: &str) -> Option<&str> {
    queue.strip_suffix(DEAD_LETTER_SUFFIX)
}

impl Queue {
    /// Opens or creates the file that holds the queues, and the index of the local stack's objects.
    ///
    /// # Errors
    /// [`QueueError::Open`] if the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, QueueError> {
        Ok(Self { state: StateFile::open(path)? })
    }

    /// The file behind the queues, for writes that must be one transaction with a message.
    pub(crate) fn state(&self) -> &StateFile {
        &self.state
    }

    /// Creates the queue or changes its settings; messages are kept.
    ///
    /// # Errors
    /// [`QueueError::Settings`] for a timeout of zero or a receive count of zero.
    pub async fn declare(&self, queue: &str, settings: QueueSettings) -> Result<(), QueueError> {
        let refuse = |setting, found, expected| QueueError::Settings {
            queue: queue.to_owned(),
            setting,
            found,
            expected,
        };
        let timeout_ms = i64::try_from(settings.visibility_timeout.as_millis()).unwrap_or(i64::MAX);
        if !(1..=i64::from(u32::MAX)).contains(&timeout_ms) {
            let found = format!("{:?}", settings.visibility_timeout);
            return Err(refuse("the visibility timeout", found, "between 1 ms and 49 days"));
        }
        if settings.max_receive_count == 0 {
            return Err(refuse("the greatest receive count", "0".to_owned(), "at least 1"));
        }
        let queue = queue.to_owned();
        self.state
            .write(Survives::PowerLoss, move |tx| {
                tx.execute(
                    "INSERT INTO queue VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET
                     visibility_timeout_ms = excluded.visibility_timeout_ms,
                     max_receive_count = excluded.max_receive_count",
                    params![queue, timeout_ms, settings.max_receive_count],
                )?;
                Ok(())
            })
            .await
    }

    /// The declared queues and their settings, by name; each has a dead-letter queue that is not listed.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn declared(&self) -> Result<Vec<(String, QueueSettings)>, QueueError> {
        self.state
            .read(|connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT name, visibility_timeout_ms, max_receive_count FROM queue ORDER BY name",
                )?;
                let rows = statement.query_map([], |row| {
                    let settings = QueueSettings {
                        visibility_timeout: Duration::from_millis(row.get(1)?),
                        max_receive_count: row.get(2)?,
                    };
                    Ok((row.get(0)?, settings))
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Makes sure that the queue is declared, or the dead-letter queue of a declared one.
    ///
    /// # Errors
    /// [`QueueError::Undeclared`] if it is not.
    pub async fn require(&self, queue: &str) -> Result<(), QueueError> {
        let queue = queue.to_owned();
        self.state.read(move |connection| settings(connection, &queue).map(|_| ())).await
    }

    /// Puts a message into the queue and returns its id; it is on disk when this returns.
    ///
    /// # Errors
    /// [`QueueError::Undeclared`] for an unknown queue.
    pub async fn send(&self, queue: &str, body: &str, now: DateTime<Utc>) -> Result<String, QueueError> {
        let (queue, body) = (queue.to_owned(), body.to_owned());
        self.state.write_and_wake(Survives::PowerLoss, move |tx| insert(tx, &queue, &body, now)).await
    }

    /// Puts messages into the queue, all or none, and returns their ids; they are on disk when this returns.
    ///
    /// # Errors
    /// [`QueueError::Undeclared`] for an unknown queue.
    pub async fn send_all(
        &self,
        queue: &str,
        messages: Vec<NewMessage>,
        now: DateTime<Utc>,
    ) -> Result<Vec<String>, QueueError> {
        let queue = queue.to_owned();
        self.state
            .write_and_wake(Survives::PowerLoss, move |tx| {
                let put =
                    |message: &NewMessage| insert_delayed(tx, &queue, &message.body, now, message.delay);
                messages.iter().map(put).collect()
            })
            .await
    }

    /// Receives up to `max_messages` visible messages, longest visible first, and hides them for the visibility timeout.
    ///
    /// Messages that failed too often are moved to the dead-letter queue on the way.
    ///
    /// # Errors
    /// [`QueueError::Undeclared`] for an unknown queue.
    pub async fn receive(
        &self,
        queue: &str,
        max_messages: usize,
        now: DateTime<Utc>,
    ) -> Result<Vec<Message>, QueueError> {
        self.receive_hidden(queue, max_messages, None, now).await
    }

    /// Like [`receive`](Self::receive), hiding the messages for `hidden` instead of the queue's visibility timeout.
    ///
    /// # Errors
    /// [`QueueError::Undeclared`] for an unknown queue.
    pub async fn receive_hidden(
        &self,
        queue: &str,
        max_messages: usize,
        hidden: Option<Duration>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Message>, QueueError> {
        let queue = queue.to_owned();
        let (messages, set_aside) = self
            .state
            .write(Survives::Kill, move |tx| receive(tx, &queue, max_messages, hidden, now))
            .await?;
        if set_aside > 0 {
            // Somebody may be waiting for dead letters.
            self.state.wake();
        }
        Ok(messages)
    }

    /// Deletes every message of the queue, held ones included, and returns how many.
    ///
    /// # Errors
    /// [`QueueError::Undeclared`] for an unknown queue.
    pub async fn purge(&self, queue: &str) -> Result<usize, QueueError> {
        let queue = queue.to_owned();
        self.state
            .write(Survives::Kill, move |tx| {
                settings(tx, &queue)?;
                Ok(tx.execute("DELETE FROM message WHERE queue = ?1", [queue])?)
            })
            .await
    }

    /// Deletes the message for good; `false` if the receipt is stale, because the message was received again or is gone.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn delete(&self, receipt_handle: &str) -> Result<bool, QueueError> {
        let receipt = receipt_handle.to_owned();
        self.state
            .write(Survives::Kill, move |tx| {
                Ok(tx.prepare_cached("DELETE FROM message WHERE receipt = ?1")?.execute([receipt])? == 1)
            })
            .await
    }

    /// Hides a held message until `now + delay`, to work on it longer; `false` if the receipt is stale.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn change_visibility(
        &self,
        receipt_handle: &str,
        delay: Duration,
        now: DateTime<Utc>,
    ) -> Result<bool, QueueError> {
        let assignments = if delay.is_zero() {
            // A message that was looked at goes back to its place, so that the next look has the same order.
            "visible_ms = CASE WHEN queue LIKE '%-dlq' THEN coalesce(dead_ms, sent_ms) ELSE ?2 END"
        } else {
            "visible_ms = ?2"
        };
        self.update_held(receipt_handle, assignments, delay, None, now).await
    }

    /// Gives a message back after a failure, to be received again after `delay`; `false` if the receipt is stale.
    ///
    /// The receive counts, and `reason` goes with the message into the dead-letter queue.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn fail(
        &self,
        receipt_handle: &str,
        reason: &str,
        delay: Duration,
        now: DateTime<Utc>,
    ) -> Result<bool, QueueError> {
        let assignments = "visible_ms = ?2, receipt = NULL, last_failure = ?3";
        self.update_held(receipt_handle, assignments, delay, Some(reason), now).await
    }

    /// Gives a message back untried, as when the worker stops or there is nothing to answer with: visible after `delay`,
    /// and the receive does not count. A `reason` is kept as that of a failure is.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn give_back(
        &self,
        receipt_handle: &str,
        reason: Option<&str>,
        delay: Duration,
        now: DateTime<Utc>,
    ) -> Result<bool, QueueError> {
        let assignments = "visible_ms = ?2, receipt = NULL, receive_count = receive_count - 1,
             last_failure = coalesce(?3, last_failure)";
        self.update_held(receipt_handle, assignments, delay, reason, now).await
    }

    async fn update_held(
        &self,
        receipt_handle: &str,
        assignments: &'static str,
        delay: Duration,
        reason: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<bool, QueueError> {
        let (receipt, reason) = (receipt_handle.to_owned(), reason.map(str::to_owned));
        let visible_ms = later(now, delay);
        self.state
            .write_and_wake(Survives::Kill, move |tx| {
                // `?3` is bound by all three callers, so that one statement shape serves them.
                let sql = format!("UPDATE message SET {assignments} WHERE receipt = ?1 AND ?3 IS ?3");
                Ok(tx.prepare_cached(&sql)?.execute(params![receipt, visible_ms, reason])? == 1)
            })
            .await
    }

    /// Counts the messages of a queue, or of its dead-letter queue when given that name.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn depth(&self, queue: &str, now: DateTime<Utc>) -> Result<Depth, QueueError> {
        let queue = queue.to_owned();
        self.state
            .read(move |connection| {
                let depth = connection
                    .prepare_cached(
                        "SELECT count(*) FILTER (WHERE visible_ms <= ?2),
                                count(*) FILTER (WHERE visible_ms > ?2 AND receipt IS NOT NULL),
                                count(*) FILTER (WHERE visible_ms > ?2 AND receipt IS NULL),
                                min(sent_ms)
                         FROM message WHERE queue = ?1",
                    )?
                    .query_row(params![queue, now.timestamp_millis()], |row| {
                        let oldest_ms: Option<i64> = row.get(3)?;
                        let age_ms =
                            oldest_ms.map(|ms| u64::try_from(now.timestamp_millis() - ms).unwrap_or(0));
                        Ok(Depth {
                            visible: row.get(0)?,
                            in_flight: row.get(1)?,
                            delayed: row.get(2)?,
                            oldest_age: age_ms.map(Duration::from_millis),
                        })
                    })?;
                Ok(depth)
            })
            .await
    }

    /// How many messages were ever sent to the queue; those that came from another queue are not.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn sent(&self, queue: &str) -> Result<u64, QueueError> {
        let queue = queue.to_owned();
        self.state
            .read(move |connection| {
                let mut statement = connection.prepare_cached("SELECT count FROM sent WHERE queue = ?1")?;
                Ok(statement.query_row([queue], |row| row.get(0)).optional()?.unwrap_or(0))
            })
            .await
    }

    /// Whether a message of the queue can be received, without counting them.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn has_visible(&self, queue: &str, now: DateTime<Utc>) -> Result<bool, QueueError> {
        let queue = queue.to_owned();
        self.state
            .read(move |connection| {
                let sql = "SELECT EXISTS (SELECT 1 FROM message WHERE queue = ?1 AND visible_ms <= ?2)";
                let mut statement = connection.prepare_cached(sql)?;
                Ok(statement.query_row(params![queue, now.timestamp_millis()], |row| row.get(0))?)
            })
            .await
    }

    /// The messages in the dead-letter queue of `queue`, oldest first, up to `limit`; they stay there.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn peek_dead_letters(&self, queue: &str, limit: usize) -> Result<Vec<DeadMessage>, QueueError> {
        let dead = dead_letter_queue(queue);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.state
            .read(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT id, body, receive_count, interrupted_count, last_failure, sent_ms, first_received_ms,
                            coalesce(dead_ms, sent_ms)
                     FROM message WHERE queue = ?1 ORDER BY number LIMIT ?2",
                )?;
                let messages = statement.query_map(params![dead, limit], |row| {
                    Ok(DeadMessage {
                        id: row.get(0)?,
                        body: row.get(1)?,
                        receive_count: row.get(2)?,
                        interrupted_count: row.get(3)?,
                        last_failure: row.get(4)?,
                        sent_at: time(row, 5)?,
                        first_received_at: row.get::<_, Option<i64>>(6)?.map(|_| time(row, 6)).transpose()?,
                        dead_at: time(row, 7)?,
                    })
                })?;
                Ok(messages.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// Moves all dead letters of `queue` back into it with fresh counts, and returns how many.
    ///
    /// # Errors
    /// [`QueueError::Undeclared`] for an unknown queue.
    pub async fn redrive(&self, queue: &str, now: DateTime<Utc>) -> Result<usize, QueueError> {
        let queue = queue.to_owned();
        self.state
            .write_and_wake(Survives::PowerLoss, move |tx| {
                settings(tx, &queue)?;
                Ok(tx.execute(
                    "UPDATE message SET queue = ?1, visible_ms = ?2, receive_count = 0, interrupted_count = 0,
                     receipt = NULL, dead_ms = NULL WHERE queue = ?3",
                    params![queue, now.timestamp_millis(), dead_letter_queue(&queue)],
                )?)
            })
            .await
    }

    /// Makes every message in flight visible at once and returns how many; for use at start, before anything receives.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn release_in_flight(&self, queue: &str, now: DateTime<Utc>) -> Result<usize, QueueError> {
        let queue = queue.to_owned();
        self.state
            .write_and_wake(Survives::Kill, move |tx| {
                // Also what has timed out meanwhile: it was cut short by the same death.
                Ok(tx.execute(
                    "UPDATE message SET visible_ms = min(visible_ms, ?2), receipt = NULL,
                     receive_count = receive_count - 1, interrupted_count = interrupted_count + 1
                     WHERE queue = ?1 AND receipt IS NOT NULL",
                    params![queue, now.timestamp_millis()],
                )?)
            })
            .await
    }

    /// Waits until a message of `queue` may be received: one is visible, is sent, or becomes visible again.
    ///
    /// It may return early; receive, and wait again if there was nothing.
    ///
    /// # Errors
    /// [`QueueError::Database`] if the file fails.
    pub async fn wait(&self, queue: &str) -> Result<(), QueueError> {
        // Followed before the look, so that a message sent in between is not missed.
        let mut changes = self.state.queue_changes();
        loop {
            let name = queue.to_owned();
            let next_ms: Option<i64> = self
                .state
                .read(move |connection| {
                    connection
                        .prepare_cached("SELECT min(visible_ms) FROM message WHERE queue = ?1")?
                        .query_row([name], |row| row.get(0))
                })
                .await?;
            // `self` holds the sending side, so `changed` cannot fail while this runs.
            let Some(next_ms) = next_ms else {
                let _ = changes.changed().await;
                continue;
            };
            let Ok(wait_ms @ 1..) = u64::try_from(next_ms - Utc::now().timestamp_millis()) else {
                return Ok(());
            };
            let _ = tokio::time::timeout(Duration::from_millis(wait_ms), changes.changed()).await;
        }
    }
}
