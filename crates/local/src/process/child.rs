//! The process that loads models and decodes images for the stack: orders in by standard input, reports out.
//!
//! It never outlives the stack: when standard input ends, so does it. It says what it is about to do before it does it.

use std::cell::Cell;
use std::io::{self, BufRead, Write};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::Value;
use tokio::sync::mpsc;

use super::crash_notes;
use super::protocol::{Begun, Duties, ModelState, Order, Report, Role, line_of};
use crate::{INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET, TABLE, credentials};
use giemsa::gate_handler::GateHandler;
use giemsa::handler::Handler;
use giemsa::pipeline::Pipeline;
use giemsa_config::{Config, ConfigError, GateConfig};
use giemsa_faults::{FaultSpec, Faults, FaultsError};
use giemsa_model::{Watch, Work};
use giemsa_store::aws::Clients;
use giemsa_store::metrics;

/// Why a process could not begin.
#[derive(Debug, thiserror::Error)]
pub enum DutiesError {
    /// Standard input holds no duties.
    #[error("`giemsa up` starts this by itself; standard input has to begin with its duties ({detail})")]
    Duties {
        /// What is wrong with it.
        detail: String,
    },
    /// A limit of the environment is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Faults cannot be injected.
    #[error(transparent)]
    Faults(#[from] FaultsError),
    /// Metrics cannot be written.
    #[error("metrics cannot be appended to {path}")]
    Metrics {
        /// The file.
        path: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// What answers.
enum Answerer {
    Stage(Box<Handler>),
    Gate(Box<GateHandler>),
}

/// Reads duties from standard input and carries out orders until it ends.
///
/// # Errors
/// [`DutiesError`] if it cannot begin.
pub async fn run() -> Result<(), DutiesError> {
    let duties = read_duties()?;
    let (sender, mut orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || read_orders(&sender));
    if let Some(path) = &duties.metrics_file {
        let file = std::fs::File::options().create(true).append(true).open(path);
        let failed = |source| DutiesError::Metrics { path: path.display().to_string(), source };
        metrics::write_to(file.map_err(failed)?);
    }
    let faults = match &duties.faults {
        Some(text) => Some(Arc::new(open_faults(text, &duties)?)),
        None => None,
    };
    let answerer = Arc::new(Answerer::begin(&duties, faults.clone()).await?);
    report(&Report::Ready { model: answerer.model() });
    while let Some(order) = orders.recv().await {
        match order {
            Order::Arm => faults.iter().for_each(|faults| faults.arm()),
            Order::Answer { id, event, time_ms } => {
                let (answerer, deadline) =
                    (answerer.clone(), Instant::now() + Duration::from_millis(time_ms));
                tokio::spawn(async move {
                    let answer = AssertUnwindSafe(answerer.answer(&event, deadline)).catch_unwind().await;
                    let answer = answer.unwrap_or_else(|_| Err("answering it panicked".to_owned()));
                    report(&Report::Answered { id, answer, model: answerer.model() });
                    if answerer.is_stuck() {
                        std::process::exit(1);
                    }
                });
            }
        }
    }
    Ok(())
}

impl Answerer {
    async fn begin(duties: &Duties, faults: Option<Arc<Faults>>) -> Result<Self, DutiesError> {
        let clients = Clients::at(&duties.s3_url, &duties.dynamodb_url, credentials());
        let role = duties.role.clone();
        let stage = match role {
            Role::Stage(stage) => Some(stage),
            Role::Gate => None,
        };
        let watch = Watch::new(move |work: Work<'_>| {
            // The gate tries one model at a time, on threads that change.
            let thread = if stage.is_none() { 0 } else { thread_number() };
            report(&Report::Begins { thread, work: Begun::from(work) });
            if let Some(faults) = &faults {
                faults.strike_work(stage.as_deref(), work);
            }
        });
        let config_of =
            |stage: &str| Config::embedded(stage, [INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET], TABLE);
        match &duties.role {
            Role::Stage(stage) => {
                let pipeline = Pipeline::new(config_of(stage)?, clients).watched_by(watch);
                pipeline.warm_up().await;
                Ok(Self::Stage(Box::new(Handler::new(pipeline))))
            }
            Role::Gate => {
                let limits = config_of(giemsa_config::PRODUCTION_STAGE)?.limits;
                let config = GateConfig { model_bucket: MODEL_BUCKET.to_owned(), limits };
                let crashes = crash_notes(&clients, &duties.role);
                let handler = GateHandler::new(config, clients.s3).guarded_by(Arc::new(crashes), watch);
                Ok(Self::Gate(Box::new(handler)))
            }
        }
    }

    async fn answer(&self, event: &Value, deadline: Instant) -> Result<Value, String> {
        match self {
            Self::Stage(handler) => {
                handler.handle(event, Some(deadline)).await.map_err(|error| error.to_string())
            }
            Self::Gate(handler) => {
                handler.handle(event, Some(deadline)).await.map_err(|error| error.to_string())
            }
        }
    }

    fn is_stuck(&self) -> bool {
        matches!(self, Self::Stage(handler) if handler.is_stuck())
    }

    fn model(&self) -> ModelState {
        match self {
            Self::Stage(handler) => {
                ModelState { serves: handler.has_model(), refusal: handler.model_refusal() }
            }
            Self::Gate(_) => ModelState { serves: true, refusal: None },
        }
    }
}

fn open_faults(text: &str, duties: &Duties) -> Result<Faults, DutiesError> {
    let spec = text.parse::<FaultSpec>();
    let spec = spec.map_err(|error| DutiesError::Duties { detail: error.to_string() })?;
    Ok(Faults::open(spec, &duties.data_dir)?.ending_also(duties.stack_pid))
}

fn read_duties() -> Result<Duties, DutiesError> {
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    let detail = |error: &dyn std::fmt::Display| DutiesError::Duties { detail: error.to_string() };
    read.map_err(|error| detail(&error))?;
    serde_json::from_str(&line).map_err(|error| detail(&error))
}

/// Passes orders on; ends the process with the stack, whatever it is doing.
fn read_orders(orders: &mpsc::UnboundedSender<Order>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            // Nobody listens any more if it could not begin, which it says itself.
            Ok(order) => drop(orders.send(order)),
            Err(error) => tracing::error!(%error, "cannot read an order of the stack"),
        }
    }
    std::process::exit(0)
}

/// Whole lines in one call each, before the work they tell of.
fn report(report: &Report) {
    let mut stdout = io::stdout().lock();
    if stdout.write_all(&line_of(report)).and_then(|()| stdout.flush()).is_err() {
        // The stack is gone.
        std::process::exit(0)
    }
}

/// A number of this thread's own.
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! { static NUMBER: Cell<u64> = const { Cell::new(0) } }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}
