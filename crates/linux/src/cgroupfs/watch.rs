//! Notices cgroups that are created or removed in others, using inotify(7), so that a cgroup in which nothing happens is
//! not looked at again.

use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::CgroupRoot;
use usernsd_domain::cgroup::CgroupPath;

/// Watches cgroups; dropping it ends all watches.
#[derive(Debug)]
pub struct CgroupWatches {
    inotify: OwnedFd,
}

/// A watch on one cgroup, which ends at the first change: a container that creates and removes cgroups all the time
/// causes two events at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CgroupWatch(i32);

/// The watches that have ended since the last question.
#[derive(Debug, PartialEq, Eq)]
pub enum EndedWatches {
    These(HashSet<CgroupWatch>),
    /// The kernel has dropped events.
    Any,
}

// === impl EndedWatches ===

impl EndedWatches {
    /// Whether this watch may have ended.
    #[must_use]
    pub fn has(&self, watch: CgroupWatch) -> bool {
        match self {
            EndedWatches::These(ended) => ended.contains(&watch),
            EndedWatches::Any => true,
        }
    }
}

// === impl CgroupWatches ===

impl CgroupWatches {
    /// `None` if inotify is not available: the whole node shares root's `fs.inotify.max_user_instances`.
    #[must_use]
    pub fn new() -> Option<CgroupWatches> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        Some(CgroupWatches { inotify })
    }

    /// Watches a cgroup until one is created or removed directly below it, or it is itself. `None` if it cannot be
    /// watched: it is gone, its owner has closed it, or there are `fs.inotify.max_user_watches` already.
    #[must_use]
    pub fn add(&self, root: &CgroupRoot, path: &CgroupPath) -> Option<CgroupWatch> {
        let path = root.path().join(path.as_str().trim_start_matches('/'));
        let changes = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::DELETE_SELF;
        let how = WatchFlags::ONESHOT | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
        inotify::add_watch(&self.inotify, path, changes | how).ok().map(CgroupWatch)
    }

    /// Ends a watch, if it has not ended.
    pub fn remove(&self, watch: CgroupWatch) {
        let _ = inotify::remove_watch(&self.inotify, watch.0);
    }

    /// The watches that have ended since the last call.
    #[must_use]
    pub fn ended(&self) -> EndedWatches {
        let mut ended = HashSet::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        // Until there are none left (EAGAIN).
        while let Ok(event) = events.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                // The rest of the queue is read with the next call; until then all watches count as ended.
                return EndedWatches::Any;
            }
            ended.insert(CgroupWatch(event.wd()));
        }
        EndedWatches::These(ended)
    }
}
