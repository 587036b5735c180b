//! Memory use of the agent and the launched plugin at a join, for anything that a runtime can list.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::fakes::cri_runtime::{AfterEvents, FakeRuntime, Scenario};
use crate::fakes::nri_runtime::{CONTAINERD, Fault, Kind, Plugin, Runtime};
use serde_json::{Value, json};
use usernsd_peers::cri::v1;

const CRIO: Kind =
    Kind { name: "cri-o", version: "1.36.3", request_timeout: Duration::from_secs(30), ..CONTAINERD };

const DAEMON_SET: &str = include_str!("../../daemonset/base/daemonset.yaml");
const UNIT: &str = include_str!("../../machineconfig/units/usernsd.service");
/// Maximum memory use besides file pages, in KiB: with the file pages of the image's binary, the total stays
/// below 40 MiB.
const LIMIT: u64 = 32 << 10;
/// Kubernetes' limit for the annotations of one object, in bytes.
const ANNOTATIONS: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// A process with its log. Dropping it kills the process.
struct Running {
    child: Child,
    pid: u32,
    log: Arc<Mutex<String>>,
}

impl Running {
    /// Starts it as the first process of a PID namespace: the agent compares other processes with that one,
    /// and may not inspect those of every machine. It also gets its own /run.
    fn start(program: &Path, arguments: &[&str], socket: Option<i32>) -> Running {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]);
        command.arg("mount -t proc proc /proc && mount -t tmpfs run /run && exec \"$@\"").arg("sh");
        command.arg(program).args(arguments);
        // As in the DaemonSet and in the unit.
        let (name, value) = ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1048576");
        assert!(DAEMON_SET.contains(&format!("{{name: {name}, value: {value}}}")), "{DAEMON_SET}");
        assert!(UNIT.contains(&format!("\nEnvironment={name}={value}\n")), "{UNIT}");
        command.env(name, value);
        if let Some(socket) = socket {
            command.env("NRI_PLUGIN_SOCKET", socket.to_string());
        }
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let pid = loop {
            let first = fs::read_to_string(&children).unwrap();
            match first.split_whitespace().next() {
                Some(pid) => break pid.parse().unwrap(),
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *written.lock().unwrap() += &format!("{line}\n");
            }
        });
        Running { child, pid, log }
    }

    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(&self.log.lock().unwrap()) {
            assert!(Instant::now() < end, "{what}:\n{}", self.log.lock().unwrap());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the process is idle.
    fn settle(&self) {
        let work = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
            let fields: Vec<String> =
                stat.rsplit(')').next().unwrap().split_whitespace().map(str::to_owned).collect();
            (fields[11].clone(), fields[12].clone())
        };
        let mut last = work();
        let mut still = 0;
        while still < 4 {
            thread::sleep(Duration::from_millis(100));
            let now = work();
            still = if now == last { still + 1 } else { 0 };
            last = now;
        }
    }

    /// Peak memory use besides file pages, and file pages, in KiB.
    fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let files = field("RssFile");
        (field("VmHWM") - files, files)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The pods and containers of a runtime.
#[derive(Default)]
struct Node {
    pods: Vec<Value>,
    containers: Vec<Value>,
    scenario: Scenario,
}

impl Node {
    fn new() -> Node {
        let scenario = Scenario {
            version: ("cri-o".into(), "1.36.3".into()),
            after_events: AfterEvents::Stall,
            ..Scenario::default()
        };
        Node { scenario, ..Node::default() }
    }

    /// Adds a pod with these annotations and `containers` containers, each with `environment` bytes of
    /// environment.
    fn pod(&mut self, annotations: &[(String, String)], containers: usize, environment: usize) {
        let id = format!("{:064x}", self.pods.len() + 1);
        let name = format!("pod{}", self.pods.len());
        let map: serde_json::Map<String, Value> =
            annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        self.pods.push(json!({ "id": id, "name": name, "namespace": "ns", "uid": "u", "annotations": map }));
        let metadata = v1::PodSandboxMetadata {
            name: name.clone(),
            uid: "u".into(),
            namespace: "ns".into(),
            ..Default::default()
        };
        let status = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            annotations: annotations.iter().cloned().collect(),
            ..Default::default()
        };
        self.scenario.add_sandbox(status, Some(r#"{"pid":1}"#.into()));
        for index in 0..containers {
            let own = format!("{:064x}", (self.pods.len() << 32) + index);
            let variables: Vec<String> =
                (0..environment / 1000).map(|number| format!("V{number}={}", "x".repeat(1000))).collect();
            let path = format!("kubepods-pod{}.slice:crio:{own}", self.pods.len());
            self.containers.push(json!({
                "id": own, "pod_sandbox_id": id, "name": format!("c{index}"), "state": "CONTAINER_RUNNING",
                "env": variables,
                "linux": { "cgroups_path": path, "namespaces": [{ "type": "user", "path": "" }] },
            }));
            let info = json!({
                "sandboxID": id, "pid": 4_000_000, "privileged": false,
                "runtimeSpec": {
                    "process": { "user": { "uid": 0 }, "env": variables },
                    "linux": { "cgroupsPath": path, "namespaces": [{ "type": "user" }] },
                },
            });
            let status = v1::ContainerStatus {
                id: own,
                state: v1::ContainerState::ContainerRunning as i32,
                metadata: Some(v1::ContainerMetadata { name: format!("c{index}"), attempt: 0 }),
                ..Default::default()
            };
            self.scenario.add_container(&id, status, Some(info.to_string()));
        }
    }

    /// Sends all of it, with `at_once` items per message.
    fn send(&self, plugin: &mut Plugin, at_once: usize) {
        plugin.synchronize(&self.pods, &self.containers, at_once).unwrap();
    }
}

/// One large annotation without a meaning.
fn large() -> Vec<(String, String)> {
    vec![
        ("example.com/large".into(), "x".repeat(ANNOTATIONS - 6000)),
        ("usernsd.io/cgroup".into(), "writable".into()),
    ]
}

/// As many annotations as possible, each of which opts one container in.
fn asking() -> Vec<(String, String)> {
    let name = "x".repeat(40);
    (0..2400)
        .map(|index| (format!("cgroup.usernsd.io/container.{name}{index:04}"), "writable".into()))
        .collect()
}

/// Thousands of annotations without a meaning.
fn many() -> Vec<(String, String)> {
    (0..4000).map(|index| (format!("a.io/{index:056}"), "v".into())).collect()
}

/// The memory use of an agent that has joined a runtime with these containers and inspected all of them.
fn joined(node: Node, at_once: usize) -> (u64, u64) {
    let directory = tempfile::tempdir().unwrap();
    let cri = directory.path().join("crio.sock");
    let runtime = Runtime::listen();
    let count = node.containers.len();
    let fake = FakeRuntime::start(&cri, node.scenario.clone());
    let state = directory.path().join("state.sock");
    let [cri, nri, state] = [&cri, &runtime.socket, &state].map(|path| path.to_str().unwrap());
    let arguments = ["agent", "--log-format", "json", "--cri-endpoint", cri, "--nri-socket", nri];
    let arguments = [&arguments[..], &["--state-socket", state]].concat();
    let agent = Running::start(Path::new(env!("CARGO_BIN_EXE_usernsd")), &arguments, None);
    // It does not join a runtime whose containers it cannot inspect in time, and tries again.
    let mut plugin = loop {
        match runtime.register(CRIO) {
            Ok(plugin) => break plugin,
            Err(Fault::Status { message, .. }) if message.starts_with("not joining NRI yet") => {}
            Err(error) => panic!("{error:?}"),
        }
    };
    node.send(&mut plugin, at_once);
    agent.wait("ready", |log| log.contains(r#""message":"ready""#) || log.contains(r#""ready""#));
    // Before the join, at the start, and in the round of checks.
    agent.wait("all lists", |_| fake.calls("ListPodSandbox") >= 3 && fake.calls("ListContainers") >= 3);
    agent.settle();
    let log = agent.log.lock().unwrap().clone();
    assert!(log.contains("joined the runtime over NRI"), "{log}");
    assert!(log.contains(&format!(r#""containers":{count}"#)), "{log}");
    agent.memory()
}

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        // Not with `eprintln!`, which the test harness captures in passing tests.
        let _ = writeln!(std::io::stderr(), "SKIPPED: a process that is like the agent on a node takes root");
    }
    is_root
}

fn within(what: &str, (own, files): (u64, u64)) {
    eprintln!("{what}: at most {own} KiB, and {files} KiB of files");
    assert!(own <= LIMIT, "{what}: {own} KiB, more than {LIMIT}");
}

#[test]
fn memory_is_bounded_with_long_annotations_and_a_thousand_containers() {
    if !is_root() {
        return;
    }
    for annotations in [large(), asking(), many()] {
        let mut node = Node::new();
        node.pod(&annotations, 1000, 0);
        within("one pod", joined(node, 200));
    }
}

#[test]
fn memory_is_bounded_with_as_many_annotated_pods_as_a_runtime_can_list() {
    if !is_root() {
        return;
    }
    for annotations in [large(), asking(), many()] {
        let mut node = Node::new();
        for _ in 0..60 {
            node.pod(&annotations, 2, 0);
        }
        within("sixty pods", joined(node, 8));
    }
}

#[test]
fn memory_is_bounded_with_long_environments() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    node.pod(&[], 100, 10_000);
    for _ in 0..4 {
        node.pod(&[], 2, 1 << 20);
    }
    within("long environments", joined(node, 2));
}

#[test]
fn the_launched_plugin_reads_nothing_of_the_list() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    for _ in 0..60 {
        node.pod(&asking(), 20, 1000);
    }
    let runtime = Runtime::listen();
    let socket = UnixStream::connect(&runtime.socket).unwrap();
    // The standard library opens descriptors with close-on-exec.
    let inherited = rustix::io::fcntl_dupfd_cloexec(&socket, 100).unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let link = Path::new(env!("CARGO_TARGET_TMPDIR")).join("90-usernsd");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_usernsd"), &link).unwrap();
    let launched = Running::start(&link, &[], Some(inherited.as_raw_fd()));
    drop((socket, inherited));
    let registered = runtime.register(CRIO);
    let mut plugin = registered.unwrap_or_else(|error| panic!("{error:?}: {}", launched.log.lock().unwrap()));
    node.send(&mut plugin, 8);
    launched.settle();
    within("the launched plugin", launched.memory());
}
