//! Containers that were created while the start path was empty: reported everywhere, and ended once if the
//! configuration permits it. The case plays the kubelet.

use std::time::Duration;

use crate::agent::{Agent, node_with_binary};
use crate::guard::lost;
use crate::node::{Node, Options, Runtime};
use crate::pods::{BASE, Container, ContainerSpec, Pod, PodSpec, Pods, wait_for};

const RESTART: &str = "optIn:\n  missed: restart\n";

fn asking(name: &str) -> PodSpec {
    PodSpec::new(name).annotated("usernsd.io/cgroup", "writable")
}

/// Creates and starts a container as the kubelet does at this attempt.
#[track_caller]
fn made_by_kubelet(pods: &Pods<'_>, pod: &Pod, spec: &ContainerSpec, attempt: u32) -> Container {
    let made = pods.try_create_with(pod, spec, |config| {
        config.annotations.insert("io.kubernetes.container.restartCount".to_owned(), attempt.to_string());
        config.metadata.as_mut().unwrap().attempt = attempt;
    });
    let container = made.unwrap();
    pods.start(&container);
    container
}

fn ended_by_agent(agent: &Agent<'_>) -> f64 {
    agent.metric("usernsd_fixes_total", &[("action", "end_container")])
}

/// Waits until the agent has given its reason for keeping that many containers.
#[track_caller]
fn wait_for_kept(agent: &Agent<'_>, reason: &str, times: usize) {
    let line = format!("\"reason\":\"{reason}\"");
    wait_for(reason, || (agent.log().matches(&line).count() >= times).then_some(()));
}

fn containerd() -> Option<Node> {
    node_with_binary(Options::default())
}

#[test]
fn containerd_a_missed_request_is_reported() {
    let Some(node) = containerd() else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&asking("asks"));
    let missed = made_by_kubelet(&pods, &pod, &ContainerSpec::sleeping(), 0);
    let other = pods.run_pod(&PodSpec::new("does-not"));
    let other = pods.run(&other, &ContainerSpec::sleeping());
    let agent = Agent::with(&node, "resync: {interval: 10s}\n");
    wait_for("missed", || (agent.record(&missed)["state"] == "missed").then_some(()));
    assert_eq!(agent.record(&missed)["outcome"], "read_only_mount");
    assert_eq!(agent.record(&other)["state"], "read_only");
    assert_eq!(agent.metric("usernsd_containers", &[("cgroup_state", "missed")]), 1.0);
    assert_eq!(agent.metric("usernsd_missed_total", &[("missed", "writable_cgroup")]), 1.0);
    assert!(node.run(["usernsd", "ps"]).contains("missed"));
    assert!(agent.get("/").contains("created without the writable cgroup that its pod asked for"));
    let explained = node.exec(["usernsd", "explain", &missed.id]);
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("asked for a writable cgroup in vain"), "{explained}");
    // By default no container is ended, and another inspection counts nothing twice.
    let resyncs = || agent.metric("usernsd_reconciles_total", &[("trigger", "periodic")]);
    let before = resyncs();
    wait_for("a resync", || (resyncs() > before).then_some(()));
    assert_eq!(agent.metric("usernsd_missed_total", &[("missed", "writable_cgroup")]), 1.0);
    assert!(pods.is_running(&missed) && ended_by_agent(&agent) == 0.0);
}

#[test]
fn containerd_a_missed_request_is_repaired_once() {
    let Some(node) = containerd() else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&asking("asks"));
    let missed = made_by_kubelet(&pods, &pod, &ContainerSpec::sleeping(), 0);
    // This container would not be recreated by a kubelet; the other pod requests to keep its own.
    let unmanaged = pods.run(&pod, &ContainerSpec::sleeping().named("unmanaged"));
    let keeping = pods.run_pod(&asking("keeps").annotated("usernsd.io/missed", "report").numbered(1));
    let kept = made_by_kubelet(&pods, &keeping, &ContainerSpec::sleeping(), 0);
    let agent = Agent::with(&node, RESTART);
    assert_eq!(pods.exit_code(&missed), 137);
    wait_for_kept(&agent, "not_kubelets", 1);
    wait_for_kept(&agent, "pod_opted_out", 1);
    assert!(pods.is_running(&unmanaged) && pods.is_running(&kept));
    assert_eq!(ended_by_agent(&agent), 1.0);
    let again = made_by_kubelet(&pods, &pod, &ContainerSpec::sleeping(), 1);
    wait_for("ok", || (agent.record(&again)["state"] == "ok").then_some(()));
    assert_eq!(again.owner("").0, BASE);
    assert_eq!(pods.exec(&again, &["/bin/mkdir", "/sys/fs/cgroup/mine"]).code, 0);
    // If the container is missed again it stays, because an agent has ended its predecessor.
    agent.kill();
    pods.stop(&again);
    let third = made_by_kubelet(&pods, &pod, &ContainerSpec::sleeping(), 2);
    let agent = Agent::with(&node, RESTART);
    wait_for_kept(&agent, "ended_before", 1);
    assert!(pods.is_running(&third) && ended_by_agent(&agent) == 0.0);
    assert_eq!(agent.record(&third)["state"], "missed");
}

#[test]
fn containerd_no_container_is_ended_while_the_start_path_is_empty() {
    let Some(node) = node_with_binary(Options { nri: false, ..Options::default() }) else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&asking("asks"));
    let missed = made_by_kubelet(&pods, &pod, &ContainerSpec::sleeping(), 0);
    let agent = Agent::with(&node, RESTART);
    wait_for("missed", || (agent.record(&missed)["state"] == "missed").then_some(()));
    // Long enough for several rounds, if there were any.
    std::thread::sleep(Duration::from_secs(3));
    assert!(pods.is_running(&missed) && ended_by_agent(&agent) == 0.0);
}

/// A container that runs as the host's root is ended by default, and the next one is refused.
#[test]
fn containerd_a_container_that_got_past_the_guard_is_ended() {
    let Some(node) = containerd() else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    let past = made_by_kubelet(&pods, &pod, &lost(), 0);
    let host = pods.run_pod(&PodSpec::new("host").in_host_user_namespace());
    let host = made_by_kubelet(&pods, &host, &ContainerSpec::sleeping(), 0);
    let agent = Agent::start(&node);
    assert_eq!(pods.exit_code(&past), 137);
    assert_eq!(agent.metric("usernsd_missed_total", &[("missed", "user_namespace")]), 1.0);
    assert_eq!(ended_by_agent(&agent), 1.0);
    assert!(pods.try_create(&pod, &lost().named("again")).is_err(), "the next one was not refused");
    assert!(pods.is_running(&host), "a pod that asked for nothing was met");
}

#[test]
fn containerd_no_container_is_ended_if_the_agent_only_reports_or_observes() {
    let Some(node) = containerd() else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    let past = made_by_kubelet(&pods, &pod, &lost(), 0);
    for configuration in [
        "guard:\n  missed: report\n",
        "guard:\n  policy: report\n",
        "delegation:\n  mechanism: none\nnri:\n  enabled: false\n",
    ] {
        let agent = Agent::with(&node, configuration);
        wait_for("lost", || (agent.record(&past)["isolation"] == "lost").then_some(()));
        std::thread::sleep(Duration::from_secs(2));
        assert!(pods.is_running(&past) && ended_by_agent(&agent) == 0.0, "{configuration}");
        agent.kill();
    }
}

/// CRI-O 1.25 to 1.36.3 loses the mappings of its pods when it restarts.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_a_container_that_got_past_the_guard_is_ended() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    pods.run(&pod, &ContainerSpec::sleeping());
    node.run(["systemctl", "stop", "crio.service"]);
    node.run(["systemctl", "start", "crio.service"]);
    pods.wait_until_it_answers();
    let past = made_by_kubelet(&pods, &pod, &ContainerSpec::sleeping().named("past"), 0);
    if pods.proc(&past, "uid_map").split_whitespace().nth(1) == Some(BASE.to_string().as_str()) {
        crate::node::report_skipped("this CRI-O keeps the mappings of its pods");
        return;
    }
    let agent = Agent::start(&node);
    assert_eq!(pods.exit_code(&past), 137);
    assert_eq!(ended_by_agent(&agent), 1.0);
    assert!(pods.try_create(&pod, &ContainerSpec::sleeping().named("again")).is_err());
}
