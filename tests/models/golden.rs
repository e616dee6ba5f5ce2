//! Preprocessing against Pillow and numpy, on arrays from `tests/py/make_golden.py`.
//!
//! Tolerance: one level of 255 before scaling. Pillow resamples rows before columns and this crate columns before rows,
//! which is faster, so that the rounding between the two differs. It must be rounding only: the mean of the
//! differences stays near zero, and most samples agree, so that a shift by a fraction of a pixel cannot hide.

use std::path::{Path, PathBuf};

use giemsa_image::decode::{DecodeLimits, Pixels, decode};
use giemsa_image::preprocess::{InputSpec, Layout, preprocess};

const LIMITS: DecodeLimits = DecodeLimits {
    max_width_px: 1_000,
    max_height_px: 1_000,
    max_pixels: 1_000_000,
    max_decoded_bytes: 10_000_000,
};
const MAX_LEVELS: f64 = 1.0;
const MAX_MEAN_LEVELS: f64 = 0.25;
const MAX_BIAS_LEVELS: f64 = 0.05;

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/data/golden").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn pixels(name: &str) -> Pixels {
    decode(&read(name), &LIMITS).expect("the golden image decodes").pixels
}

#[derive(serde::Deserialize)]
struct TensorCase {
    case: String,
    image: String,
    spec: InputSpec,
    /// File of the 8-bit samples before scaling, rows of interleaved channels.
    samples: String,
    shape: [usize; 4],
    first: Vec<f64>,
    sum: f64,
    weighted_sum: f64,
}

fn tensor_cases() -> Vec<TensorCase> {
    serde_json::from_slice(&read("tensors.json")).expect("tensors.json is what the script writes")
}

/// The tensor that numpy makes of the samples: same formula, in single precision.
fn reference(case: &TensorCase) -> Vec<f32> {
    let spec = &case.spec;
    let samples = read(&case.samples);
    let (width, height, channels) = (spec.width as usize, spec.height as usize, spec.color.channels());
    assert_eq!(samples.len(), width * height * channels, "{}", case.case);
    let value = |y: usize, x: usize, c: usize| {
        let level = f32::from(samples[(y * width + x) * channels + c]);
        (level * spec.scale - spec.mean[c]) / spec.std[c]
    };
    let mut values = Vec::with_capacity(samples.len());
    match spec.layout {
        Layout::Nchw => {
            for (c, y) in (0..channels).flat_map(|c| (0..height).map(move |y| (c, y))) {
                values.extend((0..width).map(|x| value(y, x, c)));
            }
        }
        Layout::Nhwc => {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                values.extend((0..channels).map(|c| value(y, x, c)));
            }
        }
    }
    values
}

fn assert_close(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, expected {expected} within {tolerance}");
}

#[test]
fn the_reference_is_what_numpy_computed() {
    for case in tensor_cases() {
        let values = reference(&case);
        for (index, (&found, &expected)) in values.iter().zip(&case.first).enumerate() {
            assert_close(&format!("{} [{index}]", case.case), f64::from(found), expected, 1e-5);
        }
        let count = values.len() as f64;
        let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
        let ramp = values.iter().enumerate().map(|(index, &value)| f64::from(value) * index as f64 / count);
        assert_close(&format!("{} sum", case.case), sum, case.sum, 1e-6 * count);
        // Weighted by position: exchanged axes keep the sum but not this.
        assert_close(&format!("{} weighted sum", case.case), ramp.sum(), case.weighted_sum, 1e-6 * count);
    }
}

#[test]
fn tensors_are_those_of_pillow_and_numpy() {
    let cases = tensor_cases();
    assert!(cases.len() >= 16, "golden cases are missing");
    let mut worst_of_all: f64 = 0.0;
    for case in cases {
        let tensor = preprocess(&pixels(&case.image), &case.spec);
        let expected = reference(&case);
        assert_eq!(tensor.shape, case.shape, "{}", case.case);
        assert_eq!(tensor.values.len(), expected.len(), "{}", case.case);

        let channels = case.spec.color.channels();
        let plane = expected.len() / channels;
        let (mut worst, mut sum, mut signed_sum) = (0.0_f64, 0.0, 0.0);
        for (index, (&found, &expected)) in tensor.values.iter().zip(&expected).enumerate() {
            let channel = match case.spec.layout {
                Layout::Nchw => index / plane,
                Layout::Nhwc => index % channels,
            };
            let level = f64::from(case.spec.scale / case.spec.std[channel]);
            let levels = (f64::from(found) - f64::from(expected)) / level;
            worst = worst.max(levels.abs());
            sum += levels.abs();
            signed_sum += levels;
        }
        let (mean, bias) = (sum / expected.len() as f64, signed_sum / expected.len() as f64);
        println!("{}: {worst:.4} levels at most, {mean:.4} on average, bias {bias:+.4}", case.case);
        assert!(worst <= MAX_LEVELS + 1e-3, "{}: {worst} levels", case.case);
        assert!(mean <= MAX_MEAN_LEVELS, "{}: {mean} levels on average", case.case);
        assert!(bias.abs() <= MAX_BIAS_LEVELS, "{}: {bias} levels of bias", case.case);
        worst_of_all = worst_of_all.max(worst);
    }
    println!("largest difference of all: {worst_of_all:.4} levels");
}

#[derive(serde::Deserialize)]
struct ScoreCase {
    model: String,
    image: String,
    labels: Vec<String>,
    spec: InputSpec,
    raw: Vec<f64>,
    probabilities: Vec<f64>,
}

#[test]
fn golden_scores_fit_their_networks() {
    let cases: Vec<ScoreCase> = serde_json::from_slice(&read("scores.json")).expect("scores.json");
    assert_eq!(cases.len(), 3);
    for case in cases {
        assert_eq!(case.raw.len(), case.labels.len(), "{}", case.model);
        assert_close(&case.model, case.probabilities.iter().sum(), 1.0, 1e-9);
        // The labels and the input that the network itself carries are those that the scores were computed with.
        let model = read(&case.model);
        let carries = |text: &str| model.windows(text.len()).any(|window| window == text.as_bytes());
        for label in &case.labels {
            assert!(carries(&format!("{label:?}")), "{} does not carry {label}", case.model);
        }
        assert!(carries(&format!("\"width\": {}", case.spec.width)), "{}", case.model);
        let tensor = preprocess(&pixels(&case.image), &case.spec);
        assert_eq!(tensor.values.len(), tensor.shape.iter().product::<usize>());
    }
}
