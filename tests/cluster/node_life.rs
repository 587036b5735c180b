//! A node in the course of time: it joins, is full, has no disk left, and gets another name.

use std::fs;

use serde_json::Value;

use crate::harness::{CHECKOUT, Cluster, Worker, is_ready, wait_for};
use crate::node::Options;

const CONFIGURATION: &str = "/var/lib/kubelet/config.yaml";

/// A pod on each node, which asks for a writable cgroup.
const EVERYWHERE: &str = r"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata:
      labels: {app: everywhere}
      annotations: {usernsd.io/cgroup: writable}
    spec:
      hostUsers: false
      terminationGracePeriodSeconds: 0
      containers:
        - name: main
          image: localhost/busybox:1
          command: [/bin/sh, -c, 'exec sleep 2147483647']
          resources: {requests: {memory: 1Mi}}
";

/// More pods than a node takes.
const FILL: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: fill}
spec:
  replicas: 20
  selector: {matchLabels: {app: fill}}
  template:
    metadata:
      labels: {app: fill}
    spec:
      hostUsers: false
      terminationGracePeriodSeconds: 0
      nodeSelector: {kubernetes.io/hostname: worker-1}
      containers:
        - name: main
          image: localhost/busybox:1
          command: [/bin/sh, -c, 'exec sleep 2147483647']
";

/// The running pods of a label on a node.
fn pods(cluster: &Cluster, namespace: &str, label: &str, node: &str) -> Vec<Value> {
    let field = format!("spec.nodeName={node},status.phase=Running");
    let found = cluster.get(&["pods", "-n", namespace, "-l", label, "--field-selector", &field]);
    let items = found["items"].as_array().unwrap().iter();
    items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect()
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap()
}

/// The agent of a node, once one is ready.
#[track_caller]
fn agent(cluster: &Cluster, node: &str) -> Value {
    wait_for("the agent", || {
        pods(cluster, "usernsd", "app.kubernetes.io/name=usernsd", node).into_iter().find(is_ready)
    })
}

/// Deletes the agent of a node, and waits for the next one.
#[track_caller]
fn next_agent(cluster: &Cluster, node: &str) -> Value {
    let before = agent(cluster, node);
    cluster.kubectl(&["-n", "usernsd", "delete", "pod", name(&before)]);
    let next = agent(cluster, node);
    assert_ne!(next["metadata"]["uid"], before["metadata"]["uid"]);
    next
}

/// Waits until the pod that asks on that node has what it asked for.
#[track_caller]
fn assert_served(cluster: &Cluster, node: &str) {
    wait_for("a pod with a cgroup of its own", || {
        let pods = pods(cluster, "default", "app=everywhere", node);
        let pod = pods.first()?;
        let made =
            cluster.try_kubectl(&["exec", name(pod), "--", "sh", "-c", "cd /sys/fs/cgroup; mkdir -p mine"]);
        made.status.success().then_some(())
    });
}

/// Changes a kubelet's configuration, and restarts it.
#[track_caller]
fn reconfigure(cluster: &Cluster, worker: &Worker, change: impl FnOnce(&str) -> String) {
    let before = fs::read_to_string(worker.node.path(CONFIGURATION)).unwrap();
    worker.node.write(CONFIGURATION, change(&before));
    worker.node.restart_unit("kubelet.service");
    wait_for("the kubelet", || {
        let healthz = worker.node.exec(["busybox", "wget", "-qO-", "http://127.0.0.1:10248/healthz"]);
        (healthz.stdout == b"ok").then_some(())
    });
    wait_for("the node", || is_ready(&cluster.get(&["node", &worker.name])).then_some(()));
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn a_node_joins_is_full_and_has_no_disk_left() {
    let Some(mut cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    cluster.edit("daemonset/base/config.yaml", |text| text + "optIn: {missed: restart}\n");
    cluster.install("kubernetes");
    cluster.apply(EVERYWHERE);
    assert_served(&cluster, "worker-1");

    // Its pod may start before its agent, and is created again then.
    cluster.join();
    assert_served(&cluster, "worker-2");
    agent(&cluster, "worker-2");

    // The agent finds its place on a full node: the scheduler takes one of the others from it.
    let worker = &cluster.workers[0];
    reconfigure(&cluster, worker, |text| format!("{text}maxPods: 8\n"));
    cluster.apply(FILL);
    let full = || pods(&cluster, "default", "app=fill", "worker-1").len() == 6;
    wait_for("a full node", || full().then_some(()));
    next_agent(&cluster, "worker-1");
    assert_served(&cluster, "worker-1");
    wait_for("a full node", || full().then_some(()));

    // With room for another pod, and none that waits for it.
    cluster.kubectl(&["scale", "deployment/fill", "--replicas=5"]);
    wait_for("room", || (pods(&cluster, "default", "app=fill", "worker-1").len() == 5).then_some(()));

    // Bootstrap cannot write without a disk; the agent need not.
    worker.node.run([
        "sh",
        "-euc",
        "
        mount -t tmpfs -o size=64k full /var/lib/usernsd
        rm /opt/nri/plugins/90-usernsd
        ! cat /dev/zero >/var/lib/usernsd/zeroes 2>/dev/null",
    ]);
    let agent_without_disk = next_agent(&cluster, "worker-1");
    let log = cluster.kubectl(&["-n", "usernsd", "logs", name(&agent_without_disk), "-c", "bootstrap"]);
    println!("{log}");
    assert!(log.contains("No space left on device"), "{log}");
    let doctor = cluster.try_kubectl(&["userns", "doctor", "worker-1"]);
    println!("{}", String::from_utf8_lossy(&doctor.stdout));
    let everywhere = pods(&cluster, "default", "app=everywhere", "worker-1");
    cluster.kubectl(&["delete", "pod", name(&everywhere[0])]);
    assert_served(&cluster, "worker-1");
    worker.node.run(["umount", "/var/lib/usernsd"]);
    let log = next_agent(&cluster, "worker-1");
    let log = cluster.kubectl(&["-n", "usernsd", "logs", name(&log), "-c", "bootstrap"]);
    assert!(!log.contains("No space left on device"), "{log}");
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn a_node_with_another_name_is_a_node_of_its_own() {
    const RENAMED: &str = "renamed";
    let Some(mut cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    cluster.script(&format!("mkdir {CHECKOUT}/site"));
    cluster.control().write(
        &format!("{CHECKOUT}/site/kustomization.yaml"),
        "resources: [../daemonset/overlays/kubernetes]\ncomponents: [../daemonset/components/node-condition]\n",
    );
    cluster.edit("daemonset/base/config.yaml", |text| {
        // A pod of the renamed node may start before its agent.
        text + "kubernetes: {nodeCondition: \"on\"}\noptIn: {missed: restart}\n"
    });
    cluster.kubectl(&["apply", "-k", "site"]);
    cluster.wait_for_roll_out();
    cluster.apply(EVERYWHERE);
    assert_served(&cluster, "worker-1");
    let condition = |cluster: &Cluster, node: &str| {
        wait_for("the Node condition", || {
            let node = cluster.get(&["node", node]);
            let conditions = node["status"]["conditions"].as_array()?;
            conditions.iter().any(|one| one["type"] == "UserNamespacesUnavailable").then_some(())
        });
    };
    condition(&cluster, "worker-1");

    // The Node of before is still there, with an agent that nobody runs.
    cluster.rename(0, RENAMED);
    agent(&cluster, RENAMED);
    assert_served(&cluster, RENAMED);
    condition(&cluster, RENAMED);
    let rows = |cluster: &Cluster| -> Vec<String> {
        let said = cluster.try_kubectl(&["userns", "status"]);
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        println!("{text}{}", String::from_utf8_lossy(&said.stderr));
        text.lines().skip(1).map(str::to_owned).collect()
    };
    let both = rows(&cluster);
    assert!(
        both.len() == 2 && both[0].starts_with("worker-1 ") && both[1].starts_with("renamed "),
        "{both:?}"
    );
    assert!(both[0].ends_with("the agent does not answer"), "{both:?}");

    // Kubernetes removes the pods of the old name with its Node.
    cluster.kubectl(&["delete", "node", "worker-1"]);
    wait_for("the old pods' end", || {
        let all = cluster.get(&["pods", "-A"]);
        let nodes = all["items"].as_array()?.iter().map(|pod| &pod["spec"]["nodeName"]);
        nodes.into_iter().all(|node| node != "worker-1").then_some(())
    });
    let one = rows(&cluster);
    assert!(one.len() == 1 && one[0].starts_with("renamed "), "{one:?}");
    assert_served(&cluster, RENAMED);
}
