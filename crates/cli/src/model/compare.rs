//! `giemsa model compare`: the models of two stages on the same uploads.
//!
//! The sentence at the end follows from the numbers above it.

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use giemsa_core::statistics::{LabelFigures, Speed};
use giemsa_store::AnsweredQuery;
use giemsa_store::shadow::{Comparison, ComparisonQuery, Conclusion, Side, compare};

use super::super::{Failed, output};
use super::{Deployment, parse_since, parse_slide, parse_stage, print, shown_model, shown_share};

/// Images named of each flip in the text; the JSON has more.
const SHOWN_IMAGES: usize = 5;

#[derive(Debug, clap::Args)]
pub struct CompareArguments {
    /// The stage whose model may become the next, e.g. dev.
    #[arg(value_parser = parse_stage)]
    candidate: String,
    /// The stage to compare it with, e.g. prod.
    #[arg(value_parser = parse_stage)]
    reference: String,
    /// Only images uploaded since a time or within a period: 2026-11-22, 24h, 7d.
    #[arg(long, value_parser = parse_since)]
    since: Option<DateTime<Utc>>,
    /// Only images of this slide: the folder part of their keys.
    #[arg(long, value_parser = parse_slide)]
    slide: Option<String>,
}

/// Compares.
pub async fn run(arguments: &CompareArguments, json: bool) -> Result<(), Failed> {
    let (candidate, reference) = (arguments.candidate.clone(), arguments.reference.clone());
    if candidate == reference {
        return Err(Failed::Usage(anyhow!("both stages are {candidate:?}; expected two, e.g. dev prod")));
    }
    let deployment = Deployment::of_environment(&candidate).await?;
    let (ours, theirs) = (deployment.model_of(&candidate).await?, deployment.model_of(&reference).await?);
    let answered =
        AnsweredQuery { stage: candidate.clone(), sha256: ours.sha256.clone(), since: arguments.since };
    let total = deployment.table.count_answered(&answered).await.map_err(anyhow::Error::from)?;
    let query = ComparisonQuery {
        candidate: (candidate, ours),
        reference: (reference, theirs),
        since: arguments.since,
        slide: arguments.slide.clone(),
    };
    let bar = output::progress("compared", usize::try_from(total).unwrap_or(usize::MAX));
    let comparison = compare(&deployment.table, &query, |seen| bar.set_position(seen)).await;
    bar.finish_and_clear();
    print(json, &comparison.map_err(anyhow::Error::from)?, shown)
}

fn shown(comparison: &Comparison) -> String {
    let Comparison { candidate, reference, .. } = comparison;
    let mut lines = vec![shown_side(candidate), shown_side(reference)];
    let excluded = format!(
        "{} not answered by the model of {}, {} classified by only one of the two",
        comparison.without_reference, reference.stage, comparison.classified_by_one
    );
    lines.push(format!("images      {} that both classified ({excluded})", comparison.images));
    lines.push(format!("agreement   {}", shown_share(comparison.agreement.as_ref())));
    for flip in &comparison.flips {
        let labels = format!("{} → {}", flip.reference, flip.candidate);
        lines.push(output::printable(&format!(
            "  {} × {labels} ({} → {})",
            flip.images, reference.stage, candidate.stage
        )));
        for image in flip.first.iter().take(SHOWN_IMAGES) {
            lines.push(output::printable(&format!("      {}", image.key)));
        }
        let more = flip.images.saturating_sub(SHOWN_IMAGES as u64);
        if more > 0 {
            lines.push(format!("      and {more} more"));
        }
    }
    if let Some(shift) = comparison.confidence_shift {
        let percent = |value: f64| format!("{:+.1}", 100.0 * value);
        let range = format!("90 % of images between {} and {}", percent(shift.p5), percent(shift.p95));
        lines
            .push(format!("confidence  {} points on average where they agree; {range}", percent(shift.mean)));
    }
    if let Some(positives) = comparison.positives {
        lines.push(format!(
            "positives   {} only in {}, {} only in {}; McNemar's exact test p = {}",
            positives.only_candidate,
            candidate.stage,
            positives.only_reference,
            reference.stage,
            shown_p(positives.p_value)
        ));
    }
    match &comparison.verdicts {
        None => lines.push("verdicts    no verdicts of reviewers on these images yet".to_owned()),
        Some(verdicts) => {
            lines.push(format!("verdicts    {} images", verdicts.images));
            let accuracy = [
                (candidate, verdicts.candidate_accuracy, &verdicts.candidate),
                (reference, verdicts.reference_accuracy, &verdicts.reference),
            ];
            for (side, accuracy, labels) in accuracy {
                lines.push(format!("  {:<8}  right {}", side.stage, shown_share(accuracy.as_ref())));
                lines.extend(labels.iter().map(shown_label));
            }
            lines.push(format!(
                "  only {} right: {}, only {} right: {}; McNemar's exact test p = {}",
                candidate.stage,
                verdicts.right.only_candidate,
                reference.stage,
                verdicts.right.only_reference,
                shown_p(verdicts.right.p_value)
            ));
        }
    }
    lines.push(String::new());
    lines.push(sentence(comparison));
    lines.join("\n")
}

fn shown_side(side: &Side) -> String {
    let speed = side.speed.map_or_else(
        || "times unknown".to_owned(),
        |Speed { median_ms, p95_ms }| format!("{median_ms:.1} ms an image, 95 % within {p95_ms:.1} ms"),
    );
    format!("{:<10}  {}, {speed}", side.stage, shown_model(&side.model))
}

fn shown_label(figures: &LabelFigures) -> String {
    let (sensitivity, specificity) =
        (shown_share(figures.sensitivity.as_ref()), shown_share(figures.specificity.as_ref()));
    output::printable(&format!("    {}: sensitivity {sensitivity}, specificity {specificity}", figures.label))
}

fn shown_p(p_value: f64) -> String {
    if p_value < 0.001 { "less than 0.001".to_owned() } else { format!("{p_value:.3}") }
}

fn sentence(comparison: &Comparison) -> String {
    let (ours, theirs) = (&comparison.candidate.stage, &comparison.reference.stage);
    match comparison.conclusion {
        Conclusion::NothingToCompare => {
            format!(
                "There is no image that the models of {ours} and {theirs} both answered: nothing to compare."
            )
        }
        Conclusion::NoVerdicts => {
            "Nobody has said yet which of the two is right where they differ: have these images reviewed."
                .to_owned()
        }
        Conclusion::CandidateBetter => {
            format!("The model of {ours} is right significantly more often than that of {theirs}.")
        }
        Conclusion::CandidateWorse => {
            format!(
                "The model of {ours} is right significantly less often than that of {theirs}: do not promote it."
            )
        }
        Conclusion::NoDifferenceShown => {
            format!(
                "Neither is shown to be right more often: what differs between {ours} and {theirs} may be chance."
            )
        }
    }
}
