//! Promotion, rollback, history, comparison and reclassification against real servers, with the real SDKs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use giemsa::pipeline::Pipeline;
use giemsa::reclassify::reclassify;
use giemsa_core::gate_report::{GateModel, GateReport, GoldenSummary};
use giemsa_core::record::{ModelInfo, Record};
use giemsa_model::Loader;
use giemsa_model::{MetadataChanges, Model, Trial, pack};
use giemsa_ops::release::{Author, Event, ReleaseError, Released, Releaser};
use giemsa_store::aws::Clients;
use giemsa_store::shadow::{Comparison, ComparisonQuery, Conclusion, compare};
use giemsa_store::{
    AnsweredQuery, ImageKey, ModelBucket, ReleaseKind, ReleaseState, TableReader, TableWriter, Verdict,
};
use giemsa_tests::lab::events::{Upload, s3};
use giemsa_tests::lab::faults::{Fault, faulty};
use giemsa_tests::lab::{INPUT, Lab, MODELS, TABLE, config, file, sample_model};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Barrier;

/// The sample model under another version, which is another file with another digest.
fn version(version: &str) -> (Vec<u8>, ModelInfo) {
    packed(MetadataChanges { version: Some(version.to_owned()), ..MetadataChanges::default() })
}

/// The sample model with its labels exchanged: wrong where the sample model is right.
fn contrary() -> (Vec<u8>, ModelInfo) {
    let labels = Model::load(&sample_model()).unwrap().metadata.labels.iter().rev().cloned().collect();
    packed(MetadataChanges { labels, ..MetadataChanges::default() })
}

fn packed(changes: MetadataChanges) -> (Vec<u8>, ModelInfo) {
    let (bytes, model) = pack(&sample_model(), &changes).unwrap();
    (bytes, model.info())
}

fn releaser(clients: &Clients) -> Releaser {
    Releaser::new(
        ModelBucket::new(clients.s3.clone(), MODELS),
        TableReader::new(clients.dynamodb.clone(), TABLE),
        TableWriter::new(clients.dynamodb.clone(), TABLE),
        Loader::new(&config("prod").limits),
    )
}

fn author(why: Option<&str>, force: bool) -> Author {
    Author { who: "ada".to_owned(), why: why.map(str::to_owned), force }
}

async fn put_report(lab: &Lab, sha256: &str, failures: &[&str]) {
    let model = GateModel { sha256: sha256.to_owned(), ..GateModel::default() };
    let mut report = Trial::new(model, GoldenSummary::default(), Utc::now()).judge();
    report.passed = failures.is_empty();
    report.failures = failures.iter().map(|failure| (*failure).to_owned()).collect();
    lab.put_in_models(&format!("reports/{sha256}.json"), &serde_json::to_vec(&report).unwrap()).await;
}

/// Puts a model into dev, with a report that passed.
async fn put_candidate(lab: &Lab, stage: &str, bytes: &[u8], model: &ModelInfo) {
    lab.put_model(stage, bytes).await;
    put_report(lab, &model.sha256, &[]).await;
}

async fn stored(lab: &Lab, key: &str) -> Option<Vec<u8>> {
    let got = lab.clients.s3.get_object().bucket(MODELS).key(key).send().await.ok()?;
    Some(got.body.collect().await.unwrap().to_vec())
}

#[tokio::test]
async fn a_promotion_needs_a_passing_report_and_a_forced_one_a_reason() {
    let lab = Lab::start().await;
    let releaser = releaser(&lab.clients);
    let (bytes, model) = version("2");
    lab.put_model("dev", &bytes).await;
    let refused = releaser.promote("dev", "prod", &author(None, false)).await.unwrap_err();
    assert!(matches!(refused, ReleaseError::NoReport { .. }), "{refused}");
    put_report(&lab, &model.sha256, &["sensitivity is 0.5"]).await;
    let refused = releaser.promote("dev", "prod", &author(None, false)).await.unwrap_err();
    assert!(refused.to_string().contains("sensitivity is 0.5"), "{refused}");
    let refused = releaser.promote("dev", "prod", &author(None, true)).await.unwrap_err();
    assert!(matches!(refused, ReleaseError::NoReason), "{refused}");
    assert_eq!(stored(&lab, "prod/model.onnx").await.unwrap(), sample_model(), "nothing was changed");
    assert_eq!(releaser.history("prod").await.unwrap().entries, [], "and nothing was attempted");

    // Without any report: production must find one that lets it serve.
    lab.clients
        .s3
        .delete_object()
        .bucket(MODELS)
        .key(format!("reports/{}.json", model.sha256))
        .send()
        .await
        .unwrap();
    let forced = releaser.promote("dev", "prod", &author(Some("an outbreak"), true)).await.unwrap();
    assert_eq!((forced.kind, &forced.model), (Some(ReleaseKind::Force), &model));
    assert_eq!(stored(&lab, "prod/model.onnx").await.unwrap(), bytes);
    assert_eq!(stored(&lab, &format!("archive/{}.onnx", model.sha256)).await.unwrap(), bytes);
    let report = stored(&lab, &format!("reports/{}.json", model.sha256)).await.unwrap();
    let report: GateReport = serde_json::from_slice(&report).unwrap();
    assert!(!report.passed && report.lets_serve(), "{report:?}");
    assert_eq!(report.waiver.as_ref().map(|w| w.reason.as_str()), Some("an outbreak"));
    // What it replaced can be gone back to, though nobody had archived it.
    let sample = Model::load(&sample_model()).unwrap().sha256.clone();
    assert_eq!(stored(&lab, &format!("archive/{sample}.onnx")).await.unwrap(), sample_model());
    let history = releaser.history("prod").await.unwrap();
    let line = &history.entries[0];
    assert_eq!((line.event, line.state), (Event::Force, ReleaseState::Released));
    assert_eq!((line.who.as_deref(), line.why.as_deref()), (Some("ada"), Some("an outbreak")));
    // Once more is not a release.
    let again = releaser.promote("dev", "prod", &author(None, false)).await.unwrap();
    assert_eq!((again.kind, again.released_at), (None, None));
    assert_eq!(releaser.history("prod").await.unwrap(), history);
}

#[tokio::test]
async fn what_cannot_serve_is_not_released() {
    let lab = Lab::start().await;
    let releaser = releaser(&lab.clients);
    lab.put_model("dev", &sample_model()[..1000]).await;
    let refused = releaser.promote("dev", "prod", &author(Some("x"), true)).await.unwrap_err();
    assert!(matches!(refused, ReleaseError::Unusable { .. }), "{refused}");
    let absent = releaser.promote("staging", "prod", &author(None, false)).await.unwrap_err();
    assert!(matches!(absent, ReleaseError::Absent { .. }), "{absent}");
    // A file of the archive that is not what its name says.
    let (bytes, model) = version("2");
    let key = format!("archive/{}.onnx", model.sha256);
    lab.clients.s3.put_object().bucket(MODELS).key(&key).body(sample_model().into()).send().await.unwrap();
    let damaged =
        releaser.rollback("prod", Some(&model.sha256[..8]), &author(None, false)).await.unwrap_err();
    assert!(matches!(damaged, ReleaseError::Damaged { .. }), "{damaged}");
    for digest in ["0", "zzzzzzzz", "00000000"] {
        let unknown = releaser.rollback("prod", Some(digest), &author(None, false)).await.unwrap_err();
        assert!(matches!(unknown, ReleaseError::Digest { .. }), "{unknown}");
    }
    let nothing = releaser.rollback("prod", None, &author(None, false)).await.unwrap_err();
    assert!(matches!(nothing, ReleaseError::NothingBefore { .. }), "{nothing}");
    assert_ne!(stored(&lab, "prod/model.onnx").await.unwrap(), bytes);
    assert_eq!(stored(&lab, "prod/model.onnx").await.unwrap(), sample_model());
}

#[tokio::test]
async fn of_concurrent_promotions_one_wins_and_the_history_tells_of_all() {
    const RIVALS: usize = 4;
    let lab = Lab::start().await;
    for rival in 0..RIVALS {
        let (bytes, model) = version(&format!("rival {rival}"));
        put_candidate(&lab, &format!("dev-{rival}"), &bytes, &model).await;
    }
    // All have read what is in production before any of them writes.
    let have_read = Arc::new(Barrier::new(RIVALS));
    let slow = faulty(&lab.clients, move |seen| {
        (seen.method == "PUT" && seen.uri.contains("prod/model.onnx")).then(|| Fault::Meet(have_read.clone()))
    });
    let releaser = releaser(&slow);
    let mut promotions = tokio::task::JoinSet::new();
    for rival in 0..RIVALS {
        let releaser = releaser.clone();
        promotions.spawn(async move {
            releaser.promote(&format!("dev-{rival}"), "prod", &author(None, false)).await
        });
    }
    let results: Vec<Result<Released, ReleaseError>> = promotions.join_all().await;
    let winners: Vec<&Released> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    let [winner] = winners[..] else { panic!("one wins: {results:?}") };
    for lost in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(lost.to_string().contains(&winner.model.sha256), "{lost}");
    }
    let serving = stored(&lab, "prod/model.onnx").await.unwrap();
    assert_eq!(Model::load(&serving).unwrap().sha256, winner.model.sha256);

    let history = releaser.history("prod").await.unwrap();
    let count = |state| history.entries.iter().filter(|entry| entry.state == state).count();
    assert_eq!((count(ReleaseState::Released), count(ReleaseState::Lost)), (1, RIVALS - 1), "{history:?}");
    let now = history.at(Utc::now()).unwrap();
    assert_eq!(now.model, winner.model);
}

#[tokio::test]
async fn a_promotion_whose_answer_is_lost_has_won_all_the_same() {
    let lab = Lab::start().await;
    let (bytes, model) = version("2");
    put_candidate(&lab, "dev", &bytes, &model).await;
    let losing = faulty(&lab.clients, |seen| {
        (seen.method == "PUT" && seen.uri.contains("prod/model.onnx")).then_some(Fault::LoseAnswer)
    });
    let released = releaser(&losing).promote("dev", "prod", &author(None, false)).await.unwrap();
    assert_eq!((released.kind, &released.model), (Some(ReleaseKind::Promote), &model));
    assert_eq!(stored(&lab, "prod/model.onnx").await.unwrap(), bytes);
    // And one that never arrives has not.
    let (bytes, next) = version("3");
    put_candidate(&lab, "dev", &bytes, &next).await;
    let broken = faulty(&lab.clients, |seen| {
        (seen.method == "PUT" && seen.uri.contains("prod/model.onnx")).then_some(Fault::Break)
    });
    releaser(&broken).promote("dev", "prod", &author(None, false)).await.unwrap_err();
    let history = releaser(&lab.clients).history("prod").await.unwrap();
    let states: Vec<_> = history.entries.iter().map(|entry| (&entry.model, entry.state)).collect();
    assert_eq!(states, [(&model, ReleaseState::Released), (&next, ReleaseState::Failed)]);
}

#[tokio::test]
async fn every_second_of_a_random_history_has_the_model_of_the_oracle() {
    const SEED: u64 = 20_261_122;
    let mut random = StdRng::seed_from_u64(SEED);
    let lab = Lab::start().await;
    let releaser = releaser(&lab.clients);
    let versions: Vec<(Vec<u8>, ModelInfo)> = (0..5).map(|n| version(&n.to_string())).collect();
    let sample = Model::load(&sample_model()).unwrap().info();
    // The sample model is served first; what is in its place is recorded by whoever serves it.
    Pipeline::new(lab.config.clone(), lab.clients.clone()).warm_up().await;
    let mut oracle: Vec<(DateTime<Utc>, String)> = Vec::new();
    let mut now = sample.sha256.clone();
    let mut steps = Vec::new();
    for _ in 0..14 {
        let choice = random.random_range(0..10);
        let (bytes, model) = &versions[random.random_range(0..versions.len())];
        let released = match choice {
            0..5 => {
                put_candidate(&lab, "dev", bytes, model).await;
                releaser.promote("dev", "prod", &author(None, false)).await
            }
            5..8 => releaser.rollback("prod", None, &author(None, false)).await,
            _ => releaser.rollback("prod", Some(&model.sha256), &author(None, false)).await,
        };
        steps.push(format!("{choice}: {:?}", released.as_ref().map(|r| r.model.version.clone())));
        if let Ok(Released { model, released_at: Some(at), .. }) = &released {
            oracle.push((*at, model.sha256.clone()));
            now.clone_from(&model.sha256);
        }
        if random.random_bool(0.5) {
            Pipeline::new(lab.config.clone(), lab.clients.clone()).warm_up().await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..900))).await;
    }
    assert!(oracle.len() > 4, "{steps:?}");
    let history = releaser.history("prod").await.unwrap();
    let (first, last) = (oracle[0].0, oracle[oracle.len() - 1].0);
    let mut time = first;
    while time <= last + TimeDelta::seconds(2) {
        let expected = oracle.iter().take_while(|(at, _)| *at <= time).last().map(|(_, sha256)| sha256);
        assert_eq!(history.at(time).map(|e| &e.model.sha256), expected, "seed {SEED}, at {time}: {steps:?}");
        time += TimeDelta::seconds(1);
    }
    assert_eq!(history.at(Utc::now()).unwrap().model.sha256, now);
    assert_eq!(Model::load(&stored(&lab, "prod/model.onnx").await.unwrap()).unwrap().sha256, now);
}

/// Sample cells with the label that is right, by key.
fn cells() -> BTreeMap<String, (Vec<u8>, String)> {
    let csv = String::from_utf8(file("sample-images/expected.csv")).unwrap();
    let rows = csv.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        let is_cell = fields[1] == "classified" && fields[0].starts_with("slide-00");
        is_cell.then(|| (fields[0].to_owned(), fields[2].to_owned()))
    });
    rows.map(|(key, label)| (key.clone(), (file(&format!("sample-images/{key}")), label))).collect()
}

/// Uploads the cells, and has them answered by the given stages.
async fn answer_cells(lab: &Lab, cells: &BTreeMap<String, (Vec<u8>, String)>, stages: &[&str]) {
    let handlers: Vec<_> =
        stages.iter().map(|stage| lab.handler_of(config(stage), lab.clients.clone())).collect();
    for (key, (bytes, _)) in cells {
        let etag = lab.put(key, bytes).await;
        for handler in &handlers {
            let event = s3(&Upload::new(key, &etag, bytes.len()));
            handler.handle(&event, Some(Instant::now() + Duration::from_secs(60))).await.unwrap();
        }
    }
}

async fn compared(
    lab: &Lab,
    candidate: &ModelInfo,
    reference: &ModelInfo,
    slide: Option<&str>,
) -> Comparison {
    let query = ComparisonQuery {
        candidate: ("dev".to_owned(), candidate.clone()),
        reference: ("prod".to_owned(), reference.clone()),
        since: None,
        slide: slide.map(str::to_owned),
    };
    compare(&lab.table(), &query, |_| {}).await.unwrap()
}

#[tokio::test]
async fn a_planted_worse_model_is_found_by_the_verdicts_and_a_better_one_too() {
    let lab = Lab::start().await;
    let (bytes, worse) = contrary();
    let sample = Model::load(&sample_model()).unwrap().info();
    lab.put_model("dev", &bytes).await;
    let cells: BTreeMap<_, _> = cells().into_iter().take(40).collect();
    assert_eq!(cells.len(), 40);
    answer_cells(&lab, &cells, &["dev", "prod"]).await;

    let found = compared(&lab, &worse, &sample, None).await;
    assert_eq!((found.images, found.agreement.unwrap().count), (40, 0), "{found:?}");
    assert_eq!(found.conclusion, Conclusion::NoVerdicts);
    assert_eq!(found.flips.iter().map(|flip| flip.images).sum::<u64>(), 40);
    assert!(found.candidate.speed.is_some() && found.reference.speed.is_some());
    let of_slide = compared(&lab, &worse, &sample, Some("slide-001-healthy")).await;
    let on_slide = cells.keys().filter(|key| key.starts_with("slide-001-healthy/")).count() as u64;
    assert!(on_slide > 0 && of_slide.images == on_slide, "{} of {on_slide}", of_slide.images);

    // Reviewers look at 20 of them; of one they change their mind, and of one they saw another upload.
    let writer = TableWriter::new(lab.clients.dynamodb.clone(), TABLE);
    for (index, (key, (bytes, label))) in cells.iter().take(20).enumerate() {
        let image = ImageKey { bucket: INPUT.to_owned(), key: key.clone() };
        let mut verdict = Verdict {
            label: label.clone(),
            object_version: if index == 0 { "another".to_owned() } else { lab.put(key, bytes).await },
            reviewer: "ada".to_owned(),
            reviewed_at: Utc::now() - TimeDelta::hours(1),
        };
        if index == 1 {
            verdict.label = "no such label".to_owned();
            writer.put_verdict(&image, &verdict, &giemsa_config::DEFAULT_STAGES).await.unwrap();
            verdict = Verdict { label: label.clone(), reviewed_at: Utc::now(), ..verdict };
        }
        writer.put_verdict(&image, &verdict, &giemsa_config::DEFAULT_STAGES).await.unwrap();
    }
    let found = compared(&lab, &worse, &sample, None).await;
    let verdicts = found.verdicts.as_ref().unwrap();
    assert_eq!((verdicts.images, verdicts.right.only_candidate, verdicts.right.only_reference), (19, 0, 19));
    assert_eq!(found.conclusion, Conclusion::CandidateWorse);

    // The other way round.
    lab.put_model("dev", &sample_model()).await;
    lab.put_model("prod", &bytes).await;
    answer_cells(&lab, &cells, &["dev", "prod"]).await;
    let found = compared(&lab, &sample, &worse, None).await;
    assert_eq!(found.conclusion, Conclusion::CandidateBetter, "{found:?}");
    // Results of models that the stages no longer have do not count.
    assert_eq!(compared(&lab, &worse, &sample, None).await.images, 0);
}

#[tokio::test]
async fn reclassification_takes_exactly_the_images_of_a_model_and_goes_on_after_a_failure() {
    let lab = Lab::start().await;
    let sample = Model::load(&sample_model()).unwrap().info();
    let mut of_old: BTreeMap<_, _> = cells().into_iter().take(36).collect();
    let of_other: BTreeMap<_, _> = cells().into_iter().take(36).step_by(3).collect();
    of_old.retain(|key, _| !of_other.contains_key(key));
    answer_cells(&lab, &of_old, &["prod"]).await;
    let (bytes, other) = version("other");
    lab.put_model("prod", &bytes).await;
    answer_cells(&lab, &of_other, &["prod"]).await;
    let (bytes, new) = version("new");
    lab.put_model("prod", &bytes).await;

    let before: BTreeMap<String, Record> = records(&lab, of_other.keys()).await;
    let query = AnsweredQuery { stage: "prod".to_owned(), sha256: sample.sha256.clone(), since: None };
    assert_eq!(lab.table().count_answered(&query).await.unwrap(), of_old.len() as u64);
    // Some results cannot be written; those images are left for the next run.
    let failing = faulty(&lab.clients, |seen| {
        (seen.method == "PUT" && seen.uri.contains("cell-1")).then_some(Fault::ACCESS_DENIED)
    });
    let run = async |clients: &Clients| {
        let pipeline = Pipeline::new(lab.config.clone(), clients.clone());
        assert_eq!(pipeline.model_digest().await.unwrap(), new.sha256);
        let mut steps = 0;
        let done = reclassify(&lab.table(), &pipeline, &query, |_| steps += 1).await.unwrap();
        assert!(steps >= 16, "a step at least for each shard: {steps}");
        done
    };
    let first = run(&failing).await;
    let left = first.unanswered.len() as u64;
    assert!(left > 0 && first.classified > 0, "{first:?}");
    assert_eq!(first.total(), of_old.len() as u64);
    let second = run(&lab.clients).await;
    assert_eq!(
        (second.classified, second.unanswered.len() as u64),
        (left, 0),
        "only what was left: {second:?}"
    );
    assert_eq!(run(&lab.clients).await.total(), 0, "nothing is left");

    for (key, record) in records(&lab, of_old.keys()).await {
        assert_eq!(record.model, new, "{key}");
    }
    assert_eq!(records(&lab, of_other.keys()).await, before, "of {other:?}");
}

async fn records(lab: &Lab, keys: impl Iterator<Item = &String>) -> BTreeMap<String, Record> {
    let mut records = BTreeMap::new();
    for key in keys {
        records.insert(key.clone(), lab.result(key).await.unwrap());
    }
    records
}
