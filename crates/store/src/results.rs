//! Writes records to the results prefix, one immutable object for each image version, stage and model.
//!
//! It never writes a time that differs between two deliveries of an event. The same record content goes to the same
//! key, so that writing twice changes nothing.

pub mod finder;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::primitives::ByteStream;

use crate::StoreError;
use giemsa_core::object::MAX_KEY_BYTES;
use giemsa_core::record::Record;

/// Key of a record: `<prefix>/stage=<stage>/date=<upload date, UTC>/<image key>.<result id>.json`.
///
/// Names are Hive-style, so that Athena reads them in place. Where the image's key would make it longer than
/// the 1,024 bytes of an S3 key, it is cut at a character; the result id and the record name the image all the
/// same. An image of unknown upload time, one that was gone before it was read, is under `date=unknown`.
pub fn result_key(prefix: &str, record: &Record) -> String {
    let date = upload_day(record);
    let head = format!("{prefix}/stage={}/date={date}/", record.stage);
    let tail = format!(".{}.json", record.result_id);
    let room = MAX_KEY_BYTES - head.len() - tail.len();
    let image_key = &record.image.key[..record.image.key.floor_char_boundary(room)];
    format!("{head}{image_key}{tail}")
}

/// The upload date of an image of which it is not known; it sorts after all dates.
pub(crate) const UNKNOWN_DAY: &str = "unknown";

/// Upload date of a record's image, UTC, `YYYY-MM-DD` or `unknown`.
pub fn upload_day(record: &Record) -> String {
    record.image.uploaded_at.map_or_else(|| UNKNOWN_DAY.to_owned(), |at| at.format("%Y-%m-%d").to_string())
}

/// Writes a record to the results prefix, and returns the record that is there now.
///
/// That is `record` itself, but for one case: that an image is gone is no answer to an upload that was answered before.
/// Such a record replaces nothing, and the answer that is there is returned instead.
///
/// # Errors
/// [`StoreError::Results`] if S3 does not take it.
pub async fn write_result(
    s3: &Client,
    bucket: &str,
    prefix: &str,
    record: Record,
) -> Result<Record, StoreError> {
    let key = result_key(prefix, &record);
    let failed = |detail: String| StoreError::Results { bucket: bucket.to_owned(), key: key.clone(), detail };
    let json =
        serde_json::to_vec(&record.without_times()).expect("a record holds only text and finite numbers");
    let put = s3.put_object().bucket(bucket).key(&key).content_type("application/json");
    let put = put.set_if_none_match(record.is_gone().then(|| "*".to_owned()));
    match put.body(ByteStream::from(json)).send().await {
        Ok(_) => Ok(record),
        Err(error) if record.is_gone() && error.code() == Some("PreconditionFailed") => {
            let found = s3.get_object().bucket(bucket).key(&key).send().await;
            let found = found.map_err(|error| failed(DisplayErrorContext(&error).to_string()))?;
            let bytes = found.body.collect().await.map_err(|error| failed(error.to_string()))?;
            serde_json::from_slice(&bytes.into_bytes())
                .map_err(|error| failed(format!("what is there is no record: {error}")))
        }
        Err(error) => Err(failed(DisplayErrorContext(&error).to_string())),
    }
}
