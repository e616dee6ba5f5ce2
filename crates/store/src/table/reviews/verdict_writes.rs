//! Appends reviews, and brings in order what follows from them.
//!
//! The appended review, the item of the verdict in force, the record's place in the review queue of each stage and the
//! mark that its slide has changed are one transaction.

use std::time::Duration;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_dynamodb::types::{ConditionCheck, Delete, Put, TransactWriteItem, Update};
use chrono::{DateTime, TimeDelta, Utc};

use crate::table::merged::text_of;
use crate::table::reader::{ImageHistory, text};
use crate::table::reviews::verdicts::{Review, ReviewAction, Reviewer, standing};
use crate::table::schema::{
    ACTIVITY_SK, RESULT_SK, VERDICT_SK, activity_pk, image_pk, result_pk, slide_listing, time_text,
    verdicts_pk,
};
use crate::table::writer::{Item, number, review_keys};
use crate::{ImageKey, QueryError, StoreError, TableReader, TableWriter, Verdict};
use giemsa_core::object::slide_of_key;
use giemsa_core::record::Record;

/// How often a review is tried again that met another write of the same items.
pub(crate) const MAX_TRIES: u32 = 10;

/// Pause after the first such meeting; it doubles with each.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// All items of one image and the stages that are known, read consistently.
struct Seen {
    pk: String,
    history: ImageHistory,
    /// Time and reviewer of the item of the verdict in force, as they are written there.
    verdict_item: Option<(String, String)>,
}

impl TableWriter {
    /// Appends a review, which is the verdict in force from now on, and takes the image out of the review queues of
    /// `stages`: all there are.
    ///
    /// Its time is moved behind that of the last review of the image, so that the order of both is kept.
    ///
    /// # Errors
    /// [`StoreError::OtherResult`] if the stage's result is not the one that was looked at; [`StoreError`] if the table
    /// does not take it.
    pub async fn append_review(
        &self,
        review: &Review,
        stages: &[impl AsRef<str> + Sync],
    ) -> Result<(), StoreError> {
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
        self.change_verdict(&review.bucket, &review.key, stages, checked).await.map(drop)
    }

    /// Takes the last verdict of `reviewer` on an image back, and returns the one that is in force then; `stages` are
    /// all there are.
    ///
    /// # Errors
    /// [`StoreError::NothingToUndo`] if no verdict of the reviewer stands; [`StoreError`] if the table does not take it.
    pub async fn undo_review(
        &self,
        bucket: &str,
        key: &str,
        reviewer: &Reviewer,
        at: DateTime<Utc>,
        stages: &[impl AsRef<str> + Sync],
    ) -> Result<Option<Review>, StoreError> {
        let undone = |seen: &Seen| {
            let is_own = |review: &&Review| review.is_by(&reviewer.name, reviewer.id.as_deref());
            let own = standing(&seen.history.reviews).into_iter().rfind(is_own);
            match own {
                Some(own) => {
                    Ok(Review { action: ReviewAction::Undo, reviewed_at: at, note: None, ..own.clone() })
                }
                None => {
                    Err(StoreError::NothingToUndo { key: key.to_owned(), reviewer: reviewer.name.clone() })
                }
            }
        };
        self.change_verdict(bucket, key, stages, undone).await
    }

    /// Records what a reviewer says of an image; the latest counts. `stages` are all there are.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn put_verdict(
        &self,
        image: &ImageKey,
        verdict: &Verdict,
        stages: &[impl AsRef<str> + Sync],
    ) -> Result<(), StoreError> {
        let review = Review {
            bucket: image.bucket.clone(),
            key: image.key.clone(),
            slide: slide_of_key(&image.key),
            stage: None,
            action: ReviewAction::Correct,
            label: verdict.label.clone(),
            note: None,
            reviewer: verdict.reviewer.clone(),
            reviewer_id: None,
            reviewed_at: verdict.reviewed_at,
            object_version: verdict.object_version.clone(),
            result_id: None,
            predicted: None,
            model: None,
        };
        self.append_review(&review, stages).await
    }

    /// Appends the review that `made` makes of what is there, and brings all that follows from it in order.
    async fn change_verdict(
        &self,
        bucket: &str,
        key: &str,
        stages: &[impl AsRef<str> + Sync],
        made: impl Fn(&Seen) -> Result<Review, StoreError>,
    ) -> Result<Option<Review>, StoreError> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            let seen = self.see(bucket, key, stages).await?;
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

    /// Takes a record out of the review queue again while `verdict` is in force on it.
    pub(crate) async fn leave_queue(&self, record: &Record, verdict: &Review) -> Result<(), StoreError> {
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

    async fn see(
        &self,
        bucket: &str,
        key: &str,
        stages: &[impl AsRef<str> + Sync],
    ) -> Result<Seen, StoreError> {
        let reader = TableReader::new(self.dynamodb.clone(), &self.table);
        let failed = |error: QueryError| self.failed(error.to_string());
        let items = reader.image_items(bucket, key, stages, true).await.map_err(failed)?;
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
            let is_counted = record.withdrawn.is_none();
            let update = self.queue_place(record, record.needs_review && is_counted && !is_decided);
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
            .key("pk", text(result_pk(&record.stage, &record.image.bucket, &record.image.key)))
            .key("sk", text(RESULT_SK.to_owned()))
            .condition_expression("result_id = :result_id")
            .expression_attribute_values(":result_id", text(record.result_id.clone()));
        let update = if is_wanted {
            let (pk, sk) = review_keys(record);
            update
                .condition_expression("result_id = :result_id AND attribute_not_exists(withdrawn)")
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
        self.slide_update(stage, slide, at, "")
    }

    /// As [`slide_changed`](Self::slide_changed), with one more `clause` of the update.
    pub(crate) fn slide_update(&self, stage: &str, slide: &str, at: DateTime<Utc>, clause: &str) -> Update {
        let (listing_pk, listing_sk) = slide_listing(stage, slide, at);
        Update::builder()
            .table_name(&self.table)
            .key("pk", text(activity_pk(stage, slide)))
            .key("sk", text(ACTIVITY_SK.to_owned()))
            .update_expression(format!(
                "SET stage = :stage, slide = :slide, changed_at = :now, \
                 last_activity_at = if_not_exists(last_activity_at, :now), \
                 listing_pk = if_not_exists(listing_pk, :listing_pk), \
                 listing_sk = if_not_exists(listing_sk, :listing_sk) ADD changes :one {clause}"
            ))
            .expression_attribute_values(":stage", text(stage.to_owned()))
            .expression_attribute_values(":slide", text(slide.to_owned()))
            .expression_attribute_values(":now", text(time_text(at.max(Utc::now()))))
            .expression_attribute_values(":listing_pk", text(listing_pk))
            .expression_attribute_values(":listing_sk", text(listing_sk))
            .expression_attribute_values(":one", number(1))
            .build()
            .expect("table, key and expression are set")
    }
}
