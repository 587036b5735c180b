//! Reads one state document.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Deserialize;
use thiserror::Error;

use super::document::{State, VERSION};

/// Size limit of a document, in bytes: 500 containers make some 500 KiB.
pub(super) const MAX_BYTES: u64 = 64 << 20;
/// Time limit of the whole reading; longer than the agent's time limit for a reader.
const MAX_TIME: Duration = Duration::from_secs(10);

/// Why there is no state to show.
#[derive(Debug, Error)]
pub enum ReadStateError {
    /// The socket has no listener.
    #[error(
        "nothing answers on {} ({error}); is usernsd agent running? On a node: systemctl status usernsd; in a \
         cluster: kubectl -n usernsd get pods",
        path.display()
    )]
    NotRunning {
        path: PathBuf,
        /// The kernel's error.
        error: io::Error,
    },
    /// Only root may connect.
    #[error("{} is not yours to read; become root, or add your user ID to stateSocket.allowUids", .0.display())]
    Denied(PathBuf),
    /// The agent closed the connection without an answer.
    #[error(
        "the agent on {} closed the connection without an answer: your user ID may not read the state (stateSocket.allowUids), \
         or serves too many readers already",
        .0.display()
    )]
    Silent(PathBuf),
    /// The agent closed the connection after it had answered.
    #[error("the agent on {} ended the connection: it was stopped, or died", .0.display())]
    Ended(PathBuf),
    /// The answer took too long.
    #[error("the agent on {} did not answer within {} s", .0.display(), MAX_TIME.as_secs())]
    Slow(PathBuf),
    /// The connection broke.
    #[error("reading the state from {}: {error}", path.display())]
    Read {
        path: PathBuf,
        /// The kernel's error.
        error: io::Error,
    },
    /// The agent does not support the request.
    #[error("the agent on {} does not support this request; use an agent at least as new as this usernsd", .0.display())]
    Unknown(PathBuf),
    /// The answer is longer than any agent's.
    #[error("{} sent more than 64 MiB; that is no usernsd agent", .0.display())]
    TooLong(PathBuf),
    /// The answer is not a state document.
    #[error("{} did not send a state document ({error}); is it the socket of another program?", path.display())]
    Garbage {
        path: PathBuf,
        /// The parser's error.
        error: serde_json::Error,
    },
    /// The document has a later version.
    #[error(
        "the agent sends version {found} of the state document, this usernsd reads up to {VERSION}; use a usernsd \
         as new as the agent"
    )]
    Newer {
        /// The version of the document.
        found: u64,
    },
}

/// Reads the document of the agent at `path`.
///
/// # Errors
/// See [`ReadStateError`].
pub fn read_state(path: &Path) -> Result<State, ReadStateError> {
    let deadline = Instant::now() + MAX_TIME;
    let stream = open(path)?;
    // A reader without a request gets the document.
    stream
        .shutdown(Shutdown::Write)
        .map_err(|error| ReadStateError::Read { path: path.to_owned(), error })?;
    let text = read_all(stream, path, deadline)?;
    parse(&text, path)
}

fn open(path: &Path) -> Result<UnixStream, ReadStateError> {
    let failed = |errno: Errno| ReadStateError::NotRunning { path: path.to_owned(), error: errno.into() };
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let fd =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    // The send timeout also limits how long connect(2) waits for a place in the other side's queue.
    set_socket_timeout(&fd, Timeout::Send, Some(MAX_TIME)).map_err(failed)?;
    match connect(&fd, &address) {
        Ok(()) => Ok(fd.into()),
        Err(Errno::ACCESS | Errno::PERM) => Err(ReadStateError::Denied(path.to_owned())),
        Err(Errno::AGAIN) => Err(ReadStateError::Slow(path.to_owned())),
        Err(errno) => Err(failed(errno)),
    }
}

fn read_all(mut stream: UnixStream, path: &Path, deadline: Instant) -> Result<Vec<u8>, ReadStateError> {
    let broken = |error| ReadStateError::Read { path: path.to_owned(), error };
    let mut text = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReadStateError::Slow(path.to_owned()));
        }
        stream.set_read_timeout(Some(left)).map_err(broken)?;
        let read = match stream.read(&mut buffer) {
            Ok(0) => return Ok(text),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(broken(error)),
        };
        text.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if text.len() as u64 > MAX_BYTES {
            return Err(ReadStateError::TooLong(path.to_owned()));
        }
    }
}

pub(super) fn parse(text: &[u8], path: &Path) -> Result<State, ReadStateError> {
    /// The field that every version has.
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }

    if text.is_empty() {
        return Err(ReadStateError::Silent(path.to_owned()));
    }
    let garbage = |error| ReadStateError::Garbage { path: path.to_owned(), error };
    let Versioned { version } = serde_json::from_slice(text).map_err(garbage)?;
    if version > VERSION {
        return Err(ReadStateError::Newer { found: version });
    }
    serde_json::from_slice(text).map_err(garbage)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text, Path::new("/s"));
        }

        #[test]
        fn newer_versions_are_refused_whatever_they_hold(version in VERSION + 1.., rest in "[a-z]{1,5}") {
            let text = format!("{{\"version\":{version},\"{rest}\":[]}}");
            let newer = matches!(parse(text.as_bytes(), Path::new("/s")), Err(ReadStateError::Newer { found }) if found == version);
            prop_assert!(newer);
        }
    }
}
