//! The template and the code agree: environment, memory, timeouts, rights, table, routes, records.

#[cfg(feature = "local")]
#[path = "../common/mod.rs"]
mod common;

mod alarms;
mod api;
mod athena;
mod functions;
mod permissions;
mod resources;
#[cfg(all(feature = "local", unix))]
mod scripts;
mod table;
mod template;
