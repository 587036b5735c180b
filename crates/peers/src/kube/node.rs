//! The Node condition. It is written by server-side apply: the field manager `usernsd` owns this one condition
//! and nothing else of the Node. It is removed by its key.

use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use kube::core::Request;
use kube::core::params::{GetParams, Patch, PatchParams};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::client::{Kube, KubeError, METADATA_ONLY};
use usernsd_domain::clock::Shift;
use usernsd_domain::condition::{DesiredCondition, TYPE};

const NODES: &str = "/api/v1/nodes";
const MANAGER: &str = "usernsd";

/// A condition as it is written in the Node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WrittenCondition {
    /// The status: `True`, `False` or `Unknown`.
    pub status: String,
    /// Time of the last change of the status (RFC 3339).
    pub last_transition_time: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Node {
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
struct NodeStatus {
    #[serde(default)]
    conditions: Vec<Value>,
}

// === impl WrittenCondition ===

impl WrittenCondition {
    /// Moves the time of the last change with a clock that was set.
    pub fn shift(&mut self, shift: Shift) {
        let Some(time) = &mut self.last_transition_time else { return };
        let Ok(recorded) = time.parse::<Timestamp>() else { return };
        if let Ok(moved) = Timestamp::try_from(shift.apply(SystemTime::from(recorded))) {
            *time = format!("{moved:.0}");
        }
    }
}

// === impl Kube ===

impl Kube {
    /// The condition of a node; `None` if it has none.
    ///
    /// # Errors
    /// See [`KubeError`].
    pub async fn node_condition(&self, node: &str) -> Result<Option<WrittenCondition>, KubeError> {
        let found: Node = self.ask(Request::new(NODES).get(node, &GetParams::any())).await?;
        let mut conditions = found.status.conditions.into_iter();
        let ours = conditions.find(|condition| condition.get("type").and_then(Value::as_str) == Some(TYPE));
        Ok(ours.and_then(|condition| serde_json::from_value(condition).ok()))
    }

    /// Writes the condition. `before` is the present one; returns the new one.
    ///
    /// # Errors
    /// See [`KubeError`].
    pub async fn apply_node_condition(
        &self,
        node: &str,
        verdict: &DesiredCondition,
        before: Option<&WrittenCondition>,
    ) -> Result<WrittenCondition, KubeError> {
        let now = format!("{:.0}", Timestamp::now());
        let status = verdict.status.name();
        let since = before
            .filter(|before| before.status == status)
            .and_then(|before| before.last_transition_time.clone());
        let since = since.unwrap_or_else(|| now.clone());
        let condition = json!({
            "type": TYPE,
            "status": status,
            "reason": verdict.reason,
            "message": verdict.message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": since,
        });
        let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
            "status": {"conditions": [condition]}});
        self.patch_status(node, PatchParams::apply(MANAGER).force(), Patch::Apply(body)).await?;
        Ok(WrittenCondition { status: status.to_owned(), last_transition_time: Some(since) })
    }

    /// Removes the condition.
    ///
    /// # Errors
    /// See [`KubeError`].
    pub async fn remove_node_condition(&self, node: &str) -> Result<(), KubeError> {
        // By its key. With a server-side apply that leaves it out, the API server 1.36 removes every condition
        // that no manager owns, and that is what the kubelet's are: it has created the Node with them.
        let body = json!({"status": {"conditions": [{"type": TYPE, "$patch": "delete"}]}});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.patch_status(node, params, Patch::Strategic(body)).await
    }

    async fn patch_status(
        &self,
        node: &str,
        params: PatchParams,
        patch: Patch<Value>,
    ) -> Result<(), KubeError> {
        let request = Request::new(NODES).patch_subresource("status", node, &params, &patch);
        let request = request.map(|mut request| {
            // Asks for the metadata only; the default answer is the whole Node, with all its images.
            request.headers_mut().insert("accept", hyper::header::HeaderValue::from_static(METADATA_ONLY));
            request
        });
        self.ask(request).await.map(|_: IgnoredAny| ())
    }
}
