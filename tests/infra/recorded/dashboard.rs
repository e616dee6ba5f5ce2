//! The life of the dashboard: every operation of its API, and what browsers do with its links.
//!
//! It never counts an operation that failed. An operation that `docs/openapi.json` names and that was not answered with
//! success fails the test.

use std::collections::BTreeSet;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::classifiers::Classifier;
use super::cloud::{Cloud, Function};
use giemsa_tests::lab::file;
use giemsa_tests::raw_http::ask;

const HOST: &str = "api-id.execute-api.eu-central-1.amazonaws.com";

/// The dashboard, and which operations it has answered.
struct Page {
    function: Function,
    done: BTreeSet<(String, String)>,
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// What API Gateway sends of an HTTP API, format 2.0, of somebody who has signed in.
fn event(method: &str, path: &str, query: &str, body: Option<&Value>) -> Value {
    let claims =
        json!({ "iss": "https://id.example", "sub": "1f0c", "name": "Ada", "email": "ada@lab.example" });
    json!({
        "version": "2.0",
        "routeKey": format!("{method} /api/{{proxy+}}"),
        "rawPath": path,
        "rawQueryString": query,
        "headers": {
            "host": HOST, "content-type": "application/json",
            "sec-fetch-site": "same-origin", "origin": format!("https://{HOST}"),
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api-id",
            "authorizer": { "jwt": { "claims": claims, "scopes": null } },
            "domainName": HOST,
            "domainPrefix": "api-id",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "x"},
            "requestId": "request-1",
            "routeKey": format!("{method} /api/{{proxy+}}"),
            "stage": "$default",
            "time": "22/Nov/2026:10:00:00 +0000",
            "timeEpoch": 1_795_341_600_000_i64,
        },
        "body": body.map(Value::to_string),
        "isBase64Encoded": false,
    })
}

impl Page {
    async fn ask(&mut self, method: &str, path: &str, query: &str, body: Option<Value>) -> (u64, Value) {
        let answer = self.function.invoke(&event(method, path, query, body.as_ref())).await;
        let status = answer["statusCode"].as_u64().unwrap();
        if status < 300 {
            self.done.insert((method.to_owned(), path.to_owned()));
        }
        let body = answer["body"].as_str().unwrap_or_default();
        (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
    }

    async fn get(&mut self, path: &str, query: &str) -> Value {
        let (status, body) = self.ask("GET", path, query, None).await;
        assert_eq!(status, 200, "{path}?{query}: {body}\n{}", self.function.log());
        body
    }

    async fn post(&mut self, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask("POST", path, "", Some(body)).await;
        assert!(status < 300, "{path}: {status} {answer}\n{}", self.function.log());
        answer
    }

    async fn missing(&mut self, path: &str, query: &str) {
        let (status, body) = self.ask("GET", path, query, None).await;
        assert_eq!(status, 404, "{path}?{query}: {body}");
    }

    async fn look(&mut self, folder: &str) {
        let slide = format!("slide={}", encoded(folder));
        let key = format!("key={}", encoded(&format!("{folder}/twice.png")));
        self.get("/api/settings", "").await;
        self.get("/api/openapi.json", "").await;
        let health = self.get("/api/health", "").await;
        assert_eq!(health["unavailable"], json!([]), "{health}");
        assert_eq!(health["stages"][1]["queue"]["waiting"], 0, "{health}");
        let models = self.get("/api/models", "").await;
        let sha256 = format!("sha256={}", models["stages"][0]["model"]["sha256"].as_str().unwrap());
        self.get("/api/models/report", &sha256).await;
        self.missing("/api/models/report", &format!("sha256={}", "0".repeat(64))).await;
        self.get("/api/models/compare", "").await;
        for stage in ["stage=prod", "stage=dev"] {
            self.get("/api/slides", stage).await;
            self.get("/api/summary", stage).await;
            self.get("/api/review/queue", stage).await;
        }
        self.get("/api/slides/unanswered", &slide).await;
        self.get("/api/slide", &slide).await;
        self.get("/api/slide/cells", &slide).await;
        let model = format!("model={}", sha256.trim_start_matches("sha256="));
        for filter in ["", "label=uninfected", "status=rejected", &model, "needs_review=true", &slide] {
            let results = self.get("/api/results", filter).await;
            assert_ne!(results["results"], json!([]), "{filter}");
        }
        self.get("/api/results", &format!("{slide}&order=suspicion")).await;
        let image = self.get("/api/image", &key).await;
        assert_eq!(image["history"].as_array().map(Vec::len), Some(3), "two uploads, two stages: {image}");
        self.missing("/api/image", "key=none.png").await;
        let tile = format!("key={}&level=0&column=0&row=0", encoded(&format!("{folder}/blank.png")));
        self.get("/api/image/tile", &tile).await;
    }

    async fn upload(&mut self) {
        let image = file("sample-images/slide-003-mixed-forms/cell-06.bmp");
        let large = vec![7; (8 << 20) + 1];
        let wanted =
            |name: &str, bytes: &[u8]| json!({ "name": name, "size_bytes": bytes.len(), "content_type": "" });
        let files = json!({ "files": [wanted("up/a.bmp", &image), wanted("up/b.bmp", &large), wanted("up/c.bmp", &large)] });
        let signed = self.post("/api/uploads", files).await["uploads"].clone();
        assert_eq!(send("PUT", &signed[0], &image).await.0, 200);
        let open = |upload: &Value| json!({ "key": upload["key"], "upload_id": upload["upload_id"] });
        let with_parts = |parts: Value| {
            let mut request = open(&signed[1]);
            request["parts"] = parts;
            request
        };
        let fresh = self.post("/api/uploads/parts", with_parts(json!([1, 2]))).await["parts"].clone();
        let mut done = Vec::new();
        for (index, part) in large.chunks(8 << 20).enumerate() {
            let (status, etag) = send("PUT", &fresh[index], part).await;
            assert_eq!(status, 200);
            done.push(json!({ "number": index + 1, "etag": etag }));
        }
        for _ in 0..2 {
            self.post("/api/uploads/complete", with_parts(json!(done))).await;
        }
        self.post("/api/uploads/abort", open(&signed[2])).await;
    }

    async fn follow_links(&mut self, cloud: &Cloud, folder: &str) {
        let photo = file("sample-images/not-a-cell/cat.png");
        let mut wide = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(400, 20).write_to(&mut wide, image::ImageFormat::Png).unwrap();
        let (_, version_id) = cloud.upload("wide.png", wide.into_inner()).await;
        cloud.upload("photo.png", photo).await;
        let images = json!([
            { "key": format!("{folder}/blank.png") },
            { "key": "wide.png", "version_id": version_id },
            { "key": "photo.png" },
        ]);
        for kind in ["image", "thumbnail"] {
            let links =
                self.post("/api/links", json!({ "images": images, "kind": kind })).await["links"].clone();
            for link in links.as_array().unwrap() {
                assert_eq!(send("GET", link, &[]).await.0, 200, "{link}");
            }
        }
        let none = json!({ "images": [{ "key": "none.png" }], "kind": "image" });
        let none = self.post("/api/links", none).await;
        assert!(none["links"][0]["problem"].is_object(), "{none}");
    }

    async fn review(&mut self, cloud: &Cloud, classifier: &mut Classifier) {
        let key = format!("{}/blank.png", classifier.function.name);
        let image = self.get("/api/image", &format!("key={}", encoded(&key))).await;
        let results = image["results"].as_array().unwrap();
        let of_production = results.iter().find(|record| record["stage"] == "prod").unwrap();
        let result_id = of_production["result_id"].clone();
        let review = json!({
            "key": key, "stage": "prod", "result_id": result_id,
            "action": "correct", "label": "uninfected", "reviewer": "Ada",
        });
        self.post("/api/reviews", review.clone()).await;
        self.post("/api/reviews/undo", json!({ "key": key, "reviewer": "Ada" })).await;
        self.post("/api/reviews", review).await;
        // A second delivery puts it into the queue again, which whoever looks there next puts right.
        classifier.answer(cloud, &key).await;
        let queue = self.get("/api/review/queue", "stage=prod").await;
        let queued = queue["results"].as_array().unwrap().iter().any(|record| record["image"]["key"] == key);
        assert!(!queued, "{queue}");
        let withdrawal = json!({
            "key": key, "stage": "prod", "result_id": result_id, "reason": "moved", "reviewer": "Ada",
        });
        self.post("/api/withdrawals", withdrawal).await;
        // Of the withdrawn image as well, which so stays withdrawn.
        classifier.answer(cloud, &key).await;
        let withdrawn = self.get("/api/results", "withdrawn=true").await;
        assert_eq!(withdrawn["results"][0]["image"]["key"], key.as_str(), "{withdrawn}");
        let slide = format!("slide={}", encoded(&classifier.function.name));
        let figure = self.get("/api/slide", &slide).await["figure"].clone();
        assert_eq!(figure["withdrawn"], 1, "{figure}");
        let restoration = json!({ "key": key, "reason": "moved back", "reviewer": "Ada" });
        self.post("/api/withdrawals/restore", restoration).await;
        self.get("/api/reviews", "").await;
        self.get("/api/agreement", "stage=prod").await;
        let set = self.post("/api/golden-sets", json!({ "name": "reviewed" })).await;
        assert_eq!((&set["images"], &set["skipped"]), (&json!(1), &json!(0)), "{set}");
    }
}

/// Sends what a signed link is for, as a browser does, and returns the status and the ETag.
async fn send(method: &str, link: &Value, body: &[u8]) -> (u16, String) {
    let url = link["url"].as_str().unwrap_or_else(|| panic!("{link} has no URL"));
    let headers = link["headers"].as_object().into_iter().flatten();
    let headers: Vec<(&str, &str)> =
        headers.map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
    let answer = ask(method, url, &headers, body).await;
    (answer.status, answer.header("etag").to_owned())
}

/// Asks all that the dashboard answers, after both classifiers have answered images.
pub async fn live(cloud: &Cloud, production: &mut Classifier, development: &mut Classifier) -> Function {
    let mut page = Page { function: Function::start(cloud, "Dashboard").await, done: BTreeSet::new() };
    let folder = production.function.name.clone();
    for image in ["blank.png", "twice.png"] {
        development.answer(cloud, &format!("{folder}/{image}")).await;
    }
    page.look(&folder).await;
    page.upload().await;
    page.follow_links(cloud, &folder).await;
    page.review(cloud, production).await;

    let api: Value = serde_json::from_slice(&file("docs/openapi.json")).unwrap();
    let operations = api["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        methods.map(move |method| (method.to_uppercase(), path.clone()))
    });
    let left: Vec<_> = operations.filter(|operation| !page.done.contains(operation)).collect();
    assert!(left.is_empty(), "operations that nothing here asks for: {left:?}");
    page.function
}
