//! The node apart from its containers, and a snapshot of everything at one moment.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::check::{Checked, Examined};
use super::container::CriId;
use super::delegation::Limit;
use super::history::Past;
use super::pairing::{Caller, Mismatch, StartPathKind};
use super::pod::Pod;
use super::recent_events::Event;
use super::record::Record;
use super::runtime::RuntimeKind;
use super::space::{HostIds, Space};

/// A program that the agent talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// The container runtime's CRI.
    Cri,
    /// The container runtime's NRI.
    Nri,
    /// systemd, over the system bus.
    Systemd,
}

/// Whether a peer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// Switched off in the configuration, which is not a fault.
    Off,
    /// The peer does not answer, or was not reached yet.
    Down,
    /// The peer is available, but the agent does not connect to it for a temporary reason. Only for the
    /// runtime over NRI, which the agent does not join during a removal or a graceful stop.
    Waiting,
    /// The peer answers.
    Up,
}

/// The state of the agent's connection to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether the peer answers.
    pub state: PeerState,
    /// Since when it is in this state.
    pub since: SystemTime,
    /// How often it was reached again after it had been up.
    pub reconnects: u64,
    /// Whether it was ever up.
    pub seen: bool,
    /// The last error. It is kept after the peer is up again.
    pub last_error: Option<String>,
}

/// The health of every peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// See [`Peer::Cri`].
    pub cri: Health,
    /// See [`Peer::Nri`].
    pub nri: Health,
    /// See [`Peer::Systemd`].
    pub systemd: Health,
}

/// The part of usernsd that the runtime calls before it creates and before it starts a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartPath {
    /// The launched plugin.
    LaunchedPlugin,
    /// The agent, which joined over NRI.
    AgentJoined,
    /// Nothing, as far as the agent can see.
    Nobody,
}

/// A plugin that the runtime launched, by its own description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchedPlugin {
    /// PID of its process, in the runtime's PID namespace.
    pub pid: u32,
    /// The plugin's version of usernsd.
    pub version: String,
    /// The runtime's name.
    pub runtime: String,
    /// The runtime's version.
    pub runtime_version: String,
    /// Since when it serves the runtime.
    pub since: SystemTime,
    /// Whether it answers.
    pub responds: bool,
    /// A digest of its settings.
    pub settings: String,
    /// Problems of its configuration or environment, a sentence each.
    pub problems: Vec<String>,
    /// Number of reports that it dropped because no agent fetched them.
    pub dropped: u64,
}

/// The container runtime, by its answer to CRI `Version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriRuntime {
    /// The name, such as [`RuntimeKind::name`].
    pub name: String,
    pub version: String,
    /// The socket on which it answers.
    pub endpoint: String,
}

/// The agent's state at one moment. It is immutable.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When the agent started.
    pub started: SystemTime,
    /// When all containers were last inspected without a failure; `None` before the first time.
    pub reconciled: Option<SystemTime>,
    /// The runtime, once it was reached.
    pub runtime: Option<CriRuntime>,
    /// The peers' health.
    pub peers: Peers,
    /// The part of usernsd that the runtime calls before a container starts.
    pub start_path: StartPath,
    /// Why the runtime that answers over CRI is not the one that calls usernsd over NRI; `None` if it is, or if none
    /// calls.
    pub mismatch: Option<Mismatch>,
    /// The launched plugins, by their PID.
    pub plugins: Vec<LaunchedPlugin>,
    /// The containers, by their identifier.
    pub containers: Vec<Arc<Record>>,
    /// Recent actions and refusals, the latest first.
    pub events: Vec<Arc<Event>>,
    /// The result of the checks; `None` before the first.
    pub examined: Option<Arc<Examined>>,
    /// Containers with their own user namespace that ended recently, the latest first.
    pub past: Vec<Arc<Past>>,
}

/// Facts about the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKernel {
    /// The release (uname(2)).
    pub release: String,
    /// Number of user namespaces with a live process, including the host's.
    pub user_namespaces: u64,
    /// `user.max_user_namespaces`
    pub max_user_namespaces: u64,
}

/// The cgroups that a pod has created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCgroup {
    /// `nr_descendants` of `cgroup.stat`
    pub descendants: u64,
    /// The value of the cgroup's `cgroup.max.descendants`.
    pub limit: Limit,
    /// The container that has used the largest share of a limit of its own; `None` if no container has a limit.
    pub fullest: Option<ContainerCgroups>,
}

/// The cgroups that a container has created, and the limit on its own cgroup, which the container reaches before the
/// pod reaches the pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerCgroups {
    pub container: CriId,
    /// `nr_descendants` of `cgroup.stat`
    pub descendants: u64,
    /// The value of the cgroup's `cgroup.max.descendants`.
    pub limit: u32,
}

/// A pod with what a survey found about it.
#[derive(Debug, Clone, PartialEq)]
pub struct SurveyedPod {
    pub pod: Pod,
    /// The pod's cgroup; `None` if it has none, or it was removed.
    pub cgroup: Option<PodCgroup>,
    /// How many of its IDs other owners have too, as in [`Space::shared`].
    pub shared: [u64; 4],
}

/// The result of a survey of the node, in addition to the [`Snapshot`].
#[derive(Debug, Clone)]
pub struct Survey {
    /// The pods, in the order of [`Pod::of`].
    pub pods: Vec<SurveyedPod>,
    /// The node's ID files; `None` if they cannot be read.
    pub host_ids: Option<HostIds>,
    /// The owners of host IDs; `None` if the files cannot be read.
    pub space: Option<Space>,
    /// The kernel; `None` if it cannot be read.
    pub kernel: Option<NodeKernel>,
    /// Whether the node's cgroup root is cgroup v2.
    pub unified: bool,
    /// The result of each part of the survey.
    pub collected: Vec<Collected>,
}

/// A part of a survey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collector {
    /// Pods, made of the containers.
    Pods,
    /// The pods' cgroups.
    Cgroup,
    /// `/etc/subuid`, `/etc/subgid`, `/etc/passwd` and `/etc/group`.
    Subid,
    /// `/proc`.
    Kernel,
}

/// How a part of a survey went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    pub collector: Collector,
    /// Whether it found everything that it looked for.
    pub succeeded: bool,
    /// How long it took.
    pub took: Duration,
}

/// How much becomes metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exposition {
    /// The finest level with its own series.
    pub detail: Detail,
    /// Maximum number of pods with their own series.
    pub max_pods: usize,
}

/// Objects with their own series. Each level includes the previous ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Detail {
    Node,
    Pod,
    #[default]
    Container,
}

words! {
    /// The name in the configuration.
    Detail { Node = "node", Pod = "pod", Container = "container" }
}

// === impl PodCgroup, ContainerCgroups ===

impl PodCgroup {
    /// The largest share in use of a limit in the pod: of the pod's own, or of a container's own; 0 without a limit.
    #[must_use]
    pub fn used(&self) -> f64 {
        let own = match self.limit {
            Limit::Max => 0.0,
            Limit::At(limit) => share(self.descendants, limit),
        };
        self.fullest.as_ref().map_or(0.0, ContainerCgroups::used).max(own)
    }
}

impl ContainerCgroups {
    /// The share of the limit that is in use.
    #[must_use]
    pub fn used(&self) -> f64 {
        share(self.descendants, self.limit)
    }
}

/// A limit of 0 was chosen deliberately, so its share in use is 0 and not 1.
#[expect(clippy::cast_precision_loss, reason = "the kernel counts cgroups in 32 bits")]
fn share(descendants: u64, limit: u32) -> f64 {
    descendants as f64 / f64::from(limit.max(1))
}

// === impl Exposition, Survey, Collector ===

impl Default for Exposition {
    fn default() -> Exposition {
        Exposition { detail: Detail::default(), max_pods: 512 }
    }
}

impl Survey {
    /// A survey without results.
    #[must_use]
    pub fn empty() -> Survey {
        Survey { pods: vec![], host_ids: None, space: None, kernel: None, unified: false, collected: vec![] }
    }

    /// Whether the node can run pods in user namespaces, as far as a survey shows: cgroup v2, a kernel that allows
    /// user namespaces, and a runtime that answers. After the checks ran, also that no check of severity error
    /// failed, except for those about running pods.
    #[must_use]
    pub fn is_ready(&self, snapshot: &Snapshot) -> bool {
        let allowed = self.kernel.as_ref().is_some_and(|kernel| kernel.max_user_namespaces > 0);
        let in_the_way = |examined: &Arc<Examined>| examined.checked.iter().any(Checked::blocks_readiness);
        let passes = !snapshot.examined.as_ref().is_some_and(in_the_way);
        self.unified && allowed && passes && snapshot.peers.cri.state == PeerState::Up
    }
}

words! {
    /// The name in metrics.
    Collector { Pods = "pods", Cgroup = "cgroup", Subid = "subid", Kernel = "kernel" }
}

// === impl Peer, PeerState ===

words! {
    /// The name in logs, metrics and documents.
    Peer { Cri = "cri", Nri = "nri", Systemd = "systemd" }
}

words! {
    /// The name in documents.
    PeerState { Off = "off", Down = "down", Waiting = "waiting", Up = "up" }
}

// === impl StartPath ===

words! {
    /// The name in metrics and documents.
    StartPath {
        LaunchedPlugin = "launched_plugin",
        AgentJoined = "agent_joined",
        Nobody = "nobody",
    }
}

// === impl CriRuntime ===

impl CriRuntime {
    /// The kind; `None` for a build under another name.
    #[must_use]
    pub fn kind(&self) -> Option<RuntimeKind> {
        RuntimeKind::named(&self.name)
    }
}

// === impl LaunchedPlugin ===

impl LaunchedPlugin {
    /// The runtime that launched it, as a caller.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            name: self.runtime.clone(),
            version: self.runtime_version.clone(),
            way: StartPathKind::Launched(self.pid),
            has_others: false,
        }
    }
}

// === impl Health ===

impl Health {
    /// The state of a peer that was not contacted yet.
    #[must_use]
    pub fn new(now: SystemTime) -> Health {
        Health { state: PeerState::Down, since: now, reconnects: 0, seen: false, last_error: None }
    }

    /// Records that the peer answers.
    pub fn up(&mut self, now: SystemTime) {
        if self.state != PeerState::Up && self.seen {
            self.reconnects += 1;
        }
        self.seen = true;
        self.enter(PeerState::Up, now);
    }

    /// Records that the peer does not answer, with the error.
    pub fn down(&mut self, now: SystemTime, error: String) {
        self.last_error = Some(error);
        self.enter(PeerState::Down, now);
    }

    /// Records that connecting is postponed, with the reason.
    pub fn waiting(&mut self, now: SystemTime, reason: String) {
        self.last_error = Some(reason);
        self.enter(PeerState::Waiting, now);
    }

    /// Records that the peer is switched off.
    pub fn off(&mut self, now: SystemTime) {
        self.enter(PeerState::Off, now);
    }

    fn enter(&mut self, state: PeerState, now: SystemTime) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }
}

// === impl Peers ===

impl Peers {
    /// The states of peers that were not contacted yet.
    #[must_use]
    pub fn new(now: SystemTime) -> Peers {
        Peers { cri: Health::new(now), nri: Health::new(now), systemd: Health::new(now) }
    }

    /// The state of one peer.
    #[must_use]
    pub fn of(&self, peer: Peer) -> &Health {
        match peer {
            Peer::Cri => &self.cri,
            Peer::Nri => &self.nri,
            Peer::Systemd => &self.systemd,
        }
    }

    /// All of them, mutable.
    pub fn all_mut(&mut self) -> [&mut Health; 3] {
        [&mut self.cri, &mut self.nri, &mut self.systemd]
    }

    /// The state of one peer, mutable.
    pub fn of_mut(&mut self, peer: Peer) -> &mut Health {
        match peer {
            Peer::Cri => &mut self.cri,
            Peer::Nri => &mut self.nri,
            Peer::Systemd => &mut self.systemd,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reconnect_is_counted_from_the_second_connection_on() {
        let start = SystemTime::UNIX_EPOCH;
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::new(start);
        health.down(at(1), "no socket".into());
        assert_eq!((health.reconnects, health.since), (0, start), "it was down before");
        health.up(at(2));
        health.up(at(3));
        assert_eq!((health.reconnects, health.since), (0, at(2)));
        health.down(at(4), "closed".into());
        health.up(at(5));
        assert_eq!((health.reconnects, health.since), (1, at(5)));
        assert_eq!(health.last_error.as_deref(), Some("closed"), "the last error outlives it");
        health.off(at(6));
        assert_eq!((health.state, health.since), (PeerState::Off, at(6)));
    }
}
