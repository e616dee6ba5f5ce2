//! A backfill by the local stack: a separate queue, fed a little at a time.
//!
//! It does not touch the queue of live uploads. However it ends, few images are left in its queue, and the next run waits
//! for them before it counts.

use std::time::Duration;

use anyhow::anyhow;
use giemsa_ops::backfill::{Fed, Feeder, Plan, RunMark, ScannedPage, Selection, Way};
use giemsa_store::queues::QueueClient;
use uuid::Uuid;

use super::super::model::{Deployment, print};
use super::super::{Failed, complain, output};
use super::{BackfillArguments, Done, approve, conclude, open_scan, print_outcome, walk};

/// Time between two checks of what an earlier run left.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Waits until the queue is empty: otherwise the images of an earlier run would be counted, and sent again.
pub async fn wait_for_earlier(stage: &str) -> Result<(), Failed> {
    let queue = queue_of(stage).await?;
    let mut told = false;
    loop {
        let waiting = queue.depth().await.map_err(anyhow::Error::from)?.total();
        if waiting == 0 {
            return Ok(());
        }
        if !told {
            complain(&format!(
                "giemsa: {waiting} images of an earlier backfill of {stage} still wait in its queue; waiting for them \
                 (giemsa backfill --stop --stage {stage} drops them)"
            ));
            told = true;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Counts, asks, feeds, and reports what is left.
pub async fn start(
    deployment: &Deployment,
    selection: Selection,
    arguments: &BackfillArguments,
) -> Result<(), Failed> {
    let concurrency = u32::try_from(deployment.config.limits.cpus.get()).unwrap_or(u32::MAX);
    let (totals, measured) = walk(deployment, &selection, async |_: ScannedPage| Ok(())).await?;
    let plan = Plan::of(selection, totals, Way::Local { concurrency }, &measured);
    if !approve(&plan, arguments).await? {
        return Ok(());
    }
    let stage = &plan.selection.stage;
    let queue = queue_of(stage).await?;
    let mark = mark_of(deployment, stage);
    mark.set().await.map_err(anyhow::Error::from)?;
    let mut scan = open_scan(deployment, &plan.selection).await?;
    let bar = output::progress("answered", usize::try_from(plan.totals.pending).unwrap_or(usize::MAX));
    let feeder = Feeder { queue: &queue, mark: &mark };
    let fed = tokio::select! {
        fed = feeder.feed(&mut scan, |done| bar.set_position(done)) => Some(fed.map_err(anyhow::Error::from)?),
        _ = tokio::signal::ctrl_c() => None,
    };
    // Clearing the bar moves it to its end.
    let reached = bar.position();
    bar.finish_and_clear();
    if fed != Some(Fed::Stopped) {
        mark.clear().await.map_err(anyhow::Error::from)?;
    }
    if fed.is_none() {
        queue.purge().await.map_err(anyhow::Error::from)?;
    }
    if fed == Some(Fed::All) {
        return conclude(deployment, &plan, Done { completed: true, ..Done::default() }, arguments.json)
            .await;
    }
    if arguments.json {
        print_outcome(Some(&plan), Some(&Done::default()))?;
    }
    Err(Failed::Work(anyhow!(
        "stopped after about {reached} of {} images; answers stay, run the same command again to continue",
        plan.totals.pending
    )))
}

/// Ends the run of a stage, and drops what it has sent.
pub async fn stop(deployment: &Deployment, stage: &str, json: bool) -> Result<(), Failed> {
    let queue = queue_of(stage).await?;
    // Before the mark is gone: the command that feeds empties the queue too, as soon as it sees that.
    let before = queue.depth().await.map_err(anyhow::Error::from)?.total();
    mark_of(deployment, stage).clear().await.map_err(anyhow::Error::from)?;
    let dropped = before.max(queue.depth().await.map_err(anyhow::Error::from)?.total());
    queue.purge().await.map_err(anyhow::Error::from)?;
    print(json, &serde_json::json!({ "dropped": dropped }), |_| {
        format!(
            "the backfill of {stage} is stopped, {dropped} waiting images were dropped; live uploads continue"
        )
    })
}

fn mark_of(deployment: &Deployment, stage: &str) -> RunMark {
    let id = Uuid::new_v4().to_string();
    RunMark::new(deployment.clients.s3.clone(), &deployment.config.results_bucket, stage, &id)
}

async fn queue_of(stage: &str) -> Result<QueueClient, Failed> {
    let queue = QueueClient::named(&format!("backfill-{stage}")).await;
    queue.map_err(|error| Failed::Work(anyhow!("{error}; expected a stage of `giemsa up`: prod or dev")))
}
