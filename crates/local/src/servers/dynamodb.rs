//! The DynamoDB of the local stack: dynoxide on one SQLite file, spoken to over HTTP like the real one.
//!
//! Never throttles and always reads consistently, unlike the real one: `faults` does that in front of it. What was
//! answered with success is in the file.

use std::path::{Path, PathBuf};

use dynoxide::Database;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Why the local DynamoDB could not start.
#[derive(Debug, Error)]
pub enum DynamoDbError {
    /// The file is not one of dynoxide, or its folder cannot be written to.
    #[error("cannot open the tables in `{}`: {message}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What dynoxide said.
        message: String,
    },
}

/// Opens or creates the file that holds the tables.
///
/// # Errors
/// [`DynamoDbError::Open`] if it cannot be opened.
pub fn open(path: &Path) -> Result<Database, DynamoDbError> {
    let error = |message: String| DynamoDbError::Open { path: path.to_owned(), message };
    let text = path.to_str().ok_or_else(|| error("the path must be UTF-8".to_owned()))?;
    Database::new(text).map_err(|cause| error(cause.to_string()))
}

/// Serves `database` on `listener` until `stop` turns true.
pub(crate) async fn serve(listener: TcpListener, database: Database, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        // An error means that the other side is gone, which is as good a reason to stop.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(message) = dynoxide::server::serve_with_shutdown(listener, database, stopped).await {
        tracing::error!(message, "local dynamodb stopped");
    }
}
