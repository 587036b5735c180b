//! Where subordinate IDs are placed: windows of host IDs that overlap no other owner's.
//!
//! The result is a function of the wanted and the taken windows, independent of their order: a second run, a reboot,
//! and another node with the same input give the same result.

use std::fmt;

use thiserror::Error;

use super::work::step;

/// The end of usable IDs: the last 65,536 IDs contain `(uid_t) -1`, which the kernel refuses to map, and a pod in the
/// kubelet's last slot never starts (kubernetes/kubernetes#139916).
pub const LIMIT: u64 = (1 << 32) - 65_536;
/// The first usable ID: those below are the host's own, including systemd's dynamic users (61184 to 65519) and nobody
/// (65534).
pub const FIRST: u64 = 65_536;

/// How many owners may be given windows at once. Planning looks at every window that is taken for each of them, so this
/// bounds its work.
pub const MOST_OWNERS: usize = 1_000;

/// A range of host IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// The first ID.
    pub start: u64,
    /// Number of IDs.
    pub count: u64,
}

/// A range of host IDs that is in use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    pub window: Window,
    /// The user of these IDs.
    pub by: RangeUser,
    /// The owner of subordinate IDs for which this is no obstacle: a pod of the kubelet is in the kubelet's
    /// pool.
    pub except: Option<String>,
}

/// The user of a range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RangeUser {
    /// A user of the host.
    User(String),
    /// A group of the host.
    Group(String),
    /// A line of `/etc/subuid` or `/etc/subgid`.
    Line {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// Line number, from 1.
        line: usize,
        /// The line's owner.
        owner: String,
    },
    /// A process in a user namespace.
    Process(u32),
    /// A pod for which the kubelet has a record.
    Pod(String),
    /// Reserved by a convention that not every node follows.
    Convention(Convention),
}

/// Ranges from which other software chooses IDs. They are avoided, and overlapped only for lack of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Convention {
    /// systemd-nspawn and systemd-nsresourced (systemd's UIDS-GIDS.md, "Container UIDs").
    SystemdContainers,
    /// IDs that some programs treat as negative numbers (UIDS-GIDS.md, on 2³¹).
    UpperHalf,
    /// The user IDs that OpenShift assigns to the pods of a namespace; on the host, they apply to pods without a user
    /// namespace (`openshift.io/sa.scc.uid-range`).
    OpenShift,
    /// Owners of files in images (UIDS-GIDS.md, "Foreign UIDs").
    SystemdForeign,
}

/// Where an owner's window starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Start {
    /// Exactly there, as the administrator configured.
    Fixed(u64),
    /// Where the owner's range is already; it moves only if that place is not free.
    Unchanged(u64),
    /// Preferably there, otherwise at the next free place above.
    Rather(u64),
    /// At any free place.
    Free,
}

/// A window that is wanted for an owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedWindow {
    /// Where it starts.
    pub start: Start,
    pub owner: String,
    /// Number of IDs.
    pub count: u64,
    /// Alignment of a chosen start; at least 1.
    pub align: u64,
}

/// A window that was found for an owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    pub owner: String,
    pub window: Window,
    /// The obstacle at its preferred place.
    pub moved: Option<Taken>,
    /// The conventions that it overlaps.
    pub overlaps: Vec<Convention>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoPlace {
    /// A configured window overlaps another.
    #[error("{owner}: {wanted} overlaps with {taken}; {}", offer(*.free))]
    Taken {
        owner: String,
        /// The configured window.
        wanted: Window,
        /// The range that it overlaps.
        taken: Box<Taken>,
        /// A free window of that size.
        free: Option<Window>,
    },
    /// A configured window contains unusable IDs.
    #[error(
        "{owner}: {wanted} is not within {FIRST} to {}, which leaves out the host's own IDs and (uid_t) -1; {}",
        LIMIT - 1, offer(*.free)
    )]
    OutOfBounds {
        owner: String,
        /// The configured window.
        wanted: Window,
        /// A free window of that size.
        free: Option<Window>,
    },
    /// There is not enough room.
    #[error("{owner}: no {count} IDs in a row are free; ask for fewer under {}, or free some", setting(.owner))]
    Full {
        owner: String,
        /// Number of IDs.
        count: u64,
    },
}

/// The setting that determines the size of an owner's range.
fn setting(owner: &str) -> &'static str {
    if owner == super::kubelet::USER { "bootstrap.kubelet" } else { "bootstrap.ranges" }
}

fn offer(free: Option<Window>) -> String {
    free.map_or_else(|| "no window of that size is free".to_owned(), |free| format!("{free} is free"))
}

/// Windows with their holders, for looking up which one contains another window.
#[derive(Debug)]
pub struct Holders<T> {
    /// Sorted by start, each with its position in the input.
    sorted: Vec<(Window, usize, T)>,
    /// The furthest end of the windows up to each index.
    reach: Vec<u64>,
}

// === impl Window ===

impl Window {
    /// The ID after the last.
    #[must_use]
    pub fn end(self) -> u64 {
        self.start.saturating_add(self.count)
    }

    /// Whether they have an ID in common.
    #[must_use]
    pub fn meets(self, other: Window) -> bool {
        self.common(other).is_some()
    }

    /// The IDs that are in both; `None` if there are none.
    #[must_use]
    pub fn common(self, other: Window) -> Option<Window> {
        let (start, end) = (self.start.max(other.start), self.end().min(other.end()));
        (start < end).then(|| Window { start, count: end - start })
    }

    /// Whether `other` is completely inside.
    #[must_use]
    pub fn holds(self, other: Window) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    fn is_in_bounds(self) -> bool {
        self.count > 0 && self.start >= FIRST && self.end() <= LIMIT
    }
}

/// `200000:65536 (200000 to 265535)`.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.end().saturating_sub(1);
        write!(f, "{}:{} ({} to {last})", self.start, self.count, self.start)
    }
}

// === impl Taken, RangeUser, Convention ===

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.by, self.window)
    }
}

impl fmt::Display for RangeUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RangeUser::User(name) => write!(f, "the user {name}"),
            RangeUser::Group(name) => write!(f, "the group {name}"),
            RangeUser::Line { file, line, owner } => write!(f, "line {line} of {file} ({owner})"),
            RangeUser::Process(pid) => write!(f, "the user namespace of process {pid}"),
            RangeUser::Pod(uid) => write!(f, "the pod {uid}"),
            RangeUser::Convention(convention) => convention.fmt(f),
        }
    }
}

impl Convention {
    /// Every convention; the last one is avoided the longest.
    pub const ALL: [Convention; 4] = [
        Convention::SystemdContainers,
        Convention::UpperHalf,
        Convention::OpenShift,
        Convention::SystemdForeign,
    ];

    #[must_use]
    pub fn window(self) -> Window {
        let (start, end) = match self {
            Convention::SystemdContainers => (524_288, 1_879_048_192),
            Convention::UpperHalf => (1 << 31, 1 << 32),
            Convention::OpenShift => (1_000_000_000, 2_000_000_000),
            Convention::SystemdForeign => (2_147_352_576, 2_147_418_112),
        };
        Window { start, count: end - start }
    }
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Convention::SystemdContainers => "the range of systemd-nspawn and systemd-nsresourced",
            Convention::UpperHalf => "the IDs from 2^31, which some programs take for negative",
            Convention::OpenShift => "the range from which OpenShift gives user IDs to namespaces",
            Convention::SystemdForeign => "systemd's range for owners of files in images",
        })
    }
}

// === impl Holders ===

impl<T> Holders<T> {
    /// The index of the window that contains each; if several do, the first in the input counts.
    pub fn new(windows: impl IntoIterator<Item = (Window, T)>) -> Holders<T> {
        let mut sorted: Vec<(Window, usize, T)> =
            windows.into_iter().enumerate().map(|(index, (window, whose))| (window, index, whose)).collect();
        sorted.sort_by_key(|(window, index, _)| (window.start, *index));
        let mut farthest = 0;
        let reach = sorted.iter().map(|(window, ..)| {
            farthest = window.end().max(farthest);
            farthest
        });
        let reach = reach.collect();
        Holders { sorted, reach }
    }

    /// The holder of a window that contains `window`.
    pub fn of(&self, window: Window) -> Option<&T> {
        let begun = self.sorted.partition_point(|(other, ..)| other.start <= window.start);
        let candidates = self.sorted.iter().zip(&self.reach).take(begun).rev();
        candidates
            .take_while(|(_, reach)| **reach >= window.end())
            .inspect(|_| step())
            .filter(|((other, ..), _)| other.holds(window))
            .min_by_key(|((_, index, _), _)| *index)
            .map(|((.., whose), _)| whose)
    }
}

// === planning ===

/// Finds a window for each owner. No IDs overlap those that are taken, or another owner's. Conventions are avoided as
/// far as there is room.
///
/// The result is sorted by owner.
///
/// # Errors
/// [`NoPlace`] for the first owner without a window.
pub fn place(wanted: &[WantedWindow], taken: &[Taken]) -> Result<Vec<Placed>, NoPlace> {
    let mut taken = taken.to_vec();
    taken.sort();
    // Fixed windows come first, then those that are there, then preferred places, then the others.
    let mut order: Vec<&WantedWindow> = wanted.iter().collect();
    order.sort();
    let mut placed: Vec<Placed> = Vec::new();
    for (index, one) in order.iter().enumerate() {
        let found = place_one(one, &taken).map_err(|error| {
            // The offered window must still be free once the others have theirs.
            let others: Vec<WantedWindow> =
                order.iter().skip(index + 1).map(|other| (*other).clone()).collect();
            offering(error, one, &others, &taken)
        })?;
        let by = RangeUser::Line { file: "the plan", line: index + 1, owner: found.owner.clone() };
        let own = Taken { window: found.window, by, except: None };
        taken.insert(taken.partition_point(|known| *known < own), own);
        placed.push(found);
    }
    placed.sort();
    Ok(placed)
}

/// `taken` is sorted.
fn place_one(wanted: &WantedWindow, taken: &[Taken]) -> Result<Placed, NoPlace> {
    let blockers: Vec<&Taken> =
        taken.iter().filter(|taken| taken.except.as_ref() != Some(&wanted.owner)).collect();
    let placed = |window: Window, moved: Option<Taken>| Placed {
        owner: wanted.owner.clone(),
        window,
        moved,
        overlaps: Convention::ALL.into_iter().filter(|known| known.window().meets(window)).collect(),
    };
    let owner = || wanted.owner.clone();
    let at = |start| Window { start, count: wanted.count };
    let blocker = |window: Window| {
        let mut near =
            blockers.iter().inspect(|_| step()).take_while(|taken| taken.window.start < window.end());
        near.find(|taken| taken.window.meets(window))
    };
    let anywhere = |from| first_fit(wanted, from, &blockers);
    match wanted.start {
        Start::Fixed(start) if !at(start).is_in_bounds() => {
            Err(NoPlace::OutOfBounds { owner: owner(), wanted: at(start), free: None })
        }
        Start::Fixed(start) => match blocker(at(start)) {
            Some(taken) => Err(NoPlace::Taken {
                owner: owner(),
                wanted: at(start),
                taken: Box::new((*taken).clone()),
                free: None,
            }),
            None => Ok(placed(at(start), None)),
        },
        Start::Unchanged(start) | Start::Rather(start) => match blocker(at(start)) {
            None if at(start).is_in_bounds() => Ok(placed(at(start), None)),
            met => anywhere(start)
                .or_else(|| anywhere(FIRST))
                .map(|window| placed(window, met.map(|met| (*met).clone())))
                .ok_or_else(|| NoPlace::Full { owner: owner(), count: wanted.count }),
        },
        Start::Free => anywhere(FIRST)
            .map(|window| placed(window, None))
            .ok_or_else(|| NoPlace::Full { owner: owner(), count: wanted.count }),
    }
}

/// The first window at or after `from`; conventions are dropped one after another if there is no room. `blockers` are
/// sorted, and each is looked at once for every convention that is dropped.
fn first_fit(wanted: &WantedWindow, from: u64, blockers: &[&Taken]) -> Option<Window> {
    let align = |id: u64| id.checked_next_multiple_of(wanted.align.max(1)).unwrap_or(u64::MAX);
    (0..=Convention::ALL.len()).find_map(|dropped| {
        let mut conventions: Vec<Window> =
            Convention::ALL.iter().skip(dropped).map(|convention| convention.window()).collect();
        conventions.sort();
        let mut conventions = conventions.into_iter().peekable();
        let mut taken = blockers.iter().map(|taken| taken.window).peekable();
        let mut at = Window { start: align(from.max(FIRST)), count: wanted.count };
        // By their starts, so that a window that ends before the next one starts meets none.
        while let Some(window) = match (conventions.peek(), taken.peek()) {
            (Some(convention), Some(window)) if convention < window => conventions.next(),
            (_, Some(_)) => taken.next(),
            (_, None) => conventions.next(),
        } {
            step();
            if window.start >= at.end() {
                break;
            }
            if window.meets(at) {
                at.start = align(window.end());
            }
        }
        at.is_in_bounds().then_some(at)
    })
}

/// Adds to an error a window that is free once all others have theirs.
fn offering(error: NoPlace, wanted: &WantedWindow, others: &[WantedWindow], taken: &[Taken]) -> NoPlace {
    let mut taken = taken.to_vec();
    for other in others {
        let window = match other.start {
            Start::Fixed(start) | Start::Unchanged(start) | Start::Rather(start) => {
                Window { start, count: other.count }
            }
            Start::Free => continue,
        };
        taken.push(Taken { window, by: RangeUser::User(other.owner.clone()), except: None });
    }
    taken.sort();
    let free = WantedWindow { start: Start::Free, ..wanted.clone() };
    let window = place_one(&free, &taken).ok().map(|placed| placed.window);
    match error {
        NoPlace::Taken { owner, wanted, taken, .. } => NoPlace::Taken { owner, wanted, taken, free: window },
        NoPlace::OutOfBounds { owner, wanted, .. } => NoPlace::OutOfBounds { owner, wanted, free: window },
        full @ NoPlace::Full { .. } => full,
    }
}

#[cfg(test)]
mod tests;
