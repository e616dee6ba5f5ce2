//! Items of earlier versions get the keys that this one writes, and places in new indexes, slides, days, verdicts.
//!
//! The one place that reads the whole table, once. It runs before anything is answered. Invariant: it may be ended at any
//! moment and started again: what is moved is there under its new key before it is taken from the old one, and what is
//! under the new key already is never written over. It never changes what a result says.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use super::merged::text_of;
use super::queries::text;
use super::results::upload_day;
use super::schema::{
    FAILURE_SK_START, LAYOUT_PK, LAYOUT_SK, RESULT_SK, failure_listing, failure_sk, result_pk,
};
use super::table::{Item, key_attributes, number};
use super::verdicts::Review;
use super::{FailureNote, StoreError, TableReader, TableWriter};
use giemsa_core::record::Record;

/// Items that are written at once.
const CONCURRENCY: usize = 32;

/// Items of one request.
const PAGE: i32 = 500;

/// The form of items that this version writes: 1 had the stage of a result in its sort key.
const LAYOUT: u64 = 2;

/// Whether all items of a table are in the form that this version writes.
///
/// # Errors
/// [`StoreError`] if the table cannot be read.
pub(super) async fn is_up_to_date(dynamodb: &Client, table: &str) -> Result<bool, StoreError> {
    let writer = TableWriter::new(dynamodb.clone(), table);
    let request = dynamodb.get_item().table_name(table).consistent_read(true);
    let found = request
        .key("pk", text(LAYOUT_PK.to_owned()))
        .key("sk", text(LAYOUT_SK.to_owned()))
        .send()
        .await
        .map_err(|error| writer.failed(DisplayErrorContext(&error).to_string()))?;
    let layout = found.item.as_ref().and_then(|item| item.get("layout")?.as_n().ok()?.parse().ok());
    Ok(layout.is_some_and(|layout: u64| layout >= LAYOUT))
}

/// Notes in the table that all its items are in the form that this version writes.
///
/// # Errors
/// [`StoreError`] if the table does not take it.
pub(super) async fn note_layout(dynamodb: &Client, table: &str) -> Result<(), StoreError> {
    let writer = TableWriter::new(dynamodb.clone(), table);
    let request = dynamodb.put_item().table_name(table);
    let sent = request
        .item("pk", text(LAYOUT_PK.to_owned()))
        .item("sk", text(LAYOUT_SK.to_owned()))
        .item("layout", number(LAYOUT))
        .send()
        .await;
    sent.map(drop).map_err(|error| writer.failed(DisplayErrorContext(&error).to_string()))
}

/// Brings all items of a table up to what this version writes; slides, days and verdicts are made only where the table
/// `lacks_places` for them.
///
/// # Errors
/// [`StoreError`] if the table cannot be read or written, or holds what no version wrote.
pub(super) async fn migrate_items(
    dynamodb: &Client,
    table: &str,
    lacks_places: bool,
) -> Result<(), StoreError> {
    let migration = Migration {
        writer: TableWriter::new(dynamodb.clone(), table),
        reader: TableReader::new(dynamodb.clone(), table),
        lacks_places,
    };
    tracing::info!(table, "table of an earlier version: every item is read and brought up to date, once");
    let mut touched = Touched::default();
    let mut items = 0;
    let mut start = None;
    loop {
        let page = dynamodb.scan().table_name(table).limit(PAGE).set_exclusive_start_key(start).send().await;
        let page = page.map_err(|error| migration.failed(&error))?;
        let changes = page.items.unwrap_or_default().into_iter().map(|item| migration.change(item));
        let mut done = stream::iter(changes).buffer_unordered(CONCURRENCY);
        while let Some(seen) = done.try_next().await? {
            touched.add(seen);
            items += 1;
        }
        start = page.last_evaluated_key;
        if start.is_none() {
            break;
        }
    }
    migration.touch(touched).await?;
    note_layout(dynamodb, table).await?;
    tracing::info!(table, items, "table brought up to date");
    Ok(())
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
    lacks_places: bool,
}

impl Migration {
    /// Moves an item to the key that it has now, with what it lacks.
    async fn change(&self, item: Item) -> Result<Kind, StoreError> {
        let sk = text_of(&item, "sk").unwrap_or_default();
        let pk = text_of(&item, "pk").unwrap_or_default();
        if pk.starts_with("result#") && sk == RESULT_SK && self.lacks_places {
            // Moved by a migration that was ended.
            return Ok(Kind::Result(self.read(item)?));
        }
        if !pk.starts_with("image#") {
            return Ok(Kind::Other);
        }
        if sk.starts_with("result#") {
            let record: Box<Record> = self.read(item.clone())?;
            let pk = result_pk(&record.stage, &record.image.bucket, &record.image.key);
            self.move_to((pk, RESULT_SK.to_owned()), item, key_attributes(&record)).await?;
            Ok(Kind::Result(record))
        } else if sk.starts_with(FAILURE_SK_START) {
            let note: FailureNote = self.read(item.clone())?;
            let (listing_pk, listing_sk) =
                failure_listing(&note.stage, &note.key, &note.object_version, note.last_failed_at);
            let keys = (result_pk(&note.stage, &note.bucket, &note.key), failure_sk(&note.object_version));
            self.move_to(keys, item, vec![("listing_pk", listing_pk), ("listing_sk", listing_sk)]).await?;
            Ok(Kind::Other)
        } else if sk.starts_with("review#") && self.lacks_places {
            let keys = [("pk", pk.to_owned()), ("sk", sk.to_owned())];
            let review = self.reader.review_of(item).map_err(|e| self.writer.failed(e.to_string()))?;
            self.list_review(keys, review.listing()).await?;
            Ok(Kind::Review(Box::new(review)))
        } else {
            Ok(Kind::Other)
        }
    }

    /// Writes an item under new keys, unless there is one that is newer, and then takes the old one away.
    async fn move_to(
        &self,
        (pk, sk): (String, String),
        mut item: Item,
        attributes: Vec<(&'static str, String)>,
    ) -> Result<(), StoreError> {
        let old_key = ["pk", "sk"].map(|name| (name.to_owned(), item[name].clone()));
        let attributes = attributes.into_iter().chain([("pk", pk), ("sk", sk)]);
        item.extend(attributes.map(|(name, value)| (name.to_owned(), text(value))));
        let TableWriter { dynamodb, table } = &self.writer;
        let put = dynamodb.put_item().table_name(table).set_item(Some(item));
        match put.condition_expression("attribute_not_exists(pk)").send().await {
            Ok(_) => {}
            // The copy of a migration that was ended, or what this version wrote since.
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => {}
            Err(error) => return Err(self.failed(&error)),
        }
        let delete = dynamodb.delete_item().table_name(table).set_key(Some(old_key.into()));
        delete.send().await.map(drop).map_err(|error| self.failed(&error))
    }

    /// Sets where a review is listed.
    async fn list_review(
        &self,
        keys: [(&str, String); 2],
        (listing_pk, listing_sk): (String, String),
    ) -> Result<(), StoreError> {
        let mut request = self.writer.dynamodb.update_item().table_name(&self.writer.table);
        for (name, value) in keys {
            request = request.key(name, text(value));
        }
        let sent = request
            .update_expression("SET listing_pk = :pk, listing_sk = :sk")
            .expression_attribute_values(":pk", text(listing_pk))
            .expression_attribute_values(":sk", text(listing_sk))
            .send()
            .await;
        sent.map(drop).map_err(|error| self.failed(&error))
    }

    /// Makes the items of slides and days, and the verdicts in force.
    async fn touch(&self, touched: Touched) -> Result<(), StoreError> {
        if !self.lacks_places {
            return Ok(());
        }
        let stages: BTreeSet<&str> = touched.slides.keys().map(|(stage, _)| stage.as_str()).collect();
        let stages: Vec<&str> = stages.into_iter().collect();
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
            self.writer.refresh_verdict(bucket, key, &stages).await?;
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
