//! The versions of a key: their ids, and how one is found.
//!
//! SQL only, and reads only. A version has a number, drawn at its commit like its notification's sequencer, and its id
//! is that number in other words, so that the order of versions is known from their ids alone. What is written without
//! versioning has the id `null`.
//!
//! An id that this stack did not give out is never taken for one that it did.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, Row, params};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::s3::StoreError;
use crate::s3::operations::conditions::{ReadConditions, Verdict, failed};
use crate::s3::operations::objects::timestamp;
use crate::s3::operations::reads;
use crate::s3::rows::buckets::{self, Versioning};

/// The columns of [`version_row`], in its order.
pub(crate) const COLUMNS: &str = "key, number, is_null, is_latest, modified_s, blob, size_bytes, etag, about";

/// The id of what was written without versioning.
const NULL: &str = "null";

/// Which version of a key; a key has at most one without a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionId {
    Null,
    Numbered(i64),
}

impl VersionId {
    /// Reads what [`Display`](fmt::Display) wrote, and nothing else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == NULL {
            return Some(Self::Null);
        }
        let id = Self::Numbered(i64::from_str_radix(text, 16).ok()?);
        // Neither `+1`, nor capitals, nor a number with a zero too few is an id.
        (id.to_string() == text).then_some(id)
    }

    /// The id that answers name: none where no version ever had one.
    pub(crate) fn shown(self, versioning: Versioning) -> Option<String> {
        (versioning != Versioning::Never).then(|| self.to_string())
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str(NULL),
            Self::Numbered(number) => write!(f, "{number:016x}"),
        }
    }
}

/// Which version of a key a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Latest,
    Version(VersionId),
}

impl Wanted {
    /// What a request asks for by its `versionId`, if it has one.
    pub(crate) fn of(key: &str, version_id: Option<&str>) -> S3Result<Self> {
        match version_id {
            None => Ok(Self::Latest),
            Some("") => Err(s3_error!(InvalidArgument, "the version id is empty, it must name a version")),
            Some(text) => VersionId::parse(text).map(Self::Version).ok_or_else(|| no_such_version(key, text)),
        }
    }
}

/// What the index knows of one version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VersionRow {
    pub(crate) key: String,
    pub(crate) id: VersionId,
    pub(crate) is_latest: bool,
    /// Seconds since 1970, because HTTP dates have no fractions and all answers must agree.
    pub(crate) modified_s: i64,
    /// A delete marker has none.
    pub(crate) content: Option<Content>,
}

/// What a version holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) blob: i64,
    pub(crate) size_bytes: u64,
    /// Without quotes.
    pub(crate) etag: String,
    /// An [`About`](crate::s3::rows::about::About) as JSON.
    pub(crate) about: String,
}

/// A version that can be read.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) object: Content,
    /// Seconds since 1970.
    pub(crate) modified_s: i64,
    /// The id that answers name.
    pub(crate) version_id: Option<String>,
}

/// Reads a row with the columns [`COLUMNS`].
pub(crate) fn version_row(row: &Row<'_>) -> rusqlite::Result<VersionRow> {
    let key: Vec<u8> = row.get(0)?;
    let key = String::from_utf8(key).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
    })?;
    let id = if row.get(2)? { VersionId::Null } else { VersionId::Numbered(row.get(1)?) };
    let content = match row.get(5)? {
        None => None,
        Some(blob) => Some(Content { blob, size_bytes: row.get(6)?, etag: row.get(7)?, about: row.get(8)? }),
    };
    Ok(VersionRow { key, id, is_latest: row.get(3)?, modified_s: row.get(4)?, content })
}

/// The version that is asked for; a delete marker is an error that names it.
pub(crate) fn find(
    connection: &Connection,
    bucket: &str,
    key: &str,
    wanted: Wanted,
) -> Result<Found, StoreError> {
    let versioning = buckets::require(connection, bucket)?;
    match (lookup(connection, bucket, key, wanted)?, wanted) {
        (Some(VersionRow { key, id, modified_s, content: Some(object), .. }), _) => {
            Ok(Found { key, object, modified_s, version_id: id.shown(versioning) })
        }
        (Some(VersionRow { id, .. }), Wanted::Latest) => Err(reads::deleted(key, id).into()),
        (Some(VersionRow { id, modified_s, .. }), Wanted::Version(_)) => {
            Err(reads::delete_marker(key, id, modified_s).into())
        }
        (None, Wanted::Latest) => Err(no_such_key(key).into()),
        (None, Wanted::Version(id)) => Err(no_such_version(key, &id.to_string()).into()),
    }
}

fn no_such_key(key: &str) -> S3Error {
    s3_error!(NoSuchKey, "there is no object `{key}`")
}

fn no_such_version(key: &str, version_id: &str) -> S3Error {
    s3_error!(NoSuchVersion, "there is no version `{version_id}` of `{key}`")
}

/// Finds the source of a copy; conditions that do not hold are one error, whichever way.
pub(crate) fn find_source(
    connection: &Connection,
    bucket: &str,
    key: &str,
    wanted: Wanted,
    conditions: &ReadConditions,
) -> Result<Found, StoreError> {
    let source = find(connection, bucket, key, wanted).map_err(|error| match error {
        // The method is allowed, the source is not; and the headers would speak of the copy.
        StoreError::Refused(answer) if *answer.code() == S3ErrorCode::MethodNotAllowed => {
            s3_error!(InvalidRequest, "the source of a copy is a delete marker: name a version with content")
                .into()
        }
        StoreError::Refused(answer) if *answer.code() == S3ErrorCode::NoSuchKey => no_such_key(key).into(),
        error => error,
    })?;
    match conditions.judge(&source.object.etag, &timestamp(source.modified_s)) {
        Verdict::Proceed => Ok(source),
        Verdict::NotModified | Verdict::Failed => Err(failed(key).into()),
    }
}

/// The version that is asked for, if there is one.
pub(crate) fn lookup(
    connection: &Connection,
    bucket: &str,
    key: &str,
    wanted: Wanted,
) -> rusqlite::Result<Option<VersionRow>> {
    let (which, number) = match wanted {
        Wanted::Latest => ("?3 IS NULL ORDER BY number DESC LIMIT 1", None),
        Wanted::Version(VersionId::Null) => ("is_null = 1 AND ?3 IS NULL", None),
        Wanted::Version(VersionId::Numbered(number)) => ("is_null = 0 AND number = ?3", Some(number)),
    };
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM version WHERE bucket = ?1 AND key = ?2 AND {which}"))?
        .query_row(params![bucket, key.as_bytes(), number], version_row)
        .optional()
}

/// The number of a version, by which the versions of its key are in order; `None` if there is no such version.
pub(crate) fn number_of(
    connection: &Connection,
    bucket: &str,
    key: &str,
    id: VersionId,
) -> rusqlite::Result<Option<i64>> {
    match id {
        VersionId::Numbered(number) => Ok(Some(number)),
        VersionId::Null => connection
            .prepare_cached("SELECT number FROM version WHERE bucket = ?1 AND key = ?2 AND is_null = 1")?
            .query_row(params![bucket, key.as_bytes()], |row| row.get(0))
            .optional(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_read_back_as_what_they_are(number in 0..i64::MAX) {
            let id = VersionId::Numbered(number);
            prop_assert_eq!(VersionId::parse(&id.to_string()), Some(id));
        }

        #[test]
        fn what_is_no_id_is_not_taken_for_one(text in "[+0-9a-fA-F]{0,17}") {
            if let Some(id) = VersionId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn lookalikes_of_an_id_are_none() {
        let id = VersionId::Numbered(0x0006_44ab_cdef_0123).to_string();
        assert_eq!(id, "000644abcdef0123");
        for text in ["", "NULL", "644abcdef0123", "000644ABCDEF0123", "+00644abcdef0123", "-00644abcdef0123"]
        {
            assert_eq!(VersionId::parse(text), None, "{text}");
        }
        assert_eq!(VersionId::parse("null"), Some(VersionId::Null));
    }
}
