//! The golden gate as a Lambda function: log, configuration, client, run.
//!
//! A model that was copied has a report, or the invocation fails, so that its trigger delivers it
//! again.

use std::process::ExitCode;

use giemsa::gate_handler::GateHandler;
use giemsa_config::GateConfig;
use giemsa_store::aws::Clients;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main]
async fn main() -> ExitCode {
    giemsa_lambda::run(GateConfig::from_env, serve).await
}

async fn serve(config: GateConfig) -> Result<(), Error> {
    let handler = &GateHandler::new(config, Clients::from_env().await.s3);
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Value>| {
        let deadline = giemsa_lambda::instant_of(event.context.deadline());
        handler.handle(&event.payload, deadline).await.map_err(Error::from)
    }))
    .await
}
