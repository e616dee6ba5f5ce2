//! What people say of results: verdicts, and uploads that they withdraw.

pub(crate) mod verdict_writes;
pub mod verdicts;
mod withdrawal_writes;
pub mod withdrawals;
