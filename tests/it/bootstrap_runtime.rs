//! `usernsd bootstrap` and the sources that it asks on a node: the runtime over CRI, CRI-O's own program, the
//! directory service, systemd.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::fakes::cri_runtime::{FakeRuntime, Scenario};
use crate::fakes::systemd::{self, FakeScope, FakeSystemd};
use tempfile::TempDir;
use usernsd_peers::cri::v1;

const USERNSD: &str = env!("CARGO_BIN_EXE_usernsd");
const DROP_IN: &str = "etc/crio/crio.conf.d/99-usernsd.conf";

/// Whether the test runs as root; otherwise prints that it is skipped. Does not use `eprintln!`, which the
/// test harness captures in passing tests: a skip must be visible.
fn is_root() -> bool {
    let is_root = nix::unistd::Uid::effective().is_root();
    if !is_root {
        let _ = writeln!(std::io::stderr(), "SKIPPED: files of a node are root's");
    }
    is_root
}

fn output_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A node whose root `usernsd` sees as `/`: it has this machine's `/usr`, except for `/usr/local/bin`.
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

    /// Runs `usernsd bootstrap` on this node after `script`, in which `$R` is the root.
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

/// The runtime that answers below the root is prepared, whatever files exist there.
#[tokio::test]
async fn the_runtime_that_answers_is_prepared() {
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
    assert!(output.status.success(), "{}", output_of(&output));
    let text = fs::read_to_string(root.path().join(DROP_IN)).unwrap();
    assert!(
        text.contains("io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw") && !text.contains(".crio.io"),
        "{text}"
    );
    assert!(!output_of(&output).contains("ambiguous"), "{}", output_of(&output));
}

/// CRI-O's own program reports its version, and must accept the drop-in before anything is written.
#[test]
fn nothing_is_written_that_crios_own_program_refuses() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let crio = |verdict: &str| {
        let version = "if test \"$1\" = --version; then echo crio version 1.36.3; exit; fi";
        // The arguments are --config FILE --config-dir DIR config.
        let script = format!(
            "{version}\ntest \"$5\" = config && grep -q workloads.usernsd \"$4\"/99-usernsd.conf || exit 3\n{verdict}"
        );
        node.program("crio", &script);
    };
    for verdict in ["echo 'level=fatal msg=\"no, thanks\"' >&2; exit 1", "echo nonsense >&2; exit 1"] {
        crio(verdict);
        for words in [&[][..], &["--diff"]] {
            let output = node.run(words);
            assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
            assert!(
                output_of(&output).contains("\"crio config\" refuses the configuration"),
                "{}",
                output_of(&output)
            );
            assert!(output_of(&output).contains("nothing was changed"), "{}", output_of(&output));
        }
    }
    let left = |dir: &str| fs::read_dir(node.path(dir)).unwrap().count();
    assert!(!node.path("etc/subuid").exists() && !node.path("etc/crio").exists(), "something was written");
    assert_eq!(left("run"), 0, "the copy is gone");

    crio("exit 0");
    let output = node.run(&[]);
    assert!(output.status.success(), "{}", output_of(&output));
    assert!(fs::read_to_string(node.path(DROP_IN)).unwrap().contains("cgroup2-mount-hierarchy-rw.crio.io"));
    assert_eq!(left("run"), 0, "the copy is gone");
    assert_eq!(left("etc/crio"), 1, "only crio.conf.d");
    assert_eq!(left("etc/crio/crio.conf.d"), 1, "only the drop-in");
}

/// A user that exists only in a directory service is found as the kubelet finds it, with its range.
#[test]
fn the_directory_service_is_asked_as_by_the_kubelet() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    fs::create_dir_all(node.path("var/lib/kubelet")).unwrap();
    fs::write(node.path("var/lib/kubelet/config.yaml"), "kind: KubeletConfiguration\nmaxPods: 110\n")
        .unwrap();
    fs::write(node.path("etc/nsswitch.conf"), "passwd: files sss [NOTFOUND=return] systemd\n").unwrap();
    let user = "test \"$*\" = 'passwd kubelet' && echo kubelet:x:991:991::/:/sbin/nologin";
    node.program("getsubids", "exit 1");
    let look = |words: &[&str]| {
        let output = node.run(words);
        (String::from_utf8(output.stdout.clone()).unwrap(), output_of(&output))
    };

    node.program("getent", user);
    let (patch, words) = look(&["--diff"]);
    assert!(patch.contains("\n+kubelet:"), "{patch}{words}");
    assert!(words.contains("\"passwd: files sss") && words.contains("[kubelet-user-elsewhere]"), "{words}");
    // The directory service reports that the user has no range.
    node.program("getent", "exit 2");
    let (patch, words) = look(&["--diff"]);
    assert!(!patch.contains("kubelet"), "{patch}");
    assert!(words.contains("[kubelet-default-pool]") && !words.contains("kubelet-user"), "{words}");
    // With another root, the directory service cannot be asked.
    let output = bootstrap(node.dir.path(), &["--diff"]);
    let words = output_of(&output);
    assert!(words.contains("[kubelet-user-unknown]") && !words.contains("default-pool"), "{words}");

    node.program("getent", user);
    fs::write(node.path("etc/nsswitch.conf"), "passwd: files sss\nsubid: sss\n").unwrap();
    for (script, want) in [
        ("echo 0: kubelet 327680 7208960", "there kubelet has 327680:7208960"),
        ("echo 0: kubelet 327680 65536", "[kubelet-count-few]"),
        (
            "echo 0: kubelet 327680 $#",
            "it prints other ranges for groups than for users: the kubelet does not start",
        ),
        ("echo 0: kubelet 1 2; echo 1: kubelet 3 4", "it has 2 ranges for kubelet, not one"),
        ("echo nonsense", "which the kubelet cannot parse"),
        ("exit 1", "it has no range for kubelet: the kubelet does not start"),
    ] {
        node.program("getsubids", script);
        let (_, words) = look(&["--check"]);
        assert!(words.contains(want), "{script}: {words}");
        assert_eq!(words.contains("error: "), !want.starts_with("there"), "{script}: {words}");
    }
}

/// containerd's own program must accept the drop-in and report the desired configuration.
#[test]
fn nothing_is_written_that_containerds_own_program_refuses() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    fs::create_dir_all(node.path("etc/containerd")).unwrap();
    fs::write(
        node.path("etc/containerd/config.toml"),
        "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n",
    )
    .unwrap();
    let containerd = |verdict: &str| {
        let version = "if test \"$1\" = --version; then echo containerd x v1.7.24 y; exit; fi";
        // The arguments are --config FILE config dump.
        let planned = "test \"$4\" = dump && grep -q 'version = 2' \"$2\" && grep -q /etc/containerd/config.toml \"$2\" || exit 3";
        node.program("containerd", &format!("{version}\n{planned}\n{verdict}"));
    };
    let planned = "cat ${2%/*}/planned.toml";
    for (verdict, want) in [
        (
            "echo 'containerd: no, thanks' >&2; exit 1",
            "\"containerd config dump\" refuses the configuration: containerd: no",
        ),
        ("echo '[x'", "refuses the configuration: line 1"),
        ("echo 'version = 2'", "NRI would still be off"),
    ] {
        containerd(verdict);
        let output = node.run(&[]);
        assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
        assert!(
            output_of(&output).contains(want) && output_of(&output).contains("nothing was changed"),
            "{}",
            output_of(&output)
        );
    }
    assert!(!node.path("etc/subuid").exists() && !node.path("etc/containerd/conf.d").exists());
    containerd(planned);
    let output = node.run(&[]);
    assert!(output.status.success(), "{}", output_of(&output));
    assert!(node.path("etc/containerd/conf.d/99-usernsd.toml").exists());
    assert_eq!(fs::read_dir(node.path("run")).unwrap().count(), 0, "the copy is gone");
}

/// A user namespace has its own sysctls, so that the machine's are not changed.
#[test]
fn a_sysctl_of_the_running_kernel_is_set_and_restored() {
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
    assert_eq!(output.status.code(), Some(0), "{}", output_of(&output));
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
    // A value that was changed since then stays.
    assert_eq!(values, ["0\n", "11255\n", "0\n", "5000\n"], "{}", output_of(&output));
    assert!(!node.path("etc/sysctl.d").exists());
}

/// A CRI-O of that version with one pod, whose host IDs start at 200000.
fn crio_with_a_pod(version: &str, host_id: u32) -> Scenario {
    let ids = vec![v1::IdMapping { host_id, container_id: 0, length: 65_536 }];
    let mode = v1::NamespaceMode::Pod as i32;
    let options = v1::NamespaceOption {
        userns_options: Some(v1::UserNamespace { mode, uids: ids.clone(), gids: ids }),
        ..Default::default()
    };
    let metadata =
        v1::PodSandboxMetadata { name: "pod".into(), namespace: "default".into(), ..Default::default() };
    let mut scenario = Scenario { version: ("cri-o".into(), version.into()), ..Scenario::default() };
    let status = v1::PodSandboxStatus {
        id: "a".repeat(64),
        metadata: Some(metadata),
        state: v1::PodSandboxState::SandboxReady as i32,
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options: Some(options) }) }),
        ..Default::default()
    };
    scenario.add_sandbox(status, Some("{}".into()));
    scenario
}

/// Makes what bootstrap needs of a node with CRI-O, except its socket.
fn prepare_root(root: &Path) {
    for dir in ["run/crio", "etc", "usr/bin"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
    fs::write(root.join("usr/bin/getsubids"), "").unwrap();
}

/// The kubelet's files are in a place that is not searched.
#[tokio::test]
async fn a_node_whose_runtime_answers_has_a_kubelet() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    prepare_root(root.path());
    let _runtime = FakeRuntime::start(&path("run/crio/crio.sock"), crio_with_a_pod("1.36.3", 626_982_912));
    for (kubelet, want) in [
        ("user: create", "the number of pods that the kubelet may run is unknown"),
        ("user: create, maxPods: 110", "default/pod: the runtime runs it with the IDs 626982912:65536"),
    ] {
        fs::write(path("usernsd.yaml"), format!("bootstrap: {{kubelet: {{{kubelet}}}}}\n")).unwrap();
        let (root, config) = (root.path().to_owned(), path("usernsd.yaml").display().to_string());
        let output =
            tokio::task::spawn_blocking(move || bootstrap(&root, &["--config", &config])).await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
        assert!(output_of(&output).contains(want), "{}", output_of(&output));
        assert!(!path("etc/subuid").exists());
    }
}

/// The runtime answers, but not with the IDs of its pods: neither default nor configured ranges are assigned.
#[tokio::test]
async fn no_range_is_assigned_if_the_pods_are_not_listed() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    prepare_root(root.path());
    fs::write(path("usernsd.yaml"), "bootstrap: {kubelet: {user: create, maxPods: 110}}\n").unwrap();
    let scenario = Scenario { list_pods_fails: true, ..crio_with_a_pod("1.36.3", 626_982_912) };
    let runtime = FakeRuntime::start(&path("run/crio/crio.sock"), scenario);
    let run = async || {
        let (root, config) = (root.path().to_owned(), path("usernsd.yaml").display().to_string());
        tokio::task::spawn_blocking(move || bootstrap(&root, &["--config", &config])).await.unwrap()
    };
    let output = run().await;
    assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
    let want = "the runtime answers and does not list its pods (";
    assert!(
        output_of(&output).contains(want) && output_of(&output).contains("no range was changed"),
        "{}",
        output_of(&output)
    );
    assert!(
        !path("etc/subuid").exists() && !fs::read_to_string(path("etc/passwd")).unwrap().contains("kubelet")
    );
    // Everything that does not depend on the pods is done.
    assert!(path(DROP_IN).exists(), "{}", output_of(&output));
    {
        let mut scenario = runtime.scenario.lock().unwrap();
        scenario.list_pods_fails = false;
        scenario.sandboxes.clear();
    }
    let output = run().await;
    assert!(output.status.success() && path("etc/subuid").exists(), "{}", output_of(&output));
}

/// A node that gets CRI-O's drop-in, for a given version of CRI-O.
struct Said {
    dir: TempDir,
}

impl Said {
    fn new() -> Said {
        let node = Said { dir: tempfile::tempdir().unwrap() };
        for (name, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
            ("etc/group", "root:x:0:\n"),
            ("etc/subuid", "containers:200000:268435456\n"),
            ("etc/subgid", "containers:200000:268435456\n"),
            ("usr/bin/getsubids", ""),
            ("usr/bin/crun", ""),
            ("usr/bin/conmon", ""),
        ] {
            fs::create_dir_all(node.path(name).parent().unwrap()).unwrap();
            fs::write(node.path(name), text).unwrap();
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn prepared(&self, version: &str) {
        let output = bootstrap(self.dir.path(), &["--crio-version", version]);
        assert!(output.status.success(), "{}", output_of(&output));
    }

    fn drop_in(&self) -> Option<String> {
        fs::read_to_string(self.path(DROP_IN)).ok()
    }
}

/// A file that two runs wrote, with something else happening between them or afterwards.
#[test]
fn changes_of_several_runs_are_undone_whatever_happened_in_between() {
    if !is_root() {
        return;
    }
    let edited = "# Mine\n";
    for (what, want) in [
        ("update", None),
        ("update, remove", None),
        ("update, remove, again", None),
        ("remove, update", None),
        ("edit, again", Some(edited)),
        ("edit, update", Some(edited)),
    ] {
        let node = Said::new();
        node.prepared("1.34.11");
        let mut version = "1.34.11";
        for step in what.split(", ") {
            match step {
                "update" => version = "1.36.3",
                "again" => {}
                "remove" => fs::remove_file(node.path(DROP_IN)).unwrap(),
                "edit" => fs::write(node.path(DROP_IN), edited).unwrap(),
                step => panic!("{step}"),
            }
            if matches!(step, "update" | "again") {
                node.prepared(version);
            }
        }
        let undone = bootstrap(node.dir.path(), &["--undo"]);
        assert!(undone.status.success(), "{what}: {}", output_of(&undone));
        assert_eq!(node.drop_in().as_deref(), want, "{what}");
        assert!(!node.path("var/lib/usernsd/bootstrap.json").exists(), "{what}");
    }
}

/// No file can be renamed into a bind mount, not even from the same file system.
#[test]
fn a_drop_in_directory_that_is_a_mount_does_not_stop_the_rest() {
    if !is_root() {
        return;
    }
    let node = Said::new();
    fs::write(node.path("etc/subuid"), "").unwrap();
    fs::create_dir_all(node.path("etc/crio/crio.conf.d")).unwrap();
    let script = "set -e; cd $R/etc/crio; mount --bind crio.conf.d crio.conf.d; exec \"$@\"";
    for more in [&["--check"][..], &[]] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", USERNSD, "bootstrap", "--crio-version", "1.32.0"]);
        command.arg("--root").arg(node.dir.path()).args(more).env("R", node.dir.path());
        let output = command.env_remove("USERNSD_CONFIG").output().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(!more.is_empty())), "{}", output_of(&output));
        assert!(output_of(&output).contains("[mount-apart]"), "{}", output_of(&output));
    }
    assert_eq!(fs::read_to_string(node.path("etc/subuid")).unwrap(), "containers:200000:268435456\n");
    assert_eq!(node.drop_in(), None);
}

/// The programs that read these directories often do not run as root.
#[test]
fn directories_are_readable_by_everyone_whatever_the_umask_is() {
    if !is_root() {
        return;
    }
    let node = Said::new();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh", USERNSD, "bootstrap", "--crio-version", "1.34.11"]);
    let output = command.arg("--root").arg(node.dir.path()).env_remove("USERNSD_CONFIG").output().unwrap();
    assert!(output.status.success(), "{}", output_of(&output));
    for name in ["etc/crio", "etc/crio/crio.conf.d", "var/lib/usernsd"] {
        assert_eq!(fs::metadata(node.path(name)).unwrap().permissions().mode() & 0o777, 0o755, "{name}");
    }
}

/// With selinux=0 the labels are still on the disk, and setting one requires CAP_SYS_ADMIN.
#[test]
fn a_label_that_may_not_be_set_does_not_stop_a_run() {
    if !is_root() {
        return;
    }
    if Command::new("strace").arg("-V").output().is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: strace is not installed");
        return;
    }
    let node = Said::new();
    fs::write(node.path("etc/subuid"), "").unwrap();
    let label = b"system_u:object_r:etc_t:s0\0";
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(node.path("etc/subuid"), "security.selinux", label, flags).is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: this file system takes no label");
        return;
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "inject=fsetxattr:error=EPERM", USERNSD, "bootstrap"]);
    command.args(["--crio-version", "1.32.0"]);
    let output = command.arg("--root").arg(node.dir.path()).env_remove("USERNSD_CONFIG").output().unwrap();
    assert!(output.status.success(), "{}", output_of(&output));
    assert_eq!(fs::read_to_string(node.path("etc/subuid")).unwrap(), "containers:200000:268435456\n");
    let has_selinux = fs::read_to_string("/proc/filesystems").unwrap().contains("selinuxfs");
    assert_eq!(output_of(&output).contains("[selinux-label]"), has_selinux, "{}", output_of(&output));
}

/// A node must not be left without an agent, whatever goes wrong.
#[test]
fn with_exit_zero_a_run_with_errors_exits_with_zero() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for (name, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
        ("etc/group", "root:x:0:\n"),
        ("bad.yaml", "bootstrap: {no: such}\n"),
        ("bad.mc", "kind: ["),
    ] {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), text).unwrap();
    }
    let shown = |name: &str| path(name).display().to_string();
    let run = |root: &str, args: &[&str]| {
        let mut command = Command::new(USERNSD);
        command.args(["bootstrap", "--exit-zero", "--root", root]).args(args).env_remove("USERNSD_CONFIG");
        command.stdin(Stdio::null()).output().unwrap()
    };
    let is_zero = |output: &Output, want: &str| {
        assert_eq!(output.status.code(), Some(0), "{want}: {}", output_of(output));
        assert!(
            output_of(output).contains("[bootstrap-failed]") && output_of(output).contains(want),
            "{}",
            output_of(output)
        );
    };
    // With a configuration that is not valid, the agent does not start either.
    for (output, want) in [
        (run(&shown("."), &["--config", &shown("bad.yaml")]), "bad.yaml"),
        (run(&shown("."), &["--config", &shown("none.yaml")]), "none.yaml"),
        (run(&shown("none"), &[]), "none"),
    ] {
        is_zero(&output, want);
        assert!(
            output_of(&output).contains("the agent does not start with it either"),
            "{}",
            output_of(&output)
        );
        assert!(!output_of(&output).contains("the agent starts without it"), "{}", output_of(&output));
    }
    is_zero(&run(&shown("."), &["--machineconfig", &shown("bad.mc")]), "bad.mc");
    is_zero(&run(&shown("."), &["--machineconfig", &shown("none.mc")]), "none.mc");
    // Everything is done, and the leftovers of the last run cannot be removed.
    fs::remove_file(path("var/lib/usernsd/bootstrap-failure.json")).unwrap();
    fs::create_dir_all(path("var/lib/usernsd/bootstrap-failure.json")).unwrap();
    let output = run(&shown("."), &[]);
    is_zero(&output, "bootstrap-failure.json");
    assert!(output_of(&output).contains("[bootstrap-unrecorded]"), "{}", output_of(&output));
}

/// Sockets behind a link that leads out of the root belong to this system.
#[tokio::test]
async fn a_socket_behind_a_link_out_of_the_root_is_not_asked() {
    if !is_root() {
        return;
    }
    let (here, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(here.path().join("crio")).unwrap();
    fs::create_dir_all(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").unwrap();
    fs::write(root.path().join("etc/group"), "root:x:0:\n").unwrap();
    std::os::unix::fs::symlink(here.path(), root.path().join("run")).unwrap();
    let scenario = crio_with_a_pod("1.36.3", 626_982_912);
    let runtime = FakeRuntime::start(&here.path().join("crio/crio.sock"), scenario);
    let at = root.path().to_owned();
    let output = tokio::task::spawn_blocking(move || bootstrap(&at, &["--check"])).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", output_of(&output));
    assert_eq!(runtime.calls("ListPodSandbox"), 0, "{}", output_of(&output));
}

/// Services that have been running since 1970.
fn services() -> systemd::Scenario {
    let unit = |name: &str| {
        let label = format!("{name}_2eservice");
        (label, (format!("{name}.service"), FakeScope::default()))
    };
    systemd::Scenario {
        version: "252".into(),
        units: [unit("crio"), unit("kubelet")].into(),
        active_state: "active".into(),
        started: 1_500_000,
        ..systemd::Scenario::default()
    }
}

#[tokio::test]
async fn services_with_unread_changes_are_restarted_if_that_is_safe() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for dir in ["run/crio", "run/dbus", "etc", "usr/bin", "var/lib/kubelet/pods"] {
        fs::create_dir_all(path(dir)).unwrap();
    }
    for (name, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
        ("etc/group", "root:x:0:\n"),
        ("usr/bin/getsubids", ""),
        ("usr/bin/crun", ""),
        ("usr/bin/conmon", ""),
        (
            "usernsd.yaml",
            "bootstrap: {ranges: [{owner: containers}], kubelet: {user: create, maxPods: 110}}\n",
        ),
    ] {
        fs::write(path(name), text).unwrap();
    }
    let socket = path("run/crio/crio.sock");
    let runtime = FakeRuntime::start(&socket, crio_with_a_pod("1.36.3", 200_000));
    let systemd = FakeSystemd::start(&path("run/dbus/system_bus_socket"), services());
    let directory = root.path().to_owned();
    let run = async |words: &'static [&str]| {
        let (root, config) = (directory.clone(), directory.join("usernsd.yaml").display().to_string());
        let words: Vec<String> =
            words.iter().map(|word| (*word).to_owned()).chain(["--config".into(), config]).collect();
        let run = move || bootstrap(&root, &words.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let restarts = || -> Vec<String> {
        systemd.calls().into_iter().filter(|call| call.starts_with("RestartUnit")).collect()
    };

    // CRI-O 1.36.3 would forget the pod's mappings.
    let output = run(&["--restart"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
    let words = "CRI-O 1.36.3 forgets the ID mappings of the 1 running pods with a user namespace";
    assert!(
        output_of(&output).contains(words) && output_of(&output).contains("drain the node first"),
        "{}",
        output_of(&output)
    );
    assert!(!path("etc/subuid").exists() && !path("etc/crio").exists(), "something was written");

    // Without a restart everything is written, and the pending restart is reported.
    let output = run(&[]).await;
    assert!(output.status.success(), "{}", output_of(&output));
    for words in [
        "warning: crio.service was started before /etc/crio/crio.conf.d/99-usernsd.conf changed",
        "error: kubelet.service was started before its range of IDs changed (/etc/passwd, /etc/subgid, /etc/subuid)",
    ] {
        assert!(output_of(&output).contains(words), "{words}\n{}", output_of(&output));
    }
    // The pod's range does not become a default, although none of its processes can be seen.
    assert!(output_of(&output).contains("because its usual range overlaps with"), "{}", output_of(&output));
    assert!(!fs::read_to_string(path("etc/subuid")).unwrap().contains("containers:200000:"));
    assert_eq!(restarts(), Vec::<String>::new());

    // A CRI-O that keeps the mappings is restarted, then the kubelet.
    runtime.scenario.lock().unwrap().version.1 = "1.37.0".into();
    let output = run(&["--restart"]).await;
    assert!(output.status.success(), "{}", output_of(&output));
    assert_eq!(restarts(), ["RestartUnit(crio.service)", "RestartUnit(kubelet.service)"]);
    assert!(
        output_of(&output).contains("crio.service: restarted\nkubelet.service: restarted\n"),
        "{}",
        output_of(&output)
    );

    // Changes that useradd makes afterwards require no restart of either.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    systemd.scenario.lock().unwrap().started = now.as_micros().try_into().unwrap();
    let mut subuid = fs::OpenOptions::new().append(true).open(path("etc/subuid")).unwrap();
    subuid.write_all(b"alice:3000000000:65536\n").unwrap();
    let output = run(&["--restart"]).await;
    assert!(output_of(&output).contains("nothing to do\nnothing to restart\n"), "{}", output_of(&output));
    assert_eq!(restarts().len(), 2);

    // An undone file was read before, too.
    let output = run(&["--undo"]).await;
    assert!(output.status.success(), "{}", output_of(&output));
    assert!(
        output_of(&output).contains("warning: crio.service was started before"),
        "{}",
        output_of(&output)
    );

    // There is no systemd to ask.
    drop(systemd);
    fs::remove_file(path("run/dbus/system_bus_socket")).unwrap();
    let output = run(&["--restart"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(output_of(&output).contains("systemd cannot be asked"), "{}", output_of(&output));
}

/// A running service that would not start again, according to the same run, is not restarted.
#[tokio::test]
async fn a_service_that_would_not_start_again_is_not_restarted() {
    const OUTSIDE: &str = r#"{"uidMappings":[{"hostId":65536,"containerId":0,"length":65536}],"gidMappings":[{"hostId":65536,"containerId":0,"length":65536}]}"#;
    if !is_root() {
        return;
    }
    for (config, broken, content, want) in [
        (
            "kubelet: {maxPods: 110}",
            "var/lib/kubelet/pods/x/userns",
            OUTSIDE,
            "kubelet.service would not start",
        ),
        ("runtime: none", "etc/crio/crio.conf.d/00-x", "[x", "crio.service would not start again: /etc/crio"),
        (
            "runtime: none",
            "usr/share/containers/oci/hooks.d/a.json",
            "{",
            "crio.service would not start again: /usr/share",
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for (name, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nkubelet:x:900:900::/:/sbin/nologin\n"),
            ("etc/group", "root:x:0:\nkubelet:x:900:\n"),
            ("etc/subuid", "kubelet:1048576:67108864\n"),
            ("etc/subgid", "kubelet:1048576:67108864\n"),
            ("usr/bin/getsubids", ""),
            ("usr/bin/crun", ""),
            ("usr/bin/conmon", ""),
            ("var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\n"),
            ("etc/crio/crio.conf", ""),
            (broken, content),
        ] {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
        }
        fs::write(path("usernsd.yaml"), format!("bootstrap: {{{config}}}\n")).unwrap();
        for dir in ["run/crio", "run/dbus"] {
            fs::create_dir_all(path(dir)).unwrap();
        }
        let _runtime = FakeRuntime::start(&path("run/crio/crio.sock"), crio_with_a_pod("1.37.0", 1_048_576));
        let systemd = FakeSystemd::start(&path("run/dbus/system_bus_socket"), services());
        let (directory, config) = (root.path().to_owned(), path("usernsd.yaml").display().to_string());
        let run = move || bootstrap(&directory, &["--restart", "--config", &config]);
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{broken}: {}", output_of(&output));
        assert!(output_of(&output).contains(want), "{broken}: {}", output_of(&output));
        assert!(
            output_of(&output).contains("nothing was changed, and nothing restarted"),
            "{}",
            output_of(&output)
        );
        assert!(!systemd.calls().iter().any(|call| call.starts_with("RestartUnit")), "{broken}");
        assert!(!path(DROP_IN).exists(), "{broken}");
    }
}

/// The installed program is this one, recognised by its digest, and not someone else's.
#[test]
fn the_hooks_program_is_installed_updated_and_removed() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for name in [
        "usr/bin/crio",
        "lib64/ld-linux-x86-64.so.2",
        "lib/ld-linux-aarch64.so.1",
        "usernsd.yaml",
        "etc/passwd",
    ] {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), "").unwrap();
    }
    let config = path("usernsd.yaml");
    let set = |hook: &str| {
        fs::write(&config, format!("bootstrap: {{crio: {{version: 1.24.6}}, hook: {{{hook}}}}}\n")).unwrap()
    };
    let run = |program: &Path, words: &[&str]| {
        let mut command = Command::new(program);
        command.arg("bootstrap").arg("--root").arg(root.path()).arg("--config").arg(&config).args(words);
        command.env_remove("USERNSD_CONFIG").stdin(Stdio::null()).output().unwrap()
    };
    let (own, installed) = (Path::new(USERNSD), path("opt/usernsd/usernsd"));
    set("path: /opt/usernsd/usernsd");

    let output = run(own, &["--diff"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output_of(&output).contains("/opt/usernsd/usernsd is not in the patch: it is no text"),
        "{}",
        output_of(&output)
    );
    assert!(!String::from_utf8_lossy(&output.stdout).contains("/opt/usernsd/usernsd\n+++"));

    // A stripped program stands for an earlier version.
    let earlier = path("earlier");
    assert!(Command::new("strip").arg("-o").arg(&earlier).arg(USERNSD).status().unwrap().success());
    assert!(run(&earlier, &[]).status.success());
    assert_eq!(fs::read(&installed).unwrap(), fs::read(&earlier).unwrap());
    let output = run(own, &[]);
    assert!(output.status.success(), "{}", output_of(&output));
    assert!(fs::read(&installed).unwrap() == fs::read(own).unwrap(), "it was updated");
    assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(Command::new(&installed).arg("--version").status().unwrap().success());
    let journal = fs::metadata(path("var/lib/usernsd/bootstrap.json")).unwrap();
    assert!(journal.len() < 20_000, "{} bytes", journal.len());
    assert!(output_of(&run(own, &[])).contains("nothing to do"));

    // Another path: the JSON file names it before the program leaves its old path.
    set("path: /opt/other");
    assert!(run(own, &[]).status.success());
    assert!(path("opt/other").exists() && !installed.exists());
    let json = fs::read_to_string(path("etc/usernsd/hooks.d/99-usernsd.json")).unwrap();
    assert!(json.contains("\"/opt/other\""), "{json}");

    // Someone else's program is neither replaced nor removed.
    let mut changed = fs::OpenOptions::new().append(true).open(path("opt/other")).unwrap();
    changed.write_all(b"!").unwrap();
    drop(changed);
    let output = run(own, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        output_of(&output).contains("/opt/other is there, and was not written by usernsd"),
        "{}",
        output_of(&output)
    );
    let output = run(own, &["--undo"]);
    assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
    assert!(output_of(&output).contains("it was changed since"), "{}", output_of(&output));
    fs::copy(own, path("opt/other")).unwrap();

    // Switched off, both are removed.
    set("install: never");
    let output = run(own, &[]);
    assert!(output.status.success(), "{}", output_of(&output));
    assert!(!path("opt/other").exists() && !path("etc/usernsd/hooks.d/99-usernsd.json").exists());
    assert!(run(own, &["--undo"]).status.success());
    assert!(!path("opt").exists() && !path("etc/crio").exists());
}

/// If the program could not be started or linked, no container would start.
#[test]
fn a_hook_that_could_not_run_is_refused() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.program("crio", "if test \"$1\" = --version; then echo crio version 1.24.6; fi");
    let script = "mkdir -p $R/var; mount -t tmpfs -o noexec none $R/var; mount --rbind /proc $R/proc";
    let output = node.run_after(&[], script, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
    assert!(output_of(&output).contains("is mounted noexec"), "{}", output_of(&output));
    assert!(!node.path("etc/crio").exists());

    let root = tempfile::tempdir().unwrap();
    let output = bootstrap(root.path(), &["--crio-version", "1.24.6"]);
    assert_eq!(output.status.code(), Some(2), "{}", output_of(&output));
    assert!(
        output_of(&output).contains("which the node does not have: use one that is linked statically"),
        "{}",
        output_of(&output)
    );
}
