//! Writing: slide labels, numbers, handwriting, scale bars, rulers.
//!
//! Letters are strokes on a grid of 4 by 6. It keeps one invariant: the ink differs clearly from what it is written on.

use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::noise::{between, chance, polar};
use super::super::plate::{Color, Plate, Point};
use super::plain::pale;
use super::shapes::contrasting;

/// Letters and digits as lines through grid points: `06` is column 0, row 6; a space lifts the pen.
const GLYPHS: &[(char, &str)] = &[
    ('A', "062046 1434"),
    ('B', "06003041423303 3344453606"),
    ('C', "411001051645"),
    ('D', "06003041453606"),
    ('E', "40000646 0333"),
    ('F', "400006 0333"),
    ('G', "41301001051636454323"),
    ('H', "0006 4046 0343"),
    ('I', "2026"),
    ('K', "0006 4003 0346"),
    ('L', "000646"),
    ('M', "0600234046"),
    ('N', "06004640"),
    ('O', "103041453616050110"),
    ('P', "06003041423303"),
    ('R', "06003041423303 2346"),
    ('S', "413010010213334445361605"),
    ('T', "0040 2026"),
    ('U', "000516364540"),
    ('V', "002640"),
    ('X', "0046 4006"),
    ('Z', "00400646"),
    ('0', "103041453616050110"),
    ('1', "112026 1636"),
    ('2', "01103041420646"),
    ('3', "011030414233 1333 334445361605"),
    ('4', "300444 3036"),
    ('5', "400002324345361605"),
    ('6', "30100105163645443303"),
    ('7', "004016"),
    ('8', "103041423313020110 1304051636454433"),
    ('9', "423313020110304145361605"),
    ('-', "1333"),
    ('/', "0640"),
    (':', "2222 2525"),
];

/// Where and how letters are written.
struct Pen {
    origin: Point,
    along: (f32, f32),
    unit_px: f32,
    width_px: f32,
    ink: Color,
    slant: f32,
    shake: f32,
}

impl Pen {
    fn place(&self, u: f32, v: f32) -> Point {
        let (c, s) = self.along;
        let u = u - self.slant * v;
        (self.origin.0 + self.unit_px * (u * c - v * s), self.origin.1 + self.unit_px * (u * s + v * c))
    }

    fn write(&self, plate: &mut Plate, rng: &mut ChaCha8Rng, text: &str, row: f32) {
        for (index, letter) in text.chars().enumerate() {
            let Some((_, lines)) = GLYPHS.iter().find(|(c, _)| *c == letter) else { continue };
            for line in lines.split(' ') {
                let grid: Vec<f32> = line.bytes().map(|b| f32::from(b - b'0')).collect();
                let points: Vec<Point> = grid
                    .chunks_exact(2)
                    .map(|p| {
                        let (du, dv) =
                            (between(rng, -self.shake, self.shake), between(rng, -self.shake, self.shake));
                        self.place(index as f32 * 6.0 + p[0] + du, row + p[1] + dv)
                    })
                    .collect();
                plate.stroke(&points, self.width_px, self.ink, 1.0);
            }
        }
    }
}

/// Something written.
pub fn text(rng: &mut ChaCha8Rng, size: (usize, usize)) -> RgbImage {
    let paper: Color = match rng.random_range(0..8) {
        0 => [0.98, 0.92, 0.45],
        1 => [0.0; 3],
        2 => contrasting(rng, [0.9; 3]),
        3 => [0.98; 3],
        _ => pale(rng),
    };
    let dark_paper = paper.iter().sum::<f32>() < 1.5;
    let ink = match rng.random_range(0..4) {
        0 => contrasting(rng, paper),
        _ if dark_paper => [between(rng, 0.85, 1.0); 3],
        1 => [0.1, 0.12, between(rng, 0.4, 0.7)],
        _ => [between(rng, 0.0, 0.25); 3],
    };
    let mut plate = Plate::new(size, paper);
    match rng.random_range(0..5) {
        0 => label(&mut plate, rng, ink),
        1 => words(&mut plate, rng, ink, 0.0),
        2 => words(&mut plate, rng, ink, 0.35),
        3 => handwriting(&mut plate, rng, ink),
        _ => scale_bar(&mut plate, rng, ink),
    }
    let sigma = between(rng, 0.0, 1.0);
    plate.blur(sigma);
    if chance(rng, 0.4) {
        let (slope, vignette) = (between(rng, 0.0, 0.3), between(rng, 0.0, 0.3));
        plate.shade(rng, slope, vignette);
    }
    if chance(rng, 0.7) {
        let strength = between(rng, 0.0, 0.025);
        plate.grain(rng, strength);
    }
    plate.finish(false)
}

fn word(rng: &mut ChaCha8Rng, letters: usize) -> String {
    (0..letters).map(|_| GLYPHS[rng.random_range(0..GLYPHS.len())].0).collect()
}

fn number(rng: &mut ChaCha8Rng, digits: usize) -> String {
    (0..digits).map(|_| char::from(b'0' + rng.random_range(0..10))).collect()
}

/// One to four lines of equal length, as large as fits.
fn words(plate: &mut Plate, rng: &mut ChaCha8Rng, ink: Color, shake: f32) {
    let (letters, rows) = (rng.random_range(1..7), rng.random_range(1..5));
    let ((w, h), fill) = (plate.size(), between(rng, 0.7, 0.98));
    let (wide, high) = (letters as f32 * 6.0 - 2.0, rows as f32 * 9.0 - 3.0);
    let unit_px = (w / wide).min(h / high) * fill;
    let along = polar(between(rng, -0.2, 0.2));
    let mut pen = Pen {
        origin: plate.middle(),
        along,
        unit_px,
        width_px: (unit_px * between(rng, 0.5, 1.4)).max(1.2),
        ink,
        slant: if chance(rng, 0.4) { between(rng, 0.0, 0.3) } else { 0.0 },
        shake,
    };
    pen.origin = pen.place(-wide / 2.0, -high / 2.0);
    for row in 0..rows {
        let text = if chance(rng, 0.4) { number(rng, letters) } else { word(rng, letters) };
        pen.write(plate, rng, &text, row as f32 * 9.0);
    }
}

/// A slide's label: frame, ruled lines, a number, a bar code.
fn label(plate: &mut Plate, rng: &mut ChaCha8Rng, ink: Color) {
    let (w, h) = plate.size();
    let m = plate.short_px() * between(rng, 0.04, 0.1);
    let frame = [(m, m), (w - m, m), (w - m, h - m), (m, h - m), (m, m)];
    let frame_px = between(rng, 1.0, 3.0);
    plate.stroke(&frame, frame_px, ink, 1.0);
    let letters = rng.random_range(4..8);
    let unit_px = (w - 4.0 * m) / (letters as f32 * 6.0);
    let width_px = (unit_px * between(rng, 0.7, 1.2)).max(1.1);
    let pen = Pen {
        origin: (2.0 * m, 2.0 * m),
        along: (1.0, 0.0),
        unit_px,
        width_px,
        ink,
        slant: 0.0,
        shake: 0.15,
    };
    let rows = ((h * 0.55 - 2.0 * m) / (unit_px * 10.0)).max(1.0) as usize;
    for row in 0..rows {
        let (half, year) = (word(rng, letters / 2), number(rng, letters - letters / 2));
        pen.write(plate, rng, &format!("{half}{year}"), row as f32 * 10.0);
    }
    if chance(rng, 0.6) {
        let mut x = 2.0 * m;
        while x < w - 2.0 * m {
            let bar = between(rng, 1.0, 4.0);
            plate.stroke(&[(x, h * 0.66), (x, h - 2.0 * m)], bar, ink, 1.0);
            x += bar + between(rng, 1.5, 5.0);
        }
    } else {
        for line in 0..3 {
            let y = h * 0.66 + line as f32 * h * 0.1;
            plate.stroke(&[(2.0 * m, y), (w - 2.0 * m, y)], 1.0, ink, 0.8);
        }
    }
}

/// Joined loops in lines, as a hurried hand writes.
fn handwriting(plate: &mut Plate, rng: &mut ChaCha8Rng, ink: Color) {
    let (w, h) = plate.size();
    let rows = rng.random_range(1..5);
    let pitch = h / (rows as f32 + 0.5);
    let tilt = between(rng, -0.15, 0.15);
    let width = (pitch * between(rng, 0.03, 0.09)).max(1.2);
    for row in 0..rows {
        let base = pitch * (row as f32 + 0.75);
        let mut x = w * between(rng, 0.04, 0.15);
        let mut points = Vec::new();
        while x < w * between(rng, 0.85, 1.0) {
            let tall =
                pitch * if chance(rng, 0.25) { between(rng, 0.5, 0.7) } else { between(rng, 0.15, 0.35) };
            let wide = pitch * between(rng, 0.12, 0.3);
            for i in 0..8 {
                let (c, s) = polar(std::f32::consts::TAU * i as f32 / 8.0);
                let along = x + wide * (i as f32 / 8.0) + wide * 0.5 * s;
                points.push((along, base + tilt * (along - w / 2.0) - tall * (0.5 - 0.5 * c)));
            }
            x += wide;
            if chance(rng, 0.15) {
                plate.stroke(&points, width, ink, 1.0);
                points.clear();
                x += pitch * 0.35;
            }
        }
        plate.stroke(&points, width, ink, 1.0);
    }
}

/// A scale bar with its length, or a ruler's ticks.
fn scale_bar(plate: &mut Plate, rng: &mut ChaCha8Rng, ink: Color) {
    let (w, h) = plate.size();
    let y = h * between(rng, 0.5, 0.85);
    let (left, right) = (w * between(rng, 0.03, 0.2), w * between(rng, 0.7, 0.97));
    let bar_px = h * between(rng, 0.02, 0.07) + 1.0;
    plate.stroke(&[(left, y), (right, y)], bar_px, ink, 1.0);
    if chance(rng, 0.6) {
        let ticks = rng.random_range(2..21);
        for i in 0..=ticks {
            let x = left + (right - left) * i as f32 / ticks as f32;
            let long = h * if i % 5 == 0 { 0.16 } else { 0.09 };
            plate.stroke(&[(x, y), (x, y - long)], between(rng, 1.0, 2.0), ink, 1.0);
        }
    }
    let text = format!("{}{}", number(rng, 2), ["UM", "NM", "MM", "X"][rng.random_range(0..4)]);
    let unit_px = (right - left) * between(rng, 0.6, 1.0) / (text.len() as f32 * 6.0);
    let origin = (left, (y - h * 0.22 - unit_px * 6.0).max(1.0));
    let width_px = (unit_px * 0.9).max(1.2);
    let pen = Pen { origin, along: (1.0, 0.0), unit_px, width_px, ink, slant: 0.0, shake: 0.0 };
    pen.write(plate, rng, &text, 0.0);
}
