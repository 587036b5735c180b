//! Events of `events.k8s.io/v1`.
//!
//! Does not use the recorder of the crate `kube`: it names each Event by the time, so that a restarted
//! program repeats every Event, and it has no rate limit.

use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use kube::core::Request;
use kube::core::params::{Patch, PatchParams, PostParams};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::client::{Kube, KubeError, METADATA_ONLY};
use usernsd_domain::event::{EventSubject, Notice, Occurrence};

const CONTROLLER: &str = "usernsd";

/// The reporter of an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// Name of the node.
    pub node: String,
    /// The reporting process: its pod's name, or the node's.
    pub instance: String,
}

// === impl Kube ===

impl Kube {
    /// Creates an Event.
    ///
    /// # Errors
    /// [`KubeError::Exists`] if this process or an earlier one created it already. Otherwise see
    /// [`KubeError`].
    pub async fn create_event(&self, occurrence: &Occurrence, reporter: &Reporter) -> Result<(), KubeError> {
        let notice = &occurrence.notice;
        let body = serde_json::to_vec(&event(notice, reporter, occurrence.at)).unwrap_or_default();
        let request = Request::new(path(notice)).create(&PostParams::default(), body);
        self.ask(request.map(metadata_only)).await.map(|_: IgnoredAny| ())
    }

    /// Raises the count of an existing Event, the only part of an Event that can be changed.
    ///
    /// # Errors
    /// [`KubeError::NotFound`] if the API server has deleted the Event, by default after an hour. Otherwise
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

/// The namespace of an Event about an object without one (apimachinery, `NamespaceDefault`).
fn namespace(notice: &Notice) -> &str {
    match &notice.subject {
        EventSubject::Node => "default",
        EventSubject::Pod { namespace, .. } => namespace,
    }
}

/// Asks for the metadata only; the default answer is the whole Event.
fn metadata_only(mut request: hyper::Request<Vec<u8>>) -> hyper::Request<Vec<u8>> {
    request.headers_mut().insert("accept", hyper::header::HeaderValue::from_static(METADATA_ONLY));
    request
}

fn micro(time: SystemTime) -> String {
    // A clock that is centuries off has no time of the form that the API server reads (RFC 3339).
    let time = Timestamp::try_from(time).ok().filter(|time| *time >= Timestamp::UNIX_EPOCH);
    format!("{:.6}", time.unwrap_or_else(Timestamp::now))
}

fn event(notice: &Notice, reporter: &Reporter, at: SystemTime) -> Value {
    let regarding = match &notice.subject {
        // The kubelet uses the same reference, so "kubectl describe node" shows the Events of both.
        EventSubject::Node => json!({"kind": "Node", "name": reporter.node, "uid": reporter.node}),
        EventSubject::Pod { namespace, name, uid } => {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// `YYYY-MM-DDThh:mm:ss.ffffffZ`, whatever the node's clock shows.
        #[test]
        fn every_time_of_an_event_is_one_that_the_api_server_reads(seconds in any::<u64>(), before in any::<bool>()) {
            let shift = Duration::from_secs(seconds);
            let time = match before {
                true => SystemTime::UNIX_EPOCH.checked_sub(shift),
                false => SystemTime::UNIX_EPOCH.checked_add(shift),
            };
            let text = micro(time.unwrap_or(SystemTime::UNIX_EPOCH));
            prop_assert_eq!((text.len(), text.get(4..5), text.get(26..)), (27, Some("-"), Some("Z")), "{}", text);
        }
    }
}
