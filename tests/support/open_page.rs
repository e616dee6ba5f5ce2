//! The whole stack in this process on free ports, used as the dashboard's page uses it.
//!
//! Never reaches behind the API but to put objects as a script would. Whatever a test sees came over HTTP.

use std::path::Path;
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use giemsa_core::digest::sha256_hex;
use giemsa_local::{INPUT_BUCKET, Stack, StackSettings};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::raw_http::{Answer, ask};

/// Longest wait for anything; generous, because builds may run beside the tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The stack on free ports, and its page.
pub struct Page {
    pub stack: Stack,
    pub url: String,
    _folder: tempfile::TempDir,
}

impl Page {
    pub async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = StackSettings {
            data_dir: folder.path().to_owned(),
            s3_port: 0,
            dynamodb_port: 0,
            sqs_port: 0,
            http_port: 0,
            run_worker: true,
            with_development: false,
            faults: None,
            sign_in: None,
            metrics_file: None,
            program: crate::binary("giemsa").into(),
        };
        let stack = Stack::start(&settings).await.unwrap();
        let url = format!("http://{}", stack.dashboard);
        Self { stack, url, _folder: folder }
    }

    pub async fn get(&self, path: &str) -> Answer {
        ask("GET", &format!("{}{path}", self.url), &[("Origin", &self.url)], &[]).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [("Content-Type", "application/json"), ("Origin", self.url.as_str())];
        ask("POST", &format!("{}{path}", self.url), &headers, body.to_string().as_bytes()).await
    }

    /// The JSON of a request that has to succeed.
    pub async fn posted(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    pub async fn sign(&self, name: &str, bytes: &[u8], content_type: &str) -> Value {
        let file = json!({ "name": name, "size_bytes": bytes.len(), "content_type": content_type });
        self.posted("/api/uploads", &json!({ "files": [file] })).await["uploads"][0].clone()
    }

    /// Does what the page's script does with a link.
    pub async fn send(&self, upload: &Value, bytes: &[u8]) -> Answer {
        let mut headers = vec![("Origin", self.url.as_str())];
        for (name, value) in upload["headers"].as_object().unwrap() {
            headers.push((name, value.as_str().unwrap()));
        }
        ask(upload["method"].as_str().unwrap(), upload["url"].as_str().unwrap(), &headers, bytes).await
    }

    pub async fn upload(&self, name: &str, bytes: &[u8], content_type: &str) {
        let upload = self.sign(name, bytes, content_type).await;
        let answer = self.send(&upload, bytes).await;
        assert_eq!(answer.status, 200, "{upload} {}", answer.text());
    }

    /// Puts an object into the input bucket past the page, as a script would.
    pub async fn put(&self, key: &str, bytes: &[u8]) {
        let put = self.stack.clients.s3.put_object().bucket(INPUT_BUCKET).key(key);
        put.body(ByteStream::from(bytes.to_vec())).send().await.unwrap();
    }

    pub async fn image(&self, key: &str) -> Value {
        let answer = self.get(&format!("/api/image?key={}", encoded(key))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The current result of an image of these bytes, as soon as there is one.
    pub async fn result(&self, key: &str, bytes: &[u8]) -> Value {
        let started = Instant::now();
        loop {
            let found = self.image(key).await["results"][0].clone();
            if found["image"]["sha256"] == sha256_hex(bytes) {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "{key} is not answered: {found}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn link(&self, key: &str, kind: &str) -> Value {
        let wanted = json!({ "images": [{ "key": key }], "kind": kind });
        self.posted("/api/links", &wanted).await["links"][0].clone()
    }

    /// What a link leads to.
    pub async fn follow(&self, link: &Value) -> Answer {
        let url = link["url"].as_str().unwrap_or_else(|| panic!("{link} is not a link"));
        let answer = ask("GET", url, &[], &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    }

    pub async fn close(self) {
        self.stack.shutdown().await;
    }
}

/// A value as a query holds it.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The first golden image of a label.
pub fn sample(label: &str) -> Vec<u8> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("models/golden").join(label);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    std::fs::read(&files[0]).unwrap()
}

/// Keys of a page of a listing.
pub fn keys_of(listed: &aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output) -> Vec<String> {
    listed.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
}
