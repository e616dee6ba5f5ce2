//! Proof that the data of a JPEG is complete, before its pixels are decoded.
//!
//! The JPEG decoder is lenient: where data is missing it paints grey and reports success, which would give a confident
//! answer about half a field. So every scan is walked here first, code by code, and each block that the header
//! promises must be there. Nothing is transformed and no pixel is made; the cost is about a third of decoding.
//! What comes after the end-of-image marker is ignored (phones append videos and depth maps).
//!
//! Markers and tables follow ITU-T T.81: baseline and extended sequential (SOF0, SOF1) and progressive (SOF2), Huffman
//! coded, 8 bits. Memory: 8 bytes for each 64 coefficients of a progressive picture, else none.

use super::deadline::{Deadline, OutOfTime};
use super::huffman::{Bits, Huffman};
use super::scan::{Pass, Scan};

/// What is wrong with the data, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The file ends before the picture does.
    EndsEarly,
    /// What stands at byte `at` contradicts what came before it.
    Damaged { at: usize, what: &'static str },
    /// A kind of JPEG that is not decoded, as a noun phrase.
    Unsupported(&'static str),
    /// The walk was given up at its deadline.
    OutOfTime,
}

impl From<OutOfTime> for Fault {
    fn from(OutOfTime: OutOfTime) -> Self {
        Self::OutOfTime
    }
}

/// What the frame header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub width_px: u32,
    pub height_px: u32,
    pub components: usize,
    pub is_progressive: bool,
}

/// More scans than any encoder writes; each costs a pass over the picture.
const MAX_SCANS: usize = 100;
/// Stray bytes that some cameras leave at the end of a scan, and that decoders skip.
const MAX_STRAY_BYTES: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Component {
    id: u8,
    horizontal: usize,
    vertical: usize,
    /// Blocks in one row of the coefficient map, padded to whole units of the frame.
    stride_blocks: usize,
    /// Blocks that a scan of this component alone holds, across and down.
    own_blocks: (usize, usize),
    has_dc: bool,
}

#[derive(Debug)]
struct Frame {
    header: Header,
    components: Vec<Component>,
    /// Interleaved units (MCU) across and down.
    units: (usize, usize),
}

/// Walks one JPEG stream.
pub(super) struct Walker<'a> {
    bytes: &'a [u8],
    deadline: &'a Deadline,
    at: usize,
    dc_tables: [Option<Huffman>; 4],
    ac_tables: [Option<Huffman>; 4],
    restart_units: usize,
    frame: Option<Frame>,
    /// Per component and block, which coefficients are known not to be zero (progressive only).
    nonzero: Vec<Vec<u64>>,
    scans: usize,
}

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

impl<'a> Walker<'a> {
    /// Starts at the beginning of a stream.
    pub(super) fn new(bytes: &'a [u8], deadline: &'a Deadline) -> Self {
        Self {
            bytes,
            deadline,
            at: 0,
            dc_tables: Default::default(),
            ac_tables: Default::default(),
            restart_units: 0,
            frame: None,
            nonzero: Vec::new(),
            scans: 0,
        }
    }

    /// Takes over the tables of a stream that holds nothing else (the `JPEGTables` of a TIFF).
    pub(super) fn load_tables(&mut self, tables: &'a [u8]) -> Result<(), Fault> {
        let mut walker = Walker::new(tables, self.deadline);
        walker.expect_start()?;
        while let Ok(marker) = walker.next_marker() {
            if marker == EOI {
                break;
            }
            walker.read_segment(marker)?;
        }
        (self.dc_tables, self.ac_tables) = (walker.dc_tables, walker.ac_tables);
        self.restart_units = walker.restart_units;
        Ok(())
    }

    /// Reads up to the frame header and says what it says; allocates nothing.
    pub(super) fn read_header(&mut self) -> Result<Header, Fault> {
        self.expect_start()?;
        loop {
            let marker = self.next_marker()?;
            match marker {
                SOS => return Err(self.damaged("the picture data comes before its header")),
                EOI => return Err(self.damaged("the file holds no picture")),
                _ => self.read_segment(marker)?,
            }
            if let Some(frame) = &self.frame {
                return Ok(frame.header);
            }
        }
    }

    /// Walks every scan up to the end of the image; call after [`Self::read_header`] and after checking its size.
    ///
    /// # Errors
    /// [`Fault`] if any block of the picture is missing or cannot be read.
    pub(super) fn verify(mut self) -> Result<(), Fault> {
        loop {
            match self.next_marker()? {
                EOI => break,
                SOS => self.walk_scan()?,
                marker => self.read_segment(marker)?,
            }
        }
        let frame = self.frame.as_ref().ok_or(Fault::EndsEarly)?;
        if frame.components.iter().all(|component| component.has_dc) {
            Ok(())
        } else {
            Err(self.damaged("it ends before every colour channel was written"))
        }
    }

    fn damaged(&self, what: &'static str) -> Fault {
        Fault::Damaged { at: self.at, what }
    }

    fn expect_start(&mut self) -> Result<(), Fault> {
        if self.bytes.get(..2) != Some(&[0xFF, SOI]) {
            return Err(self.damaged("it does not begin with a start-of-image marker"));
        }
        self.at = 2;
        Ok(())
    }

    /// Finds the next marker; stray bytes between segments are skipped, as decoders do.
    fn next_marker(&mut self) -> Result<u8, Fault> {
        let mut strays = 0;
        loop {
            match self.bytes.get(self.at..).unwrap_or_default() {
                [] | [_] => return Err(Fault::EndsEarly),
                [0xFF, 0xFF, ..] => self.at += 1,
                // A restart marker may also close the last interval of a scan.
                [0xFF, 0x00 | 0x01 | 0xD0..=0xD7, ..] => {
                    self.at += 2;
                    strays += 2;
                }
                [0xFF, marker, ..] => {
                    let marker = *marker;
                    self.at += 2;
                    return Ok(marker);
                }
                _ => {
                    self.at += 1;
                    strays += 1;
                }
            }
            if strays > MAX_STRAY_BYTES {
                return Err(self.damaged("data stands where none belongs"));
            }
        }
    }

    /// The body of the segment that starts here, and moves past it.
    fn segment(&mut self) -> Result<&'a [u8], Fault> {
        let length = match self.bytes.get(self.at..self.at + 2) {
            Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
            _ => return Err(Fault::EndsEarly),
        };
        if length < 2 {
            return Err(self.damaged("a segment has an impossible length"));
        }
        let body = self.bytes.get(self.at + 2..self.at + length).ok_or(Fault::EndsEarly)?;
        self.at += length;
        Ok(body)
    }

    fn read_segment(&mut self, marker: u8) -> Result<(), Fault> {
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
            0xC3 => Err(Fault::Unsupported("a lossless JPEG image")),
            0xC5..=0xC7 => Err(Fault::Unsupported("a hierarchical JPEG image")),
            0xC9..=0xCF => Err(Fault::Unsupported("an arithmetic-coded JPEG image")),
            0xDD => match self.segment()? {
                &[high, low] => {
                    self.restart_units = usize::from(u16::from_be_bytes([high, low]));
                    Ok(())
                }
                _ => Err(self.damaged("the restart interval cannot be read")),
            },
            SOI => Err(self.damaged("a second image begins before the first has ended")),
            // Quantisation tables, comments, application data: the decoder's business, complete if their length fits.
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
        if width == 0 || !matches!(count, 1 | 3 | 4) || specs.len() != usize::from(count) * 3 {
            return Err(self.damaged("the frame header is impossible"));
        }
        let factors: Vec<(u8, usize, usize)> = specs
            .chunks_exact(3)
            .map(|spec| (spec[0], usize::from(spec[1] >> 4), usize::from(spec[1] & 15)))
            .collect();
        if factors.iter().any(|&(_, h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v)) {
            return Err(self.damaged("the frame header has impossible sampling factors"));
        }
        let h_max = factors.iter().map(|factor| factor.1).max().unwrap_or(1);
        let v_max = factors.iter().map(|factor| factor.2).max().unwrap_or(1);
        let (width, height) = (usize::from(width), usize::from(height));
        let units = (width.div_ceil(8 * h_max), height.div_ceil(8 * v_max));
        let components = factors
            .into_iter()
            .map(|(id, horizontal, vertical)| Component {
                id,
                horizontal,
                vertical,
                stride_blocks: units.0 * horizontal,
                own_blocks: (
                    (width * horizontal).div_ceil(h_max).div_ceil(8),
                    (height * vertical).div_ceil(v_max).div_ceil(8),
                ),
                has_dc: false,
            })
            .collect::<Vec<_>>();
        let header = Header {
            width_px: u32::try_from(width).expect("came from 16 bits"),
            height_px: u32::try_from(height).expect("came from 16 bits"),
            components: components.len(),
            is_progressive,
        };
        self.frame = Some(Frame { header, components, units });
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

    /// Walks one scan; stands before its header when called, behind its data on return.
    fn walk_scan(&mut self) -> Result<(), Fault> {
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
        let pass = if frame.header.is_progressive {
            let (first, last, bits) = (body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count]);
            let is_possible = if first == 0 { last == 0 } else { first <= last && last < 64 && count == 1 };
            if !is_possible || bits >> 4 > 13 || bits & 15 > 13 {
                return Err(fault("a scan header is impossible"));
            }
            match (first, bits >> 4) {
                (0, 0) => Pass::DcFirst,
                (0, _) => Pass::DcRefine,
                (_, 0) => Pass::AcFirst { first: u32::from(first), last: u32::from(last) },
                _ => Pass::AcRefine { first: u32::from(first), last: u32::from(last) },
            }
        } else {
            if members.iter().any(|&(index, ..)| frame.components[index].has_dc) {
                return Err(fault("a colour channel is written twice"));
            }
            Pass::Sequential
        };
        if matches!(pass, Pass::Sequential | Pass::DcFirst) {
            for &(index, ..) in &members {
                frame.components[index].has_dc = true;
            }
        }
        if frame.header.is_progressive && self.nonzero.is_empty() {
            self.nonzero = frame
                .components
                .iter()
                .map(|component| vec![0; component.stride_blocks * component.vertical * frame.units.1])
                .collect();
        }

        let mut channels = Vec::with_capacity(count);
        for (index, dc, ac) in members {
            let dc = self.dc_tables.get(dc).and_then(Option::as_ref);
            let ac = self.ac_tables.get(ac).and_then(Option::as_ref);
            let needs_dc = matches!(pass, Pass::Sequential | Pass::DcFirst);
            let needs_ac = !matches!(pass, Pass::DcFirst | Pass::DcRefine);
            if (needs_dc && dc.is_none()) || (needs_ac && ac.is_none()) {
                return Err(fault("it has no Huffman table (a raw video frame?)"));
            }
            channels.push((frame.components[index], index, dc, ac));
        }
        let is_alone = count == 1;
        let (across, down) = if is_alone { channels[0].0.own_blocks } else { frame.units };

        let mut bits = Bits::new(self.bytes, start);
        let mut scan = Scan::new(pass);
        let mut until_restart = self.restart_units;
        let mut restarts: u8 = 0;
        for row in 0..down {
            self.deadline.check()?;
            for column in 0..across {
                if self.restart_units > 0 && until_restart == 0 {
                    bits.pass_restart(restarts)?;
                    restarts = (restarts + 1) & 7;
                    until_restart = self.restart_units;
                    scan.restart();
                }
                until_restart = until_restart.wrapping_sub(1);
                for &(component, index, dc, ac) in &channels {
                    let (h, v) = if is_alone { (1, 1) } else { (component.horizontal, component.vertical) };
                    for y in row * v..row * v + v {
                        for x in column * h..column * h + h {
                            let mut unused = 0;
                            let nonzero = match self.nonzero.get_mut(index) {
                                Some(map) => &mut map[y * component.stride_blocks + x],
                                None => &mut unused,
                            };
                            scan.walk_block(&mut bits, dc, ac, nonzero)?;
                        }
                    }
                }
            }
        }
        self.at = bits.position_after();
        Ok(())
    }
}
