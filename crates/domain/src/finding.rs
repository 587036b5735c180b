//! Findings: facts about a node that an administrator should be aware of.

use std::fmt;

mod id;

pub use self::id::FindingId;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be, or a matter of taste.
    Note,
    /// The node works, but perhaps not as expected.
    Warning,
    /// Something does not work, or will not work after its next start.
    Error,
}

/// Something about a node that an administrator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind of finding.
    pub id: FindingId,
    pub severity: Severity,
    /// The problem and its consequence: one sentence without a full stop.
    pub what: String,
    /// The remedy; empty if there is nothing to do.
    pub remedy: String,
}

// === impl Severity ===

words! {
    /// The name in output.
    Severity { Note = "note", Warning = "warning", Error = "error" }
}

// === impl Finding ===

impl Finding {
    #[must_use]
    pub fn note(id: FindingId, what: String) -> Finding {
        Finding { id, severity: Severity::Note, what, remedy: String::new() }
    }

    #[must_use]
    pub fn warning(id: FindingId, what: String, remedy: &str) -> Finding {
        Finding { id, severity: Severity::Warning, what, remedy: remedy.to_owned() }
    }

    #[must_use]
    pub fn error(id: FindingId, what: String, remedy: &str) -> Finding {
        Finding { id, severity: Severity::Error, what, remedy: remedy.to_owned() }
    }
}

/// `warning: WHAT; REMEDY [ID]`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity.name(), self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        write!(f, " [{}]", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_printed_as_one_line() {
        let finding = Finding::warning(FindingId::Psi, "it is so".into(), "do that");
        assert_eq!(finding.to_string(), "warning: it is so; do that [psi]");
        assert_eq!(Finding::note(FindingId::Psi, "it is so".into()).to_string(), "note: it is so [psi]");
        assert!(Severity::Error > Severity::Warning);
    }
}
