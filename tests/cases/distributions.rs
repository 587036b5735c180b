//! Nodes that are laid out as those of k3s, RKE2, k0s and MicroK8s: a containerd is started with that distribution's
//! files, directories and unit, and bootstrap, doctor, the agent and a pod that runs systemd have to find their way. And
//! a CRI-O whose storage an administrator has moved.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::agent::{Agent, node_with_binary};
use crate::node::{Node, Options, Runtime};
use crate::pods::{BASE, ContainerSpec, PodSpec, Pods, wait_for};
use crate::preinstalled::bootstrap;

/// A distribution, with what it puts on a node.
struct Distribution {
    /// containerd's main file, and how it begins; the node's own settings follow.
    main_file: &'static str,
    head: &'static str,
    /// containerd's arguments besides `--config`.
    arguments: &'static str,
    socket: &'static str,
    /// The unit in which containerd runs, and that of the kubelet.
    units: [&'static str; 2],
    kubelet_root: &'static str,
    /// Where the kubelet is allowed 250 pods.
    pods: (&'static str, &'static str),
}

const K3S: Distribution = Distribution {
    main_file: "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    head: "version = 3\nroot = \"/var/lib/containerd\"\nstate = \"/run/k3s/containerd\"\n\
           imports = [\"/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/*.toml\"]\n\
           [grpc]\naddress = \"/run/k3s/containerd/containerd.sock\"\n",
    arguments: "",
    socket: "/run/k3s/containerd/containerd.sock",
    units: ["k3s-agent.service", "k3s-agent.service"],
    kubelet_root: "/var/lib/kubelet",
    pods: ("/etc/rancher/k3s/config.yaml", "kubelet-arg:\n  - max-pods=250\n"),
};

/// Started with `--data-dir=/data/k3s`.
const MOVED_K3S: Distribution = Distribution {
    main_file: "/data/k3s/agent/etc/containerd/config.toml",
    head: "version = 3\nroot = \"/var/lib/containerd\"\nstate = \"/data/k3s-run/containerd\"\n\
           imports = [\"/data/k3s/agent/etc/containerd/config-v3.toml.d/*.toml\"]\n\
           [grpc]\naddress = \"/run/k3s/containerd/containerd.sock\"\n",
    pods: ("/etc/rancher/k3s/config.yaml", "data-dir: /data/k3s\nkubelet-arg:\n  - max-pods=250\n"),
    ..K3S
};

const RKE2: Distribution = Distribution {
    main_file: "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    head: "version = 3\nroot = \"/var/lib/containerd\"\nstate = \"/run/k3s/containerd\"\n\
           imports = [\"/var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.d/*.toml\"]\n\
           [grpc]\naddress = \"/run/k3s/containerd/containerd.sock\"\n",
    arguments: "",
    socket: "/run/k3s/containerd/containerd.sock",
    units: ["rke2-server.service", "rke2-server.service"],
    kubelet_root: "/var/lib/kubelet",
    pods: ("/etc/rancher/rke2/config.yaml", "kubelet-arg:\n  - max-pods=250\n"),
};

const K0S: Distribution = Distribution {
    main_file: "/etc/k0s/containerd.toml",
    head: "# k0s_managed=true\nversion = 3\nimports = [\"/etc/k0s/containerd.d/*.toml\"]\n",
    arguments: "--root=/var/lib/containerd --state=/run/k0s/containerd --address=/run/k0s/containerd.sock",
    socket: "/run/k0s/containerd.sock",
    units: ["k0sworker.service", "k0sworker.service"],
    kubelet_root: "/var/lib/k0s/kubelet",
    pods: ("/run/k0s/kubelet/config.yaml", "kind: KubeletConfiguration\nmaxPods: 250\n"),
};

const MICROK8S: Distribution = Distribution {
    main_file: "/var/snap/microk8s/current/args/containerd.toml",
    head: "version = 3\n",
    arguments: "--root /var/lib/containerd --state /var/snap/microk8s/common/run/containerd \
                --address /var/snap/microk8s/common/run/containerd.sock",
    socket: "/var/snap/microk8s/common/run/containerd.sock",
    units: ["snap.microk8s.daemon-containerd.service", "snap.microk8s.daemon-kubelite.service"],
    kubelet_root: "/var/snap/microk8s/common/var/lib/kubelet",
    pods: (
        "/var/snap/microk8s/current/args/kubelet",
        "--root-dir=${SNAP_COMMON}/var/lib/kubelet\n--max-pods=250\n",
    ),
};

impl Distribution {
    /// A node whose containerd is this distribution's.
    fn boot(&self) -> Option<Node> {
        let node = node_with_binary(Options::default())?;
        let packaged = node.run(["cat", "/etc/containerd/config.toml"]);
        node.run(["systemctl", "mask", "--now", "containerd.service"]);
        node.run(["rm", "-r", "/etc/containerd"]);
        let settings = packaged.strip_prefix("version = 3\n").unwrap();
        // Tables follow the top-level keys, so keys before the first table belong at the top.
        let (top, tables) = settings.split_once("\n[").unwrap();
        let (head, grpc) =
            self.head.split_once("[grpc]").map_or((self.head, ""), |(head, grpc)| (head, grpc));
        let grpc = if grpc.is_empty() { String::new() } else { format!("[grpc]{grpc}") };
        write(&node, self.main_file, &format!("{head}{top}\n{grpc}[{tables}\n"));
        write(&node, self.pods.0, self.pods.1);
        node.run([
            "mkdir",
            "-p",
            &format!("{}/pods", self.kubelet_root),
            &format!("{}/plugins", self.kubelet_root),
        ]);
        let [containerd, kubelet] = self.units;
        let start = format!("/usr/bin/containerd --config {} {}", self.main_file, self.arguments);
        let unit = format!(
            "[Service]\nType=notify\nExecStart={start}\nKillMode=process\nDelegate=yes\nOOMScoreAdjust=0\n"
        );
        node.write(&format!("/etc/systemd/system/{containerd}"), unit);
        if kubelet != containerd {
            node.write(
                &format!("/etc/systemd/system/{kubelet}"),
                "[Service]\nExecStart=/bin/sleep infinity\n",
            );
        }
        node.run(["systemctl", "daemon-reload"]);
        node.run(["systemctl", "start", containerd, kubelet]);
        Some(node)
    }
}

fn write(node: &Node, path: &str, text: &str) {
    let (directory, _) = path.rsplit_once('/').unwrap();
    node.run(["mkdir", "-p", directory]);
    node.write(path, text);
}

fn check(node: &Node, id: &str) -> Value {
    let ran = node.exec(["usernsd", "doctor", "-o", "json", "--config=/etc/usernsd.yaml"]);
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    document["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone()
}

fn is_served(distribution: &Distribution) {
    const KUBELET: &str = "bootstrap: {kubelet: {user: create}}\n";
    let Some(node) = distribution.boot() else { return };
    let pods = Pods::connect(&node);
    let [containerd, kubelet] = distribution.units;

    // Bootstrap: the kubelet's own number of pods, the plugin, and the unit that has to read them.
    let output = bootstrap(&node, KUBELET, &[]);
    assert!(node.run(["getsubids", "kubelet"]).ends_with(" 16384000"), "{output}");
    assert!(
        output.contains(&format!("error: {kubelet} was started before its range of IDs changed")),
        "{output}"
    );
    assert!(output.contains(&format!("{containerd} was started before /opt/nri/plugins")), "{output}");
    assert_eq!(check(&node, "kubelet_range_read")["outcome"], "fail");
    let output = bootstrap(&node, KUBELET, &["--restart"]);
    assert_eq!(output.matches(&format!("{containerd}: restarted")).count(), 1, "{output}");
    assert!(output.contains(&format!("{kubelet}: restarted")), "{output}");
    pods.wait_until_it_answers();
    wait_for("the launched plugin", || {
        node.exec(["pgrep", "-f", "^/opt/nri/plugins/90-usernsd"]).status.success().then_some(())
    });

    // Doctor: each of its checks uses the distribution's paths.
    let cri = check(&node, "cri_reachable");
    assert_eq!(cri["outcome"], "pass");
    assert!(cri["seen"].as_str().unwrap().contains(distribution.socket), "{cri}");
    let file = check(&node, "containerd_config");
    assert_eq!(
        (file["outcome"].as_str(), file["seen"].as_str()),
        (Some("pass"), Some(distribution.main_file))
    );
    for id in
        ["config_drift", "restart_pending", "kubelet_range_read", "subid_kubelet", "containerd_snapshotter"]
    {
        let check = check(&node, id);
        assert_eq!(check["outcome"], "pass", "{check}");
    }
    let records = check(&node, "kubelet_records");
    assert_eq!(records["seen"], "0 records", "{records}");

    // The agent, and systemd in a pod that asks for it.
    let agent = Agent::start(&node);
    assert!(agent.is_connected("cri"));
    let asking = PodSpec::new("systemd").annotated("usernsd.io/systemd", "true");
    let container = pods.run(&pods.run_pod(&asking), &ContainerSpec::systemd());
    assert_eq!(pods.systemd_state(&container), Ok("running".to_owned()));
    assert_eq!(container.owner("").0, BASE);
    assert!(!agent.outcome(&container).is_empty());
    assert_eq!(check(&node, "pod_cgroup_owner")["outcome"], "pass");

    // The agent's own checks: it may read few files, and these are among them.
    let file = agent.check("containerd_config");
    assert_eq!(
        (file["outcome"].as_str(), file["seen"].as_str()),
        (Some("pass"), Some(distribution.main_file)),
        "{file}"
    );
    for id in ["config_drift", "containerd_snapshotter", "nri_enabled"] {
        let check = agent.check(id);
        assert_eq!(check["outcome"], "pass", "{check}");
    }
}

#[test]
fn a_node_of_k3s_is_served() {
    is_served(&K3S);
}

/// Its data, what the containers run on, and the kubelet are elsewhere.
#[test]
fn a_node_of_k3s_whose_data_were_moved_is_served() {
    is_served(&MOVED_K3S);
}

#[test]
fn a_node_of_rke2_is_served() {
    is_served(&RKE2);
}

#[test]
fn a_node_of_k0s_is_served() {
    is_served(&K0S);
}

#[test]
fn a_node_of_microk8s_is_served() {
    is_served(&MICROK8S);
}

/// The outcomes of doctor's checks, by their identifiers.
type Outcomes = BTreeMap<String, String>;

/// What doctor and explain report of a CRI-O's node with an agent and a pod that runs systemd; `move_storage` changes
/// the configuration before. `None` without a node.
fn seen_with_crio(nri: bool, move_storage: &dyn Fn(&Node), runroot: &str) -> Option<(Outcomes, Value)> {
    let node = node_with_binary(Options { runtime: Runtime::Crio, nri, ..Options::default() })?;
    node.run(["systemctl", "stop", "crio.service"]);
    move_storage(&node);
    node.run(["systemctl", "start", "crio.service"]);
    let pods = Pods::connect(&node);
    bootstrap(&node, "", &["--restart"]);
    let checked = node.exec(["usernsd", "bootstrap", "--config", "/etc/usernsd.yaml", "--check"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    pods.wait_until_it_answers();

    let agent = Agent::start(&node);
    let asking = PodSpec::new("systemd").annotated("usernsd.io/systemd", "true");
    let container = pods.run(&pods.run_pod(&asking), &ContainerSpec::systemd());
    assert_eq!(pods.systemd_state(&container), Ok("running".to_owned()));
    assert_eq!(container.owner("").0, BASE);
    assert!(!agent.outcome(&container).is_empty());
    let bundle = format!("{runroot}/overlay-containers/{}/userdata/config.json", container.id);
    assert!(node.path(&bundle).exists(), "{bundle}");

    let ran = node.exec(["usernsd", "doctor", "-o", "json", "--config=/etc/usernsd.yaml"]);
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = document["checks"].as_array().unwrap();
    let outcomes = checks.iter().map(|check| (text(&check["id"]), text(&check["outcome"]))).collect();
    let ran = node.exec(["usernsd", "explain", "systemd", "-o", "json", "--config=/etc/usernsd.yaml"]);
    let explained: Value = serde_json::from_slice(&ran.stdout).unwrap();
    // And as the unit of the node, which is confined.
    agent.kill();
    node.write(
        "/etc/systemd/system/usernsd.service",
        include_str!("../../machineconfig/units/usernsd.service"),
    );
    node.run(["systemctl", "daemon-reload"]);
    node.run(["systemctl", "start", "usernsd"]);
    let second = PodSpec::new("second").numbered(1).annotated("usernsd.io/systemd", "true");
    let container = pods.run(&pods.run_pod(&second), &ContainerSpec::systemd());
    assert_eq!(pods.systemd_state(&container), Ok("running".to_owned()));
    assert_ne!(container.owner("").0, 0);
    Some((outcomes, explained[0].clone()))
}

fn crio_conf(node: &Node) {
    write(
        node,
        "/etc/crio/crio.conf.d/10-storage.conf",
        "[crio]\nroot = \"/var/lib/containers/moved\"\nrunroot = \"/run/data/containers\"\n",
    );
}

fn storage_conf(node: &Node) {
    let usual = node.run(["cat", "/etc/containers/storage.conf"]);
    let moved = usual
        .replace("/run/containers/storage", "/run/data/containers")
        .replace("/var/lib/containers/storage", "/var/lib/containers/moved");
    assert_ne!(moved, usual);
    write(node, "/etc/containers/storage.conf", &moved);
}

fn is_as_usual(nri: bool) {
    let Some((usual, _)) = seen_with_crio(nri, &|_| (), "/run/containers/storage") else { return };
    for move_storage in [crio_conf, storage_conf] {
        let (outcomes, explained) = seen_with_crio(nri, &move_storage, "/run/data/containers").unwrap();
        assert_eq!(outcomes, usual);
        assert_eq!(explained["problems"], serde_json::json!([]), "{explained:#}");
    }
}

#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_crio_whose_storage_was_moved_is_served() {
    is_as_usual(true);
}

/// Without NRI the agent learns of a container from systemd, and reads its bundle.
#[test]
#[cfg_attr(not(has_crio), ignore = "USERNSD_TEST_CRIO names no CRI-O")]
fn a_crio_without_nri_whose_storage_was_moved_is_served() {
    is_as_usual(false);
}

/// The state directory of [`MOVED_K3S`] is elsewhere, too. Without NRI the agent learns of a container from systemd, and
/// reads its bundle.
#[test]
fn a_containerd_without_nri_whose_state_was_moved_is_served() {
    let Some(node) = MOVED_K3S.boot() else { return };
    let pods = Pods::connect(&node);
    let agent = Agent::with(&node, "nri: {enabled: false}\n");
    let pod = pods.run_pod(&PodSpec::new("p").privileged());
    let container = pods.run(&pod, &ContainerSpec::sleeping().privileged());
    let bundle =
        format!("/data/k3s-run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json", container.id);
    assert!(node.path(&bundle).exists(), "{bundle}");
    agent.wait_for_outcome(&container, "delegated");
    // Earlier than with the next list of the runtime.
    assert_eq!((agent.record(&container)["source"].as_str(), container.owner("").0), (Some("systemd"), BASE));
}
