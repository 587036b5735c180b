//! `daemonset/` as kubectl renders it: the API server would accept every overlay, no container has more
//! permissions than it needs, and docs/security.md explains each permission in the manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::node::{Node, Options, Runtime};
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1 as rbac;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where the node has this source.
const SOURCE: &str = "/srv/usernsd";
/// Capabilities with which a process in a container is root on the host, at once or nearly, or can
/// act for other users there.
const HOST_POWERS: &[&str] = &["CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "KILL", "SYS_PTRACE"];
/// The one overlay in which a process with such powers listens: its first line contains a warning.
const COMBINED: &str = "combined";

pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn overlays() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(source("daemonset/overlays"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 4, "{names:?}");
    names
}

/// A node with this source and kubectl.
pub(crate) fn renderer() -> Option<Node> {
    let binds = vec![
        (source("daemonset"), format!("{SOURCE}/daemonset")),
        (source("dashboards"), format!("{SOURCE}/dashboards")),
    ];
    Node::boot_or_skip(&Options { runtime: Runtime::None, binds, ..Options::default() })
}

/// The documents of one directory, as `kubectl apply -k` would send them.
#[track_caller]
fn render(node: &Node, directory: &str) -> Vec<Value> {
    let output = node.exec(["kubectl", "kustomize", &format!("{SOURCE}/{directory}")]);
    let printed = String::from_utf8_lossy(&output.stderr);
    // A warning announces a feature that the next kubectl will not support.
    assert!(output.status.success() && printed.is_empty(), "{directory}: {printed}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// Every overlay by name.
pub(crate) fn rendered() -> Option<BTreeMap<String, Vec<Value>>> {
    let node = renderer()?;
    Some(
        overlays()
            .into_iter()
            .map(|name| {
                let documents = render(&node, &format!("daemonset/overlays/{name}"));
                (name, documents)
            })
            .collect(),
    )
}

pub(crate) fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap()
}

/// Parses the typed form, and asserts that it has every field of the text: a misspelt field would be
/// missing.
#[track_caller]
fn typed<T: DeserializeOwned + Serialize>(document: &Value) -> T {
    let typed: T =
        serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error}: {document:#}"));
    let back = serde_json::to_value(&typed).unwrap();
    assert_eq!(back, *document, "a field that Kubernetes does not know");
    typed
}

fn daemonset(documents: &[Value]) -> DaemonSet {
    typed(documents.iter().find(|document| kind(document) == "DaemonSet").unwrap())
}

fn pod(documents: &[Value]) -> core::PodSpec {
    daemonset(documents).spec.unwrap().template.spec.unwrap()
}

fn containers(pod: &core::PodSpec) -> Vec<&core::Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers).collect()
}

fn capabilities(container: &core::Container) -> BTreeSet<String> {
    let security = container.security_context.as_ref().unwrap();
    let capabilities = security.capabilities.as_ref().unwrap();
    assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]), "{}", container.name);
    capabilities.add.iter().flatten().cloned().collect()
}

/// A container's mounts of the host: path, mount point, and whether it is writable.
fn host_mounts(pod: &core::PodSpec, container: &core::Container) -> Vec<(String, String, bool)> {
    let path = |name: &str| {
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == name);
        let volume = volume.unwrap_or_else(|| panic!("{}: no volume {name}", container.name));
        volume.host_path.as_ref().map(|host| host.path.clone())
    };
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .filter_map(|mount| {
            Some((path(&mount.name)?, mount.mount_path.clone(), mount.read_only != Some(true)))
        })
        .collect()
}

/// OpenShift's own kinds, whose types are in none of the crates in use.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "read to be refused where it is misspelt")]
struct Scc {
    api_version: String,
    kind: String,
    metadata: Value,
    priority: Option<i32>,
    allow_host_dir_volume_plugin: bool,
    #[serde(rename = "allowHostIPC")]
    allow_host_ipc: bool,
    allow_host_network: bool,
    #[serde(rename = "allowHostPID")]
    allow_host_pid: bool,
    allow_host_ports: bool,
    allow_privilege_escalation: bool,
    allow_privileged_container: bool,
    allowed_capabilities: BTreeSet<String>,
    default_add_capabilities: Vec<String>,
    required_drop_capabilities: Vec<String>,
    read_only_root_filesystem: bool,
    run_as_user: Value,
    se_linux_context: Value,
    fs_group: Value,
    supplemental_groups: Value,
    seccomp_profiles: Vec<String>,
    volumes: BTreeSet<String>,
    users: Vec<String>,
    groups: Vec<String>,
}

#[test]
fn every_overlay_is_valid_for_the_api_server() {
    let Some(rendered) = rendered() else { return };
    for (overlay, documents) in &rendered {
        for document in documents {
            match kind(document) {
                "Namespace" => drop(typed::<core::Namespace>(document)),
                "ServiceAccount" => drop(typed::<core::ServiceAccount>(document)),
                "ConfigMap" => drop(typed::<core::ConfigMap>(document)),
                "DaemonSet" => drop(typed::<DaemonSet>(document)),
                "NetworkPolicy" => drop(typed::<NetworkPolicy>(document)),
                "Service" => drop(typed::<core::Service>(document)),
                "ClusterRole" => drop(typed::<rbac::ClusterRole>(document)),
                "ClusterRoleBinding" => drop(typed::<rbac::ClusterRoleBinding>(document)),
                "Role" => drop(typed::<rbac::Role>(document)),
                "RoleBinding" => drop(typed::<rbac::RoleBinding>(document)),
                "SecurityContextConstraints" => {
                    serde_json::from_value::<Scc>(document.clone()).unwrap();
                }
                // tests/it/prometheus.rs reads and applies them.
                "PodMonitor" | "PrometheusRule" => {}
                kind => panic!("{overlay}: {kind} is checked by nobody"),
            }
            let cluster = ["Namespace", "SecurityContextConstraints", "ClusterRole", "ClusterRoleBinding"];
            let namespaced = !cluster.contains(&kind(document));
            let namespace = document["metadata"]["namespace"].as_str();
            assert_eq!(namespace, namespaced.then_some("usernsd"), "{overlay}: {}", kind(document));
        }
    }
}

#[test]
fn a_misspelt_field_is_found() {
    let misspelt = serde_json::json!({"metadata": {"name": "x"}, "automountServiceAcountToken": false});
    let typed: core::ServiceAccount = serde_json::from_value(misspelt.clone()).unwrap();
    assert_ne!(serde_json::to_value(&typed).unwrap(), misspelt);
}

#[test]
fn images_are_of_this_version() {
    let Some(rendered) = rendered() else { return };
    for (overlay, documents) in &rendered {
        for container in containers(&pod(documents)) {
            let image = container.image.as_deref().unwrap();
            assert_eq!(image, concat!("localhost/usernsd:", env!("CARGO_PKG_VERSION")), "{overlay}");
        }
    }
}

#[test]
fn no_container_with_privileges_on_the_host_uses_a_network() {
    let Some(rendered) = rendered() else { return };
    for (overlay, documents) in &rendered {
        let pod = pod(documents);
        assert_eq!((pod.host_network, pod.host_ipc, pod.host_pid), (None, None, Some(true)), "{overlay}");
        assert_eq!(pod.automount_service_account_token, Some(false), "{overlay}");
        let mut listens = 0;
        for container in containers(&pod) {
            let at = format!("{overlay}: {}", container.name);
            let security = container.security_context.clone().unwrap();
            assert_eq!(security.privileged, None, "{at}");
            assert_eq!(security.allow_privilege_escalation, Some(false), "{at}");
            assert_eq!(security.read_only_root_filesystem, Some(true), "{at}");
            let mounts = host_mounts(&pod, container);
            let own = capabilities(container);
            assert!(own.iter().all(|name| HOST_POWERS.contains(&name.as_str())), "{at}: {own:?}");
            let powerful = security.run_as_user == Some(0) || !own.is_empty() || !mounts.is_empty();
            let ports = container.ports.iter().flatten().count();
            let token = container.volume_mounts.iter().flatten().any(|mount| {
                let named = |volume: &&core::Volume| volume.name == mount.name;
                let volume = pod.volumes.iter().flatten().find(named).unwrap();
                volume.projected.is_some() || volume.secret.is_some()
            });
            assert!(!powerful || (ports == 0 && !token) || overlay == COMBINED, "{at}");
            if !powerful {
                assert_eq!(security.run_as_non_root, Some(true), "{at}");
                // A name would be resolved in the image, which has no users.
                assert!(security.run_as_user.is_some_and(|user| (1..65_520).contains(&user)), "{at}");
            }
            listens += ports;
        }
        assert_eq!(listens, 1, "{overlay}: one serves metrics");
        let profile = pod.security_context.as_ref().unwrap().seccomp_profile.as_ref().unwrap();
        assert_eq!(profile.type_, "RuntimeDefault", "{overlay}");
    }
}

#[test]
fn the_observe_only_agent_has_no_writable_mount_of_the_host() {
    let Some(rendered) = rendered() else { return };
    for overlay in ["observe-only", "openshift-observe-only"] {
        observes_only(&pod(&rendered[overlay]));
    }
}

/// Overlays for which the components observe-only and undo are.
const PREPARED: [&str; 6] = ["kubernetes", "crio", "k3s", "rke2", "k0s", "microk8s"];

#[test]
fn each_overlay_with_bootstrap_has_an_observe_only_and_an_undo_variant() {
    let Some(node) = renderer() else { return };
    let config = |documents: &[Value]| {
        let map = documents.iter().find(|document| kind(document) == "ConfigMap").unwrap();
        let config: Value = serde_saphyr::from_str(map["data"]["config.yaml"].as_str().unwrap()).unwrap();
        // The volume names the map.
        let volume = pod(documents).volumes.into_iter().flatten().find(|volume| volume.name == "config");
        assert_eq!(volume.unwrap().config_map.unwrap().name, map["metadata"]["name"].as_str().unwrap());
        config
    };
    let enabled = |config: &Value, section: &str| config[section]["enabled"].clone();
    for overlay in PREPARED {
        let plain = render(&node, &format!("daemonset/overlays/{overlay}"));
        let observing = composed(&node, overlay, "observe-only");
        observes_only(&pod(&observing));
        every_volume_is_mounted(overlay, &pod(&observing));
        let settings = config(&observing);
        assert_eq!(settings["delegation"]["mechanism"], "none", "{overlay}");
        assert_eq!([enabled(&settings, "bootstrap"), enabled(&settings, "nri")], [false, false]);

        let undoing = composed(&node, overlay, "undo");
        let [before, after] = [&plain, &undoing].map(|documents| pod(documents));
        // The init container has the mounts with which it prepared the node, and other arguments.
        let bootstrap = |pod: &core::PodSpec| pod.init_containers.clone().unwrap().remove(0);
        let undo = ["bootstrap", "--undo", "--config=/etc/usernsd/config.yaml"].map(str::to_owned).to_vec();
        assert_eq!(bootstrap(&after).args, Some(undo), "{overlay}");
        assert_eq!(bootstrap(&after).volume_mounts, bootstrap(&before).volume_mounts, "{overlay}");
        assert_eq!(containers(&after).len(), containers(&before).len(), "{overlay}");
        assert_eq!(enabled(&config(&undoing), "bootstrap"), false, "{overlay}");
    }
    // Two overlays are these components over "kubernetes".
    for variant in ["observe-only", "undo"] {
        assert_eq!(
            render(&node, &format!("daemonset/overlays/{variant}")),
            composed(&node, "kubernetes", variant)
        );
    }
}

/// An overlay with a component, as the documents have it.
pub(crate) fn composed(node: &Node, overlay: &str, component: &str) -> Vec<Value> {
    let text = format!(
        "namespace: usernsd\nresources: [../usernsd/daemonset/overlays/{overlay}]\n\
         components: [../usernsd/daemonset/components/{component}]\n"
    );
    node.write("/srv/own/kustomization.yaml", &text);
    let output = node.run(["kubectl", "kustomize", "/srv/own"]);
    output.split("\n---\n").map(|text| serde_saphyr::from_str::<Value>(text).unwrap()).collect()
}

/// The directories of runtimes that each overlay mounts, and whether the kubelet creates a missing one.
#[test]
fn directories_of_a_runtime_are_not_made_on_nodes_of_another() {
    let Some(node) = renderer() else { return };
    let runtimes = ["/run/containerd", "/run/crio", "/run/containers", "/run/k3s", "/run/k0s"];
    let of = |documents: &[Value]| -> BTreeMap<String, String> {
        let volumes = pod(documents).volumes.into_iter().flatten().filter_map(|volume| volume.host_path);
        let volumes = volumes.filter(|host| runtimes.contains(&host.path.as_str()));
        volumes.map(|host| (host.path, host.type_.unwrap_or_default())).collect()
    };
    let crio = [("/run/crio", "Directory"), ("/run/containers", "DirectoryOrCreate")];
    for (overlay, want) in [
        ("kubernetes", &[("/run/containerd", "Directory")][..]),
        ("combined", &[("/run/containerd", "Directory")]),
        ("undo", &[("/run/containerd", "Directory")]),
        ("crio", &crio),
        ("openshift", &crio),
        ("microshift", &crio),
        ("observe-only", &[]),
        ("openshift-observe-only", &[]),
        ("k3s", &[("/run/k3s", "Directory")]),
        ("rke2", &[("/run/k3s", "Directory")]),
        ("k0s", &[("/run/k0s", "Directory")]),
        ("microk8s", &[]),
    ] {
        let found = of(&render(&node, &format!("daemonset/overlays/{overlay}")));
        let want = want.iter().map(|(path, kind)| ((*path).to_owned(), (*kind).to_owned())).collect();
        assert_eq!(found, want, "{overlay}");
    }
    // A cluster with nodes of both needs the directories of both.
    let both = of(&composed(&node, "kubernetes", "both-runtimes"));
    let want = ["/run/containerd", "/run/crio", "/run/containers"];
    assert_eq!(both, want.map(|path| (path.to_owned(), "DirectoryOrCreate".to_owned())).into());
}

/// As docs/install-kubernetes.md has it: one line moves an overlay, but for the name that a certificate of OpenShift's
/// service CA is for.
#[test]
fn an_overlay_in_another_namespace_names_it_everywhere() {
    let Some(node) = renderer() else { return };
    for overlay in overlays() {
        for component in ["node-condition", "authorization"] {
            if overlay == COMBINED {
                continue;
            }
            let own = format!(
                "namespace: elsewhere\nresources: [../usernsd/daemonset/overlays/{overlay}]\n\
                 components: [../usernsd/daemonset/components/{component}]\n"
            );
            node.write("/srv/own/kustomization.yaml", own);
            let text = node.run(["kubectl", "kustomize", "/srv/own"]);
            assert!(text.contains("\n  name: elsewhere\n"), "{overlay}: the namespace itself");
            let named = |line: &&str| line.ends_with("namespace: usernsd") || line.contains(".usernsd.svc");
            let left: Vec<&str> = text.lines().map(str::trim_start).filter(named).collect();
            let server: &[&str] =
                if overlay.starts_with("openshift") { &["serverName: usernsd.usernsd.svc"] } else { &[] };
            assert_eq!(left, server, "{overlay} with {component}");
        }
    }
}

/// Objects that an earlier overlay had are found by a label, and only if their kind is named to kubectl.
#[test]
fn prune_finds_every_object_of_every_overlay_and_component() {
    let Some(node) = renderer() else { return };
    let script = fs::read_to_string(source("daemonset/prune.sh")).unwrap();
    let list = script.split("kinds='\n").nth(1).unwrap().split('\'').next().unwrap();
    let mut kinds = BTreeSet::from(["core/v1/Namespace".to_owned()]);
    let components = fs::read_dir(source("daemonset/components")).unwrap();
    let components = components.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let rendered = overlays().into_iter().map(|name| render(&node, &format!("daemonset/overlays/{name}")));
    let rendered: Vec<_> = rendered.chain(components.map(|name| with_component(&node, &name))).collect();
    for document in rendered.iter().flatten() {
        let version = document["apiVersion"].as_str().unwrap();
        let group = if version.contains('/') { "" } else { "core/" };
        kinds.insert(format!("{group}{version}/{}", kind(document)));
        let part_of = &document["metadata"]["labels"]["app.kubernetes.io/part-of"];
        assert_eq!(part_of, "usernsd", "{document:#}");
        // A selector cannot be changed once it is there.
        assert!(!document["spec"].to_string().contains("part-of"), "{document:#}");
    }
    let named: BTreeSet<String> = list.lines().map(str::to_owned).collect();
    kinds.remove("core/v1/Namespace");
    assert_eq!(named, kinds);
    // Applied by themselves, they would be taken for leftovers.
    for document in render(&node, "dashboards") {
        assert_eq!(document["metadata"]["labels"]["app.kubernetes.io/part-of"], Value::Null);
    }
}

fn observes_only(pod: &core::PodSpec) {
    assert_eq!(pod.init_containers.iter().flatten().count(), 0);
    for container in containers(pod) {
        let mounts = host_mounts(pod, container);
        assert!(mounts.iter().all(|(_, _, writable)| !writable), "{}: {mounts:?}", container.name);
        let own = capabilities(container);
        assert!(own.is_subset(&["SYS_PTRACE".to_owned()].into()), "{}: {own:?}", container.name);
    }
    // Nor does the kubelet create anything for it.
    for volume in pod.volumes.iter().flatten() {
        let created = volume.host_path.as_ref().and_then(|host| host.type_.as_deref());
        assert!(!created.is_some_and(|kind| kind.ends_with("OrCreate")), "{}", volume.name);
    }
}

#[test]
fn every_volume_is_mounted_and_no_mount_keeps_a_file_system_busy() {
    let Some(rendered) = rendered() else { return };
    for (overlay, documents) in &rendered {
        let pod = pod(documents);
        every_volume_is_mounted(overlay, &pod);
        // Containers' file systems are mounted below: a container that mounts the directory privately keeps
        // all of them.
        for container in &pod.containers {
            for mount in container.volume_mounts.iter().flatten() {
                let runtimes = [
                    "/host/run",
                    "/host/run/containerd",
                    "/host/run/crio",
                    "/host/run/containers",
                    "/host/run/k3s",
                    "/host/run/k0s",
                    "/host/var/snap/microk8s/common/run",
                ];
                let propagates = mount.mount_propagation.as_deref() == Some("HostToContainer");
                assert_eq!(
                    propagates,
                    runtimes.contains(&mount.mount_path.as_str()),
                    "{overlay}: {}",
                    mount.name
                );
            }
        }
    }
}

fn every_volume_is_mounted(overlay: &str, pod: &core::PodSpec) {
    let containers = containers(pod);
    let mounts = containers.iter().flat_map(|container| container.volume_mounts.iter().flatten());
    let mounted: BTreeSet<&str> = mounts.map(|mount| mount.name.as_str()).collect();
    let volumes = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    assert_eq!(mounted, volumes, "{overlay}");
}

#[test]
fn every_configuration_is_accepted_by_this_program() {
    let Some(rendered) = rendered() else { return };
    for (overlay, documents) in &rendered {
        let is_config = |document: &&Value| kind(document) == "ConfigMap" && document["data"].is_object();
        let map = documents.iter().find(is_config).unwrap();
        let map: core::ConfigMap = typed(map);
        let data = map.data.unwrap();
        assert_eq!(data.keys().collect::<Vec<_>>(), ["config.yaml"], "{overlay}");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &data["config.yaml"]).unwrap();
        let check = ["config", "check", file.path().to_str().unwrap()];
        let checked = Command::new(env!("CARGO_BIN_EXE_usernsd")).args(check).output().unwrap();
        assert!(checked.status.success(), "{overlay}: {}", String::from_utf8_lossy(&checked.stderr));

        // Commands that people run in a container find it without a flag.
        let of_commands = pod(documents);
        for container in &of_commands.containers {
            let env = container.env.as_deref().unwrap_or_default();
            let variable = env.iter().find(|variable| variable.name == "USERNSD_CONFIG");
            let path = variable.and_then(|variable| variable.value.as_deref());
            assert_eq!(path, Some("/etc/usernsd/config.yaml"), "{overlay}: {}", container.name);
            let args = container.args.as_deref().unwrap_or_default();
            assert!(args.contains(&format!("--config={}", path.unwrap())), "{overlay}: {args:?}");
        }

        // Each path that it names is mounted there.
        let config: Value = serde_saphyr::from_str(&data["config.yaml"]).unwrap();
        let pod = pod(documents);
        let agent = pod.containers.iter().find(|container| container.name == "agent").unwrap();
        let mut named = vec![config["systemd"]["busSocket"].as_str().unwrap()];
        named.extend(
            config["nri"]["socketPaths"]
                .as_array()
                .iter()
                .flat_map(|all| all.iter())
                .filter_map(Value::as_str),
        );
        for path in named {
            let mounts = host_mounts(&pod, agent);
            assert!(mounts.iter().any(|(_, at, _)| path.starts_with(&format!("{at}/"))), "{overlay}: {path}");
        }
        // The NetworkPolicy admits scrapes, and the exporter listens on the scraped port.
        let Some(exporter) = pod.containers.iter().find(|container| container.name == "exporter") else {
            continue;
        };
        let user = exporter.security_context.as_ref().unwrap().run_as_user;
        assert_eq!(config["stateSocket"]["allowUids"][0].as_i64(), user, "{overlay}");
        let port = exporter.ports.as_ref().unwrap()[0].container_port;
        assert_eq!(config["exporter"]["address"], format!("0.0.0.0:{port}"), "{overlay}");
    }
}

#[test]
fn every_scraper_finds_the_port() {
    let Some(node) = renderer() else { return };
    let monitoring = render(&node, "dashboards");
    let kinds: Vec<&str> = monitoring.iter().map(kind).collect();
    assert_eq!(kinds, ["PodMonitor", "PrometheusRule"]);
    let openshift = render(&node, "daemonset/overlays/openshift");
    let of = |wanted: &str| openshift.iter().find(|document| kind(document) == wanted).unwrap();
    // In the overlay, both documents have one more label.
    let without_label = |kind: &str| {
        let mut document = of(kind).clone();
        document["metadata"]["labels"].as_object_mut().unwrap().remove("app.kubernetes.io/part-of").unwrap();
        document
    };
    assert_eq!(without_label("PrometheusRule"), monitoring[1]);
    // The difference is TLS only.
    let mut monitor = without_label("PodMonitor");
    let endpoint = monitor["spec"]["podMetricsEndpoints"][0].as_object_mut().unwrap();
    assert_eq!(endpoint.remove("scheme").unwrap(), "https");
    let tls = endpoint.remove("tlsConfig").unwrap();
    assert_eq!(tls["serverName"], "usernsd.usernsd.svc");
    assert_eq!(of("Service")["metadata"]["name"], "usernsd");
    assert_eq!(monitor, monitoring[0]);
    let endpoint = &monitoring[0]["spec"]["podMetricsEndpoints"][0]["port"];
    let selected = &monitoring[0]["spec"]["selector"]["matchLabels"];
    for overlay in overlays() {
        let documents = render(&node, &format!("daemonset/overlays/{overlay}"));
        let template = daemonset(&documents).spec.unwrap().template;
        let labels = template.metadata.unwrap().labels.unwrap();
        for (label, value) in selected.as_object().unwrap() {
            assert_eq!(labels.get(label).map(String::as_str), value.as_str(), "{overlay}");
        }
        let ports: Vec<String> = containers(&template.spec.unwrap())
            .iter()
            .flat_map(|container| container.ports.iter().flatten().filter_map(|port| port.name.clone()))
            .collect();
        assert_eq!(ports, [endpoint.as_str().unwrap()], "{overlay}");
        let policy: NetworkPolicy =
            typed(documents.iter().find(|document| kind(document) == "NetworkPolicy").unwrap());
        let ingress = policy.spec.unwrap().ingress.unwrap();
        let open: Vec<&IntOrString> = ingress
            .iter()
            .flat_map(|rule| rule.ports.iter().flatten())
            .filter_map(|port| port.port.as_ref())
            .collect();
        assert_eq!(open, [&IntOrString::String(ports[0].clone())], "{overlay}");
    }
}

/// A cluster without the monitoring stack and without a service CA accepts all objects, and nothing waits
/// for either.
#[test]
fn microshift_needs_no_monitoring_and_no_certificate() {
    let Some(rendered) = rendered() else { return };
    let documents = &rendered["microshift"];
    for document in documents {
        let version = document["apiVersion"].as_str().unwrap();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let known = ["", "apps", "rbac.authorization.k8s.io", "networking.k8s.io", "security.openshift.io"];
        assert!(known.contains(&group), "{version} {}", kind(document));
        assert!(!document.to_string().contains("service.beta.openshift.io"), "{document:#}");
    }
    let pod = pod(documents);
    assert!(pod.volumes.iter().flatten().all(|volume| volume.secret.is_none()));
    for container in &pod.containers {
        let probes = [&container.readiness_probe, &container.liveness_probe];
        for probe in probes.into_iter().flatten().filter_map(|probe| probe.http_get.as_ref()) {
            assert!(probe.scheme.as_deref().is_none_or(|scheme| scheme == "HTTP"), "{}", container.name);
        }
    }
}

#[test]
fn the_scc_allows_exactly_what_the_pod_requests() {
    let Some(rendered) = rendered() else { return };
    for overlay in ["openshift", "openshift-observe-only", "microshift"] {
        allows_no_more(&rendered[overlay]);
    }
}

fn allows_no_more(documents: &[Value]) {
    let scc = documents.iter().find(|document| kind(document) == "SecurityContextConstraints").unwrap();
    let scc: Scc = serde_json::from_value(scc.clone()).unwrap();
    let daemonset = daemonset(documents);
    let template = daemonset.spec.unwrap().template;
    let annotations = template.metadata.unwrap().annotations.unwrap();
    let name = scc.metadata["name"].as_str().unwrap();
    assert_eq!(annotations["openshift.io/required-scc"], name);
    // kustomize changes names that it mistakes for others.
    let of_role =
        |document: &&Value| kind(document) == "Role" && document["metadata"]["name"] == "usernsd-scc";
    let role: rbac::Role = typed(documents.iter().find(of_role).unwrap());
    let [rule] = role.rules.as_deref().unwrap() else { panic!("{role:?}") };
    assert_eq!(
        (rule.verbs.as_slice(), rule.resource_names.as_deref()),
        (&["use".into()][..], Some(&[name.to_owned()][..]))
    );
    let pod = template.spec.unwrap();
    let asked: BTreeSet<String> =
        containers(&pod).iter().flat_map(|container| capabilities(container)).collect();
    assert_eq!(scc.allowed_capabilities, asked);
    let volumes: BTreeSet<String> = pod
        .volumes
        .iter()
        .flatten()
        .map(|volume| {
            let value = serde_json::to_value(volume).unwrap();
            value.as_object().unwrap().keys().find(|key| *key != "name").unwrap().clone()
        })
        .collect();
    assert_eq!(scc.volumes, volumes);
    assert!(scc.allow_host_pid && scc.allow_host_dir_volume_plugin && scc.read_only_root_filesystem);
    let others = [
        scc.allow_host_ipc,
        scc.allow_host_network,
        scc.allow_host_ports,
        scc.allow_privileged_container,
        scc.allow_privilege_escalation,
    ];
    assert_eq!(others, [false; 5]);
    assert_eq!(scc.seccomp_profiles, ["runtime/default"]);
}

#[test]
fn an_update_leaves_no_node_without_an_agent() {
    let Some(rendered) = rendered() else { return };
    for (overlay, documents) in &rendered {
        let spec = daemonset(documents).spec.unwrap();
        let rolling = spec.update_strategy.unwrap().rolling_update.unwrap();
        // Nothing waits for the pods that are removed.
        let want = if overlay == "undo" { ("0", "100%") } else { ("10%", "0") };
        let text = |value: Option<IntOrString>| match value.unwrap() {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(text) => text,
        };
        let found = (text(rolling.max_surge), text(rolling.max_unavailable));
        assert_eq!((found.0.as_str(), found.1.as_str()), want, "{overlay}");
        let pod = spec.template.spec.unwrap();
        // Two pods side by side share no port of the node, and no directory that both write but
        // bootstrap's, which has a lock.
        for container in containers(&pod) {
            let ports = container.ports.iter().flatten();
            assert!(ports.clone().all(|port| port.host_port.is_none()), "{overlay}");
        }
        let agent = pod.containers.iter().find(|container| container.name == "agent").unwrap();
        let probe = agent.readiness_probe.as_ref().unwrap().exec.as_ref().unwrap();
        assert_eq!(probe.command.as_ref().unwrap()[1..], ["ps", "--ready"], "{overlay}");
        let bootstrap =
            pod.init_containers.iter().flatten().flat_map(|container| container.args.iter().flatten());
        let args: Vec<&String> = bootstrap.collect();
        let kept = args.iter().any(|arg| *arg == "--exit-zero");
        let undone = args.iter().any(|arg| *arg == "--undo");
        assert_eq!(kept, !args.is_empty() && !undone, "{overlay}: {args:?}");
    }
}

#[test]
fn admission_policies_are_bound() {
    let Some(node) = renderer() else { return };
    for (component, kinds) in [
        ("admission", ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")),
        ("admission-required", ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")),
    ] {
        let documents = with_component(&node, component);
        let names = |wanted: &str| -> BTreeSet<String> {
            let of = documents.iter().filter(|document| kind(document) == wanted);
            of.map(|document| {
                assert_eq!(document["metadata"]["namespace"], Value::Null, "it has none");
                assert_eq!(document["apiVersion"], "admissionregistration.k8s.io/v1");
                document["metadata"]["name"].as_str().unwrap().to_owned()
            })
            .collect()
        };
        let policies = names(kinds.0);
        assert!(!policies.is_empty());
        assert_eq!(policies, names(kinds.1));
        for document in &documents {
            match kind(document) {
                "ValidatingAdmissionPolicy" => drop(typed::<admission::ValidatingAdmissionPolicy>(document)),
                "ValidatingAdmissionPolicyBinding" => {
                    let binding: admission::ValidatingAdmissionPolicyBinding = typed(document);
                    assert!(policies.contains(&binding.spec.unwrap().policy_name.unwrap()));
                }
                _ => {}
            }
        }
    }
}

/// The table rows of a section of docs/security.md, without the header.
fn table(page: &str, heading: &str) -> BTreeSet<Vec<String>> {
    let section =
        page.split(&format!("## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells =
        |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    rows.map(cells).collect()
}

#[test]
fn every_privilege_is_explained() {
    let Some(rendered) = rendered() else { return };
    let page = fs::read_to_string(source("docs/security.md")).unwrap();
    let (mut granted, mut mounted) = (BTreeSet::new(), BTreeSet::new());
    for overlay in ["kubernetes", "crio", "openshift", "observe-only", "openshift-observe-only", "undo"] {
        let pod = pod(&rendered[overlay]);
        for container in containers(&pod) {
            for capability in capabilities(container) {
                granted.insert([container.name.clone(), format!("CAP_{capability}")]);
            }
            for (path, _, writable) in host_mounts(&pod, container) {
                let how = if writable { "read-write" } else { "read-only" };
                mounted.insert([container.name.clone(), path, how.to_owned()]);
            }
        }
    }
    let explained = |heading: &str, columns: usize| -> BTreeSet<Vec<String>> {
        let rows = table(&page, heading);
        assert!(rows.iter().all(|row| row.len() == columns + 1 && !row[columns].is_empty()), "{rows:?}");
        rows.into_iter().map(|row| row[..columns].to_vec()).collect()
    };
    let as_rows = |set: BTreeSet<[String; 2]>| set.into_iter().map(Vec::from).collect::<BTreeSet<_>>();
    // For each there is a test that removes it and finds something broken.
    let tests = fs::read_to_string(source("tests/cases/daemonset.rs")).unwrap();
    for [container, capability] in &granted {
        let without = format!("without({container:?}, {:?})", capability.trim_start_matches("CAP_"));
        assert!(tests.contains(&without), "tests/cases/daemonset.rs: no {without}");
    }
    assert_eq!(explained("Capabilities", 2), as_rows(granted));
    assert_eq!(explained("Directories of the host", 3), mounted.into_iter().map(Vec::from).collect());
}

/// The permissions of an account, one line each.
fn rights<'r>(rules: impl IntoIterator<Item = &'r rbac::PolicyRule>) -> BTreeSet<String> {
    let all = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let mut found = BTreeSet::new();
    for rule in rules {
        assert_eq!(rule.resource_names, None);
        for group in all(&rule.api_groups) {
            for resource in all(&rule.resources) {
                found.extend(rule.verbs.iter().map(|verb| format!("{verb} {resource}.{group}")));
            }
        }
    }
    found
}

#[test]
fn the_account_has_exactly_the_documented_permissions() {
    let Some(node) = renderer() else { return };
    // A test with a real API server compares the page's rules with the exporter's requests.
    let page = fs::read_to_string(source("docs/kubernetes.md")).unwrap();
    let role = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let role: rbac::ClusterRole = serde_saphyr::from_str(role).unwrap();
    let documented = rights(role.rules.iter().flatten());
    let only = |resources: &[&str]| -> BTreeSet<String> {
        let wanted = |right: &&String| resources.iter().any(|name| right.contains(&format!(" {name}.")));
        documented.iter().filter(wanted).cloned().collect()
    };
    for (overlay, resources) in [
        ("kubernetes", &["pods", "events"][..]),
        ("crio", &["pods", "events"]),
        ("observe-only", &["pods", "events"]),
        ("undo", &["pods", "events"]),
        ("openshift", &["pods", "events", "namespaces"]),
        ("openshift-observe-only", &["pods", "events", "namespaces"]),
        ("combined", &[]),
    ] {
        let documents = render(&node, &format!("daemonset/overlays/{overlay}"));
        let roles: Vec<rbac::ClusterRole> =
            documents.iter().filter(|document| kind(document) == "ClusterRole").map(typed).collect();
        assert_eq!(
            rights(roles.iter().flat_map(|role| role.rules.iter().flatten())),
            only(resources),
            "{overlay}"
        );
    }
    // With the component, all of them.
    let documents = with_component(&node, "node-condition");
    let of_exporter = |documents: &[Value]| -> BTreeSet<String> {
        let is_it = |document: &&Value| document["metadata"]["name"] == "usernsd-exporter";
        let role: rbac::ClusterRole = typed(documents.iter().find(is_it).unwrap());
        rights(role.rules.iter().flatten())
    };
    assert_eq!(of_exporter(&documents), documented);

    // An exporter that asks the API server about readers has the permission for it, and the scraper has a
    // token.
    let documents = with_component(&node, "authorization");
    let more =
        ["create tokenreviews.authentication.k8s.io", "create subjectaccessreviews.authorization.k8s.io"];
    let mut want = only(&["pods", "events", "namespaces"]);
    want.extend(more.map(str::to_owned));
    assert_eq!(of_exporter(&documents), want);
    let of = |wanted: &str, name: &str| {
        let is_it = |document: &&Value| kind(document) == wanted && document["metadata"]["name"] == name;
        documents.iter().find(is_it).unwrap_or_else(|| panic!("{wanted} {name}"))
    };
    let reader = "usernsd-metrics-reader";
    let role: rbac::ClusterRole = typed(of("ClusterRole", reader));
    let [rule] = role.rules.as_deref().unwrap() else { panic!("{role:?}") };
    assert_eq!(
        (rule.non_resource_urls.as_deref(), rule.verbs.as_slice()),
        (Some(&["/metrics".into()][..]), &["get".into()][..])
    );
    let binding: rbac::ClusterRoleBinding = typed(of("ClusterRoleBinding", reader));
    let account: core::ServiceAccount = typed(of("ServiceAccount", reader));
    let secret: core::Secret = typed(of("Secret", reader));
    assert_eq!(binding.role_ref.name, reader);
    assert_eq!(binding.subjects.unwrap()[0].name, account.metadata.name.unwrap());
    assert_eq!(secret.metadata.annotations.unwrap()["kubernetes.io/service-account.name"], reader);
    let credentials =
        &of("PodMonitor", "usernsd")["spec"]["podMetricsEndpoints"][0]["authorization"]["credentials"];
    assert_eq!((&credentials["name"], &credentials["key"]), (&reader.into(), &"token".into()));
}

#[test]
fn every_object_that_outlives_the_namespace_is_documented() {
    let Some(node) = renderer() else { return };
    let of_cluster = |documents: &[Value]| -> BTreeSet<(String, String)> {
        let has_none = |document: &&Value| document["metadata"]["namespace"].is_null();
        let name = |document: &Value| document["metadata"]["name"].as_str().unwrap().to_owned();
        documents
            .iter()
            .filter(has_none)
            .map(|document| (kind(document).to_owned(), name(document)))
            .collect()
    };
    let mut made = BTreeSet::new();
    for overlay in overlays() {
        made.extend(of_cluster(&render(&node, &format!("daemonset/overlays/{overlay}"))));
    }
    for component in fs::read_dir(source("daemonset/components")).unwrap() {
        made.extend(of_cluster(&with_component(&node, component.unwrap().file_name().to_str().unwrap())));
    }
    let page = fs::read_to_string(source("docs/install-kubernetes.md")).unwrap();
    let rows = table(&page, "Uninstall");
    let listed: BTreeSet<(String, String)> =
        rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(listed, made);

    // The commands delete the objects that are in no overlay of the section, beginning with those that keep
    // pods from starting.
    let section = page.split("## Uninstall\n").nth(1).unwrap();
    let deletes =
        section.lines().filter_map(|line| line.strip_prefix("$ kubectl delete --ignore-not-found "));
    let deleted: Vec<(String, &str)> = deletes
        .flat_map(|line| {
            let mut words = line.split(' ');
            let kind = words.next().unwrap().to_owned();
            words.map(move |name| (kind.clone(), name))
        })
        .collect();
    assert_eq!(deleted[0], ("mutatingadmissionpolicybinding".to_owned(), "usernsd-required"));
    let by_overlays: BTreeSet<_> = ["undo", "openshift"]
        .into_iter()
        .flat_map(|overlay| of_cluster(&render(&node, &format!("daemonset/overlays/{overlay}"))))
        .collect();
    let rest: BTreeSet<(String, String)> =
        made.difference(&by_overlays).map(|(kind, name)| (kind.to_lowercase(), name.clone())).collect();
    let deleted: BTreeSet<(String, String)> =
        deleted.into_iter().map(|(kind, name)| (kind, name.to_owned())).collect();
    assert_eq!(deleted, rest);
}

/// The overlay for OpenShift with a component.
pub(crate) fn with_component(node: &Node, name: &str) -> Vec<Value> {
    let text = format!(
        "resources: [../usernsd/daemonset/overlays/openshift]\ncomponents: [../usernsd/daemonset/components/{name}]\n"
    );
    node.write("/srv/own/kustomization.yaml", &text);
    let output = node.run(["kubectl", "kustomize", "/srv/own"]);
    output.split("\n---\n").map(|text| serde_saphyr::from_str::<Value>(text).unwrap()).collect()
}
