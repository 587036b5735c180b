//! The agent's side of the state socket: reads one short request from each connection, and writes the
//! answer.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::request::{self, Request};
use usernsd_domain::chain::chain;
use usernsd_domain::places::{Place, Places};

/// The most open connections; a further one takes the place of another. Each may hold a document in memory.
const MAX_CONNECTIONS: usize = 16;
/// The most connections that watch: each costs a document a second while containers change.
const MAX_WATCHERS: usize = 4;
/// Time limit for a reader to send its request, and to read one document.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Minimum time between two documents for one reader.
const PACE: Duration = Duration::from_secs(1);
/// Maximum time between two documents: facts that are read only on request may have changed, and the reader
/// sees that the agent works.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(30);

/// Why the state cannot be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Another agent answers there.
    #[error("another usernsd agent answers on {}; stop it, or name another socket with --state-socket", .0.display())]
    InUse(PathBuf),
    /// The path is not a socket.
    #[error("{} is not a socket; remove it, or name another one with --state-socket", .0.display())]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("{what} {}: {error}", path.display())]
    Io {
        /// The attempt, as a gerund.
        what: &'static str,
        /// The path that was attempted.
        path: PathBuf,
        /// The kernel's error.
        error: io::Error,
    },
}

/// The sources of the answers. Each is called on the server's thread.
pub struct Sources {
    /// The state document.
    pub document: Box<dyn Fn() -> Vec<u8> + Send + Sync>,
    /// Renders the metrics in the text format.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Notified of changes. A missed notification does no harm, because the next document contains the
    /// change.
    pub changes: watch::Receiver<()>,
}

/// A running server. Dropping it stops it and removes its socket.
#[derive(Debug)]
pub struct StateServer {
    path: PathBuf,
    inode: (u64, u64),
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Serves `sources` on a thread of its own, so that a reader never delays the agent's work.
///
/// Root and `allow_uids` may read; the kernel identifies the reader (SO_PEERCRED). Root in another user
/// namespace is not root here.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(path: &Path, allow_uids: &[u32], sources: Sources) -> Result<StateServer, ServeError> {
    let listener = listen_on(path, allow_uids.is_empty())?;
    let io = |what, error| ServeError::Io { what, path: path.to_owned(), error };
    let inode = fs::symlink_metadata(path).map_err(|error| io("looking at", error))?;
    let runtime = usernsd_tasks::runtime(1).map_err(|error| io("serving", error))?;
    let listener = {
        let _entered = runtime.enter();
        UnixListener::from_std(listener).map_err(|error| io("serving", error))?
    };
    let (stop, stopped) = oneshot::channel();
    let allowed = allow_uids.to_vec();
    let thread = std::thread::Builder::new()
        .name("state".into())
        .spawn(move || runtime.block_on(accept(listener, allowed, Arc::new(sources), stopped)))
        .map_err(|error| io("starting a thread for", error))?;
    let inode = (inode.dev(), inode.ino());
    Ok(StateServer { path: path.to_owned(), inode, stop: Some(stop), thread: Some(thread) })
}

// === impl StateServer ===

impl StateServer {
    /// The path on which the server listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StateServer {
    fn drop(&mut self) {
        // Only this server's own socket: a successor may have replaced it.
        let own =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if own && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(error = %chain(&error), path = %self.path.display(), "could not remove the state socket");
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the state server panicked");
        }
    }
}

fn listen_on(path: &Path, root_only: bool) -> Result<net::UnixListener, ServeError> {
    let io = |what, error: io::Error| ServeError::Io { what, path: path.to_owned(), error };
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(|error| io("making the directory of", error))?;
    }
    remove_stale(path)?;

    let address = SocketAddrUnix::new(path).map_err(|errno| io("naming", errno.into()))?;
    let mode = Mode::from_raw_mode(if root_only { 0o660 } else { 0o666 });
    let fd = stream_socket().map_err(|errno| io("making", errno.into()))?;
    // The file gets the descriptor's mode (minus the umask), so it is never more accessible than that.
    fchmod(&fd, mode).map_err(|errno| io("setting the mode of", errno.into()))?;
    bind(&fd, &address).map_err(|errno| io("binding", errno.into()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode.as_raw_mode()))
        .map_err(|error| io("setting the mode of", error))?;
    listen(&fd, 64).map_err(|errno| io("listening on", errno.into()))?;
    Ok(fd.into())
}

fn stream_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes the socket of an agent that no longer runs.
fn remove_stale(path: &Path) -> Result<(), ServeError> {
    let io = |what, error| ServeError::Io { what, path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("looking at", error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    let address = SocketAddrUnix::new(path).map_err(|errno| io("naming", errno.into()))?;
    let fd = stream_socket().map_err(|errno| io("making", errno.into()))?;
    match connect(&fd, &address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(|error| io("removing the stale", error)),
        Err(Errno::NOENT) => Ok(()),
        // EAGAIN: the queue is full, so there is a listener.
        Ok(()) | Err(Errno::AGAIN) => Err(ServeError::InUse(path.to_owned())),
        Err(errno) => Err(io("connecting to", errno.into())),
    }
}

async fn accept(
    listener: UnixListener,
    allowed: Vec<u32>,
    sources: Arc<Sources>,
    mut stopped: oneshot::Receiver<()>,
) {
    let places = Places::new(MAX_CONNECTIONS);
    let watchers = Arc::new(Semaphore::new(MAX_WATCHERS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Probably there are no free descriptors: pause until some are free again.
                tracing::debug!(error = %chain(&error), "could not accept a reader of the state");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(uid) = reader(&stream, &allowed) else { continue };
        let evicted = Arc::new(Notify::new());
        let evict = Arc::clone(&evicted);
        let place = places.take(uid, move || evict.notify_one());
        let (sources, watchers) = (Arc::clone(&sources), Arc::clone(&watchers));
        tokio::spawn(async move {
            let answered = tokio::select! {
                answered = answer(stream, &sources, &watchers, &place) => answered,
                () = evicted.notified() => Err(io::Error::other("another reader took its place")),
            };
            if let Err(error) = answered {
                tracing::debug!(error = %chain(&error), uid, "a reader of the state went away");
            }
        });
    }
}

/// The user ID of the reader, if it may read.
fn reader(stream: &UnixStream, allowed: &[u32]) -> Option<u32> {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || allowed.contains(&peer.uid()) => Some(peer.uid()),
        Ok(peer) => {
            tracing::debug!(uid = peer.uid(), pid = peer.pid(), "this user may not read the state");
            None
        }
        Err(_) => None,
    }
}

/// Serves one reader until it ends.
async fn answer(
    mut stream: UnixStream,
    sources: &Sources,
    watchers: &Semaphore,
    place: &Place<u32>,
) -> io::Result<()> {
    let line = timeout(MAX_TIME, ask(&mut stream)).await.map_err(too_slow)??;
    place.has_asked();
    let text = match Request::parse(&line) {
        Some(Request::State) => (sources.document)(),
        Some(Request::Metrics) => (sources.metrics)().into_bytes(),
        None => request::refusal().into_bytes(),
        Some(Request::Watch) => {
            let Ok(_place) = watchers.try_acquire() else {
                tracing::debug!("too many watchers of the state");
                return Ok(());
            };
            return watch(stream, sources).await;
        }
    };
    timeout(MAX_TIME, stream.write_all(&text)).await.map_err(too_slow)??;
    stream.shutdown().await
}

/// A reader's request line; reading ends at the line's end, at the end of the stream, or at the limit.
async fn ask(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(request::MAX_BYTES);
    while line.len() < request::MAX_BYTES && !line.ends_with(b"\n") {
        let mut bytes = [0; request::MAX_BYTES];
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            break;
        }
        line.extend_from_slice(bytes.get(..read).unwrap_or_default());
    }
    Ok(line)
}

/// Sends a document now and after each change, until the reader ends its side.
async fn watch(mut stream: UnixStream, sources: &Sources) -> io::Result<()> {
    let mut changes = sources.changes.clone();
    loop {
        // Before rendering, so that a change during it causes another document.
        changes.mark_unchanged();
        let text = (sources.document)();
        timeout(MAX_TIME, stream.write_all(&text)).await.map_err(too_slow)??;
        drop(text);
        let more = async {
            sleep(PACE).await;
            tokio::select! {
                changed = changes.changed() => changed.is_ok(),
                () = sleep(HEARTBEAT - PACE) => true,
            }
        };
        let mut byte = [0];
        let goes_on = tokio::select! {
            more = more => more,
            // The reader has sent more, or has left.
            _ = stream.read(&mut byte) => false,
        };
        if !goes_on {
            return Ok(());
        }
    }
}

fn too_slow(_: tokio::time::error::Elapsed) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it was too slow")
}
