//! The kubelet's own errors about ID ranges, each fed to `usernsd explain --from-log`.

use std::fs;

use crate::harness::{Cluster, Worker, is_ready, wait_for};
use crate::node::Options;

const CONFIGURATION: &str = "/var/lib/kubelet/config.yaml";

/// A kubelet that does not start.
struct Refused {
    /// `/etc/subuid`.
    uids: &'static str,
    /// `/etc/subgid`.
    gids: &'static str,
    /// Additions to the kubelet's configuration.
    configuration: &'static str,
    /// The heading in docs/errors.md of the error with which it ends.
    heading: &'static str,
}

const fn refused(lines: &'static str, heading: &'static str) -> Refused {
    Refused { uids: lines, gids: lines, configuration: "", heading }
}

const GOOD: &str = "kubelet:1048576:7208960\n";
const REFUSED: [Refused; 14] = [
    refused("kubelet:100000:7208960\n", "kubelet-start-not-multiple"),
    refused("kubelet:0:7208960\n", "kubelet-start-too-low"),
    refused("kubelet:65536:7208961\n", "kubelet-count-not-multiple"),
    refused("kubelet:65536:65536\n", "kubelet-too-few-ids"),
    refused("kubelet:65536:7208960\nkubelet:8000000:65536\n", "kubelet-two-lines"),
    refused("other:65536:7208960\n", "kubelet-no-range"),
    refused("kubelet:65536:4294967296\n", "kubelet-no-range"),
    refused("kubelet:-65536:7208960\n", "kubelet-no-range"),
    refused("kubelet:65536:7208960\r\n", "kubelet-no-range"),
    Refused { gids: "kubelet:131072:7208960\n", ..refused(GOOD, "kubelet-files-differ") },
    Refused { gids: "", ..refused(GOOD, "kubelet-no-range") },
    Refused {
        configuration: "userNamespaces: {idsPerPod: 70000}\n",
        ..refused(GOOD, "kubelet-length-not-multiple")
    },
    Refused {
        configuration: "userNamespaces: {idsPerPod: 100}\n",
        ..refused(GOOD, "kubelet-length-not-multiple")
    },
    Refused {
        configuration: "userNamespaces: {idsPerPod: 2097152}\n",
        ..refused(GOOD, "kubelet-start-not-multiple")
    },
];

/// Writes the ranges of the node's users.
fn write_ranges(worker: &Worker, uids: &str, gids: &str) {
    worker.node.write("/etc/subuid", uids);
    worker.node.write("/etc/subgid", gids);
}

/// Restarts the kubelet, waits for the error with which it ends, and returns that line.
#[track_caller]
fn error_of_a_restart(worker: &Worker) -> String {
    // Stopped first: systemd starts it again and again, and the next error would come from the earlier
    // files.
    worker.node.run(["systemctl", "stop", "kubelet"]);
    let before = errors(worker).len();
    worker.node.run(["systemctl", "start", "--no-block", "kubelet"]);
    wait_for("the kubelet's error", || {
        let lines = errors(worker);
        (lines.len() > before).then(|| lines.last().unwrap().clone())
    })
}

fn errors(worker: &Worker) -> Vec<String> {
    let log = worker.node.run(["journalctl", "--no-pager", "-o", "cat", "-u", "kubelet"]);
    log.lines().filter(|line| line.contains("\"command failed\"")).map(str::to_owned).collect()
}

/// Waits until the kubelet has reported to the API server after its restart.
#[track_caller]
fn restart_until_ready(cluster: &Cluster, worker: &Worker) {
    worker.node.restart_unit("kubelet.service");
    // The kubelet's own endpoint, because the Node object stays ready for a while.
    wait_for("the kubelet", || {
        let healthz = worker.node.exec(["busybox", "wget", "-qO-", "http://127.0.0.1:10248/healthz"]);
        (healthz.stdout == b"ok").then_some(())
    });
    wait_for("the node", || is_ready(&cluster.get(&["node", &worker.name])).then_some(()));
}

/// The output of `explain --from-log` for a line.
#[track_caller]
fn explained(worker: &Worker, line: &str) -> String {
    let output = worker.node.exec(["usernsd", "explain", "--from-log", line]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether the explanation belongs to that heading; for an unknown message it names the most similar one.
fn is_explained_by(output: &str, heading: &str) -> bool {
    output.lines().any(|line| line.starts_with("More ") && line.contains(&format!("errors.md#{heading},")))
}

/// A pod in a user namespace, on that node.
fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  hostUsers: false\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n    - name: c\n      image: localhost/busybox:1\n      \
         command: [/bin/sh, -c, 'exec sleep 2147483647']\n"
    )
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn the_kubelets_errors_about_ranges_are_explained() {
    let Some(cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    let worker = &cluster.workers[0];
    worker.node.run(["sh", "-euc", "echo kubelet:x:950:950::/:/usr/sbin/nologin >>/etc/passwd"]);
    let mut unexplained = Vec::new();
    let configuration = fs::read_to_string(worker.node.path(CONFIGURATION)).unwrap();
    for Refused { uids, gids, configuration: more, heading } in REFUSED {
        write_ranges(worker, uids, gids);
        worker.node.write(CONFIGURATION, format!("{configuration}{more}"));
        let line = error_of_a_restart(worker);
        let output = explained(worker, &line);
        println!("{line}\n{output}");
        if !is_explained_by(&output, heading) {
            unexplained.push((heading, line, output));
        }
    }
    worker.node.write(CONFIGURATION, configuration);
    assert!(unexplained.is_empty(), "{unexplained:#?}");

    // A range that the kubelet accepts; the pod gets IDs from it.
    write_ranges(worker, GOOD, GOOD);
    restart_until_ready(&cluster, worker);
    cluster.apply(&pod("first"));
    cluster.wait_for_pod("first", is_ready);
    let host = cluster.host_id("first");
    assert!((1_048_576..8_257_536).contains(&host), "{host}");

    // The range changes under the running kubelet, which has read it at its start: new pods still get IDs of the
    // old one, and its next start fails on their records.
    let moved = "kubelet:16777216:7208960\n";
    write_ranges(worker, moved, moved);
    cluster.apply(&pod("second"));
    cluster.wait_for_pod("second", is_ready);
    let host = cluster.host_id("second");
    assert!((1_048_576..8_257_536).contains(&host), "{host}");
    let line = error_of_a_restart(worker);
    let output = explained(worker, &line);
    println!("{line}\n{output}");
    assert!(is_explained_by(&output, "kubelet-record-out-of-range"), "{line}\n{output}");

    // The steps of the remedy: restore the old range, start the kubelet, remove the pods and their records,
    // set the new range.
    write_ranges(worker, GOOD, GOOD);
    restart_until_ready(&cluster, worker);
    cluster.kubectl(&["delete", "pods", "--all"]);
    wait_for("the kubelet to remove the records", || {
        let found = worker.node.exec(["sh", "-c", "ls /var/lib/kubelet/pods/*/userns"]);
        (!found.status.success()).then_some(())
    });
    write_ranges(worker, moved, moved);
    restart_until_ready(&cluster, worker);
    cluster.apply(&pod("third"));
    cluster.wait_for_pod("third", is_ready);
    let host = cluster.host_id("third");
    assert!(host >= 16_777_216, "{host}");
}
