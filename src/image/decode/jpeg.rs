//! The picture of a JPEG: whole, and sample for sample that of libjpeg, or a fault that says what is wrong.
//!
//! Decoders are lenient: where data is missing they paint grey and report success, which would give a confident answer
//! about half a field. Here each block that the header promises must be there, and of a progressive picture each
//! coefficient to its last bit; then what follows, the end-of-image marker included, is not looked at (phones append
//! videos and depth maps, cameras forget the marker).
//!
//! Markers and tables follow ITU-T T.81: baseline and extended sequential (SOF0, SOF1) and progressive (SOF2), Huffman
//! coded, 8 bits. [`Header::stored_bytes`] says what a picture takes.

use ::image::metadata::Orientation;

use super::deadline::{Deadline, OutOfTime};
use super::huffman::{self, Bits, Huffman};
use super::scan::{Block, Pass, Scan, ZIGZAG};
use super::upsample::{Plane, interleave};
use super::{exif, idct};

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
    /// Samples as they are stored, padded to whole blocks.
    stored_samples: u64,
}

impl Header {
    /// Bytes that decoding holds beside its output while it writes that.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_samples
    }

    /// Bytes that decoding holds before it has an output: a progressive picture is kept as coefficients of 16 bits until
    /// its last scan.
    pub(super) fn coefficient_bytes(&self) -> u64 {
        if self.is_progressive { 3 * self.stored_samples } else { 0 }
    }
}

/// What the samples of a picture mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Color {
    Gray,
    Rgb,
    YCbCr,
    /// 255 is no ink, as every writer stores it.
    Cmyk,
    /// CMYK whose first three channels are transformed as RGB is to YCbCr.
    Ycck,
}

/// A decoded picture.
#[derive(Debug)]
pub(super) struct Picture {
    /// `width_px * height_px` pixels of one sample of each component.
    pub samples: Vec<u8>,
    pub color: Color,
    pub orientation: Orientation,
}

/// More scans than any encoder writes; each costs a pass over the picture.
const MAX_SCANS: usize = 100;
/// Stray bytes that some cameras leave between segments, and that decoders skip.
const MAX_STRAY_BYTES: usize = 1024;

#[derive(Debug)]
struct Component {
    id: u8,
    horizontal: usize,
    vertical: usize,
    /// How many pixels a sample covers, across and down.
    scale: (usize, usize),
    /// Blocks in one row, padded to whole units of the frame.
    stride_blocks: usize,
    /// Rows of blocks, padded to whole units of the frame.
    rows_blocks: usize,
    /// Blocks that a scan of this component alone holds, across and down.
    own_blocks: (usize, usize),
    /// Which quantisation table it names.
    table: usize,
    /// That table, in rows from the top, as it was at the first scan.
    quantisation: Option<[u16; 64]>,
    /// For each coefficient, in the order of the file, the lowest bit that was read.
    lowest_bits: [Option<u8>; 64],
    /// Blocks of a progressive picture.
    coefficients: Vec<Block>,
    /// Samples of a sequential one.
    samples: Vec<u8>,
}

impl Component {
    fn is_complete(&self) -> bool {
        self.lowest_bits.iter().all(|&bit| bit == Some(0))
    }

    /// Makes room for the samples or the coefficients at the first scan.
    fn reserve(&mut self, is_progressive: bool) {
        let blocks = self.stride_blocks * self.rows_blocks;
        if is_progressive && self.coefficients.is_empty() {
            self.coefficients = vec![[0; 64]; blocks];
        } else if !is_progressive {
            self.samples = vec![0; 64 * blocks];
        }
    }

    /// Puts the samples of a block into their place, in blocks across and down.
    #[inline]
    fn put(&mut self, block: &Block, x: usize, y: usize) {
        let Some(quantisation) = &self.quantisation else { return };
        let stride = 8 * self.stride_blocks;
        idct::transform(block, quantisation, &mut self.samples[8 * (y * stride + x)..], stride);
    }

    /// Turns the coefficients of a progressive picture into samples.
    fn transform(&mut self, deadline: &Deadline) -> Result<(), OutOfTime> {
        let coefficients = std::mem::take(&mut self.coefficients);
        let Some(quantisation) = &self.quantisation else { return Ok(()) };
        if coefficients.is_empty() {
            return Ok(());
        }
        self.samples = vec![0; 64 * coefficients.len()];
        let stride = 8 * self.stride_blocks;
        let rows = self.samples.chunks_exact_mut(8 * stride);
        for (row, blocks) in rows.zip(coefficients.chunks_exact(self.stride_blocks)) {
            deadline.check()?;
            for (x, block) in blocks.iter().enumerate() {
                idct::transform(block, quantisation, &mut row[8 * x..], stride);
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Frame {
    header: Header,
    components: Vec<Component>,
    /// Interleaved units (MCU) across and down.
    units: (usize, usize),
}

/// What application segments say of the picture.
#[derive(Debug, Default)]
struct Application {
    has_jfif: bool,
    adobe_transform: Option<u8>,
    orientation: Option<Orientation>,
}

/// Reads one JPEG stream.
pub(super) struct Walker<'a> {
    bytes: &'a [u8],
    deadline: &'a Deadline,
    at: usize,
    /// In rows from the top.
    quantisation: [Option<[u16; 64]>; 4],
    dc_tables: [Option<Huffman>; 4],
    ac_tables: [Option<Huffman>; 4],
    restart_units: usize,
    application: Application,
    frame: Option<Frame>,
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
            quantisation: [None; 4],
            dc_tables: Default::default(),
            ac_tables: Default::default(),
            restart_units: 0,
            application: Application::default(),
            frame: None,
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
        self.quantisation = walker.quantisation;
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

    /// Decodes the picture; call after [`Self::read_header`] and after checking its size.
    ///
    /// # Errors
    /// [`Fault`] if any part of the picture is missing or cannot be read.
    pub(super) fn decode(mut self) -> Result<Picture, Fault> {
        while !self.is_complete() {
            match self.next_marker()? {
                // Whoever cut the file off closed it.
                EOI => return Err(Fault::EndsEarly),
                SOS => self.read_scan()?,
                marker => self.read_segment(marker)?,
            }
        }
        let color = self.color();
        let orientation = self.application.orientation.unwrap_or(Orientation::NoTransforms);
        let Some(Frame { header, components, .. }) = self.frame else { return Err(Fault::EndsEarly) };
        let (width, height) = (header.width_px as usize, header.height_px as usize);
        let mut planes = Vec::with_capacity(components.len());
        for mut component in components {
            component.transform(self.deadline)?;
            let (across, down) = component.scale;
            planes.push(Plane {
                samples: component.samples,
                stride: 8 * component.stride_blocks,
                width: width.div_ceil(across),
                height: height.div_ceil(down),
                scale: component.scale,
            });
        }
        let samples = interleave(&planes, width, height, self.deadline)?;
        Ok(Picture { samples, color, orientation })
    }

    /// Whether every bit of the picture was read.
    fn is_complete(&self) -> bool {
        self.frame.as_ref().is_some_and(|frame| frame.components.iter().all(Component::is_complete))
    }

    /// What the samples mean, as libjpeg decides it.
    fn color(&self) -> Color {
        let ids: Vec<u8> = self.frame.iter().flat_map(|frame| &frame.components).map(|one| one.id).collect();
        match (ids.as_slice(), self.application.has_jfif, self.application.adobe_transform) {
            ([_], ..) => Color::Gray,
            ([_, _, _], true, _) => Color::YCbCr,
            ([_, _, _], _, Some(0)) | (b"RGB", _, None) => Color::Rgb,
            ([_, _, _], ..) => Color::YCbCr,
            (_, _, None | Some(0)) => Color::Cmyk,
            _ => Color::Ycck,
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

    /// Reads one scan; stands before its header when called, behind its data on return.
    fn read_scan(&mut self) -> Result<(), Fault> {
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
