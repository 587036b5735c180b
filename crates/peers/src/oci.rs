//! OCI runtime-spec documents: a container's specification (`config.json`, or the copy that a runtime returns
//! over CRI), and the state that a hook gets on its standard input.
//!
//! Only the fields that the rules need are read; unknown fields are skipped, and absent is the same as
//! `null`.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use usernsd_domain::container::{Container, CriId, CriIdError, Mount, SpecifiedNamespaces};
use usernsd_domain::idmap::{ContainerId, IdMap, IdMapError};
use usernsd_domain::relevant;

use self::identity::is_identity_key;
pub use self::identity::{ContainerIdentity, identity_of};
pub use self::security::{Security, parse_security};

mod identity;
mod security;

/// The longest document that is read, in bytes: 16 MiB, the limit of a CRI answer. A real specification has
/// some 10 kB.
pub const DOCUMENT_LIMIT: usize = 16 << 20;
/// The most mounts of a specification whose sources are read.
const MAX_BINDS: usize = 512;

/// The fields of a container's specification that are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spec {
    /// `linux.cgroupsPath`, not interpreted; empty if absent.
    pub cgroups_path: String,
    /// `linux.namespaces` lists a user namespace, to be created or joined.
    pub user_namespace: bool,
    /// `linux.namespaces` lists a cgroup namespace to be created. One to be joined does not count, because it
    /// belongs to another container (runtime-spec, "Cgroup ownership").
    pub cgroup_namespace: bool,
    /// The `mounts` that usernsd looks for ([`relevant::mount`]), in order.
    pub mounts: Vec<Mount>,
    /// `process.user.uid`.
    pub process_uid: Option<ContainerId>,
    /// The names in `process.env` that usernsd looks for ([`relevant::variable`]).
    pub env_names: Vec<String>,
    /// The `annotations` that identify the container, and those that request something of usernsd
    /// ([`relevant::annotation`]). Neither runtime copies all of the pod's annotations here.
    pub annotations: BTreeMap<String, String>,
    /// `linux.uidMappings`; empty if absent (also with CRI-O 1.35.0 and a user namespace to be joined).
    pub uid_mappings: IdMap,
    /// `linux.gidMappings`; empty if absent.
    pub gid_mappings: IdMap,
    /// `linux.namespaces` lists a PID namespace to be created. In a joined one, the init process is not
    /// process 1.
    pub pid_namespace: bool,
    /// `process.args[0]`.
    pub args0: Option<String>,
    /// `root.path`: absolute, or relative to the bundle; empty if absent.
    pub rootfs: PathBuf,
}

/// The container state that a hook receives (runtime-spec, "State").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookState {
    /// The container's CRI ID.
    pub id: CriId,
    /// `creating` (runc), `created` (crun), `running` or `stopped`.
    pub status: String,
    /// PID of the init process in the hook's PID namespace; `None` if there is no process.
    pub pid: Option<u32>,
    /// The bundle's directory, which contains `config.json`.
    pub bundle: PathBuf,
    /// The specification's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Why a document cannot be used.
#[derive(Debug, Error)]
pub enum OciError {
    /// Longer than [`DOCUMENT_LIMIT`].
    #[error("{0} bytes: longer than {DOCUMENT_LIMIT}")]
    TooLong(usize),
    /// The document is not JSON, or a field's type is not that of the specification.
    #[error("not an OCI document")]
    Json(#[from] serde_json::Error),
    /// `linux.uidMappings` or `linux.gidMappings` is not a valid ID map.
    #[error("linux.{0}")]
    Mappings(&'static str, #[source] IdMapError),
    /// The bundle's `config.json` exists but cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    /// The state's `id` is not a valid container ID.
    #[error("state")]
    Id(#[from] CriIdError),
}

// The documents' JSON form. Go writes an empty list or map as `null` or leaves it out.

#[derive(Deserialize)]
struct RawSpec {
    linux: Option<RawLinux>,
    #[serde(default, deserialize_with = "relevant_mounts")]
    mounts: Vec<Mount>,
    process: Option<RawProcess>,
    annotations: Option<Annotations>,
    root: Option<RawRoot>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLinux {
    cgroups_path: Option<String>,
    namespaces: Option<Vec<RawNamespace>>,
    uid_mappings: Option<Vec<RawMapping>>,
    gid_mappings: Option<Vec<RawMapping>>,
}

#[derive(Deserialize)]
struct RawNamespace {
    #[serde(rename = "type")]
    kind: Option<String>,
    path: Option<String>,
}

#[derive(Deserialize)]
struct RawMapping {
    #[serde(rename = "containerID")]
    container_id: u32,
    #[serde(rename = "hostID")]
    host_id: u32,
    size: u32,
}

#[derive(Deserialize)]
struct RawMount {
    destination: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    source: Option<String>,
    options: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawBinds {
    mounts: Option<Vec<RawMount>>,
}

#[derive(Default, Deserialize)]
struct RawProcess {
    user: Option<RawUser>,
    #[serde(default, deserialize_with = "relevant_names")]
    env: Vec<String>,
    #[serde(default, deserialize_with = "first_text")]
    args: Option<String>,
}

#[derive(Deserialize)]
struct RawUser {
    uid: Option<u32>,
}

#[derive(Deserialize)]
struct RawRoot {
    path: Option<String>,
}

#[derive(Deserialize)]
struct RawState {
    id: String,
    status: Option<String>,
    pid: Option<u32>,
    bundle: Option<String>,
    annotations: Option<BTreeMap<String, Option<String>>>,
}

// A container's author determines the number and length of variables, mounts and annotations. Each is
// examined in place in the document, and dropped before the next one unless it is kept.

/// Deserializes a list or `null`: applies `keep` to each item, and keeps at most `limit` results.
struct Items<Raw, T> {
    limit: usize,
    keep: fn(Raw) -> Option<T>,
}

impl<'de, Raw: Deserialize<'de>, T> Visitor<'de> for Items<Raw, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_none<E>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut kept = Vec::new();
        for _ in 0..self.limit {
            let Some(raw) = items.next_element()? else { return Ok(kept) };
            kept.extend((self.keep)(raw));
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept)
    }
}

fn relevant_mounts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Mount>, D::Error> {
    let keep = |raw: RawMount| {
        let destination = raw.destination.filter(|destination| relevant::mount(destination))?;
        Some(Mount {
            destination,
            kind: raw.kind.unwrap_or_default(),
            source: raw.source.unwrap_or_default(),
            options: raw.options.unwrap_or_default(),
        })
    };
    deserializer.deserialize_option(Items { limit: usize::MAX, keep })
}

fn relevant_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    deserializer.deserialize_option(Items { limit: usize::MAX, keep: |variable: Variable| variable.0 })
}

fn first_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let first = deserializer.deserialize_option(Items { limit: 1, keep: Some })?;
    Ok(first.into_iter().next())
}

/// An environment variable: its name, if usernsd looks for it.
struct Variable(Option<String>);

impl<'de> Deserialize<'de> for Variable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Variable, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Variable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Variable, E> {
                let name = text.split_once('=').map_or(text, |(name, _)| name);
                Ok(Variable(relevant::variable(name.as_bytes()).then(|| name.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// The annotations that usernsd reads.
#[derive(Default)]
struct Annotations(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Annotations, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Annotations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Annotations, A::Error> {
                let mut kept = BTreeMap::new();
                while let Some(key) = entries.next_key::<String>()? {
                    if relevant::annotation(&key) || is_identity_key(&key) {
                        kept.insert(key, entries.next_value::<Option<String>>()?.unwrap_or_default());
                    } else {
                        entries.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Annotations(kept))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Reads the `config.json` of a bundle; `None` if there is none.
///
/// # Errors
/// See [`OciError`].
pub fn read_bundle(bundle: &Path) -> Result<Option<Spec>, OciError> {
    read_document(bundle)?.map(|text| parse_spec(&text)).transpose()
}

/// The text of a bundle's `config.json`; `None` if there is none.
///
/// # Errors
/// The file exists but cannot be read.
pub fn read_document(bundle: &Path) -> Result<Option<String>, OciError> {
    let path = bundle.join("config.json");
    let mut text = String::new();
    let read = std::fs::File::open(&path)
        // Reads one byte more than allowed, so that a longer file is refused instead of cut.
        .and_then(|file| file.take(DOCUMENT_LIMIT as u64 + 1).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OciError::Read { path, error }),
    }
}

/// The bundles in a directory that has one subdirectory for each container: the subdirectories, or `below` in
/// each of them. Empty if the directory cannot be read.
#[must_use]
pub fn bundles_in(directory: &Path, below: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join(below)).collect()
}

/// The size of a bundle's `config.json`, in bytes; `None` if there is none. Over NRI, a runtime sends less
/// than this for the same container.
#[must_use]
pub fn bundle_size(bundle: &Path) -> Option<u64> {
    std::fs::metadata(bundle.join("config.json")).ok().map(|file| file.len())
}

/// The size in bytes of what a runtime sends over NRI for a container with this specification: environment,
/// arguments, annotations, mounts and hooks, whose lengths the container's author determines, plus a fixed
/// allowance for everything else.
///
/// # Errors
/// See [`OciError`].
pub fn described_size(json: &str) -> Result<u64, OciError> {
    let sized: MeasuredSpec = document(json)?;
    Ok(sized.texts() + ROOM)
}

/// The allowance for the rest of a container's NRI message, in bytes: namespaces, devices, resources, and in
/// newer versions the seccomp profile, which is most of it.
const ROOM: u64 = 8192;

/// The parts of a specification that NRI sends as text.
#[derive(Deserialize)]
struct MeasuredSpec<'a> {
    #[serde(borrow)]
    process: Option<MeasuredProcess<'a>>,
    #[serde(borrow)]
    annotations: Option<Value<'a>>,
    #[serde(borrow)]
    mounts: Option<Value<'a>>,
    #[serde(borrow)]
    hooks: Option<Value<'a>>,
}

#[derive(Deserialize)]
struct MeasuredProcess<'a> {
    #[serde(borrow)]
    env: Option<Value<'a>>,
    #[serde(borrow)]
    args: Option<Value<'a>>,
}

/// An unparsed part of a document. It is longer as JSON than as protobuf, except for two bytes per long text.
type Value<'a> = &'a serde_json::value::RawValue;

impl MeasuredSpec<'_> {
    fn texts(&self) -> u64 {
        let process = self.process.as_ref();
        let parts = [
            process.and_then(|it| it.env),
            process.and_then(|it| it.args),
            self.annotations,
            self.mounts,
            self.hooks,
        ];
        parts.into_iter().flatten().map(|part| u64::try_from(part.get().len()).unwrap_or(u64::MAX)).sum()
    }
}

/// Parses a specification.
///
/// # Errors
/// See [`OciError`].
pub fn parse_spec(json: &str) -> Result<Spec, OciError> {
    let raw: RawSpec = document(json)?;
    let linux = raw.linux.unwrap_or_default();
    let process = raw.process.unwrap_or_default();
    let namespaces = linux.namespaces.unwrap_or_default();
    let is_new = |namespace: &RawNamespace| namespace.path.as_deref().unwrap_or_default().is_empty();
    let has_new = |kind: &str| {
        namespaces.iter().any(|namespace| namespace.kind.as_deref() == Some(kind) && is_new(namespace))
    };
    Ok(Spec {
        cgroups_path: linux.cgroups_path.unwrap_or_default(),
        user_namespace: namespaces.iter().any(|namespace| namespace.kind.as_deref() == Some("user")),
        cgroup_namespace: has_new("cgroup"),
        pid_namespace: has_new("pid"),
        mounts: raw.mounts,
        process_uid: process.user.and_then(|user| user.uid).map(ContainerId),
        env_names: process.env,
        annotations: raw.annotations.unwrap_or_default().0,
        uid_mappings: id_map("uidMappings", linux.uid_mappings)?,
        gid_mappings: id_map("gidMappings", linux.gid_mappings)?,
        args0: process.args,
        rootfs: raw.root.and_then(|root| root.path).unwrap_or_default().into(),
    })
}

/// The host paths of a specification's bind mounts, by their paths in the container; at most [`MAX_BINDS`]
/// mounts are examined.
///
/// # Errors
/// See [`OciError`].
pub fn bind_sources(json: &str) -> Result<BTreeMap<String, String>, OciError> {
    let raw: RawBinds = document(json)?;
    let is_bind = |mount: &RawMount| mount.kind.as_deref().is_none_or(|kind| matches!(kind, "bind" | "none"));
    let binds = raw.mounts.unwrap_or_default().into_iter().take(MAX_BINDS).filter(is_bind);
    Ok(binds.filter_map(|mount| Some((mount.destination?, mount.source?))).collect())
}

fn id_map(field: &'static str, mappings: Option<Vec<RawMapping>>) -> Result<IdMap, OciError> {
    let mut ids = String::new();
    for mapping in mappings.unwrap_or_default() {
        // Rendered in the kernel's text form, so that one parser holds all rules. Writing to a String cannot
        // fail.
        let _ = writeln!(ids, "{} {} {}", mapping.container_id, mapping.host_id, mapping.size);
    }
    IdMap::parse(&ids).map_err(|error| OciError::Mappings(field, error))
}

/// The PID of the init process that the OCI runtime wrote into the bundle (`--pid-file`): `init.pid` of
/// containerd's shim, `pidfile` of CRI-O's conmon. `None` until it is written.
#[must_use]
pub fn recorded_pid(bundle: &Path) -> Option<u32> {
    ["init.pid", "pidfile"].iter().find_map(|name| {
        let mut text = String::new();
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(bundle.join(name))
            .ok()?;
        file.take(32).read_to_string(&mut text).ok()?;
        text.trim().parse().ok().filter(|pid| *pid != 0)
    })
}

/// Parses the state that the runtime writes to a hook's standard input.
///
/// # Errors
/// See [`OciError`].
pub fn parse_state(json: &str) -> Result<HookState, OciError> {
    let raw: RawState = document(json)?;
    Ok(HookState {
        id: CriId::parse(&raw.id)?,
        status: raw.status.unwrap_or_default(),
        pid: raw.pid.filter(|pid| *pid != 0),
        bundle: raw.bundle.unwrap_or_default().into(),
        annotations: texts(raw.annotations),
    })
}

fn document<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, OciError> {
    if json.len() > DOCUMENT_LIMIT {
        return Err(OciError::TooLong(json.len()));
    }
    Ok(serde_json::from_str(json)?)
}

fn texts(map: Option<BTreeMap<String, Option<String>>>) -> BTreeMap<String, String> {
    map.unwrap_or_default().into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect()
}

// === impl Spec ===

impl Spec {
    /// The container that this specification describes. Its `annotations` are only those in the
    /// specification; a caller that has the sandbox's annotations must add them.
    #[must_use]
    pub fn into_container(mut self, id: CriId, pid: Option<u32>) -> Container {
        let place = identity_of(&self.annotations, &self.cgroups_path);
        self.annotations.retain(|key, _| relevant::annotation(key));
        Container {
            id,
            sandbox_id: place.sandbox_id,
            name: place.name,
            pod: place.pod,
            annotations: self.annotations.into(),
            pid,
            cgroups_path: self.cgroups_path,
            user_namespace: self.user_namespace,
            cgroup_namespace: self.cgroup_namespace,
            mounts: self.mounts,
            specified: SpecifiedNamespaces {
                uid_map: self.uid_mappings,
                gid_map: self.gid_mappings,
                pid_namespace: self.pid_namespace,
            },
            process_uid: self.process_uid,
            env_names: self.env_names,
        }
    }
}

#[cfg(test)]
mod tests;
