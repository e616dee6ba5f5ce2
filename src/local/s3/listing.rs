//! Pages of a bucket's listing: prefix, delimiter, resume point, in the order of UTF-8 bytes.
//!
//! Reads only the index, so a page costs what it holds and not what the bucket holds.
//!
//! Invariant: walking all pages gives each key once, or its common prefix once, if nothing changes meanwhile.

use rusqlite::{Connection, params};

use super::index::{ObjectRow, object_row};

/// The greatest number of entries in a page.
pub(super) const MAX_PAGE_ENTRIES: usize = 1_000;

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resume {
    /// With the first key greater than this.
    AfterKey(String),
    /// With the first key greater than all that begin with this.
    AfterPrefix(String),
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Object(ObjectRow),
    /// All keys that begin with this, up to and including the delimiter.
    Prefix(String),
}

/// What is asked of a listing.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub(super) bucket: String,
    pub(super) prefix: String,
    /// Not empty.
    pub(super) delimiter: Option<String>,
    pub(super) resume: Option<Resume>,
    pub(super) max_entries: usize,
}

/// Some entries, and where the next page begins if there is one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    pub(super) next: Option<Resume>,
}

impl Resume {
    /// The resume point behind `last`, which a client may have taken from a page or chosen itself.
    pub(super) fn after(last: &str, prefix: &str, delimiter: Option<&str>) -> Self {
        let common = delimiter.and_then(|delimiter| common_prefix(last, prefix, delimiter));
        match common {
            Some(common) if common == last => Self::AfterPrefix(last.to_owned()),
            _ => Self::AfterKey(last.to_owned()),
        }
    }

    /// The resume point as an opaque text for clients.
    pub(super) fn to_token(&self) -> String {
        let (kind, text) = match self {
            Self::AfterKey(key) => ('k', key),
            Self::AfterPrefix(prefix) => ('p', prefix),
        };
        text.bytes().fold(String::from(kind), |token, byte| format!("{token}{byte:02x}"))
    }

    /// Reads back what [`to_token`](Self::to_token) wrote; `None` if it did not write this.
    pub(super) fn from_token(token: &str) -> Option<Self> {
        let digits = token.get(1..)?;
        if digits.len() % 2 != 0 || !digits.is_ascii() {
            return None;
        }
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
        let bytes = (0..digits.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
        let text = String::from_utf8(bytes).ok()?;
        match token.as_bytes()[0] {
            b'k' => Some(Self::AfterKey(text)),
            b'p' => Some(Self::AfterPrefix(text)),
            _ => None,
        }
    }

    /// The least key that this point does not exclude; `None` if it excludes all.
    fn first_key(&self) -> Option<Vec<u8>> {
        match self {
            Self::AfterKey(key) => Some([key.as_bytes(), &[0]].concat()),
            Self::AfterPrefix(prefix) => successor(prefix.as_bytes()),
        }
    }
}

/// Reads one page.
///
/// # Errors
/// Whatever SQLite says.
pub(super) fn page(connection: &Connection, listing: &Listing) -> rusqlite::Result<Page> {
    let max_entries = listing.max_entries.min(MAX_PAGE_ENTRIES);
    let mut page = Page { entries: Vec::new(), next: None };
    if max_entries == 0 {
        return Ok(page);
    }
    let end = successor(listing.prefix.as_bytes());
    let mut from = listing.prefix.as_bytes().to_vec();
    if let Some(resume) = &listing.resume {
        let Some(first) = resume.first_key() else {
            return Ok(page);
        };
        from = from.max(first);
    }
    let mut statement = connection.prepare_cached(
        "SELECT key, file, size_bytes, etag, modified_s FROM object
         WHERE bucket = ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3) ORDER BY key LIMIT ?4",
    )?;
    loop {
        // One more than fits, to know whether there is another page.
        let limit = i64::try_from(max_entries + 1 - page.entries.len()).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![listing.bucket, from, end, limit])?;
        let mut behind_prefix = None;
        while let Some(row) = rows.next()? {
            if page.entries.len() == max_entries {
                page.next = page.entries.last().map(|entry| match entry {
                    Entry::Object(object) => Resume::AfterKey(object.key.clone()),
                    Entry::Prefix(prefix) => Resume::AfterPrefix(prefix.clone()),
                });
                return Ok(page);
            }
            let object = object_row(row)?;
            let common =
                listing.delimiter.as_deref().and_then(|d| common_prefix(&object.key, &listing.prefix, d));
            match common {
                None => page.entries.push(Entry::Object(object)),
                Some(common) => {
                    behind_prefix = Some(successor(common.as_bytes()));
                    page.entries.push(Entry::Prefix(common.to_owned()));
                    break;
                }
            }
        }
        match behind_prefix {
            // A common prefix stands for all its keys: go on behind them, however many they are.
            Some(Some(next)) => from = next,
            _ => return Ok(page),
        }
    }
}

fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    let at = key.strip_prefix(prefix)?.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// The least byte string greater than all that begin with `prefix`; `None` if there is no such string.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut successor = prefix[..=last].to_vec();
    successor[last] += 1;
    Some(successor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn bucket_with(keys: &BTreeSet<String>) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE object (bucket TEXT, key BLOB, file TEXT, size_bytes INTEGER, etag TEXT, modified_s INTEGER,
                 PRIMARY KEY (bucket, key)) STRICT, WITHOUT ROWID",
            )
            .unwrap();
        for key in keys {
            connection
                .execute("INSERT INTO object VALUES ('b', ?1, 'f', 1, 'e', 0)", [key.as_bytes()])
                .unwrap();
        }
        connection
    }

    /// Walks all pages through tokens, as a client does.
    fn walk(
        connection: &Connection,
        prefix: &str,
        delimiter: Option<&str>,
        max_entries: usize,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let mut resume = None;
        loop {
            let listing = Listing {
                bucket: "b".into(),
                prefix: prefix.into(),
                delimiter: delimiter.map(Into::into),
                resume: resume.take(),
                max_entries,
            };
            let page = page(connection, &listing).unwrap();
            assert!(page.entries.len() <= max_entries);
            found.extend(page.entries.into_iter().map(|entry| match entry {
                Entry::Object(object) => object.key,
                Entry::Prefix(prefix) => format!("{prefix} (prefix)"),
            }));
            match page.next {
                None => return found,
                Some(next) => resume = Some(Resume::from_token(&next.to_token()).expect("own token")),
            }
        }
    }

    /// What a listing is by definition, without any cleverness.
    fn expected(keys: &BTreeSet<String>, prefix: &str, delimiter: Option<&str>) -> Vec<String> {
        let mut found: Vec<String> = keys
            .iter()
            .filter(|key| key.starts_with(prefix))
            .map(|key| match delimiter.and_then(|d| key[prefix.len()..].find(d).map(|at| at + d.len())) {
                Some(end) => format!("{} (prefix)", &key[..prefix.len() + end]),
                None => key.clone(),
            })
            .collect();
        found.dedup();
        found
    }

    proptest! {
        #[test]
        fn pages_of_any_size_give_the_whole_listing(
            keys in proptest::collection::btree_set("[ab/é\u{10ffff}\0]{1,6}", 0..40),
            prefix in "[ab/é]{0,2}",
            delimiter in proptest::option::of(prop_oneof![Just("/"), Just("a"), Just("//"), Just("é")]),
            max_entries in 1_usize..8,
        ) {
            let connection = bucket_with(&keys);
            prop_assert_eq!(walk(&connection, &prefix, delimiter, max_entries), expected(&keys, &prefix, delimiter));
        }
    }

    #[test]
    fn a_marker_that_is_a_common_prefix_skips_it_whole() {
        assert_eq!(Resume::after("a/", "", Some("/")), Resume::AfterPrefix("a/".into()));
        assert_eq!(Resume::after("a/", "", None), Resume::AfterKey("a/".into()));
        assert_eq!(Resume::after("a/b", "", Some("/")), Resume::AfterKey("a/b".into()));
        assert_eq!(Resume::after("a/", "a/", Some("/")), Resume::AfterKey("a/".into()));
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for token in ["", "k", "x61", "k6", "kzz", "kff", "ké"] {
            let read = Resume::from_token(token);
            assert!(read.is_none() || token == "k", "{token}: {read:?}");
        }
    }
}
