//! Strips and tiles that are JPEG streams of their own.
//!
//! Their samples are left as they are stored: what they mean is said by the directory, not by the stream.

use std::ops::{Range, RangeInclusive};

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

/// A strip whose header was read and is what the directory states.
pub(super) struct Strip<'a> {
    walker: jpeg::Walker<'a>,
    header: jpeg::Header,
    start: usize,
}

/// Refuses the tables of a page (`JPEGTables`) where they are larger than any encoder writes.
pub(super) fn check_tables(tables: &[u8]) -> Result<(), DecodeError> {
    if tables.len() > MAX_TABLES_BYTES {
        return Err(DecodeError::OversizedMetadata { format: FORMAT });
    }
    Ok(())
}

/// What a fault of a strip that begins at byte `start` means to the one who uploaded the file.
fn place(fault: jpeg::Fault, start: usize) -> DecodeError {
    match fault {
        jpeg::Fault::EndsEarly => DecodeError::damaged(FORMAT, start, "a strip of the picture is cut short"),
        jpeg::Fault::Damaged { at, what } => DecodeError::damaged(FORMAT, start + at, what),
        jpeg::Fault::Unsupported(what) => {
            DecodeError::unsupported(format!("a TIFF file of which each strip is {what}"))
        }
        jpeg::Fault::OutOfTime => DecodeError::OutOfTime,
    }
}

impl<'a> Strip<'a> {
    /// Reads the header of the strip at `range`, which shares `tables` with the others.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not the picture that the directory states.
    pub(super) fn open(
        bytes: &'a [u8],
        range: Range<usize>,
        tables: &'a [u8],
        expected: &Expected,
        deadline: &'a Deadline,
    ) -> Result<Self, DecodeError> {
        let start = range.start;
        let mut walker = jpeg::Walker::new(&bytes[range], deadline);
        if !tables.is_empty() {
            walker.load_tables(tables).map_err(|fault| place(fault, start))?;
        }
        let header = walker.read_header().map_err(|fault| place(fault, start))?;
        // Memory follows this inner header, so a lie here would cost it without bound.
        if header.width_px != expected.width_px
            || !expected.rows.contains(&header.height_px)
            || header.components != expected.samples
        {
            return Err(DecodeError::damaged(
                FORMAT,
                start,
                "a strip is not of the size that the page declares",
            ));
        }
        Ok(Self { walker, header, start })
    }

    /// Bytes that decoding holds at most, its output of `unpacked` bytes included.
    pub(super) fn decoding_bytes(&self, unpacked: u64) -> u64 {
        self.header.coefficient_bytes().max(self.header.stored_bytes().saturating_add(unpacked))
    }

    /// Decodes it to interleaved samples.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not complete.
    pub(super) fn decode(self) -> Result<Vec<u8>, DecodeError> {
        let start = self.start;
        Ok(self.walker.decode().map_err(|fault| place(fault, start))?.samples)
    }
}
