//! `giemsa model push`: copies a file to a stage of the model bucket, but not to production, which is `promote`.
//!
//! The uploaded bytes are those that were checked.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use giemsa_config::model_key;
use giemsa_core::record::ModelInfo;
use giemsa_model::{LoadLimits, Model};
use giemsa_ops::release::ReportState;
use serde::Serialize;

use super::super::{Failed, output};
use super::{DEV, Deployment, FileArgument, PROD, limits, parse_stage, print, read_file, shown_model};

/// Between two looks for the report.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct PushArguments {
    #[command(flatten)]
    file: FileArgument,
    /// Stage to put it into.
    #[arg(long, default_value = DEV, value_parser = parse_stage)]
    stage: String,
    /// Wait so many seconds at most for the report of the golden set, and fail if it fails.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "300")]
    wait: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Pushed {
    location: String,
    model: ModelInfo,
    report: ReportState,
}

/// Pushes a file.
pub async fn run(arguments: &PushArguments, json: bool) -> Result<(), Failed> {
    let path = &arguments.file.file;
    if arguments.stage == PROD {
        return Err(Failed::Usage(anyhow!(
            "{PROD} gets its models from another stage: giemsa model push {}, then giemsa model promote",
            path.display()
        )));
    }
    let bytes = read_file(path)?;
    let model = Model::load_within(&bytes, &LoadLimits::from(&limits()?))
        .with_context(|| format!("{} was not pushed: it cannot serve", path.display()))?;
    let deployment = Deployment::of_environment(&arguments.stage).await?;
    let key = model_key(&arguments.stage);
    deployment.models.put(&key, bytes.into()).await.map_err(anyhow::Error::from)?;
    let report = await_report(&deployment, &model.sha256, arguments.wait).await?;
    let pushed = Pushed { location: deployment.models.location(&key), model: model.info(), report };
    print(json, &pushed, |pushed| {
        let report = match &pushed.report {
            ReportState::Passed => "it passed the golden set; next: giemsa model promote",
            ReportState::Waived => "it failed the golden set, but was released with a waiver before",
            ReportState::Failed(_) => "it failed the golden set",
            ReportState::Missing => "the gate has not reported on it yet: giemsa model list",
        };
        format!("{} is in {}\n{report}", shown_model(&pushed.model), pushed.location)
    })?;
    match (pushed.report, arguments.wait) {
        (ReportState::Failed(reasons), Some(_)) => Err(Failed::Work(anyhow!("{}", reasons.join("; ")))),
        (ReportState::Missing, Some(seconds)) => Err(Failed::Work(anyhow!("no report after {seconds} s"))),
        _ => Ok(()),
    }
}

async fn await_report(
    deployment: &Deployment,
    sha256: &str,
    wait: Option<u64>,
) -> anyhow::Result<ReportState> {
    let limit = Duration::from_secs(wait.unwrap_or(0));
    let started = Instant::now();
    let bar = output::progress("waiting for the gate", 1);
    loop {
        let report = deployment.releaser().report_state(sha256).await?;
        if report != ReportState::Missing || started.elapsed() >= limit {
            bar.finish_and_clear();
            return Ok(report);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
