//! Containers that started without what they should have, because nothing was in their start path: which of them may
//! be stopped, so that the kubelet creates them again.
//!
//! Killing a workload's process is the last resort: only if configured, once per container, a few at a time, and only
//! if its successor will be right.

use std::collections::BTreeMap;
use std::time::Duration;

use super::adjust::{self, AdjustRules};
use super::container::{Container, PodRef};
use super::rate_limit::Bucket;

/// How many containers may be stopped without a pause.
const IN_A_ROW: u32 = 5;
/// After that, one container is stopped per interval: 120 in the ten minutes during which a container counts as young
/// by default.
const EVERY: Duration = Duration::from_secs(5);
/// How many stopped containers are remembered: more than the pods of a node can have.
const REMEMBERED: usize = 4096;

/// The pod annotation that keeps a pod's missed containers; its value is [`KEEP`].
pub const ANNOTATION: &str = "usernsd.io/missed";
/// See [`ANNOTATION`].
pub const KEEP: &str = "report";
/// The annotation that the kubelet, and only the kubelet, sets on each container (`kuberuntime/labels.go`).
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";

/// The treatment of a container that started without what it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissedPolicy {
    Report,
    /// Report it, and stop it once, so that the kubelet creates it again.
    Restart,
}

words! {
    /// The name in the configuration.
    MissedPolicy { Report = "report", Restart = "restart" }
}

/// The configuration for one kind of missed container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairRule {
    /// The treatment of the container.
    pub policy: MissedPolicy,
    /// The age from which a container is left alone, because it may have work to lose.
    pub max_age: Duration,
}

/// The configuration for both kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairRules {
    /// Containers without the writable cgroup that their pod asked for.
    pub opt_in: RepairRule,
    /// Containers without the user namespace that their pod asked for.
    pub guard: RepairRule,
    /// The guard refuses such containers; otherwise a successor would run just the same.
    pub guard_refuses: bool,
    /// The agent changes nothing.
    pub observe_only: bool,
}

/// The part without which a container started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missed {
    /// The user namespace that the pod requested.
    UserNamespace,
    /// A writable cgroup.
    WritableCgroup,
}

/// The facts about a container that started without something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairFacts {
    /// The missing part.
    pub missed: Missed,
    /// How long its first process has run; `None` if that cannot be read.
    pub age: Option<Duration>,
    /// The kubelet's restart count; `None` if no kubelet created it.
    pub restarts: Option<u32>,
    /// Whether its pod's annotation asks to keep it.
    pub kept: bool,
    /// Whether its sandbox is ready.
    pub sandbox_is_ready: bool,
    /// Whether its predecessor, of the same name in the same sandbox, was killed by SIGKILL: by an earlier agent, by
    /// the kubelet or by the kernel.
    pub predecessor_was_killed: bool,
    /// Whether usernsd is in the start path of its successor.
    pub asked_first: bool,
}

/// Why a container is not stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepReason {
    /// The configuration permits only to report it.
    Policy,
    /// The agent changes nothing.
    ObserveOnly,
    /// Nothing is in the start path: a successor would miss the same.
    NotAskedFirst,
    /// No kubelet created it, so nothing would create it again.
    NotKubelets,
    /// The pod's annotation keeps the container.
    PodOptedOut,
    /// The sandbox is being removed.
    Ending,
    /// The container has run for too long, or its age is unknown.
    TooOld,
    /// The predecessor was stopped, and the container lacks the writable cgroup again.
    EndedBefore,
}

/// The containers that were stopped, and how many more may be stopped now.
#[derive(Debug, Clone)]
pub struct Repairs {
    ended: BTreeMap<(String, String), Duration>,
    bucket: Bucket,
}

/// Whether a container was created without the writable cgroup that its pod asked for and may have. The container's
/// annotations are its pod's.
#[must_use]
pub fn lacks_writable_cgroup(container: &Container, rules: &AdjustRules) -> bool {
    // A cgroup namespace for a privileged container is no request of the pod.
    let opt_in_only = AdjustRules { privileged_cgroup_namespace: false, ..rules.clone() };
    let planned = adjust::plan(container, &opt_in_only, None);
    planned.is_ok_and(|planned| {
        planned.is_some_and(|adjustment| {
            adjustment.mounts.iter().any(|change| change.mount.destination == "/sys/fs/cgroup")
        })
    })
}

// === impl KeepReason ===

words! {
    /// The name in logs and documents.
    KeepReason {
        Policy = "policy",
        ObserveOnly = "observe_only",
        NotAskedFirst = "not_asked_first",
        NotKubelets = "not_kubelets",
        PodOptedOut = "pod_opted_out",
        Ending = "ending",
        TooOld = "too_old",
        EndedBefore = "ended_before",
    }
}

// === impl Missed ===

words! {
    /// The name in logs, metrics and documents.
    Missed { UserNamespace = "user_namespace", WritableCgroup = "writable_cgroup" }
}

// === impl RepairRules ===

impl RepairRules {
    /// Whether these rules can stop any container at all.
    #[must_use]
    pub fn end_any(&self, missed: Missed) -> bool {
        !self.observe_only && self.rule(missed).policy == MissedPolicy::Restart && {
            missed != Missed::UserNamespace || self.guard_refuses
        }
    }

    fn rule(&self, missed: Missed) -> RepairRule {
        match missed {
            Missed::UserNamespace => self.guard,
            Missed::WritableCgroup => self.opt_in,
        }
    }

    /// Decides whether a container may be stopped.
    ///
    /// # Errors
    /// The first reason to keep it.
    pub fn may_end(&self, candidate: &RepairFacts) -> Result<(), KeepReason> {
        let rule = self.rule(candidate.missed);
        if self.observe_only {
            return Err(KeepReason::ObserveOnly);
        }
        if !self.end_any(candidate.missed) {
            return Err(KeepReason::Policy);
        }
        // The guard protects the node from the pod, so the pod cannot switch it off.
        if candidate.kept && candidate.missed == Missed::WritableCgroup {
            return Err(KeepReason::PodOptedOut);
        }
        if candidate.restarts.is_none() {
            return Err(KeepReason::NotKubelets);
        }
        if !candidate.sandbox_is_ready {
            return Err(KeepReason::Ending);
        }
        // The pod decides how its containers end. One that lost its user namespace is stopped all the same: the guard
        // refuses its successor if that is lost too, so that there is no loop.
        if candidate.predecessor_was_killed && candidate.missed == Missed::WritableCgroup {
            return Err(KeepReason::EndedBefore);
        }
        if candidate.age.is_none_or(|age| age >= rule.max_age) {
            return Err(KeepReason::TooOld);
        }
        if !candidate.asked_first {
            return Err(KeepReason::NotAskedFirst);
        }
        Ok(())
    }
}

// === impl Repairs ===

impl Default for Repairs {
    fn default() -> Repairs {
        Repairs { ended: BTreeMap::new(), bucket: Bucket::new(IN_A_ROW, EVERY) }
    }
}

impl Repairs {
    /// Whether this agent has stopped a container of that name in that pod before, so that it does not stop the
    /// successor. A container that lost its user namespace is stopped anyway.
    #[must_use]
    pub fn was_ended(&self, missed: Missed, pod: &PodRef, name: &str) -> bool {
        missed == Missed::WritableCgroup && self.ended.contains_key(&(pod.uid.clone(), name.to_owned()))
    }

    /// Records that a container is stopped at time `now`; `false` if it has to wait, because others were stopped
    /// recently.
    pub fn end(&mut self, pod: &PodRef, name: &str, now: Duration) -> bool {
        let granted = self.bucket.take(now);
        if granted {
            if self.ended.len() >= REMEMBERED {
                // At that rate it was stopped hours ago.
                let oldest = self.ended.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone());
                oldest.and_then(|key| self.ended.remove(&key));
            }
            self.ended.insert((pod.uid.clone(), name.to_owned()), now);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: RepairRules = RepairRules {
        opt_in: RepairRule { policy: MissedPolicy::Restart, max_age: Duration::from_secs(600) },
        guard: RepairRule { policy: MissedPolicy::Restart, max_age: Duration::from_secs(600) },
        guard_refuses: true,
        observe_only: false,
    };

    fn young(missed: Missed) -> RepairFacts {
        RepairFacts {
            missed,
            age: Some(Duration::from_secs(3)),
            restarts: Some(0),
            kept: false,
            sandbox_is_ready: true,
            predecessor_was_killed: false,
            asked_first: true,
        }
    }

    fn pod(uid: &str) -> PodRef {
        PodRef { namespace: "n".into(), name: "p".into(), uid: uid.into() }
    }

    #[test]
    fn each_doubt_keeps_the_container() {
        type Spoil = fn(&mut RepairFacts);
        let cases: [(Spoil, KeepReason); 6] = [
            (|c| c.age = None, KeepReason::TooOld),
            (|c| c.age = Some(Duration::from_secs(600)), KeepReason::TooOld),
            (|c| c.restarts = None, KeepReason::NotKubelets),
            (|c| c.sandbox_is_ready = false, KeepReason::Ending),
            (|c| c.predecessor_was_killed = true, KeepReason::EndedBefore),
            (|c| c.asked_first = false, KeepReason::NotAskedFirst),
        ];
        for missed in [Missed::UserNamespace, Missed::WritableCgroup] {
            assert_eq!(RULES.may_end(&young(missed)), Ok(()));
            for (spoil, want) in cases {
                let mut candidate = young(missed);
                spoil(&mut candidate);
                // How a container ends is its pod's choice, which must not keep it running as the host's root.
                let its_choice = missed == Missed::UserNamespace && want == KeepReason::EndedBefore;
                let want = if its_choice { Ok(()) } else { Err(want) };
                assert_eq!(RULES.may_end(&candidate), want, "{missed:?}");
            }
            let observing = RepairRules { observe_only: true, ..RULES };
            assert_eq!(observing.may_end(&young(missed)), Err(KeepReason::ObserveOnly));
        }
    }

    #[test]
    fn each_kind_has_its_own_policy() {
        let report = RepairRule { policy: MissedPolicy::Report, ..RULES.guard };
        let (cgroup, isolation) = (young(Missed::WritableCgroup), young(Missed::UserNamespace));
        let rules = RepairRules { opt_in: report, ..RULES };
        assert_eq!((rules.may_end(&cgroup), rules.may_end(&isolation)), (Err(KeepReason::Policy), Ok(())));
        let rules = RepairRules { guard: report, ..RULES };
        assert_eq!((rules.may_end(&cgroup), rules.may_end(&isolation)), (Ok(()), Err(KeepReason::Policy)));
        // The successor would run as the host's root as well.
        let rules = RepairRules { guard_refuses: false, ..RULES };
        assert_eq!((rules.may_end(&cgroup), rules.may_end(&isolation)), (Ok(()), Err(KeepReason::Policy)));
    }

    #[test]
    fn a_pod_can_keep_containers_except_those_that_lost_isolation() {
        let kept = |missed| RULES.may_end(&RepairFacts { kept: true, ..young(missed) });
        assert_eq!(kept(Missed::WritableCgroup), Err(KeepReason::PodOptedOut));
        assert_eq!(kept(Missed::UserNamespace), Ok(()));
    }

    #[test]
    fn a_container_is_stopped_once() {
        let mut repairs = Repairs::default();
        assert!(!repairs.was_ended(Missed::WritableCgroup, &pod("a"), "c"));
        assert!(repairs.end(&pod("a"), "c", Duration::ZERO));
        assert!(repairs.was_ended(Missed::WritableCgroup, &pod("a"), "c"));
        assert!(!repairs.was_ended(Missed::UserNamespace, &pod("a"), "c"));
        assert!(
            !repairs.was_ended(Missed::WritableCgroup, &pod("a"), "d")
                && !repairs.was_ended(Missed::WritableCgroup, &pod("b"), "c")
        );
    }

    #[test]
    fn the_oldest_of_too_many_is_forgotten() {
        let mut repairs = Repairs::default();
        for number in 0..=REMEMBERED {
            let now = EVERY * u32::try_from(number).unwrap();
            assert!(repairs.end(&pod(&number.to_string()), "c", now));
        }
        assert!(!repairs.was_ended(Missed::WritableCgroup, &pod("0"), "c"));
        assert!((1..=REMEMBERED).all(|number| repairs.was_ended(
            Missed::WritableCgroup,
            &pod(&number.to_string()),
            "c"
        )));
    }

    proptest! {
        /// However many are missed at once, the node loses a few at a time.
        #[test]
        fn few_are_stopped_at_a_time(moments in prop::collection::vec(0u64..600, 1..400)) {
            let mut moments = moments;
            moments.sort_unstable();
            let mut repairs = Repairs::default();
            let mut granted: Vec<u64> = Vec::new();
            for (number, moment) in moments.iter().enumerate() {
                if repairs.end(&pod(&number.to_string()), "c", Duration::from_secs(*moment)) {
                    granted.push(*moment);
                }
            }
            for (index, from) in granted.iter().enumerate() {
                let within = granted[index..].iter().filter(|moment| **moment < from + 60).count();
                prop_assert!(within <= 5 + 12, "{} in a minute", within);
            }
        }
    }
}
