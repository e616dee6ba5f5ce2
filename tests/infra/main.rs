//! The template and the code agree: environment, memory, timeouts, rights, table, routes, records.

#[cfg(feature = "local")]
#[path = "../common/mod.rs"]
mod common;

mod alarms;
mod api;
mod athena;
mod documents;
mod functions;
mod permissions;
#[cfg(feature = "local")]
#[path = "../raw_http/mod.rs"]
mod raw_http;
#[cfg(feature = "local")]
mod recorded;
mod resources;
#[cfg(all(feature = "local", unix))]
mod scripts;
mod table;
mod template;
