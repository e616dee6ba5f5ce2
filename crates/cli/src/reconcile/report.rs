//! What `giemsa reconcile` prints.
//!
//! Stdout has a line for each upload that is not in order, then the summary. In JSON the keys are exact; text shows them
//! without control characters.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write};

use anyhow::anyhow;
use chrono::{DateTime, SecondsFormat, Utc};
use giemsa_ops::reconcile::{Counts, Finding, State};
use serde::Serialize;

use super::super::output;

/// What the run is about.
#[derive(Debug, Clone, Serialize)]
pub struct Heading {
    /// The input bucket.
    pub bucket: String,
    /// The stage.
    pub stage: String,
    /// Beginning of the keys.
    pub prefix: String,
    /// First upload time.
    pub since: Option<DateTime<Utc>>,
    /// What listed the uploads: `objects`, `versions` or `inventory`.
    pub listed_by: &'static str,
}

/// One upload that is not fine, as a line of JSON.
#[derive(Serialize)]
struct UploadLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    state: State,
    bucket: &'a str,
    key: &'a str,
    version_id: Option<&'a str>,
    etag: &'a str,
    size_bytes: u64,
    uploaded_at: String,
    reason: Option<String>,
    tries: Option<u64>,
    last_failed_at: Option<DateTime<Utc>>,
}

/// The last line of JSON.
#[derive(Serialize)]
struct SummaryLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    heading: &'a Heading,
    /// Whether every upload has its result.
    complete: bool,
    #[serde(flatten)]
    counts: &'a Counts,
}

/// Prints findings as they come.
#[derive(Debug)]
pub struct Report {
    json: bool,
    heading: Heading,
}

impl Report {
    pub fn new(json: bool, heading: Heading) -> Self {
        Self { json, heading }
    }

    /// Prints the uploads of a page that are not fine.
    pub fn write_page(&self, findings: &[Finding]) -> anyhow::Result<()> {
        let mut text = String::new();
        for finding in findings.iter().filter(|finding| !finding.state.is_fine()) {
            text.push_str(&self.line(finding)?);
            text.push('\n');
        }
        write_out(&text)
    }

    fn line(&self, finding: &Finding) -> anyhow::Result<String> {
        let upload = &finding.upload;
        let uploaded_at = upload.uploaded_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        if self.json {
            let failure = finding.failure.as_ref();
            return Ok(serde_json::to_string(&UploadLine {
                kind: "upload",
                state: finding.state,
                bucket: &self.heading.bucket,
                key: &upload.key,
                version_id: upload.version_id(),
                etag: &upload.etag,
                size_bytes: upload.size_bytes,
                uploaded_at,
                reason: finding.reason(),
                tries: failure.map(|failure| failure.tries),
                last_failed_at: failure.map(|failure| failure.last_failed_at),
            })?);
        }
        let version = upload.version_id().map(|id| format!(" (version {id})")).unwrap_or_default();
        let mut line = format!(
            "{:<10}  {uploaded_at}  {}{}",
            finding.state.as_str(),
            output::neutralised(&upload.key),
            output::printable(&version)
        );
        if let Some(reason) = finding.reason() {
            write!(line, "\n            {}", output::printable(&reason)).expect("a string takes text");
        }
        Ok(line)
    }

    /// Prints the counts.
    pub fn write_summary(&self, counts: &Counts) -> anyhow::Result<()> {
        if self.json {
            let complete = counts.open() == 0;
            let line = SummaryLine { kind: "summary", heading: &self.heading, complete, counts };
            return write_out(&format!("{}\n", serde_json::to_string(&line)?));
        }
        let Heading { bucket, stage, prefix, since, listed_by } = &self.heading;
        let mut text = format!(
            "{}{} {listed_by} of s3://{bucket}/{}{} against the results of stage {stage}\n\n",
            // Apart from the list above it.
            if counts.open() > 0 { "\n" } else { "" },
            counts.uploads,
            output::printable(prefix),
            since.map(|t| format!(" since {}", t.format("%Y-%m-%d %H:%M UTC"))).unwrap_or_default(),
        );
        for state in State::ALL {
            let codes = match state {
                State::Rejected => shown_codes(counts),
                _ => String::new(),
            };
            writeln!(text, "  {:<10} {:>10}{codes}", state.as_str(), counts.of(state))?;
        }
        if counts.left_out > 0 {
            writeln!(text, "  {:<10} {:>10}   folder markers, system files", "left out", counts.left_out)?;
        }
        if counts.sent > 0 {
            writeln!(
                text,
                "\n{} uploads sent to the queue again; run again later without --fix to see whether they \
                 are answered.",
                counts.sent
            )?;
        }
        if counts.deleted > 0 {
            writeln!(
                text,
                "\n{} of these results count although their image was deleted from the bucket. To remove \
                 them from every figure:\n\
                 giemsa results withdraw KEY (or FOLDER/) --reason …",
                counts.deleted
            )?;
        }
        if counts.open() == 0 {
            writeln!(text, "\nEvery upload has its result.")?;
        }
        write_out(&text)
    }
}

fn shown_codes(counts: &Counts) -> String {
    let codes: Vec<String> = counts
        .reject_codes
        .iter()
        .map(|(code, count)| format!("{} {count}", output::printable(code)))
        .collect();
    if codes.is_empty() { String::new() } else { format!("   {}", codes.join(", ")) }
}

/// A reader that goes away must not look like a proof: other commands end with success then.
fn write_out(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => {
            anyhow!("the output was closed: ended before every upload was checked")
        }
        _ => error.into(),
    })
}
