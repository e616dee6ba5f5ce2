//! How many images: of a slide, of a day, lately.

pub mod counters;
pub mod days;
mod recent;
pub mod slides;
