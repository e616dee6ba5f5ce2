//! What runs behind the stages: their queues, and whether their model serves.
//!
//! What cannot be known is absent, never zero.

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use serde::Serialize;

use giemsa_store::queues::{QueueClient, QueueClientError};

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QueueFigures {
    /// Waiting for their turn, or for their next try.
    pub waiting: u64,
    /// Being answered.
    pub in_flight: u64,
    /// Age of the oldest, seconds; absent if the queue is empty or does not say.
    pub oldest_age_seconds: Option<u64>,
    /// Given up after all tries; absent if no dead-letter queue is known.
    pub dead_letters: Option<u64>,
}

/// Why a queue cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("the queue of {name:?} cannot be looked at: {detail}")]
pub struct OperationsError {
    /// The stage, or `gate`.
    pub name: String,
    /// What the queue says.
    pub detail: String,
}

/// What runs behind the stages; of the embedded stack, or on AWS.
#[async_trait]
pub trait Operations: Debug + Send + Sync {
    /// The queue of a stage's uploads; `None` if it is not known.
    ///
    /// # Errors
    /// [`OperationsError`].
    async fn queue(&self, stage: &str) -> Result<Option<QueueFigures>, OperationsError>;

    /// The queue of the model bucket's notifications; `None` if it is not known.
    ///
    /// # Errors
    /// [`OperationsError`].
    async fn gate(&self) -> Result<Option<QueueFigures>, OperationsError>;

    /// Why the file in the place of the stage's model does not serve, if it is known to be refused.
    fn refused(&self, stage: &str) -> Option<String>;
}

/// Queues of SQS. They say nothing of the age of a message: that is a metric.
#[derive(Debug, Clone)]
pub struct SqsOperations {
    /// Queue and dead-letter queue, by stage.
    pub stages: BTreeMap<String, QueuePair>,
    /// The gate's.
    pub gate: Option<QueuePair>,
}

/// A queue and where its dead letters go.
#[derive(Debug, Clone)]
pub struct QueuePair {
    /// The queue.
    pub queue: QueueClient,
    /// Its dead-letter queue, if it is known.
    pub dead_letters: Option<QueueClient>,
}

impl QueuePair {
    async fn figures(&self) -> Result<QueueFigures, QueueClientError> {
        let depth = self.queue.depth().await?;
        let dead_letters = match &self.dead_letters {
            Some(queue) => Some(queue.depth().await?.total()),
            None => None,
        };
        Ok(QueueFigures {
            waiting: depth.visible + depth.delayed,
            in_flight: depth.in_flight,
            oldest_age_seconds: None,
            dead_letters,
        })
    }
}

async fn figures_of(name: &str, pair: Option<&QueuePair>) -> Result<Option<QueueFigures>, OperationsError> {
    let Some(pair) = pair else { return Ok(None) };
    let failed =
        |error: QueueClientError| OperationsError { name: name.to_owned(), detail: error.to_string() };
    pair.figures().await.map(Some).map_err(failed)
}

#[async_trait]
impl Operations for SqsOperations {
    async fn queue(&self, stage: &str) -> Result<Option<QueueFigures>, OperationsError> {
        figures_of(stage, self.stages.get(stage)).await
    }

    async fn gate(&self) -> Result<Option<QueueFigures>, OperationsError> {
        figures_of("gate", self.gate.as_ref()).await
    }

    /// Another function serves, and its metric `ModelRefused` tells.
    fn refused(&self, _: &str) -> Option<String> {
        None
    }
}
