//! What is known of each container: the words of `usernsd ps`, of the metrics and of the state
//! document.

use super::cgroup::CgroupPath;
use super::container::{CgroupMount, CriId, PodName, UserNamespaceRequest};
use super::delegation::{Limits, Skip};
use super::guard::Verdict;
use super::idmap::{HostId, IdMap};
use super::isolation::{Finding, Known, Stage};

/// The way by which a container reached the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// NRI StartContainer: before the first instruction, always.
    Nri,
    /// The OCI createRuntime hook: before the first instruction, always.
    Hook,
    /// systemd's `JobRemoved(done)`: early, nothing waits.
    Systemd,
    /// A CRI event.
    Cri,
    /// The list at start, after a reconnect, and every few minutes.
    Resync,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The cgroup was handed over.
    Delegated,
    /// It was right already; nothing was written.
    AlreadyRight,
    /// It was left alone, for a reason.
    Skipped(Skip),
    /// A system call failed.
    Failed(String),
}

/// A change on the host, or to a container before it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A cgroup is given to its container.
    ChownCgroup,
    /// A pod's cgroup is bounded.
    SetLimits,
    /// A container is changed before it is created.
    AdjustContainer,
    /// A container that started without what it should have is ended, so that the kubelet makes it anew.
    EndContainer,
}

/// One change on the host, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What kind of change it is.
    pub action: Action,
    /// The cgroup.
    pub path: CgroupPath,
    /// The value before.
    pub from: String,
    /// The value after.
    pub to: String,
}

/// A container's cgroup, as people count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CgroupState {
    /// It belongs to the container, is writable there, and is bounded.
    Ok,
    /// It should belong to the container and does not.
    OwnerWrong,
    /// It is mounted read-only, or not at all; nothing to hand over.
    ReadOnly,
    /// The same, although its pod asked for a writable one and may have it: it was created while nobody
    /// was in its start path.
    Missed,
    /// It belongs to the container, and nothing bounds what it may make in it.
    Unlimited,
    /// The container runs in the host's user namespace.
    HostUserNamespace,
    /// Nobody could say.
    Unknown,
}

/// A user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserNamespace {
    /// Its inode, which names it on this node while it lives.
    pub inode: u64,
    /// It is the host's.
    pub is_hosts: bool,
}

/// How a pod came to its user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UserNamespaceMode {
    /// By the pod's `hostUsers: false`.
    Pod,
    /// By CRI-O's annotation.
    Auto,
    /// It has the host's, and asked for no other.
    Host,
    /// Nobody could say.
    Unknown,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its ID.
    pub id: CriId,
    /// Its sandbox's ID.
    pub sandbox_id: String,
    /// Its name in the pod.
    pub name: String,
    /// Its pod.
    pub pod: PodName,
    /// Its init process.
    pub pid: Option<u32>,
    /// Its mapping of user IDs, as the kernel has it.
    pub uid_map: Option<IdMap>,
    /// Its mapping of group IDs, as the kernel has it.
    pub gid_map: Option<IdMap>,
    /// Its user namespace.
    pub user_namespace: Option<UserNamespace>,
    /// How its pod came to that user namespace.
    pub mode: UserNamespaceMode,
    /// How `/sys/fs/cgroup` is mounted in it.
    pub mount: Option<CgroupMount>,
    /// Its cgroup.
    pub cgroup: Option<CgroupPath>,
    /// Its cgroup's inode.
    pub inode: Option<u64>,
    /// Its cgroup's owner, as last seen.
    pub owner: Option<HostId>,
    /// The bounds on what it may make in its cgroup, where both are set.
    pub limits: Option<Limits>,
    /// What came of the last look.
    pub outcome: Outcome,
    /// How that look came about.
    pub source: Source,
    /// Whether its pod got the user namespace it asked for.
    pub isolation: Verdict,
    /// How far it had come, at least, when that was found.
    pub stage: Stage,
    /// Its pod asked for a writable cgroup and may have it, and it was created with a read-only one.
    pub missed: bool,
}

// === impl Source ===

impl Source {
    /// Every source.
    pub const ALL: [Source; 5] = [Source::Nri, Source::Hook, Source::Systemd, Source::Cri, Source::Resync];

    /// The name in logs, metrics and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Source::Nri => "nri",
            Source::Hook => "hook",
            Source::Systemd => "systemd",
            Source::Cri => "cri",
            Source::Resync => "resync",
        }
    }
}

// === impl Action ===

impl Action {
    /// Every action.
    pub const ALL: [Action; 4] =
        [Action::ChownCgroup, Action::SetLimits, Action::AdjustContainer, Action::EndContainer];

    /// The name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Action::ChownCgroup => "chown_cgroup",
            Action::SetLimits => "set_limits",
            Action::AdjustContainer => "adjust_container",
            Action::EndContainer => "end_container",
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// The name in logs and documents.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Delegated => "delegated",
            Outcome::AlreadyRight => "already_right",
            Outcome::Skipped(skip) => skip.name(),
            Outcome::Failed(_) => "failed",
        }
    }
}

// === impl CgroupState ===

impl CgroupState {
    /// Every state.
    pub const ALL: [CgroupState; 7] = [
        CgroupState::Ok,
        CgroupState::OwnerWrong,
        CgroupState::ReadOnly,
        CgroupState::Missed,
        CgroupState::Unlimited,
        CgroupState::HostUserNamespace,
        CgroupState::Unknown,
    ];

    /// The name in metrics and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CgroupState::Ok => "ok",
            CgroupState::OwnerWrong => "owner_wrong",
            CgroupState::ReadOnly => "read_only",
            CgroupState::Missed => "missed",
            CgroupState::Unlimited => "unlimited",
            CgroupState::HostUserNamespace => "host_user_namespace",
            CgroupState::Unknown => "unknown",
        }
    }
}

// === impl UserNamespaceMode ===

impl UserNamespaceMode {
    /// Every mode.
    pub const ALL: [UserNamespaceMode; 4] = [
        UserNamespaceMode::Pod,
        UserNamespaceMode::Auto,
        UserNamespaceMode::Host,
        UserNamespaceMode::Unknown,
    ];

    /// The mode of a container whose pod asked for `request`, perhaps by CRI-O's annotation, and
    /// that is in the host's user namespace or not, where that was seen. What the pod asked for
    /// counts where both are known: what it got then is lost isolation.
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

    /// The name in metrics and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            UserNamespaceMode::Pod => "pod",
            UserNamespaceMode::Auto => "auto",
            UserNamespaceMode::Host => "host",
            UserNamespaceMode::Unknown => "unknown",
        }
    }
}

// === impl Record ===

impl Record {
    /// How its cgroup is to be counted.
    #[must_use]
    pub fn state(&self) -> CgroupState {
        match &self.outcome {
            Outcome::Delegated | Outcome::AlreadyRight if self.limits.is_some() => CgroupState::Ok,
            Outcome::Delegated | Outcome::AlreadyRight => CgroupState::Unlimited,
            Outcome::Skipped(Skip::ReadOnlyMount | Skip::NoCgroupMount) if self.missed => CgroupState::Missed,
            Outcome::Skipped(Skip::ReadOnlyMount | Skip::NoCgroupMount) => CgroupState::ReadOnly,
            Outcome::Skipped(Skip::HostUserNamespace | Skip::RootIsHostRoot) => {
                CgroupState::HostUserNamespace
            }
            Outcome::Skipped(
                Skip::UnmappedRoot
                | Skip::UnmappedOwner
                | Skip::ReservedOwner
                | Skip::ForeignOwner
                | Skip::NotDelegated
                | Skip::ObserveOnly,
            ) => CgroupState::OwnerWrong,
            Outcome::Failed(_) if self.has_right_owner() == Some(false) => CgroupState::OwnerWrong,
            Outcome::Skipped(Skip::NotUnified | Skip::Gone | Skip::BeingMade | Skip::Unproven)
            | Outcome::Failed(_) => CgroupState::Unknown,
        }
    }

    /// What is known of its isolation.
    #[must_use]
    pub fn known(&self) -> Known {
        let finding = match self.outcome {
            Outcome::Skipped(Skip::BeingMade) => Finding::TooEarly,
            _ => Finding::Settled(self.isolation),
        };
        Known { stage: self.stage, finding }
    }

    /// Whether its cgroup belongs to whom it should, as last seen: to one of the container's own
    /// users where `/sys/fs/cgroup` is writable in it; elsewhere to the host's root or to one of
    /// them. `None` where that was not seen, and in the host's user namespace.
    #[must_use]
    pub fn has_right_owner(&self) -> Option<bool> {
        if self.user_namespace.is_none_or(|namespace| namespace.is_hosts) {
            return None;
        }
        let (owner, map) = (self.owner?, self.uid_map.as_ref()?);
        let is_the_containers = owner != HostId::ROOT && map.container_of(owner).is_some();
        let may_be_roots = self.mount? != CgroupMount::ReadWrite;
        Some(is_the_containers || (may_be_roots && owner == HostId::ROOT))
    }
}

impl Record {
    /// A container of which only the ID is known, handed over over NRI: the rest of a record that a test
    /// is not about.
    #[must_use]
    pub fn bare(id: CriId) -> Record {
        Record {
            id,
            sandbox_id: String::new(),
            name: String::new(),
            pod: PodName::default(),
            pid: None,
            uid_map: None,
            gid_map: None,
            user_namespace: None,
            mode: UserNamespaceMode::Unknown,
            mount: None,
            cgroup: None,
            inode: None,
            owner: None,
            limits: None,
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
    fn a_handed_over_cgroup_without_bounds_is_not_good() {
        let record = Record::bare(CriId::parse("a").unwrap());
        assert_eq!(record.state(), CgroupState::Unlimited);
        let bounded = Record { limits: Some(Limits::DEFAULT), ..record.clone() };
        assert_eq!(bounded.state(), CgroupState::Ok);
        for skip in Skip::ALL {
            let skipped = Record { outcome: Outcome::Skipped(skip), ..bounded.clone() };
            assert_ne!(skipped.state(), CgroupState::Ok, "{skip}");
        }
    }

    #[test]
    fn a_wish_that_was_missed_is_told_from_no_wish() {
        let read_only = Record {
            outcome: Outcome::Skipped(Skip::ReadOnlyMount),
            ..Record::bare(CriId::parse("a").unwrap())
        };
        assert_eq!(read_only.state(), CgroupState::ReadOnly);
        assert_eq!(Record { missed: true, ..read_only }.state(), CgroupState::Missed);
    }

    #[test]
    fn the_owner_is_right_where_the_container_needs_it() {
        use CgroupMount::{Absent, ReadOnly, ReadWrite};
        let own = Some(UserNamespace { inode: 1, is_hosts: false });
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
            let hosts = Some(UserNamespace { inode: 2, is_hosts: true });
            assert_eq!(Record { user_namespace: hosts, ..record }.has_right_owner(), None);
        }
    }

    #[test]
    fn what_a_pod_asked_for_names_its_mode() {
        use UserNamespaceMode as Mode;
        use UserNamespaceRequest::{Host, Own};
        for (request, annotated, in_hosts, want) in [
            (Some(Own), false, Some(false), Mode::Pod),
            (Some(Own), true, Some(false), Mode::Auto),
            // Lost.
            (Some(Own), false, Some(true), Mode::Pod),
            (Some(Own), true, Some(true), Mode::Auto),
            (Some(Own), false, None, Mode::Pod),
            (Some(Host), false, Some(true), Mode::Host),
            (Some(Host), false, None, Mode::Host),
            (Some(Host), false, Some(false), Mode::Pod),
            (None, false, Some(true), Mode::Host),
            // An annotation that the runtime does not heed.
            (None, true, Some(true), Mode::Host),
            (None, true, Some(false), Mode::Auto),
            (None, false, None, Mode::Unknown),
        ] {
            assert_eq!(Mode::of(request, annotated, in_hosts), want, "{request:?} {annotated} {in_hosts:?}");
        }
    }
}
