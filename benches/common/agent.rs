//! `usernsd agent` as a child process, for benches that run in the node.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running agent; dropping it kills the process.
pub(crate) struct Agent {
    child: Child,
    notify: UnixDatagram,
    started: Instant,
    log: Arc<Mutex<Vec<String>>>,
    _directory: TempDir,
}

impl Agent {
    /// Starts the agent with `configuration` (YAML) and returns at once. Its log is read continuously, as by
    /// a container runtime or journald.
    pub(crate) fn start(binary: &str, configuration: &str) -> Agent {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let state = format!("stateSocket: {{path: {}}}\n", file("state.sock").display());
        std::fs::write(file("config.yaml"), format!("{configuration}{state}")).unwrap();
        let notify = UnixDatagram::bind(file("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let started = Instant::now();
        let mut child = Command::new(binary)
            .args(["agent", "--log-format", "json", "--config"])
            .arg(file("config.yaml"))
            .env("NOTIFY_SOCKET", file("notify"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                written.lock().unwrap().push(line);
            }
        });
        Agent { child, notify, started, log, _directory: directory }
    }

    /// Waits until the agent reports readiness; returns the time since its start.
    pub(crate) fn ready(&self) -> Duration {
        let mut message = [0; 4096];
        loop {
            let length = self
                .notify
                .recv(&mut message)
                .unwrap_or_else(|error| panic!("no READY=1: {error}\n{}", self.log()));
            let now = self.started.elapsed();
            if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1") {
                return now;
            }
        }
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in kB: all of it, and the part that no file backs.
    pub(crate) fn resident(&self) -> (u64, u64) {
        resident(self.pid())
    }

    /// CPU time of all the agent's threads.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.pid())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// VmRSS and RssAnon of a process, in kB.
pub(crate) fn resident(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (field("VmRSS:"), field("RssAnon:"))
}

/// CPU time of all threads of a process, from the scheduler's statistics (nanoseconds).
pub(crate) fn cpu(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let times = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(times.sum())
}
