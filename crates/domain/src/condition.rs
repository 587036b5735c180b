//! The Node condition `UserNamespacesUnavailable`: true if the node cannot run pods in user namespaces, following the
//! node-problem-detector.

use std::time::Duration;

use super::check::Check;
use super::event::NodeFacts;

/// The condition's type.
pub const TYPE: &str = "UserNamespacesUnavailable";

/// The least time between two writes.
const GAP: Duration = Duration::from_secs(30);

/// How usernsd treats the condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionPolicy {
    /// Neither writes nor removes it.
    Off,
    /// Keeps it up to date.
    On,
    /// Removes the condition from the node.
    Remove,
}

words! {
    /// The name in the configuration.
    ConditionPolicy { Off = "off", On = "on", Remove = "remove" }
}

/// The condition's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionStatus {
    /// User namespaces are unavailable.
    True,
    /// User namespaces work.
    False,
    /// Unknown whether user namespaces work.
    Unknown,
}

/// The desired condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredCondition {
    pub status: ConditionStatus,
    /// The reason, one word in CamelCase.
    pub reason: &'static str,
    /// The reason as a sentence.
    pub message: String,
}

/// When the condition is written: at once if it changed, otherwise as a heartbeat, which shows that the agent still
/// runs.
#[derive(Debug, Clone)]
pub struct Schedule {
    heartbeat: Duration,
    /// The verdict last written, when, and how much earlier than due the next heartbeat is sent.
    written: Option<(DesiredCondition, Duration, Duration)>,
}

// === impl ConditionStatus ===

impl ConditionStatus {
    /// The word that Kubernetes uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ConditionStatus::True => "True",
            ConditionStatus::False => "False",
            ConditionStatus::Unknown => "Unknown",
        }
    }
}

// === impl DesiredCondition ===

impl DesiredCondition {
    pub const REASONS: [&'static str; 7] = [
        "UserNamespacesWork",
        "KernelForbidsUserNamespaces",
        "RuntimeDoesNotAnswer",
        "CgroupsNotUnified",
        "CheckFails",
        "NotLookedAt",
        "AgentDoesNotAnswer",
    ];

    /// The verdict for these facts; `None` if the agent does not answer.
    #[must_use]
    pub fn of(facts: Option<&NodeFacts>) -> DesiredCondition {
        let verdict = |status, reason, message: String| DesiredCondition { status, reason, message };
        let Some(facts) = facts else {
            let message = "usernsd agent does not answer on its socket";
            return verdict(ConditionStatus::Unknown, "AgentDoesNotAnswer", message.to_owned());
        };
        match facts.ready {
            Some(true) => verdict(
                ConditionStatus::False,
                "UserNamespacesWork",
                "cgroup v2, a kernel that allows user namespaces, a container runtime that answers, and no error"
                    .to_owned(),
            ),
            None => verdict(ConditionStatus::Unknown, "NotLookedAt", "the node has not been looked at yet".to_owned()),
            Some(false) if facts.max_user_namespaces == Some(0) => verdict(
                ConditionStatus::True,
                "KernelForbidsUserNamespaces",
                "the kernel allows no user namespaces; set the sysctl user.max_user_namespaces".to_owned(),
            ),
            Some(false) if !facts.runtime_answers => {
                let why = facts.runtime_error.as_deref().unwrap_or("no socket was found");
                let why: String = why.chars().take(400).collect();
                let message = format!("the container runtime does not answer over CRI: {why}");
                verdict(ConditionStatus::True, "RuntimeDoesNotAnswer", message)
            }
            Some(false) => match &facts.failed_check {
                Some(failed) if failed.check != Some(Check::CgroupV2) => {
                    let problem: String = failed.problem.chars().take(400).collect();
                    verdict(ConditionStatus::True, "CheckFails", format!("{}: {problem}", failed.name))
                }
                _ => verdict(
                    ConditionStatus::True,
                    "CgroupsNotUnified",
                    "the node runs cgroup v1; boot it with cgroup v2".to_owned(),
                ),
            },
        }
    }

    /// Whether the other verdict differs in status or reason. Messages alone may change at any time.
    fn differs(&self, other: &DesiredCondition) -> bool {
        (self.status, self.reason) != (other.status, other.reason)
    }
}

// === impl Schedule ===

impl Schedule {
    /// A schedule for which nothing has been written yet.
    #[must_use]
    pub fn new(heartbeat: Duration) -> Schedule {
        Schedule { heartbeat, written: None }
    }

    /// How long to wait before `verdict` is written. Times are measured from any one fixed moment.
    #[must_use]
    pub fn wait(&self, verdict: &DesiredCondition, now: Duration) -> Duration {
        let Some((written, at, early)) = &self.written else { return Duration::ZERO };
        let after = if written.differs(verdict) { GAP } else { self.heartbeat.saturating_sub(*early) };
        (*at + after).saturating_sub(now)
    }

    /// Records that the verdict was written. `random` (from 0 to 1) brings the next heartbeat forward by up to a
    /// fifth.
    pub fn wrote(&mut self, verdict: DesiredCondition, now: Duration, random: f64) {
        let early = self.heartbeat.mul_f64(random.clamp(0.0, 1.0) / 5.0);
        self.written = Some((verdict, now, early));
    }

    /// Makes a heartbeat due now: the times of the last one are no longer right.
    pub fn outdate(&mut self) {
        if let Some((_, _, early)) = &mut self.written {
            *early = self.heartbeat;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::FailedCheck;
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn facts(ready: Option<bool>) -> NodeFacts {
        NodeFacts { ready, runtime_answers: true, max_user_namespaces: Some(1), ..NodeFacts::default() }
    }

    #[test]
    fn every_reason_is_reached_and_documented() {
        let not = facts(Some(false));
        let output = [
            DesiredCondition::of(Some(&facts(Some(true)))),
            DesiredCondition::of(Some(&NodeFacts { max_user_namespaces: Some(0), ..not.clone() })),
            DesiredCondition::of(Some(&NodeFacts { runtime_answers: false, ..not.clone() })),
            DesiredCondition::of(Some(&not)),
            DesiredCondition::of(Some(&NodeFacts {
                failed_check: Some(FailedCheck {
                    check: Some(Check::PsiEnabled),
                    name: "psi_enabled".into(),
                    problem: "no; do".into(),
                }),
                ..not.clone()
            })),
            DesiredCondition::of(Some(&facts(None))),
            DesiredCondition::of(None),
        ];
        assert_eq!(output.clone().map(|one| one.reason), DesiredCondition::REASONS);
        let statuses = output.map(|one| one.status.name());
        assert_eq!(statuses, ["False", "True", "True", "True", "True", "Unknown", "Unknown"]);
        let page = include_str!("../../../docs/kubernetes.md");
        for name in DesiredCondition::REASONS {
            assert!(page.contains(&format!("`{name}`")), "docs/kubernetes.md lacks {name}");
        }
    }

    #[test]
    fn the_condition_is_written_on_change_and_as_a_heartbeat() {
        let good = DesiredCondition::of(Some(&facts(Some(true))));
        let bad = DesiredCondition::of(Some(&facts(Some(false))));
        let mut schedule = Schedule::new(seconds(1800));
        assert_eq!(schedule.wait(&good, seconds(5)), Duration::ZERO);
        schedule.wrote(good.clone(), seconds(100), 0.0);
        assert_eq!(schedule.wait(&good, seconds(101)), seconds(1799));
        assert_eq!(schedule.wait(&bad, seconds(101)), seconds(29));
        assert_eq!(schedule.wait(&bad, seconds(131)), Duration::ZERO);
        // A changed message alone causes no write.
        let reworded = DesiredCondition { message: "other".into(), ..good.clone() };
        assert_eq!(schedule.wait(&reworded, seconds(131)), seconds(1769));
        schedule.wrote(good.clone(), seconds(10_000), 1.0);
        assert_eq!(schedule.wait(&good, seconds(10_000)), seconds(1440));
        // A change waits for the usual gap.
        assert_eq!(schedule.wait(&bad, seconds(10_000)), seconds(30));
        // Once the times are wrong a heartbeat is due, and then the next one as usual.
        schedule.outdate();
        assert_eq!(schedule.wait(&good, seconds(10_001)), Duration::ZERO);
        schedule.wrote(good.clone(), seconds(10_001), 0.0);
        assert_eq!(schedule.wait(&good, seconds(10_001)), seconds(1800));
    }
}
