//! What answers write to the table: which partitions of it and of its indexes, and how many write units each takes.
//!
//! Keys and sizes are those of the very items that [`TableWriter`](crate::TableWriter) puts, so that a change of a key
//! or an index changes what is reckoned from here.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::{AttributeValue, ProjectionType};
use chrono::{DateTime, Utc};

use crate::StoreError;
use crate::results::upload_day;
use crate::table::schema::{INDEXES, Index, LISTING_INDEX, activity_pk, days_pk, slide_listing};
use crate::table::writer::{Item, item_of};
use giemsa_core::record::Record;

/// Bytes of one write unit.
const BYTES_OF_UNIT: usize = 1024;

/// Write units of the item of a slide or a day, and of its entry in an index: below 1 KB.
const UNITS_OF_ACTIVITY: usize = 1;

/// A write to one partition of the table, or of one of its indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionWrite {
    /// The index; `None` for the table itself.
    pub index: Option<&'static str>,
    /// Partition key.
    pub partition: String,
    /// Write units, 1 or more.
    pub units: usize,
}

/// Bytes that one answer takes for as long as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBytes {
    /// In the table.
    pub table: usize,
    /// In all indexes.
    pub indexes: usize,
}

/// All writes of one batch of images that have no result yet: each result, and once each slide and day that is told.
///
/// # Errors
/// [`StoreError::Item`] if a record does not fit the table.
pub fn writes_of_batch(records: &[Record]) -> Result<Vec<PartitionWrite>, StoreError> {
    let mut writes = Vec::new();
    let (mut slides, mut days) = (BTreeSet::new(), BTreeSet::new());
    for record in records {
        let item = item_of(record, None)?;
        writes.push(PartitionWrite {
            index: None,
            partition: key_text(&item, "pk"),
            units: units_of(size_of(&item, |_| true)),
        });
        for index in INDEXES {
            if let Some(bytes) = bytes_in_index(&item, index) {
                writes.push(PartitionWrite {
                    index: Some(index.name),
                    partition: key_text(&item, &index.partition_key()),
                    units: units_of(bytes),
                });
            }
        }
        slides.insert((&record.stage, &record.slide));
        days.insert((&record.stage, upload_day(record)));
    }
    for (stage, slide) in slides {
        let (listing, _) = slide_listing(stage, slide, DateTime::<Utc>::UNIX_EPOCH);
        let item = activity_pk(stage, slide);
        writes.push(PartitionWrite { index: None, partition: item, units: UNITS_OF_ACTIVITY });
        // Its place in the list of slides moves: the old entry is deleted, the new one put.
        let units = 2 * UNITS_OF_ACTIVITY;
        writes.push(PartitionWrite { index: Some(LISTING_INDEX), partition: listing, units });
    }
    for (stage, _) in days {
        writes.push(PartitionWrite { index: None, partition: days_pk(stage), units: UNITS_OF_ACTIVITY });
    }
    Ok(writes)
}

/// Bytes that the item of a record and its entries in the indexes take, without DynamoDB's overhead of 100 bytes each.
///
/// # Errors
/// [`StoreError::Item`] if the record does not fit the table.
pub fn stored_bytes(record: &Record) -> Result<StoredBytes, StoreError> {
    let item = item_of(record, None)?;
    let indexes = INDEXES.iter().filter_map(|index| bytes_in_index(&item, index)).sum();
    Ok(StoredBytes { table: size_of(&item, |_| true), indexes })
}

/// Bytes of an item in an index; `None` where it is not in it.
fn bytes_in_index(item: &Item, index: &Index) -> Option<usize> {
    let (partition, sort) = (index.partition_key(), index.sort_key());
    item.get(&partition)?;
    let is_key = |name: &str| name == "pk" || name == "sk" || name == partition || name == sort;
    Some(size_of(item, |name| {
        is_key(name) || index.projection == ProjectionType::All || index.attributes.contains(&name)
    }))
}

fn key_text(item: &Item, name: &str) -> String {
    item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default()
}

fn units_of(bytes: usize) -> usize {
    bytes.div_ceil(BYTES_OF_UNIT).max(1)
}

fn size_of(item: &Item, is_taken: impl Fn(&str) -> bool) -> usize {
    let taken = item.iter().filter(|(name, _)| is_taken(name));
    taken.map(|(name, value)| name.len() + size_of_value(value)).sum()
}

/// Bytes of a value by DynamoDB's rules for the sizes of items.
fn size_of_value(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::L(values) => 3 + values.iter().map(|value| 1 + size_of_value(value)).sum::<usize>(),
        AttributeValue::M(values) => {
            3 + values.iter().map(|(name, value)| 1 + name.len() + size_of_value(value)).sum::<usize>()
        }
        _ => 1,
    }
}
