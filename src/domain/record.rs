//! What is known of each container: the words of `usernsd ps`, of the metrics and of the state
//! document.

use super::cgroup::CgroupPath;
use super::container::{CgroupMount, CriId, PodName};
use super::delegation::{Limits, Skip};
use super::guard::Verdict;
use super::idmap::{HostId, IdMap};

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

/// A container's cgroup, as people count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CgroupState {
    /// It belongs to the container, is writable there, and is bounded.
    Ok,
    /// It should belong to the container and does not.
    OwnerWrong,
    /// It is mounted read-only, or not at all; nothing to hand over.
    ReadOnly,
    /// It belongs to the container, and nothing bounds what it may make in it.
    Unlimited,
    /// The container runs in the host's user namespace.
    HostUserNamespace,
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
    /// Its ID mapping, as the kernel has it.
    pub uid_map: Option<IdMap>,
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
    pub const ALL: [CgroupState; 6] = [
        CgroupState::Ok,
        CgroupState::OwnerWrong,
        CgroupState::ReadOnly,
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
            CgroupState::Unlimited => "unlimited",
            CgroupState::HostUserNamespace => "host_user_namespace",
            CgroupState::Unknown => "unknown",
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
            Outcome::Skipped(Skip::ReadOnlyMount | Skip::NoCgroupMount) => CgroupState::ReadOnly,
            Outcome::Skipped(Skip::HostUserNamespace | Skip::RootIsHostRoot) => {
                CgroupState::HostUserNamespace
            }
            Outcome::Skipped(
                Skip::UnmappedRoot
                | Skip::UnmappedOwner
                | Skip::ReservedOwner
                | Skip::ForeignOwner
                | Skip::NotDelegated,
            ) => CgroupState::OwnerWrong,
            Outcome::Skipped(Skip::NotUnified | Skip::Gone | Skip::Unproven) | Outcome::Failed(_) => {
                CgroupState::Unknown
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handed_over_cgroup_without_bounds_is_not_good() {
        let record = Record {
            id: CriId::parse("a").unwrap(),
            sandbox_id: String::new(),
            name: String::new(),
            pod: PodName::default(),
            pid: None,
            uid_map: None,
            mount: None,
            cgroup: None,
            inode: None,
            owner: None,
            limits: None,
            outcome: Outcome::Delegated,
            source: Source::Nri,
            isolation: Verdict::Good,
        };
        assert_eq!(record.state(), CgroupState::Unlimited);
        let bounded = Record { limits: Some(Limits::DEFAULT), ..record.clone() };
        assert_eq!(bounded.state(), CgroupState::Ok);
        for skip in Skip::ALL {
            let skipped = Record { outcome: Outcome::Skipped(skip), ..bounded.clone() };
            assert_ne!(skipped.state(), CgroupState::Ok, "{skip}");
        }
    }
}
