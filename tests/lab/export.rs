//! `giemsa results export` and `compact` as a process: what others read of the files, memory, ends in the middle.

// For what measures a process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use giemsa_core::record::Record;
use giemsa_store::{TableWriter, make_current};
use giemsa_tests::lab::{INPUT, Lab, MODELS, RESULTS, TABLE};
#[cfg(target_os = "linux")]
use giemsa_tests::large_bucket::peak_memory_of;
use giemsa_tests::large_bucket::run;
use giemsa_tests::many_results::ManyResults;
use giemsa_tests::parquet_files::{Engine, expected_row, record, rows_by};
use serde_json::Value;

/// Records that an export of the laboratory has.
const RECORDS: usize = 120;

/// `giemsa results` on the laboratory.
fn results(lab: &Lab) -> Command {
    let mut command = giemsa_tests::many_results::results("http://127.0.0.1:9");
    command.envs(lab.endpoints()).env("GIEMSA_INPUT_BUCKET", INPUT).env("GIEMSA_MODEL_BUCKET", MODELS);
    command.env("GIEMSA_RESULTS_BUCKET", RESULTS).env("GIEMSA_TABLE", TABLE);
    command
}

/// Current results of all kinds, by key, as the table has them.
async fn seed(lab: &Lab) -> BTreeMap<String, Record> {
    let writer = TableWriter::new(lab.clients.dynamodb.clone(), TABLE);
    let now = chrono::Utc::now();
    let records = stream::iter((0..RECORDS).map(record).map(|mut record| {
        record.image.bucket = INPUT.to_owned();
        if record.needs_review {
            // Landed while the export runs, which so sees it twice.
            record.classified_at =
                Some(chrono::DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap());
        }
        let writer = &writer;
        async move {
            assert!(make_current(&lab.clients.s3, writer, &record, None).await.unwrap());
            (record.image.key.clone(), record)
        }
    }));
    let records: BTreeMap<String, Record> = records.buffer_unordered(8).collect().await;
    let slides: BTreeSet<&str> = records.values().map(|record| record.slide.as_str()).collect();
    for slide in slides {
        writer.invalidate_slide("prod", slide, now).await.unwrap();
    }
    writer.invalidate_day("prod", "2026-11-22", now).await.unwrap();
    records
}

async fn succeed(command: Command) -> Output {
    let output = run(command).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_and_csv_hold_every_record() {
    let lab = Lab::without_model().await;
    let expected = seed(&lab).await;
    let folder = tempfile::tempdir().unwrap();
    let [parquet, csv] = ["all.parquet", "all.csv"].map(|name| folder.path().join(name));

    let mut command = results(&lab);
    command.args(["export", "--format", "parquet", "-o"]).arg(&parquet);
    let output = succeed(command).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && said.contains(&format!("{RECORDS} results of prod")), "{said}");
    for engine in [Engine::Pyarrow, Engine::DuckDb] {
        let Some(rows) = rows_by(engine, parquet.to_str().unwrap()) else { continue };
        assert_eq!(rows.len(), RECORDS, "{engine:?}");
        for row in rows {
            let record = &expected[row["key"].as_str().unwrap()];
            let mut expected = expected_row(record);
            expected["withdrawn"] = false.into();
            for column in ["withdrawn_at", "withdrawn_by", "withdrawn_reason"] {
                expected[column] = serde_json::Value::Null;
            }
            assert_eq!(row, expected, "{engine:?}");
        }
    }

    // A filter, to stdout.
    let mut command = results(&lab);
    command.args(["export", "--format", "parquet", "--status", "rejected"]);
    let output = succeed(command).await;
    std::fs::write(&parquet, &output.stdout).unwrap();
    if let Some(rows) = rows_by(Engine::DuckDb, parquet.to_str().unwrap()) {
        let rejected = expected.values().filter(|record| record.reject.is_some()).count();
        assert!(rejected > 0 && rows.len() == rejected && rows.iter().all(|row| row["status"] == "rejected"));
    }

    let mut command = results(&lab);
    command.args(["export", "--format", "csv", "-o"]).arg(&csv);
    succeed(command).await;
    let text = std::fs::read_to_string(&csv).unwrap();
    assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "nothing for terminals");
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "lines end as RFC 4180 says");
    assert_eq!(text.lines().count(), RECORDS + 1, "no name breaks a line");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let of_classify = "slide,key,status,label,confidence,positive,needs_review,review_reason,reject_code,reject_message,\
                       width_px,height_px,model,model_sha256,outlier_score,outlier";
    assert!(header.iter().collect::<Vec<_>>().join(",").starts_with(of_classify));
    let mut by_result: BTreeMap<&str, &Record> =
        expected.values().map(|record| (record.result_id.as_str(), record)).collect();
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().unwrap();
    for row in &rows {
        let cells: BTreeMap<&str, &str> = header.iter().zip(row.iter()).collect();
        for (column, cell) in &cells {
            let is_number = cell.parse::<f64>().is_ok();
            assert!(is_number || !cell.starts_with(['=', '+', '-', '@']), "{column}: {cell}");
        }
        let record = by_result.remove(cells["result_id"]).expect("each result once");
        assert_eq!(cells["label"], record.label.as_deref().unwrap_or_default());
        assert_eq!(cells["etag"], record.image.etag.as_deref().unwrap());
        assert_eq!(cells["model"], "'=toy 1");
        let probabilities: Option<BTreeMap<String, f64>> = serde_json::from_str(cells["probabilities"]).ok();
        assert_eq!(probabilities, record.probabilities);
        let uploaded_at = record.image.uploaded_at.unwrap();
        assert_eq!(cells["uploaded_at"].parse::<chrono::DateTime<chrono::Utc>>().unwrap(), uploaded_at);
    }
    assert!(by_result.is_empty(), "every result");
    assert_eq!(names_in(folder.path()), ["all.csv", "all.parquet"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_is_said_and_changes_nothing() {
    let lab = Lab::without_model().await;
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.csv");
    std::fs::write(&old, "as it was").unwrap();

    let mut command = results(&lab);
    command.args(["export", "--format", "csv", "-o"]).arg(&old).env("GIEMSA_TABLE", "nowhere");
    let output = run(command).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nowhere"), "{said}");
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "as it was");

    let mut command = results(&lab);
    command.args(["export", "--format", "csv", "-o"]).arg(folder.path());
    let output = run(command).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is a folder; expected a file"));
    assert_eq!(names_in(folder.path()), ["old.csv"]);
}

/// Starts an export that stalls in the middle, sends a signal, and returns what it said.
async fn ended_export(many: &Arc<ManyResults>, target: &Path, signal: &str) -> String {
    many.reads.store(0, Ordering::SeqCst);
    many.stall_at_read.store(40, Ordering::SeqCst);
    let mut command = giemsa_tests::many_results::results(&many.serve().await);
    command.args(["export", "--format", "parquet", "-o"]).arg(target);
    let (reads, signal) = (Arc::clone(many), signal.to_owned());
    let ended = tokio::task::spawn_blocking(move || {
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while reads.reads.load(Ordering::SeqCst) < 40 {
            assert!(started.elapsed() < Duration::from_secs(120), "it never came so far");
            std::thread::sleep(Duration::from_millis(5));
        }
        let kill = format!("kill -{signal} {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        child.wait_with_output().unwrap()
    });
    let output = ended.await.unwrap();
    assert_ne!(output.status.code(), Some(0));
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_ended_leaves_no_half_file() {
    let many = ManyResults::new(10_000);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("results.parquet");
    for signal in ["TERM", "INT"] {
        let said = ended_export(&many, &target, signal).await;
        assert!(said.contains("results.parquet is unchanged"), "{said}");
        assert_eq!(names_in(folder.path()), [""; 0], "not even a temporary file");
    }
    std::fs::write(&target, "as it was").unwrap();
    ended_export(&many, &target, "KILL").await;
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "as it was");
    let left = names_in(folder.path());
    assert!(left.iter().all(|n| n == "results.parquet" || n.ends_with(".part")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_result_is_replaced_meanwhile_is_not_missed() {
    let many = ManyResults::new(700);
    many.replaced.store(600, Ordering::SeqCst);
    let mut command = giemsa_tests::many_results::results(&many.serve().await);
    command.args(["export", "--format", "csv"]);
    let text = String::from_utf8(succeed(command).await.stdout).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    let keys: BTreeSet<&str> = rows.iter().map(|row| row["key"].as_str()).collect();
    assert_eq!((rows.len(), keys.len()), (700, 700));
    let replaced = rows.iter().find(|row| row["key"] == ManyResults::key(600)).unwrap();
    assert_eq!(replaced["result_id"], giemsa_tests::many_results::REPLACING);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_results() {
    /// What the allocator may keep, and a row group of rows.
    const SLACK_BYTES: u64 = 16 << 20;
    let folder = tempfile::tempdir().unwrap();
    let mut peaks = Vec::new();
    for count in [11_000, 23_000] {
        let many = ManyResults::new(count);
        let url = many.serve().await;
        let target = folder.path().join("results.parquet");
        let mut command = giemsa_tests::many_results::results(&url);
        command.args(["export", "--format", "parquet", "-o"]).arg(&target);
        let (peak, output) = peak_memory_of(command).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("{count} results of prod written to")), "{said}");
        peaks.push(peak);
    }
    eprintln!("peak memory: {} kB for 11,000 results, {} kB for 23,000", peaks[0] >> 10, peaks[1] >> 10);
    assert!(peaks[0] > 4 << 20, "{peaks:?} are not figures of a process");
    assert!(peaks[1] <= peaks[0] + SLACK_BYTES, "{peaks:?}");
}

/// Processor time of processes that have ended, seconds; tells of a command also where others use the machine.
#[cfg(target_os = "linux")]
fn cpu_seconds_of_children() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // Fields 16 and 17 of proc(5), in hundredths of a second; the first two are cut off.
    fields[13..15].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

#[cfg(target_os = "linux")]
async fn measured(what: &str, count: usize, command: Command) -> Output {
    let (started, cpu_before) = (Instant::now(), cpu_seconds_of_children());
    let (peak, output) = peak_memory_of(command).await;
    let cpu_seconds = cpu_seconds_of_children() - cpu_before;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{what}: {count} results in {seconds:.0} s ({:.0} a second) and {cpu_seconds:.0} s of processor time ({:.0} a \
         second), peak memory {} kB",
        count as f64 / seconds,
        count as f64 / cpu_seconds,
        peak >> 10
    );
    assert!(peak < 160 << 20, "{peak}");
    output
}

/// A million, or what `GIEMSA_TEST_RESULTS` says.
#[cfg(target_os = "linux")]
#[allow(
    clippy::disallowed_methods,
    reason = "how long a measurement may take is a setting of the machine that tests"
)]
fn many() -> usize {
    std::env::var("GIEMSA_TEST_RESULTS").map_or(1_000_000, |count| count.parse().unwrap())
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes many minutes: cargo test --test lab export:: -- --ignored --nocapture --test-threads 1"]
async fn a_million_results_are_exported() {
    let count = many();
    let url = ManyResults::new(count).serve().await;
    let folder = tempfile::tempdir().unwrap();
    for format in ["parquet", "csv"] {
        let target = folder.path().join(format!("results.{format}"));
        let mut command = giemsa_tests::many_results::results(&url);
        command.args(["export", "--format", format, "-o"]).arg(&target);
        let output = measured(&format!("export as {format}"), count, command).await;
        assert!(String::from_utf8(output.stderr).unwrap().contains(&format!("{count} results of prod")));
        eprintln!("  a file of {} MB", std::fs::metadata(&target).unwrap().len() / 1_000_000);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes many minutes: cargo test --test lab export:: -- --ignored --nocapture --test-threads 1"]
async fn a_million_results_are_compacted() {
    let count = many();
    let many = ManyResults::new(count);
    let url = many.serve().await;
    for more in [&[][..], &["--delete-json"][..]] {
        let mut command = giemsa_tests::many_results::results(&url);
        command.args(["compact", "--date", giemsa_tests::many_results::DAY, "--format", "json"]).args(more);
        let output = measured(&format!("compact {}", more.join(" ")), count, command).await;
        let line: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(line["results"], count);
        assert_eq!(line["added"], if more.is_empty() { count } else { 0 });
        let (files, bytes) = (line["files"].as_array().unwrap().len(), line["size_bytes"].as_u64().unwrap());
        eprintln!("  {files} files, {} MB", bytes / 1_000_000);
    }
    assert_eq!(many.deleted.load(Ordering::SeqCst), count);
}
