//! Rows as they were stored to samples of 8 bits.
//!
//! Bits are taken from the highest of each byte; numbers of 16, 32 and 64 bits are in the machine's byte order after
//! [`to_native`]. A sample is scaled by a range that the file's type or its tags state, never by the values that an
//! image happens to have: two images of one instrument have to stay comparable.

use super::super::rgb;

/// How a row differs from its neighbours' values (tag `Predictor`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Predictor {
    None,
    /// Each sample is the difference from the one before.
    Horizontal,
    /// As `Horizontal`, byte by byte, with the bytes of one significance side by side (Adobe's for real numbers).
    FloatingPoint,
}

/// What the bits of a sample are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unsigned,
    Signed,
    Float,
}

/// One sample as it is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    pub kind: Kind,
    /// Unsigned: 1 to 16 or 32; signed: 8, 16 or 32; floating-point: 16, 32 or 64.
    pub bits: usize,
    /// The values that become 0 and 255; none for the index of a colour.
    pub range: Option<(f64, f64)>,
}

/// A value lies outside the range that the file states, or is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfRange;

impl Sample {
    /// Bytes of a row of `count` samples.
    pub(super) fn row_bytes(&self, count: usize) -> usize {
        (count * self.bits).div_ceil(8)
    }
}

/// Brings numbers of more than 8 bits from the file's byte order to the machine's.
pub(super) fn to_native(data: &mut [u8], bits: usize, is_big_endian: bool) {
    if is_big_endian != cfg!(target_endian = "big") && matches!(bits, 16 | 32 | 64) {
        data.chunks_exact_mut(bits / 8).for_each(<[u8]>::reverse);
    }
}

/// Undoes the predictor in one row whose numbers are in the machine's byte order; `stride` is the number of samples
/// that stand between one and the next of its colour.
pub(super) fn undo_predictor(predictor: Predictor, row: &mut [u8], bits: usize, stride: usize) {
    match (predictor, bits) {
        (Predictor::Horizontal, 8) => {
            for i in stride..row.len() {
                row[i] = row[i].wrapping_add(row[i - stride]);
            }
        }
        (Predictor::Horizontal, 16) => add_up::<2>(row, stride, |a, b| {
            u16::from_ne_bytes(a).wrapping_add(u16::from_ne_bytes(b)).to_ne_bytes()
        }),
        (Predictor::Horizontal, 32) => add_up::<4>(row, stride, |a, b| {
            u32::from_ne_bytes(a).wrapping_add(u32::from_ne_bytes(b)).to_ne_bytes()
        }),
        (Predictor::Horizontal, _) => add_up::<8>(row, stride, |a, b| {
            u64::from_ne_bytes(a).wrapping_add(u64::from_ne_bytes(b)).to_ne_bytes()
        }),
        (Predictor::FloatingPoint, _) => {
            for i in stride..row.len() {
                row[i] = row[i].wrapping_add(row[i - stride]);
            }
            let (planes, width) = (row.to_vec(), bits / 8);
            let count = row.len() / width;
            for (index, sample) in row.chunks_exact_mut(width).enumerate() {
                for (byte, value) in sample.iter_mut().enumerate() {
                    // The most significant bytes come first.
                    let plane = if cfg!(target_endian = "big") { byte } else { width - 1 - byte };
                    *value = planes[plane * count + index];
                }
            }
        }
        (Predictor::None, _) => {}
    }
}

fn add_up<const N: usize>(row: &mut [u8], stride: usize, add: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
    let read = |row: &[u8], index: usize| -> [u8; N] {
        row[index * N..(index + 1) * N].try_into().expect("a slice of N bytes")
    };
    for index in stride..row.len() / N {
        let sum = add(read(row, index), read(row, index - stride));
        row[index * N..(index + 1) * N].copy_from_slice(&sum);
    }
}

/// Scales the first `out.len()` samples of a row to 8 bits, rounded to the nearest; indices stay as they are.
///
/// # Errors
/// [`OutOfRange`] if a value lies outside the range.
pub(super) fn scale_row(sample: &Sample, row: &[u8], out: &mut [u8]) -> Result<(), OutOfRange> {
    match (sample.kind, sample.bits, sample.range) {
        (Kind::Unsigned, 8, _) => out.copy_from_slice(&row[..out.len()]),
        (Kind::Unsigned, 16, Some((_, 65_535.0))) => {
            for (value, pair) in out.iter_mut().zip(row.chunks_exact(2)) {
                *value = rgb::narrow(u16::from_ne_bytes([pair[0], pair[1]]));
            }
        }
        (Kind::Unsigned, 1..=8, None) => {
            for (index, value) in out.iter_mut().enumerate() {
                *value =
                    u8::try_from(bits_at(row, index * sample.bits, sample.bits)).expect("at most 8 bits");
            }
        }
        (Kind::Unsigned, bits @ 1..=15, Some((low, high))) => {
            for (index, value) in out.iter_mut().enumerate() {
                *value = scale(f64::from(bits_at(row, index * bits, bits)), low, high)?;
            }
        }
        (kind, bits, range) => {
            let (low, high) = range.expect("only indices of at most 8 bits have no range");
            for (value, stored) in out.iter_mut().zip(row.chunks_exact(bits / 8)) {
                *value = scale(number(kind, stored), low, high)?;
            }
        }
    }
    Ok(())
}

fn scale(value: f64, low: f64, high: f64) -> Result<u8, OutOfRange> {
    if (low..=high).contains(&value) {
        // Between 0 and 255.5, so that dropping the fraction rounds to the nearest.
        Ok(((value - low) / (high - low) * 255.0 + 0.5) as u8)
    } else {
        Err(OutOfRange)
    }
}

/// The `count` (1 to 16) bits that begin at bit `at`, the highest first.
#[inline]
fn bits_at(row: &[u8], at: usize, count: usize) -> u32 {
    let byte = |index: usize| u32::from(row.get(at / 8 + index).copied().unwrap_or(0));
    let window = byte(0) << 16 | byte(1) << 8 | byte(2);
    window >> (24 - at % 8 - count) & ((1 << count) - 1)
}

/// A number of 8, 16, 32 or 64 bits in the machine's byte order.
fn number(kind: Kind, stored: &[u8]) -> f64 {
    match (kind, stored) {
        (Kind::Signed, &[a]) => f64::from(i8::from_ne_bytes([a])),
        (Kind::Signed, &[a, b]) => f64::from(i16::from_ne_bytes([a, b])),
        (Kind::Signed, &[a, b, c, d]) => f64::from(i32::from_ne_bytes([a, b, c, d])),
        (Kind::Unsigned, &[a, b]) => f64::from(u16::from_ne_bytes([a, b])),
        (Kind::Unsigned, &[a, b, c, d]) => f64::from(u32::from_ne_bytes([a, b, c, d])),
        (Kind::Float, &[a, b]) => half(u16::from_ne_bytes([a, b])),
        (Kind::Float, &[a, b, c, d]) => f64::from(f32::from_ne_bytes([a, b, c, d])),
        (Kind::Float, &[a, b, c, d, e, f, g, h]) => f64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => f64::NAN,
    }
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    };
    if bits >> 15 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(
        kind: Kind,
        bits: usize,
        range: (f64, f64),
        row: &[u8],
        count: usize,
    ) -> Result<Vec<u8>, OutOfRange> {
        let mut out = vec![0; count];
        scale_row(&Sample { kind, bits, range: Some(range) }, row, &mut out)?;
        Ok(out)
    }

    #[test]
    fn every_depth_is_unpacked_from_the_highest_bit_and_scaled() {
        let row = [0b1010_0101, 0b1111_0000, 0b0001_1000];
        for bits in 1..=15_usize {
            let most = (1_u32 << bits) - 1;
            let out = scaled(Kind::Unsigned, bits, (0.0, f64::from(most)), &row, 24 / bits).unwrap();
            let text: String = row.iter().map(|byte| format!("{byte:08b}")).collect();
            for (index, value) in out.into_iter().enumerate() {
                let stored = u32::from_str_radix(&text[index * bits..(index + 1) * bits], 2).unwrap();
                let exact = f64::from(stored) * 255.0 / f64::from(most);
                assert_eq!(f64::from(value), exact.round(), "{bits} bits, sample {index}");
            }
        }
    }

    #[test]
    fn a_stated_range_is_scaled_and_what_lies_outside_is_refused() {
        let row: Vec<u8> = [0_u16, 2048, 4095].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(scaled(Kind::Unsigned, 16, (0.0, 4095.0), &row, 3), Ok(vec![0, 128, 255]));
        assert_eq!(scaled(Kind::Unsigned, 16, (0.0, 1023.0), &row, 3), Err(OutOfRange));
        let row: Vec<u8> = [-100_i16, 0, 100].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(scaled(Kind::Signed, 16, (-100.0, 100.0), &row, 3), Ok(vec![0, 128, 255]));
        let row: Vec<u8> = [0.0_f32, 0.5, 1.0].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(scaled(Kind::Float, 32, (0.0, 1.0), &row, 3), Ok(vec![0, 128, 255]));
        for outside in [f32::NAN, f32::INFINITY, -0.001, 1.001] {
            assert_eq!(scaled(Kind::Float, 32, (0.0, 1.0), &outside.to_ne_bytes(), 1), Err(OutOfRange));
        }
    }

    #[test]
    fn half_precision_follows_ieee_754() {
        let cases = [(0x0000, 0.0), (0x3C00, 1.0), (0x3800, 0.5), (0xC000, -2.0), (0x7BFF, 65_504.0)];
        for (bits, value) in cases {
            assert_eq!(half(bits), value);
        }
        assert_eq!(half(0x0001), 2_f64.powi(-24));
        assert_eq!(half(0x7C00), f64::INFINITY);
        assert!(half(0x7E00).is_nan());
    }

    #[test]
    fn predictors_add_up_within_a_row_and_a_colour() {
        let mut row = [1, 2, 3, 255, 1, 1];
        undo_predictor(Predictor::Horizontal, &mut row, 8, 3);
        assert_eq!(row, [1, 2, 3, 0, 3, 4]);
        let mut row: Vec<u8> = [1000_u16, 65_535, 2].iter().flat_map(|value| value.to_ne_bytes()).collect();
        undo_predictor(Predictor::Horizontal, &mut row, 16, 1);
        let expected: Vec<u8> = [1000_u16, 999, 1001].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(row, expected);

        // Two numbers: their bytes from the most significant, side by side, then differences.
        let numbers = [0.75_f32, -3.5];
        let planes: Vec<u8> =
            (0..4).flat_map(|byte| numbers.map(|number| number.to_be_bytes()[byte])).collect();
        let mut row: Vec<u8> =
            (0..8).map(|i| if i == 0 { planes[0] } else { planes[i].wrapping_sub(planes[i - 1]) }).collect();
        undo_predictor(Predictor::FloatingPoint, &mut row, 32, 1);
        let expected: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        assert_eq!(row, expected);
    }
}
