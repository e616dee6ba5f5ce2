//! Samples of every colour model to interleaved 8-bit RGB, in place where it fits.
//!
//! All roundings are to the nearest: 16 bits become 8 by `v * 255 / 65535`, an alpha of `a` on white gives
//! `(c * a + 255 * (255 - a)) / 255`.

/// `v * 255 / 65535`, rounded to the nearest.
#[inline]
pub(super) fn narrow(value: u16) -> u8 {
    // 65535 = 255 * 257, so this is a division by 257 with half of it added.
    u8::try_from((u32::from(value) + 128) / 257).expect("65535 gives 255")
}

/// 16-bit samples in the machine's byte order to 8 bits, in place; `None` where their range is unclear.
///
/// `significant_bits` are those of a PNG's `sBIT`, one for each channel, or none. PNG demands that samples of fewer bits are
/// scaled up, but programs for 12-bit cameras store them as they are; such are scaled by the bits that are significant.
pub(super) fn narrow_bytes(
    mut samples: Vec<u8>,
    channels: usize,
    significant_bits: &[u8],
) -> Option<Vec<u8>> {
    let color_channels = channels - usize::from(channels.is_multiple_of(2));
    let full = match significant_bits.get(..color_channels) {
        Some(all @ [bits @ 9..16, ..]) if all.iter().all(|found| found == bits) => {
            full_of(&samples, (channels, color_channels), *bits)?
        }
        _ => u16::MAX,
    };
    let full = u32::from(full);
    let count = samples.len() / 2;
    for i in 0..count {
        let value = u16::from_ne_bytes([samples[2 * i], samples[2 * i + 1]]);
        samples[i] = if full < 65_535 && i % channels < color_channels {
            u8::try_from((2 * 255 * u32::from(value) + full) / (2 * full)).expect("no sample exceeds full")
        } else {
            narrow(value)
        };
    }
    samples.truncate(count);
    Some(samples)
}

/// The value of full brightness of colours of which `bits` are significant.
///
/// Colours that none exceeds these bits were stored as they are, if one has low bits that no scaling of such small values to
/// 16 bits leaves, be it by a shift, by repeating the bits, or by a multiplication (which may round up). If none has, the
/// picture may be dark as well, and nobody can tell.
fn full_of(samples: &[u8], (channels, color_channels): (usize, usize), bits: u8) -> Option<u16> {
    let low_bits = (1_u16 << (16 - bits)) - 1;
    let mut has_low_bits = false;
    for pixel in samples.chunks_exact(2 * channels) {
        for sample in pixel.chunks_exact(2).take(color_channels) {
            let value = u16::from_ne_bytes([sample[0], sample[1]]);
            if value >> bits != 0 {
                return Some(u16::MAX);
            }
            has_low_bits |= value & low_bits > 1;
        }
    }
    has_low_bits.then_some((1 << bits) - 1)
}

/// One sample a pixel to three.
pub(super) fn from_gray(gray: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(gray.len() * 3);
    for &value in gray {
        rgb.extend_from_slice(&[value; 3]);
    }
    rgb
}

/// Takes an alpha (the last of `channels` samples) that is 0 everywhere for one that was never written: nobody stores
/// a picture that cannot be seen.
pub(super) fn make_opaque_if_unseen(samples: &mut [u8], channels: usize) {
    if samples.iter().skip(channels - 1).step_by(channels).all(|&alpha| alpha == 0) {
        samples.iter_mut().skip(channels - 1).step_by(channels).for_each(|alpha| *alpha = 255);
    }
}

/// Gray and alpha to RGB on white.
pub(super) fn from_gray_alpha(samples: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(samples.len() / 2 * 3);
    for pixel in samples.chunks_exact(2) {
        rgb.extend_from_slice(&[on_white(pixel[0], pixel[1]); 3]);
    }
    rgb
}

/// Gray already multiplied by its alpha to RGB on white.
pub(super) fn from_premultiplied_gray_alpha(samples: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(samples.len() / 2 * 3);
    for pixel in samples.chunks_exact(2) {
        rgb.extend_from_slice(&[pixel[0].saturating_add(255 - pixel[1]); 3]);
    }
    rgb
}

/// Indices of colours to the colours; an index without one is black.
pub(super) fn from_indexed(indices: &[u8], colors: &[[u8; 3]]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(indices.len() * 3);
    for &index in indices {
        rgb.extend_from_slice(colors.get(usize::from(index)).unwrap_or(&[0; 3]));
    }
    rgb
}

/// RGB and alpha to RGB on white, in place.
pub(super) fn from_rgba(samples: Vec<u8>) -> Vec<u8> {
    four_to_three(samples, |[r, g, b, a]| [on_white(r, a), on_white(g, a), on_white(b, a)])
}

/// RGB already multiplied by its alpha to RGB on white, in place.
pub(super) fn from_premultiplied_rgba(samples: Vec<u8>) -> Vec<u8> {
    four_to_three(samples, |[r, g, b, a]| [r, g, b].map(|value| value.saturating_add(255 - a)))
}

/// CMYK (255 is full ink) to RGB, without a colour profile, in place.
pub(super) fn from_cmyk(samples: Vec<u8>) -> Vec<u8> {
    four_to_three(samples, |[c, m, y, k]| [c, m, y].map(|ink| scale(255 - ink, 255 - k)))
}

/// CMYK as JPEG stores it (255 is no ink) to RGB, without a colour profile, in place.
pub(super) fn from_inverted_cmyk(samples: Vec<u8>) -> Vec<u8> {
    four_to_three(samples, |[c, m, y, k]| [c, m, y].map(|paper| scale(paper, k)))
}

/// YCCK of JPEG to RGB: the first three channels are YCbCr of what is left of the paper, in place.
pub(super) fn from_ycck(samples: Vec<u8>) -> Vec<u8> {
    four_to_three(samples, |[y, cb, cr, k]| ycbcr_to_rgb([y, cb, cr]).map(|ink| scale(255 - ink, k)))
}

/// Full-range YCbCr (ITU-R BT.601, as in JFIF) to RGB, in place.
pub(super) fn from_ycbcr(mut samples: Vec<u8>) -> Vec<u8> {
    for pixel in samples.chunks_exact_mut(3) {
        let rgb = ycbcr_to_rgb([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&rgb);
    }
    samples
}

#[inline]
fn ycbcr_to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    // Coefficients in 16 fractional bits.
    const RED_OF_CR: i32 = 91_881;
    const GREEN_OF_CB: i32 = -22_554;
    const GREEN_OF_CR: i32 = -46_802;
    const BLUE_OF_CB: i32 = 116_130;
    const HALF: i32 = 1 << 15;

    let clamp = |value: i32| (value >> 16).clamp(0, 255) as u8;
    let (y, cb, cr) = ((i32::from(y) << 16) + HALF, i32::from(cb) - 128, i32::from(cr) - 128);
    [clamp(y + RED_OF_CR * cr), clamp(y + GREEN_OF_CB * cb + GREEN_OF_CR * cr), clamp(y + BLUE_OF_CB * cb)]
}

/// `a * b / 255`, rounded to the nearest.
#[inline]
fn scale(a: u8, b: u8) -> u8 {
    u8::try_from((u32::from(a) * u32::from(b) + 127) / 255).expect("at most 255")
}

#[inline]
fn on_white(value: u8, alpha: u8) -> u8 {
    let white = 255 * (255 - u32::from(alpha));
    u8::try_from((u32::from(value) * u32::from(alpha) + white + 127) / 255).expect("at most 255")
}

#[inline]
fn four_to_three(mut samples: Vec<u8>, convert: impl Fn([u8; 4]) -> [u8; 3]) -> Vec<u8> {
    let count = samples.len() / 4;
    for i in 0..count {
        // The pixel read lies at or behind the place written.
        let pixel = [samples[4 * i], samples[4 * i + 1], samples[4 * i + 2], samples[4 * i + 3]];
        samples[3 * i..3 * i + 3].copy_from_slice(&convert(pixel));
    }
    samples.truncate(count * 3);
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_are_rounded_to_the_nearest() {
        for value in 0..=u16::MAX {
            let exact = f64::from(value) * 255.0 / 65535.0;
            assert_eq!(f64::from(narrow(value)), exact.round(), "{value}");
        }
        let bytes: Vec<u8> = [0_u16, 128, 129, 65535].iter().flat_map(|v| v.to_ne_bytes()).collect();
        assert_eq!(narrow_bytes(bytes, 1, &[]).unwrap(), [0, 0, 1, 255]);
    }

    #[test]
    fn alpha_is_flattened_on_white() {
        for value in 0..=255_u8 {
            for alpha in 0..=255_u8 {
                let exact =
                    (f64::from(value) * f64::from(alpha) + 255.0 * (255.0 - f64::from(alpha))) / 255.0;
                assert_eq!(f64::from(on_white(value, alpha)), exact.round(), "{value} {alpha}");
            }
        }
        assert_eq!(from_rgba(vec![10, 20, 30, 255, 10, 20, 30, 0]), [10, 20, 30, 255, 255, 255]);
        assert_eq!(from_gray_alpha(&[7, 255, 7, 0]), [7, 7, 7, 255, 255, 255]);
        assert_eq!(from_premultiplied_rgba(vec![100, 0, 128, 128]), [227, 127, 255]);
        assert_eq!(from_premultiplied_gray_alpha(&[100, 128, 0, 0]), [227, 227, 227, 255, 255, 255]);
    }

    #[test]
    fn an_alpha_that_is_zero_everywhere_counts_as_none() {
        for (mut samples, expected) in [
            ([1, 2, 3, 0, 4, 5, 6, 0], [1, 2, 3, 255, 4, 5, 6, 255]),
            ([1, 2, 3, 0, 4, 5, 6, 1], [1, 2, 3, 0, 4, 5, 6, 1]),
        ] {
            make_opaque_if_unseen(&mut samples, 4);
            assert_eq!(samples, expected);
        }
    }

    #[test]
    fn colour_models_are_converted() {
        assert_eq!(from_gray(&[1, 2]), [1, 1, 1, 2, 2, 2]);
        assert_eq!(from_indexed(&[1, 0, 2], &[[1, 2, 3], [4, 5, 6]]), [4, 5, 6, 1, 2, 3, 0, 0, 0]);
        assert_eq!(
            from_cmyk(vec![0, 0, 0, 0, 255, 0, 128, 0, 0, 0, 0, 255]),
            [255, 255, 255, 0, 255, 127, 0, 0, 0]
        );
        // The primaries of BT.601.
        assert_eq!(
            from_ycbcr(vec![76, 85, 255, 150, 44, 21, 29, 255, 107, 200, 128, 128]),
            [254, 0, 0, 0, 255, 1, 0, 0, 254, 200, 200, 200]
        );
    }

    #[test]
    fn twelve_bits_in_sixteen_are_scaled_by_what_is_significant() {
        let bytes = |values: &[u16]| values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>();
        let raw = bytes(&[0, 2055, 4095]);
        assert_eq!(narrow_bytes(raw.clone(), 1, &[12]).unwrap(), [0, 128, 255]);
        assert_eq!(narrow_bytes(raw.clone(), 3, &[12, 12, 12]).unwrap(), [0, 128, 255]);
        for (name, values, channels, bits, expected) in [
            ("no statement", raw.clone(), 1, &[][..], [0, 8, 16]),
            ("all bits are significant", raw.clone(), 1, &[16], [0, 8, 16]),
            ("channels differ", raw, 3, &[12, 12, 10], [0, 8, 16]),
            ("scaled up, as PNG demands", bytes(&[0, 0x8080, 0xfff0]), 1, &[12], [0, 128, 255]),
        ] {
            assert_eq!(narrow_bytes(values, channels, bits).unwrap(), expected, "{name}");
        }
        for (name, values) in
            [("dark, or in steps of 16", [0, 16, 4080]), ("dark and multiplied", [0, 16, 4081])]
        {
            assert_eq!(narrow_bytes(bytes(&values), 1, &[12]), None, "{name}");
        }
        // The alpha is full and says nothing of the colours.
        assert_eq!(narrow_bytes(bytes(&[2055, 65_535]), 2, &[12, 12]).unwrap(), [128, 255]);
    }
}
