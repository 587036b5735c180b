//! The process that reads the node's `/etc` for the agent.
//!
//! Next to the few files that the agent needs, there are a control plane's keys. The kernel's restrictions (Landlock)
//! identify files by inode, and most of these files are replaced by a rename. So the agent may open nothing there,
//! and asks this process, which reads what [`readable`](fn@readable) allows. It has no
//! capability and writes nothing.
//!
//! | message | content, numbers in the machine's byte order |
//! |---|---|
//! | question | `f` for a file or `d` for a directory (u8), length (u16), path below the root |
//! | answer; the first one comes unasked | error number or 0 (u32), length (u32), content, or names with a zero byte between them |
//!
//! It ends with the process that started it, when the other end of its socket is closed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

// rustix has no signal masks.
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;
use thiserror::Error;

use super::{MAX_BYTES, errno_of, names_in};
use usernsd_domain::lock::lock;
use usernsd_domain::readable::{Readable, kubelets_document, readable};

/// The argument that starts a process as [`ReaderServer`].
pub const READ: &str = "read-configuration";
/// The reader reads small files from a local disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// A node under load may be slow to start a process.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// The reader that this process asks; empty if it reads by itself.
static INSTALLED: OnceLock<Reader> = OnceLock::new();

/// The requested file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestedKind {
    /// A file's contents.
    File,
    /// A directory's names.
    Directory,
}

/// The reader, as seen by the process that started it.
#[derive(Debug)]
pub struct Reader {
    /// `None` after it failed to answer: later answers could be those to earlier questions.
    socket: Mutex<Option<UnixStream>>,
}

/// Why there is no reader.
#[derive(Debug, Error)]
pub enum ReaderError {
    /// The reader could not be started.
    #[error("starting the process that reads /etc: {0}")]
    Start(io::Error),
    /// The reader started, and ended again.
    #[error("the process that reads /etc did not start: {0}")]
    Refused(String),
}

// === impl RequestedKind ===

impl RequestedKind {
    const fn letter(self) -> u8 {
        match self {
            RequestedKind::File => b'f',
            RequestedKind::Directory => b'd',
        }
    }
}

// === impl Reader ===

impl Reader {
    /// Starts a reader for files below `root`, the node's root directory. `program` is this program's path.
    ///
    /// # Errors
    /// See [`ReaderError`].
    pub fn start(program: &Path, root: &Path) -> Result<Reader, ReaderError> {
        let (mut own, its) = UnixStream::pair().map_err(ReaderError::Start)?;
        Command::new(program)
            .arg0("usernsd")
            .arg(READ)
            .arg(root)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(ReaderError::Start)?;
        own.set_read_timeout(Some(START_PATIENCE)).map_err(ReaderError::Start)?;
        let (errno, why) = receive(&mut own).map_err(ReaderError::Start)?;
        if errno != 0 {
            return Err(ReaderError::Refused(String::from_utf8_lossy(&why).into_owned()));
        }
        own.set_read_timeout(Some(PATIENCE)).map_err(ReaderError::Start)?;
        own.set_write_timeout(Some(PATIENCE)).map_err(ReaderError::Start)?;
        Ok(Reader { socket: Mutex::new(Some(own)) })
    }

    /// Makes this process use the reader from now on.
    pub fn install(self) {
        // A process has one node's root, so the first reader is as good as another.
        let _ = INSTALLED.set(self);
    }

    /// A file's contents, or a directory's names separated by zero bytes.
    ///
    /// # Errors
    /// The kernel's error; EACCES for files that the agent may not read, and EPIPE if the reader does not answer.
    pub fn read(&self, what: RequestedKind, path: &str) -> Result<Vec<u8>, Errno> {
        let mut socket = lock(&self.socket);
        let length = u16::try_from(path.len()).map_err(|_| Errno::NAMETOOLONG)?;
        let mut question = vec![what.letter()];
        question.extend(length.to_ne_bytes());
        question.extend(path.as_bytes());
        let asked = socket.as_mut().ok_or(Errno::PIPE).and_then(|socket| {
            socket.write_all(&question).and_then(|()| receive(socket)).map_err(|error| errno_of(&error))
        });
        match asked {
            Ok((0, content)) => Ok(content),
            Ok((errno, _)) => Err(Errno::from_raw_os_error(i32::try_from(errno).unwrap_or_default())),
            Err(errno) => {
                *socket = None;
                Err(errno)
            }
        }
    }
}

/// The reader that this process uses; `None` if it reads by itself.
#[must_use]
pub fn installed() -> Option<&'static Reader> {
    INSTALLED.get()
}

fn receive(socket: &mut UnixStream) -> io::Result<(u32, Vec<u8>)> {
    let (mut errno, mut length) = ([0; 4], [0; 4]);
    socket.read_exact(&mut errno)?;
    socket.read_exact(&mut length)?;
    let length = u64::from(u32::from_ne_bytes(length));
    let mut content = Vec::new();
    socket.take(length).read_to_end(&mut content)?;
    if content.len() as u64 == length {
        Ok((u32::from_ne_bytes(errno), content))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// The reader's side.
#[derive(Debug)]
pub struct ReaderServer {
    root: OwnedFd,
    socket: UnixStream,
}

// === impl ReaderServer ===

impl ReaderServer {
    /// Opens what the reader needs; afterwards it can give up everything else. Its socket is its standard input.
    ///
    /// # Errors
    /// The directory or the socket does not exist.
    pub fn open(root: &Path) -> io::Result<ReaderServer> {
        // A terminal or systemd sends these signals to both processes; the one that started the reader ends first.
        let mut signals = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
        signals.thread_block()?;
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, root, flags, Mode::empty())?;
        Ok(ReaderServer { root, socket })
    }

    /// Sends the reason why there will be no reader to the other side.
    pub fn refuse(mut self, why: &str) {
        let _ = self.send(1, why.as_bytes());
    }

    /// Answers until the process that started it has ended.
    ///
    /// # Errors
    /// The socket fails.
    pub fn run(mut self) -> io::Result<()> {
        self.send(0, &[])?;
        loop {
            let mut head = [0; 3];
            match self.socket.read_exact(&mut head) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            let [letter, length @ ..] = head;
            let mut path = vec![0; usize::from(u16::from_ne_bytes(length))];
            self.socket.read_exact(&mut path)?;
            match self.answer(letter, &path) {
                Ok(content) => self.send(0, &content)?,
                Err(errno) => self.send(errno.raw_os_error().unsigned_abs(), &[])?,
            }
        }
    }

    fn send(&mut self, errno: u32, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        self.socket.write_all(&errno.to_ne_bytes())?;
        self.socket.write_all(&length.to_ne_bytes())?;
        self.socket.write_all(content)
    }

    fn answer(&self, letter: u8, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let path = std::str::from_utf8(path).map_err(|_| Errno::INVAL)?;
        let allowed = readable(path);
        // The names of files are not secret.
        if allowed == Readable::No {
            return Err(Errno::ACCESS);
        }
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if allowed == Readable::Unlinked {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        let open = |flags| openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        if letter == RequestedKind::Directory.letter() {
            return Ok(names_in(open(OFlags::RDONLY | OFlags::DIRECTORY)?)?.join("\0").into_bytes());
        }
        // Opening a FIFO must not block.
        let file = open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        let mut bytes = Vec::new();
        File::from(file).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| errno_of(&error))?;
        if allowed == Readable::IfKubelets {
            let document = std::str::from_utf8(&bytes).ok().and_then(kubelets_document);
            return document.map(|document| document.as_bytes().to_vec()).ok_or(Errno::ACCESS);
        }
        Ok(bytes)
    }
}
