//! Slides with recent activity.
//!
//! A slide with an image that was answered since the given time is included once the table's indexes show it.

use chrono::{DateTime, Utc};
use giemsa_store::{QueryError, SlideEntry, TableReader};

/// Slides that are asked for at once.
const SLIDES: usize = 50;

/// Names of the slides of a stage that were active since a time; of one slide alone, if it is named.
pub(super) async fn active_slides(
    table: &TableReader,
    stage: &str,
    slide: Option<&str>,
    since: DateTime<Utc>,
) -> Result<Vec<String>, QueryError> {
    let is_active = |entry: &SlideEntry| entry.last_activity_at >= since;
    if let Some(slide) = slide {
        let entry = table.slide_entry(stage, slide).await?;
        return Ok(entry.into_iter().filter(is_active).map(|entry| entry.slide).collect());
    }
    let (mut active, mut after) = (Vec::new(), None);
    loop {
        let page = table.slides(stage, None, after.as_deref(), SLIDES).await?;
        let is_last = page.slides.iter().any(|entry| !is_active(entry));
        active.extend(page.slides.into_iter().filter(is_active).map(|entry| entry.slide));
        after = page.next;
        if is_last || after.is_none() {
            return Ok(active);
        }
    }
}
