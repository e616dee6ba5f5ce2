//! Results of the table, page after page; at most three pages are in memory.
//!
//! An incomplete read is an error, never a shorter list.

use giemsa_core::record::Record;
use giemsa_store::{QueryError, ResultQuery, TableReader};
use tokio::sync::mpsc;

use super::super::Failed;

/// Results that are asked for at once.
pub(super) const PAGE: usize = 1_000;

/// Results of a question, in its order.
pub(super) struct Pages(mpsc::Receiver<Result<Vec<Record>, QueryError>>);

impl Pages {
    /// Asks for the first `max` results, or for all; the next page is read while one is written.
    pub(super) fn of(table: TableReader, mut query: ResultQuery, max: Option<usize>) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let (mut left, mut after) = (max.unwrap_or(usize::MAX), None);
            while left > 0 {
                query.limit = left.min(PAGE);
                let page = table.results(&query, after.as_deref()).await;
                let is_sent = match page {
                    Ok(page) => {
                        left -= page.results.len().min(left);
                        after = page.next;
                        sender.send(Ok(page.results)).await.is_ok()
                    }
                    Err(error) => {
                        after = None;
                        sender.send(Err(error)).await.is_ok()
                    }
                };
                if !is_sent || after.is_none() {
                    break;
                }
            }
        });
        Self(receiver)
    }

    /// The next page, or `None` after the last. A page can be empty before the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Record>>, Failed> {
        self.0.recv().await.transpose().map_err(failed)
    }
}

/// A question that the table cannot answer is a wrong usage; all else went wrong.
pub(super) fn failed(error: QueryError) -> Failed {
    match error {
        QueryError::Unsupported { .. } => Failed::Usage(error.into()),
        _ => Failed::Work(error.into()),
    }
}
