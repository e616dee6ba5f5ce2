//! The columns of a record in Parquet, both ways.
//!
//! A record has a column for each, and times are kept to the millisecond. A row read back is the record that was
//! written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;

use chrono::{DateTime, Utc};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::Result as ParquetResult;
use parquet::file::writer::SerializedFileWriter;
use parquet::record::{Field, Row};

use super::records_file::{ResultObject, StoredRow};
use giemsa_core::record::{ImageInfo, ModelInfo, Record, Reject, Status, TimingsMs, Withdrawn};

/// Where a column's values come from; the kind decides the column's type.
enum Source {
    Needed(fn(&Record) -> &str),
    Text(fn(&Record) -> Option<&str>),
    Integer(fn(&Record) -> Option<u64>),
    Number(fn(&Record) -> Option<f64>),
    Flag(fn(&Record) -> Option<bool>),
    Time(fn(&Record) -> Option<DateTime<Utc>>),
    Probabilities,
}

use Source::{Flag, Integer, Needed, Number, Probabilities, Text, Time};

/// All columns of a record, in the order of the file.
const COLUMNS: [(&str, Source); 37] = [
    ("result_id", Needed(|r| &r.result_id)),
    ("stage", Needed(|r| &r.stage)),
    ("slide", Needed(|r| &r.slide)),
    ("bucket", Needed(|r| &r.image.bucket)),
    ("key", Needed(|r| &r.image.key)),
    ("version_id", Text(|r| r.image.version_id.as_deref())),
    ("etag", Text(|r| r.image.etag.as_deref())),
    ("image_sha256", Text(|r| r.image.sha256.as_deref())),
    ("size_bytes", Integer(|r| r.image.size_bytes)),
    ("uploaded_at", Time(|r| r.image.uploaded_at)),
    ("width_px", Integer(|r| r.image.width_px.map(u64::from))),
    ("height_px", Integer(|r| r.image.height_px.map(u64::from))),
    ("format", Text(|r| r.image.format.as_deref())),
    ("status", Needed(|r| r.status.as_str())),
    ("label", Text(|r| r.label.as_deref())),
    ("confidence", Number(|r| r.confidence)),
    ("probabilities", Probabilities),
    ("positive", Flag(|r| r.positive)),
    ("outlier_score", Number(|r| r.outlier_score)),
    ("outlier", Flag(|r| r.outlier)),
    ("needs_review", Flag(|r| Some(r.needs_review))),
    ("review_reason", Text(|r| r.review_reason.as_deref())),
    ("reject_code", Text(|r| r.reject.as_ref().map(|reject| reject.code.as_str()))),
    ("reject_message", Text(|r| r.reject.as_ref().map(|reject| reject.message.as_str()))),
    ("model_name", Needed(|r| &r.model.name)),
    ("model_version", Needed(|r| &r.model.version)),
    ("model_sha256", Needed(|r| &r.model.sha256)),
    ("fetch_ms", Number(|r| r.timings_ms.map(|t| t.fetch))),
    ("decode_ms", Number(|r| r.timings_ms.map(|t| t.decode))),
    ("preprocess_ms", Number(|r| r.timings_ms.map(|t| t.preprocess))),
    ("infer_ms", Number(|r| r.timings_ms.map(|t| t.infer))),
    ("classified_at", Time(|r| r.classified_at)),
    ("software", Needed(|r| &r.software)),
    ("withdrawn", Flag(|r| Some(r.withdrawn.is_some()))),
    ("withdrawn_reason", Text(|r| r.withdrawn.as_ref().map(|withdrawn| withdrawn.reason.as_str()))),
    ("withdrawn_by", Text(|r| r.withdrawn.as_ref().map(|withdrawn| withdrawn.by.as_str()))),
    ("withdrawn_at", Time(|r| r.withdrawn.as_ref().map(|withdrawn| withdrawn.at))),
];

/// The last columns, which compacted files have not: result objects are what a model said, not what became of it.
const COLUMNS_OF_TABLE: usize = 4;

/// Columns of a record in exports, or in files of result objects.
fn columns(has_objects: bool) -> &'static [(&'static str, Source)] {
    &COLUMNS[..COLUMNS.len() - if has_objects { COLUMNS_OF_TABLE } else { 0 }]
}

/// The column of the record's schema, last of a record's own.
const SCHEMA_COLUMN: &str = "schema";
/// Columns of compacted files alone: which object a row was read from.
pub(super) const OBJECT_COLUMNS: [&str; 2] = ["result_key", "result_etag"];

/// The file's schema as Parquet writes it in text.
pub(super) fn schema_text(has_objects: bool) -> String {
    let mut text = "message giemsa_record {\n".to_owned();
    for (name, source) in columns(has_objects) {
        let column = match source {
            Needed(_) => format!("required binary {name} (STRING)"),
            Text(_) => format!("optional binary {name} (STRING)"),
            Integer(_) => format!("optional int64 {name}"),
            Number(_) => format!("optional double {name}"),
            Flag(_) => format!("optional boolean {name}"),
            Time(_) => format!("optional int64 {name} (TIMESTAMP(MILLIS,true))"),
            Probabilities => {
                let entry = "required binary key (STRING); required double value;";
                writeln!(text, "  optional group {name} (MAP) {{ repeated group key_value {{ {entry} }} }}")
                    .expect("a string takes text");
                continue;
            }
        };
        writeln!(text, "  {column};").expect("a string takes text");
    }
    let objects: &[&str] = if has_objects { &OBJECT_COLUMNS } else { &[] };
    for name in std::iter::once(&SCHEMA_COLUMN).chain(objects) {
        writeln!(text, "  required binary {name} (STRING);").expect("a string takes text");
    }
    text.push_str("}\n");
    text
}

/// Values of one column of a row group, with their levels as Parquet counts them.
#[derive(Debug)]
enum Buffer {
    Needed(Vec<ByteArray>),
    Text(Vec<ByteArray>, Vec<i16>),
    Integer(Vec<i64>, Vec<i16>),
    Number(Vec<f64>, Vec<i16>),
    Flag(Vec<bool>, Vec<i16>),
    Map { keys: Vec<ByteArray>, values: Vec<f64>, definitions: Vec<i16>, repetitions: Vec<i16> },
}

/// Definition level of a map's entry: the map is there, and so is the entry.
const MAP_ENTRY: i16 = 2;

fn push_optional<T>(values: &mut Vec<T>, definitions: &mut Vec<i16>, value: Option<T>) {
    definitions.push(i16::from(value.is_some()));
    values.extend(value);
}

/// Rows that are not written yet: Parquet wants them column by column.
#[derive(Debug)]
pub(super) struct RowGroup {
    buffers: Vec<Buffer>,
    has_objects: bool,
    rows: usize,
    text_bytes: usize,
}

impl RowGroup {
    pub(super) fn new(has_objects: bool) -> Self {
        let of_record = columns(has_objects).iter().map(|(_, source)| match source {
            Needed(_) => Buffer::Needed(vec![]),
            Text(_) => Buffer::Text(vec![], vec![]),
            Integer(_) | Time(_) => Buffer::Integer(vec![], vec![]),
            Number(_) => Buffer::Number(vec![], vec![]),
            Flag(_) => Buffer::Flag(vec![], vec![]),
            Probabilities => {
                Buffer::Map { keys: vec![], values: vec![], definitions: vec![], repetitions: vec![] }
            }
        });
        let more = if has_objects { 1 + OBJECT_COLUMNS.len() } else { 1 };
        let more = std::iter::repeat_with(|| Buffer::Needed(vec![])).take(more);
        Self { buffers: of_record.chain(more).collect(), has_objects, rows: 0, text_bytes: 0 }
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of text in the rows; the other columns take about 200 bytes a row.
    pub(super) fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// Adds a row. Times lose what is below a millisecond.
    pub(super) fn push(&mut self, record: &Record, object: Option<&ResultObject>) {
        let text_bytes = &mut self.text_bytes;
        let mut bytes = |text: &str| {
            *text_bytes += text.len();
            ByteArray::from(text)
        };
        let columns = columns(self.has_objects);
        let (of_record, more) = self.buffers.split_at_mut(columns.len());
        for ((_, source), buffer) in columns.iter().zip(of_record) {
            match (source, buffer) {
                (Needed(value), Buffer::Needed(values)) => values.push(bytes(value(record))),
                (Text(value), Buffer::Text(values, definitions)) => {
                    push_optional(values, definitions, value(record).map(&mut bytes));
                }
                (Integer(value), Buffer::Integer(values, definitions)) => {
                    let value = value(record).map(|n| i64::try_from(n).unwrap_or(i64::MAX));
                    push_optional(values, definitions, value);
                }
                (Time(value), Buffer::Integer(values, definitions)) => {
                    push_optional(values, definitions, value(record).map(|time| time.timestamp_millis()));
                }
                (Number(value), Buffer::Number(values, definitions)) => {
                    push_optional(values, definitions, value(record));
                }
                (Flag(value), Buffer::Flag(values, definitions)) => {
                    push_optional(values, definitions, value(record));
                }
                (Probabilities, Buffer::Map { keys, values, definitions, repetitions }) => {
                    let map = record.probabilities.as_ref();
                    let entries = map.into_iter().flatten();
                    let before = keys.len();
                    for (label, probability) in entries {
                        repetitions.push(i16::from(keys.len() > before));
                        definitions.push(MAP_ENTRY);
                        keys.push(bytes(label));
                        values.push(*probability);
                    }
                    if keys.len() == before {
                        repetitions.push(0);
                        definitions.push(i16::from(map.is_some()));
                    }
                }
                _ => unreachable!("buffers are made of the same list"),
            }
        }
        let object = object.into_iter().flat_map(|object| [object.key.as_str(), &object.etag]);
        for (buffer, text) in more.iter_mut().zip(std::iter::once(record.schema.as_str()).chain(object)) {
            let Buffer::Needed(values) = buffer else { unreachable!("they are always there") };
            values.push(bytes(text));
        }
        self.rows += 1;
    }

    /// Writes the rows as a row group, and is empty after it.
    pub(super) fn write<W: Write + Send>(
        &mut self,
        writer: &mut SerializedFileWriter<W>,
    ) -> ParquetResult<()> {
        let mut group = writer.next_row_group()?;
        macro_rules! write_column {
            ($kind:ty, $values:expr, $definitions:expr, $repetitions:expr) => {{
                let column = group.next_column()?;
                let mut column = column.expect("the schema is made of the same list");
                column.typed::<$kind>().write_batch($values, $definitions, $repetitions)?;
                column.close()?;
            }};
        }
        for buffer in &self.buffers {
            match buffer {
                Buffer::Needed(values) => {
                    write_column!(ByteArrayType, values, None, None);
                }
                Buffer::Text(values, definitions) => {
                    write_column!(ByteArrayType, values, Some(definitions), None);
                }
                Buffer::Integer(values, definitions) => {
                    write_column!(Int64Type, values, Some(definitions), None);
                }
                Buffer::Number(values, definitions) => {
                    write_column!(DoubleType, values, Some(definitions), None);
                }
                Buffer::Flag(values, definitions) => {
                    write_column!(BoolType, values, Some(definitions), None);
                }
                Buffer::Map { keys, values, definitions, repetitions } => {
                    write_column!(ByteArrayType, keys, Some(definitions), Some(repetitions));
                    write_column!(DoubleType, values, Some(definitions), Some(repetitions));
                }
            }
        }
        group.close()?;
        *self = Self::new(self.has_objects);
        Ok(())
    }
}

/// Fields of a row by the names of their columns.
struct Fields(BTreeMap<String, Field>);

impl Fields {
    fn text(&mut self, name: &str) -> Option<String> {
        match self.0.remove(name) {
            Some(Field::Str(text)) => Some(text),
            _ => None,
        }
    }

    fn needed(&mut self, name: &str) -> Result<String, String> {
        self.text(name).ok_or_else(|| format!("a row has no {name}"))
    }

    fn integer(&mut self, name: &str) -> Option<u64> {
        match self.0.remove(name) {
            Some(Field::Long(value)) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    fn side_px(&mut self, name: &str) -> Option<u32> {
        self.integer(name).and_then(|side| u32::try_from(side).ok())
    }

    fn number(&mut self, name: &str) -> Option<f64> {
        match self.0.remove(name) {
            Some(Field::Double(value)) => Some(value),
            _ => None,
        }
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        match self.0.remove(name) {
            Some(Field::Bool(value)) => Some(value),
            _ => None,
        }
    }

    fn time(&mut self, name: &str) -> Option<DateTime<Utc>> {
        match self.0.remove(name) {
            Some(Field::TimestampMillis(value)) => DateTime::from_timestamp_millis(value),
            _ => None,
        }
    }

    fn probabilities(&mut self) -> Option<BTreeMap<String, f64>> {
        let Some(Field::MapInternal(map)) = self.0.remove("probabilities") else { return None };
        let entries = map.entries().iter().filter_map(|entry| match entry {
            (Field::Str(label), Field::Double(probability)) => Some((label.clone(), *probability)),
            _ => None,
        });
        Some(entries.collect())
    }

    fn object(&mut self) -> Option<ResultObject> {
        let [key, etag] = OBJECT_COLUMNS.map(|name| self.text(name));
        Some(ResultObject { key: key?, etag: etag? })
    }
}

/// The record of a row.
pub(super) fn stored_row(row: Row) -> Result<StoredRow, String> {
    let mut fields = Fields(row.into_columns().into_iter().collect());
    let image = ImageInfo {
        bucket: fields.needed("bucket")?,
        key: fields.needed("key")?,
        version_id: fields.text("version_id"),
        etag: fields.text("etag"),
        size_bytes: fields.integer("size_bytes"),
        uploaded_at: fields.time("uploaded_at"),
        width_px: fields.side_px("width_px"),
        height_px: fields.side_px("height_px"),
        format: fields.text("format"),
        sha256: fields.text("image_sha256"),
    };
    let status = match fields.needed("status")? {
        text if text == Status::Classified.as_str() => Status::Classified,
        text if text == Status::Rejected.as_str() => Status::Rejected,
        text => return Err(format!("a row has the status {text:?}; expected classified or rejected")),
    };
    let reject = match (fields.text("reject_code"), fields.text("reject_message")) {
        (Some(code), Some(message)) => Some(Reject { code, message }),
        _ => None,
    };
    let [fetch, decode, preprocess, infer] =
        ["fetch_ms", "decode_ms", "preprocess_ms", "infer_ms"].map(|name| fields.number(name));
    let timings_ms = match (fetch, decode, preprocess, infer) {
        (Some(fetch), Some(decode), Some(preprocess), Some(infer)) => {
            Some(TimingsMs { fetch, decode, preprocess, infer })
        }
        _ => None,
    };
    let [reason, by] = ["withdrawn_reason", "withdrawn_by"].map(|name| fields.text(name));
    let withdrawn = match (reason, by, fields.time("withdrawn_at")) {
        (Some(reason), Some(by), Some(at)) => Some(Withdrawn { reason, by, at }),
        _ => None,
    };
    let record = Record {
        schema: fields.needed(SCHEMA_COLUMN)?,
        result_id: fields.needed("result_id")?,
        image,
        slide: fields.needed("slide")?,
        stage: fields.needed("stage")?,
        status,
        label: fields.text("label"),
        confidence: fields.number("confidence"),
        probabilities: fields.probabilities(),
        positive: fields.flag("positive"),
        outlier_score: fields.number("outlier_score"),
        outlier: fields.flag("outlier"),
        needs_review: fields.flag("needs_review") == Some(true),
        review_reason: fields.text("review_reason"),
        reject,
        model: ModelInfo {
            name: fields.needed("model_name")?,
            version: fields.needed("model_version")?,
            sha256: fields.needed("model_sha256")?,
        },
        timings_ms,
        classified_at: fields.time("classified_at"),
        software: fields.needed("software")?,
        withdrawn,
    };
    Ok(StoredRow { record, object: fields.object() })
}
