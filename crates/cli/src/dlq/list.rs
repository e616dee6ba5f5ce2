//! `giemsa dlq list`: the dead letters, page by page. A second list right after shows the same.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use giemsa_store::queues::DeadLetters;
use serde_json::json;

use super::super::model::Deployment;
use super::super::{Failed, output};
use super::explain::{Explained, UploadState, explain_page};
use super::{Interrupted, Selection, pass, queue_of};

/// Rows of one table; a longer list has several.
const ROWS: usize = 200;

/// How many messages there are of each kind.
#[derive(Debug, Default, serde::Serialize)]
struct QueueCounts {
    messages: u64,
    unanswered: u64,
    answered: u64,
    other_upload_answered: u64,
    other_bucket: u64,
    without_upload: u64,
}

impl QueueCounts {
    /// A message counts by the worst of its uploads.
    fn add(&mut self, message: &Explained) {
        self.messages += 1;
        let has = |state| message.uploads.iter().any(|upload| upload.state == state);
        if message.uploads.is_empty() {
            self.without_upload += 1;
        } else if has(UploadState::Unanswered) {
            self.unanswered += 1;
        } else if has(UploadState::OtherBucket) {
            self.other_bucket += 1;
        } else if has(UploadState::OtherUploadAnswered) {
            self.other_upload_answered += 1;
        } else {
            self.answered += 1;
        }
    }

    fn text(&self, queue: &str) -> String {
        let kinds = [
            (self.unanswered, "not answered"),
            (self.answered, "answered meanwhile"),
            (self.other_upload_answered, "with an answer of another upload"),
            (self.other_bucket, "for other buckets"),
            (self.without_upload, "not about an upload"),
        ];
        let kinds =
            kinds.iter().filter(|(count, _)| *count > 0).map(|(count, kind)| format!("{count} {kind}"));
        let kinds: Vec<String> = kinds.collect();
        match self.messages {
            0 => format!("No dead letters in {queue}."),
            1 => format!("1 dead letter in {queue}: {}.", kinds.join(", ")),
            messages => format!("{messages} dead letters in {queue}: {}.", kinds.join(", ")),
        }
    }
}

/// Lists the messages.
pub(super) async fn run(selection: &Selection, interrupted: &Interrupted) -> Result<(), Failed> {
    let deployment = Deployment::of_environment(&selection.stage).await?;
    let messages = queue_of(selection).await?.dead_letters().await.map_err(anyhow::Error::from)?;
    pass(messages, |mut messages| async move {
        let done = list(&deployment, selection, &mut messages, interrupted).await.map_err(Failed::from);
        (messages, done)
    })
    .await
}

async fn list(
    deployment: &Deployment,
    selection: &Selection,
    messages: &mut DeadLetters,
    interrupted: &Interrupted,
) -> anyhow::Result<()> {
    let mut printer = Printer::new(selection.json, messages.queue().name());
    printer.begin()?;
    let mut is_complete = false;
    while !interrupted.is_set() {
        let page = messages.next_page().await?;
        if page.is_empty() {
            is_complete = true;
            break;
        }
        for message in explain_page(deployment, &selection.stage, &page).await? {
            if selection.text.as_ref().is_none_or(|text| message.matches(text)) {
                printer.add(message)?;
            }
        }
    }
    printer.end(is_complete)?;
    anyhow::ensure!(is_complete, "interrupted: the list is not complete");
    Ok(())
}

/// Prints messages as they come, with no more than a table of them in memory.
struct Printer {
    is_json: bool,
    queue: String,
    counts: QueueCounts,
    rows: Vec<Explained>,
}

impl Printer {
    fn new(is_json: bool, queue: &str) -> Self {
        Self { is_json, queue: queue.to_owned(), counts: QueueCounts::default(), rows: Vec::new() }
    }

    fn begin(&self) -> anyhow::Result<()> {
        if self.is_json {
            write!(
                io::stdout().lock(),
                "{{\n\"dead_letter_queue\": {},\n\"messages\": [",
                json!(self.queue)
            )?;
        }
        Ok(())
    }

    fn add(&mut self, message: Explained) -> anyhow::Result<()> {
        self.counts.add(&message);
        if self.is_json {
            let comma = if self.counts.messages > 1 { "," } else { "" };
            write!(io::stdout().lock(), "{comma}\n{}", serde_json::to_string(&message)?)?;
            return Ok(());
        }
        self.rows.push(message);
        if self.rows.len() == ROWS { self.print_rows() } else { Ok(()) }
    }

    fn end(&mut self, is_complete: bool) -> anyhow::Result<()> {
        if self.is_json {
            let counts = serde_json::to_string(&self.counts)?;
            let end = format!("\n],\n\"counts\": {counts},\n\"complete\": {is_complete}\n}}");
            writeln!(io::stdout().lock(), "{end}")?;
            return Ok(());
        }
        self.print_rows()?;
        writeln!(io::stdout().lock(), "{}", output::printable(&self.counts.text(&self.queue)))?;
        Ok(())
    }

    fn print_rows(&mut self) -> anyhow::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut table = output::new_table(["image", "now", "tries", "sent", "dead since", "why"]);
        for message in self.rows.drain(..) {
            let row = |image: &str, now: &str, why: Option<&str>| {
                [
                    output::printable(image),
                    now.to_owned(),
                    message.tries.map_or_else(|| "–".to_owned(), |tries| tries.to_string()),
                    shown_minute(message.sent_at),
                    shown_minute(message.dead_since),
                    beginning(&output::printable(why.or(message.reason.as_deref()).unwrap_or("not noted"))),
                ]
            };
            if message.uploads.is_empty() {
                table.add_row(row(&message.title(), "no upload", None));
            }
            for upload in &message.uploads {
                let why = upload.failure.as_ref().map(|note| note.reason.as_str());
                table.add_row(row(&upload.address(), upload.state.text(), why));
            }
        }
        writeln!(io::stdout().lock(), "{}\n", table.trim_fmt())?;
        Ok(())
    }
}

/// As much of a reason as leaves a row readable; `--json` has all of it.
fn beginning(reason: &str) -> String {
    const LONGEST: usize = 80;
    match reason.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}

fn shown_minute(time: Option<DateTime<Utc>>) -> String {
    time.map_or_else(|| "–".to_owned(), |time| time.format("%Y-%m-%d %H:%M").to_string())
}
