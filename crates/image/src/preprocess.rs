//! From pixels to the tensor that a network reads; pure arithmetic.
//!
//! For an image of `W x H` pixels and an input of `w x h`:
//!
//! 1. **Colour.** `gray` is the luma of ITU-R 601-2, `(19595 R + 38470 G + 7471 B + 32768) >> 16`, taken before anything
//!    else. The colour of the padding is converted in the same way.
//! 2. **Size.** `stretch` resamples to `w x h`. `fit` scales by `s = min(w/W, h/H)` to `max(1, round(W s))` x
//!    `max(1, round(H s))` (halves up), and centres the result on the padding, with `floor` of half the
//!    rest at the left and at the top. `crop` scales by `s = max(w/W, h/H)`, rounded the same way, and keeps the centre,
//!    dropping `floor` of half the surplus at the left and at the top.
//!    Resampling is the antialiased triangle filter on 8-bit samples, which Pillow calls `BILINEAR`. An
//!    image that already has the size is left as it is.
//! 3. **Value.** Each sample `v` of channel `c` becomes `(v * scale - mean[c]) / std[c]`, padding included.
//! 4. **Layout.** `nchw` gives `[1, C, h, w]`, `nhwc` gives `[1, h, w, C]`; channels in the order red, green, blue.
//!
//! Never looks at anything but its arguments; the same pixels and the same spec give the same tensor on
//! any machine, within one level of `v` (vector units round the filter's weights differently).

use std::borrow::Cow;

use super::decode::Pixels;
pub use super::input_spec::{ColorMode, InputSpec, InputSpecError, InputSpecJson, Layout, Resize};
use super::resample::resample;
use fast_image_resize::PixelTrait;
use fast_image_resize::pixels::{U8, U8x3};

/// The input of a network for one image.
#[derive(Debug, Clone, PartialEq)]
pub struct InputTensor {
    /// `[1, C, h, w]` or `[1, h, w, C]`.
    pub shape: [usize; 4],
    /// Row-major, as many as the product of `shape`.
    pub values: Vec<f32>,
}

/// Where the image goes: what of it is resampled to which size, and where that lies in the input.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Placement {
    /// Left, top, width and height of the part that is used, in source pixels.
    source: (f64, f64, f64, f64),
    /// Width and height that it is resampled to.
    size: (u32, u32),
    /// Column and row of its first pixel in the input.
    at: (u32, u32),
}

/// Computes the tensor of an image; the formula is in the module's documentation.
///
/// `spec` must be valid ([`InputSpec::validate`]).
pub fn preprocess(pixels: &Pixels, spec: &InputSpec) -> InputTensor {
    let placement = place((pixels.width_px, pixels.height_px), spec);
    let size = (pixels.width_px, pixels.height_px);
    match spec.color {
        ColorMode::Rgb => {
            let samples = resized::<U8x3>(&pixels.rgb, size, &placement);
            write_tensor(&samples, spec.pad, &placement, spec)
        }
        ColorMode::Gray => {
            let gray = luma(&pixels.rgb);
            let samples = resized::<U8>(&gray, size, &placement);
            write_tensor(&samples, [luma_of(&spec.pad)], &placement, spec)
        }
    }
}

/// `round(side * numerator / denominator)` with halves up, in whole numbers.
fn scaled(side: u32, numerator: u32, denominator: u32) -> u64 {
    let (numerator, denominator) = (u64::from(numerator), u64::from(denominator));
    (2 * u64::from(side) * numerator + denominator) / (2 * denominator)
}

fn place(source: (u32, u32), spec: &InputSpec) -> Placement {
    let (width, height) = source;
    let whole = (0.0, 0.0, f64::from(width), f64::from(height));
    let target = (spec.width, spec.height);
    // Compares w/W with h/H without dividing.
    let width_binds = u64::from(spec.width) * u64::from(height) <= u64::from(spec.height) * u64::from(width);
    match spec.resize {
        Resize::Stretch => Placement { source: whole, size: target, at: (0, 0) },
        Resize::Fit => {
            let side = |scaled: u64, most: u32| u32::try_from(scaled.max(1)).unwrap_or(most).min(most);
            let size = if width_binds {
                (spec.width, side(scaled(height, spec.width, width), spec.height))
            } else {
                (side(scaled(width, spec.height, height), spec.width), spec.height)
            };
            Placement { source: whole, size, at: ((spec.width - size.0) / 2, (spec.height - size.1) / 2) }
        }
        Resize::Crop => {
            let scaled_size = if width_binds {
                (scaled(width, spec.height, height).max(u64::from(spec.width)), u64::from(spec.height))
            } else {
                (u64::from(spec.width), scaled(height, spec.width, width).max(u64::from(spec.height)))
            };
            // The surplus is never computed: the window is carried back into the source. A strip of 1 x 10000 px
            // would else grow to gigabytes.
            let axis = |source: u32, scaled: u64, target: u32| {
                let factor = f64::from(source) / scaled as f64;
                let first = (scaled - u64::from(target)) / 2;
                (first as f64 * factor, f64::from(target) * factor)
            };
            let (left, across) = axis(width, scaled_size.0, spec.width);
            let (top, down) = axis(height, scaled_size.1, spec.height);
            // Rounding may carry the far edge past the source by a part in 10^16, which the resampler refuses.
            let across = across.min(f64::from(width) - left);
            let down = down.min(f64::from(height) - top);
            Placement { source: (left, top, across, down), size: target, at: (0, 0) }
        }
    }
}

/// ITU-R 601-2 luma in 16 fractional bits, as Pillow computes it.
#[inline]
fn luma_of(&[red, green, blue]: &[u8; 3]) -> u8 {
    let sum = u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471;
    // The weights add up to 65536, so this is at most 255.
    ((sum + 0x8000) >> 16) as u8
}

fn luma(rgb: &[u8]) -> Vec<u8> {
    rgb.as_chunks().0.iter().map(luma_of).collect()
}

/// The samples of the placed image; borrowed where it keeps its size.
fn resized<'a, P: PixelTrait>(samples: &'a [u8], size: (u32, u32), placement: &Placement) -> Cow<'a, [u8]> {
    let is_whole = placement.source == (0.0, 0.0, f64::from(size.0), f64::from(size.1));
    if is_whole && placement.size == size {
        return Cow::Borrowed(samples);
    }
    Cow::Owned(resample::<P>(samples, size, placement.source, placement.size))
}

/// Writes samples of `C` channels to their places; what they leave is padding.
fn write_tensor<const C: usize>(
    samples: &[u8],
    pad: [u8; C],
    placement: &Placement,
    spec: &InputSpec,
) -> InputTensor {
    let (width, height) = (spec.width as usize, spec.height as usize);
    let (left, top) = (placement.at.0 as usize, placement.at.1 as usize);
    let is_padded = placement.size != (spec.width, spec.height);
    let tables = spec.tables();
    let (pixels, _) = samples.as_chunks::<C>();
    let rows = pixels.chunks_exact(placement.size.0 as usize);

    let mut values = vec![0.0; width * height * C];
    match spec.layout {
        Layout::Nchw => {
            for (channel, plane) in values.chunks_exact_mut(width * height).enumerate() {
                let table = &tables[channel];
                if is_padded {
                    plane.fill(table[usize::from(pad[channel])]);
                }
                for (row, line) in rows.clone().zip(plane.chunks_exact_mut(width).skip(top)) {
                    for (value, pixel) in line[left..].iter_mut().zip(row) {
                        *value = table[usize::from(pixel[channel])];
                    }
                }
            }
        }
        Layout::Nhwc => {
            let (places, _) = values.as_chunks_mut::<C>();
            if is_padded {
                places.fill(std::array::from_fn(|channel| tables[channel][usize::from(pad[channel])]));
            }
            for (row, line) in rows.zip(places.chunks_exact_mut(width).skip(top)) {
                for (place, pixel) in line[left..].iter_mut().zip(row) {
                    *place = std::array::from_fn(|channel| tables[channel][usize::from(pixel[channel])]);
                }
            }
        }
    }
    InputTensor { shape: spec.shape(), values }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(width: u32, height: u32, resize: Resize) -> InputSpec {
        InputSpec {
            layout: Layout::Nchw,
            width,
            height,
            color: ColorMode::Rgb,
            resize,
            pad: [10, 20, 30],
            scale: 1.0,
            mean: vec![0.0; 3],
            std: vec![1.0; 3],
        }
    }

    /// Every sample different from its neighbours: red counts columns, green rows, blue is fixed.
    fn pixels(width_px: u32, height_px: u32) -> Pixels {
        let rgb =
            (0..height_px).flat_map(|y| (0..width_px).flat_map(move |x| [x as u8, y as u8, 200])).collect();
        Pixels { width_px, height_px, rgb }
    }

    #[test]
    fn placements_follow_the_formula() {
        let cases = [
            // source, target, resize, size, at
            ((97, 61), (32, 24), Resize::Stretch, (32, 24), (0, 0)),
            // 61 * 32 / 97 = 20.12
            ((97, 61), (32, 24), Resize::Fit, (32, 20), (0, 2)),
            // 61 * 31 / 97 = 19.49 and an odd rest: the smaller half is above
            ((97, 61), (31, 24), Resize::Fit, (31, 19), (0, 2)),
            ((61, 97), (24, 31), Resize::Fit, (19, 31), (2, 0)),
            // a half is rounded up: 5 * 3 / 2 = 7.5
            ((2, 5), (3, 100), Resize::Fit, (3, 8), (0, 46)),
            // never less than one pixel
            ((10_000, 1), (32, 24), Resize::Fit, (32, 1), (0, 11)),
            ((32, 24), (32, 24), Resize::Fit, (32, 24), (0, 0)),
        ];
        for (source, (width, height), resize, size, at) in cases {
            let placement = place(source, &spec(width, height, resize));
            assert_eq!(
                (placement.size, placement.at),
                (size, at),
                "{source:?} to {width} x {height} by {resize:?}"
            );
            assert_eq!(placement.source, (0.0, 0.0, f64::from(source.0), f64::from(source.1)));
        }
        // 97 * 24 / 61 = 38.16: six columns too many, three of them dropped at the left, each 97/38 wide.
        let placement = place((97, 61), &spec(32, 24, Resize::Crop));
        let column = 97.0 / 38.0;
        assert_eq!(placement.source, (3.0 * column, 0.0, 32.0 * column, 61.0));
        assert_eq!((placement.size, placement.at), ((32, 24), (0, 0)));
    }

    #[test]
    fn an_image_of_the_right_size_is_left_as_it_is() {
        let image = pixels(7, 5);
        for resize in [Resize::Stretch, Resize::Fit, Resize::Crop] {
            for layout in [Layout::Nchw, Layout::Nhwc] {
                let tensor = preprocess(&image, &InputSpec { layout, ..spec(7, 5, resize) });
                let index = |c: usize, y: usize, x: usize| match layout {
                    Layout::Nchw => (c * 5 + y) * 7 + x,
                    Layout::Nhwc => (y * 7 + x) * 3 + c,
                };
                for (x, y) in (0..7).flat_map(|x| (0..5).map(move |y| (x, y))) {
                    assert_eq!(tensor.values[index(0, y, x)], x as f32);
                    assert_eq!(tensor.values[index(1, y, x)], y as f32);
                    assert_eq!(tensor.values[index(2, y, x)], 200.0);
                }
            }
        }
    }

    #[test]
    fn padding_surrounds_the_image() {
        let tensor = preprocess(&pixels(4, 2), &spec(4, 5, Resize::Fit));
        assert_eq!(tensor.shape, [1, 3, 5, 4]);
        let rows: Vec<&[f32]> = tensor.values[20..40].chunks(4).collect();
        assert_eq!(rows, [&[20.0; 4], &[0.0; 4], &[1.0; 4], &[20.0; 4], &[20.0; 4]]);
        // The padding goes through the same conversion as the image: (10, 20, 30) has a luma of 18.
        let gray =
            InputSpec { color: ColorMode::Gray, mean: vec![8.0], std: vec![2.0], ..spec(4, 5, Resize::Fit) };
        assert_eq!(preprocess(&pixels(4, 2), &gray).values[0], 5.0);
    }

    #[test]
    fn luma_is_that_of_pillow() {
        assert_eq!(luma(&[255, 255, 255, 255, 0, 0, 0, 255, 0, 0, 0, 255, 1, 2, 3]), [255, 76, 150, 29, 2]);
    }

    #[test]
    fn extreme_shapes_need_no_extreme_memory() {
        for (width_px, height_px) in [(60_000, 1), (1, 60_000), (1, 1), (4096, 3)] {
            let image = Pixels { width_px, height_px, rgb: vec![77; (width_px * height_px * 3) as usize] };
            for resize in [Resize::Stretch, Resize::Fit, Resize::Crop] {
                let tensor = preprocess(&image, &InputSpec { pad: [77; 3], ..spec(224, 200, resize) });
                assert_eq!(tensor.values.len(), 3 * 224 * 200);
                assert!(
                    tensor.values.iter().all(|&value| value == 77.0),
                    "{width_px} x {height_px} by {resize:?}"
                );
            }
        }
    }
}
