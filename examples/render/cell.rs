//! One red cell: outline, colour, central pallor, light and focus, and the cut-out onto black.
//!
//! It keeps one invariant: the truth of a picture is `CellKind::label`, fixed before anything is drawn.

use image::RgbImage;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::canvas::Canvas;
use super::noise::{Field, between, chance, direction, mix, polar, step};
use super::parasite::{RingForm, draw_dirt, draw_platelet, draw_ring, draw_trophozoite};

/// What the cell holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CellKind {
    /// No parasite.
    Uninfected,
    /// One or two ring forms.
    Ring,
    /// A trophozoite.
    Trophozoite,
}

impl CellKind {
    /// The label that a model must give.
    pub fn label(self) -> &'static str {
        match self {
            Self::Uninfected => "uninfected",
            Self::Ring | Self::Trophozoite => "parasitized",
        }
    }
}

/// What all cells of one slide share: stain, lamp, focus, camera.
#[derive(Clone, Copy)]
pub struct Look {
    /// Colour of a cell, 0..=1.
    pub cell: [f32; 3],
    /// Colour of the background beside the cells, 0..=1.
    pub background: [f32; 3],
    /// How strongly parasites stain, around 1.
    pub stain: f32,
    /// Width of the blur in pixels.
    pub blur_px: f32,
    /// Strength of the camera's grain, 0..=1.
    pub grain: f32,
}

impl Look {
    /// The look of the slide with this seed: one of seven stains seen in practice, a little changed.
    pub fn of_slide(seed: u64) -> Self {
        const CELLS: [[f32; 3]; 7] = [
            [0.87, 0.59, 0.53], // salmon
            [0.80, 0.58, 0.56], // rose
            [0.80, 0.70, 0.62], // beige
            [0.74, 0.64, 0.66], // grey-pink
            [0.69, 0.67, 0.77], // lilac grey
            [0.71, 0.74, 0.78], // blue grey
            [0.72, 0.44, 0.60], // magenta
        ];
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (a, b) = (rng.random_range(0..CELLS.len()), rng.random_range(0..CELLS.len()));
        let t = between(&mut rng, 0.0, 0.35);
        let brightness = between(&mut rng, 0.93, 1.06);
        let cell = std::array::from_fn(|i| mix(CELLS[a][i], CELLS[b][i], t) * brightness);
        let warm = between(&mut rng, -0.03, 0.05);
        Self {
            cell,
            background: [0.90 + warm, 0.87, 0.83 - warm],
            stain: between(&mut rng, 0.9, 1.15),
            blur_px: between(&mut rng, 0.7, 1.3),
            grain: between(&mut rng, 0.006, 0.013),
        }
    }
}

/// The border of a cell around the centre of the canvas.
pub struct Outline {
    /// Mean radius in pixels.
    pub radius_px: f32,
    waves: [(f32, f32, f32); 5],
}

impl Outline {
    /// An outline with a mean radius between `low_px` and `high_px`.
    pub fn draw(rng: &mut impl Rng, low_px: f32, high_px: f32) -> Self {
        let radius_px = between(rng, low_px, high_px);
        let oval = between(rng, 0.0, 0.14);
        // Most cells are nearly round; some are bent by their neighbours.
        let bent = if chance(rng, 0.25) { 2.2 } else { 1.0 };
        let waves = std::array::from_fn(|i| {
            let size = [oval, 0.022 * bent, 0.014 * bent, 0.009 * bent, 0.006][i];
            ((i + 2) as f32, size * between(rng, 0.4, 1.0), direction(rng))
        });
        Self { radius_px, waves }
    }

    /// Distance from the centre to the border in a direction (radians), in pixels.
    pub fn reach_px(&self, angle: f32) -> f32 {
        let bumps: f32 = self.waves.iter().map(|(k, size, phase)| size * libm::cosf(k * angle + phase)).sum();
        self.radius_px * (1.0 + bumps)
    }

    /// How far inside the border a position lies, in pixels; negative outside.
    pub fn depth_px(&self, x: f32, y: f32) -> f32 {
        self.reach_px(libm::atan2f(y, x)) - libm::hypotf(x, y)
    }
}

/// A drawn cell.
pub struct Cell {
    /// The cell on black, cropped to what was cut out.
    pub picture: RgbImage,
    /// Which pixels of the picture belong to the cut-out, row by row.
    pub mask: Vec<bool>,
}

/// Draws the cell with this seed as it looks on a slide.
pub fn draw_cell(seed: u64, look: &Look, kind: CellKind) -> Cell {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let outline = Outline::draw(rng, 53.0, 76.0);
    let side_px = (outline.radius_px * 2.9) as u32;
    let mut canvas = draw_body(rng, side_px, &outline, look);
    let stain = look.stain * between(rng, 0.88, 1.12);
    match kind {
        CellKind::Uninfected => {}
        CellKind::Ring => {
            let rings = if chance(rng, 0.2) { 2 } else { 1 };
            (0..rings).for_each(|_| draw_ring(&mut canvas, rng, &outline, &RingForm::ANY, stain));
        }
        CellKind::Trophozoite => draw_trophozoite(&mut canvas, rng, &outline, stain),
    }
    if chance(rng, 0.10) {
        (0..rng.random_range(1..3)).for_each(|_| draw_dirt(&mut canvas, rng, &outline));
    }
    if chance(rng, 0.04) {
        draw_platelet(&mut canvas, rng, &outline);
    }
    canvas.blur(look.blur_px * between(rng, 0.85, 1.25));
    canvas.grain(rng, look.grain);
    cut_out(&mut canvas, rng, &outline);
    let (picture, mask) = canvas.finish();
    Cell { picture, mask }
}

/// Cuts the cell out onto black, as jagged as segmentations do.
pub fn cut_out(canvas: &mut Canvas, rng: &mut impl Rng, outline: &Outline) {
    let (border, margin) = (Field::new(rng, 16.0), between(rng, 0.5, 2.5));
    let ragged = if chance(rng, 0.3) { between(rng, 3.0, 9.0) } else { 1.5 };
    let block_px = rng.random_range(2..4);
    canvas.cut(block_px, |x, y| outline.depth_px(x, y) > -margin - ragged * border.rough(x, y).max(-0.6));
}

/// The cell without anything in it, on its background.
pub fn draw_body(rng: &mut impl Rng, side_px: u32, outline: &Outline, look: &Look) -> Canvas {
    let tint: [f32; 3] = std::array::from_fn(|_| between(rng, 0.97, 1.03));
    let brightness = between(rng, 0.95, 1.04);
    let (lamp, lamp_strength) = (polar(direction(rng)), between(rng, 0.0, 0.05));
    let pallor = if chance(rng, 0.55) { between(rng, 0.05, 0.20) } else { between(rng, 0.0, 0.05) };
    let pallor_px = outline.radius_px * between(rng, 0.25, 0.5);
    let pale = (between(rng, -0.12, 0.12) * outline.radius_px, between(rng, -0.12, 0.12) * outline.radius_px);
    let mottle = Field::new(rng, outline.radius_px * 0.5);
    let rim = between(rng, 0.0, 0.05);
    let (background, cell) = (look.background, look.cell);
    Canvas::paint(side_px, |x, y| {
        let depth = outline.depth_px(x, y);
        let inside = step(-1.4, 1.4, depth);
        let shade = 1.0 + lamp_strength * (x * lamp.0 + y * lamp.1) / outline.radius_px;
        let centre =
            libm::expf(-((x - pale.0).powi(2) + (y - pale.1).powi(2)) / (2.0 * pallor_px * pallor_px));
        let body = 1.0 + 0.025 * mottle.rough(x, y) - rim * (1.0 - step(2.0, 12.0, depth));
        std::array::from_fn(|i| {
            let stained = cell[i] * tint[i] * brightness * body;
            let stained = mix(stained, background[i], pallor * centre * 1.6);
            mix(background[i], stained, inside) * shade
        })
    })
}
