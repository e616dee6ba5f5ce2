//! One scan of a JPEG, block by block, for [`super::jpeg`].
//!
//! Reads codes and the values that they announce into coefficients, as ITU-T T.81 lays them out (annexes F and G); never
//! invents what is not there.

use super::huffman::{Bits, Huffman};
use super::jpeg::Fault;

/// The coefficients of a block, in rows from the top.
pub(super) type Block = [i16; 64];

/// Where the coefficients lie in the order of the file (ITU-T T.81, figure A.6).
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Which part of the coefficients a scan holds; `bit` is the lowest bit that it gives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pass {
    Sequential,
    DcFirst { bit: u32 },
    DcRefine { bit: u32 },
    AcFirst { first: usize, last: usize, bit: u32 },
    AcRefine { first: usize, last: usize, bit: u32 },
}

impl Pass {
    /// Whether it reads codes of DC differences.
    pub(super) fn needs_dc_table(self) -> bool {
        matches!(self, Self::Sequential | Self::DcFirst { .. })
    }

    /// Whether it reads codes of AC coefficients.
    pub(super) fn needs_ac_table(self) -> bool {
        !matches!(self, Self::DcFirst { .. } | Self::DcRefine { .. })
    }
}

/// What a scan carries from block to block.
pub(super) struct Scan {
    pass: Pass,
    /// Blocks, this one included, that hold nothing more of this band.
    end_of_band_run: u32,
}

impl Scan {
    /// Starts a scan.
    pub(super) fn new(pass: Pass) -> Self {
        Self { pass, end_of_band_run: 0 }
    }

    /// Starts again behind a restart marker.
    pub(super) fn restart(&mut self) {
        self.end_of_band_run = 0;
    }

    /// Reads one block; `prediction` is the DC coefficient of the block before it. The tables that the pass needs must be
    /// there, and a sequential block comes in as zeros.
    ///
    /// # Errors
    /// [`Fault`] if the block is not there in full.
    #[inline]
    pub(super) fn read_block(
        &mut self,
        bits: &mut Bits,
        (dc, ac): (Option<&Huffman>, Option<&Huffman>),
        prediction: &mut i32,
        block: &mut Block,
    ) -> Result<(), Fault> {
        match self.pass {
            Pass::Sequential => {
                block[0] = read_dc(bits, present(dc), prediction)? as i16;
                read_ac(bits, present(ac), block)
            }
            Pass::DcFirst { bit } => {
                block[0] = (read_dc(bits, present(dc), prediction)? << bit) as i16;
                Ok(())
            }
            Pass::DcRefine { bit } => {
                block[0] |= (bits.read(1)? << bit) as i16;
                Ok(())
            }
            Pass::AcFirst { first, last, bit } => self.read_band(bits, present(ac), first..=last, bit, block),
            Pass::AcRefine { first, last, bit } => {
                self.refine_band(bits, present(ac), (first, last), bit, block)
            }
        }
    }

    fn read_band(
        &mut self,
        bits: &mut Bits,
        ac: &Huffman,
        band: std::ops::RangeInclusive<usize>,
        bit: u32,
        block: &mut Block,
    ) -> Result<(), Fault> {
        if self.end_of_band_run > 0 {
            self.end_of_band_run -= 1;
            return Ok(());
        }
        let mut k = *band.start();
        while k <= *band.end() {
            let (symbol, value) = bits.decode(ac)?;
            let (run, size) = (symbol >> 4, symbol & 15);
            if size > 0 {
                k += usize::from(run);
                if k > *band.end() {
                    return Err(bits.damaged("a block holds too many values"));
                }
                block[usize::from(ZIGZAG[k])] = (value << bit) as i16;
                k += 1;
            } else if run == 15 {
                k += 16;
            } else {
                self.end_of_band_run = (1 << run) + bits.read(u32::from(run))? - 1;
                break;
            }
        }
        Ok(())
    }

    fn refine_band(
        &mut self,
        bits: &mut Bits,
        ac: &Huffman,
        (first, last): (usize, usize),
        bit: u32,
        block: &mut Block,
    ) -> Result<(), Fault> {
        /// Takes the correction bit of a coefficient that is not zero.
        fn correct(bits: &mut Bits, coefficient: &mut i16, bit: u32) -> Result<(), Fault> {
            let step = (1_i32 << bit) as i16;
            if bits.read(1)? == 1 && *coefficient & step == 0 {
                *coefficient = coefficient.wrapping_add(step * coefficient.signum());
            }
            Ok(())
        }

        let mut k = first;
        if self.end_of_band_run == 0 {
            while k <= last {
                let symbol = bits.decode_symbol(ac)?;
                let (mut run, size) = (symbol >> 4, symbol & 15);
                if size == 0 && run < 15 {
                    self.end_of_band_run = (1 << run) + bits.read(u32::from(run))?;
                    break;
                }
                let new = match size {
                    0 => 0,
                    _ if bits.read(1)? == 1 => (1_i32 << bit) as i16,
                    _ => (-1_i32 << bit) as i16,
                };
                // Each coefficient known not to be zero takes a correction bit on the way to the place of the new one.
                while k <= last {
                    let coefficient = &mut block[usize::from(ZIGZAG[k])];
                    if *coefficient != 0 {
                        correct(bits, coefficient, bit)?;
                    } else if run == 0 {
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
                if size > 0 {
                    if k > last {
                        return Err(bits.damaged("a block holds too many values"));
                    }
                    block[usize::from(ZIGZAG[k])] = new;
                }
                k += 1;
            }
        }
        if self.end_of_band_run > 0 {
            for &place in ZIGZAG.get(k..=last).unwrap_or_default() {
                let coefficient = &mut block[usize::from(place)];
                if *coefficient != 0 {
                    correct(bits, coefficient, bit)?;
                }
            }
            self.end_of_band_run -= 1;
        }
        Ok(())
    }
}

#[inline]
fn present(table: Option<&Huffman>) -> &Huffman {
    table.expect("a scan whose tables are missing is refused before its first block")
}

#[inline]
fn read_dc(bits: &mut Bits, dc: &Huffman, prediction: &mut i32) -> Result<i32, Fault> {
    let (size, difference) = bits.decode(dc)?;
    if size > 15 {
        return Err(bits.damaged("a block begins with an impossible value"));
    }
    *prediction = prediction.wrapping_add(difference);
    Ok(*prediction)
}

#[inline]
fn read_ac(bits: &mut Bits, ac: &Huffman, block: &mut Block) -> Result<(), Fault> {
    let mut k = 1;
    while k < 64 {
        let (symbol, value) = bits.decode(ac)?;
        let (run, size) = (usize::from(symbol >> 4), symbol & 15);
        if size > 0 {
            k += run;
            let Some(&place) = ZIGZAG.get(k) else {
                return Err(bits.damaged("a block holds too many values"));
            };
            block[usize::from(place)] = value as i16;
            k += 1;
        } else if run == 15 {
            k += 16;
            // Sixteen zeros may end a block, not run past it.
            if k > 64 {
                return Err(bits.damaged("a block holds too many values"));
            }
        } else {
            break;
        }
    }
    Ok(())
}
