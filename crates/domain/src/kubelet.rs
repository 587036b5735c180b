//! How the kubelet chooses IDs for pods: the pool that it will use, what keeps it from starting, and its records of
//! what it has assigned.
//!
//! Sources: `getKubeletMappings` in `pkg/kubelet/kubelet_pods.go` and `MakeUserNsManager` in
//! `pkg/kubelet/userns/userns_manager.go` of Kubernetes.

use std::fmt;

use super::accounts::Accounts;
use super::finding::{Finding, FindingId};
use super::ranges::{LIMIT, Window};
use super::subid::{SubidFile, SubordinateRange};

/// The user whose line the kubelet reads; it cannot be configured.
pub const USER: &str = "kubelet";
/// Default of `userNamespaces.idsPerPod`.
pub const DEFAULT_IDS_PER_POD: u64 = 65_536;
/// Default of `maxPods`.
pub const DEFAULT_MAX_PODS: u64 = 110;
/// The numbers of pods for which a new range is created if `maxPods` is not found, the first for which there
/// is room: `maxPods` may be set in a place that is not read here, and a larger range does no harm.
pub const ROOMY_PODS: [u64; 3] = [1024, 512, 256];

/// The facts on the node that affect the kubelet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KubeletEnvironment {
    /// A kubelet is present, or will be: `/var/lib/kubelet` exists.
    pub is_present: bool,
    /// The kubelet's directory is visible, but not its contents, as in the agent's container.
    pub is_hidden: bool,
    /// The node has no `/etc/passwd`.
    pub no_passwd: bool,
    /// `getsubids` is in the kubelet's search path.
    pub getsubids: bool,
    /// `getent` is, too.
    pub getent: bool,
    /// The search path, if the kubelet's unit sets one.
    pub search_path: Option<SearchPath>,
    /// The node has an nsswitch.conf(5).
    pub has_nsswitch: bool,
    /// The `subid` entry of nsswitch.conf(5), if any.
    pub nsswitch_subid: Option<String>,
    /// The output of `getsubids` if it does not read the files; `None` if it was not called.
    pub getsubids_output: Option<Result<Window, String>>,
    /// Whether a directory service has a user `kubelet` that is not in the files.
    pub directory: Directory,
    /// The kubelet's `maxPods`; `None` if it was not found.
    pub max_pods: Option<u64>,
    /// `userNamespaces.idsPerPod` of the kubelet's configuration.
    pub ids_per_pod: Option<u64>,
    /// The kubelet's configuration was found: what it does not set is assumed to be the default.
    pub has_config: bool,
    /// The configuration file that cannot be read, and why.
    pub config_unreadable: Option<String>,
    /// The unit that runs the kubelet in a container of its own, which has users, `getsubids` and ranges of its own.
    pub in_container: Option<String>,
    /// The feature gate [`GATE`], if anything sets it.
    pub gate: Option<FeatureGate>,
    /// The minor version of the kubelet, if it was asked.
    pub version: Option<u16>,
    /// The kubelet's records of pods.
    pub records: Vec<PodIdsRecord>,
}

/// The kubelet's feature gate for user namespaces, on by default from [`GATE_BY_DEFAULT`] on.
pub const GATE: &str = "UserNamespacesSupport";
/// The first minor version of Kubernetes with user namespaces by default (`pkg/features/kube_features.go`).
const GATE_BY_DEFAULT: u16 = 33;

/// A setting of a feature gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureGate {
    pub is_on: bool,
    /// The file, with the line for a flag.
    pub place: String,
}

/// The minor version in the output of `kubelet --version` ("Kubernetes v1.36.2").
#[must_use]
pub fn version(text: &str) -> Option<u16> {
    let rest = text.trim().strip_prefix("Kubernetes v1.")?;
    rest.split('.').next()?.parse().ok()
}

/// The finding on the feature gate: without it the kubelet ignores `hostUsers: false`.
#[must_use]
pub fn gate_finding(environment: &KubeletEnvironment) -> Option<Finding> {
    let consequence = "pods with hostUsers: false start without a user namespace, or not at all";
    match (&environment.gate, environment.version) {
        (Some(FeatureGate { is_on: false, place }), _) => Some(Finding::error(
            FindingId::KubeletGateOff,
            format!("{place}: the kubelet's feature gate {GATE} is false: {consequence}"),
            "remove it from there, and restart the kubelet on a drained node",
        )),
        (None, Some(minor)) if minor < GATE_BY_DEFAULT => {
            let what = format!(
                "kubelet 1.{minor} does not have the feature gate {GATE} by default: {consequence}, unless it is switched \
                 on in a place that is not read here"
            );
            let remedy =
                format!("set featureGates: {{{GATE}: true}}, or use Kubernetes 1.{GATE_BY_DEFAULT} or later");
            Some(Finding { remedy, ..Finding::note(FindingId::KubeletGateOff, what) })
        }
        _ => None,
    }
}

/// The search path that a unit gives the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchPath {
    /// Name of the systemd unit that starts the kubelet.
    pub unit: String,
    /// The value of `PATH` in the unit's environment, separated by colons.
    pub path: String,
}

/// Whether a directory service has the user `kubelet`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Directory {
    /// There is no directory service, or it has no such user, or the user is in the files.
    #[default]
    Nothing,
    /// The directory service could not be queried: the `passwd` entry of nsswitch.conf(5).
    Unasked(String),
    /// The directory service has the user: the `passwd` entry of nsswitch.conf(5).
    HasUser(String),
}

/// `/var/lib/kubelet/pods/UID/userns`: the IDs that the kubelet assigned to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodIdsRecord {
    /// The pod's UID.
    pub pod: String,
    /// The IDs, or why the kubelet cannot read the record.
    pub window: Result<Window, String>,
}

/// The size that the pool must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// `maxPods`.
    pub max_pods: u64,
    /// `userNamespaces.idsPerPod`.
    pub ids_per_pod: u64,
}

/// Why the kubelet does not start with a line, or should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolFlaw {
    /// `idsPerPod` is not a multiple of 65,536.
    Length,
    /// The start is not a multiple of `idsPerPod`.
    Start,
    /// The start is below `idsPerPod`.
    Low,
    /// The count is not a multiple of `idsPerPod`.
    Count,
    /// The count is not enough for `maxPods`.
    Few,
    /// The range includes IDs in the last 65,536 or beyond, where numbers wrap around to the host's root. The kubelet
    /// does not check this (kubernetes/kubernetes#139916, #141345).
    PastEnd,
}

/// The pool that the kubelet will use after its next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextPool {
    /// Without a user `kubelet`: nearly all IDs.
    Default(Demand),
    /// The line of `/etc/subuid` and `/etc/subgid`.
    Line(Window, Demand),
    /// The kubelet will not start.
    WontStart,
    /// The kubelet uses a directory service that cannot be queried here.
    CannotTell,
}

/// A pod whose record keeps the kubelet from starting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stranded {
    /// The pod's UID.
    pub pod: String,
    /// The problem with its record.
    pub why: String,
}

// === impl Demand ===

impl Demand {
    /// Number of IDs that the pool must have; `u64::MAX` on overflow.
    #[must_use]
    pub fn count(self) -> u64 {
        self.max_pods.saturating_mul(self.ids_per_pod)
    }

    /// The reason why the kubelet cannot use these IDs.
    #[must_use]
    pub fn flaws(self, window: Window) -> Vec<PoolFlaw> {
        let Demand { max_pods, ids_per_pod } = self;
        let size = ids_per_pod.max(1);
        let tests = [
            (ids_per_pod == 0 || !ids_per_pod.is_multiple_of(65_536), PoolFlaw::Length),
            (!window.start.is_multiple_of(size), PoolFlaw::Start),
            (window.start < ids_per_pod, PoolFlaw::Low),
            (!window.count.is_multiple_of(size), PoolFlaw::Count),
            (window.count / size < max_pods, PoolFlaw::Few),
            (window.end() > LIMIT, PoolFlaw::PastEnd),
        ];
        tests.into_iter().filter_map(|(is_so, flaw)| is_so.then_some(flaw)).collect()
    }
}

// === impl PoolFlaw ===

impl PoolFlaw {
    /// The finding about a line with that flaw.
    #[must_use]
    pub fn id(self) -> FindingId {
        match self {
            PoolFlaw::Length => FindingId::KubeletIdsPerPod,
            PoolFlaw::Start => FindingId::KubeletStartMisaligned,
            PoolFlaw::Low => FindingId::KubeletStartLow,
            PoolFlaw::Count => FindingId::KubeletCountMisaligned,
            PoolFlaw::Few => FindingId::KubeletCountFew,
            PoolFlaw::PastEnd => FindingId::KubeletPastEnd,
        }
    }

    /// A sentence about a line with that flaw.
    #[must_use]
    pub fn sentence(self, window: Window, demand: Demand) -> String {
        let Demand { max_pods, ids_per_pod } = demand;
        let Window { start, count } = window;
        match self {
            PoolFlaw::Length => {
                format!("the kubelet's idsPerPod {ids_per_pod} is not a multiple of 65536; it does not start")
            }
            PoolFlaw::Start => {
                format!(
                    "the kubelet's first ID {start} is not a multiple of {ids_per_pod}; it does not start"
                )
            }
            PoolFlaw::Low => {
                format!("the kubelet's first ID {start} is below {ids_per_pod}; it does not start")
            }
            PoolFlaw::Count => {
                format!("the kubelet's {count} IDs are not a multiple of {ids_per_pod}; it does not start")
            }
            PoolFlaw::Few => {
                let need = demand.count();
                format!(
                    "the kubelet's {count} IDs are fewer than the {need} for {max_pods} pods; it does not start"
                )
            }
            PoolFlaw::PastEnd => format!(
                "the kubelet's IDs {window} reach past {}: the last pods never start, or run as the host's root",
                LIMIT - 1
            ),
        }
    }
}

// === impl NextPool ===

impl NextPool {
    /// The IDs of the pool, as far as they are known.
    #[must_use]
    pub fn window(self) -> Option<Window> {
        match self {
            NextPool::Default(Demand { ids_per_pod, .. }) => {
                Some(Window { start: ids_per_pod, count: (1_u64 << 32).saturating_sub(ids_per_pod) })
            }
            NextPool::Line(window, _) => Some(window),
            NextPool::WontStart | NextPool::CannotTell => None,
        }
    }

    /// The records with which the kubelet would not start on this pool: it reads them all at its start, and fails at
    /// the first that does not fit (kubernetes/kubernetes#132966, #141941, #137912).
    #[must_use]
    pub fn stranded(self, records: &[PodIdsRecord]) -> Vec<Stranded> {
        let (NextPool::Default(demand) | NextPool::Line(_, demand)) = self else { return Vec::new() };
        let size = demand.ids_per_pod.max(1);
        let holds = |window| self.window().is_some_and(|pool| pool.holds(window));
        let mut records: Vec<&PodIdsRecord> = records.iter().collect();
        records.sort();
        let mut stranded = Vec::new();
        let mut seen: Vec<(u64, &str)> = Vec::new();
        for record in records {
            let taken = |start: u64| seen.iter().find(|(other, _)| *other == start).map(|(_, pod)| *pod);
            let why = match &record.window {
                Err(why) => Some(why.clone()),
                Ok(window) if window.count != demand.ids_per_pod => {
                    Some(format!("it has {} IDs, not {}", window.count, demand.ids_per_pod))
                }
                Ok(window) if !window.start.is_multiple_of(size) => {
                    Some(format!("its first ID {} is not a multiple of {size}", window.start))
                }
                Ok(window) if !holds(*window) => Some(format!("its IDs {window} are outside the pool")),
                Ok(window) => {
                    taken(window.start).map(|pod| format!("its IDs {window} are those of pod {pod}"))
                }
            };
            match (why, &record.window) {
                (Some(why), _) => stranded.push(Stranded { pod: record.pod.clone(), why }),
                (None, Ok(window)) => seen.push((window.start, &record.pod)),
                (None, Err(_)) => {}
            }
        }
        stranded
    }
}

impl fmt::Display for Stranded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pod, self.why)
    }
}

/// The pool that the kubelet chooses at its next start from the two files and its surroundings, following its own
/// steps, with findings.
#[must_use]
pub fn forecast(
    environment: &KubeletEnvironment,
    accounts: &Accounts,
    files: [&SubidFile; 2],
    demand: Demand,
) -> (NextPool, Vec<Finding>) {
    let mut findings: Vec<Finding> =
        gate_finding(environment).filter(|_| environment.is_present).into_iter().collect();
    if let Some(unit) = &environment.in_container {
        let what = format!(
            "{unit} runs the kubelet in a container: it looks for the user kubelet, getsubids and /etc/subuid in its image, and \
             not on this node"
        );
        let remedy = "prepare the image, or mount /etc/passwd, /etc/subuid, /etc/subgid and getsubids into that container";
        findings.push(Finding::warning(FindingId::KubeletInContainer, what, remedy));
        return (NextPool::CannotTell, findings);
    }
    let lines = files.map(|file| lines_of(file, accounts));
    let reads_files = environment.nsswitch_subid.as_deref().is_none_or(reads_files);
    if accounts.user(USER).is_none() {
        if let (Directory::Unasked(source), true) = (&environment.directory, environment.is_present) {
            let what = format!(
                "nsswitch.conf has \"passwd: {source}\": whether the kubelet finds a user kubelet there, and so which IDs \
                 it uses, can be known only on the running node"
            );
            let remedy = "run usernsd doctor on the node itself".to_owned();
            findings.push(Finding { remedy, ..Finding::note(FindingId::KubeletUserUnknown, what) });
            return (NextPool::CannotTell, findings);
        }
        if environment.is_present && !environment.is_hidden && environment.no_passwd {
            findings.push(Finding::warning(
                FindingId::PasswdMissing,
                "there is no /etc/passwd: a kubelet that is linked statically cannot look up the user kubelet, and does not start"
                    .to_owned(),
                "add a world-readable /etc/passwd to the node's image; a line for root is enough",
            ));
        }
        if environment.is_present {
            findings.push(Finding::warning(
                FindingId::KubeletDefaultPool,
                "without a user kubelet, the kubelet gives pods any ID from its idsPerPod to 2^32 - 1, even one that is in use elsewhere, and a pod in the last slot never starts"
                    .to_owned(),
                "set bootstrap.kubelet.user to create, on a drained node",
            ));
        }
        if lines.iter().any(|lines| !lines.is_empty()) {
            findings.push(Finding::note(
                FindingId::KubeletLineUnused,
                "there is a line for kubelet, but no such user; the kubelet does not read it".to_owned(),
            ));
        }
        return (NextPool::Default(demand), findings);
    }
    if let Directory::HasUser(source) = &environment.directory {
        let what = format!(
            "no file names the user kubelet, getent finds it by \"passwd: {source}\": a kubelet that asks neither getent nor \
             the C library takes nearly all IDs, and each start depends on the directory"
        );
        let remedy = "make it a local user: usernsd bootstrap, with bootstrap.kubelet.user create, once the directory has none";
        findings.push(Finding {
            remedy: remedy.to_owned(),
            ..Finding::note(FindingId::KubeletUserElsewhere, what)
        });
    }
    // Where a program that is missing is looked for, and how that is changed.
    let (missing, there) = match &environment.search_path {
        None => ("missing".to_owned(), ""),
        Some(SearchPath { unit, path }) => (
            format!("not in the PATH of {unit} ({path})"),
            " in one of these directories, or add its own to the unit's PATH (NixOS: path = [ pkgs.shadow ])",
        ),
    };
    if !environment.getent {
        let what = format!(
            "getent is {missing}: a kubelet after 1.37 does not find the user kubelet and silently takes nearly all IDs (kubernetes/kubernetes#141970)"
        );
        let remedy = format!("install getent (libc-bin, glibc-common){there}");
        findings.push(Finding::warning(FindingId::KubeletNoGetent, what, &remedy));
    }
    if !environment.getsubids {
        let what = format!("getsubids is {missing}: with a user kubelet, the kubelet does not start");
        let remedy =
            format!("install getsubids (uidmap, shadow-utils-subid){there}, or remove the user kubelet");
        findings.push(Finding::error(FindingId::KubeletNoGetsubids, what, &remedy));
        return (NextPool::WontStart, findings);
    }
    if !reads_files {
        let source = environment.nsswitch_subid.as_deref().unwrap_or_default();
        let there = match &environment.getsubids_output {
            Some(Ok(window)) => format!("; there kubelet has {window}"),
            _ => String::new(),
        };
        findings.push(Finding::warning(
            FindingId::KubeletNsswitch,
            format!(
                "nsswitch.conf has \"subid: {source}\": getsubids asks there, and /etc/subuid is not read{there}"
            ),
            "make sure that the directory has one range for kubelet, or write \"subid: files\" in /etc/nsswitch.conf",
        ));
        return match &environment.getsubids_output {
            None => (NextPool::CannotTell, findings),
            Some(Err(why)) => {
                findings.push(Finding::error(
                    FindingId::KubeletDirectoryRange,
                    format!("getsubids asks \"{source}\", and {why}: the kubelet does not start"),
                    "give kubelet one range there, the same for users and groups",
                ));
                (NextPool::WontStart, findings)
            }
            Some(Ok(window)) => (judged(*window, demand, &mut findings), findings),
        };
    }
    let [uids, gids] = &lines;
    let (Some(uid), Some(gid)) = (uids.first(), gids.first()) else {
        findings.push(Finding::error(
            FindingId::KubeletLineMissing,
            "there is a user kubelet, but not a line for it in both /etc/subuid and /etc/subgid: the kubelet does not start"
                .to_owned(),
            "run usernsd bootstrap",
        ));
        return (NextPool::WontStart, findings);
    };
    if uids.len() > 1 || gids.len() > 1 {
        findings.push(Finding::error(
            FindingId::KubeletSeveralLines,
            "kubelet has more than one line: the kubelet accepts exactly one, and does not start".to_owned(),
            "run usernsd bootstrap",
        ));
        return (NextPool::WontStart, findings);
    }
    let window = Window { start: uid.start, count: uid.count };
    if window != (Window { start: gid.start, count: gid.count }) {
        findings.push(Finding::error(
            FindingId::KubeletLinesDiffer,
            "the lines for kubelet in /etc/subuid and /etc/subgid differ: the kubelet does not start"
                .to_owned(),
            "run usernsd bootstrap",
        ));
        return (NextPool::WontStart, findings);
    }
    (judged(window, demand, &mut findings), findings)
}

/// The pool of a range, with findings about its flaws.
fn judged(window: Window, demand: Demand, findings: &mut Vec<Finding>) -> NextPool {
    let flaws = demand.flaws(window);
    let error = |flaw: &PoolFlaw| {
        let remedy = "see bootstrap.kubelet in the configuration, and maxPods and userNamespaces.idsPerPod in the kubelet's";
        Finding::error(flaw.id(), flaw.sentence(window, demand), remedy)
    };
    findings.extend(flaws.iter().map(error));
    // The kubelet starts with a range that only reaches past the end.
    let starts = flaws.iter().all(|flaw| *flaw == PoolFlaw::PastEnd);
    if starts { NextPool::Line(window, demand) } else { NextPool::WontStart }
}

/// Parses the output of `getsubids kubelet` and `getsubids -g kubelet` as the kubelet does: both must be the same,
/// with one line `0: kubelet START COUNT`.
///
/// # Errors
/// Why the kubelet does not start with it, as the rest of a sentence.
pub fn of_getsubids(uids: &str, gids: &str) -> Result<Window, String> {
    if uids != gids {
        return Err("it prints other ranges for groups than for users".to_owned());
    }
    let lines: Vec<&str> = uids.lines().collect();
    let [line] = lines.as_slice() else {
        return Err(format!("it has {} ranges for kubelet, not one", lines.len()));
    };
    let number = |text: &str| text.parse::<u32>().ok().map(u64::from);
    match line.split(' ').collect::<Vec<_>>().as_slice() {
        ["0:", USER, start, count] => number(start).zip(number(count)),
        _ => None,
    }
    .map(|(start, count)| Window { start, count })
    .ok_or_else(|| format!("it prints {line:?}, which the kubelet cannot parse"))
}

/// The kubelet's lines, as getsubids finds them.
pub fn lines_of<'a>(file: &'a SubidFile, accounts: &Accounts) -> Vec<&'a SubordinateRange> {
    file.ranges().map(|(_, range)| range).filter(|range| accounts.is_same(&range.owner, USER)).collect()
}

/// Whether libsubid reads the files: it supports one source, and uses the first (subuid(5)).
#[must_use]
pub fn reads_files(nsswitch_subid: &str) -> bool {
    nsswitch_subid.split_ascii_whitespace().next().is_none_or(|source| source == "files")
}

/// Whether a line of nsswitch.conf(5) has sources other than these.
#[must_use]
pub fn has_others(sources: &str, known: &[&str]) -> bool {
    let actions = |source: &&str| !source.starts_with('[') && !source.ends_with(']');
    sources.split_ascii_whitespace().filter(actions).any(|source| !known.contains(&source))
}

/// The sources of a database in nsswitch.conf(5).
#[must_use]
pub fn nsswitch(text: &[u8], database: &str) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let (name, sources) = line.split_once(':')?;
        (name.trim() == database).then(|| sources.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
    })
}

#[cfg(test)]
mod tests;
