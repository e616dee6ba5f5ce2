//! Tells the slides and days of a batch that images of them were answered.
//!
//! It never counts anything: it says that what was counted before is old. Invariant: an image is acknowledged only when its
//! slide and its days know of it, or else it is handed back and answered again, which changes nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use chrono::{DateTime, Utc};
use futures::future::{BoxFuture, FutureExt};
use futures::{StreamExt, stream};
use tokio::time::timeout_at;

use crate::object::{ObjectRef, slide_of_key};
use crate::outcome::{Failure, Outcome};
use crate::store::TableWriter;

/// Slides and days that are told at once.
const CONCURRENCY: usize = 16;

/// Tells slides and days of one stage.
#[derive(Debug)]
pub struct ActivityKeeper {
    table: TableWriter,
    stage: String,
}

/// What is told, once for a batch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Slide(String),
    /// `YYYY-MM-DD`, or `unknown`.
    Day(String),
}

impl ActivityKeeper {
    /// Writes to `table`.
    pub fn new(table: TableWriter, stage: impl Into<String>) -> Self {
        Self { table, stage: stage.into() }
    }

    /// Tells all slides and days of which `outcomes` of `objects` are answers. Where that fails, or is not done by `stop_at`,
    /// the outcomes become [`Outcome::Retry`].
    pub async fn tell(&self, objects: &[ObjectRef], outcomes: &mut [Outcome], stop_at: Option<Instant>) {
        let mut places: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
        for (index, (object, outcome)) in objects.iter().zip(&*outcomes).enumerate() {
            if let Outcome::Answered(answer) = outcome
                && answer.is_current
            {
                let days = answer.days.iter().cloned().map(Place::Day);
                for place in days.chain([Place::Slide(slide_of_key(&object.key))]) {
                    places.entry(place).or_default().push(index);
                }
            }
        }
        let now = Utc::now();
        let writes = places.keys().map(|place| self.tell_one(place, now, stop_at));
        // Boxed, because the compiler loses the lifetimes of a stream of closures otherwise.
        let writes: Vec<BoxFuture<'_, Result<(), String>>> = writes.map(FutureExt::boxed).collect();
        let told: Vec<Result<(), String>> = stream::iter(writes).buffered(CONCURRENCY).collect().await;
        for ((place, images), told) in places.iter().zip(told) {
            let Err(detail) = told else { continue };
            let place = match place {
                Place::Slide(slide) => format!("slide {slide:?}"),
                Place::Day(day) => format!("day {day}"),
            };
            tracing::warn!(images = images.len(), %place, %detail, "not told of its answers, images are handed back");
            for index in images {
                let failure = Failure::ActivityNotNoted { place: place.clone(), detail: detail.clone() };
                outcomes[*index] = Outcome::Retry(failure);
            }
        }
    }

    async fn tell_one(
        &self,
        place: &Place,
        now: DateTime<Utc>,
        stop_at: Option<Instant>,
    ) -> Result<(), String> {
        let write = async {
            match place {
                Place::Slide(slide) => self.table.touch_slide(&self.stage, slide, now).await,
                Place::Day(day) => self.table.touch_day(&self.stage, day, now).await,
            }
        };
        let written = match stop_at {
            Some(stop_at) => timeout_at(stop_at.into(), write)
                .await
                .map_err(|_| "no time is left in this invocation".to_owned())?,
            None => write.await,
        };
        written.map_err(|error| error.to_string())
    }
}
