//! The current results of many images, and why others have none, a hundred keys a request.
//!
//! It never scans. What DynamoDB hands back unprocessed is asked again until it is answered or an error is returned; a
//! missing item is never a request that was not carried out.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::table::reader::text;
use crate::table::schema::{RESULT_SK, failure_sk, result_pk};
use crate::table::writer::Item;
use crate::{FailureNote, QueryError, TableReader};
use giemsa_core::record::{GONE_CODE, Withdrawn};

/// Most keys of one request.
pub const BATCH_KEYS: usize = 100;

/// Rounds in which DynamoDB may process nothing at all before it is called unavailable.
const MAX_IDLE_ROUNDS: u32 = 8;

/// Pause after the first such round; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What of the current result of an image says which upload it is of, and how that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentResult {
    /// S3 version of the upload, if it has one.
    pub version_id: Option<String>,
    /// ETag of the upload, without quotes.
    pub etag: Option<String>,
    /// When it was uploaded; 1970 if that is not known.
    pub uploaded_at: DateTime<Utc>,
    /// Code of the rejection, if it was rejected.
    pub reject_code: Option<String>,
    /// Lower-case hexadecimal SHA-256 of the model.
    pub model_sha256: String,
    /// Whether it was taken out of what counts.
    pub is_withdrawn: bool,
}

impl CurrentResult {
    /// Whether it says that the upload was gone before it was read.
    pub fn is_gone(&self) -> bool {
        self.reject_code.as_deref() == Some(GONE_CODE)
    }
}

#[derive(Deserialize)]
struct CurrentItem {
    #[serde(default)]
    image: CurrentImage,
    #[serde(default)]
    reject: Option<CurrentReject>,
    model: CurrentModel,
    #[serde(default)]
    uploaded_ms: i64,
    #[serde(default)]
    withdrawn: Option<Withdrawn>,
}

#[derive(Default, Deserialize)]
struct CurrentImage {
    version_id: Option<String>,
    etag: Option<String>,
}

#[derive(Deserialize)]
struct CurrentReject {
    code: String,
}

#[derive(Deserialize)]
struct CurrentModel {
    sha256: String,
}

impl TableReader {
    /// The current results of a stage, by key, for at most [`BATCH_KEYS`] different keys; keys without one are not in it.
    ///
    /// Read consistently: what was answered before the call is found.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn current_results(
        &self,
        bucket: &str,
        keys: &[&str],
        stage: &str,
    ) -> Result<HashMap<String, CurrentResult>, QueryError> {
        let wanted = keys.iter().map(|key| item_key(result_pk(stage, bucket, key), RESULT_SK)).collect();
        let projection = [
            "pk",
            "image.version_id",
            "image.etag",
            "reject.code",
            "model.sha256",
            "uploaded_ms",
            "withdrawn",
        ];
        let mut results = HashMap::with_capacity(keys.len());
        for item in self.batch_get(wanted, &projection).await? {
            let key = self.image_key(&item)?.key;
            let item: CurrentItem = self.read_item(item)?;
            let result = CurrentResult {
                version_id: item.image.version_id,
                etag: item.image.etag,
                uploaded_at: DateTime::from_timestamp_millis(item.uploaded_ms).unwrap_or_default(),
                reject_code: item.reject.map(|reject| reject.code),
                model_sha256: item.model.sha256,
                is_withdrawn: item.withdrawn.is_some(),
            };
            results.insert(key, result);
        }
        Ok(results)
    }

    /// The failures of uploads that no later try has answered, by key and object version, for at most [`BATCH_KEYS`]
    /// different pairs of them.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn failures_of(
        &self,
        bucket: &str,
        uploads: &[(&str, &str)],
        stage: &str,
    ) -> Result<HashMap<(String, String), FailureNote>, QueryError> {
        let note_key =
            |(key, version): &(&str, &str)| item_key(result_pk(stage, bucket, key), failure_sk(version));
        let wanted = uploads.iter().map(note_key).collect();
        let mut notes = HashMap::new();
        for item in self.batch_get(wanted, &[]).await? {
            let note: FailureNote = self.read_item(item)?;
            notes.insert((note.key.clone(), note.object_version.clone()), note);
        }
        Ok(notes)
    }

    /// All items of `wanted` that exist, with the attributes at the paths of `projection`, or all of them.
    pub(crate) async fn batch_get(
        &self,
        wanted: Vec<Item>,
        projection: &[&str],
    ) -> Result<Vec<Item>, QueryError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut asked = self.keys_and_attributes(wanted, projection);
        let mut items = Vec::new();
        let mut idle_rounds = 0;
        loop {
            let asked_keys = asked.keys().len();
            let request = self.dynamodb.batch_get_item().request_items(&self.table, asked);
            let answer = request.send().await;
            let answer = answer.map_err(|e| self.failed(DisplayErrorContext(&e).to_string()))?;
            items.extend(answer.responses.unwrap_or_default().into_values().flatten());
            let left = answer.unprocessed_keys.unwrap_or_default().into_values().next();
            let Some(left) = left.filter(|left| !left.keys().is_empty()) else { return Ok(items) };
            idle_rounds = if left.keys().len() < asked_keys { 0 } else { idle_rounds + 1 };
            if idle_rounds >= MAX_IDLE_ROUNDS {
                return Err(self.failed(format!(
                    "BatchGetItem processed none of {asked_keys} keys in {MAX_IDLE_ROUNDS} tries; expected some: the \
                     table has too little read capacity, wait or raise it"
                )));
            }
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(idle_rounds)).await;
            // Not every server repeats the rest of the request with the keys.
            asked = self.keys_and_attributes(left.keys, projection);
        }
    }

    /// Names of attributes are given by placeholders: some are reserved words.
    fn keys_and_attributes(&self, keys: Vec<Item>, projection: &[&str]) -> KeysAndAttributes {
        let mut request = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true);
        let mut paths = Vec::with_capacity(projection.len());
        for path in projection {
            let parts: Vec<String> = path.split('.').map(|name| format!("#{name}")).collect();
            for (part, name) in parts.iter().zip(path.split('.')) {
                request = request.expression_attribute_names(part, name);
            }
            paths.push(parts.join("."));
        }
        let paths = (!paths.is_empty()).then(|| paths.join(", "));
        request.set_projection_expression(paths).build().expect("the keys are set")
    }
}

pub(crate) fn item_key(pk: String, sk: impl Into<String>) -> HashMap<String, AttributeValue> {
    [("pk", pk), ("sk", sk.into())].map(|(name, value)| (name.to_owned(), text(value))).into()
}
