//! The big proof: uploads under faults of all kinds end in the same state as without any.
//!
//! Images are uploaded to a `giemsa up` that injects faults everywhere, that is killed and frozen at random moments, and
//! whose address space is limited; some are replaced meanwhile, some are not images. What the table and the results prefix
//! hold then has to equal what an undisturbed stack makes of the same uploads, apart from times and from ids made of
//! object versions.
//!
//! `GIEMSA_SOAK_UPLOADS` sets the size, `GIEMSA_SOAK_SEED` repeats a run (`make soak` prints it).

mod plan;
mod process;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use giemsa_local::INPUT_BUCKET;
use plan::{Plan, UPLOADERS, Upload};
use process::Process;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use state::{State, Version};

/// Uploads without `GIEMSA_SOAK_UPLOADS`.
const DEFAULT_UPLOADS: usize = 40;

/// Messages of all queues that uploaders let pile up. A message that is in flight at ten kills is given up, as one that
/// kills; with batches of everything that waits, an innocent one must not wait for as long as ten kills take.
const MAX_BACKLOG: u64 = 1_000;

/// Stages that answer every upload.
const STAGES: [&str; 2] = ["dev", "prod"];

/// How long the smallest run may take; a larger one in proportion.
const PATIENCE: Duration = Duration::from_secs(300);

fn faults(seed: u64, uploads: usize) -> String {
    // Each upload is some thirty chances to be killed by; a few kills by itself are enough beside those from outside.
    let kill = 0.06 / uploads as f64;
    format!(
        "seed={seed},limit=3,batch=1..10000,\
         slow-down=0.04,internal-error=0.02,throughput=0.04,conflict=0.02,unprocessed=0.1,timeout=0.0005:11s,\
         reset=0.03,truncate=0.03,checksum=0.03,slow=0.03:200ms,lost-answer=0.03,\
         duplicate=0.3:2s,reorder=0.3:500ms,delay=0.1:1s,late=0.02:4s,expire=0.05:30ms,\
         panic-decode=0.01,panic-model=0.01,freeze=0.002:5s,kill={kill:.6}"
    )
}

/// What happened on the way, for the report.
#[derive(Default)]
struct Figures {
    kills: usize,
    freezes: usize,
    /// Objects that handlers answered, skipped or handed back, as far as their process lived to say it.
    delivered: u64,
    handed_back: u64,
    faults: BTreeMap<String, u64>,
    /// Notes of failures that could not be written or taken away, which is tried once only.
    unwritten_notes: usize,
}

// The loops below wait on processes, and uploaders must not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn under_all_faults_nothing_is_lost_and_nothing_is_wrong() {
    let (count, seed) = settings();
    eprintln!("soak: {count} uploads, GIEMSA_SOAK_SEED={seed}");
    let plan = Arc::new(Plan::new(seed, count));
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];

    let started = Instant::now();
    let (of_disturbed, of_clean) = (plan.clone(), plan.clone());
    let [disturbed_folder, clean_folder] = [0, 1].map(|run| folders[run].path().to_owned());
    let disturbed = tokio::spawn(async move { disturbed_run(&of_disturbed, &disturbed_folder, seed).await });
    let clean = tokio::spawn(async move { clean_run(&of_clean, &clean_folder, seed + 1).await });
    let (disturbed, figures) = disturbed.await.unwrap();
    check(&plan, &disturbed);
    let clean = clean.await.unwrap();
    check(&plan, &clean);
    assert_eq!(clean.versions.len(), count, "without faults nothing is sent twice");

    let left_notes = disturbed.items_of_kind("failure").count();
    assert!(
        left_notes <= figures.unwritten_notes + figures.kills,
        "{left_notes} notes of failures are left of uploads that are answered; {} could not be written, {} kills",
        figures.unwritten_notes,
        figures.kills
    );
    assert_eq!(clean.items_of_kind("failure").count(), 0);
    assert_same("table items", &disturbed.comparable_items(), &clean.comparable_items());
    assert_same("result objects", &disturbed.comparable_results(), &clean.comparable_results());

    let injected: u64 = figures.faults.values().sum();
    let by_kind: Vec<String> = figures.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    eprintln!(
        "soaked in {} s: {count} uploads, {} versions, {} result objects, {} events delivered ({} handed back), {injected} faults \
         ({}), {} kills, {} freezes of the process, {left_notes} notes of failures left, wrong results: 0, lost: 0",
        started.elapsed().as_secs(),
        disturbed.versions.len(),
        disturbed.results.len(),
        figures.delivered,
        figures.handed_back,
        by_kind.join(", "),
        figures.kills,
        figures.freezes,
    );
    assert!(figures.kills >= 3 && injected > count as u64, "too little went wrong to prove anything");
}

#[allow(clippy::disallowed_methods, reason = "the size of a test is not a setting of the program")]
fn settings() -> (usize, u64) {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is {text:?}; expected a whole number")))
    };
    let count =
        number("GIEMSA_SOAK_UPLOADS").map_or(DEFAULT_UPLOADS, |count| usize::try_from(count).unwrap());
    (count, number("GIEMSA_SOAK_SEED").unwrap_or(1))
}

/// The state after a run with faults, read by a stack without.
async fn disturbed_run(plan: &Arc<Plan>, folder: &std::path::Path, seed: u64) -> (State, Figures) {
    let mut process = Process::start(folder, Some(&faults(seed, plan.uploads.len())), seed);
    let uploads = Uploads::start(plan, &process);
    let mut figures = Figures::default();
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xdead);
    let patience = PATIENCE + Duration::from_millis(150) * u32::try_from(plan.uploads.len()).unwrap();
    let started = Instant::now();
    // At least three kills and a freeze while uploads go on, then now and then until all is answered.
    let mut next_kill = started + Duration::from_millis(random.random_range(500..2_500));
    let mut planned_kills = 0;
    loop {
        process.revive();
        let depths = process.depths();
        uploads
            .backlog
            .store(depths.map_or(MAX_BACKLOG as usize, |(waiting, _)| waiting as usize), Ordering::SeqCst);
        if uploads.are_done() && depths.is_some_and(|(waiting, _)| waiting == 0) && planned_kills >= 3 {
            break;
        }
        if Instant::now() >= next_kill {
            if planned_kills % 4 == 1 {
                process.freeze(Duration::from_millis(random.random_range(500..2_000)));
                figures.freezes += 1;
            }
            process.kill();
            planned_kills += 1;
            let pause = if planned_kills < 3 { 500..1_500 } else { 20_000..60_000 };
            next_kill = Instant::now() + Duration::from_millis(random.random_range(pause));
        }
        assert!(
            started.elapsed() < patience,
            "not answered after {} s: {depths:?} waiting and given up, {} of {} uploaded\n{}",
            patience.as_secs(),
            uploads.acknowledged.load(Ordering::SeqCst),
            plan.uploads.len(),
            process.last_words()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    uploads.join().await;
    figures.kills = process.kills;
    let logs = process.stop();
    let lines = || logs.iter().flat_map(|log| log.lines());
    figures.unwritten_notes = lines().filter(|line| line.contains("note of a failure not written")).count();
    for line in lines().filter(|line| line.contains("batch answered")) {
        let field = |name: &str| -> u64 {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        figures.handed_back += field("retried");
        figures.delivered += field("classified") + field("rejected") + field("skipped") + field("retried");
    }
    let summary: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("faults.json")).unwrap()).unwrap();
    let injected = summary["injected"].as_object().unwrap().iter();
    figures.faults = injected.map(|(kind, count)| (kind.clone(), count.as_u64().unwrap())).collect();
    (state_at_rest(folder, seed).await, figures)
}

async fn clean_run(plan: &Arc<Plan>, folder: &std::path::Path, seed: u64) -> State {
    let process = Process::start(folder, None, seed);
    let uploads = Uploads::start(plan, &process);
    uploads.backlog.store(0, Ordering::SeqCst);
    while !uploads.are_done() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    uploads.join().await;
    wait_until_empty(&process).await;
    process.stop();
    state_at_rest(folder, seed).await
}

/// What a folder holds, once nobody writes to it.
async fn state_at_rest(folder: &std::path::Path, seed: u64) -> State {
    let process = Process::start(folder, None, seed);
    wait_until_empty(&process).await;
    let (_, dead) = process.depths().expect("the dashboard answers");
    assert_eq!(dead, 0, "messages were given up");
    let state = State::of(&process.clients()).await;
    process.stop();
    state
}

async fn wait_until_empty(process: &Process) {
    let started = Instant::now();
    while process.depths().is_none_or(|(waiting, _)| waiting > 0) {
        assert!(started.elapsed() < PATIENCE * 4, "{:?} {}", process.depths(), process.last_words());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Uploaders at work.
struct Uploads {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    acknowledged: Arc<AtomicUsize>,
    /// Messages that wait, as the one who asks last saw it.
    backlog: Arc<AtomicUsize>,
}

impl Uploads {
    fn start(plan: &Arc<Plan>, process: &Process) -> Self {
        let (acknowledged, backlog) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let upload = |uploader: usize| {
            let (mine, s3) = (plan.of_uploader(uploader), process.clients().s3);
            let (acknowledged, backlog) = (acknowledged.clone(), backlog.clone());
            tokio::spawn(async move {
                for Upload { key, content } in mine {
                    while backlog.load(Ordering::SeqCst) as u64 > MAX_BACKLOG {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    // As a careful script does: again, until it is acknowledged.
                    let put = || {
                        s3.put_object().bucket(INPUT_BUCKET).key(&key).body(ByteStream::from(content.clone()))
                    };
                    while put().send().await.is_err() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let tasks = (0..UPLOADERS).map(upload).collect();
        Self { tasks, acknowledged, backlog }
    }

    fn are_done(&self) -> bool {
        self.tasks.iter().all(tokio::task::JoinHandle::is_finished)
    }

    async fn join(self) {
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// What holds in any state, whatever happened on the way to it.
fn check(plan: &Plan, state: &State) {
    let etags = plan.etags();
    let mut of_key = BTreeMap::<&str, Vec<&Version>>::new();
    for version in &state.versions {
        of_key.entry(&version.key).or_default().push(version);
    }
    assert!(of_key.keys().eq(etags.keys()), "every key that was uploaded is there, and no other");
    for (key, versions) in &of_key {
        // Oldest first, without those that were sent again because the answer was lost.
        let mut contents: Vec<&str> = versions.iter().rev().map(|version| version.etag.as_str()).collect();
        contents.dedup();
        let mut sent: Vec<&str> = etags[key].iter().map(String::as_str).collect();
        sent.dedup();
        assert_eq!(contents, sent, "{key}: contents in the order of upload");
        let latest: Vec<&&Version> = versions.iter().filter(|version| version.is_latest).collect();
        assert!(matches!(latest[..], [only] if only == &versions[0]), "{key}: the newest is the current one");
    }

    for stage in STAGES {
        check_places(state, stage);
        check_results(state, stage);
        check_current(state, stage, &of_key);
    }
    assert_eq!(
        state.results.len(),
        STAGES.len() * state.versions.len(),
        "result objects for all versions, no other"
    );
    assert_eq!(
        state.items_of_kind("result").count(),
        STAGES.len() * of_key.len(),
        "one current result for each key"
    );
    assert_eq!(state.open_uploads, 0);
}

/// Every slide and day that has a result knows of it: nothing was acknowledged before.
fn check_places(state: &State, stage: &str) {
    let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    let of_stage = |item: &&Value| item["stage"] == stage;
    let told: BTreeSet<String> =
        state.items_of_kind("activity").filter(of_stage).map(|item| text(item, "slide")).collect();
    let answered: BTreeSet<String> =
        state.items_of_kind("result").filter(of_stage).map(|item| text(item, "slide")).collect();
    assert_eq!(told, answered, "{stage}: slides");
    let days_pk = format!("days#{stage}");
    let of_days = state.items.iter().filter(|item| item["pk"] == days_pk);
    let days: BTreeSet<String> = of_days.map(|item| text(item, "sk")).collect();
    for item in state.items_of_kind("result").filter(of_stage) {
        let recent_pk = text(item, "recent_pk");
        let day = recent_pk.rsplit('#').nth(1).expect("a day before the shard");
        assert!(days.contains(day), "{stage}: {day} is not among {days:?}");
    }
}

/// Exactly one result object for each version, of what it holds.
fn check_results(state: &State, stage: &str) {
    let results = state.results.values().filter(|record| record["stage"] == stage);
    let text = |record: &Value, field: &str| record["image"][field].as_str().unwrap_or_default().to_owned();
    let answered: Vec<[String; 3]> =
        results.map(|record| ["key", "version_id", "etag"].map(|field| text(record, field))).collect();
    let uploaded = state.versions.iter();
    let uploaded: BTreeSet<[String; 3]> = uploaded
        .map(|version| [version.key.clone(), version.version_id.clone(), version.etag.clone()])
        .collect();
    let distinct: BTreeSet<[String; 3]> = answered.iter().cloned().collect();
    assert_eq!(answered.len(), distinct.len(), "{stage}: a version has two results");
    let lost: Vec<_> = uploaded.difference(&distinct).collect();
    let extra: Vec<_> = distinct.difference(&uploaded).collect();
    assert!(lost.is_empty() && extra.is_empty(), "{stage}: lost {lost:?}, without an upload {extra:?}");
}

/// The current record of each key is of its newest version.
fn check_current(state: &State, stage: &str, of_key: &BTreeMap<&str, Vec<&Version>>) {
    for record in state.items_of_kind("result").filter(|item| item["stage"] == stage) {
        let key = record["image"]["key"].as_str().unwrap();
        let newest = of_key[key][0];
        assert_eq!(
            record["image"]["version_id"].as_str().unwrap_or_default(),
            newest.version_id,
            "{stage}: an older image won for {key}"
        );
        assert_eq!(record["image"]["etag"], newest.etag, "{key}");
    }
}

fn assert_same(what: &str, disturbed: &BTreeSet<String>, clean: &BTreeSet<String>) {
    let first = |set: &BTreeSet<String>, other: &BTreeSet<String>| {
        let differing: Vec<&String> = set.difference(other).collect();
        (differing.len(), differing.into_iter().take(3).cloned().collect::<Vec<_>>())
    };
    assert!(
        disturbed == clean,
        "{what}: only with faults {:#?}\nonly without {:#?}",
        first(disturbed, clean),
        first(clean, disturbed)
    );
}
