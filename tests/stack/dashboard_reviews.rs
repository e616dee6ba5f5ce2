//! The review queue, verdicts, agreement and golden sets of the dashboard, against the running stack over HTTP.

use std::collections::BTreeMap;
use std::time::Instant;

use giemsa_core::digest::sha256_hex;
use giemsa_image::{Pixels, encode_jpeg};
use giemsa_local::MODEL_BUCKET;
use giemsa_tests::open_page::{PATIENCE, Page, encoded, keys_of, sample};
use rand::{RngCore, SeedableRng};
use serde_json::{Value, json};

/// Noise, which no model has seen: it needs a look.
fn noise(seed: u64) -> Vec<u8> {
    let mut rgb = vec![0; 160 * 120 * 3];
    rand_chacha::ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut rgb);
    encode_jpeg(&Pixels { width_px: 160, height_px: 120, rgb })
}

/// Keys in the review queue of a slide, in its order.
async fn queue(page: &Page, slide: &str) -> Vec<String> {
    let answer = page.get(&format!("/api/review/queue?slide={}", encoded(slide))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let results = answer.json()["results"].as_array().unwrap().clone();
    results.iter().map(|record| record["image"]["key"].as_str().unwrap().to_owned()).collect()
}

fn verdict(record: &Value, action: &str, label: Option<&str>, reviewer: &str) -> Value {
    let mut body = json!({
        "key": record["image"]["key"], "stage": "prod", "result_id": record["result_id"], "action": action,
        "reviewer": reviewer,
    });
    if let Some(label) = label {
        body["label"] = json!(label);
    }
    body
}

/// Waits, because a slide's figure is made anew a moment after its last activity.
async fn corrected(page: &Page, slide: &str, expected: u64) {
    let started = Instant::now();
    loop {
        let answer = page.get(&format!("/api/slide?slide={}", encoded(slide))).await.json();
        if answer["figure"]["corrected"] == expected {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{answer}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_leaves_the_queue_and_comes_back_when_it_is_undone() {
    let page = Page::open().await;
    let mut records = BTreeMap::new();
    for seed in 0..3 {
        let (key, bytes) = (format!("s 1/noise {seed}.jpg"), noise(seed));
        page.upload(&key, &bytes, "image/jpeg").await;
        let record = page.result(&key, &bytes).await;
        assert_eq!(record["needs_review"], true, "{record}");
        records.insert(key, record);
    }
    let before = queue(&page, "s 1").await;
    assert_eq!(before.len(), 3);
    let first = &records[&before[0]];

    let mut confirmed = verdict(first, "confirm", None, " Ada <b>=cmd()</b>\u{202e} ");
    confirmed["note"] = json!("=HYPERLINK(\"http://evil.example\")\n<script>alert(1)</script>");
    let review = page.posted("/api/reviews", &confirmed).await["review"].clone();
    assert_eq!(review["label"], first["label"]);
    assert_eq!((&review["predicted"], &review["model"]), (&first["label"], &first["model"]));
    assert_eq!(
        (&review["reviewer"], &review["note"]),
        (&json!("Ada <b>=cmd()</b>\u{202e}"), &confirmed["note"])
    );
    assert_eq!(queue(&page, "s 1").await, before[1..]);
    let image = page.image(&before[0]).await;
    assert_eq!(image["verdict"]["note"], confirmed["note"]);
    assert_eq!(image["results"][0], *first, "a verdict changes nothing of the prediction");

    let undo = json!({ "key": before[0], "reviewer": "Ada <b>=cmd()</b>\u{202e}" });
    assert_eq!(page.posted("/api/reviews/undo", &undo).await["verdict"], Value::Null);
    assert_eq!(queue(&page, "s 1").await, before);
    let nothing = page.post("/api/reviews/undo", &undo).await;
    assert_eq!(nothing.status, 409, "{}", nothing.text());
    let image = page.image(&before[0]).await;
    assert_eq!((image["verdict"].clone(), image["reviews"].as_array().unwrap().len()), (Value::Null, 2));

    let other = if first["label"] == "parasitized" { "uninfected" } else { "parasitized" };
    page.posted("/api/reviews", &verdict(first, "correct", Some(other), "Ada")).await;
    assert_eq!(page.image(&before[0]).await["verdict"]["label"], other);
    corrected(&page, "s 1", 1).await;
    let cells = page.get("/api/slide/cells?slide=s%201").await.json();
    let cell =
        cells["cells"].as_array().unwrap().iter().find(|cell| cell["key"] == before[0].as_str()).unwrap();
    assert_eq!(cell["verdict"], other);

    // Two reviewers; the queue goes on page by page.
    page.posted("/api/reviews", &verdict(&records[&before[1]], "confirm", None, "Bea")).await;
    assert_eq!(queue(&page, "s 1").await, before[2..]);
    let all = page.get("/api/reviews?limit=2").await.json();
    assert_eq!(all["reviews"][0]["reviewer"], "Bea");
    let next =
        page.get(&format!("/api/reviews?limit=2&cursor={}", all["next"].as_str().unwrap())).await.json();
    assert_eq!((next["reviews"].as_array().unwrap().len(), &next["next"]), (2, &Value::Null));

    let agreement = page.get("/api/agreement").await.json();
    let model = &agreement["models"][0];
    assert_eq!(
        (&model["reviewed"], &model["agreed"], &model["agreement_percent"]),
        (&json!(2), &json!(1), &json!(50.0))
    );
    assert_eq!(model["matrix"][first["label"].as_str().unwrap()][other], 1);
    let interval = model["interval_percent"].as_array().unwrap();
    // Wilson, 1 of 2.
    assert!((interval[0].as_f64().unwrap() - 9.45).abs() < 0.01, "{interval:?}");
    assert!((interval[1].as_f64().unwrap() - 90.55).abs() < 0.01, "{interval:?}");
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_on_another_result_than_the_current_is_refused() {
    let page = Page::open().await;
    let (old, new) = (noise(1), noise(2));
    page.upload("s/a.jpg", &old, "image/jpeg").await;
    let seen = page.result("s/a.jpg", &old).await;
    page.upload("s/a.jpg", &new, "image/jpeg").await;
    let now = page.result("s/a.jpg", &new).await;
    let late = page.post("/api/reviews", &verdict(&seen, "confirm", None, "Ada")).await;
    assert_eq!(late.status, 409);
    assert!(late.text().contains(now["result_id"].as_str().unwrap()), "{}", late.text());
    assert_eq!(page.image("s/a.jpg").await["reviews"], json!([]));

    page.put("s/notes.png", b"no image").await;
    let rejected = page.result("s/notes.png", b"no image").await;
    assert_eq!(rejected["status"], "rejected");
    let wrong = [
        verdict(&rejected, "confirm", None, "Ada"),
        verdict(&now, "correct", None, "Ada"),
        verdict(&now, "correct", Some("parasitised"), "Ada"),
        verdict(&now, "correct", Some("../x"), "Ada"),
        verdict(&now, "confirm", Some("no such label"), "Ada"),
        verdict(&now, "confirm", None, ""),
        verdict(&now, "confirm", None, "a\r\nb"),
        verdict(&now, "undo", None, "Ada"),
    ];
    for body in wrong {
        let answer = page.post("/api/reviews", &body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    let mut of_other_stage = verdict(&now, "confirm", None, "Ada");
    of_other_stage["stage"] = json!("dev");
    assert_eq!(page.post("/api/reviews", &of_other_stage).await.status, 400);
    let mut of_no_image = verdict(&now, "confirm", None, "Ada");
    of_no_image["key"] = json!("s/none.jpg");
    assert_eq!(page.post("/api/reviews", &of_no_image).await.status, 404);
    // A rejected image can be named by what it shows.
    page.posted("/api/reviews", &verdict(&rejected, "correct", Some("uninfected"), "Ada")).await;
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reviewed_images_become_a_golden_set() {
    let page = Page::open().await;
    let s3 = &page.stack.clients.s3;
    let empty = page.post("/api/golden-sets", &json!({})).await;
    assert_eq!(empty.status, 400, "{}", empty.text());
    let images = [
        ("s 1/=cmd()+é %41.png", sample("parasitized"), "parasitized"),
        ("s 1/b.png", sample("uninfected"), "parasitized"),
        ("c.jpg", noise(7), "uninfected"),
    ];
    for (key, bytes, label) in &images {
        page.upload(key, bytes, "").await;
        let record = page.result(key, bytes).await;
        page.posted("/api/reviews", &verdict(&record, "correct", Some(label), "Ada")).await;
    }
    // Taken back, so not in the set.
    let undone = noise(8);
    page.upload("d.jpg", &undone, "").await;
    let record = page.result("d.jpg", &undone).await;
    page.posted("/api/reviews", &verdict(&record, "confirm", None, "Ada")).await;
    page.posted("/api/reviews/undo", &json!({ "key": "d.jpg", "reviewer": "Ada" })).await;
    // Replaced since: what was reviewed is an earlier version.
    page.upload("s 1/b.png", &noise(9), "").await;
    page.result("s 1/b.png", &noise(9)).await;
    let golden = keys_of(&s3.list_objects_v2().bucket(MODEL_BUCKET).prefix("golden/").send().await.unwrap());

    let set = page.posted("/api/golden-sets", &json!({ "name": "first" })).await;
    assert_eq!(
        (&set["prefix"], &set["images"], &set["skipped"]),
        (&json!("golden-sets/first/"), &json!(3), &json!(0))
    );
    assert_eq!(set["labels"], json!({ "parasitized": 2, "uninfected": 1 }));
    let command = "aws s3 sync --delete --exclude gate.json s3://giemsa-models/golden-sets/first/ s3://giemsa-models/golden/";
    assert_eq!(set["command"], command);
    for (key, bytes, label) in &images {
        let copy = s3.get_object().bucket(MODEL_BUCKET).key(format!("golden-sets/first/{label}/{key}"));
        let copy = copy.send().await.unwrap().body.collect().await.unwrap().into_bytes();
        assert_eq!(sha256_hex(&copy), sha256_hex(bytes), "{key}");
    }
    let listed =
        keys_of(&s3.list_objects_v2().bucket(MODEL_BUCKET).prefix("golden-sets/").send().await.unwrap());
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert!(listed.contains(&"golden-sets/first/reviews.json".to_owned()));
    let after = keys_of(&s3.list_objects_v2().bucket(MODEL_BUCKET).prefix("golden/").send().await.unwrap());
    assert_eq!(after, golden, "the set that the gate uses is replaced by a person only");

    let again = page.post("/api/golden-sets", &json!({ "name": "first" })).await;
    assert_eq!(again.status, 409, "{}", again.text());
    for name in ["../golden", "a/b", "", "a b"] {
        assert_eq!(page.post("/api/golden-sets", &json!({ "name": name })).await.status, 400, "{name}");
    }
    let later = page.post("/api/golden-sets", &json!({ "from": "2100-01-01T00:00:00Z" })).await;
    assert_eq!(later.status, 400, "{}", later.text());
    page.close().await;
}
