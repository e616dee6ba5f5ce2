//! `giemsa reconcile`: proves that every upload has its result, and lists those without one.
//!
//! It changes nothing without `--fix`. It succeeds only if it checked every selected upload and each has its result.

mod checkpoint;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use chrono::{DateTime, TimeDelta, Utc};
use giemsa_ops::inventory::{Inventory, InventoryPlace, InventoryPosition};
use giemsa_ops::reconcile::{
    CheckedPage, Finding, Position, Reconciler, Scope, Source, State, notification_of,
};
use giemsa_store::UploadListing;
use giemsa_store::queues::QueueClient;
use indicatif::{ProgressBar, ProgressStyle};

use super::model::{Deployment, parse_since, parse_stage};
use super::{Failed, output};
use checkpoint::{Checkpoint, Parameters, Progress};
use report::{Heading, Report};

/// How long an upload may be in the queue before it counts as unanswered.
const DEFAULT_GRACE: &str = "15m";

#[derive(Debug, clap::Args)]
pub struct ReconcileArguments {
    /// Only uploads whose keys begin with this, e.g. slides/2026-11/.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Only images uploaded since a time or within a period: 2026-11-22, 24h, 7d.
    #[arg(long, value_parser = Since::parse)]
    since: Option<Since>,
    /// The stage.
    #[arg(long, default_value = "prod", value_parser = parse_stage)]
    stage: String,
    /// Read uploads from this manifest.json of S3 Inventory (CSV or Parquet), a path or s3://…, instead of listing them.
    #[arg(long, value_name = "MANIFEST")]
    inventory: Option<String>,
    /// Uploads younger than this may still be in the queue: 15m, 2h.
    #[arg(long, default_value = DEFAULT_GRACE, value_parser = parse_grace)]
    grace: TimeDelta,
    /// Send uploads without a result to the stage's queue again; leave out those that may still be in it.
    #[arg(long)]
    fix: bool,
    /// Record progress in this file; the same command continues from it. Removed at the end.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Print one JSON object a line: each upload without its result, then the summary.
    #[arg(long)]
    json: bool,
}

/// `--since`, and as it was written.
#[derive(Debug, Clone)]
struct Since {
    text: String,
    time: DateTime<Utc>,
}

impl Since {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), time: parse_since(text)? })
    }
}

fn parse_grace(text: &str) -> Result<TimeDelta, String> {
    let number = |suffix| text.strip_suffix(suffix).and_then(|n| n.parse::<u32>().ok()).map(i64::from);
    number('m')
        .and_then(TimeDelta::try_minutes)
        .or_else(|| number('h').and_then(TimeDelta::try_hours))
        .or_else(|| number('d').and_then(TimeDelta::try_days))
        .ok_or_else(|| "expected minutes, hours or days, e.g. 15m, 2h, 1d".to_owned())
}

/// Compares uploads with results.
pub async fn run(arguments: &ReconcileArguments) -> Result<(), Failed> {
    let deployment = Deployment::of_environment(&arguments.stage).await?;
    let inventory = open_inventory(arguments, &deployment).await?;
    let checkpoint = Checkpoint::new(arguments.checkpoint.as_deref());
    let parameters = parameters(arguments, &deployment, inventory.as_ref());
    let progress = checkpoint.load(&parameters).map_err(Failed::Usage)?;
    let since = arguments.since.as_ref().map(|since| since.time);
    let progress = progress.unwrap_or_else(|| Progress::new(&parameters, since));
    let queue = match arguments.fix {
        true => Some(QueueClient::of_stage(&arguments.stage).await.map_err(|e| Failed::Usage(e.into()))?),
        false => None,
    };
    let done = compare(arguments, &deployment, inventory, queue.as_ref(), &checkpoint, progress).await;
    let progress = done.with_context(|| format!("not all uploads were checked; {}", checkpoint.advice()))?;
    checkpoint.remove()?;
    match progress.counts.open() {
        0 => Ok(()),
        open => Err(Failed::Work(anyhow!(
            "{open} of {} uploads have no result in {}",
            progress.counts.uploads,
            arguments.stage
        ))),
    }
}

async fn open_inventory(
    arguments: &ReconcileArguments,
    deployment: &Deployment,
) -> Result<Option<Inventory>, Failed> {
    let Some(manifest) = &arguments.inventory else { return Ok(None) };
    let manifest = InventoryPlace::parse(manifest).map_err(|e| Failed::Usage(e.into()))?;
    let inventory = Inventory::open(manifest, deployment.clients.s3.clone()).await;
    let inventory = inventory.map_err(|e| Failed::Usage(e.into()))?;
    let input = &deployment.config.input_bucket;
    if inventory.bucket() != input {
        return Err(Failed::Usage(anyhow!(
            "the inventory lists the bucket {:?}, but images are uploaded to {input:?} (GIEMSA_INPUT_BUCKET); name an \
             inventory of that bucket",
            inventory.bucket()
        )));
    }
    Ok(Some(inventory))
}

/// Everything that decides what a run finds.
fn parameters(
    arguments: &ReconcileArguments,
    deployment: &Deployment,
    inventory: Option<&Inventory>,
) -> Parameters {
    let config = &deployment.config;
    BTreeMap::from([
        ("GIEMSA_INPUT_BUCKET", config.input_bucket.clone()),
        ("GIEMSA_RESULTS_BUCKET", config.results_bucket.clone()),
        ("GIEMSA_RESULTS_PREFIX", config.results_prefix.clone()),
        ("GIEMSA_TABLE", config.table.clone()),
        ("--stage", arguments.stage.clone()),
        ("--prefix", arguments.prefix.clone()),
        ("--since", arguments.since.as_ref().map(|since| since.text.clone()).unwrap_or_default()),
        ("--grace", format!("{}m", arguments.grace.num_minutes())),
        ("--fix", arguments.fix.to_string()),
        ("--inventory (MD5 of the manifest)", inventory.map(|i| i.digest().to_owned()).unwrap_or_default()),
    ])
}

/// Checks all remaining uploads, and prints what it finds.
async fn compare(
    arguments: &ReconcileArguments,
    deployment: &Deployment,
    inventory: Option<Inventory>,
    queue: Option<&QueueClient>,
    checkpoint: &Checkpoint,
    mut progress: Progress,
) -> anyhow::Result<Progress> {
    let config = &deployment.config;
    let listing =
        UploadListing::open(deployment.clients.s3.clone(), &config.input_bucket, &arguments.prefix).await?;
    let scope = Scope {
        stage: arguments.stage.clone(),
        prefix: arguments.prefix.clone(),
        since: progress.since,
        grace: arguments.grace,
        is_old_listing: inventory.is_some(),
    };
    let listed_by = match (&inventory, listing.is_versioned()) {
        (Some(_), _) => "inventory",
        (None, true) => "versions",
        (None, false) => "objects",
    };
    let report = Report::new(
        arguments.json,
        Heading {
            bucket: config.input_bucket.clone(),
            stage: scope.stage.clone(),
            prefix: scope.prefix.clone(),
            since: scope.since,
            listed_by,
        },
    );
    let reconciler = Reconciler::new(config, scope, listing.clone(), deployment.table.clone());
    let bar = Bar::new(inventory.as_ref().map(Inventory::files));
    let mut source = source_of(inventory, listing, &progress.position);
    let mut page = source.next().await?;
    while let Some(current) = page {
        bar.show(&progress, &current.position);
        // The next page is fetched while this one is compared.
        let checked = reconciler.check(current.uploads, Utc::now());
        let fetched = source.next();
        let (checked, next) = tokio::join!(checked, fetched);
        let CheckedPage { findings, left_out } = checked?;
        bar.pause(|| report.write_page(&findings))?;
        if let Some(queue) = queue {
            progress.counts.sent += send_again(queue, &config.input_bucket, &findings).await?;
        }
        progress.counts.add(&findings, left_out);
        progress.position = current.position;
        checkpoint.save(&progress)?;
        page = next?;
    }
    bar.finish();
    progress.position = Position::End;
    checkpoint.save(&progress)?;
    report.write_summary(&progress.counts)?;
    Ok(progress)
}

/// Sends the uploads of a page that have no result, and returns how many. Ended before the page is noted as done, it
/// sends them once more, and they are answered twice with the same result.
async fn send_again(queue: &QueueClient, bucket: &str, findings: &[Finding]) -> anyhow::Result<u64> {
    let lost = findings.iter().filter(|f| matches!(f.state, State::Unanswered | State::Outdated));
    let messages: Vec<String> = lost.map(|finding| notification_of(bucket, &finding.upload)).collect();
    queue.send_batch(&messages).await?;
    Ok(messages.len() as u64)
}

fn source_of(inventory: Option<Inventory>, listing: UploadListing, position: &Position) -> Source {
    let Some(inventory) = inventory else {
        return Source::Listing { listing, position: position.clone() };
    };
    let from = match position {
        Position::Inventory(position) => *position,
        Position::End => InventoryPosition { file: inventory.files(), rows: 0 },
        Position::Start | Position::Listing(_) => InventoryPosition::default(),
    };
    Source::Inventory(inventory.pages(from))
}

/// Progress on a terminal: the number of uploads in a bucket is unknown before they are listed.
struct Bar {
    bar: ProgressBar,
    files: Option<usize>,
}

impl Bar {
    fn new(files: Option<usize>) -> Self {
        let template = match files {
            Some(_) => "{spinner} file [{bar:20}] {pos}/{len}  {msg}",
            None => "{spinner} {msg}",
        };
        let style = ProgressStyle::with_template(template).expect("a valid template");
        let bar = ProgressBar::new(files.unwrap_or_default() as u64);
        Self { bar: bar.with_style(style.progress_chars("=> ")), files }
    }

    fn show(&self, progress: &Progress, position: &Position) {
        if let (Some(_), Position::Inventory(position)) = (self.files, position) {
            self.bar.set_position(position.file as u64);
        }
        let (uploads, open) = (progress.counts.uploads, progress.counts.open());
        let at = match position {
            Position::Listing(marker) => format!(", at {}", output::printable(&marker.key)),
            _ => String::new(),
        };
        self.bar.set_message(format!("{uploads} uploads, {open} without a result{at}"));
        self.bar.tick();
    }

    /// Prints without tearing the bar.
    fn pause<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_is_minutes_hours_or_days() {
        assert_eq!(parse_grace("15m"), Ok(TimeDelta::minutes(15)));
        assert_eq!(parse_grace("0m"), Ok(TimeDelta::zero()));
        assert_eq!(parse_grace("2h"), Ok(TimeDelta::hours(2)));
        for text in ["", "15", "-1m", "m", "1w", "99999999999d"] {
            assert!(parse_grace(text).unwrap_err().contains("15m"), "{text}");
        }
        assert!(parse_grace(DEFAULT_GRACE).is_ok());
    }
}
