//! The conclusions from observations of a container about its isolation.
//!
//! An OCI runtime first puts its own process into the container's cgroup, and then makes it enter the user
//! namespace (runc `nsexec.c`, crun `libcrun_container_run`). An observation in between finds a process in
//! the host's user namespace, which is no loss: no code of the container has run. So each observation
//! includes the stage of the container, an observation that is too early yields no verdict, and observations
//! of one container yield the same verdict in any order.

use std::time::Duration;

use super::container::{ContainerState, UserNamespaceRequest};
use super::guard::{self, Verdict};

/// The pause before the first repeated observation of a container that is being created.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between observations in the first minute. Each one is a request to the runtime.
const LONG_PAUSE: Duration = Duration::from_secs(2);
/// Approximate number of observations in the first minute.
const OFTEN: u32 = 36;
/// The pause after that: something delays the container, and its start is an event in most runtimes.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How far a container had come, at least, when it was observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// There is a specification, and nothing else yet.
    Specified,
    /// The container is being created: the process in its cgroup may be the OCI runtime's own, in the host's
    /// namespaces or in some of the container's.
    Making,
    /// The process waits in the OCI runtime, in all of its namespaces, with its mounts in place.
    Ready,
    /// The program was started. The cgroup may contain processes of other commands (CRI ExecSync) that have
    /// not entered the container's namespaces yet.
    Running,
}

/// The occasion of an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// NRI CreateContainer. The container has no process yet.
    NriCreate,
    /// NRI StartContainer. The OCI runtime has returned from its `create`, on containerd and CRI-O.
    NriStart,
    /// systemd's `JobRemoved` for the container's scope. The OCI runtime waits for the same signal.
    UnitMade,
    /// The CRI event CREATED. On CRI-O the OCI runtime has returned by then; on containerd it has not been called.
    CriCreated,
    /// The CRI event STARTED.
    CriStarted,
    /// A list of CRI or NRI with the container in that state. containerd reports a container as created until its
    /// program runs, CRI-O as soon as the OCI runtime has created it.
    Listed(ContainerState),
}

/// Where a container's process was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessPlace {
    /// There was no process, or it could not be read.
    Nowhere,
    /// In the host's user namespace.
    Hosts,
    /// In another user namespace that has no mapping yet.
    Unmapped,
    /// In another user namespace, with a mapping.
    Own,
}

/// An observation of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsolationEvidence {
    /// How far it had come, at least.
    pub stage: Stage,
    /// The request of the pod; `None` if unknown.
    pub request: Option<UserNamespaceRequest>,
    /// Whether its specification contains a user namespace.
    pub specified: bool,
    /// The user namespace of the process.
    pub place: ProcessPlace,
    /// Whether the runtime named the init process. If not, it is the first one in the cgroup, which in a running
    /// container can be a command's.
    pub named: bool,
}

/// The conclusion from an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// The verdict that the observation proves.
    Settled(Verdict),
    /// Nothing: the container is still being created, or another process was found.
    TooEarly,
}

/// The conclusion from all observations of a container so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The stage of the observation that settled it; if none did, of the last one.
    pub stage: Stage,
    /// The combined result.
    pub finding: Conclusion,
}

// === impl Occasion ===

impl Occasion {
    /// The stage that a container must have reached on this occasion.
    #[must_use]
    pub fn stage(self) -> Stage {
        match self {
            Occasion::NriCreate => Stage::Specified,
            Occasion::UnitMade
            | Occasion::CriCreated
            | Occasion::Listed(ContainerState::Created | ContainerState::Unknown) => Stage::Making,
            Occasion::NriStart => Stage::Ready,
            Occasion::CriStarted | Occasion::Listed(ContainerState::Running | ContainerState::Stopped) => {
                Stage::Running
            }
        }
    }
}

// === impl IsolationEvidence ===

impl IsolationEvidence {
    /// The conclusion from this observation.
    #[must_use]
    pub fn finding(&self) -> Conclusion {
        if !self.specified {
            // The OCI runtime will not create one. If its process has another one than the host's, the container
            // created that itself.
            return Conclusion::Settled(guard::judge(self.request, false));
        }
        match (self.place, self.stage) {
            (ProcessPlace::Own, _) => Conclusion::Settled(Verdict::Good),
            (_, Stage::Specified | Stage::Making) => Conclusion::TooEarly,
            // The process is in a user namespace of the container, even if its mapping is still missing.
            (ProcessPlace::Unmapped, Stage::Ready) => Conclusion::Settled(Verdict::Good),
            (ProcessPlace::Unmapped, Stage::Running) if self.named => Conclusion::Settled(Verdict::Good),
            (ProcessPlace::Hosts, Stage::Ready) => Conclusion::Settled(Verdict::Lost),
            (ProcessPlace::Hosts, Stage::Running) if self.named => Conclusion::Settled(Verdict::Lost),
            (ProcessPlace::Hosts | ProcessPlace::Unmapped, Stage::Running) => Conclusion::TooEarly,
            // Nothing contradicts the specification, and nothing can be done about a container that has ended.
            (ProcessPlace::Nowhere, Stage::Ready | Stage::Running) => Conclusion::Settled(Verdict::Good),
        }
    }

    /// The result of a first observation.
    #[must_use]
    pub fn known(&self) -> Known {
        Known { stage: self.stage, finding: self.finding() }
    }
}

// === impl Known ===

impl Known {
    /// Combines the results of two observations, which may have been made in either order. An observation that proves
    /// nothing changes nothing, a verdict takes precedence over an unknown one, and of two verdicts that of the later
    /// stage counts.
    #[must_use]
    pub fn and(self, other: Known) -> Known {
        let rank = |known: &Known| match known.finding {
            Conclusion::TooEarly => 0,
            Conclusion::Settled(Verdict::Unknown) => 1,
            Conclusion::Settled(Verdict::Good | Verdict::Lost) => 2,
        };
        let key = |known: &Known| (rank(known), known.stage);
        if key(&other) >= key(&self) { other } else { self }
    }
}

/// The pause before the next observation of a container that is being created, after that many.
#[must_use]
pub fn pause(observations: u32) -> Duration {
    if observations >= OFTEN {
        return LONGEST_PAUSE;
    }
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(observations)).min(LONG_PAUSE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Verdict::{Good, Lost, Unknown};

    const OCCASIONS: [Occasion; 7] = [
        Occasion::NriCreate,
        Occasion::UnitMade,
        Occasion::CriCreated,
        Occasion::NriStart,
        Occasion::CriStarted,
        Occasion::Listed(ContainerState::Created),
        Occasion::Listed(ContainerState::Running),
    ];

    /// The moments of a container's life, in order.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Moment {
        Specified,
        RuntimeInHosts,
        RuntimeUnmapped,
        Waiting,
        Running,
        Ended,
    }
    use Moment::{Ended, Running, RuntimeInHosts, RuntimeUnmapped, Specified, Waiting};
    const MOMENTS: [Moment; 6] = [Specified, RuntimeInHosts, RuntimeUnmapped, Waiting, Running, Ended];

    /// The further course of a container.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Course {
        /// The container gets the user namespace that its pod requested.
        Isolated,
        /// The runtime did not specify one (CRI-O after it lost the mappings).
        Forgotten,
        /// The OCI runtime did not follow the specification.
        Disobeyed,
        /// The pod requested the host's user namespace.
        Hosts,
    }

    /// When an observation on that occasion can take place: a message may be handled long after it was sent.
    fn can_see(occasion: Occasion, moment: Moment) -> bool {
        match occasion {
            Occasion::NriCreate => moment == Specified,
            // The runtime waits for the answer.
            Occasion::NriStart => moment == Waiting,
            Occasion::UnitMade => moment >= RuntimeInHosts,
            Occasion::CriCreated | Occasion::Listed(ContainerState::Created) => true,
            _ => moment >= Running,
        }
    }

    fn place(course: Course, moment: Moment) -> ProcessPlace {
        match (course, moment) {
            (_, Specified | Ended) => ProcessPlace::Nowhere,
            (_, RuntimeInHosts) => ProcessPlace::Hosts,
            (Course::Isolated, RuntimeUnmapped) => ProcessPlace::Unmapped,
            (Course::Isolated, Waiting | Running) => ProcessPlace::Own,
            _ => ProcessPlace::Hosts,
        }
    }

    fn evidence(
        course: Course,
        occasion: Occasion,
        moment: Moment,
        asked: bool,
        named: bool,
        command: bool,
    ) -> IsolationEvidence {
        // A command's process is only found if the runtime did not name the init process.
        let command = command && moment == Running && !named && occasion.stage() == Stage::Running;
        IsolationEvidence {
            stage: occasion.stage(),
            request: asked.then_some(match course {
                Course::Hosts => UserNamespaceRequest::Host,
                _ => UserNamespaceRequest::Own,
            }),
            specified: matches!(course, Course::Isolated | Course::Disobeyed),
            place: if command { ProcessPlace::Hosts } else { place(course, moment) },
            named,
        }
    }

    fn courses() -> impl Strategy<Value = Course> {
        prop_oneof![
            Just(Course::Isolated),
            Just(Course::Forgotten),
            Just(Course::Disobeyed),
            Just(Course::Hosts),
        ]
    }

    /// Observations of one container, in one order and in another.
    fn histories() -> impl Strategy<Value = (Course, Vec<IsolationEvidence>, Vec<IsolationEvidence>)> {
        let one = (0..OCCASIONS.len(), 0..MOMENTS.len(), any::<bool>(), any::<bool>(), any::<bool>());
        (courses(), prop::collection::vec(one, 1..12)).prop_flat_map(|(course, observations)| {
            let observations: Vec<IsolationEvidence> = observations
                .into_iter()
                .map(|(occasion, moment, asked, named, command)| {
                    (OCCASIONS[occasion], MOMENTS[moment], asked, named, command)
                })
                .filter(|(occasion, moment, ..)| can_see(*occasion, *moment))
                // The end of its process is no evidence about a disobeyed container.
                .filter(|(_, moment, ..)| course != Course::Disobeyed || *moment != Ended)
                .map(|(occasion, moment, asked, named, command)| {
                    evidence(course, occasion, moment, asked, named, command)
                })
                .collect();
            (Just(course), Just(observations.clone()), Just(observations).prop_shuffle())
        })
    }

    fn every_step(observations: &[IsolationEvidence]) -> Vec<Known> {
        let mut steps: Vec<Known> = Vec::new();
        for evidence in observations {
            let known = evidence.known();
            steps.push(steps.last().map_or(known, |before| before.and(known)));
        }
        steps
    }

    proptest! {
        #[test]
        fn the_order_of_observations_makes_no_difference((_, one, other) in histories()) {
            let last = |observations: &[IsolationEvidence]| every_step(observations).last().map(|known| known.finding);
            prop_assert_eq!(last(&one), last(&other));
        }

        #[test]
        fn an_isolated_container_is_never_called_lost((course, _, observations) in histories()) {
            let lost = |known: &Known| known.finding == Conclusion::Settled(Lost);
            if matches!(course, Course::Isolated | Course::Hosts) {
                prop_assert!(!every_step(&observations).iter().any(lost), "{:?}", observations);
            }
        }

        /// A lost one is never called good once the pod's request is known, and a single observation that shows the
        /// loss is enough, whatever comes before and after it.
        #[test]
        fn a_lost_container_is_found_to_be_lost((course, _, mut observations) in histories(), at in any::<prop::sample::Index>()) {
            let telling = match course {
                Course::Forgotten => evidence(course, Occasion::UnitMade, RuntimeInHosts, true, false, false),
                Course::Disobeyed => evidence(course, Occasion::NriStart, Waiting, true, false, false),
                _ => return Ok(()),
            };
            observations.insert(at.index(observations.len() + 1), telling);
            let steps = every_step(&observations);
            prop_assert_eq!(steps.last().map(|known| known.finding), Some(Conclusion::Settled(Lost)));
            prop_assert!(!steps.iter().any(|known| known.finding == Conclusion::Settled(Good)));
        }

        #[test]
        fn one_observation_of_the_running_container_is_enough((course, _, mut observations) in histories()) {
            observations.push(evidence(course, Occasion::Listed(ContainerState::Running), Running, true, true, false));
            let want = if matches!(course, Course::Isolated | Course::Hosts) { Good } else { Lost };
            prop_assert_eq!(every_step(&observations).last().unwrap().finding, Conclusion::Settled(want));
        }
    }

    #[test]
    fn each_occasion_proves_what_it_can() {
        use Conclusion::{Settled, TooEarly};
        use Occasion::{CriCreated, CriStarted, Listed, NriCreate, NriStart, UnitMade};
        let created = Listed(ContainerState::Created);
        let running = Listed(ContainerState::Running);
        for (occasion, place, named, want) in [
            (NriCreate, ProcessPlace::Nowhere, false, TooEarly),
            (UnitMade, ProcessPlace::Hosts, false, TooEarly),
            (UnitMade, ProcessPlace::Unmapped, false, TooEarly),
            (UnitMade, ProcessPlace::Nowhere, false, TooEarly),
            (UnitMade, ProcessPlace::Own, false, Settled(Good)),
            (CriCreated, ProcessPlace::Hosts, true, TooEarly),
            (created, ProcessPlace::Hosts, true, TooEarly),
            (created, ProcessPlace::Nowhere, true, TooEarly),
            (created, ProcessPlace::Own, false, Settled(Good)),
            (NriStart, ProcessPlace::Hosts, false, Settled(Lost)),
            (NriStart, ProcessPlace::Own, false, Settled(Good)),
            (CriStarted, ProcessPlace::Hosts, false, TooEarly),
            (CriStarted, ProcessPlace::Hosts, true, Settled(Lost)),
            (running, ProcessPlace::Hosts, false, TooEarly),
            (running, ProcessPlace::Unmapped, false, TooEarly),
            (running, ProcessPlace::Hosts, true, Settled(Lost)),
            (running, ProcessPlace::Own, false, Settled(Good)),
        ] {
            let own = Some(UserNamespaceRequest::Own);
            let evidence =
                IsolationEvidence { stage: occasion.stage(), request: own, specified: true, place, named };
            assert_eq!(evidence.finding(), want, "{occasion:?} {place:?} named: {named}");
            // Without a user namespace in the specification the process makes no difference.
            let unspecified = IsolationEvidence { specified: false, ..evidence };
            assert_eq!(unspecified.finding(), Settled(Lost), "{occasion:?} {place:?}");
            assert_eq!(IsolationEvidence { request: None, ..unspecified }.finding(), Settled(Unknown));
        }
    }

    #[test]
    fn repeated_observations_begin_soon_and_become_rare() {
        assert_eq!(pause(0), FIRST_PAUSE);
        assert!((0..64).all(|observations| pause(observations) <= pause(observations + 1)));
        let first_minute: Duration = (0..OFTEN).map(pause).sum();
        assert_eq!(first_minute.as_secs(), 60);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
