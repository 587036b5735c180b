//! Reads a container's state without running anything in it: its files through its root directory, its sysctls by
//! joining its network namespace for the time of one read.
//!
//! A container decides which file system serves its files: one over FUSE or a network, or an overlay of one, which
//! its mount table does not show. Reading the attributes of such a file may block forever, and only the end of the
//! blocked process ends it. So that is done by another process of this program, which can be abandoned.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Proc, ProcError, Process};

/// The namespaces that a container may have of its own (namespaces(7)).
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// The argument that makes a process call [`examine`].
pub const EXAMINE: &str = "look-inside";
/// What the process prints once it runs, before it looks.
const RUNS: char = '+';
/// Time limit for one file, from when the process that looks runs. Local file systems answer in microseconds.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time limit for that process to run: on a busy node it waits for a processor, and its program may have to be read.
const STARTING: Duration = Duration::from_secs(10);
/// Time limit for all files of one call together.
const ALL: Duration = Duration::from_secs(2);
/// Number of concurrent processes.
const AT_ONCE: usize = 4;

/// A file seen through a container's root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InnerFile {
    /// The file's inode.
    pub inode: u64,
    /// The owner as seen by the host.
    pub uid: u32,
    /// The group as seen by the host.
    pub gid: u32,
    /// The permission bits.
    pub mode: u32,
}

impl From<Stat> for InnerFile {
    fn from(stat: Stat) -> InnerFile {
        InnerFile { inode: stat.st_ino, uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 }
    }
}

/// The AppArmor profile that is enforced for this process; `None` if there is none.
#[must_use]
pub fn own_apparmor_profile() -> Option<String> {
    let label = std::fs::read_to_string("/proc/self/attr/apparmor/current").ok()?;
    label.trim_end().strip_suffix(" (enforce)").map(str::to_owned)
}

impl Process {
    /// Its command line, with arguments separated by blanks; empty if it has none.
    ///
    /// # Errors
    /// See [`ProcError`].
    pub fn command_line(&self) -> Result<String, ProcError> {
        Ok(self.read("cmdline")?.trim_end_matches('\0').replace('\0', " "))
    }

    /// Its label from the kernel's security module, SELinux or AppArmor; `None` if there is none.
    #[must_use]
    pub fn security_label(&self) -> Option<String> {
        let label = self.read("attr/current").ok()?;
        let label = label.trim_end_matches(['\0', '\n']);
        (!label.is_empty()).then(|| label.to_owned())
    }

    /// A file or directory by its path in the container. Links cannot lead out of it. This may block forever.
    fn examine_inside(&self, path: &str) -> Result<InnerFile, ProcError> {
        let file = "root";
        let found = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root: OwnedFd = openat(&self.dir, file, flags, Mode::empty())?;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            fstat(openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?)
        };
        found().map(InnerFile::from).map_err(|errno| match errno {
            // The file is missing, not the process.
            Errno::NOENT if self.is_alive() => ProcError::Read { pid: self.pid, file, errno },
            errno => self.failed(file, errno),
        })
    }
}

impl Proc {
    /// The values of network sysctls (`net/ipv4/…`) in a process's network namespace, in order; `None` for one that
    /// this kernel does not have. Group IDs in them are the host's.
    ///
    /// A thread joins that namespace, reads, and ends.
    ///
    /// # Errors
    /// Joining needs CAP_SYS_ADMIN.
    pub fn network_sysctls(
        &self,
        process: &Process,
        names: &[&str],
    ) -> Result<Vec<Option<String>>, ProcError> {
        let file = "ns/net";
        let failed = |errno| process.failed(file, errno);
        let net: OwnedFd =
            openat(&process.dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let read = || {
            move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))?;
            let value = |name: &&str| std::fs::read_to_string(self.root.join("sys").join(name)).ok();
            Ok(names.iter().map(value).collect())
        };
        std::thread::scope(|scope| scope.spawn(read).join()).unwrap_or(Err(Errno::IO)).map_err(failed)
    }

    /// A sysctl that is not namespaced, or in this process's own namespace; `None` if this kernel does not have it.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join("sys").join(name)).ok()
    }
}

impl Proc {
    /// Files and directories by their paths in a container, in the order of `paths`. Each is read by another process
    /// of `program`, this program's path, which is killed if the file system does not answer within half a second;
    /// two seconds after the first process, no further one is started.
    ///
    /// # Errors
    /// For each path a sentence.
    pub fn examine_inside(
        &self,
        process: &Process,
        paths: &[String],
        program: &Path,
    ) -> Vec<Result<InnerFile, String>> {
        let begun = Instant::now();
        let mut found: Vec<Result<InnerFile, String>> =
            paths.iter().map(|_| Err("other file systems of it did not answer".to_owned())).collect();
        let mut waiting = paths.iter().zip(&mut found);
        let mut running: Vec<Examination<'_>> = Vec::new();
        loop {
            while running.len() < AT_ONCE
                && begun.elapsed() < ALL
                && let Some((path, found)) = waiting.next()
            {
                match self.start_examination(process, path, program) {
                    Ok(child) => {
                        running.push(Examination { child, runs: false, since: Instant::now(), found })
                    }
                    Err(error) => *found = Err(format!("starting {}: {error}", program.display())),
                }
            }
            if running.is_empty() {
                break;
            }
            running.retain_mut(|one| !one.is_over());
            std::thread::sleep(Duration::from_millis(1));
        }
        // If it has ended in the meantime, its PID may have been another's.
        if !process.is_alive() {
            let gone = || Err("the container's process has ended".to_owned());
            found.iter_mut().for_each(|found| *found = gone());
        }
        found
    }

    fn start_examination(&self, process: &Process, path: &str, program: &Path) -> std::io::Result<Child> {
        Command::new(program)
            .arg(EXAMINE)
            .arg(&self.root)
            .args([&process.pid.to_string(), "--", path])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    }
}

/// A process that reads the attributes of a file.
struct Examination<'a> {
    child: Child,
    /// Whether it has begun to look.
    runs: bool,
    /// When it was started, or found to run.
    since: Instant,
    found: &'a mut Result<InnerFile, String>,
}

impl Examination<'_> {
    /// Whether it has reported a result, or was abandoned.
    fn is_over(&mut self) -> bool {
        if !self.runs && self.has_printed() {
            (self.runs, self.since) = (true, Instant::now());
        }
        let patience = if self.runs { PATIENCE } else { STARTING };
        match self.child.try_wait() {
            Ok(None) if self.since.elapsed() < patience => return false,
            Ok(None) => {
                // Not waited for: on some file systems even SIGKILL does not end it.
                let _ = self.child.kill();
                let what = if self.runs {
                    "its file system did not answer"
                } else {
                    "no process could be started to examine it"
                };
                *self.found = Err(format!("{what} within {patience:?}"));
            }
            Ok(Some(_)) => {
                let mut printed = String::new();
                let read =
                    self.child.stdout.take().map(|stdout| stdout.take(4096).read_to_string(&mut printed));
                *self.found = match read {
                    Some(Ok(_)) => parse(printed.trim_start_matches(RUNS).trim_end()),
                    _ => Err("the process that examines the file printed nothing".to_owned()),
                };
            }
            Err(error) => {
                *self.found = Err(format!("waiting for the process that examines the file: {error}"))
            }
        }
        true
    }

    /// Whether there is output to read.
    fn has_printed(&self) -> bool {
        let Some(stdout) = &self.child.stdout else { return false };
        let mut printed = [PollFd::new(stdout, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut printed, Some(&now)), Ok(1..))
            && printed.iter().any(|one| one.revents().contains(PollFlags::IN))
    }
}

/// Parses the output of [`examine`]: four numbers, or a sentence.
fn parse(printed: &str) -> Result<InnerFile, String> {
    let numbers: Option<Vec<u64>> = printed.split(' ').map(|number| number.parse().ok()).collect();
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    match numbers.as_deref() {
        Some(&[inode, uid, gid, mode]) => {
            Ok(InnerFile { inode, uid: small(uid), gid: small(gid), mode: small(mode) })
        }
        _ if printed.is_empty() => Err("the process that examines the file printed nothing".to_owned()),
        _ => Err(printed.to_owned()),
    }
}

/// The other process: reads one file's attributes below one process's root, and prints them.
///
/// # Errors
/// The standard output is closed.
pub fn examine(proc: &Path, pid: u32, path: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(RUNS.to_string().as_bytes()).and_then(|()| stdout.flush())?;
    let found = Proc::new(proc).open(pid).and_then(|process| process.examine_inside(path));
    let printed = match found {
        Ok(InnerFile { inode, uid, gid, mode }) => format!("{inode} {uid} {gid} {mode}\n"),
        Err(error) => format!("{error}\n"),
    };
    stdout.write_all(printed.as_bytes()).and_then(|()| stdout.flush())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_four_numbers_or_a_sentence() {
        let file = InnerFile { inode: u64::MAX, uid: 200_000, gid: 0, mode: 0o1777 };
        assert_eq!(parse(&format!("{} 200000 0 1023", u64::MAX)), Ok(file));
        for printed in
            ["1 2 3", "1 2 3 4 5", "reading /proc/7/root: No such file or directory (os error 2)", "1 2 3 x"]
        {
            assert_eq!(parse(printed), Err(printed.to_owned()));
        }
        assert!(parse("").unwrap_err().contains("printed nothing"));
    }

    #[test]
    fn this_process_is_inspected() {
        let proc = Proc::new(Path::new("/proc"));
        let process = proc.open(std::process::id()).unwrap();
        assert_eq!(process.status().unwrap().uid.unwrap().0, rustix::process::geteuid().as_raw());
        assert!(process.command_line().unwrap().contains("usernsd"));
        assert!(process.mount_table().unwrap().contains(" / "));
        let error = process.examine_inside("/no/such/file").unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
        for kind in NAMESPACES {
            let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            let want = format!("{kind}:[{}]", process.namespace(kind).unwrap());
            assert_eq!(link.to_str(), Some(want.as_str()));
        }
    }
}
