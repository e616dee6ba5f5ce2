//! What lies in or on a red cell: ring forms, trophozoites, and harmless things that look a little like them.
//!
//! It keeps one invariant: whatever it draws lies within the cell's outline, where a reader would look for it.

use rand::Rng;

use super::canvas::Canvas;
use super::cell::Outline;
use super::noise::{Field, between, chance, direction, polar, step};

/// Chromatin stains red to dark purple: green goes first.
const CHROMATIN: [f32; 3] = [0.42, 1.75, 0.40];
/// Cytoplasm stains blue to purple.
const CYTOPLASM: [f32; 3] = [0.56, 0.80, 0.18];
/// Malaria pigment (hemozoin) is golden brown to black.
const PIGMENT: [f32; 3] = [0.70, 1.00, 1.30];
/// Dirt and precipitate take all colours nearly alike.
const DIRT: [f32; 3] = [0.85, 0.90, 0.80];
/// Platelets are pale lilac.
const PLATELET: [f32; 3] = [0.30, 0.48, 0.14];

/// How far a ring form has grown, and where in the cell it lies.
pub struct RingForm {
    /// Smallest and largest radius, as shares of the cell's.
    pub size: (f32, f32),
    /// Whether it lies on the cell's border rather than anywhere.
    pub on_border: bool,
}

impl RingForm {
    /// Any age, anywhere.
    pub const ANY: Self = Self { size: (0.13, 0.28), on_border: false };
}

/// Draws a ring form: a thin ring of cytoplasm around a clear vacuole, with one or two chromatin dots.
pub fn draw_ring(canvas: &mut Canvas, rng: &mut impl Rng, cell: &Outline, form: &RingForm, strength: f32) {
    let radius = cell.radius_px * between(rng, form.size.0, form.size.1);
    let (mut cx, mut cy) = place(rng, cell, radius, 0.92);
    if form.on_border {
        let angle = libm::atan2f(cy, cx);
        let ((c, s), r) = (polar(angle), cell.reach_px(angle) * 0.96 - radius);
        (cx, cy) = (r * c, r * s);
    }
    let (squeeze, tilt) = (between(rng, 0.72, 1.0), polar(direction(rng)));
    let thickness = between(rng, 0.10, 0.19) * radius + 0.9;
    let heavy = direction(rng);
    let gap = chance(rng, 0.25).then(|| direction(rng));
    let wobble = Field::new(rng, radius * 0.8);
    let local = move |x: f32, y: f32| {
        let (dx, dy) = (x - cx, y - cy);
        let (c, s) = tilt;
        let (u, v) = (dx * c + dy * s, (dy * c - dx * s) / squeeze);
        let r = (u * u + v * v).sqrt() * (1.0 + 0.08 * wobble.at(x, y));
        (r, libm::atan2f(v, u))
    };
    // The vacuole lets through a little more light than the cell around it.
    canvas.stain(CYTOPLASM, |x, y| -0.10 * strength * (1.0 - step(radius * 0.5, radius, local(x, y).0)));
    canvas.stain(CYTOPLASM, |x, y| {
        let (r, angle) = local(x, y);
        let width = thickness * (1.0 + 0.55 * libm::cosf(angle - heavy));
        let line = 1.0 - step(width * 0.5, width * 1.15, (r - radius).abs());
        let open = gap.map_or(1.0, |g| step(0.25, 0.6, turn(angle, g)));
        1.2 * strength * line * open
    });
    let at = direction(rng);
    let dots = if chance(rng, 0.22) { 2 } else { 1 };
    for dot in 0..dots {
        let angle = at + dot as f32 * between(rng, 0.5, 2.4);
        let (c, s) = tilt;
        let (cos, sin) = polar(angle);
        let (u, v) = (radius * cos, radius * sin * squeeze);
        let (x, y) = (cx + u * c - v * s, cy + u * s + v * c);
        let size = radius * between(rng, 0.24, 0.38) + 1.2;
        draw_lump(canvas, rng, (x, y), size, CHROMATIN, 1.15 * strength);
    }
}

/// Draws a trophozoite: irregular cytoplasm, a lump of chromatin, a vacuole and grains of brown pigment.
pub fn draw_trophozoite(canvas: &mut Canvas, rng: &mut impl Rng, cell: &Outline, strength: f32) {
    let radius = cell.radius_px * between(rng, 0.30, 0.50);
    let (cx, cy) = place(rng, cell, radius, 0.95);
    let (edge, texture) = (Field::new(rng, radius * 0.7), Field::new(rng, 5.0));
    let (squeeze, tilt) = (between(rng, 0.6, 0.95), polar(direction(rng)));
    let reach = move |x: f32, y: f32| {
        let (dx, dy) = (x - cx, y - cy);
        let (c, s) = tilt;
        let (u, v) = (dx * c + dy * s, (dy * c - dx * s) / squeeze);
        (u * u + v * v).sqrt() * (1.0 + 0.38 * edge.rough(x, y))
    };
    let hole = radius * between(rng, 0.15, 0.34);
    let (hx, hy) = near(rng, (cx, cy), radius * 0.35);
    canvas.stain(CYTOPLASM, |x, y| {
        let body = 1.0 - step(radius * 0.82, radius * 1.02, reach(x, y));
        let vacuole = 1.0 - step(hole * 0.6, hole, libm::hypotf(x - hx, y - hy));
        strength * body * (1.0 - 0.85 * vacuole) * (0.85 + 0.28 * texture.rough(x, y))
    });
    let lumps = if chance(rng, 0.3) { 2 } else { 1 };
    for _ in 0..lumps {
        let at = near(rng, (cx, cy), radius * 0.6);
        let size = radius * between(rng, 0.20, 0.32) + 1.0;
        draw_lump(canvas, rng, at, size, CHROMATIN, 1.0 * strength);
    }
    let (px, py) = near(rng, (cx, cy), radius * 0.45);
    for _ in 0..rng.random_range(4..12) {
        let at = near(rng, (px, py), radius * 0.32);
        let (size, strength) = (between(rng, 1.2, 2.3), between(rng, 0.7, 1.2));
        draw_lump(canvas, rng, at, size, PIGMENT, strength);
    }
}

/// Draws a speck of dirt or stain precipitate: small, dark, without colour.
pub fn draw_dirt(canvas: &mut Canvas, rng: &mut impl Rng, cell: &Outline) {
    let at = place(rng, cell, 3.0, 0.95);
    let (size, strength) = (between(rng, 1.2, 2.6), between(rng, 0.25, 0.7));
    draw_lump(canvas, rng, at, size, DIRT, strength);
}

/// Draws a platelet that lies on the cell: pale lilac, grainy, no dot and no ring.
pub fn draw_platelet(canvas: &mut Canvas, rng: &mut impl Rng, cell: &Outline) {
    let size = cell.radius_px * between(rng, 0.10, 0.17);
    let (x, y) = place(rng, cell, size, 1.0);
    let (halo, strength) = (size * 1.5, between(rng, 0.35, 0.6));
    canvas.stain(PLATELET, |px, py| -0.12 * (1.0 - step(size, halo, libm::hypotf(px - x, py - y))));
    draw_lump(canvas, rng, (x, y), size, PLATELET, strength);
}

fn draw_lump(
    canvas: &mut Canvas,
    rng: &mut impl Rng,
    (cx, cy): (f32, f32),
    size_px: f32,
    stain: [f32; 3],
    strength: f32,
) {
    let (stretch, tilt) = (between(rng, 1.0, 1.55), polar(direction(rng)));
    let edge = Field::new(rng, size_px.max(2.0));
    let (c, s) = tilt;
    canvas.stain(stain, |x, y| {
        let (dx, dy) = (x - cx, y - cy);
        let (u, v) = ((dx * c + dy * s) / stretch, (dy * c - dx * s) * stretch.sqrt());
        let r = (u * u + v * v).sqrt() * (1.0 + 0.22 * edge.at(x, y));
        strength * (1.0 - step(size_px * 0.6, size_px * 1.25, r))
    });
}

/// A place where something of `radius` px fits within `share` of the cell's outline.
fn place(rng: &mut impl Rng, cell: &Outline, radius: f32, share: f32) -> (f32, f32) {
    let angle = direction(rng);
    let free = (cell.reach_px(angle) * share - radius).max(0.0);
    // The square root spreads places evenly over the disc instead of crowding its centre.
    let r = free * rng.random::<f32>().sqrt();
    let (c, s) = polar(angle);
    (r * c, r * s)
}

fn near(rng: &mut impl Rng, (x, y): (f32, f32), reach: f32) -> (f32, f32) {
    let (angle, r) = (direction(rng), reach * rng.random::<f32>().sqrt());
    let (c, s) = polar(angle);
    (x + r * c, y + r * s)
}

/// The angle between two directions, 0..=π.
fn turn(a: f32, b: f32) -> f32 {
    let t = (a - b).rem_euclid(std::f32::consts::TAU);
    t.min(std::f32::consts::TAU - t)
}
