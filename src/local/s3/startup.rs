//! Opening the folder of objects: does it belong to this index, and what did an earlier process leave half done?
//!
//! Never removes what the index does not list as left over. Invariant: after it, every file in the folder belongs to a
//! version of an object or to an open upload.

use std::io;
use std::path::Path;

use rusqlite::OptionalExtension;
use s3s::S3Error;
use s3s_fs::FileSystem;

use super::objects::LocalS3;
use super::{StoreError, buckets, index, uploads};
use crate::local::Subscription;
use crate::local::queue::Queue;
use crate::local::state::{StateFile, Survives};

/// In the folder of objects: the id of the index that belongs to them.
const INDEX_ID_FILE: &str = ".giemsa-index-id";

impl LocalS3 {
    /// Opens or creates the folder of objects, and removes what an earlier process left half done.
    ///
    /// # Errors
    /// [`StoreError`] if the folder cannot be used or does not belong to the index in `queue`'s file.
    pub(in crate::local) async fn open(
        root: &Path,
        queue: &Queue,
        subscriptions: &[Subscription],
    ) -> Result<Self, StoreError> {
        let file_error = |source| StoreError::File { path: root.to_owned(), source };
        std::fs::create_dir_all(root).map_err(file_error)?;
        let root = root.canonicalize().map_err(file_error)?;
        let state = queue.state().clone();
        pair_with_index(&root, &state).await?;
        let files = FileSystem::new(&root)
            .map_err(|error| file_error(io::Error::other(S3Error::from(error).to_string())))?;
        let store = Self { files, root, state, subscriptions: subscriptions.into() };
        store.clear_leftovers().await?;
        Ok(store)
    }

    async fn clear_leftovers(&self) -> Result<(), StoreError> {
        for upload in self.state.read(uploads::all_completing).await? {
            self.remove_upload_files(&upload).await?;
        }
        for (bucket, file) in self.state.read(index::leftovers).await? {
            self.discard(&bucket, &file).await;
        }
        Ok(())
    }
}

/// Makes sure that objects and index belong together, so that no object is taken for a leftover or silently missing.
async fn pair_with_index(root: &Path, state: &StateFile) -> Result<(), StoreError> {
    let id_path = root.join(INDEX_ID_FILE);
    let file_error = |source| StoreError::File { path: root.to_owned(), source };
    let of_folder = match std::fs::read_to_string(&id_path) {
        Ok(id) => Some(id),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(file_error(error)),
    };
    let (of_index, index_in_use): (Option<String>, bool) = state
        .read(|connection| {
            let id = connection
                .query_row("SELECT value FROM setting WHERE name = 'index_id'", [], |row| row.get(0))
                .optional()?;
            Ok::<_, StoreError>((id, !buckets::all(connection)?.is_empty()))
        })
        .await?;
    if of_folder.is_some() && of_folder == of_index {
        return Ok(());
    }
    let entries = std::fs::read_dir(root).map_err(file_error)?;
    let folder_in_use = entries.filter_map(Result::ok).any(|entry| entry.path().is_dir());
    if folder_in_use || index_in_use {
        let found = match (&of_folder, &of_index) {
            (_, None) => "the index is new",
            (None, _) => "the folder is new",
            _ => "each has the mark of another",
        };
        return Err(StoreError::ForeignIndex { root: root.to_owned(), found });
    }
    let id = uuid::Uuid::new_v4().to_string();
    let value = id.clone();
    state
        .write(Survives::PowerLoss, move |tx| {
            tx.execute("INSERT OR REPLACE INTO setting VALUES ('index_id', ?1)", [value])?;
            Ok::<_, StoreError>(())
        })
        .await?;
    std::fs::write(&id_path, id).map_err(file_error)
}
