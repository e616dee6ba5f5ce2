//! Results in the order and by the filters that somebody asks for.

pub mod query;
pub mod results;
