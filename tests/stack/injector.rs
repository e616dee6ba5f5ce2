//! Each kind of fault, as the SDKs and the process see it: what the injector says that it does, it does, and no more.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, KeysAndAttributes,
    PutRequest, ScalarAttributeType, WriteRequest,
};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::primitives::ByteStream;
use giemsa_faults::{Faults, Kind};
use giemsa_local::listener::endpoint_url;
use giemsa_local::queue::{Queue, QueueSettings};
use giemsa_local::{INPUT_BUCKET, ServerSettings, Servers, Subscription, credentials};
use giemsa_store::aws::Clients;
use giemsa_tests::running_stack::{RunningStack, giemsa, project, send_signal, up, wait_for, wait_for_exit};
use md5::{Digest, Md5};
use serde_json::Value;
use tempfile::TempDir;

const BUCKET: &str = "lab-input";
const QUEUE: &str = "classify-prod";
const TABLE: &str = "lab";
const CONTENT: &[u8] = b"bytes of an image, long enough to lose some of them on their way";

/// Servers behind an injector that is not armed yet, with a bucket, an object and a table; clients try once.
struct Lab {
    faults: Arc<Faults>,
    s3: aws_sdk_s3::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    queue: Queue,
    servers: Servers,
    _folder: TempDir,
}

impl Lab {
    async fn start(spec: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(&folder.path().join("queue.sqlite")).unwrap();
        let queue_settings =
            QueueSettings { visibility_timeout: Duration::from_secs(60), max_receive_count: 5 };
        queue.declare(QUEUE, queue_settings).await.unwrap();
        let settings = ServerSettings {
            data_dir: folder.path().to_owned(),
            s3_port: 0,
            dynamodb_port: 0,
            subscriptions: vec![Subscription { bucket: BUCKET.into(), queue: QUEUE.into() }],
            browser_origins: vec![],
        };
        let faults = Arc::new(Faults::open(spec.parse().unwrap(), folder.path()).unwrap());
        let servers = Servers::start_behind(faults.clone(), &settings, queue.clone()).await.unwrap();
        let Clients { s3, dynamodb, .. } =
            Clients::at(&endpoint_url(servers.s3), &endpoint_url(servers.dynamodb), credentials());
        let once = RetryConfig::disabled();
        let s3 = aws_sdk_s3::Client::from_conf(s3.config().to_builder().retry_config(once.clone()).build());
        let dynamodb =
            aws_sdk_dynamodb::Client::from_conf(dynamodb.config().to_builder().retry_config(once).build());
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();
        s3.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(CONTENT)).send().await.unwrap();
        let key = |name: &str, kind| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap()
        };
        let text = |name: &str| {
            let kind = ScalarAttributeType::S;
            AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap()
        };
        let table = dynamodb.create_table().table_name(TABLE).billing_mode(BillingMode::PayPerRequest);
        let table = table.key_schema(key("pk", KeyType::Hash)).key_schema(key("sk", KeyType::Range));
        table.attribute_definitions(text("pk")).attribute_definitions(text("sk")).send().await.unwrap();
        let lab = Self { faults, s3, dynamodb, queue, servers, _folder: folder };
        lab.put_item("there").await.unwrap();
        lab.faults.arm();
        lab
    }

    /// Content, or what went wrong.
    async fn get(&self) -> Result<Vec<u8>, String> {
        let got = self.s3.get_object().bucket(BUCKET).key("k").send().await;
        let got = got.map_err(|error| {
            format!("{} {}", error.code().unwrap_or_default(), DisplayErrorContext(&error))
        })?;
        let body = got.body.collect().await;
        body.map(|body| body.to_vec()).map_err(|error| format!("body: {}", DisplayErrorContext(&error)))
    }

    async fn put_item(&self, pk: &str) -> Result<(), String> {
        let put = self.dynamodb.put_item().table_name(TABLE).set_item(Some(item(pk))).send().await;
        put.map(drop)
            .map_err(|error| format!("{} {}", error.code().unwrap_or_default(), DisplayErrorContext(&error)))
    }

    async fn has_item(&self, pk: &str) -> bool {
        let got = self.dynamodb.get_item().table_name(TABLE).set_key(Some(item(pk))).send().await;
        got.unwrap().item.is_some()
    }

    fn count(&self, kind: Kind) -> u64 {
        self.faults.counts().get(&kind).copied().unwrap_or(0)
    }
}

fn item(pk: &str) -> HashMap<String, AttributeValue> {
    [("pk", pk), ("sk", "s")].map(|(name, text)| (name.to_owned(), AttributeValue::S(text.to_owned()))).into()
}

#[tokio::test]
async fn reading_an_object_fails_as_often_as_the_limit_says_and_is_never_wrong() {
    let table = [
        ("slow-down=1", Kind::SlowDown, "SlowDown"),
        ("internal-error=1", Kind::InternalError, "InternalError"),
        ("timeout=1:200ms", Kind::Timeout, "dispatch failure"),
        ("reset=1", Kind::Reset, "dispatch failure"),
        ("lost-answer=1", Kind::LostAnswer, "dispatch failure"),
        ("truncate=1", Kind::Truncate, "body: "),
        ("checksum=1", Kind::Checksum, "body: "),
    ];
    for (spec, kind, expected) in table {
        let lab = Lab::start(&format!("limit=2,{spec}")).await;
        for _ in 0..2 {
            let started = Instant::now();
            let error = lab.get().await.expect_err(spec);
            assert!(error.contains(expected), "{spec}: {error}");
            assert!(kind != Kind::Timeout || started.elapsed() >= Duration::from_millis(200));
        }
        assert_eq!(lab.get().await.expect(spec), CONTENT);
        assert_eq!(lab.count(kind), 2);
        lab.servers.shutdown().await;
    }
}

/// What is stored without a checksum is damaged too, because its ETag tells it; the SDK does not look at ETags.
#[tokio::test]
async fn an_object_without_checksum_can_be_told_by_its_etag_only() {
    let lab = Lab::start("limit=1,checksum=1").await;
    let bare = lab.s3.config().to_builder();
    let bare =
        bare.request_checksum_calculation(aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired);
    let bare = aws_sdk_s3::Client::from_conf(bare.build());
    bare.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(CONTENT)).send().await.unwrap();
    let got = lab.s3.get_object().bucket(BUCKET).key("k").send().await.unwrap();
    let etag = got.e_tag.clone().unwrap();
    let damaged = got.body.collect().await.expect("the SDK takes it").to_vec();
    let differing = damaged.iter().zip(CONTENT).filter(|(a, b)| a != b).count();
    assert_eq!((damaged.len(), differing), (CONTENT.len(), 1));
    let md5 = |bytes: &[u8]| Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(etag.trim_matches('"'), md5(CONTENT));
}

#[tokio::test]
async fn a_slow_answer_is_whole() {
    let lab = Lab::start("limit=1,slow=1:300ms").await;
    let started = Instant::now();
    assert_eq!(lab.get().await.unwrap(), CONTENT);
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    assert_eq!(lab.count(Kind::Slow), 1);
}

/// A client that is not an SDK, so that the way in which the connection ends is seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_a_reset_and_no_close() {
    let lab = Lab::start("limit=1,reset=1").await;
    let address = lab.servers.s3;
    let read = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /{BUCKET}/k HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.read_to_string(&mut String::new())
    });
    assert_eq!(read.await.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_lost_answer_to_an_upload_is_an_upload_with_its_notification() {
    let lab = Lab::start("limit=1,lost-answer=1").await;
    let before = lab.queue.depth(QUEUE, chrono::Utc::now()).await.unwrap().total();
    let put =
        lab.s3.put_object().bucket(BUCKET).key("new").body(ByteStream::from_static(CONTENT)).send().await;
    let error = DisplayErrorContext(&put.unwrap_err()).to_string();
    assert!(error.contains("dispatch failure"), "{error}");
    lab.s3.head_object().bucket(BUCKET).key("new").send().await.unwrap_err();
    lab.s3.head_object().bucket(BUCKET).key("new").send().await.expect("the upload was done");
    assert_eq!(lab.queue.depth(QUEUE, chrono::Utc::now()).await.unwrap().total(), before + 1);
    assert_eq!(lab.count(Kind::LostAnswer), 2, "the upload, and the first question for it");
}

#[tokio::test]
async fn a_refused_upload_did_not_happen_and_a_large_one_can_be_refused() {
    let lab = Lab::start("limit=1,slow-down=1").await;
    let large = vec![7; 4 << 20];
    let put = || lab.s3.put_object().bucket(BUCKET).key("large").body(ByteStream::from(large.clone())).send();
    put().await.unwrap_err();
    assert_eq!(
        lab.queue.depth(QUEUE, chrono::Utc::now()).await.unwrap().total(),
        1,
        "only the first object's"
    );
    put().await.unwrap();
    assert_eq!(lab.queue.depth(QUEUE, chrono::Utc::now()).await.unwrap().total(), 2);
}

#[tokio::test]
async fn writing_an_item_fails_as_dynamodb_does() {
    let table = [
        ("throughput=1", "ProvisionedThroughputExceededException", false),
        ("conflict=1", "TransactionConflictException", false),
        ("internal-error=1", "InternalServerError", false),
        ("reset=1", "dispatch failure", false),
        ("timeout=1:100ms", "dispatch failure", false),
        ("lost-answer=1", "dispatch failure", true),
        ("truncate=1", "", true),
    ];
    for (spec, expected, is_done) in table {
        let lab = Lab::start(&format!("limit=1,{spec}")).await;
        let error = lab.put_item("new").await.expect_err(spec);
        assert!(error.contains(expected), "{spec}: {error}");
        // The question meets a fault of its own first.
        let question = || lab.dynamodb.get_item().table_name(TABLE).set_key(Some(item("new"))).send();
        if question().await.is_ok() {
            assert_eq!(spec, "conflict=1", "reads have no conflicts, and no other fault spares them");
        }
        assert_eq!(lab.has_item("new").await, is_done, "{spec}");
        lab.put_item("new").await.expect(spec);
        assert!(lab.has_item("new").await, "{spec}");
        lab.servers.shutdown().await;
    }
}

#[tokio::test]
async fn a_part_of_a_batch_is_done_and_the_rest_returned() {
    let lab = Lab::start("seed=3,limit=1,unprocessed=0.5").await;
    let put = |pk: &str| {
        let put = PutRequest::builder().set_item(Some(item(pk))).build().unwrap();
        WriteRequest::builder().put_request(put).build()
    };
    let names: Vec<String> = (0..25).map(|n| format!("p{n}")).collect();
    let mut requests: Vec<WriteRequest> = names.iter().map(|name| put(name)).collect();
    let answer = lab.dynamodb.batch_write_item().request_items(TABLE, requests.clone()).send().await.unwrap();
    let rest = answer.unprocessed_items.unwrap().remove(TABLE).unwrap();
    assert!((1..25).contains(&rest.len()), "{}", rest.len());
    assert_eq!(lab.count(Kind::Unprocessed), rest.len() as u64);
    requests.retain(|request| !rest.contains(request));
    assert_eq!(requests.len() + rest.len(), 25, "what is returned is of what was sent");
    for (name, request) in names.iter().map(|name| (name, put(name))) {
        assert_eq!(lab.has_item(name).await, requests.contains(&request), "{name}");
    }

    let keys = names.iter().map(|name| item(name)).collect();
    let keys = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build().unwrap();
    let answer = lab.dynamodb.batch_get_item().request_items(TABLE, keys).send().await.unwrap();
    let rest = answer.unprocessed_keys.unwrap().remove(TABLE).unwrap();
    let found = answer.responses.unwrap().remove(TABLE).unwrap_or_default();
    assert!(!rest.keys.is_empty() && rest.consistent_read == Some(true));
    assert!(found.iter().all(|found| !rest.keys.contains(found)));
}

#[test]
fn a_spec_that_cannot_be_used_ends_with_the_list_of_faults() {
    for (spec, expected) in
        [("slwo=0.1", "no fault is named"), ("@/no/such/file", "cannot be read"), ("slow=2", "from 0 to 1")]
    {
        let run = giemsa().args(["up", "--data-dir", "/no/such/folder", "--faults", spec]).output().unwrap();
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("--faults") && stderr.contains(expected), "{stderr}");
    }
    let help = giemsa().args(["up", "--help"]).output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for name in ["lost-answer=", "panic-model=", "limit=2", "batch=1..10000"] {
        assert!(help.contains(name), "{name}: {help}");
    }
}

async fn upload_samples(clients: &Clients) -> usize {
    let samples = project("sample-images/slide-002-falciparum");
    let files = giemsa_tests::running_stack::files_below(&samples);
    for file in &files {
        let body = ByteStream::from(std::fs::read(samples.join(file)).unwrap());
        clients
            .s3
            .put_object()
            .bucket(INPUT_BUCKET)
            .key(format!("s/{file}"))
            .body(body)
            .send()
            .await
            .unwrap();
    }
    files.len()
}

fn injected(folder: &Path, kind: &str) -> u64 {
    let text = std::fs::read_to_string(folder.join("faults.json")).unwrap_or_default();
    let summary: Value = serde_json::from_str(&text).unwrap_or_default();
    summary["injected"][kind].as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn panics_cost_a_retry_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let spec = "seed=1,limit=1,panic-decode=0.3,panic-model=0.3";
    let stack = RunningStack::start(folder.path(), &["--faults", spec]);
    assert!(stack.stdout().contains("seed=1,limit=1,panic-decode=0.3"), "{}", stack.stdout());
    let uploads = upload_samples(&stack.clients()).await;
    stack.wait_until_answered();
    // Rates may be some seconds old.
    wait_for("all uploads to be counted", || {
        let health = stack.get_json("/api/health");
        (health["stages"][0]["answered_last_hour"] == uploads as u64).then_some(())
    });
    let (status, stderr) = stack.stop("INT");
    assert!(status.success(), "{stderr}");
    for kind in ["panic-decode", "panic-model"] {
        assert!(injected(folder.path(), kind) > 0, "{kind} of {uploads} uploads in two stages");
    }
    assert!(stderr.contains("classifying the image panicked"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_goes_on_where_it_was_and_is_not_killed_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    // Often, but not at each of the dozens of subjects on the way: what dies ten times is given up.
    let arguments = ["--faults", "seed=2,limit=1,kill=0.2"];
    let mut kills = 0;
    let stack = RunningStack::start(folder.path(), &["--no-worker"]);
    let clients = stack.clients();
    let image = std::fs::read(project("sample-images/not-a-cell/cat.png")).unwrap();
    let put = clients.s3.put_object().bucket(INPUT_BUCKET).key("cat.png").body(ByteStream::from(image));
    put.send().await.unwrap();
    stack.stop("INT");
    for _ in 0..60 {
        let mut child =
            up(folder.path(), &arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (stdout, _) = giemsa_tests::running_stack::collect(child.stdout.take().unwrap());
        let died = wait_for("a kill, or nothing left to do", || {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(Some(status));
            }
            let printed = stdout.lock().unwrap().clone();
            let address = giemsa_tests::running_stack::dashboard_address(&printed)?;
            unanswered(&address).filter(|count| *count == 0).map(|_| None)
        });
        match died {
            Some(status) => {
                assert_eq!(status.signal(), Some(9), "{status}");
                kills += 1;
            }
            None => {
                send_signal(child.id(), "INT");
                wait_for_exit(&mut child);
                break;
            }
        }
    }
    assert!(kills >= 2, "{kills}");
    let stack = RunningStack::start(folder.path(), &[]);
    wait_for("all uploads to be answered or given up", || (stack.unanswered().0 == 0).then_some(()));
    // What was on the way at ten kills is given up, and a person sends it again.
    for stage in ["prod", "dev"] {
        let redrive = ["dlq", "redrive", "--yes", "--stage", stage];
        giemsa_tests::running_stack::giemsa().envs(stack.exports()).args(redrive).output().unwrap();
    }
    stack.wait_until_answered();
    let history = giemsa_store::TableReader::new(stack.clients().dynamodb, giemsa_local::TABLE);
    let both_stages = async {
        while history
            .image(INPUT_BUCKET, "cat.png", &giemsa_config::DEFAULT_STAGES)
            .await
            .unwrap()
            .results
            .len()
            < 2
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), both_stages).await.expect("both stages answer");
}

/// Uploads that no stage has answered, as long as there is somebody to say it.
fn unanswered(address: &str) -> Option<u64> {
    let (status, health) = giemsa_tests::running_stack::get(address, "/api/health")?;
    let depths = giemsa_tests::running_stack::depths(&serde_json::from_str(&health).ok()?);
    depths.filter(|_| status == 200).map(|(waiting, _)| waiting)
}
