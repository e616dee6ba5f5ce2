//! A backfill by S3 Batch Operations: manifest, job, and progress until it ends.
//!
//! The manifest becomes an object, and the job is created, only after the user agreed to the price.

use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::Utc;
use giemsa_ops::backfill::{BatchJobs, JobState, ManifestWriter, Plan, ScannedPage, Selection, Way};
use uuid::Uuid;

use super::super::model::{Deployment, print};
use super::super::{Failed, complain, output};
use super::{BackfillArguments, Done, approve, conclude, print_end, print_outcome, say, walk};

/// Shortest and longest time between two checks of a job.
const LOOK_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Counts while it writes the manifest, asks, and creates and follows the job.
pub async fn start(
    deployment: &Deployment,
    jobs: &BatchJobs,
    selection: Selection,
    way: Way,
    arguments: &BackfillArguments,
) -> Result<(), Failed> {
    let id = format!("{}-{}", Utc::now().format("%Y%m%dT%H%M%SZ"), &Uuid::new_v4().simple().to_string()[..8]);
    let bucket = &deployment.config.results_bucket;
    let manifest = ManifestWriter::begin(deployment.clients.s3.clone(), bucket, &id, &selection.bucket).await;
    let mut manifest = manifest.map_err(anyhow::Error::from)?;
    let counted = tokio::select! {
        counted = walk(deployment, &selection, async |page: ScannedPage| {
            for upload in &page.pending {
                manifest.push(upload).await?;
            }
            Ok(())
        }) => counted,
        interrupted = tokio::signal::ctrl_c() => {
            Err(interrupted.err().map_or_else(|| anyhow!("stopped; nothing was started"), Into::into))
        }
    };
    let approved = match counted {
        Ok((totals, measured)) => {
            let plan = Plan::of(selection, totals, way, &measured);
            approve(&plan, arguments).await.map(|approved| approved.then_some(plan))
        }
        Err(error) => Err(error.into()),
    };
    let plan = match approved {
        Ok(Some(plan)) => plan,
        not_approved => {
            // If it cannot be aborted, the first error is still reported; the bucket's rule removes the upload.
            if let Err(error) = manifest.abort().await {
                complain(&format!("giemsa: {error}"));
            }
            return not_approved.map(drop);
        }
    };
    let manifest = manifest.finish().await.map_err(anyhow::Error::from)?;
    let Selection { stage, bucket: input_bucket, prefix, .. } = &plan.selection;
    let job_id = jobs.create(&manifest, stage, input_bucket, prefix).await.map_err(anyhow::Error::from)?;
    complain(&format!(
        "giemsa: job {job_id} reads s3://{bucket}/{}; its report: s3://{bucket}/{}/",
        giemsa_ops::backfill::Manifest::key_of(&manifest.id),
        manifest.report_prefix()
    ));
    let job = watch(jobs, &job_id).await?;
    if !arguments.json {
        say(&format!("{}\n", shown_job(&job)))?;
    }
    let completed = job.status == "Complete";
    let done = Done { completed, job: Some(job.clone()), left: None };
    if completed && job.failed == 0 && job.succeeded == plan.totals.pending {
        return print_end(&plan, Done { left: Some(0), ..done }, arguments.json);
    }
    if completed {
        // A rejected image is a failed task and an answered image: only the table distinguishes it from the others.
        return conclude(deployment, &plan, done, arguments.json).await;
    }
    if arguments.json {
        print_outcome(Some(&plan), Some(&done))?;
    }
    Err(ended_early(&job))
}

/// Watches a job until it is over; Ctrl-C ends the watching and not the job.
pub async fn watch(jobs: &BatchJobs, job_id: &str) -> Result<JobState, Failed> {
    let followed = async {
        let bar = output::progress("tasks", 0);
        let mut interval = LOOK_INTERVAL.0;
        loop {
            let job = jobs.describe(job_id).await?;
            bar.set_length(job.total);
            bar.set_position(job.succeeded + job.failed);
            if job.is_over {
                bar.finish_and_clear();
                return anyhow::Ok(job);
            }
            tokio::time::sleep(interval).await;
            interval = (interval * 2).min(LOOK_INTERVAL.1);
        }
    };
    let how = format!("giemsa backfill --follow {job_id} shows its progress, --stop {job_id} ends it");
    tokio::select! {
        job = followed => Ok(job.with_context(|| format!("job {job_id} continues; {how}"))?),
        _ = tokio::signal::ctrl_c() => Err(Failed::Work(anyhow!("job {job_id} continues without this \
            command; {how}"))),
    }
}

/// Ends the job of a stage, or the one that is named.
pub async fn stop(
    jobs: &BatchJobs,
    deployment: &Deployment,
    stage: &str,
    job_id: Option<&str>,
    json: bool,
) -> Result<(), Failed> {
    let job_id = match job_id {
        Some(job_id) => Some(job_id.to_owned()),
        None => {
            let running = jobs.running(stage, &deployment.config.input_bucket).await;
            running.map_err(anyhow::Error::from)?.map(|job| job.job_id)
        }
    };
    if let Some(job_id) = &job_id {
        jobs.cancel(job_id).await.map_err(anyhow::Error::from)?;
    }
    let stopped = serde_json::json!({ "stopped_job": job_id });
    print(json, &stopped, |_| match &job_id {
        Some(job_id) => {
            format!("job {job_id} is being cancelled; its answers stay, live uploads continue")
        }
        None => format!("no backfill of {stage} is running"),
    })
}

/// A job as one line.
pub fn shown_job(job: &JobState) -> String {
    let JobState { job_id, status, total, succeeded, failed, .. } = job;
    let reasons: String =
        job.reasons.iter().map(|reason| format!("; {}", output::printable(reason))).collect();
    format!("job {job_id}: {status}; {succeeded} of {total} tasks succeeded, {failed} failed{reasons}")
}

/// A job that did not go to its end.
pub fn ended_early(job: &JobState) -> Failed {
    Failed::Work(anyhow!("{}; run the command again to continue with the rest", shown_job(job)))
}
