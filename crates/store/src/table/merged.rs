//! Rows of several partitions of an index as one list, the largest sort key first.
//!
//! It never asks for a partition without a limit: the embedded DynamoDB reads all of it then. Rows come in strictly
//! descending order of sort key, from where the list starts, whatever is written meanwhile.

use std::collections::{HashMap, VecDeque};

use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::{StreamExt, TryStreamExt, stream};

use crate::table::reader::text;
use crate::table::writer::Item;
use crate::{QueryError, TableReader};

/// Partitions that are asked at once.
const CONCURRENCY: usize = 8;

/// Most rows of one request; a full record has one to two kilobytes, and a request at most a megabyte.
pub(crate) const MAX_ROWS: usize = 500;

/// Most rows of one request that only counts; they have a few hundred bytes each.
const MAX_COUNTED_ROWS: usize = 2_000;

/// Sort keys that a list is confined to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Range {
    /// The least, inclusive.
    pub(crate) from: Option<String>,
    /// What all are below.
    pub(crate) below: Option<String>,
}

impl Range {
    /// Continues after `position`, the last sort key that was looked at.
    pub(crate) fn after(mut self, position: Option<&str>) -> Self {
        if let Some(position) = position
            && self.below.as_deref().is_none_or(|below| position < below)
        {
            self.below = Some(position.to_owned());
        }
        self
    }
}

/// One row of an index.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) sk: String,
    pub(crate) item: Item,
}

/// A list that is read page by page.
#[derive(Debug)]
pub(crate) struct Merged<'a> {
    reader: &'a TableReader,
    index: &'static str,
    range: Range,
    rows_a_request: usize,
    partitions: Vec<Partition>,
}

#[derive(Debug)]
struct Partition {
    pk: String,
    rows: VecDeque<Row>,
    next: Start,
}

#[derive(Debug, Clone)]
enum Start {
    First,
    After(Item),
    Ended,
}

impl<'a> Merged<'a> {
    /// A list of the partitions `pks` of `index`; `expected` rows are likely to be wanted of it.
    pub(crate) fn new(
        reader: &'a TableReader,
        index: &'static str,
        pks: Vec<String>,
        range: Range,
        expected: usize,
    ) -> Self {
        // Each partition has about its share; a little more saves most of them a second request.
        let share = expected.div_ceil(pks.len().max(1));
        let slack = if pks.len() > 1 { share / 2 + 2 } else { 1 };
        let partitions =
            pks.into_iter().map(|pk| Partition { pk, rows: VecDeque::new(), next: Start::First }).collect();
        let rows_a_request = (share + slack).clamp(1, MAX_ROWS);
        Self { reader, index, range, rows_a_request, partitions }
    }

    /// The next row, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Row>, QueryError> {
        self.refill().await?;
        let largest = self
            .partitions
            .iter()
            .enumerate()
            .filter_map(|(index, partition)| Some((partition.rows.front()?.sk.as_str(), index)))
            .max();
        let Some((_, index)) = largest else { return Ok(None) };
        Ok(self.partitions[index].rows.pop_front())
    }

    /// Asks the partitions of which no row is known, until each has one or has ended.
    async fn refill(&mut self) -> Result<(), QueryError> {
        loop {
            let is_wanted = |p: &Partition| p.rows.is_empty() && !matches!(p.next, Start::Ended);
            let wanted: Vec<(usize, String, Start)> = self
                .partitions
                .iter()
                .enumerate()
                .filter(|(_, partition)| is_wanted(partition))
                .map(|(index, partition)| (index, partition.pk.clone(), partition.next.clone()))
                .collect();
            if wanted.is_empty() {
                return Ok(());
            }
            let this = &*self;
            let pages: Vec<(usize, VecDeque<Row>, Start)> =
                stream::iter(wanted.into_iter().map(|(index, pk, start)| async move {
                    this.page(pk, start).await.map(|(rows, next)| (index, rows, next))
                }))
                .buffer_unordered(CONCURRENCY)
                .try_collect()
                .await?;
            let is_first = self.partitions.iter().all(|p| matches!(p.next, Start::First));
            for (index, rows, next) in pages {
                self.partitions[index].rows = rows;
                self.partitions[index].next = next;
            }
            if !is_first {
                self.rows_a_request = (self.rows_a_request * 2).min(MAX_ROWS);
            }
        }
    }

    async fn page(&self, pk: String, start: Start) -> Result<(VecDeque<Row>, Start), QueryError> {
        let start = match start {
            Start::First => None,
            Start::After(key) => Some(key),
            Start::Ended => return Ok((VecDeque::new(), Start::Ended)),
        };
        let (pk_name, sk_name) = (format!("{}_pk", self.index), format!("{}_sk", self.index));
        let Range { from, below } = &self.range;
        let condition = match (from, below) {
            (None, None) => "#pk = :pk",
            (Some(_), None) => "#pk = :pk AND #sk >= :from",
            (None, Some(_)) => "#pk = :pk AND #sk < :below",
            // The upper end is inclusive there, and dropped below.
            (Some(from), Some(below)) if from <= below => "#pk = :pk AND #sk BETWEEN :from AND :below",
            (Some(_), Some(_)) => return Ok((VecDeque::new(), Start::Ended)),
        };
        let mut query = self
            .reader
            .query(Some(self.index), condition)
            .expression_attribute_names("#pk", pk_name)
            .expression_attribute_values(":pk", text(pk))
            .scan_index_forward(false)
            .limit(i32::try_from(self.rows_a_request).unwrap_or(i32::MAX))
            .set_exclusive_start_key(start);
        if from.is_some() || below.is_some() {
            query = query.expression_attribute_names("#sk", &sk_name);
        }
        for (name, bound) in [(":from", from), (":below", below)] {
            if let Some(bound) = bound {
                query = query.expression_attribute_values(name, text(bound.clone()));
            }
        }
        let answer =
            query.send().await.map_err(|e| self.reader.failed(DisplayErrorContext(&e).to_string()))?;
        let next = answer.last_evaluated_key.map_or(Start::Ended, Start::After);
        let rows = answer.items.unwrap_or_default().into_iter().filter_map(|item| {
            let sk = text_of(&item, &sk_name)?.to_owned();
            below.as_ref().is_none_or(|below| sk < *below).then_some(Row { sk, item })
        });
        Ok((rows.collect(), next))
    }
}

/// A text attribute of an item.
pub(crate) fn text_of<'a>(item: &'a HashMap<String, AttributeValue>, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// A truth of an item.
pub(crate) fn truth_of(item: &Item, name: &str) -> Option<bool> {
    item.get(name)?.as_bool().ok().copied()
}

impl TableReader {
    /// Hands every row of one partition to `count`, in no order, with no more than `attributes`.
    ///
    /// For what is added up: a row is read as cheaply as can be.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) async fn count_rows(
        &self,
        index: &'static str,
        pk: String,
        attributes: &[&str],
        mut count: impl FnMut(&Item),
    ) -> Result<(), QueryError> {
        let names: Vec<String> = (0..attributes.len()).map(|number| format!("#a{number}")).collect();
        let mut start = None;
        loop {
            let mut query = self
                .query(Some(index), "#pk = :pk")
                .expression_attribute_names("#pk", format!("{index}_pk"))
                .expression_attribute_values(":pk", text(pk.clone()))
                .projection_expression(names.join(", "))
                .limit(i32::try_from(MAX_COUNTED_ROWS).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start);
            for (name, attribute) in names.iter().zip(attributes) {
                query = query.expression_attribute_names(name, *attribute);
            }
            let answer = query.send().await.map_err(|e| self.failed(DisplayErrorContext(&e).to_string()))?;
            answer.items().iter().for_each(&mut count);
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(());
            }
        }
    }
}
