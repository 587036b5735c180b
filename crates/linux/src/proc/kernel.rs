//! Facts about the kernel, from the host's `/proc`.
//!
//! Whether a file system supports ID-mapped mounts is left unknown here, except for types that never do;
//! [`mount_idmap`](crate::mount_idmap) tries the others.

use super::Proc;
use usernsd_domain::kernel::{CgroupSetup, Kernel, MountTable};
use usernsd_domain::mounts::hides_processes;

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

impl Proc {
    /// Reads the facts about the kernel; a missing file is a fact, too. `has` answers whether a directory exists on
    /// the host; `moved` are those with pods' files besides the usual ones.
    #[must_use]
    pub fn kernel(&self, moved: &[&str], has: impl Fn(&str) -> bool) -> Kernel {
        let table = std::fs::read_to_string(self.root.join("1/mountinfo")).ok();
        let mounts = table.as_deref().map(MountTable::parse);
        Kernel {
            max_user_namespaces: self.max_user_namespaces().ok(),
            at_boot: None,
            cgroup: mounts.as_ref().map_or(CgroupSetup::Unknown, MountTable::cgroup),
            hides_processes: table.as_deref().map(|table| hides_processes(table, "/proc")),
            psi: Some(self.root.join("pressure/cpu").exists()),
            stores: STORES
                .into_iter()
                .chain(moved.iter().copied().filter(|moved| !STORES.contains(moved)))
                .filter(|store| has(store))
                .filter_map(|store| mounts.as_ref()?.store(store))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_files_that_exist() {
        let proc = tempfile::tempdir().unwrap();
        let nothing = Proc::new(proc.path()).kernel(&[], |_| true);
        assert_eq!((nothing.max_user_namespaces, nothing.cgroup), (None, CgroupSetup::Unknown));
        assert_eq!(nothing.hides_processes, None);
        for (file, text) in [
            ("sys/user/max_user_namespaces", "63432\n"),
            ("pressure/cpu", ""),
            (
                "1/mountinfo",
                "1 0 8:1 / / rw - xfs /dev/sda rw\n2 1 0:2 / /sys/fs/cgroup rw - cgroup2 c rw,nsdelegate\n\
                 3 1 0:3 / /proc rw - proc proc rw,gid=27,hidepid=invisible\n",
            ),
        ] {
            let path = proc.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let found = Proc::new(proc.path()).kernel(&[], |store| store == "/var/lib/kubelet");
        assert_eq!(found.max_user_namespaces, Some(63432));
        assert_eq!(found.cgroup, CgroupSetup::Unified { nsdelegate: true });
        assert_eq!((found.psi, found.hides_processes), (Some(true), Some(true)));
        assert_eq!(found.stores.len(), 1);
        assert_eq!(found.stores[0].kind, "xfs");
        // A directory to which an administrator has moved one.
        let moved =
            |directory: &str| Proc::new(proc.path()).kernel(&[directory], |store| store != "/data").stores;
        assert!(moved("/data/containers").iter().any(|store| store.path == "/data/containers"));
        assert_eq!(moved("/var/lib/containerd").len(), moved("/data").len());
    }
}
