//! `giemsa results list`: current results, newest or most suspicious first.
//!
//! A list that could not be read to its end is an error.

use std::io::BufWriter;

use giemsa_store::Order;

use super::super::form::{Form, FormArguments};
use super::super::{Failed, complain};
use super::pages::Pages;
use super::rows::Rows;
use super::{Filters, deployment_of};

#[derive(Debug, clap::Args)]
pub struct ListArguments {
    #[command(flatten)]
    filters: Filters,
    /// What comes first.
    #[arg(long, value_enum, default_value_t = Sorting::Newest)]
    order: Sorting,
    /// Most results; export has no limit.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    form: FormArguments,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sorting {
    /// Latest upload.
    Newest,
    /// What a human should see first; needs --slide or --needs-review.
    Suspicion,
}

impl Sorting {
    pub(super) fn order(self) -> Order {
        match self {
            Self::Newest => Order::Newest,
            Self::Suspicion => Order::Suspicion,
        }
    }
}

/// Lists results.
pub(super) async fn run(stage: &str, arguments: &ListArguments) -> Result<(), Failed> {
    let form = arguments.form.form()?;
    let deployment = deployment_of(stage).await?;
    let query = arguments.filters.query(stage, arguments.order.order(), 1);
    let limit = arguments.limit as usize;
    let mut pages = Pages::of(deployment.table.clone(), query, Some(limit));
    let mut rows = Rows::new(BufWriter::new(std::io::stdout().lock()), form)?;
    while let Some(page) = pages.next().await? {
        for record in page {
            rows.write(record)?;
        }
    }
    let written = rows.written();
    drop(rows.finish()?);
    if form == Form::Table {
        match written {
            0 => complain("No results."),
            _ if written == u64::from(arguments.limit) => {
                complain(&format!("The first {written} results; --limit shows more."));
            }
            _ => {}
        }
    }
    Ok(())
}
