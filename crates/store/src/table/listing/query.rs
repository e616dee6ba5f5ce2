//! Which results are asked for, and in which order.
//!
//! It asks nothing. What a row cannot rule out, its record decides.

use chrono::{DateTime, Utc};

use crate::table::merged::text_of;
use crate::table::reviews::verdicts::Review;
use crate::table::writer::Item;
use giemsa_core::record::{Record, Status};

/// In which order results are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Last upload first; one of unknown upload time before all others.
    Newest,
    /// Most suspicious first; only of a slide, or of what needs review.
    Suspicion,
}

/// Which results are asked for; what is `None` is not asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultQuery {
    /// The stage.
    pub stage: String,
    /// The slide.
    pub slide: Option<String>,
    /// The label.
    pub label: Option<String>,
    /// Classified or rejected.
    pub status: Option<Status>,
    /// Lower-case hexadecimal SHA-256 of the model.
    pub model_sha256: Option<String>,
    /// Whether the answer asks for a human look and no reviewer has decided the image.
    pub needs_review: Option<bool>,
    /// The withdrawn images instead of those that count.
    pub withdrawn: bool,
    /// First upload time, inclusive.
    pub from: Option<DateTime<Utc>>,
    /// Last upload time, exclusive.
    pub until: Option<DateTime<Utc>>,
    /// The order.
    pub order: Order,
    /// Most records of a page.
    pub limit: usize,
}

impl ResultQuery {
    /// All results of a stage, newest first, fifty a page.
    pub fn of_stage(stage: impl Into<String>) -> Self {
        Self {
            stage: stage.into(),
            slide: None,
            label: None,
            status: None,
            model_sha256: None,
            needs_review: None,
            withdrawn: false,
            from: None,
            until: None,
            order: Order::Newest,
            limit: 50,
        }
    }

    /// Whether the record of a row may fit, as far as the row tells.
    pub(crate) fn may_fit(&self, row: &Item) -> bool {
        let is_other = |name: &str, wanted: Option<&str>| {
            wanted.is_some_and(|wanted| text_of(row, name).is_some_and(|found| found != wanted))
        };
        let needs_review = row.get("needs_review").and_then(|value| value.as_bool().ok());
        // A reviewer may have ended the need, never made one.
        let is_no_review = self.needs_review == Some(true) && needs_review == Some(&false);
        !is_no_review
            && !is_other("label", self.label.as_deref())
            && !is_other("status", self.status.map(Status::as_str))
    }

    /// Whether a record fits, with the verdict in force on its image.
    pub(crate) fn fits(&self, record: &Record, verdict: Option<&Review>) -> bool {
        let is_same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let uploaded_at = record.image.uploaded_at;
        let is_open = record.needs_review
            && verdict.is_none_or(|verdict| !verdict.is_of(record.image.object_version()));
        // Indexes show a withdrawal a moment later.
        record.withdrawn.is_some() == self.withdrawn
            && is_same(&self.slide, Some(&record.slide))
            && is_same(&self.label, record.label.as_deref())
            && is_same(&self.model_sha256, Some(&record.model.sha256))
            && self.status.is_none_or(|status| record.status == status)
            && self.needs_review.is_none_or(|wanted| is_open == wanted)
            && self.from.is_none_or(|from| uploaded_at.is_some_and(|at| at >= from))
            && self.until.is_none_or(|until| uploaded_at.is_some_and(|at| at < until))
    }
}
