//! A hand-written protobuf encoder: converts recorded JSON into the message that the runtime sent, with all
//! its fields.
//!
//! The field numbers of NRI's published `pkg/api/api.proto` are repeated here on purpose: this reveals
//! mistakes in `proto/nri.proto`.

use std::collections::BTreeMap;

use serde_json::Value;

/// The encoding of a JSON value.
enum Kind {
    Text,
    Number,
    State,
    Map,
    Message(Fields),
}

type Fields = &'static [(&'static str, u32, Kind)];

const OPTIONAL: Fields = &[("value", 1, Kind::Number)];
const NAMESPACE: Fields = &[("type", 1, Kind::Text), ("path", 2, Kind::Text)];
const RESOURCES: Fields = &[
    ("memory", 1, Kind::Message(&[("limit", 1, Kind::Message(OPTIONAL))])),
    ("cpu", 2, Kind::Message(&[("shares", 1, Kind::Message(OPTIONAL))])),
    (
        "devices",
        7,
        Kind::Message(&[("allow", 1, Kind::Number), ("type", 2, Kind::Text), ("access", 5, Kind::Text)]),
    ),
];
const DEVICE: Fields = &[
    ("path", 1, Kind::Text),
    ("type", 2, Kind::Text),
    ("major", 3, Kind::Number),
    ("minor", 4, Kind::Number),
    ("uid", 6, Kind::Message(OPTIONAL)),
    ("gid", 7, Kind::Message(OPTIONAL)),
];
const MOUNT: Fields = &[
    ("destination", 1, Kind::Text),
    ("type", 2, Kind::Text),
    ("source", 3, Kind::Text),
    ("options", 4, Kind::Text),
];

const POD: Fields = &[
    ("id", 1, Kind::Text),
    ("name", 2, Kind::Text),
    ("uid", 3, Kind::Text),
    ("namespace", 4, Kind::Text),
    ("labels", 5, Kind::Map),
    ("annotations", 6, Kind::Map),
    ("runtime_handler", 7, Kind::Text),
    (
        "linux",
        8,
        Kind::Message(&[
            ("cgroup_parent", 3, Kind::Text),
            ("cgroups_path", 4, Kind::Text),
            ("namespaces", 5, Kind::Message(NAMESPACE)),
            ("resources", 6, Kind::Message(RESOURCES)),
        ]),
    ),
    ("pid", 9, Kind::Number),
    ("ips", 10, Kind::Text),
];

const CONTAINER: Fields = &[
    ("id", 1, Kind::Text),
    ("pod_sandbox_id", 2, Kind::Text),
    ("name", 3, Kind::Text),
    ("state", 4, Kind::State),
    ("labels", 5, Kind::Map),
    ("annotations", 6, Kind::Map),
    ("args", 7, Kind::Text),
    ("env", 8, Kind::Text),
    ("mounts", 9, Kind::Message(MOUNT)),
    ("hooks", 10, Kind::Message(&[])),
    (
        "linux",
        11,
        Kind::Message(&[
            ("namespaces", 1, Kind::Message(NAMESPACE)),
            ("devices", 2, Kind::Message(DEVICE)),
            ("resources", 3, Kind::Message(RESOURCES)),
            ("cgroups_path", 5, Kind::Text),
        ]),
    ),
    ("pid", 12, Kind::Number),
    ("created_at", 14, Kind::Number),
    ("started_at", 15, Kind::Number),
    (
        "user",
        21,
        Kind::Message(&[
            ("uid", 1, Kind::Number),
            ("gid", 2, Kind::Number),
            ("additional_gids", 3, Kind::Number),
        ]),
    ),
];

/// A recorded pod as `PodSandbox`.
pub fn pod(recorded: &Value) -> Vec<u8> {
    message(recorded, POD)
}

/// A recorded container as `Container`.
pub fn container(recorded: &Value) -> Vec<u8> {
    message(recorded, CONTAINER)
}

/// One length-delimited field.
pub fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(u64::from(number << 3 | 2), &mut out);
    varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

/// One field with a number.
pub fn number(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(u64::from(number << 3), &mut out);
    varint(value, &mut out);
    out
}

/// A decoded field.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Field {
    pub fn number(&self) -> u64 {
        match self {
            Field::Number(number) => *number,
            Field::Bytes(bytes) => panic!("bytes {bytes:?}, not a number"),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Field::Bytes(bytes) => bytes,
            Field::Number(number) => panic!("number {number}, not bytes"),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).expect("text")
    }
}

/// All fields of a message, in order.
pub fn fields(mut bytes: &[u8]) -> Vec<(u32, Field)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes);
        let value = match key & 7 {
            0 => Field::Number(read_varint(&mut bytes)),
            2 => {
                let length = usize::try_from(read_varint(&mut bytes)).unwrap();
                let (field, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(field.to_vec())
            }
            other => panic!("wire type {other}"),
        };
        all.push((u32::try_from(key >> 3).unwrap(), value));
    }
    all
}

/// The changes that a plugin requests, as they are on the wire.
#[derive(Debug, Default, PartialEq)]
pub struct Adjust {
    pub annotations: BTreeMap<String, String>,
    /// Each with destination, type, source and options.
    pub mounts: Vec<(String, String, String, Vec<String>)>,
    pub env: Vec<(String, String)>,
    pub namespaces: Vec<String>,
}

impl Adjust {
    pub fn read(bytes: &[u8]) -> Adjust {
        let mut adjust = Adjust::default();
        let pair = |part: &Field| {
            let pair: BTreeMap<u32, Field> = fields(part.bytes()).into_iter().collect();
            (pair[&1].text(), pair.get(&2).map(Field::text).unwrap_or_default())
        };
        for (tag, part) in fields(bytes) {
            match tag {
                2 => adjust.annotations.extend([pair(&part)]),
                3 => {
                    let mount = fields(part.bytes());
                    let all =
                        |tag| mount.iter().filter(move |(found, _)| *found == tag).map(|(_, f)| f.text());
                    let one = |tag| all(tag).next().unwrap_or_default();
                    adjust.mounts.push((one(1), one(2), one(3), all(4).collect()));
                }
                4 => adjust.env.push(pair(&part)),
                6 => {
                    for (tag, namespace) in fields(part.bytes()) {
                        assert_eq!(tag, 7, "an adjustment that nobody asked for");
                        adjust.namespaces.push(fields(namespace.bytes())[0].1.text());
                    }
                }
                other => panic!("field {other} in an adjustment"),
            }
        }
        adjust
    }
}

fn message(recorded: &Value, known: Fields) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in recorded.as_object().expect("an object") {
        let (_, number, kind) =
            known.iter().find(|(known, ..)| known == name).unwrap_or_else(|| panic!("field {name} unknown"));
        match value {
            Value::Array(values) => {
                values.iter().for_each(|value| out.extend(one(*number, kind, value)));
            }
            value => out.extend(one(*number, kind, value)),
        }
    }
    out
}

fn one(tag: u32, kind: &Kind, value: &Value) -> Vec<u8> {
    match kind {
        Kind::Text => field(tag, value.as_str().expect("a text").as_bytes()),
        Kind::Number => number(
            tag,
            match value {
                Value::String(digits) => digits.parse().expect("digits"),
                Value::Bool(truth) => u64::from(*truth),
                value => value.as_u64().expect("a number"),
            },
        ),
        Kind::State => {
            let states = ["UNKNOWN", "CREATED", "PAUSED", "RUNNING", "STOPPED"];
            let word = value.as_str().and_then(|word| word.strip_prefix("CONTAINER_")).expect("a state");
            number(tag, states.iter().position(|state| *state == word).expect("a known state") as u64)
        }
        Kind::Map => value
            .as_object()
            .expect("a map")
            .iter()
            .flat_map(|(key, value)| {
                let entry = [field(1, key.as_bytes()), field(2, value.as_str().expect("a text").as_bytes())];
                field(tag, &entry.concat())
            })
            .collect(),
        Kind::Message(known) => field(tag, &message(value, known)),
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a whole number");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a number without an end");
}
