//! Records and slides as tables, JSON lines and CSV.
//!
//! File names and messages are hostile text. Control characters never reach a terminal, and no CSV cell begins a
//! formula.

use std::collections::BTreeMap;
use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, TableComponent, presets};
use giemsa_core::object::name_of_key;
use giemsa_core::record::Record;
use giemsa_core::slide::SlideFigure;
use indicatif::{ProgressBar, ProgressStyle};

/// Columns of the CSV.
pub const CSV_HEADER: [&str; 16] = [
    "slide",
    "key",
    "status",
    "label",
    "confidence",
    "positive",
    "needs_review",
    "review_reason",
    "reject_code",
    "reject_message",
    "width_px",
    "height_px",
    "model",
    "model_sha256",
    "outlier_score",
    "outlier",
];

/// A progress bar on stderr; nothing is drawn if stderr is not a terminal.
pub fn progress(what: &'static str, total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:>10} [{bar:40}] {pos}/{len}").expect("a valid template");
    ProgressBar::new(total as u64).with_style(style.progress_chars("=> ")).with_message(what)
}

/// Whether output ended because its reader went away, e.g. `giemsa classify … | head`.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io_error = cause.downcast_ref::<io::Error>();
        io_error.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Writes one record as a line of JSON.
pub fn write_json_line(out: &mut impl Write, record: &Record) -> anyhow::Result<()> {
    let json = serde_json::to_string(record)?;
    writeln!(out, "{json}")?;
    Ok(())
}

/// Cells of a record below [`CSV_HEADER`], not yet neutralised.
pub fn csv_cells(record: &Record) -> [String; 16] {
    let number = |value: Option<u32>| value.map(|v| v.to_string()).unwrap_or_default();
    let reject = record.reject.as_ref();
    [
        record.slide.clone(),
        record.image.key.clone(),
        record.status.as_str().to_owned(),
        record.label.clone().unwrap_or_default(),
        record.confidence.map(|c| format!("{c:.6}")).unwrap_or_default(),
        record.positive.map(|p| p.to_string()).unwrap_or_default(),
        record.needs_review.to_string(),
        record.review_reason.clone().unwrap_or_default(),
        reject.map(|r| r.code.clone()).unwrap_or_default(),
        reject.map(|r| r.message.clone()).unwrap_or_default(),
        number(record.image.width_px),
        number(record.image.height_px),
        format!("{} {}", record.model.name, record.model.version),
        record.model.sha256.clone(),
        record.outlier_score.map(|score| score.to_string()).unwrap_or_default(),
        record.outlier.map(|o| o.to_string()).unwrap_or_default(),
    ]
}

/// An I/O error stays one, so that a closed pipe is recognised.
pub fn csv_error(error: csv::Error) -> anyhow::Error {
    let message = format!("the CSV cannot be written: {error}");
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        _ => anyhow::Error::msg(message),
    }
}

/// A cell that no spreadsheet takes for a formula: an apostrophe is put before what could start one
/// (OWASP, CSV injection). A plain number, which an outlier score below 0 is, starts none.
pub fn neutralised(cell: &str) -> String {
    let cell = printable(cell);
    let is_number = cell.parse::<f64>().is_ok_and(f64::is_finite);
    if !is_number && cell.starts_with(['=', '+', '-', '@']) { format!("'{cell}") } else { cell }
}

/// Text as a terminal may show it: without control characters, and without those that turn the direction of
/// writing, with which a name can be made to look like another.
pub fn printable(text: &str) -> String {
    let is_hidden =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// A table of records as text, in their order, under a line for each slide.
pub fn records_table(records: &[Record]) -> String {
    let mut table = new_table(["image", "answer", "confidence", "remark"]);
    for record in records {
        let (answer, remark) = match &record.reject {
            Some(reject) => ("rejected".to_owned(), reject.message.clone()),
            None => {
                let remark = record.review_reason.as_ref().map(|reason| format!("review: {reason}"));
                (record.label.clone().unwrap_or_default(), remark.unwrap_or_default())
            }
        };
        let name = name_of_key(&record.image.key);
        let indent = if record.slide.is_empty() { "" } else { "  " };
        let confidence = record.confidence.map(|c| format!("{:.1} %", 100.0 * c)).unwrap_or_default();
        table.add_row([
            format!("{indent}{}", printable(name)),
            printable(&answer),
            confidence,
            printable(&shortened(&remark)),
        ]);
    }
    align_right(&mut table, &[2]);
    // A slide's line is not a row: its length would widen the column of names.
    let text = table.trim_fmt();
    let mut lines = text.lines();
    let mut shown: Vec<String> = lines.by_ref().take(HEADER_LINES).map(str::to_owned).collect();
    let mut slide = "";
    for (record, line) in records.iter().zip(lines) {
        if record.slide != slide {
            slide = &record.slide;
            if !slide.is_empty() {
                shown.push(format!(" {}/", printable(slide)));
            }
        }
        shown.push(line.to_owned());
    }
    shown.join("\n")
}

/// Remarks on a figure in addition to its numbers.
fn figure_remark(figure: &SlideFigure) -> String {
    let withdrawn = (figure.withdrawn > 0).then(|| format!("{} withdrawn", figure.withdrawn));
    let duplicates = (figure.duplicates > 0).then(|| match figure.duplicates {
        1 => "1 is the same bytes as another".to_owned(),
        more => format!("{more} are the same bytes as another"),
    });
    withdrawn.into_iter().chain(duplicates).collect::<Vec<_>>().join(", ")
}

/// A table of slides and their figures, as text.
pub fn slides_table(records: &[Record]) -> String {
    let mut slides: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        slides.entry(&record.slide).or_default().push(record);
    }
    let rows = slides.into_iter().map(|(slide, records)| (end_of(slide), SlideFigure::of(records), None));
    figures_table(rows.collect())
}

/// A table of figures, as text; each has the name of its slide and, in another column, when something last happened there.
pub fn figures_table(rows: Vec<(String, SlideFigure, Option<String>)>) -> String {
    let mut header =
        vec!["slide", "cells", "positive", "parasitemia", "95 % interval", "no cell", "review", "rejected"];
    header.extend(rows.iter().any(|(_, _, last)| last.is_some()).then_some("last activity (UTC)"));
    let has_remarks = rows.iter().any(|(_, figure, _)| !figure_remark(figure).is_empty());
    header.extend(has_remarks.then_some("remark"));
    let mut table = new_table::<0>([]);
    table.set_header(header);
    for (slide, figure, last) in rows {
        let percent = figure.parasitemia_percent().map(|p| format!("{p:.1} %")).unwrap_or_default();
        let interval = figure.parasitemia_interval_percent();
        let mut row = vec![
            if slide.is_empty() { "(no folder)".to_owned() } else { printable(&slide) },
            figure.cells.to_string(),
            figure.positives.to_string(),
            percent,
            interval.map(|(low, high)| format!("{low:.1}–{high:.1} %")).unwrap_or_default(),
            figure.outliers.to_string(),
            figure.needs_review.to_string(),
            figure.rejected.to_string(),
        ];
        row.extend(last);
        row.extend(has_remarks.then(|| figure_remark(&figure)));
        table.add_row(row);
    }
    align_right(&mut table, &[1, 2, 3, 4, 5, 6, 7]);
    table.trim_fmt()
}

/// Lines above the rows of [`new_table`]: the headings, and a rule.
const HEADER_LINES: usize = 2;

/// A table of one line for each row: text is never wrapped, and [`printable`] leaves no line breaks in it.
pub fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.set_style(TableComponent::HeaderLines, '─');
    table
}

/// Aligns columns of figures.
pub fn align_right(table: &mut Table, columns: &[usize]) {
    for index in columns {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The end of a slide's name that fits beside its figures: its own name matters more than its parent folders.
fn end_of(slide: &str) -> String {
    const LONGEST: usize = 26;
    match slide.chars().count().checked_sub(LONGEST) {
        None | Some(0) => slide.to_owned(),
        Some(more) => std::iter::once('…').chain(slide.chars().skip(more + 1)).collect(),
    }
}

/// The first characters, as many as let a row fit a terminal 100 characters wide; the record holds the whole
/// sentence.
pub fn shortened(text: &str) -> String {
    const LONGEST: usize = 42;
    if text.chars().count() <= LONGEST {
        text.to_owned()
    } else {
        text.chars().take(LONGEST).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_starts_a_formula() {
        assert_eq!(neutralised("=cmd()"), "'=cmd()");
        assert_eq!(neutralised("\tcell\u{1b}[31m"), "\u{fffd}cell\u{fffd}[31m");
        assert_eq!(neutralised("cell.png"), "cell.png");
        assert_eq!(neutralised("-1.5"), "-1.5");
        for formula in ["-1+1", "-inf", "+1 "] {
            assert_eq!(neutralised(formula), format!("'{formula}"));
        }
    }

    #[test]
    fn no_escape_sequence_reaches_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb"), "a\u{fffd}[31mb");
        assert_eq!(printable("gnp.\u{202e}exe"), "gnp.\u{fffd}exe");
    }
}
