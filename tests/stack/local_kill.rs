//! The local stack killed with SIGKILL at arbitrary moments, as a real process: what was answered with success is there,
//! what is visible has its notification, and nothing half written is ever visible.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use giemsa_local::queue::{Queue, QueueSettings};
use giemsa_local::{DataDirLock, ServerSettings, Servers, Subscription, credentials};

const BUCKET: &str = "giemsa-input";
const QUEUE: &str = "classify-prod";
/// How often a body repeats its version.
const REPEATS: usize = 3_000;
const DATA_DIR: &str = "GIEMSA_KILL_TEST_DATA_DIR";

/// Not a test: the process that gets killed. Run it by hand to try the stack with any client:
/// `GIEMSA_KILL_TEST_DATA_DIR=/tmp/x cargo test --test stack local_kill::serve_for_ever -- --ignored --exact --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "serves until it is killed; started by the test below"]
#[allow(clippy::disallowed_methods, reason = "the parent process has no other way to name the folder")]
async fn serve_for_ever() {
    let folder = std::env::var(DATA_DIR).expect("the data folder");
    let folder = Path::new(&folder);
    let _lock = DataDirLock::acquire(folder).unwrap();
    let queue = open_queue(folder).await;
    let settings = ServerSettings {
        data_dir: folder.to_owned(),
        s3_port: 0,
        dynamodb_port: 0,
        subscriptions: vec![Subscription { bucket: BUCKET.into(), queue: QUEUE.into() }],
        browser_origins: vec![],
    };
    let servers = Servers::start(&settings, queue).await.unwrap();
    println!("\nlistening {}", servers.s3);
    std::future::pending::<()>().await;
}

async fn open_queue(folder: &Path) -> Queue {
    let queue = Queue::open(&folder.join("queue.sqlite")).unwrap();
    let settings = QueueSettings { visibility_timeout: Duration::from_secs(60), max_receive_count: 5 };
    queue.declare(QUEUE, settings).await.unwrap();
    queue
}

fn spawn(folder: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["local_kill::serve_for_ever", "--ignored", "--exact", "--nocapture"])
        .env(DATA_DIR, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address =
        lines.map(Result::unwrap).find_map(|line| line.strip_prefix("listening ").map(str::to_owned));
    (child, address.expect("the process says where it listens"))
}

fn client(address: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(credentials())
        .build();
    Client::from_conf(config)
}

/// The body of a version: its number, often enough to notice half of it.
fn body(version: u64) -> Vec<u8> {
    version.to_string().repeat(REPEATS).into_bytes()
}

/// What a version's body begins with, if the whole body is of one version.
fn version_of(key: &str, bytes: &[u8]) -> u64 {
    let version = std::str::from_utf8(&bytes[..bytes.len() / REPEATS]).unwrap().parse().unwrap();
    assert!(bytes == body(version), "{key}: half of version {version}");
    version
}

async fn enable_versioning(s3: &Client) {
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    s3.put_bucket_versioning().bucket(BUCKET).versioning_configuration(enabled).send().await.unwrap();
}

/// An answered upload: its key, the number of its body, and its version id where the bucket is versioned.
type Answered = (String, u64, Option<String>);

/// Four writers overwrite a few keys each while the stack is killed again and again; returns what was answered with
/// success, that of each key in order.
async fn write_and_kill(folder: &Path, is_versioned: bool) -> Vec<Answered> {
    let answered = Arc::new(Mutex::new(Vec::<Answered>::new()));
    for round in 0..8_usize {
        let before = answered.lock().unwrap().len();
        let (mut child, address) = spawn(folder);
        let s3 = client(&address);
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();
        if is_versioned {
            enable_versioning(&s3).await;
        }
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                let (s3, answered) = (s3.clone(), Arc::clone(&answered));
                tokio::spawn(async move {
                    for number in 0.. {
                        // Each writer overwrites a few keys of its own, so that replacing is killed too.
                        let key = format!("writer {writer}/{}", number % 3);
                        let version = round as u64 * 1_000_000 + number;
                        let put =
                            s3.put_object().bucket(BUCKET).key(&key).body(ByteStream::from(body(version)));
                        let Ok(put) = put.send().await else {
                            return;
                        };
                        answered.lock().unwrap().push((key, version, put.version_id));
                    }
                })
            })
            .collect();
        // Different moments, from before the first upload to some hundred later.
        while answered.lock().unwrap().len() < before + 20 * round {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
    }

    std::mem::take(&mut *answered.lock().unwrap())
}

/// What the notifications say: key, ETag and version id.
async fn notified(folder: &Path) -> Vec<(String, String, Option<String>)> {
    let queue = open_queue(folder).await;
    let messages = queue.receive(QUEUE, usize::MAX, chrono::Utc::now()).await.unwrap();
    let of_message = |body: &str| {
        let event: serde_json::Value = serde_json::from_str(body).unwrap();
        let object = &event["Records"][0]["s3"]["object"];
        let text = |name: &str| object[name].as_str().map(str::to_owned);
        (text("key").unwrap().replace('+', " "), text("eTag").unwrap(), text("versionId"))
    };
    messages.iter().map(|message| of_message(&message.body)).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder.join("s3")).into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.path().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_nothing_is_lost_or_half_there() {
    let folder = tempfile::tempdir().unwrap();
    let answered = write_and_kill(folder.path(), false).await;
    // The last version of each key that was answered with success.
    let answered: BTreeMap<String, u64> =
        answered.into_iter().map(|(key, version, _)| (key, version)).collect();

    let (mut child, address) = spawn(folder.path());
    let s3 = client(&address);
    let mut visible = BTreeSet::new();
    let list = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    let listed: BTreeSet<&str> = list.contents().iter().filter_map(|object| object.key()).collect();
    assert!(answered.keys().all(|key| listed.contains(key.as_str())), "answered, so it is there");
    for key in listed {
        let object = s3.get_object().bucket(BUCKET).key(key).send().await.unwrap();
        let etag = object.e_tag.clone().unwrap().trim_matches('"').to_owned();
        let bytes = object.body.collect().await.unwrap().to_vec();
        // The upload in flight when the process died may have made it, or not; nothing older, nothing mixed.
        let (version, last_answered) = (version_of(key, &bytes), answered.get(key));
        assert!(
            Some(&version) >= last_answered,
            "{key}: version {version}, but {last_answered:?} was answered"
        );
        visible.insert((key.to_owned(), etag));
    }
    assert!(!visible.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();

    let messages = notified(folder.path()).await;
    let notified: BTreeSet<_> = messages.iter().map(|(key, etag, _)| (key.clone(), etag.clone())).collect();
    assert!(messages.len() > visible.len(), "the rounds overwrote each other: {}", messages.len());
    assert!(
        notified.is_superset(&visible),
        "visible without a notification: {:?}",
        visible.difference(&notified)
    );
    let names = files(folder.path());
    assert_eq!(names.len(), visible.len() + 1, "an object is a file, and one is the mark: {names:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_a_versioned_bucket_keeps_every_answered_version_whole() {
    let folder = tempfile::tempdir().unwrap();
    let answered = write_and_kill(folder.path(), true).await;

    let (mut child, address) = spawn(folder.path());
    let s3 = client(&address);
    let mut listed = BTreeSet::new();
    let mut latest = BTreeMap::new();
    let (mut key_marker, mut version_marker) = (None, None);
    loop {
        let list = s3.list_object_versions().bucket(BUCKET).set_key_marker(key_marker);
        let page = list.set_version_id_marker(version_marker).send().await.unwrap();
        for version in page.versions() {
            let (key, id) = (version.key().unwrap().to_owned(), version.version_id().unwrap().to_owned());
            if version.is_latest() == Some(true) {
                assert_eq!(latest.insert(key.clone(), id.clone()), None, "one latest version a key");
            }
            listed.insert((key, id));
        }
        if page.is_truncated() != Some(true) {
            break;
        }
        (key_marker, version_marker) = (page.next_key_marker, page.next_version_id_marker);
    }
    for (key, number, id) in &answered {
        let id = id.clone().expect("a versioned bucket names the version");
        assert!(listed.contains(&(key.clone(), id.clone())), "answered, so it is there: {key} {number}");
        let object = s3.get_object().bucket(BUCKET).key(key).version_id(&id).send().await.unwrap();
        let bytes = object.body.collect().await.unwrap().to_vec();
        assert_eq!(version_of(key, &bytes), *number, "{key} {id}");
        assert!(latest[key] >= id, "{key}: a later write is the latest");
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let notified = notified(folder.path()).await;
    let versions: BTreeSet<_> =
        notified.iter().map(|(key, _, id)| (key.clone(), id.clone().expect("a version id"))).collect();
    assert_eq!(versions, listed, "a version for each notification, a notification for each version");
    assert_eq!(notified.len(), listed.len(), "and no more than one");
    assert!(listed.len() > latest.len(), "keys were overwritten: {}", listed.len());
    let names = files(folder.path());
    assert_eq!(names.len(), listed.len() + 1, "a version is a file, and one is the mark");
}
