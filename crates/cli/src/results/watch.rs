//! `giemsa results watch`: results as they arrive.
//!
//! The time of the answer counts, not that of the upload: an old image that is answered now is shown now. A result
//! since the start is printed once, also if the servers were unreachable meanwhile.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::time::Duration;

use anyhow::anyhow;
use chrono::{DateTime, TimeDelta, Utc};
use giemsa_core::record::Record;
use giemsa_store::{ImageKey, QueryError, ResultQuery, TableReader};
use tokio::signal::unix::{SignalKind, signal};

use super::super::form::{Form, FormArguments};
use super::super::model::{Deployment, parse_since, parse_slide};
use super::super::{Failed, complain};
use super::activity::active_slides;
use super::deployment_of;
use super::rows::{Rows, line};

/// Images of a slide that are asked for at once.
const CELLS: usize = 1_000;

/// How long after its last activity a slide is still checked: indexes lag, and clocks differ.
const LAG: TimeDelta = TimeDelta::seconds(15);

/// Longest pause while the servers are away.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct WatchArguments {
    #[command(flatten)]
    filters: WatchFilters,
    /// Seconds between looks.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=3_600))]
    interval: u16,
    #[command(flatten)]
    form: FormArguments,
}

/// Which results; a time is that of the answer.
#[derive(Debug, clap::Args)]
struct WatchFilters {
    /// Only of this slide.
    #[arg(long, value_parser = parse_slide)]
    slide: Option<String>,
    /// Only with this label.
    #[arg(long)]
    label: Option<String>,
    /// Only classified, or only rejected.
    #[arg(long, value_name = "STATUS", value_parser = super::parse_status)]
    status: Option<giemsa_core::record::Status>,
    /// Only of the model with this SHA-256.
    #[arg(long, value_name = "SHA256", value_parser = super::parse_digest)]
    model: Option<String>,
    /// Only what the model wants a human to look at; with =false only the rest.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    needs_review: Option<bool>,
    /// Begin with what was answered since a time, or so long ago: 1h, "2026-11-22 14:30"; default: now.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<DateTime<Utc>>,
}

impl WatchFilters {
    fn wants(&self, record: &Record) -> bool {
        self.label.as_ref().is_none_or(|label| record.label.as_ref() == Some(label))
            && self.status.is_none_or(|status| record.status == status)
            && self.model.as_ref().is_none_or(|sha256| record.model.sha256 == *sha256)
            && self.needs_review.is_none_or(|needs_review| record.needs_review == needs_review)
    }
}

/// Prints results until Ctrl-C or SIGTERM, which is its success.
pub(super) async fn run(stage: &str, arguments: &WatchArguments) -> Result<(), Failed> {
    let unavailable = |error| Failed::Work(anyhow!("Ctrl-C cannot be waited for: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    tokio::select! {
        done = watch(stage, arguments) => done,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

async fn watch(stage: &str, arguments: &WatchArguments) -> Result<(), Failed> {
    let form = arguments.form.form()?;
    let deployment = deployment_of(stage).await?;
    let mut printer = Printer::new(form)?;
    let mut watcher = Watcher::new(&deployment, stage, &arguments.filters);
    let interval = Duration::from_secs(arguments.interval.into());
    let mut pause = interval;
    complain(&format!("Watching the results of {stage}; Ctrl-C ends it."));
    loop {
        match watcher.look(&mut printer).await {
            Ok(()) => {
                if pause > interval {
                    complain("Reconnected. Results that arrived meanwhile are above.");
                }
                pause = interval;
            }
            Err(Looked::Unprinted(error)) => return Err(error.into()),
            Err(Looked::Unread(error)) => {
                if pause == interval {
                    complain(&format!("giemsa: {error}; retrying until it works"));
                }
                pause = (pause * 2).min(LONGEST_PAUSE.max(2 * interval));
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Why a look was not finished.
enum Looked {
    /// Nobody takes the output.
    Unprinted(anyhow::Error),
    /// The servers do not answer.
    Unread(QueryError),
}

impl From<QueryError> for Looked {
    fn from(error: QueryError) -> Self {
        Self::Unread(error)
    }
}

/// Looks for what is new.
struct Watcher<'a> {
    table: &'a TableReader,
    bucket: &'a str,
    stage: &'a str,
    filters: &'a WatchFilters,
    /// What was answered before is old.
    since: DateTime<Utc>,
    /// When the last look that came to its end began.
    looked_at: DateTime<Utc>,
    /// Results that were seen of each slide, as hashes: 16 bytes or so for each.
    seen: HashMap<String, HashSet<u64>>,
    hashing: RandomState,
}

impl<'a> Watcher<'a> {
    fn new(deployment: &'a Deployment, stage: &'a str, filters: &'a WatchFilters) -> Self {
        let since = filters.since.unwrap_or_else(Utc::now);
        Self {
            table: &deployment.table,
            bucket: &deployment.config.input_bucket,
            stage,
            filters,
            since,
            looked_at: since,
            seen: HashMap::new(),
            hashing: RandomState::new(),
        }
    }

    /// Prints what landed since the last look, slide by slide, oldest answer first.
    async fn look(&mut self, printer: &mut Printer) -> Result<(), Looked> {
        let began_at = Utc::now();
        let only = self.filters.slide.as_deref();
        for slide in active_slides(self.table, self.stage, only, self.looked_at - LAG).await? {
            let mut new = self.new_results(&slide).await?;
            new.sort_by_key(|(_, record)| record.classified_at);
            // What is noted as seen was printed, so that a look that failed is repeated without gaps or doubles.
            for (hash, record) in new {
                let is_new = record.classified_at.is_none_or(|at| at >= self.since);
                if is_new && self.filters.wants(&record) {
                    printer.print(record).map_err(Looked::Unprinted)?;
                }
                self.seen.entry(slide.clone()).or_default().insert(hash);
            }
        }
        self.looked_at = began_at;
        Ok(())
    }

    /// Results of a slide that were not seen yet; at the first look only those that landed since the start.
    async fn new_results(&self, slide: &str) -> Result<Vec<(u64, Record)>, QueryError> {
        let mut new = Vec::new();
        let mut after = None;
        if let Some(seen) = self.seen.get(slide) {
            loop {
                let page = self.table.cells(self.stage, slide, after.as_deref(), CELLS).await?;
                for cell in page.cells.into_iter().filter(|cell| !cell.withdrawn) {
                    let hash = self.hashing.hash_one((&cell.key, &cell.result_id));
                    if !seen.contains(&hash) {
                        let image = ImageKey { bucket: self.bucket.to_owned(), key: cell.key };
                        let current = self.table.current(&image, self.stage).await?;
                        let record = current.map(|(record, _)| record);
                        // Replaced meanwhile by another result, which the index will show.
                        new.extend(record.filter(|r| r.result_id == cell.result_id).map(|r| (hash, r)));
                    }
                }
                after = page.next;
                if after.is_none() {
                    return Ok(new);
                }
            }
        }
        let query = ResultQuery {
            slide: Some(slide.to_owned()),
            limit: super::pages::PAGE,
            ..ResultQuery::of_stage(self.stage)
        };
        loop {
            let page = self.table.results(&query, after.as_deref()).await?;
            let hashed = page
                .results
                .into_iter()
                .map(|record| (self.hashing.hash_one((&record.image.key, &record.result_id)), record));
            new.extend(hashed);
            after = page.next;
            if after.is_none() {
                return Ok(new);
            }
        }
    }
}

/// Prints each result at once.
enum Printer {
    Table,
    Rows(Box<Rows<std::io::Stdout>>),
}

impl Printer {
    fn new(form: Form) -> anyhow::Result<Self> {
        match form {
            Form::Table => Ok(Self::Table),
            Form::Json | Form::Csv(_) => {
                let mut rows = Rows::new(std::io::stdout(), form)?;
                rows.flush()?;
                Ok(Self::Rows(Box::new(rows)))
            }
        }
    }

    fn print(&mut self, record: Record) -> anyhow::Result<()> {
        match self {
            Self::Table => writeln!(std::io::stdout().lock(), "{}", line(&record))?,
            Self::Rows(rows) => {
                rows.write(record)?;
                rows.flush()?;
            }
        }
        Ok(())
    }
}
