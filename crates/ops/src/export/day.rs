//! Days of the results prefix, and what S3 lists of them.
//!
//! Objects come in the order of their keys, or not at all.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::types::EncodingType;
use chrono::NaiveDate;
use futures::stream::{self, Stream};

use super::ExportError;
use giemsa_config::COMPACTED_PREFIX;
use giemsa_store::listed_key;

/// Rows of one compacted file; a day of more has several.
pub const COMPACTED_ROWS: u64 = 250_000;

/// How [`DayDate::Unknown`] is written.
const UNKNOWN: &str = "unknown";

/// Upload date of a folder of the results prefix, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DayDate {
    /// A day.
    Day(NaiveDate),
    /// Of images whose upload time nobody knows.
    Unknown,
}

impl fmt::Display for DayDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day(day) => write!(f, "{}", day.format("%Y-%m-%d")),
            Self::Unknown => f.write_str(UNKNOWN),
        }
    }
}

impl FromStr for DayDate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == UNKNOWN {
            return Ok(Self::Unknown);
        }
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d");
        day.map(Self::Day)
            .map_err(|_| format!("expected a date such as 2026-11-22 (UTC), or {UNKNOWN}: found {text:?}"))
    }
}

/// One day of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    /// The stage.
    pub stage: String,
    /// Upload date.
    pub date: DayDate,
}

/// An object as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) key: String,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) size_bytes: u64,
}

/// The results bucket.
#[derive(Debug, Clone)]
pub(super) struct ResultsBucket {
    pub(super) s3: Client,
    pub(super) name: String,
    pub(super) prefix: String,
}

impl ResultsBucket {
    /// Where the result objects of a day are, with the slash.
    pub(super) fn json_folder(&self, day: &Day) -> String {
        format!("{}/stage={}/date={}/", self.prefix, day.stage, day.date)
    }

    /// Where the compacted files of a day are, with the slash.
    pub(super) fn part_folder(&self, day: &Day) -> String {
        format!("{COMPACTED_PREFIX}/stage={}/date={}/", day.stage, day.date)
    }

    pub(super) fn address(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    pub(super) fn failed<E>(&self, what: &'static str, key: &str, error: &SdkError<E>) -> ExportError
    where
        E: std::error::Error + 'static,
    {
        self.failed_with(what, key, DisplayErrorContext(error).to_string())
    }

    pub(super) fn failed_with(&self, what: &'static str, key: &str, detail: String) -> ExportError {
        ExportError::Request { what, bucket: self.name.clone(), key: key.to_owned(), detail }
    }

    /// Days of a stage that have a folder, in order.
    pub(super) async fn days(&self, stage: &str) -> Result<Vec<Day>, ExportError> {
        let start = format!("{}/stage={stage}/date=", self.prefix);
        let request = self.s3.list_objects_v2().bucket(&self.name).prefix(&start).delimiter("/");
        let mut pages = request.encoding_type(EncodingType::Url).into_paginator().send();
        let mut days = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| self.failed("ListObjectsV2", &start, &e))?;
            let folders = page.common_prefixes().iter().filter_map(|folder| folder.prefix());
            days.extend(folders.filter_map(|folder| {
                let folder = listed_key(page.encoding_type(), folder);
                let date = folder.strip_prefix(&start)?.trim_end_matches('/').parse().ok()?;
                Some(Day { stage: stage.to_owned(), date })
            }));
        }
        days.sort_by_key(|day| day.date);
        Ok(days)
    }

    /// All objects below a folder in the order of their keys, a page in memory at a time.
    pub(super) fn objects(&self, folder: String) -> impl Stream<Item = Result<Listed, ExportError>> {
        let state = Listing { bucket: self.clone(), folder, page: VecDeque::new(), last: None, more: true };
        stream::try_unfold(state, |mut listing| async move {
            while listing.page.is_empty() && listing.more {
                listing.turn_page().await?;
            }
            Ok(listing.page.pop_front().map(|object| (object, listing)))
        })
    }
}

/// How far a listing has come.
struct Listing {
    bucket: ResultsBucket,
    folder: String,
    page: VecDeque<Listed>,
    last: Option<String>,
    more: bool,
}

impl Listing {
    async fn turn_page(&mut self) -> Result<(), ExportError> {
        let ResultsBucket { s3, name, .. } = &self.bucket;
        let request = s3.list_objects_v2().bucket(name).prefix(&self.folder);
        // By key, not by token: objects of earlier pages may be deleted meanwhile. Keys can hold what XML cannot.
        let request = request.set_start_after(self.last.clone()).encoding_type(EncodingType::Url);
        let page = request.send().await.map_err(|e| self.bucket.failed("ListObjectsV2", &self.folder, &e))?;
        for object in page.contents() {
            let key = listed_key(page.encoding_type(), object.key().unwrap_or_default());
            if self.last.as_ref().is_some_and(|last| *last >= key) {
                return Err(ExportError::Order {
                    bucket: name.clone(),
                    prefix: self.folder.clone(),
                    key: key.clone(),
                });
            }
            let etag = object.e_tag().unwrap_or_default().trim_matches('"').to_owned();
            let size_bytes = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
            self.last = Some(key.clone());
            self.page.push_back(Listed { key, etag, size_bytes });
        }
        self.more = page.is_truncated() == Some(true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_or_unknown() {
        for text in ["2026-11-22", "unknown"] {
            assert_eq!(text.parse::<DayDate>().unwrap().to_string(), text);
        }
        for text in ["", "22.11.2026", "2026-13-01", "2026-11-22T00:00:00Z"] {
            assert!(text.parse::<DayDate>().unwrap_err().contains("2026-11-22 (UTC)"), "{text}");
        }
    }
}
