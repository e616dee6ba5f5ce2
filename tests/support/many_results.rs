//! S3 and DynamoDB of as many results as a test asks for: what they answer is computed, and only compacted files are kept.
//!
//! It answers only what `giemsa results export` and `compact` ask. Result number 0 is the newest.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, TimeDelta, TimeZone, Utc};
use serde_json::{Value, json};

const INPUT: &str = "giemsa-input";
const RESULTS: &str = "giemsa-results";
/// Day of all uploads.
pub const DAY: &str = "2026-10-01";
const PAGE: usize = 1_000;
const SHARDS: usize = 16;
/// Name of the result that replaced another.
pub const REPLACING: &str = "ffffffffffffffff";

/// The results, and what was written beside them.
#[derive(Debug)]
pub struct ManyResults {
    count: usize,
    /// Read of records, from 1, that is never answered; 0 for none.
    pub stall_at_read: AtomicUsize,
    pub reads: AtomicUsize,
    /// Result that another model's replaced when the list was past the place of that; `usize::MAX` for none.
    pub replaced: AtomicUsize,
    /// Compacted files.
    pub files: Mutex<BTreeMap<String, Bytes>>,
    pub deleted: AtomicUsize,
}

impl ManyResults {
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            count,
            stall_at_read: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            replaced: AtomicUsize::new(usize::MAX),
            files: Mutex::default(),
            deleted: AtomicUsize::new(0),
        })
    }

    /// Serves on a free port of loopback, and returns the URL.
    pub async fn serve(self: &Arc<Self>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .fallback(answer)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(Arc::clone(self));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    pub fn key(number: usize) -> String {
        format!("slide {}/{number:08}.png", number / 500)
    }

    fn number_of(key: &str) -> usize {
        key.rsplit_once('/').unwrap().1[..8].parse().unwrap()
    }

    /// Its first digit is the shard.
    fn result_id(number: usize) -> String {
        format!("{:x}{number:015x}", number % SHARDS)
    }

    fn uploaded_at(number: usize) -> DateTime<Utc> {
        let last = Utc.with_ymd_and_hms(2026, 10, 1, 23, 59, 59).unwrap();
        last - TimeDelta::milliseconds(50 * number as i64)
    }

    fn time_text(time: DateTime<Utc>) -> String {
        time.to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// The record, as its result object has it.
    pub fn record(number: usize) -> Value {
        let probability = (number % 1_000) as f64 / 1_000.0;
        json!({
            "schema": "giemsa.record/1", "result_id": Self::result_id(number),
            "image": {
                "bucket": INPUT, "key": Self::key(number), "etag": format!("{number:032x}"), "size_bytes": 14_000,
                "uploaded_at": Self::uploaded_at(number), "width_px": 120, "height_px": 133, "format": "png",
                "sha256": format!("{:032x}{:032x}", number * 7_919, number),
            },
            "slide": format!("slide {}", number / 500), "stage": "prod", "status": "classified",
            "label": if probability > 0.5 { "parasitized" } else { "uninfected" },
            "confidence": probability.max(1.0 - probability),
            "probabilities": {"parasitized": probability, "uninfected": 1.0 - probability},
            "positive": probability > 0.5, "needs_review": false,
            "model": {"name": "thin-smear", "version": "2", "sha256": "5f2d".repeat(16)},
            "software": "giemsa 0.1.0",
        })
    }

    fn etag(number: usize) -> String {
        format!("{:032x}", number * 31 + 7)
    }

    fn dynamodb(&self, request: &Value) -> Value {
        if request.get("RequestItems").is_some() {
            return self.batch_get(request);
        }
        let values = &request["ExpressionAttributeValues"];
        let pk = values[":pk"]["S"].as_str().unwrap();
        match request["IndexName"].as_str() {
            None if pk == "days#prod" => json!({"Items": [{"pk": {"S": pk}, "sk": {"S": DAY}}]}),
            Some("recent") => self.recent(pk, request),
            Some("listing") => self.active(pk),
            Some("arrival") => self.arrival(),
            other => panic!("nobody should ask {other:?} for {pk}"),
        }
    }

    /// A shard of the day, newest first.
    fn recent(&self, pk: &str, request: &Value) -> Value {
        let (day, shard) = pk.strip_prefix("prod#").unwrap().split_once('#').unwrap();
        assert_eq!(day, DAY);
        let shard = usize::from_str_radix(shard, 16).unwrap();
        let number_after =
            |sk: &str| usize::from_str_radix(&sk.rsplit_once('#').unwrap().1[1..], 16).unwrap() + 1;
        let below = request["ExpressionAttributeValues"][":below"]["S"].as_str().map(number_after);
        let start = request["ExclusiveStartKey"]["recent_sk"]["S"].as_str().map(number_after);
        let first = below.into_iter().chain(start).max().unwrap_or(0);
        let first = first + (SHARDS + shard - first % SHARDS) % SHARDS;
        let limit = request["Limit"].as_u64().unwrap() as usize;
        let numbers: Vec<usize> = (first..self.count).step_by(SHARDS).take(limit).collect();
        let item = |number: usize| {
            let sk = format!("{}#{}", Self::time_text(Self::uploaded_at(number)), Self::result_id(number));
            json!({
                "pk": {"S": format!("result#prod#{INPUT}/{}", Self::key(number))}, "sk": {"S": "result"},
                "recent_pk": {"S": pk}, "recent_sk": {"S": sk},
            })
        };
        let mut answer = json!({"Items": numbers.iter().map(|number| item(*number)).collect::<Vec<_>>()});
        if numbers.len() == limit {
            answer["LastEvaluatedKey"] = item(numbers[limit - 1]);
        }
        answer
    }

    fn replaced(&self) -> Option<usize> {
        Some(self.replaced.load(Ordering::SeqCst)).filter(|number| *number < self.count)
    }

    /// Slides of which an image was answered just now: that of the replaced result.
    fn active(&self, pk: &str) -> Value {
        let Some(number) = self.replaced().filter(|_| pk.ends_with("#0")) else {
            return json!({"Items": []});
        };
        let slide = format!("slide {}", number / 500);
        let time = |seconds| Self::time_text(Utc::now() + TimeDelta::seconds(seconds));
        let figure = [
            "cells",
            "positives",
            "outliers",
            "needs_review",
            "rejected",
            "cells_with_sign",
            "reviewed",
            "corrected",
        ];
        let activity = json!({
            "pk": format!("slide#prod#{slide}"), "sk": "activity", "stage": "prod", "slide": slide, "changes": 1,
            "last_activity_at": time(0), "changed_at": time(0), "computed_at": time(60), "figure_changes": 1,
            "figure": figure.map(|name| (name, 0)).into_iter().collect::<BTreeMap<_, _>>(),
            "listing_pk": pk, "listing_sk": format!("{}#{slide}", time(0)),
        });
        json!({"Items": [attribute(&activity)["M"]]})
    }

    /// The active slide, with the one result of it that matters.
    fn arrival(&self) -> Value {
        let number = self.replaced().expect("only of a slide that is active");
        let sk = format!("{}#{REPLACING}", Self::time_text(Self::uploaded_at(number)));
        let row = json!({
            "pk": format!("result#prod#{INPUT}/{}", Self::key(number)), "sk": "result", "arrival_sk": sk,
            "arrival_pk": format!("prod#slide {}", number / 500),
        });
        json!({"Items": [attribute(&row)["M"]]})
    }

    fn batch_get(&self, request: &Value) -> Value {
        let (table, asked) = request["RequestItems"].as_object().unwrap().iter().next().unwrap();
        let keys = asked["Keys"].as_array().unwrap();
        let items: Vec<Value> = keys
            .iter()
            .map(|key| {
                let number = Self::number_of(key["pk"]["S"].as_str().unwrap());
                let mut record = Self::record(number);
                record["classified_at"] = json!("2026-10-02T00:00:00Z");
                if self.replaced() == Some(number) {
                    (record["result_id"], record["classified_at"]) = (json!(REPLACING), json!(Utc::now()));
                }
                let mut item = attribute(&record)["M"].take();
                (item["pk"], item["sk"]) = (key["pk"].clone(), key["sk"].clone());
                item
            })
            .collect();
        json!({"Responses": {table: items}, "UnprocessedKeys": {}})
    }

    /// Result objects of the day, in the order of keys; all are gone once one is.
    fn listing(&self, query: &HashMap<String, String>) -> String {
        let prefix = query["prefix"].as_str();
        let mut xml = "<ListBucketResult>".to_owned();
        if prefix.starts_with("compacted/") {
            xml.push_str("<IsTruncated>false</IsTruncated>");
            for (key, bytes) in self.files.lock().unwrap().iter() {
                entry(&mut xml, key, "f11e", bytes.len());
            }
        } else {
            assert_eq!(prefix, format!("results/stage=prod/date={DAY}/"));
            // As strings slide 10 is before slide 2: the number is padded in keys of objects here.
            let first = query.get("start-after").map_or(0, |key| Self::number_of(key) + 1);
            let end = (first + PAGE).min(self.count);
            write!(xml, "<IsTruncated>{}</IsTruncated>", end < self.count).unwrap();
            for number in first..end {
                entry(&mut xml, &Self::object_key(number), &Self::etag(number), 700);
            }
        }
        xml + "</ListBucketResult>"
    }

    fn object_key(number: usize) -> String {
        let id = Self::result_id(number);
        format!("results/stage=prod/date={DAY}/slide {:08}/{number:08}.png.{id}.json", number / 500)
    }

    async fn s3(&self, method: Method, uri: &Uri, query: &HashMap<String, String>, body: Bytes) -> Response {
        let path = percent_encoding::percent_decode_str(uri.path()).decode_utf8().unwrap();
        let key = path.strip_prefix(&format!("/{RESULTS}")).unwrap().trim_start_matches('/').to_owned();
        if query.contains_key("delete") {
            let text = std::str::from_utf8(&body).unwrap();
            self.deleted.fetch_add(text.matches("<Key>").count(), Ordering::SeqCst);
            return "<DeleteResult></DeleteResult>".into_response();
        }
        if key.is_empty() {
            return self.listing(query).into_response();
        }
        match method {
            Method::PUT => {
                self.files.lock().unwrap().insert(key, unchunked(&body));
                [("etag", "\"f11e\"")].into_response()
            }
            Method::GET if key.starts_with("compacted/") => {
                self.files.lock().unwrap().get(&key).cloned().unwrap().into_response()
            }
            Method::GET => {
                self.read().await;
                let number = Self::number_of(&key);
                let etag = [("etag", format!("\"{}\"", Self::etag(number)))];
                (etag, Self::record(number).to_string()).into_response()
            }
            _ => StatusCode::NOT_IMPLEMENTED.into_response(),
        }
    }

    async fn read(&self) {
        let read = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
        if read == self.stall_at_read.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

fn entry(xml: &mut String, key: &str, etag: &str, size: usize) {
    let key = giemsa_store::form_encoded(key);
    write!(xml, "<Contents><Key>{key}</Key><ETag>\"{etag}\"</ETag><Size>{size}</Size></Contents>").unwrap();
}

/// A body as the SDK sends a file: chunks with their sizes, and a checksum after them.
fn unchunked(mut body: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = std::str::from_utf8(&body[..line]).unwrap();
        let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
        if size == 0 {
            return bytes.into();
        }
        bytes.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
    }
}

/// JSON as DynamoDB writes it.
fn attribute(value: &Value) -> Value {
    match value {
        Value::Null => json!({"NULL": true}),
        Value::Bool(flag) => json!({"BOOL": flag}),
        Value::Number(number) => json!({"N": number.to_string()}),
        Value::String(text) => json!({"S": text}),
        Value::Array(items) => json!({"L": items.iter().map(attribute).collect::<Vec<_>>()}),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), attribute(value)));
            json!({"M": fields.collect::<serde_json::Map<_, _>>()})
        }
    }
}

async fn answer(
    State(results): State<Arc<ManyResults>>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if headers.contains_key("x-amz-target") {
        let request: Value = serde_json::from_slice(&body).unwrap();
        if request.get("RequestItems").is_some() {
            results.read().await;
        }
        return results.dynamodb(&request).to_string().into_response();
    }
    results.s3(method, &uri, &query, body).await
}

/// `giemsa results` against the servers at `url`.
pub fn results(url: &str) -> Command {
    let mut command = Command::new(crate::binary("giemsa"));
    for name in ["RUST_LOG", "GIEMSA_INPUT_BUCKET", "GIEMSA_TABLE", "GIEMSA_RESULTS_BUCKET"] {
        command.env_remove(name);
    }
    command
        .arg("results")
        .env("AWS_ENDPOINT_URL_S3", url)
        .env("AWS_ENDPOINT_URL_DYNAMODB", url)
        .env("AWS_ACCESS_KEY_ID", "giemsa")
        .env("AWS_SECRET_ACCESS_KEY", "giemsa-local")
        .env("AWS_DEFAULT_REGION", "us-east-1");
    command
}
