//! `giemsa backfill` by S3 Batch Operations: a server on loopback answers as AWS documents it, reads the manifest that it
//! is given, and has the project's own handler do each task of it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_s3::primitives::ByteStream;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use giemsa::handler::Handler;
use giemsa::pipeline::Pipeline;
use giemsa_config::{BACKFILL_PREFIX, Config};
use giemsa_core::digest::sha256_hex;
use giemsa_local::{INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET, TABLE};
use giemsa_ops::backfill::ManifestWriter;
use giemsa_store::aws::Clients;
use giemsa_store::{TableReader, Upload, UploadVersion};
use giemsa_tests::lab::uninfected_cell;
use giemsa_tests::running_stack::{PATIENCE, RunningStack, giemsa, send_signal, wait_for, wait_for_exit};
use serde_json::{Value, json};

const ACCOUNT: &str = "123456789012";
const ROLE: &str = "arn:aws:iam::123456789012:role/giemsa-BatchRole-1";
const FUNCTION: &str = "arn:aws:lambda:us-east-1:123456789012:function:giemsa-Backfill-1";
const OTHER_FUNCTION: &str = "arn:aws:lambda:us-east-1:123456789012:function:something-else";

/// Tries of a task that fails for the time being, as the service tries again.
const TRIES: usize = 3;

/// A job as the service keeps it.
#[derive(Debug, Clone)]
struct Job {
    id: String,
    token: String,
    function: String,
    description: String,
    status: String,
    total: usize,
    succeeded: usize,
    failed: usize,
    reason: String,
    /// Key, result code and text of each task, in the order in which they were done.
    results: Vec<(String, String, String)>,
}

/// What the service is like today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// Does what it is asked.
    Fine,
    /// Loses the answer to the first creation.
    LosesFirstAnswer,
    /// Takes jobs and does nothing with them.
    Idle,
    /// Ends jobs as failed before any task.
    Fails,
}

#[derive(Clone)]
struct Service {
    handler: Arc<Handler>,
    s3: aws_sdk_s3::Client,
    schema_version: &'static str,
    mood: Arc<Mutex<Mood>>,
    jobs: Arc<Mutex<Vec<Job>>>,
    /// Bodies of the requests to create a job.
    creations: Arc<Mutex<Vec<String>>>,
    /// How often a job was asked about.
    descriptions: Arc<AtomicUsize>,
}

/// Text of the first element of a name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let end = start + xml[start..].find(&format!("</{name}>"))?;
    Some(&xml[start..end])
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn xml(body: String) -> Response {
    let head = r#"<?xml version="1.0" encoding="UTF-8"?>"#;
    ([("content-type", "application/xml")], format!("{head}\n{body}")).into_response()
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    (status, xml(format!("<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"))).into_response()
}

fn is_signed(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text("x-amz-account-id") == ACCOUNT && text("authorization").contains("/s3/aws4_request")
}

impl Service {
    fn job(&self, id: &str) -> Option<Job> {
        self.jobs.lock().unwrap().iter().find(|job| job.id == id).cloned()
    }

    fn update(&self, id: &str, change: impl FnOnce(&mut Job)) {
        let mut jobs = self.jobs.lock().unwrap();
        change(jobs.iter_mut().find(|job| job.id == id).unwrap());
    }

    fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Reads the manifest, and does its tasks one after the other.
    async fn work(self, id: String, arn: String, etag: String) {
        let (bucket, key) = arn.strip_prefix("arn:aws:s3:::").unwrap().split_once('/').unwrap();
        let got = self.s3.get_object().bucket(bucket).key(key).send().await.unwrap();
        assert_eq!(got.e_tag().unwrap().trim_matches('"'), etag, "the manifest that was meant");
        let manifest = String::from_utf8(got.body.collect().await.unwrap().to_vec()).unwrap();
        let rows: Vec<Vec<&str>> = manifest.lines().map(|line| line.split(',').collect()).collect();
        self.update(&id, |job| (job.status, job.total) = ("Active".to_owned(), rows.len()));
        for (index, row) in rows.iter().enumerate() {
            let [bucket, key, version] = row[..] else { panic!("three fields: {row:?}") };
            let mut task = json!({"taskId": format!("task-{index}"), "s3Key": key, "s3VersionId": version});
            let mut job = json!({"id": id});
            if self.schema_version == "2.0" {
                task["s3Bucket"] = bucket.into();
                job["userArguments"] = Value::Null;
            } else {
                task["s3BucketArn"] = format!("arn:aws:s3:::{bucket}").into();
            }
            let event = json!({
                "invocationSchemaVersion": self.schema_version,
                "invocationId": format!("invocation-{index}"),
                "job": job,
                "tasks": [task],
            });
            let mut last = (String::new(), String::new());
            for _ in 0..TRIES {
                let answer = self.handler.handle(&event, None).await.unwrap();
                assert_eq!(answer["invocationSchemaVersion"], self.schema_version);
                assert_eq!(answer["invocationId"], event["invocationId"]);
                let [result] = answer["results"].as_array().unwrap().as_slice() else { panic!("{answer}") };
                assert_eq!(result["taskId"], event["tasks"][0]["taskId"]);
                let text = |name: &str| result[name].as_str().unwrap().to_owned();
                last = (text("resultCode"), text("resultString"));
                if last.0 != "TemporaryFailure" {
                    break;
                }
            }
            self.update(&id, |job| {
                if last.0 == "Succeeded" {
                    job.succeeded += 1
                } else {
                    job.failed += 1
                }
                job.results.push((key.to_owned(), last.0, last.1));
            });
        }
        self.update(&id, |job| job.status = "Complete".to_owned());
    }
}

async fn create(State(service): State<Service>, headers: HeaderMap, body: String) -> Response {
    assert!(is_signed(&headers), "{headers:?}");
    service.creations.lock().unwrap().push(body.clone());
    let of = |name: &str| element(&body, name).unwrap_or_default().to_owned();
    let token = of("ClientRequestToken");
    let known = service.jobs.lock().unwrap().iter().find(|job| job.token == token).map(|job| job.id.clone());
    let mood = *service.mood.lock().unwrap();
    let id = known.unwrap_or_else(|| {
        let mut jobs = service.jobs.lock().unwrap();
        let id = format!("00000000-0000-0000-0000-{:012}", jobs.len());
        let (status, reason) = match mood {
            Mood::Fails => ("Failed", "the manifest could not be read"),
            _ => ("New", ""),
        };
        jobs.push(Job {
            id: id.clone(),
            token,
            function: of("FunctionArn"),
            description: of("Description"),
            status: status.to_owned(),
            total: 0,
            succeeded: 0,
            failed: 0,
            reason: reason.to_owned(),
            results: Vec::new(),
        });
        drop(jobs);
        if matches!(mood, Mood::Fine | Mood::LosesFirstAnswer) {
            tokio::spawn(service.clone().work(id.clone(), of("ObjectArn"), of("ETag").replace("&quot;", "")));
        }
        id
    });
    if mood == Mood::LosesFirstAnswer && service.creations.lock().unwrap().len() == 1 {
        return error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            "We encountered an internal error.",
        );
    }
    xml(format!("<CreateJobResult><JobId>{id}</JobId></CreateJobResult>"))
}

fn progress(job: &Job) -> String {
    format!(
        "<ProgressSummary><TotalNumberOfTasks>{}</TotalNumberOfTasks><NumberOfTasksSucceeded>{}</NumberOfTasksSucceeded>\
         <NumberOfTasksFailed>{}</NumberOfTasksFailed></ProgressSummary>",
        job.total, job.succeeded, job.failed
    )
}

async fn list(State(service): State<Service>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let wanted: Vec<&str> =
        query.iter().filter(|(name, _)| name == "jobStatuses").map(|(_, status)| status.as_str()).collect();
    let jobs = service.jobs.lock().unwrap();
    let members = jobs.iter().rev().filter(|job| wanted.contains(&job.status.as_str())).map(|job| {
        format!(
            "<member><JobId>{}</JobId><Description>{}</Description><Operation>LambdaInvoke</Operation>\
             <Priority>0</Priority><Status>{}</Status>{}</member>",
            job.id,
            escaped(&job.description),
            job.status,
            progress(job)
        )
    });
    xml(format!("<ListJobsResult><Jobs>{}</Jobs></ListJobsResult>", members.collect::<String>()))
}

async fn describe(State(service): State<Service>, Path(id): Path<String>) -> Response {
    service.descriptions.fetch_add(1, Ordering::SeqCst);
    let Some(job) = service.job(&id) else {
        return error(StatusCode::NOT_FOUND, "NoSuchJob", "The specified job does not exist.");
    };
    let failure = if job.reason.is_empty() {
        String::new()
    } else {
        format!(
            "<FailureReasons><member><FailureCode>ManifestError</FailureCode><FailureReason>{}</FailureReason></member>\
             </FailureReasons>",
            job.reason
        )
    };
    xml(format!(
        "<DescribeJobResult><Job><JobId>{}</JobId><ConfirmationRequired>false</ConfirmationRequired>\
         <Description>{}</Description><JobArn>arn:aws:s3:us-east-1:{ACCOUNT}:job/{}</JobArn><Status>{}</Status>\
         <Operation><LambdaInvoke><FunctionArn>{}</FunctionArn></LambdaInvoke></Operation><Priority>0</Priority>\
         {}{failure}</Job></DescribeJobResult>",
        job.id,
        escaped(&job.description),
        job.id,
        job.status,
        job.function,
        progress(&job)
    ))
}

async fn update_status(
    State(service): State<Service>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let status = query["requestedJobStatus"].clone();
    service.update(&id, |job| job.status = status.clone());
    xml(format!(
        "<UpdateJobStatusResult><JobId>{id}</JobId><Status>{status}</Status></UpdateJobStatusResult>"
    ))
}

/// A stack of servers without workers, and the service beside it.
struct Cloud {
    stack: RunningStack,
    clients: Clients,
    service: Service,
    control: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Cloud {
    async fn start(schema_version: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stack = RunningStack::start(folder.path(), &["--no-worker"]);
        let clients = stack.clients();
        let config = Config::from_lookup(|name| {
            let value = match name {
                "GIEMSA_STAGE" => "prod",
                "GIEMSA_INPUT_BUCKET" => INPUT_BUCKET,
                "GIEMSA_MODEL_BUCKET" => MODEL_BUCKET,
                "GIEMSA_RESULTS_BUCKET" => RESULTS_BUCKET,
                "GIEMSA_TABLE" => TABLE,
                "GIEMSA_GATE" => "off",
                _ => return None,
            };
            Some(value.to_owned())
        });
        let service = Service {
            handler: Arc::new(Handler::new(Pipeline::new(config.unwrap(), clients.clone()))),
            s3: clients.s3.clone(),
            schema_version,
            mood: Arc::new(Mutex::new(Mood::Fine)),
            jobs: Arc::default(),
            creations: Arc::default(),
            descriptions: Arc::default(),
        };
        let router = Router::new()
            .route("/v20180820/jobs", post(create).get(list))
            .route("/v20180820/jobs/{id}", get(describe))
            .route("/v20180820/jobs/{id}/status", post(update_status))
            .with_state(service.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { stack, clients, service, control, _folder: folder }
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let request = self.clients.s3.put_object().bucket(INPUT_BUCKET).key(key);
        request.body(ByteStream::from(bytes)).send().await.unwrap();
    }

    /// Waits until some command asks again how a job is going.
    fn wait_until_described(&self) {
        let before = self.service.descriptions.load(Ordering::SeqCst);
        wait_for("a question about the job", || {
            (self.service.descriptions.load(Ordering::SeqCst) > before).then_some(())
        });
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = giemsa();
        for name in ["AWS_ENDPOINT_URL", "AWS_PROFILE"] {
            command.env_remove(name);
        }
        command.envs(self.stack.exports());
        command.env("AWS_ENDPOINT_URL_S3_CONTROL", format!("http://{}", self.control));
        command.env("GIEMSA_BATCH_ROLE_ARN", ROLE).env("GIEMSA_BACKFILL_FUNCTION_ARN", FUNCTION);
        command.env("GIEMSA_GATE", "off").arg("backfill").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, arguments: &[&str], code: i32) -> Output {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        output
    }

    async fn run_json(&self, arguments: &[&str], code: i32) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let output = self.run(&arguments, code).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stdout)))
    }

    async fn keys_below(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let listed = self.clients.s3.list_objects_v2().bucket(bucket).prefix(prefix).send().await.unwrap();
        listed.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
    }

    /// Each answered image with the digest of its model, or the code of its rejection.
    async fn answers(&self, keys: &[&str]) -> BTreeMap<String, String> {
        let table = TableReader::new(self.clients.dynamodb.clone(), TABLE);
        let mut answers = BTreeMap::new();
        for key in keys {
            for record in
                table.image(INPUT_BUCKET, key, &giemsa_config::DEFAULT_STAGES).await.unwrap().results
            {
                let answer = record.reject.map_or(record.model.sha256, |reject| reject.code);
                answers.insert((*key).to_owned(), answer);
            }
        }
        answers
    }

    fn jobs(&self) -> Vec<Job> {
        self.service.jobs.lock().unwrap().clone()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Images with all that a key can hold, one that is none, and a folder marker.
const KEYS: [&str; 6] = [
    "s/plain.png",
    "s/with space+plus.png",
    "s/\"quotes\", commas & <signs>.png",
    "s/line\nbreak.png",
    "s/éß漢%20%2B.png",
    "s/no-image.png",
];

async fn upload_all(cloud: &Cloud) {
    for key in KEYS {
        let bytes = if key.contains("no-image") { b"not an image".to_vec() } else { uninfected_cell() };
        cloud.put(key, bytes).await;
    }
    cloud.put("s/", Vec::new()).await;
    cloud.put("elsewhere/1.png", uninfected_cell()).await;
}

async fn a_job_answers_what_has_no_answer(schema_version: &'static str) {
    let cloud = Cloud::start(schema_version).await;
    upload_all(&cloud).await;
    let first = sha256_hex(&giemsa_tests::lab::sample_model());

    // Without consent there is a price, and nothing else.
    let refused = cloud.run(&["--prefix", "s/"], 2).await;
    for part in
        ["6 of 6 images", "by list prices of us-east-1 of 2026-11", "S3 Batch Operations jobs", "10 at once"]
    {
        assert!(text(&refused.stdout).contains(part), "{part:?} is not in {}", text(&refused.stdout));
    }
    let plan = cloud.run_json(&["--prefix", "s/", "--architecture", "x86_64"], 2).await;
    assert_eq!((&plan["way"], &plan["architecture"]), (&"s3_batch".into(), &"x86_64".into()), "{plan}");
    assert!(plan["price"]["total_usd"].as_f64().unwrap() > 0.25, "{plan}");
    assert_eq!(cloud.jobs().len(), 0);
    assert!(cloud.keys_below(RESULTS_BUCKET, BACKFILL_PREFIX).await.is_empty());
    let unfinished = cloud.clients.s3.list_multipart_uploads().bucket(RESULTS_BUCKET).send().await.unwrap();
    assert!(unfinished.uploads().is_empty(), "{unfinished:?}");

    let done = cloud.run_json(&["--prefix", "s/", "--yes"], 0).await;
    assert_eq!(
        (&done["outcome"]["completed"], &done["outcome"]["left"]),
        (&true.into(), &0.into()),
        "{done}"
    );
    let counts = &done["outcome"]["job"];
    assert_eq!(
        (&counts["total"], &counts["succeeded"], &counts["failed"]),
        (&6.into(), &5.into(), &1.into())
    );
    let answers = cloud.answers(&KEYS).await;
    assert_eq!(answers.len(), 6, "{answers:?}");
    for key in KEYS {
        let expected = if key.contains("no-image") { "not_an_image" } else { first.as_str() };
        assert_eq!(answers[key], expected, "{key}");
    }
    assert!(cloud.answers(&["elsewhere/1.png"]).await.is_empty());

    // What the service was told.
    let [job] = &cloud.jobs()[..] else { panic!("one job: {:?}", cloud.jobs()) };
    let creation = cloud.service.creations.lock().unwrap()[0].clone();
    for (name, expected) in [
        ("ConfirmationRequired", "false"),
        ("FunctionArn", FUNCTION),
        ("InvocationSchemaVersion", "2.0"),
        ("Priority", "0"),
        ("RoleArn", ROLE),
        ("ReportScope", "FailedTasksOnly"),
        ("Enabled", "true"),
        ("Description", "giemsa backfill stage=prod bucket=giemsa-input prefix=s/"),
    ] {
        assert_eq!(element(&creation, name), Some(expected), "{name} in {creation}");
    }
    let spec = element(&creation, "Spec").unwrap();
    assert_eq!(element(spec, "Format"), Some("S3BatchOperations_CSV_20180820"));
    for field in ["Bucket", "Key", "VersionId"] {
        assert!(spec.contains(&format!(">{field}</")), "{field} in {spec}");
    }
    let manifests = cloud.keys_below(RESULTS_BUCKET, BACKFILL_PREFIX).await;
    let [manifest] = &manifests[..] else { panic!("one manifest: {manifests:?}") };
    assert_eq!(element(&creation, "ObjectArn"), Some(&*format!("arn:aws:s3:::{RESULTS_BUCKET}/{manifest}")));
    let got = cloud.clients.s3.get_object().bucket(RESULTS_BUCKET).key(manifest).send().await.unwrap();
    let rows = String::from_utf8(got.body.collect().await.unwrap().to_vec()).unwrap();
    let head = cloud.clients.s3.head_object().bucket(INPUT_BUCKET).key("s/plain.png").send().await.unwrap();
    let version = head.version_id().expect("the input bucket keeps versions");
    assert!(rows.contains(&format!("{INPUT_BUCKET},s/plain.png,{version}\n")), "{rows}");
    let report = element(&creation, "Report").unwrap();
    assert_eq!(element(report, "Prefix").unwrap(), manifest.replace("/manifest.csv", "/report"));
    assert_eq!(element(report, "Format"), Some("Report_CSV_20180820"));
    assert_eq!(element(report, "Bucket"), Some(&*format!("arn:aws:s3:::{RESULTS_BUCKET}")));
    assert!(creation.contains("giemsa:stage") && creation.contains("giemsa:backfill"), "{creation}");
    // What each task was answered.
    for (key, code, result) in &job.results {
        if key.contains("no-image") {
            assert_eq!(
                (&**code, result.starts_with("rejected (not_an_image): ")),
                ("PermanentFailure", true),
                "{result}"
            );
        } else {
            assert_eq!((&**code, result.starts_with("uninfected ")), ("Succeeded", true), "{result}");
        }
    }
    // Nothing of it stands among the results, and nothing of it is ever taken for an image.
    let results = cloud.keys_below(RESULTS_BUCKET, "results/").await;
    assert_eq!(results.len(), 6, "{results:?}");
    let mut own =
        giemsa_tests::lab::events::s3_batch_2(&giemsa_tests::lab::events::Upload::new(manifest, "e", 1));
    own["tasks"][0]["s3Bucket"] = RESULTS_BUCKET.into();
    let answer = cloud.service.handler.handle(&own, None).await.unwrap();
    assert_eq!(answer["results"][0]["resultString"], "skipped: own output", "{answer}");

    // The same again finds nothing; what comes later, and what is replaced, is taken alone.
    cloud.run(&["--prefix", "s/", "--yes"], 0).await;
    assert_eq!(cloud.jobs().len(), 1);
    cloud.put("s/later.png", uninfected_cell()).await;
    cloud.put("s/no-image.png", uninfected_cell()).await;
    let done = cloud.run_json(&["--prefix", "s/", "--yes"], 0).await;
    assert_eq!((&done["images"], &done["pending"]), (&7.into(), &2.into()), "{done}");
    assert_eq!(cloud.answers(&["s/no-image.png"]).await["s/no-image.png"], first);

    // Another model answers all of them.
    let second = giemsa_tests::lab::sample_model_with("giemsa.version", "2");
    let sha256 = sha256_hex(&second);
    let request = cloud.clients.s3.put_object().bucket(MODEL_BUCKET).key("prod/model.onnx");
    request.body(ByteStream::from(second)).send().await.unwrap();
    let done = cloud.run_json(&["--prefix", "s/", "--model-digest", &sha256, "--yes"], 0).await;
    assert_eq!((&done["pending"], &done["outcome"]["left"]), (&7.into(), &0.into()), "{done}");
    assert!(cloud.answers(&KEYS).await.values().all(|model| *model == sha256));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_answers_what_has_no_answer_in_schema_2() {
    a_job_answers_what_has_no_answer("2.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_answers_what_has_no_answer_in_schema_1() {
    a_job_answers_what_has_no_answer("1.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_creation_is_tried_twice_is_one() {
    let cloud = Cloud::start("2.0").await;
    cloud.service.set_mood(Mood::LosesFirstAnswer);
    cloud.put("s/1.png", uninfected_cell()).await;
    cloud.run(&["--yes"], 0).await;
    let creations = cloud.service.creations.lock().unwrap().clone();
    assert_eq!(creations.len(), 2);
    let tokens: Vec<&str> =
        creations.iter().map(|body| element(body, "ClientRequestToken").unwrap()).collect();
    assert_eq!((tokens[0], tokens[0].len()), (tokens[1], 64));
    assert_eq!(cloud.jobs().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_its_command_and_is_followed_and_stopped() {
    let cloud = Cloud::start("2.0").await;
    cloud.service.set_mood(Mood::Idle);
    cloud.put("s/1.png", uninfected_cell()).await;
    let mut following = cloud.command(&["--yes"]).spawn().unwrap();
    let pid = following.id();
    wait_for("a job", || (cloud.jobs().len() == 1).then_some(()));
    let job_id = cloud.jobs()[0].id.clone();
    // It has the job's name, and looks at it.
    cloud.wait_until_described();
    send_signal(pid, "INT");
    let status = tokio::task::block_in_place(|| wait_for_exit(&mut following));
    let stderr = following.wait_with_output().unwrap().stderr;
    assert_eq!(status.code(), Some(1), "{}", text(&stderr));
    for part in
        ["continues without this command", &*format!("--follow {job_id}"), &*format!("--stop {job_id}")]
    {
        assert!(text(&stderr).contains(part), "{part:?} is not in {}", text(&stderr));
    }
    assert_eq!(cloud.jobs()[0].status, "New", "the job was left alone");

    // The same command again follows it instead of making a second one, until somebody ends it.
    let mut again = cloud.command(&["--yes"]).spawn().unwrap();
    cloud.wait_until_described();
    let stopped = cloud.run_json(&["--stop"], 0).await;
    assert_eq!(stopped["stopped_job"], *job_id);
    let status = tokio::task::block_in_place(|| wait_for_exit(&mut again));
    let stderr = again.wait_with_output().unwrap().stderr;
    assert_eq!(status.code(), Some(1), "{}", text(&stderr));
    assert!(
        text(&stderr).contains("following it") && text(&stderr).contains("Cancelled"),
        "{}",
        text(&stderr)
    );
    assert_eq!((cloud.jobs().len(), &*cloud.jobs()[0].status), (1, "Cancelled"));
    assert!(cloud.run_json(&["--stop"], 0).await["stopped_job"].is_null());
    cloud.run(&["--follow", &job_id], 1).await;

    // Other jobs of the account are nobody's business.
    cloud.service.update(&job_id, |job| {
        (job.status, job.function) = ("Active".to_owned(), OTHER_FUNCTION.to_owned());
    });
    for flag in ["--stop", "--follow"] {
        let refused = cloud.run(&[flag, &job_id], 1).await;
        assert!(
            text(&refused.stderr).contains("is not a backfill of this stack"),
            "{}",
            text(&refused.stderr)
        );
    }
    cloud.service.update(&job_id, |job| job.description = "a colleague's job".to_owned());
    cloud.service.set_mood(Mood::Fails);
    let failed = cloud.run(&["--yes"], 1).await;
    assert!(
        text(&failed.stderr).contains("ManifestError: the manifest could not be read"),
        "{}",
        text(&failed.stderr)
    );
    cloud.service.set_mood(Mood::Fine);
    let done = tokio::time::timeout(PATIENCE, cloud.run_json(&["--yes"], 0)).await.unwrap();
    assert_eq!(done["outcome"]["left"], 0, "{done}");
    let unknown = cloud.run(&["--follow", "11111111-0000-0000-0000-000000000000"], 1).await;
    assert!(text(&unknown.stderr).contains("does not exist"), "{}", text(&unknown.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_many_parts_is_whole_and_one_that_is_taken_back_is_nothing() {
    let lab = giemsa_tests::lab::Lab::without_model().await;
    let s3 = &lab.clients.s3;
    let upload = |index: usize| Upload {
        key: format!("slides/{index:0>100}.png"),
        version: UploadVersion::Id(format!("version-{index}")),
        etag: "e".to_owned(),
        size_bytes: 1,
        uploaded_at: chrono::DateTime::UNIX_EPOCH,
        is_latest: true,
    };
    let mut kept =
        ManifestWriter::begin(s3.clone(), giemsa_tests::lab::RESULTS, "kept", giemsa_tests::lab::INPUT)
            .await
            .unwrap();
    let mut dropped =
        ManifestWriter::begin(s3.clone(), giemsa_tests::lab::RESULTS, "dropped", giemsa_tests::lab::INPUT)
            .await
            .unwrap();
    let count = 150_000;
    for index in 0..count {
        kept.push(&upload(index)).await.unwrap();
        dropped.push(&upload(index)).await.unwrap();
    }
    dropped.abort().await.unwrap();
    let manifest = kept.finish().await.unwrap();
    assert_eq!(manifest.rows, count as u64);
    assert!(manifest.etag.ends_with("-3"), "parts of 8 MiB: {manifest:?}");
    let listed = s3.list_objects_v2().bucket(giemsa_tests::lab::RESULTS).send().await.unwrap();
    let keys: Vec<&str> = listed.contents().iter().map(|object| object.key().unwrap()).collect();
    assert_eq!(keys, ["backfill/kept/manifest.csv"]);
    let got = s3.get_object().bucket(giemsa_tests::lab::RESULTS).key(keys[0]).send().await.unwrap();
    let text = String::from_utf8(got.body.collect().await.unwrap().to_vec()).unwrap();
    let mut lines = text.lines();
    for index in 0..count {
        let expected = format!("{},slides/{index:0>100}.png,version-{index}", giemsa_tests::lab::INPUT);
        assert_eq!(lines.next(), Some(&*expected));
    }
    assert_eq!(lines.next(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_could_not_answer_is_named_and_taken_again() {
    let cloud = Cloud::start("2.0").await;
    let delete = cloud.clients.s3.delete_object().bucket(MODEL_BUCKET).key("prod/model.onnx");
    delete.send().await.unwrap();
    cloud.put("s/1\u{1b}[31m.png", uninfected_cell()).await;
    let failed = cloud.run(&["--yes"], 1).await;
    assert!(text(&failed.stdout).contains("0 images answered; 1 left."), "{}", text(&failed.stdout));
    let named = "not answered: s/1\u{fffd}[31m.png: no reason was noted";
    assert!(text(&failed.stderr).contains(named), "{}", text(&failed.stderr));
    assert_eq!(cloud.jobs()[0].results[0].1, "TemporaryFailure");

    let request = cloud.clients.s3.put_object().bucket(MODEL_BUCKET).key("prod/model.onnx");
    request.body(ByteStream::from(giemsa_tests::lab::sample_model())).send().await.unwrap();
    assert_eq!(cloud.run_json(&["--yes"], 0).await["outcome"]["left"], 0);
}
