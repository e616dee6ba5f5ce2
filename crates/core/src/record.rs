//! What is decided about an image, and the record that is stored of it.
//!
//! Pure: no clock, no network. The same object, model and stage give the same record but for `timings_ms` and
//! `classified_at`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::digest::short_id;
use crate::object::{ObjectRef, slide_of_key};

/// Name and version of the record's schema (`docs/record.schema.json`).
pub const RECORD_SCHEMA: &str = "giemsa.record/1";

/// Code of an image that was not there any more when it was to be read.
pub const GONE_CODE: &str = "not_found";

/// Code of an image on which a decoder panicked.
pub const DECODER_FAILED_CODE: &str = "decoder_failed";

/// Digits of a file's SHA-256 by which images of one slide are the same: two of ten million others are so by chance once
/// in 370,000 slides.
pub const CONTENT_DIGITS: usize = 16;

/// What is stored of one image version, stage and model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Always [`RECORD_SCHEMA`].
    pub schema: String,
    /// Short hash of bucket, key, object version and model digest.
    pub result_id: String,
    /// The image.
    pub image: ImageInfo,
    /// The folder part of the key.
    pub slide: String,
    /// The stage that answered.
    pub stage: String,
    /// Classified or rejected.
    pub status: Status,
    /// The most probable label.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub label: Option<String>,
    /// Probability of the label, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub confidence: Option<f64>,
    /// Calibrated probability of each label, 0 to 1, rounded to six digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probabilities: Option<BTreeMap<String, f64>>,
    /// Whether the label counts as positive in the slide's figure; absent if the model names no positive label.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub positive: Option<bool>,
    /// How little the image is like what the model was trained on, in the model's own range, rounded to six
    /// significant digits; absent if the model does not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outlier_score: Option<f64>,
    /// Whether that is above the model's limit; absent with the score.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outlier: Option<bool>,
    /// Whether a human should look.
    pub needs_review: bool,
    /// Why; several reasons are joined by `; `, an outlier first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub review_reason: Option<String>,
    /// Why the image was not classified.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reject: Option<Reject>,
    /// The model that answered.
    pub model: ModelInfo,
    /// Where the time went; only in the table and in logs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timings_ms: Option<TimingsMs>,
    /// When the answer was made; only in the table and in logs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub classified_at: Option<DateTime<Utc>>,
    /// Name and version of this software.
    pub software: String,
    /// That a person took the image out of what counts; only in the table.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub withdrawn: Option<Withdrawn>,
}

/// Who took an image out of what counts, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// Which image, as it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Bucket name; `local` for files of `giemsa classify`.
    pub bucket: String,
    /// Object key, or path for files of `giemsa classify`.
    pub key: String,
    /// S3 version, if the bucket is versioned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version_id: Option<String>,
    /// ETag without quotes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub etag: Option<String>,
    /// Size of the file, bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size_bytes: Option<u64>,
    /// When it was uploaded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uploaded_at: Option<DateTime<Utc>>,
    /// Width after orientation, pixels.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub width_px: Option<u32>,
    /// Height after orientation, pixels.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub height_px: Option<u32>,
    /// Format found in the content, e.g. `png`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub format: Option<String>,
    /// Lower-case hexadecimal SHA-256 of the file, if it was read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<String>,
}

impl ImageInfo {
    /// What is known of an object before it is read.
    pub fn of_object(object: &ObjectRef) -> Self {
        Self {
            bucket: object.bucket.clone(),
            key: object.key.clone(),
            version_id: object.version_id.clone(),
            etag: object.etag.clone(),
            size_bytes: object.size_bytes,
            uploaded_at: object.event_time,
            width_px: None,
            height_px: None,
            format: None,
            sha256: None,
        }
    }

    /// Whether this is the very image that `object` announced, and not one that replaced it.
    pub fn is_announced_by(&self, object: &ObjectRef) -> bool {
        match (&object.version_id, &object.etag) {
            (Some(version_id), _) => self.version_id.as_ref() == Some(version_id),
            (None, Some(etag)) => self.etag.as_ref() == Some(etag),
            (None, None) => false,
        }
    }

    /// What tells two uploads of one key apart: the version, or else the ETag; of files the digest.
    pub fn object_version(&self) -> &str {
        let named = self.version_id.as_deref().or(self.etag.as_deref());
        named.or(self.sha256.as_deref()).unwrap_or_default()
    }
}

/// Terminal state of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The model answered.
    Classified,
    /// The image cannot be classified; `reject` says why.
    Rejected,
}

impl Status {
    /// As in the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classified => "classified",
            Self::Rejected => "rejected",
        }
    }
}

/// Why an image was not classified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// Stable code, e.g. `not_an_image`.
    pub code: String,
    /// A sentence a technician understands.
    pub message: String,
}

/// Which model answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// `giemsa.name`.
    pub name: String,
    /// `giemsa.version`.
    pub version: String,
    /// Lower-case hexadecimal SHA-256 of the file.
    pub sha256: String,
}

/// Milliseconds each step took; 0 for steps that were not reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TimingsMs {
    /// Download.
    pub fetch: f64,
    /// Bytes to pixels.
    pub decode: f64,
    /// Pixels to tensor.
    pub preprocess: f64,
    /// Tensor to scores.
    pub infer: f64,
}

/// A calibrated answer to one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The most probable label; the first of equals.
    pub label: String,
    /// Its probability, 0 to 1.
    pub confidence: f64,
    /// Probability of each label, 0 to 1.
    pub probabilities: BTreeMap<String, f64>,
    /// Whether the label counts as positive; `None` if the model names no positive label.
    pub positive: Option<bool>,
    /// Outlier score, rounded to six significant digits, if the model gives one.
    pub outlier_score: Option<f64>,
    /// Whether it is above the model's limit.
    pub outlier: Option<bool>,
    /// Why a human should look, if one should.
    pub review_reason: Option<String>,
}

/// What was found out about an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The model answered.
    Classified(Decision),
    /// The image cannot be classified.
    Rejected(Reject),
}

impl Record {
    /// Whether the image was not there any more when it was to be read.
    pub fn is_gone(&self) -> bool {
        self.reject.as_ref().is_some_and(|reject| reject.code == GONE_CODE)
    }

    /// Makes the record of one image.
    pub fn new(image: ImageInfo, stage: &str, model: ModelInfo, finding: Finding) -> Self {
        let result_id = short_id(&[&image.bucket, &image.key, image.object_version(), &model.sha256]);
        let mut record = Self {
            schema: RECORD_SCHEMA.to_owned(),
            result_id,
            slide: slide_of_key(&image.key),
            image,
            stage: stage.to_owned(),
            status: Status::Rejected,
            label: None,
            confidence: None,
            probabilities: None,
            positive: None,
            outlier_score: None,
            outlier: None,
            needs_review: false,
            review_reason: None,
            reject: None,
            model,
            timings_ms: None,
            classified_at: None,
            software: concat!("giemsa ", env!("CARGO_PKG_VERSION")).to_owned(),
            withdrawn: None,
        };
        match finding {
            Finding::Rejected(reject) => record.reject = Some(reject),
            Finding::Classified(decision) => {
                record.status = Status::Classified;
                record.label = Some(decision.label);
                record.confidence = Some(decision.confidence);
                record.probabilities = Some(decision.probabilities);
                record.positive = decision.positive;
                record.outlier_score = decision.outlier_score;
                record.outlier = decision.outlier;
                record.needs_review = decision.review_reason.is_some();
                record.review_reason = decision.review_reason;
            }
        }
        record
    }

    /// The record without what differs between two deliveries of one event.
    pub fn without_times(&self) -> Self {
        Self { timings_ms: None, classified_at: None, withdrawn: None, ..self.clone() }
    }

    /// The first [`CONTENT_DIGITS`] digits of the file's SHA-256, if it was read.
    pub fn content(&self) -> Option<&str> {
        self.image.sha256.as_deref()?.get(..CONTENT_DIGITS)
    }

    /// How much a human should see this first, 0 to 1: the probability that it is positive if its label
    /// says so, or else how far the answer is from certain.
    ///
    /// What a model says with confidence of an outlier is worth nothing: an outlier that is not positive counts
    /// as a toss-up (0.5) at least, after the positive answers and before all but the least certain others. A
    /// folder of blank fields so hides no positive, and an odd-looking parasite does not end last.
    pub fn suspicion(&self) -> f64 {
        let confidence = self.confidence.unwrap_or(0.0);
        let of_answer = if self.positive == Some(true) { confidence } else { 1.0 - confidence };
        if self.outlier == Some(true) { of_answer.max(0.5) } else { of_answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old_record() -> serde_json::Value {
        serde_json::json!({
            "schema": RECORD_SCHEMA, "result_id": "0123456789abcdef",
            "image": {"bucket": "b", "key": "s/k.png"}, "slide": "s", "stage": "prod", "status": "classified",
            "label": "uninfected", "confidence": 0.9,
            "probabilities": {"parasitized": 0.1, "uninfected": 0.9}, "positive": false,
            "needs_review": true, "review_reason": "parasitized is possible: 0.100 is above 0.050",
            "model": {"name": "m", "version": "1", "sha256": "0"}, "software": "giemsa 0.1.0",
        })
    }

    #[test]
    fn a_record_from_before_outlier_scores_is_read_and_written_unchanged() {
        let record: Record = serde_json::from_value(old_record()).unwrap();
        assert_eq!((record.outlier_score, record.outlier), (None, None));
        assert_eq!(serde_json::to_value(&record).unwrap(), old_record());
    }

    #[test]
    fn outliers_stand_between_positives_and_doubtful_negatives() {
        let record = |positive: bool, confidence: f64, outlier: Option<bool>| Record {
            positive: Some(positive),
            confidence: Some(confidence),
            outlier,
            ..serde_json::from_value(old_record()).unwrap()
        };
        let in_order = [
            record(true, 0.99, Some(true)),
            record(true, 0.8, None),
            record(false, 0.999, Some(true)),
            record(false, 0.6, Some(false)),
            record(false, 0.999, Some(false)),
        ];
        let suspicions = in_order.map(|record| record.suspicion());
        assert!(suspicions.is_sorted_by(|a, b| a > b), "{suspicions:?}");
    }
}
