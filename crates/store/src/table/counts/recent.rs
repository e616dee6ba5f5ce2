//! How many images were uploaded lately, by how they were answered.
//!
//! Keys are counted. An image is counted once, in the shard of its current result.

use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::Select;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use crate::table::reader::text;
use crate::table::schema::{
    LABEL_INDEX, LabelOrRejected, RECENT_INDEX, SHARDS, label_pk, recent_pk, time_text,
};
use crate::{QueryError, TableReader};

/// Shards that are counted at once.
const CONCURRENCY: usize = 8;

impl TableReader {
    /// How many images that were uploaded since `since` have a result of the stage, the rejected ones among them.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn count_recent(&self, stage: &str, since: DateTime<Utc>) -> Result<u64, QueryError> {
        self.count_days(RECENT_INDEX, since, |day, shard| recent_pk(stage, day, shard)).await
    }

    /// How many images that were uploaded since `since` were rejected by the stage.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn count_rejected(&self, stage: &str, since: DateTime<Utc>) -> Result<u64, QueryError> {
        let rejected = LabelOrRejected::Rejected;
        self.count_days(LABEL_INDEX, since, |day, shard| label_pk(stage, &rejected, day, shard)).await
    }

    async fn count_days(
        &self,
        index: &'static str,
        since: DateTime<Utc>,
        pk_of: impl Fn(&str, &str) -> String,
    ) -> Result<u64, QueryError> {
        let today = Utc::now().date_naive();
        let days = since.date_naive().iter_days().take_while(|day| *day <= today);
        let pks: Vec<String> = days
            .map(|day| day.format("%Y-%m-%d").to_string())
            .flat_map(|day| {
                SHARDS.char_indices().map(|(i, _)| pk_of(&day, &SHARDS[i..=i])).collect::<Vec<_>>()
            })
            .collect();
        let counts: Vec<u64> = stream::iter(pks)
            .map(|pk| self.count_since(index, pk, since))
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        Ok(counts.into_iter().sum())
    }

    async fn count_since(
        &self,
        index: &'static str,
        pk: String,
        since: DateTime<Utc>,
    ) -> Result<u64, QueryError> {
        let mut pages = self
            .query(Some(index), &format!("{index}_pk = :pk AND {index}_sk >= :since"))
            .expression_attribute_values(":pk", text(pk))
            .expression_attribute_values(":since", text(time_text(since)))
            .select(Select::Count)
            .into_paginator()
            .send();
        let mut count = 0;
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?;
            count += u64::try_from(page.count).unwrap_or(0);
        }
        Ok(count)
    }
}
