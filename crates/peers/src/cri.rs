//! The container runtime, over CRI v1 (`proto/cri-v1.proto`) on its unix socket.
//!
//! [`Cri`] asks; [`discover`](fn@discover) finds the socket. Read-only: nothing here changes a container.
//! What only the verbose answers hold (process, OCI specification) is read in [`info`].

use std::collections::BTreeMap;
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

use self::codec::InPlace;
pub use self::discover::{RuntimeKind, discover};
use self::v1::runtime_service_client::RuntimeServiceClient;
use usernsd_domain::check::runtime::Handler;
use usernsd_domain::container::{ContainerState, CriId, PodName, UserNamespaceRequest};
use usernsd_domain::idmap::IdMap;

mod codec;
mod discover;
mod info;

/// The protocol, generated. Public for programs that create pods, such as a test harness; the
/// agent's own code uses [`Cri`] and never these types.
pub use usernsd_proto::cri as v1;

/// The CRI sockets to try, looked for anew each time: a runtime may be installed later.
pub type Endpoints = Arc<dyn Fn() -> Vec<PathBuf> + Send + Sync>;

/// How long one call may take. A healthy runtime answers in milliseconds; the kubelet itself gives
/// up after two minutes. Ten seconds outlast a node under heavy load, and the next resync asks
/// again.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The largest answer taken, in bytes: 16 MiB, as the kubelet does (tonic's default of 4 MiB is
/// less than a verbose status with many mounts and environment variables).
pub const ANSWER_LIMIT: usize = 16 << 20;

/// The label keys the kubelet gives every sandbox and container
/// (k8s.io/kubelet `pkg/types/labels.go`).
const LABEL_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const LABEL_NAME: &str = "io.kubernetes.pod.name";
const LABEL_UID: &str = "io.kubernetes.pod.uid";

/// A runtime's CRI socket. Connects at the first call, and again by itself after the runtime
/// restarted; clones share one connection.
#[derive(Debug, Clone)]
pub struct Cri {
    path: PathBuf,
    client: RuntimeServiceClient<Channel>,
    channel: Channel,
    deadline: Duration,
}

/// Why a runtime gave no usable answer.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum CriError {
    /// Nobody answers on the socket, or the connection broke.
    #[error(
        "cannot reach the container runtime at {}: {reason}; check that it runs and listens there, \
         and in a pod mount the socket's directory (a runtime makes its socket anew at each start)",
        path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The socket is root's.
    #[error("the container runtime's socket {} is not yours to use; become root", .0.display())]
    Denied(PathBuf),
    /// The runtime took the call and did not finish it.
    #[error("{call}: no answer from {} within {within:?}", path.display())]
    Deadline {
        /// The CRI method.
        call: &'static str,
        /// The socket.
        path: PathBuf,
        /// The time it had.
        within: Duration,
    },
    /// The runtime does not know that sandbox or container (any more).
    #[error("{call}: not found: {message}")]
    NotFound {
        /// The CRI method.
        call: &'static str,
        /// The runtime's words.
        message: String,
    },
    /// The runtime is too old for that call (CRI-O ≤ 1.24 and containerd ≤ 1.6 have no events).
    #[error("{call}: this runtime does not implement it")]
    Unimplemented {
        /// The CRI method.
        call: &'static str,
    },
    /// The runtime refused, with its own words.
    #[error("{call}: {message} ({code})")]
    Refused {
        /// The CRI method.
        call: &'static str,
        /// gRPC's name of the failure.
        code: String,
        /// The runtime's words.
        message: String,
    },
    /// The answer arrived and makes no sense.
    #[error("{call}: unreadable answer: {reason}")]
    Answer {
        /// The CRI method.
        call: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// No runtime answered.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{}", self.text())]
pub struct NoAnswer {
    /// Why not, for each socket; nothing if there was none to try.
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

/// The first runtime that answers, and its version.
///
/// # Errors
/// None does.
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

/// Who the runtime says it is (CRI `VersionResponse`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// `cri-o` or `containerd`.
    pub name: String,
    /// The runtime's version, e.g. `1.36.3`; containerd adds a suffix, e.g. `2.1.9+unknown`.
    pub version: String,
    /// The CRI version: `v1`.
    pub api_version: String,
}

/// A sandbox as the runtime lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriSandbox {
    /// Its ID.
    pub id: CriId,
    /// Its pod.
    pub pod: PodName,
    /// The pod's annotations, without those that CRI-O's configuration does not allow: it drops
    /// them without a word. In a list those that mean something ([`heeded`](usernsd_domain::heeded)).
    pub annotations: BTreeMap<String, String>,
    /// The annotations are left out: those of all pods in the list were too much. [`Cri::sandbox`] has
    /// them.
    pub is_cut: bool,
    /// What all its annotations and labels take, in bytes.
    pub size: u64,
    /// Ready; otherwise stopped.
    pub ready: bool,
    /// The runtime handler, empty for the default one. CRI-O leaves it empty in lists;
    /// [`Cri::sandbox`] finds it.
    pub runtime_handler: String,
}

/// A sandbox and what its pod asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedSandbox {
    /// What a list would say; here with the runtime handler on CRI-O too.
    pub sandbox: CriSandbox,
    /// What the kubelet asked for: `None` where it said nothing (no `userns_options`: an old
    /// kubelet, or CRI-O's annotation). An echo of the request, never proof of a user namespace.
    pub request: Option<UserNamespaceRequest>,
    /// The user IDs the kubelet chose for the pod; empty where it chose none.
    pub uids: IdMap,
    /// The sandbox's own process; `None` where it has none (CRI-O without infra container).
    pub pid: Option<u32>,
    /// Whether the pod shares the node's network.
    pub host_network: bool,
}

/// A container as the runtime lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedContainer {
    /// Its ID.
    pub id: CriId,
    /// Its sandbox.
    pub sandbox_id: String,
    /// Its name in the pod.
    pub name: String,
    /// Its pod by the kubelet's labels; empty for containers that no kubelet made.
    pub pod: PodName,
    /// Its state.
    pub state: ContainerState,
    /// When it was made, in nanoseconds since the Unix epoch, by the runtime's clock.
    pub created_at_ns: i64,
}

/// A container with what only the verbose status tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// What a list would say.
    pub container: ListedContainer,
    /// Its init process in the runtime's PID namespace. Both runtimes keep it after the process
    /// ended, when the number may be another's: see `state`. `None` before there is a process.
    pub pid: Option<u32>,
    /// Privileged, where the runtime says.
    pub privileged: Option<bool>,
    /// When it was made, in nanoseconds since 1970 by the runtime's clock.
    pub created_at_ns: i64,
    /// How it ended; `None` while it has not.
    pub end: Option<End>,
    /// The file of its standard output and error; empty where it has none.
    pub log_path: String,
    /// How often the kubelet had made a container of that name in that pod before; `None` where no kubelet
    /// made it.
    pub restarts: Option<u32>,
    /// The OCI specification (`config.json`) as the runtime recorded it at creation.
    pub spec_json: Document,
}

/// A text of an answer, which it keeps in memory instead of a copy.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(Bytes);

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its exit code.
    pub code: i32,
    /// When, in nanoseconds since 1970 by the runtime's clock.
    pub at_ns: i64,
    /// The runtime's word, such as `Error` or `OOMKilled`.
    pub reason: String,
    /// The runtime's sentence, mostly where it could not be started.
    pub message: String,
}

/// What happened to a container (CRI `ContainerEventType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContainerEventKind {
    /// Made. On CRI-O its cgroup exists and nothing ran yet; on containerd there is no cgroup yet.
    Created,
    /// Started; usually it already ran some instructions.
    Started,
    /// Ended.
    Stopped,
    /// Removed.
    Deleted,
}

/// One event. Sandboxes have events too: then `id` is `sandbox_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// What happened.
    pub kind: ContainerEventKind,
    /// The container or sandbox.
    pub id: CriId,
    /// Its sandbox; empty where the runtime does not say.
    pub sandbox_id: String,
    /// When, in nanoseconds since 1970 by the runtime's clock.
    pub created_at_ns: i64,
}

// === impl Document ===

impl Document {
    /// A part of an answer.
    fn within(answer: &Bytes, part: &str) -> Document {
        Document(answer.slice_ref(part.as_bytes()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // It was made of a text.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::ops::Deref for Document {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

// === impl Cri ===

impl Cri {
    /// Takes the socket's path; nothing is opened yet. To be called inside the tokio runtime.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Cri {
        let path = path.into();
        let socket = path.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        // The address is never looked up; gRPC wants one for its :authority header. No keepalive
        // pings: Go's server ends connections that ping oftener than every five minutes.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        let client = RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT);
        Cri { path, client, channel, deadline: DEADLINE }
    }

    /// Another deadline than [`DEADLINE`] for each call.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Cri {
        Cri { deadline, ..self }
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who is there.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn version(&self) -> Result<RuntimeVersion, CriError> {
        let request = v1::VersionRequest { version: "v1".to_owned() };
        let answer = self.call("Version", self.client().version(request)).await?;
        Ok(RuntimeVersion {
            name: answer.runtime_name,
            version: answer.runtime_version,
            api_version: answer.runtime_api_version,
        })
    }

    /// What each runtime handler can; the default one has an empty name. Runtimes before CRI 1.30
    /// list none.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn handlers(&self) -> Result<Vec<Handler>, CriError> {
        let request = v1::StatusRequest { verbose: false };
        let answer = self.call("Status", self.client().status(request)).await?;
        let handler = |handler: v1::RuntimeHandler| Handler {
            user_namespaces: handler.features.is_some_and(|features| features.user_namespaces),
            name: handler.name,
        };
        Ok(answer.runtime_handlers.into_iter().map(handler).collect())
    }

    /// All sandboxes, stopped ones too.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn sandboxes(&self) -> Result<Vec<CriSandbox>, CriError> {
        const CALL: &str = "ListPodSandbox";
        let request = v1::ListPodSandboxRequest { filter: None };
        self.list(CALL, &request, |answer| info::listed_sandboxes(CALL, answer)).await
    }

    /// One sandbox; `None` where the runtime does not know it.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn sandbox(&self, id: &CriId) -> Result<Option<InspectedSandbox>, CriError> {
        const CALL: &str = "PodSandboxStatus";
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose: true };
        match self.ask(CALL, &request, |answer| info::sandbox(CALL, answer)).await {
            Ok(found) => Ok(Some(found)),
            Err(CriError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
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

    /// One container with its process and specification; `None` where the runtime does not know it.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn container(&self, id: &CriId) -> Result<Option<Inspected>, CriError> {
        const CALL: &str = "ContainerStatus";
        let request = v1::ContainerStatusRequest { container_id: id.to_string(), verbose: true };
        match self.ask(CALL, &request, |answer| info::container(CALL, answer)).await {
            Ok(found) => Ok(Some(found)),
            Err(CriError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How a container ended; `None` where it has not, or is gone. Cheaper than [`Cri::container`].
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

    /// What happens from now on. The first poll subscribes.
    ///
    /// A stream that ends at once and without an event means: not available. CRI-O does so where
    /// `enable_pod_events` is off, its default; so pause before asking again. A runtime that stops
    /// ends the stream too. CRI-O ≤ 1.27 gives each event to one subscriber only: subscribing there
    /// takes events from the kubelet. Subscribed does not mean confirmed: the runtime's first bytes
    /// may come with the first event, so there is no deadline either, and silence proves nothing.
    ///
    /// Kinds that this protocol version does not know are left out.
    pub fn events(&self) -> impl Stream<Item = Result<ContainerEvent, CriError>> + Send + 'static + use<> {
        const CALL: &str = "GetContainerEvents";
        let cri = self.clone();
        let subscribe = async move {
            let request = tonic::Request::new(v1::GetEventsRequest {}.encode_to_vec());
            let codec = InPlace::new(|message: &Bytes| info::event(CALL, message));
            let mut grpc = cri.grpc().await.map_err(|status| cri.error(CALL, &status))?;
            let answer = grpc.server_streaming(request, method(CALL), codec).await;
            let messages = answer.map_err(|status| cri.error(CALL, &status))?.into_inner();
            Ok(messages.filter_map(move |message| {
                let event = match message {
                    Ok(event) => event.transpose(),
                    Err(status) => Some(Err(cri.error(CALL, &status))),
                };
                std::future::ready(event)
            }))
        };
        stream::once(subscribe).try_flatten()
    }

    /// Calls need `&mut`; a clone is one reference more to the same connection.
    fn client(&self) -> RuntimeServiceClient<Channel> {
        self.client.clone()
    }

    /// Asks for a list. One at a time in this process, because each may have 16 MiB.
    async fn list<T: Send + Sync + 'static>(
        &self,
        call: &'static str,
        request: &impl Message,
        read: fn(&Bytes) -> Result<T, CriError>,
    ) -> Result<T, CriError> {
        static ONE: Semaphore = Semaphore::const_new(1);
        let asking = async {
            // An error would say that it is closed, which nobody does.
            let _turn = ONE.acquire().await;
            self.unary(call, request, read).await
        };
        self.call(call, asking).await?
    }

    /// Asks for something else.
    async fn ask<T: Send + Sync + 'static>(
        &self,
        call: &'static str,
        request: &impl Message,
        read: fn(&Bytes) -> Result<T, CriError>,
    ) -> Result<T, CriError> {
        self.call(call, self.unary(call, request, read)).await?
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

    /// Waits for one answer. Giving up drops the call, which cancels it in the runtime.
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

    fn error(&self, call: &'static str, status: &tonic::Status) -> CriError {
        // A status with a cause was made on this side of the socket, never sent by the runtime.
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

/// The path of a method.
fn method(call: &'static str) -> PathAndQuery {
    let path = format!("/runtime.v1.RuntimeService/{call}");
    // The methods' names are letters.
    PathAndQuery::try_from(path).unwrap_or_else(|_| PathAndQuery::from_static("/"))
}
