//! Pages of a bucket's listing: prefix, delimiter, resume point, in the order of UTF-8 bytes, versions newest first.
//!
//! Reads only the index, so a page costs what it holds and not what the bucket holds: neither keys behind the prefix nor
//! replaced and deleted versions are looked at where they are not listed.
//!
//! Walking all pages gives each key or version once, or its common prefix once, if nothing changes meanwhile.

use rusqlite::{Connection, params};

use crate::s3::rows::versions::{self, VersionId, VersionRow, version_row};

/// The greatest number of entries in a page.
pub(crate) const MAX_PAGE_ENTRIES: usize = 1_000;

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resume {
    /// With the first key greater than this.
    AfterKey(String),
    /// With the first key greater than all that begin with this.
    AfterPrefix(String),
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Version(VersionRow),
    /// All keys that begin with this, up to and including the delimiter.
    Prefix(String),
}

/// What a listing holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The latest version of each key that is not deleted.
    Objects,
    /// All versions and delete markers.
    Versions {
        /// Go on within the resume point's key, with the versions older than this.
        behind: Option<VersionId>,
    },
}

/// What is asked of a listing.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    pub(crate) bucket: String,
    pub(crate) shown: Shown,
    pub(crate) prefix: String,
    /// Not empty.
    pub(crate) delimiter: Option<String>,
    pub(crate) resume: Option<Resume>,
    pub(crate) max_entries: usize,
}

/// Some entries, and whether more follow.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) is_truncated: bool,
}

impl Page {
    /// The entry behind which the next page begins; `None` if this is the last page.
    pub(crate) fn resume_entry(&self) -> Option<&Entry> {
        self.entries.last().filter(|_| self.is_truncated)
    }

    /// Where the next page of a listing of keys begins; `None` if this is the last page.
    pub(crate) fn next(&self) -> Option<Resume> {
        self.resume_entry().map(|entry| match entry {
            Entry::Version(version) => Resume::AfterKey(version.key.clone()),
            Entry::Prefix(prefix) => Resume::AfterPrefix(prefix.clone()),
        })
    }
}

impl Resume {
    /// The resume point behind `last`, which a client may have taken from a page or chosen itself.
    pub(crate) fn after(last: &str, prefix: &str, delimiter: Option<&str>) -> Self {
        let common = delimiter.and_then(|delimiter| common_prefix(last, prefix, delimiter));
        match common {
            Some(common) if common == last => Self::AfterPrefix(last.to_owned()),
            _ => Self::AfterKey(last.to_owned()),
        }
    }

    /// The resume point as an opaque text for clients.
    pub(crate) fn to_token(&self) -> String {
        let (kind, text) = match self {
            Self::AfterKey(key) => ('k', key),
            Self::AfterPrefix(prefix) => ('p', prefix),
        };
        text.bytes().fold(String::from(kind), |token, byte| format!("{token}{byte:02x}"))
    }

    /// Reads back what [`to_token`](Self::to_token) wrote; `None` if it did not write this.
    pub(crate) fn from_token(token: &str) -> Option<Self> {
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
pub(crate) fn page(connection: &Connection, listing: &Listing) -> rusqlite::Result<Page> {
    let Listing { bucket, shown, prefix, delimiter, resume, max_entries } = listing;
    let max_entries = (*max_entries).min(MAX_PAGE_ENTRIES);
    let mut page = Page::default();
    if max_entries == 0 {
        return Ok(page);
    }
    // No key has this byte, which is none of UTF-8.
    let end = successor(prefix.as_bytes()).unwrap_or_else(|| vec![u8::MAX]);
    let mut from = prefix.as_bytes().to_vec();
    if let Some(resume) = resume {
        let Some(first) = resume.first_key() else {
            return Ok(page);
        };
        from = from.max(first);
    }
    let mut begun_key = begun_key(connection, listing)?;
    let mut older = connection.prepare_cached(&older_sql())?;
    let mut keys = connection.prepare_cached(&keys_sql(*shown))?;
    loop {
        // One more than fits, to know whether there is another page.
        let limit = i64::try_from(max_entries + 1 - page.entries.len()).unwrap_or(i64::MAX);
        let mut rows = match &begun_key {
            Some((key, number)) => older.query(params![bucket, key, number, limit])?,
            None => keys.query(params![bucket, from, end, limit])?,
        };
        let mut behind_prefix = None;
        while let Some(row) = rows.next()? {
            if page.entries.len() == max_entries {
                page.is_truncated = true;
                return Ok(page);
            }
            let version = version_row(row)?;
            match delimiter.as_deref().and_then(|d| common_prefix(&version.key, prefix, d)) {
                None => page.entries.push(Entry::Version(version)),
                Some(common) => {
                    behind_prefix = successor(common.as_bytes());
                    page.entries.push(Entry::Prefix(common.to_owned()));
                    break;
                }
            }
        }
        match (behind_prefix, begun_key.take()) {
            // A common prefix stands for all its keys: go on behind them, however many they are.
            (Some(next), _) => from = next,
            // All versions of the begun key are listed: go on with the next key.
            (None, Some(_)) => {}
            (None, None) => return Ok(page),
        }
    }
}

/// The key whose listing the page before began, and the number below which its versions remain.
fn begun_key(connection: &Connection, listing: &Listing) -> rusqlite::Result<Option<(Vec<u8>, i64)>> {
    let (Shown::Versions { behind: Some(id) }, Some(Resume::AfterKey(key))) =
        (listing.shown, &listing.resume)
    else {
        return Ok(None);
    };
    if !key.starts_with(&listing.prefix) {
        return Ok(None);
    }
    let number = versions::number_of(connection, &listing.bucket, key, id)?;
    // A version `null` that was removed meanwhile tells no place: rather list a version twice than not at all.
    Ok(Some((key.as_bytes().to_vec(), number.unwrap_or(i64::MAX))))
}

fn keys_sql(shown: Shown) -> String {
    // The planner is not asked: without its index a page of a bucket full of deleted keys would read them all.
    let (index, order) = match shown {
        Shown::Objects => ("INDEXED BY version_shown WHERE is_latest = 1 AND blob IS NOT NULL AND", "key"),
        Shown::Versions { .. } => ("WHERE", "key, number DESC"),
    };
    format!(
        "SELECT {} FROM version {index} bucket = ?1 AND key >= ?2 AND key < ?3 ORDER BY {order} LIMIT ?4",
        versions::COLUMNS
    )
}

fn older_sql() -> String {
    format!(
        "SELECT {} FROM version WHERE bucket = ?1 AND key = ?2 AND number < ?3 ORDER BY number DESC LIMIT ?4",
        versions::COLUMNS
    )
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
    use crate::state::LAYOUT;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn empty_index() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(LAYOUT).unwrap();
        connection
    }

    /// The latest version of a key, a delete marker where `is_marker`.
    fn add_latest(connection: &Connection, key: &str, number: i64, is_marker: bool) {
        let key = key.as_bytes();
        connection.execute("UPDATE version SET is_latest = 0 WHERE key = ?1", [key]).unwrap();
        let blob = (!is_marker).then_some(1);
        connection
            .execute(
                "INSERT INTO version VALUES ('b', ?1, ?2, 0, 1, 0, ?3, ?3, ?4, ?4)",
                params![key, number, blob, blob.map(|_| "e")],
            )
            .unwrap();
    }

    fn bucket_with(keys: &BTreeSet<String>) -> Connection {
        let connection = empty_index();
        for (key, number) in keys.iter().zip(1..) {
            add_latest(&connection, key, number, false);
        }
        connection
    }

    fn listing(prefix: &str, delimiter: Option<&str>, max_entries: usize) -> Listing {
        let (bucket, prefix, delimiter) = ("b".into(), prefix.into(), delimiter.map(Into::into));
        Listing { bucket, shown: Shown::Objects, prefix, delimiter, resume: None, max_entries }
    }

    fn text(entry: &Entry) -> String {
        match entry {
            Entry::Version(version) => version.key.clone(),
            Entry::Prefix(prefix) => format!("{prefix} (prefix)"),
        }
    }

    /// Walks all pages through tokens, as a client does.
    fn walk(
        connection: &Connection,
        prefix: &str,
        delimiter: Option<&str>,
        max_entries: usize,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let mut listing = listing(prefix, delimiter, max_entries);
        loop {
            let page = page(connection, &listing).unwrap();
            assert!(page.entries.len() <= max_entries);
            found.extend(page.entries.iter().map(text));
            match page.next() {
                None => return found,
                Some(next) => {
                    listing.resume = Some(Resume::from_token(&next.to_token()).expect("own token"));
                }
            }
        }
    }

    /// Walks all pages of a listing of versions through markers, as a client does.
    fn walk_versions(
        connection: &Connection,
        prefix: &str,
        delimiter: Option<&str>,
        max_entries: usize,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let mut listing = listing(prefix, delimiter, max_entries);
        listing.shown = Shown::Versions { behind: None };
        loop {
            let page = page(connection, &listing).unwrap();
            assert!(page.entries.len() <= max_entries);
            found.extend(page.entries.iter().map(|entry| match entry {
                Entry::Version(version) => {
                    let latest = if version.is_latest { " latest" } else { "" };
                    let marker = if version.content.is_none() { " marker" } else { "" };
                    format!("{} {}{latest}{marker}", text(entry), version.id)
                }
                Entry::Prefix(_) => text(entry),
            }));
            match page.resume_entry() {
                None => return found,
                Some(Entry::Version(version)) => {
                    listing.resume = Some(Resume::AfterKey(version.key.clone()));
                    listing.shown = Shown::Versions { behind: Some(version.id) };
                }
                Some(Entry::Prefix(prefix)) => {
                    listing.resume = Some(Resume::after(prefix, &listing.prefix, delimiter));
                    listing.shown = Shown::Versions { behind: None };
                }
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

        #[test]
        fn pages_of_any_size_give_all_versions_newest_first_and_only_the_living_objects(
            writes in proptest::collection::vec(("[ab/é]{1,3}", proptest::bool::weighted(0.3)), 0..60),
            prefix in "[ab/é]{0,2}",
            delimiter in proptest::option::of(prop_oneof![Just("/"), Just("a")]),
            max_entries in 1_usize..8,
        ) {
            let connection = empty_index();
            let mut versions = BTreeMap::<&str, Vec<(i64, bool)>>::new();
            for ((key, is_marker), number) in writes.iter().zip(1..) {
                add_latest(&connection, key, number, *is_marker);
                versions.entry(key).or_default().insert(0, (number, *is_marker));
            }
            let living =
                versions.iter().filter(|(_, of_key)| !of_key[0].1).map(|(key, _)| (*key).to_owned()).collect();
            prop_assert_eq!(
                walk(&connection, &prefix, delimiter, max_entries),
                expected(&living, &prefix, delimiter)
            );
            let mut all = Vec::new();
            for (key, of_key) in &versions {
                let Some(rest) = key.strip_prefix(prefix.as_str()) else { continue };
                match delimiter.and_then(|d| rest.find(d).map(|at| prefix.len() + at + d.len())) {
                    Some(end) => all.push(format!("{} (prefix)", &key[..end])),
                    None => all.extend(of_key.iter().enumerate().map(|(age, (number, is_marker))| {
                        let latest = if age == 0 { " latest" } else { "" };
                        let marker = if *is_marker { " marker" } else { "" };
                        format!("{key} {}{latest}{marker}", VersionId::Numbered(*number))
                    })),
                }
            }
            all.dedup();
            prop_assert_eq!(walk_versions(&connection, &prefix, delimiter, max_entries), all);
        }
    }

    #[test]
    fn a_page_searches_an_index_from_its_first_to_its_last_key() {
        let connection = empty_index();
        let plan = |sql: String| -> String {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let rows = statement.query_map(params!["b", b"a", b"c", 9], |row| row.get(3)).unwrap();
            rows.map(Result::unwrap).collect::<Vec<String>>().join("; ")
        };
        let range = "(bucket=? AND key>? AND key<?)";
        assert_eq!(
            plan(keys_sql(Shown::Objects)),
            format!("SEARCH version USING INDEX version_shown {range}")
        );
        let versions = keys_sql(Shown::Versions { behind: None });
        assert_eq!(plan(versions), format!("SEARCH version USING PRIMARY KEY {range}"));
        let older = "SEARCH version USING PRIMARY KEY (bucket=? AND key=? AND number<?)";
        assert_eq!(plan(older_sql()), older);
    }

    #[test]
    fn a_null_version_removed_between_two_pages_hides_no_other() {
        let connection = empty_index();
        for number in 1..=3 {
            add_latest(&connection, "a", number, false);
        }
        let mut listing = listing("", None, 9);
        listing.resume = Some(Resume::AfterKey("a".into()));
        listing.shown = Shown::Versions { behind: Some(VersionId::Null) };
        assert_eq!(page(&connection, &listing).unwrap().entries.len(), 3);
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
