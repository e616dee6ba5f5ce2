//! A roundish thing with an uneven border: a cell, a nucleus, a grain of dust, a mask.
//!
//! It keeps one invariant: beyond its `area` nothing of it is left.

use rand::Rng;

use super::noise::{Field, direction, polar, step};
use super::plate::{Area, Point};

/// A roundish thing with an uneven border.
#[derive(Clone, Copy)]
pub struct Blob {
    /// The middle.
    pub centre: Point,
    /// Half axes before the border is made uneven, in pixels.
    pub half: (f32, f32),
    tilt: (f32, f32),
    border: Field,
    unevenness: f32,
}

impl Blob {
    /// A blob with a random tilt; `unevenness` is how far its border strays, as a share of its size.
    pub fn new(rng: &mut impl Rng, centre: Point, half: (f32, f32), unevenness: f32) -> Self {
        let tilt = direction(rng);
        Self::tilted(rng, centre, half, unevenness, tilt)
    }

    /// A blob whose first axis points to `tilt` radians.
    pub fn tilted(rng: &mut impl Rng, centre: Point, half: (f32, f32), unevenness: f32, tilt: f32) -> Self {
        let border = Field::new(rng, (half.0.min(half.1) * 0.8).max(1.5));
        Self { centre, half, tilt: polar(tilt), border, unevenness }
    }

    /// Distance from the centre as a share of the way to the border: 1 on the border.
    pub fn reach(&self, x: f32, y: f32) -> f32 {
        let (dx, dy) = (x - self.centre.0, y - self.centre.1);
        let (c, s) = self.tilt;
        let (u, v) = ((dx * c + dy * s) / self.half.0, (dy * c - dx * s) / self.half.1);
        let r = (u * u + v * v).sqrt();
        // Far away the border does not matter, and noise is what costs time.
        if self.unevenness == 0.0 || r > 1.0 + 2.0 * self.unevenness {
            return r;
        }
        r * (1.0 + self.unevenness * self.border.at(x, y))
    }

    /// How much of the blob is at a place, 0..=1, with a border `soft` wide as a share of its size.
    pub fn cover(&self, x: f32, y: f32, soft: f32) -> f32 {
        1.0 - step(1.0 - soft, 1.0 + soft, self.reach(x, y))
    }

    /// The box that holds the blob and its soft border.
    pub fn area(&self) -> Area {
        let r = self.half.0.max(self.half.1) * (1.3 + 1.5 * self.unevenness) + 2.0;
        (self.centre.0 - r, self.centre.1 - r, self.centre.0 + r, self.centre.1 + r)
    }
}
