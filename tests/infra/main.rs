//! The template and the code agree: environment, memory, timeouts, rights, table, routes, records.

mod alarms;
mod api;
mod athena;
mod documents;
mod functions;
mod layering;
mod package;
mod permissions;
mod recorded;
mod resources;
#[cfg(unix)]
mod scripts;
mod table;
mod template;
