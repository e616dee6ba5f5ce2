//! Parameters of a request: the query, read strictly, and JSON bodies.
//!
//! It never ignores what it does not know: a misspelt filter would show the wrong images as the right ones. Invariant:
//! whatever is refused is refused by a problem that names the parameter, what was found and what is expected.

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::object::slide_name;

/// Longest body of a request, bytes.
pub(super) const MAX_BODY_BYTES: usize = 256 << 10;

/// What a slide is.
const SLIDE_MEANING: &str =
    "the folder of the images, e.g. slide-001, or nothing for images without a folder";

/// Longest name of a slide or key, bytes: that of an S3 key.
const MAX_NAME_BYTES: usize = 1024;

/// Characters of a wrong value that a problem repeats.
const SHOWN_CHARS: usize = 80;

/// The decoded query of a request, not yet checked.
#[derive(Debug, Clone)]
pub(super) struct RawQuery(String);

impl<S: Sync> FromRequestParts<S> for RawQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(parts.uri.query().unwrap_or_default().to_owned()))
    }
}

/// The parameters of a route: only those it knows, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters(Vec<(String, String)>);

impl RawQuery {
    /// The parameters, all of which are `known`.
    ///
    /// # Errors
    /// 400 for a name that is not known or a text that is not UTF-8.
    pub fn parameters(&self, known: &[&str]) -> Result<Parameters, Problem> {
        let mut pairs = Vec::new();
        for pair in self.0.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name, name)?;
            if !known.contains(&name.as_str()) {
                let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let detail = format!("the parameter {:?} is not known; expected only: {list}", shown(&name));
                return Err(Problem::bad_parameter(&name, detail));
            }
            let value = decoded(&name, value)?;
            let value = if name == "slide" { slide_name(&value) } else { value };
            pairs.push((name, value));
        }
        Ok(Parameters(pairs))
    }
}

fn decoded(name: &str, text: &str) -> Result<String, Problem> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| {
        let detail = format!("{} is not UTF-8 after percent-decoding; expected UTF-8", shown(name));
        Problem::bad_parameter(name, detail)
    })
}

/// A value as a problem repeats it: cut, so that an answer is not as long as its request.
pub(super) fn shown(value: &str) -> String {
    let mut start: String = value.chars().take(SHOWN_CHARS).collect();
    if start.len() < value.len() {
        start.push('…');
    }
    start
}

impl Parameters {
    /// The value of a parameter that may be given once.
    ///
    /// # Errors
    /// 400 if it is given more than once.
    pub fn optional<'a>(&'a self, name: &str) -> Result<Option<&'a str>, Problem> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(Problem::bad_parameter(
                name,
                format!("{name} is given more than once; expected one value"),
            )),
        }
    }

    /// The values of a parameter that may be given several times, in order.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that has to be given; `meaning` tells what it is.
    ///
    /// # Errors
    /// 400 if it is missing or given more than once.
    pub fn required<'a>(&'a self, name: &str, meaning: &str) -> Result<&'a str, Problem> {
        let missing = || Problem::bad_parameter(name, format!("{name} is missing; expected {meaning}"));
        self.optional(name)?.ok_or_else(missing)
    }

    /// The name of a slide, which may be empty (images without a folder), or `None`.
    ///
    /// # Errors
    /// 400 if it is too long or given more than once.
    pub fn slide(&self) -> Result<Option<&str>, Problem> {
        self.optional("slide")?.map(|slide| named("slide", slide)).transpose()
    }

    /// The name of a slide that has to be given; it may be empty.
    ///
    /// # Errors
    /// 400 if it is missing, too long or given more than once.
    pub fn required_slide(&self) -> Result<&str, Problem> {
        self.required("slide", SLIDE_MEANING)?;
        Ok(self.slide()?.unwrap_or_default())
    }

    /// Names of slides, 1 to `most`.
    ///
    /// # Errors
    /// 400 if there are none or too many, or one is too long.
    pub fn slides(&self, most: usize) -> Result<Vec<&str>, Problem> {
        let names = self.all("slide").map(|slide| named("slide", slide)).collect::<Result<Vec<_>, _>>()?;
        if (1..=most).contains(&names.len()) {
            return Ok(names);
        }
        let found = names.len();
        let detail =
            format!("slide is given {found} times; expected 1 to {most} times, each {SLIDE_MEANING}");
        Err(Problem::bad_parameter("slide", detail))
    }

    /// The key of an image.
    ///
    /// # Errors
    /// 400 if it is missing, empty, too long or given more than once.
    pub fn key(&self) -> Result<&str, Problem> {
        let meaning = "the key of an image in the input bucket, e.g. slide-001/cell.png";
        let key = named("key", self.required("key", meaning)?)?;
        if key.is_empty() {
            return Err(Problem::bad_parameter("key", format!("key is empty; expected {meaning}")));
        }
        Ok(key)
    }

    /// A stage of `stages`; the first unless one is given.
    ///
    /// # Errors
    /// 400 if there is none of this name.
    pub fn stage(&self, stages: &[String]) -> Result<String, Problem> {
        match self.optional("stage")? {
            None => Ok(stages.first().cloned().unwrap_or_default()),
            Some(stage) if stages.iter().any(|known| known == stage) => Ok(stage.to_owned()),
            Some(stage) => Err(wrong("stage", stage, &format!("one of: {}", stages.join(", ")))),
        }
    }

    /// How many to answer at most: 1 to `most`, `default` unless it is given.
    ///
    /// # Errors
    /// 400 if it is no such number.
    pub fn limit(&self, default: usize, most: usize) -> Result<usize, Problem> {
        self.number("limit", default, 1, most)
    }

    /// A whole number in a range.
    ///
    /// # Errors
    /// 400 if it is no such number.
    pub fn number(&self, name: &str, default: usize, least: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = self.optional(name)? else { return Ok(default) };
        let is_digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|number| is_digits && (least..=most).contains(number));
        number.ok_or_else(|| wrong(name, text, &format!("a whole number from {least} to {most}")))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// 400 if it is neither.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        self.choice(name, &[("true", true), ("false", false)])
    }

    /// One of several words, and what it stands for.
    ///
    /// # Errors
    /// 400 if it is none of them.
    pub fn choice<T: Clone>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.optional(name)? else { return Ok(None) };
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone());
        let words = || choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        found.map(Some).ok_or_else(|| wrong(name, text, &format!("one of: {}", words())))
    }

    /// A moment: RFC 3339, or a date, which is its start in UTC.
    ///
    /// # Errors
    /// 400 if it is neither, or no year from 1970 to 9999.
    pub fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, Problem> {
        let Some(text) = self.optional(name)? else { return Ok(None) };
        let of_date = |date: NaiveDate| date.and_time(NaiveTime::MIN).and_utc();
        let time = match DateTime::parse_from_rfc3339(text) {
            Ok(time) => Some(time.to_utc()),
            Err(_) => parsed_date(text).map(of_date),
        };
        // Times are compared as text, which years of another length would break.
        let time = time.filter(|time| (0..=LAST_MS).contains(&time.timestamp_millis()));
        let expected = "a time such as 2026-11-22T08:00:00Z or a date such as 2026-11-22, from 1970 to 9999";
        time.map(Some).ok_or_else(|| wrong(name, text, expected))
    }

    /// A date.
    ///
    /// # Errors
    /// 400 if it is none, or of no year from 1970 to 9999.
    pub fn date(&self, name: &str) -> Result<Option<NaiveDate>, Problem> {
        let Some(text) = self.optional(name)? else { return Ok(None) };
        let expected = "a date such as 2026-11-22, from 1970 to 9999";
        parsed_date(text).map(Some).ok_or_else(|| wrong(name, text, expected))
    }

    /// A SHA-256 in lower-case hexadecimal.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn sha256<'a>(&'a self, name: &str) -> Result<Option<&'a str>, Problem> {
        let Some(text) = self.optional(name)? else { return Ok(None) };
        let is_digest =
            text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if is_digest { Ok(Some(text)) } else { Err(wrong(name, text, "64 lower-case hexadecimal digits")) }
    }
}

/// The last millisecond of the year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

fn parsed_date(text: &str) -> Option<NaiveDate> {
    // By length too: chrono takes `2026-1-2`, and years of more digits.
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| text.len() == 10);
    date.filter(|date| *date >= NaiveDate::default())
}

/// 400 for a value that is not what is expected.
pub(super) fn wrong(name: &str, value: &str, expected: &str) -> Problem {
    Problem::bad_parameter(name, format!("{name} is {:?}; expected {expected}", shown(value)))
}

/// A name that S3 can have.
fn named<'a>(name: &str, value: &'a str) -> Result<&'a str, Problem> {
    if value.len() > MAX_NAME_BYTES {
        let expected = format!("at most {MAX_NAME_BYTES} bytes, as S3 allows");
        return Err(wrong(name, value, &expected));
    }
    Ok(value)
}

/// The JSON body of a request.
#[derive(Debug, Clone)]
pub(super) struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        // A form of another site can send anything but this type without asking first.
        if !media_type.eq_ignore_ascii_case("application/json") {
            let detail = format!("Content-Type is {:?}; expected application/json", shown(&content_type));
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Problem { status, detail, parameter: Some("Content-Type".to_owned()) });
        }
        let Ok(bytes) = to_bytes(request.into_body(), MAX_BODY_BYTES).await else {
            let detail = format!("the body cannot be read whole; expected at most {MAX_BODY_BYTES} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        };
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let detail = format!("the body is not the JSON that is expected: {error}; see /api/openapi.json");
            Problem::new(StatusCode::BAD_REQUEST, detail)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Parameters {
        let known = ["stage", "slide", "limit", "from", "flag", "key", "sha256"];
        RawQuery(query.to_owned()).parameters(&known).unwrap()
    }

    #[test]
    fn values_are_decoded_once() {
        let parameters = of("slide=a%2Fb+c%2520&slide=%C3%A9&limit=3");
        assert_eq!(parameters.all("slide").collect::<Vec<_>>(), ["a/b c%20", "é"]);
        assert_eq!(parameters.limit(50, 200).unwrap(), 3);
        assert_eq!(of("").limit(50, 200).unwrap(), 50);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let query = |text: &str| RawQuery(text.to_owned()).parameters(&["slide", "limit"]);
        let unknown = query("slde=a").unwrap_err();
        assert_eq!((unknown.status.as_u16(), unknown.parameter.as_deref()), (400, Some("slde")));
        assert!(unknown.detail.contains("slide, limit"), "{}", unknown.detail);
        assert!(query("slide=%ff").is_err());
        assert!(of("slide=a&slide=b").slide().is_err());
        for text in ["0", "201", "-1", "+5", "1e2", "", " 5", "99999999999999999999999"] {
            let limit = of(&format!("limit={}", text.replace('+', "%2B")));
            let problem = limit.limit(50, 200).unwrap_err();
            assert!(problem.detail.contains("from 1 to 200"), "{text}: {}", problem.detail);
        }
        assert!(of("key=").key().is_err());
        assert!(of(&format!("key={}", "k".repeat(1025))).key().is_err());
        assert!(of("flag=yes").flag("flag").is_err());
        assert!(of("stage=Prod").stage(&["prod".to_owned()]).unwrap_err().detail.contains("prod"));
        assert!(of(&format!("sha256={}", "A".repeat(64))).sha256("sha256").is_err());
    }

    #[test]
    fn times_are_moments_or_dates() {
        let time = |text: &str| of(&format!("from={text}")).time("from");
        assert_eq!(time("2026-11-22").unwrap(), time("2026-11-22T00:00:00Z").unwrap());
        assert_eq!(time("2026-11-22T01:00:00%2B01:00").unwrap(), time("2026-11-22").unwrap());
        for text in ["yesterday", "2026-1-2", "2026-13-01", "1969-12-31", "10000-01-01", "22.11.2026", ""] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
