//! `giemsa classify`: files and folders, without a stack.
//!
//! Every file has one record on stdout, in the order of the arguments (folders sorted by name), or an error on stderr
//! and exit code 1.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use chrono::Utc;
use futures::{StreamExt, stream};
use giemsa::analysis::analyse_image;
use giemsa_config::Limits;
use giemsa_core::object::ObjectRef;
use giemsa_core::record::{Finding, ImageInfo, Record, Reject};
use giemsa_image::DecodeLimits;
use giemsa_model::{LoadLimits, Model};
use giemsa_store::FetchError;

use super::form::{CsvWriter, Form};
use super::{ClassifyArguments, Failed, complain, folders, output};

/// Bucket and stage that records of files name.
const LOCAL: &str = "local";

/// Classifies all files of the arguments.
pub async fn run(arguments: &ClassifyArguments) -> Result<(), Failed> {
    let form = arguments.form.form()?;
    let limits = Limits::from_env().map_err(|error| Failed::Usage(error.into()))?;
    let files = list_files(&arguments.paths)?;
    let model = load_model(arguments.model.as_deref(), &limits).map_err(Failed::Usage)?;
    let count = files.len();
    let work = files.into_iter().map(|found| {
        let (model, limits) = (model.clone(), limits.clone());
        async move {
            let path = found?;
            let shown = path.display().to_string();
            let done = tokio::task::spawn_blocking(move || classify_file(&path, &model, &limits)).await;
            done.map_err(|panic| anyhow!("{shown}: classifying it failed: {panic}")).and_then(|record| record)
        }
    });
    let mut records = stream::iter(work).buffered(limits.cpus.get());

    let mut unanswered = 0_usize;
    let mut kept = Vec::new();
    let stdout = std::io::stdout().lock();
    let mut writer = match form {
        Form::Table => Writer::Table,
        Form::Json => Writer::Json(stdout),
        Form::Csv(style) => Writer::Csv(Box::new(CsvWriter::new(stdout, style, output::CSV_HEADER)?)),
    };
    let bar = output::progress("classified", count);
    while let Some(record) = records.next().await {
        // The bar makes way, for a terminal may show stdout as well.
        bar.suspend(|| match (record, &mut writer) {
            (Err(error), _) => {
                unanswered += 1;
                complain(&format!("giemsa: {error:#}"));
                Ok(())
            }
            (Ok(record), Writer::Table) => {
                kept.push(record);
                Ok(())
            }
            (Ok(record), Writer::Json(out)) => output::write_json_line(out, &record),
            (Ok(record), Writer::Csv(out)) => out.write(output::csv_cells(&record)),
        })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    match writer {
        Writer::Table => {
            let mut stdout = std::io::stdout().lock();
            let table = output::records_table(&kept);
            writeln!(stdout, "{table}\n").map_err(anyhow::Error::from)?;
            writeln!(stdout, "{}", output::slides_table(&kept)).map_err(anyhow::Error::from)?;
        }
        Writer::Json(mut out) => out.flush().map_err(anyhow::Error::from)?,
        Writer::Csv(mut out) => out.flush()?,
    }
    if unanswered > 0 {
        return Err(Failed::Work(anyhow!("{unanswered} of {count} files are not answered")));
    }
    Ok(())
}

enum Writer<W: Write> {
    Table,
    Json(W),
    Csv(Box<CsvWriter<W>>),
}

fn load_model(path: Option<&Path>, limits: &Limits) -> anyhow::Result<Arc<Model>> {
    let limits = LoadLimits::from(limits);
    let Some(path) = path else {
        return Model::load_within(giemsa_local::sample_model(), &limits).context("the built-in model");
    };
    let bytes = std::fs::read(path).with_context(|| format!("--model {} cannot be read", path.display()))?;
    Model::load_within(&bytes, &limits).with_context(|| format!("--model {} cannot be used", path.display()))
}

/// All files below `paths`, each folder sorted by name, without hidden files and those of the system. What cannot be listed is an
/// error in its place, so that the rest is still answered.
fn list_files(paths: &[PathBuf]) -> Result<Vec<anyhow::Result<PathBuf>>, Failed> {
    let mut files = Vec::new();
    for path in paths {
        let expected = "expected an image file or a folder of them";
        let metadata = std::fs::metadata(path).map_err(|error| {
            Failed::Usage(match error.kind() {
                std::io::ErrorKind::NotFound => anyhow!("{} does not exist; {expected}", path.display()),
                _ => anyhow!("{} cannot be read: {error}; {expected}", path.display()),
            })
        })?;
        if !metadata.is_file() && !metadata.is_dir() {
            let error = anyhow!("{} is neither a file nor a folder; {expected}", path.display());
            return Err(Failed::Usage(error));
        }
        let walk = walkdir::WalkDir::new(path).follow_links(true).sort_by_file_name();
        for entry in walk.into_iter().filter_entry(folders::is_shown) {
            match entry {
                Ok(entry) if entry.file_type().is_file() => files.push(Ok(entry.into_path())),
                Ok(_) => {}
                // A link to a folder around it: the walk has those files already.
                Err(error) if error.loop_ancestor().is_some() => {}
                Err(error) => files.push(Err(unlisted(path, &error))),
            }
        }
    }
    if files.is_empty() {
        let error =
            anyhow!("there are no files in the given folders (hidden files and system files are skipped)");
        return Err(Failed::Usage(error));
    }
    Ok(files)
}

fn unlisted(folder: &Path, error: &walkdir::Error) -> anyhow::Error {
    let path = error.path().unwrap_or(folder).display();
    let reason = error.io_error().map(ToString::to_string);
    anyhow!("{path} cannot be read: {}", reason.unwrap_or_else(|| error.to_string()))
}

fn classify_file(path: &Path, model: &Model, limits: &Limits) -> anyhow::Result<Record> {
    let unreadable = || format!("{} cannot be read", path.display());
    let size_bytes = std::fs::metadata(path).with_context(unreadable)?.len();
    let key = path.to_string_lossy();
    let mut image = ImageInfo::of_object(&ObjectRef::new(LOCAL, key));
    image.size_bytes = Some(size_bytes);
    if size_bytes > limits.max_object_bytes {
        let limit_bytes = limits.max_object_bytes;
        let error = FetchError::TooLarge { size_bytes, limit_bytes, image: Box::new(image.clone()) };
        let finding = Finding::Rejected(Reject { code: "too_large".to_owned(), message: error.to_string() });
        return Ok(Record::new(image, LOCAL, model.info(), finding));
    }
    let bytes = std::fs::read(path).with_context(unreadable)?;
    let analysis = analyse_image(&bytes, model, &DecodeLimits::of(limits))
        .with_context(|| format!("{} cannot be classified", path.display()))?;
    analysis.describe(&mut image);
    let mut record = Record::new(image, LOCAL, model.info(), analysis.finding);
    record.timings_ms = Some(analysis.timings_ms);
    record.classified_at = Some(Utc::now());
    Ok(record)
}
