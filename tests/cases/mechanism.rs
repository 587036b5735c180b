//! `mechanism: systemd-user`: systemd changes the owner of the cgroup.

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime};
use crate::pods::{BASE, ContainerSpec, PodSpec, Pods, wait_for};

const CONFIGURATION: &str = "delegation:\n  mechanism: systemd-user\n";
const WORKS: &str = "systemd resolves user records";
const WORKS_NOT: &str = "systemd does not resolve user records";

/// An agent that has found out whether systemd changes the owner.
fn agent<'a>(node: &'a Node, output: &str) -> Agent<'a> {
    let agent = Agent::with(node, CONFIGURATION);
    wait_for(output, || agent.log().contains(output).then_some(()));
    agent
}

fn systemd_gives_the_scope(options: Options) {
    let Some(node) = node_with_binary(options) else { return };
    let pods = Pods::connect(&node);
    let agent = agent(&node, WORKS);
    let pod = pods.run_pod(&PodSpec::new("privileged").privileged());
    let container = pods.create(&pod, &ContainerSpec::systemd().privileged());
    // The container starts while there is no agent.
    agent.kill();
    pods.start(&container);
    assert_eq!(pods.systemd_state(&container), Ok("running".to_owned()), "{}", container.log());
    // systemd also changes the group to the user's, which nothing else here does.
    assert_eq!(container.owner(""), (BASE, BASE));

    // An agent that starts again finds the owner right and sets limits.
    let agent = self::agent(&node, WORKS);
    agent.wait_for_outcome(&container, "already_right");
    assert_eq!(agent.changes("chown_cgroup"), [] as [serde_json::Value; 0]);

    // The user records are removed with their pods.
    let record = node.path("/run/userdb/usernsd-200000.user");
    assert!(record.exists());
    let pod = pods.run_pod(&PodSpec::new("another").privileged().mapped(&[(0, 300_000, 65_536)]));
    let _container = pods.run(&pod, &ContainerSpec::systemd().privileged());
    let record = node.path("/run/userdb/usernsd-300000.user");
    assert!(record.exists());
    pods.remove_pod(&pod);
    wait_for("the record to go", || (!record.exists()).then_some(()));
}

#[test]
fn systemd_changes_the_owner_of_the_scope_on_containerd() {
    systemd_gives_the_scope(Options::default());
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn systemd_changes_the_owner_of_the_scope_on_crio() {
    systemd_gives_the_scope(Options { runtime: Runtime::Crio, ..Options::default() });
}

#[test]
fn the_agent_changes_the_owner_if_systemd_cannot() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    // As on a node without libnss-systemd.
    node.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\n");
    node.run(["systemctl", "daemon-reexec"]);
    let pods = Pods::connect(&node);
    let agent = agent(&node, WORKS_NOT);
    let pod = pods.run_pod(&PodSpec::new("privileged").privileged());
    let container = pods.run(&pod, &ContainerSpec::systemd().privileged());
    assert_eq!(pods.systemd_state(&container), Ok("running".to_owned()), "{}", container.log());
    assert_eq!(container.owner(""), (BASE, 0));
    assert_eq!(agent.outcome(&container), "delegated");
}
