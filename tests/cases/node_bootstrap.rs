//! `usernsd bootstrap` on a real node: the node's own tools find the planned ranges.

use crate::node;
use crate::node::{Node, Options, Runtime, Suite};
use crate::pods::{ContainerSpec, PodSpec, Pods, wait_for};

const USERNSD: &str = "/usr/local/bin/usernsd";

#[test]
fn the_nodes_own_tools_agree_with_the_plan() {
    for &suite in Suite::each() {
        let binds = vec![(env!("CARGO_BIN_EXE_usernsd").into(), USERNSD.to_owned())];
        let options = Options { runtime: Runtime::None, suite, binds, ..Options::default() };
        let Some(node) = Node::boot_or_skip(&options) else { return };
        node.write("/etc/usernsd.yaml", "bootstrap: {kubelet: {user: create, maxPods: 250}}\n");
        node.run(["mkdir", "-p", "/var/lib/kubelet"]);
        let before = node.run(["cat", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"]);
        let bootstrap = [USERNSD, "bootstrap", "--config", "/etc/usernsd.yaml"];
        // This machine's C library may be newer than the node's.
        if !node.exec([USERNSD, "--version"]).status.success() {
            node::report_skipped("the binary does not run on bookworm");
            continue;
        }
        node.run(bootstrap);

        // As the kubelet asks.
        node.run(["getent", "passwd", "kubelet"]);
        let range = node.run(["getsubids", "kubelet"]);
        assert!(range.starts_with("0: kubelet ") && range.ends_with(" 16384000"), "{range}");
        assert_eq!(node.run(["getsubids", "-g", "kubelet"]), range);
        assert!(!node.run(["cat", "/etc/subuid"]).contains("containers"), "no CRI-O reads it");
        // The account files are valid.
        assert_eq!(node.run(["pwck", "-r", "-q"]), "");
        node.run(["grpck", "-r"]);

        // shadow's own tools still work, and assign other ranges.
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

/// Support is tried on the kernel and not derived from its version: with a file system that supports ID
/// mappings, and one that does not.
#[test]
fn mapped_mounts_are_tried_on_the_running_kernel() {
    let binds = vec![(env!("CARGO_BIN_EXE_usernsd").into(), USERNSD.to_owned())];
    let options = Options { runtime: Runtime::None, binds, ..Options::default() };
    let Some(node) = Node::boot_or_skip(&options) else { return };
    node.run([USERNSD, "bootstrap"]);
    let mounts = |node: &Node| node.run(["cat", "/proc/self/mountinfo"]).lines().count();
    let output_of = |node: &Node| {
        let output = node.exec([USERNSD, "bootstrap", "--check"]);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    node.run(["mkdir", "-p", "/var/lib/kubelet", "/var/lib/containerd"]);
    node.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib/kubelet"]);
    node.run(["mount", "-t", "proc", "proc", "/var/lib/containerd"]);
    let before = mounts(&node);
    let found = output_of(&node);
    let bad =
        "error: /var/lib/containerd lies on proc, which cannot be mounted with mapped IDs (mount_setattr: ";
    assert!(found.contains(bad) && !found.contains("/var/lib/kubelet"), "{found}");
    assert_eq!(mounts(&node), before, "nothing stays mounted");
    node.run(["umount", "/var/lib/containerd"]);
    node.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib/containerd"]);
    let found = output_of(&node);
    assert!(!found.contains("/var/lib/containerd"), "{found}");

    // If user namespaces are switched off, the result is unknown, with the reason.
    if !node.exec(["sysctl", "-qw", "user.max_user_namespaces=0"]).status.success() {
        node::report_skipped("user namespaces cannot be switched off without CAP_SYS_RESOURCE");
        return;
    }
    let found = output_of(&node);
    assert!(
        found.contains("no user namespace could be made") || found.contains("max-user-namespaces"),
        "{found}"
    );
    node.run(["sysctl", "-qw", "user.max_user_namespaces=60000"]);
}

/// The output of `usernsd machineconfig` for a pool is applied to a plain node, and CRI-O starts with it.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
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
    // A drop-in with which this CRI-O would not start is not written.
    let bad = "kind: MachineConfig\nspec: {config: {storage: {files: [{path: /etc/crio/crio.conf.d/50-x.conf, contents: {source: \
               'data:,%5Bcrio.runtime.workloads.x%5D%0Aactivation_annotation%3D%22a%22%0Aallowed_annotations%3D%5B%22no.such%22%5D%0A'}}]}}}\n";
    node.write("/etc/bad.yaml", bad);
    let refused = node.exec([USERNSD, "bootstrap", "--machineconfig", "/etc/bad.yaml"]);
    assert_eq!(refused.status.code(), Some(2));
    let output_of = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(output_of.contains("invalid allowed_annotation: no.such"), "{output_of}");
    node.restart_unit("crio.service");
}

/// A node with a runtime, and the configuration that it is prepared with.
fn prepared(options: Options, configuration: &str) -> Option<Node> {
    let binds = vec![(env!("CARGO_BIN_EXE_usernsd").into(), USERNSD.to_owned())];
    let node = Node::boot_or_skip(&Options { binds, ..options })?;
    node.write("/etc/usernsd.yaml", configuration);
    Some(node)
}

/// Runs `usernsd bootstrap`; returns its exit code and its output.
fn bootstrap(node: &Node, words: &[&str]) -> (Option<i32>, String) {
    let output = node.exec([&[USERNSD, "bootstrap", "--config", "/etc/usernsd.yaml"], words].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A pod with the first IDs of the kubelet's new range, and one with the last: containers run with both.
fn pods_run_in_the_kubelets_range<'a>(node: &'a Node, spec: &PodSpec) -> Pods<'a> {
    let line = node.run(["getsubids", "kubelet"]);
    let fields: Vec<u32> = line.rsplit(' ').take(2).map(|field| field.parse().unwrap()).collect();
    let [count, start] = fields[..] else { panic!("{line}") };
    let pods = Pods::connect(node);
    for (name, first) in [("first", start), ("last", start + count - 65_536)] {
        let spec = PodSpec { name: name.to_owned(), ..spec.clone() };
        let pod = pods.run_pod(&spec.mapped(&[(0, first, 65_536)]));
        let container = pods.run(&pod, &ContainerSpec::sleeping());
        let map: Vec<u32> = pods
            .proc(&container, "uid_map")
            .split_ascii_whitespace()
            .map(|field| field.parse().unwrap())
            .collect();
        assert_eq!(map, [0, first, 65_536]);
    }
    pods
}

/// With the written drop-in, a real containerd starts and offers NRI; without it, it starts again without
/// NRI.
#[test]
fn containerd_starts_with_what_is_written() {
    // containerd 2 is prepared as 1.7 would be: its main file has NRI off.
    let configuration =
        "bootstrap:\n  kubelet: {user: create, maxPods: 250}\n  containerd: {version: 1.7.24}\n";
    let Some(node) = prepared(Options { nri: false, ..Options::default() }, configuration) else { return };
    let main = std::fs::read_to_string(node.path("/etc/containerd/config.toml")).unwrap();
    // The version that 1.7 reads; 2 still takes tables by their new names in it.
    let main = main.replacen("version = 3", "version = 2", 1);
    node.write(
        "/etc/containerd/config.toml",
        format!("imports = [\"/etc/containerd/conf.d/*.toml\"]\n{main}"),
    );
    node.run(["mkdir", "-p", "/var/lib/kubelet"]);
    assert!(!node.path("/run/nri/nri.sock").exists());
    // containerd's own program checks the configuration, too.
    node.run(["mkdir", "/etc/containerd/conf.d"]);
    node.write("/etc/containerd/conf.d/10-x.toml", "version = 2\noom_score = \"none\"\n");
    let (code, output_of) = bootstrap(&node, &[]);
    assert_eq!(code, Some(2), "{output_of}");
    assert!(output_of.contains("\"containerd config dump\" refuses the configuration: "), "{output_of}");
    assert!(output_of.contains("OOMScore") && output_of.contains("nothing was changed"), "{output_of}");
    node.run(["rm", "-r", "/etc/containerd/conf.d"]);
    assert!(!node.path("/etc/subuid").exists() || !output_of.contains("gets"), "{output_of}");

    let (code, output_of) = bootstrap(&node, &[]);
    assert_eq!(code, Some(0), "{output_of}");
    assert!(
        output_of.contains("containerd.service was started before /etc/containerd/conf.d/99-usernsd.toml"),
        "{output_of}"
    );
    assert!(!node.path("/run/nri/nri.sock").exists(), "nothing is restarted by itself");
    let (code, output_of) = bootstrap(&node, &["--restart"]);
    assert_eq!(code, Some(0), "{output_of}");
    assert!(output_of.ends_with("nothing to do\ncontainerd.service: restarted\n"), "{output_of}");
    node.wait_for_socket("/run/nri/nri.sock", std::time::Duration::from_secs(30));
    let (code, output_of) = bootstrap(&node, &["--restart"]);
    assert_eq!(code, Some(0), "{output_of}");
    assert!(output_of.ends_with("nothing to do\nnothing to restart\n"), "{output_of}");

    let _pods = pods_run_in_the_kubelets_range(&node, &PodSpec::new("p"));
    node.run(["useradd", "--no-create-home", "alice"]);
    node.run(["usermod", "--add-subuids", "900000000-900065535", "alice"]);
    let (code, output_of) = bootstrap(&node, &["--check"]);
    assert_eq!(code, Some(0), "{output_of}");
    assert!(!output_of.contains("restart-pending"), "{output_of}");

    let (code, output_of) = bootstrap(&node, &["--undo", "--restart"]);
    assert_eq!(code, Some(0), "{output_of}");
    assert!(output_of.contains("containerd.service: restarted"), "{output_of}");
    assert!(!node.path("/etc/containerd/conf.d").exists());
    assert_eq!(node.run(["systemctl", "is-active", "containerd"]), "active");
    let pods = Pods::connect(&node);
    pods.run(&pods.run_pod(&PodSpec::new("after")), &ContainerSpec::sleeping());
}

/// The same with CRI-O, whose own program checks the configuration, too.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_starts_with_what_is_written() {
    let configuration = "bootstrap:\n  kubelet: {user: create, maxPods: 250}\n";
    let Some(node) = prepared(Options { runtime: Runtime::Crio, ..Options::default() }, configuration) else {
        return;
    };
    node.run(["mkdir", "-p", "/var/lib/kubelet"]);
    // Our rules do not judge existing files; CRI-O's own program does.
    node.write("/etc/crio/crio.conf.d/10-x.conf", "[crio.runtime.workloads.x]\n");
    let (code, output_of) = bootstrap(&node, &["--restart"]);
    assert_eq!(code, Some(2), "{output_of}");
    assert!(output_of.contains("\"crio config\" refuses the configuration: "), "{output_of}");
    assert!(output_of.contains("annotation shouldn't be empty for workload"), "{output_of}");
    assert!(!node.path("/etc/crio/crio.conf.d/99-usernsd.conf").exists());
    node.run(["rm", "/etc/crio/crio.conf.d/10-x.conf"]);

    // The running CRI-O is asked for its loaded configuration, which proves nothing if it equals that of the
    // files.
    let (code, output_of) = bootstrap(&node, &[]);
    assert_eq!(code, Some(0), "{output_of}");
    let loaded = "99-usernsd.conf, /opt/nri/plugins/90-usernsd changed, and goes on as before; by its /config workload \
                  usernsd is not loaded";
    assert!(output_of.contains(loaded), "{output_of}");
    let doctor = node.exec([USERNSD, "doctor", "-o", "json", "--config", "/etc/usernsd.yaml"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("by its /config workload usernsd is not loaded"), "{doctor}");
    let (code, output_of) = bootstrap(&node, &["--restart"]);
    assert_eq!(code, Some(0), "{output_of}");
    assert!(output_of.contains("crio.service: restarted"), "{output_of}");
    let (code, output_of) = bootstrap(&node, &["--check"]);
    assert_eq!(code, Some(0), "{output_of}");
    assert!(!output_of.contains("restart-pending"), "{output_of}");
    node.run(["sh", "-c", "sleep 1; touch /etc/crio/crio.conf.d/99-usernsd.conf"]);
    let (_, output_of) = bootstrap(&node, &["--check"]);
    assert!(
        output_of.contains("its /config shows the settings of the files, which is no proof"),
        "{output_of}"
    );
    // Set by a flag, no file changed: a restart would not help.
    let flag = |from: &str, to: &str| {
        node.run([
            "sed",
            "-i",
            &format!("s|crio.conf{from}$|crio.conf{to}|"),
            "/etc/systemd/system/crio.service",
        ]);
        node.run(["systemctl", "daemon-reload"]);
        node.restart_unit("crio.service");
    };
    flag("", " --enable-nri=false");
    let (_, output_of) = bootstrap(&node, &["--check"]);
    let other =
        "crio.service runs with other settings than those in its files; by its /config enable_nri is false";
    assert!(output_of.contains(other), "{output_of}");
    flag(" --enable-nri=false", "");
    let (_, output_of) = bootstrap(&node, &["--check"]);
    assert!(!output_of.contains("restart-pending"), "{output_of}");
    let annotation = "cgroup2-mount-hierarchy-rw.crio.io";
    let pods = pods_run_in_the_kubelets_range(&node, &PodSpec::new("p").annotated(annotation, "true"));
    let pod = pods.run_pod(&PodSpec::new("writable").annotated(annotation, "true"));
    let container = pods.run(&pod, &ContainerSpec::sleeping());
    let mounts = pods.proc(&container, "mountinfo");
    let cgroup = mounts.lines().find(|line| line.contains(" /sys/fs/cgroup ")).unwrap();
    assert!(cgroup.contains(" /sys/fs/cgroup rw,"), "{cgroup}");

    let drop_in = "/etc/crio/crio.conf.d/99-usernsd.conf";
    node.write("/etc/usernsd.yaml", format!("{configuration}  crio: {{usernsMode: always}}\n"));
    let before = node.run(["sha256sum", drop_in]);
    let (code, output_of) = bootstrap(&node, &["--restart"]);
    if node.crio_version().forgets_mappings_on_restart() {
        // It is not restarted while it has pods whose mappings it would forget.
        assert_eq!(code, Some(2), "{output_of}");
        assert!(output_of.contains("forgets the ID mappings of the 3 running pods"), "{output_of}");
        assert_eq!(node.run(["sha256sum", drop_in]), before);
        node.write("/etc/usernsd.yaml", configuration);
        let (code, output_of) = bootstrap(&node, &["--undo", "--restart"]);
        assert_eq!(code, Some(2), "{output_of}");
        assert!(pods.is_running(&container));
        let (code, output_of) = bootstrap(&node, &["--undo"]);
        assert_eq!(code, Some(0), "{output_of}");
        node.restart_unit("crio.service");
    } else {
        assert_eq!(code, Some(0), "{output_of}");
        assert!(
            output_of.contains("crio.service: restarted") && !output_of.contains("forgets"),
            "{output_of}"
        );
        assert_ne!(node.run(["sha256sum", drop_in]), before);
        // A container that starts later is in the pod's user namespace as well.
        let pods = Pods::connect(&node);
        let later = pods.run(&pod, &ContainerSpec::sleeping().named("later"));
        assert_eq!(pods.proc(&later, "uid_map"), pods.proc(&container, "uid_map"));
        node.write("/etc/usernsd.yaml", configuration);
        let (code, output_of) = bootstrap(&node, &["--undo", "--restart"]);
        assert_eq!(code, Some(0), "{output_of}");
        assert!(output_of.contains("crio.service: restarted"), "{output_of}");
        assert!(Pods::connect(&node).is_running(&container));
    }
    assert!(!node.path(drop_in).exists());
    let pods = Pods::connect(&node);
    pods.run(&pods.run_pod(&PodSpec::new("after")), &ContainerSpec::sleeping());
}

/// If NRI stays off, CRI-O starts the hook: systemd as PID 1 of a privileged pod, which runc leaves without
/// a cgroup of its own, runs.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn crio_starts_the_hook_that_is_installed() {
    let options = Options { runtime: Runtime::Crio, nri: false, ..Options::default() };
    let Some(node) = prepared(options, "") else { return };
    let (code, output_of) = bootstrap(&node, &["--restart"]);
    assert_eq!(code, Some(0), "{output_of}");
    assert!(output_of.contains("crio.service: restarted"), "{output_of}");
    let pods = Pods::connect(&node);
    let run = |name: &str| {
        let pod = pods.run_pod(&PodSpec::new(name).privileged());
        let container = pods.run(&pod, &ContainerSpec::systemd().privileged().env("container", "oci"));
        let state = pods.systemd_state(&container);
        pods.remove_pod(&pod);
        state
    };
    assert_eq!(run("with"), Ok("running".to_owned()));
    // When the hook is switched off, CRI-O drops it without a restart, and the behaviour is as before.
    node.write("/etc/usernsd.yaml", "bootstrap: {hook: {install: never}}\n");
    let (code, output_of) = bootstrap(&node, &[]);
    assert_eq!(code, Some(0), "{output_of}");
    assert!(!node.path("/var/lib/usernsd/bin/usernsd").exists());
    wait_for("CRI-O to see that the hook is gone", || run("without").is_err().then_some(()));
}
