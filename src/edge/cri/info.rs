//! CRI messages as domain values. The verbose answers carry a JSON text, `info["info"]`, in each
//! runtime's own shape: CRI-O `{sandboxID, pid, runtimeSpec, privileged}` (the same since 1.22),
//! containerd `{sandboxID, pid, runtimeSpec, config, runtimeType, …}`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::v1;
use super::{
    ContainerEvent, ContainerEventKind, CriError, CriSandbox, End, Inspected, InspectedSandbox, LABEL_NAME,
    LABEL_NAMESPACE, LABEL_UID, ListedContainer,
};
use crate::domain::container::{ContainerState, CriId, PodName, UserNamespaceRequest};
use crate::domain::idmap::IdMap;
use crate::domain::repair::RESTART_COUNT;

/// What both runtimes write, the few fields read here. Go writes absent pointers as `null`.
#[derive(Debug, Deserialize)]
struct Info<'a> {
    #[serde(rename = "sandboxID")]
    sandbox_id: Option<String>,
    pid: Option<u32>,
    /// CRI-O.
    privileged: Option<bool>,
    /// containerd: the CRI request.
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
    /// Go leaves `false` out.
    privileged: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct SandboxSpec {
    annotations: Option<BTreeMap<String, Option<String>>>,
}

pub(super) fn listed_sandbox(call: &'static str, item: v1::PodSandbox) -> Result<CriSandbox, CriError> {
    Ok(CriSandbox {
        id: id(call, &item.id)?,
        pod: pod(item.metadata, &item.labels),
        size: size(&item.annotations) + size(&item.labels),
        annotations: item.annotations.into_iter().collect(),
        ready: item.state == v1::PodSandboxState::SandboxReady as i32,
        runtime_handler: item.runtime_handler,
    })
}

pub(super) fn listed_container(call: &'static str, item: v1::Container) -> Result<ListedContainer, CriError> {
    Ok(ListedContainer {
        id: id(call, &item.id)?,
        sandbox_id: item.pod_sandbox_id,
        name: item.metadata.unwrap_or_default().name,
        pod: pod(None, &item.labels),
        state: state(item.state),
    })
}

pub(super) fn sandbox(
    call: &'static str,
    answer: v1::PodSandboxStatusResponse,
) -> Result<InspectedSandbox, CriError> {
    let status = answer.status.ok_or_else(|| unreadable(call, "no status"))?;
    // Verbose information is for debugging by CRI's own words: its absence is no error here.
    let info = answer.info.get("info").map(|text| read_info(call, text)).transpose()?;
    let handler = match &info {
        _ if !status.runtime_handler.is_empty() => status.runtime_handler,
        Some(Info { runtime_handler: Some(handler), .. }) => handler.clone(),
        // CRI-O never sets the field, in any version; the specification has it.
        Some(Info { spec: Some(spec), .. }) => handler_of(call, spec)?,
        _ => String::new(),
    };
    let options = status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
    let host_network = options.as_ref().is_some_and(|options| options.network() == v1::NamespaceMode::Node);
    let userns = options.and_then(|options| options.userns_options);
    Ok(InspectedSandbox {
        request: match userns.as_ref().map(v1::UserNamespace::mode) {
            None => None,
            Some(v1::NamespaceMode::Node) => Some(UserNamespaceRequest::Host),
            // POD; CRI allows no other.
            Some(_) => Some(UserNamespaceRequest::Own),
        },
        uids: id_map(call, userns.map(|userns| userns.uids).unwrap_or_default())?,
        pid: info.and_then(|info| info.pid).filter(|pid| *pid != 0),
        host_network,
        sandbox: CriSandbox {
            id: id(call, &status.id)?,
            pod: pod(status.metadata, &status.labels),
            size: size(&status.annotations) + size(&status.labels),
            annotations: status.annotations.into_iter().collect(),
            ready: status.state == v1::PodSandboxState::SandboxReady as i32,
            runtime_handler: handler,
        },
    })
}

pub(super) fn container(
    call: &'static str,
    answer: v1::ContainerStatusResponse,
) -> Result<Inspected, CriError> {
    let status = answer.status.ok_or_else(|| unreadable(call, "no status"))?;
    let text = answer.info.get("info").ok_or_else(|| unreadable(call, "no verbose information"))?;
    let info = read_info(call, text)?;
    let spec = info.spec.ok_or_else(|| unreadable(call, "no runtimeSpec in the verbose information"))?;
    let config = info.config.and_then(|config| config.linux);
    let end = End {
        code: status.exit_code,
        at_ns: status.finished_at,
        reason: status.reason,
        message: status.message,
    };
    Ok(Inspected {
        created_at_ns: status.created_at,
        end: (status.state == v1::ContainerState::ContainerExited as i32).then_some(end),
        log_path: status.log_path,
        restarts: status.annotations.get(RESTART_COUNT).and_then(|count| count.parse().ok()),
        container: ListedContainer {
            id: id(call, &status.id)?,
            sandbox_id: info.sandbox_id.unwrap_or_default(),
            name: status.metadata.unwrap_or_default().name,
            pod: pod(None, &status.labels),
            state: state(status.state),
        },
        pid: info.pid.filter(|pid| *pid != 0),
        privileged: info.privileged.or_else(|| {
            let context = config?.security_context;
            Some(context.and_then(|context| context.privileged).unwrap_or(false))
        }),
        spec_json: spec.get().to_owned(),
    })
}

pub(super) fn end(status: v1::ContainerStatus) -> Option<End> {
    (status.state == v1::ContainerState::ContainerExited as i32).then_some(End {
        code: status.exit_code,
        at_ns: status.finished_at,
        reason: status.reason,
        message: status.message,
    })
}

pub(super) fn event(
    call: &'static str,
    message: v1::ContainerEventResponse,
) -> Result<Option<ContainerEvent>, CriError> {
    let kind = match v1::ContainerEventType::try_from(message.container_event_type) {
        Ok(v1::ContainerEventType::ContainerCreatedEvent) => ContainerEventKind::Created,
        Ok(v1::ContainerEventType::ContainerStartedEvent) => ContainerEventKind::Started,
        Ok(v1::ContainerEventType::ContainerStoppedEvent) => ContainerEventKind::Stopped,
        Ok(v1::ContainerEventType::ContainerDeletedEvent) => ContainerEventKind::Deleted,
        Err(_) => return Ok(None),
    };
    Ok(Some(ContainerEvent {
        kind,
        id: id(call, &message.container_id)?,
        sandbox_id: message.pod_sandbox_status.map(|sandbox| sandbox.id).unwrap_or_default(),
        created_at_ns: message.created_at,
    }))
}

fn read_info<'a>(call: &'static str, text: &'a str) -> Result<Info<'a>, CriError> {
    serde_json::from_str(text).map_err(|error| unreadable(call, &format!("verbose information: {error}")))
}

/// CRI-O's own record of the handler, in the sandbox's specification.
fn handler_of(call: &'static str, spec: &RawValue) -> Result<String, CriError> {
    let spec: SandboxSpec = serde_json::from_str(spec.get())
        .map_err(|error| unreadable(call, &format!("runtimeSpec: {error}")))?;
    let handler = spec.annotations.and_then(|mut all| all.remove("io.kubernetes.cri-o.RuntimeHandler"));
    Ok(handler.flatten().unwrap_or_default())
}

fn id_map(call: &'static str, mappings: Vec<v1::IdMapping>) -> Result<IdMap, CriError> {
    // Through the kernel's text form: one parser holds all rules.
    let mut text = String::new();
    for mapping in mappings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", mapping.container_id, mapping.host_id, mapping.length);
    }
    IdMap::parse(&text).map_err(|error| unreadable(call, &format!("user IDs of the pod: {error}")))
}

fn id(call: &'static str, text: &str) -> Result<CriId, CriError> {
    CriId::parse(text).map_err(|error| unreadable(call, &error.to_string()))
}

/// What these texts take, in bytes.
fn size(texts: &HashMap<String, String>) -> u64 {
    let all: usize = texts.iter().map(|(key, value)| key.len() + value.len()).sum();
    u64::try_from(all).unwrap_or(u64::MAX)
}

fn unreadable(call: &'static str, reason: &str) -> CriError {
    CriError::Answer { call, reason: reason.to_owned() }
}

/// A sandbox says it in its metadata; a container only in the kubelet's labels.
fn pod(metadata: Option<v1::PodSandboxMetadata>, labels: &HashMap<String, String>) -> PodName {
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    match metadata {
        Some(metadata) => PodName { namespace: metadata.namespace, name: metadata.name, uid: metadata.uid },
        None => PodName { namespace: label(LABEL_NAMESPACE), name: label(LABEL_NAME), uid: label(LABEL_UID) },
    }
}

fn state(state: i32) -> ContainerState {
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(v1::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(v1::ContainerState::ContainerExited) => ContainerState::Stopped,
        Ok(v1::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3c0e974d38774631c9306c15f27e5e8c4839a756fb0371df51ed51d4f2bf906c";

    fn answer(info: &str) -> v1::ContainerStatusResponse {
        let status = v1::ContainerStatus { id: ID.into(), ..Default::default() };
        v1::ContainerStatusResponse {
            status: Some(status),
            info: HashMap::from([("info".to_owned(), info.to_owned())]),
        }
    }

    #[test]
    fn takes_both_shapes() {
        for (info, pid, privileged, spec) in [
            (r#"{"pid":7,"privileged":true,"runtimeSpec":{"a": 1}}"#, Some(7), Some(true), r#"{"a": 1}"#),
            (
                r#"{"pid":0,"config":{"linux":{"security_context":{}}},"runtimeSpec":{}}"#,
                None,
                Some(false),
                "{}",
            ),
            (
                r#"{"config":{"linux":{"security_context":{"privileged":true}}},"runtimeSpec":{}}"#,
                None,
                Some(true),
                "{}",
            ),
            (r#"{"pid":null,"sandboxID":null,"config":null,"runtimeSpec":[]}"#, None, None, "[]"),
            (r#"{"config":{"linux":null},"runtimeSpec":{},"new":{"x":[1e400]}}"#, None, None, "{}"),
        ] {
            let seen = container("X", answer(info)).unwrap();
            assert_eq!(
                (seen.pid, seen.privileged, seen.spec_json.as_str()),
                (pid, privileged, spec),
                "{info}"
            );
        }
    }

    #[test]
    fn says_what_is_unreadable() {
        for (info, want) in [
            ("{}", "X: unreadable answer: no runtimeSpec in the verbose information"),
            (r#"{"runtimeSpec":null}"#, "X: unreadable answer: no runtimeSpec in the verbose information"),
            ("nonsense", "X: unreadable answer: verbose information: expected ident at line 1 column 2"),
            (
                r#"{"pid":-1}"#,
                "X: unreadable answer: verbose information: invalid value: integer `-1`, expected u32 at line 1 column 9",
            ),
        ] {
            assert_eq!(container("X", answer(info)).unwrap_err().to_string(), want, "{info}");
        }
        let none = v1::ContainerStatusResponse::default();
        assert_eq!(container("X", none).unwrap_err().to_string(), "X: unreadable answer: no status");
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>(), key in "sandboxID|pid|config|runtimeSpec|privileged") {
            for info in [text.clone(), format!("{{\"{key}\":{text}}}"), format!("{{\"{key}\":{text:?}}}")] {
                let _ = container("X", answer(&info));
                let _ = sandbox("X", v1::PodSandboxStatusResponse {
                    status: Some(v1::PodSandboxStatus { id: text.clone(), ..Default::default() }),
                    info: answer(&info).info,
                    ..Default::default()
                });
            }
        }

        #[test]
        fn any_message_is_read_or_refused(kind in -1..6i32, id in any::<String>(), ids in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 0..4)) {
            let event = event("X", v1::ContainerEventResponse { container_id: id, container_event_type: kind, ..Default::default() });
            prop_assert_eq!(matches!(event, Ok(None)), !(0..4).contains(&kind));
            let _ = id_map("X", ids.into_iter().map(|(container_id, host_id, length)| v1::IdMapping { container_id, host_id, length }).collect());
        }
    }
}
