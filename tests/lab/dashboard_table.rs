//! What the dashboard asks of the table equals what counting by hand finds, also while results arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, NaiveDate, TimeDelta, TimeZone, Utc};
use giemsa_config::DEFAULT_STAGES;
use giemsa_core::digest::short_id;
use giemsa_core::object::ObjectRef;
use giemsa_core::record::{Decision, Finding, ImageInfo, Record, Reject, Status};
use giemsa_core::slide::SlideFigure;
use giemsa_model::Model;
use giemsa_store::{
    LedgerEntry, NotedUpload, Order, QueryError, ResultQuery, Review, ReviewAction, Reviewer, StoreError,
    TableReader, TableWriter, make_current, upload_day,
};
use giemsa_tests::lab::events::{self, Upload};
use giemsa_tests::lab::faults::{Fault, faulty};
use giemsa_tests::lab::{INPUT, Lab, TABLE, uninfected_cell};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

fn noon() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 22, 12, 0, 0).unwrap()
}

fn model() -> &'static Model {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| Model::load(&giemsa_tests::lab::sample_model()).unwrap())
}

/// A result of the `n`th upload: what it is follows from `n`, so that every filter has some.
fn result(n: usize) -> Record {
    let slide = ["slide a", "slide b/1", ""][n % 3];
    let key = if slide.is_empty() { format!("{n:04}.png") } else { format!("{slide}/{n:04}.png") };
    let uploaded_at = (n % 17 != 16).then(|| noon() - TimeDelta::minutes(47 * n as i64));
    let parasitized = (n % 7 != 6).then(|| (n * 37 % 101) as f64 / 100.0);
    of(&key, uploaded_at, parasitized, n % 5 == 4, n % 4 == 3)
}

fn of(
    key: &str,
    uploaded_at: Option<DateTime<Utc>>,
    parasitized: Option<f64>,
    is_outlier: bool,
    is_other_model: bool,
) -> Record {
    let mut image = ImageInfo::of_object(&ObjectRef::new(INPUT, key));
    image.etag = Some(format!("etag of {key} {uploaded_at:?}"));
    image.uploaded_at = uploaded_at;
    let finding = match parasitized {
        None => Finding::Rejected(Reject { code: "corrupt".into(), message: "cut off".into() }),
        Some(p) => {
            let is_positive = p >= 0.5;
            let is_unsure = (0.1..0.9).contains(&p);
            Finding::Classified(Decision {
                label: if is_positive { "parasitized" } else { "uninfected" }.to_owned(),
                confidence: p.max(1.0 - p),
                probabilities: [("parasitized".to_owned(), p), ("uninfected".to_owned(), 1.0 - p)].into(),
                positive: Some(is_positive),
                outlier_score: Some(0.5),
                outlier: Some(is_outlier),
                review_reason: (is_unsure || is_outlier).then(|| "unsure".to_owned()),
            })
        }
    };
    let mut record = Record::new(image, "prod", model().info(), finding);
    if is_other_model {
        record.model.sha256 = "b".repeat(64);
        record.result_id = short_id(&[INPUT, key, record.image.object_version(), &record.model.sha256]);
    }
    record
}

struct Table<'a> {
    lab: &'a Lab,
    writer: TableWriter,
    reader: TableReader,
}

impl<'a> Table<'a> {
    fn of(lab: &'a Lab) -> Self {
        Self { lab, writer: TableWriter::new(lab.clients.dynamodb.clone(), TABLE), reader: lab.table() }
    }

    /// As a batch of one does it.
    async fn store(&self, record: &Record) {
        self.store_at(record, Utc::now()).await;
    }

    async fn store_at(&self, record: &Record, now: DateTime<Utc>) {
        assert!(make_current(&self.lab.clients.s3, &self.writer, record, None).await.unwrap());
        self.writer.invalidate_slide(&record.stage, &record.slide, now).await.unwrap();
        self.writer.invalidate_day(&record.stage, &upload_day(record), now).await.unwrap();
    }

    /// All pages of a query, with what `between` does after each.
    async fn all(&self, query: &ResultQuery, mut between: impl AsyncFnMut(usize)) -> Vec<Record> {
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = self.reader.results(query, after.as_deref()).await.unwrap();
            assert!(page.results.len() <= query.limit);
            found.extend(page.results);
            after = page.next;
            if after.is_none() {
                return found;
            }
            pages += 1;
            assert!(pages < 1_000, "pages without end");
            between(pages).await;
        }
    }

    /// All items, by their keys.
    async fn items(&self, table: &str) -> BTreeMap<(String, String), Value> {
        let scanned = self.lab.clients.dynamodb.scan().table_name(table).into_paginator().items().send();
        let items: Vec<_> = scanned.collect::<Result<_, _>>().await.unwrap();
        let items = items.into_iter().map(|item| {
            let item: Value = serde_dynamo::from_item(item).unwrap();
            let text = |name: &str| item[name].as_str().unwrap().to_owned();
            ((text("pk"), text("sk")), item.clone())
        });
        items.collect()
    }
}

fn fits(query: &ResultQuery, record: &Record) -> bool {
    let at = record.image.uploaded_at;
    query.slide.as_ref().is_none_or(|slide| record.slide == *slide)
        && query.label.as_ref().is_none_or(|label| record.label.as_ref() == Some(label))
        && query.status.is_none_or(|status| record.status == status)
        && query.model_sha256.as_ref().is_none_or(|sha256| record.model.sha256 == *sha256)
        && query.needs_review.is_none_or(|wanted| record.needs_review == wanted)
        && query.from.is_none_or(|from| at.is_some_and(|at| at >= from))
        && query.until.is_none_or(|until| at.is_some_and(|at| at < until))
}

fn suspicion(record: &Record) -> f64 {
    if record.status == Status::Rejected { 0.5 } else { record.suspicion() }
}

fn ids(records: &[Record]) -> BTreeSet<&str> {
    records.iter().map(|record| record.result_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_finds_exactly_what_fits_while_results_arrive() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    let mut there: Vec<Record> = (0..120).map(result).collect();
    for record in &there {
        table.store(record).await;
    }
    // Another stage has the same images, and never shows.
    for record in &there[..10] {
        table.store(&Record { stage: "dev".into(), ..record.clone() }).await;
    }
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let arrived = AtomicUsize::new(0);
    let mut asked = 0;
    for _ in 0..40 {
        let mut some = |of: usize| random.random_range(0..of);
        let query = ResultQuery {
            slide: ["slide a", "slide b/1", "", "slide c"].get(some(8)).map(|slide| (*slide).to_owned()),
            label: ["parasitized", "uninfected"].get(some(5)).map(|label| (*label).to_owned()),
            status: [Status::Classified, Status::Rejected].get(some(5)).copied(),
            model_sha256: [model().sha256.clone(), "b".repeat(64)].get(some(5)).cloned(),
            needs_review: [true, false].get(some(5)).copied(),
            from: (some(3) == 0).then(|| noon() - TimeDelta::hours(some(60) as i64 + 30)),
            until: (some(3) == 0).then(|| noon() - TimeDelta::hours(some(30) as i64)),
            order: [Order::Newest, Order::Suspicion][some(2)],
            limit: [1, 7, 50, 200][some(4)],
            ..ResultQuery::of_stage("prod")
        };
        let before: Vec<Record> = there.iter().filter(|record| fits(&query, record)).cloned().collect();
        if query.order == Order::Suspicion && query.slide.is_none() && query.needs_review != Some(true) {
            let is_empty = query.label.is_some() && query.status == Some(Status::Rejected);
            let answer = table.reader.results(&query, None).await;
            assert!(is_empty || matches!(answer, Err(QueryError::Unsupported { .. })), "{query:?}");
            continue;
        }
        let mut new = Vec::new();
        let found = table
            .all(&query, async |page| {
                // Newer than all, of all kinds, in the middle of reading.
                if page % 4 == 1 && new.len() < 3 {
                    let number = arrived.fetch_add(1, Ordering::SeqCst);
                    let mut record = result(number * 2);
                    record = of(
                        &format!("{}/new {number}.png", ["slide a", "slide b/1"][number % 2]),
                        Some(noon() + TimeDelta::minutes(number as i64)),
                        record.probabilities.map(|p| p["parasitized"]),
                        false,
                        false,
                    );
                    table.store(&record).await;
                    new.push(record);
                }
            })
            .await;
        assert_eq!(ids(&found).len(), found.len(), "nothing comes twice: {query:?}");
        let (found_ids, new_ids) = (ids(&found), ids(&new));
        for record in &before {
            assert!(found_ids.contains(&*record.result_id), "skipped {}: {query:?}", record.image.key);
        }
        for record in &found {
            let is_known = ids(&before).contains(&*record.result_id) || new_ids.contains(&*record.result_id);
            assert!(is_known && fits(&query, record), "{} does not fit: {query:?}", record.image.key);
        }
        let in_order = match query.order {
            // What has no time comes first.
            Order::Newest => found.is_sorted_by_key(|record| {
                std::cmp::Reverse(record.image.uploaded_at.unwrap_or(DateTime::<Utc>::MAX_UTC))
            }),
            Order::Suspicion => found.is_sorted_by(|a, b| suspicion(a) >= suspicion(b)),
        };
        assert!(in_order, "{query:?}");
        asked += usize::from(!before.is_empty());
        there.extend(new);
    }
    assert!(asked > 10 && there.len() > 125, "{asked} questions with an answer, {} results", there.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_with_room_for_little_looks_at_a_bounded_number_and_goes_on() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    // Thousands of one slide in rows alone, which cost a second; the one that fits is the oldest.
    let writes =
        (0..1_200).map(|n| {
            let record = of(
                &format!("s/{n:05}.png"),
                Some(noon() - TimeDelta::seconds(n)),
                Some(0.2),
                false,
                n == 1_199,
            );
            let table = &table;
            async move {
                assert!(make_current(&table.lab.clients.s3, &table.writer, &record, None).await.unwrap())
            }
        });
    futures::StreamExt::collect::<()>(futures::StreamExt::buffer_unordered(
        futures::stream::iter(writes),
        32,
    ))
    .await;
    let query = ResultQuery {
        slide: Some("s".into()),
        model_sha256: Some("b".repeat(64)),
        ..ResultQuery::of_stage("prod")
    };
    let first = table.reader.results(&query, None).await.unwrap();
    assert!(first.results.is_empty() && first.next.is_some(), "short, and not the end");
    let second = table.reader.results(&query, first.next.as_deref()).await.unwrap();
    assert_eq!(second.results.len(), 1);
    assert_eq!(second.next, None);

    // The gallery of the same slide, in compact rows.
    let (mut keys, mut after) = (BTreeSet::new(), None);
    loop {
        let page = table.reader.cells("prod", "s", after.as_deref(), 1_000).await.unwrap();
        assert!(page.cells.is_sorted_by(|a, b| a.suspicion >= b.suspicion));
        keys.extend(page.cells.into_iter().map(|cell| cell.key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(keys.len(), 1_200);
}

#[tokio::test(flavor = "multi_thread")]
async fn days_without_anything_that_fits_end_a_page_short_and_cost_no_result() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    for days in 0..80 {
        let day = (noon() - TimeDelta::days(days)).date_naive().to_string();
        table.writer.invalidate_day("prod", &day, noon()).await.unwrap();
    }
    for days in [40, 79] {
        let at = noon() - TimeDelta::days(days);
        table.store(&of(&format!("s/{days}.png"), Some(at), Some(0.9), false, false)).await;
    }
    for limit in [1, 50] {
        let query = ResultQuery { label: Some("parasitized".into()), limit, ..ResultQuery::of_stage("prod") };
        let (mut keys, mut pages, mut after) = (Vec::new(), 0, None);
        while pages == 0 || after.is_some() {
            let page = table.reader.results(&query, after.as_deref()).await.unwrap();
            keys.extend(page.results.into_iter().map(|record| record.image.key));
            after = page.next;
            pages += 1;
            assert!(pages < 10, "pages without end, after {after:?}");
        }
        assert_eq!(keys, ["s/40.png", "s/79.png"]);
        assert!(pages >= 3, "no page looks at eighty days");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slides_are_listed_with_the_figure_of_their_records() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    let long_ago = Utc::now() - TimeDelta::hours(1);
    let mut of_slide: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for n in 0..75 {
        let slide = format!("Slide {:02}", n % 25);
        let parasitized = (n % 7 != 6).then(|| f64::from(n) / 75.0);
        let record = of(&format!("{slide}/{n}.png"), Some(noon()), parasitized, n % 5 == 0, false);
        table.store_at(&record, long_ago + TimeDelta::seconds(i64::from(n))).await;
        of_slide.entry(slide).or_default().push(record);
    }

    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = table.reader.slides("prod", None, after.as_deref(), 4).await.unwrap();
        assert!(page.slides.len() <= 4);
        listed.extend(page.slides);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let names: Vec<&str> = listed.iter().map(|entry| entry.slide.as_str()).collect();
    let expected: Vec<String> = (0..25).rev().map(|n| format!("Slide {n:02}")).collect();
    assert_eq!(names, expected, "each once, last activity first");
    for entry in &listed {
        assert_eq!(entry.figure, SlideFigure::of(&of_slide[&entry.slide]), "{}", entry.slide);
    }
    let found = table.reader.slides("prod", Some("sLIDE 1"), None, 50).await.unwrap();
    assert_eq!(found.slides.len(), 10);
    assert!(table.reader.slides("dev", None, None, 50).await.unwrap().slides.is_empty());
    assert!(table.reader.slide_entry("prod", "Slide").await.unwrap().is_none());

    // What is kept is answered as it is, until an image is answered: shown by a figure that no records have.
    let kept =
        AttributeValue::M(serde_dynamo::to_item(SlideFigure { cells: 47, ..Default::default() }).unwrap());
    let spoil = || async {
        let update = lab.clients.dynamodb.update_item().table_name(TABLE);
        let update = update.key("pk", AttributeValue::S("slide#prod#Slide 07".into()));
        let update = update.key("sk", AttributeValue::S("activity".into()));
        let update = update.update_expression("SET figure = :figure");
        update.expression_attribute_values(":figure", kept.clone()).send().await.unwrap();
    };
    spoil().await;
    let cells = async || {
        let entry = table.reader.slide_entry("prod", "Slide 07").await.unwrap().unwrap();
        let listed = table.reader.slides("prod", Some("Slide 07"), None, 1).await.unwrap().slides;
        assert_eq!(listed[0].figure, entry.figure);
        entry.figure
    };
    assert_eq!(cells().await.cells, 47);
    let more = of("Slide 07/more.png", Some(noon()), Some(0.97), false, false);
    table.store(&more).await;
    of_slide.get_mut("Slide 07").unwrap().push(more);
    let expected = SlideFigure::of(&of_slide["Slide 07"]);
    assert_eq!(cells().await, expected);
    // Counted so soon after a change, it may lack what the index did not show yet: it is counted again.
    spoil().await;
    assert_eq!(cells().await, expected);
    assert_eq!(table.reader.slides("prod", None, None, 1).await.unwrap().slides[0].slide, "Slide 07");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_while_a_figure_is_added_up_is_not_lost_by_it() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    let long_ago = Utc::now() - TimeDelta::hours(1);
    table.store_at(&of("s/1.png", Some(noon()), Some(0.9), false, false), long_ago).await;
    // The figure is written late; in between another image is answered.
    let is_added_up = std::sync::Arc::new(tokio::sync::Notify::new());
    let added_up = is_added_up.clone();
    let slow = faulty(&lab.clients, move |seen| {
        (seen.operation == "UpdateItem").then(|| {
            added_up.notify_one();
            Fault::Delay(std::time::Duration::from_secs(5))
        })
    });
    let reader = TableReader::new(slow.dynamodb, TABLE);
    let asked =
        tokio::spawn(async move { reader.slide_entry("prod", "s").await.unwrap().unwrap().figure.cells });
    is_added_up.notified().await;
    table.store_at(&of("s/2.png", Some(noon()), Some(0.9), false, false), long_ago).await;
    assert_eq!(asked.await.unwrap(), 1);
    assert_eq!(table.reader.slide_entry("prod", "s").await.unwrap().unwrap().figure.cells, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn days_have_the_counts_of_their_results() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    let long_ago = Utc::now() - TimeDelta::hours(1);
    let records: Vec<Record> = (0..90).map(result).collect();
    for record in &records {
        table.store_at(record, long_ago).await;
    }
    let day = |day: u32| NaiveDate::from_ymd_opt(2026, 11, day).unwrap();
    let summaries = table.reader.days("prod", day(20), day(23)).await.unwrap();
    let dates: Vec<NaiveDate> = summaries.iter().map(|summary| summary.date).collect();
    assert_eq!(dates, [day(22), day(21), day(20)]);
    for summary in &summaries {
        let of_day = || {
            records.iter().filter(|r| r.image.uploaded_at.is_some_and(|at| at.date_naive() == summary.date))
        };
        let mut labels = BTreeMap::new();
        for label in of_day().filter_map(|record| record.label.clone()) {
            *labels.entry(label).or_default() += 1;
        }
        assert_eq!(summary.labels, labels, "{}", summary.date);
        assert_eq!(summary.rejected, of_day().filter(|r| r.status == Status::Rejected).count() as u64);
        assert_eq!(summary.needs_review, of_day().filter(|r| r.needs_review).count() as u64);
    }
    assert!(table.reader.days("prod", day(23), day(20)).await.unwrap().is_empty());

    // Within ten seconds the same is answered again, with the time it is of.
    table.store(&of("s/more.png", Some(noon()), Some(0.9), false, false)).await;
    let again = table.reader.days("prod", day(22), day(23)).await.unwrap();
    assert_eq!(again[0], summaries[0]);
    let update = lab.clients.dynamodb.update_item().table_name(TABLE);
    let update = update.key("pk", AttributeValue::S("days#prod".into()));
    let update =
        update.key("sk", AttributeValue::S("2026-11-22".into())).update_expression("SET computed_at = :then");
    let then = AttributeValue::S((Utc::now() - TimeDelta::seconds(11)).to_rfc3339());
    update.expression_attribute_values(":then", then).send().await.unwrap();
    let later = table.reader.days("prod", day(22), day(23)).await.unwrap();
    assert_eq!(later[0].labels["parasitized"], summaries[0].labels["parasitized"] + 1);
}

fn named(name: &str) -> Reviewer {
    Reviewer { name: name.into(), id: None }
}

/// Two people of one name: neither takes back what the other said, nor does whoever only states the name.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_not_a_person() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    let record = of("s/1.png", Some(noon()), Some(0.7), false, false);
    table.store(&record).await;
    let anna =
        |subject: &str| Reviewer { name: "Anna".into(), id: Some(format!("https://id.example|{subject}")) };
    let said = Review { reviewer_id: anna("7").id, ..review(&record, "Anna", "uninfected") };
    table.writer.append_review(&said, &DEFAULT_STAGES).await.unwrap();
    for other in [anna("8"), named("Anna")] {
        let undone = table.writer.undo_review(INPUT, "s/1.png", &other, Utc::now(), &DEFAULT_STAGES).await;
        assert!(matches!(undone, Err(StoreError::NothingToUndo { .. })), "{other:?}: {undone:?}");
    }
    let history = table.reader.image(INPUT, "s/1.png", &DEFAULT_STAGES).await.unwrap();
    assert_eq!(history.verdict.unwrap().reviewer_id, anna("7").id);
    // The same person under another name.
    let married = Reviewer { name: "Anna Bauer".into(), ..anna("7") };
    let left =
        table.writer.undo_review(INPUT, "s/1.png", &married, Utc::now(), &DEFAULT_STAGES).await.unwrap();
    assert_eq!(left, None);
    let history = table.reader.image(INPUT, "s/1.png", &DEFAULT_STAGES).await.unwrap();
    assert_eq!(history.verdict, None);
}

fn review(record: &Record, reviewer: &str, label: &str) -> Review {
    Review {
        bucket: INPUT.into(),
        key: record.image.key.clone(),
        slide: record.slide.clone(),
        stage: Some(record.stage.clone()),
        action: ReviewAction::Correct,
        label: label.into(),
        note: Some("<script>alert(1)</script>".into()),
        reviewer: reviewer.into(),
        reviewer_id: None,
        reviewed_at: noon(),
        object_version: record.image.object_version().into(),
        result_id: Some(record.result_id.clone()),
        predicted: record.label.clone(),
        model: Some(record.model.clone()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_takes_an_image_out_of_the_queue_and_its_undo_puts_it_back() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    let records = [0.7, 0.6, 0.4].map(|p| of(&format!("s/{p}.png"), Some(noon()), Some(p), false, false));
    for record in &records {
        table.store(record).await;
        table.store(&Record { stage: "dev".into(), ..record.clone() }).await;
    }
    let queue = async |stage: &'static str| -> Vec<String> {
        let page = table.reader.review_queue_page(stage, None, None, 50).await.unwrap();
        let of_slide = table.reader.review_queue_page(stage, Some("s"), None, 50).await.unwrap();
        assert_eq!(page, of_slide);
        page.results.into_iter().map(|record| record.image.key).collect()
    };
    let counts = async || {
        let figure = table.reader.slide_entry("prod", "s").await.unwrap().unwrap().figure;
        (figure.needs_review, figure.reviewed, figure.corrected)
    };
    let in_index = async || {
        let items = table.items(TABLE).await;
        items.values().filter(|item| item.get("review_pk").is_some()).count()
    };
    assert_eq!(queue("prod").await, ["s/0.7.png", "s/0.6.png", "s/0.4.png"]);
    assert_eq!((counts().await, in_index().await), ((3, 0, 0), 6));

    table.writer.append_review(&review(&records[1], "ada", "uninfected"), &DEFAULT_STAGES).await.unwrap();
    assert_eq!(queue("prod").await, ["s/0.7.png", "s/0.4.png"]);
    assert_eq!(queue("dev").await, ["s/0.7.png", "s/0.4.png"], "it is the image that was looked at");
    assert_eq!((counts().await, in_index().await), ((2, 1, 1), 4));
    let verdicts = table.reader.verdicts_of_slide("s").await.unwrap();
    assert_eq!(verdicts.keys().collect::<Vec<_>>(), ["s/0.6.png"]);
    let history = table.reader.image(INPUT, "s/0.6.png", &DEFAULT_STAGES).await.unwrap();
    assert_eq!(history.verdict.as_ref(), Some(&history.reviews[0]));
    assert_eq!(history.verdict, Some(review(&records[1], "ada", "uninfected")));
    assert!(
        history.results.iter().all(|record| record.label.as_deref() == Some("parasitized")),
        "never overwritten"
    );

    // The same event again writes the same record, which comes back into the index, and is taken out by who looks.
    table.store(&records[1]).await;
    assert_eq!(in_index().await, 5);
    let open = ResultQuery { needs_review: Some(true), ..ResultQuery::of_stage("prod") };
    assert_eq!(table.reader.results(&open, None).await.unwrap().results.len(), 2);
    assert_eq!(queue("prod").await, ["s/0.7.png", "s/0.4.png"]);
    assert_eq!(in_index().await, 4);

    // Another reviewer agrees with the model; each takes back only the own verdict.
    let mut second = review(&records[1], "bea", "parasitized");
    second.action = ReviewAction::Confirm;
    table.writer.append_review(&second, &DEFAULT_STAGES).await.unwrap();
    assert_eq!(counts().await, (2, 1, 0));
    let left = table
        .writer
        .undo_review(INPUT, "s/0.6.png", &named("ada"), Utc::now(), &DEFAULT_STAGES)
        .await
        .unwrap();
    assert_eq!(left.unwrap().reviewer, "bea");
    assert_eq!(queue("prod").await.len(), 2);
    let again =
        table.writer.undo_review(INPUT, "s/0.6.png", &named("ada"), Utc::now(), &DEFAULT_STAGES).await;
    assert!(matches!(again, Err(StoreError::NothingToUndo { .. })), "{again:?}");
    assert_eq!(
        table
            .writer
            .undo_review(INPUT, "s/0.6.png", &named("bea"), Utc::now(), &DEFAULT_STAGES)
            .await
            .unwrap(),
        None
    );
    assert_eq!(queue("prod").await, ["s/0.7.png", "s/0.6.png", "s/0.4.png"]);
    assert_eq!((counts().await, in_index().await), ((3, 0, 0), 6));
    assert!(table.reader.verdicts_of_slide("s").await.unwrap().is_empty());
    let history = table.reader.image(INPUT, "s/0.6.png", &DEFAULT_STAGES).await.unwrap();
    assert_eq!((history.reviews.len(), history.verdict), (4, None), "all is appended, nothing taken away");

    // Who looked at a result that is another by now has to look again; a new version needs a look of its own.
    table.writer.append_review(&review(&records[0], "ada", "parasitized"), &DEFAULT_STAGES).await.unwrap();
    let new = of("s/0.7.png", Some(noon() + TimeDelta::hours(1)), Some(0.8), false, false);
    let is_current = make_current(&lab.clients.s3, &table.writer, &new, None).await.unwrap();
    assert!(is_current);
    table.writer.invalidate_slide("prod", "s", Utc::now()).await.unwrap();
    let late = table.writer.append_review(&review(&records[0], "bea", "uninfected"), &DEFAULT_STAGES).await;
    assert!(
        matches!(&late, Err(StoreError::OtherResult { found: Some(found), .. }) if *found == new.result_id),
        "{late:?}"
    );
    assert_eq!(queue("prod").await, ["s/0.7.png", "s/0.6.png", "s/0.4.png"]);
    assert_eq!(counts().await, (3, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_at_the_same_time_are_all_kept_and_listed_newest_first() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    let record = of("s/1.png", Some(noon()), Some(0.7), false, false);
    table.store(&record).await;
    let reviews = (0..6).map(|n| {
        let (writer, mut review) =
            (table.writer.clone(), review(&record, &format!("reviewer {n}"), "uninfected"));
        // Over the turn of a year.
        review.reviewed_at =
            Utc.with_ymd_and_hms(2026, 12, 31, 23, 59, 59).unwrap() + TimeDelta::milliseconds(998);
        tokio::spawn(async move { writer.append_review(&review, &DEFAULT_STAGES).await.unwrap() })
    });
    for task in reviews.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let history = table.reader.image(INPUT, "s/1.png", &DEFAULT_STAGES).await.unwrap();
    let reviewers: BTreeSet<&str> = history.reviews.iter().map(|review| review.reviewer.as_str()).collect();
    assert_eq!((history.reviews.len(), reviewers.len()), (6, 6));
    assert!(history.reviews.is_sorted_by(|a, b| a.reviewed_at < b.reviewed_at), "each after the one before");
    assert_eq!(history.verdict.as_ref(), history.reviews.last());
    assert_eq!(table.reader.verdicts_of_slide("s").await.unwrap()["s/1.png"], history.reviews[5]);

    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page =
            table.reader.reviews(noon(), noon() + TimeDelta::days(400), after.as_deref(), 4).await.unwrap();
        listed.extend(page.reviews);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    listed.reverse();
    assert_eq!(listed, history.reviews);
    let none = table.reader.reviews(noon() - TimeDelta::days(9), noon(), None, 4).await.unwrap();
    assert!(none.reviews.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_and_releases_are_listed_newest_first() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    for n in 0..30 {
        let key = format!("s/{n}.png");
        let upload = NotedUpload { bucket: INPUT, key: &key, stage: "prod", object_version: "v" };
        let at = noon() + TimeDelta::seconds(n);
        table.writer.note_failure(upload, "reset", at).await.unwrap();
        // The second try of every third one is later than all first tries.
        if n % 3 == 0 {
            table.writer.note_failure(upload, "reset", at + TimeDelta::hours(1)).await.unwrap();
        }
        if n % 10 == 9 {
            table.writer.forget_failure(upload).await.unwrap();
        }
    }
    let listed = table.reader.failures_listed("prod", 12).await.unwrap();
    let keys: Vec<&str> = listed.iter().map(|note| note.key.as_str()).collect();
    let expected = [27, 24, 21, 18, 15, 12, 6, 3, 0, 28, 26, 25].map(|n| format!("s/{n}.png"));
    assert_eq!(keys, expected);
    assert_eq!(table.reader.failures_listed("prod", 100).await.unwrap().len(), 27);
    assert!(table.reader.failures_listed("dev", 100).await.unwrap().is_empty());

    for hours in 0..3 {
        let released_at = noon() + TimeDelta::hours(hours);
        let model = model().info();
        table.writer.put_ledger(&LedgerEntry { stage: "prod".into(), released_at, model }).await.unwrap();
    }
    let ledger = table.reader.ledger_newest("prod", 2).await.unwrap();
    let times: Vec<DateTime<Utc>> = ledger.iter().map(|entry| entry.released_at).collect();
    assert_eq!(times, [2, 1].map(|hours| noon() + TimeDelta::hours(hours)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_handed_back_while_its_slide_cannot_be_told() {
    for (what, fault) in [("slide#prod#slide 2", Fault::ACCESS_DENIED), ("days#prod", Fault::ACCESS_DENIED)] {
        let lab = Lab::start().await;
        let cell = uninfected_cell();
        let mut uploads = Vec::new();
        for key in ["slide 1/a.png", "slide 2/b.png", "slide 2/c.png"] {
            uploads.push((key, lab.put(key, &cell).await));
        }
        let bodies =
            uploads.iter().map(|(key, etag)| events::s3(&Upload::new(key, etag, cell.len())).to_string());
        let event = events::sqs(bodies);
        let clients = faulty(&lab.clients, move |seen| {
            (seen.operation == "UpdateItem" && seen.body.contains(&format!("\"{what}\"")))
                .then(|| fault.clone())
        });
        let answer = lab.handler_of(lab.config.clone(), clients).handle(&event, None).await.unwrap();
        let failed = answer["batchItemFailures"].as_array().unwrap().len();
        assert_eq!(failed, if what.starts_with("slide") { 2 } else { 3 }, "{what}: {answer}");
        // The record is stored; only nobody was told.
        assert!(lab.result("slide 2/b.png").await.is_some());
        assert_eq!(
            lab.table().slide_entry("prod", "slide 2").await.unwrap().is_none(),
            what.starts_with("slide")
        );

        let answer = lab.handler().handle(&event, None).await.unwrap();
        assert_eq!(answer, json!({"batchItemFailures": []}));
        let entry = lab.table().slide_entry("prod", "slide 2").await.unwrap().unwrap();
        assert_eq!(entry.figure.cells, 2, "{what}");
        let today = lab.table().days("prod", Utc::now().date_naive(), NaiveDate::MAX).await.unwrap();
        assert_eq!(today.iter().map(|day| day.labels["uninfected"]).sum::<u64>(), 3, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_tells_each_slide_and_day_once() {
    let lab = Lab::start().await;
    let cell = uninfected_cell();
    let mut bodies = Vec::new();
    for n in 0..12 {
        let key = format!("slide {}/{n}.png", n % 2);
        let etag = lab.put(&key, &cell).await;
        bodies.push(events::s3(&Upload::new(&key, &etag, cell.len())).to_string());
    }
    lab.handler().handle(&events::sqs(bodies), None).await.unwrap();
    let items = Table::of(&lab).items(TABLE).await;
    for pk in ["slide#prod#slide 0", "slide#prod#slide 1", "days#prod"] {
        let of_place: Vec<&Value> =
            items.iter().filter(|((found, _), _)| found == pk).map(|(_, item)| &item["changes"]).collect();
        assert_eq!(of_place, [&json!(1)], "{pk}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_image_leaves_the_day_of_the_one_before() {
    let lab = Lab::start().await;
    let table = Table::of(&lab);
    let cell = uninfected_cell();
    let key = "s/a.png";
    // An answer to an upload of an earlier day, which its sequencer shows to be earlier.
    let before = of(key, Some(noon() - TimeDelta::days(30)), Some(0.9), false, false);
    let sequencer = giemsa_core::object::Sequencer::parse("0001");
    assert!(make_current(&lab.clients.s3, &table.writer, &before, sequencer.as_ref()).await.unwrap());
    let long_ago = Utc::now() - TimeDelta::hours(1);
    table.writer.invalidate_day("prod", &upload_day(&before), long_ago).await.unwrap();
    let day = noon().date_naive() - TimeDelta::days(30);
    let count =
        async || table.reader.days("prod", day, day.succ_opt().unwrap()).await.unwrap()[0].labels.len();
    assert_eq!(count().await, 1);

    let etag = lab.put(key, &cell).await;
    let upload = Upload { sequencer: "0002", ..Upload::new(key, &etag, cell.len()) };
    lab.handler().handle(&events::s3(&upload), None).await.unwrap();
    let items = table.items(TABLE).await;
    let item = &items[&("days#prod".to_owned(), upload_day(&before))];
    assert_eq!(item["changes"], json!(2), "the day was told that it lost an image");
}
