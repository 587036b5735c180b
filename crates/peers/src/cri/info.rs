//! Converts CRI messages into domain values, parsing them in place: a list may have 16 MiB, nearly all of it
//! annotations and labels that usernsd does not read. Verbose answers contain a JSON text, `info["info"]`, in
//! each runtime's own shape: CRI-O `{sandboxID, pid, runtimeSpec, privileged}` (unchanged since 1.22),
//! containerd `{sandboxID, pid, runtimeSpec, config, runtimeType, …}`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use prost::Message;
use prost::bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::v1;
use super::{
    ContainerEvent, ContainerEventKind, CriError, CriSandbox, Document, End, InspectedContainer,
    InspectedSandbox, ListedContainer,
};
use usernsd_domain::chain::chain;
use usernsd_domain::container::{ContainerState, CriId, PodRef, UserNamespaceRequest};
use usernsd_domain::idmap::IdMap;
use usernsd_domain::protobuf::{self, FieldValue, Fields, Malformed};
use usernsd_domain::relevant;
use usernsd_domain::repair::RESTART_COUNT;

/// The labels that the kubelet puts on every sandbox and container (k8s.io/kubelet `pkg/types/labels.go`).
const LABEL_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const LABEL_NAME: &str = "io.kubernetes.pod.name";
const LABEL_UID: &str = "io.kubernetes.pod.uid";

/// The most items of a list that are kept; kubelets run 110 pods by default, and rarely more than 500.
const LISTED: usize = 8192;
/// The longest name that is kept, in bytes.
const NAME: usize = 253;
/// The longest other text that is kept, in bytes.
const TEXT: usize = 4096;
/// Size limit of all annotations in one list, in bytes.
const ANNOTATIONS: usize = 2 << 20;

/// The fields of `info["info"]` that are read, of both runtimes. Go writes absent pointers as `null`.
#[derive(Debug, Deserialize)]
struct Info<'a> {
    #[serde(rename = "sandboxID")]
    sandbox_id: Option<String>,
    pid: Option<u32>,
    /// Set by CRI-O.
    privileged: Option<bool>,
    /// Set by containerd: the CRI request.
    config: Option<Config>,
    #[serde(rename = "runtimeSpec", borrow)]
    spec: Option<&'a RawValue>,
    #[serde(rename = "runtimeHandler")]
    runtime_handler: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Config {
    linux: Option<ConfigLinux>,
}

#[derive(Debug, Deserialize)]
struct ConfigLinux {
    security_context: Option<SecurityContext>,
}

#[derive(Debug, Deserialize)]
struct SecurityContext {
    /// Go omits `false`.
    privileged: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct SandboxSpec {
    annotations: Option<BTreeMap<String, Option<String>>>,
}

/// Parses a list of sandboxes (`ListPodSandboxResponse`). Only annotations that usernsd reads ([`relevant`])
/// are kept, up to [`ANNOTATIONS`] bytes in total.
pub(super) fn listed_sandboxes(call: &'static str, message: &Bytes) -> Result<Vec<CriSandbox>, CriError> {
    let mut items = Vec::new();
    let mut kept = 0;
    for field in Fields::of(message) {
        match field.map_err(|error| malformed(call, &error))? {
            (1, _) if items.len() >= LISTED => left_out(call),
            (1, item) => {
                let Status { mut sandbox, .. } = status(call, item, &IN_LIST)?;
                kept += weight(&sandbox.annotations);
                if kept > ANNOTATIONS {
                    sandbox.annotations.clear();
                    sandbox.is_cut = true;
                }
                items.push(sandbox);
            }
            _ => {}
        }
    }
    Ok(items)
}

/// Parses a list of containers (`ListContainersResponse`).
pub(super) fn listed_containers(
    call: &'static str,
    message: &Bytes,
) -> Result<Vec<ListedContainer>, CriError> {
    let mut items = Vec::new();
    for field in Fields::of(message) {
        match field.map_err(|error| malformed(call, &error))? {
            (1, _) if items.len() >= LISTED => left_out(call),
            (1, item) => items.push(listed_container(call, item)?),
            _ => {}
        }
    }
    Ok(items)
}

fn left_out(call: &'static str) {
    tracing::debug!(call, "left an item out of a list of more than {LISTED}");
}

fn listed_container(call: &'static str, item: FieldValue<'_>) -> Result<ListedContainer, CriError> {
    let mut its_id = &[][..];
    let (mut sandbox_id, mut its_name, mut pod) = (String::new(), String::new(), PodRef::default());
    let (mut number, mut created_at_ns) = (0, 0);
    for field in item.fields() {
        let (tag, value) = field.map_err(|error| malformed(call, &error))?;
        match tag {
            1 => its_id = value.bytes(),
            2 => sandbox_id = name(value.bytes()),
            3 => its_name = name_in(call, value)?,
            6 => number = value.number(),
            7 => created_at_ns = value.signed(),
            8 => drop(label(call, value, &mut pod)?),
            _ => {}
        }
    }
    let (id, state) = (id(call, its_id)?, state(number));
    Ok(ListedContainer { id, sandbox_id, name: its_name, pod, state, created_at_ns })
}

/// The field numbers of a sandbox that differ between a list and a status, and what is kept.
struct Shape {
    linux: u32,
    labels: u32,
    annotations: u32,
    runtime_handler: u32,
    keep: fn(&str) -> bool,
    /// The most annotations that are kept.
    at_most: usize,
}

const IN_LIST: Shape = Shape {
    linux: 0,
    labels: 5,
    annotations: 6,
    runtime_handler: 7,
    keep: relevant::annotation,
    at_most: 32,
};
const IN_STATUS: Shape =
    Shape { linux: 6, labels: 7, annotations: 8, runtime_handler: 9, keep: |_| true, at_most: 8192 };

/// A sandbox, and what its pod requested if the answer contains that.
struct Status {
    sandbox: CriSandbox,
    request: Option<UserNamespaceRequest>,
    uids: IdMap,
    host_network: bool,
}

/// Parses a `PodSandbox` or a `PodSandboxStatus`.
fn status(call: &'static str, message: FieldValue<'_>, shape: &Shape) -> Result<Status, CriError> {
    let mut its_id = &[][..];
    let (mut named, mut labelled) = (None, PodRef::default());
    let mut annotations = BTreeMap::new();
    let (mut size, mut number, mut runtime_handler) = (0_u64, 0, String::new());
    let mut linux = (None, IdMap::default(), false);
    for field in message.fields() {
        let (tag, value) = field.map_err(|error| malformed(call, &error))?;
        match tag {
            1 => its_id = value.bytes(),
            2 => named = Some(metadata(call, value)?),
            3 => number = value.number(),
            tag if tag == shape.linux => linux = namespaces(call, value)?,
            tag if tag == shape.labels => size += label(call, value, &mut labelled)?,
            tag if tag == shape.annotations => {
                let (key, value) = entry(call, value)?;
                size += length(key) + length(value);
                if let Ok(key) = str::from_utf8(key)
                    && (shape.keep)(key)
                    && annotations.len() < shape.at_most
                {
                    annotations.insert(key.to_owned(), text(value));
                }
            }
            tag if tag == shape.runtime_handler => runtime_handler = name(value.bytes()),
            _ => {}
        }
    }
    let (request, uids, host_network) = linux;
    let sandbox = CriSandbox {
        id: id(call, its_id)?,
        pod: named.unwrap_or(labelled),
        annotations,
        is_cut: false,
        size,
        ready: is(number, v1::PodSandboxState::SandboxReady as i32),
        runtime_handler,
    };
    Ok(Status { sandbox, request, uids, host_network })
}

/// The pod's user and network namespaces in a `LinuxPodSandboxStatus`.
fn namespaces(
    call: &'static str,
    linux: FieldValue<'_>,
) -> Result<(Option<UserNamespaceRequest>, IdMap, bool), CriError> {
    let namespaces = protobuf::field(linux.bytes(), 1).map_err(|error| malformed(call, &error))?;
    let options = protobuf::field(namespaces.bytes(), 2).map_err(|error| malformed(call, &error))?;
    // Decoded as a whole: some hundred bytes, and a pod's author controls none of them.
    let options =
        v1::NamespaceOption::decode(options.bytes()).map_err(|error| unreadable(call, &chain(&error)))?;
    let host_network = options.network() == v1::NamespaceMode::Node;
    let userns = options.userns_options;
    let request = match userns.as_ref().map(v1::UserNamespace::mode) {
        None => None,
        Some(v1::NamespaceMode::Node) => Some(UserNamespaceRequest::Host),
        // POD, the only other mode that CRI allows.
        Some(_) => Some(UserNamespaceRequest::Own),
    };
    Ok((request, id_map(call, userns.map(|userns| userns.uids).unwrap_or_default())?, host_network))
}

/// Parses a sandbox's verbose status (`PodSandboxStatusResponse`).
pub(super) fn sandbox(call: &'static str, message: &Bytes) -> Result<InspectedSandbox, CriError> {
    let (found, text) = status_and_info(call, message)?;
    let Status { mut sandbox, request, uids, host_network } =
        status(call, found.ok_or_else(|| unreadable(call, "no status"))?, &IN_STATUS)?;
    // CRI defines verbose information as for debugging only, so its absence is no error here.
    let info = text.map(|text| read_info(call, text)).transpose()?;
    if sandbox.runtime_handler.is_empty() {
        sandbox.runtime_handler = match &info {
            Some(Info { runtime_handler: Some(handler), .. }) => handler.clone(),
            // CRI-O never sets the field, in any version; the specification contains the handler.
            Some(Info { spec: Some(spec), .. }) => handler_of(call, spec)?,
            _ => String::new(),
        };
    }
    let pid = info.and_then(|info| info.pid).filter(|pid| *pid != 0);
    Ok(InspectedSandbox { request, uids, pid, host_network, sandbox })
}

/// The status of a verbose answer, and the text in its `info["info"]`.
fn status_and_info<'a>(
    call: &'static str,
    message: &'a [u8],
) -> Result<(Option<FieldValue<'a>>, Option<&'a str>), CriError> {
    let (mut status, mut info) = (None, None);
    for field in Fields::of(message) {
        match field.map_err(|error| malformed(call, &error))? {
            (1, value) => status = Some(value),
            (2, pair) => {
                let (key, value) = entry(call, pair)?;
                if key == b"info" {
                    info = Some(str::from_utf8(value).map_err(|error| unreadable(call, &chain(&error)))?);
                }
            }
            _ => {}
        }
    }
    Ok((status, info))
}

/// The fields of a `ContainerStatus` that are read.
#[derive(Default)]
struct ContainerFields<'a> {
    id: &'a [u8],
    name: String,
    pod: PodRef,
    state: u32,
    created_at: i64,
    finished_at: i64,
    exit_code: u32,
    reason: String,
    message: String,
    log_path: String,
    restarts: Option<u32>,
}

fn container_fields<'a>(call: &'static str, status: FieldValue<'a>) -> Result<ContainerFields<'a>, CriError> {
    let mut fields = ContainerFields::default();
    for field in status.fields() {
        let (tag, value) = field.map_err(|error| malformed(call, &error))?;
        match tag {
            1 => fields.id = value.bytes(),
            2 => fields.name = name_in(call, value)?,
            3 => fields.state = value.number(),
            4 => fields.created_at = value.signed(),
            6 => fields.finished_at = value.signed(),
            7 => fields.exit_code = value.number(),
            10 => fields.reason = text(value.bytes()),
            11 => fields.message = text(value.bytes()),
            12 => drop(label(call, value, &mut fields.pod)?),
            13 => {
                let (key, value) = entry(call, value)?;
                if key == RESTART_COUNT.as_bytes() {
                    fields.restarts = str::from_utf8(value).ok().and_then(|count| count.parse().ok());
                }
            }
            15 => fields.log_path = text(value.bytes()),
            _ => {}
        }
    }
    Ok(fields)
}

impl ContainerFields<'_> {
    fn end(&mut self) -> Option<End> {
        is(self.state, v1::ContainerState::ContainerExited as i32).then(|| End {
            code: self.exit_code.cast_signed(),
            at_ns: self.finished_at,
            reason: std::mem::take(&mut self.reason),
            message: std::mem::take(&mut self.message),
        })
    }
}

/// Parses a container's verbose status (`ContainerStatusResponse`).
pub(super) fn container(call: &'static str, answer: &Bytes) -> Result<InspectedContainer, CriError> {
    let (status, text) = status_and_info(call, answer)?;
    let mut fields = container_fields(call, status.ok_or_else(|| unreadable(call, "no status"))?)?;
    let text = text.ok_or_else(|| unreadable(call, "no verbose information"))?;
    let info = read_info(call, text)?;
    let spec = info.spec.ok_or_else(|| unreadable(call, "no runtimeSpec in the verbose information"))?;
    let config = info.config.and_then(|config| config.linux);
    Ok(InspectedContainer {
        created_at_ns: fields.created_at,
        end: fields.end(),
        log_path: std::mem::take(&mut fields.log_path),
        restarts: fields.restarts,
        container: ListedContainer {
            id: id(call, fields.id)?,
            sandbox_id: info.sandbox_id.unwrap_or_default(),
            name: std::mem::take(&mut fields.name),
            pod: std::mem::take(&mut fields.pod),
            state: state(fields.state),
            created_at_ns: fields.created_at,
        },
        pid: info.pid.filter(|pid| *pid != 0),
        privileged: info.privileged.or_else(|| {
            let context = config?.security_context;
            Some(context.and_then(|context| context.privileged).unwrap_or(false))
        }),
        spec_json: Document::within(answer, spec.get()),
    })
}

/// Parses how a container ended from its status (`ContainerStatusResponse`).
pub(super) fn end(call: &'static str, answer: &Bytes) -> Result<Option<End>, CriError> {
    match status_and_info(call, answer)?.0 {
        Some(status) => Ok(container_fields(call, status)?.end()),
        None => Ok(None),
    }
}

/// Parses one event (`ContainerEventResponse`); `None` for an unknown kind.
pub(super) fn event(call: &'static str, message: &Bytes) -> Result<Option<ContainerEvent>, CriError> {
    let (mut its_id, mut sandbox, mut number, mut created_at_ns) = (&[][..], &[][..], 0, 0);
    for field in Fields::of(message) {
        match field.map_err(|error| malformed(call, &error))? {
            (1, value) => its_id = value.bytes(),
            (2, value) => number = value.number(),
            (3, value) => created_at_ns = value.signed(),
            (4, value) => {
                sandbox = protobuf::field(value.bytes(), 1).map_err(|error| malformed(call, &error))?.bytes();
            }
            _ => {}
        }
    }
    let kind = match v1::ContainerEventType::try_from(number.cast_signed()) {
        Ok(v1::ContainerEventType::ContainerCreatedEvent) => ContainerEventKind::Created,
        Ok(v1::ContainerEventType::ContainerStartedEvent) => ContainerEventKind::Started,
        Ok(v1::ContainerEventType::ContainerStoppedEvent) => ContainerEventKind::Stopped,
        Ok(v1::ContainerEventType::ContainerDeletedEvent) => ContainerEventKind::Deleted,
        Err(_) => return Ok(None),
    };
    Ok(Some(ContainerEvent { kind, id: id(call, its_id)?, sandbox_id: name(sandbox), created_at_ns }))
}

fn read_info<'a>(call: &'static str, text: &'a str) -> Result<Info<'a>, CriError> {
    serde_json::from_str(text).map_err(|error| unreadable(call, &format!("verbose information: {error}")))
}

/// The runtime handler that CRI-O recorded in the sandbox's specification.
fn handler_of(call: &'static str, spec: &RawValue) -> Result<String, CriError> {
    let spec: SandboxSpec = serde_json::from_str(spec.get())
        .map_err(|error| unreadable(call, &format!("runtimeSpec: {error}")))?;
    let handler = spec.annotations.and_then(|mut all| all.remove("io.kubernetes.cri-o.RuntimeHandler"));
    Ok(handler.flatten().unwrap_or_default())
}

fn id_map(call: &'static str, mappings: Vec<v1::IdMapping>) -> Result<IdMap, CriError> {
    // Rendered in the kernel's text form, so that one parser holds all rules.
    let mut text = String::new();
    for mapping in mappings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", mapping.container_id, mapping.host_id, mapping.length);
    }
    IdMap::parse(&text).map_err(|error| unreadable(call, &format!("user IDs of the pod: {error}")))
}

fn id(call: &'static str, text: &[u8]) -> Result<CriId, CriError> {
    let text = String::from_utf8_lossy(text.get(..200).unwrap_or(text));
    CriId::parse(&text).map_err(|error| unreadable(call, &chain(&error)))
}

/// A text, cut at 4 KiB. Invalid UTF-8, which Go never sends, is replaced.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..TEXT).unwrap_or(bytes)).into_owned()
}

/// A name or an ID; none is longer than a DNS subdomain.
fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..NAME).unwrap_or(bytes)).into_owned()
}

fn length(text: &[u8]) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

/// Size of annotations, in bytes.
fn weight(annotations: &BTreeMap<String, String>) -> usize {
    annotations.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// Key and value of a map entry.
fn entry<'a>(call: &'static str, pair: FieldValue<'a>) -> Result<(&'a [u8], &'a [u8]), CriError> {
    let (mut key, mut value) = (&[][..], &[][..]);
    for field in pair.fields() {
        match field.map_err(|error| malformed(call, &error))? {
            (1, found) => key = found.bytes(),
            (2, found) => value = found.bytes(),
            _ => {}
        }
    }
    Ok((key, value))
}

/// Sets the part of the pod's name that a label of the kubelet gives; returns the label's size in bytes.
fn label(call: &'static str, pair: FieldValue<'_>, pod: &mut PodRef) -> Result<u64, CriError> {
    let (key, value) = entry(call, pair)?;
    match str::from_utf8(key) {
        Ok(LABEL_NAMESPACE) => pod.namespace = name(value),
        Ok(LABEL_NAME) => pod.name = name(value),
        Ok(LABEL_UID) => pod.uid = name(value),
        _ => {}
    }
    Ok(length(key) + length(value))
}

/// The pod in a sandbox's metadata.
fn metadata(call: &'static str, message: FieldValue<'_>) -> Result<PodRef, CriError> {
    let mut pod = PodRef::default();
    for field in message.fields() {
        match field.map_err(|error| malformed(call, &error))? {
            (1, value) => pod.name = name(value.bytes()),
            (2, value) => pod.uid = name(value.bytes()),
            (3, value) => pod.namespace = name(value.bytes()),
            _ => {}
        }
    }
    Ok(pod)
}

/// The name in a container's metadata.
fn name_in(call: &'static str, message: FieldValue<'_>) -> Result<String, CriError> {
    let found = protobuf::field(message.bytes(), 1).map_err(|error| malformed(call, &error))?;
    Ok(name(found.bytes()))
}

fn malformed(call: &'static str, error: &Malformed) -> CriError {
    unreadable(call, &chain(&error))
}

fn unreadable(call: &'static str, reason: &str) -> CriError {
    CriError::Answer { call, reason: reason.to_owned() }
}

fn is(number: u32, wanted: i32) -> bool {
    number.cast_signed() == wanted
}

fn state(number: u32) -> ContainerState {
    match v1::ContainerState::try_from(number.cast_signed()) {
        Ok(v1::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(v1::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(v1::ContainerState::ContainerExited) => ContainerState::Stopped,
        Ok(v1::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    }
}
