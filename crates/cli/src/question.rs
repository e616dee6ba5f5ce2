//! A question on the terminal before something that cannot be undone.
//!
//! Silence is not consent. Whoever stops waiting for the answer, as with Ctrl-C, returns at once.

use std::io::Write;

use anyhow::Context;
use tokio::sync::oneshot;

/// Asks, and returns whether the answer is yes.
///
/// # Errors
/// If the question cannot be written or the answer not be read.
pub async fn is_confirmed(question: &str) -> anyhow::Result<bool> {
    {
        let mut stderr = std::io::stderr().lock();
        write!(stderr, "{question} [y/N] ")?;
        stderr.flush()?;
    }
    let (sender, answer) = oneshot::channel();
    // A thread of its own: the runtime would wait for its own threads at Ctrl-C, until somebody presses Enter.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line).map(|_| line);
        // Nobody is left to hear it after Ctrl-C.
        let _ = sender.send(read);
    });
    let answer =
        answer.await.expect("the thread answers before it ends").context("the answer cannot be read")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
