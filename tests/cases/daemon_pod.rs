//! The pod of `daemonset/` on a test node: the image from `daemonset/Containerfile`, built by buildah; the
//! manifest as kubectl renders it; run by podman, in place of a kubelet and a runtime.
//!
//! Features that podman lacks are emulated here: the node's name, the exporter's token (there is no API
//! server that would issue one), and probes over HTTP, for which podman would run curl in the container. The
//! runtime under test does not run the pod, because it would wait for itself.

use std::collections::BTreeMap;
use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use crate::agent::{Agent, Home};
use crate::image::{self, SOURCE};
use crate::node::{Node, Options, Runtime};
use crate::pods::wait_for;

pub(crate) const POD: &str = "usernsd-pod";
/// The pod's own directory, with the state socket.
const STATE: &str = "/run/usernsd-test/state";
const MANIFEST: &str = "/run/usernsd-test/daemonset.yaml";

/// A pod of the DaemonSet on a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DaemonPod;

/// The changes to the manifests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variant {
    /// The directory below `daemonset/overlays`.
    pub(crate) overlay: &'static str,
    /// Additions to the configuration, in YAML.
    pub(crate) config: &'static str,
    /// A capability that is taken from a container.
    pub(crate) without: Option<(&'static str, &'static str)>,
    /// Whether each container has a busybox, so that a test can run commands in it.
    pub(crate) busybox: bool,
    /// The agent's AppArmor profile, instead of `unconfined`.
    pub(crate) apparmor: Option<&'static str>,
}

pub(crate) const AS_IT_IS: Variant =
    Variant { overlay: "kubernetes", config: "", without: None, busybox: false, apparmor: None };

/// A node with the image's parts and this source.
pub(crate) fn node(mut options: Options) -> Option<Node> {
    if let Some(why) = Node::missing(&options) {
        // The boot reports a skip or a failure itself.
        drop(why);
        return Node::boot_or_skip(&options);
    }
    image::bind(&mut options);
    Node::boot_or_skip(&options)
}

/// Starts the agent in the DaemonSet's pod as in the manifests, also again after it was killed.
#[track_caller]
pub(crate) fn in_the_pod(node: &Node) -> Agent<'_> {
    let ready_before = if DaemonPod.is_there(node) {
        let ready = DaemonPod.log(node, "agent").matches("\"message\":\"ready\"").count();
        node.run(["podman", "start", &format!("{POD}-agent")]);
        ready
    } else {
        DaemonPod::play(node, AS_IT_IS);
        0
    };
    wait_for("the agent in the pod", || {
        let log = DaemonPod.log(node, "agent");
        let times = |message: &str| log.matches(&format!("\"message\":\"{message}\"")).count();
        let joined = times("joined the runtime over NRI") > ready_before;
        (joined && times("ready") > ready_before).then_some(())
    });
    DaemonPod.wait_for_exporter(node);
    Agent { node, home: Home::Pod(DaemonPod) }
}

impl DaemonPod {
    /// Builds the image and starts the pod. Init containers have ended when it returns.
    #[track_caller]
    pub(crate) fn play(node: &Node, variant: Variant) {
        let output = DaemonPod::try_play(node, variant);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Like [`DaemonPod::play`], but returns the result instead of asserting success.
    #[track_caller]
    pub(crate) fn try_play(node: &Node, variant: Variant) -> Output {
        DaemonPod::prepare(node, variant);
        node.exec(DaemonPod::command())
    }

    /// The command that starts the pod once it is prepared.
    pub(crate) fn command() -> [&'static str; 7] {
        // A network namespace as a pod has it, without a route to the outside.
        ["podman", "kube", "play", "--network", "none", "--log-driver=k8s-file", MANIFEST]
    }

    /// Builds the image, renders the manifests and changes them.
    #[track_caller]
    pub(crate) fn prepare(node: &Node, variant: Variant) {
        image::build(node);
        // Nodes of CRI-O have an overlay of their own.
        let overlay = match (variant.overlay, node.runtime()) {
            ("kubernetes", Runtime::Crio) => "crio",
            (overlay, _) => overlay,
        };
        let text = node.run(["kubectl", "kustomize", &format!("{SOURCE}/daemonset/overlays/{overlay}")]);
        let documents = text.split("\n---\n").map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
        let played: Vec<String> = documents.filter_map(|document| changed(document, variant)).collect();
        assert_eq!(played.len(), 2, "a DaemonSet and its ConfigMap");
        node.write(MANIFEST, played.join("\n---\n"));
        if let Some(profile) = variant.apparmor {
            set_profile(node, profile);
        }
        // On a node with a kubelet this directory exists.
        node.run(["mkdir", "-p", "/var/lib/kubelet/pods", STATE]);
        node.run(["chmod", "777", STATE]);
    }

    /// Each container's memory limit in the manifest, in KiB.
    #[track_caller]
    pub(crate) fn memory_limits(node: &Node) -> BTreeMap<String, u64> {
        let text = fs::read_to_string(node.path(MANIFEST)).unwrap();
        let mut documents = text.split("\n---\n").map(|text| serde_json::from_str::<Value>(text).unwrap());
        let played = documents.find(|document| document["kind"] == "DaemonSet").unwrap();
        let containers = played["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        let limit = |container: &Value| {
            let text = container["resources"]["limits"]["memory"].as_str().unwrap();
            text.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() * 1024
        };
        containers
            .iter()
            .map(|container| (container["name"].as_str().unwrap().to_owned(), limit(container)))
            .collect()
    }

    fn is_there(self, node: &Node) -> bool {
        node.exec(["podman", "container", "exists", &format!("{POD}-agent")]).status.success()
    }

    /// The PID of a container's first process, in the node's PID namespace.
    #[track_caller]
    pub(crate) fn pid(self, node: &Node, container: &str) -> String {
        node.run(["podman", "inspect", "--format", "{{.State.Pid}}", &format!("{POD}-{container}")])
    }

    pub(crate) fn is_alive(self, node: &Node) -> bool {
        self.pid(node, "agent") != "0"
    }

    /// Sends SIGKILL to it; podman does not restart it.
    pub(crate) fn kill(self, node: &Node) {
        node.run(["podman", "kill", "--signal=KILL", &format!("{POD}-agent")]);
        node.run(["podman", "wait", "--condition=exited", &format!("{POD}-agent")]);
    }

    /// A container's output.
    pub(crate) fn log(self, node: &Node, container: &str) -> String {
        let output = node.exec(["podman", "logs", &format!("{POD}-{container}")]);
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    }

    /// Waits until the exporter serves the agent's state.
    #[track_caller]
    pub(crate) fn wait_for_exporter(self, node: &Node) {
        wait_for("the exporter", || {
            let log = self.log(node, "exporter");
            (log.contains("serving metrics") && log.contains("reading the agent's state")).then_some(())
        });
    }

    /// Runs usernsd in the agent's container.
    #[track_caller]
    pub(crate) fn exec(self, node: &Node, args: &[&str]) -> String {
        let name = format!("{POD}-agent");
        node.run(["podman", "exec", &name, "/usernsd"].iter().chain(args))
    }

    /// Runs a script in a container, as that container's own user. Returns its output, also if it fails.
    #[track_caller]
    pub(crate) fn script(self, node: &Node, container: &str, script: &str) -> String {
        let script = format!("exec 2>&1; {script}");
        node.run(["podman", "exec", &format!("{POD}-{container}"), "/busybox", "sh", "-c", &script])
    }

    /// Makes an HTTP request in the pod's network namespace.
    #[track_caller]
    pub(crate) fn get(self, node: &Node, url: &str) -> String {
        let pid = self.pid(node, "agent");
        node.run(["nsenter", "-t", &pid, "-n", "busybox", "wget", "-qO-", url])
    }
}

/// Sets the agent's AppArmor profile, for which podman has no field: in the OCI specification, before the runtime reads
/// it. The other containers are unconfined.
fn set_profile(node: &Node, profile: &str) {
    let script = format!(
        "#!/bin/sh\nlast= bundle=\nfor word; do\n  [ \"$last\" != --bundle ] || bundle=$word\n  last=$word\ndone\n\
         if [ -e \"$bundle/config.json\" ]; then\n  \
         jq 'if .process.args[1] == \"agent\" then .process.apparmorProfile = \"{profile}\" end' \
         \"$bundle/config.json\" >\"$bundle/changed\" && mv \"$bundle/changed\" \"$bundle/config.json\"\nfi\n\
         exec /usr/bin/crun \"$@\"\n"
    );
    node.write("/usr/local/libexec/crun", script);
    node.run(["chmod", "755", "/usr/local/libexec/crun"]);
}

/// Converts a document for podman; `None` for kinds that it does not support.
fn changed(mut document: Value, variant: Variant) -> Option<String> {
    match document["kind"].as_str()? {
        "ConfigMap" if document["data"].is_object() => {
            let config = document["data"]["config.yaml"].as_str().unwrap();
            document["data"]["config.yaml"] = Value::String(format!("{config}{}", variant.config));
        }
        "DaemonSet" => {
            // Otherwise podman removes init containers once they have ended, with their logs.
            document["metadata"]["annotations"] =
                json!({"io.podman.annotations.init.container.type": "always"});
            let spec = &mut document["spec"]["template"]["spec"];
            let volumes = spec["volumes"].as_array_mut().unwrap();
            volumes.retain(|volume| volume["name"] != "token");
            // podman makes an emptyDir owned by the first container's user; a kubelet makes it accessible to
            // all users.
            let state = volumes.iter_mut().find(|volume| volume["name"] == "state").unwrap();
            *state = json!({"name": "state", "hostPath": {"path": STATE, "type": "Directory"}});
            if variant.busybox {
                let file =
                    json!({"name": "busybox", "hostPath": {"path": "/usr/bin/busybox", "type": "File"}});
                spec["volumes"].as_array_mut().unwrap().push(file);
            }
            for kind in ["initContainers", "containers"] {
                for container in spec[kind].as_array_mut().into_iter().flatten() {
                    change(container, variant);
                }
            }
        }
        _ => return None,
    }
    Some(document.to_string())
}

fn change(container: &mut Value, variant: Variant) {
    for variable in container["env"].as_array_mut().into_iter().flatten() {
        if variable["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName" {
            *variable = json!({"name": variable["name"], "value": "worker-1"});
        }
    }
    if variant.busybox {
        let mount = json!({"name": "busybox", "mountPath": "/busybox", "readOnly": true});
        container["volumeMounts"].as_array_mut().unwrap().push(mount);
    }
    container["volumeMounts"].as_array_mut().unwrap().retain(|mount| mount["name"] != "token");
    let fields = container.as_object_mut().unwrap();
    fields.retain(|name, value| !(name.ends_with("Probe") && value.get("httpGet").is_some()));
    // Indexing has added a null for a missing field.
    fields.retain(|_, value| !value.is_null());
    if let Some((name, capability)) = variant.without
        && container["name"] == name
    {
        let added = container["securityContext"]["capabilities"]["add"].as_array_mut().unwrap();
        let before = added.len();
        added.retain(|added| added != capability);
        assert_eq!(added.len() + 1, before, "{name} has no {capability}");
    }
}
