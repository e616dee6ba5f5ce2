//! Items of earlier versions get what later ones write with them: places in new indexes, slides, days, verdicts.
//!
//! The one place that reads the whole table, once. Invariant: it may be ended at any moment and started again, and never
//! changes what a result says.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use super::merged::text_of;
use super::queries::text;
use super::results::upload_day;
use super::schema::{VERDICT_SK, failure_listing};
use super::table::{Item, key_attributes};
use super::verdicts::Review;
use super::{FailureNote, StoreError, TableReader, TableWriter};
use crate::classification::Record;

/// Items that are written at once.
const CONCURRENCY: usize = 32;

/// Items of one request.
const PAGE: i32 = 500;

/// Brings all items of a table up to what this version writes.
///
/// # Errors
/// [`StoreError`] if the table cannot be read or written, or holds what no version wrote.
pub(super) async fn migrate_items(dynamodb: &Client, table: &str) -> Result<(), StoreError> {
    let migration = Migration {
        writer: TableWriter::new(dynamodb.clone(), table),
        reader: TableReader::new(dynamodb.clone(), table),
    };
    let mut touched = Touched::default();
    let mut start = None;
    loop {
        let page = dynamodb.scan().table_name(table).limit(PAGE).set_exclusive_start_key(start).send().await;
        let page = page.map_err(|error| migration.failed(&error))?;
        let changes = page.items.unwrap_or_default().into_iter().map(|item| migration.change(item));
        let mut done = stream::iter(changes).buffer_unordered(CONCURRENCY);
        while let Some(seen) = done.try_next().await? {
            touched.add(seen);
        }
        start = page.last_evaluated_key;
        if start.is_none() {
            break;
        }
    }
    migration.touch(touched).await
}

/// What an item was.
enum Kind {
    Result(Box<Record>),
    Review(Box<Review>),
    Other,
}

/// Slides and days that have results, and images that have reviews.
#[derive(Default)]
struct Touched {
    /// By stage and slide: when an image was last answered.
    slides: BTreeMap<(String, String), DateTime<Utc>>,
    days: BTreeSet<(String, String)>,
    reviewed: BTreeSet<(String, String)>,
}

impl Touched {
    fn add(&mut self, kind: Kind) {
        match kind {
            Kind::Result(record) => {
                let at = record.classified_at.or(record.image.uploaded_at).unwrap_or(DateTime::UNIX_EPOCH);
                let last = self.slides.entry((record.stage.clone(), record.slide.clone())).or_insert(at);
                *last = at.max(*last);
                self.days.insert((record.stage.clone(), upload_day(&record)));
            }
            Kind::Review(review) => {
                self.reviewed.insert((review.bucket, review.key));
            }
            Kind::Other => {}
        }
    }
}

struct Migration {
    writer: TableWriter,
    reader: TableReader,
}

impl Migration {
    /// Adds to an item what it lacks.
    async fn change(&self, item: Item) -> Result<Kind, StoreError> {
        let sk = text_of(&item, "sk").unwrap_or_default();
        let pk = text_of(&item, "pk").unwrap_or_default();
        if !pk.starts_with("image#") || sk == VERDICT_SK {
            return Ok(Kind::Other);
        }
        let keys = [("pk", pk.to_owned()), ("sk", sk.to_owned())];
        if sk.starts_with("result#") {
            let record: Record = self.read(item)?;
            let condition = ("result_id", record.result_id.clone());
            self.add(keys, condition, key_attributes(&record)).await?;
            Ok(Kind::Result(Box::new(record)))
        } else if sk.starts_with("review#") {
            let review = self.reader.review_of(item).map_err(|e| self.writer.failed(e.to_string()))?;
            let ((listing_pk, listing_sk), reviewer) = (review.listing(), review.reviewer.clone());
            let attributes = vec![("listing_pk", listing_pk), ("listing_sk", listing_sk)];
            self.add(keys, ("reviewer", reviewer), attributes).await?;
            Ok(Kind::Review(Box::new(review)))
        } else if sk.starts_with("failure#") {
            let note: FailureNote = self.read(item)?;
            let (listing_pk, listing_sk) =
                failure_listing(&note.stage, &note.key, &note.object_version, note.last_failed_at);
            let attributes = vec![("listing_pk", listing_pk), ("listing_sk", listing_sk)];
            self.add(keys, ("key", note.key), attributes).await?;
            Ok(Kind::Other)
        } else {
            Ok(Kind::Other)
        }
    }

    /// Sets attributes of an item, unless it was replaced or taken away meanwhile: what replaces it has them.
    async fn add(
        &self,
        keys: [(&str, String); 2],
        (name, value): (&str, String),
        attributes: Vec<(&'static str, String)>,
    ) -> Result<(), StoreError> {
        let mut request = self.writer.dynamodb.update_item().table_name(&self.writer.table);
        for (name, value) in keys {
            request = request.key(name, text(value));
        }
        let sets: Vec<String> = attributes.iter().map(|(name, _)| format!("{name} = :{name}")).collect();
        for (name, value) in attributes {
            request = request.expression_attribute_values(format!(":{name}"), text(value));
        }
        let sent = request
            .update_expression(format!("SET {}", sets.join(", ")))
            .condition_expression("#same = :same")
            .expression_attribute_names("#same", name)
            .expression_attribute_values(":same", text(value))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Makes the items of slides and days, and the verdicts in force.
    async fn touch(&self, touched: Touched) -> Result<(), StoreError> {
        let now = Utc::now();
        let slides = touched
            .slides
            .iter()
            .map(|((stage, slide), at)| async move { self.writer.touch_slide(stage, slide, *at).await });
        stream::iter(slides).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
        let days = touched
            .days
            .iter()
            .map(|(stage, day)| async move { self.writer.touch_day(stage, day, now).await });
        stream::iter(days).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
        for (bucket, key) in &touched.reviewed {
            self.writer.refresh_verdict(bucket, key).await?;
        }
        Ok(())
    }

    fn read<T: serde::de::DeserializeOwned>(&self, item: Item) -> Result<T, StoreError> {
        self.reader.read_item(item).map_err(|error| self.writer.failed(error.to_string()))
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> StoreError {
        self.writer.failed(DisplayErrorContext(error).to_string())
    }
}
