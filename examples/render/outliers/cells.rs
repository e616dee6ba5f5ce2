//! Red cells that are no single whole sharp one.
//!
//! It never draws exactly one whole red cell in focus. It keeps one invariant: what is out of focus is
//! blurred by at least 8 % of the longer side, after it was drawn.

use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::blob::Blob;
use super::super::cell::Look;
use super::super::noise::{Field, between, chance, direction, polar, step};
use super::super::plate::{Color, Plate, Point, blend};
use super::cut_round;

/// Light that chromatin lets through.
const CHROMATIN: Color = [0.55, 0.12, 0.55];

/// A red cell on the plate; `infected` adds a ring form.
pub fn red_cell(
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
            let inside = 1.0 - step(1.0 - soft, 1.0 + soft, reach);
            let thin = pallor * (1.0 - step(0.0, 2.0 * pale, reach));
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

/// The look of a slide of its own.
pub fn look(rng: &mut ChaCha8Rng) -> Look {
    Look::of_slide(rng.random())
}

/// The slight blur and uneven light of any microscope.
pub fn microscope(plate: &mut Plate, rng: &mut ChaCha8Rng, look: &Look) {
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
