//! Arguments of the `giemsa` command, and the module that runs each command.
//!
//! Results go to stdout, everything else to stderr. Exit code 0 is success, 1 failure, 2 wrong usage.

mod backfill;
mod classify;
mod cost;
mod demo;
mod dlq;
mod folders;
mod form;
mod model;
mod output;
mod processors;
mod question;
mod reclassify;
mod reconcile;
mod results;
mod up;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Classifies microscope images as they are uploaded.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole stack on this machine: S3, DynamoDB, classifier and dashboard, on loopback only.
    Up(UpArguments),
    /// Classify files and folders, without any stack.
    Classify(ClassifyArguments),
    /// Upload sample images to a stack in a temporary folder, and check every answer.
    Demo(DemoArguments),
    /// Ship a model: inspect, pack, push, check, list, promote, rollback, history, at, compare.
    Model(model::ModelArguments),
    /// Answer exactly those images again whose current result a given model made.
    Reclassify(ReclassifyArguments),
    /// List uploads that were given up after all tries, and send them again: list, redrive.
    Dlq(dlq::DlqArguments),
    /// Prove that every upload has its result, and list those without one with the reason.
    Reconcile(reconcile::ReconcileArguments),
    /// Show results: list, show, slide, slides, summary, watch, export, compact, withdraw, restore.
    Results(results::ResultsArguments),
    /// Answer images that were in the bucket already: those without a result, or without one by a given
    /// model.
    Backfill(backfill::BackfillArguments),
    /// Answer images for a running stack, which starts this by itself.
    #[command(hide = true)]
    ClassifierProcess(ProcessArguments),
    /// Show what images cost on AWS; with --rates, which account limit is hit first, by upload rate.
    Cost(cost::CostArguments),
}

#[derive(Debug, clap::Args)]
struct UpArguments {
    /// Folder that keeps uploads, results and the table.
    #[arg(long, default_value = ".giemsa")]
    data_dir: PathBuf,
    /// Port of S3.
    #[arg(long, default_value_t = 9000)]
    s3_port: u16,
    /// Port of DynamoDB.
    #[arg(long, default_value_t = 8000)]
    dynamodb_port: u16,
    /// Port of SQS.
    #[arg(long, default_value_t = 9324)]
    sqs_port: u16,
    /// Port of the dashboard.
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// Start only the servers: uploads wait until a start without this option.
    #[arg(long)]
    no_worker: bool,
    /// Inject faults, by a list such as seed=7,slow-down=0.05,reset=0.03,kill=0.001, or by @FILE.
    #[arg(long, value_name = "SPEC", long_help = format!("Inject faults, to see that nothing is lost: a \
        comma-separated list, or @FILE with such lists. Values are probabilities from 0 to 1, some with a \
        time. faults.json in the data folder counts the injected faults.\n\n{}", giemsa_faults::help()))]
    faults: Option<String>,
    /// OpenID Connect issuer: only people who sign in there can use the dashboard, as on AWS.
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer: Option<String>,
    /// The dashboard's client id at the issuer.
    #[arg(long, value_name = "ID", requires = "oidc_issuer")]
    oidc_client_id: Option<String>,
    /// Append metrics to this file, one JSON line each, in CloudWatch's format: those of the functions and, five times a
    /// second, those that AWS publishes each minute for queues, functions and table.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ClassifyArguments {
    /// ONNX model with giemsa.* metadata; default: the built-in thin smear model.
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    form: form::FormArguments,
    /// Image files, and folders of them; hidden files and system files in folders are skipped.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct DemoArguments {
    /// Folder of images (folders in it are slides) with an expected.csv.
    #[arg(long, default_value = "sample-images")]
    samples: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ReclassifyArguments {
    /// Lower-case hexadecimal SHA-256 of the model whose answers are to be replaced.
    #[arg(long, value_name = "SHA256")]
    model_digest: String,
    /// The stage.
    #[arg(long, default_value = "prod", value_parser = model::parse_stage)]
    stage: String,
    /// Only images uploaded since a time or within a period: 2026-11-22, 24h, 7d.
    #[arg(long, value_parser = model::parse_since)]
    since: Option<chrono::DateTime<chrono::Utc>>,
    /// Only count the images.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ProcessArguments {
    /// What the process works for, shown in the list of processes.
    role: String,
    /// Minimum level of its log.
    #[arg(long)]
    log_level: String,
}

/// Why a command ended without success.
#[derive(Debug)]
enum Failed {
    /// The arguments cannot be used; exit code 2.
    Usage(anyhow::Error),
    /// Something went wrong; exit code 1.
    Work(anyhow::Error),
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::Work(error)
    }
}

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The embedded S3 logs each 404 and 304 as an error of its own; what fails for us is logged by us.
    let default_level = match &arguments.command {
        Command::Up(_) => "info",
        Command::ClassifierProcess(arguments) => &arguments.log_level,
        _ => "error",
    };
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,giemsa={default_level},tract=error")))
        .add_directive("s3s=off".parse().expect("a valid directive"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();

    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("giemsa: cannot start the async runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = match arguments.command {
        Command::Up(arguments) => runtime.block_on(up::run(&arguments)),
        Command::Classify(arguments) => runtime.block_on(classify::run(&arguments)),
        Command::Demo(arguments) => runtime.block_on(demo::run(&arguments)),
        Command::Model(arguments) => runtime.block_on(model::run(&arguments)),
        Command::Reclassify(arguments) => runtime.block_on(reclassify::run(&arguments)),
        Command::Dlq(arguments) => runtime.block_on(dlq::run(&arguments)),
        Command::Reconcile(arguments) => runtime.block_on(reconcile::run(&arguments)),
        Command::Results(arguments) => runtime.block_on(results::run(&arguments)),
        Command::Backfill(arguments) => runtime.block_on(backfill::run(&arguments)),
        Command::ClassifierProcess(_) => runtime
            .block_on(async { giemsa_local::run_duties().await.map_err(|error| Failed::Work(error.into())) }),
        Command::Cost(arguments) => cost::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Usage(error)) => {
            complain(&format!("giemsa: {error:#}"));
            ExitCode::from(2)
        }
        Err(Failed::Work(error)) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(Failed::Work(error)) => {
            complain(&format!("giemsa: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The command itself, to start it again: on Linux also when its file was replaced since.
fn own_program() -> anyhow::Result<PathBuf> {
    let of_process = PathBuf::from("/proc/self/exe");
    if of_process.exists() {
        return Ok(of_process);
    }
    std::env::current_exe().context("the system does not report the path of this program")
}

/// Writes a message to stderr: without control characters, since it quotes file names, and without a panic
/// when nobody reads it.
fn complain(message: &str) {
    let mut stderr = std::io::stderr().lock();
    for line in message.lines() {
        let _ = writeln!(stderr, "{}", output::printable(line));
    }
}
