//! A look into a container, without running anything in it: its files through its root directory,
//! its sysctls by joining its network for the time of one read.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{FileStat, Mode, fstat};

use super::{Proc, ProcError, Process};
use crate::domain::process::Status;

/// The namespaces that a container may have of its own (namespaces(7)).
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// A file seen through a container's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InnerFile {
    /// Its inode.
    pub inode: u64,
    /// Its owner as the host sees it.
    pub uid: u32,
    /// Its group as the host sees it.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
}

impl From<FileStat> for InnerFile {
    fn from(stat: FileStat) -> InnerFile {
        InnerFile { inode: stat.st_ino, uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 }
    }
}

impl Process {
    /// `/proc/PID/status`.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn status(&self) -> Result<Status, ProcError> {
        Ok(Status::parse(&self.read("status")?))
    }

    /// Its command line, the arguments set apart by blanks; empty for one that has none.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn command_line(&self) -> Result<String, ProcError> {
        Ok(self.read("cmdline")?.trim_end_matches('\0').replace('\0', " "))
    }

    /// Its mount table.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn mount_table(&self) -> Result<String, ProcError> {
        self.read("mountinfo")
    }

    /// Its label of the kernel's security module, SELinux or AppArmor; `None` where there is none.
    #[must_use]
    pub fn security_label(&self) -> Option<String> {
        let label = self.read("attr/current").ok()?;
        let label = label.trim_end_matches(['\0', '\n']);
        (!label.is_empty()).then(|| label.to_owned())
    }

    /// A file or directory as the container names it. Links lead nowhere but inside. It may wait
    /// for who serves the file system: see
    /// [`ContainerMounts::may_look`](crate::domain::mounts::ContainerMounts::may_look).
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn look_inside(&self, path: &str) -> Result<InnerFile, ProcError> {
        let file = "root";
        let found = || {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let root: OwnedFd = openat(&self.dir, file, flags, Mode::empty())?;
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
            fstat(openat2(&root, path, how)?)
        };
        found().map(InnerFile::from).map_err(|errno| match errno {
            // Of the file, not of the process.
            Errno::ENOENT if self.is_alive() => ProcError::Read { pid: self.pid, file, errno },
            errno => self.failed(file, errno),
        })
    }
}

impl Proc {
    /// The values of network sysctls (`net/ipv4/…`) in a process's network namespace, in order;
    /// `None` for one that this kernel does not have. Group IDs in them are the host's.
    ///
    /// A thread joins that namespace, reads, and ends.
    ///
    /// # Errors
    /// Joining takes CAP_SYS_ADMIN.
    pub fn network_sysctls(
        &self,
        process: &Process,
        names: &[&str],
    ) -> Result<Vec<Option<String>>, ProcError> {
        let file = "ns/net";
        let failed = |errno| process.failed(file, errno);
        let net: OwnedFd =
            openat(&process.dir, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
        let read = || {
            setns(&net, CloneFlags::CLONE_NEWNET)?;
            let value = |name: &&str| std::fs::read_to_string(self.root.join("sys").join(name)).ok();
            Ok(names.iter().map(value).collect())
        };
        std::thread::scope(|scope| scope.spawn(read).join()).unwrap_or(Err(Errno::EIO)).map_err(failed)
    }

    /// A sysctl that every namespace shares, or of this process's own; `None` where this kernel does
    /// not have it.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join("sys").join(name)).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn looks_at_this_process() {
        let proc = Proc::new(Path::new("/proc"));
        let process = proc.open(std::process::id()).unwrap();
        assert_eq!(process.status().unwrap().uid.unwrap().0, nix::unistd::geteuid().as_raw());
        assert!(process.command_line().unwrap().contains("usernsd"));
        assert!(process.mount_table().unwrap().contains(" / "));
        let error = process.look_inside("/no/such/file").unwrap_err().to_string();
        assert!(error.contains("ENOENT"), "{error}");
        for kind in NAMESPACES {
            let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            let want = format!("{kind}:[{}]", process.namespace(kind).unwrap());
            assert_eq!(link.to_str(), Some(want.as_str()));
        }
    }
}
