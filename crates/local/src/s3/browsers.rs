//! What browsers may do with the local S3: cross-origin requests (CORS) of the dashboard's page, and presigned links.
//!
//! Never lets a page of another origin read an answer, and never allows `*`. A presigned link does what was signed and
//! nothing else; a header that would change that (`x-amz-copy-source`) has to be signed as well.

use std::sync::Arc;

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, Response, StatusCode};
use s3s::Body;

/// What pages may ask for.
const METHODS: &str = "GET, HEAD, PUT, POST";

/// How long a browser remembers that it may, seconds.
const MAX_AGE_S: &str = "600";

/// Signed over by itself: s3s compares the body with it.
const CONTENT_SHA256: &str = "x-amz-content-sha256";

/// The origins whose pages may use the local S3.
#[derive(Debug, Clone, Default)]
pub(crate) struct BrowserOrigins(Arc<[String]>);

impl BrowserOrigins {
    pub(crate) fn new(origins: &[String]) -> Self {
        Self(origins.into())
    }

    /// The origin of a request, if its page may read the answer.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        self.0.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }

    /// The answer to a browser that asks before it asks; `None` if it is no such question.
    pub(crate) fn answer_preflight<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let headers = request.headers();
        let is_preflight = *request.method() == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight {
            return None;
        }
        let Some(origin) = self.of(headers) else {
            // As S3 says it.
            return Some(refusal("AccessForbidden", "CORSResponse: This CORS request is not allowed."));
        };
        let mut answer = Response::new(Body::empty());
        let allowed = answer.headers_mut();
        allowed.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        allowed.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_S));
        if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            allowed.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        allow(&origin, allowed);
        Some(answer)
    }
}

/// Lets the page of `origin` read an answer; the ETag is what it completes an upload in parts with.
pub(crate) fn allow(origin: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("ETag, x-amz-version-id"));
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

/// Refuses a presigned request with `x-amz-` headers that were not signed, which s3s would obey.
///
/// A link to put one image would else copy any object that the signer can read.
pub(crate) fn refuse_unsigned<B>(request: &Request<B>) -> Option<Response<Body>> {
    let query = request.uri().query().unwrap_or_default();
    let parameters = query.split('&').filter_map(|pair| pair.split_once('='));
    let signed = parameters.clone().find(|(name, _)| *name == "X-Amz-SignedHeaders").map(|(_, value)| value);
    // Also in the older notation, which the local stack has no use for.
    let is_presigned = parameters
        .clone()
        .any(|(name, _)| matches!(name, "X-Amz-Signature" | "Signature" | "AWSAccessKeyId"));
    if !is_presigned {
        return None;
    }
    let signed = percent_encoding::percent_decode_str(signed.unwrap_or_default()).decode_utf8_lossy();
    let is_signed = |name: &str| signed.split(';').any(|signed| signed == name);
    let unsigned = request
        .headers()
        .keys()
        .map(hyper::header::HeaderName::as_str)
        .find(|name| name.starts_with("x-amz-") && *name != CONTENT_SHA256 && !is_signed(name))?;
    // As S3 says it. A name of a header holds nothing that XML has to escape.
    let message = format!("There were headers present in the request which were not signed: {unsigned}");
    Some(refusal("AccessDenied", &message))
}

fn refusal(code: &str, message: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let mut answer = Response::new(Body::from(xml));
    *answer.status_mut() = StatusCode::FORBIDDEN;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "http://127.0.0.1:8080";

    fn request(method: Method, uri: &str, headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
        }
        request
    }

    #[test]
    fn only_the_page_itself_is_allowed() {
        let origins = BrowserOrigins::new(&[PAGE.to_owned()]);
        let ask = |origin: &str| {
            let headers = [
                ("origin", origin),
                ("access-control-request-method", "PUT"),
                ("access-control-request-headers", "content-type,x-amz-meta-a"),
            ];
            origins.answer_preflight(&request(Method::OPTIONS, "/b/k", &headers)).unwrap()
        };
        let allowed = ask(PAGE);
        assert_eq!(allowed.status(), StatusCode::OK);
        assert_eq!(allowed.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], PAGE);
        assert_eq!(allowed.headers()[ACCESS_CONTROL_ALLOW_HEADERS], "content-type,x-amz-meta-a");
        assert_eq!(allowed.headers()[VARY], "Origin");
        for foreign in
            ["null", "http://127.0.0.1:8081", "http://127.0.0.1:8080.evil.example", "https://127.0.0.1:8080"]
        {
            let answer = ask(foreign);
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{foreign}");
            assert!(!answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), "{foreign}");
        }
        let plain = request(Method::OPTIONS, "/b/k", &[]);
        assert!(origins.answer_preflight(&plain).is_none());
        assert!(
            BrowserOrigins::default().of(request(Method::GET, "/", &[("origin", PAGE)]).headers()).is_none()
        );
    }

    #[test]
    fn a_link_obeys_no_header_that_was_not_signed() {
        let refused = |uri: &str, headers: &[(&'static str, &str)]| {
            refuse_unsigned(&request(Method::PUT, uri, headers)).is_some()
        };
        let link = "/b/k?X-Amz-SignedHeaders=content-length%3Bhost%3Bx-amz-meta-a&X-Amz-Signature=1";
        assert!(refused(link, &[("x-amz-copy-source", "/models/prod/model.onnx")]));
        assert!(refused("/b/k?AWSAccessKeyId=a&Signature=1", &[("x-amz-copy-source", "/m/k")]));
        assert!(!refused(link, &[("x-amz-meta-a", "1"), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]));
        assert!(!refused(link, &[("content-type", "image/png")]));
        assert!(
            !refused("/b/k", &[("x-amz-copy-source", "/models/prod/model.onnx")]),
            "signed by its header"
        );
    }
}
