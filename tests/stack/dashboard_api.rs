//! The query API of a running `giemsa up`: every route, everything that is refused, and pages while uploads land.
//!
//! Asked over real HTTP, as a browser or somebody else would. What is answered is what `docs/openapi.json` says.

use std::collections::BTreeSet;

use aws_sdk_s3::primitives::ByteStream;
use giemsa_local::INPUT_BUCKET;
use giemsa_store::aws::Clients;
use serde_json::{Value, json};

use giemsa_tests::raw_http::{Answer, ask};
use giemsa_tests::running_stack::{RunningStack, project, up, wait_for};

const IMAGE: &str = "slide-002-falciparum/cell-08.png";

/// A slide with what URLs, HTML and shells take for something else.
const HOSTILE_SLIDE: &str = "<script>alert(1)</script> 50%+&?#é/=cmd()";

async fn upload(clients: &Clients, key: &str, sample: &str) {
    let body = ByteStream::from(std::fs::read(project("sample-images").join(sample)).unwrap());
    clients.s3.put_object().bucket(INPUT_BUCKET).key(key).body(body).send().await.unwrap();
}

/// A slide with five images, of which one is rejected.
async fn upload_slide(clients: &Clients) {
    for (i, cell) in ["08", "12", "18", "20"].iter().enumerate() {
        let sample = format!("slide-002-falciparum/cell-{cell}.png");
        upload(clients, &format!("s/a/{}.png", i + 1), &sample).await;
    }
    // A folder as the console makes it is not an image.
    for (key, body) in [("s/a/5.png", &b"no image"[..]), ("s/a/", b"")] {
        let body = ByteStream::from_static(body);
        clients.s3.put_object().bucket(INPUT_BUCKET).key(key).body(body).send().await.unwrap();
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

struct Api {
    origin: String,
}

impl Api {
    fn of(stack: &RunningStack) -> Self {
        Self { origin: format!("http://{}", stack.dashboard_address()) }
    }

    async fn get(&self, path: &str) -> Answer {
        ask("GET", &format!("{}{path}", self.origin), &[], b"").await
    }

    /// What a route answers, held against its schema.
    async fn answer(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        let body = answer.json();
        if let Err(error) = schema_of(path, "200").validate(&body) {
            panic!(
                "{path} answers what docs/openapi.json does not say: {error} at {}",
                error.instance_path()
            );
        }
        body
    }

    /// The problem that a request gets, held against its schema.
    async fn problem(&self, path: &str, status: u16) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        let problem = answer.json();
        assert_eq!((&problem["status"], &problem["type"]), (&json!(status), &json!("about:blank")));
        problem
    }

    /// All entries of a paged list, page by page, with something done between two pages.
    async fn pages(&self, path: &str, list: &str, mut between: impl AsyncFnMut(usize)) -> Vec<Value> {
        let (mut found, mut cursor, mut page) = (Vec::new(), None::<String>, 0);
        loop {
            let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let answer = self.answer(&format!("{path}{after}")).await;
            found.extend(answer[list].as_array().unwrap().clone());
            match answer["next"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return found,
            }
            page += 1;
            assert!(page < 1000, "{path} has no end");
            between(page).await;
        }
    }
}

/// The schema of an answer in `docs/openapi.json`.
fn schema_of(path: &str, status: &str) -> jsonschema::Validator {
    let openapi: Value =
        serde_json::from_str(&std::fs::read_to_string(project("docs/openapi.json")).unwrap()).unwrap();
    let route = path.split('?').next().unwrap();
    let mut schema =
        openapi["paths"][route]["get"]["responses"][status]["content"]["application/json"]["schema"].clone();
    assert!(schema.is_object(), "{route} is not in docs/openapi.json");
    schema["components"] = openapi["components"].clone();
    jsonschema::validator_for(&schema).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_what_was_uploaded() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &[]);
    let (api, clients) = (Api::of(&stack), stack.clients());
    let empty = api.answer("/api/slides").await;
    assert_eq!(empty, json!({ "slides": [], "next": null }));
    upload_slide(&clients).await;
    stack.wait_until_answered();
    upload(&clients, &format!("{HOSTILE_SLIDE}/x.png"), IMAGE).await;
    let hostile = encoded(HOSTILE_SLIDE);
    // Both stages, so that what follows is what stays.
    wait_for("both stages to answer", || {
        let health = stack.get_json("/api/health");
        giemsa_tests::running_stack::depths(&health).filter(|(waiting, _)| *waiting == 0)
    });

    let settings = api.answer("/api/settings").await;
    assert_eq!(settings["stages"], json!(["prod", "dev"]));
    assert_eq!(settings["labels"], json!(["parasitized", "uninfected"]));
    assert_eq!(settings["positive_labels"], json!(["parasitized"]));
    assert!(stack.s3_url().starts_with(settings["s3_origin"].as_str().unwrap()));

    let slides = api.answer("/api/slides?limit=1").await;
    assert_eq!(slides["slides"][0]["slide"], HOSTILE_SLIDE, "the last one that was answered is the first");
    let all = api.pages("/api/slides?limit=1", "slides", async |_| ()).await;
    assert_eq!(
        all.iter().map(|slide| slide["slide"].as_str().unwrap()).collect::<Vec<_>>(),
        [HOSTILE_SLIDE, "s/a"]
    );
    let searched = api.answer("/api/slides?search=S%2FA").await;
    assert_eq!(searched["slides"][0]["slide"], "s/a");
    assert_eq!(searched["slides"].as_array().unwrap().len(), 1);

    let figure = &searched["slides"][0]["figure"];
    assert_eq!(
        (figure["cells"].as_u64().unwrap() + figure["outliers"].as_u64().unwrap(), &figure["rejected"]),
        (4, &json!(1))
    );
    let counted = api.answer(&format!("/api/slides/unanswered?slide=s%2Fa&slide={hostile}&slide=none")).await;
    let counts = json!([
        {"slide": "s/a", "uploads": 5, "unanswered": 0},
        {"slide": HOSTILE_SLIDE, "uploads": 1, "unanswered": 0},
        {"slide": "none", "uploads": 0, "unanswered": 0},
    ]);
    assert_eq!(counted["slides"], counts);
    let slide = api.answer(&format!("/api/slide?slide={hostile}&stage=dev")).await;
    assert_eq!(
        (&slide["slide"], &slide["stage"], &slide["uploads"]),
        (&json!(HOSTILE_SLIDE), &json!("dev"), &json!(1))
    );
    assert_eq!(slide["unanswered_images"], json!([]));
    api.problem("/api/slide?slide=none", 404).await;

    let cells = api.pages("/api/slide/cells?slide=s%2Fa&limit=2", "cells", async |_| ()).await;
    let suspicion: Vec<f64> = cells.iter().map(|cell| cell["suspicion"].as_f64().unwrap()).collect();
    assert!(cells.len() == 5 && suspicion.is_sorted_by(|a, b| a >= b), "{cells:?}");

    let keys = |results: &Value| -> Vec<String> {
        let results = results["results"].as_array().unwrap().iter();
        results.map(|record| record["image"]["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&api.answer("/api/results").await).len(), 6);
    assert_eq!(keys(&api.answer("/api/results?status=rejected").await), ["s/a/5.png"]);
    assert_eq!(
        keys(&api.answer(&format!("/api/results?slide={hostile}")).await),
        [format!("{HOSTILE_SLIDE}/x.png")]
    );
    assert_eq!(
        keys(&api.answer("/api/results?label=parasitized&slide=s%2Fa&order=suspicion").await).len(),
        4
    );
    assert_eq!(keys(&api.answer("/api/results?until=2020-01-01").await).len(), 0);
    let model = stack.model("prod")["model"]["sha256"].as_str().unwrap().to_owned();
    assert_eq!(
        keys(&api.answer(&format!("/api/results?model={model}&from=2020-01-01T00:00:00Z")).await).len(),
        6
    );
    let queue = api.answer("/api/results?needs_review=true&order=suspicion").await;
    assert!(
        queue["results"].as_array().unwrap().iter().all(|record| record["needs_review"] == true),
        "{queue}"
    );

    let key = format!("{HOSTILE_SLIDE}/x.png");
    upload(&clients, &key, "slide-001-healthy/cell-01.png").await;
    wait_for("the second version to be answered", || {
        let image = stack.get_json(&format!("/api/image?key={}", encoded(&key)));
        (image["history"].as_array().unwrap().len() == 4).then_some(())
    });
    let image = api.answer(&format!("/api/image?key={}", encoded(&key))).await;
    assert_eq!(image["results"].as_array().unwrap().len(), 2, "one of each stage");
    let labels: Vec<&str> =
        image["history"].as_array().unwrap().iter().map(|past| past["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["uninfected", "uninfected", "parasitized", "parasitized"], "newest upload first");
    assert_eq!((&image["reviews"], &image["verdict"]), (&json!([]), &Value::Null));
    api.problem("/api/image?key=none.png", 404).await;

    let summary = api.answer("/api/summary").await;
    assert_eq!((summary["days"].as_array().unwrap().len(), &summary["days"][0]["rejected"]), (1, &json!(1)));
    let models = api.answer("/api/models").await;
    assert_eq!(models["reports"][0]["passed"], true);
    let report = api.answer(&format!("/api/models/report?sha256={model}")).await;
    assert_eq!(report["model"]["sha256"], model.as_str());
    api.problem(&format!("/api/models/report?sha256={}", "0".repeat(64)), 404).await;
    let comparison = api.answer("/api/models/compare?days=1").await;
    assert_eq!((&comparison["images"], &comparison["candidate"]["stage"]), (&json!(5), &json!("dev")));
    // Rates may be some seconds old.
    wait_for("the rates to be counted again", || {
        let health = stack.get_json("/api/health");
        (health["stages"][0]["answered_last_hour"] == 6).then_some(())
    });
    let health = api.answer("/api/health").await;
    assert_eq!((&health["unavailable"], &health["gate"]["waiting"]), (&json!([]), &json!(0)));
    assert_eq!(health["stages"][0]["rejected_last_hour"], 1);
    assert!(health["stages"][0]["median_ms"]["infer"].as_f64().unwrap() > 0.0, "{health}");
    assert_eq!(api.answer("/api/openapi.json").await["openapi"], "3.1.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_answered_is_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing has served yet.
    let stack = RunningStack::start_as(up(folder.path(), &["--no-worker"]));
    upload_slide(&stack.clients()).await;
    let api = Api::of(&stack);
    let slide = api.answer("/api/slide?slide=s%2Fa").await;
    assert_eq!(
        (&slide["uploads"], &slide["unanswered"], &slide["last_activity_at"]),
        (&json!(5), &json!(5), &Value::Null)
    );
    let named: Vec<&str> = slide["unanswered_images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["key"].as_str().unwrap())
        .collect();
    assert_eq!(named, ["s/a/1.png", "s/a/2.png", "s/a/3.png", "s/a/4.png", "s/a/5.png"]);
    let image = api.answer("/api/image?key=s%2Fa%2F1.png").await;
    assert_eq!(
        (&image["results"], &image["deep_zoom"]),
        (&json!([]), &Value::Null),
        "it was uploaded, so it is known"
    );
    let health = api.answer("/api/health").await;
    assert_eq!(health["stages"][0]["queue"]["waiting"], 6, "the folder is a message too: {health}");
    assert_eq!(health["stages"][0]["images_per_minute"], Value::Null);
    api.problem("/api/models/compare", 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_with_what_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &["--no-worker"]);
    let api = Api::of(&stack);
    let long = "k".repeat(1025);
    let many = "slide=a&".repeat(26);
    let foreign = {
        let cursor = "MDEyMzQ1Njc4OWFiY2RlZng";
        [format!("/api/slides?cursor={cursor}"), format!("/api/results?cursor={cursor}")]
    };
    let cases = [
        ("/api/slides?stagee=prod", "stagee", "stage, search, limit, cursor"),
        ("/api/slides?stage=Prod", "stage", "prod, dev"),
        ("/api/slides?stage=prod&stage=dev", "stage", "one value"),
        ("/api/slides?limit=0", "limit", "from 1 to 200"),
        ("/api/slides?limit=201", "limit", "from 1 to 200"),
        ("/api/slides?limit=1.5", "limit", "whole number"),
        ("/api/slides?search=%FF", "search", "UTF-8"),
        (&format!("/api/slides?search={}", "x".repeat(201)), "search", "200 characters"),
        ("/api/slides?cursor=%20", "cursor", "not made here"),
        (&foreign[0], "cursor", "other filters"),
        (&foreign[1], "cursor", "other filters"),
        ("/api/slides/unanswered", "slide", "is missing"),
        (&format!("/api/slides/unanswered?{many}"), "slide", "given 26 times; expected 1 to 25 of them"),
        ("/api/slide", "slide", "the folder of the images"),
        (&format!("/api/slide?slide={long}"), "slide", "1024 bytes"),
        ("/api/slide/cells?slide=a&limit=2001", "limit", "from 1 to 2000"),
        ("/api/slide/cells", "slide", "is missing"),
        ("/api/results?status=classifed", "status", "classified, rejected"),
        ("/api/results?order=oldest", "order", "newest, suspicion"),
        ("/api/results?needs_review=1", "needs_review", "true, false"),
        ("/api/results?from=yesterday", "from", "2026-11-22"),
        ("/api/results?from=2026-11-22&until=2026-11-22", "until", "after `from`"),
        ("/api/results?until=1969-12-31", "until", "from 1970"),
        ("/api/results?model=abc", "model", "64 lower-case"),
        ("/api/results?label=", "label", "1 to 256 bytes"),
        ("/api/image", "key", "is missing"),
        ("/api/image?key=", "key", "1 to 1024 bytes"),
        ("/api/image/tile?key=a&level=0&column=0&row=1048577", "row", "from 0 to 1048576"),
        ("/api/reviews?until=2026-11-22&from=2026-11-22", "from", "before `until`"),
        ("/api/review/queue?slide=a&slide=b", "slide", "one value"),
        ("/api/summary?from=2026-11-22&until=2026-11-22", "from", "1 to 366 days"),
        ("/api/summary?from=2020-01-01&until=2026-11-22", "from", "1 to 366 days"),
        ("/api/summary?from=2026-11-22T00:00:00Z", "from", "a date"),
        ("/api/models?stage=prod", "stage", "expected only: none"),
        ("/api/models/report", "sha256", "is missing"),
        (&format!("/api/models/report?sha256={}", "A".repeat(64)), "sha256", "lower-case"),
        ("/api/models/compare?days=0", "days", "from 1 to 366"),
        ("/api/models/compare?candidate=beta", "candidate", "prod, dev"),
        ("/api/models/compare?candidate=prod", "candidate", "another stage"),
        ("/api/health?x", "x", "expected only: none"),
        ("/api/settings?x=1", "x", "expected only: none"),
        ("/api/openapi.json?v=1", "v", "expected only: none"),
    ];
    for (path, parameter, expected) in cases {
        let problem = api.problem(path, 400).await;
        assert_eq!(problem["parameter"], parameter, "{path}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{path}: {detail}");
        assert!(detail.len() < 500, "{path}: {detail}");
    }
    // The order needs a filter, which no single parameter is to blame for.
    let problem = api.problem("/api/results?order=suspicion", 400).await;
    assert!(problem["detail"].as_str().unwrap().contains("needs_review"), "{problem}");
    api.problem("/api/nothing", 404).await;
    for (method, path, allowed) in [("POST", "/api/slides", "GET,HEAD"), ("DELETE", "/api/uploads", "POST")] {
        let answer = ask(method, &format!("{}{path}", api.origin), &[], b"").await;
        assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    let url = format!("{}/api/uploads", api.origin);
    let form = ask("POST", &url, &[("Content-Type", "text/plain")], br#"{"files":[]}"#).await;
    assert_eq!(form.status, 415, "{}", form.text());
    let json_type = ("Content-Type", "application/json");
    for body in ["", "[]", "{\"files\":[],\"more\":1}"] {
        let answer = ask("POST", &url, &[json_type], body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    let long = ask("POST", &url, &[json_type], &vec![b' '; 300 << 10]).await;
    assert_eq!(long.status, 413, "{}", long.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_get_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &["--no-worker"]);
    let api = Api::of(&stack);
    let address = stack.dashboard_address();
    let port = address.rsplit(':').next().unwrap();
    let (named, foreign_port) =
        (format!("localhost:{port}"), format!("http://127.0.0.1:{}", port.parse::<u16>().unwrap() ^ 1));
    let refused: [(&[(&str, &str)], u16); 7] = [
        (&[("Host", "evil.example")], 421),
        (&[("Host", &format!("evil.example:{port}"))], 421),
        (&[("Origin", "https://evil.example")], 403),
        (&[("Origin", "null")], 403),
        (&[("Origin", &foreign_port)], 403),
        (&[("Sec-Fetch-Site", "cross-site")], 403),
        (&[("Sec-Fetch-Site", "same-site")], 403),
    ];
    for (headers, status) in refused {
        for (method, path) in
            [("GET", "/api/slides"), ("GET", "/api/health"), ("POST", "/api/uploads"), ("GET", "/")]
        {
            let answer = ask(method, &format!("{}{path}", api.origin), headers, b"").await;
            assert_eq!(answer.status, status, "{method} {path} {headers:?}: {}", answer.text());
            assert_eq!(answer.header("access-control-allow-origin"), "");
        }
    }
    for headers in [&[("Host", &*named)][..], &[("Origin", &*api.origin), ("Sec-Fetch-Site", "same-origin")]]
    {
        let answer = ask("GET", &format!("{}/api/slides", api.origin), headers, b"").await;
        assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
    }
    for path in ["/api/settings", "/api/nothing", "/"] {
        let answer = api.get(path).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin", "{path}");
    }
    assert_eq!(api.get("/api/settings").await.header("cache-control"), "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_polls_is_told_that_nothing_changed() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &["--no-worker"]);
    let (api, clients) = (Api::of(&stack), stack.clients());
    upload(&clients, "s/1.png", IMAGE).await;
    for path in ["/api/slides", "/api/slide?slide=s", "/api/slide/cells?slide=s"] {
        let first = api.get(path).await;
        let url = format!("{}{path}", api.origin);
        let known = [("If-None-Match", first.header("etag"))];
        let again = ask("GET", &url, &known, b"").await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(again.header("etag"), first.header("etag"));
        let other = ask("GET", &url, &[("If-None-Match", "\"other\"")], b"").await;
        assert_eq!((other.status, &other.body), (200, &first.body), "{path}");
    }
    let first = api.get("/api/slide?slide=s").await;
    upload(&clients, "s/2.png", IMAGE).await;
    let known = [("If-None-Match", first.header("etag"))];
    let changed = ask("GET", &format!("{}/api/slide?slide=s", api.origin), &known, b"").await;
    assert_eq!((changed.status, &changed.json()["uploads"]), (200, &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_stable_while_uploads_land() {
    let folder = tempfile::tempdir().unwrap();
    let stack = RunningStack::start(folder.path(), &[]);
    let (api, clients) = (Api::of(&stack), stack.clients());
    for i in 0..20 {
        upload(&clients, &format!("before/{i:02}.png"), IMAGE).await;
    }
    stack.wait_until_answered();
    let before: BTreeSet<String> = (0..20).map(|i| format!("before/{i:02}.png")).collect();
    let mut landed = 0;
    for (path, list) in [
        ("/api/results?limit=3", "results"),
        ("/api/results?limit=3&label=parasitized", "results"),
        ("/api/results?limit=3&slide=before&order=suspicion", "results"),
        ("/api/slide/cells?limit=3&slide=before", "cells"),
    ] {
        let found = api
            .pages(path, list, async |_| {
                landed += 1;
                // Into the same slide and label, before and after the page by key and by suspicion.
                let slide = if landed % 2 == 0 { "before" } else { "after" };
                upload(&clients, &format!("{slide}/new-{landed:03}.png"), IMAGE).await;
            })
            .await;
        let key =
            |entry: &Value| entry["image"]["key"].as_str().or(entry["key"].as_str()).unwrap().to_owned();
        let keys: Vec<String> = found.iter().map(key).collect();
        let distinct: BTreeSet<String> = keys.iter().cloned().collect();
        assert_eq!(distinct.len(), keys.len(), "{path} repeats: {keys:?}");
        let missing: Vec<_> = before.difference(&distinct).collect();
        assert!(missing.is_empty(), "{path} leaves out {missing:?}");
    }
    assert!(landed > 20, "{landed}");
}
