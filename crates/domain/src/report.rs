//! Decisions and changes for one container, as plain values: the launched plugin sends them to the agent, and
//! the agent records its own decisions in the same form.

use std::collections::VecDeque;
use std::time::Duration;

use super::clock::Stamp;
use super::container::{CriId, PodRef};
use super::guard::{self, Verdict};
use super::record::{Action, Change, Record};

/// A container's identifier and names, for records, log lines and Events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerNames {
    /// The container's identifier.
    pub id: CriId,
    /// The container's name in the pod.
    pub name: String,
    pub pod: PodRef,
}

/// The decision on a container that is about to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub container: ContainerNames,
    /// Whether it would get the user namespace that its pod asked for.
    pub isolation: Verdict,
    /// Whether its creation was refused.
    pub refused: bool,
    /// Whether the runtime was asked for the pod's request, and did not answer in time.
    pub unanswered: bool,
    /// The changes to it, if any.
    pub adjusted: Option<Adjusted>,
    /// The pod's request that was not granted, if any.
    pub ungranted: Option<NotGranted>,
}

/// The adjustments of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adjusted {
    /// Number of mounts that were added or replaced.
    pub mounts: usize,
    /// Whether it got its own cgroup namespace.
    pub cgroup_namespace: bool,
}

/// A request that was not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotGranted {
    /// The reason's name.
    pub reason: String,
    /// The reason as a sentence, without a full stop.
    pub sentence: String,
}

/// The inspection of an existing container, and what was done for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspected {
    /// The container's new record.
    pub record: Record,
    /// The changes on the host, in order.
    pub changes: Vec<Change>,
    /// The change during which the inspection failed; `None` if it did not fail.
    pub failed: Option<Action>,
    /// The reason, if the outcome's name does not explain it.
    pub detail: Option<String>,
    /// Whether its start was refused.
    pub refused: bool,
    /// Whether the runtime was asked for the pod's request, and did not answer in time.
    pub unanswered: bool,
    /// Time from the reported event until everything was done; if a resync changed the owner, from the start of the
    /// process.
    pub after: Duration,
    /// How long the decision took.
    pub took: Duration,
}

/// A report of the plugin.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most reports are the large one")]
pub enum Done {
    /// The decision on a container that is about to be created.
    Created(Created),
    /// The inspection of a container that is about to run.
    Inspected(Inspected),
    /// A container stopped or was removed.
    Ended(CriId),
    /// A pod's sandbox, with this identifier, was removed.
    PodEnded(CriId),
}

/// A report with its number.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Sequence number, from 1 since the plugin started.
    pub number: u64,
    /// When it was made.
    pub at: Stamp,
    /// The content of the report.
    pub done: Done,
}

/// Reports that no agent has acknowledged yet, the oldest first; bounded, so that a plugin without an agent does not
/// grow. `T` is a report in the form in which it is sent.
#[derive(Debug)]
pub struct KeptReports<T> {
    waiting: VecDeque<(u64, usize, T)>,
    bytes: usize,
    last: u64,
    dropped: u64,
    most: usize,
    most_bytes: usize,
    longest: usize,
}

// === impl Inspected ===

impl Inspected {
    /// The report after the answer was sent. A refusal counts only if the container does not run: if the runtime
    /// accepted the answer (`taken`) and `runtime` honours refusals ([`guard::honours_refusal_at_start`]), or if the
    /// container was stopped (`ended`).
    #[must_use]
    pub fn answered(self, taken: bool, runtime: &str, ended: bool) -> Inspected {
        let is_kept = ended || taken && guard::honours_refusal_at_start(runtime);
        Inspected { refused: self.refused && is_kept, ..self }
    }
}

// === impl Created ===

impl Created {
    /// Whether it must be reported: most containers are neither adjusted nor refused.
    #[must_use]
    pub fn is_notable(&self) -> bool {
        self.isolation == Verdict::Lost
            || self.unanswered
            || self.adjusted.is_some()
            || self.ungranted.is_some()
    }

    /// The report after the answer was sent. If the runtime did not accept it, for instance because it had timed out,
    /// it created the container unchanged.
    #[must_use]
    pub fn answered(self, is_taken: bool) -> Created {
        if is_taken { self } else { Created { refused: false, adjusted: None, ..self } }
    }
}

// === impl KeptReports ===

impl<T: Clone> KeptReports<T> {
    /// Keeps at most `most` reports with at most `most_bytes` bytes, and none longer than `longest` bytes, which no
    /// agent would read.
    #[must_use]
    pub fn new(most: usize, most_bytes: usize, longest: usize) -> KeptReports<T> {
        KeptReports { waiting: VecDeque::new(), bytes: 0, last: 0, dropped: 0, most, most_bytes, longest }
    }

    /// Adds a report, which `made` builds, with its length in bytes, for the given number. If there are too many, the
    /// oldest are dropped and counted.
    pub fn add(&mut self, made: impl FnOnce(u64) -> (usize, T)) {
        self.last += 1;
        let (length, report) = made(self.last);
        if length > self.longest {
            self.dropped += 1;
            return;
        }
        self.bytes += length;
        self.waiting.push_back((self.last, length, report));
        while self.waiting.len() > self.most || self.bytes > self.most_bytes {
            let Some((_, length, _)) = self.waiting.pop_front() else { break };
            self.bytes -= length;
            self.dropped += 1;
        }
    }

    /// The oldest report after that number.
    #[must_use]
    pub fn after(&self, number: u64) -> Option<(u64, T)> {
        let index = self.waiting.partition_point(|(of, ..)| *of <= number);
        self.waiting.get(index).map(|(of, _, report)| (*of, report.clone()))
    }

    /// Removes the reports up to that number: an agent has recorded them.
    pub fn acknowledge(&mut self, number: u64) {
        while let Some((of, length, _)) = self.waiting.front()
            && *of <= number
        {
            self.bytes -= length;
            self.waiting.pop_front();
        }
    }

    /// Number of reports that were dropped since the plugin started.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_refusal_counts_if_the_container_does_not_run() {
        let looked = Inspected {
            record: Record::bare(CriId::parse("a").unwrap()),
            changes: Vec::new(),
            failed: None,
            detail: None,
            refused: true,
            unanswered: false,
            after: Duration::ZERO,
            took: Duration::ZERO,
        };
        for (taken, runtime, ended, refused) in [
            (true, "containerd", false, true),
            (false, "containerd", false, false),
            // CRI-O starts the container nevertheless.
            (true, "cri-o", false, false),
            (true, "cri-o", true, true),
            (false, "cri-o", true, true),
        ] {
            let answered = looked.clone().answered(taken, runtime, ended);
            assert_eq!(answered.refused, refused, "{taken} {runtime} {ended}");
        }
        assert!(!Inspected { refused: false, ..looked }.answered(true, "containerd", false).refused);
    }

    #[test]
    fn unacknowledged_reports_are_kept_within_bounds() {
        let mut kept = KeptReports::new(3, 100, 100);
        for _ in 0..5 {
            kept.add(|number| (10, number));
        }
        assert_eq!((kept.after(0), kept.dropped()), (Some((3, 3)), 2));
        // A report that is too long to be read displaces no other.
        kept.add(|number| (101, number));
        assert_eq!((kept.after(0), kept.dropped()), (Some((3, 3)), 3));
        kept.add(|number| (100, number));
        assert_eq!((kept.after(0), kept.after(7), kept.dropped()), (Some((7, 7)), None, 6));
    }

    #[test]
    fn an_acknowledged_report_is_not_sent_again() {
        let mut kept = KeptReports::new(10, 1000, 1000);
        for _ in 0..4 {
            kept.add(|number| (1, number));
        }
        kept.acknowledge(2);
        assert_eq!(kept.after(0), Some((3, 3)));
        assert_eq!(kept.after(3), Some((4, 4)));
        // Acknowledging a number that was never sent does not remove later reports.
        kept.acknowledge(99);
        kept.add(|number| (1, number));
        assert_eq!(kept.after(0), Some((5, 5)));
        assert_eq!(kept.dropped(), 0);
    }

    proptest! {
        /// Every report is either dropped and counted, or sent exactly once.
        #[test]
        fn every_dropped_report_is_counted(steps in prop::collection::vec((any::<bool>(), 1..40_usize), 0..200)) {
            let mut kept = KeptReports::new(8, 120, 35);
            let (mut sent, mut made) = (0_u64, 0);
            for (adds, length) in steps {
                if adds {
                    kept.add(|number| (length, number));
                    made += 1;
                } else if let Some((number, report)) = kept.after(0) {
                    prop_assert_eq!(number, report);
                    kept.acknowledge(number);
                    sent += 1;
                }
                prop_assert!(kept.waiting.len() <= 8 && kept.bytes <= 120);
                prop_assert_eq!(kept.bytes, kept.waiting.iter().map(|(_, length, _)| length).sum::<usize>());
                prop_assert_eq!(sent + kept.dropped() + kept.waiting.len() as u64, made);
            }
        }
    }
}
