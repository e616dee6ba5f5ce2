//! Current results by slide, label, status, time, model and need of review, page by page.
//!
//! It never scans: of the filters one picks the index, and the rest are applied to what that gives. A page goes on
//! right after the last sort key that the one before looked at, so that results that arrive meanwhile neither hide
//! others nor bring them twice.

use std::collections::{BTreeMap, HashSet, VecDeque};

use aws_sdk_dynamodb::error::DisplayErrorContext;
use chrono::{DateTime, Utc};

use crate::results::UNKNOWN_DAY;
use crate::table::listing::query::{Order, ResultQuery};
use crate::table::lookups::item_key;
use crate::table::merged::{Merged, Range, Row, text_of};
use crate::table::reader::text;
use crate::table::reviews::verdicts::Review;
use crate::table::schema::{
    ARRIVAL_INDEX, LABEL_INDEX, LabelOrRejected, MODEL_INDEX, RECENT_INDEX, RESULT_SK, REVIEW_INDEX, SHARDS,
    SUSPECT_INDEX, VERDICT_SK, days_pk, image_pk, label_pk, model_index_pk, recent_pk, result_pk, review_pk,
    slide_pk, time_text, withdrawn_pk, withdrawn_slide_pk,
};
use crate::table::writer::Item;
use crate::{ImageKey, QueryError, TableReader, TableWriter};
use giemsa_core::record::{Record, Status};

/// Rows that one page looks at before it ends short, with a position to go on from.
const MAX_LOOKED_AT: usize = 1_000;

/// Least and most records that are read in one request.
const CHUNK: std::ops::RangeInclusive<usize> = 25..=50;

/// Days that one page looks at before it ends short: days without anything that fits cost a request for each shard.
const MAX_DAYS: usize = 32;

/// Days that are listed in one request.
const DAYS_A_REQUEST: i32 = 32;

/// One page of results, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultsPage {
    /// The results; fewer than asked for if little of what was looked at fits.
    pub results: Vec<Record>,
    /// Where the next page starts, if there may be one.
    pub next: Option<String>,
}

/// A row of which the record may fit.
struct Entry {
    sk: String,
    /// `None` if the row itself shows that it does not.
    image: Option<ImageKey>,
}

/// A current result, and the verdict in force on its image if that was asked for.
type Found = BTreeMap<ImageKey, (Record, Option<Review>)>;

impl TableReader {
    /// One page of the current results that fit a query, from after the position `after` on.
    ///
    /// # Errors
    /// [`QueryError::Unsupported`] if no index has the order that is asked for; [`QueryError`].
    pub async fn results(&self, query: &ResultQuery, after: Option<&str>) -> Result<ResultsPage, QueryError> {
        let mut page = ResultsPage { results: Vec::new(), next: None };
        if query.label.is_some() && query.status == Some(Status::Rejected) {
            // A rejected image has no label.
            return Ok(page);
        }
        let mut rows = self.rows(query, after)?;
        let mut last: Option<String> = after.map(str::to_owned);
        let mut looked_at = 0;
        let mut decided = Vec::new();
        let is_cut = 'page: loop {
            let wanted = (query.limit - page.results.len()).clamp(*CHUNK.start(), *CHUNK.end());
            let mut entries = Vec::with_capacity(wanted);
            while entries.len() < wanted
                && let Some(Row { sk, item }) = rows.next().await?
            {
                let image = query.may_fit(&item).then(|| self.image_key(&item)).transpose()?;
                entries.push(Entry { sk, image });
            }
            let is_end = entries.len() < wanted;
            looked_at += entries.len();
            let mut found = self.found(&entries, query).await?;
            for Entry { sk, image } in entries {
                if page.results.len() == query.limit {
                    break 'page true;
                }
                // Where another result is there by now, it has a row of its own, which may come later.
                if let Some(image) = image
                    && found.get(&image).is_some_and(|(record, _)| sk.ends_with(&record.result_id))
                    && let Some((record, verdict)) = found.remove(&image)
                {
                    if query.fits(&record, verdict.as_ref()) {
                        page.results.push(record);
                    } else if let Some(verdict) = verdict.filter(|_| rows.is_review_queue()) {
                        decided.push((record, verdict));
                    }
                }
                last = Some(sk);
            }
            if page.results.len() == query.limit {
                break !is_end && rows.next().await?.is_some() || rows.paused_after().is_some();
            }
            if is_end {
                let Some(day) = rows.paused_after() else { break false };
                last = Some(day.to_owned());
                break true;
            }
            if looked_at >= MAX_LOOKED_AT {
                break true;
            }
        };
        self.take_from_queue(&decided).await;
        page.next = last.filter(|_| is_cut);
        Ok(page)
    }

    /// One page of what needs a human look in a stage, or on one of its slides, and has no verdict: most suspicious first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn review_queue_page(
        &self,
        stage: &str,
        slide: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ResultsPage, QueryError> {
        let query = ResultQuery {
            slide: slide.map(str::to_owned),
            needs_review: Some(true),
            order: Order::Suspicion,
            limit,
            ..ResultQuery::of_stage(stage)
        };
        self.results(&query, after).await
    }

    /// The rows that hold all that fits `query`, in its order.
    fn rows<'a>(&'a self, query: &'a ResultQuery, after: Option<&str>) -> Result<Rows<'a>, QueryError> {
        let stage = query.stage.as_str();
        let shards = || SHARDS.char_indices().map(|(at, _)| &SHARDS[at..=at]);
        let list = |index, pks, range: Range| {
            Rows::List(Merged::new(self, index, pks, range.after(after), query.limit), index)
        };
        let times = Range { from: query.from.map(time_text), below: query.until.map(time_text) };
        let pk_of_slide = if query.withdrawn { withdrawn_slide_pk } else { slide_pk };
        match (query.order, &query.slide) {
            (Order::Suspicion, Some(slide)) => {
                Ok(list(SUSPECT_INDEX, vec![pk_of_slide(stage, slide)], Range::default()))
            }
            (Order::Suspicion, None) if query.needs_review == Some(true) && !query.withdrawn => {
                let pks = shards().map(|shard| review_pk(stage, shard)).collect();
                Ok(list(REVIEW_INDEX, pks, Range::default()))
            }
            (Order::Suspicion, None) => Err(QueryError::Unsupported {
                detail: "results are ordered by suspicion of one slide, or where needs_review is true and withdrawn is \
                         not; expected one of these filters, or the order newest"
                    .to_owned(),
            }),
            (Order::Newest, Some(slide)) => Ok(list(ARRIVAL_INDEX, vec![pk_of_slide(stage, slide)], times)),
            (Order::Newest, None) if query.withdrawn => {
                let pks = shards().map(|shard| withdrawn_pk(stage, shard)).collect();
                Ok(list(RECENT_INDEX, pks, times))
            }
            (Order::Newest, None) => {
                let which = match (&query.label, query.status) {
                    (Some(label), _) => Some(LabelOrRejected::Label(label.clone())),
                    (None, Some(Status::Rejected)) => Some(LabelOrRejected::Rejected),
                    (None, _) => None,
                };
                if let (None, Some(sha256)) = (&which, &query.model_sha256) {
                    let pks = shards().map(|shard| model_index_pk(stage, sha256, shard)).collect();
                    return Ok(list(MODEL_INDEX, pks, times));
                }
                let index = if which.is_some() { LABEL_INDEX } else { RECENT_INDEX };
                let pks_of = move |day: &str| {
                    let pk = |shard: &str| match &which {
                        Some(which) => label_pk(stage, which, day, shard),
                        None => recent_pk(stage, day, shard),
                    };
                    shards().map(pk).collect()
                };
                let days = DayList::new(self, query, after);
                Ok(Rows::ByDay(Box::new(ByDay {
                    reader: self,
                    index,
                    pks_of: Box::new(pks_of),
                    days,
                    of_day: None,
                    begun: 0,
                    day: None,
                    paused_after: None,
                    range: times.after(after),
                    limit: query.limit,
                })))
            }
        }
    }

    /// The current records of `entries`, with the verdict in force where the query depends on it.
    async fn found(&self, entries: &[Entry], query: &ResultQuery) -> Result<Found, QueryError> {
        let with_verdicts = query.needs_review.is_some();
        let mut wanted = Vec::new();
        for image in entries.iter().filter_map(|entry| entry.image.as_ref()) {
            wanted.push(item_key(result_pk(&query.stage, &image.bucket, &image.key), RESULT_SK));
            if with_verdicts {
                wanted.push(item_key(image_pk(&image.bucket, &image.key), VERDICT_SK));
            }
        }
        // The same image may have a row of before and one of now.
        let mut seen = HashSet::new();
        wanted.retain(|key| seen.insert(text_of(key, "pk").map(str::to_owned)));
        let mut verdicts = BTreeMap::new();
        let mut records = BTreeMap::new();
        for item in self.batch_get(wanted, &[]).await? {
            let image = self.image_key(&item)?;
            if text_of(&item, "sk") == Some(VERDICT_SK) {
                verdicts.insert(image, self.read_item(item)?);
            } else {
                records.insert(image, self.read_item::<Record>(item)?);
            }
        }
        Ok(records
            .into_iter()
            .map(|(image, record)| {
                let verdict = verdicts.remove(&image);
                (image, (record, verdict))
            })
            .collect())
    }

    /// Takes images out of the review queue that came back into it by a second delivery after a reviewer decided them.
    ///
    /// That it fails costs nothing but another try: nobody is shown them.
    async fn take_from_queue(&self, decided: &[(Record, Review)]) {
        let writer = TableWriter::new(self.dynamodb.clone(), &self.table);
        for (record, verdict) in decided {
            if let Err(error) = writer.leave_queue(record, verdict).await {
                tracing::debug!(key = %record.image.key, %error, "cannot remove a reviewed image from the review queue");
            }
        }
    }
}

/// Where rows come from, in order.
enum Rows<'a> {
    /// One list of an index.
    List(Merged<'a>, &'static str),
    /// A list for each day.
    ByDay(Box<ByDay<'a>>),
}

impl Rows<'_> {
    fn is_review_queue(&self) -> bool {
        matches!(self, Self::List(_, index) if *index == REVIEW_INDEX)
    }

    /// The last day that was looked at, if there may be more but enough days were looked at.
    fn paused_after(&self) -> Option<&str> {
        match self {
            Self::List(..) => None,
            Self::ByDay(days) => days.paused_after.as_deref(),
        }
    }

    async fn next(&mut self) -> Result<Option<Row>, QueryError> {
        match self {
            Self::List(list, _) => list.next().await,
            Self::ByDay(days) => days.next().await,
        }
    }
}

/// The partitions of a day, by its name.
type PartitionsOf<'a> = Box<dyn Fn(&str) -> Vec<String> + Send + Sync + 'a>;

/// A list for each day that has results, newest day first.
struct ByDay<'a> {
    reader: &'a TableReader,
    index: &'static str,
    /// The partitions of a day.
    pks_of: PartitionsOf<'a>,
    days: DayList<'a>,
    of_day: Option<Merged<'a>>,
    /// Days that were begun, and the last of them.
    begun: usize,
    day: Option<String>,
    /// Where it has stopped because it has looked at enough days.
    paused_after: Option<String>,
    range: Range,
    limit: usize,
}

impl ByDay<'_> {
    async fn next(&mut self) -> Result<Option<Row>, QueryError> {
        loop {
            if let Some(of_day) = &mut self.of_day
                && let Some(row) = of_day.next().await?
            {
                return Ok(Some(row));
            }
            if self.begun == MAX_DAYS {
                // A day sorts before all its times, so that a page after it has none of them.
                self.paused_after = self.day.clone();
                return Ok(None);
            }
            let Some(day) = self.days.next().await? else { return Ok(None) };
            let (pks, range) = ((self.pks_of)(&day), self.range.clone());
            self.begun += 1;
            self.day = Some(day);
            self.of_day = Some(Merged::new(self.reader, self.index, pks, range, self.limit));
        }
    }
}

/// The days of a stage that have results, newest first.
struct DayList<'a> {
    reader: &'a TableReader,
    stage: &'a str,
    oldest: String,
    newest: String,
    listed: VecDeque<String>,
    /// Where the list goes on; `None` at its end.
    next: Option<Option<Item>>,
}

impl<'a> DayList<'a> {
    fn new(reader: &'a TableReader, query: &'a ResultQuery, after: Option<&str>) -> Self {
        let day = |time: DateTime<Utc>| time.format("%Y-%m-%d").to_string();
        // The sort key begins with the time of upload, or says that it is unknown, which sorts after all times.
        let of_position = after.map(|sk| sk.split(['T', '#']).next().unwrap_or_default().to_owned());
        let until = query.until.map(day);
        let newest = of_position.into_iter().chain(until).min().unwrap_or_else(|| UNKNOWN_DAY.to_owned());
        let oldest = query.from.map_or_else(String::new, day);
        // A sort key is never empty, and neither is what it is compared with.
        let oldest = if oldest.is_empty() { "0".to_owned() } else { oldest };
        Self { reader, stage: &query.stage, oldest, newest, listed: VecDeque::new(), next: Some(None) }
    }

    async fn next(&mut self) -> Result<Option<String>, QueryError> {
        while self.listed.is_empty()
            && let Some(start) = self.next.take()
            && self.oldest <= self.newest
        {
            let query = self.reader.query(None, "pk = :pk AND sk BETWEEN :oldest AND :newest");
            let answer = query
                .projection_expression("pk, sk")
                .consistent_read(true)
                .expression_attribute_values(":pk", text(days_pk(self.stage)))
                .expression_attribute_values(":oldest", text(self.oldest.clone()))
                .expression_attribute_values(":newest", text(self.newest.clone()))
                .scan_index_forward(false)
                .limit(DAYS_A_REQUEST)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| self.reader.failed(DisplayErrorContext(&error).to_string()))?;
            let items = answer.items.unwrap_or_default();
            self.listed.extend(items.iter().filter_map(|item| text_of(item, "sk")).map(str::to_owned));
            self.next = answer.last_evaluated_key.map(Some);
        }
        Ok(self.listed.pop_front())
    }
}
