//! The golden set: drawn cells that every model has to label right before it serves.
//!
//! It never draws a cell that a reader would hesitate over. It keeps one invariant: all pictures differ, and
//! together they stay below a megabyte.

use std::path::Path;

use anyhow::Result;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::canvas::Canvas;
use super::cell::{Look, Outline, cut_out, draw_body};
use super::files::quick_png;
use super::noise::{between, mix};
use super::parasite::{RingForm, draw_dirt, draw_platelet, draw_ring, draw_trophozoite};
use super::slides::{seed_of, write};

/// Seeds of the golden set start in a family of their own.
const GOLDEN: u64 = 0x474F_4C44_454E_0000;

/// One picture in so many lies on the light of the slide instead of on black.
const ON_LIGHT_EVERY: u64 = 5;

/// What is special about a cell.
#[derive(Clone, Copy)]
enum Form {
    RingEarly,
    RingLate,
    RingsSeveral,
    RingFaint,
    RingOnBorder,
    Trophozoite,
    Plain,
    Pale,
    Dark,
    Platelet,
    StainSpots,
}

/// The folder, the names and the number of the pictures of each form.
const FORMS: [(&str, &str, Form, u64); 11] = [
    ("parasitized", "ring-early", Form::RingEarly, 8),
    ("parasitized", "ring-late", Form::RingLate, 8),
    ("parasitized", "rings-several", Form::RingsSeveral, 6),
    ("parasitized", "ring-faint", Form::RingFaint, 5),
    ("parasitized", "ring-on-border", Form::RingOnBorder, 6),
    ("parasitized", "trophozoite", Form::Trophozoite, 7),
    ("uninfected", "plain", Form::Plain, 15),
    ("uninfected", "pale", Form::Pale, 6),
    ("uninfected", "dark", Form::Dark, 6),
    ("uninfected", "platelet", Form::Platelet, 6),
    ("uninfected", "stain-spots", Form::StainSpots, 7),
];

/// Writes the golden set into `<label>/` folders, and tells how many files that were.
///
/// # Errors
/// If a file cannot be written or packed.
pub fn write_golden(folder: &Path) -> Result<usize> {
    let mut files = 0;
    for (number, (label, name, form, count)) in (0..).zip(FORMS) {
        for index in 0..count {
            let on_light = index % ON_LIGHT_EVERY == ON_LIGHT_EVERY - 1;
            let ending = if on_light { "-on-light" } else { "" };
            let canvas = draw(form, number, index, on_light);
            let path = format!("{label}/{name}-{:02}{ending}.png", index + 1);
            write(&folder.join(path), &quick_png(&canvas.finish().0)?)?;
            files += 1;
        }
    }
    Ok(files)
}

fn draw(form: Form, number: u64, index: u64, on_light: bool) -> Canvas {
    let mut look = Look::of_slide(seed_of(GOLDEN, number, index));
    match form {
        Form::Pale => look.cell = std::array::from_fn(|i| mix(look.cell[i], look.background[i], 0.35)),
        Form::Dark => look.cell = look.cell.map(|c| c * 0.82),
        _ => {}
    }
    let rng = &mut ChaCha8Rng::seed_from_u64(seed_of(GOLDEN, number + 100, index));
    let outline = Outline::draw(rng, 36.0, 44.0);
    let side_px = (outline.radius_px * if on_light { 2.4 } else { 2.9 }) as u32;
    let mut canvas = draw_body(rng, side_px, &outline, &look);
    match form {
        Form::RingEarly => ring(&mut canvas, rng, &outline, (0.15, 0.19), false, 1.0),
        Form::RingLate => ring(&mut canvas, rng, &outline, (0.24, 0.30), false, 1.0),
        Form::RingsSeveral => {
            let count = 2 + index % 2;
            (0..count).for_each(|_| ring(&mut canvas, rng, &outline, (0.15, 0.22), false, 1.0));
        }
        Form::RingFaint => ring(&mut canvas, rng, &outline, (0.18, 0.26), false, 0.72),
        Form::RingOnBorder => ring(&mut canvas, rng, &outline, (0.17, 0.24), true, 1.0),
        Form::Trophozoite => draw_trophozoite(&mut canvas, rng, &outline, 1.0),
        Form::Plain | Form::Pale | Form::Dark => {}
        Form::Platelet => draw_platelet(&mut canvas, rng, &outline),
        Form::StainSpots => (0..1 + index % 3).for_each(|_| draw_dirt(&mut canvas, rng, &outline)),
    }
    // The cells are smaller than those of the samples, and their focus is as much finer.
    canvas.blur(look.blur_px * between(rng, 0.55, 0.75));
    canvas.grain(rng, look.grain * 0.7);
    if !on_light {
        cut_out(&mut canvas, rng, &outline);
    }
    canvas
}

fn ring(
    canvas: &mut Canvas,
    rng: &mut ChaCha8Rng,
    cell: &Outline,
    size: (f32, f32),
    on_border: bool,
    strength: f32,
) {
    draw_ring(canvas, rng, cell, &RingForm { size, on_border }, strength);
}
