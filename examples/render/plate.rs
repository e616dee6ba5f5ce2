//! A picture of any width and height on which anything is drawn cheaply: blobs, strokes, polygons, blur, grain.
//!
//! It keeps one invariant: only shapes' own boxes are visited, and nothing is computed per pixel that platforms round
//! differently (no sine, no exponential), so bytes agree between machines.

use image::{Rgb, RgbImage};
use rand::Rng;

use super::blob::Blob;
use super::noise::{between, direction, mix, polar, step};

/// A colour, red, green, blue, 0..=1.
pub type Color = [f32; 3];

/// A place in pixels from the upper left corner.
pub type Point = (f32, f32);

/// A part of the plane in pixels: left, top, right, bottom.
pub type Area = (f32, f32, f32, f32);

/// The picture while it is drawn, 0..=1 for each channel.
pub struct Plate {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    light: Vec<Color>,
}

impl Plate {
    /// A plate in one colour.
    pub fn new((width, height): (usize, usize), color: Color) -> Self {
        Self { width, height, light: vec![color; width * height] }
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (f32, f32) {
        (self.width as f32, self.height as f32)
    }

    /// The longer side in pixels.
    pub fn long_px(&self) -> f32 {
        self.width.max(self.height) as f32
    }

    /// The shorter side in pixels.
    pub fn short_px(&self) -> f32 {
        self.width.min(self.height) as f32
    }

    /// The middle.
    pub fn middle(&self) -> Point {
        (self.width as f32 / 2.0, self.height as f32 / 2.0)
    }

    /// All of it.
    pub fn whole(&self) -> Area {
        (0.0, 0.0, self.width as f32, self.height as f32)
    }

    /// Sets every pixel.
    pub fn paint(&mut self, mut color: impl FnMut(f32, f32) -> Color) {
        for y in 0..self.height {
            for x in 0..self.width {
                self.light[y * self.width + x] = color(x as f32 + 0.5, y as f32 + 0.5);
            }
        }
    }

    /// Changes each pixel of an area as `change(x, y, color)` says.
    pub fn alter(&mut self, area: Area, mut change: impl FnMut(f32, f32, &mut Color)) {
        let range = |low: f32, high: f32, size: usize| {
            (low.floor().max(0.0) as usize).min(size)..(high.ceil().max(0.0) as usize).min(size)
        };
        for y in range(area.1, area.3, self.height) {
            for x in range(area.0, area.2, self.width) {
                change(x as f32 + 0.5, y as f32 + 0.5, &mut self.light[y * self.width + x]);
            }
        }
    }

    /// Covers an area with a colour as strongly as `cover(x, y)` says, 0..=1.
    pub fn cover(&mut self, area: Area, color: Color, cover: impl Fn(f32, f32) -> f32) {
        self.alter(area, |x, y, light| {
            let a = cover(x, y);
            if a != 0.0 {
                *light = blend(*light, color, a);
            }
        });
    }

    /// Lets light through an area as a filter of `color` does, as strongly as `cover(x, y)` says.
    pub fn filter(&mut self, area: Area, color: Color, cover: impl Fn(f32, f32) -> f32) {
        self.alter(area, |x, y, light| {
            let a = cover(x, y);
            if a != 0.0 {
                for (l, c) in light.iter_mut().zip(color) {
                    *l *= 1.0 + (c - 1.0) * a;
                }
            }
        });
    }

    /// A blob in one colour; see [`Blob::cover`].
    pub fn blob(&mut self, blob: &Blob, color: Color, strength: f32, soft: f32) {
        self.cover(blob.area(), color, |x, y| strength * blob.cover(x, y, soft));
    }

    /// A line through the points, `width_px` wide.
    pub fn stroke(&mut self, points: &[Point], width_px: f32, color: Color, strength: f32) {
        let r = width_px / 2.0;
        for pair in points.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            let area = (
                a.0.min(b.0) - r - 1.0,
                a.1.min(b.1) - r - 1.0,
                a.0.max(b.0) + r + 1.0,
                a.1.max(b.1) + r + 1.0,
            );
            self.cover(area, color, |x, y| strength * (1.0 - step(r - 0.6, r + 0.6, distance((x, y), a, b))));
        }
    }

    /// A filled polygon with a border softened over a pixel.
    pub fn polygon(&mut self, corners: &[Point], color: Color, strength: f32) {
        let bound = |pick: fn(&Point) -> f32, worse: fn(f32, f32) -> f32| {
            corners.iter().map(pick).reduce(worse).unwrap_or(0.0)
        };
        let area = (
            bound(|p| p.0, f32::min) - 1.0,
            bound(|p| p.1, f32::min) - 1.0,
            bound(|p| p.0, f32::max) + 1.0,
            bound(|p| p.1, f32::max) + 1.0,
        );
        self.cover(area, color, |x, y| {
            let mut inside = false;
            let mut near = f32::MAX;
            for (i, &a) in corners.iter().enumerate() {
                let b = corners[(i + 1) % corners.len()];
                if (a.1 > y) != (b.1 > y) && x < (b.0 - a.0) * (y - a.1) / (b.1 - a.1) + a.0 {
                    inside = !inside;
                }
                near = near.min(distance((x, y), a, b));
            }
            strength * step(-0.7, 0.7, if inside { near } else { -near })
        });
    }

    /// Blurs with three boxes, which come close to a bell of `sigma_px`.
    pub fn blur(&mut self, sigma_px: f32) {
        // Three boxes of 2r+1 pixels have the variance r(r+1).
        let exact = (0.25 + sigma_px * sigma_px).sqrt() - 0.5;
        if exact < 0.8 {
            return self.soften(exact);
        }
        let r = exact.round() as usize;
        for _ in 0..3 {
            for y in 0..self.height {
                self.box_line(y * self.width, 1, self.width, r);
            }
            for x in 0..self.width {
                self.box_line(x, self.width, self.height, r);
            }
        }
    }

    /// Moves each pixel towards the mean of its four neighbours.
    fn soften(&mut self, amount: f32) {
        let before = self.light.clone();
        let (w, h) = (self.width, self.height);
        for y in 0..h {
            for x in 0..w {
                let at = |x: usize, y: usize| before[y * w + x];
                let near = [
                    at(x.saturating_sub(1), y),
                    at((x + 1).min(w - 1), y),
                    at(x, y.saturating_sub(1)),
                    at(x, (y + 1).min(h - 1)),
                ];
                let mean = std::array::from_fn(|i| (near[0][i] + near[1][i] + near[2][i] + near[3][i]) / 4.0);
                self.light[y * w + x] = blend(before[y * w + x], mean, (amount * 1.2).min(0.8));
            }
        }
    }

    fn box_line(&mut self, start: usize, stride: usize, count: usize, r: usize) {
        let line: Vec<Color> = (0..count).map(|i| self.light[start + i * stride]).collect();
        let at = |i: isize| line[i.clamp(0, count as isize - 1) as usize];
        let share = 1.0 / (2 * r + 1) as f32;
        let mut sum = [0.0_f32; 3];
        for i in -(r as isize)..=(r as isize) {
            add(&mut sum, at(i), 1.0);
        }
        for i in 0..count {
            self.light[start + i * stride] = sum.map(|s| s * share);
            add(&mut sum, at(i as isize + r as isize + 1), 1.0);
            add(&mut sum, at(i as isize - r as isize), -1.0);
        }
    }

    /// Adds grain of about `strength`, in grey and in colour, to what is not black as a cut-out is.
    pub fn grain(&mut self, rng: &mut impl Rng, strength: f32) {
        let mut state: u32 = rng.random::<u32>() | 1;
        let colour = between(rng, 0.2, 1.0);
        for light in &mut self.light {
            if light.iter().all(|&l| l <= 0.0) {
                continue;
            }
            let mut grey = 0.0;
            for (i, l) in light.iter_mut().enumerate() {
                // Xorshift: a generator for each pixel would cost more than all drawing.
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                let n = ((state & 0xffff) as f32 + (state >> 16) as f32) / 65_536.0 - 1.0;
                if i == 0 {
                    grey = n;
                }
                *l += 2.4 * strength * mix(grey, n, colour);
            }
        }
    }

    /// Light that falls off towards one side by `slope` and towards the corners by `vignette`.
    pub fn shade(&mut self, rng: &mut impl Rng, slope: f32, vignette: f32) {
        let (c, s) = polar(direction(rng));
        let ((w, h), long) = (self.size(), self.long_px());
        let off = (between(rng, -0.15, 0.15) * w, between(rng, -0.15, 0.15) * h);
        self.alter((0.0, 0.0, w, h), |x, y, light| {
            let (u, v) = ((x - w / 2.0) / long, (y - h / 2.0) / long);
            let (p, q) = (u + off.0 / long, v + off.1 / long);
            let factor = 1.0 + slope * (u * c + v * s) - vignette * (p * p + q * q) * 2.0;
            light.iter_mut().for_each(|l| *l *= factor);
        });
    }

    /// Blackens what `inside(x, y)` does not keep, in blocks of `block_px` as a segmentation at low resolution does.
    pub fn cut(&mut self, block_px: usize, inside: impl Fn(f32, f32) -> bool) {
        for top in (0..self.height).step_by(block_px) {
            for left in (0..self.width).step_by(block_px) {
                let half = block_px as f32 / 2.0;
                if !inside(left as f32 + half, top as f32 + half) {
                    for y in top..(top + block_px).min(self.height) {
                        for x in left..(left + block_px).min(self.width) {
                            self.light[y * self.width + x] = [0.0; 3];
                        }
                    }
                }
            }
        }
    }

    /// The finished picture, without the wide black border that cutting leaves.
    pub fn finish(&self, crop: bool) -> RgbImage {
        let (mut left, mut top, mut right, mut bottom) = (0, 0, self.width, self.height);
        if crop {
            let seen = |x: usize, y: usize| self.light[y * self.width + x].iter().any(|&l| l > 0.0);
            let columns: Vec<usize> =
                (0..self.width).filter(|&x| (0..self.height).any(|y| seen(x, y))).collect();
            let rows: Vec<usize> =
                (0..self.height).filter(|&y| (0..self.width).any(|x| seen(x, y))).collect();
            if let (Some(&l), Some(&r), Some(&t), Some(&b)) =
                (columns.first(), columns.last(), rows.first(), rows.last())
            {
                (left, top, right, bottom) = (l, t, r + 1, b + 1);
            }
        }
        RgbImage::from_fn((right - left) as u32, (bottom - top) as u32, |x, y| {
            let light = self.light[(y as usize + top) * self.width + x as usize + left];
            Rgb(light.map(|l| (l.clamp(0.0, 1.0) * 255.0).round() as u8))
        })
    }
}

/// `a` at `t` = 0, `b` at `t` = 1.
pub fn blend(a: Color, b: Color, t: f32) -> Color {
    [mix(a[0], b[0], t), mix(a[1], b[1], t), mix(a[2], b[2], t)]
}

/// Any colour, equally often.
pub fn any_color(rng: &mut impl Rng) -> Color {
    [rng.random(), rng.random(), rng.random()]
}

fn add(sum: &mut Color, other: Color, sign: f32) {
    for (s, o) in sum.iter_mut().zip(other) {
        *s += sign * o;
    }
}

/// Distance in pixels from a place to the line between `a` and `b`.
fn distance((x, y): Point, a: Point, b: Point) -> f32 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = (dx * dx + dy * dy).max(1e-6);
    let t = (((x - a.0) * dx + (y - a.1) * dy) / length).clamp(0.0, 1.0);
    let (ex, ey) = (x - a.0 - t * dx, y - a.1 - t * dy);
    (ex * ex + ey * ey).sqrt()
}
