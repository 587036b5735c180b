//! NRI's protobuf messages, and the domain's words for them.

use prost::Message;

use super::{NriError, proto};
use crate::domain::adjust::{Adjustment, MountChange};
use crate::domain::container::{Container, ContainerState, CriId, CriIdError, Mount, PodName, Sandbox};
use crate::domain::idmap::ContainerId;

/// Decodes `what`.
///
/// # Errors
/// Not that message.
pub(super) fn decode<M: Message + Default>(what: &str, payload: &[u8]) -> Result<M, NriError> {
    M::decode(payload).map_err(|error| NriError::Malformed(format!("{what}: {error}")))
}

/// An ID out of a message.
///
/// # Errors
/// What no runtime uses as an ID. It would become part of paths.
pub(super) fn id(text: &str) -> Result<CriId, NriError> {
    CriId::parse(text).map_err(|error: CriIdError| NriError::Malformed(error.to_string()))
}

/// The pod and container of a call, both of which it must have.
///
/// # Errors
/// Without one of them, or with one that has no proper ID.
pub(super) fn pod_and_container(
    what: &str,
    pod: Option<proto::PodSandbox>,
    of_pod: Option<proto::Container>,
) -> Result<(Sandbox, Container), NriError> {
    let (Some(pod), Some(of_pod)) = (pod, of_pod) else {
        return Err(NriError::Malformed(format!("{what} without its pod or container")));
    };
    let pod = sandbox(pod)?;
    let of_pod = container(of_pod, Some(&pod))?;
    Ok((pod, of_pod))
}

/// # Errors
/// No proper ID.
pub(super) fn sandbox(pod: proto::PodSandbox) -> Result<Sandbox, NriError> {
    let namespaces = pod.linux.map(|linux| linux.namespaces).unwrap_or_default();
    Ok(Sandbox {
        id: id(&pod.id)?,
        pod: PodName { namespace: pod.namespace, name: pod.name, uid: pod.uid },
        annotations: pod.annotations,
        user_namespace: (!namespaces.is_empty()).then(|| lists(&namespaces, "user")),
        pid: positive(pod.pid),
    })
}

/// # Errors
/// No proper ID.
pub(super) fn container(container: proto::Container, pod: Option<&Sandbox>) -> Result<Container, NriError> {
    let linux = container.linux.unwrap_or_default();
    Ok(Container {
        id: id(&container.id)?,
        sandbox_id: container.pod_sandbox_id,
        name: container.name,
        pod: pod.map(|pod| pod.pod.clone()).unwrap_or_default(),
        annotations: pod.map(|pod| pod.annotations.clone()).unwrap_or_default(),
        pid: positive(container.pid),
        cgroups_path: linux.cgroups_path,
        user_namespace: lists(&linux.namespaces, "user"),
        cgroup_namespace: lists(&linux.namespaces, "cgroup"),
        mounts: container.mounts.into_iter().map(mount).collect(),
        process_uid: container.user.map(|user| ContainerId(user.uid)),
        env_names: container.env.into_iter().map(env_name).collect(),
    })
}

/// A container out of a list: without its mounts and variables, which are of no use any more.
///
/// # Errors
/// No proper ID.
pub(super) fn listed(listed: proto::ListedContainer, pod: Option<&Sandbox>) -> Result<Container, NriError> {
    let proto::ListedContainer { id, pod_sandbox_id, name, state, linux, pid, user } = listed;
    let whole =
        proto::Container { id, pod_sandbox_id, name, state, linux, pid, user, env: vec![], mounts: vec![] };
    container(whole, pod)
}

/// How far a listed container has come; a paused one has started.
pub(super) fn state(container: &proto::ListedContainer) -> ContainerState {
    match container.state() {
        proto::ContainerState::ContainerCreated => ContainerState::Created,
        proto::ContainerState::ContainerRunning | proto::ContainerState::ContainerPaused => {
            ContainerState::Running
        }
        proto::ContainerState::ContainerStopped => ContainerState::Stopped,
        proto::ContainerState::ContainerUnknown => ContainerState::Unknown,
    }
}

/// The answer to `CreateContainer`.
///
/// A replaced mount is two entries, the removal (`-` before the destination) first: NRI's
/// `pkg/api/mount.go`.
pub(super) fn create_response(adjustment: Option<Adjustment>) -> proto::CreateContainerResponse {
    let adjust = adjustment.map(|adjustment| proto::ContainerAdjustment {
        annotations: adjustment.annotations,
        mounts: adjustment.mounts.into_iter().flat_map(mount_change).collect(),
        env: adjustment.env.into_iter().map(|(key, value)| proto::KeyValue { key, value }).collect(),
        linux: adjustment.add_cgroup_namespace.then(|| proto::LinuxContainerAdjustment {
            namespaces: vec![proto::LinuxNamespace { r#type: "cgroup".to_owned(), path: String::new() }],
        }),
    });
    proto::CreateContainerResponse { adjust }
}

fn mount_change(change: MountChange) -> impl Iterator<Item = proto::Mount> {
    let MountChange { mount: Mount { destination, kind, source, options }, replaces } = change;
    let removal =
        replaces.then(|| proto::Mount { destination: format!("-{destination}"), ..Default::default() });
    removal.into_iter().chain([proto::Mount { destination, r#type: kind, source, options }])
}

fn mount(mount: proto::Mount) -> Mount {
    let proto::Mount { destination, r#type, source, options } = mount;
    Mount { destination, kind: r#type, source, options }
}

/// `NAME=value` without the value, which may be a secret, and without its memory.
fn env_name(mut variable: String) -> String {
    if let Some(end) = variable.find('=') {
        variable.truncate(end);
        variable.shrink_to_fit();
    }
    variable
}

fn lists(namespaces: &[proto::LinuxNamespace], kind: &str) -> bool {
    namespaces.iter().any(|namespace| namespace.r#type == kind)
}

/// Protobuf has no "not said": 0 is that.
fn positive(pid: u32) -> Option<u32> {
    (pid != 0).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(kinds: &[&str]) -> Vec<proto::LinuxNamespace> {
        kinds
            .iter()
            .map(|kind| proto::LinuxNamespace { r#type: (*kind).into(), path: String::new() })
            .collect()
    }

    #[test]
    fn a_pod_that_lists_no_namespaces_says_nothing_of_its_user_namespace() {
        let pod = |linux| proto::PodSandbox { id: "p".into(), linux, ..Default::default() };
        let says = |linux| sandbox(pod(linux)).unwrap().user_namespace;
        assert_eq!(says(None), None);
        assert_eq!(says(Some(proto::LinuxPodSandbox { namespaces: vec![] })), None);
        assert_eq!(says(Some(proto::LinuxPodSandbox { namespaces: namespaces(&["pid"]) })), Some(false));
        assert_eq!(
            says(Some(proto::LinuxPodSandbox { namespaces: namespaces(&["pid", "user"]) })),
            Some(true)
        );
    }

    #[test]
    fn only_the_names_of_variables_are_kept() {
        let env = ["A=secret", "B=", "C", "", "D=x=y"].map(String::from).to_vec();
        let made = container(proto::Container { id: "c".into(), env, ..Default::default() }, None);
        assert_eq!(made.unwrap().env_names, ["A", "B", "C", "", "D"]);
    }

    #[test]
    fn a_user_of_zero_is_said_a_missing_one_is_not() {
        let uid = |user| {
            let message = proto::Container { id: "c".into(), user, ..Default::default() };
            container(message, None).unwrap().process_uid
        };
        assert_eq!(uid(None), None);
        assert_eq!(uid(Some(proto::User { uid: 0 })), Some(ContainerId(0)));
        assert_eq!(uid(Some(proto::User { uid: 7 })), Some(ContainerId(7)));
    }

    #[test]
    fn an_id_that_would_leave_its_directory_is_malformed() {
        let message = proto::Container { id: "../../etc".into(), ..Default::default() };
        let error = container(message, None).unwrap_err().to_string();
        assert!(error.contains("\"../../etc\" is not a container's ID"), "{error}");
    }

    #[test]
    fn a_replaced_mount_is_removed_first() {
        let change = |destination: &str, replaces| MountChange {
            mount: Mount { destination: destination.into(), ..Default::default() },
            replaces,
        };
        let adjust = create_response(Some(Adjustment {
            mounts: vec![change("/sys/fs/cgroup", true), change("/run", false)],
            ..Default::default()
        }))
        .adjust
        .unwrap();
        let destinations: Vec<_> = adjust.mounts.iter().map(|mount| &*mount.destination).collect();
        assert_eq!(destinations, ["-/sys/fs/cgroup", "/sys/fs/cgroup", "/run"]);
        assert_eq!(adjust.linux, None);
    }

    #[test]
    fn every_state_has_its_word() {
        let word = |number| state(&proto::ListedContainer { state: number, ..Default::default() });
        assert_eq!(
            [0, 1, 2, 3, 4, 99].map(word),
            [
                ContainerState::Unknown,
                ContainerState::Created,
                ContainerState::Running,
                ContainerState::Running,
                ContainerState::Stopped,
                ContainerState::Unknown,
            ]
        );
    }
}
