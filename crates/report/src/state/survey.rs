//! The parts of the document that are read from the node on request.

#![deny(missing_docs, reason = "programs of others read this document")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use usernsd_domain::delegation::Limit;
use usernsd_domain::node;
use usernsd_domain::record::UserNamespaceMode;
use usernsd_domain::space::{self, HostIds, IdType, OverlapKind, SLOT};

use super::schema::Named;

/// The kernel of the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kernel {
    /// The kernel's release, as in uname(2).
    pub release: String,
    /// Distinct user namespaces with a live process, the host's included.
    pub user_namespaces: u64,
    /// The sysctl `user.max_user_namespaces`.
    pub max_user_namespaces: u64,
}

/// A pod with a container that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's name in its namespace.
    pub name: String,
    /// The pod's UID in Kubernetes.
    pub uid: String,
    /// The origin of its user namespace: `pod`, `auto`, `host` or `unknown`.
    pub userns: Named<UserNamespaceMode>,
    /// Host IDs that the pod shares with others, by kind of overlap; only kinds with any.
    pub shared_ids: BTreeMap<Named<OverlapKind>, u64>,
    /// The pod's cgroup, if a kubelet created one and it still exists.
    pub cgroup: Option<PodCgroup>,
    /// The IDs of its containers, the newest first.
    pub containers: Vec<String>,
    /// Users and groups outside the pod's mapping; added by the exporter, from the API server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub misfits: Vec<MappingProblemState>,
}

/// A user or group of a pod that is outside the mapping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingProblemState {
    /// The reason as one word: `docs/kubernetes.md` lists them.
    pub reason: String,
    /// The container that it concerns, if only one.
    pub container: Option<String>,
    /// A sentence for people.
    pub sentence: String,
}

/// A pod's cgroup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCgroup {
    /// The path below the node's cgroup root.
    pub path: String,
    /// Number of cgroups below it.
    pub descendants: u64,
    /// The limit of cgroups below it; `null` if there is none.
    pub max_descendants: Option<u32>,
    /// The container that has used the largest share of a limit of its own, which it may reach before the
    /// pod reaches the pod's; `null` if no container has a limit.
    #[serde(default)]
    pub fullest: Option<ContainerCgroups>,
}

/// The cgroups of a container that has a limit of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerCgroups {
    /// The container's ID.
    pub id: String,
    /// Number of cgroups below its own.
    pub descendants: u64,
    /// The limit of cgroups below its own.
    pub max_descendants: u32,
}

/// The owners of host IDs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdSpace {
    /// The pools from which pods get ranges.
    pub pools: Vec<Pool>,
    /// Number of pairs of owners that overlap although they must not, for every kind of overlap.
    pub overlaps: BTreeMap<Named<OverlapKind>, u64>,
    /// The ranges of `/etc/subuid` and `/etc/subgid`.
    pub subordinate_ranges: Vec<SubordinateRange>,
    /// Users and groups of the host.
    pub accounts: Vec<Account>,
}

/// The ranges from which one allocator takes pod ID ranges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// `kubelet` or `crio`.
    pub name: String,
    /// The pool's host user IDs; empty if the node has no such pool.
    pub ranges: Vec<Range>,
    /// Number of IDs in one slot.
    pub slot_ids: u64,
    /// Number of slots.
    pub slots: u64,
    /// Number of slots in which a pod has an ID.
    pub slots_used: u64,
}

/// A range of host IDs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    /// The first host ID.
    pub start: u64,
    /// The number of host IDs.
    pub count: u64,
}

/// A line of `/etc/subuid` or `/etc/subgid`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubordinateRange {
    /// `subuid` or `subgid`.
    pub file: String,
    /// The line's number, from 1.
    pub line: usize,
    /// A user's name or number.
    pub owner: String,
    /// The first ID.
    pub start: u64,
    /// The number of host IDs.
    pub count: u64,
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// `uid` or `gid`.
    pub id_type: Named<IdType>,
    /// The account's name.
    pub name: String,
    /// The user or group ID.
    pub id: u32,
}

// === impl From ===

impl From<&node::NodeKernel> for Kernel {
    fn from(kernel: &node::NodeKernel) -> Kernel {
        let node::NodeKernel { release, user_namespaces, max_user_namespaces } = kernel.clone();
        Kernel { release, user_namespaces, max_user_namespaces }
    }
}

impl From<&node::SurveyedPod> for PodState {
    fn from(surveyed: &node::SurveyedPod) -> PodState {
        let node::SurveyedPod { pod, cgroup, shared } = surveyed;
        let shared = OverlapKind::OF_PODS.into_iter().zip(*shared).filter(|(_, ids)| *ids > 0);
        PodState {
            namespace: pod.name.namespace.clone(),
            name: pod.name.name.clone(),
            uid: pod.name.uid.clone(),
            userns: pod.mode.into(),
            shared_ids: shared.map(|(kind, ids)| (kind.into(), ids)).collect(),
            cgroup: pod.cgroup.as_ref().zip(cgroup.as_ref()).map(|(path, cgroup)| PodCgroup {
                path: path.as_str().to_owned(),
                descendants: cgroup.descendants,
                max_descendants: match cgroup.limit {
                    Limit::Max => None,
                    Limit::At(limit) => Some(limit),
                },
                fullest: cgroup.fullest.as_ref().map(|fullest| ContainerCgroups {
                    id: fullest.container.to_string(),
                    descendants: fullest.descendants,
                    max_descendants: fullest.limit,
                }),
            }),
            containers: pod.containers.iter().map(|record| record.id.to_string()).collect(),
            misfits: vec![],
        }
    }
}

impl IdSpace {
    /// The part of the document about host IDs.
    #[must_use]
    pub fn of(host: &HostIds, space: &space::Space) -> IdSpace {
        let lines = |id_type: IdType| {
            host.file(id_type).ranges().map(move |(line, range)| SubordinateRange {
                file: id_type.file().to_owned(),
                line,
                owner: range.owner.clone(),
                start: range.start,
                count: range.count,
            })
        };
        let accounts = |accounts: &[usernsd_domain::accounts::Account], id_type: IdType| -> Vec<Account> {
            let one = |account: &usernsd_domain::accounts::Account| Account {
                id_type: id_type.into(),
                name: account.name.clone(),
                id: account.id,
            };
            accounts.iter().map(one).collect()
        };
        let pool = |pool: &space::Pool| Pool {
            name: pool.name.name().to_owned(),
            ranges: pool
                .windows
                .iter()
                .map(|window| Range { start: window.start, count: window.count })
                .collect(),
            slot_ids: SLOT,
            slots: pool.slots,
            slots_used: pool.used,
        };
        let users = accounts(host.accounts.users(), IdType::Uid);
        let groups = accounts(host.accounts.groups(), IdType::Gid);
        IdSpace {
            pools: space.pools.iter().map(pool).collect(),
            overlaps: OverlapKind::ALL
                .map(|kind| (kind.into(), space.overlaps_of(kind)))
                .into_iter()
                .collect(),
            subordinate_ranges: IdType::ALL.into_iter().flat_map(lines).collect(),
            accounts: users.into_iter().chain(groups).collect(),
        }
    }
}
