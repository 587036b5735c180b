//! Files that change together: if one of them cannot be replaced, those replaced before are restored.

use std::path::PathBuf;

use rustix::fs::{AtFlags, fsync, linkat, renameat, unlinkat};
use rustix::io::Errno;

use super::{Beside, HostError, HostRoot, names_in};
use usernsd_domain::provision::HostPath;

/// The old file under another name. Dropping it removes that name.
struct Backup<'a> {
    beside: &'a Beside,
    name: String,
    /// Whether there was an old file.
    is_there: bool,
}

impl HostRoot {
    /// Renames all files without anything in between, and syncs their directories.
    pub(super) fn take_place(&self, all: &[Beside]) -> Result<(), HostError> {
        let call = |beside: &Beside, errno| self.call("writing", &beside.path, errno);
        // A file that cannot be linked (immutable, a mount point) could not be replaced either: linking all first
        // finds such a file before the first one is replaced.
        let several = if all.len() > 1 { all } else { &[] };
        let kept = several
            .iter()
            .map(|beside| back_up(beside).map_err(|errno| call(beside, errno)))
            .collect::<Result<Vec<_>, _>>()?;
        for (index, beside) in all.iter().enumerate() {
            if let Err(errno) = renameat(&beside.from, &beside.name, &beside.dir, beside.path.name()) {
                return Err(self.put_back(kept.get(..index).unwrap_or_default(), call(beside, errno)));
            }
        }
        all.iter().try_for_each(|beside| fsync(&beside.dir).map_err(|errno| call(beside, errno)))
    }

    /// Restores the files that were replaced already.
    fn put_back(&self, replaced: &[Backup<'_>], error: HostError) -> HostError {
        let mut restored = Vec::new();
        for kept in replaced {
            let Beside { dir, path, .. } = kept.beside;
            let done = if kept.is_there {
                renameat(dir, &kept.name, dir, path.name())
            } else {
                unlinkat(dir, path.name(), AtFlags::empty())
            };
            let shown: PathBuf = self.shown(path);
            restored.push(match done.and_then(|()| fsync(dir)) {
                Ok(()) => format!("{} is what it was again", shown.display()),
                Err(errno) => format!(
                    "{} is changed already, and cannot be put back ({errno}): usernsd bootstrap --undo does it",
                    shown.display()
                ),
            });
        }
        if restored.is_empty() {
            error
        } else {
            HostError::Together { error: Box::new(error), what: restored.join("; ") }
        }
    }

    /// Whether a killed run has left an old or a new file next to this one.
    pub(super) fn has_leftovers(&self, path: &HostPath) -> bool {
        let Ok(dir) = self.open_dir(path, path.parent().as_ref()) else { return false };
        names_in(dir).is_ok_and(|names| leftovers(path).iter().any(|name| names.contains(name)))
    }

    /// Removes what a killed run has left next to a file, or in the directory where it is written first. Nobody else may
    /// write the file at the same time.
    pub fn remove_leftovers(&self, path: &HostPath, staging: Option<&HostPath>) {
        for directory in [path.parent().as_ref(), staging] {
            let Ok(dir) = self.open_dir(path, directory) else { continue };
            for name in leftovers(path) {
                // Usually there is none.
                let _ = unlinkat(&dir, name, AtFlags::empty());
            }
        }
    }
}

impl Drop for Backup<'_> {
    fn drop(&mut self) {
        // If it was restored, there is nothing to remove.
        let _ = unlinkat(&self.beside.dir, &self.name, AtFlags::empty());
    }
}

/// The names of an old and a new file that a killed run may have left.
pub(super) fn leftovers(path: &HostPath) -> [String; 2] {
    [name_of(path), name_of_new(path)]
}

/// Always the same name, so that the leftover of a killed run is found.
pub(super) fn name_of_new(path: &HostPath) -> String {
    format!(".{}.usernsd-new", path.name())
}

/// Always the same name, as for a new file.
fn name_of(path: &HostPath) -> String {
    format!(".{}.usernsd-old", path.name())
}

fn back_up(beside: &Beside) -> Result<Backup<'_>, Errno> {
    let Beside { dir, path, .. } = beside;
    let name = name_of(path);
    match unlinkat(dir, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let is_there = match linkat(dir, path.name(), dir, &name, AtFlags::empty()) {
        Ok(()) => true,
        Err(Errno::NOENT) => false,
        // The error that a rename would return: within a directory only a mount point is another file system.
        Err(Errno::XDEV) => return Err(Errno::BUSY),
        Err(errno) => return Err(errno),
    };
    Ok(Backup { beside, name, is_there })
}
