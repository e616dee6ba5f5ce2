//! The DynamoDB table: its keys, its writes and its questions.

pub mod answered;
pub mod counts;
pub mod current;
pub mod listing;
pub mod lookups;
mod merged;
pub mod notes;
pub mod reader;
pub mod releases;
pub mod reviews;
pub mod schema;
pub mod write_units;
pub mod writer;
