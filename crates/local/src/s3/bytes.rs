//! The bytes of objects, and their checksums.

pub(crate) mod blobs;
pub(crate) mod digests;
