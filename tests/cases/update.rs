//! Agents that replace one another, as in a DaemonSet with `maxSurge`: the next one is in its place
//! before the one before it goes.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::agent::node_with_binary;
use crate::node::{Node, Options, Process, Runtime};
use crate::pods::{Pods, wait_for};
use crate::storm;

const LOG: &str = "/run/usernsd-test/log";
/// Containers are made in so many lanes at once.
const LANES: usize = 4;
/// So many agents follow the first.
const UPDATES: usize = 6;

/// An agent with a state socket of its own, as in a pod of its own, once it is in its place.
fn in_its_place(node: &Node, number: usize) -> Process {
    let socket = format!("/run/usernsd-{number}/usernsd.sock");
    let line = format!("exec usernsd agent --state-socket {socket} --log-format json 2>>{LOG}");
    let agent = node.spawn(["sh", "-c", &line]);
    wait_for("the agent in its place", || {
        node.exec(["usernsd", "ps", "--ready", "--socket", &socket]).status.success().then_some(())
    });
    agent
}

/// Ends the makers of containers, also where an assertion fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_update_misses_no_container_on_containerd() {
    an_update_misses_no_container(Options::default());
}

#[test]
fn an_update_misses_no_container_on_crio() {
    an_update_misses_no_container(Options { runtime: Runtime::Crio, ..Options::default() });
}

fn an_update_misses_no_container(options: Options) {
    let Some(node) = node_with_binary(options) else { return };
    node.run(["mkdir", "-p", "/run/usernsd-test"]);
    let pods = Pods::connect(&node);
    let kinds = [storm::annotated(), storm::privileged()];
    let sandboxes: Vec<_> = (0..2 * LANES)
        .map(|index| {
            let (pod, container) = &kinds[index % 2];
            (pods.run_pod(&pod.clone().numbered(index)), container.clone())
        })
        .collect();
    let mut agent = in_its_place(&node, 0);
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
                    made.lock().unwrap().push(container);
                }
            });
        }
        let _ending = Ending(&is_over);
        for number in 1..=UPDATES {
            let next = in_its_place(&node, number);
            agent.signal(Signal::SIGTERM);
            agent.child().wait().unwrap();
            agent = next;
        }
    });
    let made = made.into_inner().unwrap();
    let missed = made.iter().filter(|container| pods.exit_code(container) != 0).count();
    println!("{} containers over {UPDATES} updates, {missed} missed", made.len());
    assert_eq!(missed, 0);
    // A cgroup that one agent has handed over the other one finds right.
    let log = fs::read_to_string(node.path(LOG)).unwrap();
    let mut handed_over: BTreeMap<String, usize> = BTreeMap::new();
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if line["action"] == "chown_cgroup" {
            *handed_over.entry(line["path"].to_string()).or_default() += 1;
        }
    }
    assert!(handed_over.values().all(|times| *times == 1), "{handed_over:?}");
}
