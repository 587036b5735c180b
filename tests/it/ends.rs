//! The end of the long-running roles, with the binary: after SIGTERM in bounded time, even if their peers hang, and with
//! an error that names a lost process.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// A hang is a failure, not a slow machine: a stop takes some seconds at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// A role that runs as the first process of a PID namespace, with its own /proc and /run.
struct Role {
    child: Child,
    pid: Pid,
    directory: tempfile::TempDir,
}

impl Role {
    fn start(arguments: &[&str], directory: tempfile::TempDir) -> Role {
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]);
        command.arg("mount -t proc proc /proc && mount -t tmpfs run /run && exec \"$@\"").arg("sh");
        command.arg(env!("CARGO_BIN_EXE_usernsd")).args(arguments).env_remove("USERNSD_CONFIG");
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let pid = wait("the process", || children(child.id()).first().copied());
        Role { child, pid, directory }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    fn end(&mut self) -> ExitStatus {
        wait("the end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("{}", self.log());
        }
    }
}

#[track_caller]
fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waiting for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The children of a process's first thread.
fn children(pid: u32) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        // Not with `eprintln!`, which the test harness captures in passing tests.
        let _ = writeln!(std::io::stderr(), "SKIPPED: a PID namespace takes root");
    }
    is_root
}

/// A peer that accepts connections and never answers.
fn silent(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let mut held = Vec::new();
        held.extend(listener.incoming().map_while(Result::ok));
    });
}

/// An agent whose runtime and bus never answer.
fn agent() -> Role {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    ["cri", "nri", "bus"].iter().for_each(|name| silent(&path(name)));
    let config = format!("systemd: {{busSocket: {}}}\n", path("bus").display());
    fs::write(path("config.yaml"), config).unwrap();
    let [cri, nri, state, config] = ["cri", "nri", "state", "config.yaml"].map(path);
    let [cri, nri, state, config] = [&cri, &nri, &state, &config].map(|path| path.to_str().unwrap());
    let peers = ["--cri-endpoint", cri, "--nri-socket", nri, "--state-socket", state];
    let arguments = [&["agent", "--config", config, "--http", "127.0.0.1:0"][..], &peers].concat();
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let role = Role::start(&arguments, directory);
    wait("the state socket", || UnixStream::connect(role.directory.path().join("state")).ok());
    role
}

#[test]
fn the_agent_stops_on_sigterm_although_its_peers_and_readers_hang() {
    if !is_root() {
        return;
    }
    let mut role = agent();
    // Readers that ask and do not read, and some that do not even ask.
    let mut readers = Vec::new();
    for request in ["watch\n", "metrics\n", ""] {
        let mut reader = UnixStream::connect(role.directory.path().join("state")).unwrap();
        reader.write_all(request.as_bytes()).unwrap();
        readers.push(reader);
    }
    kill(role.pid, Signal::SIGTERM).unwrap();
    let status = role.end();
    assert_eq!(status.code(), Some(0), "{}", role.log());
    assert!(!role.directory.path().join("state").exists(), "its socket is gone");
}

#[test]
fn the_agent_ends_with_an_error_if_its_observer_ends() {
    if !is_root() {
        return;
    }
    let mut role = agent();
    let is_observer = |pid: &Pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("observe-processes")
    };
    let observer =
        wait("the observer", || children(role.pid.as_raw().unsigned_abs()).into_iter().find(is_observer));
    kill(observer, Signal::SIGKILL).unwrap();
    let status = role.end();
    let log = role.log();
    assert_eq!(status.code(), Some(2), "{log}");
    let output = "the process that reads other processes' namespaces ended";
    assert!(log.contains(output), "{log}");
}

#[test]
fn the_exporter_stops_on_sigterm_although_its_agent_and_clients_hang() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("state");
    silent(&socket);
    let socket = socket.to_str().unwrap().to_owned();
    let arguments = ["exporter", "--allow-root", "--http", "127.0.0.1:0", "--state-socket", &socket];
    let mut role = Role::start(&arguments, directory);
    let address = wait("the address", || {
        let log = role.log();
        let word = log.split_whitespace().find_map(|word| word.strip_prefix("address="));
        word.map(str::to_owned)
    });
    let mut clients = Vec::new();
    for request in ["GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n", "GET / HT", ""] {
        let mut client = TcpStream::connect(&address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        clients.push(client);
    }
    kill(role.pid, Signal::SIGTERM).unwrap();
    let status = role.end();
    assert_eq!(status.code(), Some(0), "{}", role.log());
    drop(clients);
}
