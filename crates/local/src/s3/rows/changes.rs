//! The index as writes change it: a blob becomes the latest version of its key, a key or a version is deleted.
//!
//! SQL only: it touches no file, and returns which blobs no row refers to any more. A write takes effect with the commit
//! of its index row, in the same transaction as its notification: nothing is visible without its notification, and
//! nothing half written is visible.
//!
//! The version of a key with the greatest number is the one that is marked as its latest.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Transaction, params};

use crate::Subscription;
use crate::queue;
use crate::s3::StoreError;
use crate::s3::notify::{Created, Creation, notification};
use crate::s3::operations::conditions::{WriteConditions, failed};
use crate::s3::rows::buckets::{self, Versioning};
use crate::s3::rows::versions::{self, VersionId, VersionRow, Wanted};
use crate::state::next_number;

/// A version whose blob is on disk, about to become the latest one.
#[derive(Debug, Clone)]
pub(crate) struct NewObject {
    pub(crate) creation: Creation,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) blob: i64,
    pub(crate) size_bytes: u64,
    pub(crate) etag: String,
    pub(crate) about: String,
    pub(crate) conditions: WriteConditions,
}

/// What a commit did.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) modified_s: i64,
    /// The id that answers name.
    pub(crate) version_id: Option<String>,
    /// Blobs that no row refers to any more.
    pub(crate) unused: Vec<i64>,
}

/// What a deletion did.
#[derive(Debug, Default)]
pub(crate) struct Deleted {
    /// The version that was made or removed: a delete marker, or the version that was asked for.
    pub(crate) version_id: Option<String>,
    /// Whether that version is, or was, a delete marker.
    pub(crate) is_marker: bool,
    /// Blobs that no row refers to any more.
    pub(crate) unused: Vec<i64>,
}

/// Makes a blob the latest version of its key and queues its notifications.
pub(crate) fn commit(
    tx: &Transaction<'_>,
    new: &NewObject,
    subscriptions: &[Subscription],
    now: DateTime<Utc>,
) -> Result<Committed, StoreError> {
    let NewObject { creation, bucket, key, size_bytes, etag, conditions, .. } = new;
    let versioning = judge(tx, bucket, key, conditions)?;
    let replaced = match versioning {
        Versioning::Enabled => None,
        Versioning::Never | Versioning::Suspended => remove_version(tx, bucket, key, VersionId::Null)?,
    };
    // Drawn here and not when the upload began: writes of one key are numbered in the order of their commits.
    let number = next_number(tx, now)?;
    let (id, modified_s) = (new_id(versioning, number), now.timestamp());
    insert_latest(tx, bucket, key, number, id, modified_s, Some(new))?;
    for subscription in subscriptions.iter().filter(|subscription| subscription.bucket == *bucket) {
        // As in S3, a version that the next write replaces is not named.
        let version_id = (id != VersionId::Null).then(|| id.to_string());
        let created = Created {
            creation: *creation,
            bucket,
            key,
            version_id: version_id.as_deref(),
            size_bytes: *size_bytes,
            etag,
            sequencer: number,
            at: now,
        };
        queue::insert(tx, &subscription.queue, &notification(&created), now)?;
    }
    Ok(Committed { modified_s, version_id: id.shown(versioning), unused: unused(tx, replaced)? })
}

/// Deletes a key, which in a versioned bucket makes a delete marker, or one version of it for good.
///
/// It is not an error if there is nothing to delete.
pub(crate) fn delete(
    tx: &Transaction<'_>,
    bucket: &str,
    key: &str,
    wanted: Wanted,
    conditions: &WriteConditions,
    now: DateTime<Utc>,
) -> Result<Deleted, StoreError> {
    let versioning = judge(tx, bucket, key, conditions)?;
    let removed = match (wanted, versioning) {
        (Wanted::Version(id), _) => remove_version(tx, bucket, key, id)?,
        (Wanted::Latest, Versioning::Enabled) => None,
        (Wanted::Latest, Versioning::Never | Versioning::Suspended) => {
            remove_version(tx, bucket, key, VersionId::Null)?
        }
    };
    let was_marker = removed.as_ref().is_some_and(|version| version.content.is_none());
    let mut deleted = Deleted { unused: unused(tx, removed)?, ..Default::default() };
    match (wanted, versioning) {
        (Wanted::Version(id), _) => {
            (deleted.version_id, deleted.is_marker) = (Some(id.to_string()), was_marker);
        }
        (Wanted::Latest, Versioning::Never) => {}
        (Wanted::Latest, Versioning::Enabled | Versioning::Suspended) => {
            let number = next_number(tx, now)?;
            let id = new_id(versioning, number);
            insert_latest(tx, bucket, key, number, id, now.timestamp(), None)?;
            (deleted.version_id, deleted.is_marker) = (Some(id.to_string()), true);
        }
    }
    Ok(deleted)
}

fn new_id(versioning: Versioning, number: i64) -> VersionId {
    match versioning {
        Versioning::Enabled => VersionId::Numbered(number),
        Versioning::Never | Versioning::Suspended => VersionId::Null,
    }
}

/// Adds a version, which has the greatest number of all; without content a delete marker.
fn insert_latest(
    tx: &Transaction<'_>,
    bucket: &str,
    key: &str,
    number: i64,
    id: VersionId,
    modified_s: i64,
    content: Option<&NewObject>,
) -> rusqlite::Result<()> {
    set_latest(tx, bucket, key, false)?;
    tx.prepare_cached(
        "INSERT INTO version (bucket, key, number, is_null, is_latest, modified_s, blob, size_bytes, etag, about)
         VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        bucket,
        key.as_bytes(),
        number,
        id == VersionId::Null,
        modified_s,
        content.map(|new| new.blob),
        content.map(|new| new.size_bytes),
        content.map(|new| &new.etag),
        content.map(|new| &new.about),
    ])
    .map(|_| ())
}

/// Removes a version for good; the next older one is the latest if this one was.
fn remove_version(
    tx: &Transaction<'_>,
    bucket: &str,
    key: &str,
    id: VersionId,
) -> rusqlite::Result<Option<VersionRow>> {
    let Some(number) = versions::number_of(tx, bucket, key, id)? else {
        return Ok(None);
    };
    let Some(version) = versions::lookup(tx, bucket, key, Wanted::Version(id))? else {
        return Ok(None);
    };
    tx.prepare_cached("DELETE FROM version WHERE bucket = ?1 AND key = ?2 AND number = ?3")?
        .execute(params![bucket, key.as_bytes(), number])?;
    if version.is_latest {
        set_latest(tx, bucket, key, true)?;
    }
    Ok(Some(version))
}

/// Says of the version of a key with the greatest number, if there is any, whether it is the latest.
fn set_latest(tx: &Transaction<'_>, bucket: &str, key: &str, is_latest: bool) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE version SET is_latest = ?3 WHERE bucket = ?1 AND key = ?2
         AND number = (SELECT max(number) FROM version WHERE bucket = ?1 AND key = ?2)",
    )?
    .execute(params![bucket, key.as_bytes(), is_latest])
    .map(|_| ())
}

/// The blob of a removed version, unless a copy of it is still there.
fn unused(tx: &Transaction<'_>, removed: Option<VersionRow>) -> rusqlite::Result<Vec<i64>> {
    let Some(object) = removed.and_then(|version| version.content) else {
        return Ok(Vec::new());
    };
    let is_used = tx.prepare_cached("SELECT 1 FROM version WHERE blob = ?1")?.exists([object.blob])?;
    Ok(if is_used { Vec::new() } else { vec![object.blob] })
}

/// All blobs that a version or a part refers to.
pub(crate) fn blobs_in_use(connection: &Connection) -> Result<BTreeSet<i64>, StoreError> {
    let mut statement =
        connection.prepare("SELECT blob FROM version WHERE blob IS NOT NULL UNION SELECT blob FROM part")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Judges the conditions of a write by what a reader would get: a deleted key is one that is not there.
///
/// Returns what the bucket does with the version that is replaced.
pub(crate) fn judge(
    connection: &Connection,
    bucket: &str,
    key: &str,
    conditions: &WriteConditions,
) -> Result<Versioning, StoreError> {
    let versioning = buckets::require(connection, bucket)?;
    let latest =
        versions::lookup(connection, bucket, key, Wanted::Latest)?.and_then(|version| version.content);
    if conditions.allow(latest.as_ref().map(|object| object.etag.as_str())) {
        Ok(versioning)
    } else {
        Err(failed(key).into())
    }
}
