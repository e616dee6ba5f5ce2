//! The whole embedded stack: servers, buckets, table, stages, gate and dashboard, started in order.
//!
//! It never answers an image itself: each stage has a process of its own, which calls the same handlers as Lambda does.
//! Each stage has its own queue, workers and model, fed by the same uploads, so that production does not notice what
//! development does. One process holds a data folder, and what was uploaded and not answered goes on at the next start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::Utc;
use futures::{StreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cloudwatch::{self, ServiceCounts, ServiceEvent};
use super::dashboard::{self, LocalOperations, LocalStage};
use super::process::{ClassifierProcess, Duties, Role};
use super::queue::{Queue, QueueError, dead_letter_queue};
use super::seed::{SAMPLE_MODEL, first_report, seed};
use super::servers::listener::{ListenError, bind_loopback, endpoint_url};
use super::sign_in::authorizer::TokenAuthorizer;
use super::sqs::SqsServer;
use super::worker::{self, BACKFILL, CLASSIFY, GATE, WorkerContext};
use super::{DataDirLock, LocalError, LockError, ServerSettings, Servers, Subscription, credentials};
use giemsa_config::local::{INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET, TABLE};
use giemsa_config::{Config, ConfigError, DEVELOPMENT_STAGE, PRODUCTION_STAGE, SignInSettings};
use giemsa_dashboard::{Access, Buckets, Dashboard, Pictures, SignIn, router};
use giemsa_faults::{FaultSpec, Faults, FaultsError};
use giemsa_store::aws::Clients;
use giemsa_store::{StoreError, TableReader, TableWriter};

/// Queue of the model bucket's notifications.
const GATE_QUEUE: &str = "gate";

/// Batches of production that are worked on at once: while one waits for the disk, the other computes.
const WORKERS: usize = 2;

/// What the stack needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackSettings {
    /// The `giemsa` command, which is started for each stage.
    pub program: PathBuf,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Port of S3; 0 takes any free one.
    pub s3_port: u16,
    /// Port of DynamoDB; 0 takes any free one.
    pub dynamodb_port: u16,
    /// Port of SQS; 0 takes any free one.
    pub sqs_port: u16,
    /// Port of the dashboard; 0 takes any free one.
    pub http_port: u16,
    /// Whether to classify; without it uploads only queue up.
    pub run_worker: bool,
    /// Whether there is a stage `dev` besides `prod`.
    pub with_development: bool,
    /// What is to go wrong on purpose, once everything is started.
    pub faults: Option<FaultSpec>,
    /// Where the readers of the dashboard sign in; without it everybody on this machine is one.
    pub sign_in: Option<SignInSettings>,
    /// File that [`giemsa_store::metrics`] are appended to; with it also what CloudWatch would know of queues, functions and table.
    pub metrics_file: Option<PathBuf>,
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
    /// The dashboard's port cannot be had.
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
    /// Faults cannot be injected.
    #[error(transparent)]
    Faults(#[from] FaultsError),
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
    /// What its classifier of production was told.
    pub config: Config,
    /// Where the dashboard is.
    pub dashboard: SocketAddr,
    /// Its queues.
    pub queue: Queue,
    /// What goes wrong on purpose.
    pub faults: Option<Arc<Faults>>,
    servers: Servers,
    sqs: SqsServer,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    processes: Processes,
    _lock: DataDirLock,
}

/// The processes that answer, which end with the stack.
#[derive(Debug, Default)]
struct Processes(Vec<Arc<ClassifierProcess>>);

impl Processes {
    fn of_stage(&self, stage: &str) -> Option<&Arc<ClassifierProcess>> {
        self.0.iter().find(|process| process.is_of_stage(stage))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.0.iter().for_each(|process| process.stop());
    }
}

impl Stack {
    /// Starts everything; when this returns, uploads are answered.
    ///
    /// # Errors
    /// [`StackError`] if the folder or a port is in use, or anything cannot be put in place.
    pub async fn start(settings: &StackSettings) -> Result<Self, StackError> {
        let mut stages = vec![PRODUCTION_STAGE];
        if settings.with_development {
            stages.push(DEVELOPMENT_STAGE);
        }
        let config_of =
            |stage: &str| Config::embedded(stage, [INPUT_BUCKET, MODEL_BUCKET, RESULTS_BUCKET], TABLE);
        let configs =
            stages.iter().map(|stage| config_of(stage)).collect::<Result<Vec<Config>, ConfigError>>()?;
        let config = configs[0].clone();
        let lock = DataDirLock::acquire(&settings.data_dir)?;
        let queue = Queue::open(&settings.data_dir.join("queue.sqlite"))?;
        let mut subscriptions = vec![(MODEL_BUCKET, GATE_QUEUE.to_owned(), GATE)];
        subscriptions.extend(stages.iter().map(|stage| (INPUT_BUCKET, classify_queue(stage), CLASSIFY)));
        let counts = Arc::new(ServiceCounts::default());
        let backfills = stages.iter().map(|stage| (backfill_queue(stage), BACKFILL));
        let worked_on =
            subscriptions.iter().map(|(_, name, config)| (name.clone(), *config)).chain(backfills);
        let mut queue_names = Vec::new();
        for (name, config) in worked_on {
            queue.declare(&name, config.queue_settings()).await?;
            // The process ended with an invocation under way, which Lambda counts as one that failed.
            if queue.release_in_flight(&name, Utc::now()).await? > 0 {
                counts.add(ServiceEvent::InvocationFailed { queue: name.clone() });
            }
            queue_names.extend([dead_letter_queue(&name), name]);
        }
        let subscriptions = subscriptions
            .into_iter()
            .map(|(bucket, queue, _)| Subscription { bucket: bucket.to_owned(), queue });

        let http_listener = bind_loopback("the dashboard", settings.http_port, "--http-port")?;
        let address = http_listener.local_addr().map_err(|source| ListenError::Bind {
            server: "the dashboard",
            port: settings.http_port,
            flag: "--http-port",
            source,
        })?;
        let server_settings = ServerSettings {
            data_dir: settings.data_dir.clone(),
            s3_port: settings.s3_port,
            dynamodb_port: settings.dynamodb_port,
            subscriptions: subscriptions.collect(),
            browser_origins: ["127.0.0.1", "localhost"]
                .map(|host| format!("http://{host}:{}", address.port()))
                .to_vec(),
        };
        let faults = match &settings.faults {
            Some(spec) => Some(Arc::new(Faults::open(spec.clone(), &settings.data_dir)?)),
            None => None,
        };
        let injector = faults.clone().map(|faults| (faults, counts.clone()));
        let servers = Servers::start_counted(injector, &server_settings, queue.clone()).await?;
        let sqs = SqsServer::start(queue.clone(), settings.sqs_port)?;
        let clients = Clients::at(&endpoint_url(servers.s3), &endpoint_url(servers.dynamodb), credentials());
        seed(&clients, &stages).await?;

        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        if settings.metrics_file.is_some() {
            let (queue, counts, stopped) = (queue.clone(), counts.clone(), stopped.clone());
            tasks.push(tokio::spawn(async move {
                if let Err(error) = cloudwatch::watch(queue, queue_names, &counts, stopped).await {
                    tracing::error!(%error, "queue metrics are no longer written");
                }
            }));
        }
        let process = |role: Role| {
            let duties = Duties {
                role,
                s3_url: endpoint_url(servers.s3),
                dynamodb_url: endpoint_url(servers.dynamodb),
                data_dir: settings.data_dir.clone(),
                faults: settings.faults.as_ref().map(FaultSpec::to_string),
                metrics_file: settings.metrics_file.clone(),
                stack_pid: std::process::id(),
            };
            ClassifierProcess::new(settings.program.clone(), duties, &clients)
        };
        let mut processes = Processes::default();
        if settings.run_worker {
            let gate = process(Role::Gate);
            processes.0.push(gate.clone());
            first_report(&clients, &gate).await?;
            let of_stages: Vec<_> =
                stages.iter().map(|stage| process(Role::Stage((*stage).to_owned()))).collect();
            processes.0.extend(of_stages.iter().cloned());
            let begin = |process: Arc<ClassifierProcess>| async move {
                if let Err(error) = process.start().await {
                    tracing::error!(%error, "it is started again with the next upload");
                }
            };
            // Side by side: each loads its model.
            stream::iter(of_stages.clone()).for_each_concurrent(None, begin).await;
            // Only when everything is ready: nothing is answered by the one stage while the other is not there yet.
            let context = WorkerContext {
                queue: queue.clone(),
                faults: faults.clone(),
                counts: counts.clone(),
                memory: Arc::default(),
                stop: stopped.clone(),
            };
            let spawn = |name: &str, config, handler: Arc<dyn worker::EventHandler>| {
                worker::spawn(&context, name, config, handler)
            };
            tasks.push(spawn(GATE_QUEUE, GATE, Arc::new(gate)));
            for (stage, process) in stages.iter().zip(of_stages) {
                let handler: Arc<dyn worker::EventHandler> = Arc::new(process);
                let workers = if *stage == PRODUCTION_STAGE { WORKERS } else { 1 };
                for _ in 0..workers {
                    tasks.push(spawn(&classify_queue(stage), CLASSIFY, handler.clone()));
                }
                // By the same process, so that it is the same model and there are no more images on processors.
                let (name, handler) = (backfill_queue(stage), handler.clone());
                let live = stages.iter().map(|stage| classify_queue(stage)).collect();
                tasks.push(worker::spawn_behind(live, &context, &name, BACKFILL, handler));
            }
        }
        let of_stage = |stage: &&str| LocalStage {
            stage: (*stage).to_owned(),
            queue_name: classify_queue(stage),
            process: processes.of_stage(stage).cloned(),
        };
        let operations = LocalOperations {
            queue: queue.clone(),
            stages: stages.iter().map(of_stage).collect(),
            gate_queue: GATE_QUEUE.to_owned(),
        };
        let page = router(Dashboard {
            table: TableReader::new(clients.dynamodb.clone(), &config.table),
            writer: TableWriter::new(clients.dynamodb.clone(), &config.table),
            s3: clients.s3.clone(),
            buckets: Buckets::of(&config),
            stages: stages.iter().map(|stage| (*stage).to_owned()).collect(),
            limits: config.limits.clone(),
            operations: Arc::new(operations),
            pictures: Pictures::new(&config.limits),
            access: Access::loopback(address, vec![endpoint_url(servers.s3)]),
            sign_in: settings.sign_in.clone().map(|settings| SignIn {
                authorizer: Arc::new(TokenAuthorizer::new(settings.clone())),
                settings,
            }),
        });
        tasks.push(tokio::spawn(dashboard::serve(http_listener, page, stopped.clone())));
        if let Some(faults) = &faults {
            // Last: a start that meets faults would only be a start that fails.
            faults.arm();
            processes.0.iter().for_each(|process| process.arm());
            tasks.push(tokio::spawn(faults.clone().keep_summary(stopped)));
        }
        Ok(Self {
            clients,
            config,
            dashboard: address,
            queue,
            faults,
            servers,
            sqs,
            stop,
            tasks,
            processes,
            _lock: lock,
        })
    }

    /// URL of S3.
    pub fn s3_url(&self) -> String {
        endpoint_url(self.servers.s3)
    }

    /// URL of DynamoDB.
    pub fn dynamodb_url(&self) -> String {
        endpoint_url(self.servers.dynamodb)
    }

    /// URL of SQS.
    pub fn sqs_url(&self) -> String {
        self.sqs.url()
    }

    /// Uploads that have no answer of production yet, and those that were given up after all retries.
    ///
    /// # Errors
    /// [`QueueError`] if the queue's file fails.
    pub async fn unanswered(&self) -> Result<(u64, u64), QueueError> {
        let name = classify_queue(PRODUCTION_STAGE);
        let waiting = self.queue.depth(&name, Utc::now()).await?;
        let dead = self.queue.depth(&dead_letter_queue(&name), Utc::now()).await?;
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
        drop(self.processes);
        self.sqs.shutdown().await;
        self.servers.shutdown().await;
    }
}

fn classify_queue(stage: &str) -> String {
    format!("classify-{stage}")
}

/// Queue of uploads that are answered when nothing new waits.
fn backfill_queue(stage: &str) -> String {
    format!("backfill-{stage}")
}

/// The embedded model, for `giemsa classify` without `--model`.
pub fn sample_model() -> &'static [u8] {
    SAMPLE_MODEL
}
