//! S3 objects in, results to S3 and DynamoDB out.

pub mod aws;
mod error;
mod model_bucket;
mod objects;
pub mod queues;
mod results;
pub mod shadow;
mod table;
mod telemetry;
mod uploads;

pub use error::StoreError;
pub use model_bucket::{BoundedFile, BucketError, FileFacts, FoundReport, ModelBucket, StoredFile};
pub use objects::{FetchError, FetchedObject, fetch_object, is_gone};
pub use results::finder::ResultFinder;
pub use results::{result_key, upload_day, write_result};
pub use table::answered::{AnsweredQuery, ImageKey, Verdict};
pub use table::counts::counters::Counter;
pub use table::counts::days::DaySummary;
pub use table::counts::slides::{Cell, CellsPage, SlideEntry, SlidesPage};
pub use table::current::{Placement, make_current, place};
pub use table::listing::query::{Order, ResultQuery};
pub use table::listing::results::ResultsPage;
pub use table::lookups::{BATCH_KEYS, CurrentResult};
pub use table::notes::crashes::CrashNote;
pub use table::notes::failures::{FailureNote, NotedUpload, Run};
pub use table::reader::{Cursor, ImageHistory, LabelQuery, Page, QueryError, TableReader};
pub use table::releases::{ReleaseEntry, ReleaseKind, ReleaseState};
pub use table::reviews::verdicts::{Review, ReviewAction, Reviewer, ReviewsPage, standing};
pub use table::reviews::withdrawals::{Withdrawal, WithdrawalAction};
pub use table::schema::{
    ARRIVAL_INDEX, LABEL_INDEX, LISTING_INDEX, LabelOrRejected, MODEL_INDEX, RECENT_ATTRIBUTES, RECENT_INDEX,
    REVIEW_INDEX, SHARDS, SLIDE_INDEX, SUSPECT_ATTRIBUTES, SUSPECT_INDEX, create_table, leading_keys,
};
pub use table::write_units::{PartitionWrite, StoredBytes, stored_bytes, writes_of_batch};
pub use table::writer::{LedgerEntry, TableWriter};
pub use telemetry::{metrics, xray};
pub use uploads::{
    Upload, UploadListing, UploadMarker, UploadVersion, UploadsError, form_decoded, form_encoded, listed_key,
};
