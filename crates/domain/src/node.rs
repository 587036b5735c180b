//! What is known of the node besides its containers, and all of it together at one moment.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::check::{Checked, Examined};
use super::delegation::Limit;
use super::feed::Event;
use super::history::Past;
use super::pairing::{CallWay, Caller, Mismatch};
use super::pod::Pod;
use super::record::Record;
use super::space::{HostIds, Space};

/// A program the agent talks to.
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
    /// The configuration switches it off: not talking to it is no fault.
    Off,
    /// It does not answer, or was not reached yet.
    Down,
    /// It is there, and reaching it is put off for a reason that passes. The runtime over NRI only: it is not
    /// joined while a removal or a graceful stop is in flight.
    Waiting,
    /// It answers.
    Up,
}

/// How the agent and a peer get on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it answers.
    pub state: PeerState,
    /// Since when.
    pub since: SystemTime,
    /// How often it was reached again after it had been up.
    pub reconnects: u64,
    /// Whether it was ever up.
    pub seen: bool,
    /// The last error, for as long as anyone may ask.
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

/// Who is called by the runtime before it creates and before it starts a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartPath {
    /// The plugin that the runtime launched.
    LaunchedPlugin,
    /// The agent, which joined over NRI.
    AgentJoined,
    /// Nobody, as far as the agent can see.
    Nobody,
}

/// The plugin that the runtime launched, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchedPlugin {
    /// Its process, in the runtime's PID namespace.
    pub pid: u32,
    /// usernsd's version in it.
    pub version: String,
    /// The runtime's name.
    pub runtime: String,
    /// The runtime's version.
    pub runtime_version: String,
    /// Since when it serves the runtime.
    pub since: SystemTime,
    /// Whether it answers.
    pub responds: bool,
    /// A digest of the settings it works by.
    pub settings: String,
    /// What is wrong with its configuration or with the place it runs in, a sentence each.
    pub problems: Vec<String>,
    /// Reports that it dropped because no agent fetched them.
    pub dropped: u64,
}

/// The container runtime, as it calls itself (CRI `Version`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// `containerd` or `cri-o`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The socket it answers on.
    pub endpoint: String,
}

/// Everything that is known at one moment. It never changes; the next moment is another one.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The runtime, once it was reached.
    pub runtime: Option<Runtime>,
    /// The peers' health.
    pub peers: Peers,
    /// Who is called before a container starts.
    pub start_path: StartPath,
    /// Why nobody is called by the runtime that answers over CRI, although a runtime calls.
    pub mismatch: Option<Mismatch>,
    /// The plugins that runtimes launched, by their process.
    pub plugins: Vec<LaunchedPlugin>,
    /// The containers, by their ID.
    pub containers: Vec<Arc<Record>>,
    /// What was done and refused lately, the latest first.
    pub events: Vec<Arc<Event>>,
    /// What the node was checked for, once it was.
    pub examined: Option<Arc<Examined>>,
    /// Containers in user namespaces of their own that have ended lately, the latest first.
    pub past: Vec<Arc<Past>>,
}

/// What the kernel says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its release (uname(2)).
    pub release: String,
    /// Distinct user namespaces with a live process, the host's included.
    pub user_namespaces: u64,
    /// `user.max_user_namespaces`
    pub max_user_namespaces: u64,
}

/// What a pod has made in its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodCgroup {
    /// `nr_descendants` of `cgroup.stat`
    pub descendants: u64,
    /// `cgroup.max.descendants`
    pub limit: Limit,
}

/// A pod, and what only a look at the node tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SurveyedPod {
    /// The pod.
    pub pod: Pod,
    /// Its cgroup; `None` where it has none, or it is gone by now.
    pub cgroup: Option<PodCgroup>,
    /// How many of its IDs are someone else's too, as in [`Space::shared`].
    pub shared: [u64; 4],
}

/// What is looked at when someone asks, besides what the agent knows anyway.
#[derive(Debug, Clone)]
pub struct Survey {
    /// The pods, as [`Pod::of`] sorts them.
    pub pods: Vec<SurveyedPod>,
    /// What the node's files say; `None` where they cannot be read.
    pub host_ids: Option<HostIds>,
    /// Whose the host IDs are; `None` where the files cannot be read.
    pub space: Option<Space>,
    /// The kernel; `None` where it cannot be asked.
    pub kernel: Option<Kernel>,
    /// Whether the node's cgroup root is cgroup v2.
    pub unified: bool,
    /// How each part of it went.
    pub collected: Vec<Collected>,
}

/// A part of a survey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collector {
    /// The containers, put together.
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
    /// Which.
    pub collector: Collector,
    /// Whether it has all it looked for.
    pub succeeded: bool,
    /// How long it took.
    pub took: Duration,
}

/// How much of it becomes metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exposition {
    /// The finest things that have series of their own.
    pub detail: Detail,
    /// How many pods have series of their own at most.
    pub max_pods: usize,
}

/// What has series of its own. Each level has those before it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Detail {
    /// The node.
    Node,
    /// Each pod.
    Pod,
    /// Each container.
    #[default]
    Container,
}

// === impl Exposition, Survey, Collector ===

impl Default for Exposition {
    fn default() -> Exposition {
        Exposition { detail: Detail::default(), max_pods: 512 }
    }
}

impl Survey {
    /// A look that found nothing.
    #[must_use]
    pub fn empty() -> Survey {
        Survey { pods: vec![], host_ids: None, space: None, kernel: None, unified: false, collected: vec![] }
    }

    /// Whether the node can run pods in user namespaces, as far as a look at it tells: cgroup v2,
    /// a kernel that allows user namespaces, a runtime that answers; and once it was checked, no
    /// check of severity error fails, but for those of pods that run.
    #[must_use]
    pub fn is_ready(&self, snapshot: &Snapshot) -> bool {
        let allowed = self.kernel.as_ref().is_some_and(|kernel| kernel.max_user_namespaces > 0);
        let in_the_way = |examined: &Arc<Examined>| examined.checked.iter().any(Checked::is_in_the_way);
        let passes = !snapshot.examined.as_ref().is_some_and(in_the_way);
        self.unified && allowed && passes && snapshot.peers.cri.state == PeerState::Up
    }
}

impl Collector {
    /// Every part.
    pub const ALL: [Collector; 4] = [Collector::Pods, Collector::Cgroup, Collector::Subid, Collector::Kernel];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Collector::Pods => "pods",
            Collector::Cgroup => "cgroup",
            Collector::Subid => "subid",
            Collector::Kernel => "kernel",
        }
    }
}

// === impl Peer, PeerState ===

impl Peer {
    /// Every peer.
    pub const ALL: [Peer; 3] = [Peer::Cri, Peer::Nri, Peer::Systemd];

    /// The name in logs, metrics and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Peer::Cri => "cri",
            Peer::Nri => "nri",
            Peer::Systemd => "systemd",
        }
    }
}

impl PeerState {
    /// The name in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PeerState::Off => "off",
            PeerState::Down => "down",
            PeerState::Waiting => "waiting",
            PeerState::Up => "up",
        }
    }
}

// === impl StartPath ===

impl StartPath {
    /// Every one.
    pub const ALL: [StartPath; 3] = [StartPath::LaunchedPlugin, StartPath::AgentJoined, StartPath::Nobody];

    /// The name in metrics and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StartPath::LaunchedPlugin => "launched_plugin",
            StartPath::AgentJoined => "agent_joined",
            StartPath::Nobody => "nobody",
        }
    }
}

// === impl LaunchedPlugin ===

impl LaunchedPlugin {
    /// The runtime that launched it, as the one that calls.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            name: self.runtime.clone(),
            version: self.runtime_version.clone(),
            way: CallWay::Launched(self.pid),
            has_others: false,
        }
    }
}

// === impl Health ===

impl Health {
    /// A peer nobody has talked to yet.
    #[must_use]
    pub fn new(now: SystemTime) -> Health {
        Health { state: PeerState::Down, since: now, reconnects: 0, seen: false, last_error: None }
    }

    /// It answers.
    pub fn up(&mut self, now: SystemTime) {
        if self.state != PeerState::Up && self.seen {
            self.reconnects += 1;
        }
        self.seen = true;
        self.enter(PeerState::Up, now);
    }

    /// It does not answer, for this reason.
    pub fn down(&mut self, now: SystemTime, error: String) {
        self.last_error = Some(error);
        self.enter(PeerState::Down, now);
    }

    /// Reaching it is put off, for this reason.
    pub fn waiting(&mut self, now: SystemTime, reason: String) {
        self.last_error = Some(reason);
        self.enter(PeerState::Waiting, now);
    }

    /// It is not to be talked to.
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
    /// Peers nobody has talked to yet.
    #[must_use]
    pub fn new(now: SystemTime) -> Peers {
        Peers { cri: Health::new(now), nri: Health::new(now), systemd: Health::new(now) }
    }

    /// One of them.
    #[must_use]
    pub fn of(&self, peer: Peer) -> &Health {
        match peer {
            Peer::Cri => &self.cri,
            Peer::Nri => &self.nri,
            Peer::Systemd => &self.systemd,
        }
    }

    /// One of them, to change it.
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
    fn a_reconnect_is_a_second_time_up() {
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
