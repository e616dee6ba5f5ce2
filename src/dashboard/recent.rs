//! What was counted a moment ago, for the many pages that ask for it again and again.
//!
//! It never keeps an answer longer than it was told to. Invariant: of several that ask for the same at once, one counts
//! and the others have its answer; a failure is nobody's answer but the one's who met it.

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::problem::Problem;

/// Answers that are kept at most; more are different questions, which no page that polls asks.
const MAX_KEPT: usize = 64;

/// Answers by their question.
#[derive(Debug)]
pub(super) struct Recent<T> {
    age: Duration,
    kept: Mutex<HashMap<String, (Instant, T)>>,
}

impl<T: Clone> Recent<T> {
    /// Keeps answers for `age`.
    pub(super) fn new(age: Duration) -> Self {
        Self { age, kept: Mutex::default() }
    }

    /// The answer to `question`, counted by `count` unless that was done within the age.
    ///
    /// # Errors
    /// What `count` fails with.
    pub(super) async fn answer<F>(&self, question: &str, count: F) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Problem>>,
    {
        // Held while it counts, so that several pages at once count once.
        let mut kept = self.kept.lock().await;
        if let Some((at, answer)) = kept.get(question)
            && at.elapsed() < self.age
        {
            return Ok(answer.clone());
        }
        let answer = count.await?;
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(question.to_owned(), (Instant::now(), answer.clone()));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::http::StatusCode;

    use super::*;

    #[tokio::test]
    async fn one_of_many_counts_and_failures_are_not_kept() {
        let (recent, counted) = (Recent::new(Duration::from_secs(600)), AtomicU32::new(0));
        let count = async || {
            tokio::task::yield_now().await;
            Ok(counted.fetch_add(1, Ordering::Relaxed))
        };
        let failed =
            recent.answer("prod", async { Err(Problem::internal(&std::io::Error::other("down"))) }).await;
        assert_eq!(failed.unwrap_err().status, StatusCode::INTERNAL_SERVER_ERROR);
        let both = tokio::join!(recent.answer("prod", count()), recent.answer("prod", count()));
        assert_eq!((both.0.unwrap(), both.1.unwrap()), (0, 0));
        assert_eq!(recent.answer("dev", count()).await.unwrap(), 1);
        assert_eq!(Recent::new(Duration::ZERO).answer("prod", count()).await.unwrap(), 2);
    }
}
