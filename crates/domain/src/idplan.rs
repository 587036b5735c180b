//! Plans the node's subordinate IDs: the line of each owner in `/etc/subuid` and `/etc/subgid`, whether a user
//! `kubelet` is created, and findings about the result.
//!
//! An existing line that works is kept. A default range moves if its IDs are taken; a range that an administrator
//! configured is applied or refused.

mod findings;
mod kubelets;
#[cfg(test)]
mod tests;
mod user;

use std::collections::BTreeSet;

use thiserror::Error;

pub use self::kubelets::check_pool;
use self::kubelets::starts_as_before;
use super::accounts::{AccountFile, Accounts};
use super::finding::Finding;
use super::kubelet::{self, Demand, KubeletEnvironment, NextPool, Stranded};
use super::paths::{self, SUBGID, SUBUID};
use super::provision::{Attributes, FileChange, Form, HostPath, Undo};
use super::ranges::{
    FIRST, Holders, MOST_OWNERS, NoPlace, Placed, RangeUser, Start, Taken, WantedWindow, Window,
};
use super::subid::{LineContent, SubidFile, SubordinateRange};

/// The account files, in the order in which they are written: the user exists once the last one has its line.
pub const ACCOUNT_FILES: [(AccountFile, HostPath); 4] = [
    (AccountFile::Group, paths::GROUP),
    (AccountFile::Gshadow, paths::GSHADOW),
    (AccountFile::Shadow, paths::SHADOW),
    (AccountFile::Passwd, paths::PASSWD),
];
/// The owner whose range CRI-O's annotation mode uses, with the default start and count.
pub const CONTAINERS: (&str, u64, u64) = ("containers", 200_000, 268_435_456);
/// The default user of image-based systems, with the range that its `useradd` would have assigned.
pub const CORE: (&str, u64, u64) = ("core", 100_000, 65_536);

/// The state of the node on which the plan is based.
#[derive(Debug, Clone, Default)]
pub struct NodeIds {
    /// `/etc/subuid`.
    pub subuid: Option<Vec<u8>>,
    /// `/etc/subgid`.
    pub subgid: Option<Vec<u8>>,
    /// The files of [`ACCOUNT_FILES`], in that order.
    pub account_files: [Option<Vec<u8>>; 4],
    /// All users and groups, including those of the image.
    pub accounts: Accounts,
    /// Host IDs of processes in user namespaces, with the PID of one process for each.
    pub running: Vec<(u32, Window)>,
    /// Host IDs of pods according to the runtime, with each pod's name, including pods without a running process.
    pub sandboxes: Vec<(String, Window)>,
    /// Why the sandboxes are not known, although a runtime is running.
    pub unlisted: Option<String>,
    /// The facts on the node that affect the kubelet.
    pub kubelet: KubeletEnvironment,
    /// Whether CRI-O is, or will be, configured so that pods may ask for a user namespace by annotation, whose IDs come
    /// from the range of `containers`. No one else reads that range.
    pub reads_containers: bool,
}

/// The administrator's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredIds {
    /// The configured ranges; `None` for the default ones.
    pub ranges: Option<Vec<DesiredRange>>,
    /// The configuration for the kubelet.
    pub kubelet: KubeletOptions,
}

/// A configured range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredRange {
    pub owner: String,
    /// The first ID; `None`: anywhere.
    pub start: Option<u64>,
    /// Number of IDs.
    pub count: u64,
}

/// See [`DesiredIds::kubelet`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KubeletOptions {
    /// Whether it gets a line and a user.
    pub user: KubeletUser,
    /// The first ID; `None`: anywhere.
    pub start: Option<u64>,
    /// Number of pods; `None`: from the kubelet's configuration.
    pub max_pods: Option<u64>,
    /// Number of IDs per pod; `None`: from the kubelet's configuration.
    pub ids_per_pod: Option<u64>,
    /// The kubelet's root directory; `None`: the usual ones.
    pub root_dir: Option<HostPath>,
}

/// Whether the kubelet gets a line of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KubeletUser {
    /// If the user exists.
    #[default]
    IfPresent,
    /// Yes; create the user if necessary.
    Create,
    Never,
}

words! {
    /// The name in the configuration.
    KubeletUser { IfPresent = "if-present", Create = "create", Never = "never" }
}

/// The changes to make, and findings about the result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdPlan {
    /// The changes, in the order in which they must be made.
    pub changes: Vec<FileChange>,
    /// Findings about the node as it will be after the changes.
    pub findings: Vec<Finding>,
}

/// Why nothing may be changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// There is no room for a range.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// The kubelet would not start with the range that is configured for it.
    #[error("{0}; change bootstrap.kubelet")]
    Flawed(String),
    /// The kubelet would not start because pods have IDs outside its new pool.
    #[error(
        "the kubelet's IDs would change under {} and it would not start again; drain the node first. {}",
        pods(.0.len()),
        .0.iter().take(50).map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Stranded(Vec<Stranded>),
    /// Two owners are names of the same user.
    #[error("{0} and {1} are the same user, who can have one range here; leave one of them out")]
    Twice(String, String),
    /// The number of pods is unknown, and a range for too few pods keeps the kubelet from starting.
    #[error(
        "the number of pods that the kubelet may run is unknown: {}; set bootstrap.kubelet.maxPods, and idsPerPod if it is not 65536",
        .0.as_deref().unwrap_or("its configuration was not found")
    )]
    Demand(Option<String>),
    /// The kubelet would no longer start.
    #[error("the kubelet would not start again: {0}")]
    Stuck(String),
    /// With a user but without getsubids, or with a directory service, the kubelet would not start.
    #[error("the user kubelet is not made: {0}")]
    NoUser(&'static str),
    /// A runtime answers, but the IDs of its pods are unknown.
    #[error(
        "the runtime answers and does not list its pods ({0}): which IDs they have is not known, and so whether other \
         ranges would be theirs; run usernsd bootstrap again when it lists them (crictl pods)"
    )]
    Unlisted(String),
    /// The given lines cannot be lines of this node.
    #[error("{0}")]
    Lines(String),
    /// shadow-utils would not read every line that is to be written, and the kubelet not start.
    #[error(
        "line {line} of {path} has a zero byte in it, so that shadow-utils does not read the lines next to it, or any; \
         remove that line, or write it anew"
    )]
    ZeroByte {
        path: HostPath,
        /// Line number, from 1.
        line: usize,
    },
}

fn pods(count: usize) -> String {
    if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") }
}

/// Plans the ranges of a node.
///
/// # Errors
/// See [`PlanError`]; nothing may be changed then.
pub fn plan(node: &NodeIds, desired: &DesiredIds) -> Result<IdPlan, PlanError> {
    let planner = Planner::new(node, desired);
    let wanted = planner.wanted()?;
    let owners: Vec<&str> = wanted.iter().map(|wanted| wanted.owner.as_str()).collect();
    let mut placed = planner.place(wanted.clone(), &planner.taken(&owners))?;
    placed.sort_by_key(|placed| placed.window);

    let mut files = [planner.files[0].clone(), planner.files[1].clone()];
    let mut reasons = Vec::new();
    for one in &placed {
        planner.write(one, &mut files);
        reasons.push(format!("{} gets {}", one.owner, one.window));
    }
    let mut changes = Vec::new();
    for (file, path, old) in [(&files[0], SUBUID, &node.subuid), (&files[1], SUBGID, &node.subgid)] {
        let new = Some(file.render()).filter(|new| old.is_some() || !new.is_empty());
        changes.push(lines_change(path, old.clone(), new, Attributes::READABLE, reasons.clone()));
    }
    let accounts = planner.user(&mut changes)?;
    changes.retain(FileChange::is_needed);
    if let Some(why) = node.unlisted.as_ref().filter(|_| !changes.is_empty()) {
        return Err(PlanError::Unlisted(why.clone()));
    }
    for (file, path) in files.iter().zip([SUBUID, SUBGID]) {
        if let Some(line) = file.zero_byte().filter(|_| !changes.is_empty()) {
            return Err(PlanError::ZeroByte { path, line });
        }
    }

    let after = [&files[0], &files[1]];
    let (pool, mut found) = kubelet::forecast(&node.kubelet, &accounts, after, planner.demand);
    let (before, stranded) = (planner.pool(), planner.stranded(pool));
    starts_as_before(before, pool, &found, &stranded)?;
    found.extend(findings::of_records(&pool.stranded(&node.kubelet.records)));
    found.extend(findings::of_files(&files, &accounts));
    found.extend(findings::of_nsswitch(&node.kubelet, &accounts));
    if node.reads_containers {
        found.extend(findings::of_room(after, &accounts));
    }
    found.extend(findings::of_places(
        &placed,
        &planner.kept(&owners),
        &planner.files,
        desired.ranges.is_none(),
    ));
    let line = placed.iter().find(|one| one.owner == kubelet::USER);
    found.extend(line.and_then(|line| findings::of_line(line.window, planner.max_pods_is_configured())));
    found.extend(findings::of_change(before, pool, node.kubelet.is_present));
    found.extend(findings::of_processes(&placed, &node.running));
    found.extend(findings::of_rewritten(&planner.files, &files));
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(IdPlan { changes, findings: found })
}

/// Plans given lines for both files: each owner in them gets that range, and no other owner's line changes.
///
/// # Errors
/// See [`PlanError`]; nothing may be changed then.
pub fn plan_lines(
    node: &NodeIds,
    [uids, gids]: [&[u8]; 2],
    kubelet: &KubeletOptions,
) -> Result<IdPlan, PlanError> {
    let [mut lines, mut others] = [ranges_in(uids, &SUBUID)?, ranges_in(gids, &SUBGID)?];
    if lines.len() > MOST_OWNERS {
        let what =
            format!("gives {} owners ranges, of at most {MOST_OWNERS} at once; leave some out", lines.len());
        return Err(PlanError::Lines(what));
    }
    lines.sort();
    others.sort();
    if lines != others {
        let what = "gives other ranges in /etc/subuid than in /etc/subgid; say the same in both";
        return Err(PlanError::Lines(what.to_owned()));
    }
    for (one, next) in lines.iter().zip(lines.iter().skip(1)) {
        if one.owner == next.owner {
            return Err(PlanError::Lines(format!(
                "gives {} more than one range; leave one of them",
                one.owner
            )));
        }
    }
    let ranges = lines
        .iter()
        .map(|SubordinateRange { owner, start, count }| DesiredRange {
            owner: owner.clone(),
            start: Some(*start),
            count: *count,
        })
        .collect();
    let kubelet = KubeletOptions { user: KubeletUser::Never, start: None, ..kubelet.clone() };
    let desired = DesiredIds { ranges: Some(ranges), kubelet };
    let demand = Planner::new(node, &desired).demand;
    for line in lines.iter().filter(|line| line.owner == kubelet::USER) {
        let window = Window { start: line.start, count: line.count };
        if let Some(flaw) = demand.flaws(window).first() {
            return Err(PlanError::Lines(format!("gives {line}: {}", flaw.sentence(window, demand))));
        }
    }
    plan(node, &desired)
}

/// The ranges in a given file.
fn ranges_in(bytes: &[u8], path: &HostPath) -> Result<Vec<SubordinateRange>, PlanError> {
    let file = SubidFile::parse(bytes);
    match file.flaws().next() {
        Some((line, flaw)) => Err(PlanError::Lines(format!("line {line} of {path} in it {flaw}"))),
        None => Ok(file.ranges().map(|(_, range)| range.clone()).collect()),
    }
}

/// Findings about the node as it is, without any change.
#[must_use]
pub fn examine(node: &NodeIds, desired: &DesiredIds) -> Vec<Finding> {
    let planner = Planner::new(node, desired);
    let (pool, mut found) = planner.forecast();
    found.extend(findings::of_records(&pool.stranded(&node.kubelet.records)));
    found.extend(findings::of_files(&planner.files, &node.accounts));
    found.extend(findings::of_nsswitch(&node.kubelet, &node.accounts));
    found.extend(findings::of_places(&[], &planner.kept(&[]), &planner.files, false));
    found
}

/// The finding that CRI-O has too few IDs for the pods that ask it for a user namespace, from both files.
#[must_use]
pub fn room_of_containers(files: [&[u8]; 2], accounts: &Accounts) -> Option<Finding> {
    let [uids, gids] = files.map(SubidFile::parse);
    findings::of_room([&uids, &gids], accounts)
}

/// The number of pods that the node may run.
#[must_use]
pub fn max_pods(node: &NodeIds, desired: &DesiredIds) -> u64 {
    Planner::new(node, desired).demand.max_pods
}

/// Whether any process can have IDs like these: a process without capabilities in its parent user namespace maps
/// exactly one ID (user_namespaces(7)). Otherwise a pod could block a range that way.
fn is_anyones(window: Window) -> bool {
    window.count <= 1
}

/// Whether two changes are those of /etc/subuid and /etc/subgid, which must have equal ranges: the kubelet does not start
/// if a range is in only one of them, so nothing may happen between the two renames. By the paths and not by a mark on
/// the change, so that it holds for the plan of an undo and of a MachineConfig too.
#[must_use]
pub fn must_change_together(both: [&FileChange; 2]) -> bool {
    let is_content = |change: &FileChange| {
        change.form == Form::Content
            && change.new.is_some()
            && change.mode_was.is_none()
            && change.staging.is_none()
    };
    let paths = both.map(|change| &change.path);
    both.into_iter().all(is_content) && [SUBUID, SUBGID].iter().all(|path| paths.contains(&path))
}

fn lines_change(
    path: HostPath,
    old: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
    attributes: Attributes,
    reasons: Vec<String>,
) -> FileChange {
    FileChange {
        path,
        form: Form::Content,
        old,
        new,
        attributes,
        mode_was: None,
        staging: None,
        undo: Undo::Lines,
        reasons,
    }
}

/// A node, the configuration, and what follows from both.
struct Planner<'a> {
    node: &'a NodeIds,
    desired: &'a DesiredIds,
    files: [SubidFile; 2],
    demand: Demand,
}

impl<'a> Planner<'a> {
    fn new(node: &'a NodeIds, desired: &'a DesiredIds) -> Planner<'a> {
        let parsed = |bytes: &Option<Vec<u8>>| SubidFile::parse(bytes.as_deref().unwrap_or_default());
        let (kubelet_options, says) = (&desired.kubelet, &node.kubelet);
        let demand = Demand {
            // More than needed is only more room for the kubelet; with fewer it does not start.
            max_pods: kubelet_options.max_pods.max(says.max_pods).unwrap_or(kubelet::DEFAULT_MAX_PODS),
            // The kubelet validates the range against *its own* idsPerPod, so that takes precedence over ours.
            ids_per_pod: says
                .ids_per_pod
                .or(kubelet_options.ids_per_pod)
                .unwrap_or(kubelet::DEFAULT_IDS_PER_POD),
        };
        Planner { node, desired, files: [parsed(&node.subuid), parsed(&node.subgid)], demand }
    }

    /// The pool that the kubelet will use on the node as it is, with findings.
    fn forecast(&self) -> (NextPool, Vec<Finding>) {
        let [uids, gids] = &self.files;
        kubelet::forecast(&self.node.kubelet, &self.node.accounts, [uids, gids], self.demand)
    }

    /// The pool that the kubelet will use on the node as it is.
    fn pool(&self) -> NextPool {
        self.forecast().0
    }

    /// The pods that keep the kubelet from starting on a pool: by its records and, for pods whose records were not
    /// found, by the runtime's list, unless their IDs are in another owner's line.
    fn stranded(&self, pool: NextPool) -> Vec<Stranded> {
        let records = &self.node.kubelet.records;
        let recorded = self.recorded();
        let others = self.files.iter().flat_map(SubidFile::ranges);
        let others = others.filter(|(_, range)| !self.is_same(&range.owner, kubelet::USER));
        let others =
            Holders::new(others.map(|(_, range)| (Window { start: range.start, count: range.count }, ())));
        let is_kubelets = |window: &Window| {
            // The kubelet assigns only multiples of 65,536, aligned.
            window.start >= FIRST
                && window.start.is_multiple_of(FIRST)
                && window.count.is_multiple_of(FIRST)
                && !recorded.contains(window)
                && others.of(*window).is_none()
        };
        let mut stranded = pool.stranded(records);
        for (pod, window) in self.node.sandboxes.iter().filter(|(_, window)| is_kubelets(window)) {
            if pool.window().is_some_and(|pool| !pool.holds(*window)) {
                let why = format!("the runtime runs it with the IDs {window}, which are outside the pool");
                stranded.push(Stranded { pod: pod.clone(), why });
            }
        }
        stranded
    }

    /// The ID ranges in the kubelet's records.
    fn recorded(&self) -> BTreeSet<Window> {
        self.node.kubelet.records.iter().filter_map(|record| record.window.as_ref().ok().copied()).collect()
    }

    fn is_same(&self, owner: &str, name: &str) -> bool {
        self.node.accounts.is_same(owner, name)
    }

    /// The ranges that an owner has in each file.
    fn ranges(&self, owner: &str) -> [Vec<&SubordinateRange>; 2] {
        self.files.each_ref().map(|file| {
            file.ranges().map(|(_, range)| range).filter(|range| self.is_same(&range.owner, owner)).collect()
        })
    }

    /// The ranges that an owner has, the best first: in `/etc/subuid`, in `/etc/subgid`, or in lines that not every
    /// reader understands, if those are unambiguous.
    fn known(&self, owner: &str) -> Vec<Window> {
        let ranges = self.ranges(owner).into_iter().flatten();
        let mut known: Vec<Window> =
            ranges.map(|range| Window { start: range.start, count: range.count }).collect();
        let perhaps =
            self.files.iter().flat_map(SubidFile::contents).filter_map(|(_, content)| match content {
                LineContent::Flawed { owner: Some(name), perhaps, .. } if self.is_same(name, owner) => {
                    Some(perhaps)
                }
                _ => None,
            });
        let mut perhaps: Vec<Window> =
            perhaps.flatten().map(|range| Window { start: range.start, count: range.count }).collect();
        perhaps.dedup();
        known.extend(<[Window; 1]>::try_from(perhaps).into_iter().flatten());
        known
    }

    /// The ranges that must be placed: those that are not kept as they are.
    fn wanted(&self) -> Result<Vec<WantedWindow>, PlanError> {
        let mut wanted = Vec::new();
        match &self.desired.ranges {
            Some(kubelet_options) => {
                wanted.extend(kubelet_options.iter().filter_map(|desired| self.configured(desired)))
            }
            None => {
                if self.node.reads_containers {
                    wanted.extend(self.unless_there(CONTAINERS));
                }
                if self.node.accounts.user(CORE.0).is_some() {
                    wanted.extend(self.unless_there(CORE));
                }
            }
        }
        let has_user = self.node.accounts.user(kubelet::USER).is_some();
        if self.desired.kubelet.user == KubeletUser::Create
            || (self.desired.kubelet.user == KubeletUser::IfPresent && has_user)
        {
            wanted.extend(self.kubelet()?);
        }
        for (index, one) in wanted.iter().enumerate() {
            if let Some(other) =
                wanted.iter().skip(index + 1).find(|other| self.is_same(&one.owner, &other.owner))
            {
                return Err(PlanError::Twice(one.owner.clone(), other.owner.clone()));
            }
        }
        Ok(wanted)
    }

    /// A default range, for an owner without a line in one or both files.
    fn unless_there(&self, (owner, start, count): (&str, u64, u64)) -> Option<WantedWindow> {
        let [uids, gids] = self.ranges(owner);
        if !uids.is_empty() && !gids.is_empty() {
            return None;
        }
        let (start, count) = match self.known(owner).first() {
            Some(known) => (Start::Unchanged(known.start), known.count),
            None => (Start::Rather(start), count),
        };
        Some(WantedWindow { owner: owner.to_owned(), start, count, align: 65_536 })
    }

    /// A configured range; `None` if the files contain it already.
    fn configured(&self, desired: &DesiredRange) -> Option<WantedWindow> {
        let [uids, gids] = self.ranges(&desired.owner);
        let there = match (uids.as_slice(), gids.as_slice()) {
            ([uid], [gid]) => (uid.start == gid.start && uid.count == gid.count).then_some(*uid),
            _ => None,
        };
        let is_so = |range: &SubordinateRange| {
            range.count == desired.count && desired.start.is_none_or(|start| start == range.start)
        };
        if there.is_some_and(is_so) {
            return None;
        }
        let default = [CONTAINERS, CORE].into_iter().find(|(owner, ..)| *owner == desired.owner);
        let known = self.known(&desired.owner).first().map(|window| Start::Unchanged(window.start));
        let rather = default.map(|(_, start, _)| Start::Rather(start));
        let start = desired.start.map(Start::Fixed).or(known).or(rather).unwrap_or(Start::Free);
        Some(WantedWindow { owner: desired.owner.clone(), start, count: desired.count, align: 65_536 })
    }

    /// The IDs that are taken, when these owners are about to get theirs.
    fn taken(&self, owners: &[&str]) -> Vec<Taken> {
        let mut taken = self.node.accounts.taken();
        let owner_of = |name: &str| owners.iter().find(|owner| self.is_same(name, owner));
        let mut lines: Vec<(Window, Option<String>)> = Vec::new();
        for (file, path) in self.files.iter().zip(["/etc/subuid", "/etc/subgid"]) {
            for (number, content) in file.contents() {
                let ranges = match content {
                    LineContent::Nothing => &[],
                    LineContent::Range(range) => std::slice::from_ref(range),
                    LineContent::Flawed { perhaps, .. } => perhaps.as_slice(),
                };
                for range in ranges {
                    let window = Window { start: range.start, count: range.count };
                    let owner = owner_of(&range.owner);
                    lines.push((window, owner.map(|owner| (*owner).to_owned())));
                    // The line of an owner who gets a new one is about to be removed.
                    if owner.is_none() {
                        let by = RangeUser::Line { file: path, line: number, owner: range.owner.clone() };
                        taken.push(Taken { window, by, except: None });
                    }
                }
            }
        }
        let (lines, recorded) = (Holders::new(lines), self.recorded());
        for (pid, window) in self.node.running.iter().filter(|(_, window)| !is_anyones(*window)) {
            let holder = lines.of(*window).and_then(Clone::clone);
            let except = if recorded.contains(window) { Some(kubelet::USER.to_owned()) } else { holder };
            taken.push(Taken { window: *window, by: RangeUser::Process(*pid), except });
        }
        for (pod, window) in &self.node.sandboxes {
            // IDs outside of all lines are from the kubelet's default pool.
            let except = lines.of(*window).cloned().unwrap_or(Some(kubelet::USER.to_owned()));
            taken.push(Taken { window: *window, by: RangeUser::Pod(pod.clone()), except });
        }
        for record in &self.node.kubelet.records {
            if let Ok(window) = &record.window {
                let (window, by) = (*window, RangeUser::Pod(record.pod.clone()));
                taken.push(Taken { window, by, except: Some(kubelet::USER.to_owned()) });
            }
        }
        taken
    }

    /// The ranges of all other owners, which are kept.
    fn kept(&self, owners: &[&str]) -> Vec<Window> {
        let ranges = self.files.iter().flat_map(SubidFile::ranges);
        let stays = |range: &&SubordinateRange| !owners.iter().any(|owner| self.is_same(&range.owner, owner));
        ranges
            .map(|(_, range)| range)
            .filter(stays)
            .map(|range| Window { start: range.start, count: range.count })
            .collect()
    }

    /// Writes a range into both files.
    fn write(&self, placed: &Placed, files: &mut [SubidFile; 2]) {
        let Placed { owner, window, .. } = placed;
        let range = SubordinateRange { owner: owner.clone(), start: window.start, count: window.count };
        let kubelet_options = self.desired.ranges.as_deref().unwrap_or_default();
        let configured =
            owner == kubelet::USER || kubelet_options.iter().any(|desired| desired.owner == *owner);
        for (file, ranges) in files.iter_mut().zip(self.ranges(owner)) {
            // The owner has several lines, and no range is configured for the owner.
            let is_there =
                ranges.iter().any(|there| (there.start, there.count) == (range.start, range.count));
            if configured || !is_there {
                file.set(&range, |name| self.is_same(name, owner));
            }
        }
    }
}
