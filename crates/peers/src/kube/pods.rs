//! This node's pods: one list, then a watch.
//!
//! Of a pod, only what [`PodSpec`] holds is kept, with limits: a node's 250 pods take some 13 MB in the API's
//! form, and their authors can make them a hundred times as large. So a list is read as it arrives, field by
//! field. It is not requested in pages: `resourceVersion=0`, the answer from the API server's memory, has
//! no pages, and for each page from etcd, all the pods of the cluster would have to be read (apiserver,
//! `storage/cacher/delegator`).

mod lenient;
mod list;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use hyper::header::{ACCEPT_ENCODING, HeaderValue};
use kube::core::params::{ListParams, VersionMatch, WatchParams};
use kube::core::{Request, Status as ApiStatus, WatchEvent};
use serde::de::{DeserializeSeed, Error as _, MapAccess};
use serde::{Deserialize, Deserializer};
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::client::{Kube, KubeError, MAX_OBJECT, brief, in_time};
use lenient::{Entry, Field, FieldSeed, object};
use usernsd_domain::chain::chain;
use usernsd_domain::scc;
use usernsd_domain::user_mapping::PodSpec;

const PODS: &str = "/api/v1/pods";
/// The kubelet's annotation on the mirror pod of a static pod: the UID by which the node identifies the pod.
/// Anyone who creates pods can set it.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The longest UID that is kept, in bytes: the kubelet's are 36 or 32 (`kubetypes.UID`).
const MAX_UID: usize = 64;
/// Limits of containers and of supplemental groups that are kept of one pod.
const MAX_CONTAINERS: usize = 128;
const MAX_GROUPS: usize = 128;
/// The longest name of a container (a DNS label).
const MAX_NAME: usize = 63;

/// The pods at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodList {
    /// The pods that have not ended.
    pub pods: Vec<PodSpec>,
    /// The resource version from which to watch.
    pub version: String,
    /// The number of pods that could not be read.
    pub malformed: usize,
}

/// An event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodChange {
    /// A pod was added or changed.
    Applied(PodSpec),
    /// A pod ended or was deleted; holds its UID.
    Gone(String),
    /// Nothing changed up to this resource version.
    Bookmark,
}

/// The fields of a pod that are read.
#[derive(Debug, Clone, Default)]
struct Pod {
    metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default)]
struct Meta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    annotations: Annotations,
}

#[derive(Debug, Clone, Default)]
struct Annotations {
    mirror: String,
    admitted_by: String,
}

#[derive(Debug, Clone, Default)]
struct Spec {
    host_users: Option<bool>,
    security_context: Security,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default)]
struct Security {
    run_as_user: Option<i64>,
    run_as_group: Option<i64>,
    fs_group: Option<i64>,
    supplemental_groups: Vec<Option<i64>>,
}

#[derive(Debug, Clone, Default)]
struct Container {
    name: String,
    security_context: Security,
}

#[derive(Debug, Clone, Default)]
struct Status {
    phase: String,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
}

/// `user` is set by Kubernetes 1.31 and later, if the runtime reports it.
#[derive(Debug, Clone, Default)]
struct ContainerStatus {
    name: String,
    user: User,
}

#[derive(Debug, Clone, Default)]
struct User {
    linux: LinuxUser,
}

#[derive(Debug, Clone, Default)]
struct LinuxUser {
    uid: Option<i64>,
}

object!(Pod { "metadata" => metadata, "spec" => spec, "status" => status });
object!(Meta {
    "name" => name,
    "namespace" => namespace,
    "uid" => uid,
    "resourceVersion" => resource_version,
    "annotations" => annotations,
});
object!(Annotations { MIRROR => mirror, scc::ADMITTED_BY => admitted_by });
object!(Spec {
    "hostUsers" => host_users,
    "securityContext" => security_context,
    "containers" => containers,
    "initContainers" => init_containers,
    "ephemeralContainers" => ephemeral_containers,
});
object!(Security {
    "runAsUser" => run_as_user,
    "runAsGroup" => run_as_group,
    "fsGroup" => fs_group,
    "supplementalGroups" => supplemental_groups,
});
object!(Container { "name" => name, "securityContext" => security_context });
object!(Status {
    "phase" => phase,
    "containerStatuses" => container_statuses,
    "initContainerStatuses" => init_container_statuses,
});
object!(ContainerStatus { "name" => name, "user" => user });
object!(User { "linux" => linux });
object!(LinuxUser { "uid" => uid });

/// An object of a list; `None` if it is not a pod.
struct Item(Option<Pod>);

/// The lines of a watch. A line that is too long is skipped, and yields [`KubeError::TooLong`].
struct Lines(LinesCodec);

// === impl Kube ===

impl Kube {
    /// Lists the pods of a node from the API server's memory: slightly outdated, but without a query to etcd.
    ///
    /// # Errors
    /// See [`KubeError`].
    pub async fn list_pods(&self, node: &str) -> Result<PodList, KubeError> {
        let mut params = ListParams::default().fields(&selector(node));
        params.resource_version = Some("0".to_owned());
        params.version_match = Some(VersionMatch::NotOlderThan);
        params.limit = None;
        let request = Request::new(PODS).list(&params).map_err(KubeError::unsendable)?;
        in_time(async { list::read(self.send(request).await?.into_body()).await }).await
    }

    /// Watches for changes after `version`; yields each change with its own version. The server ends the
    /// watch after `time`.
    ///
    /// # Errors
    /// See [`KubeError`]; the stream yields them too. After [`KubeError::Malformed`] and
    /// [`KubeError::TooLong`], which are about one event, it continues.
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
        let mut request = Request::new(PODS).watch(&params, version).map_err(KubeError::unsendable)?;
        // Kubernetes 1.37 compresses each event separately, and the client would decompress only the first.
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let body = in_time(self.send(request)).await?.into_body();
        let bytes = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
        let lines = FramedRead::new(bytes, Lines(LinesCodec::new_with_max_length(MAX_OBJECT)));
        Ok(lines.filter_map(|line| std::future::ready(read(line))).boxed())
    }
}

/// Selects this node's pods, without those that have ended: there may be any number of the latter.
fn selector(node: &str) -> String {
    format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed")
}

/// Parses one line of a watch; `None` for an incomplete line.
fn read(
    line: Result<Result<String, KubeError>, io::Error>,
) -> Option<Result<(PodChange, Option<String>), KubeError>> {
    let line = match line {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => return Some(Err(error)),
        Err(error) => return Some(Err(KubeError::Away(brief(&error)))),
    };
    Some(match serde_json::from_str::<WatchEvent<Pod>>(&line) {
        Ok(event) => change(event),
        Err(error) if error.is_eof() => return None,
        Err(error) => Err(match serde_json::from_str::<ApiStatus>(&line) {
            Ok(status) => KubeError::of_status(status.code, &status.message),
            Err(_) => KubeError::Malformed(chain(&error)),
        }),
    })
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

// === impl Lines ===

impl Lines {
    fn line(
        line: Result<Option<String>, LinesCodecError>,
    ) -> Result<Option<Result<String, KubeError>>, io::Error> {
        match line {
            Ok(line) => Ok(line.map(Ok)),
            // The codec discards the rest of the line.
            Err(LinesCodecError::MaxLineLengthExceeded) => Ok(Some(Err(KubeError::TooLong(MAX_OBJECT)))),
            Err(LinesCodecError::Io(error)) => Err(error),
        }
    }
}

impl Decoder for Lines {
    type Item = Result<String, KubeError>;
    type Error = io::Error;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Self::Item>, io::Error> {
        Lines::line(self.0.decode(bytes))
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<Self::Item>, io::Error> {
        Lines::line(self.0.decode_eof(bytes))
    }
}

// === impl Pod ===

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Item, D::Error> {
        let (mut pod, is_odd) = (Pod::default(), Cell::new(false));
        FieldSeed { field: &mut pod, is_odd: &is_odd }.deserialize(deserializer)?;
        let Meta { name, namespace, uid, resource_version, .. } = &pod.metadata;
        let is_named = [name, namespace, uid, resource_version].iter().all(|text| !text.is_empty());
        Ok(Item((is_named && !is_odd.get()).then_some(pod)))
    }
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pod, D::Error> {
        Item::deserialize(deserializer)?.0.ok_or_else(|| D::Error::custom("an object that is no pod"))
    }
}

impl Pod {
    fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// The API server accepts only 0 to 2147483647.
fn id(number: Option<i64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

/// Keeps a container's user, up to the limits.
fn keep(users: &mut BTreeMap<String, u32>, container: String, user: u32) {
    if container.len() <= MAX_NAME && (users.len() < MAX_CONTAINERS || users.contains_key(&container)) {
        users.insert(container, user);
    }
}

impl From<Pod> for PodSpec {
    fn from(pod: Pod) -> PodSpec {
        let Pod { metadata, spec, status } = pod;
        let common = spec.security_context;
        let declared = [spec.containers, spec.init_containers, spec.ephemeral_containers].concat();
        let mut users = BTreeMap::new();
        let mut groups: Vec<u32> = common.supplemental_groups.into_iter().filter_map(id).collect();
        groups.extend(id(common.run_as_group));
        for container in declared {
            let own = container.security_context;
            groups.extend(id(own.run_as_group));
            if let Some(user) = id(own.run_as_user.or(common.run_as_user)) {
                keep(&mut users, container.name, user);
            }
        }
        // The running user is more specific than the requested one: the image may set it.
        for status in status.container_statuses.into_iter().chain(status.init_container_statuses) {
            if let Some(user) = id(status.user.linux.uid) {
                keep(&mut users, status.name, user);
            }
        }
        groups.sort_unstable();
        groups.dedup();
        // Drops the smallest IDs: the large ones are those that may not fit into the mapping.
        groups.drain(..groups.len().saturating_sub(MAX_GROUPS));
        groups.shrink_to_fit();
        let Annotations { mirror, admitted_by } = metadata.annotations;
        let node_uid = Some(mirror).filter(|uid| (1..=MAX_UID).contains(&uid.len()));
        let held_to_range = scc::is_held_to_range(&admitted_by);
        PodSpec {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            node_uid,
            host_users: spec.host_users,
            held_to_range,
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
    fn the_running_user_overrides_the_requested_one() {
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
        assert_eq!((pod.node_uid.as_deref(), pod.held_to_range), (Some("hash"), true));
    }

    #[test]
    fn the_size_of_a_kept_pod_is_bounded() {
        let containers: Vec<_> = (0..10_000)
            .map(|number| serde_json::json!({"name": format!("c{number}"), "securityContext": {"runAsUser": 7}}))
            .collect();
        let text = serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "5", "annotations":
                {"kubernetes.io/config.mirror": "x".repeat(250_000), "openshift.io/scc": "z".repeat(250_000)}},
            "spec": {"securityContext": {"supplementalGroups": (0..100_000).collect::<Vec<_>>()},
                "containers": containers},
        });
        let pod = PodSpec::from(serde_json::from_value::<Pod>(text).unwrap());
        assert_eq!((pod.users.len(), pod.groups.len()), (MAX_CONTAINERS, MAX_GROUPS));
        assert_eq!(pod.groups.last(), Some(&99_999), "those that may not fit are the large ones");
        assert_eq!((pod.node_uid, pod.held_to_range), (None, false));
    }

    proptest! {
        #[test]
        fn numbers_out_of_range_are_not_ids(number in any::<i64>()) {
            prop_assert_eq!(id(Some(number)).map(i64::from), (0..=i64::from(u32::MAX)).contains(&number).then_some(number));
        }
    }
}
