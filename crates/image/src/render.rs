//! From pixels to pictures that browsers show: smaller copies, cut-outs, JPEG.
//!
//! The same pixels give the same bytes on any machine whose vector units round alike, and no picture is larger than
//! JPEG can hold (65,535 pixels a side).

use ::image::ExtendedColorType;
use ::image::codecs::jpeg::JpegEncoder;
use fast_image_resize::pixels::U8x3;

use super::decode::Pixels;
use super::resample::resample;

/// Quality of the JPEGs that are made, 1 to 100: finer than an eye sees on a thumbnail, a tenth of the pixels' size.
const JPEG_QUALITY: u8 = 85;

/// The media type of what [`encode_jpeg`] returns.
pub const JPEG_MEDIA_TYPE: &str = "image/jpeg";

/// A copy no wider and no higher than `max_px`, at least 1, with the same proportions; the same size if it fits already.
pub fn shrink_to_fit(pixels: &Pixels, max_px: u32) -> Pixels {
    let longest = pixels.width_px.max(pixels.height_px);
    if longest <= max_px {
        return pixels.clone();
    }
    let side = |side: u32| {
        let scaled =
            (2 * u64::from(side) * u64::from(max_px) + u64::from(longest)) / (2 * u64::from(longest));
        u32::try_from(scaled).unwrap_or(max_px).clamp(1, max_px)
    };
    scale(pixels, side(pixels.width_px), side(pixels.height_px))
}

/// A copy of `width_px` x `height_px`, both at least 1, by the antialiased triangle filter.
///
/// Beside the copy it holds, for a moment, three bytes for each of `width_px` x the height of `pixels`.
pub(super) fn scale(pixels: &Pixels, width_px: u32, height_px: u32) -> Pixels {
    let size = (pixels.width_px, pixels.height_px);
    let window = (0.0, 0.0, f64::from(size.0), f64::from(size.1));
    let rgb = resample::<U8x3>(&pixels.rgb, size, window, (width_px, height_px));
    Pixels { width_px, height_px, rgb }
}

/// The part of `pixels` from column `left` and row `top` on; it must lie inside.
pub(super) fn cut_out(pixels: &Pixels, (left, top): (u32, u32), (width_px, height_px): (u32, u32)) -> Pixels {
    let line_bytes = pixels.width_px as usize * 3;
    let (first, length) = (left as usize * 3, width_px as usize * 3);
    let lines = pixels.rgb.chunks_exact(line_bytes).skip(top as usize).take(height_px as usize);
    // Line by line, not byte by byte: this is the unoptimised part of a development build.
    let mut rgb = Vec::with_capacity(length * height_px as usize);
    for line in lines {
        rgb.extend_from_slice(&line[first..first + length]);
    }
    Pixels { width_px, height_px, rgb }
}

/// The pixels as a baseline JPEG; no side may be longer than 65,535 pixels.
pub fn encode_jpeg(pixels: &Pixels) -> Vec<u8> {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY)
        .encode(&pixels.rgb, pixels.width_px, pixels.height_px, ExtendedColorType::Rgb8)
        .expect("a vector takes any bytes, and both sides fit 16 bits");
    jpeg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DecodeLimits;
    use crate::decode;
    use giemsa_config::Limits;

    /// Every sample different from its neighbours.
    fn pixels(width_px: u32, height_px: u32) -> Pixels {
        let rgb =
            (0..height_px).flat_map(|y| (0..width_px).flat_map(move |x| [x as u8, y as u8, 200])).collect();
        Pixels { width_px, height_px, rgb }
    }

    #[test]
    fn a_copy_fits_and_keeps_its_proportions() {
        for (from, max_px, to) in [
            ((640, 480), 320, (320, 240)),
            ((480, 640), 320, (240, 320)),
            ((97, 61), 320, (97, 61)),
            ((1_001, 333), 320, (320, 106)),
            ((20_000, 1), 320, (320, 1)),
            ((320, 320), 320, (320, 320)),
        ] {
            let small = shrink_to_fit(&pixels(from.0, from.1), max_px);
            assert_eq!((small.width_px, small.height_px), to, "{from:?}");
            assert_eq!(small.rgb.len(), (to.0 * to.1 * 3) as usize);
        }
    }

    #[test]
    fn a_cut_out_is_the_part_that_was_asked_for() {
        let part = cut_out(&pixels(100, 90), (40, 30), (7, 5));
        assert_eq!((part.width_px, part.height_px), (7, 5));
        let expected: Vec<u8> =
            (30..35).flat_map(|y| (40..47).flat_map(move |x| [x as u8, y as u8, 200])).collect();
        assert_eq!(part.rgb, expected);
    }

    #[test]
    fn a_jpeg_comes_back_nearly_as_it_was() {
        let flat = Pixels { width_px: 33, height_px: 17, rgb: [180, 60, 130].repeat(33 * 17) };
        let decoded = decode(&encode_jpeg(&flat), &DecodeLimits::of(&Limits::default())).unwrap();
        assert_eq!((decoded.pixels.width_px, decoded.pixels.height_px), (33, 17));
        let furthest = decoded.pixels.rgb.iter().zip(&flat.rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(furthest <= 4, "{furthest} levels off");
    }
}
