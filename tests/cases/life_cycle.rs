//! The life of a pod's containers after their first start: every line of the table in docs/annotations.md
//! that can be caused over CRI.

use std::fs;

use usernsd_peers::cri::v1;

use crate::agent::Agent;
use crate::node::{CgroupManager, Node, Options, Runtime};
use crate::ownership::changed;
use crate::pods::{BASE, Container, ContainerSpec, Pod, PodSpec, Pods, owner};

fn writable() -> PodSpec {
    PodSpec::new("p").annotated("usernsd.io/cgroup", "writable")
}

fn makes_a_cgroup(pods: &Pods<'_>, container: &Container, name: &str) -> bool {
    pods.exec(container, &["/bin/mkdir", &format!("/sys/fs/cgroup/{name}")]).code == 0
}

/// Replaces a container that has ended, as a kubelet does: with a new one of the same name.
fn again(pods: &Pods<'_>, pod: &Pod, spec: &ContainerSpec) -> Container {
    let made = pods.try_create_with(pod, spec, |config| config.metadata.as_mut().unwrap().attempt = 1);
    let made = made.unwrap();
    pods.start(&made);
    made
}

#[test]
fn each_container_of_a_pod_is_served_whenever_it_is_created_on_containerd() {
    let Some(node) = crate::agent::node_with_binary(Options::default()) else { return };
    each_container_whenever_it_is_made(&node);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn each_container_of_a_pod_is_served_whenever_it_is_created_on_crio() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = crate::agent::node_with_binary(options) else { return };
    each_container_whenever_it_is_made(&node);
}

fn each_container_whenever_it_is_made(node: &Node) {
    let pods = Pods::connect(node);
    let agent = Agent::start(node);
    let pod = pods.run_pod(&writable().annotated("cgroup.usernsd.io/container.setup", "read-only"));

    // An init container runs to its end before the others, selected by its own annotation and by the pod's.
    let script = ContainerSpec::script("mkdir /sys/fs/cgroup/x 2>/dev/null && echo made || echo refused");
    for (name, want) in [("setup", "refused\n"), ("migrate", "made\n")] {
        let init = pods.run(&pod, &script.clone().named(name));
        assert_eq!(pods.exit_code(&init), 0);
        // CRI-O's runc may print a warning first.
        assert!(init.log().ends_with(want), "{name}: {}", init.log());
    }
    // An init container that keeps running, which Kubernetes calls a sidecar, and the main container.
    let sidecar = pods.run(&pod, &ContainerSpec::sleeping().named("proxy"));
    let main = pods.run(&pod, &ContainerSpec::sleeping().named("main"));
    assert!(makes_a_cgroup(&pods, &sidecar, "x") && makes_a_cgroup(&pods, &main, "x"));
    // One of them ends and is created again, while the other one keeps running.
    pods.stop(&sidecar);
    let before = changed(&main.cgroup);
    let second = again(&pods, &pod, &ContainerSpec::sleeping().named("proxy"));
    assert_ne!(second.id, sidecar.id);
    assert!(makes_a_cgroup(&pods, &second, "y"));
    assert_eq!(owner(&second.cgroup).0, BASE);
    assert_eq!(changed(&main.cgroup), before, "the neighbour was touched");
    // An ephemeral container is added while all others run.
    let debug = pods.run(&pod, &ContainerSpec::sleeping().named("debugger-x7k2p"));
    assert!(makes_a_cgroup(&pods, &debug, "x"));
    assert_eq!(agent.record(&debug)["name"], "debugger-x7k2p");
}

/// Creates cgroups until the kernel refuses; returns their number.
fn makes_all_it_may(pods: &Pods<'_>, container: &Container) -> u32 {
    let script =
        "i=0; while mkdir /sys/fs/cgroup/$i 2>/tmp/why; do i=$((i + 1)); done; echo $i; cat /tmp/why";
    let output = pods.exec(container, &["/bin/sh", "-c", script]);
    assert!(output.stdout.contains("Resource temporarily unavailable"), "{output:?}");
    output.stdout.lines().next().unwrap().parse().unwrap()
}

/// Runs a case with each OCI runtime, on a node of its own.
fn with_each_handler(runtime: Runtime, case: fn(&Node, &str)) {
    for handler in ["", "crun"] {
        let options = Options { runtime, ..Options::default() };
        let Some(node) = crate::agent::node_with_binary(options) else { return };
        case(&node, handler);
    }
}

#[test]
fn a_greedy_container_leaves_room_for_the_others_of_its_pod_on_containerd() {
    with_each_handler(Runtime::Containerd, a_greedy_container_leaves_room);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_greedy_container_leaves_room_for_the_others_of_its_pod_on_crio() {
    with_each_handler(Runtime::Crio, a_greedy_container_leaves_room);
}

#[test]
fn a_container_that_closes_its_cgroup_harms_no_other_on_containerd() {
    with_each_handler(Runtime::Containerd, a_closed_cgroup);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_container_that_closes_its_cgroup_harms_no_other_on_crio() {
    with_each_handler(Runtime::Crio, a_closed_cgroup);
}

/// The owner of a cgroup may take the permissions on it from everyone else, and the agent has no capability to ignore
/// that.
fn a_closed_cgroup(node: &Node, handler: &str) {
    let pods = Pods::connect(node);
    let agent = Agent::start(node);
    let pod = pods.run_pod(&writable().handler(handler));
    let spec = |name: &str| ContainerSpec::sleeping().named(name);
    let own = |container: &Container| match handler {
        "crun" => container.cgroup.join("container"),
        _ => container.cgroup.clone(),
    };
    let bound = |container: &Container| -> u32 {
        let text = fs::read_to_string(own(container).join("cgroup.max.descendants")).unwrap();
        text.trim().parse().unwrap()
    };
    let is_right = |agent: &Agent<'_>, container: &Container, what: &str| {
        let outcome = agent.outcome(container);
        // Newer OCI runtimes hand the cgroup over themselves, and leave its limits to the agent.
        assert!(["delegated", "already_right"].contains(&outcome.as_str()), "{what}: {outcome}");
        assert_eq!(owner(&own(container)).0, BASE, "{what}");
    };
    // The whole cgroup, single files of it, a child, and a threaded one in a deep tree; the script, and whether the
    // agent can still read what it needs.
    let scripts = [
        ("chmod 0 .", false),
        ("mkdir -p a/b/c/d; echo threaded >a/b/c/d/cgroup.type; chmod 0 a/b/c", true),
        ("mkdir x; echo 1 >x/cgroup.freeze; chmod 0 x .", false),
        ("chmod 0 cgroup.procs cgroup.threads cgroup.subtree_control", true),
        ("mkdir x; chmod 0 x", true),
    ];
    let mut made = Vec::new();
    for (index, (script, _)) in scripts.into_iter().enumerate() {
        let container = pods.run(&pod, &spec(&format!("c{index}")));
        // The one before has closed its cgroup.
        is_right(&agent, &container, script);
        assert!(makes_a_cgroup(&pods, &container, "mine") && bound(&container) > 0, "{script}");
        assert_eq!(pods.exec(&container, &["/bin/rmdir", "/sys/fs/cgroup/mine"]).code, 0);
        let output = pods.exec(&container, &["/bin/sh", "-c", &format!("cd /sys/fs/cgroup && {script}")]);
        assert_eq!(output.code, 0, "{script}: {output:?}");
        made.push(container);
    }
    // An agent that starts inspects all of them again.
    let check = |agent: &Agent<'_>| {
        for ((script, is_readable), container) in scripts.into_iter().zip(&made) {
            let want = if is_readable { "already_right" } else { "closed" };
            assert_eq!(agent.outcome(container), want, "{script}");
            assert_eq!(agent.record(container)["isolation"], "good", "{script}");
        }
        for action in ["chown_cgroup", "set_limits"] {
            assert_eq!(agent.metric("usernsd_fix_failures_total", &[("action", action)]), 0.0);
        }
        assert_eq!(agent.metric("usernsd_scrape_collector_success", &[("collector", "cgroup")]), 1.0);
        assert!(agent.metric("usernsd_pod_cgroup_descendants", &[]) > 0.0);
    };
    agent.kill();
    let agent = Agent::start(node);
    check(&agent);
    assert!(node.run(["usernsd", "ps", "-o", "wide"]).contains("closed"));
    let last = pods.run(&pod, &spec("last"));
    is_right(&agent, &last, "last");
    // Once the container permits it again, it is read again.
    agent.kill();
    assert_eq!(pods.exec(&made[0], &["/bin/chmod", "755", "/sys/fs/cgroup"]).code, 0);
    assert_eq!(Agent::start(node).outcome(&made[0]), "already_right");
}

fn a_greedy_container_leaves_room(node: &Node, handler: &str) {
    let pods = Pods::connect(node);
    let agent = Agent::start(node);
    let pod = pods.run_pod(&writable().handler(handler));
    let spec = |name: &str| ContainerSpec::sleeping().named(name);
    let own = |container: &Container| match handler {
        "crun" => container.cgroup.join("container"),
        _ => container.cgroup.clone(),
    };
    let bound =
        |container: &Container| fs::read_to_string(own(container).join("cgroup.max.descendants")).unwrap();

    // Several greedy containers; each time the next one starts and gets its share of the rest.
    let first = pods.run(&pod, &spec("main"));
    let most = makes_all_it_may(&pods, &first);
    assert_eq!(bound(&first), format!("{most}\n"));
    assert!((90..=108).contains(&most), "{most}");
    // It is full, although the pod is not half full: that is what the alert must see.
    let used = |metric: &str| agent.metric(&format!("usernsd_pod_cgroup_descendants{metric}"), &[]);
    assert_eq!(used("_used_ratio"), 1.0);
    assert!(used("") < used("_max") / 2.0);
    let second = pods.run(&pod, &spec("proxy"));
    let next = makes_all_it_may(&pods, &second);
    assert!((40..most).contains(&next), "{next}");
    // The container cannot change its limit, which belongs to root.
    let output = pods.exec(&second, &["/bin/sh", "-c", "echo max >/sys/fs/cgroup/cgroup.max.descendants"]);
    assert!(output.code != 0 && output.stderr.contains("ermission denied"), "{output:?}");
    // A restart while the other container has created all it may.
    pods.stop(&first);
    let again = again(&pods, &pod, &spec("main"));
    assert!(makes_all_it_may(&pods, &again) > 40);
    // Ephemeral containers.
    for number in 0..8 {
        let debug = pods.run(&pod, &spec(&format!("debugger-{number}")));
        assert!(bound(&debug).trim().parse::<u32>().unwrap() < next);
        makes_all_it_may(&pods, &debug);
    }
    // A limit that an administrator set for the pod is the one that is shared.
    let small = pods.run_pod(&writable().handler(handler).numbered(1));
    fs::write(pods.pod_cgroup(&small).join("cgroup.max.descendants"), "24").unwrap();
    for number in 0..4 {
        let container = pods.run(&small, &spec(&format!("c-{number}")));
        makes_all_it_may(&pods, &container);
    }
    assert_eq!(fs::read_to_string(pods.pod_cgroup(&small).join("cgroup.max.descendants")).unwrap(), "24\n");

    // An existing limit is kept, also by the first inspection of the next agent.
    fs::write(own(&second).join("cgroup.max.descendants"), "17").unwrap();
    agent.terminate();
    let agent = Agent::start(node);
    agent.wait_for_outcome(&second, "already_right");
    assert_eq!(bound(&second), "17\n");
}

/// In-place resize: the runtime gets new limits for a running container.
#[test]
fn a_resize_changes_neither_owner_nor_bounds() {
    for cgroup_manager in [CgroupManager::Systemd, CgroupManager::Cgroupfs] {
        let options = Options { cgroup_manager, ..Options::default() };
        let Some(node) = crate::agent::node_with_binary(options) else { return };
        let pods = Pods::connect(&node);
        let _agent = Agent::start(&node);
        let mut spec = writable();
        spec.cgroupfs = cgroup_manager == CgroupManager::Cgroupfs;
        let container = pods.run(&pods.run_pod(&spec), &ContainerSpec::sleeping());
        assert!(makes_a_cgroup(&pods, &container, "x"));
        let bounds = || {
            ["cgroup.max.descendants", "cgroup.max.depth"]
                .map(|file| fs::read_to_string(container.pod_cgroup.join(file)).unwrap())
        };
        let before = (changed(&container.cgroup), bounds());
        assert_eq!(before.1, ["250\n", "50\n"]);
        let (mut client, container_id) = (pods.client.clone(), container.id.clone());
        let linux = v1::LinuxContainerResources { cpu_shares: 512, ..Default::default() };
        let request =
            v1::UpdateContainerResourcesRequest { container_id, linux: Some(linux), ..Default::default() };
        let answer = pods.wait(async move { client.update_container_resources(request).await });
        println!("{cgroup_manager:?}: {answer:?}");
        assert_eq!((changed(&container.cgroup), bounds()), before, "{cgroup_manager:?}");
        assert_eq!(owner(&container.cgroup).0, BASE);
        assert!(makes_a_cgroup(&pods, &container, "y"), "{cgroup_manager:?}");
    }
}
