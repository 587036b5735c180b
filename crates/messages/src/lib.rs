//! Messages of other programs about user namespaces, as their sources print them, each with its cause and its remedy.
//! `usernsd explain --from-log` looks them up, and `docs/errors.md` is generated from these tables.
//!
//! - a module for each program: its messages, as an enum.
//! - [`coverage`]: every error text of the sources that were read, and why some have no message here.
//! - [`log`]: the messages in a whole log, and for an unknown line the operation that failed and the nearest messages.
//!
//! The crate is pure, as `usernsd-domain` is. `usernsd-inspect` and the binary use it.

use std::cmp::Reverse;
use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use self::pattern::{Cut, Hit, Line, Pattern};

/// Declares a program's messages: an enum of them, and what each of them is.
///
/// `says` are the wordings, `…` for what differs. `sample` is a printed message, if it contains more than
/// the first wording. `when` is a condition for the text in place of the first `…`.
macro_rules! messages {
    ($program:ident; $($name:ident = $id:literal {
        says: [$($says:literal),+ $(,)?],
        $(sample: $sample:literal,)?
        cause: $cause:literal,
        fix: $fix:literal,
        $(page: $page:literal,)?
        $(when: $when:expr,)?
    })+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $program {
            $(#[doc = $cause] $name,)+
        }

        usernsd_domain::words! {
            /// The name, in kebab case, which is its place in `docs/errors.md`.
            $program { $($name = $id),+ }
        }

        impl $program {
            pub(super) const MESSAGES: &[&$crate::Message] = &[$($program::$name.message()),+];

            /// Identifies it among the messages of all programs.
            #[must_use]
            pub const fn id(self) -> $crate::MessageId {
                $crate::MessageId::$program(self)
            }

            /// The cause and the remedy.
            #[must_use]
            pub const fn message(self) -> &'static $crate::Message {
                match self {
                    $($program::$name => {
                        const MESSAGE: $crate::Message = $crate::Message {
                            id: $program::$name.id(),
                            says: &[$($says),+],
                            sample: $crate::first(&[$($sample,)? $($says),+]),
                            cause: $cause,
                            fix: $fix,
                            page: $crate::first(&[$($page,)? ""]),
                            when: $crate::last(&[None $(, Some($when))?]),
                        };
                        &MESSAGE
                    })+
                }
            }
        }
    };
}

mod application;
mod containerd;
pub mod coverage;
mod crio;
mod engine;
mod kernel;
mod kubelet;
mod kubernetes;
mod locale;
pub mod log;
mod nri;
mod oci;
mod openshift;
mod page;
mod pattern;
mod systemd;
mod text;
mod usernsd;

pub use self::application::Application;
pub use self::containerd::Containerd;
pub use self::crio::Crio;
pub use self::engine::Engine;
pub use self::kernel::Kernel;
pub use self::kubelet::Kubelet;
pub use self::kubernetes::Kubernetes;
pub use self::nri::Nri;
pub use self::oci::Oci;
pub use self::openshift::Openshift;
pub use self::page::documented_markdown;
pub use self::systemd::Systemd;
pub use self::usernsd::Usernsd;

/// A line for each program: its value, its title, and a comment.
macro_rules! programs {
    ($($(#[$doc:meta])* $program:ident = $title:literal,)+) => {
        /// A program that prints messages, in the order of the documentation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Program {
            $($(#[$doc])* $program,)+
        }

        usernsd_domain::words! {
            /// The name for people.
            Program { $($program = $title),+ }
        }

        /// Identifies a message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum MessageId {
            $($(#[$doc])* $program($program),)+
        }

        impl Program {
            #[must_use]
            pub const fn messages(self) -> &'static [&'static Message] {
                match self {
                    $(Program::$program => $program::MESSAGES,)+
                }
            }
        }

        impl MessageId {
            /// The name, in kebab case, which is its place in `docs/errors.md`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(MessageId::$program(message) => message.name(),)+
                }
            }

            /// The program that prints it.
            #[must_use]
            pub const fn program(self) -> Program {
                match self {
                    $(MessageId::$program(_) => Program::$program,)+
                }
            }

            /// The cause and the remedy.
            #[must_use]
            pub const fn message(self) -> &'static Message {
                match self {
                    $(MessageId::$program(message) => message.message(),)+
                }
            }
        }
    };
}

programs! {
    /// The API server and its admission.
    Kubernetes = "Kubernetes API",
    Kubelet = "kubelet",
    Crio = "CRI-O",
    Containerd = "containerd",
    /// NRI, in either runtime.
    Nri = "NRI in containerd and CRI-O",
    /// runc, crun and what they are started by.
    Oci = "runc, crun and other runtimes",
    /// podman, buildah, Docker and other programs that make containers in a pod.
    Engine = "Container engines in a pod",
    /// systemd as PID 1 of a container, and systemctl in it.
    Systemd = "systemd",
    /// Applications that were not written for user namespaces.
    Application = "Applications",
    Openshift = "OpenShift",
    /// AppArmor and SELinux, in the kernel's log.
    Kernel = "Linux kernel",
    Usernsd = "usernsd",
}

/// A condition for the text that the first `…` of a wording stands for.
type Condition = fn(&str) -> bool;

/// A known message.
#[derive(Debug)]
pub struct Message {
    pub id: MessageId,
    /// The wordings; `…` stands for what differs.
    pub says: &'static [&'static str],
    /// One as it is printed; `…` stands for more.
    pub sample: &'static str,
    /// The cause of the message.
    pub cause: &'static str,
    /// The action that solves the problem.
    pub fix: &'static str,
    /// The page with more information, below `docs/`; empty if the fix is sufficient.
    pub page: &'static str,
    /// A condition for the text that the first `…` of a wording stands for.
    when: Option<Condition>,
}

/// The most messages that are looked for in one line.
const MAX_IN_LINE: usize = 3;

/// (effect, cause): if a log has both, only the cause is shown.
const FOLLOWS: [(MessageId, MessageId); 10] = [
    (Systemd::NoManager.id(), Systemd::CgroupV1Only.id()),
    (Systemd::ApiFilesystems.id(), Systemd::CgroupV1Only.id()),
    (Systemd::NoManager.id(), Systemd::InitScopeDenied.id()),
    (Systemd::NoManagerReadOnly.id(), Systemd::InitScopeReadOnly.id()),
    (Engine::NewuidmapFailed.id(), Engine::Newuidmap.id()),
    (Engine::NewuidmapFailed.id(), Engine::NewuidmapInvalid.id()),
    (Engine::NewuidmapFailed.id(), Engine::NewuidmapRange.id()),
    (Engine::NewuidmapFailed.id(), Engine::NewuidmapCapability.id()),
    (Engine::NewuidmapFailed.id(), Engine::NewuidmapOwner.id()),
    (Engine::NewuidmapFailed.id(), Engine::NewuidmapMissing.id()),
];

/// Every message with its wordings, made once.
static PATTERNS: LazyLock<Vec<(&'static Message, Vec<Pattern>)>> = LazyLock::new(|| {
    all().map(|message| (message, message.says.iter().map(|says| Pattern::new(says)).collect())).collect()
});

/// Every known message, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Message> {
    Program::ALL.into_iter().flat_map(Program::messages).copied()
}

/// Finds the message in a line of a log; of several that match, the most specific one.
///
/// In the line the message may be quoted, once or more often, coloured, and contain the kernel's error in another
/// language.
#[must_use]
pub fn recognise(line: &str) -> Option<&'static Message> {
    recognise_in(&Line::new(line))
}

/// Whether `id` only follows from a message that is among `others`.
#[must_use]
pub fn follows(id: MessageId, others: &[MessageId]) -> bool {
    FOLLOWS.iter().any(|(effect, cause)| *effect == id && others.contains(cause))
}

fn recognise_in(line: &Line) -> Option<&'static Message> {
    recognise_all(line).into_iter().next()
}

/// The messages in a line in which several programs, or steps of one, print their errors: those that share no text.
fn recognise_all(line: &Line) -> Vec<&'static Message> {
    let mut fits: Vec<(usize, Range<usize>, &'static Message)> = fitting(line).collect();
    fits.sort_by_key(|(weight, _, _)| Reverse(*weight));
    // Admission puts every reason into one sentence; the most specific one counts.
    let is_admission = |program| matches!(program, Program::Kubernetes | Program::Openshift);
    if fits.first().is_some_and(|(_, _, message)| is_admission(message.id.program())) {
        fits.truncate(1);
    }
    let mut found: Vec<(Range<usize>, &'static Message)> = Vec::new();
    for (_, span, message) in fits {
        let program = message.id.program();
        // What an application meets can be part of any message.
        let counts = found.is_empty() || program != Program::Application;
        let is_apart = |(other, _): &(Range<usize>, _)| span.end <= other.start || other.end <= span.start;
        if counts && found.len() < MAX_IN_LINE && found.iter().all(is_apart) {
            found.push((span, message));
        }
    }
    found.into_iter().map(|(_, message)| message).collect()
}

/// The message within whose wording a line was cut off, unless it could be another.
fn recognise_cut(line: &Line) -> Option<&'static Message> {
    let mut best: Option<(Cut, &'static Message)> = None;
    let mut is_clear = false;
    for (message, patterns) in PATTERNS.iter().filter(|(message, _)| message.when.is_none()) {
        let Some(cut) = patterns.iter().filter_map(|pattern| pattern.find_cut(line)).max() else {
            continue;
        };
        match best {
            Some((most, _)) if cut.found < most.found => {}
            // Wordings that differ only in what is missing, such as the kernel's error.
            Some((most, _)) if cut.found == most.found => is_clear = false,
            _ => (best, is_clear) = (Some((cut, *message)), true),
        }
    }
    best.filter(|(cut, _)| is_clear && cut.is_enough).map(|(_, message)| message)
}

/// Whether a text begins with the name of this user, perhaps in quotes.
fn begins_with_user(text: &str, user: &str) -> bool {
    let mut words = text.split(|next: char| next.is_whitespace() || matches!(next, '\'' | '"' | ':'));
    words.find(|word| !word.is_empty()) == Some(user)
}

/// The messages that fit a line: how much each says of it, where, and the message.
fn fitting(line: &Line) -> impl Iterator<Item = (usize, Range<usize>, &'static Message)> {
    PATTERNS.iter().filter_map(move |(message, patterns)| {
        let fits = patterns.iter().filter_map(|pattern| {
            let Hit { first, span } = pattern.find(line)?;
            message.when.is_none_or(|when| when(first)).then(|| (pattern.weight(), span))
        });
        let (weight, span) = fits.max_by_key(|(weight, _)| *weight)?;
        // A message that also looks at what differs says more than one that does not.
        Some((weight + usize::from(message.when.is_some()), span, *message))
    })
}

const fn first(texts: &[&'static str]) -> &'static str {
    match texts {
        [first, ..] => first,
        [] => "",
    }
}

const fn last(conditions: &[Option<Condition>]) -> Option<Condition> {
    match conditions {
        [.., last] => *last,
        [] => None,
    }
}

/// The number at the beginning of a text.
fn number(text: &str) -> Option<u64> {
    let digits = text.trim_start().split(|next: char| !next.is_ascii_digit()).next()?;
    digits.parse().ok()
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
