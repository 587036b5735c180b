//! The kernel's word on which files of a cgroup go with it when it is handed over.

use std::path::{Path, PathBuf};

use thiserror::Error;

use usernsd_domain::cgroup::{DelegateList, DelegateListError};

/// Why the delegate list could not be read.
#[derive(Debug, Error)]
pub enum ReadListError {
    /// The file is there but unreadable.
    #[error("reading {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// The file does not hold a delegate list.
    #[error("{path}: {error}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: DelegateListError,
    },
}

/// Reads the kernel's delegate list below `sys` (`/sys`); the fallback of the OCI runtime
/// specification where the kernel publishes none.
///
/// # Errors
/// The file is unreadable or holds something else.
pub fn read_delegate_list(sys: &Path) -> Result<DelegateList, ReadListError> {
    let path = sys.join("kernel/cgroup/delegate");
    match std::fs::read_to_string(&path) {
        Ok(text) => DelegateList::parse(&text).map_err(|error| ReadListError::Content { path, error }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(DelegateList::fallback()),
        Err(error) => Err(ReadListError::Io { path, error }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_bad_list_is_named() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(read_delegate_list(sys.path()).unwrap(), DelegateList::fallback());
        fs::create_dir_all(sys.path().join("kernel/cgroup")).unwrap();
        fs::write(sys.path().join("kernel/cgroup/delegate"), "cgroup.procs\nmemory.max\n").unwrap();
        let error = read_delegate_list(sys.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("kernel/cgroup/delegate: line 2: \"memory.max\" must stay the host's"),
            "{error}"
        );
    }
}
