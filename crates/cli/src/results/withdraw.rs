//! `giemsa results withdraw` and `restore`: remove images from what counts, and bring them back.
//!
//! Neither deletes anything or changes a model's answer. Nothing is written before the user has seen how many images of
//! which slides are concerned, unless `--yes` is given.

use std::collections::BTreeMap;

use anyhow::anyhow;
use chrono::Utc;
use giemsa_config::{stages_of_command, user_name};
use giemsa_core::object::{slide_name, slide_of_key};
use giemsa_core::record::Record;
use giemsa_store::{ResultQuery, StoreError, TableWriter, Withdrawal, WithdrawalAction};
use serde::Serialize;

use super::super::model::{Deployment, print};
use super::super::{Failed, complain, output, question};
use super::pages::{PAGE, Pages, failed};
use super::{deployment_of, image_named, until_interrupted};

/// Slides and images that are named.
const SHOWN: usize = 10;

/// Longest reason, bytes.
const MAX_REASON_BYTES: usize = 1_000;

#[derive(Debug, clap::Args)]
pub struct WithdrawArguments {
    /// Key of the image, or s3://<bucket>/<key>; with a / at its end, or with --prefix, all images whose keys begin so.
    key: String,
    /// Why; stays in the image's history.
    #[arg(long, value_parser = parse_reason)]
    reason: String,
    /// Take the key for the beginning of keys, though it has no / at its end.
    #[arg(long)]
    prefix: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Who does it; default: `GIEMSA_USER`, or the name of the system's user.
    #[arg(long)]
    who: Option<String>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

fn parse_reason(text: &str) -> Result<String, String> {
    let reason = text.trim();
    if reason.is_empty() || reason.len() > MAX_REASON_BYTES || reason.chars().any(char::is_control) {
        return Err(format!("expected a sentence of 1 to {MAX_REASON_BYTES} bytes on one line"));
    }
    Ok(reason.to_owned())
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Done {
    /// Images that were withdrawn, or brought back.
    changed: u64,
    /// Images that already were in that state.
    unchanged: u64,
    /// Images that could not be, with the reason.
    failed: Vec<NotDone>,
}

#[derive(Debug, Serialize)]
struct NotDone {
    key: String,
    reason: String,
}

/// Withdraws images or brings them back.
pub(super) async fn run(
    stage: &str,
    arguments: &WithdrawArguments,
    action: WithdrawalAction,
) -> Result<(), Failed> {
    let left = "changes so far stay; run it again to continue";
    until_interrupted(change(stage, arguments, action), left).await
}

async fn change(stage: &str, arguments: &WithdrawArguments, action: WithdrawalAction) -> Result<(), Failed> {
    let deployment = deployment_of(stage).await?;
    let stages = stages_of_command().map_err(|error| Failed::Usage(error.into()))?;
    let (bucket, key) = image_named(&arguments.key, &deployment);
    if bucket != deployment.config.input_bucket {
        let error =
            anyhow!("{bucket:?} is not the input bucket; expected {:?}", deployment.config.input_bucket);
        return Err(Failed::Usage(error));
    }
    let is_prefix = arguments.prefix || key.ends_with(['/', '\\']);
    let found = match is_prefix {
        true => below(&deployment, key, &stages, action).await?,
        false => one(&deployment, key, &stages, action).await?,
    };
    if found.is_empty() {
        return Err(Failed::Work(none(key, is_prefix, action)));
    }
    complain(&plan(&found, &stages, action));
    if !arguments.yes && !question::is_confirmed("Go on?").await? {
        return Err(Failed::Work(anyhow!("not confirmed: nothing was changed")));
    }
    let writer = TableWriter::new(deployment.clients.dynamodb.clone(), &deployment.config.table);
    let by = arguments.who.clone().or_else(user_name).unwrap_or_else(|| "unknown".to_owned());
    let mut done = Done::default();
    let bar = output::progress(words(action).1, found.len());
    for (key, object_version) in found {
        let withdrawal = Withdrawal {
            bucket: bucket.to_owned(),
            slide: slide_of_key(&key),
            key,
            action,
            reason: arguments.reason.clone(),
            by: by.clone(),
            by_id: None,
            at: Utc::now(),
            object_version,
        };
        match writer.append_withdrawal(&withdrawal, &stages).await {
            Ok(true) => done.changed += 1,
            Ok(false) => done.unchanged += 1,
            Err(error @ StoreError::NotCurrent { .. }) => {
                done.failed.push(NotDone { key: withdrawal.key, reason: error.to_string() });
            }
            Err(error) => {
                let said = format!("{} images {}, then: {error}", done.changed, words(action).1);
                return Err(Failed::Work(anyhow!("{said}; run it again to continue")));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    for image in done.failed.iter().take(SHOWN) {
        complain(&format!("giemsa: {}", output::printable(&image.reason)));
    }
    print(arguments.json, &done, |done| told(done, arguments, action))?;
    match done.failed.len() {
        0 => Ok(()),
        left => Err(Failed::Work(anyhow!("{left} images were replaced meanwhile and were not changed"))),
    }
}

/// What is done, and that it was.
fn words(action: WithdrawalAction) -> (&'static str, &'static str) {
    match action {
        WithdrawalAction::Withdraw => ("withdrawn", "withdrawn"),
        WithdrawalAction::Restore => ("brought back", "restored"),
    }
}

fn none(key: &str, is_prefix: bool, action: WithdrawalAction) -> anyhow::Error {
    let (shown, hint) = (output::printable(key), "`giemsa results list` shows keys");
    match (is_prefix, action) {
        (true, WithdrawalAction::Withdraw) => {
            anyhow!("no image whose key begins with {shown:?} has a result that counts; {hint}")
        }
        (false, WithdrawalAction::Withdraw) => anyhow!(
            "{shown:?} has no result; expected the key of an image that was answered, or the beginning of keys with a / \
             at its end or with --prefix: {hint}"
        ),
        (true, WithdrawalAction::Restore) => {
            anyhow!("no image whose key begins with {shown:?} is withdrawn; {hint} with --withdrawn")
        }
        (false, WithdrawalAction::Restore) => {
            anyhow!("{shown:?} is not withdrawn; {hint} of withdrawn images with --withdrawn")
        }
    }
}

/// How many images of which slides are concerned.
fn plan(found: &BTreeMap<String, String>, stages: &[String], action: WithdrawalAction) -> String {
    let mut slides: BTreeMap<String, u64> = BTreeMap::new();
    for key in found.keys() {
        *slides.entry(slide_of_key(key)).or_default() += 1;
    }
    let mut lines: Vec<String> = slides
        .iter()
        .take(SHOWN)
        .map(|(slide, images)| {
            let slide = if slide.is_empty() { "(no folder)".to_owned() } else { output::printable(slide) };
            format!("  {slide}: {}", images_text(*images))
        })
        .collect();
    if slides.len() > SHOWN {
        lines.push(format!("  and {} more slides", slides.len() - SHOWN));
    }
    let what = match action {
        WithdrawalAction::Withdraw => "will no longer count in figures, lists, queues and exports of",
        WithdrawalAction::Restore => "will count again, in",
    };
    let images = images_text(found.len() as u64);
    format!("{images} {what} {}; nothing is deleted:\n{}", stages.join(" and "), lines.join("\n"))
}

fn told(done: &Done, arguments: &WithdrawArguments, action: WithdrawalAction) -> String {
    let mut text = format!("{} {}", images_text(done.changed), words(action).0);
    if done.unchanged > 0 {
        text.push_str(&format!(", {} already were", done.unchanged));
    }
    if action == WithdrawalAction::Withdraw {
        let prefix = if arguments.prefix { " --prefix" } else { "" };
        let key = output::printable(&arguments.key);
        text.push_str(&format!("; to undo: giemsa results restore '{key}'{prefix} --reason …"));
    }
    text
}

fn images_text(count: u64) -> String {
    if count == 1 { "1 image".to_owned() } else { format!("{count} images") }
}

/// The upload of one image that is concerned: that of its newest result.
async fn one(
    deployment: &Deployment,
    key: &str,
    stages: &[String],
    action: WithdrawalAction,
) -> Result<BTreeMap<String, String>, Failed> {
    let history =
        deployment.table.image(&deployment.config.input_bucket, key, stages).await.map_err(failed)?;
    let mut found = BTreeMap::new();
    let is_wanted = |record: &&Record| action == WithdrawalAction::Withdraw || record.withdrawn.is_some();
    if let Some(record) =
        history.results.iter().filter(is_wanted).max_by_key(|record| record.image.uploaded_at)
    {
        found.insert(key.to_owned(), record.image.object_version().to_owned());
    }
    Ok(found)
}

/// The uploads below a prefix that are concerned, by key: of several stages' results the newest.
async fn below(
    deployment: &Deployment,
    prefix: &str,
    stages: &[String],
    action: WithdrawalAction,
) -> Result<BTreeMap<String, String>, Failed> {
    // In one form, so that what looks the same is the same.
    let prefix = slide_name(prefix);
    let is_below = |record: &Record| slide_name(&record.image.key).starts_with(&prefix);
    let mut newest: BTreeMap<String, Record> = BTreeMap::new();
    for stage in stages {
        for slide in deployment.table.slides_below(stage, &prefix).await.map_err(failed)? {
            let query = ResultQuery {
                slide: Some(slide),
                withdrawn: action == WithdrawalAction::Restore,
                limit: PAGE,
                ..ResultQuery::of_stage(stage)
            };
            let mut pages = Pages::of(deployment.table.clone(), query, None);
            while let Some(page) = pages.next().await? {
                for record in page.into_iter().filter(is_below) {
                    let uploaded_at = record.image.uploaded_at;
                    let known = newest.get(&record.image.key);
                    if known.is_none_or(|known| uploaded_at > known.image.uploaded_at) {
                        newest.insert(record.image.key.clone(), record);
                    }
                }
            }
        }
    }
    let version = |record: Record| record.image.object_version().to_owned();
    Ok(newest.into_iter().map(|(key, record)| (key, version(record))).collect())
}
