//! Finds the result objects of uploads that were replaced.
//!
//! It never takes a name for a proof that it does not give: an object is of an upload if its result id is that of the
//! upload and a known model, or if its content says so. Listings are by day and key, never of a whole stage.

use std::collections::BTreeSet;
use std::sync::Mutex;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::EncodingType;

use crate::uploads::{Upload, UploadsError, failed, listed_key, permissions};
use giemsa_core::digest::short_id;
use giemsa_core::object::MAX_KEY_BYTES;
use giemsa_core::record::Record;

/// Length of a result id, hexadecimal digits.
const RESULT_ID_DIGITS: usize = 16;

/// Digests of models that are kept, to know a result object by its name; more would be a new model every few hours.
const MAX_KNOWN_MODELS: usize = 256;

/// Finds result objects by what they are of.
#[derive(Debug)]
pub struct ResultFinder {
    s3: Client,
    bucket: String,
    prefix: String,
    /// Models that made results: with them a result object is known by its name alone.
    known_models: Mutex<BTreeSet<String>>,
}

impl ResultFinder {
    /// Looks below `prefix` of a results bucket.
    pub fn new(s3: Client, bucket: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self { s3, bucket: bucket.into(), prefix: prefix.into(), known_models: Mutex::default() }
    }

    /// Tells of a model that made results.
    pub fn learn_model(&self, sha256: &str) {
        let mut models = self.known_models.lock().expect("nothing panics while it is held");
        if models.len() < MAX_KNOWN_MODELS && !models.contains(sha256) {
            models.insert(sha256.to_owned());
        }
    }

    /// Whether an upload to `input_bucket` has a result object of a stage, by whatever model.
    ///
    /// # Errors
    /// [`UploadsError`].
    pub async fn has_result(
        &self,
        input_bucket: &str,
        stage: &str,
        upload: &Upload,
    ) -> Result<bool, UploadsError> {
        let start = result_key_start(&self.prefix, stage, upload);
        // Keys that go on with a folder are of other images.
        let request = self.s3.list_objects_v2().bucket(&self.bucket).prefix(&start).delimiter("/");
        let mut pages = request.encoding_type(EncodingType::Url).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| failed("ListObjectsV2", &self.bucket, &start, &e))?;
            let keys = page
                .contents()
                .iter()
                .filter_map(|object| object.key())
                .map(|key| listed_key(page.encoding_type(), key));
            let keys: Vec<String> =
                keys.filter(|key| key.strip_prefix(&start).is_some_and(is_result_tail)).collect();
            let mut unread: Vec<&str> = keys.iter().map(String::as_str).collect();
            loop {
                if keys.iter().any(|key| self.is_result_of(&key[start.len()..], input_bucket, upload)) {
                    return Ok(true);
                }
                // Of a model that is not known yet; reading one result tells which.
                let Some(key) = unread.pop() else { break };
                if let Some(record) = self.read(key).await? {
                    self.learn_model(&record.model.sha256);
                    let image = &record.image;
                    if image.key == upload.key
                        && upload.is_image(image.version_id.as_deref(), image.etag.as_deref())
                    {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// The records of a stage of one upload, at most `most`, of whatever models, in no order.
    ///
    /// # Errors
    /// [`UploadsError`].
    pub async fn records_of(
        &self,
        stage: &str,
        upload: &Upload,
        most: usize,
    ) -> Result<Vec<Record>, UploadsError> {
        let start = result_key_start(&self.prefix, stage, upload);
        let request = self.s3.list_objects_v2().bucket(&self.bucket).prefix(&start).delimiter("/");
        let page = request.encoding_type(EncodingType::Url).send().await;
        let page = page.map_err(|e| failed("ListObjectsV2", &self.bucket, &start, &e))?;
        let mut records = Vec::new();
        let keys = page.contents().iter().filter_map(|object| object.key());
        for key in keys.map(|key| listed_key(page.encoding_type(), key)) {
            if records.len() < most
                && key.strip_prefix(&start).is_some_and(is_result_tail)
                && let Some(record) = self.read(&key).await?
                // Long keys are cut in names, and uploads of a day share theirs.
                && record.image.key == upload.key
                && upload.is_image(record.image.version_id.as_deref(), record.image.etag.as_deref())
            {
                records.push(record);
            }
        }
        Ok(records)
    }

    fn is_result_of(&self, tail: &str, input_bucket: &str, upload: &Upload) -> bool {
        let models = self.known_models.lock().expect("nothing panics while it is held");
        let version = upload.object_version();
        models
            .iter()
            .any(|model| short_id(&[input_bucket, &upload.key, version, model]) == tail[..RESULT_ID_DIGITS])
    }

    /// A result object, or `None` if it is gone or none of ours.
    async fn read(&self, key: &str) -> Result<Option<Record>, UploadsError> {
        let found = match self.s3.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => found,
            Err(e) if crate::is_gone(&e) => return Ok(None),
            Err(e) => return Err(failed("GetObject", &self.bucket, key, &e)),
        };
        let bytes = found.body.collect().await.map_err(|e| UploadsError::Request {
            what: "GetObject",
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            detail: e.to_string(),
            permissions: permissions("GetObject"),
        })?;
        Ok(serde_json::from_slice(&bytes.into_bytes()).ok())
    }
}

/// How all keys of result objects of an upload begin; [`result_key`](crate::result_key) says how they go on.
fn result_key_start(prefix: &str, stage: &str, upload: &Upload) -> String {
    let date = upload.uploaded_at.format("%Y-%m-%d");
    let head = format!("{prefix}/stage={stage}/date={date}/");
    let room = MAX_KEY_BYTES - head.len() - ".".len() - RESULT_ID_DIGITS - ".json".len();
    let key = &upload.key[..upload.key.floor_char_boundary(room)];
    format!("{head}{key}.")
}

/// Whether the rest of a key is `<result id>.json`: `a.png.` begins the results of `a.png.bak` too.
fn is_result_tail(tail: &str) -> bool {
    tail.strip_suffix(".json")
        .is_some_and(|id| id.len() == RESULT_ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit()))
}
