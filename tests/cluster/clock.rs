//! A node whose clock is set while usernsd reports to the cluster. libfaketime shows agent and exporter another time:
//! the machine's own clock is everybody's, and Kubernetes' programs do not read it through libc.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use usernsd_domain::utc::rfc3339;

use crate::harness::{Cluster, UNAVAILABLE, is_ready, wait_for};
use crate::node::{Node, Options, report_skipped};
use crate::presence::asking;

const DAY: Duration = Duration::from_secs(86_400);
/// More than the test takes, and less than a day.
const HOURS: Duration = Duration::from_secs(4 * 3600);

/// Runs agent and exporter from a program that is not static, with the library that shows them another time.
fn patch(library: &str) -> String {
    let container = |name: &str| {
        format!(
            "          - name: {name}
            env:
            - {{name: LD_PRELOAD, value: {library}}}
            - {{name: FAKETIME_TIMESTAMP_FILE, value: /run/clock/now}}
            - {{name: FAKETIME_NO_CACHE, value: '1'}}
            - {{name: FAKETIME_DONT_FAKE_MONOTONIC, value: '1'}}
            volumeMounts:
            - {{name: clock, mountPath: /run/clock, readOnly: true}}
            - {{name: program, mountPath: /usernsd, readOnly: true}}
            - {{name: libraries, mountPath: /usr/lib, readOnly: true}}
            - {{name: libraries, mountPath: /lib, readOnly: true}}
            - {{name: libraries64, mountPath: /lib64, readOnly: true}}
"
        )
    };
    format!(
        "\
resources: [../daemonset/overlays/kubernetes]
components: [../daemonset/components/node-condition]
patches:
- target: {{kind: DaemonSet, name: usernsd}}
  patch: |
    apiVersion: apps/v1
    kind: DaemonSet
    metadata: {{name: usernsd}}
    spec:
      template:
        spec:
          containers:
{}{}          volumes:
          - {{name: clock, hostPath: {{path: /run/clock}}}}
          - {{name: program, hostPath: {{path: /usr/local/lib/usernsd-dynamic}}}}
          - {{name: libraries, hostPath: {{path: /usr/lib}}}}
          - {{name: libraries64, hostPath: {{path: /usr/lib64}}}}
",
        container("agent"),
        container("exporter")
    )
}

/// Sets the clock that usernsd on the node sees.
fn set(node: &Node, by: &str) {
    node.write("/run/clock/new", format!("{by}\n"));
    node.run(["mv", "/run/clock/new", "/run/clock/now"]);
}

/// Waits until the Node condition's times, by their names, are within a few hours of `now`.
#[track_caller]
fn wait_for_condition(cluster: &Cluster, now: SystemTime) -> Value {
    let (least, most) = (rfc3339(now - HOURS), rfc3339(now + HOURS));
    wait_for("the Node condition's times", || {
        let condition = cluster.node_condition("worker-1", UNAVAILABLE)?;
        let is_near = |name: &str| {
            let time = condition[name].as_str().unwrap();
            least.as_str() < time && time < most.as_str()
        };
        (is_near("lastHeartbeatTime") && is_near("lastTransitionTime")).then_some(condition)
    })
}

/// A pod that gets its cgroup; and one whose user has no ID on the node, with the Event about that, whose time must be
/// within a few hours of `now`.
#[track_caller]
fn assert_served_and_reported(cluster: &Cluster, pod: &str, now: SystemTime) {
    cluster.apply(&asking(pod, ""));
    cluster.wait_for_pod(pod, is_ready);
    cluster.exec(pod, &["mkdir", "/sys/fs/cgroup/mine"]);
    let other = format!("{pod}-other");
    cluster.apply(&asking(&other, "").replace("spec:\n", "spec:\n  securityContext: {runAsUser: 70000}\n"));
    let event = wait_for("the Event", || {
        let events = cluster.get(&["events.events.k8s.io"]);
        let is_about = |event: &&Value| {
            event["reason"] == "UserNotInMapping" && event["regarding"]["name"] == other.as_str()
        };
        events["items"].as_array()?.iter().find(is_about).cloned()
    });
    let time = event["eventTime"].as_str().unwrap();
    assert!(rfc3339(now - HOURS).as_str() < time && time < rfc3339(now + HOURS).as_str(), "{event}");
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn reports_keep_true_times_when_a_nodes_clock_is_set() {
    let library = format!("/usr/lib/{ARCH}-linux-gnu/faketime/libfaketimeMT.so.1");
    if !Path::new(&library).exists() {
        return report_skipped("there is no libfaketime");
    }
    let binds = vec![
        (PathBuf::from(&library), library.clone()),
        (PathBuf::from(env!("CARGO_BIN_EXE_usernsd")), "/usr/local/lib/usernsd-dynamic".to_owned()),
    ];
    let Some(cluster) = Cluster::boot_or_skip(1, &Options { binds, ..Options::default() }) else { return };
    let node = &cluster.workers[0].node;
    node.run(["mkdir", "/run/clock"]);
    set(node, "+0");
    let configuration = "kubernetes: {nodeCondition: \"on\"}\nbootstrap: {nri: {plugin: never}}\n";
    cluster.install_site(&patch(&library), configuration);
    let agents = || cluster.get(&["pods", "-n", "usernsd"])["items"].clone();
    let uid = agents()[0]["metadata"]["uid"].clone();
    wait_for_condition(&cluster, SystemTime::now());
    assert_served_and_reported(&cluster, "today", SystemTime::now());

    set(node, "+86400");
    let condition = wait_for_condition(&cluster, SystemTime::now() + DAY);
    println!("{condition}");
    assert_served_and_reported(&cluster, "tomorrow", SystemTime::now() + DAY);

    // Back: nothing waits for a day that has passed already.
    set(node, "+0");
    wait_for_condition(&cluster, SystemTime::now());
    assert_served_and_reported(&cluster, "today-again", SystemTime::now());
    let row = cluster.kubectl(&["userns", "ps", "-A"]);
    assert_eq!(row.lines().filter(|line| line.trim_end().ends_with(" ok")).count(), 3, "{row}");
    let agent = &agents()[0];
    let containers = agent["status"]["containerStatuses"].as_array().unwrap();
    assert!(agent["metadata"]["uid"] == uid && containers.iter().all(|one| one["restartCount"] == 0));
    let address = agent["status"]["podIP"].as_str().unwrap();
    let metrics = cluster.script(&format!("busybox wget -qO- http://{address}:9564/metrics"));
    assert!(metrics.contains("\nusernsd_kube_up 1"), "{metrics}");
}
