//! Decoding against the fixed files of `tests/py/parity/`, whose pixels are those of libtiff, tifffile and Pillow.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use giemsa_image::decode::{DecodeLimits, Decoded, decode};

const LIMITS: DecodeLimits = DecodeLimits {
    max_width_px: 1000,
    max_height_px: 1000,
    max_pixels: 1_000_000,
    max_decoded_bytes: 12_000_000,
};

/// A file, and the pixels or the words of its refusal.
#[derive(serde::Deserialize)]
struct Case {
    name: String,
    file: String,
    #[serde(default)]
    width: u32,
    #[serde(default)]
    height: u32,
    #[serde(default)]
    tolerance: u8,
    rgb: Option<String>,
    #[serde(default)]
    words: Vec<String>,
}

impl Case {
    /// What is wrong with the answer to the file, if anything is.
    fn fault(&self) -> Option<String> {
        let bytes = STANDARD.decode(&self.file).expect("written as base64");
        match (decode(&bytes, &LIMITS), &self.rgb) {
            (Err(error), Some(_)) => Some(format!("refused: {error}")),
            (Ok(_), None) => Some("decoded, though its pixels are not certain".to_owned()),
            (Err(error), None) => {
                let message = error.to_string();
                let is_incomplete = self.words.iter().any(|word| word == "incomplete");
                let code = if is_incomplete { "corrupt" } else { "unsupported_format" };
                let is_named = error.code() == code && self.words.iter().all(|word| message.contains(word));
                (!is_named).then(|| format!("refused without the words {:?}: {message}", self.words))
            }
            (Ok(Decoded { pixels, .. }), Some(rgb)) => {
                let expected = STANDARD.decode(rgb).expect("written as base64");
                if (pixels.width_px, pixels.height_px) != (self.width, self.height) {
                    return Some(format!("is {} x {} px", pixels.width_px, pixels.height_px));
                }
                let worst = pixels.rgb.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
                worst
                    .filter(|&worst| worst > self.tolerance)
                    .map(|worst| format!("differs by {worst} levels"))
            }
        }
    }
}

fn check(format: &str, at_least: usize) {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .join(format!("tests/data/parity/{format}.jsonl"));
    let text = std::fs::read_to_string(path).expect("tests/py/parity/make_fixed*.py write it");
    let cases: Vec<Case> =
        text.lines().map(|line| serde_json::from_str(line).expect("a case on each line")).collect();
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
    let faults: Vec<String> =
        cases.iter().filter_map(|case| Some(format!("{}: {}", case.name, case.fault()?))).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_kind_of_tiff_is_decoded_as_the_reference_does_or_refused_by_name() {
    check("tiff", 100);
}

#[test]
fn every_kind_of_jpeg_is_decoded_as_libjpeg_does_or_refused_by_name() {
    check("jpeg", 30);
}

#[test]
fn every_kind_of_png_gif_bmp_and_webp_is_decoded_as_pillow_does_or_refused_by_name() {
    check("raster", 30);
}
