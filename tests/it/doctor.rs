//! `usernsd doctor` on root directories: a healthy node, broken in one way at a time. The check reports the
//! problem, and its remedy makes it pass. Checks that need a running node are tested in
//! `tests/cases/doctor.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use usernsd::cli::doctor::{json, section};
use usernsd::cli::terminal::Terminal;
use usernsd_domain::check::kernel::KernelFile;
use usernsd_domain::check::{Category, Check, CheckOutcome, Checked, Problem, Summary};

const USERNSD: &str = env!("CARGO_BIN_EXE_usernsd");
/// A CRI-O version without known bugs.
const CRIO: &str = "--crio-version=1.37.0";

/// The script that creates the node, but for the files in [`KernelFile`].
const GOOD: &str = r#"
mkdir -p etc/crio/crio.conf.d usr/bin proc/1 proc/sys/user proc/pressure sys/kernel/cgroup var/lib/kubelet/pods/u1
printf 'root:x:0:0::/root:/bin/sh\nkubelet:x:900:900::/:/sbin/nologin\n' >etc/passwd
printf 'root:x:0:\nkubelet:x:900:\n' >etc/group
printf 'passwd: files\n' >etc/nsswitch.conf
touch usr/bin/getsubids usr/bin/getent usr/bin/crio usr/bin/crun usr/bin/conmon proc/pressure/cpu
# What the program is linked with, if it is linked dynamically.
for loader in lib64/ld-linux-x86-64.so.2 lib/ld-linux-aarch64.so.1; do mkdir -p "${loader%/*}"; touch "$loader"; done
printf 'kind: KubeletConfiguration\nmaxPods: 110\n' >var/lib/kubelet/config.yaml
printf 'containers:200000:268435456\n' | tee etc/subuid >etc/subgid
printf '60000\n' >proc/sys/user/max_user_namespaces
printf 'cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n' >sys/kernel/cgroup/delegate
printf '%s\n' '1 0 8:1 / / rw - ext4 /dev/sda rw' \
    '2 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate' >proc/1/mountinfo
"#;

/// A directory tree has no running runtime and no systemd.
const NO_PEERS: &str = "--ignore=cri_reachable,systemd_reachable";

struct Tree(tempfile::TempDir);

impl Tree {
    /// A healthy node that this program has prepared.
    fn good() -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        tree.sh(GOOD);
        for file in KernelFile::ALL {
            let path = tree.0.path().join(file.name());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file.good_text()).unwrap();
        }
        // The binary has a hundred megabytes, which bootstrap need not copy for each tree.
        tree.sh(&format!("mkdir -p opt/nri/plugins; ln {USERNSD} opt/nri/plugins/90-usernsd || cp {USERNSD} opt/nri/plugins/90-usernsd"));
        tree.sh("usernsd bootstrap");
        tree.sh("start=$(sed -n 's/kubelet:\\([0-9]*\\):.*/\\1/p' etc/subuid)
                 one=\"[{\\\"hostId\\\":$start,\\\"containerId\\\":0,\\\"length\\\":65536}]\"
                 printf '{\"uidMappings\":%s,\"gidMappings\":%s}' \"$one\" \"$one\" >var/lib/kubelet/pods/u1/userns");
        tree
    }

    /// Runs a script in the node's root; in the script, `usernsd` is this program with that root.
    fn sh(&self, script: &str) {
        let script =
            format!("usernsd() {{ {USERNSD} \"$@\" --root \"$PWD\" {CRIO} 2>/dev/null; }}\n{script}");
        let ran = Command::new("sh").args(["-euc", &script]).current_dir(self.0.path()).output().unwrap();
        assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(USERNSD);
        command.arg("doctor").arg("--root").arg(self.0.path()).args(args).env_clear();
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn checks(&self, args: &[&str]) -> Vec<Value> {
        let ran = self.run(&[&["-o", "json"], args].concat());
        let document: Value = serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&ran.stderr)));
        let failed = document["errors"].as_u64().unwrap() > 0;
        assert_eq!(ran.status.code(), Some(i32::from(failed)), "exits by its errors");
        document["checks"].as_array().unwrap().clone()
    }

    /// The outcome of a check, and its first remedy.
    fn outcome(&self, id: &str, args: &[&str]) -> (String, String) {
        let checks = self.checks(args);
        let one = checks.iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("no {id}"));
        let remedy = one["problems"][0]["remedy"].as_str().unwrap_or_default().to_owned();
        (one["outcome"].as_str().unwrap().to_owned(), remedy)
    }
}

/// A check, the script that breaks the node, words of the remedy, and the script that follows it.
type Case = (&'static str, &'static str, &'static str, &'static str);

const CASES: &[Case] = &[
    (
        "cgroup_v2",
        "sed -i 's/cgroup2 cgroup2/tmpfs tmpfs/' proc/1/mountinfo",
        "systemd.unified_cgroup_hierarchy=1",
        "sed -i 's/tmpfs tmpfs/cgroup2 cgroup2/' proc/1/mountinfo",
    ),
    (
        "cgroup_nsdelegate",
        "sed -i 's/,nsdelegate//' proc/1/mountinfo",
        "mount -o remount,nsdelegate /sys/fs/cgroup",
        "sed -i 's/cgroup2 rw/cgroup2 rw,nsdelegate/' proc/1/mountinfo",
    ),
    (
        "cgroup_delegate_list",
        "echo cgroup.procs >sys/kernel/cgroup/delegate",
        "umount /sys/kernel/cgroup/delegate",
        "printf 'cgroup.procs\\ncgroup.threads\\ncgroup.subtree_control\\n' >sys/kernel/cgroup/delegate",
    ),
    (
        "max_user_namespaces",
        "echo 0 >proc/sys/user/max_user_namespaces",
        "usernsd bootstrap",
        "echo 11255 >proc/sys/user/max_user_namespaces",
    ),
    (
        "user_namespaces_room",
        "echo 100 >proc/sys/user/max_user_namespaces",
        "usernsd bootstrap",
        "echo 11255 >proc/sys/user/max_user_namespaces",
    ),
    (
        "proc_hidepid",
        "echo '3 1 0:3 / /proc rw - proc proc rw,gid=27,hidepid=invisible' >>proc/1/mountinfo",
        "mount -o remount,hidepid=0,gid=0 /proc",
        "sed -i 's/,gid=27,hidepid=invisible//' proc/1/mountinfo",
    ),
    ("psi_enabled", "rm proc/pressure/cpu", "boot with psi=1", "touch proc/pressure/cpu"),
    (
        "apparmor_profile",
        "sed -i /usernsd/d sys/kernel/security/apparmor/profiles",
        "load the profile usernsd-systemd",
        "echo 'usernsd-systemd (enforce)' >>sys/kernel/security/apparmor/profiles",
    ),
    (
        "apparmor_userns",
        "echo 1 >proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "kernel.apparmor_restrict_unprivileged_userns=0",
        "echo 0 >proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    ),
    (
        "selinux_cgroup",
        "printf '0 0' >sys/fs/selinux/booleans/container_manage_cgroup",
        "setsebool -P container_manage_cgroup on",
        "printf '1 1' >sys/fs/selinux/booleans/container_manage_cgroup",
    ),
    (
        "subid_grammar",
        "echo 'bob:0x500000:65536' >>etc/subuid",
        "OWNER:START:COUNT",
        "sed -i '/bob/d' etc/subuid",
    ),
    (
        "subid_nsswitch",
        "echo 'subid: sss' >etc/nsswitch.conf",
        "\"subid: files\"",
        "echo 'subid: files' >etc/nsswitch.conf",
    ),
    (
        "subid_no_overlap",
        "echo 'bob:300000:5' >>etc/subuid",
        "move one of them",
        "sed -i '/bob/d' etc/subuid",
    ),
    (
        "subid_no_host_user",
        "echo 'bob:x:300000:300000::/:/bin/sh' >>etc/passwd",
        "move the range",
        "sed -i '/bob/d' etc/passwd",
    ),
    (
        "subid_past_end",
        "echo 'bob:4294967290:10' >>etc/subgid",
        "give it fewer",
        "sed -i 's/:10$/:6/' etc/subgid",
    ),
    (
        "subid_conventions",
        "echo 'bob:2147352576:10' >>etc/subuid",
        "leave the start out",
        "sed -i '/bob/d' etc/subuid",
    ),
    (
        "subid_kubelet",
        "rm -r var/lib/kubelet/pods/u1; sed -i 's/kubelet:.*/kubelet:524289:65536/' etc/subgid",
        "run usernsd bootstrap",
        "usernsd bootstrap",
    ),
    (
        "subid_terminal_slot",
        "rm -r var/lib/kubelet/pods/u1; sed -i 's/kubelet:.*/kubelet:4287758336:7208960/' etc/subuid etc/subgid",
        "bootstrap.kubelet",
        "usernsd bootstrap",
    ),
    (
        "kubelet_pool",
        "rm -r var/lib/kubelet/pods/u1; sed -i '/kubelet/d' etc/passwd etc/group",
        "set bootstrap.kubelet.user to create",
        "echo 'bootstrap: {kubelet: {user: create}}' >c; usernsd bootstrap --config c",
    ),
    ("kubelet_getsubids", "rm usr/bin/getsubids", "install getsubids", "touch usr/bin/getsubids"),
    ("kubelet_getent", "rm usr/bin/getent", "install getent", "touch usr/bin/getent"),
    (
        "kubelet_records",
        "mkdir var/lib/kubelet/pods/u2; echo '{}' >var/lib/kubelet/pods/u2/userns",
        "drain the node",
        "rm -r var/lib/kubelet/pods/u2",
    ),
    (
        "kubelet_config",
        "printf 'kind: KubeletConfiguration\nmaxPods: many\n' >var/lib/kubelet/config.yaml",
        "bootstrap.kubelet",
        "printf 'kind: KubeletConfiguration\nmaxPods: 110\n' >var/lib/kubelet/config.yaml",
    ),
    (
        "kubelet_gate",
        "printf 'featureGates: {UserNamespacesSupport: false}\n' >>var/lib/kubelet/config.yaml",
        "remove it from there",
        "sed -i '/featureGates/d' var/lib/kubelet/config.yaml",
    ),
    (
        "crio_config",
        "echo '[crio.runtime' >etc/crio/crio.conf.d/50-mine.conf",
        "repair or remove it",
        "rm etc/crio/crio.conf.d/50-mine.conf",
    ),
    (
        "crio_config_ignored",
        "touch etc/crio/crio.conf.d/50-mine.conf.bak",
        "move it elsewhere",
        "mv etc/crio/crio.conf.d/50-mine.conf.bak etc",
    ),
    (
        "crio_workload_twins",
        "for w in a b; do printf '[crio.runtime.workloads.%s]\\nactivation_annotation = \"x\"\\nallowed_annotations = %s\\n' \
         $w \"$(test $w = a && echo '[\"umask.crio.io\"]' || echo '[]')\"; done >etc/crio/crio.conf.d/50-w.conf",
        "give both the same allowed_annotations",
        "sed -i 's/= \\[\\]/= [\"umask.crio.io\"]/' etc/crio/crio.conf.d/50-w.conf",
    ),
    ("crio_annotations", "rm etc/crio/crio.conf.d/99-usernsd.conf", "usernsd bootstrap", "usernsd bootstrap"),
    (
        "crio_pod_events",
        "rm etc/crio/crio.conf.d/99-usernsd.conf",
        "set enable_pod_events = true under [crio.runtime]",
        "printf '[crio.runtime]\\nenable_pod_events = true\\n' >etc/crio/crio.conf.d/50-mine.conf",
    ),
    (
        "nri_enabled",
        "printf '[crio.nri]\\nenable_nri = false\\n' >etc/crio/crio.conf.d/99-zz.conf",
        "set enable_nri = true under [crio.nri]",
        "sed -i s/false/true/ etc/crio/crio.conf.d/99-zz.conf",
    ),
    (
        "crio_userns",
        "printf '[crio.runtime]\\nuid_mappings = \"0:1234567:1\"\\n' >etc/crio/crio.conf.d/50-u.conf",
        "use hostUsers: false",
        "rm etc/crio/crio.conf.d/50-u.conf",
    ),
    (
        "plugin_installed",
        "rm opt/nri/plugins/90-usernsd",
        "usernsd bootstrap, and restart the runtime",
        "usernsd bootstrap",
    ),
    (
        "nri_required",
        "printf '[crio.nri.default_validator]\nnri_enable_default_validator = true\n\
         nri_validator_reject_namespace_adjustment = true\n' >etc/crio/crio.conf.d/99-zz.conf",
        "delegation.privilegedCgroupNamespace to false",
        "rm etc/crio/crio.conf.d/99-zz.conf",
    ),
    ("config_drift", "sed -i '/kubelet/d' etc/subgid", "usernsd bootstrap", "usernsd bootstrap"),
    (
        // No IDs are left for a range; then some are free again.
        "bootstrap_result",
        "cp etc/subuid uid; cp etc/subgid gid; echo 'other:65536:4294836224' | tee etc/subuid >etc/subgid; \
         usernsd bootstrap --exit-zero || exit 1; mv uid etc/subuid; mv gid etc/subgid",
        "usernsd bootstrap",
        "usernsd bootstrap",
    ),
];

/// The remedy depends on CRI-O's version.
const VERSIONS: &[(&str, &str, &str, &str)] = &[
    ("crio_restart", "1.36.3", "update to 1.35.6", "1.35.6"),
    ("crio_mappings", "1.35.0", "update to 1.35.1", "1.35.1"),
    ("nri_enabled", "1.25.0", "update to 1.26", "1.30.0"),
    ("crio_pod_events", "1.27.0", "update to 1.28", "1.28.0"),
];

/// Checks that fail only on a running node; `tests/cases/doctor.rs` tests them.
const RUNNING: &[&str] = &[
    "idmapped_mounts",
    "cri_reachable",
    "runtime_version",
    "cri_userns_handler",
    "oci_runtime_version",
    "oci_runtime_idmap",
    "systemd_reachable",
    "systemd_version",
    "scopes_delegated",
    "pod_isolation",
    "pod_host_root",
    "pod_id_overlap",
    "pod_cgroup_owner",
    "pod_cgroup_writable",
    "pod_cgroup_bounded",
    "kubelet_range_read",
    "restart_pending",
    "plugin_running",
    "nri_joined",
];

fn word(id: &str) -> &'static str {
    Check::named(id).unwrap().failed("", "").word()
}

#[test]
fn a_node_without_problems_passes() {
    let tree = Tree::good();
    let bad: Vec<String> = tree
        .checks(&[CRIO, NO_PEERS])
        .iter()
        .filter(|one| !matches!(one["outcome"].as_str().unwrap(), "pass" | "skip"))
        .map(Value::to_string)
        .collect();
    assert_eq!(bad, Vec::<String>::new());
}

/// A check of a file that does not exist is skipped with the reason.
#[test]
fn no_check_passes_on_an_empty_root() {
    let tree = Tree(tempfile::tempdir().unwrap());
    // A version that is given is not a runtime that is there.
    for args in [&[][..], &[CRIO]] {
        let checks = tree.checks(args);
        let passed: Vec<String> =
            checks.iter().filter(|one| one["outcome"] == "pass").map(Value::to_string).collect();
        assert_eq!(passed, Vec::<String>::new(), "{args:?}");
        for one in checks.iter().filter(|one| one["outcome"] == "skip") {
            let reason = one["reason"].as_str().or(one["seen"].as_str()).unwrap_or_default();
            assert!(!reason.is_empty(), "{one}");
        }
    }
    // Where its directory is, its defaults are judged.
    tree.sh("mkdir -p etc/crio");
    assert_eq!(tree.outcome("crio_config", &[CRIO]).0, "pass");
}

#[test]
fn every_check_fails_somewhere() {
    let cases = CASES.iter().map(|case| case.0).chain(VERSIONS.iter().map(|case| case.0));
    let tested: BTreeSet<&str> = cases
        .chain(["crio_allowed_twice", "containerd_config", "containerd_snapshotter"])
        .chain(RUNNING.iter().copied())
        .collect();
    assert_eq!(tested, Check::ALL.map(Check::name).into());
    // Checks that need a running node are broken and repaired there.
    let cases = concat!(include_str!("../cases/doctor.rs"), include_str!("../cases/join.rs"));
    for id in RUNNING {
        let named = cases.matches(&format!("\"{id}\"")).count();
        assert!(named > 0, "{id} fails in no case of tests/cases/doctor.rs");
    }
}

/// The cases in four parts: all of them in one take minutes on a busy machine.
fn each_problem_of_a_node_is_named_and_its_remedy_helps(part: usize) {
    for (id, break_it, says, follow) in CASES.iter().skip(part).step_by(4) {
        let tree = Tree::good();
        assert_eq!(tree.outcome(id, &[CRIO]).0, "pass", "{id} before");
        tree.sh(break_it);
        let (outcome, remedy) = tree.outcome(id, &[CRIO]);
        assert_eq!(outcome, word(id), "{id}");
        assert!(remedy.contains(says), "{id}: {remedy}");
        tree.sh(follow);
        assert_eq!(tree.outcome(id, &[CRIO]).0, "pass", "{id} after: {follow}");
    }
}

#[test]
fn each_problem_of_a_node_is_named_and_its_remedy_helps_1() {
    each_problem_of_a_node_is_named_and_its_remedy_helps(0);
}

#[test]
fn each_problem_of_a_node_is_named_and_its_remedy_helps_2() {
    each_problem_of_a_node_is_named_and_its_remedy_helps(1);
}

#[test]
fn each_problem_of_a_node_is_named_and_its_remedy_helps_3() {
    each_problem_of_a_node_is_named_and_its_remedy_helps(2);
}

#[test]
fn each_problem_of_a_node_is_named_and_its_remedy_helps_4() {
    each_problem_of_a_node_is_named_and_its_remedy_helps(3);
}

#[test]
fn known_bad_versions_are_named() {
    let tree = Tree::good();
    for (id, bad, says, good) in VERSIONS {
        let version = |version: &str| format!("--crio-version={version}");
        let (outcome, remedy) = tree.outcome(id, &[&version(bad)]);
        assert!(outcome == word(id) && remedy.contains(says), "{id}: {outcome} {remedy}");
        assert_eq!(tree.outcome(id, &[&version(good)]).0, "pass", "{id} {good}");
    }
    let (tree, version) = (Tree::good(), "--crio-version=1.28.11");
    tree.sh("rm etc/crio/crio.conf.d/*; cat >etc/crio/crio.conf.d/x.conf <<'END'
[crio.runtime.runtimes.runc]
runtime_path = \"/usr/bin/crun\"
allowed_annotations = [\"io.kubernetes.cri-o.Devices\"]
[crio.runtime.workloads.w]
activation_annotation = \"x\"
allowed_annotations = [\"io.kubernetes.cri-o.Devices\"]
END");
    let (outcome, remedy) = tree.outcome("crio_allowed_twice", &[version]);
    assert!(
        outcome == "warn" && remedy == "take it out of one of them, or update CRI-O",
        "{outcome} {remedy}"
    );
    assert_eq!(tree.outcome("crio_allowed_twice", &["--crio-version=1.31.2"]).0, "pass");
    tree.sh("sed -i '3d' etc/crio/crio.conf.d/x.conf");
    assert_eq!(tree.outcome("crio_allowed_twice", &[version]).0, "pass");
}

#[test]
fn doctor_reports_what_the_hook_does_without_nri() {
    let tree = Tree::good();
    tree.sh("printf '[crio.nri]\\nenable_nri = false\\n' >etc/crio/crio.conf.d/99-zz.conf");
    let output_of = |version: &str| {
        let checks = tree.checks(&[&format!("--crio-version={version}")]);
        checks.iter().find(|one| one["id"] == "nri_enabled").unwrap().to_string()
    };
    for version in ["1.37.0", "1.25.0"] {
        assert!(output_of(version).contains("after the container started"), "{}", output_of(version));
    }
    // Installed by hand, under another name (docs/hook.md).
    tree.sh("mkdir -p usr/share/containers/oci/hooks.d usr/local/bin; cp usr/bin/crun usr/local/bin/usernsd
             chmod +x usr/local/bin/usernsd; cat >usr/share/containers/oci/hooks.d/mine.json <<'END'
{\"version\": \"1.0.0\", \"when\": {\"always\": true}, \"stages\": [\"createRuntime\"],
 \"hook\": {\"path\": \"/usr/local/bin/usernsd\", \"args\": [\"usernsd\", \"hook\"]}}
END");
    for version in ["1.37.0", "1.25.0"] {
        let output_of = output_of(version);
        assert!(output_of.contains("mine.json hands cgroups over in time"), "{output_of}");
        assert!(
            !output_of.contains("after the container started") && !output_of.contains("install the OCI hook"),
            "{output_of}"
        );
    }
    // CRI-O ignores the hook if its program is missing.
    tree.sh("rm usr/local/bin/usernsd");
    assert!(output_of("1.37.0").contains("after the container started"));
}

#[test]
fn the_configuration_of_containerd_is_read_from_its_usual_places() {
    let tree = Tree::good();
    tree.sh("rm -r etc/crio usr/bin/crio; mkdir etc/containerd; touch usr/bin/containerd
             echo 'bootstrap: {containerd: {version: 2.1.9}}' >c; echo 'version = 3' >etc/containerd/config.toml");
    let config = tree.0.path().join("c").display().to_string();
    let outcome = |id: &str| tree.outcome(id, &["--config", &config]);
    assert_eq!((outcome("containerd_config").0, outcome("nri_enabled").0), ("pass".into(), "pass".into()));
    tree.sh("echo '[plugins' >>etc/containerd/config.toml");
    assert_eq!(outcome("containerd_config"), ("fail".into(), "correct that file".into()));
    assert_eq!(outcome("nri_enabled").0, "skip");
    tree.sh("sed -i '$d' etc/containerd/config.toml");
    assert_eq!(outcome("containerd_config").0, "pass");
    assert_eq!(outcome("containerd_snapshotter").0, "pass");
    // A distribution's own path, and a file that does not exist.
    tree.sh("d=var/lib/rancher/rke2/agent/etc/containerd; mkdir -p $d; mv etc/containerd/config.toml $d");
    for check in ["containerd_config", "containerd_snapshotter", "nri_enabled"] {
        assert_eq!(outcome(check).0, "pass", "{check}");
    }
    tree.sh("echo '[plugins' >>var/lib/rancher/rke2/agent/etc/containerd/config.toml");
    assert_eq!(outcome("containerd_config").0, "fail");
    tree.sh("cd var/lib/rancher/rke2/agent/etc/containerd; sed -i '$d' config.toml; mv config.toml hidden");
    assert_eq!(outcome("containerd_config").0, "skip");
    tree.sh("mv var/lib/rancher/rke2/agent/etc/containerd/hidden etc/containerd/config.toml");
    // The file that Docker's package installs.
    tree.sh(
        "cp etc/containerd/config.toml good; echo 'disabled_plugins = [\"cri\"]' >etc/containerd/config.toml",
    );
    let (word, remedy) = outcome("containerd_config");
    assert!(word == "fail" && remedy.contains("take it out of disabled_plugins"), "{word} {remedy}");
    tree.sh("mkdir etc/containerd/config.d; cat >etc/containerd/config.toml good - >x <<'END'
imports = [\"/etc/containerd/config.d/*.toml\"]
END
             sed '/disabled/d' x >etc/containerd/config.toml
             printf '[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"soci\"\n' >etc/containerd/config.d/001-snapshotter.toml");
    assert_eq!(outcome("containerd_config").0, "pass");
    let (word, remedy) = outcome("containerd_snapshotter");
    assert!(word == "warn" && remedy.contains("[proxy_plugins.soci]"), "{word} {remedy}");
    tree.sh("printf '[proxy_plugins.soci]\ncapabilities = [\"remap-ids\"]\n' >>etc/containerd/config.d/001-snapshotter.toml");
    assert_eq!(outcome("containerd_snapshotter").0, "pass");
}

/// A node of containerd: the script that writes its files, a check, its outcome, and words of its finding or remedy.
type Node = (&'static str, &'static str, &'static str, &'static str);

const MAIN: &str = "etc/containerd/config.toml";

#[rustfmt::skip] // a node a line
const CONTAINERD_NODES: &[Node] = &[
    // Snapshotters that do not map IDs: of an old file, of a runtime handler, of its images, of an imported file.
    ("printf 'version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n' >MAIN", "containerd_snapshotter", "warn", "the snapshotter native maps IDs"),
    ("printf 'version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"fuse-overlayfs\"\n[proxy_plugins.fuse-overlayfs]\ntype = \"snapshot\"\n' >MAIN", "containerd_snapshotter", "warn", "[proxy_plugins.fuse-overlayfs]"),
    ("printf 'version = 3\n[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.kata]\nsnapshotter = \"nydus\"\n' >MAIN", "containerd_snapshotter", "warn", "nydus of handler kata"),
    ("printf 'version = 3\n[plugins.\"io.containerd.cri.v1.images\".runtime_platforms.gpu]\nsnapshotter = \"soci\"\n' >MAIN", "containerd_snapshotter", "warn", "soci of handler gpu"),
    ("printf 'version = 2\nimports = [\"conf.d/[0-9]*.toml\"]\n' >MAIN; printf 'version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.gpu]\nsnapshotter = \"stargz\"\n' >etc/containerd/conf.d/50-gpu.toml", "containerd_snapshotter", "warn", "stargz of handler gpu"),
    ("printf 'version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"nydus\"\n[proxy_plugins.nydus]\ncapabilities = [\n  \"remap-ids\",\n]\n' >MAIN", "containerd_snapshotter", "pass", ""),
    // CRI switched off: by each name, over several lines, in an imported file; what else is off does not matter.
    ("echo 'disabled_plugins = [\"aufs\", \"cri\"]' >MAIN", "containerd_config", "fail", "take it out of disabled_plugins"),
    ("echo 'disabled_plugins = [\"io.containerd.grpc.v1.cri\"]' >MAIN", "containerd_config", "fail", "names io.containerd.grpc.v1.cri"),
    ("printf 'version = 3\ndisabled_plugins = [\n  \"btrfs\",\n  \"io.containerd.cri.v1.runtime\", # off\n]\n' >MAIN", "containerd_config", "fail", "names io.containerd.cri.v1.runtime"),
    ("printf 'version = 3\nimports = [\"conf.d/[0-9][0-9]-*.toml\"]\n' >MAIN; printf 'version = 3\ndisabled_plugins = [\"io.containerd.cri.v1.images\"]\n' >etc/containerd/conf.d/10-x.toml", "containerd_config", "fail", "names io.containerd.cri.v1.images"),
    ("printf 'version = 3\ndisabled_plugins = [\"io.containerd.snapshotter.v1.aufs\", \"btrfs\"]\n' >MAIN", "containerd_config", "pass", ""),
    // NRI by imported files: two levels, a class of letters, a later file, a list of what is off.
    ("printf 'version = 3\nimports = [\"conf.d/a.toml\"]\n' >MAIN; printf 'version = 3\nimports = [\"../more/*.toml\"]\n' >etc/containerd/conf.d/a.toml; printf 'version = 3\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n' >etc/containerd/more/b.toml", "nri_enabled", "warn", "/etc/containerd/more/b.toml"),
    ("printf 'version = 3\nimports = [\"conf.d/*.toml\"]\n' >MAIN; printf 'version = 3\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n' >etc/containerd/conf.d/zz.toml", "nri_enabled", "warn", "/etc/containerd/conf.d/zz.toml switches NRI off"),
    ("printf 'version = 3\ndisabled_plugins = [\"io.containerd.nri.v1.nri\"]\n' >MAIN", "nri_enabled", "warn", "take it out of that list"),
    ("printf 'version = 3\nimports = [\"conf.d/[*\"]\n' >MAIN", "containerd_config", "fail", "is no pattern"),
    // k3s and RKE2 whose data are elsewhere: by a flag, its short form, a file, the environment.
    ("mkdir -p mnt/d/agent/etc/containerd; echo 'disabled_plugins = [\"cri\"]' >mnt/d/agent/etc/containerd/config.toml; printf '[Service]\nExecStart=/usr/local/bin/k3s \\\n server \\\n --data-dir=/mnt/d\n' >etc/systemd/system/k3s.service", "containerd_config", "fail", "disabled_plugins"),
    ("mkdir -p mnt/d/agent/etc/containerd; echo 'disabled_plugins = [\"cri\"]' >mnt/d/agent/etc/containerd/config.toml; printf '[Service]\nExecStart=/usr/local/bin/k3s agent -d /mnt/d\n' >etc/systemd/system/k3s-agent.service", "containerd_config", "fail", "disabled_plugins"),
    ("mkdir -p mnt/d/agent/etc/containerd etc/rancher/rke2; echo 'disabled_plugins = [\"cri\"]' >mnt/d/agent/etc/containerd/config.toml; echo 'data-dir: \"/mnt/d\" # a disk' >etc/rancher/rke2/config.yaml", "containerd_config", "fail", "disabled_plugins"),
    ("mkdir -p mnt/d/agent/etc/containerd; echo 'version = 3' >mnt/d/agent/etc/containerd/config.toml; echo K3S_DATA_DIR=/mnt/d >etc/k3s.env; printf '[Service]\nEnvironmentFile=-/etc/k3s.env\nExecStart=/usr/local/bin/k3s server\n' >etc/systemd/system/k3s.service", "containerd_config", "pass", "/mnt/d/agent/etc/containerd/config.toml"),
];

#[test]
fn further_forms_of_containerds_configuration_are_judged() {
    for (script, check, want, words) in CONTAINERD_NODES {
        let tree = Tree::good();
        tree.sh("rm -r etc/crio usr/bin/crio
                 mkdir -p etc/containerd/conf.d etc/containerd/more etc/systemd/system
                 touch usr/bin/containerd; echo 'bootstrap: {containerd: {version: 2.1.9}}' >c");
        tree.sh(&script.replace("MAIN", MAIN));
        let config = tree.0.path().join("c").display().to_string();
        let checks = tree.checks(&["--config", &config]);
        let one = checks.iter().find(|one| one["id"] == *check).unwrap();
        assert_eq!(one["outcome"], *want, "{script}: {one}");
        assert!(one.to_string().replace("\\\"", "\"").contains(words), "{script}: {one}");
    }
}

/// The kubelet looks for programs in the PATH of its unit, which on NixOS has no directory of the usual ones.
#[test]
fn getsubids_is_looked_for_in_the_path_of_the_kubelets_unit() {
    let tree = Tree::good();
    let outcome = || tree.outcome("kubelet_getsubids", &[CRIO]);
    tree.sh("mkdir -p run/current-system/sw/bin etc/systemd/system
             mv usr/bin/getsubids usr/bin/getent run/current-system/sw/bin");
    assert_eq!(outcome().0, "fail", "no unit sets a PATH");
    tree.sh("cat >etc/systemd/system/kubelet.service <<'END'
[Service]
Environment=\"PATH=/run/current-system/sw/bin:/usr/bin\" \"X=y\"
ExecStart=/usr/bin/kubelet
END");
    assert_eq!(outcome().0, "pass");
    assert_eq!(tree.outcome("kubelet_getent", &[CRIO]).0, "pass");
    assert_eq!(tree.outcome("subid_kubelet", &[CRIO]).0, "pass");
    // A drop-in takes the directory away again, although the usual ones have the program.
    tree.sh("cp run/current-system/sw/bin/getsubids usr/bin; mkdir etc/systemd/system/kubelet.service.d
             printf '[Service]\nEnvironment=PATH=/run/current-system/bin\n' >etc/systemd/system/kubelet.service.d/10-path.conf");
    let (word, remedy) = outcome();
    assert!(word == "fail" && remedy.contains("path = [ pkgs.shadow ]"), "{word} {remedy}");
    let output_of = format!("{:?}", tree.checks(&[CRIO]));
    assert!(
        output_of.contains("not in the PATH of kubelet.service (/run/current-system/bin)"),
        "{output_of}"
    );
    // The kubelet in k3s, by its environment file.
    tree.sh("rm -r etc/systemd/system/kubelet.service etc/systemd/system/kubelet.service.d
             printf '[Service]\nEnvironmentFile=-/etc/k3s.env\n' >etc/systemd/system/k3s.service
             echo PATH=/run/wrappers/bin >etc/k3s.env");
    assert_eq!(outcome().0, "fail");
    tree.sh("echo PATH=/run/wrappers/bin:/run/current-system/sw/bin >etc/k3s.env");
    assert_eq!(outcome().0, "pass");
    // An agent's pod sees neither the kubelet's files nor that directory: nothing is reported as missing.
    tree.sh("rm -r run/current-system var/lib/kubelet; mkdir -p var/lib/kubelet/pods");
    assert_eq!(outcome().0, "pass");
}

/// okd-project/okd#2255: an old setting makes a runtime the default that is no longer installed.
#[test]
fn a_default_runtime_that_is_not_installed_is_blamed_on_the_file_that_chooses_it() {
    let tree = Tree::good();
    tree.sh("rm etc/crio/crio.conf.d/*; cat >etc/crio/crio.conf.d/00-default <<'END'
[crio.runtime]
default_runtime = \"crun\"
[crio.runtime.runtimes.runc]
runtime_root = \"/run/runc\"
[crio.runtime.runtimes.crun]
runtime_root = \"/run/crun\"
END
             printf '[crio]\n  [crio.runtime]\n    default_runtime = \"runc\"\n' >etc/crio/crio.conf.d/01-ctrcfg-defaultRuntime");
    let version = "--crio-version=1.33.5";
    let (word, remedy) = tree.outcome("crio_config", &[version]);
    assert!(word == "fail" && remedy.contains("whose program is installed (crun)"), "{word} {remedy}");
    let output_of = format!("{:?}", tree.checks(&[version]));
    assert!(
        output_of.contains("/etc/crio/crio.conf.d/01-ctrcfg-defaultRuntime: validating runtime config"),
        "{output_of}"
    );
    tree.sh("rm etc/crio/crio.conf.d/01-ctrcfg-defaultRuntime");
    assert_eq!(tree.outcome("crio_config", &[version]).0, "pass");
    // The same by the path of a program that another package had, and by the main file.
    tree.sh("printf '[crio.runtime.runtimes.crun]\nruntime_path = \"/usr/libexec/crio/crun\"\n' >etc/crio/crio.conf.d/20-crun.conf");
    let (word, remedy) = tree.outcome("crio_config", &[version]);
    assert_eq!(word, "fail", "{remedy}");
    assert!(format!("{:?}", tree.checks(&[version])).contains("/usr/libexec/crio/crun"));
    tree.sh("rm etc/crio/crio.conf.d/*; printf '[crio.runtime]\ndefault_runtime = \"youki\"\n' >etc/crio/crio.conf");
    let (word, remedy) = tree.outcome("crio_config", &[version]);
    assert_eq!(word, "fail", "{remedy}");
    assert!(format!("{:?}", tree.checks(&[version])).contains("/etc/crio/crio.conf:"));
}

/// Settings of OpenShift's operator and of people's MachineConfigs have names without a suffix.
#[test]
fn a_drop_in_without_a_suffix_is_no_stray_file_and_a_backup_is_one() {
    let tree = Tree::good();
    let ignored = || tree.outcome("crio_config_ignored", &[CRIO]);
    for name in ["01-ctrcfg-pidsLimit", "60-tenant-limits", "99-site_cgroups"] {
        tree.sh(&format!("printf '[crio.runtime]\npids_limit = 4096\n' >etc/crio/crio.conf.d/{name}"));
        assert_eq!(ignored().0, "pass", "{name}");
        tree.sh(&format!("rm etc/crio/crio.conf.d/{name}"));
    }
    for name in ["99-usernsd.conf.orig", "10-site.conf.rpmnew", "10-site.conf~"] {
        tree.sh(&format!("printf '[crio.runtime]\npids_limit = 4096\n' >etc/crio/crio.conf.d/{name}"));
        let (word, remedy) = ignored();
        assert!(word == "warn" && remedy.contains("move it"), "{name}: {word} {remedy}");
        tree.sh(&format!("rm etc/crio/crio.conf.d/{name}"));
    }
}

/// A script that waits for `ready` must not continue if nothing could be examined.
#[test]
fn a_node_without_results_is_not_ready() {
    let ready = |tree: &Tree, args: &[&str]| {
        let ran = tree.run(&[&["-o", "json"], args].concat());
        serde_json::from_slice::<Value>(&ran.stdout).unwrap()["ready"].clone()
    };
    let empty = Tree(tempfile::tempdir().unwrap());
    assert_eq!(ready(&empty, &[]), Value::Null);
    let good = Tree::good();
    assert_eq!(ready(&good, &[CRIO]), false, "no runtime answers");
    assert_eq!(ready(&good, &[CRIO, NO_PEERS]), Value::Null);
}

/// Without permission to use the runtime's socket, nothing is reported about the runtime.
#[test]
fn a_socket_without_permission_is_no_failure() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let tree = Tree::good();
    tree.sh("chmod 755 .; mkdir -p run/crio");
    let socket = tree.0.path().join("run/crio/crio.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    tree.sh("chmod 600 run/crio/crio.sock");
    let program = tree.0.path().join("program");
    fs::copy(USERNSD, &program).unwrap();
    let ran = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["doctor", "-o", "json", "--no-agent", "--root"])
        .arg(tree.0.path())
        .output()
        .unwrap();
    let output_of: Value = serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&ran.stderr)));
    let of = |id: &str| {
        output_of["checks"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap().clone()
    };
    assert_eq!(of("cri_reachable")["outcome"], "skip", "{output_of:#}");
    assert!(of("cri_reachable").to_string().contains("become root"), "{output_of:#}");
}

/// No drift is reported for a node that someone else prepares.
#[test]
fn a_node_that_other_tools_prepare_has_no_drift() {
    let tree = Tree::good();
    tree.sh("echo 'bootstrap: {ranges: [{owner: alice, count: 65536}]}' >ours
             echo 'bootstrap: {enabled: false, ranges: [{owner: alice, count: 65536}]}' >theirs");
    let outcome = |name: &str| {
        let config = format!("--config={}", tree.0.path().join(name).display());
        tree.outcome("config_drift", &[NO_PEERS, &config]).0
    };
    assert_eq!((outcome("ours"), outcome("theirs")), ("warn".into(), "skip".into()));
}

/// Without processes, sockets and a bus, the checks of them are skipped.
#[test]
fn a_mounted_disk_is_checked_offline() {
    let tree = Tree::good();
    tree.sh("rm -r proc sys");
    for one in tree.checks(&[CRIO]) {
        let live = ["kernel", "systemd", "pods"].contains(&one["category"].as_str().unwrap());
        assert!(!live || one["outcome"] == "skip", "{one}");
    }
    let output_of = String::from_utf8(tree.run(&[CRIO]).stdout).unwrap();
    assert!(
        output_of.ends_with(
            "Whether this node can run pods with hostUsers: false is not known: checks that decide it were not made.\n"
        ),
        "{output_of}"
    );
    // A disk without CRI-O's version.
    let (outcome, _) = tree.outcome("crio_config", &[]);
    assert_eq!(outcome, "skip");
}

#[test]
fn exit_codes_depend_on_outcomes_and_flags() {
    let tree = Tree::good();
    assert_eq!(tree.run(&[CRIO, NO_PEERS]).status.code(), Some(0));
    assert_eq!(tree.run(&[CRIO, NO_PEERS, "--strict"]).status.code(), Some(0));
    tree.sh("echo 'bob:300000:5' >>etc/subuid");
    assert_eq!(tree.run(&[CRIO, NO_PEERS]).status.code(), Some(0), "a warning is no error");
    assert_eq!(tree.run(&[CRIO, NO_PEERS, "--strict"]).status.code(), Some(1));
    assert_eq!(
        tree.run(&[CRIO, NO_PEERS, "--strict", "--ignore", "subid_no_overlap"]).status.code(),
        Some(0)
    );
    tree.sh("echo 0 >proc/sys/user/max_user_namespaces");
    let ran = tree.run(&[CRIO, NO_PEERS, "-q"]);
    assert_eq!(ran.status.code(), Some(1));
    let output_of = String::from_utf8(ran.stdout).unwrap();
    assert!(
        !output_of.contains(" + ")
            && output_of.contains("  x max_user_namespaces")
            && output_of.contains("  ! subid_no_overlap"),
        "{output_of}"
    );
    assert_eq!(output_of, String::from_utf8(tree.run(&[CRIO, NO_PEERS, "-o", "short"]).stdout).unwrap());
    assert_eq!(
        tree.run(&[CRIO, NO_PEERS, "--ignore", "max_user_namespaces,subid_no_overlap"]).status.code(),
        Some(0)
    );

    let unknown = tree.run(&["--ignore", "no_such_check"]);
    let output_of = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        output_of
            .starts_with("error: --ignore no_such_check: there is no such check; write one of: cgroup_v2, "),
        "{output_of}"
    );
    let nowhere = Command::new(USERNSD).args(["doctor", "--root", "/no/such/root"]).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(2));
    // A socket that is named on the command line must answer.
    let silent = tree.run(&["--socket", "/no/such/socket"]);
    assert_eq!(silent.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&silent.stderr).contains("nothing answers on /no/such/socket"));
}

// === output ===

fn some() -> Vec<(Category, Vec<Checked>)> {
    let of = |name: &str| Check::named(name).unwrap();
    let problem = |what: &str, remedy: &str| Problem { what: what.into(), remedy: remedy.into() };
    vec![
        (
            Category::Kernel,
            vec![
                of("cgroup_v2").passed("unified hierarchy at /sys/fs/cgroup"),
                of("cgroup_nsdelegate").failed(
                    "cgroup2 is mounted without nsdelegate: a container with a writable cgroup and no user namespace \
                     could lift its own limits",
                    "mount -o remount,nsdelegate /sys/fs/cgroup",
                ),
                of("idmapped_mounts").skipped("there is no directory of a kubelet or of container storage"),
                of("apparmor_profile").skipped("/sys/kernel/security/lsm cannot be read here"),
                of("psi_enabled").failed("pressure stall information is off", "boot with psi=1"),
                of("apparmor_userns").skipped("/sys/kernel/security/lsm cannot be read here"),
                of("selinux_cgroup").skipped("/sys/kernel/security/lsm cannot be read here"),
            ],
        ),
        (Category::Ids, vec![of("subid_no_overlap").passed("no two owners share subordinate IDs")]),
        (
            Category::Pods,
            vec![Checked {
                check: of("pod_cgroup_writable"),
                outcome: CheckOutcome::Failed(vec![
                    problem("/sys/fs/cgroup is read-only in container a\u{202e}b of pod x/日本", "start the agent"),
                    problem("/sys/fs/cgroup is read-only in container \x1b[31m of pod x/y", "start the agent"),
                ]),
            }],
        ),
    ]
}

fn rendered(terminal: Terminal, short: bool) -> String {
    let some = some();
    let all = || some.iter().flat_map(|(_, checked)| checked);
    let sections = some.iter().map(|(category, checked)| section(*category, checked, short, terminal));
    sections.collect::<String>() + &Summary::of(all()).verdict() + "\n"
}

#[test]
fn doctor_output_matches_the_golden_files() {
    let unicode = Terminal { unicode: true, ..Terminal::PLAIN };
    let all: Vec<Checked> = some().into_iter().flat_map(|(_, checked)| checked).collect();
    for (name, found) in [
        ("doctor.txt", rendered(unicode, false)),
        ("doctor-ascii.txt", rendered(Terminal::PLAIN, false)),
        ("doctor-short.txt", rendered(unicode, true)),
        ("doctor-80.txt", rendered(Terminal { width: Some(80), ..unicode }, false)),
        ("doctor-40.txt", rendered(Terminal { width: Some(40), ..unicode }, false)),
        ("doctor-color.txt", rendered(Terminal { color: true, ..unicode }, false).replace('\x1b', "ESC")),
        ("doctor.json", json(&all)),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&path).unwrap(), "{name}; UPDATE=1 writes it");
        assert!(!found.chars().any(|char| char.is_control() && char != '\n'), "{name}");
        assert!(name.contains("json") || found.lines().last().unwrap().ends_with("hostUsers: false."));
    }
    assert!(rendered(Terminal::PLAIN, false).is_ascii());
    let widest = rendered(Terminal { width: Some(80), ..unicode }, true);
    assert!(
        widest.lines().filter(|line| !line.contains("error")).all(|line| line.chars().count() <= 80),
        "{widest}"
    );
}

/// Runs on a terminal that script(1) provides.
#[test]
fn colours_are_printed_only_on_terminals() {
    let tree = Tree::good();
    let command = format!("{USERNSD} doctor --root {} {CRIO}", tree.0.path().display());
    let on_terminal = |variables: &[(&str, &str)], more: &str| {
        let mut script = Command::new("script");
        script.args(["-qec", &format!("stty cols 60; {command}{more}"), "/dev/null"]);
        script.env_clear().env("PATH", "/usr/bin:/bin").envs(variables.iter().copied());
        let ran = script.stdin(Stdio::null()).output();
        ran.ok().map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned())
    };
    let Some(colored) = on_terminal(&[("TERM", "xterm"), ("LANG", "C.UTF-8")], "") else {
        println!("script is not on PATH (Debian package bsdutils): not asked");
        return;
    };
    assert!(colored.contains("\x1b[32m√\x1b[0m"), "{colored}");
    for (variables, more) in [
        (&[("TERM", "xterm"), ("NO_COLOR", "1")][..], ""),
        (&[("TERM", "dumb")], ""),
        (&[("TERM", "xterm")], " --no-color"),
    ] {
        let plain = on_terminal(variables, more).unwrap();
        assert!(!plain.contains('\x1b') && plain.contains("  + cgroup_v2"), "{plain}");
        assert!(plain.lines().any(|line| line.starts_with("      ")), "60 columns: {plain}");
    }
    let piped = String::from_utf8(tree.run(&[CRIO]).stdout).unwrap();
    assert!(piped.is_ascii() && !piped.contains('\x1b'), "{piped}");
}
