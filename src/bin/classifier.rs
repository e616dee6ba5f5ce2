//! The classifier as a Lambda function: log, configuration, clients, run.
//!
//! It never looks into an event and never decides anything; [`Handler`] does. Invariant: an invocation is answered by
//! the handler or fails, so that its trigger delivers it again.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use giemsa::aws::Clients;
use giemsa::config::Config;
use giemsa::handler::Handler;
use giemsa::metrics;
use giemsa::pipeline::Pipeline;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Lambda restarts a process that is not ready after ten seconds, and would do so for ever.
const LONGEST_WARM_UP: Duration = Duration::from_secs(8);

/// Lambda's limit.
const LONGEST_INVOCATION: Duration = Duration::from_secs(15 * 60);

#[tokio::main]
async fn main() -> ExitCode {
    start_log();
    metrics::write_to_stdout();
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "not started");
            return ExitCode::FAILURE;
        }
    };
    match run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the runtime ended");
            ExitCode::FAILURE
        }
    }
}

/// One JSON object a line. Lambda adds the time; the level comes from `RUST_LOG`, `info` unless it is set.
fn start_log() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .without_time()
        .with_env_filter(filter)
        .init();
}

async fn run(config: Config) -> Result<(), Error> {
    let pipeline = Pipeline::new(config, Clients::from_env().await);
    // The model is loaded while Lambda starts the function; without one the events are retried.
    if tokio::time::timeout(LONGEST_WARM_UP, pipeline.warm_up()).await.is_err() {
        tracing::warn!(
            limit_ms = LONGEST_WARM_UP.as_millis() as u64,
            "model not loaded at start, goes on later"
        );
    }
    let handler = &Handler::new(pipeline);
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Value>| {
        let deadline = instant_of(event.context.deadline());
        handler.handle(&event.payload, deadline).await.map_err(Error::from)
    }))
    .await
}

/// Two functions that the C library gave a new symbol version in 2.35. Defined here they are not asked of it, so that a
/// package built on a newer system than Lambda's (2.34) starts there; tract's complex numbers use them.
mod c_math {
    #[expect(unsafe_code, reason = "the symbol has its C name and signature, and replaces the one of libm")]
    #[unsafe(no_mangle)]
    extern "C" fn hypot(x: f64, y: f64) -> f64 {
        libm::hypot(x, y)
    }

    #[expect(unsafe_code, reason = "the symbol has its C name and signature, and replaces the one of libm")]
    #[unsafe(no_mangle)]
    extern "C" fn hypotf(x: f32, y: f32) -> f32 {
        libm::hypotf(x, y)
    }
}

/// The same moment on the clock that never jumps; one that has just passed is now.
///
/// `cargo lambda` sends a length of time where Lambda sends a moment, which reads as 1970: that is no deadline.
fn instant_of(deadline: SystemTime) -> Option<Instant> {
    let now = SystemTime::now();
    let is_moment =
        now.duration_since(deadline).is_ok_and(|passed| passed < LONGEST_INVOCATION) || deadline > now;
    is_moment.then(|| Instant::now() + deadline.duration_since(now).unwrap_or_default())
}
