//! `usernsd bootstrap` and the launched plugin: installed, required, removed.

use std::env;
use std::path::{Path, PathBuf};

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime, report_skipped};
use crate::pods::{ContainerSpec, Pod, PodSpec, Pods, wait_for};

const PROGRAM: &str = "/opt/nri/plugins/90-usernsd";
const TOLERATION: &str = "tolerate-missing-nri-plugins.noderesource.dev";
const NOT_PRESENT: &str = "required plugin \"usernsd\" not present";

/// The plugin processes that a runtime has launched.
fn processes(node: &Node) -> Vec<String> {
    let found = node.exec(["pgrep", "-f", &format!("^{PROGRAM}")]);
    String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
}

/// Runs bootstrap with this configuration; returns its output.
pub(crate) fn bootstrap(node: &Node, configuration: &str, more: &[&str]) -> String {
    node.write("/etc/usernsd.yaml", configuration);
    let ran = node.exec([&["usernsd", "bootstrap", "--config", "/etc/usernsd.yaml"], more].concat());
    let output = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{output}");
    output
}

fn restart(node: &Node, pods: &Pods<'_>, unit: &str) {
    node.restart_unit(unit);
    pods.wait_until_it_answers();
}

fn installs_and_undoes(runtime: Runtime, unit: &str) {
    let Some(node) = node_with_binary(Options { runtime, ..Options::default() }) else { return };
    let pods = Pods::connect(&node);
    let output = bootstrap(&node, "", &[]);
    assert!(output.contains(&format!("{unit} was started before")) && output.contains(PROGRAM), "{output}");
    assert_eq!(processes(&node), Vec::<String>::new(), "nothing is restarted by itself");
    restart(&node, &pods, unit);
    wait_for("the launched plugin", || (processes(&node).len() == 1).then_some(()));
    let asking = |name: &str| PodSpec::new(name).annotated("usernsd.io/cgroup", "writable");
    let container = pods.run(&pods.run_pod(&asking("first").numbered(1)), &ContainerSpec::sleeping());
    assert!(pods.proc(&container, "mounts").contains(" /sys/fs/cgroup cgroup2 rw,"), "served by it");
    assert!(!bootstrap(&node, "", &[]).contains("restart-pending"), "the runtime has launched it");

    let output = bootstrap(&node, "", &["--undo"]);
    assert!(output.contains(&format!("{PROGRAM}: taken back")), "{output}");
    assert!(!node.path(PROGRAM.trim_start_matches('/')).exists());
    assert!(!node.path("etc/nri/conf.d/90-usernsd.conf").exists());
    restart(&node, &pods, unit);
    wait_for("its end", || processes(&node).is_empty().then_some(()));
    pods.run(&pods.run_pod(&PodSpec::new("last").numbered(2)), &ContainerSpec::sleeping());
}

#[test]
fn containerd_launches_what_bootstrap_installs() {
    installs_and_undoes(Runtime::Containerd, "containerd.service");
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_launches_what_bootstrap_installs() {
    installs_and_undoes(Runtime::Crio, "crio.service");
}

/// A pod with the node's PID namespace and root chooses the name of its process, and the program behind it.
#[test]
fn the_node_starts_no_program_that_a_container_names_as_the_plugin() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    // It has no arguments, and a parent that lives. One in the node's mount namespace, as no container is, is taken for
    // the plugin, so that the checks below can fail.
    for (unshare, is_taken) in [("--mount", false), ("--uts", true)] {
        let script = format!("mkfifo /run/f; exec 3<>/run/f; exec -a {PROGRAM} cat <&3");
        let _impostor = node.spawn(["unshare", unshare, "--fork", "--kill-child", "bash", "-c", &script]);
        let pid = wait_for("the impostor", || processes(&node).first().cloned());
        let mut traces = String::new();
        for command in ["bootstrap --diff", "bootstrap", "doctor --no-agent -o json"] {
            let line =
                format!("strace -f -qq -e trace=execve,execveat -o /run/trace usernsd {command} >/run/said");
            node.exec(["bash", "-c", &line]);
            traces += &node.run(["cat", "/run/trace"]);
        }
        let output = node.run(["cat", "/run/said"]);
        assert_eq!(output.contains("another program runs, and usernsd"), is_taken, "{output}");
        let of_processes: Vec<&str> =
            traces.lines().filter(|line| line.contains("exec") && line.contains("/proc/")).collect();
        let own = |line: &&str| !line.contains("/proc/self/exe");
        assert!(!of_processes.iter().any(own), "process {pid}: {of_processes:#?}");
        assert!(traces.contains("runc"), "the trace shows no program: {traces}");
        node.run(["bash", "-c", &format!("kill -9 {pid}; rm /run/f")]);
        wait_for("its end", || processes(&node).is_empty().then_some(()));
    }
}

/// A node whose runtime requires the plugin for all pods starts no others without it, never locks itself out,
/// and is served by an agent that starts last.
fn requires(node: &Node, unit: &str) {
    const ALL: &str = "bootstrap: {nri: {required: all}}\n";
    let pods = Pods::connect(node);
    // CRI-O up to 1.36.3 forgets the mappings of a user namespace when it is restarted.
    let spec = |name: &str| PodSpec::new(name).in_host_user_namespace();
    let output = bootstrap(node, ALL, &[]);
    assert!(output.contains("runs no pod: which pods the node needs is not known"), "{output}");
    let first = pods.run_pod(&spec("first"));
    // A static pod that the kubelet has not started yet.
    let etcd = "kind: Pod\nmetadata: {name: etcd, annotations: {KEY}}\n";
    node.run(["mkdir", "-p", "/etc/kubernetes/manifests"]);
    node.write("/etc/kubernetes/manifests/etcd.yaml", etcd.replace("KEY", ""));
    let output = bootstrap(node, ALL, &[]);
    assert!(output.contains("could not start /etc/kubernetes/manifests/etcd.yaml again"), "{output}");
    let tolerated = etcd.replace("KEY", &format!("{TOLERATION}: 'true'"));
    node.write("/etc/kubernetes/manifests/etcd.yaml", tolerated);
    let system = pods.run_pod(&PodSpec { namespace: "kube-system".to_owned(), ..spec("proxy") });
    let output = bootstrap(node, ALL, &[]);
    assert!(output.contains("the node could not start kube-system/proxy again"), "{output}");
    pods.remove_pod(&system);
    let output = bootstrap(node, ALL, &[]);
    assert!(!output.contains("is not required of all pods"), "{output}");
    pods.remove_pod(&first);
    restart(node, &pods, unit);
    wait_for("the launched plugin", || (processes(node).len() == 1).then_some(()));
    let plain = pods.run_pod(&spec("plain"));
    pods.run(&plain, &ContainerSpec::sleeping().named("first"));

    // Killed: the runtime notices it at the first container after that.
    let create = |pod: &Pod, name: &str| {
        pods.try_create(pod, &ContainerSpec::sleeping().named(name))
            .map(drop)
            .map_err(|status| status.message().to_owned())
    };
    node.run(["pkill", "-9", "-f", &format!("^{PROGRAM}")]);
    let mut number = 0;
    let refused = wait_for("a refusal", || {
        number += 1;
        create(&plain, &format!("after-{number}")).err()
    });
    assert!(refused.contains(NOT_PRESENT), "{refused}");
    let tolerant = pods.run_pod(&spec("tolerant").annotated(TOLERATION, "true"));
    pods.run(&tolerant, &ContainerSpec::sleeping());

    // A boot at which the plugin fails, and the agent starts last.
    node.run(["rm", PROGRAM]);
    restart(node, &pods, unit);
    let refused = create(&plain, "without").unwrap_err();
    assert!(refused.contains(NOT_PRESENT), "{refused}");
    let own = pods.run_pod(&spec("own").annotated(TOLERATION, "true"));
    pods.run(&own, &ContainerSpec::sleeping());
    let agent = Agent::start(node);
    wait_for("the agent in the plugin's place", || create(&plain, "served").ok());
    agent.kill();

    bootstrap(node, ALL, &["--undo"]);
    restart(node, &pods, unit);
    create(&plain, "undone").unwrap();
}

/// A node whose runtime can require plugins: CRI-O of 1.34 or later, or a containerd of 2.2 or later, which
/// `USERNSD_TEST_CONTAINERD` names, and the shim beside it.
pub(crate) fn node_that_can_require(runtime: Runtime) -> Option<Node> {
    if runtime == Runtime::Crio {
        let node = node_with_binary(Options { runtime, ..Options::default() })?;
        let version = node.run(["sh", "-c", "crio --version | head -n 1"]);
        let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
        if minor.is_none_or(|minor| minor < 34) {
            report_skipped(&format!("{version} cannot require plugins"));
            return None;
        }
        return Some(node);
    }
    let Some(containerd) = env::var_os("USERNSD_TEST_CONTAINERD").map(PathBuf::from) else {
        report_skipped("USERNSD_TEST_CONTAINERD does not name a containerd");
        return None;
    };
    let shim = containerd.with_file_name("containerd-shim-runc-v2");
    assert!(Path::new(&shim).exists(), "{}", shim.display());
    let binds = vec![
        (containerd, "/usr/bin/containerd".to_owned()),
        (shim, "/usr/bin/containerd-shim-runc-v2".to_owned()),
    ];
    let node = node_with_binary(Options { binds, ..Options::default() })?;
    // Written to a directory of drop-ins that the runtime reads.
    node.run([
        "sh",
        "-euc",
        "grep -q ^imports /etc/containerd/config.toml ||
         sed -i '1i imports = [\"/etc/containerd/conf.d/*.toml\"]' /etc/containerd/config.toml",
    ]);
    Some(node)
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_that_requires_the_plugin_never_locks_the_node() {
    let Some(node) = node_that_can_require(Runtime::Crio) else { return };
    requires(&node, "crio.service");
}

#[test]
#[cfg_attr(not(has_new_containerd), ignore = "USERNSD_TEST_CONTAINERD names no containerd")]
fn containerd_that_requires_the_plugin_never_locks_the_node() {
    let Some(node) = node_that_can_require(Runtime::Containerd) else { return };
    requires(&node, "containerd.service");
}
