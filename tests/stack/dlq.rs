//! `giemsa dlq` as an operator meets it: processes against a running stack, with messages of every kind.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::primitives::ByteStream;
use chrono::Utc;
use giemsa_local::queue::Queue;
use giemsa_local::{INPUT_BUCKET, TABLE, credentials};
use giemsa_store::TableReader;
use giemsa_store::queues::QueueClient;
use giemsa_tests::running_stack::{
    RunningStack, collect, giemsa, project, send_signal, wait_for, wait_for_exit,
};
use serde_json::{Value, json};

const MAIN: &str = "classify-prod";
const DEAD: &str = "classify-prod-dlq";
const KEY: &str = "slide 1/cell+é.png";

/// The command in the environment that the stack tells its users to export.
fn dlq(stack: &RunningStack, arguments: &[&str]) -> Command {
    let mut command = giemsa();
    let ambient = [
        "AWS_ENDPOINT_URL",
        "AWS_PROFILE",
        "GIEMSA_DLQ_URL",
        "GIEMSA_INPUT_BUCKET",
        "GIEMSA_MODEL_BUCKET",
        "GIEMSA_QUEUE_URL",
        "GIEMSA_RESULTS_BUCKET",
        "GIEMSA_TABLE",
    ];
    for name in ambient {
        command.env_remove(name);
    }
    command.envs(stack.exports()).stdin(Stdio::null()).arg("dlq").args(arguments);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn succeed(stack: &RunningStack, arguments: &[&str]) -> Output {
    let output = dlq(stack, arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    output
}

fn json_of(stack: &RunningStack, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    serde_json::from_slice(&succeed(stack, &arguments).stdout).unwrap()
}

async fn client(stack: &RunningStack, name: &str) -> QueueClient {
    let exports: HashMap<String, String> = stack.exports().into_iter().collect();
    QueueClient::at(&exports["AWS_ENDPOINT_URL_SQS"], credentials(), name).await.unwrap()
}

/// Uploads an image that nobody works on, and returns the body of its message, which is taken out of the queue.
async fn upload(stack: &RunningStack, key: &str) -> String {
    let image = project("sample-images/slide-001-healthy/cell-01.png");
    let body = ByteStream::from(std::fs::read(image).unwrap());
    stack.clients().s3.put_object().bucket(INPUT_BUCKET).key(key).body(body).send().await.unwrap();
    let main = client(stack, MAIN).await;
    let exports: HashMap<String, String> = stack.exports().into_iter().collect();
    let sdk = giemsa_store::aws::sqs_client_at(&exports["AWS_ENDPOINT_URL_SQS"], credentials());
    let received = sdk.receive_message().queue_url(main.url()).send().await.unwrap();
    let message = received.messages.unwrap().pop().unwrap();
    let receipt = message.receipt_handle.unwrap();
    sdk.delete_message().queue_url(main.url()).receipt_handle(receipt).send().await.unwrap();
    message.body.unwrap()
}

/// A note as the classifier writes it on a failed try.
async fn note_failure(stack: &RunningStack, version: &str, reason: &str) {
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let now = Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
    let item = HashMap::from([
        ("pk".to_owned(), text(&format!("result#prod#{INPUT_BUCKET}/{KEY}"))),
        ("sk".to_owned(), text(&format!("failure#{version}"))),
        ("bucket".to_owned(), text(INPUT_BUCKET)),
        ("key".to_owned(), text(KEY)),
        ("stage".to_owned(), text("prod")),
        ("object_version".to_owned(), text(version)),
        ("reason".to_owned(), text(reason)),
        ("tries".to_owned(), AttributeValue::N("10".to_owned())),
        ("first_failed_at".to_owned(), text(&now)),
        ("last_failed_at".to_owned(), text(&now)),
    ]);
    stack.clients().dynamodb.put_item().table_name(TABLE).set_item(Some(item)).send().await.unwrap();
}

fn version_of(body: &str) -> String {
    let object = &serde_json::from_str::<Value>(body).unwrap()["Records"][0]["s3"]["object"];
    let version = object["versionId"].as_str().filter(|version| *version != "null");
    version.or(object["eTag"].as_str()).unwrap().to_owned()
}

fn message<'a>(listed: &'a Value, part: &str) -> &'a Value {
    let messages = listed["messages"].as_array().unwrap();
    messages
        .iter()
        .find(|message| message.to_string().contains(part))
        .unwrap_or_else(|| panic!("{part}: {listed}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_of_three_is_redriven_and_answered_and_the_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    // Without workers, so that the upload stays unanswered as after ten failed tries.
    let stack = RunningStack::start(folder.path(), &["--no-worker"]);
    let image = upload(&stack, KEY).await;
    let foreign = image.replace(INPUT_BUCKET, "elsewhere").replace("slide+1", "%1B%5B31mred");
    assert!(foreign.contains("elsewhere") && foreign.contains("%1B"), "{foreign}");
    let unreadable = json!({"hello": "world"}).to_string();
    client(&stack, DEAD).await.send_batch(&[image.clone(), foreign, unreadable]).await.unwrap();
    note_failure(&stack, &version_of(&image), "the network failed on this image: overflow").await;
    assert!(stack.stop("TERM").0.success());

    let stack = RunningStack::start(folder.path(), &[]);
    wait_for("the hint at dead letters", || stack.stdout().contains("giemsa dlq list").then_some(()));
    let listed = json_of(&stack, &["list"]);
    assert_eq!(listed["complete"], true);
    assert_eq!(
        listed["counts"],
        json!({"messages": 3, "unanswered": 1, "answered": 0, "other_upload_answered": 0, "other_bucket": 1,
               "without_upload": 1})
    );
    let of_image = message(&listed, "cell+é.png");
    assert_eq!(of_image["reason"], "the network failed on this image: overflow");
    assert_eq!(of_image["uploads"][0]["key"], KEY);
    assert_eq!(of_image["uploads"][0]["state"], "unanswered");
    assert_eq!(of_image["uploads"][0]["failure"]["tries"], 10);
    assert_eq!(message(&listed, "elsewhere")["uploads"][0]["state"], "other_bucket");
    let of_nothing = message(&listed, "hello");
    assert!(of_nothing["reason"].as_str().unwrap().contains("no known form"), "{of_nothing}");
    assert_eq!(json_of(&stack, &["list"]), listed, "looking changes nothing");

    let table = text(&succeed(&stack, &["list"]).stdout).to_owned();
    assert!(!table.contains('\u{1b}') && table.contains("[31mred"), "{table}");
    for part in
        ["NOT ANSWERED", "other bucket", "no upload", "overflow", "3 dead letters in classify-prod-dlq"]
    {
        assert!(table.contains(part), "{part:?} is not in {table}");
    }
    let only = json_of(&stack, &["list", "--match", "overflow"]);
    assert_eq!(only["messages"], json!([of_image]));

    let output = dlq(&stack, &["redrive"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "nobody can be asked");
    assert!(text(&output.stderr).contains("--yes"));
    assert_eq!(json_of(&stack, &["redrive", "--yes", "--match", "nobody"])["left"], 3);
    assert_eq!(json_of(&stack, &["list"]), listed);

    let output =
        succeed(&stack, &["redrive", "--yes", "--match", &format!("s3://{INPUT_BUCKET}/{KEY}"), "--json"]);
    assert!(text(&output.stderr).contains("1 message of 3"), "{}", text(&output.stderr));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        done,
        json!({"queue": MAIN, "dead_letter_queue": DEAD, "redriven": 1, "left": 2, "complete": true})
    );
    let table = TableReader::new(stack.clients().dynamodb.clone(), TABLE);
    let deadline = tokio::time::Instant::now() + giemsa_tests::running_stack::PATIENCE;
    let record = loop {
        let results = table.image(INPUT_BUCKET, KEY, &giemsa_config::DEFAULT_STAGES).await.unwrap().results;
        if let Some(record) = results.into_iter().find(|record| record.stage == "prod") {
            break record;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", stack.stderr());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(record.image.object_version(), version_of(&image));
    wait_for("the queue to be empty", || (stack.unanswered().0 == 0).then_some(()));
    let left = json_of(&stack, &["list"]);
    let expected: Vec<&Value> = vec![message(&listed, "elsewhere"), message(&listed, "hello")];
    assert_eq!(left["messages"], json!(expected), "the others are as they were");

    // A message whose image has its answer says so; one of an upload that was replaced too.
    let replaced = image.replace(&version_of(&image), "0123456789abcdef0123456789abcdef");
    client(&stack, DEAD).await.send_batch(&[image, replaced]).await.unwrap();
    let counts = json_of(&stack, &["list"])["counts"].clone();
    assert_eq!((&counts["answered"], &counts["other_upload_answered"]), (&json!(1), &json!(1)));
}

/// A stack with messages that nobody works on.
async fn stack_with_messages(folder: &Path, count: usize) -> (RunningStack, Vec<String>) {
    let stack = RunningStack::start(folder, &["--no-worker"]);
    let bodies: Vec<String> = (0..count).map(|number| json!({ "message": number }).to_string()).collect();
    client(&stack, DEAD).await.send_batch(&bodies).await.unwrap();
    (stack, bodies)
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_gives_all_messages_back_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (stack, bodies) = stack_with_messages(folder.path(), 1_000).await;
    let mut child = dlq(&stack, &["list", "--json"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, out_reader) = collect(child.stdout.take().unwrap());
    let (stderr, err_reader) = collect(child.stderr.take().unwrap());
    wait_for("the first messages", || (stdout.lock().unwrap().lines().count() > 20).then_some(()));
    send_signal(child.id(), "INT");
    assert_eq!(wait_for_exit(&mut child).code(), Some(1));
    out_reader.join().unwrap();
    err_reader.join().unwrap();
    let listed: Value = serde_json::from_str(&stdout.lock().unwrap()).expect("still one JSON document");
    let seen = listed["messages"].as_array().unwrap().len();
    assert!(seen < bodies.len(), "it was interrupted in the middle");
    assert_eq!(listed["complete"], false);
    assert!(stderr.lock().unwrap().contains("not complete"));
    let depth = client(&stack, DEAD).await.depth().await.unwrap();
    assert_eq!((depth.visible, depth.in_flight), (1_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_is_killed_loses_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let (stack, bodies) = stack_with_messages(folder.path(), 400).await;
    let main = client(&stack, MAIN).await;
    for at_least in [1, 50, 150] {
        let mut child = dlq(&stack, &["redrive", "--yes"]);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = tokio::time::Instant::now() + giemsa_tests::running_stack::PATIENCE;
        while main.depth().await.unwrap().visible < at_least {
            assert!(tokio::time::Instant::now() < deadline, "nothing is sent");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(stack.stop("TERM").0.success());

    let queue = Queue::open(&folder.path().join("queue.sqlite")).unwrap();
    let dead = queue.peek_dead_letters(MAIN, usize::MAX).await.unwrap();
    assert!(!dead.is_empty() && dead.len() < bodies.len(), "killed in the middle: {}", dead.len());
    let sent = queue.receive(MAIN, usize::MAX, Utc::now()).await.unwrap();
    let mut found: Vec<&str> = dead.iter().map(|message| message.body.as_str()).collect();
    found.extend(sent.iter().map(|message| message.body.as_str()));
    for body in &bodies {
        assert!(found.contains(&body.as_str()), "{body} is lost");
    }
    // What was sent and not yet deleted is there twice: at most the ten of one batch for each kill.
    assert!(found.len() - bodies.len() <= 30, "{} twice", found.len() - bodies.len());
}
