//! `giemsa results summary`: the number of results of each label, by upload day.

use std::collections::BTreeSet;
use std::io::Write;

use chrono::{DateTime, Days, TimeDelta, Utc};
use giemsa_store::DaySummary;
use serde_json::json;

use super::super::form::{CsvWriter, Form, FormArguments};
use super::super::model::parse_since;
use super::super::output;
use super::super::{Failed, complain};
use super::deployment_of;
use super::pages::failed;

/// Days that are shown where nothing else is said.
const DEFAULT_DAYS: i64 = 30;

#[derive(Debug, clap::Args)]
pub struct SummaryArguments {
    /// First upload day: 2026-11-22, 7d; default: 30 days ago.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<DateTime<Utc>>,
    #[command(flatten)]
    form: FormArguments,
}

/// Counts results.
pub(super) async fn run(stage: &str, arguments: &SummaryArguments) -> Result<(), Failed> {
    let form = arguments.form.form()?;
    let deployment = deployment_of(stage).await?;
    let since = arguments.since.unwrap_or_else(|| Utc::now() - TimeDelta::days(DEFAULT_DAYS));
    // A clock that is ahead may have put images into tomorrow.
    let until = Utc::now().date_naive() + Days::new(2);
    let days = deployment.table.days(stage, since.date_naive(), until).await.map_err(failed)?;
    let labels: BTreeSet<&str> = days.iter().flat_map(|day| day.labels.keys().map(String::as_str)).collect();
    let labels: Vec<&str> = labels.into_iter().collect();
    let mut out = std::io::stdout().lock();
    match form {
        Form::Json => {
            for day in &days {
                writeln!(out, "{}", json!(day)).map_err(anyhow::Error::from)?;
            }
        }
        Form::Csv(style) => {
            let mut csv = CsvWriter::new(out, style, header(&labels, "label:"))?;
            for day in &days {
                csv.write(cells(day, &labels))?;
            }
            csv.flush()?;
        }
        Form::Table if days.is_empty() => {
            complain(&format!("No results of images uploaded since {}.", since.format("%Y-%m-%d")));
        }
        Form::Table => {
            let mut table = output::new_table::<0>([]);
            table.set_header(header(&labels, "").iter().map(|cell| output::printable(cell)));
            for day in &days {
                table.add_row(cells(day, &labels));
            }
            let figures: Vec<usize> = (1..labels.len() + 4).collect();
            output::align_right(&mut table, &figures);
            writeln!(out, "{}", table.trim_fmt()).map_err(anyhow::Error::from)?;
        }
    }
    Ok(())
}

/// Labels are apart from the other columns in a CSV, whatever they are called.
fn header(labels: &[&str], prefix: &str) -> Vec<String> {
    let labels = labels.iter().map(|label| format!("{prefix}{label}"));
    let ends = ["rejected", "needs_review", "total"].map(str::to_owned);
    std::iter::once("date".to_owned()).chain(labels).chain(ends).collect()
}

fn cells(day: &DaySummary, labels: &[&str]) -> Vec<String> {
    let counts: Vec<u64> = labels.iter().map(|label| day.labels.get(*label).copied().unwrap_or(0)).collect();
    let total = counts.iter().sum::<u64>() + day.rejected;
    let figures = counts.into_iter().chain([day.rejected, day.needs_review, total]);
    std::iter::once(day.date.to_string()).chain(figures.map(|count| count.to_string())).collect()
}
