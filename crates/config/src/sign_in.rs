//! Where people sign in: the issuer of OpenID Connect and this page's client id there.
//!
//! An address that holds is one that tokens may be asked of: by HTTPS, or on this machine.

use super::Settings;

/// The issuer of identities, and who this page is to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInSettings {
    issuer: String,
    client_id: String,
    origins: Vec<String>,
}

/// Why nobody can sign in there.
#[derive(Debug, thiserror::Error)]
pub enum SignInSettingsError {
    /// The issuer is not an address that tokens may be asked of.
    #[error(
        "the issuer is {found:?}; expected its address without a query, by https or on this machine, e.g. \
         https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI"
    )]
    Issuer {
        /// What was given.
        found: String,
    },
    /// The client id cannot be one.
    #[error("the client id is {found:?}; expected what the issuer gave this page, letters without spaces")]
    ClientId {
        /// What was given.
        found: String,
    },
    /// An origin is none that tokens may be asked of.
    #[error(
        "an origin is {found:?}; expected scheme and host alone, by https or on this machine, e.g. https://auth.example"
    )]
    Origin {
        /// What was given.
        found: String,
    },
}

impl SignInSettings {
    /// `issuer` as its own documents name it, byte for byte, and the `client_id` that it gave this page.
    ///
    /// # Errors
    /// [`SignInSettingsError`] that says what is expected.
    pub fn new(issuer: &str, client_id: &str) -> Result<Self, SignInSettingsError> {
        let origin = secure_origin(issuer).filter(|_| !issuer.contains(['?', '#']));
        let origin = origin.ok_or_else(|| SignInSettingsError::Issuer { found: issuer.to_owned() })?;
        if client_id.is_empty() || !client_id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SignInSettingsError::ClientId { found: client_id.to_owned() });
        }
        let origins = vec![origin.to_owned()];
        Ok(Self { issuer: issuer.to_owned(), client_id: client_id.to_owned(), origins })
    }

    /// Adds origins that the page asks beside the issuer's own, by commas: of its token and revocation endpoints.
    ///
    /// # Errors
    /// [`SignInSettingsError::Origin`].
    pub fn with_origins(mut self, list: &str) -> Result<Self, SignInSettingsError> {
        for origin in list.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
            if secure_origin(origin) != Some(origin) {
                return Err(SignInSettingsError::Origin { found: origin.to_owned() });
            }
            self.origins.push(origin.to_owned());
        }
        Ok(self)
    }

    /// Scheme, host and port of the addresses that the page asks to sign somebody in, the issuer's first.
    #[must_use]
    pub fn origins(&self) -> &[String] {
        &self.origins
    }

    /// The issuer, as its tokens name it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// This page at the issuer.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }
}

/// Scheme, host and port of an address to which a secret may be sent: by HTTPS, or on this machine; else `None`.
#[must_use]
pub fn secure_origin(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // It goes into the page's content security policy, where a semicolon would begin another rule.
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if authority.is_empty() || !authority.chars().all(is_host) {
        return None;
    }
    let is_on_this_machine = ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| {
        authority.strip_prefix(host).is_some_and(|port| port.is_empty() || port.starts_with(':'))
    });
    let is_secure = scheme == "https" || (scheme == "http" && is_on_this_machine);
    is_secure.then(|| &url[..scheme.len() + "://".len() + authority.len()])
}

impl<L: Fn(&str) -> Option<String>> Settings<L> {
    /// `GIEMSA_OIDC_ISSUER`, `GIEMSA_OIDC_CLIENT_ID` and `GIEMSA_OIDC_ORIGINS`; `None` after a problem.
    pub(super) fn sign_in(&mut self) -> Option<SignInSettings> {
        match (self.optional("GIEMSA_OIDC_ISSUER"), self.optional("GIEMSA_OIDC_CLIENT_ID")) {
            (Some(issuer), Some(client_id)) => {
                let origins = self.optional("GIEMSA_OIDC_ORIGINS").unwrap_or_default();
                let settings = SignInSettings::new(&issuer, &client_id);
                match settings.and_then(|settings| settings.with_origins(&origins)) {
                    Ok(settings) => Some(settings),
                    Err(error) => {
                        let names = "GIEMSA_OIDC_ISSUER, GIEMSA_OIDC_CLIENT_ID, GIEMSA_OIDC_ORIGINS";
                        self.problems.push(format!("{names}: {error}"));
                        None
                    }
                }
            }
            (issuer, client_id) => {
                let settings = [("GIEMSA_OIDC_ISSUER", issuer), ("GIEMSA_OIDC_CLIENT_ID", client_id)];
                let missing = settings.into_iter().filter(|(_, value)| value.is_none());
                let missing = missing.map(|(name, _)| name).collect::<Vec<_>>().join(" and ");
                self.problems.push(format!(
                    "{missing} not set; expected the OpenID Connect issuer and its client id: without them whoever \
                     reaches the dashboard could read every result"
                ));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_asked_for_by_https_or_on_this_machine() {
        for (url, origin) in [
            ("https://id.example/realms/lab", Some("https://id.example")),
            ("https://id.example:8443", Some("https://id.example:8443")),
            ("http://127.0.0.1:9400/", Some("http://127.0.0.1:9400")),
            ("http://localhost", Some("http://localhost")),
            ("http://[::1]:80/a", Some("http://[::1]:80")),
            ("http://id.example", None),
            ("http://127.0.0.1.evil.example", None),
            ("http://localhostile.example", None),
            ("https://user@id.example", None),
            ("https://id.example;script-src", None),
            ("https://id.example/a b", None),
            ("https://", None),
            ("ftp://127.0.0.1", None),
            ("id.example", None),
        ] {
            assert_eq!(secure_origin(url), origin, "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(
            SignInSettings::new("https://id.example/?a=b", "c").unwrap_err().to_string().contains("?a=b")
        );
        assert!(SignInSettings::new("https://id.example", "a b").unwrap_err().to_string().contains("a b"));
        let settings = SignInSettings::new("https://id.example/", "c").unwrap();
        assert_eq!((settings.issuer(), settings.client_id()), ("https://id.example/", "c"));
        assert_eq!(settings.origins(), ["https://id.example"]);
        let settings = settings.with_origins("https://a.example, https://b.example:1").unwrap();
        assert_eq!(settings.origins(), ["https://id.example", "https://a.example", "https://b.example:1"]);
        for origin in ["https://a.example/token", "http://a.example", "https://a.example; script-src *"] {
            let refused = settings.clone().with_origins(origin).unwrap_err().to_string();
            assert!(refused.contains(origin), "{refused}");
        }
    }
}
