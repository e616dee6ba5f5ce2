//! A laboratory for integration tests: S3 and DynamoDB in this process, over real HTTP, with the real SDKs.

pub mod events;
pub mod faults;
pub mod log;

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use giemsa::handler::Handler;
use giemsa::pipeline::Pipeline;
use giemsa_config::Config;
use giemsa_core::record::Record;
use giemsa_local::listener::endpoint_url;
use giemsa_local::queue::Queue;
use giemsa_local::{ServerSettings, Servers, credentials};
use giemsa_store::aws::Clients;
use giemsa_store::{TableReader, create_table};
use tempfile::TempDir;

pub const INPUT: &str = "lab-input";
pub const MODELS: &str = "lab-models";
pub const RESULTS: &str = "lab-results";
pub const TABLE: &str = "lab-table";

pub struct Lab {
    pub clients: Clients,
    pub config: Config,
    servers: Servers,
    _folder: TempDir,
}

impl Lab {
    /// Starts the servers, makes buckets and table, and puts the sample model in place.
    pub async fn start() -> Self {
        let lab = Self::without_model().await;
        lab.put_model("prod", &sample_model()).await;
        lab
    }

    pub async fn without_model() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(&folder.path().join("queue.sqlite")).unwrap();
        let settings = ServerSettings {
            data_dir: folder.path().to_owned(),
            s3_port: 0,
            dynamodb_port: 0,
            subscriptions: Vec::new(),
            browser_origins: Vec::new(),
        };
        let servers = Servers::start(&settings, queue).await.unwrap();
        let clients = Clients::at(&endpoint_url(servers.s3), &endpoint_url(servers.dynamodb), credentials());
        for bucket in [INPUT, MODELS, RESULTS] {
            clients.s3.create_bucket().bucket(bucket).send().await.unwrap();
        }
        create_table(&clients.dynamodb, TABLE).await.unwrap();
        Self { clients, config: config("prod"), servers, _folder: folder }
    }

    /// Where S3 and DynamoDB are, as the environment of another process names them.
    pub fn endpoints(&self) -> [(&'static str, String); 2] {
        [
            ("AWS_ENDPOINT_URL_S3", endpoint_url(self.servers.s3)),
            ("AWS_ENDPOINT_URL_DYNAMODB", endpoint_url(self.servers.dynamodb)),
        ]
    }

    pub fn handler(&self) -> Handler {
        self.handler_of(self.config.clone(), self.clients.clone())
    }

    pub fn handler_of(&self, config: Config, clients: Clients) -> Handler {
        Handler::new(Pipeline::new(config, clients))
    }

    pub fn table(&self) -> TableReader {
        TableReader::new(self.clients.dynamodb.clone(), TABLE)
    }

    /// Uploads an image, and returns its ETag without quotes.
    pub async fn put(&self, key: &str, bytes: &[u8]) -> String {
        let body = ByteStream::from(bytes.to_vec());
        let put = self.clients.s3.put_object().bucket(INPUT).key(key).body(body).send().await.unwrap();
        put.e_tag.unwrap().trim_matches('"').to_owned()
    }

    pub async fn put_model(&self, stage: &str, bytes: &[u8]) {
        let key = format!("{stage}/model.onnx");
        let body = ByteStream::from(bytes.to_vec());
        self.clients.s3.put_object().bucket(MODELS).key(key).body(body).send().await.unwrap();
    }

    /// Writes any object of the model bucket.
    pub async fn put_in_models(&self, key: &str, bytes: &[u8]) {
        let body = ByteStream::from(bytes.to_vec());
        self.clients.s3.put_object().bucket(MODELS).key(key).body(body).send().await.unwrap();
    }

    /// Reads an object of the model bucket, if it is there.
    pub async fn model_object(&self, key: &str) -> Option<Vec<u8>> {
        let got = self.clients.s3.get_object().bucket(MODELS).key(key).send().await.ok()?;
        Some(got.body.collect().await.unwrap().to_vec())
    }

    pub async fn delete(&self, key: &str) {
        self.clients.s3.delete_object().bucket(INPUT).key(key).send().await.unwrap();
    }

    /// The current result of an image in the laboratory's stage.
    pub async fn result(&self, key: &str) -> Option<Record> {
        let history = self.table().image(INPUT, key, &[&self.config.stage]).await.unwrap();
        history.results.into_iter().find(|record| record.stage == self.config.stage)
    }

    /// All result objects, by key, with their bytes.
    pub async fn result_objects(&self) -> std::collections::BTreeMap<String, Vec<u8>> {
        let s3 = &self.clients.s3;
        let listed = s3.list_objects_v2().bucket(RESULTS).send().await.unwrap();
        let mut objects = std::collections::BTreeMap::new();
        for object in listed.contents() {
            let key = object.key().unwrap();
            let got = s3.get_object().bucket(RESULTS).key(key).send().await.unwrap();
            objects.insert(key.to_owned(), got.body.collect().await.unwrap().to_vec());
        }
        objects
    }
}

/// A configuration of the laboratory for `stage`.
pub fn config(stage: &str) -> Config {
    let mut config = Config::from_lookup(|name| {
        let value = match name {
            "GIEMSA_STAGE" => stage,
            "GIEMSA_INPUT_BUCKET" => INPUT,
            "GIEMSA_MODEL_BUCKET" => MODELS,
            "GIEMSA_RESULTS_BUCKET" => RESULTS,
            "GIEMSA_TABLE" => TABLE,
            // The gate has tests of its own, which ask for it.
            "GIEMSA_GATE" => "off",
            _ => return None,
        };
        Some(value.to_owned())
    })
    .unwrap();
    // Tests say themselves when time is short.
    config.limits.deadline_margin = Duration::from_millis(50);
    config
}

pub fn file(path: &str) -> Vec<u8> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn sample_model() -> Vec<u8> {
    file("models/thin-smear.onnx")
}

/// The sample model with one more metadata entry, which overrides an earlier one of the same key; another digest.
///
/// Metadata is the last field of the file and later entries win, so appending bytes is enough.
pub fn sample_model_with(key: &str, value: &str) -> Vec<u8> {
    let mut model = sample_model();
    let entry_len = 2 + key.len() + 2 + value.len();
    assert!(entry_len < 128, "one byte of length each");
    model.extend([0x72, entry_len as u8, 0x0a, key.len() as u8]);
    model.extend(key.as_bytes());
    model.extend([0x12, value.len() as u8]);
    model.extend(value.as_bytes());
    model
}

/// A cell that the sample model calls uninfected.
pub fn uninfected_cell() -> Vec<u8> {
    file("sample-images/slide-001-healthy/cell-01.png")
}
