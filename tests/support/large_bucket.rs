//! S3 and DynamoDB of a bucket as large as a test asks for: what they answer is computed from the key, and nothing is kept.
//!
//! It answers only what `giemsa reconcile` asks. Every thousandth key is special: see [`Fate::of`].

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use giemsa_core::digest::short_id;
use serde_json::{Value, json};

pub const BUCKET: &str = "giemsa-input";
const PAGE: usize = 1_000;
/// Longest wait for anything; generous, because builds may run beside the tests.
const PATIENCE: Duration = Duration::from_secs(240);
/// Digest of the model that answered everything.
const MODEL: &str = "5f2d";

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Answered,
    Rejected,
    /// Never answered, and no try is noted.
    Lost,
    /// Never answered, and the classifier said why.
    Failed,
    /// The table shows an older upload.
    Outdated,
}

impl Fate {
    pub fn of(image: usize) -> Self {
        match image % 1_000 {
            7 => Self::Lost,
            8 => Self::Failed,
            9 => Self::Outdated,
            10..20 => Self::Rejected,
            _ => Self::Answered,
        }
    }
}

/// One upload, as a listing has it.
#[derive(Debug, Clone)]
pub struct Listed {
    pub key: String,
    pub version_id: Option<String>,
    pub is_latest: bool,
    pub etag: String,
    pub uploaded_at: DateTime<Utc>,
}

/// The bucket.
#[derive(Debug)]
pub struct LargeBucket {
    pub images: usize,
    /// Uploads of each image; above 1 the bucket keeps versions.
    pub versions: usize,
    /// The page of the listing, from 1, that is never answered; 0 for none.
    pub stall_at_page: AtomicUsize,
    pub pages_served: AtomicUsize,
    /// The look at a single upload, from 1, that is never answered; 0 for none.
    pub stall_at_look: AtomicUsize,
    pub looks: AtomicUsize,
    /// Batches that were answered with some keys left unprocessed.
    pub partial_batches: AtomicUsize,
}

impl LargeBucket {
    pub fn new(images: usize, versions: usize) -> Arc<Self> {
        Arc::new(Self {
            images,
            versions,
            stall_at_page: AtomicUsize::new(0),
            pages_served: AtomicUsize::new(0),
            stall_at_look: AtomicUsize::new(0),
            looks: AtomicUsize::new(0),
            partial_batches: AtomicUsize::new(0),
        })
    }

    /// Serves on a free port of loopback, and returns the URL.
    pub async fn serve(self: &Arc<Self>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(self));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    pub fn key(image: usize) -> String {
        format!("slide {}/{image:08}.png", image / 500)
    }

    fn image_of(key: &str) -> usize {
        key.rsplit_once('/').unwrap().1.strip_suffix(".png").unwrap().parse().unwrap()
    }

    /// Versions are numbered from 1, the oldest.
    fn etag(image: usize, version: usize) -> String {
        format!("{image:031x}{version:x}")
    }

    fn uploaded_at(version: usize) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + 3_600 * version as i64, 0).unwrap()
    }

    /// Everything that is listed, in the order of a listing.
    pub fn uploads(&self) -> impl Iterator<Item = Listed> {
        (0..self.images * self.versions).map(|upload| {
            let (image, version) = (upload / self.versions, self.versions - upload % self.versions);
            Listed {
                key: Self::key(image),
                version_id: self.is_versioned().then(|| format!("v{version}")),
                is_latest: version == self.versions,
                etag: Self::etag(image, version),
                uploaded_at: Self::uploaded_at(version),
            }
        })
    }

    fn head(&self, uri: &Uri, version_id: Option<&String>) -> Response {
        let key = percent_encoding::percent_decode_str(uri.path()).decode_utf8().unwrap();
        let image = Self::image_of(&key);
        if image >= self.images {
            return StatusCode::NOT_FOUND.into_response();
        }
        let version = version_id.map_or(self.versions, |id| id.strip_prefix('v').unwrap().parse().unwrap());
        let modified = Self::uploaded_at(version).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let head = [
            ("etag", format!("\"{}\"", Self::etag(image, version))),
            ("content-length", "14000".to_owned()),
            ("last-modified", modified),
        ];
        let version = self.is_versioned().then(|| [("x-amz-version-id", format!("v{version}"))]);
        (head, version.unwrap_or_else(|| [("x-amz-request-id", "1".to_owned())])).into_response()
    }

    fn is_versioned(&self) -> bool {
        self.versions > 1
    }

    /// Uploads are numbered in the order of a listing, newest version first.
    fn listing(&self, query: &HashMap<String, String>) -> String {
        let first = match (
            query.get("start-after").or_else(|| query.get("key-marker")),
            query.get("version-id-marker"),
        ) {
            (None, _) => 0,
            (Some(key), None) => (Self::image_of(key) + 1) * self.versions,
            (Some(key), Some(version)) => {
                let version: usize = version.strip_prefix('v').unwrap().parse().unwrap();
                (Self::image_of(key) + 1) * self.versions - version + 1
            }
        };
        let all = self.images * self.versions;
        let end = (first + PAGE).min(all);
        let tag = if self.is_versioned() { "ListVersionsResult" } else { "ListBucketResult" };
        let entry = if self.is_versioned() { "Version" } else { "Contents" };
        let mut xml = format!(
            "<{tag}><Name>{BUCKET}</Name><EncodingType>url</EncodingType><IsTruncated>{}</IsTruncated>",
            end < all
        );
        for upload in first..end {
            let (image, version) = (upload / self.versions, self.versions - upload % self.versions);
            let key = Self::key(image).replace(' ', "+");
            write!(
                xml,
                "<{entry}><Key>{key}</Key><LastModified>{}</LastModified><ETag>\"{}\"</ETag><Size>14000</Size>",
                Self::uploaded_at(version).format("%Y-%m-%dT%H:%M:%S.000Z"),
                Self::etag(image, version),
            )
            .unwrap();
            if self.is_versioned() {
                let is_latest = version == self.versions;
                write!(xml, "<VersionId>v{version}</VersionId><IsLatest>{is_latest}</IsLatest>").unwrap();
                if end < all && upload + 1 == end {
                    write!(xml, "</{entry}><NextKeyMarker>{key}</NextKeyMarker>").unwrap();
                    write!(xml, "<NextVersionIdMarker>v{version}</NextVersionIdMarker>").unwrap();
                    continue;
                }
            }
            write!(xml, "</{entry}>").unwrap();
        }
        write!(xml, "</{tag}>").unwrap();
        xml
    }

    /// Result objects below `results/stage=prod/date=…/<key>.`: of every version of what was answered but the oldest of
    /// images whose number ends in 3.
    fn results(&self, prefix: &str) -> String {
        let (date, key) = prefix.strip_prefix("results/stage=prod/date=").unwrap().split_once('/').unwrap();
        let key = key.strip_suffix('.').unwrap();
        let image = Self::image_of(key);
        let mut xml =
            "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>".to_owned();
        for version in 1..=self.versions {
            let is_missing = version == 1 && image % 10 == 3;
            if !is_missing && Self::uploaded_at(version).format("%Y-%m-%d").to_string() == date {
                let id = short_id(&[BUCKET, key, &format!("v{version}"), MODEL]);
                let key = prefix.replace(' ', "+");
                write!(xml, "<Contents><Key>{key}{id}.json</Key><Size>900</Size></Contents>").unwrap();
            }
        }
        xml + "</ListBucketResult>"
    }

    fn current(&self, image: usize) -> Option<Value> {
        let fate = Fate::of(image);
        let version = match fate {
            Fate::Lost | Fate::Failed => return None,
            Fate::Outdated => self.versions - 1,
            Fate::Answered | Fate::Rejected => self.versions,
        };
        let mut item = json!({
            "image": {"M": {"etag": {"S": Self::etag(image, version)}}},
            "model": {"M": {"sha256": {"S": MODEL}}},
            "uploaded_ms": {"N": Self::uploaded_at(version).timestamp_millis().to_string()},
        });
        if self.is_versioned() {
            item["image"]["M"]["version_id"] = json!({"S": format!("v{version}")});
        }
        if fate == Fate::Rejected {
            item["reject"] = json!({"M": {"code": {"S": "corrupt"}}});
        }
        Some(item)
    }

    /// Answers `BatchGetItem`, and leaves half of each batch above 50 keys unprocessed.
    fn batch_get(&self, request: &Value) -> Value {
        let (table, asked) = request["RequestItems"].as_object().unwrap().iter().next().unwrap();
        let keys = asked["Keys"].as_array().unwrap();
        let processed = if keys.len() > 50 { keys.len() / 2 } else { keys.len() };
        if processed < keys.len() {
            self.partial_batches.fetch_add(1, Ordering::Relaxed);
        }
        let items: Vec<Value> = keys[..processed]
            .iter()
            .filter_map(|key| {
                let (pk, sk) = (key["pk"]["S"].as_str().unwrap(), key["sk"]["S"].as_str().unwrap());
                let image = Self::image_of(pk.strip_prefix(&format!("result#prod#{BUCKET}/")).unwrap());
                let mut item = if sk == "result" {
                    self.current(image)?
                } else {
                    (Fate::of(image) == Fate::Failed && sk.starts_with("failure#")).then(|| {
                        json!({
                            "bucket": {"S": BUCKET}, "key": {"S": Self::key(image)}, "stage": {"S": "prod"},
                            "object_version": {"S": sk.strip_prefix("failure#").unwrap()},
                            "reason": {"S": "throttled"}, "tries": {"N": "5"},
                            "first_failed_at": {"S": "2026-11-22T10:00:00.000Z"},
                            "last_failed_at": {"S": "2026-11-22T10:30:00.000Z"},
                        })
                    })?
                };
                (item["pk"], item["sk"]) = (key["pk"].clone(), key["sk"].clone());
                Some(item)
            })
            .collect();
        let left: &[Value] = &keys[processed..];
        let unprocessed = if left.is_empty() { json!({}) } else { json!({table: {"Keys": left}}) };
        json!({"Responses": {table: items}, "UnprocessedKeys": unprocessed})
    }
}

async fn answer(
    State(bucket): State<Arc<LargeBucket>>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if headers.contains_key("x-amz-target") {
        return bucket.batch_get(&serde_json::from_slice(&body).unwrap()).to_string().into_response();
    }
    if query.contains_key("versioning") {
        let status = if bucket.is_versioned() { "<Status>Enabled</Status>" } else { "" };
        return format!("<VersioningConfiguration>{status}</VersioningConfiguration>").into_response();
    }
    if method == Method::HEAD {
        let look = bucket.looks.fetch_add(1, Ordering::SeqCst) + 1;
        stall_if(look == bucket.stall_at_look.load(Ordering::SeqCst)).await;
        return bucket.head(&uri, query.get("versionId"));
    }
    if uri.path().trim_end_matches('/') == format!("/{BUCKET}") {
        let page = bucket.pages_served.fetch_add(1, Ordering::SeqCst) + 1;
        stall_if(page == bucket.stall_at_page.load(Ordering::SeqCst)).await;
        return bucket.listing(&query).into_response();
    }
    match query.get("prefix") {
        Some(prefix) => bucket.results(prefix).into_response(),
        // A result object whose model is not known by its name; what it holds is then none of ours.
        None if uri.path().ends_with(".json") => "{}".into_response(),
        None => StatusCode::NOT_IMPLEMENTED.into_response(),
    }
}

async fn stall_if(stalls: bool) {
    if stalls {
        std::future::pending::<()>().await;
    }
}

/// Starts a command, and kills it once its checkpoint holds `uploads` uploads.
pub async fn kill_after(mut command: Command, checkpoint: &Path, uploads: u64) {
    let checkpoint = checkpoint.to_owned();
    let killed = tokio::task::spawn_blocking(move || {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE, "it never came so far");
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            if let Ok(bytes) = std::fs::read(&checkpoint) {
                let found: Value = serde_json::from_slice(&bytes).expect("the checkpoint is whole");
                if found["counts"]["uploads"].as_u64().unwrap() >= uploads {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    });
    killed.await.unwrap();
}

/// Runs a command without holding up the servers in this process.
pub async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The lines of `--json`: of uploads, and the summary.
pub fn lines(output: &Output) -> (Vec<Value>, Value) {
    let stdout = std::str::from_utf8(&output.stdout).unwrap();
    let mut lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (lines, summary)
}

/// The largest memory of a process while it runs, bytes, with what it printed.
#[cfg(target_os = "linux")]
pub async fn peak_memory_of(mut command: Command) -> (u64, Output) {
    let measured = tokio::task::spawn_blocking(move || {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let reader = std::thread::spawn(move || child.wait_with_output().unwrap());
        let mut peak = 0;
        while !reader.is_finished() {
            // The figure only rises, so the last one seen is the largest.
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes =
                line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
            peak = peak.max(kilobytes.unwrap_or_default() << 10);
            std::thread::sleep(Duration::from_millis(5));
        }
        (peak, reader.join().unwrap())
    });
    measured.await.unwrap()
}

/// `giemsa reconcile` against the servers at `url`.
pub fn reconcile(url: &str) -> Command {
    let mut command = Command::new(crate::binary("giemsa"));
    for name in ["RUST_LOG", "GIEMSA_INPUT_BUCKET", "GIEMSA_TABLE", "GIEMSA_RESULTS_BUCKET"] {
        command.env_remove(name);
    }
    command
        .arg("reconcile")
        .env("AWS_ENDPOINT_URL_S3", url)
        .env("AWS_ENDPOINT_URL_DYNAMODB", url)
        .env("AWS_ACCESS_KEY_ID", "giemsa")
        .env("AWS_SECRET_ACCESS_KEY", "giemsa-local")
        .env("AWS_DEFAULT_REGION", "us-east-1");
    command
}
