//! Records as Parquet: one schema for exports and for compacted days.
//!
//! It never asks the table, and never changes a record. What is read back from a file of ours is what was written,
//! record by record.

mod columns;
mod compact;
mod day;
mod part;
mod records_file;
mod removal;

pub use compact::{Compacted, Compactor, Phase};
pub use day::{COMPACTED_ROWS, Day, DayDate};
pub use records_file::ParquetRecords;

/// Why records could not be written as Parquet, or not be read from it.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A Parquet file cannot be written.
    #[error("the Parquet file cannot be written: {detail}")]
    Write {
        /// What the system or the Parquet library says.
        detail: String,
    },
    /// A Parquet file cannot be read.
    #[error(
        "{file} cannot be read as Parquet: {detail}; expected a file that `giemsa results compact` wrote"
    )]
    Read {
        /// Path or address.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// S3 or the network failed.
    #[error("{what} failed on s3://{bucket}/{key}: {detail}")]
    Request {
        /// The operation.
        what: &'static str,
        /// The bucket.
        bucket: String,
        /// Key or prefix.
        key: String,
        /// What S3 or the network says.
        detail: String,
    },
    /// A listing is not in the order of keys, on which merging relies.
    #[error(
        "the listing of s3://{bucket}/{prefix} has {key:?} out of the order of keys; nothing was changed"
    )]
    Order {
        /// The bucket.
        bucket: String,
        /// What was listed.
        prefix: String,
        /// The key that is not after the one before it.
        key: String,
    },
    /// A result object changed between its listing and its reading.
    #[error("s3://{bucket}/{key} was removed while the day was compacted; nothing was deleted, run it again")]
    Removed {
        /// The bucket.
        bucket: String,
        /// The result object.
        key: String,
    },
    /// A file in S3 is not what was written.
    #[error(
        "{file} does not hold what was written to it (digest {found}, expected {expected}); no JSON was deleted: \
         remove the file and run it again"
    )]
    Damaged {
        /// Address.
        file: String,
        /// Digest of its rows.
        found: String,
        /// Digest of the rows that were written.
        expected: String,
    },
}
