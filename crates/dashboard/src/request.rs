//! What every route needs: parameters, pages, problems, answers that did not change, answers that many ask for.

pub(crate) mod cursor;
pub(crate) mod parameters;
pub(crate) mod problem;
pub(crate) mod revalidation;
pub(crate) mod single_flight;
