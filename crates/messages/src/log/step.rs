//! The operation that failed, and what the kernel's error usually means in it.

/// Operations that can fail.
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

/// An error of the kernel on which a step's usual cause depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KernelError {
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
pub(super) fn last_error(line: &str) -> Option<KernelError> {
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
pub(super) fn begins_word(before: &str) -> bool {
    !before.ends_with(|last: char| last.is_alphanumeric())
}

// === impl Step ===

impl Step {
    /// The step in which a line was printed, by its words.
    pub(super) fn of(line: &str) -> Option<Step> {
        // The narrower before the wider.
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
    pub(super) const fn usual(self, error: Option<KernelError>) -> Option<&'static str> {
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
