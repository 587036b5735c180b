//! State that a process inherits from its parent, and dropping the parts that it does not need.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open, umask};
use thiserror::Error;

/// Why the inherited socket cannot be used.
#[derive(Debug, Error)]
pub enum InheritedError {
    /// There is no socket with that number.
    #[error("descriptor {0} is no connected unix socket: {1}")]
    NoSocket(i32, io::Error),
    /// The other descriptors cannot be listed.
    #[error("listing this process's descriptors in /proc/self/fd: {0}")]
    List(io::Error),
}

/// The inherited unix socket with that number. Every other descriptor from 3 on is closed, so this must be called
/// before the process opens anything.
///
/// # Errors
/// See [`InheritedError`].
pub fn only_socket(number: i32) -> Result<UnixStream, InheritedError> {
    let no_socket = |error: io::Error| InheritedError::NoSocket(number, error);
    // The number does not prove that the descriptor is open. So the kernel is asked for a duplicate, with
    // close-on-exec, and the original is closed with the others.
    let copy = pidfd_open(getpid(), PidfdFlags::empty())
        .and_then(|own| pidfd_getfd(own, number, PidfdGetfdFlags::empty()))
        .map_err(|error| no_socket(error.into()))?;
    let socket = UnixStream::from(copy);
    socket.peer_addr().map_err(no_socket)?;
    let kept = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let listed = std::fs::read_dir("/proc/self/fd").map_err(InheritedError::List)?;
    let numbers: Vec<i32> =
        listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for other in numbers.into_iter().filter(|other| *other > 2 && *other != kept) {
        // The descriptor of the listing itself is closed already. Closing by number is unsafe in rustix.
        let _ = nix::unistd::close(other);
    }
    Ok(socket)
}

/// Resets the inherited working directory, file mode mask and protection from the out-of-memory killer: no other
/// process should be killed in place of this one. Returns a sentence for each failure.
#[must_use]
pub fn reset_inherited() -> Vec<String> {
    umask(Mode::RWXG | Mode::RWXO);
    let mut problems = Vec::new();
    if let Err(error) = std::env::set_current_dir("/") {
        problems.push(format!("cannot change to the directory /: {error}"));
    }
    let file = Path::new("/proc/self/oom_score_adj");
    let inherited = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if inherited.is_none_or(|inherited| inherited < 0)
        && let Err(error) = std::fs::write(file, "0")
    {
        problems.push(format!("cannot write {}: {error}", file.display()));
    }
    problems
}
