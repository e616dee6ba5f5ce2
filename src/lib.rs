//! x
pub mod image;
