//! Writes the manifest of a job of S3 Batch Operations, part by part.
//!
//! A manifest that was not finished is not an object: nothing reads half of it.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::BackfillError;
use giemsa_config::BACKFILL_PREFIX;
use giemsa_store::{Upload, form_encoded};

/// Size of a part, bytes; S3 takes 10,000 of them and none below 5 MiB but the last.
const PART_BYTES: usize = 8 << 20;

/// A manifest that is being written.
#[derive(Debug)]
pub struct ManifestWriter {
    s3: Client,
    bucket: String,
    id: String,
    upload_id: String,
    parts: Vec<CompletedPart>,
    buffer: Vec<u8>,
    rows: u64,
    input_bucket: String,
}

/// A manifest that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Bucket it is in, which is that of the results.
    pub bucket: String,
    /// Name of the backfill; `backfill/<id>/` holds what belongs to it.
    pub id: String,
    /// Its ETag without quotes, which is made of its content.
    pub etag: String,
    /// Objects in it.
    pub rows: u64,
}

impl Manifest {
    /// Key of the manifest of a backfill.
    pub fn key_of(id: &str) -> String {
        format!("{BACKFILL_PREFIX}/{id}/manifest.csv")
    }

    /// Key prefix of the job's report.
    pub fn report_prefix(&self) -> String {
        format!("{BACKFILL_PREFIX}/{}/report", self.id)
    }
}

impl ManifestWriter {
    /// Begins the manifest of backfill `id` in `bucket`, for objects of `input_bucket`.
    ///
    /// # Errors
    /// [`BackfillError::Manifest`] if S3 does not take it.
    pub async fn begin(
        s3: Client,
        bucket: &str,
        id: &str,
        input_bucket: &str,
    ) -> Result<Self, BackfillError> {
        let key = Manifest::key_of(id);
        let request = s3.create_multipart_upload().bucket(bucket).key(&key).content_type("text/csv");
        let begun = request.send().await;
        let begun = begun.map_err(|error| failed(bucket, id, &DisplayErrorContext(&error)))?;
        let upload_id = begun.upload_id.ok_or_else(|| failed(bucket, id, &"S3 named no upload"))?;
        let bucket = bucket.to_owned();
        let (parts, buffer) = (Vec::new(), Vec::with_capacity(PART_BYTES));
        let (id, input_bucket) = (id.to_owned(), input_bucket.to_owned());
        Ok(Self { s3, bucket, id, upload_id, parts, buffer, rows: 0, input_bucket })
    }

    /// Adds a row for an upload.
    ///
    /// # Errors
    /// [`BackfillError::Manifest`] if S3 does not take a part.
    pub async fn push(&mut self, upload: &Upload) -> Result<(), BackfillError> {
        let row = row_of(&self.input_bucket, upload);
        if self.buffer.len() + row.len() > PART_BYTES {
            self.send_part().await?;
        }
        self.buffer.extend_from_slice(row.as_bytes());
        self.rows += 1;
        Ok(())
    }

    /// Ends the manifest: now it is there.
    ///
    /// # Errors
    /// [`BackfillError::Manifest`] if S3 does not take it.
    pub async fn finish(mut self) -> Result<Manifest, BackfillError> {
        self.send_part().await?;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.parts)).build();
        let request =
            self.s3.complete_multipart_upload().bucket(&self.bucket).key(Manifest::key_of(&self.id));
        let ended = request.upload_id(&self.upload_id).multipart_upload(parts).send().await;
        let ended = ended.map_err(|error| failed(&self.bucket, &self.id, &DisplayErrorContext(&error)))?;
        let etag = ended.e_tag().map(|etag| etag.trim_matches('"').to_owned());
        let etag = etag.ok_or_else(|| failed(&self.bucket, &self.id, &"S3 named no ETag"))?;
        Ok(Manifest { bucket: self.bucket, id: self.id, etag, rows: self.rows })
    }

    /// Takes it back: nothing of it stays.
    ///
    /// # Errors
    /// [`BackfillError::Manifest`]; then its parts stay until the bucket's rule for unfinished uploads removes them.
    pub async fn abort(self) -> Result<(), BackfillError> {
        let request = self.s3.abort_multipart_upload().bucket(&self.bucket).key(Manifest::key_of(&self.id));
        let ended = request.upload_id(&self.upload_id).send().await;
        ended.map(drop).map_err(|error| failed(&self.bucket, &self.id, &DisplayErrorContext(&error)))
    }

    async fn send_part(&mut self) -> Result<(), BackfillError> {
        let number =
            i32::try_from(self.parts.len() + 1).expect("S3 takes 10,000 parts, each of millions of bytes");
        let body = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART_BYTES));
        let request = self.s3.upload_part().bucket(&self.bucket).key(Manifest::key_of(&self.id));
        let request = request.upload_id(&self.upload_id).part_number(number).body(ByteStream::from(body));
        let sent = request.send().await;
        let sent = sent.map_err(|error| failed(&self.bucket, &self.id, &DisplayErrorContext(&error)))?;
        self.parts.push(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
        Ok(())
    }
}

fn failed(bucket: &str, id: &str, detail: &dyn std::fmt::Display) -> BackfillError {
    let location = format!("s3://{bucket}/{}", Manifest::key_of(id));
    BackfillError::Manifest { location, detail: detail.to_string() }
}

/// A row: bucket, encoded key, version; nothing in it needs quotes.
///
/// A space is `%20`, which means the same to readers that decode `+` and to those that do not; an upload from before the
/// bucket had versions is `null`, as S3 itself calls it.
fn row_of(bucket: &str, upload: &Upload) -> String {
    let key = form_encoded(&upload.key).replace('+', "%20");
    format!("{bucket},{key},{}\n", upload.version_id().unwrap_or("null"))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use giemsa_core::event::{Notice, parse_event};
    use giemsa_core::object::ObjectRef;
    use giemsa_store::UploadVersion;

    proptest! {
        #[test]
        fn the_event_parser_reads_the_upload_of_a_row(
            key in "\\PC{1,60}|[\\x00-\\x7f]{1,60}",
            version in proptest::option::of("[A-Za-z0-9._-]{1,20}"),
        ) {
            let upload = Upload {
                key,
                version: version.map_or(UploadVersion::Null, UploadVersion::Id),
                etag: "e".to_owned(),
                size_bytes: 1,
                uploaded_at: DateTime::UNIX_EPOCH,
                is_latest: true,
            };
            let row = row_of("b", &upload);
            prop_assert!(row.is_ascii() && row.matches('\n').count() == 1 && !row.contains('"'), "{}", row);
            let fields: Vec<&str> = row.trim_end().split(',').collect();
            prop_assert_eq!(fields.len(), 3);
            let event = json!({
                "invocationSchemaVersion": "2.0", "invocationId": "i", "job": {"id": "j"},
                "tasks": [{"taskId": "t", "s3Bucket": fields[0], "s3Key": fields[1], "s3VersionId": fields[2]}],
            });
            let parsed = parse_event(&event).unwrap();
            let version_id = upload.version_id().map(str::to_owned);
            let object = ObjectRef { version_id, ..ObjectRef::new("b", &upload.key) };
            prop_assert_eq!(parsed.deliveries[0].notices.clone(), Ok(vec![Notice::Created(object)]));
        }
    }
}
