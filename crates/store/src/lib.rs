//! S3 objects in, results to S3 and DynamoDB out.

mod answered;
pub mod aws;
mod counters;
mod crashes;
mod current;
mod days;
mod failures;
mod load;
mod lookups;
mod merged;
pub mod metrics;
mod migration;
mod model_bucket;
mod objects;
mod queries;
pub mod queues;
mod rates;
mod releases;
mod result_finder;
mod result_queries;
mod result_query;
mod results;
mod schema;
pub mod shadow;
mod slides;
mod table;
mod uploads;
mod verdict_writes;
mod verdicts;
mod withdrawal_writes;
mod withdrawals;
pub mod xray;

pub use answered::{AnsweredQuery, ImageKey, Verdict};
pub use counters::Counter;
pub use crashes::CrashNote;
pub use current::{Placement, make_current, place};
pub use days::DaySummary;
pub use failures::{FailureNote, NotedUpload, Run};
pub use load::{PartitionWrite, StoredBytes, stored_bytes, writes_of_batch};
pub use lookups::{BATCH_KEYS, CurrentResult};
pub use model_bucket::{BoundedFile, BucketError, FileFacts, FoundReport, ModelBucket, StoredFile};
pub use objects::{FetchError, FetchedObject, fetch_object, is_gone};
pub use queries::{Cursor, ImageHistory, LabelQuery, Page, QueryError, TableReader};
pub use releases::{ReleaseEntry, ReleaseKind, ReleaseState};
pub use result_finder::ResultFinder;
pub use result_queries::ResultsPage;
pub use result_query::{Order, ResultQuery};
pub use results::{result_key, upload_day, write_result};
pub use schema::{
    ARRIVAL_INDEX, LABEL_INDEX, LISTING_INDEX, LabelOrRejected, MODEL_INDEX, RECENT_ATTRIBUTES, RECENT_INDEX,
    REVIEW_INDEX, SHARDS, SLIDE_INDEX, SUSPECT_ATTRIBUTES, SUSPECT_INDEX, create_table, leading_keys,
};
pub use slides::{Cell, CellsPage, SlideEntry, SlidesPage};
pub use table::{LedgerEntry, TableWriter};
pub use uploads::{
    Upload, UploadListing, UploadMarker, UploadVersion, UploadsError, form_decoded, form_encoded, listed_key,
};

pub use verdicts::{Review, ReviewAction, Reviewer, ReviewsPage, standing};
pub use withdrawals::{Withdrawal, WithdrawalAction};

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
