//! `giemsa model check --expect`: Giemsa's answers compared with the training framework's, on your own images.
//!
//! Images are decoded, resized and scored as in the pipeline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use giemsa::analysis::analyse_image;
use giemsa_core::record::{Finding, ModelInfo};
use giemsa_image::DecodeLimits;
use giemsa_model::{LoadLimits, Model};
use serde::Serialize;

use super::super::{Failed, output};
use super::{limits, print, read_file, shown_model};

/// Images shown in the text; the JSON has all.
const SHOWN_IMAGES: usize = 10;

/// Column of the images' paths.
const IMAGE: &str = "image";
/// Column of the framework's answer.
const LABEL: &str = "label";

/// The framework's answer for one image.
struct Expectation {
    image: String,
    path: PathBuf,
    label: Option<String>,
    /// By label; empty if the file has no such columns.
    probabilities: BTreeMap<String, f64>,
}

#[derive(Debug, Serialize)]
struct Agreement {
    model: ModelInfo,
    /// Greatest difference of a probability that is allowed.
    tolerance: f64,
    agrees: bool,
    /// Of all probabilities of all images; absent if only labels were given.
    greatest_difference: Option<f64>,
    labels_differ: usize,
    /// As in the file, the greatest difference first.
    images: Vec<Beside>,
}

#[derive(Debug, Serialize)]
struct Beside {
    image: String,
    expected: String,
    found: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    expected_probabilities: BTreeMap<String, f64>,
    /// Not calibrated: at temperature 1, as the framework computes them.
    found_probabilities: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<f64>,
    label_differs: bool,
}

/// Compares; exit code 1 if the answers differ.
pub fn run(file: &Path, expected: &Path, tolerance: f64, json: bool) -> Result<(), Failed> {
    let bytes = read_file(file)?;
    let limits = limits()?;
    let loaded = Model::load_within(&bytes, &LoadLimits::from(&limits));
    let model = loaded.with_context(|| format!("{} cannot serve", file.display()))?;
    let expectations = read_expectations(expected, &model.metadata.labels).map_err(Failed::Usage)?;
    let mut uncalibrated = Model::clone(&model);
    uncalibrated.metadata.temperature = 1.0;

    let bar = output::progress("compared", expectations.len());
    let mut images = Vec::with_capacity(expectations.len());
    for expectation in expectations {
        images.push(beside(&uncalibrated, expectation, &DecodeLimits::of(&limits))?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    images.sort_by(|a, b| {
        let order = |image: &Beside| (image.label_differs, image.difference.unwrap_or(0.0));
        order(b).partial_cmp(&order(a)).expect("differences are finite")
    });
    let greatest_difference = images.iter().filter_map(|image| image.difference).reduce(f64::max);
    let labels_differ = images.iter().filter(|image| image.label_differs).count();
    // Where probabilities agree within the tolerance, a toss-up may fall to either side.
    let agrees = greatest_difference.map_or(labels_differ == 0, |greatest| greatest <= tolerance);
    let agreement =
        Agreement { model: model.info(), tolerance, agrees, greatest_difference, labels_differ, images };
    print(json, &agreement, shown)?;
    if agrees {
        return Ok(());
    }
    let worst = greatest_difference.map_or_else(String::new, |greatest| {
        format!("probabilities by up to {greatest:.4}, more than {tolerance}, and ")
    });
    Err(Failed::Work(anyhow!(
        "{} and Giemsa differ: {worst}{labels_differ} of {} labels; usual causes, in this order: a \
         different resize, scale, mean or std than in training, BGR instead of RGB, the order of the labels \
         (models/README.md)",
        expected.display(),
        agreement.images.len()
    )))
}

fn beside(model: &Model, expectation: Expectation, limits: &DecodeLimits) -> anyhow::Result<Beside> {
    let Expectation { image, path, label, probabilities } = expectation;
    let bytes = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let analysis = analyse_image(&bytes, model, limits)
        .with_context(|| format!("{} cannot be classified", path.display()))?;
    let decision = match analysis.finding {
        Finding::Classified(decision) => decision,
        Finding::Rejected(reject) => bail!("{} cannot be classified: {}", path.display(), reject.message),
    };
    let difference = |(label, expected): (&String, &f64)| (decision.probabilities[label] - expected).abs();
    let difference = probabilities.iter().map(difference).reduce(f64::max);
    let best = probabilities.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(label, _)| label.clone());
    let expected = label.or(best).expect("the file has a label or probabilities");
    Ok(Beside {
        image,
        label_differs: expected != decision.label,
        expected,
        found: decision.label,
        expected_probabilities: probabilities,
        found_probabilities: decision.probabilities,
        difference,
    })
}

/// Reads the CSV: `image`, and `label` or a column for each label of the model.
fn read_expectations(path: &Path, labels: &[String]) -> anyhow::Result<Vec<Expectation>> {
    let shown = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("--expect {shown} cannot be read"))?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    // As spreadsheets write it where a comma is part of numbers.
    let header = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let separator = if header.contains(&b';') { b';' } else { b',' };
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).trim(csv::Trim::All).from_reader(text);
    let columns = reader.headers().with_context(|| format!("--expect {shown} is not a CSV file"))?.clone();
    let column = |name: &str| columns.iter().position(|column| column == name);
    let found = columns.iter().collect::<Vec<_>>();
    let Some(image_column) = column(IMAGE) else {
        bail!(
            "--expect {shown} has the columns {found:?}; expected one named {IMAGE:?}, with the images' paths"
        );
    };
    let of_labels: Vec<(&String, usize)> =
        labels.iter().filter_map(|label| Some((label, column(label)?))).collect();
    let label_column = column(LABEL).filter(|at| !of_labels.iter().any(|(_, column)| column == at));
    if of_labels.len() != labels.len() && (label_column.is_none() || !of_labels.is_empty()) {
        bail!(
            "--expect {shown} has the columns {found:?}; expected {IMAGE:?} and either a column of probabilities for \
             each of the model's labels {labels:?}, or one named {LABEL:?}"
        );
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut expectations = Vec::new();
    for (row, line) in reader.records().zip(2..) {
        let row = row.with_context(|| format!("--expect {shown}, line {line}"))?;
        let cell = |at: usize| row.get(at).unwrap_or_default();
        let mut probabilities = BTreeMap::new();
        for &(label, at) in &of_labels {
            let text = cell(at);
            let number =
                text.replace(',', ".").parse::<f64>().ok().filter(|p| (-1e-6..=1.000_001).contains(p));
            let number = number.with_context(|| {
                format!("--expect {shown}, line {line}: {label} is {text:?}; expected a probability, 0 to 1")
            })?;
            probabilities.insert(label.clone(), number);
        }
        let label = label_column.map(|at| cell(at).to_owned());
        if let Some(label) = label.as_ref().filter(|label| !labels.contains(label)) {
            bail!("--expect {shown}, line {line}: {label:?} is not one of the model's labels {labels:?}");
        }
        let image = cell(image_column).to_owned();
        let path = folder.join(image.replace('\\', "/"));
        if !path.is_file() {
            bail!(
                "--expect {shown}, line {line}: there is no image {image:?}; expected a path relative to the folder of \
                 the CSV file, or an absolute one"
            );
        }
        expectations.push(Expectation { image, path, label, probabilities });
    }
    if expectations.is_empty() {
        bail!("--expect {shown} has no rows; expected one for each image");
    }
    Ok(expectations)
}

fn shown(agreement: &Agreement) -> String {
    let mut lines = vec![shown_model(&agreement.model)];
    let of_label = |probabilities: &BTreeMap<String, f64>, label: &str| {
        probabilities.get(label).map_or_else(String::new, |p| format!(" {p:.4}"))
    };
    for image in agreement.images.iter().take(SHOWN_IMAGES) {
        let expected = of_label(&image.expected_probabilities, &image.expected);
        let found = of_label(&image.found_probabilities, &image.found);
        let difference = image.difference.map_or_else(String::new, |d| format!(", by {d:.4}"));
        let differs = if image.label_differs { ", ANOTHER LABEL" } else { "" };
        let text = format!(
            "  {}: expected {}{expected}, found {}{found}{difference}{differs}",
            image.image, image.expected, image.found
        );
        lines.push(output::printable(&text));
    }
    let count = agreement.images.len();
    if count > SHOWN_IMAGES {
        lines.push(format!("  … {} more images, which differ less", count - SHOWN_IMAGES));
    }
    lines.push(format!("images       {count}, {} of them with another label", agreement.labels_differ));
    if let Some(greatest) = agreement.greatest_difference {
        lines.push(format!(
            "difference   {greatest:.4} at most, of probabilities at temperature 1 (allowed: {})",
            agreement.tolerance
        ));
    }
    lines.push(if agreement.agrees { "agrees" } else { "DIFFERS" }.to_owned());
    lines.join("\n")
}
