//! `giemsa dlq redrive`: sends all dead letters, or those that match, back to their queue.
//!
//! A message is deleted only after its queue has it again. Interrupted at any moment, each message is in at least one
//! of the two queues, and a second run continues with the rest.

use std::io::IsTerminal;

use anyhow::{Context, anyhow};
use chrono::Utc;
use giemsa_store::queues::{DeadLetter, DeadLetters};
use serde::Serialize;

use super::super::model::{Deployment, print};
use super::super::{Failed, complain, output, question};
use super::explain::explain_page;
use super::{Interrupted, Selection, pass, queue_of};

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Done {
    queue: String,
    dead_letter_queue: String,
    redriven: u64,
    /// Messages that did not match, or came while it ran.
    left: u64,
    complete: bool,
}

/// Sends messages to their queue.
pub(super) async fn run(
    selection: &Selection,
    is_agreed: bool,
    interrupted: &Interrupted,
) -> Result<(), Failed> {
    if !is_agreed && !std::io::stdin().is_terminal() {
        return Err(Failed::Usage(anyhow!("not a terminal: pass --yes to skip confirmation")));
    }
    let deployment = Deployment::of_environment(&selection.stage).await?;
    let queue = queue_of(selection).await?;
    let messages = queue.dead_letters().await.map_err(anyhow::Error::from)?;
    let dead_letter_queue = messages.queue().name().to_owned();
    let (count, seen) = match &selection.text {
        None => {
            let visible = messages.queue().depth().await.map_err(anyhow::Error::from)?.visible;
            (visible, visible)
        }
        Some(_) => {
            pass(messages, |mut messages| async {
                let done =
                    count(&deployment, selection, &mut messages, interrupted).await.map_err(Failed::from);
                (messages, done)
            })
            .await?
        }
    };
    if interrupted.is_set() {
        return Err(Failed::Work(anyhow!("interrupted: nothing was sent")));
    }
    let (from, to) = (output::printable(&dead_letter_queue), output::printable(queue.name()));
    complain(&format!("{} of {seen} in {from} will be sent to {to}.", messages_text(count)));
    if count > 0 && !is_agreed && !is_confirmed(interrupted).await? {
        return Err(Failed::Work(anyhow!("not confirmed: nothing was sent")));
    }
    let mut done = Done { queue: queue.name().to_owned(), dead_letter_queue, ..Done::default() };
    if count == 0 {
        done = Done { left: seen, complete: true, ..done };
        return print(selection.json, &done, |done| format!("nothing to send, {} left in {from}", done.left));
    }
    let bar = output::progress("redriven", usize::try_from(count).unwrap_or(usize::MAX));
    let messages = queue.dead_letters().await.map_err(anyhow::Error::from)?;
    // What is done so far is said in any case.
    let ended = pass(messages, |mut messages| async {
        let ended = redrive(&deployment, selection, &mut messages, interrupted, &mut done, |count| {
            bar.set_position(count)
        });
        let ended = ended.await.map_err(Failed::from);
        (messages, ended)
    })
    .await;
    bar.finish_and_clear();
    print(selection.json, &done, |done| {
        format!("{} sent to {to}, {} left in {from}", messages_text(done.redriven), done.left)
    })?;
    ended?;
    if done.complete {
        Ok(())
    } else {
        Err(Failed::Work(anyhow!(
            "interrupted; run the command again to \
        continue"
        )))
    }
}

/// How many messages match, and how many there are.
async fn count(
    deployment: &Deployment,
    selection: &Selection,
    messages: &mut DeadLetters,
    interrupted: &Interrupted,
) -> anyhow::Result<(u64, u64)> {
    let (mut count, mut seen) = (0, 0);
    while !interrupted.is_set() {
        let page = messages.next_page().await?;
        if page.is_empty() {
            break;
        }
        seen += page.len() as u64;
        count += matching(deployment, selection, page).await?.len() as u64;
    }
    Ok((count, seen))
}

async fn redrive(
    deployment: &Deployment,
    selection: &Selection,
    messages: &mut DeadLetters,
    interrupted: &Interrupted,
    done: &mut Done,
    progress: impl Fn(u64),
) -> anyhow::Result<()> {
    let started_at = Utc::now();
    while !interrupted.is_set() {
        let mut page = messages.next_page().await?;
        if page.is_empty() {
            done.complete = true;
            break;
        }
        let seen = page.len() as u64;
        // What this run has sent and is dead again already would go round for ever.
        page.retain(|message| message.sent_at.is_none_or(|sent_at| sent_at <= started_at));
        let wanted = matching(deployment, selection, page).await?;
        messages.redrive(&wanted).await.context(
            "messages that were not sent stay; run the command again to \
            continue",
        )?;
        done.redriven += wanted.len() as u64;
        done.left += seen - wanted.len() as u64;
        progress(done.redriven);
    }
    Ok(())
}

/// The messages of a page that are selected.
async fn matching(
    deployment: &Deployment,
    selection: &Selection,
    page: Vec<DeadLetter>,
) -> anyhow::Result<Vec<DeadLetter>> {
    let Some(text) = &selection.text else { return Ok(page) };
    let explained = explain_page(deployment, &selection.stage, &page).await?;
    let pairs = page.into_iter().zip(explained);
    Ok(pairs.filter(|(_, explained)| explained.matches(text)).map(|(message, _)| message).collect())
}

fn messages_text(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

/// Asks on the terminal. No messages are hidden meanwhile, so there is no hurry.
async fn is_confirmed(interrupted: &Interrupted) -> anyhow::Result<bool> {
    tokio::select! {
        answer = question::is_confirmed("Send?") => answer,
        () = interrupted.wait() => Ok(false),
    }
}
