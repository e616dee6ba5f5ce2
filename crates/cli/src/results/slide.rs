//! `giemsa results slide` and `slides`: figures of slides, and the images of one, most suspicious first.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use anyhow::anyhow;
use giemsa_core::record::Status;
use giemsa_store::{Order, ResultQuery, SlideEntry};
use serde_json::{Value, json};

use super::super::form::{CsvWriter, Form, FormArguments};
use super::super::model::parse_slide;
use super::super::output;
use super::super::{Failed, complain};
use super::deployment_of;
use super::pages::{PAGE, Pages, failed};
use super::rows::{Rows, shown_minute};

#[derive(Debug, clap::Args)]
pub struct SlideArguments {
    /// The slide: the folder part of its images' keys; "" for images without a folder.
    #[arg(value_parser = parse_slide)]
    slide: String,
    #[command(flatten)]
    form: FormArguments,
}

#[derive(Debug, clap::Args)]
pub struct SlidesArguments {
    /// Only slides with this text in their names, in any case.
    #[arg(long)]
    search: Option<String>,
    /// Most slides.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    form: FormArguments,
}

/// Shows one slide.
pub(super) async fn run(stage: &str, arguments: &SlideArguments) -> Result<(), Failed> {
    let form = arguments.form.form()?;
    let deployment = deployment_of(stage).await?;
    let slide = arguments.slide.trim_end_matches('/');
    let entry = deployment.table.slide_entry(stage, slide).await.map_err(failed)?;
    let entry = entry.ok_or_else(|| {
        anyhow!(
            "no image of the slide {slide:?} has a result in {stage}; expected the folder part of keys: `giemsa \
             results slides` lists them"
        )
    })?;
    let query = ResultQuery {
        slide: Some(slide.to_owned()),
        order: Order::Suspicion,
        limit: PAGE,
        ..ResultQuery::of_stage(stage)
    };
    let mut pages = Pages::of(deployment.table.clone(), query.clone(), None);
    let mut withdrawn = Pages::of(deployment.table.clone(), ResultQuery { withdrawn: true, ..query }, None);
    let mut out = BufWriter::new(std::io::stdout().lock());
    if form == Form::Json {
        return write_json(&mut out, &entry, pages, withdrawn).await;
    }
    let io = anyhow::Error::from;
    let is_table = form == Form::Table;
    if is_table {
        writeln!(out, "{}\n", table(std::slice::from_ref(&entry))).map_err(io)?;
    }
    let mut rows = Rows::new(out, form)?;
    let mut same_bytes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let Some(page) = pages.next().await? {
        for record in page {
            let content = record.image.sha256.as_ref().filter(|_| record.status == Status::Classified);
            if let Some(content) = content.filter(|_| is_table && entry.figure.duplicates > 0) {
                same_bytes.entry(content.clone()).or_default().push(record.image.key.clone());
            }
            rows.write(record)?;
        }
    }
    let mut out = rows.finish()?;
    if !is_table {
        return Ok(());
    }
    for keys in same_bytes.into_values().filter(|keys| keys.len() > 1) {
        let keys: Vec<String> = keys.iter().map(|key| output::printable(key)).collect();
        writeln!(out, "the same bytes: {}", keys.join(", ")).map_err(io)?;
    }
    if entry.figure.withdrawn > 0 {
        writeln!(out, "withdrawn, not counted:\n").map_err(io)?;
    }
    let mut rows = Rows::new(out, Form::Table)?;
    while let Some(page) = withdrawn.next().await? {
        for record in page {
            rows.write(record)?;
        }
    }
    drop(rows.finish()?);
    Ok(())
}

/// One document, written as it is read: the entry, and below it the records, those that count and those that do not.
async fn write_json(
    out: &mut impl Write,
    entry: &SlideEntry,
    counted: Pages,
    withdrawn: Pages,
) -> Result<(), Failed> {
    let entry = document(entry).to_string();
    let begin = entry.strip_suffix('}').expect("an entry is an object");
    let io = anyhow::Error::from;
    write!(out, "{begin}").map_err(io)?;
    for (name, mut pages) in [("results", counted), ("withdrawn", withdrawn)] {
        write!(out, ",\"{name}\":[").map_err(io)?;
        let mut comma = "";
        while let Some(page) = pages.next().await? {
            for record in page {
                let record = serde_json::to_string(&record).map_err(anyhow::Error::from)?;
                write!(out, "{comma}\n{record}").map_err(io)?;
                comma = ",";
            }
        }
        write!(out, "\n]").map_err(io)?;
    }
    writeln!(out, "}}").and_then(|()| out.flush()).map_err(io)?;
    Ok(())
}

/// An entry as the query API has it: with what its figure comes to.
fn document(entry: &SlideEntry) -> Value {
    let mut document = json!(entry);
    let figure = &entry.figure;
    document["figure"]["parasitemia_percent"] = json!(figure.parasitemia_percent());
    document["figure"]["parasitemia_interval_percent"] = json!(figure.parasitemia_interval_percent());
    document
}

/// Lists slides.
pub(super) async fn list(stage: &str, arguments: &SlidesArguments) -> Result<(), Failed> {
    let form = arguments.form.form()?;
    let deployment = deployment_of(stage).await?;
    let mut after = None;
    let mut left = arguments.limit as usize;
    let mut kept = Vec::new();
    let mut out = std::io::stdout().lock();
    // Nothing is printed of a list that could not be read to its end.
    let mut csv = match form {
        Form::Csv(style) => Some(CsvWriter::new(Vec::new(), style, HEADER)?),
        Form::Table | Form::Json => None,
    };
    loop {
        let search = arguments.search.as_deref();
        let page =
            deployment.table.slides(stage, search, after.as_deref(), left.min(100)).await.map_err(failed)?;
        left -= page.slides.len().min(left);
        for entry in page.slides {
            match &mut csv {
                Some(csv) => csv.write(cells(&entry))?,
                None if form == Form::Table => kept.push(entry),
                None => writeln!(out, "{}", document(&entry)).map_err(anyhow::Error::from)?,
            }
        }
        after = page.next;
        if left == 0 || after.is_none() {
            break;
        }
    }
    match csv {
        Some(csv) => out.write_all(&csv.finish()?).map_err(anyhow::Error::from)?,
        None if form == Form::Table && kept.is_empty() => complain("No slides."),
        None if form == Form::Table => writeln!(out, "{}", table(&kept)).map_err(anyhow::Error::from)?,
        None => {}
    }
    if after.is_some() && form == Form::Table {
        complain(&format!("The first {} slides; --limit shows more.", arguments.limit));
    }
    Ok(())
}

const HEADER: [&str; 15] = [
    "slide",
    "stage",
    "cells",
    "positives",
    "parasitemia_percent",
    "parasitemia_low_percent",
    "parasitemia_high_percent",
    "outliers",
    "needs_review",
    "rejected",
    "reviewed",
    "last_activity_at",
    "computed_at",
    "withdrawn",
    "duplicates",
];

fn cells(entry: &SlideEntry) -> [String; 15] {
    let figure = &entry.figure;
    let percent = |value: Option<f64>| value.map(|value| format!("{value:.4}")).unwrap_or_default();
    let interval = figure.parasitemia_interval_percent();
    [
        entry.slide.clone(),
        entry.stage.clone(),
        figure.cells.to_string(),
        figure.positives.to_string(),
        percent(figure.parasitemia_percent()),
        percent(interval.map(|(low, _)| low)),
        percent(interval.map(|(_, high)| high)),
        figure.outliers.to_string(),
        figure.needs_review.to_string(),
        figure.rejected.to_string(),
        figure.reviewed.to_string(),
        entry.last_activity_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        entry.computed_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        figure.withdrawn.to_string(),
        figure.duplicates.to_string(),
    ]
}

fn table(entries: &[SlideEntry]) -> String {
    let row = |entry: &SlideEntry| {
        (entry.slide.clone(), entry.figure, Some(shown_minute(Some(entry.last_activity_at))))
    };
    output::figures_table(entries.iter().map(row).collect())
}
