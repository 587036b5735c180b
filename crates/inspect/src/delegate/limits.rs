//! The limits of cgroups, and the numbers that they bound.

use super::stop::Stop;
use super::{Delegator, Inspection};
use usernsd_delegation::bounds::{self, ChildCgroup};
use usernsd_domain::cgroup::descendants_of_stat;
use usernsd_domain::container::CgroupMount;
use usernsd_domain::delegation::{KnownLimits, Limit, Limits};
use usernsd_domain::idmap::HostId;
use usernsd_domain::record::{Action, Change};
use usernsd_domain::unit::pod_cgroup;
use usernsd_linux::cgroupfs::{Cgroup, CgroupError};

/// The most cgroups that an OCI runtime creates within a container's own: crun creates one.
const RUNTIMES_CGROUPS: usize = 8;

/// The most cgroups of a pod that are kept until the answer is sent.
const KEPT: usize = 8;

/// How many cgroups a cgroup directly below a pod's contains, itself included.
struct Contained {
    now: u64,
    /// The most that it may come to contain.
    most: u64,
}

impl Delegator {
    /// The cgroup on which limits are set: the pod's, on which the kubelet will set them too (KEP-5474).
    /// Without a pod it is the container's, so that no other service is limited.
    pub(super) fn bounded_cgroup(own: &Cgroup) -> Option<Cgroup> {
        own.above(&pod_cgroup(own.path())?)
    }

    /// The limits on the cgroups that a container with this cgroup may create.
    pub(super) fn limits_of(own: &Cgroup) -> Result<KnownLimits, CgroupError> {
        let (descendants, depth) = read_limits(Self::bounded_cgroup(own).as_ref().unwrap_or(own))?;
        Ok(KnownLimits::of(descendants, depth))
    }

    /// Sets the limits that are missing, for a container whose specification mounts its cgroup in this way.
    pub(super) fn set_limits(
        &self,
        own: &Cgroup,
        specified: CgroupMount,
        done: &mut Inspection,
    ) -> Result<(), Stop> {
        let pod = Self::bounded_cgroup(own);
        let bounded = pod.as_ref().unwrap_or(own);
        let (descendants, depth) = read_limits(bounded)?;
        for (file, value) in bounds::missing(&self.limits, descendants, depth) {
            done.changes.push(set_limit(bounded, file, value)?);
        }
        // Set now or found set; a failed write has returned above.
        let or = |limit, written| if let Limit::At(found) = limit { found } else { written };
        let limits = Limits {
            descendants: or(descendants, self.limits.descendants),
            depth: or(depth, self.limits.depth),
        };
        if let Some(pod) = &pod {
            self.set_share(own, pod, limits.descendants, specified, done)?;
        }
        done.beside.extend(pod);
        done.observation.limits = KnownLimits::Set(limits);
        Ok(())
    }

    /// Limits the container's own cgroup, so that the pod's next container finds room in the pod's cgroup,
    /// which may have `most` descendants. A limit that is set already is kept.
    fn set_share(
        &self,
        own: &Cgroup,
        pod: &Cgroup,
        most: u32,
        specified: CgroupMount,
        done: &mut Inspection,
    ) -> Result<(), Stop> {
        if let Limit::At(_) = read_limit(own, Limits::DESCENDANTS_FILE)? {
            return Ok(());
        }
        // If two containers start at the same moment, the second one sees the first one's limit.
        let _held = pod.hold();
        let mut below = own.path().components().skip(pod.path().components().count());
        let top = below.next().unwrap_or_default();
        let mut taken = 1 + below.count() as u64;
        let used = descendants(own)?;
        // The number of those that are read.
        let mut seen = taken.saturating_add(used);
        let mut closed = 0;
        for name in pod.children()?.iter().filter(|name| *name != top) {
            let held = pod.child(name).and_then(|beside| {
                let held = most_held(&beside, most)?;
                if done.beside.len() < KEPT {
                    done.beside.push(beside);
                }
                Ok(held)
            });
            match held {
                Ok(held) => {
                    taken = taken.saturating_add(held.most);
                    seen = seen.saturating_add(held.now);
                }
                Err(error) if error.is_gone() => {}
                // A container that closes its cgroup must not keep this one from getting its own.
                Err(error) if error.is_closed() => closed += 1,
                Err(error) => return Err(error.into()),
            }
        }
        // The closed ones have the others.
        let others = match closed {
            0 => 0,
            _ => descendants(pod)?.saturating_sub(seen),
        };
        let taken = bounds::taken_with_closed(most, taken, closed, others);
        let share = bounds::share(most, taken, used, specified);
        done.changes.push(set_limit(own, Limits::DESCENDANTS_FILE, share)?);
        Ok(())
    }
}

/// What a cgroup directly below a pod's contains.
fn most_held(cgroup: &Cgroup, pod: u32) -> Result<Contained, CgroupError> {
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

fn held(cgroup: &Cgroup) -> Result<ChildCgroup, CgroupError> {
    Ok(ChildCgroup { used: descendants(cgroup)?, bound: read_limit(cgroup, Limits::DESCENDANTS_FILE)? })
}

/// The number of cgroups below this one.
fn descendants(cgroup: &Cgroup) -> Result<u64, CgroupError> {
    if cgroup.had_no_children() {
        return Ok(0);
    }
    let text = cgroup.read("cgroup.stat")?;
    descendants_of_stat(&text).ok_or_else(|| CgroupError::unreadable(cgroup.path(), "cgroup.stat", &text))
}

/// Sets a limit that is `max` so far.
fn set_limit(cgroup: &Cgroup, file: &str, value: u32) -> Result<Change, CgroupError> {
    cgroup.write(file, &value.to_string())?;
    Ok(Change {
        action: Action::SetLimits,
        path: cgroup.path().join(file).unwrap_or_else(|| cgroup.path().clone()),
        from: "max".to_owned(),
        to: value.to_string(),
    })
}

fn read_limits(cgroup: &Cgroup) -> Result<(Limit, Limit), CgroupError> {
    Ok((read_limit(cgroup, Limits::DESCENDANTS_FILE)?, read_limit(cgroup, Limits::DEPTH_FILE)?))
}

pub(super) fn read_limit(cgroup: &Cgroup, file: &str) -> Result<Limit, CgroupError> {
    let text = cgroup.read(file)?;
    Limit::parse(&text).ok_or_else(|| CgroupError::unreadable(cgroup.path(), file, &text))
}
