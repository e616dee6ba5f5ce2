//! Statistics of counts, shared by the figure of a slide and the report of the golden gate.
//!
//! Pure. Invariant: no trials give no figure, never a zero that looks like one.

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
}
