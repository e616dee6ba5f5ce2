//! What Giemsa talks about: objects and events, records and slides, gate reports, prices and statistics.

pub mod digest;
pub mod event;
pub mod gate_report;
pub mod gate_rules;
pub mod object;
pub mod price;
pub mod record;
pub mod slide;
pub mod statistics;
