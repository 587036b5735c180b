//! Findings: facts about a node that an administrator should be aware of.

use std::fmt;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be, or a matter of taste.
    Note,
    /// It works, but perhaps not as expected.
    Warning,
    /// Something does not work, or will not work after its next start.
    Error,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Identifier in kebab case; the same in all versions.
    pub id: &'static str,
    /// The severity.
    pub severity: Severity,
    /// The problem and its consequence: one sentence without a full stop.
    pub what: String,
    /// What to do; empty if there is nothing to do.
    pub remedy: String,
}

// === impl Severity ===

impl Severity {
    /// Every severity.
    pub const ALL: [Severity; 3] = [Severity::Note, Severity::Warning, Severity::Error];

    /// The name in output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

// === impl Finding ===

impl Finding {
    /// A note.
    #[must_use]
    pub fn note(id: &'static str, what: String) -> Finding {
        Finding { id, severity: Severity::Note, what, remedy: String::new() }
    }

    /// A warning.
    #[must_use]
    pub fn warning(id: &'static str, what: String, remedy: &str) -> Finding {
        Finding { id, severity: Severity::Warning, what, remedy: remedy.to_owned() }
    }

    /// An error.
    #[must_use]
    pub fn error(id: &'static str, what: String, remedy: &str) -> Finding {
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
    fn reads_as_one_line() {
        let finding = Finding::warning("some-id", "it is so".into(), "do that");
        assert_eq!(finding.to_string(), "warning: it is so; do that [some-id]");
        assert_eq!(Finding::note("some-id", "it is so".into()).to_string(), "note: it is so [some-id]");
        assert!(Severity::Error > Severity::Warning);
    }
}
