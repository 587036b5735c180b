//! NRI's protobuf messages, and their conversion into domain values.
//!
//! A pod's author determines the number and length of variables, annotations, mounts and options. Those that
//! [`relevant`] does not list are skipped; of the rest, only as much is kept as decisions need. [`Cuts`] counts
//! what was cut.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{NriError, proto};
use usernsd_domain::adjust::{Adjustment, MountChange};
use usernsd_domain::chain::chain;
use usernsd_domain::container::{
    Container, ContainerState, CriId, CriIdError, Mount, PodRef, Sandbox, SpecifiedNamespaces,
};
use usernsd_domain::idmap::ContainerId;
use usernsd_domain::protobuf::{FieldValue, Fields, field};
use usernsd_domain::relevant;

/// Longest name of a pod, namespace or container, in bytes: a DNS subdomain.
const NAME: usize = 253;
/// Longest key of an annotation, in bytes: a DNS subdomain, a slash and 63 characters.
const KEY: usize = 317;
/// The longest part of an annotation's value that is kept, in bytes. The longest meaningful value is CRI-O's
/// `userns-mode` with mappings.
const VALUE: usize = 512;
/// The most annotations that are kept of a pod: each key for the pod and for some of its containers.
const ANNOTATIONS: usize = 32;
/// Longest path, in bytes: the kernel's PATH_MAX.
const PATH: usize = 4096;
/// The most options that are kept of a mount, and the longest part of each, in bytes.
const OPTIONS: (usize, usize) = (32, 128);
/// The most containers that are kept of a list; kubelets run 110 pods by default, and rarely more than 500.
pub(super) const LISTED: usize = 4096;
/// Size limit of all annotations in one list, in bytes.
const LISTED_ANNOTATIONS: usize = 4 << 20;
/// The most reasons for leaving items out of a list that are kept; further ones are only counted.
const REASONS: usize = 8;

/// How many items were longer than allowed and were cut or left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cuts(pub(super) u64);

/// Decodes a message that contains nothing that a container's author writes.
///
/// # Errors
/// The bytes are not that message.
pub(super) fn decode<M: prost::Message + Default>(what: &str, payload: &[u8]) -> Result<M, NriError> {
    M::decode(payload).map_err(|error| NriError::Malformed(format!("{what}: {error}")))
}

/// Parses an ID in a message.
///
/// # Errors
/// The text is not what runtimes use as an ID. IDs become part of paths, so nothing else is accepted.
fn id(text: &[u8]) -> Result<CriId, NriError> {
    let text = String::from_utf8_lossy(text.get(..200).unwrap_or(text));
    CriId::parse(&text).map_err(|error: CriIdError| NriError::Malformed(chain(&error)))
}

/// The ID in field 1 of the message in field `tag` of `payload`: a removed container or pod.
///
/// # Errors
/// See [`id`].
pub(super) fn id_in(payload: &[u8], tag: u32) -> Result<CriId, NriError> {
    id(field(field(payload, tag)?.bytes(), 1)?.bytes())
}

/// The pod and the container of a call, from the fields `first` and `first + 1`. Both are mandatory.
///
/// # Errors
/// One of them is missing or has no valid ID.
pub(super) fn pod_and_container(
    what: &str,
    payload: &[u8],
    first: u32,
    cuts: &mut Cuts,
) -> Result<(Sandbox, Container), NriError> {
    let (mut pod, mut of_pod) = (None, None);
    for field in Fields::of(payload) {
        match field.map_err(|error| NriError::from(error).within(what))? {
            (tag, value) if tag == first => pod = Some(value),
            (tag, value) if tag == first + 1 => of_pod = Some(value),
            _ => {}
        }
    }
    let (Some(pod), Some(of_pod)) = (pod, of_pod) else {
        return Err(NriError::Malformed(format!("{what} without its pod or container")));
    };
    let pod = sandbox(pod.bytes(), cuts).map_err(|error| error.within(what))?;
    let (mut container, _) = container(of_pod.bytes(), false, cuts).map_err(|error| error.within(what))?;
    container.pod = pod.pod.clone();
    container.annotations = Arc::clone(&pod.annotations);
    Ok((pod, container))
}

/// # Errors
/// The message has no valid ID.
fn sandbox(message: &[u8], cuts: &mut Cuts) -> Result<Sandbox, NriError> {
    let mut pod_id = &[][..];
    let mut pod = PodRef::default();
    let mut annotations = BTreeMap::new();
    let mut namespaces = None;
    let mut pid = 0;
    for field in Fields::of(message) {
        let (tag, value) = field?;
        match tag {
            1 => pod_id = value.bytes(),
            2 => pod.name = text(value, NAME, cuts),
            3 => pod.uid = text(value, NAME, cuts),
            4 => pod.namespace = text(value, NAME, cuts),
            6 => annotation(value, &mut annotations, cuts)?,
            8 => namespaces = Some(value),
            9 => pid = value.number(),
            _ => {}
        }
    }
    let mut user_namespace = None;
    for field in namespaces.unwrap_or(FieldValue::Bytes(&[])).fields() {
        if let (5, namespace) = field? {
            let is_user = self::field(namespace.bytes(), 1)?.bytes() == b"user";
            user_namespace = Some(is_user || user_namespace == Some(true));
        }
    }
    Ok(Sandbox { id: id(pod_id)?, pod, annotations: annotations.into(), user_namespace, pid: positive(pid) })
}

/// Keeps an entry of a pod's annotations if its key is one that usernsd reads.
fn annotation(
    entry: FieldValue<'_>,
    annotations: &mut BTreeMap<String, String>,
    cuts: &mut Cuts,
) -> Result<(), NriError> {
    let key = field(entry.bytes(), 1)?.bytes();
    let Ok(key) = str::from_utf8(key) else { return Ok(()) };
    if key.len() > KEY || !relevant::annotation(key) {
        return Ok(());
    }
    if annotations.len() >= ANNOTATIONS && !annotations.contains_key(key) {
        cuts.0 += 1;
        return Ok(());
    }
    annotations.insert(key.to_owned(), text(field(entry.bytes(), 2)?, VALUE, cuts));
    Ok(())
}

/// A container without its pod's name and annotations. Of a `listed` one, mounts and variables are not read,
/// because they matter only before a container is created.
///
/// # Errors
/// The message has no valid ID.
/// No proper ID.
fn container(message: &[u8], listed: bool, cuts: &mut Cuts) -> Result<(Container, ContainerState), NriError> {
    let mut its_id = &[][..];
    let (mut sandbox_id, mut name, mut cgroups_path) = (String::new(), String::new(), String::new());
    let (mut user_namespace, mut cgroup_namespace) = (false, false);
    let (mut mounts, mut env_names) = (Vec::new(), Vec::new());
    let (mut number, mut pid, mut process_uid) = (0, 0, None);
    for field in Fields::of(message) {
        let (tag, value) = field?;
        match tag {
            1 => its_id = value.bytes(),
            // Longer than an ID can be, so no sandbox has it.
            2 if value.bytes().len() > 128 => cuts.0 += 1,
            2 => sandbox_id = text(value, 128, cuts),
            3 => name = text(value, NAME, cuts),
            4 => number = value.number(),
            8 if !listed => variable(value.bytes(), &mut env_names),
            9 if !listed => mount(value, &mut mounts, cuts)?,
            11 => {
                for field in value.fields() {
                    match field? {
                        (1, namespace) => {
                            let kind = self::field(namespace.bytes(), 1)?.bytes();
                            user_namespace |= kind == b"user";
                            cgroup_namespace |= kind == b"cgroup";
                        }
                        // If it were cut, it would be another path than the container's.
                        (5, path) if path.bytes().len() > PATH => cuts.0 += 1,
                        (5, path) => cgroups_path = text(path, PATH, cuts),
                        _ => {}
                    }
                }
            }
            12 => pid = value.number(),
            21 => process_uid = Some(ContainerId(self::field(value.bytes(), 1)?.number())),
            _ => {}
        }
    }
    let container = Container {
        id: id(its_id)?,
        sandbox_id,
        name,
        pod: PodRef::default(),
        annotations: Arc::default(),
        pid: positive(pid),
        cgroups_path,
        user_namespace,
        cgroup_namespace,
        mounts,
        // NRI does not send ID mappings.
        specified: SpecifiedNamespaces::default(),
        process_uid,
        env_names,
    };
    Ok((container, state(number)))
}

/// Keeps the name of a variable (`NAME=value`) once, if usernsd looks for that name.
fn variable(variable: &[u8], names: &mut Vec<String>) {
    let name = variable.split(|byte| *byte == b'=').next().unwrap_or_default();
    if relevant::variable(name)
        && let Ok(name) = str::from_utf8(name)
        && !names.iter().any(|there| there == name)
    {
        names.push(name.to_owned());
    }
}

/// Keeps a mount that usernsd looks for. Of several mounts at one place the last is kept, because it is on
/// top.
fn mount(message: FieldValue<'_>, mounts: &mut Vec<Mount>, cuts: &mut Cuts) -> Result<(), NriError> {
    let destination = field(message.bytes(), 1)?.bytes();
    let Ok(destination) = str::from_utf8(destination) else { return Ok(()) };
    if destination.len() > PATH || !relevant::mount(destination) {
        return Ok(());
    }
    let mut mount = Mount { destination: destination.to_owned(), ..Mount::default() };
    for field in message.fields() {
        match field? {
            (2, kind) => mount.kind = text(kind, NAME, cuts),
            (3, source) => mount.source = text(source, PATH, cuts),
            (4, option) => {
                // A read-only option must not be lost among many others.
                let is_read_only = matches!(option.bytes(), b"ro" | b"rro")
                    && !mount.options.iter().any(|there| there.as_bytes() == option.bytes());
                if mount.options.len() < OPTIONS.0 || is_read_only {
                    mount.options.push(text(option, OPTIONS.1, cuts));
                } else {
                    cuts.0 += 1;
                }
            }
            _ => {}
        }
    }
    mounts.retain(|there| there.destination.trim_end_matches('/') != mount.destination.trim_end_matches('/'));
    mounts.push(mount);
    Ok(())
}

/// The state of a listed container; a paused one counts as started.
fn state(number: u32) -> ContainerState {
    match i32::try_from(number).ok().and_then(|number| proto::ContainerState::try_from(number).ok()) {
        Some(proto::ContainerState::ContainerCreated) => ContainerState::Created,
        Some(proto::ContainerState::ContainerRunning | proto::ContainerState::ContainerPaused) => {
            ContainerState::Running
        }
        Some(proto::ContainerState::ContainerStopped) => ContainerState::Stopped,
        Some(proto::ContainerState::ContainerUnknown) | None => ContainerState::Unknown,
    }
}

/// A list (`Synchronize`), as far as its parts have arrived. A container may arrive in an earlier part than
/// its pod.
#[derive(Debug, Default)]
pub(super) struct List {
    pods: HashMap<String, Sandbox>,
    containers: Vec<(Container, ContainerState)>,
    unreadable: Vec<NriError>,
    /// Size of the pods' annotations so far, in bytes.
    annotations: usize,
}

/// A whole list: pods, containers, and the reasons why some of them were left out.
pub(super) type Listed = (Vec<Sandbox>, Vec<(Container, ContainerState)>, Vec<NriError>);

// === impl List ===

impl List {
    /// Adds one part; returns whether more follow. A malformed item is left out: if it ended the session, all
    /// the others would be without the plugin.
    ///
    /// # Errors
    /// The part is not a protobuf message; what precedes the damage is kept.
    pub(super) fn add(&mut self, payload: &[u8], cuts: &mut Cuts) -> Result<bool, NriError> {
        let mut more = false;
        for field in Fields::of(payload) {
            match field.map_err(|error| NriError::from(error).within("Synchronize"))? {
                (1 | 2, _) if self.pods.len() + self.containers.len() >= LISTED * 2 => cuts.0 += 1,
                (1, pod) => match sandbox(pod.bytes(), cuts) {
                    Ok(mut pod) => {
                        self.annotations += weight(&pod.annotations);
                        if self.annotations > LISTED_ANNOTATIONS {
                            pod.annotations = Arc::default();
                            cuts.0 += 1;
                        }
                        self.pods.insert(pod.id.to_string(), pod);
                    }
                    Err(error) => self.leave_out(error),
                },
                (2, _) if self.containers.len() >= LISTED => cuts.0 += 1,
                (2, listed) => match container(listed.bytes(), true, cuts) {
                    Ok(listed) => self.containers.push(listed),
                    Err(error) => self.leave_out(error),
                },
                (3, value) => more = value.number() != 0,
                _ => {}
            }
        }
        Ok(more)
    }

    /// Skips one part of a list that the caller does not need; returns whether more follow.
    ///
    /// # Errors
    /// The part is not a protobuf message.
    pub(super) fn skip(payload: &[u8]) -> Result<bool, NriError> {
        let mut more = false;
        for field in Fields::of(payload) {
            if let (3, value) = field.map_err(|error| NriError::from(error).within("Synchronize"))? {
                more = value.number() != 0;
            }
        }
        Ok(more)
    }

    fn leave_out(&mut self, error: NriError) {
        if self.unreadable.len() < REASONS {
            self.unreadable.push(error);
        }
    }

    /// Takes the whole list; the next one starts empty. The containers of a pod share its annotations.
    pub(super) fn finish(&mut self) -> Listed {
        let List { pods, mut containers, unreadable, .. } = std::mem::take(self);
        for (container, _) in &mut containers {
            if let Some(pod) = pods.get(&container.sandbox_id) {
                container.pod = pod.pod.clone();
                container.annotations = Arc::clone(&pod.annotations);
            }
        }
        (pods.into_values().collect(), containers, unreadable)
    }
}

fn weight(annotations: &BTreeMap<String, String>) -> usize {
    annotations.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// A text of at most `limit` bytes. Invalid UTF-8, which Go never sends, is replaced.
fn text(value: FieldValue<'_>, limit: usize, cuts: &mut Cuts) -> String {
    let bytes = value.bytes();
    let mut text = String::from_utf8_lossy(bytes.get(..limit).unwrap_or(bytes)).into_owned();
    if bytes.len() > limit {
        cuts.0 += 1;
        // A character that the limit cut through.
        while text.ends_with(char::REPLACEMENT_CHARACTER) {
            text.pop();
        }
    }
    text
}

/// Protobuf has no absent numbers: 0 means absent.
fn positive(pid: u32) -> Option<u32> {
    (pid != 0).then_some(pid)
}

/// Encodes the answer to `CreateContainer`.
///
/// A replaced mount becomes two entries, of which the removal (`-` before the destination) comes first: NRI's
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn namespaces(kinds: &[&str]) -> Vec<proto::LinuxNamespace> {
        kinds
            .iter()
            .map(|kind| proto::LinuxNamespace { r#type: (*kind).into(), path: String::new() })
            .collect()
    }

    fn read(message: &proto::Container) -> Container {
        container(&message.encode_to_vec(), false, &mut Cuts::default()).unwrap().0
    }

    #[test]
    fn a_pod_without_listed_namespaces_has_an_unknown_user_namespace() {
        let says = |linux| {
            let pod = proto::PodSandbox { id: "p".into(), linux, ..Default::default() };
            sandbox(&pod.encode_to_vec(), &mut Cuts::default()).unwrap().user_namespace
        };
        assert_eq!(says(None), None);
        assert_eq!(says(Some(proto::LinuxPodSandbox { namespaces: vec![] })), None);
        assert_eq!(says(Some(proto::LinuxPodSandbox { namespaces: namespaces(&["pid"]) })), Some(false));
        for kinds in [["pid", "user"], ["user", "pid"]] {
            assert_eq!(says(Some(proto::LinuxPodSandbox { namespaces: namespaces(&kinds) })), Some(true));
        }
    }

    #[test]
    fn only_relevant_variable_names_are_kept() {
        let env = |variables: &[&str]| variables.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let names = |variables: &[&str]| {
            read(&proto::Container { id: "c".into(), env: env(variables), ..Default::default() }).env_names
        };
        assert_eq!(names(&["A=secret", "container=docker", "C", "container=oci"]), ["container"]);
        assert_eq!(names(&["container"]), ["container"]);
        assert!(names(&["containers=x", "CONTAINER=x", "", "=container"]).is_empty());
    }

    #[test]
    fn user_zero_differs_from_a_missing_user() {
        let uid = |user| read(&proto::Container { id: "c".into(), user, ..Default::default() }).process_uid;
        assert_eq!(uid(None), None);
        assert_eq!(uid(Some(proto::User { uid: 0 })), Some(ContainerId(0)));
        assert_eq!(uid(Some(proto::User { uid: 7 })), Some(ContainerId(7)));
    }

    #[test]
    fn an_id_that_would_leave_its_directory_is_malformed() {
        let message = proto::Container { id: "../../etc".into(), ..Default::default() };
        let error = container(&message.encode_to_vec(), false, &mut Cuts::default()).unwrap_err().to_string();
        assert!(error.contains("\"../../etc\" is not a container's ID"), "{error}");
    }

    #[test]
    fn the_mount_on_top_is_kept_and_its_options_are_bounded() {
        let mount = |destination: &str, options: Vec<String>| proto::Mount {
            destination: destination.into(),
            r#type: "cgroup".into(),
            options,
            ..Default::default()
        };
        let many = (0..1000).map(|index| format!("option{index}"));
        let mounts = vec![
            mount("/sys/fs/cgroup", vec!["rw".into()]),
            mount("/etc/hosts", vec![]),
            mount("/run", vec![]),
            mount("/sys/fs/cgroup/", many.chain(["ro".into(), "ro".into()]).collect()),
        ];
        let mut cuts = Cuts::default();
        let message = proto::Container { id: "c".into(), mounts, ..Default::default() };
        let read = container(&message.encode_to_vec(), false, &mut cuts).unwrap().0;
        let places: Vec<_> = read.mounts.iter().map(|mount| &*mount.destination).collect();
        assert_eq!(places, ["/run", "/sys/fs/cgroup/"]);
        assert_eq!(read.cgroup_mount(), usernsd_domain::container::CgroupMount::ReadOnly);
        assert_eq!((read.mounts[1].options.len(), cuts.0), (33, 1000 - 32 + 1));
        let listed = container(&message.encode_to_vec(), true, &mut Cuts::default()).unwrap().0;
        assert!(listed.mounts.is_empty());
    }

    #[test]
    fn texts_are_cut_and_a_too_long_path_is_dropped() {
        let linux = |length| proto::LinuxContainer { cgroups_path: "x".repeat(length), namespaces: vec![] };
        let message = |length| proto::Container {
            id: "c".into(),
            name: "ä".repeat(1000),
            linux: Some(linux(length)),
            ..Default::default()
        };
        let mut cuts = Cuts::default();
        let whole = container(&message(PATH).encode_to_vec(), false, &mut cuts).unwrap().0;
        assert_eq!((whole.name.as_str(), whole.cgroups_path.len(), cuts.0), (&*"ä".repeat(126), PATH, 1));
        let cut = container(&message(PATH + 1).encode_to_vec(), false, &mut cuts).unwrap().0;
        assert_eq!((cut.cgroups_path.as_str(), cuts.0), ("", 3));
    }

    #[test]
    fn only_relevant_annotations_are_kept_up_to_the_limit() {
        let entries = [("userns-mode.crio.io", "auto"), ("usernsd.io/cgroup", "writable")];
        let mut annotations: BTreeMap<String, String> =
            entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        annotations.insert("example.com/large".into(), "x".repeat(250 << 10));
        let pod = |annotations| proto::PodSandbox { id: "p".into(), annotations, ..Default::default() };
        let mut cuts = Cuts::default();
        let read = sandbox(&pod(annotations.clone()).encode_to_vec(), &mut cuts).unwrap();
        let kept: Vec<_> = read.annotations.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!((kept, cuts.0), (entries.to_vec(), 0));
        for index in 0..100 {
            annotations.insert(format!("cgroup.usernsd.io/container.c{index:03}"), "x".repeat(9000));
        }
        let read = sandbox(&pod(annotations).encode_to_vec(), &mut cuts).unwrap();
        assert!(read.annotations.len() == ANNOTATIONS && cuts.0 > 70);
        assert!(read.annotations.values().all(|value| value.len() <= VALUE));
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
    fn every_state_is_converted() {
        assert_eq!(
            [0, 1, 2, 3, 4, 99, u32::MAX].map(state),
            [
                ContainerState::Unknown,
                ContainerState::Created,
                ContainerState::Running,
                ContainerState::Running,
                ContainerState::Stopped,
                ContainerState::Unknown,
                ContainerState::Unknown,
            ]
        );
    }

    proptest! {
        /// If generated code can decode the message, the result is the same.
        #[test]
        fn containers_are_decoded_as_by_generated_code(
            name in "[a-z]{0,20}", sandbox in "[a-z0-9]{0,64}", path in "[a-z/]{0,80}",
            state in 0..6i32, pid in any::<u32>(), uid in prop::option::of(any::<u32>()),
            kinds in prop::collection::vec("user|cgroup|pid|", 0..4),
            env in prop::collection::vec("container|container=.*|[A-Z]=.{0,9}", 0..6),
        ) {
            let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
            let message = proto::Container {
                id: "c".into(), pod_sandbox_id: sandbox, name, state, pid, env,
                linux: Some(proto::LinuxContainer { namespaces: namespaces(&kinds), cgroups_path: path }),
                user: uid.map(|uid| proto::User { uid }),
                mounts: vec![],
            };
            let read = read(&message);
            prop_assert_eq!((&read.name, &read.sandbox_id), (&message.name, &message.pod_sandbox_id));
            prop_assert_eq!(&read.cgroups_path, &message.linux.as_ref().unwrap().cgroups_path);
            prop_assert_eq!((read.user_namespace, read.cgroup_namespace), (kinds.contains(&"user"), kinds.contains(&"cgroup")));
            prop_assert_eq!((read.pid, read.process_uid), (positive(pid), uid.map(ContainerId)));
            let is_set = message.env.iter().any(|it| it == "container" || it.starts_with("container="));
            prop_assert_eq!(!read.env_names.is_empty(), is_set);
        }

        #[test]
        fn any_bytes_are_read_as_a_list_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut list = List::default();
            let _ = list.add(&bytes, &mut Cuts::default());
            list.finish();
            let _ = pod_and_container("CreateContainer", &bytes, 1, &mut Cuts::default());
            let _ = id_in(&bytes, 1);
        }
    }
}
