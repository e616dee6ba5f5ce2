//! Red cells that are no single whole sharp one, and white blood cells.
//!
//! It never draws exactly one whole red cell in focus. It keeps one invariant: what is out of focus is
//! blurred by at least 8 % of the longer side, after it was drawn.

use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::cell::Look;
use super::super::noise::{Field, between, chance, direction, polar};
use super::super::plate::{Blob, Color, Plate, Point, blend};
use super::cut_round;

/// Light that chromatin lets through.
const CHROMATIN: Color = [0.55, 0.12, 0.55];

/// A red cell on the plate; `infected` adds a ring form.
fn red_cell(
    plate: &mut Plate,
    rng: &mut ChaCha8Rng,
    look: &Look,
    centre: Point,
    r: f32,
    infected: bool,
) -> Blob {
    let half = (r, r * between(rng, 0.85, 1.0));
    let unevenness = between(rng, 0.04, 0.16);
    let blob = Blob::new(rng, centre, half, unevenness);
    let tint = between(rng, 0.94, 1.05);
    let (pale, pallor) =
        (between(rng, 0.2, 0.5), if chance(rng, 0.6) { between(rng, 0.05, 0.35) } else { 0.0 });
    let soft = (1.2 / r).min(0.3);
    plate.alter(blob.area(), |x, y, light| {
        let reach = blob.reach(x, y);
        if reach < 1.0 + soft {
            let inside = 1.0 - super::super::noise::step(1.0 - soft, 1.0 + soft, reach);
            let thin = pallor * (1.0 - super::super::noise::step(0.0, 2.0 * pale, reach));
            let body = blend(look.cell, look.background, thin).map(|c| c * tint);
            *light = blend(*light, body, inside);
        }
    });
    if infected {
        ring_form(plate, rng, centre, r);
    }
    blob
}

fn ring_form(plate: &mut Plate, rng: &mut ChaCha8Rng, centre: Point, r: f32) {
    let (c, s) = polar(direction(rng));
    let away = r * between(rng, 0.0, 0.55);
    let at = (centre.0 + c * away, centre.1 + s * away);
    let size = r * between(rng, 0.18, 0.3);
    let oval = between(rng, 0.7, 1.0);
    let ring = Blob::new(rng, at, (size, size * oval), 0.1);
    plate.filter(ring.area(), [0.6, 0.5, 0.8], |x, y| 1.0 - ((ring.reach(x, y) - 0.8).abs() / 0.3).min(1.0));
    let (c, s) = polar(direction(rng));
    let dot = Blob::new(rng, (at.0 + c * size, at.1 + s * size), (size * 0.4, size * 0.3), 0.2);
    plate.filter(dot.area(), CHROMATIN, |x, y| dot.cover(x, y, 0.3));
}

fn look(rng: &mut ChaCha8Rng) -> Look {
    Look::of_slide(rng.random())
}

fn microscope(plate: &mut Plate, rng: &mut ChaCha8Rng, look: &Look) {
    let sigma = look.blur_px * between(rng, 0.5, 1.0);
    plate.blur(sigma);
    if chance(rng, 0.4) {
        let (slope, vignette) = (between(rng, 0.0, 0.15), between(rng, 0.0, 0.2));
        plate.shade(rng, slope, vignette);
    }
}

/// A cell or a field far out of focus.
pub fn defocus(rng: &mut ChaCha8Rng, size: (usize, usize)) -> RgbImage {
    let look = look(rng);
    let black = chance(rng, 0.3);
    let mut plate = Plate::new(size, if black { [0.0; 3] } else { look.background });
    let (long, short) = (plate.long_px(), plate.short_px());
    let several = chance(rng, 0.35) && !black;
    let infected = chance(rng, 0.5);
    if several {
        for _ in 0..rng.random_range(3..10) {
            let centre =
                (rng.random::<f32>() * plate.width as f32, rng.random::<f32>() * plate.height as f32);
            let r = long * between(rng, 0.12, 0.25);
            red_cell(&mut plate, rng, &look, centre, r, infected);
        }
    } else {
        let off = (between(rng, -0.08, 0.08) * short, between(rng, -0.08, 0.08) * short);
        let middle = plate.middle();
        let r = short * between(rng, 0.28, 0.40);
        red_cell(&mut plate, rng, &look, (middle.0 + off.0, middle.1 + off.1), r, infected);
    }
    let sigma = long * between(rng, 0.08, 0.18);
    plate.blur(sigma);
    if chance(rng, 0.8) {
        let strength = between(rng, 0.0, 0.02);
        plate.grain(rng, strength);
    }
    // The cut-out is wider than the cell, so that its blurred border is what the picture shows.
    let cut = !black && chance(rng, 0.15);
    if cut {
        cut_round(&mut plate, rng);
    }
    plate.finish(cut)
}

/// A field with many cells, or a few that touch.
pub fn field(rng: &mut ChaCha8Rng, size: (usize, usize)) -> RgbImage {
    let look = look(rng);
    let mut plate = Plate::new(size, look.background);
    let (w, h) = plate.size();
    let touching = chance(rng, 0.4);
    let mut blobs: Vec<Blob> = Vec::new();
    if touching {
        // A chain or clump in which each cell touches one before it.
        let count = rng.random_range(2..6);
        let r =
            plate.short_px() * if count == 2 { between(rng, 0.22, 0.26) } else { between(rng, 0.15, 0.22) };
        let mut places: Vec<Point> = vec![(0.0, 0.0)];
        while places.len() < count {
            let (c, s) = polar(direction(rng));
            let from = places[rng.random_range(0..places.len())];
            let next = (from.0 + c * r * 1.85, from.1 + s * r * 1.85);
            if places.iter().all(|p| (p.0 - next.0).powi(2) + (p.1 - next.1).powi(2) > 3.0 * r * r) {
                places.push(next);
            }
        }
        let n = places.len() as f32;
        let mean = places.iter().fold((0.0, 0.0), |m, p| (m.0 + p.0 / n, m.1 + p.1 / n));
        for p in places {
            let infected = chance(rng, 0.3);
            let centre = (w / 2.0 + p.0 - mean.0, h / 2.0 + p.1 - mean.1);
            blobs.push(red_cell(&mut plate, rng, &look, centre, r, infected));
        }
    } else {
        let r = plate.long_px() * between(rng, 0.045, 0.15);
        let wanted = (w * h / (r * r * between(rng, 4.2, 9.0))) as usize;
        let apart = between(rng, 1.6, 2.1) * r;
        for _ in 0..wanted * 4 {
            if blobs.len() >= wanted.clamp(4, 90) {
                break;
            }
            let centre = (rng.random::<f32>() * (w + r) - r / 2.0, rng.random::<f32>() * (h + r) - r / 2.0);
            let free =
                |b: &Blob| (b.centre.0 - centre.0).powi(2) + (b.centre.1 - centre.1).powi(2) > apart * apart;
            if blobs.iter().all(free) {
                let (infected, size) = (chance(rng, 0.15), r * between(rng, 0.85, 1.1));
                blobs.push(red_cell(&mut plate, rng, &look, centre, size, infected));
            }
        }
    }
    microscope(&mut plate, rng, &look);
    plate.grain(rng, look.grain);
    let cut = touching && chance(rng, 0.7);
    if cut {
        let block = rng.random_range(2..4);
        plate.cut(block, |x, y| blobs.iter().any(|b| b.reach(x, y) < 1.06));
    } else if chance(rng, 0.15) {
        cut_round(&mut plate, rng);
        return plate.finish(true);
    }
    plate.finish(cut)
}

/// A small part of a cell: the rest is beyond the border, or torn away.
pub fn fragment(rng: &mut ChaCha8Rng, size: (usize, usize)) -> RgbImage {
    let look = look(rng);
    let mut plate = Plate::new(size, look.background);
    let (w, h) = plate.size();
    let infected = chance(rng, 0.3);
    let black = chance(rng, 0.6);
    let form = rng.random_range(0..3);
    let keep: Box<dyn Fn(f32, f32) -> bool> = match form {
        0 => {
            // A cap that the border leaves: less than a third of the cell.
            let r = plate.long_px() * between(rng, 0.35, 0.6);
            let (c, s) = polar(direction(rng));
            let reach = |half: f32, k: f32| if k.abs() < 1e-3 { f32::MAX } else { half / k.abs() };
            let edge = reach(w / 2.0, c).min(reach(h / 2.0, s));
            let beyond = edge + r * between(rng, 0.3, 0.7);
            let centre = (w / 2.0 + c * beyond, h / 2.0 + s * beyond);
            let blob = red_cell(&mut plate, rng, &look, centre, r, infected);
            Box::new(move |x, y| blob.reach(x, y) < 1.04)
        }
        1 => {
            // A sliver: a narrow band across the cell, torn on both sides.
            let r = plate.long_px() * between(rng, 0.42, 0.55);
            let middle = plate.middle();
            let blob = red_cell(&mut plate, rng, &look, middle, r, infected);
            let (c, s) = polar(direction(rng));
            let (offset, width) = (r * between(rng, -0.6, 0.6), r * between(rng, 0.08, 0.19));
            let ragged = Field::new(rng, r * 0.25);
            Box::new(move |x, y| {
                let across = (x - middle.0) * c + (y - middle.1) * s - offset;
                blob.reach(x, y) < 1.04 && (across + width * 1.6 * ragged.rough(x, y)).abs() < width
            })
        }
        _ => {
            // A crescent: a second circle has taken nearly all of the cell.
            let r = plate.short_px() * between(rng, 0.42, 0.5);
            let middle = plate.middle();
            let blob = red_cell(&mut plate, rng, &look, middle, r, infected);
            let (c, s) = polar(direction(rng));
            let shift = r * between(rng, 0.2, 0.42);
            let bite_at = (middle.0 + c * shift, middle.1 + s * shift);
            let bite = Blob::new(rng, bite_at, (r * 1.02, r * 1.02), 0.12);
            Box::new(move |x, y| blob.reach(x, y) < 1.02 && bite.reach(x, y) > 1.0)
        }
    };
    if !black {
        let background = look.background;
        plate.alter(plate.whole(), |x, y, light| {
            if !keep(x, y) {
                *light = background;
            }
        });
    }
    microscope(&mut plate, rng, &look);
    plate.grain(rng, look.grain);
    if black {
        let block = rng.random_range(2..4);
        plate.cut(block, keep);
    }
    // A cap must show how much is missing; slivers and crescents tell by themselves.
    let crop = black && form != 0 && chance(rng, 0.5);
    plate.finish(crop)
}

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
