//! Pictures that are not one whole, sharp, single red cell, ten kinds of them.
//!
//! It never draws something that a reader would count as a cell. It keeps one invariant: a picture depends
//! on the seed, its kind and its number alone, not on how many are drawn or in which order.

mod cat;
mod cells;
mod debris;
mod leukocyte;
mod plain;
mod shapes;
mod text;

use std::path::Path;

use anyhow::Result;
use image::RgbImage;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::blob::Blob;
use super::files::quick_png;
use super::noise::{between, chance};
use super::plate::Plate;
use super::slides::{seed_of, write};

/// Seeds of outliers start in a family of their own.
const OUTLIERS: u64 = 0x4F55_544C_4945_5253;

/// What a picture shows instead of one cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutlierKind {
    /// An empty field, or any even colour.
    Blank,
    /// Stain precipitate, dust, fibres, scratches, bubbles, crystals.
    Debris,
    /// A cell or a field so far out of focus that no inner detail is left.
    Defocus,
    /// Labels, numbers, handwriting, scale bars.
    Text,
    /// A cat.
    Cat,
    /// Geometric drawings.
    Shapes,
    /// Noise, clouds, wood, cloth.
    Texture,
    /// Several cells.
    Field,
    /// A small part of a cell.
    Fragment,
    /// A white blood cell or a clump of platelets.
    Leukocyte,
}

impl OutlierKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Blank,
        Self::Debris,
        Self::Defocus,
        Self::Text,
        Self::Cat,
        Self::Shapes,
        Self::Texture,
        Self::Field,
        Self::Fragment,
        Self::Leukocyte,
    ];

    /// The name of the kind's folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blank => "blank",
            Self::Debris => "debris",
            Self::Defocus => "defocus",
            Self::Text => "text",
            Self::Cat => "cat",
            Self::Shapes => "shapes",
            Self::Texture => "texture",
            Self::Field => "field",
            Self::Fragment => "fragment",
            Self::Leukocyte => "leukocyte",
        }
    }
}

/// Writes `count` pictures of each kind as `<kind>/NNNN.png`, and tells how many files that were.
///
/// # Errors
/// If a file cannot be written or packed.
pub fn write_outliers(folder: &Path, seed: u64, count: u64) -> Result<u64> {
    // The pictures are independent, so the kinds are shared between threads.
    std::thread::scope(|scope| {
        let workers: Vec<_> = [0, 1]
            .map(|worker| scope.spawn(move || write_share(folder, seed, count, worker)))
            .into_iter()
            .collect();
        workers.into_iter().try_for_each(|w| w.join().expect("drawing does not panic"))
    })?;
    Ok(count * OutlierKind::ALL.len() as u64)
}

fn write_share(folder: &Path, seed: u64, count: u64, worker: usize) -> Result<()> {
    for kind in OutlierKind::ALL {
        for index in (worker as u64..count).step_by(2) {
            let picture = draw_outlier(seed_of(OUTLIERS ^ seed, index, kind as u64), kind);
            write(&folder.join(format!("{}/{index:04}.png", kind.name())), &quick_png(&picture)?)?;
        }
    }
    Ok(())
}

/// Draws the picture of a kind with this seed.
pub fn draw_outlier(seed: u64, kind: OutlierKind) -> RgbImage {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let size = size(rng, kind);
    match kind {
        OutlierKind::Blank => plain::blank(rng, size),
        OutlierKind::Debris => debris::debris(rng, size),
        OutlierKind::Defocus => cells::defocus(rng, size),
        OutlierKind::Text => text::text(rng, size),
        OutlierKind::Cat => cat::cat(rng, size),
        OutlierKind::Shapes => shapes::shapes(rng, size),
        OutlierKind::Texture => plain::texture(rng, size),
        OutlierKind::Field => cells::field(rng, size),
        OutlierKind::Fragment => cells::fragment(rng, size),
        OutlierKind::Leukocyte => leukocyte::leukocyte(rng, size),
    }
}

/// Width and height in pixels, as the crops of cells have them, now and then larger.
fn size(rng: &mut ChaCha8Rng, kind: OutlierKind) -> (usize, usize) {
    let larger = match kind {
        OutlierKind::Field => 0.3,
        OutlierKind::Leukocyte | OutlierKind::Fragment => 0.0,
        _ => 0.06,
    };
    if chance(rng, larger) {
        let long = between(rng, 200.0, 320.0);
        return (long as usize, (long * between(rng, 0.6, 1.0)) as usize);
    }
    let long = if chance(rng, 0.2) { between(rng, 60.0, 200.0) } else { between(rng, 90.0, 160.0) };
    let short = (long * between(rng, 0.75, 1.0)).max(60.0);
    if chance(rng, 0.5) { (long as usize, short as usize) } else { (short as usize, long as usize) }
}

/// Cuts out a roundish part onto black, jagged, as crops of cells are cut out.
fn cut_round(plate: &mut Plate, rng: &mut ChaCha8Rng) {
    let (w, h) = plate.size();
    let unevenness = if chance(rng, 0.3) { 0.3 } else { between(rng, 0.04, 0.15) };
    let share = 0.5 / (1.0 + 0.3 * unevenness);
    let mask = Blob::tilted(rng, plate.middle(), (w * share, h * share), unevenness, 0.0);
    plate.cut(rng.random_range(2..4), |x, y| mask.reach(x, y) < 1.0);
}
