//! The handlers and stores in this process, against S3 and DynamoDB over real HTTP: one program, because linking is what
//! tests wait for.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../large_bucket/mod.rs"]
mod large_bucket;
#[path = "../running_stack/mod.rs"]
mod running_stack;

mod answers;
mod backfill_batch;
mod bad_models;
mod development;
mod events;
mod faults;
mod gate;
mod handler;
mod inventory;
mod keys;
mod order;
mod outlier;
mod queries;
mod reconcile;
mod record;
mod shipping;
mod swaps;
mod withdrawals;
