//! `usernsd agent` on a node. The agent's flags, documents and metrics are used only through this file.

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
/// Paths that the harness needs on a node: the socket for sd_notify, the configuration, the log.
const DIRECTORY: &str = "/run/usernsd-test";

/// A node with the binary under test, or None if this machine can boot none.
pub(crate) fn node_with_binary(mut options: Options) -> Option<Node> {
    options.binds.push((BINARY.into(), "/usr/local/bin/usernsd".to_owned()));
    Node::boot_or_skip(&options)
}

/// An agent that has reported readiness. Dropping it kills it, unless it runs in a pod.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    pub(crate) node: &'a Node,
    pub(crate) home: Home,
}

/// Where an agent runs.
#[derive(Debug)]
pub(crate) enum Home {
    /// As a process of the node.
    Node(Process),
    /// In the DaemonSet's pod.
    Pod(DaemonPod),
}

/// Starts an agent for a case.
pub(crate) type Start = for<'a> fn(&'a Node) -> Agent<'a>;

/// Starts the agent with the default configuration, as a process of the node, and waits until it is in the start path.
#[track_caller]
pub(crate) fn on_the_node(node: &Node) -> Agent<'_> {
    Agent::joined(node)
}

impl<'a> Agent<'a> {
    /// Starts the agent with the default configuration.
    #[track_caller]
    pub(crate) fn start(node: &'a Node) -> Self {
        Self::with(node, "")
    }

    /// Starts the agent with the default configuration, and waits until it is in the runtime's start path as well, which on
    /// a slow machine is long after it is ready.
    #[track_caller]
    pub(crate) fn joined(node: &'a Node) -> Self {
        let agent = Self::start(node);
        wait_for("NRI", || agent.log().contains("joined the runtime over NRI").then_some(()));
        agent
    }

    /// Starts the agent with a configuration in YAML. Returns once it has reported readiness to systemd.
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

    /// Sends SIGKILL and waits for the end.
    pub(crate) fn kill(mut self) {
        match &mut self.home {
            Home::Node(process) => {
                process.signal(Signal::SIGKILL);
                let _ = process.child().wait();
            }
            Home::Pod(pod) => pod.kill(self.node),
        }
    }

    /// Sends SIGTERM and returns the exit status.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.process().signal(Signal::SIGTERM);
        self.process().child().wait().unwrap()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        match &mut self.home {
            Home::Node(process) => process.child().try_wait().unwrap().is_none(),
            Home::Pod(pod) => pod.is_alive(self.node),
        }
    }

    /// The log since the node booted, including that of earlier agents.
    pub(crate) fn log(&self) -> String {
        match &self.home {
            Home::Node(_) => {
                fs::read_to_string(self.node.path(&format!("{DIRECTORY}/log"))).unwrap_or_default()
            }
            Home::Pod(pod) => pod.log(self.node, "agent"),
        }
    }

    /// The log lines about changes of this kind.
    pub(crate) fn changes(&self, action: &str) -> Vec<Value> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["action"] == action).collect()
    }

    /// The output of `usernsd ps -o json`.
    #[track_caller]
    pub(crate) fn ps(&self) -> Vec<Value> {
        let text = match &self.home {
            Home::Node(_) => self.node.run(["usernsd", "ps", "--output", "json"]),
            Home::Pod(pod) => pod.exec(self.node, &["ps", "--output", "json"]),
        };
        let document: Value = serde_json::from_str(&text).unwrap();
        document.as_array().unwrap_or_else(|| panic!("not a list: {text}")).clone()
    }

    /// The container's record in the state document; waits until there is one.
    #[track_caller]
    pub(crate) fn record(&self, container: &Container) -> Value {
        wait_for("a log line about the container", || {
            self.ps().into_iter().find(|record| record["id"] == container.id.as_str())
        })
    }

    /// The outcome of the last inspection of a container: `delegated`, `already_right`, or a skip reason.
    #[track_caller]
    pub(crate) fn outcome(&self, container: &Container) -> String {
        self.record(container)["outcome"].as_str().unwrap().to_owned()
    }

    /// Waits until the last inspection of a container had this outcome.
    #[track_caller]
    pub(crate) fn wait_for_outcome(&self, container: &Container, outcome: &str) {
        wait_for(outcome, || (self.outcome(container) == outcome).then_some(()));
    }

    /// The current text of `/metrics`. The server may answer with a text that is up to a second old, so this
    /// waits for a new one.
    #[track_caller]
    pub(crate) fn exposition(&self) -> String {
        thread::sleep(Duration::from_millis(1100));
        // The text ends with a newline, which the harness trims.
        self.get("/metrics") + "\n"
    }

    /// The body of an HTTP page.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> String {
        let url = format!("http://{HTTP}{path}");
        match &self.home {
            Home::Node(_) => self.node.run(["busybox", "wget", "-qO-", &url]),
            Home::Pod(pod) => pod.get(self.node, &url),
        }
    }

    /// A check, as the agent itself has made it; waits for the first ones.
    #[track_caller]
    pub(crate) fn check(&self, id: &str) -> Value {
        wait_for(id, || {
            let state: Value = serde_json::from_str(&self.get("/api/v1/state")).unwrap();
            state["checks"].as_array().into_iter().flatten().find(|check| check["id"] == id).cloned()
        })
    }

    /// The sum of a metric's samples that have all these labels.
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

    /// Whether the agent is connected to a peer: `cri`, `nri` or `systemd`.
    pub(crate) fn is_connected(&self, peer: &str) -> bool {
        self.metric(&format!("usernsd_{peer}_up"), &[]) == 1.0
    }

    /// The PID of the agent on this machine.
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
