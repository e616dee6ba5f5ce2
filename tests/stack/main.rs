//! The `giemsa` program and its servers, used from outside: one program, because linking is what tests wait for.

#![cfg(unix)]

mod alarms;
mod aws_client;
mod backfill;
mod browser;
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
mod results_cli;
mod soak;
mod sqs;
mod two_stages;
mod withdrawals;
