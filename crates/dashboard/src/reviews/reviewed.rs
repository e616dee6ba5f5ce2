//! The verdicts in force of a range of time: one for each image, whatever was said and taken back before.
//!
//! It never decides between reviewers: the last that nobody took back counts, as in the table. An image is there once,
//! with the version that was looked at.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::Dashboard;
use crate::request::problem::Problem;
use giemsa_store::{ImageKey, Review, standing};

/// Reviews read at once.
const PAGE: usize = 1_000;

impl Dashboard {
    /// The last standing verdict on each image of the input bucket among the reviews from `from` until before `until`, by
    /// key; of those that `counts` only, and of no withdrawn upload.
    pub(crate) async fn reviewed(
        &self,
        from: DateTime<Utc>,
        until: DateTime<Utc>,
        counts: impl Fn(&Review) -> bool,
    ) -> Result<Vec<Review>, Problem> {
        let mut by_image: BTreeMap<String, Vec<Review>> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.table.reviews(from, until, after.as_deref(), PAGE).await?;
            let own = page.reviews.into_iter().filter(|review| review.bucket == self.buckets.input);
            for review in own.filter(|review| counts(review)) {
                by_image.entry(review.key.clone()).or_default().push(review);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let bucket = &self.buckets.input;
        let images: Vec<ImageKey> =
            by_image.keys().map(|key| ImageKey { bucket: bucket.clone(), key: key.clone() }).collect();
        let withdrawals = self.table.withdrawals_of(&images).await?;
        let is_withdrawn = |review: &Review| {
            let image = ImageKey { bucket: bucket.clone(), key: review.key.clone() };
            withdrawals.get(&image).is_some_and(|withdrawal| withdrawal.is_of(&review.object_version))
        };
        let standing = by_image.into_values().filter_map(last_standing);
        Ok(standing.filter(|review| !is_withdrawn(review)).collect())
    }
}

/// The verdict that counts, of the reviews of one image, newest first.
fn last_standing(mut reviews: Vec<Review>) -> Option<Review> {
    reviews.reverse();
    standing(&reviews).last().map(|review| (*review).clone())
}
