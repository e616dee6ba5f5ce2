//! The bytes of objects and of parts of uploads: one file each, named by a number that is used once.
//!
//! A file is written under a temporary name, synced and renamed before any row refers to it, and removed after the
//! last row that refers to it. Whatever else a killed process leaves is removed at the next start.
//!
//! A reader that finds a row under [`Blobs::reading`] finds the file, too.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use s3s::S3Result;
use s3s::dto::Checksum;
use tokio::io::AsyncWriteExt;

use crate::s3::StoreError;
use crate::s3::bytes::digests::Digests;

/// How the name of a file begins that is still being written.
const TEMPORARY: &str = "new-";

/// Bytes that are read from a file at once.
const CHUNK_BYTES: u64 = 256 << 10;

/// The folder of blobs.
#[derive(Debug)]
pub(crate) struct Blobs {
    root: PathBuf,
    last: AtomicI64,
    /// Held by readers between row and file, and by whoever removes files.
    removal: RwLock<()>,
}

/// A blob that is on disk.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) blob: i64,
    pub(crate) size_bytes: u64,
    /// In hexadecimal digits: the ETag of what is not joined from parts.
    pub(crate) md5: String,
    /// Those that the sender asked for.
    pub(crate) checksum: Checksum,
}

impl Blobs {
    /// Opens the folder and removes the files that no row refers to; `in_use` are those that rows refer to.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(crate) fn open(root: &Path, in_use: &BTreeSet<i64>) -> io::Result<Self> {
        let mut found = 0;
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            match name.parse::<i64>() {
                Ok(blob) if in_use.contains(&blob) => found += 1,
                Err(_) if !name.starts_with(TEMPORARY) => {}
                _ => fs::remove_file(entry.path())?,
            }
        }
        if found < in_use.len() {
            let missing = in_use.len() - found;
            tracing::error!(missing, "files of objects are missing in `{}`", root.display());
        }
        let last = AtomicI64::new(in_use.last().copied().unwrap_or(0));
        Ok(Self { root: root.to_owned(), last, removal: RwLock::new(()) })
    }

    /// Whether the folder holds any object.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(crate) fn is_in_use(root: &Path) -> io::Result<bool> {
        let mut names = fs::read_dir(root)?.filter_map(Result::ok).map(|entry| entry.file_name());
        Ok(names.any(|name| name.to_string_lossy().parse::<i64>().is_ok()))
    }

    /// Keeps every file in place while a reader goes from a row to its file.
    pub(crate) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.removal.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub(crate) fn file(&self, blob: i64) -> Result<File, StoreError> {
        let path = self.path(blob);
        File::open(&path).map_err(|source| StoreError::File { path, source })
    }

    /// Writes a body to a new blob, checks it, and waits until it is on disk.
    ///
    /// # Errors
    /// The body's own error, a digest that does not match, or [`StoreError::File`]; nothing is left then.
    pub(crate) async fn store(
        self: &Arc<Self>,
        body: impl Stream<Item = S3Result<Bytes>>,
        mut digests: Digests,
    ) -> S3Result<Stored> {
        let begin = |blobs: &Self| tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&blobs.root);
        // The file is removed when `path` is dropped, also with a request whose client went away.
        let (file, path) = self.on_disk(begin).await?.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let mut size_bytes = 0;
        let mut body = pin!(body);
        let failed = |source| StoreError::File { path: self.root.clone(), source };
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            digests.update(&chunk);
            size_bytes += chunk.len() as u64;
            file.write_all(&chunk).await.map_err(failed)?;
        }
        let (md5, checksum) = digests.check()?;
        file.flush().await.map_err(failed)?;
        let file = file.into_std().await;
        let blob = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.on_disk(move |blobs| {
            file.sync_all()?;
            path.persist(blobs.path(blob))?;
            // The name, too: a file without its directory entry is lost all the same.
            sync_folder(&blobs.root)
        })
        .await?;
        Ok(Stored { blob, size_bytes, md5, checksum })
    }

    /// Removes blobs that no row refers to any more; what cannot be removed now is tried again at the next start.
    pub(crate) async fn remove(self: &Arc<Self>, unused: Vec<i64>) {
        if unused.is_empty() {
            return;
        }
        let removed = self.on_disk(move |blobs| blobs.remove_files(&unused)).await;
        if let Err(error) = removed {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot remove a file that belongs to no object"
            );
        }
    }

    fn remove_files(&self, unused: &[i64]) -> io::Result<()> {
        let _lock = self.removal.write().unwrap_or_else(PoisonError::into_inner);
        unused.iter().try_for_each(|&blob| fs::remove_file(self.path(blob)))
    }

    fn path(&self, blob: i64) -> PathBuf {
        self.root.join(blob.to_string())
    }

    /// Runs file system work on the blocking pool.
    async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let blobs = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&blobs)).await;
        let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|source| StoreError::File { path: self.root.clone(), source })
    }
}

/// The bytes of a file at these positions.
pub(crate) fn chunks(
    file: File,
    positions: Range<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
    stream::try_unfold((file, positions), |(mut file, Range { start, end })| async move {
        if start == end {
            return Ok(None);
        }
        let next = end.min(start + CHUNK_BYTES);
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; usize::try_from(next - start).unwrap_or(0)];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut chunk)?;
            Ok::<_, io::Error>((file, chunk))
        });
        let (file, chunk) = read.await.map_err(io::Error::other)??;
        Ok(Some((Bytes::from(chunk), (file, next..end))))
    })
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Other systems do not open folders as files; their file systems journal the names.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stays_while_a_reader_goes_from_its_row_to_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("1"), "x").unwrap();
        let blobs = Blobs::open(folder.path(), &BTreeSet::from([1])).unwrap();
        std::thread::scope(|scope| {
            let reading = blobs.reading();
            let removal = scope.spawn(|| blobs.remove_files(&[1]));
            std::thread::sleep(std::time::Duration::from_millis(50));
            blobs.file(1).expect("the row was read before the file is removed");
            drop(reading);
            removal.join().unwrap().unwrap();
        });
        blobs.file(1).unwrap_err();
    }

    #[tokio::test]
    async fn a_start_removes_what_no_row_refers_to_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["1", "2", "30", "new-half", ".mark", "notes.txt"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let blobs = Arc::new(Blobs::open(folder.path(), &BTreeSet::from([2, 7])).unwrap());
        let names = || {
            let entries = fs::read_dir(folder.path()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<BTreeSet<_>>()
        };
        assert_eq!(names(), BTreeSet::from([".mark", "2", "notes.txt"].map(String::from)));

        let body = |chunks: &[&'static str]| {
            stream::iter(
                chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect::<Vec<_>>(),
            )
        };
        let stored = blobs.store(body(&["ab", "c"]), Digests::default()).await.unwrap();
        assert_eq!((stored.blob, stored.size_bytes), (8, 3), "numbers go on behind the last that is known");
        assert_eq!(stored.md5, "900150983cd24fb0d6963f7d28e17f72");
        let read = chunks(blobs.file(8).unwrap(), 1..3).collect::<Vec<_>>().await;
        assert_eq!(read.into_iter().map(Result::unwrap).collect::<Vec<_>>(), ["bc"]);

        let broken = body(&["ab"]).chain(stream::iter([Err(s3s::s3_error!(IncompleteBody))]));
        blobs.store(broken, Digests::default()).await.unwrap_err();
        blobs.remove(vec![8]).await;
        assert_eq!(names(), BTreeSet::from([".mark", "2", "notes.txt"].map(String::from)));
    }
}
