//! Events of `events.k8s.io/v1`.
//!
//! Not by the recorder of the crate `kube`: it names each Event by the time, so that a program that
//! starts again says everything again, and it has no limit.

use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use kube::core::Request;
use kube::core::params::{Patch, PatchParams, PostParams};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::client::{Kube, KubeError};
use usernsd_domain::event::{Notice, Occurrence, Subject};

const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const CONTROLLER: &str = "usernsd";

/// Who reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// The node.
    pub node: String,
    /// This process: its pod's name, or the node's.
    pub instance: String,
}

// === impl Kube ===

impl Kube {
    /// Makes an Event.
    ///
    /// # Errors
    /// [`KubeError::Exists`]: it was made before, by this process or by one before it. Else see
    /// [`KubeError`].
    pub async fn create_event(&self, occurrence: &Occurrence, reporter: &Reporter) -> Result<(), KubeError> {
        let notice = &occurrence.notice;
        let body = serde_json::to_vec(&event(notice, reporter, occurrence.at)).unwrap_or_default();
        let request = Request::new(path(notice)).create(&PostParams::default(), body);
        self.ask(request.map(metadata_only)).await.map(|_: IgnoredAny| ())
    }

    /// Says that what an Event says happened again. Nothing else of an Event can be changed.
    ///
    /// # Errors
    /// [`KubeError::NotFound`]: the Event was forgotten meanwhile, after an hour by default. Else
    /// see [`KubeError`].
    pub async fn repeat_event(&self, occurrence: &Occurrence, reporter: &Reporter) -> Result<(), KubeError> {
        let Occurrence { notice, count, at } = occurrence;
        let series = json!({"series": {"count": (*count).max(2), "lastObservedTime": micro(*at)}});
        let name = notice.event_name(&reporter.node);
        let request = Request::new(path(notice)).patch(&name, &PatchParams::default(), &Patch::Merge(series));
        self.ask(request.map(metadata_only)).await.map(|_: IgnoredAny| ())
    }
}

fn path(notice: &Notice) -> String {
    format!("/apis/events.k8s.io/v1/namespaces/{}/events", namespace(notice))
}

/// Events of objects without a namespace are in this one (apimachinery, `NamespaceDefault`).
fn namespace(notice: &Notice) -> &str {
    match &notice.subject {
        Subject::Node => "default",
        Subject::Pod { namespace, .. } => namespace,
    }
}

/// The answer is the whole Event otherwise.
fn metadata_only(mut request: hyper::Request<Vec<u8>>) -> hyper::Request<Vec<u8>> {
    request.headers_mut().insert("accept", hyper::header::HeaderValue::from_static(METADATA_ONLY));
    request
}

fn micro(time: SystemTime) -> String {
    // A clock that is centuries off has no such time.
    let time = Timestamp::try_from(time).unwrap_or_else(|_| Timestamp::now());
    format!("{time:.6}")
}

fn event(notice: &Notice, reporter: &Reporter, at: SystemTime) -> Value {
    let regarding = match &notice.subject {
        // As the kubelet has it, so that "kubectl describe node" shows both.
        Subject::Node => json!({"kind": "Node", "name": reporter.node, "uid": reporter.node}),
        Subject::Pod { namespace, name, uid } => {
            json!({"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid})
        }
    };
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": notice.event_name(&reporter.node), "namespace": namespace(notice)},
        "eventTime": micro(at),
        "reportingController": CONTROLLER,
        "reportingInstance": reporter.instance.chars().take(128).collect::<String>(),
        "action": notice.reason.action(),
        "reason": notice.reason.name(),
        "regarding": regarding,
        "note": notice.note,
        "type": if notice.reason.is_warning() { "Warning" } else { "Normal" },
    })
}
