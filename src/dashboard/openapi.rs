//! The description of the API, for programs and for the test that holds it against the implementation.
//!
//! It never is made of the code: what is promised to others must not change by an edit here. Invariant: it is the file
//! `docs/openapi.json`, byte for byte.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::routing::get;

use super::Dashboard;
use super::parameters::{Nothing, Query};

/// `docs/openapi.json`.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

pub(super) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route("/api/openapi.json", get(openapi))
}

async fn openapi(_: Query<Nothing>) -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}
