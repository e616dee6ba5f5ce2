//! Statistics of counts, shared by the figure of a slide and the report of the golden gate.
//!
//! No trials give no figure, never a zero that looks like one.

use serde::{Deserialize, Serialize};

/// 97.5 % quantile of the standard normal distribution: the bounds of a two-sided 95 % interval.
const Z_95: f64 = 1.959_963_984_540_054;

/// 95 % Wilson score interval of `successes` of `trials` (Wilson 1927, JASA 22:209), as fractions, 0 to 1.
///
/// `None` without trials. `successes` above `trials` count as `trials`.
pub fn wilson_interval(successes: u64, trials: u64) -> Option<(f64, f64)> {
    (trials > 0).then(|| {
        let n = trials as f64;
        let p = successes.min(trials) as f64 / n;
        let z2 = Z_95 * Z_95;
        let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = Z_95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        ((centre - half).max(0.0), (centre + half).min(1.0))
    })
}

/// Two-sided p-value of McNemar's exact test: of the pairs that differ, `first` went one way and `second` the other,
/// and by chance either way is as likely (McNemar 1947, Psychometrika 12:153; exact by the binomial distribution).
pub fn mcnemar_exact(first: u64, second: u64) -> f64 {
    let (fewer, pairs) = (first.min(second), first.saturating_add(second));
    // Terms of the binomial distribution as logarithms: 2^-pairs is below the smallest number from 1,075 pairs on.
    let mut log_term = -(pairs as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for i in 0..fewer {
        log_term += (((pairs - i) as f64) / ((i + 1) as f64)).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// The value below which the share `q`, 0 to 1, of `sorted` ascending values lies (nearest rank); `None` of none.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// A share, with its 95 % Wilson interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// How many.
    pub count: u64,
    /// Of how many, at least 1.
    pub of: u64,
    /// `count / of`, 0 to 1, rounded to six digits.
    pub value: f64,
    /// Lower bound of the interval, 0 to 1, rounded to six digits.
    pub low: f64,
    /// Upper bound of the interval, 0 to 1, rounded to six digits.
    pub high: f64,
}

impl Proportion {
    /// `count` of `of`; `None` of nothing.
    pub fn of(count: u64, of: u64) -> Option<Self> {
        let (low, high) = wilson_interval(count, of)?;
        Some(Self {
            count,
            of,
            value: round_6(count as f64 / of as f64),
            low: round_6(low),
            high: round_6(high),
        })
    }

    /// Whether the share, not rounded, reaches `floor`.
    pub fn reaches(&self, floor: f64) -> bool {
        // Compared as a quotient, so that 19 of 20 reaches 0.95.
        self.count as f64 / self.of as f64 >= floor
    }
}

/// Figures of one label against all others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelFigures {
    /// The label.
    pub label: String,
    /// Images of it that were answered.
    pub images: u64,
    /// Share of them answered with it; absent without such images.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sensitivity: Option<Proportion>,
    /// Share of the images of other labels answered with another label; absent without such images.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub specificity: Option<Proportion>,
}

/// Milliseconds from an image's bytes to its answer, without downloading it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Half of the images took at most this.
    pub median_ms: f64,
    /// 95 % of the images took at most this.
    pub p95_ms: f64,
}

fn round_6(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_equals_published_values() {
        // Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
        for (successes, trials, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let (found_low, found_high) = wilson_interval(successes, trials).unwrap();
            assert!((found_low - low).abs() < 1e-4, "{successes}/{trials}: {found_low}");
            assert!((found_high - high).abs() < 1e-4, "{successes}/{trials}: {found_high}");
        }
        assert_eq!(wilson_interval(0, 0), None);
    }

    #[test]
    fn mcnemar_equals_the_binomial_distribution() {
        // Sums of binomial coefficients, by hand: 2 × 79 / 4096, and so on.
        for (first, second, p) in [
            (0, 0, 1.0),
            (5, 5, 1.0),
            (10, 2, 0.038_574_218_75),
            (2, 10, 0.038_574_218_75),
            (6, 0, 0.031_25),
            (1, 0, 1.0),
            (59, 6, 4.964_65e-12),
        ] {
            let found = mcnemar_exact(first, second);
            assert!((found - p).abs() <= 1e-4 * p, "{first}/{second}: {found}");
        }
        // No underflow and no overflow where 2^-n is not a number any more.
        assert!((mcnemar_exact(50_000, 50_000) - 1.0).abs() < 1e-6);
        assert!(mcnemar_exact(2_000, 10) < 1e-300);
        assert!((mcnemar_exact(5_100, 4_900) - 0.046_6).abs() < 1e-3);
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        for (q, expected) in [(0.0, 1.0), (0.5, 2.0), (0.51, 3.0), (0.95, 4.0), (1.0, 4.0)] {
            assert_eq!(quantile(&sorted, q), Some(expected), "{q}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }
}
