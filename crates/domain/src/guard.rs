//! The guard: a pod that asked for its own user namespace must run in one.
//!
//! CRI-O 1.25 to 1.36.3 (not 1.35.6) loses the ID mappings of its sandboxes when it restarts; a container that is
//! re-created afterwards runs as the host's root although its pod has `hostUsers: false` (cri-o/cri-o#10014). Nothing
//! else on the node notices.

use std::collections::BTreeMap;

use super::container::UserNamespaceRequest;
use super::crio::annotation::USERNS_MODE;
use super::runtime::RuntimeKind;

/// The treatment of a container whose isolation is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuardPolicy {
    /// Refuse its creation, and its start.
    #[default]
    Refuse,
    /// Let it run; count and report it.
    Report,
}

words! {
    /// The name in the configuration.
    GuardPolicy { Refuse = "refuse", Report = "report" }
}

/// The guard's finding about one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The container gets the user namespace that its pod requested.
    Good,
    /// The pod requested its own user namespace, and the container would run in the host's.
    Lost,
    /// The pod's request is unknown; the container is not refused.
    Unknown,
}

// === impl Verdict ===

words! {
    /// The name in documents.
    Verdict { Good = "good", Lost = "lost", Unknown = "unknown" }
}

/// Whether the runtime keeps a container from starting if a plugin refuses the start. CRI-O logs the error and
/// continues (`server/container_start.go`).
#[must_use]
pub fn honours_refusal_at_start(runtime: &str) -> bool {
    RuntimeKind::named(runtime) != Some(RuntimeKind::Crio)
}

/// Compares what the pod asked for with what its container gets.
#[must_use]
pub fn judge(request: Option<UserNamespaceRequest>, own_user_namespace: bool) -> Verdict {
    match (request, own_user_namespace) {
        // More isolation than requested is fine.
        (_, true) | (Some(UserNamespaceRequest::Host), false) => Verdict::Good,
        (Some(UserNamespaceRequest::Own), false) => Verdict::Lost,
        (None, false) => Verdict::Unknown,
    }
}

/// The request in CRI-O's annotation: `auto…` and `private…` ask for a user namespace (cri-o
/// `server/sandbox_run_linux.go`). The annotation is only visible if the runtime allowed it.
#[must_use]
fn request_of_annotation(value: &str) -> Option<UserNamespaceRequest> {
    let mode = value.split(':').next().unwrap_or_default();
    matches!(mode, "auto" | "private").then_some(UserNamespaceRequest::Own)
}

/// A pod's request by CRI-O's annotation, in its old or its new name.
#[must_use]
pub fn annotated_request(annotations: &BTreeMap<String, String>) -> Option<UserNamespaceRequest> {
    USERNS_MODE.iter().find_map(|key| request_of_annotation(annotations.get(*key)?))
}

/// The error for the caller that creates a refused container; it is shown in the pod's events and in the kubelet's
/// log.
#[must_use]
pub fn refusal(namespace: &str, pod: &str, container: &str) -> String {
    format!(
        "usernsd: container {container} of pod {namespace}/{pod} would run in the host's user namespace, as the \
         host's root, although its pod asked for a user namespace (hostUsers: false). The runtime has lost the \
         pod's ID mappings, as CRI-O 1.25 to 1.36.3 (not 1.35.6) does when it restarts. Delete the pod: its \
         successor gets new mappings."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_user_namespace_that_was_asked_for_is_lost() {
        use UserNamespaceRequest::{Host, Own};
        for (request, own, want) in [
            (Some(Own), true, Verdict::Good),
            (Some(Own), false, Verdict::Lost),
            (Some(Host), false, Verdict::Good),
            (Some(Host), true, Verdict::Good),
            (None, false, Verdict::Unknown),
            (None, true, Verdict::Good),
        ] {
            assert_eq!(judge(request, own), want, "{request:?} {own}");
        }
    }

    #[test]
    fn the_annotations_of_crio_are_parsed() {
        for value in ["auto", "auto:size=65536", "private", "private:uidmapping=0:1:2"] {
            assert_eq!(request_of_annotation(value), Some(UserNamespaceRequest::Own), "{value}");
        }
        for value in ["", "host", "automatic"] {
            assert_eq!(request_of_annotation(value), None, "{value}");
        }
    }

    #[test]
    fn the_refusal_names_the_pod_and_the_remedy() {
        let text = refusal("prod", "web-0", "nginx");
        assert!(text.contains("prod/web-0") && text.contains("nginx") && text.contains("Delete the pod"));
    }
}
