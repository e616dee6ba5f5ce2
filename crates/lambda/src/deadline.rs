//! When an invocation ends, for the functions that work on events.
//!
//! It never takes a length of time for a moment. A deadline is on the clock that never jumps.

use std::time::{Duration, Instant, SystemTime};

/// Lambda's limit.
const LONGEST_INVOCATION: Duration = Duration::from_secs(15 * 60);

/// The same moment on the clock that never jumps; one that has just passed is now.
///
/// `cargo lambda` sends a length of time where Lambda sends a moment, which reads as 1970: that is not a deadline.
pub fn instant_of(deadline: SystemTime) -> Option<Instant> {
    let now = SystemTime::now();
    let is_moment =
        now.duration_since(deadline).is_ok_and(|passed| passed < LONGEST_INVOCATION) || deadline > now;
    is_moment.then(|| Instant::now() + deadline.duration_since(now).unwrap_or_default())
}
