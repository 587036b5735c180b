//! The node's cgroup v2 tree, through directory handles.
//!
//! A container can create directories with any name below its own cgroup, and can move its processes there. So no
//! path is trusted twice: a directory is opened once, component by component, never through a link and never across a
//! mount, and then only used through its handle.

mod delegate_list;
mod error;
mod later;
mod root;
#[cfg(test)]
mod tests;
mod watch;

use std::cell::{Cell, OnceCell};
use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat, Uid, chownat,
    fgetxattr, flock, fstat, openat2, seek, statat,
};
use rustix::io::Errno;

use usernsd_domain::cgroup::{Ancestor, CgroupPath};
use usernsd_domain::idmap::HostId;

pub use delegate_list::{ReadListError, read_delegate_list};
pub use error::CgroupError;
use later::Later;
pub use root::CgroupRoot;
pub use watch::{CgroupWatch, CgroupWatches, EndedWatches};

/// A cgroup, held by a handle on its directory.
#[derive(Debug)]
pub struct Cgroup {
    /// The path, and the owner and mode when it was opened.
    found: Ancestor,
    dir: Arc<OwnedFd>,
    inode: u64,
    /// Number of cgroups directly below it when it was opened; `None` if the file system does not count them.
    children: Option<u64>,
    /// A second handle, which can be read and locked; opened if it is needed.
    readable: OnceCell<OwnedFd>,
    /// Whether the directory has been read through that.
    listed: Cell<bool>,
    later: Later,
    /// The root of the tree, as it was when the cgroup was opened.
    root: Ancestor,
    /// The directories above it, from the root's child down.
    above: Vec<HeldAncestor>,
}

/// A directory above a cgroup; it belonged to root alone when it was opened.
#[derive(Debug, Clone)]
struct HeldAncestor {
    found: Ancestor,
    dir: Arc<OwnedFd>,
    inode: u64,
}

/// The lock of [`Cgroup::hold`]; dropping it releases the cgroup.
#[derive(Debug)]
pub struct Lock<'a>(&'a OwnedFd);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

/// Whether it is the entry of a directory for itself or for the directory above.
fn is_dot(name: &CStr) -> bool {
    name == c"." || name == c".."
}

/// Opens `name` below `dir`: never through a link, never across a mount, never upwards.
fn open_below(dir: impl AsFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    // With RESOLVE_BENEATH, the kernel returns EAGAIN if a rename anywhere on the system raced with the call.
    for _ in 0..8 {
        match openat2(&dir, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// A first read of fewer bytes has returned the whole file. The kernel collects as many lines of an interface file as fit
/// into a page (seq_file), and no line is longer than the half of one.
const WHOLE: usize = 2048;

/// A handle for opening and changing entries of a directory, not for reading it.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

fn is_marked_as_delegated(dir: impl AsFd) -> bool {
    let mut value = [0_u8; 4];
    fgetxattr(dir, "user.delegate", &mut value).is_ok_and(|length| value.get(..length) == Some(b"1"))
}

/// How many directories are in one, by its links: the kernel counts two, and one for each (kernfs). `None` if the file
/// system does not count so.
fn directories_in(stat: &Stat) -> Option<u64> {
    #[allow(clippy::useless_conversion, reason = "nlink_t has 32 bits on aarch64")]
    let links = u64::from(stat.st_nlink);
    links.checked_sub(2)
}

fn ancestor(path: CgroupPath, stat: &Stat) -> Ancestor {
    Ancestor { path, uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 }
}

// === impl Cgroup ===

impl Cgroup {
    fn new(held: HeldAncestor, children: Option<u64>, root: Ancestor, above: Vec<HeldAncestor>) -> Cgroup {
        let HeldAncestor { found, dir, inode } = held;
        let (readable, listed, later) = (OnceCell::new(), Cell::new(false), Later::default());
        Cgroup { found, dir, inode, children, readable, listed, later, root, above }
    }

    /// The path below the root.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.found.path
    }

    /// The inode of its directory, which is the cgroup's ID (systemd's `ControlGroupId`). The kernel does not reuse
    /// it.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The owner when it was opened.
    #[must_use]
    pub fn owner(&self) -> HostId {
        HostId(self.found.uid)
    }

    /// The present owner.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn owner_now(&self) -> Result<HostId, CgroupError> {
        fstat(&self.dir)
            .map(|stat| HostId(stat.st_uid))
            .map_err(|errno| CgroupError::call(format!("stat of cgroup {}", self.path()), errno))
    }

    /// Opens the child cgroup of that name.
    ///
    /// # Errors
    /// See [`CgroupError`]; [`CgroupError::Gone`] if there is none.
    pub fn child(&self, name: &str) -> Result<Cgroup, CgroupError> {
        let Some(path) = self.path().join(name) else { return Err(CgroupError::Gone(name.to_owned())) };
        let dir = open_below(&self.dir, name, DIRECTORY).map_err(|errno| match errno {
            Errno::ACCESS => CgroupError::refused(&self.dir, ".", format!("opening cgroup {path}"), errno),
            errno => CgroupError::opening(&path, errno),
        })?;
        let stat = fstat(&dir).map_err(|errno| CgroupError::opening(&path, errno))?;
        let mut above = self.above.clone();
        above.push(HeldAncestor { found: self.found.clone(), dir: Arc::clone(&self.dir), inode: self.inode });
        let (found, root) = (ancestor(path, &stat), self.root.clone());
        let children = directories_in(&stat);
        Ok(Cgroup::new(HeldAncestor { found, dir: Arc::new(dir), inode: stat.st_ino }, children, root, above))
    }

    /// The cgroup at that path above it, whose handle is held already.
    #[must_use]
    pub fn above(&self, path: &CgroupPath) -> Option<Cgroup> {
        let index = self.above.iter().position(|above| above.found.path == *path)?;
        let (before, rest) = self.above.split_at_checked(index)?;
        let held = rest.first()?.clone();
        let stat = fstat(&held.dir).ok()?;
        let held = HeldAncestor { found: ancestor(held.found.path, &stat), ..held };
        Some(Cgroup::new(held, directories_in(&stat), self.root.clone(), before.to_vec()))
    }

    /// The directories above it as they were when it was opened, the root of the tree first.
    #[must_use]
    pub fn ancestors(&self) -> Vec<Ancestor> {
        let above = self.above.iter().map(|held| held.found.clone());
        std::iter::once(self.root.clone()).chain(above).collect()
    }

    /// Whether it had no child when it was opened.
    #[must_use]
    pub fn had_no_children(&self) -> bool {
        self.children == Some(0)
    }

    /// The names of its children, at most 1,000: a container may have created any number.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn children(&self) -> Result<Vec<String>, CgroupError> {
        let opening = |errno| match errno {
            Errno::ACCESS => {
                CgroupError::refused(&self.dir, ".", format!("listing cgroup {}", self.path()), errno)
            }
            errno => CgroupError::opening(self.path(), errno),
        };
        let dir = self.readable().map_err(opening)?;
        if self.listed.replace(true) {
            seek(dir, SeekFrom::Start(0)).map_err(opening)?;
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(dir, &mut buffer);
        let mut names = Vec::new();
        while let Some(Ok(entry)) = entries.next() {
            if entry.file_type() == FileType::Directory && !is_dot(entry.file_name()) && names.len() < 1000 {
                names.extend(entry.file_name().to_str().ok().map(str::to_owned));
            }
        }
        Ok(names)
    }

    /// The owner of a file in it; `None` if there is no such regular file.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn file_owner(&self, name: &str) -> Result<Option<HostId>, CgroupError> {
        match statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(Some(HostId(stat.st_uid)))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => {
                Err(CgroupError::refused(&self.dir, name, format!("stat of {}/{name}", self.path()), errno))
            }
        }
    }

    /// Whether systemd has marked it as the cgroup of a delegated unit: systemd 251 and later set the extended attribute
    /// `user.delegate` to `1` on the directory before the unit's start job is done, and remove it where `Delegate=` is
    /// off (systemd's page "Control Group APIs and Delegation"). As long as the directory is root's, only root can have set it.
    #[must_use]
    pub fn is_marked_as_delegated(&self) -> bool {
        self.readable().is_ok_and(is_marked_as_delegated)
    }

    /// A handle for what the first one does not allow (O_PATH): locking it, and reading the directory and its
    /// attributes.
    fn readable(&self) -> Result<&OwnedFd, Errno> {
        if let Some(dir) = self.readable.get() {
            return Ok(dir);
        }
        let opened = open_below(&self.dir, ".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(self.readable.get_or_init(|| opened))
    }

    /// Keeps another agent from changing the cgroup at the same time, until the result is dropped: while one agent
    /// replaces another, both inspect the same containers. `None` if the lock is still held after a millisecond,
    /// perhaps by the container itself; the only consequence is that the work is done twice.
    #[must_use]
    pub fn hold(&self) -> Option<Lock<'_>> {
        let dir = self.readable().ok()?;
        for _ in 0..10 {
            if flock(dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Some(Lock(dir));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        None
    }

    /// Makes `owner` the owner of a file in it; the group is not changed.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn chown_file(&self, name: &str, owner: HostId) -> Result<(), CgroupError> {
        chownat(&self.dir, name, Some(Uid::from_raw(owner.0)), None, AtFlags::SYMLINK_NOFOLLOW).map_err(
            |errno| match errno {
                Errno::NOENT => CgroupError::Gone(format!("{}/{name}", self.path())),
                errno => {
                    CgroupError::refused(&self.dir, name, format!("chown of {}/{name}", self.path()), errno)
                }
            },
        )
    }

    /// Makes `owner` the owner of the directory; the group is not changed. This succeeds for a removed cgroup too, so
    /// success proves nothing: verify afterwards.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn chown(&self, owner: HostId) -> Result<(), CgroupError> {
        chownat(&self.dir, "", Some(Uid::from_raw(owner.0)), None, AtFlags::EMPTY_PATH)
            .map_err(|errno| CgroupError::call(format!("chown of {}", self.path()), errno))
    }

    /// Reads an interface file, at most 1 MiB.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn read(&self, name: &str) -> Result<String, CgroupError> {
        let what = || format!("reading {}/{name}", self.path());
        let fd = open_below(&self.dir, name, OFlags::RDONLY).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV => CgroupError::Gone(format!("{}/{name}", self.path())),
            errno => CgroupError::refused(&self.dir, name, what(), errno),
        })?;
        let failed = |errno| match errno {
            Errno::NODEV => CgroupError::Gone(format!("{}/{name}", self.path())),
            errno => CgroupError::call(what(), errno),
        };
        let mut first = [0; 4096];
        let length = rustix::io::read(&fd, &mut first).map_err(failed)?;
        let mut bytes = first.get(..length).unwrap_or_default().to_vec();
        let file = File::from(fd);
        if length >= WHOLE {
            let rest = (&file).take(1 << 20).read_to_end(&mut bytes);
            rest.map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        }
        self.later.close(file.into());
        String::from_utf8(bytes).map_err(|_| CgroupError::call(what(), Errno::INVAL))
    }

    /// Writes an interface file in one call, as the kernel requires.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn write(&self, name: &str, text: &str) -> Result<(), CgroupError> {
        let what = || format!("writing {text:?} to {}/{name}", self.path());
        let fd = open_below(&self.dir, name, OFlags::WRONLY).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV => CgroupError::Gone(format!("{}/{name}", self.path())),
            errno => CgroupError::refused(&self.dir, name, what(), errno),
        })?;
        let file = File::from(fd);
        (&file).write_all(text.as_bytes()).map_err(|error| {
            match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
                Errno::NODEV => CgroupError::Gone(format!("{}/{name}", self.path())),
                errno => CgroupError::call(what(), errno),
            }
        })?;
        self.later.close(file.into());
        Ok(())
    }

    /// The PIDs of the processes in it, without those in its children or outside this PID namespace.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        let text = self.read("cgroup.procs")?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect())
    }
}
