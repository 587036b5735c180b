//! The Node condition `UserNamespacesUnavailable`: true where the node cannot run pods in user
//! namespaces, in the manner of the node-problem-detector.

use std::time::Duration;

use super::check::CGROUP_V2;
use super::event::NodeFacts;

/// The condition's type.
pub const TYPE: &str = "UserNamespacesUnavailable";

/// The least time between two writes.
const GAP: Duration = Duration::from_secs(30);

/// What becomes of the condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionPolicy {
    /// Nothing.
    Off,
    /// It is kept up to date.
    On,
    /// It is taken away.
    Remove,
}

/// The condition's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// They are unavailable.
    True,
    /// They work.
    False,
    /// Nobody knows.
    Unknown,
}

/// What the condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The status.
    pub status: Status,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in a sentence.
    pub message: String,
}

/// When the condition is written: at once where it changed, and else now and then, so that whoever
/// reads it sees that someone still looks.
#[derive(Debug, Clone)]
pub struct Schedule {
    heartbeat: Duration,
    /// What, when, and how much before its time the next heartbeat is.
    written: Option<(Verdict, Duration, Duration)>,
}

// === impl Status ===

impl Status {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Every reason.
    pub const REASONS: [&'static str; 7] = [
        "UserNamespacesWork",
        "KernelForbidsUserNamespaces",
        "RuntimeDoesNotAnswer",
        "CgroupsNotUnified",
        "CheckFails",
        "NotLookedAt",
        "AgentDoesNotAnswer",
    ];

    /// What is so; `None`: the agent does not answer.
    #[must_use]
    pub fn of(facts: Option<&NodeFacts>) -> Verdict {
        let verdict = |status, reason, message: String| Verdict { status, reason, message };
        let Some(facts) = facts else {
            let message = "usernsd agent does not answer on its socket";
            return verdict(Status::Unknown, "AgentDoesNotAnswer", message.to_owned());
        };
        match facts.ready {
            Some(true) => verdict(
                Status::False,
                "UserNamespacesWork",
                "cgroup v2, a kernel that allows user namespaces, a container runtime that answers, and no error"
                    .to_owned(),
            ),
            None => verdict(Status::Unknown, "NotLookedAt", "the node has not been looked at yet".to_owned()),
            Some(false) if facts.max_user_namespaces == Some(0) => verdict(
                Status::True,
                "KernelForbidsUserNamespaces",
                "the kernel allows no user namespaces; set the sysctl user.max_user_namespaces".to_owned(),
            ),
            Some(false) if !facts.runtime_answers => {
                let why = facts.runtime_error.as_deref().unwrap_or("no socket was found");
                let why: String = why.chars().take(400).collect();
                let message = format!("the container runtime does not answer over CRI: {why}");
                verdict(Status::True, "RuntimeDoesNotAnswer", message)
            }
            Some(false) => match &facts.failed_check {
                Some(check) if check.id != CGROUP_V2.id => {
                    let problem: String = check.problem.chars().take(400).collect();
                    verdict(Status::True, "CheckFails", format!("{}: {problem}", check.id))
                }
                _ => verdict(
                    Status::True,
                    "CgroupsNotUnified",
                    "the node runs cgroup v1; boot it with cgroup v2".to_owned(),
                ),
            },
        }
    }

    /// Whether the other one would say something new. Messages change without that.
    fn differs(&self, other: &Verdict) -> bool {
        (self.status, self.reason) != (other.status, other.reason)
    }
}

// === impl Schedule ===

impl Schedule {
    /// Nothing is written yet.
    #[must_use]
    pub fn new(heartbeat: Duration) -> Schedule {
        Schedule { heartbeat, written: None }
    }

    /// How long to wait before `verdict` is written. Times count from any one moment.
    #[must_use]
    pub fn wait(&self, verdict: &Verdict, now: Duration) -> Duration {
        let Some((written, at, early)) = &self.written else { return Duration::ZERO };
        let after = if written.differs(verdict) { GAP } else { self.heartbeat.saturating_sub(*early) };
        (*at + after).saturating_sub(now)
    }

    /// It was written. `random` (from 0 to 1) spreads the next heartbeat by a fifth.
    pub fn wrote(&mut self, verdict: Verdict, now: Duration, random: f64) {
        let early = self.heartbeat.mul_f64(random.clamp(0.0, 1.0) / 5.0);
        self.written = Some((verdict, now, early));
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
    fn every_reason_is_said_and_documented() {
        let not = facts(Some(false));
        let said = [
            Verdict::of(Some(&facts(Some(true)))),
            Verdict::of(Some(&NodeFacts { max_user_namespaces: Some(0), ..not.clone() })),
            Verdict::of(Some(&NodeFacts { runtime_answers: false, ..not.clone() })),
            Verdict::of(Some(&not)),
            Verdict::of(Some(&NodeFacts {
                failed_check: Some(FailedCheck { id: "psi".into(), problem: "no; do".into() }),
                ..not.clone()
            })),
            Verdict::of(Some(&facts(None))),
            Verdict::of(None),
        ];
        assert_eq!(said.clone().map(|one| one.reason), Verdict::REASONS);
        let statuses = said.map(|one| one.status.name());
        assert_eq!(statuses, ["False", "True", "True", "True", "True", "Unknown", "Unknown"]);
        let page = include_str!("../../../docs/kubernetes.md");
        for name in Verdict::REASONS {
            assert!(page.contains(&format!("`{name}`")), "docs/kubernetes.md lacks {name}");
        }
    }

    #[test]
    fn it_is_written_when_it_changes_and_now_and_then() {
        let good = Verdict::of(Some(&facts(Some(true))));
        let bad = Verdict::of(Some(&facts(Some(false))));
        let mut schedule = Schedule::new(seconds(1800));
        assert_eq!(schedule.wait(&good, seconds(5)), Duration::ZERO);
        schedule.wrote(good.clone(), seconds(100), 0.0);
        assert_eq!(schedule.wait(&good, seconds(101)), seconds(1799));
        assert_eq!(schedule.wait(&bad, seconds(101)), seconds(29));
        assert_eq!(schedule.wait(&bad, seconds(131)), Duration::ZERO);
        // Another message alone is nothing new.
        let reworded = Verdict { message: "other".into(), ..good.clone() };
        assert_eq!(schedule.wait(&reworded, seconds(131)), seconds(1769));
        schedule.wrote(good.clone(), seconds(10_000), 1.0);
        assert_eq!(schedule.wait(&good, seconds(10_000)), seconds(1440));
        // What is new waits as long as ever.
        assert_eq!(schedule.wait(&bad, seconds(10_000)), seconds(30));
    }
}
