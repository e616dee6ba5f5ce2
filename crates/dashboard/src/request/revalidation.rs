//! Tells a page that polls that nothing changed, instead of sending it the same list again.
//!
//! Each is made anew, and compared by its digest. An answer without a body is given only to a client that has this very
//! body.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{self, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::request::problem::Problem;
use giemsa_core::digest::sha256_hex;

/// Paths that pages ask again and again.
const POLLED: [&str; 3] = ["/api/slides", "/api/slide", "/api/slide/cells"];

/// Longest answer that is compared, bytes: 2,000 cells with keys of 1,024 bytes.
const MAX_BYTES: usize = 8 << 20;

/// Hexadecimal digits of an ETag.
const ETAG_DIGITS: usize = 32;

/// Answers 304 where the client has the answer already.
pub(crate) async fn answer_unchanged(request: Request, next: Next) -> Response {
    let is_polled = request.method() == Method::GET && POLLED.contains(&request.uri().path());
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    if !is_polled || response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let bytes = match to_bytes(body, MAX_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) => return Problem::internal(&error).into_response(),
    };
    let etag = format!("\"{}\"", &sha256_hex(&bytes)[..ETAG_DIGITS]);
    let is_known = known.as_ref().and_then(|known| known.to_str().ok()).is_some_and(|known| {
        known.split(',').any(|one| one.trim().trim_start_matches("W/") == etag || one.trim() == "*")
    });
    let value = HeaderValue::from_str(&etag).expect("hexadecimal digits in quotes");
    // Kept by the browser of the person who asked, and never shown without asking here.
    let control = HeaderValue::from_static("private, no-cache");
    if is_known {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, value), (header::CACHE_CONTROL, control)])
            .into_response();
    }
    parts.headers.insert(header::ETAG, value);
    parts.headers.insert(header::CACHE_CONTROL, control);
    Response::from_parts(parts, Body::from(bytes))
}
