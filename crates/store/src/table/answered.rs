//! Which images a model answered, and what reviewers say of them.
//!
//! It never scans. An image is listed under the model of its current result, and under no other, so that what was
//! answered anew is not listed again.

use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::Select;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::table::reader::{Cursor, text};
use crate::table::schema::{
    MODEL_INDEX, RESULT_SK, SHARDS, image_of_pk, model_index_pk, result_pk, time_text,
};
use crate::table::writer::{Item, sequencer_of};
use crate::{QueryError, TableReader};
use giemsa_core::object::Sequencer;
use giemsa_core::record::Record;

/// An image, by where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ImageKey {
    /// Bucket name.
    pub bucket: String,
    /// Object key.
    pub key: String,
}

/// What a reviewer says of one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The label that is right.
    pub label: String,
    /// Version, or else ETag, of the image that was looked at.
    pub object_version: String,
    /// Who looked.
    pub reviewer: String,
    /// When.
    pub reviewed_at: DateTime<Utc>,
}

/// Which images of a model are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnsweredQuery {
    /// The stage.
    pub stage: String,
    /// Lower-case hexadecimal SHA-256 of the model.
    pub sha256: String,
    /// First upload time; images of unknown upload time are listed all the same.
    pub since: Option<DateTime<Utc>>,
}

impl TableReader {
    /// One page of the images of one shard, 0 to 15, by upload time.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn answered_page(
        &self,
        query: &AnsweredQuery,
        shard: usize,
        after: Option<Cursor>,
        limit: i32,
    ) -> Result<(Vec<ImageKey>, Option<Cursor>), QueryError> {
        let request = self.answered_query(query, shard).limit(limit);
        let answer = request
            .set_exclusive_start_key(after.map(|cursor| cursor.0))
            .send()
            .await
            .map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?;
        let next = answer.last_evaluated_key.map(Cursor);
        let images = answer.items.unwrap_or_default().into_iter().map(|item| self.image_key(&item));
        Ok((images.collect::<Result<_, _>>()?, next))
    }

    /// How many images have their current result from a model.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn count_answered(&self, query: &AnsweredQuery) -> Result<u64, QueryError> {
        let mut count = 0;
        for shard in 0..SHARDS.len() {
            let mut pages = self.answered_query(query, shard).select(Select::Count).into_paginator().send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?;
                count += u64::try_from(page.count).unwrap_or(0);
            }
        }
        Ok(count)
    }

    /// The current result of an image in a stage, and the position of its upload among those of its key.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn current(
        &self,
        image: &ImageKey,
        stage: &str,
    ) -> Result<Option<(Record, Option<Sequencer>)>, QueryError> {
        let request = self.dynamodb.get_item().table_name(&self.table).consistent_read(true);
        let found = request
            .key("pk", text(result_pk(stage, &image.bucket, &image.key)))
            .key("sk", text(RESULT_SK.to_owned()))
            .send()
            .await
            .map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?;
        let Some(item) = found.item else { return Ok(None) };
        let sequencer = sequencer_of(&item);
        Ok(Some((self.read_item(item)?, sequencer)))
    }

    fn answered_query(&self, query: &AnsweredQuery, shard: usize) -> QueryFluentBuilder {
        let pk = text(model_index_pk(&query.stage, &query.sha256, &SHARDS[shard..=shard]));
        match query.since {
            None => {
                let request = self.query(Some(MODEL_INDEX), "model_pk = :pk");
                request.expression_attribute_values(":pk", pk)
            }
            Some(since) => self
                .query(Some(MODEL_INDEX), "model_pk = :pk AND model_sk >= :since")
                .expression_attribute_values(":pk", pk)
                .expression_attribute_values(":since", text(time_text(since))),
        }
    }

    pub(crate) fn image_key(&self, item: &Item) -> Result<ImageKey, QueryError> {
        let pk = item.get("pk").and_then(|pk| pk.as_s().ok()).map_or("", String::as_str);
        let (bucket, key) = image_of_pk(pk).ok_or_else(|| QueryError::Item {
            table: self.table.clone(),
            pk: pk.to_owned(),
            detail: "expected result#<stage>#<bucket>/<key> or image#<bucket>/<key>".to_owned(),
        })?;
        Ok(ImageKey { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}
