//! Compacted files in S3: uploaded, read back, merged.
//!
//! It never trusts a file whose rows have another digest than its footer says. Merged rows come in the order of their
//! result objects, each object once.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::ByteStream;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use tokio::sync::mpsc;

use super::ExportError;
use super::day::{Day, ResultsBucket};
use super::records_file::{ObjectRow, StoredRow, footer, read_rows};

/// Rows that go from the reading thread at once.
const BATCH_ROWS: usize = 256;

/// Attempts to upload a file, the first included.
const UPLOAD_ATTEMPTS: u32 = 3;

/// Longest time for a whole compacted file to or from S3.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(900);

/// A compacted file, on this disk and in S3.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) key: String,
    /// As S3 has it.
    pub(super) file: File,
    pub(super) size_bytes: u64,
    pub(super) rows: u64,
    pub(super) digest: String,
    written_at: Option<DateTime<Utc>>,
}

/// Name of a file in the folder of its day: the same rows have the same name.
pub(super) fn part_name(number: usize, digest: &str) -> String {
    format!("part-{number:04}-{}.parquet", &digest[..16])
}

/// A file for rows; the system takes it away with the process.
pub(super) fn temporary_file() -> Result<File, ExportError> {
    tempfile::tempfile().map_err(|e| ExportError::Write {
        detail: format!("no temporary file can be made for it ({e}); set TMPDIR to a folder with room"),
    })
}

impl ResultsBucket {
    /// The compacted files of a day, fetched.
    pub(super) async fn parts(&self, day: &Day) -> Result<Vec<Part>, ExportError> {
        let folder = self.part_folder(day);
        let listed: Vec<_> = self.objects(folder.clone()).try_collect().await?;
        let mut parts = Vec::new();
        for object in listed {
            let name = object.key.strip_prefix(&folder).unwrap_or_default();
            if name.starts_with("part-") && name.ends_with(".parquet") && !name.contains('/') {
                parts.push(self.fetch_part(&object.key).await?);
            }
        }
        Ok(parts)
    }

    /// Fetches a compacted file.
    pub(super) async fn fetch_part(&self, key: &str) -> Result<Part, ExportError> {
        let failed = |detail: String| self.failed_with("GetObject", key, detail);
        let request = self.s3.get_object().bucket(&self.name).key(key);
        let request = request.customize().config_override(slow_transfer());
        let found = request.send().await.map_err(|e| self.failed("GetObject", key, &e))?;
        let written_at = found.last_modified().and_then(|t| DateTime::from_timestamp(t.secs(), 0));
        let mut body = found.body;
        let mut file = temporary_file()?;
        let mut size_bytes = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| failed(e.to_string()))?;
            size_bytes += chunk.len() as u64;
            // A write to the page cache, which is not worth a thread of its own.
            file.write_all(&chunk)
                .map_err(|e| failed(format!("its temporary file cannot be written ({e}); set TMPDIR")))?;
        }
        let (rows, digest) = footer(&self.address(key), &file)?;
        Ok(Part { key: key.to_owned(), file, size_bytes, rows, digest, written_at })
    }

    /// Uploads a file of rows with this digest, reads it back from S3, and returns it as S3 has it.
    pub(super) async fn upload_part(
        &self,
        key: &str,
        mut file: File,
        digest: &str,
    ) -> Result<Part, ExportError> {
        let failed = |e: &dyn std::fmt::Display| ExportError::Write { detail: e.to_string() };
        let mut attempt = 1;
        loop {
            // The SDK tries nothing again whose body is an open file.
            file.seek(SeekFrom::Start(0)).map_err(|e| failed(&e))?;
            let body = tokio::fs::File::from_std(file.try_clone().map_err(|e| failed(&e))?);
            let body = ByteStream::read_from().file(body).build().await.map_err(|e| failed(&e))?;
            let put = self.s3.put_object().bucket(&self.name).key(key).body(body);
            let put = put.content_type("application/vnd.apache.parquet");
            match put.customize().config_override(slow_transfer()).send().await {
                Ok(_) => break,
                Err(e) if attempt == UPLOAD_ATTEMPTS => return Err(self.failed("PutObject", key, &e)),
                Err(_) => attempt += 1,
            }
        }
        let part = self.fetch_part(key).await?;
        self.verify(&part, digest).await?;
        Ok(part)
    }

    /// Reads all rows of a fetched file, and compares them with the digest of the rows that it should have.
    pub(super) async fn verify(&self, part: &Part, expected: &str) -> Result<(), ExportError> {
        let mut rows = self.rows_of(part)?;
        while rows.next().await?.is_some() {}
        match rows.digest {
            Some(found) if found == expected => Ok(()),
            found => Err(ExportError::Damaged {
                file: self.address(&part.key),
                found: found.unwrap_or_default(),
                expected: expected.to_owned(),
            }),
        }
    }

    /// The rows of a fetched file, read by a thread of its own.
    pub(super) fn rows_of(&self, part: &Part) -> Result<PartRows, ExportError> {
        let name = self.address(&part.key);
        let failed = |detail: String| ExportError::Read { file: name.clone(), detail };
        let file = part.file.try_clone().map_err(|e| failed(e.to_string()))?;
        let (sender, receiver) = mpsc::channel(2);
        let panic_sender = sender.clone();
        let thread_name = name.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut batch = Vec::with_capacity(BATCH_ROWS);
            let read = read_rows(&thread_name, file, |row| {
                batch.push(row);
                batch.len() < BATCH_ROWS
                    || sender.blocking_send(Read::Rows(std::mem::take(&mut batch))).is_ok()
            });
            let end = read.map_or_else(Read::Failed, Read::End);
            // Without a reader there is nobody to tell.
            let _ = sender.blocking_send(Read::Rows(batch)).and_then(|()| sender.blocking_send(end));
        });
        // The library that reads Parquet panics on some damaged files.
        tokio::spawn(async move {
            if reading.await.is_err() {
                let detail = "its structure is damaged".to_owned();
                let _ = panic_sender.send(Read::Failed(ExportError::Read { file: name, detail })).await;
            }
        });
        let expected = part.digest.clone();
        let file = self.address(&part.key);
        Ok(PartRows { file, expected, receiver, batch: Vec::new().into_iter(), digest: None })
    }
}

/// What the reading thread sends.
enum Read {
    Rows(Vec<StoredRow>),
    End(String),
    Failed(ExportError),
}

/// Rows of one file.
pub(super) struct PartRows {
    file: String,
    expected: String,
    receiver: mpsc::Receiver<Read>,
    batch: std::vec::IntoIter<StoredRow>,
    /// Of the rows, after the last.
    digest: Option<String>,
}

impl PartRows {
    /// The next row and the object that it was read from.
    pub(super) async fn next(&mut self) -> Result<Option<ObjectRow>, ExportError> {
        loop {
            if let Some(StoredRow { record, object }) = self.batch.next() {
                let object = object.ok_or_else(|| ExportError::Read {
                    file: self.file.clone(),
                    detail: "a row does not name its result object".to_owned(),
                })?;
                return Ok(Some(ObjectRow { record, object }));
            }
            match self.receiver.recv().await {
                Some(Read::Rows(batch)) => self.batch = batch.into_iter(),
                Some(Read::End(found)) if found != self.expected => {
                    let (file, expected) = (self.file.clone(), self.expected.clone());
                    return Err(ExportError::Damaged { file, found, expected });
                }
                Some(Read::End(found)) => self.digest = Some(found),
                Some(Read::Failed(error)) => return Err(error),
                None => return Ok(None),
            }
        }
    }
}

/// Rows of several files, merged by their objects.
pub(super) struct MergedRows {
    parts: Vec<Merging>,
}

/// A file that is merged.
struct Merging {
    written_at: Option<DateTime<Utc>>,
    rows: PartRows,
    /// The row that comes next.
    head: Option<ObjectRow>,
}

impl MergedRows {
    pub(super) async fn of(bucket: &ResultsBucket, parts: &[Part]) -> Result<Self, ExportError> {
        let mut merged = Vec::new();
        for part in parts {
            let mut rows = bucket.rows_of(part)?;
            let head = rows.next().await?;
            merged.push(Merging { written_at: part.written_at, rows, head });
        }
        Ok(Self { parts: merged })
    }

    /// Key of the next row's object.
    pub(super) fn next_key(&self) -> Option<&str> {
        self.parts.iter().filter_map(|part| part.head.as_ref()).map(|row| row.object.key.as_str()).min()
    }

    /// The next row. Files of an interrupted run can hold an object twice: the row of the newest file counts.
    pub(super) async fn next(&mut self) -> Result<Option<ObjectRow>, ExportError> {
        let Some(key) = self.next_key().map(str::to_owned) else { return Ok(None) };
        let (mut newest, mut newest_at) = (None, None);
        for part in &mut self.parts {
            let Some(row) = part.head.take_if(|row| row.object.key == key) else { continue };
            part.head = part.rows.next().await?;
            if newest.is_none() || newest_at < part.written_at {
                (newest, newest_at) = (Some(row), part.written_at);
            }
        }
        Ok(newest)
    }
}

/// A compacted file may take longer than the small objects that the clients' timeouts are for.
fn slow_transfer() -> aws_sdk_s3::config::Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .read_timeout(Duration::from_secs(30))
        .operation_attempt_timeout(TRANSFER_TIMEOUT);
    aws_sdk_s3::Config::builder().timeout_config(timeouts.build())
}
