//! Signed links: how long they live, and what the page sends with them.
//!
//! It never chooses a bucket or key. A link that is answered lives until the time that is answered with it.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::request::problem::Problem;

/// What browsers set themselves and let no page set.
const OF_THE_BROWSER: [&str; 2] = ["host", "content-length"];

/// A signed request as the page sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Signed {
    pub url: String,
    pub method: String,
    /// Headers to send, by lower-case names; without them the signature does not hold.
    pub headers: BTreeMap<String, String>,
    pub expires_at: DateTime<Utc>,
}

impl Signed {
    /// A request that was signed by `config`.
    pub fn of(request: &PresignedRequest, config: &PresigningConfig) -> Self {
        let headers = request.headers().filter(|(name, _)| !OF_THE_BROWSER.contains(name));
        Self {
            url: request.uri().to_owned(),
            method: request.method().to_owned(),
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            expires_at: end_of(config),
        }
    }
}

/// Signs from now on for `lifetime`, 1 second to a week.
pub(crate) fn until(lifetime: Duration) -> PresigningConfig {
    PresigningConfig::expires_in(lifetime).expect("the configuration allows at most half a day")
}

/// How long a browser may show what it has of a link.
pub(crate) const CACHE_CONTROL: &str = "private, max-age=300";

/// Signs for reading: links of the same minutes are equal, so that a browser that comes back finds what it has. They live
/// for at least two thirds of `lifetime`.
pub(crate) fn shared(lifetime: Duration) -> PresigningConfig {
    let window = lifetime.as_secs() / 3;
    let now = SystemTime::now();
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let into_window = since_1970.checked_rem(window).unwrap_or_default();
    let config = PresigningConfig::builder().start_time(now - Duration::from_secs(into_window));
    config.expires_in(lifetime).build().expect("the configuration allows at most half a day")
}

/// When links of `config` end.
pub(crate) fn end_of(config: &PresigningConfig) -> DateTime<Utc> {
    DateTime::from(config.start_time() + config.expires())
}

/// A size as S3's requests have it.
pub(crate) fn length(size_bytes: u64) -> i64 {
    i64::try_from(size_bytes).unwrap_or(i64::MAX)
}

/// A link that cannot be signed: no credentials, for example.
pub(crate) fn failed(error: &(dyn StdError + 'static)) -> Problem {
    let detail = format!("a link cannot be signed: {}", DisplayErrorContext(error));
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
}
