//! A runtime's answers over CRI, as far as usernsd uses them.

use std::collections::BTreeMap;
use std::fmt;

use prost::bytes::Bytes;
use usernsd_domain::container::{ContainerState, CriId, PodRef, UserNamespaceRequest};
use usernsd_domain::idmap::IdMap;

/// The runtime's name and version (CRI `VersionResponse`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// `cri-o` or `containerd`.
    pub name: String,
    /// The runtime's version, e.g. `1.36.3`; containerd adds a suffix, e.g. `2.1.9+unknown`.
    pub version: String,
    /// The version of CRI: `v1`.
    pub api_version: String,
}

/// A sandbox as the runtime lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriSandbox {
    /// CRI ID of the sandbox.
    pub id: CriId,
    pub pod: PodRef,
    /// The pod's annotations. CRI-O silently drops those that its configuration does not allow. In a list,
    /// only those that usernsd reads ([`relevant`](usernsd_domain::relevant)).
    pub annotations: BTreeMap<String, String>,
    /// The annotations were left out, because those of all pods in the list were too long in total.
    /// [`Cri::sandbox`](super::Cri::sandbox) returns them.
    pub is_cut: bool,
    /// Size of all annotations and labels, in bytes.
    pub size: u64,
    /// Whether the sandbox is ready; otherwise it is stopped.
    pub ready: bool,
    /// The runtime handler, empty for the default one. CRI-O leaves it empty in lists;
    /// [`Cri::sandbox`](super::Cri::sandbox) fills it in.
    pub runtime_handler: String,
}

/// A sandbox with its verbose status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedSandbox {
    /// The sandbox as in a list, but with the runtime handler on CRI-O, too.
    pub sandbox: CriSandbox,
    /// The kubelet's request; `None` if it made none (no `userns_options`: an old kubelet, or CRI-O's
    /// annotation). This repeats the request and is never proof of a user namespace.
    pub request: Option<UserNamespaceRequest>,
    /// The user IDs that the kubelet chose for the pod; empty if it chose none.
    pub uids: IdMap,
    /// PID of the sandbox's own process; `None` if it has none (CRI-O without infra container).
    pub pid: Option<u32>,
    /// Whether the pod uses the node's network namespace.
    pub host_network: bool,
}

/// A container as the runtime lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedContainer {
    /// CRI ID of the container.
    pub id: CriId,
    /// ID of its sandbox.
    pub sandbox_id: String,
    /// The container's name in the pod.
    pub name: String,
    /// The pod, from the kubelet's labels; empty for containers that no kubelet created.
    pub pod: PodRef,
    /// State of the container.
    pub state: ContainerState,
    /// Creation time in nanoseconds since 1970, by the runtime's clock.
    pub created_at_ns: i64,
}

/// A container with its verbose status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedContainer {
    /// The container as in a list.
    pub container: ListedContainer,
    /// PID of the init process in the runtime's PID namespace; `None` before there is a process. Both
    /// runtimes keep it after the process has ended, when another process may have the number: see `state`.
    pub pid: Option<u32>,
    /// Whether the container is privileged; `None` if the runtime does not report it.
    pub privileged: Option<bool>,
    /// Creation time in nanoseconds since 1970, by the runtime's clock.
    pub created_at_ns: i64,
    /// How the container ended; `None` if it has not.
    pub end: Option<End>,
    /// Path of the log of its standard output and error; empty if it has none.
    pub log_path: String,
    /// How often the kubelet has restarted the container; `None` if no kubelet created it.
    pub restarts: Option<u32>,
    /// The OCI specification (`config.json`), as the runtime recorded it at creation.
    pub spec_json: Document,
}

/// A text within an answer. It keeps the answer's buffer in memory instead of a copy.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(Bytes);

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub code: i32,
    /// Time of the end in nanoseconds since 1970, by the runtime's clock.
    pub at_ns: i64,
    /// Reason as one word of the runtime, such as `Error` or `OOMKilled`.
    pub reason: String,
    /// The runtime's message, mostly set if the container could not be started.
    pub message: String,
}

/// Kind of a container event (CRI `ContainerEventType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContainerEventKind {
    /// Created. On CRI-O its cgroup exists and nothing has run yet; on containerd there is no cgroup yet.
    Created,
    /// Started; usually its process has run some instructions already.
    Started,
    Stopped,
    Deleted,
}

/// An event about a container or a sandbox; for a sandbox, `id` equals `sandbox_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Kind of the event.
    pub kind: ContainerEventKind,
    /// The container or sandbox.
    pub id: CriId,
    /// The container's sandbox; empty if the runtime does not report it.
    pub sandbox_id: String,
    /// Time of the event in nanoseconds since 1970, by the runtime's clock.
    pub created_at_ns: i64,
}

// === impl Document ===

impl Document {
    /// Makes a document of `part`, which must lie in `answer`.
    pub(super) fn within(answer: &Bytes, part: &str) -> Document {
        Document(answer.slice_ref(part.as_bytes()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        // The bytes come from a `str`, so they are UTF-8.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::ops::Deref for Document {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
