//! What clients ask for: reads, writes, deletions, uploads in parts, listings.

pub(crate) mod conditions;
pub(crate) mod deletes;
pub(crate) mod list_answers;
pub(crate) mod multipart;
pub(crate) mod objects;
pub(crate) mod reads;
pub(crate) mod service;
