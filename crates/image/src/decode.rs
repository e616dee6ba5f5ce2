//! From the bytes of a file to 8-bit RGB pixels, under limits.
//!
//! Reads JPEG (gray, colour, CMYK and YCCK; baseline and progressive), PNG, TIFF and BigTIFF (first page, or the three
//! that are its colours), BMP, GIF (first frame) and WebP (first frame). The type is told from the content, never from
//! the name.
//!
//! Invariants:
//! - The declared size is checked against [`DecodeLimits`] before any pixel is decoded and before any buffer of a
//!   size that the file chooses is allocated.
//! - Beside what the limits count, a call holds at most two copies of the file and about 20 MB: what a damaged WebP may
//!   claim for a partition (16 MiB), or the places of the strips of a TIFF.
//! - With a deadline a call ends soon after it: the walks, and the reader that every decoder reads through, look at the
//!   clock.
//! - A picture is answered whole or not at all. Where a decoder would fill missing data with grey, the structure of
//!   the file is walked first, so that a file that was cut short is an error that says at which byte it ends.
//! - Never looks past the first page or frame but for pages that the first says are colours of its picture, and ignores
//!   what follows the end of the picture.
//!
//! What becomes of pixels that are not 8-bit RGB: 16 bits are scaled by `v * 255 / 65535`, rounded; alpha is flattened
//! on white; gray is repeated in three channels; CMYK is converted as `(255 - ink) * (255 - black) / 255`. Colour
//! profiles are not applied. The orientation that a camera recorded (EXIF, or the TIFF tag) is applied, so that width
//! and height are those a person sees.
//!
//! This folder is the only place that names the crate `image` to decode, and the crates that unpack the strips of TIFFs.

mod container;
mod deadline;
mod error;
mod exif;
mod huffman;
mod idct;
mod jpeg;
mod rgb;
mod scan;
mod tiff;
mod upsample;
mod vp8l;

use std::fmt;
use std::time::Instant;

use ::image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use ::image::metadata::Orientation;
use ::image::{ColorType, DynamicImage, ImageDecoder, ImageError, Limits, RgbImage};

use super::sniff::{self, Content};
use deadline::{Deadline, TimedReader};

pub use error::{DecodeError, Measure};

/// What a picture may cost at most; each bound is inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Width as stored, in pixels.
    pub max_width_px: u32,
    /// Height as stored, in pixels.
    pub max_height_px: u32,
    /// Width times height.
    pub max_pixels: u64,
    /// Memory at the peak of decoding, in bytes, the file itself not counted; 9 bytes a pixel fit
    /// nearly every file (a progressive JPEG and a 16-bit RGB TIFF need them).
    pub max_decoded_bytes: u64,
}

/// A file format that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// JPEG, 8 bits, Huffman coded.
    Jpeg,
    /// PNG of any depth.
    Png,
    /// TIFF or BigTIFF, first picture.
    Tiff,
    /// Windows bitmap.
    Bmp,
    /// GIF, first frame.
    Gif,
    /// WebP, lossy or lossless, first frame.
    WebP,
}

impl ImageFormat {
    /// The name that records carry: lower case, one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Tiff => "tiff",
            Self::Bmp => "bmp",
            Self::Gif => "gif",
            Self::WebP => "webp",
        }
    }

    /// The name that people know.
    fn title(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Tiff => "TIFF",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// A picture: rows from the top, pixels from the left, each as red, green, blue of 0 to 255.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// At least 1.
    pub width_px: u32,
    /// At least 1.
    pub height_px: u32,
    /// `width_px * height_px * 3` bytes.
    pub rgb: Vec<u8>,
}

/// A decoded file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// What the content is, whatever the name says.
    pub format: ImageFormat,
    /// The picture, turned upright.
    pub pixels: Pixels,
}

/// Bytes a pixel that decoding takes, in the order in which they are in use.
struct Workspace {
    /// What the decoder holds beside its output.
    scratch: u64,
    /// The decoder's output.
    decoded: u64,
    /// What the conversion to RGB holds beside the decoder's output.
    converted: u64,
    /// How the picture is turned at the end; a quarter turn needs a second picture.
    turned: Orientation,
    /// Tables that the file asks for, in bytes, not bytes a pixel.
    table_bytes: u64,
}

impl DecodeLimits {
    /// The part of `limits` that decoding obeys.
    pub fn of(limits: &giemsa_config::Limits) -> Self {
        Self {
            max_width_px: limits.max_width_px,
            max_height_px: limits.max_height_px,
            max_pixels: limits.max_pixels,
            max_decoded_bytes: limits.max_decoded_bytes(),
        }
    }

    fn check(&self, size: (u32, u32), what: Measure, found: u64, limit: u64) -> Result<(), DecodeError> {
        let (width_px, height_px) = size;
        if found <= limit {
            Ok(())
        } else {
            Err(DecodeError::TooLarge { width_px, height_px, what, found, limit })
        }
    }

    fn check_pixels(&self, width_px: u32, height_px: u32) -> Result<(), DecodeError> {
        let size = (width_px, height_px);
        let pixels = u64::from(width_px) * u64::from(height_px);
        // The count comes first: "900 megapixels" says more than "30000 px wide".
        self.check(size, Measure::Pixels, pixels, self.max_pixels)?;
        self.check(size, Measure::Width, u64::from(width_px), u64::from(self.max_width_px))?;
        self.check(size, Measure::Height, u64::from(height_px), u64::from(self.max_height_px))?;
        // Whatever the format: the RGB pixels themselves.
        self.check(size, Measure::DecodedBytes, pixels.saturating_mul(3), self.max_decoded_bytes)
    }

    fn check_workspace(
        &self,
        width_px: u32,
        height_px: u32,
        workspace: Workspace,
    ) -> Result<(), DecodeError> {
        let Workspace { scratch, decoded, converted, turned, table_bytes } = workspace;
        let is_quarter_turn = matches!(
            turned,
            Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH
        );
        let turned = if is_quarter_turn { 6 } else { 3 };
        let peak = (decoded + scratch.max(converted)).max(turned);
        let pixels = u64::from(width_px) * u64::from(height_px);
        let bytes = pixels.saturating_mul(peak).saturating_add(table_bytes);
        self.check((width_px, height_px), Measure::DecodedBytes, bytes, self.max_decoded_bytes)
    }

    /// The same bounds in the terms of the crate `image`, as a second line of defence.
    fn for_decoder(&self) -> Limits {
        let mut limits = Limits::default();
        limits.max_image_width = Some(self.max_width_px);
        limits.max_image_height = Some(self.max_height_px);
        limits.max_alloc = Some(self.max_decoded_bytes);
        limits
    }
}

/// Decodes a file, however long it takes.
///
/// # Errors
/// [`DecodeError`] if the content is not a picture that is read, exceeds `limits`, or is not complete.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    decode_until(bytes, limits, None)
}

/// Decodes a file, or gives up soon after `deadline`.
///
/// # Errors
/// As [`decode`], and [`DecodeError::OutOfTime`].
pub fn decode_until(
    bytes: &[u8],
    limits: &DecodeLimits,
    deadline: Option<Instant>,
) -> Result<Decoded, DecodeError> {
    let deadline = Deadline::new(deadline);
    let result = decode_by(bytes, limits, &deadline);
    match result {
        // Whatever a decoder made of it: its reader said that the time is over.
        Err(_) if deadline.was_missed() => Err(DecodeError::OutOfTime),
        result => result,
    }
}

fn decode_by(bytes: &[u8], limits: &DecodeLimits, deadline: &Deadline) -> Result<Decoded, DecodeError> {
    deadline.check()?;
    let format = match sniff::sniff(bytes) {
        Content::Readable(format) => format,
        Content::Unreadable(format) => return Err(DecodeError::unsupported(format)),
        Content::Unknown(found) => return Err(DecodeError::NotAnImage { found }),
        Content::Empty => return Err(DecodeError::Empty),
    };
    let (pixels, orientation) = match format {
        ImageFormat::Jpeg => decode_jpeg(bytes, limits, deadline)?,
        ImageFormat::Tiff => tiff::decode(bytes, limits, deadline)?,
        ImageFormat::Png | ImageFormat::Bmp | ImageFormat::Gif | ImageFormat::WebP => {
            decode_container(format, bytes, limits, deadline)?
        }
    };
    if pixels.rgb.is_empty() {
        // Some decoders take a canvas without rows for a picture.
        return Err(DecodeError::Corrupt {
            format,
            at_byte: None,
            detail: "its size is impossible",
            source: None,
        });
    }
    deadline.check()?;
    Ok(Decoded { format, pixels: turn_upright(pixels, orientation) })
}

fn decode_jpeg(
    bytes: &[u8],
    limits: &DecodeLimits,
    deadline: &Deadline,
) -> Result<(Pixels, Orientation), DecodeError> {
    let format = ImageFormat::Jpeg;
    let place = |fault| match fault {
        jpeg::Fault::EndsEarly => DecodeError::truncated(format, bytes),
        jpeg::Fault::Damaged { at, what } => DecodeError::damaged(format, at, what),
        jpeg::Fault::Unsupported(format) => DecodeError::unsupported(format),
        jpeg::Fault::OutOfTime => DecodeError::OutOfTime,
    };
    let mut walker = jpeg::Walker::new(bytes, deadline);
    let header = walker.read_header().map_err(place)?;
    limits.check_pixels(header.width_px, header.height_px)?;
    let components = header.components as u64;
    // The orientation may stand behind the header, so that a quarter turn is paid for in any case.
    let workspace = Workspace {
        scratch: 0,
        decoded: components,
        converted: if components == 1 { 3 } else { 0 },
        turned: Orientation::Rotate90,
        table_bytes: header.stored_bytes(),
    };
    let size = (header.width_px, header.height_px);
    limits.check(size, Measure::DecodedBytes, header.coefficient_bytes(), limits.max_decoded_bytes)?;
    limits.check_workspace(header.width_px, header.height_px, workspace)?;

    let jpeg::Picture { samples, color, orientation } = walker.decode().map_err(place)?;
    let rgb = match color {
        jpeg::Color::Gray => rgb::from_gray(&samples),
        jpeg::Color::Rgb => samples,
        jpeg::Color::YCbCr => rgb::from_ycbcr(samples),
        jpeg::Color::Cmyk => rgb::from_inverted_cmyk(samples),
        jpeg::Color::Ycck => rgb::from_ycck(samples),
    };
    let (width_px, height_px) = size;
    Ok((Pixels { width_px, height_px, rgb }, orientation))
}

fn decode_container(
    format: ImageFormat,
    bytes: &[u8],
    limits: &DecodeLimits,
    deadline: &Deadline,
) -> Result<(Pixels, Orientation), DecodeError> {
    let walked = match format {
        ImageFormat::Png => container::walk_png(bytes),
        ImageFormat::Gif => container::walk_gif(bytes),
        ImageFormat::WebP => container::walk_webp(bytes),
        _ => container::read_bmp(bytes),
    };
    let layout = walked.map_err(|fault| match fault {
        container::Fault::EndsEarly => DecodeError::truncated(format, bytes),
        container::Fault::Damaged { at, what } => DecodeError::damaged(format, at, what),
        container::Fault::Unsupported(what) => DecodeError::unsupported(what),
    })?;
    limits.check_pixels(layout.width_px, layout.height_px)?;

    // The decoder sees what was walked and nothing behind it.
    let walked = TimedReader::new(&bytes[..layout.end], deadline);
    let fail = |error| explain(error, format, bytes);
    match format {
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(walked, limits.for_decoder()).map_err(fail)?;
            let find = |kind| container::find_png_chunk(&bytes[..layout.end], kind);
            let passed_over =
                PassedOver { exif: find(b"eXIf"), significant_bits: find(b"sBIT").unwrap_or_default() };
            render(decoder, (0, 0), passed_over, format, bytes, limits)
        }
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(walked).map_err(fail)?;
            decoder.set_limits(limits.for_decoder()).map_err(fail)?;
            // The frame, when it does not fill the canvas.
            render(decoder, (4, 0), PassedOver::default(), format, bytes, limits)
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(walked).map_err(fail)?;
            // The colour planes or the frame, the alpha plane, and the canvas of an animation.
            let has_alpha = decoder.color_type().has_alpha();
            let scratch = match (decoder.has_animation(), has_alpha) {
                (false, false) => 5,
                (false, true) => 7,
                (true, false) => 8,
                (true, true) => 12,
            };
            let table_bytes = vp8l::table_bytes(&bytes[..layout.end], limits.max_decoded_bytes, deadline)?;
            render(decoder, (scratch, table_bytes), PassedOver::default(), format, bytes, limits)
        }
        _ => {
            let decoder = BmpDecoder::new(walked).map_err(fail)?;
            render(decoder, (0, 0), PassedOver::default(), format, bytes, limits)
        }
    }
}

/// What a PNG states and its decoder does not hand out.
#[derive(Default)]
struct PassedOver<'a> {
    /// Also where it stands behind the picture.
    exif: Option<&'a [u8]>,
    /// Bits of each channel that were measured.
    significant_bits: &'a [u8],
}

/// Decodes the pixels and converts them to RGB; beside its output the decoder holds `scratch` bytes for each pixel and
/// `table_bytes`.
fn render(
    mut decoder: impl ImageDecoder,
    (scratch, table_bytes): (u64, u64),
    passed_over: PassedOver<'_>,
    format: ImageFormat,
    bytes: &[u8],
    limits: &DecodeLimits,
) -> Result<(Pixels, Orientation), DecodeError> {
    // Checked again: what is allocated here follows the decoder's reading of the header, not ours.
    let (width_px, height_px) = decoder.dimensions();
    limits.check_pixels(width_px, height_px)?;
    let color = decoder.color_type();
    let converted = match color {
        ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16 => 3,
        _ => 0,
    };
    // An orientation that cannot be read is not a reason to lose the picture.
    let exif = decoder.exif_metadata().ok().flatten();
    let turned =
        exif.as_deref().or(passed_over.exif).and_then(exif::orientation).unwrap_or(Orientation::NoTransforms);
    let decoded = u64::from(color.bytes_per_pixel());
    let workspace = Workspace { scratch, decoded, converted, turned, table_bytes };
    limits.check_workspace(width_px, height_px, workspace)?;

    let size = usize::try_from(decoder.total_bytes()).expect("within max_decoded_bytes, which is memory");
    let mut samples = vec![0; size];
    decoder.read_image(&mut samples).map_err(|error| explain(error, format, bytes))?;
    let channels = usize::from(color.channel_count());
    let narrow = |samples| {
        rgb::narrow_bytes(samples, channels, passed_over.significant_bits).ok_or_else(|| {
            DecodeError::unsupported(
                "a 16-bit PNG file whose sBIT states fewer bits and that is dark, or was not scaled up as PNG demands",
            )
        })
    };
    let opaque_if_unseen = |mut samples: Vec<u8>| {
        rgb::make_opaque_if_unseen(&mut samples, channels);
        samples
    };
    let rgb = match color {
        ColorType::Rgb8 => samples,
        ColorType::Rgba8 => rgb::from_rgba(opaque_if_unseen(samples)),
        ColorType::L8 => rgb::from_gray(&samples),
        ColorType::La8 => rgb::from_gray_alpha(&opaque_if_unseen(samples)),
        ColorType::Rgb16 => narrow(samples)?,
        ColorType::Rgba16 => rgb::from_rgba(opaque_if_unseen(narrow(samples)?)),
        ColorType::L16 => rgb::from_gray(&narrow(samples)?),
        ColorType::La16 => rgb::from_gray_alpha(&opaque_if_unseen(narrow(samples)?)),
        _ => return Err(DecodeError::unsupported(format!("a {format} file with floating-point samples"))),
    };
    Ok((Pixels { width_px, height_px, rgb }, turned))
}

/// What an error of a decoder means to the one who uploaded the file.
fn explain(error: ImageError, format: ImageFormat, bytes: &[u8]) -> DecodeError {
    match error {
        ImageError::Limits(_) => DecodeError::OversizedMetadata { format },
        ImageError::Unsupported(_) => DecodeError::unsupported(format!("a {format} file of an unusual kind")),
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::truncated(format, bytes)
        }
        error => DecodeError::corrupt(format, "its compressed data cannot be read", error),
    }
}

fn turn_upright(pixels: Pixels, orientation: Orientation) -> Pixels {
    if orientation == Orientation::NoTransforms {
        return pixels;
    }
    let picture = RgbImage::from_raw(pixels.width_px, pixels.height_px, pixels.rgb);
    let mut picture = DynamicImage::ImageRgb8(picture.expect("Pixels holds three bytes for each pixel"));
    picture.apply_orientation(orientation);
    Pixels { width_px: picture.width(), height_px: picture.height(), rgb: picture.into_rgb8().into_raw() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DecodeLimits = DecodeLimits {
        max_width_px: 20_000,
        max_height_px: 20_000,
        max_pixels: 40_000_000,
        max_decoded_bytes: 400_000_000,
    };

    #[test]
    fn messages_name_what_was_found_what_is_allowed_and_the_way_out() {
        let cases = [
            (
                LIMITS.check_pixels(30_000, 30_000),
                "the image is 30000 x 30000 px (900 megapixels), more than the 40 megapixels allowed; \
                 export it at a lower resolution or as tiles",
            ),
            (
                LIMITS.check_pixels(25_000, 10),
                "the image is 25000 x 10 px (25000 px wide), more than the 20000 px wide allowed; \
                 export it at a lower resolution or as tiles",
            ),
            (
                LIMITS.check_workspace(
                    7_000,
                    5_000,
                    Workspace {
                        scratch: 6,
                        decoded: 6,
                        converted: 0,
                        turned: Orientation::NoTransforms,
                        table_bytes: 0,
                    },
                ),
                "the image is 7000 x 5000 px (420 MB of memory), more than the 400 MB of memory allowed; \
                 export it at a lower resolution or as tiles",
            ),
        ];
        for (result, message) in cases {
            let error = result.unwrap_err();
            assert_eq!(error.to_string(), message);
            assert_eq!(error.code(), "too_large");
        }
        let error = DecodeError::unsupported("a TIFF file compressed with LERC");
        assert_eq!(
            error.to_string(),
            "the file is a TIFF file compressed with LERC, which is not read; export the image as an 8-bit RGB PNG file"
        );
        let error = DecodeError::unsupported("a PNG file in the CgBI variant of Apple");
        assert!(error.to_string().ends_with("export the image as an 8-bit RGB TIFF file"), "{error}");
        let error = DecodeError::damaged(ImageFormat::Jpeg, 17, "a code does not exist");
        assert_eq!(
            error.to_string(),
            "the JPEG file is damaged at byte 17: a code does not exist; copy it again from the original"
        );
    }

    #[test]
    fn limits_are_inclusive() {
        assert!(LIMITS.check_pixels(20_000, 2_000).is_ok());
        assert!(LIMITS.check_pixels(20_000, 2_001).is_err());
        assert!(LIMITS.check_pixels(2_000, 20_000).is_ok());
        assert!(LIMITS.check_pixels(20_001, 1).is_err());
        assert!(LIMITS.check_pixels(1, 20_001).is_err());
    }

    #[test]
    fn a_quarter_turn_is_paid_for() {
        let limits = DecodeLimits { max_decoded_bytes: 599, ..LIMITS };
        let workspace = |turned| Workspace { scratch: 0, decoded: 3, converted: 0, turned, table_bytes: 0 };
        assert!(limits.check_workspace(10, 10, workspace(Orientation::Rotate180)).is_ok());
        assert!(limits.check_workspace(10, 10, workspace(Orientation::Rotate90)).is_err());
    }
}
