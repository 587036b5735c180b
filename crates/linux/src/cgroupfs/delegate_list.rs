//! The kernel's list of the files that belong to a cgroup's owner.

use std::path::{Path, PathBuf};

use thiserror::Error;

use usernsd_domain::cgroup::{DelegateList, DelegateListError};

/// Why the delegate list could not be read.
#[derive(Debug, Error)]
pub enum ReadListError {
    /// The file exists but cannot be read.
    #[error("reading {path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    /// The file does not contain a delegate list.
    #[error("{path}: {error}")]
    Content { path: PathBuf, error: DelegateListError },
}

/// Reads the kernel's delegate list below `sys` (`/sys`); `None` if the kernel publishes none.
///
/// # Errors
/// The file is unreadable or holds something else.
pub fn read_delegate_list(sys: &Path) -> Result<Option<DelegateList>, ReadListError> {
    let path = sys.join("kernel/cgroup/delegate");
    match std::fs::read_to_string(&path) {
        Ok(text) => match DelegateList::parse(&text) {
            Ok(list) => Ok(Some(list)),
            Err(error) => Err(ReadListError::Content { path, error }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ReadListError::Io { path, error }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_invalid_list_is_an_error_that_names_the_file() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(read_delegate_list(sys.path()).unwrap(), None);
        fs::create_dir_all(sys.path().join("kernel/cgroup")).unwrap();
        fs::write(sys.path().join("kernel/cgroup/delegate"), "cgroup.procs\nmemory.max\n").unwrap();
        let error = read_delegate_list(sys.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("kernel/cgroup/delegate: line 2: \"memory.max\" must stay the host's"),
            "{error}"
        );
    }
}
