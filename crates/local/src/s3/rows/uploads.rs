//! The index of multipart uploads: which are open, and which parts have arrived.
//!
//! SQL only, like `index.rs`. An upload ends in the transaction that completes or aborts it, so that it ends once.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use s3s::dto::CompletedPart;
use s3s::{S3Error, S3Result, s3_error};

use crate::s3::StoreError;
use crate::s3::rows::buckets;

/// The least size of every part but the last.
const MIN_PART_BYTES: u64 = 5 << 20;

/// An open multipart upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UploadRow {
    pub(crate) id: String,
    pub(crate) bucket: String,
    pub(crate) key: String,
    /// An [`About`](crate::s3::rows::about::About) as JSON.
    pub(crate) about: String,
    pub(crate) created_s: i64,
}

/// A part that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartRow {
    pub(crate) number: i32,
    pub(crate) blob: i64,
    pub(crate) etag: String,
    pub(crate) size_bytes: u64,
    pub(crate) modified_s: i64,
}

pub(crate) fn open(tx: &Transaction<'_>, upload: &UploadRow) -> Result<(), StoreError> {
    let UploadRow { id, bucket, key, about, created_s } = upload;
    buckets::require(tx, bucket)?;
    tx.execute(
        "INSERT INTO upload (id, bucket, key, about, created_s) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id, bucket, key.as_bytes(), about, created_s],
    )?;
    Ok(())
}

/// The open upload with this id, if it is for this key.
pub(crate) fn find(
    connection: &Connection,
    id: &str,
    bucket: &str,
    key: &str,
) -> Result<UploadRow, StoreError> {
    connection
        .prepare_cached("SELECT about, created_s FROM upload WHERE id = ?1 AND bucket = ?2 AND key = ?3")?
        .query_row(params![id, bucket, key.as_bytes()], |row| {
            let (id, bucket, key) = (id.to_owned(), bucket.to_owned(), key.to_owned());
            Ok(UploadRow { id, bucket, key, about: row.get(0)?, created_s: row.get(1)? })
        })
        .optional()?
        .ok_or_else(|| no_such_upload(id).into())
}

/// The open uploads of a bucket, in the order of their keys.
pub(crate) fn all_open(connection: &Connection, bucket: &str) -> Result<Vec<UploadRow>, StoreError> {
    let mut statement = connection
        .prepare("SELECT id, key, about, created_s FROM upload WHERE bucket = ?1 ORDER BY key, created_s")?;
    let rows = statement.query_map([bucket], |row| {
        let key: Vec<u8> = row.get(1)?;
        // It was a `String` when it was stored.
        let (bucket, key) = (bucket.to_owned(), String::from_utf8_lossy(&key).into_owned());
        Ok(UploadRow { id: row.get(0)?, bucket, key, about: row.get(2)?, created_s: row.get(3)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Adds a part to an open upload; returns the blob of the part that it replaces.
pub(crate) fn record_part(
    tx: &Transaction<'_>,
    upload: &UploadRow,
    part: &PartRow,
) -> Result<Option<i64>, StoreError> {
    // It may have been aborted or completed while the part came in.
    find(tx, &upload.id, &upload.bucket, &upload.key)?;
    let replaced = tx
        .prepare_cached("SELECT blob FROM part WHERE upload = ?1 AND number = ?2")?
        .query_row(params![upload.id, part.number], |row| row.get(0))
        .optional()?;
    tx.prepare_cached("INSERT OR REPLACE INTO part VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
        upload.id,
        part.number,
        part.blob,
        part.etag,
        part.size_bytes,
        part.modified_s
    ])?;
    Ok(replaced)
}

/// The parts that have arrived, by number.
pub(crate) fn parts(connection: &Connection, upload: &str) -> Result<Vec<PartRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT number, blob, etag, size_bytes, modified_s FROM part WHERE upload = ?1 ORDER BY number",
    )?;
    let rows = statement.query_map([upload], |row| {
        Ok(PartRow {
            number: row.get(0)?,
            blob: row.get(1)?,
            etag: row.get(2)?,
            size_bytes: row.get(3)?,
            modified_s: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The parts of an upload that the list names, if they may be joined.
pub(crate) fn chosen(
    connection: &Connection,
    upload: &str,
    listed: &[CompletedPart],
) -> Result<Vec<PartRow>, StoreError> {
    Ok(choose(parts(connection, upload)?, listed)?)
}

/// Ends an upload; returns the blobs of its parts.
pub(crate) fn close(tx: &Transaction<'_>, upload: &UploadRow) -> Result<Vec<i64>, StoreError> {
    find(tx, &upload.id, &upload.bucket, &upload.key)?;
    let blobs = parts(tx, &upload.id)?.into_iter().map(|part| part.blob).collect();
    tx.execute("DELETE FROM upload WHERE id = ?1", [&upload.id])?;
    Ok(blobs)
}

fn choose(arrived: Vec<PartRow>, listed: &[CompletedPart]) -> S3Result<Vec<PartRow>> {
    if listed.is_empty() {
        return Err(s3_error!(InvalidPart, "the list of parts is empty, it must name at least one"));
    }
    let number_of = |part: &CompletedPart| part.part_number.unwrap_or_default();
    if let Some([after, part]) = listed.array_windows().find(|[a, b]| number_of(b) <= number_of(a)) {
        return Err(s3_error!(
            InvalidPartOrder,
            "part {} is listed after part {}; expected the parts in ascending order",
            number_of(part),
            number_of(after)
        ));
    }
    let mut chosen = Vec::with_capacity(listed.len());
    for (index, part) in listed.iter().enumerate() {
        let number = number_of(part);
        let Ok(found) = arrived.binary_search_by_key(&number, |arrived| arrived.number) else {
            return Err(s3_error!(InvalidPart, "part {number} is listed but was never uploaded"));
        };
        let found = &arrived[found];
        if let Some(etag) = part.e_tag.as_ref().filter(|etag| etag.value() != found.etag) {
            return Err(s3_error!(
                InvalidPart,
                "part {number} is listed with ETag {}, the one uploaded has {}",
                etag.value(),
                found.etag
            ));
        }
        if index + 1 < listed.len() && found.size_bytes < MIN_PART_BYTES {
            return Err(s3_error!(
                EntityTooSmall,
                "part {number} has {} bytes, every part but the last needs at least {MIN_PART_BYTES}",
                found.size_bytes
            ));
        }
        chosen.push(found.clone());
    }
    Ok(chosen)
}

/// The answer to whoever names an upload that does not exist, or not for this key, or is completed or aborted.
pub(crate) fn no_such_upload(id: &str) -> S3Error {
    s3_error!(NoSuchUpload, "there is no open upload `{id}` for this key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::dto::ETag;

    fn arrived(number: i32, size_bytes: u64) -> PartRow {
        PartRow { number, blob: 0, etag: format!("e{number}"), size_bytes, modified_s: 0 }
    }

    fn listed(number: i32, etag: &str) -> CompletedPart {
        CompletedPart {
            part_number: Some(number),
            e_tag: Some(ETag::Strong(etag.into())),
            ..Default::default()
        }
    }

    #[test]
    fn only_what_was_uploaded_can_be_completed() {
        let parts = [arrived(1, MIN_PART_BYTES), arrived(2, 1), arrived(3, 1)];
        let choose = |list: &[CompletedPart]| match choose(parts.to_vec(), list) {
            Ok(chosen) => Ok(chosen.iter().map(|part| part.number).collect::<Vec<_>>()),
            Err(refused) => Err(refused.code().as_str().to_owned()),
        };
        assert_eq!(choose(&[listed(1, "e1"), listed(2, "e2")]), Ok(vec![1, 2]));
        assert_eq!(choose(&[listed(1, "e1")]), Ok(vec![1]));
        // Numbers may have gaps.
        assert_eq!(choose(&[listed(1, "e1"), listed(3, "e3")]), Ok(vec![1, 3]));
        assert_eq!(choose(&[listed(2, "e2")]), Ok(vec![2]));
        for (list, code) in [
            (&[][..], "InvalidPart"),
            (&[listed(1, "other")], "InvalidPart"),
            (&[listed(1, "e1"), listed(4, "e4")], "InvalidPart"),
            (&[listed(3, "e3"), listed(1, "e1")], "InvalidPartOrder"),
            (&[listed(1, "e1"), listed(1, "e1")], "InvalidPartOrder"),
            (&[listed(1, "e1"), listed(2, "e2"), listed(3, "e3")], "EntityTooSmall"),
        ] {
            assert_eq!(choose(list), Err(code.to_owned()), "{list:?}");
        }
    }
}
