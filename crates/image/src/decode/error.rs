//! Why a file gives no pixels, in sentences for the person who uploaded it.
//!
//! Each message says what was found, what was expected and the way out, and repeats no content of the file. What the
//! decoder itself said stays in the source of the error.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use super::ImageFormat;
use super::deadline::OutOfTime;

/// Which bound of [`super::DecodeLimits`] a picture exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Width in pixels.
    Width,
    /// Height in pixels.
    Height,
    /// Width times height.
    Pixels,
    /// Bytes of memory at the peak of decoding.
    DecodedBytes,
}

/// An amount of a [`Measure`], for people.
struct Amount(Measure, u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MILLION: u64 = 1_000_000;
        let Self(measure, value) = *self;
        match measure {
            Measure::Width => write!(f, "{value} px wide"),
            Measure::Height => write!(f, "{value} px high"),
            Measure::Pixels if value < MILLION => write!(f, "{value} pixels"),
            Measure::Pixels => write!(f, "{} megapixels", tenths(value, MILLION)),
            Measure::DecodedBytes if value < MILLION => write!(f, "{value} bytes of memory"),
            Measure::DecodedBytes => write!(f, "{} MB of memory", tenths(value, MILLION)),
        }
    }
}

/// `value / unit` with at most one decimal, rounded down.
fn tenths(value: u64, unit: u64) -> String {
    match value % unit * 10 / unit {
        0 => format!("{}", value / unit),
        tenth => format!("{}.{tenth}", value / unit),
    }
}

/// Why a file gives no pixels. It never will, but for [`DecodeError::OutOfTime`]: the others are properties of the file
/// and the limits.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Nothing was uploaded.
    #[error("the file is empty (0 bytes); check the original and upload it again")]
    Empty,
    /// The content is not a picture that anyone would know.
    #[error(
        "the file is not an image but {found}; upload JPEG, PNG, TIFF, BMP, GIF or WebP (the content counts, not the \
         name)"
    )]
    NotAnImage {
        /// What the content looks like, without repeating any of it.
        found: &'static str,
    },
    /// A known format, or a kind of a format, that is not read.
    #[error("the file is {format}, which is not read; export the image as an 8-bit RGB {} file", another(.format))]
    UnsupportedFormat {
        /// What the file is, as a noun phrase that follows "the file is": "a JPEG 2000 image", "a TIFF file compressed
        /// with LERC".
        format: Cow<'static, str>,
    },
    /// The picture is larger than a limit.
    #[error(
        "the image is {width_px} x {height_px} px ({}), more than the {} allowed; export it at a lower resolution or \
         as tiles",
        Amount(*.what, *.found), Amount(*.what, *.limit)
    )]
    TooLarge {
        /// Width that the file declares.
        width_px: u32,
        /// Height that the file declares.
        height_px: u32,
        /// What was measured.
        what: Measure,
        /// The value seen.
        found: u64,
        /// The value allowed.
        limit: u64,
    },
    /// Something beside the picture (text, colour profile, tags) asks for more memory than is allowed.
    #[error(
        "the {format} file carries hidden data beyond any reasonable size; export the image again without metadata"
    )]
    OversizedMetadata {
        /// Format of the file.
        format: ImageFormat,
    },
    /// The file ends before the picture does.
    #[error(
        "the {format} file is incomplete: it ends at byte {size_bytes}, before the picture does; copy it again from \
         the original"
    )]
    Truncated {
        /// Format of the file.
        format: ImageFormat,
        /// Length of what arrived, in bytes.
        size_bytes: u64,
    },
    /// The data contradicts itself.
    #[error("the {format} file is damaged{}: {detail}; copy it again from the original", AtByte(*.at_byte))]
    Corrupt {
        /// Format of the file.
        format: ImageFormat,
        /// Where, if that is known.
        at_byte: Option<u64>,
        /// What is wrong.
        detail: &'static str,
        /// What the decoder said.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The deadline passed first; another time there may be more of it. Only [`super::decode_until`] says this.
    #[error("the image was not decoded in the time allowed for one image")]
    OutOfTime,
}

impl From<OutOfTime> for DecodeError {
    fn from(OutOfTime: OutOfTime) -> Self {
        Self::OutOfTime
    }
}

/// A format without loss that is not the one at hand.
fn another(format: &str) -> &'static str {
    if format.contains("PNG") { "TIFF" } else { "PNG" }
}

/// " at byte n", or nothing.
struct AtByte(Option<u64>);

impl fmt::Display for AtByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |at| write!(f, " at byte {at}"))
    }
}

impl DecodeError {
    /// The word for this error in records and metrics: `empty`, `not_an_image`, `unsupported_format`, `too_large` or
    /// `corrupt`; `out_of_time` is in no record, since it is not a property of the file.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotAnImage { .. } => "not_an_image",
            Self::UnsupportedFormat { .. } => "unsupported_format",
            Self::TooLarge { .. } | Self::OversizedMetadata { .. } => "too_large",
            Self::Truncated { .. } | Self::Corrupt { .. } => "corrupt",
            Self::OutOfTime => "out_of_time",
        }
    }

    /// `format` is a noun phrase, as [`DecodeError::UnsupportedFormat`] says.
    pub(super) fn unsupported(format: impl Into<Cow<'static, str>>) -> Self {
        Self::UnsupportedFormat { format: format.into() }
    }

    pub(super) fn truncated(format: ImageFormat, bytes: &[u8]) -> Self {
        Self::Truncated { format, size_bytes: bytes.len() as u64 }
    }

    pub(super) fn damaged(format: ImageFormat, at: usize, detail: &'static str) -> Self {
        Self::Corrupt { format, at_byte: Some(at as u64), detail, source: None }
    }

    pub(super) fn corrupt(
        format: ImageFormat,
        detail: &'static str,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        Self::Corrupt { format, at_byte: None, detail, source: Some(Box::new(source)) }
    }
}
