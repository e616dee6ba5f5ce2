//! White blood cells and clumps of platelets.
//!
//! It never draws a whole red cell. It keeps one invariant: what is stained dark fills a large part of the
//! cell, unlike any parasite.

use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::blob::Blob;
use super::super::noise::{Field, between, chance, direction, polar};
use super::super::plate::{Color, Plate, Point, blend};
use super::cells::{look, microscope, red_cell};

/// A white blood cell, or a clump of platelets.
pub fn leukocyte(rng: &mut ChaCha8Rng, size: (usize, usize)) -> RgbImage {
    let look = look(rng);
    let mut plate = Plate::new(size, look.background);
    let (w, h) = plate.size();
    let black = chance(rng, 0.45);
    if !black {
        // Parts of red cells around it, as in a crop from a field.
        for _ in 0..rng.random_range(0..4) {
            let (c, s) = polar(direction(rng));
            let r = plate.short_px() * between(rng, 0.22, 0.32);
            let centre = (w / 2.0 + c * w * 0.62, h / 2.0 + s * h * 0.62);
            red_cell(&mut plate, rng, &look, centre, r, false);
        }
    }
    let outline = if chance(rng, 0.25) { platelets(&mut plate, rng) } else { white_cell(&mut plate, rng) };
    microscope(&mut plate, rng, &look);
    plate.grain(rng, look.grain);
    if black {
        let block = rng.random_range(2..4);
        plate.cut(block, |x, y| outline.reach(x, y) < 1.05);
    }
    plate.finish(black)
}

fn white_cell(plate: &mut Plate, rng: &mut ChaCha8Rng) -> Blob {
    let (w, h) = plate.size();
    let half = (w * between(rng, 0.40, 0.48), h * between(rng, 0.40, 0.48));
    let unevenness = between(rng, 0.04, 0.12);
    let cell = Blob::tilted(rng, plate.middle(), half, unevenness, 0.0);
    let cytoplasm = blend([0.86, 0.78, 0.88], [0.68, 0.76, 0.92], rng.random());
    let grain_px = between(rng, 1.6, 2.6);
    let (mottle, grains) = (Field::new(rng, 6.0), Field::new(rng, grain_px));
    let granular = if chance(rng, 0.6) { between(rng, 0.05, 0.3) } else { 0.02 };
    plate.alter(cell.area(), |x, y, light| {
        let cover = cell.cover(x, y, 0.03);
        if cover > 0.0 {
            let k = 1.0 + 0.04 * mottle.at(x, y) - granular * (grains.at(x, y) - 0.25).max(0.0);
            *light = blend(*light, [cytoplasm[0] * k, cytoplasm[1] * k * k, cytoplasm[2] * k], cover);
        }
    });
    let nucleus: Color = [between(rng, 0.30, 0.46), between(rng, 0.14, 0.26), between(rng, 0.48, 0.62)];
    let r = half.0.min(half.1);
    let (cx, cy) = plate.middle();
    let mut lobes = Vec::new();
    match rng.random_range(0..3) {
        0 => {
            // A lymphocyte: one round nucleus that nearly fills the cell.
            let share = between(rng, 0.66, 0.85);
            lobes.push(Blob::new(rng, (cx, cy), (half.0 * share, half.1 * share), 0.12));
        }
        1 => {
            // A monocyte: a kidney, drawn as lobes along an arc.
            let (start, bend) = (direction(rng), between(rng, 1.6, 2.6));
            for i in 0..5 {
                let (c, s) = polar(start + bend * (i as f32 / 4.0 - 0.5));
                let at = (cx + c * r * 0.36, cy + s * r * 0.36);
                lobes.push(Blob::new(rng, at, (r * 0.36, r * 0.32), 0.12));
            }
        }
        _ => {
            // A neutrophil: two to five lobes on thin bridges.
            let (start, count) = (direction(rng), rng.random_range(2..6));
            let turn = between(rng, 0.9, 1.3);
            let mut before: Option<Point> = None;
            for i in 0..count {
                let (c, s) = polar(start + turn * i as f32);
                let away = r * between(rng, 0.38, 0.5);
                let at = (cx + c * away, cy + s * away);
                let half = (r * between(rng, 0.24, 0.34), r * between(rng, 0.2, 0.28));
                lobes.push(Blob::new(rng, at, half, 0.2));
                if let Some(before) = before {
                    plate.stroke(&[before, at], r * 0.12, nucleus, 0.95);
                }
                before = Some(at);
            }
        }
    }
    let chromatin = Field::new(rng, (r * 0.16).max(2.0));
    for lobe in &lobes {
        plate.alter(lobe.area(), |x, y, light| {
            let cover = lobe.cover(x, y, 0.08);
            if cover > 0.0 {
                let k = 1.0 + 0.22 * chromatin.at(x, y);
                *light = blend(*light, nucleus.map(|n| n * k), cover);
            }
        });
    }
    cell
}

fn platelets(plate: &mut Plate, rng: &mut ChaCha8Rng) -> Blob {
    let (w, h) = plate.size();
    let around = Blob::tilted(rng, plate.middle(), (w * 0.46, h * 0.46), 0.2, 0.0);
    let color: Color = [between(rng, 0.55, 0.7), between(rng, 0.38, 0.52), between(rng, 0.68, 0.8)];
    let size = plate.short_px() * between(rng, 0.06, 0.12);
    for _ in 0..rng.random_range(10..26) {
        let (c, s) = polar(direction(rng));
        let away = rng.random::<f32>();
        let at = (w / 2.0 + c * w * 0.38 * away, h / 2.0 + s * h * 0.38 * away);
        let half = (size * between(rng, 0.7, 1.4), size * between(rng, 0.6, 1.0));
        let platelet = Blob::new(rng, at, half, 0.35);
        let strength = between(rng, 0.7, 0.95);
        plate.blob(&platelet, color, strength, 0.2);
        for _ in 0..rng.random_range(2..5) {
            let (c, s) = polar(direction(rng));
            let away = size * 0.5 * rng.random::<f32>();
            let grain =
                Blob::new(rng, (at.0 + c * away, at.1 + s * away), (size * 0.2 + 0.5, size * 0.2 + 0.5), 0.0);
            plate.blob(&grain, color.map(|k| k * 0.6), 0.8, 0.4);
        }
    }
    around
}
