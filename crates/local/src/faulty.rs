//! Faults on purpose, where they happen: in front of a server, and between a queue and its function.

pub(crate) mod server;
pub(crate) mod trigger;
