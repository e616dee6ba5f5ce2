//! The index of buckets: which there are, and whether they keep what is replaced and deleted.
//!
//! SQL only, like `index.rs`. Never forgets that a bucket was versioned: as in S3, versioning can be suspended and not
//! turned off. A bucket that is removed holds no version, no delete marker and no open upload.

use chrono::{DateTime, Utc};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use s3s::dto::BucketVersioningStatus;
use s3s::s3_error;

use crate::s3::StoreError;

/// What a bucket does with a version that is replaced or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versioning {
    /// Removes it; nothing in the bucket ever had a version id.
    Never,
    /// Keeps it; each write is a version of its own, and a deletion a delete marker.
    Enabled,
    /// Keeps what has an id; writes and deletions replace the version `null`.
    Suspended,
}

impl Versioning {
    /// The state that S3 gives this name to.
    pub(crate) fn of_status(status: &BucketVersioningStatus) -> Option<Self> {
        match status.as_str() {
            BucketVersioningStatus::ENABLED => Some(Self::Enabled),
            BucketVersioningStatus::SUSPENDED => Some(Self::Suspended),
            _ => None,
        }
    }

    /// S3's name of this state, which has none for a bucket that was never versioned.
    pub(crate) fn status(self) -> Option<&'static str> {
        match self {
            Self::Never => None,
            Self::Enabled => Some(BucketVersioningStatus::ENABLED),
            Self::Suspended => Some(BucketVersioningStatus::SUSPENDED),
        }
    }
}

impl FromSql for Versioning {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let Some(status) = value.as_str_or_null()? else {
            return Ok(Self::Never);
        };
        Self::of_status(&BucketVersioningStatus::from(status.to_owned())).ok_or(FromSqlError::InvalidType)
    }
}

/// What the bucket does with old versions, if there is such a bucket.
pub(crate) fn require(connection: &Connection, bucket: &str) -> Result<Versioning, StoreError> {
    connection
        .prepare_cached("SELECT versioning FROM bucket WHERE name = ?1")?
        .query_row([bucket], |row| row.get(0))
        .optional()?
        .ok_or_else(|| s3_error!(NoSuchBucket, "there is no bucket `{bucket}`").into())
}

pub(crate) fn set_versioning(
    tx: &Transaction<'_>,
    bucket: &str,
    versioning: Versioning,
) -> Result<(), StoreError> {
    require(tx, bucket)?;
    tx.execute("UPDATE bucket SET versioning = ?2 WHERE name = ?1", params![bucket, versioning.status()])?;
    Ok(())
}

/// Name and time of creation (seconds since 1970) of all buckets, by name.
pub(crate) fn all(connection: &Connection) -> Result<Vec<(String, i64)>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT name, created_s FROM bucket ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(crate) fn add(tx: &Transaction<'_>, bucket: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO bucket (name, created_s) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![bucket, now.timestamp()],
    )?;
    Ok(())
}

pub(crate) fn remove(tx: &Transaction<'_>, bucket: &str) -> Result<(), StoreError> {
    require(tx, bucket)?;
    let used = "SELECT 1 FROM version WHERE bucket = ?1 UNION ALL SELECT 1 FROM upload WHERE bucket = ?1";
    if tx.prepare(used)?.exists([bucket])? {
        return Err(s3_error!(
            BucketNotEmpty,
            "bucket `{bucket}` holds objects, versions, delete markers or open uploads: delete them first"
        )
        .into());
    }
    tx.execute("DELETE FROM bucket WHERE name = ?1", [bucket])?;
    Ok(())
}
