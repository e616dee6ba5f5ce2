//! Verdicts of reviewers: appended, never overwritten, and which of them is in force.
//!
//! It never changes what a model said. Invariant: the item of the verdict in force, the record's place in the review
//! queue and the appended review change together or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_dynamodb::types::{ConditionCheck, Delete, Put, TransactWriteItem, Update};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::merged::{MAX_ROWS, Merged, Range, Row, text_of};
use super::queries::{ImageHistory, text};
use super::schema::{
    ACTIVITY_SK, LISTING_INDEX, VERDICT_SK, activity_pk, image_pk, result_sk, reviews_pk, time_text,
    verdicts_pk,
};
use super::table::{Item, number, review_keys};
use super::{ImageKey, QueryError, StoreError, TableReader, TableWriter, Verdict};
use crate::classification::{ModelInfo, Record};
use crate::digest::short_id;
use crate::object::slide_of_key;

/// How often a review is tried again that met another write of the same items.
const MAX_TRIES: u32 = 10;

/// Pause after the first such meeting; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

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
    /// Who.
    pub reviewer: String,
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

    fn sort_key(&self) -> String {
        let mut sk = format!("review#{}#{}", time_text(self.reviewed_at), self.reviewer);
        sk.truncate(sk.floor_char_boundary(super::schema::MAX_SORT_KEY_BYTES));
        sk
    }

    /// Where it is listed: partition and sort key.
    pub(super) fn listing(&self) -> (String, String) {
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
pub(super) fn standing(reviews: &[Review]) -> Vec<&Review> {
    let mut standing: Vec<&Review> = Vec::new();
    for review in reviews {
        match review.action {
            ReviewAction::Confirm | ReviewAction::Correct => standing.push(review),
            ReviewAction::Undo => {
                if let Some(at) = standing.iter().rposition(|other| other.reviewer == review.reviewer) {
                    standing.remove(at);
                }
            }
        }
    }
    standing
}

impl ImageHistory {
    /// The last verdict on the version that the results are of, or else the last on any.
    pub(super) fn verdict_in_force(&self) -> Option<&Review> {
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

/// All items of one image, read consistently.
struct Seen {
    pk: String,
    history: ImageHistory,
    /// Time and reviewer of the item of the verdict in force, as they are written there.
    verdict_item: Option<(String, String)>,
}

impl TableWriter {
    /// Appends a review, which is the verdict in force from now on, and takes the image out of the review queue.
    ///
    /// Its time is moved behind that of the last review of the image, so that the order of both is kept.
    ///
    /// # Errors
    /// [`StoreError::OtherResult`] if the stage's result is not the one that was looked at; [`StoreError`] if the table
    /// does not take it.
    pub async fn append_review(&self, review: &Review) -> Result<(), StoreError> {
        let checked = |seen: &Seen| {
            if let (Some(stage), Some(result_id)) = (&review.stage, &review.result_id) {
                let found = seen.history.results.iter().find(|record| record.stage == *stage);
                if found.is_none_or(|record| record.result_id != *result_id) {
                    return Err(StoreError::OtherResult {
                        key: review.key.clone(),
                        stage: stage.clone(),
                        expected: result_id.clone(),
                        found: found.map(|record| record.result_id.clone()),
                    });
                }
            }
            Ok(review.clone())
        };
        self.change_verdict(&review.bucket, &review.key, checked).await.map(drop)
    }

    /// Takes the last verdict of `reviewer` on an image back, and returns the one that is in force then.
    ///
    /// # Errors
    /// [`StoreError::NothingToUndo`] if no verdict of the reviewer stands; [`StoreError`] if the table does not take it.
    pub async fn undo_review(
        &self,
        bucket: &str,
        key: &str,
        reviewer: &str,
        at: DateTime<Utc>,
    ) -> Result<Option<Review>, StoreError> {
        let undone = |seen: &Seen| {
            let own = standing(&seen.history.reviews).into_iter().rfind(|review| review.reviewer == reviewer);
            match own {
                Some(own) => {
                    Ok(Review { action: ReviewAction::Undo, reviewed_at: at, note: None, ..own.clone() })
                }
                None => Err(StoreError::NothingToUndo { key: key.to_owned(), reviewer: reviewer.to_owned() }),
            }
        };
        self.change_verdict(bucket, key, undone).await
    }

    /// Records what a reviewer says of an image; the latest counts.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn put_verdict(&self, image: &ImageKey, verdict: &Verdict) -> Result<(), StoreError> {
        let review = Review {
            bucket: image.bucket.clone(),
            key: image.key.clone(),
            slide: slide_of_key(&image.key).to_owned(),
            stage: None,
            action: ReviewAction::Correct,
            label: verdict.label.clone(),
            note: None,
            reviewer: verdict.reviewer.clone(),
            reviewed_at: verdict.reviewed_at,
            object_version: verdict.object_version.clone(),
            result_id: None,
            predicted: None,
            model: None,
        };
        self.append_review(&review).await
    }

    /// Appends the review that `made` makes of what is there, and brings all that follows from it in order.
    async fn change_verdict(
        &self,
        bucket: &str,
        key: &str,
        made: impl Fn(&Seen) -> Result<Review, StoreError>,
    ) -> Result<Option<Review>, StoreError> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            let seen = self.see(bucket, key).await?;
            let mut review = made(&seen)?;
            if let Some(last) = seen.history.reviews.last() {
                review.reviewed_at = review.reviewed_at.max(last.reviewed_at + TimeDelta::milliseconds(1));
            }
            let mut after = seen.history.clone();
            after.reviews.push(review.clone());
            let in_force = after.verdict_in_force();
            let appended = Put::builder()
                .table_name(&self.table)
                .set_item(Some(self.review_item(&review, review.sort_key(), review.listing())?))
                .condition_expression("attribute_not_exists(pk)")
                .build()
                .expect("table and item are set");
            let mut writes = vec![TransactWriteItem::builder().put(appended).build()];
            writes.extend(self.consequences(&seen, in_force, review.reviewed_at)?);
            let sent = self.dynamodb.transact_write_items().set_transact_items(Some(writes)).send().await;
            let Err(error) = sent else { return Ok(in_force.cloned()) };
            tries += 1;
            // Another reviewer, an answer or a batch on the same slide came in between: what is there is read again.
            if error.code() != Some("TransactionCanceledException") || tries >= MAX_TRIES {
                return Err(self.failed(DisplayErrorContext(&error).to_string()));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Makes the item of the verdict in force of an image that was reviewed before there was one.
    pub(super) async fn refresh_verdict(&self, bucket: &str, key: &str) -> Result<(), StoreError> {
        let seen = self.see(bucket, key).await?;
        let writes = self.consequences(&seen, seen.history.verdict_in_force(), Utc::now())?;
        if writes.is_empty() {
            return Ok(());
        }
        let sent = self.dynamodb.transact_write_items().set_transact_items(Some(writes)).send().await;
        sent.map(drop).map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }

    /// Takes a record out of the review queue again while `verdict` is in force on it.
    pub(super) async fn leave_queue(&self, record: &Record, verdict: &Review) -> Result<(), StoreError> {
        let is_in_force = ConditionCheck::builder()
            .table_name(&self.table)
            .key("pk", text(image_pk(&record.image.bucket, &record.image.key)))
            .key("sk", text(VERDICT_SK.to_owned()))
            .condition_expression("object_version = :version")
            .expression_attribute_values(":version", text(verdict.object_version.clone()))
            .build()
            .expect("table, key and condition are set");
        let request = self.dynamodb.transact_write_items();
        let sent = request
            .transact_items(TransactWriteItem::builder().condition_check(is_in_force).build())
            .transact_items(TransactWriteItem::builder().update(self.queue_place(record, false)).build())
            .send()
            .await;
        sent.map(drop).map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }

    async fn see(&self, bucket: &str, key: &str) -> Result<Seen, StoreError> {
        let reader = TableReader::new(self.dynamodb.clone(), &self.table);
        let query = reader
            .query(None, "pk = :pk")
            .consistent_read(true)
            .expression_attribute_values(":pk", text(image_pk(bucket, key)));
        let failed = |error: QueryError| self.failed(error.to_string());
        let items = reader.all_items(query).await.map_err(failed)?;
        let verdict = items.iter().find(|item| text_of(item, "sk") == Some(VERDICT_SK));
        let verdict_item = verdict.and_then(|item| {
            let part = |name| text_of(item, name).map(str::to_owned);
            Some((part("reviewed_at")?, part("reviewer")?))
        });
        let history = reader.history_of(items).map_err(failed)?;
        Ok(Seen { pk: image_pk(bucket, key), history, verdict_item })
    }

    /// All that follows from the verdict in force: its item, the review queue, the figures of slides.
    fn consequences(
        &self,
        seen: &Seen,
        in_force: Option<&Review>,
        at: DateTime<Utc>,
    ) -> Result<Vec<TransactWriteItem>, StoreError> {
        let mut writes = Vec::from_iter(self.verdict_write(seen, in_force)?);
        for record in &seen.history.results {
            let is_decided = in_force.is_some_and(|verdict| verdict.is_of(record.image.object_version()));
            let update = self.queue_place(record, record.needs_review && !is_decided);
            writes.push(TransactWriteItem::builder().update(update).build());
            let slide = self.slide_changed(&record.stage, &record.slide, at);
            writes.push(TransactWriteItem::builder().update(slide).build());
        }
        Ok(writes)
    }

    fn review_item(
        &self,
        review: &Review,
        sk: String,
        (listing_pk, listing_sk): (String, String),
    ) -> Result<Item, StoreError> {
        let mut item: Item = serde_dynamo::to_item(review).map_err(|e| self.failed(e.to_string()))?;
        let pk = image_pk(&review.bucket, &review.key);
        let keys = [("pk", pk), ("sk", sk), ("listing_pk", listing_pk), ("listing_sk", listing_sk)];
        item.extend(keys.map(|(name, value)| (name.to_owned(), text(value))));
        Ok(item)
    }

    fn verdict_write(
        &self,
        seen: &Seen,
        in_force: Option<&Review>,
    ) -> Result<Option<TransactWriteItem>, StoreError> {
        const AS_SEEN: &str = "reviewed_at = :seen_at AND reviewer = :seen_by";
        Ok(match (in_force, &seen.verdict_item) {
            (None, None) => None,
            (Some(verdict), item) => {
                let listing = (verdicts_pk(&verdict.slide), verdict.key.clone());
                let put = Put::builder().table_name(&self.table).set_item(Some(self.review_item(
                    verdict,
                    VERDICT_SK.to_owned(),
                    listing,
                )?));
                let put = match item {
                    None => put.condition_expression("attribute_not_exists(pk)"),
                    Some((at, by)) => put
                        .condition_expression(AS_SEEN)
                        .expression_attribute_values(":seen_at", text(at.clone()))
                        .expression_attribute_values(":seen_by", text(by.clone())),
                };
                Some(TransactWriteItem::builder().put(put.build().expect("table and item are set")).build())
            }
            (None, Some((at, by))) => {
                let delete = Delete::builder()
                    .table_name(&self.table)
                    .key("pk", text(seen.pk.clone()))
                    .key("sk", text(VERDICT_SK.to_owned()))
                    .condition_expression(AS_SEEN)
                    .expression_attribute_values(":seen_at", text(at.clone()))
                    .expression_attribute_values(":seen_by", text(by.clone()));
                let delete = delete.build().expect("table and key are set");
                Some(TransactWriteItem::builder().delete(delete).build())
            }
        })
    }

    /// Puts the record into the review queue, or takes it out, if it is still the same.
    fn queue_place(&self, record: &Record, is_wanted: bool) -> Update {
        let update = Update::builder()
            .table_name(&self.table)
            .key("pk", text(image_pk(&record.image.bucket, &record.image.key)))
            .key("sk", text(result_sk(&record.stage)))
            .condition_expression("result_id = :result_id")
            .expression_attribute_values(":result_id", text(record.result_id.clone()));
        let update = if is_wanted {
            let (pk, sk) = review_keys(record);
            update
                .update_expression("SET review_pk = :review_pk, review_sk = :review_sk")
                .expression_attribute_values(":review_pk", text(pk))
                .expression_attribute_values(":review_sk", text(sk))
        } else {
            update.update_expression("REMOVE review_pk, review_sk")
        };
        update.build().expect("table, key and expression are set")
    }

    /// Tells the slide that what its figure is made of has changed; its last activity stays that of its images.
    fn slide_changed(&self, stage: &str, slide: &str, at: DateTime<Utc>) -> Update {
        let (listing_pk, listing_sk) = super::schema::slide_listing(stage, slide, at);
        Update::builder()
            .table_name(&self.table)
            .key("pk", text(activity_pk(stage, slide)))
            .key("sk", text(ACTIVITY_SK.to_owned()))
            .update_expression(
                "SET stage = :stage, slide = :slide, changed_at = :now, \
                 last_activity_at = if_not_exists(last_activity_at, :now), \
                 listing_pk = if_not_exists(listing_pk, :listing_pk), \
                 listing_sk = if_not_exists(listing_sk, :listing_sk) ADD changes :one",
            )
            .expression_attribute_values(":stage", text(stage.to_owned()))
            .expression_attribute_values(":slide", text(slide.to_owned()))
            .expression_attribute_values(":now", text(time_text(at)))
            .expression_attribute_values(":listing_pk", text(listing_pk))
            .expression_attribute_values(":listing_sk", text(listing_sk))
            .expression_attribute_values(":one", number(1))
            .build()
            .expect("table, key and expression are set")
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
            let review = self.review_of(item)?;
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
            page.reviews.push(self.review_of(item)?);
            last = sk;
        }
        Ok(page)
    }

    /// A review of any version of this software: the first had no more than the label, version, reviewer and time.
    pub(super) fn review_of(&self, mut item: Item) -> Result<Review, QueryError> {
        if !item.contains_key("action") {
            let image = self.image_key(&item)?;
            let slide = slide_of_key(&image.key).to_owned();
            for (name, value) in [
                ("bucket", image.bucket),
                ("key", image.key),
                ("slide", slide),
                ("action", "correct".to_owned()),
            ] {
                item.insert(name.to_owned(), text(value));
            }
        }
        self.read_item(item)
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
        // The verdict of bea is no concern of ada, and there is nothing more of ada to take.
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
