//! A cat, as in a snapshot: head with ears, eyes, nose and whiskers, fur, before any background.
//!
//! It keeps one invariant: both ears and eyes lie where a cat has them, however the head is turned.

use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::blob::Blob;
use super::super::noise::{Field, between, chance, polar};
use super::super::plate::{Color, Plate, Point, any_color, blend};
use super::cut_round;

/// Where the head is: from places in units of half a head to pixels.
struct Pose {
    at: Point,
    unit_px: f32,
    tilt: f32,
    axes: (f32, f32),
    look: f32,
}

impl Pose {
    fn place(&self, u: f32, v: f32) -> Point {
        let (c, s) = self.axes;
        let u = u + self.look * (1.0 - u * u).max(0.0);
        (self.at.0 + self.unit_px * (u * c - v * s), self.at.1 + self.unit_px * (u * s + v * c))
    }

    fn blob(
        &self,
        rng: &mut ChaCha8Rng,
        (u, v): (f32, f32),
        half: (f32, f32),
        turn: f32,
        uneven: f32,
    ) -> Blob {
        let half = (half.0 * self.unit_px, half.1 * self.unit_px);
        Blob::tilted(rng, self.place(u, v), half, uneven, self.tilt + turn)
    }
}

/// The coat.
struct Fur {
    base: Color,
    marks: Color,
    tabby: bool,
    hair: Field,
    patches: Field,
    strength: f32,
}

impl Fur {
    fn draw(rng: &mut ChaCha8Rng, unit_px: f32) -> Self {
        const COATS: [Color; 7] = [
            [0.85, 0.55, 0.28],
            [0.50, 0.47, 0.45],
            [0.16, 0.15, 0.16],
            [0.93, 0.91, 0.88],
            [0.58, 0.44, 0.32],
            [0.80, 0.70, 0.58],
            [0.45, 0.50, 0.58],
        ];
        let i = rng.random_range(0..COATS.len());
        let base = COATS[i].map(|c| c * between(rng, 0.85, 1.1));
        let marks = if chance(rng, 0.3) { [0.93, 0.91, 0.88] } else { base.map(|c| c * 0.5) };
        Self {
            base,
            marks,
            tabby: chance(rng, 0.6),
            hair: Field::new(rng, (unit_px * 0.045).max(1.3)),
            patches: Field::new(rng, unit_px * 0.7),
            strength: between(rng, 0.12, 0.3),
        }
    }

    /// The coat's colour at a place; hair runs away from the middle of the head.
    fn at(&self, pose: &Pose, x: f32, y: f32) -> Color {
        let (dx, dy) = (x - pose.at.0, y - pose.at.1);
        let (c, s) = pose.axes;
        let (u, v) = ((dx * c + dy * s) / pose.unit_px, (dy * c - dx * s) / pose.unit_px);
        let r = (u * u + v * v).sqrt() + 0.2;
        // Around the head hair is narrow, along it long.
        let hair =
            self.hair.at(u / r * pose.unit_px * 1.3 + 0.15 * dx, v / r * pose.unit_px * 1.3 + 0.15 * dy);
        let marked = if self.tabby {
            let wave = (u.abs() * 3.2 + 0.5 * self.patches.at(x, y) - v * 0.6).rem_euclid(1.0);
            if v < 0.1 || u.abs() > 0.55 { (1.0 - 3.0 * (wave - 0.5).abs()).max(0.0) } else { 0.0 }
        } else {
            (self.patches.at(x, y) * 5.0 - 0.6).clamp(0.0, 1.0)
        };
        let k = 1.0 + self.strength * hair - 0.12 * v;
        blend(self.base, self.marks, 0.75 * marked).map(|b| b * k)
    }

    fn cover(&self, plate: &mut Plate, pose: &Pose, blob: &Blob, soft: f32) {
        plate.alter(blob.area(), |x, y, light| {
            let cover = blob.cover(x, y, soft);
            if cover > 0.0 {
                *light = blend(*light, self.at(pose, x, y), cover);
            }
        });
    }
}

/// A cat.
pub fn cat(rng: &mut ChaCha8Rng, size: (usize, usize)) -> RgbImage {
    let color = blend(any_color(rng), [0.5; 3], 0.4);
    let mut plate = Plate::new(size, color);
    background(&mut plate, rng, color);
    let (w, h) = plate.size();
    let tilt = between(rng, -0.4, 0.4);
    let zoom = between(rng, 0.26, 0.48);
    let pose = Pose {
        at: (w * (0.5 + between(rng, -0.07, 0.07)), h * (0.55 + between(rng, -0.05, 0.06))),
        unit_px: plate.short_px() * zoom,
        tilt,
        axes: polar(tilt),
        look: between(rng, -0.12, 0.12),
    };
    let fur = Fur::draw(rng, pose.unit_px);
    let aside = between(rng, -0.5, 0.5);
    let body = pose.blob(rng, (aside, 1.7), (1.3, 1.25), 0.0, 0.1);
    fur.cover(&mut plate, &pose, &body, 0.06);
    head(&mut plate, rng, &pose, &fur);
    face(&mut plate, rng, &pose);
    let sigma = between(rng, 0.0, 0.9);
    plate.blur(sigma);
    let (slope, vignette) = (between(rng, 0.0, 0.5), between(rng, 0.0, 0.3));
    plate.shade(rng, slope, vignette);
    let strength = between(rng, 0.004, 0.03);
    plate.grain(rng, strength);
    let cut = chance(rng, 0.25);
    if cut {
        cut_round(&mut plate, rng);
    }
    plate.finish(cut)
}

/// A floor and soft things out of focus, or one even wall.
fn background(plate: &mut Plate, rng: &mut ChaCha8Rng, color: Color) {
    if chance(rng, 0.25) {
        return;
    }
    let (w, h) = plate.size();
    let floor = blend(any_color(rng), [0.45, 0.4, 0.3], 0.5);
    let edge = h * between(rng, 0.4, 0.9);
    plate.cover((0.0, edge, w, h), floor, |_, _| 1.0);
    for _ in 0..rng.random_range(2..8) {
        let at = (w * rng.random::<f32>(), h * rng.random::<f32>());
        let r = plate.long_px() * between(rng, 0.08, 0.3);
        let oval = between(rng, 0.4, 1.0);
        let thing = Blob::new(rng, at, (r, r * oval), 0.2);
        let tone = blend(color, any_color(rng), 0.7);
        plate.blob(&thing, tone, 0.7, 0.4);
    }
    let sigma = plate.long_px() * between(rng, 0.015, 0.04);
    plate.blur(sigma);
}

fn head(plate: &mut Plate, rng: &mut ChaCha8Rng, pose: &Pose, fur: &Fur) {
    let (height, spread) = (between(rng, 1.25, 1.5), between(rng, 0.85, 1.0));
    let pink = blend([0.85, 0.6, 0.6], fur.base, 0.35);
    for side in [-1.0, 1.0] {
        let ear = [
            pose.place(side * 0.95, -0.30),
            pose.place(side * spread, -height),
            pose.place(side * 0.22, -0.80),
        ];
        plate.polygon(&ear, fur.base.map(|b| b * 0.85), 1.0);
        let inner = [
            pose.place(side * 0.85, -0.5),
            pose.place(side * spread * 0.94, -height * 0.86),
            pose.place(side * 0.42, -0.8),
        ];
        plate.polygon(&inner, pink, 0.85);
    }
    let skull = pose.blob(rng, (0.0, 0.0), (1.0, 0.88), 0.0, 0.05);
    fur.cover(plate, pose, &skull, 0.05);
    for side in [-1.0, 1.0] {
        let cheek = pose.blob(rng, (side * 0.5, 0.38), (0.58, 0.46), 0.0, 0.12);
        fur.cover(plate, pose, &cheek, 0.08);
    }
    let pale = blend(fur.base, [0.97, 0.95, 0.92], between(rng, 0.3, 0.9));
    for side in [-0.2, 0.2] {
        let muzzle = pose.blob(rng, (side, 0.48), (0.30, 0.26), 0.0, 0.05);
        plate.blob(&muzzle, pale, 0.85, 0.25);
    }
}

fn face(plate: &mut Plate, rng: &mut ChaCha8Rng, pose: &Pose) {
    const IRISES: [Color; 4] =
        [[0.55, 0.75, 0.25], [0.90, 0.70, 0.15], [0.35, 0.65, 0.90], [0.80, 0.50, 0.15]];
    let iris = IRISES[rng.random_range(0..4)].map(|c| c * between(rng, 0.8, 1.1));
    let (open, slit) = (between(rng, 0.14, 0.22), between(rng, 0.05, 0.16));
    for side in [-1.0, 1.0] {
        let at = (side * 0.42, -0.08);
        let rim = pose.blob(rng, at, (0.29, open + 0.06), side * 0.25, 0.0);
        plate.blob(&rim, [0.08; 3], 0.95, 0.12);
        let eye = pose.blob(rng, at, (0.23, open), side * 0.25, 0.0);
        plate.blob(&eye, iris, 1.0, 0.1);
        let pupil = pose.blob(rng, at, (slit, open * 0.95), 0.0, 0.0);
        plate.blob(&pupil, [0.02; 3], 1.0, 0.15);
        let glint = pose.blob(rng, (at.0 - 0.06, at.1 - 0.07), (0.05, 0.045), 0.0, 0.0);
        plate.blob(&glint, [1.0; 3], 1.0, 0.3);
    }
    let line = (pose.unit_px * 0.045).max(0.9);
    let dark = [0.15, 0.1, 0.1];
    let nose = [pose.place(-0.15, 0.24), pose.place(0.15, 0.24), pose.place(0.0, 0.38)];
    let nose_color = if chance(rng, 0.6) { [0.85, 0.52, 0.52] } else { [0.2, 0.15, 0.15] };
    plate.polygon(&nose, nose_color, 1.0);
    plate.stroke(&[pose.place(0.0, 0.38), pose.place(0.0, 0.5)], line, dark, 0.9);
    for side in [-1.0, 1.0] {
        let mouth = [pose.place(0.0, 0.5), pose.place(side * 0.12, 0.58), pose.place(side * 0.25, 0.54)];
        plate.stroke(&mouth, line, dark, 0.9);
        for i in 0..3 {
            let lift = -0.12 + 0.13 * i as f32 + between(rng, -0.03, 0.03);
            let whisker = [
                pose.place(side * 0.3, 0.42 + lift * 0.4),
                pose.place(side * 0.85, 0.36 + lift),
                pose.place(side * between(rng, 1.2, 1.5), 0.40 + lift * 1.7),
            ];
            plate.stroke(&whisker, (pose.unit_px * 0.025).max(0.8), [0.96; 3], 0.8);
        }
    }
}
