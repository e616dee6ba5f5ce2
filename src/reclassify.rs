//! Answers anew exactly those images whose current result a given model made.
//!
//! An image that is answered anew leaves the index of the old model, so a run that was ended goes on where it was by
//! being started again. Each image is taken once a run, whatever becomes of it.

use serde::Serialize;

use crate::outcome::Outcome;
use crate::pipeline::Pipeline;
use giemsa_core::object::ObjectRef;
use giemsa_store::{AnsweredQuery, ImageKey, QueryError, SHARDS, TableReader};

/// Images of one step: a few rounds of downloads, and little to hold in memory.
const PAGE: i32 = 100;

/// An image that still has its old result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unanswered {
    /// The image.
    pub image: ImageKey,
    /// Why.
    pub reason: String,
}

/// What became of the images so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reclassified {
    /// Classified by the new model.
    pub classified: u64,
    /// Rejected under the new model.
    pub rejected: u64,
    /// Answered by another model meanwhile, or no image any more.
    pub skipped: u64,
    /// With their old result; another run takes them again.
    pub unanswered: Vec<Unanswered>,
}

impl Reclassified {
    /// Images that were taken.
    pub fn total(&self) -> u64 {
        self.classified + self.rejected + self.skipped + self.unanswered.len() as u64
    }
}

/// Answers all images of `query` by `pipeline`, which must serve the same stage and another model.
///
/// `progress` is called after each step with what became of the images so far.
///
/// # Errors
/// [`QueryError`] if the table cannot be read; what was answered stays answered.
pub async fn reclassify(
    table: &TableReader,
    pipeline: &Pipeline,
    query: &AnsweredQuery,
    mut progress: impl FnMut(&Reclassified),
) -> Result<Reclassified, QueryError> {
    let mut done = Reclassified::default();
    for shard in 0..SHARDS.len() {
        let mut after = None;
        loop {
            let (images, next) = table.answered_page(query, shard, after, PAGE).await?;
            answer_page(table, pipeline, query, images, &mut done).await?;
            progress(&done);
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(done)
}

async fn answer_page(
    table: &TableReader,
    pipeline: &Pipeline,
    query: &AnsweredQuery,
    images: Vec<ImageKey>,
    done: &mut Reclassified,
) -> Result<(), QueryError> {
    let mut objects = Vec::with_capacity(images.len());
    for image in images {
        // The index may lag behind the table by a moment.
        match table.current(&image, &query.stage).await? {
            Some((record, sequencer)) if record.model.sha256 == query.sha256 => objects.push(ObjectRef {
                version_id: record.image.version_id.clone(),
                etag: record.image.etag.clone(),
                size_bytes: record.image.size_bytes,
                event_time: record.image.uploaded_at,
                // With it, the order of this upload among those of its key stays as it is.
                sequencer,
                ..ObjectRef::new(image.bucket, image.key)
            }),
            _ => done.skipped += 1,
        }
    }
    let outcomes = pipeline.run(&objects, None).await.outcomes;
    for (object, outcome) in objects.into_iter().zip(outcomes) {
        match outcome {
            Outcome::Answered(answer) if answer.reject.is_some() => done.rejected += 1,
            Outcome::Answered(_) => done.classified += 1,
            Outcome::Skipped(_) => done.skipped += 1,
            Outcome::Retry(failure) => done.unanswered.push(Unanswered {
                image: ImageKey { bucket: object.bucket, key: object.key },
                reason: failure.to_string(),
            }),
        }
    }
    Ok(())
}
