//! The container runtime over CRI v1 (`proto/cri-v1.proto`), on its unix socket.
//!
//! [`Cri`] is the client; [`sockets`] finds the sockets to try. All calls are read-only: nothing here changes a
//! container. [`info`] parses the runtime's messages, with the text that only verbose answers contain (process, OCI
//! specification), into the values of [`answer`].

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use hyper_util::rt::TokioIo;
use prost::Message;
use prost::bytes::Bytes;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

pub use self::answer::{
    ContainerEvent, ContainerEventKind, CriSandbox, Document, End, InspectedContainer, InspectedSandbox,
    ListedContainer, RuntimeVersion,
};
use self::codec::InPlace;
pub use self::discover::{Endpoints, discover, endpoints, sockets};
use self::v1::runtime_service_client::RuntimeServiceClient;
use usernsd_domain::check::runtime::Handler;
use usernsd_domain::container::CriId;

mod answer;
mod codec;
mod discover;
mod info;

/// The generated protocol types. Public for programs that create pods, such as a test harness; the agent
/// itself uses [`Cri`] and never these types.
pub use usernsd_proto::cri as v1;

/// Time limit of one call. A healthy runtime answers in milliseconds; the kubelet itself gives up after two
/// minutes. Ten seconds suffice on a node under heavy load, and the next resync tries again.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The longest answer that is accepted, in bytes: 16 MiB, like the kubelet's limit (tonic's default of 4 MiB
/// is less than a verbose status with many mounts and environment variables).
pub const ANSWER_LIMIT: usize = 16 << 20;

/// Called with the method of each request that fails. The answer of a runtime that does not have or implement something is
/// no failure.
pub type OnFailure = Arc<dyn Fn(&'static str) + Send + Sync>;

/// See [`Cri::reporting`].
#[derive(Clone, Default)]
struct Failures(Option<OnFailure>);

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Failures").field(&self.0.is_some()).finish()
    }
}

/// A client of a runtime's CRI socket. It connects at the first call, and reconnects after the runtime
/// restarted. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Cri {
    path: PathBuf,
    client: RuntimeServiceClient<Channel>,
    channel: Channel,
    deadline: Duration,
    failures: Failures,
}

/// Why a call has no usable answer.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum CriError {
    /// The socket has no listener, or the connection broke.
    #[error(
        "cannot reach the container runtime at {}: {reason}; check that it runs and listens there, \
         and in a pod mount the socket's directory (a runtime makes a new socket at each start)",
        path.display()
    )]
    Unreachable {
        /// Path of the socket.
        path: PathBuf,
        /// Message of the kernel or the connection.
        reason: String,
    },
    /// Only root may connect to the socket.
    #[error("the container runtime's socket {} is not yours to use; become root", .0.display())]
    Denied(PathBuf),
    /// The runtime accepted the call and did not answer in time.
    #[error("{call}: no answer from {} within {within:?}", path.display())]
    Deadline {
        /// The CRI method.
        call: &'static str,
        /// Path of the socket.
        path: PathBuf,
        /// The time limit.
        within: Duration,
    },
    /// The runtime has no such sandbox or container (any more).
    #[error("{call}: not found: {message}")]
    NotFound {
        /// The CRI method.
        call: &'static str,
        /// The runtime's message.
        message: String,
    },
    /// The runtime is too old for this call (CRI-O ≤ 1.24 and containerd ≤ 1.6 have no events).
    #[error("{call}: this runtime does not implement it")]
    Unimplemented {
        /// The CRI method.
        call: &'static str,
    },
    /// The runtime refused the call.
    #[error("{call}: {message} ({code})")]
    Refused {
        /// The CRI method.
        call: &'static str,
        /// Name of the gRPC status code.
        code: String,
        /// The runtime's message.
        message: String,
    },
    /// The answer does not have the expected content.
    #[error("{call}: unreadable answer: {reason}")]
    Answer {
        /// The CRI method.
        call: &'static str,
        reason: String,
    },
}

/// No runtime answered.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{}", self.text())]
pub struct NoAnswer {
    /// The error of each socket that was tried; empty if there was none.
    pub errors: Vec<CriError>,
}

// === impl NoAnswer ===

impl NoAnswer {
    fn text(&self) -> String {
        if self.errors.is_empty() {
            return "no CRI socket of CRI-O or containerd is there; name it with --cri-endpoint".to_owned();
        }
        self.errors.iter().map(CriError::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// Finds the first runtime that answers, and its version.
///
/// # Errors
/// No runtime answers.
pub async fn first_answering(
    runtimes: impl IntoIterator<Item = Cri>,
) -> Result<(Cri, RuntimeVersion), NoAnswer> {
    let mut errors = Vec::new();
    for cri in runtimes {
        match cri.version().await {
            Ok(version) => return Ok((cri, version)),
            Err(error) => errors.push(error),
        }
    }
    Err(NoAnswer { errors })
}

// === impl Cri ===

impl Cri {
    /// Makes a client for the socket at `path`; nothing is opened yet. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Cri {
        let path = path.into();
        let socket = path.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        // The address is never resolved; gRPC needs one for its :authority header. No keepalive pings: a
        // server in Go closes connections that ping more often than every five minutes.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        let client = RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT);
        Cri { path, client, channel, deadline: DEADLINE, failures: Failures::default() }
    }

    /// Replaces [`DEADLINE`] as the time limit of each call.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Cri {
        Cri { deadline, ..self }
    }

    /// Calls `failed` with the method of each request that fails.
    #[must_use]
    pub fn reporting(self, failed: OnFailure) -> Cri {
        Cri { failures: Failures(Some(failed)), ..self }
    }

    /// Path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The runtime's name and version.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn version(&self) -> Result<RuntimeVersion, CriError> {
        let request = v1::VersionRequest { version: "v1".to_owned() };
        let answer = self.noted("Version", self.call("Version", self.client().version(request)).await)?;
        Ok(RuntimeVersion {
            name: answer.runtime_name,
            version: answer.runtime_version,
            api_version: answer.runtime_api_version,
        })
    }

    /// The runtime handlers and their features; the default one has an empty name. Runtimes before CRI 1.30
    /// list none.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn handlers(&self) -> Result<Vec<Handler>, CriError> {
        let request = v1::StatusRequest { verbose: false };
        let answer = self.noted("Status", self.call("Status", self.client().status(request)).await)?;
        let handler = |handler: v1::RuntimeHandler| Handler {
            user_namespaces: handler.features.is_some_and(|features| features.user_namespaces),
            name: handler.name,
        };
        Ok(answer.runtime_handlers.into_iter().map(handler).collect())
    }

    /// All sandboxes, including stopped ones.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn sandboxes(&self) -> Result<Vec<CriSandbox>, CriError> {
        const CALL: &str = "ListPodSandbox";
        let request = v1::ListPodSandboxRequest { filter: None };
        self.list(CALL, &request, |answer| info::listed_sandboxes(CALL, answer)).await
    }

    /// Returns a sandbox; `None` if the runtime has no such sandbox.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn sandbox(&self, id: &CriId) -> Result<Option<InspectedSandbox>, CriError> {
        const CALL: &str = "PodSandboxStatus";
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose: true };
        if_found(self.ask(CALL, &request, |answer| info::sandbox(CALL, answer)).await)
    }

    /// All containers, whatever their state.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn containers(&self) -> Result<Vec<ListedContainer>, CriError> {
        const CALL: &str = "ListContainers";
        let request = v1::ListContainersRequest { filter: None };
        self.list(CALL, &request, |answer| info::listed_containers(CALL, answer)).await
    }

    /// Returns a container with its process and specification; `None` if the runtime has no such container.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn container(&self, id: &CriId) -> Result<Option<InspectedContainer>, CriError> {
        const CALL: &str = "ContainerStatus";
        let request = v1::ContainerStatusRequest { container_id: id.to_string(), verbose: true };
        if_found(self.ask(CALL, &request, |answer| info::container(CALL, answer)).await)
    }

    /// How a container ended; `None` if it has not ended or was removed. Cheaper than [`Cri::container`].
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn end(&self, id: &CriId) -> Result<Option<End>, CriError> {
        const CALL: &str = "ContainerStatus";
        let request = v1::ContainerStatusRequest { container_id: id.to_string(), verbose: false };
        match self.ask(CALL, &request, |answer| info::end(CALL, answer)).await {
            Err(CriError::NotFound { .. }) => Ok(None),
            answer => answer,
        }
    }

    /// Container events from now on. The first poll subscribes.
    ///
    /// A stream that ends at once without an event means that events are not available: CRI-O does so if
    /// `enable_pod_events` is off, its default; pause before subscribing again. The stream also ends if the
    /// runtime stops. CRI-O ≤ 1.27 delivers each event to only one subscriber, so that subscribing takes
    /// events from the kubelet. A subscription is not confirmed: the runtime's first bytes may come with the
    /// first event. So there is no deadline, and silence proves nothing.
    ///
    /// Kinds that this protocol version does not define are left out.
    pub fn events(&self) -> impl Stream<Item = Result<ContainerEvent, CriError>> + Send + 'static + use<> {
        const CALL: &str = "GetContainerEvents";
        let cri = self.clone();
        let subscribe = async move {
            let request = tonic::Request::new(v1::GetEventsRequest {}.encode_to_vec());
            let codec = InPlace::new(|message: &Bytes| info::event(CALL, message));
            let opened = async { cri.grpc().await?.server_streaming(request, method(CALL), codec).await };
            let opened = opened.await.map_err(|status| cri.error(CALL, &status));
            let messages = cri.noted(CALL, opened)?.into_inner();
            Ok(messages.filter_map(move |message| {
                let event = match message {
                    Ok(event) => event.transpose(),
                    Err(status) => Some(Err(cri.error(CALL, &status))),
                };
                std::future::ready(event.map(|event| cri.noted(CALL, event)))
            }))
        };
        stream::once(subscribe).try_flatten()
    }

    /// Calls need `&mut`; a clone is only another reference to the same connection.
    fn client(&self) -> RuntimeServiceClient<Channel> {
        self.client.clone()
    }

    /// Calls a list method. Only one at a time in this process, because each answer may have 16 MiB.
    async fn list<T: Send + Sync + 'static>(
        &self,
        call: &'static str,
        request: &impl Message,
        read: fn(&Bytes) -> Result<T, CriError>,
    ) -> Result<T, CriError> {
        static ONE: Semaphore = Semaphore::const_new(1);
        let asking = async {
            // The semaphore is never closed, so this cannot fail.
            let _turn = ONE.acquire().await;
            self.unary(call, request, read).await
        };
        self.noted(call, self.call(call, asking).await.flatten())
    }

    /// Calls any other method.
    async fn ask<T: Send + Sync + 'static>(
        &self,
        call: &'static str,
        request: &impl Message,
        read: fn(&Bytes) -> Result<T, CriError>,
    ) -> Result<T, CriError> {
        self.noted(call, self.call(call, self.unary(call, request, read)).await.flatten())
    }

    async fn unary<T: Send + Sync + 'static>(
        &self,
        call: &'static str,
        request: &impl Message,
        read: fn(&Bytes) -> Result<T, CriError>,
    ) -> Result<tonic::Response<Result<T, CriError>>, tonic::Status> {
        let request = tonic::Request::new(request.encode_to_vec());
        self.grpc().await?.unary(request, method(call), InPlace::new(read)).await
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, tonic::Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT);
        grpc.ready().await.map_err(|error| tonic::Status::from_error(Box::new(error)))?;
        Ok(grpc)
    }

    /// Waits for one answer. On a timeout the call is dropped, which cancels it in the runtime.
    async fn call<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CriError> {
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.error(call, &status)),
            Err(_) => Err(CriError::Deadline { call, path: self.path.clone(), within: self.deadline }),
        }
    }

    /// Reports a failure; returns the answer as it is.
    fn noted<T>(&self, call: &'static str, answer: Result<T, CriError>) -> Result<T, CriError> {
        answer.inspect_err(|error| {
            let is_answer = matches!(error, CriError::NotFound { .. } | CriError::Unimplemented { .. });
            if let Failures(Some(failed)) = &self.failures
                && !is_answer
            {
                failed(call);
            }
        })
    }

    fn error(&self, call: &'static str, status: &tonic::Status) -> CriError {
        // A status with a source was made on this side of the socket, not by the runtime.
        if let Some(cause) = std::error::Error::source(status) {
            let causes = || std::iter::successors(Some(cause), |error| error.source());
            let is_denied = |cause: &(dyn std::error::Error + 'static)| {
                let error = cause.downcast_ref::<std::io::Error>();
                error.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
            };
            if causes().any(is_denied) {
                return CriError::Denied(self.path.clone());
            }
            let reason = causes().last().unwrap_or(cause).to_string();
            return CriError::Unreachable { path: self.path.clone(), reason };
        }
        let message = status.message().to_owned();
        match status.code() {
            tonic::Code::NotFound => CriError::NotFound { call, message },
            tonic::Code::Unimplemented => CriError::Unimplemented { call },
            code => CriError::Refused { call, code: format!("{code:?}"), message },
        }
    }
}

/// `None` for what the runtime does not have.
fn if_found<T>(answer: Result<T, CriError>) -> Result<Option<T>, CriError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(CriError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path of a method.
fn method(call: &'static str) -> PathAndQuery {
    let path = format!("/runtime.v1.RuntimeService/{call}");
    // Names of methods consist of letters, so the path is valid.
    PathAndQuery::try_from(path).unwrap_or_else(|_| PathAndQuery::from_static("/"))
}
