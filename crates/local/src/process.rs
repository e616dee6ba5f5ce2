//! A process of its own for all that loads models and decodes images of one stage, or of the gate.
//!
//! Whatever ends the process, by a signal, an abort or an exit, costs the events that it was answering a retry; it is
//! started again with the next one. The end of a process is written down against the model it ran before another
//! process loads a model, and no process outlives the stack.

mod child;
mod death;
mod protocol;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::{RwLock, oneshot, watch};
use tokio::time::timeout;

pub use child::{DutiesError, run as run_duties};
use death::Death;
use protocol::{Begun, ModelState, Order, Report, line_of};
pub(crate) use protocol::{Duties, Role};

use super::worker::{AnswerError, EventHandler, Reply};
use super::{MODEL_BUCKET, TABLE};
use giemsa::crashes::CrashNotes;
use giemsa::notes::{Note, NoteKeeper};
use giemsa::outcome::{Failure, Outcome};
use giemsa_config::{DEVELOPMENT_STAGE, model_key};
use giemsa_core::event::{Notice, parse_event};
use giemsa_store::aws::Clients;
use giemsa_store::{TableReader, TableWriter};

/// How long a process may take over an answer that is due.
const GRACE: Duration = Duration::from_secs(10);

/// How long a process may take to begin: it loads a model.
const LONGEST_START: Duration = Duration::from_secs(90);

/// How a process is started, and what is kept of those that ended.
#[derive(Debug)]
pub(crate) struct ClassifierProcess {
    /// The `giemsa` command.
    program: PathBuf,
    duties: Duties,
    crashes: CrashNotes,
    notes: NoteKeeper,
    /// Held alone by who must not share the process with other events.
    turn: RwLock<()>,
    running: Mutex<Option<Arc<Running>>>,
    model: Mutex<ModelState>,
    is_armed: AtomicBool,
    is_stopping: AtomicBool,
    next_id: AtomicU64,
}

type Asked = oneshot::Sender<Result<Reply, AnswerError>>;

/// The crashes of models in what a role does.
fn crash_notes(clients: &Clients, role: &Role) -> CrashNotes {
    let stage = match role {
        Role::Stage(stage) => stage,
        // Where models are tried, another one is copied to.
        Role::Gate => DEVELOPMENT_STAGE,
    };
    let location = format!("s3://{MODEL_BUCKET}/{}", model_key(stage));
    let reader = TableReader::new(clients.dynamodb.clone(), TABLE);
    CrashNotes::new(reader, TableWriter::new(clients.dynamodb.clone(), TABLE), role.name(), location)
}

/// One process.
#[derive(Debug)]
struct Running {
    pid: u32,
    /// Lines to it; it ends when this is gone.
    orders: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    ready: watch::Sender<bool>,
    progress: Mutex<Progress>,
    began_at: chrono::DateTime<chrono::Utc>,
}

#[derive(Debug, Default)]
struct Progress {
    asked: HashMap<u64, Asked>,
    /// What each of its threads does.
    work: HashMap<u64, Begun>,
    /// How it ended, once it has.
    ended: Option<String>,
}

impl ClassifierProcess {
    /// Does `duties` by the `giemsa` command at `program`, once it is asked to.
    pub(crate) fn new(program: PathBuf, duties: Duties, clients: &Clients) -> Arc<Self> {
        let table = TableWriter::new(clients.dynamodb.clone(), TABLE);
        Arc::new(Self {
            crashes: crash_notes(clients, &duties.role),
            notes: NoteKeeper::new(table, duties.role.name()),
            program,
            duties,
            turn: RwLock::default(),
            running: Mutex::default(),
            model: Mutex::default(),
            is_armed: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            next_id: AtomicU64::new(0),
        })
    }

    /// Starts a process, if none runs, and waits until it takes orders.
    ///
    /// # Errors
    /// [`AnswerError`] if it cannot be started or ends before.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<(), AnswerError> {
        self.ready().await.map(drop)
    }

    /// Lets things go wrong on purpose from now on, as the duties say.
    pub(crate) fn arm(&self) {
        self.is_armed.store(true, Ordering::SeqCst);
        if let Some(running) = &*locked(&self.running) {
            running.order(&Order::Arm);
        }
    }

    /// Ends the process; it is not started again.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        if let Some(running) = locked(&self.running).take() {
            locked(&running.orders).take();
        }
    }

    pub(crate) fn is_of_stage(&self, stage: &str) -> bool {
        matches!(&self.duties.role, Role::Stage(own) if own == stage)
    }

    /// Why the file in the place of the stage's model did not serve when an event was answered last.
    pub(crate) fn refusal(&self) -> Option<String> {
        locked(&self.model).refusal.clone()
    }

    async fn ready(self: &Arc<Self>) -> Result<Arc<Running>, AnswerError> {
        let running = {
            let mut slot = locked(&self.running);
            match &*slot {
                Some(running) => running.clone(),
                None => {
                    let running = self.spawn().map_err(|error| {
                        AnswerError::Failed(format!(
                            "no process to answer for {}: {} cannot be started ({error})",
                            self.duties.role.name(),
                            self.program.display()
                        ))
                    })?;
                    slot.insert(running).clone()
                }
            }
        };
        let mut ready = running.ready.subscribe();
        let waited = timeout(LONGEST_START, async {
            tokio::select! {
                ready = ready.wait_for(|ready| *ready) => drop(ready),
                () = running.ended() => {}
            }
        });
        if waited.await.is_err() {
            running.kill();
        }
        match &locked(&running.progress).ended {
            Some(how) => Err(AnswerError::ProcessEnded(how.clone())),
            None => Ok(running.clone()),
        }
    }

    fn spawn(self: &Arc<Self>) -> std::io::Result<Arc<Running>> {
        let level = if tracing::enabled!(tracing::Level::INFO) { "info" } else { "error" };
        let mut child = Command::new(&self.program)
            .args(["classifier-process", self.duties.role.name(), "--log-level", level])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the stack, which lets work in progress end.
            .process_group(0)
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else { unreachable!("both are pipes") };
        let (orders, lines) = mpsc::channel::<Vec<u8>>();
        let running = Arc::new(Running {
            pid: child.id(),
            orders: Mutex::new(Some(orders)),
            ready: watch::Sender::new(false),
            progress: Mutex::default(),
            began_at: chrono::Utc::now(),
        });
        running.send(line_of(&self.duties));
        if self.is_armed.load(Ordering::SeqCst) {
            running.order(&Order::Arm);
        }
        std::thread::Builder::new().name("orders".to_owned()).spawn(move || {
            // It ends when the process does, which the other thread sees.
            for line in lines {
                if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
                    return;
                }
            }
        })?;
        let (process, of_thread) = (self.clone(), running.clone());
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("reports".to_owned()).spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(report) => process.take(&of_thread, report),
                    Err(error) => tracing::error!(%error, "cannot read a report of a process"),
                }
            }
            process.bury(&of_thread, &mut child, &runtime);
        })?;
        Ok(running)
    }

    fn take(&self, running: &Running, report: Report) {
        match report {
            Report::Ready { model } => {
                *locked(&self.model) = model;
                running.ready.send_replace(true);
            }
            Report::Begins { thread, work: Begun::Nothing } => {
                locked(&running.progress).work.remove(&thread);
            }
            Report::Begins { thread, work } => {
                locked(&running.progress).work.insert(thread, work);
            }
            Report::Answered { id, answer, model } => {
                let has_model = model.serves;
                *locked(&self.model) = model;
                if let Some(asked) = locked(&running.progress).asked.remove(&id) {
                    let reply = answer.map(|answer| Reply { answer, has_model });
                    // Nobody may wait any more.
                    let _ = asked.send(reply.map_err(AnswerError::Failed));
                }
            }
        }
    }

    /// Writes down what ended the process, then hands back what it was answering.
    fn bury(&self, running: &Arc<Running>, child: &mut Child, runtime: &tokio::runtime::Handle) {
        let status = child.wait();
        let work: Vec<Begun> = locked(&running.progress).work.values().cloned().collect();
        let death = Death::of(&self.duties.role, status, &work, running.began_at);
        if !self.is_stopping.load(Ordering::SeqCst) {
            tracing::error!(role = self.duties.role.name(), reason = %death.reason, "a process ended and is started again");
            if let Some(crash) = &death.crash {
                match runtime.block_on(self.crashes.count(crash, chrono::Utc::now())) {
                    Ok(Some(why)) => {
                        tracing::error!(role = self.duties.role.name(), sha256 = %crash.sha256, "{why}");
                    }
                    Ok(None) => {}
                    Err(error) => tracing::error!(%error, sha256 = %crash.sha256, "a crash was not counted"),
                }
            }
        }
        locked(&self.running).take_if(|current| Arc::ptr_eq(current, running));
        let mut progress = locked(&running.progress);
        progress.ended = Some(death.reason.clone());
        for (_, asked) in progress.asked.drain() {
            let _ = asked.send(Err(AnswerError::ProcessEnded(death.reason.clone())));
        }
        drop(progress);
        // Wakes who waits for the process to begin.
        running.ready.send_replace(false);
    }

    /// Notes for those who look after images why they are not answered yet.
    async fn note(&self, event: &Value, reason: &str) {
        let Ok(event) = parse_event(event) else { return };
        let notices = event.deliveries.iter().filter_map(|delivery| delivery.notices.as_ref().ok());
        let uploads: Vec<_> = notices
            .flatten()
            .filter_map(|notice| match notice {
                Notice::Created(object) => Some(object),
                Notice::Ignored { .. } => None,
            })
            .collect();
        let outcome = Outcome::Retry(Failure::ProcessEnded { reason: reason.to_owned() });
        let notes = uploads.into_iter().map(|object| Note { object, outcome: &outcome, is_redelivery: true });
        self.notes.keep(notes.collect(), None).await;
    }
}

#[async_trait]
impl EventHandler for Arc<ClassifierProcess> {
    async fn answer(&self, event: &Value, time: Duration, is_alone: bool) -> Result<Reply, AnswerError> {
        let _turn = match is_alone {
            true => (Some(self.turn.write().await), None),
            false => (None, Some(self.turn.read().await)),
        };
        let answered = match self.ready().await {
            Ok(running) => {
                let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                running.answer(id, event, time).await
            }
            Err(error) => Err(error),
        };
        if let (Err(AnswerError::ProcessEnded(reason)), Role::Stage(_)) = (&answered, &self.duties.role) {
            self.note(event, reason).await;
        }
        answered
    }
}

impl Running {
    async fn answer(&self, id: u64, event: &Value, time: Duration) -> Result<Reply, AnswerError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut progress = locked(&self.progress);
            if let Some(how) = &progress.ended {
                return Err(AnswerError::ProcessEnded(how.clone()));
            }
            progress.asked.insert(id, sender);
        }
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.order(&Order::Answer { id, event: event.clone(), time_ms });
        match timeout(time + GRACE, receiver).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => Err(AnswerError::Failed("the process is gone".to_owned())),
            Err(_) => {
                // As Lambda does with an invocation that is out of time.
                locked(&self.progress).work.clear();
                self.kill();
                let limit = time + GRACE;
                Err(AnswerError::Failed(format!(
                    "no answer within {} s, its process is ended",
                    limit.as_secs()
                )))
            }
        }
    }

    async fn ended(&self) {
        let mut ready = self.ready.subscribe();
        while locked(&self.progress).ended.is_none() && ready.changed().await.is_ok() {}
    }

    fn order(&self, order: &Order) {
        self.send(line_of(order));
    }

    fn send(&self, line: Vec<u8>) {
        if let Some(orders) = &*locked(&self.orders) {
            // That it has ended is seen where its reports are read.
            let _ = orders.send(line);
        }
    }

    fn kill(&self) {
        // There is no call for it without `unsafe`, and its `Child` is with the thread that waits for it.
        let _ = Command::new("kill").args(["-KILL", &self.pid.to_string()]).status();
    }
}

/// A panic elsewhere leaves what is still right.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
