//! The operation that failed.

use super::errno::{self, KernelError};
use super::marks::{ELSEWHERE, ENDED, Marks, OPERATIONS, WHOLE, WIDER};
use super::{begins_word, exit, reports_a_failure, statement};

/// Operations that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Admitting the pod.
    Admission,
    /// The kubelet starts and chooses its range.
    KubeletStart,
    /// CRI-O or containerd starts.
    RuntimeStart,
    /// Choosing or reading a range of host IDs.
    Range,
    /// Writing the mapping of a user namespace.
    Mapping,
    /// Mapping the IDs of a mount.
    MappedMount,
    /// Making or handing over a cgroup.
    Cgroup,
    /// Making the pod's network namespace.
    NetworkNamespace,
    /// Creating or joining another namespace.
    Namespace,
    /// Preparing the image's files.
    Rootfs,
    /// Making the image's files the root directory.
    Pivot,
    /// Mounting a FUSE file system.
    Fuse,
    /// Passing mounts on to other mount namespaces.
    Propagation,
    /// Mounting a network file system or a disk.
    ForeignMount,
    /// Mounting something into the container.
    Mount,
    /// Putting a program under its `AppArmor` profile or `SELinux` label.
    SecurityProfile,
    /// Creating a keyring of the kernel.
    Keyring,
    /// Loading BPF programs, attaching probes, reading performance counters.
    Bpf,
    /// A system call that seccomp profiles forbid: `io_uring`, `userfaultfd`, memory policies.
    Forbidden,
    /// Debugging another process.
    Tracing,
    /// A program's own confinement by Landlock, seccomp or a setuid helper.
    Confinement,
    /// Changing a process's score for the out-of-memory killer.
    OomScore,
    /// Loading a kernel module.
    Module,
    /// Setting a sysctl.
    Sysctl,
    /// Configuring interfaces, routes and packet filters.
    Network,
    /// Opening a socket or a port.
    Socket,
    /// Opening a device.
    Device,
    /// Creating a device node.
    DeviceNode,
    /// The kubelet's decision on the user of a container, before it is created.
    RunAs,
    /// Becoming another user, or changing capabilities.
    Credentials,
    /// Changing the root directory of a process.
    Chroot,
    /// Raising a limit or a priority.
    Limit,
    /// What belongs to the whole machine: clock, kernel log, swap.
    Machine,
    /// Extended attributes, among them file capabilities.
    Attribute,
    /// Executing a program.
    Exec,
    /// Changing to a directory.
    WorkingDirectory,
    /// Making the pod's sandbox.
    Sandbox,
    /// Making or starting the container.
    Container,
    /// A program in the container.
    Inside,
    /// The program failed by a fault of its own.
    Crash,
    /// Giving a file its owner or permissions, or a process its groups.
    Owner,
    /// Translating the names of `NFSv4` users.
    NfsNames,
    /// The end of another program, which has the cause.
    Ended,
    /// Something that the program goes on without.
    Ignored,
    /// The kernel refused something, and no word of the line names what.
    Refused,
    /// Starting a process.
    Fork,
    /// Setting up the pod's network by a CNI plugin.
    Cni,
    /// Talking to systemd or another program over D-Bus.
    Bus,
    /// A report of `SELinux` or of one of its tools.
    Selinux,
    /// A program's own check of a file's owner or mode.
    OwnerCheck,
    /// Looking up a user or group by name or number.
    UserName,
    /// A program's own check that it is root or another user, or has a right.
    NeedsRoot,
    /// A program's own check that it is not root.
    RefusesRoot,
    /// A name, password, key or token was not accepted.
    Login,
    /// A certificate was not accepted.
    Tls,
    /// The API server's authorization of a request.
    ApiAccess,
    /// Memory has run out.
    OutOfMemory,
    /// A file system is full or fails.
    Storage,
    /// The other side of a connection does not answer.
    Unreachable,
    /// A container is not in the state that a command needs.
    ContainerState,
    /// Fetching an image.
    ImagePull,
    /// Finding a node with room for the pod.
    Placement,
    /// A probe of a container that runs.
    Probe,
    /// Waiting for something that did not happen.
    Wait,
    /// Loading a library or module of the program.
    Library,
    /// Reading an option, a file or a value.
    Configuration,
    /// Something that the kernel or a program does not have.
    Unsupported,
    /// A file, program or object is not there.
    Absent,
    /// A file, address or object is there already.
    Exists,
    /// Something is in use.
    Busy,
    /// The kernel does not accept a value.
    Rejected,
    /// A limit is reached.
    Exhausted,
    /// No word of the line names an operation.
    Unclear,
}

/// The meaning of a line, as far as it is understood.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meaning {
    pub(super) step: Option<Step>,
    /// The kernel's error, if the line has one.
    pub(super) error: Option<KernelError>,
    /// The usual meaning of this error, or of the failure without one, in the step.
    pub(super) usual: Option<&'static str>,
}

// === impl Step ===

impl Step {
    /// The step that the words of a line decide, whatever else it names.
    fn decided(line: &str) -> Option<Step> {
        let elsewhere = ELSEWHERE.iter().find(|(_, mark)| line.contains(mark)).map(|(step, _)| *step);
        elsewhere.or_else(|| in_sentence(line, &statement::DECISIVE)).or_else(|| in_text(line, &WHOLE))
    }

    /// The operation that a line names; `before` is the text before the kernel's error.
    fn named(line: &str, before: Option<&str>) -> Option<Step> {
        let in_clauses =
            |text: &str| text.rsplit(": ").find_map(|clause| in_text(&format!("{clause}:"), &OPERATIONS));
        // The text after the error, often fields of the log, counts only if nothing before it names a step.
        before.and_then(in_clauses).or_else(|| in_clauses(line))
    }

    /// The step of a line that names no operation whose error has a meaning.
    fn stated(line: &str, error: Option<KernelError>) -> Option<Step> {
        let has_ended = ENDED.iter().any(|mark| line.contains(mark)) || line.ends_with(": eof");
        let ended = has_ended.then_some(Step::Ended);
        if error.is_some() {
            return ended.or_else(|| Step::of_error(error)).or_else(|| in_sentence(line, &statement::STRONG));
        }
        let strong = in_sentence(line, &statement::STRONG).or(ended);
        let weak = || reports_a_failure(line).then(|| in_sentence(line, &statement::WEAK)).flatten();
        strong.or_else(|| Step::of_error(errno::stated(line))).or_else(weak)
    }

    /// The step of a line of which only the error is understood.
    fn of_error(error: Option<KernelError>) -> Option<Step> {
        Some(match error? {
            KernelError::Denied | KernelError::NotPermitted | KernelError::ReadOnly | KernelError::Stale => {
                Step::Refused
            }
            KernelError::Closed => Step::Ended,
            KernelError::Unreachable => Step::Unreachable,
            KernelError::Late => Step::Wait,
            KernelError::NoSpace | KernelError::Quota | KernelError::Io | KernelError::NotConnected => {
                Step::Storage
            }
            KernelError::Missing | KernelError::NoDevice | KernelError::NoProcess => Step::Absent,
            KernelError::NotSupported | KernelError::NotImplemented => Step::Unsupported,
            KernelError::InUse | KernelError::Exists => Step::Exists,
            KernelError::Busy => Step::Busy,
            KernelError::Invalid => Step::Rejected,
            KernelError::NoMemory | KernelError::Unavailable | KernelError::TooManyFiles => Step::Exhausted,
            KernelError::ExecFormat => Step::Exec,
            KernelError::Overflow | KernelError::TooLong => return None,
        })
    }

    /// Whether the words of the step are also those of lines that report no failure.
    const fn is_named_by_words(self) -> bool {
        matches!(
            self,
            Step::Mount
                | Step::Socket
                | Step::Exec
                | Step::Fork
                | Step::Device
                | Step::Rootfs
                | Step::Mapping
                | Step::Sysctl
                | Step::Chroot
                | Step::Limit
                | Step::Cni
                | Step::Bus
                | Step::Inside
        )
    }

    /// Whether what is missing or closed in this step is a file, of which a sentence has more than the step.
    const fn is_of_files(self) -> bool {
        matches!(self, Step::Mount | Step::Socket | Step::Device | Step::Exec)
    }

    /// Whether the step is understood by a sentence of its own, to which messages with similar words are not near.
    pub(super) const fn is_of_its_own(self) -> bool {
        matches!(
            self,
            Step::Ended
                | Step::Ignored
                | Step::Crash
                | Step::Unreachable
                | Step::Storage
                | Step::Absent
                | Step::Exists
                | Step::Busy
                | Step::Unsupported
                | Step::Bus
        ) || self.of_sentence().is_some()
    }

    /// The operation in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Step::Admission => "admitting the pod",
            Step::KubeletStart => "the kubelet's start, where it chooses its range of IDs",
            Step::RuntimeStart => "the runtime's start",
            Step::Range => "choosing IDs from /etc/subuid and /etc/subgid",
            Step::Mapping => "mapping the IDs of a user namespace",
            Step::MappedMount => "mapping the IDs of a mount",
            Step::Cgroup => "making a cgroup, or handing it over",
            Step::NetworkNamespace => "making the pod's network namespace",
            Step::Namespace => "creating or joining a namespace",
            Step::Rootfs => "preparing the image's files",
            Step::Pivot => "making the image's files the root directory",
            Step::Fuse => "mounting a FUSE file system",
            Step::Propagation => "passing mounts on to other mount namespaces",
            Step::ForeignMount => "mounting a network file system, a disk or an image",
            Step::Mount => "mounting something into the container",
            Step::SecurityProfile => "putting a program under its AppArmor profile or SELinux label",
            Step::Keyring => "creating a keyring of the kernel for the container",
            Step::Bpf => "loading a BPF program, attaching a probe or reading performance counters",
            Step::Forbidden => "a system call that seccomp profiles forbid",
            Step::Tracing => "debugging another process",
            Step::Confinement => "confining a program by Landlock, seccomp or a sandbox of its own",
            Step::OomScore => "changing a process's score for the out-of-memory killer",
            Step::Module => "loading a kernel module",
            Step::Sysctl => "setting a sysctl",
            Step::Network => "configuring a network interface, route or packet filter",
            Step::Socket => "opening a port or connecting to a socket",
            Step::Device => "opening a device",
            Step::DeviceNode => "creating a device node",
            Step::RunAs => "the kubelet's decision on the container's user",
            Step::Credentials => "becoming another user, or changing capabilities",
            Step::Chroot => "changing the root directory of a process",
            Step::Limit => "raising a limit or a priority",
            Step::Machine => "something that belongs to the whole machine",
            Step::Attribute => "setting an extended attribute of a file",
            Step::Exec => "executing a program",
            Step::WorkingDirectory => "changing to a directory",
            Step::Sandbox => "making the pod's sandbox",
            Step::Container => "making or starting the container",
            Step::Inside => "a program in the container",
            Step::Crash => "a crash of the program",
            Step::Owner => "setting an owner, permissions or groups",
            Step::NfsNames => "translating the names of NFSv4 users to IDs",
            Step::Ended => "another program, which has ended or has not started",
            Step::Ignored => "something that the program goes on without",
            Step::Refused => "access to a file, or a call that needs privileges",
            Step::Fork => "starting a process",
            Step::Cni => "setting up the pod's network by a CNI plugin",
            Step::Bus => "reaching a program over D-Bus",
            Step::Selinux => "a report of SELinux",
            Step::OwnerCheck => "the program's own check of a file's owner or mode",
            Step::UserName => "looking up a user or group",
            Step::NeedsRoot => "the program's own check of the user or rights with which it runs",
            Step::RefusesRoot => "the program's own check that it does not run as root",
            Step::Login => "logging in to a service",
            Step::Tls => "checking a certificate",
            Step::ApiAccess => "the API server's authorization of a request",
            Step::OutOfMemory => "running out of memory",
            Step::Storage => "reading or writing a file system",
            Step::Unreachable => "reaching another program over the network",
            Step::ContainerState => "a command for a container that is in another state",
            Step::ImagePull => "fetching an image",
            Step::Placement => "finding room for the pod",
            Step::Probe => "a probe of the container",
            Step::Wait => "waiting for something",
            Step::Library => "loading a library or module of the program",
            Step::Configuration => "reading an option, a file or a value",
            Step::Unsupported => "using something that is not supported there",
            Step::Absent => "something that is not there",
            Step::Exists => "something that is there already",
            Step::Busy => "something that is in use",
            Step::Rejected => "a call with a value that the kernel does not accept",
            Step::Exhausted => "something of which no more is left",
            Step::Unclear => "not named by the line",
        }
    }
}

// === impl Meaning ===

impl Meaning {
    /// The meaning of the words of a line.
    pub(super) fn of(line: &str) -> Meaning {
        let innermost = errno::last(line);
        let error = innermost.map(|(_, error)| error);
        let of_connection = || match error? {
            KernelError::Unreachable | KernelError::Late | KernelError::InUse => Step::of_error(error),
            _ => None,
        };
        // A connection that fails does so in any operation.
        if let Some(step) = Step::decided(line).or_else(of_connection) {
            return Meaning::with(step, error, line);
        }
        let named = Step::named(line, innermost.map(|(before, _)| before));
        let means = |step: Option<Step>, error: Option<KernelError>| {
            let step = step?;
            // A step that a line only names may have succeeded.
            let has_failed = error.is_some() || !step.is_named_by_words() || reports_a_failure(line);
            let usual = step.usual(error).filter(|_| has_failed)?;
            Some(Meaning { step: Some(step), error, usual: Some(usual) })
        };
        // A sentence counts as an error only where none of the kernel is named.
        let sentence = error.is_none().then(|| errno::stated(line)).flatten();
        let of_sentence = || means(named.filter(|_| sentence.is_some()), sentence);
        // A check of the program's own counts more than an operation that the line only mentions.
        if error.is_none()
            && let Some(step) = in_sentence(line, &statement::CHECKS)
        {
            return Meaning::with(step, error, line);
        }
        let operation = match named {
            Some(step) if step.is_of_files() => of_sentence().or_else(|| means(named, error)),
            _ => means(named, error).or_else(of_sentence),
        };
        if let Some(meaning) = operation {
            return meaning;
        }
        let wider = in_text(line, &WIDER);
        let meaning = error.and_then(|_| means(wider, error));
        let stated = || Step::stated(line, error).map(|step| Meaning::with(step, error.or(sentence), line));
        let bare = || named.or(wider).map(|step| Meaning { step: Some(step), error, usual: None });
        meaning
            .or_else(|| stated().filter(|meaning| meaning.usual.is_some()))
            .or_else(|| means(wider, error))
            .or_else(bare)
            .unwrap_or(Meaning { error, ..Meaning::default() })
    }

    fn with(step: Step, error: Option<KernelError>, line: &str) -> Meaning {
        let of_status = if step == Step::Ended { exit::meaning(line) } else { None };
        Meaning { step: Some(step), error, usual: of_status.or_else(|| step.usual(error)) }
    }
}

/// The first step whose marks are in a sentence, of which some end with the space or mark behind a word.
fn in_sentence(line: &str, steps: &[Marks]) -> Option<Step> {
    in_text(&format!("{line} "), steps)
}

/// The first step whose marks are in a text.
fn in_text(text: &str, steps: &[Marks]) -> Option<Step> {
    let is_in_text = |step: Step, mark: &str| {
        // Not at the end of a longer word: nfsidmap maps no mounts.
        let starts_word = mark.starts_with(char::is_alphanumeric);
        text.match_indices(mark).any(|(at, _)| {
            let before = text.get(..at).unwrap_or_default();
            // Nor among the arguments of a program: --setuid.
            let is_word = !starts_word || (begins_word(before) && !before.ends_with("--"));
            let is_device =
                || starts_path(before) && is_device(text.get(at + mark.len()..).unwrap_or_default());
            is_word && (step != Step::Device || is_device())
        })
    };
    steps.iter().find(|(step, marks)| marks.iter().any(|mark| is_in_text(*step, mark))).map(|(step, _)| *step)
}

/// Whether a path begins after `before`, and is not the rest of another one.
fn starts_path(before: &str) -> bool {
    !before
        .ends_with(|last: char| last.is_alphanumeric() || matches!(last, '.' | '-' | '_' | '/' | '}' | '>'))
}

/// Whether a name below `/dev` is one of a device, not of the container's own streams and file systems.
fn is_device(name: &str) -> bool {
    const OTHERS: [&str; 7] = ["std", "fd/", "pts", "shm", "mqueue", "hugepages", "termination-log"];
    !OTHERS.iter().any(|other| name.starts_with(other))
}
