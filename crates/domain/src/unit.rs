//! systemd's slices and scopes, and the `cgroupsPath` of an OCI runtime.

use thiserror::Error;

use super::cgroup::{CgroupPath, CgroupPathError};
use super::container::CriId;

/// The cgroup for a container in its specification (OCI runtime-spec `linux.cgroupsPath`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupsPath {
    /// The systemd cgroup manager's form, `SLICE:PREFIX:NAME` (runc `docs/systemd.md`).
    Systemd {
        /// The slice, e.g. `kubepods-besteffort-podUID.slice`.
        slice: String,
        /// `crio` or `cri-containerd`.
        prefix: String,
        /// The container's identifier.
        name: String,
    },
    /// The cgroupfs manager's form: a plain path.
    Cgroupfs(CgroupPath),
}

/// Why a `cgroupsPath` is not the place of a container's cgroup.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CgroupsPathError {
    /// Neither `SLICE:PREFIX:NAME` nor an absolute path.
    #[error("cgroupsPath {0:?} is neither SLICE:PREFIX:NAME nor an absolute path")]
    Form(String),
    /// systemd would not accept that slice's name (systemd.slice(5)).
    #[error("{0:?} is not the name of a slice")]
    Slice(String),
    /// The path cannot be a cgroup's.
    #[error("cgroupsPath: {0}")]
    Path(CgroupPathError),
    /// The last component does not contain the container's full identifier, so the cgroup could be another's.
    #[error("cgroup {path} does not carry the container's ID {id}")]
    NotThisContainer {
        /// The path from the runtime.
        path: CgroupPath,
        /// The container's identifier.
        id: CriId,
    },
}

/// systemd's properties of a unit that contains a container (org.freedesktop.systemd1(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The unit's cgroup.
    pub control_group: CgroupPath,
    /// The cgroup's ID, its directory's inode (`ControlGroupId`, systemd ≥ 251).
    pub control_group_id: Option<u64>,
    /// Whether systemd leaves the subtree to others (`Delegate`).
    pub delegate: bool,
}

// === impl CgroupsPath ===

impl CgroupsPath {
    /// Parses the runtime's `cgroupsPath`.
    ///
    /// # Errors
    /// See [`CgroupsPathError`].
    pub fn parse(text: &str) -> Result<CgroupsPath, CgroupsPathError> {
        if text.starts_with('/') {
            return CgroupPath::parse(text).map(CgroupsPath::Cgroupfs).map_err(CgroupsPathError::Path);
        }
        let mut parts = text.split(':');
        let (Some(slice), Some(prefix), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(CgroupsPathError::Form(text.chars().take(120).collect()));
        };
        let plain = |part: &str| !part.is_empty() && !part.contains('/');
        if !plain(prefix) || !plain(name) {
            return Err(CgroupsPathError::Form(text.chars().take(120).collect()));
        }
        // An empty slice means the runtime's default (runc and crun: system.slice).
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        expand_slice(slice)?;
        Ok(CgroupsPath::Systemd { slice: slice.to_owned(), prefix: prefix.to_owned(), name: name.to_owned() })
    }

    /// The systemd unit, `PREFIX-NAME.scope`; `None` with the cgroupfs manager.
    #[must_use]
    pub fn unit(&self) -> Option<String> {
        match self {
            CgroupsPath::Systemd { prefix, name, .. } => Some(format!("{prefix}-{name}.scope")),
            CgroupsPath::Cgroupfs(_) => None,
        }
    }

    /// The container's cgroup; its name proves that it belongs to container `id`.
    ///
    /// # Errors
    /// [`CgroupsPathError::NotThisContainer`] if the last component does not end in the full identifier.
    pub fn directory(&self, id: &CriId) -> Result<CgroupPath, CgroupsPathError> {
        let path = match self {
            CgroupsPath::Cgroupfs(path) => path.clone(),
            CgroupsPath::Systemd { slice, prefix, name } => {
                let unit = format!("{prefix}-{name}.scope");
                expand_slice(slice)?.join(&unit).ok_or(CgroupsPathError::Form(unit))?
            }
        };
        let carries = path.name().is_some_and(|name| {
            let name = name.strip_suffix(".scope").unwrap_or(name);
            // "crio-ID", "cri-containerd-ID" or, with containerd's cgroupfs manager, the bare identifier.
            name.strip_suffix(id.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('-'))
        });
        if carries { Ok(path) } else { Err(CgroupsPathError::NotThisContainer { path, id: id.clone() }) }
    }
}

/// The container's identifier in the name of a scope, as CRI-O (`crio-ID.scope`) and containerd
/// (`cri-containerd-ID.scope`) form it; `None` for every other unit.
#[must_use]
pub fn container_of_scope(unit: &str) -> Option<CriId> {
    let name = unit.strip_suffix(".scope")?;
    let id = name.strip_prefix("cri-containerd-").or_else(|| name.strip_prefix("crio-"))?;
    // crio-conmon-ID.scope is that of the container monitor, which stays the host's.
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| CriId::parse(id).ok())?
}

/// The path of a slice: each dash-separated prefix is a parent slice (systemd.slice(5): `foo-bar.slice` is in
/// `foo.slice`).
///
/// # Errors
/// [`CgroupsPathError::Slice`] for a name that systemd would refuse.
pub fn expand_slice(slice: &str) -> Result<CgroupPath, CgroupsPathError> {
    let refuse = || CgroupsPathError::Slice(slice.chars().take(120).collect());
    let stem = slice.strip_suffix(".slice").ok_or_else(refuse)?;
    if stem == "-" {
        return Ok(CgroupPath::root());
    }
    if stem.split('-').any(str::is_empty) {
        return Err(refuse());
    }
    let mut path = CgroupPath::root();
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    for end in ends {
        let prefix = stem.get(..end).ok_or_else(refuse)?;
        path = path.join(&format!("{prefix}.slice")).ok_or_else(refuse)?;
    }
    Ok(path)
}

/// Whether a cgroup's name is that of a pod, as the kubelet forms it: `…-podUID.slice` (dashes of the UID as
/// underscores) or, with the cgroupfs manager, `podUID`.
#[must_use]
pub fn is_pod_cgroup(name: &str) -> bool {
    let uid = match name.strip_suffix(".slice") {
        Some(stem) => stem.rsplit('-').next().and_then(|last| last.strip_prefix("pod")),
        None => name.strip_prefix("pod"),
    };
    // A UUID, or the 32 hexadecimal digits of a static pod's hash.
    uid.is_some_and(|uid| {
        (32..=36).contains(&uid.len())
            && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || b"-_".contains(&byte))
    })
}

/// The pod's cgroup that contains a container's cgroup; `None` if no kubelet created one.
#[must_use]
pub fn pod_cgroup(container: &CgroupPath) -> Option<CgroupPath> {
    // From the root down: the first such name is the kubelet's, a later one could be anyone's.
    let mut path = CgroupPath::root();
    for name in container.components() {
        path = path.join(name)?;
        if is_pod_cgroup(name) {
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "bf2b3d15cbd6944366e29927988ba30bc36d1efee00c28fb4c6d5b2036e462b0";
    const SLICE: &str = "kubepods-besteffort-podc7f11ee7_e178_4dea_9d8c_c005ad648988.slice";

    fn id() -> CriId {
        CriId::parse(ID).unwrap()
    }

    #[test]
    fn the_scope_of_a_container_is_found() {
        let path = CgroupsPath::parse(&format!("{SLICE}:crio:{ID}")).unwrap();
        assert_eq!(path.unit().unwrap(), format!("crio-{ID}.scope"));
        assert_eq!(
            path.directory(&id()).unwrap().as_str(),
            format!("/kubepods.slice/kubepods-besteffort.slice/{SLICE}/crio-{ID}.scope")
        );
    }

    #[test]
    fn the_directory_of_the_cgroupfs_manager_is_found() {
        for last in [format!("crio-{ID}"), ID.to_owned()] {
            let text = format!("/kubepods/besteffort/podc7f11ee7-e178-4dea-9d8c-c005ad648988/{last}");
            let path = CgroupsPath::parse(&text).unwrap();
            assert_eq!(path.unit(), None);
            assert_eq!(path.directory(&id()).unwrap().as_str(), text);
        }
    }

    #[test]
    fn another_containers_cgroup_is_refused() {
        let other = "0".repeat(64);
        for text in [
            format!("{SLICE}:crio:{other}"),
            format!("{SLICE}:crio:x{ID}"),
            format!("/kubepods/{ID}/init.scope"),
            "/".to_owned(),
        ] {
            let path = CgroupsPath::parse(&text).unwrap();
            assert!(
                matches!(path.directory(&id()), Err(CgroupsPathError::NotThisContainer { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn an_invalid_cgroups_path_is_refused() {
        for text in [
            "",
            "a",
            "a:b",
            "a.slice:b:c:d",
            "a.slice::c",
            "a.slice:b:",
            "a:b:c",
            "a--b.slice:b:c",
            "a.slice:b:../c",
            "/a/../b",
        ] {
            assert!(CgroupsPath::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn slices_are_expanded_as_by_systemd() {
        for (slice, want) in
            [("-.slice", "/"), ("a.slice", "/a.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice")]
        {
            assert_eq!(expand_slice(slice).unwrap().as_str(), want);
        }
        for slice in ["", ".slice", "a", "-a.slice", "a-.slice", "a--b.slice", "a/b.slice"] {
            assert!(expand_slice(slice).is_err(), "{slice:?}");
        }
    }

    #[test]
    fn scopes_of_containers_are_distinguished_from_others() {
        assert_eq!(container_of_scope(&format!("crio-{ID}.scope")), Some(id()));
        assert_eq!(container_of_scope(&format!("cri-containerd-{ID}.scope")), Some(id()));
        for unit in [
            format!("crio-conmon-{ID}.scope"),
            "crio-evil.scope".into(),
            "init.scope".into(),
            format!("crio-{ID}.slice"),
        ] {
            assert_eq!(container_of_scope(&unit), None, "{unit}");
        }
    }

    #[test]
    fn a_pods_cgroup_is_found() {
        for name in [
            SLICE,
            "podc7f11ee7-e178-4dea-9d8c-c005ad648988",
            "kubepods-pod0123456789abcdef0123456789abcdef.slice",
        ] {
            assert!(is_pod_cgroup(name), "{name}");
        }
        for name in ["kubepods.slice", "system.slice", "pod", "podman-1.scope", "kubepods-besteffort.slice"] {
            assert!(!is_pod_cgroup(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_input_is_parsed_without_panic(text in any::<String>()) {
            if let Ok(path) = CgroupsPath::parse(&text) {
                let _ = path.directory(&id());
                let _ = path.unit();
            }
            let _ = (expand_slice(&text), container_of_scope(&text), is_pod_cgroup(&text));
        }

        #[test]
        fn a_cgroup_path_always_ends_in_the_container_id(slice in "[a-c-]{0,8}(\\.slice)?", prefix in "[a-c./-]{0,6}", name in "[a-f0-9/.-]{0,8}") {
            if let Ok(path) = CgroupsPath::parse(&format!("{slice}:{prefix}:{name}"))
                && let Ok(id) = CriId::parse(&name)
                && let Ok(directory) = path.directory(&id)
            {
                let want = format!("{name}.scope");
                prop_assert!(directory.name().unwrap().ends_with(&want));
            }
        }
    }
}
