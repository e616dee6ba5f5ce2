//! Rows of an inventory in Parquet, compressed with snappy.
//!
//! Columns are found by name, and of the types that S3 writes.

use std::sync::Arc;

use chrono::DateTime;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as ParquetRow};
use parquet::schema::types::Type;

use super::InventoryError;
use super::data_file::DataFile;
use super::row::{Fields, Row};

/// Columns that are read, by their names in `message s3.inventory`.
const COLUMNS: [&str; 7] =
    ["key", "version_id", "is_latest", "is_delete_marker", "size", "last_modified_date", "e_tag"];

/// Those of them that have to be there, by their names in the console.
const NEEDED: [(&str, &str); 4] =
    [("key", "Key"), ("size", "Size"), ("last_modified_date", "LastModifiedDate"), ("e_tag", "ETag")];

/// Reads all rows, until `take` wants no more.
pub(super) fn read_rows(file: &DataFile, take: &mut impl FnMut(Row) -> bool) -> Result<(), InventoryError> {
    let read_error = |detail: String| InventoryError::Read { file: file.name.clone(), detail };
    let handle = file.file.try_clone().map_err(|e| read_error(e.to_string()))?;
    let reader = SerializedFileReader::new(handle).map_err(|e| read_error(shown(&e)))?;
    let schema = reader.metadata().file_metadata().schema();
    let fields = schema.get_fields();
    let has = |name: &str| fields.iter().any(|field| field.name() == name);
    let missing: Vec<&str> = NEEDED.iter().filter(|(name, _)| !has(name)).map(|(_, shown)| *shown).collect();
    if !missing.is_empty() {
        return Err(InventoryError::Columns { missing: missing.join(", ") });
    }
    let has_versions = has("version_id");
    let wanted = fields.iter().filter(|field| COLUMNS.contains(&field.name())).map(Arc::clone).collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(wanted).build();
    let projection = projection.map_err(|e| read_error(shown(&e)))?;
    let rows = RowIter::from_file(Some(projection), &reader).map_err(|e| read_error(shown(&e)))?;
    let expected = reader.metadata().file_metadata().num_rows();
    let mut read = 0;
    for (number, row) in (1..).zip(rows) {
        let row = row.map_err(|e| shown(&e)).and_then(|row| fields_of(&row, has_versions).into_row());
        let row =
            row.map_err(|detail| InventoryError::Row { file: file.name.clone(), row: number, detail })?;
        if !take(row) {
            return Ok(());
        }
        read += 1;
    }
    if read != expected {
        return Err(read_error(format!("it has {read} rows, and says that it has {expected}")));
    }
    Ok(())
}

fn fields_of(row: &ParquetRow, has_versions: bool) -> Fields {
    let mut fields = Fields { has_versions, ..Fields::default() };
    for (name, field) in row.get_column_iter() {
        match name.as_str() {
            "key" => fields.key = text(field),
            "version_id" => fields.version_id = text(field),
            "is_latest" => fields.is_latest = flag(field),
            "is_delete_marker" => fields.is_delete_marker = flag(field),
            "size" => fields.size_bytes = number(field),
            "last_modified_date" => fields.uploaded_at = time(field),
            "e_tag" => fields.etag = text(field).filter(|text| !text.is_empty()),
            _ => {}
        }
    }
    fields
}

fn text(field: &Field) -> Option<String> {
    match field {
        Field::Str(text) => Some(text.clone()),
        // Without the annotation UTF8.
        Field::Bytes(bytes) => bytes.as_utf8().ok().map(str::to_owned),
        _ => None,
    }
}

fn flag(field: &Field) -> Option<bool> {
    match field {
        Field::Bool(flag) => Some(*flag),
        _ => None,
    }
}

fn number(field: &Field) -> Option<i64> {
    match field {
        Field::Long(number) => Some(*number),
        Field::Int(number) => Some((*number).into()),
        _ => None,
    }
}

fn time(field: &Field) -> Option<chrono::DateTime<chrono::Utc>> {
    match field {
        Field::TimestampMillis(ms) => DateTime::from_timestamp_millis(*ms),
        Field::TimestampMicros(us) => DateTime::from_timestamp_micros(*us),
        _ => None,
    }
}

fn shown(error: &ParquetError) -> String {
    format!("{error}; expected a Parquet file as S3 Inventory writes it")
}
