//! The protocol without its socket: bytes in, requests and answers' bytes out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;

use super::mux::{self, Inbox, Received};
use super::proto::{self, Event};
use super::ttrpc::{self, Call, Header, Response, Status};
use super::wire;
use super::{CreateToken, NriError, Request, Runtime, StartToken, Token};
use crate::domain::adjust::Adjustment;

const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// The version that the registration names: the newest whose calls this plugin knows.
const NRI_VERSION: &str = "v0.12.0";

/// The stream of our only call, `RegisterPlugin`.
const REGISTRATION: u32 = 1;

/// Bit `1 << (event - 1)` for each event wanted. 0 would mean all; a bit that the runtime does not
/// know fails the registration, and these are as old as NRI itself.
pub(super) const EVENTS: i32 = bit(Event::CreateContainer)
    | bit(Event::StartContainer)
    | bit(Event::StopContainer)
    | bit(Event::RemoveContainer)
    | bit(Event::RemovePodSandbox);

/// What all parts of one Synchronize may weigh together, in bytes on the wire: some two thousand
/// containers.
pub(super) const MAX_SYNCHRONIZE: usize = 16 << 20;

/// What one answer may weigh, in bytes. The runtime's queue holds 256 frames of 4 KiB.
pub(super) const MAX_ANSWER: usize = 128 * 4096;

/// What one refusal may say, in bytes: it becomes a container's error message in the kubelet.
const MAX_REFUSAL: usize = 2048;

const fn bit(event: Event) -> i32 {
    1 << (event as i32 - 1)
}

/// What one message came to.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once, never stored")]
pub(super) enum Step {
    /// More bytes are needed.
    Idle,
    /// The runtime configured the plugin.
    Configured,
    /// It wants something of the caller.
    Request(Request),
    /// It said good-bye.
    Ended,
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) inbox: Inbox,
    /// Whole frames, to be written.
    pub(super) out: Vec<u8>,
    /// What the runtime said in Configure.
    pub(super) runtime: Option<Runtime>,
    /// Room for the message that is being made.
    scratch: Vec<u8>,
    /// The parts of a Synchronize so far.
    parts: proto::SynchronizeRequest,
    /// Their length on the wire.
    parts_length: usize,
    /// The stream of the call that the caller has not answered.
    unanswered: Option<u32>,
    /// Tells this connection's tokens from another's.
    serial: u64,
    ended: bool,
}

impl Link {
    pub(super) fn new() -> Link {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Link {
            inbox: Inbox::default(),
            out: Vec::new(),
            runtime: None,
            scratch: Vec::new(),
            parts: proto::SynchronizeRequest::default(),
            parts_length: 0,
            unanswered: None,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            ended: false,
        }
    }

    /// Asks to be registered under `name`, at the place `index` ("00" to "99") among the plugins.
    pub(super) fn register(&mut self, name: &str, index: &str) {
        let registration = proto::RegisterPluginRequest {
            plugin_name: name.to_owned(),
            plugin_idx: index.to_owned(),
            nri_version: NRI_VERSION.to_owned(),
        };
        let request = ttrpc::Request {
            service: RUNTIME_SERVICE.to_owned(),
            method: "RegisterPlugin".to_owned(),
            payload: registration.encode_to_vec(),
        };
        self.send(mux::RUNTIME, REGISTRATION, ttrpc::REQUEST, &request);
    }

    /// Handles the messages that have arrived, up to the first that matters to the caller.
    ///
    /// # Errors
    /// A message that is none; a caller that has not answered.
    pub(super) fn step(&mut self) -> Result<Step, NriError> {
        if self.unanswered.is_some() {
            return Err(NriError::Unanswered);
        }
        while !self.ended {
            let Some(Received { connection, header, body }) = self.inbox.message()? else {
                return Ok(Step::Idle);
            };
            if connection == mux::RUNTIME {
                check_registration(header, body)?;
                continue;
            }
            if header.kind != ttrpc::REQUEST || header.stream % 2 == 0 {
                return Err(NriError::Malformed(format!(
                    "type {}, stream {}, where a request was due",
                    header.kind, header.stream
                )));
            }
            let heard = hear(Call::decode(body)?)?;
            if let Some(step) = self.handle(header.stream, heard)? {
                return Ok(step);
            }
        }
        Ok(Step::Ended)
    }

    /// Answers what needs no caller; keeps what does.
    fn handle(&mut self, stream: u32, heard: Heard) -> Result<Option<Step>, NriError> {
        let step = match heard {
            Heard::Configure(runtime) => {
                self.answer(stream, &proto::ConfigureResponse { events: EVENTS });
                self.runtime = Some(runtime);
                Step::Configured
            }
            Heard::Synchronize(part, length) => {
                let more = part.more;
                self.collect(part, length)?;
                self.answer(stream, &proto::SynchronizeResponse { more });
                if more {
                    return Ok(None);
                }
                Step::Request(self.synchronize())
            }
            Heard::Create(call) => {
                let (pod, container) = wire::pod_and_container("CreateContainer", call.pod, call.container)?;
                let token = CreateToken(self.token(stream));
                Step::Request(Request::CreateContainer { pod, container, token })
            }
            Heard::Start(pod, container) => {
                let (pod, container) = wire::pod_and_container("StartContainer", pod, container)?;
                let token = StartToken(self.token(stream));
                Step::Request(Request::StartContainer { pod, container, token })
            }
            Heard::Gone(request) => {
                self.answer(stream, &proto::Empty {});
                Step::Request(request)
            }
            Heard::Shutdown => {
                self.answer(stream, &proto::Empty {});
                self.ended = true;
                Step::Ended
            }
            Heard::NotOurs => {
                self.answer(stream, &proto::Empty {});
                return Ok(None);
            }
            Heard::Unknown(what) => {
                self.fail(stream, ttrpc::UNIMPLEMENTED, format!("{what} is not known here"));
                return Ok(None);
            }
        };
        Ok(Some(step))
    }

    /// Answers `CreateContainer`.
    ///
    /// # Errors
    /// A token of another connection; an adjustment beyond [`MAX_ANSWER`], which is answered with
    /// a refusal.
    pub(super) fn answer_create(
        &mut self,
        token: CreateToken,
        answer: Result<Option<Adjustment>, String>,
    ) -> Result<(), NriError> {
        let stream = self.redeem(token.0)?;
        let response = match answer {
            Ok(adjustment) => wire::create_response(adjustment),
            Err(refusal) => {
                self.fail(stream, ttrpc::FAILED_PRECONDITION, refusal);
                return Ok(());
            }
        };
        let length = response.encoded_len();
        if length > MAX_ANSWER {
            let message = format!("an adjustment of {length} bytes, more than {MAX_ANSWER}");
            self.fail(stream, ttrpc::FAILED_PRECONDITION, message);
            return Err(NriError::AnswerTooLong(length));
        }
        self.answer(stream, &response);
        Ok(())
    }

    /// Answers `StartContainer`.
    ///
    /// # Errors
    /// A token of another connection.
    pub(super) fn answer_start(
        &mut self,
        token: StartToken,
        answer: Result<(), String>,
    ) -> Result<(), NriError> {
        let stream = self.redeem(token.0)?;
        match answer {
            Ok(()) => self.answer(stream, &proto::Empty {}),
            Err(refusal) => self.fail(stream, ttrpc::FAILED_PRECONDITION, refusal),
        }
        Ok(())
    }

    fn token(&mut self, stream: u32) -> Token {
        self.unanswered = Some(stream);
        Token { serial: self.serial, stream }
    }

    fn redeem(&mut self, token: Token) -> Result<u32, NriError> {
        match self.unanswered.take_if(|stream| *stream == token.stream && self.serial == token.serial) {
            Some(stream) => Ok(stream),
            None => Err(NriError::ForeignToken),
        }
    }

    fn collect(&mut self, part: proto::SynchronizeRequest, length: usize) -> Result<(), NriError> {
        self.parts_length += length;
        if self.parts_length > MAX_SYNCHRONIZE {
            return Err(NriError::Malformed(format!("Synchronize: more than {MAX_SYNCHRONIZE} bytes")));
        }
        self.parts.pods.extend(part.pods);
        self.parts.containers.extend(part.containers);
        Ok(())
    }

    /// The whole list. A container may come in an earlier part than its pod. One item that makes no
    /// sense is left out: without the session, all the others would be without the plugin.
    fn synchronize(&mut self) -> Request {
        let parts = std::mem::take(&mut self.parts);
        self.parts_length = 0;
        let mut unreadable = Vec::new();
        let mut pods = Vec::new();
        for pod in parts.pods {
            match wire::sandbox(pod) {
                Ok(pod) => pods.push(pod),
                Err(error) => unreadable.push(error),
            }
        }
        let by_id: std::collections::HashMap<_, _> = pods.iter().map(|pod| (pod.id.as_str(), pod)).collect();
        let mut containers = Vec::new();
        for container in parts.containers {
            let state = wire::state(&container);
            let pod = by_id.get(container.pod_sandbox_id.as_str()).copied();
            match wire::listed(container, pod) {
                Ok(container) => containers.push((container, state)),
                Err(error) => unreadable.push(error),
            }
        }
        Request::Synchronize { pods, containers, unreadable }
    }

    fn answer(&mut self, stream: u32, message: &impl Message) {
        // An empty message, the answer to most calls, allocates nothing here.
        let response = Response { status: None, payload: message.encode_to_vec() };
        self.send(mux::PLUGIN, stream, ttrpc::RESPONSE, &response);
    }

    fn fail(&mut self, stream: u32, code: i32, mut message: String) {
        message.truncate(message.floor_char_boundary(MAX_REFUSAL));
        let response = Response { status: Some(Status { code, message }), payload: Vec::new() };
        self.send(mux::PLUGIN, stream, ttrpc::RESPONSE, &response);
    }

    fn send(&mut self, connection: u32, stream: u32, kind: u8, message: &impl Message) {
        self.scratch.clear();
        ttrpc::write_header(message.encoded_len(), stream, kind, &mut self.scratch);
        message.encode_raw(&mut self.scratch);
        mux::write_frames(connection, &self.scratch, &mut self.out);
    }
}

/// A call, decoded.
enum Heard {
    Configure(Runtime),
    Synchronize(proto::SynchronizeRequest, usize),
    Create(proto::CreateContainerRequest),
    Start(Option<proto::PodSandbox>, Option<proto::Container>),
    /// Something ended; the answer is empty.
    Gone(Request),
    Shutdown,
    /// An event that nobody subscribed to; the answer is empty.
    NotOurs,
    Unknown(String),
}

/// Decodes a call. `StartContainer`, `RemoveContainer` and `RemovePodSandbox` come as calls of
/// their own since NRI 0.12, before that as a `StateChange`.
fn hear(call: Call<'_>) -> Result<Heard, NriError> {
    if call.service != PLUGIN_SERVICE {
        return Ok(Heard::Unknown(format!("service {}", call.service)));
    }
    let method = call.method;
    Ok(match method {
        "StateChange" => {
            let change: proto::StateChangeEvent = wire::decode(method, call.payload)?;
            match change.event() {
                Event::StartContainer => Heard::Start(change.pod, change.container),
                Event::RemoveContainer => removed(change.container)?,
                Event::RemovePodSandbox => pod_removed(change.pod)?,
                _ => Heard::NotOurs,
            }
        }
        "StartContainer" => {
            let start: proto::ContainerEvent = wire::decode(method, call.payload)?;
            Heard::Start(start.pod, start.container)
        }
        "CreateContainer" => Heard::Create(wire::decode(method, call.payload)?),
        "StopContainer" => {
            let stop: proto::ContainerEvent = wire::decode(method, call.payload)?;
            let id = wire::id(&stop.container.unwrap_or_default().id)?;
            Heard::Gone(Request::ContainerStopped { id })
        }
        "RemoveContainer" => removed(wire::decode::<proto::ContainerEvent>(method, call.payload)?.container)?,
        "RemovePodSandbox" => pod_removed(wire::decode::<proto::ContainerEvent>(method, call.payload)?.pod)?,
        "Synchronize" => Heard::Synchronize(wire::decode(method, call.payload)?, call.payload.len()),
        "Configure" => Heard::Configure(runtime(wire::decode(method, call.payload)?)),
        "Shutdown" => Heard::Shutdown,
        unknown => Heard::Unknown(format!("method {unknown}")),
    })
}

fn removed(container: Option<proto::Container>) -> Result<Heard, NriError> {
    let id = wire::id(&container.unwrap_or_default().id)?;
    Ok(Heard::Gone(Request::ContainerRemoved { id }))
}

fn pod_removed(pod: Option<proto::PodSandbox>) -> Result<Heard, NriError> {
    let id = wire::id(&pod.unwrap_or_default().id)?;
    Ok(Heard::Gone(Request::PodRemoved { id }))
}

fn runtime(said: proto::ConfigureRequest) -> Runtime {
    // Old runtimes do not say their timeouts: then NRI's defaults hold.
    let timeout = |milliseconds: i64, default| match u64::try_from(milliseconds) {
        Ok(milliseconds @ 1..) => Duration::from_millis(milliseconds),
        _ => default,
    };
    Runtime {
        name: said.runtime_name,
        version: said.runtime_version,
        nri_version: said.nri_version,
        config: said.config,
        registration_timeout: timeout(said.registration_timeout, Duration::from_secs(5)),
        request_timeout: timeout(said.request_timeout, Duration::from_secs(2)),
    }
}

/// The reply to `RegisterPlugin`. It may come after Configure, and after more than that: the
/// runtime sends the two from different threads.
fn check_registration(header: Header, body: &[u8]) -> Result<(), NriError> {
    if (header.kind, header.stream) != (ttrpc::RESPONSE, REGISTRATION) {
        return Err(NriError::Malformed(format!(
            "type {}, stream {}, where only the registration's reply was due",
            header.kind, header.stream
        )));
    }
    match wire::decode::<Response>("the registration's reply", body)?.status {
        Some(status) if status.code != 0 => Err(NriError::Refused(status.message)),
        _ => Ok(()),
    }
}
