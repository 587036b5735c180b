//! Locks: those of shadow-utils, so that no `useradd` writes at the same time (its `lib/commonio.c`), and one for
//! runs of this program.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, fcntl_lock, flock, fstat, linkat, openat, readlinkat,
    statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};

use super::together::leftovers;
use super::{HostError, HostRoot, errno_of, names_in};
use usernsd_domain::paths::PROC;
use usernsd_domain::provision::HostPath;

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(10);
/// The kernel assigns no larger PID (`PID_MAX_LIMIT`).
const LAST_PID: u32 = 1 << 22;

/// shadow-utils' lock on one file, for instance `/etc/subuid.lock`; released on drop.
#[derive(Debug)]
pub struct ShadowLock {
    dir: OwnedFd,
    name: String,
}

/// glibc's `lckpwdf(3)`: a lock on `/etc/.pwd.lock`, which shadow-utils and systemd-sysusers take first; released on
/// drop.
#[derive(Debug)]
pub struct PasswordLock {
    _file: OwnedFd,
}

/// Allows one run at a time: `flock(2)` on a file; released on drop or when the process ends.
#[derive(Debug)]
pub struct TaskLock {
    _file: OwnedFd,
}

/// Processes as the root's `/proc` shows them.
struct Processes {
    /// `/proc` below the root, if it exists.
    proc: Option<OwnedFd>,
    /// The PID of this process there.
    own: u32,
}

/// The result of one attempt.
enum Attempt {
    Locked,
    Held(u32),
}

impl HostRoot {
    /// Locks a file like shadow-utils: `FILE.PID` contains the PID and is linked to `FILE.lock`. The lock of a dead
    /// process is taken over; the holder of another is waited for.
    ///
    /// PIDs are those of `/proc` below the root if it exists, including this process's own: in its own PID namespace
    /// it has another PID there.
    ///
    /// # Errors
    /// [`HostError::Locked`] when the time is up, [`HostError::BadLock`] for a lock without a holder, and any error
    /// of the file system.
    pub fn lock_shadow(&self, path: &HostPath, limit: Duration) -> Result<ShadowLock, HostError> {
        let dir = self.open_dir(path, path.parent().as_ref())?;
        let processes = self.processes();
        let lock = format!("{}.lock", path.name());
        let shown = || self.shown(path).with_file_name(&lock);
        let start = Instant::now();
        loop {
            let tried = try_lock(&dir, path.name(), &lock, &processes).map_err(|errno| match errno {
                Errno::INVAL => HostError::BadLock { path: shown() },
                errno => HostError::Call { doing: "locking", path: self.shown(path), errno },
            })?;
            match tried {
                Attempt::Locked => break,
                Attempt::Held(pid) if start.elapsed() >= limit => {
                    return Err(HostError::Locked { path: shown(), pid, seconds: limit.as_secs() });
                }
                Attempt::Held(_) => std::thread::sleep(PAUSE),
            }
        }
        sweep(&dir, path.name(), &processes);
        for leftover in leftovers(path) {
            let _ = unlinkat(&dir, leftover, AtFlags::empty());
        }
        Ok(ShadowLock { dir, name: lock })
    }

    /// Removes a lock whose process is dead, and what it left next to it. shadow-utils takes such a lock over only
    /// until another process gets that PID.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn release_dead(&self, path: &HostPath) -> Result<(), HostError> {
        let Ok(dir) = self.open_dir(path, path.parent().as_ref()) else { return Ok(()) };
        let held = holder(&dir, &format!("{}.lock", path.name()));
        if held.as_ref().is_ok_and(|held| held.is_some_and(|pid| !self.processes().is_alive(pid))) {
            self.lock_shadow(path, Duration::ZERO)?;
        } else if matches!(held, Ok(None)) && self.has_leftovers(path) {
            // Locking it removes that, too.
            let _ = self.lock_shadow(path, Duration::ZERO);
        }
        Ok(())
    }

    fn processes(&self) -> Processes {
        let proc = self.open_dir(&PROC, Some(&PROC)).ok();
        let seen = |dir: &OwnedFd| readlinkat(dir, "self", Vec::new()).ok()?.to_str().ok()?.parse().ok();
        // The directory is not a procfs, or does not show this process.
        let own = proc.as_ref().and_then(seen).unwrap_or(getpid().as_raw_nonzero().get().cast_unsigned());
        Processes { proc, own }
    }

    /// `lckpwdf(3)` below this root.
    ///
    /// # Errors
    /// [`HostError::Locked`] when the time is up, and any error of the file system.
    pub fn lock_passwords(&self, path: &HostPath, limit: Duration) -> Result<PasswordLock, HostError> {
        let file = self.open_lock(path)?;
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        self.wait(path, limit, || fcntl_lock(&file, exclusive))?;
        Ok(PasswordLock { _file: file })
    }

    /// A lock of this program's own.
    ///
    /// # Errors
    /// [`HostError::Locked`] when the time is up, and any error of the file system.
    pub fn lock_task(&self, path: &HostPath, limit: Duration) -> Result<TaskLock, HostError> {
        let file = self.open_lock(path)?;
        self.wait(path, limit, || flock(&file, FlockOperation::NonBlockingLockExclusive))?;
        Ok(TaskLock { _file: file })
    }

    fn open_lock(&self, path: &HostPath) -> Result<OwnedFd, HostError> {
        let dir = self.open_dir(path, path.parent().as_ref())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&dir, path.name(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.call("locking", path, errno))
    }

    fn wait(
        &self,
        path: &HostPath,
        limit: Duration,
        lock: impl Fn() -> Result<(), Errno>,
    ) -> Result<(), HostError> {
        let start = Instant::now();
        loop {
            match lock() {
                Ok(()) => return Ok(()),
                Err(Errno::ACCESS | Errno::AGAIN) if start.elapsed() < limit => std::thread::sleep(PAUSE),
                Err(Errno::ACCESS | Errno::AGAIN) => {
                    let (path, seconds) = (self.shown(path), limit.as_secs());
                    return Err(HostError::Locked { path, pid: 0, seconds });
                }
                Err(errno) => return Err(self.call("locking", path, errno)),
            }
        }
    }
}

// === impl Processes ===

impl Processes {
    /// Whether there is such a process, in this PID namespace or in that of the root's `/proc`.
    fn is_alive(&self, pid: u32) -> bool {
        let Some(here) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
        // A process that may not be signalled is alive, too.
        test_kill_process(here) != Err(Errno::SRCH)
            || self.proc.as_ref().is_some_and(|proc| {
                !matches!(statat(proc, pid.to_string(), AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT))
            })
    }
}

// === impl ShadowLock ===

impl Drop for ShadowLock {
    fn drop(&mut self) {
        // The lock of a live process is never taken over; if it is missing anyway, nothing is left to do.
        let _ = unlinkat(&self.dir, &self.name, AtFlags::empty());
    }
}

/// Tries to take the lock once. `EINVAL` means a lock without a holder.
fn try_lock(dir: &OwnedFd, file: &str, lock: &str, processes: &Processes) -> Result<Attempt, Errno> {
    let own = processes.own;
    let (temporary, mut held) = make_temporary(dir, file, own)?;
    let tried =
        held.write_all(format!("{own}\0").as_bytes()).map_err(|error| errno_of(&error)).and_then(|()| {
            match link(dir, &temporary, lock, &held) {
                Err(Errno::EXIST) => take_over(dir, &temporary, lock, &held, processes),
                done => done.map(|()| Attempt::Locked),
            }
        });
    let _ = unlinkat(dir, &temporary, AtFlags::empty());
    tried
}

/// The file that is linked to the lock: `FILE.PID`, as shadow-utils calls it, or another name if somebody's own file has
/// that one, such as a copy that was made as `FILE.1`.
fn make_temporary(dir: &OwnedFd, file: &str, own: u32) -> Result<(String, File), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let make = |name: &str| openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map(File::from);
    let names = [format!("{file}.{own}"), format!(".{file}.usernsd-lock.{own}")];
    for name in names {
        match make(&name) {
            Err(Errno::EXIST) if is_left_by(dir, &name, own) => {
                unlinkat(dir, &name, AtFlags::empty())?;
                return make(&name).map(|made| (name, made));
            }
            Err(Errno::EXIST) => {}
            made => return made.map(|made| (name, made)),
        }
    }
    Err(Errno::EXIST)
}

/// Whether a file is what a locker with that PID left when it was killed: the PID is in it, or it is empty, because the
/// locker had not written yet.
fn is_left_by(dir: &OwnedFd, name: &str, pid: u32) -> bool {
    match holder(dir, name) {
        Ok(held) => held == Some(pid),
        Err(_) => openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .and_then(fstat)
            .is_ok_and(|stat| {
                FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0
            }),
    }
}

/// shadow-utils' `check_link_count`: over NFS a link may have been created although the call returned an error.
fn link(dir: &OwnedFd, temporary: &str, lock: &str, held: &File) -> Result<(), Errno> {
    linkat(dir, temporary, dir, lock, AtFlags::empty())?;
    if fstat(held)?.st_nlink == 2 { Ok(()) } else { Err(Errno::EXIST) }
}

fn take_over(
    dir: &OwnedFd,
    temporary: &str,
    lock: &str,
    held: &File,
    processes: &Processes,
) -> Result<Attempt, Errno> {
    let Some(pid) = holder(dir, lock)? else { return Ok(Attempt::Held(0)) };
    // This process holds none: a lock with its PID is of an earlier process.
    if pid != processes.own && processes.is_alive(pid) {
        return Ok(Attempt::Held(pid));
    }
    match unlinkat(dir, lock, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    match link(dir, temporary, lock, held) {
        Err(Errno::EXIST) => Ok(Attempt::Held(0)),
        done => done.map(|()| Attempt::Locked),
    }
}

/// The process that a lock names; `None` if the lock was removed just now.
fn holder(dir: &OwnedFd, lock: &str) -> Result<Option<u32>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(dir, lock, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        file => File::from(file?),
    };
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).map_err(|_| Errno::INVAL)?;
    let pid = text.trim_end_matches(['\0', '\n']).parse().ok().filter(|pid| *pid > 0);
    pid.map(Some).ok_or(Errno::INVAL)
}

/// Removes what killed lockers left: `FILE.PID` of a dead process, with that PID in it or empty, and the same with the
/// name that is used if there is such a file. A backup such as `subuid.20260101` is kept.
fn sweep(dir: &OwnedFd, file: &str, processes: &Processes) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(listing) = openat(dir, ".", flags, Mode::empty()) else { return };
    let beginnings = [format!("{file}."), format!(".{file}.usernsd-lock.")];
    for name in names_in(listing).unwrap_or_default() {
        let number = beginnings.iter().find_map(|beginning| name.strip_prefix(beginning.as_str()));
        let number = number.unwrap_or_default();
        let Ok(pid) = number.parse::<u32>() else { continue };
        let ours = is_left_by(dir, &name, pid) && pid <= LAST_PID && pid.to_string() == number;
        if ours && !processes.is_alive(pid) {
            let _ = unlinkat(dir, &name, AtFlags::empty());
        }
    }
}
