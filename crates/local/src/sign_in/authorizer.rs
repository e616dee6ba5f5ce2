//! Verifies the tokens of requests to the dashboard, as the JWT authorizer of API Gateway does on AWS.
//!
//! It never takes a token's word for how it is signed: the key says that. A caller is known only from a token that the
//! configured issuer signed for this page, and that holds now.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::http::header;
use axum::http::request::Parts;
use chrono::Utc;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::sign_in::issuer::{Issuer, IssuerError};
use giemsa_config::SignInSettings;
use giemsa_dashboard::{Authorizer, Caller, Denied, SingleFlightCache};

/// How far the clocks of issuer and stack may differ, seconds.
const LEEWAY_SECONDS: u64 = 10;

/// Longest token, bytes: more than a header line of API Gateway holds.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// How long keys are used before they are asked for again.
const KEYS_FOR: Duration = Duration::from_secs(2 * 60 * 60);

/// Pause between two questions for keys that tokens with unknown ones can cause.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What the keys may sign with: API Gateway takes algorithms of RSA only, and what passes here has to pass there.
const RSA: [Algorithm; 3] = [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];

/// Verifies tokens with the issuer's keys, which it keeps.
#[derive(Debug)]
pub(crate) struct TokenAuthorizer {
    issuer: Issuer,
    /// The last answer of the issuer.
    known: Mutex<Option<Keys>>,
    /// The answer of a moment ago, also if it was none.
    asked: SingleFlightCache<Arc<Vec<Jwk>>, IssuerError>,
}

#[derive(Debug, Clone)]
struct Keys {
    keys: Arc<Vec<Jwk>>,
    since: Instant,
}

impl TokenAuthorizer {
    pub fn new(settings: SignInSettings) -> Self {
        Self::with_pause(settings, ASK_AGAIN_AFTER)
    }

    fn with_pause(settings: SignInSettings, pause: Duration) -> Self {
        Self { issuer: Issuer::new(settings), known: Mutex::default(), asked: SingleFlightCache::new(pause) }
    }

    /// The issuer's keys, asked for again if none is named `kid`: issuers change them. Whose key is known does not wait
    /// for whoever asks for another.
    async fn keys_with(&self, kid: &str) -> Result<Arc<Vec<Jwk>>, Denied> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Keys { keys, since }) = known
            && since.elapsed() < KEYS_FOR
            && key_named(&keys, kid).is_some()
        {
            return Ok(keys);
        }
        let ask = async {
            let keys = Arc::new(usable_keys(&self.issuer.keys().await?));
            let known = Keys { keys: keys.clone(), since: Instant::now() };
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
            Ok(keys)
        };
        let keys = self.asked.answer("keys", ask).await;
        keys.map_err(|error| Denied::Unknown { detail: error.to_string() })
    }
}

#[async_trait]
impl Authorizer for TokenAuthorizer {
    async fn caller(&self, request: &Parts) -> Result<Caller, Denied> {
        let header = request.headers.get(header::AUTHORIZATION).ok_or_else(|| no("there is no token"))?;
        let token =
            header.to_str().ok().and_then(bearer).ok_or_else(|| no("the header is not a bearer token"))?;
        let kid = key_id(token)?;
        let keys = self.keys_with(&kid).await?;
        let settings = self.issuer.settings();
        let claims = verified(token, &kid, &keys, settings.issuer(), settings.client_id())?;
        Caller::of_claims(|name| claims.get(name).and_then(Value::as_str))
            .ok_or_else(|| no("the token names nobody (iss, sub)"))
    }

    async fn origins(&self) -> Vec<String> {
        self.issuer.origins().await
    }
}

fn no(detail: impl Into<String>) -> Denied {
    Denied::NoToken { detail: detail.into() }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= MAX_TOKEN_BYTES).then_some(token)
}

/// The name of the key that a token says it is signed with.
fn key_id(token: &str) -> Result<String, Denied> {
    let header = decode_header(token).map_err(|error| no(format!("the token cannot be read ({error})")))?;
    header.kid.ok_or_else(|| no("the token does not name its key"))
}

/// The keys of RSA of a key set; issuers list others beside them.
fn usable_keys(document: &Value) -> Vec<Jwk> {
    let keys = document.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let keys = keys.iter().filter(|key| key.get("use").is_none_or(|usage| usage == "sig"));
    keys.filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok()).filter(is_rsa).collect()
}

fn key_named<'a>(keys: &'a [Jwk], kid: &str) -> Option<&'a Jwk> {
    keys.iter().find(|key| key.common.key_id.as_deref() == Some(kid))
}

/// Whether it is a key of RSA; never a secret that both sides would know.
fn is_rsa(key: &Jwk) -> bool {
    matches!(key.algorithm, AlgorithmParameters::RSA(_))
}

/// The claims of a token that is signed by the key `kid` of `keys`, by `issuer`, for `client_id`, and that holds now.
fn verified(
    token: &str,
    kid: &str,
    keys: &[Jwk],
    issuer: &str,
    client_id: &str,
) -> Result<Map<String, Value>, Denied> {
    let key = key_named(keys, kid)
        .ok_or_else(|| no("the token is signed with a key that the issuer does not have"))?;
    if !is_rsa(key) {
        return Err(no("the token is not signed with a key of RSA, as API Gateway demands"));
    }
    let unusable = |error| no(format!("the issuer's key cannot be used ({error})"));
    let decoding = DecodingKey::from_jwk(key).map_err(unusable)?;
    let mut validation = Validation::new(RSA[0]);
    validation.algorithms = RSA.to_vec();
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["exp", "iss"]);
    // Below: a token of Cognito for access has a client id in its place.
    validation.validate_aud = false;
    let token = decode::<Map<String, Value>>(token, &decoding, &validation);
    let claims = token.map_err(|error| no(format!("the token does not hold ({error})")))?.claims;
    if !is_for(&claims, client_id) {
        return Err(no("the token is for another than this page (aud, client_id)"));
    }
    // The library passes over a time that is not a number.
    let limit = Utc::now().timestamp() as f64 + LEEWAY_SECONDS as f64;
    match claims.get("nbf") {
        Some(time) if time.as_f64().is_none_or(|time| time > limit) => {
            Err(no("the token does not hold yet (nbf)"))
        }
        _ => Ok(claims),
    }
}

/// As API Gateway: the audience if the token has one, else its client id.
fn is_for(claims: &Map<String, Value>, client_id: &str) -> bool {
    match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(|one| one == client_id),
        Some(audience) => audience == client_id,
        None => claims.get("client_id").is_some_and(|id| id == client_id),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::Request;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use axum::{Json, Router};
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use jsonwebtoken::{EncodingKey, Header, encode};
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;
    use giemsa_config::SignInSettings;

    const ISSUER: &str = "https://id.example/lab";

    /// PKCS #1; it was made for these tests, and nothing else knows it.
    const KEY: &str = "MIIEpQIBAAKCAQEAtMQZeqbKQ7mnqWKVX1+K4bPeI9G1a75HYod2TzgSVsyBEZDNHxo+TbKHe02CuReBsb1Z2RLmLgOYFvajllFS+xiGeIgT\
        d1Z5qIQiFOQt3tgi1jfVTROlW6xzujntxHSHY47OmqcRQ17Gf9Kyb9DosFiHlx13PYjneOkIOEx6ywbhfTJNpSI6wm3f+Qc0y/EeOlK0CLKW\
        uTmfZJLhTLg3q3GtYvJLl0EdIqX/Gcd2TJp7mMZ/6oodge1Taw1pjbR7ismVUSiEVoS0ykgWv16zdaJd6U52CoBldlzhAKoiVagqPl7Gtnw8\
        25dXB20nWGWezHbY+1DDsj1ZYBEWXVuj3wIDAQABAoIBAFjghACEijVTTmafdH7wjGndlG57GN6xLwr4PIjFsmqf4SPgVKIitphgG3HaEdhs\
        gNWBmm/69VaRaNF9kcACGzEfBVq02RFXYLikwtcPu6fyD+rQh9z+OFLDDyF0gv2RJ9Ig8F8knn3H1wQY9ae5iPbPiFcZ4ztLmTefJ+36WHOC\
        h5JXBz3u+Gkwn6rhJU4NhgCrJECRsVMHsjy3bwkmNfMPL0k/2IM5peEHITtc1PIc2QgvpCe3FAcpTrf1K0iAiAVS14MGdPR+WO9xa/jfjQQz\
        S/fEzpSWG0p55Lb45p++d1VMGz/uaFr/BV+tAaARN5qat1a9TonbZGVB7x9sgjkCgYEA/kPkQu0iwvbA9xPnZ0egT/sXvwxHJtX/Wt7KoNc3\
        I+zhchb2xHtU/YQPqkCV/RWCN1K5pmZCYiQ1fRQLGQvtnOtfWgDnyKwq8gR9IOCpuKd2UcXTbvZILQe1ldZiRURcIasLaHYeE7ktHGLsRJDc\
        dfh5jwYgf4tFln3f/8HAqAkCgYEAtf/U6FBzwraiKmQ+7tDUOjf90Zcm+VSGEAEjn1m9QgU9KZaldcn3iAcyIEgvXJk//UVjr+lBmLukce+V\
        xnYfk58SCclzTjsR6LPb0N9yFOz8vziMQtMNHfvFU8dBnkJV1zdx61umHDBwPYVgeQrD/TNrWBiHlr2b49lh4s8jVqcCgYEA7mOu7oSws8Rv\
        9PeHXNDN4E8V23xidWnsKUF7D0PYoeklEjevk1XiwHIB0ekN9yQkW0RHZVi44pT6RVP2d7w0Qox3cMYqin3JIfHNc3bQCZ2QlGh6rK1hzD5P\
        JLXEmxbVnodkgcNEvc8/GT8yL7L1z/Fv3wWqkIp+avOHgZ4hyCkCgYEAkfkDduEwN7fsETweDcWIsrk95uDo7YmRjTycqa58UXuKNtURGIxI\
        8N10otfCxO5VmHoTHoBjkHDP0GJtKqSLZwdqnFbrGI/gKVg4sirFgWsivOxJ8z77glTxS+TBCIID/34E7NSxQmLHY1Cas/qif27CZgImngyt\
        /+3WyOeCXHkCgYEA7ECnMeQMvvn5UqyC12Vt6CjH5zw6YQEABqrf4k6mC4KV12dylAwg3Y+d6MN5hdNgYR2CUavxjMlaLGjazmoMPKKyI0+P\
        JMYtzMkff/hUF42gmFLW+PmBrSa/UK9xxBitPrfPzY9NwMuujAp5bVrMHIjGQC/PfBm5ic/8k8lCT7w=";

    /// The key, and the key set that shows its public half under the name `one`.
    fn issuer() -> (EncodingKey, Vec<Jwk>) {
        let der = STANDARD.decode(KEY).unwrap();
        let public = ring::rsa::KeyPair::from_der(&der).unwrap();
        let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(public.public());
        (EncodingKey::from_rsa_der(&der), keys_of(&URL_SAFE_NO_PAD.encode(public.n)))
    }

    fn keys_of(modulus: &str) -> Vec<Jwk> {
        let keys = usable_keys(&json!({ "keys": [
            { "kty": "oct", "k": "c2VjcmV0", "kid": "shared" },
            { "kty": "AKP", "alg": "ML-DSA-44", "pub": "x", "kid": "unknown kind" },
            { "kty": "RSA", "kid": "one", "use": "sig", "e": "AQAB", "n": modulus },
        ]}));
        assert_eq!(keys.len(), 1, "a shared secret is not a key, and others do not matter");
        keys
    }

    fn header(algorithm: Algorithm) -> Header {
        Header { kid: Some("one".to_owned()), ..Header::new(algorithm) }
    }

    fn checked(token: &str, keys: &[Jwk]) -> Result<Map<String, Value>, String> {
        let kid = key_id(token).map_err(|denied| denied.to_string())?;
        verified(token, &kid, keys, ISSUER, "page").map_err(|denied| denied.to_string())
    }

    #[test]
    fn only_a_token_of_this_issuer_for_this_page_that_holds_now_is_taken() {
        let (key, keys) = issuer();
        let now = Utc::now().timestamp();
        let claims = json!({ "iss": ISSUER, "aud": "page", "exp": now + 60, "nbf": now, "name": "Ada" });
        let with = |changes: Value| {
            let mut claims = claims.clone();
            claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            checked(&encode(&header(Algorithm::RS256), &claims, &key).unwrap(), &keys)
        };
        assert_eq!(with(json!({})).unwrap()["name"], "Ada");
        for good in [
            json!({ "aud": ["other", "page"] }),
            json!({ "aud": null, "client_id": "page" }),
            json!({ "exp": now - 5 }),
            json!({ "nbf": now + 5 }),
            json!({ "nbf": null }),
        ] {
            with(good.clone()).unwrap_or_else(|denied| panic!("{good}: {denied}"));
        }
        for (bad, why) in [
            (json!({ "iss": "https://id.example/lab/" }), "InvalidIssuer"),
            (json!({ "iss": null }), "iss"),
            (json!({ "aud": "other" }), "aud"),
            (json!({ "aud": [] }), "aud"),
            (json!({ "aud": null }), "aud"),
            (json!({ "aud": "other", "client_id": "page" }), "aud"),
            (json!({ "aud": null, "client_id": "other" }), "client_id"),
            (json!({ "exp": now - 60 }), "ExpiredSignature"),
            (json!({ "exp": null }), "exp"),
            (json!({ "exp": "never" }), "exp"),
            (json!({ "nbf": now + 60 }), "ImmatureSignature"),
            (json!({ "nbf": "tomorrow" }), "nbf"),
        ] {
            let denied = with(bad.clone()).unwrap_err();
            assert!(denied.contains(why), "{bad}: {denied}");
        }
    }

    #[test]
    fn a_token_cannot_say_how_it_is_checked() {
        let (key, keys) = issuer();
        let claims = json!({ "iss": ISSUER, "aud": "page", "exp": Utc::now().timestamp() + 60 });
        let good = encode(&header(Algorithm::RS256), &claims, &key).unwrap();
        checked(&good, &keys).unwrap();
        let (message, signature) = good.rsplit_once('.').unwrap();
        let payload = message.split_once('.').unwrap().1;
        let head = |head: Value| URL_SAFE_NO_PAD.encode(head.to_string());
        // Signed with what everybody knows: the public key.
        let public = serde_json::to_vec(&keys[0]).unwrap();
        let shared = encode(&header(Algorithm::HS256), &claims, &EncodingKey::from_secret(&public)).unwrap();
        let unknown = Header { kid: Some("two".to_owned()), ..Header::new(Algorithm::RS256) };
        let unnamed = Header::new(Algorithm::RS256);
        for (what, token) in [
            ("alg none", format!("{}.{payload}.", head(json!({ "alg": "none", "kid": "one" })))),
            (
                "alg none, signed",
                format!("{}.{payload}.{signature}", head(json!({ "alg": "none", "kid": "one" }))),
            ),
            ("HS256 with the public key", shared),
            (
                "ES256 with a key of RSA",
                format!("{}.{payload}.{signature}", head(json!({ "alg": "ES256", "kid": "one" }))),
            ),
            ("an unknown key", encode(&unknown, &claims, &key).unwrap()),
            ("no key", encode(&unnamed, &claims, &key).unwrap()),
            ("no signature", format!("{message}.")),
            (
                "other claims",
                good.replace(payload, &URL_SAFE_NO_PAD.encode(json!({ "iss": ISSUER }).to_string())),
            ),
            ("no token", "a.b".to_owned()),
        ] {
            assert!(checked(&token, &keys).is_err(), "{what}");
        }
        assert!(checked(&good, &keys_of(OTHER_MODULUS)).unwrap_err().contains("InvalidSignature"));
    }

    #[test]
    fn only_what_api_gateway_takes_is_taken() {
        let (key, keys) = issuer();
        let claims = json!({ "iss": ISSUER, "aud": "page", "exp": Utc::now().timestamp() + 60 });
        for algorithm in RSA {
            checked(&encode(&header(algorithm), &claims, &key).unwrap(), &keys).unwrap();
        }
        // Signed as it should be, by a key of the issuer, which every request on AWS would be refused for.
        let random = ring::rand::SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let part = |range| URL_SAFE_NO_PAD.encode(&point[range]);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "one", "x": part(1..33), "y": part(33..65) });
        let token =
            encode(&header(Algorithm::ES256), &claims, &EncodingKey::from_ec_der(pkcs8.as_ref())).unwrap();
        assert!(usable_keys(&json!({ "keys": [jwk.clone()] })).is_empty());
        let denied = checked(&token, &[serde_json::from_value(jwk).unwrap()]).unwrap_err();
        assert!(denied.contains("RSA"), "{denied}");
    }

    /// The modulus of another key, of which nobody has the private half.
    const OTHER_MODULUS: &str = "mblLh3L7eob4iGHGPDwsPAziBAXusU_XjWEpxBjkr6Mo3xWv04Og_X-HfyYkGzx1fd1nGef7S52mWAcD8UWsc0Z5JWPk4-y2C3Zj\
        66ZebzuPj7m09GlsjzlB65BCV4ATUaopT84h1RJxSbYYm6ENN5rqSqFKyloSsdQSm73NTCEjsUHUbynfrGZVBL1FhiX1lVRou1B8\
        INBBg-JiF3T0Afcsg6A7xYhy374NvDakCuRx5g8UTjHxg7Yw8Pqr6D-1MogwDNTEc3x6kFmoku4XTw6lqIACjYBSURz_oCgGfgai\
        T1KJsYpkJ7YM_DjSqmJi5_eqXzcITNd0PRMBXiMDuw";

    /// An issuer on this machine that counts how often its keys are asked for.
    async fn issuer_on_this_machine(keys: Value) -> (String, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let description = json!({ "issuer": url, "jwks_uri": format!("{url}/keys"), "token_endpoint": format!("{url}/token") });
        let counted = asked.clone();
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(async move || Json(description)))
            .route(
                "/keys",
                get(async move || {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Json(keys)
                }),
            );
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (url, asked)
    }

    async fn status(authorizer: &TokenAuthorizer, token: &str) -> u16 {
        let request = Request::builder().header("authorization", format!("Bearer {token}")).body(()).unwrap();
        match authorizer.caller(&request.into_parts().0).await {
            Ok(_) => 200,
            Err(denied) => denied.into_response().status().as_u16(),
        }
    }

    #[tokio::test]
    async fn keys_are_asked_for_once_and_again_when_the_issuer_may_have_new_ones() {
        let (key, keys) = issuer();
        let (url, asked) = issuer_on_this_machine(json!({ "keys": keys })).await;
        let settings = |url: &str| SignInSettings::new(url, "page").unwrap();
        let authorizer = TokenAuthorizer::with_pause(settings(&url), Duration::from_secs(600));
        let claims = json!({ "iss": url, "aud": "page", "sub": "7", "exp": Utc::now().timestamp() + 60 });
        let good = encode(&header(Algorithm::RS256), &claims, &key).unwrap();
        let unknown = Header { kid: Some("two".to_owned()), ..Header::new(Algorithm::RS256) };
        let unknown = encode(&unknown, &claims, &key).unwrap();
        for _ in 0..3 {
            assert_eq!(status(&authorizer, &good).await, 200);
            // Whoever sends keys that nobody has does not make the stack ask each time.
            assert_eq!(status(&authorizer, &unknown).await, 401);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let impatient = TokenAuthorizer::with_pause(settings(&url), Duration::ZERO);
        for (token, expected, asked_by_then) in [(&good, 200, 2), (&good, 200, 2), (&unknown, 401, 3)] {
            assert_eq!(status(&impatient, token).await, expected);
            assert_eq!(asked.load(Ordering::Relaxed), asked_by_then, "what is known is not asked for");
        }
        // One that is away: nobody is let in, and nobody is said to have a wrong token.
        let away = TokenAuthorizer::new(settings("http://127.0.0.1:1"));
        assert_eq!(status(&away, &good).await, 503);
        assert_eq!(status(&away, "nonsense").await, 401);
    }

    #[test]
    fn only_a_bearer_token_is_one() {
        assert_eq!(bearer("Bearer a.b.c"), Some("a.b.c"));
        assert_eq!(bearer("bearer  a.b.c"), Some("a.b.c"));
        for other in ["a.b.c", "Basic YTpi", "Bearer", ""] {
            assert_eq!(bearer(other), None, "{other}");
        }
        assert_eq!(bearer(&format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1))), None);
    }
}
