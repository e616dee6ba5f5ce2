//! `giemsa results compact`: days of the results prefix as Parquet. `giemsa_ops::export` decides about objects.

use std::io::Write;

use anyhow::Context;
use chrono::{DateTime, Utc};
use giemsa_ops::export::{Compacted, Compactor, Day, DayDate, Phase};
use indicatif::{ProgressBar, ProgressStyle};

use super::super::form::{CsvWriter, Form, FormArguments};
use super::super::model::parse_since;
use super::super::output;
use super::super::{Failed, complain};
use super::{deployment_of, rows, until_interrupted};

/// What is left of a run that somebody ended.
const LEFT: &str = "every result is in its JSON object or in a file that was read back; run it again to \
    continue";

#[derive(Debug, clap::Args)]
pub struct CompactArguments {
    /// The day: upload date in UTC, e.g. 2026-11-22, or unknown.
    #[arg(long, required_unless_present = "since", conflicts_with = "since")]
    date: Option<DayDate>,
    /// All days since one, e.g. 2026-11-01 or 30d.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<DateTime<Utc>>,
    /// Delete the JSON objects that the files hold, after the files were read back from S3.
    #[arg(long)]
    delete_json: bool,
    #[command(flatten)]
    form: FormArguments,
}

/// Compacts days, one after the other.
pub(super) async fn run(stage: &str, arguments: &CompactArguments) -> Result<(), Failed> {
    until_interrupted(compact(stage, arguments), LEFT).await
}

async fn compact(stage: &str, arguments: &CompactArguments) -> Result<(), Failed> {
    let form = arguments.form.form()?;
    let deployment = deployment_of(stage).await?;
    let config = &deployment.config;
    let compactor =
        Compactor::new(deployment.clients.s3.clone(), &config.results_bucket, &config.results_prefix);
    let days = match (arguments.date, arguments.since) {
        (Some(date), _) => vec![Day { stage: stage.to_owned(), date }],
        (None, since) => {
            let days = compactor.days(stage).await.map_err(anyhow::Error::from)?;
            let first = since.map(|since| DayDate::Day(since.date_naive()));
            // Those of unknown date are asked for by that name.
            days.into_iter().filter(|day| Some(day.date) >= first && day.date != DayDate::Unknown).collect()
        }
    };
    let bar = progress();
    let mut done = Vec::new();
    let mut csv = match form {
        Form::Csv(style) => Some(CsvWriter::new(std::io::stdout(), style, HEADER)?),
        Form::Table | Form::Json => None,
    };
    for day in &days {
        bar.set_prefix(format!("{} {}", day.stage, day.date));
        let seen = |phase, count| {
            bar.set_position(count);
            bar.set_message(match phase {
                Phase::Reading => "results",
                Phase::Deleting => "JSON objects deleted",
            });
        };
        let compacted = compactor.compact(day, arguments.delete_json, seen).await;
        let compacted = compacted.with_context(|| format!("{} {} was not compacted", day.stage, day.date))?;
        bar.suspend(|| -> anyhow::Result<()> {
            for reason in &compacted.left_out_examples {
                complain(&format!("giemsa: left unchanged: {reason}"));
            }
            match &mut csv {
                Some(csv) => {
                    csv.write(cells(&compacted))?;
                    csv.flush()
                }
                None if form == Form::Json => {
                    let line = serde_json::to_string(&compacted)?;
                    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
                }
                None => Ok(()),
            }
        })?;
        done.push(compacted);
    }
    bar.finish_and_clear();
    if form == Form::Table {
        print_table(&done)?;
    }
    Ok(())
}

const HEADER: [&str; 9] =
    ["stage", "date", "results", "added", "files", "files_written", "size_bytes", "left_out", "json_deleted"];

fn cells(done: &Compacted) -> [String; 9] {
    [
        done.stage.clone(),
        done.date.clone(),
        done.results.to_string(),
        done.added.to_string(),
        done.files.len().to_string(),
        done.files_written.to_string(),
        done.size_bytes.to_string(),
        done.left_out.to_string(),
        done.json_deleted.to_string(),
    ]
}

fn print_table(done: &[Compacted]) -> anyhow::Result<()> {
    let headings =
        ["stage", "date", "results", "new", "files", "written", "size", "left out", "JSON deleted"];
    let mut table = output::new_table(headings);
    for day in done {
        let mut row = cells(day);
        row[6] = rows::shown_size(day.size_bytes);
        table.add_row(row);
    }
    output::align_right(&mut table, &[2, 3, 4, 5, 6, 7, 8]);
    let mut stdout = std::io::stdout().lock();
    match done {
        [] => writeln!(stdout, "No day has result objects.")?,
        _ => writeln!(stdout, "{}", table.trim_fmt())?,
    }
    Ok(())
}

fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix}: {pos} {msg}, {per_sec}");
    ProgressBar::new_spinner().with_style(style.expect("a valid template"))
}
