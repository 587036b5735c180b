//! `machineconfig/units/usernsd.service` on a node: the agent's notifications to systemd, and the agent's
//! work under the restrictions of the unit.

use std::thread;
use std::time::Duration;

use crate::node::{Node, Options, Runtime};
use crate::pods::{BASE, ContainerSpec, PodSpec, Pods, wait_for};

const UNIT: &str = include_str!("../../machineconfig/units/usernsd.service");

/// A node with the binary and the unit, not started. `more` goes into a drop-in.
fn node_with_unit(runtime: Runtime, more: &str) -> Option<Node> {
    let binds = vec![(env!("CARGO_BIN_EXE_usernsd").into(), "/usr/local/bin/usernsd".to_owned())];
    let node = Node::boot_or_skip(&Options { binds, runtime, ..Options::default() })?;
    node.write("/etc/systemd/system/usernsd.service", UNIT);
    if !more.is_empty() {
        node.write("/etc/systemd/system/usernsd.service.d/test.conf", format!("[Service]\n{more}\n"));
    }
    node.run(["systemctl", "daemon-reload"]);
    Some(node)
}

/// Starts the unit; with Type=notify this returns when the agent has reported readiness.
#[track_caller]
fn start(node: &Node) {
    // An enabled unit stays loaded when it has ended.
    node.run(["systemctl", "enable", "--now", "--quiet", "usernsd"]);
    // Readiness does not depend on NRI, because a node may have none.
    wait_for("NRI", || node.journal("usernsd").contains("joined the runtime over NRI").then_some(()));
}

/// A property of the unit.
#[track_caller]
fn property(node: &Node, name: &str) -> String {
    node.run(["systemctl", "show", "usernsd", "--value", "--property", name])
}

/// A line of the agent's `/proc/PID/status`.
#[track_caller]
fn status_line(node: &Node, key: &str) -> String {
    let status = node.run(["cat", &format!("/proc/{}/status", property(node, "MainPID"))]);
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// The result of systemd as PID 1 of a privileged container: its state or its exit code.
#[track_caller]
pub(crate) fn privileged_systemd(node: &Node) -> Result<String, i32> {
    let pods = Pods::connect(node);
    let pod = pods.run_pod(&PodSpec::new("systemd").privileged());
    let container = pods.run(&pod, &ContainerSpec::systemd().privileged().env("container", "oci"));
    let state = pods.systemd_state(&container);
    if state.is_ok() {
        assert_eq!(container.owner("").0, BASE);
    }
    pods.remove_pod(&pod);
    state
}

/// Whether a container that lost its isolation while there was no agent can run its program: many versions
/// of CRI-O forget the ID mappings of their pods when they restart (cri-o#10014). When the agent refuses the
/// start, CRI-O logs that and continues, so only a signal stops it. The process does not belong to root.
#[track_caller]
fn lost_container_runs(node: &Node) -> bool {
    let pods = Pods::connect(node);
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    node.restart_unit("crio.service");
    pods.wait_until_it_answers();
    let lost = pods.create(&pod, &ContainerSpec::script("echo ran; sleep 1000").user(1000));
    start(node);
    // A failed start removes the container, and its program has never run. The log may have lines of runc, too.
    let has_run = || lost.log().lines().any(|line| line == "ran");
    let runs = pods.try_start(&lost).is_ok()
        && wait_for("the container", || match (pods.is_running(&lost), has_run()) {
            (_, true) => Some(true),
            (false, false) => Some(false),
            (true, false) => None,
        });
    assert!(runs || !has_run());
    pods.remove_pod(&pod);
    runs
}

#[test]
fn the_service_runs_hardened_and_stops() {
    let Some(node) = node_with_unit(Runtime::Containerd, "") else { return };
    // Any message of systemd about the file is a mistake in the file.
    let verdict = node.exec(["systemd-analyze", "verify", "/etc/systemd/system/usernsd.service"]);
    assert!(verdict.status.success(), "{verdict:?}");
    assert_eq!(String::from_utf8_lossy(&verdict.stderr).trim(), "");
    node.write("/var/lib/etcd/member/key", "KEY");
    start(&node);
    // Not even another process of its mount namespace, with all capabilities, sees the cluster's database.
    let inside = ["nsenter", "--mount", "--target", &property(&node, "MainPID")];
    let read = |path: &str| node.exec([&inside[..], &["cat", path]].concat()).status.success();
    assert!(read("/etc/hostname") && !read("/var/lib/etcd/member/key"));
    assert_eq!(property(&node, "ActiveState"), "active");
    // CAP_CHOWN 0, CAP_KILL 5. CAP_SYS_PTRACE (19) is held by the observer, which the agent starts.
    for (set, want) in
        [("CapEff", "0000000000000021"), ("CapPrm", "0000000000000021"), ("CapBnd", "0000000000080021")]
    {
        assert_eq!(status_line(&node, set), want, "{set}");
    }
    // systemd 252 is older than Landlock, and its list would forbid it.
    assert!(!node.journal("usernsd").contains("Landlock"), "{}", node.journal("usernsd"));
    assert_eq!(status_line(&node, "NoNewPrivs"), "1");
    assert_eq!(status_line(&node, "Seccomp"), "2");
    assert_eq!(privileged_systemd(&node), Ok("running".to_owned()));

    let pods = Pods::connect(&node);
    let annotated = pods.run_pod(&PodSpec::new("annotated").annotated("usernsd.io/systemd", "true"));
    let container = pods.run(&annotated, &ContainerSpec::systemd());
    assert_eq!(pods.systemd_state(&container), Ok("running".to_owned()));
    let journal = node.journal("usernsd");
    assert!(!journal.contains("could not"), "{journal}");

    node.run(["systemctl", "stop", "usernsd"]);
    assert_eq!(property(&node, "Result"), "success");
    // CLD_EXITED with 0: it ended by itself and was not killed.
    assert_eq!(
        (property(&node, "ExecMainCode"), property(&node, "ExecMainStatus")),
        ("1".into(), "0".into())
    );
    // Other containers may have mounted the directory.
    assert!(node.path("/run/usernsd").is_dir());
    assert!(!node.path("/run/usernsd/usernsd.sock").exists());
    assert!(pods.is_running(&container), "what was handed over stays so");
}

#[test]
fn chown_and_ptrace_are_needed() {
    for capability in ["CAP_CHOWN", "CAP_SYS_PTRACE"] {
        let without = format!("CapabilityBoundingSet=~{capability}");
        let Some(node) = node_with_unit(Runtime::Containerd, &without) else { return };
        // Without CAP_SYS_PTRACE the agent does not start, which does no harm.
        node.exec(["systemctl", "start", "usernsd"]);
        assert_eq!(privileged_systemd(&node), Err(255), "without {capability}");
    }
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn kill_is_needed_if_the_runtime_ignores_a_refusal() {
    for (more, runs) in [("", false), ("CapabilityBoundingSet=~CAP_KILL", true)] {
        let Some(node) = node_with_unit(Runtime::Crio, more) else { return };
        // A CRI-O that keeps the mappings has nothing to refuse.
        let forgets = node.crio_version().forgets_mappings_on_restart();
        assert_eq!(lost_container_runs(&node), runs || !forgets, "{more}");
    }
}

/// A shorter watchdog interval, so that a hang is noticed sooner.
const SOON: &str = "WatchdogSec=1\nTimeoutAbortSec=1\nRestartSec=100ms";

#[test]
fn the_watchdog_ends_an_agent_that_hangs() {
    let Some(node) = node_with_unit(Runtime::Containerd, SOON) else { return };
    start(&node);
    let first = property(&node, "MainPID");
    // Three times as long as systemd's watchdog permits.
    thread::sleep(Duration::from_secs(3));
    assert_eq!((property(&node, "MainPID"), property(&node, "NRestarts")), (first.clone(), "0".to_owned()));

    node.run(["kill", "-STOP", &first]);
    wait_for("another agent", || {
        (property(&node, "NRestarts") == "1" && property(&node, "ActiveState") == "active").then_some(())
    });
    assert_ne!(property(&node, "MainPID"), first);
    let journal = node.journal("usernsd");
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    assert_eq!(privileged_systemd(&node), Ok("running".to_owned()));
}
