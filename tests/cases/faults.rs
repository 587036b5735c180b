//! The agent dies or its peers restart in the middle of a storm: containers start nevertheless, and in the
//! end each owns its cgroup.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::agent::{Agent, Start, node_with_binary, on_the_node};
use crate::node::{Node, Options, Suite};
use crate::pods::{Container, ContainerSpec, Pod, PodSpec, Pods, owner, wait_for};
use crate::storm::{Storm, in_parallel, privileged};

/// Containers that keep running, so that a late inspection can still succeed.
fn staying() -> Storm {
    let (pod, _) = privileged();
    Storm { pod, container: ContainerSpec::sleeping().privileged(), pods: 10, per_pod: 8 }
}

#[track_caller]
fn all_become_right(containers: &[Container]) {
    for container in containers {
        wait_for("the cgroup to be handed over", || {
            (owner(&container.cgroup).0 == container.root).then_some(())
        });
        for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            assert_eq!(container.owner(file).0, container.root, "{file}");
        }
    }
}

/// Whether a failed start is due to systemd and the OCI runtime alone: runc calls systemd while systemd or
/// the bus is away. It fails without an agent too, and a kubelet tries again.
fn is_the_runtimes_own(message: &str) -> bool {
    let systemds = ["unable to start unit", "unable to set unit properties", "message bus"];
    message.contains("runc create failed")
        && systemds.iter().any(|words| message.contains(words))
        && !message.contains("usernsd")
}

/// Starts the storm's containers, and runs `fault` when a third of them have started. None may fail.
#[track_caller]
fn storm_with(
    pods: &Pods<'_>,
    sandboxes: &[Pod],
    prefix: &str,
    fault: impl FnOnce() + Send,
) -> Vec<Container> {
    let storm = staying();
    let count = storm.pods * storm.per_pod;
    let started = AtomicUsize::new(0);
    let retries = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        let faults = scope.spawn(|| {
            while started.load(Ordering::Relaxed) < count / 3 && !failed.load(Ordering::Relaxed) {
                thread::yield_now();
                thread::sleep(std::time::Duration::from_millis(1));
            }
            fault();
        });
        struct OnPanic<'a>(&'a AtomicBool);
        impl Drop for OnPanic<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _on_panic = OnPanic(&failed);
        let made = in_parallel(count, |index| {
            let pod = &sandboxes[index % sandboxes.len()];
            let mut attempt = 0;
            let container = loop {
                let name = format!("{prefix}{index}-{attempt}");
                let container = pods.create(pod, &storm.container.clone().named(&name));
                match pods.try_start(&container) {
                    Ok(()) => break container,
                    Err(status) => {
                        assert!(is_the_runtimes_own(status.message()), "{}", status.message());
                        retries.fetch_add(1, Ordering::Relaxed);
                    }
                }
                attempt += 1;
                assert!(attempt < 5, "it does not start at all");
            };
            started.fetch_add(1, Ordering::Relaxed);
            container
        });
        faults.join().unwrap();
        println!(
            "{prefix}: {count} started, {} more failed without systemd",
            retries.load(Ordering::Relaxed)
        );
        for container in &made {
            assert!(pods.is_running(container));
        }
        made
    })
}

fn node() -> Option<Node> {
    node_with_binary(Options::default())
}

#[test]
fn containers_become_right_if_the_agent_is_killed_in_a_storm() {
    let Some(node) = node() else { return };
    killed(&node, on_the_node);
}

pub(crate) fn killed(node: &Node, start: Start) {
    let pods = Pods::connect(node);
    let agent = start(node);
    let sandboxes = staying().run_pods(&pods);
    let made = storm_with(&pods, &sandboxes, "c", || agent.kill());
    let missed = made.iter().filter(|container| container.owner("").0 == 0).count();
    println!("{missed} of {} were missed by the dead agent", made.len());
    assert!(missed > 0, "it was not killed in the middle");
    let _agent = start(node);
    all_become_right(&made);
}

#[test]
fn containers_become_right_if_the_agent_hangs_in_a_storm() {
    let Some(node) = node() else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node);
    let sandboxes = staying().run_pods(&pods);
    // It keeps its connections open and answers nothing; the runtime waits two seconds for it, once.
    let pid = nix::unistd::Pid::from_raw(agent.pid());
    let signal = |signal| nix::sys::signal::kill(pid, signal).unwrap();
    let made = storm_with(&pods, &sandboxes, "c", || signal(Signal::SIGSTOP));
    signal(Signal::SIGCONT);
    all_become_right(&made);
    // It has reconnected to the runtime by itself.
    wait_for("NRI", || agent.is_connected("nri").then_some(()));
    let made = storm_with(&pods, &sandboxes, "d", || ());
    all_become_right(&made);
}

#[test]
fn a_log_that_nobody_reads_delays_nobody() {
    let Some(node) = node() else { return };
    let pods = Pods::connect(&node);
    // The standard error is a full pipe that is open and never read.
    let line = "mkfifo /run/unread; sleep 1000 </run/unread & \
                timeout 1 dd if=/dev/zero of=/run/unread bs=4096 2>/dev/null; \
                exec usernsd agent --http 127.0.0.1:9564 2>/run/unread";
    let _agent = node.spawn(["sh", "-c", line]);
    let metrics = || {
        let output = node.exec(["busybox", "wget", "-qO-", "http://127.0.0.1:9564/metrics"]);
        String::from_utf8(output.stdout).unwrap()
    };
    wait_for("the agent", || metrics().contains("usernsd_nri_up 1").then_some(()));
    let sandboxes = staying().run_pods(&pods);
    let made = storm_with(&pods, &sandboxes, "c", || ());
    all_become_right(&made);
    let fixed = format!("usernsd_fixes_total{{action=\"chown_cgroup\"}} {}", made.len());
    assert!(metrics().contains(&fixed), "{}", metrics());
    // All were handled over NRI: the runtime never disconnected the plugin.
    assert!(metrics().contains("usernsd_nri_reconnects_total 0"), "{}", metrics());
}

#[test]
fn the_agent_serves_containers_after_the_runtime_restarts() {
    let Some(node) = node() else { return };
    runtime_restarts(&node, on_the_node);
}

pub(crate) fn runtime_restarts(node: &Node, start: Start) {
    let pods = Pods::connect(node);
    let mut agent = start(node);
    let sandboxes = staying().run_pods(&pods);
    let mut made = storm_with(&pods, &sandboxes, "c", || ());
    node.restart_unit("containerd.service");
    pods.wait_until_it_answers();
    // At once, whether the agent has reconnected or not.
    made.extend(storm_with(&pods, &sandboxes, "d", || ()));
    all_become_right(&made);
    wait_for("NRI", || agent.is_connected("nri").then_some(()));
    wait_for("CRI", || agent.is_connected("cri").then_some(()));
    assert!(agent.is_alive());
    // Again before the first instruction, not only eventually.
    let (pod, first) = privileged();
    let storm = Storm { pod, container: first, pods: 10, per_pod: 2 };
    let sandboxes = storm.run_pods(&pods);
    for (container, started) in storm.run(&pods, &sandboxes).0 {
        assert_eq!((started, pods.exit_code(&container)), (Ok(()), 0), "{}", container.log());
    }
}

#[test]
fn the_agent_serves_containers_after_dbus_restarts() {
    let Some(node) = node() else { return };
    bus_restarts(&node, on_the_node);
}

pub(crate) fn bus_restarts(node: &Node, start: Start) {
    let pods = Pods::connect(node);
    let mut agent = start(node);
    let sandboxes = staying().run_pods(&pods);
    let mut made = storm_with(&pods, &sandboxes, "c", || node.restart_unit("dbus.service"));
    made.extend(storm_with(&pods, &sandboxes, "d", || ()));
    all_become_right(&made);
    wait_for("systemd", || agent.is_connected("systemd").then_some(()));
    assert!(agent.is_alive());
}

#[test]
fn the_agent_serves_containers_if_systemd_is_re_executed_in_a_storm() {
    let Some(node) = node() else { return };
    systemd_is_re_executed(&node, on_the_node);
}

pub(crate) fn systemd_is_re_executed(node: &Node, start: Start) {
    let pods = Pods::connect(node);
    let mut agent = start(node);
    let sandboxes = staying().run_pods(&pods);
    let made = storm_with(&pods, &sandboxes, "c", || {
        node.run(["systemctl", "daemon-reexec"]);
        node.run(["systemctl", "daemon-reload"]);
    });
    all_become_right(&made);
    wait_for("systemd", || agent.is_connected("systemd").then_some(()));
    assert!(agent.is_alive());
}

#[test]
fn a_reload_of_systemd_forgets_no_container() {
    let Some(node) = node() else { return };
    let pods = Pods::connect(&node);
    // Over NRI, systemd's signals would be off.
    let agent = Agent::with(&node, "nri: {enabled: false}\nguard: {policy: report}\n");
    let pod = PodSpec::new("good").privileged();
    let good = pods.run(&pods.run_pod(&pod), &ContainerSpec::sleeping().privileged());
    let lost = pods.run(&pods.run_pod(&PodSpec::new("guarded")), &crate::guard::lost());
    agent.wait_for_outcome(&good, "delegated");
    agent.wait_for_outcome(&lost, "host_user_namespace");
    let left_alone = || agent.metric("usernsd_refusals_total", &[("reason", "lost_isolation")]);
    // systemd's signal comes too early for a verdict on lost isolation; the resync after a reload has it.
    node.run(["systemctl", "daemon-reload"]);
    wait_for("the verdict", || (left_alone() == 1.0).then_some(()));
    let resyncs = || agent.metric("usernsd_reconciles_total", &[("trigger", "stream_lost")]);
    wait_for("the end of that resync", || (resyncs() > 0.0).then_some(()));
    // A container that was forgotten is inspected again by each resync, which would then be its source.
    let all = || {
        let (good, lost) = (agent.record(&good), agent.record(&lost));
        (good["outcome"].clone(), good["source"].clone(), lost["outcome"].clone())
    };
    let before = (all(), left_alone(), resyncs());
    // systemd removes every unit and adds all of them again.
    node.run(["systemctl", "daemon-reload"]);
    wait_for("the resync after the reload", || (resyncs() > before.2).then_some(()));
    assert_eq!((all(), left_alone()), (before.0, before.1), "looked at as if never seen");
    assert_eq!(agent.metric("usernsd_lost_isolation_containers", &[]), 1.0);
    // A container that ends is still forgotten.
    pods.stop(&good);
    wait_for("the end", || agent.ps().iter().all(|record| record["id"] != good.id.as_str()).then_some(()));
}

#[test]
fn the_asynchronous_path_survives_all_restarts() {
    let Some(node) = node_with_binary(Options { nri: false, ..Options::default() }) else { return };
    let pods = Pods::connect(&node);
    let mut agent = Agent::with(&node, "nri:\n  enabled: false\n");
    let sandboxes = staying().run_pods(&pods);
    let mut made = storm_with(&pods, &sandboxes, "c", || {
        node.run(["systemctl", "daemon-reexec"]);
    });
    node.restart_unit("dbus.service");
    wait_for("systemd", || agent.is_connected("systemd").then_some(()));
    made.extend(storm_with(&pods, &sandboxes, "d", || ()));
    node.restart_unit("containerd.service");
    pods.wait_until_it_answers();
    wait_for("CRI", || agent.is_connected("cri").then_some(()));
    made.extend(storm_with(&pods, &sandboxes, "e", || ()));
    all_become_right(&made);
    assert!(agent.is_alive());
}

#[test]
fn the_agent_changes_nothing_when_it_stops() {
    let Some(node) = node() else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node);
    let storm = Storm { pods: 2, per_pod: 2, ..staying() };
    let sandboxes = storm.run_pods(&pods);
    let made: Vec<_> = storm.run(&pods, &sandboxes).0.into_iter().map(|(container, _)| container).collect();
    all_become_right(&made);
    assert!(agent.terminate().success());
    assert!(!node.path("run/usernsd/usernsd.sock").exists());
    all_become_right(&made);
    assert!(made.iter().all(|container| pods.is_running(container)));
}

#[test]
fn a_node_with_old_versions_is_served() {
    // systemd 252, and a runtime without NRI, without events and without user namespaces.
    let Some(node) = node_with_binary(Options { suite: Suite::Bookworm, ..Options::default() }) else {
        return;
    };
    let pods = Pods::connect(&node);
    let mut agent = Agent::start(&node);
    let before = pods.run_pod(&PodSpec::new("host").in_host_user_namespace());
    let before = pods.run(&before, &ContainerSpec::sleeping());
    wait_for("CRI", || agent.is_connected("cri").then_some(()));
    wait_for("systemd", || agent.is_connected("systemd").then_some(()));
    agent.wait_for_outcome(&before, "host_user_namespace");
    assert!(!agent.is_connected("nri"));
    // The unit's properties in the form of that systemd version, without information from the runtime.
    node.run(["systemctl", "daemon-reexec"]);
    wait_for("systemd", || agent.is_connected("systemd").then_some(()));
    let after = pods.run_pod(&PodSpec::new("host").in_host_user_namespace());
    let after = pods.run(&after, &ContainerSpec::sleeping());
    agent.wait_for_outcome(&after, "host_user_namespace");
    assert_eq!((before.owner(""), after.owner("")), ((0, 0), (0, 0)));
    assert!(agent.is_alive());
}
