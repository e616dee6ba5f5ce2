//! The data of one strip or tile to its rows as they were stored.
//!
//! Every method writes into a buffer of the size that the directory states and stops when it is full, so that no data
//! unpacks to more; data that fills less of it is damaged.

use std::io::Read;
use std::ops::Range;

use fax::decoder::{DecodeStatus, Group4Decoder};
use flate2::bufread::ZlibDecoder;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use weezl::{BitOrder, LzwStatus, decode::Configuration};

use super::super::deadline::{Deadline, TimedReader};
use super::super::{DecodeError, ImageFormat};

const FORMAT: ImageFormat = ImageFormat::Tiff;
const CUT_SHORT: &str = "a strip of the picture is cut short or cannot be unpacked";
/// Input of LZW after which the clock is looked at again.
const LZW_BYTES_BETWEEN_LOOKS: usize = 16 << 10;
/// Codes of LZW beyond those that a picture can take.
const SPARE_LZW_BYTES: usize = 4096;

/// How the strips or tiles of a page are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Lzw,
    Deflate,
    PackBits,
    Zstd,
    /// Bilevel, CCITT Group 4.
    Group4,
    /// Each strip is a JPEG stream; unpacked by [`super::jpeg_chunk`].
    Jpeg,
}

impl Compression {
    /// The method of a number of the tag `Compression`, or what to call it where it is not read.
    pub(super) fn from_tag(number: u64) -> Result<Self, &'static str> {
        Ok(match number {
            1 => Self::None,
            4 => Self::Group4,
            5 => Self::Lzw,
            7 => Self::Jpeg,
            8 | 32_946 => Self::Deflate,
            32_773 => Self::PackBits,
            50_000 => Self::Zstd,
            2 => return Err("CCITT run lengths"),
            3 => return Err("CCITT Group 3"),
            6 => return Err("old-style JPEG"),
            9 | 10 => return Err("JBIG"),
            22_610 | 34_934 => return Err("JPEG XR"),
            32_766 => return Err("NeXT run lengths"),
            32_771 => return Err("CCITT run lengths by words"),
            32_809 => return Err("ThunderScan"),
            32_867 => return Err("Kodak KDC"),
            32_908 | 32_909 => return Err("Pixar's methods"),
            32_947 => return Err("Kodak DCS"),
            33_003..=33_005 | 34_712 => return Err("JPEG 2000"),
            34_661 => return Err("JBIG"),
            34_676 | 34_677 => return Err("SGI's LogLuv"),
            34_713 => return Err("Nikon NEF"),
            34_887 => return Err("LERC"),
            34_892 => return Err("lossy JPEG of DNG"),
            34_925 => return Err("LZMA"),
            50_001 | 34_927 => return Err("WebP"),
            50_002 | 52_546 => return Err("JPEG XL"),
            _ => return Err("a method that is not known"),
        })
    }

    /// Bytes that unpacking holds at most beside its output, for each byte of it.
    pub(super) fn scratch(self) -> u64 {
        match self {
            // A ring buffer of twice the size at most, and the one before while it grows.
            Self::Zstd => 3,
            _ => 0,
        }
    }

    /// Whether the predictor of a page applies to it.
    pub(super) fn has_predictor(self) -> bool {
        matches!(self, Self::Lzw | Self::Deflate | Self::Zstd)
    }
}

/// What a strip or tile is to be unpacked to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub row_bytes: usize,
    pub rows: usize,
    /// Rows that its writer may have stored.
    pub full_rows: usize,
    pub width_px: usize,
}

/// Unpacks the strip or tile at `place` of `bytes`; `is_reversed` says that the bits of each byte stand in reverse.
///
/// # Errors
/// [`DecodeError`] if the data does not give `size.rows` rows.
pub(super) fn unpack(
    compression: Compression,
    bytes: &[u8],
    place: Range<usize>,
    size: Size,
    is_reversed: bool,
    deadline: &Deadline,
) -> Result<Vec<u8>, DecodeError> {
    let start = place.start;
    let reversed: Vec<u8>;
    let mut data = &bytes[place];
    if is_reversed {
        reversed = data.iter().map(|byte| byte.reverse_bits()).collect();
        data = &reversed;
    }
    let expected = size.row_bytes * size.rows;
    if compression == Compression::None {
        let rows = data.get(..expected).ok_or_else(|| DecodeError::damaged(FORMAT, start, CUT_SHORT))?;
        return Ok(rows.to_vec());
    }
    let mut out = vec![0; expected];
    let is_filled = match compression {
        Compression::Lzw => unpack_lzw(data, &mut out, (start, size), deadline)?,
        Compression::Deflate => {
            ZlibDecoder::new(TimedReader::new(data, deadline)).read_exact(&mut out).is_ok()
        }
        Compression::PackBits => unpack_packbits(data, &mut out),
        Compression::Zstd => unpack_zstd(data, &mut out, size.row_bytes * size.full_rows, deadline).is_some(),
        Compression::Group4 => unpack_group4(data, &mut out, size, deadline)?,
        Compression::None | Compression::Jpeg => unreachable!("unpacked elsewhere"),
    };
    if is_filled { Ok(out) } else { Err(DecodeError::damaged(FORMAT, start, CUT_SHORT)) }
}

fn unpack_lzw(
    mut data: &[u8],
    out: &mut [u8],
    (start, size): (usize, Size),
    deadline: &Deadline,
) -> Result<bool, DecodeError> {
    // A code has at most 12 bits and gives a byte at least; the rest is codes that give nothing.
    let most = (4 * size.row_bytes).saturating_mul(size.full_rows).saturating_add(SPARE_LZW_BYTES);
    if data.len() > most {
        let what = "a strip holds more data than its picture can take";
        return Err(DecodeError::damaged(FORMAT, start, what));
    }
    // Before 1993 codes began with their lowest bit and grew one code later; libtiff knows them by the same two bytes.
    let is_old = matches!(data, [0, second, ..] if second & 1 == 1);
    let configuration = if is_old {
        Configuration::new(BitOrder::Lsb, 8)
    } else {
        Configuration::with_tiff_size_switch(BitOrder::Msb, 8)
    };
    let mut decoder = configuration.with_yield_on_full_buffer(true).build();
    let mut filled = 0;
    while filled < out.len() {
        deadline.check()?;
        let piece = &data[..data.len().min(LZW_BYTES_BETWEEN_LOOKS)];
        let step = decoder.decode_bytes(piece, &mut out[filled..]);
        data = &data[step.consumed_in..];
        filled += step.consumed_out;
        match step.status {
            Ok(LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
            _ => break,
        }
    }
    Ok(filled == out.len())
}

fn unpack_packbits(mut data: &[u8], out: &mut [u8]) -> bool {
    let mut filled = 0;
    while filled < out.len() {
        let room = out.len() - filled;
        match *data {
            [128, ref rest @ ..] => data = rest,
            [head @ 0..128, ref rest @ ..] => {
                let count = usize::from(head) + 1;
                let Some(literal) = rest.get(..count.min(room)) else { return false };
                out[filled..filled + literal.len()].copy_from_slice(literal);
                filled += literal.len();
                data = &rest[literal.len()..];
            }
            [head, value, ref rest @ ..] => {
                let count = (257 - usize::from(head)).min(room);
                out[filled..filled + count].fill(value);
                filled += count;
                data = rest;
            }
            _ => return false,
        }
    }
    true
}

/// `most` bytes may be stored; what is more than `out` is dropped.
fn unpack_zstd(data: &[u8], out: &mut [u8], most: usize, deadline: &Deadline) -> Option<()> {
    /// Encoders close a frame with an empty block, or two.
    const CLOSING_BLOCKS: usize = 3;

    let mut source = TimedReader::new(data, deadline);
    let mut decoder = FrameDecoder::new();
    decoder.init(&mut source).ok()?;
    let mut strategy = BlockDecodingStrategy::UptoBytes(most);
    for _ in 0..=CLOSING_BLOCKS {
        if decoder.decode_blocks(&mut source, strategy).ok()? {
            return decoder.read_exact(out).ok();
        }
        strategy = BlockDecodingStrategy::UptoBlocks(1);
    }
    None
}

fn unpack_group4(data: &[u8], out: &mut [u8], size: Size, deadline: &Deadline) -> Result<bool, DecodeError> {
    let Ok(width) = u16::try_from(size.width_px) else {
        return Err(DecodeError::unsupported("a TIFF file of CCITT Group 4 more than 65,535 pixels wide"));
    };
    let input = data.iter().map(|&byte| Ok::<u8, std::convert::Infallible>(byte));
    let Ok(mut decoder) = Group4Decoder::new(input, width);
    for row in out.chunks_exact_mut(size.row_bytes) {
        deadline.check()?;
        match decoder.advance() {
            Ok(DecodeStatus::Incomplete) => {}
            Ok(DecodeStatus::End) | Err(_) => return Ok(false),
        }
        // A row is white up to its first change, then black, then white.
        let mut changes = decoder.transition().iter().map(|&at| usize::from(at).min(size.width_px));
        while let Some(from) = changes.next() {
            for x in from..changes.next().unwrap_or(size.width_px) {
                row[x / 8] |= 0x80 >> (x % 8);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(bytes: usize) -> Size {
        Size { row_bytes: bytes, rows: 1, full_rows: 1, width_px: bytes }
    }

    fn unpacked(compression: Compression, data: &[u8], bytes: usize) -> Result<Vec<u8>, DecodeError> {
        let never = Deadline::new(None);
        unpack(compression, data, 0..data.len(), size(bytes), false, &never)
    }

    #[test]
    fn packbits_is_read_as_its_specification_shows_it() {
        let packed = b"\xfe\xaa\x02\x80\x00\x2a\xfd\xaa\x03\x80\x00\x2a\x22\xf7\xaa";
        let plain = b"\xaa\xaa\xaa\x80\x00\x2a\xaa\xaa\xaa\xaa\x80\x00\x2a\x22\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa";
        assert_eq!(unpacked(Compression::PackBits, packed, 24).unwrap(), plain);
        // A run may reach beyond the strip, but a strip may not be short.
        assert_eq!(unpacked(Compression::PackBits, packed, 20).unwrap(), plain[..20]);
        assert!(unpacked(Compression::PackBits, packed, 25).is_err());
        assert!(unpacked(Compression::PackBits, b"\x80\x80\x05ab", 6).is_err());
    }

    #[test]
    fn both_styles_of_lzw_are_read() {
        // Clear, 'A', 'B', the pair AB, end; nine bits each, from the highest and from the lowest.
        let codes = [256_u16, 65, 66, 258, 257];
        let bits = |code: u16, at: u16| code >> at & 1 == 1;
        let high: Vec<bool> =
            codes.iter().flat_map(|&code| (0..9).rev().map(move |at| bits(code, at))).collect();
        let low: Vec<bool> = codes.iter().flat_map(|&code| (0..9).map(move |at| bits(code, at))).collect();
        let pack = |bits: &[bool], is_low: bool| {
            let byte = |chunk: &[bool]| {
                chunk
                    .iter()
                    .enumerate()
                    .fold(0_u8, |byte, (at, &bit)| byte | u8::from(bit) << if is_low { at } else { 7 - at })
            };
            bits.chunks(8).map(byte).collect::<Vec<u8>>()
        };
        assert_eq!(unpacked(Compression::Lzw, &pack(&high, false), 4).unwrap(), b"ABAB");
        assert_eq!(unpacked(Compression::Lzw, &pack(&low, true), 4).unwrap(), b"ABAB");
        assert!(unpacked(Compression::Lzw, &pack(&high, false), 5).is_err());
    }

    #[test]
    fn a_strip_holds_the_bits_in_the_order_that_the_file_states() {
        let never = Deadline::new(None);
        let rows = unpack(Compression::None, &[0b0000_0001, 0b1100_0000], 0..2, size(2), true, &never);
        assert_eq!(rows.unwrap(), [0b1000_0000, 0b0000_0011]);
    }

    #[test]
    fn methods_are_known_by_their_numbers() {
        assert_eq!(Compression::from_tag(50_000), Ok(Compression::Zstd));
        assert_eq!(Compression::from_tag(34_887), Err("LERC"));
        assert_eq!(Compression::from_tag(12_345), Err("a method that is not known"));
    }
}
