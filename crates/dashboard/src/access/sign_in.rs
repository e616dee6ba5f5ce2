//! Who asks: the claims of a token that somebody trusted has verified, and where a page gets one.
//!
//! It never verifies a signature: behind a gateway the gateway has, in the embedded stack the stack does. With an
//! issuer nothing under `/api/` is answered to a request without a verified token.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::Dashboard;
use crate::request::parameters::{Nothing, Query};
use crate::request::problem::Problem;
use giemsa_config::SignInSettings;

/// Where a page learns whom to ask.
pub(crate) const PATH: &str = "/sign-in";

/// Claims that name a person, the best first.
const NAMES: [&str; 5] = ["name", "email", "username", "cognito:username", "sub"];

/// Longest identity, bytes: OpenID Connect allows a subject 255.
const MAX_ID_BYTES: usize = 1_000;

/// Longest name, bytes, as of reviewers.
const MAX_NAME_BYTES: usize = 200;

/// The person a verified token is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who it is: issuer and subject, `<iss>|<sub>`. Two people may have one name, and one person several.
    pub id: String,
    /// The name to show, one line of 1 to 200 bytes.
    pub name: String,
}

/// Why a request is not answered to whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token that holds.
    #[error(
        "{detail}; expected a token of the issuer that GET /sign-in names, in the header Authorization: Bearer"
    )]
    NoToken {
        /// What was found instead.
        detail: String,
    },
    /// Nobody can tell just now.
    #[error("{detail}")]
    Unknown {
        /// What does not answer.
        detail: String,
    },
}

/// Whoever knows the claims of a request's token.
#[async_trait]
pub trait Authorizer: Debug + Send + Sync {
    /// Whom the request is from.
    ///
    /// # Errors
    /// [`Denied`] if no verified token says so.
    async fn caller(&self, request: &Parts) -> Result<Caller, Denied>;

    /// Origins that the page asks to sign somebody in.
    async fn origins(&self) -> Vec<String>;
}

/// How people sign in.
#[derive(Debug, Clone)]
pub struct SignIn {
    /// The issuer of identities, and this page's client there.
    pub settings: SignInSettings,
    /// Who verifies what the issuer says.
    pub authorizer: Arc<dyn Authorizer>,
}

impl Caller {
    /// The person of the claims that `claim` looks up by name; `None` if they do not say who it is, as every ID token does
    /// by `iss` and `sub`.
    pub fn of_claims<'a>(claim: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let id = format!("{}|{}", claim("iss")?, claim("sub").filter(|subject| !subject.is_empty())?);
        if id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) {
            return None;
        }
        let names = NAMES.iter().filter_map(|name| claim(name));
        names.map(one_line).find(|name| !name.is_empty()).map(|name| Self { id, name })
    }
}

fn one_line(name: &str) -> String {
    let words = name.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join(" ");
    name[..name.floor_char_boundary(MAX_NAME_BYTES)].trim_end().to_owned()
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NoToken { .. } => StatusCode::UNAUTHORIZED,
            Self::Unknown { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = Problem::new(status, self.to_string()).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub(crate) fn routes() -> Router<Arc<Dashboard>> {
    Router::new().route(PATH, get(sign_in))
}

/// What a page needs to sign in; nothing of it is secret, and without an issuer it is empty.
async fn sign_in(State(dashboard): State<Arc<Dashboard>>, _: Query<Nothing>) -> Response {
    let body = match &dashboard.sign_in {
        Some(SignIn { settings, .. }) => {
            json!({ "issuer": settings.issuer(), "client_id": settings.client_id() })
        }
        None => json!({}),
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(claims: &[(&str, &'static str)]) -> Option<String> {
        let signed = [("iss", "https://id.example"), ("sub", "248289761001")];
        let claim = |name: &str| {
            claims.iter().chain(&signed).find(|(known, _)| *known == name).map(|(_, value)| *value)
        };
        Caller::of_claims(claim).map(|caller| caller.name)
    }

    #[test]
    fn a_person_is_an_issuer_and_a_subject_whatever_the_name() {
        let id_of = |issuer: &'static str, subject: &'static str| {
            let claim = |name: &str| match name {
                "iss" => Some(issuer),
                "sub" => Some(subject),
                "name" => Some("Anna Müller"),
                _ => None,
            };
            Caller::of_claims(claim).map(|caller| caller.id)
        };
        assert_eq!(id_of("https://id.example", "7").as_deref(), Some("https://id.example|7"));
        assert_ne!(id_of("https://id.example", "7"), id_of("https://id.example", "8"));
        assert_ne!(id_of("https://id.example", "7"), id_of("https://other.example", "7"));
        for subject in ["", "a\nb", "x".repeat(1_000).leak()] {
            assert_eq!(id_of("https://id.example", subject), None, "{subject}");
        }
        assert_eq!(Caller::of_claims(|name| (name == "name").then_some("Ada")), None, "a name is nobody");
    }

    #[test]
    fn the_best_claim_names_the_person() {
        let all = [
            ("sub", "248289761001"),
            ("cognito:username", "ada-pool"),
            ("username", "ada"),
            ("email", "ada@lab.example"),
            ("name", "Ada Müller"),
        ];
        let expected = ["248289761001", "ada-pool", "ada", "ada@lab.example", "Ada Müller"];
        for (count, expected) in (1..).zip(expected) {
            assert_eq!(name_of(&all[..count]).as_deref(), Some(expected));
        }
        assert_eq!(name_of(&[]).as_deref(), Some("248289761001"));
        assert_eq!(name_of(&[("name", " \n"), ("sub", "7")]).as_deref(), Some("7"), "an empty name is none");
    }

    #[test]
    fn a_name_is_one_short_line() {
        assert_eq!(name_of(&[("name", " Ada\r\nSet-Cookie: a\0b ")]).as_deref(), Some("Ada Set-Cookie: a b"));
        let long: &'static str = "ü".repeat(150).leak();
        assert_eq!(name_of(&[("name", long)]).unwrap(), "ü".repeat(100));
    }

    #[tokio::test]
    async fn a_refusal_says_what_is_expected() {
        let response = Denied::NoToken { detail: "there is no token".to_owned() }.into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let response = Denied::Unknown { detail: "away".to_owned() }.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
