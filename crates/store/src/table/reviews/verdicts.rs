//! Verdicts of reviewers, as they are read: which is in force, those of a slide, and who reviewed what.
//!
//! The verdict in force follows from the reviews of the image alone.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::table::merged::{MAX_ROWS, Merged, Range, Row};
use crate::table::reader::ImageHistory;
use crate::table::schema::{LISTING_INDEX, MAX_SORT_KEY_BYTES, reviews_pk, time_text, verdicts_pk};
use crate::{QueryError, TableReader, Verdict};
use giemsa_core::digest::short_id;
use giemsa_core::record::ModelInfo;

/// The month before which nobody reviewed anything by this software.
const FIRST_MONTH: NaiveDate = NaiveDate::from_ymd_opt(2026, 1, 1).expect("a date");

/// What a reviewer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReviewAction {
    /// Said that the model's label is right.
    Confirm,
    /// Named the right label.
    Correct,
    /// Took the own last verdict back.
    Undo,
}

/// Who reviews.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reviewer {
    /// The name that is shown.
    pub name: String,
    /// Who signed in under that name: issuer and subject, `<iss>|<sub>`; absent where nobody signs in.
    pub id: Option<String>,
}

/// What one reviewer said of one image at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// Bucket name.
    pub bucket: String,
    /// Object key.
    pub key: String,
    /// The slide of the key.
    pub slide: String,
    /// The stage whose result was looked at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stage: Option<String>,
    /// What was done.
    pub action: ReviewAction,
    /// The label that is right; of an undo the one that is taken back.
    pub label: String,
    /// Free text of the reviewer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
    /// Who, as it is shown.
    pub reviewer: String,
    /// Who signed in under that name, `<iss>|<sub>`; absent where nobody signs in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reviewer_id: Option<String>,
    /// When.
    pub reviewed_at: DateTime<Utc>,
    /// Version, or else ETag, of the image that was looked at.
    pub object_version: String,
    /// The result that was looked at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result_id: Option<String>,
    /// Its label; absent of a rejected image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub predicted: Option<String>,
    /// The model that made it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<ModelInfo>,
}

/// One page of reviews, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct ReviewsPage {
    /// The reviews, those that took one back among them.
    pub reviews: Vec<Review>,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
}

impl Review {
    /// Whether it is of the image version `object_version`.
    pub fn is_of(&self, object_version: &str) -> bool {
        self.object_version == object_version
    }

    /// Whether `name` with `id` said it. A name alone is nobody who signed in.
    pub(crate) fn is_by(&self, name: &str, id: Option<&str>) -> bool {
        self.reviewer_id.as_deref() == id && (id.is_some() || self.reviewer == name)
    }

    pub(crate) fn sort_key(&self) -> String {
        let mut sk = format!("review#{}#{}", time_text(self.reviewed_at), self.reviewer);
        sk.truncate(sk.floor_char_boundary(MAX_SORT_KEY_BYTES));
        sk
    }

    /// Where it is listed: partition and sort key.
    pub(crate) fn listing(&self) -> (String, String) {
        let digest = short_id(&[&self.bucket, &self.key, &self.reviewer]);
        let month = self.reviewed_at.format("%Y-%m").to_string();
        (reviews_pk(&month), format!("{}#{digest}", time_text(self.reviewed_at)))
    }
}

impl From<&Review> for Verdict {
    fn from(review: &Review) -> Self {
        Self {
            label: review.label.clone(),
            object_version: review.object_version.clone(),
            reviewer: review.reviewer.clone(),
            reviewed_at: review.reviewed_at,
        }
    }
}

/// The verdicts of an image that nobody took back, oldest first. An undo takes the last one of its own reviewer.
pub fn standing(reviews: &[Review]) -> Vec<&Review> {
    let mut standing: Vec<&Review> = Vec::new();
    for review in reviews {
        match review.action {
            ReviewAction::Confirm | ReviewAction::Correct => standing.push(review),
            ReviewAction::Undo => {
                let id = review.reviewer_id.as_deref();
                if let Some(at) = standing.iter().rposition(|other| other.is_by(&review.reviewer, id)) {
                    standing.remove(at);
                }
            }
        }
    }
    standing
}

impl ImageHistory {
    /// The last verdict on the version that the results are of, or else the last on any.
    pub(crate) fn verdict_in_force(&self) -> Option<&Review> {
        let standing = standing(&self.reviews);
        let is_current =
            |review: &&&Review| self.results.iter().any(|record| review.is_of(record.image.object_version()));
        let of_current = standing.iter().rfind(|review| is_current(review)).copied();
        if self.results.is_empty() { standing.last().copied() } else { of_current }
    }

    /// The verdict in force on one version of the image.
    pub fn verdict_of(&self, object_version: &str) -> Option<&Review> {
        standing(&self.reviews).into_iter().rfind(|review| review.is_of(object_version))
    }
}

impl TableReader {
    /// The verdicts in force on the images of a slide, by key. Whether one is of the image that is there now says
    /// [`Review::is_of`].
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn verdicts_of_slide(&self, slide: &str) -> Result<BTreeMap<String, Review>, QueryError> {
        let pk = vec![verdicts_pk(slide)];
        let mut rows = Merged::new(self, LISTING_INDEX, pk, Range::default(), MAX_ROWS);
        let mut verdicts = BTreeMap::new();
        while let Some(Row { item, .. }) = rows.next().await? {
            let review: Review = self.read_item(item)?;
            verdicts.insert(review.key.clone(), review);
        }
        Ok(verdicts)
    }

    /// One page of all reviews from `from` until before `until`, newest first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn reviews(
        &self,
        from: DateTime<Utc>,
        until: DateTime<Utc>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ReviewsPage, QueryError> {
        let range = Range { from: Some(time_text(from)), below: Some(time_text(until)) }.after(after);
        let newest = range.below.as_deref().unwrap_or_default();
        let newest = newest.get(..10).and_then(|day| day.parse().ok()).unwrap_or(until.date_naive());
        // Whatever is asked for: nobody has reviewed anything a year from now.
        let newest = newest.min(Utc::now().date_naive() + TimeDelta::days(366));
        let months = months_back(newest, from.date_naive().max(FIRST_MONTH));
        // One partition after the other in one list: their sort keys are times.
        let pks = months.iter().map(|month| reviews_pk(month)).collect();
        let mut rows = Merged::new(self, LISTING_INDEX, pks, range, limit);
        let mut page = ReviewsPage { reviews: Vec::new(), next: None };
        let mut last = String::new();
        while let Some(Row { sk, item }) = rows.next().await? {
            if page.reviews.len() == limit {
                page.next = Some(last);
                break;
            }
            page.reviews.push(self.read_item(item)?);
            last = sk;
        }
        Ok(page)
    }
}

/// Months from that of `newest` back to that of `oldest`, `YYYY-MM`.
fn months_back(newest: NaiveDate, oldest: NaiveDate) -> Vec<String> {
    let last = oldest.format("%Y-%m").to_string();
    let months = (0..).map_while(|back| newest.checked_sub_months(chrono::Months::new(back)));
    months.map(|month| month.format("%Y-%m").to_string()).take_while(|month| *month >= last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(reviewer: &str, action: ReviewAction, label: &str, version: &str) -> Review {
        Review {
            bucket: "b".into(),
            key: "s/k".into(),
            slide: "s".into(),
            stage: None,
            action,
            label: label.into(),
            note: None,
            reviewer: reviewer.into(),
            reviewer_id: None,
            reviewed_at: DateTime::UNIX_EPOCH,
            object_version: version.into(),
            result_id: None,
            predicted: None,
            model: None,
        }
    }

    #[test]
    fn an_undo_takes_the_last_of_its_own_reviewer() {
        use ReviewAction::{Confirm, Correct, Undo};
        let all = [
            review("ada", Confirm, "a", "1"),
            review("bea", Correct, "b", "1"),
            review("ada", Undo, "a", "1"),
            review("ada", Undo, "a", "1"),
            review("bea", Correct, "c", "2"),
            review("bea", Undo, "c", "2"),
        ];
        let labels = |count: usize| -> Vec<&str> {
            standing(&all[..count]).into_iter().map(|review| review.label.as_str()).collect()
        };
        assert_eq!(labels(2), ["a", "b"]);
        // The verdict of bea is not a concern of ada, and there is nothing more of ada to take.
        assert_eq!((labels(3), labels(4)), (vec!["b"], vec!["b"]));
        assert_eq!((labels(5), labels(6)), (vec!["b", "c"], vec!["b"]));
        let history = ImageHistory { reviews: all[..5].to_vec(), ..ImageHistory::default() };
        assert_eq!(history.verdict_of("1").unwrap().label, "b");
        assert_eq!(history.verdict_of("2").unwrap().label, "c");
        assert_eq!(history.verdict_of("3"), None);
    }

    #[test]
    fn months_go_back_over_the_year() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        assert_eq!(months_back(day("2027-01-31"), day("2026-11-30")), ["2027-01", "2026-12", "2026-11"]);
        assert!(months_back(day("2026-01-01"), day("2026-02-01")).is_empty());
    }
}
