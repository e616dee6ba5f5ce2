//! `giemsa model history` and `at`: only what commands and functions recorded; nothing is filled in.

use chrono::{DateTime, Utc};
use giemsa_ops::release::{Event, HistoryEntry};
use giemsa_store::{AnsweredQuery, ReleaseState};
use serde::Serialize;

use super::super::{Failed, output};
use super::{Deployment, PROD, parse_stage, parse_time, print, short, shown_model, shown_time};

#[derive(Debug, clap::Args)]
pub struct HistoryArguments {
    /// The stage.
    #[arg(long, default_value = PROD, value_parser = parse_stage)]
    stage: String,
}

#[derive(Debug, clap::Args)]
pub struct AtArguments {
    /// The time, e.g. "2026-11-22 14:30" (UTC) or 2026-11-22T14:30:00+01:00.
    #[arg(value_parser = parse_time)]
    time: DateTime<Utc>,
    /// The stage.
    #[arg(long, default_value = PROD, value_parser = parse_stage)]
    stage: String,
}

#[derive(Debug, Serialize)]
struct At {
    stage: String,
    time: DateTime<Utc>,
    /// The line of the history that was in effect; absent if nothing was released by then.
    release: Option<HistoryEntry>,
    /// Images whose current result this model made.
    results: u64,
}

/// Shows the history, newest first.
pub async fn run(arguments: &HistoryArguments, json: bool) -> Result<(), Failed> {
    let deployment = Deployment::of_environment(&arguments.stage).await?;
    let mut history = deployment.releaser().history(&arguments.stage).await.map_err(anyhow::Error::from)?;
    history.entries.reverse();
    print(json, &history, |history| {
        if history.entries.is_empty() {
            return format!("{} has no history: no model was released or served yet", arguments.stage);
        }
        let mut table = output::new_table(["when", "what", "model", "sha256", "who", "why"]);
        for entry in &history.entries {
            table.add_row([
                shown_time(entry.at),
                shown_event(entry),
                output::printable(&format!("{} {}", entry.model.name, entry.model.version)),
                short(&entry.model.sha256).to_owned(),
                output::printable(entry.who.as_deref().unwrap_or("?")),
                output::printable(entry.why.as_deref().unwrap_or("")),
            ]);
        }
        table.trim_fmt()
    })
}

/// Shows what was in production at a time.
pub async fn at(arguments: &AtArguments, json: bool) -> Result<(), Failed> {
    let deployment = Deployment::of_environment(&arguments.stage).await?;
    let history = deployment.releaser().history(&arguments.stage).await.map_err(anyhow::Error::from)?;
    let release = history.at(arguments.time).cloned();
    let results = match &release {
        Some(entry) => {
            let (stage, sha256) = (arguments.stage.clone(), entry.model.sha256.clone());
            let query = AnsweredQuery { stage, sha256, since: None };
            deployment.table.count_answered(&query).await.map_err(anyhow::Error::from)?
        }
        None => 0,
    };
    let at = At { stage: arguments.stage.clone(), time: arguments.time, release, results };
    print(json, &at, |at| match &at.release {
        None => format!("{} had no model at {}", at.stage, shown_time(at.time)),
        Some(entry) => {
            let who = entry.who.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
            let why = entry.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            output::printable(&format!(
                "at {} {} served {}, since {} ({}{who}{why})",
                shown_time(at.time),
                at.stage,
                shown_model(&entry.model),
                shown_time(entry.at),
                shown_event(entry),
            )) + &format!("\n{} images have their current result from it", at.results)
        }
    })
}

fn shown_event(entry: &HistoryEntry) -> String {
    let event = match entry.event {
        Event::Promote => "promote",
        Event::Rollback => "rollback",
        Event::Force => "promote by force",
        Event::Copy => "copied",
    };
    match entry.state {
        ReleaseState::Released => event.to_owned(),
        ReleaseState::Started => format!("{event}, no end recorded"),
        ReleaseState::Lost => format!("{event}, lost to another release"),
        ReleaseState::Failed => format!("{event}, failed"),
    }
}
