//! Symbolic links that are the content: a unit that is enabled or masked.

use rustix::fs::{AtFlags, FileType, fsync, readlinkat, renameat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::{HostError, HostRoot};
use usernsd_domain::provision::HostPath;

impl HostRoot {
    /// Where a symbolic link leads, or `None` where there is nothing.
    ///
    /// # Errors
    /// There is something that is no link, or see [`HostError`].
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

    /// Makes a symbolic link, or has one that is there lead elsewhere: made beside, renamed, and the
    /// directory synced. The directories above it must be there.
    ///
    /// # Errors
    /// See [`HostError`]; what was there still is.
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
            // Gone already where the rename was done and the sync failed.
            let _ = unlinkat(&dir, &name, AtFlags::empty());
            call(errno)
        })
    }
}
