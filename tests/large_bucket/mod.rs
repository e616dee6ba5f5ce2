//! S3 and DynamoDB of a bucket as large as a test asks for: what they answer is computed from the key, and nothing is kept.
//!
//! It answers only what `giemsa reconcile` asks. Every thousandth key is special: see [`Fate::of`].

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::HashMap;
use std::fmt::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use chrono::{DateTime, Utc};
use giemsa::digest::short_id;
use serde_json::{Value, json};

pub const BUCKET: &str = "giemsa-input";
const PAGE: usize = 1_000;
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

/// The bucket.
#[derive(Debug)]
pub struct LargeBucket {
    pub images: usize,
    /// Uploads of each image; above 1 the bucket keeps versions.
    pub versions: usize,
    /// The page of the listing, from 1, that is never answered; 0 for none.
    pub stall_at_page: AtomicUsize,
    pub pages_served: AtomicUsize,
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
        let mut xml = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
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
                let image = Self::image_of(pk.strip_prefix(&format!("image#{BUCKET}/")).unwrap());
                let mut item = if sk == "result#prod" {
                    self.current(image)?
                } else {
                    (Fate::of(image) == Fate::Failed && sk.starts_with("failure#prod#")).then(|| {
                        json!({
                            "reason": {"S": "throttled"}, "tries": {"N": "5"},
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
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<String, StatusCode> {
    if headers.contains_key("x-amz-target") {
        return Ok(bucket.batch_get(&serde_json::from_slice(&body).unwrap()).to_string());
    }
    if query.contains_key("versioning") {
        let status = if bucket.is_versioned() { "<Status>Enabled</Status>" } else { "" };
        return Ok(format!("<VersioningConfiguration>{status}</VersioningConfiguration>"));
    }
    if uri.path().trim_end_matches('/') == format!("/{BUCKET}") {
        let page = bucket.pages_served.fetch_add(1, Ordering::SeqCst) + 1;
        if page == bucket.stall_at_page.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        return Ok(bucket.listing(&query));
    }
    match query.get("prefix") {
        Some(prefix) => Ok(bucket.results(prefix)),
        // A result object whose model is not known by its name; what it holds is then none of ours.
        None if uri.path().ends_with(".json") => Ok("{}".to_owned()),
        None => Err(StatusCode::NOT_IMPLEMENTED),
    }
}

/// `giemsa reconcile` against the servers at `url`.
pub fn reconcile(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_giemsa"));
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
