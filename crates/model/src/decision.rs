//! Scores to a calibrated decision.

use std::collections::BTreeMap;

use super::{Metadata, ReviewRule, ScoreKind, Scores};
use giemsa_core::record::Decision;

/// Decides from `scores` of the model that `metadata` is of.
///
/// Probabilities are `softmax(logits / temperature)` (temperature scaling: Guo et al. 2017,
/// arXiv:1706.04599); for a network that gives probabilities, their logarithm is the logit. An outlier is
/// answered like any image, because it may be a rare cell, but always needs a human look.
pub fn decide(scores: &Scores, metadata: &Metadata) -> Decision {
    let probabilities = calibrated_probabilities(&scores.labels, metadata.output, metadata.temperature);
    let best = (0..probabilities.len())
        .reduce(|best, i| if probabilities[i] > probabilities[best] { i } else { best })
        .expect("metadata has at least two labels");
    let label = metadata.labels[best].clone();
    let rounded: Vec<f64> = probabilities.iter().map(|p| round_6(*p)).collect();
    let confidence = rounded[best];
    let probabilities: BTreeMap<String, f64> = metadata.labels.iter().cloned().zip(rounded).collect();
    let positive = (!metadata.positive.is_empty()).then(|| metadata.positive.contains(&label));
    let rule = &metadata.review;
    let outlier_score = scores.outlier.map(|score| round_significant_6(f64::from(score)));
    let outlier_reason = outlier_reason(outlier_score, rule);
    let outlier = outlier_score.map(|_| outlier_reason.is_some());
    let answer_reason = answer_reason(&label, confidence, &probabilities, rule);
    let reasons: Vec<String> = outlier_reason.into_iter().chain(answer_reason).collect();
    let review_reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    Decision { label, confidence, probabilities, positive, outlier_score, outlier, review_reason }
}

/// `softmax(logits / temperature)`, in 64 bits and shifted by the largest logit so that it cannot overflow.
fn calibrated_probabilities(scores: &[f32], kind: ScoreKind, temperature: f32) -> Vec<f64> {
    let logit = |score: f32| match kind {
        ScoreKind::Logits => f64::from(score),
        // A probability of 0 is kept finite; 1e-30 is far below what the record shows.
        ScoreKind::Probabilities => f64::from(score).max(1e-30).ln(),
    };
    let scaled: Vec<f64> = scores.iter().map(|score| logit(*score) / f64::from(temperature)).collect();
    let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = scaled.iter().map(|value| (value - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|value| value / sum).collect()
}

/// Why the image may be nothing that the model can answer.
fn outlier_reason(outlier_score: Option<f64>, rule: &ReviewRule) -> Option<String> {
    let (score, limit) = (outlier_score?, rule.outlier_above?);
    (score > limit).then(|| {
        format!(
            "does not look like the images the model was trained on (outlier score {score}, limit {limit})"
        )
    })
}

/// Why the answer may be wrong; the first reason is enough.
fn answer_reason(
    label: &str,
    confidence: f64,
    probabilities: &BTreeMap<String, f64>,
    rule: &ReviewRule,
) -> Option<String> {
    let threshold = f64::from(rule.confidence_below);
    if confidence < threshold {
        return Some(format!("confidence {confidence:.3} is below {threshold:.3}"));
    }
    rule.label_above.iter().filter(|(other, _)| *other != label).find_map(|(other, limit)| {
        let probability = probabilities.get(other)?;
        let limit = f64::from(*limit);
        (*probability > limit).then(|| format!("{other} is possible: {probability:.3} is above {limit:.3}"))
    })
}

fn round_6(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Six digits of a number of any size, as an outlier score may be.
///
/// The limit is compared with what the record shows, so that a record cannot contradict itself.
fn round_significant_6(value: f64) -> f64 {
    // Through decimal text, because powers of ten below 1 are not exact in binary.
    format!("{value:.5e}").parse().expect("a formatted number is a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use giemsa_image::{ColorMode, InputSpec, Layout, Resize};
    use proptest::prelude::*;

    fn metadata(output: ScoreKind, temperature: f32) -> Metadata {
        Metadata {
            name: "m".into(),
            version: "1".into(),
            labels: vec!["parasitized".into(), "uninfected".into()],
            input: InputSpec {
                layout: Layout::Nchw,
                width: 1,
                height: 1,
                color: ColorMode::Gray,
                resize: Resize::Stretch,
                pad: [0; 3],
                scale: 1.0,
                mean: vec![0.0],
                std: vec![1.0],
            },
            output,
            temperature,
            review: ReviewRule {
                confidence_below: 0.8,
                label_above: [("parasitized".to_owned(), 0.05)].into(),
                outlier_above: Some(0.5),
            },
            positive: vec!["parasitized".into()],
        }
    }

    fn of(labels: [f32; 2]) -> Scores {
        Scores { labels: labels.to_vec(), outlier: None }
    }

    #[test]
    fn logits_are_divided_by_the_temperature() {
        let decision = decide(&of([2.0, 0.0]), &metadata(ScoreKind::Logits, 2.0));
        // 1 / (1 + e^-1)
        assert_eq!(decision.confidence, 0.731059);
        assert_eq!((decision.label.as_str(), decision.positive), ("parasitized", Some(true)));
        assert_eq!(decision.review_reason.as_deref(), Some("confidence 0.731 is below 0.800"));
    }

    #[test]
    fn probabilities_pass_unchanged_at_temperature_one() {
        let decision = decide(&of([0.25, 0.75]), &metadata(ScoreKind::Probabilities, 1.0));
        assert_eq!(decision.probabilities["parasitized"], 0.25);
        assert_eq!(decision.label, "uninfected");
    }

    #[test]
    fn a_suspicion_of_a_named_label_asks_for_review() {
        let scores = [(0.1_f32).ln(), (0.9_f32).ln()];
        let decision = decide(&of(scores), &metadata(ScoreKind::Logits, 1.0));
        assert_eq!(decision.review_reason.as_deref(), Some("parasitized is possible: 0.100 is above 0.050"));
        let sure = decide(&of([(0.01_f32).ln(), (0.99_f32).ln()]), &metadata(ScoreKind::Logits, 1.0));
        assert_eq!(sure.review_reason, None);
    }

    #[test]
    fn of_equal_scores_the_first_label_answers() {
        assert_eq!(decide(&of([1.0, 1.0]), &metadata(ScoreKind::Logits, 1.0)).label, "parasitized");
    }

    #[test]
    fn an_outlier_needs_review_whatever_the_answer() {
        const ODD: &str = "does not look like the images the model was trained on";
        let sure = [(0.001_f32).ln(), (0.999_f32).ln()];
        let unsure = [(0.3_f32).ln(), (0.7_f32).ln()];
        type Case = ([f32; 2], Option<f32>, Option<(f64, bool)>, Option<String>);
        let cases: [Case; 7] = [
            (sure, None, None, None),
            (sure, Some(0.1), Some((0.1, false)), None),
            // The limit itself is not above it, and 0.1 is 0.1 whatever its 32 bits say.
            (sure, Some(0.5), Some((0.5, false)), None),
            (sure, Some(0.500_000_1), Some((0.5, false)), None),
            (sure, Some(0.98), Some((0.98, true)), Some(format!("{ODD} (outlier score 0.98, limit 0.5)"))),
            (
                unsure,
                Some(12.345_678),
                Some((12.3457, true)),
                Some(format!("{ODD} (outlier score 12.3457, limit 0.5); confidence 0.700 is below 0.800")),
            ),
            (unsure, Some(-3.0), Some((-3.0, false)), Some("confidence 0.700 is below 0.800".to_owned())),
        ];
        for (labels, outlier, expected, reason) in cases {
            let scores = Scores { labels: labels.to_vec(), outlier };
            let decision = decide(&scores, &metadata(ScoreKind::Logits, 1.0));
            assert_eq!(decision.label, "uninfected");
            assert_eq!(decision.outlier_score.zip(decision.outlier), expected, "{outlier:?}");
            assert_eq!(decision.review_reason, reason, "{outlier:?}");
        }
    }

    #[test]
    fn outlier_scores_of_any_size_keep_six_digits() {
        let cases =
            [(0.0, 0.0), (1.234_567_8e-7, 1.23457e-7), (987_654_321.0, 987_654_000.0), (-0.25, -0.25)];
        for (value, expected) in cases {
            assert_eq!(round_significant_6(value), expected);
        }
        assert!(round_significant_6(f64::from(f32::MAX)).is_finite());
    }

    proptest! {
        #[test]
        fn probabilities_are_finite_ordered_and_sum_to_one(
            scores in prop::collection::vec(-1e30_f32..1e30, 2..6), temperature in 1e-3_f32..1e3,
        ) {
            let p = calibrated_probabilities(&scores, ScoreKind::Logits, temperature);
            prop_assert!(p.iter().all(|p| p.is_finite() && (0.0..=1.0).contains(p)));
            prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            for i in 0..p.len() {
                for j in 0..p.len() {
                    prop_assert!(scores[i] < scores[j] || p[i] >= p[j]);
                }
            }
        }
    }
}
