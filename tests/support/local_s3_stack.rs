//! The S3 of the local stack in this process, for tests that look behind it: queues, files, restarts.
//!
//! What a test sees of the bucket goes over HTTP with the real SDK.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::EncodingType;
use giemsa_local::queue::{Queue, QueueSettings};
use giemsa_local::{ServerSettings, Servers, Subscription, credentials};

pub const INPUT: &str = "giemsa-input";
pub const MODELS: &str = "giemsa-models";

/// Origin of the page that may use it from a browser.
pub const PAGE: &str = "http://127.0.0.1:8080";

/// The servers on free ports, two queues that follow the input bucket, and a client.
pub struct Stack {
    pub folder: PathBuf,
    pub servers: Servers,
    pub queue: Queue,
    pub s3: Client,
}

impl Stack {
    /// Starts on a folder, empty or of an earlier run, and makes the buckets.
    pub async fn start(folder: &Path) -> Self {
        let queue = Queue::open(&folder.join("queue.sqlite")).unwrap();
        let settings = QueueSettings { visibility_timeout: Duration::from_secs(60), max_receive_count: 5 };
        for name in ["dev", "prod"] {
            queue.declare(name, settings).await.unwrap();
        }
        let subscribe = |queue: &str| Subscription { bucket: INPUT.into(), queue: queue.into() };
        let settings = ServerSettings {
            data_dir: folder.to_owned(),
            s3_port: 0,
            dynamodb_port: 0,
            subscriptions: vec![subscribe("dev"), subscribe("prod")],
            browser_origins: vec![PAGE.to_owned()],
        };
        let servers = Servers::start(&settings, queue.clone()).await.unwrap();
        let s3 = client(servers.s3, credentials());
        for bucket in [INPUT, MODELS] {
            s3.create_bucket().bucket(bucket).send().await.unwrap();
        }
        Self { folder: folder.to_owned(), servers, queue, s3 }
    }

    /// Stops and starts again on the same folder.
    pub async fn restart(self) -> Self {
        let Self { folder, servers, queue, s3 } = self;
        drop((s3, queue));
        servers.shutdown().await;
        Self::start(&folder).await
    }

    /// Puts an object into the input bucket and returns its ETag.
    pub async fn put(&self, key: &str, body: &[u8]) -> String {
        let body = ByteStream::from(body.to_vec());
        let put = self.s3.put_object().bucket(INPUT).key(key).body(body).send().await.unwrap();
        put.e_tag.unwrap()
    }

    /// The content of an object of the input bucket; `None` if there is none.
    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        match self.s3.get_object().bucket(INPUT).key(key).send().await {
            Ok(object) => Some(object.body.collect().await.unwrap().to_vec()),
            Err(error) => {
                assert_eq!(error.code(), Some("NoSuchKey"));
                None
            }
        }
    }

    /// Takes all notifications out of a queue, in order.
    pub async fn notifications(&self, queue: &str) -> Vec<serde_json::Value> {
        let messages = self.queue.receive(queue, 10_000, chrono::Utc::now()).await.unwrap();
        for message in &messages {
            assert!(self.queue.delete(&message.receipt_handle).await.unwrap());
        }
        messages.iter().map(|message| serde_json::from_str(&message.body).unwrap()).collect()
    }

    /// Keys of the input bucket, by all pages of a listing.
    pub async fn listed(&self) -> Vec<String> {
        let mut pages =
            self.s3.list_objects_v2().bucket(INPUT).encoding_type(EncodingType::Url).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            keys.extend(page.unwrap().contents().iter().map(|object| decoded(object.key().unwrap())));
        }
        keys
    }

    /// Files of objects and parts, without the stack's own mark.
    pub fn files(&self) -> BTreeSet<String> {
        let root = self.folder.join("s3");
        walkdir::WalkDir::new(&root)
            .into_iter()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().is_file() && entry.file_name() != ".giemsa-index-id")
            .map(|entry| entry.path().strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
            .collect()
    }
}

/// An SDK client of the S3 at this address.
pub fn client(address: std::net::SocketAddr, credentials: aws_sdk_s3::config::Credentials) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(credentials)
        .build();
    Client::from_conf(config)
}

/// Undoes the form encoding of listings and notifications, as botocore does.
pub fn decoded(key: &str) -> String {
    let spaces = key.replace('+', " ");
    percent_encoding::percent_decode_str(&spaces).decode_utf8().unwrap().into_owned()
}

/// The HTTP status of a refusal.
pub fn status<E>(error: &SdkError<E>) -> u16 {
    error.raw_response().expect("an answer of the server").status().as_u16()
}
