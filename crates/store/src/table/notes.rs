//! What is noted of uploads that failed, and of models that ended a process.

pub mod crashes;
pub mod failures;
