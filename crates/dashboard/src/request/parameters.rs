//! Parameters of a request: the query as the type of its route, read strictly, and JSON bodies.
//!
//! A parameter that is not known, given twice or wrong is refused by a problem that names the parameter, what was found
//! and what was expected; a misspelt filter would otherwise show the wrong images as the right ones.

use std::fmt;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use percent_encoding::percent_decode_str;
use serde::de::value::{MapAccessDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use crate::request::problem::Problem;
use crate::{DEFAULT_LIMIT, Dashboard, MAX_LIMIT};
use giemsa_core::object::slide_name;

/// Longest body of a request, bytes.
pub(crate) const MAX_BODY_BYTES: usize = 256 << 10;

/// Characters of a wrong value that a problem repeats.
const SHOWN_CHARS: usize = 80;

/// The query of a request. `T` is a struct of the types below, with `deny_unknown_fields`.
#[derive(Debug, Clone)]
pub(crate) struct Query<T>(pub T);

/// The query of a route that takes no parameters.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parsed(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn parsed<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let mut parameters: Vec<Parameter> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name, name)?;
        let value = decoded(&name, value)?;
        match parameters.iter_mut().find(|parameter| parameter.name == name) {
            Some(parameter) => parameter.values.push(value),
            None => parameters.push(Parameter { name, values: vec![value] }),
        }
    }
    let parameters = Parameters { all: parameters.into_iter(), next: None };
    T::deserialize(MapAccessDeserializer::new(parameters))
        .map_err(|Refused { parameter, detail }| Problem::bad_parameter(&parameter, detail))
}

fn decoded(name: &str, text: &str) -> Result<String, Problem> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| {
        let detail = format!("{} is not UTF-8 after percent-decoding; expected UTF-8", shown(name));
        Problem::bad_parameter(name, detail)
    })
}

struct Parameters {
    all: std::vec::IntoIter<Parameter>,
    /// The one whose name was read last.
    next: Option<Parameter>,
}

impl<'de> MapAccess<'de> for Parameters {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        self.next = self.all.next();
        let name = self.next.as_ref().map(|parameter| parameter.name.as_str());
        name.map(|name| seed.deserialize(name.into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        let parameter = self.next.take().expect("its name was read");
        let (name, values) = (parameter.name.clone(), parameter.values.clone());
        seed.deserialize(parameter).map_err(|refused| refused.of(&name, &values))
    }
}

/// A parameter and its values in their order, at least one.
struct Parameter {
    name: String,
    values: Vec<String>,
}

impl Parameter {
    fn only_value(mut self) -> Result<String, Refused> {
        match (self.values.pop(), self.values.is_empty()) {
            (Some(value), true) => Ok(value),
            _ => {
                let detail = format!("{} is given more than once; expected one value", self.name);
                Err(Refused { parameter: self.name, detail })
            }
        }
    }
}

impl<'de> Deserializer<'de> for Parameter {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_string(self.only_value()?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match self.only_value()?.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(serde::de::Error::custom("one of: true, false")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_enum(self.only_value()?.into_deserializer())
    }

    // What is given is there, also if it is empty.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_seq(SeqDeserializer::new(self.values.into_iter()))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// Which parameter is refused, and why; of a value by itself only what was expected of it.
#[derive(Debug)]
struct Refused {
    parameter: String,
    detail: String,
}

impl Refused {
    /// The same of the parameter `name`, which has these `values`, unless it is known already.
    fn of(self, name: &str, values: &[String]) -> Self {
        if !self.parameter.is_empty() {
            return self;
        }
        let found = match values {
            [value] => format!("{:?}", shown(value)),
            _ => format!("given {} times", values.len()),
        };
        Self { parameter: name.to_owned(), detail: format!("{name} is {found}; expected {}", self.detail) }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Refused {}

impl serde::de::Error for Refused {
    fn custom<T: fmt::Display>(expected: T) -> Self {
        Self { parameter: String::new(), detail: expected.to_string() }
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("one of: {}", expected.join(", ")))
    }

    fn unknown_field(name: &str, expected: &'static [&'static str]) -> Self {
        let list = if expected.is_empty() { "none".to_owned() } else { expected.join(", ") };
        let detail = format!("the parameter {:?} is not known; expected only: {list}", shown(name));
        Self { parameter: name.to_owned(), detail }
    }

    fn missing_field(name: &'static str) -> Self {
        let meaning = match name {
            "key" => KEY_MEANING,
            "sha256" => "the SHA-256 of a model, 64 lower-case hexadecimal digits",
            "slide" => SLIDE_MEANING,
            _ => "a value",
        };
        Self { parameter: name.to_owned(), detail: format!("{name} is missing; expected {meaning}") }
    }
}

/// A value as a problem repeats it: cut, so that an answer is not as long as its request.
pub(crate) fn shown(value: &str) -> String {
    let mut start: String = value.chars().take(SHOWN_CHARS).collect();
    if start.len() < value.len() {
        start.push('…');
    }
    start
}

/// 400 for a value that is not what is expected.
pub(crate) fn wrong(name: &str, value: &str, expected: &str) -> Problem {
    Problem::bad_parameter(name, format!("{name} is {:?}; expected {expected}", shown(value)))
}

/// What a slide is.
pub(crate) const SLIDE_MEANING: &str =
    "the folder of the images, e.g. slide-001, or nothing for images without a folder";

const KEY_MEANING: &str = "the key of an image in the input bucket, e.g. slide-001/cell.png";

/// A text of `LEAST` to `MOST` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Text<const LEAST: usize, const MOST: usize>(pub String);

impl<const LEAST: usize, const MOST: usize> TryFrom<String> for Text<LEAST, MOST> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (LEAST..=MOST).contains(&text.len()) {
            true => Ok(Self(text)),
            false => Err(format!("a text of {LEAST} to {MOST} bytes")),
        }
    }
}

/// The key of an image: what S3 allows.
pub(crate) type Key = Text<1, 1024>;

/// The name of a stage, which need not be one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Stage(pub String);

/// Where a page goes on, as the one before said it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Cursor(pub String);

/// The name of a slide in its one form, at most 1,024 bytes; empty for images without a folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Slide(pub String);

impl TryFrom<String> for Slide {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Text::<0, 1024>::try_from(slide_name(&name)).map(|Text(name)| Self(name))
    }
}

/// A whole number from `LEAST` to `MOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Whole<const LEAST: u32, const MOST: u32>(pub u32);

impl<const LEAST: u32, const MOST: u32> TryFrom<String> for Whole<LEAST, MOST> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // By digits too: a number may be written with a sign.
        let number = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let number = number.filter(|number| (LEAST..=MOST).contains(number));
        number.map(Self).ok_or_else(|| format!("a whole number from {LEAST} to {MOST}"))
    }
}

/// Most entries of a page: 1 to `MOST`, `DEFAULT` unless it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(from = "Whole<1, MOST>")]
pub(crate) struct Limit<const DEFAULT: u32 = DEFAULT_LIMIT, const MOST: u32 = MAX_LIMIT>(u32);

impl<const DEFAULT: u32, const MOST: u32> Limit<DEFAULT, MOST> {
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

impl<const DEFAULT: u32, const MOST: u32> From<Whole<1, MOST>> for Limit<DEFAULT, MOST> {
    fn from(Whole(number): Whole<1, MOST>) -> Self {
        Self(number)
    }
}

impl<const DEFAULT: u32, const MOST: u32> Default for Limit<DEFAULT, MOST> {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

/// A moment from 1970 to 9999: RFC 3339, or a date, which is its start in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Time(pub DateTime<Utc>);

impl TryFrom<String> for Time {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let time = match DateTime::parse_from_rfc3339(&text) {
            Ok(time) => Some(time.to_utc()),
            Err(_) => Date::try_from(text).ok().map(|Date(date)| date.and_time(NaiveTime::MIN).and_utc()),
        };
        // Times are compared as text, which years of another length would break.
        let time = time.filter(|time| (0..=LAST_MS).contains(&time.timestamp_millis()));
        time.map(Self)
            .ok_or("a time such as 2026-11-22T08:00:00Z or a date such as 2026-11-22, from 1970 to 9999")
    }
}

/// The last millisecond of the year 9999.
const LAST_MS: i64 = 253_402_300_799_999;

/// A date from 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Date(pub NaiveDate);

impl TryFrom<String> for Date {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // By length too: chrono takes `2026-1-2`, and years of more digits.
        let date = NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok().filter(|_| text.len() == 10);
        let date = date.filter(|date| *date >= NaiveDate::default());
        date.map(Self).ok_or("a date such as 2026-11-22, from 1970 to 9999")
    }
}

/// A SHA-256 in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Sha256(pub String);

impl TryFrom<String> for Sha256 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_digest =
            text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if is_digest { Ok(Self(text)) } else { Err("64 lower-case hexadecimal digits") }
    }
}

impl Dashboard {
    /// The stage that the parameter `name` gives; the first unless one is given.
    ///
    /// # Errors
    /// 400 if there is none of this name.
    pub(crate) fn stage(&self, name: &str, given: Option<Stage>) -> Result<String, Problem> {
        match given {
            None => Ok(self.stages.first().cloned().unwrap_or_default()),
            Some(Stage(stage)) if self.stages.contains(&stage) => Ok(stage),
            Some(Stage(stage)) => Err(wrong(name, &stage, &format!("one of: {}", self.stages.join(", ")))),
        }
    }
}

/// The JSON body of a request.
#[derive(Debug, Clone)]
pub(crate) struct JsonBody<T>(pub T);

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

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Filters {
        slide: Option<Slide>,
        #[serde(default)]
        limit: Limit,
        from: Option<Time>,
        flag: Option<bool>,
        #[expect(dead_code, reason = "only its errors matter")]
        key: Option<Key>,
        #[expect(dead_code, reason = "only its errors matter")]
        sha256: Option<Sha256>,
        #[serde(default)]
        many: Vec<Slide>,
    }

    fn filters(query: &str) -> Result<Filters, Problem> {
        parsed(query)
    }

    fn refused(query: &str) -> (String, String) {
        let problem = filters(query).expect_err(query);
        assert_eq!(problem.status, StatusCode::BAD_REQUEST, "{query}");
        (problem.parameter.expect(query), problem.detail)
    }

    #[test]
    fn values_are_decoded_once() {
        let filters = filters("many=a%2Fb+c%2520&many=%C3%A9&limit=3&slide=a%5Cb&flag=true&&").unwrap();
        assert_eq!(filters.many, [Slide("a/b c%20".to_owned()), Slide("é".to_owned())]);
        assert_eq!((filters.limit.get(), filters.flag), (3, Some(true)));
        assert_eq!(filters.slide, Some(Slide("a/b".to_owned())));
        assert_eq!(super::parsed::<Filters>("").unwrap().limit.get(), 50);
        let empty = parsed::<Filters>("slide=").unwrap();
        assert_eq!(empty.slide, Some(Slide(String::new())), "images without a folder, not every image");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (parameter, detail) = refused("slde=a");
        assert_eq!(parameter, "slde");
        assert!(detail.contains("\"slde\"") && detail.contains("only: slide, limit, from"), "{detail}");
        assert_eq!(refused(&format!("{}=1", "q".repeat(500))).1.matches('q').count(), 80);
        assert_eq!(refused("slide=%ff").0, "slide");
        assert_eq!(refused("slide=a&slide=b").1, "slide is given more than once; expected one value");
        for text in ["0", "201", "-1", "%2B5", "1e2", "", "%205", "99999999999999999999999"] {
            let (parameter, detail) = refused(&format!("limit={text}"));
            assert_eq!(parameter, "limit");
            assert!(detail.starts_with("limit is ") && detail.contains("from 1 to 200"), "{text}: {detail}");
        }
        for query in ["key=", &format!("key={}", "k".repeat(1025)), &format!("slide={}", "k".repeat(1025))] {
            assert!(refused(query).1.contains("1024 bytes"), "{query}");
        }
        assert_eq!(refused("flag=yes").1, "flag is \"yes\"; expected one of: true, false");
        let (parameter, detail) = refused(&format!("many=a&many={}", "k".repeat(1025)));
        assert!(
            parameter == "many" && detail.contains("2 times") && detail.contains("1024 bytes"),
            "{detail}"
        );
        assert!(refused(&format!("sha256={}", "A".repeat(64))).1.contains("lower-case"));
        let missing = parsed::<Required>("").unwrap_err();
        assert_eq!(missing.detail, format!("key is missing; expected {KEY_MEANING}"));
        assert!(parsed::<Nothing>("a=1").unwrap_err().detail.contains("expected only: none"));
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Required {
        #[expect(dead_code, reason = "it is missing in the test")]
        key: Key,
    }

    #[test]
    fn times_are_moments_or_dates() {
        let time = |text: &str| filters(&format!("from={text}")).map(|filters| filters.from);
        assert_eq!(time("2026-11-22").unwrap(), time("2026-11-22T00:00:00Z").unwrap());
        assert_eq!(time("2026-11-22T01:00:00%2B01:00").unwrap(), time("2026-11-22").unwrap());
        for text in ["yesterday", "2026-1-2", "2026-13-01", "1969-12-31", "10000-01-01", "22.11.2026", ""] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
