//! Storms of pods that request a writable cgroup while agents die and runtimes restart. With the launched
//! plugin, no container is missed. Without it the number is printed: joining guarantees only that the next
//! container after the join is served. Both also with a runtime that requires the plugin for these pods.
//!
//! `USERNSD_TEST_STORM=200` creates as many pods (24 without it), and stops the runtime for 1 to 15 s instead
//! of 1 and 3. It takes hours: `cargo nextest run --profile storm`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use usernsd_peers::cri::v1;

use crate::agent::{Agent, node_with_binary};
use crate::launched::{node_with_plugin, plugin as plugin_process, wait_for_path};
use crate::node::{Node, Options, Runtime};
use crate::pods::{Container, ContainerSpec, Pod, PodSpec, Pods, wait_for};
use crate::preinstalled::{bootstrap, node_that_can_require};
use crate::storm;

/// Number of threads that create pods and containers.
const LANES: usize = 4;
/// Number of pods that exist before the storm and get containers throughout.
const STANDING: usize = 6;
/// Minimum number of times that the agent is killed.
const KILLS: usize = 4;

/// A container whose exit code and log are the verdict: 0 served, 8 the host's root, 9 not served.
fn verdict() -> ContainerSpec {
    let (_, served) = storm::annotated();
    let script = served.command.last().unwrap();
    ContainerSpec::script(&format!(
        "read -r _ host _ </proc/self/uid_map
        [ \"$host\" = 0 ] && echo verdict 8 && exit 8
        ({script}) || {{ echo verdict 9; exit 9; }}
        echo verdict 0"
    ))
}

/// The verdict in a container's log.
fn verdict_of(container: &Container) -> Option<i32> {
    let log = container.log();
    log.lines().find_map(|line| line.strip_prefix("verdict ")?.parse().ok())
}

/// A pod that requests a writable cgroup, and that requires usernsd if the runtime supports that.
fn asking(name: &str, index: usize) -> PodSpec {
    PodSpec::new(name)
        .annotated("usernsd.io/cgroup", "writable")
        .annotated("required-plugins.noderesource.dev", r#"["usernsd"]"#)
        .numbered(index)
}

/// The number of pods, and whether it was set to more than the suite's default.
fn size() -> (usize, bool) {
    let size = std::env::var("USERNSD_TEST_STORM").ok().and_then(|size| size.parse().ok());
    (size.unwrap_or(24), size.is_some())
}

/// Seconds between stop and start of the runtime.
fn sleeps() -> Vec<u64> {
    if size().1 { (1..=15).collect() } else { vec![1, 3] }
}

/// The part of usernsd that is in the start path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// The launched plugin.
    Launched,
    /// The launched plugin, which the runtime requires for each pod that requests it.
    LaunchedRequired,
    /// The agent alone, joined over NRI.
    Joined,
    /// The agent alone, which the runtime requires for each pod that requests it.
    JoinedRequired,
}

impl Presence {
    fn is_launched(self) -> bool {
        matches!(self, Presence::Launched | Presence::LaunchedRequired)
    }

    /// A node of that kind, if this machine can boot one.
    fn node(self, runtime: Runtime) -> Option<Node> {
        match self {
            Presence::Launched => node_with_plugin(runtime),
            Presence::Joined => node_with_binary(Options { runtime, ..Options::default() }),
            Presence::LaunchedRequired | Presence::JoinedRequired => {
                let node = node_that_can_require(runtime)?;
                let plugin = if self.is_launched() { "auto" } else { "never" };
                let wanted = format!("bootstrap: {{nri: {{plugin: {plugin}, required: annotated}}}}\n");
                let output = bootstrap(&node, &wanted, &[]);
                assert!(!output.contains("has no effect"), "{output}");
                node.restart_unit(unit(runtime));
                if self.is_launched() {
                    plugin_process(&node);
                }
                Some(node)
            }
        }
    }
}

/// The results of the storm's containers.
#[derive(Debug, Default)]
struct Figures {
    served: usize,
    /// They ran without what they requested.
    unserved: usize,
    /// They ran as the host's root.
    host_root: usize,
    /// They were created and never ran: the runtime was stopped before that, or refused the start.
    never_ran: usize,
    /// The runtime no longer has a record of them, and they logged nothing.
    forgotten: usize,
    /// Their creation was refused because of lost isolation.
    refused: usize,
    /// Their creation was refused because the plugin was away; the kubelet tries again.
    put_off: usize,
}

impl Figures {
    /// Counts a container that has run, by its verdict.
    fn ran(&mut self, code: i32) {
        match code {
            0 => self.served += 1,
            8 => self.host_root += 1,
            _ => self.unserved += 1,
        }
    }
}

/// A storm in progress.
struct Rig<'a> {
    pods: &'a Pods<'a>,
    unit: &'static str,
    standing: Mutex<Vec<Pod>>,
    /// Next number of a pod, each with its own range of host IDs, and of a container.
    ranges: AtomicUsize,
    names: AtomicUsize,
    new_pods: AtomicUsize,
    made: Mutex<Vec<Container>>,
    refusals: Mutex<Vec<String>>,
    put_off: AtomicUsize,
    failures: Mutex<BTreeMap<String, usize>>,
    /// Number of completed restarts of the runtime.
    starts: AtomicU64,
    is_over: AtomicBool,
}

impl<'a> Rig<'a> {
    #[track_caller]
    fn new(pods: &'a Pods<'a>, unit: &'static str) -> Self {
        let standing = storm::in_parallel(STANDING, |index| pods.run_pod(&asking("standing", index)));
        Self {
            pods,
            unit,
            standing: Mutex::new(standing),
            ranges: AtomicUsize::new(STANDING),
            names: AtomicUsize::new(0),
            new_pods: AtomicUsize::new(0),
            made: Mutex::default(),
            refusals: Mutex::default(),
            put_off: AtomicUsize::new(0),
            failures: Mutex::default(),
            starts: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    fn failed(&self, status: &tonic::Status) {
        let message: String =
            status.message().chars().filter(|char| !char.is_ascii_digit()).take(60).collect();
        *self.failures.lock().unwrap().entry(message).or_default() += 1;
        thread::sleep(Duration::from_millis(20));
    }

    fn new_pod(&self) -> Option<Pod> {
        let range = self.ranges.fetch_add(1, Ordering::Relaxed);
        match self.pods.try_run_pod(&asking(&format!("storm{range}"), range)) {
            Ok(pod) => {
                self.new_pods.fetch_add(1, Ordering::Relaxed);
                Some(pod)
            }
            Err(status) => {
                self.failed(&status);
                None
            }
        }
    }

    /// Creates and starts one container in the pod. Its verdict is read at the end, because the caller may
    /// not learn whether it has started. Returns false if it was refused because of lost isolation.
    fn container(&self, pod: &Pod) -> bool {
        let name = format!("c{}", self.names.fetch_add(1, Ordering::Relaxed));
        match self.pods.try_create(pod, &verdict().named(&name)) {
            Ok(container) => {
                self.made.lock().unwrap().push(container.clone());
                if let Err(status) = self.pods.try_start(&container) {
                    self.failed(&status);
                }
            }
            Err(status) if status.message().contains("host's user namespace") => {
                self.refusals.lock().unwrap().push(status.message().to_owned());
                return false;
            }
            Err(status) if status.message().contains("required plugin \"usernsd\" not present") => {
                self.put_off.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
            Err(status) => self.failed(&status),
        }
        true
    }

    /// Creates a container in one of the standing pods, which is replaced if it has lost its isolation.
    fn in_a_standing_pod(&self, index: usize) {
        let pod = self.standing.lock().unwrap()[index % STANDING].clone();
        if !self.container(&pod)
            && let Some(pod) = self.new_pod()
        {
            self.standing.lock().unwrap()[index % STANDING] = pod;
        }
    }

    /// Creates pods and containers until the fault is over and there are enough.
    fn run(&self, fault: impl FnOnce(&Self)) {
        thread::scope(|scope| {
            for lane in 0..LANES {
                scope.spawn(move || {
                    for turn in 0.. {
                        let enough = self.new_pods.load(Ordering::Relaxed) >= size().0;
                        if enough && self.is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        if !enough && turn % 2 == 0 {
                            if let Some(pod) = self.new_pod() {
                                self.container(&pod);
                            }
                        } else {
                            self.in_a_standing_pod(lane + LANES * turn);
                        }
                    }
                });
            }
            struct Ending<'a>(&'a AtomicBool);
            impl Drop for Ending<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _ending = Ending(&self.is_over);
            fault(self);
        });
    }

    /// Stops the runtime, starts it again after so many seconds, and creates a container in each of the
    /// standing pods, whether agent and plugin are back or not.
    fn restart(&self, seconds: u64) {
        let node = self.pods.node;
        node.run(["systemctl", "stop", self.unit]);
        thread::sleep(Duration::from_secs(seconds));
        node.run(["systemctl", "start", self.unit]);
        self.pods.wait_until_it_answers();
        storm::in_parallel(STANDING, |index| self.in_a_standing_pod(index));
        self.starts.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads the verdict of every container of the storm.
    #[track_caller]
    fn figures(&self) -> Figures {
        let mut figures = Figures {
            refused: self.refusals.lock().unwrap().len(),
            put_off: self.put_off.load(Ordering::Relaxed),
            ..Figures::default()
        };
        let mut client = self.pods.client.clone();
        let all = self
            .pods
            .wait(async move { client.list_containers(v1::ListContainersRequest::default()).await })
            .unwrap();
        let mut forgotten: BTreeMap<String, Container> =
            self.made.lock().unwrap().iter().map(|made| (made.id.clone(), made.clone())).collect();
        for container in all.containers {
            let made = forgotten.remove(&container.id);
            let verdict = made.and_then(|made| verdict_of(&made));
            let (state, code) = wait_for("a container's end", || {
                let mut client = self.pods.client.clone();
                let container_id = container.id.clone();
                let request = v1::ContainerStatusRequest { container_id, verbose: false };
                let answer = self.pods.wait(async move { client.container_status(request).await });
                let status = answer.unwrap().status.unwrap_or_default();
                (status.state() != v1::ContainerState::ContainerRunning)
                    .then_some((status.state(), status.exit_code))
            });
            match (state, code) {
                (v1::ContainerState::ContainerExited, code @ (0 | 8 | 9)) => figures.ran(code),
                // 128 and 255 are the runtimes' own codes for a failed start.
                (v1::ContainerState::ContainerExited, 128 | 255)
                | (v1::ContainerState::ContainerCreated | v1::ContainerState::ContainerUnknown, _) => {
                    figures.never_ran += 1;
                }
                // Killed: by the stop of the runtime, or by the agent in place of a refusal.
                (v1::ContainerState::ContainerExited, 137) => match verdict {
                    Some(code) => figures.ran(code),
                    None => figures.never_ran += 1,
                },
                other => panic!("{}: {other:?}", container.id),
            }
        }
        // CRI-O removes containers that have ended when it starts.
        for container in forgotten.values() {
            match verdict_of(container) {
                Some(code) => figures.ran(code),
                None => figures.forgotten += 1,
            }
        }
        figures
    }
}

/// Runs a storm on a node with that fault, and prints the figures. With the plugin, the number of missed
/// containers must be 0.
fn storm_with(
    runtime: Runtime,
    presence: Presence,
    what: &str,
    fault: impl for<'n> FnOnce(&'n Node, &Rig<'_>) -> Agent<'n>,
) {
    let Some(node) = presence.node(runtime) else { return };
    let pods = Pods::connect(&node);
    pods.wait_until_it_answers();
    let rig = Rig::new(&pods, unit(runtime));
    let mut agent = None;
    rig.run(|rig| agent = Some(fault(&node, rig)));
    let agent = agent.unwrap();
    let figures = rig.figures();
    let version = pods.runtime_name.clone();
    println!(
        "{version}, {presence:?}, {what}: {} new pods, {} restarts of the runtime, {figures:?}, failed calls {:?}",
        rig.new_pods.load(Ordering::Relaxed),
        rig.starts.load(Ordering::Relaxed),
        rig.failures.lock().unwrap(),
    );
    if let Some(message) = rig.refusals.lock().unwrap().first() {
        println!("{} refused: {message}", figures.refused);
    }
    assert!(rig.new_pods.load(Ordering::Relaxed) >= size().0);
    assert!(figures.served > 0);
    if !matches!(presence, Presence::LaunchedRequired | Presence::JoinedRequired) {
        assert_eq!(figures.put_off, 0, "the runtime requires nothing");
    }
    if presence.is_launched() {
        assert_eq!((figures.unserved, figures.host_root), (0, 0));
        plugin_process(&node);
    } else {
        wait_for("the runtime to be joined", || agent.is_connected("nri").then_some(()));
    }
    // In the end everything works as before.
    let last = pods.run_pod(&asking("last", rig.ranges.load(Ordering::Relaxed)));
    let last: Container = pods.run(&last, &verdict());
    assert_eq!(pods.exit_code(&last), 0, "{}", last.log());
}

pub(crate) fn unit(runtime: Runtime) -> &'static str {
    if runtime == Runtime::Crio { "crio.service" } else { "containerd.service" }
}

/// Kills the agent every second.
fn killed(runtime: Runtime, presence: Presence) {
    storm_with(runtime, presence, "the agent killed each second", |node, rig| {
        let enough = || rig.new_pods.load(Ordering::Relaxed) >= size().0;
        let mut kills = 0;
        while kills < KILLS || !enough() {
            let agent = Agent::start(node);
            thread::sleep(Duration::from_secs(1));
            agent.kill();
            kills += 1;
        }
        println!("killed {kills} times");
        Agent::start(node)
    });
}

fn restarted(runtime: Runtime, presence: Presence) {
    storm_with(runtime, presence, "the runtime stopped and started", |node, rig| {
        // A stop of CRI-O waits for the containers that it is creating, and the scope of a new conmon, which is
        // ordered after crio.service, waits for the stop: systemd kills CRI-O after 90 s by default.
        node.write(
            &format!("/run/systemd/system/{}.d/storm.conf", unit(runtime)),
            "[Service]\nTimeoutStopSec=10\n",
        );
        node.run(["systemctl", "daemon-reload"]);
        let agent = Agent::start(node);
        for seconds in sleeps() {
            rig.restart(seconds);
        }
        agent
    });
}

/// The agent's pod starts last, when half of the node's pods exist.
fn last(runtime: Runtime, presence: Presence) {
    storm_with(runtime, presence, "the agent last", |node, rig| {
        // One after another: how long all take depends on their number and the machine.
        let mut made = 0;
        while made < size().0.div_ceil(2) {
            made = wait_for("another pod", || {
                Some(rig.new_pods.load(Ordering::Relaxed)).filter(|now| *now > made)
            });
        }
        let agent = Agent::start(node);
        if presence.is_launched() {
            wait_for_path(&agent, "launched_plugin");
        }
        agent
    });
}

#[test]
fn containerd_misses_no_container_while_agents_are_killed() {
    killed(Runtime::Containerd, Presence::Launched);
}

#[test]
fn containerd_misses_no_container_when_it_restarts() {
    restarted(Runtime::Containerd, Presence::Launched);
}

#[test]
fn containerd_misses_no_container_when_the_agent_is_last() {
    last(Runtime::Containerd, Presence::Launched);
}

#[test]
#[cfg_attr(not(has_new_containerd), ignore = "USERNSD_TEST_CONTAINERD names no containerd")]
fn containerd_that_requires_the_plugin_misses_no_container_while_agents_are_killed() {
    killed(Runtime::Containerd, Presence::LaunchedRequired);
}

#[test]
#[cfg_attr(not(has_new_containerd), ignore = "USERNSD_TEST_CONTAINERD names no containerd")]
fn containerd_that_requires_the_plugin_misses_no_container_when_it_restarts() {
    restarted(Runtime::Containerd, Presence::LaunchedRequired);
}

#[test]
#[cfg_attr(not(has_new_containerd), ignore = "USERNSD_TEST_CONTAINERD names no containerd")]
fn containerd_that_requires_the_plugin_misses_no_container_when_the_agent_is_last() {
    last(Runtime::Containerd, Presence::LaunchedRequired);
}

#[test]
fn containerd_is_joined_again_while_agents_are_killed() {
    killed(Runtime::Containerd, Presence::Joined);
}

#[test]
fn containerd_is_joined_again_when_it_restarts() {
    restarted(Runtime::Containerd, Presence::Joined);
}

#[test]
fn containerd_is_joined_when_the_agent_is_last() {
    last(Runtime::Containerd, Presence::Joined);
}

#[test]
#[cfg_attr(not(has_new_containerd), ignore = "USERNSD_TEST_CONTAINERD names no containerd")]
fn containerd_that_requires_the_plugin_is_joined_again_while_agents_are_killed() {
    killed(Runtime::Containerd, Presence::JoinedRequired);
}

#[test]
#[cfg_attr(not(has_new_containerd), ignore = "USERNSD_TEST_CONTAINERD names no containerd")]
fn containerd_that_requires_the_plugin_is_joined_again_when_it_restarts() {
    restarted(Runtime::Containerd, Presence::JoinedRequired);
}

#[test]
#[cfg_attr(not(has_new_containerd), ignore = "USERNSD_TEST_CONTAINERD names no containerd")]
fn containerd_that_requires_the_plugin_is_joined_when_the_agent_is_last() {
    last(Runtime::Containerd, Presence::JoinedRequired);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_misses_no_container_while_agents_are_killed() {
    killed(Runtime::Crio, Presence::Launched);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_misses_no_container_when_it_restarts() {
    restarted(Runtime::Crio, Presence::Launched);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_misses_no_container_when_the_agent_is_last() {
    last(Runtime::Crio, Presence::Launched);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_that_requires_the_plugin_misses_no_container_while_agents_are_killed() {
    killed(Runtime::Crio, Presence::LaunchedRequired);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_that_requires_the_plugin_misses_no_container_when_it_restarts() {
    restarted(Runtime::Crio, Presence::LaunchedRequired);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_that_requires_the_plugin_misses_no_container_when_the_agent_is_last() {
    last(Runtime::Crio, Presence::LaunchedRequired);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_is_joined_again_while_agents_are_killed() {
    killed(Runtime::Crio, Presence::Joined);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_is_joined_again_when_it_restarts() {
    restarted(Runtime::Crio, Presence::Joined);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_is_joined_when_the_agent_is_last() {
    last(Runtime::Crio, Presence::Joined);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_that_requires_the_plugin_is_joined_again_while_agents_are_killed() {
    killed(Runtime::Crio, Presence::JoinedRequired);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_that_requires_the_plugin_is_joined_again_when_it_restarts() {
    restarted(Runtime::Crio, Presence::JoinedRequired);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_that_requires_the_plugin_is_joined_when_the_agent_is_last() {
    last(Runtime::Crio, Presence::JoinedRequired);
}
