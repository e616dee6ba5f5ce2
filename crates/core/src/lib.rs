//! What Giemsa talks about: objects and events, records and slides, prices and statistics.

pub mod digest;
pub mod event;
pub mod object;
pub mod price;
pub mod record;
pub mod slide;
pub mod statistics;
