//! Texts of the kernel's files, for checks.

use std::path::Path;

use usernsd_domain::check::kernel::{KernelFile, KernelFiles};

/// Reads the files below a node's root; a file that cannot be read is left out.
#[must_use]
pub fn kernel_files(root: &Path) -> KernelFiles {
    let read = |file: KernelFile| Some((file, std::fs::read_to_string(root.join(file.name())).ok()?));
    KernelFile::ALL.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths are those of the kernel and are written out here, so that a wrong one is noticed.
    const PATHS: [(KernelFile, &str); 5] = [
        (KernelFile::SecurityModules, "sys/kernel/security/lsm"),
        (KernelFile::ApparmorProfiles, "sys/kernel/security/apparmor/profiles"),
        (KernelFile::RestrictUserns, "proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        (KernelFile::SelinuxEnforce, "sys/fs/selinux/enforce"),
        (KernelFile::ManageCgroup, "sys/fs/selinux/booleans/container_manage_cgroup"),
    ];

    #[test]
    fn each_text_is_read_from_its_file() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(kernel_files(root.path()), KernelFiles::default());
        for (_, name) in PATHS {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let files = kernel_files(root.path());
        for (file, name) in PATHS {
            assert_eq!(files.text(file), Some(name), "{file:?}");
        }
        assert_eq!(PATHS.map(|(file, _)| file), KernelFile::ALL);
    }
}
