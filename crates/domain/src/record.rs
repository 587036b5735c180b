//! The agent's record of each container, with the terms of `usernsd ps`, the metrics and the state document.

use super::assessment::Assessment;
use super::cgroup::CgroupPath;
use super::container::{CgroupMount, CriId, PodRef, UserNamespaceRequest};
use super::delegation::{KnownLimits, Limits, Skip};
use super::guard::Verdict;
use super::idmap::{HostId, IdMap};
use super::isolation::{Conclusion, Known, Stage};
use super::words::Word;

/// The trigger of an inspection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// NRI StartContainer, before the container's first instruction.
    Nri,
    /// The OCI createRuntime hook, before the container's first instruction.
    Hook,
    /// systemd's `JobRemoved(done)`: early, but nothing waits for the agent.
    Systemd,
    /// A CRI event.
    Cri,
    /// The list at start, after a reconnect, and at every resync interval.
    Resync,
}

/// The outcome of an inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The cgroup's owner was changed.
    Delegated,
    /// The owner was right already; nothing was written.
    AlreadyRight,
    /// The cgroup was left as it is, for a reason.
    Skipped(Skip),
    /// A system call failed.
    Failed(String),
}

/// The kind of an [`Outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeName {
    /// See [`Outcome::Delegated`].
    Delegated,
    /// See [`Outcome::AlreadyRight`].
    AlreadyRight,
    /// See [`Outcome::Skipped`].
    Skipped(Skip),
    /// See [`Outcome::Failed`].
    Failed,
}

/// A kind of change on the host, or of a container before it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Change the owner of a container's cgroup.
    ChownCgroup,
    /// Set limits on a pod's cgroup.
    SetLimits,
    /// Change a container before it is created.
    AdjustContainer,
    /// Stop a container that started without what it should have, so that the kubelet creates it again.
    EndContainer,
}

/// A change on the host, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The kind of change.
    pub action: Action,
    /// The cgroup's path.
    pub path: CgroupPath,
    /// The value before.
    pub from: String,
    /// The value after.
    pub to: String,
}

/// The state of a container's cgroup, as metrics count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CgroupState {
    /// The cgroup belongs to the container, is writable there, and is limited.
    Ok,
    /// The cgroup should belong to the container, and does not.
    OwnerWrong,
    /// The cgroup is mounted read-only or not at all. The container does not own it, or it is limited.
    ReadOnly,
    /// The cgroup is mounted read-only although its pod requested a writable one and may have it: the
    /// container was created while nothing was in the start path.
    Missed,
    /// The cgroup belongs to the container, and the number of cgroups in it is not limited. How it is mounted does not
    /// matter ([`Limits::are_needed`]).
    Unlimited,
    /// The container runs in the host's user namespace.
    HostUserNamespace,
    Unknown,
}

/// A user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserNamespace {
    /// Inode, which identifies it on this node while it exists; `None` if it was not read.
    pub inode: Option<u64>,
    /// Whether it is the host's.
    pub is_hosts: bool,
}

/// How a pod got its user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UserNamespaceMode {
    /// By the pod's `hostUsers: false`.
    Pod,
    /// By CRI-O's annotation.
    Auto,
    /// The pod has the host's, and did not request its own.
    Host,
    Unknown,
}

/// The agent's record of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The container's identifier.
    pub id: CriId,
    /// The sandbox's identifier.
    pub sandbox_id: String,
    /// The container's name in the pod.
    pub name: String,
    pub pod: PodRef,
    /// PID of the init process.
    pub pid: Option<u32>,
    /// The kernel's mapping of user IDs.
    pub uid_map: Option<IdMap>,
    /// The kernel's mapping of group IDs.
    pub gid_map: Option<IdMap>,
    /// The container's user namespace.
    pub user_namespace: Option<UserNamespace>,
    /// How the pod got that user namespace.
    pub mode: UserNamespaceMode,
    /// How `/sys/fs/cgroup` is mounted in the container.
    pub mount: Option<CgroupMount>,
    /// The container's cgroup.
    pub cgroup: Option<CgroupPath>,
    /// Inode of the cgroup.
    pub inode: Option<u64>,
    /// Owner of the cgroup when it was last inspected.
    pub owner: Option<HostId>,
    /// The limits on cgroups that it may create.
    pub limits: KnownLimits,
    /// The outcome of the last inspection.
    pub outcome: Outcome,
    /// The trigger of that inspection.
    pub source: Source,
    /// Whether the pod got the user namespace that it asked for.
    pub isolation: Verdict,
    /// How far the container had come, at least, when that was determined.
    pub stage: Stage,
    /// Whether it was created with a read-only cgroup although its pod asked for a writable one and may have it.
    pub missed: bool,
}

// === impl Source ===

words! {
    /// The name in logs, metrics and documents.
    Source { Nri = "nri", Hook = "hook", Systemd = "systemd", Cri = "cri", Resync = "resync" }
}

// === impl Action ===

words! {
    /// The name in logs and metrics.
    Action {
        ChownCgroup = "chown_cgroup",
        SetLimits = "set_limits",
        AdjustContainer = "adjust_container",
        EndContainer = "end_container",
    }
}

// === impl Outcome, OutcomeName ===

impl Outcome {
    #[must_use]
    pub fn kind(&self) -> OutcomeName {
        match self {
            Outcome::Delegated => OutcomeName::Delegated,
            Outcome::AlreadyRight => OutcomeName::AlreadyRight,
            Outcome::Skipped(skip) => OutcomeName::Skipped(*skip),
            Outcome::Failed(_) => OutcomeName::Failed,
        }
    }

    /// The name in logs and documents.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }
}

impl OutcomeName {
    pub fn all() -> impl Iterator<Item = OutcomeName> {
        let others = [OutcomeName::Delegated, OutcomeName::AlreadyRight, OutcomeName::Failed];
        others.into_iter().chain(Skip::ALL.into_iter().map(OutcomeName::Skipped))
    }

    /// The name in logs and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OutcomeName::Delegated => "delegated",
            OutcomeName::AlreadyRight => "already_right",
            OutcomeName::Skipped(skip) => skip.name(),
            OutcomeName::Failed => "failed",
        }
    }
}

impl Word for OutcomeName {
    fn named(name: &str) -> Option<OutcomeName> {
        OutcomeName::all().find(|outcome| outcome.name() == name)
    }

    fn name(self) -> &'static str {
        OutcomeName::name(self)
    }
}

// === impl CgroupState ===

words! {
    /// The name in metrics and documents.
    CgroupState {
        Ok = "ok",
        OwnerWrong = "owner_wrong",
        ReadOnly = "read_only",
        Missed = "missed",
        Unlimited = "unlimited",
        HostUserNamespace = "host_user_namespace",
        Unknown = "unknown",
    }
}

// === impl UserNamespaceMode ===

words! {
    /// The name in metrics and documents.
    UserNamespaceMode { Pod = "pod", Auto = "auto", Host = "host", Unknown = "unknown" }
}

impl UserNamespaceMode {
    /// The mode of a container whose pod asked for `request`, perhaps by CRI-O's annotation, and that is in the
    /// host's user namespace or not, if that was observed. If both are known, the request counts: a difference is
    /// lost isolation.
    #[must_use]
    pub fn of(
        request: Option<UserNamespaceRequest>,
        is_annotated: bool,
        in_hosts: Option<bool>,
    ) -> UserNamespaceMode {
        match (request, in_hosts) {
            (Some(UserNamespaceRequest::Own), _) | (None, Some(false)) if is_annotated => {
                UserNamespaceMode::Auto
            }
            (Some(UserNamespaceRequest::Own), _) | (_, Some(false)) => UserNamespaceMode::Pod,
            (_, Some(true)) | (Some(UserNamespaceRequest::Host), None) => UserNamespaceMode::Host,
            (None, None) => UserNamespaceMode::Unknown,
        }
    }
}

// === impl Record ===

impl Record {
    /// The state of its cgroup.
    #[must_use]
    pub fn state(&self) -> CgroupState {
        match &self.outcome {
            Outcome::Delegated
            | Outcome::AlreadyRight
            | Outcome::Skipped(Skip::ReadOnlyMount | Skip::NoCgroupMount)
            | Outcome::Failed(_)
                if self.has_right_owner() == Some(false) =>
            {
                CgroupState::OwnerWrong
            }
            Outcome::Delegated | Outcome::AlreadyRight => match self.limits {
                KnownLimits::Set(_) => CgroupState::Ok,
                KnownLimits::Missing | KnownLimits::Unread => CgroupState::Unlimited,
            },
            Outcome::Skipped(skip) => skip.cgroup_state(self.missed, self.is_unlimited()),
            Outcome::Failed(_) => CgroupState::Unknown,
        }
    }

    /// Whether it needs limits and was found without them. While an agent hands cgroups over, it sets them.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        let owned = self.owner.zip(self.uid_map.as_ref());
        self.limits == KnownLimits::Missing
            && owned.is_some_and(|(owner, map)| Limits::are_needed(owner, map))
    }

    /// The facts about a container, for everything that shows containers.
    #[must_use]
    pub fn assessment(&self) -> Assessment {
        let maps_host_root = self.user_namespace.is_some_and(|namespace| !namespace.is_hosts)
            && self.uid_map.as_ref().and_then(IdMap::root) == Some(HostId::ROOT);
        Assessment::of(Some(self.isolation), Some(self.outcome.kind()), Some(self.state()), maps_host_root)
    }

    /// The conclusion about its isolation.
    #[must_use]
    pub fn known(&self) -> Known {
        let finding = match self.outcome {
            Outcome::Skipped(Skip::BeingMade) => Conclusion::TooEarly,
            _ => Conclusion::Settled(self.isolation),
        };
        Known { stage: self.stage, finding }
    }

    /// Whether its cgroup had the right owner when last inspected: one of the container's own users if
    /// `/sys/fs/cgroup` is writable in it, otherwise one of those or the host's root. `None` if that was not
    /// observed, and in the host's user namespace.
    #[must_use]
    pub fn has_right_owner(&self) -> Option<bool> {
        if self.user_namespace.is_none_or(|namespace| namespace.is_hosts) {
            return None;
        }
        let (owner, map) = (self.owner?, self.uid_map.as_ref()?);
        let may_be_roots = self.mount? != CgroupMount::ReadWrite;
        Some(map.has_user(owner) || (may_be_roots && owner == HostId::ROOT))
    }
}

impl Record {
    /// A record with only an identifier, of a container whose cgroup was delegated over NRI: a base for tests.
    #[must_use]
    pub fn bare(id: CriId) -> Record {
        Record {
            id,
            sandbox_id: String::new(),
            name: String::new(),
            pod: PodRef::default(),
            pid: None,
            uid_map: None,
            gid_map: None,
            user_namespace: None,
            mode: UserNamespaceMode::Unknown,
            mount: None,
            cgroup: None,
            inode: None,
            owner: None,
            limits: KnownLimits::Unread,
            outcome: Outcome::Delegated,
            source: Source::Nri,
            isolation: Verdict::Good,
            stage: Stage::Ready,
            missed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delegated_cgroup_without_limits_is_not_ok() {
        let record = Record::bare(CriId::parse("a").unwrap());
        assert_eq!(record.state(), CgroupState::Unlimited);
        let bounded = Record { limits: KnownLimits::Set(Limits::DEFAULT), ..record.clone() };
        assert_eq!(bounded.state(), CgroupState::Ok);
        for skip in Skip::ALL {
            let skipped = Record { outcome: Outcome::Skipped(skip), ..bounded.clone() };
            assert_ne!(skipped.state(), CgroupState::Ok, "{skip}");
        }
    }

    #[test]
    fn a_missed_request_differs_from_no_request() {
        let read_only = Record {
            outcome: Outcome::Skipped(Skip::ReadOnlyMount),
            ..Record::bare(CriId::parse("a").unwrap())
        };
        assert_eq!(read_only.state(), CgroupState::ReadOnly);
        assert_eq!(Record { missed: true, ..read_only.clone() }.state(), CgroupState::Missed);
        let foreign = Record {
            user_namespace: Some(UserNamespace { inode: Some(1), is_hosts: false }),
            uid_map: IdMap::parse("0 200000 65536").ok(),
            mount: Some(CgroupMount::ReadOnly),
            owner: Some(HostId(1)),
            ..read_only
        };
        assert_eq!(foreign.state(), CgroupState::OwnerWrong);
    }

    #[test]
    fn a_container_that_owns_its_cgroup_and_lacks_limits_is_a_problem_however_the_cgroup_is_mounted() {
        let owned = Record {
            user_namespace: Some(UserNamespace { inode: Some(1), is_hosts: false }),
            uid_map: IdMap::parse("0 200000 65536").ok(),
            mount: Some(CgroupMount::ReadOnly),
            owner: Some(HostId(200_000)),
            limits: KnownLimits::Missing,
            ..Record::bare(CriId::parse("a").unwrap())
        };
        let state = |record: &Record, skip| {
            let record = Record { outcome: Outcome::Skipped(skip), ..record.clone() };
            (record.state(), record.assessment().is_problem())
        };
        for skip in [Skip::ReadOnlyMount, Skip::NoCgroupMount, Skip::Closed, Skip::Unproven] {
            assert_eq!(state(&owned, skip), (CgroupState::Unlimited, true), "{skip}");
            let is_right = |record: &Record| !state(record, skip).1;
            assert!(is_right(&Record { owner: Some(HostId::ROOT), ..owned.clone() }), "{skip}: root's");
            assert!(
                is_right(&Record { limits: KnownLimits::Set(Limits::DEFAULT), ..owned.clone() }),
                "{skip}"
            );
            assert!(is_right(&Record { limits: KnownLimits::Unread, ..owned.clone() }), "{skip}");
        }
        // One that was created without what its pod asked for is shown as that, and is unlimited all the same.
        let missed = Record { missed: true, outcome: Outcome::Skipped(Skip::ReadOnlyMount), ..owned };
        assert_eq!((missed.state(), missed.is_unlimited()), (CgroupState::Missed, true));
    }

    #[test]
    fn the_owner_must_be_the_containers_if_the_mount_is_writable() {
        use CgroupMount::{Absent, ReadOnly, ReadWrite};
        let own = Some(UserNamespace { inode: Some(1), is_hosts: false });
        for (mount, owner, want) in [
            (Some(ReadWrite), Some(200_000), Some(true)),
            (Some(ReadWrite), Some(201_000), Some(true)),
            (Some(ReadWrite), Some(0), Some(false)),
            (Some(ReadWrite), Some(1), Some(false)),
            (Some(ReadOnly), Some(0), Some(true)),
            (Some(Absent), Some(0), Some(true)),
            (Some(ReadOnly), Some(200_000), Some(true)),
            (Some(ReadOnly), Some(1), Some(false)),
            (None, Some(0), None),
            (Some(ReadWrite), None, None),
        ] {
            let record = Record {
                user_namespace: own,
                uid_map: IdMap::parse("0 200000 65536").ok(),
                mount,
                owner: owner.map(HostId),
                outcome: Outcome::Failed("EPERM".into()),
                ..Record::bare(CriId::parse("a").unwrap())
            };
            assert_eq!(record.has_right_owner(), want, "{mount:?} {owner:?}");
            let state = if want == Some(false) { CgroupState::OwnerWrong } else { CgroupState::Unknown };
            assert_eq!(record.state(), state);
            let hosts = Some(UserNamespace { inode: Some(2), is_hosts: true });
            assert_eq!(Record { user_namespace: hosts, ..record }.has_right_owner(), None);
        }
    }

    #[test]
    fn the_mode_follows_from_the_request_and_the_namespace() {
        use UserNamespaceMode as Mode;
        use UserNamespaceRequest::{Host, Own};
        for (request, annotated, in_hosts, want) in [
            (Some(Own), false, Some(false), Mode::Pod),
            (Some(Own), true, Some(false), Mode::Auto),
            // Lost isolation.
            (Some(Own), false, Some(true), Mode::Pod),
            (Some(Own), true, Some(true), Mode::Auto),
            (Some(Own), false, None, Mode::Pod),
            (Some(Host), false, Some(true), Mode::Host),
            (Some(Host), false, None, Mode::Host),
            (Some(Host), false, Some(false), Mode::Pod),
            (None, false, Some(true), Mode::Host),
            // An annotation that the runtime ignores.
            (None, true, Some(true), Mode::Host),
            (None, true, Some(false), Mode::Auto),
            (None, false, None, Mode::Unknown),
        ] {
            assert_eq!(Mode::of(request, annotated, in_hosts), want, "{request:?} {annotated} {in_hosts:?}");
        }
    }
}
