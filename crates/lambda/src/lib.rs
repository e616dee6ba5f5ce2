//! What the Lambda functions share: their start, their log and traces, and two functions of the C library.
//!
//! A package that links this file starts on Lambda's C library.

use std::fmt::Display;
use std::process::ExitCode;

mod deadline;

pub use deadline::instant_of;
use giemsa_config::ProcessInfo;
use giemsa_store::metrics;
use giemsa_store::xray::XRayLayer;
use lambda_runtime::Error;
use tracing::Metadata;
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Starts log and metrics, reads the configuration, and serves until Lambda ends the process.
pub async fn run<C, E: Display, F: Future<Output = Result<(), Error>>>(
    read_config: impl FnOnce() -> Result<C, E>,
    serve: impl FnOnce(C) -> F,
) -> ExitCode {
    start_log(&ProcessInfo::from_env());
    metrics::write_to(std::io::stdout());
    let config = match read_config() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "not started");
            return ExitCode::FAILURE;
        }
    };
    match serve(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the Lambda runtime ended");
            ExitCode::FAILURE
        }
    }
}

/// One JSON object a line, with the stage, and within an invocation its request and trace. Lambda adds the time; the level
/// comes from `RUST_LOG`, `info` unless it is set. Sampled invocations are traced where there is a daemon.
fn start_log(process: &ProcessInfo) {
    let level = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    // Whatever the level is, the runtime's span says which request a line belongs to.
    let of_runtime = filter_fn(is_of_runtime);
    let mut log = json_subscriber::JsonLayer::stdout();
    log.with_level("level").with_target("target").with_flattened_event().with_top_level_flattened_span_list();
    if let Some(stage) = &process.stage {
        log.add_static_field("stage", stage.as_str().into());
    }
    let traces = process.trace_daemon.as_deref().map(XRayLayer::connect);
    let (traces, failed) = match traces {
        Some(Ok(layer)) => {
            (Some(layer.with_filter(filter_fn(|span| XRayLayer::takes(span) || is_of_runtime(span)))), None)
        }
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    tracing_subscriber::registry().with(log.with_filter(level.or(of_runtime))).with(traces).init();
    if let Some(error) = failed {
        tracing::warn!(%error, "no traces: AWS_XRAY_DAEMON_ADDRESS cannot be used");
    }
}

/// Whether it is the span of an invocation, with its request and trace.
fn is_of_runtime(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("lambda_runtime")
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
