//! Bits and Huffman codes of a JPEG scan, for [`super::jpeg`].
//!
//! Reads no bit past the end of a scan: where a decoder would go on with zeros, this reports what is missing.

use super::jpeg::Fault;

const FAST_BITS: u32 = 10;

/// A canonical Huffman table (ITU-T T.81, annex C).
#[derive(Debug)]
pub(super) struct Huffman {
    /// For each value of the next `FAST_BITS` bits: length << 8 | symbol, or 0 if the code is longer.
    fast: Box<[u16; 1 << FAST_BITS]>,
    /// Per code length: one past the largest code of that length, aligned to 16 bits.
    limit: [u32; 17],
    /// Per code length: index of the first symbol minus its first code.
    offset: [i32; 17],
    symbols: Box<[u8]>,
}

impl Huffman {
    /// Builds a table from the number of codes of each length (1 to 16 bits) and the symbols in order of their codes;
    /// `None` if there are more codes than a length can hold.
    pub(super) fn new(counts: &[u8], symbols: &[u8]) -> Option<Self> {
        let mut fast = Box::new([0_u16; 1 << FAST_BITS]);
        let (mut limit, mut offset) = ([0; 17], [0; 17]);
        let (mut code, mut index) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            let count = usize::from(counts[length as usize - 1]);
            offset[length as usize] = i32::try_from(index).ok()? - i32::try_from(code).ok()?;
            for &symbol in symbols.get(index..index + count)? {
                if code >> length != 0 {
                    return None;
                }
                if length <= FAST_BITS {
                    let spare = FAST_BITS - length;
                    let from = (code as usize) << spare;
                    let entry = u16::try_from(length << 8).ok()? | u16::from(symbol);
                    fast[from..from + (1 << spare)].fill(entry);
                }
                code += 1;
            }
            index += count;
            limit[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(Self { fast, limit, offset, symbols: symbols.into() })
    }
}

/// Number of codes of each length, and symbols, of the tables of ITU-T T.81, K.3: DC and AC of luminance, then of chrominance.
const STANDARD_DC: [(&[u8; 16], &[u8]); 2] = [
    (&[0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    (&[0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
];
const STANDARD_AC: [(&[u8; 16], &[u8]); 2] = [
    (
        &[0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
        &[
            0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
            0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0,
            0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28,
            0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
            0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
            0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
            0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
            0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5,
            0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
            0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
            0xf9, 0xfa,
        ],
    ),
    (
        &[0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119],
        &[
            0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
            0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0,
            0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26,
            0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
            0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
            0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
            0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5,
            0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
            0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
            0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
            0xf9, 0xfa,
        ],
    ),
];

/// Puts the standard's tables where a file has none, as frames of cameras that film have not.
pub(super) fn fill_in_standard(dc: &mut [Option<Huffman>; 4], ac: &mut [Option<Huffman>; 4]) {
    for (tables, standard) in [(dc, STANDARD_DC), (ac, STANDARD_AC)] {
        for (table, (counts, symbols)) in tables.iter_mut().zip(standard) {
            if table.is_none() {
                *table = Huffman::new(counts, symbols);
            }
        }
    }
}

/// The bits of one scan, with stuffed zero bytes removed.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Next byte to take in.
    at: usize,
    /// Bits taken in and not yet used, aligned to the top.
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Starts with the byte at `at`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, count: 0 }
    }

    #[inline]
    fn fill(&mut self) {
        // Eight bytes at once, where none of them can be a marker.
        if let Some(chunk) = self.bytes.get(self.at..self.at + 8) {
            let word = u64::from_be_bytes(chunk.try_into().expect("eight bytes"));
            let inverted = !word;
            let has_ff = inverted.wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 != 0;
            if !has_ff {
                let taken = (64 - self.count) / 8;
                self.buffer |= word.checked_shr(self.count).unwrap_or(0);
                self.count += taken * 8;
                // The word's tail below the whole bytes taken would be counted twice.
                if self.count < 64 {
                    self.buffer &= !(u64::MAX >> self.count);
                }
                self.at += taken as usize;
                return;
            }
        }
        self.fill_bytewise();
    }

    /// Takes in bytes one by one, up to a marker or the end of the file.
    #[cold]
    #[inline(never)]
    fn fill_bytewise(&mut self) {
        while self.count <= 56 {
            let byte = match self.bytes.get(self.at..) {
                Some(&[0xFF, 0x00, ..]) => {
                    self.at += 2;
                    0xFF
                }
                Some(&[byte, ..]) if byte != 0xFF => {
                    self.at += 1;
                    byte
                }
                // The end of the file, or a marker.
                _ => return,
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Why there are no more bits.
    #[cold]
    fn exhausted(&self) -> Fault {
        // A single FF at the very end is the first half of something that was cut off.
        if self.at + 1 >= self.bytes.len() {
            Fault::EndsEarly
        } else {
            self.damaged("the picture data stops early")
        }
    }

    #[cold]
    pub(super) fn damaged(&self, what: &'static str) -> Fault {
        Fault::Damaged { at: self.at, what }
    }

    /// The symbol of the next code, and the value in the bits that its lower half announces (ITU-T T.81, F.2.2.1), at most
    /// 15: one check of what is left for both, since this is what nearly all time is spent on.
    #[inline]
    pub(super) fn decode(&mut self, table: &Huffman) -> Result<(u8, i32), Fault> {
        self.decode_and_read(table, |symbol| u32::from(symbol & 15))
    }

    /// The symbol of the next code alone.
    #[inline]
    pub(super) fn decode_symbol(&mut self, table: &Huffman) -> Result<u8, Fault> {
        Ok(self.decode_and_read(table, |_| 0)?.0)
    }

    #[inline(always)]
    fn decode_and_read(&mut self, table: &Huffman, size: impl Fn(u8) -> u32) -> Result<(u8, i32), Fault> {
        if self.count < 32 {
            self.fill();
        }
        let entry = table.fast[(self.buffer >> (64 - FAST_BITS)) as usize];
        let (length, symbol) = if entry != 0 {
            (u32::from(entry >> 8), entry.to_le_bytes()[0])
        } else {
            self.decode_long(table)?
        };
        let size = size(symbol);
        if length + size > self.count {
            return Err(self.exhausted());
        }
        // In two steps, as a shift by all 64 bits is none.
        let bits = ((self.buffer << length) >> 1 >> (63 - size)) as i32;
        self.buffer <<= length + size;
        self.count -= length + size;
        // A value whose first bit is 0 is negative.
        let value = if size > 0 && bits >> (size - 1) == 0 { bits - (1 << size) + 1 } else { bits };
        Ok((symbol, value))
    }

    #[cold]
    fn decode_long(&self, table: &Huffman) -> Result<(u32, u8), Fault> {
        let next = (self.buffer >> 48) as u32;
        for length in FAST_BITS + 1..=16 {
            if next < table.limit[length as usize] {
                let code = i64::from(next >> (16 - length));
                let index = usize::try_from(code + i64::from(table.offset[length as usize])).ok();
                if let Some(&symbol) = index.and_then(|index| table.symbols.get(index)) {
                    return Ok((length, symbol));
                }
            }
        }
        // Padding after the last bit is not a code either, so a stream that simply ends is reported as such.
        Err(if self.count < 16 { self.exhausted() } else { self.damaged("a code does not exist") })
    }

    /// The next `count` bits as a number, at most 16.
    #[inline]
    pub(super) fn read(&mut self, count: u32) -> Result<u32, Fault> {
        if self.count < count {
            self.fill();
            if self.count < count {
                return Err(self.exhausted());
            }
        }
        let value = (self.buffer >> 1 >> (63 - count)) as u32;
        self.buffer <<= count;
        self.count -= count;
        Ok(value)
    }

    /// Passes the restart marker that must stand here, and drops the bits that pad up to it.
    pub(super) fn pass_restart(&mut self, number: u8) -> Result<(), Fault> {
        self.fill();
        if self.count >= 8 {
            return Err(self.damaged("a restart marker is missing"));
        }
        while self.bytes.get(self.at..).is_some_and(|tail| tail.starts_with(&[0xFF, 0xFF])) {
            self.at += 1;
        }
        match self.bytes.get(self.at..) {
            Some(&[0xFF, marker, ..]) if marker == 0xD0 + number => {
                self.at += 2;
                (self.buffer, self.count) = (0, 0);
                Ok(())
            }
            Some([0xFF, _, ..]) => {
                Err(self.damaged("a part of the picture is missing (restart marker out of order)"))
            }
            _ => Err(Fault::EndsEarly),
        }
    }

    /// Where the bytes begin that were not used. Whole bytes taken in ahead are given back; a stuffed zero is passed
    /// over by whoever looks for the next marker.
    pub(super) fn position_after(&self) -> usize {
        let mut at = self.at;
        for _ in 0..self.count / 8 {
            at -= 1;
            if at > 0 && self.bytes[at] == 0 && self.bytes[at - 1] == 0xFF {
                at -= 1;
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of ITU-T T.81, table K.3: DC differences of luminance.
    fn table() -> Huffman {
        let counts = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
        Huffman::new(&counts, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]).unwrap()
    }

    #[test]
    fn codes_of_the_standard_are_read() {
        // 00 -> 0, 010 -> 1, 110 -> 5, 1110 -> 6, 111111110 -> 11, then seven ones of padding.
        let bytes = [0b0001_0110, 0b1110_1111, 0b1111_0111, 0b1111_1111, 0x00];
        let mut bits = Bits::new(&bytes, 0);
        let table = table();
        let symbols: Vec<u8> = (0..5).map(|_| bits.decode_symbol(&table).unwrap()).collect();
        assert_eq!(symbols, [0, 1, 5, 6, 11]);
    }

    #[test]
    fn codes_longer_than_the_fast_table_are_read() {
        // One code of each length from 1 to 16: 0, 10, 110, ...
        let symbols: Vec<u8> = (100..116).collect();
        let table = Huffman::new(&[1; 16], &symbols).unwrap();
        let bytes = [0xFF, 0x00, 0xFE, 0b1111_1111, 0x00, 0b1110_0000];
        let mut bits = Bits::new(&bytes, 0);
        assert_eq!(bits.decode_symbol(&table), Ok(115));
        assert_eq!(bits.decode_symbol(&table), Ok(111));
    }

    #[test]
    fn too_many_codes_of_a_length_are_refused() {
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Huffman::new(&counts, &[1, 2, 3]).is_none());
    }

    #[test]
    fn the_end_of_the_file_and_a_marker_are_told_apart() {
        let table = table();
        let mut bits = Bits::new(&[0b0000_0000], 0);
        for _ in 0..4 {
            bits.decode_symbol(&table).unwrap();
        }
        assert_eq!(bits.decode_symbol(&table), Err(Fault::EndsEarly));

        let mut bits = Bits::new(&[0b0000_0000, 0xFF, 0xD9], 0);
        for _ in 0..4 {
            bits.decode_symbol(&table).unwrap();
        }
        assert_eq!(
            bits.decode_symbol(&table),
            Err(Fault::Damaged { at: 1, what: "the picture data stops early" })
        );
    }

    #[test]
    fn values_are_extended_to_their_sign() {
        // 011 -> size 2, then 10 -> 2; 011, 01 -> -2; 011, 00 -> -3; then ones.
        let bytes = [0b0111_0011, 0b0101_1001, 0b1111_1111, 0x00];
        let mut bits = Bits::new(&bytes, 0);
        let values: Vec<(u8, i32)> = (0..3).map(|_| bits.decode(&table()).unwrap()).collect();
        assert_eq!(values, [(2, 2), (2, -2), (2, -3)]);
    }

    #[test]
    fn whole_bytes_that_were_not_used_are_given_back() {
        let bytes = [0xFF, 0x00, 0xAA, 0xFF, 0x00, 0x12, 0x34, 0x56, 0xFF, 0xD9];
        let mut bits = Bits::new(&bytes, 0);
        bits.read(9).unwrap();
        assert_eq!(bits.position_after(), 3);
        bits.read(8).unwrap();
        assert_eq!(bits.position_after(), 5);
    }
}
