//! A day of the results prefix as a few Parquet files.
//!
//! It never reads an object again that a file has already, and deletes JSON only when asked to. At every moment each
//! result is in its JSON object or in a compacted file that was read back, and no result leaves a compacted file but
//! for a newer object of the same name.

use std::fs::File;

use aws_sdk_s3::Client;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};

use super::ExportError;
use super::day::{COMPACTED_ROWS, Day, Listed, ResultsBucket};
use super::part::{MergedRows, Part, part_name, temporary_file};
use super::records_file::{ObjectRow, ParquetRecords, ResultObject};
use giemsa_core::record::Record;

/// Result objects that are read at once.
const READS_AT_ONCE: usize = 32;

/// Largest result object, bytes; what is larger is none.
const MAX_RESULT_BYTES: u64 = 1 << 20;

/// What a compaction is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Results are read and written.
    Reading,
    /// JSON objects are deleted.
    Deleting,
}

/// What became of a day.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Compacted {
    /// Stage of the day.
    pub stage: String,
    /// Upload date, or `unknown`.
    pub date: String,
    /// Keys of the day's files.
    pub files: Vec<String>,
    /// Size of the files, bytes.
    pub size_bytes: u64,
    /// Results in the files.
    pub results: u64,
    /// Results that were not in them before.
    pub added: u64,
    /// Files that were written; 0 if nothing was new.
    pub files_written: u64,
    /// Objects that are left as they are, because they are not records, or hold what a column would lose.
    pub left_out: u64,
    /// Some of those, with the reason.
    pub left_out_examples: Vec<String>,
    /// JSON objects that were deleted.
    pub json_deleted: u64,
}

/// Most examples of objects that are left out.
const MAX_EXAMPLES: usize = 10;

/// Compacts days of a results bucket.
#[derive(Debug, Clone)]
pub struct Compactor {
    bucket: ResultsBucket,
    file_rows: u64,
}

/// A place in the merge: what the day's files have of an object, what the listing has, or both.
struct Planned {
    stored: Option<ObjectRow>,
    listed: Option<Listed>,
}

/// What becomes of it.
enum Resolved {
    Stored(ObjectRow),
    New(ObjectRow),
    LeftOut { stored: Option<ObjectRow>, reason: String },
}

/// Rows in a file on this disk.
struct Written {
    file: File,
    digest: String,
}

impl Compactor {
    /// Works below `prefix` of a results bucket.
    pub fn new(s3: Client, bucket: impl Into<String>, prefix: impl Into<String>) -> Self {
        let bucket = ResultsBucket { s3, name: bucket.into(), prefix: prefix.into() };
        Self { bucket, file_rows: COMPACTED_ROWS }
    }

    /// With files of at most so many rows, at least 1, instead of [`COMPACTED_ROWS`].
    #[must_use]
    pub fn with_file_rows(self, file_rows: u64) -> Self {
        Self { file_rows: file_rows.max(1), ..self }
    }

    /// Days of a stage that have result objects, oldest first.
    ///
    /// # Errors
    /// [`ExportError::Request`].
    pub async fn days(&self, stage: &str) -> Result<Vec<Day>, ExportError> {
        self.bucket.days(stage).await
    }

    /// Puts a day's results into files, with those that its files have already. With `delete_json`, objects that are in
    /// the files are deleted then. `seen` is told of each result; the memory does not grow with the day.
    ///
    /// # Errors
    /// [`ExportError`]; started again, it goes on.
    pub async fn compact(
        &self,
        day: &Day,
        delete_json: bool,
        mut seen: impl FnMut(Phase, u64),
    ) -> Result<Compacted, ExportError> {
        let bucket = &self.bucket;
        let old = bucket.parts(day).await?;
        let mut done =
            Compacted { stage: day.stage.clone(), date: day.date.to_string(), ..Compacted::default() };
        let written = self.write_files(day, &old, &mut done, &mut seen).await?;

        let mut parts = Vec::new();
        let mut old_parts: Vec<Option<Part>> = old.into_iter().map(Some).collect();
        for (number, written) in (1..).zip(written) {
            let key = format!("{}{}", bucket.part_folder(day), part_name(number, &written.digest));
            // The same rows are there already, and were verified when they were read.
            let same = old_parts
                .iter_mut()
                .find_map(|slot| slot.take_if(|part| part.key == key && part.digest == written.digest));
            match same {
                Some(part) => parts.push(part),
                None => {
                    parts.push(bucket.upload_part(&key, written.file, &written.digest).await?);
                    done.files_written += 1;
                }
            }
        }
        // Only now, when all their rows are in files that were read back.
        for replaced in old_parts.into_iter().flatten() {
            let delete = bucket.s3.delete_object().bucket(&bucket.name).key(&replaced.key);
            delete.send().await.map_err(|e| bucket.failed("DeleteObject", &replaced.key, &e))?;
        }
        done.size_bytes = parts.iter().map(|part| part.size_bytes).sum();
        done.results = parts.iter().map(|part| part.rows).sum();
        if delete_json {
            done.json_deleted = bucket.delete_json(day, &parts, |n| seen(Phase::Deleting, n)).await?;
        }
        done.files = parts.into_iter().map(|part| part.key).collect();
        Ok(done)
    }

    /// Writes all results of a day to files on this disk.
    async fn write_files(
        &self,
        day: &Day,
        old: &[Part],
        done: &mut Compacted,
        seen: &mut impl FnMut(Phase, u64),
    ) -> Result<Vec<Written>, ExportError> {
        let planned = self.planned(day, old).await?;
        let resolved = planned.map_ok(|planned| self.resolve(planned)).try_buffered(READS_AT_ONCE);
        let mut resolved = std::pin::pin!(resolved);
        let mut files = Vec::new();
        let mut writer: Option<ParquetRecords<File>> = None;
        let mut count = 0;
        while let Some(resolved) = resolved.try_next().await? {
            let ObjectRow { record, object } = match resolved {
                Resolved::Stored(row) => row,
                Resolved::New(row) => {
                    done.added += 1;
                    row
                }
                Resolved::LeftOut { stored, reason } => {
                    done.left_out += 1;
                    if done.left_out_examples.len() < MAX_EXAMPLES {
                        done.left_out_examples.push(reason);
                    }
                    let Some(row) = stored else { continue };
                    row
                }
            };
            if writer.as_ref().is_some_and(|writer| writer.rows() >= self.file_rows) {
                files.extend(writer.take().map(finished).transpose()?);
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(ParquetRecords::of_objects(temporary_file()?)?),
            };
            writer.write_object(&record, &object)?;
            count += 1;
            seen(Phase::Reading, count);
        }
        files.extend(writer.map(finished).transpose()?);
        Ok(files)
    }

    /// What there is of a day, in the order of keys.
    async fn planned<'a>(
        &'a self,
        day: &Day,
        old: &[Part],
    ) -> Result<impl Stream<Item = Result<Planned, ExportError>> + use<'a>, ExportError> {
        let stored = MergedRows::of(&self.bucket, old).await?;
        let listed = Box::pin(self.bucket.objects(self.bucket.json_folder(day)).peekable());
        Ok(stream::try_unfold((stored, listed), |(mut stored, mut listed)| async move {
            let listed_key = match listed.as_mut().peek().await {
                Some(Ok(object)) => Some(object.key.clone()),
                // Taken below, where it is an error.
                Some(Err(_)) => return listed.try_next().await.map(|_| None),
                None => None,
            };
            let stored_key = stored.next_key();
            let (take_stored, take_listed) = match (stored_key, listed_key.as_deref()) {
                (None, None) => return Ok(None),
                (Some(stored), Some(listed)) => (stored <= listed, listed <= stored),
                (stored, listed) => (stored.is_some(), listed.is_some()),
            };
            let planned = Planned {
                stored: if take_stored { stored.next().await? } else { None },
                listed: if take_listed { listed.try_next().await? } else { None },
            };
            Ok(Some((planned, (stored, listed))))
        }))
    }

    /// Reads the object if the files do not have it as it is.
    async fn resolve(&self, planned: Planned) -> Result<Resolved, ExportError> {
        let (stored, listed) = match (planned.stored, planned.listed) {
            (Some(row), None) => return Ok(Resolved::Stored(row)),
            (Some(row), Some(listed)) if row.object.etag == listed.etag => return Ok(Resolved::Stored(row)),
            (stored, Some(listed)) => (stored, listed),
            (None, None) => unreachable!("one of them gave the key"),
        };
        let left_out = |stored, why: &str| {
            let reason = format!("{}: {why}", self.bucket.address(&listed.key));
            Ok(Resolved::LeftOut { stored, reason })
        };
        if listed.size_bytes > MAX_RESULT_BYTES {
            return left_out(stored, "it is larger than a result");
        }
        let (bytes, etag) = self.read(&listed.key).await?;
        let record = match whole_record(&bytes) {
            Ok(record) => record,
            Err(why) => return left_out(stored, &why),
        };
        // That an image is gone is no answer to one that was answered.
        if record.is_gone() && stored.as_ref().is_some_and(|row| !row.record.is_gone()) {
            return left_out(stored, "it says that the image is gone, which was answered before");
        }
        Ok(Resolved::New(ObjectRow { record, object: ResultObject { key: listed.key, etag } }))
    }

    async fn read(&self, key: &str) -> Result<(Vec<u8>, String), ExportError> {
        let ResultsBucket { s3, name, .. } = &self.bucket;
        let found = match s3.get_object().bucket(name).key(key).send().await {
            Ok(found) => found,
            Err(e) if giemsa_store::is_gone(&e) => {
                return Err(ExportError::Removed { bucket: name.clone(), key: key.to_owned() });
            }
            Err(e) => return Err(self.bucket.failed("GetObject", key, &e)),
        };
        let etag = found.e_tag().unwrap_or_default().trim_matches('"').to_owned();
        let bytes = found.body.collect().await;
        let bytes = bytes.map_err(|e| self.bucket.failed_with("GetObject", key, e.to_string()))?;
        Ok((bytes.to_vec(), etag))
    }
}

fn finished(writer: ParquetRecords<File>) -> Result<Written, ExportError> {
    let (file, digest) = writer.finish()?;
    Ok(Written { file, digest })
}

/// The record of a result object, if columns hold all of it.
fn whole_record(bytes: &[u8]) -> Result<Record, String> {
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| format!("it is not a JSON: {error}"))?;
    let record: Record =
        serde_json::from_value(value.clone()).map_err(|error| format!("it is not a record: {error}"))?;
    let again = serde_json::to_value(&record).expect("a record holds only text and finite numbers");
    let times = [record.image.uploaded_at, record.classified_at];
    let is_fine_time = times.into_iter().flatten().all(|time| time.timestamp_subsec_nanos() % 1_000_000 == 0);
    let is_fine_size = record.image.size_bytes.is_none_or(|size| i64::try_from(size).is_ok());
    if again != value || !is_fine_time || !is_fine_size {
        return Err("it holds fields or digits that this version's columns would lose".to_owned());
    }
    Ok(record)
}
