//! The host's ID space as a drawing: segments that are not to scale (a range of 65,536 IDs is a 65,536th of all), and
//! each pool as a grid of slots. The web page and the terminal draw the same map.

pub mod words;

use super::accounts::are_lxds;
use super::ranges::Window;
use super::space::{self, Claimant, IdSet, IdType};

/// The segments below every pool (systemd's UIDS-GIDS.md): system users, regular users, and systemd's dynamic users
/// with nobody.
const HOSTS_OWN: [(u64, u64, SegmentKind); 3] = [
    (0, 1_000, SegmentKind::System),
    (1_000, 60_001, SegmentKind::Users),
    (60_001, 65_536, SegmentKind::Reserved),
];
/// The first ID above the host's own.
const FIRST: u64 = 65_536;
/// The last ID plus one.
const END: u64 = 1 << 32;
/// A pool with more slots than this is drawn in two parts if only its beginning is used.
const LARGE: u64 = 256;
/// The least number of slots in the used part.
const LEAST: u64 = 64;
/// More free rows than this are merged into one.
const FREE_ROWS: u64 = 4;

/// An owner of IDs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A user or a group of the host.
    Account(String),
    /// A line of `/etc/subuid` or `/etc/subgid`.
    Subid {
        /// The line's owner.
        owner: String,
        /// Whether pods get their IDs from it.
        is_pool: bool,
        /// The owner's user ID, if it is known: one user can have several names.
        user: Option<u32>,
    },
    Pod(String),
}

/// A range of IDs with its holder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    pub window: Window,
    pub holder: Holder,
}

/// A pool from which pods get IDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSource {
    /// The pool's name.
    pub name: String,
    /// The pool's IDs.
    pub windows: Vec<Window>,
    /// Number of IDs in a slot.
    pub slot_ids: u64,
}

/// The kind of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentKind {
    /// System users, 0 to 999.
    System,
    /// Regular users, 1000 to 60000.
    Users,
    /// systemd's dynamic users, and nobody.
    Reserved,
    /// Between the pools.
    Between,
    /// The pools with these names.
    Pool(Vec<String>),
}

/// A part of the ID space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The segment's IDs.
    pub window: Window,
    /// The segment's kind.
    pub kind: SegmentKind,
    /// The claims in it, cut at its ends.
    pub claims: Vec<Claim>,
    /// IDs in it that two holders have and may not share.
    pub shared: Vec<Window>,
    /// The width relative to the other segments.
    pub weight: u32,
}

/// IDs that two or more holders have and may not share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    pub window: Window,
    pub holders: Vec<Holder>,
}

/// A slot of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The slot's IDs.
    pub window: Window,
    /// The pods with an ID in it.
    pub pods: Vec<String>,
    /// Whether one of its IDs is shared although it may not be.
    pub is_shared: bool,
}

/// A row of a pool's slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    Slots(Vec<Slot>),
    /// Many slots, all free.
    Free {
        /// The IDs of the slots.
        window: Window,
        /// Number of slots.
        count: u64,
    },
}

/// A pool as a grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// The pool's name.
    pub name: String,
    /// Number of IDs in a slot.
    pub slot_ids: u64,
    /// Number of slots.
    pub slots: u64,
    /// Number of slots in which a pod has an ID.
    pub used: u64,
    /// The slots, in rows.
    pub rows: Vec<Row>,
}

/// The map of user IDs or of group IDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// User IDs or group IDs.
    pub space: IdType,
    /// All IDs, in order and without gaps.
    pub segments: Vec<Segment>,
    /// IDs that two holders have and may not share.
    pub overlaps: Vec<Overlap>,
}

// === impl Holder ===

impl Holder {
    /// Whether both may have the same ID.
    fn may_share(&self, other: &Holder) -> bool {
        let are_one = match (self, other) {
            (Holder::Subid { owner: one, .. }, Holder::Subid { owner: other, .. })
                if are_lxds(one, other) =>
            {
                true
            }
            (Holder::Subid { user: Some(one), .. }, Holder::Subid { user: Some(other), .. }) => one == other,
            (Holder::Subid { owner: one, .. }, Holder::Subid { owner: other, .. }) => one == other,
            // The same pod, cut into pieces.
            _ => self == other,
        };
        space::overlap_kind(self.claimant(), other.claimant(), are_one).is_none()
    }

    fn claimant(&self) -> Claimant {
        match self {
            Holder::Account(_) => Claimant::Account,
            Holder::Subid { is_pool, .. } => Claimant::Subid { is_pool: *is_pool },
            Holder::Pod(_) => Claimant::Pod,
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Holder::Account(name) | Holder::Pod(name) | Holder::Subid { owner: name, .. } => name,
        }
    }
}

// === impl Map ===

impl Map {
    /// Draws the map. Empty windows are skipped.
    #[must_use]
    pub fn of(space: IdType, claims: &[Claim], pools: &[PoolSource]) -> Map {
        let mut claims: Vec<Claim> = claims.iter().filter(|claim| claim.window.count > 0).cloned().collect();
        claims.sort();
        let shared = shared(&claims);
        let overlaps = shared.windows().iter().map(|window| overlap(*window, &claims)).collect();
        let last_pod = |pool: Window| {
            let pods = claims.iter().filter(|claim| matches!(claim.holder, Holder::Pod(_)));
            pods.filter_map(|claim| claim.window.common(pool)).map(Window::end).max()
        };
        let mut edges: Vec<u64> = vec![FIRST, END];
        for pool in pools {
            for window in &pool.windows {
                edges.extend([
                    window.start,
                    window.end(),
                    used_end(*window, pool.slot_ids, last_pod(*window)),
                ]);
            }
        }
        edges.retain(|edge| (FIRST..=END).contains(edge));
        edges.sort_unstable();
        edges.dedup();
        let upper = edges.iter().zip(edges.iter().skip(1)).map(|(start, end)| {
            let window = Window { start: *start, count: end - start };
            let owners = pools.iter().filter(|pool| pool.windows.iter().any(|own| own.meets(window)));
            let owners: Vec<String> = owners.map(|pool| pool.name.clone()).collect();
            (*start, *end, if owners.is_empty() { SegmentKind::Between } else { SegmentKind::Pool(owners) })
        });
        let segments = HOSTS_OWN.into_iter().chain(upper).map(|(start, end, kind)| {
            Segment::of(Window { start, count: end - start }, kind, &claims, &shared)
        });
        Map { space, segments: segments.collect(), overlaps }
    }

    /// A pool as rows of `columns` slots; consecutive free rows are merged.
    #[must_use]
    pub fn grid(&self, pool: &PoolSource, columns: usize) -> Grid {
        let pods: Vec<&Claim> = self
            .segments
            .iter()
            .flat_map(|segment| &segment.claims)
            .filter(|claim| matches!(claim.holder, Holder::Pod(_)))
            .collect();
        let mut grid =
            Grid { name: pool.name.clone(), slot_ids: pool.slot_ids, slots: 0, used: 0, rows: Vec::new() };
        let row_ids = pool.slot_ids.saturating_mul(columns.max(1) as u64);
        for window in &pool.windows {
            let slots = window.count.checked_div(pool.slot_ids).unwrap_or(0);
            grid.slots += slots;
            let claimed = pods.iter().map(|claim| claim.window);
            grid.used += space::used_slots(*window, pool.slot_ids, claimed).len();
            let end = window.start + slots * pool.slot_ids;
            let mut start = window.start;
            while start < end {
                let row = Window { start, count: row_ids.min(end - start) };
                let here: Vec<&&Claim> = pods.iter().filter(|claim| claim.window.meets(row)).collect();
                if here.is_empty() {
                    // Up to the next pod, in whole rows.
                    let next = pods.iter().map(|claim| claim.window.start).filter(|first| *first >= start);
                    let rows = next.min().map_or(u64::MAX, |next| (next - start) / row_ids).max(1);
                    let count = rows.saturating_mul(row_ids).min(end - start);
                    grid.free(Window { start, count }, row_ids);
                    start += count;
                } else {
                    let slots = self.slots(row, pool.slot_ids, &here);
                    grid.rows.push(Row::Slots(slots));
                    start += row.count;
                }
            }
        }
        grid
    }

    fn slots(&self, row: Window, slot_ids: u64, pods: &[&&Claim]) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut start = row.start;
        while start < row.end() {
            let window = Window { start, count: slot_ids };
            let here = pods.iter().filter(|claim| claim.window.meets(window));
            let mut names: Vec<String> = here.map(|claim| claim.holder.name().to_owned()).collect();
            names.sort();
            names.dedup();
            slots.push(Slot {
                window,
                is_shared: !names.is_empty()
                    && self.overlaps.iter().any(|shared| shared.window.meets(window)),
                pods: names,
            });
            start += slot_ids;
        }
        slots
    }
}

// === impl Segment, Grid ===

impl Segment {
    fn of(window: Window, kind: SegmentKind, claims: &[Claim], shared: &IdSet) -> Segment {
        let claims: Vec<Claim> = claims
            .iter()
            .filter_map(|claim| {
                Some(Claim { window: claim.window.common(window)?, holder: claim.holder.clone() })
            })
            .collect();
        let has_pods = claims.iter().any(|claim| matches!(claim.holder, Holder::Pod(_)));
        let weight = match &kind {
            SegmentKind::Pool(_) if has_pods => 16,
            SegmentKind::Pool(_) => 4,
            SegmentKind::Between if claims.is_empty() => 2,
            SegmentKind::Between => 4,
            _ => 3,
        };
        let shared = shared.windows().iter().filter_map(|shared| shared.common(window)).collect();
        Segment { window, kind, claims, shared, weight }
    }
}

impl Grid {
    fn free(&mut self, window: Window, row_ids: u64) {
        let count = window.count / self.slot_ids;
        // A few free rows are drawn individually.
        if window.count > row_ids.saturating_mul(FREE_ROWS) {
            self.rows.push(Row::Free { window, count });
            return;
        }
        let columns = row_ids.checked_div(self.slot_ids).unwrap_or(1).max(1);
        let slot = |index| Slot {
            window: Window { start: window.start + index * self.slot_ids, count: self.slot_ids },
            pods: Vec::new(),
            is_shared: false,
        };
        let mut first = 0;
        while first < count {
            let end = count.min(first + columns);
            self.rows.push(Row::Slots((first..end).map(slot).collect()));
            first = end;
        }
    }
}

/// The end of the used part of a large pool, rounded up; otherwise the pool's own end.
fn used_end(pool: Window, slot_ids: u64, last: Option<u64>) -> u64 {
    let slots = pool.count.checked_div(slot_ids).unwrap_or(0);
    let used = last.map_or(0, |last| (last - pool.start).div_ceil(slot_ids.max(1)));
    let shown = used.next_power_of_two().max(LEAST);
    if slots > LARGE && shown <= slots / 2 { pool.start + shown * slot_ids } else { pool.end() }
}

/// The IDs that two holders have and may not share.
fn shared(sorted: &[Claim]) -> IdSet {
    let mut found = Vec::new();
    let holders = sorted.iter().map(|claim| (claim.window, &claim.holder));
    space::each_overlap(holders, |one, other, common| {
        if !one.may_share(other) {
            found.push(common);
        }
    });
    found.into_iter().collect()
}

fn overlap(window: Window, claims: &[Claim]) -> Overlap {
    let here: Vec<&Holder> =
        claims.iter().filter(|claim| claim.window.meets(window)).map(|claim| &claim.holder).collect();
    let guilty = here.iter().filter(|holder| here.iter().any(|other| !holder.may_share(other)));
    let mut holders: Vec<Holder> = guilty.map(|holder| (*holder).clone()).collect();
    holders.sort();
    holders.dedup();
    Overlap { window, holders }
}

#[cfg(test)]
mod tests;
