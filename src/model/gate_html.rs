//! The report of the golden gate as a page for people: one file without scripts, made to be printed.
//!
//! It says nothing that the JSON does not say. Invariant: every text from outside is escaped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::gate_report::{GateReport, ProductionComparison, Proportion, Speed};
use super::gate_rules::EmptyGoldenSet;
use crate::html::escape;

/// Rows of a list on the page; the JSON has all.
const LONGEST_LIST: usize = 200;

/// The page of `report`, a whole HTML document.
pub fn render_report(report: &GateReport) -> String {
    let mut html = String::from(HEAD);
    let name = report.model.name.as_deref().unwrap_or("a model that cannot be read");
    let version = report.model.version.as_deref().unwrap_or_default();
    push(
        &mut html,
        format_args!("<title>{} {}: golden report</title></head><body><main>", escape(name), escape(version)),
    );
    verdict(&mut html, report, name, version);
    facts(&mut html, report);
    figures(&mut html, report);
    confusion(&mut html, report);
    wrong_images(&mut html, report);
    unreadable_images(&mut html, report);
    if let Some(production) = &report.production {
        comparison(&mut html, report, production);
    }
    rules(&mut html, report);
    push(
        &mut html,
        format_args!(
            "<footer>Made {} by {}. The intervals are 95 % Wilson score intervals; they know only of the count of \
             images, not of how well these stand for daily work.</footer></main></body></html>\n",
            report.made_at.format("%Y-%m-%d %H:%M:%S UTC"),
            escape(&report.software)
        ),
    );
    html
}

/// Writing to a String cannot fail.
fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = html.write_fmt(text);
}

fn verdict(html: &mut String, report: &GateReport, name: &str, version: &str) {
    let (class, word) = match (report.passed, &report.waiver) {
        (true, _) => ("passed", "PASSED"),
        (false, Some(_)) => ("failed", "FAILED, and let serve all the same"),
        (false, None) => ("failed", "FAILED"),
    };
    push(
        html,
        format_args!("<h1>{} {}</h1><p class=\"verdict {class}\">{word}</p>", escape(name), escape(version)),
    );
    if let Some(waiver) = &report.waiver {
        push(
            html,
            format_args!(
                "<p>{} decided on {}: {}</p>",
                escape(&waiver.by),
                waiver.at.format("%Y-%m-%d %H:%M UTC"),
                escape(&waiver.reason)
            ),
        );
    }
    for (class, sentences) in [("reasons", &report.failures), ("notes", &report.notes)] {
        if !sentences.is_empty() {
            let items: String = sentences.iter().map(|text| format!("<li>{}</li>", escape(text))).collect();
            push(html, format_args!("<ul class=\"{class}\">{items}</ul>"));
        }
    }
}

fn facts(html: &mut String, report: &GateReport) {
    let images: u64 = report.golden.images.values().sum();
    let by_label: Vec<String> =
        report.golden.images.iter().map(|(label, count)| format!("{} {count}", escape(label))).collect();
    let by_label = if by_label.is_empty() { String::new() } else { format!(" ({})", by_label.join(", ")) };
    push(
        html,
        format_args!(
            "<dl><dt>Model file</dt><dd class=\"hash\">sha256 {}, {} bytes</dd>\
             <dt>Golden images</dt><dd>{images}{by_label}</dd><dt>Golden set</dt><dd class=\"hash\">{}</dd>",
            escape(&report.model.sha256),
            report.model.size_bytes,
            escape(&report.golden.digest)
        ),
    );
    let proof = report.model.proof.as_ref().map_or_else(
        || "none".to_owned(),
        |proof| {
            format!(
                "{} inputs differ by {:.1e} at most from {} (allowed: {})",
                proof.inputs,
                proof.greatest_difference,
                escape(&proof.by),
                proof.bound
            )
        },
    );
    push(html, format_args!("<dt>Its own proof</dt><dd>{proof}</dd>"));
    push(html, format_args!("<dt>Right answers</dt><dd>{}</dd>", share(report.accuracy)));
    push(html, format_args!("<dt>Need a human look</dt><dd>{}</dd>", share(report.needs_review)));
    push(html, format_args!("<dt>Time for an image</dt><dd>{}</dd></dl>", time(report.speed)));
}

fn share(proportion: Option<Proportion>) -> String {
    proportion.map_or_else(
        || "not measured".to_owned(),
        |p| format!("{} of {}: <b>{:.1} %</b> {}", p.count, p.of, 100.0 * p.value, interval(&p)),
    )
}

fn interval(p: &Proportion) -> String {
    format!("<span class=\"interval\">{:.1}–{:.1} %</span>", 100.0 * p.low, 100.0 * p.high)
}

fn time(speed: Option<Speed>) -> String {
    speed.map_or_else(
        || "not measured".to_owned(),
        |speed| format!("median {:.1} ms, 95 % within {:.1} ms", speed.median_ms, speed.p95_ms),
    )
}

fn figures(html: &mut String, report: &GateReport) {
    if report.labels.is_empty() {
        return;
    }
    html.push_str(
        "<h2>By label</h2><table><tr><th>Label<th class=\"n\">Images<th>Sensitivity<th>Specificity</tr>",
    );
    for figures in &report.labels {
        push(
            html,
            format_args!(
                "<tr><th>{}<td class=\"n\">{}<td>{}<td>{}</tr>",
                escape(&figures.label),
                figures.images,
                share(figures.sensitivity),
                share(figures.specificity)
            ),
        );
    }
    html.push_str("</table>");
}

fn confusion(html: &mut String, report: &GateReport) {
    if report.confusion.is_empty() {
        return;
    }
    let order: Vec<&String> = report.labels.iter().map(|figures| &figures.label).collect();
    let seen: BTreeSet<&String> = report.confusion.values().flat_map(BTreeMap::keys).collect();
    let columns: Vec<&&String> = order.iter().filter(|label| seen.contains(**label)).collect();
    html.push_str("<h2>Confusion matrix</h2><table><tr><th>Expected ↓, answered →");
    for label in &columns {
        push(html, format_args!("<th class=\"n\">{}", escape(label)));
    }
    html.push_str("</tr>");
    for expected in order.iter().filter(|label| report.confusion.contains_key(**label)) {
        push(html, format_args!("<tr><th>{}", escape(expected)));
        for answered in &columns {
            let count = report.confusion[*expected].get(**answered).copied().unwrap_or(0);
            let class = match (expected == *answered, count) {
                (true, _) => "n right",
                (false, 0) => "n",
                (false, _) => "n wrong",
            };
            push(html, format_args!("<td class=\"{class}\">{count}"));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table>");
}

fn wrong_images(html: &mut String, report: &GateReport) {
    if report.wrong.is_empty() {
        return;
    }
    let rows = report.wrong.iter().map(|image| {
        let seen = if image.needs_review { "yes" } else { "<b class=\"wrong\">no</b>" };
        let confidence = format!("{:.1} %", 100.0 * image.confidence);
        [escape(&image.key), escape(&image.expected), escape(&image.answered), confidence, seen.to_owned()]
    });
    html.push_str("<h2>Wrong answers, most confident first</h2>");
    list(html, ["Image", "Expected", "Answered", "Confidence", "Would have been looked at"], rows);
}

fn unreadable_images(html: &mut String, report: &GateReport) {
    if report.unreadable.is_empty() {
        return;
    }
    let rows = report
        .unreadable
        .iter()
        .map(|image| [&image.key, &image.expected, &image.code, &image.message].map(|text| escape(text)));
    html.push_str("<h2>Images without an answer</h2>");
    list(html, ["Image", "Expected", "Code", "Why"], rows);
}

fn comparison(html: &mut String, report: &GateReport, production: &ProductionComparison) {
    push(
        html,
        format_args!(
            "<h2>Against the model of production</h2><table><tr><th><th>This model<th>{} {} ({}…)</tr>\
             <tr><th>Right answers<td>{}<td>{}</tr><tr><th>Time for an image<td>{}<td>{}</tr></table>",
            escape(&production.name),
            escape(&production.version),
            escape(production.sha256.get(..12).unwrap_or_default()),
            share(report.accuracy),
            share(production.accuracy),
            time(report.speed),
            time(production.speed),
        ),
    );
    if production.differences.is_empty() {
        html.push_str("<p>Both give every image the same answer.</p>");
        return;
    }
    let answer = |answer: &Option<String>| answer.as_deref().map_or_else(|| "none".to_owned(), escape);
    let rows = production.differences.iter().map(|difference| {
        [
            escape(&difference.key),
            escape(&difference.expected),
            answer(&difference.answered),
            answer(&difference.production_answered),
        ]
    });
    push(html, format_args!("<p>They answer {} images differently:</p>", production.differences.len()));
    list(html, ["Image", "Expected", "This model", "Production"], rows);
}

/// A table of cells that are HTML already.
fn list<const N: usize>(
    html: &mut String,
    headings: [&str; N],
    rows: impl ExactSizeIterator<Item = [String; N]>,
) {
    let left_out = rows.len().saturating_sub(LONGEST_LIST);
    html.push_str("<table><tr>");
    for heading in headings {
        push(html, format_args!("<th>{heading}"));
    }
    html.push_str("</tr>");
    for row in rows.take(LONGEST_LIST) {
        push(html, format_args!("<tr><td>{}</tr>", row.join("<td>")));
    }
    html.push_str("</table>");
    if left_out > 0 {
        push(html, format_args!("<p>{left_out} more are in the JSON beside this page.</p>"));
    }
}

fn rules(html: &mut String, report: &GateReport) {
    let rules = &report.rules;
    let percent = |floor: &f64| format!("{:.1} %", 100.0 * floor);
    let mut rows = vec![("accuracy_at_least".to_owned(), percent(&rules.accuracy_at_least))];
    for (name, floors) in [
        ("sensitivity_at_least", &rules.sensitivity_at_least),
        ("specificity_at_least", &rules.specificity_at_least),
    ] {
        rows.extend(floors.iter().map(|(label, floor)| (format!("{name}: {label}"), percent(floor))));
    }
    let counts = rules.images_at_least.iter();
    rows.extend(counts.map(|(label, count)| (format!("images_at_least: {label}"), count.to_string())));
    let empty = match rules.empty_golden_set {
        EmptyGoldenSet::Fail => "fail",
        EmptyGoldenSet::Pass => "pass",
    };
    rows.push(("empty_golden_set".to_owned(), empty.to_owned()));
    html.push_str("<h2>What it had to reach</h2><table>");
    for (name, value) in rows {
        push(html, format_args!("<tr><td>{}<td>{}</tr>", escape(&name), escape(&value)));
    }
    html.push_str("</table>");
}

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { color: #7b3fa0; margin-bottom: .5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; break-after: avoid; }
.verdict { display: inline-block; margin: 0 0 .5rem; padding: .2rem .9rem; border: 2px solid; border-radius: .4rem; font-weight: 700; }
.passed { color: #1d7a3a; } .failed, .reasons { color: #b3261e; } .wrong { color: #b3261e; font-weight: 700; } .right { font-weight: 700; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.5rem; margin-top: 1.2rem; } dt { opacity: .7; } dd { margin: 0; }
.hash { overflow-wrap: anywhere; font-size: .9em; } .interval { opacity: .7; white-space: nowrap; }
table { border-collapse: collapse; } th { text-align: left; font-weight: normal; } tr:first-child > th { opacity: .7; }
th, td { padding: .25rem 1.4rem .25rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
td:first-child, td:last-child { overflow-wrap: anywhere; }
.n { text-align: right; } tr { break-inside: avoid; } footer { margin-top: 2rem; opacity: .7; font-size: .9em; }
@media (prefers-color-scheme: dark) { .passed { color: #6fd08c; } .failed, .reasons, .wrong { color: #ff8a80; } h1 { color: #c79be6; } }
@media print { :root { font-size: 11px; } main { margin: 0; max-width: none; } }
</style>
"#;

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::model::{Answered, GateModel, GateRules, GoldenAnswer, GoldenSummary, Trial};

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
        let report = GateReport::of(Trial {
            production: Some((model.clone(), Vec::new())),
            model,
            golden: GoldenSummary { digest: evil.clone(), images: [(evil.clone() + "2", 1)].into() },
            rules,
            answers,
            problems: vec![evil.clone()],
            notes: vec![evil.clone()],
            made_at: DateTime::UNIX_EPOCH,
        });
        let html = render_report(&report);
        assert!(!html.contains("<script"), "{html}");
        assert!(html.matches("&lt;script&gt;").count() >= 10, "{html}");
        assert!(html.contains("FAILED"));
    }
}
