//! Withdrawn images: out of every figure, list and queue in all stages, whatever is delivered again, until they are
//! brought back or replaced; and the same bytes under two names.

use chrono::{TimeDelta, Utc};
use giemsa_config::DEFAULT_STAGES;
use giemsa_core::record::Record;
use giemsa_core::slide::SlideFigure;
use giemsa_store::{
    AnsweredQuery, Order, ResultQuery, Review, ReviewAction, Reviewer, StoreError, TableWriter, Withdrawal,
    WithdrawalAction,
};

use giemsa_tests::lab::events::{self, Upload};
use giemsa_tests::lab::{INPUT, Lab, TABLE, config, file, sample_model, sample_model_with, uninfected_cell};

const SLIDE: &str = "slide 1";
const KEY: &str = "slide 1/b.png";

/// A laboratory with three images of one slide, two of them the same bytes and one that needs a look.
struct Slide {
    lab: Lab,
    writer: TableWriter,
}

fn blank() -> Vec<u8> {
    file("sample-images/not-a-cell/blank.png")
}

fn infected() -> Vec<u8> {
    file("sample-images/slide-003-mixed-forms/cell-01.png")
}

impl Slide {
    async fn answered() -> Self {
        let lab = Lab::start().await;
        let writer = TableWriter::new(lab.clients.dynamodb.clone(), TABLE);
        let slide = Self { lab, writer };
        for (key, bytes) in
            [("slide 1/a.png", uninfected_cell()), (KEY, uninfected_cell()), ("slide 1/c.png", blank())]
        {
            slide.upload(key, &bytes, "1").await;
        }
        slide
    }

    /// Uploads an image, which the stage prod answers; the order of uploads is that of `position`.
    async fn upload(&self, key: &str, bytes: &[u8], position: &str) -> String {
        let etag = self.lab.put(key, bytes).await;
        self.deliver("prod", key, bytes, &etag, position).await;
        etag
    }

    async fn deliver(&self, stage: &str, key: &str, bytes: &[u8], etag: &str, position: &str) {
        let upload = Upload { sequencer: position, ..Upload::new(key, etag, bytes.len()) };
        let event = events::sqs([events::s3(&upload).to_string()]);
        let handler = self.lab.handler_of(config(stage), self.lab.clients.clone());
        let answer = handler.handle(&event, None).await.unwrap();
        assert_eq!(answer["batchItemFailures"], serde_json::json!([]));
    }

    async fn figure(&self, stage: &str) -> SlideFigure {
        self.lab.table().slide_entry(stage, SLIDE).await.unwrap().unwrap().figure
    }

    async fn record(&self, stage: &str, key: &str) -> Record {
        self.lab.table().image(INPUT, key, &[stage]).await.unwrap().results.remove(0)
    }

    /// Does what a person does to the upload that prod's result of `key` is of; whether it changed anything.
    async fn append(&self, action: WithdrawalAction, key: &str) -> bool {
        let record = self.record("prod", key).await;
        let withdrawal = withdrawal(action, key, record.image.object_version());
        self.writer.append_withdrawal(&withdrawal, &DEFAULT_STAGES).await.unwrap()
    }

    /// Keys that a question finds, in its order.
    async fn keys(&self, query: ResultQuery) -> Vec<String> {
        let page = self.lab.table().results(&query, None).await.unwrap();
        assert_eq!(page.next, None);
        page.results.into_iter().map(|record| record.image.key).collect()
    }
}

fn withdrawal(action: WithdrawalAction, key: &str, object_version: &str) -> Withdrawal {
    Withdrawal {
        bucket: INPUT.to_owned(),
        key: key.to_owned(),
        slide: SLIDE.to_owned(),
        action,
        reason: "moved to slide 2".to_owned(),
        by: "ada".to_owned(),
        by_id: None,
        at: Utc::now(),
        object_version: object_version.to_owned(),
    }
}

/// One question for each index that holds results.
fn questions(record: &Record) -> Vec<ResultQuery> {
    let all = ResultQuery::of_stage(&record.stage);
    let of_slide = ResultQuery { slide: Some(SLIDE.to_owned()), ..all.clone() };
    vec![
        ResultQuery { label: record.label.clone(), ..all.clone() },
        ResultQuery { model_sha256: Some(record.model.sha256.clone()), ..all.clone() },
        ResultQuery { order: Order::Suspicion, ..of_slide.clone() },
        of_slide,
        all,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_image_is_nowhere_but_among_the_withdrawn() {
    let slide = Slide::answered().await;
    let table = slide.lab.table();
    let before = slide.figure("prod").await;
    assert_eq!((before.cells, before.outliers, before.duplicates, before.withdrawn), (2, 1, 1, 0));
    let record = slide.record("prod", KEY).await;
    assert_eq!(table.same_content(&record).await.unwrap(), ["slide 1/a.png"]);
    for query in questions(&record) {
        assert!(slide.keys(query.clone()).await.contains(&KEY.to_owned()), "{query:?}");
    }

    let day = record.image.uploaded_at.unwrap().date_naive();
    let answered_on_day = async || {
        let days = table.days("prod", day, day + TimeDelta::days(1)).await.unwrap();
        days[0].labels.values().sum::<u64>()
    };
    assert_eq!(answered_on_day().await, 3);

    assert!(slide.append(WithdrawalAction::Withdraw, KEY).await);
    assert!(!slide.append(WithdrawalAction::Withdraw, KEY).await, "the same again changes nothing");
    let expected = SlideFigure { cells: 1, cells_with_sign: 1, duplicates: 0, withdrawn: 1, ..before };
    assert_eq!(slide.figure("prod").await, expected);
    for query in questions(&record) {
        let keys = slide.keys(query.clone()).await;
        assert!(!keys.is_empty() && !keys.contains(&KEY.to_owned()), "{query:?}: {keys:?}");
        assert_eq!(slide.keys(ResultQuery { withdrawn: true, ..query }).await, [KEY]);
    }
    let whole: Vec<Record> = table.whole_slide("prod", SLIDE).await.unwrap();
    assert_eq!(whole.len(), 2);
    let answered = AnsweredQuery { stage: "prod".into(), sha256: record.model.sha256.clone(), since: None };
    assert_eq!(table.count_answered(&answered).await.unwrap(), 2, "no model is compared on it");
    assert!(table.same_content(&slide.record("prod", "slide 1/a.png").await).await.unwrap().is_empty());
    assert_eq!(
        answered_on_day().await,
        2,
        "at once, though counts are kept for a moment while answers come in"
    );
    let cells = table.cells("prod", SLIDE, None, 10).await.unwrap().cells;
    let withdrawn: Vec<(&str, bool)> = cells.iter().map(|cell| (cell.key.as_str(), cell.withdrawn)).collect();
    assert_eq!(withdrawn.iter().filter(|(_, withdrawn)| *withdrawn).collect::<Vec<_>>(), [&(KEY, true)]);
    assert_eq!(withdrawn.len(), 3);

    let now = slide.record("prod", KEY).await;
    let mark = now.withdrawn.clone().unwrap();
    assert_eq!((mark.by.as_str(), mark.reason.as_str()), ("ada", "moved to slide 2"));
    assert_eq!(Record { withdrawn: None, ..now }, record, "what the model said stays");

    assert!(slide.append(WithdrawalAction::Restore, KEY).await);
    assert!(!slide.append(WithdrawalAction::Restore, KEY).await);
    assert_eq!(slide.figure("prod").await, before);
    assert_eq!(answered_on_day().await, 3);
    assert_eq!(slide.record("prod", KEY).await, record);
    for query in questions(&record) {
        assert!(slide.keys(query.clone()).await.contains(&KEY.to_owned()), "{query:?}");
    }
    let history = table.image(INPUT, KEY, &DEFAULT_STAGES).await.unwrap();
    let actions: Vec<_> = history.withdrawals.iter().map(|withdrawal| withdrawal.action).collect();
    assert_eq!(actions, [WithdrawalAction::Withdraw, WithdrawalAction::Restore], "appended, oldest first");
    assert_eq!(history.withdrawal, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_holds_for_its_upload_whatever_is_delivered_and_for_no_other() {
    let slide = Slide::answered().await;
    let table = slide.lab.table();
    let bytes = uninfected_cell();
    let first = slide.record("prod", KEY).await;
    let etag = first.image.etag.clone().unwrap();
    assert!(slide.append(WithdrawalAction::Withdraw, KEY).await);

    // Again, by the same model and by another, and from a trigger that knows no order.
    slide.deliver("prod", KEY, &bytes, &etag, "1").await;
    assert!(slide.record("prod", KEY).await.withdrawn.is_some());
    slide.lab.put_model("prod", &sample_model_with("giemsa.version", "9")).await;
    for position in ["1", ""] {
        slide.deliver("prod", KEY, &bytes, &etag, position).await;
        let record = slide.record("prod", KEY).await;
        assert_ne!(record.model.sha256, first.model.sha256);
        assert!(record.withdrawn.is_some(), "{position:?}");
        let figure = slide.figure("prod").await;
        assert_eq!((figure.cells, figure.withdrawn), (1, 1));
    }
    let objects = slide.lab.result_objects().await;
    assert!(objects.values().all(|json| !String::from_utf8_lossy(json).contains("withdrawn")));

    // A stage that answers it for the first time only now.
    slide.lab.put_model("dev", &sample_model()).await;
    slide.deliver("dev", KEY, &bytes, &etag, "1").await;
    let figure = slide.figure("dev").await;
    assert_eq!((figure.cells, figure.withdrawn), (0, 1));
    let all = ResultQuery::of_stage("dev");
    assert_eq!(slide.keys(all.clone()).await, Vec::<String>::new(), "and it is in no list from then on");
    assert_eq!(slide.keys(ResultQuery { withdrawn: true, ..all }).await, [KEY]);
    let figure = slide.figure("dev").await;
    assert_eq!((figure.cells, figure.withdrawn), (0, 1), "counted once");

    // Deleted, and delivered once more: that it is gone replaces nothing.
    slide.lab.delete(KEY).await;
    slide.deliver("prod", KEY, &bytes, &etag, "1").await;
    let record = slide.record("prod", KEY).await;
    assert!(record.withdrawn.is_some() && !record.is_gone());

    // Another upload counts, also when the withdrawn one is delivered after it.
    slide.upload(KEY, &infected(), "2").await;
    slide.deliver("prod", KEY, &bytes, &etag, "1").await;
    let record = slide.record("prod", KEY).await;
    assert_eq!((record.withdrawn.is_none(), record.positive), (true, Some(true)));
    let figure = slide.figure("prod").await;
    assert_eq!((figure.cells, figure.positives, figure.withdrawn), (2, 1, 0));
    let of_first = withdrawal(WithdrawalAction::Withdraw, KEY, "0123");
    let refused = slide.writer.append_withdrawal(&of_first, &["prod"]).await;
    assert!(matches!(refused, Err(StoreError::NotCurrent { .. })), "{refused:?}");

    // It can be withdrawn in its turn.
    assert!(slide.append(WithdrawalAction::Withdraw, KEY).await);
    let figure = slide.figure("prod").await;
    assert_eq!((figure.cells, figure.positives, figure.withdrawn), (1, 0, 1));
    let history = table.image(INPUT, KEY, &DEFAULT_STAGES).await.unwrap();
    assert_eq!(history.withdrawals.len(), 2);
    assert!(history.withdrawals.is_sorted_by(|a, b| a.at < b.at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_image_is_not_reviewed_and_comes_back_as_it_was_decided() {
    let slide = Slide::answered().await;
    let table = slide.lab.table();
    let key = "slide 1/c.png";
    let queue = async || {
        let page = table.review_queue_page("prod", Some(SLIDE), None, 10).await.unwrap();
        let all = table.review_queue("prod", 10).await.unwrap();
        assert_eq!(page.results, all);
        all.into_iter().map(|record| record.image.key).collect::<Vec<_>>()
    };
    assert_eq!(queue().await, [key]);
    assert!(slide.append(WithdrawalAction::Withdraw, key).await);
    assert_eq!(queue().await, Vec::<String>::new());
    // A second delivery does not bring it back into the queue, and neither does a verdict that is taken back.
    let record = slide.record("prod", key).await;
    slide.deliver("prod", key, &blank(), record.image.etag.as_deref().unwrap(), "1").await;
    let review = Review {
        bucket: INPUT.into(),
        key: key.into(),
        slide: SLIDE.into(),
        stage: Some("prod".into()),
        action: ReviewAction::Correct,
        label: "uninfected".into(),
        note: None,
        reviewer: "bea".into(),
        reviewer_id: None,
        reviewed_at: Utc::now(),
        object_version: record.image.object_version().to_owned(),
        result_id: Some(record.result_id.clone()),
        predicted: record.label.clone(),
        model: Some(record.model.clone()),
    };
    slide.writer.append_review(&review, &DEFAULT_STAGES).await.unwrap();
    let bea = Reviewer { name: "bea".into(), id: None };
    slide.writer.undo_review(INPUT, key, &bea, Utc::now(), &DEFAULT_STAGES).await.unwrap();
    assert_eq!(queue().await, Vec::<String>::new());
    assert!(slide.append(WithdrawalAction::Restore, key).await);
    assert_eq!(queue().await, [key]);

    assert!(slide.append(WithdrawalAction::Withdraw, key).await);
    slide.writer.append_review(&review, &DEFAULT_STAGES).await.unwrap();
    assert!(slide.append(WithdrawalAction::Restore, key).await);
    assert_eq!(queue().await, Vec::<String>::new(), "somebody decided it meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_withdraw_at_once_both_find_it_withdrawn_and_all_of_a_slide_can_be() {
    let slide = Slide::answered().await;
    let both = tokio::join!(
        slide.append(WithdrawalAction::Withdraw, KEY),
        slide.append(WithdrawalAction::Withdraw, KEY)
    );
    assert!(both.0 != both.1, "one of them did it");
    // The marks of one slide meet, and none is lost.
    let all = tokio::join!(
        slide.append(WithdrawalAction::Withdraw, "slide 1/a.png"),
        slide.append(WithdrawalAction::Withdraw, "slide 1/c.png"),
        slide.append(WithdrawalAction::Restore, KEY),
    );
    assert_eq!(all, (true, true, true));
    let figure = slide.figure("prod").await;
    assert_eq!((figure.images(), figure.withdrawn), (1, 2));
}
