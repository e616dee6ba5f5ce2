//! `giemsa dlq …`: shows what was given up and why, and sends it to its queue again.
//!
//! However a command ends, every message that it read and left is visible again at once, or within five minutes if the
//! command is killed.

mod explain;
mod list;
mod redrive;

use std::future::Future;

use anyhow::Context;
use clap::Subcommand;
use giemsa_store::queues::{DeadLetters, QueueClient, QueueClientError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::model::{PROD, parse_stage};
use super::{Failed, complain};

#[derive(Debug, clap::Args)]
pub struct DlqArguments {
    #[command(flatten)]
    selection: Selection,
    #[command(subcommand)]
    verb: Verb,
}

/// Which messages.
#[derive(Debug, clap::Args)]
struct Selection {
    /// The stage.
    #[arg(long, global = true, default_value = PROD, value_parser = parse_stage)]
    stage: String,
    /// Queue whose dead letters to use, e.g. backfill-prod or gate; default: the queue of the stage's
    /// classifier.
    #[arg(long, global = true, value_name = "NAME")]
    queue: Option<String>,
    /// Only messages with this text in s3://<bucket>/<key> of an image in them, in their reason or in their
    /// message id.
    #[arg(long = "match", global = true, value_name = "TEXT")]
    text: Option<String>,
    /// Print one JSON document instead of text (docs/dead-letters.md describes it).
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what is in the dead-letter queue, why, how often it was tried and since when. Removes nothing.
    List,
    /// Send messages to their queue again; those that --match does not select stay.
    Redrive(RedriveArguments),
}

#[derive(Debug, clap::Args)]
struct RedriveArguments {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Carries out a verb.
pub async fn run(arguments: &DlqArguments) -> Result<(), Failed> {
    let interrupted = Interrupted::followed()?;
    match &arguments.verb {
        Verb::List => list::run(&arguments.selection, &interrupted).await,
        Verb::Redrive(more) => redrive::run(&arguments.selection, more.yes, &interrupted).await,
    }
}

/// Whether the user wants the command to end. It is checked between pages: an interrupted request would leave
/// its messages hidden.
#[derive(Debug, Clone)]
struct Interrupted(watch::Receiver<bool>);

impl Interrupted {
    fn followed() -> anyhow::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("Ctrl-C cannot be waited for")?;
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
        let (flag, interrupted) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            complain("Stopping: releasing the messages first.");
            flag.send_replace(true);
            // Kept until the process ends, so that the end of this task does not look like an interrupt.
            flag.closed().await;
        });
        Ok(Self(interrupted))
    }

    fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the user wants the command to end.
    async fn wait(&self) {
        // An error means that the other side is gone, which is as good a reason to end.
        let _ = self.0.clone().wait_for(|is_set| *is_set).await;
    }
}

/// Goes through the dead letters of the selected queue: releases every message at the end, however `work` ended.
async fn pass<T, F>(messages: DeadLetters, work: impl FnOnce(DeadLetters) -> F) -> Result<T, Failed>
where
    F: Future<Output = (DeadLetters, Result<T, Failed>)>,
{
    let (mut messages, done) = work(messages).await;
    let released = messages.release_all().await;
    let done = done?;
    released.map_err(anyhow::Error::from)?;
    Ok(done)
}

async fn queue_of(selection: &Selection) -> Result<QueueClient, Failed> {
    let found = match &selection.queue {
        Some(name) => QueueClient::named(name).await,
        None => QueueClient::of_stage(&selection.stage).await,
    };
    found.map_err(|error| match error {
        QueueClientError::Config(_) => Failed::Usage(error.into()),
        _ => Failed::Work(error.into()),
    })
}
