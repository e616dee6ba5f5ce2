//! Results as rows: for people, as JSON lines, and as CSV by RFC 4180.
//!
//! The first columns are those of `giemsa classify`, with the same meaning.

use std::io::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use giemsa_core::record::{Record, Status};

use super::super::form::{self, CsvWriter};
use super::super::output;

/// Columns of the CSV after those of `giemsa classify`.
const MORE_COLUMNS: [&str; 15] = [
    "stage",
    "bucket",
    "version_id",
    "etag",
    "size_bytes",
    "format",
    "uploaded_at",
    "classified_at",
    "probabilities",
    "result_id",
    "software",
    "withdrawn",
    "withdrawn_reason",
    "withdrawn_by",
    "withdrawn_at",
];

/// Rows of one table; a longer list has several.
const TABLE_ROWS: usize = 200;

/// Writes results in one of the forms, as they come.
pub(super) struct Rows<W: Write> {
    form: Form<W>,
    written: u64,
}

enum Form<W: Write> {
    Table { out: W, kept: Vec<Record> },
    Json(W),
    Csv(Box<CsvWriter<W>>),
}

impl<W: Write> Rows<W> {
    /// Begins; a CSV has its header even without a row.
    pub(super) fn new(out: W, form: form::Form) -> anyhow::Result<Self> {
        let form = match form {
            form::Form::Table => Form::Table { out, kept: Vec::new() },
            form::Form::Json => Form::Json(out),
            form::Form::Csv(style) => {
                let header = output::CSV_HEADER.iter().chain(&MORE_COLUMNS);
                Form::Csv(Box::new(CsvWriter::new(out, style, header)?))
            }
        };
        Ok(Self { form, written: 0 })
    }

    pub(super) fn write(&mut self, record: Record) -> anyhow::Result<()> {
        self.written += 1;
        match &mut self.form {
            Form::Table { kept, .. } => {
                kept.push(record);
                if kept.len() == TABLE_ROWS { self.flush() } else { Ok(()) }
            }
            Form::Json(out) => output::write_json_line(out, &record),
            Form::Csv(writer) => {
                writer.write(output::csv_cells(&record).into_iter().chain(more_cells(&record)))
            }
        }
    }

    /// Makes visible what was written.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        match &mut self.form {
            Form::Table { out, kept } => {
                if !kept.is_empty() {
                    writeln!(out, "{}\n", table(kept))?;
                    kept.clear();
                }
                out.flush()?;
            }
            Form::Json(out) => out.flush()?,
            Form::Csv(writer) => writer.flush()?,
        }
        Ok(())
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes what is left, and returns what it wrote to.
    pub(super) fn finish(mut self) -> anyhow::Result<W> {
        self.flush()?;
        match self.form {
            Form::Table { out, .. } | Form::Json(out) => Ok(out),
            Form::Csv(writer) => writer.finish(),
        }
    }
}

fn more_cells(record: &Record) -> [String; 15] {
    let image = &record.image;
    let withdrawn = record.withdrawn.as_ref();
    let probabilities = record.probabilities.as_ref().map(|probabilities| {
        serde_json::to_string(probabilities).expect("a record holds only text and finite numbers")
    });
    [
        record.stage.clone(),
        image.bucket.clone(),
        image.version_id.clone().unwrap_or_default(),
        image.etag.clone().unwrap_or_default(),
        image.size_bytes.map(|size| size.to_string()).unwrap_or_default(),
        image.format.clone().unwrap_or_default(),
        exact_time(image.uploaded_at),
        exact_time(record.classified_at),
        probabilities.unwrap_or_default(),
        record.result_id.clone(),
        record.software.clone(),
        withdrawn.is_some().to_string(),
        withdrawn.map(|withdrawn| withdrawn.reason.clone()).unwrap_or_default(),
        withdrawn.map(|withdrawn| withdrawn.by.clone()).unwrap_or_default(),
        exact_time(withdrawn.map(|withdrawn| withdrawn.at)),
    ]
}

fn exact_time(time: Option<DateTime<Utc>>) -> String {
    time.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)).unwrap_or_default()
}

/// A time for people, to the minute.
pub(super) fn shown_minute(time: Option<DateTime<Utc>>) -> String {
    time.map_or_else(|| "–".to_owned(), |time| time.format("%Y-%m-%d %H:%M").to_string())
}

/// A size for people.
pub(super) fn shown_size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn table(records: &[Record]) -> String {
    let mut table = output::new_table(["uploaded (UTC)", "image", "answer", "confidence", "remark"]);
    for record in records {
        table.add_row(answer_cells(record));
    }
    output::align_right(&mut table, &[3]);
    table.trim_fmt()
}

fn answer_cells(record: &Record) -> [String; 5] {
    let (answer, remark) = answer_and_remark(record);
    [
        shown_minute(record.image.uploaded_at),
        output::printable(&record.image.key),
        answer,
        record.confidence.map(|c| format!("{:.1} %", 100.0 * c)).unwrap_or_default(),
        output::shortened(&remark),
    ]
}

/// A result as one line of text, for a list that has no end.
pub(super) fn line(record: &Record) -> String {
    let (answer, remark) = answer_and_remark(record);
    let confidence = record.confidence.map(|c| format!("{:.1} %", 100.0 * c)).unwrap_or_default();
    let at = record.classified_at.unwrap_or_else(Utc::now).format("%H:%M:%S");
    format!("{at}  {answer:<14} {confidence:>7}  {}  {remark}", output::printable(&record.image.key))
        .trim_end()
        .to_owned()
}

/// The answer and the remark, both printable.
pub(super) fn answer_and_remark(record: &Record) -> (String, String) {
    let answer = match record.status {
        Status::Rejected => "rejected",
        Status::Classified => record.label.as_deref().unwrap_or_default(),
    };
    let remark = match (&record.withdrawn, &record.reject, &record.review_reason) {
        (Some(withdrawn), _, _) => format!("withdrawn by {}: {}", withdrawn.by, withdrawn.reason),
        (None, Some(reject), _) => reject.message.clone(),
        (None, None, Some(reason)) => format!("review: {reason}"),
        (None, None, None) => String::new(),
    };
    (output::printable(answer), output::printable(&remark))
}
