//! A container in the host's user namespace, in a pod that asked for its own.

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime};
use crate::pods::{ContainerSpec, Pod, PodSpec, Pods, UserNamespace};

/// containerd uses the requested mapping, whatever the pod's mapping is.
pub(crate) fn lost() -> ContainerSpec {
    ContainerSpec { user_namespace: Some(UserNamespace::Host), ..ContainerSpec::sleeping().named("lost") }
}

/// Asserts that the container is refused with a helpful message, and that others are not.
#[track_caller]
fn assert_refused(pods: &Pods<'_>, agent: &Agent<'_>, pod: &Pod, lost: &ContainerSpec) {
    let refused = pods.try_create(pod, lost);
    let Err(status) = refused else { panic!("it was created") };
    for word in ["usernsd", "default/guarded", "host's user namespace", "Delete the pod"] {
        assert!(status.message().contains(word), "{word:?} is not in: {}", status.message());
    }
    assert!(agent.metric("usernsd_refusals_total", &[("reason", "lost_isolation")]) >= 1.0);
    let host = pods.run_pod(&PodSpec::new("host").in_host_user_namespace());
    assert!(pods.is_running(&pods.run(&host, &ContainerSpec::sleeping())));
    let fresh = pods.run_pod(&PodSpec::new("fresh"));
    assert!(pods.is_running(&pods.run(&fresh, &ContainerSpec::sleeping())));
}

/// Asserts that the container runs and is counted.
#[track_caller]
fn assert_reported(pods: &Pods<'_>, agent: &Agent<'_>, pod: &Pod, lost: &ContainerSpec) {
    let container = pods.run(pod, lost);
    assert!(pods.is_running(&container));
    let map = pods.proc(&container, "uid_map");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"], "it is not lost");
    assert_eq!(agent.outcome(&container), "host_user_namespace");
    assert_eq!(agent.record(&container)["isolation"], "lost");
    assert_eq!(agent.metric("usernsd_lost_isolation_containers", &[]), 1.0);
    assert_eq!(container.owner("").0, 0);
}

const REPORT: &str = "guard:\n  policy: report\n";

fn containerd() -> Option<Node> {
    node_with_binary(Options::default())
}

#[test]
fn containerd_a_lost_container_is_refused() {
    let Some(node) = containerd() else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::joined(&node);
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    assert!(pods.is_running(&pods.run(&pod, &ContainerSpec::sleeping())));
    assert_refused(&pods, &agent, &pod, &lost());
    // If it were privileged, it would have the machine under its control.
    let pod = pods.run_pod(&PodSpec::new("guarded").privileged());
    assert_refused(&pods, &agent, &pod, &lost().privileged());
}

#[test]
fn containerd_a_lost_container_is_refused_in_a_pod_older_than_the_agent() {
    let Some(node) = containerd() else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    let agent = Agent::joined(&node);
    assert_refused(&pods, &agent, &pod, &lost());
}

#[test]
fn containerd_a_lost_container_is_reported_if_the_guard_only_reports() {
    let Some(node) = containerd() else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, REPORT);
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    assert_reported(&pods, &agent, &pod, &lost());
}

/// A pod of a CRI-O that has been restarted since, and whether CRI-O lost the pod's ID mappings (cri-o#10014,
/// fixed in 1.35.6 and 1.37.0).
fn crio_restarted(node: &Node) -> (Pods<'_>, Pod, bool) {
    let pods = Pods::connect(node);
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    let before = pods.run(&pod, &ContainerSpec::sleeping());
    assert!(pods.proc(&before, "uid_map").contains("200000"));
    node.restart_unit("crio.service");
    pods.wait_until_it_answers();
    (pods, pod, node.crio_version().forgets_mappings_on_restart())
}

/// Asserts that the container runs in the pod's user namespace and is not counted.
#[track_caller]
fn assert_kept(pods: &Pods<'_>, agent: &Agent<'_>, pod: &Pod, kept: &ContainerSpec) {
    let container = pods.run(pod, kept);
    assert!(pods.is_running(&container));
    assert!(pods.proc(&container, "uid_map").contains("200000"));
    assert_eq!(agent.record(&container)["isolation"], "good");
    assert_eq!(agent.metric("usernsd_lost_isolation_containers", &[]), 0.0);
    assert_eq!(agent.metric("usernsd_refusals_total", &[("reason", "lost_isolation")]), 0.0);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_a_lost_container_is_refused() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    let (pods, pod, forgot) = crio_restarted(&node);
    let agent = Agent::joined(&node);
    let assert = if forgot { assert_refused } else { assert_kept };
    assert(&pods, &agent, &pod, &ContainerSpec::sleeping().named("again"));
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_a_lost_container_is_reported_if_the_guard_only_reports() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    let (pods, pod, forgot) = crio_restarted(&node);
    let agent = Agent::with(&node, REPORT);
    let assert = if forgot { assert_reported } else { assert_kept };
    assert(&pods, &agent, &pod, &ContainerSpec::sleeping().named("again"));
}
