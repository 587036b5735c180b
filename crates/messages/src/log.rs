//! A whole log: which messages are in it, and what is understood of one that is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::coverage::{self, Reason};
use super::pattern::Line;
use super::{Message, MessageId, Program, all, follows, recognise_all, recognise_cut, recognise_in};

/// The most unknown lines that are shown.
const MAX_UNKNOWN: usize = 5;
/// Up to this number of lines, the input counts as pasted messages and not as a log.
const MAX_PASTED: usize = 20;
/// The most lines over which a terminal or a table breaks one message.
const MAX_WRAPPED: usize = 5;
/// The most similar messages that are shown.
const MAX_NEAREST: usize = 3;
/// A message is near if the words that it shares with the line are worth so much together, in natural logarithms:
/// two that are rare, or four that are common.
const MIN_NEARNESS: f64 = 6.0;
/// And these words must be that much of the wording: the texts with which runtimes introduce each error share words
/// with many wordings. Measured on the lines of public reports that are not known: of the suggestions 36 in 100 fit,
/// without this limit 11.
const MIN_SHARE: f64 = 0.7;
/// Messages that share less than this part of what the best one does are noise.
const MIN_OF_BEST: f64 = 0.8;

/// Known messages and understood lines of a log, newest first.
#[derive(Debug, Default)]
pub struct Reading {
    /// Known messages, each once.
    pub known: Vec<Found<&'static Message>>,
    /// Errors that have to do with user namespaces and are not known.
    pub unknown: Vec<Found<Understood>>,
}

/// Something found, and where.
#[derive(Debug)]
pub struct Found<T> {
    /// The message, or what is understood of the line.
    pub what: T,
    /// The last line that holds it.
    pub line: String,
    /// How many lines hold it.
    pub count: usize,
}

/// The understood parts of a line without a known message.
#[derive(Debug, Default)]
pub struct Understood {
    /// The program that prints the message.
    pub program: Option<&'static str>,
    /// The operation that failed.
    pub step: Option<Step>,
    /// What the kernel's error usually means in that operation.
    pub usual: Option<&'static str>,
    /// Where its text is in the sources that were read, and why no message stands for it.
    pub listed: Option<(&'static str, Reason)>,
    /// The nearest known messages by their words, the nearest first.
    pub nearest: Vec<&'static Message>,
}

/// Operations that can fail, the narrower before the wider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Admitting the pod.
    Admission,
    /// The kubelet starts and chooses its range.
    KubeletStart,
    /// CRI-O or containerd starts.
    RuntimeStart,
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
    /// Mounting something into the container.
    Mount,
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
    /// The end of another program, which has the cause.
    Ended,
    /// Something that the program goes on without.
    Ignored,
    /// The kernel refused something, and no word of the line names what.
    Refused,
}

/// Words that are in too many messages: of errors in general, and parts of paths.
const EVERYWHERE: [&str; 61] = [
    "and",
    "argument",
    "bin",
    "cannot",
    "code",
    "container",
    "could",
    "denied",
    "desc",
    "dev",
    "device",
    "directory",
    "error",
    "etc",
    "exit",
    "fail",
    "failed",
    "fatal",
    "file",
    "for",
    "from",
    "function",
    "implemented",
    "invalid",
    "left",
    "level",
    "lib",
    "log",
    "mode",
    "msg",
    "not",
    "only",
    "operation",
    "permission",
    "permitted",
    "pod",
    "proc",
    "process",
    "read",
    "resource",
    "returned",
    "root",
    "rpc",
    "run",
    "running",
    "self",
    "space",
    "status",
    "such",
    "system",
    "temporarily",
    "that",
    "the",
    "this",
    "time",
    "unable",
    "unavailable",
    "unknown",
    "usr",
    "var",
    "with",
];

/// The words of each wording, and how rare each word is.
struct Words {
    rarity: BTreeMap<String, f64>,
    of: Vec<(&'static Message, BTreeSet<String>)>,
}

static WORDS: LazyLock<Words> = LazyLock::new(Words::new);

/// Reads a log, oldest line first, as journalctl prints it.
#[must_use]
pub fn read(text: &str) -> Reading {
    let mut known: Vec<Found<&'static Message>> = Vec::new();
    let mut unknown: BTreeMap<String, (usize, Found<Line>)> = BTreeMap::new();
    let unwrapped = unwrapped(text);
    for (number, text) in unwrapped.as_deref().unwrap_or(text).lines().enumerate() {
        let line = Line::new(text);
        let messages = recognise_all(&line);
        if messages.is_empty() && concerns_user_namespaces(line.as_str()) {
            let (place, found) = unknown
                .entry(without_numbers(line.as_str()))
                .or_insert_with(|| (number, Found { what: line, line: String::new(), count: 0 }));
            *place = number;
            text.clone_into(&mut found.line);
            found.count += 1;
        }
        // The one that says most is the newest.
        for message in messages.into_iter().rev() {
            add(&mut known, message, text, 1);
        }
    }
    if known.is_empty() {
        unknown.retain(|_, (_, found)| {
            let cut = recognise_cut(&found.what);
            cut.inspect(|message| add(&mut known, message, &found.line, found.count)).is_none()
        });
    }
    if known.is_empty() && unknown.is_empty() && is_pasted(text) {
        for line in text.lines() {
            recognise_cut(&Line::new(line)).inspect(|message| add(&mut known, message, line, 1));
        }
    }
    let ids: Vec<MessageId> = known.iter().map(|found| found.what.id).collect();
    let mut known: Vec<_> = known.into_iter().filter(|found| !follows(found.what.id, &ids)).collect();
    known.reverse();
    let mut unknown: Vec<(usize, Found<Line>)> = unknown.into_values().collect();
    unknown.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
    let understood = |(_, Found { what, line, count }): (usize, Found<Line>)| Found {
        what: Understood::of_line(&what),
        line,
        count,
    };
    let mut unknown: Vec<_> = unknown.into_iter().take(MAX_UNKNOWN).map(understood).collect();
    if known.is_empty() && unknown.is_empty() {
        unknown = pasted(text);
    }
    Reading { known, unknown }
}

/// Adds a message, as the newest.
fn add(known: &mut Vec<Found<&'static Message>>, message: &'static Message, line: &str, lines: usize) {
    let before = known.iter().position(|found| found.what.id == message.id);
    let count = before.map_or(0, |index| known.remove(index).count);
    known.push(Found { what: message, line: line.to_owned(), count: count + lines });
}

/// Pasted lines with each message on one line that a terminal or a table has broken over several.
fn unwrapped(text: &str) -> Option<String> {
    if !is_pasted(text) {
        return None;
    }
    // The frames of tables belong to no message.
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.trim_matches(|next: char| next.is_whitespace() || matches!(next, '│' | '┃' | '|')))
        .filter(|line| !line.is_empty())
        .collect();
    let is_known = |text: &str| recognise_in(&Line::new(text)).is_some();
    let mut unwrapped = Vec::new();
    let mut rest = lines.as_slice();
    while let Some((line, after)) = rest.split_first() {
        let joined = (2..=MAX_WRAPPED).find_map(|count| {
            let (wrapped, after) = rest.split_at_checked(count)?;
            if wrapped.iter().any(|line| is_known(line)) {
                return None;
            }
            // Between words, or within one.
            [wrapped.join(" "), wrapped.concat()]
                .into_iter()
                .find(|text| is_known(text))
                .map(|text| (text, after))
        });
        let (text, after) = joined.unwrap_or_else(|| ((*line).to_owned(), after));
        unwrapped.push(text);
        rest = after;
    }
    Some(unwrapped.join("\n"))
}

/// Whether a text is a few lines that someone has pasted, rather than a log.
fn is_pasted(text: &str) -> bool {
    text.lines().filter(|line| !line.trim().is_empty()).take(MAX_PASTED + 1).count() <= MAX_PASTED
}

/// A few lines are what someone wants explained, whatever they are about.
fn pasted(text: &str) -> Vec<Found<Understood>> {
    if !is_pasted(text) {
        return Vec::new();
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let all = lines.rev().map(|line| Found { what: Understood::of(line), line: line.to_owned(), count: 1 });
    all.filter(|found| !found.what.is_nothing()).take(MAX_UNKNOWN).collect()
}

/// Whether a line reports something that went wrong on the way to a user namespace.
fn concerns_user_namespaces(line: &str) -> bool {
    const CONCERNS: [&str; 24] = [
        "unshare",
        "noop process",
        "user namespace",
        "userns",
        "idmap",
        "id-mapped",
        "id mapping",
        "uid_map",
        "gid_map",
        "uidmap",
        "gidmap",
        "subuid",
        "subgid",
        "subids",
        "max_user_namespaces",
        "hostusers",
        "mount_setattr",
        "setgroups",
        "unmapped",
        "remap",
        "/sys/fs/cgroup",
        "cgroup.subtree_control",
        "control group",
        "init.scope",
    ];
    const WRONG: [&str; 14] = [
        "fail",
        "error",
        "denied",
        "not permitted",
        "invalid",
        "cannot",
        "can't",
        "could not",
        "unable",
        "refus",
        "forbidden",
        "no space left",
        "fatal",
        "not implemented",
    ];
    CONCERNS.iter().any(|word| line.contains(word)) && WRONG.iter().any(|word| line.contains(word))
}

/// Lines that differ in numbers and hexadecimal names only are one.
fn without_numbers(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in line.split(|next: char| !next.is_ascii_alphanumeric()) {
        if !word.bytes().any(|byte| byte.is_ascii_digit()) && !word.is_empty() {
            words.push(word);
        }
    }
    words.join(" ")
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|next: char| !next.is_ascii_alphanumeric() && next != '_')
        .filter(|word| word.len() > 2 && !word.bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_ascii_lowercase)
        .filter(|word| !EVERYWHERE.contains(&word.as_str()))
        .collect()
}

// === impl Understood ===

impl Understood {
    /// The understood parts of a line.
    #[must_use]
    pub fn of(line: &str) -> Understood {
        Understood::of_line(&Line::new(line))
    }

    /// Whether nothing is.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.program.is_none() && self.step.is_none() && self.listed.is_none() && self.nearest.is_empty()
    }

    fn of_line(line: &Line) -> Understood {
        let listed = coverage::find(line);
        let step = Step::of(line.as_str());
        Understood {
            program: listed.map(|(program, _)| program).or_else(|| program_of(line.as_str())),
            step,
            usual: step.and_then(|step| step.usual(last_error(line.as_str()))),
            listed,
            nearest: match step {
                Some(Step::Ended | Step::Ignored) => Vec::new(),
                _ => WORDS.nearest(line.as_str()),
            },
        }
    }
}

/// An error of the kernel on which a step's usual cause depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KernelError {
    Denied,
    NotPermitted,
    Invalid,
    NoSpace,
    ReadOnly,
    Busy,
    Missing,
    NotSupported,
    NotImplemented,
    Overflow,
    Unavailable,
}

/// The last of the kernel's errors in a line, which is that of the innermost operation.
fn last_error(line: &str) -> Option<KernelError> {
    const ERRORS: [(&str, KernelError); 11] = [
        ("permission denied", KernelError::Denied),
        ("operation not permitted", KernelError::NotPermitted),
        ("invalid argument", KernelError::Invalid),
        ("no space left on device", KernelError::NoSpace),
        ("read-only file system", KernelError::ReadOnly),
        ("device or resource busy", KernelError::Busy),
        ("no such file or directory", KernelError::Missing),
        ("operation not supported", KernelError::NotSupported),
        ("function not implemented", KernelError::NotImplemented),
        ("value too large for defined data type", KernelError::Overflow),
        ("resource temporarily unavailable", KernelError::Unavailable),
    ];
    let last = |(text, error): &(&str, KernelError)| Some((line.rfind(text)?, *error));
    let named = ERRORS.iter().filter_map(last).max_by_key(|(at, _)| *at).map(|(_, error)| error);
    named.or_else(|| numbered_error(line))
}

/// The error at the end of a line of the kernel's log, as its number: `: -13`.
fn numbered_error(line: &str) -> Option<KernelError> {
    let (_, number) = line.trim_end().rsplit_once(": -")?;
    Some(match number.parse().ok()? {
        1 => KernelError::NotPermitted,
        2 => KernelError::Missing,
        11 => KernelError::Unavailable,
        13 => KernelError::Denied,
        16 => KernelError::Busy,
        22 => KernelError::Invalid,
        28 => KernelError::NoSpace,
        30 => KernelError::ReadOnly,
        38 => KernelError::NotImplemented,
        75 => KernelError::Overflow,
        95 => KernelError::NotSupported,
        _ => return None,
    })
}

/// Whether a word begins after `before`.
fn begins_word(before: &str) -> bool {
    !before.ends_with(|last: char| last.is_alphanumeric())
}

/// The program that prints such lines, by its own name in them.
fn program_of(line: &str) -> Option<&'static str> {
    // The innermost program first: the kubelet prints the runtime's message, which contains runc's.
    const MARKS: [(&str, &str); 38] = [
        ("newuidmap", "newuidmap"),
        ("newgidmap", "newgidmap"),
        ("getsubids", "getsubids"),
        ("pinns", "pinns of CRI-O"),
        ("runc create failed", "runc"),
        ("runc:", "runc"),
        ("nsexec", "runc"),
        ("unable to start container process", "runc"),
        ("crun:", "crun"),
        ("sysbox", "sysbox"),
        ("systemd-nspawn", "systemd-nspawn"),
        ("systemd[", "systemd"),
        ("podman", "podman"),
        ("buildah", "buildah"),
        ("dockerd", "Docker"),
        ("rootlesskit", "rootlesskit"),
        ("buildkit", "BuildKit"),
        ("bwrap:", "bubblewrap"),
        ("runsc", "gVisor"),
        ("nsjail", "nsjail"),
        ("kaniko", "kaniko"),
        ("virt-launcher", "KubeVirt"),
        ("fuse-overlayfs", "fuse-overlayfs"),
        ("slirp4netns", "slirp4netns"),
        ("apptainer", "Apptainer"),
        ("singularity", "Singularity"),
        ("lxc", "LXC"),
        ("lxd", "LXD"),
        ("incus", "Incus"),
        ("violates podsecurity", Program::Kubernetes.name()),
        ("security context constraint", Program::Openshift.name()),
        ("containerd", Program::Containerd.name()),
        ("crio", Program::Crio.name()),
        ("cri-o", Program::Crio.name()),
        ("kubelet", Program::Kubelet.name()),
        ("k3s", "k3s"),
        ("rke2", "RKE2"),
        ("is forbidden:", Program::Kubernetes.name()),
    ];
    // A directory of that name proves nothing, nor a word that ends with it.
    let is_named = |mark: &str| {
        line.match_indices(mark).any(|(at, _)| {
            let before = line.get(..at).unwrap_or_default();
            !before.ends_with(['/', '.', '-', '~']) && begins_word(before)
        })
    };
    MARKS.iter().find(|(mark, _)| is_named(mark)).map(|(_, program)| *program)
}

// === impl Step ===

impl Step {
    /// The step in which a line was printed, by its words.
    fn of(line: &str) -> Option<Step> {
        const MARKS: [(Step, &[&str]); 17] = [
            (Step::Crash, &["panic: ", "sigsegv", "segmentation fault", "core dumped"]),
            (
                Step::Admission,
                &["is forbidden:", "is invalid: spec", "violates podsecurity", "security context constraint"],
            ),
            (
                Step::KubeletStart,
                &["create user namespace manager", "failed to run kubelet", "kubelet mappings"],
            ),
            (
                Step::RuntimeStart,
                &[
                    "validating runtime config",
                    "get and merge config",
                    "failed to load plugin",
                    "invalid plugin config",
                ],
            ),
            (
                Step::Mapping,
                &[
                    "uid_map",
                    "gid_map",
                    "uidmap",
                    "gidmap",
                    "newuidmap",
                    "newgidmap",
                    "setgroups",
                    "id mappings",
                    "unmapped",
                    "clone_newuser",
                ],
            ),
            (
                Step::MappedMount,
                &[
                    "idmap",
                    "id-mapped",
                    "id mapped",
                    "map ids",
                    "mount_setattr",
                    "shift gid/uid",
                    "mapped mount",
                ],
            ),
            (Step::Range, &["subuid", "subgid", "getsubids", "unused ids", "available ids", "subids"]),
            (Step::Cgroup, &["cgroup", "control group", "init.scope", "scope unit", ".slice"]),
            (Step::NetworkNamespace, &["network namespace", "netns", "noop process"]),
            (
                Step::Namespace,
                &[
                    "unshare",
                    "setns",
                    "new namespace",
                    "net namespace",
                    "mount namespace",
                    "clone_new",
                    "kernel namespace",
                    "user namespace",
                    "userns",
                    "namespacing",
                ],
            ),
            (
                Step::Rootfs,
                &[
                    "snapshot",
                    "rootfs component",
                    "layer",
                    "applylayer",
                    "overlay",
                    "mount callback failed",
                    "unpack",
                    "tar file",
                ],
            ),
            (Step::Mount, &["mount", "unmount", "umount", "remount"]),
            (
                Step::Sandbox,
                &[
                    "pod sandbox",
                    "podsandbox",
                    "runpodsandbox",
                    "createpodsandbox",
                    "start sandbox",
                    "sandbox container",
                ],
            ),
            (
                Step::Container,
                &[
                    "container create failed",
                    "create container",
                    "createcontainer",
                    "startcontainer",
                    "oci runtime",
                    "shim task",
                ],
            ),
            (
                Step::Owner,
                &[
                    "ownership",
                    "chown",
                    "chgrp",
                    "preserving permissions",
                    "file permissions",
                    "supplementary groups",
                ],
            ),
            (Step::Ended, &["exited: ", "exited with ", "exit status "]),
            (Step::Inside, &["open(", "sudo:", "systemctl"]),
        ];
        // Not at the end of a longer word: nfsidmap maps no mounts.
        let is_in_line = |mark: &&str| {
            let starts_word = mark.starts_with(char::is_alphanumeric);
            line.match_indices(*mark)
                .any(|(at, _)| !starts_word || begins_word(line.get(..at).unwrap_or_default()))
        };
        // Whatever else the line names, these have their cause elsewhere.
        const ELSEWHERE: [(Step, &str); 4] = [
            (Step::Ignored, ", ignoring"),
            (Step::Ignored, ", skip setting it"),
            (Step::Ended, "error parsing pid"),
            (Step::Ended, "most likely dead"),
        ];
        if let Some((step, _)) = ELSEWHERE.iter().find(|(_, mark)| line.contains(mark)) {
            return Some(*step);
        }
        let named = MARKS.iter().find(|(_, marks)| marks.iter().any(&is_in_line)).map(|(step, _)| *step);
        named.or_else(|| {
            let error = last_error(line)?;
            matches!(error, KernelError::Denied | KernelError::NotPermitted | KernelError::ReadOnly)
                .then_some(Step::Refused)
        })
    }

    /// What the kernel's error usually means there: `user_namespaces(7)`, `mount_setattr(2)`, `cgroups(7)`.
    const fn usual(self, error: Option<KernelError>) -> Option<&'static str> {
        use KernelError::{
            Busy, Denied, Invalid, Missing, NoSpace, NotImplemented, NotPermitted, NotSupported, Overflow,
            ReadOnly, Unavailable,
        };
        Some(match (self, error) {
            (Step::Crash, _) => {
                "this is a fault of the program itself, not of the node's configuration: the lines after it show the place; update the program"
            }
            (Step::Ended, _) => {
                "the line only reports that another program ended: that program's own message, in a line before it, has the cause"
            }
            (Step::Ignored, _) => {
                "the program goes on without it: if something does not work, another line has the cause"
            }
            (Step::Owner, Some(Invalid)) => {
                "the new owner, or a group or an entry of an access control list, is an ID that is not mapped where the process runs: cat /proc/self/uid_map shows which are"
            }
            (Step::Owner, Some(NotPermitted)) => {
                "the file's present owner is not mapped where the process runs (ls -n shows 65534), or the container has dropped the capability CHOWN or FOWNER"
            }
            (Step::Mapping, Some(NotPermitted | Denied)) => {
                "the IDs are not among those of the calling process (its /proc/self/uid_map), or it may not map them: newuidmap needs the capabilities SETUID and SETGID and a line in /etc/subuid and /etc/subgid"
            }
            (Step::Mapping, Some(Invalid)) => {
                "an ID occurs twice or is not mapped where the process runs, or the range ends beyond 4294967294"
            }
            (Step::MappedMount, Some(Invalid | NotSupported)) => {
                "the file system does not support ID-mapped mounts (NFS, CIFS, overlayfs, hugetlbfs and others), or only on newer kernels, or the path leads over a symbolic link"
            }
            (Step::MappedMount, Some(Busy)) => {
                "something else is mounted below the directory or uses it, so that the mapped copy cannot take its place"
            }
            (Step::MappedMount, Some(NotPermitted | Denied)) => {
                "the mount is mapped already, or the process is not root of the machine (the node itself runs in a user namespace), or the kernel is one of RHEL 9 before 9.4, which refuse every such mount"
            }
            (Step::MappedMount, Some(NotImplemented)) => {
                "the kernel is older than 5.12, or a seccomp filter or gVisor blocks mount_setattr"
            }
            (Step::MappedMount | Step::Mount | Step::Rootfs, Some(Overflow)) => {
                "the owner of a file is not mapped into the container"
            }
            (Step::NetworkNamespace | Step::Namespace, Some(NotPermitted)) => {
                "seccomp, AppArmor or a missing SYS_ADMIN forbid creating the namespace, or it belongs to another user namespace and cannot be joined"
            }
            (Step::NetworkNamespace | Step::Namespace, Some(Denied)) => {
                "AppArmor or SELinux forbid it, or a directory on the way is closed to the container's root, an ordinary user of the node"
            }
            (Step::NetworkNamespace | Step::Namespace, Some(NoSpace)) => {
                "not the disk: a sysctl user.max_*_namespaces is 0 or used up, or namespaces are nested 32 deep"
            }
            (Step::NetworkNamespace | Step::Namespace, Some(Invalid | NotImplemented)) => {
                "the kernel has no such namespaces, or the process has joined this one already, or has more than one thread"
            }
            (Step::Cgroup, Some(Denied | NotPermitted)) => {
                "the cgroup does not belong to the user of the process: usernsd explain POD shows the owner of a container's cgroup"
            }
            (Step::Cgroup, Some(ReadOnly)) => {
                "/sys/fs/cgroup is mounted read-only, which is the default in containers"
            }
            (Step::Cgroup, Some(Busy)) => {
                "the cgroup has processes, and may have either these or children with controllers"
            }
            (Step::Cgroup, Some(Missing)) => {
                "the controller is not enabled in a cgroup above, or the cgroup has been removed"
            }
            (Step::Cgroup, Some(NotSupported)) => "the cgroup is threaded, or below one that is",
            (Step::Cgroup, Some(Unavailable)) => {
                "cgroup.max.descendants or cgroup.max.depth of the pod is reached"
            }
            (Step::Container | Step::Sandbox, Some(NoSpace)) => {
                "if the line names no file, not the disk: a sysctl user.max_*_namespaces is 0 or used up"
            }
            (Step::Container | Step::Sandbox, Some(NotPermitted)) => {
                "the runtime or a program needs a capability that the container, or the node in a container, does not have, or seccomp forbids the call"
            }
            (Step::Container | Step::Sandbox, Some(Denied)) => {
                "a directory on the way to a file is closed to the container's root, an ordinary user of the node, or AppArmor or SELinux forbids the access"
            }
            (Step::Container | Step::Sandbox, Some(Invalid)) => {
                "an ID is not mapped into the container, or the kernel lacks what the runtime asks for"
            }
            (Step::Mount, Some(NotPermitted)) => {
                "the process lacks SYS_ADMIN in its user namespace, or that file system cannot be mounted in one (disks, NFS), or parts of /proc or /sys are covered"
            }
            (Step::Mount, Some(Denied)) => {
                "AppArmor or SELinux forbid mounts, or a directory on the way is closed to the container's root, an ordinary user of the node"
            }
            (Step::Inside | Step::Refused, Some(Denied)) => {
                "the file, or a directory on the way to it, belongs to another user; for root in a pod with hostUsers: false, to an ID that is not mapped (ls -n shows 65534). usernsd explain POD shows which volumes are mapped"
            }
            (Step::Inside | Step::Refused, Some(NotPermitted)) => {
                "the process lacks a capability, or the call concerns the whole machine (clock, kernel log, devices, limits), for which no capability of a user namespace counts, or the owner of a file is not mapped"
            }
            (Step::Inside | Step::Refused, Some(ReadOnly)) => {
                "the file is in /sys, /proc, an image or a volume that is mounted read-only"
            }
            (Step::Rootfs, Some(Invalid)) => {
                "the owner of a file is not mapped where the image is unpacked, or an overlay is to be mounted on an overlay"
            }
            (Step::Rootfs, Some(NotPermitted | Denied)) => {
                "the image's files, or a directory on the way to them, do not belong to the container's root, or a device node is to be created"
            }
            (Step::Rootfs, Some(Missing)) => {
                "a file of the image is not there: it was removed while a container used it, or unpacking ended early; remove the image and pull it again"
            }
            _ => return None,
        })
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
            Step::Mount => "mounting something into the container",
            Step::Sandbox => "making the pod's sandbox",
            Step::Container => "making or starting the container",
            Step::Inside => "a program in the container",
            Step::Crash => "a crash of the program",
            Step::Owner => "setting an owner, permissions or groups",
            Step::Ended => "the end of another program",
            Step::Ignored => "something that the program goes on without",
            Step::Refused => "access to a file, or a call that needs privileges",
        }
    }
}

// === impl Words ===

impl Words {
    fn new() -> Words {
        let wordings =
            |message: &'static Message| message.says.iter().map(move |says| (message, words(says)));
        let of: Vec<(&'static Message, BTreeSet<String>)> = all().flat_map(wordings).collect();
        let mut counts: BTreeMap<String, f64> = BTreeMap::new();
        for word in of.iter().flat_map(|(_, words)| words) {
            *counts.entry(word.clone()).or_default() += 1.0;
        }
        // A few hundred.
        let total = f64::from(u32::try_from(of.len()).unwrap_or(u32::MAX));
        let rarity = counts.into_iter().map(|(word, count)| (word, (total / count).ln())).collect();
        Words { rarity, of }
    }

    fn nearest(&self, line: &str) -> Vec<&'static Message> {
        let line = words(line);
        let nearness = |(message, words): &(&'static Message, BTreeSet<String>)| {
            let shared: Vec<f64> =
                words.intersection(&line).filter_map(|word| self.rarity.get(word).copied()).collect();
            let sum: f64 = shared.iter().sum();
            let whole: f64 = words.iter().filter_map(|word| self.rarity.get(word)).sum();
            let is_near = shared.len() > 1 && sum >= MIN_NEARNESS && sum >= whole * MIN_SHARE;
            is_near.then_some((sum, words.len(), *message))
        };
        let mut near: Vec<(f64, usize, &'static Message)> = self.of.iter().filter_map(nearness).collect();
        // Of two that share as much, the one that says less besides.
        near.sort_by(|(one, size, _), (other, others, _)| other.total_cmp(one).then(size.cmp(others)));
        let best = near.first().map_or(0.0, |(sum, ..)| *sum);
        let mut shown = BTreeSet::new();
        near.retain(|(sum, _, message)| *sum > best * MIN_OF_BEST && shown.insert(message.id));
        near.into_iter().take(MAX_NEAREST).map(|(_, _, message)| message).collect()
    }
}
