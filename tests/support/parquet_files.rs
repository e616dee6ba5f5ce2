//! Records of all kinds, and Parquet files as the tools of others read them.
//!
//! Needs a Python with pyarrow and duckdb in `GIEMSA_TEST_PYTHON`; without it files are not read by them, which is said
//! aloud, and is a failure where `CI` is `true`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use giemsa_core::digest::short_id;
use giemsa_core::object::slide_of_key;
use giemsa_core::record::{ImageInfo, ModelInfo, RECORD_SCHEMA, Record, Reject, Status, TimingsMs};
use serde_json::{Value, json};

/// Names that do harm where they are taken for more than text.
pub const HOSTILE: [&str; 10] = [
    "=cmd|'/c calc'!A0",
    "@SUM(1+1)*cmd()",
    "+1\n=2",
    "<script>alert(1)</script>",
    "a\"b,c;d.png",
    "\u{1b}[31mred\u{1b}]0;title\u{7}",
    "gnp.\u{202e}exe",
    "line\r\nbreak.png",
    "été 50%25 + #?&.png",
    "'; DROP TABLE results;--",
];

/// When the images were uploaded, a second apart.
pub fn noon() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 22, 12, 0, 0).unwrap()
}

/// A record of its own for each number, of every kind in turn.
pub fn record(number: usize) -> Record {
    let name = match number % 25 {
        kind if kind < HOSTILE.len() => HOSTILE[kind].to_owned(),
        _ => "cell.png".to_owned(),
    };
    let key = format!("slide {}/{number:07} {name}", number / 100);
    let model = ModelInfo { name: "=toy".to_owned(), version: "1".to_owned(), sha256: "5f2d".repeat(16) };
    let etag = format!("{number:032x}");
    let probability = (number % 1000) as f64 / 1000.0;
    let mut record = Record {
        schema: RECORD_SCHEMA.to_owned(),
        result_id: short_id(&["giemsa-input", &key, &etag, &model.sha256]),
        slide: slide_of_key(&key),
        image: ImageInfo {
            bucket: "giemsa-input".to_owned(),
            key,
            version_id: number.is_multiple_of(2).then(|| format!("v{number}")),
            etag: Some(etag),
            size_bytes: Some(14_000 + number as u64),
            uploaded_at: Some(noon() + TimeDelta::milliseconds(number as i64 % 1_000_000)),
            width_px: Some(120),
            height_px: Some(133),
            format: Some("png".to_owned()),
            sha256: Some(format!("{number:064x}")),
        },
        stage: "prod".to_owned(),
        status: Status::Classified,
        label: Some(if probability > 0.5 { "parasitized" } else { "uninfected" }.to_owned()),
        confidence: Some(probability.max(1.0 - probability)),
        probabilities: Some(BTreeMap::from([
            ("parasitized".to_owned(), probability),
            ("uninfected".to_owned(), 1.0 - probability),
        ])),
        positive: Some(probability > 0.5),
        outlier_score: Some(-1.5 + number as f64 / 7.0),
        outlier: Some(number.is_multiple_of(11)),
        needs_review: number.is_multiple_of(5),
        review_reason: number.is_multiple_of(5).then(|| "confidence 0.5 is below 0.9".to_owned()),
        reject: None,
        model,
        timings_ms: Some(TimingsMs { fetch: 1.25, decode: 0.5, preprocess: 0.0, infer: 30.125 }),
        classified_at: Some(noon() + TimeDelta::seconds(5)),
        software: "giemsa 0.1.0".to_owned(),
        withdrawn: None,
    };
    if number % 10 == 4 {
        record.status = Status::Rejected;
        (record.label, record.confidence, record.probabilities, record.positive) = (None, None, None, None);
        (record.outlier_score, record.outlier, record.needs_review, record.review_reason) =
            (None, None, false, None);
        record.reject =
            Some(Reject { code: "corrupt".to_owned(), message: "=the file is cut off".to_owned() });
    }
    if number % 10 == 5 {
        // Of a model that names no positive label, and gives no label its own probability.
        (record.positive, record.outlier_score, record.outlier) = (None, None, None);
        record.probabilities = Some(BTreeMap::new());
    }
    record
}

/// The row that a record has to be, in the terms of `read_parquet.py`.
pub fn expected_row(record: &Record) -> Value {
    let milliseconds = |time: Option<DateTime<Utc>>| time.map(|time| time.timestamp_millis());
    let (image, model, timings) = (&record.image, &record.model, record.timings_ms);
    json!({
        "result_id": record.result_id, "stage": record.stage, "slide": record.slide,
        "bucket": image.bucket, "key": image.key, "version_id": image.version_id, "etag": image.etag,
        "image_sha256": image.sha256, "size_bytes": image.size_bytes,
        "uploaded_at": milliseconds(image.uploaded_at), "width_px": image.width_px,
        "height_px": image.height_px, "format": image.format, "status": record.status, "label": record.label,
        "confidence": record.confidence, "probabilities": record.probabilities, "positive": record.positive,
        "outlier_score": record.outlier_score, "outlier": record.outlier, "needs_review": record.needs_review,
        "review_reason": record.review_reason,
        "reject_code": record.reject.as_ref().map(|reject| &reject.code),
        "reject_message": record.reject.as_ref().map(|reject| &reject.message),
        "model_name": model.name, "model_version": model.version, "model_sha256": model.sha256,
        "fetch_ms": timings.map(|t| t.fetch), "decode_ms": timings.map(|t| t.decode),
        "preprocess_ms": timings.map(|t| t.preprocess), "infer_ms": timings.map(|t| t.infer),
        "classified_at": milliseconds(record.classified_at), "software": record.software,
        "schema": record.schema,
    })
}

/// Who reads Parquet.
#[derive(Debug, Clone, Copy)]
pub enum Engine {
    Pyarrow,
    DuckDb,
}

/// A Python that can read Parquet.
#[allow(clippy::disallowed_methods, reason = "Python's path is a setting of the machine that tests")]
pub fn python() -> Option<PathBuf> {
    let path = std::env::var_os("GIEMSA_TEST_PYTHON").map(PathBuf::from);
    if path.is_none() {
        let message = "GIEMSA_TEST_PYTHON is not set; expected a Python with pyarrow and duckdb (tests/requirements.txt)";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
        eprintln!("\n*** SKIPPED: reading Parquet by pyarrow and DuckDB: {message} ***\n");
    }
    path
}

/// Rows of the files that a pattern names, or `None` without a Python.
pub fn rows_by(engine: Engine, pattern: &str) -> Option<Vec<Value>> {
    let script =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/parquet_files/read_parquet.py");
    let name = match engine {
        Engine::Pyarrow => "pyarrow",
        Engine::DuckDb => "duckdb",
    };
    let output = Command::new(python()?).arg(script).args([name, pattern]).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}
