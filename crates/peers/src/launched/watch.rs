//! Wakes when something is made in a directory (inotify(7)).

use std::io;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;

/// A directory that is watched.
#[derive(Debug)]
pub struct Watch(Receiver);

// === impl Watch ===

impl Watch {
    /// Watches for names that appear in `directory`, or go from it. To be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// There is no such directory, or the kernel has no watch left.
    pub fn new(directory: &Path) -> io::Result<Watch> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, directory, flags)?;
        // Like a pipe, it is a descriptor that is read when it is readable.
        Ok(Watch(Receiver::from_owned_fd_unchecked(fd)?))
    }

    /// Waits until something changed. Which name it was is not told: several changes may be one.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn changed(&self) -> io::Result<()> {
        // The largest event is 272 bytes long.
        let mut events = [0_u8; 4096];
        loop {
            self.0.readable().await?;
            match self.0.try_read(&mut events) {
                // Woken for nothing.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(drop),
            }
        }
    }
}
