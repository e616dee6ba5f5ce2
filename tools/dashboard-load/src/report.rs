//! Percentiles as a table in Markdown.
//!
//! A percentile is a time that was measured (nearest rank), never one between two.

use std::time::Duration;

use crate::load::Times;

/// Prints requests, median, 95th percentile and longest time of each route.
pub fn print(title: &str, times: &Times) {
    println!("\n{title}\n\n| route | requests | p50 ms | p95 ms | longest ms |\n|---|---:|---:|---:|---:|");
    for (route, times) in times {
        let mut times = times.clone();
        times.sort_unstable();
        let ms = |share: f64| 1e3 * percentile(&times, share).as_secs_f64();
        println!("| {route} | {} | {:.0} | {:.0} | {:.0} |", times.len(), ms(0.5), ms(0.95), ms(1.0));
    }
}

/// The shortest time that at least `share` of all (0 to 1) are not longer than.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
