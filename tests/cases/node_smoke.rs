//! The test node itself: it boots, answers, and leaves nothing behind.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;

use crate::node::{CgroupManager, Node, Options, Runtime, Suite};
use crate::pods::wait_for;

#[test]
fn a_node_boots_answers_and_leaves_nothing_behind() {
    let Some(node) = Node::boot_or_skip(&Options::default()) else { return };
    assert_eq!(node.run(["systemctl", "is-system-running"]), "running");
    node.wait_for_socket("run/containerd/containerd.sock", Duration::from_secs(5));
    assert!(node.nri_socket().exists());
    assert!(node.system_bus().exists());
    let images = node.run(["ctr", "--namespace=k8s.io", "images", "list", "--quiet"]);
    for name in ["pause", "busybox", "systemd"] {
        assert!(images.contains(&format!("localhost/{name}:1")), "{images}");
        assert!(node.image_archive(name).exists());
    }
    // A process from exec is below the node's cgroup and sees that as the root.
    assert!(node.run(["cat", "/proc/self/cgroup"]).contains("0::/exec"));
    assert!(node.cgroup_root().join("system.slice/containerd.service").is_dir());

    let cgroup = node.cgroup_root().to_owned();
    let state = format!("/run/usernsd-node/{}", node.name());
    let sleeping = node.spawn(["sleep", "1000"]);
    let pid = sleeping.pid();
    drop(node);
    assert!(!cgroup.exists());
    assert!(!fs::exists(state).unwrap());
    drop(sleeping);
    wait_for_end(pid);
}

#[test]
fn a_process_ends_when_it_is_terminated_or_dropped() {
    let options = Options { runtime: Runtime::None, ..Options::default() };
    let Some(node) = Node::boot_or_skip(&options) else { return };
    node.write("/run/usernsd/said", "before");
    let process = node.spawn([
        "bash",
        "-c",
        "trap 'echo after >/run/usernsd/said; exit 7' TERM; echo up >/run/up; while :; do sleep 0.02; done",
    ]);
    while !node.path("/run/up").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(process.terminate().code(), Some(7));
    assert_eq!(fs::read_to_string(node.path("/run/usernsd/said")).unwrap(), "after\n");

    let process = node.spawn(["sleep", "1000"]);
    let pid = process.pid();
    drop(process);
    wait_for_end(pid);
}

/// Its entry may stay until this machine's first process, whose child it is by then, has read its exit status.
fn wait_for_end(pid: Pid) {
    wait_for(&format!("the end of process {pid}"), || {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.map_or(true, |status| status.contains("State:\tZ (zombie)")).then_some(())
    });
}

#[test]
fn nodes_of_different_kinds_run_side_by_side() {
    let without_nri = Options { cgroup_manager: CgroupManager::Cgroupfs, nri: false, ..Options::default() };
    let old = Options { suite: Suite::Bookworm, ..Options::default() };
    let (Some(first), Some(second)) = (Node::boot_or_skip(&without_nri), Node::boot_or_skip(&old)) else {
        return;
    };
    assert!(!first.nri_socket().exists());
    assert!(second.run(["systemctl", "--version"]).starts_with("systemd 252"));
    second.restart_unit("containerd.service");
    assert_eq!(second.run(["systemctl", "is-system-running", "--wait"]), "running");
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_runs_if_its_binary_is_given() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = Node::boot_or_skip(&options) else { return };
    node.wait_for_socket("run/crio/crio.sock", Duration::from_secs(5));
    assert!(node.nri_socket().exists());
    assert_eq!(node.run(["systemctl", "is-system-running"]), "running");
}
