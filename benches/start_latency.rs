//! The duration of a container's start on a real node, as its kubelet sees it: without usernsd, with an agent
//! that joined over NRI, with the launched plugin, with the OCI hook. Also how soon the agent is done if
//! nothing waits for it.
//!
//! Includes CRI-O if `USERNSD_TEST_CRIO` names a binary.
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

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use common::{AFTER, BEFORE, Samples, before, number, row, say};
use node::{Node, Options, Process, Runtime};
use pods::{Container, ContainerSpec, Pod, PodSpec, Pods, wait_for};

const DIRECTORY: &str = "/run/usernsd-bench";
/// The launched plugin, and its settings.
const PLUGIN: &str = "/opt/nri/plugins/90-usernsd";
const PLUGIN_SETTINGS: &str = "/etc/nri/conf.d/90-usernsd.conf";
/// Makes the agent delegate cgroups itself, even if it could make the runtime do so.
const CHOWN: &str = "delegation: {privilegedCgroupNamespace: false}\n";
/// The number of containers of one variant before the next variant's turn.
const BLOCK: usize = 10;
const PER_POD: usize = 10;

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
    rig.asynchronous(number("USERNSD_BENCH_COUNT", 100));
    rig.startup(others);
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
}

#[derive(Default)]
struct Times {
    create: Samples,
    start: Samples,
    both: Samples,
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
        for number in 0..count {
            let pod = &pods[number / PER_POD];
            let spec = ContainerSpec::sleeping().named(&format!("c{number}"));
            self.pods.run(pod, &if pod.spec.privileged { spec.privileged() } else { spec });
        }
        say(&format!("{}: {count} other containers in {:?}", self.name, since.elapsed()));
        pods
    }

    fn pod(&self, variant: Variant) -> Pod {
        let hooked = variant == Variant::Hook;
        let spec = PodSpec::new("bench").numbered(1000).privileged();
        let spec = match (self.hooked, hooked) {
            (true, true) => spec.handler("hooked"),
            (true, false) => spec.handler("plain"),
            (false, true) => spec.annotated("bench/hook", "yes"),
            (false, false) => spec,
        };
        self.pods.run_pod(&PodSpec { name: format!("bench-{variant:?}"), ..spec })
    }

    fn one(&self, pod: &Pod, number: usize, times: &mut Times, owned: bool) -> Container {
        let spec = ContainerSpec::sleeping().named(&format!("b{number}")).privileged();
        let since = Instant::now();
        let container = self.pods.create(pod, &spec);
        let created = since.elapsed();
        self.pods.start(&container);
        let both = since.elapsed();
        times.create.push(created);
        times.start.push(both - created);
        times.both.push(both);
        assert_eq!(container.owner("").0 != 0, owned, "{}", container.cgroup.display());
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
        let mut variants = vec![Variant::Nothing, Variant::Nri(AFTER), Variant::Launched, Variant::Hook];
        if before().is_some() {
            variants.push(Variant::Nri(BEFORE));
        }
        let mut times: Vec<Times> = variants.iter().map(|_| Times::default()).collect();
        let mut handled = Samples::default();
        let mut plugin_memory = Vec::new();
        for block in 0..count.div_ceil(BLOCK) {
            // The order rotates, so that no variant always follows the same removals.
            for turn in 0..variants.len() {
                let index = (block + turn) % variants.len();
                let variant = variants[index];
                let owned = variant != Variant::Nothing;
                // All variants use a freshly started runtime, because the plugin's must be.
                self.restart(variant == Variant::Launched);
                let agent = match variant {
                    Variant::Nri(binary) => Some(Agent::start(self.node, binary, CHOWN)),
                    Variant::Nothing | Variant::Launched | Variant::Hook => None,
                };
                let pod = self.pod(variant);
                // Two more, which are not counted: the first ones after the start of an agent.
                for number in 0..2 {
                    self.pods.remove(&self.one(&pod, number, &mut Times::default(), owned));
                }
                let made: Vec<Container> = (0..BLOCK)
                    .map(|number| self.one(&pod, block * BLOCK + number + 2, &mut times[index], owned))
                    .collect();
                if let (Variant::Nri(AFTER), Some(agent)) = (variant, &agent) {
                    for container in &made {
                        agent.after(container, "nri").into_iter().for_each(|time| handled.push(time));
                    }
                }
                if variant == Variant::Launched {
                    plugin_memory.extend(self.plugin().map(common::agent::resident));
                }
                drop(agent);
                self.pods.remove_pod(&pod);
            }
        }
        self.restart(false);
        let (least, most) = times[0].both.spread(BLOCK);
        let base = times[0].both.clone();
        let noise = format!("blocks of {BLOCK} without usernsd: medians from {least:.0?} to {most:.0?}");
        for (variant, times) in variants.iter().zip(&times) {
            let what = match variant {
                Variant::Nothing => "no usernsd",
                Variant::Nri(BEFORE) => "NRI, before",
                Variant::Nri(_) => "NRI",
                Variant::Launched => "launched plugin",
                Variant::Hook => "hook",
            };
            let difference = |now: &Samples| {
                let base = base.median().as_secs_f64();
                format!("{:+.1} % of no usernsd", (now.median().as_secs_f64() - base) / base * 100.0)
            };
            let name = self.name;
            times.create.row(&format!("{name}, {what}: CreateContainer"), "", "");
            times.start.row(&format!("{name}, {what}: StartContainer"), "", "");
            let note = if *variant == Variant::Nothing { noise.clone() } else { difference(&times.both) };
            times.both.row(
                &format!("{name}, {what}: both"),
                if *variant == Variant::Nothing { "" } else { "in the noise" },
                &note,
            );
        }
        handled.row(
            &format!("{}, NRI: StartContainer in the agent", self.name),
            "p50 0.15, p99 1 ms",
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

    /// Without NRI: systemd's signal, for which nothing waits.
    fn asynchronous(&self, count: usize) {
        let agent = Agent::start(self.node, AFTER, "nri: {enabled: false}\n");
        let pod = self.pod(Variant::Nothing);
        let mut delays = Samples::default();
        let mut missed = 0;
        for number in 0..count {
            let spec = ContainerSpec::sleeping().named(&format!("a{number}")).privileged();
            let container = self.pods.run(&pod, &spec);
            match agent.after(&container, "systemd") {
                Some(time) => delays.push(time),
                None => missed += 1,
            }
            self.pods.remove(&container);
        }
        delays.row(
            &format!("{}, no NRI: systemd's signal to handed over", self.name),
            "p50 1, p99 5 ms",
            &format!("waits for the process to enter its namespace; {missed} came another way"),
        );
        drop(agent);
        self.pods.remove_pod(&pod);
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

/// `usernsd agent` in the node, observed from outside.
struct Agent<'a> {
    node: &'a Node,
    process: Process,
    ready: Duration,
}

impl<'a> Agent<'a> {
    fn start(node: &'a Node, binary: &str, configuration: &str) -> Self {
        let file = |name: &str| format!("{DIRECTORY}/{name}");
        node.write(&file("config.yaml"), configuration);
        node.write(&file("log"), "");
        let socket = node.socket(&file("notify"));
        let _ = fs::remove_file(&socket);
        let notified = UnixDatagram::bind(&socket).unwrap();
        notified.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let line = format!(
            "exec env NOTIFY_SOCKET={} {binary} agent --config {} --log-format json 2>>{}",
            file("notify"),
            file("config.yaml"),
            file("log"),
        );
        let since = Instant::now();
        let process = node.spawn(["sh", "-c", &line]);
        let mut message = [0; 4096];
        loop {
            let length = notified.recv(&mut message).unwrap();
            if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1") {
                break;
            }
        }
        let ready = since.elapsed();
        let agent = Self { node, process, ready };
        wait_for("NRI", || {
            let joined = agent.log().contains("joined the runtime over NRI");
            (joined || configuration.contains("enabled: false")).then_some(())
        });
        agent
    }

    fn log(&self) -> String {
        fs::read_to_string(self.node.path(&format!("{DIRECTORY}/log"))).unwrap_or_default()
    }

    /// How long after the message the cgroup was delegated; `None` if another trigger caused it.
    fn after(&self, container: &Container, source: &str) -> Option<Duration> {
        let short = &container.id[..13];
        let line = wait_for("a line on the container", || {
            self.log()
                .lines()
                .find(|line| line.contains(short) && line.contains("chown_cgroup"))
                .map(str::to_owned)
        });
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        (line["source"] == source).then(|| Duration::from_micros(line["after_us"].as_u64().unwrap()))
    }
}
