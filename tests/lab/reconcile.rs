//! `giemsa reconcile` against real servers: the command on a running stack, and its parts where timing matters.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use chrono::{TimeDelta, TimeZone, Utc};
use futures::{StreamExt, stream};
use giemsa_local::INPUT_BUCKET;
use giemsa_ops::reconcile::{Finding, Reconciler, Scope, State, notification_of};
use giemsa_store::queues::QueueClient;
use giemsa_store::{NotedUpload, TableWriter, Upload, UploadListing, UploadVersion};
use giemsa_tests::lab::{INPUT, Lab, TABLE, events, file, uninfected_cell};
use giemsa_tests::running_stack::{RunningStack, giemsa};
use serde_json::{Value, json};

/// Keys that break naive listings, notifications and terminals.
const HOSTILE_KEYS: [&str; 6] = [
    "slide 1/a+b.png",
    "slide 1/%2B%20.png",
    "=cmd()|calc!A1.png",
    "slide 1/é漢\u{202e}gnp.png",
    "slide 1/\"quoted\", 'and' <tagged> & more.png",
    "slide 1/new\nline.png",
];

fn reconcile(stack: &RunningStack, more: &[&str]) -> Output {
    let mut command: Command = giemsa();
    command.arg("reconcile").args(more).envs(stack.exports()).output().unwrap()
}

/// The lines of `--json`: of uploads, and the summary.
fn lines(output: &Output) -> (Vec<Value>, Value) {
    let stdout = std::str::from_utf8(&output.stdout).unwrap();
    let mut lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let summary = lines.pop().unwrap_or_else(|| panic!("no summary: {stderr}"));
    assert_eq!(summary["type"], "summary", "{stderr}");
    assert!(lines.iter().all(|line| line["type"] == "upload"), "{lines:?}");
    (lines, summary)
}

async fn put(stack: &RunningStack, key: &str, bytes: &[u8]) {
    let request = stack.clients().s3.put_object().bucket(INPUT_BUCKET).key(key);
    request.body(bytes.to_vec().into()).send().await.unwrap();
}

/// Empties the queue of production: what was announced in it is lost.
async fn lose_notifications(stack: &RunningStack) {
    let exports = stack.exports();
    let (_, url) = exports.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL_SQS").expect("printed");
    let queue = QueueClient::at(url, giemsa_local::credentials(), "classify-prod").await.unwrap();
    assert!(queue.depth().await.unwrap().total() > 0, "there is something to lose");
    queue.purge().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_listed_sent_again_and_answered() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir: &Path = folder.path();
    let stack = RunningStack::start(data_dir, &[]);
    let cell = uninfected_cell();
    for key in HOSTILE_KEYS {
        put(&stack, key, &cell).await;
    }
    put(&stack, "slide 2/notes.txt", b"not an image").await;
    put(&stack, "slide 2/", b"").await;
    stack.wait_until_answered();

    let all = reconcile(&stack, &["--json", "--grace", "0m"]);
    let (open, summary) = lines(&all);
    assert!(all.status.success() && open.is_empty(), "{open:?} {summary}");
    assert_eq!(summary["complete"], true);
    assert_eq!((&summary["uploads"], &summary["left_out"]), (&json!(7), &json!(1)));
    assert_eq!((&summary["states"]["answered"], &summary["states"]["rejected"]), (&json!(6), &json!(1)));
    assert_eq!(summary["reject_codes"], json!({"not_an_image": 1}));
    let text = reconcile(&stack, &["--prefix", "slide 1/"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("5 versions of s3://"), "{text}");
    assert!(text.contains("Every upload has its result."), "{text}");
    assert_eq!(stack.stop("INT").0.code(), Some(0));

    // Two new uploads and one that replaces another, of which nobody is told.
    let stack = RunningStack::start(data_dir, &["--no-worker"]);
    let other = file("sample-images/slide-001-healthy/cell-02.png");
    let lost = ["=2+5.png", "slide 3/new\u{1b}[31m\nline.png", "slide 1/a+b.png"];
    for key in lost {
        put(&stack, key, &other).await;
    }
    let waiting = reconcile(&stack, &["--json", "--fix"]);
    let (open, summary) = lines(&waiting);
    assert_eq!(waiting.status.code(), Some(1));
    assert_eq!((open.len(), &summary["states"]["waiting"]), (3, &json!(3)), "{summary}");
    assert_eq!(summary["sent"], 0, "what may be in the queue is left");
    lose_notifications(&stack).await;
    let found = reconcile(&stack, &["--json", "--grace", "0m"]);
    let (open, summary) = lines(&found);
    let mut keys: Vec<(&str, &str)> =
        open.iter().map(|line| (line["key"].as_str().unwrap(), line["state"].as_str().unwrap())).collect();
    keys.sort_unstable();
    let mut expected = [(lost[0], "unanswered"), (lost[1], "unanswered"), (lost[2], "outdated")];
    expected.sort_unstable();
    assert_eq!(keys, expected, "{summary}");
    assert!(open.iter().all(|line| line["reason"].is_string() && line["etag"].is_string()), "{open:?}");

    // In text, a key does nothing to a terminal or a spreadsheet.
    let text = reconcile(&stack, &["--grace", "0m"]);
    let shown = String::from_utf8(text.stdout).unwrap();
    assert!(shown.contains("  '=2+5.png (version "), "{shown}");
    assert!(
        shown.contains("slide 3/new\u{fffd}[31m\u{fffd}line.png") && !shown.contains('\u{1b}'),
        "{shown}"
    );
    let said = String::from_utf8(text.stderr).unwrap();
    assert!(
        said.contains("3 of 9 uploads have no result in prod") || said.contains("3 of 10 uploads"),
        "{said}"
    );

    let fixed = reconcile(&stack, &["--json", "--grace", "0m", "--fix"]);
    let (_, summary) = lines(&fixed);
    assert_eq!((fixed.status.code(), &summary["sent"]), (Some(1), &json!(3)), "sent is not answered yet");
    assert_eq!(stack.stop("INT").0.code(), Some(0));
    let stack = RunningStack::start(data_dir, &[]);
    stack.wait_until_answered();
    let after = reconcile(&stack, &["--json", "--grace", "0m"]);
    let (open, summary) = lines(&after);
    assert!(after.status.success() && open.is_empty(), "{open:?} {summary}");
    let states = &summary["states"];
    assert_eq!(
        (&states["answered"], &states["rejected"], &states["replaced"]),
        (&json!(8), &json!(1), &json!(1))
    );

    // Only what is in scope is looked at.
    let scoped = reconcile(&stack, &["--json", "--since", "2099-01-01"]);
    assert_eq!(lines(&scoped).1["uploads"], 0);
}

fn reconciler(lab: &Lab, listing: UploadListing, is_old_listing: bool) -> Reconciler {
    let scope = Scope {
        stage: "prod".to_owned(),
        prefix: String::new(),
        since: None,
        grace: TimeDelta::zero(),
        is_old_listing,
    };
    Reconciler::new(&lab.config, scope, listing, lab.table())
}

async fn listing(lab: &Lab) -> UploadListing {
    UploadListing::open(lab.clients.s3.clone(), INPUT, "").await.unwrap()
}

async fn uploads(lab: &Lab) -> Vec<Upload> {
    let (uploads, next) = listing(lab).await.page(None).await.unwrap();
    assert_eq!(next, None);
    uploads
}

async fn check(lab: &Lab, uploads: Vec<Upload>, is_old_listing: bool) -> Vec<Finding> {
    let reconciler = reconciler(lab, listing(lab).await, is_old_listing);
    reconciler.check(uploads, Utc::now() + TimeDelta::seconds(1)).await.unwrap().findings
}

/// Lets an upload be answered, by what would send it again.
async fn answer_upload(handler: &giemsa::handler::Handler, upload: &Upload) {
    let answer = handler.handle(&events::sqs([notification_of(INPUT, upload)]), None).await.unwrap();
    assert_eq!(answer["batchItemFailures"], json!([]), "{upload:?}");
}

fn states(findings: &[Finding]) -> Vec<(&str, State)> {
    findings.iter().map(|finding| (finding.upload.key.as_str(), finding.state)).collect()
}

/// Uploads an image and lets it be answered.
async fn answer(lab: &Lab, handler: &giemsa::handler::Handler, key: &str, bytes: &[u8], sequencer: &str) {
    let etag = lab.put(key, bytes).await;
    let event = events::s3(&events::Upload { sequencer, ..events::Upload::new(key, &etag, bytes.len()) });
    handler.handle(&event, None).await.unwrap();
}

#[tokio::test]
async fn a_listing_that_was_overtaken_calls_nothing_lost_that_is_not() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    let (cell, other) = (uninfected_cell(), file("sample-images/slide-001-healthy/cell-02.png"));
    for key in ["deleted.png", "overwritten.png", "untouched.png"] {
        lab.put(key, &cell).await;
    }
    answer(&lab, &handler, "answered.png", &cell, "01").await;
    let listed = uploads(&lab).await;
    // What happens between the listing, which an inventory may have made yesterday, and the look at the table.
    lab.delete("deleted.png").await;
    answer(&lab, &handler, "overwritten.png", &other, "02").await;
    let findings = check(&lab, listed.clone(), true).await;
    let expected = [
        ("answered.png", State::Answered),
        ("deleted.png", State::Gone),
        ("overwritten.png", State::Replaced),
        ("untouched.png", State::Unanswered),
    ];
    assert_eq!(states(&findings), expected);
    // A listing of this moment trusts itself for what is missing, but not where the table knows better.
    let findings = check(&lab, listed, false).await;
    assert_eq!(findings[1].state, State::Unanswered);
    assert_eq!(findings[2].state, State::Replaced);
}

#[tokio::test]
async fn a_replaced_version_is_answered_by_its_own_result_object_only() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    let (cell, other) = (uninfected_cell(), file("sample-images/slide-001-healthy/cell-02.png"));
    // The second is longer than a result's key has room for, and its key is cut within a character.
    let long = format!("{}é{}.png", "k".repeat(966), "x".repeat(40));
    let keys = ["a.png", long.as_str()];
    let mut older = Vec::new();
    for key in keys {
        answer(&lab, &handler, key, &cell, "01").await;
        older.extend(uploads(&lab).await.into_iter().filter(|upload| upload.key == key));
        answer(&lab, &handler, key, &other, "02").await;
        // A neighbour whose results begin with the same characters.
        answer(&lab, &handler, &format!("{}.bak.png", &key[..5]), &cell, "01").await;
    }
    let mut listed = Vec::new();
    for upload in older {
        listed.push(Upload { is_latest: false, ..upload.clone() });
        // One of which there was never a result.
        let version = UploadVersion::Id("never-answered".to_owned());
        listed.push(Upload { is_latest: false, version, ..upload });
    }
    let findings = check(&lab, listed, false).await;
    let found: Vec<State> = findings.iter().map(|finding| finding.state).collect();
    assert_eq!(found, [State::Replaced, State::Unanswered, State::Replaced, State::Unanswered]);
    // By a process that has not seen the model yet, and has to read a result to know it.
    let text = |text: String| AttributeValue::S(text);
    let request = lab.clients.dynamodb.delete_item().table_name(TABLE);
    let request =
        request.key("pk", text(format!("result#prod#{INPUT}/a.png"))).key("sk", text("result".to_owned()));
    request.send().await.unwrap();
    let two = findings[..2].iter().map(|finding| finding.upload.clone()).collect();
    let found: Vec<State> = check(&lab, two, false).await.iter().map(|finding| finding.state).collect();
    assert_eq!(found, [State::Replaced, State::Unanswered]);
}

#[tokio::test]
async fn each_version_is_answered_for_itself_whatever_is_above_it() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    let cells = [1, 2, 3].map(|n| file(&format!("sample-images/slide-001-healthy/cell-0{n}.png")));
    lab.put("before.png", &cells[0]).await;
    answer_upload(&handler, &uploads(&lab).await[0]).await;
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let request = lab.clients.s3.put_bucket_versioning().bucket(INPUT).versioning_configuration(enabled);
    request.send().await.unwrap();

    lab.put("before.png", &cells[1]).await;
    for key in ["marked.png", "marked-and-lost.png"] {
        lab.put(key, &cells[0]).await;
    }
    for cell in &cells {
        // Upload times have whole seconds, and the order of these matters.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        lab.put("three.png", cell).await;
    }
    let listed = uploads(&lab).await;
    let of = |key: &str| listed.iter().filter(|upload| upload.key == key).collect::<Vec<_>>();
    let three = of("three.png");
    assert_eq!((three.len(), three[0].is_latest, three[1].is_latest), (3, true, false), "newest first");
    assert_eq!(of("before.png")[1].version, UploadVersion::Null);
    for upload in [of("before.png")[0], of("marked.png")[0], three[2], three[0]] {
        answer_upload(&handler, upload).await;
    }
    // A listing that was made before the newest upload calls the one before it the latest.
    let overtaken = [three[2], three[1]].map(|upload| Upload { is_latest: true, ..upload.clone() });
    let found: Vec<State> = check(&lab, overtaken.into(), false).await.iter().map(|f| f.state).collect();
    assert_eq!(found, [State::Replaced, State::Unanswered]);
    // A multipart upload has the time at which it began: only S3 knows that it is the newest.
    lab.put("three.png", &cells[1]).await;
    let newest = uploads(&lab).await.into_iter().find(|u| u.key == "three.png").unwrap();
    let began = newest.uploaded_at - TimeDelta::hours(1);
    let findings = check(&lab, vec![Upload { uploaded_at: began, ..newest.clone() }], false).await;
    assert_eq!(findings[0].state, State::Outdated);
    let request = lab.clients.s3.delete_object().bucket(INPUT).key("three.png");
    request.version_id(newest.version_id().unwrap()).send().await.unwrap();
    lab.delete("marked.png").await;
    lab.delete("marked-and-lost.png").await;

    let findings = check(&lab, uploads(&lab).await, false).await;
    let expected = [
        ("before.png", State::Answered),
        ("before.png", State::Replaced),
        ("marked-and-lost.png", State::Unanswered),
        ("marked.png", State::Answered),
        ("three.png", State::Answered),
        ("three.png", State::Unanswered),
        ("three.png", State::Replaced),
    ];
    assert_eq!(states(&findings), expected);
    // What is sent again is that very version, which does not take the newest one's place.
    for finding in findings.iter().filter(|finding| finding.state == State::Unanswered) {
        answer_upload(&handler, &finding.upload).await;
    }
    let current = lab.result("three.png").await.unwrap();
    assert_eq!(current.image.version_id.as_deref(), three[0].version_id());
    let findings = check(&lab, uploads(&lab).await, true).await;
    assert!(findings.iter().all(|finding| finding.state.is_fine()), "{:?}", states(&findings));
}

#[tokio::test]
async fn the_reason_is_what_the_classifier_noted_of_that_very_upload() {
    let lab = Lab::start().await;
    let etag = lab.put("a/tried.png", b"x").await;
    lab.put("a/silent.png", b"x").await;
    let table = TableWriter::new(lab.clients.dynamodb.clone(), TABLE);
    let upload = NotedUpload { bucket: INPUT, key: "a/tried.png", stage: "prod", object_version: &etag };
    for minute in [0, 10, 30] {
        let at = Utc.with_ymd_and_hms(2026, 11, 22, 10, minute, 0).unwrap();
        table.note_failure(upload, "the model bucket cannot be read: throttled", at).await.unwrap();
    }
    let findings = check(&lab, uploads(&lab).await, false).await;
    assert!(findings[0].reason().unwrap().contains("no try is noted"), "{findings:?}");
    let reason = findings[1].reason().unwrap();
    assert_eq!(
        reason,
        "tried 3 times, the last time at 2026-11-22 10:30:00 UTC: the model bucket cannot be read: throttled"
    );
    // Another upload of the key has another version, and no note.
    lab.put("a/tried.png", b"y").await;
    let findings = check(&lab, uploads(&lab).await, false).await;
    assert!(findings[1].failure.is_none());
}

#[tokio::test]
async fn a_rejection_as_gone_is_no_answer_to_the_same_bytes_uploaded_again() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    let cell = uninfected_cell();
    let etag = lab.put("a.png", &cell).await;
    lab.delete("a.png").await;
    handler.handle(&events::s3(&events::Upload::new("a.png", &etag, cell.len())), None).await.unwrap();
    assert_eq!(lab.result("a.png").await.unwrap().reject.unwrap().code, "not_found");
    // Without versions the ETag is all that tells uploads apart, and nobody was told of this one.
    lab.put("a.png", &cell).await;
    let listed = uploads(&lab).await;
    let findings = check(&lab, listed.clone(), false).await;
    assert_eq!(states(&findings), [("a.png", State::Unanswered)]);
    assert!(findings[0].reason().unwrap().contains("uploaded again since"));
    // By an old listing, it may be gone after all.
    lab.delete("a.png").await;
    assert_eq!(states(&check(&lab, listed, true).await), [("a.png", State::Gone)]);
}

#[tokio::test]
async fn what_is_sent_again_is_answered_like_the_first_time() {
    let lab = Lab::start().await;
    let handler = lab.handler();
    let key = "slide 1/a+b é\n.png";
    lab.put(key, &uninfected_cell()).await;
    let listed = uploads(&lab).await;
    assert_eq!(listed[0].key, key);
    let body = notification_of(INPUT, &listed[0]);
    let answer = handler.handle(&events::sqs([body]), None).await.unwrap();
    assert_eq!(answer["batchItemFailures"], json!([]));
    let findings = check(&lab, listed, false).await;
    assert_eq!(states(&findings), [(key, State::Answered)]);
}

#[tokio::test]
async fn pages_of_a_listing_go_on_where_they_ended() {
    let lab = Lab::without_model().await;
    let puts = (0..1_005).map(|i| {
        let lab = &lab;
        async move { drop(lab.put(&format!("a/{i:04} +.png"), b"").await) }
    });
    stream::iter(puts).buffer_unordered(16).collect::<()>().await;
    let listing = listing(&lab).await;
    let (first, marker) = listing.page(None).await.unwrap();
    assert_eq!((first.len(), marker.as_ref().unwrap().key.as_str()), (1_000, "a/0999 +.png"));
    let (rest, end) = listing.page(marker.as_ref()).await.unwrap();
    assert_eq!((rest.len(), rest[0].key.as_str(), end), (5, "a/1000 +.png", None));
}
