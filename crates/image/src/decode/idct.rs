//! Coefficients of one block to samples, for [`super::jpeg`].
//!
//! The accurate integer transform of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) with 13 fractional bits, rounded
//! where libjpeg rounds (`jidctint.c`), so that the samples are those of libjpeg. Coefficients that no encoder writes
//! wrap around.

use std::num::Wrapping;

type Number = Wrapping<i32>;

/// Fractional bits of the factors.
const FACTOR_BITS: usize = 13;
/// Fractional bits that are kept between the two passes.
const PASS_BITS: usize = 2;

/// A factor in 13 fractional bits.
const fn factor(value: f64) -> Number {
    Wrapping((value * (1 << FACTOR_BITS) as f64 + 0.5) as i32)
}

const F_0_298: Number = factor(0.298_631_336);
const F_0_390: Number = factor(0.390_180_644);
const F_0_541: Number = factor(0.541_196_100);
const F_0_765: Number = factor(0.765_366_865);
const F_0_899: Number = factor(0.899_976_223);
const F_1_175: Number = factor(1.175_875_602);
const F_1_501: Number = factor(1.501_321_110);
const F_1_847: Number = factor(1.847_759_065);
const F_1_961: Number = factor(1.961_570_560);
const F_2_053: Number = factor(2.053_119_869);
const F_2_562: Number = factor(2.562_915_447);
const F_3_072: Number = factor(3.072_711_026);

/// One dimension of the transform; the result has 13 fractional bits more than the input.
#[inline(always)]
fn pass(input: [Number; 8]) -> [Number; 8] {
    let common = (input[2] + input[6]) * F_0_541;
    let even_2 = common - input[6] * F_1_847;
    let even_3 = common + input[2] * F_0_765;
    let even_0 = (input[0] + input[4]) << FACTOR_BITS;
    let even_1 = (input[0] - input[4]) << FACTOR_BITS;
    let even = [even_0 + even_3, even_1 + even_2, even_1 - even_2, even_0 - even_3];

    let common = (input[7] + input[3] + input[5] + input[1]) * F_1_175;
    let z1 = (input[7] + input[1]) * -F_0_899;
    let z2 = (input[5] + input[3]) * -F_2_562;
    let z3 = (input[7] + input[3]) * -F_1_961 + common;
    let z4 = (input[5] + input[1]) * -F_0_390 + common;
    let odd = [
        input[1] * F_1_501 + z1 + z4,
        input[3] * F_3_072 + z2 + z3,
        input[5] * F_2_053 + z2 + z4,
        input[7] * F_0_298 + z1 + z3,
    ];
    [
        even[0] + odd[0],
        even[1] + odd[1],
        even[2] + odd[2],
        even[3] + odd[3],
        even[3] - odd[3],
        even[2] - odd[2],
        even[1] - odd[1],
        even[0] - odd[0],
    ]
}

/// Drops `bits` fractional bits, rounded to the nearest.
#[inline(always)]
fn round(value: Number, bits: usize) -> Number {
    (value + Wrapping(1 << (bits - 1))) >> bits
}

/// The sample of a value around zero.
#[inline(always)]
fn sample(value: Number) -> u8 {
    (value.0.saturating_add(128)).clamp(0, 255) as u8
}

/// Transforms one block, in rows from the top, to 8 x 8 samples at the start of `out`, whose rows are `stride` apart.
pub(super) fn transform(block: &[i16; 64], quantisation: &[u16; 64], out: &mut [u8], stride: usize) {
    let value = |at: usize| Wrapping(i32::from(block[at])) * Wrapping(i32::from(quantisation[at]));
    let mut columns = [[Wrapping(0); 8]; 8];
    let mut is_flat = true;
    for x in 0..8 {
        let is_constant = (1..8).all(|y| block[8 * y + x] == 0);
        is_flat &= is_constant && (x == 0 || block[x] == 0);
        columns[x] = if is_constant {
            [value(x) << PASS_BITS; 8]
        } else {
            pass(std::array::from_fn(|y| value(8 * y + x))).map(|sum| round(sum, FACTOR_BITS - PASS_BITS))
        };
    }
    if is_flat {
        let gray = sample(round(columns[0][0], PASS_BITS + 3));
        for row in out.chunks_mut(stride).take(8) {
            row[..8].fill(gray);
        }
        return;
    }
    for (y, row) in out.chunks_mut(stride).take(8).enumerate() {
        let sums = pass(std::array::from_fn(|x| columns[x][y]));
        for (to, sum) in row[..8].iter_mut().zip(sums) {
            *to = sample(round(sum, FACTOR_BITS + PASS_BITS + 3));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The transform by its definition (ITU-T T.81, A.3.3).
    fn by_definition(block: &[i16; 64]) -> [u8; 64] {
        use std::f64::consts::{FRAC_1_SQRT_2, PI};
        let weight = |k: usize| if k == 0 { FRAC_1_SQRT_2 } else { 1.0 };
        std::array::from_fn(|at| {
            let (y, x) = (at / 8, at % 8);
            let mut sum = 0.0;
            for v in 0..8 {
                for u in 0..8 {
                    let angle = |at: usize, k: usize| ((2 * at + 1) as f64 * k as f64 * PI / 16.0).cos();
                    sum += weight(u) * weight(v) * f64::from(block[8 * v + u]) * angle(x, u) * angle(y, v);
                }
            }
            (sum / 4.0 + 128.0).round().clamp(0.0, 255.0) as u8
        })
    }

    #[test]
    fn samples_are_those_of_the_definition() {
        let mut state = 7_u32;
        let mut next = |most: i16| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            i16::try_from(state >> 20).unwrap() % most - most / 2
        };
        for round in 0..500 {
            let mut block = [0; 64];
            block[0] = next(1500);
            for place in &mut block[1..=1 + round % 63] {
                *place = next(120);
            }
            let mut out = [0; 64];
            transform(&block, &[1; 64], &mut out, 8);
            for (sample, exact) in out.iter().zip(by_definition(&block)) {
                assert!(sample.abs_diff(exact) <= 1, "{block:?}");
            }
        }
    }

    #[test]
    fn impossible_coefficients_do_not_panic() {
        for value in [i16::MIN, i16::MAX] {
            transform(&[value; 64], &[u16::MAX; 64], &mut [0; 64], 8);
        }
    }
}
