//! The embedded servers, and the real functions in front of them as the template configures them.
//!
//! It never gives a function a setting that neither the template nor Lambda does, but for the log and where the servers
//! are. Each function reaches the servers by proxies of its own, so that every request belongs to one role, also one
//! that a signed link makes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use giemsa_local::queue::{Queue, QueueSettings};
use giemsa_local::sqs::SqsServer;
use giemsa_local::{LOCAL_ACCESS_KEY_ID, LOCAL_SECRET_ACCESS_KEY};
use serde_json::Value;

use super::super::functions;
use super::super::template::Template;
use super::calls::BUCKETS;
use super::recorder::{Protocol, Rights, record};
use super::roles::Statement;
use giemsa_tests::lab::{INPUT, Lab, MODELS, RESULTS, TABLE, file};
use giemsa_tests::runtime_api::{Process, RuntimeApi};

const QUEUES: [&str; 4] = ["ProdQueue", "ProdDeadLetterQueue", "DevQueue", "DevDeadLetterQueue"];

pub struct Cloud {
    pub lab: Lab,
    sqs: SqsServer,
    _folder: tempfile::TempDir,
}

impl Cloud {
    /// S3 with versioned buckets as the template makes them, DynamoDB with the table, SQS with the queues.
    pub async fn start() -> Self {
        let lab = Lab::without_model().await;
        for bucket in [INPUT, MODELS, RESULTS] {
            let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            let put =
                lab.clients.s3.put_bucket_versioning().bucket(bucket).versioning_configuration(versions);
            put.send().await.unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let queues = Queue::open(&folder.path().join("queues.sqlite")).unwrap();
        for name in QUEUES {
            let settings = QueueSettings { visibility_timeout: Duration::from_secs(1), max_receive_count: 5 };
            queues.declare(name, settings).await.unwrap();
        }
        Self { lab, sqs: SqsServer::start(queues, 0).unwrap(), _folder: folder }
    }

    /// What the template writes, with the names that things have here.
    fn named(&self, text: &str) -> String {
        let mut text = text.replace("${Table}", TABLE);
        for (bucket, name) in BUCKETS {
            text = text.replace(name, bucket);
        }
        for queue in QUEUES {
            let url = format!("{}/000000000000/{queue}", self.sqs.url());
            text = text.replace(&format!("${{{queue}}}"), &url);
        }
        text
    }

    /// Uploads an image, and returns its ETag and version.
    pub async fn upload(&self, key: &str, bytes: Vec<u8>) -> (String, String) {
        let put = self.lab.clients.s3.put_object().bucket(INPUT).key(key).body(bytes.into());
        let put = put.send().await.unwrap();
        (put.e_tag.unwrap().trim_matches('"').to_owned(), put.version_id.unwrap())
    }

    /// Puts an object into the model bucket, and returns its version.
    pub async fn put_model(&self, key: &str, bytes: Vec<u8>) -> String {
        let put = self.lab.clients.s3.put_object().bucket(MODELS).key(key).body(bytes.into());
        put.send().await.unwrap().version_id.unwrap()
    }

    pub async fn put_golden_set(&self) {
        for (label, image) in [
            ("parasitized", "slide-002-falciparum/cell-08.png"),
            ("uninfected", "slide-001-healthy/cell-01.png"),
        ] {
            let bytes = file(&format!("sample-images/{image}"));
            self.put_model(&format!("golden/{label}/cell.png"), bytes).await;
        }
    }
}

/// A function as a process, with its Runtime API.
pub struct Function {
    // Ends before its Runtime API does.
    _process: Process,
    pub name: String,
    pub rights: Rights,
    api: RuntimeApi,
    log: tempfile::NamedTempFile,
    invocations: usize,
}

impl Function {
    /// Starts the function of the template.
    pub async fn start(cloud: &Cloud, name: &str) -> Self {
        Self::start_as(cloud, name, None, &[]).await
    }

    /// Starts the function, with some settings changed, behind a role that is enforced if there is one.
    pub async fn start_as(
        cloud: &Cloud,
        name: &str,
        role: Option<Vec<Statement>>,
        changed: &[(&str, &str)],
    ) -> Self {
        let template = Template::default();
        let (rights, role) = (Rights::default(), role.map(Arc::new));
        let api = RuntimeApi::start().await;
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(binary(&template, name));
        command
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", api.address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", name)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_REGION", "eu-central-1")
            .env("RUST_LOG", "warn")
            .env("AWS_ACCESS_KEY_ID", LOCAL_ACCESS_KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", LOCAL_SECRET_ACCESS_KEY);
        let [(_, s3), (_, dynamodb)] = cloud.lab.endpoints();
        for (variable, protocol, url) in [
            ("AWS_ENDPOINT_URL_S3", Protocol::S3, s3),
            ("AWS_ENDPOINT_URL_DYNAMODB", Protocol::Json, dynamodb),
            ("AWS_ENDPOINT_URL_SQS", Protocol::Json, cloud.sqs.url()),
        ] {
            let front = record(protocol, &url, rights.clone(), role.clone()).await;
            command.env(variable, format!("http://{front}"));
        }
        for (variable, value) in functions::settings(&template, name) {
            command.env(variable, cloud.named(&value));
        }
        command.envs(changed.iter().copied());
        let process = Process(command.stdout(Stdio::from(log.reopen().unwrap())).spawn().unwrap());
        Self { _process: process, name: name.to_owned(), rights, api, log, invocations: 0 }
    }

    /// Invokes the function, and returns its answer.
    pub async fn invoke(&mut self, event: &Value) -> Value {
        self.invocations += 1;
        let id = format!("{}-{}", self.name, self.invocations);
        let posted = self.api.invoke(&id, Duration::from_secs(60), &event.to_string()).await;
        assert_eq!(posted.kind, "response", "{posted:?}\n{}", self.log());
        posted.body
    }

    /// What the function has logged, without its metrics.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.log.path()).unwrap();
        log.lines().filter(|line| !line.contains("\"_aws\"")).map(|line| format!("{line}\n")).collect()
    }
}

/// The program that the template's package of a function holds.
fn binary(template: &Template<'_>, function: &str) -> &'static Path {
    let code = template.properties(function)["CodeUri"].as_str().unwrap().to_owned();
    Path::new(match code.as_str() {
        "../target/lambda/classifier.zip" => giemsa_tests::binary("classifier"),
        "../target/lambda/gate.zip" => giemsa_tests::binary("gate"),
        "../target/lambda/dashboard.zip" => giemsa_tests::binary("dashboard"),
        other => panic!("{other} is new"),
    })
}
