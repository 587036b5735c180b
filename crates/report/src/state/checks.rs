//! The part of the document with the results of the node's checks.

use serde::{Deserialize, Serialize};

use usernsd_domain::check::{Category, Check, CheckOutcome, CheckResult, Checked, Problem};
use usernsd_domain::finding::Severity;

use super::schema::Named;

/// A check and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckState {
    /// The check's name, e.g. `subid_no_overlap`.
    pub id: Named<Check>,
    /// The check's category: `kernel`, `subordinate_ids`, `runtime`, `systemd`, `pods`, `configuration`.
    pub category: Named<Category>,
    /// The check's severity if it fails: `error`, `warning` or `note`.
    pub severity: Named<Severity>,
    /// `pass`, `skip`; where it fails `fail`, `warn` or `note`, by its severity.
    pub outcome: Named<CheckResult>,
    /// The observation if it passed, the reason if it was skipped.
    pub seen: Option<String>,
    /// The problems if it failed.
    pub problems: Vec<ProblemState>,
}

/// A problem that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemState {
    /// The problem in one sentence.
    pub what: String,
    /// An action that solves the problem.
    pub remedy: String,
}

// === impl CheckState ===

impl From<&Checked> for CheckState {
    fn from(checked: &Checked) -> CheckState {
        let check = checked.check;
        let (seen, problems) = match &checked.outcome {
            CheckOutcome::Passed(seen) | CheckOutcome::Skipped(seen) => (Some(seen.clone()), &[][..]),
            CheckOutcome::Failed(problems) => (None, problems.as_slice()),
        };
        let problem =
            |problem: &Problem| ProblemState { what: problem.what.clone(), remedy: problem.remedy.clone() };
        CheckState {
            id: check.into(),
            category: check.category().into(),
            severity: check.severity().into(),
            outcome: checked.result().into(),
            seen,
            problems: problems.iter().map(problem).collect(),
        }
    }
}

impl CheckState {
    /// The check as in domain; `None` for one that this program does not have.
    #[must_use]
    pub fn checked(&self) -> Option<Checked> {
        let check = self.id.known()?;
        let seen = self.seen.clone().unwrap_or_default();
        let problem =
            |problem: &ProblemState| Problem { what: problem.what.clone(), remedy: problem.remedy.clone() };
        let outcome = match self.outcome.known() {
            Some(CheckResult::Pass) => CheckOutcome::Passed(seen),
            Some(CheckResult::Skip) => CheckOutcome::Skipped(seen),
            _ => CheckOutcome::Failed(self.problems.iter().map(problem).collect()),
        };
        Some(Checked { check, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rendered_check_is_parsed_back() {
        for check in Check::ALL {
            for checked in [check.passed("seen"), check.skipped("why"), check.failed("what", "remedy")] {
                assert_eq!(CheckState::from(&checked).checked(), Some(checked));
            }
        }
        let other = CheckState {
            id: Named::Unknown("newer".into()),
            ..CheckState::from(&Check::CgroupV2.passed(""))
        };
        assert_eq!(other.checked(), None);
    }
}
