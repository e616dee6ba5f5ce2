//! The picture while it is drawn: light that comes through, and the mask that cuts the cell out.
//!
//! It keeps one invariant: stain only takes light away, as on a real slide, so marks can be drawn in any order.

use image::{Rgb, RgbImage};
use rand::Rng;

use super::noise::{Field, bell};

/// Light per pixel, red, green, blue, 0..=1 after `finish`, and the mask of what is kept.
pub struct Canvas {
    side_px: u32,
    light: Vec<[f32; 3]>,
    kept: Vec<bool>,
}

impl Canvas {
    /// A square canvas of `side_px` pixels, filled by `paint(x, y)`; positions count from the centre.
    pub fn paint(side_px: u32, paint: impl Fn(f32, f32) -> [f32; 3]) -> Self {
        let mut canvas = Self {
            side_px,
            light: vec![[0.0; 3]; (side_px * side_px) as usize],
            kept: vec![true; (side_px * side_px) as usize],
        };
        for index in 0..canvas.light.len() {
            let (x, y) = canvas.position(index);
            canvas.light[index] = paint(x, y);
        }
        canvas
    }

    /// Takes light away: `density(x, y)` is how much, and `stain` which colours it takes.
    pub fn stain(&mut self, stain: [f32; 3], density: impl Fn(f32, f32) -> f32) {
        for index in 0..self.light.len() {
            let (x, y) = self.position(index);
            let d = density(x, y);
            if d != 0.0 {
                for (light, absorbed) in self.light[index].iter_mut().zip(stain) {
                    *light *= libm::expf(-absorbed * d);
                }
            }
        }
    }

    /// Blurs as a microscope slightly out of focus does; `sigma_px` is the blur's width.
    pub fn blur(&mut self, sigma_px: f32) {
        let reach = (sigma_px * 3.0).ceil() as i32;
        let mut kernel: Vec<f32> =
            (-reach..=reach).map(|i| libm::expf(-((i * i) as f32) / (2.0 * sigma_px * sigma_px))).collect();
        let total: f32 = kernel.iter().sum();
        kernel.iter_mut().for_each(|k| *k /= total);
        for (dx, dy) in [(1, 0), (0, 1)] {
            let before = self.light.clone();
            let side = self.side_px as i32;
            for y in 0..side {
                for x in 0..side {
                    let mut sum = [0.0; 3];
                    for (i, k) in kernel.iter().enumerate() {
                        let offset = i as i32 - reach;
                        let sx = (x + dx * offset).clamp(0, side - 1);
                        let sy = (y + dy * offset).clamp(0, side - 1);
                        let light = before[(sy * side + sx) as usize];
                        for (s, l) in sum.iter_mut().zip(light) {
                            *s += k * l;
                        }
                    }
                    self.light[(y * side + x) as usize] = sum;
                }
            }
        }
    }

    /// Adds the camera's grain, coarse and fine, of about `strength` (0..=1 is the whole range of light).
    pub fn grain(&mut self, rng: &mut impl Rng, strength: f32) {
        let coarse = [Field::new(rng, 2.6), Field::new(rng, 3.4), Field::new(rng, 3.0)];
        for index in 0..self.light.len() {
            let (x, y) = self.position(index);
            let shared = coarse[0].at(x, y);
            for (channel, light) in self.light[index].iter_mut().enumerate() {
                *light += strength * (0.8 * shared + 0.5 * coarse[channel].at(x, y) + 0.35 * bell(rng));
            }
        }
    }

    /// Keeps only what `inside(x, y)` says, decided for blocks of `block_px`: the cut-out of a
    /// segmentation at low resolution has such steps.
    pub fn cut(&mut self, block_px: u32, inside: impl Fn(f32, f32) -> bool) {
        for y in 0..self.side_px {
            for x in 0..self.side_px {
                let middle = |v: u32| ((v / block_px) * block_px) as f32 + block_px as f32 / 2.0;
                let half = self.side_px as f32 / 2.0;
                self.kept[(y * self.side_px + x) as usize] = inside(middle(x) - half, middle(y) - half);
            }
        }
    }

    /// The finished picture: everything cut away is black, and no border is wider than needed.
    /// The second value tells, pixel by pixel, what was kept.
    pub fn finish(&self) -> (RgbImage, Vec<bool>) {
        let side = self.side_px;
        let kept = |x: u32, y: u32| self.kept[(y * side + x) as usize];
        let columns: Vec<u32> = (0..side).filter(|&x| (0..side).any(|y| kept(x, y))).collect();
        let rows: Vec<u32> = (0..side).filter(|&y| (0..side).any(|x| kept(x, y))).collect();
        let (Some(&left), Some(&right)) = (columns.first(), columns.last()) else {
            return (RgbImage::new(1, 1), vec![false]);
        };
        let (top, bottom) = (rows[0], rows[rows.len() - 1]);
        let mut mask = Vec::new();
        let picture = RgbImage::from_fn(right - left + 1, bottom - top + 1, |x, y| {
            let light = self.light[((y + top) * side + x + left) as usize];
            if kept(x + left, y + top) {
                Rgb(light.map(|l| (l.clamp(0.0, 1.0) * 255.0).round() as u8))
            } else {
                Rgb([0, 0, 0])
            }
        });
        for y in top..=bottom {
            for x in left..=right {
                mask.push(kept(x, y));
            }
        }
        (picture, mask)
    }

    fn position(&self, index: usize) -> (f32, f32) {
        let half = self.side_px as f32 / 2.0;
        let (x, y) = (index as u32 % self.side_px, index as u32 / self.side_px);
        (x as f32 + 0.5 - half, y as f32 + 0.5 - half)
    }
}
