//! The real Lambda binary as a process: against a Runtime API on loopback, and against the one of `cargo lambda`, with
//! S3 and DynamoDB of the local stack in this process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use giemsa_core::record::{Record, Status};
use giemsa_local::queue::Queue;
use giemsa_local::{LOCAL_ACCESS_KEY_ID, LOCAL_SECRET_ACCESS_KEY, ServerSettings, Servers, credentials};
use giemsa_store::aws::Clients;
use giemsa_store::{TableReader, create_table, result_key};
use giemsa_tests::runtime_api::{LONGEST_WAIT, Process, RuntimeApi};
use serde_json::{Value, json};
use tokio::time::timeout;

const INPUT: &str = "giemsa-input";
const MODELS: &str = "giemsa-models";
const RESULTS: &str = "giemsa-results";
const TABLE: &str = "giemsa";
const IMAGE: &str = "slide-002-falciparum/cell-08.png";

fn project(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// S3 with the model and one image, and DynamoDB with the table.
struct Cloud {
    servers: Servers,
    s3: aws_sdk_s3::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    _folder: tempfile::TempDir,
}

impl Cloud {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = ServerSettings {
            data_dir: folder.path().to_owned(),
            s3_port: 0,
            dynamodb_port: 0,
            subscriptions: Vec::new(),
            browser_origins: Vec::new(),
        };
        let queue = Queue::open(&folder.path().join("queue.sqlite")).unwrap();
        let servers = Servers::start(&settings, queue).await.unwrap();
        let url = |address: SocketAddr| format!("http://{address}");
        let Clients { s3, dynamodb } = Clients::at(&url(servers.s3), &url(servers.dynamodb), credentials());
        for bucket in [INPUT, MODELS, RESULTS] {
            s3.create_bucket().bucket(bucket).send().await.unwrap();
        }
        create_table(&dynamodb, TABLE).await.unwrap();
        let cloud = Self { servers, s3, dynamodb, _folder: folder };
        cloud.put(MODELS, "prod/model.onnx", &project("models/thin-smear.onnx")).await;
        cloud.put(INPUT, IMAGE, &project("sample-images").join(IMAGE)).await;
        cloud
    }

    async fn put(&self, bucket: &str, key: &str, file: &Path) {
        let body = ByteStream::from(std::fs::read(file).unwrap());
        self.s3.put_object().bucket(bucket).key(key).body(body).send().await.unwrap();
    }

    /// The classifier with nothing in its environment but what Lambda and the template would set.
    fn classifier(&self, runtime_api: &str) -> Command {
        let mut command = bare_classifier(runtime_api);
        command
            .env("GIEMSA_STAGE", "prod")
            .env("GIEMSA_GATE", "off")
            .env("GIEMSA_INPUT_BUCKET", INPUT)
            .env("GIEMSA_MODEL_BUCKET", MODELS)
            .env("GIEMSA_RESULTS_BUCKET", RESULTS)
            .env("GIEMSA_TABLE", TABLE)
            .env("GIEMSA_CPUS", "1")
            .env("AWS_ENDPOINT_URL_S3", format!("http://{}", self.servers.s3))
            .env("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{}", self.servers.dynamodb))
            .env("AWS_ACCESS_KEY_ID", LOCAL_ACCESS_KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", LOCAL_SECRET_ACCESS_KEY);
        command
    }

    /// The record of the image as the table has it, if it has one.
    async fn record(&self) -> Option<Record> {
        let history = TableReader::new(self.dynamodb.clone(), TABLE)
            .image(INPUT, IMAGE, &giemsa_config::DEFAULT_STAGES)
            .await
            .unwrap();
        assert!(history.results.len() <= 1);
        history.results.into_iter().next()
    }

    /// That the image ended as the one record it should end as, in the table and in the results bucket.
    async fn assert_classified(&self) {
        let record = self.record().await.expect("the table has no record of the image");
        assert_eq!(record.status, Status::Classified);
        assert_eq!(record.label.as_deref(), Some("parasitized"), "as sample-images/expected.csv says");
        let key = result_key("results", &record);
        let found = self.s3.get_object().bucket(RESULTS).key(&key).send().await.unwrap();
        let result: Value = serde_json::from_slice(&found.body.collect().await.unwrap().to_vec()).unwrap();
        assert_eq!(result["result_id"], record.result_id);
        assert_eq!(result["label"], "parasitized");
        assert_eq!(result["image"]["key"], IMAGE);
    }
}

fn bare_classifier(runtime_api: &str) -> Command {
    let mut command = Command::new(giemsa_tests::binary("classifier"));
    command
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", runtime_api)
        .env("AWS_LAMBDA_FUNCTION_NAME", "classifier")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769")
        .env("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/classifier")
        .env("AWS_LAMBDA_LOG_STREAM_NAME", "stream")
        .env("AWS_REGION", "eu-central-1");
    command
}

/// What SQS delivers for an upload of [`IMAGE`].
fn upload_event() -> Value {
    let notification = json!({"Records": [{
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-central-1",
        "eventTime": "2026-11-22T10:00:00.000Z",
        "eventName": "ObjectCreated:Put",
        "userIdentity": {"principalId": "EXAMPLE"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": "EXAMPLE", "x-amz-id-2": "EXAMPLE"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "uploads",
            "bucket": {
                "name": INPUT,
                "ownerIdentity": {"principalId": "EXAMPLE"},
                "arn": format!("arn:aws:s3:::{INPUT}"),
            },
            "object": {"key": IMAGE, "sequencer": "0055AED6DCD90281E5"},
        },
    }]});
    json!({"Records": [{
        "messageId": "message-1",
        "receiptHandle": "handle-1",
        "body": notification.to_string(),
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1795341600000",
            "SenderId": "EXAMPLE",
            "ApproximateFirstReceiveTimestamp": "1795341600001",
            "AWSTraceHeader": "Root=1-6a12c0de-000000000000000000000001;Parent=1111111111111111;Sampled=1",
        },
        "messageAttributes": {},
        "md5OfBody": "EXAMPLE",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:giemsa",
        "awsRegion": "eu-central-1",
    }]})
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_answered_and_images_stored() {
    let cloud = Cloud::start().await;
    let mut api = RuntimeApi::start().await;
    let daemon = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon.set_read_timeout(Some(LONGEST_WAIT)).unwrap();
    let mut command = cloud.classifier(&api.address.to_string());
    let log = tempfile::NamedTempFile::new().unwrap();
    command.env("AWS_XRAY_DAEMON_ADDRESS", daemon.local_addr().unwrap().to_string());
    let _process = Process(command.stdout(log.reopen().unwrap()).spawn().unwrap());
    let minute = Duration::from_secs(60);

    // No time left: the message comes again, nothing is stored, and the process goes on.
    let posted = api.invoke("too-late", Duration::from_millis(500), &upload_event().to_string()).await;
    assert_eq!(posted.kind, "response");
    assert_eq!(posted.body, json!({"batchItemFailures": [{"itemIdentifier": "message-1"}]}));
    assert!(cloud.record().await.is_none());

    let posted = api.invoke("upload", minute, &upload_event().to_string()).await;
    assert_eq!((posted.kind.as_str(), posted.body), ("response", json!({"batchItemFailures": []})));
    cloud.assert_classified().await;
    assert_traced(&daemon);
    assert_logged(&std::fs::read_to_string(log.path()).unwrap());

    // What cannot be read is an error, so that it is delivered again and ends in the dead-letter queue.
    for (invocation, payload) in [("unknown-form", r#"{"hello": "world"}"#), ("no-json", "{\"Records\": [")] {
        let posted = api.invoke(invocation, minute, payload).await;
        assert_eq!(posted.kind, "error", "{posted:?}");
        assert!(!posted.body["errorMessage"].as_str().unwrap().is_empty(), "{posted:?}");
    }

    // Same event, same result: and the process has outlived all of the above.
    let first = cloud.record().await.unwrap().result_id;
    let posted = api.invoke("again", minute, &upload_event().to_string()).await;
    assert_eq!((posted.kind.as_str(), posted.body), ("response", json!({"batchItemFailures": []})));
    assert_eq!(cloud.record().await.unwrap().result_id, first);
    cloud.servers.shutdown().await;
}

/// That the invocation `upload` is a tree of subsegments, from the event to the store, below Lambda's own segment.
fn assert_traced(daemon: &std::net::UdpSocket) {
    let mut segments: Vec<Value> = Vec::new();
    let mut datagram = [0; 65_536];
    // The last to end is the batch; the first batch is the one that had no time.
    while segments.iter().filter(|segment| segment["name"] == "batch").count() < 2 {
        let length = daemon.recv(&mut datagram).expect("a batch sends its subsegments");
        let (header, document) = std::str::from_utf8(&datagram[..length]).unwrap().split_once('\n').unwrap();
        assert_eq!(serde_json::from_str::<Value>(header).unwrap(), json!({"format": "json", "version": 1}));
        segments.push(serde_json::from_str(document).unwrap());
    }
    let ids: std::collections::HashSet<&str> = segments.iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), segments.len());
    for segment in &segments {
        assert_eq!(segment["trace_id"], "1-5bef4de7-ad49b0e87f6ef6c87fc2e700");
        assert_eq!(segment["type"], "subsegment");
        let id = segment["id"].as_str().unwrap();
        assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        let time = |name: &str| segment[name].as_f64().unwrap();
        assert!(time("end_time") >= time("start_time") && time("start_time") > 1.7e9, "{segment}");
    }
    let batch = segments.last().unwrap();
    assert_eq!((&batch["name"], &batch["parent_id"]), (&json!("batch"), &json!("53995c3f42cd8ad8")));
    let below = |parent: &Value| -> Vec<&Value> {
        segments.iter().filter(|segment| segment["parent_id"] == parent["id"]).collect()
    };
    let names = |segments: &[&Value]| -> Vec<String> {
        segments.iter().map(|segment| segment["name"].as_str().unwrap().to_owned()).collect()
    };
    let of_batch = below(batch);
    assert_eq!(names(&of_batch), ["receive", "image", "count"]);
    let message = below(of_batch[0]);
    assert_eq!(names(&message), ["message"]);
    let annotations = json!({"delivery": "message-1", "upload_trace": "1-6a12c0de-000000000000000000000001"});
    assert_eq!(message[0]["annotations"], annotations);
    assert_eq!(of_batch[1]["annotations"], json!({"key": IMAGE}));
    assert_eq!(names(&below(of_batch[1])), ["fetch", "decode", "preprocess", "infer", "store"]);
}

/// That each line is JSON, those of an invocation name it, and the batch's metrics are among them.
fn assert_logged(log: &str) {
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let (metrics, logged): (Vec<&Value>, Vec<&Value>) =
        lines.iter().partition(|line| line.get("_aws").is_some());
    for line in &logged {
        assert_eq!(line["stage"], "prod", "{line}");
        assert!(
            line["level"].is_string() && line["message"].is_string() && line["target"].is_string(),
            "{line}"
        );
    }
    let answered: Vec<&&Value> = logged.iter().filter(|line| line["message"] == "batch answered").collect();
    let requests: Vec<&str> = answered.iter().map(|line| line["requestId"].as_str().unwrap()).collect();
    assert_eq!(requests, ["too-late", "upload"]);
    for line in answered {
        let trace = line["xrayTraceId"].as_str().unwrap();
        assert!(trace.starts_with("Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;"), "{trace}");
    }
    let of_batches: Vec<&&Value> = metrics.iter().filter(|line| line.get("Images").is_some()).collect();
    let statuses: Vec<&str> = of_batches.iter().map(|line| line["Status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["retried", "classified"]);
    let (retried, classified) = (of_batches[0], of_batches[1]);
    assert_eq!((&retried["Retries"], &classified["Retries"]), (&json!(1), &json!(0)));
    // 1,769 MB for less than a minute cost less than a hundredth of a dollar, and a request costs something.
    let cost = classified["Cost"].as_f64().unwrap();
    assert!(cost > retried["Cost"].as_f64().unwrap() && cost < 0.01, "{cost}");
    for step in ["FetchTime", "DecodeTime", "PreprocessTime", "InferTime", "StoreTime"] {
        assert_eq!(classified[step].as_array().map(Vec::len), Some(1), "{step}");
        assert!(retried[step].is_null(), "{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_without_a_model_hands_events_back_until_there_is_one() {
    let cloud = Cloud::start().await;
    cloud.s3.delete_object().bucket(MODELS).key("prod/model.onnx").send().await.unwrap();
    let mut api = RuntimeApi::start().await;
    let _process = Process(cloud.classifier(&api.address.to_string()).spawn().unwrap());
    let minute = Duration::from_secs(60);

    let posted = api.invoke("no-model", minute, &upload_event().to_string()).await;
    assert_eq!(posted.body, json!({"batchItemFailures": [{"itemIdentifier": "message-1"}]}));
    cloud.put(MODELS, "prod/model.onnx", &project("models/thin-smear.onnx")).await;
    let posted = api.invoke("model", minute, &upload_event().to_string()).await;
    assert_eq!(posted.body, json!({"batchItemFailures": []}));
    cloud.assert_classified().await;
    cloud.servers.shutdown().await;
}

/// Long at work on these, so that the process can be ended meanwhile: 48 megapixels.
const LARGE: &str = "sample-images/slide-005-trouble/stitched-48-megapixels.png";

/// The model that is noted to be at work on an upload.
async fn noted_run(cloud: &Cloud, key: &str) -> Option<String> {
    let text = |text: String| aws_sdk_dynamodb::types::AttributeValue::S(text);
    let request = cloud.dynamodb.get_item().table_name(TABLE).consistent_read(true);
    let request = request.key("pk", text(format!("result#prod#{INPUT}/{key}")));
    let item = request.key("sk", text("failure#".to_owned())).send().await.unwrap().item?;
    Some(item.get("run_model")?.as_s().unwrap().clone())
}

/// Two messages that were delivered so often.
fn delivered(keys: [&str; 2], times: usize) -> String {
    let records = keys.map(|key| {
        let mut record = upload_event()["Records"][0].clone();
        record["body"] = record["body"].as_str().unwrap().replace(IMAGE, key).into();
        record["messageId"] = key.into();
        record["attributes"]["ApproximateReceiveCount"] = times.to_string().into();
        record
    });
    json!({ "Records": records }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_which_the_process_ended_twice_is_refused_until_another_is_copied() {
    let cloud = Cloud::start().await;
    let keys = ["s/a.png", "s/b.png"];
    for key in keys {
        cloud.put(INPUT, key, &project(LARGE)).await;
    }
    let mut api = RuntimeApi::start().await;
    let minute = Duration::from_secs(60);
    let log = tempfile::NamedTempFile::new().unwrap();
    let start = |api: &RuntimeApi| {
        let mut command = cloud.classifier(&api.address.to_string());
        command.env("GIEMSA_MAX_PIXELS", "50000000").env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "4096");
        Process(command.stdout(log.reopen().unwrap()).spawn().unwrap())
    };
    let sample = giemsa_core::digest::sha256_hex(&std::fs::read(project("models/thin-smear.onnx")).unwrap());
    // The first delivery leaves no trace, the second and the third end with the process: each at another upload.
    for (times, key) in [(2, keys[0]), (3, keys[1])] {
        let mut process = start(&api);
        api.begin(&format!("delivery-{times}"), minute, &delivered(keys, times));
        let noted = async {
            while noted_run(&cloud, key).await.as_ref() != Some(&sample) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(LONGEST_WAIT, noted).await.expect("a run is noted");
        process.0.kill().unwrap();
        process.0.wait().unwrap();
    }
    let _process = start(&api);
    // What is to be refused is known before the other one is begun.
    let turned = [keys[1], keys[0]];
    let posted = api.invoke("refused", minute, &delivered(turned, 4)).await;
    let failed = json!({"batchItemFailures": turned.map(|key| json!({"itemIdentifier": key}))});
    assert_eq!((posted.kind.as_str(), posted.body), ("response", failed));
    let logged = std::fs::read_to_string(log.path()).unwrap();
    assert!(
        logged.contains("this model ended its process twice (the last time by the end of its function, at ")
    );
    assert!(
        logged.contains(
            "it is refused until another model file is copied to s3://giemsa-models/prod/model.onnx"
        )
    );

    let other = tempfile::NamedTempFile::new().unwrap();
    let changes = giemsa_model::MetadataChanges { version: Some("other".to_owned()), ..Default::default() };
    let bytes = std::fs::read(project("models/thin-smear.onnx")).unwrap();
    std::fs::write(other.path(), giemsa_model::pack(&bytes, &changes).unwrap().0).unwrap();
    cloud.put(MODELS, "prod/model.onnx", other.path()).await;
    let posted = api.invoke("other", minute, &delivered(keys, 5)).await;
    assert_eq!(posted.body, json!({"batchItemFailures": []}));
    for key in keys {
        assert_eq!(noted_run(&cloud, key).await, None, "{key}");
    }
    cloud.servers.shutdown().await;
}

#[test]
fn wrong_configuration_ends_the_process_and_names_all_problems() {
    let output: Output = bare_classifier("127.0.0.1:9")
        .env("GIEMSA_STAGE", "Prod!")
        .env("GIEMSA_INPUT_BUCKET", "same")
        .env("GIEMSA_RESULTS_BUCKET", "same")
        .env("GIEMSA_MAX_PIXELS", "many")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stdout.clone()).unwrap();
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "ERROR");
    let error = line["error"].as_str().unwrap();
    for problem in [
        "GIEMSA_STAGE is \"Prod!\"",
        "GIEMSA_MODEL_BUCKET is not set",
        "GIEMSA_TABLE is not set",
        "GIEMSA_MAX_PIXELS is \"many\"",
        "GIEMSA_RESULTS_BUCKET and GIEMSA_INPUT_BUCKET are both \"same\"",
    ] {
        assert!(error.contains(problem), "{problem} is not in {error}");
    }
    assert!(!log.contains("panicked") && output.stderr.is_empty(), "{output:?}");
}

/// `cargo lambda watch --only-lambda-apis` is its Lambda without its build: the binary of this test run is what answers.
#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::disallowed_methods,
    reason = "where the tools are is a setting of the test run, not of the program"
)]
async fn cargo_lambda_invokes_the_binary() {
    let Some(cargo_lambda) = std::env::var_os("GIEMSA_TEST_CARGO_LAMBDA") else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "GIEMSA_TEST_CARGO_LAMBDA is not set; expected the path of cargo-lambda, which `make test` sets"
        );
        eprintln!(
            "SKIPPED cargo_lambda_invokes_the_binary: GIEMSA_TEST_CARGO_LAMBDA is not set; run `make test`"
        );
        return;
    };
    let cloud = Cloud::start().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let address = ["--invoke-address", "127.0.0.1", "--invoke-port", &port];
    let watch = Command::new(&cargo_lambda)
        .args(["lambda", "watch", "--only-lambda-apis"])
        .args(address)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdout(Stdio::null())
        .spawn();
    let _watch = Process(watch.unwrap());
    timeout(LONGEST_WAIT, async {
        while tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("cargo lambda does not listen");
    let _classifier = Process(cloud.classifier(&format!("http://127.0.0.1:{port}/.rt")).spawn().unwrap());

    let event_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(event_file.path(), upload_event().to_string()).unwrap();
    let mut invoke = Command::new(&cargo_lambda);
    invoke
        .args(["lambda", "invoke"])
        .args(address)
        .arg("--data-file")
        .arg(event_file.path())
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let invoked = tokio::task::spawn_blocking(move || invoke.output());
    let output = timeout(LONGEST_WAIT, invoked).await.expect("no answer in time").unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer, json!({"batchItemFailures": []}));
    cloud.assert_classified().await;
    cloud.servers.shutdown().await;
}

/// What API Gateway sends of an HTTP API, format 2.0.
fn http_event(method: &str, path: &str, query: &str, headers: &Value) -> Value {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012",
            "authorizer": {"jwt": {"claims": {"iss": ISSUER, "sub": "7"}, "scopes": null}},
            "apiId": "api-id",
            "domainName": "api-id.execute-api.eu-central-1.amazonaws.com",
            "domainPrefix": "api-id",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "x"},
            "requestId": "request-1",
            "routeKey": "$default",
            "stage": "$default",
            "time": "22/Nov/2026:10:00:00 +0000",
            "timeEpoch": 1_795_341_600_000_i64,
        },
        "isBase64Encoded": false,
    })
}

/// Nobody answers there, and nobody needs to: the function itself never asks the issuer.
const ISSUER: &str = "http://127.0.0.1:1/pool";

fn dashboard(cloud: &Cloud, api: &RuntimeApi) -> Command {
    // The classifier's environment, with what it does not read: the dashboard needs no stage and no limits.
    let classifier = cloud.classifier(&api.address.to_string());
    let settings =
        classifier.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let mut command = Command::new(giemsa_tests::binary("dashboard"));
    command.env_clear().env("GIEMSA_STAGES", "prod,dev").envs(settings);
    command.env("GIEMSA_OIDC_ISSUER", ISSUER).env("GIEMSA_OIDC_CLIENT_ID", "page");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_answers_requests_of_a_gateway() {
    let cloud = Cloud::start().await;
    let mut api = RuntimeApi::start().await;
    let _process = Process(dashboard(&cloud, &api).spawn().unwrap());
    let minute = Duration::from_secs(60);
    let host = "api-id.execute-api.eu-central-1.amazonaws.com";

    let own = json!({"host": host, "sec-fetch-site": "same-origin", "origin": format!("https://{host}")});
    let slide = encoded_slide();
    let event = http_event("GET", "/api/slide", &format!("slide={slide}"), &own);
    let posted = api.invoke("slide", minute, &event.to_string()).await;
    assert_eq!((posted.kind.as_str(), &posted.body["statusCode"]), ("response", &json!(200)), "{posted:?}");
    let body: Value = serde_json::from_str(posted.body["body"].as_str().unwrap()).unwrap();
    assert_eq!((&body["slide"], &body["uploads"]), (&json!("slide-002-falciparum"), &json!(1)));
    let policy = posted.body["headers"]["content-security-policy"].as_str().unwrap();
    assert!(policy.contains(&format!("http://{}", cloud.servers.s3)), "{policy}");

    let foreign = json!({"host": host, "origin": "https://evil.example"});
    let posted =
        api.invoke("foreign", minute, &http_event("GET", "/api/slides", "", &foreign).to_string()).await;
    assert_eq!(posted.body["statusCode"], 403, "{posted:?}");
    let wrong = http_event("GET", "/api/slides", "stage=beta", &json!({"host": host}));
    let posted = api.invoke("wrong", minute, &wrong.to_string()).await;
    assert_eq!(posted.body["statusCode"], 400, "{posted:?}");
    // No queue is named, so nothing is said of queues, and that is not a failure.
    let health = http_event("GET", "/api/health", "", &json!({"host": host}));
    let posted = api.invoke("health", minute, &health.to_string()).await;
    let body: Value = serde_json::from_str(posted.body["body"].as_str().unwrap()).unwrap();
    assert_eq!((&body["stages"][0]["queue"], &body["unavailable"]), (&Value::Null, &json!([])), "{body}");
    cloud.servers.shutdown().await;
}

/// The gateway verifies tokens, and what it says of one is believed; a request that it says nothing of is nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_knows_who_asks_by_the_claims_of_the_gateway() {
    let cloud = Cloud::start().await;
    let mut api = RuntimeApi::start().await;
    let mut command = dashboard(&cloud, &api);
    let issuer = ISSUER;
    command.env("GIEMSA_OIDC_ORIGINS", "https://auth.lab.example");
    let _process = Process(command.spawn().unwrap());
    let minute = Duration::from_secs(60);
    let host =
        json!({"host": "api-id.execute-api.eu-central-1.amazonaws.com", "authorization": "Bearer a.b.c"});
    let asked_by = |path: &str, authorizer: Value| {
        let mut event = http_event("GET", path, "", &host);
        event["requestContext"]["authorizer"] = authorizer;
        event.to_string()
    };

    let claims = json!({"iss": issuer, "sub": "7", "email": "ada@lab.example", "cognito:username": "7", "exp": "1795341600"});
    let verified = json!({"jwt": {"claims": claims, "scopes": null}});
    let posted = api.invoke("verified", minute, &asked_by("/api/settings", verified)).await;
    assert_eq!(posted.body["statusCode"], 200, "{posted:?}");
    let settings: Value = serde_json::from_str(posted.body["body"].as_str().unwrap()).unwrap();
    assert_eq!(settings["reviewer"], "ada@lab.example");
    assert_eq!(settings["reviewer_id"], format!("{issuer}|7"));

    for (index, authorizer) in [
        Value::Null,
        json!({}),
        json!({"jwt": {"claims": {}, "scopes": null}}),
        json!({"jwt": {"claims": {"exp": "1795341600"}, "scopes": null}}),
        json!({"jwt": {"claims": {"iss": issuer, "email": "ada@lab.example"}, "scopes": null}}),
        json!({"lambda": {"sub": "7"}}),
    ]
    .into_iter()
    .enumerate()
    {
        let event = asked_by("/api/settings", authorizer);
        let posted = api.invoke(&format!("unknown-{index}"), minute, &event).await;
        assert_eq!(posted.body["statusCode"], 401, "{event}: {posted:?}");
        assert_eq!(posted.body["headers"]["content-type"], "application/problem+json", "{posted:?}");
    }
    for path in ["/sign-in", "/", "/slide", "/app.js"] {
        let posted = api.invoke(&path.replace('/', "-"), minute, &asked_by(path, Value::Null)).await;
        assert_eq!(posted.body["statusCode"], 200, "{path}: {posted:?}");
        let policy = posted.body["headers"]["content-security-policy"].as_str().unwrap();
        let has_origins = policy.contains(" http://127.0.0.1:1 https://auth.lab.example; base-uri");
        assert_eq!(has_origins, ["/", "/slide"].contains(&path), "{path}: {policy}");
        if path == "/sign-in" {
            let body: Value = serde_json::from_str(posted.body["body"].as_str().unwrap()).unwrap();
            assert_eq!(body, json!({"issuer": issuer, "client_id": "page"}));
        }
    }
    cloud.servers.shutdown().await;
}

fn encoded_slide() -> String {
    IMAGE.split('/').next().unwrap().replace('-', "%2D")
}
