//! Where a page of an answer ended, as text that a client hands back.
//!
//! It never holds what a client may not know, and a client can make nothing of it but the next page. A cursor goes on
//! with the filters that it was made with, or not at all.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::request::parameters::{Cursor, shown};
use crate::request::problem::Problem;
use giemsa_core::digest::short_id;

/// Hexadecimal digits that tell the route and its filters.
const FILTER_DIGITS: usize = 16;

/// What a page depends on beside its position: the route, and every filter as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filters(String);

impl Filters {
    /// The filters of a route; a missing one is another than an empty one.
    pub fn of(route: &str, filters: &[Option<&str>]) -> Self {
        let mut parts = vec![route];
        for filter in filters {
            parts.extend(filter.map_or(["-", ""], |text| ["=", text]));
        }
        Self(short_id(&parts))
    }

    /// The cursor of a position.
    pub fn cursor(&self, position: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}{position}", self.0))
    }

    /// The position of a cursor of these filters.
    ///
    /// # Errors
    /// 400 if it is of other filters, or was not made here.
    pub fn position(&self, cursor: Option<Cursor>) -> Result<Option<String>, Problem> {
        let Some(Cursor(cursor)) = cursor else { return Ok(None) };
        let wrong = |what: &str| {
            let detail = format!(
                "cursor is {:?}, {what}; expected `next` of the page before, with the same filters, or no cursor for the \
                 first page",
                shown(&cursor)
            );
            Problem::bad_parameter("cursor", detail)
        };
        let text = URL_SAFE_NO_PAD.decode(&cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.filter(|text| text.is_char_boundary(FILTER_DIGITS));
        let text = text.ok_or_else(|| wrong("which was not made here"))?;
        match text.split_at(FILTER_DIGITS) {
            (filters, position) if filters == self.0 => Ok(Some(position.to_owned())),
            _ => Err(wrong("which is of other filters")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_goes_on_with_its_own_filters_only() {
        let filters = Filters::of("slides", &[Some("prod"), None]);
        let cursor = filters.cursor("2026#é/x");
        assert_eq!(filters.position(Some(Cursor(cursor.clone()))).unwrap().as_deref(), Some("2026#é/x"));
        assert_eq!(filters.position(None).unwrap(), None);
        for other in [
            Filters::of("slides", &[Some("dev"), None]),
            Filters::of("slides", &[Some("prod"), Some("")]),
            Filters::of("slides", &[None, Some("prod")]),
            Filters::of("results", &[Some("prod"), None]),
        ] {
            let problem = other.position(Some(Cursor(cursor.clone()))).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.parameter.as_deref()), (400, Some("cursor")));
        }
        for wrong in ["", "x", "%%%", "AAAA", "//8", &cursor[1..]] {
            assert!(filters.position(Some(Cursor(wrong.to_owned()))).is_err(), "{wrong}");
        }
    }
}
