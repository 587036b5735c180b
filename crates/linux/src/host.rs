//! The node's files, through one handle on its root.
//!
//! Reading follows links, but never out of the root; writing follows none. A file is replaced as a whole: written
//! next to it, synced, renamed, and its directory synced, so that after a power failure it is either the old or the
//! new one.

mod acl;
mod link;
mod lock;
mod program;
pub mod reader;
#[cfg(test)]
mod tests;
mod together;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags, fchmod, fchown,
    fgetxattr, fsetxattr, fstat, fsync, mkdirat, openat, openat2, statat, unlinkat,
};
use rustix::io::Errno;
use thiserror::Error;

use self::reader::RequestedKind;

pub use lock::{PasswordLock, ShadowLock, TaskLock};
pub use program::OwnProgram;

use usernsd_domain::lock::lock;
use usernsd_domain::provision::{Attributes, HostPath};
use usernsd_domain::security_module::label_in;

/// Upper limit for the size of files that are read here; a larger one must be something else.
const MAX_BYTES: u64 = 16 << 20;
/// Upper limit for the entries of directories that are listed here.
const MAX_ENTRIES: usize = 100_000;
const LABEL: &str = "security.selinux";

/// The node's root directory.
#[derive(Debug)]
pub struct HostRoot {
    path: PathBuf,
    dir: OwnedFd,
    /// Files that were written without the label they should have.
    unlabelled: Mutex<Vec<HostPath>>,
}

/// Why a file of the node could not be read or written. A file that was to be written is unchanged.
#[derive(Debug, Error)]
pub enum HostError {
    /// A system call failed.
    #[error("{doing} {}: {errno}{}", path.display(), remedy(*errno))]
    Call {
        /// The attempted operation, as a gerund.
        doing: &'static str,
        /// The file or directory as this process sees it.
        path: PathBuf,
        /// The kernel's error.
        errno: Errno,
    },
    /// The file or its directory is a symbolic link.
    #[error(
        "writing {}: a symbolic link leads elsewhere, and what it leads to belongs to someone else; \
         make it a file of its own, or change it where it comes from",
        path.display()
    )]
    Link {
        /// The file as this process sees it.
        path: PathBuf,
    },
    /// A symbolic link was to be written, and something else is in its place.
    #[error("{} is no symbolic link, and one is to be there; move it away", path.display())]
    NotALink {
        /// The existing file as this process sees it.
        path: PathBuf,
    },
    /// Not a regular file.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The file as this process sees it.
        path: PathBuf,
    },
    /// Much larger than such a file should be.
    #[error("{} is longer than 16 MiB", path.display())]
    TooLong {
        /// The file as this process sees it.
        path: PathBuf,
    },
    /// A change of several files failed after some of them had been changed.
    #[error("{error}; {what}")]
    Together {
        error: Box<HostError>,
        /// The present state of the files that had been changed.
        what: String,
    },
    /// A process holds the lock.
    #[error(
        "{} has been held by process {pid} for {seconds} s; wait for it to end, or remove the file if that \
         process does not belong to shadow-utils",
        path.display()
    )]
    Locked {
        /// The lock as this process sees it.
        path: PathBuf,
        /// PID of the lock's holder; 0 if unknown.
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

/// An action by which an administrator can remove the error.
fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ROFS => {
            "; on an image-based system set it in the system's own configuration (MachineConfig, Ignition), \
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

    /// The root as this process sees it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Files that were written since the last call and could not get their SELinux label: if SELinux is off, setting
    /// it needs CAP_SYS_ADMIN.
    pub fn take_unlabelled(&self) -> Vec<HostPath> {
        std::mem::take(&mut *lock(&self.unlabelled))
    }

    /// A path as this process sees it, for messages.
    #[must_use]
    pub fn shown(&self, path: &HostPath) -> PathBuf {
        self.path.join(path.as_str())
    }

    /// The contents of a file; `None` if it does not exist. Follows links within the root.
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

    /// Reads a file that this process may not open, through the reader. A file that the reader refuses counts as
    /// missing.
    fn read_by_reader(&self, path: &HostPath) -> Result<Option<Vec<u8>>, HostError> {
        let asked = reader::installed().ok_or(Errno::ACCESS);
        match asked.and_then(|reader| reader.read(RequestedKind::File, path.as_str())) {
            Ok(bytes) if bytes.len() as u64 > MAX_BYTES => Err(HostError::TooLong { path: self.shown(path) }),
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
            Err(Errno::ISDIR | Errno::INVAL) => Err(HostError::NotAFile { path: self.shown(path) }),
            Err(errno) => Err(self.call("reading", path, errno)),
        }
    }

    /// Mode, owner and label of a file; `None` if it does not exist. Follows links within the root.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn attributes(&self, path: &HostPath) -> Result<Option<Attributes>, HostError> {
        let call = |errno| self.call("reading", path, errno);
        let file = match self.open_to_read(path) {
            // A process with a reader writes no such file, so it does not need the label.
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

    /// The later of a file's or directory's mtime and ctime: a rename changes only the latter. `None` if it does not
    /// exist.
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

    /// Whether the path exists. Follows links within the root.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn has(&self, path: &HostPath) -> Result<bool, HostError> {
        Ok(self.handle(path)?.is_some())
    }

    /// Whether the path is a directory. Follows links within the root.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn is_dir(&self, path: &HostPath) -> Result<bool, HostError> {
        let Some(handle) = self.handle(path)? else { return Ok(false) };
        let stat = fstat(handle).map_err(|errno| self.call("reading", path, errno))?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// A handle on whatever is at a path; `None` if it does not exist. Follows links within the root.
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

    /// The names in a directory, sorted; empty if it does not exist. In a name that is not UTF-8, U+FFFD takes the place
    /// of what is not: there is such a file, and it cannot be read here.
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
                let names = reader.read(RequestedKind::Directory, path.as_str()).map_err(call)?;
                let names = String::from_utf8_lossy(&names).into_owned();
                names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect()
            }
            (dir, _) => names_in(dir.map_err(call)?).map_err(call)?,
        };
        names.sort();
        Ok(names)
    }

    /// Replaces or creates a file: written next to it (or in `staging`), synced, renamed, and the directory synced.
    /// An existing file keeps its mode, owner, ACL and label; a new one gets `new`. The directories above must exist.
    ///
    /// # Errors
    /// See [`HostError`]; the file is unchanged.
    pub fn replace(
        &self,
        path: &HostPath,
        bytes: &[u8],
        new: &Attributes,
        staging: Option<&HostPath>,
    ) -> Result<(), HostError> {
        self.take_place(&[self.bytes_beside(path, bytes, new, false, staging)?])
    }

    /// Like [`HostRoot::replace`], but an existing file gets the mode of `new` too.
    ///
    /// # Errors
    /// See [`HostError`]; the file is unchanged.
    pub fn replace_with_mode(
        &self,
        path: &HostPath,
        bytes: &[u8],
        new: &Attributes,
        staging: Option<&HostPath>,
    ) -> Result<(), HostError> {
        self.take_place(&[self.bytes_beside(path, bytes, new, true, staging)?])
    }

    /// Replaces several files that must be consistent with each other, each like [`HostRoot::replace`]: all are
    /// written and synced before the first is renamed, and there are only renames in between.
    ///
    /// # Errors
    /// See [`HostError`]; all files are unchanged, unless it is [`HostError::Together`].
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
        // Nothing could read it again: neither the journal nor the next run.
        if bytes.len() as u64 > MAX_BYTES {
            return Err(HostError::TooLong { path: self.shown(path) });
        }
        self.beside(path, new, exact, staging, &mut |file| {
            file.write_all(bytes).map_err(|error| errno_of(&error))
        })
    }

    /// `exact`: the mode is that of `new`, even if the file exists.
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
        let mut extended = Vec::new();
        match statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(call(errno)),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    let old = self.attributes(path)?;
                    like = attributes_of(&stat, old.and_then(|old| old.label));
                    like.mode = if exact { new.mode } else { like.mode };
                    // An ACL is a part of the mode.
                    if !exact && let Some(file) = self.open_to_read(path)? {
                        extended = acl::extended(&file).map_err(call)?;
                    }
                }
                FileType::Symlink => return Err(HostError::Link { path: self.shown(path) }),
                _ => return Err(HostError::NotAFile { path: self.shown(path) }),
            },
        }
        let from = match staging {
            None => self.open_dir(path, path.parent().as_ref())?,
            Some(staging) => self.open_dir(path, Some(staging))?,
        };
        let of_dir = if like.label.is_none() { label_of(&dir).map_err(call)? } else { None };
        let beside = Beside { from, name: together::name_of_new(path), dir, path: path.clone() };
        let is_labelled = write_beside(&beside.from, &beside.name, fill, &like, of_dir.as_deref(), &extended)
            .map_err(call)?;
        if !is_labelled {
            lock(&self.unlabelled).push(path.clone());
        }
        Ok(beside)
    }

    /// Writes to an existing file in place: for kernel settings, which cannot be replaced.
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

    /// Removes a file durably; a missing one is not an error.
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

    /// Creates a directory and its parents with that mode, owned by root; returns those that were created.
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
            // Read-only, but it exists.
            Err(Errno::ROFS) if self.open_dir(path, Some(path)).is_ok() => {}
            done => {
                let call = |errno| self.call("making", path, errno);
                done.map_err(call)?;
                // Independent of this process's umask.
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
    /// See [`HostError`]; a missing or non-empty directory is not an error.
    pub fn remove_dir(&self, path: &HostPath) -> Result<(), HostError> {
        let Ok(above) = self.open_dir(path, path.parent().as_ref()) else { return Ok(()) };
        match unlinkat(&above, path.name(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.call("removing", path, errno)),
        }
    }

    fn open_to_read(&self, path: &HostPath) -> Result<Option<OwnedFd>, HostError> {
        // Opening a FIFO must not block.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.dir, path.as_str(), flags, Mode::empty(), resolve) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.call("reading", path, errno)),
        }
    }

    /// A directory to write in, opened without following links; `None` is the root. `path` is for error messages.
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

/// A file's new contents, written and synced. Dropping it removes the file, unless it was renamed.
struct Beside {
    from: OwnedFd,
    name: String,
    dir: OwnedFd,
    path: HostPath,
}

impl Drop for Beside {
    fn drop(&mut self) {
        // If it was renamed, there is nothing to remove.
        let _ = unlinkat(&self.from, &self.name, AtFlags::empty());
    }
}

/// Writes and syncs a file that has no reader yet; returns whether it got its label: that of `like`, or else one for a file
/// in a directory with the label `of_dir`.
fn write_beside(
    dir: &OwnedFd,
    name: &str,
    fill: &mut dyn FnMut(&mut File) -> Result<(), Errno>,
    like: &Attributes,
    of_dir: Option<&[u8]>,
    extended: &[acl::Extended],
) -> Result<bool, Errno> {
    let mut is_labelled = true;
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
    // All attributes are set before the contents are written, so that these are never readable by others, not even
    // for a moment or after a power failure. The mode is set after the owner, because changing the owner clears the
    // set-ID bits.
    fchown(&file, Some(Uid::from_raw(like.uid)), Some(Gid::from_raw(like.gid)))?;
    fchmod(&file, Mode::from_raw_mode(like.mode))?;
    acl::set(&file, like.mode, extended)?;
    let own = label_of(&file)?;
    let label = match (&like.label, of_dir) {
        (Some(label), _) => Some(label.clone()).filter(|label| own.as_ref() != Some(label)),
        (None, Some(of_dir)) => label_in(of_dir, own.as_deref()),
        (None, None) => None,
    };
    if let Some(label) = label {
        match fsetxattr(&file, LABEL, &label, XattrFlags::empty()) {
            // Without SELinux it is an ordinary "security." attribute, which needs CAP_SYS_ADMIN (xattr(7)); with it, the
            // policy may not let this process change labels.
            Err(Errno::PERM | Errno::ACCESS) => is_labelled = false,
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

/// The SELinux label, if there is one.
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

/// Gives a directory, by a path of this process's own root, the SELinux type of another one, so that a program which may
/// read that may read this. Nothing changes without labels, or if the policy lets this process change none.
pub fn take_type(path: &Path, like: &Path) {
    let label = |path: &Path| File::open(path).ok().and_then(|file| label_of(&file).ok().flatten());
    let Some(label) = label(like).and_then(|like| label_in(&like, label(path).as_deref())) else { return };
    if let Ok(file) = File::open(path) {
        // If it is refused, the program that cannot read it reports that.
        let _ = fsetxattr(&file, LABEL, &label, XattrFlags::empty());
    }
}

fn names_in(dir: OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::new(dir)?.take(MAX_ENTRIES) {
        let entry = entry?;
        let name = String::from_utf8_lossy(entry.file_name().to_bytes());
        if !matches!(&*name, "." | "..") {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
