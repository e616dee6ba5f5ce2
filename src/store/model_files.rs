//! The files of the model bucket, as commands read and write them.
//!
//! It never looks into a file. Invariant: what is replaced is what was read before ([`ModelFiles::replace`]), so that
//! of two people who release at once one is told.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime as S3DateTime};
use bytes::Bytes;
use chrono::{DateTime, Utc};

/// The model bucket.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    s3: Client,
    bucket: String,
}

/// What S3 knows of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Its key.
    pub key: String,
    /// Its ETag, as S3 writes it.
    pub etag: String,
    /// Size, bytes.
    pub size_bytes: u64,
    /// When it was put in its place; S3's headers have whole seconds.
    pub modified_at: DateTime<Utc>,
}

/// A file with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// What S3 knows of it.
    pub facts: FileFacts,
    /// Its content.
    pub bytes: Bytes,
}

/// Why the model bucket did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum ModelFilesError {
    /// A file or a listing could not be read.
    #[error("{location} cannot be read: {detail}")]
    Read {
        /// S3 URI.
        location: String,
        /// What S3 or the network says.
        detail: String,
    },
    /// A file could not be written.
    #[error("{location} cannot be written: {detail}")]
    Write {
        /// S3 URI.
        location: String,
        /// What S3 or the network says.
        detail: String,
    },
}

impl ModelFiles {
    /// The files of `bucket`.
    pub fn new(s3: Client, bucket: impl Into<String>) -> Self {
        Self { s3, bucket: bucket.into() }
    }

    /// S3 URI of a key.
    pub fn location(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// Reads a file, if it is there.
    ///
    /// # Errors
    /// [`ModelFilesError::Read`].
    pub async fn get(&self, key: &str) -> Result<Option<StoredFile>, ModelFilesError> {
        let failed = |detail: String| self.unreadable(key, detail);
        match self.s3.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => {
                let facts = facts(key, found.e_tag(), found.content_length(), found.last_modified());
                let bytes = found.body.collect().await.map_err(|e| failed(e.to_string()))?.into_bytes();
                if bytes.len() as u64 != facts.size_bytes {
                    return Err(failed(format!("{} of {} bytes arrived", bytes.len(), facts.size_bytes)));
                }
                Ok(Some(StoredFile { facts, bytes }))
            }
            Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => Ok(None),
            Err(error) => Err(failed(DisplayErrorContext(&error).to_string())),
        }
    }

    /// What S3 knows of a file, if it is there.
    ///
    /// # Errors
    /// [`ModelFilesError::Read`].
    pub async fn facts(&self, key: &str) -> Result<Option<FileFacts>, ModelFilesError> {
        match self.s3.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => Ok(Some(facts(key, found.e_tag(), found.content_length(), found.last_modified()))),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_not_found()) => Ok(None),
            Err(error) => Err(self.unreadable(key, DisplayErrorContext(&error).to_string())),
        }
    }

    /// All files whose key starts with `prefix`, in the order of their keys.
    ///
    /// # Errors
    /// [`ModelFilesError::Read`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<FileFacts>, ModelFilesError> {
        let request = self.s3.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let mut pages = request.into_paginator().send();
        let mut files = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| self.unreadable(prefix, DisplayErrorContext(&e).to_string()))?;
            files.extend(page.contents().iter().map(|object| {
                let key = object.key().unwrap_or_default();
                facts(key, object.e_tag(), object.size(), object.last_modified())
            }));
        }
        Ok(files)
    }

    /// Writes a file, whatever is there.
    ///
    /// # Errors
    /// [`ModelFilesError::Write`].
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ModelFilesError> {
        let request = self.s3.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(bytes));
        let sent = request.send().await;
        sent.map(drop).map_err(|e| self.unwritable(key, DisplayErrorContext(&e).to_string()))
    }

    /// Writes a file in the place of the one with the ETag `expected`, or where there is none.
    ///
    /// Returns whether it was written: not, if somebody else wrote first. Also what was written may be answered by
    /// no, if the answer was lost and the request sent again; so look what is there.
    ///
    /// # Errors
    /// [`ModelFilesError::Write`].
    pub async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        expected: Option<&str>,
    ) -> Result<bool, ModelFilesError> {
        let request = self.s3.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(bytes));
        let request = match expected {
            Some(etag) => request.if_match(etag),
            None => request.if_none_match("*"),
        };
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) if is_condition_failed(&error) => Ok(false),
            Err(error) => Err(self.unwritable(key, DisplayErrorContext(&error).to_string())),
        }
    }

    fn unreadable(&self, key: &str, detail: String) -> ModelFilesError {
        ModelFilesError::Read { location: self.location(key), detail }
    }

    fn unwritable(&self, key: &str, detail: String) -> ModelFilesError {
        ModelFilesError::Write { location: self.location(key), detail }
    }
}

/// 412 if the file is another one, 409 if another write was under way, 404 if the file was deleted meanwhile
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>).
fn is_condition_failed<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let is_gone = error.as_service_error().and_then(|e| e.code()) == Some("NoSuchKey");
    let status = error.raw_response().map(|response| response.status().as_u16());
    is_gone || matches!(status, Some(409 | 412))
}

fn facts(key: &str, etag: Option<&str>, size: Option<i64>, modified: Option<&S3DateTime>) -> FileFacts {
    FileFacts {
        key: key.to_owned(),
        etag: etag.unwrap_or_default().to_owned(),
        size_bytes: size.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
        modified_at: modified
            .and_then(|at| DateTime::from_timestamp(at.secs(), at.subsec_nanos()))
            .unwrap_or_default(),
    }
}
