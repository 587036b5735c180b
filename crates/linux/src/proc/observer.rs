//! The observer: the process that holds CAP_SYS_PTRACE.
//!
//! The kernel shows a process's namespaces and its program only to a process that might trace it (proc_pid_ns(5),
//! `PTRACE_MODE_READ`); and a process that might trace another one can also write its memory (`/proc/PID/mem`). So
//! the agent does not hold that capability. This process does, and can only call stat. It opens no file, and its
//! input are messages of a fixed form:
//!
//! | message | content, in the machine's byte order |
//! |---|---|
//! | first, to the agent | `ready`, or why not |
//! | question, up to [`BATCH`] in one message | PID (u32), what (u32) |
//! | answer, one for each question | error number or 0 (u64), device (u64), inode (u64) |
//!
//! There are two sockets, each with its own thread. One is for starting containers: its questions are about single
//! processes and their namespaces, which the kernel answers from memory. The other is for surveys of the whole node,
//! which take long, and for programs, whose file may be on a file system that never answers.
//!
//! It ends with the process that started it, when the other ends of its sockets are closed.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

// rustix has no signal masks.
use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, open, statat};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use thiserror::Error;

use usernsd_domain::lock::lock;

/// The argument that starts a process as [`ObserverServer`].
pub const OBSERVE: &str = "observe-processes";
/// This running program.
pub const OWN_PROGRAM: &str = "/proc/self/exe";
/// Maximum number of questions in one message.
const BATCH: usize = 32;
const QUESTION: usize = 8;
const ANSWER: usize = 24;
const READY: &[u8] = b"ready";
/// Stack size of the second thread, in bytes.
const STACK: usize = 128 << 10;
/// The observer answers within microseconds; if it does not, it is stopped or gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// A node under load may be slow to start a process.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Questions about a process; each is about a link below `/proc/PID`.
const LINKS: [&str; 8] = ["ns/user", "ns/cgroup", "ns/ipc", "ns/mnt", "ns/net", "ns/pid", "ns/uts", PROGRAM];
const PROGRAM: &str = "exe";

/// The observer that this process asks; empty if it reads `/proc` by itself.
static INSTALLED: OnceLock<Observer> = OnceLock::new();

/// The observer, as seen by the process that started it.
#[derive(Debug)]
pub struct Observer {
    /// The socket for starting containers.
    starts: Line,
    /// The socket for surveys of the node, and for programs.
    surveys: Line,
    pidfd: OwnedFd,
}

/// A socket to the observer.
#[derive(Debug)]
struct Line(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None` once it is broken.
    socket: Option<OwnedFd>,
    /// Number of answers that did not come in time: they precede the answer to the next question.
    owed: usize,
}

/// Why there is no observer.
#[derive(Debug, Error)]
pub enum ObserverError {
    /// The observer could not be started.
    #[error("starting the process that reads other processes' namespaces: {0}")]
    Start(io::Error),
    /// The observer started, and ended again.
    #[error("the process that reads other processes' namespaces did not start: {0}")]
    Refused(String),
}

/// The target of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkTarget {
    /// The device of the file system it is on.
    pub device: u64,
    /// The inode of the link's target: for a namespace, its number.
    pub inode: u64,
}

// === impl Observer ===

impl Observer {
    /// Starts an observer of the proc file system mounted at `proc_root`. `program` is this program's path
    /// ([`OWN_PROGRAM`]). Must be called while this process still has CAP_SYS_PTRACE, which the observer keeps.
    ///
    /// # Errors
    /// See [`ObserverError`].
    pub fn start(program: &Path, proc_root: &Path) -> Result<Observer, ObserverError> {
        let start = |error: Errno| ObserverError::Start(error.into());
        let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (own, its) = pair().map_err(start)?;
        let (own_second, its_second) = pair().map_err(start)?;
        let child = Command::new(program)
            .arg0("usernsd")
            .arg(OBSERVE)
            .arg(proc_root)
            .env_clear()
            .stdin(Stdio::from(its))
            .stdout(Stdio::from(its_second))
            .spawn()
            .map_err(ObserverError::Start)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(start(Errno::SRCH))?;
        let pidfd =
            pidfd_open(pid, PidfdFlags::empty()).map_err(|error| ObserverError::Start(error.into()))?;
        set_socket_timeout(&own, Timeout::Recv, Some(START_PATIENCE)).map_err(start)?;
        let mut message = [0; 512];
        let (length, _) = recv(&own, &mut message, RecvFlags::empty()).map_err(start)?;
        match message.get(..length).unwrap_or_default() {
            READY => {}
            [] => return Err(ObserverError::Refused("it ended at once".to_owned())),
            why => return Err(ObserverError::Refused(String::from_utf8_lossy(why).into_owned())),
        }
        let line = |socket: OwnedFd| {
            set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).map_err(start)?;
            set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE)).map_err(start)?;
            Ok::<_, ObserverError>(Line(Mutex::new(State { socket: Some(socket), owed: 0 })))
        };
        Ok(Observer { starts: line(own)?, surveys: line(own_second)?, pidfd })
    }

    /// Makes every [`super::Proc`] of this process use the observer from now on.
    pub fn install(self) {
        // There is one proc file system, so the first observer is as good as another.
        let _ = INSTALLED.set(self);
    }

    /// Whether it still answers questions about starting containers.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0)) && self.starts.lock().socket.is_some()
    }

    /// The target of a link of a process, for instance `ns/user`.
    ///
    /// # Errors
    /// The error of stat(2); EPIPE if the observer has ended, EAGAIN if it does not answer.
    pub fn target(&self, pid: u32, link: &str) -> Result<LinkTarget, Errno> {
        let line = if link == PROGRAM { &self.surveys } else { &self.starts };
        line.ask(&[pid], link)?.pop().unwrap_or(Err(Errno::PIPE))
    }

    /// The targets of a link of several processes, in their order: for surveys, which may wait.
    ///
    /// # Errors
    /// The observer does not answer.
    pub fn targets(&self, pids: &[u32], link: &str) -> Result<Vec<Result<LinkTarget, Errno>>, Errno> {
        self.surveys.ask(pids, link)
    }
}

// === impl Line ===

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    fn ask(&self, pids: &[u32], link: &str) -> Result<Vec<Result<LinkTarget, Errno>>, Errno> {
        let link_number = link_number(link)?;
        let mut found = Vec::with_capacity(pids.len());
        for batch in pids.chunks(BATCH) {
            let mut state = self.lock();
            let answers = state.send(batch, link_number).and_then(|()| state.receive(batch.len()));
            found.extend(answers.map_err(|errno| state.lost(errno))?);
        }
        Ok(found)
    }
}

/// The number of a link in a question.
fn link_number(link: &str) -> Result<u32, Errno> {
    let link_number = LINKS.iter().position(|known| *known == link).ok_or(Errno::INVAL)?;
    u32::try_from(link_number).map_err(|_| Errno::INVAL)
}

// === impl State ===

impl State {
    /// Sends questions, after the answers that are owed have arrived. EAGAIN if they do not.
    fn send(&mut self, pids: &[u32], link_number: u32) -> Result<(), Errno> {
        let socket = self.socket.as_ref().ok_or(Errno::PIPE)?;
        let mut answers = [0; BATCH * ANSWER];
        while self.owed > 0 {
            receive(socket, &mut answers)?;
            self.owed -= 1;
        }
        let mut questions = Vec::with_capacity(BATCH * QUESTION);
        for pid in pids {
            questions.extend(pid.to_ne_bytes());
            questions.extend(link_number.to_ne_bytes());
        }
        send(socket, &questions, SendFlags::NOSIGNAL).map(drop)
    }

    /// The answers to the last questions. EAGAIN if none come in time; they may still come later.
    fn receive(&mut self, count: usize) -> Result<Vec<Result<LinkTarget, Errno>>, Errno> {
        let socket = self.socket.as_ref().ok_or(Errno::PIPE)?;
        let mut answers = [0; BATCH * ANSWER];
        let length = receive(socket, &mut answers).inspect_err(|_| self.owed += 1)?;
        if length != count * ANSWER {
            return Err(Errno::PIPE);
        }
        let answers = answers.get(..length).unwrap_or_default().as_chunks::<ANSWER>().0;
        Ok(answers.iter().map(parse_answer).collect())
    }

    /// Closes the socket after an error that does not pass, and returns the error.
    fn lost(&mut self, errno: Errno) -> Errno {
        if errno != Errno::AGAIN {
            self.socket = None;
        }
        errno
    }
}

fn receive(socket: &OwnedFd, answers: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match recv(socket, &mut *answers, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            // The other end is closed.
            Ok((0, _)) => return Err(Errno::PIPE),
            Ok((length, _)) => return Ok(length),
            Err(errno) => return Err(errno),
        }
    }
}

/// The observer that this process uses; `None` if it reads `/proc` by itself.
#[must_use]
pub fn installed() -> Option<&'static Observer> {
    INSTALLED.get()
}

fn parse_answer(answer: &[u8; ANSWER]) -> Result<LinkTarget, Errno> {
    let (numbers, _) = answer.as_chunks::<8>();
    let &[errno, device, inode] = numbers else { return Err(Errno::PIPE) };
    match i32::try_from(u64::from_ne_bytes(errno)) {
        Ok(0) => Ok(LinkTarget { device: u64::from_ne_bytes(device), inode: u64::from_ne_bytes(inode) }),
        errno => Err(Errno::from_raw_os_error(errno.unwrap_or_default())),
    }
}

/// The observer's side.
#[derive(Debug)]
pub struct ObserverServer {
    proc_root: OwnedFd,
    /// For starting containers, and for everything else.
    sockets: [OwnedFd; 2],
}

// === impl ObserverServer ===

impl ObserverServer {
    /// Opens what the observer needs; afterwards it can give up everything else. Its sockets are its standard input
    /// and its standard output.
    ///
    /// # Errors
    /// The directory or a socket does not exist.
    pub fn open(proc_root: &Path) -> io::Result<ObserverServer> {
        // A terminal or systemd sends these signals to both processes; the one that started the observer ends first.
        let mut signals = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
        signals.thread_block()?;
        let sockets = [io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?];
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(proc_root, flags, Mode::empty());
        let proc_root = opened.map_err(|errno| {
            let why = format!("opening {}: {errno}", proc_root.display());
            refuse(io::stdin().as_fd(), &why);
            io::Error::other(why)
        })?;
        Ok(ObserverServer { proc_root, sockets })
    }

    /// Sends the reason why there will be no observer to the other side, and returns it as an error.
    pub fn refuse(&self, why: &dyn fmt::Display) -> io::Error {
        let [starts, _] = &self.sockets;
        let why = why.to_string();
        refuse(starts.as_fd(), &why);
        io::Error::other(why)
    }

    /// Answers until the process that started it has ended. Before, `confine` gives up in each of its two threads
    /// what is not needed for answering.
    ///
    /// # Errors
    /// The thread cannot be started, a socket fails, or `confine` fails; its error is sent to the process that
    /// started the observer, too.
    pub fn run<E: fmt::Display>(self, confine: impl FnOnce() -> Result<(), E>) -> io::Result<()> {
        let server = Arc::new(self);
        let [starts, surveys] = &server.sockets;
        // The observer inherits this thread's capabilities. No question arrives before this thread is ready.
        let (second, socket) = (Arc::clone(&server), surveys.try_clone()?);
        // The C library makes system calls while a thread starts (rseq), and aborts if the filter refuses them; so
        // the filter is applied after the thread has started. This is a flag and not a channel, because setting it
        // makes no system call.
        let begun = Arc::new(AtomicBool::new(false));
        let has_begun = Arc::clone(&begun);
        thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                has_begun.store(true, Ordering::Release);
                second.answer_all(socket.as_fd())
            })
            .map_err(|error| server.refuse(&error))?;
        while !begun.load(Ordering::Acquire) {
            thread::yield_now();
        }
        confine().map_err(|error| server.refuse(&error))?;
        send(starts, READY, SendFlags::NOSIGNAL)?;
        server.answer_all(starts.as_fd())
    }

    /// Answers questions from a socket, until its other end is closed.
    fn answer_all(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut questions = [0; BATCH * QUESTION];
        loop {
            let length = match recv(socket, &mut questions, RecvFlags::empty()) {
                Ok((0, _)) => return Ok(()),
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let (questions, _) = questions.get(..length).unwrap_or_default().as_chunks::<QUESTION>();
            let mut answers = Vec::with_capacity(BATCH * ANSWER);
            for question in questions {
                let (errno, target) = match self.answer(question) {
                    Ok(target) => (0, target),
                    Err(errno) => {
                        (u64::from(errno.raw_os_error().unsigned_abs()), LinkTarget { device: 0, inode: 0 })
                    }
                };
                [errno, target.device, target.inode]
                    .into_iter()
                    .for_each(|number| answers.extend(number.to_ne_bytes()));
            }
            send(socket, &answers, SendFlags::NOSIGNAL)?;
        }
    }

    fn answer(&self, question: &[u8; QUESTION]) -> Result<LinkTarget, Errno> {
        let (numbers, _) = question.as_chunks::<4>();
        let &[pid, link_number] = numbers else { return Err(Errno::INVAL) };
        let pid = u32::from_ne_bytes(pid);
        let link_number = usize::try_from(u32::from_ne_bytes(link_number)).map_err(|_| Errno::INVAL)?;
        let link = LINKS.get(link_number).ok_or(Errno::INVAL)?;
        let stat = statat(&self.proc_root, format!("{pid}/{link}").as_str(), AtFlags::empty())?;
        Ok(LinkTarget { device: stat.st_dev, inode: stat.st_ino })
    }
}

fn refuse(socket: BorrowedFd<'_>, why: &str) {
    let why: String = why.chars().take(400).collect();
    let _ = send(socket, why.as_bytes(), SendFlags::NOSIGNAL);
}
