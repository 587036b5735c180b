//! The operation that failed.

use super::begins_word;
use super::errno::{self, KernelError};

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
}

/// A step and the texts that identify it. A narrower step comes before a wider one.
type Marks = (Step, &'static [&'static str]);

/// Texts of lines whose cause is elsewhere, even if the line names an operation.
const ELSEWHERE: [(Step, &str); 6] = [
    (Step::Ignored, ", ignoring"),
    (Step::Ignored, ", skip setting it"),
    (Step::Ended, "error parsing pid"),
    (Step::Ended, "most likely dead"),
    (Step::Ended, "no logs from conmon"),
    (Step::Ended, "because the control process exited"),
];

/// Texts that decide the step wherever they are in the line.
const WHOLE: [Marks; 5] = [
    (Step::Crash, &["panic: ", "sigsegv", "segmentation fault", "core dumped"]),
    (
        Step::Admission,
        &["is forbidden:", "is invalid: spec", "violates podsecurity", "security context constraint"],
    ),
    (Step::Credentials, &["su: authentication failure"]),
    (Step::KubeletStart, &["create user namespace manager", "failed to run kubelet", "kubelet mappings"]),
    (
        Step::RuntimeStart,
        &[
            "validating runtime config",
            "get and merge config",
            "failed to load plugin",
            "invalid plugin config",
        ],
    ),
];

/// Operations, by the words of the clause that names them. Runtimes put their own steps before the one that failed,
/// separated by colons, so that the last clause with such words is it.
const OPERATIONS: [Marks; 35] = [
    (Step::OomScore, &["oom_score_adj", "oom score", "oom_adj"]),
    (
        Step::SecurityProfile,
        &[
            "attr/exec",
            "attr/apparmor",
            "attr/current",
            "attr/fscreate",
            "attr/keycreate",
            "attr/sockcreate",
            "apparmor profile",
            "apply profile",
            "selinux label",
            "process label",
        ],
    ),
    (Step::Keyring, &["keyring", "keyctl", "add_key", "request_key"]),
    (
        Step::Bpf,
        &[
            "bpf",
            "ebpf",
            "perf_event",
            "perf event",
            "perf_uprobe",
            "kprobe",
            "uprobe",
            "tracepoint",
            "tracefs",
        ],
    ),
    (Step::Forbidden, &["io_uring", "uring", "userfaultfd", "set_mempolicy", "mbind", "move_pages"]),
    (Step::Tracing, &["ptrace", "process_vm_readv", "pidfd_getfd"]),
    (
        Step::Confinement,
        &["landlock", "seccomp", "suid sandbox", "setuid sandbox", "sandbox helper", "usable sandbox"],
    ),
    (
        Step::Module,
        &["could not insert", "modprobe", "insmod", "init_module", "kernel module", "/lib/modules"],
    ),
    (Step::NfsNames, &["nfsidmap", "rpc.idmapd", "nss_getpwnam"]),
    (Step::Pivot, &["pivot_root", "pivot root"]),
    (
        Step::Mapping,
        &[
            "uid_map",
            "gid_map",
            "uidmap",
            "gidmap",
            "newuidmap",
            "newgidmap",
            "id mappings",
            "unmapped",
            "/setgroups",
        ],
    ),
    (
        Step::MappedMount,
        &["idmap", "id-mapped", "id mapped", "map ids", "mount_setattr", "shift gid/uid", "mapped mount"],
    ),
    (
        Step::Range,
        &["subuid", "subgid", "getsubids", "unused ids", "available ids", "subids", "uid/gid range"],
    ),
    (
        Step::Cgroup,
        &[
            "cgroup",
            "cgfsng",
            "control group",
            "init.scope",
            "scope unit",
            ".slice",
            "subtree_control",
            "memory.max",
            "memory.high",
            "memory.limit",
            "memory limit",
            "memory.swap",
            "cpu.max",
            "cpu.weight",
            "cpuset.",
            "pids.max",
            "io.max",
            "hugetlb.",
            "devices.allow",
        ],
    ),
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
            "fork/exec /proc/self/exe",
        ],
    ),
    (
        Step::Exec,
        &[
            "fork/exec",
            "execve",
            "execv",
            "exec:",
            "exec '",
            "exec /",
            "exec user process",
            "open executable",
            "executable file",
            "exec failed",
            "failed to exec",
            "cannot execute",
        ],
    ),
    (Step::Chroot, &["chroot", "change root directory"]),
    (
        Step::WorkingDirectory,
        &["chdir", "change directory", "change to directory", "working directory", "working dir"],
    ),
    (Step::RunAs, &["non-root policy", "runasnonroot"]),
    (Step::DeviceNode, &["mknod", "device node"]),
    (
        Step::Attribute,
        &[
            "setxattr",
            "getxattr",
            "listxattr",
            "xattr",
            "extended attribute",
            "cap_set_file",
            "file capabilities",
            "security.capability",
        ],
    ),
    (
        Step::Credentials,
        &[
            "setuid",
            "setgid",
            "seteuid",
            "setegid",
            "setreuid",
            "setresuid",
            "setresgid",
            "setgroups",
            "initgroups",
            "cap_set_proc",
            "capset",
            "capability set",
            "capabilities",
            "drop privilege",
            "drop_privs",
            "change user",
            "no new privileges",
            "run as root",
            "must be root",
            "only root",
            "superuser privilege",
            "are you root",
            "su-exec",
            "setpriv",
        ],
    ),
    (
        Step::Machine,
        &[
            "settimeofday",
            "clock_settime",
            "adjtimex",
            "set date",
            "set time",
            "system clock",
            "sethostname",
            "kmsg",
            "klogctl",
            "kernel buffer",
            "swapon",
            "swapoff",
            "quotactl",
            "ioperm",
            "iopl",
            "/dev/mem",
            "kexec",
            "reboot(",
        ],
    ),
    (
        Step::Limit,
        &[
            "rlimit",
            "ulimit",
            "resource limit",
            "mlock",
            "memlock",
            "niceness",
            "setpriority",
            "ioprio",
            "sched_set",
            "scheduling policy",
            "real-time",
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
            "overlay2",
            "overlayfs",
            "mount callback failed",
            "unpack",
            "tar file",
            "filesystem from image",
        ],
    ),
    (Step::Fuse, &["fuse", "fusermount", "fusermount3", "fusemount", "squashfuse", "s3fs", "sshfs"]),
    (
        Step::Propagation,
        &["shared mount", "mount propagation", "rshared", "rslave", "rprivate", "set propagation"],
    ),
    (Step::ForeignMount, &["mount.nfs", "mount.cifs", "mount error(", "rpc.statd", "losetup", "loop device"]),
    (Step::Mount, &["mount", "unmount", "umount", "remount"]),
    (Step::Sysctl, &["sysctl", "/proc/sys/"]),
    (
        Step::Network,
        &[
            "netlink",
            "rtnetlink",
            "rtm_",
            "rtnl",
            "netavark",
            "bridge interface",
            "veth",
            "iptables",
            "ip6tables",
            "nftables",
            "nf_tables",
            "ipset",
            "ipvs",
            "tunsetiff",
            "tstun",
            "tuntap",
            "tun '",
            "netfilter",
            "network interface",
            "wireguard",
            "conntrack",
        ],
    ),
    (
        Step::Owner,
        &[
            "ownership",
            "chown",
            "lchown",
            "fchown",
            "chgrp",
            "chmod",
            "preserving permissions",
            "file permissions",
            "supplementary groups",
        ],
    ),
    (
        Step::Socket,
        &[
            "bind(",
            "bind to",
            "listen tcp",
            "listen udp",
            "listen unix",
            "listening on",
            "socket(",
            "raw socket",
            "icmp",
            "connect_unix",
            "dial unix",
            "unix socket",
            ".sock",
        ],
    ),
    (Step::Device, &["/dev/"]),
];

/// Texts that decide the step of a line that names no operation.
const WIDER: [Marks; 3] = [
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
            "oci not found",
            "crun: ",
            "shim task",
        ],
    ),
    (Step::Inside, &["open(", "sudo:", "systemctl"]),
];

/// The end of another program or of a connection to it.
const ENDED: [&str; 13] = [
    "exited: ",
    "exited with ",
    "exit status ",
    "exit code ",
    "child exited",
    "signal: killed",
    ": eof",
    "waiting for sandbox to start",
    "not running",
    "connection refused",
    "job failed",
    "see 'journalctl",
    "see 'systemctl status",
];

// === impl Step ===

impl Step {
    /// The step in which a line was printed, by its words, and the kernel's error in it.
    pub(super) fn of(line: &str) -> (Option<Step>, Option<KernelError>) {
        let innermost = errno::last(line);
        let error = innermost.map(|(_, error)| error);
        (
            Step::named(line, innermost.map(|(before, _)| before)).or_else(|| Step::by_error(line, error)),
            error,
        )
    }

    /// The step that the words of a line name; `before` is the text before the kernel's error.
    fn named(line: &str, before: Option<&str>) -> Option<Step> {
        if let Some((step, _)) = ELSEWHERE.iter().find(|(_, mark)| line.contains(mark)) {
            return Some(*step);
        }
        let in_clauses =
            |text: &str| text.rsplit(": ").find_map(|clause| in_text(&format!("{clause}:"), &OPERATIONS));
        let named = in_text(line, &WHOLE).or_else(|| before.and_then(in_clauses));
        // The text after the error, often fields of the log, counts only if nothing before it names a step.
        named.or_else(|| in_clauses(line)).or_else(|| in_text(line, &WIDER))
    }

    /// The step of a line of which only the error is understood.
    fn by_error(line: &str, error: Option<KernelError>) -> Option<Step> {
        if ENDED.iter().any(|mark| line.contains(mark)) || line.ends_with(": eof") {
            return Some(Step::Ended);
        }
        Some(match error? {
            KernelError::Denied | KernelError::NotPermitted | KernelError::ReadOnly | KernelError::Stale => {
                Step::Refused
            }
            KernelError::Closed => Step::Ended,
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
        }
    }
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
            is_word && (step != Step::Device || is_device(text.get(at + mark.len()..).unwrap_or_default()))
        })
    };
    steps.iter().find(|(step, marks)| marks.iter().any(|mark| is_in_text(*step, mark))).map(|(step, _)| *step)
}

/// Whether a name below `/dev` is one of a device, not of the container's own streams and file systems.
fn is_device(name: &str) -> bool {
    const OTHERS: [&str; 7] = ["std", "fd/", "pts", "shm", "mqueue", "hugepages", "termination-log"];
    !OTHERS.iter().any(|other| name.starts_with(other))
}
