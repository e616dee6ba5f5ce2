//! A data file on this disk, checked against the manifest.
//!
//! It never holds the file in memory: what comes from S3 goes through a temporary file, which the system takes away
//! with the process. A `DataFile` that exists has the MD5 that the manifest says.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use md5::{Digest, Md5};

use super::manifest::{InventoryPlace, ListedFile, md5_text};
use super::{FilePlace, InventoryError};

/// A data file, open at its start.
#[derive(Debug)]
pub(super) struct DataFile {
    /// Path or address, for messages.
    pub(super) name: String,
    pub(super) file: File,
}

impl DataFile {
    pub(super) async fn fetch(
        place: &InventoryPlace,
        listed: &ListedFile,
        s3: &Client,
    ) -> Result<Self, InventoryError> {
        let (name, file, md5) = match place.data_file(&listed.key)? {
            FilePlace::Path(path) => {
                let name = path.display().to_string();
                let opened = tokio::task::spawn_blocking(move || open_and_digest(&path)).await;
                let opened = opened.expect("reading does not panic");
                let (file, md5) = opened.map_err(|e| read_error(&name, &e))?;
                (name, file, md5)
            }
            FilePlace::Object { bucket, key } => {
                let name = format!("s3://{bucket}/{key}");
                let (file, md5) = download(s3, &bucket, &key, &name).await?;
                (name, file, md5)
            }
        };
        if !md5.eq_ignore_ascii_case(&listed.md5) {
            return Err(InventoryError::Checksum { file: name, found: md5, expected: listed.md5.clone() });
        }
        Ok(Self { name, file })
    }
}

fn open_and_digest(path: &std::path::Path) -> io::Result<(File, String)> {
    let mut file = File::open(path)?;
    let mut digest = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok((file, md5_text(digest)))
}

async fn download(
    s3: &Client,
    bucket: &str,
    key: &str,
    name: &str,
) -> Result<(File, String), InventoryError> {
    let failed = |detail| InventoryError::Read { file: name.to_owned(), detail };
    let found = s3.get_object().bucket(bucket).key(key).send().await;
    let mut body = found.map_err(|e| failed(DisplayErrorContext(&e).to_string()))?.body;
    let mut file = tempfile::tempfile()
        .map_err(|e| failed(format!("no temporary file can be made for it ({e}); set TMPDIR")))?;
    let mut digest = Md5::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| failed(e.to_string()))?;
        digest.update(&chunk);
        // A write to the page cache, which is not worth a thread of its own.
        file.write_all(&chunk).map_err(|e| failed(format!("its temporary file cannot be written ({e})")))?;
    }
    file.seek(SeekFrom::Start(0)).map_err(|e| failed(e.to_string()))?;
    Ok((file, md5_text(digest)))
}

fn read_error(name: &str, error: &io::Error) -> InventoryError {
    InventoryError::Read { file: name.to_owned(), detail: error.to_string() }
}
