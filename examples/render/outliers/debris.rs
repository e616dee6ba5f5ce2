//! What lies on slides beside cells: precipitate, dust, fibres, scratches, bubbles, crystals.
//!
//! It keeps one invariant: something clearly visible lies in the picture.

use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::blob::Blob;
use super::super::noise::{Field, between, chance, direction, polar, step};
use super::super::plate::{Color, Plate, Point, any_color, blend};
use super::cut_round;
use super::plain::pale;

/// Debris on an empty field.
pub fn debris(rng: &mut ChaCha8Rng, size: (usize, usize)) -> RgbImage {
    let mut plate = Plate::new(size, pale(rng));
    let first = rng.random_range(0..6);
    draw(&mut plate, rng, first);
    if chance(rng, 0.45) {
        let second = rng.random_range(0..6);
        draw(&mut plate, rng, second);
    }
    // Dirt in the middle of a pale disc could be a pale cell with something in it; what fills the disc could not.
    let cut = matches!(first, 0 | 3 | 5) && chance(rng, 0.5);
    if cut && first == 0 {
        (0..3).for_each(|_| precipitate(&mut plate, rng));
    }
    let sigma = between(rng, 0.3, 1.3);
    plate.blur(sigma);
    if chance(rng, 0.5) {
        let (slope, vignette) = (between(rng, 0.0, 0.25), between(rng, 0.0, 0.3));
        plate.shade(rng, slope, vignette);
    }
    let strength = between(rng, 0.003, 0.025);
    plate.grain(rng, strength);
    if cut {
        cut_round(&mut plate, rng);
    }
    plate.finish(cut)
}

fn draw(plate: &mut Plate, rng: &mut ChaCha8Rng, what: u32) {
    match what {
        0 => precipitate(plate, rng),
        1 => fibres(plate, rng),
        2 => scratches(plate, rng),
        3 => bubbles(plate, rng),
        4 => dust(plate, rng),
        _ => crystals(plate, rng),
    }
}

fn spot(rng: &mut ChaCha8Rng, plate: &Plate) -> Point {
    let (w, h) = plate.size();
    (between(rng, 0.05, 0.95) * w, between(rng, 0.05, 0.95) * h)
}

fn precipitate(plate: &mut Plate, rng: &mut ChaCha8Rng) {
    let color: Color = if chance(rng, 0.6) {
        [between(rng, 0.15, 0.4), between(rng, 0.05, 0.2), between(rng, 0.3, 0.5)]
    } else {
        [between(rng, 0.05, 0.25); 3]
    };
    let clumps = rng.random_range(2..6);
    let (grains, largest) = (rng.random_range(12..40), plate.long_px() * between(rng, 0.015, 0.06));
    for _ in 0..clumps {
        let (cx, cy) = spot(rng, plate);
        let spread = plate.long_px() * between(rng, 0.08, 0.3);
        for _ in 0..grains {
            let (c, s) = polar(direction(rng));
            let r = spread * rng.random::<f32>();
            let half = (largest * between(rng, 0.3, 1.0) + 0.6, largest * between(rng, 0.3, 1.0) + 0.6);
            let grain = Blob::new(rng, (cx + r * c, cy + r * s), half, 0.3);
            let strength = between(rng, 0.6, 1.0);
            plate.blob(&grain, color, strength, 0.25);
        }
    }
}

fn fibres(plate: &mut Plate, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..5) {
        let color = match rng.random_range(0..4) {
            0 => any_color(rng).map(|c| c * 0.7),
            1 => [0.25, 0.3, 0.55],
            2 => [0.2; 3],
            _ => [0.55, 0.45, 0.35],
        };
        let (a, b, c, d) = (spot(rng, plate), spot(rng, plate), spot(rng, plate), spot(rng, plate));
        let points: Vec<Point> = (0..=24)
            .map(|i| {
                let t = i as f32 / 24.0;
                let s = 1.0 - t;
                let k = [s * s * s, 3.0 * s * s * t, 3.0 * s * t * t, t * t * t];
                (
                    k[0] * a.0 + k[1] * b.0 + k[2] * c.0 + k[3] * d.0,
                    k[0] * a.1 + k[1] * b.1 + k[2] * c.1 + k[3] * d.1,
                )
            })
            .collect();
        let width = plate.long_px() * between(rng, 0.015, 0.07) + 1.0;
        plate.stroke(&points, width, color, 0.9);
        if chance(rng, 0.6) {
            plate.stroke(&points, width * 0.4, color.map(|c| 0.5 + 0.5 * c), 0.7);
        }
    }
}

fn scratches(plate: &mut Plate, rng: &mut ChaCha8Rng) {
    let (w, h) = plate.size();
    let main = direction(rng);
    for _ in 0..rng.random_range(3..14) {
        let (x, y) = spot(rng, plate);
        let (c, s) = polar(main + between(rng, -0.12, 0.12));
        let reach = (w + h) * between(rng, 0.1, 0.7);
        let color = if chance(rng, 0.5) { [0.99; 3] } else { [between(rng, 0.15, 0.5); 3] };
        let width = between(rng, 0.8, 3.0);
        let strength = between(rng, 0.6, 1.0);
        plate.stroke(
            &[(x - c * reach, y - s * reach), (x + c * reach, y + s * reach)],
            width,
            color,
            strength,
        );
    }
}

fn bubbles(plate: &mut Plate, rng: &mut ChaCha8Rng) {
    let dark = [between(rng, 0.02, 0.25); 3];
    for _ in 0..rng.random_range(1..6) {
        let centre = spot(rng, plate);
        let r = plate.long_px() * between(rng, 0.07, 0.35);
        let oval = between(rng, 0.9, 1.0);
        let ring = Blob::new(rng, centre, (r, r * oval), 0.0);
        let width = between(rng, 0.08, 0.25);
        plate.cover(ring.area(), dark, |x, y| {
            let d = (ring.reach(x, y) - (1.0 - width)).abs();
            1.0 - step(width * 0.4, width, d)
        });
        plate.cover(ring.area(), [1.0; 3], |x, y| {
            0.7 * (1.0 - step(0.1, 1.0 - 1.6 * width, ring.reach(x, y)))
        });
        let (c, s) = polar(direction(rng));
        let glint =
            Blob::new(rng, (centre.0 + c * r * 0.5, centre.1 + s * r * 0.5), (r * 0.16, r * 0.1), 0.0);
        plate.blob(&glint, [1.0; 3], 1.0, 0.4);
    }
}

fn dust(plate: &mut Plate, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(2..9) {
        let (centre, r) = (spot(rng, plate), plate.long_px() * between(rng, 0.03, 0.16));
        let half = (r, r * between(rng, 0.3, 0.9));
        let unevenness = between(rng, 0.4, 0.8);
        let lump = Blob::new(rng, centre, half, unevenness);
        let inner = Field::new(rng, 4.0);
        let grey = between(rng, 0.05, 0.45);
        let color = [grey * 1.1, grey, grey * between(rng, 0.6, 1.0)];
        plate.alter(lump.area(), |x, y, light| {
            let cover = lump.cover(x, y, 0.2);
            if cover > 0.0 {
                let k = 1.0 + 0.5 * inner.at(x, y);
                *light = blend(*light, color.map(|c| c * k), cover);
            }
        });
    }
}

fn crystals(plate: &mut Plate, rng: &mut ChaCha8Rng) {
    let tint = pale(rng);
    for _ in 0..rng.random_range(2..8) {
        let (cx, cy) = spot(rng, plate);
        let (c, s) = polar(direction(rng));
        let (long, wide) =
            (plate.long_px() * between(rng, 0.12, 0.45), plate.long_px() * between(rng, 0.03, 0.13));
        let place = |u: f32, v: f32| (cx + u * c - v * s, cy + u * s + v * c);
        let corners = [
            place(-long, 0.0),
            place(-long * 0.8, -wide),
            place(long * between(rng, 0.6, 0.9), -wide),
            place(long, 0.0),
            place(long * 0.8, wide),
            place(-long * between(rng, 0.6, 0.9), wide),
        ];
        plate.polygon(&corners, tint.map(|t| t * between(rng, 0.6, 1.15)), 0.7);
        plate.polygon(&[corners[0], corners[1], corners[2], corners[3]], [1.0; 3], between(rng, 0.2, 0.7));
        let mut closed = corners.to_vec();
        closed.push(corners[0]);
        plate.stroke(&closed, between(rng, 0.8, 2.2), [between(rng, 0.1, 0.4); 3], 0.9);
    }
}
