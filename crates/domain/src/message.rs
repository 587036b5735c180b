//! Messages of other programs that have to do with user namespaces, as their sources print them:
//! what is behind each, and what to do about it. `docs/errors.md` is made of these tables.
//!
//! - one module a program: its messages. A table lists whatever the module declares.
//! - [`coverage`]: every error text of the sources that were read, and why some have no message here.
//! - [`log`]: what is known of a whole log, and the nearest to what is not.

use std::sync::LazyLock;

use self::pattern::{Line, Pattern};

/// Declares messages, and the table that holds all of them.
///
/// `says` are the wordings, `…` for what differs. `sample` is one as it is printed, where that is more than the
/// first wording. `when` looks at what the first `…` stands for.
macro_rules! messages {
    ($table:ident of $program:ident; $($name:ident $id:literal {
        says: [$($says:literal),+ $(,)?],
        $(sample: $sample:literal,)?
        cause: $cause:literal,
        fix: $fix:literal,
        $(page: $page:literal,)?
        $(when: $when:expr,)?
    })+) => {
        $(pub(super) const $name: $crate::message::Message = $crate::message::Message {
            id: $id,
            program: $crate::message::Program::$program,
            says: &[$($says),+],
            sample: $crate::message::first(&[$($sample,)? $($says),+]),
            cause: $cause,
            fix: $fix,
            page: $crate::message::first(&[$($page,)? ""]),
            when: $crate::message::last(&[None $(, Some($when))?]),
        };)+
        pub(super) const $table: &[$crate::message::Message] = &[$($name),+];
    };
}

mod application;
mod containerd;
pub mod coverage;
mod crio;
mod engine;
mod kubelet;
mod kubernetes;
pub mod log;
mod nri;
mod oci;
mod openshift;
mod page;
mod pattern;
mod systemd;
mod usernsd;

pub use self::page::documented_markdown;

/// Whose messages they are, in the order of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// The API server and its admission.
    Kubernetes,
    /// The kubelet.
    Kubelet,
    /// CRI-O.
    Crio,
    /// containerd.
    Containerd,
    /// NRI, in either runtime.
    Nri,
    /// runc, crun and what they are started by.
    Oci,
    /// podman, buildah, Docker and other programs that make containers in a pod.
    Engine,
    /// systemd as PID 1 of a container, and systemctl in it.
    Systemd,
    /// Applications that were not written for user namespaces.
    Application,
    /// OpenShift.
    Openshift,
    /// usernsd itself.
    Usernsd,
}

/// What must be true of the text that the first `…` of a wording stands for.
type Condition = fn(&str) -> bool;

/// A known message.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    /// Its name, which is its place in `docs/errors.md`.
    pub id: &'static str,
    /// Who prints it.
    pub program: Program,
    /// Its wordings; `…` stands for what differs.
    pub says: &'static [&'static str],
    /// One as it is printed; `…` stands for more.
    pub sample: &'static str,
    /// What is behind it.
    pub cause: &'static str,
    /// What to do about it.
    pub fix: &'static str,
    /// Where more is said, below `docs/`; empty where the fix says it all.
    pub page: &'static str,
    /// What must be true of the text that the first `…` of a wording stands for.
    when: Option<Condition>,
}

/// Messages that only follow from another one: where both are in a log, the second is behind it.
const FOLLOWS: [(Message, Message); 4] = [
    (systemd::NO_MANAGER, systemd::CGROUP_V1_ONLY),
    (systemd::API_FILESYSTEMS, systemd::CGROUP_V1_ONLY),
    (systemd::NO_MANAGER, systemd::INIT_SCOPE_DENIED),
    (systemd::NO_MANAGER_READ_ONLY, systemd::INIT_SCOPE_READ_ONLY),
];

/// Every message with its wordings, made once.
static PATTERNS: LazyLock<Vec<(&'static Message, Vec<Pattern>)>> = LazyLock::new(|| {
    all().map(|message| (message, message.says.iter().map(|says| Pattern::new(says)).collect())).collect()
});

/// Every known message, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Message> {
    Program::ALL.into_iter().flat_map(Program::messages)
}

/// Finds the message in a line of a log. Of several that fit, the one that says most.
///
/// Lines of logs may hold it quoted, once or more often: backslashes count for nothing, and case neither.
#[must_use]
pub fn recognise(line: &str) -> Option<&'static Message> {
    recognise_in(&Line::new(line))
}

/// Whether `id` only follows from a message that is among `others`.
#[must_use]
pub fn follows(id: &str, others: &[&str]) -> bool {
    FOLLOWS.iter().any(|(effect, cause)| effect.id == id && others.contains(&cause.id))
}

fn recognise_in(line: &Line) -> Option<&'static Message> {
    let weight = |(message, patterns): &(&'static Message, Vec<Pattern>)| {
        let fits = patterns.iter().filter_map(|pattern| {
            let first = pattern.find(line)?;
            message.when.is_none_or(|when| when(first)).then(|| pattern.weight())
        });
        // A message that also looks at what differs says more than one that does not.
        Some((fits.max()? + usize::from(message.when.is_some()), *message))
    };
    PATTERNS.iter().filter_map(weight).max_by_key(|(weight, _)| *weight).map(|(_, message)| message)
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

// === impl Program ===

impl Program {
    /// Every one, in the order of the documentation.
    pub const ALL: [Program; 11] = [
        Program::Kubernetes,
        Program::Kubelet,
        Program::Crio,
        Program::Containerd,
        Program::Nri,
        Program::Oci,
        Program::Engine,
        Program::Systemd,
        Program::Application,
        Program::Openshift,
        Program::Usernsd,
    ];

    /// Its name for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Program::Kubernetes => "Kubernetes API",
            Program::Kubelet => "kubelet",
            Program::Crio => "CRI-O",
            Program::Containerd => "containerd",
            Program::Nri => "NRI in containerd and CRI-O",
            Program::Oci => "runc, crun and other runtimes",
            Program::Engine => "Container engines in a pod",
            Program::Systemd => "systemd",
            Program::Application => "Applications",
            Program::Openshift => "OpenShift",
            Program::Usernsd => "usernsd",
        }
    }

    /// Its messages.
    #[must_use]
    pub const fn messages(self) -> &'static [Message] {
        match self {
            Program::Kubernetes => kubernetes::KUBERNETES,
            Program::Kubelet => kubelet::KUBELET,
            Program::Crio => crio::CRIO,
            Program::Containerd => containerd::CONTAINERD,
            Program::Nri => nri::NRI,
            Program::Oci => oci::OCI,
            Program::Engine => engine::ENGINE,
            Program::Systemd => systemd::SYSTEMD,
            Program::Application => application::APPLICATION,
            Program::Openshift => openshift::OPENSHIFT,
            Program::Usernsd => usernsd::USERNSD,
        }
    }
}

#[cfg(test)]
mod tests;
