//! The parts of a pod and its containers that the rules read. Everything else in a runtime's message can be
//! skipped: a pod's author controls the number of variables, annotations and mounts.

use super::adjust;

/// Whether an annotation with this key can be a request.
#[must_use]
pub fn annotation(key: &str) -> bool {
    adjust::is_ours(key)
}

/// Whether a mount at this destination matters for an adjustment ([`super::adjust::plan`]).
#[must_use]
pub fn mount(destination: &str) -> bool {
    const READ: [&str; 5] = ["/sys/fs/cgroup", "/run", "/run/lock", "/tmp", "/var/log/journal"];
    READ.contains(&destination.trim_end_matches('/'))
}

/// Whether it matters that this environment variable is set.
#[must_use]
pub fn variable(name: &[u8]) -> bool {
    name == b"container"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::adjust::AdjustRules;
    use crate::container::{Container, CriId, Mount, PodRef, SpecifiedNamespaces};

    #[test]
    fn every_annotation_that_asks_is_kept() {
        for key in [adjust::CGROUP_ANNOTATION, adjust::SYSTEMD_ANNOTATION]
            .into_iter()
            .chain(adjust::CRIO_ANNOTATIONS)
            .chain(["io.kubernetes.cri-o.userns-mode", "userns-mode.crio.io"])
            .chain(["cgroup.usernsd.io/container.web", "writable-cgroups.noderesource.dev/pod"])
        {
            assert!(annotation(key), "{key}");
        }
        for key in ["", "kubernetes.io/config.seen", "xusernsd.io/cgroup", "usernsd.test/mode"] {
            assert!(!annotation(key), "{key}");
        }
    }

    /// An adjustment is only added if it is not there already.
    #[test]
    fn every_mount_and_variable_of_an_adjustment_is_kept() {
        let container = Container {
            id: CriId::parse("a").unwrap(),
            sandbox_id: String::new(),
            name: String::new(),
            pod: PodRef::default(),
            annotations: BTreeMap::from([(adjust::SYSTEMD_ANNOTATION.to_owned(), "true".to_owned())]).into(),
            pid: None,
            cgroups_path: String::new(),
            user_namespace: true,
            cgroup_namespace: false,
            mounts: vec![Mount::default()],
            specified: SpecifiedNamespaces::default(),
            process_uid: None,
            env_names: vec![],
        };
        let rules = AdjustRules { namespaces: vec!["*".into()], privileged_cgroup_namespace: true };
        let adjustment = adjust::plan(&container, &rules, None).unwrap().unwrap();
        assert!(adjustment.mounts.len() == 5 && adjustment.env.len() == 1);
        assert!(adjustment.mounts.iter().all(|change| mount(&change.mount.destination)));
        assert!(adjustment.env.iter().all(|(name, _)| variable(name.as_bytes())));
        assert!(mount("/sys/fs/cgroup/") && !mount("/etc/hosts") && !variable(b"containers"));
    }
}
