//! One image, from bytes to finding, in one synchronous function: decode, preprocess, infer, decide.
//!
//! The pipeline runs it on its CPU pool and `giemsa classify` on files; neither repeats it. It never waits
//! for anything. Invariant: what is wrong with the image becomes a finding, what is wrong with us an error.

use std::time::Instant;

use crate::classification::{Finding, ImageInfo, Reject, TimingsMs, decide};
use crate::digest::sha256_hex;
use crate::image::{DecodeLimits, decode, preprocess};
use crate::model::{Model, ModelError};

/// What was found in one image's bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// Classified or rejected.
    pub finding: Finding,
    /// Width after orientation, pixels, if it was decoded.
    pub width_px: Option<u32>,
    /// Height after orientation, pixels, if it was decoded.
    pub height_px: Option<u32>,
    /// Format found in the content, if it was decoded.
    pub format: Option<&'static str>,
    /// Lower-case hexadecimal SHA-256 of the bytes.
    pub sha256: String,
    /// Milliseconds of each step.
    pub timings_ms: TimingsMs,
}

impl Analysis {
    /// Adds to `image` what was found out about it.
    pub fn describe(&self, image: &mut ImageInfo) {
        image.width_px = self.width_px;
        image.height_px = self.height_px;
        image.format = self.format.map(str::to_owned);
        image.sha256 = Some(self.sha256.clone());
    }
}

/// A step that may fail in ways of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Bytes to pixels.
    Decode,
    /// Tensor to scores.
    Infer,
}

/// Analyses the bytes of one image file.
///
/// # Errors
/// [`ModelError`] if the network fails on the image; that is no fault of the image.
pub fn analyse_image(bytes: &[u8], model: &Model, limits: &DecodeLimits) -> Result<Analysis, ModelError> {
    analyse_image_in_steps(bytes, model, limits, |_| {})
}

/// As [`analyse_image`]; calls `before` on this thread ahead of each step.
///
/// # Errors
/// As [`analyse_image`].
pub fn analyse_image_in_steps(
    bytes: &[u8],
    model: &Model,
    limits: &DecodeLimits,
    before: impl Fn(Step),
) -> Result<Analysis, ModelError> {
    let mut timings_ms = TimingsMs::default();
    let sha256 = sha256_hex(bytes);

    let started = Instant::now();
    before(Step::Decode);
    let decoded = match decode(bytes, limits) {
        Ok(decoded) => decoded,
        Err(error) => {
            let reject = Reject { code: error.code().to_owned(), message: error.to_string() };
            timings_ms.decode = elapsed_ms(started);
            return Ok(Analysis {
                finding: Finding::Rejected(reject),
                width_px: None,
                height_px: None,
                format: None,
                sha256,
                timings_ms,
            });
        }
    };
    timings_ms.decode = elapsed_ms(started);

    let started = Instant::now();
    let tensor = preprocess(&decoded.pixels, &model.metadata.input);
    timings_ms.preprocess = elapsed_ms(started);

    let started = Instant::now();
    before(Step::Infer);
    let scores = model.network.run(tensor)?;
    timings_ms.infer = elapsed_ms(started);

    Ok(Analysis {
        finding: Finding::Classified(decide(&scores, &model.metadata)),
        width_px: Some(decoded.pixels.width_px),
        height_px: Some(decoded.pixels.height_px),
        format: Some(decoded.format.as_str()),
        sha256,
        timings_ms,
    })
}

/// Milliseconds since `started`, to the microsecond.
pub(crate) fn elapsed_ms(started: Instant) -> f64 {
    started.elapsed().as_micros() as f64 / 1e3
}
