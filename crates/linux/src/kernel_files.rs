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

    #[test]
    fn each_text_is_read_from_its_file() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(kernel_files(root.path()), KernelFiles::default());
        for file in KernelFile::ALL {
            let path = root.path().join(file.name());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file.name()).unwrap();
        }
        let files = kernel_files(root.path());
        for file in KernelFile::ALL {
            assert_eq!(files.text(file), Some(file.name()));
        }
    }
}
