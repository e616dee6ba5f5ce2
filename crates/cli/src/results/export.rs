//! `giemsa results export`: current results into one file, however many there are.
//!
//! It holds only a few pages, and about 16 bytes for each result that arrives while it runs. The file appears only if
//! it has, for every image, a result that was current while it was written.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use giemsa_core::record::Record;
use giemsa_ops::export::ParquetRecords;
use giemsa_store::{Order, ResultQuery, TableReader};
use indicatif::{ProgressBar, ProgressStyle};

use super::super::form::{CsvArguments, CsvStyle, Form};
use super::super::{Failed, complain};
use super::activity::active_slides;
use super::pages::{PAGE, Pages, failed};
use super::rows::Rows;
use super::target::Target;
use super::{Filters, deployment_of, until_interrupted};

#[derive(Debug, clap::Args)]
pub struct ExportArguments {
    /// Form of the file.
    #[arg(long, value_enum)]
    format: FileFormat,
    #[command(flatten)]
    csv: CsvArguments,
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

/// How long before the start a result may have landed that indexes did not show yet; clocks differ, too.
const LAG: TimeDelta = TimeDelta::seconds(60);

/// Writes results in one of the forms.
enum Sink {
    Csv(Box<Rows<Target>>),
    Parquet(Box<ParquetRecords<Target>>),
}

impl Sink {
    fn new(target: Target, format: FileFormat, style: CsvStyle) -> anyhow::Result<Self> {
        Ok(match format {
            FileFormat::Csv => Self::Csv(Box::new(Rows::new(target, Form::Csv(style))?)),
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
        true => "the output is incomplete".to_owned(),
        false => format!("{} is unchanged", arguments.output.display()),
    };
    until_interrupted(export(stage, arguments), &left).await
}

async fn export(stage: &str, arguments: &ExportArguments) -> Result<(), Failed> {
    let style = arguments.csv.style(arguments.format == FileFormat::Csv)?;
    let deployment = deployment_of(stage).await?;
    let target = Target::open(&arguments.output, arguments.format == FileFormat::Parquet)?;
    let shown = arguments.output.display();
    let unwritten = || format!("{shown} was not written");
    let sink = Sink::new(target, arguments.format, style).with_context(unwritten)?;
    let bar = progress();
    let mut writer = Writer { sink, bar: &bar, landing_since: Utc::now() - LAG, landed: HashSet::new() };
    let query = arguments.filters.query(stage, Order::Newest, PAGE);
    writer.write_all(&deployment.table, query.clone()).await?;
    writer.write_landed(&deployment.table, query).await?;
    let sink = writer.sink;
    let written = bar.position();
    bar.finish_and_clear();
    sink.finish().and_then(Target::keep).with_context(unwritten)?;
    complain(&format!("{written} results of {stage} written to {shown}."));
    Ok(())
}

/// Writes results once.
struct Writer<'a> {
    sink: Sink,
    bar: &'a ProgressBar,
    /// What was answered since may have replaced another result while the list was read.
    landing_since: DateTime<Utc>,
    /// Results of that time that are written, as hashes.
    landed: HashSet<u64>,
}

impl Writer<'_> {
    async fn write_all(&mut self, table: &TableReader, query: ResultQuery) -> Result<(), Failed> {
        let mut pages = Pages::of(table.clone(), query, None);
        while let Some(page) = pages.next().await? {
            self.bar.inc(page.len() as u64);
            for record in page {
                self.note_landed(&record);
                self.sink.write(record).context("the file was not written")?;
            }
        }
        Ok(())
    }

    /// Writes what landed since the start. A result that was replaced is not where the list had it, and its successor may
    /// be where the list was already.
    async fn write_landed(&mut self, table: &TableReader, query: ResultQuery) -> Result<(), Failed> {
        let only = query.slide.as_deref();
        let slides = active_slides(table, &query.stage, only, self.landing_since).await.map_err(failed)?;
        for slide in slides {
            let mut pages =
                Pages::of(table.clone(), ResultQuery { slide: Some(slide), ..query.clone() }, None);
            while let Some(page) = pages.next().await? {
                for record in page {
                    if self.note_landed(&record) {
                        self.bar.inc(1);
                        self.sink.write(record).context("the file was not written")?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a record landed since the start and was not written.
    fn note_landed(&mut self, record: &Record) -> bool {
        let has_landed = record.classified_at.is_none_or(|at| at >= self.landing_since);
        has_landed && self.landed.insert(hash_of(record))
    }
}

fn hash_of(record: &Record) -> u64 {
    static HASHING: std::sync::LazyLock<RandomState> = std::sync::LazyLock::new(RandomState::new);
    HASHING.hash_one((&record.image.bucket, &record.image.key, &record.result_id))
}

fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {human_pos} results, {per_sec}");
    ProgressBar::new_spinner().with_style(style.expect("a valid template"))
}
