//! Every question the table answers, each by one key or index range.
//!
//! It never scans and never writes. A page's cursor continues exactly after its last record, whatever was written
//! meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, Days, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use crate::FailureNote;
use crate::table::merged::text_of;
use crate::table::reviews::verdicts::Review;
use crate::table::reviews::withdrawals::Withdrawal;
use crate::table::schema::{
    FAILURE_SK_START, LABEL_INDEX, LabelOrRejected, RELEASES_END, RESULT_SK, SHARDS, SLIDE_INDEX,
    WITHDRAWAL_SK_START, WITHDRAWN_SK, image_pk, label_pk, model_pk, result_pk, slide_pk, time_text,
};
use crate::table::writer::{Item, LedgerEntry};
use giemsa_core::record::Record;

/// Shards that are asked at once.
const SHARD_CONCURRENCY: usize = 8;

/// Partitions of one image that are asked at once: that of its reviews, and one of each stage.
const STAGE_CONCURRENCY: usize = 8;

/// Reads the table.
#[derive(Debug, Clone)]
pub struct TableReader {
    pub(crate) dynamodb: Client,
    pub(crate) table: String,
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Cursor(pub(crate) Item);

/// One page of records, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Where the next page starts, if there is one.
    pub next: Option<Cursor>,
}

/// All that the table knows of one image, as far as stages were asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageHistory {
    /// The current result of each stage, by stage.
    pub results: Vec<Record>,
    /// Why uploads of it have no answer of a stage yet.
    pub failures: Vec<FailureNote>,
    /// Reviews as they were appended, oldest first.
    pub reviews: Vec<Review>,
    /// The verdict in force on the image version that the results are of, or on any version if there is no result.
    pub verdict: Option<Review>,
    /// Withdrawals and restorations as they were appended, oldest first.
    pub withdrawals: Vec<Withdrawal>,
    /// The withdrawal in force, of whatever upload.
    pub withdrawal: Option<Withdrawal>,
}

/// A label or status in a range of upload times, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelQuery {
    /// The stage.
    pub stage: String,
    /// The label, or all that was rejected.
    pub which: LabelOrRejected,
    /// First upload time, inclusive.
    pub from: DateTime<Utc>,
    /// Last upload time, exclusive.
    pub until: DateTime<Utc>,
    /// Most records to return.
    pub limit: usize,
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// DynamoDB or the network failed.
    #[error("table {table:?} cannot be read: {detail}")]
    Request {
        /// Table name.
        table: String,
        /// What DynamoDB or the network says.
        detail: String,
    },
    /// No index answers this.
    #[error("{detail}")]
    Unsupported {
        /// What is not answered, and what is expected instead.
        detail: String,
    },
    /// An item is not what this version writes.
    #[error("item {pk:?} of table {table:?} cannot be read: {detail}")]
    Item {
        /// Table name.
        table: String,
        /// Partition key of the item.
        pk: String,
        /// What the deserialiser says.
        detail: String,
    },
}

impl TableReader {
    /// Reads `table`.
    pub fn new(dynamodb: Client, table: impl Into<String>) -> Self {
        Self { dynamodb, table: table.into() }
    }

    /// One image: its current result in each of `stages`, what fails there, and its reviews.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn image(
        &self,
        bucket: &str,
        key: &str,
        stages: &[impl AsRef<str> + Sync],
    ) -> Result<ImageHistory, QueryError> {
        self.history_of(self.image_items(bucket, key, stages, false).await?)
    }

    /// All items of one image: of its reviews, and of each of `stages`.
    pub(crate) async fn image_items(
        &self,
        bucket: &str,
        key: &str,
        stages: &[impl AsRef<str> + Sync],
        is_consistent: bool,
    ) -> Result<Vec<Item>, QueryError> {
        let of_stages = stages.iter().map(|stage| result_pk(stage.as_ref(), bucket, key));
        let pks: BTreeSet<String> = of_stages.chain([image_pk(bucket, key)]).collect();
        let asked = pks.into_iter().map(|pk| {
            let query = self.query(None, "pk = :pk").consistent_read(is_consistent);
            self.all_items(query.expression_attribute_values(":pk", text(pk)))
        });
        let asked: Vec<_> = asked.collect();
        // In the order of partition keys, which is that of the stages.
        let found: Vec<Vec<Item>> = stream::iter(asked).buffered(STAGE_CONCURRENCY).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// What the items of one image tell.
    pub(crate) fn history_of(&self, items: Vec<Item>) -> Result<ImageHistory, QueryError> {
        let mut history = ImageHistory::default();
        for item in items {
            let sk = text_of(&item, "sk").unwrap_or_default();
            if sk == RESULT_SK {
                history.results.push(self.read_item(item)?);
            } else if sk.starts_with(FAILURE_SK_START) {
                history.failures.push(self.read_item(item)?);
            } else if sk.starts_with("review#") {
                history.reviews.push(self.read_item(item)?);
            } else if sk.starts_with(WITHDRAWAL_SK_START) {
                history.withdrawals.push(self.read_item(item)?);
            } else if sk == WITHDRAWN_SK {
                history.withdrawal = Some(self.read_item(item)?);
            }
        }
        history.verdict = history.verdict_in_force().cloned();
        Ok(history)
    }

    /// One page of a slide's records, in the order of their keys.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn slide(
        &self,
        stage: &str,
        slide: &str,
        after: Option<Cursor>,
        limit: i32,
    ) -> Result<Page, QueryError> {
        let query = self.slide_query(stage, slide).limit(limit);
        let answer = query
            .set_exclusive_start_key(after.map(|cursor| cursor.0))
            .send()
            .await
            .map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?;
        let next = answer.last_evaluated_key.map(Cursor);
        let records = answer.items.unwrap_or_default().into_iter().map(|item| self.read_item(item));
        Ok(Page { records: records.collect::<Result<_, _>>()?, next })
    }

    /// All records of a slide, in the order of their keys.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn whole_slide(&self, stage: &str, slide: &str) -> Result<Vec<Record>, QueryError> {
        self.all_records(self.slide_query(stage, slide)).await
    }

    /// Records of a label or of what was rejected, by upload time, newest first.
    ///
    /// Days are asked from the newest back, each in all shards, until there are enough.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn by_label(&self, query: &LabelQuery) -> Result<Vec<Record>, QueryError> {
        let mut records = Vec::new();
        let first_day = query.from.date_naive();
        let mut day = Some(query.until.date_naive());
        while let Some(date) = day.filter(|date| *date >= first_day && records.len() < query.limit) {
            let day_text = date.format("%Y-%m-%d").to_string();
            let shards = self.label_shards(query, &day_text).await?;
            let mut of_day: BTreeMap<_, _> = BTreeMap::new();
            for record in shards.into_iter().flatten() {
                of_day.insert(
                    (record.image.uploaded_at, record.result_id.clone(), record.image.key.clone()),
                    record,
                );
            }
            records.extend(of_day.into_values().rev());
            day = date.checked_sub_days(Days::new(1));
        }
        records.truncate(query.limit);
        Ok(records)
    }

    async fn label_shards(&self, query: &LabelQuery, day: &str) -> Result<Vec<Vec<Record>>, QueryError> {
        self.each_shard(
            |shard| {
                let pk = label_pk(&query.stage, &query.which, day, shard);
                self.query(Some(LABEL_INDEX), "label_pk = :pk AND label_sk BETWEEN :from AND :until")
                    .expression_attribute_values(":pk", text(pk))
                    .expression_attribute_values(":from", text(time_text(query.from)))
                    // `#` follows the time in a sort key, so the bare end time is before all that has it.
                    .expression_attribute_values(":until", text(time_text(query.until)))
                    .scan_index_forward(false)
                    .limit(i32::try_from(query.limit).unwrap_or(i32::MAX))
            },
            query.limit,
        )
        .await
    }

    /// What needs a human look in a stage and has no verdict, most suspicious first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn review_queue(&self, stage: &str, limit: usize) -> Result<Vec<Record>, QueryError> {
        Ok(self.review_queue_page(stage, None, None, limit).await?.results)
    }

    /// The model that a stage served at `time`, if any was released by then.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn model_at(
        &self,
        stage: &str,
        time: DateTime<Utc>,
    ) -> Result<Option<LedgerEntry>, QueryError> {
        // `~` sorts after every digit and after `#`, so that a release of this very millisecond counts.
        let query = self
            .query(None, "pk = :pk AND sk < :sk")
            .expression_attribute_values(":pk", text(model_pk(stage)))
            .expression_attribute_values(":sk", text(format!("{}~", time_text(time))))
            .scan_index_forward(false)
            .limit(1);
        let answer =
            query.send().await.map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?;
        answer.items.unwrap_or_default().into_iter().next().map(|item| self.read_item(item)).transpose()
    }

    /// The last `limit` entries of a stage's model ledger, newest first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn ledger_newest(&self, stage: &str, limit: usize) -> Result<Vec<LedgerEntry>, QueryError> {
        let query = self
            .query(None, "pk = :pk AND sk < :end")
            .expression_attribute_values(":pk", text(model_pk(stage)))
            .expression_attribute_values(":end", text(RELEASES_END.to_owned()))
            .scan_index_forward(false)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        let answer =
            query.send().await.map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?;
        answer.items.unwrap_or_default().into_iter().map(|item| self.read_item(item)).collect()
    }

    fn slide_query(&self, stage: &str, slide: &str) -> QueryFluentBuilder {
        self.query(Some(SLIDE_INDEX), "slide_pk = :pk")
            .expression_attribute_values(":pk", text(slide_pk(stage, slide)))
    }

    pub(crate) fn query(&self, index: Option<&str>, condition: &str) -> QueryFluentBuilder {
        self.dynamodb
            .query()
            .table_name(&self.table)
            .set_index_name(index.map(str::to_owned))
            .key_condition_expression(condition)
    }

    /// Up to `limit` records of each shard, several shards at once.
    async fn each_shard(
        &self,
        query_of: impl Fn(&str) -> QueryFluentBuilder,
        limit: usize,
    ) -> Result<Vec<Vec<Record>>, QueryError> {
        let queries: Vec<_> = SHARDS.char_indices().map(|(i, _)| query_of(&SHARDS[i..=i])).collect();
        stream::iter(queries.into_iter().map(|query| self.first_records(query, limit)))
            .buffered(SHARD_CONCURRENCY)
            .try_collect()
            .await
    }

    /// The first `limit` records of a query, however many pages they take.
    async fn first_records(
        &self,
        query: QueryFluentBuilder,
        limit: usize,
    ) -> Result<Vec<Record>, QueryError> {
        let mut items = query.into_paginator().items().send();
        let mut records = Vec::new();
        while records.len() < limit
            && let Some(item) = items
                .try_next()
                .await
                .map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?
        {
            records.push(self.read_item(item)?);
        }
        Ok(records)
    }

    async fn all_records(&self, query: QueryFluentBuilder) -> Result<Vec<Record>, QueryError> {
        self.first_records(query, usize::MAX).await
    }

    pub(crate) async fn all_items(&self, query: QueryFluentBuilder) -> Result<Vec<Item>, QueryError> {
        let items = query.into_paginator().items().send().try_collect().await;
        items.map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }

    pub(crate) fn read_item<T: serde::de::DeserializeOwned>(&self, item: Item) -> Result<T, QueryError> {
        let pk = item.get("pk").and_then(|pk| pk.as_s().ok()).cloned().unwrap_or_default();
        serde_dynamo::from_item(item).map_err(|e| QueryError::Item {
            table: self.table.clone(),
            pk,
            detail: e.to_string(),
        })
    }

    pub(crate) fn failed(&self, detail: String) -> QueryError {
        QueryError::Request { table: self.table.clone(), detail }
    }
}

pub(crate) fn text(value: String) -> AttributeValue {
    AttributeValue::S(value)
}
