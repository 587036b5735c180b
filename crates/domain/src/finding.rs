//! What is found on a node that someone should know of.

use std::fmt;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It is as it should be, or a matter of taste.
    Note,
    /// It works, though not as someone may think.
    Warning,
    /// Something does not work, or will not after its next start.
    Error,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A name that stays the same from version to version, in kebab case.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What it is and what comes of it, one sentence without a full stop.
    pub what: String,
    /// What to do about it; empty where there is nothing to do.
    pub remedy: String,
}

// === impl Severity ===

impl Severity {
    /// The word for people.
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
