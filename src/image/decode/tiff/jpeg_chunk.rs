//! Strips and tiles that are JPEG streams of their own.
//!
//! Each is walked like a JPEG file before it is decoded, since the decoder would fill what is missing with grey. Its
//! colours are left as they are stored: what they mean is said by the directory, not by the stream.

use std::ops::{Range, RangeInclusive};

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::super::deadline::Deadline;
use super::super::{DecodeError, ImageFormat, jpeg};

const FORMAT: ImageFormat = ImageFormat::Tiff;

/// Four quantisation and eight Huffman tables take 2 KB; they are read again for each strip.
const MAX_TABLES_BYTES: usize = 4 << 10;

/// What the picture of a strip has to be.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub width_px: u32,
    /// The last strip may be as high as the others.
    pub rows: RangeInclusive<u32>,
    pub samples: usize,
}

/// Refuses the tables of a page (`JPEGTables`) where they are larger than any encoder writes.
pub(super) fn check_tables(tables: &[u8]) -> Result<(), DecodeError> {
    if tables.len() > MAX_TABLES_BYTES {
        return Err(DecodeError::OversizedMetadata { format: FORMAT });
    }
    Ok(())
}

/// Walks the strip at `range` and reports whether it is progressive.
///
/// # Errors
/// [`DecodeError`] if it is not complete, or not the picture that the directory states.
pub(super) fn check(
    bytes: &[u8],
    range: Range<usize>,
    tables: &[u8],
    expected: &Expected,
    deadline: &Deadline,
) -> Result<bool, DecodeError> {
    let start = range.start;
    let place = |fault| match fault {
        jpeg::Fault::EndsEarly => DecodeError::damaged(FORMAT, start, "a strip of the picture is cut short"),
        jpeg::Fault::Damaged { at, what } => DecodeError::damaged(FORMAT, start + at, what),
        jpeg::Fault::Unsupported(_) => {
            DecodeError::unsupported("a TIFF file with an unusual kind of JPEG inside")
        }
        jpeg::Fault::OutOfTime => DecodeError::OutOfTime,
    };
    let mut walker = jpeg::Walker::new(&bytes[range], deadline);
    if !tables.is_empty() {
        walker.load_tables(tables).map_err(place)?;
    }
    let header = walker.read_header().map_err(place)?;
    // The decoder sizes its buffer from this inner header, so a lie here would cost memory without bound.
    if header.width_px != expected.width_px
        || !expected.rows.contains(&header.height_px)
        || header.components != expected.samples
    {
        return Err(DecodeError::damaged(FORMAT, start, "a strip holds a picture of another size"));
    }
    walker.verify().map_err(place)?;
    Ok(header.is_progressive)
}

/// Decodes a strip that was checked to interleaved samples.
///
/// # Errors
/// [`DecodeError`] if its data cannot be read.
pub(super) fn decode(data: &[u8], tables: &[u8]) -> Result<Vec<u8>, DecodeError> {
    // The tables are a stream that lacks its picture: its end and the start of the strip meet.
    let head = tables.strip_suffix(&[0xFF, 0xD9]).unwrap_or(tables);
    let tail = if tables.is_empty() { data } else { data.get(2..).unwrap_or_default() };
    let stream = [head, tail].concat();
    let corrupt = |error| DecodeError::corrupt(FORMAT, "a strip compressed as JPEG cannot be read", error);

    let options = DecoderOptions::default().set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&stream), options);
    decoder.decode_headers().map_err(corrupt)?;
    let stored = decoder.input_colorspace().expect("known once the headers are decoded");
    decoder.set_options(options.jpeg_set_out_colorspace(stored));
    decoder.decode().map_err(corrupt)
}
