//! Many containers, as fast as the runtime can create them. The first instruction of each is the test.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::{Agent, Start, node_with_binary, on_the_node};
use crate::node::{Node, Options, Runtime};
use crate::pods::{Container, ContainerSpec, Pod, PodSpec, Pods, owner, wait_for};

/// Number of calls in flight. The runtime serialises most of a start, so that more callers would only queue.
const CALLERS: usize = 8;

/// Prints a figure for the reader of `cargo nextest run --no-capture`.
fn say(what: &str) {
    println!("{what}");
}

/// The containers to create, and their number.
#[derive(Clone, Debug)]
pub(crate) struct Storm {
    pub(crate) pod: PodSpec,
    pub(crate) container: ContainerSpec,
    pub(crate) pods: usize,
    pub(crate) per_pod: usize,
}

/// A container, and the result of its start.
pub(crate) type Made = (Container, Result<(), String>);

/// A container that succeeds if it owned its cgroup at once. It uses only shell builtins before the mkdir,
/// which is therefore its first program.
const FIRST_INSTRUCTION: &str = r#"
cgroup=/sys/fs/cgroup
while read -r line; do
  case $line in 0::*) cgroup=$cgroup${line#0::} ;; esac
done </proc/self/cgroup
cgroup=${cgroup%/}
[ -O "$cgroup" ] && [ -O "$cgroup/cgroup.procs" ] && exec mkdir "$cgroup/x"
ls -lnd "$cgroup" "$cgroup/cgroup.procs"
exit 9"#;

/// In a requested writable mount, the root of the cgroup namespace is the container's own cgroup.
pub(crate) fn annotated() -> (PodSpec, ContainerSpec) {
    let pod = PodSpec::new("storm").annotated("usernsd.io/cgroup", "writable");
    (pod, ContainerSpec::script(FIRST_INSTRUCTION))
}

/// A privileged container has the host's view of the cgroup tree.
pub(crate) fn privileged() -> (PodSpec, ContainerSpec) {
    (PodSpec::new("storm").privileged(), ContainerSpec::script(FIRST_INSTRUCTION).privileged())
}

impl Storm {
    /// Creates the sandboxes, which are not part of the measured time.
    #[track_caller]
    pub(crate) fn run_pods(&self, pods: &Pods<'_>) -> Vec<Pod> {
        in_parallel(self.pods, |index| pods.run_pod(&self.pod.clone().numbered(index)))
    }

    /// Creates and starts all containers; returns them and the elapsed time.
    pub(crate) fn run(&self, pods: &Pods<'_>, sandboxes: &[Pod]) -> (Vec<Made>, Duration) {
        let start = Instant::now();
        let made = in_parallel(sandboxes.len() * self.per_pod, |index| {
            // Consecutive containers are in different pods.
            let pod = &sandboxes[index % sandboxes.len()];
            let container = pods.create(pod, &self.container.clone().named(&format!("c{index}")));
            let started = pods.try_start(&container).map_err(|status| status.message().to_owned());
            (container, started)
        });
        (made, start.elapsed())
    }
}

/// Runs `work` for 0 to `count` on a few threads; returns the results in that order.
#[track_caller]
pub(crate) fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let result = work(index);
                    done.lock().unwrap().push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Asserts that all of a storm's containers have started and owned their cgroups.
#[track_caller]
fn all_succeed(pods: &Pods<'_>, storm: &Storm, what: &str) {
    let sandboxes = storm.run_pods(pods);
    let (made, took) = storm.run(pods, &sandboxes);
    let mut failed = Vec::new();
    for (container, started) in &made {
        let code = pods.exit_code(container);
        if started.is_err() || code != 0 {
            failed.push(format!("{started:?} {code} {}", container.log()));
        }
    }
    say(&format!("{what}: {} containers in {took:?}, {} failed", made.len(), failed.len()));
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), made.len(), failed.join("\n"));
    assert_eq!(made.len(), storm.pods * storm.per_pod);
}

fn of_200((pod, container): (PodSpec, ContainerSpec)) -> Storm {
    Storm { pod, container, pods: 20, per_pod: 10 }
}

#[test]
fn nri_is_before_the_first_instruction_of_200_annotated_pods() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    before_the_first_instruction_of_200_annotated_pods(&node, on_the_node);
}

pub(crate) fn before_the_first_instruction_of_200_annotated_pods(node: &Node, start: Start) {
    let pods = Pods::connect(node);
    let _agent = start(node);
    all_succeed(&pods, &of_200(annotated()), "NRI, annotated");
}

#[test]
fn nri_is_before_the_first_instruction_of_200_privileged_pods() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    before_the_first_instruction_of_200_privileged_pods(&node, on_the_node);
}

pub(crate) fn before_the_first_instruction_of_200_privileged_pods(node: &Node, start: Start) {
    let pods = Pods::connect(node);
    let agent = start(node);
    all_succeed(&pods, &of_200(privileged()), "NRI, privileged");
    // One log line for each change, all from NRI and none by luck: systemd's signal is often early, too.
    assert_eq!(agent.changes("chown_cgroup").iter().filter(|change| change["source"] == "nri").count(), 200);
    assert_eq!(agent.changes("chown_cgroup").len(), 200);
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn nri_is_before_the_first_instruction_of_200_on_crio() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    before_the_first_instruction_on_crio(&node, on_the_node);
}

pub(crate) fn before_the_first_instruction_on_crio(node: &Node, start: Start) {
    let pods = Pods::connect(node);
    let _agent = start(node);
    for kind in [annotated(), privileged()] {
        let storm = Storm { pods: 10, ..of_200(kind) };
        all_succeed(&pods, &storm, &format!("NRI on CRI-O, privileged: {}", storm.pod.privileged));
    }
}

/// A handler of containerd that runs `usernsd hook` for every container.
pub(crate) fn hook_for_containerd(node: &Node) -> &'static str {
    let hook = r#".hooks.createRuntime = [{"path": "/usr/local/bin/usernsd", "args": ["usernsd", "hook"]}]"#;
    node.run(["sh", "-c", &format!("ctr oci spec | jq '{hook}' >/etc/containerd/hook.json")]);
    let path = node.path("/etc/containerd/config.toml");
    let mut config = std::fs::read_to_string(&path).unwrap();
    // A copy of runc's section under another name.
    let header = "containerd.runtimes.runc]\n";
    let at = config.find(header).unwrap();
    let begin = config[..at].rfind('[').unwrap();
    let end = config[at..].find("containerd.runtimes.crun]").map_or(config.len(), |end| at + end);
    let end = config[..end].rfind('[').unwrap_or(end);
    let section = config[begin..end]
        .replace("runtimes.runc]", "runtimes.hooked]\nbase_runtime_spec = \"/etc/containerd/hook.json\"")
        .replace("runtimes.runc.", "runtimes.hooked.");
    config.push_str(&section);
    std::fs::write(&path, config).unwrap();
    node.restart_unit("containerd.service");
    "hooked"
}

#[test]
fn the_hook_is_before_the_first_instruction_of_200() {
    let Some(node) = node_with_binary(Options { nri: false, ..Options::default() }) else { return };
    let handler = hook_for_containerd(&node);
    let pods = Pods::connect(&node);
    // There is no agent, because the hook needs none.
    let mut storm = of_200(privileged());
    storm.pod = storm.pod.handler(handler);
    all_succeed(&pods, &storm, "hook, privileged");
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn the_hook_is_before_the_first_instruction_on_crio() {
    let options = Options { runtime: Runtime::Crio, nri: false, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    let pods = Pods::connect(&node);
    node.write(
        "/usr/share/containers/oci/hooks.d/usernsd.json",
        r#"{"version": "1.0.0", "when": {"always": true}, "stages": ["createRuntime"],
            "hook": {"path": "/usr/local/bin/usernsd", "args": ["usernsd", "hook"]}}"#,
    );
    // CRI-O watches the directory; a restart is quicker than waiting for it.
    node.restart_unit("crio.service");
    pods.wait_until_it_answers();
    let storm = Storm { pods: 10, ..of_200(privileged()) };
    all_succeed(&pods, &storm, "hook on CRI-O, privileged");
}

#[test]
fn all_containers_become_right_without_nri_and_hook() {
    let Some(node) = node_with_binary(Options { nri: false, ..Options::default() }) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, "nri:\n  enabled: false\n");
    let (pod, container) = privileged();
    let script = format!("({FIRST_INSTRUCTION}) && echo early; exec sleep 1000");
    let container = ContainerSpec { command: ContainerSpec::script(&script).command, ..container };
    let storm = Storm { pod, container, pods: 20, per_pod: 5 };
    let sandboxes = storm.run_pods(&pods);
    let (made, took) = storm.run(&pods, &sandboxes);
    for (container, started) in &made {
        assert_eq!(started, &Ok(()));
        wait_for("the cgroup to be handed over", || {
            (owner(&container.cgroup).0 == container.root).then_some(())
        });
        assert_eq!(container.owner("cgroup.procs").0, container.root);
    }
    assert!(agent.changes("chown_cgroup").iter().all(|change| change["source"] != "nri"));
    let early = made.iter().filter(|(container, _)| container.log().contains("early")).count();
    say(&format!("asynchronous: {early} of {} early, all in {took:?}", made.len()));
}

/// Each counter counts what its help text describes: containers of every kind start and keep running, while
/// systemd reloads its configuration repeatedly, so that the agent inspects everything again.
#[test]
fn counters_count_containers_over_nri() {
    counters_count_containers("");
}

#[test]
fn counters_count_containers_without_nri() {
    counters_count_containers("nri: {enabled: false}\n");
}

fn counters_count_containers(configuration: &str) {
    const EACH: usize = 10;
    let Some(node) = node_with_binary(Options::default()) else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, configuration);
    let kind = |index: usize| match index % 3 {
        0 => (PodSpec::new(&format!("own-{index}")), ContainerSpec::sleeping()),
        1 => (PodSpec::new(&format!("host-{index}")).in_host_user_namespace(), ContainerSpec::sleeping()),
        _ => {
            (PodSpec::new(&format!("writable-{index}")).privileged(), ContainerSpec::sleeping().privileged())
        }
    };
    let sandboxes = in_parallel(3 * EACH, |index| {
        let (pod, container) = kind(index);
        let pod = if index % 3 == 1 { pod } else { pod.numbered(index) };
        // On a busy machine, containerd sometimes fails to create a network namespace in a user namespace.
        (wait_for("a sandbox", || pods.try_run_pod(&pod).ok()), container)
    });
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let made = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                node.run(["systemctl", "daemon-reload"]);
            }
        });
        let made = in_parallel(sandboxes.len(), |index| {
            let (pod, container) = &sandboxes[index];
            pods.run(pod, container)
        });
        is_over.store(true, Ordering::Relaxed);
        made
    });
    for container in &made {
        wait_for("an inspection of it", || (agent.outcome(container) != "being_made").then_some(()));
    }
    let each = EACH as f64;
    let metric = |name: &str, labels: &[(&str, &str)]| agent.metric(&format!("usernsd_{name}"), labels);
    let refusals = |reason: &str| metric("refusals_total", &[("reason", reason)]);
    for reason in ["gone", "unproven", "lost_isolation", "foreign_owner", "not_delegated"] {
        assert_eq!(refusals(reason), 0.0, "{reason}: {}", agent.exposition());
    }
    assert_eq!((refusals("host_user_namespace"), refusals("read_only_mount")), (each, each));
    let delegated = metric("fix_delay_seconds_count", &[]);
    assert_eq!(metric("fixes_total", &[("action", "chown_cgroup")]), delegated);
    assert_eq!(delegated + metric("already_right_total", &[]), each);
    // Two of the pod, and one of the container.
    assert_eq!(metric("fixes_total", &[("action", "set_limits")]), 3.0 * each);
    assert_eq!(metric("fixes_total", &[("action", "end_container")]), 0.0);
    assert_eq!(metric("fix_failures_total", &[]), 0.0);
    assert_eq!(metric("missed_total", &[]), 0.0);
    let is_called = configuration.is_empty();
    // A privileged container gets its own cgroup namespace.
    let prepared = if is_called { each } else { 0.0 };
    assert_eq!(metric("fixes_total", &[("action", "adjust_container")]), prepared);
    let handled = if is_called { 3.0 * each } else { 0.0 };
    assert_eq!(metric("handling_seconds_count", &[]), handled);
}
