//! What is wrong with CRI-O's configuration: a finding with the file it is about, and for an error
//! CRI-O's own words.

use crate::finding::{Finding, Severity};

/// One complaint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// How much it matters; CRI-O does not start with an error.
    pub severity: Severity,
    /// The finding's name.
    pub id: &'static str,
    /// The file.
    pub place: String,
    /// What is the case; for an error, CRI-O's own words.
    pub message: String,
    /// What to do; empty where the message says it.
    pub remedy: String,
}

impl Complaint {
    /// CRI-O does not start.
    pub(super) fn error(id: &'static str, place: impl Into<String>, message: impl Into<String>) -> Complaint {
        Complaint::new(Severity::Error, id, place.into(), message.into())
    }

    /// Something will not work as wished.
    pub(super) fn warning(
        id: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
    ) -> Complaint {
        Complaint::new(Severity::Warning, id, place.into(), message.into())
    }

    /// Worth knowing.
    pub(super) fn note(id: &'static str, place: impl Into<String>, message: impl Into<String>) -> Complaint {
        Complaint::new(Severity::Note, id, place.into(), message.into())
    }

    /// With what to do about it.
    pub(super) fn remedy(self, remedy: impl Into<String>) -> Complaint {
        Complaint { remedy: remedy.into(), ..self }
    }

    fn new(severity: Severity, id: &'static str, place: String, message: String) -> Complaint {
        Complaint { severity, id, place, message, remedy: String::new() }
    }
}

impl From<Complaint> for Finding {
    fn from(complaint: Complaint) -> Finding {
        let Complaint { severity, id, place, message, remedy } = complaint;
        Finding { id, severity, what: format!("{place}: {message}"), remedy }
    }
}
