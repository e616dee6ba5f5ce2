//! The dashboard in the embedded stack: its server, and what it asks of queues and workers.
//!
//! Figures are those of the very queues and handlers that answer images.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use chrono::Utc;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::process::ClassifierProcess;
use super::queue::{Queue, QueueError, dead_letter_queue};
use giemsa_dashboard::{Operations, OperationsError, QueueFigures};

/// The queues and handlers of the stack.
#[derive(Debug)]
pub(crate) struct LocalOperations {
    pub queue: Queue,
    pub stages: Vec<LocalStage>,
    pub gate_queue: String,
}

/// What answers for one stage.
#[derive(Debug)]
pub(crate) struct LocalStage {
    pub stage: String,
    pub queue_name: String,
    /// Absent if nothing is classified.
    pub process: Option<Arc<ClassifierProcess>>,
}

impl LocalOperations {
    fn stage(&self, stage: &str) -> Option<&LocalStage> {
        self.stages.iter().find(|known| known.stage == stage)
    }

    async fn figures(&self, name: &str) -> Result<QueueFigures, OperationsError> {
        let failed = |error: QueueError| OperationsError { name: name.to_owned(), detail: error.to_string() };
        let now = Utc::now();
        let depth = self.queue.depth(name, now).await.map_err(failed)?;
        let dead = self.queue.depth(&dead_letter_queue(name), now).await.map_err(failed)?;
        Ok(QueueFigures {
            waiting: depth.visible + depth.delayed,
            in_flight: depth.in_flight,
            oldest_age_seconds: depth.oldest_age.map(|age| age.as_secs()),
            dead_letters: Some(dead.total()),
        })
    }
}

#[async_trait]
impl Operations for LocalOperations {
    async fn queue(&self, stage: &str) -> Result<Option<QueueFigures>, OperationsError> {
        match self.stage(stage) {
            Some(stage) => self.figures(&stage.queue_name).await.map(Some),
            None => Ok(None),
        }
    }

    async fn gate(&self) -> Result<Option<QueueFigures>, OperationsError> {
        self.figures(&self.gate_queue).await.map(Some)
    }

    fn refused(&self, stage: &str) -> Option<String> {
        self.stage(stage)?.process.as_ref()?.refusal()
    }
}

/// Serves until `stop` turns true.
pub(crate) async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        // An error means that the other side is gone, which is as good a reason to stop.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    // Not gracefully: a browser that keeps its connection open would hold up the end.
    tokio::select! {
        served = axum::serve(listener, router).into_future() => {
            if let Err(error) = served {
                tracing::error!(%error, "dashboard stopped");
            }
        }
        () = stopped => {}
    }
}
