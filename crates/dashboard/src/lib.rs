//! The query API and the web page: one router for Lambda and for the embedded stack.
//!
//! It never classifies and never deletes; what it writes are verdicts, withdrawals, uploads that a person chose, and
//! what is made of them for showing. Each request is checked by [`Access`] before any route sees it, and each list is
//! keyed, bounded and paged.

mod access;
mod health;
mod image;
mod models;
mod page;
mod pictures;
mod request;
mod results;
mod reviews;
mod slides;
mod uploads;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::{Router, middleware};

pub use access::sign_in::{Authorizer, Caller, Denied, SignIn};
pub use access::{Access, LinkOriginError, link_origins};
pub use health::operations::{Operations, OperationsError, QueueFigures, QueuePair, SqsOperations};
pub use pictures::Pictures;
pub use request::single_flight::SingleFlightCache;

use crate::access::Guard;
use crate::request::problem::Problem;
use giemsa_config::{Config, Limits};
use giemsa_store::{ModelBucket, TableReader, TableWriter};

/// Name and version of this software, as in records.
const SOFTWARE: &str = concat!("giemsa ", env!("CARGO_PKG_VERSION"));

/// Entries of a page unless it is asked otherwise.
const DEFAULT_LIMIT: u32 = 50;

/// Most entries of a page.
const MAX_LIMIT: u32 = 200;

/// All that the dashboard answers from.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Reads the table.
    pub table: TableReader,
    /// Writes verdicts.
    pub writer: TableWriter,
    /// S3.
    pub s3: aws_sdk_s3::Client,
    /// The three buckets.
    pub buckets: Buckets,
    /// All stages, the one whose answers count first; never empty.
    pub stages: Vec<String>,
    /// What images may be, as the classifier is told.
    pub limits: Limits,
    /// Queues and models behind the stages.
    pub operations: Arc<dyn Operations>,
    /// Who may ask, and from where.
    pub access: Access,
    /// How people sign in; `None` answers whoever is let through by `access`.
    pub sign_in: Option<SignIn>,
    /// What is made of images for showing.
    pub pictures: Pictures,
}

/// The buckets by their use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    /// Images are uploaded to it.
    pub input: String,
    /// Models, reports and golden sets.
    pub models: String,
    /// Results, thumbnails and pyramids.
    pub results: String,
    /// Key prefix of results, without a slash at its end.
    pub results_prefix: String,
}

impl Buckets {
    /// Those that the classifier is told of.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            input: config.input_bucket.clone(),
            models: config.model_bucket.clone(),
            results: config.results_bucket.clone(),
            results_prefix: config.results_prefix.clone(),
        }
    }
}

impl Dashboard {
    /// The model bucket as it is read here.
    fn model_files(&self) -> ModelBucket {
        ModelBucket::new(self.s3.clone(), &self.buckets.models)
    }
}

/// The page and its API.
pub fn router(dashboard: Dashboard) -> Router {
    let guard = Guard { access: dashboard.access.clone(), sign_in: dashboard.sign_in.clone() };
    // One line for each file with routes.
    let routes = Router::new()
        .merge(reviews::agreement::routes())
        .merge(page::assets::routes())
        .merge(reviews::golden_sets::routes())
        .merge(health::routes())
        .merge(image::routes())
        .merge(pictures::links::routes())
        .merge(models::routes())
        .merge(page::openapi::routes())
        .merge(pictures::pyramids::routes())
        .merge(results::routes())
        .merge(reviews::routes())
        .merge(page::settings::routes())
        .merge(access::sign_in::routes())
        .merge(slides::routes())
        .merge(slides::summary::routes())
        .merge(uploads::routes())
        .merge(reviews::withdrawals::routes());
    routes
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(request::parameters::MAX_BODY_BYTES))
        .layer(middleware::from_fn(request::revalidation::answer_unchanged))
        .layer(middleware::from_fn_with_state(Arc::new(guard), access::check))
        .with_state(Arc::new(dashboard))
}

async fn no_such_route(uri: Uri) -> Problem {
    let path = request::parameters::shown(uri.path());
    Problem::not_found(format!("there is nothing at {path:?}; the routes are listed in /api/openapi.json"))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let path = request::parameters::shown(uri.path());
    let method = request::parameters::shown(method.as_str());
    let detail = format!("{path:?} does not take {method}; its methods are in the header Allow");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}
