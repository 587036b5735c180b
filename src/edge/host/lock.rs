//! Locks: shadow-utils' own, so that no `useradd` writes at the same time (its `lib/commonio.c`), and
//! one for runs of this program.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, fcntl_lock, flock, fstat, linkat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};

use super::{HostError, HostRoot, errno_of, names_in};
use crate::domain::provision::HostPath;

/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// shadow-utils' lock on one file, `/etc/subuid.lock`; unlocked on drop.
#[derive(Debug)]
pub struct ShadowLock {
    dir: OwnedFd,
    name: String,
}

/// glibc's `lckpwdf(3)`: a lock on `/etc/.pwd.lock`, which shadow-utils and systemd-sysusers take
/// first; unlocked on drop.
#[derive(Debug)]
pub struct PasswordLock {
    _file: OwnedFd,
}

/// One run at a time: `flock(2)` on a file; unlocked on drop or at the end of the process.
#[derive(Debug)]
pub struct TaskLock {
    _file: OwnedFd,
}

/// What became of one try.
enum Try {
    Locked,
    Held(u32),
}

impl HostRoot {
    /// Locks a file of shadow-utils as it does itself: `FILE.PID` holds the number of the process and
    /// is linked to `FILE.lock`. The lock of a dead process is taken over, a live one is waited for.
    ///
    /// The process must see the host's PIDs, otherwise the host takes this lock for a dead one's.
    ///
    /// # Errors
    /// [`HostError::Locked`] when the time is up, [`HostError::BadLock`] for a lock without a holder,
    /// and whatever the file system refuses.
    pub fn lock_shadow(&self, path: &HostPath, limit: Duration) -> Result<ShadowLock, HostError> {
        let dir = self.open_dir(path, path.parent().as_ref())?;
        let lock = format!("{}.lock", path.name());
        let shown = || self.shown(path).with_file_name(&lock);
        let start = Instant::now();
        loop {
            let tried = try_lock(&dir, path.name(), &lock).map_err(|errno| match errno {
                Errno::INVAL => HostError::BadLock { path: shown() },
                errno => HostError::Call { doing: "locking", path: self.shown(path), errno },
            })?;
            match tried {
                Try::Locked => break,
                Try::Held(pid) if start.elapsed() >= limit => {
                    return Err(HostError::Locked { path: shown(), pid, seconds: limit.as_secs() });
                }
                Try::Held(_) => std::thread::sleep(PAUSE),
            }
        }
        sweep(&dir, path.name());
        Ok(ShadowLock { dir, name: lock })
    }

    /// `lckpwdf(3)` below this root.
    ///
    /// # Errors
    /// [`HostError::Locked`] when the time is up, and whatever the file system refuses.
    pub fn lock_passwords(&self, path: &HostPath, limit: Duration) -> Result<PasswordLock, HostError> {
        let file = self.open_lock(path)?;
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        self.wait(path, limit, || fcntl_lock(&file, exclusive))?;
        Ok(PasswordLock { _file: file })
    }

    /// A lock of this program's own.
    ///
    /// # Errors
    /// [`HostError::Locked`] when the time is up, and whatever the file system refuses.
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

// === impl ShadowLock ===

impl Drop for ShadowLock {
    fn drop(&mut self) {
        // Nobody takes over the lock of a live process; should it be gone all the same, it is gone.
        let _ = unlinkat(&self.dir, &self.name, AtFlags::empty());
    }
}

/// One try. `EINVAL` is a lock without a holder.
fn try_lock(dir: &OwnedFd, file: &str, lock: &str) -> Result<Try, Errno> {
    let own = getpid().as_raw_nonzero().get().cast_unsigned();
    let temporary = format!("{file}.{own}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut held = File::from(openat(dir, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
    let tried =
        held.write_all(format!("{own}\0").as_bytes()).map_err(|error| errno_of(&error)).and_then(|()| {
            match link(dir, &temporary, lock, &held) {
                Err(Errno::EXIST) => take_over(dir, &temporary, lock, &held, own),
                done => done.map(|()| Try::Locked),
            }
        });
    let _ = unlinkat(dir, &temporary, AtFlags::empty());
    tried
}

/// shadow-utils' `check_link_count`: over NFS a link can be made although the answer is an error.
fn link(dir: &OwnedFd, temporary: &str, lock: &str, held: &File) -> Result<(), Errno> {
    linkat(dir, temporary, dir, lock, AtFlags::empty())?;
    if fstat(held)?.st_nlink == 2 { Ok(()) } else { Err(Errno::EXIST) }
}

fn take_over(dir: &OwnedFd, temporary: &str, lock: &str, held: &File, own: u32) -> Result<Try, Errno> {
    let Some(pid) = holder(dir, lock)? else { return Ok(Try::Held(0)) };
    // This process holds none: a lock in its name is of an earlier process with its number.
    if pid != own && is_alive(pid) {
        return Ok(Try::Held(pid));
    }
    match unlinkat(dir, lock, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    match link(dir, temporary, lock, held) {
        Err(Errno::EXIST) => Ok(Try::Held(0)),
        done => done.map(|()| Try::Locked),
    }
}

/// The process that a lock names; `None` where the lock has just gone.
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

fn is_alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    // Without permission to signal it, it is alive all the same.
    test_kill_process(pid) != Err(Errno::SRCH)
}

/// Removes what killed lockers have left: `FILE.PID` with the number of a dead process and nothing
/// else in it. A copy that someone keeps as `subuid.20260101` is none.
fn sweep(dir: &OwnedFd, file: &str) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(listing) = openat(dir, ".", flags, Mode::empty()) else { return };
    for name in names_in(listing).unwrap_or_default() {
        let number = name.strip_prefix(file).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
        let Ok(pid) = number.parse::<u32>() else { continue };
        let ours = pid.to_string() == number && holder(dir, &name) == Ok(Some(pid));
        if ours && !is_alive(pid) {
            let _ = unlinkat(dir, &name, AtFlags::empty());
        }
    }
}
