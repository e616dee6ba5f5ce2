//! What goes wrong with a request, as `application/problem+json` (RFC 9457).
//!
//! It never shows more of a failure than its error says, and never blames the request for a failure of a server. Every
//! answer that is not a success is a problem with a sentence, and one for each wrong parameter names it.

use std::error::Error as StdError;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::health::operations::OperationsError;
use giemsa_store::{BucketError, QueryError, StoreError, UploadsError};

/// Media type of a problem.
const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Status of the answer, 400 to 599.
    pub status: StatusCode,
    /// A sentence: what was found, what was expected, the way out.
    pub detail: String,
    /// The parameter, header or field that is wrong, if it is one.
    pub parameter: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
}

impl Problem {
    /// A problem that no single parameter is the reason of.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), parameter: None }
    }

    /// 400: `parameter` is not what is expected.
    pub fn bad_parameter(parameter: &str, detail: impl Into<String>) -> Self {
        let status = StatusCode::BAD_REQUEST;
        Self { status, detail: detail.into(), parameter: Some(parameter.to_owned()) }
    }

    /// 404: nothing is known under this name.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 503: something behind the dashboard does not answer; the same request may work later.
    pub fn unavailable(error: &dyn StdError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }

    /// 500: what is stored is not what this version writes, or this version is wrong.
    pub fn internal(error: &dyn StdError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), detail = %self.detail, "request not answered");
        }
        let body = Body {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Problem"),
            status: self.status.as_u16(),
            detail: &self.detail,
            parameter: self.parameter.as_deref(),
        };
        let body = serde_json::to_string(&body).expect("texts and a number are JSON");
        (self.status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response()
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Request { .. } => Self::unavailable(&error),
            QueryError::Item { .. } => Self::internal(&error),
            QueryError::Unsupported { detail } => Self::new(StatusCode::BAD_REQUEST, detail),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<UploadsError> for Problem {
    fn from(error: UploadsError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<OperationsError> for Problem {
    fn from(error: OperationsError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<BucketError> for Problem {
    fn from(error: BucketError) -> Self {
        Self::unavailable(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_is_the_json_of_rfc_9457() {
        let problem = Problem::bad_parameter("limit", "limit is \"x\"; expected 1 to 200");
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Bad Request", "status": 400, "parameter": "limit",
            "detail": "limit is \"x\"; expected 1 to 200",
        });
        assert_eq!(body, expected);
    }
}
