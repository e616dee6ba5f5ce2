//! S3 Inventory: a bucket's listing as S3 writes it once a day or week, read instead of asking S3 for it.
//!
//! It never holds more than two pages of rows, and never reads a data file whose MD5 is not the manifest's. A page's
//! position continues exactly after its last row, whatever was read by whom before.

mod csv_rows;
mod data_file;
mod manifest;
mod parquet_rows;
mod row;

use std::path::PathBuf;

use aws_sdk_s3::Client;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use data_file::DataFile;
use giemsa_store::Upload;
use manifest::{Format, Manifest};
use row::Row;

pub use manifest::InventoryPlace;

/// Rows of a page; as many as S3 lists at once.
const PAGE_ROWS: usize = 1_000;

/// How far an inventory has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryPosition {
    /// Data file, counted from 0 in the order of the manifest.
    pub file: usize,
    /// Rows of it that were read.
    pub rows: u64,
}

/// Why an inventory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The argument names no manifest.
    #[error("{found:?} names no manifest; expected a path to manifest.json, or s3://bucket/…/manifest.json")]
    Place {
        /// The argument.
        found: String,
    },
    /// A file of the inventory cannot be read.
    #[error("{file} cannot be read: {detail}")]
    Read {
        /// Path or address.
        file: String,
        /// What the system, S3 or the network says.
        detail: String,
    },
    /// A data file is not where it could be.
    #[error(
        "the data file {key:?} of the inventory is not on this disk; looked in {looked}; copy it beside manifest.json, \
         or name the manifest as s3://…"
    )]
    DataFileMissing {
        /// Key in the manifest.
        key: String,
        /// Folders that were looked in.
        looked: String,
    },
    /// The manifest is not one of S3 Inventory.
    #[error("{file} is not a manifest of S3 Inventory: {detail}; expected the manifest.json that S3 wrote")]
    Manifest {
        /// Path or address.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The inventory is in a format that is not read.
    #[error(
        "{file} says that the inventory is in {found}, which Giemsa does not read; expected CSV or Parquet: set \
         \"Output format\" of the inventory configuration, or run without --inventory"
    )]
    Format {
        /// Path or address of the manifest.
        file: String,
        /// The format it names.
        found: String,
    },
    /// A column that is needed is not in the inventory.
    #[error(
        "the inventory has no {missing}; expected Size, Last modified and ETag among the additional fields of the \
         inventory configuration"
    )]
    Columns {
        /// Names of the columns.
        missing: String,
    },
    /// A data file is not the one that the manifest lists.
    #[error(
        "{file} has the MD5 {found}, the manifest says {expected}; fetch the file again, it is damaged or of another \
         inventory"
    )]
    Checksum {
        /// Path or address.
        file: String,
        /// Of what was read.
        found: String,
        /// By the manifest.
        expected: String,
    },
    /// A data file cannot be understood.
    #[error("row {row} of {file} cannot be read: {detail}")]
    Row {
        /// Path or address.
        file: String,
        /// The row, from 1.
        row: u64,
        /// What is wrong.
        detail: String,
    },
}

/// An inventory whose manifest has been read.
#[derive(Debug)]
pub struct Inventory {
    s3: Client,
    place: InventoryPlace,
    manifest: Manifest,
}

impl Inventory {
    /// Reads the manifest.
    ///
    /// # Errors
    /// [`InventoryError`] if it cannot be read, or is of an inventory that cannot be used.
    pub async fn open(place: InventoryPlace, s3: Client) -> Result<Self, InventoryError> {
        let bytes = place.read_manifest(&s3).await?;
        let manifest = Manifest::parse(&place.to_string(), &bytes)?;
        Ok(Self { s3, place, manifest })
    }

    /// The bucket that is listed.
    pub fn bucket(&self) -> &str {
        &self.manifest.source_bucket
    }

    /// MD5 of the manifest, which tells this inventory from others.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// Number of data files.
    pub fn files(&self) -> usize {
        self.manifest.files.len()
    }

    /// The uploads after `from`, page by page.
    pub fn pages(self, from: InventoryPosition) -> InventoryPages {
        InventoryPages { inventory: self, position: from, rows: None }
    }
}

/// Uploads of an inventory, page by page, in no particular order.
#[derive(Debug)]
pub struct InventoryPages {
    inventory: Inventory,
    position: InventoryPosition,
    /// The data file that is being read, by a thread of its own.
    rows: Option<mpsc::Receiver<Result<Vec<Row>, InventoryError>>>,
}

impl InventoryPages {
    /// Number of data files.
    pub fn files(&self) -> usize {
        self.inventory.files()
    }

    /// The next page and the position after it, or `None` after the last. A page can be empty: delete markers are no
    /// uploads.
    ///
    /// # Errors
    /// [`InventoryError`]; the pages before it stand.
    pub async fn next(&mut self) -> Result<Option<(Vec<Upload>, InventoryPosition)>, InventoryError> {
        loop {
            let rows = match &mut self.rows {
                Some(rows) => rows,
                None if self.position.file < self.inventory.files() => {
                    let rows = self.start_file().await?;
                    self.rows.insert(rows)
                }
                None => return Ok(None),
            };
            match rows.recv().await {
                Some(page) => {
                    let page = page?;
                    self.position.rows += page.len() as u64;
                    let uploads = page.into_iter().filter_map(|row| row.upload).collect();
                    return Ok(Some((uploads, self.position)));
                }
                None => {
                    self.rows = None;
                    self.position = InventoryPosition { file: self.position.file + 1, rows: 0 };
                }
            }
        }
    }

    /// Starts reading the data file of the position, after the rows that were read of it.
    async fn start_file(&self) -> Result<mpsc::Receiver<Result<Vec<Row>, InventoryError>>, InventoryError> {
        let Inventory { s3, place, manifest } = &self.inventory;
        let file = DataFile::fetch(place, &manifest.files[self.position.file], s3).await?;
        let skipped = self.position.rows;
        let format = manifest.format.clone();
        let (sender, receiver) = mpsc::channel(1);
        let thread_sender = sender.clone();
        let name = file.name.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut pages = PageSender { sender: thread_sender, skipped, page: Vec::new() };
            let read = match &format {
                Format::Csv(columns) => csv_rows::read_rows(&file, columns, &mut |row| pages.take(row)),
                Format::Parquet => parquet_rows::read_rows(&file, &mut |row| pages.take(row)),
            };
            pages.finish(read);
        });
        // The library that reads Parquet panics on some damaged files.
        tokio::spawn(async move {
            if reading.await.is_err() {
                let detail = "its structure is damaged".to_owned();
                let _ = sender.send(Err(InventoryError::Read { file: name, detail })).await;
            }
        });
        Ok(receiver)
    }
}

/// Puts rows into pages, and sends them to whoever still reads.
struct PageSender {
    sender: mpsc::Sender<Result<Vec<Row>, InventoryError>>,
    skipped: u64,
    page: Vec<Row>,
}

impl PageSender {
    /// Takes the next row; returns whether more are wanted.
    fn take(&mut self, row: Row) -> bool {
        if self.skipped > 0 {
            self.skipped -= 1;
            return true;
        }
        self.page.push(row);
        self.page.len() < PAGE_ROWS || self.sender.blocking_send(Ok(std::mem::take(&mut self.page))).is_ok()
    }

    fn finish(self, read: Result<(), InventoryError>) {
        // Rows before a bad one stand; without a reader there is nobody to tell.
        if !self.page.is_empty() && self.sender.blocking_send(Ok(self.page)).is_err() {
            return;
        }
        if let Err(error) = read {
            let _ = self.sender.blocking_send(Err(error));
        }
    }
}

/// Where a data file of an inventory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FilePlace {
    /// On this disk.
    Path(PathBuf),
    /// In S3.
    Object { bucket: String, key: String },
}
