//! Descriptors that are closed later: a container's start need not wait for it.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

/// The most descriptors that a cgroup keeps, whatever is read from it.
const MOST: usize = 4;

/// Descriptors of files that have been read or written. They are closed when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Later(RefCell<Vec<OwnedFd>>);

// === impl Later ===

impl Later {
    /// Takes a descriptor that is not used any more; without room for it, it is closed now.
    pub(super) fn close(&self, done: OwnedFd) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < MOST {
            kept.push(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_few_descriptors_are_kept_as_long_as_their_owner() {
        let later = Later::default();
        let files = (0..MOST + 2).map(|_| OwnedFd::from(tempfile::tempfile().unwrap()));
        let files: Vec<OwnedFd> = files.collect();
        let numbers: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
        files.into_iter().for_each(|file| later.close(file));
        let kept: Vec<i32> = later.0.borrow().iter().map(AsRawFd::as_raw_fd).collect();
        assert_eq!(kept, numbers[..MOST]);
    }
}
