//! The figure of a slide: cells, positives, parasitemia.
//!
//! Every image is counted once: as a cell, as an outlier, as rejected or as withdrawn.

use std::collections::HashSet;

use crate::record::{Record, Status};
use crate::statistics::wilson_interval;

/// What a slide's records add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SlideFigure {
    /// Classified images, without outliers.
    pub cells: u64,
    /// Cells whose label counts as positive.
    pub positives: u64,
    /// Classified images that are like nothing the model was trained on, e.g. debris or a blank field. They are not cells
    /// until a person says so, or debris would add to the parasitemia and blank fields take from it.
    pub outliers: u64,
    /// Cells and outliers that need a human look and that no reviewer has decided.
    pub needs_review: u64,
    /// Images that could not be classified.
    pub rejected: u64,
    /// Cells of a model that names positive labels; without it a slide has no parasitemia.
    pub cells_with_sign: u64,
    /// Images that a reviewer has decided.
    #[serde(default)]
    pub reviewed: u64,
    /// Those of them whose label the reviewer found wrong, and rejected images that a reviewer has named.
    #[serde(default)]
    pub corrected: u64,
    /// Images that a person took out of what counts; they are in no other number.
    #[serde(default)]
    pub withdrawn: u64,
    /// Cells and outliers that are the same bytes as another one of the slide under another name, without the first of
    /// each. They count, because two names may be two looks at one field; a person may withdraw them.
    #[serde(default)]
    pub duplicates: u64,
}

/// What counts of one image.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    /// Classified or rejected.
    pub status: Status,
    /// The model's label.
    pub label: Option<&'a str>,
    /// Whether it counts as positive.
    pub positive: Option<bool>,
    /// Whether the image is like nothing the model was trained on.
    pub outlier: Option<bool>,
    /// Whether the answer asks for a human look.
    pub needs_review: bool,
    /// The label of the verdict in force on this very image.
    pub verdict: Option<&'a str>,
    /// The beginning of the file's SHA-256, always of the same length, if it was read.
    pub content: Option<&'a str>,
}

/// Adds up a figure, and remembers which contents it has seen.
#[derive(Debug, Default)]
pub struct Tally {
    figure: SlideFigure,
    contents: HashSet<u64>,
}

impl Tally {
    /// Adds one image that counts.
    pub fn add(&mut self, image: Counted<'_>) {
        self.figure.add(image);
        let content = image.content.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if let Some(content) = content.filter(|_| image.status == Status::Classified) {
            self.figure.duplicates += u64::from(!self.contents.insert(content));
        }
    }

    /// Adds one image that was withdrawn.
    pub fn add_withdrawn(&mut self) {
        self.figure.withdrawn += 1;
    }

    /// The figure of all that was added.
    pub fn figure(self) -> SlideFigure {
        self.figure
    }
}

impl SlideFigure {
    /// Adds up records of one slide and stage, of which no reviewer has decided any.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut tally = Tally::default();
        for record in records {
            tally.add(Counted {
                status: record.status,
                label: record.label.as_deref(),
                positive: record.positive,
                outlier: record.outlier,
                needs_review: record.needs_review,
                verdict: None,
                content: record.content(),
            });
        }
        tally.figure()
    }

    fn add(&mut self, image: Counted<'_>) {
        self.reviewed += u64::from(image.verdict.is_some());
        self.corrected += u64::from(image.verdict.is_some() && image.verdict != image.label);
        let needs_review = image.needs_review && image.verdict.is_none();
        match image.status {
            Status::Rejected => self.rejected += 1,
            Status::Classified if image.outlier == Some(true) => {
                self.outliers += 1;
                self.needs_review += u64::from(needs_review);
            }
            Status::Classified => {
                self.cells += 1;
                self.needs_review += u64::from(needs_review);
                self.cells_with_sign += u64::from(image.positive.is_some());
                self.positives += u64::from(image.positive == Some(true));
            }
        }
    }

    /// All images that count.
    pub fn images(&self) -> u64 {
        self.cells + self.outliers + self.rejected
    }

    /// Parasitemia: positive cells per 100 cells; `None` without cells whose model names a positive label.
    pub fn parasitemia_percent(&self) -> Option<f64> {
        (self.cells_with_sign > 0).then(|| 100.0 * self.positives as f64 / self.cells_with_sign as f64)
    }

    /// 95 % Wilson score interval of the parasitemia, percent (Wilson 1927, JASA 22:209).
    ///
    /// It is of the count of cells alone, and knows nothing of the model's own errors.
    pub fn parasitemia_interval_percent(&self) -> Option<(f64, f64)> {
        let (low, high) = wilson_interval(self.positives, self.cells_with_sign)?;
        Some((100.0 * low, 100.0 * high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cells_no_parasitemia() {
        assert_eq!(SlideFigure::default().parasitemia_percent(), None);
        assert_eq!(SlideFigure::default().parasitemia_interval_percent(), None);
    }

    #[test]
    fn a_verdict_is_counted_beside_the_answer_and_ends_the_need_of_review() {
        let cell = Counted {
            status: Status::Classified,
            label: Some("uninfected"),
            positive: Some(false),
            outlier: None,
            needs_review: true,
            verdict: None,
            content: None,
        };
        let mut figure = SlideFigure::default();
        figure.add(cell);
        figure.add(Counted { verdict: Some("uninfected"), ..cell });
        figure.add(Counted { verdict: Some("parasitized"), outlier: Some(true), ..cell });
        figure.add(Counted { status: Status::Rejected, label: None, verdict: Some("parasitized"), ..cell });
        let expected = SlideFigure {
            cells: 2,
            outliers: 1,
            rejected: 1,
            needs_review: 1,
            cells_with_sign: 2,
            reviewed: 3,
            corrected: 2,
            ..Default::default()
        };
        assert_eq!((figure, figure.images()), (expected, 4));
    }

    #[test]
    fn the_same_bytes_are_noted_and_counted_and_withdrawn_images_are_not() {
        let cell = Counted {
            status: Status::Classified,
            label: Some("parasitized"),
            positive: Some(true),
            outlier: None,
            needs_review: false,
            verdict: None,
            content: Some("00000000000000aa"),
        };
        let mut tally = Tally::default();
        for content in [Some("00000000000000aa"), Some("00000000000000ab"), None, None] {
            tally.add(Counted { content, ..cell });
        }
        tally.add(Counted { outlier: Some(true), ..cell });
        // Two empty files are nothing that counts twice.
        tally.add(Counted { status: Status::Rejected, ..cell });
        tally.add_withdrawn();
        let figure = tally.figure();
        assert_eq!((figure.duplicates, figure.withdrawn), (1, 1));
        assert_eq!((figure.cells, figure.positives, figure.outliers, figure.images()), (4, 4, 1, 6));
    }

    #[test]
    fn interval_equals_published_values() {
        // Newcombe 1998, Statistics in Medicine 17:857, table I, method 3: 81/263 and 0/20.
        let figure = SlideFigure { cells: 263, cells_with_sign: 263, positives: 81, ..Default::default() };
        let (low, high) = figure.parasitemia_interval_percent().unwrap();
        assert!((low - 25.53).abs() < 0.01 && (high - 36.62).abs() < 0.01, "{low} {high}");
        let none = SlideFigure { cells: 20, cells_with_sign: 20, ..Default::default() };
        let (low, high) = none.parasitemia_interval_percent().unwrap();
        assert!(low.abs() < 1e-9 && (high - 16.11).abs() < 0.01, "{low} {high}");
    }
}
