//! The whole embedded stack: servers, buckets, table, sample model, worker and status page, started in order.
//!
//! It never answers an image itself: the worker calls the same handler as Lambda does. Invariant: one process
//! holds a data folder, and what was uploaded and not answered goes on at the next start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use chrono::Utc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::listener::{ListenError, bind_loopback, endpoint_url};
use super::queue::{Queue, QueueError, dead_letter_queue};
use super::worker::{self, QUEUE_SETTINGS};
use super::{DataDirLock, LocalError, LockError, ServerSettings, Servers, Subscription, credentials, status};
use crate::aws::Clients;
use crate::config::{Config, ConfigError};
use crate::handler::Handler;
use crate::pipeline::Pipeline;
use crate::store::{StoreError, TableReader, create_table};

/// Bucket that images are uploaded to.
pub const INPUT_BUCKET: &str = "giemsa-input";
/// Bucket that models are copied to.
pub const MODEL_BUCKET: &str = "giemsa-models";
/// Bucket that results are written to.
pub const RESULTS_BUCKET: &str = "giemsa-results";
/// DynamoDB table.
pub const TABLE: &str = "giemsa";

/// The one stage of the embedded stack.
const STAGE: &str = "prod";

/// Batches that are worked on at once: while one waits for the disk, the other computes.
const WORKERS: usize = 2;

/// The model that is put in place where there is none.
const SAMPLE_MODEL: &[u8] = include_bytes!("../../models/thin-smear.onnx");

/// What the stack needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackSettings {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Port of S3; 0 takes any free one.
    pub s3_port: u16,
    /// Port of DynamoDB; 0 takes any free one.
    pub dynamodb_port: u16,
    /// Port of the status page; 0 takes any free one.
    pub http_port: u16,
    /// Whether to classify; without it uploads only queue up.
    pub run_worker: bool,
}

/// Why the stack could not start.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The data folder is held by another process.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The queue's file cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A server did not start.
    #[error(transparent)]
    Servers(#[from] LocalError),
    /// The status page's port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A bucket or the sample model could not be put in place.
    #[error("the embedded S3 does not take {what}: {detail}")]
    S3 {
        /// Bucket or model.
        what: String,
        /// What S3 says.
        detail: String,
    },
    /// The table could not be made.
    #[error(transparent)]
    Table(#[from] StoreError),
    /// A `GIEMSA_MAX_…` or other limit of the environment is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The running stack.
#[derive(Debug)]
pub struct Stack {
    /// SDK clients of its servers.
    pub clients: Clients,
    /// What its classifier was told.
    pub config: Config,
    /// Where the status page is.
    pub status: SocketAddr,
    /// Its queues.
    pub queue: Queue,
    servers: Servers,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    _lock: DataDirLock,
}

impl Stack {
    /// Starts everything; when this returns, uploads are answered.
    ///
    /// # Errors
    /// [`StackError`] if the folder or a port is in use, or anything cannot be put in place.
    pub async fn start(settings: &StackSettings) -> Result<Self, StackError> {
        let config = Config::embedded(STAGE, [INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET], TABLE)?;
        let lock = DataDirLock::acquire(&settings.data_dir)?;
        let queue = Queue::open(&settings.data_dir.join("queue.sqlite"))?;
        let queue_name = classify_queue();
        queue.declare(&queue_name, QUEUE_SETTINGS).await?;
        queue.release_in_flight(&queue_name, Utc::now()).await?;

        let status_listener = bind_loopback("the status page", settings.http_port, "--http-port")?;
        let status = status_listener.local_addr().map_err(|source| ListenError::Bind {
            server: "the status page",
            port: settings.http_port,
            flag: "--http-port",
            source,
        })?;
        let server_settings = ServerSettings {
            data_dir: settings.data_dir.clone(),
            s3_port: settings.s3_port,
            dynamodb_port: settings.dynamodb_port,
            subscriptions: vec![Subscription { bucket: INPUT_BUCKET.to_owned(), queue: queue_name.clone() }],
        };
        let servers = Servers::start(&server_settings, queue.clone()).await?;
        let clients = Clients::at(&endpoint_url(servers.s3), &endpoint_url(servers.dynamodb), credentials());
        furnish(&clients, &config).await?;

        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        if settings.run_worker {
            let pipeline = Pipeline::new(config.clone(), clients.clone());
            pipeline.warm_up().await;
            let handler = Arc::new(Handler::new(pipeline));
            for _ in 0..WORKERS {
                let work = worker::work(queue.clone(), queue_name.clone(), handler.clone(), stopped.clone());
                tasks.push(tokio::spawn(async move {
                    if let Err(error) = work.await {
                        tracing::error!(%error, "worker stopped; uploads queue up until the next start");
                    }
                }));
            }
        }
        let page = status::router(status::Source {
            table: TableReader::new(clients.dynamodb.clone(), &config.table),
            queue: queue.clone(),
            queue_name,
            stage: config.stage.clone(),
            address: status,
        });
        tasks.push(tokio::spawn(status::serve(status_listener, page, stopped)));
        Ok(Self { clients, config, status, queue, servers, stop, tasks, _lock: lock })
    }

    /// URL of S3.
    pub fn s3_url(&self) -> String {
        endpoint_url(self.servers.s3)
    }

    /// URL of DynamoDB.
    pub fn dynamodb_url(&self) -> String {
        endpoint_url(self.servers.dynamodb)
    }

    /// Uploads that have no answer yet, and those that were given up after all retries.
    ///
    /// # Errors
    /// [`QueueError`] if the queue's file fails.
    pub async fn unanswered(&self) -> Result<(u64, u64), QueueError> {
        let waiting = self.queue.depth(&classify_queue(), Utc::now()).await?;
        let dead = self.queue.depth(&dead_letter_queue(&classify_queue()), Utc::now()).await?;
        Ok((waiting.total(), dead.total()))
    }

    /// Stops: work in progress ends first, so that nothing has to be done twice.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of the stack panicked");
            }
        }
        self.servers.shutdown().await;
    }
}

fn classify_queue() -> String {
    format!("classify-{STAGE}")
}

/// Makes the buckets and the table, and puts the sample model where there is none.
async fn furnish(clients: &Clients, config: &Config) -> Result<(), StackError> {
    let failed = |what: &str, detail: String| StackError::S3 { what: what.to_owned(), detail };
    for bucket in [INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET] {
        let made = clients.s3.create_bucket().bucket(bucket).send().await;
        made.map_err(|error| failed(bucket, DisplayErrorContext(&error).to_string()))?;
    }
    let key = config.model_key();
    match clients.s3.head_object().bucket(MODEL_BUCKET).key(&key).send().await {
        Ok(_) => {}
        Err(error) if error.as_service_error().is_some_and(|e| e.is_not_found()) => {
            let model = ByteStream::from_static(SAMPLE_MODEL);
            let put = clients.s3.put_object().bucket(MODEL_BUCKET).key(&key).body(model).send().await;
            put.map_err(|error| failed("the sample model", DisplayErrorContext(&error).to_string()))?;
        }
        Err(error) => {
            return Err(failed("a question for the model", DisplayErrorContext(&error).to_string()));
        }
    }
    create_table(&clients.dynamodb, &config.table).await?;
    Ok(())
}

/// The embedded model, for `giemsa classify` without `--model`.
pub fn sample_model() -> &'static [u8] {
    SAMPLE_MODEL
}
