//! `usernsd exporter` as a separate process, next to an agent's state socket.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use usernsd_domain::node::{Exposition, Survey};
use usernsd_domain::privilege::EXPORTER_UID;
use usernsd_report::follow::Follower;
use usernsd_report::metrics::{ExporterMetrics, Metrics};
use usernsd_report::state::{Sources, State, StateServer, serve};
use usernsd_report::store::Store;

/// The exporter's user ID.
pub(crate) const USER: u32 = 65_532;

fn state() -> State {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/state.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A directory that every user may enter, with the binary.
pub(crate) struct Room(tempfile::TempDir);

impl Room {
    pub(crate) fn new() -> Room {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_usernsd"), dir.path().join("usernsd")).unwrap();
        Room(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file that everybody may read, at once.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(".new"), text).unwrap();
        std::fs::rename(self.file(".new"), self.file(name)).unwrap();
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An agent's state server; the sender announces changes.
    fn agent(&self) -> (StateServer, watch::Sender<()>) {
        let (changed, changes) = watch::channel(());
        let store = Store::new(SystemTime::UNIX_EPOCH);
        let look = std::sync::Arc::new(|_: &_| Survey::empty());
        let metrics = Metrics::new(store, look, Exposition::default()).unwrap();
        let sources = Sources {
            document: Box::new(|| state().render()),
            metrics: Box::new(move || metrics.render()),
            changes,
        };
        (serve(&self.file("socket"), &[USER], sources).unwrap(), changed)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.file("usernsd"));
        command.args(["exporter", "--http", "127.0.0.1:0", "--log-format", "json", "--state-socket"]);
        command.arg(self.file("socket")).args(args).env_clear().stdin(Stdio::null());
        command
    }

    fn exporter(&self) -> Exporter {
        let mut command = self.command(&[]);
        if nix::unistd::Uid::effective().is_root() {
            command.uid(USER).gid(USER);
        }
        Exporter::of(command)
    }
}

/// A running exporter. Dropping it kills it.
pub(crate) struct Exporter {
    child: Child,
    address: String,
    log: mpsc::Receiver<String>,
}

impl Exporter {
    pub(crate) fn of(mut command: Command) -> Exporter {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (output, log) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| output.send(line)));
        let address = loop {
            let line = log.recv_timeout(Duration::from_secs(10)).expect("no address in its log");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = line["address"].as_str() {
                break address.to_owned();
            }
        };
        Exporter { child, address, log }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.parse().unwrap()
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn wait_until(&self, path: &str, what: &str) -> String {
        let since = Instant::now();
        loop {
            let answer = self.get(path);
            if answer.contains(what) {
                return answer;
            }
            assert!(since.elapsed() < Duration::from_secs(20), "{path} never said {what:?}: {answer}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A field of its `/proc/PID/status`.
    fn status(&self, key: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.log.try_iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

#[test]
fn the_exporter_serves_the_agents_state_and_reports_its_absence() {
    let room = Room::new();
    // At first there is no agent.
    let exporter = room.exporter();
    let answer = exporter.wait_until("/readyz", "the agent is away: nothing answers on");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(exporter.get("/api/v1/state").starts_with("HTTP/1.1 503 "));
    assert!(exporter.get("/").starts_with("HTTP/1.1 200 "));
    assert!(exporter.get("/healthz").starts_with("HTTP/1.1 200 "), "a restart would not help");
    let text = exporter.get("/metrics");
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("\nusernsd_exporter_agent_up 0\n"), "{text}");
    assert!(text.contains("\nusernsd_exporter_last_document_timestamp_seconds 0\n"), "{text}");
    assert!(!text.contains("usernsd_node_ready"), "{text}");

    for reconnects in 0..2 {
        let (agent, _changed) = room.agent();
        exporter.wait_until("/readyz", "ok\n");
        // The server asks the agent once a second at most.
        let text = exporter.wait_until("/metrics", "\nusernsd_build_info{");
        assert!(text.contains("\nusernsd_exporter_agent_up 1\n"), "{text}");
        assert!(
            text.contains(&format!("\nusernsd_exporter_agent_reconnects_total {reconnects}\n")),
            "{text}"
        );
        for ours_or_theirs in ["usernsd_build_info{", "usernsd_exporter_build_info{", "process_open_fds "] {
            assert!(text.contains(&format!("\n{ours_or_theirs}")), "{ours_or_theirs}: {text}");
        }
        let (_, text) = text.split_once("\r\n\r\n").unwrap();
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let names: BTreeSet<&str> = series.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(names.len(), series.len(), "a series twice");
        let families = text.lines().filter(|line| line.starts_with("# TYPE "));
        let distinct: BTreeSet<&str> = families.clone().collect();
        assert_eq!(distinct.len(), families.count(), "a family twice");
        let answer = exporter.wait_until("/api/v1/state", "HTTP/1.1 200 ");
        let document: State = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(document, state());
        drop(agent);
        exporter.wait_until("/readyz", "the agent is away");
        exporter.wait_until("/metrics", "\nusernsd_exporter_agent_up 0\n");
    }
}

/// The follower's next connection. Its pauses between them, of up to 10 s, pass at once.
async fn connection(listener: &UnixListener) -> UnixStream {
    tokio::time::pause();
    let (agent, _) = listener.accept().await.unwrap();
    tokio::time::resume();
    agent
}

/// Agents that come and go, some without sending anything and some sending an invalid document. Several
/// documents on one connection do not count as reconnections.
#[tokio::test]
async fn each_return_of_the_agent_is_counted_once() {
    const RETURNS: usize = 4;
    let room = Room::new();
    let socket = room.file("state.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (follower, followed) = Follower::new(socket, SystemTime::now());
    let metrics = ExporterMetrics::new(followed.link.clone()).unwrap();
    tokio::spawn(follower.run());
    let document = serde_json::to_string(&state()).unwrap() + "\n";
    let mut link = followed.link;
    let mut documents = 0;
    for returned in 0..=RETURNS {
        for word in ["", "{\"error\":\"no\"}\n", "no document\n"] {
            let mut agent = connection(&listener).await;
            agent.write_all(word.as_bytes()).await.unwrap();
            let _ = agent.read(&mut [0; 64]).await;
        }
        let mut agent = connection(&listener).await;
        for _ in 0..20 {
            agent.write_all(document.as_bytes()).await.unwrap();
        }
        documents += 20;
        // A number that is never right fails the test instead of making it wait.
        let counted = link.wait_for(|link| link.documents >= documents);
        tokio::time::timeout(Duration::from_secs(20), counted)
            .await
            .unwrap_or_else(|_| panic!("{documents} documents were sent: {}", metrics.render()))
            .unwrap();
        let text = metrics.render();
        for line in [
            format!("\nusernsd_exporter_agent_reconnects_total {returned}\n"),
            format!("\nusernsd_exporter_documents_total {documents}\n"),
        ] {
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
}

/// Scrapes of an agent that is away, of one that hangs for longer than the scrapers wait and breaks off afterwards, and of
/// one that answers: each scrape without the agent's metrics is counted once.
#[test]
fn a_storm_of_scrapes_without_an_agent_is_counted_scrape_by_scrape() {
    const AT_ONCE: usize = 8;
    let room = Room::new();
    let exporter = room.exporter();
    let mut failed = 0;
    let scrape = |headers: &str| {
        let address = exporter.address();
        let request = format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(!answer.contains("\nusernsd_build_info{"), "{answer}");
        })
    };
    let storm = |headers: &str| {
        let scrapes: Vec<_> = (0..AT_ONCE).map(|_| scrape(headers)).collect();
        scrapes.into_iter().for_each(|scrape| scrape.join().unwrap());
        AT_ONCE
    };
    failed += storm("");
    let listener = std::os::unix::net::UnixListener::bind(room.file("socket")).unwrap();
    std::fs::set_permissions(room.file("socket"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let (done, hung) = mpsc::channel::<()>();
    let hangs = thread::spawn(move || {
        listener.set_nonblocking(true).unwrap();
        let mut kept = Vec::new();
        while hung.try_recv() == Err(mpsc::TryRecvError::Empty) {
            kept.extend(listener.accept());
            thread::sleep(Duration::from_millis(5));
        }
    });
    // The answer that the storm before got is given for a second.
    thread::sleep(Duration::from_millis(1500));
    failed += storm("X-Prometheus-Scrape-Timeout-Seconds: 1\r\n");
    done.send(()).unwrap();
    hangs.join().unwrap();
    std::fs::remove_file(room.file("socket")).unwrap();
    let (_agent, _changed) = room.agent();
    let end = Instant::now() + Duration::from_secs(20);
    let whole = loop {
        let text = exporter.get("/metrics");
        if text.contains("\nusernsd_build_info{") {
            break text;
        }
        failed += 1;
        assert!(Instant::now() < end, "{text}");
        thread::sleep(Duration::from_millis(100));
    };
    let line = format!("\nusernsd_exporter_scrape_failures_total {failed}\n");
    assert!(whole.contains(&line), "{line}: {whole}");
}

#[test]
fn the_exporter_has_no_privilege_left() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("not root: there is no privilege to give up");
        return;
    }
    let room = Room::new();
    let refused = room.command(&[]).output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let user = format!("stateSocket.allowUids lets read the agent's state, such as {EXPORTER_UID},");
    assert!(text.contains("must not be root;") && text.contains(&user), "{text}");
    for file in ["Containerfile", "base/daemonset.yaml", "base/config.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("daemonset").join(file);
        assert!(std::fs::read_to_string(path).unwrap().contains(&EXPORTER_UID.to_string()), "{file}");
    }
    let zero = "0000000000000000";
    for exporter in [room.exporter(), Exporter::of(room.command(&["--allow-root"]))] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(exporter.status(set), zero, "{set}");
        }
        assert_eq!(exporter.status("NoNewPrivs"), "1");
        // Every thread has its own capabilities.
        let threads = std::fs::read_dir(format!("/proc/{}/task", exporter.child.id())).unwrap();
        let mut count = 0;
        for thread in threads {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            assert!(status.contains(&format!("CapPrm:\t{zero}")) && status.contains("NoNewPrivs:\t1"));
            count += 1;
        }
        assert!(count > 1, "the server has a thread of its own");
    }
    assert_eq!(Exporter::of(room.command(&["--allow-root"])).status("CapBnd"), zero);
}

#[test]
fn the_exporter_stops_on_sigterm() {
    let room = Room::new();
    let mut exporter = room.exporter();
    let pid = nix::unistd::Pid::from_raw(exporter.child.id().try_into().unwrap());
    let _idle = TcpStream::connect(&exporter.address).unwrap();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(exporter.child.wait().unwrap().code(), Some(0));
}
