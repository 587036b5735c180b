//! A runtime that calls in any order, with any content, and reads the answers: no panic, no hang, and each call
//! that is read gets one answer.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use arbitrary::{Arbitrary, Unstructured};
use usernsd_domain::adjust::{self, AdjustRules};
use usernsd_nri::{Request, Session};

/// The runtime's calls come on the first connection of the multiplexer, its answers on the second.
const PLUGIN: u32 = 1;
const RUNTIME: u32 = 2;
/// Number of bytes that the socket's buffer accepts without a reader.
const ROOM: usize = 128 * 1024;
/// The longest script whose answers fit into the socket's buffer as well, so that nobody need read them meanwhile. A call
/// has 60 bytes or more, and an answer takes 2 KiB of the kernel's memory at most.
const UNREAD: usize = 4 * 1024;

/// Maximum size of one field of a message.
#[derive(Arbitrary, Debug)]
enum Value {
    Number(u64),
    Word(u8),
    Bytes(Vec<u8>),
    Message(Vec<(u8, Value)>),
    /// A map's entry, or another pair of texts.
    Pair(u8, u8),
}

/// The runtime's next action.
#[derive(Arbitrary, Debug)]
enum Step {
    /// A call of the plugin's service, with a message that has the right form.
    Call(Method, Vec<(u8, Value)>),
    /// CreateContainer and StartContainer of a pod and a container with the fields that matter.
    Container { starts: bool, pod: Vec<(u8, Value)>, container: Vec<(u8, Value)> },
    /// A call with any payload.
    Any(Method, Vec<u8>),
    /// A frame of any connection.
    Frame(u8, Vec<u8>),
    /// Bytes between two frames.
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Method {
    Configure,
    Synchronize,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    RemovePodSandbox,
    StateChange,
    ValidateContainerAdjustment,
    Shutdown,
    Unknown,
}

/// Texts that mean something somewhere.
const WORDS: [&str; 28] = [
    "",
    "3f1c6ac2d4e05f7a9b8c0d1e2f3a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c",
    "c",
    "usernsd.io/cgroup",
    "usernsd.io/systemd",
    "usernsd.io/cgroup/container.c",
    "usernsd.io/cgroup/pod",
    "writable",
    "true",
    "false",
    "writable-cgroups.noderesource.dev",
    "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw",
    "cgroup2-mount-hierarchy-rw.crio.io",
    "io.kubernetes.cri-o.userns-mode",
    "auto:size=65536",
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/",
    "cgroup",
    "cgroup2",
    "rw",
    "ro",
    "user",
    "pid",
    "network",
    "kubepods-burstable-pod1.slice:crio:c",
    "kubepods-burstable-pod1.slice:cri-containerd:c",
    "default",
    "\u{1b}[31m\u{202e}\u{0}",
];

fn word(choice: u8) -> &'static [u8] {
    WORDS[usize::from(choice) % WORDS.len()].as_bytes()
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    varint(u64::from(tag) << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Field numbers of NRI's messages are at most 30.
fn encode(fields: &[(u8, Value)], depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in fields {
        let tag = tag % 30 + 1;
        match value {
            Value::Number(number) => {
                varint(u64::from(tag) << 3, &mut out);
                varint(*number, &mut out);
            }
            Value::Word(choice) => field(tag, word(*choice), &mut out),
            Value::Bytes(bytes) => field(tag, bytes, &mut out),
            Value::Message(fields) if depth < 4 => field(tag, &encode(fields, depth + 1), &mut out),
            Value::Message(_) => {}
            Value::Pair(key, value) => {
                let mut pair = Vec::new();
                field(1, word(*key), &mut pair);
                field(2, word(*value), &mut pair);
                field(tag, &pair, &mut out);
            }
        }
    }
    out
}

fn frame(connection: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&connection.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
}

fn message(stream: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), &stream.to_be_bytes()[..], &[kind, 0], body].concat()
}

fn call(stream: u32, method: &str, payload: &[u8], out: &mut Vec<u8>) {
    let mut body = Vec::new();
    field(1, b"nri.pkg.api.v1alpha1.Plugin", &mut body);
    field(2, method.as_bytes(), &mut body);
    field(3, payload, &mut body);
    frame(PLUGIN, &message(stream, 1, &body), out);
}

/// A message with an ID and a name first, so that most are read.
fn named(fields: &[(u8, Value)]) -> Vec<u8> {
    let mut out = Vec::new();
    field(1, word(1), &mut out);
    field(2, word(1), &mut out);
    field(3, word(2), &mut out);
    out.extend(encode(fields, 0));
    out
}

/// The bytes that the runtime sends, and its calls in order if they are known: arbitrary bytes may contain
/// calls.
fn script(steps: &[Step]) -> (Vec<u8>, Option<Vec<u32>>) {
    let mut out = Vec::new();
    // The answer to the registration, and Configure.
    frame(RUNTIME, &message(1, 2, &[]), &mut out);
    let mut configure = Vec::new();
    field(2, b"containerd", &mut configure);
    field(3, b"2.1.9", &mut configure);
    call(1, "Configure", &configure, &mut out);
    let mut stream = 1;
    let mut calls = Some(vec![1]);
    for step in steps {
        stream += 2;
        match step {
            Step::Call(method, fields) => call(stream, &format!("{method:?}"), &encode(fields, 0), &mut out),
            Step::Any(method, payload) => call(stream, &format!("{method:?}"), payload, &mut out),
            Step::Container { starts, pod, container } => {
                let mut payload = Vec::new();
                field(1, &named(pod), &mut payload);
                field(2, &named(container), &mut payload);
                let method = if *starts { "StartContainer" } else { "CreateContainer" };
                call(stream, method, &payload, &mut out);
            }
            Step::Frame(connection, payload) => frame(u32::from(*connection), payload, &mut out),
            Step::Bytes(bytes) => out.extend_from_slice(bytes),
        }
        match step {
            Step::Frame(..) | Step::Bytes(_) => calls = None,
            _ => calls.iter_mut().for_each(|calls| calls.push(stream)),
        }
        if out.len() > ROOM {
            out.truncate(ROOM);
            return (out, None);
        }
    }
    (out, calls)
}

/// The calls that were answered, in the order of the answers.
fn answered(mut bytes: &[u8]) -> Vec<u32> {
    // The multiplexer cuts messages into frames.
    let mut stream = Vec::new();
    while let Some((&[a, b, c, d, e, f, g, h], rest)) = bytes.split_first_chunk() {
        let (payload, rest) = rest.split_at(u32::from_be_bytes([e, f, g, h]) as usize);
        if u32::from_be_bytes([a, b, c, d]) == PLUGIN {
            stream.extend_from_slice(payload);
        }
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a frame was sent");
    let mut rest = stream.as_slice();
    let mut answered = Vec::new();
    while let Some((&[a, b, c, d, e, f, g, h, kind, _], after)) = rest.split_first_chunk() {
        assert_eq!(kind, 2, "what is sent on the runtime's connection are answers");
        answered.push(u32::from_be_bytes([e, f, g, h]));
        rest = &after[u32::from_be_bytes([a, b, c, d]) as usize..];
    }
    assert!(rest.is_empty(), "half an answer was sent");
    answered
}

/// Takes part in the conversation as the plugin; whether the runtime ended it, with nothing left to answer.
fn converse(plugin: UnixStream, launched: bool, refuses: bool) -> bool {
    let session = match launched {
        true => Session::launched(plugin, "usernsd", "90", |_| Ok(())),
        false => Session::over(plugin, "usernsd", "90"),
    };
    let Ok(mut session) = session else { return false };
    session.refuse_unread(refuses);
    let rules = AdjustRules { namespaces: vec!["*".to_owned()], privileged_cgroup_namespace: true };
    loop {
        let answered = match session.next() {
            Ok(Some(Request::CreateContainer { container, token, .. })) => {
                let answer = adjust::plan(&container, &rules, None).map_err(|error| error.to_string());
                session.answer_create(token, answer)
            }
            Ok(Some(Request::StartContainer { container, token, .. })) => {
                session.answer_start(token, if container.user_namespace { Ok(()) } else { Err("no".into()) })
            }
            Ok(Some(_)) => Ok(()),
            Ok(None) => return true,
            Err(_) => return false,
        };
        if answered.is_err() {
            return false;
        }
    }
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok(launched) = bool::arbitrary(&mut input) else { return };
    let Ok(refuses) = bool::arbitrary(&mut input) else { return };
    let Ok(steps) = Vec::<Step>::arbitrary(&mut input) else { return };
    let (script, calls) = script(&steps);
    let (mut runtime, plugin) = UnixStream::pair().unwrap();
    runtime.write_all(&script).unwrap();
    runtime.shutdown(Shutdown::Write).unwrap();
    let mut read = move || {
        let mut written = Vec::new();
        // A plugin that leaves with something unread resets the connection.
        let _ = runtime.read_to_end(&mut written);
        written
    };
    let (ended, written) = if script.len() <= UNREAD {
        (converse(plugin, launched, refuses), read())
    } else {
        thread::scope(|scope| {
            // A runtime reads all the time; the plugin waits for room otherwise.
            let reader = scope.spawn(read);
            (converse(plugin, launched, refuses), reader.join().unwrap())
        })
    };
    let answered = answered(&written);
    if let Some(calls) = calls {
        assert!(calls.starts_with(&answered), "calls {calls:?}, answered {answered:?}");
        let shut_down = steps
            .iter()
            .any(|step| matches!(step, Step::Call(Method::Shutdown, _) | Step::Any(Method::Shutdown, _)));
        assert!(
            !ended || shut_down || calls.len() == answered.len(),
            "calls {calls:?}, answered {answered:?}"
        );
    }
}
