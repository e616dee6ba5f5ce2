//! The handlers and stores in this process, against S3 and DynamoDB over real HTTP: one program, because linking is what
//! tests wait for.

#![cfg(unix)]

mod answers;
mod backfill_batch;
mod bad_models;
mod compact;
mod dashboard_table;
mod development;
mod events;
mod export;
mod faults;
mod gate;
mod handler;
mod inventory;
mod keys;
mod lambda_runtime_api;
mod order;
mod outlier;
mod queries;
mod reconcile;
mod reconcile_large;
mod record;
mod shipping;
mod swaps;
mod withdrawals;
