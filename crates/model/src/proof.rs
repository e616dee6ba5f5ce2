//! `giemsa.proof`: pictures with the scores that the training framework gave for them, and whether this engine gives
//! the same with this file.
//!
//! It stands for what nothing else in the file can show: that weights, input formula and engine are those that the
//! model was made with. It never reads more than [`MAX_PROOF_BYTES`]. A model with a proof that serves was within its
//! bound on every one of the proof's inputs, on the processor that serves it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::metadata::{GraphFacts, Metadata, MetadataError, ScoreKind};
use super::network::{ModelError, Network, Scores};
use giemsa_core::gate_report::ProofOutcome;
use giemsa_image::{DecodeLimits, ImageFormat, InputSpec, Pixels, decode, preprocess};

/// Key of the proof in `metadata_props`.
pub const PROOF_KEY: &str = "giemsa.proof";

/// Longest text of a proof, bytes.
const MAX_PROOF_BYTES: usize = 256 * 1024;

/// Greatest difference from the framework's scores, of a proof that states no other.
const TOLERANCE: f64 = 1e-3;

/// Greatest difference that a proof of a network with quantised or 16-bit weights may state.
const MAX_TOLERANCE: f64 = 0.05;

/// What an input is called in messages; as many as there may be.
const INPUTS: [&str; 8] = [
    "input 1 of giemsa.proof",
    "input 2 of giemsa.proof",
    "input 3 of giemsa.proof",
    "input 4 of giemsa.proof",
    "input 5 of giemsa.proof",
    "input 6 of giemsa.proof",
    "input 7 of giemsa.proof",
    "input 8 of giemsa.proof",
];

const EXAMPLE: &str = r#"{"by":"torch 2.9.0","inputs":[{"png":"iVBORw0KGgo…","scores":[1.25,-0.5]}]}"#;

/// The JSON of `giemsa.proof`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofJson {
    /// Who gave the scores: a framework and its version.
    by: String,
    inputs: Vec<ProofInput>,
    /// Greatest difference; above [`TOLERANCE`] only of rounded networks.
    #[serde(default)]
    tolerance: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofInput {
    /// Base64 of a PNG file of the input's size.
    png: String,
    /// As the network gives them: logits or probabilities.
    scores: Vec<f32>,
    #[serde(default)]
    outlier: Option<f32>,
}

/// A proof, read and complete.
#[derive(Debug)]
pub(super) struct Proof {
    by: String,
    bound: f64,
    /// PNG files, decoded one at a time: small ones may hold large pictures.
    inputs: Vec<(Vec<u8>, Scores)>,
}

/// Why a proof fails.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProofError {
    /// The network gives other scores than the framework did.
    #[error(
        "on {input} the network gave {what} {found:.6}, and {by} gave {expected:.6}: they differ by {difference:.6}{of}, \
         more than {bound}. The weights are damaged, or giemsa.input or giemsa.output is not that of the training (scale, \
         mean, std, color, layout), or this engine computes something else. Copy the file again, or convert the model \
         again from its framework (models/README.md); after a change on purpose, give a new proof (giemsa model pack \
         --proof)"
    )]
    Differs {
        /// Which input, counted from 1.
        input: &'static str,
        /// Which number: a label's probability or logit, or the outlier score.
        what: String,
        /// The network's.
        found: f64,
        /// The framework's.
        expected: f64,
        /// The difference that is compared with the bound.
        difference: f64,
        /// Of what, if it is relative.
        of: &'static str,
        /// Greatest difference that is allowed.
        bound: f64,
        /// The framework.
        by: String,
    },
}

/// A number of the network beside the framework's.
struct Compared {
    what: String,
    found: f64,
    expected: f64,
    difference: f64,
    of: &'static str,
}

impl Proof {
    /// Reads the proof of a model's metadata.
    ///
    /// # Errors
    /// [`MetadataError`] if it cannot be one of this network.
    pub(super) fn parse(text: &str, graph: &GraphFacts) -> Result<Self, MetadataError> {
        let problem = |what: String| invalid(text, what);
        if text.len() > MAX_PROOF_BYTES {
            return Err(problem(format!(
                "it has {} bytes, more than the {MAX_PROOF_BYTES} that are read; expected fewer or plainer pictures",
                text.len()
            )));
        }
        let json: ProofJson =
            serde_json::from_str(text).map_err(|e| problem(format!("it cannot be read ({e})")))?;
        if json.by.trim().is_empty() || json.by.len() > 100 {
            return Err(problem("by must name the framework in at most 100 bytes".to_owned()));
        }
        if json.inputs.is_empty() || json.inputs.len() > INPUTS.len() {
            let count = json.inputs.len();
            return Err(problem(format!("it has {count} inputs; expected 1 to {}", INPUTS.len())));
        }
        let bound = json.tolerance.unwrap_or(TOLERANCE);
        let most = if graph.is_quantised { MAX_TOLERANCE } else { TOLERANCE };
        if !(bound > 0.0 && bound <= most) {
            return Err(problem(format!(
                "tolerance is {bound}; expected a number above 0 and at most {TOLERANCE}, or {MAX_TOLERANCE} for a \
                 network with quantised or 16-bit weights"
            )));
        }
        let read = |(input, name): (ProofInput, &str)| {
            input.read(graph).map_err(|what| problem(format!("{name}: {what}")))
        };
        let inputs = json.inputs.into_iter().zip(INPUTS).map(read).collect::<Result<_, _>>()?;
        Ok(Self { by: json.by, bound, inputs })
    }

    /// Runs the network on the proof's inputs. Tells also whether it answered them differently.
    ///
    /// # Errors
    /// [`ModelError::Proof`] if the scores differ from the framework's; as [`Network::run`] if there are none.
    pub(super) fn check(
        self,
        network: &Network,
        metadata: &Metadata,
    ) -> Result<(ProofOutcome, bool), ModelError> {
        let mut greatest_difference = 0.0_f64;
        let mut answers = Vec::with_capacity(self.inputs.len());
        let inputs = self.inputs.len() as u64;
        for ((png, expected), input) in self.inputs.into_iter().zip(INPUTS) {
            let pixels = read_png(&png, &metadata.input)
                .map_err(|what| invalid(&self.by, format!("{input}: {what}")))?;
            let found = network.run_on(preprocess(&pixels, &metadata.input), input)?;
            let (count, wanted) =
                (expected.labels.len(), if network.is_single() { 1 } else { found.labels.len() });
            if count != wanted {
                return Err(
                    invalid(&self.by, format!("{input} has {count} scores; expected {wanted}")).into()
                );
            }
            let expected = Scores { labels: network.for_labels(expected.labels), ..expected };
            let compared = compare(&found, &expected, metadata);
            let worst = compared.into_iter().max_by(|a, b| a.difference.total_cmp(&b.difference));
            let Compared { what, found: given, expected, difference, of } = worst.expect("there are labels");
            if difference > self.bound {
                let (bound, by) = (self.bound, self.by);
                return Err(ProofError::Differs {
                    input,
                    what,
                    found: given,
                    expected,
                    difference,
                    of,
                    bound,
                    by,
                }
                .into());
            }
            greatest_difference = greatest_difference.max(difference);
            answers.push(found.labels);
        }
        let differ =
            answers.windows(2).any(|pair| pair[0].iter().zip(&pair[1]).any(|(a, b)| (a - b).abs() > 1e-3));
        Ok((ProofOutcome { by: self.by, inputs, greatest_difference, bound: self.bound }, differ))
    }
}

impl ProofInput {
    fn read(self, graph: &GraphFacts) -> Result<(Vec<u8>, Scores), String> {
        let png = STANDARD.decode(&self.png).map_err(|e| format!("png is not base64 ({e})"))?;
        if !self.scores.iter().chain(&self.outlier).all(|score| score.is_finite()) {
            return Err(format!("the scores are {:?}; expected finite numbers", self.scores));
        }
        match (graph.has_outlier_output, self.outlier) {
            (true, None) => Err("outlier is missing, and the graph has the output \"outlier\"".to_owned()),
            (false, Some(_)) => Err("outlier is given, and the graph has no such output".to_owned()),
            _ => Ok((png, Scores { labels: self.scores, outlier: self.outlier })),
        }
    }
}

fn invalid(found: &str, problem: String) -> MetadataError {
    let found = found.chars().take(60).collect();
    MetadataError::Invalid { key: PROOF_KEY, found, problem, example: EXAMPLE }
}

/// The pixels of a PNG file that has exactly the size of the input.
fn read_png(png: &[u8], spec: &InputSpec) -> Result<Pixels, String> {
    // Room for a picture of another size, so that the message names both sizes.
    let side = spec.width.max(spec.height).max(1024);
    let pixels = u64::from(side) * u64::from(side);
    let limits = DecodeLimits {
        max_width_px: side,
        max_height_px: side,
        max_pixels: pixels,
        max_decoded_bytes: 16 * pixels,
    };
    let decoded = decode(png, &limits).map_err(|e| format!("png cannot be read: {e}"))?;
    let size = (decoded.pixels.width_px, decoded.pixels.height_px);
    if decoded.format != ImageFormat::Png || size != (spec.width, spec.height) {
        return Err(format!(
            "png is a {} of {} x {} px; expected a PNG of the input's {} x {} px, so that no resize takes part",
            decoded.format, size.0, size.1, spec.width, spec.height
        ));
    }
    Ok(decoded.pixels)
}

/// Every number that counts: the probabilities at temperature 1, logits, and the outlier score.
fn compare(found: &Scores, expected: &Scores, metadata: &Metadata) -> Vec<Compared> {
    let labels =
        |what: &'static str| metadata.labels.iter().map(move |label| format!("the {what} of {label:?}"));
    let wide = |scores: &[f32]| scores.iter().map(|score| f64::from(*score)).collect::<Vec<f64>>();
    let (logits, expected_logits) = (wide(&found.labels), wide(&expected.labels));
    let side_by_side = |what, found: Vec<f64>, expected: Vec<f64>, unit: f64| {
        labels(what)
            .zip(found.into_iter().zip(expected))
            .map(move |(what, (found, expected))| {
                let difference = (found - expected).abs() / unit;
                Compared {
                    what,
                    found,
                    expected,
                    difference,
                    of: if unit > 1.0 { " of the largest logit" } else { "" },
                }
            })
            .collect::<Vec<_>>()
    };
    let mut compared = match metadata.output {
        ScoreKind::Probabilities => side_by_side("probability", logits, expected_logits, 1.0),
        ScoreKind::Logits => {
            let unit = expected_logits.iter().fold(1.0_f64, |most, logit| most.max(logit.abs()));
            let mut both = side_by_side("probability", softmax(&logits), softmax(&expected_logits), 1.0);
            // Where the softmax is saturated, the logits still tell.
            both.extend(side_by_side("logit", logits, expected_logits, unit));
            both
        }
    };
    if let (Some(found), Some(expected)) = (found.outlier.map(f64::from), expected.outlier.map(f64::from)) {
        let unit = expected.abs().max(1.0);
        let (difference, of) = ((found - expected).abs() / unit, if unit > 1.0 { " of it" } else { "" });
        compared.push(Compared { what: "the outlier score".to_owned(), found, expected, difference, of });
    }
    compared
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|value| value / sum).collect()
}
