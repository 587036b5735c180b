//! Pods as people write them: volumes, resources of a whole pod, init containers and sidecars, a debugger, a
//! StatefulSet with a claim, a Deployment that is scaled, another runtime class.

use std::env;

use crate::harness::{Cluster, first_host_id, is_ready, wait_for};
use crate::node::Options;

/// Pods of the Deployment, if `USERNSD_TEST_STORM` has no other number.
const REPLICAS: usize = 12;

const VOLUMES: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {key: configured}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {key: secret}
---
apiVersion: v1
kind: Pod
metadata:
  name: volumes
  annotations: {usernsd.io/cgroup: writable}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
  initContainers:
    - name: first
      image: localhost/busybox:1
      command: [/bin/sh, -c, 'mkdir /sys/fs/cgroup/mine; echo written >/empty/file']
      volumeMounts: [{name: empty, mountPath: /empty}]
    - name: sidecar
      restartPolicy: Always
      image: localhost/busybox:1
      command: [/bin/sh, -c, 'echo beside; exec sleep 2147483647']
  containers:
    - name: main
      image: localhost/busybox:1
      command: [/bin/sh, -c, 'echo started; exec sleep 2147483647']
      volumeMounts:
        - {name: empty, mountPath: /empty}
        - {name: memory, mountPath: /memory}
        - {name: settings, mountPath: /settings}
        - {name: secret, mountPath: /secret}
        - {name: about, mountPath: /about}
        - {name: host, mountPath: /host}
  volumes:
    - {name: empty, emptyDir: {}}
    - {name: memory, emptyDir: {medium: Memory}}
    - {name: settings, configMap: {name: settings}}
    - {name: secret, secret: {secretName: secret, defaultMode: 0400}}
    - {name: about, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
    - {name: host, hostPath: {path: /run/shared, type: DirectoryOrCreate}}
";

const STATEFUL: &str = r"
apiVersion: v1
kind: PersistentVolume
metadata: {name: data}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /run/data, type: DirectoryOrCreate}
  claimRef: {namespace: default, name: data-database-0}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: database}
spec:
  serviceName: database
  selector: {matchLabels: {app: database}}
  template:
    metadata:
      labels: {app: database}
      annotations: {usernsd.io/cgroup: writable}
    spec:
      hostUsers: false
      terminationGracePeriodSeconds: 0
      containers:
        - name: main
          image: localhost/busybox:1
          command: [/bin/sh, -c, 'exec sleep 2147483647']
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], storageClassName: '', resources: {requests: {storage: 1Mi}}}
";

const SCALED: &str = r"
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: other}
handler: crun
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: scaled}
spec:
  replicas: 0
  selector: {matchLabels: {app: scaled}}
  template:
    metadata:
      labels: {app: scaled}
      annotations: {usernsd.io/cgroup: writable}
    spec:
      hostUsers: false
      runtimeClassName: other
      terminationGracePeriodSeconds: 0
      containers:
        - name: main
          image: localhost/busybox:1
          command: [/bin/sh, -c, 'mkdir /sys/fs/cgroup/mine && touch /tmp/served; exec sleep 2147483647']
          readinessProbe: {exec: {command: [ls, /tmp/served]}, periodSeconds: 1}
";

/// A pod whose resources are those of all its containers together, in two of which it makes cgroups.
pub(crate) const OF_THE_POD: &str = r"
apiVersion: v1
kind: Pod
metadata:
  name: of-the-pod
  annotations: {usernsd.io/cgroup: writable}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {cpu: 200m, memory: 64Mi}}
  containers:
    - &container
      name: one
      image: localhost/busybox:1
      command: [/bin/sh, -c, 'mkdir /sys/fs/cgroup/mine && touch /tmp/served; exec sleep 2147483647']
      readinessProbe: {exec: {command: [ls, /tmp/served]}, periodSeconds: 1}
    - {<<: *container, name: other}
";

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn pods_as_people_write_them_are_served() {
    let Some(cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    cluster.install("kubernetes");

    cluster.apply(VOLUMES);
    cluster.wait_for_pod("volumes", is_ready);
    let inside = |script: &str| cluster.exec("volumes", &["sh", "-ec", script]);
    assert_eq!(inside("id -u; id -G | tr ' ' '\\n' | sort -n"), "1000\n1000\n2000");
    assert_eq!(inside("cat /empty/file /settings/key /about/name"), "written\nconfiguredvolumes");
    // The file has the group that the pod asked for, in the pod's own IDs.
    for place in ["/empty", "/memory", "/secret/..data/key"] {
        assert_eq!(inside(&format!("stat -c %g {place}")), "2000", "{place}");
    }
    assert_eq!(
        inside("cat /secret/key; touch /empty/mine /memory/mine; stat -c %u:%g /memory/mine"),
        "secret1000:2000"
    );
    // The files of the host belong to root in the pod, and this user is not root.
    assert_eq!(inside("stat -c %u /host; touch /host/mine || echo refused"), "0\nrefused");

    // Files in and out, its output, and its own view.
    cluster.script("echo copied >/run/copied");
    cluster.kubectl(&["cp", "/run/copied", "volumes:/empty/copied", "-c", "main"]);
    assert_eq!(inside("cat /empty/copied"), "copied");
    assert_eq!(cluster.kubectl(&["logs", "volumes", "-c", "sidecar"]), "beside");
    cluster.kubectl(&[
        "debug",
        "volumes",
        "--image=localhost/busybox:1",
        "--target=main",
        "-c",
        "debugger",
        "--",
        "sleep",
        "1000000",
    ]);
    wait_for("the debugger", || {
        let pod = cluster.get(&["pod", "volumes"]);
        pod["status"]["ephemeralContainerStatuses"][0]["state"]["running"].is_object().then_some(())
    });
    let user = cluster.kubectl(&["exec", "volumes", "-c", "debugger", "--", "cat", "/proc/self/uid_map"]);
    assert_eq!(first_host_id(&user), cluster.host_id("volumes"));

    // The claim's files belong to root in the first pod, and in the next one, which has other host IDs.
    cluster.apply(STATEFUL);
    cluster.wait_for_pod("database-0", is_ready);
    cluster.exec("database-0", &["sh", "-ec", "echo kept >/data/file; mkdir /sys/fs/cgroup/mine"]);
    let before = cluster.host_id("database-0");
    cluster.kubectl(&["delete", "pod", "database-0"]);
    cluster.wait_for_pod("database-0", is_ready);
    assert_ne!(cluster.host_id("database-0"), before);
    assert_eq!(cluster.exec("database-0", &["sh", "-c", "cat /data/file; stat -c %u /data/file"]), "kept\n0");

    let text = cluster.apply(OF_THE_POD);
    assert!(!text.contains("Warning"), "{text}");
    let pod = cluster.wait_for_pod("of-the-pod", is_ready);
    assert_eq!(pod["spec"]["resources"]["limits"]["memory"], "64Mi");
    assert_eq!(pod["status"]["qosClass"], "Burstable");

    // Scales from no replicas to many and back; a pod is ready only if it got its cgroup.
    cluster.apply(SCALED);
    let replicas = env::var("USERNSD_TEST_STORM").map_or(REPLICAS, |number| number.parse().unwrap());
    cluster.kubectl(&["scale", "deployment/scaled", &format!("--replicas={replicas}")]);
    cluster.kubectl(&["rollout", "status", "deployment/scaled", "--timeout=600s"]);
    let ps = cluster.kubectl(&["userns", "ps", "-A"]);
    println!("{ps}");
    let state = |pod: &str, state: &str| {
        ps.lines().filter(|line| line.contains(pod) && line.trim_end().ends_with(state)).count()
    };
    assert_eq!((state("scaled-", "ok"), state("database-0", "ok")), (replicas, 1));
    assert!(state("volumes", "ok") >= 2, "the main container and the sidecar");
    assert_eq!(state("of-the-pod", "ok"), 2);
    assert!(!ps.contains("missed"));
    cluster.kubectl(&["scale", "deployment/scaled", "--replicas=0"]);
    wait_for("the pods' end", || {
        let left = cluster.get(&["pods", "-l", "app=scaled"]);
        let listed = cluster.try_kubectl(&["userns", "ps", "-A"]);
        let is_listed = String::from_utf8_lossy(&listed.stdout).contains("scaled-");
        (left["items"].as_array().unwrap().is_empty() && !is_listed).then_some(())
    });
    // It fails if a remaining pod has a problem.
    cluster.kubectl(&["userns", "ps", "-A"]);
}
