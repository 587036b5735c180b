//! `usernsd bootstrap` on a real node: what it plans is what the node's own tools find.

#[path = "mod.rs"]
mod node;

use node::{Node, Options, Runtime, Suite};

const USERNSD: &str = "/usr/local/bin/usernsd";

#[test]
fn the_nodes_own_tools_agree() {
    for suite in [Suite::Forky, Suite::Bookworm] {
        let binds = vec![(env!("CARGO_BIN_EXE_usernsd").into(), USERNSD.to_owned())];
        let options = Options { runtime: Runtime::None, suite, binds, ..Options::default() };
        let Some(node) = Node::boot_or_skip(&options) else { return };
        node.write("/etc/usernsd.yaml", "bootstrap: {kubelet: {user: create, maxPods: 250}}\n");
        node.run(["mkdir", "-p", "/var/lib/kubelet"]);
        let before = node.run(["cat", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"]);
        let bootstrap = [USERNSD, "bootstrap", "--config", "/etc/usernsd.yaml"];
        // This machine's C library may be newer than the node's.
        if !node.exec([USERNSD, "--version"]).status.success() {
            node::say_skipped("the binary does not run on bookworm");
            continue;
        }
        node.run(bootstrap);

        // As the kubelet asks.
        node.run(["getent", "passwd", "kubelet"]);
        let range = node.run(["getsubids", "kubelet"]);
        assert!(range.starts_with("0: kubelet ") && range.ends_with(" 16384000"), "{range}");
        assert_eq!(node.run(["getsubids", "-g", "kubelet"]), range);
        assert!(node.run(["grep", "containers", "/etc/subuid"]).ends_with(":268435456"));
        // The account files are whole.
        assert_eq!(node.run(["pwck", "-r", "-q"]), "");
        node.run(["grpck", "-r"]);

        // shadow's own tools go on working, and do not meet what is there.
        node.run(["useradd", "--no-create-home", "alice"]);
        node.run(["usermod", "--add-subuids", "900000000-900065535", "alice"]);
        assert!(node.run(["getsubids", "alice"]).contains("900000000 65536"));
        node.run([USERNSD, "bootstrap", "--check", "--config", "/etc/usernsd.yaml"]);

        node.run(["userdel", "alice"]);
        node.run([USERNSD, "bootstrap", "--undo", "--config", "/etc/usernsd.yaml"]);
        assert!(!node.exec(["getent", "passwd", "kubelet"]).status.success());
        assert_eq!(node.run(["cat", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"]), before);
    }
}
