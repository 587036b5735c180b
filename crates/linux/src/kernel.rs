//! Facts about the kernel, from the host's `/proc`.
//!
//! Whether a file system supports ID-mapped mounts is left unknown here, except for types that never do;
//! [`idmap`](super::idmap) tries the others.

use std::path::Path;

use usernsd_domain::kernel::{CgroupSetup, Kernel, MountTable};

/// Directories whose file systems contain pods' files.
const STORES: [&str; 8] = [
    "/var/lib/kubelet",
    "/var/lib/containers/storage",
    "/var/lib/containerd",
    // k3s, RKE2, k0s, MicroK8s.
    "/var/lib/rancher/k3s/agent/containerd",
    "/var/lib/rancher/rke2/agent/containerd",
    "/var/lib/k0s/kubelet",
    "/var/lib/k0s/containerd",
    "/var/snap/microk8s/common/var/lib/containerd",
];

/// Reads the facts; a missing file is a fact, too.
#[must_use]
pub fn read(proc: &Path, has: impl Fn(&str) -> bool) -> Kernel {
    let text = |file: &str| std::fs::read_to_string(proc.join(file)).ok();
    let mounts = text("1/mountinfo").map(|text| MountTable::parse(&text));
    Kernel {
        max_user_namespaces: text("sys/user/max_user_namespaces").and_then(|text| text.trim().parse().ok()),
        cgroup: mounts.as_ref().map_or(CgroupSetup::Unknown, MountTable::cgroup),
        psi: Some(proc.join("pressure/cpu").exists()),
        stores: STORES
            .into_iter()
            .filter(|store| has(store))
            .filter_map(|store| mounts.as_ref()?.store(store))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there() {
        let proc = tempfile::tempdir().unwrap();
        let nothing = read(proc.path(), |_| true);
        assert_eq!((nothing.max_user_namespaces, nothing.cgroup), (None, CgroupSetup::Unknown));
        for (file, text) in [
            ("sys/user/max_user_namespaces", "63432\n"),
            ("pressure/cpu", ""),
            (
                "1/mountinfo",
                "1 0 8:1 / / rw - xfs /dev/sda rw\n2 1 0:2 / /sys/fs/cgroup rw - cgroup2 c rw,nsdelegate\n",
            ),
        ] {
            let path = proc.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let found = read(proc.path(), |store| store == "/var/lib/kubelet");
        assert_eq!(found.max_user_namespaces, Some(63432));
        assert_eq!(found.cgroup, CgroupSetup::Unified { nsdelegate: true });
        assert_eq!(found.psi, Some(true));
        assert_eq!(found.stores.len(), 1);
        assert_eq!(found.stores[0].kind, "xfs");
    }
}
