//! What the samples of a pixel mean: the colour model of a page, or by what name it is refused.

use super::super::DecodeError;
use super::directory::{Directory, tag};
use super::layout::{damaged, refused};
use super::place;

/// What the samples of a pixel mean.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Model {
    Gray,
    GrayAlpha,
    PremultipliedGrayAlpha,
    Rgb,
    Rgba,
    PremultipliedRgba,
    Cmyk,
    YCbCr,
    /// The colours that the samples are indices of.
    Indexed(Vec<[u8; 3]>),
}

impl Model {
    /// Whether the last sample says how much of the pixel is seen.
    pub(super) fn has_alpha(&self) -> bool {
        use Model::{GrayAlpha, PremultipliedGrayAlpha, PremultipliedRgba, Rgba};
        matches!(self, GrayAlpha | PremultipliedGrayAlpha | Rgba | PremultipliedRgba)
    }

    /// Samples of a pixel that are looked at; the page may hold more.
    pub(super) fn channels(&self) -> usize {
        match self {
            Self::Gray | Self::Indexed(_) => 1,
            Self::GrayAlpha | Self::PremultipliedGrayAlpha => 2,
            Self::Rgb | Self::YCbCr => 3,
            Self::Rgba | Self::PremultipliedRgba | Self::Cmyk => 4,
        }
    }
}

/// What the first sample after the colours of a pixel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extra {
    None,
    /// The file says that they have no meaning here.
    Unspecified,
    Alpha,
    PremultipliedAlpha,
    Unclear,
}

impl Extra {
    /// `count` samples follow `colors` ones; `stated` is the tag `ExtraSamples`. The rules are those of Pillow.
    fn of(count: usize, colors: usize, stated: &[u64]) -> Self {
        match (count, stated) {
            (0, _) => Self::None,
            // Many programs write RGBA without the tag.
            (1, []) if colors == 3 => Self::Alpha,
            (_, [0, ..]) if stated.iter().all(|&kind| kind == 0) => Self::Unspecified,
            (_, [1, ..]) => Self::PremultipliedAlpha,
            (_, [2 | 999, ..]) => Self::Alpha,
            _ => Self::Unclear,
        }
    }
}

/// Reads what the `samples` of each pixel mean; the colours of an indexed page are read by [`read_colors`].
///
/// # Errors
/// [`DecodeError`] if that is not certain, or not read.
pub(super) fn read_model(
    directory: &Directory<'_>,
    bytes: &[u8],
    samples: usize,
) -> Result<Model, DecodeError> {
    let numbers = |tag| directory.numbers(tag).map_err(|fault| place(fault, bytes));
    let photometric = directory.number(tag::PHOTOMETRIC).map_err(|fault| place(fault, bytes))?;
    let (colors, name) = match photometric {
        Some(0 | 1) => (1, "gray"),
        Some(2) => (3, "RGB"),
        Some(3) => (1, "indexed"),
        Some(5) => (4, "CMYK"),
        Some(6) => (3, "YCbCr"),
        Some(4) => return Err(refused("whose first page is a transparency mask")),
        Some(8..=10) => return Err(refused("in the colour space Lab")),
        Some(32_803 | 34_892) => return Err(refused("of raw sensor data")),
        Some(32_844 | 32_845) => return Err(refused("in the colour space LogLuv")),
        Some(_) => return Err(refused("in an unknown colour space")),
        None => return Err(refused("that does not state its colour space (PhotometricInterpretation)")),
    };
    let Some(extras) = samples.checked_sub(colors) else {
        return Err(damaged("it has fewer channels than its colours need"));
    };
    match (photometric.unwrap_or(0), Extra::of(extras, colors, &numbers(tag::EXTRA_SAMPLES)?)) {
        (0 | 1, Extra::None) => Ok(Model::Gray),
        (0 | 1, Extra::Alpha) => Ok(Model::GrayAlpha),
        (0 | 1, Extra::PremultipliedAlpha) => Ok(Model::PremultipliedGrayAlpha),
        (2, Extra::None | Extra::Unspecified) => Ok(Model::Rgb),
        (2, Extra::Alpha) => Ok(Model::Rgba),
        (2, Extra::PremultipliedAlpha) => Ok(Model::PremultipliedRgba),
        (3, Extra::None) => Ok(Model::Indexed(Vec::new())),
        (5, _) if numbers(tag::INK_SET)?.first().is_some_and(|&set| set != 1) => {
            Err(refused("of inks other than CMYK"))
        }
        (5, Extra::None | Extra::Unspecified) => Ok(Model::Cmyk),
        (6, Extra::None) => Ok(Model::YCbCr),
        (0 | 1, _) => Err(refused(&format!("of {samples} gray channels in each pixel"))),
        (_, Extra::Unclear | Extra::Unspecified) => {
            Err(refused(&format!("with channels of unknown meaning beside its {name} colours")))
        }
        _ => Err(refused(&format!("with {name} colours and transparency"))),
    }
}

/// The colours of a page of `bits` (1 to 8) bits: all reds, then all greens, then all blues, of 16 bits each.
///
/// # Errors
/// [`DecodeError`] if the page has no colour for each index.
pub(super) fn read_colors(
    directory: &Directory<'_>,
    bits: usize,
    bytes: &[u8],
) -> Result<Vec<[u8; 3]>, DecodeError> {
    let values = directory.numbers(tag::COLOR_MAP).map_err(|fault| place(fault, bytes))?;
    let count = 1 << bits;
    if values.len() != 3 * count {
        return Err(damaged("its colour map does not have a colour for each index"));
    }
    // Some programs write 8 bits; others 8 bits times 256 or times 257, whose high byte is the colour.
    let shift = if values.iter().all(|&value| value < 256) { 0 } else { 8 };
    let level = |value: u64| u8::try_from(value >> shift & 255).expect("8 bits");
    Ok((0..count).map(|index| [0, 1, 2].map(|color| level(values[color * count + index]))).collect())
}
