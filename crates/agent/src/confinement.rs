//! How agent and launched plugin give up privileges that they do not need: the capability to inspect other
//! processes moves to a separate process, and files can be written in a few directories only.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use usernsd_domain::privilege::{KEPT, OBSERVERS};
use usernsd_linux::host::reader::{self, Reader, ReaderError, RequestedKind};
use usernsd_linux::landlock::{Enforced, LandlockError, WritableDirectory};
use usernsd_linux::privilege::{self, PrivilegeError};
use usernsd_linux::proc::Proc;
use usernsd_linux::proc::observer::{OWN_PROGRAM, Observer, ObserverError};
use usernsd_prepare::runtime_files;

/// Why a process is not confined as it should be.
#[derive(Debug, Error)]
pub enum ConfinementError {
    /// The observer could not be started.
    #[error(transparent)]
    Observer(#[from] ObserverError),
    /// The reader could not be started.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// Capabilities could not be dropped.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// Writing could not be restricted.
    #[error(transparent)]
    Landlock(#[from] LandlockError),
}

/// The process that holds the capability to inspect others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// The observer, a separate process.
    Apart,
    /// This process, because /proc hides processes from those without the capability.
    Together,
}

/// The part of the confinement that could not be enforced, for a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Nothing, apart from what the kernel cannot enforce.
    Nothing,
    /// Files can be written anywhere.
    Files,
    /// Files can be written anywhere, and so can the memory of other processes.
    Memory,
}

/// Starts the observer. Must be called before another thread exists.
///
/// # Errors
/// See [`ConfinementError`].
pub fn split(proc: &Proc) -> Result<Split, ConfinementError> {
    if proc.hides_processes() {
        return Ok(Split::Together);
    }
    Observer::start(Path::new(OWN_PROGRAM), proc.root())?.install();
    Ok(Split::Apart)
}

/// What the agent itself reads on a node whose root is its own: processes, cgroups, programs, the runtimes' sockets and
/// bundles, and bootstrap's results. Not the keys, secrets and databases below `/var/lib`.
const OWN_ROOT: [&str; 7] = ["/proc", "/sys", "/usr", "/lib", "/opt", "/run", "/var/lib/usernsd"];

/// Starts the reader, a process that reads a few files below `root` for this one. Must be called before another
/// thread exists. Returns the paths that this process still reads by itself, for [`confine`]: in a container,
/// whose mounts are all that it sees of the node, everything except the node's `/etc`.
///
/// # Errors
/// See [`ConfinementError`].
pub fn read_by_another(root: &Path) -> Result<Vec<PathBuf>, ConfinementError> {
    Reader::start(Path::new(OWN_PROGRAM), root)?.install();
    runtime_files::read_by(|path, is_directory| {
        let what = if is_directory { RequestedKind::Directory } else { RequestedKind::File };
        let reader = reader::installed().ok_or(Errno::ACCESS)?;
        reader.read(what, path)
    });
    if root == Path::new("/") {
        return Ok(OWN_ROOT.map(PathBuf::from).into());
    }
    Ok(all_but(&root.join("etc")))
}

/// The paths of everything outside a directory, as few as possible. Symbolic links are left out, because
/// their targets are listed themselves.
fn all_but(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (parent, next) in directory.ancestors().skip(1).zip(directory.ancestors()) {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        let is_link = |path: &PathBuf| path.symlink_metadata().is_ok_and(|found| found.is_symlink());
        found.extend(entries.map(|entry| entry.path()).filter(|path| path != next && !is_link(path)));
    }
    found
}

/// Gives up the capabilities, writing outside of `places` and reading outside of `readable`, irrevocably.
/// Must be called before another thread exists.
///
/// # Errors
/// See [`ConfinementError`].
pub fn confine(
    split: Split,
    places: &[WritableDirectory],
    readable: Option<&[PathBuf]>,
) -> Result<Open, ConfinementError> {
    match split {
        Split::Apart => privilege::keep_only(&KEPT)?,
        Split::Together => {
            privilege::keep_only(&[&KEPT[..], &OBSERVERS].concat())?;
            return Ok(Open::Memory);
        }
    }
    Ok(match usernsd_linux::landlock::confine(places, readable)? {
        Enforced::Fully | Enforced::Older => Open::Nothing,
        Enforced::Not => Open::Files,
    })
}

// === impl Open ===

impl Open {
    /// A warning with the remedy.
    #[must_use]
    pub fn warning(self) -> Option<&'static str> {
        match self {
            Open::Nothing => None,
            Open::Files => Some(
                "this kernel does not restrict where usernsd may write: it has no Landlock, or \"landlock\" is not \
                 among its security modules (the kernel parameter lsm=)",
            ),
            Open::Memory => Some(
                "/proc is mounted with hidepid= and gid=, or with hidepid=ptraceable: to see the node's processes \
                 usernsd keeps CAP_SYS_PTRACE to itself and writes without bounds; mount /proc without them",
            ),
        }
    }
}
