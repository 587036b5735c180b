//! Drop-in user records (nss-systemd(8), userdbd's `/run/userdb`), with which systemd can resolve a container's
//! mapped root and make it a scope's owner when it creates the scope.

use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use usernsd_domain::idmap::HostId;

/// The host's `/run/userdb`.
#[derive(Debug, Clone)]
pub struct UserDb {
    directory: PathBuf,
}

/// Prefix of this agent's records.
const PREFIX: &str = "usernsd-";

// === impl UserDb ===

impl UserDb {
    /// The records below `host_root`.
    #[must_use]
    pub fn new(host_root: &Path) -> UserDb {
        UserDb { directory: host_root.join("run/userdb") }
    }

    /// The directory of the records.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The user name in the record of `owner`.
    #[must_use]
    pub fn name_of(owner: HostId) -> String {
        format!("{PREFIX}{owner}")
    }

    /// Adds the record of `owner`. An existing record is kept.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn put(&self, owner: HostId) -> io::Result<()> {
        match std::fs::DirBuilder::new().mode(0o755).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let name = UserDb::name_of(owner);
        let record = self.directory.join(format!("{name}.user"));
        if !record.exists() {
            // Written atomically: it may be read at any time. Not synced: nothing in /run survives a power failure.
            let unfinished = self.directory.join(format!(".{name}.{}", std::process::id()));
            std::fs::write(
                &unfinished,
                format!(
                    "{{\"userName\":\"{name}\",\"uid\":{owner},\"gid\":{owner},\"disposition\":\"container\",\
                     \"realName\":\"Root of a container with user namespace\"}}\n"
                ),
            )?;
            std::fs::rename(&unfinished, &record)?;
        }
        match symlink(format!("{name}.user"), self.directory.join(format!("{owner}.user"))) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes the record of `owner`.
    ///
    /// # Errors
    /// The directory cannot be written. A missing record is not an error.
    pub fn remove(&self, owner: HostId) -> io::Result<()> {
        for file in [format!("{owner}.user"), format!("{}.user", UserDb::name_of(owner))] {
            match std::fs::remove_file(self.directory.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Removes this agent's records that are older than `age`: their pods ended while it was not running, or have
    /// started their containers long ago.
    ///
    /// # Errors
    /// The directory cannot be read or written; a missing one is not an error.
    pub fn sweep(&self, age: Duration) -> io::Result<usize> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let owner =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(".user")?.parse().ok());
            let old = entry.metadata()?.modified()?.elapsed().is_ok_and(|since| since > age);
            if let Some(owner) = owner
                && old
            {
                self.remove(HostId(owner))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_added_and_removed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("run")).unwrap();
        let userdb = UserDb::new(root.path());
        let owner = HostId(200_000);
        userdb.put(owner).unwrap();
        userdb.put(owner).unwrap();
        let by_number = root.path().join("run/userdb/200000.user");
        let record: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&by_number).unwrap()).unwrap();
        assert_eq!((&record["uid"], &record["userName"]), (&200_000.into(), &"usernsd-200000".into()));
        std::fs::write(root.path().join("run/userdb/other.user"), "{}").unwrap();
        assert_eq!(userdb.sweep(Duration::from_secs(3600)).unwrap(), 0);
        assert_eq!(userdb.sweep(Duration::ZERO).unwrap(), 1);
        assert!(!by_number.is_symlink());
        assert_eq!(std::fs::read_dir(root.path().join("run/userdb")).unwrap().count(), 1);
        userdb.remove(owner).unwrap();
    }

    #[test]
    fn a_missing_directory_is_an_error_only_for_writing() {
        let root = tempfile::tempdir().unwrap();
        let userdb = UserDb::new(root.path());
        assert!(userdb.put(HostId(1)).is_err());
        assert_eq!(userdb.sweep(Duration::ZERO).unwrap(), 0);
        userdb.remove(HostId(1)).unwrap();
    }
}
