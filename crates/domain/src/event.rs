//! The Kubernetes Events that usernsd posts: once, when a state begins.
//!
//! Reasons follow Kubernetes' conventions, and differ from the kubelet's own.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::check::Check;
use super::space::OverlapKind;
use super::user_mapping::MappingProblem;

/// The longest note that the API server takes, in bytes (events.k8s.io/v1).
const MAX_NOTE: usize = 1024;
/// A pool is low from the first fraction (in tenths) on, and until it falls below the second: a pod that comes and
/// goes must not cause an Event each time. The first is the alert's threshold.
const POOL_LOW: (u64, u64) = (9, 8);

/// An Event's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The owner of a container's cgroup was changed to the container's user.
    CgroupOwnershipFixed,
    /// The owner of a container's cgroup should be changed, and could not.
    CgroupOwnershipFixFailed,
    /// A container runs in the host's user namespace although its pod asked for its own.
    UserNamespaceLost,
    /// The guard refused a container with a lost user namespace.
    UserNamespaceRefused,
    /// A container was created without the writable cgroup that its pod asked for.
    WritableCgroupMissed,
    /// A container that started without what its pod asked for was stopped, to be created again.
    ContainerEnded,
    /// A pod shares host IDs with another owner.
    UserNamespaceRangeOverlap,
    /// A user or group of the pod is not mapped into its user namespace.
    UserNotInMapping,
    /// Few host IDs are left for pods.
    UserNamespacePoolLow,
    /// The node cannot run pods in user namespaces.
    UserNamespacesUnavailable,
}

/// The Events that are posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventPolicy {
    Off,
    /// Events of type Warning.
    Warnings,
    /// Events of type Normal too.
    All,
}

words! {
    /// The name in the configuration.
    EventPolicy { Off = "off", Warnings = "warnings", All = "all" }
}

/// The object that an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventSubject {
    Node,
    Pod { namespace: String, name: String, uid: String },
}

/// A state of the node or of a pod for which an Event is posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub subject: EventSubject,
    pub reason: Reason,
    /// Distinguishes notices of one subject with the same reason: a container, a kind, a pool.
    pub which: String,
    /// The Event's note: a sentence.
    pub note: String,
    /// Only continues an existing notice; never starts one.
    holds_only: bool,
}

/// A notice whose Event is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    pub notice: Notice,
    /// Occurrence count, from 1.
    pub count: u32,
    /// When it was first observed.
    pub at: SystemTime,
}

/// The facts about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEventFacts {
    /// The pod, a [`EventSubject::Pod`].
    pub subject: EventSubject,
    /// Number of host IDs that it shares, by kind.
    pub shared: Vec<(OverlapKind, u64)>,
    pub containers: Vec<ContainerFacts>,
    /// Problems with the pod's users and groups.
    pub misfits: Vec<MappingProblem>,
}

/// The facts about a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerFacts {
    pub name: String,
    /// The owner of the cgroup was changed.
    pub handed_over: bool,
    /// Why changing the owner failed.
    pub failed: Option<String>,
    /// The container runs in the host's user namespace although its pod requested its own.
    pub lost: bool,
    /// The guard refused it: the agent's sentence.
    pub refused: Option<String>,
    /// The container was created without the writable cgroup that its pod requested.
    pub missed: bool,
    /// The container started without what its pod requested and was stopped: the agent's sentence.
    pub ended: Option<String>,
}

/// The facts about the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// Whether it can run pods in user namespaces.
    pub ready: Option<bool>,
    /// Whether the container runtime answers.
    pub runtime_answers: bool,
    /// The last error of the runtime.
    pub runtime_error: Option<String>,
    /// `user.max_user_namespaces`
    pub max_user_namespaces: Option<u64>,
    /// The first failed check of severity error that is not about single pods.
    pub failed_check: Option<FailedCheck>,
    /// Pools of host IDs: name, slots used, slots.
    pub pools: Vec<(String, u64, u64)>,
}

/// A failed check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailedCheck {
    /// The check; `None` if a later version added it.
    pub check: Option<Check>,
    /// The check's name.
    pub name: String,
    /// The problem and its remedy.
    pub problem: String,
}

/// Subject, reason and [`Notice::which`].
type Key = (EventSubject, Reason, String);

/// The posted notices, so that each occurrence is posted once.
#[derive(Debug, Clone, Default)]
pub struct PostedNotices {
    posted: BTreeMap<Key, Posted>,
    /// Occurrences that are not posted yet, with the time of their first observation.
    waiting: BTreeMap<Key, SystemTime>,
}

#[derive(Debug, Clone, Copy)]
struct Posted {
    count: u32,
    holds: bool,
}

// === impl Reason ===

words! {
    /// The Event's `reason`, and the metric label.
    Reason {
        CgroupOwnershipFixed = "CgroupOwnershipFixed",
        CgroupOwnershipFixFailed = "CgroupOwnershipFixFailed",
        UserNamespaceLost = "UserNamespaceLost",
        UserNamespaceRefused = "UserNamespaceRefused",
        WritableCgroupMissed = "WritableCgroupMissed",
        ContainerEnded = "ContainerEnded",
        UserNamespaceRangeOverlap = "UserNamespaceRangeOverlap",
        UserNotInMapping = "UserNotInMapping",
        UserNamespacePoolLow = "UserNamespacePoolLow",
        UserNamespacesUnavailable = "UserNamespacesUnavailable",
    }
}

impl Reason {
    /// The Event's `action`: what usernsd was doing.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Reason::CgroupOwnershipFixed | Reason::CgroupOwnershipFixFailed => "HandOverCgroup",
            Reason::UserNamespaceLost | Reason::UserNamespaceRefused => "GuardIsolation",
            Reason::WritableCgroupMissed => "GrantRequest",
            Reason::ContainerEnded => "RestartContainer",
            Reason::UserNamespaceRangeOverlap => "CompareRanges",
            Reason::UserNotInMapping => "CheckIdentity",
            Reason::UserNamespacePoolLow | Reason::UserNamespacesUnavailable => "InspectNode",
        }
    }

    /// Whether it precedes others of its namespace: a pod is not isolated, or does not run.
    #[must_use]
    pub fn is_urgent(self) -> bool {
        matches!(self, Reason::UserNamespaceLost | Reason::UserNamespaceRefused | Reason::ContainerEnded)
    }

    /// Whether the Event is of type `Warning` (otherwise `Normal`).
    #[must_use]
    pub fn is_warning(self) -> bool {
        self != Reason::CgroupOwnershipFixed
    }
}

// === impl EventPolicy ===

impl EventPolicy {
    /// Whether an Event of this reason is posted.
    #[must_use]
    pub fn wants(self, reason: Reason) -> bool {
        match self {
            EventPolicy::Off => false,
            EventPolicy::Warnings => reason.is_warning(),
            EventPolicy::All => true,
        }
    }
}

// === impl EventSubject ===

impl EventSubject {
    /// The object's key for counting Events.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            EventSubject::Node => "",
            EventSubject::Pod { uid, .. } => uid,
        }
    }

    /// The holder of the share of the rate limit that the notice uses: a namespace, or the node.
    #[must_use]
    pub fn share(&self) -> &str {
        match self {
            EventSubject::Node => "",
            EventSubject::Pod { namespace, .. } => namespace,
        }
    }
}

// === impl Notice ===

impl Notice {
    fn key(&self) -> Key {
        (self.subject.clone(), self.reason, self.which.clone())
    }

    /// A notice that can start an occurrence.
    #[must_use]
    pub fn new(subject: EventSubject, reason: Reason, which: &str, note: String) -> Notice {
        let end = (0..=MAX_NOTE.min(note.len())).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        let note = note.get(..end).unwrap_or_default().to_owned();
        Notice { subject, reason, which: which.to_owned(), note, holds_only: false }
    }

    /// The Event's name: the same for the same notice on the same node, so that a restarted exporter finds the Event.
    /// At most 253 characters, whatever the subject's name.
    #[must_use]
    pub fn event_name(&self, node: &str) -> String {
        let (name, uid) = match &self.subject {
            EventSubject::Node => (node, ""),
            EventSubject::Pod { name, uid, .. } => (name.as_str(), uid.as_str()),
        };
        let parts = [node, uid, name, self.reason.name(), &self.which];
        // FNV-1a: the hash must be the same in every version of this program, and need not be hard to guess.
        let hash = parts
            .into_iter()
            .flat_map(|part| part.bytes().chain([0]))
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let start: String = name.chars().take(200).collect();
        format!("{}.{hash:016x}", start.trim_end_matches(['.', '-']))
    }
}

/// Every notice that holds on the node and its pods.
#[must_use]
pub fn notices(node: &NodeFacts, pods: &[PodEventFacts]) -> Vec<Notice> {
    let mut found: Vec<Notice> = pods.iter().flat_map(of_pod).collect();
    if node.ready == Some(false) {
        let note = super::condition::DesiredCondition::of(Some(node)).message;
        found.push(Notice::new(EventSubject::Node, Reason::UserNamespacesUnavailable, "", note));
    }
    for (pool, used, slots) in &node.pools {
        let reaches = |tenths: u64| *slots > 0 && used.saturating_mul(10) >= slots.saturating_mul(tenths);
        if reaches(POOL_LOW.1) {
            let note = format!(
                "{used} of {slots} ranges of host IDs of the pool {pool} are used; pods with hostUsers: false will not \
                 start without one: give the pool more (usernsd bootstrap), or the node fewer pods"
            );
            let notice = Notice::new(EventSubject::Node, Reason::UserNamespacePoolLow, pool, note);
            found.push(Notice { holds_only: !reaches(POOL_LOW.0), ..notice });
        }
    }
    found
}

fn of_pod(pod: &PodEventFacts) -> Vec<Notice> {
    let mut found = Vec::new();
    let mut say = |reason, which: &str, note: String| {
        found.push(Notice::new(pod.subject.clone(), reason, which, note));
    };
    for container in &pod.containers {
        let name = &container.name;
        if container.lost {
            say(
                Reason::UserNamespaceLost,
                name,
                format!(
                    "container {name} runs in the host's user namespace although its pod asks for its own: root in it \
                     is root on the node; delete the pod so that it is recreated"
                ),
            );
        }
        if let Some(sentence) = &container.refused {
            say(Reason::UserNamespaceRefused, name, sentence.clone());
        }
        if container.missed {
            say(
                Reason::WritableCgroupMissed,
                name,
                format!(
                    "container {name} was created without the writable cgroup that its pod asks for, because usernsd was \
                     not in its start path: this does not change until it is recreated; delete the pod, or set optIn.missed to \
                     restart"
                ),
            );
        }
        if let Some(sentence) = &container.ended {
            say(Reason::ContainerEnded, name, format!("container {name}: {sentence}"));
        }
        if let Some(error) = &container.failed {
            say(
                Reason::CgroupOwnershipFixFailed,
                name,
                format!("the cgroup of container {name} could not be handed to it: {error}"),
            );
        }
        if container.handed_over {
            say(
                Reason::CgroupOwnershipFixed,
                name,
                format!("the cgroup of container {name} was handed to it"),
            );
        }
    }
    for (kind, ids) in &pod.shared {
        // IDs outside a pool are no problem at present.
        if *kind != OverlapKind::PodOutsidePool && *ids > 0 {
            let whom = match kind {
                OverlapKind::PodPod => "another pod",
                OverlapKind::PodHostUser => "a user or group of the node",
                _ => "a subordinate ID range of someone else",
            };
            say(
                Reason::UserNamespaceRangeOverlap,
                kind.name(),
                format!(
                    "the pod shares {ids} host IDs with {whom}: files and processes of one are the other's; delete the \
                     pod, and see usernsd_id_range_overlaps"
                ),
            );
        }
    }
    // Lost isolation that the runtime reports is reported per container.
    let has_lost = pod.containers.iter().any(|container| container.lost);
    for misfit in pod.misfits.iter().filter(|misfit| misfit.is_serious()) {
        match misfit {
            MappingProblem::HostUsersLost if has_lost => {}
            MappingProblem::HostUsersLost => say(Reason::UserNamespaceLost, "", misfit.to_string()),
            _ => {
                let which = format!("{} {}", misfit.name(), misfit.container().unwrap_or_default());
                say(Reason::UserNotInMapping, &which, misfit.to_string());
            }
        }
    }
    found
}

// === impl PostedNotices ===

impl PostedNotices {
    /// Compares the notices `now` (at time `at`) with those before. Returns those that are new, and those that hold but
    /// have not been posted yet ([`PostedNotices::record_posted`]). `present` lists the existing subjects; others are
    /// forgotten.
    pub fn turn(
        &mut self,
        now: Vec<Notice>,
        present: &BTreeSet<EventSubject>,
        at: SystemTime,
    ) -> Vec<Occurrence> {
        let mut still = BTreeSet::new();
        let mut occurred = Vec::new();
        for notice in now {
            let key = notice.key();
            let before = self.posted.get(&key).copied();
            let held = before.is_some_and(|posted| posted.holds);
            if notice.holds_only && !held {
                continue;
            }
            if !still.insert(key.clone()) || held {
                continue;
            }
            let count = before.map_or(0, |posted| posted.count).saturating_add(1);
            let at = *self.waiting.entry(key).or_insert(at);
            occurred.push(Occurrence { notice, count, at });
        }
        self.waiting.retain(|key, _| still.contains(key));
        self.posted.retain(|key, posted| {
            posted.holds &= still.contains(key);
            posted.holds || key.0 == EventSubject::Node || present.contains(&key.0)
        });
        occurred
    }

    /// Records that an occurrence was posted, or that the policy drops it. The notice occurs again after it has
    /// ended.
    pub fn record_posted(&mut self, occurrence: &Occurrence) {
        let key = occurrence.notice.key();
        self.waiting.remove(&key);
        self.posted.insert(key, Posted { count: occurrence.count, holds: true });
    }
}

/// The order in which occurrences use the rate limit: namespaces in turn, beginning with those that used least
/// recently (`spent`); within a namespace urgent ones first.
#[must_use]
pub fn in_turn(mut occurrences: Vec<Occurrence>, mut spent: impl FnMut(&str) -> f64) -> Vec<Occurrence> {
    occurrences.sort_by_key(|one| (!one.notice.reason.is_urgent(), one.at));
    let mut taken: BTreeMap<String, f64> = BTreeMap::new();
    let mut queued: Vec<(f64, Occurrence)> = Vec::with_capacity(occurrences.len());
    for one in occurrences {
        let share = one.notice.subject.share();
        let turn = taken.entry(share.to_owned()).or_insert_with(|| spent(share));
        queued.push((*turn, one));
        *turn += 1.0;
    }
    // The sort is stable: of two namespaces with the same use, the one with the urgent occurrence comes first.
    queued.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    queued.into_iter().map(|(_, one)| one).collect()
}
