//! The life of an installation, by the commands of docs/install-kubernetes.md, and that of a node.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::harness::{CHECKOUT, Cluster, UNAVAILABLE, WITH_NODE_CONDITION, Worker, is_ready, wait_for};
use crate::node::Options;
use crate::presence::{asking, plugin_runs};
use crate::recipes::{page, type_block};

/// Kinds of objects that the cluster creates and deletes by itself.
const TRANSIENT: [&str; 11] = [
    "bindings",
    "componentstatuses",
    "controllerrevisions.apps",
    "endpoints",
    "endpointslices.discovery.k8s.io",
    "events",
    "events.events.k8s.io",
    "ipaddresses.networking.k8s.io",
    "leases.coordination.k8s.io",
    "nodes",
    "pods",
];

type Objects = BTreeSet<String>;

/// Every object in the cluster: `KIND NAMESPACE NAME`.
fn objects(cluster: &Cluster) -> Objects {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
    let kinds: Vec<_> = kinds.lines().filter(|kind| !TRANSIENT.contains(kind)).collect();
    let columns = "custom-columns=K:.kind,S:.metadata.namespace,N:.metadata.name";
    let found = cluster.kubectl(&["get", &kinds.join(","), "-A", "--no-headers", "-o", columns]);
    found.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The objects of a directory as kubectl renders it.
fn rendered(cluster: &Cluster, directory: &str) -> Objects {
    let text = cluster.kubectl(&["kustomize", directory]);
    let name = |value: &Value| value.as_str().unwrap_or("<none>").to_owned();
    text.split("\n---\n")
        .map(|document| {
            let object: Value = serde_saphyr::from_str(document).unwrap();
            let metadata = &object["metadata"];
            [&object["kind"], &metadata["namespace"], &metadata["name"]].map(name).join(" ")
        })
        .collect()
}

/// An installation that changes, seen from the API server.
struct Installation<'a> {
    cluster: &'a Cluster,
    /// The objects of a cluster without usernsd.
    before: Objects,
    /// The objects that every namespace has by default.
    by_itself: Objects,
    /// The objects that have been applied so far and must still exist.
    applied: Objects,
}

impl<'a> Installation<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let before = objects(cluster);
        // Objects that every namespace has by default.
        let by_itself = |object: &&String| {
            ["ConfigMap default ", "ServiceAccount default "].iter().any(|start| object.starts_with(start))
        };
        let applied =
            before.iter().filter(by_itself).map(|object| object.replacen(" default ", " usernsd ", 1));
        let applied: Objects = applied.collect();
        Self { cluster, before, by_itself: applied.clone(), applied }
    }

    /// Applies a directory; asserts that exactly its objects exist in addition to the earlier ones.
    #[track_caller]
    fn apply(&mut self, directory: &str) {
        let output = self.cluster.kubectl(&["apply", "-k", directory]);
        assert!(!output.contains("Warning"), "{output}");
        self.cluster.wait_for_roll_out();
        self.is_applied(directory);
    }

    /// A directory has been applied.
    #[track_caller]
    fn is_applied(&mut self, directory: &str) {
        self.applied.append(&mut rendered(self.cluster, directory));
        self.assert_objects(directory);
    }

    /// Deletes what other overlays have left; exactly this one's objects are there.
    #[track_caller]
    fn prune(&mut self, directory: &str) {
        let shown =
            self.cluster.script(&format!("cd {CHECKOUT}; daemonset/prune.sh {directory} --dry-run=server"));
        self.assert_objects("a dry run");
        let output = self.cluster.script(&format!("cd {CHECKOUT}; daemonset/prune.sh {directory}"));
        let pruned = |output: &str| output.lines().filter(|line| line.contains(" pruned")).count();
        assert_eq!(pruned(&shown), pruned(&output), "{shown}\n{output}");
        self.is_pruned(directory);
    }

    /// A directory has been applied, and what it does not have has been deleted.
    #[track_caller]
    fn is_pruned(&mut self, directory: &str) {
        let kept = rendered(self.cluster, directory);
        self.applied.retain(|object| kept.contains(object) || self.by_itself.contains(object));
        self.assert_objects(&format!("{directory} is pruned"));
    }

    #[track_caller]
    fn assert_objects(&self, after: &str) {
        let there: Objects = objects(self.cluster).difference(&self.before).cloned().collect();
        assert_eq!(there, self.applied, "after {after}");
    }
}

/// The content of a node's file; empty if the file does not exist.
fn file(worker: &Worker, path: &str) -> String {
    fs::read_to_string(worker.node.path(path)).unwrap_or_default()
}

/// Whether bootstrap has prepared a node.
fn is_prepared(worker: &Worker) -> bool {
    worker.node.path("/opt/nri/plugins/90-usernsd").exists()
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn an_installation_changes_and_goes_without_a_trace() {
    const OVERLAYS: &str = "daemonset/overlays";
    const SITE: &str = "site";
    let Some(cluster) = Cluster::boot_or_skip(1, &Options::default()) else { return };
    let worker = &cluster.workers[0];
    let subuid = file(worker, "/etc/subuid");
    let mut installation = Installation::new(&cluster);
    // The page's commands, as an administrator types them.
    let above = "<!-- run by: an_installation_changes_and_goes_without_a_trace -->";
    let blocks: Vec<_> =
        page("docs/install-kubernetes.md").into_iter().filter(|block| block.above == above).collect();
    let [change, upgrade, undo] = &blocks[..] else { panic!("{blocks:#?}") };

    installation.apply(&format!("{OVERLAYS}/observe-only"));
    assert!(!is_prepared(worker));
    cluster.apply(&asking("seen", ""));
    cluster.wait_for_pod("seen", is_ready);
    wait_for("the outcome of an agent that observes", || {
        cluster.kubectl(&["userns", "ps", "-A", "-o", "json"]).contains("missed").then_some(())
    });
    cluster.kubectl(&["delete", "pod", "seen"]);

    installation.apply(&format!("{OVERLAYS}/kubernetes"));
    assert!(is_prepared(worker));

    // An upgrade, to an image of another tag.
    worker.node.run([
        "ctr",
        "--namespace=k8s.io",
        "images",
        "tag",
        crate::image::NAME,
        "localhost/usernsd:next",
    ]);
    cluster.edit("daemonset/overlays/kubernetes/kustomization.yaml", |text| {
        let (before, _) = text.split_once("newTag: ").unwrap();
        format!("{before}newTag: next\n")
    });
    let difference = cluster.try_kubectl(&["diff", "-k", &format!("{OVERLAYS}/kubernetes")]);
    assert!(String::from_utf8_lossy(&difference.stdout).contains("localhost/usernsd:next"), "{difference:?}");
    type_block(&cluster, upgrade);
    installation.is_applied(&format!("{OVERLAYS}/kubernetes"));
    // The pod before may still be there, terminating.
    wait_for("pods of the next image only", || {
        let agents = cluster.get(&["pods", "-n", "usernsd"]);
        let images = agents["items"].as_array()?.iter().map(|pod| &pod["spec"]["containers"][0]["image"]);
        images.into_iter().all(|image| image == "localhost/usernsd:next").then_some(())
    });

    // A changed configuration is a ConfigMap of its own, and a roll-out.
    cluster.edit("daemonset/base/config.yaml", |text| text + "resync: {interval: 2m}\n");
    let maps = installation.applied.len();
    installation.apply(&format!("{OVERLAYS}/kubernetes"));
    assert_eq!(installation.applied.len(), maps + 1);

    // An invalid configuration stops the roll-out, and the earlier agent continues.
    cluster.edit("daemonset/base/config.yaml", |text| text.replace("resync:", "resnyc:"));
    let overlay = format!("{OVERLAYS}/kubernetes");
    cluster.kubectl(&["apply", "-k", &overlay]);
    installation.applied.append(&mut rendered(&cluster, &overlay));
    let agents = wait_for("the agent that cannot start", || {
        let agents = cluster.get(&["pods", "-n", "usernsd"])["items"].as_array().unwrap().clone();
        let waits = |pod: &&Value| pod["status"].to_string().contains("CrashLoopBackOff");
        (agents.len() == 2 && agents.iter().filter(waits).count() == 1).then_some(agents)
    });
    assert_eq!(agents.iter().filter(|pod| is_ready(pod)).count(), 1);
    let failed = agents.iter().find(|pod| !is_ready(pod)).unwrap();
    let log = cluster.kubectl(&[
        "-n",
        "usernsd",
        "logs",
        failed["metadata"]["name"].as_str().unwrap(),
        "-c",
        "agent",
    ]);
    assert!(log.contains("/etc/usernsd/config.yaml:") && log.contains("resnyc"), "{log}");
    cluster.edit("daemonset/base/config.yaml", |text| text.replace("resnyc:", "resync:"));
    installation.apply(&overlay);

    // The Node condition, enabled by an overlay of the user, and removed again.
    cluster.script(&format!("mkdir {CHECKOUT}/{SITE}"));
    cluster.control().write(&format!("{CHECKOUT}/{SITE}/kustomization.yaml"), WITH_NODE_CONDITION);
    cluster.edit("daemonset/base/config.yaml", |text| text + "kubernetes: {nodeCondition: \"on\"}\n");
    installation.apply(SITE);
    let condition = || cluster.node_condition(&worker.name, UNAVAILABLE);
    let written = wait_for("the Node condition", condition);
    println!("{written}");
    cluster.edit("daemonset/base/config.yaml", |text| {
        text.replace("nodeCondition: \"on\"", "nodeCondition: remove")
    });
    installation.apply(SITE);
    wait_for("the Node condition to go", || condition().is_none().then_some(()));
    cluster
        .edit("daemonset/base/config.yaml", |text| text.replace("kubernetes: {nodeCondition: remove}\n", ""));
    installation.apply(&format!("{OVERLAYS}/kubernetes"));

    // With the policies and the readers' rights, and without again: they go, and so do the configurations of before.
    cluster.control().write(
        &format!("{CHECKOUT}/{SITE}/kustomization.yaml"),
        "resources: [../daemonset/overlays/kubernetes]\ncomponents:\n- ../daemonset/components/admission\n\
         - ../daemonset/components/admission-required\n- ../daemonset/components/authorization\n",
    );
    installation.apply(SITE);
    assert!(installation.applied.iter().any(|object| object.starts_with("MutatingAdmissionPolicy ")));
    installation.apply(&format!("{OVERLAYS}/kubernetes"));
    installation.prune(&format!("{OVERLAYS}/kubernetes"));
    let maps = installation.applied.iter().filter(|object| object.starts_with("ConfigMap usernsd usernsd-"));
    assert_eq!(maps.count(), 1, "{:?}", installation.applied);

    // One process, and two again. It needs no rights.
    type_block(&cluster, change);
    installation.applied.append(&mut rendered(&cluster, &format!("{OVERLAYS}/combined")));
    installation.is_pruned(&format!("{OVERLAYS}/combined"));
    let agents = cluster.get(&["pods", "-n", "usernsd"]);
    assert_eq!(agents["items"][0]["spec"]["containers"].as_array().unwrap().len(), 1);
    assert!(!installation.applied.iter().any(|object| object.starts_with("ClusterRole")));
    installation.apply(&format!("{OVERLAYS}/kubernetes"));
    // No directory of another runtime was made.
    assert!(!worker.node.path("/run/crio").exists() && !worker.node.path("/run/containers").exists());

    type_block(&cluster, undo);
    assert_eq!((is_prepared(worker), file(worker, "/etc/subuid")), (false, subuid));
    installation.applied.clear();
    installation.assert_objects("the end");
    let left = worker.node.run(["sh", "-c", "find / -xdev -newer /etc/machine-id -path '*usernsd*' -not -path '/proc/*' -not -path '/usr/*' -not -path '/srv/*' | sort"]);
    println!("{left}");
}

/// The effects of a reboot, except for the kernel's: no process of the runtime's or of a container's is
/// left, nor anything below /run; then the runtime and the kubelet start.
#[track_caller]
fn reboot(worker: &Worker) {
    worker.node.run(["systemctl", "stop", "kubelet", worker.runtime_unit()]);
    worker.node.run([
        "sh",
        "-c",
        "for group in kubepods.slice system.slice/containerd.service system.slice/crio.service; do
           [ ! -e /sys/fs/cgroup/$group ] || echo 1 >/sys/fs/cgroup/$group/cgroup.kill
         done
         sleep 1
         awk '{ print $5 }' /proc/self/mountinfo | grep -E '^/run/(containerd|netns|crio|containers)/|^/var/lib/kubelet/pods/' |
           sort -r | xargs -r umount -l
         rm -rf /run/containerd /run/netns /run/cni-node /run/nri /run/usernsd-plugin /run/crio /run/containers
         systemctl start $0 kubelet",
        worker.runtime_unit(),
    ]);
}

#[test]
#[cfg_attr(not(has_kubernetes), ignore = "USERNSD_TEST_KUBE names no directory with Kubernetes' programs")]
fn pods_are_served_across_drain_and_restarts_of_their_node() {
    let Some(cluster) = Cluster::boot_or_skip(2, &Options::default()) else { return };
    let [first, second] = &cluster.workers[..] else { panic!("two nodes") };
    cluster.install("kubernetes");
    let on = |worker: &Worker, name: &str| {
        asking(name, "").replace("spec:\n", &format!("spec:\n  nodeName: {}\n", worker.name))
    };
    let assert_served = |pod: &str| {
        cluster.wait_for_pod(pod, is_ready);
        wait_for(pod, || {
            let made =
                cluster.try_kubectl(&["exec", pod, "--", "sh", "-c", "cd /sys/fs/cgroup && mkdir -p mine"]);
            made.status.success().then_some(())
        });
    };
    let no_problems = || {
        wait_for("no problems", || {
            // The exit code is about the containers only; "status" also counts this machine's problems.
            let listed = cluster.try_kubectl(&["userns", "ps", "-A"]);
            listed.status.success().then_some(())
        });
    };
    for (worker, name) in [(first, "a"), (second, "b")] {
        cluster.apply(&on(worker, name));
        assert_served(name);
    }

    // The runtime launches the plugin from its first restart on; its pods continue.
    first.node.restart_unit(first.runtime_unit());
    wait_for("the launched plugin", || plugin_runs(first).then_some(()));
    assert_served("a");
    cluster.apply(&on(first, "after-the-runtime"));
    assert_served("after-the-runtime");
    no_problems();

    first.node.restart_unit("kubelet.service");
    cluster.apply(&on(first, "after-the-kubelet"));
    assert_served("after-the-kubelet");
    no_problems();

    // Every pod on the node is new, and the agent's one of them.
    reboot(first);
    for pod in ["a", "after-the-runtime", "after-the-kubelet"] {
        cluster.wait_for_pod(pod, |pod| {
            is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0)
        });
        assert_served(pod);
    }
    no_problems();

    // A drained node keeps its agent and loses the other pods.
    cluster.kubectl(&["drain", &first.name, "--ignore-daemonsets", "--force", "--delete-emptydir-data"]);
    let left = cluster.get(&["pods", "-A", "--field-selector", &format!("spec.nodeName={}", first.name)]);
    let names = left["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["namespace"].clone());
    assert_eq!(names.collect::<Vec<_>>(), ["usernsd"]);
    cluster.kubectl(&["uncordon", &first.name]);
    cluster.apply(&on(first, "after-the-drain"));
    assert_served("after-the-drain");
    assert_served("b");
    no_problems();
}
