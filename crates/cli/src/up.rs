//! `giemsa up`: the local stack, which runs until Ctrl-C.
//!
//! It keeps serving if nobody reads its output. Ctrl-C and SIGTERM end it with success at any moment, also while it starts;
//! a second one ends it without waiting for work in progress.

use std::io::Write;

use anyhow::{Context, anyhow};
use giemsa_config::SignInSettings;
use giemsa_faults::{FaultSpec, Faults};
use giemsa_local::{
    INPUT_BUCKET, LOCAL_ACCESS_KEY_ID, LOCAL_SECRET_ACCESS_KEY, MODEL_BUCKET, RESULTS_BUCKET, Stack,
    StackSettings, TABLE,
};
use giemsa_store::aws::LOCAL_REGION;
use giemsa_store::metrics;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failed, UpArguments, complain, output, own_program};

/// Starts the stack, says how to use it, and stops it at Ctrl-C or SIGTERM.
pub async fn run(arguments: &UpArguments) -> Result<(), Failed> {
    check_ports(arguments)?;
    let settings = StackSettings {
        data_dir: arguments.data_dir.clone(),
        s3_port: arguments.s3_port,
        dynamodb_port: arguments.dynamodb_port,
        sqs_port: arguments.sqs_port,
        http_port: arguments.http_port,
        run_worker: !arguments.no_worker,
        with_development: true,
        metrics_file: arguments.metrics.clone(),
        program: own_program()?,
        faults: arguments.faults.as_deref().map(read_faults).transpose()?,
        sign_in: sign_in(arguments)?,
    };
    if let Some(path) = &arguments.metrics {
        // Appended to: metrics of a stack that was stopped or killed stay.
        let file = std::fs::File::options().create(true).append(true).open(path);
        metrics::write_to(file.with_context(|| {
            format!("--metrics: {} cannot be written to", output::printable(&path.to_string_lossy()))
        })?);
    }
    // Before anything is printed: whoever reads the endpoints may stop us at once.
    let mut interrupt = signal(SignalKind::interrupt()).context("Ctrl-C cannot be waited for")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let stack = tokio::select! {
        started = Stack::start(&settings) => started.map_err(anyhow::Error::from)?,
        // A start that is cut short leaves nothing half done: being killed does not either.
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    if let Some(faults) = &stack.faults {
        say(&format!("Injecting faults: {}\n\n", faults.spec()));
    }
    say(&welcome(&stack, arguments));
    let (unanswered, dead) = stack.unanswered().await.map_err(anyhow::Error::from)?;
    if unanswered > 0 && arguments.no_worker {
        say(&format!("{unanswered} uploads wait for a start without --no-worker.\n"));
    } else if unanswered > 0 {
        say(&format!("Continuing with {unanswered} uploads that have no answer yet.\n"));
    }
    if dead > 0 {
        say(&format!("{dead} uploads were given up after all retries; see them with `giemsa dlq list`.\n"));
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    complain(
        "Stopping; uploads without an answer continue at the next start. Press Ctrl-C again to stop \
        without waiting.",
    );
    let faults = stack.faults.clone();
    tokio::select! {
        () = stack.shutdown() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    if let Some(faults) = faults {
        faults.write_summary();
        say(&format!("Faults injected, over all starts in this folder: {}\n", counts_shown(&faults)));
    }
    Ok(())
}

/// The issuer of `--oidc-issuer`; the parser wants both flags or none.
fn sign_in(arguments: &UpArguments) -> Result<Option<SignInSettings>, Failed> {
    let both = arguments.oidc_issuer.as_deref().zip(arguments.oidc_client_id.as_deref());
    let settings = both.map(|(issuer, client_id)| SignInSettings::new(issuer, client_id)).transpose();
    settings.map_err(|error| Failed::Usage(anyhow!("--oidc-issuer, --oidc-client-id: {error}")))
}

/// The faults of `--faults`: a list, or a file of lists after `@`.
fn read_faults(text: &str) -> Result<FaultSpec, Failed> {
    let list = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| {
                format!("--faults: {path} cannot be read; expected a file with a list of faults")
            })
            .map_err(Failed::Usage)?,
        None => text.to_owned(),
    };
    list.parse().map_err(|error| Failed::Usage(anyhow!("--faults: {error}")))
}

/// Counts by kind, e.g. `12 (slow 7, reset 5)`.
fn counts_shown(faults: &Faults) -> String {
    let counts = faults.counts();
    let total: u64 = counts.values().sum();
    let kinds: Vec<String> =
        counts.iter().map(|(kind, count)| format!("{} {count}", kind.as_str())).collect();
    if kinds.is_empty() { "none".to_owned() } else { format!("{total} ({})", kinds.join(", ")) }
}

/// Two servers cannot share a port; the system would blame another program.
fn check_ports(arguments: &UpArguments) -> Result<(), Failed> {
    let ports = [
        ("--s3-port", arguments.s3_port),
        ("--dynamodb-port", arguments.dynamodb_port),
        ("--sqs-port", arguments.sqs_port),
        ("--http-port", arguments.http_port),
    ];
    for (index, (flag, port)) in ports.iter().enumerate() {
        if let Some((other, _)) = ports[..index].iter().find(|(_, other)| *port != 0 && other == port) {
            return Err(Failed::Usage(anyhow!(
                "{other} and {flag} are both {port}; expected different ports"
            )));
        }
    }
    Ok(())
}

/// Prints to stdout; a closed stdout (`giemsa up | head -1`) is not a reason to stop serving.
fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The region goes by its older name: version 1 of the aws client does not read `AWS_REGION`.
fn welcome(stack: &Stack, arguments: &UpArguments) -> String {
    let (s3, dynamodb, sqs) = (stack.s3_url(), stack.dynamodb_url(), stack.sqs_url());
    let dashboard = stack.dashboard;
    let data_dir = output::printable(&arguments.data_dir.to_string_lossy());
    let model_key = stack.config.model_key();
    format!(
        "Giemsa is up and keeps everything in {data_dir}

  S3           {s3}   buckets {INPUT_BUCKET}, {MODEL_BUCKET}, {RESULTS_BUCKET}
  DynamoDB     {dynamodb}   table {TABLE}
  SQS          {sqs}   queues classify-prod, classify-dev, each with a dead-letter queue
  Dashboard    http://{dashboard}   results, slides, review: open it in a browser
  Model        s3://{MODEL_BUCKET}/dev/model.onnx   copy a file there to try it; reports/ says whether it passed
               s3://{MODEL_BUCKET}/{model_key}   what production serves, once it has passed

Copy this into another terminal to upload the sample images, or your own:

  export AWS_ENDPOINT_URL_S3={s3} AWS_ENDPOINT_URL_DYNAMODB={dynamodb} AWS_ENDPOINT_URL_SQS={sqs}
  export AWS_ACCESS_KEY_ID={LOCAL_ACCESS_KEY_ID} AWS_SECRET_ACCESS_KEY={LOCAL_SECRET_ACCESS_KEY} AWS_DEFAULT_REGION={LOCAL_REGION}
  aws s3 cp --recursive sample-images s3://{INPUT_BUCKET}/first-upload/
  aws s3 ls --recursive s3://{RESULTS_BUCKET}/

Ctrl-C stops it.
"
    )
}
