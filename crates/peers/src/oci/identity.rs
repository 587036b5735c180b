//! Which container a specification is of, by the annotations of the runtime.

use std::collections::BTreeMap;

use serde::Deserialize;

use usernsd_domain::container::PodRef;

/// The identity of a container or sandbox as the runtime's annotations give it. Missing texts are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerIdentity {
    pub pod: PodRef,
    /// ID of the sandbox.
    pub sandbox_id: String,
    /// The container's name in its pod; empty for a sandbox.
    pub name: String,
    /// Whether this is a sandbox and not a container.
    pub sandbox: bool,
}

/// Identifies a container by the annotations that CRI-O (`io.kubernetes.cri-o.…`) or containerd
/// (`io.kubernetes.cri.…`, its `pkg/cri/annotations`) puts into every specification.
///
/// A pod's own annotations may be in it too, also those with the names of the other runtime's: CRI-O copies them
/// (`SpecAddAnnotations`), containerd those of its `pod_annotations`. `cgroups_path`, which no pod chooses, decides whose
/// annotations count.
#[must_use]
pub fn identity_of(annotations: &BTreeMap<String, String>, cgroups_path: &str) -> ContainerIdentity {
    let is_crios = is_crios(cgroups_path);
    let text = |key: &str| annotations.get(key).cloned().unwrap_or_default();
    // `is_identity_key` lists the keys that are read here.
    let of = |is_read: bool, prefix: &str, key: &str| match is_read {
        true => text(&format!("{prefix}{key}")),
        false => String::new(),
    };
    let crio = |key: &str| of(is_crios != Some(false), "io.kubernetes.cri-o.", key);
    let containerd = |key: &str| of(is_crios != Some(true), "io.kubernetes.cri.", key);
    // The value is a JSON map of texts; "null" if there are none.
    let labels: Labels =
        serde_json::from_str::<Option<_>>(&crio("Labels")).ok().flatten().unwrap_or_default();
    let sandbox_name = crio("SandboxName");
    let made_of = name_of_sandbox(&sandbox_name).unwrap_or_default();
    let of_pod = |key: &str, label: Option<String>, made_of: &str| {
        let sources = [
            containerd(&format!("sandbox-{key}")),
            label.unwrap_or_default(),
            // CRI-O's sandboxes have the labels as annotations, too.
            text(&format!("io.kubernetes.pod.{key}")),
            made_of.to_owned(),
        ];
        sources.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
    };
    let pod = PodRef {
        namespace: of_pod("namespace", labels.namespace, &made_of.namespace),
        name: of_pod("name", labels.name, &made_of.name),
        uid: of_pod("uid", labels.uid, &made_of.uid),
    };
    let first = |one: String, other: String| if one.is_empty() { other } else { one };
    let sandbox = first(containerd("container-type"), crio("ContainerType")) == "sandbox";
    let name = if sandbox {
        String::new()
    } else {
        first(containerd("container-name"), metadata_name(&crio("Metadata")))
    };
    ContainerIdentity { pod, sandbox_id: first(containerd("sandbox-id"), crio("SandboxID")), name, sandbox }
}

/// Whether a path is CRI-O's (`slice:crio:ID`, or `…/crio-ID` without systemd); `None` if there is none.
fn is_crios(cgroups_path: &str) -> Option<bool> {
    let mut parts = cgroups_path.rsplit(':');
    let last = parts.next().filter(|last| !last.is_empty())?;
    Some(match parts.next() {
        Some(prefix) => prefix == "crio",
        None => last.rsplit('/').next().is_some_and(|name| name.starts_with("crio-")),
    })
}

/// Whether [`identity_of`] reads the annotation `key`.
pub(super) fn is_identity_key(key: &str) -> bool {
    let of =
        |prefix: &str, names: &[&str]| key.strip_prefix(prefix).is_some_and(|name| names.contains(&name));
    let pod = ["sandbox-namespace", "sandbox-name", "sandbox-uid"];
    of("io.kubernetes.cri-o.", &["Labels", "SandboxName", "ContainerType", "Metadata", "SandboxID"])
        || of("io.kubernetes.cri.", &["container-type", "container-name", "sandbox-id"])
        || of("io.kubernetes.cri.", &pod)
        || of("io.kubernetes.pod.", &["namespace", "name", "uid"])
}

/// The kubelet's labels that name a pod.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "io.kubernetes.pod.namespace")]
    namespace: Option<String>,
    #[serde(rename = "io.kubernetes.pod.name")]
    name: Option<String>,
    #[serde(rename = "io.kubernetes.pod.uid")]
    uid: Option<String>,
}

/// The container's name in CRI-O's copy of the CRI metadata, `{"name":"c","attempt":1}`.
fn metadata_name(json: &str) -> String {
    #[derive(Deserialize)]
    struct Metadata {
        name: Option<String>,
    }
    serde_json::from_str::<Metadata>(json).ok().and_then(|metadata| metadata.name).unwrap_or_default()
}

/// Parses CRI-O's name of a sandbox, `k8s_NAME_NAMESPACE_UID_ATTEMPT`: the last resort for containers without
/// labels. Kubernetes names contain no underscore.
fn name_of_sandbox(text: &str) -> Option<PodRef> {
    let mut parts = text.strip_prefix("k8s_")?.split('_');
    let (name, namespace, uid, _attempt) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none();
    whole.then(|| PodRef { namespace: namespace.into(), name: name.into(), uid: uid.into() })
}
