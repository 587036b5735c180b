//! A container that is inspected while it is being created: its process is in the scope but has not entered
//! its user namespace yet. A frozen pod cgroup keeps it in that state for as long as a case needs.

use std::fs;
use std::thread;

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options};
use crate::pods::{BASE, Container, ContainerSpec, Pod, PodSpec, Pods, wait_for};

fn freeze(pod_cgroup: &std::path::Path, frozen: bool) {
    fs::write(pod_cgroup.join("cgroup.freeze"), if frozen { "1" } else { "0" }).unwrap();
}

/// The processes in a container's scope, which exists once the OCI runtime has created it.
fn processes(container: &Container) -> Option<String> {
    fs::read_to_string(container.cgroup.join("cgroup.procs")).ok().filter(|pids| !pids.is_empty())
}

/// Starts a privileged container in a frozen pod, makes the agent inspect it there with `meet`, thaws the
/// pod, and returns the container once it runs.
fn met_while_frozen<'a>(
    pods: &Pods<'_>,
    pod: &Pod,
    agent: Agent<'a>,
    meet: impl FnOnce(Agent<'a>) -> Agent<'a>,
) -> (Container, Agent<'a>) {
    let container = pods.create(pod, &ContainerSpec::sleeping().privileged());
    let pod_cgroup = pods.pod_cgroup(pod);
    freeze(&pod_cgroup, true);
    let (agent, lost) = thread::scope(|scope| {
        let starting = scope.spawn(|| pods.start(&container));
        wait_for("a process in the scope", || processes(&container));
        let agent = meet(agent);
        let lost = agent.metric("usernsd_lost_isolation_containers", &[]);
        freeze(&pod_cgroup, false);
        starting.join().unwrap();
        (agent, lost)
    });
    assert_eq!(lost, 0.0, "a verdict too early");
    assert!(pods.is_running(&container));
    (container, agent)
}

/// Asserts the final state of the container, and that nothing wrong was counted before.
#[track_caller]
fn assert_right(pods: &Pods<'_>, agent: &Agent<'_>, container: &Container) {
    wait_for("the cgroup's owner", || (container.owner("").0 == BASE).then_some(()));
    let map = pods.proc(container, "uid_map");
    assert_eq!(map.split_whitespace().nth(1), Some(BASE.to_string().as_str()));
    wait_for("its record", || (agent.record(container)["isolation"] == "good").then_some(()));
    assert_eq!(agent.record(container)["state"], "ok");
    assert_eq!(agent.metric("usernsd_lost_isolation_containers", &[]), 0.0);
    assert_eq!(agent.metric("usernsd_refusals_total", &[("reason", "lost_isolation")]), 0.0);
    let log = agent.log();
    assert!(!log.contains("host's root although"), "{log}");
}

fn containerd(nri: bool) -> Option<Node> {
    node_with_binary(Options { nri, ..Options::default() })
}

#[test]
fn containerd_a_container_is_right_if_systemd_reloads_during_its_creation() {
    let Some(node) = containerd(false) else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("p").privileged());
    let (container, agent) = met_while_frozen(&pods, &pod, Agent::start(&node), |agent| {
        let resyncs = || agent.metric("usernsd_reconciles_total", &[("trigger", "stream_lost")]);
        let before = resyncs();
        node.run(["systemctl", "daemon-reload"]);
        wait_for("a resync", || (resyncs() > before).then_some(()));
        agent
    });
    assert_right(&pods, &agent, &container);
}

#[test]
fn containerd_a_container_is_right_if_an_agent_starts_during_its_creation() {
    let Some(node) = containerd(false) else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("p").privileged());
    let (container, agent) = met_while_frozen(&pods, &pod, Agent::start(&node), |agent| {
        agent.kill();
        Agent::start(&node)
    });
    assert_right(&pods, &agent, &container);
}

/// With NRI, the start itself corrects the record; a wrong count would stay.
#[test]
fn containerd_a_resync_during_a_creation_counts_nothing_wrong() {
    let Some(node) = containerd(true) else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("p").privileged());
    let agent = Agent::with(&node, "resync: {interval: 10s}\n");
    let (container, agent) = met_while_frozen(&pods, &pod, agent, |agent| {
        let resyncs = || agent.metric("usernsd_reconciles_total", &[("trigger", "periodic")]);
        let before = resyncs();
        wait_for("a resync", || (resyncs() > before).then_some(()));
        agent
    });
    assert_right(&pods, &agent, &container);
}
