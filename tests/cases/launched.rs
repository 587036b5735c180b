//! The plugin that the runtime launches, with an agent beside it and without.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::agent::{Agent, node_with_binary};
use crate::guard::lost;
use crate::node::{Node, Options, Runtime};
use crate::pods::{BASE, Container, ContainerSpec, PodSpec, Pods, wait_for};
use crate::storm::hook_for_containerd;

const BINARY: &str = env!("CARGO_BIN_EXE_usernsd");
const PLUGIN: &str = "/opt/nri/plugins/90-usernsd";
const SETTINGS: &str = "/etc/nri/conf.d/90-usernsd.conf";
const UNIT: &str = "containerd.service";

/// A node whose runtime launches the plugin from its first start on.
pub(crate) fn node_with_plugin(runtime: Runtime) -> Option<Node> {
    let binds = vec![(PathBuf::from(BINARY), PLUGIN.to_owned())];
    let node = node_with_binary(Options { runtime, binds, ..Options::default() })?;
    plugin(&node);
    Some(node)
}

/// The plugin's process in the node, once there is one that listens.
#[track_caller]
pub(crate) fn plugin(node: &Node) -> String {
    wait_for("the launched plugin", || running(node))
}

pub(crate) fn running(node: &Node) -> Option<String> {
    let found = node.exec([
        "sh",
        "-c",
        "cd /run/usernsd-plugin && for s in *.sock; do p=${s##*-}; p=${p%.sock}; \
                           [ -d /proc/$p/fd ] && ls /proc/$p/fd | grep -q . && echo $p; done",
    ]);
    String::from_utf8_lossy(&found.stdout).lines().next().map(str::to_owned)
}

fn signal(node: &Node, pid: &str, signal: &str) {
    node.run(["kill", &format!("-{signal}"), pid]);
}

pub(crate) fn asking(name: &str) -> PodSpec {
    PodSpec::new(name).annotated("usernsd.io/cgroup", "writable")
}

/// Asserts that the container can use its cgroup: it is mounted read-write, owned, and limited.
#[track_caller]
pub(crate) fn assert_served(pods: &Pods<'_>, container: &Container, root: u32) {
    assert!(pods.is_running(container));
    let mounts = pods.proc(container, "mounts");
    let mount = mounts.lines().find(|line| line.contains(" /sys/fs/cgroup ")).unwrap_or_default();
    assert!(mount.contains(" rw,"), "{mount}");
    assert_eq!(container.owner("").0, root);
    assert_eq!(container.owner("cgroup.procs").0, root);
    let bound = fs::read_to_string(container.pod_cgroup.join("cgroup.max.depth")).unwrap();
    assert_eq!(bound.trim(), "50");
}

pub(crate) fn peers(agent: &Agent<'_>) -> Value {
    let document: Value = serde_json::from_str(&agent.get("/api/v1/state")).unwrap();
    document["peers"].clone()
}

#[track_caller]
pub(crate) fn wait_for_path(agent: &Agent<'_>, path: &str) {
    wait_for(path, || (peers(agent)["startPath"] == path).then_some(()));
    assert_eq!(agent.metric("usernsd_nri_start_path", &[("path", path)]), 1.0);
}

/// The number of changes of that kind that an agent has counted.
fn fixes(agent: &Agent<'_>, action: &str) -> f64 {
    agent.metric("usernsd_fixes_total", &[("action", action)])
}

fn reports(agent: &Agent<'_>) -> f64 {
    agent.metric("usernsd_nri_plugin_reports_total", &[])
}

/// With no agent: the first container, also the first after the runtime restarted.
fn serves_without_an_agent(runtime: Runtime, unit: &str) {
    let Some(node) = node_with_plugin(runtime) else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&asking("first").numbered(1));
    assert_served(&pods, &pods.run(&pod, &ContainerSpec::sleeping()), pod_root(1));
    let before = plugin(&node);
    node.restart_unit(unit);
    pods.wait_until_it_answers();
    let again = pods.run_pod(&asking("again").numbered(2));
    let container = pods.run(&again, &ContainerSpec::sleeping());
    assert_served(&pods, &container, pod_root(2));
    assert_ne!(plugin(&node), before, "one plugin each start");
    let sockets = node.run(["sh", "-c", "ls -A /run/usernsd-plugin"]);
    assert_eq!(sockets.lines().count(), 1, "a stale socket is left behind: {sockets}");

    // The agent that starts later gets the report, once.
    let agent = Agent::start(&node);
    wait_for_path(&agent, "launched_plugin");
    wait_for("the report", || (fixes(&agent, "set_limits") >= 3.0).then_some(()));
    wait_for("the record", || (agent.record(&container)["source"] == "nri").then_some(()));
    assert_eq!((fixes(&agent, "set_limits"), fixes(&agent, "adjust_container")), (3.0, 1.0));
    assert_eq!(agent.metric("usernsd_handling_seconds_count", &[]), 1.0);
    agent.terminate();
    let agent = Agent::start(&node);
    wait_for_path(&agent, "launched_plugin");
    let last = pods.run_pod(&asking("last").numbered(3));
    assert_served(&pods, &pods.run(&last, &ContainerSpec::sleeping()), pod_root(3));
    wait_for("the report", || (fixes(&agent, "set_limits") >= 3.0).then_some(()));
    assert_eq!((fixes(&agent, "set_limits"), fixes(&agent, "adjust_container")), (3.0, 1.0));
    assert!(!agent.log().contains("joined the runtime over NRI"), "it joined beside the plugin");
}

fn pod_root(index: u32) -> u32 {
    BASE + index * 65_536
}

#[test]
fn containerds_first_container_is_served_without_an_agent() {
    serves_without_an_agent(Runtime::Containerd, UNIT);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crios_first_container_is_served_without_an_agent() {
    serves_without_an_agent(Runtime::Crio, "crio.service");
}

#[test]
fn lost_isolation_is_refused_without_an_agent() {
    let Some(node) = node_with_plugin(Runtime::Containerd) else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    let refused = pods.try_create(&pod, &lost());
    let Err(status) = refused else { panic!("it was created") };
    assert!(status.message().contains("host's user namespace"), "{}", status.message());
    // Its log is in the journal, because nothing reads a plugin's standard error.
    wait_for("the journal's line", || {
        let lines = node.run(["journalctl", "--no-pager", "-t", "usernsd"]);
        lines.contains("would run as the host's root").then_some(())
    });
    let agent = Agent::start(&node);
    let refusals = || agent.metric("usernsd_refusals_total", &[("reason", "lost_isolation")]);
    wait_for("the report", || (refusals() >= 1.0).then_some(()));
    assert_eq!(refusals(), 1.0);
    let document: Value = serde_json::from_str(&agent.get("/api/v1/state")).unwrap();
    assert_eq!(document["events"][0]["kind"], "refused");
}

/// Many versions of CRI-O forget the ID mappings of their pods when they restart (cri-o#10014); the plugin
/// starts again with CRI-O.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_container_is_refused_without_an_agent_if_crio_forgot_the_mappings() {
    let Some(node) = node_with_plugin(Runtime::Crio) else { return };
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    let before = pods.run(&pod, &ContainerSpec::sleeping());
    assert!(pods.proc(&before, "uid_map").contains("200000"));
    node.restart_unit("crio.service");
    pods.wait_until_it_answers();
    let again = pods.try_create(&pod, &ContainerSpec::sleeping().named("again"));
    if node.crio_version().forgets_mappings_on_restart() {
        let Err(status) = again else { panic!("a container without its user namespace was created") };
        assert!(status.message().contains("host's user namespace"), "{}", status.message());
    } else {
        let container = again.unwrap();
        pods.start(&container);
        assert!(pods.proc(&container, "uid_map").contains("200000"));
    }
}

/// Killed, as by the out-of-memory killer, the plugin is away until the runtime starts again: the agent
/// takes its place.
#[test]
fn a_killed_plugin_is_replaced_by_the_agent() {
    let Some(node) = node_with_plugin(Runtime::Containerd) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node);
    wait_for_path(&agent, "launched_plugin");
    signal(&node, &plugin(&node), "KILL");
    wait_for_path(&agent, "agent_joined");
    let pod = pods.run_pod(&asking("after"));
    assert_served(&pods, &pods.run(&pod, &ContainerSpec::sleeping()), BASE);
    assert!(agent.log().contains("lost the plugin that the runtime launched"));
    node.restart_unit(UNIT);
    pods.wait_until_it_answers();
    wait_for_path(&agent, "launched_plugin");
    wait_for("leaving", || {
        agent.log().contains("left the runtime").then_some(()).or_else(|| {
            // The restart has ended the joined session first.
            agent.log().contains("the runtime ended the connection").then_some(())
        })
    });
    let pod = pods.run_pod(&asking("back").numbered(1));
    assert_served(&pods, &pods.run(&pod, &ContainerSpec::sleeping()), pod_root(1));
}

/// A plugin that hangs costs the runtime its time limit once; then the runtime kills it and continues, and
/// the agent takes its place.
#[test]
fn a_hung_plugin_is_replaced_by_the_agent() {
    let Some(node) = node_with_plugin(Runtime::Containerd) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node);
    wait_for_path(&agent, "launched_plugin");
    let hung = plugin(&node);
    signal(&node, &hung, "STOP");
    wait_for_path(&agent, "agent_joined");
    assert_eq!(peers(&agent)["plugins"][0]["responds"], false);
    // No request has failed yet, so the plugin may continue, and the agent leaves.
    signal(&node, &hung, "CONT");
    wait_for_path(&agent, "launched_plugin");
    wait_for("leaving", || agent.log().contains("left the runtime").then_some(()));
    signal(&node, &hung, "STOP");
    let pod = pods.run_pod(&asking("meanwhile"));
    let container = pods.run(&pod, &ContainerSpec::sleeping());
    assert!(pods.is_running(&container));
    wait_for("its end", || peers(&agent)["plugins"].as_array().unwrap().is_empty().then_some(()));
    wait_for_path(&agent, "agent_joined");
    let pod = pods.run_pod(&asking("after").numbered(1));
    assert_served(&pods, &pods.run(&pod, &ContainerSpec::sleeping()), pod_root(1));
}

/// The agent does not replace the plugin, because it is not configured to join NRI. While the plugin was called, the
/// agent was not subscribed to systemd's signals; afterwards they are the earliest way to a container.
#[test]
fn containers_are_reached_over_systemd_once_the_plugin_is_gone() {
    let Some(node) = node_with_plugin(Runtime::Containerd) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, "nri: {enabled: false}\nlog: {level: debug}\n");
    wait_for_path(&agent, "launched_plugin");
    let switched = |what: &str| agent.log().matches(&format!("systemd's signals are {what}")).count();
    let pod = pods.run_pod(&PodSpec::new("p").privileged());
    let before = pods.run(&pod, &ContainerSpec::sleeping().privileged());
    wait_for("the report", || (agent.record(&before)["source"] == "nri").then_some(()));
    let (on, off) = (switched("on"), switched("off"));
    signal(&node, &plugin(&node), "KILL");
    wait_for_path(&agent, "nobody");
    wait_for("signals", || (switched("on") > on).then_some(()));
    let after = pods.run(&pod, &ContainerSpec::sleeping().named("after").privileged());
    agent.wait_for_outcome(&after, "delegated");
    assert_eq!((agent.record(&after)["source"].as_str(), after.owner("").0), (Some("systemd"), BASE));
    // The next plugin: the signals are off again, and it is called.
    node.restart_unit(UNIT);
    pods.wait_until_it_answers();
    wait_for_path(&agent, "launched_plugin");
    wait_for("no signals", || (switched("off") > off).then_some(()));
    let back = pods.run(&pod, &ContainerSpec::sleeping().named("back").privileged());
    wait_for("the report", || (agent.record(&back)["source"] == "nri").then_some(()));
}

/// systemd marks the cgroups that it delegates, so that no call over the bus is needed for them.
#[test]
fn systemd_is_asked_only_about_a_cgroup_that_it_has_not_marked() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node);
    wait_for_path(&agent, "agent_joined");
    let pod = pods.run_pod(&PodSpec::new("p").privileged());
    let log = "/run/calls";
    let script = format!("exec busctl monitor org.freedesktop.systemd1 >{log} 2>&1");
    let _monitor = node.spawn(["sh", "-c", &script]);
    let calls = || fs::read_to_string(node.path(log)).unwrap_or_default();
    wait_for("the monitor", || {
        let manager = ["/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
        node.run(["busctl", "get-property", "org.freedesktop.systemd1", manager[0], manager[1], "Version"]);
        calls().contains("Member=Get").then_some(())
    });
    let asked = |container: &Container| {
        let label = format!("{}_2escope", container.id);
        calls().lines().any(|line| line.contains(&label) && line.ends_with("Member=GetAll"))
    };
    let marked = pods.run(&pod, &ContainerSpec::sleeping().named("marked").privileged());
    agent.wait_for_outcome(&marked, "delegated");
    node.write("/run/systemd/system/scope.d/x.conf", "[Scope]\nDelegate=no\n");
    node.run(["systemctl", "daemon-reload"]);
    let unmarked = pods.run(&pod, &ContainerSpec::sleeping().named("unmarked").privileged());
    agent.wait_for_outcome(&unmarked, "not_delegated");
    wait_for("the question", || asked(&unmarked).then_some(()));
    assert!(!asked(&marked), "{}", calls());
    assert_eq!((marked.owner("").0, unmarked.owner("").0), (BASE, 0));
}

/// Neither of the two asks systemd: what it has written on the directories counts.
#[test]
fn plugin_and_hook_leave_a_cgroup_alone_that_systemd_does_not_delegate() {
    for with_plugin in [true, false] {
        let plugin = (PathBuf::from(BINARY), PLUGIN.to_owned());
        let binds = if with_plugin { vec![plugin] } else { Vec::new() };
        let Some(node) = node_with_binary(Options { nri: with_plugin, binds, ..Options::default() }) else {
            return;
        };
        node.write(SETTINGS, "delegation: {privilegedCgroupNamespace: false}\n");
        let handler = hook_for_containerd(&node);
        let pods = Pods::connect(&node);
        let spec = PodSpec::new("p").privileged();
        let pod = pods.run_pod(&if with_plugin { spec } else { spec.handler(handler) });
        let run = |name: &str| pods.run(&pod, &ContainerSpec::sleeping().named(name).privileged());
        assert_eq!(run("delegated").owner("").0, BASE, "plugin: {with_plugin}");
        node.write("/run/systemd/system/scope.d/x.conf", "[Scope]\nDelegate=no\n");
        node.run(["systemctl", "daemon-reload"]);
        let container = run("not-delegated");
        assert_eq!(
            (container.owner("").0, container.owner("cgroup.procs").0, pods.is_running(&container)),
            (0, 0, true),
            "plugin: {with_plugin}"
        );
    }
}

/// A file that is not a program, as after a truncated copy.
#[test]
fn a_plugin_that_does_not_start_is_replaced_by_the_agent() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    node.write(PLUGIN, "no program\n");
    node.run(["chmod", "755", PLUGIN]);
    node.restart_unit(UNIT);
    pods.wait_until_it_answers();
    let pod = pods.run_pod(&PodSpec::new("before"));
    assert!(pods.is_running(&pods.run(&pod, &ContainerSpec::sleeping())));
    let agent = Agent::start(&node);
    wait_for_path(&agent, "agent_joined");
    let pod = pods.run_pod(&asking("after").numbered(1));
    assert_served(&pods, &pods.run(&pod, &ContainerSpec::sleeping()), pod_root(1));
}

/// Two agents during an upgrade: each report goes to one of them.
#[test]
fn overlapping_agents_count_each_report_once() {
    let Some(node) = node_with_plugin(Runtime::Containerd) else { return };
    let pods = Pods::connect(&node);
    let old = Agent::start(&node);
    wait_for_path(&old, "launched_plugin");
    let run = |index: u32| {
        let pod = pods.run_pod(&asking(&format!("p{index}")).numbered(index as usize));
        assert_served(&pods, &pods.run(&pod, &ContainerSpec::sleeping()), pod_root(index));
    };
    (1..4).for_each(run);
    wait_for("the old agent's", || (fixes(&old, "adjust_container") == 3.0).then_some(()));
    let line = "exec usernsd agent --http 127.0.0.1:9565 --state-socket /run/newer/state.sock --log-format json \
                2>/run/newer.log";
    let newer = node.spawn(["sh", "-c", line]);
    let get = |what: &str| -> f64 {
        let url = "http://127.0.0.1:9565/metrics";
        let text = String::from_utf8_lossy(&node.exec(["busybox", "wget", "-qO-", url]).stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(what)?.trim().parse().ok());
        line.unwrap_or(-1.0)
    };
    wait_for("the newer agent", || {
        (get("usernsd_nri_start_path{path=\"launched_plugin\"}") == 1.0).then_some(())
    });
    wait_for("the old one's end of turn", || {
        old.log().contains("another agent gets the launched plugin's reports").then_some(())
    });
    let before = reports(&old);
    (4..7).for_each(run);
    let adjusted = "usernsd_fixes_total{action=\"adjust_container\"}";
    wait_for("the newer agent's", || (get(adjusted) == 3.0).then_some(()));
    assert_eq!((fixes(&old, "adjust_container"), reports(&old)), (3.0, before), "counted twice");
    // When the newer one ends, the old one gets the reports again.
    newer.terminate();
    run(7);
    wait_for("the old agent's", || (fixes(&old, "adjust_container") == 4.0).then_some(()));
    assert!(!old.log().contains("joined the runtime over NRI"));
}

/// Changed settings hold from the next request on; the runtime is not restarted.
#[test]
fn changed_settings_need_no_restart_of_the_runtime() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let settings =
        |policy: &str| format!("settingsFile: {SETTINGS}\nguard:\n  policy: {policy}\n  colour: red\n");
    node.install(BINARY.as_ref(), PLUGIN);
    node.write(SETTINGS, settings("report"));
    node.restart_unit(UNIT);
    pods.wait_until_it_answers();
    plugin(&node);
    let agent = Agent::start(&node);
    wait_for_path(&agent, "launched_plugin");
    let plugin = &peers(&agent)["plugins"][0];
    assert!(plugin["problems"][0].as_str().unwrap().contains("guard.colour"), "{plugin}");
    let pod = pods.run_pod(&PodSpec::new("guarded"));
    assert!(pods.is_running(&pods.run(&pod, &lost())));
    node.write(SETTINGS, settings("refuse"));
    assert!(pods.try_create(&pod, &lost().named("again")).is_err());
    // If the settings cannot be read, the safe defaults apply.
    node.write(SETTINGS, settings("dance"));
    assert!(pods.try_create(&pod, &lost().named("still")).is_err());
    wait_for("the problem", || {
        peers(&agent)["plugins"][0]["problems"].to_string().contains("guard.policy").then_some(())
    });
}

/// The plugin has dropped what it inherited from the runtime: capabilities, descriptors, the protection from
/// the out-of-memory killer.
#[test]
fn the_plugin_keeps_only_the_privileges_that_it_needs() {
    let Some(node) = node_with_plugin(Runtime::Containerd) else { return };
    let pid = plugin(&node);
    let status = node.run(["cat", &format!("/proc/{pid}/status")]);
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {key} in {status}")).trim().to_owned()
    };
    // CAP_CHOWN, CAP_KILL.
    let kept = format!("{:016x}", (1_u64 << 0) | (1 << 5));
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(value(set), kept, "{set}");
    }
    assert_eq!((value("CapInh"), value("CapAmb")), ("0".repeat(16), "0".repeat(16)));
    assert_eq!(
        (value("NoNewPrivs").as_str(), value("Seccomp").as_str(), value("Umask").as_str()),
        ("1", "2", "0077")
    );
    assert_eq!(node.run(["cat", &format!("/proc/{pid}/oom_score_adj")]), "0");
    assert_eq!(node.run(["readlink", &format!("/proc/{pid}/cwd")]), "/");
    let sockets = node.run(["stat", "-c", "%a %u", "/run/usernsd-plugin"]);
    assert_eq!(sockets, "700 0");
    println!("RSS {} of it anonymous {}, threads {}", value("VmRSS"), value("RssAnon"), value("Threads"));
}
