//! The owners of the node's host IDs: pods, subordinate ranges, pools, users and groups, and overlaps between owners
//! that must not share IDs.
//!
//! User and group IDs are separate spaces. An overlap is counted once as a pair of owners, whether they overlap in
//! one space or in both.

use std::collections::BTreeSet;

use super::accounts::Accounts;
use super::idmap::IdMap;
use super::kubelet;
use super::ranges::Window;
use super::subid::SubidFile;

/// The owner in `/etc/subuid` whose ranges CRI-O's `userns-mode` annotation uses.
pub const CRIO_USER: &str = "containers";
/// Number of IDs in a slot: the kubelet's default `idsPerPod`, and CRI-O's default size.
pub const SLOT: u64 = kubelet::DEFAULT_IDS_PER_POD;

/// A set of IDs, as sorted windows with gaps between them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdSet(Vec<Window>);

/// The space of user IDs or that of group IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdType {
    Uid,
    Gid,
}

/// The kind of an overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OverlapKind {
    PodPod,
    /// A pod and a user or group of the host.
    PodHostUser,
    /// A pod and a subordinate range of an owner who runs no pods.
    PodSubid,
    /// A pod with IDs outside all pools. If the node has no pool, nothing is outside.
    PodOutsidePool,
    /// Two owners of subordinate ranges.
    SubidSubid,
    /// A subordinate range and a user or group of the host.
    SubidHostUser,
}

/// A pool, named after its allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PoolName {
    /// The kubelet, from its user's ranges, or without that user from nearly all IDs.
    Kubelet,
    /// CRI-O, from the ranges of the user `containers`.
    Crio,
}

/// The IDs of a pod with its own user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodIds {
    /// Host user IDs.
    pub uids: IdSet,
    /// Host group IDs.
    pub gids: IdSet,
}

/// The contents of the node's ID files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostIds {
    /// `/etc/subuid`
    pub subuid: SubidFile,
    /// `/etc/subgid`
    pub subgid: SubidFile,
    /// `/etc/passwd` and `/etc/group`
    pub accounts: Accounts,
    /// Whether a kubelet is present.
    pub kubelet_is_present: bool,
    /// Whether the runtime is CRI-O. No other gives pods IDs of `containers`.
    pub crio_is_here: bool,
}

/// A pool and how much of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The pool's name.
    pub name: PoolName,
    /// The pool's host user IDs; empty if the node has no such pool.
    pub windows: Vec<Window>,
    /// Number of slots of [`SLOT`] IDs.
    pub slots: u64,
    /// Number of slots in which a pod has an ID.
    pub used: u64,
}

/// A slot in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPlace {
    pub pool: PoolName,
    /// Index of the slot, from 0.
    pub index: u64,
    /// Number of slots in the pool.
    pub slots: u64,
}

/// The owners and overlaps of all host IDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// The pools of this node's allocators, in the order of [`PoolName::ALL`].
    pub pools: Vec<Pool>,
    /// Ranges in `/etc/subuid` and `/etc/subgid` that every reader understands.
    pub subid_ranges: [u64; 2],
    /// Pairs of owners that overlap, in the order of [`OverlapKind::ALL`].
    pub overlaps: [u64; 6],
    /// For each pod, in the given order, how many of its IDs other owners have too, in the order of
    /// [`OverlapKind::OF_PODS`]; the larger of user and group IDs.
    pub shared: Vec<[u64; 4]>,
}

/// An owner of IDs in the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner<'a> {
    Pod(usize),
    Subid(&'a str),
    Account(&'a str),
}

/// The kind of holder of an ID, which determines the other holders that may share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimant {
    /// A user or a group of the host.
    Account,
    /// A line of `/etc/subuid` or `/etc/subgid`.
    Subid {
        /// Pods get their IDs from it.
        is_pool: bool,
    },
    Pod,
}

/// The kind of overlap if two holders share an ID; `None` if they may. `are_one`: both are the same pod, or
/// lines of the same user, under any of its names.
#[must_use]
pub fn overlap_kind(one: Claimant, other: Claimant, are_one: bool) -> Option<OverlapKind> {
    use Claimant::{Account, Pod, Subid};
    match (one, other) {
        (Account, Account) => None,
        (Pod, Pod) => (!are_one).then_some(OverlapKind::PodPod),
        (Subid { .. }, Subid { .. }) => (!are_one).then_some(OverlapKind::SubidSubid),
        (Pod, Subid { is_pool }) | (Subid { is_pool }, Pod) => (!is_pool).then_some(OverlapKind::PodSubid),
        (Pod, Account) | (Account, Pod) => Some(OverlapKind::PodHostUser),
        (Subid { .. }, Account) | (Account, Subid { .. }) => Some(OverlapKind::SubidHostUser),
    }
}

// === impl IdType, OverlapKind, PoolName ===

words! {
    /// The name in metrics and documents.
    IdType { Uid = "uid", Gid = "gid" }
}

impl IdType {
    /// The name of the subordinate ID file of that space.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            IdType::Uid => "subuid",
            IdType::Gid => "subgid",
        }
    }
}

words! {
    /// The name in metrics and documents.
    OverlapKind {
        PodPod = "pod_pod",
        PodHostUser = "pod_host_user",
        PodSubid = "pod_subid",
        PodOutsidePool = "pod_outside_pool",
        SubidSubid = "subid_subid",
        SubidHostUser = "subid_host_user",
    }
}

impl OverlapKind {
    /// The kinds that involve a pod.
    pub const OF_PODS: [OverlapKind; 4] =
        [OverlapKind::PodPod, OverlapKind::PodHostUser, OverlapKind::PodSubid, OverlapKind::PodOutsidePool];
}

words! {
    /// The name in metrics and documents.
    PoolName { Kubelet = "kubelet", Crio = "crio" }
}

// === impl IdSet ===

impl FromIterator<Window> for IdSet {
    fn from_iter<T: IntoIterator<Item = Window>>(windows: T) -> IdSet {
        let mut windows: Vec<Window> = windows.into_iter().filter(|window| window.count > 0).collect();
        windows.sort_unstable();
        let mut set: Vec<Window> = Vec::with_capacity(windows.len());
        for window in windows {
            match set.last_mut() {
                Some(last) if window.start <= last.end() => {
                    last.count = window.end().max(last.end()) - last.start;
                }
                _ => set.push(window),
            }
        }
        IdSet(set)
    }
}

impl IdSet {
    /// The host side of a mapping.
    #[must_use]
    pub fn of_map(map: &IdMap) -> IdSet {
        let window = |extent: &super::idmap::IdMapping| Window {
            start: extent.host_id.0.into(),
            count: extent.length.into(),
        };
        map.extents().iter().map(window).collect()
    }

    /// The windows, sorted, with at least one ID between any two.
    #[must_use]
    pub fn windows(&self) -> &[Window] {
        &self.0
    }

    /// Number of IDs.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|window| window.count).sum()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The IDs that are in both.
    #[must_use]
    pub fn common(&self, other: &IdSet) -> IdSet {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut common = Vec::new();
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            common.extend(a.common(**b));
            if a.end() < b.end() {
                left.next()
            } else {
                right.next()
            };
        }
        IdSet(common)
    }
}

// === impl HostIds, PodIds ===

impl HostIds {
    /// The file of that space.
    #[must_use]
    pub fn file(&self, space: IdType) -> &SubidFile {
        match space {
            IdType::Uid => &self.subuid,
            IdType::Gid => &self.subgid,
        }
    }

    /// The pools that exist with this node's runtime. The kubelet's is always among them: it is empty without a
    /// kubelet.
    fn pool_names(&self) -> impl Iterator<Item = PoolName> + use<> {
        let crio_is_here = self.crio_is_here;
        PoolName::ALL.into_iter().filter(move |name| *name != PoolName::Crio || crio_is_here)
    }

    /// The IDs of the pool, in the order of the file.
    fn pool(&self, name: PoolName, space: IdType) -> Vec<Window> {
        let lines = |user: &str| -> Vec<Window> {
            let ranges = self.file(space).ranges().map(|(_, range)| range);
            let own = ranges.filter(|range| self.accounts.is_same(&range.owner, user));
            own.map(|range| Window { start: range.start, count: range.count }).collect()
        };
        match name {
            PoolName::Crio => lines(CRIO_USER),
            PoolName::Kubelet => {
                let no_user = self.accounts.user(kubelet::USER).is_none();
                if self.kubelet_is_present && no_user {
                    // The kubelet does not read the files then (`getKubeletMappings`).
                    return vec![Window { start: SLOT, count: (1 << 32) - SLOT }];
                }
                lines(kubelet::USER)
            }
        }
    }

    /// Whether the kubelet has a user but no line in the file: its range comes from a directory service (`subid:` of
    /// nsswitch.conf(5)), or it does not start.
    fn kubelet_reads_elsewhere(&self, space: IdType) -> bool {
        self.kubelet_is_present && self.pool(PoolName::Kubelet, space).is_empty()
    }

    /// The slot and pool in which a range begins; `None` if it is not completely in one pool.
    #[must_use]
    pub fn slot_of(&self, space: IdType, first: u64, count: u64) -> Option<SlotPlace> {
        self.pool_names().find_map(|pool| {
            let windows = self.pool(pool, space);
            let mut before = 0;
            for window in &windows {
                if window.holds(Window { start: first, count }) {
                    let slots = windows.iter().map(|window| window.count / SLOT).sum();
                    return Some(SlotPlace { pool, index: before + (first - window.start) / SLOT, slots });
                }
                before += window.count / SLOT;
            }
            None
        })
    }

    /// Whether pods get their IDs from this owner's ranges.
    fn is_pool(&self, owner: &str) -> bool {
        [kubelet::USER, CRIO_USER].iter().any(|user| self.accounts.is_same(owner, user))
    }
}

impl PodIds {
    fn of(&self, space: IdType) -> &IdSet {
        match space {
            IdType::Uid => &self.uids,
            IdType::Gid => &self.gids,
        }
    }
}

// === impl Pool ===

impl Pool {
    fn of(name: PoolName, windows: Vec<Window>, pods: &[PodIds]) -> Pool {
        let slots = windows.iter().map(|window| window.count / SLOT).sum();
        let pods = || pods.iter().flat_map(|pod| pod.uids.windows()).copied();
        let used = windows.iter().map(|range| used_slots(*range, SLOT, pods()).len()).sum();
        Pool { name, windows, slots, used }
    }

    /// The pool's first ID.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.windows.iter().map(|window| window.start).min()
    }
}

// === impl Space ===

impl Space {
    /// Finds all owners and overlaps.
    #[must_use]
    pub fn of(host: &HostIds, pods: &[PodIds]) -> Space {
        let mut pairs = BTreeSet::new();
        let mut shared = vec![[0; 4]; pods.len()];
        for space in IdType::ALL {
            let pools = host.pool_names().flat_map(|name| host.pool(name, space));
            // If the kubelet's pool is unknown, no pod counts as outside.
            let pools: IdSet = pools.filter(|_| !host.kubelet_reads_elsewhere(space)).collect();
            each_overlap(owned(host, pods, space), |one, other, _| {
                if one != other {
                    pairs.insert((one.min(other), one.max(other)));
                }
            });
            share(host, pods, space, &pools, &mut shared);
        }
        let mut overlaps = [0; 6];
        for kind in pairs.iter().filter_map(|pair| kind_of(host, pair)) {
            count(&mut overlaps, kind);
        }
        for [.., outside] in &shared {
            if *outside > 0 {
                count(&mut overlaps, OverlapKind::PodOutsidePool);
            }
        }
        Space {
            pools: host.pool_names().map(|name| Pool::of(name, host.pool(name, IdType::Uid), pods)).collect(),
            subid_ranges: IdType::ALL.map(|space| host.file(space).ranges().count() as u64),
            overlaps,
            shared,
        }
    }

    /// Number of pairs of that kind.
    #[must_use]
    pub fn overlaps_of(&self, kind: OverlapKind) -> u64 {
        OverlapKind::ALL.iter().zip(self.overlaps).find_map(|(k, n)| (*k == kind).then_some(n)).unwrap_or(0)
    }
}

fn count(overlaps: &mut [u64; 6], kind: OverlapKind) {
    for (known, number) in OverlapKind::ALL.iter().zip(overlaps) {
        *number += u64::from(*known == kind);
    }
}

/// All owners' IDs in one space, sorted by the first ID.
fn owned<'a>(host: &'a HostIds, pods: &[PodIds], space: IdType) -> Vec<(Window, Owner<'a>)> {
    let accounts = match space {
        IdType::Uid => host.accounts.users(),
        IdType::Gid => host.accounts.groups(),
    };
    let accounts = accounts.iter().map(|account| {
        (Window { start: account.id.into(), count: 1 }, Owner::Account(account.name.as_str()))
    });
    let lines = host.file(space).ranges().map(|(_, range)| {
        (Window { start: range.start, count: range.count }, Owner::Subid(range.owner.as_str()))
    });
    let pods = pods.iter().enumerate().flat_map(|(index, pod)| {
        pod.of(space).windows().iter().map(move |window| (*window, Owner::Pod(index)))
    });
    let mut all: Vec<_> = accounts.chain(lines).chain(pods).collect();
    all.sort_unstable();
    all
}

/// Calls `on_overlap` with each two holders of the same IDs, and with these IDs. The holders are sorted by their first ID.
pub(super) fn each_overlap<T: Copy>(
    sorted: impl IntoIterator<Item = (Window, T)>,
    mut on_overlap: impl FnMut(T, T, Window),
) {
    // Windows that begin before this one and may overlap it.
    let mut open: Vec<(Window, T)> = Vec::new();
    for (window, holder) in sorted {
        open.retain(|(other, _)| other.end() > window.start);
        for (before, other) in &open {
            if let Some(common) = window.common(*before) {
                on_overlap(*other, holder, common);
            }
        }
        open.push((window, holder));
    }
}

/// The slots of a range in which one of these windows has an ID, by their numbers. A remainder at the end of the
/// range is not a slot.
pub(super) fn used_slots(range: Window, slot_ids: u64, windows: impl IntoIterator<Item = Window>) -> IdSet {
    let slots = range.count.checked_div(slot_ids).unwrap_or(0);
    let whole = Window { count: slots * slot_ids, ..range };
    let touched = windows.into_iter().filter_map(|window| window.common(whole)).map(|window| {
        let first = (window.start - range.start) / slot_ids;
        let last = (window.end() - 1 - range.start) / slot_ids;
        Window { start: first, count: last - first + 1 }
    });
    touched.collect()
}

/// The kind of an overlap; `None` if it is allowed.
fn kind_of(host: &HostIds, pair: &(Owner<'_>, Owner<'_>)) -> Option<OverlapKind> {
    let (one, other) = *pair;
    let are_one = match (one, other) {
        (Owner::Subid(one), Owner::Subid(other)) => host.accounts.may_share(one, other),
        _ => one == other,
    };
    let claimant = |owner: Owner<'_>| match owner {
        Owner::Pod(_) => Claimant::Pod,
        Owner::Subid(owner) => Claimant::Subid { is_pool: host.is_pool(owner) },
        Owner::Account(_) => Claimant::Account,
    };
    overlap_kind(claimant(one), claimant(other), are_one)
}

/// Counts how many IDs of each pod other owners have too.
fn share(host: &HostIds, pods: &[PodIds], space: IdType, pools: &IdSet, shared: &mut [[u64; 4]]) {
    let accounts: IdSet = owned(host, &[], space)
        .into_iter()
        .filter_map(|(window, owner)| matches!(owner, Owner::Account(_)).then_some(window))
        .collect();
    let foreign: IdSet = owned(host, &[], space)
        .into_iter()
        .filter_map(|(window, owner)| match owner {
            Owner::Subid(owner) if !host.is_pool(owner) => Some(window),
            _ => None,
        })
        .collect();
    let twice = twice(pods.iter().flat_map(|pod| pod.of(space).windows()).copied());
    for (pod, shared) in pods.iter().zip(shared) {
        let ids = pod.of(space);
        let outside = if pools.is_empty() { 0 } else { ids.len() - ids.common(pools).len() };
        let now =
            [ids.common(&twice).len(), ids.common(&accounts).len(), ids.common(&foreign).len(), outside];
        for (known, now) in shared.iter_mut().zip(now) {
            *known = now.max(*known);
        }
    }
}

/// The IDs that are in more than one window.
fn twice(windows: impl Iterator<Item = Window>) -> IdSet {
    let mut edges: Vec<(u64, i64)> =
        windows.flat_map(|window| [(window.start, 1), (window.end(), -1)]).collect();
    edges.sort_unstable();
    let (mut found, mut depth, mut since) = (Vec::new(), 0_i64, 0_u64);
    for (id, step) in edges {
        if depth > 1 {
            found.push(Window { start: since, count: id - since });
        }
        depth += step;
        since = id;
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests;
