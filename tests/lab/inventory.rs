//! Inventories in both formats, as AWS documents them, against the listing of the same bucket.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use flate2::Compression;
use flate2::write::GzEncoder;
use giemsa_ops::inventory::{Inventory, InventoryPlace, InventoryPosition};
use giemsa_store::{Upload, UploadVersion, form_encoded};
use giemsa_tests::lab::{Lab, MODELS};
#[cfg(target_os = "linux")]
use giemsa_tests::large_bucket::peak_memory_of;
use giemsa_tests::large_bucket::{BUCKET, LargeBucket, Listed, kill_after, lines, reconcile, run};
use md5::{Digest, Md5};
use parquet::basic::Compression as ParquetCompression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use tempfile::TempDir;

/// As the manifest of an inventory in Parquet has it, with fields that are not read.
const PARQUET_SCHEMA: &str = "message s3.inventory { required binary bucket (UTF8); required binary key (UTF8); \
    optional binary version_id (UTF8); optional boolean is_latest; optional boolean is_delete_marker; \
    optional int64 size; optional int64 last_modified_date (TIMESTAMP_MILLIS); optional binary e_tag (UTF8); \
    optional binary storage_class (UTF8); optional boolean is_multipart_uploaded; }";

/// Rows of a row group: a file has several.
const ROW_GROUP: usize = 700;

/// One row: an upload, or a delete marker.
#[derive(Clone)]
enum Row {
    Upload(Listed),
    DeleteMarker(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Csv,
    /// Of current versions only, which names no versions.
    CsvOfCurrent,
    Parquet,
}

fn csv_gz(rows: &[Row], with_versions: bool) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    for row in rows {
        let (key, version, latest, marker, size, at, etag) = match row {
            Row::Upload(upload) => (
                &upload.key,
                upload.version_id.clone().unwrap_or_default(),
                upload.is_latest,
                false,
                "14000".to_owned(),
                upload.uploaded_at,
                upload.etag.clone(),
            ),
            Row::DeleteMarker(key) => (
                key,
                "marker".to_owned(),
                true,
                true,
                String::new(),
                chrono::DateTime::UNIX_EPOCH,
                String::new(),
            ),
        };
        let (key, at) = (form_encoded(key), at.format("%Y-%m-%dT%H:%M:%S.000Z"));
        let versions =
            if with_versions { format!("\"{version}\",\"{latest}\",\"{marker}\",") } else { String::new() };
        writeln!(gz, "\"{BUCKET}\",\"{key}\",{versions}\"{size}\",\"{at}\",\"{etag}\",\"STANDARD\"").unwrap();
    }
    gz.finish().unwrap()
}

fn csv_schema(with_versions: bool) -> String {
    let versions = if with_versions { "VersionId, IsLatest, IsDeleteMarker, " } else { "" };
    format!("Bucket, Key, {versions}Size, LastModifiedDate, ETag, StorageClass")
}

fn parquet_file(rows: &[Row]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(PARQUET_SCHEMA).unwrap());
    let properties = WriterProperties::builder().set_compression(ParquetCompression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(ROW_GROUP) {
        let mut group = writer.next_row_group().unwrap();
        let texts = |of: &dyn Fn(&Row) -> Option<String>| -> Vec<Option<ByteArray>> {
            rows.iter().map(|row| of(row).map(|text| ByteArray::from(text.as_str()))).collect()
        };
        let upload = |row: &Row| match row {
            Row::Upload(upload) => Some(upload.clone()),
            Row::DeleteMarker(_) => None,
        };
        let key = |row: &Row| match row {
            Row::Upload(upload) => upload.key.clone(),
            Row::DeleteMarker(key) => key.clone(),
        };
        macro_rules! column {
            ($kind:ty, $values:expr, required) => {{
                let mut column = group.next_column().unwrap().unwrap();
                let values: Vec<_> = $values.into_iter().map(Option::unwrap).collect();
                column.typed::<$kind>().write_batch(&values, None, None).unwrap();
                column.close().unwrap();
            }};
            ($kind:ty, $values:expr) => {{
                let mut column = group.next_column().unwrap().unwrap();
                let all: Vec<Option<_>> = $values;
                let levels: Vec<i16> = all.iter().map(|value| i16::from(value.is_some())).collect();
                let values: Vec<_> = all.into_iter().flatten().collect();
                column.typed::<$kind>().write_batch(&values, Some(&levels), None).unwrap();
                column.close().unwrap();
            }};
        }
        column!(ByteArrayType, texts(&|_| Some(BUCKET.to_owned())), required);
        // Unlike in CSV, keys are as they are.
        column!(ByteArrayType, texts(&|row| Some(key(row))), required);
        column!(
            ByteArrayType,
            texts(&|row| match row {
                Row::Upload(upload) => upload.version_id.clone(),
                Row::DeleteMarker(_) => Some("marker".to_owned()),
            })
        );
        column!(BoolType, rows.iter().map(|row| Some(upload(row).is_none_or(|u| u.is_latest))).collect());
        column!(BoolType, rows.iter().map(|row| Some(upload(row).is_none())).collect());
        column!(Int64Type, rows.iter().map(|row| upload(row).map(|_| 14_000)).collect());
        column!(
            Int64Type,
            rows.iter()
                .map(|row| Some(upload(row).map_or(0, |u| u.uploaded_at.timestamp_millis())))
                .collect()
        );
        column!(ByteArrayType, texts(&|row| upload(row).map(|u| u.etag)));
        column!(ByteArrayType, texts(&|_| Some("STANDARD".to_owned())));
        column!(BoolType, rows.iter().map(|_| Some(false)).collect());
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn md5_of(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An inventory on disk, as `aws s3 sync` of the bucket it was written to would leave it.
struct Made {
    folder: TempDir,
    manifest: PathBuf,
    /// Key and content of each data file.
    files: Vec<(String, Vec<u8>)>,
}

impl Made {
    /// Data files of `rows` each.
    fn new(format: Format, parts: &[Vec<Row>]) -> Self {
        let with_versions = format != Format::CsvOfCurrent;
        let files = parts.iter().enumerate().map(|(number, rows)| match format {
            Format::Parquet => (format!("lists/{BUCKET}/all/data/{number}.parquet"), parquet_file(rows)),
            _ => (format!("lists/{BUCKET}/all/data/{number}.csv.gz"), csv_gz(rows, with_versions)),
        });
        let name = if format == Format::Parquet { "Parquet" } else { "CSV" };
        let schema =
            if format == Format::Parquet { PARQUET_SCHEMA.to_owned() } else { csv_schema(with_versions) };
        Self::of_files(name, &schema, files.collect())
    }

    fn of_files(format: &str, schema: &str, files: Vec<(String, Vec<u8>)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listed: Vec<Value> = files
            .iter()
            .map(|(key, bytes)| json!({"key": key, "size": bytes.len(), "MD5checksum": md5_of(bytes)}))
            .collect();
        for (key, bytes) in &files {
            let path = folder.path().join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let manifest = folder.path().join(format!("lists/{BUCKET}/all/2026-11-22T01-00Z/manifest.json"));
        std::fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        let json = json!({
            "sourceBucket": BUCKET, "destinationBucket": "arn:aws:s3:::lists", "version": "2016-11-30",
            "creationTimestamp": "1795309200000", "fileFormat": format, "fileSchema": schema, "files": listed,
        });
        std::fs::write(&manifest, json.to_string()).unwrap();
        Self { folder, manifest, files }
    }

    async fn open(&self, lab: &Lab) -> Inventory {
        let place = InventoryPlace::parse(self.manifest.to_str().unwrap()).unwrap();
        Inventory::open(place, lab.clients.s3.clone()).await.unwrap()
    }
}

/// The rows of a bucket in no order, with delete markers among them, in three files.
fn rows_of(bucket: &LargeBucket) -> Vec<Vec<Row>> {
    let mut rows: Vec<Row> = bucket.uploads().map(Row::Upload).collect();
    rows.extend((0..5).map(|i| Row::DeleteMarker(format!("slide 0/deleted-{i}.png"))));
    rows.shuffle(&mut rand::rngs::StdRng::seed_from_u64(5));
    let third = rows.len() / 3;
    vec![rows[..third].to_vec(), rows[third..2 * third].to_vec(), rows[2 * third..].to_vec()]
}

fn sorted(mut lines: Vec<Value>) -> Vec<String> {
    let mut texts: Vec<String> = lines.drain(..).map(|line| line.to_string()).collect();
    texts.sort_unstable();
    texts
}

async fn read_all(inventory: Inventory, from: InventoryPosition) -> (Vec<Upload>, Vec<InventoryPosition>) {
    let mut pages = inventory.pages(from);
    let (mut uploads, mut positions) = (Vec::new(), Vec::new());
    while let Some((page, position)) = pages.next().await.unwrap() {
        assert!(page.len() <= 1_000);
        uploads.extend(page);
        positions.push(position);
    }
    (uploads, positions)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_in_either_format_gives_what_the_listing_gives() {
    for (versions, formats) in [
        (1, vec![Format::Csv, Format::Parquet, Format::CsvOfCurrent]),
        (3, vec![Format::Csv, Format::Parquet]),
    ] {
        let bucket = LargeBucket::new(1_100, versions);
        let url = bucket.serve().await;
        let mut command = reconcile(&url);
        command.arg("--json");
        let (listed, mut summary) = lines(&run(command).await);
        assert!(!listed.is_empty());
        for format in formats {
            let mut parts = rows_of(&bucket);
            if format == Format::CsvOfCurrent {
                parts.iter_mut().for_each(|rows| rows.retain(|row| matches!(row, Row::Upload(_))));
            }
            let made = Made::new(format, &parts);
            let mut command = reconcile(&url);
            command.args(["--json", "--inventory"]).arg(&made.manifest);
            let pages = bucket.pages_served.load(Ordering::SeqCst);
            let output = run(command).await;
            let (found, of_inventory) = lines(&output);
            assert_eq!(output.status.code(), Some(1));
            assert_eq!(sorted(found), sorted(listed.clone()), "{format:?}");
            summary["listed_by"] = json!("inventory");
            assert_eq!(of_inventory, summary, "{format:?}");
            assert_eq!(bucket.pages_served.load(Ordering::SeqCst), pages, "the bucket was not listed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_over_an_inventory_goes_on_with_the_same_counts() {
    let bucket = LargeBucket::new(5_400, 1);
    let url = bucket.serve().await;
    let made = Made::new(Format::Parquet, &rows_of(&bucket));
    let checkpoint = made.folder.path().join("run.json");
    let command = || {
        let mut command = reconcile(&url);
        command.args(["--json", "--checkpoint"]).arg(&checkpoint).arg("--inventory").arg(&made.manifest);
        command
    };
    let (all, summary) = lines(&run(command()).await);
    // Three of a thousand are looked at one by one; the run stalls in the middle of the second file.
    bucket.looks.store(0, Ordering::SeqCst);
    bucket.stall_at_look.store(9, Ordering::SeqCst);
    kill_after(command(), &checkpoint, 1_500).await;
    bucket.stall_at_look.store(0, Ordering::SeqCst);
    let (rest, resumed) = lines(&run(command()).await);
    assert_eq!(resumed, summary);
    assert!(!rest.is_empty() && rest.len() < all.len() && rest == all[all.len() - rest.len()..]);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_inventory() {
    memory_does_not_grow_with(Format::Parquet).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "as that in Parquet, which holds more at once; takes ten seconds"]
async fn memory_does_not_grow_with_an_inventory_in_csv() {
    memory_does_not_grow_with(Format::Csv).await;
}

#[cfg(target_os = "linux")]
async fn memory_does_not_grow_with(format: Format) {
    /// A row group and what the allocator keeps; 40,000 rows are 6 MB, 2,000 a twentieth of that.
    const SLACK_BYTES: u64 = 6 << 20;
    let mut peaks = Vec::new();
    for images in [2_000, 40_000] {
        let bucket = LargeBucket::new(images, 1);
        let url = bucket.serve().await;
        let made = Made::new(format, &[bucket.uploads().map(Row::Upload).collect::<Vec<_>>()]);
        let mut command = reconcile(&url);
        command.args(["--json", "--inventory"]).arg(&made.manifest);
        let (peak, output) = peak_memory_of(command).await;
        assert_eq!(lines(&output).1["uploads"], json!(images));
        peaks.push(peak);
    }
    eprintln!("{format:?}: {} kB for 2,000 rows, {} kB for 40,000", peaks[0] >> 10, peaks[1] >> 10);
    assert!(peaks[0] > 4 << 20 && peaks[1] <= peaks[0] + SLACK_BYTES, "{format:?}: {peaks:?}");
}

fn hostile_rows() -> Vec<Row> {
    let keys = ["a+b/%2B c.png", "=cmd().png", "é漢\n\"q\",'.png", "a,b\r\n.png"];
    let at = chrono::DateTime::from_timestamp_millis(1_795_000_000_000).unwrap();
    keys.iter()
        .map(|key| {
            Row::Upload(Listed {
                key: (*key).to_owned(),
                version_id: Some("null".to_owned()),
                is_latest: true,
                etag: "e".to_owned(),
                uploaded_at: at,
            })
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_same_from_disk_and_s3_and_from_any_position() {
    let lab = Lab::without_model().await;
    let bucket = LargeBucket::new(1_700, 2);
    for format in [Format::Csv, Format::Parquet] {
        let mut parts = rows_of(&bucket);
        // The last page of a file is not full, and one file is empty.
        parts.insert(1, Vec::new());
        parts.push(hostile_rows());
        let made = Made::new(format, &parts);
        let (uploads, positions) = read_all(made.open(&lab).await, InventoryPosition::default()).await;
        let expected: Vec<&str> = parts
            .iter()
            .flatten()
            .filter_map(|row| match row {
                Row::Upload(upload) => Some(upload.key.as_str()),
                Row::DeleteMarker(_) => None,
            })
            .collect();
        assert_eq!(
            uploads.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(),
            expected,
            "{format:?}"
        );
        assert_eq!(uploads.last().unwrap().version, UploadVersion::Null);
        assert_eq!(uploads[0].size_bytes, 14_000);
        for from in &positions {
            let (rest, _) = read_all(made.open(&lab).await, *from).await;
            assert!(uploads.ends_with(&rest), "{format:?} {from:?}");
            assert!(rest.len() < uploads.len());
        }
        assert_eq!(positions.last().unwrap().file, 4);

        // The same from S3; any bucket will do.
        let manifest = std::fs::read(&made.manifest).unwrap();
        lab.put_in_models("lists/manifest.json", &manifest).await;
        for (key, bytes) in &made.files {
            lab.put_in_models(key, bytes).await;
        }
        let place = InventoryPlace::parse(&format!("s3://{MODELS}/lists/manifest.json")).unwrap();
        let inventory = Inventory::open(place, lab.clients.s3.clone()).await.unwrap();
        assert_eq!(inventory.bucket(), BUCKET);
        assert_eq!(read_all(inventory, InventoryPosition::default()).await.0, uploads, "{format:?}");
    }
}

/// Reads until an error, which has to come.
async fn error_of(made: &Made, lab: &Lab) -> String {
    let mut pages = made.open(lab).await.pages(InventoryPosition::default());
    loop {
        match pages.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was read to the end"),
            Err(error) => return error.to_string(),
        }
    }
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_never_read_as_a_shorter_list() {
    let lab = Lab::without_model().await;
    let bucket = LargeBucket::new(1_200, 1);
    for format in [Format::Csv, Format::Parquet] {
        let parts = rows_of(&bucket);
        // One bit, which the manifest's MD5 tells.
        let made = Made::new(format, &parts);
        let second = made.folder.path().join(&made.files[1].0);
        rewrite(&second, |bytes| *bytes.last_mut().unwrap() ^= 1);
        let error = error_of(&made, &lab).await;
        assert!(error.contains("has the MD5") && error.contains("fetch the file again"), "{error}");
        std::fs::remove_file(&second).unwrap();
        let error = error_of(&made, &lab).await;
        assert!(error.contains("copy it beside manifest.json"), "{error}");

        // Cut and damaged files that the manifest vouches for.
        let (key, whole) = made.files[1].clone();
        let cuts = (1..8).map(|eighths| whole[..whole.len() * eighths / 8].to_vec());
        let flips = (0..24).map(|i| {
            let mut bytes = whole.clone();
            let at = bytes.len() * i / 24;
            bytes[at] ^= 0x55;
            bytes
        });
        let (name, schema) = match format {
            Format::Parquet => ("Parquet", PARQUET_SCHEMA.to_owned()),
            _ => ("CSV", csv_schema(true)),
        };
        for bytes in cuts {
            let made = Made::of_files(name, &schema, vec![(key.clone(), bytes)]);
            let error = error_of(&made, &lab).await;
            assert!(error.contains("cannot be read"), "{format:?}: {error}");
        }
        for bytes in flips {
            // Some bits change nothing that is read; none may hang or end the process.
            let made = Made::of_files(name, &schema, vec![(key.clone(), bytes)]);
            let mut pages = made.open(&lab).await.pages(InventoryPosition::default());
            while let Ok(Some(_)) = pages.next().await {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_it_cannot_use() {
    let bucket = LargeBucket::new(10, 1);
    let url = bucket.serve().await;
    let refused = |manifest: PathBuf| {
        let mut command = reconcile(&url);
        command.arg("--inventory").arg(manifest);
        async move {
            let output = run(command).await;
            assert_eq!(output.status.code(), Some(2));
            assert!(output.stdout.is_empty());
            String::from_utf8(output.stderr).unwrap()
        }
    };
    let orc = Made::of_files("ORC", "struct<bucket:string,key:string>", Vec::new());
    assert!(refused(orc.manifest.clone()).await.contains("expected CSV or Parquet"));
    let columns = Made::of_files("CSV", "Bucket, Key", Vec::new());
    assert!(refused(columns.manifest.clone()).await.contains("no Size, LastModifiedDate, ETag"));
    rewrite(&columns.manifest, |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replace(BUCKET, "other").replace("Bucket, Key", &csv_schema(true)).into_bytes();
    });
    let said = refused(columns.manifest.clone()).await;
    assert!(said.contains("lists the bucket \"other\"") && said.contains("GIEMSA_INPUT_BUCKET"), "{said}");
    assert!(refused(PathBuf::from("no/manifest.json")).await.contains("no/manifest.json cannot be read"));
    assert!(refused(PathBuf::from("s3://bucket-only")).await.contains("s3://bucket/…/manifest.json"));
}
