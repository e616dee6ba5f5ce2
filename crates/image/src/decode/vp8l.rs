//! How much memory the prefix codes of a lossless WebP take, counted before its decoder builds them.
//!
//! A picture of a few pixels may declare 65,536 groups of five codes, which are 1.3 GB of tables from a file of 3 MB, and
//! the decoder has no limit for them. So the head of each lossless stream that will be decoded (the picture, or the
//! alpha plane of a lossy one) is read here up to its pixels, as the WebP Lossless specification lays it out: transforms
//! and the image of code groups in full, codes by their lengths. Never makes a pixel of the picture.
//!
//! What is counted is at least what the decoder will hold. A stream that cannot be read ends the count, as it ends the
//! decoder. Memory: a quarter of a byte for each pixel of the picture, and 64 KB for each of five codes.

use super::deadline::{Deadline, OutOfTime};

/// Symbols of the five codes of a group, without those of a colour cache: green and lengths, red, blue, alpha, distance.
const ALPHABETS: [usize; 5] = [280, 256, 256, 256, 40];
/// Codes up to this length are in a table of the decoder, the longer in a tree.
const TABLE_BITS: usize = 10;
const TABLE_ENTRY_BYTES: u64 = 4;
const TREE_NODE_BYTES: u64 = 16;
/// Allocations of a code, rounded up.
const CODE_OVERHEAD_BYTES: u64 = 96;
/// Five codes without their tables, three times: a list that grows holds its old and its doubled self.
const GROUP_BYTES: u64 = 3 * 5 * 56;

/// The order in which lengths of the code of lengths are written.
const LENGTH_ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Why the count ended before its end.
enum Stop {
    /// The stream cannot be read any further, by whomever.
    Unreadable,
    /// It is too much already.
    Enough,
    OutOfTime,
}

impl From<OutOfTime> for Stop {
    fn from(OutOfTime: OutOfTime) -> Self {
        Self::OutOfTime
    }
}

/// Bytes that the codes of the largest lossless stream take, counted until they exceed `limit_bytes`; `file` is a WebP
/// whose chunks were walked.
///
/// # Errors
/// [`OutOfTime`] at the deadline.
pub(super) fn table_bytes(file: &[u8], limit_bytes: u64, deadline: &Deadline) -> Result<u64, OutOfTime> {
    let mut most = 0;
    for (data, implicit_size) in streams(file) {
        let mut reader = Reader { data, at: 0, deadline, table_bytes: 0, limit_bytes };
        if let Err(Stop::OutOfTime) = reader.read_head(implicit_size) {
            return Err(OutOfTime);
        }
        most = most.max(reader.table_bytes);
    }
    Ok(most)
}

type Stream<'a> = (&'a [u8], Option<(u32, u32)>);

/// The streams that a decoder may choose from, with the size of those that do not say it themselves: the first of each
/// kind beside frames, and the first of each kind in the first frame.
fn streams(file: &[u8]) -> impl Iterator<Item = Stream<'_>> {
    let number = |at: usize, bytes: usize| {
        let field = file.get(at..at.saturating_add(bytes)).unwrap_or_default();
        field.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    };
    let (mut plain, mut framed): ([Option<Stream>; 2], [Option<Stream>; 2]) = ([None; 2], [None; 2]);
    let (mut canvas, mut frame_end, mut at) = ((0, 0), 0, 12_usize);
    while let Some(kind) = file.get(at..at + 4) {
        let body = at + 8;
        let length = number(at + 4, 4) as usize;
        let end = body.saturating_add(length).min(file.len());
        let found = if at < frame_end { &mut framed } else { &mut plain };
        match kind {
            b"VP8X" => canvas = (number(body + 4, 3) + 1, number(body + 7, 3) + 1),
            b"VP8L" => drop(found[0].get_or_insert((&file[body.min(end)..end], None))),
            // The first two bits say whether the plane is compressed; its size is that of the picture.
            b"ALPH" if number(body, 1) & 3 == 1 => {
                found[1].get_or_insert((&file[(body + 1).min(end)..end], Some(canvas)));
            }
            b"ANMF" if frame_end == 0 => {
                frame_end = end;
                canvas = (number(body + 6, 3) + 1, number(body + 9, 3) + 1);
                at = body + 16;
                continue;
            }
            _ => {}
        }
        at = end.saturating_add(length & 1);
    }
    plain.into_iter().chain(framed).flatten()
}

/// A prefix code as it is written.
enum WrittenCode {
    /// One symbol, which takes no bits, or two of one bit each, in the order in which they are written.
    Simple(usize, Option<usize>),
    /// The length of each symbol's code; symbols of length 0 do not occur.
    Lengths(Vec<u8>),
}

impl WrittenCode {
    /// What the decoder holds for it.
    fn decoder_bytes(&self) -> u64 {
        let lengths = match self {
            Self::Simple(..) => return CODE_OVERHEAD_BYTES,
            Self::Lengths(lengths) => lengths,
        };
        let longest = usize::from(lengths.iter().copied().max().unwrap_or(0));
        let in_tree = lengths.iter().filter(|&&length| usize::from(length) > TABLE_BITS).count() as u64;
        CODE_OVERHEAD_BYTES + (TABLE_ENTRY_BYTES << longest.min(TABLE_BITS)) + 2 * TREE_NODE_BYTES * in_tree
    }
}

/// A prefix code to read with: for each value of as many bits as its longest code has, length << 12 | symbol.
struct Code(Vec<u16>);

impl Code {
    /// None if it is not complete.
    fn new(written: &WrittenCode) -> Option<Self> {
        let pack = |length: u8, symbol: usize| u16::from(length) << 12 | u16::try_from(symbol).unwrap_or(0);
        let alone = |symbol| Some(Self(vec![pack(0, symbol)]));
        let lengths = match written {
            WrittenCode::Simple(symbol, None) => return alone(*symbol),
            WrittenCode::Simple(zero, Some(one)) => {
                return Some(Self(vec![pack(1, *zero), pack(1, *one)]));
            }
            WrittenCode::Lengths(lengths) => lengths,
        };
        if lengths.iter().filter(|&&length| length > 0).count() <= 1 {
            return alone(lengths.iter().position(|&length| length > 0)?);
        }
        let longest = lengths.iter().copied().max()?;
        let mut table = vec![0; 1 << longest];
        let (mut code, mut filled) = (0_usize, 0_usize);
        for length in 1..=longest {
            for (symbol, _) in lengths.iter().enumerate().filter(|&(_, &found)| found == length) {
                if code >> length != 0 {
                    return None;
                }
                // Codes are written from their highest bit, into bits that are taken from the lowest.
                let first = code.reverse_bits() >> (usize::BITS - u32::from(length));
                for entry in table.iter_mut().skip(first).step_by(1 << length) {
                    *entry = pack(length, symbol);
                    filled += 1;
                }
                code += 1;
            }
            code <<= 1;
        }
        (filled == table.len()).then_some(Self(table))
    }
}

struct Reader<'a> {
    data: &'a [u8],
    /// In bits.
    at: usize,
    deadline: &'a Deadline,
    table_bytes: u64,
    limit_bytes: u64,
}

impl Reader<'_> {
    /// The next bits, lowest first, with zeros behind the end.
    fn peek(&self) -> u64 {
        let rest = self.data.get(self.at / 8..).unwrap_or_default();
        let mut word = [0; 8];
        let count = rest.len().min(8);
        word[..count].copy_from_slice(&rest[..count]);
        u64::from_le_bytes(word) >> (self.at % 8)
    }

    fn skip(&mut self, bits: usize) -> Result<(), Stop> {
        self.at += bits;
        if self.at > self.data.len() * 8 { Err(Stop::Unreadable) } else { Ok(()) }
    }

    /// The next `count` bits, at most 32.
    fn bits(&mut self, count: usize) -> Result<usize, Stop> {
        let value = self.peek() & ((1 << count) - 1);
        self.skip(count)?;
        usize::try_from(value).map_err(|_| Stop::Unreadable)
    }

    fn symbol(&mut self, code: &Code) -> Result<usize, Stop> {
        let entry = code.0[self.peek() as usize & (code.0.len() - 1)];
        self.skip(usize::from(entry >> 12))?;
        Ok(usize::from(entry & 0xFFF))
    }

    /// Reads up to the pixels of the picture.
    fn read_head(&mut self, implicit_size: Option<(u32, u32)>) -> Result<(), Stop> {
        let (mut width, height) = match implicit_size {
            Some((width, height)) => (width as usize, height as usize),
            None => {
                self.bits(8)?;
                let size = (self.bits(14)? + 1, self.bits(14)? + 1);
                self.bits(4)?;
                size
            }
        };
        let mut seen = [false; 4];
        while self.bits(1)? == 1 {
            let kind = self.bits(2)?;
            if std::mem::replace(&mut seen[kind], true) {
                return Err(Stop::Unreadable);
            }
            match kind {
                // Predictors and colour: one pixel for each square of the picture.
                0 | 1 => {
                    let side = self.bits(3)? + 2;
                    self.read_image(width.div_ceil(1 << side), height.div_ceil(1 << side))?;
                }
                2 => {}
                // A palette; few colours are packed, several in a pixel.
                _ => {
                    let colors = self.bits(8)? + 1;
                    self.read_image(colors, 1)?;
                    let packed = match colors {
                        0..=2 => 3,
                        3..=4 => 2,
                        5..=16 => 1,
                        _ => 0,
                    };
                    width = width.div_ceil(1 << packed);
                }
            }
        }
        let cache_bits = self.cache_bits()?;
        let mut groups = 1;
        if self.bits(1)? == 1 {
            let side = self.bits(3)? + 2;
            let image = self.read_image(width.div_ceil(1 << side), height.div_ceil(1 << side))?;
            let last = image.iter().map(|pixel| pixel >> 8 & 0xFFFF).max().unwrap_or(0);
            groups += last;
            // The image itself, and the numbers taken from it.
            self.table_bytes += 6 * image.len() as u64;
        }
        for _ in 0..groups {
            self.deadline.check()?;
            if self.table_bytes > self.limit_bytes {
                return Err(Stop::Enough);
            }
            self.table_bytes += GROUP_BYTES;
            for alphabet in alphabets(cache_bits) {
                self.table_bytes += self.read_code(alphabet)?.decoder_bytes();
            }
        }
        Ok(())
    }

    fn cache_bits(&mut self) -> Result<usize, Stop> {
        if self.bits(1)? == 0 {
            return Ok(0);
        }
        match self.bits(4)? {
            bits @ 1..=11 => Ok(bits),
            _ => Err(Stop::Unreadable),
        }
    }

    /// One code for symbols below `alphabet`.
    fn read_code(&mut self, alphabet: usize) -> Result<WrittenCode, Stop> {
        let known = |symbol| if symbol < alphabet { Ok(symbol) } else { Err(Stop::Unreadable) };
        if self.bits(1)? == 1 {
            let has_second = self.bits(1)? == 1;
            let width = if self.bits(1)? == 1 { 8 } else { 1 };
            let first = known(self.bits(width)?)?;
            let second = if has_second { Some(known(self.bits(8)?)?) } else { None };
            return Ok(WrittenCode::Simple(first, second));
        }
        let mut lengths_of_lengths = vec![0; LENGTH_ORDER.len()];
        for place in LENGTH_ORDER.iter().take(4 + self.bits(4)?) {
            lengths_of_lengths[*place] = u8::try_from(self.bits(3)?).expect("three bits");
        }
        let code = Code::new(&WrittenCode::Lengths(lengths_of_lengths)).ok_or(Stop::Unreadable)?;
        let mut lengths = vec![0_u8; alphabet];
        let mut left = alphabet;
        if self.bits(1)? == 1 {
            let width = 2 + 2 * self.bits(3)?;
            left = 2 + self.bits(width)?;
            if left > alphabet {
                return Err(Stop::Unreadable);
            }
        }
        let (mut symbol, mut previous) = (0, 8);
        while symbol < alphabet && left > 0 {
            left -= 1;
            let (length, repeat) = match self.symbol(&code)? {
                16 => (previous, self.bits(2)? + 3),
                17 => (0, self.bits(3)? + 3),
                18 => (0, self.bits(7)? + 11),
                length => (u8::try_from(length).expect("below 16"), 1),
            };
            lengths.get_mut(symbol..symbol + repeat).ok_or(Stop::Unreadable)?.fill(length);
            symbol += repeat;
            if length > 0 {
                previous = length;
            }
        }
        Ok(WrittenCode::Lengths(lengths))
    }

    /// An image beside the picture, whole, as alpha << 24 | red << 16 | green << 8 | blue.
    fn read_image(&mut self, width: usize, height: usize) -> Result<Vec<u32>, Stop> {
        let cache_bits = self.cache_bits()?;
        let mut codes = Vec::with_capacity(5);
        for alphabet in alphabets(cache_bits) {
            codes.push(Code::new(&self.read_code(alphabet)?).ok_or(Stop::Unreadable)?);
        }
        let [green, red, blue, alpha, distance] = &codes[..] else { unreachable!("five alphabets") };
        let mut cache = vec![0_u32; if cache_bits > 0 { 1 << cache_bits } else { 0 }];
        let place = |pixel: u32| (pixel.wrapping_mul(0x1E35_A7BD) >> (32 - cache_bits)) as usize;
        let total = width * height;
        let mut pixels: Vec<u32> = Vec::with_capacity(total);
        let mut until_look = 0;
        while pixels.len() < total {
            if until_look == 0 {
                self.deadline.check()?;
                until_look = 4096;
            }
            until_look -= 1;
            let start = pixels.len();
            match self.symbol(green)? {
                literal @ 0..256 => {
                    let mut channel = |code| self.symbol(code).map(|value| value as u32);
                    let (red, blue, alpha) = (channel(red)?, channel(blue)?, channel(alpha)?);
                    pixels.push(alpha << 24 | red << 16 | (literal as u32) << 8 | blue);
                }
                prefix @ 256..280 => {
                    let length = self.distance(prefix - 256)?;
                    let prefix = self.symbol(distance)?;
                    let back = plane_distance(width, self.distance(prefix)?);
                    if back > start || length > total - start {
                        return Err(Stop::Unreadable);
                    }
                    for at in start - back..start - back + length {
                        pixels.push(pixels[at]);
                    }
                }
                cached => pixels.push(*cache.get(cached - 280).ok_or(Stop::Unreadable)?),
            }
            if !cache.is_empty() {
                for &pixel in &pixels[start..] {
                    cache[place(pixel)] = pixel;
                }
            }
        }
        Ok(pixels)
    }

    /// A length or a distance from its prefix and the bits after it.
    fn distance(&mut self, prefix: usize) -> Result<usize, Stop> {
        if prefix < 4 {
            return Ok(prefix + 1);
        }
        let extra = (prefix - 2) / 2;
        Ok(((2 + prefix % 2) << extra) + self.bits(extra)? + 1)
    }
}

fn alphabets(cache_bits: usize) -> [usize; 5] {
    let mut alphabets = ALPHABETS;
    if cache_bits > 0 {
        alphabets[0] += 1 << cache_bits;
    }
    alphabets
}

/// The first 120 distances are places around a pixel, the others go back along the rows.
fn plane_distance(width: usize, code: usize) -> usize {
    if code > 120 {
        return code - 120;
    }
    let (across, up) = NEIGHBOURS[code - 1];
    usize::try_from(i64::from(across) + i64::from(up) * width as i64).unwrap_or(0).max(1)
}

/// As in the specification: columns to the left, rows up, the nearest first.
#[rustfmt::skip]
const NEIGHBOURS: [(i8, i8); 120] = [
    (0, 1), (1, 0), (1, 1), (-1, 1), (0, 2), (2, 0), (1, 2), (-1, 2), (2, 1), (-2, 1), (2, 2), (-2, 2),
    (0, 3), (3, 0), (1, 3), (-1, 3), (3, 1), (-3, 1), (2, 3), (-2, 3), (3, 2), (-3, 2), (0, 4), (4, 0),
    (1, 4), (-1, 4), (4, 1), (-4, 1), (3, 3), (-3, 3), (2, 4), (-2, 4), (4, 2), (-4, 2), (0, 5), (3, 4),
    (-3, 4), (4, 3), (-4, 3), (5, 0), (1, 5), (-1, 5), (5, 1), (-5, 1), (2, 5), (-2, 5), (5, 2), (-5, 2),
    (4, 4), (-4, 4), (3, 5), (-3, 5), (5, 3), (-5, 3), (0, 6), (6, 0), (1, 6), (-1, 6), (6, 1), (-6, 1),
    (2, 6), (-2, 6), (6, 2), (-6, 2), (4, 5), (-4, 5), (5, 4), (-5, 4), (3, 6), (-3, 6), (6, 3), (-6, 3),
    (0, 7), (7, 0), (1, 7), (-1, 7), (5, 5), (-5, 5), (7, 1), (-7, 1), (4, 6), (-4, 6), (6, 4), (-6, 4),
    (2, 7), (-2, 7), (7, 2), (-7, 2), (3, 7), (-3, 7), (7, 3), (-7, 3), (5, 6), (-5, 6), (6, 5), (-6, 5),
    (8, 0), (4, 7), (-4, 7), (7, 4), (-7, 4), (8, 1), (8, 2), (6, 6), (-6, 6), (8, 3), (5, 7), (-5, 7),
    (7, 5), (-7, 5), (8, 4), (6, 7), (-6, 7), (7, 6), (-7, 6), (8, 5), (7, 7), (-7, 7), (8, 6), (8, 7),
];

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = include_bytes!("../../../../tests/data/images/webp_lossless.webp");

    #[test]
    fn the_head_of_a_whole_picture_is_read_to_its_end() {
        let never = Deadline::new(None);
        let streams: Vec<Stream> = streams(PLAIN).collect();
        let [(data, None)] = streams[..] else { panic!("one stream, which says its size") };
        let mut reader = Reader { data, at: 0, deadline: &never, table_bytes: 0, limit_bytes: u64::MAX };
        assert!(reader.read_head(None).is_ok());
        assert!(reader.at < data.len() * 8 && reader.table_bytes > GROUP_BYTES);
        // Cut short it is counted as far as it goes.
        for end in 20..PLAIN.len() {
            assert!(table_bytes(&PLAIN[..end], u64::MAX, &never).unwrap() <= reader.table_bytes);
        }
    }

    #[test]
    fn a_code_reads_its_symbols_from_the_lowest_bit() {
        let code = Code::new(&WrittenCode::Lengths(vec![1, 0, 2, 2])).unwrap();
        let never = Deadline::new(None);
        // 0; 10 and 11, each from its first bit on.
        let mut reader = Reader {
            data: &[0b0001_1010, 0],
            at: 0,
            deadline: &never,
            table_bytes: 0,
            limit_bytes: u64::MAX,
        };
        let read = [(); 3].map(|()| reader.symbol(&code).unwrap_or(99));
        assert_eq!(read, [0, 2, 3]);
        assert!(Code::new(&WrittenCode::Lengths(vec![1, 2])).is_none(), "incomplete");
        assert!(Code::new(&WrittenCode::Lengths(vec![1, 1, 1])).is_none(), "too full");
    }

    #[test]
    fn long_codes_cost_more_than_short_ones() {
        let chain: Vec<u8> = (1..=15).chain([15]).collect();
        assert_eq!(
            WrittenCode::Lengths(chain).decoder_bytes(),
            CODE_OVERHEAD_BYTES + 4096 + 2 * TREE_NODE_BYTES * 6
        );
        assert_eq!(WrittenCode::Lengths(vec![1, 1]).decoder_bytes(), CODE_OVERHEAD_BYTES + 8);
        assert_eq!(WrittenCode::Simple(3, Some(4)).decoder_bytes(), CODE_OVERHEAD_BYTES);
    }
}
