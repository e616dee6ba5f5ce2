//! `giemsa reconcile` on buckets that are too large to be made: memory, resumption, versions, partial batches.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[cfg(target_os = "linux")]
use giemsa_tests::large_bucket::peak_memory_of;
use giemsa_tests::large_bucket::{Fate, LargeBucket, kill_after, lines, reconcile, run};
use serde_json::{Value, json};

fn expected_counts(images: usize) -> Value {
    let count = |fate| (0..images).filter(|image| Fate::of(*image) == fate).count();
    json!({
        "answered": count(Fate::Answered), "rejected": count(Fate::Rejected), "replaced": 0, "gone": 0, "waiting": 0,
        "unanswered": count(Fate::Lost) + count(Fate::Failed), "outdated": count(Fate::Outdated),
    })
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_bucket() {
    /// What the allocator may keep from one page to the next.
    const SLACK_BYTES: u64 = 6 << 20;
    let mut peaks = Vec::new();
    for images in [2_000, 40_000] {
        let bucket = LargeBucket::new(images, 1);
        let mut command = reconcile(&bucket.serve().await);
        command.arg("--json");
        let (peak, output) = peak_memory_of(command).await;
        let (open, summary) = lines(&output);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!((&summary["uploads"], &summary["states"]), (&json!(images), &expected_counts(images)));
        assert_eq!(open.len(), images / 1_000 * 3);
        assert!(
            bucket.partial_batches.load(Ordering::Relaxed) >= images / 100,
            "batches were answered in part"
        );
        peaks.push(peak);
    }
    eprintln!("peak memory: {} kB for 2,000 keys, {} kB for 40,000", peaks[0] >> 10, peaks[1] >> 10);
    assert!(peaks[0] > 4 << 20, "{peaks:?} are not figures of a process");
    assert!(peaks[1] <= peaks[0] + SLACK_BYTES, "{peaks:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: cargo test --test lab reconcile_large:: -- --ignored --nocapture"]
async fn a_million_uploads_take_the_memory_of_a_few_thousand() {
    let images = 1_000_000;
    let bucket = LargeBucket::new(images, 1);
    let mut command = reconcile(&bucket.serve().await);
    command.arg("--json");
    let started = std::time::Instant::now();
    let (peak, output) = peak_memory_of(command).await;
    eprintln!("{images} uploads in {} s, peak memory {} kB", started.elapsed().as_secs(), peak >> 10);
    let (_, summary) = lines(&output);
    assert_eq!((&summary["uploads"], &summary["states"]), (&json!(images), &expected_counts(images)));
    assert!(peak < 128 << 20, "{peak}");
}

async fn a_killed_run_goes_on(bucket: Arc<LargeBucket>) {
    let url = bucket.serve().await;
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("run.json");
    let command = || {
        let mut command = reconcile(&url);
        command.args(["--json", "--checkpoint"]).arg(&checkpoint);
        command
    };
    let whole = run(command()).await;
    let (all_open, summary) = lines(&whole);
    assert_eq!(whole.status.code(), Some(1));
    assert!(!checkpoint.exists(), "the run is over");
    let pages = bucket.pages_served.swap(0, Ordering::SeqCst);

    // Killed twice on the way. The page that is never answered makes sure that it is on the way.
    let page_uploads = 1_000;
    bucket.stall_at_page.store(3, Ordering::SeqCst);
    kill_after(command(), &checkpoint, page_uploads).await;
    bucket.pages_served.store(0, Ordering::SeqCst);
    bucket.stall_at_page.store(3, Ordering::SeqCst);
    kill_after(command(), &checkpoint, 2 * page_uploads).await;
    let name = |key: &str| {
        serde_json::from_slice::<Value>(&std::fs::read(&checkpoint).unwrap()).unwrap()[key].clone()
    };
    let so_far = name("counts")["uploads"].as_u64().unwrap() as usize / page_uploads as usize;
    assert!((2..pages).contains(&so_far), "{so_far} of {pages} pages");

    // With other parameters it is another run.
    let mut other = command();
    other.args(["--prefix", "slide 1/"]);
    let refused = run(other).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("--prefix was \"\" and is now \"slide 1/\"") && refused.stdout.is_empty(),
        "{said}"
    );

    bucket.stall_at_page.store(0, Ordering::SeqCst);
    bucket.pages_served.store(0, Ordering::SeqCst);
    let rest = run(command()).await;
    let (open, resumed) = lines(&rest);
    assert_eq!(resumed, summary, "the same counts as in one run");
    assert_eq!(bucket.pages_served.load(Ordering::SeqCst), pages - so_far, "it went on where it was");
    assert!(!open.is_empty() && open.len() < all_open.len());
    assert_eq!(open, all_open[all_open.len() - open.len()..], "what is listed is the rest");
    assert!(!checkpoint.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_over_objects_goes_on_with_the_same_counts() {
    a_killed_run_goes_on(LargeBucket::new(6_500, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_over_versions_goes_on_with_the_same_counts() {
    // Three to an image, so that pages end between versions of one key.
    a_killed_run_goes_on(LargeBucket::new(1_600, 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_is_an_upload_of_its_own() {
    let images = 1_100;
    let bucket = LargeBucket::new(images, 3);
    let mut command = reconcile(&bucket.serve().await);
    command.arg("--json");
    let (open, summary) = lines(&run(command).await);
    assert_eq!((&summary["listed_by"], &summary["uploads"]), (&json!("versions"), &json!(3 * images)));
    let count = |of: &dyn Fn(usize) -> bool| (0..images).filter(|image| of(*image)).count();
    // Of an older version either its own result object counts, or that the table still shows it.
    let no_object = count(&|image| image % 10 == 3);
    let outdated = count(&|image| Fate::of(image) == Fate::Outdated);
    let lost = count(&|image| matches!(Fate::of(image), Fate::Lost | Fate::Failed));
    let rejected = count(&|image| Fate::of(image) == Fate::Rejected);
    let expected = json!({
        "answered": images - lost - rejected, "rejected": rejected, "replaced": 2 * images - no_object - outdated,
        "gone": 0, "waiting": 0, "unanswered": lost + no_object, "outdated": outdated,
    });
    assert_eq!(summary["states"], expected);
    let first = open.iter().find(|line| line["state"] == "unanswered").unwrap();
    assert_eq!((&first["version_id"], &first["key"]), (&json!("v1"), &json!(LargeBucket::key(3))));
    let failed = open.iter().find(|line| line["key"] == LargeBucket::key(8)).unwrap();
    assert_eq!((&failed["tries"], &failed["version_id"]), (&json!(5), &json!("v3")));
    assert!(failed["reason"].as_str().unwrap().ends_with("throttled"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_proof() {
    let bucket = LargeBucket::new(3_000, 1);
    let mut command = reconcile(&bucket.serve().await);
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the output was closed"), "{said}");
}
