//! `usernsd bootstrap` and what can be asked on a node: the runtime over CRI, and CRI-O's own
//! program.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's failure is a panic"
)]

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use support::cri_runtime::{FakeRuntime, Scenario};
use tempfile::TempDir;

const USERNSD: &str = env!("CARGO_BIN_EXE_usernsd");
const DROP_IN: &str = "etc/crio/crio.conf.d/99-usernsd.conf";

/// Not with `eprintln!`: the harness swallows that where a test passes, and a skip that nobody sees is
/// a lie.
fn is_root() -> bool {
    let is_root = nix::unistd::Uid::effective().is_root();
    if !is_root {
        let _ = writeln!(std::io::stderr(), "SKIPPED: files of a node are root's");
    }
    is_root
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A node of which `usernsd` sees the root as `/`: this machine's `/usr`, but for `/usr/local/bin`.
struct Node {
    dir: TempDir,
}

impl Node {
    fn new() -> Node {
        let node = Node { dir: tempfile::tempdir().unwrap() };
        for dir in ["etc", "usr", "run", "tmp", "dev", "proc", "programs"] {
            fs::create_dir_all(node.path(dir)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), node.path(link)).unwrap();
        }
        for (name, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
            ("etc/group", "root:x:0:\n"),
            ("dev/null", ""),
            ("usernsd", ""),
        ] {
            fs::write(node.path(name), text).unwrap();
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("programs").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `usernsd bootstrap` on this node, after `script`, in which `$R` is the root.
    fn run_after(&self, unshare: &[&str], script: &str, words: &[&str]) -> Output {
        let mounts = "mount --rbind /usr $R/usr; mount --bind $R/programs $R/usr/local/bin; \
                      mount --bind $B $R/usernsd; mount --bind /dev/null $R/dev/null";
        let script = format!("set -e; {mounts}; {script}\nexec chroot $R /usernsd bootstrap \"$@\"");
        Command::new("unshare")
            .args(["--mount"])
            .args(unshare)
            .args(["sh", "-c", &script, "sh"])
            .args(words)
            .env("R", self.dir.path())
            .env("B", USERNSD)
            .env_remove("USERNSD_CONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self, words: &[&str]) -> Output {
        self.run_after(&[], ":", words)
    }
}

fn bootstrap(root: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(USERNSD);
    command.arg("bootstrap").arg("--root").arg(root).args(words);
    command.env_remove("USERNSD_CONFIG").stdin(Stdio::null()).output().unwrap()
}

/// The runtime that answers below the root is the one that is prepared, whatever lies there.
#[tokio::test]
async fn who_answers_is_prepared() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    for dir in ["run/crio", "etc/containerd", "etc/crio"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    fs::write(root.path().join("etc/containerd/config.toml"), "").unwrap();
    let scenario = Scenario { version: ("cri-o".into(), "1.34.11".into()), ..Scenario::default() };
    let _fake = FakeRuntime::start(&root.path().join("run/crio/crio.sock"), scenario);
    let output = bootstrap(root.path(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    let text = fs::read_to_string(root.path().join(DROP_IN)).unwrap();
    assert!(
        text.contains("io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw") && !text.contains(".crio.io"),
        "{text}"
    );
    assert!(!said(&output).contains("ambiguous"), "{}", said(&output));
}

/// CRI-O's own program says its version, and must take the drop-in before anything is written.
#[test]
fn cri_os_own_word_counts() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let crio = |verdict: &str| {
        let version = "if test \"$1\" = --version; then echo crio version 1.36.3; exit; fi";
        // Its arguments are --config FILE --config-dir DIR config.
        let script = format!(
            "{version}\ntest \"$5\" = config && grep -q workloads.usernsd \"$4\"/99-usernsd.conf || exit 3\n{verdict}"
        );
        node.program("crio", &script);
    };
    for verdict in ["echo 'level=fatal msg=\"no, thanks\"' >&2; exit 1", "echo nonsense >&2; exit 1"] {
        crio(verdict);
        for words in [&[][..], &["--diff"]] {
            let output = node.run(words);
            assert_eq!(output.status.code(), Some(2), "{}", said(&output));
            assert!(
                said(&output).contains("\"crio config\" refuses the configuration as planned"),
                "{}",
                said(&output)
            );
            assert!(said(&output).contains("nothing was changed"), "{}", said(&output));
        }
    }
    let left = |dir: &str| fs::read_dir(node.path(dir)).unwrap().count();
    assert!(!node.path("etc/subuid").exists() && !node.path("etc/crio").exists(), "something was written");
    assert_eq!(left("run"), 0, "the copy is gone");

    crio("exit 0");
    let output = node.run(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(fs::read_to_string(node.path(DROP_IN)).unwrap().contains("cgroup2-mount-hierarchy-rw.crio.io"));
    assert_eq!(left("run"), 0, "the copy is gone");
    assert_eq!(left("etc/crio"), 1, "only crio.conf.d");
    assert_eq!(left("etc/crio/crio.conf.d"), 1, "only the drop-in");
}

/// A user namespace has settings of its own: the machine's are not touched.
#[test]
fn the_running_kernel_is_set_and_set_back() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let live = "/proc/sys/user/max_user_namespaces";
    let usernsd = "chroot $R /usernsd bootstrap";
    let script = format!(
        "mount --rbind /proc $R/proc; echo 0 >{live}; {usernsd} --check >$R/checked 2>&1 || true; \
         {usernsd} --diff --apply-sysctl >$R/patch 2>$R/said || true; cat {live} >$R/looked; \
         {usernsd} --apply-sysctl; cat {live} >$R/applied; cp -a $R/etc/sysctl.d $R/kept; \
         {usernsd} --apply-sysctl; {usernsd} --undo; cat {live} >$R/undone; \
         {usernsd} --apply-sysctl; echo 5000 >{live}; {usernsd} --undo; cat {live} >$R/tuned"
    );
    let output = node.run_after(&["--user", "--map-root-user"], &script, &["--diff"]);
    let text = |name: &str| fs::read_to_string(node.path(name)).unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(text("checked").contains("[max-user-namespaces]"), "{}", text("checked"));
    assert!(text("patch").contains("+user.max_user_namespaces = 11255\n"), "{}", text("patch"));
    assert!(!text("patch").contains("proc"), "{}", text("patch"));
    assert!(
        text("said").contains("/proc/sys/user/max_user_namespaces is not in the patch"),
        "{}",
        text("said")
    );
    assert!(text("kept/99-usernsd.conf").ends_with("user.max_user_namespaces = 11255\n"));
    let values = ["looked", "applied", "undone", "tuned"].map(text);
    // What someone has set since stays.
    assert_eq!(values, ["0\n", "11255\n", "0\n", "5000\n"], "{}", said(&output));
    assert!(!node.path("etc/sysctl.d").exists());
}
