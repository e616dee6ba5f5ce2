//! What was injected, on disk: one line for each fault in `faults.jsonl`, and their counts in `faults.json`.
//!
//! A fault is written down before it strikes, because the process may not live to do it afterwards. Never holds back a
//! restart: a line that cannot be read is left out. Over all restarts in one data folder, each injected fault is one
//! line.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use crate::spec::{FaultSpec, Kind};

/// Each fault with its subject.
const JOURNAL: &str = "faults.jsonl";

/// Counts by kind.
const SUMMARY: &str = "faults.json";

/// The journal of a data folder, and what it says so far.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    file: File,
    /// Bytes of the file that are counted.
    read_to: u64,
    suffered: HashMap<String, u32>,
    counts: BTreeMap<Kind, u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    kind: Kind,
    subject: &'a str,
}

impl Journal {
    /// Goes on with the journal of `folder`, which is made if it is not there.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let file = File::options().create(true).read(true).append(true).open(folder.join(JOURNAL))?;
        let (suffered, counts) = (HashMap::new(), BTreeMap::new());
        let mut journal = Self { folder: folder.to_owned(), file, read_to: 0, suffered, counts };
        journal.catch_up()?;
        Ok(journal)
    }

    /// Reads what was written since, by this process or by another that works for the same stack.
    fn catch_up(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.read_to))?;
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        // A line that another process is writing is whole the next time.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.read_to += whole as u64;
        for line in bytes[..whole].split(|byte| *byte == b'\n') {
            let line: Value = serde_json::from_slice(line).unwrap_or_default();
            if let (Some(kind), Some(subject)) =
                (line["kind"].as_str().and_then(Kind::of_name), line["subject"].as_str())
            {
                *self.suffered.entry(subject.to_owned()).or_default() += 1;
                *self.counts.entry(kind).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Faults that the subject has suffered.
    pub(super) fn suffered(&self, subject: &str) -> u32 {
        self.suffered.get(subject).copied().unwrap_or(0)
    }

    /// Writes a fault down; if that fails it must not be injected.
    pub(super) fn record(&mut self, kind: Kind, subject: &str) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line { kind, subject }).expect("a name and a text");
        line.push(b'\n');
        // One call, so that a kill leaves the whole line or nothing.
        self.file.write_all(&line)?;
        self.catch_up()
    }

    /// Faults by kind, those included that other processes wrote down.
    pub(super) fn counts(&mut self) -> BTreeMap<Kind, u64> {
        // What cannot be read now is read the next time.
        let _ = self.catch_up();
        self.counts.clone()
    }

    /// Writes the counts to `faults.json`, whole or not at all.
    pub(super) fn write_summary(&mut self, spec: &FaultSpec) -> io::Result<()> {
        let counts = self.counts();
        let total: u64 = counts.values().sum();
        let summary = json!({"spec": spec.to_string(), "injected": counts, "total": total});
        let beside = self.folder.join(format!("{SUMMARY}.new"));
        fs::write(&beside, format!("{summary:#}\n"))?;
        fs::rename(beside, self.folder.join(SUMMARY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_goes_on_counting_and_a_torn_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.record(Kind::Kill, "GET a/été \"b\"").unwrap();
        journal.record(Kind::Slow, "GET a/été \"b\"").unwrap();
        drop(journal);
        let path = folder.path().join(JOURNAL);
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"kind\":\"ki\n").unwrap();

        let mut journal = Journal::open(folder.path()).unwrap();
        assert_eq!((journal.suffered("GET a/été \"b\""), journal.suffered("GET a")), (2, 0));
        journal.record(Kind::Kill, "GET a").unwrap();
        journal.write_summary(&"seed=3".parse().unwrap()).unwrap();
        let summary: Value =
            serde_json::from_str(&fs::read_to_string(folder.path().join(SUMMARY)).unwrap()).unwrap();
        assert_eq!(
            summary,
            json!({"spec": "seed=3,limit=2", "injected": {"kill": 2, "slow": 1}, "total": 3})
        );
    }
}
