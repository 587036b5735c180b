//! How long the container runtime of a real node waits for the agent at a container's start: the agent's own
//! `usernsd_handling_seconds`, with the cgroup controllers that the node has. `tests/node/handling.sh` runs it on two machines
//! whose kernels differ in their controllers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that meets a surprise ends"
)]

#[path = "../tests/node/mod.rs"]
mod node;
#[path = "../tests/node/pods.rs"]
mod pods;

mod common;
#[path = "common/on_node.rs"]
mod on_node;

use std::fs;
use std::time::Duration;

use common::{AFTER, Samples, number, say};
use node::{Node, Options};
use on_node::{Agent, CHOWN};
use pods::{ContainerSpec, PodSpec, Pods};

const HTTP: &str = "127.0.0.1:9564";

fn main() {
    let Some(node) = common::node(Options::default()) else { return };
    let controllers = fs::read_to_string(node.cgroup_root().join("cgroup.controllers")).unwrap();
    let controllers = controllers.split_whitespace().filter(|name| *name != "cpuset" && *name != "hugetlb");
    let controllers = controllers.collect::<Vec<_>>().join(" ");
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node, AFTER, &format!("{CHOWN}http: {{address: \"{HTTP}\"}}\n"));
    // The runtime waits while the agent gives the cgroup its owner.
    let pod = pods.run_pod(&PodSpec::new("waiting").privileged());
    let start = |name: String| {
        let container = pods.run(&pod, &ContainerSpec::sleeping().named(&name).privileged());
        assert_ne!(container.owner("").0, 0, "{}", container.cgroup.display());
        container
    };
    // The first ones after the start of an agent are not counted.
    for number in 0..2 {
        start(format!("first-{number}"));
    }
    let mut waited = Samples::default();
    let mut handed_over = Samples::default();
    let (mut sum, mut count) = handling(&node);
    for number in 0..number("USERNSD_BENCH_COUNT", 100) {
        let container = start(format!("c{number}"));
        let before = (sum, count);
        (sum, count) = handling(&node);
        assert_eq!(count, before.1 + 1, "starts that the agent handled");
        let times = [Duration::from_secs_f64(sum - before.0), agent.after(&container, "nri").unwrap()];
        say(&format!("sample: {} {}", times[0].as_micros(), times[1].as_micros()));
        waited.push(times[0]);
        handed_over.push(times[1]);
        pods.stop(&container);
    }
    let controllers = if controllers.is_empty() { "none" } else { &controllers };
    waited.row(
        &format!("containerd, NRI: usernsd_handling_seconds, controllers: {controllers}"),
        "",
        "each start by the difference of the histogram's sum",
    );
    handed_over.row(
        &format!("of that, until the hand-over, controllers: {controllers}"),
        "",
        "from the agent's log",
    );
    pods.remove_pod(&pod);
}

/// The sum of `usernsd_handling_seconds` so far, and the number of starts.
fn handling(node: &Node) -> (f64, u64) {
    // An answer may be up to a second old.
    std::thread::sleep(Duration::from_millis(1100));
    let text = node.run(["busybox", "wget", "-qO-", &format!("http://{HTTP}/metrics")]);
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).trim()
    };
    let (sum, count) = (value("usernsd_handling_seconds_sum "), value("usernsd_handling_seconds_count "));
    (sum.parse().unwrap(), count.parse().unwrap())
}
