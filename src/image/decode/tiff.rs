//! The first page of a TIFF or BigTIFF to RGB pixels.
//!
//! Reads 1, 8 and 16-bit gray (either polarity), 8 and 16-bit RGB, CMYK and YCbCr, gray or RGB with alpha, in strips or
//! tiles, interleaved or planar, uncompressed or compressed with LZW, deflate, PackBits, fax or JPEG. Indexed colours,
//! floating point and other depths are refused by name.
//! What the directory claims ([`super::ifd`]) and the place of every strip are checked against the file first, and strips compressed as JPEG are walked like a JPEG file,
//! since the decoder below would fill what is missing with grey. Never reads a page other than the first: it refuses
//! a file whose first page is only a preview (camera raw), where the picture itself would go unseen.

use ::image::metadata::Orientation;
use ::tiff::decoder::{ChunkType, Decoder, DecodingResult, Limits};
use ::tiff::tags::{CompressionMethod, Tag};
use ::tiff::{ColorType, TiffError};

use super::deadline::{Deadline, TimedReader};
use super::{DecodeError, DecodeLimits, ImageFormat, Pixels, Workspace, container, ifd, jpeg, rgb};

const FORMAT: ImageFormat = ImageFormat::Tiff;

/// Four quantisation and eight Huffman tables take 2 KB; they are read again for each strip.
const MAX_JPEG_TABLES_BYTES: usize = 4 << 10;

const SPARE_LZW_BYTES: u64 = 4096;

/// Decodes the first page; the orientation is still to be applied.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    deadline: &Deadline,
) -> Result<(Pixels, Orientation), DecodeError> {
    let mut tiff = Tiff { decoder: open(bytes, deadline)?, bytes, deadline };
    let (width_px, height_px) = tiff.decoder.dimensions().map_err(|error| explain(error, bytes))?;
    limits.check_pixels(width_px, height_px)?;
    tiff.refuse_preview()?;
    let kind = tiff.kind()?;
    let orientation = tiff.orientation()?;

    let chunks = tiff.chunks()?;
    let has_progressive = tiff.check_chunks(&chunks, &kind, limits)?;
    let bytes_per_pixel = u64::from(kind.samples) * u64::from(kind.bits.div_ceil(8));
    limits.check_workspace(
        width_px,
        height_px,
        Workspace {
            // A strip compressed as JPEG is unpacked beside the picture, a progressive one from 16-bit coefficients.
            scratch: match (kind.is_jpeg, has_progressive) {
                (false, _) => 0,
                (true, false) => bytes_per_pixel,
                (true, true) => 3 * bytes_per_pixel,
            },
            decoded: bytes_per_pixel,
            converted: kind.conversion_bytes(),
            turned: orientation,
            table_bytes: 0,
        },
    )?;

    let mut allowed = Limits::default();
    allowed.decoding_buffer_size = usize::try_from(limits.max_decoded_bytes).unwrap_or(usize::MAX);
    allowed.intermediate_buffer_size = bytes.len().max(1);
    let mut decoder = tiff.decoder.with_limits(allowed);
    let mut raw = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut raw).map_err(|error| explain(error, bytes))?;

    let samples = match raw {
        DecodingResult::U8(samples) if kind.bits == 1 => {
            unpack_bits(&samples, width_px as usize, height_px as usize)
        }
        DecodingResult::U8(samples) => samples,
        DecodingResult::U16(samples) => samples.into_iter().map(rgb::narrow).collect(),
        _ => {
            return Err(unsupported(
                "a TIFF file with samples that are not whole numbers of 1, 8 or 16 bits",
            ));
        }
    };
    let samples = if layout.planes > 1 { interleave(&samples, layout.planes) } else { samples };
    let expected = width_px as usize * height_px as usize * usize::from(kind.samples);
    if samples.len() != expected {
        return Err(DecodeError::truncated(FORMAT, bytes));
    }
    let rgb = match kind.model {
        Model::Gray => rgb::from_gray(&samples),
        Model::GrayAlpha => rgb::from_gray_alpha(&samples),
        Model::Rgb => samples,
        Model::Rgba => rgb::from_rgba(samples),
        Model::PremultipliedRgba => rgb::from_premultiplied_rgba(samples),
        Model::Cmyk => rgb::from_cmyk(samples),
        Model::YCbCr => rgb::from_ycbcr(samples),
    };
    Ok((Pixels { width_px, height_px, rgb }, orientation))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    Gray,
    GrayAlpha,
    Rgb,
    Rgba,
    PremultipliedRgba,
    Cmyk,
    YCbCr,
}

/// How the samples of the page are stored.
#[derive(Debug)]
struct Kind {
    model: Model,
    samples: u16,
    bits: u8,
    is_jpeg: bool,
    is_lzw: bool,
    is_planar: bool,
}

impl Kind {
    /// Bytes a pixel that the way to RGB holds beside the decoder's output, at most.
    fn conversion_bytes(&self) -> u64 {
        let samples = u64::from(self.samples);
        let narrowed = if self.bits == 16 { samples } else { 0 };
        let interleaved = if self.is_planar { samples } else { 0 };
        let expanded = if matches!(self.model, Model::Gray | Model::GrayAlpha) { 3 } else { 0 };
        let unpacked = if self.bits == 1 { 1 } else { 0 };
        narrowed + interleaved + expanded + unpacked
    }
}

/// Where one strip or tile lies in the file, and the size of its picture.
#[derive(Debug)]
struct Chunk {
    offset: u64,
    length: u64,
    /// Rows that belong to the page.
    rows: u32,
}

struct Tiff<'a> {
    decoder: Decoder<TimedReader<'a>>,
    bytes: &'a [u8],
    deadline: &'a Deadline,
}

fn open<'a>(bytes: &'a [u8], deadline: &'a Deadline) -> Result<Decoder<TimedReader<'a>>, DecodeError> {
    ifd::check_first(bytes).map_err(|fault| match fault {
        container::Fault::EndsEarly => DecodeError::truncated(FORMAT, bytes),
        container::Fault::Damaged { at, what } => DecodeError::damaged(FORMAT, at, what),
    })?;
    Decoder::new(TimedReader::new(bytes, deadline)).map_err(|error| explain(error, bytes))
}

fn unsupported(found: &'static str) -> DecodeError {
    DecodeError::unsupported(found)
}

/// What an error of the decoder means to the one who uploaded the file.
fn explain(error: TiffError, bytes: &[u8]) -> DecodeError {
    match error {
        TiffError::UnsupportedError(_) => unsupported("a TIFF file of an unusual kind"),
        TiffError::LimitsExceeded | TiffError::IntSizeError => {
            DecodeError::OversizedMetadata { format: FORMAT }
        }
        TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::truncated(FORMAT, bytes)
        }
        error => DecodeError::corrupt(FORMAT, "its structure or its compressed data cannot be read", error),
    }
}

impl Tiff<'_> {
    fn number(&mut self, tag: Tag) -> Result<Option<u64>, DecodeError> {
        self.decoder.find_tag_unsigned::<u64>(tag).map_err(|error| explain(error, self.bytes))
    }

    fn numbers(&mut self, tag: Tag) -> Result<Vec<u64>, DecodeError> {
        let found = self.decoder.find_tag_unsigned_vec::<u64>(tag);
        Ok(found.map_err(|error| explain(error, self.bytes))?.unwrap_or_default())
    }

    /// Camera raw files and some pyramids begin with a small preview of the picture.
    fn refuse_preview(&mut self) -> Result<(), DecodeError> {
        const REDUCED_RESOLUTION: u64 = 1;
        let subfile = self.number(Tag::NewSubfileType)?.unwrap_or(0);
        if subfile & REDUCED_RESOLUTION != 0 {
            return Err(unsupported(
                "a TIFF file whose first page is only a preview (camera raw or pyramid)",
            ));
        }
        Ok(())
    }

    fn orientation(&mut self) -> Result<Orientation, DecodeError> {
        let value = self.number(Tag::Orientation)?.and_then(|value| u8::try_from(value).ok());
        Ok(value.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms))
    }

    fn kind(&mut self) -> Result<Kind, DecodeError> {
        const INDEXED: u64 = 3;
        const UNSIGNED: u64 = 1;
        const PLANAR: u64 = 2;
        const PREMULTIPLIED: u64 = 1;
        const UNASSOCIATED: u64 = 2;

        if self.number(Tag::PhotometricInterpretation)? == Some(INDEXED) {
            return Err(unsupported("a TIFF file with indexed colours"));
        }
        if self.numbers(Tag::SampleFormat)?.iter().any(|&format| format != UNSIGNED) {
            return Err(unsupported("a TIFF file with floating-point or signed samples"));
        }
        let compression = self.number(Tag::Compression)?.unwrap_or(1);
        let is_jpeg = compression == u64::from(CompressionMethod::ModernJPEG.to_u16());
        let is_lzw = compression == u64::from(CompressionMethod::LZW.to_u16());
        let is_planar = self.number(Tag::PlanarConfiguration)? == Some(PLANAR);
        let extra = self.numbers(Tag::ExtraSamples)?;
        let color = self.decoder.colortype().map_err(|error| explain(error, self.bytes))?;
        let (model, bits) = match color {
            ColorType::Gray(bits @ (1 | 8 | 16)) => (Model::Gray, bits),
            ColorType::Multiband { bit_depth: bits @ (8 | 16), num_samples: 2 }
                if extra == [UNASSOCIATED] =>
            {
                (Model::GrayAlpha, bits)
            }
            ColorType::RGB(bits @ (8 | 16)) => (Model::Rgb, bits),
            ColorType::RGBA(bits @ (8 | 16)) if extra.first() == Some(&PREMULTIPLIED) => {
                (Model::PremultipliedRgba, bits)
            }
            ColorType::RGBA(bits @ (8 | 16)) => (Model::Rgba, bits),
            ColorType::CMYK(bits @ (8 | 16)) => (Model::Cmyk, bits),
            ColorType::YCbCr(8) => (Model::YCbCr, 8),
            _ => return Err(unsupported("a TIFF file with an unusual number of channels or bits")),
        };
        Ok(Kind { model, samples: color.num_samples(), bits, is_jpeg, is_lzw, is_planar })
    }

    fn chunks(&mut self) -> Result<Vec<Chunk>, DecodeError> {
        let (offsets, lengths) = match self.decoder.get_chunk_type() {
            ChunkType::Strip => (Tag::StripOffsets, Tag::StripByteCounts),
            ChunkType::Tile => (Tag::TileOffsets, Tag::TileByteCounts),
        };
        let (offsets, lengths) = (self.numbers(offsets)?, self.numbers(lengths)?);
        let chunks = offsets.into_iter().zip(lengths).zip(0..).map(|((offset, length), index)| Chunk {
            offset,
            length,
            rows: self.decoder.chunk_data_dimensions(index).1,
        });
        Ok(chunks.collect())
    }

    /// Every strip must lie inside the file, and its picture must be as large as the page says. Tells whether any strip
    /// is a progressive JPEG.
    fn check_chunks(
        &mut self,
        chunks: &[Chunk],
        kind: &Kind,
        limits: &DecodeLimits,
    ) -> Result<bool, DecodeError> {
        let (bytes, (width_px, height_px)) = (self.bytes, self.decoder.chunk_dimensions());
        let is_tiled = self.decoder.get_chunk_type() == ChunkType::Tile;
        if is_tiled {
            // A tile is unpacked whole, however small the page.
            limits.check_pixels(width_px, height_px)?;
        }
        let page_height_px = self.decoder.dimensions().map_err(|error| explain(error, bytes))?.1;
        let tables = if kind.is_jpeg { self.jpeg_tables()? } else { Vec::new() };
        if tables.len() > MAX_JPEG_TABLES_BYTES {
            return Err(DecodeError::OversizedMetadata { format: FORMAT });
        }
        let samples_in_chunk = if kind.is_planar { 1 } else { u64::from(kind.samples) };
        let row_bytes = u64::from(width_px) * samples_in_chunk * u64::from(kind.bits.div_ceil(8));
        // A code has at most 12 bits and gives a byte at least; the rest is codes that give nothing.
        let most_lzw = (4 * row_bytes).saturating_mul(u64::from(height_px)).saturating_add(SPARE_LZW_BYTES);
        let mut has_progressive = false;
        for chunk in chunks {
            self.deadline.check()?;
            let end = chunk.offset.saturating_add(chunk.length);
            if end > bytes.len() as u64 {
                return Err(DecodeError::truncated(FORMAT, bytes));
            }
            if kind.is_lzw && chunk.length > most_lzw {
                let at = usize::try_from(chunk.offset).expect("lies inside the file");
                return Err(DecodeError::damaged(
                    FORMAT,
                    at,
                    "a strip holds more data than its picture can take",
                ));
            }
            if kind.is_jpeg {
                let start = usize::try_from(chunk.offset).expect("lies inside the file");
                let end = usize::try_from(end).expect("lies inside the file");
                let samples = if kind.is_planar { 1 } else { usize::from(kind.samples) };
                // The last strip may be as high as the others, but none is higher than the page.
                let most = if is_tiled { height_px } else { height_px.min(page_height_px) };
                let size = (width_px, chunk.rows..=most, samples);
                has_progressive |= check_jpeg_chunk(bytes, start..end, &tables, size, self.deadline)?;
            }
        }
        Ok(has_progressive)
    }

    fn jpeg_tables(&mut self) -> Result<Vec<u8>, DecodeError> {
        match self.decoder.find_tag(Tag::JPEGTables) {
            Ok(Some(value)) => value.into_u8_vec().map_err(|error| explain(error, self.bytes)),
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(explain(error, self.bytes)),
        }
    }
}

/// Walks a strip compressed as JPEG and tells whether it is progressive; `size` is its width, the rows it may have
/// and its channels.
fn check_jpeg_chunk(
    bytes: &[u8],
    range: std::ops::Range<usize>,
    tables: &[u8],
    size: (u32, std::ops::RangeInclusive<u32>, usize),
    deadline: &Deadline,
) -> Result<bool, DecodeError> {
    let start = range.start;
    let place = |fault| match fault {
        jpeg::Fault::EndsEarly => DecodeError::damaged(FORMAT, start, "a strip of the picture is cut short"),
        jpeg::Fault::Damaged { at, what } => DecodeError::damaged(FORMAT, start + at, what),
        jpeg::Fault::Unsupported(_) => unsupported("a TIFF file with an unusual kind of JPEG inside"),
        jpeg::Fault::OutOfTime => DecodeError::OutOfTime,
    };
    let mut walker = jpeg::Walker::new(&bytes[range], deadline);
    if !tables.is_empty() {
        walker.load_tables(tables).map_err(place)?;
    }
    let header = walker.read_header().map_err(place)?;
    let (width_px, rows, samples) = size;
    // The decoder sizes its buffer from this inner header, so a lie here would cost memory without bound.
    if header.width_px != width_px || !rows.contains(&header.height_px) || header.components != samples {
        return Err(DecodeError::damaged(FORMAT, start, "a strip is not of the size that the page declares"));
    }
    walker.decode().map_err(place)?;
    Ok(header.is_progressive)
}

/// Rows of one bit a pixel, padded to whole bytes, to one byte a pixel.
fn unpack_bits(packed: &[u8], width: usize, height: usize) -> Vec<u8> {
    let mut gray = Vec::with_capacity(width * height);
    for row in packed.chunks_exact(width.div_ceil(8)).take(height) {
        gray.extend((0..width).map(|x| if row[x / 8] >> (7 - x % 8) & 1 == 1 { 255 } else { 0 }));
    }
    gray
}

/// Whole planes, one after the other, to interleaved samples.
fn interleave(planar: &[u8], planes: usize) -> Vec<u8> {
    let pixels = planar.len() / planes;
    let mut samples = Vec::with_capacity(planar.len());
    for pixel in 0..pixels {
        samples.extend((0..planes).map(|plane| planar[plane * pixels + pixel]));
    }
    samples
}
