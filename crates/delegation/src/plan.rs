//! The rules for the owner of a container's cgroup, and the plan to establish it.
//!
//! The rule is the OCI runtime specification's ("Cgroup ownership", `config-linux.md`): only on cgroup v2,
//! only in the container's own user namespace, only if `/sys/fs/cgroup` is writable, and only the directory
//! and the files on the kernel's delegate list. Everything else stays the host's, so that the container
//! cannot lift its own limits.

use crate::proof::{InUserNamespace, Proven};
use usernsd_domain::container::CgroupMount;
use usernsd_domain::delegation::{OwnerPolicy, Rules, Skip};
use usernsd_domain::idmap::{ContainerId, HostId};

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

// === impl Facts ===

impl Facts {
    /// The facts about a container without a user namespace of its own: [`plan`] skips it without further
    /// facts.
    #[must_use]
    pub fn unread(owner: HostId) -> Facts {
        Facts { mount: CgroupMount::Absent, user: ProcessUser::Host(HostId::ROOT), owner, files: Vec::new() }
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
    let directory = match facts.owner {
        id if uid_map.has_user(id) => false,
        HostId::ROOT => true,
        _ => return Err(Skip::ForeignOwner),
    };
    let mut files = Vec::new();
    for (name, id) in &facts.files {
        match *id {
            id if uid_map.has_user(id) => {}
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proof::tests::proven;
    use usernsd_domain::idmap::IdMap;

    const RULES: Rules =
        Rules { owner: OwnerPolicy::ProcessUser, minimum_host_id: HostId(65_536), observe_only: false };

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
        let plan_only = Rules { observe_only: true, ..RULES };
        assert_eq!(plan(&crun, &plan_only), Ok(Plan::AlreadyRight { owner: HostId(200_000) }));
        assert_eq!(plan(&facts(), &plan_only), Err(Skip::ObserveOnly));
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

    proptest! {
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
