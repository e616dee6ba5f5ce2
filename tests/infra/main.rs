//! The template and the code agree: environment, memory, timeouts, rights, table, routes, records.

#[path = "../common/mod.rs"]
mod common;

mod alarms;
mod api;
mod athena;
mod documents;
mod functions;
mod permissions;
#[path = "../raw_http/mod.rs"]
mod raw_http;
mod recorded;
mod resources;
#[cfg(unix)]
mod scripts;
mod table;
mod template;
