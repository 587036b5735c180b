//! What Kubernetes Events say, and when: once, when something comes to be.
//!
//! A reason is an Event's, in the manner of Kubernetes, and none of the kubelet's own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::identity::Misfit;
use super::space::OverlapKind;

/// The longest note that the API server takes, in bytes (events.k8s.io/v1).
const MAX_NOTE: usize = 1024;
/// A pool is nearly used up from here on, in tenths, and no longer below the second: a pod that
/// comes and goes must not make an Event each time. The first is the alert's.
const POOL_LOW: (u64, u64) = (9, 8);

/// Why there is an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A container's cgroup was handed over.
    CgroupOwnershipFixed,
    /// A container's cgroup is not its own, although it should be.
    CgroupOwnershipFixFailed,
    /// A container runs in the host's user namespace although its pod asked for its own.
    UserNamespaceLost,
    /// A container with a lost user namespace was not let through.
    UserNamespaceRefused,
    /// A container was created without the writable cgroup that its pod asked for.
    WritableCgroupMissed,
    /// A container that started without what its pod asked for was ended, to be made anew.
    ContainerEnded,
    /// A pod shares host IDs with someone.
    UserNamespaceRangeOverlap,
    /// A user or group of the pod is not mapped into its user namespace.
    UserNotInMapping,
    /// There are few host IDs left for pods.
    UserNamespacePoolLow,
    /// The node cannot run pods in user namespaces.
    UserNamespacesUnavailable,
}

/// Which Events are posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventPolicy {
    /// None.
    Off,
    /// Those of type Warning.
    Warnings,
    /// Those of type Normal too.
    All,
}

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The node.
    Node,
    /// A pod.
    Pod {
        /// Kubernetes namespace.
        namespace: String,
        /// Name.
        name: String,
        /// UID.
        uid: String,
    },
}

/// Something that is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub subject: Subject,
    /// Why it is said.
    pub reason: Reason,
    /// Which one of several of the same reason: a container, a kind, a pool.
    pub which: String,
    /// A sentence.
    pub note: String,
    /// Whether it must have been so before to be still so.
    holds_only: bool,
}

/// Something that came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// What.
    pub notice: Notice,
    /// For the how-manieth time, from 1.
    pub count: u32,
    /// When it was seen first.
    pub at: SystemTime,
}

/// What is known of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod; [`Subject::Pod`].
    pub subject: Subject,
    /// Host IDs it shares, by kind.
    pub shared: Vec<(OverlapKind, u64)>,
    /// Its containers.
    pub containers: Vec<ContainerFacts>,
    /// What does not fit.
    pub misfits: Vec<Misfit>,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerFacts {
    /// Its name.
    pub name: String,
    /// Its cgroup was handed over.
    pub handed_over: bool,
    /// Why that failed.
    pub failed: Option<String>,
    /// It runs in the host's user namespace although its pod asked for its own.
    pub lost: bool,
    /// It did not start because of that: the agent's sentence.
    pub refused: Option<String>,
    /// It was created without the writable cgroup that its pod asked for.
    pub missed: bool,
    /// It started without what its pod asked for and was ended: the agent's sentence.
    pub ended: Option<String>,
}

/// What is known of the node.
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

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailedCheck {
    /// Its name.
    pub id: String,
    /// What is wrong, and what to do about it.
    pub problem: String,
}

/// What an Event is about, why, and which one of several.
type Key = (Subject, Reason, String);

/// What was said, so that it is said once.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    said: BTreeMap<Key, Said>,
    /// What came to be and was not said yet: since when.
    waiting: BTreeMap<Key, SystemTime>,
}

#[derive(Debug, Clone, Copy)]
struct Said {
    count: u32,
    holds: bool,
}

// === impl Reason ===

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 10] = [
        Reason::CgroupOwnershipFixed,
        Reason::CgroupOwnershipFixFailed,
        Reason::UserNamespaceLost,
        Reason::UserNamespaceRefused,
        Reason::WritableCgroupMissed,
        Reason::ContainerEnded,
        Reason::UserNamespaceRangeOverlap,
        Reason::UserNotInMapping,
        Reason::UserNamespacePoolLow,
        Reason::UserNamespacesUnavailable,
    ];

    /// The Event's `reason`, and the metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::CgroupOwnershipFixed => "CgroupOwnershipFixed",
            Reason::CgroupOwnershipFixFailed => "CgroupOwnershipFixFailed",
            Reason::UserNamespaceLost => "UserNamespaceLost",
            Reason::UserNamespaceRefused => "UserNamespaceRefused",
            Reason::WritableCgroupMissed => "WritableCgroupMissed",
            Reason::ContainerEnded => "ContainerEnded",
            Reason::UserNamespaceRangeOverlap => "UserNamespaceRangeOverlap",
            Reason::UserNotInMapping => "UserNotInMapping",
            Reason::UserNamespacePoolLow => "UserNamespacePoolLow",
            Reason::UserNamespacesUnavailable => "UserNamespacesUnavailable",
        }
    }

    /// The Event's `action`: what was being done.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Reason::CgroupOwnershipFixed | Reason::CgroupOwnershipFixFailed => "HandOverCgroup",
            Reason::UserNamespaceLost | Reason::UserNamespaceRefused => "GuardIsolation",
            Reason::WritableCgroupMissed => "GrantWish",
            Reason::ContainerEnded => "RestartContainer",
            Reason::UserNamespaceRangeOverlap => "CompareRanges",
            Reason::UserNotInMapping => "CheckIdentity",
            Reason::UserNamespacePoolLow | Reason::UserNamespacesUnavailable => "InspectNode",
        }
    }

    /// Whether it goes before others of its namespace: a pod is not isolated, or does not run.
    #[must_use]
    pub fn is_urgent(self) -> bool {
        matches!(self, Reason::UserNamespaceLost | Reason::UserNamespaceRefused | Reason::ContainerEnded)
    }

    /// Whether something is wrong (`Warning`) or not (`Normal`).
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

// === impl Subject ===

impl Subject {
    /// The key by which Events about it are counted.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Subject::Node => "",
            Subject::Pod { uid, .. } => uid,
        }
    }

    /// Whose share of the node's Events it takes: a namespace's, or the node's own.
    #[must_use]
    pub fn share(&self) -> &str {
        match self {
            Subject::Node => "",
            Subject::Pod { namespace, .. } => namespace,
        }
    }
}

// === impl Notice ===

impl Notice {
    fn key(&self) -> Key {
        (self.subject.clone(), self.reason, self.which.clone())
    }

    /// A notice.
    #[must_use]
    pub fn new(subject: Subject, reason: Reason, which: &str, note: String) -> Notice {
        let end = (0..=MAX_NOTE.min(note.len())).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        let note = note.get(..end).unwrap_or_default().to_owned();
        Notice { subject, reason, which: which.to_owned(), note, holds_only: false }
    }

    /// The Event's name: the same for the same thing on the same node, so that an exporter that
    /// starts again finds it said. At most 253 characters, whatever the subject's name is.
    #[must_use]
    pub fn event_name(&self, node: &str) -> String {
        let (name, uid) = match &self.subject {
            Subject::Node => (node, ""),
            Subject::Pod { name, uid, .. } => (name.as_str(), uid.as_str()),
        };
        let parts = [node, uid, name, self.reason.name(), &self.which];
        // FNV-1a: it must be the same in every version of this program, and nothing depends on it
        // being hard to guess.
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

/// Everything that is so on the node and its pods.
#[must_use]
pub fn notices(node: &NodeFacts, pods: &[PodFacts]) -> Vec<Notice> {
    let mut found: Vec<Notice> = pods.iter().flat_map(of_pod).collect();
    if node.ready == Some(false) {
        let note = super::condition::Verdict::of(Some(node)).message;
        found.push(Notice::new(Subject::Node, Reason::UserNamespacesUnavailable, "", note));
    }
    for (pool, used, slots) in &node.pools {
        let reaches = |tenths: u64| *slots > 0 && used.saturating_mul(10) >= slots.saturating_mul(tenths);
        if reaches(POOL_LOW.1) {
            let note = format!(
                "{used} of {slots} ranges of host IDs of the pool {pool} are used; pods with hostUsers: false will not \
                 start without one: give the pool more (usernsd bootstrap), or the node fewer pods"
            );
            let notice = Notice::new(Subject::Node, Reason::UserNamespacePoolLow, pool, note);
            found.push(Notice { holds_only: !reaches(POOL_LOW.0), ..notice });
        }
    }
    found
}

fn of_pod(pod: &PodFacts) -> Vec<Notice> {
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
                     is root on the node; delete the pod so that it is made anew"
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
                     not in its start path: it stays so until it is made anew; delete the pod, or set optIn.missed to \
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
        // That IDs lie outside a pool hurts nobody now.
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
    // What the runtime says of lost isolation, it says for each container.
    let has_lost = pod.containers.iter().any(|container| container.lost);
    for misfit in pod.misfits.iter().filter(|misfit| misfit.is_serious()) {
        match misfit {
            Misfit::HostUsersLost if has_lost => {}
            Misfit::HostUsersLost => say(Reason::UserNamespaceLost, "", misfit.to_string()),
            _ => {
                let which = format!("{} {}", misfit.name(), misfit.container().unwrap_or_default());
                say(Reason::UserNotInMapping, &which, misfit.to_string());
            }
        }
    }
    found
}

// === impl Journal ===

impl Journal {
    /// Takes what is so at `at`, and returns what was not so before, or was so and is not [`said`] yet.
    /// `present`: the subjects there are; what was said of others is forgotten.
    ///
    /// [`said`]: Journal::said
    pub fn turn(&mut self, now: Vec<Notice>, present: &BTreeSet<Subject>, at: SystemTime) -> Vec<Occurrence> {
        let mut still = BTreeSet::new();
        let mut occurred = Vec::new();
        for notice in now {
            let key = notice.key();
            let before = self.said.get(&key).copied();
            let held = before.is_some_and(|said| said.holds);
            if notice.holds_only && !held {
                continue;
            }
            if !still.insert(key.clone()) || held {
                continue;
            }
            let count = before.map_or(0, |said| said.count).saturating_add(1);
            let at = *self.waiting.entry(key).or_insert(at);
            occurred.push(Occurrence { notice, count, at });
        }
        self.waiting.retain(|key, _| still.contains(key));
        self.said.retain(|key, said| {
            said.holds &= still.contains(key);
            said.holds || key.0 == Subject::Node || present.contains(&key.0)
        });
        occurred
    }

    /// It is said, or nobody wants to hear it: it occurs again once it was over.
    pub fn said(&mut self, occurrence: &Occurrence) {
        let key = occurrence.notice.key();
        self.waiting.remove(&key);
        self.said.insert(key, Said { count: occurrence.count, holds: true });
    }
}

/// The order in which occurrences get what the node may say: one of each namespace after the other, those
/// first that had least of late (`spent`), and of one namespace the urgent ones first.
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
    // Stable: of two namespaces whose turn it is, the urgent one's comes first.
    queued.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    queued.into_iter().map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn subject(name: &str) -> Subject {
        Subject::Pod { namespace: "ns".into(), name: name.into(), uid: format!("uid-{name}") }
    }

    fn failing(name: &str, error: &str) -> PodFacts {
        let container =
            ContainerFacts { name: "c".into(), failed: Some(error.into()), ..ContainerFacts::default() };
        PodFacts { subject: subject(name), shared: vec![], containers: vec![container], misfits: vec![] }
    }

    fn said(journal: &mut Journal, node: &NodeFacts, pods: &[PodFacts]) -> Vec<(&'static str, u32)> {
        let present = pods.iter().map(|pod| pod.subject.clone()).collect();
        let occurred = journal.turn(notices(node, pods), &present, SystemTime::UNIX_EPOCH);
        occurred.iter().for_each(|one| journal.said(one));
        occurred.iter().map(|one| (one.notice.reason.name(), one.count)).collect()
    }

    #[test]
    fn each_thing_is_said_once_and_again_when_it_comes_back() {
        let mut journal = Journal::default();
        let node = NodeFacts { ready: Some(true), ..NodeFacts::default() };
        let (bad, good) = ([failing("a", "x")], [PodFacts { containers: vec![], ..failing("a", "") }]);
        assert_eq!(said(&mut journal, &node, &bad), [("CgroupOwnershipFixFailed", 1)]);
        assert!(said(&mut journal, &node, &bad).is_empty());
        // Another error is the same failure.
        assert!(said(&mut journal, &node, &[failing("a", "y")]).is_empty());
        assert!(said(&mut journal, &node, &good).is_empty());
        assert_eq!(said(&mut journal, &node, &bad), [("CgroupOwnershipFixFailed", 2)]);
        // A pod that is gone is forgotten.
        assert!(said(&mut journal, &node, &[]).is_empty());
        assert!(journal.said.is_empty());
    }

    #[test]
    fn what_was_not_said_occurs_until_it_is() {
        let mut journal = Journal::default();
        let bad = failing("a", "x");
        let present = BTreeSet::from([bad.subject.clone()]);
        let node = NodeFacts::default();
        let first = SystemTime::UNIX_EPOCH;
        let turn = |journal: &mut Journal, seconds: u64, pods: &[PodFacts]| {
            journal.turn(notices(&node, pods), &present, first + Duration::from_secs(seconds))
        };
        assert_eq!(turn(&mut journal, 0, std::slice::from_ref(&bad)).len(), 1);
        let again = turn(&mut journal, 90, std::slice::from_ref(&bad));
        assert_eq!((again[0].count, again[0].at), (1, first), "the moment is that of the first look");
        journal.said(&again[0]);
        assert!(turn(&mut journal, 100, std::slice::from_ref(&bad)).is_empty());
        // Over, and back.
        assert!(turn(&mut journal, 110, &[]).is_empty());
        let back = turn(&mut journal, 120, std::slice::from_ref(&bad));
        assert_eq!((back[0].count, back[0].at), (2, first + Duration::from_secs(120)));
        // A notice that ends before it was posted is dropped.
        assert!(turn(&mut journal, 130, &[]).is_empty());
        assert!(journal.waiting.is_empty());
    }

    #[test]
    fn each_namespace_has_its_turn_and_urgent_things_come_first() {
        let occurrence = |namespace: &str, name: &str, reason| Occurrence {
            notice: Notice::new(
                Subject::Pod { namespace: namespace.into(), name: name.into(), uid: name.into() },
                reason,
                "c",
                String::new(),
            ),
            count: 1,
            at: SystemTime::UNIX_EPOCH,
        };
        let mut all: Vec<Occurrence> =
            (0..20).map(|n| occurrence("evil", &format!("e{n}"), Reason::UserNotInMapping)).collect();
        all.push(occurrence("victim", "v0", Reason::CgroupOwnershipFixFailed));
        all.push(occurrence("victim", "v1", Reason::UserNamespaceLost));
        all.push(occurrence("evil", "last", Reason::UserNamespaceRefused));
        let names = |spent: fn(&str) -> f64| -> Vec<String> {
            in_turn(all.clone(), spent)
                .iter()
                .take(4)
                .map(|one| one.notice.subject.key().to_owned())
                .collect()
        };
        assert_eq!(names(|_| 0.0), ["v1", "last", "e0", "v0"]);
        // A namespace that has had its share waits for those that have not.
        assert_eq!(names(|share| if share == "evil" { 9.5 } else { 0.0 }), ["v1", "v0", "last", "e0"]);
    }

    #[test]
    fn a_pool_is_low_from_nine_tenths_until_it_is_below_eight() {
        let mut journal = Journal::default();
        let with = |used| NodeFacts { pools: vec![("kubelet".into(), used, 100)], ..NodeFacts::default() };
        let mut turn = |used| said(&mut journal, &with(used), &[]).len();
        assert_eq!(
            [turn(85), turn(90), turn(85), turn(90), turn(79), turn(85), turn(91)],
            [0, 1, 0, 0, 0, 0, 1]
        );
        assert!(
            said(&mut journal, &NodeFacts { pools: vec![("crio".into(), 0, 0)], ..with(0) }, &[]).is_empty()
        );
    }

    #[test]
    fn lost_isolation_is_said_for_the_containers_or_for_the_pod() {
        let container = ContainerFacts { name: "c".into(), lost: true, ..ContainerFacts::default() };
        let pod = PodFacts {
            subject: subject("a"),
            shared: vec![(OverlapKind::PodOutsidePool, 5), (OverlapKind::PodPod, 7)],
            containers: vec![container],
            misfits: vec![Misfit::HostUsersLost, Misfit::FsGroupNotInMapping { group: 70_000 }],
        };
        let node = NodeFacts::default();
        let found = |pod: &PodFacts| -> Vec<_> {
            notices(&node, std::slice::from_ref(pod)).iter().map(|one| one.reason.name()).collect()
        };
        assert_eq!(found(&pod), ["UserNamespaceLost", "UserNamespaceRangeOverlap", "UserNotInMapping"]);
        let unseen = PodFacts { containers: vec![], shared: vec![], ..pod };
        assert_eq!(found(&unseen), ["UserNamespaceLost", "UserNotInMapping"]);
    }

    #[test]
    fn what_was_missed_and_what_was_ended_is_said_of_the_pod() {
        let missed = ContainerFacts { name: "a".into(), missed: true, ..ContainerFacts::default() };
        let ended =
            ContainerFacts { name: "b".into(), ended: Some("ended".into()), ..ContainerFacts::default() };
        let pod = PodFacts {
            subject: subject("p"),
            shared: vec![],
            containers: vec![missed, ended],
            misfits: vec![],
        };
        let found = notices(&NodeFacts::default(), &[pod]);
        let found: Vec<_> = found.iter().map(|one| (one.reason.name(), one.which.as_str())).collect();
        assert_eq!(found, [("WritableCgroupMissed", "a"), ("ContainerEnded", "b")]);
        assert!(Reason::WritableCgroupMissed.is_warning() && Reason::ContainerEnded.is_warning());
    }

    #[test]
    fn names_are_those_that_the_api_server_takes() {
        let long = "a".repeat(253);
        let notice = Notice::new(subject(&long), Reason::UserNotInMapping, "c", "n".repeat(3000) + "é");
        let name = notice.event_name("node-1");
        assert!(name.len() <= 253 && crate::pod::is_dns_name(&name), "{name}");
        assert_eq!(notice.note.len(), 1024);
        assert_eq!(name, notice.event_name("node-1"));
        assert_ne!(name, notice.event_name("node-2"));
        // A release that names the same thing otherwise says all of it again.
        let node = Notice::new(Subject::Node, Reason::UserNamespacePoolLow, "kubelet", String::new());
        assert_eq!(node.event_name("node-1"), "node-1.606e9ed698a0de4d");
        for reason in Reason::ALL {
            let page = include_str!("../../../docs/kubernetes.md");
            assert!(
                page.contains(&format!("`{}`", reason.name())),
                "docs/kubernetes.md lacks {}",
                reason.name()
            );
        }
    }

    proptest! {
        #[test]
        fn notes_are_cut_at_characters(note in any::<String>()) {
            let long = note.repeat(200);
            let notice = Notice::new(Subject::Node, Reason::UserNamespacePoolLow, "", long.clone());
            prop_assert!(notice.note.len() <= 1024 && long.starts_with(&notice.note));
        }
    }
}
