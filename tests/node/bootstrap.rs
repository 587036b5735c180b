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

/// The kernel is asked, not its version: of a file system that can, and of one that cannot.
#[test]
fn mapped_mounts_are_tried() {
    let binds = vec![(env!("CARGO_BIN_EXE_usernsd").into(), USERNSD.to_owned())];
    let options = Options { runtime: Runtime::None, binds, ..Options::default() };
    let Some(node) = Node::boot_or_skip(&options) else { return };
    node.run([USERNSD, "bootstrap"]);
    let mounts = |node: &Node| node.run(["cat", "/proc/self/mountinfo"]).lines().count();
    let said = |node: &Node| {
        let output = node.exec([USERNSD, "bootstrap", "--check"]);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    node.run(["mkdir", "-p", "/var/lib/kubelet", "/var/lib/containerd"]);
    node.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib/kubelet"]);
    node.run(["mount", "-t", "proc", "proc", "/var/lib/containerd"]);
    let before = mounts(&node);
    let found = said(&node);
    let bad =
        "error: /var/lib/containerd lies on proc, which cannot be mounted with mapped IDs (mount_setattr: ";
    assert!(found.contains(bad) && !found.contains("/var/lib/kubelet"), "{found}");
    assert_eq!(mounts(&node), before, "nothing stays mounted");
    node.run(["umount", "/var/lib/containerd"]);
    node.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib/containerd"]);
    let found = said(&node);
    assert!(!found.contains("/var/lib/containerd"), "{found}");

    // Where user namespaces are switched off, it stays unknown, and why is said.
    node.run(["sysctl", "-qw", "user.max_user_namespaces=0"]);
    let found = said(&node);
    assert!(
        found.contains("no user namespace could be made") || found.contains("max-user-namespaces"),
        "{found}"
    );
    node.run(["sysctl", "-qw", "user.max_user_namespaces=60000"]);
}

/// What `usernsd machineconfig` prints for a pool is applied to a plain node, and CRI-O starts with it.
#[test]
fn crio_starts_with_a_machine_config() {
    let binds = vec![(env!("CARGO_BIN_EXE_usernsd").into(), USERNSD.to_owned())];
    let options = Options { runtime: Runtime::Crio, binds, ..Options::default() };
    let Some(node) = Node::boot_or_skip(&options) else { return };
    for flags in ["--crio-version=1.32.0", "--crio-version=1.36.3"] {
        let rendered = node.run([USERNSD, "machineconfig", flags]);
        node.write("/etc/mc.yaml", rendered + "\n");
        let apply = [USERNSD, "bootstrap", "--machineconfig", "/etc/mc.yaml"];
        let diff = node.exec(apply.into_iter().chain(["--diff"]));
        assert_eq!(diff.status.code(), Some(1), "{diff:?}");
        node.run(apply);
        assert_eq!(node.exec(apply.into_iter().chain(["--check"])).status.code(), Some(0));
        node.restart_unit("crio.service");
        let config = node.run(["crio", "--config", "/etc/crio/crio.conf", "config"]);
        assert!(config.contains("[crio.runtime.workloads.usernsd]"), "{config}");
        assert!(node.run([USERNSD, "bootstrap", "--undo"]).is_empty());
        assert!(!node.path("/etc/crio/crio.conf.d/99-usernsd.conf").exists());
    }
    // What this CRI-O would not start with is not written.
    let bad = "kind: MachineConfig\nspec: {config: {storage: {files: [{path: /etc/crio/crio.conf.d/50-x.conf, contents: {source: \
               'data:,%5Bcrio.runtime.workloads.x%5D%0Aactivation_annotation%3D%22a%22%0Aallowed_annotations%3D%5B%22no.such%22%5D%0A'}}]}}}\n";
    node.write("/etc/bad.yaml", bad);
    let refused = node.exec([USERNSD, "bootstrap", "--machineconfig", "/etc/bad.yaml"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("invalid allowed_annotation: no.such"), "{said}");
    node.restart_unit("crio.service");
}
