//! The answer as a document. Names are only added within a version, as in the state document.

use serde::Serialize;

use usernsd_domain::delegation;
use usernsd_domain::idmap::IdMap;
use usernsd_domain::message::Message;
use usernsd_peers::oci::Security;

/// The version of this form.
pub const VERSION: u64 = 1;

/// Everything about one container.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The form's version.
    pub version: u64,
    /// Who it is.
    pub container: Subject,
    /// What it asked for; `None` where the runtime does not say.
    pub asked: Option<Asked>,
    /// What it got. `None` where it does not run.
    pub got: Option<Observed>,
    /// Whether the cgroup's owner is right; `None` where that is no question.
    pub owner_is_right: Option<bool>,
    /// What is wrong.
    pub problems: Vec<String>,
    /// Known messages in the log of a container that has ended, the last ones.
    pub messages: Vec<KnownMessage>,
    /// Why it is as it is.
    pub because: Vec<String>,
    /// What to do next.
    pub next: Vec<String>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// A line of a log that is known.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownMessage {
    /// The message's name, its place in `docs/errors.md`.
    pub id: &'static str,
    /// Who prints it.
    pub program: &'static str,
    /// The line.
    pub line: String,
    /// What is behind it.
    pub cause: &'static str,
    /// What to do about it.
    pub fix: &'static str,
    /// Where more is said, below `docs/`; empty where the fix says it all.
    pub page: &'static str,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Its ID.
    pub id: String,
    /// Its sandbox's ID.
    pub sandbox_id: String,
    /// Its name in the pod.
    pub name: String,
    /// Its pod's Kubernetes namespace.
    pub namespace: String,
    /// Its pod's name.
    pub pod: String,
    /// Its pod's UID.
    pub pod_uid: String,
    /// `created`, `running`, `exited` or `unknown`; `waiting` of a pod that has no container.
    pub state: &'static str,
    /// Its exit code, once it has ended.
    pub exit_code: Option<i32>,
    /// Its init process.
    pub pid: Option<u32>,
}

/// What it asked for, by the runtime's record of the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// The pod's user namespace: `own` or `host`; `None` where the runtime does not say.
    pub user_namespace: Option<&'static str>,
    /// The runtime handler; empty for the default one.
    pub runtime_handler: String,
    /// Privileged, where the runtime says.
    pub privileged: Option<bool>,
    /// The pod's annotations that ask usernsd or CRI-O for a cgroup or a user namespace.
    pub annotations: Vec<(String, String)>,
    /// The key of the one that decides whether the container's cgroup is to be writable; `None` where
    /// none does, or where its value is not one of those it may have.
    pub decided_by: Option<String>,
    /// `/sys/fs/cgroup` in the specification: `read-write`, `read-only`, `absent`.
    pub cgroup_mount: &'static str,
    /// The specification lists a cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// The security context.
    pub security: Security,
}

/// What it got, by the kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The user namespace.
    pub user_namespace: Option<Namespace>,
    /// The mapping of user IDs.
    pub uid_map: Vec<Extent>,
    /// The mapping of group IDs.
    pub gid_map: Vec<Extent>,
    /// The cgroup.
    pub cgroup: Option<Cgroup>,
    /// The namespaces besides.
    pub namespaces: Vec<Namespace>,
    /// The processes, by number.
    pub processes: Vec<ProcessRow>,
    /// Processes that are not listed: there are too many.
    pub more_processes: usize,
    /// Capabilities and filters of the init process.
    pub security: GotSecurity,
    /// The sysctls that matter.
    pub sysctls: Vec<Sysctl>,
    /// The root file system and the volumes.
    pub volumes: Vec<Volume>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// `user`, `cgroup`, …
    pub kind: &'static str,
    /// Its inode.
    pub inode: u64,
    /// It is the host's.
    pub host: bool,
}

/// One extent of an ID mapping.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Extent {
    /// First ID inside.
    pub container_id: u32,
    /// First ID outside.
    pub host_id: u32,
    /// Number of IDs.
    pub length: u32,
    /// Where in a pool it lies: `slot 3 of 4096 in pool crio`.
    pub pool: Option<String>,
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    /// Its path below the node's cgroup root.
    pub path: String,
    /// The systemd unit it is, or lies in.
    pub unit: Option<String>,
    /// systemd's `Delegate` of the unit; `None` where systemd could not be asked.
    pub delegate: Option<bool>,
    /// The directory as the host sees it.
    pub outside: Option<DirectoryOwner>,
    /// `/sys/fs/cgroup` as the container sees it.
    pub inside: Option<DirectoryOwner>,
    /// The mount in the container: `read-write`, `read-only`, `absent`.
    pub mount: Option<&'static str>,
    /// The files of the kernel's delegate list, with their owners.
    pub files: Vec<FileOwner>,
    /// The pod's bounds.
    pub limits: Option<Limits>,
    /// The bounds of the container's own cgroup, where that is not the one above.
    pub own_limits: Option<Limits>,
    /// Further limits that are set on the container's cgroup, by file.
    pub controllers: Vec<(String, String)>,
}

/// Where a directory is, and whose.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryOwner {
    /// Its inode.
    pub inode: u64,
    /// Its owner as the host sees it.
    pub owner: u32,
    /// Its owner as the container sees it; `None`: nobody there.
    pub owner_inside: Option<u32>,
}

/// A file and its owner.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileOwner {
    /// The file.
    pub name: String,
    /// Its owner as the host sees it.
    pub owner: u32,
}

/// Bounds on what a pod may make in its cgroup; `None` for none.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// The cgroup they are set on.
    pub path: String,
    /// How many cgroups are below it.
    pub descendants: Option<u64>,
    /// `cgroup.max.descendants`
    pub max_descendants: Option<u32>,
    /// `cgroup.max.depth`
    pub max_depth: Option<u32>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRow {
    /// Its number on the host.
    pub pid: u32,
    /// Its number inside.
    pub inner_pid: Option<u32>,
    /// Its parent's number on the host.
    pub parent: u32,
    /// How many of its ancestors are in the list.
    pub level: usize,
    /// Its user outside.
    pub user: Option<u32>,
    /// Its user inside; `None`: not mapped.
    pub user_inside: Option<u32>,
    /// Its group outside.
    pub group: Option<u32>,
    /// Its group inside; `None`: not mapped.
    pub group_inside: Option<u32>,
    /// Its command line.
    pub command: String,
}

/// What the kernel says of the init process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GotSecurity {
    /// Its effective capabilities, in its user namespace.
    pub effective: Vec<String>,
    /// Its bounding set.
    pub bounding: Vec<String>,
    /// It may gain no privileges by running a program.
    pub no_new_privileges: bool,
    /// `none`, `strict` or `filter`.
    pub seccomp: &'static str,
    /// Its label of the kernel's security module.
    pub label: Option<String>,
}

/// A sysctl.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sysctl {
    /// Its name.
    pub name: String,
    /// Its value; group IDs in it are those inside.
    pub value: String,
    /// What that means.
    pub meaning: Option<String>,
}

/// A mount that brings files.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Where it is inside.
    pub path: String,
    /// The file system's type.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// It is read-only.
    pub read_only: bool,
    /// The mount maps its IDs.
    pub id_mapped: bool,
    /// Its owner as the host sees it, through the mount.
    pub owner: Option<u32>,
    /// Its owner inside; `None`: nobody there.
    pub owner_inside: Option<u32>,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// What someone should know of it, though nothing is wrong.
    pub note: Option<String>,
}

// === impl KnownMessage, Limits, Extent ===

impl KnownMessage {
    /// A message, and the line that holds it.
    #[must_use]
    pub fn new(message: &'static Message, line: String) -> KnownMessage {
        let Message { id, cause, fix, page, .. } = *message;
        KnownMessage { id: id.name(), program: id.program().name(), line, cause, fix, page }
    }
}

impl Extent {
    /// The extents of a map; `pool_of` says where in a pool a range of host IDs lies.
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
    /// Whether both bounds are set.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.max_descendants.is_some() && self.max_depth.is_some()
    }
}

/// The number of a limit; `None` for `max` and for what cannot be read.
pub(super) fn number(text: Option<String>) -> Option<u32> {
    match delegation::Limit::parse(&text?)? {
        delegation::Limit::Max => None,
        delegation::Limit::At(number) => Some(number),
    }
}
