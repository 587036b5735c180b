//! The limits of cgroups, and the numbers that they bound.

use usernsd_domain::cgroup::descendants_of_stat;
use usernsd_domain::delegation::{Held, Limit, Limits};
use usernsd_domain::idmap::HostId;
use usernsd_domain::record::{Action, Change};
use usernsd_linux::cgroupfs::{Cgroup, CgroupError};

/// The most cgroups that an OCI runtime creates within a container's own: crun creates one.
const RUNTIMES_CGROUPS: usize = 8;

/// How many cgroups a cgroup directly below a pod's contains, itself included.
pub(super) struct Contained {
    pub(super) now: u64,
    /// The most that it may come to contain.
    pub(super) most: u64,
}

/// What a cgroup directly below a pod's contains.
pub(super) fn most_held(cgroup: &Cgroup, pod: u32) -> Result<Contained, CgroupError> {
    let held = held(cgroup)?;
    let contained = |most| Contained { now: held.used.saturating_add(1), most };
    // crun's limit is set one level deeper. In a directory that belongs to root, only root can have created
    // directories.
    if held.bound != Limit::Max || held.used == 0 || cgroup.owner() != HostId::ROOT {
        return Ok(contained(held.most(pod)));
    }
    let mut most = 1_u64;
    for name in cgroup.children()?.iter().take(RUNTIMES_CGROUPS) {
        match cgroup.child(name).and_then(|child| self::held(&child)) {
            Ok(held) => most = most.saturating_add(held.most(pod)),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(contained(most.max(held.most(pod))))
}

fn held(cgroup: &Cgroup) -> Result<Held, CgroupError> {
    Ok(Held { used: descendants(cgroup)?, bound: read_limit(cgroup, Limits::DESCENDANTS_FILE)? })
}

/// The number of cgroups below this one.
pub(super) fn descendants(cgroup: &Cgroup) -> Result<u64, CgroupError> {
    if cgroup.had_no_children() {
        return Ok(0);
    }
    let text = cgroup.read("cgroup.stat")?;
    descendants_of_stat(&text).ok_or_else(|| CgroupError::unreadable(cgroup.path(), "cgroup.stat", &text))
}

/// Sets a limit that is `max` so far.
pub(super) fn set_limit(cgroup: &Cgroup, file: &str, value: u32) -> Result<Change, CgroupError> {
    cgroup.write(file, &value.to_string())?;
    Ok(Change {
        action: Action::SetLimits,
        path: cgroup.path().join(file).unwrap_or_else(|| cgroup.path().clone()),
        from: "max".to_owned(),
        to: value.to_string(),
    })
}

pub(super) fn read_limits(cgroup: &Cgroup) -> Result<(Limit, Limit), CgroupError> {
    Ok((read_limit(cgroup, Limits::DESCENDANTS_FILE)?, read_limit(cgroup, Limits::DEPTH_FILE)?))
}

pub(super) fn read_limit(cgroup: &Cgroup, file: &str) -> Result<Limit, CgroupError> {
    let text = cgroup.read(file)?;
    Limit::parse(&text).ok_or_else(|| CgroupError::unreadable(cgroup.path(), file, &text))
}
