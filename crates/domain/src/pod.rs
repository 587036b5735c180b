//! Pods, put together from the containers' records.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::assessment::Assessment;
use super::cgroup::CgroupPath;
use super::container::PodRef;
use super::idmap::{HostId, IdMap};
use super::record::{Record, UserNamespaceMode};
use super::space::{IdSet, IdType, PodIds};
use super::unit::pod_cgroup;

/// A pod with a running container.
///
/// Its names are from the runtime and may be any text: see [`is_dns_label`].
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    /// The pod's name.
    pub name: PodRef,
    /// How the pod got its user namespace.
    pub mode: UserNamespaceMode,
    /// The pod's cgroup, if a kubelet created one.
    pub cgroup: Option<CgroupPath>,
    /// The pod's containers, the newest first.
    pub containers: Vec<Arc<Record>>,
}

impl Pod {
    /// The pods of these containers, by name; of two with one name, the newest first. A pod that got a second sandbox
    /// is the same pod.
    #[must_use]
    pub fn of(records: &[Arc<Record>]) -> Vec<Pod> {
        let mut pods: BTreeMap<&str, Vec<Arc<Record>>> = BTreeMap::new();
        for record in records {
            let key = match record.pod.uid.as_str() {
                "" => record.sandbox_id.as_str(),
                uid => uid,
            };
            pods.entry(key).or_default().push(Arc::clone(record));
        }
        let mut pods: Vec<Pod> = pods.into_values().filter_map(Pod::of_one).collect();
        let by_name = |a: &PodRef, b: &PodRef| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name));
        pods.sort_by(|a, b| by_name(&a.name, &b.name).then(b.age_key().cmp(&a.age_key())));
        pods
    }

    fn of_one(mut containers: Vec<Arc<Record>>) -> Option<Pod> {
        containers.sort_by_key(|record| std::cmp::Reverse((record.inode, record.pid)));
        let name = containers.first()?.pod.clone();
        // A known mode of one container outweighs an unknown one of another.
        let mode = containers.iter().map(|record| record.mode).min()?;
        let cgroup = containers.iter().find_map(|record| pod_cgroup(record.cgroup.as_ref()?));
        Some(Pod { name, mode, cgroup, containers })
    }

    /// The kernel numbers cgroups upwards.
    fn age_key(&self) -> Option<u64> {
        self.containers.first().and_then(|record| record.inode)
    }

    /// Containers that run in the host's user namespace although the pod asked for its own.
    pub fn lost(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.containers.iter().filter(|record| record.assessment() == Assessment::IsolationLost)
    }

    /// Whether it has, or asked for, its own user namespace.
    #[must_use]
    pub fn is_in_user_namespace(&self) -> bool {
        matches!(self.mode, UserNamespaceMode::Pod | UserNamespaceMode::Auto)
    }

    /// The mapping to show: that of a container whose root is the host's root, if there is one, because then the pod
    /// is not isolated.
    #[must_use]
    pub fn map(&self, space: IdType) -> Option<&IdMap> {
        let maps = || self.containers.iter().filter_map(|record| map_of(record, space));
        maps().find(|map| map.root() == Some(HostId::ROOT)).or_else(|| maps().find(|map| !map.is_empty()))
    }

    /// The pod's host IDs: those of its containers with their own user namespace.
    #[must_use]
    pub fn ids(&self) -> PodIds {
        let of = |space| -> IdSet {
            let own = self
                .containers
                .iter()
                .filter(|record| record.user_namespace.is_some_and(|namespace| !namespace.is_hosts));
            let sets = own.filter_map(|record| map_of(record, space)).map(IdSet::of_map);
            sets.flat_map(|set| set.windows().to_vec()).collect()
        };
        PodIds { uids: of(IdType::Uid), gids: of(IdType::Gid) }
    }

    /// Whether its names are valid in Kubernetes, so that they can be used as metric labels.
    #[must_use]
    pub fn has_good_names(&self) -> bool {
        is_dns_label(&self.name.namespace) && is_dns_name(&self.name.name)
    }
}

fn map_of(record: &Record, space: IdType) -> Option<&IdMap> {
    match space {
        IdType::Uid => record.uid_map.as_ref(),
        IdType::Gid => record.gid_map.as_ref(),
    }
}

/// Whether this is a DNS label (RFC 1123), the form of namespaces and container names: lower case letters, digits and
/// `-`, at most 63, without `-` at either end.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether this is a DNS name of at most 253 characters (RFC 1123), the form of pod names. Its parts may be longer
/// than 63 characters, as Kubernetes allows.
#[must_use]
pub fn is_dns_name(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    (1..=253).contains(&text.len()) && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::UserNamespace;

    fn record(id: &str, pod: &str, uid: &str, inode: u64) -> Record {
        Record {
            sandbox_id: format!("sandbox-{id}"),
            name: id.to_owned(),
            pod: PodRef { namespace: "default".into(), name: pod.into(), uid: uid.into() },
            uid_map: Some(IdMap::parse("0 200000 65536").unwrap()),
            gid_map: Some(IdMap::parse("0 300000 65536").unwrap()),
            user_namespace: Some(UserNamespace { inode: Some(1), is_hosts: false }),
            mode: UserNamespaceMode::Pod,
            inode: Some(inode),
            ..Record::bare(crate::container::CriId::parse(id).unwrap())
        }
    }

    fn pods(records: Vec<Record>) -> Vec<Pod> {
        Pod::of(&records.into_iter().map(Arc::new).collect::<Vec<_>>())
    }

    #[test]
    fn containers_of_one_pod_are_one_pod() {
        let pods = pods(vec![
            record("a", "web", "u1", 5),
            record("b", "web", "u1", 9),
            // A successor of the same name, and a pod that no kubelet created.
            record("c", "web", "u2", 7),
            record("d", "bare", "", 1),
            record("e", "bare", "", 2),
        ]);
        let seen: Vec<(&str, &str, Vec<&str>)> = pods
            .iter()
            .map(|pod| {
                let ids = pod.containers.iter().map(|record| record.id.as_str()).collect();
                (pod.name.name.as_str(), pod.name.uid.as_str(), ids)
            })
            .collect();
        let want = [
            ("bare", "", vec!["e"]),
            ("bare", "", vec!["d"]),
            ("web", "u1", vec!["b", "a"]),
            ("web", "u2", vec!["c"]),
        ];
        assert_eq!(seen, want);
    }

    #[test]
    fn a_pod_with_a_lost_container_shows_the_hosts_mapping() {
        let initial = || Some(IdMap::parse("0 0 4294967295").unwrap());
        let lost = Record {
            uid_map: initial(),
            gid_map: initial(),
            user_namespace: Some(UserNamespace { inode: Some(2), is_hosts: true }),
            isolation: crate::guard::Verdict::Lost,
            ..record("b", "web", "u1", 1)
        };
        let pods = pods(vec![record("a", "web", "u1", 2), lost]);
        let [pod] = pods.as_slice() else { panic!("{pods:?}") };
        assert_eq!(pod.map(IdType::Gid).unwrap().root(), Some(HostId::ROOT));
        assert_eq!(pod.lost().count(), 1);
        // IDs of the lost container do not count as the pod's own range.
        assert_eq!(pod.ids().gids.windows().first().unwrap().start, 300_000);
        assert_eq!(pod.ids().uids.len(), 65_536);
        assert!(pod.is_in_user_namespace());
    }

    #[test]
    fn only_names_that_kubernetes_allows_are_labels() {
        for name in ["a", "kube-system", "0", &"f".repeat(63)] {
            assert!(is_dns_label(name) && is_dns_name(name), "{name}");
        }
        for name in ["web-0.example", &"f".repeat(253)] {
            assert!(!is_dns_label(name) && is_dns_name(name), "{name}");
        }
        let (long, html, rtl) = ("f".repeat(254), "<b>x</b>", "\u{202e}evil");
        for name in ["", "-a", "a-", "A", "a_b", "a b", "a\"b", "a\nb", "é", ".", "a..b", &long, html, rtl] {
            assert!(!is_dns_label(name) && !is_dns_name(name), "{name:?}");
        }
    }
}
