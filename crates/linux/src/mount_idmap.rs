//! Whether a file system supports ID-mapped mounts, determined by trying it: mount_setattr(2) with `MOUNT_ATTR_IDMAP`
//! on a detached copy of the mount, which disappears when it is closed. The kernel's version does not determine it,
//! because distributions backport it.
//!
//! The only unsafe code of this crate: neither nix nor rustix has this system call.

#![allow(unsafe_code, reason = "mount_setattr(2) has no safe wrapper")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

// In rustix this is unsafe.
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, fstatfs, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen, open_tree,
};
use thiserror::Error;

use usernsd_domain::kernel::{IdMapped, MountTrial};

/// The argument that makes a process call [`hold`].
pub const HOLD: &str = "hold-user-namespace";
/// `PROC_SUPER_MAGIC` (statfs(2)).
const PROC: i64 = 0x9fa0;
/// Any 65,536 host IDs; nothing is ever written with them.
const MAP: &[u8] = b"0 65536 65536\n";

/// A user namespace for trying mounts.
#[derive(Debug)]
pub struct Prober {
    user_namespace: OwnedFd,
}

/// Why there is no prober.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// A process in a user namespace could not be started.
    #[error("no user namespace could be made: {0}")]
    UserNamespace(std::io::Error),
}

// === impl Prober ===

impl Prober {
    /// Creates a user namespace in another process, because a process with threads cannot enter one. `program` is
    /// this program's path; the process ends at once.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub fn new(program: &Path) -> Result<Prober, ProbeError> {
        let mut child = Command::new(program)
            .arg(HOLD)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ProbeError::UserNamespace)?;
        let made = (|| {
            let mut ready = [0];
            let stdout = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
            stdout.take(1).read_exact(&mut ready)?;
            let proc = format!("/proc/{}", child.id());
            for file in ["uid_map", "gid_map"] {
                File::options().write(true).open(format!("{proc}/{file}"))?.write_all(MAP)?;
            }
            Ok(open(format!("{proc}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
        })();
        // The process ends when its standard input is closed; the namespace exists as long as it is open here.
        drop(child.stdin.take());
        let _ = child.wait();
        made.map(|user_namespace| Prober { user_namespace }).map_err(ProbeError::UserNamespace)
    }

    /// Tries the file system of a directory or file.
    #[must_use]
    pub fn try_mount(&self, path: BorrowedFd<'_>) -> MountTrial {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        self.judge("open_tree", open_tree(path, "", flags))
    }

    /// Tries tmpfs, on which the kubelet stores Secrets and tokens.
    #[must_use]
    pub fn try_tmpfs(&self) -> MountTrial {
        let mount = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|tmpfs| {
            fsconfig_create(&tmpfs)?;
            fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        });
        self.judge("fsmount", mount)
    }

    fn judge(&self, call: &str, mount: Result<OwnedFd, Errno>) -> MountTrial {
        let tried = |mapped, call: &str, errno: Errno| MountTrial { mapped, why: format!("{call}: {errno}") };
        let mount = match mount {
            Ok(mount) => mount,
            // A kernel before 5.2 has no such call, and no ID-mapped mounts.
            Err(errno @ Errno::NOSYS) => return tried(IdMapped::No, call, errno),
            Err(errno) => return tried(IdMapped::Unknown, call, errno),
        };
        match map_ids(mount.as_fd(), self.user_namespace.as_fd()) {
            Ok(()) => MountTrial { mapped: IdMapped::Yes, why: String::new() },
            // EINVAL: the file system does not support it (mount_setattr(2)).
            Err(errno @ (Errno::INVAL | Errno::NOSYS)) => tried(IdMapped::No, "mount_setattr", errno),
            Err(errno) => tried(IdMapped::Unknown, "mount_setattr", errno),
        }
    }
}

/// Whether a directory is the root of a procfs, so that the node's root shows its kernel's processes.
#[must_use]
pub fn is_proc(dir: BorrowedFd<'_>) -> bool {
    fstatfs(dir).is_ok_and(|stat| stat.f_type == PROC)
}

/// The other process: enters a user namespace, reports that, and stays until its standard input is closed.
///
/// # Errors
/// User namespaces are switched off or forbidden.
pub fn hold() -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    let mut stdout = std::io::stdout();
    stdout.write_all(b"\n").and_then(|()| stdout.flush())?;
    std::io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

/// mount_setattr(2).
fn map_ids(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user_namespace.as_raw_fd()).map_err(|_| Errno::BADF)?,
    };
    // SAFETY: both descriptors are borrowed, and so open; the path is a C string, and the attributes are a struct of
    // the given size; all of them outlive the call, and the kernel only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
