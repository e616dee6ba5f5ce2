//! `giemsa model check`: the golden gate on this machine, or a comparison with the training framework's answers.
//!
//! It uses the gate function's code, so the same images, rules and model have the same figures. It does not access a
//! bucket.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use giemsa::golden::{GOLDEN_PREFIX, GoldenBytes, GoldenImage, GoldenSet, answer_golden};
use giemsa_config::Limits;
use giemsa_core::digest::sha256_hex;
use giemsa_core::gate_report::{GateModel, GateReport};
use giemsa_core::gate_rules::{GateRules, RULES_KEY};
use giemsa_model::{LoadLimits, Model, Trial, render_report};

use super::super::{Failed, output};
use super::{FileArgument, expect, limits, print, read_file, short, shown_proof, shown_share};

/// Wrong images named in the text; the report has all.
const SHOWN_IMAGES: usize = 10;

#[derive(Debug, clap::Args)]
pub struct CheckArguments {
    #[command(flatten)]
    file: FileArgument,
    /// Folder of labelled images, DIR/<label>/<image>, with the floors in DIR/gate.json if there are any.
    #[arg(long, value_name = "DIR", required_unless_present = "expect")]
    golden: Option<PathBuf>,
    /// The training framework's answers: a CSV file with the column image (paths relative to the file), and a column of
    /// probabilities for each label, or one named label.
    #[arg(long, value_name = "CSV", conflicts_with_all = ["golden", "html"])]
    expect: Option<PathBuf>,
    /// With --expect: allowed difference of a probability from the framework's. Resizing differs by a level
    /// or two of 255.
    #[arg(long, value_name = "P", default_value_t = 0.01, requires = "expect")]
    tolerance: f64,
    /// Also write the report as a page for people.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Checks a file; exit code 1 if it does not pass.
pub async fn run(arguments: &CheckArguments, json: bool) -> Result<(), Failed> {
    let Some(golden) = &arguments.golden else {
        let expected = arguments.expect.as_deref().expect("clap asks for one of the two");
        return expect::run(&arguments.file.file, expected, arguments.tolerance, json);
    };
    let bytes = read_file(&arguments.file.file)?;
    let (set, rules) = read_golden(golden).map_err(Failed::Usage)?;
    let report = try_model(&bytes, golden, &set, rules, &limits()?).await?;
    if let Some(path) = &arguments.html {
        let page = render_report(&report);
        std::fs::write(path, page).with_context(|| format!("--html {} cannot be written", path.display()))?;
    }
    print(json, &report, shown)?;
    if report.passed {
        Ok(())
    } else {
        Err(Failed::Work(anyhow!("it would fail: {}", report.failures.join("; "))))
    }
}

/// The images of a folder under the keys that they would have in the bucket, and the rules.
fn read_golden(folder: &Path) -> anyhow::Result<(GoldenSet, Option<GateRules>)> {
    if !folder.is_dir() {
        bail!(
            "--golden {} is not a folder; expected one with a folder of images for each label",
            folder.display()
        );
    }
    let mut files = Vec::new();
    let mut rules = None;
    for entry in walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        let entry = entry.with_context(|| format!("{} cannot be listed", folder.display()))?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.path();
        let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let name = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().replace('\\', "/");
        let key = format!("{GOLDEN_PREFIX}{name}");
        if key == RULES_KEY {
            rules = Some(GateRules::parse(&bytes)?);
        }
        files.push((key, sha256_hex(&bytes)));
    }
    Ok((GoldenSet::of(files), rules))
}

async fn try_model(
    bytes: &[u8],
    folder: &Path,
    set: &GoldenSet,
    rules: Option<GateRules>,
    limits: &Limits,
) -> anyhow::Result<GateReport> {
    let model =
        GateModel { sha256: sha256_hex(bytes), size_bytes: bytes.len() as u64, ..GateModel::default() };
    let mut trial = Trial::new(model, set.summary(), Utc::now());
    trial.rules = rules.unwrap_or_default();
    trial.notes.push("checked on this machine, not in the model bucket".to_owned());
    let model = match Model::load_within(bytes, &LoadLimits::from(limits)) {
        Ok(model) => model,
        Err(error) => {
            trial.problems.push(format!("the model cannot serve: {error}"));
            return Ok(trial.judge());
        }
    };
    model.describe(&mut trial.model);
    trial.notes.extend(model.notes.iter().cloned());
    let bar = output::progress("checked", set.images.len());
    let read = |image: &GoldenImage| {
        let path = folder.join(image.key.strip_prefix(GOLDEN_PREFIX).unwrap_or(&image.key));
        let bar = bar.clone();
        async move {
            let bytes = tokio::fs::read(&path).await;
            bar.inc(1);
            let bytes = bytes.with_context(|| format!("{} cannot be read", path.display()))?;
            anyhow::Ok(GoldenBytes::Ok(bytes.into()))
        }
    };
    let answers = answer_golden(&set.images, read, &[model], limits).await;
    bar.finish_and_clear();
    trial.answers = answers?.into_iter().next().unwrap_or_default();
    Ok(trial.judge())
}

fn shown(report: &GateReport) -> String {
    let name = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
    let (model, version) = (name(&report.model.name), name(&report.model.version));
    let mut lines = vec![output::printable(&format!("{model} {version} ({})", short(&report.model.sha256)))];
    lines.push(output::printable(&format!("proof        {}", shown_proof(report.model.proof.as_ref()))));
    let images = report.golden.images.iter().map(|(label, count)| format!("{count} {label}"));
    lines.push(output::printable(&format!("images       {}", images.collect::<Vec<_>>().join(", "))));
    lines.push(format!("right        {}", shown_share(report.accuracy.as_ref())));
    for label in &report.labels {
        let (sensitivity, specificity) =
            (shown_share(label.sensitivity.as_ref()), shown_share(label.specificity.as_ref()));
        let text = format!("  {}: sensitivity {sensitivity}, specificity {specificity}", label.label);
        lines.push(output::printable(&text));
    }
    lines.push(format!("human look   {}", shown_share(report.needs_review.as_ref())));
    if let Some(speed) = report.speed {
        lines.push(format!(
            "speed        {:.1} ms an image, 95 % within {:.1} ms",
            speed.median_ms, speed.p95_ms
        ));
    }
    for wrong in report.wrong.iter().take(SHOWN_IMAGES) {
        let text =
            format!("wrong        {}: {} with {:.1} %", wrong.key, wrong.answered, 100.0 * wrong.confidence);
        lines.push(output::printable(&text));
    }
    for unreadable in report.unreadable.iter().take(SHOWN_IMAGES) {
        lines.push(output::printable(&format!("unanswered   {}: {}", unreadable.key, unreadable.message)));
    }
    lines.extend(report.notes.iter().map(|note| output::printable(&format!("note         {note}"))));
    lines.push(if report.passed { "passes" } else { "FAILS" }.to_owned());
    lines.join("\n")
}
