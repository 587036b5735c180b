//! Processes, through handles: a PID can be reused, but a handle stays with its process.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, openat, statat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;

pub use self::inside::{EXAMINE, InnerFile, NAMESPACES, examine, own_apparmor_profile};
use usernsd_domain::cgroup::{CgroupPath, CgroupPathError};
use usernsd_domain::clock::ClockReading;
use usernsd_domain::container::{CgroupMount, cgroup_mount_of_mountinfo};
use usernsd_domain::idmap::{HostId, IdMap, IdMapError};
use usernsd_domain::mounts::hides_processes;
use usernsd_domain::process::ProcessStatus;

mod inside;
mod kernel;
pub mod observer;

/// The files of a process of which a first read of fewer than [`WHOLE`] bytes has returned everything: the kernel
/// collects as many lines as fit into a page (seq_file), and none of theirs is longer than the half of one, or makes them
/// in one piece.
const SHORT_LINES: [&str; 5] = ["uid_map", "gid_map", "cgroup", "status", "stat"];
const WHOLE: usize = 2048;
/// The most threads of a process of which one is looked for that runs.
const MAX_THREADS: usize = 64;

/// A mounted proc file system: the host's.
#[derive(Debug, Clone)]
pub struct Proc {
    root: PathBuf,
}

/// A process that was alive when this was created.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    dir: OwnedFd,
}

/// Why a process could not be read.
#[derive(Debug, Error)]
pub enum ProcError {
    /// It has ended.
    #[error("process {0} is gone")]
    Gone(u32),
    /// Reading failed.
    #[error("reading /proc/{pid}/{file}: {errno}")]
    Read {
        pid: u32,
        file: &'static str,
        /// The kernel's error.
        errno: Errno,
    },
    /// uid_map or gid_map does not have the kernel's format.
    #[error("/proc/{pid}/{file}: {error}")]
    IdMap {
        pid: u32,
        file: &'static str,
        /// What is wrong.
        error: IdMapError,
    },
    /// Not in a cgroup v2.
    #[error("/proc/{pid}/cgroup: {error}")]
    Cgroup {
        pid: u32,
        /// What is wrong.
        error: CgroupPathError,
    },
    /// `Uid:` or `NSpid:` is missing.
    #[error("/proc/{pid}/status has no effective user ID, or no numbers in PID namespaces")]
    Status { pid: u32 },
    /// The start time is missing.
    #[error("/proc/{pid}/stat has no start time")]
    Stat { pid: u32 },
}

/// Whether a process, still exists. Asks the kernel directly, because a /proc
/// mounted with `hidepid=` does not show all processes.
#[must_use]
pub fn lives(pid: i32) -> bool {
    let open = |pid| pidfd_open(pid, PidfdFlags::empty());
    Pid::from_raw(pid).is_some_and(|pid| !matches!(open(pid), Err(Errno::SRCH)))
}

// === impl Proc ===

impl Proc {
    /// The proc file system mounted at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Proc {
        Proc { root: root.to_owned() }
    }

    /// The mount point.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether its mount hides processes from root without CAP_SYS_PTRACE.
    #[must_use]
    pub fn hides_processes(&self) -> bool {
        let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        hides_processes(&String::from_utf8_lossy(&table), &self.root.to_string_lossy())
    }

    /// Opens a process.
    ///
    /// # Errors
    /// [`ProcError::Gone`] if there is no process with that PID.
    pub fn open(&self, pid: u32) -> Result<Process, ProcError> {
        let gone = ProcError::Gone(pid);
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Err(gone) };
        let Ok(pidfd) = pidfd_open(raw, PidfdFlags::empty()) else { return Err(gone) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(dir) = open(self.root.join(pid.to_string()), flags, Mode::empty()) else {
            return Err(gone);
        };
        let process = Process { pid, pidfd, dir };
        // The PID may have been reused between the two calls; then the first process is dead.
        if process.is_alive() { Ok(process) } else { Err(gone) }
    }

    /// The inode of a namespace (`user`, `cgroup`, …) of process 1, the host's.
    ///
    /// # Errors
    /// Reading another process's namespaces needs CAP_SYS_PTRACE.
    pub fn host_namespace(&self, kind: &'static str) -> Result<u64, ProcError> {
        self.open(1)?.namespace(kind)
    }

    /// Number of distinct user namespaces with a live process that can be read.
    ///
    /// # Errors
    /// `/proc` cannot be listed, or its processes' namespaces cannot be read, which needs CAP_SYS_PTRACE.
    pub fn user_namespaces(&self) -> io::Result<u64> {
        let mut pids: Vec<u32> = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        let link = "ns/user";
        let inodes: Vec<Result<u64, Errno>> = match observer::installed() {
            Some(observer) => {
                let targets = observer.targets(&pids, link)?;
                targets.into_iter().map(|target| target.map(|target| target.inode)).collect()
            }
            None => {
                let dir =
                    open(&self.root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                let inode = |pid| statat(&dir, format!("{pid}/{link}").as_str(), AtFlags::empty());
                pids.iter().map(|pid| inode(pid).map(|stat| stat.st_ino)).collect()
            }
        };
        let mut found = BTreeSet::new();
        for (pid, inode) in pids.into_iter().zip(inodes) {
            match inode {
                Ok(inode) => found.insert(inode),
                // Process 1 does not end.
                Err(errno) if pid == 1 => return Err(errno.into()),
                // It ended, or is a zombie.
                Err(_) => false,
            };
        }
        Ok(found.len() as u64)
    }

    /// `user.max_user_namespaces` (namespaces(7)).
    ///
    /// # Errors
    /// A kernel without user namespaces has no such file.
    pub fn max_user_namespaces(&self) -> io::Result<u64> {
        let text = std::fs::read_to_string(self.root.join("sys/user/max_user_namespaces"))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Root's processes in this PID namespace that were started without arguments from a program whose file name
    /// `is_of` accepts, and whose parent is alive; each with whether it is stopped (proc_pid_status(5), states `T`
    /// and `t`). Only those in process 1's mount namespace, if that can be read (CAP_SYS_PTRACE), so none of a
    /// container's. A process chooses its arguments itself, so the program that it runs can be any other one, and
    /// must not be started.
    ///
    /// # Errors
    /// Processes cannot be listed.
    pub fn of_program(&self, is_of: impl Fn(&str) -> bool) -> io::Result<Vec<(u32, bool)>> {
        let hosts = self.host_namespace("mnt").ok();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let directory = self.root.join(pid.to_string());
            // A process that ended in the meantime is skipped.
            let Ok(status) = std::fs::read_to_string(directory.join("status")) else { continue };
            let status = ProcessStatus::parse(&status);
            // A plugin that outlived the runtime that launched it is not used any more.
            let is_orphan = matches!(status.parent, 0 | 1);
            let is_in_this_namespace = status.inner_pids().is_some_and(<[u32]>::is_empty);
            let is_roots = status.real_uid == Some(HostId(0)) && is_in_this_namespace && !is_orphan;
            if !is_roots || matches!(status.state, Some('Z' | 'X') | None) {
                continue;
            }
            // Read last, and only for root's processes: the command line is in the process's memory, which may be
            // mapped from a file system that never answers.
            let Ok(words) = std::fs::read(directory.join("cmdline")) else { continue };
            let Some(program) = words.strip_suffix(b"\0").filter(|word| !word.contains(&0)) else { continue };
            let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let is_in_hosts_mounts = || {
                hosts.is_none_or(|hosts| {
                    self.open(pid).and_then(|process| process.namespace("mnt")).is_ok_and(|own| own == hosts)
                })
            };
            if std::str::from_utf8(name).is_ok_and(&is_of) && is_in_hosts_mounts() {
                found.push((pid, matches!(status.state, Some('T' | 't'))));
            }
        }
        Ok(found)
    }

    /// Device and inode of the program that a process runs, which may have been replaced on disk since; `None` if
    /// this process may not read it.
    #[must_use]
    pub fn program_of(&self, pid: u32) -> Option<(u64, u64)> {
        if let Some(observer) = observer::installed() {
            return observer.target(pid, "exe").ok().map(|target| (target.device, target.inode));
        }
        let stat = std::fs::metadata(self.root.join(pid.to_string()).join("exe")).ok()?;
        Some((stat.dev(), stat.ino()))
    }

    /// The time since the machine was started (proc_uptime(5)).
    ///
    /// # Errors
    /// See [`std::fs::read_to_string`].
    pub fn uptime(&self) -> io::Result<Duration> {
        let text = std::fs::read_to_string(self.root.join("uptime"))?;
        let seconds = text.split_ascii_whitespace().next().unwrap_or_default();
        let seconds = seconds.parse().map_err(io::Error::other)?;
        Duration::try_from_secs_f64(seconds).map_err(io::Error::other)
    }

    /// The wall clock and the time since the start.
    ///
    /// # Errors
    /// See [`std::fs::read_to_string`].
    pub fn clock(&self) -> io::Result<ClockReading> {
        let wall = SystemTime::now();
        Ok(ClockReading { wall, uptime: self.uptime()? })
    }

    /// The kernel's release.
    ///
    /// # Errors
    /// See [`std::fs::read_to_string`].
    pub fn kernel_release(&self) -> io::Result<String> {
        Ok(std::fs::read_to_string(self.root.join("sys/kernel/osrelease"))?.trim().to_owned())
    }

    /// Whether this process is in the cgroup namespace of process 1, the host's. A container has its own unless it is
    /// privileged.
    ///
    /// # Errors
    /// Needs CAP_SYS_PTRACE.
    pub fn in_host_cgroup_namespace(&self) -> Result<bool, ProcError> {
        Ok(self.open(std::process::id())?.namespace("cgroup")? == self.host_namespace("cgroup")?)
    }
}

/// The link below `/proc/PID` to a namespace of that kind.
fn namespace_link(kind: &'static str) -> &'static str {
    match kind {
        "user" => "ns/user",
        "cgroup" => "ns/cgroup",
        "ipc" => "ns/ipc",
        "mnt" => "ns/mnt",
        "net" => "ns/net",
        "pid" => "ns/pid",
        "uts" => "ns/uts",
        _ => kind,
    }
}

// === impl Process ===

impl Process {
    /// Its PID in this PID namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs: a pidfd becomes readable when its process ends (pidfd_open(2)).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0))
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// [`ProcError::Gone`] if it has ended already.
    pub fn kill(&self) -> Result<(), ProcError> {
        pidfd_send_signal(&self.pidfd, Signal::KILL).map_err(|_| ProcError::Gone(self.pid))
    }

    /// The mapping of user IDs between its user namespace and this process's, which is the host's.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn uid_map(&self) -> Result<IdMap, ProcError> {
        self.id_map("uid_map")
    }

    /// The mapping of group IDs, likewise.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn gid_map(&self) -> Result<IdMap, ProcError> {
        self.id_map("gid_map")
    }

    fn id_map(&self, file: &'static str) -> Result<IdMap, ProcError> {
        IdMap::parse(&self.read(file)?).map_err(|error| ProcError::IdMap { pid: self.pid, file, error })
    }

    /// The cgroup that it is in now; it may have moved itself deeper. `namespace` is the root of this process's own
    /// cgroup namespace.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn cgroup(&self, namespace: &CgroupPath) -> Result<CgroupPath, ProcError> {
        CgroupPath::parse_proc(&self.read("cgroup")?, namespace)
            .map_err(|error| ProcError::Cgroup { pid: self.pid, error })
    }

    /// How `own`, its cgroup, is mounted on `/sys/fs/cgroup` in its mount namespace. `namespace` is the root of this
    /// process's own cgroup namespace.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn cgroup_mount(&self, own: &CgroupPath, namespace: &CgroupPath) -> Result<CgroupMount, ProcError> {
        Ok(cgroup_mount_of_mountinfo(&self.mount_table()?, own, namespace))
    }

    /// `/proc/PID/status`.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn status(&self) -> Result<ProcessStatus, ProcError> {
        Ok(ProcessStatus::parse(&self.read("status")?))
    }

    /// Its effective user ID as seen by the host.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn effective_uid(&self) -> Result<HostId, ProcError> {
        self.status()?.uid.ok_or(ProcError::Status { pid: self.pid })
    }

    /// Its PIDs in the PID namespaces below that of this `/proc`, from the outermost to its own; empty if it is in
    /// that namespace itself.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn inner_numbers(&self) -> Result<Vec<u32>, ProcError> {
        let status = self.status()?;
        status.inner_pids().map(<[u32]>::to_vec).ok_or(ProcError::Status { pid: self.pid })
    }

    /// When it was started, as time since the machine's start like [`Proc::uptime`], to the hundredth of a second
    /// (proc_pid_stat(5), field 22).
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn started(&self) -> Result<Duration, ProcError> {
        let text = self.read("stat")?;
        // The second field is a name in brackets, which may contain anything; the third follows.
        let ticks: Option<u64> = text
            .rsplit_once(')')
            .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(19)?.parse().ok());
        let ticks = ticks.ok_or(ProcError::Stat { pid: self.pid })?;
        let milliseconds = ticks.saturating_mul(1000) / procfs::ticks_per_second().max(1);
        Ok(Duration::from_millis(milliseconds))
    }

    /// The inode of one of its namespaces.
    ///
    /// # Errors
    /// See [`ProcError`]; EACCES without CAP_SYS_PTRACE.
    pub fn namespace(&self, kind: &'static str) -> Result<u64, ProcError> {
        let link = namespace_link(kind);
        if let Some(observer) = observer::installed() {
            return self.named_by(link, observer.target(self.pid, link));
        }
        statat(&self.dir, link, AtFlags::empty())
            .map(|stat| stat.st_ino)
            .map_err(|errno| self.failed(link, errno))
    }

    /// The inodes of a namespace of several processes, in their order: with one question to the observer for many of
    /// them, behind the questions of surveys, so that no container's start waits for it.
    #[must_use]
    pub fn namespaces(processes: &[&Process], kind: &'static str) -> Vec<Result<u64, ProcError>> {
        let link = namespace_link(kind);
        let Some(observer) = observer::installed().filter(|_| processes.len() > 1) else {
            return processes.iter().map(|process| process.namespace(kind)).collect();
        };
        let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
        match observer.targets(&pids, link) {
            Ok(targets) => processes
                .iter()
                .zip(targets)
                .map(|(process, target)| process.named_by(link, target))
                .collect(),
            Err(errno) => processes.iter().map(|process| Err(process.failed(link, errno))).collect(),
        }
    }

    /// The inode in the observer's answer about this process.
    fn named_by(
        &self,
        link: &'static str,
        target: Result<observer::LinkTarget, Errno>,
    ) -> Result<u64, ProcError> {
        let target = target.map_err(|errno| self.failed(link, errno))?;
        // The question contained the PID, which may be another process's by now.
        if self.is_alive() { Ok(target.inode) } else { Err(ProcError::Gone(self.pid)) }
    }

    /// Its mount table; if its first thread has ended, which the kernel refuses to show, that of another one.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn mount_table(&self) -> Result<String, ProcError> {
        let file = "mountinfo";
        match self.read(file) {
            Err(error @ ProcError::Read { errno: Errno::INVAL, .. }) => {
                let of_thread = |thread: &str| self.read_at(&format!("task/{thread}/{file}"), file).ok();
                self.threads().iter().find_map(|thread| of_thread(thread)).ok_or(error)
            }
            table => table,
        }
    }

    /// The first of its threads.
    fn threads(&self) -> Vec<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(threads) = openat(&self.dir, "task", flags, Mode::empty()).and_then(Dir::new) else {
            return Vec::new();
        };
        let names =
            threads.flatten().filter_map(|thread| thread.file_name().to_str().ok().map(str::to_owned));
        names.filter(|name| !name.starts_with('.')).take(MAX_THREADS).collect()
    }

    fn read(&self, file: &'static str) -> Result<String, ProcError> {
        self.read_at(file, file)
    }

    /// Reads the file at `path` below its directory; `file` is its name for people.
    fn read_at(&self, path: &str, file: &'static str) -> Result<String, ProcError> {
        let fd = openat(&self.dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| self.failed(file, errno))?;
        let mut bytes = vec![0; 8192];
        let length = rustix::io::read(&fd, &mut bytes).map_err(|errno| self.failed(file, errno))?;
        bytes.truncate(length);
        if length >= WHOLE || !SHORT_LINES.contains(&file) {
            // A container's mount table has no limit; 4 MiB are about 20,000 mounts.
            File::from(fd)
                .take(4 << 20)
                .read_to_end(&mut bytes)
                .map_err(|error| self.failed(file, Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        }
        // Mount points and names may contain any byte; the parts that are parsed are ASCII.
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn failed(&self, file: &'static str, errno: Errno) -> ProcError {
        match errno {
            Errno::SRCH | Errno::NOENT => ProcError::Gone(self.pid),
            // For a process that has ended, the kernel refuses to read the namespaces (proc_ns_readlink).
            Errno::ACCESS if !self.is_alive() => ProcError::Gone(self.pid),
            errno => ProcError::Read { pid: self.pid, file, errno },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_one_beyond_all_numbers_does_not() {
        assert!(lives(i32::try_from(std::process::id()).unwrap()) && !lives(i32::MAX));
    }

    #[test]
    fn the_start_time_of_a_process_is_read() {
        let proc = Proc::new(Path::new("/proc"));
        let before = proc.uptime().unwrap();
        // A name that looks like the fields after it.
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("a) R 1 (b");
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(program).arg("1000").spawn().unwrap();
        let started = proc.open(child.id()).unwrap().started();
        let after = proc.uptime().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // Both are in hundredths of a second, rounded down.
        let tick = Duration::from_millis(10);
        let started = started.unwrap();
        assert!(before <= started + tick && started <= after + tick, "{before:?} {started:?} {after:?}");
        assert!(proc.open(1).unwrap().started().unwrap() <= started);
    }

    #[test]
    fn a_process_that_ended_is_gone_for_every_question() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Proc::new(Path::new("/proc")).open(child.id()).unwrap();
        assert!(process.namespace("user").is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        // For some of these the kernel returns EACCES, as if a capability were missing.
        let gone = |error| matches!(error, ProcError::Gone(_));
        assert!(process.namespace("user").is_err_and(gone));
        assert!(process.cgroup(&CgroupPath::root()).is_err_and(gone) && process.uid_map().is_err_and(gone));
    }
}
