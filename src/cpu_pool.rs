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
use crate::model::{Model, panic_message};
use crate::outcome::Failure;

/// Processors for the analysis of images.
#[derive(Debug)]
pub(crate) struct CpuPool {
    permits: Arc<Semaphore>,
    decode_limits: DecodeLimits,
    image_timeout: Duration,
    #[cfg(feature = "local")]
    fault_point: Option<FaultPoint>,
}

/// Where the embedded stack makes the work on an image fail on purpose; Lambda packages do not have it.
#[cfg(feature = "local")]
#[derive(Clone)]
pub struct FaultPoint(Arc<Fault>);

#[cfg(feature = "local")]
type Fault = dyn Fn(Step, &str) + Send + Sync;

#[cfg(feature = "local")]
impl FaultPoint {
    /// `fault` is called with the image's key before each step, on the thread that works on the image.
    pub fn new(fault: impl Fn(Step, &str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fault))
    }
}

#[cfg(feature = "local")]
impl std::fmt::Debug for FaultPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultPoint")
    }
}

impl CpuPool {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.cpus.get())),
            decode_limits: limits.decode(),
            image_timeout: limits.image_timeout,
            #[cfg(feature = "local")]
            fault_point: None,
        }
    }

    #[cfg(feature = "local")]
    pub(crate) fn set_fault_point(&mut self, fault_point: FaultPoint) {
        self.fault_point = Some(fault_point);
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
        let (decode_limits, before_step) = (self.decode_limits, self.before_step(key));
        let span = tracing::Span::current();
        let work = tokio::task::spawn_blocking(move || {
            let _span = span.entered();
            // Released when the work ends, which is soon after its deadline, not when somebody stops waiting for it.
            let _permit = permit;
            analyse_image_until(&bytes, &model, &decode_limits, Some(deadline), before_step)
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

    /// What happens before each step of the work on an image: nothing, but for faults on purpose.
    #[cfg(feature = "local")]
    fn before_step(&self, key: &str) -> impl Fn(Step) + Send + 'static {
        let point = self.fault_point.clone().map(|point| (point, key.to_owned()));
        move |step| {
            if let Some((FaultPoint(fault), key)) = &point {
                fault(step, key);
            }
        }
    }

    #[cfg(not(feature = "local"))]
    fn before_step(&self, _key: &str) -> impl Fn(Step) + Send + 'static {
        |_| {}
    }
}
