//! Packs a drawn cell into the image formats that people upload, and makes the files that are none.
//!
//! It keeps one invariant: the same cell and container give the same bytes.

use std::io::Cursor;

use anyhow::{Context, Result, ensure};
use image::codecs::bmp::BmpEncoder;
use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use tiff::encoder::{Compression, TiffEncoder, colortype};

use super::cell::Cell;

/// How a cell is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Container {
    /// 8-bit RGB.
    Png,
    /// 16-bit RGB, as scientific cameras write it.
    Png16,
    /// 8-bit RGB with everything outside the cell transparent instead of black.
    PngTransparent,
    /// 8-bit, lossy.
    Jpeg,
    /// 8-bit RGB, LZW.
    TiffLzw,
    /// 8-bit RGB, as it is.
    Bmp,
    /// Lossless.
    WebP,
    /// 256 colours.
    Gif,
}

/// The bytes of a file that holds the cell.
///
/// # Errors
/// If the encoder refuses the picture.
pub fn pack(cell: &Cell, container: Container) -> Result<Vec<u8>> {
    let (picture, mut bytes) = (&cell.picture, Vec::new());
    let (w, h) = picture.dimensions();
    let rgb = picture.as_raw();
    let packed = match container {
        Container::Png => write_png(&mut bytes, rgb, (w, h), ExtendedColorType::Rgb8),
        Container::Png16 => {
            // The encoder takes native byte order; 257 spreads 0..=255 over 0..=65535.
            let deep: Vec<u8> = rgb.iter().flat_map(|&v| (u16::from(v) * 257).to_ne_bytes()).collect();
            write_png(&mut bytes, &deep, (w, h), ExtendedColorType::Rgb16)
        }
        Container::PngTransparent => {
            let pixels = picture.pixels().zip(&cell.mask);
            let rgba: Vec<u8> =
                pixels.flat_map(|(p, &kept)| [p[0], p[1], p[2], if kept { 255 } else { 0 }]).collect();
            write_png(&mut bytes, &rgba, (w, h), ExtendedColorType::Rgba8)
        }
        Container::Jpeg => JpegEncoder::new_with_quality(&mut bytes, 93)
            .write_image(rgb, w, h, ExtendedColorType::Rgb8)
            .map_err(Into::into),
        Container::TiffLzw => write_tiff(&mut bytes, picture),
        Container::Bmp => {
            BmpEncoder::new(&mut bytes).write_image(rgb, w, h, ExtendedColorType::Rgb8).map_err(Into::into)
        }
        Container::WebP => WebPEncoder::new_lossless(&mut bytes)
            .write_image(rgb, w, h, ExtendedColorType::Rgb8)
            .map_err(Into::into),
        Container::Gif => GifEncoder::new_with_speed(&mut bytes, 1)
            .encode(rgb, w, h, ExtendedColorType::Rgb8)
            .map_err(Into::into),
    };
    packed.with_context(|| format!("packing a {w} x {h} px cell as {container:?}"))?;
    Ok(bytes)
}

/// The bytes of a PNG, packed quickly rather than tightly.
///
/// # Errors
/// If the encoder refuses the picture.
pub fn quick_png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Sub).write_image(
        picture.as_raw(),
        picture.width(),
        picture.height(),
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

/// The first `percent` (1..=99) of a file, as an upload that was cut off leaves it.
///
/// # Errors
/// If nothing would be missing.
pub fn cut_short(bytes: &[u8], percent: usize) -> Result<Vec<u8>> {
    ensure!((1..=99).contains(&percent), "cut at {percent} %, expected 1 to 99");
    Ok(bytes[..bytes.len() * percent / 100].to_vec())
}

/// A sound PNG of 8000 x 6000 px in one shade: a few kilobytes that ask for 144 MB of pixels.
///
/// # Errors
/// If the encoder refuses the picture.
pub fn large_png() -> Result<Vec<u8>> {
    let (w, h) = (8000, 6000);
    let mut bytes = Vec::new();
    let shade = vec![225; w * h];
    write_png(&mut bytes, &shade, (w as u32, h as u32), ExtendedColorType::L8)?;
    Ok(bytes)
}

/// A one-page PDF: a known format, and no image that a model could read.
pub fn pdf() -> Vec<u8> {
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] >>",
    ];
    let mut text = String::from("%PDF-1.4\n");
    let mut table = String::from("xref\n0 4\n0000000000 65535 f \n");
    for (number, object) in objects.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n \n", text.len()));
        text.push_str(&format!("{} 0 obj\n{object}\nendobj\n", number + 1));
    }
    let start = text.len();
    text.push_str(&table);
    text.push_str(&format!("trailer\n<< /Size 4 /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"));
    text.into_bytes()
}

/// The opening boxes of a HEIC photo, as telephones take them.
pub fn heic() -> Vec<u8> {
    let mut bytes = Vec::new();
    let brands = b"heic\0\0\0\0mif1heic";
    bytes.extend((8 + brands.len() as u32).to_be_bytes());
    bytes.extend(b"ftyp");
    bytes.extend(brands);
    let handler = b"\0\0\0\0\0\0\0\0pict\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let handler_length = 8 + handler.len() as u32;
    bytes.extend((12 + handler_length).to_be_bytes());
    bytes.extend(b"meta\0\0\0\0");
    bytes.extend(handler_length.to_be_bytes());
    bytes.extend(b"hdlr");
    bytes.extend(handler);
    bytes
}

fn write_png(out: &mut Vec<u8>, data: &[u8], (w, h): (u32, u32), color: ExtendedColorType) -> Result<()> {
    PngEncoder::new_with_quality(out, CompressionType::Level(9), FilterType::Adaptive)
        .write_image(data, w, h, color)?;
    Ok(())
}

fn write_tiff(out: &mut Vec<u8>, picture: &RgbImage) -> Result<()> {
    let (w, h) = picture.dimensions();
    TiffEncoder::new(Cursor::new(out))?.with_compression(Compression::Lzw).write_image::<colortype::RGB8>(
        w,
        h,
        picture.as_raw(),
    )?;
    Ok(())
}
