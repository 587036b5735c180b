//! The NRI protocol without its socket: takes received bytes, yields requests and the bytes of answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;

use super::mux::{self, Inbox, Received};
use super::proto::{self, Event};
use super::ttrpc::{self, Call, Header, Response, Status};
use super::wire::{self, Cuts, List};
use super::{CreateToken, Ignored, NriError, NriRuntime, Request, StartToken, Token};
use usernsd_domain::adjust::Adjustment;
use usernsd_domain::chain::chain;
use usernsd_domain::container::{Container, Sandbox};
use usernsd_domain::protobuf::field;

const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// The NRI version in the registration: the newest whose calls this plugin implements.
const NRI_VERSION: &str = "v0.12.0";

/// The stream of the plugin's only call, `RegisterPlugin`.
const REGISTRATION: u32 = 1;

/// Subscribed events: bit `1 << (event - 1)` for each. 0 would mean all events. A bit that the runtime does
/// not recognise fails the registration; these events are as old as NRI itself.
pub(super) const EVENTS: i32 = bit(Event::CreateContainer)
    | bit(Event::StartContainer)
    | bit(Event::StopContainer)
    | bit(Event::RemoveContainer)
    | bit(Event::RemovePodSandbox);

/// Size limit of one answer, in bytes. The runtime's queue holds 256 frames of 4 KiB.
pub(super) const MAX_ANSWER: usize = 128 * 4096;

/// Size limit of a refusal's message, in bytes: the kubelet shows it as the container's error message.
const MAX_REFUSAL: usize = 2048;

const fn bit(event: Event) -> i32 {
    1 << (event as i32 - 1)
}

/// The result of handling received messages.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once, never stored")]
pub(super) enum Step {
    /// More bytes are needed.
    Idle,
    /// The runtime configured the plugin.
    Configured,
    /// The runtime requests something of the caller.
    Request(Request),
    /// The runtime shut the plugin down.
    Ended,
}

/// The protocol state of one connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) inbox: Inbox,
    /// Whole frames that wait to be written.
    pub(super) out: Vec<u8>,
    /// The runtime's description of itself, from Configure.
    pub(super) runtime: Option<NriRuntime>,
    /// Buffer for the message that is being encoded.
    scratch: Vec<u8>,
    /// Synchronize's list is neither parsed nor kept, because the caller does not need it.
    pub(super) skips_list: bool,
    /// Refuse a container whose description is too long to be read.
    pub(super) refuses_unread: bool,
    /// The stream of Configure, and the length of `out` before its answer.
    configured: u32,
    out_before_configured: usize,
    /// The parts of a Synchronize that have arrived so far.
    list: List,
    /// Messages that were ignored so far.
    pub(super) ignored: Ignored,
    /// The stream of the call that the caller has not answered yet.
    unanswered: Option<u32>,
    /// Distinguishes this connection's tokens from those of others.
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
            skips_list: false,
            refuses_unread: false,
            configured: 0,
            out_before_configured: 0,
            list: List::default(),
            ignored: Ignored::default(),
            unanswered: None,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            ended: false,
        }
    }

    /// Requests registration under `name`, at the position `index` ("00" to "99") among the plugins.
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

    /// Handles the messages that have arrived, up to the first that the caller must see. Malformed messages
    /// are ignored and counted in [`Ignored`]: if they ended the session, every container would be without
    /// the plugin.
    ///
    /// # Errors
    /// The runtime refuses the registration, or the caller has not answered the last request.
    pub(super) fn step(&mut self) -> Result<Step, NriError> {
        if self.unanswered.is_some() {
            return Err(NriError::Unanswered);
        }
        // Taken out of `self`, because a message borrows from the inbox while it is read.
        let mut inbox = std::mem::take(&mut self.inbox);
        let step = self.read(&mut inbox);
        self.inbox = inbox;
        step
    }

    fn read(&mut self, inbox: &mut Inbox) -> Result<Step, NriError> {
        while !self.ended {
            let Some(Received { connection, header, body }) = inbox.message() else {
                return Ok(Step::Idle);
            };
            if connection == mux::RUNTIME {
                self.check_registration(header, body)?;
                continue;
            }
            if header.kind != ttrpc::REQUEST || header.stream % 2 == 0 {
                self.ignored.unexpected(format!(
                    "type {}, stream {}, where a request was due",
                    header.kind, header.stream
                ));
                continue;
            }
            if header.body > ttrpc::MAX_BODY {
                let (method, event) = ttrpc::head(body).unwrap_or_default();
                let starts = match method {
                    "CreateContainer" | "StartContainer" => true,
                    "StateChange" => event.map(i32::from) == Some(Event::StartContainer as i32),
                    _ => false,
                };
                self.ignored.unreadable(&format!("a message of {} bytes ({method})", header.body));
                if starts && self.refuses_unread {
                    // Answers as every plugin in Go does, whose library does not read such a message. The
                    // message's length depends on the pod's author: CRI-O repeats the paths of mounts in an
                    // annotation, escaped, and before NRI 0.9 (CRI-O 1.31 and older) the runtime's side sets
                    // no limit.
                    self.ignored.refused += 1;
                    let sentence = format!(
                        "usernsd: the runtime's description of this container has {} bytes, more than the 4 MiB \
                         that can be read, so that nobody can tell whether the container has the isolation that \
                         its pod asked for. Shorten its mount paths, environment and annotations.",
                        header.body
                    );
                    self.fail(header.stream, ttrpc::RESOURCE_EXHAUSTED, sentence);
                } else {
                    // The runtime waits for an answer to any request; with an empty one it continues as
                    // without a plugin.
                    self.answer(header.stream, &proto::Empty {});
                }
                continue;
            }
            let call = match Call::decode(body) {
                Ok(call) => call,
                Err(error) => {
                    self.ignored.unreadable(&error);
                    self.fail(header.stream, ttrpc::INVALID_ARGUMENT, chain(&error));
                    continue;
                }
            };
            match self.decode_call(call) {
                Ok(call) => {
                    if let Some(step) = self.handle(header.stream, call) {
                        return Ok(step);
                    }
                }
                // No known runtime sends such a call. Refusing it could refuse every container of a runtime
                // whose messages this version cannot parse. So the container continues as without a plugin,
                // and the resync inspects it.
                Err(error) => {
                    self.ignored.unreadable(&error);
                    self.answer(header.stream, &proto::Empty {});
                }
            }
        }
        Ok(Step::Ended)
    }

    /// Answers calls that need no decision by the caller; returns the others.
    fn handle(&mut self, stream: u32, call: DecodedCall) -> Option<Step> {
        Some(match call {
            DecodedCall::Configure(runtime) => {
                self.out_before_configured = self.out.len();
                self.configured = stream;
                self.answer(stream, &proto::ConfigureResponse { events: EVENTS });
                self.runtime = Some(runtime);
                Step::Configured
            }
            DecodedCall::Synchronize { more } => {
                self.answer(stream, &proto::SynchronizeResponse { more });
                if more {
                    return None;
                }
                let (pods, containers, unreadable) = self.list.finish();
                unreadable.iter().for_each(|error| self.ignored.unreadable(error));
                Step::Request(Request::Synchronize { pods, containers, unreadable })
            }
            DecodedCall::Create(pod, container) => {
                let token = CreateToken(self.token(stream));
                Step::Request(Request::CreateContainer { pod, container, token })
            }
            DecodedCall::Start(pod, container) => {
                let token = StartToken(self.token(stream));
                Step::Request(Request::StartContainer { pod, container, token })
            }
            DecodedCall::Gone(request) => {
                self.answer(stream, &proto::Empty {});
                Step::Request(request)
            }
            DecodedCall::Shutdown => {
                self.answer(stream, &proto::Empty {});
                self.ended = true;
                Step::Ended
            }
            DecodedCall::NotOurs => {
                self.answer(stream, &proto::Empty {});
                return None;
            }
            DecodedCall::Unknown(what) => {
                self.fail(stream, ttrpc::UNIMPLEMENTED, format!("{what} is not known here"));
                return None;
            }
        })
    }

    /// Decodes a call. `StartContainer`, `RemoveContainer` and `RemovePodSandbox` are separate calls since
    /// NRI 0.12; before, they came as a `StateChange`.
    fn decode_call(&mut self, call: Call<'_>) -> Result<DecodedCall, NriError> {
        let Call { service, method, payload } = call;
        if service != PLUGIN_SERVICE {
            return Ok(DecodedCall::Unknown(format!("service {service}")));
        }
        let mut cuts = Cuts::default();
        let decoded = match method {
            "StateChange" => {
                let event = i32::try_from(field(payload, 1)?.number()).unwrap_or_default();
                match Event::try_from(event) {
                    Ok(Event::StartContainer) => start(payload, 2, &mut cuts),
                    Ok(Event::RemoveContainer) => removed(payload, 3),
                    Ok(Event::RemovePodSandbox) => pod_removed(payload, 2),
                    _ => Ok(DecodedCall::NotOurs),
                }
            }
            "StartContainer" => start(payload, 1, &mut cuts),
            "CreateContainer" => wire::pod_and_container(method, payload, 1, &mut cuts)
                .map(|(pod, container)| DecodedCall::Create(pod, container)),
            "StopContainer" => {
                wire::id_in(payload, 2).map(|id| DecodedCall::Gone(Request::ContainerStopped { id }))
            }
            "RemoveContainer" => removed(payload, 2),
            "RemovePodSandbox" => pod_removed(payload, 1),
            "Synchronize" if self.skips_list => {
                List::skip(payload).map(|more| DecodedCall::Synchronize { more })
            }
            "Synchronize" => {
                let more = self.list.add(payload, &mut cuts).unwrap_or_else(|error| {
                    self.ignored.unreadable(&error);
                    false
                });
                Ok(DecodedCall::Synchronize { more })
            }
            "Configure" => {
                wire::decode(method, payload).map(|request| DecodedCall::Configure(runtime(request)))
            }
            "Shutdown" => Ok(DecodedCall::Shutdown),
            unknown => Ok(DecodedCall::Unknown(format!("method {unknown}"))),
        };
        self.ignored.cut(cuts);
        decoded
    }

    /// Reads the reply to `RegisterPlugin`. It may arrive after Configure and even later calls, because the
    /// runtime sends the two from different threads.
    fn check_registration(&mut self, header: Header, body: &[u8]) -> Result<(), NriError> {
        if (header.kind, header.stream) != (ttrpc::RESPONSE, REGISTRATION) {
            self.ignored.unexpected(format!(
                "type {}, stream {}, where only the registration's reply was due",
                header.kind, header.stream
            ));
            return Ok(());
        }
        match wire::decode::<Response>("the registration's reply", body)?.status {
            Some(status) if status.code != 0 => Err(NriError::Refused(status.message)),
            _ => Ok(()),
        }
    }

    /// Replaces the answer to Configure, if it has not been sent yet, by a refusal.
    pub(super) fn decline(&mut self, reason: &str) {
        self.out.truncate(self.out_before_configured);
        self.fail(self.configured, ttrpc::FAILED_PRECONDITION, reason.to_owned());
    }

    /// Answers `CreateContainer`.
    ///
    /// # Errors
    /// The token belongs to another connection, or the adjustment is longer than [`MAX_ANSWER`]; the latter
    /// is answered with a refusal.
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
    /// The token belongs to another connection.
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

    fn answer(&mut self, stream: u32, message: &impl Message) {
        // The answer to most calls is an empty message, which allocates nothing here.
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

/// A decoded call.
enum DecodedCall {
    Configure(NriRuntime),
    /// A part of the list, and whether more parts follow.
    Synchronize {
        more: bool,
    },
    Create(Sandbox, Container),
    Start(Sandbox, Container),
    /// A container or sandbox ended; the answer is empty.
    Gone(Request),
    Shutdown,
    /// An event that was not subscribed to; the answer is empty.
    NotOurs,
    Unknown(String),
}

fn start(payload: &[u8], first: u32, cuts: &mut Cuts) -> Result<DecodedCall, NriError> {
    wire::pod_and_container("StartContainer", payload, first, cuts)
        .map(|(pod, container)| DecodedCall::Start(pod, container))
}

fn removed(payload: &[u8], tag: u32) -> Result<DecodedCall, NriError> {
    wire::id_in(payload, tag).map(|id| DecodedCall::Gone(Request::ContainerRemoved { id }))
}

fn pod_removed(payload: &[u8], tag: u32) -> Result<DecodedCall, NriError> {
    wire::id_in(payload, tag).map(|id| DecodedCall::Gone(Request::PodRemoved { id }))
}

// === impl Ignored ===

impl Ignored {
    fn unexpected(&mut self, what: String) {
        self.unexpected += 1;
        self.last = Some(what);
    }

    fn unreadable(&mut self, what: &impl std::fmt::Display) {
        self.unreadable += 1;
        self.last = Some(what.to_string());
    }

    fn cut(&mut self, cuts: Cuts) {
        self.truncated += cuts.0;
    }
}

fn runtime(request: proto::ConfigureRequest) -> NriRuntime {
    // Old runtimes do not send their timeouts: NRI's defaults apply.
    let timeout = |milliseconds: i64, default| match u64::try_from(milliseconds) {
        Ok(milliseconds @ 1..) => Duration::from_millis(milliseconds),
        _ => default,
    };
    NriRuntime {
        name: request.runtime_name,
        version: request.runtime_version,
        nri_version: request.nri_version,
        config: request.config,
        registration_timeout: timeout(request.registration_timeout, Duration::from_secs(5)),
        request_timeout: timeout(request.request_timeout, Duration::from_secs(2)),
    }
}
