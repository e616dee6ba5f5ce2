//! What the directory of a page says about its pixels, or by what name the page is refused.
//!
//! A page is read only if its pixels are certain: where readers disagree about what a tag means, or a tag that gives the
//! samples their meaning is absent, the page is refused by name. Nothing is unpacked here.

use std::ops::Range;

use ::image::metadata::Orientation;

use super::super::{DecodeError, DecodeLimits, ImageFormat};
use super::compression::Compression;
use super::directory::{Directory, tag};
use super::model::{Model, read_colors, read_model};
use super::pages::Description;
use super::place;
use super::samples::{Kind, Predictor, Sample};

const FORMAT: ImageFormat = ImageFormat::Tiff;

/// One strip or tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Which sample of a pixel it holds, where each has a plane of its own; else 0.
    pub plane: usize,
    /// Its upper left pixel.
    pub left_px: usize,
    pub top_px: usize,
    /// Rows that it stores at least.
    pub rows: usize,
}

/// How a page is stored.
#[derive(Debug)]
pub(super) struct Layout {
    pub width_px: u32,
    pub height_px: u32,
    pub orientation: Orientation,
    pub model: Model,
    /// Whether 0 is white.
    pub is_inverted: bool,
    pub sample: Sample,
    /// Samples of each pixel that are stored, of which the model may use fewer.
    pub samples: usize,
    pub is_planar: bool,
    pub compression: Compression,
    pub predictor: Predictor,
    pub is_big_endian: bool,
    pub are_bits_reversed: bool,
    pub is_tiled: bool,
    pub chunk_width_px: u32,
    pub chunk_height_px: u32,
    /// Where the data of each strip or tile lies in the file.
    pub places: Vec<Range<usize>>,
}

/// A page that is not read, as it is named after "a TIFF file".
pub(super) fn refused(what: &str) -> DecodeError {
    DecodeError::unsupported(format!("a TIFF file {what}"))
}

/// A directory that contradicts itself.
pub(super) fn damaged(what: &'static str) -> DecodeError {
    DecodeError::damaged(FORMAT, 0, what)
}

impl Layout {
    /// Reads the directory of a page of the file `bytes`, whose size must be within `limits`.
    ///
    /// # Errors
    /// [`DecodeError`] if the page is not read, too large, or contradicts itself.
    pub(super) fn read(
        directory: &Directory<'_>,
        description: &Description,
        bytes: &[u8],
        limits: &DecodeLimits,
    ) -> Result<Self, DecodeError> {
        let number = |tag| directory.number(tag).map_err(|fault| place(fault, bytes));
        let numbers = |tag| directory.numbers(tag).map_err(|fault| place(fault, bytes));
        let side = |tag| match number(tag)? {
            Some(0) | None => Err(damaged("its size is impossible")),
            Some(value) => Ok(u32::try_from(value).unwrap_or(u32::MAX)),
        };
        let (width_px, height_px) = (side(tag::IMAGE_WIDTH)?, side(tag::IMAGE_LENGTH)?);
        limits.check_pixels(width_px, height_px)?;
        refuse_preview(number(tag::NEW_SUBFILE_TYPE)?.unwrap_or(0))?;

        let compression = Compression::from_tag(number(tag::COMPRESSION)?.unwrap_or(1))
            .map_err(|name| refused(&format!("compressed with {name}")))?;
        let predictor = match (number(tag::PREDICTOR)?.unwrap_or(1), compression.has_predictor()) {
            (1, _) => Predictor::None,
            (2, true) => Predictor::Horizontal,
            (3, true) => Predictor::FloatingPoint,
            (_, true) => return Err(refused("with an unknown predictor")),
            // Some readers apply it, some ignore it.
            (_, false) => return Err(refused("with a predictor that its compression does not have")),
        };
        let photometric = number(tag::PHOTOMETRIC)?;
        let depths = numbers(tag::BITS_PER_SAMPLE)?;
        let samples = match number(tag::SAMPLES_PER_PIXEL)? {
            Some(samples) => {
                usize::from(u16::try_from(samples).map_err(|_| damaged("it has too many channels"))?)
            }
            None if depths.len() <= 1 && matches!(photometric, Some(2 | 6)) => 3,
            None => depths.len().max(1),
        };
        let mut model = read_model(directory, bytes, samples)?;
        let sample = read_sample(directory, description, bytes, matches!(model, Model::Indexed(_)))?;
        if let Model::Indexed(colors) = &mut model {
            *colors = read_colors(directory, sample.bits, bytes)?;
        }

        let is_tiled = number(tag::TILE_WIDTH)?.is_some() || number(tag::TILE_OFFSETS)?.is_some();
        let (chunk_width_px, chunk_height_px) = if is_tiled {
            let (width_px, height_px) = (side(tag::TILE_WIDTH)?, side(tag::TILE_LENGTH)?);
            // A tile is unpacked whole, however small the page.
            limits.check_pixels(width_px, height_px)?;
            (width_px, height_px)
        } else {
            let rows = number(tag::ROWS_PER_STRIP)?.unwrap_or(u64::from(height_px));
            let rows = u32::try_from(rows).unwrap_or(u32::MAX).min(height_px);
            if rows == 0 {
                return Err(damaged("its strips have no rows"));
            }
            (width_px, rows)
        };
        let mut layout = Self {
            width_px,
            height_px,
            orientation: number(tag::ORIENTATION)?
                .and_then(|value| Orientation::from_exif(u8::try_from(value).ok()?))
                .unwrap_or(Orientation::NoTransforms),
            model,
            is_inverted: photometric == Some(0),
            sample,
            samples,
            is_planar: samples > 1 && number(tag::PLANAR_CONFIGURATION)? == Some(2),
            compression,
            predictor,
            is_big_endian: directory.is_big_endian(),
            // A JPEG stream keeps its own order, whatever the tag says.
            are_bits_reversed: number(tag::FILL_ORDER)? == Some(2) && compression != Compression::Jpeg,
            is_tiled,
            chunk_width_px,
            chunk_height_px,
            places: Vec::new(),
        };
        check_combination(&layout, directory, bytes)?;
        let tags = if is_tiled {
            (tag::TILE_OFFSETS, tag::TILE_BYTE_COUNTS)
        } else {
            (tag::STRIP_OFFSETS, tag::STRIP_BYTE_COUNTS)
        };
        layout.places = layout.find_places(&numbers(tags.0)?, &numbers(tags.1)?, bytes)?;
        Ok(layout)
    }

    /// Samples that stand side by side in a strip or tile, for each pixel.
    pub(super) fn samples_in_chunk(&self) -> usize {
        if self.is_planar { 1 } else { self.samples }
    }

    /// Bytes of a row of a strip or tile.
    pub(super) fn row_bytes(&self) -> usize {
        self.sample.row_bytes(self.chunk_width_px as usize * self.samples_in_chunk())
    }

    /// How many strips or tiles are across the picture, and how many a plane has.
    fn chunks_of_plane(&self) -> (usize, usize) {
        let across = self.width_px.div_ceil(self.chunk_width_px) as usize;
        let down = self.height_px.div_ceil(self.chunk_height_px) as usize;
        (across, across.saturating_mul(down))
    }

    /// The strip or tile of an index below the number of [`Self::places`].
    pub(super) fn chunk(&self, index: usize) -> Chunk {
        let (across, of_plane) = self.chunks_of_plane();
        let (plane, row, column) = (index / of_plane, index % of_plane / across, index % across);
        let full_rows = self.chunk_height_px as usize;
        let top_px = row * full_rows;
        let rows = if self.is_tiled { full_rows } else { full_rows.min(self.height_px as usize - top_px) };
        Chunk { plane, left_px: column * self.chunk_width_px as usize, top_px, rows }
    }

    fn find_places(
        &self,
        offsets: &[u64],
        lengths: &[u64],
        bytes: &[u8],
    ) -> Result<Vec<Range<usize>>, DecodeError> {
        /// Tables that a strip may hold beside its data.
        const SPARE_BYTES: u64 = 4096;

        let planes = if self.is_planar { self.samples } else { 1 };
        let count = self.chunks_of_plane().1.saturating_mul(planes);
        if offsets.len() < count {
            return Err(damaged("it has fewer strips than its picture needs"));
        }
        let mut sorted = Vec::new();
        if lengths.len() < count {
            sorted = offsets.to_vec();
            sorted.sort_unstable();
        }
        let file_end = bytes.len() as u64;
        let mut places = Vec::with_capacity(count);
        for (index, &offset) in offsets[..count].iter().enumerate() {
            let plain_bytes = (self.row_bytes() as u64).saturating_mul(self.chunk(index).rows as u64);
            let length = match lengths.get(index) {
                Some(0) if offset == 0 => return Err(refused("that leaves out some of its strips or tiles")),
                Some(0) | None if self.compression == Compression::None => plain_bytes,
                Some(&length) => length,
                // Up to the next strip or the end of the file; no method makes data twice as long.
                None => {
                    let next = sorted[sorted.partition_point(|&other| other <= offset)..].first();
                    let room = next.unwrap_or(&file_end).saturating_sub(offset);
                    room.min(plain_bytes.saturating_mul(2).saturating_add(SPARE_BYTES))
                }
            };
            let end = offset.checked_add(length).filter(|&end| end <= file_end);
            let place = end.and_then(|end| Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?));
            places.push(place.ok_or_else(|| DecodeError::truncated(FORMAT, bytes))?);
        }
        Ok(places)
    }
}

/// Camera raw files and some pyramids begin with a small preview of the picture.
fn refuse_preview(subfile: u64) -> Result<(), DecodeError> {
    const REDUCED_RESOLUTION: u64 = 1;
    const MASK: u64 = 4;
    if subfile & REDUCED_RESOLUTION != 0 {
        return Err(refused("whose first page is only a preview (camera raw or pyramid)"));
    }
    if subfile & MASK != 0 {
        return Err(refused("whose first page is a transparency mask"));
    }
    Ok(())
}

fn read_sample(
    directory: &Directory<'_>,
    description: &Description,
    bytes: &[u8],
    is_indexed: bool,
) -> Result<Sample, DecodeError> {
    let numbers = |tag| directory.numbers(tag).map_err(|fault| place(fault, bytes));
    let reals = |tag| directory.reals(tag).map_err(|fault| place(fault, bytes));
    let bits = match common(&numbers(tag::BITS_PER_SAMPLE)?) {
        Ok(bits) => usize::try_from(bits.unwrap_or(1)).unwrap_or(usize::MAX),
        Err(Differ) => return Err(refused("with channels of different depths")),
    };
    let kind = match common(&numbers(tag::SAMPLE_FORMAT)?) {
        Ok(None | Some(1)) => Kind::Unsigned,
        Ok(Some(2)) => Kind::Signed,
        Ok(Some(3)) => Kind::Float,
        Ok(Some(5 | 6)) => return Err(refused("of complex numbers")),
        Ok(Some(_)) => return Err(refused("with samples of an undefined type")),
        Err(Differ) => return Err(refused("with channels of different types")),
    };
    // What the tags say of the least and the greatest value; a tag that names several is not a range.
    let stated = |tag| Ok::<_, DecodeError>(common(&reals(tag)?).unwrap_or(None));
    let (low, high) = (stated(tag::S_MIN_SAMPLE_VALUE)?, stated(tag::S_MAX_SAMPLE_VALUE)?);
    let range = match (kind, bits) {
        (Kind::Unsigned, 1..=8) if is_indexed => None,
        _ if is_indexed => return Err(refused("with indexed colours of more than 8 bits")),
        (Kind::Unsigned, 1..=16) => {
            let most = (1_u32 << bits) - 1;
            let used = description.significant_bits.map(|bits| f64::from((1_u64 << bits.min(32)) as u32 - 1));
            let named = [used, stated(tag::MAX_SAMPLE_VALUE)?, high];
            // Only the limit of a whole number of bits: some programs write the greatest value of the image here, and
            // scaling by that would make two images of one slide differ.
            let limits = (8..bits).map(|bits| f64::from((1_u32 << bits) - 1)).collect::<Vec<_>>();
            let named = named.into_iter().flatten().find(|value| limits.contains(value));
            Some((0.0, named.unwrap_or(f64::from(most))))
        }
        (Kind::Unsigned, 32) => Some((low.unwrap_or(0.0), high.ok_or_else(|| unscaled("32-bit"))?)),
        (Kind::Signed, 8 | 16 | 32) => low.zip(high).ok_or_else(|| unscaled("signed")).map(Some)?,
        (Kind::Float, 16 | 32 | 64) => match low.zip(high) {
            Some((low, high)) if low < 0.0 || high > 1.0 => Some((low, high)),
            _ => Some((0.0, 1.0)),
        },
        _ => return Err(refused(&format!("with samples of {bits} bits"))),
    };
    if range.is_some_and(|(low, high)| !(low < high && low.is_finite() && high.is_finite())) {
        return Err(damaged("the range of its samples is impossible"));
    }
    Ok(Sample { kind, bits, range })
}

fn unscaled(what: &str) -> DecodeError {
    refused(&format!("with {what} samples whose range it does not state (SMinSampleValue, SMaxSampleValue)"))
}

/// Values that should be one.
struct Differ;

/// The value that all channels share, if any is stated.
fn common<T: PartialEq + Copy>(values: &[T]) -> Result<Option<T>, Differ> {
    match values {
        [first, rest @ ..] if rest.iter().any(|value| value != first) => Err(Differ),
        values => Ok(values.first().copied()),
    }
}

/// Refuses what cannot go together, or would go together differently for different readers.
fn check_combination(layout: &Layout, directory: &Directory<'_>, bytes: &[u8]) -> Result<(), DecodeError> {
    let numbers = |tag| directory.numbers(tag).map_err(|fault| place(fault, bytes));
    let reals = |tag| directory.reals(tag).map_err(|fault| place(fault, bytes));
    let Sample { kind, bits, .. } = layout.sample;
    let is_plain = (kind, bits) == (Kind::Unsigned, 8);
    match layout.predictor {
        Predictor::Horizontal if !matches!(bits, 8 | 16 | 32 | 64) => {
            return Err(refused(&format!("with a predictor for samples of {bits} bits")));
        }
        Predictor::FloatingPoint if kind != Kind::Float => {
            return Err(refused("with a floating-point predictor for whole numbers"));
        }
        _ => {}
    }
    let has_uncompressed_parts = numbers(tag::T6_OPTIONS)?.first().is_some_and(|options| options & 2 != 0);
    match (layout.compression, &layout.model) {
        (Compression::Group4, Model::Gray) if bits == 1 && layout.samples == 1 && !has_uncompressed_parts => {
        }
        (Compression::Group4, Model::Gray) if bits == 1 && layout.samples == 1 => {
            return Err(refused("of CCITT Group 4 with uncompressed parts"));
        }
        (Compression::Group4, _) => return Err(refused("of CCITT Group 4 that is not bilevel")),
        (Compression::Jpeg, Model::Indexed(_)) => return Err(refused("of JPEG with indexed colours")),
        (Compression::Jpeg, Model::YCbCr) if layout.is_planar => {
            return Err(refused("of JPEG with a plane for each of Y, Cb and Cr"));
        }
        (Compression::Jpeg, _) if !is_plain => {
            return Err(refused(&format!("of JPEG with samples of {bits} bits")));
        }
        (Compression::Jpeg, _) if !matches!(layout.samples_in_chunk(), 1 | 3 | 4) => {
            return Err(refused(&format!("of JPEG with {} channels", layout.samples)));
        }
        (Compression::Jpeg, _) => {}
        (_, Model::YCbCr) => {
            if !is_plain || numbers(tag::YCBCR_SUBSAMPLING)? != [1, 1] {
                return Err(refused("of YCbCr that is subsampled and not compressed as JPEG"));
            }
            let near = |tag, usual: &[f64]| {
                let stated = reals(tag)?;
                let is_near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-3;
                Ok::<_, DecodeError>(stated.is_empty() || stated.iter().zip(usual).all(is_near))
            };
            if !near(tag::YCBCR_COEFFICIENTS, &[0.299, 0.587, 0.114])?
                || !near(tag::REFERENCE_BLACK_WHITE, &[0.0, 255.0, 128.0, 255.0, 128.0, 255.0])?
            {
                return Err(refused("of YCbCr other than that of JPEG"));
            }
        }
        _ => {}
    }
    Ok(())
}
