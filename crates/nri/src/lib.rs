//! The runtime's NRI socket (Node Resource Interface), on the plugin's side: the runtime calls before it
//! creates and before it starts a container, and waits for the answer.
//!
//! The runtime holds one lock around every event, so calls never overlap, and a slow answer delays every
//! container of the node. After [`NriRuntime::request_timeout`] the runtime drops the plugin and continues
//! without it. This makes a blocking socket on its own thread the fastest and simplest form. The protocol is
//! NRI's `pkg/api/api.proto` over ttrpc over its `pkg/net/multiplex`, from 0.2 (CRI-O 1.26, containerd 1.7)
//! to 0.12.
//!
//! The crate converts between bytes and values of `usernsd-domain`. It is not part of `usernsd-peers`, because only the
//! agent and the launched plugin use it: nothing else is compiled again after a change here.

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

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use thiserror::Error;

use self::link::{Link, Step};
// Parts that a container's author writes are read field by field (`domain::protobuf`), not by these types.
use usernsd_domain::adjust::Adjustment;
use usernsd_domain::chain::chain;
use usernsd_domain::container::{Container, ContainerState, CriId, Sandbox};
use usernsd_domain::protobuf::Malformed;
use usernsd_proto::nri as proto;

/// Time limit of a registration. The runtime registers one plugin at a time and gives each 5 seconds, so this
/// one may have to wait for another that hangs.
const HANDSHAKE: Duration = Duration::from_secs(12);

/// Buffer size of one read(2), in bytes: more than the message of an ordinary container.
const CHUNK: usize = 64 * 1024;

/// Why a session ended, or an answer was not sent.
#[derive(Debug, Error)]
pub enum NriError {
    /// The socket failed.
    #[error("NRI socket")]
    Io(#[from] io::Error),
    /// The runtime refused the plugin; holds its message.
    #[error("the runtime refused the registration: {0}")]
    Refused(String),
    /// The registration took too long.
    #[error("the runtime did not register the plugin within {0:?}")]
    Silent(Duration),
    /// The caller decided not to join; holds its reason.
    #[error("{0}")]
    Declined(String),
    /// Nothing arrived within the time of [`Session::set_patience`]. The session continues.
    #[error("nothing came from the runtime in time")]
    Quiet,
    /// The connection ended during the registration or within a message.
    #[error("the runtime closed the connection {0}")]
    Closed(&'static str),
    /// Bytes that the protocol does not allow; holds what is wrong with them.
    #[error("malformed NRI message: {0}")]
    Malformed(String),
    /// [`Session::next`] was called before the last request was answered.
    #[error("the runtime still waits for the answer to its last request")]
    Unanswered,
    /// The token belongs to another session, or to a request that does not wait for an answer.
    #[error("this answer belongs to no waiting request")]
    ForeignToken,
    /// The adjustment has this many bytes, too many; the container was refused instead.
    #[error("an adjustment of {0} bytes is too long for NRI")]
    AnswerTooLong(usize),
}

/// Messages that a session ignored because they were malformed or too long. No known runtime sends any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ignored {
    /// Calls and list items that could not be parsed.
    pub unreadable: u64,
    /// Messages without a purpose: a reply to no call, or a call on the wrong connection.
    pub unexpected: u64,
    /// Texts that were cut, and items beyond the limits.
    pub truncated: u64,
    /// Containers that were refused because their description is too long to be read; see
    /// [`Session::refuse_unread`].
    pub refused: u64,
    /// Description of the last unreadable or unexpected message.
    pub last: Option<String>,
}

/// The runtime's description of itself when it configures the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NriRuntime {
    /// `containerd` or `cri-o`.
    pub name: String,
    /// The version as the runtime writes it: `2.1.9+unknown`, `1.36.3`.
    pub version: String,
    /// The version of the NRI library in the runtime; empty before 0.12.
    pub nri_version: String,
    /// For how long the runtime waits for a registration (5 s if it does not specify it).
    pub registration_timeout: Duration,
    /// For how long the runtime waits for an answer before it drops the plugin (2 s if it does not specify
    /// it).
    pub request_timeout: Duration,
    /// The text of the plugin's configuration file (`/etc/nri/conf.d`), which the runtime reads for the
    /// plugins that it launches; empty if there is none, and for a plugin that joins.
    pub config: String,
}

/// A request or notification from the runtime.
#[derive(Debug)]
pub enum Request {
    /// All pods and containers, once after the registration. Already answered.
    Synchronize {
        /// The pods' sandboxes.
        pods: Vec<Sandbox>,
        /// The containers, without mounts and variables, at most 4096. A container whose sandbox is not
        /// listed has no pod and no annotations.
        containers: Vec<(Container, ContainerState)>,
        /// The first few reasons why pods and containers were left out of the lists above.
        unreadable: Vec<NriError>,
    },
    /// A container is about to be created: it has no process and no cgroup yet.
    CreateContainer {
        /// The container's sandbox.
        pod: Sandbox,
        /// The container, without a PID.
        container: Container,
        /// For [`Session::answer_create`].
        token: CreateToken,
    },
    /// A container is about to run its process, which waits in the OCI runtime: its cgroup and its namespaces
    /// exist.
    StartContainer {
        /// The container's sandbox.
        pod: Sandbox,
        /// The container; CRI-O before 1.36 does not report its PID.
        container: Container,
        /// For [`Session::answer_start`].
        token: StartToken,
    },
    /// A container stopped. Already answered.
    ContainerStopped {
        /// CRI ID of the container.
        id: CriId,
    },
    /// A container was removed. Already answered.
    ContainerRemoved {
        /// CRI ID of the container.
        id: CriId,
    },
    /// A sandbox was removed. Already answered.
    PodRemoved {
        /// CRI ID of the sandbox.
        id: CriId,
    },
}

/// Proof that the runtime waits for an answer. Its holder must call [`Session::answer_create`].
#[derive(Debug)]
#[must_use = "the runtime waits for the answer"]
pub struct CreateToken(Token);

/// Proof that the runtime waits for an answer. Its holder must call [`Session::answer_start`].
#[derive(Debug)]
#[must_use = "the runtime waits for the answer"]
pub struct StartToken(Token);

#[derive(Debug)]
struct Token {
    serial: u64,
    stream: u32,
}

/// A registration with the runtime. Dropping it ends the registration; the runtime then continues without the
/// plugin.
#[derive(Debug)]
pub struct Session {
    stream: Arc<UnixStream>,
    link: Link,
    runtime: NriRuntime,
    chunk: Vec<u8>,
}

/// Ends a [`Session`] from another thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<UnixStream>);

// === impl NriError ===

impl From<Malformed> for NriError {
    fn from(error: Malformed) -> NriError {
        NriError::Malformed(chain(&error))
    }
}

impl NriError {
    /// Puts the message's name before the description of the error.
    fn within(self, what: &str) -> NriError {
        match self {
            NriError::Malformed(why) => NriError::Malformed(format!("{what}: {why}")),
            other => other,
        }
    }
}

// === impl Session ===

impl Session {
    /// Registers with the runtime on `socket` under `name`, at the position `index` (two digits; plugins are
    /// called in ascending order), for the events in [`Request`].
    ///
    /// Blocks for at most 12 seconds.
    ///
    /// # Errors
    /// There is no such socket, or the runtime refuses, hangs up, stays silent or speaks another protocol.
    pub fn connect(socket: &Path, name: &str, index: &str) -> Result<Session, NriError> {
        Session::over(UnixStream::connect(socket)?, name, index)
    }

    /// Like [`Session::connect`], but asks `agree` at the last moment at which nothing in the runtime waits
    /// for the plugin: before Configure is answered. The runtime waits 2 s for that answer; afterwards it
    /// takes its lock and sends its list, and other calls wait for both.
    ///
    /// # Errors
    /// See [`Session::connect`]; [`NriError::Declined`] with the reason that `agree` returned, which the
    /// runtime logs.
    pub fn connect_if(
        socket: &Path,
        name: &str,
        index: &str,
        agree: impl FnOnce(&NriRuntime) -> Result<(), String>,
    ) -> Result<Session, NriError> {
        Session::register(Link::new(), UnixStream::connect(socket)?, name, index, HANDSHAKE, agree)
    }

    /// Like [`Session::connect`], on an existing connection: the socket that a plugin inherits from the
    /// runtime that launches it (`NRI_PLUGIN_SOCKET`). `name` and `index` then come from the environment.
    ///
    /// # Errors
    /// See [`Session::connect`].
    pub fn over(stream: UnixStream, name: &str, index: &str) -> Result<Session, NriError> {
        Session::register(Link::new(), stream, name, index, HANDSHAKE, |_| Ok(()))
    }

    /// Like [`Session::over`], for a launched plugin that does not need the list of containers: the runtime
    /// sends the list, but it is neither parsed nor kept. Asks `agree` as [`Session::connect_if`] does.
    ///
    /// # Errors
    /// See [`Session::connect_if`].
    pub fn launched(
        stream: UnixStream,
        name: &str,
        index: &str,
        agree: impl FnOnce(&NriRuntime) -> Result<(), String>,
    ) -> Result<Session, NriError> {
        let mut link = Link::new();
        link.skips_list = true;
        Session::register(link, stream, name, index, HANDSHAKE, agree)
    }

    /// Returns when Configure has been answered: the runtime sends it only to a registered plugin, sometimes
    /// before the reply to `RegisterPlugin`, which [`Link`] then accepts at any later time.
    fn register(
        mut link: Link,
        stream: UnixStream,
        name: &str,
        index: &str,
        limit: Duration,
        agree: impl FnOnce(&NriRuntime) -> Result<(), String>,
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
        // From here on, silence of the runtime is normal.
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        Ok(Session { stream, link, runtime, chunk })
    }

    /// Sets whether to refuse a container whose description is longer than a message may be, instead of
    /// letting it continue as without a plugin. Without the description, the isolation that its pod requested
    /// cannot be verified.
    pub fn refuse_unread(&mut self, refuse: bool) {
        self.link.refuses_unread = refuse;
    }

    /// The runtime's description of itself.
    #[must_use]
    pub fn runtime(&self) -> &NriRuntime {
        &self.runtime
    }

    /// The process that listens on the runtime's socket, in this PID namespace. If it changes, the runtime
    /// was restarted. `None` if the kernel does not report it.
    #[must_use]
    pub fn peer(&self) -> Option<i32> {
        // Not rustix: its PIDs cannot be 0, which is what the kernel returns for a process of another PID namespace.
        let credentials = getsockopt(&self.stream, PeerCredentials).ok()?;
        Some(credentials.pid()).filter(|pid| *pid > 0)
    }

    /// The messages that this session has ignored so far.
    #[must_use]
    pub fn ignored(&self) -> &Ignored {
        &self.link.ignored
    }

    /// A handle with which another thread can end this session.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.stream))
    }

    /// Limits how long [`Session::next`] waits, from now on; `None` means no limit.
    ///
    /// # Errors
    /// The time limit cannot be set on the socket.
    pub fn set_patience(&self, patience: Option<Duration>) -> Result<(), NriError> {
        Ok(self.stream.set_read_timeout(patience)?)
    }

    /// Waits for the runtime's next request; `None` if the runtime has shut the plugin down.
    ///
    /// Requests that need no decision are answered before this returns.
    ///
    /// # Errors
    /// The connection failed: drop the session. [`NriError::Quiet`] after the time of
    /// [`Session::set_patience`]. [`NriError::Unanswered`] if the last request has not been answered.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not end with an error once")]
    pub fn next(&mut self) -> Result<Option<Request>, NriError> {
        loop {
            let step = self.link.step()?;
            flush(&self.stream, &mut self.link)?;
            match step {
                Step::Request(request) => return Ok(Some(request)),
                Step::Ended => return Ok(None),
                Step::Configured => {
                    // A second Configure: no known runtime sends it, but nothing forbids it.
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

    /// Answers [`Request::CreateContainer`] with changes to the container, with no changes, or with a
    /// sentence that explains why it must not be created (shown by the kubelet; cut at 2 KiB).
    ///
    /// # Errors
    /// The connection failed, the token belongs to another session, or the adjustment is longer than 512 KiB.
    /// In the last case the container is refused.
    pub fn answer_create(
        &mut self,
        token: CreateToken,
        answer: Result<Option<Adjustment>, String>,
    ) -> Result<(), NriError> {
        let done = self.link.answer_create(token, answer);
        flush(&self.stream, &mut self.link)?;
        done
    }

    /// Answers [`Request::StartContainer`]: continue, or a sentence that explains why not (cut at 2 KiB). On
    /// a refusal containerd fails the start; CRI-O only logs it and **starts the container anyway**. A
    /// refusal that must hold belongs to `CreateContainer`.
    ///
    /// # Errors
    /// The connection failed, or the token belongs to another session.
    pub fn answer_start(&mut self, token: StartToken, answer: Result<(), String>) -> Result<(), NriError> {
        self.link.answer_start(token, answer)?;
        flush(&self.stream, &mut self.link)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A Stopper may outlive the session and keeps the socket open, so it is shut down here: the runtime
        // must not wait. An error means that the connection has ended already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

// === impl Stopper ===

impl Stopper {
    /// Ends the session: a waiting [`Session::next`] returns `None`. Requests that the runtime has sent
    /// before are still handled and can be answered, because a request that is cut off would leave its
    /// container without the plugin. Calling this again has no effect.
    pub fn stop(&self) {
        // An error means that the connection has ended already.
        let _ = self.0.shutdown(Shutdown::Read);
    }
}

/// Sends all pending output with one write(2).
fn flush(mut stream: &UnixStream, link: &mut Link) -> Result<(), NriError> {
    if !link.out.is_empty() {
        stream.write_all(&link.out)?;
        link.out.clear();
    }
    Ok(())
}

/// Makes one read(2); returns 0 at the end of the stream.
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

/// Parses `bytes` as messages from a runtime to a plugin, refuses every request in them, and returns the
/// number of requests. For the fuzzer (`fuzz/`) and for measurements: the whole path from a frame to a domain
/// value, without a socket.
///
/// # Errors
/// The errors of [`Session::next`].
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
