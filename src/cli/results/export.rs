//! `giemsa results export`: current results into one file, however many there are.
//!
//! It never holds more than a few pages. Invariant: a file is there only if every result was written to it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use giemsa::classification::Record;
use giemsa::export::ParquetRecords;
use giemsa::store::Order;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::{Failed, Format, complain};
use super::pages::{PAGE, Pages};
use super::rows::Rows;
use super::target::Target;
use super::{Filters, place_of, until_interrupted};

#[derive(Debug, clap::Args)]
pub struct ExportArguments {
    /// Form of the file.
    #[arg(long, value_enum)]
    format: FileFormat,
    #[command(flatten)]
    filters: Filters,
    /// The file; - for stdout.
    #[arg(short, long, default_value = "-", value_name = "FILE")]
    output: PathBuf,
}

/// Form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FileFormat {
    /// For spreadsheets; cells that could be formulas have an apostrophe before them.
    Csv,
    /// For programs: typed columns, exact names.
    Parquet,
}

/// Writes results in one of the forms.
enum Sink {
    Csv(Box<Rows<Target>>),
    Parquet(Box<ParquetRecords<Target>>),
}

impl Sink {
    fn new(target: Target, format: FileFormat) -> anyhow::Result<Self> {
        Ok(match format {
            FileFormat::Csv => Self::Csv(Box::new(Rows::new(target, Format::Csv)?)),
            FileFormat::Parquet => Self::Parquet(Box::new(ParquetRecords::new(target)?)),
        })
    }

    fn write(&mut self, record: Record) -> anyhow::Result<()> {
        match self {
            Self::Csv(rows) => rows.write(record),
            Self::Parquet(writer) => Ok(writer.write(&record)?),
        }
    }

    fn finish(self) -> anyhow::Result<Target> {
        match self {
            Self::Csv(rows) => rows.finish(),
            Self::Parquet(writer) => Ok(writer.finish()?.0),
        }
    }
}

/// Writes the file.
pub(super) async fn run(stage: &str, arguments: &ExportArguments) -> Result<(), Failed> {
    let left = match arguments.output == Path::new("-") {
        true => "what was written so far is not all".to_owned(),
        false => format!("{} is as it was before", arguments.output.display()),
    };
    until_interrupted(export(stage, arguments), &left).await
}

async fn export(stage: &str, arguments: &ExportArguments) -> Result<(), Failed> {
    let place = place_of(stage).await?;
    let target = Target::open(&arguments.output, arguments.format == FileFormat::Parquet)?;
    let shown = arguments.output.display();
    let unwritten = || format!("{shown} is not written");
    let mut sink = Sink::new(target, arguments.format).with_context(unwritten)?;
    let mut pages = Pages::of(place.table.clone(), arguments.filters.query(stage, Order::Newest, PAGE), None);
    let bar = progress();
    while let Some(page) = pages.next().await? {
        bar.inc(page.len() as u64);
        for record in page {
            sink.write(record).with_context(unwritten)?;
        }
    }
    let written = bar.position();
    bar.finish_and_clear();
    sink.finish().and_then(Target::keep).with_context(unwritten)?;
    complain(&format!("{written} results of {stage} written to {shown}."));
    Ok(())
}

fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {human_pos} results, {per_sec}");
    ProgressBar::new_spinner().with_style(style.expect("a valid template"))
}
