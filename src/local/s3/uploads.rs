//! The index of multipart uploads: which are open, and which parts have arrived.
//!
//! SQL only, like `index.rs`. s3s-fs neither lists parts with their ETags nor checks them when an upload is
//! completed, and it throws the parts away when it refuses to complete; so that is checked here, before it is asked.
//!
//! Invariant: an upload is completed by at most one request.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use s3s::dto::CompletedPart;

use super::StoreError;
use super::conditions::WriteConditions;
use super::index::{add_leftover, begin_write, remove_leftover};

/// The least size of every part but the last.
const MIN_PART_BYTES: u64 = 5 << 20;

/// An open multipart upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UploadRow {
    pub(super) id: String,
    pub(super) bucket: String,
    pub(super) key: String,
    /// The file it will become, relative to the bucket's folder.
    pub(super) file: String,
    pub(super) created_s: i64,
}

/// A part that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartRow {
    pub(super) number: i32,
    pub(super) etag: String,
    pub(super) size_bytes: u64,
    pub(super) modified_s: i64,
}

/// Turns the leftover `file` of a begun write into the target of an open upload.
pub(super) fn open(tx: &Transaction<'_>, upload: &UploadRow) -> Result<(), StoreError> {
    let UploadRow { id, bucket, key, file, created_s } = upload;
    tx.execute(
        "INSERT INTO upload (id, bucket, key, file, created_s) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id, bucket, key.as_bytes(), file, created_s],
    )?;
    remove_leftover(tx, bucket, file)?;
    Ok(())
}

/// Names the file of a new upload.
pub(super) fn begin(
    tx: &Transaction<'_>,
    bucket: &str,
    key: &str,
    now: DateTime<Utc>,
) -> Result<String, StoreError> {
    begin_write(tx, bucket, key, &WriteConditions::default(), now)
}

/// The open upload with this id, if it is for this key.
pub(super) fn find(
    connection: &Connection,
    id: &str,
    bucket: &str,
    key: &str,
) -> Result<UploadRow, StoreError> {
    connection
        .prepare_cached("SELECT file, created_s FROM upload WHERE id = ?1 AND bucket = ?2 AND key = ?3 AND completing = 0")?
        .query_row(params![id, bucket, key.as_bytes()], |row| {
            let (id, bucket, key) = (id.to_owned(), bucket.to_owned(), key.to_owned());
            Ok(UploadRow { id, bucket, key, file: row.get(0)?, created_s: row.get(1)? })
        })
        .optional()?
        .ok_or_else(|| StoreError::NoSuchUpload { id: id.to_owned() })
}

/// The open uploads of a bucket, in the order of their keys.
pub(super) fn all_open(connection: &Connection, bucket: &str) -> Result<Vec<UploadRow>, StoreError> {
    uploads(connection, "WHERE completing = 0 AND bucket = ?1 ORDER BY key, created_s", &[&bucket])
}

/// Uploads whose completion a dead process left undone.
pub(super) fn all_completing(connection: &Connection) -> Result<Vec<UploadRow>, StoreError> {
    uploads(connection, "WHERE completing = 1", &[])
}

fn uploads(
    connection: &Connection,
    filter: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<Vec<UploadRow>, StoreError> {
    let mut statement =
        connection.prepare(&format!("SELECT id, bucket, key, file, created_s FROM upload {filter}"))?;
    let rows = statement.query_map(values, |row| {
        let key: Vec<u8> = row.get(2)?;
        Ok(UploadRow {
            id: row.get(0)?,
            bucket: row.get(1)?,
            // It was a `String` when it was stored.
            key: String::from_utf8_lossy(&key).into_owned(),
            file: row.get(3)?,
            created_s: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn record_part(
    tx: &Transaction<'_>,
    upload: &UploadRow,
    part: &PartRow,
) -> Result<(), StoreError> {
    // It may have been aborted or completed while the part came in.
    find(tx, &upload.id, &upload.bucket, &upload.key)?;
    tx.prepare_cached("INSERT OR REPLACE INTO part VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        upload.id,
        part.number,
        part.etag,
        part.size_bytes,
        part.modified_s
    ])?;
    Ok(())
}

/// The parts that have arrived, by number.
pub(super) fn parts(connection: &Connection, upload: &str) -> Result<Vec<PartRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT number, etag, size_bytes, modified_s FROM part WHERE upload = ?1 ORDER BY number",
    )?;
    let rows = statement.query_map([upload], |row| {
        Ok(PartRow {
            number: row.get(0)?,
            etag: row.get(1)?,
            size_bytes: row.get(2)?,
            modified_s: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Checks the list of parts and takes the upload from everyone else; it is open no longer.
pub(super) fn start_completing(
    tx: &Transaction<'_>,
    upload: &UploadRow,
    listed: &[CompletedPart],
) -> Result<(), StoreError> {
    find(tx, &upload.id, &upload.bucket, &upload.key)?;
    check_parts(&parts(tx, &upload.id)?, listed)?;
    tx.execute("UPDATE upload SET completing = 1 WHERE id = ?1", [&upload.id])?;
    add_leftover(tx, &upload.bucket, &upload.file)?;
    Ok(())
}

pub(super) fn forget(tx: &Transaction<'_>, upload: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM upload WHERE id = ?1", [upload])?;
    Ok(())
}

fn check_parts(arrived: &[PartRow], listed: &[CompletedPart]) -> Result<(), StoreError> {
    let refuse = |message: String| Err(StoreError::InvalidPart { message });
    if listed.is_empty() {
        return refuse("the list of parts is empty, it must name at least one".to_owned());
    }
    let number_of = |part: &CompletedPart| part.part_number.unwrap_or_default();
    if let Some([before, part]) =
        listed.array_windows().find(|[before, part]| number_of(part) <= number_of(before))
    {
        return Err(StoreError::PartOrder { number: number_of(part), after: number_of(before) });
    }
    for (index, part) in listed.iter().enumerate() {
        let number = number_of(part);
        let Some(found) = arrived.iter().find(|arrived| arrived.number == number) else {
            return refuse(format!("part {number} is listed but was never uploaded"));
        };
        if let Some(etag) = &part.e_tag
            && etag.value() != found.etag
        {
            return refuse(format!(
                "part {number} is listed with ETag {}, the one uploaded has {}",
                etag.value(),
                found.etag
            ));
        }
        if index + 1 < listed.len() && found.size_bytes < MIN_PART_BYTES {
            return Err(StoreError::PartTooSmall {
                number,
                size_bytes: found.size_bytes,
                min_bytes: MIN_PART_BYTES,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::dto::ETag;

    fn arrived(number: i32, size_bytes: u64) -> PartRow {
        PartRow { number, etag: format!("e{number}"), size_bytes, modified_s: 0 }
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
        assert!(check_parts(&parts, &[listed(1, "e1"), listed(2, "e2")]).is_ok());
        assert!(check_parts(&parts, &[listed(1, "e1")]).is_ok());
        // Numbers may have gaps.
        assert!(check_parts(&parts, &[listed(1, "e1"), listed(3, "e3")]).is_ok());
        assert!(check_parts(&parts, &[listed(2, "e2")]).is_ok());
        let invalid: [&[CompletedPart]; 3] =
            [&[], &[listed(1, "other")], &[listed(1, "e1"), listed(4, "e4")]];
        for list in invalid {
            assert!(matches!(check_parts(&parts, list), Err(StoreError::InvalidPart { .. })), "{list:?}");
        }
        for (list, number) in
            [([listed(3, "e3"), listed(1, "e1")], 1), ([listed(1, "e1"), listed(1, "e1")], 1)]
        {
            let refused = check_parts(&parts, &list);
            assert!(
                matches!(refused, Err(StoreError::PartOrder { number: n, .. }) if n == number),
                "{list:?}"
            );
        }
        let all = [listed(1, "e1"), listed(2, "e2"), listed(3, "e3")];
        assert!(matches!(check_parts(&parts, &all), Err(StoreError::PartTooSmall { number: 2, .. })));
    }
}
