//! Slides: the list, one of them, its cells, and what of it is not answered.
//!
//! The figure of a slide is the store's, computed from its records.

pub(crate) mod summary;
pub(crate) mod unanswered;

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::Dashboard;
use crate::request::cursor::Filters;
use crate::request::parameters::{Cursor, Limit, Query, SLIDE_MEANING, Slide, Stage, shown};
use crate::request::problem::Problem;
use crate::slides::unanswered::{Unanswered, UnansweredImage};
use giemsa_core::slide::SlideFigure;
use giemsa_store::{Cell, SlideEntry};

/// Most slides whose uploads are counted by one request.
pub(crate) const MAX_COUNTED_SLIDES: usize = 25;

/// Slides whose uploads are counted at once.
const COUNTED_AT_ONCE: usize = 4;

/// Most cells of a page: compact rows, a whole slide of a day's work in one answer.
const MAX_CELLS: u32 = 2000;

/// Cells of a page unless it is asked otherwise.
const DEFAULT_CELLS: u32 = 1000;

/// Longest text that is searched for, characters.
pub(crate) const MAX_SEARCH_CHARS: usize = 200;

/// A figure as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FigureAnswer {
    #[serde(flatten)]
    figure: SlideFigure,
    parasitemia_percent: Option<f64>,
    parasitemia_interval_percent: Option<(f64, f64)>,
}

impl From<SlideFigure> for FigureAnswer {
    fn from(figure: SlideFigure) -> Self {
        Self {
            parasitemia_percent: figure.parasitemia_percent(),
            parasitemia_interval_percent: figure.parasitemia_interval_percent(),
            figure,
        }
    }
}

#[derive(Debug, Serialize)]
struct SlideRow {
    slide: String,
    last_activity_at: DateTime<Utc>,
    figure: FigureAnswer,
    computed_at: DateTime<Utc>,
}

impl From<SlideEntry> for SlideRow {
    fn from(entry: SlideEntry) -> Self {
        Self {
            slide: entry.slide,
            last_activity_at: entry.last_activity_at,
            figure: entry.figure.into(),
            computed_at: entry.computed_at,
        }
    }
}

#[derive(Debug, Serialize)]
struct SlidesAnswer {
    slides: Vec<SlideRow>,
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct CountedSlide {
    slide: String,
    uploads: u64,
    unanswered: u64,
}

#[derive(Debug, Serialize)]
struct CountedSlides {
    slides: Vec<CountedSlide>,
}

#[derive(Debug, Serialize)]
struct SlideAnswer {
    slide: String,
    stage: String,
    /// Absent as long as nothing of the slide is answered.
    last_activity_at: Option<DateTime<Utc>>,
    figure: FigureAnswer,
    computed_at: Option<DateTime<Utc>>,
    uploads: u64,
    unanswered: u64,
    unanswered_images: Vec<UnansweredImage>,
    /// Images that count and are not in the bucket any more.
    not_in_bucket: u64,
}

#[derive(Debug, Serialize)]
struct CellRow {
    #[serde(flatten)]
    cell: Cell,
    /// What the last reviewer said of this image, if that stands.
    verdict: Option<String>,
}

#[derive(Debug, Serialize)]
struct CellsAnswer {
    cells: Vec<CellRow>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct SlidesQuery {
    stage: Option<Stage>,
    /// Part of the name, whatever its case.
    search: Option<Search>,
    #[serde(default)]
    limit: Limit,
    cursor: Option<Cursor>,
}

/// A part of a slide's name.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Search(String);

impl TryFrom<String> for Search {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.chars().count() <= MAX_SEARCH_CHARS {
            true => Ok(Self(text)),
            false => Err(format!("at most {MAX_SEARCH_CHARS} characters")),
        }
    }
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct UnansweredQuery {
    stage: Option<Stage>,
    /// The folders, each by a parameter of its own.
    slide: Slides,
}

/// Names of 1 to [`MAX_COUNTED_SLIDES`] slides.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Vec<Slide>")]
pub(crate) struct Slides(Vec<Slide>);

impl TryFrom<Vec<Slide>> for Slides {
    type Error = String;

    fn try_from(slides: Vec<Slide>) -> Result<Self, String> {
        match (1..=MAX_COUNTED_SLIDES).contains(&slides.len()) {
            true => Ok(Self(slides)),
            false => Err(format!("1 to {MAX_COUNTED_SLIDES} of them, each {SLIDE_MEANING}")),
        }
    }
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct SlideQuery {
    stage: Option<Stage>,
    slide: Slide,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct CellsQuery {
    stage: Option<Stage>,
    slide: Slide,
    #[serde(default)]
    limit: Limit<DEFAULT_CELLS, MAX_CELLS>,
    cursor: Option<Cursor>,
}

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new()
        .route("/api/slides", get(slides))
        .route("/api/slides/unanswered", get(unanswered))
        .route("/api/slide", get(slide))
        .route("/api/slide/cells", get(cells))
}

async fn slides(
    State(dashboard): State<Arc<Dashboard>>,
    Query(query): Query<SlidesQuery>,
) -> Result<Json<SlidesAnswer>, Problem> {
    let stage = dashboard.stage("stage", query.stage)?;
    let search = query.search.as_ref().map(|Search(text)| text.as_str());
    let filters = Filters::of("slides", &[Some(&stage), search]);
    let after = filters.position(query.cursor)?;
    let page = dashboard.table.slides(&stage, search, after.as_deref(), query.limit.get()).await?;
    let next = page.next.map(|position| filters.cursor(&position));
    Ok(Json(SlidesAnswer { slides: page.slides.into_iter().map(SlideRow::from).collect(), next }))
}

async fn unanswered(
    State(dashboard): State<Arc<Dashboard>>,
    Query(UnansweredQuery { stage, slide: Slides(names) }): Query<UnansweredQuery>,
) -> Result<Json<CountedSlides>, Problem> {
    let stage = dashboard.stage("stage", stage)?;
    let counts: Vec<_> =
        names.iter().map(|Slide(slide)| dashboard.unanswered(&stage, slide, false)).collect();
    let counts: Vec<Unanswered> = stream::iter(counts).buffered(COUNTED_AT_ONCE).try_collect().await?;
    let row = |(Slide(slide), found): (Slide, Unanswered)| CountedSlide {
        slide,
        uploads: found.uploads,
        unanswered: found.unanswered,
    };
    let slides = names.into_iter().zip(counts).map(row).collect();
    Ok(Json(CountedSlides { slides }))
}

async fn slide(
    State(dashboard): State<Arc<Dashboard>>,
    Query(SlideQuery { stage, slide: Slide(slide) }): Query<SlideQuery>,
) -> Result<Json<SlideAnswer>, Problem> {
    let stage = dashboard.stage("stage", stage)?;
    let (entry, found) =
        tokio::join!(dashboard.table.slide_entry(&stage, &slide), dashboard.unanswered(&stage, &slide, true));
    let (entry, found) = (entry?, found?);
    if entry.is_none() && found.uploads == 0 {
        let detail = format!(
            "there is no slide {:?}: no image of it is answered by {stage}, and none is in the folder of this name of the \
             input bucket",
            shown(&slide)
        );
        return Err(Problem::not_found(detail));
    }
    let images = entry.as_ref().map_or(0, |entry| entry.figure.images());
    Ok(Json(SlideAnswer {
        slide,
        not_in_bucket: images.saturating_sub(found.counted),
        last_activity_at: entry.as_ref().map(|entry| entry.last_activity_at),
        computed_at: entry.as_ref().map(|entry| entry.computed_at),
        figure: entry.map(|entry| entry.figure).unwrap_or_default().into(),
        stage,
        uploads: found.uploads,
        unanswered: found.unanswered,
        unanswered_images: found.unanswered_images,
    }))
}

async fn cells(
    State(dashboard): State<Arc<Dashboard>>,
    Query(CellsQuery { stage, slide: Slide(slide), limit, cursor }): Query<CellsQuery>,
) -> Result<Json<CellsAnswer>, Problem> {
    let stage = dashboard.stage("stage", stage)?;
    let filters = Filters::of("cells", &[Some(&stage), Some(&slide)]);
    let after = filters.position(cursor)?;
    let (page, verdicts, withdrawals) = tokio::join!(
        dashboard.table.cells(&stage, &slide, after.as_deref(), limit.get()),
        dashboard.table.verdicts_of_slide(&slide),
        dashboard.table.withdrawals_of_slide(&slide),
    );
    let (page, verdicts, withdrawals) = (page?, verdicts?, withdrawals?);
    let next = page.next.map(|position| filters.cursor(&position));
    let row = |mut cell: Cell| {
        // A stage that answered after the withdrawal may not have noted it yet.
        let withdrawal = withdrawals.get(&cell.key);
        cell.withdrawn |= withdrawal.is_some_and(|withdrawal| withdrawal.is_of(&cell.object_version));
        let review = verdicts.get(&cell.key).filter(|review| review.is_of(&cell.object_version));
        CellRow { verdict: review.map(|review| review.label.clone()), cell }
    };
    Ok(Json(CellsAnswer { cells: page.cells.into_iter().map(row).collect(), next }))
}
