//! Finds the containers that an argument names: by ID, by pod, or by a process.

use thiserror::Error;

use super::ExplainTarget;
use usernsd_domain::cgroup::CgroupPath;
use usernsd_domain::container::{ContainerState, CriId, PodRef};
use usernsd_domain::unit::container_of_scope;
use usernsd_peers::cri::{CriSandbox, ListedContainer};

/// Why no container is found.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FindError {
    /// The name matches nothing.
    #[error(
        "no container, pod or process {0:?} is on this node; usernsd ps lists what the agent sees, crictl ps -a all. Of a \
         pod that waits for its sandbox kubectl describe pod has the reason, for usernsd explain --from-log"
    )]
    Nothing(String),
    /// The runtime has nothing of that name, and the kubelet's pods cannot be seen from here.
    #[error(
        "the runtime has no container and no sandbox of {0:?}, and whether the kubelet has such a pod cannot be seen \
         here: /var/log/pods is not mounted. kubectl userns explain POD finds it"
    )]
    NothingSeen(String),
    /// The process is in no container.
    #[error("process {0} is in no container; it is in cgroup {1}")]
    NoContainer(u32, CgroupPath),
    /// More than one pod or container of that name.
    #[error("{target:?} is more than one: {}; name one of them", found.join(", "))]
    Ambiguous {
        /// The name that was given.
        target: String,
        /// The pods or containers that match.
        found: Vec<String>,
    },
    /// No container of that name is in the pod.
    #[error("the pod has no container {name:?}; it has: {}", has.join(", "))]
    NotInPod {
        /// The name that was given.
        name: String,
        /// The names that exist.
        has: Vec<String>,
    },
}

/// The container of a process, from the path of its cgroup: the outermost directory with a runtime's name.
/// The container may have created the deeper ones.
pub(super) fn container_of_path(path: &CgroupPath) -> Option<CriId> {
    path.components().find_map(|name| {
        // With the cgroupfs driver: crio-ID, or the bare ID.
        let bare = name.strip_prefix("crio-").unwrap_or(name);
        let is_id = bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        container_of_scope(name).or_else(|| is_id.then(|| CriId::parse(bare).ok())?)
    })
}

/// The containers that match the beginning of an ID, a pod's name or `NAMESPACE/POD`. For a pod: its
/// running containers, and for each container name without a running one, all ended ones.
///
/// # Errors
/// See [`FindError`].
pub(super) fn find(
    target: &str,
    container: Option<&str>,
    sandboxes: &[CriSandbox],
    containers: &[ListedContainer],
) -> Result<Vec<CriId>, FindError> {
    let by_id: Vec<&ListedContainer> =
        containers.iter().filter(|container| container.id.as_str().starts_with(target)).collect();
    // "a" is a pod's name and not the beginning of an ID.
    if target.len() >= 3 && container.is_none() {
        match by_id.as_slice() {
            [] => {}
            [only] => return Ok(vec![only.id.clone()]),
            many => {
                let found = many.iter().map(|container| container.id.short().to_owned()).collect();
                return Err(FindError::Ambiguous { target: target.to_owned(), found });
            }
        }
    }
    let mut pods: Vec<&CriSandbox> = sandboxes.iter().filter(|sandbox| is_meant(target, sandbox)).collect();
    // A pod's earlier sandboxes are kept for a while.
    if pods.iter().any(|pod| pod.ready) {
        pods.retain(|pod| pod.ready);
    }
    let mut names: Vec<String> =
        pods.iter().map(|sandbox| format!("{}/{}", sandbox.pod.namespace, sandbox.pod.name)).collect();
    names.dedup();
    match names.len() {
        0 => return Err(FindError::Nothing(target.to_owned())),
        1 => {}
        _ => return Err(FindError::Ambiguous { target: target.to_owned(), found: names }),
    }
    let of_pod = |known: &&ListedContainer| pods.iter().any(|pod| pod.id.as_str() == known.sandbox_id);
    let all: Vec<&ListedContainer> = containers.iter().filter(of_pod).collect();
    if all.is_empty() {
        return Err(FindError::Nothing(target.to_owned()));
    }
    let is_live = |known: &ListedContainer| known.state != ContainerState::Stopped;
    let has_live = |name: &str| all.iter().any(|other| other.name == name && is_live(other));
    let wanted = all.iter().filter(|known| container.is_none_or(|name| known.name == name));
    let found: Vec<CriId> = wanted
        .filter(|known| is_live(known) || !has_live(&known.name))
        .map(|known| known.id.clone())
        .collect();
    match container {
        Some(name) if found.is_empty() => {
            let mut has: Vec<String> = all.iter().map(|known| known.name.clone()).collect();
            has.sort();
            has.dedup();
            Err(FindError::NotInPod { name: name.to_owned(), has })
        }
        _ => Ok(found),
    }
}

/// The pod that `NAME` or `NAMESPACE/POD` names and that has no container, and whether it has a ready
/// sandbox. It is found by its sandbox; otherwise by the directory that the kubelet creates for its logs
/// before the sandbox (`NAMESPACE_POD_UID` below /var/log/pods; `None` if that cannot be seen), or by its
/// UID.
///
/// # Errors
/// See [`FindError`].
pub(super) fn find_waiting(
    target: ExplainTarget<'_>,
    sandboxes: &[CriSandbox],
    logs: Option<&[String]>,
) -> Result<(PodRef, bool), FindError> {
    let ExplainTarget { name: target, pod_uid, .. } = target;
    let mut pods: Vec<(PodRef, bool)> = sandboxes
        .iter()
        .filter(|sandbox| is_meant(target, sandbox))
        .map(|sandbox| (sandbox.pod.clone(), sandbox.ready))
        .collect();
    if pods.is_empty()
        && let (Some(uid), Some((namespace, name))) = (pod_uid, target.split_once('/'))
    {
        let pod = PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() };
        pods.push((pod, false));
    }
    if pods.is_empty() {
        let Some(logs) = logs else { return Err(FindError::NothingSeen(target.to_owned())) };
        let of_name = |directory: &String| {
            let mut words = directory.split('_').map(str::to_owned);
            let (Some(namespace), Some(name), Some(uid), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return None;
            };
            let pod = PodRef { namespace, name, uid };
            is_pod(target, &pod).then_some((pod, false))
        };
        pods = logs.iter().filter_map(of_name).collect();
    }
    let mut names: Vec<String> =
        pods.iter().map(|(pod, _)| format!("{}/{}", pod.namespace, pod.name)).collect();
    names.sort();
    names.dedup();
    if names.len() > 1 {
        return Err(FindError::Ambiguous { target: target.to_owned(), found: names });
    }
    // A pod's earlier sandboxes are kept for a while.
    pods.into_iter().max_by_key(|(_, ready)| *ready).ok_or_else(|| FindError::Nothing(target.to_owned()))
}

fn is_meant(target: &str, sandbox: &CriSandbox) -> bool {
    let has_id = target.len() >= 3 && sandbox.id.as_str().starts_with(target);
    is_pod(target, &sandbox.pod) || (!target.contains('/') && has_id)
}

fn is_pod(target: &str, pod: &PodRef) -> bool {
    match target.split_once('/') {
        Some((namespace, name)) => pod.namespace == namespace && pod.name == name,
        None => pod.name == target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str, namespace: &str, name: &str, ready: bool) -> CriSandbox {
        CriSandbox {
            id: CriId::parse(id).unwrap(),
            pod: PodRef { namespace: namespace.into(), name: name.into(), uid: String::new() },
            annotations: Default::default(),
            is_cut: false,
            size: 0,
            ready,
            runtime_handler: String::new(),
        }
    }

    fn container(id: &str, sandbox_id: &str, name: &str, state: ContainerState) -> ListedContainer {
        ListedContainer {
            id: CriId::parse(id).unwrap(),
            sandbox_id: sandbox_id.into(),
            name: name.into(),
            pod: PodRef::default(),
            state,
            created_at_ns: 0,
        }
    }

    #[test]
    fn a_container_is_found_by_pod_name_or_id() {
        use ContainerState::{Running, Stopped};
        let sandboxes = [
            sandbox("s1", "a", "web", true),
            sandbox("s2", "b", "web", true),
            sandbox("s3", "b", "db", true),
            sandbox("s4", "b", "db", false),
        ];
        let containers = [
            container("abc1", "s1", "c", Running),
            container("abd2", "s2", "c", Running),
            container("eee1", "s3", "c", Stopped),
            container("eee2", "s3", "c", Running),
            container("eee3", "s3", "init", Stopped),
            container("eee4", "s4", "c", Stopped),
        ];
        let find = |target: &str, name: Option<&str>| {
            find(target, name, &sandboxes, &containers)
                .map(|found| found.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(" "))
                .map_err(|error| error.to_string())
        };
        assert_eq!(find("abc", None).unwrap(), "abc1");
        assert_eq!(find("a/web", None).unwrap(), "abc1");
        assert_eq!(find("b/db", None).unwrap(), "eee2 eee3", "the one that runs, and what has no successor");
        assert_eq!(find("db", Some("init")).unwrap(), "eee3");
        assert_eq!(
            find("web", None).unwrap_err(),
            "\"web\" is more than one: a/web, b/web; name one of them"
        );
        assert_eq!(
            find("eee", None).unwrap_err(),
            "\"eee\" is more than one: eee1, eee2, eee3, eee4; name one of them"
        );
        assert_eq!(find("db", Some("x")).unwrap_err(), "the pod has no container \"x\"; it has: c, init");
        assert!(find("a", None).unwrap_err().starts_with("no container, pod or process \"a\""));
    }

    #[test]
    fn a_waiting_pod_is_found_by_the_parts_that_exist() {
        let sandboxes = [sandbox("aaa1", "prod", "web", true), sandbox("aaa2", "prod", "old", false)];
        let logs = ["prod_db_uid-1", "test_db_uid-2", "prod_job_uid-3", "lost+found", "a_b_c_d"];
        let logs = logs.map(str::to_owned);
        fn target<'a>(name: &'a str, pod_uid: Option<&'a str>) -> ExplainTarget<'a> {
            ExplainTarget { name, container: None, pod_uid }
        }
        let answer =
            |found: Result<(PodRef, bool), FindError>| found.map(|(pod, ready)| (pod.name, pod.uid, ready));
        let find = |name: &str| answer(find_waiting(target(name, None), &sandboxes, Some(&logs)));
        assert_eq!(find("web"), Ok(("web".into(), String::new(), true)));
        assert_eq!(find("prod/old"), Ok(("old".into(), String::new(), false)));
        assert_eq!(find("job"), Ok(("job".into(), "uid-3".into(), false)));
        assert_eq!(find("test/db"), Ok(("db".into(), "uid-2".into(), false)));
        assert!(
            matches!(find("db"), Err(FindError::Ambiguous { found, .. }) if found == ["prod/db", "test/db"])
        );
        assert_eq!(find("b"), Err(FindError::Nothing("b".into())));
        // From an agent's pod the logs cannot be seen, but the API server has the pod.
        let blind = |name: &str, uid| answer(find_waiting(target(name, uid), &sandboxes, None));
        assert_eq!(blind("web", None), Ok(("web".into(), String::new(), true)));
        assert_eq!(blind("prod/job", None), Err(FindError::NothingSeen("prod/job".into())));
        assert_eq!(blind("prod/job", Some("uid-3")), Ok(("job".into(), "uid-3".into(), false)));
        assert_eq!(blind("prod/web", Some("uid-9")), Ok(("web".into(), String::new(), true)));
    }

    #[test]
    fn a_process_is_in_the_outermost_container() {
        let (one, two) = ("a".repeat(64), "b".repeat(64));
        for (path, want) in [
            (format!("/kubepods.slice/crio-{one}.scope/container/crio-{two}.scope"), Some(&one)),
            (format!("/kubepods/pod1/{one}/init.scope"), Some(&one)),
            (format!("/kubepods/pod1/crio-{one}"), Some(&one)),
            ("/system.slice/ssh.service".to_owned(), None),
            (format!("/system.slice/crio-conmon-{one}.scope"), None),
        ] {
            let path = CgroupPath::parse(&path).unwrap();
            assert_eq!(container_of_path(&path).map(|id| id.to_string()).as_ref(), want, "{path}");
        }
    }
}
