//! The duration of a container's start on a real node, as its kubelet sees it: without usernsd, with an agent
//! that joined over NRI, with the launched plugin, with the OCI hook, and with other NRI plugins. Also how soon
//! the agent is done if nothing waits for it, and how long it takes for each of many starts at once.
//!
//! Includes CRI-O if `USERNSD_TEST_CRIO` names a binary. `USERNSD_BENCH_PEERS` names other plugins to compare with:
//! programs with their arguments, separated by semicolons. `USERNSD_BENCH_VARIANTS` selects some of the variants.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that meets a surprise ends"
)]

#[path = "../tests/node/mod.rs"]
mod node;
#[path = "../tests/node/pods.rs"]
mod pods;

mod common;
#[path = "common/on_node.rs"]
mod on_node;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::{AFTER, BEFORE, Samples, before, number, row, say};
use node::{Node, Options, Process, Runtime};
use on_node::{Agent, CHOWN, DIRECTORY};
use pods::{Container, ContainerSpec, Pod, PodSpec, Pods, wait_for};

/// The launched plugin, and its settings.
const PLUGIN: &str = "/opt/nri/plugins/90-usernsd";
const PLUGIN_SETTINGS: &str = "/etc/nri/conf.d/90-usernsd.conf";
/// The number of containers of one variant before the next variant's turn.
const BLOCK: usize = 10;
const PER_POD: usize = 10;
/// The annotation with which a pod asks the NRI project's plugin `writable-cgroups` for a writable cgroup.
const ASKS_PEER: &str = "writable-cgroups.noderesource.dev";

fn main() {
    let only = std::env::var("USERNSD_BENCH_RUNTIME").unwrap_or_default();
    if only != "crio" {
        bench(Runtime::Containerd);
    }
    if only != "containerd" && std::env::var_os("USERNSD_TEST_CRIO").is_some() {
        bench(Runtime::Crio);
    }
}

fn bench(runtime: Runtime) {
    let Some(node) = common::node(Options { runtime, ..Options::default() }) else { return };
    let name = if runtime == Runtime::Crio { "CRI-O" } else { "containerd" };
    // CRI-O takes twice the time, so it has half as many.
    let others = number("USERNSD_BENCH_OTHERS", if runtime == Runtime::Crio { 100 } else { 200 });
    let hooked = install_hook(&node, runtime);
    let pods = Pods::connect(&node);
    let unit = if runtime == Runtime::Crio { "crio.service" } else { "containerd.service" };
    let rig = Rig { node: &node, pods: &pods, name, unit, hooked };
    let others = rig.others(others);
    rig.starts(number("USERNSD_BENCH_COUNT", 100));
    rig.at_once(number("USERNSD_BENCH_AT_ONCE", 100));
    rig.asynchronous(number("USERNSD_BENCH_COUNT", 100).min(100));
    rig.startup(others);
}

/// Another NRI plugin.
#[derive(Debug)]
struct Peer {
    name: String,
    /// Path on this machine.
    program: PathBuf,
    arguments: String,
}

impl Peer {
    fn all() -> Vec<Peer> {
        let text = std::env::var("USERNSD_BENCH_PEERS").unwrap_or_default();
        let lines = text.split(';').map(str::trim).filter(|line| !line.is_empty());
        let peer = |line: &str| {
            let (program, arguments) = line.split_once(' ').unwrap_or((line, ""));
            let program = PathBuf::from(program);
            let name = program.file_name().unwrap().to_str().unwrap().to_owned();
            Peer { name, program, arguments: arguments.to_owned() }
        };
        lines.map(peer).collect()
    }
}

/// Adds a runtime handler with the hook, if hooks belong to handlers; otherwise an annotation of the pod
/// selects the hook.
fn install_hook(node: &Node, runtime: Runtime) -> bool {
    if runtime == Runtime::Crio {
        node.write(
            "/usr/share/containers/oci/hooks.d/usernsd.json",
            r#"{"version": "1.0.0", "when": {"annotations": {"^bench/hook$": "^yes$"}}, "stages": ["createRuntime"],
                "hook": {"path": "/usr/local/bin/usernsd", "args": ["usernsd", "hook"]}}"#,
        );
        node.restart_unit("crio.service");
        return false;
    }
    let hook = r#".hooks.createRuntime = [{"path": "/usr/local/bin/usernsd", "args": ["usernsd", "hook"]}]"#;
    node.run(["sh", "-c", &format!("ctr oci spec | jq '{hook}' >/etc/containerd/hook.json")]);
    node.run(["sh", "-c", "ctr oci spec >/etc/containerd/plain.json"]);
    let path = node.path("/etc/containerd/config.toml");
    let mut config = fs::read_to_string(&path).unwrap();
    let begin = config.find("containerd.runtimes.runc]\n").and_then(|at| config[..at].rfind('[')).unwrap();
    let end = config.find("containerd.runtimes.crun]").and_then(|at| config[..at].rfind('[')).unwrap();
    let runc = config[begin..end].to_owned();
    // Both have a base specification, so that the hook is the only difference.
    for (name, file) in [("hooked", "hook"), ("plain", "plain")] {
        let base = format!("runtimes.{name}]\nbase_runtime_spec = \"/etc/containerd/{file}.json\"");
        config.push_str(
            &runc.replace("runtimes.runc]", &base).replace("runtimes.runc.", &format!("runtimes.{name}.")),
        );
    }
    fs::write(&path, config).unwrap();
    node.restart_unit("containerd.service");
    true
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Nothing,
    Nri(&'static str),
    Launched,
    Hook,
    /// The plugin with this index.
    Peer(usize),
}

impl Variant {
    /// Those that are selected; without `Nothing` there is nothing to compare with.
    fn selected(peers: usize) -> Vec<Variant> {
        let words =
            std::env::var("USERNSD_BENCH_VARIANTS").unwrap_or_else(|_| "peers,nri,launched,hook".to_owned());
        let mut variants = vec![Variant::Nothing];
        for word in words.split(',').map(str::trim) {
            match word {
                "nri" => {
                    variants.push(Variant::Nri(AFTER));
                    variants.extend(before().map(|_| Variant::Nri(BEFORE)));
                }
                "launched" => variants.push(Variant::Launched),
                "hook" => variants.push(Variant::Hook),
                "peers" => variants.extend((0..peers).map(Variant::Peer)),
                "nothing" => {}
                unknown => panic!("USERNSD_BENCH_VARIANTS: {unknown}"),
            }
        }
        variants
    }

    /// Whether the containers own their cgroups afterwards; `None` if that depends on the plugin.
    fn owned(self) -> Option<bool> {
        match self {
            Variant::Nothing => Some(false),
            Variant::Nri(_) | Variant::Launched | Variant::Hook => Some(true),
            Variant::Peer(_) => None,
        }
    }
}

#[derive(Default)]
struct Times {
    create: Samples,
    start: Samples,
    both: Samples,
}

impl Times {
    fn add(&mut self, other: &Times) {
        for (all, some) in [
            (&mut self.create, &other.create),
            (&mut self.start, &other.start),
            (&mut self.both, &other.both),
        ] {
            some.iter().for_each(|time| all.push(time));
        }
    }
}

/// The difference of the medians of two series of blocks, in milliseconds, with its bounds at 95 %: blocks
/// are drawn again and again, the two of one turn together, so that what changes slowly on the machine does
/// not count.
fn difference(base: &[Times], other: &[Times]) -> (f64, f64, f64) {
    let median = |blocks: &[&Times]| {
        let mut all = Samples::default();
        blocks.iter().for_each(|block| block.both.iter().for_each(|time| all.push(time)));
        all.median().as_secs_f64() * 1000.0
    };
    let of = |drawn: &[usize]| {
        let base: Vec<&Times> = drawn.iter().map(|&index| &base[index]).collect();
        let other: Vec<&Times> = drawn.iter().map(|&index| &other[index]).collect();
        median(&other) - median(&base)
    };
    let count = base.len().min(other.len());
    // xorshift64, so that the bounds of the same samples are the same.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % count as u64).unwrap()
    };
    let mut differences: Vec<f64> =
        (0..2000).map(|_| of(&(0..count).map(|_| draw()).collect::<Vec<_>>())).collect();
    differences.sort_by(f64::total_cmp);
    (of(&(0..count).collect::<Vec<_>>()), differences[50], differences[1949])
}

struct Rig<'a> {
    node: &'a Node,
    pods: &'a Pods<'a>,
    name: &'static str,
    unit: &'static str,
    hooked: bool,
}

impl Rig<'_> {
    /// Creates the containers that exist before the measurement, half of their pods in the host's user
    /// namespace.
    fn others(&self, count: usize) -> Vec<Pod> {
        let since = Instant::now();
        let pods: Vec<Pod> = (0..count.div_ceil(PER_POD))
            .map(|index| {
                let spec = PodSpec::new(&format!("other-{index}")).numbered(index);
                let spec = if index % 2 == 0 { spec.privileged() } else { spec.in_host_user_namespace() };
                self.pods.run_pod(&PodSpec { own_network: index % 2 == 0, ..spec })
            })
            .collect();
        let run = |number: usize| {
            let pod = &pods[number / PER_POD];
            let spec = ContainerSpec::sleeping().named(&format!("c{number}"));
            self.pods.run(pod, &if pod.spec.privileged { spec.privileged() } else { spec });
        };
        const THREADS: usize = 4;
        thread::scope(|scope| {
            for first in 0..THREADS {
                scope.spawn(move || (first..count).step_by(THREADS).for_each(run));
            }
        });
        say(&format!("{}: {count} other containers in {:?}", self.name, since.elapsed()));
        pods
    }

    fn pod(&self, variant: Variant) -> Pod {
        let hooked = variant == Variant::Hook;
        let spec = PodSpec::new("bench").numbered(1000).privileged().annotated(ASKS_PEER, "true");
        let spec = match (self.hooked, hooked) {
            (true, true) => spec.handler("hooked"),
            (true, false) => spec.handler("plain"),
            (false, true) => spec.annotated("bench/hook", "yes"),
            (false, false) => spec,
        };
        self.pods.run_pod(&PodSpec { name: format!("bench-{variant:?}"), ..spec })
    }

    fn one(&self, pod: &Pod, number: usize, times: &mut Times, owned: Option<bool>) -> Container {
        let spec = ContainerSpec::sleeping().named(&format!("b{number}")).privileged();
        let since = Instant::now();
        let container = self.pods.create(pod, &spec);
        let created = since.elapsed();
        self.pods.start(&container);
        let both = since.elapsed();
        times.create.push(created);
        times.start.push(both - created);
        times.both.push(both);
        if let Some(owned) = owned {
            assert_eq!(container.owner("").0 != 0, owned, "{}", container.cgroup.display());
        }
        container
    }

    /// Restarts the runtime, with the plugin or without it.
    fn restart(&self, plugin: bool) {
        self.node.run(["rm", "-f", PLUGIN, PLUGIN_SETTINGS]);
        if plugin {
            self.node.run(["install", "-D", AFTER, PLUGIN]);
            self.node.run(["mkdir", "-p", "/etc/nri/conf.d"]);
            self.node.write(PLUGIN_SETTINGS, CHOWN);
        }
        self.node.restart_unit(self.unit);
        self.pods.wait_until_it_answers();
        assert_eq!(self.plugin().is_some(), plugin, "the launched plugin");
    }

    /// PID of the launched plugin on this machine.
    fn plugin(&self) -> Option<u32> {
        self.node.processes(PLUGIN).first().map(|pid| pid.unsigned_abs())
    }

    fn starts(&self, count: usize) {
        let peers = Peer::all();
        for peer in &peers {
            self.node.install(&peer.program, &format!("{DIRECTORY}/{}", peer.name));
        }
        let variants = Variant::selected(peers.len());
        // The launched plugin is the runtime's child, so then each variant gets a freshly started runtime.
        let restarts = variants.contains(&Variant::Launched);
        let mut blocks: Vec<Vec<Times>> = variants.iter().map(|_| Vec::new()).collect();
        let mut handled = Samples::default();
        let mut plugin_memory = Vec::new();
        for block in 0..count.div_ceil(BLOCK) {
            // The order rotates, so that no variant always follows the same removals.
            for turn in 0..variants.len() {
                let index = (block + turn) % variants.len();
                let variant = variants[index];
                if restarts {
                    self.restart(variant == Variant::Launched);
                }
                let agent = match variant {
                    Variant::Nri(binary) => Some(Agent::start(self.node, binary, CHOWN)),
                    Variant::Nothing | Variant::Launched | Variant::Hook | Variant::Peer(_) => None,
                };
                let peer = match variant {
                    Variant::Peer(index) => Some(self.join(&peers[index])),
                    _ => None,
                };
                let pod = self.pod(variant);
                // Two more, which are not counted: the first ones after the start of an agent.
                for number in 0..2 {
                    self.pods.remove(&self.one(&pod, number, &mut Times::default(), variant.owned()));
                }
                let mut times = Times::default();
                let made: Vec<Container> = (0..BLOCK)
                    .map(|number| self.one(&pod, block * BLOCK + number + 2, &mut times, variant.owned()))
                    .collect();
                blocks[index].push(times);
                if let (Variant::Nri(AFTER), Some(agent)) = (variant, &agent) {
                    for container in &made {
                        agent.after(container, "nri").into_iter().for_each(|time| handled.push(time));
                    }
                }
                if variant == Variant::Launched {
                    plugin_memory.extend(self.plugin().map(common::agent::resident));
                }
                drop((agent, peer));
                self.pods.remove_pod(&pod);
            }
        }
        if restarts {
            self.restart(false);
        }
        let whole = |blocks: &[Times]| {
            let mut all = Times::default();
            blocks.iter().for_each(|block| all.add(block));
            all
        };
        let (least, most) = whole(&blocks[0]).both.spread(BLOCK);
        let base = whole(&blocks[0]).both;
        let noise = format!("blocks of {BLOCK} without usernsd: medians from {least:.0?} to {most:.0?}");
        for (variant, of_variant) in variants.iter().zip(&blocks) {
            let what = match *variant {
                Variant::Nothing => "no usernsd",
                Variant::Nri(BEFORE) => "NRI, before",
                Variant::Nri(_) => "NRI",
                Variant::Launched => "launched plugin",
                Variant::Hook => "hook",
                Variant::Peer(index) => &peers[index].name,
            };
            let times = whole(of_variant);
            let compared = || {
                let (difference, least, most) = difference(&blocks[0], of_variant);
                let base = base.median().as_secs_f64() * 1000.0;
                let percent = difference / base * 100.0;
                format!(
                    "{difference:+.1} ms ({least:+.1} to {most:+.1}, 95 %), {percent:+.1} % of no usernsd"
                )
            };
            let name = self.name;
            times.create.row(&format!("{name}, {what}: CreateContainer"), "", "");
            times.start.row(&format!("{name}, {what}: StartContainer"), "", "");
            let note = if *variant == Variant::Nothing { noise.clone() } else { compared() };
            let budget = match variant {
                Variant::Nothing | Variant::Peer(_) => "",
                Variant::Nri(_) | Variant::Launched | Variant::Hook => "in the noise",
            };
            times.both.row(&format!("{name}, {what}: both"), budget, &note);
        }
        handled.row(
            &format!("{}, NRI: StartContainer in the agent", self.name),
            "p50 0.10, p99 0.35 ms",
            "from its log; until the cgroup was handed over",
        );
        if let Some((all, anonymous)) = plugin_memory.iter().max() {
            row(
                &format!("{}: resident memory of the launched plugin, at most", self.name),
                &format!("{:.1} MiB", *all as f64 / 1024.0),
                "",
                plugin_memory.len(),
                "",
                &format!("{:.1} MiB of it anonymous", *anonymous as f64 / 1024.0),
            );
        }
    }

    /// Another plugin, once it has joined the runtime.
    fn join(&self, peer: &Peer) -> Process {
        let log = format!("{DIRECTORY}/{}.log", peer.name);
        self.node.write(&log, "");
        let line = format!("exec {DIRECTORY}/{} {} 2>>{log}", peer.name, peer.arguments);
        let process = self.node.spawn(["sh", "-c", &line]);
        // NRI's library writes this after the runtime has sent its list.
        wait_for("the other plugin", || {
            let text = fs::read_to_string(self.node.path(&log)).unwrap_or_default();
            text.contains("Started plugin").then_some(())
        });
        process
    }

    /// Starts as many containers as the machine can at once, while an agent is joined.
    fn at_once(&self, count: usize) {
        let agent = Agent::start(self.node, AFTER, CHOWN);
        let pods: Vec<Pod> = (0..count.div_ceil(PER_POD)).map(|_| self.pod(Variant::Nothing)).collect();
        let since = Instant::now();
        let made: Vec<Container> = thread::scope(|scope| {
            let started: Vec<_> = (0..count)
                .map(|number| {
                    let (pods, pod) = (self.pods, &pods[number / PER_POD]);
                    let spec = ContainerSpec::sleeping().named(&format!("s{number}")).privileged();
                    scope.spawn(move || pods.run(pod, &spec))
                })
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let took = since.elapsed();
        let mut handled = Samples::default();
        for container in &made {
            assert_ne!(container.owner("").0, 0, "{}", container.cgroup.display());
            agent.after(container, "nri").into_iter().for_each(|time| handled.push(time));
        }
        handled.row(
            &format!("{}, NRI: StartContainer in the agent, {count} containers at once", self.name),
            "p99 2 ms",
            &format!("all of them took {took:.1?}"),
        );
        drop(agent);
        pods.iter().for_each(|pod| self.pods.remove_pod(pod));
    }

    /// Without NRI: systemd's signal, for which nothing waits.
    fn asynchronous(&self, count: usize) {
        let agent = Agent::start(self.node, AFTER, "nri: {enabled: false}\n");
        let mut delays = Samples::default();
        let mut after_mapping = Samples::default();
        let mut missed = 0;
        for block in 0..count.div_ceil(BLOCK) {
            let pod = self.pod(Variant::Nothing);
            let cgroup = self.pods.pod_cgroup(&pod);
            for number in 0..BLOCK {
                let spec = ContainerSpec::sleeping().named(&format!("a{block}-{number}")).privileged();
                let known = scopes(&cgroup);
                let (container, seen) = thread::scope(|scope| {
                    let watcher = scope.spawn(|| from_mapping_to_owner(&cgroup, &known));
                    (self.pods.run(&pod, &spec), watcher.join().unwrap())
                });
                seen.into_iter().for_each(|time| after_mapping.push(time));
                match agent.after(&container, "systemd") {
                    Some(time) => delays.push(time),
                    None => missed += 1,
                }
            }
            self.pods.remove_pod(&pod);
        }
        delays.row(
            &format!("{}, no NRI: systemd's signal to handed over", self.name),
            "",
            &format!("waits for the process to enter its namespace; {missed} came another way"),
        );
        after_mapping.row(
            &format!("{}, no NRI: the OCI runtime's mapping to handed over", self.name),
            "p50 2 ms",
            "seen from outside, to some 0.1 ms",
        );
        drop(agent);
    }

    /// Measures the agent's start on the node as it is.
    fn startup(&self, others: Vec<Pod>) {
        let mut times = Samples::default();
        for _ in 0..10 {
            let agent = Agent::start(self.node, AFTER, "");
            times.push(agent.ready);
        }
        let agent = Agent::start(self.node, AFTER, "");
        std::thread::sleep(Duration::from_secs(1));
        let (all, anonymous) = common::agent::resident(agent.process.pid().as_raw().unsigned_abs());
        let containers = others.len() * PER_POD;
        times.row(
            &format!("{}: start to ready, {containers} containers", self.name),
            "150 ms (500)",
            "half of them in the host's user namespace; entering the node included",
        );
        row(
            &format!("{}: resident memory, {containers} containers", self.name),
            &format!("{:.1} MiB", all as f64 / 1024.0),
            "",
            1,
            "12 MiB (500)",
            &format!("{:.1} MiB of it anonymous", anonymous as f64 / 1024.0),
        );
    }
}

/// The names of the scopes in a pod's cgroup.
fn scopes(pod: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(pod).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".scope") && !name.contains("conmon")).collect()
}

/// Waits for the next scope in a pod's cgroup: the time from the moment at which a process in it has the ID
/// mapping of its user namespace until the cgroup belongs to the container. `None` if it takes too long.
fn from_mapping_to_owner(pod: &Path, known: &BTreeSet<String>) -> Option<Duration> {
    let end = Instant::now() + Duration::from_secs(10);
    let mut scope: Option<PathBuf> = None;
    let mut mapped: Option<Instant> = None;
    while Instant::now() < end {
        match (&scope, mapped) {
            (None, _) => {
                scope = scopes(pod).difference(known).next().map(|name| pod.join(name));
            }
            (Some(path), None) => {
                let pids = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
                let is_mapped = |pid: &str| {
                    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap_or_default();
                    map.split_whitespace().nth(1).is_some_and(|host| host != "0")
                };
                if pids.lines().any(is_mapped) {
                    mapped = Some(Instant::now());
                    continue;
                }
            }
            (Some(path), Some(mapped)) => {
                if fs::metadata(path).is_ok_and(|cgroup| cgroup.uid() != 0) {
                    return Some(mapped.elapsed());
                }
            }
        }
        thread::sleep(Duration::from_micros(50));
    }
    None
}
