//! Answers of a moment ago, for the many that ask for the same again and again.
//!
//! Of several that ask the same question at once, one finds the answer out and the others have it, be it a failure;
//! whoever asks another question waits for none of them.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Answers that are kept at most; more are different questions, which no page that polls asks.
const MAX_KEPT: usize = 64;

/// How long a failure is the answer: whoever waited for it does not wait again for what is away.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// When a question was answered and how; locked while somebody finds it out.
type Slot<T, E> = Arc<tokio::sync::Mutex<Option<(Instant, Result<T, E>)>>>;

/// Answers by their question.
#[derive(Debug)]
pub struct SingleFlightCache<T, E> {
    age: Duration,
    kept: Mutex<HashMap<String, Slot<T, E>>>,
}

impl<T: Clone, E: Clone> SingleFlightCache<T, E> {
    /// Keeps answers for `age`, failures for at most a second.
    #[must_use]
    pub fn new(age: Duration) -> Self {
        Self { age, kept: Mutex::default() }
    }

    /// The answer to `question`, found out by `find` unless that was done within the age.
    ///
    /// # Errors
    /// What `find` fails with, or failed with a moment ago.
    pub async fn answer(&self, question: &str, find: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let slot = self.slot(question);
        let mut kept = slot.lock().await;
        if let Some((at, answer)) = &*kept {
            let age = if answer.is_ok() { self.age } else { self.age.min(FAILED_FOR) };
            if at.elapsed() < age {
                return answer.clone();
            }
        }
        let answer = find.await;
        *kept = Some((Instant::now(), answer.clone()));
        answer
    }

    fn slot(&self, question: &str) -> Slot<T, E> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT && !kept.contains_key(question) {
            kept.clear();
        }
        kept.entry(question.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_of_many_finds_out_and_the_others_have_its_answer() {
        let counted = AtomicU32::new(0);
        let recent = SingleFlightCache::<u32, u32>::new(Duration::from_secs(600));
        let count = async || {
            tokio::task::yield_now().await;
            Ok(counted.fetch_add(1, Ordering::Relaxed))
        };
        let both = tokio::join!(recent.answer("prod", count()), recent.answer("prod", count()));
        assert_eq!(both, (Ok(0), Ok(0)));
        assert_eq!(recent.answer("dev", count()).await, Ok(1));
        assert_eq!(SingleFlightCache::<u32, u32>::new(Duration::ZERO).answer("prod", count()).await, Ok(2));
    }

    #[tokio::test]
    async fn all_who_waited_for_a_failure_have_it_at_once_and_it_is_forgotten_after_a_moment() {
        let tried = AtomicU32::new(0);
        let fail = async || {
            tokio::task::yield_now().await;
            Err(tried.fetch_add(1, Ordering::Relaxed))
        };
        let recent = SingleFlightCache::<(), u32>::new(Duration::from_secs(600));
        let ask = || recent.answer("prod", fail());
        assert_eq!(tokio::join!(ask(), ask(), ask()), (Err(0), Err(0), Err(0)));
        let slot = recent.slot("prod");
        slot.lock().await.as_mut().unwrap().0 -= FAILED_FOR;
        assert_eq!(recent.answer("prod", async { Ok(()) }).await, Ok(()));
    }

    #[tokio::test]
    async fn whoever_asks_something_else_does_not_wait() {
        let recent = SingleFlightCache::<u32, u32>::new(Duration::from_secs(600));
        let mut stuck = std::pin::pin!(recent.answer("prod", std::future::pending()));
        assert!(futures::poll!(&mut stuck).is_pending());
        let mut other = std::pin::pin!(recent.answer("dev", async { Ok(1) }));
        assert_eq!(futures::poll!(&mut other), std::task::Poll::Ready(Ok(1)));
    }
}
