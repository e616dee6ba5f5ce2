//! The model bucket as the gate sees it: models, the golden set, reports.
//!
//! It never decides anything. Invariant: a digest is of the bytes that were read, also of a file too large to be held.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};

use super::{GOLDEN_PREFIX, GoldenBytes, GoldenImage};
use crate::digest::Sha256Stream;
use crate::model::{GateReport, RULES_KEY, Unanswered, report_key};
use crate::object::ObjectRef;
use crate::store::{FetchError, fetch_object, is_gone};

/// Reads and writes the model bucket.
#[derive(Debug, Clone)]
pub struct ModelBucket {
    s3: Client,
    bucket: String,
    max_model_bytes: u64,
}

/// A model file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFile {
    /// It is there.
    Whole {
        /// Lower-case hexadecimal SHA-256.
        sha256: String,
        /// Its content.
        bytes: Bytes,
    },
    /// It is larger than is allowed.
    TooLarge {
        /// Lower-case hexadecimal SHA-256.
        sha256: String,
        /// Its size, bytes.
        size_bytes: u64,
    },
    /// It is not there, or no longer.
    Gone,
}

/// Why the model bucket could not be used; trying again may help.
#[derive(Debug, thiserror::Error)]
#[error("s3://{bucket}/{key} cannot be {action}: {detail}")]
pub struct BucketError {
    /// Model bucket.
    pub bucket: String,
    /// Key or prefix.
    pub key: String,
    /// What was to be done: `read`, `listed` or `written`.
    pub action: &'static str,
    /// What S3 or the network says.
    pub detail: String,
}

impl ModelBucket {
    /// Uses `bucket`; model files of more than `max_model_bytes` are not held.
    pub fn new(s3: Client, bucket: impl Into<String>, max_model_bytes: u64) -> Self {
        Self { s3, bucket: bucket.into(), max_model_bytes }
    }

    /// Reads a model: the version that `object` names, or else the one that is there now.
    ///
    /// # Errors
    /// [`BucketError`] if it cannot be read to its end.
    pub async fn read_model(&self, object: &ObjectRef) -> Result<ModelFile, BucketError> {
        let request = self.s3.get_object().bucket(&self.bucket).key(&object.key);
        let mut found = match request.set_version_id(object.version_id.clone()).send().await {
            Ok(found) => found,
            Err(error) if is_gone(&error) => return Ok(ModelFile::Gone),
            Err(error) => return Err(self.failed(&object.key, "read", &DisplayErrorContext(&error))),
        };
        let size_bytes = size_of(&found);
        let is_held = size_bytes <= self.max_model_bytes;
        // A file that is not held is still told apart from others, so that its report can be found.
        let (mut digest, mut bytes, mut read_bytes) = (Sha256Stream::default(), BytesMut::new(), 0);
        while let Some(chunk) = found.body.next().await {
            let chunk =
                chunk.map_err(|error| self.failed(&object.key, "read", &DisplayErrorContext(&error)))?;
            read_bytes += chunk.len() as u64;
            digest.update(&chunk);
            if is_held && read_bytes <= size_bytes {
                bytes.extend_from_slice(&chunk);
            }
        }
        if read_bytes != size_bytes {
            return Err(self.failed(
                &object.key,
                "read",
                &format!("{read_bytes} of {size_bytes} bytes arrived"),
            ));
        }
        let sha256 = digest.finish();
        Ok(if is_held {
            ModelFile::Whole { sha256, bytes: bytes.freeze() }
        } else {
            ModelFile::TooLarge { sha256, size_bytes }
        })
    }

    /// Keys and ETags, without quotes, of everything under `golden/`.
    ///
    /// # Errors
    /// [`BucketError`] if it cannot be listed.
    pub async fn list_golden(&self) -> Result<Vec<(String, String)>, BucketError> {
        let mut pages =
            self.s3.list_objects_v2().bucket(&self.bucket).prefix(GOLDEN_PREFIX).into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page =
                page.map_err(|error| self.failed(GOLDEN_PREFIX, "listed", &DisplayErrorContext(&error)))?;
            found.extend(page.contents().iter().filter_map(|object| {
                Some((
                    object.key()?.to_owned(),
                    object.e_tag().unwrap_or_default().trim_matches('"').to_owned(),
                ))
            }));
        }
        Ok(found)
    }

    /// The rules, or `None` if there are none.
    ///
    /// # Errors
    /// [`BucketError`] if they cannot be read.
    pub async fn read_rules(&self) -> Result<Option<Bytes>, BucketError> {
        self.read_small(RULES_KEY).await
    }

    /// The report of a model, or `None` if there is none that this version can read.
    ///
    /// # Errors
    /// [`BucketError`] if it cannot be read.
    pub async fn read_report(&self, sha256: &str) -> Result<Option<GateReport>, BucketError> {
        let json = self.read_small(&report_key(sha256)).await?;
        // What cannot be read is made anew.
        Ok(json.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    /// A golden image of at most `max_bytes`; what is wrong with it for good is in the result.
    ///
    /// # Errors
    /// [`BucketError`] if it cannot be read now.
    pub async fn read_golden(&self, image: GoldenImage, max_bytes: u64) -> Result<GoldenBytes, BucketError> {
        let object = ObjectRef::new(self.bucket.clone(), image.key.clone());
        match fetch_object(&self.s3, &object, max_bytes).await {
            Ok(fetched) => Ok(Ok(fetched.bytes)),
            Err(error @ FetchError::TooLarge { .. }) => {
                Ok(Err(Unanswered { code: "too_large".to_owned(), message: error.to_string() }))
            }
            // Gone since it was listed: the set is another one now, and is tried anew.
            Err(error) => Err(self.failed(&image.key, "read", &error)),
        }
    }

    /// Writes an object.
    ///
    /// # Errors
    /// [`BucketError`] if S3 does not take it.
    pub async fn write(&self, key: &str, content_type: &str, body: ByteStream) -> Result<(), BucketError> {
        let put = self.s3.put_object().bucket(&self.bucket).key(key).content_type(content_type).body(body);
        put.send().await.map(drop).map_err(|error| self.failed(key, "written", &DisplayErrorContext(&error)))
    }

    async fn read_small(&self, key: &str) -> Result<Option<Bytes>, BucketError> {
        let found = match self.s3.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => found,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(self.failed(key, "read", &DisplayErrorContext(&error))),
        };
        let size_bytes = size_of(&found);
        let bytes =
            found.body.collect().await.map_err(|error| self.failed(key, "read", &error))?.into_bytes();
        if bytes.len() as u64 != size_bytes {
            return Err(self.failed(key, "read", &format!("{} of {size_bytes} bytes arrived", bytes.len())));
        }
        Ok(Some(bytes))
    }

    fn failed(&self, key: &str, action: &'static str, detail: &dyn std::fmt::Display) -> BucketError {
        BucketError { bucket: self.bucket.clone(), key: key.to_owned(), action, detail: detail.to_string() }
    }
}

fn size_of(found: &GetObjectOutput) -> u64 {
    found.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or_default()
}
