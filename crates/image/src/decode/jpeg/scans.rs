//! The scans of a JPEG: which bits of which coefficients each holds, and their blocks put into place.

use super::{Fault, Walker};
use crate::decode::huffman::{self, Bits};
use crate::decode::scan::{Pass, Scan};

/// More than any encoder writes.
const MAX_SCANS: usize = 100;

impl Walker<'_> {
    /// Reads one scan; stands before its header when called, behind its data on return.
    pub(super) fn read_scan(&mut self) -> Result<(), Fault> {
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(self.damaged("it has more scans than any encoder writes"));
        }
        let body = self.segment()?;
        let start = self.at;
        let fault = |what| Fault::Damaged { at: start, what };
        let Some(frame) = &mut self.frame else {
            return Err(fault("the picture data comes before its header"));
        };
        let is_progressive = frame.header.is_progressive;

        let count = usize::from(*body.first().unwrap_or(&0));
        if !(1..=4).contains(&count) || body.len() != 4 + 2 * count {
            return Err(fault("a scan header is impossible"));
        }
        let mut members: Vec<(usize, usize, usize)> = Vec::with_capacity(count);
        for spec in body[1..1 + 2 * count].chunks_exact(2) {
            let index = frame
                .components
                .iter()
                .position(|component| component.id == spec[0])
                .ok_or(fault("a scan names a colour channel that does not exist"))?;
            if members.iter().any(|&(member, ..)| member == index) {
                return Err(fault("a scan names a colour channel twice"));
            }
            members.push((index, usize::from(spec[1] >> 4), usize::from(spec[1] & 15)));
        }
        let selection = [body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count]];
        let pass = if is_progressive {
            read_pass(selection, count).ok_or(fault("a scan header is impossible"))?
        } else {
            Pass::Sequential
        };
        for &(index, ..) in &members {
            let component = &mut frame.components[index];
            note_bits(&mut component.lowest_bits, pass)?;
            component.reserve(is_progressive);
            // What is in force at the first scan of a component stays so.
            component.quantisation = component.quantisation.or(self.quantisation[component.table]);
            if component.quantisation.is_none() {
                return Err(fault("it has no quantisation table"));
            }
        }

        if matches!(pass, Pass::Sequential) {
            huffman::fill_in_standard(&mut self.dc_tables, &mut self.ac_tables);
        }
        let mut channels = Vec::with_capacity(count);
        for &(index, dc, ac) in &members {
            let dc = self.dc_tables.get(dc).and_then(Option::as_ref);
            let ac = self.ac_tables.get(ac).and_then(Option::as_ref);
            if (pass.needs_dc_table() && dc.is_none()) || (pass.needs_ac_table() && ac.is_none()) {
                return Err(fault("it has no Huffman table"));
            }
            channels.push((index, (dc, ac), 0));
        }
        let is_alone = count == 1;
        let (across, down) = if is_alone { frame.components[channels[0].0].own_blocks } else { frame.units };

        let mut bits = Bits::new(self.bytes, start);
        let mut scan = Scan::new(pass);
        let (mut until_restart, mut restarts) = (self.restart_units, 0);
        for row in 0..down {
            self.deadline.check()?;
            for column in 0..across {
                if self.restart_units > 0 && until_restart == 0 {
                    bits.pass_restart(restarts)?;
                    restarts = (restarts + 1) & 7;
                    until_restart = self.restart_units;
                    scan.restart();
                    channels.iter_mut().for_each(|(.., prediction)| *prediction = 0);
                }
                until_restart = until_restart.wrapping_sub(1);
                for (index, tables, prediction) in &mut channels {
                    let component = &mut frame.components[*index];
                    let (h, v) = if is_alone { (1, 1) } else { (component.horizontal, component.vertical) };
                    for y in row * v..row * v + v {
                        for x in column * h..column * h + h {
                            if is_progressive {
                                let block = &mut component.coefficients[y * component.stride_blocks + x];
                                scan.read_block(&mut bits, *tables, prediction, block)?;
                            } else {
                                let mut block = [0; 64];
                                scan.read_block(&mut bits, *tables, prediction, &mut block)?;
                                component.put(&block, x, y);
                            }
                        }
                    }
                }
            }
        }
        self.at = bits.position_after();
        Ok(())
    }
}

/// What a scan of `count` channels of a progressive picture holds, by the last three bytes of its header.
fn read_pass([first, last, bits]: [u8; 3], count: usize) -> Option<Pass> {
    let (high, low) = (bits >> 4, bits & 15);
    let is_band = if first == 0 { last == 0 } else { first <= last && last < 64 && count == 1 };
    if !is_band || high > 13 || low > 13 || (high > 0 && low + 1 != high) {
        return None;
    }
    let (first, last, bit) = (usize::from(first), usize::from(last), u32::from(low));
    Some(match (first, high) {
        (0, 0) => Pass::DcFirst { bit },
        (0, _) => Pass::DcRefine { bit },
        (_, 0) => Pass::AcFirst { first, last, bit },
        _ => Pass::AcRefine { first, last, bit },
    })
}

/// Notes which bits of which coefficients a scan gives; each comes once, and from the highest down.
fn note_bits(lowest_bits: &mut [Option<u8>; 64], pass: Pass) -> Result<(), Fault> {
    let (band, bit, is_first) = match pass {
        Pass::Sequential => (0..=63, 0, true),
        Pass::DcFirst { bit } => (0..=0, bit, true),
        Pass::DcRefine { bit } => (0..=0, bit, false),
        Pass::AcFirst { first, last, bit } => (first..=last, bit, true),
        Pass::AcRefine { first, last, bit } => (first..=last, bit, false),
    };
    let bit = u8::try_from(bit).expect("came from four bits");
    let before = if is_first { None } else { Some(bit + 1) };
    for lowest in &mut lowest_bits[band] {
        if *lowest != before {
            return Err(Fault::Unsupported("a JPEG image whose scans overlap or are out of order"));
        }
        *lowest = Some(bit);
    }
    Ok(())
}
