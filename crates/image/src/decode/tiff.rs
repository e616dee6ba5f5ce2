//! The first picture of a TIFF or BigTIFF to RGB pixels.
//!
//! One path for all kinds: the directory says how the page is laid out, each strip or tile is unpacked to its rows, the
//! rows become samples of 8 bits, the samples RGB. What is read, how it is scaled and what is refused by name is written
//! down in `docs/image-formats.md`; the folder has a file for each step.
//! Never reads a page other than the first, unless the file says that the first three are its red, green and blue; it
//! refuses a file whose first page is only a preview or one of several channels, where the picture itself would go
//! unseen.

mod compression;
mod directory;
mod jpeg_chunk;
mod layout;
mod model;
mod pages;
mod samples;

use ::image::metadata::Orientation;

use super::deadline::Deadline;
use super::{DecodeError, DecodeLimits, ImageFormat, Pixels, Workspace, container, rgb};
use compression::Compression;
use directory::{Directory, tag};
use jpeg_chunk::Strip;
use layout::Layout;
use model::Model;
use pages::{Channels, Description};
use samples::Kind;

const FORMAT: ImageFormat = ImageFormat::Tiff;

/// Decodes the first picture; the orientation is still to be applied.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    deadline: &Deadline,
) -> Result<(Pixels, Orientation), DecodeError> {
    let first = Directory::first(bytes).map_err(|fault| place(fault, bytes))?;
    let description = Description::read(&first);
    let layout = Layout::read(&first, &description, bytes, limits)?;
    let pages = match (layout.samples, &description.channels) {
        (1, Channels::Colors(colors)) => read_colors(first, layout, *colors, &description, (bytes, limits))?,
        (1, Channels::Unclear(what)) => return Err(DecodeError::unsupported(what.clone())),
        _ => vec![Page::new(&first, layout, 0, bytes)?],
    };
    let layout = &pages[0].layout;
    let model = if pages.len() == 3 { &Model::Rgb } else { &layout.model };
    let (width_px, height_px, orientation) = (layout.width_px, layout.height_px, layout.orientation);
    let channels = model.channels();

    let mut chunk_bytes = 0;
    for page in &pages {
        chunk_bytes = page.unpacking_bytes(deadline)?.max(chunk_bytes);
    }
    let pixels = width_px as usize * height_px as usize;
    limits.check_workspace(
        width_px,
        height_px,
        Workspace {
            scratch: chunk_bytes.div_ceil(pixels as u64),
            decoded: channels as u64,
            converted: if channels < 3 { 3 } else { 0 },
            turned: orientation,
            table_bytes: 0,
        },
    )?;

    let mut picture = vec![0; pixels * channels];
    for page in &pages {
        for index in 0..page.layout.places.len() {
            deadline.check()?;
            page.read_chunk(index, &mut picture, channels, deadline)?;
        }
    }
    if model.has_alpha() {
        rgb::make_opaque_if_unseen(&mut picture, channels);
    }
    let rgb = match model {
        Model::Gray => rgb::from_gray(&picture),
        Model::GrayAlpha => rgb::from_gray_alpha(&picture),
        Model::PremultipliedGrayAlpha => rgb::from_premultiplied_gray_alpha(&picture),
        Model::Rgb => picture,
        Model::Rgba => rgb::from_rgba(picture),
        Model::PremultipliedRgba => rgb::from_premultiplied_rgba(picture),
        Model::Cmyk => rgb::from_cmyk(picture),
        Model::YCbCr => rgb::from_ycbcr(picture),
        Model::Indexed(colors) => rgb::from_indexed(&picture, colors),
    };
    Ok((Pixels { width_px, height_px, rgb }, orientation))
}

/// What a fault in the structure means to the one who uploaded the file.
fn place(fault: container::Fault, bytes: &[u8]) -> DecodeError {
    match fault {
        container::Fault::EndsEarly => DecodeError::truncated(FORMAT, bytes),
        container::Fault::Damaged { at, what } => DecodeError::damaged(FORMAT, at, what),
        container::Fault::Unsupported(what) => DecodeError::unsupported(what),
    }
}

/// The first three pages, which are the channels of one picture; `colors` are theirs.
fn read_colors<'a>(
    first: Directory<'a>,
    layout: Layout,
    colors: [usize; 3],
    description: &Description,
    (bytes, limits): (&'a [u8], &DecodeLimits),
) -> Result<Vec<Page<'a>>, DecodeError> {
    let what = |what| DecodeError::unsupported(format!("a TIFF file whose channels are pages {what}"));
    let mut pages = vec![Page::new(&first, layout, colors[0], bytes)?];
    let mut directory = first;
    for color in &colors[1..] {
        let next = directory.next().map_err(|fault| place(fault, bytes))?;
        directory = next.ok_or_else(|| what("that it does not have"))?;
        let layout = Layout::read(&directory, description, bytes, limits)?;
        pages.push(Page::new(&directory, layout, *color, bytes)?);
    }
    let kind = |page: &Page<'_>| {
        let layout = &page.layout;
        (layout.width_px, layout.height_px, layout.sample, layout.samples, layout.orientation)
    };
    if pages.iter().any(|page| kind(page) != kind(&pages[0]) || page.layout.model != Model::Gray) {
        return Err(what("of different kinds, or not gray"));
    }
    Ok(pages)
}

/// A page, and the channel of the picture at which its first sample goes.
struct Page<'a> {
    bytes: &'a [u8],
    layout: Layout,
    channel: usize,
    jpeg_tables: &'a [u8],
}

impl<'a> Page<'a> {
    fn new(
        directory: &Directory<'a>,
        layout: Layout,
        channel: usize,
        bytes: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let jpeg_tables = directory.bytes(tag::JPEG_TABLES);
        jpeg_chunk::check_tables(jpeg_tables)?;
        Ok(Self { bytes, layout, channel, jpeg_tables })
    }

    /// The memory, in bytes, that unpacking any strip or tile takes at most.
    fn unpacking_bytes(&self, deadline: &Deadline) -> Result<u64, DecodeError> {
        let layout = &self.layout;
        let unpacked = (layout.row_bytes() as u64).saturating_mul(u64::from(layout.chunk_height_px));
        if layout.compression != Compression::Jpeg {
            return Ok(unpacked.saturating_mul(1 + layout.compression.scratch()));
        }
        let mut most = 0;
        for index in 0..layout.places.len() {
            deadline.check()?;
            most = self.open_jpeg(index, deadline)?.decoding_bytes(unpacked).max(most);
        }
        Ok(most)
    }

    fn open_jpeg<'b>(&'b self, index: usize, deadline: &'b Deadline) -> Result<Strip<'b>, DecodeError> {
        let Layout { chunk_width_px, chunk_height_px, .. } = self.layout;
        let rows = u32::try_from(self.layout.chunk(index).rows).expect("no more than the page has");
        let expected = jpeg_chunk::Expected {
            width_px: chunk_width_px,
            rows: rows..=chunk_height_px,
            samples: self.layout.samples_in_chunk(),
        };
        Strip::open(self.bytes, self.layout.places[index].clone(), self.jpeg_tables, &expected, deadline)
    }

    /// Unpacks a strip or tile into its place in `picture`, which has `channels` samples for each pixel.
    fn read_chunk(
        &self,
        index: usize,
        picture: &mut [u8],
        channels: usize,
        deadline: &Deadline,
    ) -> Result<(), DecodeError> {
        let layout = &self.layout;
        let chunk = layout.chunk(index);
        if layout.is_planar && chunk.plane >= layout.model.channels() {
            return Ok(());
        }
        let (samples, row_bytes, bits) = (layout.samples_in_chunk(), layout.row_bytes(), layout.sample.bits);
        let mut data = if layout.compression == Compression::Jpeg {
            self.open_jpeg(index, deadline)?.decode()?
        } else {
            let size = compression::Size {
                row_bytes,
                rows: chunk.rows,
                full_rows: layout.chunk_height_px as usize,
                width_px: layout.chunk_width_px as usize,
            };
            let place = layout.places[index].clone();
            compression::unpack(
                layout.compression,
                self.bytes,
                place,
                size,
                layout.are_bits_reversed,
                deadline,
            )?
        };
        if layout.predictor != samples::Predictor::FloatingPoint {
            samples::to_native(&mut data, bits, layout.is_big_endian);
        }

        let (width_px, height_px) = (layout.width_px as usize, layout.height_px as usize);
        let columns = (layout.chunk_width_px as usize).min(width_px - chunk.left_px);
        let rows = chunk.rows.min(height_px - chunk.top_px);
        let used = if layout.is_planar { 1 } else { layout.model.channels() };
        let channel = self.channel + chunk.plane;
        let mut scaled = vec![0; columns * samples];
        for (row, stored) in data.chunks_exact_mut(row_bytes).take(rows).enumerate() {
            samples::undo_predictor(layout.predictor, stored, bits, samples);
            samples::scale_row(&layout.sample, stored, &mut scaled).map_err(|_| self.out_of_range())?;
            if layout.is_inverted && chunk.plane == 0 {
                scaled.iter_mut().step_by(samples).for_each(|gray| *gray = 255 - *gray);
            }
            let start = ((chunk.top_px + row) * width_px + chunk.left_px) * channels;
            let target = &mut picture[start..start + columns * channels];
            if used == channels && samples == channels {
                target.copy_from_slice(&scaled);
                continue;
            }
            for (pixel, stored) in target.chunks_exact_mut(channels).zip(scaled.chunks_exact(samples)) {
                pixel[channel..channel + used].copy_from_slice(&stored[..used]);
            }
        }
        Ok(())
    }

    fn out_of_range(&self) -> DecodeError {
        let sample = self.layout.sample;
        let (low, high) = sample.range.unwrap_or_default();
        DecodeError::unsupported(if sample.kind == Kind::Float && (low, high) == (0.0, 1.0) {
            "a TIFF file with floating-point samples outside 0 to 1, whose range it does not state (SMinSampleValue, \
             SMaxSampleValue)"
                .to_owned()
        } else {
            format!("a TIFF file with samples outside the range of {low} to {high} that it states")
        })
    }
}
