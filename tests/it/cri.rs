//! The CRI client against a fake runtime on a real socket, with recorded answers of CRI-O 1.36.3.

use std::time::Duration;

use crate::fakes::cri_runtime::{AfterEvents, FakeRuntime, Scenario};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use usernsd_domain::container::{ContainerState, CriId, PodRef, UserNamespaceRequest};
use usernsd_peers::cri::{ContainerEvent, ContainerEventKind, Cri, CriError, DEADLINE, ListedContainer, v1};

const SOON: Duration = Duration::from_millis(200);

/// A fake runtime, and the client on its socket.
struct Rig {
    directory: tempfile::TempDir,
    cri: Cri,
    runtime: Option<FakeRuntime>,
}

fn rig(scenario: Scenario) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("crio.sock");
    let runtime = Some(FakeRuntime::start(&socket, scenario));
    Rig { cri: Cri::new(socket), directory, runtime }
}

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/cri-o/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn labels(value: &Value) -> std::collections::HashMap<String, String> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A container's status as `crictl inspect` printed it, converted back to protobuf.
fn container_status(name: &str) -> (String, v1::ContainerStatus, Option<String>) {
    let json = fixture(name);
    let status = &json["status"];
    let sandbox = text(&json["info"]["sandboxID"]);
    let status = v1::ContainerStatus {
        id: text(&status["id"]),
        metadata: Some(v1::ContainerMetadata { name: text(&status["metadata"]["name"]), attempt: 0 }),
        state: v1::ContainerState::from_str_name(&text(&status["state"])).unwrap() as i32,
        labels: labels(&status["labels"]),
        ..Default::default()
    };
    (sandbox, status, Some(json["info"].to_string()))
}

fn sandbox_status(name: &str) -> (v1::PodSandboxStatus, Option<String>) {
    let json = fixture(name);
    let status = &json["status"];
    let userns = &status["linux"]["namespaces"]["options"]["usernsOptions"];
    let ids = |value: &Value| {
        let all = value.as_array().into_iter().flatten();
        let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
        all.map(|one| v1::IdMapping {
            host_id: number(&one["hostId"]),
            container_id: number(&one["containerId"]),
            length: number(&one["length"]),
        })
        .collect::<Vec<_>>()
    };
    let options = v1::NamespaceOption {
        userns_options: userns.is_object().then(|| v1::UserNamespace {
            mode: v1::NamespaceMode::from_str_name(&text(&userns["mode"])).unwrap() as i32,
            uids: ids(&userns["uids"]),
            gids: ids(&userns["gids"]),
        }),
        ..Default::default()
    };
    let metadata = &status["metadata"];
    let status = v1::PodSandboxStatus {
        id: text(&status["id"]),
        metadata: Some(v1::PodSandboxMetadata {
            name: text(&metadata["name"]),
            namespace: text(&metadata["namespace"]),
            uid: text(&metadata["uid"]),
            attempt: 0,
        }),
        state: v1::PodSandboxState::from_str_name(&text(&status["state"])).unwrap() as i32,
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options: Some(options) }) }),
        labels: labels(&status["labels"]),
        annotations: labels(&status["annotations"]),
        ..Default::default()
    };
    (status, Some(json["info"].to_string()))
}

fn recorded() -> Scenario {
    let mut scenario = Scenario { version: ("cri-o".into(), "1.36.3".into()), ..Default::default() };
    for name in ["userns-systemd", "usernode", "priv-userns-runc"] {
        let (status, info) = sandbox_status(&format!("crio-podsandboxstatus-{name}"));
        scenario.add_sandbox(status, info);
    }
    for name in ["userns-systemd", "priv-userns-runc", "created", "nouserns", "exited"] {
        let (sandbox, status, info) = container_status(&format!("crio-containerstatus-{name}"));
        scenario.add_container(&sandbox, status, info);
    }
    scenario
}

fn id(text: &str) -> CriId {
    CriId::parse(text).unwrap()
}

#[tokio::test]
async fn the_version_call_names_the_runtime() {
    let rig = rig(recorded());
    let version = rig.cri.version().await.unwrap();
    assert_eq!(
        (version.name, version.version, version.api_version),
        ("cri-o".into(), "1.36.3".into(), "v1".into())
    );
}

#[tokio::test]
async fn a_recorded_container_is_parsed() {
    let rig = rig(recorded());
    for (name, state, privileged) in [
        ("userns-systemd", ContainerState::Running, false),
        ("priv-userns-runc", ContainerState::Running, true),
        ("created", ContainerState::Created, false),
        ("nouserns", ContainerState::Stopped, false),
        ("exited", ContainerState::Stopped, false),
    ] {
        let json = fixture(&format!("crio-containerstatus-{name}"));
        let want = id(&text(&json["status"]["id"]));
        let seen = rig.cri.container(&want).await.unwrap().unwrap();
        let container = ListedContainer {
            id: want.clone(),
            sandbox_id: text(&json["info"]["sandboxID"]),
            name: "c".into(),
            pod: PodRef::default(),
            state,
            created_at_ns: seen.created_at_ns,
        };
        assert_eq!(seen.container, container, "{name}");
        assert_eq!(seen.pid.map(u64::from), json["info"]["pid"].as_u64(), "{name}");
        assert_eq!(seen.privileged, Some(privileged), "{name}");
        let spec: Value = serde_json::from_str(&seen.spec_json).unwrap();
        assert_eq!(spec, json["info"]["runtimeSpec"], "{name}");
        assert!(rig.cri.containers().await.unwrap().contains(&container), "{name}");
    }
}

#[tokio::test]
async fn a_container_has_the_kubelets_labels() {
    let mut scenario = Scenario::default();
    let label = |key: &str, value: &str| (format!("io.kubernetes.pod.{key}"), value.to_owned());
    let status = v1::ContainerStatus {
        id: "c1".into(),
        labels: [label("namespace", "ns"), label("name", "web-0"), label("uid", "u1")].into(),
        ..Default::default()
    };
    scenario.add_container("s1", status, Some(r#"{"pid":1,"runtimeSpec":{}}"#.into()));
    let rig = rig(scenario);
    let want = PodRef { namespace: "ns".into(), name: "web-0".into(), uid: "u1".into() };
    assert_eq!(rig.cri.containers().await.unwrap()[0].pod, want);
    assert_eq!(rig.cri.container(&id("c1")).await.unwrap().unwrap().container.pod, want);
}

#[tokio::test]
async fn the_request_of_a_pod_is_parsed() {
    let rig = rig(recorded());
    for (name, request, uids) in [
        ("userns-systemd", UserNamespaceRequest::Own, "0:200000:65536"),
        ("usernode", UserNamespaceRequest::Host, ""),
        ("priv-userns-runc", UserNamespaceRequest::Own, "0:200000:65536"),
    ] {
        let json = fixture(&format!("crio-podsandboxstatus-{name}"));
        let seen = rig.cri.sandbox(&id(&text(&json["status"]["id"]))).await.unwrap().unwrap();
        assert_eq!(seen.request, Some(request), "{name}");
        assert_eq!(seen.uids.to_string(), uids, "{name}");
        // If the record contains no process, the infra container was dropped.
        assert_eq!(seen.pid, None, "{name}");
        let handler = &json["info"]["runtimeSpec"]["annotations"]["io.kubernetes.cri-o.RuntimeHandler"];
        assert_eq!(seen.sandbox.runtime_handler, text(handler), "{name}");
        assert_eq!(seen.sandbox.pod.name, format!("fx-{name}"));
        assert!(seen.sandbox.ready);
    }
}

#[tokio::test]
async fn a_pod_without_a_request_is_parsed() {
    let mut scenario = Scenario::default();
    let status = |id: &str| v1::PodSandboxStatus { id: id.into(), state: 1, ..Default::default() };
    scenario.add_sandbox(status("s1"), None);
    scenario.add_sandbox(status("s2"), Some(r#"{"pid":0}"#.into()));
    let rig = rig(scenario);
    for sandbox in ["s1", "s2"] {
        let seen = rig.cri.sandbox(&id(sandbox)).await.unwrap().unwrap();
        assert_eq!((seen.request, seen.pid, seen.sandbox.ready), (None, None, false), "{sandbox}");
    }
}

#[tokio::test]
async fn the_form_of_containerd_is_parsed() {
    let mut scenario = Scenario::default();
    let status =
        v1::PodSandboxStatus { id: "s1".into(), runtime_handler: "runc".into(), ..Default::default() };
    scenario.add_sandbox(status, Some(r#"{"pid":85618,"runtimeHandler":"x","runtimeSpec":{}}"#.into()));
    let info = r#"{"sandboxID":"s1","pid":85700,"removing":false,"snapshotter":"overlayfs",
        "config":{"metadata":{"name":"c"},"linux":{"security_context":{"privileged":true}}},
        "runtimeSpec":{"ociVersion":"1.2.0"}}"#;
    scenario.add_container(
        "s1",
        v1::ContainerStatus { id: "c1".into(), ..Default::default() },
        Some(info.into()),
    );
    let rig = rig(scenario);
    let sandbox = rig.cri.sandbox(&id("s1")).await.unwrap().unwrap();
    assert_eq!((sandbox.pid, sandbox.sandbox.runtime_handler.as_str()), (Some(85_618), "runc"));
    let container = rig.cri.container(&id("c1")).await.unwrap().unwrap();
    assert_eq!((container.pid, container.privileged), (Some(85_700), Some(true)));
    assert_eq!(container.spec_json.as_str(), r#"{"ociVersion":"1.2.0"}"#);
}

#[tokio::test]
async fn an_unknown_container_or_sandbox_is_none() {
    let rig = rig(recorded());
    assert_eq!(rig.cri.container(&id("gone")).await, Ok(None));
    assert_eq!(rig.cri.sandbox(&id("gone")).await, Ok(None));
}

#[tokio::test]
async fn garbage_is_refused_and_five_mebibytes_are_accepted() {
    let mut scenario = Scenario::default();
    let status = |id: &str| v1::ContainerStatus { id: id.into(), ..Default::default() };
    scenario.add_container("s", status("garbage"), Some("{\"pid\":".into()));
    scenario.add_container("s", status("silent"), None);
    let padding = "x".repeat(5 << 20);
    scenario.add_container("s", status("large"), Some(format!(r#"{{"runtimeSpec":{{"a":"{padding}"}}}}"#)));
    scenario.add_container("s", status("huge"), Some("x".repeat(17 << 20)));
    let rig = rig(scenario);
    for wrong in ["garbage", "silent"] {
        let error = rig.cri.container(&id(wrong)).await.unwrap_err();
        assert!(matches!(error, CriError::Answer { .. }), "{wrong}: {error}");
    }
    assert!(rig.cri.container(&id("large")).await.unwrap().unwrap().spec_json.len() > 5 << 20);
    let error = rig.cri.container(&id("huge")).await.unwrap_err();
    assert!(matches!(error, CriError::Refused { .. }), "{error}");
    // The connection is still usable after all of that.
    assert_eq!(rig.cri.containers().await.unwrap().len(), 4);
}

#[tokio::test]
async fn an_invalid_id_is_an_error() {
    let mut scenario = Scenario::default();
    scenario.add_container("s", v1::ContainerStatus { id: "../x".into(), ..Default::default() }, None);
    let error = rig(scenario).cri.containers().await.unwrap_err();
    assert_eq!(error.to_string(), "ListContainers: unreadable answer: \"../x\" is not a container's ID");
}

#[tokio::test]
async fn a_dead_socket_is_named_with_the_remedy() {
    let mut rig = rig(recorded());
    rig.runtime = None;
    // The socket's file still exists, but nothing listens.
    let path = rig.cri.path().display().to_string();
    for reason in ["Connection refused (os error 111)", "No such file or directory (os error 2)"] {
        let error = rig.cri.version().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot reach the container runtime at {path}: {reason}; check that it runs and listens there, \
                 and in a pod mount the socket's directory (a runtime makes a new socket at each start)"
            )
        );
        let events: Result<Vec<_>, _> = rig.cri.events().try_collect().await;
        assert!(matches!(events, Err(CriError::Unreachable { .. })), "{events:?}");
        let _ = std::fs::remove_file(rig.cri.path());
    }
}

#[tokio::test]
async fn a_runtime_that_comes_back_is_reached_again() {
    let mut rig = rig(recorded());
    rig.cri.version().await.unwrap();
    rig.runtime = None;
    assert!(matches!(rig.cri.version().await, Err(CriError::Unreachable { .. })));
    let next = Scenario { version: ("cri-o".into(), "1.37.0".into()), ..Default::default() };
    rig.runtime = Some(FakeRuntime::start(&rig.directory.path().join("crio.sock"), next));
    assert_eq!(rig.cri.version().await.unwrap().version, "1.37.0");
}

#[tokio::test]
async fn a_call_to_a_runtime_that_hangs_is_given_up() {
    let rig = rig(Scenario { hang: true, ..Default::default() });
    let cri = rig.cri.clone().with_deadline(SOON);
    let error = tokio::time::timeout(SOON * 10, cri.containers()).await.unwrap().unwrap_err();
    let path = rig.cri.path().display();
    assert_eq!(error.to_string(), format!("ListContainers: no answer from {path} within 200ms"));
    // Another clone has its own connection.
    assert!(tokio::time::timeout(SOON * 2, rig.cri.version()).await.is_err());
    assert!(DEADLINE > SOON * 2);
}

#[tokio::test]
async fn recorded_events_are_parsed() {
    let json = fixture("crio-events");
    let kind = |value: &Value| {
        value.as_str().map_or(0, |name| v1::ContainerEventType::from_str_name(name).unwrap() as i32)
    };
    let events = json.as_array().unwrap().iter().map(|event| v1::ContainerEventResponse {
        container_id: text(&event["container_id"]),
        container_event_type: kind(&event["container_event_type"]),
        created_at: text(&event["created_at"]).parse().unwrap(),
        pod_sandbox_status: Some(v1::PodSandboxStatus {
            id: text(&event["pod_sandbox_status"]["id"]),
            ..Default::default()
        }),
        ..Default::default()
    });
    let mut events: Vec<_> = events.collect();
    // A kind of a future version is skipped.
    events.insert(3, v1::ContainerEventResponse { container_event_type: 9, ..Default::default() });
    let rig = rig(Scenario { events, ..Default::default() });
    let seen: Vec<ContainerEvent> = rig.cri.events().try_collect().await.unwrap();
    use ContainerEventKind::{Created, Deleted, Started, Stopped};
    let (sandbox, container) = (text(&json[0]["container_id"]), text(&json[1]["container_id"]));
    let want = [
        (Started, &sandbox),
        (Created, &container),
        (Started, &container),
        (Stopped, &container),
        (Deleted, &container),
        (Stopped, &sandbox),
    ];
    assert_eq!(
        seen.iter().map(|event| (event.kind, event.id.as_str())).collect::<Vec<_>>(),
        want.map(|(kind, id)| (kind, id.as_str()))
    );
    assert!(seen.iter().all(|event| event.sandbox_id == sandbox));
    assert_eq!(seen[1].created_at_ns, 1_795_210_086_114_979_050);
}

#[tokio::test]
async fn an_event_stream_that_ends_differs_from_one_that_fails() {
    let rig = rig(Scenario::default());
    let all = |cri: Cri| async move { cri.events().collect::<Vec<_>>().await };
    assert_eq!(all(rig.cri.clone()).await, []);
    let set = |after| rig.runtime.as_ref().unwrap().scenario.lock().unwrap().after_events = after;
    set(AfterEvents::Unimplemented);
    assert_eq!(all(rig.cri.clone()).await, [Err(CriError::Unimplemented { call: "GetContainerEvents" })]);
    set(AfterEvents::Fail);
    let seen = all(rig.cri.clone()).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].as_ref().unwrap_err().to_string(), "GetContainerEvents: boom (Internal)");
}

#[tokio::test]
async fn silence_is_no_error_and_a_dying_runtime_is() {
    // Go sends its first bytes with the first event: until then the call itself is unanswered.
    for scenario in [
        Scenario { hang: true, ..Default::default() },
        Scenario { after_events: AfterEvents::Stall, ..Default::default() },
    ] {
        let mut rig = rig(scenario);
        let mut events = Box::pin(rig.cri.clone().with_deadline(SOON / 4).events());
        assert!(tokio::time::timeout(SOON, events.next()).await.is_err());
        rig.runtime = None;
        let end = tokio::time::timeout(SOON * 20, events.next()).await.unwrap();
        assert!(matches!(end, Some(Err(CriError::Unreachable { .. }))), "{end:?}");
    }
}
