//! systemd as the owner's hand: `mechanism: systemd-user`.

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime};
use crate::pods::{BASE, ContainerSpec, PodSpec, Pods, wait_for};

const CONFIGURATION: &str = "delegation:\n  mechanism: systemd-user\n";
const WORKS: &str = "systemd resolves user records";
const WORKS_NOT: &str = "systemd does not resolve user records";

/// An agent that has found out whether systemd does it.
fn agent<'a>(node: &'a Node, said: &str) -> Agent<'a> {
    let agent = Agent::with(node, CONFIGURATION);
    wait_for(said, || agent.log().contains(said).then_some(()));
    agent
}

fn systemd_gives_the_scope(options: Options) {
    let Some(node) = node_with_binary(options) else { return };
    let pods = Pods::connect(&node);
    let agent = agent(&node, WORKS);
    let pod = pods.run_pod(&PodSpec::new("privileged").privileged());
    let container = pods.create(&pod, &ContainerSpec::systemd().privileged());
    // Nobody is there when it starts: the agent is dead.
    agent.kill();
    pods.start(&container);
    assert_eq!(pods.systemd_state(&container), Ok("running".to_owned()), "{}", container.log());
    // systemd gives it to the user's group as well, which nothing else here does.
    assert_eq!(container.owner(""), (BASE, BASE));

    // On return, an agent finds it right, and bounds it.
    let agent = self::agent(&node, WORKS);
    agent.wait_for_outcome(&container, "already_right");
    assert_eq!(agent.changes("chown_cgroup"), [] as [serde_json::Value; 0]);

    // The records go with their pods.
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
fn systemd_gives_the_scope_on_containerd() {
    systemd_gives_the_scope(Options::default());
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn systemd_gives_the_scope_on_crio() {
    systemd_gives_the_scope(Options { runtime: Runtime::Crio, ..Options::default() });
}

#[test]
fn the_agent_does_it_where_systemd_cannot() {
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
