//! Analyses images on as many threads as there are processors to use.
//!
//! A panic is the failure of its image, and an image that takes too long gives its processor back. At most
//! `GIEMSA_CPUS` images are analysed at a time, those included that nobody waits for any more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{timeout, timeout_at};

use crate::analysis::{Analysis, AnalysisError, Step, analyse_image_until};
use crate::outcome::Failure;
use giemsa_config::Limits;
use giemsa_image::DecodeLimits;
use giemsa_model::{Model, Watch, Work, panic_message};

/// Processors for the analysis of images.
#[derive(Debug)]
pub(crate) struct CpuPool {
    permits: Arc<Semaphore>,
    decode_limits: DecodeLimits,
    image_timeout: Duration,
    watch: Watch,
    /// By when each analysis that goes on was to end.
    running: Arc<Mutex<HashMap<u64, Instant>>>,
    next_number: AtomicU64,
    is_stuck: AtomicBool,
}

impl CpuPool {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.cpus.get())),
            decode_limits: DecodeLimits::of(limits),
            image_timeout: limits.image_timeout,
            watch: Watch::default(),
            running: Arc::default(),
            next_number: AtomicU64::new(0),
            is_stuck: AtomicBool::new(false),
        }
    }

    /// Whether an analysis has not ended for so long after its time that only the end of the process will end it.
    pub(crate) fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }

    /// Tells `watch` of each step of the work on an image from now on.
    pub(crate) fn set_watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// Analyses one image as soon as a processor is free, within the time of one image and until `stop_at`.
    pub(crate) async fn analyse(
        &self,
        key: &str,
        bytes: Bytes,
        model: Arc<Model>,
        stop_at: Option<Instant>,
    ) -> Result<Analysis, Failure> {
        let (decode_limits, watch, key) = (self.decode_limits, self.watch.clone(), key.to_owned());
        let span = tracing::Span::current();
        let work = move |deadline: Instant| {
            let _span = span.entered();
            let _watched = watch.until_dropped();
            analyse_image_until(&bytes, &model, &decode_limits, Some(deadline), |step| {
                watch.notify(match step {
                    Step::Decode => Work::Decode { key: &key },
                    Step::Infer => Work::Infer { key: &key, sha256: &model.sha256 },
                });
            })
        };
        self.run(work, stop_at).await
    }

    async fn run(
        &self,
        work: impl FnOnce(Instant) -> Result<Analysis, AnalysisError> + Send + 'static,
        stop_at: Option<Instant>,
    ) -> Result<Analysis, Failure> {
        let permit = self.permit().await?;
        let limit = self.image_timeout;
        let image_deadline = Instant::now() + limit;
        let deadline = stop_at.map_or(image_deadline, |stop_at| stop_at.min(image_deadline));
        let (running, number) = (self.running.clone(), self.next_number.fetch_add(1, Ordering::Relaxed));
        locked(&running).insert(number, image_deadline);
        // Both are released when the work ends, which is soon after its deadline, not when somebody stops waiting for it.
        let held = OccupiedProcessor { _permit: permit, running, number };
        let work = tokio::task::spawn_blocking(move || {
            let _held = held;
            work(deadline)
        });
        match timeout_at(image_deadline.into(), work).await {
            Err(_) => Err(Failure::ImageTimeout { limit }),
            Ok(Ok(Ok(analysis))) => Ok(analysis),
            Ok(Ok(Err(AnalysisError::Model(error)))) => Err(error.into()),
            Ok(Ok(Err(AnalysisError::OutOfTime))) if deadline < image_deadline => Err(Failure::NoTimeLeft),
            Ok(Ok(Err(AnalysisError::OutOfTime))) => Err(Failure::ImageTimeout { limit }),
            Ok(Err(join_error)) => {
                let message = match join_error.try_into_panic() {
                    Ok(panic) => panic_message(&*panic),
                    Err(error) => error.to_string(),
                };
                Err(Failure::Panicked { message })
            }
        }
    }

    /// Waits for a processor. Who has waited for as long as an image may take, while an analysis went on whose time was over
    /// before, knows that it is stuck.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        while !self.is_stuck() {
            let began = Instant::now();
            let overdue: Vec<u64> = locked(&self.running)
                .iter()
                .filter(|(_, deadline)| **deadline < began)
                .map(|(number, _)| *number)
                .collect();
            match timeout(self.image_timeout, self.permits.clone().acquire_owned()).await {
                Ok(permit) => return Ok(permit.expect("the semaphore is never closed")),
                Err(_) if overdue.iter().any(|number| locked(&self.running).contains_key(number)) => {
                    tracing::error!("an analysis hangs; the process exits");
                    self.is_stuck.store(true, Ordering::Relaxed);
                }
                Err(_) => {}
            }
        }
        Err(Failure::NoTimeLeft)
    }
}

/// A processor that is in use.
struct OccupiedProcessor {
    _permit: OwnedSemaphorePermit,
    running: Arc<Mutex<HashMap<u64, Instant>>>,
    number: u64,
}

impl Drop for OccupiedProcessor {
    fn drop(&mut self) {
        locked(&self.running).remove(&self.number);
    }
}

fn locked(running: &Mutex<HashMap<u64, Instant>>) -> std::sync::MutexGuard<'_, HashMap<u64, Instant>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn an_analysis_that_never_ends_is_known_after_a_while_and_many_that_end_are_not() {
        let limits = Limits { image_timeout: Duration::from_millis(20), ..Limits::default() };
        let pool = CpuPool::new(&Limits { cpus: std::num::NonZeroUsize::MIN, ..limits });
        let busy = |_: Instant| {
            std::thread::sleep(Duration::from_millis(30));
            Err(AnalysisError::OutOfTime)
        };
        // Each ends, though late: who comes last waits for longer than any image may take.
        let run = || pool.run(busy, None);
        let ended = tokio::join!(run(), run(), run(), run());
        assert!(ended.3.is_err_and(|error| matches!(error, Failure::ImageTimeout { .. })));
        assert!(!pool.is_stuck());

        let (end, ended) = mpsc::channel::<()>();
        let stuck = move |_: Instant| {
            assert!(ended.recv().is_err());
            Err(AnalysisError::OutOfTime)
        };
        let first = pool.run(stuck, None).await;
        assert!(matches!(first, Err(Failure::ImageTimeout { .. })), "{first:?}");
        for _ in 0..2 {
            let next = pool.run(busy, None).await;
            assert!(matches!(next, Err(Failure::NoTimeLeft)), "{next:?}");
            assert!(pool.is_stuck());
        }
        drop(end);
    }
}
