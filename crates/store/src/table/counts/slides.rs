//! Slides: which there are, when something last happened on them, and what their images add up to.
//!
//! A figure is added up from the slide's records; the one that is kept beside the last activity stands only while
//! nothing has changed since it was begun.

use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::table::merged::{Merged, Range, Row, text_of, truth_of};
use crate::table::reader::text;
use crate::table::schema::{
    ACTIVITY_SK, LISTING_INDEX, SHARDS, SUSPECT_INDEX, WITHDRAWN_PK_START, activity_pk, slide_listing,
    slide_pk, slides_pk, time_text, withdrawn_slide_pk,
};
use crate::table::writer::{Item, number, suspicion_and_content, suspicion_start};
use crate::{QueryError, StoreError, TableReader, TableWriter, Withdrawal};
use giemsa_core::object::{slide_name, slide_of_key};
use giemsa_core::record::{Record, Status};
use giemsa_core::slide::{Counted, SlideFigure, Tally};

/// Figures that are added up at once.
const FIGURES_AT_ONCE: usize = 8;

/// Slides that are looked for at once below a prefix.
const SLIDES_AT_ONCE: usize = 500;

/// Images of the same bytes that are named at most.
const MAX_SAME_CONTENT: i32 = 100;

/// Slides that one page looks at for a search before it ends short.
const MAX_SEARCHED: usize = 5_000;

/// How long an index may lag behind the table; a figure that was begun sooner after a change may lack it.
pub(crate) const INDEX_LAG: TimeDelta = TimeDelta::seconds(5);

/// Images of a slide that may be counted anew each second while they change.
const COUNTED_PER_SECOND: u64 = 500;

/// Longest time for which the figure of a slide that changes all the time is not counted anew.
const MAX_FIGURE_AGE: TimeDelta = TimeDelta::seconds(60);

/// One slide in one stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlideEntry {
    /// The stage.
    pub stage: String,
    /// The folder part of its images' keys.
    pub slide: String,
    /// When an image of it was last answered.
    pub last_activity_at: DateTime<Utc>,
    /// What its images add up to.
    pub figure: SlideFigure,
    /// When that was added up; a large slide that changes all the time is counted about once a minute.
    pub computed_at: DateTime<Utc>,
}

/// One page of slides, last activity first.
#[derive(Debug, Clone, PartialEq)]
pub struct SlidesPage {
    /// The slides.
    pub slides: Vec<SlideEntry>,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
}

/// One image of a slide, as little of it as a gallery needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// Object key.
    pub key: String,
    /// Name of the stored result.
    pub result_id: String,
    /// Classified or rejected.
    pub status: Status,
    /// The most probable label.
    pub label: Option<String>,
    /// Probability of the label, 0 to 1.
    pub confidence: Option<f64>,
    /// How much a human should see this first, 0 to 1; a rejected image counts as a toss-up, 0.5.
    pub suspicion: f64,
    /// Whether the label counts as positive.
    pub positive: Option<bool>,
    /// Whether the image is like nothing the model was trained on.
    pub outlier: Option<bool>,
    /// Whether the model's answer asks for a human look.
    pub needs_review: bool,
    /// When it was uploaded.
    pub uploaded_at: Option<DateTime<Utc>>,
    /// The beginning of the file's SHA-256: images of a slide that have the same are the same bytes.
    pub content: Option<String>,
    /// Whether a person took it out of what counts.
    pub withdrawn: bool,
    /// Version, or else ETag, of the image; tells whether a verdict is of it.
    #[serde(skip_serializing)]
    pub object_version: String,
}

/// One page of a slide's images, most suspicious first.
#[derive(Debug, Clone, PartialEq)]
pub struct CellsPage {
    /// The images.
    pub cells: Vec<Cell>,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
}

/// A row of the index `suspect`, without its keys.
#[derive(Debug, Deserialize)]
struct SuspectRow {
    status: Status,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    confidence: Option<f64>,
    #[serde(default)]
    positive: Option<bool>,
    #[serde(default)]
    outlier: Option<bool>,
    needs_review: bool,
    result_id: String,
    #[serde(default)]
    object_version: String,
    #[serde(default)]
    uploaded_ms: i64,
}

/// The item of a slide's activity.
#[derive(Debug, Clone, Deserialize)]
struct Activity {
    stage: String,
    slide: String,
    last_activity_at: DateTime<Utc>,
    /// When anything changed that its figure is made of.
    changed_at: DateTime<Utc>,
    changes: u64,
    #[serde(default)]
    figure: Option<SlideFigure>,
    /// Changes when the figure was begun.
    #[serde(default)]
    figure_changes: u64,
    #[serde(default)]
    computed_at: Option<DateTime<Utc>>,
}

impl Activity {
    /// The figure that is kept, if it may be answered at `now`.
    fn kept(&self, now: DateTime<Utc>) -> Option<(SlideFigure, DateTime<Utc>)> {
        let (figure, computed_at) = (self.figure?, self.computed_at?);
        let is_of_now = self.figure_changes == self.changes && computed_at > self.changed_at + INDEX_LAG;
        let seconds = (figure.images() / COUNTED_PER_SECOND).try_into().unwrap_or(i64::MAX);
        let patience = TimeDelta::seconds(seconds.min(MAX_FIGURE_AGE.num_seconds()));
        (is_of_now || now - computed_at < patience).then_some((figure, computed_at))
    }
}

impl TableWriter {
    /// Notes that images of a slide were answered, after their records are stored; what figure is kept of it is old now.
    ///
    /// # Errors
    /// [`StoreError`] if the table does not take it.
    pub async fn invalidate_slide(
        &self,
        stage: &str,
        slide: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let (listing_pk, listing_sk) = slide_listing(stage, slide, now);
        let request = self.dynamodb.update_item().table_name(&self.table);
        let sent = request
            .key("pk", text(activity_pk(stage, slide)))
            .key("sk", text(ACTIVITY_SK.to_owned()))
            .update_expression(
                "SET stage = :stage, slide = :slide, last_activity_at = :now, changed_at = :now, \
                 listing_pk = :listing_pk, listing_sk = :listing_sk ADD changes :one",
            )
            .expression_attribute_values(":stage", text(stage.to_owned()))
            .expression_attribute_values(":slide", text(slide.to_owned()))
            .expression_attribute_values(":now", text(time_text(now)))
            .expression_attribute_values(":listing_pk", text(listing_pk))
            .expression_attribute_values(":listing_sk", text(listing_sk))
            .expression_attribute_values(":one", number(1))
            .send()
            .await;
        sent.map(drop).map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))
    }
}

impl TableReader {
    /// One page of a stage's slides, last activity first, whose names have `search` in them in any case.
    ///
    /// A slide on which something happens while pages are read goes to the front. A search that finds little ends short,
    /// with a `next`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn slides(
        &self,
        stage: &str,
        search: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<SlidesPage, QueryError> {
        let (found, next) = self.activities(stage, search, after, limit).await?;
        let entries = found.into_iter().map(|activity| self.entry(activity));
        let slides = stream::iter(entries).buffered(FIGURES_AT_ONCE).try_collect().await?;
        Ok(SlidesPage { slides, next })
    }

    /// The names of the slides that images with keys beginning with `prefix` may be on, without their figures.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn slides_below(&self, stage: &str, prefix: &str) -> Result<Vec<String>, QueryError> {
        let folder = slide_of_key(prefix);
        let (mut slides, mut after) = (Vec::new(), None);
        loop {
            let page = self.activities(stage, Some(&folder), after.as_deref(), SLIDES_AT_ONCE).await?;
            let names = page.0.into_iter().map(|activity| activity.slide);
            let is_below = |slide: &String| {
                slide.strip_prefix(&folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            slides.extend(names.filter(|slide| folder.is_empty() || is_below(slide)));
            after = page.1;
            if after.is_none() {
                return Ok(slides);
            }
        }
    }

    /// One page of the items of a stage's slides, last activity first, and where the next one starts.
    async fn activities(
        &self,
        stage: &str,
        search: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Activity>, Option<String>), QueryError> {
        let search =
            search.map(|search| slide_name(search).to_lowercase()).filter(|search| !search.is_empty());
        let pks = SHARDS.chars().map(|shard| slides_pk(stage, shard.encode_utf8(&mut [0; 4]))).collect();
        let expected = if search.is_some() { 10 * limit } else { limit };
        let mut rows = Merged::new(self, LISTING_INDEX, pks, Range::default().after(after), expected);
        let (mut found, mut next, mut last, mut seen) = (Vec::new(), None, None, 0);
        while let Some(Row { sk, item }) = rows.next().await? {
            if found.len() == limit || seen == MAX_SEARCHED {
                next = last;
                break;
            }
            seen += 1;
            last = Some(sk);
            let name = text_of(&item, "slide").unwrap_or_default();
            if search.as_ref().is_none_or(|search| name.to_lowercase().contains(search)) {
                found.push(self.read_item::<Activity>(item)?);
            }
        }
        Ok((found, next))
    }

    /// One slide, or `None` if none of its images was answered in the stage.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn slide_entry(&self, stage: &str, slide: &str) -> Result<Option<SlideEntry>, QueryError> {
        let request = self.dynamodb.get_item().table_name(&self.table).consistent_read(true);
        let found = request
            .key("pk", text(activity_pk(stage, slide)))
            .key("sk", text(ACTIVITY_SK.to_owned()))
            .send()
            .await
            .map_err(|error| self.failed(DisplayErrorContext(&error).to_string()))?;
        match found.item {
            Some(item) => Ok(Some(self.entry(self.read_item(item)?).await?)),
            None => Ok(None),
        }
    }

    /// Other images of the slide of `record` that are the same bytes and have the same answer, by key; what is withdrawn
    /// is not among them.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn same_content(&self, record: &Record) -> Result<Vec<String>, QueryError> {
        if record.content().is_none() || record.status == Status::Rejected {
            return Ok(Vec::new());
        }
        let query = self
            .query(Some(SUSPECT_INDEX), "suspect_pk = :pk AND begins_with(suspect_sk, :start)")
            .expression_attribute_values(":pk", text(slide_pk(&record.stage, &record.slide)))
            .expression_attribute_values(":start", text(suspicion_start(record)))
            .limit(MAX_SAME_CONTENT);
        let found = query.send().await.map_err(|e| self.failed(DisplayErrorContext(&e).to_string()))?;
        let keys = found.items().iter().map(|item| Ok(self.image_key(item)?.key));
        let mut keys: Vec<String> = keys.collect::<Result<_, QueryError>>()?;
        keys.retain(|key| *key != record.image.key);
        Ok(keys)
    }

    /// One page of a slide's images, most suspicious first; withdrawn ones are among them.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn cells(
        &self,
        stage: &str,
        slide: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<CellsPage, QueryError> {
        let range = Range::default().after(after);
        let pks = vec![slide_pk(stage, slide), withdrawn_slide_pk(stage, slide)];
        let mut rows = Merged::new(self, SUSPECT_INDEX, pks, range, limit);
        let mut page = CellsPage { cells: Vec::new(), next: None };
        let mut last = String::new();
        while let Some(Row { sk, item }) = rows.next().await? {
            if page.cells.len() == limit {
                page.next = Some(last);
                break;
            }
            page.cells.push(self.cell(&sk, item)?);
            last = sk;
        }
        Ok(page)
    }

    /// The entry of a slide, with its figure as it is kept or else added up now and kept.
    async fn entry(&self, activity: Activity) -> Result<SlideEntry, QueryError> {
        let now = Utc::now().trunc_subsecs(3);
        let (figure, computed_at) = match activity.kept(now) {
            Some(kept) => kept,
            None => {
                let figure = self.figure(&activity.stage, &activity.slide).await?;
                self.keep_figure(&activity, &figure, now).await?;
                (figure, now)
            }
        };
        let Activity { stage, slide, last_activity_at, .. } = activity;
        Ok(SlideEntry { stage, slide, last_activity_at, figure, computed_at })
    }

    async fn figure(&self, stage: &str, slide: &str) -> Result<SlideFigure, QueryError> {
        let verdicts = self.verdicts_of_slide(slide).await?;
        let withdrawals = self.withdrawals_of_slide(slide).await?;
        // Which image a row is of matters only where people said something.
        let is_untouched = verdicts.is_empty() && withdrawals.is_empty();
        let of_image: &[&str] = if is_untouched { &[] } else { &["pk", "object_version"] };
        let attributes =
            [&["status", "label", "positive", "outlier", "needs_review", "suspect_sk"], of_image].concat();
        let mut tally = Tally::default();
        let mut late = Vec::new();
        let count = |row: &Item| {
            let key = self.image_key(row).map(|image| image.key).unwrap_or_default();
            let verdict = verdicts.get(&key);
            let version = text_of(row, "object_version").unwrap_or_default();
            if let Some(withdrawal) = withdrawals.get(&key).filter(|withdrawal| withdrawal.is_of(version)) {
                tally.add_withdrawn();
                late.push(withdrawal);
                return;
            }
            let is_rejected = text_of(row, "status") == Some(Status::Rejected.as_str());
            tally.add(Counted {
                status: if is_rejected { Status::Rejected } else { Status::Classified },
                label: text_of(row, "label"),
                positive: truth_of(row, "positive"),
                outlier: truth_of(row, "outlier"),
                needs_review: truth_of(row, "needs_review") == Some(true),
                verdict: verdict
                    .filter(|verdict| verdict.is_of(version))
                    .map(|verdict| verdict.label.as_str()),
                content: text_of(row, "suspect_sk").and_then(|sk| suspicion_and_content(sk).1),
            });
        };
        self.count_rows(SUSPECT_INDEX, slide_pk(stage, slide), &attributes, count).await?;
        let withdrawn_pk = withdrawn_slide_pk(stage, slide);
        self.count_rows(SUSPECT_INDEX, withdrawn_pk, &["status"], |_| tally.add_withdrawn()).await?;
        self.withdraw_late(stage, &late).await;
        Ok(tally.figure())
    }

    /// Takes images out of all indexes that this stage answered for the first time after they were withdrawn.
    ///
    /// That it fails costs the figure nothing; the next one tries again.
    async fn withdraw_late(&self, stage: &str, late: &[&Withdrawal]) {
        let writer = TableWriter::new(self.dynamodb.clone(), &self.table);
        for withdrawal in late {
            if let Err(error) = writer.enforce(withdrawal, stage).await {
                tracing::debug!(key = %withdrawal.key, %error, "cannot remove a withdrawn image from the lists");
            }
        }
    }

    /// Keeps a figure beside the changes it was begun at, unless there are more by now.
    async fn keep_figure(
        &self,
        activity: &Activity,
        figure: &SlideFigure,
        begun_at: DateTime<Utc>,
    ) -> Result<(), QueryError> {
        let figure: Item = serde_dynamo::to_item(figure).map_err(|e| self.failed(e.to_string()))?;
        let request = self.dynamodb.update_item().table_name(&self.table);
        let sent = request
            .key("pk", text(activity_pk(&activity.stage, &activity.slide)))
            .key("sk", text(ACTIVITY_SK.to_owned()))
            .condition_expression("changes = :changes")
            .update_expression("SET figure = :figure, figure_changes = :changes, computed_at = :now")
            .expression_attribute_values(":changes", number(activity.changes))
            .expression_attribute_values(":figure", aws_sdk_dynamodb::types::AttributeValue::M(figure))
            .expression_attribute_values(":now", text(time_text(begun_at)))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.as_service_error(),
                    Some(UpdateItemError::ConditionalCheckFailedException(_))
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(self.failed(DisplayErrorContext(&error).to_string())),
        }
    }

    fn cell(&self, sk: &str, item: Item) -> Result<Cell, QueryError> {
        let key = self.image_key(&item)?.key;
        let withdrawn = text_of(&item, "suspect_pk").is_some_and(|pk| pk.starts_with(WITHDRAWN_PK_START));
        let row: SuspectRow = self.read_item(item)?;
        let (suspicion, content) = suspicion_and_content(sk);
        let uploaded_at = (row.uploaded_ms != 0).then(|| DateTime::from_timestamp_millis(row.uploaded_ms));
        Ok(Cell {
            key,
            result_id: row.result_id,
            status: row.status,
            label: row.label,
            confidence: row.confidence,
            suspicion,
            positive: row.positive,
            outlier: row.outlier,
            needs_review: row.needs_review,
            uploaded_at: uploaded_at.flatten(),
            content: content.map(str::to_owned),
            withdrawn,
            object_version: row.object_version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_figure_stands_while_nothing_changes_and_a_large_one_for_a_moment() {
        let at = |seconds: i64| DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000_000 + seconds);
        let activity = |images: u64, figure_changes: u64, computed_at: i64| Activity {
            stage: "prod".into(),
            slide: "s".into(),
            last_activity_at: at(0),
            changed_at: at(0),
            changes: 7,
            figure: Some(SlideFigure { cells: images, ..SlideFigure::default() }),
            figure_changes,
            computed_at: Some(at(computed_at)),
        };
        // Images, changes that it was begun at, second of that, second now, whether it stands.
        let cases = [
            (10, 7, 6, 1_000, true),
            // The index may have lacked the last answers.
            (10, 7, 5, 1_000, false),
            (10, 6, 6, 6, false),
            (499, 6, 6, 6, false),
            (5_000, 6, 6, 15, true),
            (5_000, 6, 6, 16, false),
            (u64::MAX, 6, 6, 65, true),
            (u64::MAX, 6, 6, 66, false),
        ];
        for (images, figure_changes, computed_at, now, stands) in cases {
            let kept = activity(images, figure_changes, computed_at).kept(at(now));
            assert_eq!(kept.is_some(), stands, "{images} {figure_changes} {computed_at} {now}");
        }
        let none = Activity { figure: None, ..activity(10, 7, 6) };
        assert_eq!(none.kept(at(1_000)), None);
    }
}
