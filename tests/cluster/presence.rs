//! Pods that ask for a writable cgroup while the DaemonSet's pods are replaced, or are away.

use std::env;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Cluster, Worker, is_ready, wait_for};
use crate::node::{Options, Process, report_skipped};

/// Number of roll-outs while pods arrive.
const ROLL_OUTS: usize = 2;
/// Where `kubectl proxy` serves the API on the control plane.
const PROXY: &str = "http://127.0.0.1:8001";

/// Pods that ask, created one after the other until this is dropped. Each checks its cgroup with its first
/// instruction and ends: with 0 if it got what it asked for, with 9 if not.
struct Arrival<'a> {
    cluster: &'a Cluster,
    _proxy: Process,
    maker: Process,
}

/// The states of the pods.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    served: usize,
    missed: usize,
    other: usize,
}

impl<'a> Arrival<'a> {
    #[track_caller]
    fn begin(cluster: &'a Cluster) -> Self {
        let control = cluster.control();
        let proxy = control.spawn(["kubectl", "proxy", "--port=8001"]);
        wait_for("the proxy", || {
            control
                .exec(["busybox", "wget", "-qO-", &format!("{PROXY}/readyz")])
                .status
                .success()
                .then_some(())
        });
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "NAME", "labels": {"arrival": "yes"},
                "annotations": {"usernsd.io/cgroup": "writable"}},
            "spec": {
                "hostUsers": false, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "asks", "image": "localhost/busybox:1",
                    "command": ["/bin/sh", "-c", "mkdir /sys/fs/cgroup/mine && exit 0; exit 9"]}],
            },
        });
        control.write("/run/arrival.json", pod.to_string());
        let script = format!(
            "number=0
             while :; do
               number=$((number + 1))
               sed \"s/NAME/asks-$number/\" /run/arrival.json >/run/arrival-now.json
               busybox wget -qO /dev/null --header 'Content-Type: application/json' \
                 --post-file /run/arrival-now.json {PROXY}/api/v1/namespaces/default/pods
               sleep 0.5
             done"
        );
        Self { cluster, _proxy: proxy, maker: control.spawn(["sh", "-c", &script]) }
    }

    fn pods(&self) -> Vec<Value> {
        self.cluster.get(&["pods", "-l", "arrival=yes"])["items"].as_array().unwrap().clone()
    }

    /// Ends the arrival, and waits for the pods' own verdicts.
    #[track_caller]
    fn figures(mut self) -> Figures {
        let _ = self.maker.child().kill();
        wait_for("the pods' ends", || {
            let phases: Vec<Value> = self.pods().iter().map(|pod| pod["status"]["phase"].clone()).collect();
            phases.iter().all(|phase| phase == "Succeeded" || phase == "Failed").then_some(())
        });
        let mut figures = Figures::default();
        for pod in self.pods() {
            match pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64() {
                Some(0) => figures.served += 1,
                Some(9) => figures.missed += 1,
                _ => {
                    println!("{}", pod["status"]);
                    figures.other += 1;
                }
            }
        }
        self.cluster.kubectl(&["delete", "pods", "-l", "arrival=yes", "--wait=false"]);
        figures
    }
}

/// Replaces all of the DaemonSet's pods, several times, while pods arrive.
fn roll_outs_under_an_arrival(cluster: &Cluster, what: &str) {
    let arrival = Arrival::begin(cluster);
    wait_for("the first pods", || (arrival.pods().len() >= 3).then_some(()));
    for _ in 0..ROLL_OUTS {
        cluster.kubectl(&["-n", "usernsd", "rollout", "restart", "daemonset/usernsd"]);
        cluster.wait_for_roll_out();
    }
    let figures = arrival.figures();
    println!("{ROLL_OUTS} roll-outs, {what}: {figures:?}");
    assert!(figures.served > 3 * ROLL_OUTS, "{figures:?}");
    assert_eq!((figures.missed, figures.other), (0, 0));
}

/// Adds to the overlays' common configuration.
#[track_caller]
fn configure(cluster: &Cluster, more: &str) {
    cluster.edit("daemonset/base/config.yaml", |text| text + more);
}

/// The plugin that the runtime of a node has launched.
pub(crate) fn plugin_runs(worker: &Worker) -> bool {
    worker.node.exec(["pgrep", "-f", "^/opt/nri/plugins/90-usernsd"]).status.success()
}

/// A pod that asks for a writable cgroup and keeps running.
pub(crate) fn asking(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations:\n    usernsd.io/cgroup: writable\n{more}\
         spec:\n  hostUsers: false\n  terminationGracePeriodSeconds: 0\n  containers:\n    - name: asks\n      \
         image: localhost/busybox:1\n      command: [/bin/sh, -c, 'exec sleep 2147483647']\n"
    )
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn no_pod_is_missed_while_the_daemonset_rolls_out() {
    let Some(cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    let worker = &cluster.workers[0];
    configure(&cluster, "bootstrap: {nri: {plugin: never}}\n");
    cluster.install("kubernetes");
    roll_outs_under_an_arrival(&cluster, "joined agents that overlap");
    assert!(!plugin_runs(worker));

    cluster.edit("daemonset/base/config.yaml", |text| text.replace("plugin: never", "plugin: auto"));
    cluster.install("kubernetes");
    worker.node.restart_unit(worker.runtime_unit());
    wait_for("the launched plugin", || plugin_runs(worker).then_some(()));
    roll_outs_under_an_arrival(&cluster, "the launched plugin");
    assert!(plugin_runs(worker));
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn the_kubelet_creates_missed_containers_again() {
    let Some(cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    for name in ["early-1", "early-2", "early-3"] {
        cluster.apply(&asking(name, ""));
    }
    cluster.apply(&asking("keeps", "    usernsd.io/missed: report\n"));
    for name in ["early-1", "early-2", "early-3", "keeps"] {
        cluster.wait_for_pod(name, is_ready);
        assert!(!cluster.try_kubectl(&["exec", name, "--", "mkdir", "/sys/fs/cgroup/mine"]).status.success());
    }
    configure(&cluster, "optIn: {missed: restart}\n");
    cluster.install("kubernetes");
    for name in ["early-1", "early-2", "early-3"] {
        cluster.wait_for_pod(name, |pod| is_ready(pod) && restarts(pod) == Some(1));
        cluster.exec(name, &["mkdir", "/sys/fs/cgroup/mine"]);
    }
    // The pod's owner has asked to keep it as it is.
    assert_eq!(restarts(&cluster.get(&["pod", "keeps"])), Some(0));
    let events = wait_for("the Events", || {
        let events = cluster.kubectl(&["get", "events"]);
        let ended = events.lines().filter(|line| line.contains("ContainerEnded")).count();
        (ended >= 3 && events.contains("WritableCgroupMissed")).then_some(events)
    });
    println!("{events}");
}

#[test]
#[cfg_attr(
    not(all(has_kubernetes, has_new_containerd)),
    ignore = "USERNSD_TEST_KUBE or USERNSD_TEST_CONTAINERD is not set"
)]
fn a_pod_that_requires_the_plugin_waits_for_it() {
    let Some(containerd) = env::var_os("USERNSD_TEST_CONTAINERD").map(PathBuf::from) else {
        return report_skipped("USERNSD_TEST_CONTAINERD does not name a containerd");
    };
    let binds = vec![
        (containerd.with_file_name("containerd-shim-runc-v2"), "/usr/bin/containerd-shim-runc-v2".to_owned()),
        (containerd, "/usr/bin/containerd".to_owned()),
    ];
    let Some(cluster) = Cluster::boot_or_skip(1, &Options { binds, ..Options::default() }) else { return };
    let worker = &cluster.workers[0];
    // The runtime reads bootstrap's drop-in when it starts.
    worker.node.run([
        "sed",
        "-i",
        "1i imports = [\"/etc/containerd/conf.d/*.toml\"]",
        "/etc/containerd/config.toml",
    ]);
    configure(&cluster, "bootstrap: {nri: {plugin: never, required: annotated}}\n");
    cluster.install("kubernetes");
    worker.node.restart_unit(worker.runtime_unit());

    // No node is selected, so every agent goes and the configuration stays.
    let select = |label: &str| {
        let patch =
            format!(r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{{"agents":{label}}}}}}}}}}}"#);
        cluster.kubectl(&["-n", "usernsd", "patch", "daemonset", "usernsd", "--patch", &patch]);
    };
    select("\"away\"");
    wait_for("the agents' end", || {
        cluster.get(&["pods", "-n", "usernsd"])["items"].as_array().unwrap().is_empty().then_some(())
    });
    let required = "    required-plugins.noderesource.dev: '[\"usernsd\"]'\n";
    // A dead plugin is noticed at the first container after its end.
    cluster.apply(&asking("web", required));
    wait_for("the refusal", || {
        let events = cluster.kubectl(&["get", "events"]);
        events.contains("required plugin").then_some(())
    });
    cluster.wait_for_pod("web", |pod| !is_ready(pod));
    println!("# kubectl get pods\n{}", cluster.kubectl(&["get", "pods"]));
    println!("# kubectl describe pod web\n{}", cluster.kubectl(&["describe", "pod", "web"]));
    let events = cluster.kubectl(&["get", "events"]);
    println!("# kubectl get events\n{events}");
    let refusal = events.lines().find(|line| line.contains("required plugin")).unwrap();
    let explained = worker.node.run(["usernsd", "explain", "--from-log", refusal]);
    println!("{explained}");
    assert!(
        explained.lines().any(|line| line.starts_with("More ") && line.contains("nri-plugin.md")),
        "{explained}"
    );

    select("null");
    cluster.wait_for_pod("web", is_ready);
    cluster.exec("web", &["mkdir", "/sys/fs/cgroup/mine"]);
}
