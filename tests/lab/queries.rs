//! Every question of the design is answered by keys, in the promised order.

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, Duration, TimeZone, Utc};
use giemsa_core::object::ObjectRef;
use giemsa_core::record::{Decision, Finding, ImageInfo, ModelInfo, Record, Reject};
use giemsa_core::slide::SlideFigure;
use giemsa_model::Model;
use giemsa_store::{LabelOrRejected, LabelQuery, LedgerEntry, ResultQuery, TableWriter, make_current};
use giemsa_tests::lab::Lab;

fn noon() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 22, 12, 0, 0).unwrap()
}

fn record(model: &Model, key: &str, at: DateTime<Utc>, parasitized: Option<f64>) -> Record {
    let mut image = ImageInfo::of_object(&ObjectRef::new(giemsa_tests::lab::INPUT, key));
    image.etag = Some(format!("etag of {key} {at}"));
    image.uploaded_at = Some(at);
    let finding = match parasitized {
        None => Finding::Rejected(Reject { code: "corrupt".into(), message: "cut off".into() }),
        Some(p) => {
            let positive = p >= 0.5;
            Finding::Classified(Decision {
                label: if positive { "parasitized" } else { "uninfected" }.to_owned(),
                confidence: p.max(1.0 - p),
                probabilities: [("parasitized".to_owned(), p), ("uninfected".to_owned(), 1.0 - p)].into(),
                positive: Some(positive),
                outlier_score: None,
                outlier: None,
                review_reason: (0.1..0.9).contains(&p).then(|| "unsure".to_owned()),
            })
        }
    };
    Record::new(image, "prod", model.info(), finding)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_question_is_answered_in_its_order() {
    let lab = Lab::start().await;
    let model = Model::load(&giemsa_tests::lab::sample_model()).unwrap();
    let table = TableWriter::new(lab.clients.dynamodb.clone(), giemsa_tests::lab::TABLE);
    let reader = lab.table();
    // 60 cells on one slide over three days, so that shards and days both matter.
    for i in 0..60_u32 {
        let at = noon() - Duration::hours(i64::from(i));
        let parasitized = if i % 7 == 0 { None } else { Some(f64::from(i) / 60.0) };
        let record = record(&model, &format!("slide a/{i:02}.png"), at, parasitized);
        assert!(make_current(&lab.clients.s3, &table, &record, None).await.unwrap());
    }
    let other = record(&model, "slide b/0.png", noon(), Some(0.99));
    make_current(&lab.clients.s3, &table, &other, None).await.unwrap();

    // A slide, in order, by pages and whole, and its figure.
    let whole = reader.whole_slide("prod", "slide a").await.unwrap();
    let keys: Vec<&str> = whole.iter().map(|r| r.image.key.as_str()).collect();
    assert_eq!(keys, (0..60).map(|i| format!("slide a/{i:02}.png")).collect::<Vec<_>>());
    let (mut paged, mut cursor) = (Vec::new(), None);
    loop {
        let page = reader.slide("prod", "slide a", cursor, 7).await.unwrap();
        assert!(page.records.len() <= 7);
        paged.extend(page.records);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, whole);
    let figure = SlideFigure::of(&whole);
    assert_eq!((figure.cells, figure.rejected, figure.positives), (51, 9, 26));
    assert!(reader.whole_slide("prod", "slide").await.unwrap().is_empty());
    assert!(reader.whole_slide("dev", "slide a").await.unwrap().is_empty());

    // A label or status in a time range, newest first, end exclusive.
    let query = |which: LabelOrRejected, hours: i64, limit: usize| LabelQuery {
        stage: "prod".into(),
        which,
        from: noon() - Duration::hours(hours),
        until: noon(),
        limit,
    };
    let rejected = reader.by_label(&query(LabelOrRejected::Rejected, 30, 100)).await.unwrap();
    let keys: Vec<&str> = rejected.iter().map(|r| r.image.key.as_str()).collect();
    assert_eq!(keys, ["slide a/07.png", "slide a/14.png", "slide a/21.png", "slide a/28.png"]);
    let label = LabelOrRejected::Label("parasitized".into());
    let newest = reader.by_label(&query(label, 100, 3)).await.unwrap();
    let keys: Vec<&str> = newest.iter().map(|r| r.image.key.as_str()).collect();
    assert_eq!(keys, ["slide a/30.png", "slide a/31.png", "slide a/32.png"]);

    // What needs a human look, most suspicious first; what does not is not there.
    let queue = reader.review_queue("prod", 1000).await.unwrap();
    let expected = whole.iter().filter(|r| r.needs_review).count();
    assert_eq!(queue.len(), expected);
    assert!(queue.windows(2).all(|pair| pair[0].suspicion() >= pair[1].suspicion()));
    assert_eq!(queue[0].image.key, "slide a/53.png");
    assert_eq!(reader.review_queue("prod", 2).await.unwrap(), queue[..2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_says_which_model_served_when() {
    let lab = Lab::start().await;
    let table = TableWriter::new(lab.clients.dynamodb.clone(), giemsa_tests::lab::TABLE);
    let entry = |hours: i64, version: &str| LedgerEntry {
        stage: "prod".into(),
        released_at: noon() + Duration::hours(hours),
        model: ModelInfo { name: "m".into(), version: version.into(), sha256: version.repeat(64) },
    };
    for (hours, version) in [(0, "1"), (2, "2"), (5, "1")] {
        // Many functions write the same entry.
        table.put_ledger(&entry(hours, version)).await.unwrap();
        table.put_ledger(&entry(hours, version)).await.unwrap();
    }
    let reader = lab.table();
    for (minutes, expected) in
        [(-1, None), (0, Some("1")), (119, Some("1")), (120, Some("2")), (299, Some("2")), (301, Some("1"))]
    {
        let at = noon() + Duration::minutes(minutes);
        let found = reader.model_at("prod", at).await.unwrap();
        assert_eq!(found.map(|e| e.model.version).as_deref(), expected, "{minutes} minutes after noon");
    }
    assert_eq!(reader.model_at("dev", noon()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_a_model_writes_the_ledger() {
    let lab = Lab::start().await;
    let cell = giemsa_tests::lab::uninfected_cell();
    let etag = lab.put("s/c.png", &cell).await;
    let upload = giemsa_tests::lab::events::Upload::new("s/c.png", &etag, cell.len());
    lab.handler().handle(&giemsa_tests::lab::events::s3(&upload), None).await.unwrap();
    let entry = lab.table().model_at("prod", Utc::now()).await.unwrap().unwrap();
    assert_eq!(entry.model, lab.result("s/c.png").await.unwrap().model);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_answered_anew_while_a_list_is_read_is_on_it_once() {
    let lab = Lab::start().await;
    let model = Model::load(&giemsa_tests::lab::sample_model()).unwrap();
    let table = TableWriter::new(lab.clients.dynamodb.clone(), giemsa_tests::lab::TABLE);
    let current = record(&model, "s/a.png", noon(), Some(0.99));
    assert!(make_current(&lab.clients.s3, &table, &current, None).await.unwrap());
    // An index row of its earlier result is still there, before or after that of the present one.
    let scanned = lab.clients.dynamodb.scan().table_name(giemsa_tests::lab::TABLE).send().await.unwrap();
    let item = scanned.items().iter().find(|item| item.contains_key("result_id")).unwrap();
    for earlier in ["0".repeat(64), "f".repeat(64)].map(|id| id[..current.result_id.len()].to_owned()) {
        let mut stale = item.clone();
        for value in stale.values_mut() {
            if let AttributeValue::S(text) = value {
                *text = text.replace(&current.result_id, &earlier);
            }
        }
        stale.insert("sk".to_owned(), AttributeValue::S(format!("earlier {earlier}")));
        let put = lab.clients.dynamodb.put_item().table_name(giemsa_tests::lab::TABLE);
        put.set_item(Some(stale)).send().await.unwrap();
    }
    let query = ResultQuery { slide: Some("s".to_owned()), ..ResultQuery::of_stage("prod") };
    let page = lab.table().results(&query, None).await.unwrap();
    let found: Vec<&str> = page.results.iter().map(|record| record.result_id.as_str()).collect();
    assert_eq!(found, [&current.result_id]);
}
