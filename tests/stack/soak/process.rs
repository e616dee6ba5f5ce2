//! `giemsa up` that is killed, frozen and started again on the same ports and data folder.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use giemsa_store::aws::Clients;

use giemsa_tests::running_stack::{
    PATIENCE, collect, depths, get, giemsa, send_signal, wait_for, wait_for_exit,
};

/// Address space of the process, KiB: what is more is refused, as where memory runs out.
const MEMORY_KIB: u64 = 3 << 19;

/// Ports that the system gives to nobody by itself.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// The process, whichever of its lives.
pub struct Process {
    pub data_dir: PathBuf,
    faults: Option<String>,
    ports: [u16; 4],
    child: Child,
    stdout: Arc<Mutex<String>>,
    /// What all lives have logged.
    logs: Vec<Arc<Mutex<String>>>,
    /// Ends by SIGKILL.
    pub kills: usize,
}

impl Process {
    pub fn start(data_dir: &Path, faults: Option<&str>, seed: u64) -> Self {
        let ports = free_ports(seed);
        let (data_dir, faults) = (data_dir.to_owned(), faults.map(str::to_owned));
        let (child, stdout, log) = spawn(&data_dir, faults.as_deref(), ports);
        let mut process = Self { data_dir, faults, ports, child, stdout, logs: vec![log], kills: 0 };
        process.wait_until_up();
        process
    }

    /// Waits until it serves; it may be killed by its own faults meanwhile.
    fn wait_until_up(&mut self) {
        let started = Instant::now();
        while !self.stdout.lock().unwrap().contains("Ctrl-C stops it.") {
            self.revive();
            assert!(started.elapsed() < PATIENCE, "giemsa up does not start: {}", self.last_words());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it again if it was killed; any other end is a failure.
    pub fn revive(&mut self) {
        let Some(status) = self.child.try_wait().unwrap() else {
            return;
        };
        assert_eq!(status.signal(), Some(9), "giemsa up ended with {status}: {}", self.last_words());
        self.kills += 1;
        let (child, stdout, log) = spawn(&self.data_dir, self.faults.as_deref(), self.ports);
        (self.child, self.stdout) = (child, stdout);
        self.logs.push(log);
    }

    pub fn kill(&mut self) {
        // It may have killed itself just now, which is as good.
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.revive();
        self.wait_until_up();
    }

    /// Stands still, as a virtual machine that is moved.
    pub fn freeze(&mut self, time: Duration) {
        send_signal(self.child.id(), "STOP");
        std::thread::sleep(time);
        send_signal(self.child.id(), "CONT");
    }

    pub fn clients(&self) -> Clients {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        Clients::at(&url(self.ports[0]), &url(self.ports[1]), giemsa_local::credentials())
    }

    /// Messages in all queues: those that wait, and those that were given up.
    pub fn depths(&self) -> Option<(u64, u64)> {
        let (status, health) = get(&format!("127.0.0.1:{}", self.ports[2]), "/api/health")?;
        (status == 200).then(|| depths(&serde_json::from_str(&health).ok()?))?
    }

    /// Stops it, with what is in progress done, and returns the logs of all its lives.
    pub fn stop(mut self) -> Vec<String> {
        send_signal(self.child.id(), "INT");
        let status = wait_for_exit(&mut self.child);
        assert!(status.success() || status.signal() == Some(9), "{status}: {}", self.last_words());
        self.logs.iter().map(|log| log.lock().unwrap().clone()).collect()
    }

    /// The last lines that it logged.
    pub fn last_words(&self) -> String {
        let log = self.logs.last().expect("there is a life").lock().unwrap();
        let mut lines: Vec<&str> = log.lines().rev().take(15).collect();
        lines.reverse();
        lines.join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, if it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    data_dir: &Path,
    faults: Option<&str>,
    ports: [u16; 4],
) -> (Child, Arc<Mutex<String>>, Arc<Mutex<String>>) {
    let mut command = Command::new("sh");
    let script = format!("ulimit -v {MEMORY_KIB} && exec \"$@\"");
    command.args(["-c", &script, "sh"]).arg(giemsa().get_program()).args(["up", "--data-dir"]).arg(data_dir);
    for (flag, port) in ["--s3-port", "--dynamodb-port", "--http-port", "--sqs-port"].iter().zip(ports) {
        command.args([flag, port.to_string().as_str()]);
    }
    if let Some(faults) = faults {
        command.args(["--faults", faults]);
    }
    // An image of the samples takes a hundredth of it.
    command.env_remove("RUST_LOG").env("GIEMSA_IMAGE_TIMEOUT_MS", "4000").env("RUST_BACKTRACE", "0");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, _) = collect(child.stdout.take().unwrap());
    let (log, _) = collect(child.stderr.take().unwrap());
    (child, stdout, log)
}

/// Four ports that nobody has, from a place that the seed and this process choose.
fn free_ports(seed: u64) -> [u16; 4] {
    let room = u64::from(PORTS.end - PORTS.start);
    let start = (seed.wrapping_mul(7_919) + u64::from(std::process::id()) * 17) % room;
    let ports = (0..room).map(|n| PORTS.start + u16::try_from((start + n) % room).unwrap());
    let mut free = ports.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    wait_for("free ports", || Some([free.next()?, free.next()?, free.next()?, free.next()?]))
}
