//! `giemsa up` as a process, on free ports, driven only by what it prints.
//!
//! No process outlives its [`RunningStack`].

pub mod started_before;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for anything; generous, because builds may run beside the tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running `giemsa up`; killed when dropped.
pub struct RunningStack {
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

/// Path of a file or folder of the project.
pub fn project(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// The `giemsa` command, without settings of the environment that would change what it does.
pub fn giemsa() -> Command {
    let mut command = Command::new(crate::binary("giemsa"));
    command.env_remove("RUST_LOG");
    command
}

/// `giemsa up` on free ports, not yet started.
pub fn up(data_dir: &Path, more: &[&str]) -> Command {
    let mut command = giemsa();
    command.args([
        "up",
        "--s3-port",
        "0",
        "--dynamodb-port",
        "0",
        "--sqs-port",
        "0",
        "--http-port",
        "0",
        "--data-dir",
    ]);
    command.arg(data_dir).args(more);
    command
}

/// Asks `found` again and again, until it answers or patience ends.
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {} s for {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal by name, e.g. `INT`.
pub fn send_signal(process_id: u32, name: &str) {
    let kill = format!("kill -{name} {process_id}");
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
}

/// Waits for the end of a process.
pub fn wait_for_exit(child: &mut Child) -> ExitStatus {
    wait_for("the process to end", || child.try_wait().unwrap())
}

/// Collects what a process writes, in the background.
pub fn collect(pipe: impl Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let writer = Arc::clone(&text);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let line = line.unwrap();
            let mut text = writer.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    (text, reader)
}

/// Host and port of the dashboard, in what a stack has printed so far.
pub fn dashboard_address(printed: &str) -> Option<String> {
    let line = printed.lines().find_map(|line| line.trim().strip_prefix("Dashboard"))?;
    line.split_whitespace().next()?.strip_prefix("http://").map(str::to_owned)
}

/// Status and body of the answer to `GET path`, as long as there is somebody to answer.
pub fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Messages in the queues that `/api/health` lists: those that wait or are in flight, and those that were given up.
pub fn depths(health: &serde_json::Value) -> Option<(u64, u64)> {
    let stages = health["stages"].as_array()?;
    let queues = stages.iter().map(|stage| &stage["queue"]).chain([&health["gate"]]);
    queues.into_iter().try_fold((0, 0), |(waiting, dead), queue| {
        let of = |name: &str| queue[name].as_u64();
        Some((waiting + of("waiting")? + of("in_flight")?, dead + of("dead_letters")?))
    })
}

impl RunningStack {
    /// Starts the stack, as if it had been started in an empty folder before, and waits until it has printed how to use it.
    pub fn start(data_dir: &Path, more: &[&str]) -> Self {
        started_before::fill(data_dir);
        Self::start_as(up(data_dir, more))
    }

    /// As [`start`](Self::start), for a command that was changed, e.g. in its environment.
    pub fn start_as(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, out_reader) = collect(child.stdout.take().unwrap());
        let (stderr, err_reader) = collect(child.stderr.take().unwrap());
        let mut stack = Self { child, stdout, stderr, readers: vec![out_reader, err_reader] };
        wait_for("giemsa up to start", || {
            if let Some(status) = stack.child.try_wait().unwrap() {
                panic!("giemsa up ended with {status}:\n{}", stack.stderr());
            }
            stack.stdout().contains("Ctrl-C stops it.").then_some(())
        });
        stack
    }

    /// Id of its process.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    /// What it has printed to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// The variables that it tells users to export.
    pub fn exports(&self) -> Vec<(String, String)> {
        let stdout = self.stdout();
        let lines = stdout.lines().filter_map(|line| line.trim().strip_prefix("export "));
        let pairs = lines.flat_map(str::split_whitespace).filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// URL of S3, as printed.
    pub fn s3_url(&self) -> String {
        let exports = self.exports();
        let url = exports.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL_S3");
        url.expect("the endpoint is printed").1.clone()
    }

    /// SDK clients by what it printed.
    pub fn clients(&self) -> giemsa_store::aws::Clients {
        let exports = self.exports();
        let url = |name| &exports.iter().find(|(n, _)| n == name).expect("the endpoint is printed").1;
        giemsa_store::aws::Clients::at(
            url("AWS_ENDPOINT_URL_S3"),
            url("AWS_ENDPOINT_URL_DYNAMODB"),
            giemsa_local::credentials(),
        )
    }

    /// Host and port of the dashboard, as printed.
    pub fn dashboard_address(&self) -> String {
        dashboard_address(&self.stdout()).expect("the dashboard is printed")
    }

    /// The body that the dashboard answers to `GET path`.
    pub fn get(&self, path: &str) -> String {
        let (status, body) = get(&self.dashboard_address(), path).expect("the dashboard answers");
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The JSON that the dashboard answers to `GET path`.
    pub fn get_json(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.get(path)).unwrap()
    }

    /// The model that serves in a stage, and why the file in its place does not, as `/api/models` says.
    pub fn model(&self, stage: &str) -> serde_json::Value {
        let models = self.get_json("/api/models");
        let mut stages = models["stages"].as_array().unwrap().iter();
        stages.find(|found| found["stage"] == stage).expect("the stage is known").clone()
    }

    /// Uploads that production has not answered, and those it gave up, as `/api/health` says.
    pub fn unanswered(&self) -> (u64, u64) {
        let health = self.get_json("/api/health");
        let queue = &health["stages"][0]["queue"];
        let of = |name: &str| queue[name].as_u64().unwrap_or_else(|| panic!("{health}"));
        (of("waiting") + of("in_flight"), of("dead_letters"))
    }

    /// Waits until every upload has an answer, and none was given up.
    pub fn wait_until_answered(&self) {
        wait_for("all uploads to be answered", || (self.unanswered().0 == 0).then_some(()));
        assert_eq!(self.unanswered().1, 0, "{}", self.stderr());
    }

    /// Sends a signal and waits for the end.
    pub fn stop(mut self, signal: &str) -> (ExitStatus, String) {
        send_signal(self.child.id(), signal);
        let status = wait_for_exit(&mut self.child);
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        (status, self.stderr())
    }
}

impl Drop for RunningStack {
    fn drop(&mut self) {
        // Already ended, if a test stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All files below `folder`, as paths relative to it, sorted.
pub fn files_below(folder: &Path) -> Vec<String> {
    let walk = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    walk.filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned())
        .collect()
}
