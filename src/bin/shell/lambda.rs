//! What the Lambda functions share: their start, their log, and two functions of the C library.
//!
//! It never looks into an event. Invariant: a package that links this file starts on Lambda's C library.

use std::fmt::Display;
use std::process::ExitCode;

use giemsa::metrics;
use lambda_runtime::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Starts log and metrics, reads the configuration, and serves until Lambda ends the process.
pub async fn run<C, E: Display, F: Future<Output = Result<(), Error>>>(
    read_config: impl FnOnce() -> Result<C, E>,
    serve: impl FnOnce(C) -> F,
) -> ExitCode {
    start_log();
    metrics::write_to_stdout();
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
