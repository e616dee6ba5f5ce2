//! One scan of a JPEG, block by block, for [`super::jpeg`].
//!
//! Reads codes and passes over the bits that they announce, as ITU-T T.81 lays them out (annexes F and G); computes no
//! coefficient. For refining scans it must know which coefficients are not zero, and keeps that and nothing else.

use super::huffman::{Bits, Huffman};
use super::jpeg::Fault;

/// Which part of the coefficients a scan holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pass {
    Sequential,
    DcFirst,
    DcRefine,
    AcFirst { first: u32, last: u32 },
    AcRefine { first: u32, last: u32 },
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

    /// Walks one block; `nonzero` tells which of its coefficients earlier scans of a progressive picture have set.
    /// The tables that the pass needs must be there.
    ///
    /// # Errors
    /// [`Fault`] if the block is not there in full.
    #[inline]
    pub(super) fn walk_block(
        &mut self,
        bits: &mut Bits,
        dc: Option<&Huffman>,
        ac: Option<&Huffman>,
        nonzero: &mut u64,
    ) -> Result<(), Fault> {
        match self.pass {
            Pass::Sequential => walk_sequential(bits, present(dc), present(ac)),
            Pass::DcFirst => walk_dc(bits, present(dc)),
            Pass::DcRefine => bits.skip(1),
            Pass::AcFirst { first, last } => self.walk_ac_first(bits, present(ac), first, last, nonzero),
            Pass::AcRefine { first, last } => self.walk_ac_refine(bits, present(ac), first, last, nonzero),
        }
    }

    fn walk_ac_first(
        &mut self,
        bits: &mut Bits,
        ac: &Huffman,
        first: u32,
        last: u32,
        nonzero: &mut u64,
    ) -> Result<(), Fault> {
        if self.end_of_band_run > 0 {
            self.end_of_band_run -= 1;
            return Ok(());
        }
        let mut k = first;
        while k <= last {
            let symbol = bits.decode(ac)?;
            let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            if size > 0 {
                k += run;
                if k > last {
                    return Err(bits.damaged("a block holds too many values"));
                }
                bits.skip(size)?;
                *nonzero |= 1 << k;
                k += 1;
            } else if run == 15 {
                k += 16;
            } else {
                self.end_of_band_run = (1 << run) + bits.read(run)? - 1;
                break;
            }
        }
        Ok(())
    }

    fn walk_ac_refine(
        &mut self,
        bits: &mut Bits,
        ac: &Huffman,
        first: u32,
        last: u32,
        nonzero: &mut u64,
    ) -> Result<(), Fault> {
        let mut k = first;
        if self.end_of_band_run == 0 {
            while k <= last {
                let symbol = bits.decode(ac)?;
                let (mut run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
                if size == 0 && run < 15 {
                    self.end_of_band_run = (1 << run) + bits.read(run)?;
                    break;
                }
                if size > 0 {
                    bits.skip(1)?;
                }
                // Each coefficient known not to be zero takes a correction bit on the way to the place of the new one.
                while k <= last {
                    if *nonzero >> k & 1 == 1 {
                        bits.skip(1)?;
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
                    *nonzero |= 1 << k;
                }
                k += 1;
            }
        }
        if self.end_of_band_run > 0 {
            if k <= last {
                let band = (*nonzero >> k) & (u64::MAX >> (63 - (last - k)));
                let corrections = band.count_ones();
                bits.skip(corrections / 2)?;
                bits.skip(corrections - corrections / 2)?;
            }
            self.end_of_band_run -= 1;
        }
        Ok(())
    }
}

#[inline]
fn present(table: Option<&Huffman>) -> &Huffman {
    table.expect("walk_scan refuses a scan whose tables are missing")
}

#[inline]
fn walk_dc(bits: &mut Bits, dc: &Huffman) -> Result<(), Fault> {
    let size = bits.decode_and_skip(dc, |size| u32::from(size & 15))?;
    if size > 15 {
        return Err(bits.damaged("a block begins with an impossible value"));
    }
    Ok(())
}

#[inline]
fn walk_sequential(bits: &mut Bits, dc: &Huffman, ac: &Huffman) -> Result<(), Fault> {
    walk_dc(bits, dc)?;
    let mut k = 1;
    while k < 64 {
        let symbol = bits.decode_and_skip(ac, |symbol| u32::from(symbol & 15))?;
        let (run, size) = (u32::from(symbol >> 4), symbol & 15);
        if size > 0 {
            k += run + 1;
        } else if run == 15 {
            k += 16;
        } else {
            break;
        }
        if k > 64 {
            return Err(bits.damaged("a block holds too many values"));
        }
    }
    Ok(())
}
