//! Asks the dashboard of a running `giemsa up` as many clients do, while images are uploaded, and prints percentiles.
//!
//! Every answer that is counted was a 200 with a whole body; another ends the run.

mod http;
mod load;
mod report;
mod seed;
mod stack;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Measures the query API under load.
#[derive(Debug, Parser)]
struct Arguments {
    /// Results in the table before the first request.
    #[arg(long, default_value_t = 100_000)]
    results: usize,
    /// Images of each slide.
    #[arg(long, default_value_t = 200)]
    slide: usize,
    /// Clients that ask one request after the other.
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Seconds of load.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Images uploaded a second while clients ask.
    #[arg(long, default_value_t = 10)]
    uploads: u32,
    /// The `giemsa` program; default: the one beside this program.
    #[arg(long)]
    giemsa: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let stack = stack::start(arguments.giemsa.as_deref(), folder.path()).await?;
    let seeded = seed::fill(&stack, arguments.results, arguments.slide).await?;

    // Once, so that figures that nobody asked for yet are not in every later line.
    let first = load::first_view(&stack.dashboard).await?;
    println!("first view after {} results: {:.0} ms", arguments.results, 1e3 * first.as_secs_f64());
    let alone = load::run(&stack, &seeded, 1, Duration::from_secs(arguments.seconds.min(20)), 0).await?;
    report::print("1 client, no uploads", &alone);
    let loaded = load::run(
        &stack,
        &seeded,
        arguments.clients,
        Duration::from_secs(arguments.seconds),
        arguments.uploads,
    )
    .await?;
    report::print(&format!("{} clients, {} uploads a second", arguments.clients, arguments.uploads), &loaded);
    Ok(())
}
