//! Faults on purpose, for `giemsa up --faults`: which ones, when, and what was injected. The local stack injects them in front of
//! S3 and DynamoDB, at the trigger and in its processes.
//!
//! What happens is decided by a hash of the seed, the kind, the subject (an object and a method, an item of the table, a
//! message) and how many requests the subject had before, so that it does not depend on the order of what happens to
//! others. Subjects hold nothing that differs between two runs: no port, time or version.
//!
//! Invariant: no subject suffers more faults than the limit, over all restarts in one data
//! folder, so that what is retried ends.

pub mod body;
pub mod connection;
pub mod dynamodb;
mod journal;
mod process;
pub mod s3;
mod spec;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;

use journal::Journal;
pub use spec::{FaultSpec, Kind, Rate, SpecError, help};

use giemsa_core::digest::short_id;

/// How often the counts are written to the data folder.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(1);

/// Why faults cannot be injected.
#[derive(Debug, Error)]
pub enum FaultsError {
    /// What is injected cannot be written down.
    #[error("cannot keep the journal of injected faults in `{}`", folder.display())]
    Journal {
        /// The data folder.
        folder: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

/// Decides on faults, and counts them.
#[derive(Debug)]
pub struct Faults {
    spec: FaultSpec,
    is_armed: AtomicBool,
    history: Mutex<History>,
    /// A process that ends by SIGKILL together with this one.
    ending_also: Option<u32>,
}

#[derive(Debug)]
struct History {
    /// Requests of each subject that were decided on in this process.
    requests: HashMap<String, u32>,
    journal: Journal,
}

/// A fault that is to be injected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    /// What happens.
    pub kind: Kind,
    subject: String,
    /// The kind's "this time".
    pub duration: Duration,
    /// Random, for whatever else the fault needs.
    pub draw: u64,
}

impl Strike {
    /// A random part of the duration.
    pub fn part_of_duration(&self) -> Duration {
        self.duration.mul_f64(fraction(self.draw))
    }
}

impl Faults {
    /// Faults by `spec`, going on with what the data folder has suffered; nothing is injected before [`Faults::arm`].
    ///
    /// # Errors
    /// [`FaultsError`] if the data folder cannot be written to.
    pub fn open(spec: FaultSpec, data_dir: &Path) -> Result<Self, FaultsError> {
        let journal = Journal::open(data_dir)
            .map_err(|source| FaultsError::Journal { folder: data_dir.to_owned(), source })?;
        let history = Mutex::new(History { requests: HashMap::new(), journal });
        let is_armed = AtomicBool::new(false);
        Ok(Self { spec, is_armed, history, ending_also: None })
    }

    /// The same faults in a process that works for another: SIGKILL is for both.
    #[must_use]
    pub fn ending_also(self, pid: u32) -> Self {
        Self { ending_also: Some(pid), ..self }
    }

    /// Begins to inject.
    pub fn arm(&self) {
        self.is_armed.store(true, Ordering::SeqCst);
    }

    /// The spec.
    pub fn spec(&self) -> &FaultSpec {
        &self.spec
    }

    /// Injected faults by kind, over all starts in this data folder.
    pub fn counts(&self) -> BTreeMap<Kind, u64> {
        self.history().journal.counts()
    }

    /// Writes the counts to `faults.json` in the data folder.
    pub fn write_summary(&self) {
        if let Err(error) = self.history().journal.write_summary(&self.spec) {
            tracing::warn!(%error, "counts of injected faults not written");
        }
    }

    /// Writes the counts every second until `stop` turns true, and once more then.
    pub async fn keep_summary(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut written = None;
        loop {
            let counts = self.counts();
            if written.as_ref() != Some(&counts) {
                self.write_summary();
                written = Some(counts);
            }
            tokio::select! {
                () = tokio::time::sleep(SUMMARY_INTERVAL) => {}
                // An error means that the other side is gone, which is as good a reason to stop.
                _ = stop.wait_for(|stop| *stop) => return self.write_summary(),
            }
        }
    }

    /// Whether the model of the digest `sha256` is one that ends its process.
    fn aborts(&self, sha256: &str) -> bool {
        let digits = self.spec.abort_model.as_deref();
        self.is_armed.load(Ordering::SeqCst) && digits.is_some_and(|digits| sha256.starts_with(digits))
    }

    /// Which of `kinds` is to strike the subject's next request, if any and if it has not suffered enough.
    pub fn decide(&self, kinds: &[Kind], subject: &str) -> Option<Strike> {
        self.decide_within(self.spec.limit, kinds, subject)
    }

    /// As `decide`, with another limit.
    pub fn decide_within(&self, limit: u32, kinds: &[Kind], subject: &str) -> Option<Strike> {
        if !self.is_armed.load(Ordering::SeqCst) {
            return None;
        }
        let mut history = self.history();
        let count = history.requests.entry(subject.to_owned()).or_default();
        let number = *count;
        *count += 1;
        if history.journal.suffered(subject) >= limit {
            return None;
        }
        kinds.iter().find_map(|kind| {
            let rate = self.spec.rates.get(kind)?;
            let strikes = fraction(self.hash(kind.as_str(), subject, number)) * 1e6;
            let draw = self.hash("draw", &format!("{} {subject}", kind.as_str()), number);
            let strike = Strike { kind: *kind, subject: subject.to_owned(), duration: rate.duration, draw };
            (strikes < f64::from(rate.millionths)).then_some(strike)
        })
    }

    /// Writes down that `strike` is injected now; `false` if it cannot, and then it must not be.
    pub fn record(&self, strike: &Strike) -> bool {
        match self.history().journal.record(strike.kind, &strike.subject) {
            Ok(()) => {
                tracing::debug!(kind = strike.kind.as_str(), subject = %strike.subject, "fault injected");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "fault not injected: it cannot be written down");
                false
            }
        }
    }

    /// `decide` and `record` in one, for faults that can always be injected.
    pub fn strike(&self, kinds: &[Kind], subject: &str) -> Option<Strike> {
        self.decide(kinds, subject).filter(|strike| self.record(strike))
    }

    /// How often it was asked for `subject` before.
    pub fn count(&self, subject: &str) -> u32 {
        let mut history = self.history();
        let count = history.requests.entry(subject.to_owned()).or_default();
        *count += 1;
        *count - 1
    }

    /// A random number that depends on these only.
    pub fn hash(&self, what: &str, subject: &str, number: u32) -> u64 {
        let digits = short_id(&[&self.spec.seed.to_string(), what, subject, &number.to_string()]);
        u64::from_str_radix(&digits, 16).expect("an id is 16 hexadecimal digits")
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Nothing panics while it is held.
        self.history.lock().expect("no holder of the history panics")
    }
}

/// A hash as a number from 0 up to and without 1.
pub fn fraction(hash: u64) -> f64 {
    // 53 bits are what a number of this type holds.
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(folder: &Path, spec: &str) -> Faults {
        let faults = Faults::open(spec.parse().unwrap(), folder).unwrap();
        faults.arm();
        faults
    }

    /// What 200 subjects with 10 requests each suffer, by subject.
    fn suffered(faults: &Faults, order: impl Iterator<Item = usize>) -> BTreeMap<usize, Vec<Option<Kind>>> {
        let mut all = BTreeMap::<usize, Vec<Option<Kind>>>::new();
        for subject in order {
            let kinds = [Kind::SlowDown, Kind::Reset];
            let struck = faults.strike(&kinds, &format!("GET bucket/{subject}"));
            all.entry(subject).or_default().push(struck.map(|strike| strike.kind));
        }
        all
    }

    #[test]
    fn the_same_seed_does_the_same_in_any_order_and_another_does_not() {
        let [a, b, c] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let spec = "seed=7,limit=3,slow-down=0.1,reset=0.1";
        let in_turn = suffered(&faults(a.path(), spec), (0..2_000).map(|n| n % 200));
        let one_by_one = suffered(&faults(b.path(), spec), (0..2_000).map(|n| 199 - n / 10));
        assert_eq!(in_turn, one_by_one);
        let other = suffered(&faults(c.path(), &spec.replace('7', "8")), (0..2_000).map(|n| n % 200));
        assert_ne!(in_turn, other);

        let struck = |kind| in_turn.values().flatten().filter(|struck| **struck == Some(kind)).count();
        // Of 2,000 requests a tenth each; the limit takes few away. Five standard deviations are 67.
        assert!((120..267).contains(&struck(Kind::SlowDown)), "{}", struck(Kind::SlowDown));
        assert!((100..260).contains(&struck(Kind::Reset)), "{}", struck(Kind::Reset));
    }

    #[test]
    fn nothing_suffers_more_than_the_limit_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        for start in 0..3 {
            let faults = faults(folder.path(), "limit=2,kill=1");
            let struck = (0..5).filter(|_| faults.strike(&[Kind::Kill], "PUT a/b").is_some()).count();
            assert_eq!(struck, if start == 0 { 2 } else { 0 });
            assert_eq!(faults.counts(), BTreeMap::from([(Kind::Kill, 2)]));
        }
    }

    #[test]
    fn nothing_happens_before_it_is_armed_and_what_is_not_in_the_spec_never() {
        let folder = tempfile::tempdir().unwrap();
        let faults = Faults::open("reset=1".parse().unwrap(), folder.path()).unwrap();
        assert_eq!(faults.strike(&[Kind::Reset], "a"), None);
        faults.arm();
        assert_eq!(faults.strike(&[Kind::Kill], "a"), None);
        assert!(faults.strike(&[Kind::Kill, Kind::Reset], "a").is_some());
    }
}
