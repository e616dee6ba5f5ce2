//! Names in the local stack.

/// Bucket that images are uploaded to.
pub const INPUT_BUCKET: &str = "giemsa-input";
/// Bucket that models are copied to.
pub const MODEL_BUCKET: &str = "giemsa-models";
/// Bucket that results are written to.
pub const RESULTS_BUCKET: &str = "giemsa-results";
/// DynamoDB table.
pub const TABLE: &str = "giemsa";
