//! The one SQLite file of the local stack: it holds the queues and everything of S3 but the bytes.
//!
//! Both live in one file so that "this upload is visible" and "its notification is queued" are one transaction:
//! a process killed at any moment leaves both or neither.
//!
//! Never runs SQL on the async executor: a commit may wait for the disk, so every call goes to the blocking pool.
//! Invariant: one writer at a time (a mutex, and `BEGIN IMMEDIATE`); readers use a second connection and see
//! only committed states.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use thiserror::Error;
use tokio::sync::watch;

/// The layout this program reads and writes, kept in SQLite's `user_version`.
const LAYOUT_VERSION: i32 = 3;

pub(crate) const LAYOUT: &str = "
CREATE TABLE setting (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE queue (
    name TEXT PRIMARY KEY,
    visibility_timeout_ms INTEGER NOT NULL,
    max_receive_count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE message (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    queue TEXT NOT NULL,
    body TEXT NOT NULL,
    sent_ms INTEGER NOT NULL,
    visible_ms INTEGER NOT NULL,
    receive_count INTEGER NOT NULL DEFAULT 0,
    interrupted_count INTEGER NOT NULL DEFAULT 0,
    first_received_ms INTEGER,
    receipt TEXT UNIQUE,
    last_failure TEXT,
    dead_ms INTEGER
) STRICT;
CREATE INDEX message_by_visibility ON message (queue, visible_ms);

-- How many messages were ever sent to each queue; to be moved between queues is not to be sent.
CREATE TABLE sent (queue TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TRIGGER message_sent AFTER INSERT ON message BEGIN
    INSERT INTO sent VALUES (new.queue, 1) ON CONFLICT (queue) DO UPDATE SET count = count + 1;
END;

CREATE TABLE bucket (
    name TEXT PRIMARY KEY,
    created_s INTEGER NOT NULL,
    versioning TEXT CHECK (versioning IN ('Enabled', 'Suspended'))
) STRICT, WITHOUT ROWID;

-- What a key is and was, newest first. A version without a blob is a delete marker; copies share a blob.
CREATE TABLE version (
    bucket TEXT NOT NULL,
    key BLOB NOT NULL,
    number INTEGER NOT NULL,
    is_null INTEGER NOT NULL CHECK (is_null IN (0, 1)),
    is_latest INTEGER NOT NULL CHECK (is_latest IN (0, 1)),
    modified_s INTEGER NOT NULL,
    blob INTEGER,
    size_bytes INTEGER,
    etag TEXT,
    about TEXT,
    CHECK ((blob IS NULL) = (size_bytes IS NULL) AND (blob IS NULL) = (etag IS NULL) AND (blob IS NULL) = (about IS NULL)),
    PRIMARY KEY (bucket, key, number DESC)
) STRICT, WITHOUT ROWID;
-- What a listing shows: the latest version of a key, unless it is a delete marker.
CREATE UNIQUE INDEX version_shown ON version (bucket, key) WHERE is_latest = 1 AND blob IS NOT NULL;
CREATE UNIQUE INDEX version_null ON version (bucket, key) WHERE is_null = 1;
CREATE INDEX version_blob ON version (blob) WHERE blob IS NOT NULL;

CREATE TABLE upload (
    id TEXT PRIMARY KEY,
    bucket TEXT NOT NULL,
    key BLOB NOT NULL,
    about TEXT NOT NULL,
    created_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE part (
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    blob INTEGER NOT NULL,
    etag TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    modified_s INTEGER NOT NULL,
    PRIMARY KEY (upload, number)
) STRICT, WITHOUT ROWID;
";

/// Why the state file of the local stack could not be opened.
#[derive(Debug, Error)]
pub enum StateError {
    /// The folder is missing or not writable, or the file is not a database.
    #[error("cannot open `{}`: it must be a file written by `giemsa up`, in a folder that can be written to", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The file was written by another version of the program.
    #[error(
        "`{}` has layout {found}, this version of giemsa reads layout {LAYOUT_VERSION} only: use the version that wrote \
         it, or move the data folder away and upload the images again",
        path.display()
    )]
    OtherLayout {
        /// The file.
        path: PathBuf,
        /// The layout found in it.
        found: i32,
    },
}

/// What a commit has to survive before it is reported as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survives {
    /// The process being killed; costs no wait for the disk.
    Kill,
    /// The machine losing power; waits until the disk has it.
    PowerLoss,
}

/// A handle to the state file, cheap to clone; all clones share one writer.
#[derive(Debug, Clone)]
pub(crate) struct StateFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    /// Counts commits that put something into a queue, so that waiting receivers wake up.
    queue_changes: watch::Sender<u64>,
}

impl StateFile {
    /// Opens or creates the state file.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be opened or was written by another version.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let open_error = |source| StateError::Open { path: path.to_owned(), source };
        let mut writer = connect(path).map_err(open_error)?;
        let found = prepare_layout(&mut writer).map_err(open_error)?;
        if found != LAYOUT_VERSION {
            return Err(StateError::OtherLayout { path: path.to_owned(), found });
        }
        let reader = connect(path).map_err(open_error)?;
        reader.pragma_update(None, "query_only", true).map_err(open_error)?;
        Ok(Self {
            inner: Arc::new(Inner {
                writer: Mutex::new(writer),
                reader: Mutex::new(reader),
                queue_changes: watch::Sender::new(0),
            }),
        })
    }

    /// Runs `change` in one transaction, committed if it returns `Ok` and rolled back otherwise.
    ///
    /// Once it has started it runs to its end, also when the caller stops waiting.
    ///
    /// # Errors
    /// What `change` returns, or the failure of the transaction itself.
    pub(crate) async fn write<T, E>(
        &self,
        survives: Survives,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<rusqlite::Error> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        off_executor(move || inner.write(survives, change)).await
    }

    /// Like [`write`](Self::write), and wakes whoever waits for messages once it is committed.
    ///
    /// # Errors
    /// What `change` returns, or the failure of the transaction itself.
    pub(crate) async fn write_and_wake<T, E>(
        &self,
        survives: Survives,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<rusqlite::Error> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        // The wake-up belongs to the blocking part: a caller that went away must not leave a message unnoticed.
        off_executor(move || {
            let done = inner.write(survives, change)?;
            inner.wake();
            Ok(done)
        })
        .await
    }

    /// Wakes whoever waits for messages, for what was committed by [`write`](Self::write).
    pub(crate) fn wake(&self) {
        self.inner.wake();
    }

    /// Runs `query` on the last committed state, without waiting for writers.
    ///
    /// # Errors
    /// What `query` returns.
    pub(crate) async fn read<T, E>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        off_executor(move || query(&lock(&inner.reader))).await
    }

    /// Follows the commits that put something into a queue.
    pub(crate) fn queue_changes(&self) -> watch::Receiver<u64> {
        self.inner.queue_changes.subscribe()
    }
}

impl Inner {
    fn wake(&self) {
        self.queue_changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn write<T, E: From<rusqlite::Error>>(
        &self,
        survives: Survives,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = lock(&self.writer);
        // In WAL mode NORMAL loses nothing when the process dies, FULL nothing when the machine does.
        let level = match survives {
            Survives::Kill => "NORMAL",
            Survives::PowerLoss => "FULL",
        };
        writer.pragma_update(None, "synchronous", level)?;
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = change(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }
}

/// The next number of the stack: greater than every one before it, also across restarts and a lost state file.
pub(crate) fn next_number(
    transaction: &Transaction<'_>,
    now: chrono::DateTime<chrono::Utc>,
) -> rusqlite::Result<i64> {
    // Seeded by the clock, so that a fresh state file still numbers above what an old one gave out;
    // never below its predecessor, so that a clock set back does no harm.
    transaction
        .prepare_cached(
            "INSERT INTO setting (name, value) VALUES ('last_number', ?1)
             ON CONFLICT (name) DO UPDATE SET value = MAX(value + 1, excluded.value)
             RETURNING value",
        )?
        .query_row([now.timestamp_micros()], |row| row.get(0))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Creates the tables in an empty file, and returns the layout that is in the file now.
fn prepare_layout(writer: &mut Connection) -> rusqlite::Result<i32> {
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found != 0 {
        return Ok(found);
    }
    transaction.execute_batch(LAYOUT)?;
    transaction.pragma_update(None, "user_version", LAYOUT_VERSION)?;
    transaction.commit()?;
    Ok(LAYOUT_VERSION)
}

/// A panic inside a transaction rolled it back, so the connection behind a poisoned lock is sound.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn off_executor<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Cancelled before it started: the runtime is being torn down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    #[tokio::test]
    async fn numbers_rise_when_the_clock_stands_still_or_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFile::open(&folder.path().join("state.sqlite")).unwrap();
        let mut given = Vec::new();
        for micros in [1_000, 1_000, 5, 2_000] {
            let now = DateTime::from_timestamp_micros(micros).unwrap();
            given.push(state.write(Survives::Kill, move |tx| next_number(tx, now)).await.unwrap());
        }
        assert_eq!(given, [1_000, 1_001, 1_002, 2_000]);
    }

    #[test]
    fn refuses_a_file_of_another_version() {
        for other in [1, 2, 99] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.sqlite");
            Connection::open(&path).unwrap().pragma_update(None, "user_version", other).unwrap();
            let error = StateFile::open(&path).unwrap_err();
            assert!(matches!(error, StateError::OtherLayout { found, .. } if found == other), "{error}");
        }
    }

    #[test]
    fn refuses_a_file_that_is_no_database() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.sqlite");
        std::fs::write(&path, vec![b'x'; 4096]).unwrap();
        assert!(matches!(StateFile::open(&path), Err(StateError::Open { .. })));
    }

    #[tokio::test]
    async fn a_failed_change_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFile::open(&folder.path().join("state.sqlite")).unwrap();
        let failed: rusqlite::Result<()> = state
            .write(Survives::Kill, |tx| {
                tx.execute("INSERT INTO bucket VALUES ('b', 0, NULL)", [])?;
                Err(rusqlite::Error::QueryReturnedNoRows)
            })
            .await;
        assert!(failed.is_err());
        let count: i64 =
            state.read(|c| c.query_row("SELECT count(*) FROM bucket", [], |row| row.get(0))).await.unwrap();
        assert_eq!(count, 0);
    }
}
