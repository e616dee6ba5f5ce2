//! `giemsa classify`: files and folders, no stack.
//!
//! It never uploads anything. Invariant: every file has one record on stdout, in the order of the arguments
//! (folders sorted by name), or an error on stderr and exit code 1.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use chrono::Utc;
use futures::{StreamExt, stream};
use giemsa::analysis::analyse_image;
use giemsa::classification::{Finding, ImageInfo, Record, Reject};
use giemsa::config::Limits;
use giemsa::model::Model;
use giemsa::object::ObjectRef;

use super::{ClassifyArguments, Failed, Format, output};

/// Bucket and stage that records of files name.
const LOCAL: &str = "local";

/// Classifies all files of the arguments.
pub async fn run(arguments: &ClassifyArguments) -> Result<(), Failed> {
    let model = load_model(arguments.model.as_deref()).map_err(Failed::Usage)?;
    let files = list_files(&arguments.paths)?;
    let limits = Limits::default();
    let count = files.len();
    let work = files.into_iter().map(|path| {
        let (model, limits) = (model.clone(), limits.clone());
        async move {
            let shown = path.display().to_string();
            let done = tokio::task::spawn_blocking(move || classify_file(&path, &model, &limits)).await;
            done.map_err(|panic| anyhow!("{shown}: classifying it failed: {panic}")).and_then(|record| record)
        }
    });
    let mut records = stream::iter(work).buffered(limits.cpus.get());

    let mut unanswered = 0_usize;
    let mut kept = Vec::new();
    let stdout = std::io::stdout().lock();
    let mut writer = match arguments.format {
        Format::Table => Writer::Table,
        Format::Json => Writer::Json(stdout),
        Format::Csv => Writer::Csv(Box::new(output::csv_writer(stdout)?)),
    };
    while let Some(record) = records.next().await {
        match (record, &mut writer) {
            (Err(error), _) => {
                unanswered += 1;
                eprintln!("giemsa: {error:#}");
            }
            (Ok(record), Writer::Table) => kept.push(record),
            (Ok(record), Writer::Json(out)) => output::write_json_line(out, &record)?,
            (Ok(record), Writer::Csv(out)) => output::write_csv_row(out, &record)?,
        }
    }
    match writer {
        Writer::Table => {
            let mut stdout = std::io::stdout().lock();
            let table = output::records_table(&kept, |record| record.image.key.clone());
            writeln!(stdout, "{table}").map_err(anyhow::Error::from)?;
            writeln!(stdout, "{}", output::slides_table(&kept)).map_err(anyhow::Error::from)?;
        }
        Writer::Json(mut out) => out.flush().map_err(anyhow::Error::from)?,
        Writer::Csv(mut out) => out.flush().map_err(anyhow::Error::from)?,
    }
    if unanswered > 0 {
        return Err(Failed::Work(anyhow!("{unanswered} of {count} files are not answered")));
    }
    Ok(())
}

enum Writer<W: Write> {
    Table,
    Json(W),
    Csv(Box<csv::Writer<W>>),
}

fn load_model(path: Option<&Path>) -> anyhow::Result<Arc<Model>> {
    let Some(path) = path else {
        return Model::load(giemsa::local::sample_model()).context("the built-in model");
    };
    let bytes = std::fs::read(path).with_context(|| format!("--model {} cannot be read", path.display()))?;
    Model::load(&bytes).with_context(|| format!("--model {} cannot be used", path.display()))
}

/// All files below `paths`: folders by depth, sorted by name, without hidden files.
fn list_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failed> {
    let mut files = Vec::new();
    for path in paths {
        if !path.exists() {
            let error =
                anyhow!("{} does not exist; expected an image file or a folder of them", path.display());
            return Err(Failed::Usage(error));
        }
        let is_hidden = |entry: &walkdir::DirEntry| {
            entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.')
        };
        let walk = walkdir::WalkDir::new(path).follow_links(true).sort_by_file_name();
        for entry in walk.into_iter().filter_entry(|entry| !is_hidden(entry)) {
            let entry = entry.with_context(|| format!("{} cannot be listed", path.display()))?;
            if entry.file_type().is_file() {
                files.push(entry.into_path());
            }
        }
    }
    if files.is_empty() {
        return Err(Failed::Usage(anyhow!("there are no files in the given folders")));
    }
    Ok(files)
}

fn classify_file(path: &Path, model: &Model, limits: &Limits) -> anyhow::Result<Record> {
    let unreadable = || format!("{} cannot be read", path.display());
    let size_bytes = std::fs::metadata(path).with_context(unreadable)?.len();
    let key = path.to_string_lossy().replace('\\', "/");
    let mut image = ImageInfo::of_object(&ObjectRef::new(LOCAL, key));
    image.size_bytes = Some(size_bytes);
    if size_bytes > limits.max_object_bytes {
        let message =
            format!("the file has {size_bytes} bytes, more than the {} allowed", limits.max_object_bytes);
        let finding = Finding::Rejected(Reject { code: "too_large".to_owned(), message });
        return Ok(Record::new(image, LOCAL, model, finding));
    }
    let bytes = std::fs::read(path).with_context(unreadable)?;
    let analysis = analyse_image(&bytes, model, &limits.decode())
        .with_context(|| format!("{} cannot be classified", path.display()))?;
    image.width_px = analysis.width_px;
    image.height_px = analysis.height_px;
    image.format = analysis.format.map(str::to_owned);
    image.sha256 = Some(analysis.sha256);
    let mut record = Record::new(image, LOCAL, model, analysis.finding);
    record.timings_ms = Some(analysis.timings_ms);
    record.classified_at = Some(Utc::now());
    Ok(record)
}
