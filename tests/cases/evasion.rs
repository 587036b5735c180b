//! Containers that try to be shown as something else than they are, or to stay without the limits of their pod.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use usernsd_peers::cri::v1;

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime};
use crate::pods::{BASE, Container, ContainerSpec, PodSpec, Pods, owner, wait_for};

/// The pods that hold a host ID, according to `usernsd whois`, and the ID inside them.
fn holders(node: &Node, id: u32) -> Vec<(Value, Value)> {
    let words = ["usernsd", "whois", "--output", "json", &id.to_string()];
    let ran = node.command(words).output().unwrap();
    let document: Value =
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let holders = document["ids"][0]["holders"].as_array().unwrap().iter();
    let containers = holders.filter(|holder| holder["kind"] == "container");
    containers.map(|holder| (holder["pod"].clone(), holder["inside"].clone())).collect()
}

/// The init processes of two containers have entered user namespaces of their own, in which one ID and none is mapped.
/// Their other processes still have every ID of the pod.
#[test]
fn a_container_that_enters_a_namespace_of_its_own_still_holds_the_ids_of_its_pod() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let made: Vec<Container> = ["unshare -U -r", "unshare -U"]
        .iter()
        .enumerate()
        .map(|(index, enter)| {
            let script = format!("sleep 2147483646 & exec {enter} sleep 2147483647");
            let pod = pods.run_pod(&PodSpec::new(&format!("p{index}")).numbered(index));
            pods.run(&pod, &ContainerSpec::script(&script))
        })
        .collect();
    for (container, lines) in made.iter().zip([1, 0]) {
        wait_for("its own user namespace", || {
            let map = pods.proc(container, "uid_map");
            (map.lines().count() == lines && !map.contains("65536")).then_some(())
        });
    }
    let roots: Vec<u32> = made.iter().map(|container| container.root).collect();
    let check = |what: &str| {
        for (index, root) in roots.iter().enumerate() {
            let want = [(json!(format!("p{index}")), json!(1000))];
            assert_eq!(holders(&node, root + 1000), want, "{what}: {index}");
        }
    };
    check("without an agent");
    let agent = Agent::start(&node);
    for (container, root) in made.iter().zip(&roots) {
        let record = agent.record(container);
        let extent = json!([{"containerId": 0, "hostId": root, "length": 65536}]);
        assert_eq!((&record["uidMap"], &record["gidMap"]), (&extent, &extent), "{record}");
        // Nothing is done with such a container's cgroup.
        assert_eq!((record["outcome"].as_str(), container.owner("")), (Some("unproven"), (0, 0)), "{record}");
        let mapped =
            agent.metric("usernsd_pod_mapped_ids", &[("pod", record["pod"]["name"].as_str().unwrap())]);
        assert_eq!(mapped, 2.0 * 65_536.0);
    }
    check("with an agent");
}

/// A program whose first thread ends while another one runs on.
const ENDS_ITS_FIRST_THREAD: &str = r"
#include <pthread.h>
#include <unistd.h>
static void *run(void *nothing) { for (;;) pause(); return nothing; }
int main(void) { pthread_t other; pthread_create(&other, 0, run, 0); pthread_exit(0); }
";

/// The kernel shows no mounts of a thread that has ended, and the first one is the process for most of /proc.
#[test]
fn a_container_whose_first_thread_has_ended_gets_its_cgroup() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let sources = tempfile::tempdir().unwrap();
    let source = sources.path().join("program.c");
    fs::write(&source, ENDS_ITS_FIRST_THREAD).unwrap();
    fs::create_dir_all(node.path("/var/tmp/programs")).unwrap();
    let program = node.path("/var/tmp/programs/threads");
    let built = Command::new("cc").args(["-static", "-pthread", "-o"]).arg(&program).arg(&source).status();
    assert!(built.unwrap().success());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let pods = Pods::connect(&node);
    let spec = ContainerSpec::of("localhost/systemd:1", &["/opt/programs/threads"]).privileged();
    let spec = spec.mount("/var/tmp/programs", "/opt/programs");
    let container = pods.run(&pods.run_pod(&PodSpec::new("p").privileged()), &spec);
    wait_for("the end of its first thread", || {
        pods.proc(&container, "status").contains("State:\tZ (zombie)").then_some(())
    });
    assert!(pods.is_running(&container));
    let agent = Agent::with(&node, "nri: {enabled: false}\n");
    assert_eq!(agent.outcome(&container), "delegated", "{}", agent.log());
    assert_eq!(container.owner("").0, BASE);
    assert_eq!(agent.metric("usernsd_fix_failures_total", &[]), 0.0);
}

/// crun hands the cgroup over by itself, and the container may take the permissions on it from everybody, or move its
/// mount, before it is inspected. The limits of the pod are set nevertheless, on the pod's cgroup, which is root's.
#[test]
fn a_container_that_hides_its_cgroup_does_not_evade_the_limits_of_its_pod() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let scripts = [
        ("closed", "chmod 0 \"$path\""),
        ("no_cgroup_mount", "/opt/busybox mount -t tmpfs hidden /sys/fs/cgroup"),
    ];
    let made = scripts.map(|(outcome, script)| {
        // A privileged container sees the cgroups of the whole node.
        let script = format!(
            "while read -r line; do case $line in 0::*) path=/sys/fs/cgroup${{line#0::}} ;; esac; done </proc/1/cgroup
             ({script}) 2>&1 && echo hidden; echo done; exec sleep 2147483647"
        );
        let pod = PodSpec::new(outcome).privileged().handler("crun");
        let spec = ContainerSpec::of("localhost/systemd:1", &["/bin/bash", "-c", &script]).privileged();
        let container = pods.run(&pods.run_pod(&pod), &spec.mount("/usr/bin/busybox", "/opt/busybox"));
        wait_for("the end of the script", || container.log().contains("done").then_some(()));
        assert!(container.log().contains("hidden"), "{}", container.log());
        assert_eq!(owner(&container.cgroup.join("container")).0, BASE, "{outcome}");
        (container, outcome)
    });
    let check = |configuration: &str, want: [&str; 2]| {
        let agent = Agent::with(&node, configuration);
        for (container, outcome) in &made {
            let found = agent.outcome(container);
            let limits = ["cgroup.max.descendants", "cgroup.max.depth"]
                .map(|file| fs::read_to_string(container.pod_cgroup.join(file)).unwrap().trim().to_owned());
            assert_eq!((found.as_str(), limits), (*outcome, want.map(String::from)));
        }
        assert_eq!(agent.metric("usernsd_fix_failures_total", &[]), 0.0);
        agent.kill();
    };
    check("delegation: {mechanism: none}\nguard: {policy: report}\nnri: {enabled: false}\n", ["max", "max"]);
    check("nri: {enabled: false}\n", ["250", "50"]);
}

/// How many of these containers are reported because nothing limits their cgroups: by doctor with the results of an agent,
/// if one answers, by doctor alone, and by explain.
fn reported_as_unlimited(node: &Node, containers: &[(Container, &str)]) -> [usize; 3] {
    let printed = |words: &[&str]| -> Value {
        let ran = node.exec([&["usernsd"], words, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&ran.stderr);
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let by_doctor = |words: &[&str]| {
        let document = printed(words);
        let mut checks = document["checks"].as_array().unwrap().iter();
        let check = checks.find(|check| check["id"] == "pod_cgroup_bounded").unwrap();
        check["problems"].as_array().unwrap().len()
    };
    let is_explained = |container: &&(Container, &str)| {
        let document = printed(&["explain", &container.0.id]);
        let problems = document[0]["problems"].as_array().unwrap();
        problems.contains(&json!("nothing limits the cgroups that the pod may create"))
    };
    let explained = containers.iter().filter(is_explained).count();
    [by_doctor(&["doctor"]), by_doctor(&["doctor", "--no-agent"]), explained]
}

/// crun hands over the cgroup of every container with a user namespace, also if the specification mounts it read-only. The
/// container mounts it once more: with a capability, or in a user namespace below its own, for which it needs none.
#[test]
fn a_container_that_mounts_its_cgroup_itself_is_bounded() {
    const MANY: u32 = 300;
    const RESTS: &str = "exec sleep 2147483647";
    const ENTERS: &str = "unshare -U -r -m -C /bin/sh -c";
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let make = format!(
        "(mkdir /tmp/own && busybox mount -t cgroup2 own /tmp/own && cd /tmp/own && i=0 &&
         while [ $i -lt {MANY} ] && mkdir $i; do i=$((i + 1)); done; echo made ${{i:-0}}) 2>&1"
    );
    // The script, a capability, and the outcome for an agent that comes later.
    let ways = [
        (format!("{make}; {RESTS}"), Some("SYS_ADMIN"), "read_only_mount"),
        (format!("{ENTERS} '{make}'; {RESTS}"), None, "read_only_mount"),
        (format!("exec {ENTERS} '{make}; {RESTS}'"), None, "unproven"),
    ];
    let run = |name: &str, number: usize, (script, capability, _): &(String, Option<&str>, &str)| {
        let pod = pods.run_pod(&PodSpec::new(name).numbered(number).handler("crun"));
        let spec = ContainerSpec::of("localhost/systemd:1", &["/bin/sh", "-c", script]);
        let container = pods.try_create_with(&pod, &spec, |config| {
            let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            let add_capabilities = capability.iter().map(|&name| name.to_owned()).collect();
            context.capabilities = Some(v1::Capability { add_capabilities, ..Default::default() });
        });
        let container = container.unwrap();
        pods.start(&container);
        let made = wait_for("its cgroups", || {
            let log = container.log();
            log.lines().find_map(|line| line.strip_prefix("made ")?.parse::<u32>().ok())
        });
        (made, container)
    };
    let limits = |container: &Container| {
        ["cgroup.max.descendants", "cgroup.max.depth"]
            .map(|file| fs::read_to_string(container.pod_cgroup.join(file)).unwrap().trim().to_owned())
    };
    let (unlimited, limited) = (["max", "max"].map(String::from), ["250", "50"].map(String::from));
    let made: Vec<(Container, &str)> = ways
        .iter()
        .enumerate()
        .map(|(index, way)| {
            let (made, container) = run(&format!("before-{index}"), index, way);
            assert_eq!((made, limits(&container)), (MANY, unlimited.clone()), "{way:?}: {}", container.log());
            (container, way.2)
        })
        .collect();
    // While nobody sets limits, each of them is reported as unlimited.
    assert_eq!(reported_as_unlimited(&node, &made), [made.len(); 3]);
    let agent =
        Agent::with(&node, "delegation: {mechanism: none}\nguard: {policy: report}\nnri: {enabled: false}\n");
    for (container, outcome) in &made {
        let record = agent.record(container);
        assert_eq!(
            (&record["outcome"], &record["state"]),
            (&json!(outcome), &json!("unlimited")),
            "{record}"
        );
        assert_eq!(limits(container), unlimited);
    }
    let counted = || agent.metric("usernsd_containers", &[("cgroup_state", "unlimited")]);
    assert_eq!(counted(), 3.0);
    assert_eq!(reported_as_unlimited(&node, &made), [made.len(); 3]);
    agent.kill();
    let agent = Agent::with(&node, "nri: {enabled: false}\n");
    for (container, outcome) in &made {
        assert_eq!((agent.outcome(container).as_str(), limits(container)), (*outcome, limited.clone()));
        assert_ne!(agent.record(container)["state"], "unlimited");
    }
    assert_eq!(agent.metric("usernsd_fix_failures_total", &[]), 0.0);
    assert_eq!(reported_as_unlimited(&node, &made), [0; 3]);
    agent.kill();
    // An agent in the start path limits them before they do anything.
    let agent = Agent::start(&node);
    for (index, way) in ways.iter().enumerate() {
        let (made, container) = run(&format!("after-{index}"), ways.len() + index, way);
        assert_eq!(limits(&container), limited, "{way:?}");
        assert!((1..20).contains(&made), "{way:?}: {}", container.log());
    }
    assert_eq!(agent.metric("usernsd_fix_failures_total", &[]), 0.0);
}

/// CRI-O writes a pod's annotations into the specifications of its containers, also those that containerd uses to name a
/// pod.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_pod_cannot_take_the_name_of_another_by_annotations_on_crio() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, "nri: {enabled: false}\n");
    let mut spec = PodSpec::new("forger").privileged();
    for (key, value) in [
        ("sandbox-namespace", "kube-system"),
        ("sandbox-name", "victim\n2026-01-01T00:00:00Z ERROR forged"),
        ("sandbox-uid", "00000000-0000-0000-0000-000000000001"),
        ("sandbox-id", "victim"),
        ("container-name", "victim"),
        ("container-type", "sandbox"),
    ] {
        spec = spec.annotated(&format!("io.kubernetes.cri.{key}"), value);
    }
    let pod = pods.run_pod(&spec);
    let container = pods.run(&pod, &ContainerSpec::sleeping().privileged().named("own"));
    assert!(has_annotation(&node, &container), "CRI-O left the annotation out");
    let record = agent.record(&container);
    assert_eq!((&record["pod"]["name"], &record["name"]), (&json!("forger"), &json!("own")), "{record}");
    assert_eq!(record["pod"]["namespace"], "default");
    assert!(!record["sandboxId"].as_str().unwrap().contains("victim"), "{record}");
    assert!(!agent.log().contains("forged") && !agent.log().contains("victim"), "{}", agent.log());
}

/// Whether the annotation is in the bundle.
fn has_annotation(node: &Node, container: &Container) -> bool {
    let bundles = node.path("run/containers/storage/overlay-containers");
    let bundles = if Path::new(&bundles).exists() { bundles } else { node.path("run/containers/storage") };
    let file = bundles.join(&container.id).join("userdata/config.json");
    fs::read_to_string(file).is_ok_and(|text| text.contains("io.kubernetes.cri.sandbox-name"))
}
