//! The index: which file holds the current version of each key, and what a listing says of it.
//!
//! SQL only: never touches an object's file. A write takes effect with the commit of its index row, in the same
//! transaction as its notification: nothing is visible without its notification, and nothing half written is visible.
//!
//! Invariant: every file that s3s-fs was ever asked to write is current for exactly one key, or belongs to an open
//! upload, or is listed as a leftover.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::StoreError;
use super::conditions::WriteConditions;
use super::keys::file_for;
use super::notify::{Created, Creation, notification};
use crate::local::Subscription;
use crate::local::queue;
use crate::local::state::next_number;

/// What the index knows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectRow {
    pub(super) key: String,
    /// Relative to the bucket's folder.
    pub(super) file: String,
    pub(super) size_bytes: u64,
    /// Without quotes.
    pub(super) etag: String,
    /// Seconds since 1970, because HTTP dates have no fractions and all answers must agree.
    pub(super) modified_s: i64,
}

/// A version whose file is complete, about to become the current one.
#[derive(Debug, Clone)]
pub(super) struct NewObject {
    pub(super) creation: Creation,
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) file: String,
    pub(super) size_bytes: u64,
    pub(super) etag: String,
    pub(super) conditions: WriteConditions,
}

/// What a commit did.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) modified_s: i64,
    /// The file of the version before, now a leftover.
    pub(super) replaced: Option<String>,
}

/// Columns in the order `key, file, size_bytes, etag, modified_s`.
pub(super) fn object_row(row: &Row<'_>) -> rusqlite::Result<ObjectRow> {
    let key: Vec<u8> = row.get(0)?;
    let key = String::from_utf8(key).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
    })?;
    Ok(ObjectRow {
        key,
        file: row.get(1)?,
        size_bytes: row.get(2)?,
        etag: row.get(3)?,
        modified_s: row.get(4)?,
    })
}

pub(super) fn find(connection: &Connection, bucket: &str, key: &str) -> Result<ObjectRow, StoreError> {
    let found = existing(connection, bucket, key)?;
    match found {
        Some(object) => Ok(object),
        None => {
            require_bucket(connection, bucket)?;
            Err(StoreError::NoSuchKey { key: key.to_owned() })
        }
    }
}

pub(super) fn existing(
    connection: &Connection,
    bucket: &str,
    key: &str,
) -> rusqlite::Result<Option<ObjectRow>> {
    connection
        .prepare_cached(
            "SELECT key, file, size_bytes, etag, modified_s FROM object WHERE bucket = ?1 AND key = ?2",
        )?
        .query_row(params![bucket, key.as_bytes()], object_row)
        .optional()
}

pub(super) fn require_bucket(connection: &Connection, bucket: &str) -> Result<(), StoreError> {
    let exists = connection.prepare_cached("SELECT 1 FROM bucket WHERE name = ?1")?.exists([bucket])?;
    if exists { Ok(()) } else { Err(StoreError::NoSuchBucket { bucket: bucket.to_owned() }) }
}

/// Name and time of creation (seconds since 1970) of all buckets, by name.
pub(super) fn buckets(connection: &Connection) -> Result<Vec<(String, i64)>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT name, created_s FROM bucket ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn add_bucket(tx: &Transaction<'_>, bucket: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO bucket VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![bucket, now.timestamp()],
    )?;
    Ok(())
}

pub(super) fn remove_bucket(tx: &Transaction<'_>, bucket: &str) -> Result<(), StoreError> {
    require_bucket(tx, bucket)?;
    let used = "SELECT 1 FROM object WHERE bucket = ?1 UNION ALL SELECT 1 FROM upload WHERE bucket = ?1";
    if tx.prepare(used)?.exists([bucket])? {
        return Err(StoreError::BucketNotEmpty { bucket: bucket.to_owned() });
    }
    tx.execute("DELETE FROM bucket WHERE name = ?1", [bucket])?;
    Ok(())
}

/// Names the file for a new version; until the commit it counts as a leftover.
pub(super) fn begin_write(
    tx: &Transaction<'_>,
    bucket: &str,
    key: &str,
    conditions: &WriteConditions,
    now: DateTime<Utc>,
) -> Result<String, StoreError> {
    require_bucket(tx, bucket)?;
    // Also judged at the commit, which decides; here it spares the client from sending the body.
    judge(tx, bucket, key, conditions)?;
    let file = file_for(bucket, key, next_number(tx, now)?);
    add_leftover(tx, bucket, &file)?;
    Ok(file)
}

/// Makes a complete file the current version of its key and queues its notifications.
pub(super) fn commit(
    tx: &Transaction<'_>,
    new: &NewObject,
    subscriptions: &[Subscription],
    now: DateTime<Utc>,
) -> Result<Committed, StoreError> {
    let NewObject { creation, bucket, key, file, size_bytes, etag, conditions } = new;
    require_bucket(tx, bucket)?;
    let replaced = judge(tx, bucket, key, conditions)?.map(|object| object.file);
    let modified_s = now.timestamp();
    tx.prepare_cached("INSERT OR REPLACE INTO object VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
        bucket,
        key.as_bytes(),
        file,
        size_bytes,
        etag,
        modified_s
    ])?;
    remove_leftover(tx, bucket, file)?;
    if let Some(replaced) = &replaced {
        add_leftover(tx, bucket, replaced)?;
    }
    // Drawn here and not when the upload began: writes of one key are numbered in the order of their commits.
    let sequencer = next_number(tx, now)?;
    for subscription in subscriptions.iter().filter(|subscription| subscription.bucket == *bucket) {
        let created =
            Created { creation: *creation, bucket, key, size_bytes: *size_bytes, etag, sequencer, at: now };
        queue::insert(tx, &subscription.queue, &notification(&created), now)?;
    }
    Ok(Committed { modified_s, replaced })
}

/// Removes a key and returns the file that held it, now a leftover; `None` if there was none.
pub(super) fn remove(
    tx: &Transaction<'_>,
    bucket: &str,
    key: &str,
    conditions: &WriteConditions,
) -> Result<Option<String>, StoreError> {
    require_bucket(tx, bucket)?;
    let Some(object) = judge(tx, bucket, key, conditions)? else {
        return Ok(None);
    };
    tx.prepare_cached("DELETE FROM object WHERE bucket = ?1 AND key = ?2")?
        .execute(params![bucket, key.as_bytes()])?;
    add_leftover(tx, bucket, &object.file)?;
    Ok(Some(object.file))
}

/// Bucket and file of everything that no key points to.
pub(super) fn leftovers(connection: &Connection) -> Result<Vec<(String, String)>, StoreError> {
    let mut statement = connection.prepare("SELECT bucket, file FROM leftover")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn add_leftover(tx: &Transaction<'_>, bucket: &str, file: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO leftover VALUES (?1, ?2)")?.execute([bucket, file]).map(|_| ())
}

pub(super) fn remove_leftover(tx: &Transaction<'_>, bucket: &str, file: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM leftover WHERE bucket = ?1 AND file = ?2")?
        .execute([bucket, file])
        .map(|_| ())
}

fn judge(
    connection: &Connection,
    bucket: &str,
    key: &str,
    conditions: &WriteConditions,
) -> Result<Option<ObjectRow>, StoreError> {
    let object = existing(connection, bucket, key)?;
    if conditions.allow(object.as_ref().map(|object| object.etag.as_str())) {
        Ok(object)
    } else {
        Err(StoreError::ConditionFailed { key: key.to_owned() })
    }
}
