//! The socket: access control, and whole lines of bounded length.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// The longest message, in bytes.
pub const MAX_LINE: usize = 64 * 1024;
/// Time limit for the peer to read one message; after it the connection is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a link could not be made, or why it ended.
#[derive(Debug, Error)]
pub enum LinkError {
    /// A system call failed.
    #[error("{what} {}: {error}", path.display())]
    Path {
        /// The failed operation.
        what: &'static str,
        /// The path that it was tried on.
        path: PathBuf,
        /// The kernel's error.
        error: io::Error,
    },
    /// The directory belongs to another user.
    #[error("{} is not a directory of this process's user; remove it and start the runtime again", .0.display())]
    Foreign(PathBuf),
    /// The peer runs as another user.
    #[error("the process at the other end of the socket runs as user {0}, neither as root nor as this one's")]
    Foreigner(u32),
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// A message is longer than [`MAX_LINE`].
    #[error("a message is longer than {MAX_LINE} bytes")]
    TooLong,
    /// The peer does not read.
    #[error("the other side read nothing for {PATIENCE:?}")]
    Slow,
}

/// The plugin's listening socket. Its file outlives the process; the next plugin removes it.
#[derive(Debug)]
pub struct PluginListener(UnixListener);

/// The reading half of a connection.
#[derive(Debug)]
pub struct Lines(BufReader<OwnedReadHalf>, Vec<u8>);

/// The writing half of a connection.
#[derive(Debug)]
pub struct Writer(OwnedWriteHalf);

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LinkError + use<'a> {
    move |error| LinkError::Path { what, path: path.to_owned(), error }
}

/// The sockets in a directory, each with its inode, because a later plugin may use the same name.
///
/// # Errors
/// The directory cannot be read.
pub fn sockets(directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found: Vec<(PathBuf, u64)> = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| (entry.path(), entry.ino()))
        .filter(|(path, _)| path.extension().is_some_and(|ending| ending == "sock"))
        .collect();
    found.sort();
    Ok(found)
}

/// Sockets in a directory that plugins which have ended may have left: those with a final name, and those of
/// plugins that were killed before they renamed the socket. A temporary socket of a live process is left out,
/// because that process may be about to listen.
fn all_sockets(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)?.filter_map(Result::ok) {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|name| name.strip_prefix('.')?.rsplit_once('-')?.1.parse::<u32>().ok());
        let lives = pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists());
        if entry.file_type().is_ok_and(|kind| kind.is_socket()) && !lives {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Connects to a plugin.
///
/// # Errors
/// The socket has no listener, or its listener runs as another user.
pub async fn connect(path: &Path) -> Result<(Lines, Writer), LinkError> {
    let stream = timeout(PATIENCE, UnixStream::connect(path)).await.map_err(|_| LinkError::Slow)??;
    split(stream)
}

fn split(stream: UnixStream) -> Result<(Lines, Writer), LinkError> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 && uid != geteuid().as_raw() {
        return Err(LinkError::Foreigner(uid));
    }
    let (read, write) = stream.into_split();
    Ok((Lines(BufReader::new(read), Vec::new()), Writer(write)))
}

// === impl PluginListener ===

impl PluginListener {
    /// Listens under `name` in `directory`, which is created if it is missing, and removes sockets of plugins
    /// that have ended. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn new(directory: &Path, name: &str) -> Result<PluginListener, LinkError> {
        let made = fs::DirBuilder::new().mode(0o700).create(directory);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("making", directory)(error));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(directory).map_err(failed("looking at", directory))?;
        if !found.is_dir() || found.uid() != geteuid().as_raw() {
            return Err(LinkError::Foreign(directory.to_owned()));
        }
        // A kubelet that created it for a pod's volume made it accessible to everyone.
        if found.mode() & 0o077 != 0 {
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(directory, private).map_err(failed("closing", directory))?;
        }
        for stale in all_sockets(directory).map_err(failed("listing", directory))? {
            if net::UnixStream::connect(&stale)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
            {
                // Another plugin that is starting may have removed it already.
                let _ = fs::remove_file(&stale);
            }
        }
        let path = directory.join(format!("{name}.sock"));
        // The socket gets its final name only when it listens, because agents connect as soon as it appears.
        let hidden = directory.join(format!(".{name}"));
        let _ = fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden).map_err(failed("listening on", &hidden))?;
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))
            .map_err(failed("closing", &hidden))?;
        fs::rename(&hidden, &path).map_err(failed("naming", &path))?;
        Ok(PluginListener(listener))
    }

    /// The next connection by root or by this process's own user.
    ///
    /// # Errors
    /// Another user connected (the connection is closed), or the system call failed.
    pub async fn accept(&self) -> Result<(Lines, Writer), LinkError> {
        let (stream, _) = self.0.accept().await?;
        split(stream)
    }
}

// === impl Lines ===

impl Lines {
    /// The next line, without its end; `None` at the end of the connection. Cancel-safe: dropping the future
    /// loses no data.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn next(&mut self) -> Result<Option<String>, LinkError> {
        loop {
            let room = MAX_LINE.saturating_sub(self.1.len());
            if room == 0 {
                return Err(LinkError::TooLong);
            }
            let count = (&mut self.0).take(room as u64).read_until(b'\n', &mut self.1).await?;
            if count == 0 {
                return Ok(None);
            }
            if self.1.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.1).trim_end().to_owned();
                self.1.clear();
                return Ok(Some(line));
            }
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Writes `line`, which must include its line end.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn write(&mut self, line: &str) -> Result<(), LinkError> {
        let written = timeout(PATIENCE, self.0.write_all(line.as_bytes())).await;
        Ok(written.map_err(|_| LinkError::Slow)??)
    }
}
