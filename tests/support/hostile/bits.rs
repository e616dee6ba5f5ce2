//! Bits, checksums and compressed data from which hostile files are built.

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};

/// Which end of a byte is filled first.
#[derive(Clone, Copy, PartialEq)]
pub enum Order {
    /// JPEG, TIFF's LZW.
    HighFirst,
    /// GIF's LZW, WebP.
    LowFirst,
}

pub struct Bits {
    order: Order,
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    pub fn new(order: Order) -> Self {
        Self { order, bytes: Vec::new(), used: 0 }
    }

    /// Appends the lowest `count` bits of `value`.
    pub fn put(&mut self, value: u32, count: u32) -> &mut Self {
        for i in 0..count {
            if self.used == 0 {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("one was pushed");
            let (bit, place) = match self.order {
                Order::HighFirst => (value >> (count - 1 - i) & 1, 7 - self.used),
                Order::LowFirst => (value >> i & 1, self.used),
            };
            *last |= u8::try_from(bit << place).expect("one bit");
            self.used = (self.used + 1) % 8;
        }
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }
}

/// `length` zeros as a zlib stream, a thousandth as long.
pub fn zlib_zeros(length: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let block = vec![0; 1 << 16];
    for start in (0..length).step_by(block.len()) {
        encoder.write_all(&block[..block.len().min(length - start)]).expect("memory does not fail");
    }
    encoder.finish().expect("memory does not fail")
}

/// `length` bytes of value 0 in LZW, with codes of 9 to 12 bits, as `order` says GIF's or TIFF's.
pub fn lzw_zeros(length: usize, order: Order) -> Vec<u8> {
    const CLEAR: u32 = 256;
    const END: u32 = 257;
    // TIFF makes codes longer one code earlier.
    let early = u32::from(order == Order::HighFirst);
    let mut bits = Bits::new(order);
    bits.put(CLEAR, 9);
    let (mut next, mut width, mut written, mut run) = (258, 9, 0, 1);
    while written < length {
        // A run of n zeros is the code that was made for it n - 1 codes ago.
        let run_now = run.min(length - written);
        let code = if run_now == 1 { 0 } else { 256 + u32::try_from(run_now).expect("below 4096") };
        bits.put(code, width);
        written += run_now;
        if run > 1 || written > 1 {
            next += 1;
        }
        run += 1;
        if next + early >= 1 << width && width < 12 {
            width += 1;
        }
        if next + 2 >= 4094 {
            bits.put(CLEAR, width);
            (next, width, run) = (258, 9, 1);
        }
    }
    bits.put(END, width);
    bits.bytes()
}

pub fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = Crc::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.sum()
}

/// Codes that clear the table and nothing else: input without output.
pub fn lzw_clears(count: usize, order: Order) -> Vec<u8> {
    let mut bits = Bits::new(order);
    for _ in 0..count {
        bits.put(256, 9);
    }
    bits.bytes()
}

/// A Zstandard frame of `bytes` (whole blocks) zeros that claims a window of 128 MiB.
pub fn zstd_zeros(bytes: usize) -> Vec<u8> {
    const BLOCK_BYTES: usize = 128 << 10;
    const RUN: usize = 1 << 1;
    let blocks = bytes / BLOCK_BYTES;
    let mut out = b"\x28\xb5\x2f\xfd\x00\x88".to_vec();
    for block in 1..=blocks {
        let header = usize::from(block == blocks) | RUN | BLOCK_BYTES << 3;
        out.extend(&header.to_le_bytes()[..3]);
        out.push(0);
    }
    out
}
