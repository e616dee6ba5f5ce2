//! Messages in the state file: inserted, received, set aside.
//!
//! SQL inside the caller's transaction; never commits anything itself. A receive takes a message out of what other
//! receives see before it goes on to the next.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use uuid::Uuid;

use super::{
    DEAD_LETTER_TIMEOUT, Death, MAX_INTERRUPTIONS, Message, QueueError, SUSPECT_INTERRUPTIONS,
    dead_letter_queue, source_of_dead_letters,
};

/// Shortest time a received message is hidden: what stays visible would be received again at once.
const MIN_HIDDEN: Duration = Duration::from_millis(1);

/// Puts a message into a declared queue inside the caller's transaction and returns its id.
///
/// # Errors
/// [`QueueError::Undeclared`] for an unknown queue.
pub(crate) fn insert(
    tx: &Transaction<'_>,
    queue: &str,
    body: &str,
    now: DateTime<Utc>,
) -> Result<String, QueueError> {
    insert_delayed(tx, queue, body, now, Duration::ZERO)
}

pub(super) fn insert_delayed(
    tx: &Transaction<'_>,
    queue: &str,
    body: &str,
    now: DateTime<Utc>,
    delay: Duration,
) -> Result<String, QueueError> {
    settings(tx, queue)?;
    let id = Uuid::new_v4().to_string();
    tx.prepare_cached(
        "INSERT INTO message (id, queue, body, sent_ms, visible_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![id, queue, body, now.timestamp_millis(), later(now, delay)])?;
    Ok(id)
}

/// The visibility timeout in milliseconds and the greatest receive count of a declared queue or its dead-letter queue,
/// which has none.
///
/// # Errors
/// [`QueueError::Undeclared`] for an unknown queue.
pub(super) fn settings(connection: &Connection, queue: &str) -> Result<(i64, Option<u32>), QueueError> {
    let mut find = connection
        .prepare_cached("SELECT visibility_timeout_ms, max_receive_count FROM queue WHERE name = ?1")?;
    let mut find = |name: &str| find.query_row([name], |row| Ok((row.get(0)?, row.get(1)?))).optional();
    if let Some((timeout_ms, count)) = find(queue)? {
        return Ok((timeout_ms, Some(count)));
    }
    if let Some(source) = source_of_dead_letters(queue)
        && find(source)?.is_some()
    {
        let timeout_ms = DEAD_LETTER_TIMEOUT.as_millis().try_into().expect("30,000 fits");
        return Ok((timeout_ms, None));
    }
    Err(QueueError::Undeclared { queue: queue.to_owned() })
}

/// Receives messages, and sets those aside that failed too often; returns how many of these.
pub(super) fn receive(
    tx: &Transaction<'_>,
    queue: &str,
    max_messages: usize,
    hidden: Option<Duration>,
    now: DateTime<Utc>,
) -> Result<(Vec<Message>, usize), QueueError> {
    let (timeout_ms, max_receive_count) = settings(tx, queue)?;
    // At least a millisecond: what stays visible would be received again in this very loop.
    let until_ms =
        later(now, hidden.unwrap_or(Duration::from_millis(timeout_ms.unsigned_abs())).max(MIN_HIDDEN));
    let now_ms = now.timestamp_millis();
    let mut next = tx.prepare_cached(
        "SELECT number, id, receive_count, interrupted_count, last_failure FROM message
         WHERE queue = ?1 AND visible_ms <= ?2 ORDER BY visible_ms, number LIMIT 1",
    )?;
    let mut hold = tx.prepare_cached(
        "UPDATE message SET receipt = ?2, visible_ms = ?3, receive_count = receive_count + (dead_ms IS NULL),
         first_received_ms = coalesce(first_received_ms, ?4) WHERE number = ?1
         RETURNING id, receipt, body, receive_count, sent_ms, first_received_ms,
                   dead_ms, interrupted_count, last_failure",
    )?;
    let mut set_aside = tx.prepare_cached(
        "UPDATE message SET queue = ?2, receipt = NULL, visible_ms = ?3, dead_ms = ?3 WHERE number = ?1",
    )?;
    let mut messages = Vec::new();
    let mut set_aside_count = 0;
    // One at a time: each step takes the row out of what the query sees, held or set aside.
    while messages.len() < max_messages {
        let candidate = next
            .query_row(params![queue, now_ms], |row| {
                let facts: (i64, String, u32, u32, Option<String>) =
                    (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
                Ok(facts)
            })
            .optional()?;
        let Some((number, id, receives, interruptions, last_failure)) = candidate else {
            break;
        };
        let is_spent = |most| receives >= most || interruptions >= MAX_INTERRUPTIONS;
        if max_receive_count.is_some_and(is_spent) {
            set_aside_count += 1;
            set_aside.execute(params![number, dead_letter_queue(queue), now_ms])?;
            let last_failure = last_failure.unwrap_or_default();
            tracing::error!(
                queue,
                message_id = id,
                receives,
                interruptions,
                last_failure,
                "message moved to dead-letter queue"
            );
            continue;
        }
        let is_suspect = max_receive_count.is_some() && interruptions >= SUSPECT_INTERRUPTIONS;
        if is_suspect && !messages.is_empty() {
            break;
        }
        let receipt = Uuid::new_v4().to_string();
        messages.push(hold.query_row(params![number, receipt, until_ms, now_ms], |row| {
            let death = |dead_at| -> rusqlite::Result<Death> {
                Ok(Death { dead_at, interrupted_count: row.get(7)?, last_failure: row.get(8)? })
            };
            Ok(Message {
                id: row.get(0)?,
                receipt_handle: row.get(1)?,
                body: row.get(2)?,
                receive_count: row.get(3)?,
                interrupted_count: row.get(7)?,
                sent_at: time(row, 4)?,
                first_received_at: time(row, 5)?,
                death: row.get::<_, Option<i64>>(6)?.map(|_| time(row, 6).and_then(death)).transpose()?,
            })
        })?);
        if is_suspect {
            break;
        }
    }
    Ok((messages, set_aside_count))
}

pub(super) fn later(now: DateTime<Utc>, delay: Duration) -> i64 {
    let delay = TimeDelta::from_std(delay).unwrap_or(TimeDelta::MAX);
    now.checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC).timestamp_millis()
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<DateTime<Utc>> {
    let ms = row.get(column)?;
    DateTime::from_timestamp_millis(ms).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, ms))
}
