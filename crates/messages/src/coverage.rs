//! The error texts of the sources that were read, and what became of each: a message here, or a reason why none
//! stands for it.

use std::sync::LazyLock;

use super::MessageId;
use super::pattern::{Hit, Line, Pattern};
use super::text::is_boundary;

mod texts;

pub use self::texts::SOURCES;

/// Texts without a part of this length are not looked for in a line: they would be found everywhere.
const MIN_LENGTH: usize = 20;

/// A program whose sources were read.
#[derive(Debug)]
pub struct Source {
    pub name: &'static str,
    /// The versions that were read.
    pub versions: &'static [&'static str],
    /// The files, with the texts of each that have to do with user namespaces.
    pub files: &'static [File],
}

/// A file of a program's sources.
#[derive(Debug)]
pub struct File {
    /// The path there.
    pub path: &'static str,
    pub texts: &'static [Text],
}

/// An error text.
#[derive(Debug)]
pub struct Text {
    /// As it is in the source, `…` for what is filled in.
    pub text: &'static str,
    /// With what stands around it when it is printed, where it takes that to know it.
    pub printed: Option<&'static str>,
    /// Whether the text is known or listed.
    pub verdict: Verdict,
}

/// The treatment of a text of a program's source.
#[derive(Debug, Clone, Copy)]
pub enum Verdict {
    /// This message stands for it.
    Known(MessageId),
    Listed(Reason),
}

/// Why no message stands for a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The text after it describes the problem.
    Wrapper,
    /// The text names a system call and the kernel's error.
    SystemCall,
    /// The caller's fault.
    Request,
    /// A step between processes of the program itself.
    Internal,
    /// The program goes on.
    Ignored,
    /// The usage of a command.
    Usage,
    /// Something else than user namespaces.
    Other,
}

/// The texts without a message, made once.
static LISTED: LazyLock<Vec<(&'static str, Reason, Pattern)>> = LazyLock::new(|| {
    let of = |source: &'static Source| {
        source.texts().filter_map(move |text| match text.verdict {
            Verdict::Listed(reason) => Some((source.name, reason, Pattern::new(text.text))),
            Verdict::Known(_) => None,
        })
    };
    SOURCES.iter().flat_map(of).filter(|(_, _, pattern)| pattern.longest() >= MIN_LENGTH).collect()
});

/// The text in a line that is listed without a message, by its program, and the reason.
pub(super) fn find(line: &Line) -> Option<(&'static str, Reason)> {
    let begins = |hit: &Hit<'_>| line.as_str().get(..hit.span.start).is_some_and(is_boundary);
    let fits = LISTED.iter().filter(|(_, _, pattern)| pattern.find(line).as_ref().is_some_and(begins));
    fits.max_by_key(|(_, _, pattern)| pattern.weight()).map(|(program, reason, _)| (*program, *reason))
}

// === impl Source ===

impl Source {
    pub fn texts(&'static self) -> impl Iterator<Item = &'static Text> {
        self.files.iter().flat_map(|file| file.texts)
    }
}

// === impl Reason ===

impl Reason {
    pub const ALL: [Reason; 7] = [
        Reason::Wrapper,
        Reason::SystemCall,
        Reason::Request,
        Reason::Internal,
        Reason::Ignored,
        Reason::Usage,
        Reason::Other,
    ];

    /// The reason, for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Reason::Wrapper => "it only introduces the text after it, which shows the cause",
            Reason::SystemCall => {
                "it consists of a system call, a file and the kernel's error, and advice depends on these"
            }
            Reason::Request => {
                "it reports an inconsistent request of a container runtime or CRI client, which the kubelet does not make"
            }
            Reason::Internal => {
                "it reports a failed step between processes of the program itself; an earlier line shows the cause"
            }
            Reason::Ignored => "it is a warning without consequences",
            Reason::Usage => "it is the usage text of a command",
            Reason::Other => "it is not related to user namespaces",
        }
    }
}

// === impl Text ===

impl Text {
    /// One that a message stands for.
    const fn known(text: &'static str, message: MessageId) -> Text {
        Text { text, printed: None, verdict: Verdict::Known(message) }
    }

    /// One that a message stands for, with what stands around it.
    const fn printed(text: &'static str, printed: &'static str, message: MessageId) -> Text {
        Text { text, printed: Some(printed), verdict: Verdict::Known(message) }
    }

    /// One that none stands for.
    const fn listed(text: &'static str, reason: Reason) -> Text {
        Text { text, printed: None, verdict: Verdict::Listed(reason) }
    }
}
