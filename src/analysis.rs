//! One image, from bytes to finding, in one synchronous function: decode, preprocess, infer, decide.
//!
//! The pipeline runs it on its CPU pool and `giemsa classify` on files; neither repeats it. It never waits
//! for anything. Invariant: what is wrong with the image becomes a finding, what is wrong with us an error.

use std::time::Instant;

use tracing::debug_span;

use crate::classification::{Finding, ImageInfo, Reject, TimingsMs, decide};
use crate::digest::sha256_hex;
use crate::image::{DecodeError, DecodeLimits, decode_until, preprocess};
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

/// Why there is no finding; none of these is a fault of the image that is certain.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// The network failed on the image.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The deadline passed before the image was decoded, or before the network could start on it.
    #[error("the image was not analysed in the time allowed for one image")]
    OutOfTime,
}

/// Analyses the bytes of one image file, however long it takes.
///
/// # Errors
/// [`ModelError`] if the network fails on the image; that is no fault of the image.
pub fn analyse_image(bytes: &[u8], model: &Model, limits: &DecodeLimits) -> Result<Analysis, ModelError> {
    match analyse_image_until(bytes, model, limits, None, |_| {}) {
        Ok(analysis) => Ok(analysis),
        Err(AnalysisError::Model(error)) => Err(error),
        Err(AnalysisError::OutOfTime) => unreachable!("there is no deadline to miss"),
    }
}

/// Analyses the bytes of one image file, or gives up soon after `deadline`; calls `before` on this thread ahead of each
/// step.
///
/// A thread cannot be stopped from outside, so decoding looks at the clock by itself, and each step before it starts.
/// The network is not interrupted: how long it takes was seen when the model was probed.
///
/// # Errors
/// [`AnalysisError`]; another time it may work.
pub fn analyse_image_until(
    bytes: &[u8],
    model: &Model,
    limits: &DecodeLimits,
    deadline: Option<Instant>,
    before: impl Fn(Step),
) -> Result<Analysis, AnalysisError> {
    let check_time = || match deadline {
        Some(deadline) if Instant::now() >= deadline => Err(AnalysisError::OutOfTime),
        _ => Ok(()),
    };
    let mut timings_ms = TimingsMs::default();
    let sha256 = sha256_hex(bytes);

    let started = Instant::now();
    let span = debug_span!("decode").entered();
    before(Step::Decode);
    let decoded = match decode_until(bytes, limits, deadline) {
        Ok(decoded) => decoded,
        Err(DecodeError::OutOfTime) => return Err(AnalysisError::OutOfTime),
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
    drop(span);

    check_time()?;
    let started = Instant::now();
    let span = debug_span!("preprocess").entered();
    let tensor = preprocess(&decoded.pixels, &model.metadata.input);
    timings_ms.preprocess = elapsed_ms(started);
    drop(span);

    check_time()?;
    let started = Instant::now();
    let span = debug_span!("infer").entered();
    before(Step::Infer);
    let scores = model.network.run(tensor)?;
    timings_ms.infer = elapsed_ms(started);
    drop(span);

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
