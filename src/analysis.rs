//! One image, from bytes to finding, in one synchronous function: decode, preprocess, infer, decide.
//!
//! The pipeline runs it on its CPU pool and `giemsa classify` on files; neither repeats it. What is wrong with the
//! image becomes a finding, what is wrong with us an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use tracing::debug_span;

use giemsa_core::digest::sha256_hex;
use giemsa_core::record::{DECODER_FAILED_CODE, Finding, ImageInfo, Reject, TimingsMs};
use giemsa_image::{DecodeError, DecodeLimits, decode_until, preprocess};
use giemsa_model::decide;
use giemsa_model::{Model, ModelError, panic_message};

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
/// [`ModelError`] if the network fails on the image; that is not a fault of the image.
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
    let decoded = match shield(|| decode_until(bytes, limits, deadline)) {
        Ok(Ok(decoded)) => decoded,
        Ok(Err(DecodeError::OutOfTime)) => return Err(AnalysisError::OutOfTime),
        refused => {
            let reject = match refused {
                Ok(Err(error)) => Reject { code: error.code().to_owned(), message: error.to_string() },
                Err(reject) => reject,
                Ok(Ok(_)) => unreachable!("was matched above"),
            };
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

/// Runs a decoder; a panic in it is the end of this image only, and of it for ever, since the same bytes would end alike.
fn shield<T>(work: impl FnOnce() -> T) -> Result<T, Reject> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        tracing::error!(panic = panic_message(&*panic), "a decoder panicked, the image is rejected");
        Reject {
            code: DECODER_FAILED_CODE.to_owned(),
            message: "the decoder failed on this file, which is a fault of Giemsa or of the file; export the image \
                      again as an 8-bit RGB PNG file, and report it"
                .to_owned(),
        }
    })
}

/// Milliseconds since `started`, to the microsecond.
pub(crate) fn elapsed_ms(started: Instant) -> f64 {
    started.elapsed().as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_decoder_rejects_its_image() {
        let reject = shield(|| -> u8 { panic!("index out of bounds") }).unwrap_err();
        assert_eq!(reject.code, DECODER_FAILED_CODE);
        // What a decoder says of itself is for the log.
        assert!(!reject.message.contains("index"), "{}", reject.message);
        assert_eq!(shield(|| 7), Ok(7));
    }
}
