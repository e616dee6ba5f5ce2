//! `giemsa model …`: arguments, and the buckets and table that the commands use.
//!
//! `giemsa_ops::release` decides about releases. With `--json` stdout is one JSON document.

mod check;
mod compare;
mod expect;
mod history;
mod inspect;
mod list;
mod pack;
mod push;
mod release;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use clap::Subcommand;
use giemsa_config::{Config, Limits, model_key};
use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::ProofOutcome;
use giemsa_core::object::slide_name;
use giemsa_core::record::ModelInfo;
use giemsa_local::{INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET, TABLE};
use giemsa_model::Loader;
use giemsa_model::{LoadLimits, OnnxFile};
use giemsa_ops::release::Releaser;
use giemsa_store::aws::Clients;
use giemsa_store::{ModelBucket, TableReader, TableWriter};

use super::Failed;

/// Stage that models are tried in.
const DEV: &str = "dev";
/// Stage that answers count in.
pub const PROD: &str = "prod";

/// Digits of a digest in tables.
const SHORT_DIGEST: usize = 12;

#[derive(Debug, clap::Args)]
pub struct ModelArguments {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Describe a model file: labels, shapes, metadata, operators, memory and speed on this machine.
    Inspect(inspect::InspectArguments),
    /// Write giemsa.* metadata into an ONNX file.
    Pack(Box<pack::PackArguments>),
    /// Copy a model file to a stage of the model bucket; the gate tries it there.
    Push(push::PushArguments),
    /// Try a model file on this machine, on labelled images or against the training framework's answers.
    Check(check::CheckArguments),
    /// List the models of the model bucket: in stages and in the archive, with their reports.
    List,
    /// Copy a model that passed the golden set from one stage to another.
    Promote(release::PromoteArguments),
    /// Restore an archived model: the previous one, or the one with the given digest.
    Rollback(release::RollbackArguments),
    /// Show who released what, when and why.
    History(history::HistoryArguments),
    /// Show which model was in production at a time, and how many images have its answer.
    At(history::AtArguments),
    /// Compare the models of two stages on the images that both answered.
    Compare(compare::CompareArguments),
}

/// Carries out a verb.
pub async fn run(arguments: &ModelArguments) -> Result<(), Failed> {
    let json = arguments.json;
    match &arguments.verb {
        Verb::Inspect(arguments) => inspect::run(arguments, json),
        Verb::Pack(arguments) => pack::run(arguments, json),
        Verb::Push(arguments) => push::run(arguments, json).await,
        Verb::Check(arguments) => check::run(arguments, json).await,
        Verb::List => list::run(json).await,
        Verb::Promote(arguments) => release::promote(arguments, json).await,
        Verb::Rollback(arguments) => release::rollback(arguments, json).await,
        Verb::History(arguments) => history::run(arguments, json).await,
        Verb::At(arguments) => history::at(arguments, json).await,
        Verb::Compare(arguments) => compare::run(arguments, json).await,
    }
}

/// The buckets and the table that the environment names, with their clients.
pub struct Deployment {
    /// What the environment says.
    pub config: Config,
    /// The SDK's clients.
    pub clients: Clients,
    /// The model bucket.
    pub models: ModelBucket,
    /// The table.
    pub table: TableReader,
}

impl Deployment {
    /// The place that the environment names, for work on `stage`.
    pub async fn of_environment(stage: &str) -> Result<Self, Failed> {
        let names = [INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET, TABLE];
        let config = Config::for_command(stage, names).map_err(|error| {
            Failed::Usage(anyhow!(
                "{error}\nFor `giemsa up`, copy the lines that it prints; on AWS, set the function's \
                 variables."
            ))
        })?;
        let clients = Clients::from_env().await;
        Ok(Self {
            models: ModelBucket::new(clients.s3.clone(), &config.model_bucket),
            table: TableReader::new(clients.dynamodb.clone(), &config.table),
            clients,
            config,
        })
    }

    fn releaser(&self) -> Releaser {
        let writer = TableWriter::new(self.clients.dynamodb.clone(), &self.config.table);
        Releaser::new(self.models.clone(), self.table.clone(), writer, Loader::new(&self.config.limits))
    }

    /// The model whose file is in a stage.
    async fn model_of(&self, stage: &str) -> anyhow::Result<ModelInfo> {
        let key = model_key(stage);
        let file = self.models.get(&key).await?;
        let file = file.with_context(|| format!("there is no model at {}", self.models.location(&key)))?;
        Ok(info_of(&file.bytes, &self.load_limits()))
    }

    fn load_limits(&self) -> LoadLimits {
        LoadLimits::from(&self.config.limits)
    }
}

/// The limits that the environment sets: a file gets the same answer from a command as from a function.
fn limits() -> Result<Limits, Failed> {
    Limits::from_env().map_err(|error| Failed::Usage(error.into()))
}

/// A file's metadata; one that cannot be read still has a digest.
fn info_of(bytes: &[u8], limits: &LoadLimits) -> ModelInfo {
    let properties = OnnxFile::parse_within(bytes, limits).map(|file| file.properties()).unwrap_or_default();
    let text = |key: &str, default: &str| properties.get(key).cloned().unwrap_or_else(|| default.to_owned());
    ModelInfo {
        name: text("giemsa.name", "unnamed"),
        version: text("giemsa.version", "0"),
        sha256: sha256_hex(bytes),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failed> {
    let read = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    read.map_err(Failed::Usage)
}

/// Prints a value as JSON, or else as the text that `text` makes of it.
pub fn print<T: serde::Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Failed> {
    let shown =
        if json { serde_json::to_string_pretty(value).map_err(anyhow::Error::from)? } else { text(value) };
    writeln!(std::io::stdout().lock(), "{}", shown.trim_end()).map_err(anyhow::Error::from)?;
    Ok(())
}

fn short(sha256: &str) -> &str {
    sha256.get(..SHORT_DIGEST).unwrap_or(sha256)
}

/// A model as text: name, version and the beginning of its digest.
fn shown_model(model: &ModelInfo) -> String {
    super::output::printable(&format!("{} {} ({})", model.name, model.version, short(&model.sha256)))
}

fn shown_time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn shown_size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// What became of a model's own proof, as text.
fn shown_proof(proof: Option<&ProofOutcome>) -> String {
    proof.map_or_else(
        || "none: nothing proves that weights, input and engine are those of the training".to_owned(),
        |p| {
            let ProofOutcome { by, inputs, greatest_difference, bound } = p;
            format!("holds: {inputs} inputs differ by {greatest_difference:.1e} at most from {by} (allowed: {bound})")
        },
    )
}

/// A share as text, with its interval.
fn shown_share(share: Option<&giemsa_core::statistics::Proportion>) -> String {
    share.map_or_else(
        || "–".to_owned(),
        |p| format!("{:.1} % ({:.1}–{:.1} %)", 100.0 * p.value, 100.0 * p.low, 100.0 * p.high),
    )
}

/// A moment, in UTC where nothing else is said: `2026-11-22`, `2026-11-22 14:30`, `2026-11-22T14:30:00+01:00`.
fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let text = text.trim().trim_end_matches(" UTC").replace('T', " ");
    let with_time = |format: &str| NaiveDateTime::parse_from_str(&text, format).ok();
    let midnight = || NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    with_time("%Y-%m-%d %H:%M:%S")
        .or_else(|| with_time("%Y-%m-%d %H:%M"))
        .or_else(midnight)
        .map(|t| t.and_utc())
        .ok_or_else(|| {
            "expected a time such as 2026-11-22, \"2026-11-22 14:30\" (UTC) or 2026-11-22T14:30:00+01:00"
                .to_owned()
        })
}

/// A moment, or how long ago: `90m`, `24h`, `7d`.
pub fn parse_since(text: &str) -> Result<DateTime<Utc>, String> {
    let length = |suffix: char| text.strip_suffix(suffix).and_then(|number| number.parse::<i64>().ok());
    let ago = length('m')
        .and_then(TimeDelta::try_minutes)
        .or_else(|| length('h').and_then(TimeDelta::try_hours))
        .or_else(|| length('d').and_then(TimeDelta::try_days));
    match ago.and_then(|ago| Utc::now().checked_sub_signed(ago)) {
        Some(time) => Ok(time),
        None => parse_time(text).map_err(|error| format!("{error}, or how long ago: 90m, 24h, 7d")),
    }
}

/// A stage's name, as in keys of the model bucket.
pub fn parse_stage(text: &str) -> Result<String, String> {
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > 32 || !text.bytes().all(is_name) {
        return Err("expected up to 32 lower-case letters, digits and hyphens, e.g. dev".to_owned());
    }
    Ok(text.to_owned())
}

/// A slide's name in the form in which it is stored.
pub fn parse_slide(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(slide_name(text))
}

#[derive(Debug, clap::Args)]
struct FileArgument {
    /// ONNX model file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let expected = DateTime::parse_from_rfc3339("2026-11-22T14:30:00Z").unwrap().to_utc();
        for text in [
            "2026-11-22 14:30",
            "2026-11-22T14:30:00",
            "2026-11-22T15:30:00+01:00",
            "2026-11-22 14:30:00 UTC",
        ] {
            assert_eq!(parse_time(text), Ok(expected), "{text}");
        }
        assert_eq!(parse_time("2026-11-22").unwrap().to_rfc3339(), "2026-11-22T00:00:00+00:00");
        for text in ["", "yesterday", "22.11.2026", "2026-13-01"] {
            assert!(parse_time(text).unwrap_err().contains("expected a time"), "{text}");
        }
        let ago = Utc::now() - parse_since("2h").unwrap();
        assert!((119..=121).contains(&ago.num_minutes()), "{ago}");
        assert_eq!(parse_since("2026-11-22 14:30"), Ok(expected));
        assert!(parse_since("99999999999999d").is_err());
    }
}
