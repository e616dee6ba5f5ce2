//! The `giemsa` program and its servers, used from outside: one program, because linking is what tests wait for.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../local_s3_stack/mod.rs"]
mod local_s3_stack;
#[path = "../open_page/mod.rs"]
mod open_page;
#[path = "../raw_http/mod.rs"]
mod raw_http;
#[path = "../running_stack/mod.rs"]
mod running_stack;

mod alarms;
mod aws_client;
mod backfill;
mod cli;
mod dashboard_api;
mod dashboard_media;
mod dashboard_reviews;
mod dlq;
mod injector;
mod isolation;
mod local_kill;
mod local_s3;
mod local_s3_browsers;
mod local_s3_clients;
mod local_s3_versions;
mod model_cli;
mod names;
mod openapi;
mod sqs;
mod two_stages;
mod withdrawals;
