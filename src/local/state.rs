//! The one SQLite file of the local stack: it holds the queues and the index of S3 objects.
//!
//! Both live in one file so that "this upload is visible" and "its notification is queued" are one transaction:
//! a process killed at any moment leaves both or neither.
//!
//! Never runs SQL on the async executor: a commit may wait for the disk, so every call goes to the blocking pool.
//! A file of an earlier layout is brought up to date when it is opened, in one transaction.
//! Invariant: one writer at a time (a mutex, and `BEGIN IMMEDIATE`); readers use a second connection and see
//! only committed states.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use thiserror::Error;
use tokio::sync::watch;

/// The layout this program reads and writes, kept in SQLite's `user_version`.
const LAYOUT_VERSION: i32 = 2;

/// What is in every file, whatever its layout.
const LAYOUT: &str = "
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

-- Every file that no version points to: half written, replaced or deleted for good.
CREATE TABLE leftover (
    bucket TEXT NOT NULL,
    file TEXT NOT NULL,
    PRIMARY KEY (bucket, file)
) STRICT, WITHOUT ROWID;

CREATE TABLE upload (
    id TEXT PRIMARY KEY,
    bucket TEXT NOT NULL,
    key BLOB NOT NULL,
    file TEXT NOT NULL,
    created_s INTEGER NOT NULL,
    completing INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE part (
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    etag TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    modified_s INTEGER NOT NULL,
    PRIMARY KEY (upload, number)
) STRICT, WITHOUT ROWID;
";

/// How many messages were ever sent to each queue; to be moved between queues is not to be sent. Added to any layout:
/// what does not know it leaves it alone.
const SENT: &str = "
CREATE TABLE IF NOT EXISTS sent (queue TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS message_sent AFTER INSERT ON message BEGIN
    INSERT INTO sent VALUES (new.queue, 1) ON CONFLICT (queue) DO UPDATE SET count = count + 1;
END;
";

/// The buckets of layout 2.
const BUCKETS: &str = "
CREATE TABLE bucket (
    name TEXT PRIMARY KEY,
    created_s INTEGER NOT NULL,
    versioning TEXT CHECK (versioning IN ('Enabled', 'Suspended'))
) STRICT, WITHOUT ROWID;
";

/// The versions of layout 2, of which layout 1 knew one a key.
pub(crate) const VERSIONS: &str = "
-- What a key is and was, newest first. A version without a file is a delete marker.
CREATE TABLE version (
    bucket TEXT NOT NULL,
    key BLOB NOT NULL,
    number INTEGER NOT NULL,
    is_null INTEGER NOT NULL CHECK (is_null IN (0, 1)),
    is_latest INTEGER NOT NULL CHECK (is_latest IN (0, 1)),
    modified_s INTEGER NOT NULL,
    file TEXT,
    size_bytes INTEGER,
    etag TEXT,
    CHECK ((file IS NULL) = (size_bytes IS NULL) AND (file IS NULL) = (etag IS NULL)),
    PRIMARY KEY (bucket, key, number DESC)
) STRICT, WITHOUT ROWID;
-- What a listing shows: the latest version of a key, unless it is a delete marker.
CREATE UNIQUE INDEX version_shown ON version (bucket, key) WHERE is_latest = 1 AND file IS NOT NULL;
CREATE UNIQUE INDEX version_null ON version (bucket, key) WHERE is_null = 1;
";

/// Layout 1 to layout 2: what was there without versioning is the version `null`, older than all that follow.
const TO_LAYOUT_2: &str = "
ALTER TABLE bucket ADD COLUMN versioning TEXT CHECK (versioning IN ('Enabled', 'Suspended'));
INSERT INTO version (bucket, key, number, is_null, is_latest, modified_s, file, size_bytes, etag)
    SELECT bucket, key, 0, 1, 1, modified_s, file, size_bytes, etag FROM object;
DROP TABLE object;
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
    /// The file was written by a later version of the program.
    #[error(
        "`{}` has layout {found}, this version of giemsa knows layouts up to {LAYOUT_VERSION}: use the newer version that wrote it",
        path.display()
    )]
    NewerLayout {
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
    /// [`StateError`] if it cannot be opened or was written by a later version.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let open_error = |source| StateError::Open { path: path.to_owned(), source };
        let mut writer = connect(path).map_err(open_error)?;
        let found = prepare_layout(&mut writer).map_err(open_error)?;
        if found > LAYOUT_VERSION {
            return Err(StateError::NewerLayout { path: path.to_owned(), found });
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

/// Creates the tables in an empty file, brings those of an earlier layout up to date, and returns the layout that is in
/// the file now.
fn prepare_layout(writer: &mut Connection) -> rusqlite::Result<i32> {
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let parts: &[&str] = match found {
        0 => &[LAYOUT, BUCKETS, VERSIONS],
        1 => &[VERSIONS, TO_LAYOUT_2],
        LAYOUT_VERSION => &[],
        _ => return Ok(found),
    };
    for part in parts.iter().chain(&[SENT]) {
        transaction.execute_batch(part)?;
    }
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
    fn refuses_a_file_of_a_later_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.sqlite");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = StateFile::open(&path).unwrap_err();
        assert!(matches!(error, StateError::NewerLayout { found: 99, .. }), "{error}");
    }

    #[test]
    fn refuses_a_file_that_is_no_database() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.sqlite");
        std::fs::write(&path, vec![b'x'; 4096]).unwrap();
        assert!(matches!(StateFile::open(&path), Err(StateError::Open { .. })));
    }

    /// A file as the first layout made it, with two objects, a leftover and a message; `more` is SQL run in it.
    fn first_layout(path: &Path, more: &str) {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE bucket (name TEXT PRIMARY KEY, created_s INTEGER NOT NULL) STRICT, WITHOUT ROWID;
                 CREATE TABLE object (
                     bucket TEXT NOT NULL, key BLOB NOT NULL, file TEXT NOT NULL, size_bytes INTEGER NOT NULL,
                     etag TEXT NOT NULL, modified_s INTEGER NOT NULL, PRIMARY KEY (bucket, key)
                 ) STRICT, WITHOUT ROWID;
                 INSERT INTO bucket VALUES ('b', 7);
                 INSERT INTO object VALUES ('b', x'61ff', 'a~01', 3, 'e1', 10), ('b', x'62', 'b~02', 4, 'e2', 11);",
            )
            .unwrap();
        connection.execute_batch(LAYOUT).unwrap();
        connection
            .execute_batch(
                "INSERT INTO leftover VALUES ('b', 'c~03');
                 INSERT INTO message (id, queue, body, sent_ms, visible_ms) VALUES ('m', 'q', 'body', 1, 2);",
            )
            .unwrap();
        connection.execute_batch(more).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
    }

    #[tokio::test]
    async fn a_file_of_layout_1_keeps_everything_and_its_objects_become_null_versions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.sqlite");
        first_layout(&path, "");
        // The second time it is a file of layout 2 like any other.
        for _ in 0..2 {
            let state = StateFile::open(&path).unwrap();
            let texts = |sql: &'static str| {
                state.read(move |connection| {
                    let mut statement = connection.prepare(sql).unwrap();
                    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
                    Ok::<_, rusqlite::Error>(rows.map(Result::unwrap).collect::<Vec<_>>())
                })
            };
            let versions = texts(
                "SELECT concat_ws('|', bucket, hex(key), number, is_null, is_latest, modified_s, file, size_bytes, etag)
                 FROM version ORDER BY key",
            );
            assert_eq!(
                versions.await.unwrap(),
                ["b|61FF|0|1|1|10|a~01|3|e1", "b|62|0|1|1|11|b~02|4|e2"],
                "all objects, as version null"
            );
            let rest = texts(
                "SELECT concat_ws('|', name, created_s, coalesce(versioning, 'never')) FROM bucket
                 UNION ALL SELECT file FROM leftover UNION ALL SELECT body FROM message
                 UNION ALL SELECT name FROM sqlite_schema WHERE name = 'object'",
            );
            assert_eq!(rest.await.unwrap(), ["b|7|never", "c~03", "body"]);
        }
    }

    #[test]
    fn a_migration_that_fails_halfway_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.sqlite");
        // A view cannot be dropped as a table: the last statement of the migration fails.
        first_layout(&path, "ALTER TABLE object RENAME TO kept; CREATE VIEW object AS SELECT * FROM kept;");
        let error = StateFile::open(&path).unwrap_err();
        assert!(matches!(error, StateError::Open { .. }), "{error}");
        let connection = Connection::open(&path).unwrap();
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(number("SELECT user_version FROM pragma_user_version"), 1);
        assert_eq!(number("SELECT count(*) FROM object"), 2);
        assert_eq!(number("SELECT count(*) FROM sqlite_schema WHERE name = 'version'"), 0);
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
