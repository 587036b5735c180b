//! The changes that an opted-in container needs before it is created, as an NRI adjustment.
//!
//! Owning the cgroup does not help if `/sys/fs/cgroup` is mounted read-only. And a privileged container in a
//! user namespace gets the host's cgroup namespace (cri-o#10318), so that the OCI runtime does not delegate
//! its cgroup. Both must be corrected before the container is created.

use std::collections::BTreeMap;

use super::container::{CgroupMount, Container, Mount};
use super::idmap::HostId;

mod opt_in;

pub use opt_in::{
    CGROUP_ANNOTATION, CGROUP_KEY, CRIO_ANNOTATIONS, DecidingAnnotation, LONGEST_NAMED_CONTAINER, OptIn,
    SYSTEMD_ANNOTATION, SYSTEMD_KEY, WRITABLE_CGROUPS_KEY, asks_by, asks_for_writable, concerns, is_ours,
};

/// runc and crun set the scope property of that name (runc `docs/systemd.md`); systemd itself then makes that user
/// the owner of the cgroup.
pub const SYSTEMD_USER_ANNOTATION: &str = "org.systemd.property.User";

/// A change to a container before it is created.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adjustment {
    /// Annotations to set on the OCI specification.
    pub annotations: BTreeMap<String, String>,
    /// Mounts to add or to replace.
    pub mounts: Vec<MountChange>,
    /// Environment variables to set.
    pub env: Vec<(String, String)>,
    /// Give the container its own cgroup namespace (NRI ≥ 0.10; older runtimes ignore it).
    pub add_cgroup_namespace: bool,
}

/// A mount to add or to replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountChange {
    /// The mount as it should be.
    pub mount: Mount,
    /// Whether the container has a mount with the same destination, which must be removed first.
    pub replaces: bool,
}

/// The administrator's rules (`optIn`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdjustRules {
    /// Kubernetes namespaces whose pods may opt in; a trailing `*` matches any ending.
    pub namespaces: Vec<String>,
    /// Give privileged containers in a user namespace a cgroup namespace of their own.
    pub privileged_cgroup_namespace: bool,
}

/// Why an opt-in is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ungranted {
    /// The annotation has a value that is not allowed.
    Value {
        /// The annotation's key.
        annotation: String,
        /// The value, cut after 40 characters.
        value: String,
        /// The allowed values.
        allowed: &'static str,
    },
    /// The pod runs in the host's user namespace, where a writable cgroup would belong to the host's root.
    HostUserNamespace {
        /// The annotation's key.
        annotation: String,
    },
    /// The configuration does not allow pods of this Kubernetes namespace to opt in.
    Namespace {
        /// The annotation's key.
        annotation: String,
    },
}

// === impl Ungranted ===

impl Ungranted {
    /// The name in logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Ungranted::Value { .. } => "annotation_value",
            Ungranted::HostUserNamespace { .. } => "annotation_without_user_namespace",
            Ungranted::Namespace { .. } => "annotation_in_this_namespace",
        }
    }

    /// Every name, so that the metrics exist before the first event.
    pub const NAMES: [&str; 3] =
        ["annotation_value", "annotation_without_user_namespace", "annotation_in_this_namespace"];
}

impl std::fmt::Display for Ungranted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ungranted::Value { annotation, value, allowed } => {
                write!(f, "annotation {annotation} is {value:?}; it may only be {allowed:?}")
            }
            Ungranted::HostUserNamespace { annotation } => write!(
                f,
                "annotation {annotation} asks for a writable cgroup, but the pod has no user namespace; set \
                 hostUsers: false"
            ),
            Ungranted::Namespace { annotation } => write!(
                f,
                "annotation {annotation} asks for a writable cgroup, but pods of this namespace may not ask \
                 (optIn.namespaces)"
            ),
        }
    }
}

/// Decides what to change in a container before it is created; `None` if nothing.
///
/// `systemd_owner` is the mapped root if systemd is to change the owner of the cgroup (`mechanism: systemd-user`).
///
/// # Errors
/// The pod's request is not granted. The container runs without what it asked for.
pub fn plan(
    container: &Container,
    rules: &AdjustRules,
    systemd_owner: Option<HostId>,
) -> Result<Option<Adjustment>, Ungranted> {
    let opt_in = OptIn::of(&container.annotations, &container.name)?;
    let asked_by = opt_in.asked_by().map(str::to_owned);
    if !container.user_namespace {
        return asked_by.map_or(Ok(None), |annotation| Err(Ungranted::HostUserNamespace { annotation }));
    }
    // On cgroup v2, runtimes give every container its own cgroup namespace, except privileged ones.
    let privileged = !container.cgroup_namespace;
    let granted = opt_in.writable && allows(&rules.namespaces, &container.pod.namespace);

    let mut adjustment = Adjustment::default();
    let isolate = privileged && rules.privileged_cgroup_namespace;
    adjustment.add_cgroup_namespace = isolate;
    let writable = container.cgroup_mount() == CgroupMount::ReadWrite;
    if isolate || (granted && !writable) {
        adjustment.mounts.push(change(container, cgroup_mount()));
    }
    if granted && opt_in.systemd {
        let missing = systemd_mounts().into_iter().filter(|mount| !has_mount(container, &mount.destination));
        adjustment.mounts.extend(missing.map(|mount| MountChange { mount, replaces: false }));
        if !container.env_names.iter().any(|name| name == "container") {
            // Without this variable systemd takes the container for a virtual machine (systemd CONTAINER_INTERFACE).
            adjustment.env.push(("container".to_owned(), "oci".to_owned()));
        }
    }
    if let Some(owner) = systemd_owner
        && (granted || writable || isolate)
    {
        // In GVariant text format: a quoted string.
        adjustment.annotations.insert(SYSTEMD_USER_ANNOTATION.to_owned(), format!("'{owner}'"));
    }
    if adjustment != Adjustment::default() {
        return Ok(Some(adjustment));
    }
    match asked_by {
        Some(annotation) if !granted => Err(Ungranted::Namespace { annotation }),
        _ => Ok(None),
    }
}

fn allows(patterns: &[String], namespace: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => namespace.starts_with(start),
        None => namespace == pattern,
    })
}

fn has_mount(container: &Container, destination: &str) -> bool {
    container.mounts.iter().any(|mount| mount.destination.trim_end_matches('/') == destination)
}

fn change(container: &Container, mount: Mount) -> MountChange {
    MountChange { replaces: has_mount(container, &mount.destination), mount }
}

fn mount(kind: &str, destination: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: kind.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

/// The mount that makes runc change the cgroup's owner by itself: type and source `cgroup`, not `ro` (OCI
/// runtime-spec, "Cgroup ownership").
fn cgroup_mount() -> Mount {
    mount("cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", "rw"])
}

/// The mounts that CRI-O adds when it recognises systemd (`setupSystemdMounts`), but without `noexec`: services may
/// execute files in /run and /tmp.
fn systemd_mounts() -> [Mount; 4] {
    [("/run", "755"), ("/run/lock", "1777"), ("/tmp", "1777"), ("/var/log/journal", "755")].map(
        |(path, mode)| {
            let mode = format!("mode={mode}");
            mount("tmpfs", path, &["rw", "rprivate", "nosuid", "nodev", "tmpcopyup", &mode])
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{CriId, PodRef, SpecifiedNamespaces};

    fn rules() -> AdjustRules {
        AdjustRules { namespaces: vec!["*".into()], privileged_cgroup_namespace: true }
    }

    /// An unprivileged container in a user namespace, as containerd creates it.
    fn plain(annotations: &[(&str, &str)]) -> Container {
        Container {
            id: CriId::parse("a").unwrap(),
            sandbox_id: String::new(),
            name: "c".into(),
            pod: PodRef { namespace: "team-a".into(), name: "web".into(), uid: String::new() },
            annotations: annotations
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect::<BTreeMap<_, _>>()
                .into(),
            pid: None,
            cgroups_path: String::new(),
            user_namespace: true,
            cgroup_namespace: true,
            mounts: vec![mount("cgroup", "/sys/fs/cgroup", &["ro"]), mount("tmpfs", "/run", &[])],
            specified: SpecifiedNamespaces::default(),
            process_uid: None,
            env_names: vec![],
        }
    }

    fn destinations(adjustment: &Adjustment) -> Vec<&str> {
        adjustment.mounts.iter().map(|change| change.mount.destination.as_str()).collect()
    }

    #[test]
    fn a_container_that_did_not_opt_in_is_not_changed() {
        assert_eq!(plan(&plain(&[]), &rules(), None), Ok(None));
        assert_eq!(plan(&plain(&[(CGROUP_ANNOTATION, "read-only")]), &rules(), None), Ok(None));
        assert_eq!(plan(&plain(&[(CRIO_ANNOTATIONS[0], "True")]), &rules(), None), Ok(None));
    }

    #[test]
    fn a_writable_cgroup_replaces_the_mount() {
        for annotation in
            [(CGROUP_ANNOTATION, "writable"), (CRIO_ANNOTATIONS[0], "true"), (CRIO_ANNOTATIONS[1], "true")]
        {
            let adjustment = plan(&plain(&[annotation]), &rules(), None).unwrap().unwrap();
            assert_eq!(destinations(&adjustment), ["/sys/fs/cgroup"], "{annotation:?}");
            assert!(
                adjustment.mounts[0].replaces
                    && adjustment.mounts[0].mount.options.contains(&"rw".to_owned())
            );
            assert!(!adjustment.add_cgroup_namespace && adjustment.env.is_empty());
        }
    }

    #[test]
    fn systemd_gets_its_directories_and_its_variable() {
        let container = plain(&[(SYSTEMD_ANNOTATION, "true")]);
        let adjustment = plan(&container, &rules(), None).unwrap().unwrap();
        // /run is mounted already: the pod's own mount stays.
        assert_eq!(destinations(&adjustment), ["/sys/fs/cgroup", "/run/lock", "/tmp", "/var/log/journal"]);
        assert_eq!(adjustment.env, [("container".to_owned(), "oci".to_owned())]);
        let named = Container { env_names: vec!["container".into()], ..container };
        assert!(plan(&named, &rules(), None).unwrap().unwrap().env.is_empty());
    }

    #[test]
    fn one_container_of_a_pod_is_left_out() {
        let annotations = [(SYSTEMD_ANNOTATION, "true"), ("systemd.usernsd.io/container.c", "false")];
        assert_eq!(plan(&plain(&annotations), &rules(), None), Ok(None));
        let other = Container { name: "other".into(), ..plain(&annotations) };
        assert!(plan(&other, &rules(), None).unwrap().is_some());
    }

    #[test]
    fn a_privileged_container_gets_its_own_cgroup_namespace() {
        let privileged = Container {
            cgroup_namespace: false,
            mounts: vec![mount("cgroup", "/sys/fs/cgroup", &["rw"])],
            ..plain(&[])
        };
        let adjustment = plan(&privileged, &rules(), None).unwrap().unwrap();
        assert!(adjustment.add_cgroup_namespace);
        assert_eq!(destinations(&adjustment), ["/sys/fs/cgroup"]);
        let off = AdjustRules { privileged_cgroup_namespace: false, ..rules() };
        assert_eq!(plan(&privileged, &off, None), Ok(None));
    }

    #[test]
    fn the_hosts_user_namespace_is_never_made_writable() {
        let host = |annotations: &[(&str, &str)]| Container { user_namespace: false, ..plain(annotations) };
        assert_eq!(
            plan(&host(&[(CGROUP_ANNOTATION, "writable")]), &rules(), None),
            Err(Ungranted::HostUserNamespace { annotation: CGROUP_ANNOTATION.into() })
        );
        assert_eq!(
            plan(&host(&[(SYSTEMD_ANNOTATION, "true")]), &rules(), None),
            Err(Ungranted::HostUserNamespace { annotation: SYSTEMD_ANNOTATION.into() })
        );
        assert_eq!(plan(&host(&[]), &rules(), None), Ok(None));
        let privileged = Container { cgroup_namespace: false, ..host(&[]) };
        assert_eq!(plan(&privileged, &rules(), None), Ok(None));
    }

    #[test]
    fn only_configured_namespaces_may_ask() {
        let rules = AdjustRules { namespaces: vec!["db".into(), "team-*".into()], ..rules() };
        let ask = |namespace: &str| {
            let mut container = plain(&[(CGROUP_ANNOTATION, "writable")]);
            container.pod.namespace = namespace.into();
            plan(&container, &rules, None)
        };
        assert!(ask("db").unwrap().is_some() && ask("team-b").unwrap().is_some());
        let refused = Err(Ungranted::Namespace { annotation: CGROUP_ANNOTATION.into() });
        assert_eq!(ask("db2"), refused);
        assert_eq!(ask(""), refused);
    }

    #[test]
    fn a_mistyped_value_is_reported() {
        let error = plan(&plain(&[(SYSTEMD_ANNOTATION, "yes")]), &rules(), None).unwrap_err();
        assert_eq!(error.to_string(), "annotation usernsd.io/systemd is \"yes\"; it may only be \"true\"");
        let hostile = "\u{202e}".repeat(500);
        let error = plan(&plain(&[(CGROUP_ANNOTATION, &hostile)]), &rules(), None).unwrap_err();
        assert!(error.to_string().len() < 500);
    }

    #[test]
    fn systemd_gets_the_owner_when_it_changes_it_itself() {
        let container = plain(&[(CGROUP_ANNOTATION, "writable")]);
        let adjustment = plan(&container, &rules(), Some(HostId(200_000))).unwrap().unwrap();
        assert_eq!(adjustment.annotations[SYSTEMD_USER_ANNOTATION], "'200000'");
        assert_eq!(plan(&plain(&[]), &rules(), Some(HostId(200_000))), Ok(None));
    }
}
