//! `usernsd agent` on a node. All that the cases know of its flags, its documents and its
//! metrics is in this file.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::daemon_pod::DaemonPod;
use crate::node::{Node, Options, Process};
use crate::pods::{Container, wait_for};

const BINARY: &str = env!("CARGO_BIN_EXE_usernsd");
pub(crate) const HTTP: &str = "127.0.0.1:9564";
/// What the harness needs in a node: the socket of sd_notify, the configuration, the log.
const DIRECTORY: &str = "/run/usernsd-test";

/// A node with the binary under test in it, or None where this machine boots none.
pub(crate) fn node_with_binary(mut options: Options) -> Option<Node> {
    options.binds.push((BINARY.into(), "/usr/local/bin/usernsd".to_owned()));
    Node::boot_or_skip(&options)
}

/// An agent that said that it is ready. Dropping it kills it, unless it is in a pod.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    pub(crate) node: &'a Node,
    pub(crate) home: Home,
}

/// Where an agent runs.
#[derive(Debug)]
pub(crate) enum Home {
    /// On the node itself.
    Node(Process),
    /// In the DaemonSet's pod.
    Pod(DaemonPod),
}

/// How a case gets its agent.
pub(crate) type Start = for<'a> fn(&'a Node) -> Agent<'a>;

/// With the defaults, on the node itself.
#[track_caller]
pub(crate) fn on_the_node(node: &Node) -> Agent<'_> {
    Agent::start(node)
}

impl<'a> Agent<'a> {
    /// With the defaults.
    #[track_caller]
    pub(crate) fn start(node: &'a Node) -> Self {
        Self::with(node, "")
    }

    /// With a configuration, in YAML. Returns once it is ready, by its own word to systemd.
    #[track_caller]
    pub(crate) fn with(node: &'a Node, configuration: &str) -> Self {
        let file = |name: &str| format!("{DIRECTORY}/{name}");
        node.write(&file("config.yaml"), configuration);
        let socket = node.socket(&file("notify"));
        let _ = fs::remove_file(&socket);
        let notified = UnixDatagram::bind(&socket).unwrap();
        notified.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let line = format!(
            "exec env NOTIFY_SOCKET={} usernsd agent --config {} --http {HTTP} --log-format json 2>>{}",
            file("notify"),
            file("config.yaml"),
            file("log"),
        );
        let mut agent = Self { node, home: Home::Node(node.spawn(["sh", "-c", &line])) };
        wait_for("READY=1", || {
            assert!(agent.is_alive(), "usernsd ended at once");
            let mut message = [0; 4096];
            let length = notified.recv(&mut message).ok()?;
            String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1").then_some(())
        });
        agent
    }

    fn process(&mut self) -> &mut Process {
        match &mut self.home {
            Home::Node(process) => process,
            Home::Pod(_) => panic!("not of an agent in a pod"),
        }
    }

    /// SIGKILL, and wait for the end.
    pub(crate) fn kill(mut self) {
        match &mut self.home {
            Home::Node(process) => {
                process.signal(Signal::SIGKILL);
                let _ = process.child().wait();
            }
            Home::Pod(pod) => pod.kill(self.node),
        }
    }

    /// SIGTERM, and its exit status.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.process().signal(Signal::SIGTERM);
        self.process().child().wait().unwrap()
    }

    /// It has not ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        match &mut self.home {
            Home::Node(process) => process.child().try_wait().unwrap().is_none(),
            Home::Pod(pod) => pod.is_alive(self.node),
        }
    }

    /// Its log since the node booted, agents before it included.
    pub(crate) fn log(&self) -> String {
        match &self.home {
            Home::Node(_) => {
                fs::read_to_string(self.node.path(&format!("{DIRECTORY}/log"))).unwrap_or_default()
            }
            Home::Pod(pod) => pod.log(self.node, "agent"),
        }
    }

    /// The log's lines on changes of that kind.
    pub(crate) fn changes(&self, action: &str) -> Vec<Value> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["action"] == action).collect()
    }

    /// `usernsd ps -o json`.
    #[track_caller]
    pub(crate) fn ps(&self) -> Vec<Value> {
        let text = match &self.home {
            Home::Node(_) => self.node.run(["usernsd", "ps", "--output", "json"]),
            Home::Pod(pod) => pod.exec(self.node, &["ps", "--output", "json"]),
        };
        let document: Value = serde_json::from_str(&text).unwrap();
        document.as_array().unwrap_or_else(|| panic!("not a list: {text}")).clone()
    }

    /// What it says of a container, once it says anything.
    #[track_caller]
    pub(crate) fn record(&self, container: &Container) -> Value {
        wait_for("a word on the container", || {
            self.ps().into_iter().find(|record| record["id"] == container.id.as_str())
        })
    }

    /// The outcome of its last look at a container: `delegated`, `already_right`, a skip's name.
    #[track_caller]
    pub(crate) fn outcome(&self, container: &Container) -> String {
        self.record(container)["outcome"].as_str().unwrap().to_owned()
    }

    /// Waits until its last look at a container had that outcome.
    #[track_caller]
    pub(crate) fn wait_for_outcome(&self, container: &Container, outcome: &str) {
        wait_for(outcome, || (self.outcome(container) == outcome).then_some(()));
    }

    /// All of `/metrics`, of now: an answer serves everyone who asks within a second.
    #[track_caller]
    pub(crate) fn exposition(&self) -> String {
        thread::sleep(Duration::from_millis(1100));
        // The text ends in a line end, which the harness takes off.
        self.get("/metrics") + "\n"
    }

    /// A page.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> String {
        let url = format!("http://{HTTP}{path}");
        match &self.home {
            Home::Node(_) => self.node.run(["busybox", "wget", "-qO-", &url]),
            Home::Pod(pod) => pod.get(self.node, &url),
        }
    }

    /// The sum of a metric's samples that carry all these labels.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.exposition();
        let mut samples = text
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let (found, value) = rest.rsplit_once(' ')?;
                let whole_name = found.is_empty() || found.starts_with('{');
                let all = labels.iter().all(|(key, value)| found.contains(&format!("{key}=\"{value}\"")));
                (whole_name && all).then(|| value.parse::<f64>().unwrap())
            })
            .peekable();
        // A metric that does not exist must not look like one that is 0.
        assert!(samples.peek().is_some(), "no sample of {name}{labels:?} in:\n{text}");
        samples.sum()
    }

    /// Whether it is connected to a peer: `cri`, `nri` or `systemd`.
    pub(crate) fn is_connected(&self, peer: &str) -> bool {
        self.metric(&format!("usernsd_{peer}_up"), &[]) == 1.0
    }

    /// Its PID as this machine counts.
    pub(crate) fn pid(&self) -> i32 {
        match &self.home {
            Home::Node(process) => process.pid().as_raw(),
            Home::Pod(_) => panic!("not of an agent in a pod"),
        }
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("---- log of usernsd\n{}", self.log());
        }
    }
}
