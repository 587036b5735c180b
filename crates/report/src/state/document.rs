//! The format of the document. Within a version, names are only added; readers ignore unknown names.

#![deny(missing_docs, reason = "programs of others read this document")]

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use usernsd_domain::check::Examined;
use usernsd_domain::container::{CgroupMount, PodRef};
use usernsd_domain::delegation;
use usernsd_domain::guard::Verdict;
use usernsd_domain::idmap::IdMap;
use usernsd_domain::node::{self, Health, PeerState, Snapshot, StartPath, Survey};
use usernsd_domain::recent_events::{self, EventKind};
use usernsd_domain::record::{CgroupState, Outcome, OutcomeName, Record, Source};
use usernsd_domain::utc::rfc3339;

use super::checks::{CheckState, ProblemState};
use super::past::Past;
use super::schema::Named;
use super::survey::{IdSpace, Kernel, PodState};

/// The version this program writes, and the newest it reads.
pub const VERSION: u64 = 1;

/// Why a container is [`CgroupState::Missed`].
const MISSED: &str = "its pod asked for a writable cgroup, and nothing was in its start path when it was created; delete the pod, \
                      or set optIn.missed to restart";

/// Why a container whose cgroup was left as it is can be [`CgroupState::Unlimited`].
const UNLIMITED: &str = "the container owns its cgroup, which its OCI runtime handed over, and delegation.mechanism is \"none\", so \
                         no limits are set";

/// Facts about the agent that do not change while it runs.
#[derive(Debug, Clone)]
pub struct About {
    /// The node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// The node's uptime when the agent started; `None` if it could not be read.
    pub uptime_at_start: Option<Duration>,
}

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The format's version.
    pub version: u64,
    /// The node on which the agent runs.
    pub node: Node,
    /// The agent that wrote the document.
    pub agent: Agent,
    /// The programs the agent talks to.
    pub peers: Peers,
    /// The containers, by their ID.
    pub containers: Vec<Container>,
    /// The pods, by their name.
    #[serde(default)]
    pub pods: Vec<PodState>,
    /// The owners of host IDs; `None` if the files that list them cannot be read.
    #[serde(default)]
    pub id_space: Option<IdSpace>,
    /// Recent actions and refusals of the agent, the latest first.
    #[serde(default)]
    pub events: Vec<Event>,
    /// The node's checks; empty before the first round.
    #[serde(default)]
    pub checks: Vec<CheckState>,
    /// Containers in user namespaces of their own that ended recently, the latest first.
    #[serde(default)]
    pub past: Vec<Past>,
}

/// The node on which the agent runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The node's name, as Kubernetes uses it if that is configured.
    pub name: String,
    /// The container runtime, once it has answered.
    pub runtime: Option<Runtime>,
    /// The kernel; `null` before the first survey.
    #[serde(default)]
    pub kernel: Option<Kernel>,
    /// Whether the node can run pods in user namespaces, as far as it was surveyed.
    #[serde(default)]
    pub ready: Option<bool>,
}

/// A container runtime, as it identifies itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// The runtime's name, e.g. `cri-o` or `containerd`.
    pub name: String,
    /// The runtime's version, as it reports it.
    pub version: String,
    /// The CRI socket it answers on.
    pub endpoint: String,
}

/// The agent that wrote the document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Version of usernsd.
    pub version: String,
    /// When the agent started (RFC 3339, UTC).
    pub started_at: String,
    /// The node's uptime in milliseconds when the agent started. Unlike `startedAt` it stays the same when the clock is
    /// set, so it differs only between two runs of the agent; `null` if it is not known.
    #[serde(default)]
    pub uptime_at_start_ms: Option<u64>,
}

/// The programs the agent talks to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peers {
    /// The runtime's CRI.
    pub cri: Peer,
    /// The runtime's NRI.
    pub nri: Peer,
    /// systemd's D-Bus interface.
    pub systemd: Peer,
    /// The part of usernsd that the runtime calls before a container starts: `launched_plugin`,
    /// `agent_joined` or `nobody`; empty if an older agent wrote the document.
    #[serde(default)]
    pub start_path: Named<StartPath>,
    /// The reason why the runtime that answers over CRI does not call usernsd although another runtime does.
    #[serde(default)]
    pub mismatch: Option<ProblemState>,
    /// The plugins that runtimes launched.
    #[serde(default)]
    pub plugins: Vec<Plugin>,
}

/// A plugin that a runtime launched, as it describes itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    /// PID of the plugin on the node.
    pub pid: u32,
    /// usernsd's version in it.
    pub version: String,
    /// The runtime's name.
    pub runtime: String,
    /// The runtime's version.
    pub runtime_version: String,
    /// When it registered with the runtime (RFC 3339, UTC).
    pub since: String,
    /// Whether it answers.
    pub responds: bool,
    /// A digest of the settings in use.
    pub settings: String,
    /// Problems with its settings or its environment, one sentence each.
    pub problems: Vec<String>,
    /// Reports that it dropped because no agent fetched them.
    pub dropped: u64,
}

/// The state of the connection to a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// `up`, `down` or `off` (switched off by the configuration).
    pub state: Named<PeerState>,
    /// The time of the last change of the state (RFC 3339, UTC).
    pub since: String,
    /// Number of reconnections.
    pub reconnects: u64,
    /// The last error; it is kept after a reconnection.
    pub last_error: Option<String>,
}

/// A container that the runtime lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// The CRI container ID.
    pub id: String,
    /// The CRI ID of the container's sandbox.
    pub sandbox_id: String,
    /// The container's name in its pod.
    pub name: String,
    /// The pod that contains the container.
    pub pod: Pod,
    /// PID of the init process on the node.
    pub pid: Option<u32>,
    /// The mapping of user IDs, from the kernel.
    pub uid_map: Option<Vec<Mapping>>,
    /// The mapping of group IDs, from the kernel.
    #[serde(default)]
    pub gid_map: Option<Vec<Mapping>>,
    /// The user namespace of the init process.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
    /// How `/sys/fs/cgroup` is mounted in the container: `read-write`, `read-only` or `absent`.
    pub mount: Option<Named<CgroupMount>>,
    /// The cgroup that was proven to be the container's.
    pub cgroup: Cgroup,
    /// The state of the container's cgroup for people; see `docs/state.md`.
    pub state: Named<CgroupState>,
    /// The outcome of the last inspection.
    pub outcome: Named<OutcomeName>,
    /// Why the cgroup was left as it is, or what failed, in a sentence.
    pub reason: Option<String>,
    /// The trigger of the last inspection.
    pub source: Named<Source>,
    /// Whether the container has the user namespace that its pod asked for: `good`, `lost` or `unknown`.
    pub isolation: Named<Verdict>,
}

/// A user namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserNamespace {
    /// The inode of the namespace, by which the kernel identifies it.
    pub inode: u64,
    /// Whether it is the host's user namespace.
    pub host: bool,
}

/// A pod as Kubernetes identifies it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's name in its namespace.
    pub name: String,
    /// The pod's UID in Kubernetes.
    pub uid: String,
}

/// An extent of an ID mapping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    /// First container ID.
    pub container_id: u32,
    /// First host ID.
    pub host_id: u32,
    /// Number of IDs.
    pub length: u32,
}

/// A container's cgroup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    /// The path below the node's cgroup root.
    pub path: Option<String>,
    /// The systemd scope that this cgroup is or is part of.
    pub unit: Option<String>,
    /// The inode, which is the kernel's ID of the cgroup.
    pub inode: Option<u64>,
    /// The host ID that owns the directory.
    pub owner: Option<u32>,
    /// The limits that apply to it, if both are set.
    pub limits: Option<Limits>,
}

/// Limits on the cgroups that a pod may create below its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// `cgroup.max.descendants`: the number of cgroups below.
    pub descendants: u32,
    /// `cgroup.max.depth`: the number of levels below.
    pub depth: u32,
}

/// An action or refusal of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The event's number, from 1 for each run of the agent.
    pub number: u64,
    /// When it occurred (RFC 3339, UTC).
    pub at: String,
    /// `fixed`, `failed`, `left_alone` or `refused`.
    pub kind: Named<EventKind>,
    /// The action, or the reason's name.
    pub what: String,
    /// The container's ID.
    pub container_id: String,
    /// The container's name in the pod.
    pub container: String,
    /// The container's pod.
    pub pod: Pod,
    /// A sentence for people.
    pub sentence: String,
}

// === impl State ===

impl State {
    /// The document at one moment.
    #[must_use]
    pub fn of(about: &About, snapshot: &Snapshot, survey: &Survey) -> State {
        State {
            version: VERSION,
            node: Node {
                name: about.node.clone(),
                runtime: snapshot.runtime.as_ref().map(Runtime::from),
                kernel: survey.kernel.as_ref().map(Kernel::from),
                ready: snapshot.examined.as_ref().map(|_| survey.is_ready(snapshot)),
            },
            agent: Agent {
                version: about.version.clone(),
                started_at: rfc3339(snapshot.started),
                uptime_at_start_ms: about
                    .uptime_at_start
                    .map(|uptime| u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)),
            },
            peers: Peers {
                cri: Peer::from(&snapshot.peers.cri),
                nri: Peer::from(&snapshot.peers.nri),
                systemd: Peer::from(&snapshot.peers.systemd),
                start_path: snapshot.start_path.into(),
                mismatch: snapshot.mismatch.as_ref().map(|mismatch| ProblemState {
                    what: mismatch.what.clone(),
                    remedy: mismatch.remedy.clone(),
                }),
                plugins: snapshot.plugins.iter().map(Plugin::from).collect(),
            },
            containers: snapshot.containers.iter().map(|record| Container::from(record.as_ref())).collect(),
            pods: survey.pods.iter().map(PodState::from).collect(),
            id_space: survey
                .host_ids
                .as_ref()
                .zip(survey.space.as_ref())
                .map(|(host, space)| IdSpace::of(host, space)),
            events: snapshot.events.iter().map(|event| Event::from(event.as_ref())).collect(),
            checks: Examined::now(snapshot, survey).iter().map(CheckState::from).collect(),
            past: snapshot.past.iter().map(|past| Past::from(past.as_ref())).collect(),
        }
    }

    /// The document's text, ending in a line end.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        // The document consists of strings and numbers, so JSON can represent it.
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

// === impl From ===

impl From<&node::CriRuntime> for Runtime {
    fn from(runtime: &node::CriRuntime) -> Runtime {
        let node::CriRuntime { name, version, endpoint } = runtime.clone();
        Runtime { name, version, endpoint }
    }
}

impl From<&Health> for Peer {
    fn from(health: &Health) -> Peer {
        Peer {
            state: health.state.into(),
            since: rfc3339(health.since),
            reconnects: health.reconnects,
            last_error: health.last_error.clone(),
        }
    }
}

impl From<&node::LaunchedPlugin> for Plugin {
    fn from(plugin: &node::LaunchedPlugin) -> Plugin {
        Plugin {
            pid: plugin.pid,
            version: plugin.version.clone(),
            runtime: plugin.runtime.clone(),
            runtime_version: plugin.runtime_version.clone(),
            since: rfc3339(plugin.since),
            responds: plugin.responds,
            settings: plugin.settings.clone(),
            problems: plugin.problems.clone(),
            dropped: plugin.dropped,
        }
    }
}

impl From<&Record> for Container {
    fn from(record: &Record) -> Container {
        Container {
            id: record.id.to_string(),
            sandbox_id: record.sandbox_id.clone(),
            name: record.name.clone(),
            pod: Pod::from(&record.pod),
            pid: record.pid,
            uid_map: record.uid_map.as_ref().map(mappings),
            gid_map: record.gid_map.as_ref().map(mappings),
            // Without an inode, the container ended before it could be read.
            user_namespace: record.user_namespace.and_then(|namespace| {
                Some(UserNamespace { inode: namespace.inode?, host: namespace.is_hosts })
            }),
            mount: record.mount.map(Named::from),
            cgroup: Cgroup::from(record),
            state: record.state().into(),
            outcome: record.outcome.kind().into(),
            reason: match &record.outcome {
                Outcome::Delegated | Outcome::AlreadyRight => None,
                Outcome::Skipped(skip) => Some(match record.state() {
                    CgroupState::Missed => MISSED.to_owned(),
                    CgroupState::Unlimited => UNLIMITED.to_owned(),
                    _ => skip.meaning().to_owned(),
                }),
                Outcome::Failed(error) => Some(error.clone()),
            },
            source: record.source.into(),
            isolation: record.isolation.into(),
        }
    }
}

impl From<Pod> for PodRef {
    fn from(pod: Pod) -> PodRef {
        let Pod { namespace, name, uid } = pod;
        PodRef { namespace, name, uid }
    }
}

impl From<&PodRef> for Pod {
    fn from(pod: &PodRef) -> Pod {
        let PodRef { namespace, name, uid } = pod.clone();
        Pod { namespace, name, uid }
    }
}

impl From<&recent_events::Event> for Event {
    fn from(event: &recent_events::Event) -> Event {
        Event {
            number: event.number,
            at: rfc3339(event.at),
            kind: event.kind.into(),
            what: event.what.to_owned(),
            container_id: event.container.to_string(),
            container: event.name.clone(),
            pod: Pod::from(&event.pod),
            sentence: event.sentence.clone(),
        }
    }
}

impl From<&Record> for Cgroup {
    fn from(record: &Record) -> Cgroup {
        let scope = |path: &usernsd_domain::cgroup::CgroupPath| {
            // The outermost one: below it, a container can make directories named like scopes.
            path.components().find(|name| name.ends_with(".scope")).map(str::to_owned)
        };
        Cgroup {
            path: record.cgroup.as_ref().map(|path| path.as_str().to_owned()),
            unit: record.cgroup.as_ref().and_then(scope),
            inode: record.inode,
            owner: record.owner.map(|owner| owner.0),
            limits: record.limits.set().map(|limits| {
                let delegation::Limits { descendants, depth } = limits;
                Limits { descendants, depth }
            }),
        }
    }
}

/// The extents of a map.
pub(super) fn mappings(map: &IdMap) -> Vec<Mapping> {
    let mapping = |extent: &usernsd_domain::idmap::IdMapping| Mapping {
        container_id: extent.container_id.0,
        host_id: extent.host_id.0,
        length: extent.length,
    };
    map.extents().iter().map(mapping).collect()
}
