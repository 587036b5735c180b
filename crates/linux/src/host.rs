//! The node's files, through one handle on its root.
//!
//! Reading follows links, but never out of the root; writing follows none. A file is replaced as a
//! whole: written beside, synced, renamed, and its directory synced, so that it is the old one or the
//! new one whenever the power fails.

mod link;
mod lock;
mod program;
pub mod reader;
#[cfg(test)]
mod tests;
mod together;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, fchmod, fchown, fgetxattr,
    fsetxattr, fstat, fsync, mkdirat, openat, openat2, statat, unlinkat,
};
use rustix::io::Errno;
use thiserror::Error;

use self::reader::What;

pub use lock::{PasswordLock, ShadowLock, TaskLock};
pub use program::OwnProgram;

use usernsd_domain::provision::{Attributes, HostPath};

/// No file that is read here is longer than this; a larger one is something else.
const MAX_BYTES: u64 = 16 << 20;
/// No directory that is listed here has more entries.
const MAX_ENTRIES: usize = 100_000;
const LABEL: &str = "security.selinux";

/// The node's root directory.
#[derive(Debug)]
pub struct HostRoot {
    path: PathBuf,
    dir: OwnedFd,
    /// Files that were written and could not get their label.
    unlabelled: Mutex<Vec<HostPath>>,
}

/// Why a file of the node could not be read or written. Where it was about to be written, it is
/// still what it was.
#[derive(Debug, Error)]
pub enum HostError {
    /// A system call failed.
    #[error("{doing} {}: {errno}{}", path.display(), remedy(*errno))]
    Call {
        /// What was tried, with a gerund.
        doing: &'static str,
        /// The file or directory as this process sees it.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// It is, or its directory is, a symbolic link.
    #[error(
        "writing {}: a symbolic link leads elsewhere, and what it leads to belongs to someone else; \
         make it a file of its own, or change it where it comes from",
        path.display()
    )]
    Link {
        /// The file as this process sees it.
        path: PathBuf,
    },
    /// It is to be a symbolic link, and there is something else in its place.
    #[error("{} is no symbolic link, and one is to be there; move it away", path.display())]
    NotALink {
        /// What is there as this process sees it.
        path: PathBuf,
    },
    /// It is no regular file.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The file as this process sees it.
        path: PathBuf,
    },
    /// It is far larger than such a file is.
    #[error("{} is longer than 16 MiB", path.display())]
    TooLong {
        /// The file as this process sees it.
        path: PathBuf,
    },
    /// It is one of several that change together, and those before it had changed.
    #[error("{error}; {what}")]
    Together {
        /// What went wrong.
        error: Box<HostError>,
        /// What became of those before it.
        what: String,
    },
    /// A process holds the lock.
    #[error(
        "{} has been held by process {pid} for {seconds} s; wait for it to end, or remove the file if that \
         process is none of shadow-utils",
        path.display()
    )]
    Locked {
        /// The lock as this process sees it.
        path: PathBuf,
        /// Its holder; 0 where that cannot be told.
        pid: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// There is a lock, but it names no process.
    #[error("{} names no process; remove it if no useradd, usermod or vipw is running", path.display())]
    BadLock {
        /// The lock as this process sees it.
        path: PathBuf,
    },
}

/// What an administrator can do about it.
fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ROFS => {
            "; on an image-based system say it in the system's own configuration (MachineConfig, Ignition), \
             elsewhere mount it read-write"
        }
        Errno::BUSY => "; it is a mount point of its own: mount its directory, not the file",
        Errno::NOSPC | Errno::DQUOT => "; make room and try again, the file is what it was",
        Errno::ACCESS | Errno::PERM => {
            "; this takes root, and a file without the immutable attribute (lsattr)"
        }
        Errno::XDEV => "; both directories must be on one file system, without a link out of the root",
        _ => "",
    }
}

// === impl HostRoot ===

impl HostRoot {
    /// Opens the root directory of the node as this process sees it, `/` or `/host`.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn open(path: &Path) -> Result<HostRoot, HostError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, path, flags, Mode::empty()).map_err(|errno| HostError::Call {
            doing: "opening",
            path: path.to_owned(),
            errno,
        })?;
        Ok(HostRoot { path: path.to_owned(), dir, unlabelled: Mutex::default() })
    }

    /// The root itself, as this process sees it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Files that were written since the last call and could not get their SELinux label: to set it takes
    /// CAP_SYS_ADMIN where SELinux is off.
    pub fn take_unlabelled(&self) -> Vec<HostPath> {
        std::mem::take(&mut *self.unlabelled.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A path as this process sees it, for people.
    #[must_use]
    pub fn shown(&self, path: &HostPath) -> PathBuf {
        self.path.join(path.as_str())
    }

    /// The content of a file, or `None` where there is none. Follows links within the root.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn read(&self, path: &HostPath) -> Result<Option<Vec<u8>>, HostError> {
        let call = |errno| self.call("reading", path, errno);
        let file = match self.open_to_read(path) {
            Err(HostError::Call { errno: Errno::ACCESS, .. }) if reader::installed().is_some() => {
                return self.read_by_reader(path);
            }
            file => file?,
        };
        let Some(file) = file else { return Ok(None) };
        if FileType::from_raw_mode(fstat(&file).map_err(call)?.st_mode) != FileType::RegularFile {
            return Err(HostError::NotAFile { path: self.shown(path) });
        }
        let mut bytes = Vec::new();
        File::from(file)
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| call(errno_of(&error)))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(HostError::TooLong { path: self.shown(path) });
        }
        Ok(Some(bytes))
    }

    /// The same of a file that this process may not open. One that the reader does not give away is for the
    /// agent none.
    fn read_by_reader(&self, path: &HostPath) -> Result<Option<Vec<u8>>, HostError> {
        let asked = reader::installed().ok_or(Errno::ACCESS);
        match asked.and_then(|reader| reader.read(What::File, path.as_str())) {
            Ok(bytes) if bytes.len() as u64 > MAX_BYTES => Err(HostError::TooLong { path: self.shown(path) }),
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
            Err(Errno::ISDIR | Errno::INVAL) => Err(HostError::NotAFile { path: self.shown(path) }),
            Err(errno) => Err(self.call("reading", path, errno)),
        }
    }

    /// Mode, owner and label of a file, or `None` where there is none. Follows links within the root.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn attributes(&self, path: &HostPath) -> Result<Option<Attributes>, HostError> {
        let call = |errno| self.call("reading", path, errno);
        let file = match self.open_to_read(path) {
            // Where the reader reads, the label is of no use: nothing is written there.
            Err(HostError::Call { errno: Errno::ACCESS, .. }) if reader::installed().is_some() => {
                let Some(handle) = self.handle(path)? else { return Ok(None) };
                return Ok(Some(attributes_of(&fstat(&handle).map_err(call)?, None)));
            }
            file => file?,
        };
        let Some(file) = file else { return Ok(None) };
        let stat = fstat(&file).map_err(call)?;
        Ok(Some(attributes_of(&stat, label_of(&file).map_err(call)?)))
    }

    /// When a file or directory was last changed, its content or its inode: a rename changes only the
    /// latter. `None` where there is none.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn changed_at(&self, path: &HostPath) -> Result<Option<SystemTime>, HostError> {
        let Some(file) = self.handle(path)? else { return Ok(None) };
        let stat = fstat(&file).map_err(|errno| self.call("reading", path, errno))?;
        let at = |seconds: i64, nanos: u64| {
            let nanos = Duration::from_nanos(nanos);
            u64::try_from(seconds)
                .ok()
                .map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + nanos)
        };
        Ok(at(stat.st_mtime, stat.st_mtime_nsec).max(at(stat.st_ctime, stat.st_ctime_nsec)))
    }

    /// Whether there is anything of that name; what a link within the root leads to counts.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn has(&self, path: &HostPath) -> Result<bool, HostError> {
        Ok(self.handle(path)?.is_some())
    }

    /// Whether there is a directory of that name. Follows links within the root.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn is_dir(&self, path: &HostPath) -> Result<bool, HostError> {
        let Some(handle) = self.handle(path)? else { return Ok(false) };
        let stat = fstat(handle).map_err(|errno| self.call("reading", path, errno))?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// A handle on whatever is at a path, or `None` where nothing is. Follows links within the root.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn handle(&self, path: &HostPath) -> Result<Option<OwnedFd>, HostError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.dir, path.as_str(), flags, Mode::empty(), resolve) {
            Ok(handle) => Ok(Some(handle)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.call("looking for", path, errno)),
        }
    }

    /// The names in a directory, sorted; none where there is no such directory. Names that are not
    /// UTF-8 are left out.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn list(&self, path: &HostPath) -> Result<Vec<String>, HostError> {
        let call = |errno| self.call("listing", path, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let dir = match openat2(&self.dir, path.as_str(), flags, Mode::empty(), resolve) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            dir => dir,
        };
        let mut names = match (dir, reader::installed()) {
            (Err(Errno::ACCESS), Some(reader)) => {
                let names = reader.read(What::Directory, path.as_str()).map_err(call)?;
                let names = String::from_utf8_lossy(&names).into_owned();
                names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect()
            }
            (dir, _) => names_in(dir.map_err(call)?).map_err(call)?,
        };
        names.sort();
        Ok(names)
    }

    /// Replaces a file, or makes it: written beside (in `staging` where that is named), synced,
    /// renamed, and the directory synced. It keeps the old file's mode, owner and label; a new one
    /// gets `new`. The directories above it must be there.
    ///
    /// # Errors
    /// See [`HostError`]; the file is still the old one.
    pub fn replace(
        &self,
        path: &HostPath,
        bytes: &[u8],
        new: &Attributes,
        staging: Option<&HostPath>,
    ) -> Result<(), HostError> {
        self.take_place(&[self.bytes_beside(path, bytes, new, false, staging)?])
    }

    /// The same, and the old file gets the mode of `new` too.
    ///
    /// # Errors
    /// See [`HostError`]; the file is still the old one.
    pub fn replace_with_mode(
        &self,
        path: &HostPath,
        bytes: &[u8],
        new: &Attributes,
        staging: Option<&HostPath>,
    ) -> Result<(), HostError> {
        self.take_place(&[self.bytes_beside(path, bytes, new, true, staging)?])
    }

    /// Replaces several files that nobody should see apart, each as [`HostRoot::replace`] does: all are
    /// written and synced before the first takes its place, and nothing but renames is in between.
    ///
    /// # Errors
    /// See [`HostError`]; all of them are still the old ones, unless [`HostError::Together`] says otherwise.
    pub fn replace_together(&self, files: &[(&HostPath, &[u8], &Attributes)]) -> Result<(), HostError> {
        let beside = |(path, bytes, new): &(&HostPath, &[u8], &Attributes)| {
            self.bytes_beside(path, bytes, new, false, None)
        };
        self.take_place(&files.iter().map(beside).collect::<Result<Vec<_>, _>>()?)
    }

    fn bytes_beside(
        &self,
        path: &HostPath,
        bytes: &[u8],
        new: &Attributes,
        exact: bool,
        staging: Option<&HostPath>,
    ) -> Result<Beside, HostError> {
        // Nothing could read it again: no journal, no next run.
        if bytes.len() as u64 > MAX_BYTES {
            return Err(HostError::TooLong { path: self.shown(path) });
        }
        self.beside(path, new, exact, staging, &mut |file| {
            file.write_all(bytes).map_err(|error| errno_of(&error))
        })
    }

    /// `exact`: the mode is that of `new`, whatever the old file's.
    fn beside(
        &self,
        path: &HostPath,
        new: &Attributes,
        exact: bool,
        staging: Option<&HostPath>,
        fill: &mut dyn FnMut(&mut File) -> Result<(), Errno>,
    ) -> Result<Beside, HostError> {
        let call = |errno| self.call("writing", path, errno);
        let dir = self.open_dir(path, path.parent().as_ref())?;
        let mut like = new.clone();
        match statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(call(errno)),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    let old = self.attributes(path)?;
                    like = attributes_of(&stat, old.and_then(|old| old.label));
                    like.mode = if exact { new.mode } else { like.mode };
                }
                FileType::Symlink => return Err(HostError::Link { path: self.shown(path) }),
                _ => return Err(HostError::NotAFile { path: self.shown(path) }),
            },
        }
        let from = match staging {
            None => self.open_dir(path, path.parent().as_ref())?,
            Some(staging) => self.open_dir(path, Some(staging))?,
        };
        if staging.is_some() && like.label.is_none() {
            // The kernel labels by the directory in which a file is made.
            like.label = label_of(&dir).map_err(call)?;
        }
        // The name is always the same, so that what a killed run has left is found here.
        let name = format!(".{}.usernsd-new", path.name());
        let beside = Beside { from, name, dir, path: path.clone() };
        let is_labelled = write_beside(&beside.from, &beside.name, fill, &like).map_err(call)?;
        if !is_labelled {
            self.unlabelled.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        }
        Ok(beside)
    }

    /// Writes to a file that is there, as it is: for settings of the kernel, which are no files.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn write_in_place(&self, path: &HostPath, bytes: &[u8]) -> Result<(), HostError> {
        let call = |errno| self.call("setting", path, errno);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let file = openat2(&self.dir, path.as_str(), flags, Mode::empty(), resolve).map_err(call)?;
        File::from(file).write_all(bytes).map_err(|error| call(errno_of(&error)))
    }

    /// Removes a file, durably; one that is not there is no error.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn remove(&self, path: &HostPath) -> Result<(), HostError> {
        let dir = match self.open_dir(path, path.parent().as_ref()) {
            Err(HostError::Call { errno: Errno::NOENT, .. }) => return Ok(()),
            dir => dir?,
        };
        match unlinkat(&dir, path.name(), AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => done.and_then(|()| fsync(&dir)).map_err(|errno| self.call("removing", path, errno)),
        }
    }

    /// Makes a directory and those above it, root's, with that mode; says which were not there.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn make_dirs(&self, path: &HostPath, mode: u32) -> Result<Vec<HostPath>, HostError> {
        let mut made = Vec::new();
        if let Some(parent) = path.parent() {
            made = self.make_dirs(&parent, mode)?;
        }
        let above = self.open_dir(path, path.parent().as_ref())?;
        match mkdirat(&above, path.name(), Mode::from_raw_mode(mode)) {
            Err(Errno::EXIST) => {}
            // Read-only, but there.
            Err(Errno::ROFS) if self.open_dir(path, Some(path)).is_ok() => {}
            done => {
                let call = |errno| self.call("making", path, errno);
                done.map_err(call)?;
                // Whatever this process' umask is.
                let new = self.open_dir(path, Some(path))?;
                fchmod(&new, Mode::from_raw_mode(mode)).and_then(|()| fsync(&above)).map_err(call)?;
                made.push(path.clone());
            }
        }
        Ok(made)
    }

    /// Removes a directory if it is empty.
    ///
    /// # Errors
    /// See [`HostError`]; one that is not there or not empty is no error.
    pub fn remove_dir(&self, path: &HostPath) -> Result<(), HostError> {
        let Ok(above) = self.open_dir(path, path.parent().as_ref()) else { return Ok(()) };
        match unlinkat(&above, path.name(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.call("removing", path, errno)),
        }
    }

    fn open_to_read(&self, path: &HostPath) -> Result<Option<OwnedFd>, HostError> {
        // A FIFO must not hold the reader.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.dir, path.as_str(), flags, Mode::empty(), resolve) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.call("reading", path, errno)),
        }
    }

    /// A directory to write in, without any link; `None` is the root. `path` is for complaints.
    fn open_dir(&self, path: &HostPath, dir: Option<&HostPath>) -> Result<OwnedFd, HostError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let name = dir.map_or(".", HostPath::as_str);
        openat2(&self.dir, name, flags, Mode::empty(), resolve).map_err(|errno| match errno {
            Errno::LOOP => HostError::Link { path: self.shown(dir.unwrap_or(path)) },
            errno => self.call("opening", dir.unwrap_or(path), errno),
        })
    }

    fn call(&self, doing: &'static str, path: &HostPath, errno: Errno) -> HostError {
        HostError::Call { doing, path: self.shown(path), errno }
    }
}

/// A file's new content, written and synced, which goes with this where it has not taken its place.
struct Beside {
    from: OwnedFd,
    name: String,
    dir: OwnedFd,
    path: HostPath,
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Gone already where it was renamed.
        let _ = unlinkat(&self.from, &self.name, AtFlags::empty());
    }
}

/// Writes and syncs a file that nobody reads yet; whether it got its label.
fn write_beside(
    dir: &OwnedFd,
    name: &str,
    fill: &mut dyn FnMut(&mut File) -> Result<(), Errno>,
    like: &Attributes,
) -> Result<bool, Errno> {
    let mut is_labelled = true;
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
    // All before the content, which is for nobody else, be it for a moment or until after a power
    // failure. The mode after the owner, whose change takes the set-ID bits away.
    fchown(&file, Some(Uid::from_raw(like.uid)), Some(Gid::from_raw(like.gid)))?;
    fchmod(&file, Mode::from_raw_mode(like.mode))?;
    if let Some(label) = &like.label
        && label_of(&file)?.as_ref() != Some(label)
    {
        match fsetxattr(&file, LABEL, label, rustix::fs::XattrFlags::empty()) {
            // Without SELinux it is an attribute like others of "security.", which are CAP_SYS_ADMIN's (xattr(7)).
            Err(Errno::PERM) => is_labelled = false,
            set => set?,
        }
    }
    fill(&mut file)?;
    fsync(&file)?;
    Ok(is_labelled)
}

fn attributes_of(stat: &Stat, label: Option<Vec<u8>>) -> Attributes {
    Attributes { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, label }
}

/// The SELinux label, where there is one.
fn label_of(file: impl AsFd) -> Result<Option<Vec<u8>>, Errno> {
    let mut label = vec![0; 4096];
    match fgetxattr(file, LABEL, label.as_mut_slice()) {
        Ok(length) => {
            label.truncate(length);
            Ok(Some(label))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn names_in(dir: OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::new(dir)?.take(MAX_ENTRIES) {
        let name = entry?.file_name().to_bytes().to_owned();
        if let Some(name) = OsStr::from_bytes(&name).to_str().filter(|name| !matches!(*name, "." | "..")) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
