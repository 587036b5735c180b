//! A node with two container runtimes, CRI-O and containerd, and the NRI socket that both use by default.

use serde_json::Value;

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime};
use crate::pods::wait_for;

/// The outcome of the check `nri_joined`, and its problems.
fn joined(node: &Node) -> (String, String) {
    let ran = node.exec(["usernsd", "doctor", "-o", "json"]);
    let document: Value = serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&ran.stderr)));
    let checks = document["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["id"] == "nri_joined").unwrap();
    (check["outcome"].as_str().unwrap().to_owned(), check["problems"].to_string())
}

/// Starts containerd with this configuration of NRI.
fn start_containerd(node: &Node, nri: &str) {
    node.write(
        "/etc/containerd/config.toml",
        format!(
            "version = 3\n[plugins.\"io.containerd.nri.v1.nri\"]\n{nri}\n[plugins.\"io.containerd.cri.v1.runtime\"]\n\
             restrict_oom_score_adj = true\n"
        ),
    );
    node.run(["sh", "-euc", "systemctl unmask containerd 2>/dev/null; systemctl restart containerd"]);
    wait_for("containerd answers over CRI", || {
        node.path("/run/containerd/containerd.sock").exists().then_some(())
    });
}

#[test]
fn a_second_runtime_on_the_nri_socket_is_named_with_and_without_an_agent() {
    let options = Options { runtime: Runtime::Crio, ..Options::default() };
    let Some(node) = node_with_binary(options) else { return };
    assert_eq!(joined(&node).0, "skip", "one runtime alone");

    // containerd started last and has taken over the socket.
    start_containerd(&node, "disable = false");
    let (outcome, problems) =
        wait_for("doctor sees it", || Some(joined(&node)).filter(|(word, _)| word != "skip"));
    assert_eq!(outcome, "warn", "{problems}");
    for word in [
        "two container runtimes: cri-o ",
        "containerd ",
        "offers NRI at the same socket, /var/run/nri/nri.sock",
        "nri.socketPaths",
    ] {
        assert!(problems.contains(word), "{word}: {problems}");
    }

    // The agent joins one runtime and asks the other one over CRI.
    let agent = Agent::start(&node);
    let problems = wait_for("the agent names it", || {
        Some(joined(&node))
            .filter(|(word, output)| word == "warn" && output.contains("the agent joined containerd"))
    });
    assert!(problems.1.contains("two container runtimes: cri-o "), "{problems:?}");
    agent.terminate();

    // Each runtime has its own socket.
    start_containerd(&node, "disable = false\nsocket_path = \"/run/containerd/nri.sock\"");
    wait_for("doctor sees nothing", || (joined(&node).0 == "skip").then_some(()));
    // Only the other one offers NRI.
    start_containerd(&node, "disable = false");
    node.write("/etc/crio/crio.conf.d/20-nri.conf", "[crio.nri]\nenable_nri = false\n");
    let (outcome, problems) = joined(&node);
    assert!(outcome == "warn" && problems.contains("alone offers NRI"), "{problems}");
    node.run(["rm", "/etc/crio/crio.conf.d/20-nri.conf"]);

    // Follows the runbook.
    start_containerd(&node, "disable = true");
    node.run(["systemctl", "restart", "crio"]);
    wait_for("doctor sees nothing", || (joined(&node).0 == "skip").then_some(()));
    let _agent = Agent::start(&node);
    wait_for("the agent joins CRI-O", || (joined(&node).0 == "pass").then_some(()));
}
