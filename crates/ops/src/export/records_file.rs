//! One Parquet file of records: written row by row, and read back.
//!
//! A file has a footer, and can be read at all, only if everything was written.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::reader::RowIter;
use parquet::schema::parser::parse_message_type;

use super::ExportError;
use super::columns::{RowGroup, schema_text, stored_row};
use giemsa_core::digest::Sha256Stream;
use giemsa_core::record::{RECORD_SCHEMA, Record};

/// Rows of a row group: what is held in memory before it is written.
const GROUP_ROWS: usize = 10_000;

/// Text of a row group, bytes; bounds the memory where texts are long.
const GROUP_TEXT_BYTES: usize = 32 << 20;

/// Name of the digest of all rows in the footer.
const DIGEST_NAME: &str = "giemsa.rows.sha256";

/// The result object that a row was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResultObject {
    pub(super) key: String,
    /// Without quotes.
    pub(super) etag: String,
}

/// A row of a Parquet file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredRow {
    pub(super) record: Record,
    /// Where it was read from; in compacted files only.
    pub(super) object: Option<ResultObject>,
}

/// A row of a compacted file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ObjectRow {
    pub(super) record: Record,
    pub(super) object: ResultObject,
}

/// Digest of rows, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct RowsDigest(Sha256Stream);

impl RowsDigest {
    pub(super) fn add(&mut self, record: &Record, object: Option<&ResultObject>) {
        let json = serde_json::to_vec(record).expect("a record holds only text and finite numbers");
        self.0.update(&json);
        for text in object.into_iter().flat_map(|object| [&object.key, &object.etag]) {
            self.0.update(&[0]);
            self.0.update(text.as_bytes());
        }
        self.0.update(b"\n");
    }

    pub(super) fn finish(self) -> String {
        self.0.finish()
    }
}

/// Writes records as Parquet, a row group at a time.
#[derive(Debug)]
pub struct ParquetRecords<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    group: RowGroup,
    digest: RowsDigest,
    rows: u64,
}

impl<W: Write + Send> ParquetRecords<W> {
    /// Begins a file of records.
    ///
    /// # Errors
    /// [`ExportError::Write`] if `out` takes no bytes.
    pub fn new(out: W) -> Result<Self, ExportError> {
        Self::begin(out, false)
    }

    /// Begins a file whose rows name the objects that they were read from.
    pub(super) fn of_objects(out: W) -> Result<Self, ExportError> {
        Self::begin(out, true)
    }

    fn begin(out: W, has_objects: bool) -> Result<Self, ExportError> {
        let schema = parse_message_type(&schema_text(has_objects)).expect("the schema is a constant");
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("giemsa ", env!("CARGO_PKG_VERSION")).to_owned())
            // Statistics of row groups let readers skip; those of pages would grow with the file.
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .build();
        let writer =
            SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties)).map_err(write_error)?;
        Ok(Self { writer, group: RowGroup::new(has_objects), digest: RowsDigest::default(), rows: 0 })
    }

    /// Writes a record; what is below a millisecond of its times is lost.
    ///
    /// # Errors
    /// [`ExportError::Write`].
    pub fn write(&mut self, record: &Record) -> Result<(), ExportError> {
        self.push(record, None)
    }

    pub(super) fn write_object(&mut self, record: &Record, object: &ResultObject) -> Result<(), ExportError> {
        self.push(record, Some(object))
    }

    fn push(&mut self, record: &Record, object: Option<&ResultObject>) -> Result<(), ExportError> {
        self.digest.add(record, object);
        self.group.push(record, object);
        self.rows += 1;
        if self.group.rows() >= GROUP_ROWS || self.group.text_bytes() >= GROUP_TEXT_BYTES {
            self.group.write(&mut self.writer).map_err(write_error)?;
        }
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes what is left and the footer, and returns what it wrote to and the digest of the rows.
    ///
    /// # Errors
    /// [`ExportError::Write`].
    pub fn finish(mut self) -> Result<(W, String), ExportError> {
        if self.group.rows() > 0 {
            self.group.write(&mut self.writer).map_err(write_error)?;
        }
        let digest = self.digest.finish();
        for (name, value) in [("giemsa.schema", RECORD_SCHEMA.to_owned()), (DIGEST_NAME, digest.clone())] {
            self.writer.append_key_value_metadata(KeyValue::new(name.to_owned(), value));
        }
        let mut out = self.writer.into_inner().map_err(write_error)?;
        out.flush().map_err(|error| ExportError::Write { detail: error.to_string() })?;
        Ok((out, digest))
    }
}

/// Reads all rows of a file, until `take` wants no more, and returns the digest of what was read.
///
/// It may panic on a damaged file, as the library does.
pub(super) fn read_rows(
    name: &str,
    file: File,
    mut take: impl FnMut(StoredRow) -> bool,
) -> Result<String, ExportError> {
    let failed = |detail: String| ExportError::Read { file: name.to_owned(), detail };
    let reader = SerializedFileReader::new(file).map_err(|e| failed(e.to_string()))?;
    let expected = reader.metadata().file_metadata().num_rows();
    let rows = RowIter::from_file(None, &reader).map_err(|e| failed(e.to_string()))?;
    let (mut digest, mut read) = (RowsDigest::default(), 0_i64);
    for row in rows {
        let row = row.map_err(|e| e.to_string()).and_then(stored_row).map_err(failed)?;
        digest.add(&row.record, row.object.as_ref());
        read += 1;
        if !take(row) {
            return Ok(digest.finish());
        }
    }
    if read != expected {
        return Err(failed(format!("it has {read} rows, and says that it has {expected}")));
    }
    Ok(digest.finish())
}

/// What the footer says of the rows: their number and digest.
pub(super) fn footer(name: &str, file: &File) -> Result<(u64, String), ExportError> {
    let failed = |detail: String| ExportError::Read { file: name.to_owned(), detail };
    let handle = file.try_clone().map_err(|e| failed(e.to_string()))?;
    let reader = SerializedFileReader::new(handle).map_err(|e| failed(e.to_string()))?;
    let metadata = reader.metadata().file_metadata();
    let pairs = metadata.key_value_metadata().into_iter().flatten();
    let digest = pairs.into_iter().find(|pair| pair.key == DIGEST_NAME).and_then(|pair| pair.value.clone());
    let digest = digest.ok_or_else(|| failed(format!("its footer has no {DIGEST_NAME}")))?;
    Ok((u64::try_from(metadata.num_rows()).unwrap_or(0), digest))
}

fn write_error(error: ParquetError) -> ExportError {
    ExportError::Write { detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;

    fn record(number: u64) -> Record {
        serde_json::from_value(serde_json::json!({
            "schema": RECORD_SCHEMA, "result_id": format!("{number:016x}"),
            "image": {"bucket": "in", "key": format!("=slide/{number}\n\u{0}.png"), "size_bytes": number,
                "uploaded_at": "2026-11-22T12:00:00.123Z"},
            "slide": "=slide", "stage": "prod", "status": "classified", "label": "parasitized", "confidence": 0.1,
            "probabilities": {"parasitized": 0.1, "uninfected": number as f64 / 3.0}, "needs_review": true,
            "model": {"name": "toy", "version": "1", "sha256": "5f2d"}, "software": "giemsa 0.1.0",
        }))
        .unwrap()
    }

    fn written(count: u64) -> (File, String) {
        let mut writer = ParquetRecords::of_objects(tempfile::tempfile().unwrap()).unwrap();
        for number in 0..count {
            let object = ResultObject { key: format!("results/{number}"), etag: "e".to_owned() };
            writer.write_object(&record(number), &object).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        // More than a row group, and none at all.
        for count in [GROUP_ROWS as u64 + 3, 0] {
            let (file, digest) = written(count);
            assert_eq!(footer("file", &file).unwrap(), (count, digest.clone()));
            let mut number = 0;
            let read = read_rows("file", file, |row| {
                assert_eq!(row.record, record(number));
                assert_eq!(row.object.unwrap().key, format!("results/{number}"));
                number += 1;
                true
            });
            assert_eq!((read.unwrap(), number), (digest, count));
        }
    }

    #[test]
    fn what_was_cut_off_is_no_file() {
        let (mut file, _) = written(5);
        let length = file.seek(SeekFrom::End(0)).unwrap();
        file.set_len(length - 1).unwrap();
        assert!(read_rows("file", file, |_| true).unwrap_err().to_string().contains("file cannot be read"));
    }
}
