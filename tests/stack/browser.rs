//! The dashboard in a real browser: `tests/py/browser/` is run by pytest against `giemsa up` and Debian's Chromium.
//!
//! Needs Chromium (by `GIEMSA_TEST_CHROMIUM` or on the path) and the Python of `tests/requirements.txt` in
//! `GIEMSA_TEST_PYTHON`; without them nothing is tested, which is said aloud, and is a failure where `CI` is `true`. So
//! it is with signing in, which needs Node.js and `tests/py/browser/issuer` installed in `GIEMSA_TEST_ISSUER` (`make
//! test` does). The slide of thousands of cells is made of records that the stack itself gave.

use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{Duration, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use giemsa_core::record::Record;
use giemsa_local::{INPUT_BUCKET, TABLE};
use giemsa_store::{TableReader, TableWriter, make_current};
use giemsa_tests::running_stack::{RunningStack, project};

/// Slide and number of cells that `tests/py/browser/test_slide.py` expects.
const SLIDE: &str = "seeded-slide";
const CELLS: usize = 3_000;

/// Records written at once.
const CONCURRENCY: usize = 16;

/// Files of tests that run at once.
const WORKERS: &str = "2";

/// Names under which Chromium is installed; the first has no windows, which cost half of the time.
const BROWSERS: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

#[allow(
    clippy::disallowed_methods,
    reason = "which programs there are is a setting of the machine that tests"
)]
fn tools() -> Option<(PathBuf, PathBuf)> {
    let python = std::env::var_os("GIEMSA_TEST_PYTHON").map(PathBuf::from);
    let browser = std::env::var_os("GIEMSA_TEST_CHROMIUM").map(PathBuf::from).or_else(|| {
        let path = std::env::var_os("PATH")?;
        let mut folders = std::env::split_paths(&path);
        folders.find_map(|folder| BROWSERS.iter().map(|name| folder.join(name)).find(|file| file.is_file()))
    });
    let missing = match (&python, &browser) {
        (None, _) => {
            "GIEMSA_TEST_PYTHON is not set; expected a Python with tests/requirements.txt (make test)"
        }
        (_, None) => {
            "no Chromium is on the path; install it (Debian: apt-get install chromium-headless-shell) or set GIEMSA_TEST_CHROMIUM"
        }
        _ => return python.zip(browser),
    };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
    eprintln!("\n*** SKIPPED: the dashboard in a browser: {missing} ***\n");
    None
}

/// Fills [`SLIDE`] with copies of two answers, a positive and a negative one.
async fn seed(stack: &RunningStack) {
    let clients = stack.clients();
    let table = TableReader::new(clients.dynamodb.clone(), TABLE);
    let writer = TableWriter::new(clients.dynamodb.clone(), TABLE);
    let mut templates = Vec::new();
    for sample in ["cell-08.png", "cell-01.png"] {
        let key = format!("templates/{sample}");
        let body = std::fs::read(project("sample-images/slide-002-falciparum").join(sample)).unwrap();
        clients.s3.put_object().bucket(INPUT_BUCKET).key(&key).body(body.into()).send().await.unwrap();
        templates.push(loop {
            let answers =
                table.image(INPUT_BUCKET, &key, &giemsa_config::DEFAULT_STAGES).await.unwrap().results;
            if let Some(record) = answers.into_iter().find(|record| record.stage == "prod") {
                break record;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        });
    }
    stream::iter((0..CELLS).map(|number| cell(&templates[usize::from(number % 20 != 0)], number)))
        .map(|record| {
            let (writer, s3) = (&writer, &clients.s3);
            async move { make_current(s3, writer, &record, None).await.map(drop) }
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await
        .unwrap();
    writer.invalidate_slide("prod", SLIDE, Utc::now()).await.unwrap();
}

fn cell(template: &Record, number: usize) -> Record {
    let mut record = template.clone();
    record.result_id = format!("{number:016x}");
    record.image.key = format!("{SLIDE}/cell-{number:05}.png");
    record.image.version_id = Some(format!("{number:032x}"));
    // Each has bytes of its own.
    record.image.sha256 = Some(format!("{number:016x}").repeat(4));
    record.image.uploaded_at = Some(Utc::now() - Duration::seconds(i64::try_from(number).unwrap()));
    SLIDE.clone_into(&mut record.slide);
    record.confidence = Some(0.999 - number as f64 / 10_000.0);
    record
}

/// Runs the tests in Python; answers whether they passed.
fn run(python: &Path, browser: &Path, seeded: &RunningStack, started_before: &Path) -> bool {
    let status = Command::new(python)
        .args(["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--durations=5"])
        // By files, each with a browser and a stack of its own: the tests of a page wait more than they compute.
        .args(["--numprocesses", WORKERS, "--dist", "loadfile"])
        .arg(project("tests/py/browser"))
        .env("GIEMSA_TEST_CHROMIUM", browser)
        .env("GIEMSA_TEST_PROGRAM", giemsa_tests::binary("giemsa"))
        .env("GIEMSA_BROWSER_SEEDED", format!("http://{}", seeded.dashboard_address()))
        .env("GIEMSA_BROWSER_STARTED_BEFORE", started_before)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .status()
        .unwrap();
    status.success()
}

#[test]
fn the_dashboard_in_a_browser() {
    let Some((python, browser)) = tools() else { return };
    let folder = tempfile::tempdir().unwrap();
    let started_before = folder.path().join("started-before");
    giemsa_tests::running_stack::started_before::fill(&started_before);
    let stack = RunningStack::start(&folder.path().join("seeded"), &[]);
    let passed = std::thread::scope(|scope| {
        // Beside the tests that do not need it: they mostly wait.
        let seeding = scope.spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(seed(&stack)));
        let passed = run(&python, &browser, &stack, &started_before);
        seeding.join().unwrap();
        passed
    });
    assert!(passed, "see what pytest says above");
}
