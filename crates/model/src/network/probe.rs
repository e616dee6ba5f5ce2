//! Probes of a network before it serves, and whether its scores are what `giemsa.output` says.
//!
//! A probe is a picture, and goes through the model's own input formula: no network is asked what no image can ask it.
//! The same file gets the same probes on every machine.

use std::time::Instant;

use super::super::metadata::{GraphFacts, Metadata, ScoreKind};
use super::{LoadLimits, ModelError, Network};
use giemsa_image::{InputSpec, Pixels, preprocess};

/// How far scores may be from the range and the sum of probabilities: far above rounding of 32-bit floats, far below
/// what a missing softmax makes.
const TOLERANCE: f32 = 1e-3;

/// Scores that differ by less than this part of the largest are the same.
const SAME: f32 = 1e-6;

/// Scores that a message shows of many.
const SHOWN_SCORES: usize = 8;

/// Why scores are not what `giemsa.output` says.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScoreError {
    /// Said to be probabilities, and outside 0 to 1.
    #[error(
        "giemsa.output is probabilities, but the network gave the scores {scores} on {input}; these look like logits: \
         set giemsa.output to logits (giemsa model pack model.onnx --output model.onnx --scores logits)"
    )]
    Logits {
        /// The scores.
        scores: String,
        /// The probe.
        input: &'static str,
    },
    /// Said to be probabilities, and they do not sum to 1.
    #[error(
        "giemsa.output is probabilities, but the scores {scores} that the network gave on {input} sum to {sum:.4}; \
         expected 1. They look like independent sigmoids, each of which says nothing about the other labels: train the \
         network with a softmax over the labels, or, if it has a softmax after these scores, set giemsa.output to \
         logits"
    )]
    NoSum {
        /// The scores.
        scores: String,
        /// Their sum.
        sum: f32,
        /// The probe.
        input: &'static str,
    },
    /// A softmax over an axis of one element.
    #[error(
        "each of the {count} scores is 1 on every probe: the network's softmax runs over an axis of length 1; give it \
         the axis of the labels (axis=1 for scores of the shape [1, {count}, …]) and export the network again"
    )]
    Axis {
        /// Scores of an image.
        count: usize,
    },
    /// Said to be logits, and they are probabilities on every probe.
    #[error(
        "giemsa.output is logits, but the scores of every probe lie between 0 and 1 and sum to 1, for example {scores} \
         on {input}: they are probabilities, and a second softmax would flatten them; set giemsa.output to \
         probabilities (giemsa model pack model.onnx --output model.onnx --scores probabilities)"
    )]
    Probabilities {
        /// The scores.
        scores: String,
        /// The probe.
        input: &'static str,
    },
    /// Said to be logits, and the last operator makes probabilities.
    #[error(
        "giemsa.output is logits, but the graph ends in a {operator}, which gives probabilities: {way_out}"
    )]
    Ending {
        /// The operator.
        operator: &'static str,
        /// What to do.
        way_out: &'static str,
    },
    /// The same whatever the network sees.
    #[error(
        "the network gives the scores {scores} whatever it sees: black, grey and white images, noise, coloured blocks \
         and a drawn cell. It was never trained, its weights are damaged, or the input's scale, mean and std do not fit \
         it; export the trained network again, and check giemsa.input"
    )]
    Constant {
        /// The scores.
        scores: String,
    },
}

/// A picture of the input's size: its name, and red, green and blue of the pixel in a column and a row.
type Probe = (&'static str, fn(PixelPosition) -> [u8; 3]);

/// Pixels that every image may have; the first probes, so that a slow network is refused after them.
const UNIFORM: [Probe; 3] = [
    ("a uniform image of pixel value 0", |_| [0; 3]),
    ("a uniform image of pixel value 128", |_| [128; 3]),
    ("a uniform image of pixel value 255", |_| [255; 3]),
];

const PATTERNS: [Probe; 3] = [
    ("an image of noise", |place| noise(u64::from(place.row) << 32 | u64::from(place.column))),
    ("an image of coloured blocks", |place| {
        let block = |at: u32, side: u32| u64::from(at) * 4 / u64::from(side);
        noise(1 << 63 | block(place.row, place.height) << 8 | block(place.column, place.width))
    }),
    ("an image of a drawn cell", |place| {
        let offset = |at: u32, side: u32, center: f32| (at as f32 + 0.5) / side as f32 - center;
        let distance = |x, y| offset(place.column, place.width, x).hypot(offset(place.row, place.height, y));
        match () {
            () if distance(0.6, 0.42) < 0.07 => [92, 46, 130],
            () if distance(0.5, 0.5) < 0.38 => [214, 154, 160],
            () => [244, 238, 232],
        }
    }),
];

#[derive(Clone, Copy)]
struct PixelPosition {
    column: u32,
    row: u32,
    width: u32,
    height: u32,
}

/// Three bytes that follow from `seed` and look random (SplitMix64: Steele, Lea and Flood 2014).
fn noise(seed: u64) -> [u8; 3] {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let [red, green, blue, ..] = (z ^ (z >> 31)).to_le_bytes();
    [red, green, blue]
}

fn draw(spec: &InputSpec, pixel: fn(PixelPosition) -> [u8; 3]) -> Pixels {
    let (width, height) = (spec.width, spec.height);
    let rows = (0..height)
        .flat_map(|row| (0..width).map(move |column| PixelPosition { column, row, width, height }));
    Pixels { width_px: width, height_px: height, rgb: rows.flat_map(pixel).collect() }
}

impl Network {
    /// Runs the probes, and checks time and scores.
    ///
    /// Gives the scores if they are the same on every probe and may be so all the same: probabilities of exactly 0 and
    /// 1, as a well-trained network may give for pictures that are far from every border.
    pub(super) fn probe(
        &self,
        metadata: &Metadata,
        graph: &GraphFacts,
        limits: &LoadLimits,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let mut seen = Vec::with_capacity(UNIFORM.len() + PATTERNS.len());
        let run = |&(name, pixel): &Probe| {
            let input = preprocess(&draw(&metadata.input, pixel), &metadata.input);
            let started = Instant::now();
            let scores = self.raw_scores(input, name)?.labels;
            Ok::<_, ModelError>(((name, scores), started.elapsed()))
        };
        let mut times = Vec::with_capacity(UNIFORM.len());
        for probe in &UNIFORM {
            let (scores, took) = run(probe)?;
            seen.push(scores);
            times.push(took);
        }
        let fastest = times.into_iter().min().expect("there are probes");
        if fastest > limits.image_timeout {
            return Err(ModelError::TooSlow { took: fastest, limit: limits.image_timeout });
        }
        for probe in &PATTERNS {
            seen.push(run(probe)?.0);
        }
        Ok(check_scores(&seen, metadata.output, graph)?)
    }
}

type Seen = (&'static str, Vec<f32>);

fn check_scores(seen: &[Seen], said: ScoreKind, graph: &GraphFacts) -> Result<Option<Vec<f32>>, ScoreError> {
    let count = seen[0].1.len();
    // Rounded to 256 steps, each score may be off by half a step.
    let sum_tolerance = if graph.is_quantised { (count as f32 / 256.0).clamp(0.01, 0.1) } else { TOLERANCE };
    let is_share = |score: &f32| (-TOLERANCE..=1.0 + TOLERANCE).contains(score);
    let sums_to_one = |scores: &[f32]| (scores.iter().sum::<f32>() - 1.0).abs() <= sum_tolerance;
    match said {
        ScoreKind::Probabilities => {
            for (input, scores) in seen {
                if !scores.iter().all(is_share) {
                    return Err(ScoreError::Logits { scores: shown(scores), input });
                }
            }
            let is_single = count == 1;
            if !is_single && seen.iter().all(|(_, scores)| scores.iter().all(|s| (s - 1.0).abs() < SAME)) {
                return Err(ScoreError::Axis { count });
            }
            if let Some((input, scores)) = seen.iter().find(|(_, scores)| !is_single && !sums_to_one(scores))
            {
                return Err(ScoreError::NoSum { scores: shown(scores), sum: scores.iter().sum(), input });
            }
        }
        ScoreKind::Logits => {
            if graph.ends_in_softmax {
                let way_out = "a second softmax would flatten them; set giemsa.output to probabilities (giemsa model \
                               pack model.onnx --output model.onnx --scores probabilities)";
                return Err(ScoreError::Ending { operator: "Softmax", way_out });
            }
            if graph.ends_in_sigmoid {
                let way_out = if count == 1 {
                    "set giemsa.output to probabilities (giemsa model pack model.onnx --output model.onnx --scores \
                     probabilities)"
                } else {
                    "independent sigmoids say nothing about the other labels; train the network with a softmax over \
                     the labels"
                };
                return Err(ScoreError::Ending { operator: "Sigmoid", way_out });
            }
            if seen.iter().all(|(_, scores)| scores.iter().all(is_share) && sums_to_one(scores)) {
                let (input, scores) = &seen[0];
                return Err(ScoreError::Probabilities { scores: shown(scores), input });
            }
        }
    }
    let (_, first) = &seen[0];
    let largest = seen.iter().flat_map(|(_, scores)| scores).fold(0.0_f32, |most, s| most.max(s.abs()));
    let is_same = |scores: &[f32]| scores.iter().zip(first).all(|(a, b)| (a - b).abs() <= SAME * largest);
    if !seen.iter().all(|(_, scores)| is_same(scores)) {
        return Ok(None);
    }
    let is_saturated = |score: &f32| score.abs() < SAME || (score - 1.0).abs() < SAME;
    if said == ScoreKind::Probabilities && first.iter().all(is_saturated) {
        return Ok(Some(first.clone()));
    }
    Err(ScoreError::Constant { scores: shown(first) })
}

/// The first scores, as a message shows them.
fn shown(scores: &[f32]) -> String {
    let first: Vec<String> = scores.iter().take(SHOWN_SCORES).map(|score| format!("{score:.4}")).collect();
    let rest =
        if scores.len() > SHOWN_SCORES { format!(", … {} in all", scores.len()) } else { String::new() };
    format!("[{}{rest}]", first.join(", "))
}
