//! The runtime's NRI socket (Node Resource Interface), as a plugin: the runtime calls before it
//! creates and before it starts a container, and waits for the answer.
//!
//! The runtime holds one lock around every event, so calls never overlap, and a slow answer delays
//! every container of the node; after [`Runtime::request_timeout`] it drops the plugin and goes on
//! without it. That makes a blocking socket on a thread of its own the fastest and simplest form.
//! The protocol is NRI's `pkg/api/api.proto` over ttrpc over its `pkg/net/multiplex`, from 0.2
//! (CRI-O 1.26, containerd 1.7) to 0.12.

mod link;
mod mux;
#[cfg(test)]
mod tests;
mod ttrpc;
mod wire;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use thiserror::Error;

use self::link::{Link, Step};
// What comes from a container's author is read field by field (`domain::protobuf`), not by these.
use usernsd_domain::adjust::Adjustment;
use usernsd_domain::container::{Container, ContainerState, CriId, Sandbox};
use usernsd_domain::protobuf::Malformed;
use usernsd_proto::nri as proto;

/// How long a registration may take. The runtime registers one plugin at a time and gives each 5
/// seconds, so another that hangs is waited for.
const HANDSHAKE: Duration = Duration::from_secs(12);

/// What one read(2) takes: more than the message of an ordinary container.
const CHUNK: usize = 64 * 1024;

/// Why a session ended, or an answer was not sent.
#[derive(Debug, Error)]
pub enum NriError {
    /// The socket failed.
    #[error("NRI socket: {0}")]
    Io(#[from] io::Error),
    /// The runtime does not want the plugin; its own words.
    #[error("the runtime refused the registration: {0}")]
    Refused(String),
    /// The registration took too long.
    #[error("the runtime did not register the plugin within {0:?}")]
    Silent(Duration),
    /// The caller does not want to join, for this reason.
    #[error("{0}")]
    Declined(String),
    /// Nothing came within the time of [`Session::set_patience`]. The session goes on.
    #[error("nothing came from the runtime in time")]
    Quiet,
    /// The connection ended during the registration or within a message.
    #[error("the runtime closed the connection {0}")]
    Closed(&'static str),
    /// Bytes that the protocol does not allow, and what is wrong with them.
    #[error("malformed NRI message: {0}")]
    Malformed(String),
    /// [`Session::next`] before the answer to the last request.
    #[error("the runtime still waits for the answer to its last request")]
    Unanswered,
    /// The token is not that of the request that waits for an answer, or of another session.
    #[error("this answer belongs to no waiting request")]
    ForeignToken,
    /// An adjustment of this many bytes; the runtime was told that the container is refused.
    #[error("an adjustment of {0} bytes is too long for NRI")]
    AnswerTooLong(usize),
}

/// What was passed over in a session because it made no sense or was too long. No runtime is known to
/// send any of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Odd {
    /// Calls, and items of a list, that could not be read.
    pub unreadable: u64,
    /// Messages that belong to nothing: a reply to no call, a call where none can be.
    pub unexpected: u64,
    /// Texts that were cut, and items beyond what is kept.
    pub truncated: u64,
    /// Containers that were refused because their description is too long to be read, see
    /// [`Session::refuse_unread`].
    pub refused: u64,
    /// The last of the first two kinds, in words.
    pub last: Option<String>,
}

/// What the runtime says of itself when it configures the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// `containerd` or `cri-o`.
    pub name: String,
    /// Its version, as it writes it: `2.1.9+unknown`, `1.36.3`.
    pub version: String,
    /// The version of NRI in it; empty before 0.12.
    pub nri_version: String,
    /// How long it waits for a registration (5 s where it does not say).
    pub registration_timeout: Duration,
    /// How long it waits for an answer before it drops the plugin (2 s where it does not say).
    pub request_timeout: Duration,
    /// The text of the plugin's configuration file (`/etc/nri/conf.d`), which the runtime reads for
    /// the plugins that it starts itself; empty where there is none, and for a plugin that joins.
    pub config: String,
}

/// What the runtime wants, or tells.
#[derive(Debug)]
pub enum Request {
    /// All there is, once after the registration. Already answered.
    Synchronize {
        /// The pods' sandboxes.
        pods: Vec<Sandbox>,
        /// The containers, without mounts and variables, at most 4096 of them. One whose sandbox is
        /// not listed has no pod and no annotations.
        containers: Vec<(Container, ContainerState)>,
        /// Why pods and containers of the list are not in these two: the first few reasons.
        unreadable: Vec<NriError>,
    },
    /// A container is about to be created: no process, no cgroup yet.
    CreateContainer {
        /// Its sandbox.
        pod: Sandbox,
        /// The container; without a PID.
        container: Container,
        /// For [`Session::answer_create`].
        token: CreateToken,
    },
    /// A container is about to run its process, which waits in the OCI runtime: its cgroup and
    /// namespaces exist.
    StartContainer {
        /// Its sandbox.
        pod: Sandbox,
        /// The container; CRI-O before 1.36 does not say its PID.
        container: Container,
        /// For [`Session::answer_start`].
        token: StartToken,
    },
    /// A container stopped. Already answered.
    ContainerStopped {
        /// Its ID.
        id: CriId,
    },
    /// A container is gone. Already answered.
    ContainerRemoved {
        /// Its ID.
        id: CriId,
    },
    /// A sandbox is gone. Already answered.
    PodRemoved {
        /// Its ID.
        id: CriId,
    },
}

/// The runtime waits: whoever has this owes [`Session::answer_create`].
#[derive(Debug)]
#[must_use = "the runtime waits for the answer"]
pub struct CreateToken(Token);

/// The runtime waits: whoever has this owes [`Session::answer_start`].
#[derive(Debug)]
#[must_use = "the runtime waits for the answer"]
pub struct StartToken(Token);

#[derive(Debug)]
struct Token {
    serial: u64,
    stream: u32,
}

/// One registration with the runtime. Dropped, it ends; the runtime then goes on without it.
#[derive(Debug)]
pub struct Session {
    stream: Arc<UnixStream>,
    link: Link,
    runtime: Runtime,
    chunk: Vec<u8>,
}

/// Ends a [`Session`] from another thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<UnixStream>);

// === impl NriError ===

impl From<Malformed> for NriError {
    fn from(error: Malformed) -> NriError {
        NriError::Malformed(error.to_string())
    }
}

impl NriError {
    /// The same with the message's name before what is wrong with it.
    fn within(self, what: &str) -> NriError {
        match self {
            NriError::Malformed(why) => NriError::Malformed(format!("{what}: {why}")),
            other => other,
        }
    }
}

// === impl Session ===

impl Session {
    /// Registers with the runtime on `socket` under `name`, at the place `index` (two digits;
    /// plugins are called in ascending order), for the events that [`Request`] names.
    ///
    /// Blocks for 12 seconds at the most.
    ///
    /// # Errors
    /// No such socket, a runtime that refuses, hangs up, stays silent or speaks something else.
    pub fn connect(socket: &Path, name: &str, index: &str) -> Result<Session, NriError> {
        Session::over(UnixStream::connect(socket)?, name, index)
    }

    /// The same, but asks `agree` at the last moment at which nothing of the runtime's waits for the
    /// plugin: before Configure is answered. The runtime waits 2 s for that answer; after it, it takes
    /// its lock and sends its list, and other calls wait for both.
    ///
    /// # Errors
    /// See [`Session::connect`]; [`NriError::Declined`] with the reason of `agree`, which the runtime
    /// logs.
    pub fn connect_if(
        socket: &Path,
        name: &str,
        index: &str,
        agree: impl FnOnce(&Runtime) -> Result<(), String>,
    ) -> Result<Session, NriError> {
        Session::register(Link::new(), UnixStream::connect(socket)?, name, index, HANDSHAKE, agree)
    }

    /// The same on a connection that is there already: the socket that a plugin inherits from a
    /// runtime which starts it (`NRI_PLUGIN_SOCKET`). `name` and `index` are then those of its
    /// environment.
    ///
    /// # Errors
    /// See [`Session::connect`].
    pub fn over(stream: UnixStream, name: &str, index: &str) -> Result<Session, NriError> {
        Session::register(Link::new(), stream, name, index, HANDSHAKE, |_| Ok(()))
    }

    /// The same for a plugin that the runtime starts and that needs no list of what there is: the runtime
    /// sends it, and it is neither read nor kept. Asks `agree` as [`Session::connect_if`] does.
    ///
    /// # Errors
    /// See [`Session::connect_if`].
    pub fn launched(
        stream: UnixStream,
        name: &str,
        index: &str,
        agree: impl FnOnce(&Runtime) -> Result<(), String>,
    ) -> Result<Session, NriError> {
        let mut link = Link::new();
        link.skips_list = true;
        Session::register(link, stream, name, index, HANDSHAKE, agree)
    }

    /// Done once Configure is answered: the runtime sends it only to a registered plugin, and
    /// sometimes before the reply to `RegisterPlugin`, which [`Link`] then takes whenever it comes.
    fn register(
        mut link: Link,
        stream: UnixStream,
        name: &str,
        index: &str,
        limit: Duration,
        agree: impl FnOnce(&Runtime) -> Result<(), String>,
    ) -> Result<Session, NriError> {
        let deadline = Instant::now() + limit;
        let stream = Arc::new(stream);
        let mut chunk = vec![0; CHUNK];
        link.register(name, index);
        let runtime = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NriError::Silent(limit));
            }
            stream.set_read_timeout(Some(left))?;
            stream.set_write_timeout(Some(left))?;
            let done = flush(&stream, &mut link).and_then(|()| match link.step()? {
                Step::Idle => match read(&stream, &mut link, &mut chunk)? {
                    0 => Err(NriError::Closed("before it had registered the plugin")),
                    _ => Ok(None),
                },
                Step::Configured => Ok(link.runtime.take()),
                Step::Ended => Err(NriError::Closed("instead of registering the plugin")),
                Step::Request(_) => Err(NriError::Malformed("a call before Configure".to_owned())),
            });
            match done {
                Ok(None) => {}
                Ok(Some(runtime)) => break runtime,
                Err(NriError::Quiet) => return Err(NriError::Silent(limit)),
                Err(NriError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(NriError::Silent(limit));
                }
                Err(error) => return Err(error),
            }
        };
        if let Err(reason) = agree(&runtime) {
            link.decline(&reason);
            flush(&stream, &mut link)?;
            return Err(NriError::Declined(reason));
        }
        flush(&stream, &mut link)?;
        // From here on, silence is normal.
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        Ok(Session { stream, link, runtime, chunk })
    }

    /// Whether to refuse a container whose description is longer than a message may be, instead of letting it
    /// go on as without a plugin: nobody can see whether it has the isolation that its pod asked for.
    pub fn refuse_unread(&mut self, refuse: bool) {
        self.link.refuses_unread = refuse;
    }

    /// What the runtime said of itself.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The process that listens on the runtime's socket, in this PID namespace: another one means that
    /// the runtime was started anew. `None` where the kernel does not tell.
    #[must_use]
    pub fn peer(&self) -> Option<i32> {
        let credentials =
            nix::sys::socket::getsockopt(&self.stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
        Some(credentials.pid()).filter(|pid| *pid > 0)
    }

    /// What was passed over so far.
    #[must_use]
    pub fn odd(&self) -> &Odd {
        &self.link.odd
    }

    /// A handle to end this session with, from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.stream))
    }

    /// For how long [`Session::next`] waits at the most, from now on; without an argument as long as it
    /// takes.
    ///
    /// # Errors
    /// The socket takes no time limit.
    pub fn set_patience(&self, patience: Option<Duration>) -> Result<(), NriError> {
        Ok(self.stream.set_read_timeout(patience)?)
    }

    /// Waits for the runtime's next request; `None` when it is done with the plugin.
    ///
    /// Whatever needs no decision is answered before this returns.
    ///
    /// # Errors
    /// The connection failed: drop the session. [`NriError::Quiet`] after the time of
    /// [`Session::set_patience`]. [`NriError::Unanswered`] when the last request has not been answered.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not end with an error once")]
    pub fn next(&mut self) -> Result<Option<Request>, NriError> {
        loop {
            let step = self.link.step()?;
            flush(&self.stream, &mut self.link)?;
            match step {
                Step::Request(request) => return Ok(Some(request)),
                Step::Ended => return Ok(None),
                Step::Configured => {
                    // Not seen from any runtime, and nothing forbids it.
                    self.runtime = self.link.runtime.take().unwrap_or_else(|| self.runtime.clone());
                }
                Step::Idle => {
                    if read(&self.stream, &mut self.link, &mut self.chunk)? == 0 {
                        return if self.link.inbox.is_between_messages() {
                            Ok(None)
                        } else {
                            Err(NriError::Closed("within a message"))
                        };
                    }
                }
            }
        }
    }

    /// Answers [`Request::CreateContainer`]: changes to the container, none, or a sentence that
    /// says why it must not be (the kubelet shows it; cut at 2 KiB).
    ///
    /// # Errors
    /// The connection failed, the token is another session's, or the adjustment is longer than
    /// 512 KiB: the container is then refused.
    pub fn answer_create(
        &mut self,
        token: CreateToken,
        answer: Result<Option<Adjustment>, String>,
    ) -> Result<(), NriError> {
        let done = self.link.answer_create(token, answer);
        flush(&self.stream, &mut self.link)?;
        done
    }

    /// Answers [`Request::StartContainer`]: go on, or a sentence that says why not (cut at 2 KiB).
    ///
    /// containerd then fails the start; CRI-O only logs it and **starts the container anyway**, so
    /// a refusal that must hold belongs to `CreateContainer`.
    ///
    /// # Errors
    /// The connection failed, or the token is another session's.
    pub fn answer_start(&mut self, token: StartToken, answer: Result<(), String>) -> Result<(), NriError> {
        self.link.answer_start(token, answer)?;
        flush(&self.stream, &mut self.link)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A Stopper may outlive the session and keeps the socket open: the runtime shall not wait.
        // An error says that the connection has ended already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

// === impl Stopper ===

impl Stopper {
    /// Ends the session: a [`Session::next`] that waits returns `None`. What the runtime has sent until
    /// now is handled first, and can be answered: a request that is cut off would leave its container
    /// without the plugin. Ending it twice is fine.
    pub fn stop(&self) {
        // An error says that the connection has ended already.
        let _ = self.0.shutdown(Shutdown::Read);
    }
}

/// Whether this process, such as a [`Session::peer`], is still there. Asked of the kernel itself: a /proc with
/// `hidepid=` does not show all.
#[must_use]
pub fn lives(pid: i32) -> bool {
    let open = |pid| pidfd_open(pid, PidfdFlags::empty());
    Pid::from_raw(pid).is_some_and(|pid| !matches!(open(pid), Err(Errno::SRCH)))
}

/// One write(2) for all that is to be said.
fn flush(mut stream: &UnixStream, link: &mut Link) -> Result<(), NriError> {
    if !link.out.is_empty() {
        stream.write_all(&link.out)?;
        link.out.clear();
    }
    Ok(())
}

/// One read(2); 0 at the end of the stream.
fn read(mut stream: &UnixStream, link: &mut Link, chunk: &mut [u8]) -> Result<usize, NriError> {
    let count = loop {
        match stream.read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(NriError::Quiet),
            result => break result?,
        }
    };
    link.inbox.accept(chunk.get(..count).unwrap_or_default());
    Ok(count)
}

/// Reads `bytes` as what a runtime might send to a plugin, refuses whatever it asks, and returns
/// how many requests there were. For the fuzzer (`fuzz/`) and measurements: the whole way from a
/// frame to a domain value, without a socket.
///
/// # Errors
/// What [`Session::next`] would say.
pub fn decode_frames(bytes: &[u8]) -> Result<usize, NriError> {
    let mut link = Link::new();
    let mut requests = 0;
    for chunk in bytes.chunks(CHUNK) {
        link.inbox.accept(chunk);
        loop {
            match link.step()? {
                Step::Idle => break,
                Step::Ended => return Ok(requests),
                Step::Configured => continue,
                Step::Request(Request::CreateContainer { token, .. }) => {
                    link.answer_create(token, Err(String::new()))?;
                }
                Step::Request(Request::StartContainer { token, .. }) => {
                    link.answer_start(token, Err(String::new()))?;
                }
                Step::Request(_) => {}
            }
            requests += 1;
        }
        link.out.clear();
    }
    Ok(requests)
}
