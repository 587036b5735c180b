//! A fake of a container runtime's side of NRI. On the wire it behaves like Go's `pkg/adaptation`: it waits
//! for the registration, configures, synchronizes, makes one call at a time with a timeout, and reads like
//! Go's multiplexer and ttrpc, including their buffer limits.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::nri_proto::{Adjust, Field, container, field, fields, number, pod};

/// Go reads a connection through a `bufio.Reader` of this size.
const BUFIO: usize = 4096;
/// Frames that Go's multiplexer queues per connection.
const QUEUE: usize = 256;

const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";

/// Why a call failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The plugin answered with this status.
    Status { code: u64, message: String },
    /// Go's `cannot allocate memory`: a frame does not fit the reader's buffer.
    NoMemory(usize),
    /// More frames arrived than the queue holds.
    Overflow,
    /// No answer came in time; the connection is closed.
    Timeout,
    /// The plugin closed the connection.
    Closed,
    /// A violation of the protocol: `invalid plugin events`, a split list that was not echoed, an unexpected
    /// reply, …
    Protocol(String),
}

/// Version and behaviour of the runtime.
#[derive(Debug, Clone)]
pub struct Kind {
    pub name: &'static str,
    pub version: &'static str,
    /// NRI 0.12: makes separate calls instead of StateChange, and falls back if those are not implemented.
    pub own_calls: bool,
    /// Sends Configure before the reply to the registration.
    pub configure_first: bool,
    /// Sends its timeouts in Configure.
    pub sends_timeouts: bool,
    /// Size of the pieces that are written to the socket, in bytes.
    pub cut: usize,
    pub request_timeout: Duration,
    /// Refuses every registration with this message.
    pub refuses: Option<&'static str>,
}

/// `containerd` with NRI 0.8; the base for other kinds.
pub const CONTAINERD: Kind = Kind {
    name: "containerd",
    version: "2.1.9+unknown",
    own_calls: false,
    configure_first: true,
    sends_timeouts: true,
    cut: usize::MAX,
    request_timeout: Duration::from_secs(2),
    refuses: None,
};

/// The listening socket.
pub struct Runtime {
    listener: UnixListener,
    pub socket: PathBuf,
    _directory: Option<tempfile::TempDir>,
}

/// A registered plugin, from the runtime's side.
pub struct Plugin {
    kind: Kind,
    stream: UnixStream,
    last_stream: u32,
    connections: [Connection; 2],
    pub name: String,
    pub index: String,
    /// The event mask that the plugin requested.
    pub events: u64,
}

/// A `bufio` reader over the multiplexer's queue.
#[derive(Default)]
struct Connection {
    queue: VecDeque<Vec<u8>>,
    buffered: VecDeque<u8>,
}

impl Runtime {
    pub fn listen() -> Runtime {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("nri.sock");
        Runtime { _directory: Some(directory), ..Runtime::listen_at(&socket) }
    }

    /// Listens at a path in a directory of the caller's.
    pub fn listen_at(socket: &Path) -> Runtime {
        let listener = UnixListener::bind(socket).expect("a socket");
        Runtime { listener, socket: socket.to_owned(), _directory: None }
    }

    /// Accepts the next connection without sending anything.
    pub fn accept(&self) -> UnixStream {
        self.listener.accept().expect("a connection").0
    }

    /// Accepts the next connection and performs registration and Configure.
    pub fn register(&self, kind: Kind) -> Result<Plugin, Fault> {
        Plugin::register(self.accept(), kind)
    }
}

impl Plugin {
    /// Performs registration and Configure on an accepted connection.
    pub fn register(stream: UnixStream, kind: Kind) -> Result<Plugin, Fault> {
        stream.set_read_timeout(Some(kind.request_timeout)).unwrap();
        let mut plugin = Plugin {
            kind,
            stream,
            last_stream: 0,
            connections: Default::default(),
            name: String::new(),
            index: String::new(),
            events: 0,
        };
        plugin.registration()?;
        Ok(plugin)
    }

    fn registration(&mut self) -> Result<(), Fault> {
        let (stream, kind, body) = self.receive(2)?;
        let envelope = fields(&body);
        let part = |tag| envelope.iter().find(|(found, _)| *found == tag).map(|(_, part)| part);
        assert_eq!((stream, kind), (1, 1), "a request, the first of its connection");
        assert_eq!(part(1).unwrap().text(), "nri.pkg.api.v1alpha1.Runtime");
        assert_eq!(part(2).unwrap().text(), "RegisterPlugin");
        for (tag, part) in fields(part(3).unwrap().bytes()) {
            match tag {
                1 => self.name = part.text(),
                2 => self.index = part.text(),
                _ => {}
            }
        }
        let refusal = match self.kind.refuses {
            Some(words) => Some(words),
            None if self.index.len() != 2 => Some("invalid plugin index"),
            None => None,
        };
        if let Some(words) = refusal {
            let status = [number(1, 2), field(2, words.as_bytes())].concat();
            self.send(2, stream, 2, &field(1, &status));
            return Err(Fault::Closed);
        }
        if !self.kind.configure_first {
            self.send(2, stream, 2, &[]);
        }
        let mut configure =
            [field(2, self.kind.name.as_bytes()), field(3, self.kind.version.as_bytes())].concat();
        if self.kind.sends_timeouts {
            configure.extend([number(4, 5000), number(5, 2000)].concat());
        }
        if self.kind.own_calls {
            configure.extend(field(6, b"v0.12.0"));
        }
        let call = self.request("Configure", &configure);
        if self.kind.configure_first {
            self.send(2, stream, 2, &[]);
        }
        let reply = self.reply(call)?;
        self.events = fields(&reply).first().map_or(0, |(_, events)| events.number());
        if self.events == 0 || self.events >= 1 << 11 {
            return Err(Fault::Protocol(format!("invalid plugin events: {:#x}", self.events)));
        }
        Ok(())
    }

    /// Sends all pods and containers, `at_once` of each per message.
    pub fn synchronize(&mut self, pods: &[Value], containers: &[Value], at_once: usize) -> Result<(), Fault> {
        let pods: Vec<_> = pods.iter().map(|value| field(1, &pod(value))).collect();
        let containers: Vec<_> = containers.iter().map(|value| field(2, &container(value))).collect();
        let mut left = pods.len().max(containers.len()).div_ceil(at_once).max(1);
        let mut pods = pods.chunks(at_once);
        let mut containers = containers.chunks(at_once);
        while left > 0 {
            left -= 1;
            let more = left > 0;
            let mut payload = pods.next().unwrap_or_default().concat();
            payload.extend(containers.next().unwrap_or_default().concat());
            if more {
                payload.extend(number(3, 1));
            }
            let reply = fields(&self.call("Synchronize", &payload)?);
            let echoed = reply.iter().any(|(tag, value)| *tag == 2 && value.number() == 1);
            if echoed != more || reply.iter().any(|(tag, _)| *tag == 1) {
                return Err(Fault::Protocol("plugin does not handle split sync requests".into()));
            }
        }
        Ok(())
    }

    /// Calls `CreateContainer` for a recorded `{pod, container}`.
    pub fn create(&mut self, recorded: &Value) -> Result<Option<Adjust>, Fault> {
        let reply = self.call("CreateContainer", &both(recorded, 1))?;
        let adjust = fields(&reply).into_iter().find(|(tag, _)| *tag == 1);
        Ok(adjust.map(|(_, adjust)| Adjust::read(adjust.bytes())))
    }

    pub fn start(&mut self, recorded: &Value) -> Result<(), Fault> {
        self.event("StartContainer", 6, recorded)
    }

    pub fn stop(&mut self, recorded: &Value) -> Result<(), Fault> {
        self.call("StopContainer", &both(recorded, 1)).map(drop)
    }

    pub fn remove(&mut self, recorded: &Value) -> Result<(), Fault> {
        self.event("RemoveContainer", 11, recorded)
    }

    pub fn remove_pod(&mut self, recorded: &Value) -> Result<(), Fault> {
        self.event("RemovePodSandbox", 3, &serde_json::json!({ "pod": recorded["pod"] }))
    }

    pub fn shutdown(&mut self) -> Result<(), Fault> {
        self.call("Shutdown", &[]).map(drop)
    }

    /// Sends an event in the form of this runtime's version: as a separate call or as StateChange.
    pub fn event(&mut self, method: &str, event: u32, recorded: &Value) -> Result<(), Fault> {
        if self.events & 1 << (event - 1) == 0 {
            return Ok(()); // not subscribed
        }
        if self.kind.own_calls {
            match self.call(method, &both(recorded, 1)) {
                Err(Fault::Status { code: 12, .. }) => {}
                other => return other.map(drop),
            }
        }
        self.state_change(event, recorded)
    }

    /// Sends StateChange, whether the plugin subscribed or not.
    pub fn state_change(&mut self, event: u32, recorded: &Value) -> Result<(), Fault> {
        let payload = [number(1, event.into()), both(recorded, 2)].concat();
        self.call("StateChange", &payload).map(drop)
    }

    /// Calls any method of the Plugin service; the next function, of any service.
    pub fn call(&mut self, method: &str, payload: &[u8]) -> Result<Vec<u8>, Fault> {
        self.call_service(PLUGIN, method, payload)
    }

    pub fn call_service(&mut self, service: &str, method: &str, payload: &[u8]) -> Result<Vec<u8>, Fault> {
        let call = self.request_service(service, method, payload);
        let reply = self.reply(call);
        if matches!(reply, Err(Fault::Timeout | Fault::NoMemory(_) | Fault::Overflow)) {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
        reply
    }

    /// Sends arbitrary bytes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the plugin listens");
    }

    /// The bytes of a request to the Plugin service, for [`Plugin::raw`].
    pub fn request_bytes(stream: u32, method: &str, payload: &[u8]) -> Vec<u8> {
        frame(1, &ttrpc(stream, 1, &envelope(PLUGIN, method, payload)))
    }

    fn request(&mut self, method: &str, payload: &[u8]) -> u32 {
        self.request_service(PLUGIN, method, payload)
    }

    fn request_service(&mut self, service: &str, method: &str, payload: &[u8]) -> u32 {
        self.last_stream += if self.last_stream == 0 { 1 } else { 2 };
        self.send(1, self.last_stream, 1, &envelope(service, method, payload));
        self.last_stream
    }

    /// Like ttrpc, writes through a buffer of 4 KiB, so that a message has several frames.
    fn send(&mut self, connection: u32, stream: u32, kind: u8, body: &[u8]) {
        let message = ttrpc(stream, kind, body);
        let (first, rest) = message.split_at(message.len().min(BUFIO));
        let mut bytes = frame(connection, first);
        if !rest.is_empty() {
            bytes.extend(frame(connection, rest));
        }
        for part in bytes.chunks(self.kind.cut) {
            // A closed connection is noticed when no reply comes.
            let _ = self.stream.write_all(part);
        }
    }

    fn reply(&mut self, call: u32) -> Result<Vec<u8>, Fault> {
        let (stream, kind, body) = self.receive(1)?;
        if (stream, kind) != (call, 2) {
            return Err(Fault::Protocol(format!("type {kind} on stream {stream}, not the reply to {call}")));
        }
        let mut payload = Vec::new();
        for (tag, part) in fields(&body) {
            match tag {
                1 => {
                    let status: BTreeMap<u32, Field> = fields(part.bytes()).into_iter().collect();
                    let code = status.get(&1).map_or(0, Field::number);
                    if code != 0 {
                        let message = status.get(&2).map(Field::text).unwrap_or_default();
                        return Err(Fault::Status { code, message });
                    }
                }
                2 => payload = part.bytes().to_vec(),
                other => panic!("field {other} in a response"),
            }
        }
        Ok(payload)
    }

    /// Receives one ttrpc message: stream, type, body.
    fn receive(&mut self, connection: u32) -> Result<(u32, u8, Vec<u8>), Fault> {
        let mut header = [0; 10];
        let mut frames = 0;
        self.read_full(connection, &mut header, &mut frames)?;
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        assert!(word(0) <= 4 << 20, "a body of {} bytes", word(0));
        assert_eq!(header[9], 0, "flags of a unary message");
        let mut body = vec![0; word(0) as usize];
        self.read_full(connection, &mut body, &mut frames)?;
        Ok((word(4), header[8], body))
    }

    /// Like `io.ReadFull` over `bufio.Reader.Read`: a long rest is read without the buffer.
    fn read_full(&mut self, connection: u32, into: &mut [u8], frames: &mut usize) -> Result<(), Fault> {
        let mut done = 0;
        while done < into.len() {
            let at = connection as usize - 1;
            if self.connections[at].buffered.is_empty() {
                let left = into.len() - done;
                let room = if left >= BUFIO { left } else { BUFIO };
                let frame = self.next_frame(connection)?;
                *frames += 1;
                if *frames > QUEUE {
                    return Err(Fault::Overflow);
                }
                if frame.len() > room {
                    return Err(Fault::NoMemory(frame.len()));
                }
                self.connections[at].buffered.extend(frame);
            }
            while done < into.len()
                && let Some(byte) = self.connections[at].buffered.pop_front()
            {
                into[done] = byte;
                done += 1;
            }
        }
        Ok(())
    }

    fn next_frame(&mut self, connection: u32) -> Result<Vec<u8>, Fault> {
        loop {
            if let Some(frame) = self.connections[connection as usize - 1].queue.pop_front() {
                return Ok(frame);
            }
            let mut header = [0; 8];
            self.read_socket(&mut header)?;
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            let mut frame = vec![0; word(4) as usize];
            self.read_socket(&mut frame)?;
            assert!(matches!(word(0), 1 | 2), "connection {}", word(0));
            self.connections[word(0) as usize - 1].queue.push_back(frame);
        }
    }

    fn read_socket(&mut self, into: &mut [u8]) -> Result<(), Fault> {
        self.stream.read_exact(into).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Fault::Timeout,
            _ => Fault::Closed,
        })
    }
}

fn both(recorded: &Value, first: u32) -> Vec<u8> {
    let part = |name, tag, encode: fn(&Value) -> Vec<u8>| {
        recorded.get(name).map(|value| field(tag, &encode(value))).unwrap_or_default()
    };
    [part("pod", first, pod), part("container", first + 1, container)].concat()
}

fn envelope(service: &str, method: &str, payload: &[u8]) -> Vec<u8> {
    let timeout = number(4, 2_000_000_000);
    [field(1, service.as_bytes()), field(2, method.as_bytes()), field(3, payload), timeout].concat()
}

fn ttrpc(stream: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length, &stream.to_be_bytes()[..], &[kind, 0], body].concat()
}

fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&connection.to_be_bytes(), &length, payload].concat()
}
