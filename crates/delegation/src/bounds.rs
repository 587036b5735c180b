//! The number of cgroups that a pod and each of its containers may create, so that none is handed over without a limit.

use usernsd_domain::container::CgroupMount;
use usernsd_domain::delegation::{Limit, Limits};

/// The part of the pod's cgroups that no container gets: one of this many.
const RESERVED_PART: u32 = 8;
/// Minimum of that part: two containers of CRI-O with crun, each with its scope, the cgroup in it and
/// conmon's scope.
const RESERVED_LEAST: u32 = 6;
/// A container whose cgroup is to be writable gets one of this many parts of what the others leave.
const WRITABLE_PART: u64 = 2;
/// Any other container that owns its cgroup: it creates cgroups only if it mounts its cgroup itself, and must leave enough
/// to those that are to.
const UNASKED_PART: u64 = 16;

/// A cgroup directly below a pod's: a sandbox's, a container's or conmon's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildCgroup {
    /// The cgroups below it.
    pub used: u64,
    /// The bound on their number, where only the host can change it.
    pub bound: Limit,
}

// === impl ChildCgroup ===

impl ChildCgroup {
    /// The most cgroups that it may contain later, itself included, in a pod with the limit `pod`. Without a bound of
    /// its own, or with one that is not below the pod's, it was not handed over, and counts as it is now.
    #[must_use]
    pub fn most(self, pod: u32) -> u64 {
        let below = match self.bound {
            Limit::At(bound) if bound < pod => self.used.max(bound.into()),
            Limit::At(_) | Limit::Max => self.used,
        };
        below.saturating_add(1)
    }
}

/// The file and the value of each limit to be written: those that are still `max`. A value that an
/// administrator or the kubelet has set is kept, higher or lower.
#[must_use]
pub fn missing(limits: &Limits, descendants: Limit, depth: Limit) -> Vec<(&'static str, u32)> {
    let unset = |now: Limit| now == Limit::Max;
    [
        (unset(descendants), Limits::DESCENDANTS_FILE, limits.descendants),
        (unset(depth), Limits::DEPTH_FILE, limits.depth),
    ]
    .into_iter()
    .filter_map(|(unset, file, value)| unset.then_some((file, value)))
    .collect()
}

/// `cgroup.max.descendants` of a container's own cgroup, in a pod that may hold `pod` cgroups: one
/// container must not use up what the pod's other containers need to start.
///
/// `taken` is what the pod's other cgroups hold or may come to hold ([`ChildCgroup::most`]), with the
/// container's own directories; `used` is the number of cgroups that the container has made already, and
/// `mount` the mount of its cgroup in its specification.
///
/// The node does not know how many containers will follow. So a part is reserved for the containers' own
/// directories; of the rest, each container gets half, and the next one half of what remains; one whose cgroup is
/// not to be writable gets a sixteenth. A container that has created more before it was bounded keeps room for
/// twice as many, as far as there is room.
#[must_use]
pub fn share(pod: u32, taken: u64, used: u64, mount: CgroupMount) -> u32 {
    let kept = (pod / RESERVED_PART).max(RESERVED_LEAST);
    let free = u64::from(pod).saturating_sub(taken).saturating_sub(kept.into());
    let part = if mount == CgroupMount::ReadWrite { WRITABLE_PART } else { UNASKED_PART };
    let share = (free / part).max(used.saturating_mul(2).min(free));
    u32::try_from(share).unwrap_or(pod)
}

/// The number of cgroups that a pod's cgroups hold or may come to hold, if `closed` of them cannot be read, because
/// their containers permit it to nobody. `taken` is that number for the others, and `used` the number of cgroups
/// in the closed ones, by the pod's own count.
///
/// Their limits are unknown. Each is taken to have what a container gets that starts now, which leaves as much
/// for the next one as if it could be read.
#[must_use]
pub fn taken_with_closed(pod: u32, taken: u64, closed: u32, used: u64) -> u64 {
    // More of them get nothing.
    let assumed = (0..closed.min(32)).fold(0_u64, |assumed, _| {
        let share = share(pod, taken.saturating_add(assumed), 0, CgroupMount::ReadWrite);
        assumed.saturating_add(u64::from(share)).saturating_add(1)
    });
    taken.saturating_add(assumed.max(used))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The share of a container whose cgroup is to be writable.
    fn share(pod: u32, taken: u64, used: u64) -> u32 {
        super::share(pod, taken, used, CgroupMount::ReadWrite)
    }

    /// A container that hides its number of cgroups takes nothing from the next one.
    #[test]
    fn a_closed_cgroup_counts_as_one_that_could_be_read() {
        let first = share(250, 1, 0);
        let open = share(250, 2 + u64::from(first), 0);
        assert_eq!((first, open), (109, 54));
        // By its number if that is known to be higher, else as the first of two containers.
        for used in [0, 1, 110] {
            let taken = taken_with_closed(250, 1, 1, used);
            assert_eq!((taken, share(250, taken, 0)), (111, open), "{used}");
        }
        assert!(share(250, taken_with_closed(250, 1, 1, 150), 0) < open);
        assert_eq!(taken_with_closed(250, 7, 0, 0), 7);
        // However many there are, the next one gets something.
        let shares = [2, 3, 4, 5].map(|closed| share(250, taken_with_closed(250, 1, closed, 0), 0));
        assert!(shares.is_sorted_by(|one, next| one > next) && shares[3] > 0, "{shares:?}");
        assert!(taken_with_closed(250, 1, u32::MAX, u64::MAX) == u64::MAX);
    }

    #[test]
    fn only_missing_limits_are_set() {
        let limits = Limits::DEFAULT;
        assert_eq!(
            missing(&limits, Limit::Max, Limit::Max),
            [("cgroup.max.descendants", 250), ("cgroup.max.depth", 50)]
        );
        assert_eq!(missing(&limits, Limit::At(9), Limit::Max), [("cgroup.max.depth", 50)]);
        assert_eq!(missing(&limits, Limit::At(10_000), Limit::At(1)), []);
    }

    /// The shares of a pod's containers, one after another, each with `own` directories, besides a sandbox;
    /// the last value is the number of cgroups in the pod when each has created all it may.
    fn shares(pod: u32, own: u64, containers: usize) -> (Vec<u32>, u64) {
        let mut taken = ChildCgroup { used: 0, bound: Limit::Max }.most(pod);
        let mut shares = Vec::new();
        for _ in 0..containers {
            taken += own;
            let share = share(pod, taken, 0);
            taken += u64::from(share);
            shares.push(share);
        }
        (shares, taken)
    }

    #[test]
    fn a_greedy_container_leaves_room_for_the_next() {
        // runc: one directory each. crun: the scope and the cgroup in it.
        assert_eq!(shares(250, 1, 7).0, [108, 54, 26, 13, 6, 2, 1]);
        assert_eq!(shares(250, 2, 7).0, [108, 53, 25, 12, 5, 1, 0]);
        for (pod, own, containers) in
            [(250, 1, 38), (250, 3, 15), (16, 3, 3), (16, 1, 6), (1_000_000, 3, 1000)]
        {
            let most = shares(pod, own, containers).1;
            assert!(most + own <= u64::from(pod), "{pod} {own} {containers}: {most}");
        }
        // If the pod has no room at all, no container gets a share.
        assert_eq!(shares(0, 1, 2).0, [0, 0]);
        assert_eq!(share(250, 400, 300), 0);
    }

    /// In a pod whose OCI runtime hands over every cgroup, and whose last container is the only one that asks for it.
    #[test]
    fn containers_that_do_not_ask_leave_enough_to_one_that_does() {
        let mut taken = ChildCgroup { used: 0, bound: Limit::Max }.most(250);
        let mut shares = Vec::new();
        for mount in [CgroupMount::ReadOnly; 8].into_iter().chain([CgroupMount::ReadWrite]) {
            taken += 2;
            let share = super::share(250, taken, 0, mount);
            taken += u64::from(share);
            shares.push(share);
        }
        assert_eq!(shares, [13, 12, 11, 10, 10, 9, 8, 8, 59]);
        assert_eq!(super::share(250, 2, 0, CgroupMount::Absent), 13);
        // It keeps room for twice as many as it has made already.
        assert_eq!(super::share(250, 2, 20, CgroupMount::ReadOnly), 40);
    }

    #[test]
    fn a_container_that_was_not_bounded_keeps_what_it_made() {
        for (used, want) in [(0, 108), (54, 108), (70, 140), (120, 217), (240, 217), (u64::MAX, 217)] {
            assert_eq!(share(250, 2, used), want, "{used}");
        }
    }

    #[test]
    fn a_container_counts_with_its_limit_only_if_that_is_below_the_pods() {
        let most = |used, bound| ChildCgroup { used, bound }.most(250);
        assert_eq!(most(0, Limit::Max), 1);
        assert_eq!(most(7, Limit::Max), 8);
        assert_eq!(most(7, Limit::At(108)), 109);
        assert_eq!(most(120, Limit::At(108)), 121);
        // An administrator's, above the pod's.
        assert_eq!(most(7, Limit::At(10_000)), 8);
        assert_eq!(most(u64::MAX, Limit::Max), u64::MAX);
    }

    proptest! {
        /// For any neighbours and any number of cgroups in use, a container's limit never uses up the reserve
        /// for the directories of later containers.
        #[test]
        fn a_share_leaves_the_reserve_for_later_containers(pod in 0..2000u32, taken in 0..3000u64, used in 0..3000u64, is_writable in any::<bool>()) {
            let mount = if is_writable { CgroupMount::ReadWrite } else { CgroupMount::ReadOnly };
            let share = super::share(pod, taken, used, mount);
            prop_assert!(share == 0 || u64::from(share) + taken + u64::from((pod / 8).max(6)) <= u64::from(pod));
        }
    }
}
