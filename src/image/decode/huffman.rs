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

    /// The symbol of the next code.
    #[inline]
    pub(super) fn decode(&mut self, table: &Huffman) -> Result<u8, Fault> {
        self.decode_and_skip(table, |_| 0)
    }

    /// The symbol of the next code, after passing over the bits that it announces (`extra`, at most 16): one check of
    /// what is left for both, since this is what nearly all time is spent on.
    #[inline]
    pub(super) fn decode_and_skip(
        &mut self,
        table: &Huffman,
        extra: impl Fn(u8) -> u32,
    ) -> Result<u8, Fault> {
        if self.count < 32 {
            self.fill();
        }
        let entry = table.fast[(self.buffer >> (64 - FAST_BITS)) as usize];
        let (length, symbol) = if entry != 0 {
            (u32::from(entry >> 8), entry.to_le_bytes()[0])
        } else {
            self.decode_long(table)?
        };
        let used = length + extra(symbol);
        if used > self.count {
            return Err(self.exhausted());
        }
        self.buffer <<= used;
        self.count -= used;
        Ok(symbol)
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
        // Padding after the last bit is no code either, so a stream that simply ends is reported as such.
        Err(if self.count < 16 { self.exhausted() } else { self.damaged("a code does not exist") })
    }

    /// Passes over `count` bits, at most 32.
    #[inline]
    pub(super) fn skip(&mut self, count: u32) -> Result<(), Fault> {
        if self.count < count {
            self.fill();
            if self.count < count {
                return Err(self.exhausted());
            }
        }
        self.buffer <<= count;
        self.count -= count;
        Ok(())
    }

    /// The next `count` bits as a number, at most 16.
    pub(super) fn read(&mut self, count: u32) -> Result<u32, Fault> {
        if count == 0 {
            return Ok(0);
        }
        if self.count < count {
            self.fill();
        }
        let value = (self.buffer >> (64 - count)) as u32;
        self.skip(count)?;
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
        let symbols: Vec<u8> = (0..5).map(|_| bits.decode(&table).unwrap()).collect();
        assert_eq!(symbols, [0, 1, 5, 6, 11]);
    }

    #[test]
    fn codes_longer_than_the_fast_table_are_read() {
        // One code of each length from 1 to 16: 0, 10, 110, ...
        let symbols: Vec<u8> = (100..116).collect();
        let table = Huffman::new(&[1; 16], &symbols).unwrap();
        let bytes = [0xFF, 0x00, 0xFE, 0b1111_1111, 0x00, 0b1110_0000];
        let mut bits = Bits::new(&bytes, 0);
        assert_eq!(bits.decode(&table), Ok(115));
        assert_eq!(bits.decode(&table), Ok(111));
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
            bits.decode(&table).unwrap();
        }
        assert_eq!(bits.decode(&table), Err(Fault::EndsEarly));

        let mut bits = Bits::new(&[0b0000_0000, 0xFF, 0xD9], 0);
        for _ in 0..4 {
            bits.decode(&table).unwrap();
        }
        assert_eq!(bits.decode(&table), Err(Fault::Damaged { at: 1, what: "the picture data stops early" }));
    }

    #[test]
    fn whole_bytes_that_were_not_used_are_given_back() {
        let bytes = [0xFF, 0x00, 0xAA, 0xFF, 0x00, 0x12, 0x34, 0x56, 0xFF, 0xD9];
        let mut bits = Bits::new(&bytes, 0);
        bits.skip(9).unwrap();
        assert_eq!(bits.position_after(), 3);
        bits.skip(8).unwrap();
        assert_eq!(bits.position_after(), 5);
    }
}
