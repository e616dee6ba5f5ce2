//! One row of an inventory, in whatever format it came, as an upload.
//!
//! A row that is neither an upload nor a delete marker is an error, never passed over.

use chrono::{DateTime, Utc};

use giemsa_store::{Upload, UploadVersion};

/// A row that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The upload; `None` for a delete marker.
    pub(super) upload: Option<Upload>,
}

/// The fields of a row; what its inventory has no column for is `None`.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) key: Option<String>,
    /// As it is written; empty and `null` mean no version of its own.
    pub(super) version_id: Option<String>,
    /// Whether the inventory has the column.
    pub(super) has_versions: bool,
    pub(super) is_latest: Option<bool>,
    pub(super) is_delete_marker: Option<bool>,
    pub(super) size_bytes: Option<i64>,
    pub(super) uploaded_at: Option<DateTime<Utc>>,
    pub(super) etag: Option<String>,
}

impl Fields {
    pub(super) fn into_row(self) -> Result<Row, String> {
        let key = self.key.filter(|key| !key.is_empty()).ok_or("it has no key")?;
        if self.is_delete_marker == Some(true) {
            return Ok(Row { upload: None });
        }
        let version = match (self.has_versions, self.version_id) {
            (true, version_id) => UploadVersion::of_text(version_id.as_deref().unwrap_or_default()),
            (false, _) => UploadVersion::Unknown,
        };
        let size_bytes = self.size_bytes.and_then(|size| u64::try_from(size).ok());
        Ok(Row {
            upload: Some(Upload {
                version,
                etag: self.etag.ok_or_else(|| format!("{key:?} has no ETag"))?.trim_matches('"').to_owned(),
                size_bytes: size_bytes.ok_or_else(|| format!("{key:?} has no size"))?,
                uploaded_at: self.uploaded_at.ok_or_else(|| format!("{key:?} has no time of upload"))?,
                // An inventory of current versions lists nothing else.
                is_latest: self.is_latest.unwrap_or(true),
                key,
            }),
        })
    }
}
