//! A cluster on a whole machine, whose kernel has the controllers of cgroup v2 (`make vm-cluster`): limits of the
//! kubelet's, their change in place, and what happens when a container or the node runs out of memory.

use serde_json::Value;

use crate::harness::{Cluster, Worker, is_ready, wait_for};
use crate::pods::OF_THE_POD;
use crate::recipes::example;

/// Prints the limits of a cgroup.
const SHOW_LIMITS: &str = "cat memory.max cpu.max";
/// The limits of the server with systemd, in the terms of cgroup v2.
const LIMITS: &str = "201326592\n50000 100000";
/// The limits after their change.
const CHANGED: &str = "268435456\n30000 100000";

/// A pod that fills the node's memory. It stays below what it requests, so without the agent's priority class the
/// kubelet would rank the agent before it.
const EATER: &str = r"
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: important}
value: 1000000
---
apiVersion: v1
kind: Pod
metadata: {name: eater}
spec:
  priorityClassName: important
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: localhost/busybox:1
      command:
        - /bin/sh
        - -c
        - |
          i=0
          while [ $(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo) -gt 250000 ]; do
            i=$((i + 1))
            dd if=/dev/zero of=/memory/$i bs=1M count=16 2>/dev/null
          done
          exec sleep 2147483647
      resources: {requests: {memory: 1900Mi}}
      volumeMounts: [{name: memory, mountPath: /memory}]
  volumes:
    - {name: memory, emptyDir: {medium: Memory}}
";

/// The example with systemd, with limits.
fn limited_systemd(cluster: &Cluster) -> String {
    let resources = "resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {cpu: 500m, memory: 192Mi}}";
    let text = example(cluster, "systemd-server");
    let limited = text.replace("      tty: true\n", &format!("      tty: true\n      {resources}\n"));
    assert_ne!(limited, text);
    limited
}

/// The status of a pod's container of that name.
fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let statuses = pod["status"]["containerStatuses"].as_array().unwrap();
    statuses.iter().find(|status| status["name"] == name).unwrap()
}

/// The node's directory of a container's cgroup.
#[track_caller]
fn cgroup(worker: &Worker, status: &Value) -> String {
    let id = status["containerID"].as_str().unwrap().trim_start_matches("containerd://");
    let path = worker.node.run(["find", "/sys/fs/cgroup/kubepods.slice", "-name", &format!("*{id}.scope")]);
    assert!(!path.is_empty(), "{id} has no cgroup");
    path
}

/// The pods of the DaemonSet: the UID and the restarts of each container.
fn agents(cluster: &Cluster) -> Vec<(String, Vec<u64>)> {
    let pods = cluster.get(&["pods", "-n", "usernsd"]);
    let pods = pods["items"].as_array().unwrap().iter();
    pods.map(|pod| {
        let statuses = pod["status"]["containerStatuses"].as_array().unwrap();
        let restarts = statuses.iter().map(|status| status["restartCount"].as_u64().unwrap()).collect();
        (pod["metadata"]["uid"].as_str().unwrap().to_owned(), restarts)
    })
    .collect()
}

/// The agent lists that many containers, all of them served. Prints the problems of the node, whose kubelet nothing has
/// prepared.
#[track_caller]
fn assert_all_is_well(cluster: &Cluster, containers: usize) {
    let ps = cluster.kubectl(&["userns", "ps", "-A"]);
    let served = ps.lines().filter(|line| line.trim_end().ends_with(" ok")).count();
    assert_eq!(served, containers, "{ps}");
    let status = cluster.try_kubectl(&["userns", "status"]);
    println!("{ps}\n{}", String::from_utf8_lossy(&status.stdout));
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn limits_apply_inside_a_pod_and_are_changed_in_place() {
    let Some(cluster) = Cluster::boot_on_machine_or_skip() else { return };
    let worker = &cluster.workers[0];
    cluster.install("kubernetes");
    let agents_before = agents(&cluster);

    cluster.apply(&limited_systemd(&cluster));
    let before = cluster.wait_for_pod("systemd-server", is_ready);
    let inside = |script: &str| cluster.exec("systemd-server", &["sh", "-euc", script]);
    let path = cgroup(worker, container(&before, "server"));
    let outside = |path: &str, script: &str| worker.node.run(["sh", "-euc", &format!("cd {path}; {script}")]);
    let limits = |path: &str| {
        let seen = outside(path, SHOW_LIMITS);
        assert_eq!(inside(&format!("cd /sys/fs/cgroup; {SHOW_LIMITS}")), seen);
        seen
    };
    let memory_of_units = || inside("systemctl show --property=EffectiveMemoryMax --value nginx.service");
    assert_eq!(limits(&path), LIMITS);
    assert_eq!(memory_of_units(), "201326592");
    // The kubelet limits the processes of a pod. A container has its unit's limit, systemd's default, which is higher.
    assert_eq!(outside(&path, "cat ../pids.max"), "200");
    let many = "for i in $(seq 200); do sleep 1000 & done";
    let words = ["exec", "systemd-server", "--", "systemd-run", "--quiet", "--pipe", "--wait", "--collect"];
    let output = cluster.try_kubectl(&[&words[..], &["sh", "-c", many]].concat());
    let output = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.contains("fork"), "{output}");
    assert_all_is_well(&cluster, 1);

    // Changed in place: the same container, the same owners, other limits, which systemd sees.
    let owners = |path: &str| outside(path, "stat -c '%n %u:%g %a' . *");
    let owners_before = owners(&path);
    cluster.kubectl(&[
        "patch",
        "pod",
        "systemd-server",
        "--subresource=resize",
        "--patch",
        r#"{"spec": {"containers": [{"name": "server", "resources": {
            "requests": {"cpu": "40m", "memory": "80Mi"}, "limits": {"cpu": "300m", "memory": "256Mi"}}}]}}"#,
    ]);
    let after = cluster.wait_for_pod("systemd-server", |pod| {
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        container(pod, "server")["resources"]["limits"]["memory"] == "256Mi"
            && !conditions.iter().any(|one| one["type"].as_str().unwrap().starts_with("PodResize"))
    });
    for field in ["containerID", "restartCount"] {
        assert_eq!(container(&after, "server")[field], container(&before, "server")[field]);
    }
    assert_eq!(limits(&path), CHANGED);
    assert_eq!(memory_of_units(), "268435456");
    assert_eq!(owners(&path), owners_before);
    inside("systemd-run --quiet --wait --property=MemoryMax=20M true");
    assert_all_is_well(&cluster, 1);

    // A unit that runs out of memory ends, and the kubelet sees nothing of it.
    let script = "systemd-run --quiet --wait --unit=eater --property=MemoryMax=30M tail /dev/zero && exit 1
        systemctl show --property=Result --value eater.service; systemctl reset-failed; systemctl is-system-running";
    assert_eq!(inside(script), "oom-kill\nrunning");
    let pod = cluster.get(&["pod", "systemd-server"]);
    assert_eq!(container(&pod, "server")["containerID"], container(&before, "server")["containerID"]);

    // The container's own limit: all of it ends, and the kubelet creates it again, with a cgroup of its own.
    let _ =
        cluster.try_kubectl(&["exec", "systemd-server", "--", "systemd-run", "--quiet", "tail", "/dev/zero"]);
    let pod = cluster
        .wait_for_pod("systemd-server", |pod| container(pod, "server")["restartCount"] == 1 && is_ready(pod));
    let ended = &container(&pod, "server")["lastState"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&"OOMKilled".into(), &137.into()), "{ended}");
    assert_eq!(limits(&cgroup(worker, container(&pod, "server"))), CHANGED);
    assert_all_is_well(&cluster, 1);

    // The resources of a whole pod: each container's cgroup is its own, and the limit is above both.
    cluster.apply(OF_THE_POD);
    let pod = cluster.wait_for_pod("of-the-pod", is_ready);
    for name in ["one", "other"] {
        let path = cgroup(worker, container(&pod, name));
        println!("{name}: {}", outside(&path, SHOW_LIMITS));
        assert_eq!(outside(&path, &format!("cd ..; {SHOW_LIMITS}")), "67108864\n20000 100000");
    }
    assert_all_is_well(&cluster, 3);
    let eats = ["exec", "of-the-pod", "-c", "other", "--", "tail", "/dev/zero"];
    assert!(!cluster.try_kubectl(&eats).status.success());
    let pod = cluster
        .wait_for_pod("of-the-pod", |pod| container(pod, "other")["restartCount"] == 1 && is_ready(pod));
    assert_eq!(container(&pod, "one")["restartCount"], 0);
    assert_all_is_well(&cluster, 3);

    // Nothing of it was the node's, or the agent's.
    let node = cluster.get(&["node", &worker.name]);
    assert!(is_ready(&node));
    let events = cluster.kubectl(&["get", "events", "-A"]);
    println!("{events}");
    // A kernel without cpuset prints a line that the kubelet does not understand (cadvisor's `containerRegexp`), and it calls
    // each container's lack of memory the system's. So only those that the test asked for.
    let mut of_system = events.lines().filter(|line| line.contains("SystemOOM"));
    assert!(of_system.all(|line| line.contains("victim process: tail")), "{events}");
    assert_eq!(agents(&cluster), agents_before);
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn the_agent_stays_on_a_node_that_runs_out_of_memory() {
    let Some(cluster) = Cluster::boot_on_machine_or_skip() else { return };
    let worker = &cluster.workers[0];
    cluster.install("kubernetes");
    let before = agents(&cluster);
    let has_pressure = |status: &str| {
        let node = cluster.get(&["node", &worker.name]);
        let conditions = node["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|one| one["type"] == "MemoryPressure" && one["status"] == status)
    };

    cluster.apply(EATER);
    let pod = cluster.wait_for_pod("eater", |pod| pod["status"]["phase"] == "Failed");
    println!("{}", pod["status"]["message"]);
    assert_eq!(pod["status"]["reason"], "Evicted");
    // It stays for the period of transition.
    wait_for("the pressure", || has_pressure("True").then_some(()));
    wait_for("the end of the pressure", || has_pressure("False").then_some(()));

    assert_eq!(agents(&cluster), before);
    let events = cluster.kubectl(&["get", "events", "-A", "--field-selector=reason=Evicted"]);
    println!("{events}");
    assert!(!events.contains("usernsd-"), "{events}");
    cluster.wait_for_roll_out();
    cluster.apply(&crate::presence::asking("after", ""));
    cluster.wait_for_pod("after", is_ready);
    cluster.exec("after", &["mkdir", "/sys/fs/cgroup/mine"]);
    assert_all_is_well(&cluster, 1);
}
