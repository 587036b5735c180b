//! Nodes without usernsd: the problems that it solves. If one of these fails, a runtime has learned to solve
//! the problem itself, and the cases with usernsd prove less than they claim.

use crate::node::{CgroupManager, Node, Options, Runtime};
use crate::pods::{BASE, ContainerSpec, PodSpec, Pods};

/// Runs systemd as PID 1, plain or privileged. Returns its state or exit code, the owner of the scope and, if
/// it exists, that of the directory that the runtime created in it.
fn systemd(pods: &Pods<'_>, handler: &str, privileged: bool) -> (Result<String, i32>, [Option<u32>; 2]) {
    let (mut pod, mut container) = (PodSpec::new("systemd").handler(handler), ContainerSpec::systemd());
    if privileged {
        (pod, container) = (pod.privileged(), container.privileged());
    }
    let pod = pods.run_pod(&pod);
    let container = pods.create(&pod, &container.env("container", "oci"));
    // The scope disappears with its process. If the process has ended, another container of the same kind is
    // examined.
    let mut sleeping = ContainerSpec::of("localhost/systemd:1", &["/bin/sleep", "1000"]).named("sleeping");
    sleeping.privileged = privileged;
    pods.start(&container);
    let state = pods.systemd_state(&container);
    let looked_at = if state.is_ok() { container } else { pods.run(&pod, &sleeping) };
    let inner = looked_at.cgroup.join("container");
    let owners = [Some(looked_at.owner("").0), inner.exists().then(|| looked_at.owner("container").0)];
    pods.remove_pod(&pod);
    (state, owners)
}

#[test]
fn containerd_starts_no_systemd_in_a_user_namespace() {
    let Some(node) = Node::boot_or_skip(&Options::default()) else { return };
    let pods = Pods::connect(&node);
    for privileged in [false, true] {
        assert_eq!(systemd(&pods, "", privileged), (Err(255), [Some(0), None]), "privileged: {privileged}");
    }
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_with_runc_starts_no_privileged_systemd() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = Node::boot_or_skip(&options) else { return };
    let pods = Pods::connect(&node);
    let running = || Ok("running".to_owned());
    assert_eq!(systemd(&pods, "runc", false), (running(), [Some(BASE), None]));
    assert_eq!(systemd(&pods, "runc", true), (Err(255), [Some(0), None]));
    // crun gives every container its own directory in the scope.
    for privileged in [false, true] {
        assert_eq!(systemd(&pods, "crun", privileged), (running(), [Some(0), Some(BASE)]));
    }
}

#[test]
fn a_pod_is_created_as_requested() {
    let options = Options { cgroup_manager: CgroupManager::Cgroupfs, ..Options::default() };
    for cgroupfs in [false, true] {
        let options = if cgroupfs { options.clone() } else { Options::default() };
        let Some(node) = Node::boot_or_skip(&options) else { return };
        let pods = Pods::connect(&node);
        let spec = PodSpec { cgroupfs, ..PodSpec::new("p").mapped(&[(0, 300_000, 2000)]) };
        let pod = pods.run_pod(&spec);
        let container = pods.run(&pod, &ContainerSpec::sleeping().user(1000));
        assert!(pods.is_running(&container));
        let map = pods.proc(&container, "uid_map");
        let map: Vec<_> = map.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(map, [["0", "300000", "2000"]]);
        assert!(pods.proc(&container, "status").contains("\nUid:\t301000\t"));
        assert_eq!(container.owner("cgroup.procs"), (0, 0));
        assert!(!pods.status(&container).spec["linux"]["cgroupsPath"].as_str().unwrap().is_empty());
        assert_eq!(pods.exec(&container, &["/bin/id", "-u"]).stdout, "1000");
        pods.stop(&container);
        pods.remove(&container);

        let spec = ContainerSpec::script("echo said; exit 3").named("brief");
        let brief = pods.run(&pod, &spec);
        assert_eq!(pods.exit_code(&brief), 3);
        assert_eq!(brief.log(), "said\n");
        pods.remove_pod(&pod);
        assert!(!brief.cgroup.exists());
    }
}
