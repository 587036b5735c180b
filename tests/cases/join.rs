//! Joining a runtime over NRI when that would harm it: the author of a pod, or bad timing, can make a plugin
//! that joins carelessly crash or block the runtime.
//!
//! Observed on containerd 2.1.9 with an agent that joined at once and repeatedly: seven restarts of
//! containerd in 43 s, a list that no plugin could receive, and a runtime that hung forever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use usernsd_peers::cri::v1;

use crate::agent::{Agent, node_with_binary};
use crate::cri_runtime::{AfterEvents, FakeRuntime, Scenario};
use crate::launched::{asking, assert_served, node_with_plugin, peers, plugin, running, wait_for_path};
use crate::node::{Node, Options, Runtime};
use crate::pods::{BASE, Container, ContainerSpec, Pod, PodSpec, Pods, wait_for};
use crate::presence::unit;

/// A container whose environment has 1.87 MiB: as much as execve(2) accepts, in strings of 128 KiB.
fn large(name: &str) -> ContainerSpec {
    let spec = ContainerSpec::sleeping().named(name);
    (0..15).fold(spec, |spec, index| spec.env(&format!("LARGE{index:02}"), &"x".repeat(130_000)))
}

/// The runtime's process, and how often systemd had to restart it.
#[derive(Debug, PartialEq, Eq)]
struct Life {
    pid: String,
    restarts: String,
}

impl Life {
    fn of(node: &Node, runtime: Runtime) -> Life {
        let property = |name: &str| node.run(["systemctl", "show", "--value", "-p", name, unit(runtime)]);
        Life { pid: property("MainPID"), restarts: property("NRestarts") }
    }
}

fn state(agent: &Agent<'_>) -> Value {
    serde_json::from_str(&agent.get("/api/v1/state")).unwrap()
}

/// The reason in the state document why the agent has not joined.
fn reason(agent: &Agent<'_>) -> String {
    let state = state(agent);
    let nri = &state["peers"]["nri"];
    if nri["state"] == "up" {
        String::new()
    } else {
        nri["lastError"].as_str().unwrap_or_default().to_owned()
    }
}

/// Asserts that the runtime still works.
#[track_caller]
pub(crate) fn it_works(pods: &Pods<'_>, name: &str) {
    let pod = pods.run_pod(&PodSpec::new(name));
    assert!(pods.is_running(&pods.run(&pod, &ContainerSpec::sleeping())));
    pods.remove_pod(&pod);
}

/// Runs an agent while the runtime has a list that it could not send without a crash: the agent does not join
/// and names the pod. When the pod is gone, the agent joins.
#[track_caller]
fn too_large(node: &Node, pods: &Pods<'_>, runtime: Runtime, culprit: &Pod) {
    let life = Life::of(node, runtime);
    let agent = Agent::start(node);
    let why = wait_for("a reason", || Some(reason(&agent)).filter(|why| !why.is_empty()));
    let name = format!("default/{}", culprit.spec.name);
    assert!(why.contains("not joining NRI") && why.contains(&name), "{why}");
    let doctor = wait_for("the check", || {
        let state = state(&agent);
        let checks = state["checks"].as_array()?;
        checks.iter().find(|check| check["id"] == "nri_joined" && check["outcome"] == "warn").cloned()
    });
    assert!(doctor.to_string().contains(&name), "{doctor}");
    it_works(pods, "meanwhile");
    assert_eq!(Life::of(node, runtime), life, "the runtime was restarted");
    assert!(!agent.log().contains("joined the runtime over NRI"));
    pods.remove_pod(culprit);
    wait_for("the runtime to be joined", || agent.is_connected("nri").then_some(()));
    it_works(pods, "after");
    assert_eq!(Life::of(node, runtime), life);
}

/// A pod with nine large containers, whose list crashes the runtime when a plugin joins.
fn list_that_crashes(pods: &Pods<'_>) -> Pod {
    let pod = pods.run_pod(&PodSpec::new("panic"));
    for index in 0..9 {
        pods.run(&pod, &large(&format!("c{index}")));
    }
    pod
}

/// A pod with twelve of them, and four other pods: the runtime does not manage to send that list.
fn list_that_cannot_be_sent(pods: &Pods<'_>) -> Pod {
    for index in 0..4 {
        pods.run_pod(&PodSpec::new(&format!("plain{index}")));
    }
    let pod = pods.run_pod(&PodSpec::new("lockout"));
    for index in 0..12 {
        pods.run(&pod, &large(&format!("c{index}")));
    }
    pod
}

fn is_not_asked_for(runtime: Runtime, make: impl FnOnce(&Pods<'_>) -> Pod) {
    let Some(node) = node_with_binary(Options { runtime, ..Options::default() }) else { return };
    let pods = Pods::connect(&node);
    too_large(&node, &pods, runtime, &make(&pods));
}

#[test]
fn the_agent_does_not_join_a_runtime_that_its_list_would_crash() {
    is_not_asked_for(Runtime::Containerd, list_that_crashes);
}

#[test]
fn the_agent_does_not_join_a_runtime_that_cannot_send_its_list() {
    is_not_asked_for(Runtime::Containerd, list_that_cannot_be_sent);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn the_agent_does_not_join_a_crio_that_its_list_would_crash() {
    is_not_asked_for(Runtime::Crio, list_that_crashes);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn the_agent_does_not_join_a_crio_that_cannot_send_its_list() {
    is_not_asked_for(Runtime::Crio, list_that_cannot_be_sent);
}

/// Removes pods with one container each, one after another, until `stop` is set. Returns their number.
fn remove_all_the_time(node: &Node, stop: &AtomicBool) -> usize {
    let pods = Pods::connect(node);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let pod = pods.run_pod(&PodSpec::new(&format!("gone{count}")).in_host_user_namespace());
        pods.run(&pod, &ContainerSpec::sleeping());
        pods.remove_pod(&pod);
        count += 1;
    }
    count
}

/// `USERNSD_TEST_ROUNDS`: the number of restarts of the agent.
fn rounds() -> usize {
    std::env::var("USERNSD_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(12)
}

#[test]
fn restarts_of_the_agent_among_removals_do_not_stop_the_runtime() {
    restarts_among_removals(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn restarts_of_the_agent_among_removals_do_not_stop_crio() {
    restarts_among_removals(Runtime::Crio);
}

fn restarts_among_removals(runtime: Runtime) {
    let Some(node) = node_with_binary(Options { runtime, ..Options::default() }) else { return };
    let stop = AtomicBool::new(false);
    let mut joined = 0;
    thread::scope(|scope| {
        let removals = scope.spawn(|| remove_all_the_time(&node, &stop));
        for round in 0..rounds() {
            let agent = Agent::start(&node);
            let since = Instant::now();
            // The agent may wait for a quiet moment; if it has joined, the runtime has accepted it.
            while since.elapsed() < Duration::from_secs(3) && !agent.is_connected("nri") {
                thread::sleep(Duration::from_millis(10));
            }
            joined += usize::from(agent.is_connected("nri"));
            agent.kill();
            if removals.is_finished() {
                panic!("the runtime hangs after {round} restarts");
            }
        }
        stop.store(true, Ordering::Relaxed);
        let removed = removals.join().unwrap();
        println!("{} restarts, joined in {joined}, {removed} pods removed meanwhile", rounds());
        assert!(removed > rounds() / 4);
    });
    assert!(joined > 0, "no quiet moment was found");
    it_works(&Pods::connect(&node), "after");
}

/// Stops a pod with a container that ignores every signal: runs `meanwhile` after the first half of the stop
/// and before the second.
fn in_a_graceful_stop(node: &Node, meanwhile: impl FnOnce(&Pods<'_>)) {
    let pods = Pods::connect(node);
    let pod = pods.run_pod(&PodSpec::new("graceful"));
    // The image of one container specifies SIGKILL as its stop signal.
    let heeds = ContainerSpec::sleeping().named("heeds");
    let systemd = ContainerSpec::systemd();
    let deaf = ContainerSpec::of(&systemd.image, &["/bin/sleep", "infinity"]).named("deaf");
    let (deaf, heeds): (Container, Container) = (pods.run(&pod, &deaf), pods.run(&pod, &heeds));
    assert!(pods.is_running(&deaf) && pods.is_running(&heeds));
    let stopping = |container: &Container| {
        let container_id = container.id.clone();
        move || {
            let pods = Pods::connect(node);
            let request = v1::StopContainerRequest { container_id, timeout: 20 };
            pods.stop_gracefully(request);
        }
    };
    thread::scope(|scope| {
        scope.spawn(stopping(&deaf));
        scope.spawn(stopping(&heeds));
        wait_for("one to end", || (!pods.is_running(&heeds)).then_some(()));
        assert!(pods.is_running(&deaf), "both have ended");
        let since = Instant::now();
        meanwhile(&pods);
        println!("{}: done {:?} after the stop had begun", pods.runtime_name, since.elapsed());
        assert!(pods.is_running(&deaf), "the stop was over already");
    });
}

#[test]
fn the_agent_waits_for_a_visible_graceful_stop_before_it_joins() {
    a_graceful_stop_is_waited_for(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn the_agent_waits_for_a_visible_graceful_stop_before_it_joins_crio() {
    a_graceful_stop_is_waited_for(Runtime::Crio);
}

fn a_graceful_stop_is_waited_for(runtime: Runtime) {
    let Some(node) = node_with_binary(Options { runtime, ..Options::default() }) else { return };
    let mut agent = None;
    in_a_graceful_stop(&node, |pods| {
        let agent = agent.insert(Agent::start(&node));
        let why = wait_for("a reason", || Some(reason(agent)).filter(|why| !why.is_empty()));
        assert!(why.contains("a graceful stop of pod default/graceful"), "{why}");
        assert_eq!(peers(agent)["nri"]["state"], "waiting");
        let ready = node.exec(["usernsd", "ps", "--ready"]);
        assert!(!ready.status.success(), "its predecessor would be stopped");
        it_works(pods, "meanwhile");
    });
    let agent = agent.unwrap();
    wait_for("the runtime to be joined", || agent.is_connected("nri").then_some(()));
}

#[test]
fn a_graceful_stop_delays_no_container_with_the_launched_plugin() {
    agents_in_a_graceful_stop(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_graceful_stop_delays_no_container_with_the_plugin_that_crio_launched() {
    agents_in_a_graceful_stop(Runtime::Crio);
}

fn agents_in_a_graceful_stop(runtime: Runtime) {
    let Some(node) = node_with_plugin(runtime) else { return };
    in_a_graceful_stop(&node, |pods| {
        let agent = Agent::start(&node);
        wait_for_path(&agent, "launched_plugin");
        it_works(pods, "meanwhile");
        agent.kill();
        it_works(pods, "again");
    });
}

#[test]
fn a_runtime_is_joined_when_its_socket_appears() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    node.run(["systemctl", "stop", "containerd"]);
    node.run(["rm", "-f", "/var/run/nri/nri.sock"]);
    let agent = Agent::start(&node);
    let why = wait_for("a reason", || Some(reason(&agent)).filter(|why| !why.is_empty()));
    assert!(why.contains("no NRI socket"), "{why}");
    // Without a notification, the next attempt would be minutes away.
    node.run(["systemctl", "start", "containerd"]);
    wait_for("the runtime to be joined", || agent.is_connected("nri").then_some(()));
    let made = std::fs::metadata(node.path("/run/nri/nri.sock")).and_then(|socket| socket.modified());
    let since = state(&agent)["peers"]["nri"]["since"].clone();
    println!("socket made at {made:?}, joined at {since}");
}

#[test]
fn many_small_variables_do_not_disconnect_the_plugin() {
    many_small_variables(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn many_small_variables_do_not_disconnect_the_plugin_on_crio() {
    many_small_variables(Runtime::Crio);
}

fn many_small_variables(runtime: Runtime) {
    let Some(node) = node_with_binary(Options { runtime, ..Options::default() }) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::start(&node);
    wait_for("the runtime to be joined", || agent.is_connected("nri").then_some(()));
    let pod = pods.run_pod(&PodSpec::new("variables").annotated("usernsd.io/cgroup", "writable"));
    let mut spec = ContainerSpec::sleeping();
    spec.env = (0..400_000).map(|index| (format!("{index:x}"), String::new())).collect();
    // execve(2) accepts at most 2 MiB: the container is created and does not start.
    let since = Instant::now();
    let made = pods.try_create(&pod, &spec);
    println!("created in {:?}: {:?}", since.elapsed(), made.as_ref().map(|container| &container.id));
    let container = made.unwrap();
    let options = pods.status(&container).spec["mounts"].as_array().unwrap().clone();
    let cgroup = options.iter().find(|mount| mount["destination"] == "/sys/fs/cgroup").unwrap();
    assert!(
        cgroup["options"].as_array().unwrap().contains(&"rw".into()),
        "{cgroup}: the plugin was left out"
    );
    assert!(agent.is_connected("nri") && !agent.log().contains("NRI connection"));
    it_works(&pods, "after");
}

/// Two agents at the same time, as during an update of a DaemonSet with `maxSurge`: nothing is done twice,
/// and the runtime sees no conflict.
#[track_caller]
fn two_at_once(node: &Node) {
    let pods = Pods::connect(node);
    let first = Agent::start(node);
    wait_for("the first to join", || first.is_connected("nri").then_some(()));
    let config = "stateSocket: {path: /run/usernsd-test/second.sock}\n";
    node.write("/run/usernsd-test/second.yaml", config);
    let mut second = node.spawn([
        "sh",
        "-c",
        "exec usernsd agent --config /run/usernsd-test/second.yaml --log-format json 2>/run/usernsd-test/second.log",
    ]);
    let log = |name: &str| {
        std::fs::read_to_string(node.path(&format!("/run/usernsd-test/{name}"))).unwrap_or_default()
    };
    wait_for("the second to join", || {
        log("second.log").contains("joined the runtime over NRI").then_some(())
    });
    let pod = pods.run_pod(&PodSpec::new("both").annotated("usernsd.io/systemd", "true"));
    let container = pods.run(&pod, &ContainerSpec::sleeping());
    assert!(pods.is_running(&container));
    let spec = pods.status(&container).spec;
    for destination in ["/sys/fs/cgroup", "/run", "/tmp"] {
        let mounts = spec["mounts"].as_array().unwrap().iter();
        let count = mounts.filter(|mount| mount["destination"] == destination).count();
        assert_eq!(count, 1, "{destination}");
    }
    wait_for("the cgroup to be handed over", || (container.owner("").0 == container.root).then_some(()));
    let prepared = |text: &str| text.matches("prepared the container").count();
    assert_eq!((prepared(&first.log()), prepared(&log("second.log"))), (1, 0));
    // The older agent ends.
    assert!(first.terminate().success());
    let pod = pods.run_pod(&PodSpec::new("second").annotated("usernsd.io/systemd", "true"));
    let container = pods.run(&pod, &ContainerSpec::sleeping());
    wait_for("the cgroup to be handed over", || (container.owner("").0 == container.root).then_some(()));
    assert_eq!(prepared(&log("second.log")), 1);
    second.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(second.child().wait().unwrap().success());
}

#[test]
fn two_agents_at_once_do_nothing_twice() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    two_at_once(&node);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn two_agents_at_once_do_nothing_twice_on_crio() {
    let Some(node) = node_with_binary(Options { runtime: Runtime::Crio, ..Options::default() }) else {
        return;
    };
    two_at_once(&node);
}

/// Restarts the runtime while it has containers that it could not send to a plugin without a crash. It starts
/// at once. Either its plugin serves it, or the start path is empty and the state document names the pod.
#[track_caller]
fn restart_among(node: &Node, runtime: Runtime, culprit: &Pod) {
    let pods = Pods::connect(node);
    node.restart_unit(unit(runtime));
    pods.wait_until_it_answers();
    let life = Life::of(node, runtime);
    assert_eq!(life.restarts, "0");
    let agent = Agent::start(node);
    let path = wait_for("who is in the start path", || {
        let path = peers(&agent)["startPath"].as_str().unwrap_or_default().to_owned();
        assert_ne!(path, "agent_joined", "the plugin was not launched: {}", node.journal(unit(runtime)));
        (path == "launched_plugin" || !reason(&agent).is_empty()).then_some(path)
    });
    println!("{}: start path: {path}, reason: {}", pods.runtime_name, reason(&agent));
    if path == "launched_plugin" {
        let pod = pods.run_pod(&asking("meanwhile").numbered(1));
        assert_served(&pods, &pods.run(&pod, &ContainerSpec::sleeping()), BASE + 65_536);
    } else {
        let name = format!("default/{}", culprit.spec.name);
        assert!(reason(&agent).contains(&name), "{}", reason(&agent));
        it_works(&pods, "meanwhile");
    }
    pods.remove_pod(culprit);
    wait_for("somebody in the start path", || (peers(&agent)["startPath"] != "nobody").then_some(()));
    let pod = pods.run_pod(&asking("after").numbered(2));
    assert_served(&pods, &pods.run(&pod, &ContainerSpec::sleeping()), BASE + 2 * 65_536);
    assert_eq!(Life::of(node, runtime), life);
    // Without these containers the runtime launches its plugin as usual.
    node.restart_unit(unit(runtime));
    pods.wait_until_it_answers();
    plugin(node);
    wait_for_path(&agent, "launched_plugin");
}

fn restart_among_them(runtime: Runtime, make: impl FnOnce(&Pods<'_>) -> Pod) {
    let Some(node) = node_with_plugin(runtime) else { return };
    let pods = Pods::connect(&node);
    let pod = make(&pods);
    restart_among(&node, runtime, &pod);
}

#[test]
fn a_list_that_would_crash_the_runtime_does_not_with_a_launched_plugin() {
    restart_among_them(Runtime::Containerd, list_that_crashes);
}

#[test]
fn a_list_that_cannot_be_sent_does_not_stop_a_runtime_with_a_launched_plugin() {
    restart_among_them(Runtime::Containerd, list_that_cannot_be_sent);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_list_that_would_crash_crio_does_not_with_a_launched_plugin() {
    restart_among_them(Runtime::Crio, list_that_crashes);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_list_that_crio_cannot_send_does_not_stop_it_with_a_launched_plugin() {
    restart_among_them(Runtime::Crio, list_that_cannot_be_sent);
}

/// Agents start and stop while pods are removed. With a plugin that joins, this caused the deadlock; the
/// launched plugin never joins.
fn restarts_beside_the_plugin(runtime: Runtime) {
    let Some(node) = node_with_plugin(runtime) else { return };
    let before = plugin(&node);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let removals = scope.spawn(|| remove_all_the_time(&node, &stop));
        for round in 0..rounds() {
            let agent = Agent::start(&node);
            wait_for_path(&agent, "launched_plugin");
            agent.kill();
            assert!(!removals.is_finished(), "the runtime hangs after {round} restarts");
        }
        stop.store(true, Ordering::Relaxed);
        println!("{} restarts, {} pods removed meanwhile", rounds(), removals.join().unwrap());
    });
    assert_eq!(plugin(&node), before, "the runtime dropped its plugin");
    it_works(&Pods::connect(&node), "after");
}

#[test]
fn restarts_of_the_agent_beside_the_launched_plugin_do_not_stop_the_runtime() {
    restarts_beside_the_plugin(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn restarts_of_the_agent_beside_the_launched_plugin_do_not_stop_crio() {
    restarts_beside_the_plugin(Runtime::Crio);
}

#[test]
fn many_small_variables_do_not_disconnect_the_launched_plugin() {
    many_small_variables_with_the_plugin(Runtime::Containerd);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn many_small_variables_do_not_disconnect_the_launched_plugin_on_crio() {
    many_small_variables_with_the_plugin(Runtime::Crio);
}

fn many_small_variables_with_the_plugin(runtime: Runtime) {
    let Some(node) = node_with_plugin(runtime) else { return };
    let pods = Pods::connect(&node);
    let before = plugin(&node);
    let pod = pods.run_pod(&asking("variables"));
    let mut spec = ContainerSpec::sleeping();
    spec.env = (0..400_000).map(|index| (format!("{index:x}"), String::new())).collect();
    let container = pods.create(&pod, &spec);
    // execve(2) accepts at most 2 MiB; runc fails too late to report it.
    println!("start: {:?}", pods.try_start(&container));
    assert_eq!(running(&node).as_ref(), Some(&before), "the runtime dropped its plugin");
    let next = pods.run_pod(&asking("next").numbered(1));
    assert_served(&pods, &pods.run(&next, &ContainerSpec::sleeping()), BASE + 65_536);
    restart_among(&node, runtime, &pod);
}

/// Two runtimes: one answers over CRI, the other one calls over NRI.
#[test]
fn a_runtime_that_does_not_call_the_agent_is_reported() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let socket = node.socket("/run/other.sock");
    let version = ("cri-o".to_owned(), "1.36.3".to_owned());
    let scenario = Scenario { version, after_events: AfterEvents::Stall, ..Scenario::default() };
    let other = FakeRuntime::start(&socket, scenario);
    let agent = Agent::with(&node, "runtime: {endpoints: [/run/other.sock]}\n");
    wait_for("the runtime to be joined", || agent.is_connected("nri").then_some(()));
    let peers = || serde_json::from_str::<Value>(&agent.get("/api/v1/state")).unwrap()["peers"].clone();
    let what = peers()["mismatch"]["what"].as_str().unwrap().to_owned();
    for part in ["cri-o 1.36.3 answers over CRI at /run/other.sock", "containerd ", "/run/nri/nri.sock"] {
        assert!(what.contains(part), "{what}");
    }
    assert_eq!(agent.metric("usernsd_nri_start_path", &[("path", "nobody")]), 1.0);
    wait_for("the check", || {
        let checks = samples_of(&agent, "usernsd_check_passed{check=\"nri_joined\"");
        (checks == [0.0]).then_some(())
    });
    assert!(agent.get("/").contains("wo container runtimes"), "the page");
    let output = node.exec(["usernsd", "ps"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("problem"), "{output:?}");
    assert!(agent.log().contains("CRI and NRI lead to different runtimes"));
    agent.terminate();
    // With a correct configuration, the same node has no such problem.
    drop(other);
    let agent = Agent::start(&node);
    wait_for("the runtime to be joined", || agent.is_connected("nri").then_some(()));
    let pods = Pods::connect(&node);
    let container = pods.run(&pods.run_pod(&PodSpec::new("p")), &ContainerSpec::sleeping());
    agent.record(&container);
    agent.terminate();
    // The list contains the running container.
    let agent = Agent::start(&node);
    wait_for("the runtime to be joined", || agent.is_connected("nri").then_some(()));
    agent.record(&container);
    let peers = serde_json::from_str::<Value>(&agent.get("/api/v1/state")).unwrap()["peers"].clone();
    assert_eq!((&peers["mismatch"], &peers["startPath"]), (&Value::Null, &"agent_joined".into()));
}

/// The values of all series whose names begin with `series`.
fn samples_of(agent: &Agent<'_>, series: &str) -> Vec<f64> {
    let text = agent.exposition();
    let lines = text.lines().filter(|line| line.starts_with(series));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}
