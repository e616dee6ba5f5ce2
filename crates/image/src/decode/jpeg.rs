//! The picture of a JPEG: whole, and sample for sample that of libjpeg, or a fault that says what is wrong.
//!
//! Decoders are lenient: where data is missing they paint grey and report success, which would give a confident answer
//! about half a field. Here each block that the header promises must be there, and of a progressive picture each
//! coefficient to its last bit; then what follows, the end-of-image marker included, is not looked at (phones append
//! videos and depth maps, cameras forget the marker).
//!
//! Markers and tables follow ITU-T T.81: baseline and extended sequential (SOF0, SOF1) and progressive (SOF2), Huffman
//! coded, 8 bits. [`Header::stored_bytes`] says what a picture takes.

mod scans;
mod segments;

use ::image::metadata::Orientation;

use super::deadline::{Deadline, OutOfTime};
use super::huffman::Huffman;
use super::idct;
use super::scan::Block;
use super::upsample::{Plane, interleave};

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
}
