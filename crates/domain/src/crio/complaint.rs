//! A problem in CRI-O's configuration: a finding with the file it is about, and for an error CRI-O's own words.

use crate::finding::{Finding, FindingId, Severity};

/// A problem in CRI-O's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The severity; with an error, CRI-O does not start.
    pub severity: Severity,
    /// The kind of finding.
    pub id: FindingId,
    /// The file that it is about.
    pub place: String,
    /// The problem; for an error, CRI-O's own message.
    pub message: String,
    /// The remedy; empty if the message contains it.
    pub remedy: String,
}

impl Complaint {
    /// An error: CRI-O does not start.
    pub(super) fn error(id: FindingId, place: impl Into<String>, message: impl Into<String>) -> Complaint {
        Complaint::new(Severity::Error, id, place.into(), message.into())
    }

    /// A warning: something will not work as intended.
    pub(super) fn warning(id: FindingId, place: impl Into<String>, message: impl Into<String>) -> Complaint {
        Complaint::new(Severity::Warning, id, place.into(), message.into())
    }

    pub(super) fn note(id: FindingId, place: impl Into<String>, message: impl Into<String>) -> Complaint {
        Complaint::new(Severity::Note, id, place.into(), message.into())
    }

    /// Sets the remedy.
    pub(super) fn remedy(self, remedy: impl Into<String>) -> Complaint {
        Complaint { remedy: remedy.into(), ..self }
    }

    fn new(severity: Severity, id: FindingId, place: String, message: String) -> Complaint {
        Complaint { severity, id, place, message, remedy: String::new() }
    }
}

impl From<Complaint> for Finding {
    fn from(complaint: Complaint) -> Finding {
        let Complaint { severity, id, place, message, remedy } = complaint;
        Finding { id, severity, what: format!("{place}: {message}"), remedy }
    }
}
