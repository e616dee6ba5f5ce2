//! S3 objects in, results to S3 and DynamoDB out.

mod answered;
mod current;
mod failures;
mod lookups;
mod model_files;
mod objects;
mod queries;
mod releases;
mod result_finder;
mod results;
mod schema;
mod table;
mod uploads;

pub use answered::{AnsweredQuery, ImageKey, Verdict};
pub use current::make_current;
pub use failures::{FailureNote, NotedUpload};
pub use lookups::{BATCH_KEYS, CurrentResult};
pub use model_files::{FileFacts, ModelFiles, ModelFilesError, StoredFile};
pub use objects::{FetchError, FetchedObject, fetch_object, is_gone};
pub use queries::{Cursor, ImageHistory, LabelQuery, Page, QueryError, TableReader};
pub use releases::{ReleaseEntry, ReleaseKind, ReleaseState};
pub use result_finder::ResultFinder;
pub use results::{result_key, write_result};
pub use schema::{
    LABEL_INDEX, LabelOrRejected, MODEL_INDEX, REVIEW_INDEX, SHARDS, SLIDE_INDEX, create_table,
};
pub use table::{LedgerEntry, TableWriter};
pub use uploads::{
    Upload, UploadListing, UploadMarker, UploadVersion, UploadsError, form_decoded, form_encoded,
};

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
}
