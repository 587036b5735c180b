//! The agent's log under a storm of lines, with the binary: each line is counted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fakes::cri_runtime::{AfterEvents, FakeRuntime, Scenario};
use usernsd_peers::cri::v1;
use usernsd_report::state::read_metrics;

const PATIENCE: Duration = Duration::from_secs(100);

/// An agent whose runtime has that many containers of which no specification can be read, each a line in the log.
struct Agent {
    child: Child,
    _runtime: FakeRuntime,
    directory: tempfile::TempDir,
}

impl Agent {
    fn start(containers: usize) -> (Agent, ChildStderr) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let version = ("containerd".into(), "2.1.9".into());
        let mut scenario = Scenario { version, after_events: AfterEvents::Stall, ..Default::default() };
        for number in 0..containers {
            let state = v1::ContainerState::ContainerRunning as i32;
            let status = v1::ContainerStatus { id: format!("c{number}"), state, ..Default::default() };
            scenario.add_container("s1", status, None);
        }
        let runtime = FakeRuntime::start(&path("cri"), scenario);
        fs::write(path("config.yaml"), format!("systemd: {{busSocket: {}}}\n", path("bus").display()))
            .unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]);
        command.arg("mount -t proc proc /proc && mount -t tmpfs run /run && exec \"$0\" \"$@\"");
        command.arg(env!("CARGO_BIN_EXE_usernsd")).args(["agent", "--log-format", "json", "--config"]);
        command.arg(path("config.yaml")).arg("--cri-endpoint").arg(path("cri"));
        command.arg("--nri-socket").arg(path("nri")).arg("--state-socket").arg(path("state"));
        let mut child =
            command.env_remove("USERNSD_CONFIG").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = child.stderr.take().unwrap();
        (Agent { child, _runtime: runtime, directory }, log)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The number of lines by level, and of those that were dropped.
    fn counts(&self) -> Option<(BTreeMap<String, usize>, usize)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let text = runtime.block_on(read_metrics(&self.socket())).ok()?;
        let of = |prefix: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(prefix)).unwrap();
            line.parse::<usize>().unwrap()
        };
        let levels = ["error", "warn", "info"];
        let by_level = levels.map(|level| {
            (level.to_owned(), of(&format!("usernsd_log_messages_total{{level=\"{level}\"}} ")))
        });
        Some((by_level.into(), of("usernsd_log_messages_dropped_total ")))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The levels of the lines, as they are read.
fn read(log: ChildStderr) -> mpsc::Receiver<String> {
    let (send, levels) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if send.send(line["level"].as_str().unwrap().to_lowercase()).is_err() {
                break;
            }
        }
    });
    levels
}

fn is_possible() -> bool {
    let is_root = nix::unistd::geteuid().is_root() && Path::new("/proc/self/ns/pid").exists();
    if !is_root {
        // Not with `eprintln!`, which the test harness captures in passing tests.
        let _ = writeln!(std::io::stderr(), "SKIPPED: it takes root");
    }
    is_root
}

#[test]
fn a_storm_of_lines_is_counted_line_by_line() {
    const LINES: usize = 400;
    if !is_possible() {
        return;
    }
    let (agent, log) = Agent::start(LINES);
    let (levels, end) = (read(log), Instant::now() + PATIENCE);
    let mut read = BTreeMap::from(["error", "warn", "info"].map(|level| (level.to_owned(), 0)));
    loop {
        levels.try_iter().for_each(|level| *read.get_mut(&level).unwrap() += 1);
        let counted = agent.counts();
        if read["warn"] >= LINES && counted == Some((read.clone(), 0)) {
            break;
        }
        assert!(Instant::now() < end, "read: {read:?}, counted: {counted:?}");
        thread::sleep(Duration::from_millis(50));
    }
}
