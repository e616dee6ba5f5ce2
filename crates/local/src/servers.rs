//! The servers of the local stack: S3 that notifies the queue, and DynamoDB.
//!
//! With faults, clients reach both through the fault injector. Both ports are bound before either serves, so that a
//! port in use leaves nothing half started.

pub mod dynamodb;
pub mod listener;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::Credentials;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::dynamodb::DynamoDbError;
use self::listener::{ListenError, SHUTDOWN_GRACE};
use super::cloudwatch::ServiceCounts;
use super::faulty::server::{Front, Protocol};
use super::queue::{Queue, QueueError};
use super::s3::{self, BrowserOrigins, LOCAL_ACCESS_KEY_ID, LOCAL_SECRET_ACCESS_KEY, LocalS3, StoreError};
use giemsa_faults::Faults;

/// Sends a notification to `queue` for every object created in `bucket`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The bucket; it need not exist yet.
    pub bucket: String,
    /// A declared queue.
    pub queue: String,
}

/// What the servers need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// The data folder; objects go to `s3/` in it, tables to `dynamodb.sqlite`.
    pub data_dir: PathBuf,
    /// The port of S3 on 127.0.0.1; 0 takes any free port.
    pub s3_port: u16,
    /// The port of DynamoDB on 127.0.0.1; 0 takes any free port.
    pub dynamodb_port: u16,
    /// Who is told of new objects; a bucket can have several.
    pub subscriptions: Vec<Subscription>,
    /// Origins whose pages may use S3 from a browser, e.g. `http://127.0.0.1:8080`.
    pub browser_origins: Vec<String>,
}

/// Why the local stack could not start.
#[derive(Debug, Error)]
pub enum LocalError {
    /// A port could not be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The objects could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tables could not be opened.
    #[error(transparent)]
    DynamoDb(#[from] DynamoDbError),
    /// A subscription names a queue that does not exist.
    #[error("bucket `{bucket}` cannot notify its queue")]
    Subscription {
        /// The bucket.
        bucket: String,
        /// What is wrong with the queue.
        #[source]
        source: QueueError,
    },
}

/// The running servers.
#[derive(Debug)]
pub struct Servers {
    /// Where S3 listens.
    pub s3: SocketAddr,
    /// Where DynamoDB listens.
    pub dynamodb: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Starts both servers; when this returns they accept connections.
    ///
    /// # Errors
    /// [`LocalError`] if a port is in use, the data folder cannot be used or a subscription names no declared queue.
    pub async fn start(settings: &ServerSettings, queue: Queue) -> Result<Self, LocalError> {
        Self::start_counted(None, settings, queue).await
    }

    /// As [`Servers::start`]; clients reach the servers through the fault injector.
    ///
    /// # Errors
    /// As [`Servers::start`].
    pub async fn start_behind(
        faults: Arc<Faults>,
        settings: &ServerSettings,
        queue: Queue,
    ) -> Result<Self, LocalError> {
        Self::start_counted(Some((faults, Arc::default())), settings, queue).await
    }

    /// As [`Servers::start`], or [`Servers::start_behind`] of faults that count what they refuse.
    pub(crate) async fn start_counted(
        faults: Option<(Arc<Faults>, Arc<ServiceCounts>)>,
        settings: &ServerSettings,
        queue: Queue,
    ) -> Result<Self, LocalError> {
        for Subscription { bucket, queue: name } in &settings.subscriptions {
            let error = |source| LocalError::Subscription { bucket: bucket.clone(), source };
            queue.require(name).await.map_err(error)?;
        }
        let s3_listener = listener::bind_loopback("S3", settings.s3_port, "--s3-port")?;
        let dynamodb_listener =
            listener::bind_loopback("DynamoDB", settings.dynamodb_port, "--dynamodb-port")?;
        let s3_address = address_of(&s3_listener, "S3", settings.s3_port, "--s3-port")?;
        let dynamodb_address =
            address_of(&dynamodb_listener, "DynamoDB", settings.dynamodb_port, "--dynamodb-port")?;

        let store = LocalS3::open(&settings.data_dir.join("s3"), &queue, &settings.subscriptions).await?;
        let database = dynamodb::open(&settings.data_dir.join("dynamodb.sqlite"))?;
        let origins = BrowserOrigins::new(&settings.browser_origins);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        let (s3_listener, dynamodb_listener) = match faults {
            None => (s3_listener, dynamodb_listener),
            Some((faults, counts)) => {
                let mut behind = |listener, protocol, server, flag| {
                    let inner = listener::bind_loopback(server, 0, flag)?;
                    let upstream = address_of(&inner, server, 0, flag)?;
                    let (faults, counts, origins) = (faults.clone(), counts.clone(), origins.clone());
                    let front = Front { faults, counts, protocol, upstream, origins };
                    tasks.push(tokio::spawn(front.serve(listener, stopped.clone())));
                    Ok::<_, ListenError>(inner)
                };
                let s3 = behind(s3_listener, Protocol::S3, "S3", "--s3-port")?;
                (s3, behind(dynamodb_listener, Protocol::DynamoDb, "DynamoDB", "--dynamodb-port")?)
            }
        };
        tasks.extend([
            tokio::spawn(listener::serve(s3_listener, s3::service(store, origins), stopped.clone())),
            tokio::spawn(dynamodb::serve(dynamodb_listener, database, stopped)),
        ]);
        Ok(Self { s3: s3_address, dynamodb: dynamodb_address, stop, tasks })
    }

    /// Stops both servers, after requests in progress have had time to finish.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        for mut task in self.tasks {
            // dynoxide waits for its clients without end, so the limit is ours.
            let limit = SHUTDOWN_GRACE + Duration::from_secs(1);
            if tokio::time::timeout(limit, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

fn address_of(
    listener: &TcpListener,
    server: &'static str,
    port: u16,
    flag: &'static str,
) -> Result<SocketAddr, ListenError> {
    listener.local_addr().map_err(|source| ListenError::Bind { server, port, flag, source })
}

/// The keys that the local servers accept, for SDK clients.
#[must_use]
pub fn credentials() -> Credentials {
    Credentials::new(LOCAL_ACCESS_KEY_ID, LOCAL_SECRET_ACCESS_KEY, None, None, "giemsa-local")
}
