//! `giemsa demo`: sends the sample images through the whole local stack and checks every answer.
//!
//! It uploads through the S3 API, as a client would. It succeeds only if every file of the folder ended in the state
//! that `expected.csv` records for it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use futures::{StreamExt, TryStreamExt, stream};
use giemsa_config::PRODUCTION_STAGE;
use giemsa_core::record::Record;
use giemsa_local::{INPUT_BUCKET, Stack, StackSettings};
use giemsa_store::TableReader;

use super::{DemoArguments, Failed, complain, folders, output, own_program};

/// Uploads at once.
const UPLOADS: usize = 8;

/// Longest wait for the answers.
const PATIENCE: Duration = Duration::from_secs(300);

/// The state a file has to end in, as a row of `expected.csv`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
struct Expected {
    path: String,
    status: String,
    /// Empty where any label will do.
    label: String,
    reject_code: String,
    /// Whether the answer has to ask for a reader; empty where that is not checked.
    #[serde(default)]
    needs_review: Option<YesNo>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum YesNo {
    Yes,
    No,
}

impl Expected {
    fn shown(&self) -> String {
        if self.status == "rejected" {
            return format!("rejected: {}", self.reject_code);
        }
        let label = if self.label.is_empty() { "any label" } else { &self.label };
        match self.needs_review {
            Some(review) => format!("{label}, {}", review_shown(review == YesNo::Yes)),
            None => label.to_owned(),
        }
    }

    /// What became of the file, in the words of `shown` and no more of them than it has.
    fn found(&self, record: &Record) -> String {
        if let Some(reject) = &record.reject {
            return format!("rejected: {}", reject.code);
        }
        let label = record.label.clone().unwrap_or_default();
        match self.needs_review {
            Some(_) => format!("{label}, {}", review_shown(record.needs_review)),
            None => label,
        }
    }

    fn is_met_by(&self, record: &Record) -> bool {
        let reject_code = record.reject.as_ref().map_or("", |reject| reject.code.as_str());
        let label = record.label.as_deref().unwrap_or_default();
        let review = self.needs_review.is_none_or(|review| record.needs_review == (review == YesNo::Yes));
        (record.status.as_str(), reject_code) == (self.status.as_str(), self.reject_code.as_str())
            && (self.label.is_empty() || label == self.label)
            && review
    }
}

fn review_shown(needed: bool) -> &'static str {
    if needed { "to be reviewed" } else { "not to be reviewed" }
}

/// Runs the demo.
pub async fn run(arguments: &DemoArguments) -> Result<(), Failed> {
    let expected = read_expected(&arguments.samples).map_err(Failed::Usage)?;
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    complain("Starting S3, DynamoDB and the classifier in a temporary folder …");
    let settings = StackSettings {
        data_dir: folder.path().to_owned(),
        s3_port: 0,
        dynamodb_port: 0,
        sqs_port: 0,
        http_port: 0,
        run_worker: true,
        with_development: false,
        faults: None,
        sign_in: None,
        metrics_file: None,
        program: own_program()?,
    };
    let stack = Stack::start(&settings).await.map_err(anyhow::Error::from)?;
    let started = Instant::now();
    upload_all(&stack, &arguments.samples, &expected).await?;
    await_answers(&stack, expected.len()).await?;
    let elapsed = started.elapsed();
    let answers = read_answers(&stack, &expected).await?;
    stack.shutdown().await;
    report(&expected, &answers, elapsed)
}

fn read_expected(samples: &Path) -> anyhow::Result<Vec<Expected>> {
    let path = samples.join("expected.csv");
    let mut reader = csv::Reader::from_path(&path).with_context(|| {
        format!("{} cannot be read; run it in the project's folder, or pass --samples", path.display())
    })?;
    let expected: Vec<Expected> = reader.deserialize().collect::<Result<_, _>>().with_context(|| {
        format!(
            "{} is not as expected: path,status,label,reject_code,needs_review (yes, no or empty)",
            path.display()
        )
    })?;
    if expected.is_empty() {
        bail!("{} lists no file; expected a line for each file of the folder", path.display());
    }
    let mut unlisted = Vec::new();
    let walk = walkdir::WalkDir::new(samples).sort_by_file_name().into_iter();
    for entry in walk.filter_entry(folders::is_shown) {
        let entry = entry.with_context(|| format!("{} cannot be listed", samples.display()))?;
        let name = entry.path().strip_prefix(samples).unwrap_or(entry.path()).to_string_lossy().into_owned();
        if entry.file_type().is_file() && !expected.iter().any(|e| e.path == name) {
            unlisted.push(name);
        }
    }
    if !unlisted.is_empty() {
        bail!("{} has no line for: {}", path.display(), unlisted.join(", "));
    }
    Ok(expected)
}

async fn upload_all(stack: &Stack, samples: &Path, expected: &[Expected]) -> anyhow::Result<()> {
    let bar = output::progress("uploading", expected.len());
    let uploads: Vec<_> = expected
        .iter()
        .map(|Expected { path, .. }| {
            let bar = bar.clone();
            let request = stack.clients.s3.put_object().bucket(INPUT_BUCKET).key(path);
            let file = samples.join(path);
            async move {
                let body = ByteStream::from_path(&file).await;
                let body = body.with_context(|| format!("{} cannot be read", file.display()))?;
                let sent = request.body(body).send().await;
                sent.map_err(|e| {
                    anyhow!("{} cannot be uploaded: {}", file.display(), DisplayErrorContext(&e))
                })?;
                bar.inc(1);
                anyhow::Ok(())
            }
        })
        .collect();
    stream::iter(uploads).buffer_unordered(UPLOADS).try_collect::<()>().await?;
    bar.finish();
    Ok(())
}

async fn await_answers(stack: &Stack, total: usize) -> anyhow::Result<()> {
    let bar = output::progress("answered", total);
    let started = Instant::now();
    loop {
        let (unanswered, dead) = stack.unanswered().await?;
        bar.set_position((total as u64).saturating_sub(unanswered + dead));
        if unanswered == 0 {
            bar.finish();
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            bail!("{unanswered} of {total} files are not answered after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The records of all files, by path, read back from the table.
async fn read_answers(stack: &Stack, expected: &[Expected]) -> anyhow::Result<BTreeMap<String, Record>> {
    let table = TableReader::new(stack.clients.dynamodb.clone(), &stack.config.table);
    let reads: Vec<_> = expected
        .iter()
        .map(|Expected { path, .. }| {
            let table = table.clone();
            async move {
                Ok::<_, anyhow::Error>(table.image(INPUT_BUCKET, path, &[PRODUCTION_STAGE]).await?.results)
            }
        })
        .collect();
    let histories: Vec<Vec<Record>> = stream::iter(reads).buffer_unordered(UPLOADS).try_collect().await?;
    Ok(histories.into_iter().flatten().map(|record| (record.image.key.clone(), record)).collect())
}

fn report(
    expected: &[Expected],
    answers: &BTreeMap<String, Record>,
    elapsed: Duration,
) -> Result<(), Failed> {
    let records: Vec<Record> = answers.values().cloned().collect();
    let mut out = std::io::stdout().lock();
    let mut print = |text: String| writeln!(out, "{text}").map_err(anyhow::Error::from);
    print(format!("{}\n", output::records_table(&records)))?;
    print(format!("{}\n", output::slides_table(&records)))?;

    let mut wrong = Vec::new();
    for expected in expected {
        match answers.get(&expected.path) {
            Some(record) if expected.is_met_by(record) => {}
            Some(record) => {
                let (shown, found) = (expected.shown(), expected.found(record));
                wrong.push(format!("{}: expected {shown}, found {found}", expected.path));
            }
            None => wrong.push(format!("{}: expected {}, found no answer", expected.path, expected.shown())),
        }
    }
    let total = expected.len();
    let seconds = elapsed.as_secs_f64();
    if wrong.is_empty() {
        print(format!("All {total} files ended as expected, in {seconds:.1} s from the first upload."))?;
        return Ok(());
    }
    Err(Failed::Work(anyhow!(
        "{} of {total} files ended in another state:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    )))
}
