//! What a trigger says of one uploaded object.
//!
//! An `ObjectRef` is a claim, not a fact: the object may have been replaced or deleted since. This file never talks to
//! S3. `key` is decoded, exactly as the object is named in S3.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};
use serde::{Deserialize, Serialize};

/// Files that operating systems leave in folders, in lower case; `web/page/upload_files.js` has the same.
const SYSTEM_FILES: &[&str] =
    &[".ds_store", ".localized", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"];

/// What the names of the companions begin with that macOS writes where a disk or archive cannot hold its attributes.
const COMPANION_PREFIX: &str = "._";

/// Folders that operating systems, archives and network drives leave, in lower case.
const SYSTEM_FOLDERS: &[&str] = &[
    "__macosx",
    ".appledouble",
    ".fseventsd",
    ".spotlight-v100",
    ".temporaryitems",
    ".trashes",
    "$recycle.bin",
    "system volume information",
    "@eadir",
];

/// Longest key that S3 takes, bytes.
pub const MAX_KEY_BYTES: usize = 1024;

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

    /// Why an object of this key and, as far as it is known, `size_bytes` is not an upload to answer.
    pub fn skip_reason(&self, size_bytes: Option<u64>) -> Option<SkipReason> {
        if is_system_file(&self.key) {
            return Some(SkipReason::SystemFile);
        }
        (size_bytes == Some(0) && self.key.ends_with('/')).then_some(SkipReason::FolderMarker)
    }
}

/// Why an object needs no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// An empty object that only marks a folder.
    FolderMarker,
    /// A file that an operating system left in a folder.
    SystemFile,
    /// One of our own results or models.
    OwnOutput,
}

impl SkipReason {
    /// Name in logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FolderMarker => "folder marker",
            Self::SystemFile => "system file",
            Self::OwnOutput => "own output",
        }
    }
}

/// Whether a file of this path or key is one that operating systems leave by themselves, such as `.DS_Store`, `._cell.png`
/// or anything in a folder `__MACOSX`. Case does not matter.
pub fn is_system_file(path: &str) -> bool {
    let path = path.to_lowercase();
    let (folders, file) = path.rsplit_once(SEPARATORS).unwrap_or(("", &path));
    file.starts_with(COMPANION_PREFIX)
        || SYSTEM_FILES.contains(&file)
        || folders.split(SEPARATORS).any(|folder| SYSTEM_FOLDERS.contains(&folder))
}

/// What separates the folders of a key. Some Windows programs upload `slide\\cell.png`.
const SEPARATORS: [char; 2] = ['/', '\\'];

/// The folder part of an object key as a [`slide_name`]: `a/b/c.png` is on slide `a/b`, `c.png` on slide ``.
pub fn slide_of_key(key: &str) -> String {
    key.rsplit_once(SEPARATORS).map_or_else(String::new, |(folder, _)| slide_name(folder))
}

/// The file name of an object key: `c.png` of `a/b/c.png`.
pub fn name_of_key(key: &str) -> &str {
    key.rsplit(SEPARATORS).next().unwrap_or(key)
}

/// A slide's name in its one form: folders separated by `/`, characters composed (Unicode NFC).
///
/// macOS decomposes the names of files: without this, `été` copied from a Mac and from a PC would be two slides that look
/// the same. Keys stay as they are in the bucket.
pub fn slide_name(name: &str) -> String {
    ComposingNormalizerBorrowed::new_nfc().normalize(&name.replace('\\', "/")).into_owned()
}

/// The beginnings that keys of a slide may have, each up to and with a separator: as [`slide_name`] writes it, decomposed,
/// and with `\\` for the last separators, since a program on Windows may put its own path behind a prefix.
pub fn key_prefixes_of_slide(slide: &str) -> Vec<String> {
    if slide.is_empty() {
        return vec![String::new()];
    }
    let composed = format!("{}/", slide_name(slide));
    let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize(&composed);
    let mut spellings = vec![composed.as_str()];
    if let Cow::Owned(decomposed) = &decomposed {
        spellings.push(decomposed);
    }
    let with_last_replaced = |spelling: &str| {
        let ends: Vec<usize> =
            spelling.match_indices('/').map(|(at, _)| at).chain([spelling.len()]).collect();
        let replaced = |at: &usize| format!("{}{}", &spelling[..*at], spelling[*at..].replace('/', "\\"));
        ends.iter().rev().map(replaced).collect::<Vec<_>>()
    };
    spellings.into_iter().flat_map(with_last_replaced).collect()
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
        for (key, slide) in [
            ("a/b/c.png", "a/b"),
            ("c.png", ""),
            ("a//c.png", "a/"),
            ("/c.png", ""),
            ("a/", "a"),
            (r"slide-w\field 1\cell.png", "slide-w/field 1"),
            (r"lab/slide-w\cell.png", "lab/slide-w"),
            ("u/e\u{301}te\u{301}/cell.png", "u/été"),
            ("u/été/cell.png", "u/été"),
        ] {
            assert_eq!(slide_of_key(key), slide, "{key:?}");
            assert_eq!(slide_name(slide), slide, "{key:?}");
        }
    }

    #[test]
    fn keys_of_a_slide_begin_with_one_of_its_prefixes() {
        assert_eq!(key_prefixes_of_slide("a"), ["a/", r"a\"]);
        assert_eq!(key_prefixes_of_slide("a/b"), ["a/b/", r"a/b\", r"a\b\"]);
        assert_eq!(key_prefixes_of_slide("é"), ["é/", r"é\", "e\u{301}/", "e\u{301}\\"]);
        assert_eq!(key_prefixes_of_slide(""), [""]);
        for slide in ["a", "a/b/c", "é/x", "a/"] {
            for prefix in key_prefixes_of_slide(slide) {
                assert_eq!(slide_of_key(&format!("{prefix}cell.png")), slide, "{prefix:?}");
            }
        }
    }

    #[test]
    fn folder_markers_and_system_files_are_not_answered() {
        let folder_marker = Some(SkipReason::FolderMarker);
        let system_file = Some(SkipReason::SystemFile);
        for (key, size_bytes, expected) in [
            ("slide/", Some(0), folder_marker),
            ("slide/", Some(1), None),
            ("slide/", None, None),
            ("slide/cell.png", Some(0), None),
            ("slide/.DS_Store", Some(6148), system_file),
            (r"slide\Thumbs.db", Some(9), system_file),
            ("DESKTOP.INI", None, system_file),
            ("slide/._cell.png", Some(4096), system_file),
            ("__MACOSX/slide A/._cell.png", Some(4096), system_file),
            ("__MACOSX/slide A/cell.png", Some(4096), system_file),
            ("__MACOSX/", Some(0), system_file),
            ("nas/@eaDir/cell.png/thumb.jpg", Some(1), system_file),
            // What only looks like them.
            ("slide/.cell.png", Some(1), None),
            ("Thumbs.db/cell.png", Some(1), None),
            ("._slide/cell.png", Some(1), None),
            ("__MACOSX.png", Some(1), None),
            ("my__MACOSX/cell.png", Some(1), None),
        ] {
            assert_eq!(ObjectRef::new("b", key).skip_reason(size_bytes), expected, "{key:?}");
        }
    }

    /// The strings of a set in the page's script.
    fn set_of_page(name: &str) -> Vec<String> {
        let script = include_str!("../../../web/page/upload_files.js");
        let start = format!("const {name} = new Set(");
        let (_, rest) = script.split_once(&start).expect("the set is there");
        serde_json::from_str(rest.split_once(')').unwrap().0).unwrap()
    }

    #[test]
    fn the_page_leaves_out_the_same_files() {
        assert_eq!(set_of_page("SYSTEM_FILES"), SYSTEM_FILES);
        assert_eq!(set_of_page("SYSTEM_FOLDERS"), SYSTEM_FOLDERS);
        // The page leaves out all names that begin with a dot.
        assert!(COMPANION_PREFIX.starts_with('.'));
    }
}
