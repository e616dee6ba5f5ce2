//! The classifier as a Lambda function: log, configuration, clients, run.
//!
//! An invocation is answered by the handler or fails, so that its trigger delivers it again.

use std::process::ExitCode;
use std::time::Duration;

use giemsa::handler::Handler;
use giemsa::pipeline::Pipeline;
use giemsa_config::Config;
use giemsa_store::aws::Clients;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

/// Lambda restarts a process that is not ready after ten seconds, and would do so for ever.
const LONGEST_WARM_UP: Duration = Duration::from_secs(8);

#[tokio::main]
async fn main() -> ExitCode {
    giemsa_lambda::run(Config::from_env, serve).await
}

async fn serve(config: Config) -> Result<(), Error> {
    let pipeline = Pipeline::new(config, Clients::from_env().await);
    // The model is loaded while Lambda starts the function; without one the events are retried.
    if tokio::time::timeout(LONGEST_WARM_UP, pipeline.warm_up()).await.is_err() {
        tracing::warn!(
            limit_ms = LONGEST_WARM_UP.as_millis() as u64,
            "model not loaded at start, goes on later"
        );
    }
    let handler = &Handler::new(pipeline).noting_runs();
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Value>| {
        // The batch that met it was handed back; Lambda starts a new process for this one, which is delivered again.
        if handler.is_stuck() {
            std::process::exit(1);
        }
        let deadline = giemsa_lambda::instant_of(event.context.deadline());
        handler.handle(&event.payload, deadline).await.map_err(Error::from)
    }))
    .await
}
