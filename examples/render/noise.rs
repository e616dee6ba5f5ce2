//! Smooth random fields and the few random helpers that the drawing needs.
//!
//! A field is a pure function of its seed and the position. It keeps one invariant: values lie in -1..=1.

use rand::Rng;

/// A smooth random field over the plane, one value per position, -1..=1.
#[derive(Clone, Copy)]
pub struct Field {
    seed: u32,
    scale_px: f32,
}

impl Field {
    /// Makes a field whose bumps are about `scale_px` pixels wide.
    pub fn new(rng: &mut impl Rng, scale_px: f32) -> Self {
        Self { seed: rng.random(), scale_px }
    }

    /// The field's value at a position in pixels.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x / self.scale_px, y / self.scale_px);
        let (x0, y0) = (x.floor(), y.floor());
        let (u, v) = (ease(x - x0), ease(y - y0));
        let (x0, y0) = (x0 as i32, y0 as i32);
        let top = mix(self.corner(x0, y0), self.corner(x0 + 1, y0), u);
        let bottom = mix(self.corner(x0, y0 + 1), self.corner(x0 + 1, y0 + 1), u);
        mix(top, bottom, v)
    }

    /// Two octaves: the field and a half as strong one of half the size.
    pub fn rough(&self, x: f32, y: f32) -> f32 {
        (self.at(x, y) + 0.5 * self.at(2.0 * x + 31.7, 2.0 * y - 12.3)) / 1.5
    }

    fn corner(&self, x: i32, y: i32) -> f32 {
        // An integer hash, so that a field needs no table and every platform agrees on it.
        let mut h = self.seed
            ^ (x as u32).wrapping_mul(0x9E37_79B1)
            ^ (y as u32).wrapping_mul(0x85EB_CA77).rotate_left(13);
        h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
        h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
        h ^= h >> 15;
        (h >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

/// A number between `low` and `high`.
pub fn between(rng: &mut impl Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

/// True with the probability `p`.
pub fn chance(rng: &mut impl Rng, p: f32) -> bool {
    rng.random::<f32>() < p
}

/// A number from a bell curve with mean 0 and standard deviation 1, never beyond 3.5.
pub fn bell(rng: &mut impl Rng) -> f32 {
    // Twelve uniform numbers: close enough to normal for grain, and without a logarithm.
    let sum: f32 = (0..12).map(|_| rng.random::<f32>()).sum();
    (sum - 6.0).clamp(-3.5, 3.5)
}

/// A direction in radians, 0..2π.
pub fn direction(rng: &mut impl Rng) -> f32 {
    between(rng, 0.0, std::f32::consts::TAU)
}

/// Cosine and sine of an angle in radians, the same on every platform.
pub fn polar(angle: f32) -> (f32, f32) {
    (libm::cosf(angle), libm::sinf(angle))
}

/// `a` at `t` = 0, `b` at `t` = 1.
pub fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// 0 below `low`, 1 above `high`, smooth in between.
pub fn step(low: f32, high: f32, value: f32) -> f32 {
    ease(((value - low) / (high - low)).clamp(0.0, 1.0))
}

fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}
