//! Progress of a run in a file, so that an interrupted run can continue.
//!
//! The file is complete at every moment, and stands after a page that was checked, printed and sent completely.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, Utc};
use giemsa_ops::reconcile::{Counts, Position};
use serde::{Deserialize, Serialize};

/// Name and version of the file's form.
const SCHEMA: &str = "giemsa.reconcile/1";

/// What a run was asked, by the names of its arguments and settings. Two runs of the same parameters give the same counts
/// if nothing changes meanwhile.
pub type Parameters = BTreeMap<&'static str, String>;

/// A run, so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    schema: String,
    parameters: BTreeMap<String, String>,
    /// First upload time, as it was when the run was first started: `7d` means another one tomorrow.
    pub since: Option<DateTime<Utc>>,
    /// Up to where.
    pub position: Position,
    /// What was found up to there.
    pub counts: Counts,
}

impl Progress {
    /// A run at its start.
    pub fn new(parameters: &Parameters, since: Option<DateTime<Utc>>) -> Self {
        let mut counts = Counts::default();
        counts.add(&[], 0);
        Self {
            schema: SCHEMA.to_owned(),
            parameters: parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            since,
            position: Position::Start,
            counts,
        }
    }
}

/// The file, if one was asked for.
#[derive(Debug)]
pub struct Checkpoint {
    path: Option<PathBuf>,
}

impl Checkpoint {
    pub fn new(path: Option<&Path>) -> Self {
        Self { path: path.map(Path::to_owned) }
    }

    /// The run that the file holds, if it holds one; it has to be of the same parameters.
    pub fn load(&self, parameters: &Parameters) -> anyhow::Result<Option<Progress>> {
        let Some(path) = &self.path else { return Ok(None) };
        let name = path.display();
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("--checkpoint {name} cannot be read")),
        };
        let progress: Progress = serde_json::from_slice(&bytes).map_err(|e| {
            anyhow!("--checkpoint {name} is not a checkpoint of giemsa reconcile: {e}; name another file")
        })?;
        if progress.schema != SCHEMA {
            bail!(
                "--checkpoint {name} has the format {:?}; expected {SCHEMA:?}; name another file",
                progress.schema
            );
        }
        let mut differences = Vec::new();
        for (name, asked) in parameters {
            let found = progress.parameters.get(*name).map_or("", String::as_str);
            if found != asked {
                differences.push(format!("{name} was {found:?} and is now {asked:?}"));
            }
        }
        if !differences.is_empty() {
            bail!(
                "--checkpoint {name} belongs to another run: {}; use that run's arguments to continue it, \
                 name another file, or remove the file to start over",
                differences.join(", ")
            );
        }
        Ok(Some(progress))
    }

    /// Replaces the file, so that a reader finds the old or the new one complete.
    pub fn save(&self, progress: &Progress) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        self.replace(path, progress).with_context(|| {
            format!(
                "--checkpoint {} cannot be written; name a file in a folder that can be written",
                path.display()
            )
        })
    }

    fn replace(&self, path: &Path, progress: &Progress) -> anyhow::Result<()> {
        // In the same folder, so that renaming moves nothing.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec(progress)?)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }

    /// Removes the file: the run is over, and the next one starts from the beginning.
    pub fn remove(&self) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("--checkpoint {} cannot be removed", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// How to continue after an error.
    pub fn advice(&self) -> String {
        match &self.path {
            Some(path) => format!("run it again with --checkpoint {} to continue", path.display()),
            None => "run it again; with --checkpoint FILE a run can continue where it ended".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use giemsa_store::UploadMarker;

    use super::*;

    fn parameters(prefix: &str) -> Parameters {
        BTreeMap::from([("--prefix", prefix.to_owned()), ("--stage", "prod".to_owned())])
    }

    #[test]
    fn a_run_is_taken_up_by_the_same_parameters_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let checkpoint = Checkpoint::new(Some(&path));
        assert!(checkpoint.load(&parameters("a/")).unwrap().is_none());
        let mut progress = Progress::new(&parameters("a/"), Some(DateTime::UNIX_EPOCH));
        let marker = UploadMarker { key: "a/\n\"é.png".to_owned(), version_id: Some("v".to_owned()) };
        progress.position = Position::Listing(marker);
        progress.counts.uploads = 7;
        checkpoint.save(&progress).unwrap();
        checkpoint.save(&progress).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
        assert_eq!(checkpoint.load(&parameters("a/")).unwrap().unwrap(), progress);
        let refused = checkpoint.load(&parameters("b/")).unwrap_err().to_string();
        assert!(
            refused.contains("--prefix was \"a/\" and is now \"b/\"") && !refused.contains("--stage"),
            "{refused}"
        );
        checkpoint.remove().unwrap();
        checkpoint.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn other_files_are_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        let checkpoint = Checkpoint::new(Some(&path));
        for text in [
            "my notes",
            "{}",
            "{\"schema\":\"giemsa.reconcile/9\",\"parameters\":{},\"since\":null,\"position\":\"start\",\"counts\":{\"uploads\":0,\"states\":{},\"reject_codes\":{},\"left_out\":0,\"sent\":0}}",
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = checkpoint.load(&parameters("a/")).unwrap_err().to_string();
            assert!(refused.contains("name another file"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let nowhere = Checkpoint::new(Some(&folder.path().join("no/folder/run.json")));
        let refused = nowhere.save(&Progress::new(&parameters("a/"), None)).unwrap_err().to_string();
        assert!(refused.contains("name a file in a folder"), "{refused}");
    }
}
