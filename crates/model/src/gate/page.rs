//! The report of the golden gate as a page for people: one file without scripts, made to be printed.
//!
//! It says nothing that the JSON does not say. Whatever is not markup of this file is escaped, as `maud` does.

use std::collections::{BTreeMap, BTreeSet};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use giemsa_core::gate_report::{Difference, GateReport, ProductionComparison, UnreadableImage, WrongImage};
use giemsa_core::gate_rules::EmptyGoldenSet;
use giemsa_core::statistics::{Proportion, Speed};

/// Rows of a list on the page; the JSON has all.
const LONGEST_LIST: usize = 200;

const STYLE: PreEscaped<&str> = PreEscaped(include_str!("page.css"));

/// The page of `report`, a whole HTML document.
pub fn render_report(report: &GateReport) -> String {
    let name = report.model.name.as_deref().unwrap_or("a model that cannot be read");
    let version = report.model.version.as_deref().unwrap_or_default();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                style { (STYLE) }
                title { (name) " " (version) ": golden report" }
            }
            body {
                main {
                    h1 { (name) " " (version) }
                    (verdict(report))
                    (facts(report))
                    (figures(report))
                    (confusion(report))
                    (wrong_images(report))
                    (unreadable_images(report))
                    @if let Some(production) = &report.production { (comparison(report, production)) }
                    (rules(report))
                    footer {
                        "Made " (report.made_at.format("%Y-%m-%d %H:%M:%S UTC")) " by " (report.software) ". The intervals are \
                        95 % Wilson score intervals; they know only of the count of images, not of how well these stand for \
                        daily work."
                    }
                }
            }
        }
    };
    page.into_string()
}

fn verdict(report: &GateReport) -> Markup {
    let (class, word) = match (report.passed, &report.waiver) {
        (true, _) => ("passed", "PASSED"),
        (false, Some(_)) => ("failed", "FAILED, but allowed to serve"),
        (false, None) => ("failed", "FAILED"),
    };
    html! {
        p class={ "verdict " (class) } { (word) }
        @if let Some(waiver) = &report.waiver {
            p { (waiver.by) " decided on " (waiver.at.format("%Y-%m-%d %H:%M UTC")) ": " (waiver.reason) }
        }
        @for (class, sentences) in [("reasons", &report.failures), ("notes", &report.notes)] {
            @if !sentences.is_empty() {
                ul class=(class) { @for sentence in sentences { li { (sentence) } } }
            }
        }
    }
}

fn facts(report: &GateReport) -> Markup {
    let by_label: Vec<String> =
        report.golden.images.iter().map(|(label, count)| format!("{label} {count}")).collect();
    html! {
        dl {
            dt { "Model file" }
            dd .hash { "sha256 " (report.model.sha256) ", " (report.model.size_bytes) " bytes" }
            dt { "Golden images" }
            dd {
                (report.golden.images.values().sum::<u64>())
                @if !by_label.is_empty() { " (" (by_label.join(", ")) ")" }
            }
            dt { "Golden set" }
            dd .hash { (report.golden.digest) }
            dt { "Its own proof" }
            dd {
                @match &report.model.proof {
                    None => "none",
                    Some(proof) => {
                        (proof.inputs) " inputs differ by " (format!("{:.1e}", proof.greatest_difference)) " at most from "
                        (proof.by) " (allowed: " (proof.bound) ")"
                    }
                }
            }
            dt { "Right answers" }
            dd { (share(report.accuracy)) }
            dt { "Need a human look" }
            dd { (share(report.needs_review)) }
            dt { "Time for an image" }
            dd { (time(report.speed)) }
        }
    }
}

fn share(proportion: Option<Proportion>) -> Markup {
    let Some(p) = proportion else { return html! { "not measured" } };
    html! {
        (p.count) " of " (p.of) ": " b { (percent(p.value)) } " "
        span .interval { (format!("{:.1}–{:.1} %", 100.0 * p.low, 100.0 * p.high)) }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn time(speed: Option<Speed>) -> String {
    speed.map_or_else(
        || "not measured".to_owned(),
        |speed| format!("median {:.1} ms, 95 % within {:.1} ms", speed.median_ms, speed.p95_ms),
    )
}

fn figures(report: &GateReport) -> Markup {
    html! {
        @if !report.labels.is_empty() {
            h2 { "By label" }
            table {
                tr { th { "Label" } th .n { "Images" } th { "Sensitivity" } th { "Specificity" } }
                @for figures in &report.labels {
                    tr {
                        th { (figures.label) }
                        td .n { (figures.images) }
                        td { (share(figures.sensitivity)) }
                        td { (share(figures.specificity)) }
                    }
                }
            }
        }
    }
}

fn confusion(report: &GateReport) -> Markup {
    let order: Vec<&String> = report.labels.iter().map(|figures| &figures.label).collect();
    let seen: BTreeSet<&String> = report.confusion.values().flat_map(BTreeMap::keys).collect();
    let columns: Vec<&String> = order.iter().copied().filter(|label| seen.contains(label)).collect();
    let rows = order.iter().filter_map(|label| Some((*label, report.confusion.get(*label)?)));
    let cell = |expected: &String, answered: &String, count: u64| {
        let class = match (expected == answered, count) {
            (true, _) => "n right",
            (false, 0) => "n",
            (false, _) => "n wrong",
        };
        html! { td class=(class) { (count) } }
    };
    html! {
        @if !report.confusion.is_empty() {
            h2 { "Confusion matrix" }
            table {
                tr { th { "Expected ↓, answered →" } @for label in &columns { th .n { (label) } } }
                @for (expected, answers) in rows {
                    tr {
                        th { (expected) }
                        @for answered in &columns {
                            (cell(expected, answered, answers.get(*answered).copied().unwrap_or(0)))
                        }
                    }
                }
            }
        }
    }
}

fn wrong_images(report: &GateReport) -> Markup {
    let row = |image: &WrongImage| {
        html! {
            td { (image.key) } td { (image.expected) } td { (image.answered) } td { (percent(image.confidence)) }
            td { @if image.needs_review { "yes" } @else { b .wrong { "no" } } }
        }
    };
    html! {
        @if !report.wrong.is_empty() {
            h2 { "Wrong answers, most confident first" }
            (list(["Image", "Expected", "Answered", "Confidence", "Would have been looked at"], &report.wrong, row))
        }
    }
}

fn unreadable_images(report: &GateReport) -> Markup {
    let row = |image: &UnreadableImage| {
        html! { td { (image.key) } td { (image.expected) } td { (image.code) } td { (image.message) } }
    };
    html! {
        @if !report.unreadable.is_empty() {
            h2 { "Images without an answer" }
            (list(["Image", "Expected", "Code", "Why"], &report.unreadable, row))
        }
    }
}

fn comparison(report: &GateReport, production: &ProductionComparison) -> Markup {
    let digest = production.sha256.get(..12).unwrap_or_default();
    let answer = |answer: &Option<String>| answer.clone().unwrap_or_else(|| "none".to_owned());
    let row = |difference: &Difference| {
        html! {
            td { (difference.key) } td { (difference.expected) } td { (answer(&difference.answered)) }
            td { (answer(&difference.production_answered)) }
        }
    };
    html! {
        h2 { "Against the model of production" }
        table {
            tr { th {} th { "This model" } th { (production.name) " " (production.version) " (" (digest) "…)" } }
            tr { th { "Right answers" } td { (share(report.accuracy)) } td { (share(production.accuracy)) } }
            tr { th { "Time for an image" } td { (time(report.speed)) } td { (time(production.speed)) } }
        }
        @if production.differences.is_empty() {
            p { "Both give every image the same answer." }
        } @else {
            p { "They answer " (production.differences.len()) " images differently:" }
            (list(["Image", "Expected", "This model", "Production"], &production.differences, row))
        }
    }
}

/// A table of the first [`LONGEST_LIST`] items; `row` makes the cells of one.
fn list<T>(
    headings: impl IntoIterator<Item = &'static str>,
    items: &[T],
    row: impl Fn(&T) -> Markup,
) -> Markup {
    html! {
        table {
            tr { @for heading in headings { th { (heading) } } }
            @for item in items.iter().take(LONGEST_LIST) { tr { (row(item)) } }
        }
        @if items.len() > LONGEST_LIST {
            p { (items.len() - LONGEST_LIST) " more are in the JSON beside this page." }
        }
    }
}

fn rules(report: &GateReport) -> Markup {
    let rules = &report.rules;
    let floors = [
        ("sensitivity_at_least", &rules.sensitivity_at_least),
        ("specificity_at_least", &rules.specificity_at_least),
    ];
    let empty = match rules.empty_golden_set {
        EmptyGoldenSet::Fail => "fail",
        EmptyGoldenSet::Pass => "pass",
    };
    html! {
        h2 { "What it had to reach" }
        table {
            tr { td { "accuracy_at_least" } td { (percent(rules.accuracy_at_least)) } }
            @for (name, floors) in floors {
                @for (label, floor) in floors { tr { td { (name) ": " (label) } td { (percent(*floor)) } } }
            }
            @for (label, count) in &rules.images_at_least { tr { td { "images_at_least: " (label) } td { (count) } } }
            tr { td { "empty_golden_set" } td { (empty) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::{Answered, GoldenAnswer, Trial};
    use giemsa_core::gate_report::{GateModel, GoldenSummary};
    use giemsa_core::gate_rules::GateRules;

    #[test]
    fn every_text_from_outside_is_escaped() {
        let evil = "<script>alert(1)</script>".to_owned();
        let answered =
            Answered { label: evil.clone(), confidence: 0.5, needs_review: false, milliseconds: 1.0 };
        let answers =
            vec![GoldenAnswer { key: evil.clone(), expected: evil.clone() + "2", answer: Ok(answered) }];
        let model = GateModel {
            name: Some(evil.clone()),
            version: Some(evil.clone()),
            labels: vec![evil.clone()],
            ..GateModel::default()
        };
        let mut rules = GateRules::default();
        rules.images_at_least.insert(evil.clone(), 3);
        let report = Trial {
            production: Some((model.clone(), Vec::new())),
            model,
            golden: GoldenSummary { digest: evil.clone(), images: [(evil.clone() + "2", 1)].into() },
            rules,
            answers,
            problems: vec![evil.clone()],
            notes: vec![evil.clone()],
            made_at: DateTime::UNIX_EPOCH,
        }
        .judge();
        let html = render_report(&report);
        assert!(!html.contains("<script"), "{html}");
        assert!(html.matches("&lt;script&gt;").count() >= 10, "{html}");
        assert!(html.contains("FAILED"));
    }
}
