//! `usernsd agent` on a real node. Separate from `common`, for the benches that create pods.

// Each bench uses only a part of this module.
#![allow(dead_code)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::node::{Node, Process};
use crate::pods::{Container, wait_for};

/// The directory of a bench on the node.
pub(crate) const DIRECTORY: &str = "/run/usernsd-bench";
/// Makes the agent delegate cgroups itself, even if it could make the runtime do so.
pub(crate) const CHOWN: &str = "delegation: {privilegedCgroupNamespace: false}\n";

/// `usernsd agent` in the node, observed from outside.
pub(crate) struct Agent<'a> {
    node: &'a Node,
    pub(crate) process: Process,
    /// The time from its start until it reported readiness.
    pub(crate) ready: Duration,
}

impl<'a> Agent<'a> {
    pub(crate) fn start(node: &'a Node, binary: &str, configuration: &str) -> Self {
        let file = |name: &str| format!("{DIRECTORY}/{name}");
        node.write(&file("config.yaml"), configuration);
        node.write(&file("log"), "");
        let socket = node.socket(&file("notify"));
        let _ = fs::remove_file(&socket);
        let notified = UnixDatagram::bind(&socket).unwrap();
        notified.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let line = format!(
            "exec env NOTIFY_SOCKET={} {binary} agent --config {} --log-format json 2>>{}",
            file("notify"),
            file("config.yaml"),
            file("log"),
        );
        let since = Instant::now();
        let process = node.spawn(["sh", "-c", &line]);
        let mut message = [0; 4096];
        loop {
            let length = notified.recv(&mut message).unwrap();
            if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1") {
                break;
            }
        }
        let ready = since.elapsed();
        let agent = Self { node, process, ready };
        wait_for("NRI", || {
            let joined = agent.log().contains("joined the runtime over NRI");
            (joined || configuration.contains("enabled: false")).then_some(())
        });
        agent
    }

    fn log(&self) -> String {
        fs::read_to_string(self.node.path(&format!("{DIRECTORY}/log"))).unwrap_or_default()
    }

    /// How long after the message the cgroup was delegated; `None` if another trigger caused it.
    pub(crate) fn after(&self, container: &Container, source: &str) -> Option<Duration> {
        let short = &container.id[..13];
        let line = wait_for("a line on the container", || {
            self.log()
                .lines()
                .find(|line| line.contains(short) && line.contains("chown_cgroup"))
                .map(str::to_owned)
        });
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        (line["source"] == source).then(|| Duration::from_micros(line["after_us"].as_u64().unwrap()))
    }
}
