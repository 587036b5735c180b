//! `usernsd doctor` on a node that really is broken, one thing at a time: the check fails, and following its
//! remedy makes it pass. Cases that files alone decide are in `tests/it/doctor.rs`.

use std::fs;

use serde_json::Value;

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime, Suite};
use crate::pods::{ContainerSpec, PodSpec, Pods, UserNamespace, wait_for};

/// All checks of one run.
fn doctor(node: &Node, more: &[&str]) -> Vec<Value> {
    let ran = node.exec([&["usernsd", "doctor", "-o", "json"], more].concat());
    let document: Value = serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&ran.stderr)));
    document["checks"].as_array().unwrap().clone()
}

fn one(checks: &[Value], id: &str) -> Value {
    checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id}")).clone()
}

/// A check's outcome, message and remedy.
fn output_of(checks: &[Value], id: &str) -> (String, String, String) {
    let check = one(checks, id);
    let of = |key: &str| -> String {
        let problems = check["problems"].as_array().unwrap().iter();
        problems.map(|problem| problem[key].as_str().unwrap().to_owned() + "\n").collect()
    };
    let seen = check["seen"].as_str().unwrap_or_default().to_owned();
    (check["outcome"].as_str().unwrap().to_owned(), seen + &of("what"), of("remedy"))
}

/// Breaks the node, asserts that the check fails with this message, and follows its remedy.
fn broken(node: &Node, id: &str, outcome: &str, break_it: &str, says: &str, remedy: &str, follow: &str) {
    let shell = |script: &str| node.run(["sh", "-euc", script]);
    let before = output_of(&doctor(node, &[]), id);
    assert_ne!(before.0, outcome, "{id} before: {before:?}");
    shell(break_it);
    let (found, what, to_do) = output_of(&doctor(node, &[]), id);
    assert_eq!(found, outcome, "{id}: {what}");
    assert!(what.contains(says), "{id}: {what}");
    assert!(to_do.contains(remedy), "{id}: {to_do}");
    shell(follow);
    let after = wait_for("it passes again", || {
        let after = output_of(&doctor(node, &[]), id);
        (after.0 == before.0).then_some(after)
    });
    assert_eq!(after.0, before.0, "{id} after");
}

/// The host IDs of the `index`th range of the pool.
fn range(index: u32) -> (u32, u32, u32) {
    (0, 200_000 + 65_536 * index, 65_536)
}

#[test]
fn live_pods_are_judged_with_an_agent_and_without() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    for file in ["/etc/subuid", "/etc/subgid"] {
        node.write(file, "core:100000:65536\ncontainers:200000:6553600\n");
    }
    let pods = Pods::connect(&node);
    let nothing = doctor(&node, &[]);
    assert_eq!(output_of(&nothing, "pod_isolation").0, "skip");

    let own = |name: &str, index| PodSpec::new(name).mapped(&[range(index)]);
    let good = pods.run_pod(&own("good", 0));
    pods.run(&good, &ContainerSpec::sleeping());
    let checks = doctor(&node, &[]);
    for id in ["pod_isolation", "pod_host_root", "pod_id_overlap", "pod_cgroup_owner", "pod_cgroup_bounded"] {
        assert_eq!(output_of(&checks, id).0, "pass", "{id}: {checks:#?}");
    }
    assert_eq!(output_of(&checks, "scopes_delegated").0, "pass");

    let run = |spec: &PodSpec, container: ContainerSpec| {
        let pod = pods.run_pod(spec);
        pods.run(&pod, &container);
        pod
    };
    let wrong = run(&own("wrong", 1).privileged(), ContainerSpec::sleeping().privileged());
    let root = run(&PodSpec::new("root").mapped(&[(0, 0, 65_536)]), ContainerSpec::sleeping());
    let overlap = run(&own("overlap", 0), ContainerSpec::sleeping());
    let lost = run(
        &own("lost", 2),
        ContainerSpec { user_namespace: Some(UserNamespace::Host), ..ContainerSpec::sleeping() },
    );
    let asking = own("asking", 3).annotated("usernsd.io/cgroup", "writable");
    let read_only = run(&asking, ContainerSpec::sleeping());
    let unbounded = run(&own("unbounded", 4).handler("runc-writable"), ContainerSpec::sleeping());

    let checks = doctor(&node, &[]);
    for (id, outcome, pod, remedy) in [
        ("pod_isolation", "fail", "default/lost", "kubectl delete pod -n default lost"),
        ("pod_host_root", "fail", "default/root", "kubectl delete pod -n default root"),
        ("pod_id_overlap", "fail", "default/overlap", "kubectl delete pod -n default overlap"),
        ("pod_cgroup_owner", "fail", "default/wrong", "systemctl start usernsd"),
        ("pod_cgroup_writable", "warn", "default/asking", "kubectl delete pod -n default asking"),
        ("pod_cgroup_bounded", "warn", "default/unbounded", "systemctl start usernsd"),
    ] {
        let (found, what, to_do) = output_of(&checks, id);
        assert_eq!(found, outcome, "{id}: {checks:#?}");
        assert!(what.contains(pod) && to_do.contains(remedy), "{id}: {what}{to_do}");
    }

    // Follows the remedies: starts the agent, and replaces the pods that cannot be repaired.
    let agent = Agent::with(&node, "guard:\n  policy: report\n");
    let settled = |check: &str, want: &str| {
        wait_for(check, || (output_of(&doctor(&node, &[]), check).0 == want).then_some(()));
    };
    settled("pod_cgroup_owner", "pass");
    settled("pod_cgroup_bounded", "pass");
    let mine = doctor(&node, &["--no-agent"]);
    for id in ["pod_cgroup_owner", "pod_cgroup_bounded"] {
        assert_eq!(output_of(&mine, id).0, "pass", "{id} by its own look");
    }
    assert_eq!(output_of(&doctor(&node, &[]), "pod_isolation").0, "fail", "the agent's word");
    assert_eq!(agent.metric("usernsd_check_passed", &[("check", "pod_isolation")]), 0.0);
    for pod in [&lost, &root, &overlap, &read_only] {
        pods.remove_pod(pod);
    }
    run(&asking, ContainerSpec::sleeping());
    for id in ["pod_isolation", "pod_host_root", "pod_id_overlap", "pod_cgroup_writable"] {
        settled(id, "pass");
        assert_eq!(output_of(&doctor(&node, &["--no-agent"]), id).0, "pass", "{id} by its own look");
    }
    assert_eq!(agent.metric("usernsd_check_passed", &[("check", "pod_isolation")]), 1.0);
    drop((wrong, unbounded));
}

#[test]
fn each_problem_of_a_live_node_is_named_and_its_remedy_helps() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    node.run(["usernsd", "bootstrap"]);
    let pods = Pods::connect(&node);
    let pod = pods.run_pod(&PodSpec::new("one").mapped(&[range(0)]));
    pods.run(&pod, &ContainerSpec::sleeping());

    broken(
        &node,
        "cri_reachable",
        "fail",
        "systemctl stop containerd",
        "no CRI socket of CRI-O or containerd is there",
        "systemctl start",
        "systemctl start containerd",
    );
    broken(
        &node,
        "systemd_reachable",
        "warn",
        "mv /run/dbus/system_bus_socket /run/dbus/away",
        "cannot reach the system bus",
        "start dbus",
        "mv /run/dbus/away /run/dbus/system_bus_socket",
    );
    broken(
        &node,
        "proc_hidepid",
        "warn",
        "mount -o remount,hidepid=invisible,gid=27 /proc",
        "hidepid= and gid=",
        "mount -o remount,hidepid=0,gid=0 /proc",
        "mount -o remount,hidepid=0,gid=0 /proc",
    );
    // File systems that never support mapped mounts; kernels without huge pages lack the first.
    let has_huge_pages = fs::read_to_string("/proc/filesystems").unwrap().contains("hugetlbfs");
    let unmapped = if has_huge_pages { "hugetlbfs" } else { "ramfs" };
    broken(
        &node,
        "idmapped_mounts",
        "fail",
        &format!("mount -t {unmapped} none /var/lib/kubelet"),
        &format!("/var/lib/kubelet lies on {unmapped}"),
        "move it to ext4, xfs or btrfs",
        "umount /var/lib/kubelet",
    );
    broken(
        &node,
        "restart_pending",
        "warn",
        "sleep 1; touch /etc/containerd/config.toml",
        "containerd.service was started before /etc/containerd/config.toml changed",
        "systemctl restart containerd.service",
        "systemctl restart containerd.service",
    );
    for (break_it, says) in [
        ("pkill -9 -f ^/opt/nri/plugins/90-usernsd", "no process of /opt/nri/plugins/90-usernsd runs"),
        ("pkill -STOP -f ^/opt/nri/plugins/90-usernsd", "is stopped"),
    ] {
        let restart = "systemctl restart containerd";
        broken(&node, "plugin_running", "warn", break_it, says, "restart the runtime", restart);
    }
    // OCI runtimes of old versions.
    let configured =
        "sed -n 's/^BinaryName = \"\\(.*runc\\)\"/\\1/p' /etc/containerd/config.toml | head -n 1";
    let runc = node.run(["sh", "-c", configured]);
    let old = |says: &str| {
        format!("mv {runc} {runc}.new; printf '#!/bin/sh\\n{says}\\n' >{runc}; chmod 755 {runc}")
    };
    let new = format!("mv {runc}.new {runc}");
    broken(
        &node,
        "oci_runtime_version",
        "fail",
        &old("echo runc version 1.1.15"),
        &format!("{runc} is runc version 1.1.15"),
        "update it",
        &new,
    );
    broken(
        &node,
        "oci_runtime_idmap",
        "fail",
        &old("echo {\\\\\"linux\\\\\":{}}"),
        &format!("{runc} reports that it cannot map the IDs of mounts"),
        "update it to runc 1.2",
        &new,
    );
    broken(
        &node,
        "cri_userns_handler",
        "fail",
        &format!("{}; systemctl restart containerd", old("echo {\\\\\"linux\\\\\":{}}")),
        "offers no user namespaces",
        "update the OCI runtime",
        &format!("{new}; systemctl restart containerd"),
    );
    broken(
        &node,
        "scopes_delegated",
        "warn",
        "mkdir -p /run/systemd/system/scope.d; printf '[Scope]\\nDelegate=no\\n' >/run/systemd/system/scope.d/x.conf; \
         systemctl daemon-reload",
        "Delegate=no on cri-containerd-",
        "remove the override",
        "rm -r /run/systemd/system/scope.d; systemctl daemon-reload",
    );
}

/// Our judgement of CRI-O's files is compared with CRI-O's own behaviour.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn the_checks_of_crio_agree_with_a_real_one() {
    let Some(node) = node_with_binary(Options { runtime: Runtime::Crio, ..Options::default() }) else {
        return;
    };
    node.run(["usernsd", "bootstrap"]);
    let waits = output_of(&doctor(&node, &[]), "restart_pending");
    assert!(
        waits.0 == "warn" && waits.1.contains("by its /config workload usernsd is not loaded"),
        "{waits:?}"
    );
    node.restart_unit("crio.service");
    let checks = doctor(&node, &[]);
    let of_runtime =
        checks.iter().filter(|check| check["category"] == "runtime" || check["id"] == "restart_pending");
    for check in of_runtime {
        let want = match check["id"].as_str().unwrap() {
            "crio_restart" if node.crio_version().forgets_mappings_on_restart() => "warn",
            "containerd_config" | "containerd_snapshotter" => "skip",
            // Without an agent this check cannot be judged.
            "nri_joined" => "skip",
            _ => "pass",
        };
        assert_eq!(check["outcome"], want, "{check}");
    }

    let conf = "/etc/crio/crio.conf.d/zz.conf";
    let remove = format!("rm {conf}");
    let workload = "[crio.runtime.workloads.x]\\nactivation_annotation";
    for (text, says) in [
        (
            format!("{workload} = \"a\"\\nallowed_annotations = [\"no.such\"]\\n"),
            "invalid allowed_annotation: no.such",
        ),
        (format!("{workload} = \"\"\\n"), "annotation shouldn't be empty for workload \"x\""),
        ("[crio.runtime\\n".to_owned(), "unable to decode configuration"),
    ] {
        let write = format!("printf '{text}' >{conf}");
        broken(&node, "crio_config", "fail", &write, says, "", &remove);
        node.run(["sh", "-euc", &write]);
        let crio = node.exec(["crio", "--config", "/etc/crio/crio.conf", "config"]);
        let words = String::from_utf8_lossy(&crio.stderr).replace("\\\"", "\"");
        assert!(!crio.status.success() && words.contains(says), "CRI-O itself: {words}");
        node.run(["sh", "-euc", &remove]);
    }
    let own = "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw";
    for (id, outcome, text, remedy) in [
        ("crio_workload_twins", "warn", format!("{workload} = \"{own}\"\\n"), ""),
        (
            "crio_pod_events",
            "note",
            "[crio.runtime]\\nenable_pod_events = false\\n".to_owned(),
            "enable_pod_events = true",
        ),
        ("nri_enabled", "warn", "[crio.nri]\\nenable_nri = false\\n".to_owned(), "enable_nri = true"),
    ] {
        broken(&node, id, outcome, &format!("printf '{text}' >{conf}"), "", remedy, &remove);
    }
    broken(
        &node,
        "crio_config_ignored",
        "warn",
        &format!("touch {conf}.bak"),
        "zz.conf.bak",
        "move it elsewhere",
        &format!("rm {conf}.bak"),
    );
    broken(
        &node,
        "crio_annotations",
        "warn",
        "rm /etc/crio/crio.conf.d/99-usernsd.conf",
        "",
        "usernsd bootstrap",
        "usernsd bootstrap",
    );
}

/// systemd 252 and containerd 1.6, as packaged.
#[test]
fn old_versions_are_named() {
    let Some(node) = node_with_binary(Options { suite: Suite::Bookworm, ..Options::default() }) else {
        return;
    };
    // This machine's C library may be newer than the node's.
    if !node.exec(["usernsd", "--version"]).status.success() {
        crate::node::report_skipped("the binary does not run on bookworm");
        return;
    }
    let checks = doctor(&node, &[]);
    for (id, outcome, says) in [
        // It marks the cgroups of delegated units, as all from 251 on.
        ("systemd_version", "pass", "systemd 252"),
        ("runtime_version", "fail", "containerd 1.6"),
        ("oci_runtime_version", "fail", "runc version 1.1"),
        ("nri_enabled", "warn", " has no NRI"),
    ] {
        let (found, what, _) = output_of(&checks, id);
        assert!(found == outcome && what.contains(says), "{id}: {found} {what}");
    }
}

/// Updates are the remedies of the versions above.
#[test]
fn current_versions_pass() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    node.run(["usernsd", "bootstrap"]);
    node.restart_unit("containerd.service");
    let checks = wait_for("the launched plugin", || {
        let checks = doctor(&node, &[]);
        (output_of(&checks, "plugin_running").0 == "pass").then_some(checks)
    });
    for id in ["systemd_version", "runtime_version", "oci_runtime_version", "nri_enabled"] {
        assert_eq!(output_of(&checks, id).0, "pass", "{id}: {checks:#?}");
    }
}

/// The agent runs the same checks at each resync, and its readers see the results.
#[test]
fn the_agent_reports_the_same_checks_as_doctor() {
    let Some(node) = node_with_binary(Options::default()) else { return };
    let agent = Agent::with(
        &node,
        "resync: {interval: 10s}\nstateSocket: {allowUids: [65534]}\nbootstrap: {ranges: [{owner: containers}]}\n",
    );
    wait_for("the first round", || agent.exposition().contains("usernsd_check_passed{").then_some(()));
    let flag = |name: &str, label: &str, value: &str| agent.metric(name, &[(label, value)]);
    assert_eq!(flag("usernsd_check_passed", "check", "config_drift"), 0.0);
    assert_eq!(flag("usernsd_config_drift", "file", "subuid"), 1.0);
    assert_eq!(flag("usernsd_config_drift", "file", "sysctl"), 0.0);
    assert_eq!(flag("usernsd_config_writes_total", "file", "subuid"), 0.0);
    assert_eq!(flag("usernsd_config_restart_pending", "unit", "containerd"), 0.0);

    node.write("/etc/ranges.yaml", "bootstrap: {ranges: [{owner: containers}]}\n");
    let script = "sleep 1; touch /etc/containerd/config.toml; usernsd bootstrap --config /etc/ranges.yaml";
    node.run(["sh", "-c", script]);
    wait_for("the next round", || (flag("usernsd_config_drift", "file", "subuid") == 0.0).then_some(()));
    assert_eq!(flag("usernsd_config_writes_total", "file", "subuid"), 1.0);
    assert_eq!(flag("usernsd_config_writes_total", "file", "crio"), 0.0);
    assert_eq!(flag("usernsd_config_restart_pending", "unit", "containerd"), 1.0);
    assert_eq!(flag("usernsd_check_passed", "check", "restart_pending"), 0.0);

    // Metric, document and command have the same check and the same outcome.
    let state: Value = serde_json::from_str(&agent.get("/api/v1/state")).unwrap();
    let theirs = state["checks"].as_array().unwrap();
    let mine = doctor(&node, &["--no-agent"]);
    assert_eq!(theirs.len(), mine.len());
    for check in theirs {
        let (id, outcome) = (check["id"].as_str().unwrap(), check["outcome"].as_str().unwrap());
        // The agent starts no programs, and only the agent has a result about joining.
        let is_its_own = id.starts_with("oci_runtime") || matches!(id, "idmapped_mounts" | "nri_joined");
        if id == "nri_enabled" {
            assert_eq!((outcome, output_of(&mine, id).0.as_str()), ("pass", "skip"));
        } else if !is_its_own {
            assert_eq!(output_of(&mine, id).0, outcome, "{id}");
        }
        let series = format!("usernsd_check_passed{{check=\"{id}\"");
        let line = agent.exposition().lines().find(|line| line.starts_with(&series)).map(str::to_owned);
        let want = match outcome {
            "skip" => None,
            "pass" => Some(" 1"),
            _ => Some(" 0"),
        };
        assert_eq!(line.as_deref().map(|line| &line[line.len() - 2..]), want, "{id}");
    }
    // A user who cannot examine the node.
    let binary = "/tmp/usernsd";
    node.run(["sh", "-c", &format!("cp /usr/local/bin/usernsd {binary}; chmod 755 {binary}")]);
    let nobody =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary, "doctor", "-o", "json"];
    let ran = node.exec(nobody);
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let checks = document["checks"].as_array().unwrap();
    assert_eq!(output_of(checks, "systemd_reachable").0, "pass");
    let text = fs::read_to_string(node.path("etc/subuid")).unwrap();
    assert!(text.contains("containers"), "{text}");
}

/// The problems that bootstrap reports at the end, which doctor reports until the remedy is followed, and
/// the same for `--undo`.
#[test]
fn a_kubelet_that_has_not_read_its_new_range_is_an_error_until_it_is_restarted() {
    const RECORD: &str = r#"{"uidMappings":[{"hostId":65536,"containerId":0,"length":65536}],"gidMappings":[{"hostId":65536,"containerId":0,"length":65536}]}"#;
    let Some(node) = node_with_binary(Options { runtime: Runtime::None, ..Options::default() }) else {
        return;
    };
    let unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
    node.write("/etc/systemd/system/kubelet.service", unit);
    node.write("/var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\nmaxPods: 110\n");
    node.write("/etc/usernsd.yaml", "bootstrap: {kubelet: {user: create}}\n");
    node.run(["systemctl", "daemon-reload"]);
    node.run(["systemctl", "start", "kubelet.service"]);
    let config = "--config=/etc/usernsd.yaml";
    let range_read = || output_of(&doctor(&node, &[config]), "kubelet_range_read");
    assert_eq!(range_read().0, "pass");

    let bootstrap = |more: &[&str]| {
        let ran = node.exec([&["usernsd", "bootstrap", config], more].concat());
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8_lossy(&ran.stderr).into_owned()
    };
    let words = "error: kubelet.service was started before its range of IDs changed (/etc/passwd, /etc/subgid, \
                 /etc/subuid)";
    let reported = bootstrap(&[]);
    assert!(reported.contains(words) && reported.contains("[kubelet-range-unread]"), "{reported}");
    let (outcome, what, remedy) = range_read();
    assert_eq!(
        (outcome.as_str(), remedy.as_str()),
        ("fail", "systemctl restart kubelet.service\n"),
        "{what}"
    );
    // A second run finds nothing to write, and the error all the same.
    assert!(bootstrap(&[]).contains(words));

    // A pod of the former range: the kubelet would not start again.
    node.write("/var/lib/kubelet/pods/x/userns", RECORD);
    let (_, _, remedy) = range_read();
    assert_eq!(remedy, "drain the node, then: systemctl restart kubelet.service\n");
    node.run(["rm", "-r", "/var/lib/kubelet/pods/x"]);

    node.run(["systemctl", "restart", "kubelet.service"]);
    assert_eq!(range_read().0, "pass");
    assert!(!bootstrap(&[]).contains("kubelet-range-unread"));

    // A change by another program to these files does not affect the kubelet.
    node.run(["useradd", "--no-create-home", "alice"]);
    assert_eq!(range_read().0, "pass");

    assert!(bootstrap(&["--undo"]).contains("[kubelet-range-unread]"));
    assert_eq!(range_read().0, "fail");
    node.run(["systemctl", "restart", "kubelet.service"]);
    assert_eq!(range_read().0, "pass");

    // With --restart nothing is left to do.
    assert!(bootstrap(&["--restart"]).contains("kubelet.service: restarted"));
    assert_eq!(range_read().0, "pass");
}
