//! Containers and circumstances that try to make the agent give a cgroup to the wrong container.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime};
use crate::ownership::changed;
use crate::pods::{BASE, Container, ContainerSpec, PodSpec, Pods, UserNamespace, owner, wait_for};
use crate::storm::in_parallel;
use crate::watch::Watcher;

const RANGE: [(u32, u32, u32); 1] = [(0, BASE, 65_536)];
const OTHER: [(u32, u32, u32); 1] = [(0, 300_000, 65_536)];

fn privileged() -> (PodSpec, ContainerSpec) {
    (PodSpec::new("p").privileged(), ContainerSpec::sleeping().privileged())
}

/// Creates cgroups below the container's own that look like those of other containers, and moves its init
/// process into one of them.
#[track_caller]
fn spoof(pods: &Pods<'_>, spoofer: &Container, names: &[&str]) {
    for (index, name) in names.iter().enumerate() {
        let script = format!(
            r#"while read -r line; do case $line in 0::*) path=/sys/fs/cgroup${{line#0::}} ;; esac; done </proc/1/cgroup
               mkdir -p "$path/{name}/cgroup" && echo 1 >"$path/{name}/cgroup.procs""#
        );
        let output = pods.exec(spoofer, &["/bin/sh", "-c", &script]);
        assert_eq!(output.code, 0, "{index} {name}: {output:?}");
    }
    let last = names.last().unwrap();
    assert!(pods.proc(spoofer, "cgroup").contains(last), "init did not move into {last}");
}

/// A container that owns its cgroup creates directories with others' names in it. Agents that start
/// afterwards must not be misled.
fn names_mean_nothing(node: &Node, handler: &str, inner: &str) {
    let watcher = Watcher::new(node.cgroup_root());
    let pods = Pods::connect(node);
    let agent = Agent::start(node);
    let (pod, container) = privileged();
    let pod = pod.handler(handler);
    let spoofers = pods.run_pod(&pod);
    let spoofer = pods.run(&spoofers, &container);
    watcher.register(&spoofer.id, &RANGE);
    // Victims, with another range: one whose cgroup belongs to root, and one that owns its cgroup.
    let reader = pods.run(&pods.run_pod(&PodSpec::new("r").mapped(&OTHER)), &ContainerSpec::sleeping());
    let writers = pods.run_pod(&pod.clone().mapped(&OTHER));
    let writer = pods.run(&writers, &container);
    // crun creates such a directory for sandboxes, too.
    watcher.register(&spoofers.id, &RANGE);
    watcher.register(&writers.id, &OTHER);
    watcher.register(&reader.id, &OTHER);
    watcher.register(&writer.id, &OTHER);
    assert_eq!(owner(&spoofer.cgroup.join(inner)).0, BASE);

    watcher.during(|| {
        let name = |container: &Container| container.cgroup.file_name().unwrap().to_str().unwrap().to_owned();
        let pod_name = reader.pod_cgroup.file_name().unwrap().to_str().unwrap().to_owned();
        agent.kill();
        let names = ["init.scope", &name(&spoofer), &pod_name, &name(&reader), &name(&writer)];
        spoof(&pods, &spoofer, &names);
        let agent = Agent::start(node);
        for container in [&spoofer, &writer] {
            agent.wait_for_outcome(container, "already_right");
        }
        agent.wait_for_outcome(&reader, "read_only_mount");
        assert_eq!(owner(&reader.cgroup), (0, 0));
        assert_eq!(owner(&spoofer.cgroup.join(inner)).0, BASE);
        assert_eq!(owner(&writer.cgroup.join(inner)).0, 300_000);
        // The cgroup that it shows to users is also the container's own.
        let shown = agent.record(&spoofer)["cgroup"]["path"].as_str().unwrap().to_owned();
        assert!(spoofer.cgroup.join(inner).ends_with(shown.trim_start_matches('/')), "{shown}");
        agent.kill();
        // The kernel writes the same for a removed cgroup: in doubt, nothing is done.
        spoof(&pods, &spoofer, &["x (deleted)"]);
        let before = changed(&spoofer.cgroup.join(inner));
        let agent = Agent::start(node);
        assert_eq!(agent.outcome(&spoofer), "unproven");
        assert_eq!(changed(&spoofer.cgroup.join(inner)), before);
        agent.kill();
    });
}

#[test]
fn names_below_a_scope_mean_nothing() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    names_mean_nothing(&node, "runc", "");
}

#[test]
fn names_below_cruns_directory_mean_nothing() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    names_mean_nothing(&node, "crun", "container");
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn names_below_a_scope_mean_nothing_on_crio() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    names_mean_nothing(&node, "runc", "");
}

#[test]
fn a_container_that_left_its_cgroup_gains_nothing() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let watcher = Watcher::new(node.cgroup_root());
    let (pod, container) = privileged();
    // Into the cgroup of another container, which was not delegated; into a service's; into a new one next to
    // its own.
    let victim = pods.run(&pods.run_pod(&PodSpec::new("v").mapped(&OTHER)), &ContainerSpec::sleeping());
    watcher.register(&victim.id, &OTHER);
    let beside = |container: &Container| container.pod_cgroup.join("beside");
    let places: [&dyn Fn(&Container) -> std::path::PathBuf; 3] = [
        &|_| victim.cgroup.clone(),
        &|_| node.cgroup_root().join("system.slice/containerd.service"),
        &beside,
    ];
    let mut left = Vec::new();
    for place in places {
        let leaver = pods.run(&pods.run_pod(&pod), &container);
        watcher.register(&leaver.id, &RANGE);
        let place = place(&leaver);
        fs::create_dir_all(&place).unwrap();
        let inside = fs::read_to_string(leaver.cgroup.join("cgroup.procs")).unwrap();
        fs::write(place.join("cgroup.procs"), inside.trim()).unwrap();
        left.push((leaver, place));
    }
    watcher.during(|| {
        let agent = Agent::start(&node);
        for (leaver, place) in &left {
            // The agent has inspected all of them before it reported readiness. It may forget a container
            // that it cannot find.
            let records = agent.ps();
            let record = records.iter().find(|record| record["id"] == leaver.id.as_str());
            let outcome = record.map(|record| record["outcome"].as_str().unwrap());
            assert!(matches!(outcome, None | Some("unproven" | "gone")), "{outcome:?}");
            assert_eq!(owner(place), (0, 0), "{}", place.display());
            if leaver.cgroup.exists() {
                assert_eq!(owner(&leaver.cgroup), (0, 0));
            }
        }
        agent.kill();
    });
}

/// A container whose first process creates and enters its own user namespace with that mapping, where its
/// cgroup is writable.
fn making_its_own(mapping: &str) -> ContainerSpec {
    let script = format!(
        r#"unshare --user --mount --cgroup sleep 1000 & child=$!
           until [ "$(readlink /proc/$child/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.05; done
           echo {mapping} >/proc/$child/uid_map; echo {mapping} >/proc/$child/gid_map
           exec nsenter --target $child --user --mount --cgroup --setuid 0 --setgid 0 \
             sh -c 'for kind in tmpfs cgroup2; do /opt/busybox mount -t $kind $kind /sys/fs/cgroup; done; exec sleep 1000'"#
    );
    ContainerSpec::of("localhost/systemd:1", &["/bin/bash", "-c", &script])
        .mount("/usr/bin/busybox", "/opt/busybox")
}

#[test]
fn a_container_gains_nothing_by_its_own_user_namespace() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    // One in the host's user namespace, with the mapping of a pod; one in its pod's, without opting in.
    let host = PodSpec::new("host").in_host_user_namespace();
    let host = pods.run(&pods.run_pod(&host), &making_its_own(&format!("0 {BASE} 65536")));
    let own = pods.run(&pods.run_pod(&PodSpec::new("own")), &making_its_own("0 0 65536"));
    for container in [&host, &own] {
        wait_for("a mount of its own", || {
            let mounts = pods.proc(container, "mountinfo");
            mounts.lines().any(|line| line.contains(" /sys/fs/cgroup rw,")).then_some(())
        });
        let map = pods.proc(container, "uid_map");
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &BASE.to_string(), "65536"]);
    }
    // The agent has no records of them, as after each of its restarts.
    let agent = Agent::start(&node);
    for (container, outcome) in [(&host, "host_user_namespace"), (&own, "read_only_mount")] {
        assert_eq!(agent.outcome(container), outcome);
        for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
            assert_eq!(container.owner(file), (0, 0), "{file}");
        }
    }
    // A namespace that the container created does not hide that the pod lost its isolation.
    agent.terminate();
    let guarded = pods.run_pod(&PodSpec::new("guarded"));
    let hidden = ContainerSpec {
        user_namespace: Some(UserNamespace::Host),
        ..making_its_own(&format!("0 {BASE} 65536"))
    };
    let hidden = pods.run(&guarded, &hidden);
    wait_for("its namespace", || pods.proc(&hidden, "uid_map").contains(&BASE.to_string()).then_some(()));
    let agent = Agent::start(&node);
    assert_eq!(agent.record(&hidden)["isolation"], "lost");
    assert_eq!(hidden.owner(""), (0, 0));
}

/// The file with the PID of a running container's init process has another process's number: of the node, of another
/// container with the same mapping, of one in the same pod, and of a command in the container itself.
#[test]
fn a_reused_pid_is_not_the_container() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let watcher = Watcher::new(node.cgroup_root());
    let (pod, container) = privileged();
    let sandbox = pods.run_pod(&pod);
    let made: Vec<Container> =
        (0..4).map(|index| pods.run(&sandbox, &container.clone().named(&format!("c{index}")))).collect();
    let right = pods.run(&sandbox, &container.clone().named("right"));
    let beside = pods.run(&pods.run_pod(&pod), &container);
    let alone = node.spawn(["sleep", "2147483647"]);
    pods.exec(&made[3], &["/bin/sh", "-c", "sleep 2147483646 >/dev/null 2>&1 &"]);
    let command = node.run(["pgrep", "-f", "sleep 2147483646"]);
    let status = fs::read_to_string(format!("/proc/{}/status", alone.pid())).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    let foreign = [
        numbers.split_whitespace().last().unwrap().to_owned(),
        pods.status(&beside).pid.to_string(),
        pods.status(&right).pid.to_string(),
        command.lines().last().unwrap().to_owned(),
    ];
    for (container, pid) in made.iter().zip(&foreign) {
        fs::write(bundle(&node, container, "init.pid"), pid).unwrap();
    }
    for container in made.iter().chain([&right, &beside]) {
        watcher.register(&container.id, &RANGE);
    }
    watcher.during(|| {
        // NRI and CRI have the right PIDs; at the start of the agent the bundle's is read.
        let agent = Agent::with(&node, "nri: {enabled: false}\n");
        for (container, pid) in made.iter().zip(&foreign) {
            assert!(pods.is_running(container));
            assert_eq!(agent.outcome(container), "unproven", "{pid}");
            assert_eq!(
                (container.owner(""), agent.record(container)["isolation"].as_str()),
                ((0, 0), Some("unknown"))
            );
        }
        assert_eq!(agent.outcome(&right), "delegated");
        agent.kill();
    });
}

#[test]
fn containers_that_end_while_they_are_inspected_do_no_harm() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let watcher = Watcher::new(node.cgroup_root());
    let (pod, container) = privileged();
    let sandboxes = in_parallel(6, |index| {
        let base = BASE + 100_000 * u32::try_from(index).unwrap();
        (pods.run_pod(&pod.clone().mapped(&[(0, base, 65_536)])), [(0, base, 65_536)])
    });
    let done = AtomicBool::new(false);
    let restarts = watcher.during(|| {
        thread::scope(|scope| {
            let agents = scope.spawn(|| {
                let mut restarts = 0;
                while !done.load(Ordering::Relaxed) {
                    // Each start inspects every container.
                    Agent::start(&node).kill();
                    restarts += 1;
                }
                restarts
            });
            struct Done<'a>(&'a AtomicBool);
            impl Drop for Done<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let end = Done(&done);
            in_parallel(60, |index| {
                let (pod, mappings) = &sandboxes[index % sandboxes.len()];
                let made = pods.create(pod, &container.clone().named(&format!("c{index}")));
                watcher.register(&made.id, mappings);
                pods.start(&made);
                pods.stop(&made);
                pods.remove(&made);
            });
            drop(end);
            agents.join().unwrap()
        })
    });
    let (rounds, strangers) = watcher.figures();
    println!("{restarts} restarts of the agent, {rounds} looks, {strangers} strangers' files");
    assert!(restarts > 2 && rounds > 10 && strangers > 0);
    // The agent still works.
    let agent = Agent::start(&node);
    let (pod, _) = &sandboxes[0];
    let last = pods.run(pod, &container.named("last"));
    wait_for("the last one's cgroup", || (owner(&last.cgroup).0 == BASE).then_some(()));
    assert_eq!(agent.outcome(&last), "delegated");
}

/// Volumes mounted on `/sys/fs/cgroup` by a pod: a separate file system, the host's cgroup tree, and another
/// container's cgroup.
fn volumes_ask_for_nothing(configuration: &str) {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let agent = Agent::with(&node, configuration);
    let pods = Pods::connect(&node);
    let other = pods.run(&pods.run_pod(&PodSpec::new("o").mapped(&OTHER)), &ContainerSpec::sleeping());
    let others = other.cgroup.strip_prefix(node.cgroup_root()).unwrap();
    fs::create_dir_all(node.path("/var/tmp/volume")).unwrap();
    let pod = pods.run_pod(&PodSpec::new("p"));
    let volumes = [
        "/var/tmp/volume".to_owned(),
        "/sys/fs/cgroup".to_owned(),
        format!("/sys/fs/cgroup/{}", others.display()),
    ];
    let containers: Vec<_> = volumes
        .iter()
        .enumerate()
        .map(|(index, volume)| {
            let spec = ContainerSpec::sleeping().named(&format!("c{index}")).user(1000);
            pods.run(&pod, &spec.mount(volume, "/sys/fs/cgroup"))
        })
        .collect();
    let check = |agent: &Agent<'_>| {
        for (container, volume) in containers.iter().zip(&volumes) {
            agent.wait_for_outcome(container, "no_cgroup_mount");
            assert_eq!(owner(&container.cgroup), (0, 0), "{volume}");
        }
        assert_eq!(owner(&other.cgroup), (0, 0));
    };
    check(&agent);
    // An agent that finds them running treats them in the same way.
    agent.kill();
    check(&Agent::with(&node, configuration));
}

#[test]
fn a_volume_on_the_cgroup_mount_point_is_no_request() {
    volumes_ask_for_nothing("");
}

#[test]
fn a_volume_on_the_cgroup_mount_point_is_no_request_without_nri() {
    volumes_ask_for_nothing("nri: {enabled: false}\n");
}

/// The path of a file in the bundle that containerd keeps for a container.
fn bundle(node: &Node, container: &Container, file: &str) -> std::path::PathBuf {
    node.path(&format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/{file}", container.id))
}

/// The agent starts late, and the container's cgroup contains a process that is not its init and has a lower
/// PID: the node's root moved it there.
#[test]
fn a_process_that_was_moved_into_a_container_is_not_its_init() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let (pod, container) = privileged();
    let strangers: Vec<_> = (0..3).map(|_| node.spawn(["sleep", "2147483647"])).collect();
    let made: Vec<Container> =
        (0..3).map(|index| pods.run(&pods.run_pod(&pod.clone().numbered(index)), &container)).collect();
    for (container, stranger) in made.iter().zip(&strangers) {
        let pid = stranger.pid().to_string();
        fs::write(container.cgroup.join("cgroup.procs"), pid).unwrap();
    }
    // The file with the PID of the init process: present, missing, and with another process's PID.
    fs::remove_file(bundle(&node, &made[1], "init.pid")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", strangers[2].pid())).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    // The PID on the node.
    fs::write(bundle(&node, &made[2], "init.pid"), numbers.split_whitespace().last().unwrap()).unwrap();
    let before = changed(&made[2].cgroup);
    // NRI would pass the PID; CRI and the bundle are what this case examines.
    let agent = Agent::with(&node, "nri: {enabled: false}\n");
    assert_eq!([&made[0], &made[1]].map(|container| agent.outcome(container)), ["delegated", "delegated"]);
    for (container, pid) in [&made[0], &made[1]].map(|one| (one, pods.status(one).pid)) {
        assert_eq!(agent.record(container)["pid"].as_u64(), Some(pid.into()));
        assert_eq!(agent.record(container)["isolation"], "good");
    }
    assert_eq!((agent.outcome(&made[2]), changed(&made[2].cgroup)), ("unproven".to_owned(), before));
    assert_eq!(agent.record(&made[2])["isolation"], "unknown");
    assert_eq!(agent.metric("usernsd_refusals_total", &[("reason", "unproven")]), 1.0);
    assert!(agent.log().contains("is not the first of a PID namespace of the container's"));
}

/// The kernel's mapping is compared with the one that the runtime requested, for user and group IDs, up to
/// the last extent.
#[test]
fn a_mapping_that_was_not_requested_is_unproven() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let (pod, container) = privileged();
    let mapped = UserNamespace::Split { uids: RANGE.to_vec(), gids: vec![(0, 8_000_000, 65_536)] };
    let right = pods.run(&pods.run_pod(&PodSpec { user_namespace: mapped, ..pod.clone() }), &container);
    let wrong = [
        ("uidMappings", "size", 65_535),
        ("gidMappings", "size", 65_535),
        ("uidMappings", "hostID", 300_000),
    ]
    .map(|(key, field, value)| {
        let made = pods.run(&pods.run_pod(&pod), &container);
        let path = bundle(&node, &made, "config.json");
        let mut spec: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        spec["linux"][key][0][field] = value.into();
        fs::write(&path, spec.to_string()).unwrap();
        (key, field, made)
    });
    // The init process created its own user namespace, whose mapping is not the one that the pod was given.
    let own = ContainerSpec::script("exec unshare -U -r sleep 2147483647").privileged();
    let own = pods.run(&pods.run_pod(&pod), &own);
    wait_for("its own user namespace", || {
        let map = pods.proc(&own, "uid_map");
        (map.split_whitespace().nth(2) == Some("1")).then_some(())
    });
    let agent = Agent::start(&node);
    assert_eq!(agent.outcome(&right), "delegated");
    for (key, field, made) in wrong.iter().chain([&("own", "", own)]) {
        assert_eq!((agent.outcome(made).as_str(), made.owner("")), ("unproven", (0, 0)), "{key} {field}");
    }
    assert_eq!(agent.metric("usernsd_refusals_total", &[("reason", "unproven")]), 4.0);
    assert!(agent.log().contains("the runtime was configured to map group IDs"), "{}", agent.log());
}
