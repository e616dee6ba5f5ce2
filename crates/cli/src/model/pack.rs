//! `giemsa model pack`: writes metadata into an ONNX file.
//!
//! The output can serve, and it is complete or absent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use giemsa_core::gate_report::ProofOutcome;
use giemsa_core::record::ModelInfo;
use giemsa_image::{ColorMode, InputSpecJson, Layout, Resize};
use giemsa_model::{LoadLimits, MetadataChanges, OnnxFile, PROOF_KEY, pack_within};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::Failed;
use super::{FileArgument, limits, print, read_file, shown_model, shown_proof, shown_size};

#[derive(Debug, clap::Args)]
// `--version` is the model's, as in the scripts of models/convert; `giemsa --version` is the program's.
#[command(disable_version_flag = true)]
pub struct PackArguments {
    #[command(flatten)]
    file: FileArgument,
    /// Output file; the input file is replaced only if you name it here.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Name shown to people.
    #[arg(long)]
    name: Option<String>,
    /// Version shown to people.
    #[arg(long)]
    version: Option<String>,
    /// Labels in the order of the network's scores, e.g. parasitized,uninfected.
    #[arg(long, value_delimiter = ',', value_name = "LABEL,…")]
    labels: Vec<String>,
    /// Labels that count as positive in a slide's figure.
    #[arg(long, value_delimiter = ',', value_name = "LABEL,…")]
    positive: Vec<String>,
    /// Order of the input's dimensions: nchw (PyTorch) or nhwc (Keras); if the graph does not show it.
    #[arg(long, value_parser = parse_word::<Layout>)]
    layout: Option<Layout>,
    /// Columns of the input, pixels; if the graph leaves them open.
    #[arg(long)]
    width: Option<u32>,
    /// Rows of the input, pixels; if the graph leaves them open.
    #[arg(long)]
    height: Option<u32>,
    /// Channels: rgb or gray; if the graph does not show it.
    #[arg(long, value_parser = parse_word::<ColorMode>)]
    color: Option<ColorMode>,
    /// How images are resized, as in training: stretch, fit or crop.
    #[arg(long, value_parser = parse_word::<Resize>)]
    resize: Option<Resize>,
    /// Red, green and blue of the padding of `fit`, 0 to 255.
    #[arg(long, value_delimiter = ',', num_args = 3, value_name = "R,G,B")]
    pad: Vec<u8>,
    /// Factor on samples of 0 to 255, as a number or a fraction, e.g. 1/255.
    #[arg(long, value_parser = parse_fraction)]
    scale: Option<f32>,
    /// Subtracted after scaling, one for each channel.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, value_name = "X,…")]
    mean: Vec<f32>,
    /// Divided by after that, one for each channel.
    #[arg(long, value_delimiter = ',', value_name = "X,…")]
    std: Vec<f32>,
    /// What the network outputs: logits or probabilities.
    #[arg(long = "scores", value_name = "KIND")]
    scores: Option<String>,
    /// Temperature of the calibration, > 0.
    #[arg(long)]
    temperature: Option<f32>,
    /// Ask for a review below this confidence, 0 to 1.
    #[arg(long, value_name = "P")]
    review_below: Option<f64>,
    /// Ask for a review if this label is above this probability, e.g. parasitized=0.1; repeatable.
    #[arg(long, value_parser = parse_label_limit, value_name = "LABEL=P")]
    review_above: Vec<(String, f64)>,
    /// Ask for a review above this outlier score.
    #[arg(long, allow_hyphen_values = true, value_name = "X")]
    outlier_above: Option<f64>,
    /// The training framework's scores for a few pictures, as JSON (models/README.md); the file is written only if they
    /// are this model's.
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Packed {
    output: String,
    model: ModelInfo,
    size_bytes: u64,
    metadata: BTreeMap<String, String>,
    /// How its scores compare with the training framework's.
    proof: Option<ProofOutcome>,
    notes: Vec<String>,
}

/// Packs a file.
pub fn run(arguments: &PackArguments, json: bool) -> Result<(), Failed> {
    let path = &arguments.file.file;
    let bytes = read_file(path)?;
    let mut changes = arguments.changes();
    if let Some(path) = &arguments.proof {
        let text = String::from_utf8(read_file(path)?);
        let text = text.with_context(|| format!("--proof {} is not text", path.display()));
        changes.proof = Some(text.map_err(Failed::Usage)?.trim().to_owned());
    }
    if changes == MetadataChanges::default() {
        return Err(Failed::Usage(anyhow!(
            "nothing to write; pass at least one of --labels, --resize, --mean, …"
        )));
    }
    let limits = LoadLimits::from(&limits()?);
    let (packed, model) = pack_within(&bytes, &changes, &limits)
        .with_context(|| format!("{} was not packed", path.display()))?;
    write_whole(&arguments.output, &packed)?;
    let file = OnnxFile::parse_within(&packed, &limits).map_err(anyhow::Error::from)?;
    let done = Packed {
        output: arguments.output.display().to_string(),
        model: model.info(),
        size_bytes: packed.len() as u64,
        metadata: file.properties(),
        proof: model.proof.clone(),
        notes: model.notes.clone(),
    };
    print(json, &done, |done| {
        let mut lines =
            vec![format!("{}: {}, {}", done.output, shown_model(&done.model), shown_size(done.size_bytes))];
        lines.extend(
            done.metadata
                .iter()
                .filter(|(key, _)| *key != PROOF_KEY)
                .map(|(key, value)| format!("  {key:<18} {}", super::super::output::printable(value))),
        );
        lines.push(super::super::output::printable(&format!(
            "  {PROOF_KEY:<18} {}",
            shown_proof(done.proof.as_ref())
        )));
        lines.extend(
            done.notes.iter().map(|note| super::super::output::printable(&format!("  note: {note}"))),
        );
        lines.join("\n")
    })
}

/// Writes a temporary file and renames it, so that nobody finds half a model.
fn write_whole(path: &std::path::Path, bytes: &[u8]) -> anyhow::Result<()> {
    let failed = || format!("{} cannot be written", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| std::path::Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    std::io::Write::write_all(&mut file, bytes).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

impl PackArguments {
    fn changes(&self) -> MetadataChanges {
        let numbers = |list: &[f32]| (!list.is_empty()).then(|| list.to_vec());
        MetadataChanges {
            name: self.name.clone(),
            version: self.version.clone(),
            labels: self.labels.clone(),
            input: InputSpecJson {
                layout: self.layout,
                width: self.width,
                height: self.height,
                color: self.color,
                resize: self.resize,
                pad: <[u8; 3]>::try_from(&self.pad[..]).ok(),
                scale: self.scale,
                mean: numbers(&self.mean),
                std: numbers(&self.std),
            },
            output: self.scores.clone(),
            temperature: self.temperature,
            review_below: self.review_below,
            review_above: self.review_above.iter().cloned().collect(),
            outlier_above: self.outlier_above,
            positive: self.positive.clone(),
            proof: None,
        }
    }
}

/// A word as in the metadata's JSON.
fn parse_word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

fn parse_fraction(text: &str) -> Result<f32, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite());
    let value = match text.split_once('/') {
        Some((above, below)) => number(above).zip(number(below).filter(|n| *n != 0.0)).map(|(a, b)| a / b),
        None => number(text),
    };
    value.map(|value| value as f32).ok_or_else(|| "expected a number or a fraction, e.g. 1/255".to_owned())
}

fn parse_label_limit(text: &str) -> Result<(String, f64), String> {
    let parts =
        text.rsplit_once('=').and_then(|(label, limit)| Some((label.to_owned(), limit.parse().ok()?)));
    parts.ok_or_else(|| "expected a label and a probability, e.g. parasitized=0.1".to_owned())
}
