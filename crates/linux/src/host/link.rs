//! Symbolic links whose target is what matters: an enabled or masked unit.

use rustix::fs::{AtFlags, FileType, fsync, readlinkat, renameat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::{HostError, HostRoot};
use usernsd_domain::provision::HostPath;

impl HostRoot {
    /// The target of a symbolic link; `None` if nothing exists there.
    ///
    /// # Errors
    /// There is something that is not a link, or see [`HostError`].
    pub fn link_target(&self, path: &HostPath) -> Result<Option<Vec<u8>>, HostError> {
        let call = |errno| self.call("reading", path, errno);
        let dir = match self.open_dir(path, path.parent().as_ref()) {
            Err(HostError::Call { errno: Errno::NOENT | Errno::NOTDIR, .. }) => return Ok(None),
            dir => dir?,
        };
        match readlinkat(&dir, path.name(), Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::INVAL) => Err(HostError::NotALink { path: self.shown(path) }),
            Err(errno) => Err(call(errno)),
        }
    }

    /// Creates or replaces a symbolic link: created next to it, renamed, and the directory synced. The directories
    /// above must exist.
    ///
    /// # Errors
    /// See [`HostError`]; nothing is changed.
    pub fn link(&self, path: &HostPath, target: &[u8]) -> Result<(), HostError> {
        let call = |errno| self.call("writing", path, errno);
        let dir = self.open_dir(path, path.parent().as_ref())?;
        match statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {}
            Ok(_) => return Err(HostError::NotALink { path: self.shown(path) }),
            Err(errno) => return Err(call(errno)),
        }
        let name = format!(".{}.usernsd-new", path.name());
        match unlinkat(&dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(call(errno)),
        }
        let done = symlinkat(target, &dir, &name)
            .and_then(|()| renameat(&dir, &name, &dir, path.name()))
            .and_then(|()| fsync(&dir));
        done.map_err(|errno| {
            // If the rename succeeded and the sync failed, there is nothing to remove.
            let _ = unlinkat(&dir, &name, AtFlags::empty());
            call(errno)
        })
    }
}
