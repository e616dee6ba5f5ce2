//! Why something could not be stored.

/// Why a record could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The results prefix could not be written.
    #[error("the result cannot be written to s3://{bucket}/{key}: {detail}")]
    Results {
        /// Results bucket.
        bucket: String,
        /// Key of the result.
        key: String,
        /// What S3 or the network says.
        detail: String,
    },
    /// The table could not be written.
    #[error("the result cannot be written to table {table:?}: {detail}")]
    Table {
        /// Table name.
        table: String,
        /// What DynamoDB or the network says.
        detail: String,
    },
    /// S3 does not say which of two images of a key is the newer one.
    #[error("which image of {key:?} is the newest is not known: {detail}")]
    Order {
        /// Object key.
        key: String,
        /// What S3 or the network says.
        detail: String,
    },
    /// The record does not fit the table's data model.
    #[error("the record of {key:?} cannot be turned into an item: {detail}")]
    Item {
        /// Object key.
        key: String,
        /// What the serialiser says.
        detail: String,
    },
    /// A reviewer looked at another result than the one that is there.
    #[error(
        "the result of {key:?} in stage {stage:?} is {}, expected {expected:?}: look at the image again",
        found.as_deref().map_or_else(|| "gone".to_owned(), |id| format!("{id:?} now"))
    )]
    OtherResult {
        /// Object key.
        key: String,
        /// The stage.
        stage: String,
        /// Name of the result that was looked at.
        expected: String,
        /// Name of the one that is there.
        found: Option<String>,
    },
    /// An upload is to be withdrawn that no stage has the result of.
    #[error(
        "the image at {key:?} is not the one that was to be withdrawn any more: its result is {}, expected one of the \
         upload {expected:?}; look at the image again",
        found.as_deref().map_or_else(|| "gone".to_owned(), |found| format!("of the upload {found:?}"))
    )]
    NotCurrent {
        /// Object key.
        key: String,
        /// Version, or else ETag, of the upload that was to be withdrawn.
        expected: String,
        /// That of the result that is there.
        found: Option<String>,
    },
    /// A reviewer has no verdict to take back.
    #[error("no verdict of {reviewer:?} on {key:?} stands; expected one to undo")]
    NothingToUndo {
        /// Object key.
        key: String,
        /// The reviewer.
        reviewer: String,
    },
}
