//! One vocabulary for pods and containers as CRI, NRI and OCI describe them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::cgroup::CgroupPath;
use super::idmap::{ContainerId, IdMap};
use super::mountinfo::{MountInfo, has_option};

/// The runtime's identifier of a sandbox or container (64 hexadecimal digits in CRI-O and containerd). It becomes
/// part of paths and log lines, so its characters and length are limited.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CriId(String);

/// The text is not an identifier that any runtime uses.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a container's ID")]
pub struct CriIdError(String);

/// The pod that a container belongs to, as Kubernetes names it. All three are empty for sandboxes that no kubelet
/// created.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// The request of a pod (CRI `NamespaceOption.userns_options`, or CRI-O's `userns-mode` annotation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserNamespaceRequest {
    /// A user namespace of the pod (`hostUsers: false`).
    Own,
    Host,
}

/// How `/sys/fs/cgroup` is mounted in a container; a mount that allows more compares greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CgroupMount {
    Absent,
    /// Read-only, the runtimes' default.
    ReadOnly,
    /// Read-write: privileged, systemd (CRI-O), or opted in.
    ReadWrite,
}

/// A mount of the container's specification.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// Path in the container.
    pub destination: String,
    /// File system type.
    pub kind: String,
    pub source: String,
    pub options: Vec<String>,
}

/// A pod sandbox as the runtime describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The sandbox's identifier.
    pub id: CriId,
    pub pod: PodRef,
    /// The pod's annotations that usernsd reads ([`relevant`](super::relevant)).
    pub annotations: Arc<BTreeMap<String, String>>,
    /// Whether the sandbox has a user namespace; `None` if the runtime lists no namespaces.
    pub user_namespace: Option<bool>,
    /// PID of the process in the host's PID namespace; `None` if the source has none (CRI-O never has).
    pub pid: Option<u32>,
}

/// The namespaces that a container was specified to have, for comparison with its init process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecifiedNamespaces {
    /// The mapping of user IDs; empty if the source has none (NRI, and CRI-O 1.35.0 if the container joins an
    /// existing user namespace).
    pub uid_map: IdMap,
    /// The mapping of group IDs, likewise.
    pub gid_map: IdMap,
    /// The container has its own PID namespace, so that its init process has PID 1 there.
    pub pid_namespace: bool,
}

/// A container's state, in the terms of CRI and NRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContainerState {
    /// Created; its process has not been started.
    Created,
    /// Started (paused containers too).
    Running,
    /// The process has exited.
    Stopped,
    /// The runtime does not report one.
    Unknown,
}

/// A container as the runtime describes it: its specification, not what the kernel made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The container's identifier.
    pub id: CriId,
    /// The sandbox that it belongs to; empty if the source does not contain it.
    pub sandbox_id: String,
    /// The container's name in the pod.
    pub name: String,
    pub pod: PodRef,
    /// The *pod's* annotations. The runtime creates those of the container itself (CRI-O writes two dozen),
    /// and they ask for nothing. Only those that usernsd reads ([`relevant`](super::relevant)), shared by all
    /// containers of the pod.
    pub annotations: Arc<BTreeMap<String, String>>,
    /// PID of the init process in the agent's PID namespace, if the source contains it.
    pub pid: Option<u32>,
    /// The runtime's `cgroupsPath`, not yet interpreted ([`unit`](super::unit)).
    pub cgroups_path: String,
    /// Whether the specification lists a user namespace.
    pub user_namespace: bool,
    /// Whether the specification lists a cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// The specification's mounts.
    pub mounts: Vec<Mount>,
    /// The namespaces that its init process is compared with.
    pub specified: SpecifiedNamespaces,
    /// The process's user, if the source contains it (NRI ≥ 0.11, OCI).
    pub process_uid: Option<ContainerId>,
    /// The names of the environment variables of the process.
    pub env_names: Vec<String>,
}

// === impl CgroupMount ===

words! {
    /// The name in documents.
    CgroupMount { Absent = "absent", ReadOnly = "read-only", ReadWrite = "read-write" }
}

// === impl CriId ===

impl CriId {
    /// Parses 1 to 128 letters, digits, `_`, `.` or `-`, not starting with a dot.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<CriId, CriIdError> {
        let good = (1..=128).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if good { Ok(CriId(text.to_owned())) } else { Err(CriIdError(text.chars().take(140).collect())) }
    }

    /// The whole identifier.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 13 characters, as `crictl` prints it.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..13).unwrap_or(&self.0)
    }
}

impl fmt::Display for CriId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Container ===

impl Container {
    /// How the specification mounts the cgroup hierarchy on `/sys/fs/cgroup`: the last mount on that
    /// path counts.
    ///
    /// Runtimes use type `cgroup` (OCI runtime specification), for privileged containers too. A volume
    /// that the pod mounts there has another type, and counts as no cgroup mount whatever it contains.
    #[must_use]
    pub fn cgroup_mount(&self) -> CgroupMount {
        match self
            .mounts
            .iter()
            .rev()
            .find(|mount| mount.destination.trim_end_matches('/') == "/sys/fs/cgroup")
        {
            None => CgroupMount::Absent,
            Some(mount) if !matches!(mount.kind.as_str(), "cgroup" | "cgroup2") => CgroupMount::Absent,
            // "ro" wins over "rw" in any order: if in doubt, the mount is read-only.
            Some(mount) if mount.options.iter().any(|option| matches!(option.as_str(), "ro" | "rro")) => {
                CgroupMount::ReadOnly
            }
            Some(_) => CgroupMount::ReadWrite,
        }
    }
}

/// How the cgroup hierarchy is mounted on `/sys/fs/cgroup` according to the text of
/// `/proc/PID/mountinfo`; the topmost mount there counts.
///
/// Only cgroup v2 counts, and only if the mount shows `own`, the container's cgroup, or the whole
/// hierarchy, which runtimes show to privileged containers. Anything else there (a volume, another
/// cgroup's directory) gives the container no view of its cgroup, and counts as no mount. `namespace` is
/// the root of the reader's cgroup namespace; the kernel shows the mount's root relative to it.
#[must_use]
pub fn cgroup_mount_of_mountinfo(text: &str, own: &CgroupPath, namespace: &CgroupPath) -> CgroupMount {
    let Some(mount) = MountInfo::topmost(text, "/sys/fs/cgroup") else { return CgroupMount::Absent };
    let shows = CgroupPath::seen_from(namespace, &mount.root);
    if mount.kind != "cgroup2" || !shows.is_ok_and(|root| root == *own || root == CgroupPath::root()) {
        return CgroupMount::Absent;
    }
    let is_writable = has_option(mount.options, "rw") && !has_option(mount.options, "ro");
    if is_writable && !has_option(mount.super_options, "ro") {
        CgroupMount::ReadWrite
    } else {
        CgroupMount::ReadOnly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(text: &str) -> CgroupMount {
        let own = CgroupPath::parse("/kubepods.slice/cri-containerd-a.scope").unwrap();
        cgroup_mount_of_mountinfo(text, &own, &CgroupPath::root())
    }

    #[test]
    fn the_mount_on_top_is_found_if_several_are_stacked() {
        let own = "/kubepods.slice/cri-containerd-a.scope";
        let ro = format!(
            "2114 2113 0:28 {own} /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw\n"
        );
        let rw = format!(
            "2115 2114 0:28 {own} /sys/fs/cgroup rw,nosuid,nodev,relatime master:1 - cgroup2 cgroup rw\n"
        );
        let elsewhere = "2116 2114 0:28 / /sys/fs/cgroup/x rw - cgroup2 cgroup rw\n".to_owned();
        let volume = "2117 2114 8:1 /volumes/x /sys/fs/cgroup rw - ext4 /dev/sda1 rw\n".to_owned();
        for (text, want) in [
            (ro.clone(), CgroupMount::ReadOnly),
            (rw.clone(), CgroupMount::ReadWrite),
            (format!("{ro}{rw}{elsewhere}"), CgroupMount::ReadWrite),
            (format!("{rw}{ro}"), CgroupMount::ReadOnly),
            (rw.replace("cgroup rw", "cgroup ro"), CgroupMount::ReadOnly),
            (elsewhere, CgroupMount::Absent),
            ("1 2 3:4 / /sys/fs/cgroup".to_owned(), CgroupMount::Absent),
            (String::new(), CgroupMount::Absent),
            (format!("{rw}{volume}"), CgroupMount::Absent),
            (format!("{volume}{rw}"), CgroupMount::ReadWrite),
        ] {
            assert_eq!(of_text(&text), want, "{text:?}");
        }
    }

    #[test]
    fn only_the_containers_own_view_of_cgroup_v2_counts() {
        let line = |root: &str, kind: &str| format!("9 8 0:28 {root} /sys/fs/cgroup rw - {kind} x rw\n");
        let own = "/kubepods.slice/cri-containerd-a.scope";
        for (root, kind, want) in [
            (own, "cgroup2", CgroupMount::ReadWrite),
            ("/", "cgroup2", CgroupMount::ReadWrite),
            ("/", "cgroup", CgroupMount::Absent),
            ("/", "tmpfs", CgroupMount::Absent),
            ("/", "fuse.cgroup2", CgroupMount::Absent),
            ("/", "overlay", CgroupMount::Absent),
            ("/kubepods.slice", "cgroup2", CgroupMount::Absent),
            ("/kubepods.slice/cri-containerd-b.scope", "cgroup2", CgroupMount::Absent),
            ("/kubepods.slice/cri-containerd-a.scope/below", "cgroup2", CgroupMount::Absent),
            ("/kubepods.slice/cri-containerd-a.scope//deleted", "cgroup2", CgroupMount::Absent),
        ] {
            assert_eq!(of_text(&line(root, kind)), want, "{root} {kind}");
        }
        // As a reader in its own cgroup namespace sees them.
        let own = CgroupPath::parse(own).unwrap();
        let reader = CgroupPath::parse("/kubepods.slice/agent.scope").unwrap();
        for (root, want) in [
            ("/../cri-containerd-a.scope", CgroupMount::ReadWrite),
            ("/../..", CgroupMount::ReadWrite),
            ("/../cri-containerd-b.scope", CgroupMount::Absent),
            ("/", CgroupMount::Absent),
            ("/../../..", CgroupMount::Absent),
        ] {
            assert_eq!(cgroup_mount_of_mountinfo(&line(root, "cgroup2"), &own, &reader), want, "{root}");
        }
    }

    #[test]
    fn a_volume_on_the_mount_point_is_not_a_cgroup_mount() {
        let mount = |kind: &str, options: &[&str]| Mount {
            destination: "/sys/fs/cgroup".to_owned(),
            kind: kind.to_owned(),
            source: kind.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        let with = |mounts| {
            let container = Container {
                id: CriId::parse("a").unwrap(),
                sandbox_id: String::new(),
                name: String::new(),
                pod: PodRef::default(),
                annotations: Arc::default(),
                pid: None,
                cgroups_path: String::new(),
                user_namespace: true,
                cgroup_namespace: true,
                mounts,
                specified: SpecifiedNamespaces::default(),
                process_uid: None,
                env_names: vec![],
            };
            container.cgroup_mount()
        };
        assert_eq!(with(vec![mount("cgroup", &["rw"])]), CgroupMount::ReadWrite);
        assert_eq!(with(vec![mount("cgroup", &["rw", "ro"])]), CgroupMount::ReadOnly);
        assert_eq!(with(vec![mount("bind", &["rbind", "rw"])]), CgroupMount::Absent);
        assert_eq!(with(vec![mount("tmpfs", &["rw"])]), CgroupMount::Absent);
        assert_eq!(with(vec![mount("", &["rw"])]), CgroupMount::Absent);
        // The last mount counts.
        let volume = || mount("bind", &["rbind", "rw"]);
        assert_eq!(with(vec![mount("cgroup", &["rw"]), volume()]), CgroupMount::Absent);
        assert_eq!(with(vec![volume(), mount("cgroup", &["rw"])]), CgroupMount::ReadWrite);
    }

    #[test]
    fn an_id_stays_one_path_component() {
        for text in ["a", &"f".repeat(64), "A_b.c-1"] {
            assert!(CriId::parse(text).is_ok(), "{text}");
        }
        for text in ["", ".", "..", ".a", "a/b", "a b", "a\n", &"f".repeat(129), "é"] {
            assert!(CriId::parse(text).is_err(), "{text:?}");
        }
    }
}
