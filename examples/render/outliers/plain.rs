//! Pictures of nothing: empty fields, even colours, and textures.
//!
//! It keeps one invariant: no roundish part in the colour of a cell lies on black, for that would be an uninfected
//! cell.

use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::noise::{Field, between, chance, direction, mix, polar};
use super::super::plate::{Color, Plate, any_color, blend};
use super::cut_round;

/// The even light of a field without cells: pale, pink to grey to blue.
pub fn pale(rng: &mut ChaCha8Rng) -> Color {
    const TINTS: [Color; 6] = [
        [1.00, 0.97, 0.94],
        [1.00, 0.93, 0.92],
        [0.96, 0.96, 0.96],
        [0.93, 0.95, 1.00],
        [0.97, 0.93, 1.00],
        [1.00, 0.98, 0.86],
    ];
    let tint = blend(TINTS[rng.random_range(0..6)], TINTS[rng.random_range(0..6)], rng.random());
    let light = between(rng, 0.72, 0.99);
    tint.map(|t| t * light)
}

/// An empty field or an even colour.
pub fn blank(rng: &mut ChaCha8Rng, size: (usize, usize)) -> RgbImage {
    let color = match rng.random_range(0..100) {
        0..55 => pale(rng),
        55..62 => [between(rng, 0.0, 0.05); 3],
        62..68 => [between(rng, 0.95, 1.0); 3],
        68..75 => [between(rng, 0.1, 0.9); 3],
        // The colours of cells and of stain, but filling the whole picture.
        75..88 => {
            let t = rng.random();
            blend([0.85, 0.60, 0.56], [0.62, 0.52, 0.74], t).map(|c| c * between(rng, 0.6, 1.1))
        }
        _ => any_color(rng),
    };
    let mut plate = Plate::new(size, color);
    if chance(rng, 0.3) {
        let width = between(rng, 0.2, 0.6);
        let (clouds, strength) = (Field::new(rng, plate.long_px() * width), between(rng, 0.0, 0.06));
        plate.alter(plate.whole(), |x, y, light| {
            let factor = 1.0 + strength * clouds.at(x, y);
            light.iter_mut().for_each(|l| *l *= factor);
        });
    }
    if chance(rng, 0.6) {
        let slope = between(rng, 0.0, 0.3);
        let vignette = if chance(rng, 0.5) { between(rng, 0.0, 0.5) } else { 0.0 };
        plate.shade(rng, slope, vignette);
    }
    if chance(rng, 0.85) {
        let strength = between(rng, 0.002, 0.035);
        plate.grain(rng, strength);
    }
    plate.finish(false)
}

/// Noise, clouds, wood, cloth, plasma.
pub fn texture(rng: &mut ChaCha8Rng, size: (usize, usize)) -> RgbImage {
    let mut plate = Plate::new(size, [0.0; 3]);
    let (a, b) =
        if chance(rng, 0.3) { (pale(rng), any_color(rng)) } else { (any_color(rng), any_color(rng)) };
    match rng.random_range(0..5) {
        0 => white_noise(&mut plate, rng),
        1 => clouds(&mut plate, rng, a, b),
        2 => wood(&mut plate, rng),
        3 => cloth(&mut plate, rng, a, b),
        _ => plasma(&mut plate, rng),
    }
    if chance(rng, 0.4) {
        let strength = between(rng, 0.0, 0.03);
        plate.grain(rng, strength);
    }
    let cut = chance(rng, 0.35);
    if cut {
        cut_round(&mut plate, rng);
    }
    plate.finish(cut)
}

fn white_noise(plate: &mut Plate, rng: &mut ChaCha8Rng) {
    let block = rng.random_range(1..6) as f32;
    let grey = chance(rng, 0.4);
    let base = any_color(rng);
    let contrast = between(rng, 0.4, 1.0);
    // At whole numbers a field is pure noise.
    let fields = [Field::new(rng, 1.0), Field::new(rng, 1.0), Field::new(rng, 1.0)];
    plate.paint(|x, y| {
        let (x, y) = ((x / block).floor(), (y / block).floor());
        let first = fields[0].at(x, y);
        std::array::from_fn(|i| {
            let n = if grey { first } else { fields[i].at(x, y) };
            mix(base[i], 0.5 + 0.5 * n, contrast)
        })
    });
}

fn clouds(plate: &mut Plate, rng: &mut ChaCha8Rng, a: Color, b: Color) {
    let scale = plate.long_px() * between(rng, 0.08, 0.4);
    let (large, fine) = (Field::new(rng, scale), Field::new(rng, scale * 0.22));
    plate.paint(|x, y| {
        let n = 0.5 + 0.55 * large.rough(x, y) + 0.25 * fine.at(x, y);
        blend(a, b, n.clamp(0.0, 1.0))
    });
}

fn wood(plate: &mut Plate, rng: &mut ChaCha8Rng) {
    let t = rng.random();
    let a = blend([0.78, 0.58, 0.36], [0.45, 0.27, 0.14], t);
    let b = a.map(|c| c * between(rng, 0.45, 0.75));
    let (c, s) = polar(direction(rng));
    let period = between(rng, 4.0, 14.0);
    let stretch = between(rng, 0.08, 0.25);
    let bend = Field::new(rng, plate.long_px() * 0.35);
    let fibre = Field::new(rng, 2.5);
    let swing = between(rng, 0.5, 3.0);
    plate.paint(|x, y| {
        let (u, v) = (x * c + y * s, y * c - x * s);
        let ring = u / period + swing * bend.at(u, v * stretch);
        let saw = ring - ring.floor();
        blend(a, b, (saw * saw * 0.9 + 0.15 * fibre.at(u * 2.0, v * 0.15)).clamp(0.0, 1.0))
    });
}

fn cloth(plate: &mut Plate, rng: &mut ChaCha8Rng, a: Color, b: Color) {
    let thread = between(rng, 3.0, 9.0);
    let (c, s) = polar(direction(rng));
    let twill = rng.random_range(1..4);
    let uneven = Field::new(rng, 3.0);
    plate.paint(|x, y| {
        let (u, v) = ((x * c + y * s) / thread + 500.0, (y * c - x * s) / thread + 500.0);
        let (i, j) = (u.floor() as i32, v.floor() as i32);
        let over = if twill == 1 { (i + j) % 2 == 0 } else { (i + j) % (twill + 1) != 0 };
        let (across, color) = if over { (v - v.floor(), a) } else { (u - u.floor(), b) };
        let round = 1.0 - 2.4 * (across - 0.5) * (across - 0.5);
        color.map(|k| k * round * (1.0 + 0.1 * uneven.at(x, y)))
    });
}

fn plasma(plate: &mut Plate, rng: &mut ChaCha8Rng) {
    let scale = plate.long_px() * between(rng, 0.1, 0.4);
    let field = Field::new(rng, scale);
    let turns = between(rng, 1.0, 4.0);
    let phases: Color = any_color(rng);
    plate.paint(|x, y| {
        let n = field.rough(x, y) * turns;
        phases.map(|phase| {
            let t = n + phase;
            2.0 * (t - t.floor() - 0.5).abs()
        })
    });
}
