//! Findings about the ranges as they will be.

use std::collections::BTreeSet;

use super::CONTAINERS;
use crate::accounts::Accounts;
use crate::finding::{Finding, FindingId};
use crate::kubelet::{self, KubeletEnvironment, NextPool, Stranded};
use crate::ranges::{Convention, FIRST, Placed, Window};
use crate::subid::{Flaw, SubidFile};
use crate::work::step;

/// At most so many of one kind are listed.
const MANY: usize = 20;
const NAMES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// Records that keep the kubelet from starting, independent of any change made here.
pub(super) fn of_records(stranded: &[Stranded]) -> Vec<Finding> {
    let one = |stranded: &Stranded| {
        Finding::error(
            FindingId::KubeletRecordOutside,
            format!("the kubelet will not start again: pod {stranded}"),
            "drain the node, or give the kubelet its former range",
        )
    };
    stranded.iter().take(MANY).map(one).collect()
}

/// Lines that not every reader understands, that end after the last ID, or that overlap another owner's.
pub(super) fn of_files(files: &[SubidFile; 2], accounts: &Accounts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, name) in files.iter().zip(NAMES) {
        for (line, flaw) in file.flaws().take(MANY) {
            findings.push(flawed(name, line, flaw));
        }
        for (line, range) in file.ranges().filter(|(_, range)| range.end() > 1 << 32).take(MANY) {
            findings.push(Finding::warning(
                FindingId::SubidPastEnd,
                format!("line {line} of {name} ({}) reaches past the last ID, 4294967295", range.owner),
                "give it fewer",
            ));
        }
        findings.extend(overlaps(file, name, accounts).into_iter().take(MANY));
        findings.extend(host_ids(file, name, accounts));
    }
    findings
}

/// The finding that `getsubids` and `newuidmap` do not read the files.
pub(super) fn of_nsswitch(environment: &KubeletEnvironment, accounts: &Accounts) -> Option<Finding> {
    let source = environment.nsswitch_subid.as_deref().filter(|source| !kubelet::reads_files(source))?;
    // If the user exists, the kubelet's own finding covers this.
    accounts.user(kubelet::USER).is_none().then(|| {
        Finding::warning(
            FindingId::SubidNsswitch,
            format!(
                "nsswitch.conf has \"subid: {source}\": getsubids and newuidmap ask there, and do not read \
                 /etc/subuid and /etc/subgid"
            ),
            "make sure that the directory gives nobody the ranges in these files, or write \"subid: files\" in /etc/nsswitch.conf",
        )
    })
}

/// Ranges that contain a user or group of the host.
fn host_ids(file: &SubidFile, name: &str, accounts: &Accounts) -> Vec<Finding> {
    // A single ID for each, in the order of the IDs.
    let mut taken = accounts.taken();
    taken.sort_by_key(|known| known.window);
    let mut findings = Vec::new();
    for (line, range) in file.ranges() {
        if findings.len() >= MANY {
            break;
        }
        let window = Window { start: range.start, count: range.count };
        let remedy = "a container's processes can act as the host's; move the range";
        if range.start < FIRST {
            let what =
                format!("line {line} of {name} ({}) holds IDs below 65536, the host's own", range.owner);
            findings.push(Finding::warning(FindingId::SubidLow, what, remedy));
        }
        let first = taken.partition_point(|known| known.window.start < window.start);
        let held = taken.iter().skip(first).take_while(|known| known.window.start < window.end());
        for known in held.take(MANY).inspect(|_| step()) {
            let what = format!("line {line} of {name} ({}) holds the ID of {}", range.owner, known.by);
            findings.push(Finding::warning(FindingId::SubidHoldsAccount, what, remedy));
        }
    }
    findings.truncate(MANY);
    findings
}

fn flawed(name: &str, line: usize, flaw: Flaw) -> Finding {
    // CRI-O stops at the first line that it does not understand; it trims blanks at both ends.
    let stops = !matches!(flaw, Flaw::CarriageReturn | Flaw::TooLong);
    let consequence = if stops { "; CRI-O may read nothing after it" } else { "" };
    Finding::warning(
        FindingId::SubidFlawedLine,
        format!("line {line} of {name} {flaw}{consequence}"),
        "write it as OWNER:START:COUNT, or remove it; usernsd leaves it as it is",
    )
}

/// Ranges of different owners that share IDs.
fn overlaps(file: &SubidFile, name: &str, accounts: &Accounts) -> Vec<Finding> {
    let mut ranges: Vec<_> = file.ranges().collect();
    ranges.sort_by_key(|(_, range)| (range.start, range.count));
    let mut findings = Vec::new();
    // Ranges are in order, so an overlapping one directly follows the one that reaches farthest.
    let mut farthest = ranges.first().copied();
    for (line, range) in ranges.into_iter().skip(1) {
        let Some((other_line, other)) = farthest else { break };
        if range.start < other.end() && !accounts.may_share(&range.owner, &other.owner) {
            let (first, second) = (line.min(other_line), line.max(other_line));
            let owners =
                if first == line { [&range.owner, &other.owner] } else { [&other.owner, &range.owner] };
            findings.push(Finding::warning(
                FindingId::SubidOverlap,
                format!("lines {first} and {second} of {name} ({} and {}) share IDs", owners[0], owners[1]),
                "containers of one can change files and processes of the other; move one of them",
            ));
        }
        if range.end() > other.end() {
            farthest = Some((line, range));
        }
    }
    findings
}

/// Too few IDs of `containers` for the pods that ask CRI-O for a user namespace by annotation. The smaller of the two
/// files counts.
pub(super) fn of_room(files: [&SubidFile; 2], accounts: &Accounts) -> Option<Finding> {
    let (owner, ..) = CONTAINERS;
    let pods = |file: &SubidFile| -> u64 {
        let own = file.ranges().filter(|(_, range)| accounts.is_same(&range.owner, owner));
        own.map(|(_, range)| range.count / FIRST).sum()
    };
    let pods = files.map(pods).into_iter().min().unwrap_or(0);
    let what = match pods {
        0 => format!(
            "the range of {owner} has fewer than 65536 IDs in one of the two files: a pod that asks CRI-O for a user namespace by annotation fails with \"not enough unused IDs in user namespace\""
        ),
        1 => format!(
            "the range of {owner} has room for 1 pod of 65536 IDs: the second that asks CRI-O for a user namespace by annotation fails with \"not enough unused IDs in user namespace\""
        ),
        _ => return None,
    };
    let remedy = "bootstrap.ranges: [{owner: containers, pods: 100}], usernsd bootstrap, and restart CRI-O when no such pod runs";
    Some(Finding::warning(FindingId::ContainersRangeSmall, what, remedy))
}

/// A changed pool: what the kubelet assigns to pods between now and its next start is from the old pool, and keeps it
/// from starting then.
pub(super) fn of_change(before: NextPool, after: NextPool, is_present: bool) -> Option<Finding> {
    let window = after.window().filter(|_| before != after)?;
    let what = format!("the kubelet uses {window} after its next start");
    Some(if is_present {
        Finding::warning(
            FindingId::KubeletRestart,
            what,
            "restart the kubelet before any pod with hostUsers: false starts here, or it will not start again",
        )
    } else {
        Finding::note(FindingId::KubeletRestart, what)
    })
}

/// Processes with an ID in a new range that do not keep it from being used ([`super::is_anyones`]).
pub(super) fn of_processes(placed: &[Placed], running: &[(u32, Window)]) -> Option<Finding> {
    let in_new = |window: &Window| placed.iter().find(|one| one.window.holds(*window));
    let mut inside = running
        .iter()
        .filter(|(_, window)| super::is_anyones(*window))
        .filter_map(|(pid, window)| in_new(window).map(|one| (pid, window, &one.owner)));
    let (pid, window, owner) = inside.next()?;
    let others = match inside.count() {
        0 => String::new(),
        count => format!(", and {count} more are like it"),
    };
    let what = format!(
        "process {pid} has mapped the ID {} in a user namespace of its own, which is now in the range of \
         {owner}{others}",
        window.start
    );
    Some(Finding::warning(FindingId::RangeInUse, what, "look at what it is: it shares that ID with a pod"))
}

/// A line whose size is a guess, because the number of pods is unknown.
pub(super) fn of_line(window: Window, is_configured: bool) -> Option<Finding> {
    (!is_configured).then(|| Finding {
        remedy: "set bootstrap.kubelet.maxPods if it is more".to_owned(),
        ..Finding::note(
            FindingId::KubeletPodsUnsaid,
            format!(
                "the number of pods that the kubelet may run is unknown; its range is {window}, {} IDs",
                window.count
            ),
        )
    })
}

/// Lines that not every reader understands, and that are replaced by ones that all do.
pub(super) fn of_rewritten(before: &[SubidFile; 2], after: &[SubidFile; 2]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ((before, after), name) in before.iter().zip(after).zip(NAMES) {
        let texts: BTreeSet<&[u8]> = after.texts().map(|(_, text)| text).collect();
        let gone: BTreeSet<usize> =
            before.texts().filter(|(_, text)| !texts.contains(text)).map(|(line, _)| line).collect();
        for (line, flaw) in before.flaws() {
            let stays = !gone.contains(&line);
            if !stays && findings.len() < MANY {
                let what = format!("line {line} of {name} {flaw}; it is replaced");
                findings.push(Finding::note(FindingId::SubidFlawedLine, what));
            }
        }
        // Another user with the same number: for every reader both lines are of one user.
        let stay: BTreeSet<&str> = after.ranges().map(|(_, range)| range.owner.as_str()).collect();
        let is_name = |owner: &str| owner.parse::<u64>().is_err();
        let removed = before.ranges().filter(|(line, range)| {
            gone.contains(line) && is_name(&range.owner) && !stay.contains(range.owner.as_str())
        });
        for (line, range) in removed.take(MANY) {
            let what = format!(
                "line {line} of {name} ({range}) is removed: {} has the number of another user, whose line counts for both",
                range.owner
            );
            let remedy = "give that user a number of its own, and add its line again";
            findings.push(Finding::warning(FindingId::SubidReplaced, what, remedy));
        }
    }
    findings
}

/// Where ranges were placed.
/// `is_default`: no ranges are configured.
pub(super) fn of_places(
    placed: &[Placed],
    kept: &[Window],
    before: &[SubidFile; 2],
    is_default: bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Placed { owner, window, moved, overlaps } in placed {
        if let Some(taken) = moved {
            findings.push(Finding::note(
                FindingId::RangeMoved,
                format!("{owner} gets {window}, because its usual range overlaps with {taken}"),
            ));
        }
        for convention in overlaps {
            findings.push(of_convention(owner, *window, *convention));
        }
        if owner == CONTAINERS.0 && is_default && window.count < CONTAINERS.2 {
            let pods = window.count / FIRST;
            findings.push(Finding {
                remedy: "free IDs, and set bootstrap.ranges to [{owner: containers, pods: N}]".to_owned(),
                ..Finding::note(
                    FindingId::RangeSmaller,
                    format!(
                        "{owner} gets {window}, room for {pods} pods: no {} IDs in a row are free",
                        CONTAINERS.2
                    ),
                )
            });
        }
        let had =
            |owner: &str| before.iter().flat_map(SubidFile::ranges).any(|(_, range)| range.owner == owner);
        if owner == CONTAINERS.0 && had(owner) {
            findings.push(Finding::warning(
                FindingId::ContainersRangeCached,
                "a running CRI-O keeps the range of containers that it has looked up".to_owned(),
                "restart CRI-O when no pod uses the old one",
            ));
        }
    }
    for window in kept.iter().filter(|window| Convention::SystemdForeign.window().meets(**window)).take(MANY)
    {
        findings.push(of_convention("a line that is there", *window, Convention::SystemdForeign));
    }
    findings
}

fn of_convention(owner: &str, window: Window, convention: Convention) -> Finding {
    let what = format!("{owner}: {window} shares IDs with {convention}");
    match convention {
        // Nothing on a Kubernetes node uses these IDs, unless systemd-nspawn runs there.
        Convention::SystemdContainers => Finding::note(FindingId::RangeSystemd, what),
        Convention::UpperHalf => Finding::note(FindingId::RangeUpperHalf, what),
        Convention::OpenShift => Finding::warning(
            FindingId::RangeOpenshift,
            what,
            "leave the start out, and it is avoided if there is room",
        ),
        Convention::SystemdForeign => Finding::warning(
            FindingId::RangeForeign,
            what,
            "leave the start out, and it is avoided if there is room",
        ),
    }
}
