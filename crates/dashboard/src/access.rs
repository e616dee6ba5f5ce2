//! Which requests are answered at all, and the headers that every answer carries.
//!
//! It never trusts a browser's page of another site: on a laboratory's machine any web page that is open can send
//! requests to this address. Invariant: what comes from elsewhere reaches no route, and no answer can be framed, sniffed
//! or extended by scripts of others.

pub(crate) mod sign_in;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::presigning::PresigningConfig;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::access::sign_in::{PATH as SIGN_IN, SignIn};
use crate::request::parameters::shown;
use crate::request::problem::Problem;

/// Path of everything that is data.
const API: &str = "/api/";

/// Who may ask, and where the page may send its own requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The only values of `Host` that are answered; `None` answers any, where something in front has checked it.
    hosts: Option<Vec<String>>,
    /// Origins of S3: the input bucket's first.
    s3_origins: Vec<String>,
}

/// Why the origin of links is not known.
#[derive(Debug, thiserror::Error)]
#[error("links into the bucket {bucket:?} cannot be signed: {detail}")]
pub struct LinkOriginError {
    /// The bucket.
    pub bucket: String,
    /// What the SDK says.
    pub detail: String,
}

/// Scheme, host and port of signed links into each of `buckets`, without repetition.
///
/// # Errors
/// [`LinkOriginError`] if a link cannot be signed, e.g. without a region.
pub async fn link_origins(s3: &Client, buckets: &[&str]) -> Result<Vec<String>, LinkOriginError> {
    let mut origins = Vec::new();
    for bucket in buckets {
        let failed = |detail| LinkOriginError { bucket: (*bucket).to_owned(), detail };
        let for_a_second = PresigningConfig::expires_in(Duration::from_secs(1));
        let for_a_second = for_a_second.map_err(|e| failed(e.to_string()))?;
        let request = s3.get_object().bucket(*bucket).key("any");
        let link = request.presigned(for_a_second).await;
        let link = link.map_err(|e| failed(DisplayErrorContext(&e).to_string()))?;
        let url = link.uri();
        let end = url.find("://").and_then(|at| url[at + 3..].find('/').map(|slash| at + 3 + slash));
        let origin = url[..end.unwrap_or(url.len())].to_owned();
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }
    Ok(origins)
}

impl Access {
    /// Answers only what is asked of the loopback address itself, or of `localhost` with its port. `s3_origins` are
    /// those of links, the input bucket's first.
    #[must_use]
    pub fn loopback(address: SocketAddr, s3_origins: Vec<String>) -> Self {
        let hosts = vec![address.to_string(), format!("localhost:{}", address.port())];
        Self { hosts: Some(hosts), s3_origins }
    }

    /// Answers any host name, for a function behind a gateway that knows its own.
    #[must_use]
    pub fn any_host(s3_origins: Vec<String>) -> Self {
        Self { hosts: None, s3_origins }
    }

    /// Scheme, host and port of links into the input bucket.
    #[must_use]
    pub fn s3_origin(&self) -> &str {
        self.s3_origins.first().map_or("", String::as_str)
    }

    /// What the page may load, run and ask; `issuer` are the origins that it signs in at.
    fn content_security_policy(&self, issuer: &[String]) -> String {
        let s3 = self.s3_origins.join(" ");
        let issuer: String = issuer.iter().map(|origin| format!(" {origin}")).collect();
        format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data: {s3}; \
             connect-src 'self' {s3}{issuer}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    }

    fn refusal(&self, request: &Request) -> Option<Problem> {
        let headers = request.headers();
        let host = text_of(headers, &header::HOST).unwrap_or_default();
        if let Some(hosts) = &self.hosts {
            let is_known = |host: &str| hosts.iter().any(|known| known == host);
            // A request may name another host in its first line than in its header.
            let authority = request.uri().authority().map(|authority| authority.as_str());
            if !is_known(host) || authority.is_some_and(|authority| !is_known(authority)) {
                let asked = authority.filter(|authority| !is_known(authority)).unwrap_or(host);
                let detail = format!(
                    "this page answers for {} only, the request was for {:?}",
                    hosts.join(" and "),
                    shown(asked)
                );
                return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
            }
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            let origin_host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if origin_host.is_none_or(|origin_host| origin_host != host) {
                let detail = format!(
                    "the request comes from a page of {:?}; expected a page of {:?} itself",
                    shown(origin),
                    shown(host)
                );
                return Some(Problem::new(StatusCode::FORBIDDEN, detail));
            }
        }
        let site = text_of(headers, &HeaderName::from_static("sec-fetch-site"));
        // Another port of this machine is the same site and still somebody else.
        if let Some(site @ ("cross-site" | "same-site")) = site
            && !is_opening_a_page(request)
        {
            let detail = format!(
                "the request comes from a page of another origin (Sec-Fetch-Site: {site}); expected one of {:?}",
                shown(host)
            );
            return Some(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        None
    }
}

/// Whether somebody follows a link to the page, e.g. from a message: that shows them the page, and its maker nothing.
fn is_opening_a_page(request: &Request) -> bool {
    let is = |name: &'static str, expected: &str| {
        text_of(request.headers(), &HeaderName::from_static(name)) == Some(expected)
    };
    let is_page = request.method() == Method::GET && !request.uri().path().starts_with(API);
    is_page && is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document")
}

fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// All that a request has to get past.
#[derive(Debug)]
pub(crate) struct Guard {
    pub access: Access,
    pub sign_in: Option<SignIn>,
}

impl Guard {
    /// The request as its route sees it, which of the API knows who asks; or why it is refused.
    async fn admit(&self, request: Request) -> Result<Request, Response> {
        if let Some(problem) = self.access.refusal(&request) {
            tracing::warn!(detail = %problem.detail, "request refused");
            return Err(problem.into_response());
        }
        let Some(sign_in) = self.sign_in.as_ref().filter(|_| request.uri().path().starts_with(API)) else {
            return Ok(request);
        };
        let (mut parts, body) = request.into_parts();
        match sign_in.authorizer.caller(&parts).await {
            Ok(caller) => {
                parts.extensions.insert(caller);
                Ok(Request::from_parts(parts, body))
            }
            Err(denied) => {
                // Sessions end every hour; that is not a reason to warn.
                tracing::info!(detail = %denied, "request without a valid token");
                Err(denied.into_response())
            }
        }
    }

    /// The origins of the issuer for what is at `path`: only of the page itself, whose policy binds all that it loads,
    /// so that no other answer waits for an issuer that is away.
    async fn issuer_origins(&self, path: &str) -> Vec<String> {
        let is_page = !path.starts_with(API) && !path.contains('.') && path != SIGN_IN;
        match &self.sign_in {
            Some(sign_in) if is_page => sign_in.authorizer.origins().await,
            _ => Vec::new(),
        }
    }
}

/// Lets a request through to its route, or refuses it; puts the headers on whatever is answered.
pub(crate) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let is_api = request.uri().path().starts_with(API);
    // Also of an answer that the page has not changed: its headers replace those that the browser kept.
    let issuer = guard.issuer_origins(request.uri().path()).await;
    let mut response = match guard.admit(request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal,
    };
    let headers = response.headers_mut();
    let policy = HeaderValue::from_str(&guard.access.content_security_policy(&issuer));
    headers.insert(header::CONTENT_SECURITY_POLICY, policy.expect("origins are URLs, which are ASCII"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    if is_api && !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn refused(access: &Access, method: &str, uri: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let request =
            headers.iter().fold(Request::builder().method(method).uri(uri), |request, (name, value)| {
                request.header(*name, *value)
            });
        access.refusal(&request.body(Body::empty()).unwrap()).map(|problem| problem.status.as_u16())
    }

    #[test]
    fn only_this_address_and_its_own_pages_are_answered() {
        let access =
            Access::loopback("127.0.0.1:8080".parse().unwrap(), vec!["http://127.0.0.1:9000".into()]);
        let own = ("host", "127.0.0.1:8080");
        for headers in [
            vec![own],
            vec![("host", "localhost:8080"), ("origin", "http://localhost:8080")],
            vec![own, ("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")],
            vec![own, ("sec-fetch-site", "none")],
        ] {
            assert_eq!(refused(&access, "POST", "/api/reviews", &headers), None, "{headers:?}");
        }
        let foreign: [(&[(&str, &str)], u16); 9] = [
            (&[], 421),
            (&[("host", "evil.example")], 421),
            (&[("host", "127.0.0.1")], 421),
            (&[("host", "127.0.0.1:8081")], 421),
            (&[("host", "127.0.0.1:8080.evil.example")], 421),
            (&[own, ("origin", "http://evil.example")], 403),
            (&[own, ("origin", "null")], 403),
            (&[own, ("origin", "http://localhost:8080")], 403),
            (&[own, ("sec-fetch-site", "same-site")], 403),
        ];
        for (headers, status) in foreign {
            assert_eq!(refused(&access, "GET", "/api/slides", headers), Some(status), "{headers:?}");
        }
        assert_eq!(refused(&access, "GET", "http://evil.example/api/slides", &[own]), Some(421));
    }

    #[test]
    fn a_link_from_elsewhere_opens_the_page_but_asks_nothing() {
        let access = Access::any_host(vec!["https://b.s3.amazonaws.com".into()]);
        let link = [
            ("host", "any.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert_eq!(refused(&access, "GET", "/slide?name=a", &link), None);
        assert_eq!(refused(&access, "GET", "/api/slides", &link), Some(403));
        assert_eq!(refused(&access, "POST", "/slide", &link), Some(403));
        assert_eq!(refused(&access, "GET", "/slide", &[link[0], link[1]]), Some(403));
    }

    #[test]
    fn the_policy_names_every_origin_of_links() {
        let access = Access::any_host(vec!["https://in.example".into(), "https://out.example".into()]);
        let policy = access.content_security_policy(&[]);
        assert!(
            policy.contains("img-src 'self' blob: data: https://in.example https://out.example;"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        let with_issuer = access.content_security_policy(&["https://id.example".to_owned()]);
        let added = "connect-src 'self' https://in.example https://out.example https://id.example;";
        assert!(with_issuer.contains(added), "{with_issuer}");
        assert_eq!(with_issuer.replace(" https://id.example", ""), policy, "nothing else is widened");
    }
}
