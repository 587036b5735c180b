//! Facts about the kernel's security modules, from the files that they offer.

use std::path::Path;

use usernsd_domain::security_module::SecurityModules;

/// Reads the files below a node's root; what cannot be read is left out.
#[must_use]
pub fn security_modules(root: &Path) -> SecurityModules {
    let read = |file: &str| std::fs::read_to_string(root.join(file)).ok();
    SecurityModules {
        active: read("sys/kernel/security/lsm"),
        profiles: read("sys/kernel/security/apparmor/profiles"),
        restrict_userns: read("proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        enforce: read("sys/fs/selinux/enforce"),
        manage_cgroup: read("sys/fs/selinux/booleans/container_manage_cgroup"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fact_is_read_from_its_file() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(security_modules(root.path()), SecurityModules::default());
        for file in [
            "sys/kernel/security/lsm",
            "sys/kernel/security/apparmor/profiles",
            "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "sys/fs/selinux/enforce",
            "sys/fs/selinux/booleans/container_manage_cgroup",
        ] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        let SecurityModules { active, profiles, restrict_userns, enforce, manage_cgroup } =
            security_modules(root.path());
        let names = [active, profiles, restrict_userns, enforce, manage_cgroup].map(Option::unwrap);
        let ends = names.each_ref().map(|name| name.rsplit('/').next().unwrap());
        assert_eq!(
            ends,
            [
                "lsm",
                "profiles",
                "apparmor_restrict_unprivileged_userns",
                "enforce",
                "container_manage_cgroup"
            ]
        );
    }
}
