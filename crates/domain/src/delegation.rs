//! The rules for the owner of a container's cgroup, and the plan to establish it.
//!
//! The rule is the OCI runtime specification's ("Cgroup ownership", `config-linux.md`): only on cgroup v2,
//! only in the container's own user namespace, only if `/sys/fs/cgroup` is writable, and only the directory
//! and the files on the kernel's delegate list. Everything else stays the host's, so that the container
//! cannot lift its own limits.

use std::fmt;

use super::container::CgroupMount;
use super::idmap::{ContainerId, HostId};
use super::proof::{InUserNamespace, Proven};

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

/// The user of a container's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessUser {
    /// From the specification: an ID in the container.
    Container(ContainerId),
    /// From the kernel, for the process that waits to run the container's program.
    Host(HostId),
}

/// The observed state of a container's cgroup on a node with cgroup v2, in addition to the proof that it is
/// the container's own.
#[derive(Debug, Clone)]
pub struct Facts {
    /// How `/sys/fs/cgroup` is, or will be, mounted.
    pub mount: CgroupMount,
    /// The process's user.
    pub user: ProcessUser,
    /// The owner of the cgroup's directory.
    pub owner: HostId,
    /// The delegate list's files that exist in it, with their owners.
    pub files: Vec<(String, HostId)>,
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

/// The planned change of a container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Change the owner of these files, then of the directory; the group stays.
    Chown {
        /// The new owner.
        owner: HostId,
        /// The files to change: those of the delegate list that a stranger owns.
        files: Vec<String>,
        /// Whether the directory changes too.
        directory: bool,
    },
    /// The runtime, or an earlier run, made it right. Nothing is written.
    AlreadyRight {
        /// The owner it has.
        owner: HostId,
    },
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

// === impl Facts ===

impl Facts {
    /// The facts about a container without a user namespace of its own: [`plan`] skips it without further
    /// facts.
    #[must_use]
    pub fn unread(owner: HostId) -> Facts {
        Facts { mount: CgroupMount::Absent, user: ProcessUser::Host(HostId::ROOT), owner, files: Vec::new() }
    }
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
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Decides what to do with a container's cgroup.
///
/// # Errors
/// The reason to leave it alone, which is often right: see [`Skip`].
pub fn plan(proven: &Proven, facts: &Facts, rules: &Rules) -> Result<Plan, Skip> {
    match proven.user_namespace() {
        InUserNamespace::Own => {}
        InUserNamespace::Hosts | InUserNamespace::SelfMade => return Err(Skip::HostUserNamespace),
    }
    let uid_map = proven.uid_map();
    let root = uid_map.root().ok_or(Skip::UnmappedRoot)?;
    if root == HostId::ROOT {
        return Err(Skip::RootIsHostRoot);
    }
    match facts.mount {
        CgroupMount::ReadWrite => {}
        CgroupMount::ReadOnly => return Err(Skip::ReadOnlyMount),
        CgroupMount::Absent => return Err(Skip::NoCgroupMount),
    }
    if proven.delegate() == Some(false) {
        return Err(Skip::NotDelegated);
    }

    let owner = match (rules.owner, facts.user) {
        (OwnerPolicy::Root, _) => root,
        (OwnerPolicy::ProcessUser, ProcessUser::Container(id)) => {
            uid_map.host_of(id).ok_or(Skip::UnmappedOwner)?
        }
        // The process's user counts only if it is an ID of this container.
        (OwnerPolicy::ProcessUser, ProcessUser::Host(id)) => {
            uid_map.container_of(id).map(|_| id).ok_or(Skip::UnmappedOwner)?
        }
    };
    if owner == HostId::ROOT || owner < rules.minimum_host_id {
        return Err(Skip::ReservedOwner);
    }

    // Any owner that is mapped into the container is accepted: runc and crun choose different users, and
    // both are right. The host's root is mapped into no container that comes this far by its own root,
    // but a further extent may map it (CRI-O "auto" with runAsUser 0).
    let is_the_containers = |id: HostId| id != HostId::ROOT && uid_map.container_of(id).is_some();
    let directory = match facts.owner {
        id if is_the_containers(id) => false,
        HostId::ROOT => true,
        _ => return Err(Skip::ForeignOwner),
    };
    let mut files = Vec::new();
    for (name, id) in &facts.files {
        match *id {
            id if is_the_containers(id) => {}
            HostId::ROOT => files.push(name.clone()),
            _ => return Err(Skip::ForeignOwner),
        }
    }
    if !directory && files.is_empty() {
        return Ok(Plan::AlreadyRight { owner: facts.owner });
    }
    if rules.observe_only {
        return Err(Skip::ObserveOnly);
    }
    // If the directory belongs to the container already, its present owner is kept.
    let owner = if directory { owner } else { facts.owner };
    Ok(Plan::Chown { owner, files, directory })
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

/// A cgroup limit as the kernel prints it: `max` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// No limit: `max` in the file.
    Max,
    /// At most this many.
    At(u32),
}

/// A cgroup directly below a pod's: a sandbox's, a container's or conmon's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The cgroups below it.
    pub used: u64,
    /// The bound on their number, where only the host can change it.
    pub bound: Limit,
}

// === impl Held ===

impl Held {
    /// How many cgroups it may come to hold, itself included. One without a bound of its own, or with one
    /// that means nothing in a pod that may hold `pod`, is taken to stay as it is: its cgroup was not
    /// handed over.
    #[must_use]
    pub fn most(self, pod: u32) -> u64 {
        let below = match self.bound {
            Limit::At(bound) if bound < pod => self.used.max(bound.into()),
            Limit::At(_) | Limit::Max => self.used,
        };
        below.saturating_add(1)
    }
}

// === impl Limits ===

impl Limits {
    /// KEP-5474's plan for the kubelet.
    pub const DEFAULT: Limits = Limits { descendants: 250, depth: 50 };

    /// The file and the value of each limit to be written: those that are still `max`. A value that an
    /// administrator or the kubelet has set is kept, higher or lower.
    #[must_use]
    pub fn missing(&self, descendants: Limit, depth: Limit) -> Vec<(&'static str, u32)> {
        let unset = |now: Limit| now == Limit::Max;
        [
            (unset(descendants), Limits::DESCENDANTS_FILE, self.descendants),
            (unset(depth), Limits::DEPTH_FILE, self.depth),
        ]
        .into_iter()
        .filter_map(|(unset, file, value)| unset.then_some((file, value)))
        .collect()
    }

    /// `cgroup.max.descendants` of a container's own cgroup, in a pod that may hold `pod` cgroups: one
    /// container must not use up what the pod's other containers need to start.
    ///
    /// `taken` is what the pod's other cgroups hold or may come to hold ([`Held::most`]), with the
    /// container's own directories; `used` is the number of cgroups that the container has made already.
    ///
    /// How many containers will come is unknown on the node. So a part is kept for directories alone, of the
    /// rest each container gets half, and the next one half of what that leaves. A container that has made
    /// more before it was bounded keeps room for twice as many, as far as there is room.
    #[must_use]
    pub fn share(pod: u32, taken: u64, used: u64) -> u32 {
        let kept = (pod / Limits::KEPT_PART).max(Limits::KEPT_LEAST);
        let free = u64::from(pod).saturating_sub(taken).saturating_sub(kept.into());
        let share = (free / 2).max(used.saturating_mul(2).min(free));
        u32::try_from(share).unwrap_or(pod)
    }

    /// The number of cgroups that a pod's cgroups hold or may come to hold, if `closed` of them cannot be read, because
    /// their containers permit it to nobody. `taken` is that number for the others, and `used` the number of cgroups
    /// in the closed ones, by the pod's own count.
    ///
    /// Their limits are unknown. Each is taken to have what a container gets that starts now, which leaves as much
    /// for the next one as if it could be read.
    #[must_use]
    pub fn taken_with_closed(pod: u32, taken: u64, closed: u32, used: u64) -> u64 {
        // More of them get nothing.
        let assumed = (0..closed.min(32)).fold(0_u64, |assumed, _| {
            let share = Limits::share(pod, taken.saturating_add(assumed), 0);
            assumed.saturating_add(u64::from(share)).saturating_add(1)
        });
        taken.saturating_add(assumed.max(used))
    }

    /// The part of the pod's cgroups that no container gets: one of this many.
    const KEPT_PART: u32 = 8;
    /// Minimum of that part: two containers of CRI-O with crun, each with its scope, the cgroup in it and
    /// conmon's scope.
    const KEPT_LEAST: u32 = 6;

    /// The interface file of the number of descendants.
    pub const DESCENDANTS_FILE: &str = "cgroup.max.descendants";
    /// The interface file of the depth.
    pub const DEPTH_FILE: &str = "cgroup.max.depth";
}

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
    use proptest::prelude::*;

    use super::*;
    use crate::idmap::IdMap;
    use crate::proof::tests::proven;

    const RULES: Rules =
        Rules { owner: OwnerPolicy::ProcessUser, minimum_host_id: HostId(65_536), observe_only: false };

    /// A container that hides its number of cgroups takes nothing from the next one.
    #[test]
    fn a_closed_cgroup_counts_as_one_that_could_be_read() {
        let first = Limits::share(250, 1, 0);
        let open = Limits::share(250, 2 + u64::from(first), 0);
        assert_eq!((first, open), (109, 54));
        // By its number if that is known to be higher, else as the first of two containers.
        for used in [0, 1, 110] {
            let taken = Limits::taken_with_closed(250, 1, 1, used);
            assert_eq!((taken, Limits::share(250, taken, 0)), (111, open), "{used}");
        }
        assert!(Limits::share(250, Limits::taken_with_closed(250, 1, 1, 150), 0) < open);
        assert_eq!(Limits::taken_with_closed(250, 7, 0, 0), 7);
        // However many there are, the next one gets something.
        let shares =
            [2, 3, 4, 5].map(|closed| Limits::share(250, Limits::taken_with_closed(250, 1, closed, 0), 0));
        assert!(shares.is_sorted_by(|one, next| one > next) && shares[3] > 0, "{shares:?}");
        assert!(Limits::taken_with_closed(250, 1, u32::MAX, u64::MAX) == u64::MAX);
    }

    /// A privileged container of runc's: everything is ready but the owner.
    fn facts() -> Facts {
        Facts {
            mount: CgroupMount::ReadWrite,
            user: ProcessUser::Container(ContainerId(0)),
            owner: HostId::ROOT,
            files: vec![("cgroup.procs".into(), HostId::ROOT), ("cgroup.threads".into(), HostId::ROOT)],
        }
    }

    /// The plan for a container in a user namespace of its own with that mapping.
    fn plan_with(uid_map: &str, facts: &Facts, rules: &Rules) -> Result<Plan, Skip> {
        let map = IdMap::parse(uid_map).unwrap();
        super::plan(&proven(map, InUserNamespace::Own, Some(true)), facts, rules)
    }

    fn plan(facts: &Facts, rules: &Rules) -> Result<Plan, Skip> {
        plan_with("0 200000 65536", facts, rules)
    }

    fn chown(owner: u32) -> Result<Plan, Skip> {
        let files = vec!["cgroup.procs".into(), "cgroup.threads".into()];
        Ok(Plan::Chown { owner: HostId(owner), files, directory: true })
    }

    #[test]
    fn the_user_of_the_process_becomes_the_owner() {
        assert_eq!(plan(&facts(), &RULES), chown(200_000));
        let web = Facts { user: ProcessUser::Container(ContainerId(1000)), ..facts() };
        assert_eq!(plan(&web, &RULES), chown(201_000));
        assert_eq!(plan(&web, &Rules { owner: OwnerPolicy::Root, ..RULES }), chown(200_000));
        let seen = Facts { user: ProcessUser::Host(HostId(201_000)), ..facts() };
        assert_eq!(plan(&seen, &RULES), chown(201_000));
    }

    #[test]
    fn the_owner_is_found_in_a_second_extent() {
        let facts = Facts { user: ProcessUser::Container(ContainerId(1001)), ..facts() };
        assert_eq!(plan_with("0 200000 1000\n1000 500000 1000", &facts, &RULES), chown(500_001));
    }

    #[test]
    fn a_cgroup_that_must_not_be_changed_is_skipped_with_its_reason() {
        for (facts, want) in [
            (Facts { mount: CgroupMount::ReadOnly, ..facts() }, Skip::ReadOnlyMount),
            (Facts { mount: CgroupMount::Absent, ..facts() }, Skip::NoCgroupMount),
            (Facts { user: ProcessUser::Container(ContainerId(70_000)), ..facts() }, Skip::UnmappedOwner),
            (Facts { user: ProcessUser::Host(HostId(100)), ..facts() }, Skip::UnmappedOwner),
            (Facts { owner: HostId(300_000), ..facts() }, Skip::ForeignOwner),
            (Facts { files: vec![("cgroup.procs".into(), HostId(1))], ..facts() }, Skip::ForeignOwner),
        ] {
            assert_eq!(plan(&facts, &RULES), Err(want), "{facts:?}");
        }
        let tenth = Facts { user: ProcessUser::Container(ContainerId(10)), ..facts() };
        for (map, facts, want) in [
            ("1 500000 65535\n0 0 1", facts(), Skip::RootIsHostRoot),
            ("1 500000 65535", facts(), Skip::UnmappedRoot),
            ("", facts(), Skip::UnmappedRoot),
            ("0 1000 10", facts(), Skip::ReservedOwner),
            ("0 200000 10\n10 0 1", tenth, Skip::ReservedOwner),
        ] {
            assert_eq!(plan_with(map, &facts, &RULES), Err(want), "{map:?}");
        }
        let map = || IdMap::parse("0 200000 65536").unwrap();
        for (namespace, delegate, want) in [
            (InUserNamespace::Hosts, Some(true), Skip::HostUserNamespace),
            (InUserNamespace::SelfMade, Some(true), Skip::HostUserNamespace),
            (InUserNamespace::Own, Some(false), Skip::NotDelegated),
        ] {
            assert_eq!(super::plan(&proven(map(), namespace, delegate), &facts(), &RULES), Err(want));
        }
    }

    #[test]
    fn nothing_is_written_if_everything_is_right() {
        let files = vec![("cgroup.procs".to_owned(), HostId(200_000))];
        let runc = Facts { owner: HostId(200_000), files: files.clone(), ..facts() };
        assert_eq!(plan(&runc, &RULES), Ok(Plan::AlreadyRight { owner: HostId(200_000) }));
        // crun gives it to root inside although the process's user is another.
        let crun = Facts { user: ProcessUser::Container(ContainerId(1000)), ..runc };
        assert_eq!(plan(&crun, &RULES), Ok(Plan::AlreadyRight { owner: HostId(200_000) }));
        let only_look = Rules { observe_only: true, ..RULES };
        assert_eq!(plan(&crun, &only_look), Ok(Plan::AlreadyRight { owner: HostId(200_000) }));
        assert_eq!(plan(&facts(), &only_look), Err(Skip::ObserveOnly));
    }

    #[test]
    fn an_interrupted_delegation_is_completed() {
        let facts = Facts {
            owner: HostId(200_000),
            files: vec![("cgroup.procs".into(), HostId(200_000)), ("memory.reclaim".into(), HostId::ROOT)],
            user: ProcessUser::Container(ContainerId(1000)),
            ..facts()
        };
        let want =
            Plan::Chown { owner: HostId(200_000), files: vec!["memory.reclaim".into()], directory: false };
        assert_eq!(plan(&facts, &RULES), Ok(want));
    }

    #[test]
    fn only_missing_limits_are_set() {
        let limits = Limits::DEFAULT;
        assert_eq!(
            limits.missing(Limit::Max, Limit::Max),
            [("cgroup.max.descendants", 250), ("cgroup.max.depth", 50)]
        );
        assert_eq!(limits.missing(Limit::At(9), Limit::Max), [("cgroup.max.depth", 50)]);
        assert_eq!(limits.missing(Limit::At(10_000), Limit::At(1)), []);
        for (text, want) in
            [("max\n", Some(Limit::Max)), ("17\n", Some(Limit::At(17))), ("-1", None), ("", None)]
        {
            assert_eq!(Limit::parse(text), want, "{text:?}");
        }
    }

    /// The shares of a pod's containers, one after another, each with `own` directories, besides a sandbox;
    /// the last value is the number of cgroups in the pod when each has created all it may.
    fn shares(pod: u32, own: u64, containers: usize) -> (Vec<u32>, u64) {
        let mut taken = Held { used: 0, bound: Limit::Max }.most(pod);
        let mut shares = Vec::new();
        for _ in 0..containers {
            taken += own;
            let share = Limits::share(pod, taken, 0);
            taken += u64::from(share);
            shares.push(share);
        }
        (shares, taken)
    }

    #[test]
    fn a_greedy_container_leaves_room_for_the_next() {
        // runc: one directory each. crun: the scope and the cgroup in it.
        assert_eq!(shares(250, 1, 7).0, [108, 54, 26, 13, 6, 2, 1]);
        assert_eq!(shares(250, 2, 7).0, [108, 53, 25, 12, 5, 1, 0]);
        for (pod, own, containers) in
            [(250, 1, 38), (250, 3, 15), (16, 3, 3), (16, 1, 6), (1_000_000, 3, 1000)]
        {
            let most = shares(pod, own, containers).1;
            assert!(most + own <= u64::from(pod), "{pod} {own} {containers}: {most}");
        }
        // If the pod has no room at all, no container gets a share.
        assert_eq!(shares(0, 1, 2).0, [0, 0]);
        assert_eq!(Limits::share(250, 400, 300), 0);
    }

    #[test]
    fn a_container_that_was_not_bounded_keeps_what_it_made() {
        for (used, want) in [(0, 108), (54, 108), (70, 140), (120, 217), (240, 217), (u64::MAX, 217)] {
            assert_eq!(Limits::share(250, 2, used), want, "{used}");
        }
    }

    #[test]
    fn a_container_counts_with_its_limit_only_if_that_is_below_the_pods() {
        let most = |used, bound| Held { used, bound }.most(250);
        assert_eq!(most(0, Limit::Max), 1);
        assert_eq!(most(7, Limit::Max), 8);
        assert_eq!(most(7, Limit::At(108)), 109);
        assert_eq!(most(120, Limit::At(108)), 121);
        // An administrator's, above the pod's.
        assert_eq!(most(7, Limit::At(10_000)), 8);
        assert_eq!(most(u64::MAX, Limit::Max), u64::MAX);
    }

    #[test]
    fn every_reason_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = Skip::ALL.iter().map(|skip| skip.name()).collect();
        assert_eq!(names.len(), Skip::ALL.len());
    }

    proptest! {
        /// For any neighbours and any number of cgroups in use, a container's limit never uses up the reserve
        /// for the directories of later containers.
        #[test]
        fn a_share_leaves_the_reserve_for_later_containers(pod in 0..2000u32, taken in 0..3000u64, used in 0..3000u64) {
            let share = Limits::share(pod, taken, used);
            prop_assert!(share == 0 || u64::from(share) + taken + u64::from((pod / 8).max(6)) <= u64::from(pod));
        }

        /// For any observation, nothing is ever delegated to the host's root, to a reserved ID or to an ID
        /// outside the container.
        #[test]
        fn an_owner_is_always_a_user_of_the_container(
            extents in proptest::collection::vec((0..5u32, prop_oneof![0..5u32, 65_530..65_545u32, 200_000..200_010u32], 1..4u32), 0..4),
            user in 0..8u32, host_user in any::<bool>(), policy in any::<bool>(),
            owner in prop_oneof![Just(0u32), 200_000..200_010u32],
        ) {
            let text: String = extents.iter().map(|(c, h, n)| format!("{c} {h} {n}\n")).collect();
            let Ok(uid_map) = IdMap::parse(&text) else { return Ok(()) };
            let user = if host_user { ProcessUser::Host(HostId(200_000 + user)) } else { ProcessUser::Container(ContainerId(user)) };
            let proven = proven(uid_map, InUserNamespace::Own, None);
            let facts = Facts { user, owner: HostId(owner), ..facts() };
            let policy = if policy { OwnerPolicy::Root } else { OwnerPolicy::ProcessUser };
            if let Ok(Plan::Chown { owner, .. }) = super::plan(&proven, &facts, &Rules { owner: policy, ..RULES }) {
                let mapped = extents.iter().any(|(_, h, n)| (*h..h + n).contains(&owner.0));
                prop_assert!(mapped && owner.0 >= 65_536);
            }
        }
    }
}
