//! Notes of why images are not answered yet, kept in the table for those who look after them.
//!
//! It never decides what becomes of an image, and costs nothing where nothing fails: only a second delivery can have a
//! note to take away. Keeping notes ends before the invocation does.

use std::time::{Duration, Instant};

use chrono::Utc;
use futures::future::{BoxFuture, FutureExt};
use futures::{StreamExt, stream};
use tokio::time::timeout;

use crate::outcome::{Failure, Outcome};
use giemsa_core::object::ObjectRef;
use giemsa_store::{NotedUpload, StoreError, TableWriter};

/// Longest time that the notes of a batch may take.
const MAX_DURATION: Duration = Duration::from_secs(5);

/// Notes that are written at once.
const CONCURRENCY: usize = 16;

/// What became of one object of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Note<'a> {
    /// The object as its event names it.
    pub object: &'a ObjectRef,
    /// What became of it.
    pub outcome: &'a Outcome,
    /// Whether it was delivered before.
    pub is_redelivery: bool,
}

/// Writes notes of one stage.
#[derive(Debug)]
pub struct NoteKeeper {
    table: TableWriter,
    stage: String,
}

impl NoteKeeper {
    /// Writes to `table`.
    pub fn new(table: TableWriter, stage: impl Into<String>) -> Self {
        Self { table, stage: stage.into() }
    }

    /// Notes failures, and takes the notes of images away that are answered on a later delivery.
    ///
    /// For triggers that tell a second delivery from a first. What is not written within half of the time that is left
    /// is let be: it explains, and decides nothing.
    pub async fn keep(&self, notes: Vec<Note<'_>>, deadline: Option<Instant>) {
        let left = deadline.map_or(MAX_DURATION, |at| at.saturating_duration_since(Instant::now()) / 2);
        // Boxed, because the compiler loses the lifetimes of a stream of closures otherwise.
        let writes: Vec<BoxFuture<'_, ()>> =
            notes.into_iter().filter_map(|note| self.write(note)).map(FutureExt::boxed).collect();
        if writes.is_empty() {
            return;
        }
        let all = stream::iter(writes).buffer_unordered(CONCURRENCY).collect::<()>();
        if timeout(left.min(MAX_DURATION), all).await.is_err() {
            tracing::warn!("some notes of failures were not written in time");
        }
    }

    fn write<'a>(&'a self, note: Note<'a>) -> Option<impl Future<Output = ()> + 'a> {
        let failure = match note.outcome {
            // That an invocation ended says nothing of an image, and concerns thousands at once.
            Outcome::Retry(Failure::NoTimeLeft) => return None,
            Outcome::Retry(failure) => Some(failure),
            Outcome::Answered(_) | Outcome::Skipped(_) if note.is_redelivery => None,
            Outcome::Answered(_) | Outcome::Skipped(_) => return None,
        };
        let upload = NotedUpload::of(note.object, &self.stage);
        Some(async move {
            let written: Result<(), StoreError> = match failure {
                Some(failure) => self.table.note_failure(upload, &failure.to_string(), Utc::now()).await,
                None => self.table.forget_failure(upload).await,
            };
            if let Err(error) = written {
                tracing::warn!(key = upload.key, %error, "note of a failure not written");
            }
        })
    }
}
