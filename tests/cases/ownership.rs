//! The owners of cgroups and of their files: which ones change, to which user, and which do not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::agent::{Agent, Start, node_with_binary, on_the_node};
use crate::node::{CgroupManager, Node, Options, Runtime};
use crate::pods::{BASE, Container, ContainerSpec, PodSpec, Pods, UserNamespace, owner};
use crate::storm::hook_for_containerd;

/// The files that a cgroup's owner may have, from the kernel.
fn delegate_list() -> Vec<String> {
    let text = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Asserts that the directory and its files on the delegate list belong to `uid`, all other files to root,
/// and everything to root's group.
#[track_caller]
fn assert_handed_over(cgroup: &Path, uid: u32) {
    let delegated = delegate_list();
    let mut expected = 0;
    for entry in fs::read_dir(cgroup).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        let want = if delegated.contains(&name) { uid } else { 0 };
        expected += usize::from(delegated.contains(&name));
        assert_eq!(owner(&entry.path()), (want, 0), "{name} in {}", cgroup.display());
    }
    assert_eq!(owner(cgroup), (uid, 0), "{}", cgroup.display());
    assert!(expected >= 3, "cgroup.procs, cgroup.threads and cgroup.subtree_control at the least");
}

/// The last change of owner, group or mode of a directory and of the files in it.
pub(crate) fn changed(cgroup: &Path) -> BTreeMap<String, (i64, i64)> {
    let mut changed = BTreeMap::new();
    for entry in fs::read_dir(cgroup).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        changed.insert(name, (metadata.ctime(), metadata.ctime_nsec()));
    }
    let metadata = fs::metadata(cgroup).unwrap();
    changed.insert(String::new(), (metadata.ctime(), metadata.ctime_nsec()));
    changed
}

/// Asserts that systemd runs in a cgroup that it owns, which is the same one inside and outside.
#[track_caller]
pub(crate) fn assert_systemd_runs(pods: &Pods<'_>, container: &Container, uid: u32) {
    assert_eq!(pods.systemd_state(container), Ok("running".to_owned()), "{}", container.log());
    // The container's own cgroup, in whichever view the container has.
    let script = r#"path=$(sed -n s/^0:://p /proc/1/cgroup); path=${path%/init.scope}
                    stat -c '%i %u' "/sys/fs/cgroup$path""#;
    let inside = pods.exec(container, &["/bin/sh", "-c", script]);
    // With crun the root of the container's view is a directory of the scope.
    let inner = container.cgroup.join("container");
    let outside = if inner.exists() { inner } else { container.cgroup.clone() };
    assert_eq!(inside.stdout, format!("{} 0", fs::metadata(&outside).unwrap().ino()), "{}", inside.stderr);
    assert_eq!(owner(&outside).0, uid);
}

/// Neither agent nor plugin: the OCI runtime starts the hook.
#[test]
fn systemd_runs_privileged_with_the_hook_on_containerd() {
    let Some(node) = node_with_binary(Options { nri: false, ..Options::default() }) else { return };
    let handler = hook_for_containerd(&node);
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("privileged").privileged().handler(handler));
    let container = pods.run(&pod, &ContainerSpec::systemd().privileged().env("container", "oci"));
    assert_handed_over(&container.cgroup, BASE);
    assert_systemd_runs(&pods, &container, BASE);
}

#[test]
fn systemd_runs_on_containerd() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    systemd_runs(&node, on_the_node);
}

/// In a plain pod that opts in, and in a privileged one.
pub(crate) fn systemd_runs(node: &Node, start: Start) {
    let pods = Pods::connect(node);
    let agent = start(node);

    let pod = pods.run_pod(&PodSpec::new("plain").annotated("usernsd.io/systemd", "true"));
    let plain = pods.run(&pod, &ContainerSpec::systemd());
    assert_systemd_runs(&pods, &plain, BASE);
    assert_handed_over(&plain.cgroup, BASE);

    let pod = pods.run_pod(&PodSpec::new("privileged").privileged().mapped(&[(0, 300_000, 65_536)]));
    let privileged = pods.run(&pod, &ContainerSpec::systemd().privileged().env("container", "oci"));
    assert_systemd_runs(&pods, &privileged, 300_000);
    assert_handed_over(&privileged.cgroup, 300_000);

    // The directories above belong to root.
    for cgroup in [&plain, &privileged].iter().flat_map(|container| container.cgroup.ancestors().skip(1)) {
        if cgroup.starts_with(node.cgroup_root()) {
            assert_eq!(owner(cgroup), (0, 0), "{}", cgroup.display());
        }
    }
    assert_eq!(agent.record(&plain)["pod"]["name"], "plain");
    assert_eq!(agent.record(&privileged)["pod"]["namespace"], "default");
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn systemd_runs_privileged_on_crio() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    systemd_runs_privileged(&node, on_the_node);
}

/// With both OCI runtimes.
pub(crate) fn systemd_runs_privileged(node: &Node, start: Start) {
    let pods = Pods::connect(node);
    let _agent = start(node);
    for handler in ["runc", "crun"] {
        let pod = pods.run_pod(&PodSpec::new("privileged").privileged().handler(handler));
        let container = pods.run(&pod, &ContainerSpec::systemd().privileged());
        assert_systemd_runs(&pods, &container, BASE);
    }
}

#[test]
fn the_cgroupfs_manager_gives_the_same_result_as_systemd() {
    let options = Options { cgroup_manager: CgroupManager::Cgroupfs, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    let pods = Pods::connect(&node);
    let _agent = Agent::joined(&node);
    let pod = pods.run_pod(&PodSpec::new("plain").cgroupfs().annotated("usernsd.io/systemd", "true"));
    let plain = pods.run(&pod, &ContainerSpec::systemd());
    assert_systemd_runs(&pods, &plain, BASE);
    assert_handed_over(&plain.cgroup, BASE);
    let pod = pods.run_pod(&PodSpec::new("privileged").cgroupfs().privileged());
    let privileged = pods.run(&pod, &ContainerSpec::systemd().privileged().env("container", "oci"));
    assert_systemd_runs(&pods, &privileged, BASE);
    assert_handed_over(&privileged.cgroup, BASE);
}

/// Runs a container while there is no agent, starts one, and waits for its outcome: the agent must not have
/// changed anything.
#[track_caller]
fn assert_left_as_it_is(options: Options, pod: &PodSpec, container: &ContainerSpec, inner: &str, uid: u32) {
    let Some(node) = node_with_binary(options) else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(pod);
    let before = pods.run(&pod, &container.clone().named("before"));
    let cgroup = before.cgroup.join(inner);
    assert_eq!(owner(&cgroup).0, uid, "the runtime did not hand it over by itself");
    if container.image.contains("systemd") {
        // During its start it creates cgroups, and so changes the directory itself.
        assert_eq!(pods.systemd_state(&before), Ok("running".to_owned()));
    }
    let times = changed(&cgroup);

    let agent = Agent::joined(&node);
    agent.wait_for_outcome(&before, "already_right");
    assert_eq!(changed(&cgroup), times);
    // Started while the agent runs, it is right as the runtime created it, too.
    let after = pods.run(&pod, &container.clone().named("after"));
    agent.wait_for_outcome(&after, "already_right");
    assert_eq!(owner(&after.cgroup.join(inner)).0, uid);
    assert!(!agent.log().contains("chown_cgroup"), "{}", agent.log());
    assert!(agent.metric("usernsd_already_right_total", &[]) >= 2.0);

    // This comparison detects even a change to the same owner.
    std::os::unix::fs::chown(&cgroup, Some(uid), None).unwrap();
    assert_ne!(changed(&cgroup), times);
}

#[test]
fn a_cgroup_that_crun_delegated_is_left_unchanged() {
    let pod = PodSpec::new("p").privileged().handler("crun");
    let container = ContainerSpec::sleeping().privileged();
    assert_left_as_it_is(Options::default(), &pod, &container, "container", BASE);
}

#[test]
fn a_cgroup_that_runc_delegated_is_left_unchanged() {
    let pod = PodSpec::new("p").handler("runc-writable");
    // runc chooses the user of the process.
    let container = ContainerSpec::sleeping().user(1000);
    assert_left_as_it_is(Options::default(), &pod, &container, "", BASE + 1000);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_cgroup_that_crio_and_runc_delegated_is_left_unchanged() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let container = ContainerSpec::of("localhost/systemd:1", &["/sbin/init"]);
    assert_left_as_it_is(options, &PodSpec::new("p"), &container, "", BASE);
}

/// One container, and its expected outcome.
struct Row {
    what: &'static str,
    pod: PodSpec,
    container: ContainerSpec,
    outcome: &'static str,
    /// Owner of the scope.
    owner: u32,
}

fn row(what: &'static str, pod: PodSpec, container: ContainerSpec, outcome: &'static str, owner: u32) -> Row {
    Row { what, pod, container, outcome, owner }
}

#[track_caller]
fn assert_rows(pods: &Pods<'_>, agent: &Agent<'_>, rows: &[Row]) {
    for Row { what, pod, container, outcome, owner } in rows {
        let pod = pods.run_pod(pod);
        let container = pods.run(&pod, container);
        assert_eq!(agent.outcome(&container), *outcome, "{what}: {:#}", agent.record(&container));
        assert_eq!(container.owner("").0, *owner, "{what}");
        if *outcome == "delegated" {
            assert_handed_over(&container.cgroup, *owner);
            assert!(agent.metric("usernsd_fixes_total", &[("action", "chown_cgroup")]) >= 1.0);
        } else if *outcome != "already_right" {
            // All files, not only the directory.
            for (name, _) in changed(&container.cgroup) {
                assert_eq!(container.owner(&name).0, 0, "{what}: {name}");
            }
            assert!(agent.metric("usernsd_refusals_total", &[("reason", outcome)]) >= 1.0, "{what}");
        }
        assert!(pods.is_running(&container), "{what}");
        pods.remove_pod(&pod);
    }
}

fn privileged() -> (PodSpec, ContainerSpec) {
    (PodSpec::new("p").privileged(), ContainerSpec::sleeping().privileged())
}

#[test]
fn each_container_gets_the_right_owner_or_the_right_skip_reason() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::joined(&node);
    let (pod, container) = privileged();
    let writable = PodSpec::new("p").annotated("usernsd.io/cgroup", "writable");
    let sleeping = ContainerSpec::sleeping();
    assert_rows(
        &pods,
        &agent,
        &[
            row("nothing asked for", PodSpec::new("p"), sleeping.clone(), "read_only_mount", 0),
            row(
                "host, asks for it",
                writable.clone().in_host_user_namespace(),
                sleeping.clone(),
                "host_user_namespace",
                0,
            ),
            row(
                "host, privileged",
                pod.clone().in_host_user_namespace(),
                container.clone(),
                "host_user_namespace",
                0,
            ),
            row(
                "root is root",
                pod.clone().mapped(&[(0, 0, 65_536)]),
                container.clone(),
                "root_is_host_root",
                0,
            ),
            row(
                "a user of the host's",
                pod.clone().mapped(&[(0, 1000, 65_536)]),
                container.clone(),
                "reserved_owner",
                0,
            ),
            row("privileged", pod.clone(), container.clone(), "delegated", BASE),
            // NRI 0.8 does not contain the user of the process; the bundle does.
            row("privileged user", pod.clone(), container.clone().user(1000), "delegated", BASE + 1000),
            row("writable, by runc", writable.clone(), sleeping.clone(), "already_right", BASE),
            row("writable user, by runc", writable, sleeping.user(1000), "already_right", BASE + 1000),
            // Not the user of the process: crun's choice is as valid, and it was first.
            row("crun", pod.clone().handler("crun"), container.clone().user(1000), "already_right", 0),
            row("another range", pod.mapped(&[(0, 500_000, 65_536)]), container, "delegated", 500_000),
        ],
    );
}

#[test]
fn root_in_the_container_becomes_the_owner_if_configured() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, "delegation:\n  owner: root\n");
    let (pod, container) = privileged();
    assert_rows(&pods, &agent, &[row("user", pod, container.user(1000), "delegated", BASE)]);
}

#[test]
fn a_mount_stays_read_only_if_its_request_is_not_granted() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, "optIn:\n  namespaces: [team-*]\n");
    let spec = PodSpec::new("p").annotated("usernsd.io/cgroup", "writable");
    let denied = pods.run(&pods.run_pod(&spec), &ContainerSpec::sleeping());
    assert_eq!(agent.outcome(&denied), "read_only_mount");
    let host = PodSpec { namespace: "team-a".to_owned(), ..spec.clone().in_host_user_namespace() };
    let host = pods.run(&pods.run_pod(&host), &ContainerSpec::sleeping());
    let granted = PodSpec { namespace: "team-a".to_owned(), ..spec };
    let granted = pods.run(&pods.run_pod(&granted), &ContainerSpec::sleeping());
    let make = ["/bin/mkdir", "/sys/fs/cgroup/x"];
    assert_eq!(pods.exec(&granted, &make).code, 0);
    for container in [denied, host] {
        let output = pods.exec(&container, &make);
        assert!(output.code != 0 && output.stderr.contains("Read-only"), "{output:?}");
    }
}

#[test]
fn only_the_container_that_opted_in_is_changed_on_containerd() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    one_container_of_a_pod_asks(&node, on_the_node);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn only_the_container_that_opted_in_is_changed_on_crio() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    one_container_of_a_pod_asks(&node, on_the_node);
}

/// One pod with a container that the annotation names, one that its own annotation excludes, and one that no
/// annotation names.
fn one_container_of_a_pod_asks(node: &Node, start: Start) {
    let pods = Pods::connect(node);
    let agent = start(node);
    let is_tmpfs = |container: &Container| {
        pods.exec(container, &["/bin/grep", "-q", " /run tmpfs", "/proc/mounts"]).code == 0
    };
    let makes = |container: &Container| pods.exec(container, &["/bin/mkdir", "/sys/fs/cgroup/x"]).code == 0;

    let pod = PodSpec::new("server")
        .annotated("usernsd.io/systemd", "true")
        .annotated("systemd.usernsd.io/container.proxy", "false")
        .annotated("cgroup.usernsd.io/container.engine", "writable")
        .annotated("systemd.usernsd.io/container.engine", "false");
    let pod = pods.run_pod(&pod);
    let main = pods.run(&pod, &ContainerSpec::systemd().named("main"));
    assert_eq!(pods.systemd_state(&main), Ok("running".to_owned()), "{}", main.log());
    let proxy = pods.run(&pod, &ContainerSpec::sleeping().named("proxy"));
    assert_eq!(agent.outcome(&proxy), "read_only_mount");
    assert!(!makes(&proxy) && !is_tmpfs(&proxy));
    let engine = pods.run(&pod, &ContainerSpec::sleeping().named("engine"));
    assert!(makes(&engine) && !is_tmpfs(&engine));
    assert_eq!(owner(&engine.cgroup).0, BASE);

    // The NRI project's key, for one container and for the pod; the value for the container wins.
    let pod = PodSpec::new("upstream")
        .annotated("writable-cgroups.noderesource.dev/container.a", "true")
        .annotated("writable-cgroups.noderesource.dev", "false");
    let pod = pods.run_pod(&pod.numbered(1));
    let a = pods.run(&pod, &ContainerSpec::sleeping().named("a"));
    let b = pods.run(&pod, &ContainerSpec::sleeping().named("b"));
    assert!(makes(&a) && !makes(&b));
}

#[test]
fn an_owner_from_outside_the_container_is_kept() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let (pod, container) = privileged();
    let container = pods.run(&pods.run_pod(&pod), &container);
    // Neither root nor a user of the container: the owner was set on purpose.
    std::os::unix::fs::chown(&container.cgroup, Some(12_345), None).unwrap();
    let agent = Agent::joined(&node);
    assert_eq!(agent.outcome(&container), "foreign_owner");
    assert_eq!(container.owner(""), (12_345, 0));
    assert_eq!(container.owner("cgroup.procs"), (0, 0));
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_pod_with_several_ranges_is_served() {
    // containerd accepts only one.
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::joined(&node);
    let (pod, container) = privileged();
    let pod = pod.mapped(&[(0, 200_000, 1000), (1000, 400_000, 1000), (5000, 600_000, 10)]);
    let user = |uid| container.clone().user(uid);
    // Done by the agent, or by runc in the cgroup namespace that the agent had requested.
    for (uid, want) in [(0, 200_000), (999, 200_999), (1000, 400_000), (5009, 600_009)] {
        let made = pods.run(&pods.run_pod(&pod), &user(uid));
        assert_handed_over(&made.cgroup, want);
        assert!(matches!(agent.outcome(&made).as_str(), "delegated" | "already_right"));
    }
    // In a gap between the ranges: the runtime cannot start it, and nothing is delegated.
    let holed = pods.run_pod(&pod);
    let started = pods.try_create(&holed, &user(3000)).and_then(|made| pods.try_start(&made));
    assert!(started.is_err());
    let left = fs::read_dir(pods.pod_cgroup(&holed)).unwrap().flatten();
    for entry in left.filter(|entry| entry.path().is_dir()) {
        assert_eq!(owner(&entry.path()).0, 0, "{}", entry.path().display());
    }
    let root = pods.run_pod(&pod.clone().mapped(&[(0, 0, 65_536)]));
    let root = pods.run(&root, &container);
    assert_eq!(agent.outcome(&root), "root_is_host_root");
    let host = PodSpec { user_namespace: UserNamespace::Host, ..pod };
    // Not privileged, because that requires every capability, and this machine may lack some.
    let host = pods.run(&pods.run_pod(&host), &ContainerSpec::sleeping());
    assert_eq!(agent.outcome(&host), "host_user_namespace");
    assert_eq!((host.owner(""), root.owner("")), ((0, 0), (0, 0)));
}

/// User and group IDs have separate maps, each with several ranges. The user becomes the owner, and the group
/// stays root.
#[test]
fn the_owner_is_right_if_ranges_of_groups_differ_from_those_of_users() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    let pods = Pods::connect(&node);
    let (pod, container) = privileged();
    let uids = vec![(0, 200_000, 1000), (1000, 400_000, 1000), (5000, 600_000, 10)];
    let gids = vec![(0, 8_000_000, 500), (500, 9_000_000, 20_000)];
    let map = |ranges: &[(u32, u32, u32)]| -> Vec<Vec<u32>> {
        ranges.iter().map(|(inside, outside, count)| vec![*inside, *outside, *count]).collect()
    };
    let kernels = |made: &Container, file: &str| -> Vec<Vec<u32>> {
        let text = pods.proc(made, file);
        text.lines()
            .map(|line| line.split_whitespace().map(|number| number.parse().unwrap()).collect())
            .collect()
    };
    let pod =
        PodSpec { user_namespace: UserNamespace::Split { uids: uids.clone(), gids: gids.clone() }, ..pod };
    let agent = Agent::joined(&node);
    let mut all = Vec::new();
    for (uid, want) in [(0, 200_000), (1000, 400_000), (5009, 600_009)] {
        let made = pods.run(&pods.run_pod(&pod), &container.clone().user(uid));
        assert_eq!((kernels(&made, "uid_map"), kernels(&made, "gid_map")), (map(&uids), map(&gids)));
        assert_handed_over(&made.cgroup, want);
        assert!(matches!(agent.outcome(&made).as_str(), "delegated" | "already_right"));
        all.push((made, want));
    }
    agent.terminate();
    // A new agent finds them right, and delegates one again whose owner was reset.
    for (made, _) in &all {
        std::os::unix::fs::chown(&made.cgroup, Some(0), None).unwrap();
    }
    let agent = Agent::with(&node, "nri: {enabled: false}\n");
    for (made, want) in &all {
        agent.wait_for_outcome(made, "delegated");
        assert_handed_over(&made.cgroup, *want);
    }
}

/// containerd does not run a pod whose map has several ranges: it reports an error and leaves no cgroup
/// behind.
#[test]
fn containerd_refuses_more_than_one_range() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let mut agent = Agent::joined(&node);
    let several = PodSpec::new("several").mapped(&[(0, 200_000, 1000), (1000, 400_000, 1000)]);
    let refused = pods.try_run_pod(&several).unwrap_err();
    assert!(refused.message().contains("mapping"), "{refused:?}");
    let one = pods.run(&pods.run_pod(&privileged().0), &privileged().1);
    assert!(matches!(agent.outcome(&one).as_str(), "delegated" | "already_right"));
    assert!(agent.is_alive() && agent.ps().len() == 1, "{:?}", agent.ps());
}

/// A container may do anything below its cgroup. With threaded cgroups (cgroups(7), "Thread mode") its own
/// cgroup becomes `domain threaded`, and cgroup.procs cannot be read below.
#[test]
fn threaded_cgroups_change_nothing() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::joined(&node);
    let pod = pods.run_pod(&PodSpec::new("p").annotated("usernsd.io/cgroup", "writable"));
    let container = pods.run(&pod, &ContainerSpec::sleeping());
    agent.wait_for_outcome(&container, "already_right");
    let script = "cd /sys/fs/cgroup && mkdir -p a/b c && for one in a a/b c; do echo threaded >$one/cgroup.type; done \
                  && echo 1 >a/b/cgroup.threads && cat cgroup.type a/cgroup.type a/b/cgroup.type; cat a/b/cgroup.threads";
    let output = pods.exec(&container, &["/bin/sh", "-c", script]);
    assert_eq!(output.stdout, "domain threaded\nthreaded\nthreaded\n1", "{output:?}");
    let look = |agent: &Agent<'_>| {
        agent.wait_for_outcome(&container, "already_right");
        assert_handed_over(&container.cgroup, BASE);
        let failed = agent.exposition();
        let failures = failed.lines().filter(|line| {
            (line.starts_with("usernsd_reconcile_failures_total")
                || line.starts_with("usernsd_fix_failures_total"))
                && !line.ends_with(" 0")
        });
        assert_eq!(failures.collect::<Vec<_>>(), Vec::<&str>::new());
        let descendants =
            agent.metric("usernsd_pod_cgroup_descendants", &[("namespace", "default"), ("pod", "p")]);
        assert!(descendants >= 4.0, "{descendants}");
    };
    look(&agent);
    agent.terminate();
    // A container that starts later.
    let agent = Agent::joined(&node);
    look(&agent);
    agent.terminate();
    // Its directories are still its own making, and not the runtime's, when somebody sets its cgroup back.
    std::os::unix::fs::chown(&container.cgroup, Some(0), None).unwrap();
    let agent = Agent::with(&node, "nri: {enabled: false}\n");
    agent.wait_for_outcome(&container, "delegated");
    assert_handed_over(&container.cgroup, BASE);
}

#[test]
fn the_pod_gets_limits_that_it_cannot_change() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::joined(&node);
    let pod = pods.run_pod(&PodSpec::new("p").annotated("usernsd.io/cgroup", "writable"));
    let container = pods.run(&pod, &ContainerSpec::sleeping());
    agent.wait_for_outcome(&container, "already_right");
    let read = |file| fs::read_to_string(container.pod_cgroup.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("cgroup.max.descendants"), read("cgroup.max.depth")), ("250".into(), "50".into()));

    // It is root inside and owns the directory, but not these files.
    for file in ["cgroup.max.descendants", "cgroup.max.depth"] {
        let output = pods.exec(&container, &["/bin/sh", "-c", &format!("echo max >/sys/fs/cgroup/{file}")]);
        assert!(output.code != 0 && output.stderr.contains("ermission denied"), "{output:?}");
    }
    let wide = "i=0; while mkdir /sys/fs/cgroup/$i; do i=$((i + 1)); done; echo $i";
    let output = pods.exec(&container, &["/bin/sh", "-c", wide]);
    assert!(output.stderr.contains("Resource temporarily unavailable"), "{output:?}");
    // The own limit leaves room for the pod's next container.
    assert_eq!(output.stdout, "108");
    assert_eq!(fs::read_to_string(container.cgroup.join("cgroup.max.descendants")).unwrap(), "108\n");
    let output = pods.exec(&container, &["/bin/sh", "-c", "rmdir /sys/fs/cgroup/[0-9]*"]);
    assert_eq!(output.code, 0, "{output:?}");
    let deep = "cd /sys/fs/cgroup; i=0; while mkdir x && cd x; do i=$((i + 1)); done; echo $i";
    let output = pods.exec(&container, &["/bin/sh", "-c", deep]);
    assert!(output.stderr.contains("Resource temporarily unavailable"), "{output:?}");
    let made: usize = output.stdout.parse().unwrap();
    assert!((40..50).contains(&made), "{made}");

    // Another pod has its own limits, and what an administrator set stays.
    let other = pods.run_pod(&PodSpec::new("q").annotated("usernsd.io/cgroup", "writable"));
    fs::write(pods.pod_cgroup(&other).join("cgroup.max.depth"), "7").unwrap();
    let other = pods.run(&other, &ContainerSpec::sleeping());
    agent.wait_for_outcome(&other, "already_right");
    assert_eq!(fs::read_to_string(other.pod_cgroup.join("cgroup.max.depth")).unwrap(), "7\n");
    assert_eq!(fs::read_to_string(other.pod_cgroup.join("cgroup.max.descendants")).unwrap(), "250\n");
    let above = container.pod_cgroup.parent().unwrap().join("cgroup.max.depth");
    assert_eq!(fs::read_to_string(above).unwrap(), "max\n");
}

#[test]
fn an_observe_only_agent_changes_nothing() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let observe = "delegation: {mechanism: none}\nguard: {policy: report}\nnri: {enabled: false}\n";
    let agent = Agent::with(&node, observe);
    let (pod, container) = privileged();
    let container = pods.run(&pods.run_pod(&pod), &container);
    let before = changed(&container.cgroup);
    agent.wait_for_outcome(&container, "observe_only");
    assert_eq!(container.owner(""), (0, 0));
    assert_eq!(fs::read_to_string(container.pod_cgroup.join("cgroup.max.depth")).unwrap(), "max\n");
    // crun delegates the cgroup itself, without limits.
    let pod = PodSpec::new("q").privileged().handler("crun");
    let crun = pods.run(&pods.run_pod(&pod), &ContainerSpec::sleeping().privileged());
    agent.wait_for_outcome(&crun, "already_right");
    assert_eq!(agent.record(&crun)["state"], "unlimited");
    assert_eq!(fs::read_to_string(crun.pod_cgroup.join("cgroup.max.depth")).unwrap(), "max\n");
    assert_eq!(changed(&container.cgroup), before);
}
