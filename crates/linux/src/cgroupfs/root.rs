//! The root of the tree: opens cgroups, and searches and reads below them for display.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, FsWord, Mode, OFlags, fstat, fstatfs, open, statat};
use rustix::io::Errno;

use usernsd_domain::cgroup::{Ancestor, CgroupPath};

use super::{
    Cgroup, CgroupError, DIRECTORY, HeldAncestor, ancestor, directories_in, is_dot, is_marked_as_delegated,
    open_below,
};

/// `CGROUP2_SUPER_MAGIC` (statfs(2)).
const CGROUP2: FsWord = 0x6367_7270;

/// The cgroup of systemd's services (systemd.special(7)).
const SERVICES: &str = "system.slice";

/// The mounted cgroup v2 hierarchy of the node.
#[derive(Debug)]
pub struct CgroupRoot {
    path: PathBuf,
    dir: OwnedFd,
    unified: bool,
    device: u64,
}

// === impl CgroupRoot ===

impl CgroupRoot {
    /// Opens the cgroup root, `/sys/fs/cgroup` on every systemd node.
    ///
    /// # Errors
    /// It does not exist. A cgroup v1 root is opened without an error: see [`CgroupRoot::is_unified`].
    pub fn open(path: &Path) -> Result<CgroupRoot, CgroupError> {
        let text = path.display().to_string();
        let call = |errno| CgroupError::call(format!("opening {text}"), errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(path, flags, Mode::empty()).map_err(call)?;
        let unified = fstatfs(&dir).map_err(call)?.f_type == CGROUP2;
        let device = fstat(&dir).map_err(call)?.st_dev;
        Ok(CgroupRoot { path: path.to_owned(), dir, unified, device })
    }

    /// Whether the root is cgroup v2 (`CGROUP2_SUPER_MAGIC`).
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// The mount point.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a cgroup, if every directory above it, including the root, belongs to root alone.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn open_cgroup(&self, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        let opening = |errno| CgroupError::opening(path, errno);
        let check = |found: &Ancestor| match found.is_roots_alone() {
            true => Ok(()),
            false => Err(CgroupError::NotRoots(found.clone())),
        };
        // In a nested node the root itself may have another owner.
        let root = ancestor(CgroupPath::root(), &fstat(&self.dir).map_err(opening)?);
        check(&root)?;
        let mut above: Vec<HeldAncestor> = Vec::new();
        let mut here: Option<HeldAncestor> = None;
        let mut children = None;
        for name in path.components() {
            if let Some(held) = here.take() {
                check(&held.found)?;
                above.push(held);
            }
            let (dir, path_here) = match above.last() {
                None => (open_below(&self.dir, name, DIRECTORY), root.path.join(name)),
                Some(last) => (open_below(&last.dir, name, DIRECTORY), last.found.path.join(name)),
            };
            let dir = dir.map_err(opening)?;
            let stat = fstat(&dir).map_err(opening)?;
            if stat.st_dev != self.device {
                return Err(CgroupError::Escapes(path.clone()));
            }
            let Some(path) = path_here else { return Err(CgroupError::Escapes(path.clone())) };
            here =
                Some(HeldAncestor { found: ancestor(path, &stat), dir: Arc::new(dir), inode: stat.st_ino });
            children = directories_in(&stat);
        }
        // The root itself is no container's cgroup.
        let Some(held) = here else { return Err(CgroupError::Escapes(path.clone())) };
        Ok(Cgroup::new(held, children, root, above))
    }

    /// Reads an interface file of a cgroup, at most 4 KiB, in as few calls as possible. Only for display: the
    /// directories above the cgroup may belong to anyone, so the result must not be acted on.
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn read_of(&self, path: &CgroupPath, name: &str) -> Result<String, CgroupError> {
        let below = format!("{}/{name}", path.as_str().trim_start_matches('/'));
        let fd = open_below(&self.dir, &below, OFlags::RDONLY).map_err(|errno| {
            match (errno, open_below(&self.dir, path.as_str().trim_start_matches('/'), DIRECTORY)) {
                (Errno::ACCESS, Ok(dir)) => {
                    CgroupError::refused(dir, name, format!("reading {below}"), errno)
                }
                _ => CgroupError::opening(path, errno),
            }
        })?;
        let mut bytes = [0; 4096];
        let failed = |errno| match errno {
            Errno::NODEV => CgroupError::Gone(below.clone()),
            errno => CgroupError::call(format!("reading {below}"), errno),
        };
        // The kernel returns such a file in a single read.
        let length = rustix::io::read(&fd, &mut bytes).map_err(failed)?;
        Ok(String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned())
    }

    /// How many cgroups are directly below one; `None` if the file system does not count them. Only for display, as
    /// [`CgroupRoot::read_of`].
    ///
    /// # Errors
    /// See [`CgroupError`].
    pub fn children_of(&self, path: &CgroupPath) -> Result<Option<u64>, CgroupError> {
        let below = path.as_str().trim_start_matches('/');
        let below = if below.is_empty() { "." } else { below };
        let stat = statat(&self.dir, below, AtFlags::SYMLINK_NOFOLLOW);
        Ok(directories_in(&stat.map_err(|errno| CgroupError::opening(path, errno))?))
    }

    /// Searches the whole tree for the cgroup of a process, by the PIDs in `cgroup.procs`: they are the same in every
    /// cgroup namespace. `None` if it is in none.
    ///
    /// # Errors
    /// The root cannot be listed.
    pub fn find(&self, pid: u32) -> Result<Option<CgroupPath>, CgroupError> {
        let line = pid.to_string();
        let mut to_look_at = vec![CgroupPath::root()];
        while let Some(path) = to_look_at.pop() {
            let below = path.as_str().trim_start_matches('/');
            let dir = if below.is_empty() { "." } else { below };
            let entries = open_below(&self.dir, dir, OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(Dir::new)
                .map_err(|errno| CgroupError::opening(&path, errno));
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) if path == CgroupPath::root() => return Err(error),
                // Removed in the meantime.
                Err(_) => continue,
            };
            // A threaded cgroup has no list of processes.
            let procs = open_below(&self.dir, &format!("{dir}/cgroup.procs"), OFlags::RDONLY)
                .map(File::from)
                .ok()
                .and_then(|file| std::io::read_to_string(file).ok());
            if procs.is_some_and(|procs| procs.lines().any(|pid| pid == line)) {
                return Ok(Some(path));
            }
            let directories = entries
                .flatten()
                .filter(|entry| entry.file_type() == FileType::Directory && !is_dot(entry.file_name()));
            to_look_at.extend(directories.filter_map(|entry| path.join(entry.file_name().to_str().ok()?)));
        }
        Ok(None)
    }

    /// Whether systemd marks the cgroups of delegated units ([`Cgroup::is_marked_as_delegated`]): whether one of its
    /// services has the mark. systemd's own `systemd-udevd.service` is delegated, and most runtimes are.
    #[must_use]
    pub fn has_marks(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Ok(services) = open_below(&self.dir, SERVICES, flags).and_then(Dir::new) else { return false };
        services.flatten().any(|entry| {
            let Ok(name) = entry.file_name().to_str() else { return false };
            let opened = open_below(&self.dir, &format!("{SERVICES}/{name}"), flags);
            // The owner of a directory can set the mark on it.
            let is_roots = |dir: &OwnedFd| fstat(dir).is_ok_and(|stat| stat.st_uid == 0);
            entry.file_type() == FileType::Directory
                && !is_dot(entry.file_name())
                && opened.is_ok_and(|dir| is_roots(&dir) && is_marked_as_delegated(dir))
        })
    }

    /// Whether the path still leads to the same directory, through directories that still belong to root alone.
    #[must_use]
    pub fn still_has(&self, cgroup: &Cgroup) -> bool {
        let is_safe =
            |dir: &OwnedFd| fstat(dir).is_ok_and(|stat| ancestor(CgroupPath::root(), &stat).is_roots_alone());
        // Cgroups of v2 can be neither renamed nor moved. So if the path, without a link or a mount on it, ends at
        // the same directory, the directories above are the same too.
        let path = cgroup.path().as_str().trim_start_matches('/');
        if !is_safe(&self.dir) || !cgroup.above.iter().all(|above| is_safe(&above.dir)) {
            return false;
        }
        let Ok(dir) = open_below(&self.dir, path, DIRECTORY) else { return false };
        let is_same = fstat(&dir).is_ok_and(|now| now.st_ino == cgroup.inode && now.st_dev == self.device);
        cgroup.later.close(dir);
        is_same
    }
}
