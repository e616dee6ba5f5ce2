//! Deep Zoom pyramids: an image at every halving of its size, each cut into tiles, so that a browser loads what is in view.
//!
//! Levels and tiles are those of Microsoft's Deep Zoom: level `max_level` is the image, each level below has half its
//! sides, rounded up, down to one pixel at level 0; tiles of [`TILE_SIZE_PX`] overlap their neighbours by [`OVERLAP_PX`].
//!
//! While it runs it holds at most 5.5 bytes for each pixel of the image: its pixels (3), all smaller levels (1) and
//! what the filter holds between the two directions (1.5). Decoding the same image may take twice that and is over by
//! then, so that a pyramid fits the decoder's budget.

use std::time::Instant;

use super::decode::Pixels;
use super::render::{cut_out, encode_jpeg, scale};

/// Side of a tile without its overlap, pixels.
pub const TILE_SIZE_PX: u32 = 512;

/// What a tile shows of each neighbour, pixels.
pub const OVERLAP_PX: u32 = 1;

/// The geometry of one image's pyramid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pyramid {
    width_px: u32,
    height_px: u32,
}

/// One tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TilePlace {
    /// 0 is the smallest.
    pub level: u32,
    /// From the left, from 0.
    pub column: u32,
    /// From the top, from 0.
    pub row: u32,
}

/// Why a pyramid ended before its last tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The deadline passed.
    OutOfTime,
    /// Whoever takes the tiles wants no more.
    Refused,
}

impl Pyramid {
    /// The pyramid of an image of this size; both sides at least 1.
    pub fn new(width_px: u32, height_px: u32) -> Self {
        Self { width_px: width_px.max(1), height_px: height_px.max(1) }
    }

    /// The level that is the image itself: the binary logarithm of its longer side, rounded up.
    pub fn max_level(self) -> u32 {
        let longest = self.width_px.max(self.height_px);
        u32::BITS - (longest - 1).leading_zeros()
    }

    /// Width and height of a level, pixels; `None` above [`max_level`](Self::max_level).
    pub fn level_size(self, level: u32) -> Option<(u32, u32)> {
        let halvings = self.max_level().checked_sub(level)?;
        let side = |side: u32| u64::from(side).div_ceil(1 << halvings) as u32;
        Some((side(self.width_px), side(self.height_px)))
    }

    /// Columns and rows of a level's tiles; `None` above [`max_level`](Self::max_level).
    pub fn level_tiles(self, level: u32) -> Option<(u32, u32)> {
        let (width, height) = self.level_size(level)?;
        Some((width.div_ceil(TILE_SIZE_PX), height.div_ceil(TILE_SIZE_PX)))
    }

    /// Left and top, width and height of a tile on its level, with its overlap; `None` if there is no such tile.
    pub fn tile_area(self, place: TilePlace) -> Option<((u32, u32), (u32, u32))> {
        let (width, height) = self.level_size(place.level)?;
        let (columns, rows) = self.level_tiles(place.level)?;
        let axis = |index: u32, side: u32| {
            let first = (index * TILE_SIZE_PX).saturating_sub(OVERLAP_PX);
            let end = ((index + 1) * TILE_SIZE_PX + OVERLAP_PX).min(side);
            (first, end - first)
        };
        if place.column >= columns || place.row >= rows {
            return None;
        }
        let ((left, across), (top, down)) = (axis(place.column, width), axis(place.row, height));
        Some(((left, top), (across, down)))
    }

    /// How many tiles all levels have.
    pub fn tile_count(self) -> u64 {
        let levels = (0..=self.max_level()).filter_map(|level| self.level_tiles(level));
        levels.map(|(columns, rows)| u64::from(columns) * u64::from(rows)).sum()
    }
}

/// Makes all tiles of an image, the smallest level first as a viewer asks for them, and gives each as a JPEG to `take`
/// until it answers `false`.
///
/// # Errors
/// [`Ended`] if `deadline` passes or `take` refuses.
pub fn render_pyramid(
    pixels: Pixels,
    deadline: Instant,
    mut take: impl FnMut(TilePlace, Vec<u8>) -> bool,
) -> Result<(), Ended> {
    let pyramid = Pyramid::new(pixels.width_px, pixels.height_px);
    let mut levels = vec![pixels];
    for level in (0..pyramid.max_level()).rev() {
        if Instant::now() >= deadline {
            return Err(Ended::OutOfTime);
        }
        let (width_px, height_px) = pyramid.level_size(level).expect("not above the highest level");
        // Of the level above, a quarter of the work of taking the image itself, and the filter averages all the same.
        let above = levels.last().expect("the image is the first");
        levels.push(scale(above, width_px, height_px));
    }
    for (level, pixels) in (0..).zip(levels.into_iter().rev()) {
        let (columns, rows) = pyramid.level_tiles(level).expect("not above the highest level");
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            if Instant::now() >= deadline {
                return Err(Ended::OutOfTime);
            }
            let place = TilePlace { level, column, row };
            let (at, size) = pyramid.tile_area(place).expect("a tile of this level");
            if !take(place, encode_jpeg(&cut_out(&pixels, at, size))) {
                return Err(Ended::Refused);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DecodeLimits;
    use crate::decode;
    use giemsa_config::Limits;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[test]
    fn levels_halve_down_to_one_pixel() {
        // 2,560 x 1,920: the levels that the Deep Zoom format describes.
        let pyramid = Pyramid::new(2_560, 1_920);
        assert_eq!(pyramid.max_level(), 12);
        let sizes: Vec<_> = (0..=12).map(|level| pyramid.level_size(level).unwrap()).collect();
        assert_eq!(sizes[12], (2_560, 1_920));
        assert_eq!(sizes[11], (1_280, 960));
        assert_eq!(sizes[1], (2, 1));
        assert_eq!(sizes[0], (1, 1));
        assert_eq!(pyramid.level_size(13), None);
        assert_eq!(pyramid.level_tiles(12), Some((5, 4)));
        for (width, height, level) in
            [(1, 1, 0), (2, 1, 1), (1_024, 3, 10), (1_025, 1_025, 11), (65_535, 1, 16)]
        {
            assert_eq!(Pyramid::new(width, height).max_level(), level, "{width} x {height}");
            assert_eq!(Pyramid::new(width, height).level_size(0), Some((1, 1)));
        }
    }

    #[test]
    fn tiles_overlap_by_a_pixel_and_end_with_the_image() {
        let pyramid = Pyramid::new(1_100, 600);
        let area = |level, column, row| pyramid.tile_area(TilePlace { level, column, row });
        assert_eq!(pyramid.max_level(), 11);
        assert_eq!(area(11, 0, 0), Some(((0, 0), (513, 513))));
        assert_eq!(area(11, 1, 0), Some(((511, 0), (514, 513))));
        assert_eq!(area(11, 2, 1), Some(((1_023, 511), (77, 89))));
        assert_eq!(area(11, 3, 0), None);
        assert_eq!(area(11, 0, 2), None);
        assert_eq!(area(12, 0, 0), None);
        // 1,024 is a whole number of tiles: the last is not a sliver of overlap.
        assert_eq!(Pyramid::new(1_024, 512).level_tiles(10), Some((2, 1)));
    }

    #[test]
    fn every_tile_shows_its_part_of_the_image() {
        // Blocks of 100 px, each of another colour, so that a tile in the wrong place is seen.
        let colour = |x: u32, y: u32| [(x / 100 * 23) as u8, (y / 100 * 29) as u8, 90];
        let rgb = (0..700).flat_map(|y| (0..1_100).flat_map(move |x| colour(x, y))).collect();
        let image = Pixels { width_px: 1_100, height_px: 700, rgb };
        let pyramid = Pyramid::new(1_100, 700);
        let mut tiles = BTreeMap::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut take = |TilePlace { level, column, row }, jpeg: Vec<u8>| {
            tiles.insert((level, column, row), jpeg).is_none()
        };
        render_pyramid(image, deadline, &mut take).unwrap();
        assert_eq!(tiles.len() as u64, pyramid.tile_count());
        for (&(level, column, row), jpeg) in &tiles {
            let ((left, top), size) = pyramid.tile_area(TilePlace { level, column, row }).unwrap();
            let tile = decode(jpeg, &DecodeLimits::of(&Limits::default())).unwrap().pixels;
            assert_eq!((tile.width_px, tile.height_px), size, "level {level}, tile {column}, {row}");
            if level < 10 {
                continue;
            }
            let factor = 1 << (pyramid.max_level() - level);
            // The middle of each block that lies in the tile.
            for y in (50..700).step_by(100).map(|y| y / factor) {
                for x in (50..1_100).step_by(100).map(|x| x / factor) {
                    if (left..left + size.0).contains(&x) && (top..top + size.1).contains(&y) {
                        let at = (((y - top) * size.0 + x - left) * 3) as usize;
                        let expected = colour(x * factor, y * factor);
                        for (found, expected) in tile.rgb[at..at + 3].iter().zip(expected) {
                            assert!(
                                found.abs_diff(expected) <= 8,
                                "level {level} at {x}, {y}: {found} {expected}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn it_ends_at_its_deadline_and_when_nobody_takes_tiles() {
        let image = || Pixels { width_px: 600, height_px: 600, rgb: vec![9; 600 * 600 * 3] };
        assert_eq!(render_pyramid(image(), Instant::now(), |_, _| true), Err(Ended::OutOfTime));
        let mut count = 0;
        let ended = render_pyramid(image(), Instant::now() + Duration::from_secs(60), |_, _| {
            count += 1;
            count < 3
        });
        assert_eq!((ended, count), (Err(Ended::Refused), 3));
    }
}
