//! The figure of a slide: cells, positives, parasitemia.
//!
//! Pure. Invariant: every record is counted once: as a cell, as an outlier or as rejected.

use crate::classification::{Record, Status};
use crate::statistics::wilson_interval;

/// What a slide's records add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct SlideFigure {
    /// Classified images, without outliers.
    pub cells: u64,
    /// Cells whose label counts as positive.
    pub positives: u64,
    /// Classified images that are like nothing the model was trained on, e.g. debris or a blank field. They are no cells
    /// until a person says so, or debris would add to the parasitemia and blank fields take from it.
    pub outliers: u64,
    /// Cells and outliers that need a human look.
    pub needs_review: u64,
    /// Images that could not be classified.
    pub rejected: u64,
    /// Cells of a model that names positive labels; without it a slide has no parasitemia.
    pub cells_with_sign: u64,
}

impl SlideFigure {
    /// Adds up records of one slide and stage.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut figure = Self::default();
        for record in records {
            match record.status {
                Status::Rejected => figure.rejected += 1,
                Status::Classified if record.outlier == Some(true) => {
                    figure.outliers += 1;
                    figure.needs_review += u64::from(record.needs_review);
                }
                Status::Classified => {
                    figure.cells += 1;
                    figure.needs_review += u64::from(record.needs_review);
                    figure.cells_with_sign += u64::from(record.positive.is_some());
                    figure.positives += u64::from(record.positive == Some(true));
                }
            }
        }
        figure
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
