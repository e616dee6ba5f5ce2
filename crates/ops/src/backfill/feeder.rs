//! Feeds the queue of a backfill, a little at a time, and waits until all of it is answered.
//!
//! It never sends to the queue of live uploads. At most [`MAX_WAITING`] images wait at once, so that ending a backfill
//! leaves little, and a run whose mark is gone sends nothing more.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;

use super::{BackfillError, Scan};
use crate::reconcile::notification_of;
use giemsa_config::BACKFILL_PREFIX;
use giemsa_store::queues::QueueClient;

/// Most images that wait in the queue.
const MAX_WAITING: u64 = 300;

/// Images sent between two looks at the queue; they come on top of what may wait before them.
const IMAGES_OF_ROUND: usize = 100;

/// Time between two looks at the queue while it is full or has to become empty.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How a feeding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// All was sent, and nothing waits any more.
    All,
    /// The mark of the run was taken away, or another run set its own.
    Stopped,
}

/// Whose mark is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkState {
    /// This run's.
    Own,
    /// That of another run, which feeds the queue now.
    OfAnother,
    /// None: the backfill was stopped.
    Gone,
}

/// The mark of the run that feeds a stage, an object in the results bucket: taking it away ends the run.
#[derive(Debug, Clone)]
pub struct RunMark {
    s3: Client,
    bucket: String,
    stage: String,
    id: String,
}

impl RunMark {
    /// The mark of run `id` of `stage`, which is not set yet.
    pub fn new(s3: Client, results_bucket: &str, stage: &str, id: &str) -> Self {
        Self { s3, bucket: results_bucket.to_owned(), stage: stage.to_owned(), id: id.to_owned() }
    }

    /// Sets it; a run that had one ends.
    ///
    /// # Errors
    /// [`BackfillError::Mark`] if S3 does not take it.
    pub async fn set(&self) -> Result<(), BackfillError> {
        let body = ByteStream::from(self.id.clone().into_bytes());
        let request = self.s3.put_object().bucket(&self.bucket).key(self.key()).content_type("text/plain");
        let sent = request.body(body).send().await;
        sent.map(drop).map_err(|error| self.failed(&DisplayErrorContext(&error)))
    }

    /// Whose mark is there now.
    ///
    /// # Errors
    /// [`BackfillError::Mark`] if S3 does not say.
    pub async fn state(&self) -> Result<MarkState, BackfillError> {
        let found = match self.s3.get_object().bucket(&self.bucket).key(self.key()).send().await {
            Ok(found) => found,
            Err(error) if giemsa_store::is_gone(&error) => return Ok(MarkState::Gone),
            Err(error) => return Err(self.failed(&DisplayErrorContext(&error))),
        };
        let id = found.body.collect().await.map_err(|error| self.failed(&error))?;
        let is_own = id.into_bytes() == self.id.as_bytes();
        Ok(if is_own { MarkState::Own } else { MarkState::OfAnother })
    }

    /// Takes the mark of whatever run away.
    ///
    /// # Errors
    /// [`BackfillError::Mark`] if S3 does not take it.
    pub async fn clear(&self) -> Result<(), BackfillError> {
        let sent = self.s3.delete_object().bucket(&self.bucket).key(self.key()).send().await;
        sent.map(drop).map_err(|error| self.failed(&DisplayErrorContext(&error)))
    }

    fn key(&self) -> String {
        format!("{BACKFILL_PREFIX}/stage={}/run", self.stage)
    }

    fn failed(&self, detail: &dyn std::fmt::Display) -> BackfillError {
        let location = format!("s3://{}/{}", self.bucket, self.key());
        BackfillError::Mark { location, detail: detail.to_string() }
    }
}

/// Feeds one queue for one run.
#[derive(Debug)]
pub struct Feeder<'a> {
    /// The queue of the backfill.
    pub queue: &'a QueueClient,
    /// The mark of this run, set.
    pub mark: &'a RunMark,
}

impl Feeder<'_> {
    /// Sends all images of `scan`, and waits until the queue is empty. `progress` is called with the images that were sent
    /// and no longer wait.
    ///
    /// # Errors
    /// [`BackfillError`]; what was sent is answered all the same.
    pub async fn feed(&self, scan: &mut Scan, mut progress: impl FnMut(u64)) -> Result<Fed, BackfillError> {
        let mut sent = 0;
        while let Some(page) = scan.next_page().await? {
            for round in page.pending.chunks(IMAGES_OF_ROUND) {
                if !self.wait_for_room(MAX_WAITING - IMAGES_OF_ROUND as u64, sent, &mut progress).await? {
                    return Ok(Fed::Stopped);
                }
                let messages = round.iter().map(|upload| notification_of(scan.bucket(), upload));
                let messages: Vec<String> = messages.collect();
                self.queue.send_batch(&messages).await?;
                sent += messages.len() as u64;
            }
        }
        let is_done = self.wait_for_room(0, sent, &mut progress).await?;
        Ok(if is_done { Fed::All } else { Fed::Stopped })
    }

    /// Waits until at most `most` messages are in the queue; false if the run is to end.
    async fn wait_for_room(
        &self,
        most: u64,
        sent: u64,
        progress: &mut impl FnMut(u64),
    ) -> Result<bool, BackfillError> {
        loop {
            match self.mark.state().await? {
                MarkState::Own => {}
                // The queue is that run's now, with what this one has sent.
                MarkState::OfAnother => return Ok(false),
                MarkState::Gone => {
                    // What was sent between the look before and the mark's end is taken back.
                    self.queue.purge().await?;
                    return Ok(false);
                }
            }
            let waiting = self.queue.depth().await?.total();
            progress(sent.saturating_sub(waiting));
            if waiting <= most {
                return Ok(true);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}
