//! The issuer of identities: its own description (OpenID Connect Discovery) and its keys.
//!
//! It never sends a token or a secret. What is believed of the issuer comes from the address that was configured, names
//! this very issuer, and leads only to addresses that a secret may be sent to.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use giemsa_config::{SignInSettings, secure_origin};
use giemsa_dashboard::SingleFlightCache;
use giemsa_store::aws::connector;

/// Longest document, bytes: descriptions have some thousand.
const MAX_BYTES: usize = 256 << 10;

/// Longest time for a document.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the issuer says of itself, as far as it is needed here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct IssuerMetadata {
    issuer: String,
    jwks_uri: String,
    token_endpoint: String,
    #[serde(default)]
    revocation_endpoint: Option<String>,
}

/// Why the issuer is not known.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum IssuerError {
    /// It did not answer.
    #[error("{url} is not answered: {detail}; tokens cannot be checked until it is")]
    NotAnswered {
        /// What was asked for.
        url: String,
        /// What happened.
        detail: String,
    },
    /// It answered something else.
    #[error("{url} is not what an issuer of OpenID Connect answers: {detail}")]
    NotAnIssuer {
        /// What was asked for.
        url: String,
        /// What was found, and what was expected.
        detail: String,
    },
}

/// The issuer that was configured.
#[derive(Debug)]
pub(crate) struct Issuer {
    settings: SignInSettings,
    connector: SharedHttpConnector,
    metadata: SingleFlightCache<Arc<IssuerMetadata>, IssuerError>,
}

impl Issuer {
    /// Asks nothing yet.
    pub fn new(settings: SignInSettings) -> Self {
        Self { settings, connector: connector(), metadata: SingleFlightCache::new(Duration::MAX) }
    }

    /// What was configured.
    pub fn settings(&self) -> &SignInSettings {
        &self.settings
    }

    /// What it says of itself; asked until it is answered once, then kept.
    ///
    /// # Errors
    /// [`IssuerError`] if it does not answer, or for another issuer.
    pub async fn metadata(&self) -> Result<Arc<IssuerMetadata>, IssuerError> {
        let url =
            format!("{}/.well-known/openid-configuration", self.settings.issuer().trim_end_matches('/'));
        let ask = async {
            let metadata: IssuerMetadata = self.document(&url).await?;
            metadata.check(&self.settings, &url)?;
            Ok(Arc::new(metadata))
        };
        self.metadata.answer(&url, ask).await
    }

    /// Its keys as a JSON Web Key Set, as they are now.
    ///
    /// # Errors
    /// [`IssuerError`] if it does not answer.
    pub async fn keys(&self) -> Result<Value, IssuerError> {
        let url = &self.metadata().await?.jwks_uri;
        self.document(url).await
    }

    /// Where the page sends codes and tokens: the issuer, and where its description says, without repetition.
    pub async fn origins(&self) -> Vec<String> {
        let mut origins = self.settings.origins().to_vec();
        match self.metadata().await {
            Ok(metadata) => {
                let endpoints = [Some(&metadata.token_endpoint), metadata.revocation_endpoint.as_ref()];
                let endpoints = endpoints.into_iter().flatten();
                origins.extend(endpoints.filter_map(|url| secure_origin(url)).map(str::to_owned));
            }
            // The page is shown all the same, and says what is wrong when it asks the issuer itself.
            Err(error) => tracing::warn!(%error, "nobody can sign in"),
        }
        origins.sort_unstable();
        origins.dedup();
        origins
    }

    async fn document<T: DeserializeOwned>(&self, url: &str) -> Result<T, IssuerError> {
        let failed = |detail: String| IssuerError::NotAnswered { url: url.to_owned(), detail };
        let answer = tokio::time::timeout(TIMEOUT, self.body(url)).await;
        let body =
            answer.map_err(|_| failed(format!("no answer in {} s", TIMEOUT.as_secs())))?.map_err(failed)?;
        serde_json::from_slice(&body)
            .map_err(|error| IssuerError::NotAnIssuer { url: url.to_owned(), detail: error.to_string() })
    }

    async fn body(&self, url: &str) -> Result<Vec<u8>, String> {
        let mut request = HttpRequest::get(url).map_err(|error| error.to_string())?;
        request.headers_mut().insert("accept", "application/json");
        let response = self.connector.call(request).await;
        let response = response.map_err(|error| reasons(&error))?;
        if !response.status().is_success() {
            return Err(format!("status {}, expected 200", response.status().as_u16()));
        }
        let mut stream = ByteStream::new(response.into_body());
        let mut body = Vec::new();
        while let Some(part) = stream.try_next().await.map_err(|error| reasons(&error))? {
            if body.len() + part.len() > MAX_BYTES {
                return Err(format!("more than {MAX_BYTES} bytes"));
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }
}

impl IssuerMetadata {
    fn check(&self, settings: &SignInSettings, url: &str) -> Result<(), IssuerError> {
        let wrong = |detail| Err(IssuerError::NotAnIssuer { url: url.to_owned(), detail });
        if self.issuer != settings.issuer() {
            let (found, expected) = (&self.issuer, settings.issuer());
            return wrong(format!("it describes the issuer {found:?}, expected {expected:?} to the letter"));
        }
        let endpoints = [Some(&self.jwks_uri), Some(&self.token_endpoint), self.revocation_endpoint.as_ref()];
        match endpoints.into_iter().flatten().find(|endpoint| secure_origin(endpoint).is_none()) {
            Some(endpoint) => wrong(format!("it names {endpoint:?}, expected an address by https")),
            None => Ok(()),
        }
    }
}

/// An error and what is behind it, in one line.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(document: &Value) -> Result<(), IssuerError> {
        let settings = SignInSettings::new("https://id.example/lab", "page").unwrap();
        let metadata: IssuerMetadata = serde_json::from_value(document.clone()).unwrap();
        metadata.check(&settings, "https://id.example/lab/.well-known/openid-configuration")
    }

    #[test]
    fn a_description_is_of_this_issuer_and_leads_nowhere_unsafe() {
        let good = serde_json::json!({
            "issuer": "https://id.example/lab", "jwks_uri": "https://keys.example/jwks",
            "token_endpoint": "https://auth.example/token",
        });
        checked(&good).unwrap();
        for (name, value) in [
            ("issuer", "https://id.example/lab/"),
            ("issuer", "https://evil.example"),
            ("jwks_uri", "http://id.example/jwks"),
            ("token_endpoint", "http://id.example/token"),
            ("revocation_endpoint", "javascript:alert(1)"),
        ] {
            let mut bad = good.clone();
            bad[name] = value.into();
            let message = checked(&bad).unwrap_err().to_string();
            assert!(message.contains(value), "{message}");
        }
    }

    #[tokio::test]
    async fn an_issuer_that_does_not_answer_is_named() {
        // A port that was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let issuer = Issuer::new(SignInSettings::new(&url, "page").unwrap());
        let message = issuer.metadata().await.unwrap_err().to_string();
        assert!(message.contains(&url), "{message}");
        assert_eq!(issuer.origins().await, [url]);
    }
}
