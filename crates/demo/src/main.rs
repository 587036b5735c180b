//! `make demo`: a real node, and a container with systemd as PID 1 in a user namespace, first
//! without usernsd and then with it.
//!
//! Every line with a √ is checked; the first that does not hold ends the demo with exit code 1. The agent
//! runs as in `machineconfig/units/usernsd.service`; pods are created over CRI.

// The demo prints to a person.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "../../../tests/node/mod.rs"]
mod node;
#[path = "../../../tests/node/pods.rs"]
mod pods;

use std::collections::BTreeSet;
use std::env;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use node::{Node, Options};
use pods::{Container, ContainerSpec, IdMapping, Pod, PodSpec, Pods, wait_for};

const UNIT: &str = include_str!("../../../machineconfig/units/usernsd.service");
const ANNOTATION: (&str, &str) = ("usernsd.io/systemd", "true");

fn main() -> ExitCode {
    let screen = Screen::new();
    match demo(&screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", screen.paint(RED, "×"));
            ExitCode::FAILURE
        }
    }
}

fn demo(screen: &Screen) -> anyhow::Result<()> {
    let begin = Instant::now();
    // Both were built by the same command, see the Makefile.
    let binary = env::current_exe()?.with_file_name("usernsd").canonicalize();
    let binary = binary.context("the binary is not built; use: make demo")?;

    screen.heading("A node: systemd as PID 1, containerd, no Kubernetes");
    let since = Instant::now();
    let node = Node::boot(&Options {
        binds: vec![(binary, "/usr/local/bin/usernsd".to_owned())],
        ..Options::default()
    })?;
    let booted = since.elapsed();
    let printed = screen.run(&node, "systemctl is-system-running; systemctl --version | head -n 1; containerd --version; runc --version | head -n 1; uname -sr")?;
    screen.claim(
        printed.starts_with("running"),
        &format!("a node is up, booted in {} ms", booted.as_millis()),
    )?;
    let pods = Pods::connect(&node);

    screen.heading("Without usernsd: systemd in a user namespace");
    for kind in Kind::BOTH {
        let (pod, container) = start(&pods, kind);
        let ended = pods.systemd_state(&container);
        screen.note(&format!("{}; the end of its log:", kind.words()));
        let log = plain_text(&container.log());
        let log = log.lines().rev().take(3).collect::<Vec<_>>();
        let log = log.into_iter().rev().collect::<Vec<_>>().join("\n");
        screen.output(&log);
        screen.claim(
            ended == Err(255) && log.contains(kind.error()),
            &format!("{} pod: exit code 255: {}", kind.name(), kind.error()),
        )?;
        pods.remove_pod(&pod);
    }

    screen.heading("Start usernsd, as in its unit file");
    node.write("/etc/systemd/system/usernsd.service", UNIT);
    screen.run(&node, "systemctl enable --now --quiet usernsd")?;
    // Ready does not wait for NRI: a node may have none.
    wait_for("NRI", || node.journal("usernsd").contains("joined the runtime over NRI").then_some(()));
    screen.run(&node, "journalctl --identifier usernsd --output cat | cut -c 29-")?;
    screen.claim(true, "the agent is ready, and the runtime asks it before each start")?;

    screen.heading("The same two pods");
    let mut running = Vec::new();
    for kind in Kind::BOTH {
        let (pod, container) = start(&pods, kind);
        let state = pods.systemd_state(&container);
        let inside = screen.run_inside(&pods, kind, &container, "systemctl is-system-running")?;
        screen.claim(
            state.as_deref() == Ok("running") && inside == "running",
            &format!("{} pod: systemd runs", kind.name()),
        )?;
        running.push((kind, pod, container));
    }
    let listed = screen.run(&node, "usernsd ps")?;
    for (kind, ..) in &running {
        let (_, host, _) = kind.mapping();
        let row = listed.lines().find(|line| line.split_whitespace().nth(1) == Some(kind.name()));
        let cells: Vec<&str> = row.unwrap_or_default().split_whitespace().skip(4).collect();
        screen.claim(
            cells == [&format!("{host}-{}", host + 65_535), host.to_string().as_str(), "rw", "ok"],
            &format!("{} pod: the cgroup belongs to host user {host}", kind.name()),
        )?;
    }

    screen.note("what the agent changed on the host");
    let log =
        screen.run(&node, "journalctl --identifier usernsd --output cat | cut -c 29- | grep kubepods")?;
    for (kind, _, container) in &running {
        let changed = |action: &str| {
            let mut lines = log.lines().filter(|line| line.contains(&container.id[..13]));
            lines.any(|line| line.contains(&format!("{action:?}")))
        };
        // With the writable mount that usernsd gave the plain one, runc hands the cgroup over itself.
        let gave = if *kind == Kind::Privileged { "chown_cgroup" } else { "set_limits" };
        screen.claim(
            changed("set_limits") && changed(gave),
            &format!("{} pod: it logs each change", kind.name()),
        )?;
    }

    for (kind, pod, container) in &running {
        screen.heading(&format!("Verify the sandbox: {} pod", kind.name()));
        verify(screen, &node, &pods, *kind, pod, container)?;
    }

    screen.heading("Tear down");
    for (_, pod, _) in &running {
        pods.remove_pod(pod);
    }
    screen.run(&node, "systemctl stop usernsd")?;
    let result = screen.run(&node, "systemctl show usernsd --property Result,ExecMainStatus")?;
    screen.claim(
        result.contains("Result=success") && result.contains("ExecMainStatus=0"),
        "the agent ended cleanly",
    )?;
    let cgroup = node.cgroup_root().to_owned();
    drop(node);
    screen.claim(!cgroup.exists(), "the node is gone, and its cgroups with it")?;
    println!("\nAll of it held, in {:.1} s.", begin.elapsed().as_secs_f64());
    Ok(())
}

/// By these commands a demonstration of 2021, systemd in a user namespace on OpenShift 4.7, verified its pod.
fn verify(
    screen: &Screen,
    node: &Node,
    pods: &Pods<'_>,
    kind: Kind,
    pod: &Pod,
    container: &Container,
) -> anyhow::Result<()> {
    let pid = pods.status(container).pid;
    let (inside, host, length) = kind.mapping();
    let map = screen.run(node, &format!("cat /proc/{pid}/uid_map"))?;
    let map: Vec<u32> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    screen.claim(map == [inside, host, length], &format!("root inside is user {host} on the host"))?;

    let list = screen.run(node, &format!("pgrep --ns {pid} | xargs ps -o user:8,pid,cmd --sort pid"))?;
    let users: BTreeSet<u32> =
        list.lines().skip(1).filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    screen.claim(
        list.contains("/sbin/init")
            && list.contains("nginx: worker process")
            && list.lines().count() > users.len()
            && users.first() == Some(&host)
            && users.iter().all(|user| (host..host + length).contains(user)),
        &format!("every process is a user from {host} to {} on the host", host + length - 1),
    )?;

    let directory =
        format!("/sys/fs/cgroup/kubepods.slice/*/*/cri-containerd-{}*.scope", &container.id[..13]);
    let tree = screen.run(
        node,
        &format!(
            "cd {directory}; ls -aldin . cgroup.procs cgroup.subtree_control cgroup.threads \\\n        \
             cgroup.max.depth init.scope system.slice"
        ),
    )?;
    let owner = |name: &str| {
        let line = tree.lines().find(|line| line.ends_with(&format!(" {name}")))?;
        line.split_whitespace().nth(3)?.parse::<u32>().ok()
    };
    let owned =
        [".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "init.scope", "system.slice"];
    screen.claim(
        owned.iter().all(|name| owner(name) == Some(host)) && owner("cgroup.max.depth") == Some(0),
        &format!("the cgroup is {host}'s, and its limits stay root's"),
    )?;
    let seen = match kind {
        Kind::Plain => "/sys/fs/cgroup",
        // A runtime shows a privileged container the whole tree.
        Kind::Privileged => &directory,
    };
    let seen = screen.run_inside(pods, kind, container, &format!("ls -ldi {seen}"))?;
    let inode = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let here = tree.lines().find(|line| line.ends_with(" .")).and_then(inode);
    screen.claim(
        here.is_some() && here == inode(&seen) && seen.contains(" root "),
        "the same inode inside and outside: it is this cgroup, and root's inside",
    )?;

    let address =
        node.run(["nsenter", "-t", &pid.to_string(), "-n", "ip", "-4", "-o", "addr", "show", "eth0"]);
    let address = address.split_whitespace().nth(3).and_then(|word| word.split('/').next());
    let address = address.with_context(|| format!("pod {} has no address", pod.spec.name))?;
    let page = screen.run(node, &format!("busybox wget -q -S -O - http://{address}/ 2>&1"))?;
    screen.claim(
        page.contains("HTTP/1.1 200 OK")
            && page.contains("served by nginx in a container with systemd as PID 1"),
        "nginx, started by the container's systemd, serves the node",
    )
}

// === impl Kind ===

/// The two pods, in a user namespace both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Without privileges; its annotation asks for what systemd needs.
    Plain,
    /// `privileged: true`, as pods for this were before there was another way.
    Privileged,
}

impl Kind {
    const BOTH: [Self; 2] = [Self::Plain, Self::Privileged];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Privileged => "privileged",
        }
    }

    fn words(self) -> String {
        match self {
            Self::Plain => {
                format!("plain pod, hostUsers: false, annotation {}: {:?}", ANNOTATION.0, ANNOTATION.1)
            }
            Self::Privileged => "privileged pod, hostUsers: false".to_owned(),
        }
    }

    /// systemd's message without usernsd, at the first operation that fails.
    fn error(self) -> &'static str {
        match self {
            // The read-only cgroup mount would be the next failure.
            Self::Plain => "Failed to mount API filesystems",
            // Keeps runc from making the cgroup below the one in which it was started.
            Self::Privileged => "Failed to allocate manager object: Permission denied",
        }
    }

    /// Container ID, host ID, length: a range for each, as the kubelet does it.
    fn mapping(self) -> IdMapping {
        match self {
            Self::Plain => (0, 200_000, 65_536),
            Self::Privileged => (0, 265_536, 65_536),
        }
    }
}

fn start(pods: &Pods<'_>, kind: Kind) -> (Pod, Container) {
    let spec = PodSpec::new(kind.name()).mapped(&[kind.mapping()]);
    let (spec, container) = match kind {
        Kind::Plain => (spec.annotated(ANNOTATION.0, ANNOTATION.1), ContainerSpec::systemd()),
        Kind::Privileged => (spec.privileged(), ContainerSpec::systemd().privileged()),
    };
    let pod = pods.run_pod(&spec);
    let container = pods.run(&pod, &container.named("systemd").tty());
    (pod, container)
}

/// Without the colours that systemd gives a terminal.
fn plain_text(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

// === impl Screen ===

const GREEN: &str = "32";
const RED: &str = "31";
const BOLD: &str = "1";
const DIM: &str = "2";

struct Screen {
    colour: bool,
}

impl Screen {
    fn new() -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|value| value == "dumb");
        Self { colour: io::stdout().is_terminal() && !no_color && !dumb }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn heading(&self, text: &str) {
        println!("\n{}", self.paint(BOLD, &format!("=== {text}")));
    }

    fn note(&self, text: &str) {
        println!("{}", self.paint(DIM, &format!("# {text}")));
    }

    fn output(&self, text: &str) {
        for line in text.lines() {
            println!("    {line}");
        }
    }

    /// Prints what must hold, and whether it does.
    fn claim(&self, holds: bool, text: &str) -> anyhow::Result<()> {
        ensure!(holds, "not so: {text}");
        println!("{} {text}", self.paint(GREEN, "√"));
        Ok(())
    }

    /// Runs a shell line in the node and shows both it and what it printed.
    fn run(&self, node: &Node, line: &str) -> anyhow::Result<String> {
        println!("{}{line}", self.paint(DIM, "node# "));
        let output = node.exec(["sh", "-ec", line]);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        self.output(&printed);
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        self.output(&complaint);
        if !output.status.success() {
            bail!("{line}: {}", output.status);
        }
        Ok(printed.trim().to_owned())
    }

    /// Runs a command in a container, as `kubectl exec` does.
    fn run_inside(
        &self,
        pods: &Pods<'_>,
        kind: Kind,
        container: &Container,
        line: &str,
    ) -> anyhow::Result<String> {
        println!("{}{line}", self.paint(DIM, &format!("{}# ", kind.name())));
        let printed = pods.exec(container, &["/bin/sh", "-ec", line]);
        self.output(&printed.stdout);
        self.output(&printed.stderr);
        ensure!(printed.code == 0, "{line}: exit code {}", printed.code);
        Ok(printed.stdout)
    }
}
