//! Why a cgroup could not be opened or changed.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Stat, fstat, statat};
use rustix::io::Errno;
use thiserror::Error;

use usernsd_domain::cgroup::{Ancestor, CgroupPath};

/// Why a cgroup could not be opened or changed.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// The cgroup does not exist, or no longer.
    #[error("cgroup {0} is gone")]
    Gone(String),
    /// A directory above it does not belong to root alone, so its owner can replace what is below.
    #[error("cgroup {} is owned by {}:{} with mode {:o}, not by 0:0 alone", .0.path, .0.uid, .0.gid, .0.mode)]
    NotRoots(Ancestor),
    /// The path leads through a link or into another file system.
    #[error("cgroup {0} leads out of the cgroup tree")]
    Escapes(CgroupPath),
    /// Its owner, who is not root, has taken the permission from everyone else (chmod).
    #[error("{what}: its owner, host ID {owner}, permits it to nobody else (mode {mode:04o})")]
    Closed {
        /// The attempted operation.
        what: String,
        /// The owner of the directory or the file.
        owner: u32,
        /// The mode of the directory or the file.
        mode: u32,
    },
    /// Another system call failed.
    #[error("{what}: {errno}")]
    Call {
        /// The attempted operation.
        what: String,
        /// The kernel's error.
        errno: Errno,
    },
}

// === impl CgroupError ===

impl CgroupError {
    pub(super) fn call(what: impl Into<String>, errno: Errno) -> CgroupError {
        CgroupError::Call { what: what.into(), errno }
    }

    pub(super) fn opening(path: &CgroupPath, errno: Errno) -> CgroupError {
        match errno {
            // ENODEV: the cgroup was removed while its file was being opened.
            Errno::NOENT | Errno::STALE | Errno::NODEV => CgroupError::Gone(path.to_string()),
            Errno::XDEV | Errno::LOOP => CgroupError::Escapes(path.clone()),
            other => CgroupError::call(format!("opening cgroup {path}"), other),
        }
    }

    /// The error of a call on the cgroup `dir` or on its file `name`. Root without CAP_DAC_OVERRIDE is refused what
    /// the owner of a delegated cgroup forbids; what else refuses it, such as a security module, is a fault.
    pub(super) fn refused(dir: impl AsFd, name: &str, what: String, errno: Errno) -> CgroupError {
        let closed = |stat: &Stat, needed: u32| {
            let bits = if stat.st_gid == 0 { stat.st_mode >> 3 } else { stat.st_mode };
            (stat.st_uid != 0 && bits & needed != needed).then_some((stat.st_uid, stat.st_mode & 0o7777))
        };
        let directory = || closed(&fstat(&dir).ok()?, 0o5);
        let file = || closed(&statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?, 0o4);
        match (errno == Errno::ACCESS).then(|| directory().or_else(file)).flatten() {
            Some((owner, mode)) => CgroupError::Closed { what, owner, mode },
            None => CgroupError::call(what, errno),
        }
    }

    /// An interface file holds what the kernel never writes.
    #[must_use]
    pub fn unreadable(path: &CgroupPath, file: &str, text: &str) -> CgroupError {
        let text: String = text.chars().take(40).collect();
        CgroupError::call(format!("{path}/{file} holds {text:?}"), Errno::INVAL)
    }

    /// Whether the cgroup no longer exists.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, CgroupError::Gone(_))
    }

    /// Whether the cgroup's owner permits nobody else to use it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, CgroupError::Closed { .. })
    }
}
