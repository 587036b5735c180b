//! A directory for a copy of configuration, which a runtime's own program reads.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use usernsd_linux::host::take_type;

/// The directory. It is removed, with what is in it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

// === impl Scratch ===

impl Scratch {
    /// Makes the directory, which only root may enter. With SELinux it has the type of `like`, where the configuration is:
    /// what a service makes in `/run` has one that a runtime may not read.
    pub(crate) fn new(path: PathBuf, like: &Path) -> io::Result<Self> {
        // If it is there already, what a killed process left is removed.
        let scratch = Self(path);
        DirBuilder::new().mode(0o700).create(&scratch.0)?;
        take_type(&scratch.0, like);
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Something else may have removed it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
