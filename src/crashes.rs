//! Models that end the process which runs them: counted, and refused after the second time.
//!
//! The embedded stack does, and on Lambda the next delivery of what was being answered, by the run that was noted
//! before it and never ended. One crash refuses nothing, and neither do many that may all have one other cause.

use std::fmt::Display;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use giemsa_core::object::ObjectRef;
use giemsa_model::LoadCheck;
use giemsa_store::{CrashNote, NotedUpload, Run, TableReader, TableWriter};

/// Crashes after which a model is refused.
const MOST_CRASHES: u64 = 2;

/// A crash that is followed by none for so long was an accident.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::days(7);

/// Times that counting starts over because another process counted meanwhile.
const MAX_ATTEMPTS: usize = 3;

/// The end of a process that ran a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// SHA-256 of the model file.
    pub sha256: String,
    /// How it ended, e.g. `SIGSEGV`.
    pub cause: String,
    /// Whether nothing but the model was at work; else it may have been the decoder of an image.
    pub is_certain: bool,
    /// The upload that was being answered, where only one was.
    pub upload: Option<String>,
    /// When the process began what it did not end.
    pub began_at: DateTime<Utc>,
}

/// Counts the crashes of one stage's models.
#[derive(Debug, Clone)]
pub struct CrashNotes {
    reader: TableReader,
    writer: TableWriter,
    stage: String,
    /// Where another model has to be copied to.
    location: String,
}

impl CrashNotes {
    /// Of the models of `stage`, which are read from `location`, an S3 URI.
    pub fn new(reader: TableReader, writer: TableWriter, stage: &str, location: String) -> Self {
        Self { reader, writer, stage: stage.to_owned(), location }
    }

    /// Counts a crash, and returns why its model is refused if it is now.
    ///
    /// # Errors
    /// What the table says if it cannot be asked or does not take it.
    pub async fn count(&self, crash: &Crash, now: DateTime<Utc>) -> Result<Option<String>, String> {
        let shown = |error: &dyn Display| error.to_string();
        for _ in 0..MAX_ATTEMPTS {
            let before = self.reader.crash_note(&self.stage, &crash.sha256).await.map_err(|e| shown(&e))?;
            let Some(note) = counted(&self.stage, before.as_ref(), crash, now) else {
                return Ok(before.and_then(|before| self.sentence(&before)));
            };
            if self.writer.put_crash_note(&note, before.as_ref()).await.map_err(|e| shown(&e))? {
                return Ok(self.sentence(&note));
            }
        }
        Err("other processes count crashes of the same model at the same time".to_owned())
    }

    fn sentence(&self, note: &CrashNote) -> Option<String> {
        refusal_sentence(note).map(|why| {
            format!("{why}; it is refused until another model file is copied to {}", self.location)
        })
    }
}

/// That a model ended its process too often, if it did.
pub fn refusal_sentence(note: &CrashNote) -> Option<String> {
    let at = note.last_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    (note.crashes >= MOST_CRASHES)
        .then(|| format!("this model ended its process twice (the last time by {}, at {at})", note.cause))
}

/// Notes runs on uploads that were delivered before, for functions whose process nobody outlives.
///
/// First deliveries cost nothing.
#[derive(Debug)]
pub struct RunNotes {
    table: TableWriter,
    crashes: CrashNotes,
    stage: String,
    process: String,
}

/// What an earlier run on an upload has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlierRun {
    /// It ended, or there was none.
    Ended,
    /// Its process ended with it.
    Crashed {
        /// SHA-256 of its model, and why it is refused, if it is now.
        refusal: Option<(String, String)>,
    },
}

impl RunNotes {
    /// Notes runs of this process in `stage`.
    pub fn new(table: TableWriter, crashes: CrashNotes, stage: &str) -> Self {
        let process = format!("{}-{}", std::process::id(), Utc::now().timestamp_micros());
        Self { table, crashes, stage: stage.to_owned(), process }
    }

    /// Notes that the model `sha256` begins to work on `object`; counts a crash if an earlier run is still noted, whose time
    /// is over if a queue delivers the message again.
    ///
    /// # Errors
    /// What the table says.
    pub async fn begin(&self, object: &ObjectRef, sha256: &str) -> Result<EarlierRun, String> {
        let (upload, now) = (NotedUpload::of(object, &self.stage), Utc::now());
        let run = Run { model: sha256.to_owned(), process: self.process.clone(), began_at: now };
        let before = self.table.begin_run(upload, &run).await.map_err(|error| error.to_string())?;
        let Some(before) = before.filter(|before| before.process != self.process) else {
            return Ok(EarlierRun::Ended);
        };
        let reason =
            format!("the process of the function ended while it ran the model {} on it", before.model);
        self.table.note_failure(upload, &reason, now).await.map_err(|error| error.to_string())?;
        let crash = Crash {
            sha256: before.model.clone(),
            cause: "the end of its function".to_owned(),
            is_certain: true,
            upload: Some(format!("{object}")),
            began_at: before.began_at,
        };
        let refusal = self.crashes.count(&crash, now).await?;
        Ok(EarlierRun::Crashed { refusal: refusal.map(|why| (before.model, why)) })
    }

    /// Notes that a run ended of which the next delivery is to know nothing else.
    pub async fn end(&self, object: &ObjectRef) {
        if let Err(error) = self.table.end_run(NotedUpload::of(object, &self.stage)).await {
            tracing::warn!(key = %object.key, %error, "cannot note the end of a run");
        }
    }
}

#[async_trait]
impl LoadCheck for CrashNotes {
    async fn refusal(&self, sha256: &str) -> Result<Option<String>, String> {
        let note = self.reader.crash_note(&self.stage, sha256).await.map_err(|error| error.to_string())?;
        Ok(note.and_then(|note| self.sentence(&note)))
    }
}

/// The note after a crash; `None` if the one that is there stays.
fn counted(stage: &str, before: Option<&CrashNote>, crash: &Crash, now: DateTime<Utc>) -> Option<CrashNote> {
    let crashes = match before {
        None => 1,
        Some(before) if before.crashes >= MOST_CRASHES => return None,
        Some(before) if now - before.last_at > FORGOTTEN_AFTER => 1,
        // Processes that ran side by side may have ended by the same cause, such as a machine without memory.
        Some(before) if crash.began_at <= before.last_at => return None,
        // An image that ends the process with any model must not take the model with it.
        Some(_) if !crash.is_certain => return None,
        Some(before) if crash.upload.is_some() && crash.upload == before.upload => return None,
        Some(before) => before.crashes + 1,
    };
    Some(CrashNote {
        stage: stage.to_owned(),
        sha256: crash.sha256.clone(),
        crashes,
        cause: crash.cause.clone(),
        upload: crash.upload.clone(),
        last_at: now,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_crash_that_is_surely_the_models_refuses_it() {
        let now = Utc::now();
        let at = |seconds: i64| now + TimeDelta::seconds(seconds);
        let crash = |is_certain: bool, upload: Option<&str>, began_at: i64| Crash {
            sha256: "ab".to_owned(),
            cause: "SIGABRT".to_owned(),
            is_certain,
            upload: upload.map(str::to_owned),
            began_at: at(began_at),
        };
        let first = counted("dev", None, &crash(false, Some("a"), -1), at(0)).unwrap();
        assert_eq!((first.crashes, refusal_sentence(&first)), (1, None));
        let again = |crash: Crash, now| counted("dev", Some(&first), &crash, now);
        for (name, stays) in [
            ("began before the first was known", crash(true, Some("b"), 0)),
            ("an image was being decoded", crash(false, None, 1)),
            ("it was the same upload", crash(true, Some("a"), 1)),
        ] {
            assert_eq!(again(stays, at(2)), None, "{name}");
        }
        for upload in [Some("b"), None] {
            let second = again(crash(true, upload, 1), at(2)).unwrap();
            let sentence = refusal_sentence(&second).unwrap();
            assert!(
                sentence.starts_with("this model ended its process twice (the last time by SIGABRT, at ")
            );
            assert_eq!(counted("dev", Some(&second), &crash(true, Some("c"), 3), at(4)), None, "it stays");
        }
        let week = TimeDelta::days(8);
        let later = Crash { began_at: now + week, ..crash(true, None, 0) };
        assert_eq!(counted("dev", Some(&first), &later, now + week).unwrap().crashes, 1);
    }
}
