//! The checks of a node: each with a name, a severity and a result.
//!
//! A check's severity is what a failure means. Its name is the same everywhere: in `usernsd doctor`, in `--ignore`,
//! in the metric, in documents, and as the page in `docs/runbooks/checks`. Checks are judged by the [`Finding`]s of
//! the rules that prepare a node, so that no rule exists twice.
//!
//! - [`kernel`]: the kernel and its mounts
//! - [`ids`]: subordinate IDs, and the kubelet's choice of them
//! - [`runtime`]: the container runtime, its configuration, its OCI runtimes
//! - [`plugin`]: usernsd in the start path of containers
//! - [`systemd`]: systemd and its scopes
//! - [`pods`]: running pods
//! - [`configuration`]: files that would be changed, and files that were not read yet

pub mod configuration;
pub mod ids;
pub mod kernel;
mod page;
pub mod plugin;
pub mod pods;
pub mod runtime;
pub mod systemd;
mod table;

use std::collections::BTreeMap;

use self::configuration::{ConfigFacts, ConfigFile};
use super::finding::{Finding, Severity};
use super::node::{Snapshot, Survey};

pub use page::{SECTIONS, documented_markdown};
pub use table::Check;

/// At most so many problems of one check are listed.
const MANY: usize = 20;
/// Ends a remedy by `usernsd bootstrap` for a node that others prepare.
const ELSEWHERE: &str = " (not here, where bootstrap.enabled is false: change what prepares this node; usernsd \
                         machineconfig prints what bootstrap would write)";

/// The group to which a check belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// The kernel and its mounts.
    Kernel,
    /// Subordinate IDs.
    Ids,
    /// The container runtime and its OCI runtimes.
    Runtime,
    /// systemd.
    Systemd,
    /// Running pods.
    Pods,
    /// Files that this program writes.
    Configuration,
}

/// A check with its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub check: Check,
    pub outcome: CheckOutcome,
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOutcome {
    /// As it should be; with what was observed.
    Passed(String),
    /// Not as it should be; at least one problem.
    Failed(Vec<Problem>),
    /// It could not be checked; with the reason.
    Skipped(String),
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The problem and its consequence: one sentence without a full stop.
    pub what: String,
    /// What to do about it; if that is a command, the command.
    pub remedy: String,
}

/// The observation, or the reason why there is none.
pub type Probe<T> = Result<T, String>;

/// The answer of a program about the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// The program was not asked; with the reason.
    NotAsked(String),
    /// The program did not answer; with the reason.
    Missing(String),
    /// The program answered this.
    Given(T),
}

/// The checks of a node at one time, except those of its pods.
#[derive(Debug, Clone)]
pub struct Examined {
    /// The checks.
    pub checked: Vec<Checked>,
    /// The annotations of pods that can ask for a writable cgroup.
    pub asked: Probe<pods::Annotations>,
    /// The facts about files and services.
    pub configuration: ConfigFacts,
    /// The name of the default handler's OCI runtime, from the runtime's configuration.
    pub oci_runtime: Option<String>,
    /// How often each file was written; `None` if unknown.
    pub writes: Option<BTreeMap<ConfigFile, u64>>,
}

/// The number of checks by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Failed, of severity error.
    pub errors: usize,
    /// Failed, of severity warning.
    pub warnings: usize,
    /// Failed, of severity note.
    pub notes: usize,
    pub passed: usize,
    pub skipped: usize,
    /// Failed checks because of which no pod at all can have a user namespace.
    pub blocking: usize,
    /// Checks that were skipped or left out, although pods' user namespaces depend on them.
    pub unseen: usize,
}

/// What came of a check, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    Pass,
    /// Nobody could tell.
    Skip,
    /// It failed, and is a note.
    Note,
    /// It failed, and is a warning.
    Warn,
    /// It failed, and is an error.
    Fail,
}

// === impl CheckResult ===

words! {
    /// The word in documents.
    CheckResult { Pass = "pass", Skip = "skip", Note = "note", Warn = "warn", Fail = "fail" }
}

// === impl Category ===

words! {
    /// The name in documents; with spaces instead of underscores, the heading.
    Category {
        Kernel = "kernel",
        Ids = "subordinate_ids",
        Runtime = "runtime",
        Systemd = "systemd",
        Pods = "pods",
        Configuration = "configuration",
    }
}

impl Category {
    /// The heading in documents.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Category::Kernel => "Kernel",
            Category::Ids => "Subordinate IDs",
            Category::Runtime => "Runtime",
            Category::Systemd => "systemd",
            Category::Pods => "Pods",
            Category::Configuration => "Configuration",
        }
    }
}

// === impl Check ===

impl Check {
    /// The checks of a category, in the order of output.
    pub fn of_category(category: Category) -> impl Iterator<Item = Check> {
        Check::ALL.into_iter().filter(move |check| check.category() == category)
    }

    /// The check passed; `seen` is what was observed.
    #[must_use]
    pub fn passed(self, seen: impl Into<String>) -> Checked {
        Checked { check: self, outcome: CheckOutcome::Passed(seen.into()) }
    }

    /// The check was skipped; `why` is the reason.
    #[must_use]
    pub fn skipped(self, why: impl Into<String>) -> Checked {
        Checked { check: self, outcome: CheckOutcome::Skipped(why.into()) }
    }

    /// The check failed with one problem.
    #[must_use]
    pub fn failed(self, what: impl Into<String>, remedy: impl Into<String>) -> Checked {
        let problem = Problem { what: what.into(), remedy: remedy.into() };
        Checked { check: self, outcome: CheckOutcome::Failed(vec![problem]) }
    }

    /// The outcome by those of these findings that belong to the check ([`Finding::check`]).
    #[must_use]
    pub fn judged(self, findings: &[Finding], seen: impl Into<String>) -> Checked {
        let mine = findings.iter().filter(|finding| finding.check() == Some(self));
        let problems: Vec<Problem> = mine
            .take(MANY)
            .map(|finding| Problem { what: finding.what.clone(), remedy: finding.remedy.clone() })
            .collect();
        if problems.is_empty() {
            self.passed(seen)
        } else {
            Checked { check: self, outcome: CheckOutcome::Failed(problems) }
        }
    }

    /// All checks of a category, skipped for the same reason.
    #[must_use]
    pub fn all_skipped(category: Category, why: &str) -> Vec<Checked> {
        Check::of_category(category).map(|check| check.skipped(why)).collect()
    }
}

// === impl Examined ===

impl Examined {
    /// Every check, in the order of output: those of pods from the survey, the others from the last time that the
    /// node was checked; empty before that.
    #[must_use]
    pub fn now(snapshot: &Snapshot, survey: &Survey) -> Vec<Checked> {
        let Some(examined) = &snapshot.examined else { return Vec::new() };
        let asked = examined.asked.as_ref().map_err(Clone::clone);
        let facts = pods::PodFacts { pods: &survey.pods, space_is_known: survey.space.is_some(), asked };
        let pods = pods::checks(Ok(&facts));
        let of = |check: Check| {
            let mut all = examined.checked.iter().chain(&pods);
            all.find(|one| one.check == check).cloned()
        };
        Check::ALL.into_iter().filter_map(of).collect()
    }
}

// === impl Checked, Summary ===

impl Checked {
    /// Whether it failed.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        matches!(self.outcome, CheckOutcome::Failed(_))
    }

    /// The same for a node that others prepare than `usernsd bootstrap`, which may not even be there.
    #[must_use]
    pub fn prepared_by_others(mut self) -> Checked {
        if let CheckOutcome::Failed(problems) = &mut self.outcome {
            let written = |problem: &&mut Problem| {
                problem.remedy.contains("usernsd bootstrap") && !problem.remedy.ends_with(ELSEWHERE)
            };
            problems.iter_mut().filter(written).for_each(|problem| problem.remedy.push_str(ELSEWHERE));
        }
        self
    }

    /// The word for the outcome: `pass`, `skip`, or by severity `note`, `warn` or `fail`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.result().name()
    }

    /// What came of it.
    #[must_use]
    pub fn result(&self) -> CheckResult {
        match (&self.outcome, self.check.severity()) {
            (CheckOutcome::Passed(_), _) => CheckResult::Pass,
            (CheckOutcome::Skipped(_), _) => CheckResult::Skip,
            (CheckOutcome::Failed(_), Severity::Note) => CheckResult::Note,
            (CheckOutcome::Failed(_), Severity::Warning) => CheckResult::Warn,
            (CheckOutcome::Failed(_), Severity::Error) => CheckResult::Fail,
        }
    }

    /// Whether it keeps the node from running pods in user namespaces safely: a failure of severity error that is not
    /// about a running pod.
    #[must_use]
    pub fn blocks_readiness(&self) -> bool {
        self.result() == CheckResult::Fail && self.check.category() != Category::Pods
    }
}

impl Summary {
    /// Counts the checks by outcome.
    #[must_use]
    pub fn of<'a>(checked: impl IntoIterator<Item = &'a Checked>) -> Summary {
        const ESSENTIAL: [Check; 3] = [Check::CgroupV2, Check::MaxUserNamespaces, Check::CriReachable];
        let mut summary = Summary { unseen: ESSENTIAL.len(), ..Summary::default() };
        for one in checked {
            match one.result() {
                CheckResult::Pass => summary.passed += 1,
                CheckResult::Skip => summary.skipped += 1,
                CheckResult::Note => summary.notes += 1,
                CheckResult::Warn => summary.warnings += 1,
                CheckResult::Fail => summary.errors += 1,
            }
            summary.blocking += usize::from(one.blocks_readiness());
            let is_seen = ESSENTIAL.contains(&one.check) && one.result() != CheckResult::Skip;
            summary.unseen = summary.unseen.saturating_sub(usize::from(is_seen));
        }
        summary
    }

    /// Whether pods can have user namespaces; `None` if a check that decides it was skipped.
    #[must_use]
    pub fn is_ready(self) -> Option<bool> {
        match self {
            Summary { blocking: 1.., .. } => Some(false),
            Summary { unseen: 1.., .. } => None,
            _ => Some(true),
        }
    }

    /// Whether the node is as it should be; with `strict`, warnings count as failures, too.
    #[must_use]
    pub fn is_good(self, strict: bool) -> bool {
        self.errors == 0 && (!strict || self.warnings == 0)
    }

    /// The last line of the output.
    #[must_use]
    pub fn verdict(self) -> String {
        let count = |count: usize, one: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            _ => Some(format!("{count} {one}s")),
        };
        let parts = [
            count(self.errors, "error"),
            count(self.warnings, "warning"),
            count(self.notes, "note"),
            Some(format!("{} passed", self.passed)),
            (self.skipped > 0).then(|| format!("{} skipped", self.skipped)),
        ];
        let sentence = match self {
            Summary { blocking: 1.., .. } => "This node is not ready for pods with hostUsers: false.",
            Summary { errors: 1.., .. } => "Pods of this node are not isolated as they should be.",
            Summary { passed: 0, .. } => "Nothing could be checked.",
            Summary { unseen: 1.., .. } => {
                "Whether this node can run pods with hostUsers: false is not known: checks that decide it were not made."
            }
            Summary { warnings: 1.., .. } => {
                "This node can run pods with hostUsers: false; look at the warnings."
            }
            _ => "This node can run pods with hostUsers: false.",
        };
        format!("{}. {sentence}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::FindingId;

    #[test]
    fn every_check_has_a_name_of_its_own() {
        for check in Check::ALL {
            let (name, meaning) = (check.name(), check.meaning());
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(name.bytes().all(plain), "{name}");
            // The first of two checks with one name is found for both.
            assert_eq!(Check::named(name), Some(check));
            assert!(!meaning.ends_with('.') && !meaning.is_empty(), "{name}");
        }
        assert!(Check::ALL.is_sorted_by_key(|check| check.category()), "printed by category");
    }

    #[test]
    fn bootstrap_is_no_remedy_on_a_node_that_others_prepare() {
        let remedy = |remedy: &str| {
            // The agent's results pass through doctor again.
            let checked =
                Check::MaxUserNamespaces.failed("x", remedy).prepared_by_others().prepared_by_others();
            let CheckOutcome::Failed(problems) = checked.outcome else { panic!("{checked:?}") };
            problems.into_iter().map(|problem| problem.remedy).collect::<String>()
        };
        assert_eq!(remedy("restart the runtime"), "restart the runtime");
        assert_eq!(
            remedy("run usernsd bootstrap with --apply-sysctl"),
            "run usernsd bootstrap with --apply-sysctl (not here, where bootstrap.enabled is false: change what prepares \
             this node; usernsd machineconfig prints what bootstrap would write)"
        );
        assert_eq!(Check::PsiEnabled.passed("y").prepared_by_others(), Check::PsiEnabled.passed("y"));
    }

    #[test]
    fn the_verdict_names_the_most_important_result() {
        let failed = |check: Check| check.failed("x", "y");
        let seen =
            [Check::CgroupV2, Check::MaxUserNamespaces, Check::CriReachable].map(|check| check.passed(""));
        for (checked, want) in [
            (seen.to_vec(), "3 passed. This node can run pods with hostUsers: false."),
            // A check that was left out (--ignore).
            (
                vec![Check::CgroupV2.passed("")],
                "1 passed. Whether this node can run pods with hostUsers: false is not known: checks that decide it were not made.",
            ),
            (
                [seen.as_slice(), &[failed(Check::PsiEnabled), Check::CrioConfig.skipped("")]].concat(),
                "1 note, 3 passed, 1 skipped. This node can run pods with hostUsers: false.",
            ),
            (
                vec![Check::SubidGrammar.passed(""), Check::CriReachable.skipped("")],
                "1 passed, 1 skipped. Whether this node can run pods with hostUsers: false is not known: checks that decide \
                 it were not made.",
            ),
            (
                vec![failed(Check::SubidNoOverlap), failed(Check::PodIdOverlap)],
                "1 error, 1 warning, 0 passed. Pods of this node are not isolated as they should be.",
            ),
            (
                vec![failed(Check::PodIdOverlap), failed(Check::CgroupV2)],
                "2 errors, 0 passed. This node is not ready for pods with hostUsers: false.",
            ),
            (
                [seen.as_slice(), &[failed(Check::SubidNoOverlap)]].concat(),
                "1 warning, 3 passed. This node can run pods with hostUsers: false; look at the warnings.",
            ),
            (vec![Check::CgroupV2.skipped("")], "0 passed, 1 skipped. Nothing could be checked."),
        ] {
            assert_eq!(Summary::of(&checked).verdict(), want);
        }
        let ready = |checked: &[Checked]| Summary::of(checked).is_ready();
        assert_eq!((ready(&seen), ready(&seen[1..]), ready(&[])), (Some(true), None, None));
        assert_eq!(ready(&[failed(Check::CgroupV2)]), Some(false));
        let warned = Summary::of(&[failed(Check::SubidNoOverlap)]);
        assert!(warned.is_good(false) && !warned.is_good(true));
        assert!(Summary::of(&[failed(Check::PsiEnabled)]).is_good(true));
    }

    #[test]
    fn a_check_is_judged_by_its_own_findings_only() {
        let findings = [
            Finding::error(FindingId::MaxUserNamespaces, "none".into(), "sysctl"),
            Finding::warning(FindingId::MaxUserNamespaces, "few".into(), "sysctl"),
            Finding::note(FindingId::IdmappedMounts, "unknown".into()),
        ];
        let what = |check: Check| match check.judged(&findings, "good").outcome {
            CheckOutcome::Failed(problems) => problems.into_iter().map(|problem| problem.what).collect(),
            _ => vec![],
        };
        assert_eq!(what(Check::MaxUserNamespaces), ["none"]);
        assert_eq!(what(Check::UserNamespacesRoom), ["few"]);
        assert!(what(Check::IdmappedMounts).is_empty(), "what nobody could try is no failure");
        let many = vec![Finding::warning(FindingId::SubidOverlap, "x".into(), ""); 99];
        assert!(
            matches!(Check::SubidNoOverlap.judged(&many, "").outcome, CheckOutcome::Failed(found) if found.len() == MANY)
        );
    }
}
