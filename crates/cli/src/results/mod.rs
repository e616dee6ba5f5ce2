//! `giemsa results …`: what became of images, as a list, a figure, a file or live.
//!
//! `withdraw` and `restore` append a person's decision, and only `compact --delete-json` deletes what it has stored
//! elsewhere. Stdout has only results, in the form that `--format` names.

mod activity;
mod compact;
mod export;
mod list;
mod pages;
mod rows;
mod show;
mod slide;
mod summary;
mod target;
mod watch;
mod withdraw;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use giemsa_core::record::Status;
use giemsa_store::{Order, ResultQuery, WithdrawalAction};
use tokio::signal::unix::{SignalKind, signal};

use super::Failed;
use super::model::{Deployment, PROD, parse_since, parse_slide, parse_stage};

#[derive(Debug, clap::Args)]
pub struct ResultsArguments {
    /// The stage.
    #[arg(long, global = true, default_value = PROD, value_parser = parse_stage)]
    stage: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List current results, by slide, label, status, model or time, newest or most suspicious first.
    List(list::ListArguments),
    /// Show all that is known of one image: its result in every stage, and its reviews.
    Show(show::ShowArguments),
    /// Show the figure of a slide and its images, most suspicious first.
    Slide(slide::SlideArguments),
    /// List slides with their figures, last activity first.
    Slides(slide::SlidesArguments),
    /// Take an image, or all below a prefix, out of what counts; nothing is deleted, and `restore` brings it back.
    Withdraw(withdraw::WithdrawArguments),
    /// Bring withdrawn images back.
    Restore(withdraw::WithdrawArguments),
    /// Count results by upload day and label.
    Summary(summary::SummaryArguments),
    /// Print results as they land, until Ctrl-C.
    Watch(watch::WatchArguments),
    /// Write current results to a CSV or Parquet file, of any number.
    Export(export::ExportArguments),
    /// Put the result objects of a day into a few Parquet files below compacted/ of the results bucket.
    Compact(compact::CompactArguments),
}

/// Carries out a verb.
pub async fn run(arguments: &ResultsArguments) -> Result<(), Failed> {
    let stage = arguments.stage.as_str();
    match &arguments.verb {
        Verb::List(more) => list::run(stage, more).await,
        Verb::Show(more) => show::run(more).await,
        Verb::Slide(more) => slide::run(stage, more).await,
        Verb::Slides(more) => slide::list(stage, more).await,
        Verb::Withdraw(more) => withdraw::run(stage, more, WithdrawalAction::Withdraw).await,
        Verb::Restore(more) => withdraw::run(stage, more, WithdrawalAction::Restore).await,
        Verb::Summary(more) => summary::run(stage, more).await,
        Verb::Watch(more) => watch::run(stage, more).await,
        Verb::Export(more) => export::run(stage, more).await,
        Verb::Compact(more) => compact::run(stage, more).await,
    }
}

/// Which results.
#[derive(Debug, Clone, clap::Args)]
struct Filters {
    /// Only of this slide: the folder part of the key; "" for images without a folder.
    #[arg(long, value_parser = parse_slide)]
    slide: Option<String>,
    /// Only with this label.
    #[arg(long)]
    label: Option<String>,
    /// Only classified, or only rejected.
    #[arg(long, value_name = "STATUS", value_parser = parse_status)]
    status: Option<Status>,
    /// Only of the model with this SHA-256.
    #[arg(long, value_name = "SHA256", value_parser = parse_digest)]
    model: Option<String>,
    /// Only what the model wants a human to look at; with =false only the rest.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    needs_review: Option<bool>,
    /// The images that somebody withdrew, which no other list has, instead of those that count.
    #[arg(long)]
    withdrawn: bool,
    /// Only images uploaded since a time or within a period: 2026-11-22, "2026-11-22 14:30" (UTC), 24h, 7d.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<DateTime<Utc>>,
    /// Only images uploaded before a time, or so long ago.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    until: Option<DateTime<Utc>>,
}

impl Filters {
    /// As a question to the table, of `page` results at a time.
    fn query(&self, stage: &str, order: Order, page: usize) -> ResultQuery {
        ResultQuery {
            stage: stage.to_owned(),
            slide: self.slide.clone(),
            label: self.label.clone(),
            status: self.status,
            model_sha256: self.model.clone(),
            needs_review: self.needs_review,
            withdrawn: self.withdrawn,
            from: self.since,
            until: self.until,
            order,
            limit: page,
        }
    }
}

fn parse_status(text: &str) -> Result<Status, String> {
    let all = [Status::Classified, Status::Rejected];
    let found = all.into_iter().find(|status| status.as_str() == text);
    found.ok_or_else(|| "expected classified or rejected".to_owned())
}

fn parse_digest(text: &str) -> Result<String, String> {
    let digest = text.to_ascii_lowercase();
    if digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(digest);
    }
    Err("expected the 64 hexadecimal digits of a sha256 (giemsa model list --json)".to_owned())
}

/// Bucket and key of an image that is named by its key in the input bucket or as s3://<bucket>/<key>.
fn image_named<'a>(name: &'a str, deployment: &'a Deployment) -> (&'a str, &'a str) {
    let parts = name.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
    parts.unwrap_or((deployment.config.input_bucket.as_str(), name))
}

async fn deployment_of(stage: &str) -> Result<Deployment, Failed> {
    Deployment::of_environment(stage).await
}

/// Carries out work until it ends or somebody ends it by Ctrl-C or SIGTERM; `left` says what is left then.
async fn until_interrupted<T>(
    work: impl Future<Output = Result<T, Failed>>,
    left: &str,
) -> Result<T, Failed> {
    let mut interrupt = signal(SignalKind::interrupt()).context("Ctrl-C cannot be waited for")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(Failed::Work(anyhow!("interrupted: {left}"))),
        _ = terminate.recv() => Err(Failed::Work(anyhow!("terminated: {left}"))),
    }
}
