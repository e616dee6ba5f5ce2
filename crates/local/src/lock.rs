//! The lock of the data folder: one `giemsa up` at a time.
//!
//! Never left behind: the system releases it when the process ends, however it ends. While a [`DataDirLock`] lives, no
//! other process holds one for the same folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

const LOCK_FILE: &str = "lock";

/// Holds the data folder until it is dropped.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Why the data folder could not be taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "`{}` is in use by another `giemsa up`: stop that one (Ctrl-C in its window), or give this one a folder of its own",
        folder.display()
    )]
    Held {
        /// The data folder.
        folder: PathBuf,
    },
    /// The folder or the lock file in it cannot be used.
    #[error("cannot lock the data folder `{}`: it must be a folder that can be written to", folder.display())]
    Folder {
        /// The data folder.
        folder: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

impl DataDirLock {
    /// Creates the folder if needed and takes it.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process has it, [`LockError::Folder`] if it cannot be used.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let folder_error = |source| LockError::Folder { folder: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(folder_error)?;
        let path = folder.join(LOCK_FILE);
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(folder_error)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { folder: folder.to_owned() }),
            Err(TryLockError::Error(source)) => Err(folder_error(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_told_who_and_where() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let first = DataDirLock::acquire(&data).unwrap();
        let error = DataDirLock::acquire(&data).unwrap_err();
        assert!(matches!(error, LockError::Held { .. }));
        assert!(error.to_string().contains(data.to_str().unwrap()), "{error}");
        drop(first);
        DataDirLock::acquire(&data).unwrap();
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::write(&data, "x").unwrap();
        assert!(matches!(DataDirLock::acquire(&data), Err(LockError::Folder { .. })));
    }
}
