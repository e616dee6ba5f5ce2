//! Geometric drawings: stars, checkerboards, stripes, rings, crosses.
//!
//! It never draws a single filled disc, which could pass for a cell. It keeps one invariant: the drawing's
//! colour differs clearly from its background.

use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::blob::Blob;
use super::super::noise::{between, chance, direction, polar, step};
use super::super::plate::{Color, Plate, Point, any_color};
use super::cut_round;
use super::plain::pale;

/// A drawing on an even background.
pub fn shapes(rng: &mut ChaCha8Rng, size: (usize, usize)) -> RgbImage {
    let background = match rng.random_range(0..4) {
        0 => pale(rng),
        1 => [0.0; 3],
        _ => any_color(rng),
    };
    let mut plate = Plate::new(size, background);
    match rng.random_range(0..6) {
        0 => corners(&mut plate, rng, background, false),
        1 => corners(&mut plate, rng, background, true),
        2 => checkerboard(&mut plate, rng, background),
        3 => stripes(&mut plate, rng, background),
        4 => rings(&mut plate, rng, background),
        _ => crosses(&mut plate, rng, background),
    }
    if chance(rng, 0.3) {
        let sigma = between(rng, 0.3, 1.5);
        plate.blur(sigma);
    }
    if chance(rng, 0.5) {
        let strength = between(rng, 0.0, 0.03);
        plate.grain(rng, strength);
    }
    let cut = chance(rng, 0.2);
    if cut {
        cut_round(&mut plate, rng);
    }
    plate.finish(cut)
}

/// A colour that stands out from another.
pub fn contrasting(rng: &mut ChaCha8Rng, other: Color) -> Color {
    loop {
        let color = any_color(rng);
        let apart: f32 = color.iter().zip(other).map(|(a, b)| (a - b).abs()).sum();
        if apart > 0.9 {
            return color;
        }
    }
}

fn spot(rng: &mut ChaCha8Rng, plate: &Plate) -> Point {
    let (w, h) = plate.size();
    (between(rng, 0.15, 0.85) * w, between(rng, 0.15, 0.85) * h)
}

/// Triangles and quadrangles, or stars; with more corners a polygon on black would come close to a cell.
fn corners(plate: &mut Plate, rng: &mut ChaCha8Rng, background: Color, stars: bool) {
    let count = rng.random_range(1..6);
    for _ in 0..count {
        let centre = if count == 1 { plate.middle() } else { spot(rng, plate) };
        let r = plate.short_px() * if count == 1 { between(rng, 0.3, 0.5) } else { between(rng, 0.1, 0.3) };
        let points = if stars { rng.random_range(4..8) } else { rng.random_range(3..5) };
        let (turn, waist) = (direction(rng), between(rng, 0.3, 0.55));
        let steps = if stars { points * 2 } else { points };
        let outline: Vec<Point> = (0..steps)
            .map(|i| {
                let (c, s) = polar(turn + std::f32::consts::TAU * i as f32 / steps as f32);
                let r = if stars && i % 2 == 1 { r * waist } else { r };
                (centre.0 + r * c, centre.1 + r * s)
            })
            .collect();
        let color = contrasting(rng, background);
        if chance(rng, 0.7) {
            plate.polygon(&outline, color, 1.0);
        } else {
            let closed: Vec<Point> = outline.iter().chain(&outline[..1]).copied().collect();
            let width = between(rng, 1.5, 6.0);
            plate.stroke(&closed, width, color, 1.0);
        }
    }
}

fn checkerboard(plate: &mut Plate, rng: &mut ChaCha8Rng, background: Color) {
    let color = contrasting(rng, background);
    let field = plate.long_px() / between(rng, 3.0, 14.0);
    let (c, s) = polar(if chance(rng, 0.5) { 0.0 } else { direction(rng) });
    plate.cover(plate.whole(), color, |x, y| {
        let (i, j) = (((x * c + y * s) / field).floor() as i32, ((y * c - x * s) / field).floor() as i32);
        if (i + j).rem_euclid(2) == 0 { 1.0 } else { 0.0 }
    });
}

fn stripes(plate: &mut Plate, rng: &mut ChaCha8Rng, background: Color) {
    let color = contrasting(rng, background);
    let period = plate.long_px() / between(rng, 2.5, 16.0);
    let width = between(rng, 0.25, 0.75);
    let (c, s) = polar(direction(rng));
    plate.cover(plate.whole(), color, |x, y| {
        let t = (x * c + y * s) / period;
        step(0.0, 0.06, width - (t - t.floor()))
    });
}

fn rings(plate: &mut Plate, rng: &mut ChaCha8Rng, background: Color) {
    let color = contrasting(rng, background);
    for _ in 0..rng.random_range(1..4) {
        let centre = spot(rng, plate);
        let r = plate.short_px() * between(rng, 0.2, 0.5);
        let target = Blob::new(rng, centre, (r, r), 0.0);
        let count = rng.random_range(2..6) as f32;
        plate.cover(target.area(), color, |x, y| {
            let t = target.reach(x, y);
            let ring = t * count;
            if t > 1.0 { 0.0 } else { step(0.0, 0.2, 0.5 - (ring - ring.floor() - 0.5).abs() * 1.2) }
        });
    }
}

fn crosses(plate: &mut Plate, rng: &mut ChaCha8Rng, background: Color) {
    for _ in 0..rng.random_range(1..7) {
        let color = contrasting(rng, background);
        let (x, y) = spot(rng, plate);
        let (r, width) =
            (plate.short_px() * between(rng, 0.12, 0.45), plate.short_px() * between(rng, 0.03, 0.12));
        let (c, s) = polar(direction(rng));
        plate.stroke(&[(x - c * r, y - s * r), (x + c * r, y + s * r)], width, color, 1.0);
        plate.stroke(&[(x + s * r, y - c * r), (x - s * r, y + c * r)], width, color, 1.0);
    }
}
