//! Days of results as Parquet: nothing is lost, whatever comes meanwhile.

use std::collections::BTreeMap;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::EncodingType;
use futures::{StreamExt, stream};
use giemsa_core::record::{GONE_CODE, Record, Reject, Status};
use giemsa_ops::export::{Compacted, Compactor, Day, ExportError, Phase};
use giemsa_store::{form_decoded, result_key, write_result};
use giemsa_tests::lab::{Lab, RESULTS};
use giemsa_tests::parquet_files::{Engine, expected_row, record, rows_by};

const PREFIX: &str = "results";

fn day() -> Day {
    Day { stage: "prod".to_owned(), date: "2026-11-22".parse().unwrap() }
}

fn compactor(lab: &Lab) -> Compactor {
    Compactor::new(lab.clients.s3.clone(), RESULTS, PREFIX).with_file_rows(100)
}

async fn write(s3: &Client, records: impl IntoIterator<Item = Record>) -> BTreeMap<String, Record> {
    let written = stream::iter(records.into_iter().map(|record| async move {
        let record = write_result(s3, RESULTS, PREFIX, record).await.unwrap();
        (result_key(PREFIX, &record), record.without_times())
    }));
    written.buffer_unordered(16).collect().await
}

async fn compact(lab: &Lab, delete_json: bool) -> Compacted {
    compactor(lab).compact(&day(), delete_json, |_, _| {}).await.unwrap()
}

async fn keys(lab: &Lab, prefix: &str) -> Vec<String> {
    let listed = lab.clients.s3.list_objects_v2().bucket(RESULTS).prefix(prefix);
    let pages = listed.encoding_type(EncodingType::Url).into_paginator().send().try_collect().await;
    let pages: Vec<_> = pages.unwrap_or_else(|e| panic!("{e}"));
    pages.iter().flat_map(|page| page.contents()).map(|object| form_decoded(object.key().unwrap())).collect()
}

async fn put(s3: &Client, key: &str, body: impl Into<Vec<u8>>) {
    let body = ByteStream::from(body.into());
    s3.put_object().bucket(RESULTS).key(key).body(body).send().await.unwrap();
}

async fn get(s3: &Client, key: &str) -> Vec<u8> {
    let got = s3.get_object().bucket(RESULTS).key(key).send().await.unwrap();
    got.body.collect().await.unwrap().to_vec()
}

/// Compacted files, fetched to a folder, as both engines read them: rows by the key of their result object.
async fn rows_in_s3(lab: &Lab) -> Option<BTreeMap<String, serde_json::Value>> {
    let folder = tempfile::tempdir().unwrap();
    for key in keys(lab, "compacted/stage=prod/date=2026-11-22/").await {
        let name = key.rsplit_once('/').unwrap().1;
        std::fs::write(folder.path().join(name), get(&lab.clients.s3, &key).await).unwrap();
    }
    let path = format!("{}/*.parquet", folder.path().display());
    let [pyarrow, duckdb] = [Engine::Pyarrow, Engine::DuckDb].map(|engine| rows_by(engine, &path));
    let (pyarrow, duckdb) = (pyarrow?, duckdb?);
    let by_key = |rows: Vec<serde_json::Value>| {
        let count = rows.len();
        let by_key: BTreeMap<_, _> =
            rows.into_iter().map(|row| (row["result_key"].as_str().unwrap().to_owned(), row)).collect();
        assert_eq!(by_key.len(), count, "each object once");
        by_key
    };
    let pyarrow = by_key(pyarrow);
    assert_eq!(pyarrow, by_key(duckdb));
    Some(pyarrow)
}

/// Compares what is in S3 with records, one by one.
async fn assert_holds(lab: &Lab, records: &BTreeMap<String, Record>) {
    let Some(rows) = rows_in_s3(lab).await else { return };
    assert_eq!(rows.keys().collect::<Vec<_>>(), records.keys().collect::<Vec<_>>());
    for (key, record) in records {
        let mut row = rows[key].clone();
        let row = row.as_object_mut().unwrap();
        assert_eq!(row.remove("result_key").unwrap(), **key);
        assert_eq!(row.remove("result_etag").unwrap().as_str().unwrap().len(), 32);
        assert_eq!(serde_json::Value::Object(row.clone()), expected_row(record), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_becomes_files_and_json_goes_only_when_it_is_in_them() {
    let lab = Lab::without_model().await;
    let s3 = &lab.clients.s3;
    let mut expected = write(s3, (0..250).map(record)).await;
    // Another stage and another day do not concern this one.
    let other = Record { stage: "dev".to_owned(), ..record(900) };
    write(s3, [other]).await;

    let first = compact(&lab, false).await;
    assert_eq!((first.results, first.added, first.files_written), (250, 250, 3));
    assert_eq!(first.files.len(), 3);
    assert_eq!(keys(&lab, "results/stage=prod/").await.len(), 250, "nothing is deleted unless asked for");
    assert_holds(&lab, &expected).await;

    // The same again does nothing.
    let again = compact(&lab, false).await;
    assert_eq!((again.results, again.added, again.files_written, &again.files), (250, 0, 0, &first.files));

    // Late results join, and replaced ones replace.
    expected.extend(write(s3, (250..255).map(record)).await);
    let changed = Record { software: "giemsa 9.9.9".to_owned(), ..record(7) };
    expected.extend(write(s3, [changed]).await);
    let later = compact(&lab, false).await;
    assert_eq!((later.results, later.added), (255, 6));
    assert_eq!(keys(&lab, "compacted/").await, later.files, "what was replaced is removed");
    assert_holds(&lab, &expected).await;

    // What is not a record, or not wholly one, stays.
    put(s3, "results/stage=prod/date=2026-11-22/notes.txt", "hello").await;
    let mut newer = serde_json::to_value(record(300).without_times()).unwrap();
    newer["invented"] = true.into();
    put(s3, "results/stage=prod/date=2026-11-22/newer.json", newer.to_string()).await;
    let deleting = compact(&lab, true).await;
    assert_eq!((deleting.json_deleted, deleting.left_out, deleting.results), (255, 2, 255));
    assert!(deleting.left_out_examples.iter().any(|why| why.contains("notes.txt: it is not a JSON")));
    assert!(deleting.left_out_examples.iter().any(|why| why.contains("newer.json: it holds fields")));
    let left = keys(&lab, "results/stage=prod/").await;
    assert_eq!(left, ["newer.json", "notes.txt"].map(|n| format!("results/stage=prod/date=2026-11-22/{n}")));
    assert_holds(&lab, &expected).await;

    // Without any JSON, what is in the files stays in them.
    let kept = compact(&lab, true).await;
    assert_eq!((kept.results, kept.added, kept.json_deleted), (255, 0, 0));
    expected.extend(write(s3, [record(400)]).await);
    let joined = compact(&lab, true).await;
    assert_eq!((joined.results, joined.added, joined.json_deleted), (256, 1, 1));
    assert_holds(&lab, &expected).await;
    assert_eq!(keys(&lab, "results/stage=dev/").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_meanwhile_stays() {
    let lab = Lab::without_model().await;
    let s3 = lab.clients.s3.clone();
    let expected = write(&s3, (0..20).map(record)).await;
    let (late, changed) = (record(21), Record { software: "giemsa 9.9.9".to_owned(), ..record(3) });
    let arriving = [result_key(PREFIX, &late), result_key(PREFIX, &changed)];
    let mut arrived = false;
    let (compactor, day) = (compactor(&lab), day());
    let done = compactor.compact(&day, true, |phase, count| {
        // All is read; nothing is deleted yet.
        if (phase, count) == (Phase::Reading, 20) && !arrived {
            arrived = true;
            let records = [late.clone(), changed.clone()];
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(write(&s3, records));
            });
        }
    });
    let done = done.await.unwrap();
    assert!(arrived);
    assert_eq!((done.results, done.json_deleted), (20, 19));
    let mut left = keys(&lab, "results/").await;
    left.sort();
    let mut arriving = arriving.to_vec();
    arriving.sort();
    assert_eq!(left, arriving);
    assert_holds(&lab, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_leaves_no_double_and_a_damaged_file_stops_everything() {
    let lab = Lab::without_model().await;
    let s3 = &lab.clients.s3;
    let expected = write(s3, (0..150).map(record)).await;
    let first = compact(&lab, false).await;
    // As a run leaves it that was killed before it removed what it replaced.
    let copy = "compacted/stage=prod/date=2026-11-22/part-0007-0123456789abcdef.parquet";
    put(s3, copy, get(s3, &first.files[0]).await).await;
    let again = compact(&lab, false).await;
    assert_eq!((again.results, again.added, &again.files), (150, 0, &first.files));
    assert_eq!(keys(&lab, "compacted/").await, first.files);
    assert_holds(&lab, &expected).await;

    for damage in
        [|bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2), |bytes: &mut Vec<u8>| bytes[3000] ^= 0x55]
    {
        let whole = get(s3, &first.files[1]).await;
        let mut bytes = whole.clone();
        damage(&mut bytes);
        put(s3, &first.files[1], bytes).await;
        let error = compactor(&lab).compact(&day(), true, |_, _| {}).await.unwrap_err();
        assert!(error.to_string().contains(&first.files[1]), "{error}");
        assert!(matches!(error, ExportError::Read { .. } | ExportError::Damaged { .. }), "{error}");
        assert_eq!(keys(&lab, "results/").await.len(), 150, "nothing is deleted");
        put(s3, &first.files[1], whole).await;
    }
    assert_eq!(compact(&lab, true).await.json_deleted, 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn that_an_image_is_gone_replaces_no_answer() {
    let lab = Lab::without_model().await;
    let s3 = &lab.clients.s3;
    let expected = write(s3, (0..3).map(record)).await;
    compact(&lab, true).await;
    let mut gone = record(1);
    gone.status = Status::Rejected;
    (gone.label, gone.confidence, gone.probabilities) = (None, None, None);
    gone.reject = Some(Reject { code: GONE_CODE.to_owned(), message: "it is gone".to_owned() });
    write(s3, [gone]).await;
    let done = compact(&lab, true).await;
    assert_eq!((done.results, done.added, done.left_out, done.json_deleted), (3, 0, 1, 0));
    assert_holds(&lab, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_found_by_their_folders() {
    let lab = Lab::without_model().await;
    let mut unknown = record(1);
    unknown.image.uploaded_at = None;
    let mut earlier = record(2);
    earlier.image.uploaded_at = earlier.image.uploaded_at.map(|at| at - chrono::TimeDelta::days(3));
    write(&lab.clients.s3, [record(0), unknown, earlier]).await;
    let days = compactor(&lab).days("prod").await.unwrap();
    let dates: Vec<String> = days.iter().map(|day| day.date.to_string()).collect();
    assert_eq!(dates, ["2026-11-19", "2026-11-22", "unknown"]);
    assert_eq!(compactor(&lab).days("dev").await.unwrap(), []);
    let none = Day { stage: "dev".to_owned(), date: "2026-11-22".parse().unwrap() };
    let nothing = compactor(&lab).compact(&none, true, |_, _| {}).await.unwrap();
    assert_eq!((nothing.results, nothing.files.len()), (0, 0));
}
