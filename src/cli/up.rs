//! `giemsa up`: the embedded stack, kept until Ctrl-C.

use anyhow::Context;
use giemsa::aws::LOCAL_REGION;
use giemsa::local::{
    INPUT_BUCKET, LOCAL_ACCESS_KEY_ID, LOCAL_SECRET_ACCESS_KEY, MODEL_BUCKET, RESULTS_BUCKET, Stack,
    StackSettings, TABLE,
};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failed, UpArguments};

/// Starts the stack, says how to use it, and stops it at Ctrl-C or SIGTERM.
pub async fn run(arguments: &UpArguments) -> Result<(), Failed> {
    let settings = StackSettings {
        data_dir: arguments.data_dir.clone(),
        s3_port: arguments.s3_port,
        dynamodb_port: arguments.dynamodb_port,
        http_port: arguments.http_port,
        run_worker: !arguments.no_worker,
    };
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let stack = Stack::start(&settings).await.map_err(anyhow::Error::from)?;
    print!("{}", welcome(&stack, arguments));
    let (unanswered, dead) = stack.unanswered().await.map_err(anyhow::Error::from)?;
    if unanswered > 0 {
        println!("Going on with {unanswered} uploads that are not answered yet.");
    }
    if dead > 0 {
        println!("{dead} uploads were given up after all retries; they are kept in the data folder's queue.");
    }
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("Ctrl-C cannot be waited for")?,
        _ = terminate.recv() => {}
    }
    eprintln!("Stopping; what is not answered yet goes on at the next start.");
    stack.shutdown().await;
    Ok(())
}

fn welcome(stack: &Stack, arguments: &UpArguments) -> String {
    let (s3, dynamodb) = (stack.s3_url(), stack.dynamodb_url());
    let (status, data_dir) = (stack.status, arguments.data_dir.display());
    let model_key = stack.config.model_key();
    format!(
        "Giemsa is up; everything is kept in {data_dir}

  S3           {s3}   buckets {INPUT_BUCKET}, {MODEL_BUCKET}, {RESULTS_BUCKET}
  DynamoDB     {dynamodb}   table {TABLE}
  Status page  http://{status}
  Model        s3://{MODEL_BUCKET}/{model_key}   copy another file there to replace it

Copy this into another terminal to upload the sample images, or your own:

  export AWS_ENDPOINT_URL_S3={s3} AWS_ENDPOINT_URL_DYNAMODB={dynamodb}
  export AWS_ACCESS_KEY_ID={LOCAL_ACCESS_KEY_ID} AWS_SECRET_ACCESS_KEY={LOCAL_SECRET_ACCESS_KEY} AWS_REGION={LOCAL_REGION}
  aws s3 cp --recursive sample-images s3://{INPUT_BUCKET}/first-upload/
  aws s3 ls --recursive s3://{RESULTS_BUCKET}/

Ctrl-C stops it.
"
    )
}
