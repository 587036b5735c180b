//! Where subordinate IDs may lie: windows of host IDs that meet nobody else's.
//!
//! The choice is a function of what is wanted and what is taken, in whatever order they come: a
//! second run, a reboot, and another node with the same input choose the same.

use std::fmt;

use thiserror::Error;

use super::work::step;

/// The first ID that no window reaches: the last 65,536 IDs hold `(uid_t) -1`, which the kernel
/// refuses to map, and a pod in the kubelet's last slot never starts (kubernetes/kubernetes#139916).
pub const LIMIT: u64 = (1 << 32) - 65_536;
/// The first ID that a window may have: those below are the host's own, with systemd's dynamic users
/// (61184 to 65519) and nobody (65534) among them.
pub const FIRST: u64 = 65_536;

/// Host IDs from `start`, `count` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// The first.
    pub start: u64,
    /// How many.
    pub count: u64,
}

/// Host IDs that are someone's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    /// Which.
    pub window: Window,
    /// Whose.
    pub by: By,
    /// The owner of subordinate IDs for whom this is no obstacle: a pod of the kubelet's lies in the
    /// kubelet's pool.
    pub except: Option<String>,
}

/// Whose IDs they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// A user of the host.
    User(String),
    /// A group of the host.
    Group(String),
    /// A line of `/etc/subuid` or `/etc/subgid`.
    Line {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// Its number, from 1.
        line: usize,
        /// Its owner.
        owner: String,
    },
    /// A process in a user namespace.
    Process(u32),
    /// A pod for which the kubelet has a record.
    Pod(String),
    /// Reserved by a convention that not every node follows.
    Convention(Convention),
}

/// Ranges that others choose IDs from, best avoided and overlapped only for want of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Convention {
    /// systemd-nspawn and systemd-nsresourced (systemd's UIDS-GIDS.md, "Container UIDs").
    SystemdContainers,
    /// IDs that some programs take for negative numbers (UIDS-GIDS.md, on 2³¹).
    UpperHalf,
    /// The user IDs that OpenShift gives to the pods of a namespace, on the host where they have no
    /// user namespace (`openshift.io/sa.scc.uid-range`).
    OpenShift,
    /// Owners of files in images (UIDS-GIDS.md, "Foreign UIDs").
    SystemdForeign,
}

/// Where an owner wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Start {
    /// Exactly there; the administrator says so.
    Fixed(u64),
    /// There, or in the next place upwards.
    Rather(u64),
    /// Anywhere.
    Free,
}

/// Subordinate IDs wanted for an owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Where.
    pub start: Start,
    /// For whom.
    pub owner: String,
    /// How many.
    pub count: u64,
    /// What a chosen start is a multiple of; at least 1.
    pub align: u64,
}

/// A window found for an owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// For whom.
    pub owner: String,
    /// Where.
    pub window: Window,
    /// Why it is not where it rather would be.
    pub moved: Option<Taken>,
    /// The conventions it overlaps.
    pub overlaps: Vec<Convention>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoPlace {
    /// An administrator's window meets another.
    #[error("{owner}: {wanted} meets {taken}; {}", offer(*.free))]
    Taken {
        /// For whom.
        owner: String,
        /// What was wanted.
        wanted: Window,
        /// What it meets.
        taken: Box<Taken>,
        /// A window of that size that is free.
        free: Option<Window>,
    },
    /// An administrator's window reaches where none may.
    #[error(
        "{owner}: {wanted} is not within {FIRST} to {}, which leaves out the host's own IDs and (uid_t) -1; {}",
        LIMIT - 1, offer(*.free)
    )]
    OutOfBounds {
        /// For whom.
        owner: String,
        /// What was wanted.
        wanted: Window,
        /// A window of that size that is free.
        free: Option<Window>,
    },
    /// There is no room for that many.
    #[error("{owner}: no {count} IDs in a row are free; ask for fewer, or free some")]
    Full {
        /// For whom.
        owner: String,
        /// How many.
        count: u64,
    },
}

fn offer(free: Option<Window>) -> String {
    free.map_or_else(|| "no window of that size is free".to_owned(), |free| format!("{free} is free"))
}

/// Windows in which others are looked up, with whose each is.
#[derive(Debug)]
pub struct Holders<T> {
    /// By their starts, each with its place in the order in which they were given.
    sorted: Vec<(Window, usize, T)>,
    /// How far those up to each reach.
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
        self.start.max(other.start) < self.end().min(other.end())
    }

    /// Whether all of `other` lies in this one.
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

// === impl Taken, By, Convention ===

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.by, self.window)
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::User(name) => write!(f, "the user {name}"),
            By::Group(name) => write!(f, "the group {name}"),
            By::Line { file, line, owner } => write!(f, "line {line} of {file} ({owner})"),
            By::Process(pid) => write!(f, "the user namespace of process {pid}"),
            By::Pod(uid) => write!(f, "the pod {uid}"),
            By::Convention(convention) => convention.fmt(f),
        }
    }
}

impl Convention {
    /// Those to avoid longest come last.
    pub const ALL: [Convention; 4] = [
        Convention::SystemdContainers,
        Convention::UpperHalf,
        Convention::OpenShift,
        Convention::SystemdForeign,
    ];

    /// Which IDs.
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
    /// Of these windows; where several hold another one, the first of them counts.
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

    /// Whose window holds `window`.
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

/// Finds a window for each, or says for which there is none. Nobody's IDs are shared: not those
/// taken, not one owner's with another's. Conventions are avoided as far as there is room.
///
/// The answer is in the order of the owners' names.
///
/// # Errors
/// [`NoPlace`], for the first in that order.
pub fn place(wanted: &[Wanted], taken: &[Taken]) -> Result<Vec<Placed>, NoPlace> {
    let mut taken = taken.to_vec();
    taken.sort();
    // Those who cannot move come first, then those who rather would not.
    let mut order: Vec<&Wanted> = wanted.iter().collect();
    order.sort();
    let mut placed: Vec<Placed> = Vec::new();
    for (index, one) in order.iter().enumerate() {
        let found = place_one(one, &taken).map_err(|error| {
            // What is offered must stay free when the others have their places.
            let others: Vec<Wanted> = order.iter().skip(index + 1).map(|other| (*other).clone()).collect();
            offering(error, one, &others, &taken)
        })?;
        taken.push(Taken {
            window: found.window,
            by: By::Line { file: "the plan", line: index + 1, owner: found.owner.clone() },
            except: None,
        });
        placed.push(found);
    }
    placed.sort();
    Ok(placed)
}

fn place_one(wanted: &Wanted, taken: &[Taken]) -> Result<Placed, NoPlace> {
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
    let blocker = |window: Window| blockers.iter().find(|taken| taken.window.meets(window));
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
        Start::Rather(start) => match blocker(at(start)) {
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

/// The first window from `from` on; each convention is dropped in turn where there is no room.
fn first_fit(wanted: &Wanted, from: u64, blockers: &[&Taken]) -> Option<Window> {
    (0..=Convention::ALL.len()).find_map(|dropped| {
        let conventions = Convention::ALL.iter().skip(dropped).map(|convention| convention.window());
        let mut windows: Vec<Window> = blockers.iter().map(|taken| taken.window).chain(conventions).collect();
        windows.sort();
        let align = |id: u64| id.checked_next_multiple_of(wanted.align.max(1)).unwrap_or(u64::MAX);
        let mut start = align(from.max(FIRST));
        for window in windows {
            if window.meets(Window { start, count: wanted.count }) {
                start = align(window.end());
            }
        }
        let found = Window { start, count: wanted.count };
        found.is_in_bounds().then_some(found)
    })
}

/// Adds to a refusal a window that is free once all others have theirs.
fn offering(error: NoPlace, wanted: &Wanted, others: &[Wanted], taken: &[Taken]) -> NoPlace {
    let mut taken = taken.to_vec();
    for other in others {
        let window = match other.start {
            Start::Fixed(start) | Start::Rather(start) => Window { start, count: other.count },
            Start::Free => continue,
        };
        taken.push(Taken { window, by: By::User(other.owner.clone()), except: None });
    }
    let free = Wanted { start: Start::Free, ..wanted.clone() };
    let window = place_one(&free, &taken).ok().map(|placed| placed.window);
    match error {
        NoPlace::Taken { owner, wanted, taken, .. } => NoPlace::Taken { owner, wanted, taken, free: window },
        NoPlace::OutOfBounds { owner, wanted, .. } => NoPlace::OutOfBounds { owner, wanted, free: window },
        full @ NoPlace::Full { .. } => full,
    }
}

#[cfg(test)]
mod tests;
