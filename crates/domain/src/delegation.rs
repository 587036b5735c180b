//! The terms of delegation: its settings, the reasons to leave a cgroup as it is, and the kernel's limits on one. The
//! rules are in the crate `usernsd-delegation`.

use std::fmt;

use super::idmap::{HostId, IdMap};
use super::record::CgroupState;

/// The user who becomes the owner of the cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OwnerPolicy {
    /// The user of the container's process, as the OCI runtime specification requires and runc does.
    #[default]
    ProcessUser,
    /// Root inside, as crun does.
    Root,
}

words! {
    /// The name in the configuration.
    OwnerPolicy { ProcessUser = "process-user", Root = "root" }
}

/// The administrator's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The user who becomes the owner of the cgroup.
    pub owner: OwnerPolicy,
    /// Host IDs below this one belong to the host's own users and are never made owners.
    pub minimum_host_id: HostId,
    /// Nothing is changed; what would be is [`Skip::ObserveOnly`].
    pub observe_only: bool,
}

/// Why a container's cgroup is left alone. Each is a log word, a metric label and a line of the
/// documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Skip {
    /// The node runs cgroup v1 or hybrid: delegation is unsafe there (cgroups(7)).
    NotUnified,
    /// The container shares the host's user namespace.
    HostUserNamespace,
    /// `/sys/fs/cgroup` is read-only in the container: ownership would make no difference.
    ReadOnlyMount,
    /// `/sys/fs/cgroup` is not mounted in the container.
    NoCgroupMount,
    /// Root inside is root outside (CRI-O `map-to-root`, or a range that wrapped).
    RootIsHostRoot,
    /// Root inside is not mapped to any host ID.
    UnmappedRoot,
    /// The process's user is not mapped to any host ID.
    UnmappedOwner,
    /// The owner would be a host ID that belongs to the host's own users.
    ReservedOwner,
    /// The cgroup belongs to a host ID that is neither root nor mapped into the container.
    ForeignOwner,
    /// According to systemd, the unit is not delegated.
    NotDelegated,
    /// The cgroup would be delegated, but the agent is in observe-only mode.
    ObserveOnly,
    /// The container, which owns the cgroup, has taken the permissions on it from everyone else.
    Closed,
    /// The cgroup or the process is gone.
    Gone,
    /// The container is being created: the process in its cgroup is the OCI runtime's, or a command's that
    /// has not entered the container yet. It will be inspected again soon.
    BeingMade,
    /// The runtime's, systemd's and the kernel's information about the target does not agree.
    Unproven,
}

// === impl Skip ===

words! {
    /// The name in logs, metrics and documents.
    Skip {
        NotUnified = "not_unified",
        HostUserNamespace = "host_user_namespace",
        ReadOnlyMount = "read_only_mount",
        NoCgroupMount = "no_cgroup_mount",
        RootIsHostRoot = "root_is_host_root",
        UnmappedRoot = "unmapped_root",
        UnmappedOwner = "unmapped_owner",
        ReservedOwner = "reserved_owner",
        ForeignOwner = "foreign_owner",
        NotDelegated = "not_delegated",
        ObserveOnly = "observe_only",
        Closed = "closed",
        Gone = "gone",
        BeingMade = "being_made",
        Unproven = "unproven",
    }
}

impl Skip {
    /// The reason as a sentence for people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Skip::NotUnified => "the node runs cgroup v1, where delegation is unsafe; boot it with cgroup v2",
            Skip::HostUserNamespace => "the container runs in the host's user namespace",
            Skip::ReadOnlyMount => {
                "/sys/fs/cgroup is read-only in the container; annotate the pod with usernsd.io/cgroup: writable"
            }
            Skip::NoCgroupMount => {
                "the container's cgroup is not mounted on /sys/fs/cgroup in it (a volume there counts as none)"
            }
            Skip::RootIsHostRoot => {
                "root inside the container is root on the host; its cgroup is already root's"
            }
            Skip::UnmappedRoot => "root inside the container is not mapped to a host ID",
            Skip::UnmappedOwner => "the user of the container's process is not mapped to a host ID",
            Skip::ReservedOwner => "the owner would be a host ID below the configured minimum",
            Skip::ForeignOwner => "the cgroup belongs to a host ID that is not mapped into the container",
            Skip::NotDelegated => "systemd reports that the unit is not delegated (Delegate=no)",
            Skip::ObserveOnly => "the cgroup would be handed over, but delegation.mechanism is \"none\"",
            Skip::Closed => {
                "the container has its cgroup, and permits nobody else to read it (chmod); whether it is still right is not \
                 known"
            }
            Skip::Gone => "the container ended before its cgroup could be handed over",
            Skip::BeingMade => "the container is being created, and will be inspected again soon",
            Skip::Unproven => "runtime, systemd and kernel do not agree on which cgroup is the container's",
        }
    }

    /// The state of a cgroup that was left as it is for this reason. `is_missed`: whether the container should have had
    /// a writable one. `is_unlimited`: whether the container owns the cgroup and lacks the limits that it needs.
    #[must_use]
    pub fn cgroup_state(self, is_missed: bool, is_unlimited: bool) -> CgroupState {
        match self {
            // Once the container is recreated as its pod asked, it is judged as one with a writable cgroup.
            Skip::ReadOnlyMount | Skip::NoCgroupMount if is_missed => CgroupState::Missed,
            Skip::ReadOnlyMount | Skip::NoCgroupMount | Skip::Closed | Skip::Unproven if is_unlimited => {
                CgroupState::Unlimited
            }
            Skip::ReadOnlyMount | Skip::NoCgroupMount => CgroupState::ReadOnly,
            Skip::HostUserNamespace | Skip::RootIsHostRoot => CgroupState::HostUserNamespace,
            Skip::UnmappedRoot
            | Skip::UnmappedOwner
            | Skip::ReservedOwner
            | Skip::ForeignOwner
            | Skip::NotDelegated
            | Skip::ObserveOnly => CgroupState::OwnerWrong,
            Skip::NotUnified | Skip::Closed | Skip::Gone | Skip::BeingMade | Skip::Unproven => {
                CgroupState::Unknown
            }
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bounds on what a delegated subtree may hold; they stay the host's to change.
///
/// Without them a container can fill the kernel with cgroups (KEP-5474: 42,000 in a container of
/// 128 MiB took a node down).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `cgroup.max.descendants`.
    pub descendants: u32,
    /// `cgroup.max.depth`.
    pub depth: u32,
}

/// The limits on the cgroups that a container may create, as far as they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KnownLimits {
    /// They were not read: the container does not own its cgroup, or the inspection ended before.
    #[default]
    Unread,
    /// One of them, or both, is not set.
    Missing,
    /// Both are set.
    Set(Limits),
}

/// A cgroup limit as the kernel prints it: `max` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// No limit: `max` in the file.
    Max,
    /// At most this many.
    At(u32),
}

// === impl Limits ===

impl Limits {
    /// KEP-5474's plan for the kubelet.
    pub const DEFAULT: Limits = Limits { descendants: 250, depth: 50 };

    /// The interface file of the number of descendants.
    pub const DESCENDANTS_FILE: &str = "cgroup.max.descendants";
    /// The interface file of the depth.
    pub const DEPTH_FILE: &str = "cgroup.max.depth";

    /// Whether a container needs limits: if it owns its cgroup, which usernsd or its OCI runtime handed over. `owner` is
    /// that of the cgroup's directory, and `uid_map` the mapping of the container's user namespace.
    ///
    /// How the cgroup is mounted does not matter. The container may have closed it or mounted over it before it was
    /// inspected, and one that has it read-only or not at all can mount it itself: in a user namespace below its own that
    /// takes no capability.
    #[must_use]
    pub fn are_needed(owner: HostId, uid_map: &IdMap) -> bool {
        uid_map.has_user(owner)
    }
}

// === impl KnownLimits ===

impl KnownLimits {
    /// The limits that two files contain.
    #[must_use]
    pub fn of(descendants: Limit, depth: Limit) -> KnownLimits {
        match (descendants, depth) {
            (Limit::At(descendants), Limit::At(depth)) => KnownLimits::Set(Limits { descendants, depth }),
            _ => KnownLimits::Missing,
        }
    }

    /// The limits, if both are set.
    #[must_use]
    pub fn set(self) -> Option<Limits> {
        match self {
            KnownLimits::Set(limits) => Some(limits),
            KnownLimits::Unread | KnownLimits::Missing => None,
        }
    }
}

// === impl Limit ===

impl Limit {
    /// Reads the text of a limit file; `None` for what the kernel never prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Limit> {
        match text.trim_end() {
            "max" => Some(Limit::Max),
            number if number.bytes().all(|byte| byte.is_ascii_digit()) => number.parse().ok().map(Limit::At),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = Skip::ALL.iter().map(|skip| skip.name()).collect();
        assert_eq!(names.len(), Skip::ALL.len());
    }

    #[test]
    fn a_container_needs_limits_wherever_one_of_its_users_owns_its_cgroup() {
        let map = IdMap::parse("0 200000 65536\n65536 0 1").unwrap();
        for (owner, want) in [(200_000, true), (201_000, true), (0, false), (300_000, false)] {
            assert_eq!(Limits::are_needed(HostId(owner), &map), want, "{owner}");
        }
    }

    #[test]
    fn limits_are_set_only_if_both_are() {
        let (max, at) = (Limit::Max, Limit::At(7));
        assert_eq!(KnownLimits::of(at, at), KnownLimits::Set(Limits { descendants: 7, depth: 7 }));
        for (descendants, depth) in [(max, at), (at, max), (max, max)] {
            assert_eq!(KnownLimits::of(descendants, depth), KnownLimits::Missing);
        }
    }

    #[test]
    fn a_limit_is_read_as_the_kernel_prints_it() {
        for (text, want) in
            [("max\n", Some(Limit::Max)), ("17\n", Some(Limit::At(17))), ("-1", None), ("", None)]
        {
            assert_eq!(Limit::parse(text), want, "{text:?}");
        }
    }
}
