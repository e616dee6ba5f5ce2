//! Rows of an inventory in CSV, compressed with gzip, with form-encoded keys.
//!
//! Columns are found by the schema of the manifest, never by their place in an example.

use flate2::read::MultiGzDecoder;

use chrono::DateTime;

use super::InventoryError;
use super::data_file::DataFile;
use super::row::{Fields, Row};
use giemsa_store::form_decoded;

/// Where the columns are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    key: usize,
    version_id: Option<usize>,
    is_latest: Option<usize>,
    is_delete_marker: Option<usize>,
    size: usize,
    last_modified: usize,
    etag: usize,
}

impl Columns {
    /// Reads `Bucket, Key, VersionId, …`.
    pub(super) fn of_schema(schema: &str) -> Result<Self, InventoryError> {
        let names: Vec<&str> = schema.split(',').map(str::trim).collect();
        let find = |name: &str| names.iter().position(|found| found.eq_ignore_ascii_case(name));
        let needed = ["Key", "Size", "LastModifiedDate", "ETag"];
        let missing: Vec<&str> = needed.into_iter().filter(|name| find(name).is_none()).collect();
        let (Some(key), Some(size), Some(last_modified), Some(etag)) =
            (find("Key"), find("Size"), find("LastModifiedDate"), find("ETag"))
        else {
            return Err(InventoryError::Columns { missing: missing.join(", ") });
        };
        Ok(Self {
            key,
            version_id: find("VersionId"),
            is_latest: find("IsLatest"),
            is_delete_marker: find("IsDeleteMarker"),
            size,
            last_modified,
            etag,
        })
    }

    fn row(&self, record: &csv::StringRecord) -> Result<Row, String> {
        let text = |index: usize| record.get(index).filter(|text| !text.is_empty());
        let flag = |index: Option<usize>| index.and_then(text).map(|text| text.eq_ignore_ascii_case("true"));
        let time = text(self.last_modified).map(DateTime::parse_from_rfc3339).transpose();
        let size = text(self.size).map(str::parse).transpose();
        Fields {
            key: text(self.key).map(form_decoded),
            version_id: self.version_id.and_then(text).map(str::to_owned),
            has_versions: self.version_id.is_some(),
            is_latest: flag(self.is_latest),
            is_delete_marker: flag(self.is_delete_marker),
            size_bytes: size.map_err(|e| format!("its size is not a number: {e}"))?,
            uploaded_at: time
                .map_err(|e| format!("its time of upload is not a time: {e}"))?
                .map(|t| t.to_utc()),
            etag: text(self.etag).map(str::to_owned),
        }
        .into_row()
    }
}

/// Reads all rows, until `take` wants no more.
pub(super) fn read_rows(
    file: &DataFile,
    columns: &Columns,
    take: &mut impl FnMut(Row) -> bool,
) -> Result<(), InventoryError> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).from_reader(MultiGzDecoder::new(&file.file));
    let mut record = csv::StringRecord::new();
    let mut number = 0;
    let failed = |row, detail| InventoryError::Row { file: file.name.clone(), row, detail };
    loop {
        number += 1;
        if !reader.read_record(&mut record).map_err(|e| failed(number, e.to_string()))? {
            return Ok(());
        }
        let row = columns.row(&record).map_err(|detail| failed(number, detail))?;
        if !take(row) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(schema: &str, cells: &[&str]) -> Result<Row, String> {
        Columns::of_schema(schema).unwrap().row(&csv::StringRecord::from(cells.to_vec()))
    }

    #[test]
    fn columns_are_found_by_name_and_keys_decoded() {
        let schema = "Bucket, ETag, Key, LastModifiedDate, Size, StorageClass";
        let cells = ["in", "e1", "a+b/%2B%C3%A9%0A.png", "2026-11-22T01:02:03.000Z", "14", "STANDARD"];
        let upload = row(schema, &cells).unwrap().upload.unwrap();
        assert_eq!(upload.key, "a b/+é\n.png");
        assert_eq!((upload.size_bytes, upload.etag.as_str(), upload.is_latest), (14, "e1", true));
        assert_eq!(upload.version, giemsa_store::UploadVersion::Unknown);
        assert_eq!(upload.uploaded_at.to_rfc3339(), "2026-11-22T01:02:03+00:00");
    }

    #[test]
    fn versions_and_delete_markers_are_told_apart() {
        let schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag";
        let cells = |version, latest, marker, size, etag| {
            ["in", "a.png", version, latest, marker, size, "2026-11-22T01:02:03.000Z", etag]
        };
        let older = row(schema, &cells("v1", "false", "false", "9", "e")).unwrap().upload.unwrap();
        assert_eq!((older.version_id(), older.is_latest), (Some("v1"), false));
        let unversioned = row(schema, &cells("", "true", "false", "9", "e")).unwrap().upload.unwrap();
        assert_eq!(unversioned.version, giemsa_store::UploadVersion::Null);
        assert_eq!(row(schema, &cells("v2", "true", "true", "", "")).unwrap(), Row { upload: None });
    }

    #[test]
    fn a_row_that_is_neither_is_an_error() {
        let schema = "Key, Size, LastModifiedDate, ETag";
        let time = "2026-11-22T01:02:03.000Z";
        for (cells, expected) in [
            (["", "1", time, "e"], "no key"),
            (["a", "", time, "e"], "no size"),
            (["a", "-1", time, "e"], "no size"),
            (["a", "x", time, "e"], "not a number"),
            (["a", "1", "yesterday", "e"], "not a time"),
            (["a", "1", time, ""], "no ETag"),
        ] {
            let error = row(schema, &cells).unwrap_err();
            assert!(error.contains(expected), "{cells:?}: {error}");
        }
    }
}
