//! `giemsa backfill`: counts, prices and answers the images that were in the input bucket already.
//!
//! It starts only after it has shown how many images there are and what they cost, and the user agreed. It succeeds
//! only if every selected image is answered.

mod batch;
mod feed;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::anyhow;
use chrono::{DateTime, SubsecRound, Utc};
use giemsa::pipeline::Pipeline;
use giemsa_config::{BatchSettings, has_own_queue_endpoint, has_own_s3_endpoint};
use giemsa_core::price::Charge;
use giemsa_ops::backfill::{BatchJobs, JobState, Plan, Scan, ScannedPage, Selection, Totals, Way};
use giemsa_store::{ImageKey, Upload};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::model::{Deployment, print};
use super::processors::Processors;
use super::{Failed, complain, output, question};

/// Images whose times are used for the estimate.
const MEASURED_IMAGES: usize = 20;

/// Images named that are not answered.
const SHOWN_IMAGES: usize = 10;

#[derive(Debug, clap::Args)]
pub struct BackfillArguments {
    /// Only images whose key starts with this; default: the whole input bucket.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Also images whose current result is not by this model (lower-case hexadecimal SHA-256), which the stage must serve.
    #[arg(long, value_name = "SHA256")]
    model_digest: Option<String>,
    /// The stage.
    #[arg(long, default_value = "prod", value_parser = super::model::parse_stage)]
    stage: String,
    /// Only images uploaded since a time or within a period: 2026-11-22, 24h, 7d.
    #[arg(long, value_parser = super::model::parse_since)]
    since: Option<DateTime<Utc>>,
    /// Start without asking.
    #[arg(long)]
    yes: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Processor architecture of the function on AWS, for the price.
    #[arg(long, value_enum, default_value_t = Processors::Arm64)]
    architecture: Processors,
    /// Follow an existing job of S3 Batch Operations until it ends.
    #[arg(long, value_name = "JOB", conflicts_with_all = ["prefix", "model_digest", "since", "yes", "stop"])]
    follow: Option<String>,
    /// End the backfill of the stage; live uploads continue. On AWS you can name a job.
    #[arg(long, value_name = "JOB", num_args = 0..=1, conflicts_with_all = ["prefix", "model_digest", "since", "yes"])]
    stop: Option<Option<String>>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    /// What was to be done; none where a running job was followed.
    #[serde(flatten)]
    plan: Option<&'a Plan>,
    /// What became of it; none if it was not started.
    outcome: Option<&'a Done>,
}

/// What became of a backfill.
#[derive(Debug, Clone, Default, Serialize)]
struct Done {
    /// Whether it went to its end.
    completed: bool,
    /// The job on AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<JobState>,
    /// Images that are not answered after it, as far as that was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
}

/// How images are answered, with what it takes.
enum Means {
    Queue,
    Jobs(BatchJobs, u32),
}

/// Carries the command out.
pub async fn run(arguments: &BackfillArguments) -> Result<(), Failed> {
    let deployment = Deployment::of_environment(&arguments.stage).await?;
    let means = means_of_environment().await?;
    match (&means, &arguments.follow, &arguments.stop) {
        (Means::Jobs(jobs, _), Some(job_id), _) => follow(jobs, job_id, arguments).await,
        (Means::Jobs(jobs, _), _, Some(job_id)) => {
            batch::stop(jobs, &deployment, &arguments.stage, job_id.as_deref(), arguments.json).await
        }
        (Means::Queue, Some(_), _) | (Means::Queue, _, Some(Some(_))) => Err(Failed::Usage(anyhow!(
            "the local stack has no jobs; expected --stop without a job, or --stage"
        ))),
        (Means::Queue, _, Some(None)) => feed::stop(&deployment, &arguments.stage, arguments.json).await,
        (_, None, None) => start(&deployment, &means, arguments).await,
    }
}

async fn means_of_environment() -> Result<Means, Failed> {
    match BatchSettings::from_env().map_err(|error| Failed::Usage(error.into()))? {
        Some(settings) => {
            let concurrency = settings.concurrency;
            Ok(Means::Jobs(
                BatchJobs::new(giemsa_ops::backfill::control_client().await, settings),
                concurrency,
            ))
        }
        None if has_own_s3_endpoint() && has_own_queue_endpoint() => Ok(Means::Queue),
        None => Err(Failed::Usage(anyhow!(
            "neither GIEMSA_BATCH_ROLE_ARN and GIEMSA_BACKFILL_FUNCTION_ARN nor the endpoints of `giemsa up` are set \
             (AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL_SQS): on AWS, set the former to the outputs BatchRole and \
             BackfillFunction of the stack; for the local stack, copy the lines that `giemsa up` prints"
        ))),
    }
}

async fn start(deployment: &Deployment, means: &Means, arguments: &BackfillArguments) -> Result<(), Failed> {
    let model_sha256 = match &arguments.model_digest {
        Some(digest) => Some(served_model(deployment, &arguments.stage, digest).await?),
        None => None,
    };
    match means {
        Means::Jobs(jobs, _) => {
            let bucket = &deployment.config.input_bucket;
            let running = jobs.running(&arguments.stage, bucket).await.map_err(anyhow::Error::from)?;
            if let Some(job) = running {
                complain(&format!(
                    "giemsa: job {} of an earlier command still runs for {}; following it instead of starting another",
                    job.job_id, arguments.stage
                ));
                return follow(jobs, &job.job_id, arguments).await;
            }
        }
        Means::Queue => feed::wait_for_earlier(&arguments.stage).await?,
    }
    let selection = Selection {
        stage: arguments.stage.clone(),
        bucket: deployment.config.input_bucket.clone(),
        prefix: arguments.prefix.clone(),
        since: arguments.since,
        // What is uploaded from now on is live work.
        until: Some(Utc::now().trunc_subsecs(0) + Duration::from_secs(1)),
        model_sha256,
    };
    match means {
        Means::Jobs(jobs, concurrency) => {
            let architecture = arguments.architecture.into();
            let way = Way::S3Batch { concurrency: *concurrency, architecture };
            batch::start(deployment, jobs, selection, way, arguments).await
        }
        Means::Queue => feed::start(deployment, selection, arguments).await,
    }
}

/// The digest of the model that the stage serves, which has to be the one that is asked for.
async fn served_model(deployment: &Deployment, stage: &str, digest: &str) -> Result<String, Failed> {
    let wanted = digest.to_ascii_lowercase();
    if wanted.len() != 64 || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Failed::Usage(anyhow!(
            "--model-digest is {digest:?}; expected the 64 hexadecimal digits of a sha256 (giemsa model list --json)"
        )));
    }
    let pipeline = Pipeline::new(deployment.config.clone(), deployment.clients.clone());
    let served = pipeline.model_digest().await.map_err(|error| anyhow!("{error}"))?;
    if served != wanted {
        return Err(Failed::Work(anyhow!(
            "{stage} serves the model {served}, not {wanted}, and would answer with the former; promote the \
             other one (giemsa model promote, giemsa model rollback), or name the stage that serves it \
             (--stage)"
        )));
    }
    Ok(served)
}

/// Lists the bucket, and passes each page to `page`.
async fn walk(
    deployment: &Deployment,
    selection: &Selection,
    mut page: impl AsyncFnMut(ScannedPage) -> Result<(), anyhow::Error>,
) -> anyhow::Result<(Totals, Vec<Duration>)> {
    let mut scan = open_scan(deployment, selection).await?;
    let style = ProgressStyle::with_template("{spinner} {human_pos} images checked, {msg}")
        .expect("a valid template");
    let bar = ProgressBar::no_length().with_style(style);
    let (mut totals, mut measured) = (Totals::default(), Vec::new());
    while let Some(scanned) = scan.next_page().await? {
        totals.add(&scanned);
        bar.set_position(totals.images);
        bar.set_message(format!("{} not answered", totals.pending));
        for key in scanned.with_result.iter().take(MEASURED_IMAGES - measured.len()) {
            measured.extend(measured_time(deployment, &selection.stage, key).await?);
        }
        page(scanned).await?;
    }
    bar.finish_and_clear();
    Ok((totals, measured))
}

async fn open_scan(deployment: &Deployment, selection: &Selection) -> anyhow::Result<Scan> {
    let (s3, table, config) =
        (deployment.clients.s3.clone(), deployment.table.clone(), deployment.config.clone());
    Ok(Scan::open(s3, table, config, selection.clone()).await?)
}

/// How long the steps of one image took when it was answered.
async fn measured_time(deployment: &Deployment, stage: &str, key: &str) -> anyhow::Result<Option<Duration>> {
    let image = ImageKey { bucket: deployment.config.input_bucket.clone(), key: key.to_owned() };
    let record = deployment.table.current(&image, stage).await?.map(|(record, _)| record);
    let times = record.and_then(|record| record.timings_ms);
    let total_ms = times.map(|ms| ms.fetch + ms.decode + ms.preprocess + ms.infer);
    Ok(total_ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok()))
}

/// Shows the plan, and asks. Returns whether to start.
async fn approve(plan: &Plan, arguments: &BackfillArguments) -> Result<bool, Failed> {
    if !arguments.json {
        say(&shown_plan(plan))?;
    }
    if plan.totals.pending == 0 {
        if arguments.json {
            print_outcome(Some(plan), Some(&Done { completed: true, ..Done::default() }))?;
        }
        return Ok(false);
    }
    if arguments.yes {
        return Ok(true);
    }
    let stop = |reason: &str| {
        if arguments.json {
            print_outcome(Some(plan), None)?;
        }
        Err(Failed::Usage(anyhow!("nothing was started: {reason}; pass --yes to start without a question")))
    };
    if arguments.json {
        return stop("--json does not ask");
    }
    if !std::io::stdin().is_terminal() {
        return stop("not a terminal");
    }
    let approved = tokio::select! {
        answer = question::is_confirmed("Start?") => answer?,
        _ = tokio::signal::ctrl_c() => false,
    };
    if !approved {
        say("Nothing was started.\n")?;
    }
    Ok(approved)
}

fn shown_plan(plan: &Plan) -> String {
    let Plan { selection, totals, price, .. } = plan;
    let lacking = match &selection.model_sha256 {
        None => "have no result of their current version".to_owned(),
        Some(model) => format!("have no result of their current version by model {}", &model[..12]),
    };
    let mut text = format!(
        "{} of {} images of s3://{}/{} {lacking} in {}.\n",
        totals.pending,
        totals.images,
        selection.bucket,
        output::printable(&selection.prefix),
        selection.stage
    );
    if totals.pending == 0 {
        text.push_str("There is nothing to do.\n");
        return text;
    }
    let concurrency = match plan.way {
        Way::Local { concurrency } => {
            text.push_str("Price  0 USD: the local stack answers them on this machine.\n");
            concurrency
        }
        Way::S3Batch { concurrency, .. } => {
            text.push_str(&format!(
                "Price  about {:.2} USD, by list prices of {} of {}, without discounts, free tier and tax:\n",
                price.total_usd, price.region, price.prices_as_of
            ));
            for line in &price.lines {
                let name = line.charge.price().name;
                text.push_str(&format!(
                    "  {name:<30} {:>16} {:>12.4} USD\n",
                    shown_quantity(line.charge, line.quantity),
                    line.usd
                ));
            }
            concurrency
        }
    };
    let basis = match plan.measured_images {
        0 => "per image, assumed because none is answered yet".to_owned(),
        measured => format!("per image, measured on {measured} answered images"),
    };
    text.push_str(&format!(
        "Time   about {}: {:.0} ms {basis}, {concurrency} at once; live uploads go first.\n",
        shown_length(plan.seconds),
        plan.image_ms
    ));
    text
}

fn shown_quantity(charge: Charge, quantity: f64) -> String {
    match charge {
        Charge::LambdaGbSecondArm64 | Charge::LambdaGbSecondX86 => format!("{quantity:.1}"),
        _ => format!("{quantity:.0}"),
    }
}

/// A duration for people.
fn shown_length(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{:.0} s", s.ceil()),
        s if s < 5_400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Counts what is left, names some of it, and reports the end.
async fn conclude(deployment: &Deployment, plan: &Plan, mut done: Done, json: bool) -> Result<(), Failed> {
    let mut left: Vec<Upload> = Vec::new();
    let counted = walk(deployment, &plan.selection, async |page: ScannedPage| {
        left.extend(page.pending.into_iter().take(SHOWN_IMAGES - left.len()));
        Ok(())
    });
    let (totals, _) = tokio::select! {
        counted = counted => counted?,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failed::Work(anyhow!("stopped while counting the rest; everything that was sent is \
                answered")));
        }
    };
    let reasons = reasons_of(deployment, &plan.selection, &left).await?;
    for (upload, reason) in left.iter().zip(reasons) {
        complain(&format!("giemsa: not answered: {}: {reason}", upload.key));
    }
    done.left = Some(totals.pending);
    print_end(plan, done, json)?;
    match totals.pending {
        0 => Ok(()),
        left => Err(Failed::Work(anyhow!(
            "{left} images are not answered; see the classifier's log, and run the command again to continue"
        ))),
    }
}

/// Why uploads are not answered, as far as the classifier noted it.
async fn reasons_of(
    deployment: &Deployment,
    selection: &Selection,
    uploads: &[Upload],
) -> anyhow::Result<Vec<String>> {
    let names: Vec<(&str, &str)> =
        uploads.iter().map(|upload| (upload.key.as_str(), upload.object_version())).collect();
    let notes = deployment.table.failures_of(&selection.bucket, &names, &selection.stage).await?;
    let reason = |(key, version): &(&str, &str)| {
        let note = notes.get(&((*key).to_owned(), (*version).to_owned()));
        note.map_or_else(|| "no reason was noted".to_owned(), |note| note.reason.clone())
    };
    Ok(names.iter().map(reason).collect())
}

/// Reports what became of a backfill whose `left` is counted.
fn print_end(plan: &Plan, done: Done, json: bool) -> Result<(), Failed> {
    if json {
        return print_outcome(Some(plan), Some(&done));
    }
    let left = done.left.unwrap_or_default();
    say(&format!("{} images answered; {left} left.\n", plan.totals.pending.saturating_sub(left)))
}

/// Follows an existing job.
async fn follow(jobs: &BatchJobs, job_id: &str, arguments: &BackfillArguments) -> Result<(), Failed> {
    let job = batch::watch(jobs, job_id).await?;
    let done = Done { completed: job.status == "Complete", job: Some(job.clone()), left: None };
    if arguments.json {
        print_outcome(None, Some(&done))?;
    } else {
        say(&format!("{}\n", batch::shown_job(&job)))?;
    }
    match (done.completed, job.failed) {
        (true, 0) => Ok(()),
        (true, failed) => Err(Failed::Work(anyhow!(
            "{failed} tasks failed, including those of rejected images; run the same backfill again for \
             images without an answer"
        ))),
        (false, _) => Err(batch::ended_early(&job)),
    }
}

fn print_outcome(plan: Option<&Plan>, outcome: Option<&Done>) -> Result<(), Failed> {
    print(true, &Document { plan, outcome }, |_| String::new())
}

fn say(text: &str) -> Result<(), Failed> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(anyhow::Error::from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use giemsa_core::price::Architecture;

    use super::*;

    #[test]
    fn a_plan_on_aws_shows_how_its_price_is_made() {
        let selection = Selection {
            stage: "prod".to_owned(),
            bucket: "in".to_owned(),
            prefix: "archive-2025/".to_owned(),
            since: None,
            until: None,
            model_sha256: None,
        };
        let totals = Totals { images: 1_000_000, pending: 1_000_000 };
        let way = Way::S3Batch { concurrency: 10, architecture: Architecture::Arm64 };
        let plan = Plan::of(selection, totals, way, &[Duration::from_millis(200); 20]);
        // As in docs/backfill.md.
        let expected = "\
1000000 of 1000000 images of s3://in/archive-2025/ have no result of their current version in prod.
Price  about 24.69 USD, by list prices of us-east-1 of 2026-11, without discounts, free tier and tax:
  Lambda GB-seconds, arm64               518261.7       6.9102 USD
  Lambda requests                         1000000       0.2000 USD
  S3 PUT and LIST requests                1001000       5.0050 USD
  S3 GET requests                         3000000       1.2000 USD
  DynamoDB write units                   16000000      10.0000 USD
  DynamoDB read units                     1000000       0.1250 USD
  S3 Batch Operations jobs                      1       0.2500 USD
  S3 Batch Operations objects             1000000       1.0000 USD
Time   about 8.3 h: 300 ms per image, measured on 20 answered images, 10 at once; live uploads go first.
";
        assert_eq!(shown_plan(&plan), expected);
        let documentation = include_str!("../../../docs/backfill.md");
        for line in expected.lines() {
            assert!(documentation.contains(line), "docs/backfill.md lacks {line:?}");
        }
        for price in plan.price.lines.iter().map(|line| line.charge.price()) {
            assert!(documentation.contains(price.name) && documentation.contains(price.source), "{price:?}");
        }
    }

    #[test]
    fn lengths_are_shown_in_a_fitting_unit() {
        for (seconds, shown) in
            [(0.2, "1 s"), (89.0, "89 s"), (600.0, "10 min"), (9_000.0, "2.5 h"), (345_600.0, "4.0 days")]
        {
            assert_eq!(shown_length(seconds), shown);
        }
    }
}
