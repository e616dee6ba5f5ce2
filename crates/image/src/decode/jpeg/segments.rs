//! What the segments of a JPEG declare: its frame, tables, restart interval and application data.

use super::{Component, Fault, Frame, Header, SOI, Walker};
use crate::decode::exif;
use crate::decode::huffman::Huffman;
use crate::decode::scan::ZIGZAG;

impl<'a> Walker<'a> {
    pub(super) fn read_segment(&mut self, marker: u8) -> Result<(), Fault> {
        self.deadline.check()?;
        match marker {
            0xC0..=0xC2 => {
                let body = self.segment()?;
                self.read_frame(body, marker == 0xC2)
            }
            0xC4 => {
                let body = self.segment()?;
                self.read_huffman_tables(body)
            }
            0xDB => {
                let body = self.segment()?;
                self.read_quantisation_tables(body)
            }
            0xE0..=0xEF => {
                let body = self.segment()?;
                self.read_application(marker, body);
                Ok(())
            }
            0xC3 => Err(Fault::Unsupported("a lossless JPEG image")),
            0xC5..=0xC7 => Err(Fault::Unsupported("a hierarchical JPEG image")),
            0xC9..=0xCF => Err(Fault::Unsupported("an arithmetic-coded JPEG image")),
            0xF7 => Err(Fault::Unsupported("a JPEG-LS image")),
            0xDD => match self.segment()? {
                &[high, low] => {
                    self.restart_units = usize::from(u16::from_be_bytes([high, low]));
                    Ok(())
                }
                _ => Err(self.damaged("the restart interval cannot be read")),
            },
            SOI => Err(self.damaged("a second image begins before the first has ended")),
            // Comments and what no decoder knows.
            _ => self.segment().map(drop),
        }
    }

    fn read_frame(&mut self, body: &[u8], is_progressive: bool) -> Result<(), Fault> {
        if self.frame.is_some() {
            return Err(self.damaged("it has a second frame header"));
        }
        let &[bits, h1, h0, w1, w0, count, ref specs @ ..] = body else {
            return Err(self.damaged("the frame header is too short"));
        };
        if bits != 8 {
            return Err(Fault::Unsupported("a 12-bit JPEG image"));
        }
        let (height, width) = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
        if height == 0 {
            return Err(Fault::Unsupported("a JPEG image of undeclared height"));
        }
        if width == 0 || count == 0 || specs.len() != usize::from(count) * 3 {
            return Err(self.damaged("the frame header is impossible"));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(Fault::Unsupported("a JPEG image with an unusual number of colour channels"));
        }
        let factors: Vec<(usize, usize)> = specs
            .chunks_exact(3)
            .map(|spec| (usize::from(spec[1] >> 4), usize::from(spec[1] & 15)))
            .collect();
        if factors.iter().any(|&(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v)) {
            return Err(self.damaged("the frame header has impossible sampling factors"));
        }
        if specs.chunks_exact(3).any(|spec| spec[2] > 3) {
            return Err(self.damaged("the frame header names an impossible quantisation table"));
        }
        let h_max = factors.iter().map(|factor| factor.0).max().unwrap_or(1);
        let v_max = factors.iter().map(|factor| factor.1).max().unwrap_or(1);
        if factors.iter().any(|&(h, v)| !h_max.is_multiple_of(h) || !v_max.is_multiple_of(v)) {
            return Err(Fault::Unsupported("a JPEG image with unusual chroma sampling"));
        }
        let (width, height) = (usize::from(width), usize::from(height));
        let units = (width.div_ceil(8 * h_max), height.div_ceil(8 * v_max));
        let components = factors
            .into_iter()
            .zip(specs.chunks_exact(3))
            .map(|((horizontal, vertical), spec)| {
                let scale = (h_max / horizontal, v_max / vertical);
                Component {
                    id: spec[0],
                    table: usize::from(spec[2]),
                    horizontal,
                    vertical,
                    scale,
                    stride_blocks: units.0 * horizontal,
                    rows_blocks: units.1 * vertical,
                    own_blocks: (width.div_ceil(8 * scale.0), height.div_ceil(8 * scale.1)),
                    quantisation: None,
                    lowest_bits: [None; 64],
                    coefficients: Vec::new(),
                    samples: Vec::new(),
                }
            })
            .collect::<Vec<_>>();
        let blocks = components.iter().map(|one| (one.stride_blocks * one.rows_blocks) as u64);
        let header = Header {
            width_px: u32::try_from(width).expect("came from 16 bits"),
            height_px: u32::try_from(height).expect("came from 16 bits"),
            components: components.len(),
            is_progressive,
            stored_samples: 64 * blocks.sum::<u64>(),
        };
        self.frame = Some(Frame { header, components, units });
        Ok(())
    }

    fn read_application(&mut self, marker: u8, body: &[u8]) {
        let application = &mut self.application;
        match marker {
            0xE0 if body.starts_with(b"JFIF\0") => application.has_jfif = true,
            0xE1 if body.starts_with(b"Exif\0") && application.orientation.is_none() => {
                application.orientation = exif::orientation(body);
            }
            0xEE if body.starts_with(b"Adobe") => application.adobe_transform = body.get(11).copied(),
            _ => {}
        }
    }

    fn read_quantisation_tables(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        while let [place, rest @ ..] = body {
            // One or two bytes for each factor.
            let (width, slot) = (usize::from(place >> 4) + 1, usize::from(place & 15));
            if width > 2 || slot > 3 {
                return Err(self.damaged("a quantisation table is impossible"));
            }
            let factors = rest.get(..64 * width);
            let factors = factors.ok_or_else(|| self.damaged("a quantisation table is cut short"))?;
            let mut table = [0; 64];
            for (factor, place) in factors.chunks_exact(width).zip(ZIGZAG) {
                table[usize::from(place)] = factor.iter().fold(0, |sum, &byte| sum << 8 | u16::from(byte));
            }
            self.quantisation[slot] = Some(table);
            body = &rest[64 * width..];
        }
        Ok(())
    }

    fn read_huffman_tables(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        while let [place, rest @ ..] = body {
            let (class, slot) = (place >> 4, usize::from(place & 15));
            let total = rest.get(..16).map(|counts| counts.iter().map(|&count| usize::from(count)).sum());
            let Some((total, true)) = total.map(|total: usize| (total, rest.len() >= 16 + total)) else {
                return Err(self.damaged("a Huffman table is cut short"));
            };
            let (counts, symbols) = (&rest[..16], &rest[16..16 + total]);
            let table =
                Huffman::new(counts, symbols).ok_or_else(|| self.damaged("a Huffman table is impossible"))?;
            let tables = if class == 0 { &mut self.dc_tables } else { &mut self.ac_tables };
            let place = tables
                .get_mut(slot)
                .ok_or(Fault::Damaged { at: self.at, what: "a Huffman table has an impossible number" })?;
            *place = Some(table);
            body = &rest[16 + total..];
        }
        Ok(())
    }
}
