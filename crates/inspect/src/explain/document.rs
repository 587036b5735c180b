//! The explanation as a document. Within a version, names are only added, as in the state document.

use serde::Serialize;

use usernsd_domain::delegation;
use usernsd_domain::idmap::IdMap;
use usernsd_messages::Message;
use usernsd_peers::oci::Security;

/// The version of this format.
pub const VERSION: u64 = 1;

/// Everything about one container.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The format's version.
    pub version: u64,
    /// The container that is explained.
    pub container: Subject,
    /// The request of its pod; `null` if the runtime does not report it.
    pub asked: Option<RequestedByPod>,
    /// The result on the node; `null` if the container does not run.
    pub got: Option<Observed>,
    /// Whether the cgroup's owner is right; `None` if the question does not apply.
    pub owner_is_right: Option<bool>,
    /// The problems, a few words each.
    pub problems: Vec<String>,
    /// Known messages in the log of a container that failed, and about denials of the container in the kernel's or
    /// auditd's log; the last of each.
    pub messages: Vec<KnownMessage>,
    /// The reasons for this result.
    pub because: Vec<String>,
    /// The next steps.
    pub next: Vec<String>,
    /// Facts that could not be read, with the reasons.
    pub unseen: Vec<String>,
}

/// A log line that contains a known message.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownMessage {
    /// The message's name, its place in `docs/errors.md`.
    pub id: &'static str,
    /// The program that prints it.
    pub program: &'static str,
    /// The line in the log.
    pub line: String,
    /// The cause of the message.
    pub cause: &'static str,
    /// The remedy, in one or two sentences.
    pub fix: &'static str,
    /// A page below `docs/` with more information; empty if the fix is sufficient.
    pub page: &'static str,
}

/// The container that is explained, with its pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// The CRI container ID.
    pub id: String,
    /// The CRI ID of the container's sandbox.
    pub sandbox_id: String,
    /// The container's name in its pod.
    pub name: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's name in its namespace.
    pub pod: String,
    /// The pod's UID in Kubernetes.
    pub pod_uid: String,
    /// `created`, `running`, `exited` or `unknown`; `waiting` for a pod that has no container.
    pub state: &'static str,
    /// The exit code, once the container has ended.
    pub exit_code: Option<i32>,
    /// PID of the init process on the node.
    pub pid: Option<u32>,
}

/// The request of the pod, from the runtime's record.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestedByPod {
    /// The pod's user namespace: `own` or `host`; `null` if the runtime does not report it.
    pub user_namespace: Option<&'static str>,
    /// The runtime handler; empty for the default one.
    pub runtime_handler: String,
    /// Whether the container is privileged, if the runtime reports it.
    pub privileged: Option<bool>,
    /// The pod's annotations that ask usernsd or CRI-O for a cgroup or a user namespace.
    pub annotations: Vec<(String, String)>,
    /// The key of the annotation that decides whether the container's cgroup is to be writable; `None` if
    /// there is none, or if its value is invalid.
    pub decided_by: Option<String>,
    /// `/sys/fs/cgroup` in the specification: `read-write`, `read-only`, `absent`.
    pub cgroup_mount: &'static str,
    /// Whether the specification lists a cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// The security context.
    pub security: Security,
}

/// The result on the node, from the kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The user namespace.
    pub user_namespace: Option<Namespace>,
    /// The mapping of user IDs.
    pub uid_map: Vec<Extent>,
    /// The mapping of group IDs.
    pub gid_map: Vec<Extent>,
    /// The container's cgroup.
    pub cgroup: Option<Cgroup>,
    /// The other namespaces.
    pub namespaces: Vec<Namespace>,
    /// The processes, ordered as a tree.
    pub processes: Vec<ProcessRow>,
    /// Number of processes that are not listed, because there are too many.
    pub more_processes: usize,
    /// Capabilities and filters of the init process.
    pub security: ObservedSecurity,
    /// The sysctls that matter to user namespaces.
    pub sysctls: Vec<Sysctl>,
    /// The root file system and the volumes.
    pub volumes: Vec<Volume>,
}

impl Observed {
    /// Whether systemd is its first process.
    #[must_use]
    pub fn runs_systemd(&self) -> bool {
        self.processes.iter().any(|row| row.inner_pid == Some(1) && is_systemd(&row.command))
    }
}

/// By the command line, or by the name in brackets if it was not read: on a slow node, reading may take too long.
fn is_systemd(command: &str) -> bool {
    let program = command.split(' ').next().and_then(|path| path.rsplit('/').next());
    matches!(program, Some("init" | "systemd" | "[systemd]"))
}

/// A namespace of the init process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// `user`, `cgroup`, …
    pub kind: &'static str,
    /// The inode, by which the kernel identifies the namespace.
    pub inode: u64,
    /// Whether it is the host's namespace.
    pub host: bool,
}

/// An extent of an ID mapping.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Extent {
    /// First container ID.
    pub container_id: u32,
    /// First host ID.
    pub host_id: u32,
    /// Number of IDs.
    pub length: u32,
    /// The position in a pool: `slot 3 of 4096 in pool crio`.
    pub pool: Option<String>,
}

/// The cgroup of a container.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    /// The path below the node's cgroup root.
    pub path: String,
    /// The systemd unit that this cgroup is or is part of.
    pub unit: Option<String>,
    /// systemd's `Delegate` of the unit; `None` if systemd could not be asked.
    pub delegate: Option<bool>,
    /// The directory as the host sees it.
    pub outside: Option<DirectoryOwner>,
    /// `/sys/fs/cgroup` as the container sees it.
    pub inside: Option<DirectoryOwner>,
    /// The mount in the container: `read-write`, `read-only`, `absent`.
    pub mount: Option<&'static str>,
    /// The files of the kernel's delegate list, with their owners.
    pub files: Vec<FileOwner>,
    /// The limits of the pod's cgroup.
    pub limits: Option<Limits>,
    /// The limits of the container's own cgroup, if that is another one.
    pub own_limits: Option<Limits>,
    /// Further limits that are set on the container's cgroup, by file.
    pub controllers: Vec<(String, String)>,
}

/// A directory's identity and owner.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryOwner {
    /// The inode of the directory.
    pub inode: u64,
    /// The owner as the host sees it.
    pub owner: u32,
    /// The owner as the container sees it; `null` if the ID is not mapped there.
    pub owner_inside: Option<u32>,
}

/// A file and its owner.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileOwner {
    /// The file's name.
    pub name: String,
    /// The owner as the host sees it.
    pub owner: u32,
}

/// Limits on the cgroups that a pod may create below its own; `None` means no limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// The cgroup on which they are set.
    pub path: String,
    /// The number of cgroups below it.
    pub descendants: Option<u64>,
    /// `cgroup.max.descendants`: the number of cgroups below.
    pub max_descendants: Option<u32>,
    /// `cgroup.max.depth`: the number of levels below.
    pub max_depth: Option<u32>,
}

/// A process in the container.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRow {
    /// The PID on the host.
    pub pid: u32,
    /// The PID in the container.
    pub inner_pid: Option<u32>,
    /// The parent's PID on the host.
    pub parent: u32,
    /// The number of its ancestors in the list.
    pub level: usize,
    /// The user ID on the host.
    pub user: Option<u32>,
    /// The user ID in the container; `null` if it is not mapped.
    pub user_inside: Option<u32>,
    /// The group ID on the host.
    pub group: Option<u32>,
    /// The group ID in the container; `null` if it is not mapped.
    pub group_inside: Option<u32>,
    /// The command line.
    pub command: String,
}

/// The kernel's restrictions of the init process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedSecurity {
    /// The effective capabilities, in the process's user namespace.
    pub effective: Vec<String>,
    /// The bounding set of capabilities.
    pub bounding: Vec<String>,
    /// Whether the process can gain no privileges by running a program.
    pub no_new_privileges: bool,
    /// `none`, `strict` or `filter`.
    pub seccomp: &'static str,
    /// The label of the kernel's security module.
    pub label: Option<String>,
}

/// A sysctl as the container sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sysctl {
    /// The sysctl's name.
    pub name: String,
    /// The value, with group IDs as the container sees them.
    pub value: String,
    /// An explanation of the value.
    pub meaning: Option<String>,
}

/// A mount with files of its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// The mount point in the container.
    pub path: String,
    /// The file system's type.
    pub kind: String,
    /// The source of the mount.
    pub source: String,
    /// Whether the mount is read-only.
    pub read_only: bool,
    /// Whether the mount maps IDs.
    pub id_mapped: bool,
    /// The owner as the host sees it, through the mount.
    pub owner: Option<u32>,
    /// The owner in the container; `null` if the ID is not mapped there.
    pub owner_inside: Option<u32>,
    /// The problem with it.
    pub problem: Option<String>,
    /// A remark about it that is not a problem.
    pub note: Option<String>,
}

// === impl KnownMessage, Limits, Extent ===

impl KnownMessage {
    /// The known message, with the line that contains it.
    #[must_use]
    pub fn new(message: &'static Message, line: String) -> KnownMessage {
        let Message { id, cause, fix, page, .. } = *message;
        KnownMessage { id: id.name(), program: id.program().name(), line, cause, fix, page }
    }
}

impl Extent {
    /// The extents of a map; `pool_of` returns the position of a range of host IDs in a pool.
    pub(super) fn of(map: &IdMap, pool_of: impl Fn(u32, u32) -> Option<String>) -> Vec<Extent> {
        let extent = |extent: &usernsd_domain::idmap::IdMapping| Extent {
            container_id: extent.container_id.0,
            host_id: extent.host_id.0,
            length: extent.length,
            pool: pool_of(extent.host_id.0, extent.length),
        };
        map.extents().iter().map(extent).collect()
    }
}

impl Limits {
    /// Whether both limits are set.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.max_descendants.is_some() && self.max_depth.is_some()
    }
}

/// The number in a limit's file; `None` for `max` and for an unreadable one.
pub(super) fn number(text: Option<String>) -> Option<u32> {
    match delegation::Limit::parse(&text?)? {
        delegation::Limit::Max => None,
        delegation::Limit::At(number) => Some(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_known_by_its_command_line_or_its_name() {
        for command in ["/lib/systemd/systemd", "/sbin/init", "init --unit=x", "[systemd]"] {
            assert!(is_systemd(command), "{command}");
        }
        for command in ["/bin/sh -c /lib/systemd/systemd", "[sh]", "systemd-run x", ""] {
            assert!(!is_systemd(command), "{command}");
        }
    }
}
