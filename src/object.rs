//! What a trigger says of one uploaded object.
//!
//! An `ObjectRef` is a claim, not a fact: the object may have been replaced or deleted since.
//! This file never talks to S3. Invariant: `key` is decoded, exactly as the object is named in S3.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Hex digits a sequencer is padded to. AWS sends 16 to 18; the documentation sets no length.
const SEQUENCER_DIGITS: usize = 64;

/// One object that a trigger says was created.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Bucket name.
    pub bucket: String,
    /// Decoded object key.
    pub key: String,
    /// S3 version, if the bucket is versioned and the trigger named it.
    pub version_id: Option<String>,
    /// ETag without quotes, if the trigger named it.
    pub etag: Option<String>,
    /// Size in bytes, if the trigger named it.
    pub size_bytes: Option<u64>,
    /// Position of this write among the writes of the same key, if the trigger named it.
    pub sequencer: Option<Sequencer>,
    /// When the trigger says the object was created.
    pub event_time: Option<DateTime<Utc>>,
}

impl ObjectRef {
    /// Names an object by bucket and decoded key, with nothing else known.
    pub fn new(bucket: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            key: key.into(),
            version_id: None,
            etag: None,
            size_bytes: None,
            sequencer: None,
            event_time: None,
        }
    }

    /// Whether an object of this key and `size_bytes` is the marker of an empty folder.
    pub fn is_folder_marker(&self, size_bytes: u64) -> bool {
        size_bytes == 0 && self.key.ends_with('/')
    }
}

/// The folder part of an object key, which is the slide: `a/b/c.png` is on slide `a/b`, `c.png` on slide ``.
pub fn slide_of_key(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)?;
        match &self.version_id {
            Some(version_id) => write!(f, " (version {version_id})"),
            None => Ok(()),
        }
    }
}

/// S3's `sequencer`: hexadecimal, comparable only between writes of one key, after padding with
/// zeros on the right to equal length
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequencer(String);

impl Sequencer {
    /// Normalises a sequencer to 64 upper-case digits, so that string order is write order.
    ///
    /// Returns `None` for what is not hexadecimal or longer than 64 digits: order then comes from what is read.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        (is_hex && text.len() <= SEQUENCER_DIGITS)
            .then(|| Self(format!("{:0<SEQUENCER_DIGITS$}", text.to_ascii_uppercase())))
    }

    /// The padded digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequencers_of_different_length_compare_after_padding_on_the_right() {
        let earlier = Sequencer::parse("0055AED6DCD90281E5").unwrap();
        let later = Sequencer::parse("0055aed6dcd90281e6").unwrap();
        let shorter_but_later = Sequencer::parse("0055AED7").unwrap();
        assert!(earlier < later);
        assert!(later < shorter_but_later);
        assert_eq!(Sequencer::parse("00A0"), Sequencer::parse("00a"));
    }

    #[test]
    fn what_is_not_hexadecimal_is_no_sequencer() {
        for text in ["", "xyz", "00 1", &"0".repeat(65)] {
            assert_eq!(Sequencer::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn slide_is_the_folder_part_of_the_key() {
        for (key, slide) in
            [("a/b/c.png", "a/b"), ("c.png", ""), ("a//c.png", "a/"), ("/c.png", ""), ("a/", "a")]
        {
            assert_eq!(slide_of_key(key), slide, "{key:?}");
        }
    }

    #[test]
    fn only_an_empty_object_ending_in_a_slash_is_a_folder_marker() {
        assert!(ObjectRef::new("b", "slide/").is_folder_marker(0));
        assert!(!ObjectRef::new("b", "slide/").is_folder_marker(1));
        assert!(!ObjectRef::new("b", "slide/cell.png").is_folder_marker(0));
    }
}
