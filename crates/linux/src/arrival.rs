//! Waits for files to appear, using inotify(7): a peer's socket is noticed as soon as it is created.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// How long to wait if inotify is not available (`fs.inotify.max_user_instances`, or a file system without it),
/// before the caller checks for the files itself.
const BLIND: Duration = Duration::from_secs(1);

/// Waits until one of several paths is created. Owned by the waiting thread.
#[derive(Debug)]
pub struct Arrival {
    paths: Vec<PathBuf>,
    inotify: Option<OwnedFd>,
    woken: UnixStream,
}

/// Ends a wait from another thread.
#[derive(Debug)]
pub struct Waker(UnixStream);

/// The event that ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// A path on the list was created, or a directory on the way to one.
    Appeared,
    /// A [`Waker`] was used.
    Interrupted,
    /// The time limit passed.
    TimedOut,
}

// === impl Arrival ===

impl Arrival {
    /// Watches for `paths` from now on: what is created before the first wait ends that wait.
    ///
    /// # Errors
    /// The socket pair for the waker could not be created.
    pub fn new(paths: &[PathBuf]) -> std::io::Result<(Arrival, Waker)> {
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        let mut arrival = Arrival { paths: paths.to_vec(), inotify, woken };
        arrival.watch();
        Ok((arrival, Waker(waker)))
    }

    /// Whether any of the paths exists.
    #[must_use]
    pub fn any_there(&self) -> bool {
        self.paths.iter().any(|path| path.exists())
    }

    /// Watches each path's directory, or the deepest existing one above it. Adding a watch twice changes nothing.
    fn watch(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let made = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        let mut watched = BTreeSet::new();
        loop {
            // A directory that was created between the look and the watch on the one above it caused no event.
            let directories = self.directories();
            if directories == watched {
                return;
            }
            if directories.iter().any(|directory| inotify::add_watch(inotify, *directory, made).is_err()) {
                break;
            }
            watched = directories;
        }
        self.inotify = None;
    }

    fn directories(&self) -> BTreeSet<&Path> {
        self.paths.iter().filter_map(|path| path.ancestors().skip(1).find(|it| it.is_dir())).collect()
    }

    /// Whether a created name is on the way to one of the paths.
    fn is_ours(&self, name: &OsStr) -> bool {
        self.paths.iter().any(|path| path.components().any(|part| part.as_os_str() == name))
    }

    /// Waits for at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> WakeReason {
        let end = Instant::now() + limit;
        loop {
            if self.take_events() {
                self.watch();
                return WakeReason::Appeared;
            }
            if self.take_wakes() {
                return WakeReason::Interrupted;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return WakeReason::TimedOut;
            }
            let left = if self.inotify.is_some() { left } else { left.min(BLIND) };
            let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
            fds.extend(self.inotify.as_ref().map(|inotify| PollFd::new(inotify, PollFlags::IN)));
            // A signal ends it early. Without a limit, if the time is longer than the kernel's type holds.
            let left = Timespec::try_from(left).ok();
            let _ = poll(&mut fds, left.as_ref());
            if self.inotify.is_none() && self.any_there() {
                return WakeReason::Appeared;
            }
        }
    }

    /// Reads the pending events; whether one of them is on the way to a path.
    fn take_events(&mut self) -> bool {
        let mut any = false;
        let Some(inotify) = &self.inotify else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        // Until there are none left (EAGAIN).
        while let Ok(event) = events.next() {
            any |= match event.file_name() {
                Some(name) => self.is_ours(OsStr::from_bytes(name.to_bytes())),
                // The queue overflowed, or a directory was removed: check again.
                None => true,
            };
        }
        any
    }

    fn take_wakes(&mut self) -> bool {
        let mut bytes = [0; 16];
        matches!(self.woken.read(&mut bytes), Ok(count) if count > 0)
    }
}

// === impl Waker ===

impl Waker {
    /// Ends the current wait, or the next one.
    pub fn wake(&self) {
        // A full pair holds a wake-up already; a broken one has no reader.
        let _ = (&self.0).write(&[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// Waits for a socket that another thread makes, after its directories.
    fn wait_for_socket(
        arrival: &mut Arrival,
        path: &Path,
        make_directories: impl FnOnce() + Send,
    ) -> std::os::unix::net::UnixListener {
        std::thread::scope(|scope| {
            let making = scope.spawn(|| {
                make_directories();
                std::os::unix::net::UnixListener::bind(path).unwrap()
            });
            while !path.exists() {
                assert_eq!(arrival.wait(LONG), WakeReason::Appeared);
            }
            making.join().unwrap()
        })
    }

    #[test]
    fn a_socket_that_appears_ends_the_wait_even_in_new_directories() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/nri/nri.sock");
        let (mut arrival, _waker) = Arrival::new(std::slice::from_ref(&path)).unwrap();
        let _listener = wait_for_socket(&mut arrival, &path, || {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        });
        // Created again, as after a restart; other files in the directory do not matter.
        assert_eq!({ while arrival.wait(Duration::ZERO) != WakeReason::TimedOut {} }, ());
        std::fs::write(path.with_file_name("other"), "").unwrap();
        assert_eq!(arrival.wait(Duration::from_millis(20)), WakeReason::TimedOut);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path.with_file_name("new"), "").unwrap();
        std::fs::rename(path.with_file_name("new"), &path).unwrap();
        assert_eq!(arrival.wait(LONG), WakeReason::Appeared);
    }

    #[test]
    fn a_socket_is_noticed_however_the_making_of_its_directories_meets_the_watching() {
        for round in 0..300 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("run/nri/nri.sock");
            let (mut arrival, _waker) = Arrival::new(std::slice::from_ref(&path)).unwrap();
            wait_for_socket(&mut arrival, &path, || {
                std::fs::create_dir(path.ancestors().nth(2).unwrap()).unwrap();
                std::fs::create_dir(path.parent().unwrap()).unwrap();
                std::thread::sleep(Duration::from_millis(round % 3));
            });
        }
    }

    #[test]
    fn a_waker_ends_this_wait_or_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let (mut arrival, waker) = Arrival::new(&[directory.path().join("x")]).unwrap();
        waker.wake();
        waker.wake();
        assert_eq!(arrival.wait(LONG), WakeReason::Interrupted);
        assert_eq!(arrival.wait(Duration::ZERO), WakeReason::TimedOut);
    }
}
