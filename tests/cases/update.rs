//! Agents that replace one another, as in a DaemonSet with `maxSurge`: the next one has joined before its
//! predecessor ends. With agents of this version and with those of the previous version, which
//! `USERNSD_TEST_BEFORE` names, in both directions.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::agent::node_with_binary;
use crate::launched::plugin;
use crate::node::{Node, Options, Process, Runtime, report_skipped};
use crate::pods::Pods;
use crate::storm;

const LOG: &str = "/run/usernsd-test/log";
/// Number of threads that create containers.
const LANES: usize = 4;
/// Number of agents after the first.
const UPDATES: usize = 6;

/// The binary under test on a node, and that of the previous version.
const NOW: &str = "usernsd";
const BEFORE: &str = "/usr/local/bin/usernsd-before";
/// The directory from which the runtime launches the plugin.
const PLUGIN: &str = "/opt/nri/plugins/90-usernsd";

/// How agent and exporter are distributed over processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    /// The exporter is a separate process.
    Sidecar,
    /// Both in one process.
    Combined,
}

/// An agent, and its exporter if that is a separate process.
struct Instance {
    agent: Process,
    exporter: Option<Process>,
}

impl Instance {
    /// Starts an agent with its own state socket, as in its own pod, and returns when it has joined.
    fn in_its_place(node: &Node, binary: &str, topology: Topology, number: usize) -> Instance {
        let socket = format!("/run/usernsd-{number}/usernsd.sock");
        let http = format!("127.0.0.1:{}", 9600 + number);
        let serve = if topology == Topology::Combined { format!("--http {http}") } else { String::new() };
        let line = format!("exec {binary} agent --state-socket {socket} {serve} --log-format json 2>>{LOG}");
        let agent = node.spawn(["sh", "-c", &line]);
        // The agent first waits for a quiet moment of the runtime, for longer if there is none.
        let since = Instant::now();
        loop {
            let ready = node.exec([NOW, "ps", "--ready", "--socket", &socket]);
            if ready.status.success() {
                break;
            }
            let why = String::from_utf8_lossy(&ready.stderr).into_owned();
            assert!(
                since.elapsed() < Duration::from_secs(240),
                "{why}{}",
                node.run(["tail", "-n", "5", LOG])
            );
            thread::sleep(Duration::from_millis(20));
        }
        let exporter = (topology == Topology::Sidecar).then(|| {
            let line = format!(
                "exec {binary} exporter --allow-root --state-socket {socket} --http {http} 2>>{LOG}.exporter"
            );
            node.spawn(["sh", "-c", &line])
        });
        Instance { agent, exporter }
    }

    fn end(mut self) {
        for process in [Some(&mut self.agent), self.exporter.as_mut()].into_iter().flatten() {
            process.signal(Signal::SIGTERM);
            process.child().wait().unwrap();
        }
    }
}

/// Ends the threads that create containers, also if an assertion fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Creates containers that check themselves while `change` runs; none may be missed, and no cgroup may be
/// delegated twice.
fn misses_none(node: &Node, what: &str, change: impl FnOnce()) {
    let pods = Pods::connect(node);
    let kinds = [storm::annotated(), storm::privileged()];
    let sandboxes: Vec<_> = (0..2 * LANES)
        .map(|index| {
            let (pod, container) = &kinds[index % 2];
            (pods.run_pod(&pod.clone().numbered(index)), container.clone())
        })
        .collect();
    let (is_over, made) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for lane in 0..LANES {
            let (pods, sandboxes, is_over, made) = (&pods, &sandboxes, &is_over, &made);
            scope.spawn(move || {
                for count in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let (pod, spec) = &sandboxes[2 * lane + count % 2];
                    let container = pods.run(pod, &spec.clone().named(&format!("c{lane}-{count}")));
                    made.lock().unwrap().push(pods.exit_code(&container));
                    // As a kubelet does, so that the list has a realistic length.
                    pods.remove(&container);
                }
            });
        }
        let _ending = Ending(&is_over);
        change();
    });
    let made = made.into_inner().unwrap();
    let missed = made.iter().filter(|code| **code != 0).count();
    println!("{}, {what}: {} containers, {missed} missed", pods.runtime_name, made.len());
    assert_eq!(missed, 0);
    // A cgroup that one agent has delegated is right for the other one.
    let log = fs::read_to_string(node.path(LOG)).unwrap();
    let mut handed_over: BTreeMap<String, usize> = BTreeMap::new();
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if line["action"] == "chown_cgroup" {
            *handed_over.entry(line["path"].to_string()).or_default() += 1;
        }
    }
    assert!(handed_over.values().all(|times| *times == 1), "{handed_over:?}");
}

/// Runs agents of these binaries, one after another.
fn replace_one_another(
    runtime: Runtime,
    topology: Topology,
    binds: Vec<(PathBuf, String)>,
    binaries: &[&str],
) {
    let Some(node) = node_with_binary(Options { runtime, binds, ..Options::default() }) else { return };
    node.run(["mkdir", "-p", "/run/usernsd-test"]);
    let mut last = Some(Instance::in_its_place(&node, binaries[0], topology, 0));
    misses_none(&node, &format!("{topology:?}, {} agents follow the first", binaries.len() - 1), || {
        for (number, binary) in binaries.iter().enumerate().skip(1) {
            let next = Instance::in_its_place(&node, binary, topology, number);
            last.replace(next).unwrap().end();
        }
    });
}

/// The previous version, as files for the node.
fn version_before(at: &[&str]) -> Option<Vec<(PathBuf, String)>> {
    let Some(before) = std::env::var_os("USERNSD_TEST_BEFORE").map(PathBuf::from) else {
        report_skipped("USERNSD_TEST_BEFORE does not name the binary of the version before");
        return None;
    };
    Some(at.iter().map(|at| (before.clone(), (*at).to_owned())).collect())
}

fn from_the_version_before_and_back(runtime: Runtime, topology: Topology) {
    let Some(binds) = version_before(&[BEFORE]) else { return };
    replace_one_another(runtime, topology, binds, &[BEFORE, NOW, BEFORE, NOW]);
}

/// The runtime launches the plugin of the previous version, and agents of both versions start and stop.
fn a_plugin_of_the_version_before(runtime: Runtime) {
    let Some(binds) = version_before(&[BEFORE, PLUGIN]) else { return };
    let Some(node) = node_with_binary(Options { runtime, binds, ..Options::default() }) else { return };
    node.run(["mkdir", "-p", "/run/usernsd-test"]);
    let before = plugin(&node);
    misses_none(&node, "the plugin of the version before", || {
        for (number, binary) in [BEFORE, NOW, BEFORE, NOW].into_iter().enumerate() {
            Instance::in_its_place(&node, binary, Topology::Sidecar, number).end();
        }
    });
    assert_eq!(plugin(&node), before, "the runtime dropped its plugin");
}

#[test]
fn an_update_misses_no_container_on_containerd() {
    replace_one_another(Runtime::Containerd, Topology::Sidecar, Vec::new(), &[NOW; UPDATES + 1]);
}

#[test]
fn an_update_of_agents_that_serve_http_misses_no_container_on_containerd() {
    replace_one_another(Runtime::Containerd, Topology::Combined, Vec::new(), &[NOW; UPDATES + 1]);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn an_update_misses_no_container_on_crio() {
    replace_one_another(Runtime::Crio, Topology::Sidecar, Vec::new(), &[NOW; UPDATES + 1]);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn an_update_of_agents_that_serve_http_misses_no_container_on_crio() {
    replace_one_another(Runtime::Crio, Topology::Combined, Vec::new(), &[NOW; UPDATES + 1]);
}

#[test]
#[cfg_attr(not(has_version_before), ignore = "USERNSD_TEST_BEFORE names no binary")]
fn an_update_and_a_rollback_miss_no_container_on_containerd() {
    from_the_version_before_and_back(Runtime::Containerd, Topology::Sidecar);
}

#[test]
#[cfg_attr(not(has_version_before), ignore = "USERNSD_TEST_BEFORE names no binary")]
fn an_update_and_a_rollback_with_http_miss_no_container_on_containerd() {
    from_the_version_before_and_back(Runtime::Containerd, Topology::Combined);
}

#[test]
#[cfg_attr(
    not(all(has_crio, has_version_before)),
    ignore = "USERNSD_TEST_CRIO or USERNSD_TEST_BEFORE is not set"
)]
fn an_update_and_a_rollback_miss_no_container_on_crio() {
    from_the_version_before_and_back(Runtime::Crio, Topology::Sidecar);
}

#[test]
#[cfg_attr(
    not(all(has_crio, has_version_before)),
    ignore = "USERNSD_TEST_CRIO or USERNSD_TEST_BEFORE is not set"
)]
fn an_update_and_a_rollback_with_http_miss_no_container_on_crio() {
    from_the_version_before_and_back(Runtime::Crio, Topology::Combined);
}

#[test]
#[cfg_attr(not(has_version_before), ignore = "USERNSD_TEST_BEFORE names no binary")]
fn a_plugin_of_the_previous_version_misses_no_container_on_containerd() {
    a_plugin_of_the_version_before(Runtime::Containerd);
}

#[test]
#[cfg_attr(
    not(all(has_crio, has_version_before)),
    ignore = "USERNSD_TEST_CRIO or USERNSD_TEST_BEFORE is not set"
)]
fn a_plugin_of_the_previous_version_misses_no_container_on_crio() {
    a_plugin_of_the_version_before(Runtime::Crio);
}
