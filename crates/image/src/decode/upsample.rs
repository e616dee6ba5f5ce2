//! Colour channels of a JPEG, stored at their own resolutions, to interleaved samples, for [`super::jpeg`].
//!
//! Chroma at half the resolution is interpolated as libjpeg does by default (`jdsample.c`): three parts of the nearer
//! sample, one of the farther, rounded up and down in turn; other whole ratios are repeated. Sums are written out as
//! there, so that the samples are those of libjpeg.

use super::deadline::{Deadline, OutOfTime};

/// The samples of one colour channel.
#[derive(Debug)]
pub(super) struct Plane {
    /// Rows of `stride` samples.
    pub samples: Vec<u8>,
    pub stride: usize,
    /// Columns and rows that belong to the picture; the rest pads to whole blocks.
    pub width: usize,
    pub height: usize,
    /// How many pixels a sample covers, across and down.
    pub scale: (usize, usize),
}

impl Plane {
    fn row(&self, y: usize) -> &[u8] {
        &self.samples[y * self.stride..][..self.width]
    }

    /// Writes row `y` of the picture; `out` holds at least `width * scale.0` samples.
    fn write_row(&self, y: usize, out: &mut [u8], sums: &mut Vec<u16>) {
        // The farther row is above for the upper half of a sample, below for the lower; at the edge it is the same row.
        let near = self.row(y / self.scale.1);
        let far = || {
            let at = y / 2;
            self.row(if y.is_multiple_of(2) { at.saturating_sub(1) } else { (at + 1).min(self.height - 1) })
        };
        match self.scale {
            (1, 1) => out[..self.width].copy_from_slice(near),
            (2, 1) if self.width > 2 => double(near, out, |near, far, bias| (3 * near + far + 1 + bias) >> 2),
            (1, 2) => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for ((to, &near), &far) in out.iter_mut().zip(near).zip(far()) {
                    *to = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
                }
            }
            (2, 2) if self.width > 2 => {
                sums.clear();
                sums.extend(near.iter().zip(far()).map(|(&near, &far)| 3 * u16::from(near) + u16::from(far)));
                double(sums, out, |near, far, bias| (3 * near + far + 8 - bias) >> 4);
            }
            (across, _) => {
                for (to, &sample) in out.chunks_exact_mut(across).zip(near) {
                    to.fill(sample);
                }
            }
        }
    }
}

/// Twice as many columns; `mix` takes the nearer and the farther column and 0 for the left of a pair, 1 for the right.
#[inline(always)]
fn double<T: Copy + Into<u16>>(row: &[T], out: &mut [u8], mix: impl Fn(u16, u16, u16) -> u16) {
    let last = row.len() - 1;
    let at = |x: usize| -> u16 { row[x].into() };
    // At the edges the farther column is the column itself.
    out[0] = mix(at(0), at(0), 0) as u8;
    out[2 * last + 1] = mix(at(last), at(last), 1) as u8;
    for (pair, to) in row.windows(2).zip(out[1..].chunks_exact_mut(2)) {
        let (left, right): (u16, u16) = (pair[0].into(), pair[1].into());
        to[0] = mix(left, right, 1) as u8;
        to[1] = mix(right, left, 0) as u8;
    }
}

/// `width * height` pixels of one sample of each plane.
///
/// # Errors
/// [`OutOfTime`] at the deadline.
pub(super) fn interleave(
    planes: &[Plane],
    width: usize,
    height: usize,
    deadline: &Deadline,
) -> Result<Vec<u8>, OutOfTime> {
    let count = planes.len();
    let mut samples = vec![0; width * height * count];
    let mut rows: Vec<Vec<u8>> = planes.iter().map(|plane| vec![0; plane.width * plane.scale.0]).collect();
    let mut sums = Vec::new();
    for (y, to) in samples.chunks_exact_mut(width * count).enumerate() {
        if y.is_multiple_of(64) {
            deadline.check()?;
        }
        for (plane, row) in planes.iter().zip(&mut rows) {
            plane.write_row(y, row, &mut sums);
        }
        match rows.as_slice() {
            [gray] => to.copy_from_slice(&gray[..width]),
            [first, second, third] => {
                let columns = first.iter().zip(second).zip(third);
                for (pixel, ((&a, &b), &c)) in to.chunks_exact_mut(3).zip(columns) {
                    pixel.copy_from_slice(&[a, b, c]);
                }
            }
            rows => {
                for (x, pixel) in to.chunks_exact_mut(count).enumerate() {
                    for (sample, row) in pixel.iter_mut().zip(rows) {
                        *sample = row[x];
                    }
                }
            }
        }
    }
    Ok(samples)
}
