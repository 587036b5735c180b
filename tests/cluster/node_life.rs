//! A node in the course of time: it joins, also with a past in another cluster, is full, has no disk left, is under
//! pressure, and gets another name.

use std::fs;

use serde_json::Value;

use crate::harness::{Cluster, UNAVAILABLE, WITH_NODE_CONDITION, Worker, is_ready, wait_for};
use crate::image;
use crate::node::{Node, Options};
use crate::presence::asking;

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
    // A pod of the renamed node may start before its agent.
    install_with_condition(&cluster, "optIn: {missed: restart}\n");
    cluster.apply(EVERYWHERE);
    assert_served(&cluster, "worker-1");
    wait_for("the Node condition", || cluster.node_condition("worker-1", UNAVAILABLE));

    // The Node of before is still there, with an agent that nobody runs.
    cluster.rename(0, RENAMED);
    agent(&cluster, RENAMED);
    assert_served(&cluster, RENAMED);
    wait_for("the Node condition", || cluster.node_condition(RENAMED, UNAVAILABLE));
    let rows = |cluster: &Cluster| -> Vec<String> {
        let output = cluster.try_kubectl(&["userns", "status"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{text}{}", String::from_utf8_lossy(&output.stderr));
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

/// Installs the overlay `kubernetes` with the Node condition, and more configuration.
#[track_caller]
fn install_with_condition(cluster: &Cluster, more: &str) {
    cluster.install_site(WITH_NODE_CONDITION, &format!("kubernetes: {{nodeCondition: \"on\"}}\n{more}"));
}

/// The checks of `usernsd doctor` that fail on a node.
#[track_caller]
pub(crate) fn failed_checks(worker: &Worker) -> Vec<String> {
    let result = worker.node.exec(["usernsd", "doctor", "--output=json"]);
    let result: Value = serde_json::from_slice(&result.stdout).unwrap();
    let failed = result["checks"].as_array().unwrap().iter().filter(|one| one["outcome"] == "fail");
    failed.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

/// The kubelet's range on a node from elsewhere; the fleet's nodes have none.
const ELSEWHERE: &str = "kubelet:16777216:7208960\n";

/// Gives a node the disk of one that another cluster had: prepared by another build of usernsd, whose last run failed,
/// with other ranges, and with a line that somebody has added since.
fn copy_disk(from: &Node, to: &Node, runtime_unit: &str) {
    for directory in ["/var/lib/usernsd", "/opt/nri", "/etc/nri"] {
        let name = directory.rsplit('/').next().unwrap();
        from.run(["tar", "-C", directory, "-cf", &format!("/run/{name}.tar"), "."]);
        to.install(&from.path(&format!("/run/{name}.tar")), &format!("/run/{name}.tar"));
        to.run(["mkdir", "-p", directory]);
        to.run(["tar", "-C", directory, "-xf", &format!("/run/{name}.tar")]);
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        let fleet = fs::read_to_string(from.path(file)).unwrap();
        to.write(file, format!("alice:100000:65536\n{ELSEWHERE}{fleet}"));
    }
    to.write(
        "/var/lib/usernsd/bootstrap-failure.json",
        r#"{"version": 1, "at": 1600000000000, "usernsd": "0.0.9", "error": "the disk was full; nothing was changed"}"#,
    );
    to.run([
        "sh",
        "-euc",
        "echo kubelet:x:950:950::/:/usr/sbin/nologin >>/etc/passwd
         # Another build of the same program, which its bootstrap installed.
         plugin=/opt/nri/plugins/90-usernsd
         digest() { sha256sum $plugin | cut -d ' ' -f 1; }
         before=$(digest)
         printf other >>$plugin
         grep -q $before /var/lib/usernsd/bootstrap.json
         sed -i s/$before/$(digest)/ /var/lib/usernsd/bootstrap.json",
    ]);
    // It launches that plugin, as at a boot.
    to.restart_unit(runtime_unit);
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn a_node_from_another_cluster_joins_one_that_has_its_name_already() {
    let Some(mut cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    install_with_condition(&cluster, "optIn: {missed: restart}\n");
    cluster.apply(EVERYWHERE);
    assert_served(&cluster, "worker-1");

    // What a node of that name has left behind: its object, with a condition that another program owns.
    cluster.apply(r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-2"}}"#);
    let stale = r#"{"status": {"conditions": [{"type": "UserNamespacesUnavailable", "status": "True",
        "reason": "KernelForbidsUserNamespaces", "message": "of another life",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
    cluster.kubectl(&["patch", "node", "worker-2", "--subresource=status", "-p", stale]);

    let unit = cluster.workers[0].runtime_unit();
    cluster.join_prepared(|first, joining| copy_disk(first, joining, unit));
    let worker = &cluster.workers[1];
    assert_served(&cluster, "worker-2");
    let joined = agent(&cluster, "worker-2");
    let log = cluster.kubectl(&["-n", "usernsd", "logs", name(&joined), "-c", "bootstrap"]);
    println!("{log}");

    // The pods' IDs are of the node's own range, and nothing of the past is reported.
    let pods = pods(&cluster, "default", "app=everywhere", "worker-2");
    let host = cluster.host_id(name(&pods[0]));
    assert!((16_777_216..16_777_216 + 7_208_960).contains(&host), "{host}");
    assert!(!worker.node.path("/var/lib/usernsd/bootstrap-failure.json").exists());
    let of = |node: &str| {
        let found = cluster.node_condition(node, UNAVAILABLE)?;
        Some((found["status"].clone(), found["reason"].clone()))
    };
    wait_for("the condition of this life", || {
        let (first, second) = (of("worker-1")?, of("worker-2")?);
        (first == second).then_some(())
    });
    assert_eq!(failed_checks(worker), failed_checks(&cluster.workers[0]));
    // The plugin of the fleet's build is installed.
    let digest = |worker: &Worker| worker.node.run(["sha256sum", "/opt/nri/plugins/90-usernsd"]);
    assert_eq!(digest(worker), digest(&cluster.workers[0]));

    // What others have on the node stays; what usernsd wrote, here or there, goes.
    cluster.kubectl(&["delete", "daemonset", "everywhere"]);
    cluster.kubectl(&["apply", "-k", "daemonset/overlays/undo"]);
    cluster.wait_for_roll_out();
    assert!(!worker.node.path("/opt/nri/plugins/90-usernsd").exists());
    let left = fs::read_to_string(worker.node.path("/etc/subuid")).unwrap();
    assert_eq!(left, format!("alice:100000:65536\n{ELSEWHERE}"));
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn a_node_under_pressure_keeps_its_agent_and_loses_others() {
    /// Pressures that a kubelet evicts for, and the signals whose thresholds no node can keep here. That of memory needs
    /// the memory controller, which the machine may lack.
    const PRESSURES: [(&str, &str); 2] =
        [("PIDPressure", "pid.available"), ("DiskPressure", "nodefs.available")];
    let Some(cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    let worker = &cluster.workers[0];
    install_with_condition(&cluster, "");
    // Under pressure the kubelet also removes images, and this node's come from no registry.
    worker.node.run([
        "sh",
        "-euc",
        "for image in $(ctr --namespace=k8s.io images list -q); do
           ctr --namespace=k8s.io images label \"$image\" io.cri-containerd.pinned=pinned >/dev/null
         done",
    ]);
    assert!(worker.node.run(["ctr", "--namespace=k8s.io", "images", "list", "-q"]).contains(image::NAME));
    let original = fs::read_to_string(worker.node.path(CONFIGURATION)).unwrap();
    for (pressure, signal) in PRESSURES {
        let ordinary = format!("ordinary-{}", pressure.to_lowercase());
        cluster.apply(&asking(&ordinary, ""));
        cluster.wait_for_pod(&ordinary, is_ready);
        let before = agent(&cluster, "worker-1");

        // A hard threshold would be reserved, and more than the node has cannot be.
        reconfigure(&cluster, worker, |text| {
            format!(
                "{text}evictionSoft: {{{signal}: 1000Ti}}\nevictionSoftGracePeriod: {{{signal}: 1s}}\n\
                 evictionPressureTransitionPeriod: 1s\n"
            )
        });
        let has = |wanted: &str| {
            let condition = cluster.node_condition("worker-1", pressure);
            condition.is_some_and(|condition| condition["status"] == wanted)
        };
        wait_for(pressure, || has("True").then_some(()));
        let evicted = cluster.wait_for_pod(&ordinary, |pod| pod["status"]["reason"] == "Evicted");
        println!("{}", evicted["status"]["message"]);
        // The kubelet looks for another pod to evict every ten seconds.
        wait_for("the kubelet to refuse to evict the agent", || {
            let log = worker.node.journal("kubelet.service");
            log.lines()
                .any(|line| line.contains("cannot evict a critical pod") && line.contains("usernsd/"))
                .then_some(())
        });
        let still = agent(&cluster, "worker-1");
        assert_eq!(still["metadata"]["uid"], before["metadata"]["uid"]);
        let restarts = |pod: &Value| {
            let containers = pod["status"]["containerStatuses"].as_array().unwrap();
            containers.iter().filter_map(|one| one["restartCount"].as_u64()).sum::<u64>()
        };
        assert_eq!(restarts(&still), restarts(&before));
        // A new one is admitted under pressure, too.
        next_agent(&cluster, "worker-1");
        let status = cluster.try_kubectl(&["userns", "status"]);
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(
            status.lines().any(|line| line.starts_with("worker-1 ") && line.contains(" Running ")),
            "{status}"
        );

        reconfigure(&cluster, worker, |_| original.clone());
        wait_for("the end of the pressure", || has("False").then_some(()));
        cluster.kubectl(&["delete", "pod", &ordinary]);
        let after = format!("after-{}", pressure.to_lowercase());
        cluster.apply(&asking(&after, ""));
        cluster.wait_for_pod(&after, is_ready);
        cluster.exec(&after, &["mkdir", "/sys/fs/cgroup/mine"]);
        cluster.kubectl(&["delete", "pod", &after]);
    }
}
