//! This node's pods: one list, and then what changes.
//!
//! Of a pod only what [`PodSpec`] holds is read: a node's 250 pods are some 13 MB as the API has
//! them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::core::params::{ListParams, VersionMatch, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::client::{Kube, KubeError};
use crate::domain::identity::PodSpec;
use crate::domain::scc;

const PODS: &str = "/api/v1/pods";
/// The kubelet's mark on the API's copy of a static pod: the UID by which the node knows it.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// For the head of a watch's answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pods at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodList {
    /// The pods that have not ended.
    pub pods: Vec<PodSpec>,
    /// From where to watch.
    pub version: String,
    /// Pods that could not be read.
    pub malformed: usize,
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodChange {
    /// A pod is there, or is another than before.
    Applied(PodSpec),
    /// A pod ended or is gone: its UID.
    Gone(String),
    /// Nothing changed up to here.
    Bookmark,
}

#[derive(Debug, Deserialize)]
struct List {
    metadata: ListMeta,
    // An item that is no pod must not take the others with it.
    items: Vec<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
}

/// A pod as the API has it, less most of it.
#[derive(Debug, Clone, Deserialize)]
struct Pod {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    host_users: Option<bool>,
    security_context: Security,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Security {
    run_as_user: Option<i64>,
    run_as_group: Option<i64>,
    fs_group: Option<i64>,
    supplemental_groups: Option<Vec<i64>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: String,
    security_context: Option<Security>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
}

/// `user` is there from Kubernetes 1.31 on, with runtimes that say it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    user: Option<User>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct User {
    linux: Option<LinuxUser>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LinuxUser {
    uid: Option<i64>,
}

// === impl Kube ===

impl Kube {
    /// Lists the pods of a node, from the API server's own memory: as it was a moment ago, and
    /// without a question to etcd.
    ///
    /// # Errors
    /// See [`KubeError`].
    pub async fn list_pods(&self, node: &str) -> Result<PodList, KubeError> {
        let mut params = ListParams::default().fields(&selector(node));
        params.resource_version = Some("0".to_owned());
        params.version_match = Some(VersionMatch::NotOlderThan);
        // Not in pages: a page of a list is read from etcd by older servers, whatever the version.
        params.limit = None;
        let list: List = self.ask(Request::new(PODS).list(&params)).await?;
        let read: Vec<Option<Pod>> =
            list.items.iter().map(|item| serde_json::from_str(item.get()).ok()).collect();
        Ok(PodList {
            malformed: read.iter().filter(|pod| pod.is_none()).count(),
            pods: read.into_iter().flatten().filter(|pod| !pod.has_ended()).map(PodSpec::from).collect(),
            version: list.metadata.resource_version,
        })
    }

    /// What changes from `version` on, with the version it brings. The server ends the watch after
    /// `time`.
    ///
    /// # Errors
    /// See [`KubeError`]; in the stream too. [`KubeError::Malformed`] does not end it.
    pub async fn watch_pods(
        &self,
        node: &str,
        version: &str,
        time: Duration,
    ) -> Result<
        impl Stream<Item = Result<(PodChange, Option<String>), KubeError>> + Unpin + Send + use<>,
        KubeError,
    > {
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams::default().fields(&selector(node)).timeout(seconds);
        let request = Request::new(PODS).watch(&params, version).map_err(KubeError::unsendable)?;
        let client = self.client().await?;
        let events = match timeout(PATIENCE, client.request_events::<Pod>(request)).await {
            Ok(events) => events?,
            Err(_) => return Err(KubeError::silent()),
        };
        let read = |event: Result<WatchEvent<Pod>, kube::Error>| change(event?);
        Ok(events.map(read).boxed())
    }
}

fn selector(node: &str) -> String {
    format!("spec.nodeName={node}")
}

fn change(event: WatchEvent<Pod>) -> Result<(PodChange, Option<String>), KubeError> {
    match event {
        WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
            let version = Some(pod.metadata.resource_version.clone());
            if pod.has_ended() {
                return Ok((PodChange::Gone(pod.metadata.uid), version));
            }
            Ok((PodChange::Applied(pod.into()), version))
        }
        WatchEvent::Deleted(pod) => {
            Ok((PodChange::Gone(pod.metadata.uid), Some(pod.metadata.resource_version)))
        }
        WatchEvent::Bookmark(bookmark) => Ok((PodChange::Bookmark, Some(bookmark.metadata.resource_version))),
        WatchEvent::Error(status) => Err(KubeError::of_status(status.code, &status.message)),
    }
}

// === impl Pod ===

impl Pod {
    fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// The API server takes 0 to 2147483647 only.
fn id(number: Option<i64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

impl From<Pod> for PodSpec {
    fn from(pod: Pod) -> PodSpec {
        let Pod { metadata, spec, status } = pod;
        let common = spec.security_context;
        let declared = [spec.containers, spec.init_containers, spec.ephemeral_containers].concat();
        let mut users = BTreeMap::new();
        let mut groups: Vec<u32> =
            common.supplemental_groups.into_iter().flatten().filter_map(|gid| id(Some(gid))).collect();
        groups.extend(id(common.run_as_group));
        for container in declared {
            let own = container.security_context.unwrap_or_default();
            groups.extend(id(own.run_as_group));
            if let Some(user) = id(own.run_as_user.or(common.run_as_user)) {
                users.insert(container.name, user);
            }
        }
        // What runs says more than what was asked for: the image may have named the user.
        for status in status.container_statuses.into_iter().chain(status.init_container_statuses) {
            if let Some(user) = status.user.and_then(|user| id(user.linux?.uid)) {
                users.insert(status.name, user);
            }
        }
        groups.sort_unstable();
        groups.dedup();
        PodSpec {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            node_uid: metadata.annotations.get(MIRROR).cloned(),
            host_users: spec.host_users,
            admitted_by: metadata.annotations.get(scc::ADMITTED_BY).cloned(),
            fs_group: id(common.fs_group),
            groups,
            users,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_user_that_runs_outranks_the_one_that_was_asked_for() {
        let text = r#"{"metadata":{"name":"p","namespace":"n","uid":"u","resourceVersion":"5","managedFields":[{}],
            "annotations":{"openshift.io/scc":"restricted-v2","kubernetes.io/config.mirror":"hash"}},
            "spec":{"hostUsers":false,"nodeName":"w","securityContext":{"runAsUser":5,"runAsGroup":6,"fsGroup":7,
            "supplementalGroups":[8,6]},"containers":[{"name":"a"},{"name":"b","securityContext":{"runAsUser":0,
            "runAsGroup":9}},{"name":"c","securityContext":{"runAsUser":-1}}],"initContainers":[{"name":"i"}]},
            "status":{"phase":"Running","containerStatuses":[{"name":"a","user":{"linux":{"uid":1000}}},{"name":"b"}]}}"#;
        let pod = PodSpec::from(serde_json::from_str::<Pod>(text).unwrap());
        let users = [("a", 1000), ("b", 0), ("i", 5)].map(|(name, user)| (name.to_owned(), user));
        assert_eq!(pod.users, users.into());
        assert_eq!(pod.groups, [6, 8, 9]);
        assert_eq!((pod.fs_group, pod.host_users), (Some(7), Some(false)));
        assert_eq!(
            (pod.node_uid.as_deref(), pod.admitted_by.as_deref()),
            (Some("hash"), Some("restricted-v2"))
        );
    }

    proptest! {
        #[test]
        fn numbers_out_of_range_are_no_ids(number in any::<i64>()) {
            prop_assert_eq!(id(Some(number)).map(i64::from), (0..=i64::from(u32::MAX)).contains(&number).then_some(number));
        }
    }
}
