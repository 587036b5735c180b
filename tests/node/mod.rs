//! The test node: systemd as PID 1 and a container runtime, in namespaces of this machine.
//!
//! `node.sh` in this directory does the work; people and the demo call it directly, too. This module boots a
//! node for a test, runs programs in it, and removes it on drop. If the test is killed, the node ends within
//! a second.
//!
//! On a machine that `vm.sh` has made, that machine is the node: the same tests run there, on another kernel.
//!
//! Pods are created over the runtime's CRI socket, see [`Node::cri_socket`].

// Each test, bench and example that includes this module uses only a part of it.
#![allow(dead_code)]
// A failure here must fail the test. Clippy permits these calls only in functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use usernsd_domain::crio::CrioVersion;

/// The Debian release of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    /// systemd 262, containerd 2.1, runc 1.3, crun 1.28.
    Forky,
    /// systemd 252, runc 1.1, containerd 1.6: no NRI. For the older D-Bus calls.
    Bookworm,
    /// That of the machine on which the test runs.
    OfMachine,
}

impl Default for Suite {
    fn default() -> Self {
        if is_machine() { Self::OfMachine } else { Self::Forky }
    }
}

impl Suite {
    /// Each one that a node can have here.
    pub(crate) fn each() -> &'static [Self] {
        if is_machine() { &[Self::OfMachine] } else { &[Self::Forky, Self::Bookworm] }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Forky => "forky",
            Self::Bookworm => "bookworm",
            Self::OfMachine => "machine",
        }
    }
}

/// The container runtime of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Runtime {
    #[default]
    Containerd,
    /// Needs `USERNSD_TEST_CRIO`, the path of a CRI-O binary with pinns in the same directory.
    Crio,
    /// No runtime, only systemd and D-Bus.
    None,
}

impl Runtime {
    fn word(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Crio => "crio",
            Self::None => "none",
        }
    }
}

/// How the cgroups of containers are created: by systemd as scopes, or by the OCI runtime with mkdir.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CgroupManager {
    #[default]
    Systemd,
    Cgroupfs,
}

impl CgroupManager {
    fn word(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Cgroupfs => "cgroupfs",
        }
    }
}

/// The runtime handler of pods that name none. `runc` and `crun` always exist as handlers; containerd on
/// forky also has `runc-writable` (`cgroup_writable = true`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Handler {
    #[default]
    Runc,
    Crun,
}

impl Handler {
    fn word(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }
}

/// The kind of node. The default is forky with containerd, systemd cgroups, runc and NRI.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) suite: Suite,
    pub(crate) runtime: Runtime,
    pub(crate) cgroup_manager: CgroupManager,
    pub(crate) default_handler: Handler,
    pub(crate) nri: bool,
    /// Files and directories of this machine, each with the path at which the node has it read-only. The
    /// binary under test becomes `/usr/local/bin/usernsd` this way.
    pub(crate) binds: Vec<(PathBuf, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            suite: Suite::default(),
            runtime: Runtime::default(),
            cgroup_manager: CgroupManager::default(),
            default_handler: Handler::default(),
            nri: true,
            binds: Vec::new(),
        }
    }
}

/// A running node. Dropping it kills all its processes and removes its cgroups and mounts.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    pid: i32,
    cgroup: PathBuf,
    images: PathBuf,
    runtime: Runtime,
}

/// Whether this is a machine that `vm.sh` has made, which is the node itself.
pub(crate) fn is_machine() -> bool {
    Path::new("/etc/usernsd-machine").exists()
}

/// Prints to standard error why a test is skipped. Does not use `eprintln!`, which the test harness captures
/// in passing tests: a skip must be visible.
pub(crate) fn report_skipped(why: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("test");
    // A closed standard error is no reason to fail.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}");
}

impl Node {
    /// Boots a node; if this machine cannot, prints the reason and returns `None`. With
    /// `USERNSD_TEST_NODE=require` (CI) the reason is a panic instead; a boot that fails although it should
    /// work always is. `USERNSD_TEST_NODE=keep` keeps the nodes of failed tests running for inspection.
    pub(crate) fn boot_or_skip(options: &Options) -> Option<Self> {
        match Self::missing(options) {
            None => Some(Self::boot(options).unwrap()),
            Some(why) => {
                // CRI-O is not a Debian package, so it is required only if a binary was given.
                let optional = options.runtime == Runtime::Crio && env::var_os("USERNSD_TEST_CRIO").is_none();
                assert!(
                    optional || env::var_os("USERNSD_TEST_NODE").is_none_or(|value| value != "require"),
                    "no test node: {why}"
                );
                report_skipped(&why);
                None
            }
        }
    }

    /// The reason why this machine cannot boot such a node.
    pub(crate) fn missing(options: &Options) -> Option<String> {
        if !Uid::effective().is_root() {
            return Some("a test node needs root".to_owned());
        }
        if options.runtime == Runtime::Crio && env::var_os("USERNSD_TEST_CRIO").is_none() {
            return Some("USERNSD_TEST_CRIO does not name a CRI-O binary".to_owned());
        }
        if is_machine() {
            return None;
        }
        let cgroup2 = fs::read_to_string("/proc/mounts")
            .is_ok_and(|mounts| mounts.lines().any(|line| line.contains(" cgroup2 rw")));
        if !cgroup2 {
            return Some("no writable cgroup2 file system".to_owned());
        }
        let namespaces = Command::new("unshare")
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "true"])
            .output();
        match namespaces {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                return Some(format!("no new namespaces: {}", text.trim()));
            }
            Err(error) => return Some(format!("cannot run unshare: {error}")),
        }
        let found = |tool: &str| {
            env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(tool).exists()))
        };
        ["mmdebstrap", "nsenter", "ip"]
            .into_iter()
            .find(|tool| !found(tool))
            .map(|tool| format!("{tool} is missing, see tests/node/host-packages.txt"))
    }

    /// Boots a node; returns when the runtime has reported readiness. The first boot on a machine builds the
    /// root file system, which takes a minute and a Debian mirror.
    pub(crate) fn boot(options: &Options) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}-{count}", std::process::id());
        let mut command = script();
        command
            .args(["boot", "--name", &name])
            .args(["--owner", &std::process::id().to_string()])
            .args(["--suite", options.suite.word()])
            .args(["--runtime", options.runtime.word()])
            .args(["--cgroup-manager", options.cgroup_manager.word()])
            .args(["--default-handler", options.default_handler.word()]);
        if !options.nri {
            command.arg("--no-nri");
        }
        for (source, target) in &options.binds {
            command.arg("--bind").arg(format!("{}:{target}", source.display()));
        }
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("node.sh boot: {}", text.trim())));
        }
        let answer = String::from_utf8_lossy(&output.stdout);
        let value = |key: &str| {
            answer
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .ok_or_else(|| io::Error::other(format!("node.sh boot did not say {key}")))
        };
        Ok(Self {
            pid: value("pid")?.parse().map_err(io::Error::other)?,
            cgroup: PathBuf::from(value("cgroup")?),
            images: Path::new(value("image")?).join("images"),
            runtime: options.runtime,
            name,
        })
    }

    /// The node's name for `node.sh`, for inspection by hand: `node.sh exec NAME sh`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The node's PID 1, as a PID of this machine.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The node's processes that run the program, as PIDs of this machine.
    pub(crate) fn processes(&self, program: &str) -> Vec<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(self.pid);
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).next() == Some(program.as_bytes()) && namespace(*pid) == own
        })
        .collect()
    }

    /// The node's `/`. Symbolic links in it that start with a slash lead to this machine's root: use
    /// `run/nri/nri.sock`, not `var/run/nri/nri.sock`.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }

    /// A path in the node, for use by this process; a leading slash is removed.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Path of a unix socket in the node, short enough for connect(2).
    pub(crate) fn socket(&self, path: &str) -> PathBuf {
        let socket = self.path(path);
        assert!(socket.as_os_str().len() < 108, "too long for a socket: {}", socket.display());
        socket
    }

    /// The node's container runtime.
    pub(crate) fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// The runtime's CRI socket.
    pub(crate) fn cri_socket(&self) -> PathBuf {
        // A containerd in the layout of k3s or RKE2, k0s, or MicroK8s.
        const OF_DISTRIBUTIONS: [&str; 3] = [
            "run/k3s/containerd/containerd.sock",
            "run/k0s/containerd.sock",
            "var/snap/microk8s/common/run/containerd.sock",
        ];
        let of_distribution = OF_DISTRIBUTIONS.into_iter().find(|path| self.path(path).exists());
        self.socket(match self.runtime {
            Runtime::Containerd => of_distribution.unwrap_or("run/containerd/containerd.sock"),
            Runtime::Crio => "run/crio/crio.sock",
            Runtime::None => "run/no-runtime.sock",
        })
    }

    /// The runtime's NRI socket; it exists if NRI is on.
    pub(crate) fn nri_socket(&self) -> PathBuf {
        self.socket("run/nri/nri.sock")
    }

    /// The system bus. Its daemon authenticates by the user ID, 0 on both sides.
    pub(crate) fn system_bus(&self) -> PathBuf {
        self.socket("run/dbus/system_bus_socket")
    }

    /// The node's `/sys/fs/cgroup`, as a path on this machine.
    pub(crate) fn cgroup_root(&self) -> &Path {
        &self.cgroup
    }

    /// Image archives for `ctr images import`: pause, busybox, systemd. The runtime already has all three as
    /// `localhost/NAME:1`.
    pub(crate) fn image_archive(&self, name: &str) -> PathBuf {
        self.images.join(format!("{name}.tar"))
    }

    /// A command to run in the node as root, in all its namespaces and below its cgroup. It inherits this
    /// process's environment, except for PATH and HOME.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = script();
        command.args(["exec", &self.name]).args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end and returns the result, whatever it is.
    pub(crate) fn exec<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command that must succeed, and returns its trimmed output.
    #[track_caller]
    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(words);
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Starts a long-running process, with this process's standard output and error.
    pub(crate) fn spawn<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Process {
        Process { child: self.command(words).spawn().unwrap() }
    }

    /// `systemctl restart`; returns when the unit has reported readiness.
    #[track_caller]
    pub(crate) fn restart_unit(&self, unit: &str) {
        self.run(["systemctl", "restart", unit]);
    }

    /// The version of the node's CRI-O.
    #[track_caller]
    pub(crate) fn crio_version(&self) -> CrioVersion {
        CrioVersion::parse(&self.run(["crio", "--version"])).unwrap()
    }

    /// The log of a unit since boot.
    pub(crate) fn journal(&self, unit: &str) -> String {
        self.run(["journalctl", "--no-pager", "--output=short-precise", "--unit", unit])
    }

    /// Copies a file of this machine into the node, keeping its mode.
    pub(crate) fn install(&self, source: &Path, target: &str) {
        let target = self.path(target);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(source, target).unwrap();
    }

    /// Writes a file in the node, and creates the directories above it.
    pub(crate) fn write(&self, target: &str, content: impl AsRef<[u8]>) {
        let target = self.path(target);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, content).unwrap();
    }

    /// Waits until the socket accepts connections.
    #[track_caller]
    pub(crate) fn wait_for_socket(&self, path: &str, limit: Duration) {
        let socket = self.socket(path);
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(start.elapsed() < limit, "nobody listens on {path}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let kept = env::var_os("USERNSD_TEST_NODE").is_some_and(|value| value == "keep");
        if kept && thread::panicking() {
            // Without the owner file, the node outlives this process.
            let _ = fs::remove_file(format!("/run/usernsd-node/{}/owner", self.name));
            let _ = writeln!(io::stderr(), "kept: tests/node/node.sh exec {} bash", self.name);
            return;
        }
        let output = script().args(["down", &self.name]).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => {}
            // No panic while dropping, because the test may be panicking already.
            other => {
                let _ = writeln!(io::stderr(), "node.sh down {}: {other:?}", self.name);
            }
        }
    }
}

/// A process started in a node. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Process {
    /// node.sh, which waits for the process in the node; the process is killed if node.sh is.
    child: Child,
}

impl Process {
    /// The PID of the process on this machine.
    pub(crate) fn pid(&self) -> Pid {
        // node.sh, which has other children before, becomes nsenter; nsenter's only child becomes setpriv, env and then the
        // process. Before setpriv has run, the child would survive the end of nsenter.
        let outer = self.child.id();
        let start = Instant::now();
        let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        loop {
            let is_nsenter = name(&outer.to_string()).trim() == "nsenter";
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
            let started = |pid: &&str| !["nsenter", "setpriv", "env", ""].contains(&name(pid).trim());
            if let Some(pid) = children.split_whitespace().next().filter(|pid| is_nsenter && started(pid)) {
                return Pid::from_raw(pid.parse().unwrap());
            }
            assert!(start.elapsed() < Duration::from_secs(5), "the process did not start");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends a signal to the process itself.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Sends SIGTERM and waits for the end. Returns the exit status of the process itself.
    pub(crate) fn terminate(mut self) -> std::process::ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap()
    }

    /// The outer process that waits, for its pipes and its exit status.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if the process has ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script() -> Command {
    // The demo is a package of its own, below the repository's root.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().map(|dir| dir.join("tests/node/node.sh")).find(|script| script.exists());
    Command::new(found.unwrap_or_else(|| here.join("tests/node/node.sh")))
}
