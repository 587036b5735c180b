//! Whether a pod's users and groups are within its user namespace's mapping, and within the range that OpenShift
//! assigned to its Kubernetes namespace.

use std::collections::BTreeMap;
use std::fmt;

use super::idmap::{ContainerId, IdMap};
use super::scc::{self, IdRange, NamespaceRanges, RangeError};

/// IDs that the kubelet maps into a pod by default (`userNamespaces.idsPerPod` of the KubeletConfiguration).
pub const IDS_PER_POD: u64 = 65_536;

/// A pod from the API server, reduced to what matters for its users.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodSpec {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The UID by which the node identifies it, if different: that of a static pod. Anyone who creates pods can claim
    /// any UID: see [`node_uid`].
    pub node_uid: Option<String>,
    /// `spec.hostUsers`; not set means true.
    pub host_users: Option<bool>,
    /// Whether the SCC that admitted it restricts it to its namespace's range (OpenShift only; elsewhere the pod's
    /// author can set the annotation).
    pub held_to_range: bool,
    /// `spec.securityContext.fsGroup`
    pub fs_group: Option<u32>,
    /// `runAsGroup` and `supplementalGroups`.
    pub groups: Vec<u32>,
    /// The user of each container that sets one in its spec or, once it runs, reports one in its status.
    pub users: BTreeMap<String, u32>,
}

/// The node's facts about a pod.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OnNode<'a> {
    /// Mapping of user IDs of its containers.
    pub uid_map: Option<&'a IdMap>,
    /// Mapping of group IDs of its containers.
    pub gid_map: Option<&'a IdMap>,
    /// Whether one of its containers runs in the host's user namespace.
    pub in_hosts: bool,
    /// Number of IDs that a pod that does not run yet will get.
    pub ids_per_pod: u64,
}

/// A pod with at least one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodMappingProblems {
    pub namespace: String,
    pub name: String,
    /// The UID by which the node identifies it.
    pub uid: String,
    /// The problems; at least one.
    pub misfits: Vec<MappingProblem>,
}

/// A problem with a pod's users or groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MappingProblem {
    /// The pod asks for its own user namespace and runs in the host's.
    HostUsersLost,
    /// The user of a container has no ID on the host.
    UserNotInMapping {
        container: String,
        user: u32,
        /// Whether the user comes from the namespace's range: an SCC chose it. The range itself may not have been
        /// read yet, and the message must not change when it is: it would be a second Event.
        of_namespace: bool,
    },
    /// A group has no ID on the host.
    GroupNotInMapping { group: u32 },
    /// The group of the pod's volumes has no ID on the host.
    FsGroupNotInMapping { group: u32 },
    /// The user of a container is outside its namespace's range.
    UserNotInNamespaceRange {
        container: String,
        user: u32,
        /// The namespace's range of users.
        range: IdRange,
    },
    /// The group of the pod's volumes is not the namespace's.
    FsGroupNotInNamespaceRange {
        group: u32,
        /// The namespace's group.
        want: u32,
    },
    /// The namespace's annotations contain no valid range.
    NamespaceRangeUnreadable { error: RangeError },
}

// === impl MappingProblem ===

impl MappingProblem {
    /// Every name; each is a metric label, a row of `docs/kubernetes.md` and part of the state document.
    pub const NAMES: [&'static str; 7] = [
        "host_users_lost",
        "user_not_in_mapping",
        "group_not_in_mapping",
        "fs_group_not_in_mapping",
        "user_not_in_namespace_range",
        "fs_group_not_in_namespace_range",
        "namespace_range_unreadable",
    ];

    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            MappingProblem::HostUsersLost => "host_users_lost",
            MappingProblem::UserNotInMapping { .. } => "user_not_in_mapping",
            MappingProblem::GroupNotInMapping { .. } => "group_not_in_mapping",
            MappingProblem::FsGroupNotInMapping { .. } => "fs_group_not_in_mapping",
            MappingProblem::UserNotInNamespaceRange { .. } => "user_not_in_namespace_range",
            MappingProblem::FsGroupNotInNamespaceRange { .. } => "fs_group_not_in_namespace_range",
            MappingProblem::NamespaceRangeUnreadable { .. } => "namespace_range_unreadable",
        }
    }

    /// The container concerned; `None` if it concerns the whole pod.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        match self {
            MappingProblem::UserNotInMapping { container, .. }
            | MappingProblem::UserNotInNamespaceRange { container, .. } => Some(container),
            _ => None,
        }
    }

    /// Whether the pod cannot work, or is not isolated, because of it.
    #[must_use]
    pub fn is_serious(&self) -> bool {
        matches!(
            self,
            MappingProblem::HostUsersLost
                | MappingProblem::UserNotInMapping { .. }
                | MappingProblem::GroupNotInMapping { .. }
                | MappingProblem::FsGroupNotInMapping { .. }
        )
    }
}

/// A sentence with the remedy.
impl fmt::Display for MappingProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MappingProblem::HostUsersLost => f.write_str(
                "the pod asks for a user namespace of its own (hostUsers: false) and runs in the host's; delete it so that it is recreated, and see usernsd_lost_isolation_containers",
            ),
            MappingProblem::UserNotInMapping { container, user, of_namespace: false } => write!(
                f,
                "container {container} runs as user {user}, which is not mapped into the pod's user namespace; choose \
                 a smaller runAsUser, or a larger userNamespaces.idsPerPod for the kubelet"
            ),
            MappingProblem::UserNotInMapping { container, user, of_namespace: true } => write!(
                f,
                "container {container} runs as user {user} of its namespace's range, which is not mapped into \
                 the pod's user namespace; annotate the pod with {}: restricted-v3, or its namespace with both \
                 {}: 1000/10000 and {}: 1000/10000",
                scc::REQUIRED,
                scc::UID_RANGE,
                scc::SUPPLEMENTAL_GROUPS
            ),
            MappingProblem::GroupNotInMapping { group } => write!(
                f,
                "group {group} is not mapped into the pod's user namespace; choose a smaller runAsGroup or \
                 supplementalGroups"
            ),
            MappingProblem::FsGroupNotInMapping { group } => {
                write!(
                    f,
                    "fsGroup {group} is not mapped into the pod's user namespace; choose a smaller one (on OpenShift \
                     annotate the pod with {}: restricted-v3)",
                    scc::REQUIRED
                )
            }
            MappingProblem::UserNotInNamespaceRange { container, user, range } => write!(
                f,
                "container {container} runs as user {user}, which is not one of its namespace's ({range}); the range \
                 was changed after the pod was made"
            ),
            MappingProblem::FsGroupNotInNamespaceRange { group, want } => write!(
                f,
                "fsGroup is {group}, and {want} in the namespace's annotations; they were changed after the pod was \
                 made"
            ),
            MappingProblem::NamespaceRangeUnreadable { error } => write!(f, "the namespace's ID range cannot be read: {error}"),
        }
    }
}

/// The UID by which the node identifies a pod: the claimed UID if the node has a pod with that UID and the same
/// namespace and name, otherwise its own. `on_node`: namespace and name of the node's pods, by UID.
#[must_use]
pub fn node_uid<'a>(pod: &'a PodSpec, on_node: &BTreeMap<&str, (&str, &str)>) -> &'a str {
    let is_its_own = |uid: &&str| on_node.get(*uid) == Some(&(pod.namespace.as_str(), pod.name.as_str()));
    pod.node_uid.as_deref().filter(is_its_own).unwrap_or(&pod.uid)
}

/// Every problem of a pod. `ranges`: the namespace's ranges, if its annotations were read.
#[must_use]
pub fn mapping_problems(
    pod: &PodSpec,
    node: &OnNode<'_>,
    ranges: Option<&Result<NamespaceRanges, RangeError>>,
) -> Vec<MappingProblem> {
    let namespace = ranges.filter(|_| pod.held_to_range);
    let mut found = Vec::new();
    if pod.host_users == Some(false) {
        if node.in_hosts {
            found.push(MappingProblem::HostUsersLost);
        } else {
            found.extend(unmapped(pod, node, namespace.and_then(|ranges| ranges.as_ref().ok())));
        }
    }
    match namespace {
        None => {}
        Some(Err(error)) => found.push(MappingProblem::NamespaceRangeUnreadable { error: error.clone() }),
        Some(Ok(ranges)) => {
            let range = ranges.users;
            let outside = pod.users.iter().filter(|(_, user)| !range.contains(**user));
            found.extend(outside.map(|(container, user)| MappingProblem::UserNotInNamespaceRange {
                container: container.clone(),
                user: *user,
                range,
            }));
            if let (Some(group), Some(want)) = (pod.fs_group, ranges.fs_group())
                && group != want
            {
                found.push(MappingProblem::FsGroupNotInNamespaceRange { group, want });
            }
        }
    }
    found
}

fn unmapped<'a>(
    pod: &'a PodSpec,
    node: &OnNode<'a>,
    ranges: Option<&'a NamespaceRanges>,
) -> impl Iterator<Item = MappingProblem> + 'a {
    let node = *node;
    let is_mapped = move |map: Option<&IdMap>, id: u32| match map {
        Some(map) => map.host_of(ContainerId(id)).is_some(),
        None => u64::from(id) < node.ids_per_pod,
    };
    let users = pod.users.iter().filter(move |(_, user)| !is_mapped(node.uid_map, **user));
    let groups = pod.groups.iter().filter(move |group| !is_mapped(node.gid_map, **group));
    let fs_group = pod.fs_group.filter(|group| !is_mapped(node.gid_map, *group));
    let of_namespace =
        move |user: u32| pod.held_to_range && ranges.is_none_or(|ranges| ranges.users.contains(user));
    users
        .map(move |(container, user)| MappingProblem::UserNotInMapping {
            container: container.clone(),
            user: *user,
            of_namespace: of_namespace(*user),
        })
        .chain(groups.map(|group| MappingProblem::GroupNotInMapping { group: *group }))
        .chain(fs_group.map(|group| MappingProblem::FsGroupNotInMapping { group }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(user: u32) -> PodSpec {
        PodSpec { host_users: Some(false), users: [("web".to_owned(), user)].into(), ..PodSpec::default() }
    }

    fn names(found: &[MappingProblem]) -> Vec<&'static str> {
        found.iter().map(MappingProblem::name).collect()
    }

    const NOT_YET: OnNode<'_> =
        OnNode { uid_map: None, gid_map: None, in_hosts: false, ids_per_pod: IDS_PER_POD };

    #[test]
    fn a_user_beyond_the_mapping_is_found_before_and_while_the_pod_runs() {
        let map = IdMap::parse("0 200000 65536").unwrap();
        let wide = IdMap::parse("0 0 1\n1 200000 2000000000").unwrap();
        let running = OnNode { uid_map: Some(&map), gid_map: Some(&map), ..NOT_YET };
        let widely = OnNode { uid_map: Some(&wide), ..running };
        for node in [NOT_YET, running] {
            assert!(mapping_problems(&pod(65_535), &node, None).is_empty());
            assert_eq!(names(&mapping_problems(&pod(65_536), &node, None)), ["user_not_in_mapping"]);
        }
        assert!(mapping_problems(&pod(1_000_000_000), &widely, None).is_empty());
        assert!(
            mapping_problems(&pod(100_000), &OnNode { ids_per_pod: 131_072, ..NOT_YET }, None).is_empty()
        );
        // In the host's user namespace every ID maps to itself.
        for host_users in [None, Some(true)] {
            assert!(
                mapping_problems(&PodSpec { host_users, ..pod(1_000_000_000) }, &NOT_YET, None).is_empty()
            );
        }
    }

    #[test]
    fn groups_are_looked_up_in_the_mapping_of_group_ids() {
        let users = IdMap::parse("0 200000 65536").unwrap();
        let groups = IdMap::parse("0 200000 1000").unwrap();
        let node = OnNode { uid_map: Some(&users), gid_map: Some(&groups), ..NOT_YET };
        let pod = PodSpec { groups: vec![999, 1000], fs_group: Some(2000), ..pod(5000) };
        assert_eq!(
            names(&mapping_problems(&pod, &node, None)),
            ["group_not_in_mapping", "fs_group_not_in_mapping"]
        );
    }

    #[test]
    fn lost_isolation_is_one_finding() {
        let node = OnNode { in_hosts: true, ..NOT_YET };
        assert_eq!(names(&mapping_problems(&pod(1_000_000_000), &node, None)), ["host_users_lost"]);
        assert!(mapping_problems(&PodSpec { host_users: None, ..pod(0) }, &node, None).is_empty());
    }

    #[test]
    fn the_namespaces_range_applies_to_pods_that_its_scc_admitted() {
        let ranges = Ok(NamespaceRanges::parse(Some("1000/100"), Some("5000/10")).unwrap());
        let of = |scc: &str, user, fs_group| {
            let pod = PodSpec {
                host_users: None,
                held_to_range: scc::is_held_to_range(scc),
                fs_group: Some(fs_group),
                ..pod(user)
            };
            names(&mapping_problems(&pod, &NOT_YET, Some(&ranges)))
        };
        assert!(of("restricted-v2", 1099, 5000).is_empty());
        assert_eq!(of("restricted-v2", 1100, 5000), ["user_not_in_namespace_range"]);
        assert_eq!(of("restricted-v2", 1000, 5001), ["fs_group_not_in_namespace_range"]);
        assert!(of("anyuid", 0, 1).is_empty());
        let bad = Err(RangeError::Missing);
        let held = PodSpec { held_to_range: true, ..pod(1) };
        assert_eq!(names(&mapping_problems(&held, &NOT_YET, Some(&bad))), ["namespace_range_unreadable"]);
        assert!(mapping_problems(&held, &NOT_YET, None).is_empty(), "not asked yet");
    }

    #[test]
    fn the_remedy_for_an_openshift_user_outside_a_small_mapping_is_another_scc() {
        let ranges = Ok(NamespaceRanges::parse(Some("1000000000/10000"), None).unwrap());
        let pod = PodSpec { held_to_range: true, ..pod(1_000_000_000) };
        let want = "container web runs as user 1000000000 of its namespace's range, which is not mapped into the pod's \
                    user namespace; annotate the pod with openshift.io/required-scc: restricted-v3, or its namespace \
                    with both openshift.io/sa.scc.uid-range: 1000/10000 and openshift.io/sa.scc.supplemental-groups: \
                    1000/10000";
        // The same before the namespace has been read.
        for ranges in [Some(&ranges), None] {
            let found = mapping_problems(&pod, &NOT_YET, ranges);
            assert_eq!(found.iter().map(MappingProblem::to_string).collect::<Vec<_>>(), [want]);
        }
    }

    #[test]
    fn a_pod_cannot_claim_to_be_another() {
        let on_node = BTreeMap::from([("hash", ("kube-system", "etcd-n1")), ("uid-0", ("victim", "web-0"))]);
        let claims = |namespace: &str, name: &str, node_uid: &str| {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            let pod = PodSpec {
                namespace,
                name,
                uid: "own".into(),
                node_uid: Some(node_uid.into()),
                ..PodSpec::default()
            };
            super::node_uid(&pod, &on_node).to_owned()
        };
        assert_eq!(claims("kube-system", "etcd-n1", "hash"), "hash");
        for (namespace, name, uid) in [
            ("evil", "x", "uid-0"),
            ("evil", "web-0", "uid-0"),
            ("victim", "x", "uid-0"),
            ("victim", "web-0", "none"),
        ] {
            assert_eq!(claims(namespace, name, uid), "own", "{namespace}/{name} {uid}");
        }
    }

    #[test]
    fn every_name_is_documented() {
        let page = include_str!("../../../docs/kubernetes.md");
        for name in MappingProblem::NAMES {
            assert!(page.contains(&format!("`{name}`")), "docs/kubernetes.md lacks {name}");
        }
    }
}
