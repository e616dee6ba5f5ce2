//! The manifest of an inventory: what it lists, in which format, in which files.
//!
//! It never follows a path out of the folders around the manifest. A `Manifest` that exists is of a format that is
//! read, and has the columns that are needed.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use md5::{Digest, Md5};
use serde::Deserialize;

use super::csv_rows::Columns;
use super::{FilePlace, InventoryError};

/// Largest manifest, bytes: one with 100,000 data files.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Where a manifest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InventoryPlace {
    /// A file on this disk.
    File(PathBuf),
    /// An object.
    Object {
        /// Bucket.
        bucket: String,
        /// Key of the manifest.
        key: String,
    },
}

impl InventoryPlace {
    /// Reads `s3://bucket/key`, or else a path.
    ///
    /// # Errors
    /// [`InventoryError::Place`] for an address without bucket or key.
    pub fn parse(text: &str) -> Result<Self, InventoryError> {
        let refused = || InventoryError::Place { found: text.to_owned() };
        let Some(address) = text.strip_prefix("s3://") else {
            return if text.is_empty() { Err(refused()) } else { Ok(Self::File(PathBuf::from(text))) };
        };
        match address.split_once('/') {
            Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => {
                Ok(Self::Object { bucket: bucket.to_owned(), key: key.to_owned() })
            }
            _ => Err(refused()),
        }
    }

    pub(super) async fn read_manifest(&self, s3: &Client) -> Result<Vec<u8>, InventoryError> {
        let failed = |detail| InventoryError::Read { file: self.to_string(), detail };
        let too_large = |size| {
            failed(format!("it has {size} bytes; expected a manifest.json of at most {MAX_MANIFEST_BYTES}"))
        };
        match self {
            Self::File(path) => {
                let size = tokio::fs::metadata(path).await.map_err(|e| failed(e.to_string()))?.len();
                if size > MAX_MANIFEST_BYTES {
                    return Err(too_large(size));
                }
                tokio::fs::read(path).await.map_err(|e| failed(e.to_string()))
            }
            Self::Object { bucket, key } => {
                let found = s3.get_object().bucket(bucket).key(key).send().await;
                let found = found.map_err(|e| failed(DisplayErrorContext(&e).to_string()))?;
                let size = found.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                if size > MAX_MANIFEST_BYTES {
                    return Err(too_large(size));
                }
                let bytes = found.body.collect().await.map_err(|e| failed(e.to_string()))?;
                Ok(bytes.into_bytes().to_vec())
            }
        }
    }

    /// Where a data file is: in the bucket of the manifest; on a disk where copies of one file, of the inventory's folder
    /// or of the whole bucket would put it.
    pub(super) fn data_file(&self, key: &str) -> Result<FilePlace, InventoryError> {
        let path = match self {
            Self::Object { bucket, .. } => {
                return Ok(FilePlace::Object { bucket: bucket.clone(), key: key.to_owned() });
            }
            Self::File(path) => path,
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let key_path = Path::new(key);
        let is_inside = key_path.components().all(|part| matches!(part, Component::Normal(_)));
        let name = key_path.file_name().filter(|_| is_inside);
        let mut candidates: Vec<PathBuf> = Vec::new();
        if let Some(name) = name {
            candidates.extend([folder.join(name), folder.join("data").join(name)]);
            if let Some(parent) = folder.parent() {
                candidates.push(parent.join("data").join(name));
            }
            candidates.extend(folder.ancestors().map(|ancestor| ancestor.join(key_path)));
        }
        let found = candidates.iter().find(|candidate| candidate.is_file());
        found.cloned().map(FilePlace::Path).ok_or_else(|| InventoryError::DataFileMissing {
            key: key.to_owned(),
            looked: if name.is_some() {
                format!("{} and the folders around it", shown_folder(folder))
            } else {
                "no folder: a key with .. in it is not followed".to_owned()
            },
        })
    }
}

fn shown_folder(folder: &Path) -> String {
    if folder.as_os_str().is_empty() { "the current folder".to_owned() } else { folder.display().to_string() }
}

impl fmt::Display for InventoryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Object { bucket, key } => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

/// Format of the data files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    /// Compressed with gzip, without a header.
    Csv(Columns),
    /// The files name their columns.
    Parquet,
}

/// One data file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ListedFile {
    pub(super) key: String,
    #[serde(rename = "MD5checksum")]
    pub(super) md5: String,
}

/// A manifest, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) source_bucket: String,
    pub(super) format: Format,
    pub(super) files: Vec<ListedFile>,
    /// MD5 of the manifest itself.
    pub(super) digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    source_bucket: String,
    file_format: String,
    #[serde(default)]
    file_schema: String,
    files: Vec<ListedFile>,
}

impl Manifest {
    pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Self, InventoryError> {
        let raw: RawManifest = serde_json::from_slice(bytes)
            .map_err(|e| InventoryError::Manifest { file: file.to_owned(), detail: e.to_string() })?;
        let format = match raw.file_format.to_ascii_uppercase().as_str() {
            "CSV" => Format::Csv(Columns::of_schema(&raw.file_schema)?),
            "PARQUET" => Format::Parquet,
            _ => return Err(InventoryError::Format { file: file.to_owned(), found: raw.file_format }),
        };
        let digest = md5_text(Md5::new_with_prefix(bytes));
        Ok(Self { source_bucket: raw.source_bucket, format, files: raw.files, digest })
    }
}

/// An MD5 as manifests write it, 32 lower-case hexadecimal digits.
pub(super) fn md5_text(digest: Md5) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag";

    fn manifest(format: &str, schema: &str) -> Result<Manifest, InventoryError> {
        let json = serde_json::json!({
            "sourceBucket": "in", "destinationBucket": "arn:aws:s3:::lists", "version": "2016-11-30",
            "creationTimestamp": "1514944800000", "fileFormat": format, "fileSchema": schema,
            "files": [{"key": "in/all/data/1.csv.gz", "size": 7, "MD5checksum": "f11166069f1990abeb9c97ace9cdfabc"}],
        });
        Manifest::parse("manifest.json", json.to_string().as_bytes())
    }

    #[test]
    fn a_manifest_says_what_is_listed_and_how() {
        let read = manifest("CSV", SCHEMA).unwrap();
        assert_eq!(read.source_bucket, "in");
        assert_eq!(read.files[0].md5, "f11166069f1990abeb9c97ace9cdfabc");
        assert_eq!(read.digest.len(), 32);
        assert_eq!(manifest("Parquet", "message s3.inventory { }").unwrap().format, Format::Parquet);
    }

    #[test]
    fn what_cannot_be_used_says_the_way_out() {
        let orc = manifest("ORC", "struct<bucket:string,key:string>").unwrap_err().to_string();
        assert!(orc.contains("in ORC") && orc.contains("expected CSV or Parquet"), "{orc}");
        let columns = manifest("CSV", "Bucket, Key, Size").unwrap_err().to_string();
        assert!(columns.contains("no LastModifiedDate, ETag"), "{columns}");
        let other = Manifest::parse("m.json", b"{}").unwrap_err().to_string();
        assert!(other.contains("missing field `sourceBucket`"), "{other}");
    }

    #[test]
    fn places_are_addresses_or_paths() {
        let object = InventoryPlace::parse("s3://lists/in/all/manifest.json").unwrap();
        assert_eq!(object.to_string(), "s3://lists/in/all/manifest.json");
        assert!(matches!(InventoryPlace::parse("a/manifest.json"), Ok(InventoryPlace::File(_))));
        for text in ["", "s3://", "s3://lists", "s3://lists/", "s3:///key"] {
            assert!(InventoryPlace::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn data_files_are_found_where_copies_put_them_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let dated = root.path().join("in/all/2026-11-22T01-00Z");
        std::fs::create_dir_all(&dated).unwrap();
        let place = InventoryPlace::File(dated.join("manifest.json"));
        let key = "in/all/data/1.csv.gz";
        assert!(place.data_file(key).unwrap_err().to_string().contains("copy it beside manifest.json"));
        for found in [root.path().join("in/all/data/1.csv.gz"), dated.join("1.csv.gz")] {
            std::fs::create_dir_all(found.parent().unwrap()).unwrap();
            std::fs::write(&found, b"x").unwrap();
            assert_eq!(place.data_file(key).unwrap(), FilePlace::Path(found));
        }
        std::fs::write(root.path().join("secret"), b"x").unwrap();
        for key in ["../../../secret", "/etc/passwd", ".."] {
            assert!(place.data_file(key).unwrap_err().to_string().contains("not followed"), "{key}");
        }
    }
}
