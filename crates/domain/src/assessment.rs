//! The assessment of a container: the worst that is known of it, for everything that shows containers.

use super::delegation::Skip;
use super::guard::Verdict;
use super::record::{CgroupState, OutcomeName};

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    /// As it should be.
    Good,
    /// The container works, with a remark.
    Warning,
    /// Isolation or ownership is not what it should be, or the node cannot do its work.
    Bad,
}

/// The worst that is known of a container, in the order in which problems are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Assessment {
    /// The container runs in the host's user namespace although its pod requested its own.
    IsolationLost,
    /// Root inside is root on the host.
    HostRoot,
    /// The container should own its cgroup and does not.
    OwnerWrong,
    /// The cgroup could not be delegated.
    Failed,
    /// The container owns its cgroup, and no limits are set.
    Unlimited,
    /// The container was created without the writable cgroup that its pod requested.
    Missed,
    /// The container owns its cgroup, which is writable and limited.
    Ok,
    /// The cgroup is read-only.
    ReadOnly,
    /// The container runs in the host's user namespace, as its pod requested.
    Host,
    /// Nothing is known yet, or only words of a later version.
    Unknown,
}

// === impl Tone ===

impl Tone {
    /// A mark with the same meaning, for output without colours.
    #[must_use]
    pub fn mark(self) -> &'static str {
        match self {
            Tone::Good => "✓",
            Tone::Warning => "!",
            Tone::Bad => "✗",
        }
    }
}

// === impl Assessment ===

words! {
    /// The state as one word with dashes.
    Assessment {
        IsolationLost = "isolation-lost",
        HostRoot = "host-root",
        OwnerWrong = "owner-wrong",
        Failed = "failed",
        Unlimited = "unlimited",
        Missed = "missed",
        Ok = "ok",
        ReadOnly = "read-only",
        Host = "host",
        Unknown = "unknown",
    }
}

impl Assessment {
    /// Assesses a container by its isolation, the outcome of its last inspection and its cgroup's state, each `None`
    /// for a word of a later version, and by whether its own user namespace maps its root to the host's.
    #[must_use]
    pub fn of(
        isolation: Option<Verdict>,
        outcome: Option<OutcomeName>,
        state: Option<CgroupState>,
        maps_host_root: bool,
    ) -> Assessment {
        match (isolation, outcome, state) {
            (Some(Verdict::Lost), ..) => Assessment::IsolationLost,
            _ if maps_host_root => Assessment::HostRoot,
            (_, Some(OutcomeName::Skipped(Skip::RootIsHostRoot)), _) => Assessment::HostRoot,
            (_, Some(OutcomeName::Failed), _) => Assessment::Failed,
            (.., Some(CgroupState::OwnerWrong)) => Assessment::OwnerWrong,
            (.., Some(CgroupState::Unlimited)) => Assessment::Unlimited,
            (.., Some(CgroupState::Missed)) => Assessment::Missed,
            (.., Some(CgroupState::Ok)) => Assessment::Ok,
            (.., Some(CgroupState::ReadOnly)) => Assessment::ReadOnly,
            (.., Some(CgroupState::HostUserNamespace)) => Assessment::Host,
            (.., Some(CgroupState::Unknown) | None) => Assessment::Unknown,
        }
    }

    /// Whether someone must act.
    #[must_use]
    pub fn is_problem(self) -> bool {
        self.tone() != Tone::Good
    }

    /// Whether the cgroup's owner is right; `None` if that is not known, or does not matter.
    #[must_use]
    pub fn owner_is_right(self) -> Option<bool> {
        match self {
            Assessment::Ok | Assessment::Unlimited => Some(true),
            Assessment::OwnerWrong | Assessment::HostRoot => Some(false),
            Assessment::IsolationLost
            | Assessment::Failed
            | Assessment::Missed
            | Assessment::ReadOnly
            | Assessment::Host
            | Assessment::Unknown => None,
        }
    }

    /// How bad it is.
    #[must_use]
    pub fn tone(self) -> Tone {
        match self {
            Assessment::IsolationLost
            | Assessment::HostRoot
            | Assessment::Failed
            | Assessment::OwnerWrong => Tone::Bad,
            Assessment::Unlimited | Assessment::Missed => Tone::Warning,
            Assessment::Ok | Assessment::ReadOnly | Assessment::Host | Assessment::Unknown => Tone::Good,
        }
    }

    /// The problem in the list of a node's problems, as it follows the number of containers: for one, and for several.
    /// `None` if it is not a problem, or is listed once for each pod.
    #[must_use]
    pub fn sentence(self) -> Option<[&'static str; 2]> {
        match self {
            Assessment::IsolationLost => Some([
                "container runs as the host's root although its pod asked for a user namespace",
                "containers run as the host's root although their pods asked for a user namespace",
            ]),
            Assessment::OwnerWrong => {
                Some(["container does not own its cgroup", "containers do not own their cgroups"])
            }
            Assessment::Failed => Some([
                "container could not be given its cgroup",
                "containers could not be given their cgroups",
            ]),
            Assessment::Unlimited => {
                Some(["container's cgroup has no bounds", "containers' cgroups have no bounds"])
            }
            Assessment::Missed => Some([
                "container was created without the writable cgroup that its pod asked for",
                "containers were created without the writable cgroup that their pods asked for",
            ]),
            Assessment::HostRoot
            | Assessment::Ok
            | Assessment::ReadOnly
            | Assessment::Host
            | Assessment::Unknown => None,
        }
    }

    /// The state in words, for a page.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Assessment::IsolationLost => "isolation lost",
            Assessment::HostRoot => "host root",
            Assessment::OwnerWrong => "owner wrong",
            other => other.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_isolation_is_the_worst_whatever_else_is_known() {
        for outcome in OutcomeName::all() {
            for state in CgroupState::ALL {
                let lost = Assessment::of(Some(Verdict::Lost), Some(outcome), Some(state), false);
                assert_eq!(lost, Assessment::IsolationLost);
                let good = Assessment::of(Some(Verdict::Good), Some(outcome), Some(state), false);
                let is_good = matches!(
                    state,
                    CgroupState::Ok
                        | CgroupState::ReadOnly
                        | CgroupState::HostUserNamespace
                        | CgroupState::Unknown
                );
                let is_bad =
                    matches!(outcome, OutcomeName::Failed | OutcomeName::Skipped(Skip::RootIsHostRoot));
                assert_eq!(good.tone() == Tone::Good, is_good && !is_bad, "{outcome:?} {state:?}");
            }
        }
        assert_eq!(Assessment::of(None, None, None, false), Assessment::Unknown);
        assert_eq!(Assessment::of(None, None, None, true), Assessment::HostRoot);
    }

    #[test]
    fn each_problem_of_a_container_has_a_sentence_and_nothing_else_has() {
        for one in Assessment::ALL {
            // The root of a user namespace is its pod's problem.
            let is_listed = one.is_problem() && one != Assessment::HostRoot;
            assert_eq!(one.sentence().is_some(), is_listed, "{one:?}");
        }
    }

    #[test]
    fn words_are_the_same_but_for_dashes() {
        for one in Assessment::ALL {
            assert_eq!(one.words().replace(' ', "-"), one.name());
        }
    }
}
