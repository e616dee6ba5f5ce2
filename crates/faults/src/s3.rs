//! What a request to S3 is about, what can happen to it, and how S3 says that it fails.
//!
//! A subject names the same thing in two runs of the same uploads.

use axum::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};
use percent_encoding::percent_decode_str;

use crate::Kind;
use giemsa_config::local::RESULTS_BUCKET;

/// Parameters of a query that differ from run to run, or say nothing.
const NOT_NAMED: &[&str] = &[
    "continuation-token",
    "key-marker",
    "marker",
    "start-after",
    "uploadId",
    "version-id-marker",
    "versionId",
    "x-id",
];

/// What can happen to any request.
const ANY: &[Kind] = &[
    Kind::SlowDown,
    Kind::InternalError,
    Kind::Timeout,
    Kind::Reset,
    Kind::Slow,
    Kind::LostAnswer,
    Kind::Kill,
];

/// What can happen to an answer with a body.
const WITH_BODY: &[Kind] = &[
    Kind::SlowDown,
    Kind::InternalError,
    Kind::Timeout,
    Kind::Reset,
    Kind::Slow,
    Kind::LostAnswer,
    Kind::Kill,
    Kind::Truncate,
];

/// What can happen to the content of an object.
const CONTENT: &[Kind] = &[
    Kind::SlowDown,
    Kind::InternalError,
    Kind::Timeout,
    Kind::Reset,
    Kind::Slow,
    Kind::LostAnswer,
    Kind::Kill,
    Kind::Truncate,
    Kind::Checksum,
];

/// Method, bucket and key, with the parameters that tell requests apart.
pub fn subject(method: &Method, uri: &Uri) -> String {
    let path = percent_decode_str(uri.path().trim_start_matches('/')).decode_utf8_lossy();
    let key = match path.split_once('/') {
        Some((RESULTS_BUCKET, key)) => format!("{RESULTS_BUCKET}/{}", without_run(key)),
        _ => path.into_owned(),
    };
    let parameters: Vec<&str> = parameters(uri).collect();
    match parameters.is_empty() {
        true => format!("{method} {key}"),
        false => format!("{method} {key} {}", parameters.join(" ")),
    }
}

/// What can happen to the request.
pub fn kinds(method: &Method, uri: &Uri) -> &'static [Kind] {
    let is_object = uri.path().trim_matches('/').contains('/');
    match *method {
        Method::GET if is_object && parameters(uri).next().is_none() => CONTENT,
        Method::GET => WITH_BODY,
        _ => ANY,
    }
}

fn parameters(uri: &Uri) -> impl Iterator<Item = &str> {
    let parts = uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty());
    parts.filter(|part| !NOT_NAMED.contains(&part.split('=').next().unwrap_or_default()))
}

/// A result's key without what differs from run to run: the day of the upload and the result's id.
fn without_run(key: &str) -> String {
    let folders = key.split('/').filter(|folder| !folder.starts_with("date="));
    let key = folders.collect::<Vec<_>>().join("/");
    match key.strip_suffix(".json").and_then(|name| name.rsplit_once('.')) {
        Some((image_key, _id)) => image_key.to_owned(),
        None => key,
    }
}

/// The answer of an S3 that refuses.
pub fn refusal(kind: Kind) -> Response<Body> {
    let (status, code, message) = match kind {
        Kind::SlowDown => (StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate."),
        _ => {
            let message = "We encountered an internal error. Please try again.";
            (StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
        }
    };
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message} (a fault was \
         injected)</Message></Error>"
    );
    let mut answer = Response::new(Body::from(xml));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_name_what_is_the_same_in_two_runs() {
        let table = [
            (
                Method::GET,
                "/giemsa-input/a/b%20c%2B.png?versionId=3&x-id=GetObject",
                "GET giemsa-input/a/b c+.png",
            ),
            (Method::PUT, "/b/k?partNumber=2&uploadId=77", "PUT b/k partNumber=2"),
            (Method::POST, "/b/k?uploads", "POST b/k uploads"),
            (Method::GET, "/b?list-type=2&prefix=x%2F", "GET b list-type=2 prefix=x%2F"),
            (
                Method::PUT,
                "/giemsa-results/results/stage%3Dprod/date%3D2026-11-22/s/a.b.png.0123456789abcdef.json",
                "PUT giemsa-results/results/stage=prod/s/a.b.png",
            ),
        ];
        for (method, uri, expected) in table {
            assert_eq!(subject(&method, &uri.parse().unwrap()), expected);
        }
    }

    #[test]
    fn only_content_is_damaged() {
        let damaged = |method, uri: &str| kinds(&method, &uri.parse().unwrap()).contains(&Kind::Checksum);
        assert!(damaged(Method::GET, "/bucket/key?versionId=1&x-id=GetObject"));
        assert!(!damaged(Method::GET, "/bucket/key?tagging"));
        assert!(!damaged(Method::GET, "/bucket/?list-type=2"));
        assert!(!damaged(Method::PUT, "/bucket/key"));
        assert!(!damaged(Method::HEAD, "/bucket/key"));
    }
}
