//! SELinux enforcing, with Debian's policy: what a container with a writable cgroup may do under `container_t`, and
//! what has to be allowed. A machine without SELinux skips these cases; `make vm-test LSM=selinux` runs them on one
//! that has it.

use std::fs;

use usernsd_proto::cri::SeLinuxOption;

use crate::agent::{Agent, node_with_binary};
use crate::explain;
use crate::node::{Node, Options, report_skipped};
use crate::ownership::assert_systemd_runs;
use crate::pods::{BASE, Container, ContainerSpec, PodSpec, Pods, wait_for};

/// Whether SELinux enforces; prints a skip if it does not.
fn enforces() -> bool {
    let enforces = fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text == "1");
    if !enforces {
        report_skipped("SELinux is off or permissive");
    }
    enforces
}

/// The kernel's lines about what SELinux denied to a type.
fn denials(node: &Node, of: &str) -> Vec<String> {
    let log = node.run(["dmesg"]);
    let is_its = |line: &&str| line.contains("avc:  denied") && line.contains(&format!(":{of}:"));
    log.lines().filter(is_its).map(str::to_owned).collect()
}

/// A container of a type, or of that which the runtime chooses.
fn run_as(pods: &Pods<'_>, pod: &PodSpec, spec: &ContainerSpec, of: Option<&str>) -> Container {
    let container = pods.try_create_with(&pods.run_pod(pod), spec, |config| {
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        let of = of.map(str::to_owned);
        context.selinux_options = of.map(|r#type| SeLinuxOption { r#type, ..SeLinuxOption::default() });
    });
    let container = container.unwrap();
    pods.start(&container);
    container
}

const PLUGIN: &str = "/opt/nri/plugins/90-usernsd";
/// The policy module of this source.
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/selinux/usernsd.cil");

fn doctor(node: &Node) -> String {
    let checked = node.exec(["usernsd", "doctor", "-o", "short"]);
    String::from_utf8_lossy(&checked.stdout).into_owned()
}

#[test]
fn pods_need_our_policy_and_those_that_change_their_cgroup_a_type_or_a_boolean_that_allows_it() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    if !enforces() {
        return;
    }
    let pods = Pods::connect(&node);
    let _agent = Agent::joined(&node);

    // Debian's policy alone: no pod with a user namespace starts.
    let refused = pods.try_run_pod(&PodSpec::new("refused")).unwrap_err();
    assert!(refused.message().contains("fork/exec /proc/self/exe: permission denied"), "{refused}");
    let lines = denials(&node, "dockerd_t");
    assert!(lines.iter().any(|line| line.contains("{ ptrace }")), "{lines:#?}");
    node.run(["semodule", "--install", POLICY]);

    // container_t may not change a cgroup, whoever owns it.
    let systemd =
        |name: &str, index| PodSpec::new(name).numbered(index).annotated("usernsd.io/systemd", "true");
    let denied = run_as(&pods, &systemd("denied", 1), &ContainerSpec::systemd().tty(), None);
    assert_eq!(pods.exit_code(&denied), 255, "{}", denied.log());
    let (_, explained) = explain::document(&node, "denied");
    let messages = explained["messages"].as_array().unwrap();
    assert!(messages.iter().any(|message| message["id"] == "selinux-cgroup"), "{explained:#}");
    assert!(doctor(&node).contains("selinux_cgroup"), "{}", doctor(&node));

    // container_init_t may, and has what else systemd needs.
    let init = run_as(&pods, &systemd("init", 2), &ContainerSpec::systemd(), Some("container_init_t"));
    assert_systemd_runs(&pods, &init, BASE + 2 * 65_536);
    let label = pods.proc(&init, "attr/current");
    assert!(label.contains(":container_init_t:s0:c"), "{label}");

    // With the boolean container_t may change its cgroup, from one moment to the next.
    let writable = PodSpec::new("writable").numbered(3).annotated("usernsd.io/cgroup", "writable");
    let writable = run_as(&pods, &writable, &ContainerSpec::sleeping(), None);
    let mkdir = || pods.exec(&writable, &["mkdir", "/sys/fs/cgroup/inner"]).code;
    assert_eq!(mkdir(), 1);
    node.run(["setsebool", "container_manage_cgroup", "on"]);
    assert_eq!(mkdir(), 0);
    assert!(!doctor(&node).contains("selinux_cgroup"), "{}", doctor(&node));
}

/// The policy has no type for the directory from which the runtime launches plugins, so that it may not run them. The
/// module of this source has one.
#[test]
fn the_runtime_launches_the_plugin_if_its_directory_has_our_policys_type() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    if !enforces() {
        return;
    }
    let pods = Pods::connect(&node);
    let restart = || {
        node.restart_unit("containerd.service");
        pods.wait_until_it_answers();
    };
    node.run(["usernsd", "bootstrap"]);
    restart();
    let lines = denials(&node, "dockerd_t");
    let is_refused = |line: &&String| line.contains("{ execute }") && line.contains("90-usernsd");
    assert!(lines.iter().any(|line| is_refused(&line)), "{lines:#?}");
    assert!(doctor(&node).contains("plugin_running"), "{}", doctor(&node));

    // A directory that is made from now on has it, and so has what bootstrap writes there.
    node.run(["usernsd", "bootstrap", "--undo"]);
    node.run(["rm", "-rf", "/opt/nri"]);
    node.run(["semodule", "--install", POLICY]);
    let before = denials(&node, "dockerd_t").len();
    node.run(["usernsd", "bootstrap"]);
    restart();
    let pid = wait_for("the launched plugin", || node.processes(PLUGIN).first().copied());
    let label = node.run(["cat", &format!("/proc/{pid}/attr/current")]);
    assert!(label.contains(":dockerd_t:"), "{label}");
    assert!(!doctor(&node).contains("plugin_running"), "{}", doctor(&node));
    let pod = pods.run_pod(&PodSpec::new("writable").annotated("usernsd.io/cgroup", "writable"));
    let writable = pods.run(&pod, &ContainerSpec::sleeping());
    assert_eq!(writable.owner("").0, BASE);
    let privileged = pods.run_pod(&PodSpec::new("privileged").numbered(1).privileged());
    let privileged = pods.run(&privileged, &ContainerSpec::sleeping().privileged());
    assert_eq!(privileged.owner("").0, BASE + 65_536);
    let lines = denials(&node, "dockerd_t").split_off(before);
    let of_plugin: Vec<_> = lines.iter().filter(|line| line.contains("usernsd")).collect();
    assert!(of_plugin.is_empty(), "{of_plugin:#?}");

    // One that was there before gets it from restorecon.
    node.run(["chcon", "-R", "-t", "usr_t", "/opt/nri"]);
    node.run(["restorecon", "-R", "/opt/nri"]);
    let label = node.run(["stat", "-c", "%C", PLUGIN]);
    assert!(label.contains(":container_plugin_t:"), "{label}");
}

/// The agent with the type that the manifests give it. Not in their pod: podman would relabel the node's directories,
/// which a kubelet does not.
#[test]
fn the_agent_does_its_work_as_spc_t() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    if !enforces() {
        return;
    }
    // A runtime starts such processes, not systemd.
    let started_by_systemd = "(allow init_t spc_t (process (transition noatsecure siginh rlimitinh)))\n\
                              (allow spc_t bin_t (file (entrypoint)))\n";
    node.write("/run/of-a-test.cil", started_by_systemd);
    node.run(["semodule", "--install", POLICY, "--install", "/run/of-a-test.cil"]);
    let context = "--property=SELinuxContext=system_u:system_r:spc_t:s0";
    node.run(["systemd-run", "--unit=agent", context, "/usr/local/bin/usernsd", "agent"]);
    wait_for("the agent", || node.exec(["usernsd", "ps", "--ready"]).status.success().then_some(()));
    let pid = node.run(["systemctl", "show", "--property=MainPID", "--value", "agent"]);
    let label = node.run(["cat", &format!("/proc/{pid}/attr/current")]);
    assert!(label.contains(":spc_t:"), "{label}");

    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("writable").annotated("usernsd.io/cgroup", "writable"));
    let writable = pods.run(&pod, &ContainerSpec::sleeping());
    assert_eq!(writable.owner("").0, BASE);
    let privileged = pods.run_pod(&PodSpec::new("privileged").numbered(1).privileged());
    let privileged = pods.run(&privileged, &ContainerSpec::sleeping().privileged());
    wait_for("the owner", || (privileged.owner("").0 == BASE + 65_536).then_some(()));
    // systemd leaves units of other types out of its answers.
    let mut denied = denials(&node, "spc_t");
    denied.retain(|line| !(line.contains("{ status }") && line.contains("tclass=service")));
    assert!(denied.is_empty(), "{denied:#?}");
}
