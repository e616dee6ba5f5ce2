//! Days of upload: which there are, and how many images of each label they have.
//!
//! The counts of a day are those of its rows in the index; those that are kept stand only while nothing has changed
//! since they were begun, or for a moment while much changes, and for a day at most: an image that replaces one of
//! another day marks that day as old after it is stored, which nobody does again if it fails.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, NaiveDate, SubsecRound, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::table::counts::slides::INDEX_LAG;
use crate::table::merged::{text_of, truth_of};
use crate::table::reader::text;
use crate::table::schema::{RECENT_INDEX, SHARDS, days_pk, recent_pk, time_text};
use crate::table::writer::{Item, number};
use crate::{QueryError, StoreError, TableReader, TableWriter};

/// Days that are counted at once.
const DAYS_AT_ONCE: usize = 4;

/// What is counted of a row.
const COUNTED: &[&str] = &["label", "needs_review"];

/// Shards of a day that are counted at once.
const SHARDS_AT_ONCE: usize = 4;

/// How long counts stand while the day changes.
const MIN_PATIENCE: TimeDelta = TimeDelta::seconds(10);

/// Images of a day that may be counted anew each second while they change.
const COUNTED_PER_SECOND: u64 = 500;

/// Longest time for which a day that changes all the time is not counted anew.
const MAX_PATIENCE: TimeDelta = TimeDelta::minutes(5);

/// Longest time for which counts stand of a day that does not change.
const RECOUNTED_AFTER: TimeDelta = TimeDelta::days(1);

/// The first day that S3 may have been given an image.
const FIRST_DAY: NaiveDate = NaiveDate::from_ymd_opt(2006, 1, 1).expect("a date");

/// A day after all; dates of more than four digits a year do not sort as text.
const END_OF_DAYS: NaiveDate = NaiveDate::from_ymd_opt(9999, 12, 31).expect("a date");

/// Images of one stage by the day of their upload, UTC.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DaySummary {
    /// The day.
    pub date: NaiveDate,
    /// Classified images by label.
    pub labels: BTreeMap<String, u64>,
    /// Images that could not be classified.
    pub rejected: u64,
    /// Classified images whose answer asks for a human look, whether or not one looked.
    pub needs_review: u64,
    /// When that was counted; while a day changes that is at most every ten seconds, of a large one more rarely.
    pub computed_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct DayCounts {
    labels: BTreeMap<String, u64>,
    rejected: u64,
    needs_review: u64,
}

impl DayCounts {
    /// DayCounts a row of the index.
    fn add(&mut self, row: &Item) {
        match text_of(row, "label") {
            Some(label) => match self.labels.get_mut(label) {
                Some(images) => *images += 1,
                None => drop(self.labels.insert(label.to_owned(), 1)),
            },
            // Only what was classified has a label.
            None => self.rejected += 1,
        }
        self.needs_review += u64::from(truth_of(row, "needs_review") == Some(true));
    }

    fn images(&self) -> u64 {
        self.labels.values().sum::<u64>() + self.rejected
    }
}

/// The item of a day.
#[derive(Debug, Deserialize)]
struct DayItem {
    sk: String,
    changed_at: DateTime<Utc>,
    changes: u64,
    #[serde(default)]
    counts: Option<DayCounts>,
    /// Changes when counting began.
    #[serde(default)]
    counts_changes: u64,
    #[serde(default)]
    computed_at: Option<DateTime<Utc>>,
}

impl DayItem {
    /// The counts that are kept, if they may be answered at `now`.
    fn kept(&self, now: DateTime<Utc>) -> Option<(DayCounts, DateTime<Utc>)> {
        let (counts, computed_at) = (self.counts.clone()?, self.computed_at?);
        let is_of_now = self.counts_changes == self.changes && computed_at > self.changed_at + INDEX_LAG;
        let seconds = (counts.images() / COUNTED_PER_SECOND).try_into().unwrap_or(i64::MAX);
        let patience = TimeDelta::seconds(seconds.min(MAX_PATIENCE.num_seconds())).max(MIN_PATIENCE);
        let stands = if is_of_now { RECOUNTED_AFTER } else { patience };
        (now - computed_at < stands).then_some((counts, computed_at))
    }
}

impl TableWriter {
    /// Notes that images uploaded on `day` (`YYYY-MM-DD` or `unknown`) were answered, after their records are stored.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn invalidate_day(&self, stage: &str, day: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
        let request = self.dynamodb.update_item().table_name(&self.table);
        let sent = request
            .key("pk", text(days_pk(stage)))
            .key("sk", text(day.to_owned()))
            .update_expression("SET changed_at = :now ADD changes :one")
            .expression_attribute_values(":now", text(time_text(now)))
            .expression_attribute_values(":one", number(1))
            .send()
            .await;
        sent.map(drop).map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }
}

impl TableReader {
    /// The days of a stage from `from` until before `until` that have results, newest first. Images of unknown upload time
    /// are on none.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn days(
        &self,
        stage: &str,
        from: NaiveDate,
        until: NaiveDate,
    ) -> Result<Vec<DaySummary>, QueryError> {
        let (from, until) = (from.max(FIRST_DAY), until.min(END_OF_DAYS));
        let Some(last) = until.pred_opt().filter(|last| *last >= from) else { return Ok(Vec::new()) };
        let query = self
            .query(None, "pk = :pk AND sk BETWEEN :from AND :last")
            .consistent_read(true)
            .expression_attribute_values(":pk", text(days_pk(stage)))
            .expression_attribute_values(":from", text(from.to_string()))
            .expression_attribute_values(":last", text(last.to_string()))
            .scan_index_forward(false);
        let items = self.all_items(query).await?.into_iter().map(|item| self.read_item::<DayItem>(item));
        let items: Vec<DayItem> = items.collect::<Result<_, _>>()?;
        let days = items.into_iter().filter_map(|item| Some((item.sk.parse().ok()?, item)));
        let summaries = days.map(|(date, item)| self.summary(stage, date, item));
        stream::iter(summaries).buffered(DAYS_AT_ONCE).try_collect().await
    }

    /// The counts of a day as they are kept, or else counted now and kept.
    async fn summary(&self, stage: &str, date: NaiveDate, item: DayItem) -> Result<DaySummary, QueryError> {
        let now = Utc::now().trunc_subsecs(3);
        let (counts, computed_at) = match item.kept(now) {
            Some(kept) => kept,
            None => {
                let counts = self.counts(stage, &item.sk).await?;
                self.keep_counts(stage, &item, &counts, now).await?;
                (counts, now)
            }
        };
        let DayCounts { labels, rejected, needs_review } = counts;
        Ok(DaySummary { date, labels, rejected, needs_review, computed_at })
    }

    async fn counts(&self, stage: &str, day: &str) -> Result<DayCounts, QueryError> {
        let shards = SHARDS.char_indices().map(|(at, _)| async move {
            let mut counts = DayCounts::default();
            let pk = recent_pk(stage, day, &SHARDS[at..=at]);
            self.count_rows(RECENT_INDEX, pk, COUNTED, |row| counts.add(row)).await?;
            Ok::<DayCounts, QueryError>(counts)
        });
        let sums: Vec<DayCounts> =
            stream::iter(shards).buffer_unordered(SHARDS_AT_ONCE).try_collect().await?;
        let mut counts = DayCounts::default();
        for of_shard in sums {
            counts.rejected += of_shard.rejected;
            counts.needs_review += of_shard.needs_review;
            for (label, images) in of_shard.labels {
                *counts.labels.entry(label).or_default() += images;
            }
        }
        Ok(counts)
    }

    /// Keeps counts beside the changes they were begun at, unless there are more by now.
    async fn keep_counts(
        &self,
        stage: &str,
        item: &DayItem,
        counts: &DayCounts,
        begun_at: DateTime<Utc>,
    ) -> Result<(), QueryError> {
        let counts: Item = serde_dynamo::to_item(counts).map_err(|e| self.failed(e.to_string()))?;
        let request = self.dynamodb.update_item().table_name(&self.table);
        let sent = request
            .key("pk", text(days_pk(stage)))
            .key("sk", text(item.sk.clone()))
            .condition_expression("changes = :changes")
            .update_expression("SET counts = :counts, counts_changes = :changes, computed_at = :now")
            .expression_attribute_values(":changes", number(item.changes))
            .expression_attribute_values(":counts", AttributeValue::M(counts))
            .expression_attribute_values(":now", text(time_text(begun_at)))
            .send()
            .await;
        let Err(error) = sent else { return Ok(()) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(()),
            _ => Err(self.failed(DisplayErrorContext(&error).to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_day_that_does_not_change_are_made_anew_after_a_day() {
        let now = Utc::now();
        let counted = |ago: TimeDelta| DayItem {
            sk: "2026-01-01".to_owned(),
            changed_at: now - TimeDelta::days(30),
            changes: 3,
            counts: Some(DayCounts::default()),
            counts_changes: 3,
            computed_at: Some(now - ago),
        };
        assert!(counted(TimeDelta::hours(23)).kept(now).is_some());
        // An image may have left it without notice.
        assert!(counted(TimeDelta::hours(25)).kept(now).is_none());
    }
}
