//! Analyses images on as many threads as there are processors to use.
//!
//! It never lets one image cost another: a panic is the failure of its image, and an image that takes too long gives its
//! processor back. Invariant: at most `GIEMSA_CPUS` images are analysed at a time, those included that nobody waits for
//! any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use crate::analysis::{Analysis, AnalysisError, Step, analyse_image_until};
use crate::config::Limits;
use crate::image::DecodeLimits;
use crate::model::{Model, Watch, Work, panic_message};
use crate::outcome::Failure;

/// Processors for the analysis of images.
#[derive(Debug)]
pub(crate) struct CpuPool {
    permits: Arc<Semaphore>,
    decode_limits: DecodeLimits,
    image_timeout: Duration,
    watch: Watch,
}

impl CpuPool {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.cpus.get())),
            decode_limits: limits.decode(),
            image_timeout: limits.image_timeout,
            watch: Watch::default(),
        }
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
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let limit = self.image_timeout;
        let image_deadline = Instant::now() + limit;
        let deadline = stop_at.map_or(image_deadline, |stop_at| stop_at.min(image_deadline));
        let (decode_limits, watch, key) = (self.decode_limits, self.watch.clone(), key.to_owned());
        let span = tracing::Span::current();
        let work = tokio::task::spawn_blocking(move || {
            let _span = span.entered();
            // Released when the work ends, which is soon after its deadline, not when somebody stops waiting for it.
            let _permit = permit;
            let _watched = watch.until_dropped();
            analyse_image_until(&bytes, &model, &decode_limits, Some(deadline), |step| {
                watch.tell(match step {
                    Step::Decode => Work::Decode { key: &key },
                    Step::Infer => Work::Infer { key: &key, sha256: &model.sha256 },
                });
            })
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
}
