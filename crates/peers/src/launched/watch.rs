//! Reports changes to a directory's entries (inotify(7)).

use std::io;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;

/// An inotify watch on one directory.
#[derive(Debug)]
pub struct Watch(Receiver);

// === impl Watch ===

impl Watch {
    /// Watches for names that appear in or disappear from `directory`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// There is no such directory, or the limit of inotify watches is reached.
    pub fn new(directory: &Path) -> io::Result<Watch> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, directory, flags)?;
        // An inotify descriptor becomes readable like a pipe.
        Ok(Watch(Receiver::from_owned_fd_unchecked(fd)?))
    }

    /// Waits until something changed. The names are not reported, and several changes may be merged into one.
    ///
    /// # Errors
    /// The system call failed.
    pub async fn changed(&self) -> io::Result<()> {
        // The largest event is 272 bytes long.
        let mut events = [0_u8; 4096];
        loop {
            self.0.readable().await?;
            match self.0.try_read(&mut events) {
                // A spurious wake-up.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(drop),
            }
        }
    }
}
